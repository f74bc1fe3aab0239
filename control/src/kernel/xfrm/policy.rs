//! One policy of the kernel: which packets of an xfrm interface go by which SAs.

use std::net::IpAddr;

use super::selector::{SELECTOR, XfrmSelector};
use super::state;
use super::wire::{Bytes, ESP, Request, TUNNEL, attribute, family, message};

/// Bytes of xfrm_userpolicy_info.
pub(super) const POLICY: usize = 168;
/// Offset of the direction in it.
const DIRECTION: usize = 160;
/// Bytes of xfrm_userpolicy_id, and the offset of the direction in it.
const DELETED: usize = 64;
const DELETED_DIRECTION: usize = 60;
/// NLM_F_REQUEST | NLM_F_ACK.
const ACKNOWLEDGED: u16 = 5;
/// NLM_F_REQUEST | NLM_F_DUMP.
const DUMPED: u16 = 0x301;

/// XFRM_POLICY_IN, _OUT, _FWD.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PolicyDirection {
    In = 0,
    Out = 1,
    Forward = 2,
}

impl PolicyDirection {
    fn of(number: u8) -> Option<PolicyDirection> {
        [PolicyDirection::In, PolicyDirection::Out, PolicyDirection::Forward]
            .into_iter()
            .find(|direction| *direction as u8 == number)
    }
}

/// What names a policy in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PolicyId {
    pub(super) direction: PolicyDirection,
    pub(super) if_id: u32,
    pub(super) selector: XfrmSelector,
}

/// The SAs a policy asks for (xfrm_user_tmpl).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Template {
    /// Outer source; unspecified: any, where packets come in.
    pub(super) source: IpAddr,
    /// Outer destination.
    pub(super) destination: IpAddr,
    /// 0: any.
    pub(super) spi: u32,
    pub(super) reqid: u32,
}

/// A policy to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) id: PolicyId,
    /// The lowest number is asked first.
    pub(super) priority: u32,
    pub(super) template: Template,
}

impl Policy {
    /// XFRM_MSG_UPDPOLICY: in place of the one with this name, or as the first.
    pub(super) fn put(&self) -> Request {
        self.write(message::UPDPOLICY)
    }

    #[cfg(test)]
    fn add(&self) -> Request {
        self.write(message::NEWPOLICY)
    }

    fn write(&self, kind: u16) -> Request {
        let mut request = Request::new(kind, ACKNOWLEDGED);
        self.id.selector.put(&mut request);
        state::no_lifetimes(&mut request);
        // Use so far.
        request.zeros(32);
        // No index yet; the direction; XFRM_POLICY_ALLOW; no flags; XFRM_SHARE_ANY.
        request.u32(self.priority).u32(0).u8(self.id.direction as u8).zeros(3 + 4);
        request.attribute(attribute::TMPL, |value| {
            let Template { source, destination, spi, reqid } = self.template;
            value.address(destination).u32_be(spi).u8(ESP).zeros(3);
            value.u16(family(destination)).zeros(2).address(source);
            value.u32(reqid).u8(TUNNEL).zeros(3);
            // Whatever algorithms the SA has.
            value.u32(u32::MAX).u32(u32::MAX).u32(u32::MAX);
        });
        put_if_id(&mut request, self.id.if_id);
        request
    }
}

impl PolicyId {
    /// XFRM_MSG_DELPOLICY.
    pub(super) fn delete(&self) -> Request {
        let mut request = Request::new(message::DELPOLICY, ACKNOWLEDGED);
        self.selector.put(&mut request);
        request.u32(0).u8(self.direction as u8).zeros(3);
        put_if_id(&mut request, self.if_id);
        request
    }

    /// Reads the name in the body of an XFRM_MSG_NEWPOLICY.
    pub(super) fn read(body: Bytes<'_>) -> Option<PolicyId> {
        PolicyId::read_from(body, DIRECTION, POLICY)
    }

    /// Reads the name in the body of an XFRM_MSG_DELPOLICY.
    pub(super) fn read_deleted(body: Bytes<'_>) -> Option<PolicyId> {
        PolicyId::read_from(body, DELETED_DIRECTION, DELETED)
    }

    /// The selector stands first in both, the direction and the attributes at these offsets.
    fn read_from(body: Bytes<'_>, direction: usize, attributes: usize) -> Option<PolicyId> {
        let mut attributes = body.from(attributes)?.attributes();
        let if_id =
            attributes.find(|(kind, _)| *kind == attribute::IF_ID).and_then(|(_, value)| value.u32(0));
        Some(PolicyId {
            direction: PolicyDirection::of(body.u8(direction)?)?,
            if_id: if_id.unwrap_or(0),
            selector: XfrmSelector::read(Bytes(body.slice(0, SELECTOR)?))?,
        })
    }
}

fn put_if_id(request: &mut Request, if_id: u32) {
    request.attribute(attribute::IF_ID, |value| {
        value.u32(if_id);
    });
}

/// XFRM_MSG_GETPOLICY for all there are.
pub(super) fn dump() -> Request {
    let mut request = Request::new(message::GETPOLICY, DUMPED);
    request.zeros(64);
    request
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::golden;
    use super::super::selector::{PortMask, Prefix};
    use super::*;

    fn policy(peer: &str) -> Policy {
        let prefix = |text: &str, length| Prefix { address: text.parse().expect("address"), length };
        Policy {
            id: PolicyId {
                direction: PolicyDirection::Out,
                if_id: 0x5e50_0003,
                selector: XfrmSelector {
                    source: prefix("10.1.0.0", 24),
                    destination: prefix("10.2.0.0", 16),
                    protocol: 6,
                    source_port: PortMask::ANY,
                    destination_port: PortMask { value: 443, mask: 0xffff },
                },
            },
            priority: 1234,
            template: Template {
                source: "192.0.2.1".parse().expect("address"),
                destination: peer.parse().expect("address"),
                spi: 0,
                reqid: 7,
            },
        }
    }

    #[test]
    fn writes_what_ip_xfrm_writes() {
        golden::assert_written(policy("192.0.2.2").add(), golden::NEWPOLICY);
        golden::assert_written(policy("192.0.2.9").put(), golden::UPDPOLICY);
        golden::assert_written(policy("192.0.2.2").id.delete(), golden::DELPOLICY);
    }

    #[test]
    fn a_policy_is_known_again() {
        let bytes = golden::bytes(golden::NEWPOLICY);
        assert_eq!(PolicyId::read(Bytes(&bytes)), Some(policy("192.0.2.2").id));
        for length in 0..POLICY {
            assert_eq!(PolicyId::read(Bytes(&bytes[..length])), None);
        }
        // What the kernel tells of one that is gone begins as the request to remove it.
        let bytes = golden::bytes(golden::DELPOLICY);
        assert_eq!(PolicyId::read_deleted(Bytes(&bytes)), Some(policy("192.0.2.2").id));
        for length in 0..DELETED {
            assert_eq!(PolicyId::read_deleted(Bytes(&bytes[..length])), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_policy_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = PolicyId::read(Bytes(&bytes));
            let _ = PolicyId::read_deleted(Bytes(&bytes));
        }
    }
}
