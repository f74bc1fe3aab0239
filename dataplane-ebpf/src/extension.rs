//! IPv6 extension headers (RFC 8200 section 4): a bounded walk that lets through next to nothing.
//!
//! The walk is a loop of single steps over a small state, because that is what the verifier can follow: each step is a
//! subprogram, judged once, and what one step has seen doesn't multiply with what the next one may see.

use sekisho_abi::verdict::Verdict;

use crate::frame::Frame;
use crate::parse::protocol;

/// Headers and options, all together.
const STEPS_MAX: u32 = 32;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

const OPTION_PAD1: u8 = 0x00;
const OPTION_ROUTER_ALERT: u8 = 0x05;
/// The two highest bits of an option's type say what a node that doesn't know it does; zero: skip it (RFC 8200
/// section 4.2). All others (jumbo payload, home address, tunnel limits) are refused.
const OPTION_ACTION: u8 = 0xc0;

/// Where the walk stands. What is zero at its begin fills whole words, for it lies on a program's stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Walk {
    /// Identification in the fragment header, network byte order.
    pub fragment_id_be: u32,
    /// Where the fragmented part begins in the frame; zero without a fragment header.
    pub fragment_header: u32,
    /// Offset and flags in the fragment header, as a number.
    pub fragment_bits: u16,
    /// The place of the last header in their [order](order).
    pub order: u8,
    /// 1: a router alert was seen (RFC 2711). Only multicast listener discovery may carry it.
    pub router_alert: u8,
    /// Zero.
    pub reserved: u32,
    /// What the next header is.
    pub next: u32,
    /// Where the packet ends.
    pub packet_end: u32,
    /// Where the next header or option begins in the frame.
    pub offset: u32,
    /// Where the present header ends; between headers the same as `offset`.
    pub header_end: u32,
}

/// The order of headers (RFC 8200 section 4.1), each at most once. Destination options stand before a fragment header
/// or behind it.
mod order {
    pub(super) const HOP_BY_HOP: u8 = 1;
    pub(super) const DESTINATION: u8 = 2;
    pub(super) const FRAGMENT: u8 = 3;
    pub(super) const DESTINATION_OF_THE_WHOLE: u8 = 4;
}

/// What a step led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is more to walk.
    More,
    /// `offset` is at the transport header, whose protocol is `next`.
    Transport,
}

/// Whether this next-header value is one that a [`Walk`] has to judge.
#[inline(always)]
pub const fn is_extension(next: u8) -> bool {
    matches!(
        next,
        HOP_BY_HOP | ROUTING | protocol::IPV6_FRAGMENT | DESTINATION | MOBILITY | HIP | SHIM6 | 253 | 254
    )
}

impl Walk {
    /// Begins at the header of type `next` at `offset`, in a packet that ends at `packet_end`.
    #[inline(always)]
    pub const fn new(next: u8, offset: u32, packet_end: u32) -> Self {
        Self {
            fragment_id_be: 0,
            fragment_header: 0,
            fragment_bits: 0,
            order: 0,
            router_alert: 0,
            reserved: 0,
            next: next as u32,
            packet_end,
            offset,
            header_end: offset,
        }
    }

    /// What the next header is.
    #[inline(always)]
    pub const fn next(&self) -> u8 {
        self.next as u8
    }

    /// Walks to the transport header by `step`, which is [`Walk::step`] or a subprogram around it.
    #[inline(always)]
    pub fn to_transport(
        mut self,
        mut step: impl FnMut(&mut Self) -> Result<Step, Verdict>,
    ) -> Result<Self, Verdict> {
        for _ in 0..STEPS_MAX {
            if step(&mut self)? == Step::Transport {
                return Ok(self);
            }
        }
        Err(Verdict::DropOptions)
    }

    /// Takes one header or one option.
    #[inline(always)]
    pub fn step<F: Frame + ?Sized>(&mut self, frame: &F) -> Result<Step, Verdict> {
        if self.offset < self.header_end {
            return self.option(frame);
        }
        if self.offset > self.header_end {
            return Err(Verdict::DropMalformed);
        }
        // What a later fragment begins with is in the middle of something.
        if self.fragment_bits & 0xfff8 != 0 {
            return Ok(Step::Transport);
        }
        self.order = match self.next() {
            HOP_BY_HOP if self.order < order::HOP_BY_HOP => order::HOP_BY_HOP,
            DESTINATION if self.order < order::DESTINATION => order::DESTINATION,
            DESTINATION if self.order == order::FRAGMENT => order::DESTINATION_OF_THE_WHOLE,
            protocol::IPV6_FRAGMENT if self.order < order::FRAGMENT => return self.fragment(frame),
            next if is_extension(next) => return Err(Verdict::DropOptions),
            _ => return Ok(Step::Transport),
        };
        let [following, units] = frame.read_at::<2>(self.offset).ok_or(Verdict::DropMalformed)?;
        self.header_end = self.offset.saturating_add((u32::from(units) + 1) * 8);
        if self.header_end > self.packet_end {
            return Err(Verdict::DropMalformed);
        }
        self.next = u32::from(following);
        self.offset = self.offset.saturating_add(2);
        Ok(Step::More)
    }

