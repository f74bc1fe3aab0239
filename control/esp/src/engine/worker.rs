//! A worker: one thread that owns a packet memory, rings, and a table of every SA.
//!
//! A round takes what the control plane asked for, then a batch from each socket, turns each frame, and has each
//! device send what was queued. A round without work ends in `poll(2)`. Nothing in a round locks or allocates, except
//! a command.
//!
//! There may be several, each with some of every device's queues. A frame stays with the worker of the queue that it came
//! by, and leaves by that worker's own sockets: so what a NIC keeps on one queue keeps its order. What they share is in
//! `pair.rs` and `told.rs`.

use std::io;
use std::mem;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use super::command::{Command, Opened};
use super::config::{EngineError, Link, Reassembled, XskMode};
use super::counters::{DropCells, DropReason, SocketCells};
use super::crew::Desk;
use super::pipeline::Pipeline;
use super::umem::{Frame, Umem};
use super::xsk::{Received, Socket};
use crate::transform::OuterPacket;

/// Frames taken from a socket before the next one has its turn.
const BATCH: usize = 64;
/// The same of plaintext where several workers seal for one SA. Between the sealing of a batch and its sending the others go on
/// counting: as many packets reach the peer late, and the least window that a peer must have is 32 (RFC 4303 section
/// 3.4.3).
const SHARED_BATCH: usize = 16;
/// Frames that may wait for an outer device before the next such batch; with more, what is for that device is dropped while it
/// has no number yet. A full ring would let the numbers of the other workers run ahead by thousands. A driver in zero-copy mode
/// takes 64 at a time, one in copy mode leaves none behind unless the line is full.
const BACKLOG_MAX: u32 = 128;
/// Bytes before ESP that did not come in a frame: room for the Ethernet header.
const HEADROOM: usize = 64;
/// Longest sleep without traffic.
const IDLE: Duration = Duration::from_secs(1);
/// Of a worker's thread: about ten times the processor's time of whatever else wants it, as a backup beside the gateway. Not more, so
/// that IKE has its tenth when a flood takes all there is.
const NICENESS: libc::c_int = -10;
/// Sleep while a device has not taken all it was given.
const CONGESTED: Duration = Duration::from_millis(1);

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Plaintext, to and from the kernel and the XDP filter.
    Inner,
    /// Plaintext, straight from a device's filter.
    Direct,
    /// ESP.
    Outer,
}

impl Side {
    /// How its sockets are bound. A device in zero-copy mode has all its frames in our memory, and copies those that go
    /// elsewhere: most of a LAN's do.
    pub(crate) fn mode(self, configured: XskMode) -> XskMode {
        match self {
            Side::Direct => XskMode::Copy,
            Side::Inner | Side::Outer => configured,
        }
    }
}

/// A socket with what the worker keeps beside it.
#[derive(Debug)]
pub(crate) struct Station {
    pub(crate) socket: Socket,
    /// Its device.
    pub(crate) ifindex: u32,
    pub(crate) side: Side,
    /// Its receive queue.
    pub(crate) queue: u32,
    /// Its index among its device's sockets that are this worker's.
    pub(crate) turn: usize,
    pub(crate) cells: Arc<SocketCells>,
    /// A failure to send was logged and has not gone away.
    pub(crate) failing: bool,
    /// The device reported an error to `poll`: it is not waited for any more.
    pub(crate) gone: bool,
}

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Worker {
    /// Dropped before the memory the kernel was given through them.
    pub(crate) stations: Vec<Station>,
    /// Sockets that may take the place of others, by station. Their rings hold no frame yet. Dropped before that memory as well.
    pub(crate) aside: Vec<(usize, Socket)>,
    pub(crate) umem: Umem,
    pub(crate) pipeline: Pipeline,
    /// Stations of the inner device.
    pub(crate) inner: Range<usize>,
    /// Stations of each outer device, in the order of the configuration.
    pub(crate) outer: Vec<Range<usize>>,
    /// Frames kept in each fill ring.
    pub(crate) fill_target: u32,
    pub(crate) ring_size: u32,
    pub(crate) mode: XskMode,
    /// Whether other workers seal for the same SAs.
    pub(crate) is_one_of_several: bool,
    pub(crate) desk: Desk,
}

