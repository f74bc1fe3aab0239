//! Which pairs in use may carry a packet, by its destination. A port may have a thousand peers, and if the selectors of one
//! after the other were held against every packet, it would be cheap for the first peer and dear for the last.
//!
//! The addresses that selectors name cut all addresses into segments. Each segment knows the pairs that cover it, in the
//! order in which they are asked: a packet asks its own segment, and of the pairs those few.
//!
//! Cost aim: 50 ns to find a segment among those of a thousand peers. A pair that comes or goes touches the segments of its
//! own selectors, two for a network that nobody else names.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// The segments of one port, with its pairs as they are ordered: the one to ask first is the least.
#[derive(Debug)]
pub(super) struct Destinations<P> {
    /// By first address, each up to the next one's. Before the first nobody has anything.
    segments: BTreeMap<u128, Vec<P>>,
}

impl<P> Default for Destinations<P> {
    fn default() -> Self {
        Self { segments: BTreeMap::new() }
    }
}

impl<P: Copy + Ord> Destinations<P> {
    /// The pairs that name this address, the first to ask first.
    pub(super) fn covering(&self, address: u128) -> &[P] {
        self.segments.range(..=address).next_back().map_or(&[], |(_, pairs)| pairs)
    }

    /// This pair names these addresses.
    pub(super) fn insert(&mut self, addresses: &RangeInclusive<u128>, pair: P) {
        self.each(addresses, |pairs| {
            if let Err(place) = pairs.binary_search(&pair) {
                pairs.insert(place, pair);
            }
        });
    }

    /// It does not any more.
    pub(super) fn remove(&mut self, addresses: &RangeInclusive<u128>, pair: P) {
        self.each(addresses, |pairs| pairs.retain(|other| *other != pair));
    }

    /// Changes every segment of these addresses, which begin and end with a segment meanwhile.
    fn each(&mut self, addresses: &RangeInclusive<u128>, mut change: impl FnMut(&mut Vec<P>)) {
        let (first, behind) = (*addresses.start(), addresses.end().checked_add(1));
        for edge in behind.into_iter().chain([first]) {
            let before = self.covering(edge).to_vec();
            self.segments.entry(edge).or_insert(before);
        }
        for (_, pairs) in self.segments.range_mut(addresses.clone()) {
            change(pairs);
        }
        // A pair's own ranges may have met in the middle.
        let edges: Vec<u128> = self.segments.range(addresses.clone()).map(|(edge, _)| *edge).collect();
        edges.into_iter().chain(behind).for_each(|edge| self.join(edge));
    }

    /// A segment that says what the one before it says is none.
    fn join(&mut self, edge: u128) {
        let before = self.segments.range(..edge).next_back().map_or(&[][..], |(_, pairs)| pairs);
        if self.segments.get(&edge).is_some_and(|pairs| pairs == before) {
            self.segments.remove(&edge);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Few enough that ranges meet in every way, at both ends of what there is as well.
    fn ranges() -> impl Strategy<Value = RangeInclusive<u128>> {
        let address = prop_oneof![0..24_u128, u128::MAX - 7..=u128::MAX];
        (address.clone(), address).prop_map(|(one, other)| one.min(other)..=one.max(other))
    }

    proptest! {
        /// As if every pair were asked in turn, while they come and go; and in the end nothing is left of them.
        #[test]
        fn each_address_knows_the_pairs_that_name_it(
            named in prop::collection::vec(prop::collection::vec(ranges(), 1..4), 1..12),
            steps in prop::collection::vec(0..12_usize, 0..40),
        ) {
            let mut destinations = Destinations::default();
            let mut present = vec![false; named.len()];
            let all: Vec<usize> = (0..named.len()).collect();
            let ending = |present: &[bool]| -> Vec<usize> {
                all.iter().copied().filter(|pair| present[*pair]).collect()
            };
            let turn = |destinations: &mut Destinations<(u64, usize)>, present: &mut [bool], pair: usize| {
                present[pair] = !present[pair];
                for range in &named[pair] {
                    match present[pair] {
                        true => destinations.insert(range, (pair as u64, pair)),
                        false => destinations.remove(range, (pair as u64, pair)),
                    }
                }
            };
            for step in steps {
                turn(&mut destinations, &mut present, step % named.len());
                for address in (0..26).chain(u128::MAX - 9..=u128::MAX) {
                    let wanted: Vec<usize> = ending(&present)
                        .into_iter()
                        .filter(|pair| named[*pair].iter().any(|range| range.contains(&address)))
                        .collect();
                    let found: Vec<usize> =
                        destinations.covering(address).iter().map(|(_, slot)| *slot).collect();
                    prop_assert_eq!(found, wanted, "at {}", address);
                }
            }
            for pair in ending(&present) {
                turn(&mut destinations, &mut present, pair);
            }
            prop_assert!(destinations.segments.is_empty(), "{:?}", destinations);
        }
    }

    #[test]
    fn a_thousand_networks_are_two_edges_each() {
        let mut destinations = Destinations::default();
        let network = |number: usize| (number as u128 * 1024)..=(number as u128 * 1024 + 255);
        for number in 0..1000 {
            destinations.insert(&network(number), (number as u64, number));
        }
        assert_eq!(destinations.segments.len(), 2000);
        assert_eq!(destinations.covering(700 * 1024 + 9), [(700, 700)]);
        assert_eq!(destinations.covering(700 * 1024 + 256), []);
        // Another one of the same, as a rekeyed pair is for a moment.
        destinations.insert(&network(700), (700, 1001));
        destinations.remove(&network(700), (700, 700));
        assert_eq!(destinations.covering(700 * 1024), [(700, 1001)]);
        assert_eq!(destinations.segments.len(), 2000);
    }
}
