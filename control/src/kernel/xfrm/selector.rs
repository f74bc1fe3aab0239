//! Traffic selectors as the kernel has them: prefixes of addresses, masks of ports. A range becomes several.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use sekisho_esp::sa::Selector;

use super::wire::{Bytes, Request, family};

/// Bytes of xfrm_selector.
pub(super) const SELECTOR: usize = 56;
/// Policies that one pair of SAs may become, in each direction. Networks become one for each two; a range of addresses or
/// ports up to a few dozen.
pub(super) const POLICIES_MAX: usize = 256;

/// A prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Prefix {
    pub(super) address: IpAddr,
    pub(super) length: u8,
}

/// Ports with one value in the bits of the mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PortMask {
    pub(super) value: u16,
    pub(super) mask: u16,
}

impl PortMask {
    pub(super) const ANY: PortMask = PortMask { value: 0, mask: 0 };
}

/// One selector of the kernel, from source to destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct XfrmSelector {
    pub(super) source: Prefix,
    pub(super) destination: Prefix,
    pub(super) protocol: u8,
    pub(super) source_port: PortMask,
    pub(super) destination_port: PortMask,
}

impl XfrmSelector {
    /// All that goes from the one to the other.
    #[cfg(test)]
    pub(super) fn between(source: Prefix, destination: Prefix) -> XfrmSelector {
        let (source_port, destination_port) = (PortMask::ANY, PortMask::ANY);
        XfrmSelector { source, destination, protocol: 0, source_port, destination_port }
    }

    /// Bits that are not looked at: the fewer, the more this selector says.
    pub(super) fn width(&self) -> u32 {
        let addresses = |prefix: &Prefix| {
            let bits = if prefix.address.is_ipv4() { 32 } else { 128 };
            u32::from(u8::saturating_sub(bits, prefix.length))
        };
        let ports = self.source_port.mask.count_zeros() + self.destination_port.mask.count_zeros();
        let protocol = if self.protocol == 0 { 8 } else { 0 };
        addresses(&self.source) + addresses(&self.destination) + ports + protocol
    }

    /// Writes an xfrm_selector.
    pub(super) fn put(&self, request: &mut Request) {
        request.address(self.destination.address).address(self.source.address);
        for port in [self.destination_port, self.source_port] {
            request.u16_be(port.value).u16_be(port.mask);
        }
        request.u16(family(self.source.address));
        request.u8(self.destination.length).u8(self.source.length).u8(self.protocol);
        // Padding, no interface, no user.
        request.zeros(3 + 4 + 4);
    }

    /// Reads one.
    pub(super) fn read(bytes: Bytes<'_>) -> Option<XfrmSelector> {
        let family = bytes.u16(40)?;
        let port = |at| Some(PortMask { value: bytes.u16_be(at)?, mask: bytes.u16_be(at + 2)? });
        Some(XfrmSelector {
            destination: Prefix { address: bytes.address(0, family)?, length: bytes.u8(42)? },
            source: Prefix { address: bytes.address(16, family)?, length: bytes.u8(43)? },
            destination_port: port(32)?,
            source_port: port(36)?,
            protocol: bytes.u8(44)?,
        })
    }
}

/// All selectors of what goes from one of these to one of those. `None`: more than [`POLICIES_MAX`].
pub(super) fn between(from: &[Selector], to: &[Selector]) -> Option<Vec<XfrmSelector>> {
    let mut all = Vec::new();
    for source in from {
        for destination in to {
            let protocol = match (source.protocol, destination.protocol) {
                (0, other) | (other, 0) => other,
                (one, other) if one == other => one,
                _ => continue,
            };
            if source.addresses.start().is_ipv4() != destination.addresses.start().is_ipv4() {
                continue;
            }
            let (sources, destinations) = (prefixes(&source.addresses), prefixes(&destination.addresses));
            let (from_ports, to_ports) = (masks(&source.ports), masks(&destination.ports));
            let count = [destinations.len(), from_ports.len(), to_ports.len()]
                .iter()
                .try_fold(sources.len(), |product, count| product.checked_mul(*count))?;
            if all.len().checked_add(count)? > POLICIES_MAX {
                return None;
            }
            for &source in &sources {
                for &destination in &destinations {
                    for &source_port in &from_ports {
                        for &destination_port in &to_ports {
                            all.push(XfrmSelector {
                                source,
                                destination,
                                protocol,
                                source_port,
                                destination_port,
                            });
                        }
                    }
                }
            }
        }
    }
    Some(all)
}

/// A range of addresses as prefixes, in ascending order; none where it is empty or of two families.
fn prefixes(range: &RangeInclusive<IpAddr>) -> Vec<Prefix> {
    let (start, end, bits) = match (*range.start(), *range.end()) {
        (IpAddr::V4(start), IpAddr::V4(end)) => (u128::from(start.to_bits()), u128::from(end.to_bits()), 32),
        (IpAddr::V6(start), IpAddr::V6(end)) => (start.to_bits(), end.to_bits(), 128),
        _ => return Vec::new(),
    };
    let address = |value: u128| match bits {
        32 => u32::try_from(value).map_or(*range.start(), |value| IpAddr::V4(value.into())),
        _ => IpAddr::V6(value.into()),
    };
    blocks(start, end, bits)
        .into_iter()
        .map(|(value, free)| Prefix {
            address: address(value),
            length: u8::try_from(bits.saturating_sub(free)).unwrap_or(u8::MAX),
        })
        .collect()
}

