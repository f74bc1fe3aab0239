//! Which connection a packet is for: one lookup for each length that prefixes of the peers' networks have, however many
//! connections there are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use sekisho_esp::sa::PortId;

/// Connections by what is behind them. They are named by their places in the order of the configuration.
#[derive(Default)]
pub(super) struct Carriers {
    by_network: HashMap<(PortId, IpNet), Vec<usize>>,
    /// Of the prefixes there, IPv4 and IPv6 alike.
    lengths: BTreeMap<PortId, BTreeSet<u8>>,
}

impl Carriers {
    /// A connection of this VPN port has a network behind it.
    pub(super) fn insert(&mut self, port: PortId, network: IpNet, place: usize) {
        self.lengths.entry(port).or_default().insert(network.prefix_len());
        let places = self.by_network.entry((port, network.trunc())).or_default();
        if places.last() != Some(&place) {
            places.push(place);
        }
    }

    /// The first that packets from this VPN port to `destination` may be for, and that `carries` them.
    pub(super) fn first(
        &self,
        port: PortId,
        destination: IpAddr,
        carries: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let lengths = self.lengths.get(&port).into_iter().flatten();
        // One of IPv6 may be longer than any of IPv4.
        let networks = lengths.filter_map(|length| IpNet::new(destination, *length).ok());
        let places = networks.filter_map(|network| self.by_network.get(&(port, network.trunc()))).flatten();
        places.copied().filter(|place| carries(*place)).min()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a network")
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_first_in_the_file_that_carries_it_is_taken() {
        let mut carriers = Carriers::default();
        for (place, (port, network)) in [
            (9, "10.2.0.0/16"),
            (9, "10.2.3.0/24"),
            (8, "10.2.3.0/24"),
            (9, "10.2.3.0/24"),
            (9, "fd00:2::/64"),
            (9, "0.0.0.0/0"),
        ]
        .into_iter()
        .enumerate()
        {
            carriers.insert(port, net(network), place);
        }
        let first = |port, destination, but: &[usize]| {
            carriers.first(port, address(destination), |place| !but.contains(&place))
        };
        assert_eq!(first(9, "10.2.3.4", &[]), Some(0), "not the longest, but the first");
        assert_eq!(first(9, "10.2.3.4", &[0]), Some(1));
        assert_eq!(first(9, "10.2.3.4", &[0, 1]), Some(3));
        assert_eq!(first(9, "192.0.2.1", &[]), Some(5));
        assert_eq!(first(8, "10.2.3.4", &[]), Some(2));
        assert_eq!(first(8, "10.2.4.4", &[]), None, "another port's");
        assert_eq!(first(9, "fd00:2::1", &[]), Some(4));
        assert_eq!(first(9, "fd00:3::1", &[]), None, "a default route of IPv4 is none of IPv6");
    }

    #[test]
    fn one_among_ten_thousand_is_asked_alone() {
        let mut carriers = Carriers::default();
        for place in 0..10_000_usize {
            let [high, low] = u16::try_from(place).expect("few").to_be_bytes();
            carriers.insert(9, net(&format!("10.{high}.{low}.0/24")), place);
        }
        let asked = Cell::new(0);
        let count = |_| {
            asked.set(asked.get() + 1);
            true
        };
        assert_eq!(carriers.first(9, address("10.39.15.7"), count), Some(9999));
        assert_eq!(carriers.first(9, address("10.40.0.7"), count), None);
        assert_eq!(asked.get(), 1);
    }
}
