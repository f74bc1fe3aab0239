//! The kernel's routes into the tunnels, and how large a packet may be there.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Context as _;
use ipnet::IpNet;
use sekisho_abi::port::engine_mac;
use sekisho_esp::engine::PACKET_MAX;

use super::{GONE, Ground, INNER_DEVICE};
use crate::config::{Config, VpnPort};
use crate::kernel::{Kernel, Ledger, Link, Route};

impl Ground {
    pub(super) fn tunnel_mtu(&self, config: &Config, port: &VpnPort) -> u16 {
        let frame = self.xfrm.is_none().then_some(PACKET_MAX);
        tunnel_mtu(config, port, &self.links, self.narrow.get(&port.id).copied().into_iter().chain(frame))
    }

    /// The paths to the peers carry packets of these sizes now, by VPN port, where less than the links.
    pub(in crate::daemon) async fn follow_paths(
        &mut self,
        config: &Config,
        narrow: BTreeMap<u16, u16>,
    ) -> anyhow::Result<()> {
        if self.narrow == narrow {
            return Ok(());
        }
        for port in config.vpn_ports.iter().filter(|port| narrow.get(&port.id) != self.narrow.get(&port.id)) {
            let mtu = narrow.get(&port.id);
            tracing::info!(zone = port.zone, mtu, "largest packet that gets through to the peers");
        }
        let sizes = |ground: &Ground| -> Vec<u16> {
            config.vpn_ports.iter().map(|port| ground.tunnel_mtu(config, port)).collect()
        };
        let before = sizes(self);
        let former = mem::replace(&mut self.narrow, narrow);
        if sizes(self) == before {
            // Tunnels have room for whole blocks: a few bytes change nothing, however often somebody says so.
            return Ok(());
        }
        let followed = match self.resize_tunnels(config).await {
            Ok(()) => self.put_ports_in_force(config),
            error => error,
        };
        if followed.is_err() {
            // Not in force: the next look at the paths finds a difference again.
            self.narrow = former;
        }
        followed
    }

    /// Whether the links carry packets of another size than engine and routes were told.
    pub(super) fn are_links_resized(&self) -> bool {
        self.sizes() != self.told_sizes
    }

    /// The engine and the routes into the tunnels go by the links as they are now.
    pub(super) fn sizes_are_told(&mut self) {
        self.told_sizes = self.sizes();
    }

    fn sizes(&self) -> Vec<u16> {
        self.links.iter().map(|link| link.mtu).collect()
    }

    /// The engine sends packets as large as the links carry now: one that the filter lets through and the engine does not take
    /// is lost without a word to its sender.
    pub(super) fn resize_engine(&self) -> anyhow::Result<()> {
        let Some(engine) = &self.engine else { return Ok(()) };
        for link in self.links.iter().filter(|link| link.index != GONE) {
            engine.set_mtu(link.index, link.mtu.into()).context("the ESP engine has stopped")?;
        }
        Ok(())
    }

    /// The tunnels' packets are as large as the links outside carry now: the engine sends no larger ones, and the kernel
    /// tells senders so.
    pub(super) async fn resize_tunnels(&mut self, config: &Config) -> anyhow::Result<()> {
        self.resize_engine()?;
        self.resize_xfrm_interfaces().await?;
        self.route_into_tunnels(config).await?;
        self.sizes_are_told();
        Ok(())
    }

    /// The device by which packets leave for a VPN.
    pub(in crate::daemon) fn vpn_device(&self, port: u16) -> Option<&Link> {
        self.tunnel.as_ref().map(|(inner, _)| inner).or_else(|| self.xfrm_interfaces.get(&port))
    }

    /// Routes behind every VPN, with the addresses that it has given us as their sources.
    pub(in crate::daemon) async fn route_into_tunnels(&mut self, config: &Config) -> anyhow::Result<()> {
        for port in &config.vpn_ports {
            if let Some(inner) = self.vpn_device(port.id).cloned() {
                let mtu = self.tunnel_mtu(config, port);
                let given = self.given.get(&port.id).map(Vec::as_slice).unwrap_or_default();
                let (kernel, ledger) = (&self.kernel, &mut self.ledger);
                routes_behind_vpn(config, port, given, mtu, &inner, kernel, ledger).await?;
            }
        }
        Ok(())
    }
}

/// The kernel's routes into a VPN: they exist whether or not the tunnel is up, so that nothing ever takes another way.
async fn routes_behind_vpn(
    config: &Config,
    port: &VpnPort,
    given: &[IpAddr],
    mtu: u16,
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
    // An xfrm interface has no neighbours.
    let has_neighbours = inner.name == INNER_DEVICE;
    for hop in hops.into_iter().filter(|hop| has_neighbours && (hop.is_ipv4() || kernel.has_ipv6())) {
        kernel.set_neighbour(inner.index, hop, engine_mac(port.id)).await?;
    }
    for (remote, child) in config.behind(port) {
        let is_v4 = remote.addr().is_ipv4();
        // The gateway's own packets must fit the selectors as well.
        let mut own = config.ports.iter().flat_map(|port| &port.addresses).map(IpNet::addr);
        let source = own.find(|address| {
            child.local.iter().any(|local| local.contains(address)) && address.is_ipv4() == is_v4
        });
        let mut given = given.iter().filter(|address| child.local_dynamic && address.is_ipv4() == is_v4);
        let route = Route {
            destination: remote.addr(),
            prefix: remote.prefix_len(),
            gateway: if is_v4 { hops[0] } else { hops[1] },
            interface: inner.name.clone(),
            onlink: true,
            source: source.or_else(|| given.next().copied()),
            rank: 0,
            mtu: Some(mtu),
        };
        kernel.add_route(ledger, &route).await?;
    }
    Ok(())
}

/// Largest packet that fits a tunnel whatever was negotiated: outer IPv6 (40), UDP (8), ESP header (8), the longest IV
/// (16) and ICV (16); the rest is whole cipher blocks of 16 with the two trailer bytes in the last. `bounds`: what is
/// known of the paths to its peers, and what the data path carries.
fn tunnel_mtu(config: &Config, port: &VpnPort, links: &[Link], bounds: impl Iterator<Item = u16>) -> u16 {
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
    let payload = bounds.fold(wan, u16::min).saturating_sub(40 + 8 + 8 + 16 + 16);
    (payload & !15).saturating_sub(2)
}
