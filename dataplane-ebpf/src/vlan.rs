//! 802.1Q tags (IEEE 802.1Q section 9.6): which of them name a port.

use sekisho_abi::verdict::Verdict;

use crate::frame::Frame;
use crate::parse::ethertype;

/// The bits of a tag's control information that are the VLAN id; the others are priority and eligibility to be dropped.
const ID_MASK: u16 = 0x0fff;
/// EtherType of a second tag, from before IEEE 802.1ad gave it one.
const STACKED: u16 = 0x9100;

/// Whether an EtherType announces a tag.
#[inline(always)]
pub const fn is_tag(kind: u16) -> bool {
    matches!(kind, ethertype::VLAN | ethertype::SERVICE_VLAN)
}

/// The VLAN id of a tagged frame: of one 802.1Q tag that is not there for its priority alone.
#[inline(always)]
pub fn read<F: Frame + ?Sized>(frame: &F) -> Result<u16, Verdict> {
    let word = |at| frame.read_u16(at).map(u16::from_be).ok_or(Verdict::DropMalformed);
    let (outer, control, inner) = (word(12)?, word(14)?, word(16)?);
    if outer != ethertype::VLAN || is_tag(inner) || inner == STACKED {
        return Err(Verdict::DropVlanDouble);
    }
    match control & ID_MASK {
        0 => Err(Verdict::DropVlanPriority),
        id => Ok(id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tagged(rest: &[u8]) -> Result<u16, Verdict> {
        read(&[&[2; 12], rest].concat()[..])
    }

    #[test]
    fn one_tag_names_a_vlan_whatever_its_priority() {
        assert_eq!(tagged(&[0x81, 0, 0, 10, 8, 0]), Ok(10));
        assert_eq!(tagged(&[0x81, 0, 0xf0, 10, 0x86, 0xdd]), Ok(10));
        assert_eq!(tagged(&[0x81, 0, 0x0f, 0xff, 8, 6]), Ok(4095));
    }

    #[test]
    fn every_other_tag_is_refused_by_its_name() {
        for (rest, expected) in [
            (&[0x81, 0, 0, 0, 8, 0][..], Verdict::DropVlanPriority),
            (&[0x81, 0, 0xe0, 0, 8, 0], Verdict::DropVlanPriority),
            (&[0x81, 0, 0, 10, 0x81, 0], Verdict::DropVlanDouble),
            (&[0x81, 0, 0, 10, 0x88, 0xa8], Verdict::DropVlanDouble),
            (&[0x81, 0, 0, 0, 0x81, 0], Verdict::DropVlanDouble),
            (&[0x81, 0, 0, 10, 0x91, 0], Verdict::DropVlanDouble),
            (&[0x88, 0xa8, 0, 10, 8, 0], Verdict::DropVlanDouble),
            (&[0x81, 0, 0, 10, 8], Verdict::DropMalformed),
            (&[0x81, 0], Verdict::DropMalformed),
        ] {
            assert_eq!(tagged(rest), Err(expected), "{rest:02x?}");
        }
    }
}
