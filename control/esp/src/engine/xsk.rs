//! One AF_XDP socket: opening, binding, receiving, transmitting, waking the kernel.
//!
//! Each device registers the same packet memory as a UMEM of its own, so that each works in its own best mode: sockets
//! that share one UMEM object (`XDP_SHARED_UMEM`) all have the mode of the first, and a veth would force a NIC into
//! copy mode. Queues of one device do share. Frames pass between all of them without a copy.

use std::io;
use std::mem;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::config::{EngineError, Link, XskMode};
use super::ring::{Consumer, Producer};
use super::umem::{Frame, Umem};

/// Frames a `sendto` hands to a copy-mode device; `XDP_MAX_TX_SKB_BUDGET`, since Linux 6.18 (32 before).
const TRANSMIT_BUDGET: u32 = 256;
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
/// Bytes under way in copy mode before the kernel answers EAGAIN.
const SEND_BUFFER_BYTES: libc::c_int = 8 << 20;
/// The kernel frees a queue some time after its last socket is closed.
const BIND_TRIES: u32 = 40;
const BIND_WAIT: Duration = Duration::from_millis(50);

/// A received frame and where its bytes lie in it.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) frame: Frame,
    pub(crate) place: Range<usize>,
}

/// A bound socket with its rings.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: Arc<OwnedFd>,
    receive: Consumer<libc::xdp_desc>,
    transmit: Producer<libc::xdp_desc>,
    fill: Producer<u64>,
    completion: Consumer<u64>,
    zero_copy: bool,
}

impl Socket {
    /// Opens and binds a socket on a queue. `sibling`: an open socket on another queue of the same device.
    pub(crate) fn open(
        umem: &Umem,
        link: &Link,
        queue: u32,
        ring_size: u32,
        mode: XskMode,
        sibling: Option<&Socket>,
    ) -> Result<Self, EngineError> {
        let io_error = |context: &str| {
            let context = format!("{context} on queue {queue} of {}", link.name);
            move |source| EngineError::Io { context, source }
        };
        let fd = socket().map_err(|source| match source.raw_os_error() {
            Some(libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT) => EngineError::NoAfXdp(source),
            Some(libc::EPERM) => {
                EngineError::Permission { context: "opening an AF_XDP socket".into(), source }
            }
            _ => io_error("AF_XDP socket")(source),
        })?;
        if sibling.is_none() {
            register(fd.as_fd(), umem).map_err(|source| match source.raw_os_error() {
                Some(libc::ENOBUFS | libc::ENOMEM) => EngineError::MemoryLock { bytes: umem.bytes(), source },
                Some(libc::EPERM) => {
                    EngineError::Permission { context: "registering packet memory".into(), source }
                }
                _ => io_error("XDP_UMEM_REG")(source),
            })?;
        }
        for option in
            [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_RX_RING, libc::XDP_TX_RING]
        {
            set_option(fd.as_fd(), libc::SOL_XDP, option, &ring_size).map_err(io_error("a ring"))?;
        }
        let offsets = mmap_offsets(fd.as_fd()).map_err(io_error("XDP_MMAP_OFFSETS"))?;
        let map = io_error("mapping a ring");
        let rings = (|| {
            let fd = fd.as_fd();
            Ok((
                Consumer::new(fd, libc::XDP_PGOFF_RX_RING as u64, offsets.rx, ring_size)?,
                Producer::new(fd, libc::XDP_PGOFF_TX_RING as u64, offsets.tx, ring_size)?,
                Producer::new(fd, libc::XDP_UMEM_PGOFF_FILL_RING, offsets.fr, ring_size)?,
                Consumer::new(fd, libc::XDP_UMEM_PGOFF_COMPLETION_RING, offsets.cr, ring_size)?,
            ))
        })();
        let (receive, transmit, fill, completion) = rings.map_err(map)?;
        widen_transmission(fd.as_fd());
        bind(fd.as_fd(), link, queue, mode, sibling)?;
        let zero_copy = zero_copy(fd.as_fd()).map_err(io_error("XDP_OPTIONS"))?;
        Ok(Self { fd: Arc::new(fd), receive, transmit, fill, completion, zero_copy })
    }

