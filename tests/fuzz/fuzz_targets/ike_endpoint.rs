//! The IKE engine against itself: two endpoints, and a network that delivers, drops, repeats, reorders, damages and
//! invents datagrams while time passes and operators give commands. Now and then an end says under its keys what no
//! honest one would: a message is changed after its integrity check.
//!
//! Asserts: no panic; events make sense to a data path (what is removed was installed, inbound SPIs are unique); memory
//! stays bounded; it comes to rest; after both sides have closed and their timers have run out nothing is left.
#![no_main]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use sekisho_fuzz::ike::{CONNECTION, Side, assert_empty, endpoint};
use sekisho_fuzz::memory::within;
use sekisho_ike::Endpoint;
use sekisho_ike::event::{ChildHandle, Event, IkeHandle, Path, Transmit};
use sekisho_ike::tamper::{self, Tamper};
use sekisho_ike::wire::{ExchangeType, Header, PayloadType, Spi};

/// Steps of one run: enough for two rekeys with everything going wrong in between.
const STEPS: usize = 96;
/// Datagrams under way; a network drops what is more.
const IN_FLIGHT: usize = 128;
/// What both endpoints, their events and the network may hold. Nothing here should come near a megabyte.
const MEMORY: usize = 8 << 20;
/// Longer than a peer is waited for, or a half-open or closed IKE SA kept.
const REST: Duration = Duration::from_secs(400);

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    Initiate(Side),
    /// The oldest datagrams arrive.
    Deliver(u8),
    DeliverOne(u8),
    Drop(u8),
    Repeat(u8),
    Damage {
        which: u8,
        at: u16,
        change: u8,
    },
    Cut {
        which: u8,
        length: u16,
    },
    /// It arrives from another address and port.
    Move {
        which: u8,
        port: u16,
    },
    Invent {
        to: Side,
        exchange: u8,
        flags: u8,
        message_id: u8,
        first: u8,
        body: &'a [u8],
    },
    Raw {
        to: Side,
        bytes: &'a [u8],
    },
    /// The next authentic message says something else than was sent.
    Tamper {
        first: Option<u8>,
        at: u16,
        removed: u8,
        inserted: &'a [u8],
    },
    Wait(u16),
    RekeyIke(Side),
    RekeyChild(Side, u8),
    FailChild(Side, u8),
    FirstInbound(Side, u8),
    Received(Side, u8),
    Reauthenticate(Side),
    /// It loses power and comes back without memory.
    Crash(Side),
    Close(Side),
}

struct Node {
    endpoint: Endpoint,
    ikes: BTreeSet<IkeHandle>,
    /// Inbound SPI of each installed pair.
    children: BTreeMap<ChildHandle, u32>,
}

struct Network {
    now: Instant,
    a: Node,
    b: Node,
    in_flight: VecDeque<(Side, Transmit)>,
    /// SPIs of the last message, so that inventions find their way.
    spis: (u64, u64),
    /// Each life of an endpoint has random numbers of its own.
    crashes: u64,
}

fuzz_target!(|steps: Vec<Step<'_>>| {
    within(MEMORY, || {
        let mut network = Network::new();
        for step in steps.iter().take(STEPS) {
            network.take(step);
        }
        tamper::next(None);
        network.rest();
        for side in [Side::A, Side::B] {
            network.act(side, |endpoint, now| endpoint.close_all(now));
        }
        network.rest();
        for side in [Side::A, Side::B] {
            let node = network.node(side);
            assert_empty(&node.endpoint);
            assert!(node.ikes.is_empty() && node.children.is_empty(), "told to keep what is gone");
        }
    });
});

impl Network {
    fn new() -> Self {
        let now = Instant::now();
        let node = |side, seed| Node {
            endpoint: endpoint(side, seed, now),
            ikes: BTreeSet::new(),
            children: BTreeMap::new(),
        };
        Self {
            now,
            a: node(Side::A, 1),
            b: node(Side::B, 2),
            in_flight: VecDeque::new(),
            spis: (0, 0),
            crashes: 0,
        }
    }

