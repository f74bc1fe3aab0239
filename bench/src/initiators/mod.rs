//! Many clinics that connect to one centre over real sockets, each from an address of its own: our engine without IO, driven
//! by one thread in the carrier's namespace. What it spends is spent beside the gateway that answers, on the same machine.

mod sockets;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use sekisho_ike::Endpoint;
use sekisho_ike::config::{
    ChildConfig, Connection, EndpointConfig, Limits, LocalAuth, PerResource, Psk, RemoteAuth, Uniqueness,
    Wanted,
};
use sekisho_ike::crypto::random::SystemRandom;
use sekisho_ike::event::{ChildHandle, Event, IkeHandle};
use sekisho_tests::gateway::settings::CENTRE_ID;
use sekisho_tests::lab::Lab;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::lab::topology::ip_show;

use crate::contender::{IKE_PROPOSAL, PSK};
use sockets::Sockets;

/// Where the clinics are: addresses that RFC 2544 gives to measurements.
pub const NETWORK: &str = "198.18.0.0/15";
/// Who the centre takes for a clinic.
pub const IDS: &str = "*.clinics.example";
/// What the centre gives to clinics, an address each.
pub const POOL: &str = "10.64.0.0/16";
/// ESP of all of them, with a key exchange of its own when keys are renewed.
pub const ESP: &str = "aes128gcm16-x25519";
/// Behind the centre.
pub const BEHIND: &str = "10.2.0.0/24";
/// The engine shall renew no keys by itself while it is measured.
const LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// Between two looks at what is due.
const TICK: Duration = Duration::from_millis(20);
/// Until every DELETE is answered, after which the next measurement begins undisturbed.
const FAREWELL: Duration = Duration::from_secs(20);

/// The clinics.
pub struct Initiators {
    endpoint: Endpoint,
    sockets: Sockets,
    clinics: u32,
    failure: Option<String>,
}

/// What became of handshakes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Handshakes {
    /// Those that should have begun.
    pub offered: u32,
    /// How long each took that succeeded: from when it was due until the child SA was there.
    pub times: Vec<Duration>,
    /// How much later than due the last one began: where that is long, this machine could not offer so many.
    pub late: Duration,
    /// From the first one's begin to the last one's end.
    pub took: Duration,
}

/// One clinic's SAs.
pub type Tunnel = (IkeHandle, ChildHandle);

fn address(number: u32) -> Ipv4Addr {
    // 198.18.0.1 is the first.
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 1)) + number)
}

fn name(number: u32) -> String {
    format!("c{number}")
}

impl Initiators {
    /// So many of them in a lab, none connected.
    ///
    /// # Errors
    /// When their sockets cannot be had.
    pub fn new(lab: &Lab, clinics: u32) -> Result<Self> {
        ensure!(clinics < 1 << 16, "there is room for 65,535 clinics");
        let carrier = lab.at(Place::Internet);
        ip_show(&carrier, &["route", "replace", "local", NETWORK, "dev", "lo"])?;
        let sockets = carrier.run(Sockets::open)?;
        let connections: Result<Vec<_>> =
            (0..clinics).map(|number| connection(number).map(Arc::new)).collect();
        let config = EndpointConfig {
            connections: connections?,
            // Bounds for strangers, of whom there are none: all of these are of its own making.
            limits: Limits { half_open: 1 << 20, retired: 1 << 17, ..Limits::default() },
            ..EndpointConfig::default()
        };
        let now = Instant::now();
        let endpoint = Endpoint::new(config, Box::new(SystemRandom::new()), now, SystemTime::now());
        Ok(Self { endpoint, sockets, clinics, failure: None })
    }

