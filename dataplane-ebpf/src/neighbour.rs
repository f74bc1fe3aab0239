//! ARP (RFC 826) and neighbour discovery (RFC 4861): who may claim which address on which port.

use sekisho_abi::neighbour::{Neighbour, neighbour_flags};
use sekisho_abi::port::{Network, Port, network_kind};
use sekisho_abi::verdict::Verdict;
use sekisho_abi::{Address, mapped};

use crate::frame::{Aligned, Frame};
use crate::parse::{ETHERNET_BYTES, Ethernet, Packet};
use crate::spoof::{self, Scope};

/// What an ARP packet claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Address of which the sender says that it's its own.
    pub sender: Address,
    /// A probe (RFC 5227 section 2.1.1): a request that claims nothing, from 0.0.0.0.
    pub probe: bool,
}

/// Reads ARP for IPv4 over Ethernet. The sender's MAC address must be the frame's own.
#[inline(always)]
pub fn arp<F: Frame + ?Sized>(frame: &F, ethernet: &Ethernet) -> Result<Arp, Verdict> {
    let header = frame.read::<28>(ETHERNET_BYTES).ok_or(Verdict::DropMalformed)?;
    let [h0, h1, p0, p1, 6, 4, 0, operation @ (1 | 2), m0, m1, m2, m3, m4, m5, s0, s1, s2, s3, ..] = header
    else {
        return Err(Verdict::DropNeighbour);
    };
    own_mac(&ethernet.source)?;
    if [h0, h1, p0, p1] != [0, 1, 8, 0] || [m0, m1, m2, m3, m4, m5] != ethernet.source {
        return Err(Verdict::DropNeighbour);
    }
    let probe = operation == 1 && [s0, s1, s2, s3] == [0; 4];
    if !probe && spoof::scope_v4([s0, s1, s2, s3]) != Scope::Unicast {
        return Err(Verdict::DropNeighbour);
    }
    Ok(Arp { sender: mapped([s0, s1, s2, s3]), probe })
}

/// Refuses a sender whose MAC address is a group's: no router may believe that a host has one (RFC 1812 section 3.3.2).
#[inline(always)]
const fn own_mac(source: &[u8; 6]) -> Result<(), Verdict> {
    if source[0] & 1 != 0 { Err(Verdict::DropNeighbour) } else { Ok(()) }
}

/// Options that are looked at in a neighbour discovery message; one with more is refused.
const OPTIONS_MAX: u32 = 16;

/// Holds the link-layer addresses that a neighbour discovery message tells (RFC 4861 section 4.6.1) against the frame's
/// own source: as in ARP, nobody speaks for another station.
#[inline(always)]
pub fn link_layer<F: Frame + ?Sized>(frame: &F, packet: &Packet, ethernet: &Ethernet) -> Result<(), Verdict> {
    own_mac(&ethernet.source)?;
    let fixed = match packet.destination_port_be.to_ne_bytes() {
        [133, _] => 8,
        [134, _] => 16,
        _ => 24,
    };
    let mut at = u32::from(packet.transport) + fixed;
    let end = u32::from(packet.length) + ETHERNET_BYTES;
    for _ in 0..OPTIONS_MAX {
        if at == end {
            return Ok(());
        }
        let [kind, units, mac @ ..] = frame.read_at::<8>(at).ok_or(Verdict::DropMalformed)?;
        at = at.saturating_add(u32::from(units) * 8);
        // RFC 4861 section 4.6: a message with an option of no length is discarded.
        if units == 0 || at > end {
            return Err(Verdict::DropMalformed);
        }
        // Source and target link-layer address.
        if matches!(kind, 1 | 2) && (units != 1 || mac != ethernet.source) {
            return Err(Verdict::DropNeighbour);
        }
    }
    if at == end { Ok(()) } else { Err(Verdict::DropNeighbour) }
}

/// Whether someone on the port may claim an address with this entry in `NETWORKS`: not the gateway's own, and none
/// that belongs elsewhere.
#[inline(always)]
pub const fn claim(owner: Option<&Network>, port: &Port) -> Result<(), Verdict> {
    match spoof::source(owner, port) {
        Ok(()) => Ok(()),
        Err(_) => Err(Verdict::DropNeighbour),
    }
}

