//! SPIs that the filter is to forget once their SA has stopped lingering: found by when, and by which.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

/// Where packets with an SPI go, and the SPI.
pub(super) type End = (IpAddr, u32);

/// Them.
#[derive(Default)]
pub(super) struct Leaving {
    due: BTreeSet<(Instant, End)>,
    when: BTreeMap<End, Instant>,
}

impl Leaving {
    /// It is to be forgotten at that moment, or later if that was said before.
    pub(super) fn put(&mut self, at: Instant, end: End) {
        let at = self.when.get(&end).map_or(at, |before| at.max(*before));
        self.stays(end);
        self.when.insert(end, at);
        self.due.insert((at, end));
    }

    /// An SA in force has it.
    pub(super) fn stays(&mut self, end: End) {
        if let Some(at) = self.when.remove(&end) {
            self.due.remove(&(at, end));
        }
    }

    /// When the first one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The next one that is due.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<End> {
        let (_, end) = *self.due.first().filter(|(at, _)| *at <= now)?;
        self.stays(end);
        Some(end)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_is_forgotten_once_and_when_it_is_due() {
        let (start, address) = (Instant::now(), IpAddr::from([192, 0, 2, 1]));
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut leaving = Leaving::default();
        assert_eq!((leaving.next(), leaving.take_due(start)), (None, None));
        for (seconds, spi) in [(3, 30), (1, 10), (2, 20), (5, 30), (4, 30)] {
            leaving.put(after(seconds), (address, spi));
        }
        leaving.stays((address, 20));
        leaving.stays((address, 99));
        assert_eq!(leaving.next(), Some(after(1)));
        assert_eq!(leaving.take_due(after(4)), Some((address, 10)));
        assert_eq!(leaving.take_due(after(4)), None, "the last of its moments counts");
        assert_eq!(leaving.take_due(after(5)), Some((address, 30)));
        assert_eq!((leaving.next(), leaving.take_due(after(9))), (None, None));
    }
}
