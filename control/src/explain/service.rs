//! Services as an administrator writes them.

use super::protocol::{ICMP, ICMPV6, TCP, UDP};
use crate::config::Match;

/// One of a policy's.
pub(super) fn of(matched: &Match) -> String {
    let Match::Protocol { protocol, ports } = matched else { return "any".into() };
    let name = name(*protocol);
    let (first, last) = (*ports.start(), *ports.end());
    match *protocol {
        _ if (first, last) == (0, u16::MAX) => name,
        ICMP | ICMPV6 if first >> 8 == last >> 8 && first & 0xff == 0 && last & 0xff == 0xff => {
            format!("{name} type {}", first >> 8)
        }
        ICMP | ICMPV6 if first == last => format!("{name} type {} code {}", first >> 8, first & 0xff),
        _ if first == last => format!("{name}/{first}"),
        _ => format!("{name}/{first}-{last}"),
    }
}

/// What a packet asks for. `service`: destination port; type and code of ICMP.
pub(super) fn asked(protocol: u8, service: u16) -> String {
    match protocol {
        TCP | UDP => format!("{}/{service}", name(protocol)),
        ICMP | ICMPV6 => format!("{} type {} code {}", name(protocol), service >> 8, service & 0xff),
        _ => name(protocol),
    }
}

/// The protocol's name; its number where it has none here.
pub(super) fn name(protocol: u8) -> String {
    match protocol {
        TCP => "tcp".into(),
        UDP => "udp".into(),
        ICMP => "icmp".into(),
        ICMPV6 => "icmpv6".into(),
        other => format!("protocol {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_read_as_they_are_written() {
        let of = |protocol, ports| of(&Match::Protocol { protocol, ports });
        assert_eq!(super::of(&Match::Any), "any");
        assert_eq!(of(TCP, 9100..=9100), "tcp/9100");
        assert_eq!(of(UDP, 5000..=5010), "udp/5000-5010");
        assert_eq!(of(UDP, 0..=u16::MAX), "udp");
        assert_eq!(of(ICMP, 0x0800..=0x08ff), "icmp type 8");
        assert_eq!(of(47, 0..=u16::MAX), "protocol 47");
        assert_eq!(asked(ICMPV6, 0x8000), "icmpv6 type 128 code 0");
        assert_eq!(asked(TCP, 443), "tcp/443");
    }
}
