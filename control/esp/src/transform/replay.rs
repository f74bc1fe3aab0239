//! The anti-replay window (RFC 4303 section 3.4.3) and the inference of extended sequence numbers (appendix A).
//!
//! A ring of 64-bit words as in RFC 6479: the window slides by clearing whole words, never by shifting the bitmap.
//! [`check`](ReplayWindow::check) comes before the integrity check and changes nothing;
//! [`commit`](ReplayWindow::commit) after it.
//!
//! Cost aim: a few nanoseconds each, whatever the window's size; no allocation after creation.

use super::packet::Sequence;

/// The largest window in packets; more is cut down to it. 64 Ki packets are 0.5 s at 1 Gbit/s of small packets.
pub const WINDOW_MAX: u32 = 65_536;
/// Window assumed for the inference of extended sequence numbers where replay is not checked.
const INFERENCE_WINDOW: u64 = 1024;
const WORD_BITS: u64 = 64;

/// Why a sequence number was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// Received before.
    #[error("the packet was received before")]
    Replayed,
    /// Left of the window, or a number no sender may use.
    #[error("the sequence number is older than the window, or invalid")]
    TooOld,
}

/// The sequence numbers an inbound SA has seen.
#[derive(Debug)]
pub struct ReplayWindow {
    extended: bool,
    /// Packets the window spans; 0: numbers are not checked.
    size: u64,
    /// The highest authentic number; 0 before the first.
    top: u64,
    /// One bit per number; the count of words is a power of two and spans at least one word more than the window, so
    /// that the word being entered never holds a bit that still counts.
    seen: Box<[u64]>,
}

impl ReplayWindow {
    /// A window of `size` packets (0: none, every number passes).
    pub fn new(size: u32, extended: bool) -> Self {
        let size = u64::from(size.min(WINDOW_MAX));
        let words = if size == 0 { 0 } else { (size.div_ceil(WORD_BITS) + 1).next_power_of_two() };
        Self { extended, size, top: 0, seen: (0..words).map(|_| 0).collect() }
    }

    /// The highest authentic sequence number so far; 0 before the first.
    pub fn top(&self) -> u64 {
        self.top
    }

    /// Infers the whole number from the 32 bits in the packet, and refuses it if it was seen or is too old.
    pub fn check(&self, low: u32) -> Result<Sequence, ReplayError> {
        let number = self.infer(low)?;
        // RFC 4303 section 2.2: the first packet has number 1, and numbers never cycle back to 0.
        if number == 0 {
            return Err(ReplayError::TooOld);
        }
        if self.size != 0 && number <= self.top {
            if self.top - number >= self.size {
                return Err(ReplayError::TooOld);
            }
            let (word, bit) = self.place(number);
            if self.seen.get(word).is_none_or(|word| word & bit != 0) {
                return Err(ReplayError::Replayed);
            }
        }
        Ok(Sequence { number, extended: self.extended })
    }

    /// Marks an authentic packet as seen; returns whether it is the newest so far.
    pub fn commit(&mut self, sequence: Sequence) -> bool {
        let number = sequence.number;
        let newest = number > self.top;
        if self.size == 0 {
            self.top = self.top.max(number);
            return newest;
        }
        if newest {
            let entered = number / WORD_BITS - self.top / WORD_BITS;
            for step in 1..=entered.min(self.seen.len() as u64) {
                let (word, _) = self.place(self.top.wrapping_add(step * WORD_BITS));
                if let Some(word) = self.seen.get_mut(word) {
                    *word = 0;
                }
            }
            self.top = number;
        }
        let (word, bit) = self.place(number);
        if let Some(word) = self.seen.get_mut(word) {
            *word |= bit;
        }
        newest
    }

    /// Index of the word, and the bit in it.
    fn place(&self, number: u64) -> (usize, u64) {
        // The count of words is a power of two and small.
        let mask = (self.seen.len() as u64).wrapping_sub(1);
        (((number / WORD_BITS) & mask) as usize, 1 << (number % WORD_BITS))
    }

