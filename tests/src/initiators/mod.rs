//! Many initiators that connect to one centre over real sockets, each from an address of its own: the product's IKE engine
//! and ESP transform without their IO, driven by one thread in the carrier's namespace. What it spends is spent beside the
//! gateway that answers, on the same machine.

mod echo;
mod plan;
mod sas;
mod sockets;
mod traffic;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use sekisho_ike::config::{EndpointConfig, Limits};
use sekisho_ike::crypto::random::SystemRandom;
use sekisho_ike::event::{ChildHandle, ChildSa, Event, IkeHandle};
use sekisho_ike::{Endpoint, Stats};

use crate::lab::Lab;
use crate::lab::plan::{Family, Place};
use crate::lab::topology::ip_show;

pub use plan::{BEHIND, ESP, IDS, IKE_PROPOSAL, Inside, NETWORK, POOL, PSK, centre_of_networks};
pub use traffic::{Exchanged, Questions};

use sas::Sas;
use sockets::{Arrived, Sockets};
use traffic::{Inner, Traffic};

/// Between two looks at what is due.
const TICK: Duration = Duration::from_millis(20);
/// Until every DELETE is answered, after which the next measurement begins undisturbed.
const FAREWELL: Duration = Duration::from_secs(20);

/// All of them.
pub struct Initiators {
    endpoint: Endpoint,
    sockets: Sockets,
    sas: Sas,
    traffic: Option<Traffic>,
    /// Number of the first question of the next one: no number is used twice.
    question: u64,
    /// Packets of hosts behind them, to be sealed and sent.
    inner: Vec<Inner>,
    count: u32,
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

/// The SAs of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Whose.
    pub initiator: u32,
    ike: IkeHandle,
    child: ChildHandle,
}

impl Tunnel {
    fn of(sa: &ChildSa) -> Result<Self> {
        let initiator = plan::number(&sa.connection).context("an SA of nobody")?;
        Ok(Self { initiator, ike: sa.ike, child: sa.child })
    }
}

impl Initiators {
    /// So many of them in a lab, none connected.
    ///
    /// # Errors
    /// When their sockets cannot be had.
    pub fn new(lab: &Lab, count: u32, inside: Inside) -> Result<Self> {
        ensure!(count <= plan::MOST, "there is room for {} initiators", plan::MOST);
        let carrier = lab.at(Place::Internet);
        ip_show(&carrier, &["route", "replace", "local", NETWORK, "dev", "lo"])?;
        let sockets = carrier.run(Sockets::open)?;
        let connections: Result<Vec<_>> =
            (0..count).map(|number| plan::connection(number, inside).map(Arc::new)).collect();
        let config = EndpointConfig {
            connections: connections?,
            // Bounds for strangers, of whom there are none: all of these are of its own making.
            limits: Limits { half_open: 1 << 20, retired: 1 << 17, ..Limits::default() },
            ..EndpointConfig::default()
        };
        let now = Instant::now();
        let endpoint = Endpoint::new(config, Box::new(SystemRandom::new()), now, SystemTime::now());
        let (sas, inner) = (Sas::default(), Vec::new());
        Ok(Self { endpoint, sockets, sas, traffic: None, question: 0, inner, count, failure: None })
    }

