//! Traffic Selector payloads (RFC 7296 section 3.13).
//!
//! ```text
//! |   TS Type     |IP Protocol ID |       Selector Length         |
//! |           Start Port          |           End Port            |
//! ~                         Starting Address                      ~
//! ~                         Ending Address                        ~
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::error::WireError;
use crate::wire::reader::{Reader, count_u8, length_u16};

/// Most selectors of one payload: its count has 8 bits.
pub const MAX_SELECTORS: usize = 255;

const TS_IPV4_ADDR_RANGE: u8 = 7;
const TS_IPV6_ADDR_RANGE: u8 = 8;
const SECTION: &str = "RFC 7296 section 3.13.1";

/// Ports (of ICMP: type in the high byte, code in the low one; of MIPv6: type in the high byte).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ports {
    /// From `start` to `end`, both included, `start` not above `end`. 0 to 65535 is "any", OPAQUE included (RFC 4301
    /// section 4.4.1.1).
    Range {
        /// First.
        start: u16,
        /// Last.
        end: u16,
    },
    /// Packets whose ports cannot be seen (later fragments); 65535 to 0 on the wire.
    Opaque,
}

impl Ports {
    /// All, OPAQUE included.
    pub const ANY: Self = Self::Range { start: 0, end: u16::MAX };

    const fn from_wire(start: u16, end: u16) -> Option<Self> {
        match (start, end) {
            (u16::MAX, 0) => Some(Self::Opaque),
            (start, end) if start <= end => Some(Self::Range { start, end }),
            _ => None,
        }
    }

    const fn to_wire(self) -> (u16, u16) {
        match self {
            Self::Range { start, end } => (start, end),
            Self::Opaque => (u16::MAX, 0),
        }
    }

    fn intersection(self, other: Self) -> Option<Self> {
        match (self, other) {
            (Self::Opaque, ports) | (ports, Self::Opaque) => {
                (ports == Self::ANY || ports == Self::Opaque).then_some(Self::Opaque)
            }
            (Self::Range { start: a, end: b }, Self::Range { start: c, end: d }) => {
                let (start, end) = (a.max(c), b.min(d));
                (start <= end).then_some(Self::Range { start, end })
            }
        }
    }
}

/// One selector: protocol, ports and a range of addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrafficSelector {
    protocol: u8,
    ports: Ports,
    start: IpAddr,
    end: IpAddr,
}

/// Why values are no selector. The configuration is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Start above end, or two families.
    #[error("no range of addresses: {0} to {1}; write the lower address first, both of one family")]
    Addresses(IpAddr, IpAddr),
    /// The prefix is longer than an address.
    #[error("prefix length {prefix_len} is past the {bits} bits of {address}")]
    PrefixLength {
        /// The network.
        address: IpAddr,
        /// Its prefix length.
        prefix_len: u8,
        /// Bits of an address of its family.
        bits: u8,
    },
    /// Bits past the prefix are set.
    #[error("{address}/{prefix_len} has bits set past the prefix; the network is {network}/{prefix_len}")]
    HostBits {
        /// As given.
        address: IpAddr,
        /// Its prefix length.
        prefix_len: u8,
        /// With these bits cleared.
        network: IpAddr,
    },
    /// Start above end, or ports without a protocol.
    #[error("ports need a protocol, and the lower one first")]
    Ports,
    /// Not a selector's notation.
    #[error(
        "not a selector: expected 10.0.0.0/8, 10.0.0.1 or 10.0.0.1-10.0.0.9, with [protocol/port] behind if need be"
    )]
    Syntax,
}

impl TrafficSelector {
    /// Any protocol and port between two addresses, both included.
    pub fn new(start: IpAddr, end: IpAddr) -> Result<Self, SelectorError> {
        if start.is_ipv4() == end.is_ipv4() && start <= end {
            Ok(Self { protocol: 0, ports: Ports::ANY, start, end })
        } else {
            Err(SelectorError::Addresses(start, end))
        }
    }

