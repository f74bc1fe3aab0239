//! Two endpoints joined by a network with latency, loss, reordering, duplication, an MTU and a NAT, on virtual time; and a
//! model of both data paths that notices when a packet would be lost.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use sekisho_ike::crypto::random::{Random, SeededRandom};
use sekisho_ike::event::{ChildHandle, CloseReason, Event, Failure, FailureKind, IkeHandle, Path, Transmit};
use sekisho_ike::nat::{IKE_PORT, KEEPALIVE};
use sekisho_ike::status::ChildStatus;
use sekisho_ike::{ChildSa, Endpoint, EndpointConfig};

use crate::ids::MessageIds;
use crate::network::{Nat, Network, ip_length};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    /// The clinic: begins in most tests.
    A,
    /// The centre.
    B,
}

impl Side {
    pub(crate) fn other(self) -> Self {
        match self {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }
}

/// One gateway, and what its data path would hold.
pub(crate) struct Node {
    pub(crate) endpoint: Endpoint,
    config: EndpointConfig,
    pub(crate) address: IpAddr,
    /// Further addresses it can be reached at.
    pub(crate) others: Vec<IpAddr>,
    /// Nothing is sent or received while it is off.
    pub(crate) up: bool,
    pub(crate) events: Vec<Event>,
    pub(crate) failures: Vec<Failure>,
    /// Installed pairs.
    pub(crate) children: BTreeMap<ChildHandle, ChildSa>,
    /// Removed pairs whose inbound SA still receives.
    lingering: BTreeMap<u32, Instant>,
    /// The pair that each child sends with, by name; and those for single resources.
    pub(crate) outbound: BTreeMap<(String, Option<u16>), ChildHandle>,
    pub(crate) established: BTreeSet<IkeHandle>,
    pub(crate) closed: Vec<CloseReason>,
    /// CRLs to be fetched.
    pub(crate) crls_wanted: Vec<String>,
}

pub(crate) struct Pair {
    pub(crate) start: Instant,
    pub(crate) now: Instant,
    pub(crate) a: Node,
    pub(crate) b: Node,
    pub(crate) network: Network,
    pub(crate) nat: Option<Nat>,
    /// Addresses change in this test: what was sent from or to a former one is lost.
    pub(crate) moves: bool,
    /// Addresses whose line is dead, though they stand.
    pub(crate) dead: Vec<IpAddr>,
    in_flight: BTreeMap<(Instant, u64), (Side, Transmit)>,
    sequence: u64,
    chance: SeededRandom,
    /// Everything that was sent, before the network had its way.
    pub(crate) sent: Vec<(Side, Transmit)>,
    /// What was sent under which message ID.
    ids: MessageIds,
    /// Whether packets of the data path are assumed to flow all the time.
    pub(crate) traffic: bool,
    /// Whether no packet may be lost; checked after every step.
    pub(crate) lossless: bool,
}

/// May 2026, since 1970.
pub(crate) const WALL: Duration = Duration::from_secs(1_780_000_000);
pub(crate) const ADDRESS_A: &str = "198.51.100.2";
pub(crate) const ADDRESS_B: &str = "203.0.113.2";
const NAT_INSIDE: &str = "192.168.1.2";

impl Pair {
    pub(crate) fn new(a: EndpointConfig, b: EndpointConfig) -> Self {
        Self::seeded(1, a, b)
    }

