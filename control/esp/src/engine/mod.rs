//! The user-space engine: ESP over AF_XDP behind [`SaTable`].
//!
//! ```text
//!             kernel and XDP filter                                    network
//!                      │ sekisho0 ── veth ── sekisho1                  │ WAN devices
//!  plaintext, dst MAC = engine_mac(VPN port)  │                        │  Ethernet, IP, (UDP,) ESP
//!                                             ▼                        ▼
//!                                    ┌─ AF_XDP socket ─┐      ┌─ AF_XDP socket ─┐
//!                                    └────────┬────────┘      └────────┬────────┘
//!                                   encrypt ──┼──────────► transmit ───┤
//!                                  transmit ◄─┼───────────── decrypt ──┘
//!                                             └─ a worker, its memory, all SAs
//! ```
//!
//! Plaintext need not take the veth pair on its way in: a socket on the device by which it came gets it where the filter has
//! judged it, one hop sooner. What was decrypted does, for it is judged behind the pair.
//!
//! [`Engine`] is the control plane's handle: it never touches a packet. There may be several workers, each with queues of
//! its own of every device; a worker's thread owns everything a packet needs, or shares it without a lock. Commands go to
//! all of them through channels and eventfds and are answered when in force in all.
//!
//! Cost aim on a veth pair in copy mode: 0.3 µs of our own for a packet beside the cipher and the kernel.

mod command;
mod config;
mod counters;
mod crew;
mod destinations;
mod lifetime;
pub mod lookup;
mod pair;
mod pipeline;
pub mod relay;
mod ring;
mod start;
mod table;
mod told;
mod umem;
mod worker;
mod xsk;

pub use config::{
    EngineConfig, EngineError, L2Path, Link, MacAddress, PACKET_MAX, Reassembled, WORKERS_MAX, XskMode,
};
pub use counters::{DropReason, EngineStatistics, SocketStatistics};

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::sa::{Outer, PairCounters, SaError, SaEvent, SaPair, SaTable};
use crate::transform::OuterHeader;
use command::{Change, Command, Opened};
use counters::{PairCells, SocketCells};
use crew::{Crew, Hand, Orders};
use pair::{Pair, canonical};
use pipeline::Pipeline;
use start::Place;
use table::{Device, Table, Turn};
use told::{Acquires, Events, Told};
use worker::{Side, Worker};

/// Events that may wait for the control plane.
const EVENTS_MAX: usize = 1024;

/// A running engine. Dropping it stops the threads, closes the sockets and wipes all keys.
#[derive(Debug)]
pub struct Engine {
    sockets: Mutex<Vec<Handle>>,
    pairs: Mutex<HashMap<u32, Known>>,
    events: Mutex<Receiver<SaEvent>>,
    crew: Crew,
}

/// What the control plane keeps of a pair.
#[derive(Debug)]
struct Known {
    /// Each worker's.
    cells: Vec<Arc<PairCells>>,
    outer: Outer,
    told: Arc<Told>,
}

/// What the control plane keeps of a socket.
#[derive(Debug)]
struct Handle {
    ifindex: u32,
    name: String,
    side: Side,
    queue: u32,
    zero_copy: bool,
    fd: Arc<OwnedFd>,
    cells: Arc<SocketCells>,
}

impl Engine {
    /// Opens the sockets and starts the workers' threads. Devices must exist; frames arrive once the caller has
    /// put [`Engine::sockets`] into the XSKMAP and an XDP program on each device redirects into it.
    pub fn start(config: EngineConfig) -> Result<Engine, EngineError> {
        let (places, handles) = start::open(&config)?;
        let devices: Vec<Device> = config
            .outer
            .iter()
            .map(|link| Device {
                ifindex: link.ifindex,
                mtu: usize::try_from(link.mtu).unwrap_or(usize::MAX),
            })
            .collect();
        let now = Instant::now();
        let (sender, events) = mpsc::sync_channel(EVENTS_MAX);
        let sender = Events::new(sender);
        let acquires = Arc::new(Acquires::new(now, config.acquire_interval));
        // It fits: there are at most `WORKERS_MAX`.
        let workers = config.workers as u16;
        let mut hands = Vec::new();
        for (worker, place) in (0..workers).zip(places) {
            let table = Table::new(devices.clone(), Turn { worker, workers });
            let pipeline = Pipeline::new(table, sender.clone(), acquires.clone(), config.inner_peer_mac, now);
            hands.push(employ(place, pipeline, &config, worker)?);
        }
        Ok(Self {
            sockets: Mutex::new(handles),
            pairs: Mutex::default(),
            events: Mutex::new(events),
            crew: Crew::new(hands),
        })
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.crew.size()
    }

    /// Every socket as (ifindex, receive queue, descriptor): what belongs into the XSKMAP `SOCKETS`.
    pub fn sockets(&self) -> Vec<(u32, u32, Arc<OwnedFd>)> {
        let handles = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        handles.iter().map(|socket| (socket.ifindex, socket.queue, socket.fd.clone())).collect()
    }