    /// Any protocol and port of a network, whose bits past the prefix must be zero.
    pub fn from_network(address: IpAddr, prefix_len: u8) -> Result<Self, SelectorError> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        if prefix_len > bits {
            return Err(SelectorError::PrefixLength { address, prefix_len, bits });
        }
        let (network, last) = network_bounds(address, prefix_len);
        if network != address {
            return Err(SelectorError::HostBits { address, prefix_len, network });
        }
        Ok(Self { protocol: 0, ports: Ports::ANY, start: network, end: last })
    }

    /// Every address of a family: `0.0.0.0/0`, or `::/0`.
    pub fn any(ipv6: bool) -> Self {
        let (start, end) = if ipv6 {
            (IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::from(u128::MAX)))
        } else {
            (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::BROADCAST))
        };
        Self { protocol: 0, ports: Ports::ANY, start, end }
    }

    /// The same addresses, only for an IP protocol (0: any) and its ports.
    pub fn with_ports(self, protocol: u8, ports: Ports) -> Result<Self, SelectorError> {
        let (start, end) = ports.to_wire();
        if Ports::from_wire(start, end) == Some(ports) && ports_allowed(protocol, ports) {
            Ok(Self { protocol, ports, ..self })
        } else {
            Err(SelectorError::Ports)
        }
    }

    /// IP protocol; 0: any.
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Ports.
    pub const fn ports(&self) -> Ports {
        self.ports
    }

    /// First address.
    pub const fn start(&self) -> IpAddr {
        self.start
    }

    /// Last address, of the same family and not below the first.
    pub const fn end(&self) -> IpAddr {
        self.end
    }

    /// What both select (RFC 7296 section 2.9); `None` if nothing.
    pub fn narrow(&self, other: &Self) -> Option<Self> {
        if self.start.is_ipv4() != other.start.is_ipv4() {
            return None;
        }
        let protocol = match (self.protocol, other.protocol) {
            (0, protocol) | (protocol, 0) => protocol,
            (a, b) if a == b => a,
            _ => return None,
        };
        let ports = self.ports.intersection(other.ports)?;
        let (start, end) = (self.start.max(other.start), self.end.min(other.end));
        (start <= end).then_some(Self { protocol, ports, start, end })
    }

    /// Whether all that `other` selects is selected by this one too.
    pub fn contains(&self, other: &Self) -> bool {
        self.narrow(other).as_ref() == Some(other)
    }

    /// Whether the address is in the range, whatever protocol and ports.
    pub fn contains_address(&self, address: IpAddr) -> bool {
        self.start.is_ipv4() == address.is_ipv4() && self.start <= address && address <= self.end
    }

    /// The network, if the range is exactly one.
    pub fn network(&self) -> Option<(IpAddr, u8)> {
        let prefix_len = common_prefix(self.start, self.end)?;
        (network_bounds(self.start, prefix_len) == (self.start, self.end)).then_some((self.start, prefix_len))
    }
}

/// RFC 7296 section 3.13.1: with any protocol, only any port, or OPAQUE.
fn ports_allowed(protocol: u8, ports: Ports) -> bool {
    protocol != 0 || ports == Ports::ANY || ports == Ports::Opaque
}

/// First and last address of the network of this prefix length around an address.
fn network_bounds(address: IpAddr, prefix_len: u8) -> (IpAddr, IpAddr) {
    match address {
        IpAddr::V4(address) => {
            let host = u32::MAX.checked_shr(u32::from(prefix_len)).unwrap_or(0);
            let bits = address.to_bits();
            (Ipv4Addr::from_bits(bits & !host).into(), Ipv4Addr::from_bits(bits | host).into())
        }
        IpAddr::V6(address) => {
            let host = u128::MAX.checked_shr(u32::from(prefix_len)).unwrap_or(0);
            let bits = address.to_bits();
            (Ipv6Addr::from_bits(bits & !host).into(), Ipv6Addr::from_bits(bits | host).into())
        }
    }
}