/// Whether someone on the port may ask for an address with this entry in `NETWORKS`: as [`claim`], and for the
/// gateway's own.
#[inline(always)]
pub const fn question(owner: Option<&Network>, port: &Port) -> Result<(), Verdict> {
    match owner {
        Some(Network { kind: network_kind::LOCAL, .. }) => Ok(()),
        _ => claim(owner, port),
    }
}

/// An address that still has to be held against `NETWORKS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// The source, where it isn't link-local or unspecified.
    pub source: Option<Aligned<Address>>,
    /// The target of a solicitation or advertisement, where it isn't link-local.
    pub target: Option<Aligned<Address>>,
    /// Whether the target is claimed (advertisement) rather than asked for.
    pub claims: bool,
    /// Addresses that the sender says are its own, link-local ones too; zero for none.
    pub own: [Address; 2],
    /// A router advertisement: hosts' networks take none.
    pub router: bool,
}

/// Judges a neighbour discovery message as far as it can be without tables.
#[inline(always)]
pub fn discovery<F: Frame + ?Sized>(frame: &F, packet: &Packet) -> Result<Discovery, Verdict> {
    const ROUTER_SOLICITATION: u8 = 133;
    const ROUTER_ADVERTISEMENT: u8 = 134;
    const NEIGHBOUR_SOLICITATION: u8 = 135;
    const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

    let [kind, code] = packet.destination_port_be.to_ne_bytes();
    // RFC 4861 sections 6.1 and 7.1: 255 proves that no router was on the way.
    if packet.hop_limit != 255 || code != 0 {
        return Err(Verdict::DropNeighbour);
    }
    let source = match spoof::scope_v6(&packet.source) {
        Scope::LinkLocal | Scope::Unspecified => None,
        Scope::Unicast => Some(Aligned(packet.source)),
        Scope::Group | Scope::Martian => return Err(Verdict::DropNeighbour),
    };
    let unspecified = packet.source == [0; 16];
    let own = [packet.source, [0; 16]];
    match kind {
        ROUTER_SOLICITATION => Ok(Discovery { source, target: None, claims: false, own, router: false }),
        // RFC 4861 section 6.1.2: from a link-local address only.
        ROUTER_ADVERTISEMENT if source.is_none() && !unspecified => {
            Ok(Discovery { source, target: None, claims: false, own, router: true })
        }
        NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT => {
            let claims = kind == NEIGHBOUR_ADVERTISEMENT;
            if claims && unspecified {
                return Err(Verdict::DropNeighbour);
            }
            let at = u32::from(packet.transport) + 8;
            if at + 16 > u32::from(packet.length) + ETHERNET_BYTES {
                return Err(Verdict::DropMalformed);
            }
            let target = frame.address_at(at).ok_or(Verdict::DropMalformed)?;
            let own = [packet.source, if claims { target } else { [0; 16] }];
            let target = match spoof::scope_v6(&target) {
                Scope::LinkLocal => None,
                Scope::Unicast => Some(Aligned(target)),
                Scope::Group | Scope::Unspecified | Scope::Martian => return Err(Verdict::DropNeighbour),
            };
            Ok(Discovery { source, target, claims, own, router: false })
        }
        // Redirects (137) would let any host move another's traffic.
        _ => Err(Verdict::DropNeighbour),
    }
}

/// Whether a multicast listener message is in order: link-local, to a group, with hop limit 1 and router alert
/// (RFC 3810 section 5).
#[inline(always)]
pub fn listener(packet: &Packet) -> Result<(), Verdict> {
    let source = spoof::scope_v6(&packet.source);
    let to_group = spoof::scope_v6(&packet.destination) == Scope::Group;
    if packet.hop_limit == 1
        && packet.router_alert != 0
        && to_group
        && matches!(source, Scope::LinkLocal | Scope::Unspecified)
    {
        Ok(())
    } else {
        Err(Verdict::DropNeighbour)
    }
}

/// The link-local address that a device makes of its MAC address (RFC 4291 appendix A).
#[inline(always)]
pub const fn link_local(mac: &[u8; 6]) -> Address {
    let [a, b, c, d, e, f] = *mac;
    [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]
}

/// How a sender stands to the binding of the address that it uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It's the address's own, and was seen a moment ago.
    Own,
    /// It's the address's own; that it was seen is to be noted.
    Seen,
    /// The address is nobody's.
    Free,
    /// The address is another's.
    Foreign,
}