    pub(crate) fn seeded(seed: u64, a: EndpointConfig, b: EndpointConfig) -> Self {
        let now = Instant::now();
        let node = |config: EndpointConfig, seed, address: &str| Node {
            endpoint: Endpoint::new(
                config.clone(),
                Box::new(SeededRandom::new(seed)),
                now,
                SystemTime::UNIX_EPOCH + WALL,
            ),
            config,
            address: address.parse().expect("address"),
            others: Vec::new(),
            up: true,
            events: Vec::new(),
            failures: Vec::new(),
            children: BTreeMap::new(),
            lingering: BTreeMap::new(),
            outbound: BTreeMap::new(),
            established: BTreeSet::new(),
            closed: Vec::new(),
            crls_wanted: Vec::new(),
        };
        Self {
            start: now,
            now,
            a: node(a, seed.wrapping_mul(2), ADDRESS_A),
            b: node(b, seed.wrapping_mul(2) + 1, ADDRESS_B),
            network: Network::default(),
            nat: None,
            moves: false,
            dead: Vec::new(),
            in_flight: BTreeMap::new(),
            sequence: 0,
            chance: SeededRandom::new(seed ^ 0x5eed),
            sent: Vec::new(),
            ids: MessageIds::default(),
            traffic: true,
            lossless: false,
        }
    }

    /// Puts A behind a NAT.
    pub(crate) fn behind_nat(mut self) -> Self {
        self.nat = Some(Nat::new(self.a.address));
        self.a.address = NAT_INSIDE.parse().expect("address");
        self
    }

    pub(crate) fn node(&mut self, side: Side) -> &mut Node {
        match side {
            Side::A => &mut self.a,
            Side::B => &mut self.b,
        }
    }

    /// One mutation of one endpoint, and all it brings about.
    pub(crate) fn act<T>(&mut self, side: Side, change: impl FnOnce(&mut Endpoint, Instant) -> T) -> T {
        let now = self.now;
        let result = change(&mut self.node(side).endpoint, now);
        self.drain(side);
        result
    }

    pub(crate) fn initiate(&mut self, side: Side) -> IkeHandle {
        let remote = match (side, &self.nat) {
            (Side::B, Some(nat)) => nat.public,
            _ => self.node(side.other()).address,
        };
        let local = SocketAddr::new(self.node(side).address, IKE_PORT);
        let remote = SocketAddr::new(remote, IKE_PORT);
        self.act(side, |endpoint, now| endpoint.initiate(now, "tunnel", local, remote)).expect("initiate")
    }

    /// A side loses power and comes back at once: it knows nothing of what was, and the other is not told.
    pub(crate) fn crash(&mut self, side: Side) {
        let (now, wall) = (self.now, SystemTime::UNIX_EPOCH + WALL + (self.now - self.start));
        let seed = self.chance.next_u64();
        let node = self.node(side);
        node.endpoint = Endpoint::new(node.config.clone(), Box::new(SeededRandom::new(seed)), now, wall);
        node.children.clear();
        node.lingering.clear();
        node.outbound.clear();
        node.established.clear();
    }

    /// A side has these addresses from now on, and its engine is told; the first is what tests begin at.
    pub(crate) fn readdress(&mut self, side: Side, addresses: &[&str]) {
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().expect("address")).collect();
        let node = self.node(side);
        node.address = *addresses.first().expect("one");
        node.others = addresses[1..].to_vec();
        self.moves = true;
        self.act(side, |endpoint, now| endpoint.set_addresses(now, addresses));
    }

