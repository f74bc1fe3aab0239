//! Translations compiled for the programs: prefixes of which the longest decides, in the order of the file.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use sekisho_abi::Address;
use sekisho_abi::nat::{
    DESTINATION_NAT_KEY_BITS, DestinationNat, DestinationNatKey, HAIRPIN, NAT_POOL_MAX, SOURCE_NAT_KEY_BITS,
    SourceNat, SourceNatKey, source_nat_kind,
};

use crate::config::{Config, Match, PortId, SourceAddress, ZoneId, trie_prefix};

/// Behind the end of `NAT_POOL`, in whichever of its halves: an address that is not there.
const NO_ADDRESS: u32 = 2 * NAT_POOL_MAX;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Addresses that peers have given us (RFC 7296 section 2.19), by the VPN port they are ours on; the present one of a
/// family first.
pub type Given = BTreeMap<PortId, Vec<IpAddr>>;

/// What the programs are given. Keys lack their generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatSet {
    sources: BTreeMap<(u32, SourceNatKey), SourceNat>,
    destinations: BTreeMap<(u32, DestinationNatKey), DestinationNat>,
    pool: Vec<Address>,
}

impl NatSet {
    /// That of a configuration, with the addresses we have been given. Where none has been given yet, flows that are to
    /// have one find no address and are refused: one made untranslated would stay so after the address has come.
    pub fn of(config: &Config, given: &Given) -> Self {
        let mut set = Self::default();
        let mut rule = 0..;
        let mut next = || rule.next().map_or(u16::MAX, |number: u16| number.saturating_add(1));
        let zones: Vec<ZoneId> = config.zones.iter().map(|zone| zone.id).collect();
        let sources: Vec<u16> = config.nat.sources.iter().map(|_| next()).collect();
        for destination in &config.nat.destinations {
            set.add_destination(destination, next());
        }
        for map in &config.nat.maps {
            let number = next();
            let (_, outside) = trie_prefix(map.outside);
            let (inside_bits, inside) = trie_prefix(map.inside);
            let bits = u16::try_from(inside_bits).unwrap_or(128);
            for &port in &map.ports {
                let source = SourceNat {
                    rule: number,
                    kind: source_nat_kind::PREFIX,
                    index: inside_bits,
                    prefix: outside,
                    ..SourceNat::default()
                };
                for &zone in &zones {
                    set.add_source(zone, port, map.inside, source);
                }
                let value = DestinationNat {
                    rule: number,
                    prefix_bits: bits,
                    prefix: inside,
                    ..DestinationNat::default()
                };
                let key = DestinationNatKey {
                    port_be: port.to_be_bytes(),
                    address: outside,
                    ..DestinationNatKey::default()
                };
                set.put_destination(DESTINATION_NAT_KEY_BITS + inside_bits, key, value);
            }
        }
        for (source, number) in config.nat.sources.iter().zip(sources) {
            set.add_sources(config, given, source, number);
        }
        if !config.nat.destinations.is_empty() {
            set.add_hairpin(config);
        }
        set
    }

