//! What refused packets add up to: somebody who lies about his address, somebody who tries doors.
//!
//! Works on the sample that the programs send. Scans are found by the programs themselves, which see every packet.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use sekisho_abi::verdict::Verdict;

use super::record::{PacketFacts, Record};

/// An alarm about one source is not repeated for so long.
const PAUSE: Duration = Duration::from_secs(60);
/// Sources that are watched at a time; the longest known makes room.
const SOURCES_MAX: usize = 1024;

/// What is known of the sources of late.
#[derive(Default)]
pub(super) struct Watch {
    sources: BTreeMap<(String, IpAddr), Source>,
}

struct Source {
    since: Instant,
    scans: bool,
    spoofs: bool,
}

impl Watch {
    /// Takes in a refused packet; an alarm, if it is one packet too many.
    pub(super) fn refused(&mut self, verdict: Verdict, packet: &PacketFacts, now: Instant) -> Option<Record> {
        let key = (packet.port.clone(), packet.source);
        if !self.sources.contains_key(&key) && self.sources.len() >= SOURCES_MAX {
            let oldest =
                self.sources.iter().min_by_key(|(_, source)| source.since).map(|(key, _)| key.clone());
            self.sources.remove(&oldest?);
        }
        let source = self.sources.entry(key).or_insert_with(|| Source::new(now));
        if now.saturating_duration_since(source.since) >= PAUSE {
            *source = Source::new(now);
        }
        let (alarm, detail) = match verdict {
            Verdict::DropSpoof | Verdict::DropClear | Verdict::DropNeighbour if !source.spoofs => {
                source.spoofs = true;
                let alarm = if verdict == Verdict::DropNeighbour { "neighbour-spoof" } else { "spoof" };
                (alarm, format!("{}, to {}", verdict.name(), packet.destination))
            }
            // The programs, which see every packet, have counted.
            Verdict::DropScan if !source.scans => {
                source.scans = true;
                ("scan", format!("many refused doors, of late {} port {}", packet.destination, packet.destination_port))
            }
            _ => return None,
        };
        Some(Record::Alarm { alarm: alarm.into(), port: packet.port.clone(), source: packet.source, detail })
    }
}

impl Source {
    fn new(since: Instant) -> Self {
        Self { since, scans: false, spoofs: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(source: &str, port: u16) -> PacketFacts {
        PacketFacts {
            port: "lan1".into(),
            source: source.parse().expect("address"),
            destination: "10.0.0.1".parse().expect("address"),
            protocol: 6,
            source_port: 1,
            destination_port: port,
            spi: None,
            verdict: "policy".into(),
            rule: None,
        }
    }

    #[test]
    fn one_scan_is_one_alarm_a_minute() {
        let (mut watch, now) = (Watch::default(), Instant::now());
        let mut alarms = |verdict, now| watch.refused(verdict, &packet("10.1.1.1", 80), now).into_iter().count();
        assert_eq!(alarms(Verdict::DropPolicy, now), 0, "a refused packet alone");
        assert_eq!(alarms(Verdict::DropScan, now), 1);
        assert_eq!(alarms(Verdict::DropScan, now), 0, "told already");
        assert_eq!(alarms(Verdict::DropScan, now + PAUSE), 1);
    }

    #[test]
    fn a_liar_is_named_once_and_the_table_is_bounded() {
        let (mut watch, now) = (Watch::default(), Instant::now());
        let liar = packet("10.2.2.2", 1);
        assert!(watch.refused(Verdict::DropSpoof, &liar, now).is_some());
        assert!(watch.refused(Verdict::DropSpoof, &liar, now).is_none());
        for host in 0..2000_u32 {
            let source = IpAddr::from(host.to_be_bytes());
            watch.refused(Verdict::DropPolicy, &PacketFacts { source, ..packet("10.2.2.2", 1) }, now);
        }
        assert!(watch.sources.len() <= SOURCES_MAX);
    }
}
