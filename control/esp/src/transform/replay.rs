//! The anti-replay window (RFC 4303 section 3.4.3) and the inference of extended sequence numbers (appendix A).
//!
//! Several workers may share one: nothing is locked. The window is a ring of words, each with the number of the block of
//! sequence numbers that it stands for, and one bit for each of them. A word is only ever changed as a whole, by
//! compare-exchange, and only ever to a later block: so a number is taken once, whoever else is at work, and the window
//! slides by words being taken over, never by shifting.
//! [`check`](ReplayWindow::check) comes before the integrity check and changes nothing;
//! [`commit`](ReplayWindow::commit) after it, and has the last word.
//!
//! Cost aim: two exchanges in the cache for a packet in order, whatever the window's size; no allocation after creation.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::packet::Sequence;

/// The largest window in packets; more is cut down to it. 64 Ki packets are 0.5 s at 1 Gbit/s of small packets.
pub const WINDOW_MAX: u32 = 65_536;
/// Window assumed for the inference of extended sequence numbers where replay is not checked.
const INFERENCE_WINDOW: u64 = 1024;
/// Sequence numbers of a block, one bit of a word for each. The other 48 bits number the block: at ten million packets a
/// second it takes seven years until two blocks of one word could be taken for each other.
const BLOCK: u64 = 16;
const BLOCK_BITS: u64 = (1 << BLOCK) - 1;
const TAG_BITS: u64 = u64::MAX >> BLOCK;

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
    top: Top,
    /// The count of words is a power of two and spans at least one block more than the window, so that no number in the
    /// window has its word taken over.
    words: Box<[AtomicU64]>,
}

/// The highest authentic number; 0 before the first. On a cache line of its own: it changes with every packet, what lies
/// around it never.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Top(AtomicU64);

impl ReplayWindow {
    /// A window of `size` packets (0: none, every number passes).
    pub fn new(size: u32, extended: bool) -> Self {
        let size = u64::from(size.min(WINDOW_MAX));
        let words = if size == 0 { 0 } else { (size.div_ceil(BLOCK) + 1).next_power_of_two() };
        Self { extended, size, top: Top::default(), words: (0..words).map(|_| AtomicU64::new(0)).collect() }
    }

    /// The highest authentic sequence number so far; 0 before the first.
    pub fn top(&self) -> u64 {
        self.top.0.load(Relaxed)
    }

    /// Infers the whole number from the 32 bits in the packet, and refuses it if it was seen or is too old.
    pub fn check(&self, low: u32) -> Result<Sequence, ReplayError> {
        let top = self.top();
        let number = self.infer(low, top)?;
        // RFC 4303 section 2.2: the first packet has number 1, and numbers never cycle back to 0.
        if number == 0 {
            return Err(ReplayError::TooOld);
        }
        if self.size != 0 && number <= top && top - number >= self.size {
            return Err(ReplayError::TooOld);
        }
        if let Some(word) = self.word(number) {
            entered(word.load(Relaxed), number)?;
        }
        Ok(Sequence { number, extended: self.extended })
    }

    /// Marks an authentic packet as seen; returns whether it is the newest so far. Refused is what somebody else has
    /// marked since it was checked.
    pub fn commit(&self, sequence: Sequence) -> Result<bool, ReplayError> {
        let number = sequence.number;
        if let Some(word) = self.word(number) {
            let mut held = word.load(Relaxed);
            while let Err(now) = word.compare_exchange_weak(held, entered(held, number)?, Relaxed, Relaxed) {
                held = now;
            }
        }
        let mut top = self.top();
        while number > top {
            match self.top.0.compare_exchange_weak(top, number, Relaxed, Relaxed) {
                Ok(_) => return Ok(true),
                Err(now) => top = now,
            }
        }
        Ok(false)
    }

    /// The word of a number; none where replay is not checked.
    fn word(&self, number: u64) -> Option<&AtomicU64> {
        // The count of words is a power of two and small.
        let mask = (self.words.len() as u64).wrapping_sub(1);
        self.words.get(((number / BLOCK) & mask) as usize)
    }

    /// RFC 4303 appendix A2.1: the high half is the one that puts the number nearest to the window.
    fn infer(&self, low: u32, top: u64) -> Result<u64, ReplayError> {
        if !self.extended {
            return Ok(u64::from(low));
        }
        let window = if self.size == 0 { INFERENCE_WINDOW } else { self.size };
        let (top_high, top_low) = (top >> 32, top & 0xffff_ffff);
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

/// What a word becomes by a number of it.
fn entered(held: u64, number: u64) -> Result<u64, ReplayError> {
    let (tag, bit) = ((number / BLOCK) & TAG_BITS, 1 << (number % BLOCK));
    let (held_tag, seen) = (held >> BLOCK, held & BLOCK_BITS);
    // Tags cycle; of two that differ, the later is less than half of the cycle ahead.
    let is_later = tag.wrapping_sub(held_tag) & TAG_BITS <= TAG_BITS / 2;
    match () {
        () if tag == held_tag && seen & bit != 0 => Err(ReplayError::Replayed),
        () if tag == held_tag => Ok(held | bit),
        // A word without a bit stands for nothing yet.
        () if is_later || seen == 0 => Ok(tag << BLOCK | bit),
        () => Err(ReplayError::TooOld),
    }
}

#[cfg(test)]
mod tests;