    /// Lets so much time pass.
    pub(crate) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.next().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.step();
        }
        self.now = until;
    }

    /// Runs until nothing is on the way and nobody waits for an answer, at most for so long. Panics when it does not
    /// come to rest.
    pub(crate) fn settle(&mut self) {
        let until = self.now + Duration::from_secs(600);
        loop {
            let busy = !self.in_flight.is_empty() || self.a.is_busy() || self.b.is_busy();
            if !busy {
                return;
            }
            let at = self.next().expect("something is due");
            assert!(at <= until, "does not come to rest");
            self.now = self.now.max(at);
            self.step();
        }
    }

    fn next(&self) -> Option<Instant> {
        let delivery = self.in_flight.keys().next().map(|(at, _)| *at);
        let timers =
            [&self.a, &self.b].into_iter().filter(|node| node.up).filter_map(|n| n.endpoint.poll_timeout());
        timers.chain(delivery).min()
    }

    fn step(&mut self) {
        while let Some(((at, number), _)) = self.in_flight.first_key_value()
            && *at <= self.now
        {
            let key = (*at, *number);
            let Some((to, transmit)) = self.in_flight.remove(&key) else { break };
            self.deliver(to, &transmit);
        }
        for side in [Side::A, Side::B] {
            let now = self.now;
            if self.node(side).up && self.node(side).endpoint.poll_timeout().is_some_and(|at| at <= now) {
                self.act(side, |endpoint, now| endpoint.handle_timeout(now));
            }
        }
        if self.traffic {
            self.flow();
        }
    }

    /// Packets flow both ways: the first one on a new pair is reported, and none may meet a gateway without its SA.
    fn flow(&mut self) {
        for side in [Side::A, Side::B] {
            let sending: Vec<_> =
                self.node(side).sending().map(|child| (child.spi_out, child.name.clone())).collect();
            for (spi, name) in sending {
                let now = self.now;
                let other = self.node(side.other());
                let received =
                    other.children.values().find(|child| child.spi_in == spi).map(|child| child.child);
                let lingers = other.lingering.get(&spi).is_some_and(|until| *until >= now);
                assert!(
                    !self.lossless || received.is_some() || lingers,
                    "{side:?} sends {name} with SPI {spi:08x}, which the other does not have"
                );
                if let Some(child) = received
                    && self.node(side.other()).up
                {
                    // The data path does not know whether the engine still has it.
                    let _ = self.act(side.other(), |endpoint, now| endpoint.child_first_inbound(now, child));
                }
            }
        }
    }

    fn drain(&mut self, side: Side) {
        let now = self.now;
        // Events first: a reply must not leave before its SAs are installed.
        self.node(side).take_events(now);
        let mut transmits = Vec::new();
        while let Some(transmit) = self.node(side).endpoint.poll_transmit() {
            transmits.push(transmit);
        }
        for transmit in transmits {
            self.ids.note(side, &transmit.bytes);
            self.sent.push((side, transmit.clone()));
            if self.node(side).up {
                self.send(side, transmit);
            }
        }
    }

    fn send(&mut self, from: Side, mut transmit: Transmit) {
        let own = self.node(from).has(transmit.path.local.ip());
        assert!(own || self.moves, "sends from its own address");
        let known = transmit.path.remote.ip();
        let reaches =
            self.node(from.other()).has(known) || self.nat.as_ref().is_some_and(|n| n.public == known);
        let dead = |address| self.dead.contains(&address);
        if !own || !reaches || dead(transmit.path.local.ip()) || dead(known) {
            return;
        }
        // Exchange type 34 is IKE_SA_INIT.
        let first = self.network.drop_first_requests && transmit.bytes.get(18) == Some(&34);
        if first || ip_length(&transmit) > self.network.mtu {
            return;
        }
        let now = self.now;
        if let (Side::A, Some(nat)) = (from, &mut self.nat) {
            transmit.path.local = nat.outward(now, transmit.path.local.port());
        }
        if let (Side::B, Some(nat)) = (from, &mut self.nat) {
            let Some(inner) = nat.inward(now, transmit.path.remote.port()) else { return };
            transmit.path.remote = SocketAddr::new(self.a.address, inner);
        }
        let copies = if self.roll(self.network.duplicate_percent) { 2 } else { 1 };
        for _ in 0..copies {
            if self.roll(self.network.loss_percent) {
                continue;
            }
            let jitter = match u32::try_from(self.network.jitter.as_micros()).expect("small") {
                0 => 0,
                most => self.chance.next_u32() % most,
            };
            let at = self.now + self.network.latency + Duration::from_micros(jitter.into());
            self.sequence += 1;
            self.in_flight.insert((at, self.sequence), (from.other(), transmit.clone()));
        }
    }

    fn roll(&mut self, percent: u32) -> bool {
        percent > 0 && self.chance.next_u32() % 100 < percent
    }

    fn deliver(&mut self, to: Side, transmit: &Transmit) {
        if !self.node(to).up || !self.node(to).has(transmit.path.remote.ip()) {
            return;
        }
        let path = Path { local: transmit.path.remote, remote: transmit.path.local };
        self.act(to, |endpoint, now| endpoint.handle_datagram(now, path, &transmit.bytes));
    }

    /// Loses everything that is on the way.
    pub(crate) fn drop_in_flight(&mut self) {
        self.in_flight.clear();
    }

    /// Hands a datagram to a side as if it came from the other's address.
    pub(crate) fn inject(&mut self, to: Side, path: Path, bytes: &[u8]) {
        self.act(to, |endpoint, now| endpoint.handle_datagram(now, path, bytes));
    }

    /// Both sides hold the same IKE SAs and child SAs, with the same keys crosswise.
    pub(crate) fn assert_agreement(&mut self) {
        let ikes = |node: &Node| -> BTreeSet<_> {
            node.endpoint.ike_sas().map(|sa| (sa.spi_i, sa.spi_r, sa.suite)).collect()
        };
        assert_eq!(ikes(&self.a), ikes(&self.b), "the same IKE SAs");
        assert_eq!(self.a.children.len(), self.b.children.len(), "as many children");
        for ours in self.a.children.values() {
            let theirs = self.b.children.values().find(|theirs| theirs.spi_in == ours.spi_out);
            let theirs = theirs.unwrap_or_else(|| panic!("B lacks the pair of {ours:?}"));
            assert_eq!(theirs.spi_out, ours.spi_in);
            assert_eq!(theirs.suite, ours.suite);
            assert_eq!(theirs.udp_encapsulation, ours.udp_encapsulation);
            assert_eq!(theirs.keys_in.encryption, ours.keys_out.encryption);
            assert_eq!(theirs.keys_out.encryption, ours.keys_in.encryption);
            assert_eq!(theirs.keys_in.integrity, ours.keys_out.integrity);
            assert_eq!(theirs.keys_out.integrity, ours.keys_in.integrity);
            assert_ne!(ours.keys_in.encryption, ours.keys_out.encryption);
            assert_eq!((&theirs.local, &theirs.remote), (&ours.remote, &ours.local));
        }
        for node in [&self.a, &self.b] {
            let known: BTreeSet<_> =
                node.endpoint.ike_sas().flat_map(|sa| sa.children).map(|child| child.child).collect();
            let installed: BTreeSet<_> = node.children.keys().copied().collect();
            assert_eq!(known, installed, "the engine knows what it had installed");
            for ike in node.endpoint.ike_sas() {
                // The peer may have more resources than we have: some of ours then receive by several.
                let first = |child: &&ChildStatus| child.binding.resource().is_none();
                let names: Vec<_> = ike.children.iter().filter(first).map(|child| &child.name).collect();
                let different: BTreeSet<_> = names.iter().collect();
                assert_eq!(different.len(), names.len(), "no redundant pair is left: {:?}", ike.children);
            }
        }
    }

    /// One IKE SA with so many children on both sides, agreed on and without leftovers.
    pub(crate) fn assert_up(&mut self, children: usize) {
        self.assert_agreement();
        for node in [&self.a, &self.b] {
            assert_eq!(node.established.len(), 1, "failures: {:?}", node.failures);
            assert_eq!(node.children.len(), children, "failures: {:?}", node.failures);
            assert_eq!(node.sending().count(), children);
        }
    }

    /// As [`Pair::assert_up`], while attempts at others are under way.
    pub(crate) fn assert_up_among_attempts(&mut self, children: usize) {
        for node in [&self.a, &self.b] {
            assert_eq!(node.established.len(), 1, "failures: {:?}", node.failures);
            assert_eq!(node.sending().count(), children);
        }
    }

    /// Both sides are as they were before anything happened.
    pub(crate) fn assert_empty(&mut self) {
        for node in [&self.a, &self.b] {
            let stats = node.endpoint.stats();
            assert_eq!((stats.half_open, stats.established, stats.retired, stats.children), (0, 0, 0, 0));
            assert_eq!((stats.strangers, stats.spis), (0, 0), "places and SPIs are given back");
            assert_eq!(node.endpoint.poll_timeout(), None, "no timer is left");
            assert!(node.children.is_empty() && node.established.is_empty());
        }
    }
}