/// How long a binding goes without a note that it was seen. Lifetimes are whole seconds and far longer.
const NOTE_NS: u64 = 1_000_000_000;

/// Holds a sender's MAC address against the binding of the address that it uses.
#[inline(always)]
pub fn standing(bound: Option<&Neighbour>, mac: &[u8; 6], lifetime_ns: u64, now_ns: u64) -> Standing {
    let Some(bound) = bound else { return Standing::Free };
    let age_ns = now_ns.saturating_sub(bound.seen_ns);
    let is_static = bound.flags & neighbour_flags::STATIC != 0;
    match bound.mac == *mac {
        true if is_static || age_ns < NOTE_NS => Standing::Own,
        true => Standing::Seen,
        false if !is_static && age_ns > lifetime_ns => Standing::Free,
        false => Standing::Foreign,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn link_local_addresses_of_devices() {
        let expected = "fe80::211:22ff:fe33:4455".parse::<std::net::Ipv6Addr>().expect("an address");
        assert_eq!(link_local(&[0, 0x11, 0x22, 0x33, 0x44, 0x55]), expected.octets());
    }

    #[test]
    fn bindings_age_and_static_ones_do_not() {
        const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 66];
        let bound = |flags| Neighbour { seen_ns: 100 * SECOND, mac: MAC, flags };
        let (learned, fixed) = (bound(0), bound(neighbour_flags::STATIC));
        for (bound, mac, seconds, expected) in [
            (None, MAC, 100, Standing::Free),
            (Some(learned), MAC, 100, Standing::Own),
            (Some(learned), MAC, 101, Standing::Seen),
            (Some(learned), MAC, 100_000, Standing::Seen),
            (Some(learned), OTHER, 100, Standing::Foreign),
            (Some(learned), OTHER, 160, Standing::Foreign),
            (Some(learned), OTHER, 161, Standing::Free),
            // A clock that seems to run backwards between CPUs.
            (Some(learned), OTHER, 99, Standing::Foreign),
            (Some(fixed), MAC, 100_000, Standing::Own),
            (Some(fixed), OTHER, 100_000, Standing::Foreign),
        ] {
            let found = standing(bound.as_ref(), &mac, 60 * SECOND, seconds * SECOND);
            assert_eq!(found, expected, "{bound:?} {mac:02x?} {seconds}");
        }
    }

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn arp_frame(operation: u8, mac: [u8; 6], sender: [u8; 4]) -> Vec<u8> {
        let mut frame = vec![0xff; 6];
        frame.extend(MAC);
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
        frame.extend(mac);
        frame.extend(sender);
        frame.extend([0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
        frame
    }

    fn read(frame: &[u8]) -> Result<Arp, Verdict> {
        arp(frame, &Ethernet::read(frame)?)
    }

    #[test]
    fn arp_senders() {
        let claim = Arp { sender: mapped([10, 0, 0, 9]), probe: false };
        assert_eq!(read(&arp_frame(1, MAC, [10, 0, 0, 9])), Ok(claim));
        assert_eq!(read(&arp_frame(2, MAC, [10, 0, 0, 9])), Ok(claim));
        assert_eq!(read(&arp_frame(1, MAC, [0; 4])), Ok(Arp { sender: mapped([0; 4]), probe: true }));
        for refused in [
            arp_frame(2, MAC, [0; 4]),
            arp_frame(3, MAC, [10, 0, 0, 9]),
            arp_frame(1, [2, 0, 0, 0, 0, 8], [10, 0, 0, 9]),
            arp_frame(1, MAC, [224, 0, 0, 1]),
        ] {
            assert_eq!(read(&refused), Err(Verdict::DropNeighbour));
        }
        assert_eq!(read(&arp_frame(1, MAC, [10, 0, 0, 9])[..41]), Err(Verdict::DropMalformed));
    }

    /// A neighbour discovery message as parsed, and its frame.
    fn message(kind: u8, source: &str, target: &str) -> (Vec<u8>, Packet) {
        let octets = |text: &str| text.parse::<std::net::Ipv6Addr>().expect("an address").octets();
        let mut frame = vec![0; 54];
        frame.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
        frame.extend(octets(target));
        let packet = Packet {
            version: 6,
            source: octets(source),
            destination: octets("ff02::1"),
            destination_port_be: u16::from_ne_bytes([kind, 0]),
            hop_limit: 255,
            transport: 54,
            length: 64,
            ..Packet::default()
        };
        (frame, packet)
    }

    #[test]
    fn discovery_messages() {
        let judge = |(frame, packet): (Vec<u8>, Packet)| discovery(&frame[..], &packet);
        let global = "2001:db8::9".parse::<std::net::Ipv6Addr>().expect("an address").octets();
        let link_local = "fe80::9".parse::<std::net::Ipv6Addr>().expect("an address").octets();
        let advertised = judge(message(136, "fe80::9", "2001:db8::9"));
        assert_eq!(
            advertised,
            Ok(Discovery {
                source: None,
                target: Some(Aligned(global)),
                claims: true,
                own: [link_local, global],
                router: false
            })
        );
        let asked = judge(message(135, "2001:db8::9", "fe80::1"));
        let own = [global, [0; 16]];
        assert_eq!(
            asked,
            Ok(Discovery { source: Some(Aligned(global)), target: None, claims: false, own, router: false })
        );
        let claimed = judge(message(136, "2001:db8::9", "fe80::9")).expect("in order");
        assert_eq!((claimed.target, claimed.own), (None, [global, link_local]));
        assert!(judge(message(135, "::", "2001:db8::9")).is_ok(), "duplicate address detection");
        assert!(judge(message(134, "fe80::9", "::")).is_ok_and(|message| message.router));
        for refused in [
            message(134, "2001:db8::9", "::"),
            message(136, "::", "2001:db8::9"),
            message(137, "fe80::9", "2001:db8::9"),
            message(135, "fe80::9", "ff02::1"),
        ] {
            assert_eq!(judge(refused), Err(Verdict::DropNeighbour));
        }
        let (frame, packet) = message(135, "fe80::9", "2001:db8::9");
        assert_eq!(judge((frame.clone(), Packet { hop_limit: 254, ..packet })), Err(Verdict::DropNeighbour));
        assert_eq!(judge((frame, Packet { length: 63, ..packet })), Err(Verdict::DropMalformed));
    }

    #[test]
    fn link_layer_addresses() {
        let sender = Ethernet { destination: [0xff; 6], source: MAC, ethertype: 0x86dd };
        let judge = |options: &[u8], sender: &Ethernet| {
            let (mut frame, mut packet) = message(135, "fe80::9", "2001:db8::9");
            frame.extend(options);
            packet.length = u16::try_from(frame.len() - 14).expect("short");
            link_layer(&frame[..], &packet, sender)
        };
        let own = [&[1, 1][..], &MAC].concat();
        assert_eq!(judge(&[], &sender), Ok(()));
        assert_eq!(judge(&own.repeat(16), &sender), Ok(()));
        assert_eq!(judge(&own.repeat(17), &sender), Err(Verdict::DropNeighbour));
        assert_eq!(judge(&[1, 1, 2, 0, 0, 0, 0, 8], &sender), Err(Verdict::DropNeighbour));
        assert_eq!(judge(&own[..7], &sender), Err(Verdict::DropMalformed));
        let group = Ethernet { source: [3, 0, 0, 0, 0, 9], ..sender };
        assert_eq!(judge(&[], &group), Err(Verdict::DropNeighbour));
    }

    proptest! {
        #[test]
        fn link_layer_is_total(
            kind in 133u8..=136,
            bytes in prop::collection::vec(any::<u8>(), 54..200),
            transport in 54u16..300,
            length in 40u16..
        ) {
            let packet = Packet {
                destination_port_be: u16::from_ne_bytes([kind, 0]),
                transport,
                length,
                ..Packet::default()
            };
            let ethernet = Ethernet::read(&bytes[..]).expect("a header");
            if link_layer(&bytes[..], &packet, &ethernet).is_ok() {
                prop_assert!(bytes[6] & 1 == 0);
            }
        }

        #[test]
        fn arp_is_total(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(arp) = read(&bytes) {
                prop_assert_eq!(&bytes[6..12], &bytes[22..28]);
                prop_assert!(arp.sender.starts_with(&mapped([0; 4])[..12]));
            }
        }
    }
}
