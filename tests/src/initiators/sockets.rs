//! UDP 500 and 4500, and ESP, of many addresses at once: one socket each for all of them, as each datagram says by which
//! address it goes and came (`IP_PKTINFO`).

use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, RawFd};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use etherparse::Ipv4HeaderSlice;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc::{in_addr, in_pktinfo};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recv, recvmsg, sendmsg, setsockopt, sockopt,
};
use sekisho_ike::Transmit;
use sekisho_ike::event::Path;
use sekisho_ike::nat::KEEPALIVE;
use socket2::{Domain, Protocol, Socket, Type};

/// UDP port of IKE.
pub(super) const IKE: u16 = 500;
/// UDP port of IKE and ESP behind NAT.
const NAT_T: u16 = 4500;
/// Four zero bytes where ESP has its SPI (RFC 3948 section 2.2).
const NON_ESP_MARKER: [u8; 4] = [0; 4];
/// IANA "Assigned Internet Protocol Numbers".
const ESP: i32 = 50;
/// Longest IP packet.
const DATAGRAM_MAX: usize = 65_535;
/// Bytes the kernel holds for a socket: all clinics share it, and nobody shall be lost here.
const BUFFER: usize = 32 << 20;
/// Datagrams that are taken in before what they have caused is sent.
const BATCH: usize = 64;

/// All three.
pub(super) struct Sockets {
    ports: [(u16, UdpSocket); 2],
    esp: Socket,
    buffer: Vec<u8>,
}

/// What has come.
pub(super) enum Arrived<'a> {
    /// An IKE message, without marker.
    Ike(Path, &'a [u8]),
    /// An ESP packet from one outer address to the other, from its SPI on.
    Esp([Ipv4Addr; 2], &'a mut [u8]),
}

impl Sockets {
    /// In the current thread's namespace.
    pub(super) fn open() -> Result<Self> {
        let esp =
            Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(ESP))).context("a socket of ESP")?;
        esp.set_nonblocking(true).context("a socket of ESP")?;
        setsockopt(&esp, sockopt::RcvBufForce, &BUFFER).context("a socket of ESP")?;
        let ports = [(IKE, open(IKE)?), (NAT_T, open(NAT_T)?)];
        Ok(Self { ports, esp, buffer: vec![0; DATAGRAM_MAX] })
    }

    /// Sends an IKE message.
    pub(super) fn send(&self, transmit: &Transmit) -> Result<()> {
        let Path { local, remote } = transmit.path;
        let (SocketAddr::V4(from), SocketAddr::V4(to)) = (local, remote) else {
            bail!("a path that is not IPv4");
        };
        let (_, socket) =
            self.ports.iter().find(|(port, _)| *port == from.port()).context("a port of nobody")?;
        let is_marked = to.port() == NAT_T && transmit.bytes != KEEPALIVE;
        let marker = if is_marked { &NON_ESP_MARKER[..] } else { &[] };
        send(socket.as_raw_fd(), *from.ip(), to, [marker, &transmit.bytes])
    }

    /// Sends an ESP packet from the first address to the second.
    pub(super) fn send_esp(&self, [from, to]: [Ipv4Addr; 2], esp: &[u8]) -> Result<()> {
        send(self.esp.as_raw_fd(), from, SocketAddrV4::new(to, 0), [esp, &[]])
    }

    /// Waits until that moment for something to come, here or at `also`, and hands in what has come here.
    pub(super) fn receive(
        &mut self,
        until: Instant,
        also: Option<BorrowedFd<'_>>,
        mut take: impl FnMut(Arrived<'_>) -> Result<()>,
    ) -> Result<()> {
        let wait = until.saturating_duration_since(Instant::now());
        let own = [self.ports[0].1.as_fd(), self.ports[1].1.as_fd(), self.esp.as_fd()];
        let mut polled: Vec<PollFd<'_>> =
            own.into_iter().chain(also).map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
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
                // Anything else on port 4500 is ESP, which nobody sends there.
                if let Some(message) = message {
                    take(Arrived::Ike(path, message))?;
                }
            }
        }
        for _ in 0..BATCH {
            let length = match recv(self.esp.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => length,
                Err(Errno::EAGAIN | Errno::EINTR) => break,
                Err(error) => return Err(error).context("receiving ESP"),
            };
            // A raw socket shows the IP header, too.
            let packet = self.buffer.get_mut(..length).unwrap_or_default();
            let header = Ipv4HeaderSlice::from_slice(packet).context("an IPv4 header of the kernel's")?;
            let (ends, bytes) = ([header.source_addr(), header.destination_addr()], header.slice().len());
            take(Arrived::Esp(ends, packet.get_mut(bytes..).unwrap_or_default()))?;
        }
        Ok(())
    }
}

/// Sends both parts as one; what the kernel has no room for is lost, as it would be on the way.
fn send(socket: RawFd, from: Ipv4Addr, to: SocketAddrV4, parts: [&[u8]; 2]) -> Result<()> {
    let info = in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: in_addr { s_addr: u32::from_ne_bytes(from.octets()) },
        ipi_addr: in_addr { s_addr: 0 },
    };
    let sent = sendmsg(
        socket,
        &parts.map(IoSlice::new),
        &[ControlMessage::Ipv4PacketInfo(&info)],
        MsgFlags::MSG_DONTWAIT,
        Some(&SockaddrIn::from(to)),
    );
    match sent {
        Ok(_) | Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ECONNREFUSED) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("sending from {from} to {to}")),
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