    pub(crate) fn fd(&self) -> &Arc<OwnedFd> {
        &self.fd
    }

    pub(crate) fn zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Gives the kernel frames to receive into, up to `target` in the ring.
    pub(crate) fn refill(&mut self, umem: &mut Umem, target: u32) {
        let missing = target.saturating_sub(self.fill.pending());
        if missing == 0 {
            return;
        }
        for _ in 0..missing {
            let Some(frame) = umem.take() else { break };
            // The ring has room: it holds fewer than `target` entries, which is at most its size.
            if !self.fill.push(umem.offset(&frame)) {
                umem.give(frame);
                break;
            }
            umem.lend(frame, self.fd.as_raw_fd());
        }
        self.fill.publish();
    }

    /// Takes up to `limit` received frames.
    pub(crate) fn receive(&mut self, umem: &mut Umem, batch: &mut Vec<Received>, limit: usize) {
        let mut any = false;
        for _ in 0..limit {
            let Some(descriptor) = self.receive.pop() else { break };
            any = true;
            // SAFETY: the address has just come out of the receive ring.
            if let Some((frame, start)) = unsafe { umem.reclaim(descriptor.addr) } {
                let place = start..start.saturating_add(descriptor.len as usize);
                batch.push(Received { frame, place });
            }
        }
        if any {
            self.receive.release();
        }
    }

    /// Queues a frame; it leaves at the next [`Socket::flush`]. A full ring gives it back.
    pub(crate) fn queue(&mut self, umem: &mut Umem, frame: Frame, place: &Range<usize>) -> Result<(), Frame> {
        let descriptor = libc::xdp_desc {
            addr: umem.offset(&frame) + place.start as u64,
            // A place lies within a frame.
            len: place.len() as u32,
            options: 0,
        };
        if !self.transmit.push(descriptor) {
            return Err(frame);
        }
        umem.lend(frame, self.fd.as_raw_fd());
        Ok(())
    }

    /// Frames that were queued and that the kernel has not taken yet.
    pub(crate) fn backlog(&mut self) -> u32 {
        self.transmit.pending()
    }

    /// Takes back the frames that were sent.
    pub(crate) fn reap(&mut self, umem: &mut Umem) {
        let mut any = false;
        while let Some(address) = self.completion.pop() {
            any = true;
            // SAFETY: the address has just come out of the completion ring.
            if let Some((frame, _)) = unsafe { umem.reclaim(address) } {
                umem.give(frame);
            }
        }
        if any {
            self.completion.release();
        }
    }

    /// Shows the kernel what was queued and has it sent. Copy mode sends a bounded number at each call, so this
    /// calls again as long as the kernel gets on. Returns whether something is still waiting.
    pub(crate) fn flush(&mut self, umem: &mut Umem) -> io::Result<bool> {
        self.transmit.publish();
        let mut pending = self.transmit.pending();
        while pending != 0 && (!self.zero_copy || self.transmit.needs_wakeup()) {
            let kicked = kick(self.fd.as_fd());
            self.reap(umem);
            let left = self.transmit.pending();
            match kicked.map_err(|error| error.raw_os_error()) {
                Ok(()) | Err(Some(libc::EAGAIN)) if left < pending && !self.zero_copy => pending = left,
                Ok(()) | Err(Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR)) => {
                    return Ok(left != 0);
                }
                Err(code) => {
                    return Err(
                        code.map_or_else(|| io::ErrorKind::Other.into(), io::Error::from_raw_os_error)
                    );
                }
            }
        }
        Ok(pending != 0)
    }

    /// Wakes a driver that waits for frames to receive into.
    pub(crate) fn wake_receive(&self) {
        if self.fill.needs_wakeup() {
            // SAFETY: no buffer is passed.
            unsafe {
                libc::recvfrom(
                    self.fd.as_raw_fd(),
                    ptr::null_mut(),
                    0,
                    libc::MSG_DONTWAIT,
                    ptr::null_mut(),
                    ptr::null_mut(),
                )
            };
        }
    }
}

