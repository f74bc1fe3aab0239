//! Step 3 of the packet's way: may this source come from here, and is this address valid at all?

use sekisho_abi::Address;
use sekisho_abi::port::{Network, Port, network_kind, port_flags};
use sekisho_abi::verdict::Verdict;

use crate::flow;
use crate::parse::{Kind, Packet, udp_port};

/// Where an address may be used, as far as its bits alone tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One host anywhere.
    Unicast,
    /// One host on this link: fe80::/10 (RFC 4291 section 2.5.6).
    LinkLocal,
    /// Multicast, or the limited broadcast 255.255.255.255.
    Group,
    /// 0.0.0.0 or `::`.
    Unspecified,
    /// Valid on no wire (RFC 6890): the rest of 0/8, 127/8, 240/4, `::1`, and IPv4 written as IPv6.
    Martian,
}

/// The scope of an IPv4 address.
#[inline(always)]
pub const fn scope_v4(address: [u8; 4]) -> Scope {
    match address {
        [0, 0, 0, 0] => Scope::Unspecified,
        [0 | 127, ..] => Scope::Martian,
        [224..=239, ..] | [255, 255, 255, 255] => Scope::Group,
        [240..=255, ..] => Scope::Martian,
        _ => Scope::Unicast,
    }
}

/// The scope of an IPv6 address.
#[inline(always)]
pub fn scope_v6(address: &Address) -> Scope {
    // In halves, as tables are asked: the compiler would else take it byte by byte for both.
    let [first, second] = flow::halves(address).map(u64::from_be);
    match first {
        0 if second == 0 => Scope::Unspecified,
        // ::1, IPv4-compatible, and IPv4-mapped (RFC 4291 section 2.5.5): the last would be taken for IPv4 by our own
        // tables.
        0 if second >> 48 == 0 => Scope::Martian,
        first if first >> 56 == 0xff => Scope::Group,
        first if first >> 54 == 0x3fa => Scope::LinkLocal,
        _ => Scope::Unicast,
    }
}

/// The scope of an address of this packet.
#[inline(always)]
pub fn scope(packet: &Packet, address: &Address) -> Scope {
    if packet.version == 4 {
        let [_, second] = flow::halves(address);
        let [.., a, b, c, d] = second.to_ne_bytes();
        scope_v4([a, b, c, d])
    } else {
        scope_v6(address)
    }
}

/// Whether packets to this destination go to hosts on the link or in groups, and so are never forwarded.
#[inline(always)]
pub const fn stays_on_link(destination: Scope) -> bool {
    matches!(destination, Scope::Group | Scope::LinkLocal)
}

/// Refuses addresses that are valid on no wire, whatever the configuration.
#[inline(always)]
pub fn martian(packet: &Packet, source: Scope, destination: Scope) -> Result<(), Verdict> {
    if matches!(source, Scope::Martian | Scope::Group)
        || matches!(destination, Scope::Martian | Scope::Unspecified)
        || flow::halves(&packet.source) == flow::halves(&packet.destination)
    {
        return Err(Verdict::DropMartian);
    }
    match source {
        // A host that has no address yet asks for one.
        Scope::Unspecified if is_dhcp_request(packet) => Ok(()),
        Scope::Unspecified => Err(Verdict::DropMartian),
        // RFC 4291 section 2.5.6: routers must not forward them.
        Scope::LinkLocal if !stays_on_link(destination) => Err(Verdict::DropSpoof),
        _ => Ok(()),
    }
}

/// A DHCP client's broadcast (RFC 2131 section 4.1).
#[inline(always)]
const fn is_dhcp_request(packet: &Packet) -> bool {
    matches!(packet.kind, Kind::Udp)
        && packet.version == 4
        && packet.source_port() == udp_port::DHCP_CLIENT
        && packet.destination_port() == udp_port::DHCP_SERVER
        && matches!(packet.destination, [.., 255, 255, 255, 255])
}

/// Whether a packet to a group or a link-local address is one the gateway may take, if a rule of (zone, gateway, UDP,
/// destination port) allows it: DHCP and DHCPv6, as server and as client.
#[inline(always)]
pub const fn is_link_service(packet: &Packet) -> bool {
    matches!(packet.kind, Kind::Udp)
        && match packet.version {
            4 => matches!(packet.destination_port(), udp_port::DHCP_SERVER | udp_port::DHCP_CLIENT),
            _ => matches!(packet.destination_port(), udp_port::DHCPV6_SERVER | udp_port::DHCPV6_CLIENT),
        }
}

