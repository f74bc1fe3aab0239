//! One connection: what is configured of it, and where it stands.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use sekisho_esp::sa::PortId;
use sekisho_ike::crypto::random::{Random as _, SeededRandom, SystemRandom};
use sekisho_ike::event::IkeHandle;

use super::life::RETRY_FIRST;
use crate::config::{self, Config, Life, Start};

/// One connection.
pub(in crate::daemon) struct Tunnel {
    /// Its name.
    pub(in crate::daemon) name: Arc<str>,
    /// VPN port id of its zone.
    pub(super) port: PortId,
    pub(super) start: Start,
    pub(super) local: IpAddr,
    /// It may begin at another address where that one cannot be used.
    pub(super) mobike: bool,
    pub(super) remote: Option<IpAddr>,
    /// Its peers are given addresses.
    pub(super) gives: bool,
    /// Whether it shall be up now: by configuration, traffic or an operator.
    pub(super) wanted: bool,
    /// Closed by an operator: nothing but `up` opens it again.
    pub(super) held_down: bool,
    /// The IKE SA, from the first message on.
    pub(in crate::daemon) ike: Option<IkeHandle>,
    /// What it carries, as configured.
    networks: Vec<config::Child>,
    pub(super) up_since: Option<Instant>,
    pub(super) next_try: Option<Instant>,
    pub(super) wait: Duration,
    pub(super) jitter: SeededRandom,
    pub(super) life: Life,
    /// Whether a packet for it opens it.
    pub(super) trapped: bool,
    /// When a packet was last seen in it, in either direction.
    pub(super) last_packet: Instant,
    /// How often its peer was given up as dead, and how often it was closed for want of packets.
    pub(in crate::daemon) dead: u64,
    pub(in crate::daemon) idled: u64,
    /// How often it came up.
    pub(in crate::daemon) established: u64,
    /// The last failure.
    pub(in crate::daemon) last_failure: Option<String>,
}

impl Tunnel {
    pub(super) fn new(config: &Config, connection: &config::Connection, now: Instant) -> Tunnel {
        let wanted = connection.start == Start::Always;
        Tunnel {
            name: connection.name.clone(),
            port: config.vpn_port(&connection.name).map_or(0, |port| port.id),
            start: connection.start,
            local: connection.local.address,
            mobike: connection.mobike,
            remote: connection.remote.address,
            gives: !connection.pools.is_empty(),
            wanted,
            held_down: false,
            ike: None,
            networks: connection.children.clone(),
            up_since: None,
            next_try: wanted.then_some(now),
            wait: RETRY_FIRST,
            jitter: SeededRandom::new(SystemRandom::new().next_u64()),
            life: connection.life,
            trapped: connection.start == Start::OnDemand,
            last_packet: now,
            dead: 0,
            idled: 0,
            established: 0,
            last_failure: None,
        }
    }

    /// The same connection as another configuration has it. An operator's word outlives the change.
    pub(super) fn adapted_to(self, new: Tunnel) -> Tunnel {
        let wanted = !self.held_down && (new.wanted || (self.wanted && new.start != Start::Answer));
        Tunnel {
            wanted,
            held_down: self.held_down,
            next_try: if wanted && self.ike.is_none() { new.next_try.or(self.next_try) } else { None },
            ike: self.ike,
            up_since: self.up_since,
            last_packet: self.last_packet,
            dead: self.dead,
            idled: self.idled,
            established: self.established,
            last_failure: self.last_failure,
            ..new
        }
    }

    /// Whether it shall be up, or is on the way there.
    pub(in crate::daemon) fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// Whether traffic or the peer may open it.
    pub(in crate::daemon) fn waits(&self) -> bool {
        !self.held_down && (self.trapped || self.start == Start::Answer)
    }

    /// The networks behind it.
    pub(super) fn behind(&self) -> impl Iterator<Item = IpNet> {
        self.networks.iter().flat_map(|child| &child.remote).copied()
    }

    /// Whether a packet is one of its children's.
    pub(super) fn carries(&self, source: IpAddr, destination: IpAddr) -> bool {
        let has = |networks: &[IpNet], address: IpAddr| networks.iter().any(|net| net.contains(&address));
        self.networks.iter().any(|child| has(&child.local, source) && has(&child.remote, destination))
    }
}

#[cfg(test)]
pub(super) mod testing {
    use sekisho_esp::sa::Lifetimes;
    use sekisho_ike::config::Uniqueness;

    use super::*;
    use crate::config::DpdAction;

    /// One that is wanted and due. `seed`: of its random waits.
    pub(in crate::daemon::tunnels) fn tunnel(name: &str, now: Instant, seed: u64) -> Tunnel {
        let nets = |text: &str| vec![text.parse::<IpNet>().expect("a network")];
        Tunnel {
            name: name.into(),
            port: 9,
            start: Start::Always,
            local: "198.51.100.2".parse().expect("address"),
            mobike: true,
            remote: None,
            gives: false,
            wanted: true,
            held_down: false,
            ike: None,
            networks: vec![
                child("a", nets("10.1.0.0/24"), nets("10.2.0.0/24")),
                child("b", nets("10.3.0.0/24"), nets("10.4.0.0/24")),
            ],
            up_since: None,
            next_try: Some(now),
            wait: RETRY_FIRST,
            jitter: SeededRandom::new(seed),
            life: Life {
                reauth: Duration::ZERO,
                idle: Duration::ZERO,
                dpd: Duration::from_secs(30),
                dpd_action: DpdAction::Restart,
                unique: Uniqueness::Replace,
                limits: Lifetimes::default(),
            },
            trapped: false,
            last_packet: now,
            dead: 0,
            idled: 0,
            established: 0,
            last_failure: None,
        }
    }

    fn child(name: &str, local: Vec<IpNet>, remote: Vec<IpNet>) -> config::Child {
        config::Child { name: name.into(), local, remote, local_dynamic: false, remote_dynamic: false }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::tunnel;
    use super::*;

    #[test]
    fn a_packet_wakes_the_connection_that_carries_it() {
        let tunnel = tunnel("centre", Instant::now(), 1);
        let carries = |source: &str, destination: &str| {
            tunnel.carries(source.parse().expect("address"), destination.parse().expect("address"))
        };
        assert!(carries("10.1.0.9", "10.2.0.9") && carries("10.3.0.9", "10.4.0.9"));
        assert!(!carries("10.1.0.9", "10.4.0.9"), "a child's networks belong together");
        assert!(!carries("10.1.0.9", "10.5.0.9") && !carries("fd00::1", "10.2.0.9"));
    }
}
