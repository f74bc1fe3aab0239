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
//!                                             └─ one worker, one memory, all SAs
//! ```
//!
//! Plaintext need not take the veth pair on its way in: a socket on the device by which it came gets it where the filter has
//! judged it, one hop sooner. What was decrypted does, for it is judged behind the pair.
//!
//! [`Engine`] is the control plane's handle: it never touches a packet. The worker's thread owns everything a packet
//! needs, so no packet waits for a lock. Commands go to it through a channel and an eventfd and are answered when in
//! force.
//!
//! Cost aim on a veth pair in copy mode: 0.3 µs of our own for a packet beside the cipher and the kernel.

mod config;
mod counters;
mod pipeline;
mod recent;
pub mod relay;
mod ring;
mod table;
mod umem;
mod worker;
mod xsk;

pub use config::{EngineConfig, EngineError, L2Path, Link, MacAddress, Reassembled, XskMode};
pub use counters::{DropReason, EngineStatistics, SocketStatistics};

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::sa::{Outer, PairCounters, SaError, SaEvent, SaPair, SaTable};
use crate::transform::OuterHeader;
use counters::{DropCells, PairCells, SocketCells};
use pipeline::{Events, Pipeline};
use table::{Device, Pair, Table};
use umem::Umem;
use worker::{Command, Request, Side, Station, Worker};
use xsk::Socket;

/// Events that may wait for the control plane.
const EVENTS_MAX: usize = 1024;
/// Packets that came in fragments and wait for the worker: few do, and what is too many is lost as on any line.
const REASSEMBLED_MAX: usize = 256;
/// How long the worker may take to answer: it answers within a batch, unless its thread is starved or dead.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// A running engine. Dropping it stops the thread, closes the sockets and wipes all keys.
#[derive(Debug)]
pub struct Engine {
    sockets: Mutex<Vec<Handle>>,
    drops: Arc<DropCells>,
    pairs: Mutex<HashMap<u32, Arc<PairCells>>>,
    events: Mutex<Receiver<SaEvent>>,
    requests: Sender<Request>,
    reassembled: SyncSender<Reassembled>,
    /// Those that were too many. The other counters are the worker's own.
    unheard: AtomicU64,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
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
    /// Opens the sockets and starts the worker thread. Devices must exist; frames arrive once the caller has
    /// put [`Engine::sockets`] into the XSKMAP and an XDP program on each device redirects into it.
    pub fn start(config: EngineConfig) -> Result<Engine, EngineError> {
        check(&config)?;
        let umem = Umem::new(config.frames, config.frame_size)?;
        let mut stations = Vec::new();
        let mut handles = Vec::new();
        let inner = open_device(&config, &config.inner, Side::Inner, &umem, &mut stations, &mut handles)?;
        for link in &config.direct {
            let before = stations.len();
            if let Err(error) = open_device(&config, link, Side::Direct, &umem, &mut stations, &mut handles) {
                // Its plaintext comes by the veth pair.
                tracing::warn!(%error, device = link.name, "plaintext does not come straight from a device");
                stations.truncate(before);
                handles.truncate(before);
            }
        }
        let mut outer = Vec::new();
        for link in &config.outer {
            outer.push(open_device(&config, link, Side::Outer, &umem, &mut stations, &mut handles)?);
        }

        let devices = config
            .outer
            .iter()
            .map(|link| Device {
                ifindex: link.ifindex,
                mtu: usize::try_from(link.mtu).unwrap_or(usize::MAX),
            })
            .collect();
        let (event_sender, events) = mpsc::sync_channel(EVENTS_MAX);
        let (requests, request_receiver) = mpsc::channel();
        let (reassembled, reassembled_receiver) = mpsc::sync_channel(REASSEMBLED_MAX);
        let wake =
            Arc::new(eventfd().map_err(|source| EngineError::Io { context: "eventfd".into(), source })?);
        let drops = Arc::<DropCells>::default();
        // Half of the frames wait to be received into, the other half is under way.
        let fill_target = (config.frames / 2 / stations.len().max(1) as u32).clamp(1, config.ring_size);
        let worker = Worker {
            stations,
            umem,
            pipeline: Pipeline::new(
                Table::new(devices),
                Events::new(event_sender),
                config.inner_peer_mac,
                config.acquire_interval,
                Instant::now(),
            ),
            inner,
            outer,
            fill_target,
            ring_size: config.ring_size,
            mode: config.mode,
            requests: request_receiver,
            reassembled: reassembled_receiver,
            wake: wake.clone(),
            drops: drops.clone(),
        };
        let thread = thread::Builder::new()
            .name("sekisho-esp".into())
            .spawn(move || worker.run())
            .map_err(|source| EngineError::Io { context: "starting the engine's thread".into(), source })?;
        Ok(Self {
            sockets: Mutex::new(handles),
            drops,
            pairs: Mutex::default(),
            events: Mutex::new(events),
            requests,
            reassembled,
            unheard: AtomicU64::new(0),
            wake,
            thread: Some(thread),
        })
    }

