//! Message fragmentation (RFC 7383): large messages, such as those with certificate chains, without IP fragments.
//!
//! Only authentic fragments get here, and only of the one message each side may send next, so an attacker can fill
//! nothing. Memory is bounded by [`MAX_FRAGMENTS`] and the length of one message.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use crate::wire::PayloadType;

/// Longest datagram we send once fragmentation is negotiated: what IPv6 carries everywhere (1280 bytes, RFC 7383
/// section 2.5.1), less IPv6 and UDP headers and the non-ESP marker.
pub(crate) const DATAGRAM_BYTES: usize = 1280 - 40 - 8 - 4;
/// Most fragments of one message.
pub(crate) const MAX_FRAGMENTS: u16 = 64;

/// The fragments of one message that have come so far.
#[derive(Default)]
pub(crate) struct Reassembly {
    message_id: u32,
    total: u16,
    first_payload: Option<PayloadType>,
    parts: BTreeMap<u16, Zeroizing<Vec<u8>>>,
    bytes: usize,
}

/// One decrypted fragment.
pub(crate) struct Part {
    pub(crate) message_id: u32,
    /// From 1.
    pub(crate) number: u16,
    pub(crate) total: u16,
    /// Of the first payload inside; only the first fragment has it.
    pub(crate) first_payload: PayloadType,
    pub(crate) content: Zeroizing<Vec<u8>>,
}

impl Reassembly {
    /// Takes in a fragment. When the message is complete: the type of its first payload, and its payloads. `limit`:
    /// longest message in bytes.
    pub(crate) fn add(&mut self, part: Part, limit: usize) -> Option<(PayloadType, Zeroizing<Vec<u8>>)> {
        let plausible = (1..=part.total).contains(&part.number) && part.total <= MAX_FRAGMENTS;
        if !plausible {
            return None;
        }
        // RFC 7383 section 2.6: a larger total means that the sender has begun anew with smaller fragments; a smaller
        // one is a leftover.
        if part.message_id != self.message_id || part.total > self.total {
            *self = Self { message_id: part.message_id, total: part.total, ..Self::default() };
        }
        let size = self.bytes.saturating_add(part.content.len());
        if part.total < self.total || self.parts.contains_key(&part.number) || size > limit {
            return None;
        }
        if part.number == 1 {
            self.first_payload = Some(part.first_payload);
        }
        self.bytes = size;
        self.parts.insert(part.number, part.content);
        if self.parts.len() < usize::from(self.total) {
            return None;
        }
        let whole = std::mem::take(self);
        // Sized once: growing would leave copies in freed memory.
        let mut content = Zeroizing::new(Vec::with_capacity(whole.bytes));
        for part in whole.parts.values() {
            content.extend_from_slice(part);
        }
        Some((whole.first_payload?, content))
    }
}

/// Cuts the payloads of a message into pieces of at most `size` bytes. `None` when there would be too many.
pub(crate) fn pieces(content: &[u8], size: usize) -> Option<(u16, std::slice::Chunks<'_, u8>)> {
    let chunks = content.chunks(size.max(1));
    let total = u16::try_from(chunks.len()).ok().filter(|total| *total <= MAX_FRAGMENTS)?;
    Some((total, chunks))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(message_id: u32, number: u16, total: u16, content: &[u8]) -> Part {
        let first_payload = if number == 1 { PayloadType::IdI } else { PayloadType::None };
        Part { message_id, number, total, first_payload, content: Zeroizing::new(content.to_vec()) }
    }

    #[test]
    fn fragments_make_a_message_in_any_order() {
        let mut reassembly = Reassembly::default();
        assert!(reassembly.add(part(1, 3, 3, b"c"), 100).is_none());
        assert!(reassembly.add(part(1, 1, 3, b"a"), 100).is_none());
        assert!(reassembly.add(part(1, 1, 3, b"x"), 100).is_none(), "a duplicate changes nothing");
        let (first, content) = reassembly.add(part(1, 2, 3, b"b"), 100).expect("complete");
        assert_eq!((first, content.as_slice()), (PayloadType::IdI, &b"abc"[..]));
        assert!(reassembly.parts.is_empty(), "nothing is kept");
    }

    #[test]
    fn a_larger_total_begins_anew_and_a_smaller_one_is_a_leftover() {
        let mut reassembly = Reassembly::default();
        assert!(reassembly.add(part(1, 1, 2, b"a"), 100).is_none());
        assert!(reassembly.add(part(1, 1, 3, b"d"), 100).is_none());
        assert!(reassembly.add(part(1, 2, 2, b"b"), 100).is_none());
        assert!(reassembly.add(part(1, 2, 3, b"e"), 100).is_none());
        let (_, content) = reassembly.add(part(1, 3, 3, b"f"), 100).expect("complete");
        assert_eq!(content.as_slice(), b"def");
    }

    #[test]
    fn another_message_begins_anew() {
        let mut reassembly = Reassembly::default();
        assert!(reassembly.add(part(1, 1, 2, b"a"), 100).is_none());
        assert!(reassembly.add(part(2, 2, 2, b"b"), 100).is_none());
        assert_eq!(reassembly.parts.len(), 1);
    }

    #[test]
    fn bounds_hold() {
        let mut reassembly = Reassembly::default();
        for (number, total) in [(0, 1), (2, 1), (0, 0), (1, MAX_FRAGMENTS + 1), (u16::MAX, u16::MAX)] {
            assert!(reassembly.add(part(1, number, total, b"a"), 100).is_none());
        }
        assert!(reassembly.add(part(1, 1, 2, &[0; 60]), 100).is_none());
        assert!(reassembly.add(part(1, 2, 2, &[0; 60]), 100).is_none(), "past the longest message");
        assert!(pieces(&[0; 6400], 100).is_some());
        assert!(pieces(&[0; 6401], 100).is_none());
        assert!(pieces(&[0; 10], 0).is_some(), "no size is ever zero, and none loops forever");
    }
}
