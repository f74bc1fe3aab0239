//! UDP from a host of the lab as its network card would send it, paced or as fast as one CPU can, and how much of it
//! arrives at the server.
//!
//! A packet socket sends it, so that the host's own UDP is not what is measured. It arrives at a socket that nobody reads and
//! that holds next to nothing: the cheapest end that the kernel has, and it counts each datagram.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sekisho_tests::gateway::settings::ECHO;
use sekisho_tests::lab::Lab;
use sekisho_tests::lab::namespace::Namespace;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::traffic::frame::Addressing;
use sekisho_tests::traffic::inject::Injector;

/// Bytes of the headers of an IPv4 packet with UDP.
pub const HEADERS: usize = 28;
/// The port that the lab's policies allow for UDP.
const PORT: u16 = ECHO;
/// Where all of it comes from: one flow.
const SOURCE_PORT: u16 = 40_000;
/// Sent between two looks at the clock.
const BATCH: usize = 16;
/// No sender goes on for longer.
const MOST: Duration = Duration::from_secs(60);
/// Packets on their way when the sender ends have arrived or are lost after this.
const SETTLE: Duration = Duration::from_millis(200);
/// Lengths of IP packets, the simple IMIX: of twelve packets seven are short, four of middle length and one long, here as
/// long as goes through every tunnel unfragmented.
pub const IMIX: [usize; 12] = [64, 576, 64, 64, 576, 64, 1400, 64, 576, 64, 576, 64];

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flooded {
    /// Datagrams sent.
    pub sent: u64,
    /// Those that arrived.
    pub arrived: u64,
    /// From the first to the last.
    pub time: Duration,
}

impl Flooded {
    /// Datagrams sent, a second.
    pub fn offered(&self) -> f64 {
        self.sent as f64 / self.time.as_secs_f64()
    }

    /// Datagrams that arrived, a second.
    pub fn rate(&self) -> f64 {
        self.arrived as f64 / self.time.as_secs_f64()
    }

    /// The part that was lost, per cent.
    pub fn lost(&self) -> f64 {
        self.sent.saturating_sub(self.arrived) as f64 / self.sent as f64 * 100.0
    }
}

/// From LAN1 to the server, IP packets of these lengths in turn; `rate` packets a second, or as fast as it goes.
///
/// # Errors
/// When the lab has no such hosts, or a packet is too short for its headers.
pub fn flood(lab: &Lab, lengths: &[usize], rate: Option<f64>, time: Duration) -> Result<Flooded> {
    ensure!(!lengths.is_empty() && time <= MOST, "nothing to send, or for too long");
    let server = lab.at(Place::Server);
    let sink = server.run(sink)?;
    let injector = Injector::open(&lab.at(Place::Lan1), "eth0")?;
    let link = Addressing {
        mac: (injector.mac(), lab.at(Place::Clinic).mac("lan1")?),
        ip: (Place::Lan1.address(Family::V4), Place::Server.address(Family::V4)),
    };
    let frames: Result<Vec<Vec<u8>>> = lengths
        .iter()
        .map(|length| {
            let payload = length.checked_sub(HEADERS).context("a packet shorter than its headers")?;
            link.udp((SOURCE_PORT, PORT), &vec![0x5e; payload])
        })
        .collect();
    let frames = frames?;
    let before = datagrams(&server)?;
    let (sent, time) = send(&injector, &frames, rate, time)?;
    std::thread::sleep(SETTLE);
    let arrived = datagrams(&server)?.saturating_sub(before);
    drop(sink);
    Ok(Flooded { sent, arrived, time })
}

/// At the current thread's namespace. The kernel rounds the buffer up to its least.
fn sink() -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).context("binding a UDP socket")?;
    socket2::SockRef::from(&socket).set_recv_buffer_size(1).context("making a socket's buffer small")?;
    Ok(socket)
}

fn send(
    injector: &Injector,
    frames: &[Vec<u8>],
    rate: Option<f64>,
    time: Duration,
) -> Result<(u64, Duration)> {
    let begun = Instant::now();
    let mut sent = 0_u64;
    let mut next = frames.iter().cycle();
    while begun.elapsed() < time {
        for frame in next.by_ref().take(BATCH) {
            injector.send(frame)?;
        }
        sent += BATCH as u64;
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64(sent as f64 / rate);
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
        }
    }
    Ok((sent, begun.elapsed()))
}

/// Datagrams that the namespace's UDP has had for a socket: taken by it, or refused for want of room.
fn datagrams(namespace: &Namespace) -> Result<u64> {
    counted(&namespace.proc_net("snmp")?).context("/proc/net/snmp tells nothing of UDP")
}

fn counted(snmp: &str) -> Option<u64> {
    let mut udp = snmp.lines().filter(|line| line.starts_with("Udp:"));
    let (names, values) = (udp.next()?, udp.next()?);
    let of = |wanted: &str| {
        let position = names.split_whitespace().position(|name| name == wanted)?;
        values.split_whitespace().nth(position)?.parse::<u64>().ok()
    };
    Some(of("InDatagrams")? + of("InErrors")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_taken_and_refused_have_both_arrived() {
        let snmp = "Tcp: RtoAlgorithm\nTcp: 1\nUdp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors\nUdp: 12 3 700 5 700\n";
        assert_eq!(counted(snmp), Some(712));
        assert_eq!(counted("Udp: InDatagrams\nUdp: 1\n"), None);
    }

    #[test]
    fn rates_are_of_the_time_of_sending() {
        let flooded = Flooded { sent: 1000, arrived: 900, time: Duration::from_secs(2) };
        assert_eq!((flooded.offered(), flooded.rate(), flooded.lost()), (500.0, 450.0, 10.0));
    }

    #[test]
    fn the_mix_is_seven_four_and_one() {
        let count = |length| IMIX.iter().filter(|other| **other == length).count();
        assert_eq!([count(64), count(576), count(1400)], [7, 4, 1]);
    }
}
