//! Whether the counts of quotas are those of the flows there are. A daemon that dies between taking a flow out of the table
//! and giving back what it counted leaves a count too high for ever; each sweep, which sees every flow anyway, finds that.
//!
//! Flows come and go while the sweep looks: a count that changed meanwhile is left for another time, and what differs in
//! the same direction several times in a row by at least so much is put right by so much.

use std::collections::{HashMap, HashSet};

use sekisho_abi::flow::Flow;
use sekisho_abi::quota::{ZONES_MAX, slot};

use super::counts::{Counts, destination_slot};

/// Looks that must agree.
const AGREE: u32 = 3;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Counter {
    /// Flows in a slot, by its number.
    Flows(u32),
    /// Half-open flows in a slot.
    HalfOpen(u32),
    /// Flows of a zone.
    Zone(u32),
}

/// What earlier looks have found.
#[derive(Debug, Default)]
pub(super) struct Audit {
    /// By how much a count is too high (or, below zero, too low) at least, and in how many looks.
    suspects: HashMap<Counter, (i64, u32)>,
}

/// One look: the counts before the flows were seen, and what the flows account for.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    before: HashMap<Counter, i64>,
    seen: HashMap<Counter, i64>,
}

impl Look {
    /// The counts as they are now; the flows are seen after that.
    pub(super) fn begin(counts: &Counts) -> Look {
        Look { before: all(counts), seen: HashMap::new() }
    }

    /// A flow that was made before the look began.
    pub(super) fn saw(&mut self, flow: &Flow) {
        if flow.source_slot != 0 {
            self.add(Counter::Flows(flow.source_slot));
        }
        if flow.half_open != 0 {
            for number in [flow.source_slot, destination_slot(flow)].into_iter().filter(|number| *number != 0)
            {
                self.add(Counter::HalfOpen(number));
            }
        }
        self.add(Counter::Zone(flow.quota_zone));
    }

    /// The look ends. What is off, of counts that have not changed meanwhile.
    pub(super) fn end(self, counts: &Counts) -> HashMap<Counter, i64> {
        self.off(&all(counts))
    }

    fn add(&mut self, counter: Counter) {
        *self.seen.entry(counter).or_default() += 1;
    }

    fn off(self, after: &HashMap<Counter, i64>) -> HashMap<Counter, i64> {
        let of = |counts: &HashMap<Counter, i64>, counter: &Counter| {
            counts.get(counter).copied().unwrap_or_default()
        };
        let counters: HashSet<Counter> = self.before.keys().chain(self.seen.keys()).copied().collect();
        counters
            .into_iter()
            .filter(|counter| of(&self.before, counter) == of(after, counter))
            .map(|counter| (counter, of(&self.before, &counter) - of(&self.seen, &counter)))
            .filter(|(_, off)| *off != 0)
            .collect()
    }
}

/// Every count that is not zero.
fn all(counts: &Counts) -> HashMap<Counter, i64> {
    let of_slots = counts.slots().flat_map(|(number, word)| {
        let flows = (Counter::Flows(number), i64::from(slot::flows(word)));
        [flows, (Counter::HalfOpen(number), i64::from(slot::half_open(word)))]
    });
    let of_zones = (0..ZONES_MAX)
        .map(|zone| (Counter::Zone(zone), i64::try_from(counts.zone(zone).0).unwrap_or(i64::MAX)));
    of_slots.chain(of_zones).filter(|(_, count)| *count != 0).collect()
}

impl Audit {
    /// What must be added to which count, now that a look has found these to be off.
    pub(super) fn conclude(&mut self, off: HashMap<Counter, i64>) -> Vec<(Counter, i64)> {
        let mut corrections = Vec::new();
        let mut suspects = HashMap::new();
        for (counter, off) in off {
            let (least, times) = match self.suspects.get(&counter) {
                Some((before, times)) if before.signum() == off.signum() => {
                    (if before.abs() < off.abs() { *before } else { off }, times + 1)
                }
                _ => (off, 1),
            };
            if times < AGREE {
                suspects.insert(counter, (least, times));
            } else {
                corrections.push((counter, -least));
            }
        }
        self.suspects = suspects;
        corrections
    }
}

