//! The inner packet: what its headers say, and whether an SA may carry it (RFC 4301 sections 4.4.1.1, 5.1 and 5.2).
//!
//! [`InnerPacket::parse`] is total: any bytes give a packet whose lengths fit, or an error. The same check stands
//! before encryption and after decryption.
//!
//! Cost aim: one pass over the fixed header and 4 bytes behind it; one selector pair is four comparisons.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use crate::sa::Selector;

const PROTOCOL_HOP_BY_HOP: u8 = 0;
const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_DCCP: u8 = 33;
const PROTOCOL_ROUTING: u8 = 43;
const PROTOCOL_FRAGMENT: u8 = 44;
const PROTOCOL_AH: u8 = 51;
const PROTOCOL_ICMPV6: u8 = 58;
const PROTOCOL_DESTINATION_OPTIONS: u8 = 60;
const PROTOCOL_SCTP: u8 = 132;
const PROTOCOL_MOBILITY: u8 = 135;
const PROTOCOL_UDPLITE: u8 = 136;

/// Extension headers followed before a packet counts as malformed; nothing legitimate has that many.
const EXTENSIONS_MAX: usize = 8;

/// Why an inner packet was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InnerError {
    /// Neither IPv4 nor IPv6.
    #[error("the inner packet is neither IPv4 nor IPv6")]
    Version,
    /// Lengths that contradict each other or the packet.
    #[error("the lengths in the inner header do not fit the packet")]
    Length,
    /// An IPv6 packet that carries an IPv4-mapped address, which is valid on no wire (RFC 4291 section 2.5.5.2).
    #[error("an IPv4-mapped address in an IPv6 header")]
    MappedAddress,
}

/// IP version of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Version {
    /// EtherType of its frames.
    pub const fn ether_type(self) -> u16 {
        match self {
            Self::V4 => 0x0800,
            Self::V6 => 0x86dd,
        }
    }

    /// ESP's Next Header for it in a tunnel.
    pub const fn next_header(self) -> u8 {
        match self {
            Self::V4 => super::packet::NEXT_HEADER_IPV4,
            Self::V6 => super::packet::NEXT_HEADER_IPV6,
        }
    }
}

/// What selectors can see of the next layer's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// The protocol has none, or they are in another fragment: only a selector for any port, or for OPAQUE ones, fits.
    Opaque,
    /// Source and destination.
    Pair {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// ICMP: type in the high byte, code in the low one (RFC 7296 section 3.13.1).
    TypeCode(u16),
}

/// A packet whose IP header has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InnerPacket {
    /// IP version.
    pub version: Version,
    /// Length of the packet by its own header, in bytes; what follows is padding.
    pub length: usize,
    /// Source address, IPv4 as IPv4-mapped.
    pub source: u128,
    /// Destination address, IPv4 as IPv4-mapped.
    pub destination: u128,
    /// The protocol behind IPv6 extension headers.
    pub protocol: u8,
    /// Its ports.
    pub ports: Ports,
    /// DSCP and ECN: IPv4 TOS or IPv6 traffic class.
    pub traffic_class: u8,
    /// IPv4: the DF bit. IPv6: always, for routers never fragment it.
    pub dont_fragment: bool,
}

impl InnerPacket {
    /// Checks the header of the packet that `bytes` begins with.
    pub fn parse(bytes: &[u8]) -> Result<Self, InnerError> {
        match bytes.first().ok_or(InnerError::Length)? >> 4 {
            4 => Self::parse_v4(bytes),
            6 => Self::parse_v6(bytes),
            _ => Err(InnerError::Version),
        }
    }

    /// The source as an address.
    pub fn source(&self) -> IpAddr {
        Ipv6Addr::from_bits(self.source).to_canonical()
    }

    /// The destination as an address.
    pub fn destination(&self) -> IpAddr {
        Ipv6Addr::from_bits(self.destination).to_canonical()
    }

    fn parse_v4(bytes: &[u8]) -> Result<Self, InnerError> {
        let &[
            version_ihl,
            traffic_class,
            length_high,
            length_low,
            _,
            _,
            flags,
            fragment_low,
            _,
            protocol,
            _,
            _,
            s0,
            s1,
            s2,
            s3,
            d0,
            d1,
            d2,
            d3,
        ] = bytes.first_chunk::<20>().ok_or(InnerError::Length)?;
        let header = usize::from(version_ihl & 0x0f) * 4;
        let length = usize::from(u16::from_be_bytes([length_high, length_low]));
        if header < 20 || length < header || length > bytes.len() {
            return Err(InnerError::Length);
        }
        let fragment_offset = u16::from_be_bytes([flags & 0x1f, fragment_low]);
        let payload = bytes.get(header..length).ok_or(InnerError::Length)?;
        Ok(Self {
            version: Version::V4,
            length,
            source: mapped(Ipv4Addr::new(s0, s1, s2, s3)),
            destination: mapped(Ipv4Addr::new(d0, d1, d2, d3)),
            protocol,
            ports: if fragment_offset == 0 { Ports::of(protocol, payload) } else { Ports::Opaque },
            traffic_class,
            dont_fragment: flags & 0x40 != 0,
        })
    }

