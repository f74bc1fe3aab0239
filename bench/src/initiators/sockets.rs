//! UDP 500 and 4500 of many addresses at once: one socket each for all of them, as each datagram says by which address it goes
//! and came (`IP_PKTINFO`).

use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc::{in_addr, in_pktinfo};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt, sockopt,
};
use sekisho_ike::Transmit;
use sekisho_ike::event::Path;
use sekisho_ike::nat::KEEPALIVE;

/// UDP port of IKE.
pub(super) const IKE: u16 = 500;
/// UDP port of IKE and ESP behind NAT.
const NAT_T: u16 = 4500;
/// Four zero bytes where ESP has its SPI (RFC 3948 section 2.2).
const NON_ESP_MARKER: [u8; 4] = [0; 4];
/// Longest UDP payload.
const DATAGRAM_MAX: usize = 65_535;
/// Bytes the kernel holds for a socket: all clinics share it, and nobody shall be lost here.
const BUFFER: usize = 32 << 20;
/// Datagrams that are taken in before what they have caused is sent.
const BATCH: usize = 64;

/// Both.
pub(super) struct Sockets {
    ports: [(u16, UdpSocket); 2],
    buffer: Vec<u8>,
}

impl Sockets {
    /// In the current thread's namespace.
    pub(super) fn open() -> Result<Self> {
        Ok(Self { ports: [(IKE, open(IKE)?), (NAT_T, open(NAT_T)?)], buffer: vec![0; DATAGRAM_MAX] })
    }

    /// Sends; what the kernel has no room for is lost, as it would be on the way.
    pub(super) fn send(&self, transmit: &Transmit) -> Result<()> {
        let Path { local, remote } = transmit.path;
        let (SocketAddr::V4(from), SocketAddr::V4(to)) = (local, remote) else {
            bail!("a path that is not IPv4");
        };
        let (_, socket) =
            self.ports.iter().find(|(port, _)| *port == from.port()).context("a port of nobody")?;
        let is_marked = to.port() == NAT_T && transmit.bytes != KEEPALIVE;
        let marker = if is_marked { &NON_ESP_MARKER[..] } else { &[] };
        let info = in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: in_addr { s_addr: u32::from_ne_bytes(from.ip().octets()) },
            ipi_addr: in_addr { s_addr: 0 },
        };
        let sent = sendmsg(
            socket.as_raw_fd(),
            &[IoSlice::new(marker), IoSlice::new(&transmit.bytes)],
            &[ControlMessage::Ipv4PacketInfo(&info)],
            MsgFlags::MSG_DONTWAIT,
            Some(&SockaddrIn::from(to)),
        );
        match sent {
            Ok(_) | Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ECONNREFUSED) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("sending from {from} to {to}")),
        }
    }

    /// Waits until that moment for something to come, and hands in what has, without markers.
    pub(super) fn receive(&mut self, until: Instant, mut take: impl FnMut(Path, &[u8])) -> Result<()> {
        let wait = until.saturating_duration_since(Instant::now());
        let mut polled =
            [0, 1].map(|index: usize| PollFd::new(self.ports[index].1.as_fd(), PollFlags::POLLIN));
        // Whole milliseconds: less than one is not waited for, and the caller looks again.
        let timeout = PollTimeout::try_from(wait.as_millis().min(1000)).context("a time to wait")?;
        match poll(&mut polled, timeout) {
            Ok(0) | Err(Errno::EINTR) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(error).context("waiting for datagrams"),
        }
        for (port, socket) in &self.ports {
            for _ in 0..BATCH {
                let Some((path, length)) = take_one(*port, socket, &mut self.buffer)? else { break };
                let bytes = self.buffer.get(..length).unwrap_or_default();
                let message = match *port {
                    NAT_T => bytes.strip_prefix(&NON_ESP_MARKER),
                    _ => Some(bytes),
                };
                // Anything else on port 4500 is ESP, which nobody sends here.
                if let Some(message) = message {
                    take(path, message);
                }
            }
        }
        Ok(())
    }
}

fn open(port: u16) -> Result<UdpSocket> {
    let what = || format!("UDP port {port} of the clinics");
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).with_context(what)?;
    socket.set_nonblocking(true).with_context(what)?;
    setsockopt(&socket, sockopt::Ipv4PacketInfo, &true).with_context(what)?;
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).with_context(what)?;
    Ok(socket)
}

/// The next datagram: from and to whom, and how long it is; `None` when there is none.
fn take_one(port: u16, socket: &UdpSocket, buffer: &mut [u8]) -> Result<Option<(Path, usize)>> {
    let mut control = cmsg_space!(in_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let received =
        recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT);
    let received = match received {
        Ok(received) => received,
        Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED) => return Ok(None),
        Err(error) => return Err(error).context("receiving"),
    };
    let from = received.address.context("a datagram from nobody")?;
    let to = received.cmsgs().context("a control message")?.find_map(|message| match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes())),
        _ => None,
    });
    let to = to.context("a datagram to nobody")?;
    let path = Path {
        local: SocketAddr::from((to, port)),
        remote: SocketAddrV4::new(from.ip(), from.port()).into(),
    };
    Ok(Some((path, received.bytes)))
}
