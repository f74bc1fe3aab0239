//! The numbers by which the programs know ports, zones and policies.
//!
//! Flows, counters and rules in the kernel speak by number. A changed configuration therefore keeps the number of
//! every port, zone and policy that it still has, and gives a new one a number that nothing speaks by. The numbers in force
//! are written beside the gateway's other state, one a line: `port 1 lan1`, `vpn 6 centre`, `zone 1 lan1`,
//! `policy 1 print`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use sekisho_abi::map::{PORTS_MAX, RULE_IDS_MAX};
use sekisho_abi::quota::ZONES_MAX;

use super::{PortId, ZoneId};

/// What a number stands for. Ports and the VPN zones' ports share their numbers; zones and policies have their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A physical port.
    Port,
    /// The port of a VPN zone.
    Vpn,
    /// A zone.
    Zone,
    /// A policy.
    Policy,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Port, Kind::Vpn, Kind::Zone, Kind::Policy];

    fn word(self) -> &'static str {
        match self {
            Kind::Port => "port",
            Kind::Vpn => "vpn",
            Kind::Zone => "zone",
            Kind::Policy => "policy",
        }
    }

    fn bound(self) -> u32 {
        match self {
            Kind::Port | Kind::Vpn => PORTS_MAX,
            Kind::Zone => ZONES_MAX,
            Kind::Policy => RULE_IDS_MAX,
        }
    }

    /// Two things of kinds with one family may not have one number.
    fn family(self) -> Kind {
        if self == Kind::Vpn { Kind::Port } else { self }
    }
}

/// Numbers by kind and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers(BTreeMap<(Kind, String), u16>);

impl Numbers {
    /// Reads what [`Numbers`]' `Display` wrote. `None` for anything else: then the numbers in the kernel mean nothing
    /// that could be relied on.
    pub fn parse(text: &str) -> Option<Numbers> {
        let mut numbers = BTreeMap::new();
        let mut taken = BTreeSet::new();
        for line in text.lines() {
            let mut words = line.splitn(3, ' ');
            let word = words.next()?;
            let kind = Kind::ALL.into_iter().find(|kind| kind.word() == word)?;
            let number: u16 = words.next()?.parse().ok()?;
            let name = words.next().filter(|name| !name.is_empty())?;
            if number == 0 || u32::from(number) >= kind.bound() || !taken.insert((kind.family(), number)) {
                return None;
            }
            if numbers.insert((kind, name.to_owned()), number).is_some() {
                return None;
            }
        }
        Some(Numbers(numbers))
    }

