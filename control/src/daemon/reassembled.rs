//! ESP that came in fragments: the kernel puts it together within its own bounds, and here it goes on to the engine, which
//! sees frames only.
//!
//! Bare ESP comes by a raw socket, ESP in UDP by the sockets of IKE. The filter lets fragments of known SAs alone up to the
//! kernel; what comes whole never passes here. By the raw socket the kernel also learns of narrower paths: it believes a
//! router's word on a packet only where a socket of that protocol is there to have sent it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use sekisho_esp::engine::Reassembled;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::sockets::ERROR_PAUSE;

/// Packets that wait for the loop: fragments are rare, and more than that would only grow old.
pub(super) const WAITING_MAX: usize = 256;
/// Longest IP packet.
const PACKET_MAX: usize = 65_535;
/// ECN is in the lowest bits of the second byte of an IPv4 header.
const ECN: u8 = 3;

/// A socket that hears ESP to this address.
pub(super) fn raw_socket(address: IpAddr) -> io::Result<UdpSocket> {
    let (domain, protocol) = (Domain::for_address(SocketAddr::new(address, 0)), libc::IPPROTO_ESP);
    let socket = Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(Protocol::from(protocol)))?;
    socket.bind(&SocketAddr::new(address, 0).into())?;
    if address.is_ipv6() {
        // Unless somebody wants to hear of errors, the kernel believes none about what a raw socket sends.
        setsockopt(&socket, sockopt::Ipv6RecvErr, &true).map_err(io::Error::from)?;
    }
    // The type's name says UDP, its calls are those of any socket for datagrams.
    UdpSocket::from_std(std::net::UdpSocket::from(OwnedFd::from(socket)))
}

/// Reads a raw socket for as long as anybody wants what it hears.
pub(super) async fn receive(socket: UdpSocket, local: IpAddr, to: mpsc::Sender<Reassembled>) {
    let mut buffer = vec![0; PACKET_MAX];
    while !to.is_closed() {
        let Ok((length, remote)) = socket.recv_from(&mut buffer).await else {
            // What a router has said, the kernel has heeded; left in their queue the words would take the packets' room.
            let unread = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
            while recv(socket.as_raw_fd(), &mut [0; 1], unread).is_ok() {}
            tokio::time::sleep(ERROR_PAUSE).await;
            continue;
        };
        let read = buffer.get(..length).and_then(|bytes| bare(local, remote.ip(), bytes));
        // Full, or closed: lost as on any line.
        drop(read.map(|packet| to.try_send(packet)));
    }
}

/// What a raw socket has heard: over IPv4 with its header, over IPv6 without.
fn bare(local: IpAddr, remote: IpAddr, bytes: &[u8]) -> Option<Reassembled> {
    let (ecn, esp) = match local {
        IpAddr::V4(_) => {
            let &[version_ihl, tos, ..] = bytes else { return None };
            (tos & ECN, bytes.get(usize::from(version_ihl & 0x0f) * 4..)?)
        }
        // It is not told of. None is what does least: the inner packet's own stays (RFC 6040 section 4.2).
        IpAddr::V6(_) => (0, bytes),
    };
    let end = |address| SocketAddr::new(address, 0);
    Some(Reassembled { source: end(remote), destination: end(local), ecn, esp: esp.to_vec() })
}

/// What came to UDP 4500 and is no IKE.
pub(super) fn in_udp(local: SocketAddr, remote: SocketAddr, bytes: &[u8]) -> Reassembled {
    Reassembled { source: remote, destination: local, ecn: 0, esp: bytes.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_header_is_taken_off() {
        let [local, remote]: [IpAddr; 2] =
            ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().expect("address"));
        let mut bytes = vec![0x46, 0x03];
        bytes.extend([0; 22]);
        bytes.extend([1, 2, 3, 4]);
        let packet = bare(local, remote, &bytes).expect("a packet");
        assert_eq!((packet.ecn, &packet.esp[..]), (3, &[1, 2, 3, 4][..]));
        assert_eq!((packet.source.ip(), packet.destination.ip()), (remote, local));
        for length in 0..bytes.len() {
            let cut = bare(local, remote, &bytes[..length]);
            assert!(cut.is_none_or(|packet| packet.esp.len() < 4), "{length}");
        }
    }

    #[test]
    fn over_ipv6_there_is_no_header() {
        let [local, remote]: [IpAddr; 2] =
            ["2001:db8::1", "2001:db8::2"].map(|text| text.parse().expect("address"));
        let packet = bare(local, remote, &[1, 2, 3, 4]).expect("a packet");
        assert_eq!((packet.ecn, &packet.esp[..]), (0, &[1, 2, 3, 4][..]));
    }
}
