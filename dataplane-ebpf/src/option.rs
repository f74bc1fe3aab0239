//! A search through TCP options (RFC 9293 section 3.1). Single steps over a small state, as in
//! [`extension`](crate::extension), because that is what the verifier can follow. Only SYNs are searched.

use crate::frame::Frame;

/// Options that are looked at before giving up. Stacks put those that matter first.
const OPTIONS_MAX: u32 = 12;

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;

/// Maximum segment size (RFC 9293 section 3.7.1), and its length.
pub const MSS: (u8, u8) = (2, 4);
/// Window scale (RFC 7323 section 2), and its length.
pub const WINDOW_SCALE: (u8, u8) = (3, 3);

/// Where the search stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Search {
    /// Where the next option begins in the frame.
    pub at: u32,
    /// Where the TCP header ends.
    pub end: u32,
    /// The option's kind.
    pub kind: u8,
    /// The option's length.
    pub length: u8,
    /// Zero.
    pub reserved: u16,
}

/// What a step led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is more to search.
    More,
    /// The option is at `at`.
    Found,
    /// There is none.
    Absent,
}

impl Search {
    /// Looks at one option.
    #[inline(always)]
    pub fn step<F: Frame + ?Sized>(&mut self, frame: &F) -> Step {
        if self.at.saturating_add(self.length.into()) > self.end {
            return Step::Absent;
        }
        let Some([kind, length]) = frame.read_at::<2>(self.at) else { return Step::Absent };
        let length = match kind {
            OPTION_END => return Step::Absent,
            OPTION_NOP => 1,
            _ if kind == self.kind && length == self.length => return Step::Found,
            _ if length < 2 => return Step::Absent,
            _ => length,
        };
        self.at = self.at.saturating_add(length.into());
        Step::More
    }
}

/// Where an option of the TCP header at `offset` begins. The parser has checked that the header lies within the frame.
/// `step` is [`Search::step`] or a subprogram around it.
#[inline(always)]
pub fn find<F: Frame + ?Sized>(
    frame: &F,
    offset: u32,
    (kind, length): (u8, u8),
    mut step: impl FnMut(&mut Search) -> Step,
) -> Option<u32> {
    let [data_offset] = frame.read_at::<1>(offset + 12)?;
    let end = offset + u32::from(data_offset >> 4) * 4;
    let mut search = Search { at: offset + 20, end, kind, length, reserved: 0 };
    for _ in 0..OPTIONS_MAX {
        match step(&mut search) {
            Step::More => {}
            Step::Found => return Some(search.at),
            Step::Absent => return None,
        }
    }
    None
}

/// How far the sender of the SYN at `offset` shifts its windows, plus one; zero if it doesn't offer to.
#[inline(always)]
pub fn scale<F: Frame + ?Sized>(frame: &F, offset: u32, step: impl FnMut(&mut Search) -> Step) -> u8 {
    let shift = find(frame, offset, WINDOW_SCALE, step).and_then(|at| frame.read_at::<1>(at + 2));
    shift.map_or(0, |[shift]| shift.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shift(options: &[u8]) -> u8 {
        let mut header = vec![0; 20];
        header.extend(options);
        header[12] = u8::try_from(header.len() / 4 * 16).expect("at most 60 bytes");
        scale(&header[..], 0, |search| search.step(&header[..]))
    }

    #[test]
    fn scales() {
        assert_eq!(
            shift(&[2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 3, 3, 7]),
            8,
            "as Linux sends it"
        );
        assert_eq!(shift(&[3, 3, 0, 0]), 1, "offered, by nothing");
        assert_eq!(shift(&[1, 3, 3, 0xff]), 0xff, "more than there is");
        for without in [&[][..], &[0, 3, 3, 7], &[3, 4, 7, 0], &[2, 0, 3, 3, 7, 0, 0, 0], &[1, 1, 3, 3]] {
            assert_eq!(shift(without), 0, "{without:?}");
        }
        assert_eq!(shift(&[&[1; 12][..], &[3, 3, 7, 0]].concat()), 0, "too far behind");
    }

    proptest! {
        #[test]
        fn total(bytes in prop::collection::vec(any::<u8>(), 0..80), offset in 0u32..80) {
            let step = |search: &mut Search| search.step(&bytes[..]);
            if let Some(at) = find(&bytes[..], offset, MSS, step) {
                prop_assert!(at as usize + 2 <= bytes.len());
            }
        }
    }
}
