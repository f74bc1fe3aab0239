//! A router's word that a packet of ours is too big for its link ("fragmentation needed", "packet too big"): the way to that
//! peer is looked up at once, and not by the clock.
//!
//! Nothing of what it says is believed here. The filter lets up only what quotes an SA's SPI and address, and the kernel holds
//! it against its own bounds before it notes an MTU with its route; that is what [`super::paths`] reads. The kernel tells
//! nobody of such a note: hence raw sockets that hear the words themselves.

use std::collections::BTreeSet;
use std::future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::sockets::ERROR_PAUSE;

/// Between a word and the look at the route: the kernel hands it to sockets before it heeds it itself, in one go.
const HEEDED: Duration = Duration::from_millis(1);
/// Between two looks, whoever says how much.
const PAUSE: Duration = Duration::from_millis(20);
/// Peers whose way is looked up in one look, some 20 µs each. Those of others are found by their next packet, or by the clock.
const PEERS_MAX: usize = 64;
/// Words read for one look: more than the filter lets up in that time.
const WORDS_MAX: usize = 256;
/// Bytes the kernel holds for a socket: some 80 words. What does not fit is said again about the next packet.
const RECEIVE_BUFFER: usize = 64 << 10;
/// The longest IPv4 header, that of ICMP, and of what is quoted an IP header: nothing behind it is asked.
const WORD: usize = 60 + ICMP_HEADER + IPV6_HEADER;
/// Of an error, ICMP and ICMPv6: type, code, checksum, and a word that holds the MTU.
const ICMP_HEADER: usize = 8;
const IPV6_HEADER: usize = 40;
/// ICMP "destination unreachable" with its code "fragmentation needed and DF set" (RFC 792).
const UNREACHABLE: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
/// ICMPv6 "packet too big" (RFC 4443 section 3.2).
const PACKET_TOO_BIG: u8 = 2;
/// Socket options of raw sockets (linux/icmp.h, linux/icmpv6.h): a bit set is a type that is not heard.
const ICMP_FILTER: libc::c_int = 1;
const ICMP6_FILTER: libc::c_int = 1;

/// The sockets' task, which ends when this is dropped.
pub(super) struct TooBig {
    said: mpsc::Receiver<BTreeSet<IpAddr>>,
    task: JoinHandle<()>,
}

impl TooBig {
    /// Listens in this network namespace. `has_ipv6`: the kernel has it.
    pub(super) fn listen(has_ipv6: bool) -> io::Result<TooBig> {
        let v4 = socket_v4()?;
        let v6 = if has_ipv6 { Some(socket_v6()?) } else { None };
        // One look is carried out, and one waits.
        let (to, said) = mpsc::channel(1);
        Ok(TooBig { said, task: tokio::spawn(Ears { v4, v6 }.listen(to)) })
    }

    /// Destinations of packets that were too big. Cancel safe.
    pub(super) async fn said(&mut self) -> BTreeSet<IpAddr> {
        match self.said.recv().await {
            Some(said) => said,
            None => future::pending().await,
        }
    }
}

impl Drop for TooBig {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn socket_v4() -> io::Result<UdpSocket> {
    let socket = raw_socket(Domain::IPV4, Protocol::ICMPV4)?;
    let filter = !(1_u32 << UNREACHABLE);
    set_option(&socket, libc::SOL_RAW, ICMP_FILTER, &filter)?;
    as_tokio(socket)
}

fn socket_v6() -> io::Result<UdpSocket> {
    let socket = raw_socket(Domain::IPV6, Protocol::ICMPV6)?;
    let mut filter = [u32::MAX; 8];
    filter[0] = !(1 << PACKET_TOO_BIG);
    set_option(&socket, libc::SOL_ICMPV6, ICMP6_FILTER, &filter)?;
    as_tokio(socket)
}

/// One that hears all of its protocol until it has a filter; whoever reads it passes over that.
fn raw_socket(domain: Domain, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(protocol))?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    Ok(socket)
}