    /// Every socket as (ifindex, receive queue, descriptor): what belongs into the XSKMAP `SOCKETS`.
    pub fn sockets(&self) -> Vec<(u32, u32, Arc<OwnedFd>)> {
        let handles = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        handles.iter().map(|socket| (socket.ifindex, socket.queue, socket.fd.clone())).collect()
    }

    /// The devices it cannot do without, by ifindex: its end of the veth pair, and those that carry ESP.
    pub fn carriers(&self) -> BTreeSet<u32> {
        let handles = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        handles.iter().filter(|socket| socket.side != Side::Direct).map(|socket| socket.ifindex).collect()
    }

    /// A device that was gone is back, as another interface: the engine receives from it and sends through it in place of
    /// the former one, with all SAs as they are. The caller then puts [`Engine::sockets`] into the XSKMAP and tells the
    /// paths anew.
    pub fn replace_device(&self, former: u32, link: Link) -> Result<(), EngineError> {
        let stopped = |_| EngineError::Config("it has stopped".into());
        let (ifindex, name) = (link.ifindex, link.name.clone());
        let (opened, answer) = mpsc::sync_channel(1);
        self.ask(Command::Replace { former, link, opened }).map_err(|_| stopped(()))?;
        let opened = answer.recv_timeout(ANSWER_MAX).map_err(|_| stopped(()))??;
        let mut handles = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let replaced = handles.iter_mut().filter(|handle| handle.ifindex == former);
        for (handle, socket) in replaced.zip(opened) {
            handle.ifindex = ifindex;
            handle.name.clone_from(&name);
            handle.fd = socket.fd;
            handle.zero_copy = socket.zero_copy;
        }
        Ok(())
    }

    /// From now on ESP for this peer address leaves that way. It may be told before or after the SAs that use it.
    pub fn set_path(&self, remote: IpAddr, path: L2Path) -> Result<(), SaError> {
        self.ask(Command::SetPath { remote, path })
    }

    /// From now on there is no way to this peer: its packets are counted as unsent.
    pub fn clear_path(&self, remote: IpAddr) -> Result<(), SaError> {
        self.ask(Command::ClearPath { remote })
    }

    /// From now on an outer device carries packets of at most `mtu` bytes. Of another device than the engine's: nothing
    /// happens.
    pub fn set_mtu(&self, ifindex: u32, mtu: u32) -> Result<(), SaError> {
        self.ask(Command::SetMtu { ifindex, mtu })
    }

