//! Ports: who decides which of them, and the fewest prefixes that say so.
//!
//! Intervals with one outcome each become the fewest prefixes that give every port its outcome (Draves, King,
//! Venkatachary, Zill: "Constructing Optimal IP Routing Tables", 1999). An outcome that the shorter prefix around gives
//! already needs no entry.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// Every port.
pub(super) const ALL: RangeInclusive<u16> = 0..=u16::MAX;

/// Ports in a row with one outcome.
pub(super) type Segment<T> = (RangeInclusive<u16>, T);

/// The ports cut where the decider may change, in ascending order and without gaps: of those who claim a port, the
/// lowest decides.
pub(super) fn segments(
    claims: impl Iterator<Item = (u32, RangeInclusive<u16>)>,
) -> Vec<Segment<Option<u32>>> {
    let mut changes: BTreeMap<u32, Vec<(u32, bool)>> = BTreeMap::from([(0, Vec::new())]);
    for (claimant, ports) in claims {
        changes.entry((*ports.start()).into()).or_default().push((claimant, true));
        changes.entry(u32::from(*ports.end()) + 1).or_default().push((claimant, false));
    }
    // How often each claims the port at hand: its own ranges may overlap.
    let mut claimants: BTreeMap<u32, u32> = BTreeMap::new();
    let mut segments: Vec<Segment<Option<u32>>> = Vec::new();
    for (start, changes) in changes {
        for (claimant, begins) in changes {
            let times = claimants.entry(claimant).or_default();
            *times = if begins { *times + 1 } else { times.saturating_sub(1) };
            if *times == 0 {
                claimants.remove(&claimant);
            }
        }
        let Ok(start) = u16::try_from(start) else { break };
        let decider = claimants.first_key_value().map(|(claimant, _)| *claimant);
        if let Some((ports, last)) = segments.last_mut() {
            if *last == decider {
                continue;
            }
            *ports = *ports.start()..=start - 1;
        }
        segments.push((start..=u16::MAX, decider));
    }
    segments
}

/// An aligned block of ports and the outcomes with which it would need the fewest entries.
pub(super) struct Block<T> {
    best: BTreeSet<T>,
    halves: Option<Box<[Block<T>; 2]>>,
}

impl<T: Copy + Ord + Default> Block<T> {
    /// All ports, out of segments without gaps.
    pub(super) fn all(segments: &[Segment<T>]) -> Self {
        Self::new(segments, 0, 0)
    }

    /// The block whose first `bits` port bits are those of `first`.
    fn new(segments: &[Segment<T>], first: u16, bits: u32) -> Self {
        let last = first | u16::MAX.checked_shr(bits).unwrap_or(0);
        let at = segments.partition_point(|(ports, _)| *ports.end() < first);
        let (ports, outcome) = match segments.get(at) {
            Some((ports, outcome)) => (ports.clone(), *outcome),
            None => (ALL, T::default()),
        };
        if *ports.end() >= last || bits >= u16::BITS {
            return Self { best: BTreeSet::from([outcome]), halves: None };
        }
        let middle = first | 1 << (u16::BITS - 1 - bits);
        let halves = [Self::new(segments, first, bits + 1), Self::new(segments, middle, bits + 1)];
        let mut best = &halves[0].best & &halves[1].best;
        if best.is_empty() {
            best = &halves[0].best | &halves[1].best;
        }
        Self { best, halves: Some(Box::new(halves)) }
    }

    /// Hands out (first port, port bits, outcome) for every prefix whose outcome is not the one `around` it.
    pub(super) fn emit(&self, around: T, out: &mut impl FnMut(u16, u32, T)) {
        self.emit_below(around, 0, 0, out);
    }

    fn emit_below(&self, around: T, first: u16, bits: u32, out: &mut impl FnMut(u16, u32, T)) {
        let here = match self.best.contains(&around) {
            true => around,
            false => {
                let chosen = self.best.first().copied().unwrap_or_default();
                out(first, bits, chosen);
                chosen
            }
        };
        if let Some(halves) = &self.halves {
            let middle = first | 1 << (u16::BITS - 1 - bits);
            halves[0].emit_below(here, first, bits + 1, out);
            halves[1].emit_below(here, middle, bits + 1, out);
        }
    }
}