    /// The devices it cannot do without, by ifindex: its end of the veth pair, and those that carry ESP. Each with the number of
    /// its receive queues that have a socket.
    pub fn carriers(&self) -> BTreeMap<u32, u32> {
        let handles = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut carriers = BTreeMap::new();
        for socket in handles.iter().filter(|socket| socket.side != Side::Direct) {
            *carriers.entry(socket.ifindex).or_default() += 1;
        }
        carriers
    }

    /// Its end of the veth pair, by ifindex.
    pub fn inner(&self) -> Option<u32> {
        let handles = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        handles.iter().find(|socket| socket.side == Side::Inner).map(|socket| socket.ifindex)
    }

    /// A device that was gone is back, as another interface: the engine receives from it and sends through it in place of
    /// the former one, with all SAs as they are. The caller then puts [`Engine::sockets`] into the XSKMAP and tells the
    /// paths anew.
    pub fn replace_device(&self, former: u32, link: Link) -> Result<(), EngineError> {
        let refuse = |what: String| Err(EngineError::Config(what));
        let orders = self.crew.orders();
        let mut handles = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        match handles.iter().filter(|handle| handle.ifindex == former).count() {
            0 => return refuse(format!("interface {former} is none of its devices")),
            before if before != link.queues as usize => {
                let now = link.queues;
                return refuse(format!("{} had {before} receive queues and has {now} now", link.name));
            }
            _ => {}
        }
        let opened = self.open_and_adopt(&orders, former, &link).inspect_err(|_| {
            // Who is late opens them yet, and closes them then.
            let _ = orders.all(|_| Command::Discard);
        })?;
        for handle in handles.iter_mut().filter(|handle| handle.ifindex == former) {
            let Some(socket) = opened.iter().find(|socket| socket.queue == handle.queue) else { continue };
            handle.ifindex = link.ifindex;
            handle.name.clone_from(&link.name);
            handle.fd = socket.fd.clone();
            handle.zero_copy = socket.zero_copy;
        }
        Ok(())
    }

    /// Has every worker take sockets on this device in place of those on the former one; returns them.
    fn open_and_adopt(
        &self,
        orders: &Orders<'_>,
        former: u32,
        link: &Link,
    ) -> Result<Vec<Opened>, EngineError> {
        let stopped = |_| EngineError::Config("it has stopped".into());
        let (sender, answers) = mpsc::sync_channel(self.crew.size());
        orders
            .all(|_| Command::Open { former, link: link.clone(), opened: sender.clone() })
            .map_err(stopped)?;
        // Each has sent its sockets before it answered.
        let mut opened = Vec::new();
        for sockets in answers.try_iter() {
            opened.extend(sockets?);
        }
        orders.all(|_| Command::Adopt { former, link: link.clone() }).map_err(stopped)?;
        Ok(opened)
    }

    /// From now on ESP for this peer address leaves that way. It may be told before or after the SAs that use it.
    pub fn set_path(&self, remote: IpAddr, path: L2Path) -> Result<(), SaError> {
        self.change(|_| Change::SetPath { remote, path })
    }

    /// From now on there is no way to this peer: its packets are counted as unsent.
    pub fn clear_path(&self, remote: IpAddr) -> Result<(), SaError> {
        self.change(|_| Change::ClearPath { remote })
    }

    /// From now on an outer device carries packets of at most `mtu` bytes. Of another device than the engine's: nothing
    /// happens.
    pub fn set_mtu(&self, ifindex: u32, mtu: u32) -> Result<(), SaError> {
        self.change(|_| Change::SetMtu { ifindex, mtu })
    }

    /// Decrypts ESP that came in fragments, for the sockets see frames only. What there is no room for is counted as
    /// `ring-full`.
    pub fn take_reassembled(&self, packet: Reassembled) {
        self.crew.take_reassembled(packet);
    }

    /// Whether all workers' threads live. They end with the engine, or by a fault of ours: then not all is carried.
    pub fn is_running(&self) -> bool {
        self.crew.is_running()
    }

    /// The state in numbers.
    pub fn statistics(&self) -> EngineStatistics {
        let sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        EngineStatistics {
            sockets: sockets.iter().map(Handle::statistics).collect(),
            drops: self.crew.drops(),
        }
    }

    /// Has all workers change something and waits until it is in force.
    fn change(&self, mut change: impl FnMut(usize) -> Change) -> Result<(), SaError> {
        self.crew.orders().all(|worker| Command::Change(change(worker)))
    }

    fn pairs(&self) -> MutexGuard<'_, HashMap<u32, Known>> {
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SaTable for Engine {
    fn name(&self) -> &'static str {
        "engine"
    }

