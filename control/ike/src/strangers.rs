//! How many places strangers hold, in all and from each source: one address that begins handshakes and never ends them
//! must not lock out everybody else.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

/// Who is behind an address: of IPv6, a host has a whole /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    V4(Ipv4Addr),
    V6Network([u8; 8]),
}

impl Source {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Source::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Source::V6Network([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// How full the engine is with strangers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) total: usize,
    pub(crate) from_source: usize,
}

/// The places held.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    total: usize,
    by_source: BTreeMap<Source, usize>,
    /// Places without an IKE SA, and until when: those of key exchanges that came to nothing.
    spent: VecDeque<(Instant, Source)>,
}

impl Strangers {
    pub(crate) fn enter(&mut self, source: Source) {
        self.total += 1;
        *self.by_source.entry(source).or_default() += 1;
    }

    pub(crate) fn total(&self) -> usize {
        self.total
    }

    pub(crate) fn leave(&mut self, source: Source) {
        if let Some(count) = self.by_source.get_mut(&source) {
            self.total -= 1;
            *count -= 1;
            if *count == 0 {
                self.by_source.remove(&source);
            }
        }
    }

    /// A key exchange left no IKE SA. It has cost as much as one that did, so it holds a place for as long; else whoever
    /// sends public values that are none could have us make keys without ever being asked for a cookie.
    pub(crate) fn spend(&mut self, until: Instant, source: Source) {
        self.enter(source);
        self.spent.push_back((until, source));
    }

    pub(crate) fn load(&mut self, now: Instant, source: Source) -> Load {
        while let Some(&(until, spent)) = self.spent.front()
            && until <= now
        {
            self.spent.pop_front();
            self.leave(spent);
        }
        Load { total: self.total, from_source: self.by_source.get(&source).copied().unwrap_or(0) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn source(address: &str) -> Source {
        Source::of(address.parse().expect("address"))
    }

    #[test]
    fn a_source_is_an_address_or_a_network_of_64_bits() {
        assert_eq!(source("192.0.2.1"), source("::ffff:192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("2001:db8:1:1::1"), source("2001:db8:1:1:ffff::2"));
        assert_ne!(source("2001:db8:1:1::1"), source("2001:db8:1:2::1"));
    }

    #[test]
    fn places_are_counted_and_given_back() {
        let now = Instant::now();
        let later = now + Duration::from_secs(30);
        let (one, other) = (source("192.0.2.1"), source("192.0.2.2"));
        let mut strangers = Strangers::default();
        strangers.enter(one);
        strangers.enter(other);
        strangers.spend(later, one);
        assert_eq!(strangers.load(now, one), Load { total: 3, from_source: 2 });
        strangers.leave(one);
        assert_eq!(strangers.load(now, one), Load { total: 2, from_source: 1 });
        assert_eq!(strangers.load(later, one), Load { total: 1, from_source: 0 });
        strangers.leave(other);
        assert_eq!(strangers.load(later, other), Load { total: 0, from_source: 0 });
        assert!(strangers.by_source.is_empty() && strangers.spent.is_empty());
    }
}
