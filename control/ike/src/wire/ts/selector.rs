//! What one traffic selector selects, and the algebra of selectors: narrowing and containment (RFC 7296 section 2.9).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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

    pub(super) const fn from_wire(start: u16, end: u16) -> Option<Self> {
        match (start, end) {
            (u16::MAX, 0) => Some(Self::Opaque),
            (start, end) if start <= end => Some(Self::Range { start, end }),
            _ => None,
        }
    }

    pub(super) const fn to_wire(self) -> (u16, u16) {
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

    /// Of the fields of a selector on the wire; `Err` says what they break.
    pub(super) fn from_wire(
        protocol: u8,
        (first_port, last_port): (u16, u16),
        start: IpAddr,
        end: IpAddr,
    ) -> Result<Self, &'static str> {
        if start > end {
            return Err("starting address is above the ending address");
        }
        let ports = Ports::from_wire(first_port, last_port)
            .ok_or("start port is above the end port, and it is not OPAQUE")?;
        if !ports_allowed(protocol, ports) {
            return Err("ports without a protocol");
        }
        Ok(Self { protocol, ports, start, end })
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::ts::tests::any_selector;

    fn ts(text: &str) -> TrafficSelector {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn narrowed(a: &str, b: &str) -> Option<String> {
        ts(a).narrow(&ts(b)).map(|both| both.to_string())
    }

    #[test]
    fn narrowing() {
        for (a, b, both) in [
            ("10.0.0.0/8", "10.1.0.0/16", Some("10.1.0.0/16")),
            ("10.0.0.0/8", "0.0.0.0/0", Some("10.0.0.0/8")),
            ("10.0.0.0/8", "192.168.0.0/16", None),
            ("10.0.0.0-10.0.0.200", "10.0.0.100-10.0.1.5", Some("10.0.0.100-10.0.0.200")),
            ("10.0.0.0/8", "::/0", None),
            ("10.0.0.0/8", "10.0.0.0/8[tcp/443]", Some("10.0.0.0/8[tcp/443]")),
            ("10.0.0.0/8[udp]", "10.0.0.0/8[tcp/443]", None),
            ("10.0.0.0/8[tcp/80-90]", "10.0.0.0/8[tcp/85-443]", Some("10.0.0.0/8[tcp/85-90]")),
            ("10.0.0.0/8[tcp/80]", "10.0.0.0/8[tcp/81]", None),
            ("10.0.0.0/8", "10.0.0.0/8[tcp/opaque]", Some("10.0.0.0/8[tcp/opaque]")),
            ("10.0.0.0/8[tcp/80]", "10.0.0.0/8[tcp/opaque]", None),
        ] {
            assert_eq!(narrowed(a, b).as_deref(), both, "{a} with {b}");
            assert_eq!(narrowed(b, a).as_deref(), both, "{b} with {a}");
        }
    }

    #[test]
    fn networks_must_be_networks() {
        let from = |text: &str, prefix_len| TrafficSelector::from_network(text.parse().unwrap(), prefix_len);
        assert_eq!(from("0.0.0.0", 0), Ok(TrafficSelector::any(false)));
        assert_eq!(from("::", 0), Ok(TrafficSelector::any(true)));
        assert_eq!(from("192.0.2.1", 32).unwrap().network(), Some(("192.0.2.1".parse().unwrap(), 32)));
        assert!(matches!(from("192.0.2.1", 24), Err(SelectorError::HostBits { .. })));
        assert!(matches!(from("192.0.2.0", 33), Err(SelectorError::PrefixLength { bits: 32, .. })));
        assert!(matches!(from("2001:db8::", 129), Err(SelectorError::PrefixLength { bits: 128, .. })));
        assert_eq!(ts("10.0.0.1-10.0.0.2").network(), None);
        assert_eq!(ts("10.0.0.0-10.0.0.2").network(), None);
        assert_eq!(ts("2001:db8::-2001:db8::ffff").to_string(), "2001:db8::/112");
    }

    #[test]
    fn ports_need_a_protocol_and_an_order() {
        let any = TrafficSelector::any(false);
        assert!(any.with_ports(0, Ports::Range { start: 80, end: 80 }).is_err());
        assert!(any.with_ports(6, Ports::Range { start: 81, end: 80 }).is_err());
        // As a range this would be written as what means OPAQUE.
        assert!(any.with_ports(6, Ports::Range { start: 65535, end: 0 }).is_err());
        assert!(any.with_ports(6, Ports::Range { start: 80, end: 81 }).is_ok());
    }

    #[test]
    fn address_containment_keeps_families_apart() {
        assert!(ts("10.0.0.0/8").contains_address("10.255.255.255".parse().unwrap()));
        assert!(!ts("10.0.0.0/8").contains_address("11.0.0.0".parse().unwrap()));
        assert!(!ts("::/0").contains_address("10.0.0.0".parse().unwrap()));
        assert!(!ts("0.0.0.0/0").contains_address("::1".parse().unwrap()));
    }

    proptest! {
        /// What both select is the same whoever asks, lies in both, and is all of the smaller one.
        #[test]
        fn narrowing_is_an_intersection(a in any_selector(), b in any_selector()) {
            prop_assert_eq!(a.narrow(&b), b.narrow(&a));
            prop_assert!(a.contains(&a));
            if let Some(both) = a.narrow(&b) {
                prop_assert!(a.contains(&both) && b.contains(&both));
                prop_assert!(both.start() <= both.end());
            }
            if a.contains(&b) && b.contains(&a) {
                prop_assert_eq!(a, b);
            }
        }
    }
}
