//! Desired state → kernel, maps and engine, in the one order that is safe.
//!
//! Fail closed at every step: programs are attached, and refuse everything, before an interface is set up; the maps are
//! filled before they open; forwarding is switched on last. Each step finds done what a predecessor did, so that the same
//! code starts on a clean machine, after a crash, and with a changed configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use ipnet::IpNet;
use sekisho_abi::map::{Config as FilterConfig, config_flags};
use sekisho_abi::port::{Port as FilterPort, PortKey, engine_mac, port_flags};
use sekisho_esp::engine::Engine;
use sekisho_ike::crypto::random::SystemRandom;

use super::engine::{self, Workers};
use super::kernel_path;
use super::layout::Layout;
use super::quotas::quotas;
use super::repairs::Repairs;
use super::trunk::{self, Trunk};
use crate::config::{Config, Neighbours, Port, VpnPort};
use crate::filter::{BoundPort, Filter, FilterError, Maps, Mode, bytes};
use crate::kernel::xfrm::XfrmTable;
use crate::kernel::{Kernel, KernelError, Ledger, Link, Made, Route};
use crate::nat::{Given, NatSet};
use crate::policy::RuleSet;

/// The kernel's (and the filter's) end of the engine's veth pair.
pub(super) const INNER_DEVICE: &str = "sekisho0";
/// The engine's end.
pub(super) const ENGINE_DEVICE: &str = "sekisho1";
/// The ledger's file in the run directory.
pub(super) const LEDGER: &str = "ledger.json";

