//! The connections: when they come up, which SAs they have, and what the IKE engine's events mean for the data path.
//!
//! Owned by the daemon's loop. After every mutation of the engine the loop calls [`Tunnels::settle`], which carries out
//! all events before it lets a datagram leave: an SA is in force before the peer hears of it.

mod leaving;
mod life;
mod pair;

use std::collections::BTreeMap;
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sekisho_abi::map::Spi;
use sekisho_esp::sa::{Outer, PairCounters, PortId, SaEvent, SaTable};
use sekisho_ike::Endpoint;
use sekisho_ike::crypto::random::SeededRandom;
use sekisho_ike::event::{ChildHandle, ChildSa, CloseReason, Event, Failure, FailureKind, IkeHandle, Path};

use self::leaving::Leaving;
pub(super) use self::pair::transform;
use super::sockets::Sockets;
use super::uplinks::Uplinks;
use crate::config::{self, Config, Life, Start};
use crate::evidence::{Record, Sink};
use crate::filter::Maps;

/// Packets the replay window spans (RFC 4303 section 3.4.3 asks for 64), the most that XFRM can do. Several queues and CPUs
/// reorder: what one of the sender's workers has sealed waits until its thread runs again, and at 300,000 packets a second the
/// others number 1,200 in the 4 ms of a tick.
const REPLAY_WINDOW: u32 = 4096;
/// How long ESP to a former address of ours is let through: longer than packets are under way.
const PATH_LINGER: Duration = Duration::from_secs(5);

/// Every configured connection.
pub(super) struct Tunnels {
    table: Arc<dyn SaTable>,
    all: Vec<Tunnel>,
    /// Inbound SPIs to forget once their SA has stopped lingering.
    leaving: Leaving,
    /// Virtual addresses have come or gone.
    pub(super) given_changed: bool,
    /// CRLs that the IKE engine asked for, by URL.
    pub(super) crls_wanted: Vec<String>,
    /// Whom ESP is sent to since somebody asked, with our own address: see [`Tunnels::peers`].
    pub(super) new_peers: Vec<(IpAddr, IpAddr)>,
    /// Our own addresses.
    pub(super) uplinks: Uplinks,
    evidence: Sink,
}

/// One connection.
pub(super) struct Tunnel {
    /// Its name.
    pub(super) name: Arc<str>,
    /// VPN port id of its zone.
    pub(super) port: PortId,
    start: Start,
    local: IpAddr,
    /// It may begin at another address where that one cannot be used.
    mobike: bool,
    remote: Option<IpAddr>,
    /// Its peers are given addresses.
    gives: bool,
    /// Whether it shall be up now: by configuration, traffic or an operator.
    wanted: bool,
    /// Closed by an operator: nothing but `up` opens it again.
    held_down: bool,
    /// The IKE SA, from the first message on.
    pub(super) ike: Option<IkeHandle>,
    /// What it carries, as configured.
    networks: Vec<config::Child>,
    up_since: Option<Instant>,
    next_try: Option<Instant>,
    wait: Duration,
    jitter: SeededRandom,
    life: Life,
    /// Whether a packet for it opens it.
    trapped: bool,
    /// When a packet was last seen in it, in either direction.
    last_packet: Instant,
    /// How often its peer was given up as dead, and how often it was closed for want of packets.
    pub(super) dead: u64,
    pub(super) idled: u64,
    /// Child SAs in force.
    pub(super) children: BTreeMap<ChildHandle, Child>,
    /// How often it came up.
    pub(super) established: u64,
    /// The last failure.
    pub(super) last_failure: Option<String>,
}

/// A pair of SAs in the data path.
pub(super) struct Child {
    ike: IkeHandle,
    /// SPI we receive on; names the pair in the data path.
    pub(super) spi_in: u32,
    /// SPI the peer receives on.
    spi_out: u32,
    outer: Outer,
    /// Packets received and sent, when they were last looked at.
    seen: (u64, u64),
}

impl Child {
    /// ESP in UDP.
    pub(super) fn is_udp(&self) -> bool {
        self.outer.udp_encapsulation
    }
}

impl Tunnels {
    /// All connections of a configuration, none of them up.
    pub(super) fn new(config: &Config, table: Arc<dyn SaTable>, evidence: Sink, now: Instant) -> Tunnels {
        let all = config.connections.iter().map(|connection| Tunnel::new(config, connection, now)).collect();
        Tunnels {
            table,
            all,
            leaving: Leaving::default(),
            given_changed: false,
            crls_wanted: Vec::new(),
            new_peers: Vec::new(),
            uplinks: Uplinks::default(),
            evidence,
        }
    }