impl Worker {
    /// Works until told to stop, or until the engine is gone.
    pub(crate) fn run(mut self) {
        go_before_others();
        let mut batch = Vec::with_capacity(BATCH);
        let mut polled = Vec::with_capacity(self.stations.len() + 1);
        for station in &mut self.stations {
            station.socket.refill(&mut self.umem, self.fill_target);
        }
        loop {
            self.pipeline.now = Instant::now();
            if !self.obey() {
                return;
            }
            self.pipeline.table.expire(self.pipeline.now);
            let mut received = self.take_reassembled();
            for index in 0..self.stations.len() {
                received += self.serve(index, &mut batch);
            }
            let congested = self.flush();
            if received == 0 {
                self.sleep(&mut polled, congested);
            }
        }
    }

    /// Carries out what was asked; `false` to stop.
    fn obey(&mut self) -> bool {
        loop {
            let request = match self.desk.requests.try_recv() {
                Ok(request) => request,
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            };
            let result = match request.command {
                Command::Change(change) => change.carry_out(&mut self.pipeline.table, self.pipeline.now),
                Command::Open { former, link, opened } => {
                    let _ = opened.try_send(self.open(former, &link));
                    Ok(())
                }
                Command::Adopt { former, link } => {
                    self.adopt(former, &link);
                    Ok(())
                }
                Command::Discard => {
                    self.aside.clear();
                    Ok(())
                }
                Command::Stop => return false,
            };
            // The caller may have gone away; what it asked for holds all the same.
            let _ = request.answer.try_send(result);
        }
    }

    /// Opens sockets on a device that shall take the place of a former one that is gone, and keeps them aside.
    fn open(&mut self, former: u32, link: &Link) -> Result<Vec<Opened>, EngineError> {
        self.aside.clear();
        // Before the new sockets are bound: binding waits for a device that is just being taken down (both hold the
        // kernel's lock of devices), and when that is over, its sockets are off it.
        if device_exists(former) {
            return Err(EngineError::Config(format!(
                "the former interface of {} is still there under another name",
                link.name
            )));
        }
        let mut aside: Vec<(usize, Socket)> = Vec::new();
        let mut opened = Vec::new();
        let on_it = self.stations.iter().enumerate().filter(|(_, station)| station.ifindex == former);
        for (index, station) in on_it {
            let (queue, mode) = (station.queue, station.side.mode(self.mode));
            let sibling = aside.first().map(|(_, socket)| socket);
            let socket = Socket::open(&self.umem, link, queue, self.ring_size, mode, sibling)?;
            opened.push(Opened { queue, fd: socket.fd().clone(), zero_copy: socket.zero_copy() });
            aside.push((index, socket));
        }
        self.aside = aside;
        Ok(opened)
    }

    /// The sockets kept aside take the place of those on the former device.
    fn adopt(&mut self, former: u32, link: &Link) {
        for (index, socket) in mem::take(&mut self.aside) {
            let Some(station) = self.stations.get_mut(index) else { continue };
            station.ifindex = link.ifindex;
            let before = mem::replace(&mut station.socket, socket);
            (station.failing, station.gone) = (false, false);
            let closed = before.fd().as_raw_fd();
            drop(before);
            // SAFETY: its device is gone, as was seen before the others were opened; the kernel took the socket off the
            // device then, and waited for those who still used it. Nobody else maps its rings. Its number is not in use
            // again: the engine's handle holds the descriptor until this has been answered.
            unsafe { self.umem.recover(closed) };
        }
        if let Some(device) = self.pipeline.table.device(former) {
            self.pipeline.table.replace_device(device, link.ifindex, link.mtu);
        }
    }