/// How many leading bits two addresses of one family share.
fn common_prefix(a: IpAddr, b: IpAddr) -> Option<u8> {
    let bits = match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => return None,
    };
    u8::try_from(bits).ok()
}

impl std::fmt::Display for TrafficSelector {
    /// `10.0.0.0/8` where the range is a network, else `10.0.0.1-10.0.0.9`; then `[tcp/443]` unless it is any.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.network() {
            Some((address, prefix_len)) => write!(f, "{address}/{prefix_len}")?,
            None => write!(f, "{}-{}", self.start, self.end)?,
        }
        if self.protocol == 0 && self.ports == Ports::ANY {
            return Ok(());
        }
        match PROTOCOLS.iter().find(|(_, number)| *number == self.protocol) {
            Some((name, _)) => write!(f, "[{name}")?,
            None => write!(f, "[{}", self.protocol)?,
        }
        match self.ports {
            Ports::ANY => f.write_str("]"),
            Ports::Opaque => f.write_str("/opaque]"),
            Ports::Range { start, end } if start == end => write!(f, "/{start}]"),
            Ports::Range { start, end } => write!(f, "/{start}-{end}]"),
        }
    }
}

const PROTOCOLS: [(&str, u8); 6] =
    [("any", 0), ("icmp", 1), ("tcp", 6), ("udp", 17), ("icmpv6", 58), ("sctp", 132)];

impl std::str::FromStr for TrafficSelector {
    type Err = SelectorError;

    /// Reads what `Display` writes, and a single address.
    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let (addresses, ports) = match text.strip_suffix(']') {
            Some(text) => text.split_once('[').map(|(a, p)| (a, Some(p))).ok_or(SelectorError::Syntax)?,
            None => (text, None),
        };
        let address = |text: &str| text.parse::<IpAddr>().map_err(|_| SelectorError::Syntax);
        let selector = if let Some((network, prefix_len)) = addresses.split_once('/') {
            let prefix_len = prefix_len.parse().map_err(|_| SelectorError::Syntax)?;
            Self::from_network(address(network)?, prefix_len)?
        } else if let Some((start, end)) = addresses.split_once('-') {
            Self::new(address(start)?, address(end)?)?
        } else {
            let only = address(addresses)?;
            Self::new(only, only)?
        };
        let Some(ports) = ports else { return Ok(selector) };
        let (protocol, ports) = ports.split_once('/').map_or((ports, None), |(a, b)| (a, Some(b)));
        let protocol = match PROTOCOLS.iter().find(|(name, _)| *name == protocol) {
            Some((_, number)) => *number,
            None => protocol.parse().map_err(|_| SelectorError::Syntax)?,
        };
        let port = |text: &str| text.parse::<u16>().map_err(|_| SelectorError::Syntax);
        let ports = match ports {
            None => Ports::ANY,
            Some("opaque") => Ports::Opaque,
            Some(ports) => {
                let (start, end) = ports.split_once('-').unwrap_or((ports, ports));
                Ports::Range { start: port(start)?, end: port(end)? }
            }
        };
        selector.with_ports(protocol, ports)
    }
}

/// A TSi or TSr payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrafficSelectors {
    /// Address ranges, the sender's favourite first.
    pub selectors: Vec<TrafficSelector>,
    /// Selectors of other kinds (labels, RFC 9478; Fibre Channel, RFC 4595). We can select by none of them: a choice
    /// leaves them out.
    pub other: Vec<OtherSelector>,
}

/// A selector that is no range of IP addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherSelector {
    /// TS Type; neither 7 nor 8.
    pub ts_type: u8,
    /// Second byte and all after the length, as on the wire.
    pub data: (u8, Vec<u8>),
}

impl TrafficSelectors {
    /// Of address ranges; a payload holds 1 to 255.
    pub const fn new(selectors: Vec<TrafficSelector>) -> Self {
        Self { selectors, other: Vec::new() }
    }