fn socket() -> io::Result<OwnedFd> {
    // SAFETY: plain system call.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor the kernel has just given to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn register(fd: BorrowedFd<'_>, umem: &Umem) -> io::Result<()> {
    let registration = libc::xdp_umem_reg {
        addr: umem.address(),
        len: umem.bytes(),
        chunk_size: umem.frame_size(),
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    set_option(fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &registration)
}

/// More frames per system call and more bytes under way. Both only make it faster, so a refusal is no error.
fn widen_transmission(fd: BorrowedFd<'_>) {
    if set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &SEND_BUFFER_BYTES).is_err() {
        let _ = set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, &SEND_BUFFER_BYTES);
    }
    let _ = set_option(fd, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &TRANSMIT_BUDGET);
}

fn bind(
    fd: BorrowedFd<'_>,
    link: &Link,
    queue: u32,
    mode: XskMode,
    sibling: Option<&Socket>,
) -> Result<(), EngineError> {
    let (flags, shared) = match (sibling, mode) {
        // The kernel refuses any other flag here; mode and need_wakeup are the sibling's.
        (Some(sibling), _) => (libc::XDP_SHARED_UMEM, sibling.fd.as_raw_fd() as u32),
        (None, XskMode::Auto) => (libc::XDP_USE_NEED_WAKEUP, 0),
        (None, XskMode::Copy) => (libc::XDP_USE_NEED_WAKEUP | libc::XDP_COPY, 0),
    };
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: link.ifindex,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: shared,
    };
    let mut tries = 0;
    let source = loop {
        // SAFETY: the address is a whole `sockaddr_xdp` that outlives the call.
        let result = unsafe {
            libc::bind(
                fd.as_raw_fd(),
                ptr::from_ref(&address).cast(),
                size_of::<libc::sockaddr_xdp>() as libc::socklen_t,
            )
        };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        tries += 1;
        if error.raw_os_error() != Some(libc::EBUSY) || tries == BIND_TRIES {
            break error;
        }
        thread::sleep(BIND_WAIT);
    };
    let device = link.name.clone();
    Err(match source.raw_os_error() {
        Some(libc::EBUSY) => EngineError::Busy { device, queue, source },
        Some(libc::ENODEV | libc::ENXIO | libc::EINVAL) => EngineError::NoDevice { device, queue, source },
        Some(libc::EPERM) => EngineError::Permission { context: format!("binding to {device}"), source },
        _ => EngineError::Io { context: format!("binding to queue {queue} of {device}"), source },
    })
}

fn kick(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no buffer and no address are passed.
    let sent = unsafe { libc::sendto(fd.as_raw_fd(), ptr::null(), 0, libc::MSG_DONTWAIT, ptr::null(), 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn mmap_offsets(fd: BorrowedFd<'_>) -> io::Result<libc::xdp_mmap_offsets> {
    option(fd, libc::XDP_MMAP_OFFSETS)
}

fn zero_copy(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let options: libc::xdp_options = option(fd, libc::XDP_OPTIONS)?;
    Ok(options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

/// The kernel's own counters of a socket.
pub(crate) fn kernel_statistics(fd: BorrowedFd<'_>) -> io::Result<libc::xdp_statistics> {
    option(fd, libc::XDP_STATISTICS)
}

/// Values the kernel may write into: integers only, so any bytes are a value.
trait Plain {}
impl Plain for libc::xdp_mmap_offsets {}
impl Plain for libc::xdp_options {}
impl Plain for libc::xdp_statistics {}

fn option<T: Plain>(fd: BorrowedFd<'_>, name: libc::c_int) -> io::Result<T> {
    // SAFETY: `Plain` types are made of integers, for which zero is a value.
    let mut value: T = unsafe { mem::zeroed() };
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is `length` bytes long, writable, and outlives the call.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_XDP, name, ptr::from_mut(&mut value).cast(), &mut length)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // An older kernel knows a shorter structure, with ring offsets we cannot do without.
    if length as usize != size_of::<T>() {
        return Err(io::Error::from(io::ErrorKind::Unsupported));
    }
    Ok(value)
}

fn set_option<T>(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: `value` is as long as told and outlives the call, which only reads it.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