    fn parse_v6(bytes: &[u8]) -> Result<Self, InnerError> {
        let (fixed, _) = bytes.split_first_chunk::<40>().ok_or(InnerError::Length)?;
        let (&[class_high, class_low, _, _, length_high, length_low, next_header, _], addresses) =
            fixed.split_first_chunk::<8>().ok_or(InnerError::Length)?;
        let (source, destination) = addresses.split_first_chunk::<16>().ok_or(InnerError::Length)?;
        let destination = destination.first_chunk::<16>().ok_or(InnerError::Length)?;
        let (source, destination) = (u128::from_be_bytes(*source), u128::from_be_bytes(*destination));
        // Selectors hold IPv4 ranges as mapped addresses: such an IPv6 packet must not pass for an IPv4 one.
        if is_mapped(source) || is_mapped(destination) {
            return Err(InnerError::MappedAddress);
        }

        // A payload length of zero is a packet without payload: jumbograms do not fit any frame of ours.
        let length = 40 + usize::from(u16::from_be_bytes([length_high, length_low]));
        let payload = bytes.get(40..length).ok_or(InnerError::Length)?;
        let (protocol, ports) = upper_layer(next_header, payload)?;
        Ok(Self {
            version: Version::V6,
            length,
            source,
            destination,
            protocol,
            ports,
            traffic_class: class_high << 4 | class_low >> 4,
            dont_fragment: true,
        })
    }
}

/// Follows the extension headers (RFC 8200 section 4) to the protocol selectors speak of.
fn upper_layer(mut next_header: u8, mut rest: &[u8]) -> Result<(u8, Ports), InnerError> {
    for _ in 0..EXTENSIONS_MAX {
        let header = match next_header {
            PROTOCOL_HOP_BY_HOP | PROTOCOL_ROUTING | PROTOCOL_DESTINATION_OPTIONS | PROTOCOL_MOBILITY => {
                8 + 8 * usize::from(*rest.get(1).ok_or(InnerError::Length)?)
            }
            PROTOCOL_AH => 8 + 4 * usize::from(*rest.get(1).ok_or(InnerError::Length)?),
            PROTOCOL_FRAGMENT => {
                let &[next, _, offset_high, offset_low, ..] =
                    rest.first_chunk::<8>().ok_or(InnerError::Length)?;
                if u16::from_be_bytes([offset_high, offset_low]) & 0xfff8 != 0 {
                    return Ok((next, Ports::Opaque));
                }
                8
            }
            _ => return Ok((next_header, Ports::of(next_header, rest))),
        };
        next_header = *rest.first().ok_or(InnerError::Length)?;
        rest = rest.get(header..).ok_or(InnerError::Length)?;
    }
    Err(InnerError::Length)
}

impl Ports {
    /// The ports a protocol's header begins with.
    fn of(protocol: u8, header: &[u8]) -> Self {
        let Some(&[a, b, c, d]) = header.first_chunk::<4>() else { return Self::Opaque };
        match protocol {
            PROTOCOL_TCP | PROTOCOL_UDP | PROTOCOL_DCCP | PROTOCOL_SCTP | PROTOCOL_UDPLITE => {
                Self::Pair { source: u16::from_be_bytes([a, b]), destination: u16::from_be_bytes([c, d]) }
            }
            PROTOCOL_ICMP | PROTOCOL_ICMPV6 => Self::TypeCode(u16::from_be_bytes([a, b])),
            _ => Self::Opaque,
        }
    }

    fn swapped(self) -> Self {
        match self {
            Self::Pair { source, destination } => Self::Pair { source: destination, destination: source },
            other => other,
        }
    }
}

