//! Addresses by class: two addresses are of one class when they are in the same sets.

use std::collections::HashMap;

use ipnet::IpNet;
use sekisho_abi::Address;
use sekisho_abi::rule::CLASS_ANY;

use crate::config::{AddressSet, trie_prefix};

/// Bits of `::ffff:0:0/96`, in which IPv4 lives: what an IPv6 prefix around it says is not meant for IPv4.
const MAPPED_BITS: u32 = 96;
const MAPPED: u128 = 0xffff_0000_0000;

/// In the place of a set: here IPv4 begins.
const IPV4_BEGINS: u32 = u32::MAX;

/// The classes that some sets make of all addresses.
#[derive(Default)]
pub(super) struct Classes {
    /// Prefix length (IPv4: from 96), address and class; an address belongs to the longest prefix around it, and to
    /// [`CLASS_ANY`] where there is none.
    pub(super) prefixes: Vec<(u32, Address, u32)>,
    /// The classes of each set's addresses, ascending.
    of_set: Vec<Vec<u32>>,
}

impl Classes {
    /// Those of these sets.
    pub(super) fn of(sets: &[AddressSet]) -> Self {
        let mut entries: Vec<(u128, u32, u32)> = Vec::new();
        for (number, set) in (0..).zip(sets) {
            entries.extend(set.prefixes.iter().map(|prefix| entry(*prefix, number)));
        }
        entries.push((MAPPED, MAPPED_BITS, IPV4_BEGINS));
        // A prefix stands before those inside of it.
        entries.sort_unstable();
        entries.dedup();

        let mut known = Memberships::default();
        let mut prefixes = Vec::new();
        let mut around: Vec<(u128, u32, u32)> = Vec::new();
        for group in entries.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let Some(&(address, bits, _)) = group.first() else { continue };
            while around.pop_if(|(outer, outer_bits, _)| !covers(*outer, *outer_bits, address)).is_some() {}
            let outer = around.last().map_or(CLASS_ANY, |(_, _, class)| *class);
            let begins = group.iter().any(|(_, _, set)| *set == IPV4_BEGINS);
            let mut class = if begins { CLASS_ANY } else { outer };
            for &(_, _, set) in group.iter().filter(|(_, _, set)| *set != IPV4_BEGINS) {
                class = known.with(class, set);
            }
            if class != outer {
                prefixes.push((bits, address.to_be_bytes(), class));
            }
            around.push((address, bits, class));
        }
        let mut of_set = vec![Vec::new(); sets.len()];
        for (class, members) in (1..).zip(&known.members) {
            for &set in members {
                if let Some(classes) = usize::try_from(set).ok().and_then(|set| of_set.get_mut(set)) {
                    classes.push(class);
                }
            }
        }
        Self { prefixes, of_set }
    }

    /// The classes of the addresses in any of these sets, ascending.
    pub(super) fn of_any(&self, sets: &[usize]) -> Vec<u32> {
        let mut classes: Vec<u32> =
            sets.iter().filter_map(|&set| self.of_set.get(set)).flatten().copied().collect();
        classes.sort_unstable();
        classes.dedup();
        classes
    }
}

fn entry(prefix: IpNet, set: u32) -> (u128, u32, u32) {
    let (bits, address) = trie_prefix(prefix);
    (u128::from_be_bytes(address), bits, set)
}

/// Whether an address begins with these bits.
fn covers(prefix: u128, bits: u32, address: u128) -> bool {
    bits == 0 || (prefix ^ address) >> (128 - bits) == 0
}

/// Which sets the addresses of a class are in; class `n` stands at `n − 1`.
#[derive(Default)]
struct Memberships {
    members: Vec<Vec<u32>>,
    numbers: HashMap<Vec<u32>, u32>,
    steps: HashMap<(u32, u32), u32>,
}

impl Memberships {
    /// The class of what is in all sets of a class, and in this one.
    fn with(&mut self, class: u32, set: u32) -> u32 {
        if let Some(known) = self.steps.get(&(class, set)) {
            return *known;
        }
        let at = usize::try_from(class).unwrap_or(usize::MAX).checked_sub(1);
        let mut members = at.and_then(|at| self.members.get(at)).cloned().unwrap_or_default();
        if let Err(place) = members.binary_search(&set) {
            members.insert(place, set);
        }
        let number = match self.numbers.get(&members) {
            Some(number) => *number,
            None => {
                self.members.push(members.clone());
                let number = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
                self.numbers.insert(members, number);
                number
            }
        };
        self.steps.insert((class, set), number);
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(prefixes: &[&str]) -> AddressSet {
        AddressSet {
            prefixes: prefixes.iter().map(|text| text.parse().expect("a prefix")).collect(),
            ..AddressSet::default()
        }
    }

    fn class(classes: &Classes, address: &str) -> u32 {
        let (_, address) = trie_prefix(IpNet::from(address.parse::<std::net::IpAddr>().expect("an address")));
        let address = u128::from_be_bytes(address);
        let around =
            |&&(bits, prefix, _): &&(u32, Address, u32)| covers(u128::from_be_bytes(prefix), bits, address);
        classes
            .prefixes
            .iter()
            .filter(around)
            .max_by_key(|(bits, ..)| *bits)
            .map_or(0, |(_, _, class)| *class)
    }

    #[test]
    fn addresses_of_the_same_sets_are_of_one_class() {
        let classes =
            Classes::of(&[set(&["10.0.0.0/8"]), set(&["10.1.0.0/16", "10.2.0.0/16", "192.0.2.7/32"])]);
        let (outside, wide) = (class(&classes, "192.0.2.1"), class(&classes, "10.9.9.9"));
        let both = class(&classes, "10.1.2.3");
        assert_eq!(outside, CLASS_ANY);
        assert_eq!(both, class(&classes, "10.2.0.0"));
        assert_ne!(both, wide);
        assert_ne!(class(&classes, "192.0.2.7"), both);
        assert_eq!(classes.of_any(&[0]).len(), 2);
        assert_eq!(classes.of_any(&[0, 1]).len(), 3);
    }

    #[test]
    fn all_of_ipv6_is_not_ipv4() {
        let classes = Classes::of(&[set(&["::/0"]), set(&["0.0.0.0/0"])]);
        assert_ne!(class(&classes, "2001:db8::1"), class(&classes, "10.0.0.1"));
        let classes = Classes::of(&[set(&["::/0"])]);
        assert_ne!(class(&classes, "2001:db8::1"), CLASS_ANY);
        assert_eq!(class(&classes, "10.0.0.1"), CLASS_ANY);
    }

    #[test]
    fn what_adds_nothing_is_no_prefix() {
        assert_eq!(Classes::of(&[set(&["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32"])]).prefixes.len(), 1);
        assert!(Classes::of(&[]).prefixes.is_empty());
    }
}