/// Puts a count right.
pub(super) fn correct(counts: &Counts, counter: Counter, add: i64) {
    let slot = |number, one: u64| {
        let amount = one * add.unsigned_abs();
        counts.change_slot(number, |word| match add < 0 {
            true => slot::less(word, amount),
            false => word.wrapping_add(amount),
        });
    };
    match counter {
        Counter::Flows(number) => slot(number, slot::FLOW),
        Counter::HalfOpen(number) => slot(number, slot::HALF_OPEN),
        Counter::Zone(zone) => counts.change_zone(zone, add),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sekisho_abi::quota::IS_HALF_OPEN;

    use super::*;

    fn off(off: &[(Counter, i64)]) -> HashMap<Counter, i64> {
        off.iter().copied().collect()
    }

    #[test]
    fn what_is_off_again_and_again_is_put_right() {
        let mut audit = Audit::default();
        let zone = Counter::Zone(1);
        assert!(audit.conclude(off(&[(zone, 7)])).is_empty());
        assert!(audit.conclude(off(&[(zone, 5)])).is_empty());
        assert_eq!(audit.conclude(off(&[(zone, 9)])), [(zone, -5)]);
        assert!(audit.conclude(off(&[])).is_empty());
    }

    #[test]
    fn what_comes_and_goes_is_left_alone() {
        let mut audit = Audit::default();
        let slot = Counter::Flows(3);
        for by in
            [Some(1), Some(2), Some(-1), Some(4), None, Some(1), Some(1), None, Some(-2), Some(-2), Some(3)]
        {
            let found: Vec<_> = by.map(|by| (slot, by)).into_iter().collect();
            assert!(audit.conclude(off(&found)).is_empty(), "{by:?}");
        }
    }

    #[test]
    fn a_count_that_changes_meanwhile_is_left_for_another_time() {
        let counts = off(&[(Counter::Zone(1), 3), (Counter::Flows(7), 2)]);
        let look = Look { before: counts, seen: off(&[(Counter::Zone(1), 1)]) };
        let after = off(&[(Counter::Zone(1), 4), (Counter::Flows(7), 2)]);
        assert_eq!(look.off(&after), off(&[(Counter::Flows(7), 2)]));
    }

    proptest! {
        /// Whatever flows there are: what they count is found, and nothing else.
        #[test]
        fn flows_account_for_their_counts(
            flows in prop::collection::vec((0_u32..5, prop::option::of(0_u32..5), 0_u32..3), 0..60),
            leak in prop::option::of((0_u32..3, 1_i64..4)),
        ) {
            let flows: Vec<Flow> = flows
                .into_iter()
                .map(|(source_slot, destination, quota_zone)| Flow {
                    source_slot,
                    half_open: destination.map_or(0, |slot| IS_HALF_OPEN | u64::from(slot)),
                    quota_zone,
                    ..Flow::default()
                })
                .collect();
            let mut audit = Audit::default();
            let mut found = Vec::new();
            for _ in 0..AGREE {
                let mut look = Look::default();
                let mut count = |counter| *look.before.entry(counter).or_default() += 1;
                for flow in &flows {
                    // As the programs count.
                    if flow.source_slot != 0 {
                        count(Counter::Flows(flow.source_slot));
                    }
                    if flow.half_open != 0 {
                        let slots = [flow.source_slot, destination_slot(flow)];
                        slots.iter().filter(|slot| **slot != 0).for_each(|slot| count(Counter::HalfOpen(*slot)));
                    }
                    count(Counter::Zone(flow.quota_zone));
                }
                if let Some((zone, off)) = leak {
                    *look.before.entry(Counter::Zone(zone)).or_default() += off;
                }
                flows.iter().for_each(|flow| look.saw(flow));
                let after = look.before.clone();
                found = audit.conclude(look.off(&after));
            }
            let expected: Vec<_> = leak.iter().map(|(zone, off)| (Counter::Zone(*zone), -off)).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