fn set_option<T>(socket: &Socket, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let size = size_of::<T>() as libc::socklen_t;
    // SAFETY: the socket is open, and the value as long as is said.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn as_tokio(socket: Socket) -> io::Result<UdpSocket> {
    // The type's name says UDP, its calls are those of any socket for datagrams.
    UdpSocket::from_std(std::net::UdpSocket::from(OwnedFd::from(socket)))
}

/// The sockets of both families.
struct Ears {
    v4: UdpSocket,
    /// None on a kernel without IPv6.
    v6: Option<UdpSocket>,
}

impl Ears {
    async fn listen(self, to: mpsc::Sender<BTreeSet<IpAddr>>) {
        let mut pace = Pace::default();
        loop {
            let first = self.next().await;
            tokio::time::sleep_until(pace.look(Instant::now()).into()).await;
            let mut said = BTreeSet::from([first]);
            self.drain(&mut said);
            if to.send(said).await.is_err() {
                return;
            }
        }
    }

    /// Waits for a word. Cancel safe.
    async fn next(&self) -> IpAddr {
        loop {
            let mut buffers = [[0; WORD]; 2];
            let [v4, v6] = &mut buffers;
            let heard = tokio::select! {
                received = self.v4.recv(v4) => received.map(|length| of_v4(v4.get(..length)?)),
                received = receive(self.v6.as_ref(), v6) => received.map(|length| of_v6(v6.get(..length)?)),
            };
            match heard {
                Ok(Some(destination)) => return destination,
                Ok(None) => {}
                // One that does not go away must not keep the processor.
                Err(_) => tokio::time::sleep(ERROR_PAUSE).await,
            }
        }
    }

    /// Takes what else was said meanwhile.
    fn drain(&self, said: &mut BTreeSet<IpAddr>) {
        let mut word = [0; WORD];
        let families = [(Some(&self.v4), of_v4 as Reader), (self.v6.as_ref(), of_v6)];
        for (socket, read) in families {
            for _ in 0..WORDS_MAX {
                let Some(Ok(length)) = socket.map(|socket| socket.try_recv(&mut word)) else { break };
                let destination = word.get(..length).and_then(read);
                said.extend(destination.filter(|_| said.len() < PEERS_MAX));
            }
        }
    }
}

async fn receive(socket: Option<&UdpSocket>, buffer: &mut [u8]) -> io::Result<usize> {
    match socket {
        Some(socket) => socket.recv(buffer).await,
        None => future::pending().await,
    }
}

/// Finds where the packet was going that a message quotes, if it says that this was too big.
type Reader = fn(&[u8]) -> Option<IpAddr>;

/// Of what a raw socket hears over IPv4: with its IP header.
fn of_v4(packet: &[u8]) -> Option<IpAddr> {
    let message = packet.get(usize::from(packet.first()? & 0x0f) * 4..)?;
    let &[UNREACHABLE, FRAGMENTATION_NEEDED, ..] = message else { return None };
    let destination: [u8; 4] = message.get(ICMP_HEADER..)?.get(16..20)?.try_into().ok()?;
    Some(IpAddr::V4(Ipv4Addr::from(destination)))
}

/// Over IPv6: without.
fn of_v6(message: &[u8]) -> Option<IpAddr> {
    let &[PACKET_TOO_BIG, ..] = message else { return None };
    let destination: [u8; 16] = message.get(ICMP_HEADER..)?.get(24..IPV6_HEADER)?.try_into().ok()?;
    Some(IpAddr::V6(Ipv6Addr::from(destination)))
}

/// When looks may be.
#[derive(Debug, Default)]
struct Pace {
    last: Option<Instant>,
}

