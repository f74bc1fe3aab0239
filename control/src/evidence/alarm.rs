//! What refused packets add up to: somebody who lies about his address or uses another's, somebody who tries doors.
//!
//! Works on the sample that the programs send. Scans are found by the programs themselves, which see every packet.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use sekisho_abi::event::Claim;
use sekisho_abi::verdict::Verdict;

use super::record::{PacketFacts, Record, address};
use crate::neighbours::mac_text;

/// An alarm about one source is not repeated for so long.
const PAUSE: Duration = Duration::from_secs(60);
/// Sources that are watched at a time; the longest known makes room.
const SOURCES_MAX: usize = 1024;

/// What is known of the sources of late.
#[derive(Default)]
pub(super) struct Watch {
    sources: BTreeMap<(String, IpAddr), Source>,
    /// When who was last named for using which address.
    claims: BTreeMap<([u8; 6], IpAddr, u16), Instant>,
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
                (
                    "scan",
                    format!(
                        "many refused doors, of late {} port {}",
                        packet.destination, packet.destination_port
                    ),
                )
            }
            _ => return None,
        };
        Some(Record::Alarm { alarm: alarm.into(), port: packet.port.clone(), source: packet.source, detail })
    }
}

impl Watch {
    /// Takes in a claim to an address that is bound to another MAC address, or may not be used; an alarm, unless it was told
    /// of late.
    pub(super) fn claimed(&mut self, claim: &Claim, port: String, now: Instant) -> Option<Record> {
        let source = address(claim.address);
        let key = (claim.mac, source, claim.port);
        self.claims.retain(|_, told| now.saturating_duration_since(*told) < PAUSE);
        if self.claims.contains_key(&key) || self.claims.len() >= SOURCES_MAX {
            return None;
        }
        self.claims.insert(key, now);
        let whose = match claim.bound {
            [0, 0, 0, 0, 0, 0] => "which is bound to nobody here".to_owned(),
            bound => format!("which is bound to {}", mac_text(bound)),
        };
        let detail = format!("{} uses {source}, {whose}", mac_text(claim.mac));
        let alarm = Verdict::from_number(claim.verdict)?.name().to_owned();
        Some(Record::Alarm { alarm, port, source, detail })
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
        let mut alarms =
            |verdict, now| watch.refused(verdict, &packet("10.1.1.1", 80), now).into_iter().count();
        assert_eq!(alarms(Verdict::DropPolicy, now), 0, "a refused packet alone");
        assert_eq!(alarms(Verdict::DropScan, now), 1);
        assert_eq!(alarms(Verdict::DropScan, now), 0, "told already");
        assert_eq!(alarms(Verdict::DropScan, now + PAUSE), 1);
    }

    #[test]
    fn who_uses_another_s_address_is_named_once_a_minute() {
        let (mut watch, now) = (Watch::default(), Instant::now());
        let claim = |host: u8, mac: u8| Claim {
            address: sekisho_abi::mapped([10, 1, 1, host]),
            mac: [mac; 6],
            bound: [2; 6],
            verdict: Verdict::DropNeighbourMac as u8,
            ..Claim::default()
        };
        let mut told = |claim: &Claim, now| watch.claimed(claim, "lan1".into(), now);
        let Some(Record::Alarm { alarm, source, detail, .. }) = told(&claim(1, 6), now) else {
            panic!("an alarm");
        };
        assert_eq!((&*alarm, source), ("neighbour-mac", "10.1.1.1".parse().expect("an address")));
        assert_eq!(detail, "06:06:06:06:06:06 uses 10.1.1.1, which is bound to 02:02:02:02:02:02");
        assert!(told(&claim(1, 6), now).is_none());
        assert!(told(&claim(2, 6), now).is_some() && told(&claim(1, 8), now).is_some());
        assert!(told(&claim(1, 6), now + PAUSE).is_some());
        for host in 0..5000_u32 {
            let [_, _, high, low] = host.to_be_bytes();
            let flood = Claim { address: sekisho_abi::mapped([10, 9, high, low]), ..claim(1, 6) };
            watch.claimed(&flood, "lan1".into(), now);
        }
        assert!(watch.claims.len() <= SOURCES_MAX);
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
