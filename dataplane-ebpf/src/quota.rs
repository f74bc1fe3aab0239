//! Counting against quotas: a slot for each host, in buckets of a shared array, changed by compare-and-exchange alone.
//!
//! A slot whose counts are zero is free for anybody. Two CPUs that count a new host at the same moment may take a slot
//! each: then it has up to twice its quota until one of the two is free again. What a flow counts is exact in any case, as
//! it remembers its slot.

use sekisho_abi::quota::{SLOTS, slot};

use crate::siphash::siphash;

/// The slots of one bucket.
pub trait Cells {
    /// The word of a slot.
    fn load(&self, at: usize) -> u64;
    /// Puts `new` in the place of `old`; gives back what was there, which is `old` if it was done.
    fn exchange(&self, at: usize, old: u64, new: u64) -> u64;
}

/// Of what a host has a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Of {
    /// Flows from it.
    Source = 1,
    /// Half-open flows to it.
    Destination = 2,
}

/// Where a host is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the bucket.
    pub bucket: u32,
    /// The slot's tag, in its bits, never zero.
    pub tag: u64,
}

impl Place {
    /// That of an address. `mask`: buckets less one.
    #[inline(always)]
    pub const fn of([first, second]: [u64; 2], of: Of, secret: &[u64; 2], mask: u32) -> Self {
        // The kind goes where no two addresses become one: both halves are whole words of their own.
        let digest = siphash::<1, 3, 3>(secret, &[first, second, of as u64]);
        Self { bucket: digest as u32 & mask, tag: (digest | 1 << slot::TAG_SHIFT) & !slot::COUNTS }
    }
}

/// The most that a host may have.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    /// Flows.
    pub flows: u32,
    /// Half-open flows.
    pub half_open: u32,
}

/// Why something is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The host has its flows.
    Flows,
    /// It has its half-open flows.
    HalfOpen,
    /// The bucket has no room, or other CPUs were quicker again and again.
    NoRoom,
}

/// How often a program tries, as others may be quicker.
const TRIES: u32 = 4;

/// The host's slot, or a free one. Out of range where there is neither.
#[inline(always)]
fn find(cells: &impl Cells, tag: u64) -> usize {
    let mut free = SLOTS;
    for at in 0..SLOTS {
        let word = cells.load(at);
        if word & !slot::COUNTS == tag {
            return at;
        }
        if word & slot::COUNTS == 0 && free == SLOTS {
            free = at;
        }
    }
    free
}

/// Counts `add`, made of [`slot::FLOW`] and [`slot::HALF_OPEN`], unless that would be more than the quota. Gives back the
/// slot.
#[inline(always)]
pub fn charge(cells: &impl Cells, tag: u64, add: u64, quota: Quota) -> Result<usize, Refused> {
    for _ in 0..TRIES {
        let at = find(cells, tag);
        if at >= SLOTS {
            return Err(Refused::NoRoom);
        }
        let old = cells.load(at);
        let own = if old & !slot::COUNTS == tag {
            old
        } else if old & slot::COUNTS == 0 {
            tag
        } else {
            continue;
        };
        if slot::flows(add) != 0 && slot::flows(own) >= quota.flows {
            return Err(Refused::Flows);
        }
        if slot::half_open(add) != 0 && slot::half_open(own) >= quota.half_open {
            return Err(Refused::HalfOpen);
        }
        if cells.exchange(at, old, own.wrapping_add(add)) == old {
            return Ok(at);
        }
    }
    Err(Refused::NoRoom)
}

/// Gives back what was counted in a slot; `false` where others were quicker each time.
#[inline(always)]
pub fn give_back(cells: &impl Cells, at: usize, sub: u64) -> bool {
    for _ in 0..2 * TRIES {
        let old = cells.load(at);
        if cells.exchange(at, old, slot::less(old, sub)) == old {
            return true;
        }
    }
    false
}

