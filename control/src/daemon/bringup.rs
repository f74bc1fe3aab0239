//! Desired state → kernel, maps and engine, in the one order that is safe.
//!
//! Fail closed at every step: programs are attached, and refuse everything, before an interface is set up; the maps are
//! filled before they open; forwarding is switched on last. Each step finds done what a predecessor did, so that the same
//! code starts on a clean machine, after a crash, and with a changed configuration.

mod engine_pair;
mod forwarding;
mod interfaces;
mod port_entries;
mod teardown;
mod tunnel_routes;
mod watch;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context as _;
use sekisho_abi::map::{Config as FilterConfig, config_flags};
use sekisho_esp::engine::Engine;
use sekisho_ike::crypto::random::SystemRandom;

use self::engine_pair::SocketRanges;
pub(super) use self::interfaces::{answer_for, attach_port, interface};
pub(super) use self::port_entries::takes_ike;
pub(super) use self::teardown::{after_failed_start, tear_down};
pub(super) use self::watch::watch_ports;
use super::engine::Workers;
use super::layout::Layout;
use super::quotas::quotas;
use super::repairs::Repairs;
use super::trunk::{self, Trunk};
use crate::config::Config;
use crate::filter::{Filter, Maps};
use crate::kernel::xfrm::XfrmTable;
use crate::kernel::{Kernel, Ledger, Link};
use crate::nat::{Given, NatSet};
use crate::policy::RuleSet;

/// The kernel's (and the filter's) end of the engine's veth pair.
pub(super) const INNER_DEVICE: &str = "sekisho0";
/// The engine's end.
pub(super) const ENGINE_DEVICE: &str = "sekisho1";
/// The ledger's file in the run directory.
pub(super) const LEDGER: &str = "ledger.json";
/// In place of the ifindex of an interface that does not exist.
pub(super) const GONE: u32 = 0;

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
    /// The interfaces that have the ports' addresses, in the order of the configuration.
    pub(super) links: Vec<Link>,
    /// What carries the ports that are VLANs, in the same order.
    pub(super) trunks: Vec<Option<Trunk>>,
    /// How XDP runs, by port id.
    pub(super) modes: BTreeMap<u16, &'static str>,
    /// Both ends of the engine's veth pair.
    pub(super) tunnel: Option<(Link, Link)>,
    /// Addresses that peers have given us.
    pub(super) given: Given,
    /// Largest packet that gets through to the peers of a VPN port, bytes, where less than its links carry.
    narrow: BTreeMap<u16, u16>,
    /// MTUs of the links, as the engine and the routes into the tunnels have them.
    told_sizes: Vec<u16>,
    sockets: SocketRanges,
    /// The engine, if there is a VPN zone and it is the data path.
    pub(super) engine: Option<Arc<Engine>>,
    /// Its workers.
    pub(super) workers: Workers,
    /// The kernel's SAs, if they are the data path.
    pub(super) xfrm: Option<Arc<XfrmTable>>,
    /// Their interfaces, by VPN port.
    pub(super) xfrm_interfaces: BTreeMap<u16, Link>,
    /// How often devices of the tunnels were made again.
    pub(super) repairs: Repairs,
    /// Why the kernel would let in what no policy allows, if it would: then the VPNs carry nothing.
    pub(super) policies_off: Option<String>,
}

/// Puts a configuration in force.
pub(super) async fn bring_up(
    config: &Config,
    run_directory: &Path,
    xfrm: Option<Arc<XfrmTable>>,
) -> anyhow::Result<Ground> {
    let kernel = Kernel::open()?;
    let ledger = Ledger::open(&run_directory.join(LEDGER))?;
    // Known before anything is changed: an interface that does not exist is the commonest mistake.
    find_nics(config, &kernel).await?;
    let layout = Layout::of(config, run_directory);
    let keep_flows = layout.knows_the_numbers();
    let is_same = layout.is_in_force();
    let (filter, mut maps) = Filter::open(&config.gateway.name, config.gateway.flows_max, keep_flows)?;
    if filter.took_over() && is_same {
        tracing::info!("took over maps and flows of a predecessor; the filter was in force all the time");
    } else {
        // Ports that change their zone one map after the other would let packets through that nobody allowed.
        maps.close()?;
    }
    let mut ground = Ground {
        kernel,
        ledger,
        filter,
        maps,
        links: Vec::new(),
        trunks: Vec::new(),
        modes: BTreeMap::new(),
        tunnel: None,
        given: Given::new(),
        narrow: BTreeMap::new(),
        told_sizes: Vec::new(),
        sockets: SocketRanges::new(),
        engine: None,
        workers: Workers::default(),
        xfrm,
        xfrm_interfaces: BTreeMap::new(),
        repairs: Repairs::default(),
        policies_off: None,
    };
    ground.maps.clear_spis()?;
    ground.maps.renew_secrets(&mut SystemRandom::new())?;
    ground.put_in_force(config, &config.rules(SystemTime::now())?, run_directory).await?;
    Ok(ground)
}

/// The NICs of the ports, in the order of the configuration.
async fn find_nics(config: &Config, kernel: &Kernel) -> anyhow::Result<Vec<Link>> {
    let mut links = Vec::new();
    for port in &config.ports {
        links.push(kernel.link(&port.interface).await.with_context(|| format!("port {}", port.name))?);
    }
    Ok(links)
}