    fn node(&mut self, side: Side) -> &mut Node {
        match side {
            Side::A => &mut self.a,
            Side::B => &mut self.b,
        }
    }

    /// One mutation of one endpoint, and what follows from it.
    fn act<T>(&mut self, side: Side, change: impl FnOnce(&mut Endpoint, Instant) -> T) {
        let now = self.now;
        change(&mut self.node(side).endpoint, now);
        self.node(side).take_events();
        while let Some(transmit) = self.node(side).endpoint.poll_transmit() {
            if let Ok((header, _)) = Header::parse(&transmit.bytes) {
                self.spis = (header.spi_i.0, header.spi_r.0);
            }
            if self.in_flight.len() == IN_FLIGHT {
                self.in_flight.pop_front();
            }
            self.in_flight.push_back((side.other(), transmit));
        }
    }

    fn deliver(&mut self, to: Side, transmit: &Transmit) {
        let path = Path { local: transmit.path.remote, remote: transmit.path.local };
        self.act(to, |endpoint, now| endpoint.handle_datagram(now, path, &transmit.bytes));
    }

    fn under_way(&mut self, which: u8) -> Option<&mut Transmit> {
        let count = self.in_flight.len().max(1);
        self.in_flight.get_mut(usize::from(which) % count).map(|(_, transmit)| transmit)
    }

    fn remove(&mut self, which: u8) -> Option<(Side, Transmit)> {
        let count = self.in_flight.len().max(1);
        self.in_flight.remove(usize::from(which) % count)
    }

    fn take(&mut self, step: &Step<'_>) {
        match *step {
            Step::Initiate(side) => {
                let Path { local, remote } = side.path();
                self.act(side, |endpoint, now| {
                    endpoint.initiate(now, CONNECTION, local, remote).expect("configured");
                });
            }
            Step::Deliver(count) => {
                for _ in 0..=count % 8 {
                    let Some((to, transmit)) = self.in_flight.pop_front() else { break };
                    self.deliver(to, &transmit);
                }
            }
            Step::DeliverOne(which) => {
                if let Some((to, transmit)) = self.remove(which) {
                    self.deliver(to, &transmit);
                }
            }
            Step::Drop(which) => drop(self.remove(which)),
            Step::Repeat(which) => {
                if let Some((to, transmit)) = self.remove(which) {
                    self.deliver(to, &transmit);
                    self.deliver(to, &transmit);
                }
            }
            Step::Damage { which, at, change } => {
                if let Some(transmit) = self.under_way(which) {
                    let length = transmit.bytes.len().max(1);
                    if let Some(byte) = transmit.bytes.get_mut(usize::from(at) % length) {
                        *byte ^= change;
                    }
                }
            }
            Step::Cut { which, length } => {
                if let Some(transmit) = self.under_way(which) {
                    transmit.bytes.truncate(length.into());
                }
            }
            Step::Move { which, port } => {
                if let Some(transmit) = self.under_way(which) {
                    transmit.path.local = SocketAddr::from(([192, 0, 2, 7], port));
                }
            }
            Step::Invent { to, exchange, flags, message_id, first, body } => {
                let header = Header {
                    initiator: flags & 1 != 0,
                    response: flags & 2 != 0,
                    ..Header::request(
                        Spi(self.spis.0.max(1)),
                        Spi(if flags & 4 != 0 { 0 } else { self.spis.1 }),
                        ExchangeType::from(34 + exchange % 5),
                        true,
                        message_id.into(),
                    )
                };
                let mut bytes = Vec::new();
                if header.write(PayloadType::from(first), 28 + body.len(), &mut bytes).is_ok() {
                    bytes.extend_from_slice(body);
                    self.act(to, |endpoint, now| endpoint.handle_datagram(now, to.path(), &bytes));
                }
            }
            Step::Raw { to, bytes } => {
                self.act(to, |endpoint, now| endpoint.handle_datagram(now, to.path(), bytes));
            }
            Step::Tamper { first, at, removed, inserted } => {
                let inserted = inserted.to_vec();
                tamper::next(Some(Tamper { first, at: at.into(), removed: removed.into(), inserted }));
            }
            Step::Wait(milliseconds) => {
                self.now += Duration::from_millis(milliseconds.into());
                for side in [Side::A, Side::B] {
                    self.act(side, Endpoint::handle_timeout);
                }
            }
            Step::RekeyIke(side) => {
                if let Some(ike) = self.node(side).ikes.last().copied() {
                    self.act(side, |endpoint, now| endpoint.rekey_ike(now, ike));
                }
            }
            Step::RekeyChild(side, which) => {
                self.with_child(side, which, |endpoint, now, child| drop(endpoint.rekey_child(now, child)));
            }
            Step::FailChild(side, which) => {
                self.with_child(side, which, |endpoint, now, child| drop(endpoint.child_failed(now, child)));
            }
            Step::FirstInbound(side, which) => self.with_child(side, which, |endpoint, now, child| {
                drop(endpoint.child_first_inbound(now, child));
            }),
            Step::Received(side, which) => self.with_child(side, which, |endpoint, now, child| {
                drop(endpoint.child_received(now, child));
            }),
            Step::Reauthenticate(side) => {
                if let Some(ike) = self.node(side).ikes.first().copied() {
                    self.act(side, |endpoint, now| endpoint.reauthenticate(now, ike));
                }
            }
            Step::Crash(side) => {
                self.crashes += 1;
                let (seed, now) = (100 + self.crashes, self.now);
                *self.node(side) = Node {
                    endpoint: endpoint(side, seed, now),
                    ikes: BTreeSet::new(),
                    children: BTreeMap::new(),
                };
            }
            Step::Close(side) => {
                if let Some(ike) = self.node(side).ikes.first().copied() {
                    self.act(side, |endpoint, now| endpoint.close(now, ike));
                }
            }
        }
    }