/// A range of ports as values under masks.
fn masks(range: &RangeInclusive<u16>) -> Vec<PortMask> {
    blocks(u128::from(*range.start()), u128::from(*range.end()), 16)
        .into_iter()
        .map(|(value, free)| PortMask {
            value: u16::try_from(value).unwrap_or(u16::MAX),
            mask: u16::MAX.checked_shl(free).unwrap_or(0),
        })
        .collect()
}

/// A range of numbers of so many bits as aligned blocks: first number, and bits that are free in it.
fn blocks(mut start: u128, end: u128, bits: u32) -> Vec<(u128, u32)> {
    let mut blocks = Vec::new();
    while start <= end {
        let mut free = start.trailing_zeros().min(bits);
        let last = |free: u32| start | 1_u128.checked_shl(free).map_or(u128::MAX, |size| size - 1);
        while last(free) > end {
            free -= 1;
        }
        blocks.push((start, free));
        match last(free).checked_add(1) {
            Some(next) => start = next,
            None => break,
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn selector(start: &str, end: &str, protocol: u8, ports: RangeInclusive<u16>) -> Selector {
        let address = |text: &str| text.parse().expect("address");
        Selector { addresses: address(start)..=address(end), protocol, ports }
    }

    #[test]
    fn a_network_is_one_prefix_and_all_ports_are_no_mask() {
        let local = selector("10.1.0.0", "10.1.0.255", 0, 0..=65535);
        let remote = selector("10.2.0.0", "10.2.255.255", 6, 443..=443);
        let all = between(&[local], &[remote]).expect("few");
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].source.length, all[0].destination.length, all[0].protocol), (24, 16, 6));
        assert_eq!(all[0].source_port, PortMask::ANY);
        assert_eq!(all[0].destination_port, PortMask { value: 443, mask: 0xffff });
    }

    #[test]
    fn everything_of_either_family() {
        for (start, end) in
            [("0.0.0.0", "255.255.255.255"), ("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")]
        {
            let any = selector(start, end, 0, 0..=65535);
            let all = between(std::slice::from_ref(&any), std::slice::from_ref(&any)).expect("one");
            assert_eq!((all.len(), all[0].source.length), (1, 0));
        }
    }

    #[test]
    fn families_and_protocols_that_differ_meet_nowhere() {
        let v4 = selector("10.1.0.0", "10.1.0.255", 0, 0..=65535);
        let v6 = selector("fd00::", "fd00::ff", 0, 0..=65535);
        let tcp = selector("10.2.0.0", "10.2.0.255", 6, 0..=65535);
        let udp = selector("10.2.0.0", "10.2.0.255", 17, 0..=65535);
        assert_eq!(between(std::slice::from_ref(&v4), &[v6]), Some(vec![]));
        assert_eq!(between(std::slice::from_ref(&udp), std::slice::from_ref(&tcp)), Some(vec![]));
        assert_eq!(between(&[v4], &[tcp, udp]).expect("few").len(), 2);
    }

    #[test]
    fn too_many_are_refused() {
        let range = selector("10.0.0.1", "10.255.255.254", 6, 1..=65534);
        assert_eq!(between(std::slice::from_ref(&range), std::slice::from_ref(&range)), None);
    }

    proptest! {
        #[test]
        fn ports_in_the_range_and_no_others_match(start: u16, length: u16, port: u16) {
            let range = start..=start.saturating_add(length);
            let matching = masks(&range).iter().filter(|entry| port & entry.mask == entry.value).count();
            prop_assert_eq!(matching, usize::from(range.contains(&port)));
        }

        #[test]
        fn addresses_in_the_range_and_no_others_match(start: u32, length in 0..5000_u32, offset in 0..6000_u32) {
            let (start, end) = (start, start.saturating_add(length));
            let address = start.saturating_add(offset);
            let matching = blocks(start.into(), end.into(), 32)
                .iter()
                .filter(|(first, free)| u128::from(address) >> free == first >> free)
                .count();
            prop_assert_eq!(matching, usize::from(address <= end));
        }

        #[test]
        fn what_is_written_is_read_back(source: u32, destination: u32, length in 0..=32_u8, protocol: u8, port: u16) {
            let prefix = |address: u32| Prefix { address: IpAddr::V4(address.into()), length };
            let written = XfrmSelector {
                source: prefix(source),
                destination: prefix(destination),
                protocol,
                source_port: PortMask { value: port, mask: u16::MAX },
                destination_port: PortMask::ANY,
            };
            let mut request = Request::new(0, 0);
            written.put(&mut request);
            let bytes = request.finish(0);
            prop_assert_eq!(bytes.len() - super::super::wire::HEADER, SELECTOR);
            prop_assert_eq!(XfrmSelector::read(Bytes(&bytes[super::super::wire::HEADER..])), Some(written));
        }
    }
}
