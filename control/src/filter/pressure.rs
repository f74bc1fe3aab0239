//! When the flow table, or a zone's part of it, fills up: flows that nobody has answered live shorter until there is room
//! again. One that has been answered is never shortened.

use std::collections::BTreeSet;

use sekisho_abi::flow::{Flow, Lifetime};

/// Parts of the room, in percent, from which on there is pressure, and below which it is over.
const HIGH: u64 = 80;
const LOW: u64 = 60;

/// Lifetimes in seconds of what is not answered, while there is pressure: a handshake over a satellite takes two.
const SHORT: [(Lifetime, u32); 6] = [
    (Lifetime::TcpSynSent, 5),
    (Lifetime::TcpSynReceived, 5),
    (Lifetime::TcpClosed, 2),
    (Lifetime::UdpUnreplied, 5),
    (Lifetime::Icmp, 5),
    (Lifetime::Other, 10),
];

/// Where there is pressure.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pressure {
    table: bool,
    zones: BTreeSet<u32>,
}

impl Pressure {
    /// Looks at how full the table is and each zone's part of it.
    pub(super) fn look(&mut self, total: u64, max: u64, zones: impl Iterator<Item = (u32, u64, u64)>) {
        self.table = is_under(self.table, total, max);
        for (zone, flows, flows_max) in zones {
            match is_under(self.zones.contains(&zone), flows, flows_max) {
                true => self.zones.insert(zone),
                false => self.zones.remove(&zone),
            };
        }
    }

    /// Whether there is any.
    pub(super) fn any(&self) -> bool {
        self.table || !self.zones.is_empty()
    }

    /// How long a flow lives without a packet, in seconds.
    pub(super) fn seconds(&self, flow: &Flow, lifetimes: &[u32]) -> u32 {
        let usual = lifetimes.get(usize::from(flow.lifetime)).copied().unwrap_or(0);
        // Echoes and other protocols keep their class when they are answered; a handshake is not over by an answer.
        let is_tcp = flow.tcp_state != sekisho_abi::flow::tcp_state::NONE;
        if !(self.table || self.zones.contains(&flow.quota_zone)) || (flow.replied != 0 && !is_tcp) {
            return usual;
        }
        let short = SHORT.iter().find(|(class, _)| *class as u8 == flow.lifetime);
        short.map_or(usual, |(_, short)| usual.min(*short))
    }
}

fn is_under(before: bool, flows: u64, max: u64) -> bool {
    let mark = if before { LOW } else { HIGH };
    max != 0 && flows.saturating_mul(100) >= max.saturating_mul(mark)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sekisho_abi::flow::{LIFETIMES_DEFAULT, tcp_state};

    fn flow(lifetime: Lifetime, zone: u32) -> Flow {
        let tcp =
            matches!(lifetime, Lifetime::TcpSynSent | Lifetime::TcpSynReceived | Lifetime::TcpEstablished);
        let tcp_state = if tcp { tcp_state::SYN_SENT } else { tcp_state::NONE };
        Flow { lifetime: lifetime as u8, quota_zone: zone, tcp_state, ..Flow::default() }
    }

    #[test]
    fn pressure_begins_high_and_ends_low() {
        let mut pressure = Pressure::default();
        for (total, under) in [(79, false), (80, true), (70, true), (60, true), (59, false), (79, false)] {
            pressure.look(total, 100, std::iter::empty());
            assert_eq!(pressure.any(), under, "{total}");
        }
        pressure.look(0, 100, [(1, 8, 10), (2, 7, 10), (3, 9, 0)].into_iter());
        assert_eq!(pressure, Pressure { table: false, zones: BTreeSet::from([1]) });
    }

    #[test]
    fn only_what_nobody_answered_lives_shorter() {
        let usual = |lifetime: Lifetime| LIFETIMES_DEFAULT[lifetime as usize];
        let mut pressure = Pressure::default();
        pressure.look(0, 100, [(1, 10, 10)].into_iter());
        let seconds = |flow: &Flow| pressure.seconds(flow, &LIFETIMES_DEFAULT);
        assert_eq!(seconds(&flow(Lifetime::UdpUnreplied, 1)), 5);
        assert_eq!(seconds(&flow(Lifetime::UdpUnreplied, 2)), usual(Lifetime::UdpUnreplied), "another zone");
        assert_eq!(seconds(&flow(Lifetime::TcpSynReceived, 1)), 5);
        assert_eq!(seconds(&flow(Lifetime::TcpEstablished, 1)), usual(Lifetime::TcpEstablished));
        assert_eq!(seconds(&flow(Lifetime::Icmp, 1)), 5);
        let answered = Flow { replied: 1, ..flow(Lifetime::Icmp, 1) };
        assert_eq!(seconds(&answered), usual(Lifetime::Icmp));
        // What is configured shorter stays so.
        assert_eq!(pressure.seconds(&flow(Lifetime::Icmp, 1), &[1; 16]), 1);
    }
}
