//! Addresses and networks: as texts of the configuration, and as numbers to count by.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::Target;

/// A network without host bits.
pub(super) fn parse_net(text: &str) -> Option<IpNet> {
    let net: IpNet = text.parse().ok()?;
    (net == net.trunc()).then_some(net)
}

/// One address, or FIRST-LAST.
pub(super) fn parse_addresses(text: &str) -> Option<(IpAddr, IpAddr)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (IpAddr, IpAddr) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first.is_ipv4() == last.is_ipv4() && first <= last).then_some((first, last))
}

/// ADDRESS, ADDRESS:PORT or ADDRESS:FIRST-LAST; an IPv6 address with a port stands in brackets.
pub(super) fn parse_target(text: &str) -> Option<Target> {
    if let Ok(address) = text.parse() {
        return Some(Target { address, ports: None });
    }
    let (host, ports) = text.rsplit_once(':')?;
    let address = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => IpAddr::V6(v6.parse().ok()?),
        None => IpAddr::V4(host.parse().ok()?),
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (first > 0 && first <= last).then_some(Target { address, ports: Some((first, last)) })
}

pub(super) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

pub(super) fn address(number: u128, is_v4: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(bits) if is_v4 => Ipv4Addr::from_bits(bits).into(),
        _ => Ipv6Addr::from_bits(number).into(),
    }
}

pub(super) fn size(net: &IpNet) -> u128 {
    1u128.checked_shl(u32::from(net.max_prefix_len() - net.prefix_len())).unwrap_or(u128::MAX)
}

pub(super) fn addresses(net: &IpNet) -> Vec<IpAddr> {
    let first = number(net.network());
    (first..=number(net.broadcast())).map(|value| address(value, net.addr().is_ipv4())).collect()
}
