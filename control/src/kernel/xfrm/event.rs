//! What the kernel tells of SAs by itself.

use std::net::{IpAddr, SocketAddr};

use super::policy::{POLICY, PolicyId};
use super::selector::{SELECTOR, XfrmSelector};
use super::state::{self, STATE, StateId};
use super::wire::{Received, attribute, message};

/// An event of the groups this listens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum XfrmEvent {
    /// A limit of an SA has passed.
    Expired { id: StateId, hard: bool },
    /// A packet found a policy, but no SA.
    Acquire {
        if_id: u32,
        /// Outer destination and SPI that the policy asks for.
        wanted: StateId,
        source: IpAddr,
        destination: IpAddr,
    },
    /// Authentic ESP in UDP came from elsewhere.
    Remapped { id: StateId, remote: SocketAddr },
    /// A policy was removed, by us or by others.
    PolicyGone(PolicyId),
    /// All policies were, or one that is not named.
    PoliciesGone,
}

/// Offset of the selector in xfrm_user_acquire, behind what the SA would be named by.
const ACQUIRE_SELECTOR: usize = 24 + 16;
/// And of the attributes.
const ACQUIRE: usize = ACQUIRE_SELECTOR + SELECTOR + POLICY + 4 * 4;

/// Reads an event; `None` for what is none, or of another protocol than ESP's.
pub(super) fn read(received: &Received<'_>) -> Option<XfrmEvent> {
    let body = received.body;
    match received.kind {
        message::EXPIRE => Some(XfrmEvent::Expired { id: state::id(body)?, hard: body.u8(STATE)? != 0 }),
        message::ACQUIRE => {
            let selector = XfrmSelector::read(body.from(ACQUIRE_SELECTOR)?)?;
            let mut attributes = body.from(ACQUIRE)?.attributes();
            // The outer family stands nowhere but in the template.
            let outer = body.from(ACQUIRE)?.attributes().find(|(kind, _)| *kind == attribute::TMPL);
            let family = outer.and_then(|(_, template)| template.u16(24))?;
            Some(XfrmEvent::Acquire {
                if_id: attributes.find(|(kind, _)| *kind == attribute::IF_ID)?.1.u32(0)?,
                wanted: StateId {
                    destination: body.address(0, family)?,
                    spi: body.u32_be(16)?,
                    source: body.address(24, family)?,
                },
                source: selector.source.address,
                destination: selector.destination.address,
            })
        }
        message::MAPPING => {
            let family = body.u16(20)?;
            let id = StateId {
                destination: body.address(0, family)?,
                spi: body.u32_be(16)?,
                source: body.address(28, family)?,
            };
            let remote = SocketAddr::new(body.address(44, family)?, body.u16_be(62)?);
            Some(XfrmEvent::Remapped { id, remote })
        }
        // One that was removed by its index is told of without its selector: it may be any.
        message::DELPOLICY => {
            Some(PolicyId::read_deleted(body).map_or(XfrmEvent::PoliciesGone, XfrmEvent::PolicyGone))
        }
        message::FLUSHPOLICY => Some(XfrmEvent::PoliciesGone),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::golden;
    use super::super::wire::Bytes;
    use super::*;

    fn read_body(kind: u16, body: &[u8]) -> Option<XfrmEvent> {
        read(&Received { kind, sequence: 0, body: Bytes(body) })
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    #[test]
    fn a_packet_without_an_sa() {
        let wanted = StateId { destination: address("240.0.0.1"), spi: 0x5e, source: address("127.0.0.1") };
        let (source, destination) = (address("10.1.0.1"), address("10.2.0.1"));
        assert_eq!(
            read_body(message::ACQUIRE, &golden::bytes(golden::ACQUIRE)),
            Some(XfrmEvent::Acquire { if_id: 0x5e50_0003, wanted, source, destination })
        );
    }

    #[test]
    fn a_nat_that_gave_another_port() {
        let id = StateId { destination: address("192.0.2.2"), spi: 0x1001, source: address("192.0.2.1") };
        let remote = SocketAddr::new(address("192.0.2.1"), 4501);
        assert_eq!(
            read_body(message::MAPPING, &golden::bytes(golden::MAPPING)),
            Some(XfrmEvent::Remapped { id, remote })
        );
    }

    /// The kernel shows the SA as it does when asked, and then whether it is the hard limit.
    #[test]
    fn a_limit_that_has_passed() {
        let mut body = golden::bytes(golden::FOUND_GCM_ESN)[..STATE].to_vec();
        let id = StateId { destination: address("192.0.2.2"), spi: 0x1001, source: address("192.0.2.1") };
        assert_eq!(read_body(message::EXPIRE, &body), None, "cut off");
        body.extend([1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(read_body(message::EXPIRE, &body), Some(XfrmEvent::Expired { id, hard: true }));
        body[STATE] = 0;
        assert_eq!(read_body(message::EXPIRE, &body), Some(XfrmEvent::Expired { id, hard: false }));
    }

    /// A flush is told without a word about what was there.
    #[test]
    fn policies_that_somebody_has_removed() {
        let gone = read_body(message::DELPOLICY, &golden::bytes(golden::DELPOLICY));
        let Some(XfrmEvent::PolicyGone(id)) = gone else { panic!("{gone:?}") };
        assert_eq!(id.if_id, 0x5e50_0003);
        assert_eq!(read_body(message::FLUSHPOLICY, &[]), Some(XfrmEvent::PoliciesGone));
        let mut by_index = golden::bytes(golden::DELPOLICY);
        by_index[..SELECTOR].fill(0);
        assert_eq!(read_body(message::DELPOLICY, &by_index), Some(XfrmEvent::PoliciesGone));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_event_or_none(
            kind in 0x10..0x28_u16,
            body in proptest::collection::vec(any::<u8>(), 0..400),
        ) {
            let _ = read_body(kind, &body);
        }

        #[test]
        fn a_changed_or_cut_event_is_one_or_none(at in 0..368_usize, value: u8, length in 0..369_usize) {
            let mut body = golden::bytes(golden::ACQUIRE);
            body[at] = value;
            body.truncate(length);
            let _ = read_body(message::ACQUIRE, &body);
        }
    }
}
