//! The worker: one thread that owns the packet memory, the rings and every SA.
//!
//! A round takes what the control plane asked for, then a batch from each socket, turns each frame, and has each
//! device send what was queued. A round without work ends in `poll(2)`. Nothing in a round locks or allocates, except
//! a command. A worker for each queue is this same thread more than once, with a memory and a table of its own: what
//! they must then share is the sequence number of an outbound SA and the window of an inbound one.

use std::io;
use std::mem;
use std::net::IpAddr;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::time::{Duration, Instant};

use super::config::{EngineError, L2Path, Link, Reassembled, XskMode};
use super::counters::{DropCells, DropReason, SocketCells};
use super::pipeline::Pipeline;
use super::table::Pair;
use super::umem::{Frame, Umem};
use super::xsk::{Received, Socket};
use crate::sa::{Outer, SaError};
use crate::transform::{OuterHeader, OuterPacket};

/// Frames taken from a socket before the next one has its turn.
const BATCH: usize = 64;
/// Bytes before ESP that did not come in a frame: room for the Ethernet header.
const HEADROOM: usize = 64;
/// Longest sleep without traffic.
const IDLE: Duration = Duration::from_secs(1);
/// Sleep while a device has not taken all it was given.
const CONGESTED: Duration = Duration::from_millis(1);

/// What the control plane asks for. Answered once it is in force.
#[derive(Debug)]
pub(crate) enum Command {
    Install {
        pair: Box<Pair>,
        activate: bool,
    },
    Activate {
        spi_in: u32,
    },
    Repath {
        spi_in: u32,
        outer: Outer,
        header: OuterHeader,
    },
    Remove {
        spi_in: u32,
        linger: Duration,
    },
    SetPath {
        remote: IpAddr,
        path: L2Path,
    },
    ClearPath {
        remote: IpAddr,
    },
    SetMtu {
        ifindex: u32,
        mtu: u32,
    },
    /// A device has come back under another index.
    Replace {
        former: u32,
        link: Link,
        opened: SyncSender<Result<Vec<Opened>, EngineError>>,
    },
    Stop,
}

/// A command and where its answer goes.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) command: Command,
    pub(crate) answer: SyncSender<Result<(), SaError>>,
}

/// A socket that took the place of another.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) fd: Arc<OwnedFd>,
    pub(crate) zero_copy: bool,
}

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Plaintext, to and from the kernel and the XDP filter.
    Inner,
    /// Plaintext, straight from a device's filter.
    Direct,
    /// ESP.
    Outer,
}

impl Side {
    /// How its sockets are bound. A device in zero-copy mode has all its frames in our memory, and copies those that go
    /// elsewhere: most of a LAN's do.
    pub(crate) fn mode(self, configured: XskMode) -> XskMode {
        match self {
            Side::Direct => XskMode::Copy,
            Side::Inner | Side::Outer => configured,
        }
    }
}

/// A socket with what the worker keeps beside it.
#[derive(Debug)]
pub(crate) struct Station {
    pub(crate) socket: Socket,
    /// Its device.
    pub(crate) ifindex: u32,
    pub(crate) side: Side,
    /// Index of the queue among its device's.
    pub(crate) queue: usize,
    pub(crate) cells: Arc<SocketCells>,
    /// A failure to send was logged and has not gone away.
    pub(crate) failing: bool,
    /// The device reported an error to `poll`: it is not waited for any more.
    pub(crate) gone: bool,
}

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Worker {
    /// Dropped before the memory the kernel was given through them.
    pub(crate) stations: Vec<Station>,
    pub(crate) umem: Umem,
    pub(crate) pipeline: Pipeline,
    /// Stations of the inner device.
    pub(crate) inner: Range<usize>,
    /// Stations of each outer device, in the order of the configuration.
    pub(crate) outer: Vec<Range<usize>>,
    /// Frames kept in each fill ring.
    pub(crate) fill_target: u32,
    pub(crate) ring_size: u32,
    pub(crate) mode: XskMode,
    pub(crate) requests: Receiver<Request>,
    pub(crate) reassembled: Receiver<Reassembled>,
    pub(crate) wake: Arc<OwnedFd>,
    pub(crate) drops: Arc<DropCells>,
}

