//! UDP from a host of the lab as its network card would send it, paced or as fast as one CPU can, and how much of it
//! arrives at the server.
//!
//! A packet socket sends it, so that the host's own UDP is not what is measured. At the server it is counted and dropped before
//! its stack.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sekisho_tests::gateway::settings::ECHO;
use sekisho_tests::lab::Lab;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::traffic::frame::Addressing;
use sekisho_tests::traffic::inject::Injector;

use crate::generator::{Arriving, Generator};

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

/// From LAN1 to the server, IP packets of these lengths in turn; `rate` packets a second, or as fast as it goes. `arriving`
/// says by which way the last gateway hands them over: there the sink costs least.
///
/// # Errors
/// When the lab has no such hosts, or a packet is too short for its headers.
pub fn flood(
    lab: &Lab,
    arriving: Arriving,
    lengths: &[usize],
    rate: Option<f64>,
    time: Duration,
) -> Result<Flooded> {
    ensure!(!lengths.is_empty() && time <= MOST, "nothing to send, or for too long");
    let mut sink = Generator::load(1)?;
    sink.sink(&lab.at(Place::Server), "eth0", arriving)?;
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
    let before = sink.arrived()?;
    let (sent, time) = send(&injector, &frames, rate, time)?;
    std::thread::sleep(SETTLE);
    let arrived = sink.arrived()? - before;
    Ok(Flooded { sent, arrived, time })
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

#[cfg(test)]
mod tests {
    use super::*;

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
