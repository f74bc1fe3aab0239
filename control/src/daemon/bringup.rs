//! Desired state → kernel, maps and engine, in the one order that is safe.
//!
//! Fail closed at every step: programs are attached, and refuse everything, before an interface is set up; the maps are
//! filled before they open; forwarding is switched on last. Each step finds done what a predecessor did, so that the same
//! code starts on a clean machine, after a crash, and with a changed configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use ipnet::IpNet;
use sekisho_abi::flow::LIFETIMES_DEFAULT;
use sekisho_abi::map::{Config as FilterConfig, config_flags};
use sekisho_abi::port::{Port, PortKey, engine_mac, port_flags};
use sekisho_esp::engine::{Engine, EngineConfig, Link as EngineLink};

use crate::config::{Config, VpnPort};
use crate::filter::{Filter, Maps};
use crate::kernel::{Kernel, Ledger, Link, Route};

/// The kernel's (and the filter's) end of the engine's veth pair.
pub(super) const INNER_DEVICE: &str = "sekisho0";
/// The engine's end.
pub(super) const ENGINE_DEVICE: &str = "sekisho1";

/// Everything in force.
pub(super) struct Ground {
    /// Netlink.
    pub(super) kernel: Kernel,
    /// What was made.
    pub(super) ledger: Ledger,
    /// The programs. Held so that their log and their links stay ours.
    pub(super) filter: Filter,
    /// The maps.
    pub(super) maps: Maps,
    /// The NICs of the ports, in the order of the configuration.
    pub(super) links: Vec<Link>,
    /// How XDP runs, by port id.
    pub(super) modes: BTreeMap<u16, &'static str>,
    /// The engine, if there is a VPN zone.
    pub(super) engine: Option<Arc<Engine>>,
}

/// Puts a configuration in force.
pub(super) async fn bring_up(config: &Config, run_directory: &Path) -> anyhow::Result<Ground> {
    let kernel = Kernel::open()?;
    let mut ledger = Ledger::open(&run_directory.join("ledger.json"))?;
    let mut links = Vec::new();
    for port in &config.ports {
        links.push(kernel.link(&port.interface).await.with_context(|| format!("port {}", port.name))?);
    }
    let same_layout = layout_unchanged(config, run_directory)?;
    let (mut filter, mut maps) = Filter::open(&config.gateway.name, config.gateway.flows_max, same_layout)?;
    if filter.took_over() && same_layout {
        tracing::info!("took over maps and flows of a predecessor; the filter was in force all the time");
    } else {
        // Numbers that change their meaning one map after the other would let packets through that nobody allowed.
        maps.set_config(FilterConfig { flags: config_flags::CLOSED, ..FilterConfig::default() })?;
    }

    let mut modes = BTreeMap::new();
    for (port, link) in config.ports.iter().zip(&links) {
        let mode = filter.attach_port(link)?;
        tracing::info!(port = &*port.name, interface = link.name, mode = mode.name(), "filter attached");
        modes.insert(port.id, mode.name());
    }
    let tunnel = match config.vpn_ports.is_empty() {
        true => None,
        false => {
            let mtu = links.iter().map(|link| link.mtu).max().unwrap_or(1500);
            let (inner, engine) = kernel.veth_pair(&mut ledger, INNER_DEVICE, ENGINE_DEVICE, mtu).await?;
            for device in [INNER_DEVICE, ENGINE_DEVICE] {
                kernel.set_offloads_off(device)?;
                kernel.set_sysctl(&mut ledger, &format!("net/ipv6/conf/{device}/accept_ra"), "0")?;
            }
            // The kernel has nothing to say on the engine's end: no neighbour discovery into the filter.
            kernel.set_sysctl(&mut ledger, &format!("net/ipv6/conf/{ENGINE_DEVICE}/disable_ipv6"), "1")?;
            filter.attach_port(&inner)?;
            filter.attach_engine(&engine)?;
            Some((inner, engine))
        }
    };
    interfaces(config, &kernel, &mut ledger, &mut links).await?;

    let engine = match &tunnel {
        None => None,
        Some((inner, device)) => Some(Arc::new(start_engine(config, &links, inner, device)?)),
    };
    maps.clear_spis()?;
    let sockets = engine.as_deref().map(|engine| hand_over_sockets(engine, &mut maps)).transpose()?;
    let sockets = sockets.unwrap_or_default();
    maps.set_ports(&ports(config, &links, tunnel.as_ref(), &sockets))?;
    let networks: Vec<_> =
        config.networks().into_iter().map(|(net, owner)| (net.addr(), net.prefix_len(), owner)).collect();
    maps.set_networks(&networks)?;
    let in_force = maps.config()?;
    maps.set_config(FilterConfig {
        generation: in_force.generation,
        engine_ifindex: tunnel.as_ref().map_or(0, |(inner, _)| inner.index),
        engine_mac: tunnel.as_ref().map_or([0; 6], |(inner, _)| inner.mac),
        flags: in_force.flags,
        lifetimes: LIFETIMES_DEFAULT,
    })?;
    let generation = maps.set_rules(&crate::policy::compile(&config.policies)?)?;
    tracing::info!(generation, networks = networks.len(), "rules in force");

    if let Some((inner, _)) = &tunnel {
        for port in &config.vpn_ports {
            routes_behind_vpn(config, port, &links, inner, &kernel, &mut ledger).await?;
        }
    }
    // Only now is everything there by which a packet is judged: open.
    maps.set_config(FilterConfig { flags: 0, ..maps.config()? })?;
    kernel.set_sysctl(&mut ledger, "net/ipv4/ip_forward", "1")?;
    kernel.set_sysctl(&mut ledger, "net/ipv6/conf/all/forwarding", "1")?;

    for made in ledger.stale() {
        tracing::info!(?made, "removed: left by an earlier configuration");
        if let Err(error) = kernel.undo(&made).await {
            tracing::warn!(%error, ?made, "could not be removed");
        }
        ledger.strike(&made)?;
    }
    for pin in filter.detach_others()? {
        tracing::info!(pin, "detached: no longer a port");
    }
    Ok(Ground { kernel, ledger, filter, maps, links, modes, engine })
}