impl Ground {
    /// Makes everything as this configuration has it, whatever was in force before. After an error the filter refuses
    /// what neither configuration allows, and the same call with the former one goes back to it.
    pub(super) async fn put_in_force(
        &mut self,
        config: &Config,
        rules: &RuleSet,
        run_directory: &Path,
    ) -> anyhow::Result<()> {
        let nics = find_nics(config, &self.kernel).await?;
        let layout = Layout::of(config, run_directory);
        for port in layout.new_ports() {
            self.maps.clear_counters(port)?;
        }
        self.maps.clear_rule_counters(&layout.new_policies())?;
        layout.begin()?;
        self.ledger.begin();
        self.filter.begin();

        (self.links, self.trunks) = trunk::devices(config, nics, &self.kernel, &mut self.ledger).await?;
        self.modes = interfaces::attach_ports(config, &self.links, &self.trunks, &mut self.filter)?;
        match self.xfrm {
            Some(_) => self.make_xfrm_interfaces(config).await?,
            None => self.make_tunnel(config).await?,
        }
        // The kernel sends redirects where either this or the interface's own switch is on.
        self.kernel.set_sysctl(&mut self.ledger, "net/ipv4/conf/all/send_redirects", "0")?;
        for trunk in self.trunks.iter().flatten() {
            trunk::prepare_nic(&trunk.nic, &self.kernel, &mut self.ledger).await?;
        }
        for (port, link) in config.ports.iter().zip(self.links.iter_mut()) {
            *link = interface(config, port, link, &self.kernel, &mut self.ledger).await?;
            answer_for(config, port, &self.kernel, &mut self.ledger).await?;
        }
        self.given.retain(|id, _| config.vpn_ports.iter().any(|port| port.id == *id));
        self.put_given().await?;
        self.keep_or_start_engine(config)?;
        // One that goes on knows the links as they were: they are looked at here, and so found unchanged afterwards.
        self.resize_engine()?;
        self.resize_xfrm_interfaces().await?;

        self.maps.neighbours.set(&port_entries::bound_ports(config))?;
        self.maps.set_ports(&self.ports(config))?;
        let routers: Vec<IpAddr> = config.routers().into_iter().map(|(_, router)| router).collect();
        self.maps.set_routers(&routers)?;
        let networks = self.networks(config);
        self.maps.set_networks(&networks)?;
        let in_force = self.maps.config()?;
        let flags = if config.timeouts.tcp_pick_up { config_flags::TCP_PICK_UP } else { 0 };
        self.maps.set_config(FilterConfig {
            generation: in_force.generation,
            engine_ifindex: self.tunnel.as_ref().map_or(0, |(inner, _)| inner.index),
            engine_mac: self.tunnel.as_ref().map_or([0; 6], |(inner, _)| inner.mac),
            flags: in_force.flags & !config_flags::TCP_PICK_UP | flags,
            uplink_zone: config.uplink_zone(),
            uplink: config.only_uplink(),
            lifetimes: config.timeouts.seconds,
            quotas: quotas(config),
        })?;
        let of_zones = config.zones.iter().map(|zone| (zone.id, config.limits.of_zone(zone.id)));
        self.maps.set_zones(&of_zones.collect());
        self.maps.set_nat(NatSet::of(config, &self.given));
        let generation = self.maps.set_rules(rules)?;
        tracing::info!(generation, networks = networks.len(), "rules in force");

        self.route_into_tunnels(config).await?;
        self.sizes_are_told();
        self.configure_xfrm(config)?;
        layout.put_in_force()?;
        // Only now is everything there by which a packet is judged: open.
        let in_force = self.maps.config()?;
        self.maps.set_config(FilterConfig { flags: in_force.flags & !config_flags::CLOSED, ..in_force })?;
        self.forward()?;
        self.remove_stale().await?;
        for pin in self.filter.detach_others()? {
            tracing::info!(pin, "detached: no longer a port");
        }
        Ok(())
    }

    /// Other rules where nothing else has changed.
    pub(super) fn put_rules_in_force(
        &mut self,
        config: &Config,
        rules: &RuleSet,
        run_directory: &Path,
    ) -> anyhow::Result<()> {
        let layout = Layout::of(config, run_directory);
        self.maps.clear_rule_counters(&layout.new_policies())?;
        layout.begin()?;
        let generation = self.maps.set_rules(rules)?;
        layout.put_in_force()?;
        tracing::info!(generation, "rules in force");
        Ok(())
    }

    /// The interfaces of the ports: those with their addresses, and the NICs of VLANs.
    pub(super) fn nics(&self) -> impl Iterator<Item = &Link> {
        self.links.iter().chain(self.trunks.iter().flatten().map(|trunk| &trunk.nic))
    }

    /// Whether every port has its interface.
    pub(super) fn is_whole(&self) -> bool {
        self.links.iter().all(|link| link.index != GONE)
    }

    pub(super) fn replace_link(&mut self, position: usize, link: Link) {
        if let Some(place) = self.links.get_mut(position) {
            *place = link;
        }
    }

    /// Undoes what an earlier configuration made and this one does not ask for.
    async fn remove_stale(&mut self) -> anyhow::Result<()> {
        for made in self.ledger.stale() {
            tracing::info!(?made, "removed: left by an earlier configuration");
            if let Err(error) = self.kernel.undo(&made).await {
                tracing::warn!(%error, ?made, "could not be removed");
            }
            self.ledger.strike(&made)?;
        }
        Ok(())
    }
}