    /// Open loop: handshakes begin at even distances, `rate` a second for `time`, whatever becomes of the earlier ones. One
    /// that is not done within `patience` of when it was due has failed.
    ///
    /// # Errors
    /// When there are fewer clinics than handshakes, or the sockets fail.
    pub fn open_loop(&mut self, rate: f64, time: Duration, patience: Duration) -> Result<Handshakes> {
        let offered = (rate * time.as_secs_f64()).round() as u32;
        ensure!(offered > 0 && offered <= self.clinics, "{offered} handshakes with {} clinics", self.clinics);
        let interval = Duration::from_secs_f64(1.0 / rate);
        let begun = Instant::now();
        let due = |number: u32| begun + interval * number;
        let mut found = Handshakes { offered, ..Handshakes::default() };
        let mut waiting: HashMap<IkeHandle, Instant> = HashMap::new();
        let mut next = 0;
        let end = due(offered) + patience;
        while (next < offered || !waiting.is_empty()) && Instant::now() < end {
            while next < offered && due(next) <= Instant::now() {
                found.late = due(next).elapsed();
                waiting.insert(self.begin(next)?, due(next));
                next += 1;
            }
            let until = if next < offered { due(next) } else { Instant::now() + TICK };
            for event in self.pump(until)? {
                let Event::ChildInstall(child) = event else { continue };
                if let Some(due) = waiting.remove(&child.ike) {
                    found.times.extend(Some(due.elapsed()).filter(|time| *time <= patience));
                }
            }
        }
        found.took = begun.elapsed();
        Ok(found)
    }

    /// Closed loop: the first `count` clinics connect, `at_once` of them at a time. Their SAs, and how long all of it took.
    ///
    /// # Errors
    /// When one of them is not up within `patience`.
    pub fn connect(
        &mut self,
        count: u32,
        at_once: usize,
        patience: Duration,
    ) -> Result<(Vec<Tunnel>, Duration)> {
        let begun = Instant::now();
        let mut up = Vec::new();
        let mut next = 0;
        while up.len() < count as usize {
            while next < count && (next as usize) < up.len() + at_once {
                self.begin(next)?;
                next += 1;
            }
            for event in self.pump(Instant::now() + TICK)? {
                if let Event::ChildInstall(child) = event {
                    up.push((child.ike, child.child));
                }
            }
            self.check(begun, patience, || format!("{} of {count} clinics are up", up.len()))?;
        }
        Ok((up, begun.elapsed()))
    }

    /// Every one of these tunnels renews the keys of its IKE SA and then those of its child SA, `at_once` of them at a time.
    /// The new SAs, and how long all of it took.
    ///
    /// # Errors
    /// When one is lost, or it takes longer than `patience`.
    pub fn rekey(
        &mut self,
        tunnels: &[Tunnel],
        at_once: usize,
        patience: Duration,
    ) -> Result<(Vec<Tunnel>, Duration)> {
        let begun = Instant::now();
        let children: HashMap<IkeHandle, ChildHandle> = tunnels.iter().copied().collect();
        ensure!(children.len() == tunnels.len(), "a tunnel is named twice");
        let mut done = Vec::new();
        let mut next = 0;
        while done.len() < tunnels.len() {
            while let Some((ike, _)) = tunnels.get(next)
                && next < done.len() + at_once
            {
                self.endpoint.rekey_ike(Instant::now(), *ike).context("renewing an IKE SA's keys")?;
                next += 1;
            }
            for event in self.pump(Instant::now() + TICK)? {
                match event {
                    Event::IkeRekeyed { ike, .. } => {
                        let child = children.get(&ike).context("an IKE SA of nobody")?;
                        self.endpoint.rekey_child(Instant::now(), *child).context("renewing a child SA's")?;
                    }
                    Event::ChildInstall(child) => {
                        ensure!(
                            child.replaces.is_some_and(|former| children.get(&child.ike) == Some(&former)),
                            "a child SA that replaces none"
                        );
                        done.push((child.ike, child.child));
                    }
                    Event::IkeClosed { connection, reason, .. } => {
                        anyhow::bail!("{connection} was lost: {reason:?}{}", self.why());
                    }
                    _ => {}
                }
            }
            self.check(begun, patience, || format!("{} of {} have new keys", done.len(), tunnels.len()))?;
        }
        Ok((done, begun.elapsed()))
    }

    /// Waits until `count` clinics have an IKE SA and a child SA each, and nothing more: what was replaced is deleted by an
    /// exchange of its own.
    ///
    /// # Errors
    /// When there are fewer, or too many for longer than `patience`.
    pub fn settle(&mut self, count: u32, patience: Duration) -> Result<()> {
        let begun = Instant::now();
        loop {
            let stats = self.endpoint.stats();
            let (standing, all) = ((stats.established, stats.children), (count as usize, count as usize));
            if standing == all {
                return Ok(());
            }
            self.check(begun, patience, || {
                format!("{} IKE SAs and {} child SAs in place of {count} each", standing.0, standing.1)
            })?;
            self.pump(Instant::now() + TICK)?;
        }
    }