    /// Open loop: handshakes begin at even distances, `rate` a second for `time`, whatever becomes of the earlier ones. One
    /// that is not done within `patience` of when it was due has failed.
    ///
    /// # Errors
    /// When there are fewer clinics than handshakes, or the sockets fail.
    pub fn open_loop(&mut self, rate: f64, time: Duration, patience: Duration) -> Result<Handshakes> {
        let offered = (rate * time.as_secs_f64()).round() as u32;
        ensure!(offered > 0 && offered <= self.count, "{offered} handshakes with {} clinics", self.count);
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

    /// Closed loop: the initiators of these numbers connect, `at_once` of them at a time. Their SAs, and how long all of it
    /// took.
    ///
    /// # Errors
    /// When one of them is not up within `patience`.
    pub fn connect(
        &mut self,
        numbers: Range<u32>,
        at_once: usize,
        patience: Duration,
    ) -> Result<(Vec<Tunnel>, Duration)> {
        let begun = Instant::now();
        let (mut up, count) = (Vec::new(), numbers.len());
        let mut next = numbers.clone();
        while up.len() < count {
            while count - next.len() < up.len() + at_once
                && let Some(number) = next.next()
            {
                self.begin(number)?;
            }
            for event in self.pump(Instant::now() + TICK)? {
                if let Event::ChildInstall(child) = event {
                    up.push(Tunnel::of(&child)?);
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
        let children: HashMap<IkeHandle, ChildHandle> =
            tunnels.iter().map(|tunnel| (tunnel.ike, tunnel.child)).collect();
        ensure!(children.len() == tunnels.len(), "a tunnel is named twice");
        let mut done = Vec::new();
        let mut next = 0;
        while done.len() < tunnels.len() {
            while let Some(tunnel) = tunnels.get(next)
                && next < done.len() + at_once
            {
                self.endpoint.rekey_ike(Instant::now(), tunnel.ike).context("renewing an IKE SA's keys")?;
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
                        done.push(Tunnel::of(&child)?);
                    }
                    Event::IkeClosed { connection, reason, .. } => {
                        bail!("{connection} was lost: {reason:?}{}", self.why());
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
        self.farewell(|stats| stats.unacknowledged == 0 && stats.established == 0)
    }

    fn farewell(&mut self, is_over: impl Fn(&Stats) -> bool) -> Result<()> {
        let begun = Instant::now();
        loop {
            self.pump(Instant::now() + TICK)?;
            if is_over(&self.endpoint.stats()) || begun.elapsed() > FAREWELL {
                return Ok(());
            }
        }
    }

    /// Closes these, and waits until the centre has heard of it.
    ///
    /// # Errors
    /// When one of them is not there, or the sockets fail.
    pub fn close_some(&mut self, tunnels: &[Tunnel]) -> Result<()> {
        for tunnel in tunnels {
            self.endpoint.close(Instant::now(), tunnel.ike).context("closing an IKE SA")?;
        }
        self.farewell(|stats| stats.unacknowledged == 0)
    }

    /// From now on hosts behind the initiators and the server ask each other, while anything is waited for here.
    ///
    /// # Errors
    /// When there are fewer initiators, or the server's socket cannot be had.
    pub fn start_traffic(&mut self, lab: &Lab, questions: Questions) -> Result<()> {
        ensure!(questions.initiators.end <= self.count, "there are {} initiators", self.count);
        self.traffic = Some(Traffic::start(lab, questions, self.question)?);
        Ok(())
    }

    /// Traffic, and nothing else, for so long.
    ///
    /// # Errors
    /// When the sockets fail.
    pub fn go_on(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.pump(end.min(Instant::now() + TICK))?;
        }
        Ok(())
    }

    /// What has become of the traffic until now; `None`: there is none.
    pub fn exchanged(&self) -> Option<Exchanged> {
        self.traffic.as_ref().map(Traffic::found)
    }

    /// Waits for the answers that are under way. What became of all.
    ///
    /// # Errors
    /// When there is no traffic, or the sockets fail.
    pub fn end_traffic(&mut self) -> Result<Exchanged> {
        while let Some(traffic) = &mut self.traffic {
            traffic.end();
            if traffic.is_over() {
                break;
            }
            self.pump(Instant::now() + TICK)?;
        }
        let traffic = self.traffic.take().context("there is no traffic")?;
        self.question = traffic.next();
        Ok(traffic.found())
    }

    fn begin(&mut self, number: u32) -> Result<IkeHandle> {
        let from = SocketAddr::from((plan::address(number), sockets::IKE));
        let to = Place::Centre.socket(Family::V4, sockets::IKE);
        Ok(self.endpoint.initiate(Instant::now(), &plan::name(number), from, to)?)
    }

    /// Sends what is to be sent, takes in what comes until that moment, or until something has come, and tells what happened.
    fn pump(&mut self, until: Instant) -> Result<Vec<Event>> {
        if let Some(traffic) = &mut self.traffic {
            traffic.ask(&mut self.inner)?;
        }
        self.send()?;
        let due = self.endpoint.poll_timeout().map_or(until, |due| due.min(until));
        let Self { endpoint, sockets, sas, traffic, inner, .. } = self;
        let (mut events, from) = (Vec::new(), centre()?);
        let server = traffic.as_ref().map(Traffic::server);
        let also = server.as_ref().map(|socket| socket.as_fd());
        sockets.receive(due, also, |arrived| match arrived {
            Arrived::Ike(path, bytes) => {
                endpoint.handle_datagram(Instant::now(), path, bytes);
                // The next packet may come by SAs that this message has made.
                hear(endpoint, sas, &mut events)
            }
            Arrived::Esp(ends, esp) => {
                let Some(traffic) = traffic else { return Ok(()) };
                match sas.open(esp) {
                    Ok((initiator, place)) if ends == [from, plan::address(initiator)] => {
                        traffic.hear(initiator, esp.get(place).unwrap_or_default(), inner);
                    }
                    Ok((initiator, _)) => traffic.misdelivered(initiator, ends),
                    Err(why) => traffic.refused(why),
                }
                Ok(())
            }
        })?;
        if let Some(traffic) = traffic {
            traffic.read_answers()?;
        }
        endpoint.handle_timeout(Instant::now());
        hear(endpoint, sas, &mut events)?;
        for event in &events {
            if let Event::Failure(failure) = event {
                self.failure = Some(failure.detail.clone());
            }
        }
        self.send()?;
        Ok(events)
    }

    fn send(&mut self) -> Result<()> {
        while let Some(transmit) = self.endpoint.poll_transmit() {
            self.sockets.send(&transmit)?;
        }
        let centre = centre()?;
        for (initiator, packet) in self.inner.drain(..) {
            // Who has no SA loses what its host sends, as it would with any gateway.
            if let Some(esp) = self.sas.seal(initiator, &packet) {
                self.sockets.send_esp([plan::address(initiator), centre], &esp)?;
            }
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

/// Takes all events: what they say of SAs is in force before anything else comes.
fn hear(endpoint: &mut Endpoint, sas: &mut Sas, events: &mut Vec<Event>) -> Result<()> {
    while let Some(event) = endpoint.poll_event() {
        sas.hear(Instant::now(), &event)?;
        events.push(event);
    }
    Ok(())
}

/// Where all of them send to.
fn centre() -> Result<Ipv4Addr> {
    match Place::Centre.address(Family::V4) {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(_) => bail!("the centre has no IPv4 address"),
    }
}
