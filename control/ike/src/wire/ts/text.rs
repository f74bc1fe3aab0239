//! Traffic selectors as text: `10.0.0.0/8`, `10.0.0.1-10.0.0.9[tcp/443]`.

use std::net::IpAddr;

use crate::wire::ts::{Ports, SelectorError, TrafficSelector};

impl std::fmt::Display for TrafficSelector {
    /// `10.0.0.0/8` where the range is a network, else `10.0.0.1-10.0.0.9`; then `[tcp/443]` unless it is any.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.network() {
            Some((address, prefix_len)) => write!(f, "{address}/{prefix_len}")?,
            None => write!(f, "{}-{}", self.start(), self.end())?,
        }
        if self.protocol() == 0 && self.ports() == Ports::ANY {
            return Ok(());
        }
        match PROTOCOLS.iter().find(|(_, number)| *number == self.protocol()) {
            Some((name, _)) => write!(f, "[{name}")?,
            None => write!(f, "[{}", self.protocol())?,
        }
        match self.ports() {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::ts::tests::any_selector;

    #[test]
    fn notation() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.0.0.1", "10.0.0.1/32"),
            ("10.0.0.0-10.0.0.255", "10.0.0.0/24"),
            ("10.0.0.0-10.0.0.254", "10.0.0.0-10.0.0.254"),
            ("0.0.0.0-255.255.255.255", "0.0.0.0/0"),
            ("2001:db8::/32[udp/500-4500]", "2001:db8::/32[udp/500-4500]"),
            ("10.0.0.0/8[47]", "10.0.0.0/8[47]"),
            ("10.0.0.0/8[6/443-443]", "10.0.0.0/8[tcp/443]"),
            ("10.0.0.0/8[any]", "10.0.0.0/8"),
        ] {
            assert_eq!(text.parse::<TrafficSelector>().unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for text in [
            "",
            "/",
            "-",
            "[]",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.1/8",
            "10.0.0.2-10.0.0.1",
            "10.0.0.1-::1",
            "10.0.0.0/8[]",
            "10.0.0.0/8]",
            "10.0.0.0/8[tcp",
            "10.0.0.0/8[tcp/]",
            "10.0.0.0/8[tcp/99999]",
            "10.0.0.0/8[300]",
            "10.0.0.0/8[any/80]",
            "10.0.0.0/8[tcp/90-80]",
            "gw.example",
        ] {
            assert!(text.parse::<TrafficSelector>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_round_trip(selector in any_selector()) {
            prop_assert_eq!(selector.to_string().parse(), Ok(selector));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}|[0-9a-f.:/\\[\\]-]{0,40}") {
            if let Ok(selector) = text.parse::<TrafficSelector>() {
                prop_assert_eq!(selector.to_string().parse(), Ok(selector));
            }
        }
    }
}