/// How long the kernel may take to let go of a program whose link is gone.
const DETACH_PATIENCE: Duration = Duration::from_secs(2);

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
    sockets: SocketRanges,
    /// The engine, if there is a VPN zone and it is the data path.
    pub(super) engine: Option<Arc<Engine>>,
    /// Its workers.
    pub(super) workers: Workers,
    /// The kernel's SAs, if they are the data path.
    pub(super) xfrm: Option<Arc<XfrmTable>>,
    /// Their interfaces, by VPN port.
    pub(super) xfrm_interfaces: BTreeMap<u16, Link>,
    /// How often those were made again.
    pub(super) repairs: Repairs,
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
        sockets: SocketRanges::new(),
        engine: None,
        workers: Workers::default(),
        xfrm,
        xfrm_interfaces: BTreeMap::new(),
        repairs: Repairs::default(),
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
        self.modes = attach_ports(config, &self.links, &self.trunks, &mut self.filter)?;
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

        self.maps.neighbours.set(&bound_ports(config))?;
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

    /// The engine's veth pair, if there is a VPN zone.
    async fn make_tunnel(&mut self, config: &Config) -> anyhow::Result<()> {
        if config.vpn_ports.is_empty() {
            self.tunnel = None;
            return Ok(());
        }
        let mtu = self.links.iter().map(|link| link.mtu).max().unwrap_or(1500);
        self.kernel.veth_pair(&mut self.ledger, INNER_DEVICE, ENGINE_DEVICE, mtu, None).await?;
        let workers = Workers::of(config, &self.links);
        // An engine that runs holds a queue of the pair with each of its workers, whatever there would be now.
        if self.engine.is_none() || workers.count == self.workers.count {
            self.workers = workers;
        }
        // A queue for each worker: what they decrypt stays apart, and what comes by the pair is spread among them.
        let queues = self.workers.count;
        let (inner, engine) = self.kernel.set_queues([INNER_DEVICE, ENGINE_DEVICE], queues).await?;
        for device in [&inner.name, &engine.name] {
            self.kernel.set_offloads_off(device)?;
        }
        if self.kernel.has_ipv6() {
            // The kernel has nothing to say on the engine's end: no neighbour discovery into the filter.
            for (device, key, value) in [
                (INNER_DEVICE, "disable_ipv6", "0"),
                (INNER_DEVICE, "accept_ra", "0"),
                (ENGINE_DEVICE, "disable_ipv6", "1"),
            ] {
                self.kernel.set_sysctl(&mut self.ledger, &format!("net/ipv6/conf/{device}/{key}"), value)?;
            }
        }
        // What is routed here is the engine's: no policy of the kernel takes it before. IPv6 has no such switch.
        let key = format!("net/ipv4/conf/{INNER_DEVICE}/disable_xfrm");
        self.kernel.set_sysctl(&mut self.ledger, &key, "1")?;
        self.filter.attach_port(&inner)?;
        self.filter.attach_engine(&engine)?;
        self.tunnel = Some((inner, engine));
        self.take_in_batches(config);
        Ok(())
    }

    /// Devices of which the engine's sockets get nearly all: its own, and the NICs of the ports where connections end. A kernel
    /// has a packet from there go its whole way before it looks at the next one, and wakes the engine for each.
    fn take_in_batches(&mut self, config: &Config) {
        let wait = config.gateway.engine_batch;
        if self.tunnel.is_none() || wait.is_zero() {
            return;
        }
        let ports = config.ports.iter().filter(|port| takes_ike(config, port)).map(|port| &*port.interface);
        for device in [INNER_DEVICE].into_iter().chain(ports) {
            if let Err(error) = self.kernel.take_in_batches(&mut self.ledger, device, wait) {
                tracing::warn!(%error, "tunnels are slower than they could be");
            }
        }
    }

    /// Has the queues of the ports' interfaces as they are now: `ethtool -L` may have been a moment ago.
    pub(super) async fn look_at_queues(&mut self) {
        for link in &mut self.links {
            // One that is gone or another has its own way back.
            if let Ok(now) = self.kernel.link(&link.name).await
                && now.index == link.index
            {
                link.rx_queues = now.rx_queues;
            }
        }
    }

    /// Whether the engine that runs can go on under this configuration, or none runs and none is needed. It cannot take
    /// up another port, another queue, or another worker, while it runs.
    pub(super) fn keeps_engine(&self, config: &Config) -> bool {
        if self.xfrm.is_some() {
            return true;
        }
        match (&self.engine, config.vpn_ports.is_empty()) {
            (None, none_needed) => none_needed,
            (Some(_), true) => false,
            (Some(engine), false) => {
                let workers = Workers::of(config, &self.links).count;
                let device = self.tunnel.iter().map(|(_, device)| (device.index, workers));
                let outer = config.ports.iter().filter(|port| takes_ike(config, port)).map(|port| {
                    let device = port.device();
                    let link = self.links.iter().find(|link| *link.name == *device);
                    // A port that is not among them is new.
                    link.map_or((GONE, 0), |link| (link.index, link.rx_queues))
                });
                engine.carriers() == device.chain(outer).collect() && engine.workers() == workers as usize
            }
        }
    }

    /// Whether every port has its interface.
    pub(super) fn is_whole(&self) -> bool {
        self.links.iter().all(|link| link.index != GONE)
    }

    /// Ends the engine; its keys are wiped and its sockets closed once nobody else holds it.
    pub(super) fn stop_engine(&mut self) {
        self.engine = None;
        self.sockets.clear();
    }

    fn keep_or_start_engine(&mut self, config: &Config) -> anyhow::Result<()> {
        let Some((inner, device)) = &self.tunnel else {
            self.stop_engine();
            return Ok(());
        };
        if self.engine.is_none() {
            let engine = Arc::new(engine::start(config, &self.links, inner, device, self.workers.count)?);
            self.sockets = hand_over_sockets(&engine, &mut self.maps)?;
            self.engine = Some(engine);
        }
        Ok(())
    }

    fn forward(&mut self) -> anyhow::Result<()> {
        for key in FORWARDING {
            if key.contains("ipv6") && !self.kernel.has_ipv6() {
                continue;
            }
            if !self.ledger.entries().iter().any(|made| is_sysctl(made, key))
                && self.kernel.sysctl(key)? != "0"
            {
                tracing::warn!(
                    sysctl = key,
                    "forwarding was on before this gateway started, and stays on when it is stopped, without its \
                     filter; set it to 0 in /etc/sysctl.d, the gateway switches it on itself"
                );
            }
            self.kernel.set_sysctl(&mut self.ledger, key, "1")?;
        }
        Ok(())
    }

    /// Undoes what an earlier configuration made and this one does not ask for.
    async fn remove_stale(&mut self) -> anyhow::Result<()> {
        for made in self.ledger.stale() {
            if !self.ledger.is_replaced(&made) {
                tracing::info!(?made, "removed: left by an earlier configuration");
                if let Err(error) = self.kernel.undo(&made).await {
                    tracing::warn!(%error, ?made, "could not be removed");
                }
            }
            self.ledger.strike(&made)?;
        }
        Ok(())
    }
}

/// The sysctls without which the kernel passes nothing on.
const FORWARDING: [&str; 2] = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];

fn is_sysctl(made: &Made, name: &str) -> bool {
    matches!(made, Made::Sysctl { key, .. } if key == name)
}

