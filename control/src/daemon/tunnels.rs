//! The connections: when they come up, which SAs they have, and what the IKE engine's events mean for the data path.
//!
//! Owned by the daemon's loop. After every mutation of the engine the loop calls [`Tunnels::settle`], which carries out
//! all events before it lets a datagram leave: an SA is in force before the peer hears of it. What comes with a datagram or
//! an event finds its connection and its SAs by one lookup, however many there are: [`Connections`] and [`Children`]. What
//! runs by the clock, or for an operator, walks over all of them.

mod carriers;
mod children;
mod connection;
mod connections;
mod events;
mod install;
mod leaving;
mod life;
mod operator;
mod pair;
mod sa_events;

use std::collections::BTreeMap;
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use sekisho_esp::sa::{PairCounters, SaTable};
use sekisho_ike::Endpoint;
use sekisho_ike::event::{ChildHandle, CloseReason, IkeHandle};

pub(super) use self::children::Child;
use self::children::Children;
pub(super) use self::connection::Tunnel;
use self::connections::Connections;
use self::leaving::Leaving;
pub(super) use self::pair::transform;
use super::sockets::Sockets;
use super::uplinks::Uplinks;
use crate::config::Config;
use crate::evidence::Sink;
use crate::filter::Maps;

/// Every configured connection.
pub(super) struct Tunnels {
    table: Arc<dyn SaTable>,
    connections: Connections,
    /// Child SAs in force.
    children: Children,
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

impl Tunnels {
    /// All connections of a configuration, none of them up.
    pub(super) fn new(config: &Config, table: Arc<dyn SaTable>, evidence: Sink, now: Instant) -> Tunnels {
        let connections = config.connections.iter();
        Tunnels {
            table,
            connections: connections.map(|connection| Tunnel::new(config, connection, now)).collect(),
            children: Children::default(),
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
        let former = mem::take(&mut self.connections).into_all();
        let mut before: BTreeMap<Arc<str>, Tunnel> =
            former.into_iter().map(|tunnel| (tunnel.name.clone(), tunnel)).collect();
        let all = config.connections.iter().map(|connection| {
            let new = Tunnel::new(config, connection, now);
            match before.remove(&connection.name) {
                Some(former) => former.adapted_to(new),
                None => new,
            }
        });
        self.connections = all.collect();
        self.children.keep_only(|name| self.connections.named(name).is_some());
    }

    /// The data path is another one from now on. No SA is in force.
    pub(super) fn use_table(&mut self, table: Arc<dyn SaTable>) {
        self.table = table;
    }

    /// The connections, in the order of the configuration.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Tunnel> {
        self.connections.iter()
    }

    /// Whether this is the IKE SA in use of a connection.
    pub(super) fn uses(&self, connection: &str, ike: IkeHandle) -> bool {
        self.connections.named(connection).is_some_and(|tunnel| tunnel.ike == Some(ike))
    }

    /// Child SAs of a connection that are in force.
    pub(super) fn children(&self, connection: &str) -> impl Iterator<Item = (ChildHandle, &Child)> {
        self.children.of_connection(connection)
    }

    /// Addresses of the peers that ESP is sent to now, with our own.
    pub(super) fn peers(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> + '_ {
        let children = self.iter().flat_map(|tunnel| self.children(&tunnel.name));
        children.map(|(_, child)| (child.outer.remote.ip(), child.outer.local.ip()))
    }

    /// VPN ports, and the peers that their ESP is sent to now.
    pub(super) fn ends(&self) -> impl Iterator<Item = (u16, IpAddr)> + '_ {
        let of = |tunnel: &Tunnel, child: &Child| (tunnel.port, child.outer.remote.ip());
        self.iter()
            .flat_map(move |tunnel| self.children(&tunnel.name).map(move |(_, child)| of(tunnel, child)))
    }

    /// What a child's SAs have done.
    pub(super) fn counters(&self, spi_in: u32) -> PairCounters {
        self.table.counters(spi_in).unwrap_or_default()
    }

    /// When [`Tunnels::handle_timeout`] has something to do.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        [self.connections.next_try(), self.leaving.next()].into_iter().flatten().min()
    }

    /// Begins the connections that are due, and forgets SPIs whose SA is gone.
    pub(super) fn handle_timeout(&mut self, now: Instant, endpoint: &mut Endpoint, maps: &mut Maps) {
        self.connections.take_due(now, |tunnel| tunnel.initiate(now, endpoint, &self.uplinks));
        while let Some((destination, spi)) = self.leaving.take_due(now) {
            // A younger SA may have the same one.
            if self.children.have((destination, spi)) {
                continue;
            }
            if let Err(error) = maps.remove_spi(destination, spi) {
                tracing::error!(%error, spi = format!("{spi:#010x}"), "SPI stays in the filter");
            }
        }
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
}

/// A reason as records name it.
fn word(reason: CloseReason) -> String {
    format!("{reason:?}").to_lowercase()
}
