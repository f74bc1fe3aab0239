//! A switch with VLANs: access ports whose frames get a tag towards a trunk, and lose it on the way back. The kernel's own
//! VLAN driver is not needed at either end of the trunk.
//!
//! The kernel takes the tag out of a received frame before a packet socket sees it, and tells it beside the frame
//! (PACKET_AUXDATA of packet(7)).

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};
use sekisho_tests::lab::namespace::Namespace;

const PACKET_AUXDATA: libc::c_int = 8;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
/// Bit of `tp_status`: there was a tag.
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
/// Longest frame that is passed on.
const FRAME_MAX: usize = 2048;
/// How soon the thread sees that it shall end, in milliseconds.
const PATIENCE: libc::c_int = 50;

/// `struct tpacket_auxdata` of linux/if_packet.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct Auxdata {
    status: u32,
    length: u32,
    captured: u32,
    mac: u16,
    net: u16,
    vlan_tci: u16,
    vlan_tpid: u16,
}

/// The switch at work; ends when dropped.
pub(crate) struct Switch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Switch {
    /// Between a trunk and access ports with their VLAN ids, devices of this namespace.
    pub(crate) fn start(namespace: &Namespace, trunk: &str, access: &[(&str, u16)]) -> Result<Self> {
        let (trunk, ports) = namespace.run(|| {
            let ports: Result<Vec<_>> =
                access.iter().map(|(device, vlan)| Ok((open(device)?, *vlan))).collect();
            Ok((open(trunk)?, ports?))
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || relay(&trunk, &ports, &stop)
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Err(error)) = self.thread.take().and_then(|thread| thread.join().ok()) {
            eprintln!("the switch: {error:#}");
        }
    }
}

/// A packet socket that hears what a device receives.
fn open(device: &str) -> Result<OwnedFd> {
    let name = std::ffi::CString::new(device).context("a device's name")?;
    // SAFETY: plain calls with values, a terminated string and structures that live until they return; the descriptor is
    // checked before it is owned.
    unsafe {
        let ifindex = libc::if_nametoindex(name.as_ptr());
        ensure!(ifindex != 0, "there is no device {device}");
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let fd = libc::socket(libc::AF_PACKET, kind, 0);
        ensure!(fd >= 0, "a packet socket: {}", io::Error::last_os_error());
        let socket = OwnedFd::from_raw_fd(fd);
        for option in [PACKET_AUXDATA, PACKET_IGNORE_OUTGOING] {
            let on: libc::c_int = 1;
            let length = size_of::<libc::c_int>() as libc::socklen_t;
            let set = libc::setsockopt(fd, libc::SOL_PACKET, option, (&raw const on).cast(), length);
            ensure!(set == 0, "option {option} of a packet socket: {}", io::Error::last_os_error());
        }
        let mut address: libc::sockaddr_ll = zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = ifindex as libc::c_int;
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        let bound = libc::bind(fd, (&raw const address).cast(), length);
        ensure!(bound == 0, "binding to {device}: {}", io::Error::last_os_error());
        Ok(socket)
    }
}

fn relay(trunk: &OwnedFd, ports: &[(OwnedFd, u16)], stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let wait =
            |socket: &OwnedFd| libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let mut waits: Vec<_> = ports.iter().map(|(port, _)| port).chain([trunk]).map(wait).collect();
        // SAFETY: a vector of so many entries, which lives until the call returns.
        unsafe { libc::poll(waits.as_mut_ptr(), waits.len() as libc::nfds_t, PATIENCE) };
        for (port, vlan) in ports {
            while let Some((mut frame, tag)) = receive(port)? {
                // What comes tagged to an access port is no affair of a switch.
                if tag.is_none() && frame.len() >= 14 {
                    frame.splice(12..12, [0x81, 0].into_iter().chain(vlan.to_be_bytes()));
                    send(trunk, &frame);
                }
            }
        }
        while let Some((frame, tag)) = receive(trunk)? {
            for (port, vlan) in ports {
                if tag == Some(*vlan) {
                    send(port, &frame);
                }
            }
        }
    }
    Ok(())
}

/// The next frame, with its VLAN id if it came tagged.
fn receive(socket: &OwnedFd) -> Result<Option<(Vec<u8>, Option<u16>)>> {
    let mut frame = vec![0_u8; FRAME_MAX];
    let mut control = [0_u64; 16];
    let mut part = libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() };
    // SAFETY: the message points to buffers of the sizes given, which live until the call returns; the kernel's control
    // messages are walked by its own macros, and auxiliary data is copied where it is long enough.
    unsafe {
        let mut message: libc::msghdr = zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of::<[u64; 16]>() as _;
        let length = libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0);
        let Ok(length) = usize::try_from(length) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                // The device was down for a moment.
                _ if error.raw_os_error() == Some(libc::ENETDOWN) => Ok(None),
                _ => Err(error).context("receiving a frame"),
            };
        };
        ensure!(message.msg_flags & libc::MSG_TRUNC == 0, "a frame of more than {FRAME_MAX} bytes");
        frame.truncate(length);
        let mut tag = None;
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while let Some(known) = header.as_ref() {
            let is_long_enough = known.cmsg_len >= libc::CMSG_LEN(size_of::<Auxdata>() as u32) as usize;
            if known.cmsg_level == libc::SOL_PACKET && known.cmsg_type == PACKET_AUXDATA && is_long_enough {
                let data: Auxdata = libc::CMSG_DATA(header).cast::<Auxdata>().read_unaligned();
                if data.status & TP_STATUS_VLAN_VALID != 0 {
                    tag = Some(data.vlan_tci & 0xfff);
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
        Ok(Some((frame, tag)))
    }
}

/// A frame that finds no room is lost, as on any switch.
fn send(socket: &OwnedFd, frame: &[u8]) {
    // SAFETY: a buffer of this length.
    unsafe { libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
}