/// Puts every port under the filter, all in one mode.
fn attach_ports(
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
pub(super) fn attach_port(
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

/// What became of the interfaces of the ports, seen once a second.
pub(super) async fn watch_ports(config: &Config, ground: &mut Ground) -> anyhow::Result<()> {
    let (mut changed, mut resized) = (false, false);
    for (position, port) in config.ports.iter().enumerate() {
        let Some(known) = ground.links.get(position).cloned() else { continue };
        if port.vlan.is_some() {
            changed |= trunk::watch(config, ground, position).await?;
            continue;
        }
        let name = &*port.name;
        match ground.kernel.link(&port.interface).await {
            Ok(now) if now == known => continue,
            Ok(now) if now.index == known.index => {
                tracing::warn!(
                    port = name,
                    interface = now.name,
                    up = now.up,
                    mtu = now.mtu,
                    "interface changed"
                );
                // The kernel has dropped routes, and of IPv6 the addresses, when it went down.
                let back = now.up && now.carrier && !(known.up && known.carrier);
                let now = match back {
                    true => interface(config, port, &now, &ground.kernel, &mut ground.ledger).await?,
                    false => now,
                };
                resized |= now.mtu != known.mtu;
                ground.replace_link(position, now);
            }
            Ok(now) => {
                tracing::warn!(
                    port = name,
                    interface = now.name,
                    "another interface has the port's name: taken"
                );
                let mode = ground.filter.attach_port(&now)?;
                let now = interface(config, port, &now, &ground.kernel, &mut ground.ledger).await?;
                answer_for(config, port, &ground.kernel, &mut ground.ledger).await?;
                ground.replace_link(position, now);
                ground.modes.insert(port.id, mode.name());
                ground.hand_to_engine(position, takes_ike(config, port))?;
            }
            Err(KernelError::NoInterface(_)) if known.index == GONE => continue,
            Err(KernelError::NoInterface(interface)) => {
                tracing::error!(
                    port = name,
                    interface,
                    "interface is gone: the port carries nothing until it is back"
                );
                ground.replace_link(position, Link { index: GONE, ..known });
            }
            Err(error) => return Err(error.into()),
        }
        changed = true;
    }
    // A NIC that was replaced is put in force whatever becomes of these.
    let restored = ground.restore_xfrm_interfaces(config).await;
    changed |= !matches!(restored, Ok(false));
    let resized = if resized { ground.resize_tunnels(config).await } else { Ok(()) };
    if changed {
        ground.put_ports_in_force(config)?;
    }
    restored.and(resized)
}

/// In place of the ifindex of an interface that does not exist.
pub(super) const GONE: u32 = 0;

impl Ground {
    fn tunnel_mtu(&self, config: &Config, port: &VpnPort) -> u16 {
        tunnel_mtu(config, port, &self.links, self.narrow.get(&port.id).copied())
    }

    /// The paths to the peers carry packets of these sizes now, by VPN port, where less than the links.
    pub(super) async fn follow_paths(
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
        let former = mem::replace(&mut self.narrow, narrow);
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

    fn put_ports_in_force(&mut self, config: &Config) -> anyhow::Result<()> {
        self.take_in_batches(config);
        self.offload(config);
        self.maps.set_ports(&self.ports(config))?;
        // Known flows are held against the ports only when they are judged again.
        self.maps.set_rules(&config.rules(SystemTime::now())?)?;
        Ok(())
    }

    /// The tunnels' packets are as large as the links outside carry now: the engine sends no larger ones, and the kernel
    /// tells senders so.
    async fn resize_tunnels(&mut self, config: &Config) -> anyhow::Result<()> {
        if let Some(engine) = &self.engine {
            for link in self.links.iter().filter(|link| link.index != GONE) {
                engine.set_mtu(link.index, link.mtu.into()).context("the ESP engine has stopped")?;
            }
        }
        let devices: BTreeSet<String> =
            config.vpn_ports.iter().filter_map(|port| Some(self.vpn_device(port.id)?.name.clone())).collect();
        let of_tunnels =
            |made: &&Made| matches!(made, Made::Route(route) if devices.contains(&route.interface));
        let former: Vec<Made> = self.ledger.entries().iter().filter(of_tunnels).cloned().collect();
        self.route_into_tunnels(config).await?;
        let now: Vec<u16> = config.vpn_ports.iter().map(|port| self.tunnel_mtu(config, port)).collect();
        for made in former {
            // The same route with another MTU has taken its place.
            if matches!(&made, Made::Route(route) if route.mtu.is_none_or(|mtu| !now.contains(&mtu))) {
                self.ledger.strike(&made)?;
            }
        }
        Ok(())
    }

    /// The device by which packets leave for a VPN.
    pub(super) fn vpn_device(&self, port: u16) -> Option<&Link> {
        self.tunnel.as_ref().map(|(inner, _)| inner).or_else(|| self.xfrm_interfaces.get(&port))
    }

    /// Routes behind every VPN, with the addresses that it has given us as their sources.
    pub(super) async fn route_into_tunnels(&mut self, config: &Config) -> anyhow::Result<()> {
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

    /// A device of the engine is back as another interface. The SAs stay as they are. `carries`: ESP goes by it.
    pub(super) fn hand_to_engine(&mut self, position: usize, carries: bool) -> anyhow::Result<()> {
        let (Some(engine), Some(link)) = (&self.engine, self.links.get(position)) else { return Ok(()) };
        let carriers = engine.carriers();
        let known: BTreeSet<u32> = self.links.iter().map(|link| link.index).collect();
        let device = self.tunnel.as_ref().map_or(GONE, |(_, device)| device.index);
        let former = engine.sockets().into_iter().map(|(ifindex, ..)| ifindex).find(|ifindex| {
            *ifindex != device && !known.contains(ifindex) && carriers.contains_key(ifindex) == carries
        });
        let Some(former) = former else { return Ok(()) };
        match engine.replace_device(former, engine::device(link)) {
            Err(error) if !carries => {
                tracing::warn!(%error, interface = link.name, "plaintext does not come straight from it any more");
            }
            replaced => replaced.context("ESP does not follow to the interface")?,
        }
        self.sockets = hand_over_sockets(engine, &mut self.maps)?;
        Ok(())
    }

    pub(super) fn replace_link(&mut self, position: usize, link: Link) {
        if let Some(place) = self.links.get_mut(position) {
            *place = link;
        }
    }
}

/// After a start that failed. On a machine on which nothing was in force before, everything is taken back: a gateway
/// half built serves nobody, and locks out who comes to mend it. Where a filter was in force, it stays. Says whether
/// everything was taken back.
pub(super) async fn after_failed_start(config: &Config, run_directory: &Path, was_in_force: bool) -> bool {
    if was_in_force {
        tracing::error!(
            gateway = &*config.gateway.name,
            "the start failed; the filter that was in force stays in force, and refuses everything if the ports or zones \
             have changed: mend the fault below and start again"
        );
        return false;
    }
    let taken_back = async {
        let kernel = Kernel::open()?;
        let mut ledger = Ledger::open(&run_directory.join(LEDGER))?;
        tear_down(&kernel, &mut ledger, config, run_directory).await
    };
    let outcome: anyhow::Result<()> = taken_back.await;
    match &outcome {
        Ok(()) => tracing::info!("the start failed; everything was taken back"),
        Err(error) => tracing::error!("the start failed, and not everything could be taken back: {error:#}"),
    }
    outcome.is_ok()
}

/// Takes everything back that any run of this gateway made. Goes on after errors: what can be removed is.
pub(super) async fn tear_down(
    kernel: &Kernel,
    ledger: &mut Ledger,
    config: &Config,
    run_directory: &Path,
) -> anyhow::Result<()> {
    // The last thing made was forwarding; undone backwards, it is off before any filter goes.
    let mut forwards = false;
    for made in ledger.entries().to_vec().into_iter().rev() {
        match kernel.undo(&made).await {
            Ok(()) => ledger.strike(&made)?,
            Err(error) => {
                tracing::error!(%error, ?made, "could not be taken back; it stays in the ledger");
                forwards |= FORWARDING.iter().any(|key| is_sysctl(&made, key));
            }
        }
    }
    anyhow::ensure!(!forwards, "forwarding could not be switched off, so the filter stays in force");
    let interfaces: Vec<String> = config.ports.iter().map(|port| port.interface.to_string()).collect();
    Filter::remove(&config.gateway.name, &interfaces)?;
    for interface in &interfaces {
        if !kernel.await_xdp_gone(interface, DETACH_PATIENCE).await {
            tracing::warn!(
                interface,
                "still carries an XDP program; `ip link set dev {interface} xdp off` removes it"
            );
        }
    }
    Layout::of(config, run_directory).withdraw()
}

/// Addresses beside its own that a port answers ARP and neighbour discovery for, each as a host's.
pub(super) async fn answer_for(
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
pub(super) async fn interface(
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
/// (16) and ICV (16); the rest is whole cipher blocks of 16 with the two trailer bytes in the last. `narrow`: what is
/// known of the paths to its peers.
fn tunnel_mtu(config: &Config, port: &VpnPort, links: &[Link], narrow: Option<u16>) -> u16 {
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
        .chain(narrow)
        .min()
        .unwrap_or(1500);
    let payload = wan.saturating_sub(40 + 8 + 8 + 16 + 16);
    (payload & !15).saturating_sub(2)
}

/// Whether a connection ends on this port, or may come to.
pub(super) fn takes_ike(config: &Config, port: &Port) -> bool {
    port.addresses
        .iter()
        .any(|net| config.connections.iter().any(|connection| connection.local.address == net.addr()))
        || (port.uplink && config.connections.iter().any(|connection| connection.mobike))
}

/// Ports that bind addresses to MAC addresses.
fn bound_ports(config: &Config) -> Vec<BoundPort> {
    let bound = config.ports.iter().filter(|port| port.neighbours != Neighbours::Off);
    bound
        .map(|port| BoundPort {
            port: port.id,
            learns: port.neighbours == Neighbours::Learn,
            bindings: port.bindings.iter().map(|binding| (bytes(binding.address), binding.mac)).collect(),
        })
        .collect()
}

/// First index in `SOCKETS` and number of sockets, by ifindex.
type SocketRanges = BTreeMap<u32, (u16, u16)>;

fn hand_over_sockets(engine: &Engine, maps: &mut Maps) -> anyhow::Result<SocketRanges> {
    let mut sockets = engine.sockets();
    sockets.sort_by_key(|(ifindex, queue, _)| (*ifindex, *queue));
    let mut ranges = SocketRanges::new();
    for (index, (ifindex, _, socket)) in sockets.into_iter().enumerate() {
        let index = u16::try_from(index).context("too many receive queues")?;
        maps.set_socket(u32::from(index), std::os::fd::AsRawFd::as_raw_fd(&socket))?;
        ranges.entry(ifindex).or_insert((index, 0)).1 += 1;
    }
    Ok(ranges)
}

impl Ground {
    /// Every entry of `PORTS`.
    fn ports(&self, config: &Config) -> Vec<(PortKey, FilterPort)> {
        let range = |link: &Link| self.sockets.get(&link.index).copied().unwrap_or((0, 0));
        let mut all = Vec::new();
        for ((port, link), trunk) in config.ports.iter().zip(&self.links).zip(&self.trunks) {
            if link.index == GONE {
                continue;
            }
            let (xsk_base, xsk_queues) = range(link);
            let mut flags = match port.neighbours {
                Neighbours::Off => 0,
                Neighbours::Learn => port_flags::BOUND,
                Neighbours::Static => port_flags::BOUND | port_flags::BOUND_STATIC,
            };
            if port.uplink {
                flags |= port_flags::UPLINK;
            }
            if takes_ike(config, port) {
                flags |= port_flags::IKE;
            }
            let entry = FilterPort {
                id: port.id,
                zone: port.zone,
                flags,
                xsk_base,
                xsk_queues,
                mtu: link.mtu,
                mac: link.mac,
                ifindex: link.index,
                nic_ifindex: link.index,
                ..FilterPort::default()
            };
            all.extend(trunk::entries(port, entry, trunk.as_ref()));
        }
        let mtu = |port: &VpnPort| self.tunnel_mtu(config, port);
        all.extend(kernel_path::ports(config, &self.xfrm_interfaces, mtu));
        let Some((inner, engine)) = &self.tunnel else { return all };
        for port in &config.vpn_ports {
            all.push((
                PortKey { ifindex: inner.index, vlan: port.id, reserved: 0 },
                FilterPort {
                    id: port.id,
                    zone: port.zone,
                    flags: port_flags::VPN,
                    mtu: self.tunnel_mtu(config, port),
                    mac: inner.mac,
                    ifindex: inner.index,
                    nic_ifindex: inner.index,
                    ..FilterPort::default()
                },
            ));
        }
        let (xsk_base, xsk_queues) = range(engine);
        all.push((
            PortKey { ifindex: engine.index, ..PortKey::default() },
            FilterPort {
                xsk_base,
                xsk_queues,
                mtu: engine.mtu,
                mac: engine.mac,
                ifindex: engine.index,
                nic_ifindex: engine.index,
                ..FilterPort::default()
            },
        ));
        all
    }
}