impl Node {
    fn has(&self, address: IpAddr) -> bool {
        self.address == address || self.others.contains(&address)
    }

    fn is_busy(&self) -> bool {
        let stats = self.endpoint.stats();
        self.up && (stats.half_open > 0 || self.endpoint.ike_sas().any(|sa| sa.busy))
    }

    /// The pairs that packets leave by.
    pub(crate) fn sending(&self) -> impl Iterator<Item = &ChildSa> {
        self.outbound.values().filter_map(|handle| self.children.get(handle))
    }

    pub(crate) fn failed(&self, kind: FailureKind) -> bool {
        self.failures.iter().any(|failure| failure.kind == kind)
    }

    /// The only IKE SA.
    pub(crate) fn ike(&self) -> IkeHandle {
        assert_eq!(self.established.len(), 1);
        *self.established.first().expect("one")
    }

    /// The only child.
    pub(crate) fn child(&self) -> ChildHandle {
        assert_eq!(self.children.len(), 1);
        *self.children.keys().next().expect("one")
    }

    /// Does what the daemon does, and checks that it can be done.
    fn take_events(&mut self, now: Instant) {
        while let Some(event) = self.endpoint.poll_event() {
            match &event {
                Event::IkeEstablished(ike) => {
                    assert!(self.established.insert(ike.ike), "established once");
                }
                Event::IkeRekeyed { ike, .. } => assert!(self.established.contains(ike)),
                Event::IkeClosed { ike, reason, .. } => {
                    self.established.remove(ike);
                    self.closed.push(*reason);
                }
                Event::ChildInstall(child) => {
                    assert!(
                        self.children.values().all(|other| other.spi_in != child.spi_in),
                        "SPIs are unique"
                    );
                    assert!(child.replaces.is_none_or(|old| self.children.contains_key(&old)));
                    if child.activate_outbound {
                        self.outbound.insert(place(child), child.child);
                    }
                    self.children.insert(child.child, (**child).clone());
                }
                Event::ChildActivateOutbound { child } => {
                    let child = self.children.get(child).expect("installed");
                    self.outbound.insert(place(child), child.child);
                }
                Event::ChildRemove { child, linger, .. } => {
                    let child = self.children.remove(child).expect("removed once, after it was installed");
                    self.lingering.insert(child.spi_in, now + *linger);
                    self.outbound.retain(|_, handle| *handle != child.child);
                }
                Event::VirtualAddresses { ike, .. } => assert!(self.established.contains(ike)),
                Event::PathChanged { ike, path, udp_encapsulation } => {
                    for child in self.children.values_mut().filter(|child| child.ike == *ike) {
                        child.path = *path;
                        child.udp_encapsulation = *udp_encapsulation;
                    }
                }
                Event::CrlWanted { url } => self.crls_wanted.push(url.clone()),
                Event::Failure(failure) => {
                    assert!(failure.detail.len() > 20, "says something: {failure:?}");
                    self.failures.push(failure.clone());
                }
            }
            self.events.push(event);
        }
    }
}

/// What a pair is for; one that comes later takes the place of one for the same.
fn place(child: &ChildSa) -> (String, Option<u16>) {
    (child.name.to_string(), child.binding.resource())
}

/// Whether a datagram is a NAT keepalive.
pub(crate) fn is_keepalive(transmit: &Transmit) -> bool {
    transmit.bytes == KEEPALIVE
}
