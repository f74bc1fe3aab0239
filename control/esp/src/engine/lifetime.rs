//! How worn an SA is: its sequence numbers, packets and bytes. All workers count together, without a lock, and no limit is
//! passed by one packet more because there are several of them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::sa::Lifetimes;
use crate::transform::Sequence;

/// How worn an SA is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wear {
    Fresh,
    /// A soft limit has passed.
    Soft,
    /// A hard limit has passed: nothing more goes through.
    Hard,
}

/// Counts one direction against its lifetimes. What has no limit is not counted. On a cache line of its own: it changes
/// with every packet.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Meter {
    limits: Lifetimes,
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Meter {
    pub(crate) fn new(limits: Lifetimes) -> Self {
        Self { limits, packets: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }

    /// What those before the next packet have used up.
    pub(crate) fn wear(&self) -> Wear {
        let Lifetimes { soft_packets, soft_bytes, hard_packets, hard_bytes } = self.limits;
        let (packets, bytes) = (self.packets.load(Relaxed), self.bytes.load(Relaxed));
        wear(packets, soft_packets, hard_packets).max(wear(bytes, soft_bytes, hard_bytes))
    }

    /// Counts a packet; `false` if a hard limit was reached before it.
    pub(crate) fn take(&self, bytes: usize) -> bool {
        let Lifetimes { soft_packets, soft_bytes, hard_packets, hard_bytes } = self.limits;
        add(&self.packets, 1, soft_packets, hard_packets)
            && add(&self.bytes, bytes as u64, soft_bytes, hard_bytes)
    }
}

fn wear(used: u64, soft: Option<u64>, hard: Option<u64>) -> Wear {
    let reached = |limit: Option<u64>| limit.is_some_and(|limit| used >= limit);
    match () {
        () if reached(hard) => Wear::Hard,
        () if reached(soft) => Wear::Soft,
        () => Wear::Fresh,
    }
}

/// Adds where anybody wants to know. The count cannot wrap: that would take centuries of full-size packets.
fn add(count: &AtomicU64, more: u64, soft: Option<u64>, hard: Option<u64>) -> bool {
    if soft.is_none() && hard.is_none() {
        return true;
    }
    let before = count.fetch_add(more, Relaxed);
    hard.is_none_or(|limit| before < limit)
}

/// The sender's sequence numbers (RFC 4303 section 3.3.3): they never cycle, and nobody gets one twice.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct SequenceCounter {
    last: AtomicU64,
    extended: bool,
}

impl SequenceCounter {
    pub(crate) fn new(extended: bool) -> Self {
        Self { last: AtomicU64::new(0), extended }
    }

    const fn limit(&self) -> u64 {
        if self.extended { u64::MAX } else { u32::MAX as u64 }
    }

    pub(crate) fn wear(&self) -> Wear {
        wear(self.last.load(Relaxed), Some(self.limit() / 10 * 9), Some(self.limit()))
    }

    /// The next number; `None` when they have run out.
    pub(crate) fn take(&self) -> Option<Sequence> {
        let limit = self.limit();
        let next = |last: u64| (last < limit).then(|| last + 1);
        let last = self.last.fetch_update(Relaxed, Relaxed, next).ok()?;
        Some(Sequence { number: last + 1, extended: self.extended })
    }

    #[cfg(test)]
    pub(crate) fn skip_to(&self, last: u64) {
        self.last.store(last, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const WORKERS: usize = 4;

    /// What each of several workers gets, as long as it gets anything.
    fn by_workers<T: Send>(work: impl Fn() -> Option<T> + Sync) -> Vec<Vec<T>> {
        thread::scope(|scope| {
            let threads: Vec<_> =
                (0..WORKERS).map(|_| scope.spawn(|| std::iter::from_fn(&work).collect())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn several_workers_use_each_sequence_number_once_and_none_beyond_the_last() {
        for (extended, last) in [(false, u64::from(u32::MAX)), (true, u64::MAX)] {
            const LEFT: u64 = 100_000;
            let counter = SequenceCounter::new(extended);
            counter.skip_to(last - LEFT);
            let taken = by_workers(|| counter.take().map(|sequence| sequence.number));
            assert!(taken.iter().all(|numbers| numbers.is_sorted()), "order within a worker");
            let mut all: Vec<u64> = taken.concat();
            all.sort_unstable();
            assert!(all.iter().copied().eq(last - LEFT + 1..=last));
            assert_eq!((counter.take(), counter.wear()), (None, Wear::Hard));
        }
    }

    #[test]
    fn several_workers_pass_no_hard_limit() {
        let lifetimes =
            Lifetimes { soft_packets: Some(10), hard_packets: Some(50_000), ..Lifetimes::default() };
        let meter = Meter::new(lifetimes);
        let taken = by_workers(|| meter.take(100).then_some(()));
        assert_eq!(taken.concat().len(), 50_000);

        let meter = Meter::new(Lifetimes { hard_bytes: Some(1_000_001), ..Lifetimes::default() });
        let taken = by_workers(|| meter.take(100).then_some(()));
        // The last begins below the limit.
        assert_eq!(taken.concat().len(), 10_001);
        assert_eq!(meter.wear(), Wear::Hard);
    }

    #[test]
    fn wear_is_what_came_before() {
        let limits = Lifetimes { soft_bytes: Some(100), hard_packets: Some(3), ..Lifetimes::default() };
        let meter = Meter::new(limits);
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push((meter.wear(), meter.take(60)));
        }
        assert_eq!(seen, [(Wear::Fresh, true), (Wear::Fresh, true), (Wear::Soft, true), (Wear::Hard, false)]);
        let unlimited = Meter::new(Lifetimes::default());
        assert!(unlimited.take(usize::MAX) && unlimited.take(usize::MAX));
        assert_eq!(unlimited.wear(), Wear::Fresh);
    }
}