/// Takes everything back that any run of this gateway made. Goes on after errors: what can be removed is.
pub(super) async fn tear_down(
    kernel: &Kernel,
    ledger: &mut Ledger,
    config: &Config,
    run_directory: &Path,
) -> anyhow::Result<()> {
    // The last thing made was forwarding; undone backwards, it is off before any filter goes.
    for made in ledger.entries().to_vec().into_iter().rev() {
        match kernel.undo(&made).await {
            Ok(()) => ledger.strike(&made)?,
            Err(error) => tracing::error!(%error, ?made, "could not be taken back; it stays in the ledger"),
        }
    }
    let interfaces: Vec<String> = config.ports.iter().map(|port| port.interface.to_string()).collect();
    Filter::remove(&config.gateway.name, &interfaces)?;
    let _ = std::fs::remove_file(run_directory.join(LAYOUT));
    Ok(())
}

/// File in the run directory: which ids mean which ports and zones.
const LAYOUT: &str = "layout";

/// Flows and counters speak of ports and zones by number. When the numbers mean something else now, they must not be
/// taken over: a flow between two zones would become one between two others.
fn layout_unchanged(config: &Config, run_directory: &Path) -> anyhow::Result<bool> {
    let mut layout = String::new();
    for port in &config.ports {
        layout += &format!("port {} {} {} {}\n", port.id, port.name, port.interface, port.zone);
    }
    for port in &config.vpn_ports {
        layout += &format!("vpn {} {} {}\n", port.id, port.name, port.zone);
    }
    for zone in &config.zones {
        layout += &format!("zone {} {}\n", zone.id, zone.name);
    }
    let path = run_directory.join(LAYOUT);
    let same = std::fs::read_to_string(&path).is_ok_and(|before| before == layout);
    std::fs::write(&path, layout).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(same)
}

/// Sysctls, addresses and routes of the ports.
async fn interfaces(
    config: &Config,
    kernel: &Kernel,
    ledger: &mut Ledger,
    links: &mut [Link],
) -> anyhow::Result<()> {
    for (port, link) in config.ports.iter().zip(links.iter_mut()) {
        let name = &link.name;
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
        ] {
            kernel.set_sysctl(ledger, &format!("net/{}", key.replace("IF", name)), value)?;
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
            kernel.add_route(ledger, &plain_route(all, gateway, name)).await?;
        }
        *link = kernel.link(&port.interface).await?;
    }
    Ok(())
}

fn plain_route(prefix: IpNet, via: IpAddr, interface: &str) -> Route {
    Route {
        destination: prefix.addr(),
        prefix: prefix.prefix_len(),
        gateway: via,
        interface: interface.to_owned(),
        onlink: false,
        source: None,
        mtu: None,
    }
}

/// The kernel's routes into a VPN: they exist whether or not the tunnel is up, so that nothing ever takes another way.
async fn routes_behind_vpn(
    config: &Config,
    port: &VpnPort,
    links: &[Link],
    inner: &Link,
    kernel: &Kernel,
    ledger: &mut Ledger,
) -> anyhow::Result<()> {
    let [high, low] = port.id.to_be_bytes();
    // Next hops that exist nowhere else: their Ethernet address tells the engine which VPN is meant.
    let hops = [
        IpAddr::V4(Ipv4Addr::new(169, 254, high, low)),
        IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x5e50, port.id)),
    ];
    for hop in hops {
        kernel.set_neighbour(inner.index, hop, engine_mac(port.id)).await?;
    }
    let children = port
        .connections
        .iter()
        .filter_map(|&index| config.connections.get(index))
        .flat_map(|connection| &connection.children);
    for child in children {
        for remote in &child.remote {
            let is_v4 = remote.addr().is_ipv4();
            // The gateway's own packets must fit the selectors as well.
            let source =
                config.ports.iter().flat_map(|port| &port.addresses).map(IpNet::addr).find(|address| {
                    child.local.iter().any(|local| local.contains(address)) && address.is_ipv4() == is_v4
                });
            let route = Route {
                destination: remote.addr(),
                prefix: remote.prefix_len(),
                gateway: if is_v4 { hops[0] } else { hops[1] },
                interface: inner.name.clone(),
                onlink: true,
                source,
                mtu: Some(tunnel_mtu(config, port, links)),
            };
            kernel.add_route(ledger, &route).await?;
        }
    }
    Ok(())
}