    /// The numbers of these things: the old one where there is one, else the lowest that no present or former one has.
    /// Once those are used up, numbers of what is gone are given again.
    pub(super) fn next<'n>(&self, wanted: impl IntoIterator<Item = (Kind, &'n str)>) -> Numbers {
        let wanted: Vec<(Kind, &str)> = wanted.into_iter().collect();
        let mut next = Numbers::default();
        for &(kind, name) in &wanted {
            if let Some(&number) = self.0.get(&(kind, name.to_owned())) {
                next.0.insert((kind, name.to_owned()), number);
            }
        }
        let of = |numbers: &Numbers| -> BTreeSet<(Kind, u16)> {
            numbers.0.iter().map(|((kind, _), number)| (kind.family(), *number)).collect()
        };
        let (former, mut present) = (of(self), of(&next));
        // Where the search for a free number goes on, so that many new names take no longer than few.
        let mut from: BTreeMap<(Kind, bool), u16> = BTreeMap::new();
        for &(kind, name) in &wanted {
            if next.of(kind, name).is_some() {
                continue;
            }
            let mut free = |again: bool| {
                let from = from.entry((kind.family(), again)).or_insert(1);
                let found = (*from..u16::MAX).take_while(|&number| u32::from(number) < kind.bound()).find(
                    |&number| {
                        let number = (kind.family(), number);
                        !present.contains(&number) && (again || !former.contains(&number))
                    },
                );
                *from = found.unwrap_or(u16::MAX);
                found
            };
            // A file with more than fits is refused where its zones, or policies, are read.
            let number = free(false).or_else(|| free(true)).unwrap_or(u16::MAX);
            present.insert((kind.family(), number));
            next.0.insert((kind, name.to_owned()), number);
        }
        next
    }

    pub(super) fn of(&self, kind: Kind, name: &str) -> Option<u16> {
        self.0.get(&(kind, name.to_owned())).copied()
    }

    pub(super) fn port(&self, kind: Kind, name: &str) -> PortId {
        self.of(kind, name).unwrap_or(u16::MAX)
    }

    pub(super) fn zone(&self, name: &str) -> ZoneId {
        self.of(Kind::Zone, name).unwrap_or(u16::MAX)
    }

    pub(super) fn policy(&self, name: &str) -> u16 {
        self.of(Kind::Policy, name).unwrap_or(0)
    }

    /// These and the others together, where no number means two things.
    pub fn with(&self, others: &Numbers) -> Option<Numbers> {
        let both =
            Numbers(self.0.iter().chain(&others.0).map(|(name, number)| (name.clone(), *number)).collect());
        let same =
            |numbers: &Numbers| numbers.0.iter().all(|(name, number)| both.0.get(name) == Some(number));
        (same(self) && same(others))
            .then_some(both)
            .filter(|both| Numbers::parse(&both.to_string()).is_some())
    }

    /// Numbers of ports that stand for something here that they did not stand for before.
    pub fn new_ports<'a>(&'a self, before: &'a Numbers) -> impl Iterator<Item = PortId> + 'a {
        self.new_of(Kind::Port, before)
    }

    /// The same for policies.
    pub fn new_policies<'a>(&'a self, before: &'a Numbers) -> impl Iterator<Item = u16> + 'a {
        self.new_of(Kind::Policy, before)
    }

    fn new_of<'a>(&'a self, family: Kind, before: &'a Numbers) -> impl Iterator<Item = u16> + 'a {
        self.0
            .iter()
            .filter(move |((kind, _), _)| kind.family() == family)
            .filter(|(name, number)| before.0.get(*name) != Some(*number))
            .map(|(_, number)| *number)
    }
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((kind, name), number) in &self.0 {
            writeln!(f, "{} {number} {name}", kind.word())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first() -> Numbers {
        Numbers::default().next([
            (Kind::Port, "lan1"),
            (Kind::Port, "wan"),
            (Kind::Vpn, "centre"),
            (Kind::Zone, "lan1"),
            (Kind::Zone, "wan"),
            (Kind::Zone, "centre"),
        ])
    }

    #[test]
    fn numbers_are_given_in_order_and_read_back() {
        let numbers = first();
        assert_eq!(
            numbers.to_string(),
            "port 1 lan1\nport 2 wan\nvpn 3 centre\nzone 3 centre\nzone 1 lan1\nzone 2 wan\n"
        );
        assert_eq!(Numbers::parse(&numbers.to_string()), Some(numbers));
    }

    #[test]
    fn what_stays_keeps_its_number_and_no_number_is_given_again_at_once() {
        let next = first().next([(Kind::Port, "lan9"), (Kind::Port, "wan"), (Kind::Zone, "wan")]);
        assert_eq!(next.of(Kind::Port, "wan"), Some(2));
        assert_eq!(next.of(Kind::Zone, "wan"), Some(2));
        assert_eq!(next.of(Kind::Port, "lan9"), Some(4), "1 was lan1's and 3 centre's a moment ago");
        assert_eq!(next.new_ports(&first()).collect::<Vec<_>>(), [4]);
    }

    #[test]
    fn numbers_that_are_used_up_are_given_again() {
        let names: Vec<String> = (1..PORTS_MAX).map(|n| format!("p{n}")).collect();
        let full = Numbers::default().next(names.iter().map(|name| (Kind::Port, name.as_str())));
        let next = full.next([(Kind::Port, "p5"), (Kind::Port, "new")]);
        assert_eq!((next.of(Kind::Port, "p5"), next.of(Kind::Port, "new")), (Some(5), Some(1)));
        assert_eq!(full.with(&next), None, "number 1 cannot mean two ports");
    }

    #[test]
    fn what_cannot_be_relied_on_is_not_read() {
        for text in [
            "port 1",
            "port x lan1",
            "port 0 lan1",
            "port 256 lan1",
            "gate 1 lan1",
            "port 1 lan1\nvpn 1 centre",
            "port 1 lan1\nport 2 lan1",
            "port 1 ",
        ] {
            assert_eq!(Numbers::parse(text), None, "{text:?}");
        }
        assert!(Numbers::parse("port 1 lan1\nzone 1 lan1").is_some(), "ports and zones are counted apart");
    }
}