    /// Decrypts ESP that came in fragments, for the sockets see frames only. What the worker has no room for is counted as
    /// `ring-full`.
    pub fn take_reassembled(&self, packet: Reassembled) {
        match self.reassembled.try_send(packet) {
            // A worker that cannot be woken looks by itself within a second.
            Ok(()) => drop(self.wake_worker()),
            Err(_) => drop(self.unheard.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// Whether the worker's thread lives. It ends with the engine, or by a fault of ours: then nothing is carried.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// The state in numbers.
    pub fn statistics(&self) -> EngineStatistics {
        let mut drops = self.drops.snapshot();
        for (_, count) in drops.iter_mut().filter(|(reason, _)| *reason == DropReason::RingFull) {
            *count += self.unheard.load(Ordering::Relaxed);
        }
        EngineStatistics {
            sockets: self
                .sockets
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .iter()
                .map(Handle::statistics)
                .collect(),
            drops,
        }
    }

    /// Hands a command to the worker and waits until it is in force.
    fn ask(&self, command: Command) -> Result<(), SaError> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.requests.send(Request { command, answer }).map_err(|_| SaError::Stopped)?;
        self.wake_worker()?;
        answered.recv_timeout(ANSWER_MAX).map_err(|_| SaError::Stopped)?
    }

    fn wake_worker(&self) -> Result<(), SaError> {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the buffer is eight bytes long and outlives the call.
        let written = unsafe { libc::write(self.wake.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        let error = io::Error::last_os_error();
        // A counter that is full wakes the worker just as well.
        if written < 0 && error.kind() != io::ErrorKind::WouldBlock {
            return Err(SaError::Io { context: "waking the engine's thread".into(), source: error });
        }
        Ok(())
    }
}

impl SaTable for Engine {
    fn name(&self) -> &'static str {
        "engine"
    }

    fn install(&self, pair: SaPair, activate: bool) -> Result<(), SaError> {
        let pair = Pair::new(pair)?;
        let (spi_in, cells) = (pair.spi_in, pair.cells.clone());
        self.ask(Command::Install { pair, activate })?;
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner).insert(spi_in, cells);
        Ok(())
    }

    fn activate(&self, spi_in: u32) -> Result<(), SaError> {
        self.ask(Command::Activate { spi_in })
    }

    fn repath(&self, spi_in: u32, outer: Outer) -> Result<(), SaError> {
        let header = OuterHeader::new(&outer).map_err(|error| table::refused(error.to_string()))?;
        self.ask(Command::Repath { spi_in, outer, header })
    }

    fn remove(&self, spi_in: u32, linger: Duration) -> Result<(), SaError> {
        self.ask(Command::Remove { spi_in, linger })?;
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner).remove(&spi_in);
        Ok(())
    }

    fn counters(&self, spi_in: u32) -> Result<PairCounters, SaError> {
        let pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        pairs.get(&spi_in).map(|cells| cells.snapshot()).ok_or(SaError::Unknown(spi_in))
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

impl Drop for Engine {
    fn drop(&mut self) {
        let (answer, _) = mpsc::sync_channel(1);
        let stopped = self.requests.send(Request { command: Command::Stop, answer }).is_err();
        if !stopped && self.wake_worker().is_err() {
            tracing::error!("the engine's thread cannot be woken to stop");
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the engine's thread had panicked");
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

/// Opens one socket for each queue of a device; returns which stations they are.
fn open_device(
    config: &EngineConfig,
    link: &Link,
    side: Side,
    umem: &Umem,
    stations: &mut Vec<Station>,
    handles: &mut Vec<Handle>,
) -> Result<Range<usize>, EngineError> {
    let first = stations.len();
    for queue in 0..link.queues {
        let sibling = stations.get(first).map(|station| &station.socket);
        let socket = Socket::open(umem, link, queue, config.ring_size, side.mode(config.mode), sibling)?;
        let cells = Arc::<SocketCells>::default();
        handles.push(Handle {
            ifindex: link.ifindex,
            name: link.name.clone(),
            side,
            queue,
            zero_copy: socket.zero_copy(),
            fd: socket.fd().clone(),
            cells: cells.clone(),
        });
        let queue = stations.len() - first;
        let ifindex = link.ifindex;
        stations.push(Station { socket, ifindex, side, queue, cells, failing: false, gone: false });
    }
    Ok(first..stations.len())
}

fn check(config: &EngineConfig) -> Result<(), EngineError> {
    let refuse = |what: &str| Err(EngineError::Config(what.into()));
    if config.outer.is_empty() {
        return refuse("it needs at least one outer device");
    }
    if config.outer.iter().chain(&config.direct).chain([&config.inner]).any(|link| link.queues == 0) {
        return refuse("every device needs at least one receive queue");
    }
    if !matches!(config.frame_size, 2048 | 4096) {
        return refuse("frame_size must be 2048 or 4096 bytes");
    }
    if !config.ring_size.is_power_of_two() || !(64..=32_768).contains(&config.ring_size) {
        return refuse("ring_size must be a power of two between 64 and 32768");
    }
    if !(256..=1 << 20).contains(&config.frames) {
        return refuse("frames must be between 256 and 1048576");
    }
    Ok(())
}

fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: plain system call.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor the kernel has just given to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