/// What is counted of a host.
#[inline(always)]
pub fn counted(cells: &impl Cells, tag: u64) -> u64 {
    let at = find(cells, tag);
    if at >= SLOTS {
        return 0;
    }
    let word = cells.load(at);
    if word & !slot::COUNTS == tag { word & slot::COUNTS } else { 0 }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicU64, Ordering};

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Words([AtomicU64; SLOTS]);

    impl Cells for Words {
        fn load(&self, at: usize) -> u64 {
            self.0[at].load(Ordering::SeqCst)
        }

        fn exchange(&self, at: usize, old: u64, new: u64) -> u64 {
            match self.0[at].compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(found) | Err(found) => found,
            }
        }
    }

    const SECRET: [u64; 2] = [1, 2];

    fn tag(host: u64) -> u64 {
        Place::of([0, host], Of::Source, &SECRET, 0).tag
    }

    #[test]
    fn a_host_gets_its_quota_and_no_more() {
        let cells = Words::default();
        let quota = Quota { flows: 3, half_open: 2 };
        let half = slot::FLOW + slot::HALF_OPEN;
        let at = charge(&cells, tag(1), half, quota).expect("the first");
        assert_eq!(charge(&cells, tag(1), half, quota), Ok(at));
        assert_eq!(charge(&cells, tag(1), half, quota), Err(Refused::HalfOpen));
        assert_eq!(charge(&cells, tag(1), slot::FLOW, quota), Ok(at));
        assert_eq!(charge(&cells, tag(1), slot::FLOW, quota), Err(Refused::Flows));
        assert!(charge(&cells, tag(2), half, quota).is_ok(), "another host");
        assert!(give_back(&cells, at, slot::HALF_OPEN) && give_back(&cells, at, slot::FLOW));
        assert_eq!(counted(&cells, tag(1)), 2 * slot::FLOW + slot::HALF_OPEN);
        assert_eq!(charge(&cells, tag(1), half, quota), Ok(at));
        assert_eq!(counted(&cells, tag(3)), 0);
    }

    #[test]
    fn a_full_bucket_refuses_and_a_free_slot_is_used_again() {
        let cells = Words::default();
        let quota = Quota { flows: 9, half_open: 9 };
        let slots: Vec<usize> =
            (0..8).map(|host| charge(&cells, tag(host), slot::FLOW, quota).expect("room")).collect();
        assert_eq!(slots, (0..8).collect::<Vec<_>>());
        assert_eq!(charge(&cells, tag(8), slot::FLOW, quota), Err(Refused::NoRoom));
        assert!(give_back(&cells, 5, slot::FLOW));
        assert_eq!(charge(&cells, tag(8), slot::FLOW, quota), Ok(5));
        assert_eq!(counted(&cells, tag(5)), 0);
        assert!(give_back(&cells, 5, 7 * slot::FLOW + slot::HALF_OPEN), "never below zero");
        assert_eq!(cells.load(5), tag(8));
    }

    #[test]
    fn an_address_counts_apart_as_source_and_as_destination() {
        let place = |host, of| Place::of([0, host], of, &SECRET, 0xff);
        assert_ne!(place(1, Of::Source).tag, place(1, Of::Destination).tag);
        assert_ne!(place(1, Of::Source), place(2, Of::Source));
        assert_ne!(place(1, Of::Source), Place::of([0, 1], Of::Source, &[1, 3], 0xff));
    }

    /// What was taken and given back by several CPUs at once adds up.
    #[test]
    fn cpus_at_the_same_time() {
        const EACH: usize = 20_000;
        let cells = Words::default();
        let quota = Quota { flows: 1_000_000, half_open: 60_000 };
        let kept = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4_u64)
                .map(|cpu| {
                    let cells = &cells;
                    scope.spawn(move || {
                        let mut kept = [0_u64; 3];
                        for round in 0..EACH {
                            let host = (round as u64 + cpu) % 3;
                            let Ok(at) = charge(cells, tag(host), slot::FLOW + slot::HALF_OPEN, quota) else {
                                continue;
                            };
                            while !give_back(cells, at, slot::HALF_OPEN) {}
                            if round % 2 == 0 {
                                while !give_back(cells, at, slot::FLOW) {}
                            } else {
                                kept[usize::try_from(host).expect("small")] += 1;
                            }
                        }
                        kept
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Vec<_>>()
        });
        for host in 0..3_u64 {
            let expected: u64 = kept.iter().map(|kept| kept[usize::try_from(host).expect("small")]).sum();
            // In one slot or in two.
            let counted: u64 = (0..SLOTS)
                .map(|at| cells.load(at))
                .filter(|word| word & !slot::COUNTS == tag(host))
                .map(|word| word & slot::COUNTS)
                .sum();
            assert_eq!(counted, expected);
        }
    }

    proptest! {
        /// Against a model that simply counts.
        #[test]
        fn counts_are_exact(steps in prop::collection::vec((0_u64..5, any::<bool>(), any::<bool>()), 1..200)) {
            let cells = Words::default();
            let quota = Quota { flows: 4, half_open: 2 };
            let mut model: HashMap<u64, Vec<(usize, bool)>> = HashMap::new();
            for (host, opens, half) in steps {
                let flows = model.entry(host).or_default();
                if opens {
                    let add = slot::FLOW + if half { slot::HALF_OPEN } else { 0 };
                    let halves = flows.iter().filter(|(_, half)| *half).count();
                    let allowed = flows.len() < 4 && (!half || halves < 2);
                    let charged = charge(&cells, tag(host), add, quota);
                    prop_assert_eq!(charged.is_ok(), allowed);
                    flows.extend(charged.map(|at| (at, half)));
                } else if let Some((at, half)) = flows.pop() {
                    let sub = slot::FLOW + if half { slot::HALF_OPEN } else { 0 };
                    prop_assert!(give_back(&cells, at, sub));
                }
            }
            for (host, flows) in model {
                let halves = flows.iter().filter(|(_, half)| *half).count() as u64;
                let expected = flows.len() as u64 * slot::FLOW + halves * slot::HALF_OPEN;
                prop_assert_eq!(counted(&cells, tag(host)), expected);
            }
        }
    }
}
