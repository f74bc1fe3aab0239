//! Which policies a pair of SAs in force asks for, and a trap. Pure: what is there is compared with it elsewhere.

use std::net::{IpAddr, Ipv4Addr};

use sekisho_esp::sa::{Outer, PortId};

use super::policy::{Policy, PolicyDirection, PolicyId, Template};
use super::selector::{PortMask, Prefix, XfrmSelector};
use super::wire::unspecified;

/// What the kernel calls our VPN ports: recognisable in `ip xfrm`, and nobody else's by chance.
const IF_ID_BASE: u32 = 0x5e50_0000;

/// The interface id of a VPN port.
pub(super) fn if_id(port: PortId) -> u32 {
    IF_ID_BASE | u32::from(port)
}

/// The VPN port with this interface id, if it is one of ours.
pub(super) fn port(if_id: u32) -> Option<PortId> {
    let port = PortId::try_from(if_id & 0xffff).ok()?;
    (if_id & 0xffff_0000 == IF_ID_BASE).then_some(port)
}

/// Policies that a pair's packets go by are asked before those that only wait for packets.
const PAIRS_FIRST: u32 = 1000;
/// Past every width of a selector.
const TRAPS_LAST: u32 = 10_000;
/// The SPI that a trap asks for: none that is ever negotiated (RFC 4303 section 2.1 reserves 1 to 255), so that the
/// kernel's note of the acquire can be found, and removed before its 30 seconds are over.
pub(super) const TRAP_SPI: u32 = 0x5e;
/// Outer destinations that traps ask for, one each: addresses that are none (RFC 1112 section 4, class E).
const TRAP_PEERS: Ipv4Addr = Ipv4Addr::new(240, 0, 0, 0);

/// A pair as far as policies go.
pub(super) struct Wanted<'a> {
    pub(super) port: PortId,
    pub(super) reqid: u32,
    pub(super) outer: Outer,
    /// What is sent.
    pub(super) outbound: &'a [XfrmSelector],
    /// What is received.
    pub(super) inbound: &'a [XfrmSelector],
    /// Its outbound SA is the one in use.
    pub(super) active: bool,
}

impl Wanted<'_> {
    /// What it asks for. `translates`: the filter changes destinations of what was decrypted before the kernel looks at them.
    pub(super) fn policies(&self, translates: bool) -> Vec<Policy> {
        let (ours, theirs) = (self.outer.local.ip(), self.outer.remote.ip());
        let policy = |direction, selector: XfrmSelector, source, destination| Policy {
            id: PolicyId { direction, if_id: if_id(self.port), selector },
            // The narrower a selector, the sooner it is asked.
            priority: PAIRS_FIRST + selector.width(),
            template: Template { source, destination, spi: 0, reqid: self.reqid },
        };
        let sent = if self.active { self.outbound } else { &[] };
        let out = sent.iter().map(|selector| policy(PolicyDirection::Out, *selector, ours, theirs));
        let received = self.inbound.iter().flat_map(|selector| {
            let selector = if translates { to_anywhere(selector) } else { *selector };
            // By its reqid, wherever the peer is just now.
            [PolicyDirection::In, PolicyDirection::Forward]
                .map(|direction| policy(direction, selector, unspecified(ours), ours))
        });
        out.chain(received).collect()
    }
}

/// The same sources, to any destination: which, the filter's rules say.
fn to_anywhere(selector: &XfrmSelector) -> XfrmSelector {
    XfrmSelector {
        destination: Prefix { address: unspecified(selector.destination.address), length: 0 },
        destination_port: PortMask::ANY,
        ..*selector
    }
}

/// A policy that makes the kernel tell of a packet for a connection that is not up. Nothing is ever sent by it.
pub(super) fn trap(port: PortId, selector: XfrmSelector, number: u32) -> Policy {
    let peer = Ipv4Addr::from_bits(TRAP_PEERS.to_bits() | number);
    Policy {
        id: PolicyId { direction: PolicyDirection::Out, if_id: if_id(port), selector },
        priority: TRAPS_LAST + selector.width(),
        template: Template {
            source: IpAddr::V4(Ipv4Addr::LOCALHOST),
            destination: IpAddr::V4(peer),
            spi: TRAP_SPI,
            reqid: u32::MAX - number,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(from: &str, to: &str, length: u8) -> XfrmSelector {
        let prefix = |text: &str| Prefix { address: text.parse().expect("address"), length };
        XfrmSelector::between(prefix(from), prefix(to))
    }

    fn outer(remote: &str) -> Outer {
        Outer {
            local: "192.0.2.1:500".parse().expect("address"),
            remote: remote.parse().expect("address"),
            udp_encapsulation: false,
        }
    }

    #[test]
    fn a_pair_that_lingers_receives_and_does_not_send() {
        let (there, back) = (selector("10.1.0.0", "10.2.0.0", 24), selector("10.2.0.0", "10.1.0.0", 24));
        let directions = |active| -> Vec<PolicyDirection> {
            let wanted = Wanted {
                port: 3,
                reqid: 7,
                outer: outer("192.0.2.2:500"),
                outbound: std::slice::from_ref(&there),
                inbound: std::slice::from_ref(&back),
                active,
            };
            wanted.policies(false).iter().map(|policy| policy.id.direction).collect()
        };
        assert_eq!(directions(false), [PolicyDirection::In, PolicyDirection::Forward]);
        assert_eq!(directions(true), [PolicyDirection::Out, PolicyDirection::In, PolicyDirection::Forward]);
    }

    #[test]
    fn a_pair_goes_before_a_trap_and_the_narrower_before_the_wider() {
        let (there, host) = (selector("10.1.0.0", "10.2.0.0", 24), selector("10.1.0.1", "10.2.0.1", 32));
        let trapped = selector("10.1.0.0", "10.2.0.0", 16);
        let pair = Wanted {
            port: 3,
            reqid: 7,
            outer: outer("192.0.2.2:500"),
            outbound: &[there, host],
            inbound: &[],
            active: true,
        };
        let mut order = pair.policies(false);
        order.push(trap(3, trapped, 1));
        order.sort_by_key(|policy| policy.priority);
        assert_eq!(order.iter().map(|policy| policy.id.selector).collect::<Vec<_>>(), [host, there, trapped]);
    }

    #[test]
    fn where_addresses_are_translated_the_source_alone_names_the_sa() {
        let back = selector("10.2.0.0", "10.1.0.0", 24);
        let pair = Wanted {
            port: 3,
            reqid: 7,
            outer: outer("192.0.2.2:500"),
            outbound: &[],
            inbound: std::slice::from_ref(&back),
            active: false,
        };
        let all = pair.policies(true);
        assert_eq!(all.len(), 2);
        for Policy { id, .. } in all {
            assert_eq!((id.selector.source, id.selector.destination.length), (back.source, 0));
        }
    }

    #[test]
    fn interface_ids_are_ours_or_not() {
        assert_eq!(port(if_id(3)), Some(3));
        assert_eq!((port(0), port(3), port(0x5e51_0003)), (None, None, None));
    }
}