    /// A batch of what came in fragments; returns how many packets there were.
    fn take_reassembled(&mut self) -> usize {
        let mut taken = 0;
        while taken < BATCH
            && let Ok(packet) = self.desk.reassembled.try_recv()
        {
            taken += 1;
            let Some(mut frame) = self.umem.take() else {
                self.desk.drops.count(DropReason::RingFull);
                continue;
            };
            match reassembled(&mut self.pipeline, self.umem.buffer(&mut frame), &packet) {
                Ok(place) => {
                    let inner = self.inner.clone();
                    send(&mut self.stations, &mut self.umem, &self.desk.drops, frame, &place, inner, 0);
                }
                Err(reason) => {
                    self.desk.drops.count(reason);
                    self.umem.give(frame);
                }
            }
        }
        taken
    }

    /// One batch of one socket; returns how many frames there were.
    fn serve(&mut self, index: usize, batch: &mut Vec<Received>) -> usize {
        let Some(station) = self.stations.get_mut(index) else { return 0 };
        let is_shared = self.is_one_of_several && station.side != Side::Outer;
        station.socket.reap(&mut self.umem);
        station.socket.receive(&mut self.umem, batch, if is_shared { SHARED_BATCH } else { BATCH });
        station.socket.refill(&mut self.umem, self.fill_target);
        station.socket.wake_receive();
        let (side, turn) = (station.side, station.turn);
        let received = batch.len();
        if is_shared && received != 0 {
            self.look_at_backlog(turn);
        }
        let Some(station) = self.stations.get_mut(index) else { return 0 };
        if received != 0 {
            station.cells.rx_packets.add(received as u64);
            station.cells.rx_bytes.add(batch.iter().map(|r| r.place.len() as u64).sum());
        }
        for Received { mut frame, place } in batch.drain(..) {
            let buffer = self.umem.buffer(&mut frame);
            let turned = match side {
                Side::Inner | Side::Direct => self.pipeline.encrypt(buffer, place).map(|departure| {
                    let stations = self.outer.get(departure.device).cloned().unwrap_or_default();
                    (departure.frame, stations)
                }),
                Side::Outer => self.pipeline.decrypt(buffer, place).map(|place| (place, self.inner.clone())),
            };
            match turned {
                Ok((place, stations)) => {
                    send(&mut self.stations, &mut self.umem, &self.desk.drops, frame, &place, stations, turn);
                }
                Err(reason) => {
                    self.desk.drops.count(reason);
                    self.umem.give(frame);
                }
            }
        }
        if is_shared && received != 0 {
            self.flush();
        }
        received
    }

    /// Before plaintext of such a turn: which outer devices get no more of it.
    fn look_at_backlog(&mut self, turn: usize) {
        for (is_backed_up, stations) in self.pipeline.backed_up.iter_mut().zip(&self.outer) {
            let station = of_turn(stations, turn).and_then(|index| self.stations.get_mut(index));
            *is_backed_up = station.is_some_and(|station| station.socket.backlog() > BACKLOG_MAX);
        }
    }

    /// Has every device send; returns whether one of them could not send all.
    fn flush(&mut self) -> bool {
        let mut congested = false;
        for station in &mut self.stations {
            match station.socket.flush(&mut self.umem) {
                Ok(pending) => {
                    congested |= pending && !station.gone;
                    station.failing = false;
                }
                Err(error) => {
                    // Said once: the device is down or gone, and each batch would say it again.
                    if !mem::replace(&mut station.failing, true) {
                        tracing::warn!(%error, queue = station.queue, "a device of the engine does not send");
                    }
                }
            }
        }
        congested
    }