impl Worker {
    /// Works until told to stop, or until the engine is gone.
    pub(crate) fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut polled = Vec::with_capacity(self.stations.len() + 1);
        for station in &mut self.stations {
            station.socket.refill(&mut self.umem, self.fill_target);
        }
        loop {
            self.pipeline.now = Instant::now();
            if !self.obey() {
                return;
            }
            self.pipeline.table.expire(self.pipeline.now);
            let mut received = self.take_reassembled();
            for index in 0..self.stations.len() {
                received += self.serve(index, &mut batch);
            }
            let congested = self.flush();
            if received == 0 {
                self.sleep(&mut polled, congested);
            }
        }
    }

    /// Carries out what was asked; `false` to stop.
    fn obey(&mut self) -> bool {
        loop {
            let request = match self.requests.try_recv() {
                Ok(request) => request,
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            };
            let table = &mut self.pipeline.table;
            let result = match request.command {
                Command::Replace { former, link, opened } => {
                    let _ = opened.try_send(self.replace(former, &link));
                    Ok(())
                }
                Command::Install { pair, activate } => table.install(pair, activate),
                Command::Activate { spi_in } => table.activate(spi_in),
                Command::Repath { spi_in, outer, header } => table.repath(spi_in, outer, header),
                Command::Remove { spi_in, linger } => table.remove(spi_in, linger, self.pipeline.now),
                Command::SetPath { remote, path } => table.set_path(remote, path),
                Command::SetMtu { ifindex, mtu } => {
                    table.set_mtu(ifindex, mtu);
                    Ok(())
                }
                Command::ClearPath { remote } => {
                    table.clear_path(remote);
                    Ok(())
                }
                Command::Stop => return false,
            };
            // The caller may have gone away; what it asked for holds all the same.
            let _ = request.answer.try_send(result);
        }
    }

    /// Opens sockets on a device in place of those on a former one that is gone.
    fn replace(&mut self, former: u32, link: &Link) -> Result<Vec<Opened>, EngineError> {
        let refuse = |what: String| EngineError::Config(what);
        let on_it = |station: &&mut Station| station.ifindex == former;
        let mut places: Vec<&mut Station> = self.stations.iter_mut().filter(on_it).collect();
        let Some(side) = places.first().map(|station| station.side) else {
            return Err(refuse(format!("interface {former} is none of its devices")));
        };
        if places.len() != link.queues as usize {
            let (before, now) = (places.len(), link.queues);
            return Err(refuse(format!("{} had {before} receive queues and has {now} now", link.name)));
        }
        // Before the new sockets are bound: binding waits for a device that is just being taken down (both hold the
        // kernel's lock of devices), and when that is over, its sockets are off it.
        if device_exists(former) {
            return Err(refuse(format!(
                "the former interface of {} is still there under another name",
                link.name
            )));
        }
        let mut sockets: Vec<Socket> = Vec::new();
        for queue in 0..link.queues {
            let mode = side.mode(self.mode);
            let socket = Socket::open(&self.umem, link, queue, self.ring_size, mode, sockets.first())?;
            sockets.push(socket);
        }
        let mut opened = Vec::new();
        for (station, socket) in places.iter_mut().zip(sockets) {
            station.ifindex = link.ifindex;
            opened.push(Opened { fd: socket.fd().clone(), zero_copy: socket.zero_copy() });
            let before = mem::replace(&mut station.socket, socket);
            (station.failing, station.gone) = (false, false);
            let closed = before.fd().as_raw_fd();
            drop(before);
            // SAFETY: its device is gone, as looked up above; the kernel took the socket off the device then, and waited
            // for those who still used it. Nobody else maps its rings. Its number is not in use again: the engine's
            // handle holds the descriptor until this has been answered.
            unsafe { self.umem.recover(closed) };
        }
        if let Some(device) = self.pipeline.table.device(former) {
            self.pipeline.table.replace_device(device, link.ifindex, link.mtu);
        }
        Ok(opened)
    }

    /// A batch of what came in fragments; returns how many packets there were.
    fn take_reassembled(&mut self) -> usize {
        let mut taken = 0;
        while taken < BATCH
            && let Ok(packet) = self.reassembled.try_recv()
        {
            taken += 1;
            let Some(mut frame) = self.umem.take() else {
                self.drops.count(DropReason::RingFull);
                continue;
            };
            match reassembled(&mut self.pipeline, self.umem.buffer(&mut frame), &packet) {
                Ok(place) => {
                    let inner = self.inner.clone();
                    send(&mut self.stations, &mut self.umem, &self.drops, frame, &place, inner, 0);
                }
                Err(reason) => {
                    self.drops.count(reason);
                    self.umem.give(frame);
                }
            }
        }
        taken
    }

    /// One batch of one socket; returns how many frames there were.
    fn serve(&mut self, index: usize, batch: &mut Vec<Received>) -> usize {
        let Some(station) = self.stations.get_mut(index) else { return 0 };
        station.socket.reap(&mut self.umem);
        station.socket.receive(&mut self.umem, batch, BATCH);
        station.socket.refill(&mut self.umem, self.fill_target);
        station.socket.wake_receive();
        let (side, queue) = (station.side, station.queue);
        let received = batch.len();
        if received != 0 {
            station.cells.rx_packets.add(received as u64);
            station.cells.rx_bytes.add(batch.iter().map(|r| r.place.len() as u64).sum());
        }
        for Received { mut frame, place } in batch.drain(..) {
            let buffer = self.umem.buffer(&mut frame);
            let turned = match side {
                Side::Inner | Side::Direct => self.pipeline.encrypt(buffer, place).map(|departure| {
                    let stations = self.outer.get(departure.device).cloned().unwrap_or_default();
                    (departure.frame, stations)
                }),
                Side::Outer => self.pipeline.decrypt(buffer, place).map(|place| (place, self.inner.clone())),
            };
            match turned {
                Ok((place, stations)) => {
                    send(&mut self.stations, &mut self.umem, &self.drops, frame, &place, stations, queue);
                }
                Err(reason) => {
                    self.drops.count(reason);
                    self.umem.give(frame);
                }
            }
        }
        received
    }

    /// Has every device send; returns whether one of them could not send all.
    fn flush(&mut self) -> bool {
        let mut congested = false;
        for station in &mut self.stations {
            match station.socket.flush(&mut self.umem) {
                Ok(pending) => {
                    congested |= pending && !station.gone;
                    station.failing = false;
                }
                Err(error) => {
                    // Said once: the device is down or gone, and each batch would say it again.
                    if !mem::replace(&mut station.failing, true) {
                        tracing::warn!(%error, queue = station.queue, "a device of the engine does not send");
                    }
                }
            }
        }
        congested
    }

    /// Waits for frames, a command, or the next thing to expire.
    fn sleep(&mut self, polled: &mut Vec<libc::pollfd>, congested: bool) {
        polled.clear();
        polled.push(libc::pollfd { fd: self.wake.as_raw_fd(), events: libc::POLLIN, revents: 0 });
        for station in &self.stations {
            // poll(2) ignores negative descriptors.
            let fd = if station.gone { -1 } else { station.socket.fd().as_raw_fd() };
            polled.push(libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
        }
        let expiry = self.pipeline.table.next_expiry();
        let timeout = if congested { CONGESTED } else { IDLE };
        let timeout = expiry.map_or(timeout, |at| {
            // A millisecond more, for poll(2) counts whole ones.
            (at.saturating_duration_since(self.pipeline.now) + Duration::from_millis(1)).min(timeout)
        });
        // SAFETY: the array is as long as told and outlives the call.
        let ready = unsafe {
            libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout.as_millis() as libc::c_int)
        };
        if ready <= 0 {
            return;
        }
        if let Some((first, rest)) = polled.split_first() {
            if first.revents & libc::POLLIN != 0 {
                self.acknowledge_wake();
            }
            for (station, polled) in self.stations.iter_mut().zip(rest) {
                if polled.revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0 && !station.gone {
                    station.gone = true;
                    tracing::error!(queue = station.queue, "a device of the engine is gone");
                }
            }
        }
    }

    fn acknowledge_wake(&self) {
        let mut count = [0u8; 8];
        // SAFETY: the buffer is eight bytes long and outlives the call; the eventfd does not block.
        let read = unsafe { libc::read(self.wake.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
        if read < 0 && io::Error::last_os_error().kind() != io::ErrorKind::WouldBlock {
            tracing::warn!("the engine's eventfd cannot be read");
        }
    }
}

/// Decrypts in a frame's buffer what came in fragments.
fn reassembled(
    pipeline: &mut Pipeline,
    buffer: &mut [u8],
    packet: &Reassembled,
) -> Result<Range<usize>, DropReason> {
    let place = HEADROOM..HEADROOM.saturating_add(packet.esp.len());
    buffer.get_mut(place.clone()).ok_or(DropReason::TooLarge)?.copy_from_slice(&packet.esp);
    let outer = OuterPacket {
        source: packet.source,
        destination: packet.destination,
        udp: packet.source.port() != 0,
        ecn: packet.ecn,
        esp: 0..packet.esp.len(),
    };
    pipeline.decrypt_esp(buffer, place, &outer)
}

/// Whether an interface has this index in our network namespace.
fn device_exists(ifindex: u32) -> bool {
    let mut name = [0; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the length that the call demands, and outlives it.
    let found = unsafe { libc::if_indextoname(ifindex, name.as_mut_ptr()) };
    // Any other error says nothing: then it may well be there.
    !found.is_null() || io::Error::last_os_error().raw_os_error() != Some(libc::ENXIO)
}

/// Queues a frame on the device's socket that belongs to the queue it came from.
fn send(
    stations: &mut [Station],
    umem: &mut Umem,
    drops: &DropCells,
    frame: Frame,
    place: &Range<usize>,
    device: Range<usize>,
    queue: usize,
) {
    let index = device.start + if device.is_empty() { 0 } else { queue % device.len() };
    let Some(station) = stations.get_mut(index).filter(|_| !device.is_empty()) else {
        drops.count(DropReason::NoPath);
        umem.give(frame);
        return;
    };
    let cells = &station.cells;
    let result = match station.socket.queue(umem, frame, place) {
        Err(frame) => {
            // The ring is full: what it holds is sent now, and completed frames come back.
            station.socket.flush(umem).ok();
            station.socket.queue(umem, frame, place)
        }
        queued => queued,
    };
    match result {
        Ok(()) => {
            cells.tx_packets.add(1);
            cells.tx_bytes.add(place.len() as u64);
        }
        Err(frame) => {
            cells.tx_ring_full.add(1);
            drops.count(DropReason::RingFull);
            umem.give(frame);
        }
    }
}
