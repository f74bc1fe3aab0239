//! The interfaces of the ports: under the filter, then up, with their sysctls, addresses and routes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Context as _;
use ipnet::IpNet;

use crate::config::{Config, Port};
use crate::daemon::trunk::Trunk;
use crate::filter::{Filter, FilterError, Mode};
use crate::kernel::{Kernel, Ledger, Link, Route};

/// Puts every port under the filter, all in one mode.
pub(super) fn attach_ports(
    config: &Config,
    links: &[Link],
    trunks: &[Option<Trunk>],
    filter: &mut Filter,
) -> anyhow::Result<BTreeMap<u16, &'static str>> {
    let attach = |filter: &mut Filter| -> Result<Vec<Mode>, FilterError> {
        links.iter().zip(trunks).map(|(link, trunk)| attach_port(link, trunk.as_ref(), filter)).collect()
    };
    let mut modes = attach(filter)?;
    if modes.contains(&Mode::Generic) {
        filter.require_generic();
        modes = attach(filter)?;
    }
    for ((port, link), mode) in config.ports.iter().zip(links).zip(&modes) {
        tracing::info!(port = &*port.name, interface = link.name, mode = mode.name(), "filter attached");
    }
    Ok(config.ports.iter().zip(modes).map(|(port, mode)| (port.id, mode.name())).collect())
}

/// Puts one port under the filter; says in which mode its NIC is.
pub(in crate::daemon) fn attach_port(
    link: &Link,
    trunk: Option<&Trunk>,
    filter: &mut Filter,
) -> Result<Mode, FilterError> {
    match trunk {
        None => filter.attach_port(link),
        Some(Trunk { nic, wire }) => {
            let mode = filter.attach_port(nic)?;
            // One mode all the way: see `Filter::require_generic`.
            let pair = filter.attach_vlan(link, wire)?;
            Ok(if pair == Mode::Generic { pair } else { mode })
        }
    }
}

/// Addresses beside its own that a port answers ARP and neighbour discovery for, each as a host's.
pub(in crate::daemon) async fn answer_for(
    config: &Config,
    port: &Port,
    kernel: &Kernel,
    ledger: &mut Ledger,
) -> anyhow::Result<()> {
    let own = |address: &IpAddr| {
        config.ports.iter().flat_map(|port| &port.addresses).any(|net| net.addr() == *address)
    };
    for address in config.nat.answered_by(port.id).into_iter().filter(|address| !own(address)) {
        let net = IpNet::from(address);
        kernel.add_address(ledger, &port.device(), address, net.prefix_len()).await?;
    }
    Ok(())
}

/// Sysctls, addresses and routes of a port; the interface as it is then.
pub(in crate::daemon) async fn interface(
    config: &Config,
    port: &Port,
    link: &Link,
    kernel: &Kernel,
    ledger: &mut Ledger,
) -> anyhow::Result<Link> {
    let name = &link.name;
    if port.vlan.is_none() {
        kernel.keep_vlan_tags(ledger, name)?;
    }
    for (key, value) in [
        // An address is answered for on its own port only: no layer-2 hint of the other segments.
        ("ipv4/conf/IF/arp_ignore", "1"),
        ("ipv4/conf/IF/arp_announce", "2"),
        // Routing is the configuration's business, not a neighbour's.
        ("ipv4/conf/IF/accept_redirects", "0"),
        ("ipv4/conf/IF/send_redirects", "0"),
        ("ipv4/conf/IF/accept_source_route", "0"),
        ("ipv6/conf/IF/accept_redirects", "0"),
        ("ipv6/conf/IF/accept_ra", "0"),
        // A host that answers the gateway's own duplicate address detection would take its addresses away.
        ("ipv6/conf/IF/accept_dad", "0"),
    ] {
        if kernel.has_ipv6() || !key.starts_with("ipv6") {
            kernel.set_sysctl(ledger, &format!("net/{}", key.replace("IF", name)), value)?;
        }
    }
    if port.addresses.iter().any(|net| net.addr().is_ipv6()) {
        kernel.set_sysctl(ledger, &format!("net/ipv6/conf/{name}/disable_ipv6"), "0").with_context(|| {
            format!(
                "port {} has IPv6 addresses; if this kernel has no IPv6 (ipv6.disable=1), take them out of the \
                 configuration",
                port.name
            )
        })?;
    }
    kernel.set_up(ledger, link).await?;
    for net in &port.addresses {
        kernel.add_address(ledger, name, net.addr(), net.prefix_len()).await?;
    }
    for route in &port.networks {
        kernel.add_route(ledger, &plain_route(route.prefix, route.via, name)).await?;
    }
    for &gateway in &port.gateways {
        let all = match gateway {
            IpAddr::V4(_) => IpNet::new(Ipv4Addr::UNSPECIFIED.into(), 0)?,
            IpAddr::V6(_) => IpNet::new(Ipv6Addr::UNSPECIFIED.into(), 0)?,
        };
        // Each uplink has a default route of its own; the first in the file is the kernel's choice.
        let rank = config.ports.iter().filter(|other| other.uplink && other.id < port.id).count();
        let route = Route { rank: u32::try_from(rank)?, ..plain_route(all, gateway, name) };
        kernel.add_route(ledger, &route).await?;
    }
    Ok(kernel.link(name).await?)
}

fn plain_route(prefix: IpNet, via: IpAddr, interface: &str) -> Route {
    Route {
        destination: prefix.addr(),
        prefix: prefix.prefix_len(),
        gateway: via,
        interface: interface.to_owned(),
        onlink: false,
        source: None,
        rank: 0,
        mtu: None,
    }
}
