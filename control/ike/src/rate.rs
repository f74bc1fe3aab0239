//! How often something may happen, in all and for each source (the "leaky bucket as a meter" of ATM and RFC 2697 kin):
//! one moment in time for each, no timer, and no more memory than for so many sources.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::strangers::Source;

/// Sources that are metered at a time. A flood with forged addresses fills any table: who finds no place in it is held by
/// the limit for all only, and by cookies.
const SOURCES: usize = 4096;

/// So often, with bursts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    /// Between two.
    pub(crate) interval: Duration,
    /// At once, after a pause.
    pub(crate) burst: u32,
}

impl Rate {
    pub(crate) const fn per_second(count: u32, burst: u32) -> Self {
        Self { interval: Duration::from_nanos(1_000_000_000 / count as u64), burst }
    }

    /// When what happens now is worn off, if it may happen. `until`: when what was before is.
    fn take(self, now: Instant, until: Option<Instant>) -> Option<Instant> {
        let from = until.map_or(now, |until| until.max(now));
        let ahead = from.saturating_duration_since(now);
        (ahead < self.interval * self.burst).then(|| from + self.interval)
    }
}

/// Counts something against a rate for all and one for each source.
#[derive(Debug)]
pub(crate) struct Meter {
    all: Rate,
    each: Rate,
    worn_off: Option<Instant>,
    by_source: BTreeMap<Source, Instant>,
}

impl Meter {
    pub(crate) const fn new(all: Rate, each: Rate) -> Self {
        Self { all, each, worn_off: None, by_source: BTreeMap::new() }
    }

    /// Whether it may happen once more; if so, it counts. `trusted`: the source is held by the rate for all alone.
    pub(crate) fn admits(&mut self, now: Instant, source: Source, trusted: bool) -> bool {
        let own = match self.by_source.get(&source).copied() {
            _ if trusted => None,
            None if !self.has_place(now) => None,
            until => match self.each.take(now, until) {
                Some(until) => Some(until),
                None => return false,
            },
        };
        let Some(until) = self.all.take(now, self.worn_off) else { return false };
        self.worn_off = Some(until);
        self.by_source.extend(own.map(|until| (source, until)));
        true
    }

    /// Whether another source can be metered; those whose time has worn off make room.
    fn has_place(&mut self, now: Instant) -> bool {
        if self.by_source.len() >= SOURCES {
            self.by_source.retain(|_, until| *until > now);
        }
        self.by_source.len() < SOURCES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: u32) -> Source {
        Source::V4(number.into())
    }

    #[test]
    fn a_burst_then_so_many_a_second() {
        let now = Instant::now();
        let mut meter = Meter::new(Rate::per_second(1000, 1000), Rate::per_second(10, 5));
        let count = |meter: &mut Meter, at, source| {
            (0..100).filter(|_| meter.admits(now + Duration::from_millis(at), source, false)).count()
        };
        assert_eq!(count(&mut meter, 0, source(1)), 5);
        assert_eq!(count(&mut meter, 0, source(2)), 5, "each for itself");
        assert_eq!(count(&mut meter, 200, source(1)), 2);
        assert_eq!(count(&mut meter, 10_000, source(1)), 5);
        let later = now + Duration::from_secs(20);
        assert!((0..100).all(|_| meter.admits(later, source(3), true)));
    }

    #[test]
    fn all_together_are_held_too_and_memory_is_bounded() {
        let now = Instant::now();
        let mut meter = Meter::new(Rate::per_second(1000, 100), Rate::per_second(10, 5));
        let admitted = (0..1000).filter(|number| meter.admits(now, source(*number), false)).count();
        assert_eq!(admitted, 100);
        let mut meter = Meter::new(Rate::per_second(1_000_000, 1_000_000), Rate::per_second(10, 5));
        assert!((0..100_000).all(|number| meter.admits(now, source(number), false)));
        assert_eq!(meter.by_source.len(), SOURCES);
        meter.admits(now + Duration::from_secs(10), source(200_000), false);
        assert!(meter.by_source.len() < 10, "what has worn off is forgotten");
    }
}
