//! The maximum segment size a SYN offers (RFC 9293 section 3.7.1), lowered where the flow goes through a tunnel.

use crate::checksum;
use crate::frame::Frame;
use crate::option::{self, Search, Step};

/// A change to make in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clamp {
    /// Where the two bytes of the MSS stand in the frame.
    pub offset: u32,
    /// What to write there.
    pub mss: u16,
    /// Where the TCP checksum stands.
    pub checksum_offset: u32,
    /// What to write there.
    pub checksum: u16,
}

/// The largest MSS for packets of at most `mtu` bytes (RFC 6691).
#[inline(always)]
pub const fn of_mtu(mtu: u16, version: u8) -> u16 {
    mtu.saturating_sub(if version == 4 { 40 } else { 60 })
}

/// The change that lowers the MSS of the SYN whose TCP header begins at `offset` to `limit`; `None` if it's low enough
/// or absent. The parser has checked that the header lies within the frame. `step` is [`Search::step`] or a subprogram
/// around it.
#[inline(always)]
pub fn clamp<F: Frame + ?Sized>(
    frame: &F,
    offset: u32,
    limit: u16,
    step: impl FnMut(&mut Search) -> Step,
) -> Option<Clamp> {
    let at = option::find(frame, offset, option::MSS, step)?;
    lower(frame, offset, at, limit)
}

#[inline(always)]
fn lower<F: Frame + ?Sized>(frame: &F, offset: u32, at: u32, limit: u16) -> Option<Clamp> {
    let old = u16::from_be_bytes(frame.read_at::<2>(at + 2)?);
    if old <= limit {
        return None;
    }
    let covered = u16::from_be_bytes(frame.read_at::<2>(offset + 16)?);
    // RFC 1071 sums 16-bit words from the header's first byte on: after an odd number of NOPs the value straddles two
    // of them, and its bytes count swapped.
    let odd = (at - offset) & 1 != 0;
    let (old_word, new_word) = if odd { (old.swap_bytes(), limit.swap_bytes()) } else { (old, limit) };
    Some(Clamp {
        offset: at + 2,
        mss: limit,
        checksum_offset: offset + 16,
        checksum: checksum::replace(covered, old_word, new_word),
    })
}

#[cfg(test)]
mod tests {
    use super::{Clamp, of_mtu};
    use proptest::prelude::*;

    /// A TCP header with these options (a multiple of four bytes) and the checksum of itself.
    fn syn(options: &[u8]) -> Vec<u8> {
        let mut header = vec![0x30, 0x39, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0, 2, 0xff, 0xff, 0, 0, 0, 0];
        header.extend(options);
        header[12] = u8::try_from(header.len() / 4 * 16).expect("at most 60 bytes");
        let sum = sum(&header);
        header[16..18].copy_from_slice(&(!sum).to_be_bytes());
        header
    }

    fn sum(bytes: &[u8]) -> u16 {
        let mut sum: u32 = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).expect("folded")
    }

    fn clamp(frame: &[u8], offset: u32, limit: u16) -> Option<Clamp> {
        super::clamp(frame, offset, limit, |search| search.step(frame))
    }

    fn apply(frame: &mut [u8], clamp: Clamp) {
        let (at, checksum_at) = (clamp.offset as usize, clamp.checksum_offset as usize);
        frame[at..at + 2].copy_from_slice(&clamp.mss.to_be_bytes());
        frame[checksum_at..checksum_at + 2].copy_from_slice(&clamp.checksum.to_be_bytes());
    }

    #[test]
    fn lowered_with_a_right_checksum() {
        for options in [&[2, 4, 5, 0xb4][..], &[1, 2, 4, 5, 0xb4, 1, 1, 1], &[4, 2, 1, 1, 2, 4, 5, 0xb4]] {
            let mut frame = syn(options);
            assert_eq!(sum(&frame), 0xffff);
            let change = clamp(&frame, 0, 1360).expect("1460 is too large");
            apply(&mut frame, change);
            assert_eq!(sum(&frame), 0xffff, "{options:?}");
            assert_eq!(clamp(&frame, 0, 1360), None, "already low");
        }
    }

    #[test]
    fn left_alone() {
        assert_eq!(clamp(&syn(&[]), 0, 1360), None, "no option");
        assert_eq!(clamp(&syn(&[0, 0, 0, 0, 2, 4, 5, 0xb4]), 0, 1360), None, "after the end");
        assert_eq!(clamp(&syn(&[3, 0, 2, 4, 5, 0xb4, 0, 0]), 0, 1360), None, "an option of no length");
        assert_eq!((of_mtu(1400, 4), of_mtu(1400, 6), of_mtu(20, 6)), (1360, 1340, 0));
    }

    proptest! {
        #[test]
        fn total(bytes in prop::collection::vec(any::<u8>(), 0..80), offset in 0u32..80, limit: u16) {
            if let Some(change) = clamp(&bytes, offset, limit) {
                prop_assert!(change.offset as usize + 2 <= bytes.len());
                prop_assert!(change.mss == limit);
            }
        }
    }
}