    /// RFC 4303 appendix A2.1: the high half is the one that puts the number nearest to the window.
    fn infer(&self, low: u32) -> Result<u64, ReplayError> {
        if !self.extended {
            return Ok(u64::from(low));
        }
        let window = if self.size == 0 { INFERENCE_WINDOW } else { self.size };
        let (top_high, top_low) = (self.top >> 32, self.top & 0xffff_ffff);
        let low = u64::from(low);
        let high = if top_low >= window - 1 {
            // Case A: the window lies within one subspace.
            if low + window > top_low { Some(top_high) } else { top_high.checked_add(1) }
        } else {
            // Case B: it spans two.
            let bottom = (top_low + (1 << 32)) - (window - 1);
            if low >= bottom { top_high.checked_sub(1) } else { Some(top_high) }
        };
        match high {
            Some(high @ 0..=0xffff_ffff) => Ok(high << 32 | low),
            _ => Err(ReplayError::TooOld),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The window as the RFC describes it, with a set instead of a bitmap.
    struct Model {
        size: u64,
        top: u64,
        seen: BTreeSet<u64>,
    }

    impl Model {
        fn receive(&mut self, number: u64) -> bool {
            let old = number == 0 || number + self.size <= self.top;
            if old || self.seen.contains(&number) {
                return false;
            }
            self.seen.insert(number);
            self.top = self.top.max(number);
            true
        }
    }

    fn receive(window: &mut ReplayWindow, low: u32) -> Result<u64, ReplayError> {
        let sequence = window.check(low)?;
        window.commit(sequence);
        Ok(sequence.number)
    }

    #[test]
    fn a_number_passes_once_and_zero_never() {
        let mut window = ReplayWindow::new(64, false);
        assert_eq!(receive(&mut window, 0), Err(ReplayError::TooOld));
        assert_eq!(receive(&mut window, 1), Ok(1));
        assert_eq!(receive(&mut window, 1), Err(ReplayError::Replayed));
        assert_eq!(receive(&mut window, 64), Ok(64));
        assert_eq!(receive(&mut window, 2), Ok(2));
        assert_eq!(receive(&mut window, 65), Ok(65));
        assert_eq!(receive(&mut window, 1), Err(ReplayError::TooOld));
        assert_eq!(receive(&mut window, u32::MAX), Ok(0xffff_ffff));
        assert_eq!(receive(&mut window, u32::MAX), Err(ReplayError::Replayed));
    }

    #[test]
    fn a_check_alone_changes_nothing() {
        let mut window = ReplayWindow::new(1024, false);
        for _ in 0..3 {
            assert!(window.check(1_000_000).is_ok());
        }
        assert_eq!(window.top(), 0);
        assert_eq!(receive(&mut window, 5), Ok(5));
    }

    #[test]
    fn without_a_window_everything_but_zero_passes() {
        let mut window = ReplayWindow::new(0, false);
        assert_eq!(receive(&mut window, 9), Ok(9));
        assert_eq!(receive(&mut window, 9), Ok(9));
        assert_eq!(receive(&mut window, 0), Err(ReplayError::TooOld));
    }

    #[test]
    fn extended_numbers_wrap_into_the_next_subspace_and_late_ones_stay_behind() {
        for size in [0, 64, 1024] {
            let mut window = ReplayWindow::new(size, true);
            assert_eq!(receive(&mut window, 1), Ok(1));
            // Big steps within the first subspace; one of nearly 2^32 would be taken for a late packet.
            assert_eq!(receive(&mut window, 0x7fff_ffff), Ok(0x7fff_ffff));
            assert_eq!(receive(&mut window, 0xffff_fff0), Ok(0xffff_fff0));
            assert_eq!(receive(&mut window, 3), Ok(1 << 32 | 3));
            assert_eq!(receive(&mut window, 0xffff_fff1), Ok(0xffff_fff1));
            assert_eq!(receive(&mut window, 4), Ok(1 << 32 | 4));
        }
    }

    #[test]
    fn extended_numbers_end_where_they_end() {
        let mut window = ReplayWindow::new(64, true);
        window.commit(Sequence { number: u64::MAX, extended: true });
        assert_eq!(window.check(u32::MAX), Err(ReplayError::Replayed));
        assert_eq!(window.check(5), Err(ReplayError::TooOld));
        // Before the first subspace there is none.
        assert_eq!(ReplayWindow::new(64, true).check(u32::MAX), Err(ReplayError::TooOld));
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_model(
            size in 1u32..3000,
            steps in proptest::collection::vec((any::<bool>(), 0u64..5000), 1..400),
        ) {
            let mut window = ReplayWindow::new(size, false);
            let mut model = Model { size: u64::from(size), top: 0, seen: BTreeSet::new() };
            for (forward, distance) in steps {
                let number = if forward { model.top + distance } else { model.top.saturating_sub(distance) };
                let passed = receive(&mut window, number as u32).is_ok();
                prop_assert_eq!(passed, model.receive(number), "number {} top {}", number, model.top);
            }
        }

        /// The sender's number is always inferred from its low half while it is less than 2^31 ahead and within
        /// the window behind.
        #[test]
        fn inference_finds_the_senders_number(
            size in 1u32..3000,
            start in 1u64..1 << 40,
            steps in proptest::collection::vec((any::<bool>(), 0u64..1 << 31), 1..50),
        ) {
            let mut window = ReplayWindow::new(size, true);
            window.commit(Sequence { number: start, extended: true });
            let mut model = Model { size: u64::from(size), top: start, seen: BTreeSet::from([start]) };
            for (forward, distance) in steps {
                let number = if forward {
                    model.top + distance
                } else {
                    model.top.saturating_sub(distance % u64::from(size))
                };
                match window.check(number as u32) {
                    Ok(sequence) => {
                        prop_assert_eq!(sequence.number, number);
                        prop_assert!(model.receive(number));
                        window.commit(sequence);
                    }
                    Err(_) => prop_assert!(!model.receive(number)),
                }
            }
        }
    }
}
