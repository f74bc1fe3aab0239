//! IPv6 extension headers (RFC 8200 section 4): a bounded walk that lets through next to nothing.

use sekisho_abi::verdict::Verdict;

use crate::frame::Frame;
use crate::parse::protocol;

/// Extension headers that a packet may carry.
const HEADERS_MAX: u32 = 4;
/// Options that one header may carry.
const OPTIONS_MAX: u32 = 8;

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

/// Where the walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walked {
    /// The transport's protocol number.
    pub protocol: u8,
    /// Where its header begins in the frame.
    pub offset: u32,
    /// Whether a router alert was on the way (RFC 2711): only multicast listener discovery may carry it.
    pub router_alert: bool,
}

/// Whether this next-header value is one that [`walk`] has to judge.
#[inline(always)]
pub const fn is_extension(next: u8) -> bool {
    matches!(
        next,
        HOP_BY_HOP | ROUTING | protocol::IPV6_FRAGMENT | DESTINATION | MOBILITY | HIP | SHIM6 | 253 | 254
    )
}

/// Walks from the header of type `next` at `offset` to the transport header, no further than `end`.
#[inline(always)]
pub fn walk<F: Frame + ?Sized>(
    frame: &F,
    mut next: u8,
    mut offset: u32,
    end: u32,
) -> Result<Walked, Verdict> {
    let mut router_alert = false;
    for index in 0..=HEADERS_MAX {
        match next {
            // RFC 8200 section 4.1: hop-by-hop options stand first or nowhere.
            HOP_BY_HOP if index == 0 => {}
            DESTINATION if index < HEADERS_MAX => {}
            protocol::IPV6_FRAGMENT => return Err(Verdict::DropFragment),
            other if is_extension(other) => return Err(Verdict::DropOptions),
            _ => break,
        }
        let [following, units] = frame.read_at::<2>(offset).ok_or(Verdict::DropMalformed)?;
        let length = (u32::from(units) + 1) * 8;
        if offset + length > end {
            return Err(Verdict::DropMalformed);
        }
        router_alert |= options(frame, offset + 2, offset + length)?;
        next = following;
        offset += length;
    }
    Ok(Walked { protocol: next, offset, router_alert })
}

/// Judges the options between `offset` and `end`; true where a router alert was among them.
#[inline(always)]
fn options<F: Frame + ?Sized>(frame: &F, mut offset: u32, end: u32) -> Result<bool, Verdict> {
    let mut router_alert = false;
    for _ in 0..OPTIONS_MAX {
        if offset >= end {
            return if offset == end { Ok(router_alert) } else { Err(Verdict::DropMalformed) };
        }
        // The header is at least eight bytes and ends within the packet, so a second byte is there to read; whether
        // it belongs to the option shows below.
        let [kind] = frame.read_at::<1>(offset).ok_or(Verdict::DropMalformed)?;
        if kind == OPTION_PAD1 {
            offset += 1;
            continue;
        }
        if kind & OPTION_ACTION != 0 {
            return Err(Verdict::DropOptions);
        }
        router_alert |= kind == OPTION_ROUTER_ALERT;
        let [length] = frame.read_at::<1>(offset + 1).ok_or(Verdict::DropMalformed)?;
        offset += 2 + u32::from(length);
    }
    if offset == end { Ok(router_alert) } else { Err(Verdict::DropOptions) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn walk_all(next: u8, bytes: &[u8]) -> Result<Walked, Verdict> {
        walk(bytes, next, 0, u32::try_from(bytes.len()).expect("short"))
    }

    #[test]
    fn padding_and_router_alert() {
        let padded = walk_all(HOP_BY_HOP, &[6, 0, 1, 4, 0, 0, 0, 0]);
        assert_eq!(padded, Ok(Walked { protocol: 6, offset: 8, router_alert: false }));
        let alert = walk_all(HOP_BY_HOP, &[58, 0, 5, 2, 0, 0, 1, 0]);
        assert_eq!(alert, Ok(Walked { protocol: 58, offset: 8, router_alert: true }));
        let pad1 = walk_all(DESTINATION, &[17, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(pad1, Ok(Walked { protocol: 17, offset: 8, router_alert: false }));
    }

    #[test]
    fn refused() {
        for (next, bytes, verdict) in [
            (ROUTING, [6, 0, 0, 0, 0, 0, 0, 0], Verdict::DropOptions),
            (protocol::IPV6_FRAGMENT, [6, 0, 0, 0, 0, 0, 0, 0], Verdict::DropFragment),
            (HOP_BY_HOP, [6, 0, 0xc2, 4, 0, 1, 0, 0], Verdict::DropOptions),
            (DESTINATION, [6, 0, 0xc9, 4, 0, 0, 0, 0], Verdict::DropOptions),
            (HOP_BY_HOP, [6, 1, 1, 4, 0, 0, 0, 0], Verdict::DropMalformed),
            (HOP_BY_HOP, [6, 0, 1, 5, 0, 0, 0, 0], Verdict::DropMalformed),
        ] {
            assert_eq!(walk_all(next, &bytes), Err(verdict), "{bytes:?}");
        }
        let twice = [HOP_BY_HOP, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0];
        assert_eq!(walk_all(HOP_BY_HOP, &twice), Err(Verdict::DropOptions));
        let mut many = [DESTINATION, 0, 1, 4, 0, 0, 0, 0].repeat(4);
        many.extend([6, 0, 1, 4, 0, 0, 0, 0]);
        assert_eq!(walk_all(DESTINATION, &many), Err(Verdict::DropOptions), "five headers");
        assert_eq!(walk_all(DESTINATION, &many[8..]).map(|walked| walked.protocol), Ok(6), "four headers");
    }

    proptest! {
        #[test]
        fn total(next: u8, bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(walked) = walk_all(next, &bytes) {
                prop_assert!(walked.offset as usize <= bytes.len());
                prop_assert!(!is_extension(walked.protocol));
            }
        }
    }
}