    /// How often a request was sent again since the beginning.
    pub fn retransmissions(&self) -> u64 {
        self.endpoint.stats().retransmissions
    }

    /// Closes everything, and waits until the centre has heard of it.
    ///
    /// # Errors
    /// When the sockets fail.
    pub fn close(&mut self) -> Result<()> {
        self.endpoint.close_all(Instant::now());
        let begun = Instant::now();
        loop {
            self.pump(Instant::now() + TICK)?;
            let stats = self.endpoint.stats();
            if (stats.unacknowledged == 0 && stats.established == 0) || begun.elapsed() > FAREWELL {
                return Ok(());
            }
        }
    }

    fn begin(&mut self, number: u32) -> Result<IkeHandle> {
        let from = SocketAddr::from((address(number), sockets::IKE));
        let to = Place::Centre.socket(Family::V4, sockets::IKE);
        Ok(self.endpoint.initiate(Instant::now(), &name(number), from, to)?)
    }

    /// Sends what is to be sent, takes in what comes until that moment, or until something has come, and tells what happened.
    fn pump(&mut self, until: Instant) -> Result<Vec<Event>> {
        self.send()?;
        let due = self.endpoint.poll_timeout().map_or(until, |due| due.min(until));
        let endpoint = &mut self.endpoint;
        self.sockets.receive(due, |path, bytes| endpoint.handle_datagram(Instant::now(), path, bytes))?;
        self.endpoint.handle_timeout(Instant::now());
        let mut events = Vec::new();
        while let Some(event) = self.endpoint.poll_event() {
            if let Event::Failure(failure) = &event {
                self.failure = Some(failure.detail.clone());
            }
            events.push(event);
        }
        self.send()?;
        Ok(events)
    }

    fn send(&mut self) -> Result<()> {
        while let Some(transmit) = self.endpoint.poll_transmit() {
            self.sockets.send(&transmit)?;
        }
        Ok(())
    }

    fn check(&self, begun: Instant, patience: Duration, state: impl Fn() -> String) -> Result<()> {
        ensure!(begun.elapsed() < patience, "only {} after {patience:?}{}", state(), self.why());
        Ok(())
    }

    /// The last failure that was told.
    fn why(&self) -> String {
        self.failure.as_ref().map_or_else(String::new, |failure| format!("; {failure}"))
    }
}

/// Of one clinic: it asks for an address, and speaks by it alone.
fn connection(number: u32) -> Result<Connection> {
    let psk = || Psk::new(PSK.as_bytes().to_vec());
    Ok(Connection {
        name: name(number).into(),
        local_address: Some(address(number).into()),
        remote_address: Some(Place::Centre.address(Family::V4)),
        local_id: IDS.replace('*', &name(number)).parse().context("an identity")?,
        remote_id: CENTRE_ID.parse().context("an identity")?,
        local_auth: LocalAuth::Psk(psk()),
        remote_auth: RemoteAuth::Psk(psk()),
        ike_proposals: vec![IKE_PROPOSAL.parse().context("a proposal")?],
        children: vec![ChildConfig {
            name: "main".into(),
            local: Vec::new(),
            remote: vec![BEHIND.parse().context("a network")?],
            local_dynamic: true,
            remote_dynamic: false,
            esp_proposals: vec![ESP.parse().context("a proposal")?],
            rekey_after: LIFETIME,
            per_resource: PerResource::Off,
        }],
        ike_rekey_after: LIFETIME,
        reauth_after: Duration::ZERO,
        uniqueness: Uniqueness::Replace,
        dpd_after: Duration::ZERO,
        force_encapsulation: false,
        mobike: false,
        assigns: None,
        wants: Wanted { ipv4: true, ipv6: false },
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn every_clinic_has_an_address_and_a_name_of_its_own() {
        assert_eq!(address(0), Ipv4Addr::new(198, 18, 0, 1));
        assert_eq!(address(65_534), Ipv4Addr::new(198, 18, 255, 255));
        let connection = connection(7).expect("a connection");
        assert_eq!(connection.local_address, Some(IpAddr::from([198, 18, 0, 8])));
        assert_eq!(connection.local_id.to_string(), "c7.clinics.example");
    }
}