    /// Whether there is nothing to translate.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty() && self.destinations.is_empty()
    }

    /// The entries of `SOURCE_NAT` under this generation, with the lengths of their prefixes in bits.
    pub fn sources(&self, generation: u32) -> impl Iterator<Item = (u32, SourceNatKey, SourceNat)> {
        self.sources.iter().map(move |((bits, key), value)| {
            (*bits, SourceNatKey { generation_be: generation.to_be_bytes(), ..*key }, *value)
        })
    }

    /// Those of `DESTINATION_NAT`.
    pub fn destinations(
        &self,
        generation: u32,
    ) -> impl Iterator<Item = (u32, DestinationNatKey, DestinationNat)> {
        self.destinations.iter().map(move |((bits, key), value)| {
            (*bits, DestinationNatKey { generation_be: generation.to_be_bytes(), ..*key }, *value)
        })
    }

    /// Those of one half of `NAT_POOL`.
    pub fn pool(&self) -> &[Address] {
        &self.pool
    }

    fn add_sources(&mut self, config: &Config, given: &Given, source: &crate::config::SourceNat, rule: u16) {
        let pool = match &source.address {
            SourceAddress::Pool(pool) => self.pool_of(pool.iter().copied()),
            _ => (0, 0),
        };
        for &port in &source.to {
            for &net in &source.sources {
                let (index, count) = match &source.address {
                    SourceAddress::Interface => {
                        let own = config.ports.iter().find(|candidate| candidate.id == port);
                        let own = own.into_iter().flat_map(|port| &port.addresses).map(IpNet::addr);
                        let own = own.chain(given.get(&port).into_iter().flatten().copied());
                        self.pool_of(own.filter(|own| own.is_ipv4() == net.addr().is_ipv4()).take(1))
                    }
                    _ => pool,
                };
                let (kind, index, count) = match (&source.address, count) {
                    (SourceAddress::Keep, _) => (source_nat_kind::EXEMPT, 0, 0),
                    (_, 0) => (source_nat_kind::POOL, NO_ADDRESS, 1),
                    _ => (source_nat_kind::POOL, index, count),
                };
                let (port_first, port_last) = (*source.ports.start(), *source.ports.end());
                let value =
                    SourceNat { rule, kind, port_first, port_last, index, count, ..SourceNat::default() };
                for &from in &source.from {
                    self.add_source(from, port, net, value);
                }
            }
        }
    }

    /// Where a flow turns back on the port it came by, the server must answer the gateway.
    fn add_hairpin(&mut self, config: &Config) {
        for port in &config.ports {
            for subnet in &port.addresses {
                let (index, count) = self.pool_of([subnet.addr()].into_iter());
                let value = SourceNat {
                    rule: u16::MAX,
                    kind: source_nat_kind::POOL,
                    port_first: 1024,
                    port_last: u16::MAX,
                    index,
                    count,
                    prefix: Address::default(),
                };
                self.add_source(HAIRPIN, port.id, subnet.trunc(), value);
            }
        }
    }

    fn pool_of(&mut self, addresses: impl Iterator<Item = IpAddr>) -> (u32, u32) {
        let before = self.pool.len();
        self.pool.extend(addresses.map(|address| trie_prefix(IpNet::from(address)).1));
        (count(before), count(self.pool.len() - before))
    }

    /// Unless what stands before decides all of it already: prefixes hold each other or have nothing in common.
    fn add_source(&mut self, from: ZoneId, port: u16, net: IpNet, value: SourceNat) {
        let (bits, address) = trie_prefix(net);
        let key = SourceNatKey {
            from_be: from.to_be_bytes(),
            port_be: port.to_be_bytes(),
            address,
            ..SourceNatKey::default()
        };
        let covered = self.sources.keys().any(|(other_bits, other)| {
            (other.from_be, other.port_be) == (key.from_be, key.port_be)
                && *other_bits <= SOURCE_NAT_KEY_BITS + bits
                && same_bits(&other.address, &address, other_bits - SOURCE_NAT_KEY_BITS)
        });
        if !covered {
            self.sources.insert((SOURCE_NAT_KEY_BITS + bits, key), value);
        }
    }

    fn add_destination(&mut self, destination: &crate::config::DestinationNat, rule: u16) {
        let (prefix_bits, prefix) = (128, trie_prefix(IpNet::from(destination.to)).1);
        for &port in &destination.on {
            for &address in &destination.addresses {
                let key = DestinationNatKey {
                    port_be: port.to_be_bytes(),
                    address: trie_prefix(IpNet::from(address)).1,
                    ..DestinationNatKey::default()
                };
                for service in &destination.services {
                    let value = DestinationNat { rule, prefix_bits, prefix, ..DestinationNat::default() };
                    match service {
                        Match::Any => self.put_destination(DESTINATION_NAT_KEY_BITS + 128, key, value),
                        Match::Protocol { protocol, ports } => {
                            let (port_shift, port_fixed) = match (destination.port, *protocol) {
                                (Some((first, true)), TCP | UDP) => (0, first),
                                (Some((first, false)), TCP | UDP) => (first.wrapping_sub(*ports.start()), 0),
                                _ => (0, 0),
                            };
                            let value = DestinationNat { port_shift, port_fixed, ..value };
                            for (service, bits) in prefixes(ports.clone()) {
                                let key = DestinationNatKey {
                                    protocol: *protocol,
                                    service_be: service.to_be_bytes(),
                                    ..key
                                };
                                self.put_destination(DESTINATION_NAT_KEY_BITS + 128 + bits, key, value);
                            }
                        }
                    }
                }
            }
        }
    }

    /// As for sources.
    fn put_destination(&mut self, bits: u32, key: DestinationNatKey, value: DestinationNat) {
        let covered = self.destinations.keys().any(|(other_bits, other)| {
            *other_bits <= bits && (other.port_be, other.protocol) == (key.port_be, key.protocol) && {
                let address_bits = (other_bits - DESTINATION_NAT_KEY_BITS).min(128);
                let service_bits = other_bits.saturating_sub(DESTINATION_NAT_KEY_BITS + 128);
                let service = |key: &DestinationNatKey| u32::from(u16::from_be_bytes(key.service_be)) << 16;
                same_bits(&other.address, &key.address, address_bits)
                    && (service(other) ^ service(&key)).leading_zeros() >= service_bits
            }
        });
        if !covered {
            self.destinations.insert((bits, key), value);
        }
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn same_bits(a: &Address, b: &Address, bits: u32) -> bool {
    (u128::from_be_bytes(*a) ^ u128::from_be_bytes(*b)).leading_zeros() >= bits
}

/// The fewest prefixes that make up a range of ports, with their lengths in bits.
fn prefixes(ports: RangeInclusive<u16>) -> Vec<(u16, u32)> {
    let (mut at, end) = (u32::from(*ports.start()), u32::from(*ports.end()) + 1);
    let mut prefixes = Vec::new();
    while at < end {
        let aligned = if at == 0 { 16 } else { at.trailing_zeros().min(16) };
        let size = (0..=aligned).rev().find(|size| at + (1 << size) <= end).unwrap_or(0);
        prefixes.push((u16::try_from(at).unwrap_or(u16::MAX), 16 - size));
        at += 1 << size;
    }
    prefixes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_range_is_its_prefixes(a: u16, b: u16, port: u16) {
            let range = a.min(b)..=a.max(b);
            let holds = prefixes(range.clone())
                .into_iter()
                .filter(|(first, bits)| u32::from(first ^ port).leading_zeros() - 16 >= *bits)
                .count();
            prop_assert_eq!(holds, usize::from(range.contains(&port)));
        }
    }

    #[test]
    fn the_first_source_decides() {
        let mut set = NatSet::default();
        let rule = |rule| SourceNat { rule, ..SourceNat::default() };
        let net = |text: &str| text.parse().expect("a network");
        set.add_source(1, 2, net("10.1.0.0/16"), rule(1));
        set.add_source(1, 2, net("10.1.2.0/24"), rule(2));
        set.add_source(1, 2, net("10.0.0.0/8"), rule(3));
        set.add_source(1, 3, net("10.1.2.0/24"), rule(4));
        let mut rules: Vec<u16> = set.sources(7).map(|(_, _, value)| value.rule).collect();
        rules.sort_unstable();
        assert_eq!(rules, [1, 3, 4], "the second is within the first");
        assert!(set.sources(7).all(|(_, key, _)| key.generation_be == [0, 0, 0, 7]));
    }
}