/// Writes the ECN field of a checked packet, and mends the IPv4 header checksum (RFC 1624).
pub(crate) fn set_ecn(packet: &mut [u8], version: Version, ecn: u8) {
    match (version, packet) {
        (
            Version::V4,
            &mut [version_ihl, ref mut tos, _, _, _, _, _, _, _, _, ref mut c0, ref mut c1, ..],
        ) => {
            let old = u16::from_be_bytes([version_ihl, *tos]);
            *tos = *tos & !3 | ecn & 3;
            let new = u16::from_be_bytes([version_ihl, *tos]);
            let sum = u32::from(!u16::from_be_bytes([*c0, *c1])) + u32::from(!old) + u32::from(new);
            let sum = (sum & 0xffff) + (sum >> 16);
            let sum = (sum & 0xffff) + (sum >> 16);
            [*c0, *c1] = (!(sum as u16)).to_be_bytes();
        }
        (Version::V6, [_, second, ..]) => *second = *second & !0x30 | (ecn & 3) << 4,
        _ => {}
    }
}

/// A selector no pair can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a traffic selector's addresses are of two families, or in the wrong order")]
pub struct SelectorError;

/// What a pair of SAs may carry: every local selector combined with every remote one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectorPair {
    local: Box<[Half]>,
    remote: Box<[Half]>,
}

/// One selector of one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Half {
    first: u128,
    last: u128,
    /// 0: any.
    protocol: u8,
    first_port: u16,
    last_port: u16,
}

impl SelectorPair {
    /// Takes the selectors of our side and the peer's.
    pub fn new(local: &[Selector], remote: &[Selector]) -> Result<Self, SelectorError> {
        let side = |selectors: &[Selector]| selectors.iter().map(Half::new).collect::<Result<_, _>>();
        Ok(Self { local: side(local)?, remote: side(remote)? })
    }

    /// The peer's addresses, IPv4 as IPv4-mapped. A pair of selectors may name some of them twice.
    pub(crate) fn remote_addresses(&self) -> impl Iterator<Item = RangeInclusive<u128>> + '_ {
        self.remote.iter().map(|half| half.first..=half.last)
    }

    /// Whether a packet may be sent: its source is on our side, its destination on the peer's.
    pub fn matches_outbound(&self, packet: &InnerPacket) -> bool {
        let InnerPacket { source, destination, protocol, ports, .. } = *packet;
        self.local.iter().any(|half| half.matches(source, protocol, ports))
            && self.remote.iter().any(|half| half.matches(destination, protocol, ports.swapped()))
    }

    /// Whether a packet may have been received: its source is on the peer's side, its destination on ours.
    pub fn matches_inbound(&self, packet: &InnerPacket) -> bool {
        let InnerPacket { source, destination, protocol, ports, .. } = *packet;
        self.remote.iter().any(|half| half.matches(source, protocol, ports))
            && self.local.iter().any(|half| half.matches(destination, protocol, ports.swapped()))
    }
}

impl Half {
    fn new(selector: &Selector) -> Result<Self, SelectorError> {
        let (first, last) = (selector.addresses.start(), selector.addresses.end());
        if first.is_ipv4() != last.is_ipv4() || first > last {
            return Err(SelectorError);
        }
        Ok(Self {
            first: bits(*first),
            last: bits(*last),
            protocol: selector.protocol,
            first_port: *selector.ports.start(),
            last_port: *selector.ports.end(),
        })
    }

    /// `ports` seen from this side: `source` is its own.
    #[inline]
    fn matches(&self, address: u128, protocol: u8, ports: Ports) -> bool {
        if address < self.first || address > self.last || (self.protocol != 0 && self.protocol != protocol) {
            return false;
        }
        if self.first_port == 0 && self.last_port == u16::MAX {
            return true;
        }
        match ports {
            // RFC 7296 section 3.13.1: OPAQUE is written as 65535 to 0.
            Ports::Opaque => self.first_port == u16::MAX && self.last_port == 0,
            Ports::Pair { source: port, .. } | Ports::TypeCode(port) => {
                (self.first_port..=self.last_port).contains(&port)
            }
        }
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => mapped(v4),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn mapped(v4: Ipv4Addr) -> u128 {
    0xffff << 32 | u128::from(v4.to_bits())
}

fn is_mapped(address: u128) -> bool {
    address >> 32 == 0xffff
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An IPv4 packet with a valid header checksum.
    pub(crate) fn ipv4(source: [u8; 4], destination: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
        let length = (20 + payload.len()) as u16;
        let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, protocol, 0, 0];
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        packet.extend_from_slice(&source);
        packet.extend_from_slice(&destination);
        let checksum = checksum(&packet);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet.extend_from_slice(payload);
        packet
    }

    pub(crate) fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, next_header, 64];
        packet[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
        packet.extend_from_slice(&source.octets());
        packet.extend_from_slice(&destination.octets());
        packet.extend_from_slice(payload);
        packet
    }

