//! How soon what others take away is made once more: at once, and then less and less often, for a network manager that
//! takes itself for its owner does not tire.

use std::time::{Duration, Instant};

/// Between the first time and the second. Each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// No pause is longer; after as long a time without a repair the first pause holds again.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The repairs of one thing.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    /// When the last one was begun, and the pause behind it.
    last: Option<(Instant, Duration)>,
    unfinished: bool,
}

impl Repairs {
    /// Whether the last one failed: it is due again, whatever there is.
    pub(super) fn is_unfinished(&self) -> bool {
        self.unfinished
    }

    /// Begins one, and says how long the pause behind it is. `None`: the pause behind the last one is not over.
    pub(super) fn begin(&mut self, now: Instant) -> Option<Duration> {
        let pause = match self.last {
            Some((at, pause)) if now < at + pause => return None,
            Some((at, pause)) if now < at + pause + LONGEST_PAUSE => (pause * 2).min(LONGEST_PAUSE),
            _ => FIRST_PAUSE,
        };
        self.last = Some((now, pause));
        self.unfinished = true;
        Some(pause)
    }

    /// All is there.
    pub(super) fn finish(&mut self) {
        self.unfinished = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pauses_grow_and_are_forgotten() {
        let start = Instant::now();
        let mut repairs = Repairs::default();
        let mut begun = Vec::new();
        for second in 0..=130 {
            if repairs.begin(start + Duration::from_secs(second)).is_some() {
                begun.push(second);
            }
        }
        assert_eq!(begun, [0, 1, 3, 7, 15, 31, 63, 123]);
        let later = start + Duration::from_secs(123) + LONGEST_PAUSE * 2;
        assert_eq!(repairs.begin(later), Some(FIRST_PAUSE));
    }

    #[test]
    fn one_that_fails_stays_due() {
        let mut repairs = Repairs::default();
        assert!(!repairs.is_unfinished());
        repairs.begin(Instant::now());
        assert!(repairs.is_unfinished());
        repairs.finish();
        assert!(!repairs.is_unfinished());
    }
}