/// Whether an address with this entry in `NETWORKS` may be the source of what enters by the port.
#[inline(always)]
pub const fn source(owner: Option<&Network>, port: &Port) -> Result<(), Verdict> {
    match owner {
        Some(Network { kind: network_kind::PORT, port: id, .. }) if *id == port.id => Ok(()),
        Some(Network { kind: network_kind::VPN, port: id, .. }) if *id == port.id => Ok(()),
        // Route separation: what lives behind a VPN comes out of it, and nowhere else.
        Some(Network { kind: network_kind::VPN, .. }) => Err(Verdict::DropClear),
        Some(Network { kind: network_kind::MARTIAN, .. }) => Err(Verdict::DropMartian),
        Some(_) => Err(Verdict::DropSpoof),
        None if port.flags & port_flags::UPLINK != 0 && port.flags & port_flags::VPN == 0 => Ok(()),
        None => Err(Verdict::DropSpoof),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v6(text: &str) -> Address {
        text.parse::<std::net::Ipv6Addr>().expect("an address").octets()
    }

    #[test]
    fn scopes() {
        for (address, expected) in [
            ([10, 0, 0, 1], Scope::Unicast),
            ([0, 0, 0, 0], Scope::Unspecified),
            ([0, 1, 2, 3], Scope::Martian),
            ([127, 0, 0, 1], Scope::Martian),
            ([224, 0, 0, 1], Scope::Group),
            ([240, 0, 0, 1], Scope::Martian),
            ([255, 255, 255, 255], Scope::Group),
        ] {
            assert_eq!(scope_v4(address), expected, "{address:?}");
        }
        for (address, expected) in [
            ("2001:db8::1", Scope::Unicast),
            ("fd00::1", Scope::Unicast),
            ("::", Scope::Unspecified),
            ("::1", Scope::Martian),
            ("::ffff:10.0.0.1", Scope::Martian),
            ("::10.0.0.1", Scope::Martian),
            ("fe80::1", Scope::LinkLocal),
            ("febf::1", Scope::LinkLocal),
            ("fec0::1", Scope::Unicast),
            ("ff02::1", Scope::Group),
        ] {
            assert_eq!(scope_v6(&v6(address)), expected, "{address}");
        }
    }

    #[test]
    fn sources() {
        let port = |flags| Port { id: 3, flags, ..Port::default() };
        let (lan, uplink, vpn) = (port(0), port(port_flags::UPLINK), port(port_flags::VPN));
        let entry = |kind, port| Some(Network { kind, port, ..Network::default() });
        for (owner, from_lan, from_uplink, from_vpn) in [
            (None, Err(Verdict::DropSpoof), Ok(()), Err(Verdict::DropSpoof)),
            (entry(network_kind::PORT, 3), Ok(()), Ok(()), Ok(())),
            (
                entry(network_kind::PORT, 4),
                Err(Verdict::DropSpoof),
                Err(Verdict::DropSpoof),
                Err(Verdict::DropSpoof),
            ),
            (entry(network_kind::VPN, 3), Ok(()), Ok(()), Ok(())),
            (
                entry(network_kind::VPN, 4),
                Err(Verdict::DropClear),
                Err(Verdict::DropClear),
                Err(Verdict::DropClear),
            ),
            (
                entry(network_kind::LOCAL, 3),
                Err(Verdict::DropSpoof),
                Err(Verdict::DropSpoof),
                Err(Verdict::DropSpoof),
            ),
            (
                entry(network_kind::MARTIAN, 3),
                Err(Verdict::DropMartian),
                Err(Verdict::DropMartian),
                Err(Verdict::DropMartian),
            ),
            (entry(99, 3), Err(Verdict::DropSpoof), Err(Verdict::DropSpoof), Err(Verdict::DropSpoof)),
        ] {
            assert_eq!(source(owner.as_ref(), &lan), from_lan, "{owner:?}");
            assert_eq!(source(owner.as_ref(), &uplink), from_uplink, "{owner:?}");
            assert_eq!(source(owner.as_ref(), &vpn), from_vpn, "{owner:?}");
        }
    }

    #[test]
    fn martians() {
        let check = |packet: &Packet| {
            martian(packet, scope(packet, &packet.source), scope(packet, &packet.destination))
        };
        let packet = |source: &str, destination: &str| Packet {
            version: 6,
            source: v6(source),
            destination: v6(destination),
            ..Packet::default()
        };
        assert_eq!(check(&packet("2001:db8::1", "2001:db8::2")), Ok(()));
        assert_eq!(check(&packet("2001:db8::1", "2001:db8::1")), Err(Verdict::DropMartian), "land");
        assert_eq!(check(&packet("ff02::1", "2001:db8::1")), Err(Verdict::DropMartian));
        assert_eq!(check(&packet("::", "ff02::1")), Err(Verdict::DropMartian));
        assert_eq!(check(&packet("fe80::1", "2001:db8::1")), Err(Verdict::DropSpoof));
        assert_eq!(check(&packet("fe80::1", "ff02::1:2")), Ok(()));
        let dhcp = Packet {
            version: 4,
            kind: Kind::Udp,
            source: sekisho_abi::mapped([0; 4]),
            destination: sekisho_abi::mapped([255; 4]),
            source_port_be: 68u16.to_be(),
            destination_port_be: 67u16.to_be(),
            ..Packet::default()
        };
        assert_eq!(check(&dhcp), Ok(()));
        assert_eq!(check(&Packet { source_port_be: 69u16.to_be(), ..dhcp }), Err(Verdict::DropMartian));
    }
}