    fn install(&self, pair: SaPair, activate: bool) -> Result<(), SaError> {
        let first = Pair::new(pair)?;
        let (spi_in, outer, told) = (first.spi_in, first.outer, first.told.clone());
        let mut shares = vec![first];
        while let Some(first) = shares.first().filter(|_| shares.len() < self.workers()) {
            shares.push(first.share());
        }
        let cells = shares.iter().map(|pair| pair.cells.clone()).collect();
        let mut shares = shares.into_iter();
        let orders = self.crew.orders();
        orders.all_or_none(
            |_| shares.next().map_or(Command::Discard, |pair| Command::Change(Change::Install { pair })),
            || Change::Remove { spi_in, linger: Duration::ZERO },
        )?;
        self.pairs().insert(spi_in, Known { cells, outer, told });
        if activate {
            orders.all(|_| Command::Change(Change::Activate { spi_in }))?;
        }
        Ok(())
    }

    fn activate(&self, spi_in: u32) -> Result<(), SaError> {
        self.change(|_| Change::Activate { spi_in })
    }

    fn repath(&self, spi_in: u32, outer: Outer) -> Result<(), SaError> {
        let header = OuterHeader::new(&outer).map_err(|error| table::refused(error.to_string()))?;
        // Before the first worker acts by it: one that has not heard of it yet must not tell it as news.
        let expect = |outer: Outer| {
            let mut pairs = self.pairs();
            let known = pairs.get_mut(&spi_in).ok_or(SaError::Unknown(spi_in))?;
            known.told.remapped.expect(canonical(outer).remote);
            Ok(std::mem::replace(&mut known.outer, outer))
        };
        let former = expect(outer)?;
        self.change(|_| Change::Repath { spi_in, outer, header: header.clone() }).inspect_err(|error| {
            // Who has not answered yet may act by it later: then the peer is where it was said to be.
            if !matches!(error, SaError::Stopped) {
                let _: Result<Outer, SaError> = expect(former);
            }
        })
    }

    fn remove(&self, spi_in: u32, linger: Duration) -> Result<(), SaError> {
        let removed = self.change(|_| Change::Remove { spi_in, linger });
        // Whoever has not answered has been asked to all the same.
        self.pairs().remove(&spi_in);
        removed
    }

    fn counters(&self, spi_in: u32) -> Result<PairCounters, SaError> {
        let pairs = self.pairs();
        let known = pairs.get(&spi_in).ok_or(SaError::Unknown(spi_in))?;
        Ok(known.cells.iter().map(|cells| cells.snapshot()).sum())
    }

    fn next_event(&self, timeout: Duration) -> Option<SaEvent> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        match events.recv_timeout(timeout) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            // Without a worker this would return at once, and the caller's loop would spin.
            Err(RecvTimeoutError::Disconnected) => {
                thread::sleep(timeout);
                None
            }
        }
    }
}

impl Handle {
    fn statistics(&self) -> SocketStatistics {
        let ours = SocketStatistics {
            ifindex: self.ifindex,
            name: self.name.clone(),
            queue: self.queue,
            zero_copy: self.zero_copy,
            rx_packets: self.cells.rx_packets.value(),
            rx_bytes: self.cells.rx_bytes.value(),
            tx_packets: self.cells.tx_packets.value(),
            tx_bytes: self.cells.tx_bytes.value(),
            tx_ring_full: self.cells.tx_ring_full.value(),
            ..SocketStatistics::default()
        };
        match xsk::kernel_statistics(self.fd.as_fd()) {
            Ok(kernel) => SocketStatistics {
                rx_dropped: kernel.rx_dropped,
                rx_ring_full: kernel.rx_ring_full,
                rx_fill_ring_empty_descs: kernel.rx_fill_ring_empty_descs,
                tx_ring_empty_descs: kernel.tx_ring_empty_descs,
                rx_invalid_descs: kernel.rx_invalid_descs,
                tx_invalid_descs: kernel.tx_invalid_descs,
                ..ours
            },
            Err(_) => ours,
        }
    }
}

/// Starts a worker's thread.
fn employ(place: Place, pipeline: Pipeline, config: &EngineConfig, worker: u16) -> Result<Hand, EngineError> {
    let io_error = |context: &str| {
        let context = context.to_owned();
        move |source| EngineError::Io { context, source }
    };
    let Place { stations, umem, inner, outer } = place;
    let (mut hand, desk) = Hand::new().map_err(io_error("eventfd"))?;
    // Half of the frames wait to be received into, the other half is under way.
    let share = config.frames / config.workers / 2 / stations.len().max(1) as u32;
    let worker_state = Worker {
        stations,
        umem,
        pipeline,
        inner,
        outer,
        fill_target: share.clamp(1, config.ring_size),
        ring_size: config.ring_size,
        mode: config.mode,
        aside: Vec::new(),
        is_one_of_several: config.workers > 1,
        desk,
    };
    let thread = thread::Builder::new()
        .name(format!("sekisho-esp-{worker}"))
        .spawn(move || worker_state.run())
        .map_err(io_error("starting a thread of the engine"))?;
    hand.works(thread);
    Ok(hand)
}
