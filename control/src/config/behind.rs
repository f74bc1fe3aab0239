//! The networks behind all connections, found by what they overlap: those within a prefix are one range, and those around it one
//! lookup for each shorter length, however many connections there are.

use std::collections::BTreeMap;

use ipnet::IpNet;
use toml::Spanned;

/// A place in the file, of which connection by its own place, and the network.
type Entry<'a> = (usize, usize, &'a Spanned<IpNet>);

/// Networks by their prefix, host bits zero.
pub(super) struct Behind<'a>(BTreeMap<IpNet, Vec<Entry<'a>>>);

impl<'a> Behind<'a> {
    /// Connections' places and their networks, in the order of the file.
    pub(super) fn of(networks: impl Iterator<Item = (usize, &'a Spanned<IpNet>)>) -> Self {
        let mut by_prefix: BTreeMap<IpNet, Vec<_>> = BTreeMap::new();
        for (place, (connection, network)) in networks.enumerate() {
            by_prefix.entry(network.get_ref().trunc()).or_default().push((place, connection, network));
        }
        Self(by_prefix)
    }

    /// The connections behind which a network overlaps this one, each with the first such network.
    pub(super) fn overlapping(&self, prefix: &IpNet) -> BTreeMap<usize, &'a Spanned<IpNet>> {
        let around = (0..prefix.prefix_len())
            .filter_map(|length| IpNet::new(prefix.addr(), length).ok())
            .filter_map(|network| self.0.get(&network.trunc()));
        let last = IpNet::from(prefix.broadcast());
        let within = self.0.range(prefix.trunc()..=last).map(|(_, found)| found);
        let mut found: Vec<Entry<'a>> = around.chain(within).flatten().copied().collect();
        // Backwards, so that the first of each stays.
        found.sort_unstable_by_key(|(place, ..)| std::cmp::Reverse(*place));
        found.into_iter().map(|(_, connection, network)| (connection, network)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::super::ports::overlap;
    use super::*;

    /// Few networks of all sizes, so that they meet; some with host bits, as a file may have them.
    fn network() -> impl Strategy<Value = IpNet> {
        let v4 = (0..32_u32, 0..=32_u8)
            .prop_map(|(bits, length)| (IpAddr::from((bits << 27).to_be_bytes()), length));
        let v6 = (0..32_u128, 0..=128_u8)
            .prop_map(|(bits, length)| (IpAddr::from((bits << 123).to_be_bytes()), length));
        prop_oneof![v4, v6].prop_map(|(address, length)| IpNet::new(address, length).expect("a network"))
    }

    proptest! {
        #[test]
        fn what_overlaps_is_what_a_walk_over_all_finds(
            all in proptest::collection::vec((0..5_usize, network()), 0..30),
            asked in network(),
        ) {
            let all: Vec<_> = all.into_iter().map(|(of, network)| (of, Spanned::new(0..0, network))).collect();
            let found = Behind::of(all.iter().map(|(of, network)| (*of, network))).overlapping(&asked);
            for connection in 0..5 {
                let first = all.iter().find(|(of, network)| *of == connection && overlap(network.get_ref(), &asked));
                let found = found.get(&connection).map(|network| std::ptr::from_ref(*network));
                prop_assert_eq!(found, first.map(|(_, network)| std::ptr::from_ref(network)));
            }
        }
    }
}
