//! The engine's veth pair, and the engine that runs on it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use sekisho_abi::map::Config as FilterConfig;
use sekisho_esp::engine::{Engine, PACKET_MAX};

use super::{ENGINE_DEVICE, GONE, Ground, INNER_DEVICE, takes_ike};
use crate::config::Config;
use crate::daemon::engine::{self, Workers};
use crate::filter::Maps;
use crate::kernel::Made;

/// First index in `SOCKETS` and number of sockets, by ifindex.
pub(super) type SocketRanges = BTreeMap<u32, (u16, u16)>;

impl Ground {
    /// The engine's veth pair, if there is a VPN zone.
    pub(super) async fn make_tunnel(&mut self, config: &Config) -> anyhow::Result<()> {
        if config.vpn_ports.is_empty() {
            self.tunnel = None;
            return Ok(());
        }
        // Whatever the links carry, now or later, the engine's frames are as long as they are.
        let mtu = PACKET_MAX;
        // An engine that runs writes to the MAC address that it was started with.
        let known = self.engine.as_ref().and(self.tunnel.as_ref()).map(|(inner, _)| inner.mac);
        let now = self.kernel.find_link(INNER_DEVICE).await?.map(|inner| inner.mac);
        let mac = known.filter(|known| now != Some(*known));
        self.kernel.veth_pair(&mut self.ledger, INNER_DEVICE, ENGINE_DEVICE, mtu, mac).await?;
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
    pub(super) fn take_in_batches(&mut self, config: &Config) {
        let wait = config.gateway.engine_batch();
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
    pub(in crate::daemon) async fn look_at_queues(&mut self) {
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
    pub(in crate::daemon) fn keeps_engine(&self, config: &Config) -> bool {
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

    pub(super) fn keep_or_start_engine(&mut self, config: &Config) -> anyhow::Result<()> {
        let Some((inner, device)) = &self.tunnel else {
            self.stop_engine();
            return Ok(());
        };
        match &self.engine {
            None => {
                let engine = Arc::new(engine::start(config, &self.links, inner, device, self.workers.count)?);
                self.sockets = hand_over_sockets(&engine, &mut self.maps)?;
                self.engine = Some(engine);
            }
            Some(engine) if engine.inner() != Some(device.index) => {
                let former = engine.inner().unwrap_or(GONE);
                engine
                    .replace_device(former, engine::device(device))
                    .with_context(|| format!("the ESP engine does not follow to {ENGINE_DEVICE}"))?;
                self.sockets = hand_over_sockets(engine, &mut self.maps)?;
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Makes the pair that somebody has removed, or set down, once more. The SAs stay as they are. Says whether there was
    /// anything to do. After an error the same call tries again, in its time.
    pub(super) async fn restore_tunnel(&mut self, config: &Config) -> anyhow::Result<bool> {
        let Some((inner, device)) = &self.tunnel else { return Ok(false) };
        let found = [self.kernel.find_link(INNER_DEVICE).await?, self.kernel.find_link(ENGINE_DEVICE).await?];
        let is_whole = found
            .iter()
            .zip([inner, device])
            .all(|(now, known)| now.as_ref().is_some_and(|now| now.index == known.index && now.up));
        if is_whole && !self.repairs.is_unfinished() {
            return Ok(false);
        }
        let Some(pause) = self.repairs.begin(Instant::now()) else { return Ok(false) };
        tracing::warn!(
            pause_s = pause.as_secs(),
            "{INNER_DEVICE} or {ENGINE_DEVICE} was removed or set down: made once more; if one is lost again, not before \
             this pause. They must be left to this gateway by network managers"
        );
        if let [Some(left), None] | [None, Some(left)] = found {
            // Under another name, or elsewhere, the other end is of no use.
            self.kernel.undo(&Made::Link { name: left.name }).await?;
        }
        self.make_tunnel(config).await?;
        self.keep_or_start_engine(config)?;
        self.put_given().await?;
        self.route_into_tunnels(config).await?;
        if let Some((inner, _)) = &self.tunnel {
            let in_force = self.maps.config()?;
            let (engine_ifindex, engine_mac) = (inner.index, inner.mac);
            self.maps.set_config(FilterConfig { engine_ifindex, engine_mac, ..in_force })?;
        }
        self.repairs.finish();
        Ok(true)
    }

    /// Ends the engine; its keys are wiped and its sockets closed once nobody else holds it.
    pub(in crate::daemon) fn stop_engine(&mut self) {
        self.engine = None;
        self.sockets.clear();
    }

    /// A device of the engine is back as another interface. The SAs stay as they are. `carries`: ESP goes by it.
    pub(in crate::daemon) fn hand_to_engine(&mut self, position: usize, carries: bool) -> anyhow::Result<()> {
        let (Some(engine), Some(link)) = (&self.engine, self.links.get(position)) else { return Ok(()) };
        let carriers = engine.carriers();
        let known: BTreeSet<u32> = self.links.iter().map(|link| link.index).collect();
        let inner = engine.inner();
        let former = engine.sockets().into_iter().map(|(ifindex, ..)| ifindex).find(|ifindex| {
            Some(*ifindex) != inner && !known.contains(ifindex) && carriers.contains_key(ifindex) == carries
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
}

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