    /// Takes a fragment header (RFC 8200 section 4.5).
    #[inline(always)]
    fn fragment<F: Frame + ?Sized>(&mut self, frame: &F) -> Result<Step, Verdict> {
        let header = frame.read_at::<8>(self.offset).ok_or(Verdict::DropMalformed)?;
        let [following, _, b0, b1, i0, i1, i2, i3] = header;
        self.offset = self.offset.saturating_add(8);
        if self.offset > self.packet_end {
            return Err(Verdict::DropMalformed);
        }
        self.order = order::FRAGMENT;
        self.next = u32::from(following);
        self.header_end = self.offset;
        self.fragment_header = self.offset;
        self.fragment_bits = u16::from_be_bytes([b0, b1]);
        self.fragment_id_be = u32::from_ne_bytes([i0, i1, i2, i3]);
        Ok(Step::More)
    }

    #[inline(always)]
    fn option<F: Frame + ?Sized>(&mut self, frame: &F) -> Result<Step, Verdict> {
        let [kind] = frame.read_at::<1>(self.offset).ok_or(Verdict::DropMalformed)?;
        let mut length = 1;
        if kind != OPTION_PAD1 {
            if kind & OPTION_ACTION != 0 {
                return Err(Verdict::DropOptions);
            }
            if kind == OPTION_ROUTER_ALERT {
                self.router_alert = 1;
            }
            let at = self.offset.saturating_add(1);
            let [data] = frame.read_at::<1>(at).ok_or(Verdict::DropMalformed)?;
            length = 2 + u32::from(data);
        }
        self.offset = self.offset.saturating_add(length);
        // Past the header's end is caught by the next step.
        Ok(Step::More)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn walk(next: u8, bytes: &[u8]) -> Result<Walk, Verdict> {
        let end = u32::try_from(bytes.len()).expect("short");
        Walk::new(next, 0, end).to_transport(|walk| walk.step(bytes))
    }

    /// Protocol, offset and router alert where the walk ended.
    fn ended(next: u8, bytes: &[u8]) -> Result<(u8, u32, u8), Verdict> {
        walk(next, bytes).map(|walk| (walk.next(), walk.offset, walk.router_alert))
    }

    #[test]
    fn padding_and_router_alert() {
        assert_eq!(ended(HOP_BY_HOP, &[6, 0, 1, 4, 0, 0, 0, 0]), Ok((6, 8, 0)));
        assert_eq!(ended(HOP_BY_HOP, &[58, 0, 5, 2, 0, 0, 1, 0]), Ok((58, 8, 1)));
        assert_eq!(ended(DESTINATION, &[17, 0, 0, 0, 0, 0, 0, 0]), Ok((17, 8, 0)));
    }

    #[test]
    fn refused() {
        for (next, bytes, verdict) in [
            (ROUTING, [6, 0, 0, 0, 0, 0, 0, 0], Verdict::DropOptions),
            (HOP_BY_HOP, [6, 0, 0xc2, 4, 0, 1, 0, 0], Verdict::DropOptions),
            (DESTINATION, [6, 0, 0xc9, 4, 0, 0, 0, 0], Verdict::DropOptions),
            (HOP_BY_HOP, [6, 1, 1, 4, 0, 0, 0, 0], Verdict::DropMalformed),
            (HOP_BY_HOP, [6, 0, 1, 5, 0, 0, 0, 0], Verdict::DropMalformed),
        ] {
            assert_eq!(walk(next, &bytes), Err(verdict), "{bytes:?}");
        }
        let twice = [HOP_BY_HOP, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0];
        assert_eq!(walk(HOP_BY_HOP, &twice), Err(Verdict::DropOptions));
        let twice = [DESTINATION, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0];
        assert_eq!(walk(DESTINATION, &twice), Err(Verdict::DropOptions), "repeated");
        let misplaced = [HOP_BY_HOP, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0];
        assert_eq!(walk(DESTINATION, &misplaced), Err(Verdict::DropOptions), "not first");
        let nested = [protocol::IPV6_FRAGMENT, 0, 0, 1, 0, 0, 0, 0, 6, 0, 0, 1, 0, 0, 0, 0];
        assert_eq!(
            walk(protocol::IPV6_FRAGMENT, &nested),
            Err(Verdict::DropOptions),
            "fragments in a fragment"
        );
        let endless = [&[6, 7][..], &[0; 62]].concat();
        assert_eq!(walk(DESTINATION, &endless), Err(Verdict::DropOptions), "too many options");
    }

    #[test]
    fn fragment_headers() {
        let mut bytes = vec![DESTINATION, 0, 1, 4, 0, 0, 0, 0];
        bytes.extend([protocol::IPV6_FRAGMENT, 0, 1, 4, 0, 0, 0, 0]);
        bytes.extend([DESTINATION, 0, 0, 1, 1, 2, 3, 4]);
        bytes.extend([6, 0, 1, 4, 0, 0, 0, 0]);
        let first = walk(HOP_BY_HOP, &bytes).expect("all in order");
        assert_eq!((first.next(), first.offset, first.fragment_header), (6, 32, 24));
        assert_eq!((first.fragment_bits, first.fragment_id_be.to_ne_bytes()), (1, [1, 2, 3, 4]));
        bytes[18] = 1;
        let later = walk(HOP_BY_HOP, &bytes).expect("nothing is looked for behind");
        assert_eq!((later.next(), later.offset, later.fragment_bits), (DESTINATION, 24, 0x101));
    }

    proptest! {
        #[test]
        fn total(next: u8, bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(walk) = walk(next, &bytes) {
                prop_assert!(walk.offset as usize <= bytes.len());
                prop_assert!(!is_extension(walk.next()) || walk.fragment_bits & 0xfff8 != 0);
            }
        }
    }
}