    /// Waits for frames, a command, or the next thing to expire.
    fn sleep(&mut self, polled: &mut Vec<libc::pollfd>, congested: bool) {
        polled.clear();
        polled.push(libc::pollfd { fd: self.desk.wake.as_raw_fd(), events: libc::POLLIN, revents: 0 });
        for station in &self.stations {
            // poll(2) ignores negative descriptors.
            let fd = if station.gone { -1 } else { station.socket.fd().as_raw_fd() };
            polled.push(libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
        }
        let expiry = self.pipeline.table.next_expiry();
        let timeout = if congested { CONGESTED } else { IDLE };
        let timeout = expiry.map_or(timeout, |at| {
            // A millisecond more, for poll(2) counts whole ones.
            (at.saturating_duration_since(self.pipeline.now) + Duration::from_millis(1)).min(timeout)
        });
        // SAFETY: the array is as long as told and outlives the call.
        let ready = unsafe {
            libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout.as_millis() as libc::c_int)
        };
        if ready <= 0 {
            return;
        }
        if let Some((first, rest)) = polled.split_first() {
            if first.revents & libc::POLLIN != 0 {
                self.desk.acknowledge();
            }
            for (station, polled) in self.stations.iter_mut().zip(rest) {
                if polled.revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0 && !station.gone {
                    station.gone = true;
                    tracing::error!(queue = station.queue, "a device of the engine is gone");
                }
            }
        }
    }
}

fn go_before_others() {
    // SAFETY: plain system call; process 0 is the calling thread.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) } != 0 {
        let error = io::Error::last_os_error();
        tracing::warn!(%error, "the engine waits for its processor as everybody does: it lacks CAP_SYS_NICE");
    }
}

/// Decrypts in a frame's buffer what came in fragments.
fn reassembled(
    pipeline: &mut Pipeline,
    buffer: &mut [u8],
    packet: &Reassembled,
) -> Result<Range<usize>, DropReason> {
    let place = HEADROOM..HEADROOM.saturating_add(packet.esp.len());
    buffer.get_mut(place.clone()).ok_or(DropReason::TooLarge)?.copy_from_slice(&packet.esp);
    let outer = OuterPacket {
        source: packet.source,
        destination: packet.destination,
        udp: packet.source.port() != 0,
        ecn: packet.ecn,
        esp: 0..packet.esp.len(),
    };
    pipeline.decrypt_esp(buffer, place, &outer)
}

/// Whether an interface has this index in our network namespace.
fn device_exists(ifindex: u32) -> bool {
    let mut name = [0; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the length that the call demands, and outlives it.
    let found = unsafe { libc::if_indextoname(ifindex, name.as_mut_ptr()) };
    // Any other error says nothing: then it may well be there.
    !found.is_null() || io::Error::last_os_error().raw_os_error() != Some(libc::ENXIO)
}

/// Which of a device's stations sends what came by such a turn.
fn of_turn(device: &Range<usize>, turn: usize) -> Option<usize> {
    Some(device.start + turn.checked_rem(device.len())?)
}

/// Queues a frame on the device's socket that belongs to the one it came by.
fn send(
    stations: &mut [Station],
    umem: &mut Umem,
    drops: &DropCells,
    frame: Frame,
    place: &Range<usize>,
    device: Range<usize>,
    turn: usize,
) {
    let Some(station) = of_turn(&device, turn).and_then(|index| stations.get_mut(index)) else {
        drops.count(DropReason::NoPath);
        umem.give(frame);
        return;
    };
    let cells = &station.cells;
    let result = match station.socket.queue(umem, frame, place) {
        Err(frame) => {
            // The ring is full: what it holds is sent now, and completed frames come back.
            station.socket.flush(umem).ok();
            station.socket.queue(umem, frame, place)
        }
        queued => queued,
    };
    match result {
        Ok(()) => {
            cells.tx_packets.add(1);
            cells.tx_bytes.add(place.len() as u64);
        }
        Err(frame) => {
            cells.tx_ring_full.add(1);
            drops.count(DropReason::RingFull);
            umem.give(frame);
        }
    }
}