    /// Goes on with the connections of another configuration. The engine has closed the SAs of those that it does not
    /// have any more, or has otherwise, and that was carried out; the other SAs stay with their connection.
    pub(super) fn reconfigure(&mut self, config: &Config, now: Instant) {
        let mut before: BTreeMap<Arc<str>, Tunnel> =
            mem::take(&mut self.all).into_iter().map(|tunnel| (tunnel.name.clone(), tunnel)).collect();
        let all = config.connections.iter().map(|connection| {
            let new = Tunnel::new(config, connection, now);
            match before.remove(&connection.name) {
                Some(former) => former.adapted_to(new),
                None => new,
            }
        });
        self.all = all.collect();
    }

    /// The data path is another one from now on. No SA is in force.
    pub(super) fn use_table(&mut self, table: Arc<dyn SaTable>) {
        self.table = table;
    }

    /// The connections, in the order of the configuration.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Tunnel> {
        self.all.iter()
    }

    /// Addresses of the peers that ESP is sent to now, with our own.
    pub(super) fn peers(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> + '_ {
        let children = self.all.iter().flat_map(|tunnel| tunnel.children.values());
        children.map(|child| (child.outer.remote.ip(), child.outer.local.ip()))
    }

    /// VPN ports, and the peers that their ESP is sent to now.
    pub(super) fn ends(&self) -> impl Iterator<Item = (u16, IpAddr)> + '_ {
        self.all
            .iter()
            .flat_map(|tunnel| tunnel.children.values().map(|child| (tunnel.port, child.outer.remote.ip())))
    }

    /// What a child's SAs have done.
    pub(super) fn counters(&self, spi_in: u32) -> PairCounters {
        self.table.counters(spi_in).unwrap_or_default()
    }

    /// When [`Tunnels::handle_timeout`] has something to do.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let tries = self.all.iter().filter_map(|tunnel| tunnel.next_try);
        tries.chain(self.leaving.next()).min()
    }

    /// Begins the connections that are due, and forgets SPIs whose SA is gone.
    pub(super) fn handle_timeout(&mut self, now: Instant, endpoint: &mut Endpoint, maps: &mut Maps) {
        for tunnel in &mut self.all {
            if tunnel.next_try.is_some_and(|at| at <= now) {
                tunnel.next_try = None;
                tunnel.initiate(now, endpoint, &self.uplinks);
            }
        }
        while let Some((destination, spi)) = self.leaving.take_due(now) {
            // A younger SA may have the same one.
            if is_in_use(&self.all, destination, spi) {
                continue;
            }
            if let Err(error) = maps.remove_spi(destination, spi) {
                tracing::error!(%error, spi = format!("{spi:#010x}"), "SPI stays in the filter");
            }
        }
    }

    /// An operator wants a connection up.
    pub(super) fn up(&mut self, now: Instant, name: &str, endpoint: &mut Endpoint) -> Result<String, String> {
        let uplinks = self.uplinks.clone();
        let tunnel = self.named(name)?;
        if tunnel.remote.is_none() {
            if !mem::take(&mut tunnel.held_down) {
                return Err(format!("{name} has no remote address: it only answers its peer"));
            }
            return Ok(format!("{name} is no longer held closed: its peer may open it"));
        }
        tunnel.held_down = false;
        tunnel.wanted = true;
        if tunnel.ike.is_some() {
            return Ok(format!("{name} is up or coming up already"));
        }
        tunnel.wait = life::RETRY_FIRST;
        tunnel.next_try = None;
        tunnel.initiate(now, endpoint, &uplinks);
        Ok(format!("{name} is coming up"))
    }

    /// An operator wants a connection closed.
    pub(super) fn down(
        &mut self,
        now: Instant,
        name: &str,
        endpoint: &mut Endpoint,
    ) -> Result<String, String> {
        let tunnel = self.named(name)?;
        tunnel.held_down = true;
        tunnel.wanted = false;
        tunnel.next_try = None;
        // Both ends may have opened it at once.
        let sas = endpoint.ike_sas().filter(|sa| sa.connection.as_deref() == Some(name));
        for ike in sas.map(|sa| sa.ike).collect::<Vec<_>>() {
            // Gone meanwhile is as good.
            let _ = endpoint.close(now, ike);
        }
        Ok(format!("{name} is closed until `sekisho up {name}`"))
    }

    /// An operator wants new keys.
    pub(super) fn rekey(
        &mut self,
        now: Instant,
        name: &str,
        ike_sa: bool,
        endpoint: &mut Endpoint,
    ) -> Result<String, String> {
        let tunnel = self.named(name)?;
        let Some(ike) = tunnel.ike else { return Err(format!("{name} is not up")) };
        if ike_sa {
            endpoint.rekey_ike(now, ike).map_err(|error| error.to_string())?;
            return Ok(format!("{name}: IKE SA is being rekeyed"));
        }
        let children: Vec<ChildHandle> = endpoint
            .ike_sas()
            .filter(|sa| sa.ike == ike)
            .flat_map(|sa| sa.children)
            .map(|c| c.child)
            .collect();
        if children.is_empty() {
            return Err(format!("{name} has no child SA to rekey; `sekisho status` says why"));
        }
        for child in &children {
            endpoint.rekey_child(now, *child).map_err(|error| error.to_string())?;
        }
        Ok(format!("{name}: {} child SA(s) are being rekeyed", children.len()))
    }

    /// An operator wants both ends to prove again who they are.
    pub(super) fn reauth(
        &mut self,
        now: Instant,
        name: &str,
        endpoint: &mut Endpoint,
    ) -> Result<String, String> {
        let tunnel = self.named(name)?;
        let Some(ike) = tunnel.ike else { return Err(format!("{name} is not up")) };
        if tunnel.gives {
            return Err(format!(
                "{name} gives addresses to peers that ask for them, so only they can begin anew; `sekisho down {name}` and \
                 `sekisho up {name}` makes them"
            ));
        }
        endpoint.reauthenticate(now, ike).map_err(|error| error.to_string())?;
        Ok(format!(
            "{name}: both ends prove again who they are; the present SAs carry on until the new ones do"
        ))
    }

    /// What a peer gave cannot be used: it is closed, and tried again after a while.
    pub(super) fn refuse(&mut self, now: Instant, name: &str, why: String, endpoint: &mut Endpoint) {
        if let Some(tunnel) = self.all.iter_mut().find(|tunnel| &*tunnel.name == name) {
            tunnel.last_failure = Some(why);
        }
        let sas = endpoint.ike_sas().filter(|sa| sa.connection.as_deref() == Some(name));
        for ike in sas.map(|sa| sa.ike).collect::<Vec<_>>() {
            // Gone meanwhile is as good.
            let _ = endpoint.close(now, ike);
        }
    }

    /// Closes everything, telling the peers.
    pub(super) fn close_all(&mut self, now: Instant, endpoint: &mut Endpoint) {
        for tunnel in &mut self.all {
            tunnel.wanted = false;
            // What a peer opens during the farewell is closed as well.
            tunnel.held_down = true;
            tunnel.next_try = None;
        }
        endpoint.close_all(now);
    }

    /// Carries out every event of the engine, then lets its datagrams leave.
    pub(super) fn settle(
        &mut self,
        now: Instant,
        endpoint: &mut Endpoint,
        maps: &mut Maps,
        sockets: &Sockets,
    ) {
        while let Some(event) = endpoint.poll_event() {
            self.handle_event(now, event, endpoint, maps);
        }
        for (spi, known) in endpoint.known_spis().take_changes() {
            if let Err(error) = maps.set_ike_spi(spi, known) {
                // Its messages come through with those of strangers.
                tracing::error!(%error, "the filter does not know of an IKE SA");
            }
        }
        while let Some(transmit) = endpoint.poll_transmit() {
            sockets.send(&transmit);
        }
    }

    /// Something happened in the data path.
    pub(super) fn handle_sa_event(&mut self, now: Instant, event: SaEvent, endpoint: &mut Endpoint) {
        match event {
            SaEvent::SoftExpired { spi_in } | SaEvent::HardExpired { spi_in } => {
                tracing::info!(spi_in = format!("{spi_in:#010x}"), ?event, "child SA is worn out: rekeying");
                if let Some(child) = self.child_with(spi_in) {
                    let _ = endpoint.rekey_child(now, child);
                }
            }
            SaEvent::FirstInbound { spi_in } => {
                if let Some(child) = self.child_with(spi_in) {
                    let _ = endpoint.child_first_inbound(now, child);
                }
            }
            SaEvent::Acquire { port, source, destination } => {
                let concerned = self
                    .all
                    .iter_mut()
                    .find(|tunnel| tunnel.port == port && tunnel.carries(source, destination));
                if let Some(tunnel) = concerned
                    && tunnel.trapped
                    && !tunnel.held_down
                    && tunnel.ike.is_none()
                    && tunnel.next_try.is_none()
                {
                    tracing::info!(connection = &*tunnel.name, %source, %destination, "traffic asks for the tunnel");
                    tunnel.wanted = true;
                    tunnel.initiate(now, endpoint, &self.uplinks);
                }
            }
            // The engine knows whether a NAT may do that (RFC 7296 section 2.23).
            SaEvent::Remapped { spi_in, remote } => {
                if let Some(child) = self.child_with(spi_in) {
                    let _ = endpoint.child_remapped(now, child, remote);
                }
            }
        }
    }

    fn handle_event(&mut self, now: Instant, event: Event, endpoint: &mut Endpoint, maps: &mut Maps) {
        match event {
            Event::IkeEstablished(up) => {
                tracing::info!(
                    connection = &*up.connection,
                    peer = %up.path.remote,
                    remote_id = %up.remote_id,
                    suite = up.suite,
                    spi_i = format!("{:016x}", up.spi_i),
                    spi_r = format!("{:016x}", up.spi_r),
                    initiator = up.initiator,
                    nat = up.nat_local || up.nat_remote,
                    "IKE SA established"
                );
                self.evidence.record(Record::IkeUp {
                    connection: up.connection.to_string(),
                    peer: up.path.remote.to_string(),
                    remote_id: up.remote_id.to_string(),
                    suite: up.suite.clone(),
                });
                let Some(tunnel) = self.all.iter_mut().find(|tunnel| tunnel.name == up.connection) else {
                    return;
                };
                if tunnel.held_down {
                    tracing::warn!(
                        connection = &*tunnel.name,
                        "opened by the peer while held closed: closed again; `sekisho up` lifts the hold"
                    );
                    let _ = endpoint.close(now, up.ike);
                    return;
                }
                tunnel.ike = Some(up.ike);
                tunnel.established += 1;
                tunnel.up_since = Some(now);
                tunnel.last_packet = now;
                tunnel.next_try = None;
            }
            Event::IkeRekeyed { connection, spi_i, spi_r, .. } => tracing::info!(
                connection = &*connection,
                spi_i = format!("{spi_i:016x}"),
                spi_r = format!("{spi_r:016x}"),
                "IKE SA rekeyed"
            ),
            Event::IkeClosed { ike, connection, reason } => {
                self.given_changed = true;
                tracing::info!(connection = &*connection, reason = ?reason, "IKE SA closed");
                self.evidence
                    .record(Record::IkeDown { connection: connection.to_string(), reason: word(reason) });
                if let Some(tunnel) = self.all.iter_mut().find(|tunnel| tunnel.ike == Some(ike)) {
                    // Where both ends opened it at once, the other IKE SA goes on alone.
                    match endpoint.established_with(&tunnel.name).find(|other| *other != ike) {
                        Some(other) => tunnel.ike = Some(other),
                        None => tunnel.closed(now, reason),
                    }
                }
            }
            Event::VirtualAddresses { connection, addresses, .. } => {
                self.given_changed = true;
                tracing::info!(
                    connection = &*connection,
                    local = ?addresses.local,
                    remote = ?addresses.remote,
                    dns = ?addresses.dns,
                    "virtual addresses"
                );
            }
            Event::ChildInstall(child) => self.install(now, *child, endpoint, maps),
            Event::ChildActivateOutbound { child } => {
                if let Some(spi_in) = self.child(child).map(|child| child.spi_in)
                    && let Err(error) = self.table.activate(spi_in)
                {
                    tracing::error!(%error, spi_in = format!("{spi_in:#010x}"), "outbound SA not activated");
                }
            }
            Event::ChildRemove { child, linger, reason } => self.remove(now, child, linger, reason),
            Event::PathChanged { ike, path, udp_encapsulation } => {
                self.repath(now, ike, path, udp_encapsulation, maps);
            }
            Event::CrlWanted { url } => self.crls_wanted.push(url),
            Event::Failure(failure) => self.failed(&failure),
        }
    }

    fn install(&mut self, now: Instant, sa: ChildSa, endpoint: &mut Endpoint, maps: &mut Maps) {
        let Some(index) = self.all.iter().position(|tunnel| tunnel.name == sa.connection) else {
            let _ = endpoint.child_failed(now, sa.child);
            return;
        };
        if self.all.get(index).is_some_and(|tunnel| tunnel.held_down) {
            // Its IKE SA is being closed.
            let _ = endpoint.child_failed(now, sa.child);
            return;
        }
        let outer =
            Outer { local: sa.path.local, remote: sa.path.remote, udp_encapsulation: sa.udp_encapsulation };
        let (port, limits) =
            self.all.get(index).map(|tunnel| (tunnel.port, tunnel.life.limits)).unwrap_or_default();
        let spi = Spi { port, udp_encapsulated: u8::from(sa.udp_encapsulation), outbound: 0 };
        let result = pair::pair(&sa, port, outer, limits)
            .map_err(|error| error.to_owned())
            // The filter learns the SPI first: once the outbound SA is in use the peer answers with its own new one, and
            // may do so before the next line here runs.
            .and_then(|pair| {
                let told = maps.add_spi(outer.local.ip(), sa.spi_in, spi);
                let told = told
                    .and_then(|()| maps.add_spi(outer.remote.ip(), sa.spi_out, Spi { outbound: 1, ..spi }));
                told.map(|()| pair).map_err(|e| e.to_string())
            })
            .and_then(|pair| self.table.install(pair, sa.activate_outbound).map_err(|e| e.to_string()));
        match result {
            Ok(()) => {
                tracing::info!(
                    connection = &*sa.connection,
                    child = &*sa.name,
                    spi_in = format!("{:#010x}", sa.spi_in),
                    spi_out = format!("{:#010x}", sa.spi_out),
                    suite = %sa.suite,
                    udp = sa.udp_encapsulation,
                    resource = sa.binding.resource(),
                    rekey = sa.replaces.is_some(),
                    "child SA installed"
                );
                self.evidence.record(Record::ChildUp {
                    connection: sa.connection.to_string(),
                    child: sa.name.to_string(),
                    spi_in: format!("{:#010x}", sa.spi_in),
                    spi_out: format!("{:#010x}", sa.spi_out),
                    suite: sa.suite.to_string(),
                });
                self.new_peers.push((outer.remote.ip(), outer.local.ip()));
                self.leaving.stays((outer.local.ip(), sa.spi_in));
                self.leaving.stays((outer.remote.ip(), sa.spi_out));
                if let Some(tunnel) = self.all.get_mut(index) {
                    let (spi_in, spi_out) = (sa.spi_in, sa.spi_out);
                    tunnel
                        .children
                        .insert(sa.child, Child { ike: sa.ike, spi_in, spi_out, outer, seen: (0, 0) });
                }
            }
            Err(error) => {
                tracing::error!(
                    connection = &*sa.connection,
                    child = &*sa.name,
                    error,
                    "child SA not installed"
                );
                // Peers choose their SPIs without each other: another SA of the same address may have this one.
                if !is_in_use(&self.all, outer.local.ip(), sa.spi_in) {
                    let _ = self.table.remove(sa.spi_in, Duration::ZERO);
                }
                for (address, spi) in [(outer.local.ip(), sa.spi_in), (outer.remote.ip(), sa.spi_out)] {
                    if !is_in_use(&self.all, address, spi) {
                        let _ = maps.remove_spi(address, spi);
                    }
                }
                let _ = endpoint.child_failed(now, sa.child);
            }
        }
    }

    fn remove(&mut self, now: Instant, handle: ChildHandle, linger: Duration, reason: CloseReason) {
        let Some((name, child)) = self
            .all
            .iter_mut()
            .find_map(|tunnel| tunnel.children.remove(&handle).map(|child| (tunnel.name.clone(), child)))
        else {
            return;
        };
        let spi_in = format!("{:#010x}", child.spi_in);
        tracing::info!(connection = &*name, spi_in, reason = ?reason, "child SA removed");
        let down =
            Record::ChildDown { connection: name.to_string(), spi_in: spi_in.clone(), reason: word(reason) };
        self.evidence.record(down);
        if let Err(error) = self.table.remove(child.spi_in, linger) {
            tracing::error!(%error, spi_in, "child SA could not be removed from the data path");
        }
        self.leaving.put(now + linger, (child.outer.local.ip(), child.spi_in));
        self.leaving.put(now + linger, (child.outer.remote.ip(), child.spi_out));
    }

    /// One of both has moved: ESP follows IKE. What is on its way to our former address is still received for a while.
    fn repath(&mut self, now: Instant, ike: IkeHandle, path: Path, udp_encapsulation: bool, maps: &mut Maps) {
        let (table, leaving) = (&self.table, &mut self.leaving);
        self.new_peers.push((path.remote.ip(), path.local.ip()));
        for tunnel in &mut self.all {
            for child in tunnel.children.values_mut().filter(|child| child.ike == ike) {
                let (former, spi_in) = (child.outer.local.ip(), child.spi_in);
                let (former_peer, spi_out) = (child.outer.remote.ip(), child.spi_out);
                child.outer = Outer { local: path.local, remote: path.remote, udp_encapsulation };
                tracing::info!(
                    connection = &*tunnel.name,
                    local = %path.local,
                    remote = %path.remote,
                    udp = udp_encapsulation,
                    "child SA has another path"
                );
                let spi =
                    Spi { port: tunnel.port, udp_encapsulated: u8::from(udp_encapsulation), outbound: 0 };
                let here = path.local.ip();
                leaving.stays((here, spi_in));
                if former != here {
                    leaving.put(now + PATH_LINGER, (former, spi_in));
                }
                let there = path.remote.ip();
                leaving.stays((there, spi_out));
                if former_peer != there {
                    leaving.put(now + PATH_LINGER, (former_peer, spi_out));
                }
                // The filter knows the address before the peer can use it.
                let told = maps.add_spi(here, spi_in, spi);
                let told = told.and_then(|()| maps.add_spi(there, spi_out, Spi { outbound: 1, ..spi }));
                let told = told.map_err(|error| error.to_string());
                let told =
                    told.and_then(|()| table.repath(spi_in, child.outer).map_err(|error| error.to_string()));
                if let Err(error) = told {
                    tracing::error!(error, connection = &*tunnel.name, "ESP does not follow");
                }
            }
        }
    }

    fn failed(&mut self, failure: &Failure) {
        let kind = failure.kind.name();
        let peer = failure.path.remote;
        let connection = failure.connection.as_deref().unwrap_or("-");
        // Anyone can send garbage; what concerns a configured peer is for the operator.
        match failure.kind {
            FailureKind::Malformed | FailureKind::UnknownSpi | FailureKind::Integrity => {
                tracing::warn!(connection, %peer, kind, "{}", failure.detail);
            }
            _ => tracing::error!(connection, %peer, kind, "{}", failure.detail),
        }
        let tunnel = self.all.iter_mut().find(|tunnel| match &failure.connection {
            Some(name) => tunnel.name == *name,
            None => false,
        });
        if let Some(tunnel) = tunnel {
            tunnel.last_failure = Some(format!("{kind}: {}", failure.detail));
        }
    }

    fn named(&mut self, name: &str) -> Result<&mut Tunnel, String> {
        let names: Vec<&str> = self.all.iter().map(|tunnel| &*tunnel.name).collect();
        let unknown = format!("no connection is named {name:?}; there are: {}", names.join(", "));
        self.all.iter_mut().find(|tunnel| &*tunnel.name == name).ok_or(unknown)
    }

    fn child(&self, handle: ChildHandle) -> Option<&Child> {
        self.all.iter().find_map(|tunnel| tunnel.children.get(&handle))
    }

    fn child_with(&self, spi_in: u32) -> Option<ChildHandle> {
        self.all
            .iter()
            .flat_map(|tunnel| &tunnel.children)
            .find_map(|(handle, child)| (child.spi_in == spi_in).then_some(*handle))
    }
}

/// Whether a child SA in force has this SPI at this address, its own or the peer's.
fn is_in_use(all: &[Tunnel], address: IpAddr, spi: u32) -> bool {
    all.iter().flat_map(|tunnel| tunnel.children.values()).any(|child| {
        let Child { spi_in, spi_out, outer, .. } = child;
        [(outer.local.ip(), *spi_in), (outer.remote.ip(), *spi_out)].contains(&(address, spi))
    })
}

/// A reason as records name it.
fn word(reason: CloseReason) -> String {
    format!("{reason:?}").to_lowercase()
}
