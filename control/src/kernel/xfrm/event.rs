//! What the kernel tells of SAs by itself.

use std::net::{IpAddr, SocketAddr};

use super::policy::POLICY;
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
        _ => None,
    }
}