/// Largest packet that fits a tunnel whatever was negotiated: outer IPv6 (40), UDP (8), ESP header (8), the longest IV
/// (16) and ICV (16); the rest is whole cipher blocks of 16 with the two trailer bytes in the last.
fn tunnel_mtu(config: &Config, port: &VpnPort, links: &[Link]) -> u16 {
    let outside: BTreeSet<IpAddr> = port
        .connections
        .iter()
        .filter_map(|&index| config.connections.get(index))
        .map(|connection| connection.local.address)
        .collect();
    let wan = config
        .ports
        .iter()
        .zip(links)
        .filter(|(port, _)| port.addresses.iter().any(|net| outside.contains(&net.addr())))
        .map(|(_, link)| link.mtu)
        .min()
        .unwrap_or(1500);
    let payload = wan.saturating_sub(40 + 8 + 8 + 16 + 16);
    (payload & !15).saturating_sub(2)
}

fn start_engine(config: &Config, links: &[Link], inner: &Link, device: &Link) -> anyhow::Result<Engine> {
    let engine_link = |link: &Link| EngineLink {
        ifindex: link.index,
        name: link.name.clone(),
        queues: link.rx_queues,
        mtu: u32::from(link.mtu),
    };
    let outer = config
        .ports
        .iter()
        .zip(links)
        .filter(|(port, _)| takes_ike(config, port))
        .map(|(_, link)| engine_link(link));
    let engine = Engine::start(EngineConfig::new(engine_link(device), inner.mac, outer.collect()))
        .context("the user-space ESP engine does not start")?;
    Ok(engine)
}

/// Whether a connection ends on this port.
fn takes_ike(config: &Config, port: &crate::config::Port) -> bool {
    port.addresses
        .iter()
        .any(|net| config.connections.iter().any(|connection| connection.local.address == net.addr()))
}

/// First index in `SOCKETS` and number of sockets, by ifindex.
type SocketRanges = BTreeMap<u32, (u16, u16)>;

fn hand_over_sockets(engine: &Engine, maps: &mut Maps) -> anyhow::Result<SocketRanges> {
    let mut sockets: Vec<_> = engine.sockets().collect();
    sockets.sort_by_key(|(ifindex, queue, _)| (*ifindex, *queue));
    let mut ranges = SocketRanges::new();
    for (index, (ifindex, _, socket)) in sockets.into_iter().enumerate() {
        let index = u16::try_from(index).context("too many receive queues")?;
        maps.set_socket(u32::from(index), std::os::fd::AsRawFd::as_raw_fd(&socket))?;
        ranges.entry(ifindex).or_insert((index, 0)).1 += 1;
    }
    Ok(ranges)
}

fn ports(
    config: &Config,
    links: &[Link],
    tunnel: Option<&(Link, Link)>,
    sockets: &SocketRanges,
) -> Vec<(PortKey, Port)> {
    let range = |link: &Link| sockets.get(&link.index).copied().unwrap_or((0, 0));
    let mut all = Vec::new();
    for (port, link) in config.ports.iter().zip(links) {
        let (xsk_base, xsk_queues) = range(link);
        let mut flags = 0;
        if port.uplink {
            flags |= port_flags::UPLINK;
        }
        if takes_ike(config, port) {
            flags |= port_flags::IKE;
        }
        all.push((
            PortKey { ifindex: link.index, ..PortKey::default() },
            Port {
                id: port.id,
                zone: port.zone,
                flags,
                xsk_base,
                xsk_queues,
                mtu: link.mtu,
                mac: link.mac,
                ifindex: link.index,
            },
        ));
    }
    let Some((inner, engine)) = tunnel else { return all };
    for port in &config.vpn_ports {
        all.push((
            PortKey { ifindex: inner.index, vlan: port.id, reserved: 0 },
            Port {
                id: port.id,
                zone: port.zone,
                flags: port_flags::VPN,
                mtu: tunnel_mtu(config, port, links),
                mac: inner.mac,
                ifindex: inner.index,
                ..Port::default()
            },
        ));
    }
    let (xsk_base, xsk_queues) = range(engine);
    all.push((
        PortKey { ifindex: engine.index, ..PortKey::default() },
        Port {
            xsk_base,
            xsk_queues,
            mtu: engine.mtu,
            mac: engine.mac,
            ifindex: engine.index,
            ..Port::default()
        },
    ));
    all
}