impl Pace {
    /// When the look for a word of now is: once the kernel has heeded it, and not too soon after the one before.
    fn look(&mut self, now: Instant) -> Instant {
        let heeded = now + HEEDED;
        let at = self.last.map_or(heeded, |last| heeded.max(last + PAUSE));
        self.last = Some(at);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    /// "Fragmentation needed" about a packet to 198.51.100.7, behind an IPv4 header with one option.
    fn fragmentation_needed() -> Vec<u8> {
        let mut packet = vec![0x46];
        packet.extend([0; 23]);
        packet.extend(about_v4(3, 4, [198, 51, 100, 7]));
        packet
    }

    /// A message without its IP header, and a checksum that fits.
    fn about_v4(kind: u8, code: u8, destination: [u8; 4]) -> Vec<u8> {
        let mut message = vec![kind, code, 0, 0, 0, 0, 0x05, 0x78, 0x45];
        message.extend([0; 15]);
        message.extend(destination);
        message.extend([0; 8]);
        let sum = message.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum::<u32>();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        message
    }

    fn packet_too_big() -> Vec<u8> {
        let mut message = vec![2, 0, 0, 0, 0, 0, 0x05, 0x78, 0x60];
        message.extend([0; 23]);
        message.extend("2001:db8::7".parse::<Ipv6Addr>().expect("address").octets());
        message
    }

    #[test]
    fn the_quoted_packets_destination_is_found() {
        assert_eq!(of_v4(&fragmentation_needed()), Some("198.51.100.7".parse().expect("address")));
        assert_eq!(of_v6(&packet_too_big()), Some("2001:db8::7".parse().expect("address")));
    }

    #[test]
    fn what_says_something_else_or_too_little_is_nothing() {
        let whole = fragmentation_needed();
        // Behind the quoted header stands what is not asked.
        for length in 0..whole.len() - 8 {
            assert_eq!(of_v4(&whole[..length]), None, "{length}");
        }
        for length in 0..packet_too_big().len() {
            assert_eq!(of_v6(&packet_too_big()[..length]), None, "{length}");
        }
        for (at, value) in [(24, 11), (25, 3)] {
            let mut other = whole.clone();
            other[at] = value;
            assert_eq!(of_v4(&other), None, "byte {at}");
        }
        let mut other = packet_too_big();
        other[0] = 1;
        assert_eq!(of_v6(&other), None);
    }

    #[test]
    fn the_first_word_is_followed_at_once() {
        let now = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.look(now), now + HEEDED);
        let later = now + 10 * PAUSE;
        assert_eq!(pace.look(later), later + HEEDED);
    }

    /// Somebody says it all the time: each look is followed by the next word.
    #[test]
    fn a_flood_is_looked_at_in_its_pace() {
        let start = Instant::now();
        let (mut pace, mut now, mut looks) = (Pace::default(), start, 0);
        while now < start + Duration::from_secs(1) {
            let at = pace.look(now);
            assert!(at > now);
            now = at;
            looks += 1;
        }
        assert_eq!(looks, 1 + Duration::from_secs(1).as_millis() / PAUSE.as_millis());
    }

    /// The kernel hands over what is too big and nothing else, and each destination once.
    #[tokio::test]
    async fn only_what_is_too_big_is_heard() {
        let mut heard = match TooBig::listen(true) {
            Ok(heard) => heard,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                panic!("SKIPPED is no pass: run as root to open raw sockets")
            }
            Err(error) => panic!("{error}"),
        };
        let speaker = raw_socket(Domain::IPV4, Protocol::ICMPV4).expect("a raw socket");
        let to = socket2::SockAddr::from(std::net::SocketAddr::from(([127, 94, 0, 3], 0)));
        // Addresses for documentation, that no other test on this machine speaks of.
        let ours =
            |destination: &IpAddr| matches!(destination, IpAddr::V4(v4) if v4.octets()[..3] == [203, 0, 113]);
        for (kind, code, host) in [(8, 0, 1), (3, 3, 2), (11, 0, 3), (3, 4, 4), (3, 4, 4), (3, 4, 5)] {
            speaker.send_to(&about_v4(kind, code, [203, 0, 113, host]), &to).expect("sent");
        }
        let mut all = Vec::new();
        while all.len() < 2 {
            let said = tokio::time::timeout(PATIENCE, heard.said()).await.expect("a word");
            all.extend(said.into_iter().filter(ours));
        }
        let expected: Vec<IpAddr> = [4, 5].map(|host| IpAddr::from([203, 0, 113, host])).into();
        all.dedup();
        assert_eq!(all, expected);
    }
}
