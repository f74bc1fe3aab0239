//! The inner packet: what its headers say, and whether an SA may carry it (RFC 4301 sections 4.4.1.1, 5.1 and 5.2).
//!
//! [`InnerPacket::parse`] is total: any bytes give a packet whose lengths fit, or an error. The same check stands
//! before encryption and after decryption.
//!
//! Cost aim: one pass over the fixed header and 4 bytes behind it; one selector pair is four comparisons.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
        (Version::V4, &mut [version_ihl, ref mut tos, _, _, _, _, _, _, _, _, ref mut c0, ref mut c1, ..]) => {
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