    /// Reads the body of a TSi or TSr payload.
    pub fn parse(mut reader: Reader<'_>) -> Result<Self, WireError> {
        const RULE: &str = "RFC 7296 section 3.13";
        let count = reader.u8()?;
        reader.array::<3>()?;
        if count == 0 {
            return Err(reader.malformed("no traffic selector", RULE));
        }
        let mut payload = Self { selectors: Vec::new(), other: Vec::new() };
        for _ in 0..count {
            payload.parse_selector(&mut reader)?;
        }
        reader.end(RULE)?;
        Ok(payload)
    }

    fn parse_selector(&mut self, reader: &mut Reader<'_>) -> Result<(), WireError> {
        let ts_type = reader.u8()?;
        let protocol = reader.u8()?;
        let length = usize::from(reader.u16()?);
        let Some(length) = length.checked_sub(4) else {
            return Err(reader.malformed("selector length is less than its header", SECTION));
        };
        let mut body = reader.sub(length)?;
        if !matches!(ts_type, TS_IPV4_ADDR_RANGE | TS_IPV6_ADDR_RANGE) {
            self.other.push(OtherSelector { ts_type, data: (protocol, body.rest().to_vec()) });
            return Ok(());
        }
        let (first_port, last_port) = (body.u16()?, body.u16()?);
        let (start, end): (IpAddr, IpAddr) = if ts_type == TS_IPV4_ADDR_RANGE {
            (body.array::<4>()?.into(), body.array::<4>()?.into())
        } else {
            (body.array::<16>()?.into(), body.array::<16>()?.into())
        };
        body.end(SECTION)?;
        if start > end {
            return Err(body.malformed("starting address is above the ending address", SECTION));
        }
        let Some(ports) = Ports::from_wire(first_port, last_port) else {
            return Err(body.malformed("start port is above the end port, and it is not OPAQUE", SECTION));
        };
        if !ports_allowed(protocol, ports) {
            return Err(body.malformed("ports without a protocol", SECTION));
        }
        self.selectors.push(TrafficSelector { protocol, ports, start, end });
        Ok(())
    }

    /// Appends the body of a TSi or TSr payload.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        let count = self.selectors.len().saturating_add(self.other.len());
        if count == 0 {
            return Err(WireError::Unwritable { what: "a TS payload without a selector", rule: SECTION });
        }
        out.extend_from_slice(&[count_u8("traffic selectors", count)?, 0, 0, 0]);
        for selector in &self.selectors {
            selector.write(out);
        }
        for OtherSelector { ts_type, data: (second, rest) } in &self.other {
            if matches!(*ts_type, TS_IPV4_ADDR_RANGE | TS_IPV6_ADDR_RANGE) {
                return Err(WireError::Unwritable {
                    what: "an address range as another selector",
                    rule: SECTION,
                });
            }
            out.extend_from_slice(&[*ts_type, *second]);
            out.extend_from_slice(
                &length_u16("bytes of a selector", rest.len().saturating_add(4))?.to_be_bytes(),
            );
            out.extend_from_slice(rest);
        }
        Ok(())
    }
}

impl TrafficSelector {
    fn write(&self, out: &mut Vec<u8>) {
        let (ts_type, length) =
            if self.start.is_ipv4() { (TS_IPV4_ADDR_RANGE, 16u16) } else { (TS_IPV6_ADDR_RANGE, 40u16) };
        let (start, end) = self.ports.to_wire();
        out.extend_from_slice(&[ts_type, self.protocol]);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&start.to_be_bytes());
        out.extend_from_slice(&end.to_be_bytes());
        for address in [self.start, self.end] {
            match address {
                IpAddr::V4(address) => out.extend_from_slice(&address.octets()),
                IpAddr::V6(address) => out.extend_from_slice(&address.octets()),
            }
        }
    }
}