    pub(crate) fn checksum(header: &[u8]) -> u16 {
        let mut sum: u32 = header
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
            .sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    pub(crate) fn udp(source: u16, destination: u16, data: &[u8]) -> Vec<u8> {
        let mut datagram = Vec::new();
        for field in [source, destination, 8 + data.len() as u16, 0] {
            datagram.extend_from_slice(&field.to_be_bytes());
        }
        datagram.extend_from_slice(data);
        datagram
    }

    pub(crate) fn selector(first: &str, last: &str, protocol: u8, ports: RangeInclusive<u16>) -> Selector {
        Selector { addresses: first.parse().unwrap()..=last.parse().unwrap(), protocol, ports }
    }

    fn any_of(first: &str, last: &str) -> Selector {
        selector(first, last, 0, 0..=65535)
    }

    const V6_A: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 5);
    const V6_B: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 9);

    #[test]
    fn ipv4_is_read() {
        let mut bytes = ipv4([10, 1, 0, 2], [10, 2, 0, 3], 17, &udp(1000, 53, b"query"));
        bytes.extend_from_slice(&[0; 9]);
        let packet = InnerPacket::parse(&bytes).unwrap();
        assert_eq!(packet.length, bytes.len() - 9);
        assert_eq!(packet.source(), "10.1.0.2".parse::<IpAddr>().unwrap());
        assert_eq!(packet.destination(), "10.2.0.3".parse::<IpAddr>().unwrap());
        assert_eq!(packet.ports, Ports::Pair { source: 1000, destination: 53 });
        assert!(packet.dont_fragment);
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let good = ipv4([10, 1, 0, 2], [10, 2, 0, 3], 17, &udp(1000, 53, b"query"));
        for length in 0..good.len() {
            assert!(InnerPacket::parse(&good[..length]).is_err(), "v4 cut to {length}");
        }
        for (at, value) in [(0, 0x44), (0, 0x4f), (0, 0x55), (2, 0xff), (3, 19)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(InnerPacket::parse(&bad).is_err(), "byte {at} = {value:#x}");
        }
        let good = ipv6(V6_A, V6_B, 0, &[17, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 0, 8, 0, 0]);
        assert!(InnerPacket::parse(&good).is_ok());
        for length in 0..good.len() {
            assert!(InnerPacket::parse(&good[..length]).is_err(), "v6 cut to {length}");
        }
        let mut bad = good.clone();
        bad[41] = 9;
        assert_eq!(InnerPacket::parse(&bad), Err(InnerError::Length));
    }

    #[test]
    fn extension_headers_are_followed_to_the_ports() {
        let datagram = udp(7, 8, b"");
        let mut payload = vec![43, 0, 0, 0, 0, 0, 0, 0];
        payload.extend_from_slice(&[44, 0, 0, 0, 0, 0, 0, 0]);
        payload.extend_from_slice(&[17, 0, 0, 1, 0, 0, 0, 9]);
        payload.extend_from_slice(&datagram);
        let packet = InnerPacket::parse(&ipv6(V6_A, V6_B, 0, &payload)).unwrap();
        assert_eq!((packet.protocol, packet.ports), (17, Ports::Pair { source: 7, destination: 8 }));

        // Not the first fragment: what stands there are no ports.
        payload[18..20].copy_from_slice(&[0x05, 0xb1]);
        let packet = InnerPacket::parse(&ipv6(V6_A, V6_B, 0, &payload)).unwrap();
        assert_eq!((packet.protocol, packet.ports), (17, Ports::Opaque));

        let endless = [60u8, 0, 0, 0, 0, 0, 0, 0].repeat(20);
        assert_eq!(InnerPacket::parse(&ipv6(V6_A, V6_B, 60, &endless)), Err(InnerError::Length));
    }

    #[test]
    fn an_ipv4_mapped_address_never_passes_for_ipv4() {
        let mapped = Ipv4Addr::new(10, 1, 0, 2).to_ipv6_mapped();
        let bytes = ipv6(mapped, V6_B, 17, &udp(1, 2, b""));
        assert_eq!(InnerPacket::parse(&bytes), Err(InnerError::MappedAddress));
    }

    #[test]
    fn selectors_tell_directions_and_families_apart() {
        let pair = SelectorPair::new(
            &[
                any_of("10.1.0.0", "10.1.255.255"),
                any_of("2001:db8:0:1::", "2001:db8:0:1:ffff:ffff:ffff:ffff"),
            ],
            &[
                any_of("10.2.0.0", "10.2.255.255"),
                any_of("2001:db8:0:2::", "2001:db8:0:2:ffff:ffff:ffff:ffff"),
            ],
        )
        .unwrap();
        let there = InnerPacket::parse(&ipv4([10, 1, 0, 0], [10, 2, 255, 255], 6, &[0; 20])).unwrap();
        let back = InnerPacket::parse(&ipv4([10, 2, 0, 9], [10, 1, 0, 9], 6, &[0; 20])).unwrap();
        assert!(pair.matches_outbound(&there) && !pair.matches_inbound(&there));
        assert!(pair.matches_inbound(&back) && !pair.matches_outbound(&back));
        let outside = InnerPacket::parse(&ipv4([10, 3, 0, 0], [10, 2, 0, 1], 6, &[0; 20])).unwrap();
        assert!(!pair.matches_outbound(&outside));
        let there = InnerPacket::parse(&ipv6(V6_A, V6_B, 59, &[])).unwrap();
        assert!(pair.matches_outbound(&there) && !pair.matches_inbound(&there));
    }

    #[test]
    fn ports_protocols_and_icmp_types_are_selected() {
        let pair = SelectorPair::new(
            &[any_of("10.1.0.0", "10.1.0.255")],
            &[
                selector("10.2.0.0", "10.2.0.255", 6, 443..=443),
                selector("10.2.0.0", "10.2.0.255", 1, 0x0800..=0x0800),
                selector("10.2.0.0", "10.2.0.255", 132, RangeInclusive::new(65535, 0)),
            ],
        )
        .unwrap();
        let sends = |protocol, payload: &[u8]| {
            let packet = ipv4([10, 1, 0, 2], [10, 2, 0, 3], protocol, payload);
            pair.matches_outbound(&InnerPacket::parse(&packet).unwrap())
        };
        assert!(sends(6, &udp(5000, 443, b"")));
        assert!(!sends(6, &udp(443, 5000, b"")));
        assert!(!sends(17, &udp(5000, 443, b"")));
        assert!(!sends(6, &[1]), "ports that are not there fit no port selector");
        assert!(sends(1, &[8, 0, 0, 0]) && !sends(1, &[0, 0, 0, 0]));
        assert!(sends(132, &[]) && !sends(132, &udp(1, 2, b"")), "OPAQUE fits hidden ports only");

        let mut fragment = ipv4([10, 1, 0, 2], [10, 2, 0, 3], 6, &udp(5000, 443, b""));
        fragment[7] = 9;
        assert!(!pair.matches_outbound(&InnerPacket::parse(&fragment).unwrap()));

        let reply = ipv4([10, 2, 0, 3], [10, 1, 0, 2], 6, &udp(443, 5000, b""));
        assert!(pair.matches_inbound(&InnerPacket::parse(&reply).unwrap()));
    }

    #[test]
    fn impossible_selectors_are_refused() {
        for bad in [any_of("10.2.0.0", "10.1.0.0"), any_of("10.2.0.0", "2001:db8::")] {
            assert_eq!(SelectorPair::new(&[bad], &[]), Err(SelectorError));
        }
    }

    #[test]
    fn the_ecn_field_is_written_and_the_checksum_mended() {
        for old in 0..=255u8 {
            for ecn in 0..4 {
                let mut packet = ipv4([10, 1, 0, 2], [10, 2, 0, 3], 17, &[]);
                packet[1] = old;
                packet[10..12].copy_from_slice(&[0, 0]);
                let sum = checksum(&packet);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
                set_ecn(&mut packet, Version::V4, ecn);
                assert_eq!(packet[1], old & !3 | ecn);
                assert_eq!(checksum(&packet), 0, "tos {old:#x} ecn {ecn}");
            }
        }
        let mut packet = ipv6(V6_A, V6_B, 59, &[]);
        packet[1] = 0xef;
        set_ecn(&mut packet, Version::V6, 1);
        assert_eq!(packet[1], 0xdf);
        assert_eq!(InnerPacket::parse(&packet).unwrap().traffic_class, 0x0d);
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_packet_that_fits_or_an_error(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..120),
            version in prop::option::of(prop::sample::select(vec![0x45u8, 0x46, 0x60])),
        ) {
            if let (Some(version), Some(first)) = (version, bytes.first_mut()) {
                *first = version;
            }
            if let Ok(packet) = InnerPacket::parse(&bytes) {
                prop_assert!(packet.length <= bytes.len());
                set_ecn(&mut bytes, packet.version, 3);
                prop_assert_eq!(InnerPacket::parse(&bytes).unwrap().traffic_class & 3, 3);
            }
        }
    }
}