    fn with_child(
        &mut self,
        side: Side,
        which: u8,
        change: impl FnOnce(&mut Endpoint, Instant, ChildHandle),
    ) {
        let count = self.node(side).children.len().max(1);
        if let Some(child) = self.node(side).children.keys().copied().nth(usize::from(which) % count) {
            self.act(side, |endpoint, now| change(endpoint, now, child));
        }
    }

    /// Lets time pass with a network that works, until all waiting has come to its end.
    fn rest(&mut self) {
        let until = self.now + REST;
        // A datagram each for every timer of a few SAs: two endpoints that keep each other busy make thousands.
        for _ in 0..20_000 {
            if let Some((to, transmit)) = self.in_flight.pop_front() {
                self.deliver(to, &transmit);
                continue;
            }
            let due = [&self.a, &self.b].into_iter().filter_map(|node| node.endpoint.poll_timeout()).min();
            match due.filter(|at| *at <= until) {
                Some(at) => {
                    self.now = self.now.max(at);
                    for side in [Side::A, Side::B] {
                        self.act(side, Endpoint::handle_timeout);
                    }
                }
                None => {
                    self.now = until;
                    return;
                }
            }
        }
        panic!("does not come to rest");
    }
}

impl Node {
    /// Does what a daemon does, as far as it can go wrong.
    fn take_events(&mut self) {
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::IkeEstablished(ike) => assert!(self.ikes.insert(ike.ike), "established once"),
                Event::IkeRekeyed { ike, .. } => assert!(self.ikes.contains(&ike)),
                Event::IkeClosed { ike, .. } => drop(self.ikes.remove(&ike)),
                Event::ChildInstall(child) => {
                    assert!(self.children.values().all(|spi| *spi != child.spi_in), "SPIs are unique");
                    assert!(self.children.insert(child.child, child.spi_in).is_none(), "installed once");
                }
                Event::ChildActivateOutbound { child } => assert!(self.children.contains_key(&child)),
                Event::ChildRemove { child, .. } => {
                    assert!(self.children.remove(&child).is_some(), "removed once, after it was installed");
                }
                Event::PathChanged { .. } | Event::CrlWanted { .. } | Event::VirtualAddresses { .. } => {}
                Event::Failure(failure) => assert!(!failure.detail.is_empty()),
            }
        }
    }
}
