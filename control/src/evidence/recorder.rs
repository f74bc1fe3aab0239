//! The thread that records.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use sekisho_abi::event::{Claim, Event, FlowEnd, TRACED};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use super::alarm::Watch;
use super::record::{FlowFacts, PacketFacts, Record, why};
use super::store::Store;
use super::{Names, Settings};

/// Records waiting to be written. A sweep may end many flows at once, and a disk may pause.
const QUEUE_MAX: usize = 16_384;
/// Records that a watcher may be behind; then it is told how many it missed.
const BEHIND_MAX: usize = 4096;
/// Refused packets that `sekisho drops` shows.
const RECENT_MAX: usize = 256;
/// How often what is missing is recorded, and how often the thread looks up when nothing happens.
const LOST_PERIOD: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_millis(250);
/// Between two looks at a full queue.
const PAUSE: Duration = Duration::from_millis(1);
/// An error of the files is said again after this time.
const COMPLAINT_PERIOD: Duration = Duration::from_secs(60);

/// A record with its time, for those who watch.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Stamped {
    /// RFC 3339, UTC, microseconds.
    pub time: String,
    /// What happened.
    #[serde(flatten)]
    pub record: Record,
}

/// How much was recorded, and how much was not.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Counters {
    /// Records made.
    pub recorded: u64,
    /// Records written into files.
    pub written: u64,
    /// Events that found no room in the programs' ring buffer.
    pub lost_ring: u64,
    /// Records that found the queue full.
    pub lost_queue: u64,
    /// Records that could not be written.
    pub lost_unwritten: u64,
}

#[derive(Default)]
struct Shared {
    names: RwLock<Arc<Names>>,
    recent: Mutex<VecDeque<Arc<Stamped>>>,
    recorded: AtomicU64,
    written: AtomicU64,
    ring: AtomicU64,
    queue: AtomicU64,
    unwritten: AtomicU64,
}

enum Entry {
    Record(Record),
    Event(Event),
    FlowEnd(Box<FlowEnd>),
    Claim(Claim),
    Settings(Box<Option<Store>>, Settings),
    Stop,
}

/// Where records are handed in. Nobody waits: a full queue is counted.
#[derive(Clone)]
pub struct Sink {
    queue: SyncSender<Entry>,
    shared: Arc<Shared>,
}

impl Sink {
    /// Something happened.
    pub fn record(&self, record: Record) {
        self.put(Entry::Record(record));
    }

    /// The same for who makes many at once, and may wait for room, in all for as long as `patience` has left.
    pub(crate) fn record_patiently(&self, record: Record, patience: &mut Duration) {
        let mut entry = Entry::Record(record);
        loop {
            match self.queue.try_send(entry) {
                Err(TrySendError::Full(back)) if *patience >= PAUSE => {
                    *patience -= PAUSE;
                    entry = back;
                    std::thread::sleep(PAUSE);
                }
                Err(_) => {
                    self.shared.queue.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Ok(()) => return,
            }
        }
    }

    /// A program's event.
    pub(crate) fn event(&self, event: Event) {
        self.put(Entry::Event(event));
    }

    /// A flow that a program has ended.
    pub(crate) fn flow_end(&self, end: FlowEnd) {
        self.put(Entry::FlowEnd(Box::new(end)));
    }

    /// Somebody used an address that is another's.
    pub(crate) fn claim(&self, claim: Claim) {
        self.put(Entry::Claim(claim));
    }

    /// The names in force.
    pub fn names(&self) -> Arc<Names> {
        self.shared.names.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says how many events the programs have lost in all.
    pub(crate) fn set_lost_ring(&self, lost: u64) {
        self.shared.ring.store(lost, Ordering::Relaxed);
    }

    fn put(&self, entry: Entry) {
        if self.queue.try_send(entry).is_err() {
            self.shared.queue.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What watchers see.
#[derive(Clone)]
pub struct Feed {
    live: broadcast::Sender<Arc<Stamped>>,
    shared: Arc<Shared>,
    sink: Sink,
}

impl Feed {
    /// Everything from now on.
    pub fn watch(&self) -> broadcast::Receiver<Arc<Stamped>> {
        self.live.subscribe()
    }

    /// The last refused packets, oldest first.
    pub fn recent(&self) -> Vec<Arc<Stamped>> {
        self.shared.recent.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Where records are handed in.
    pub fn sink(&self) -> &Sink {
        &self.sink
    }
}

/// The recording thread; writes and seals what is there when dropped.
pub struct Recorder {
    feed: Feed,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Starts it.
    pub fn start(settings: &Settings) -> io::Result<Recorder> {
        let store = open(settings)?;
        let (queue, entries) = sync_channel(QUEUE_MAX);
        let shared = Arc::<Shared>::default();
        let sink = Sink { queue, shared: shared.clone() };
        let feed = Feed { live: broadcast::channel(BEHIND_MAX).0, shared, sink };
        let thread = std::thread::Builder::new().name("evidence".into()).spawn({
            let mut work = Work {
                feed: feed.clone(),
                store,
                settings: settings.clone(),
                alarms: Watch::default(),
                dirty_since: None,
                lost: (0, 0, 0),
                complained: None,
            };
            move || work.run(&entries)
        })?;
        Ok(Recorder { feed, thread: Some(thread) })
    }

    /// Where records are handed in.
    pub fn sink(&self) -> &Sink {
        &self.feed.sink
    }

    /// What watchers see.
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// From now on records speak by these names.
    pub fn set_names(&self, names: Names) {
        *self.feed.shared.names.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(names);
    }

    /// Opens other files, or the same ones with other bounds.
    pub fn configure(&self, settings: &Settings) -> io::Result<()> {
        let store = open(settings)?;
        // The queue may be full; a changed configuration waits for its turn.
        let _ = self.feed.sink.queue.send(Entry::Settings(Box::new(store), settings.clone()));
        Ok(())
    }

    /// How much was recorded.
    pub fn counters(&self) -> Counters {
        let Shared { recorded, written, ring, queue, unwritten, .. } = &*self.feed.shared;
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            recorded: value(recorded),
            written: value(written),
            lost_ring: value(ring),
            lost_queue: value(queue),
            lost_unwritten: value(unwritten),
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = self.feed.sink.queue.send(Entry::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn open(settings: &Settings) -> io::Result<Option<Store>> {
    settings.directory.as_ref().map(|directory| Store::open(directory, settings)).transpose()
}

struct Work {
    feed: Feed,
    store: Option<Store>,
    settings: Settings,
    alarms: Watch,
    /// When the first record was written that may not be on the disk yet.
    dirty_since: Option<Instant>,
    /// What was lost when that was last recorded: ring, queue, unwritten.
    lost: (u64, u64, u64),
    complained: Option<Instant>,
}

impl Work {
    fn run(&mut self, entries: &Receiver<Entry>) {
        let mut lost_at = Instant::now();
        loop {
            match entries.recv_timeout(IDLE) {
                Ok(Entry::Record(record)) => self.record(record),
                Ok(Entry::Event(event)) => self.event(&event),
                Ok(Entry::FlowEnd(end)) => {
                    let names = self.feed.sink.names();
                    self.record(FlowFacts::of(&end.key, &end.flow, &names, end.time_ns).ended(why(&end)));
                }
                Ok(Entry::Claim(claim)) => {
                    let port = self.feed.sink.names().port(claim.port);
                    if let Some(alarm) = self.alarms.claimed(&claim, port, Instant::now()) {
                        self.record(alarm);
                    }
                }
                Ok(Entry::Settings(store, settings)) => {
                    self.sync();
                    self.store = *store;
                    self.settings = settings;
                }
                Ok(Entry::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    self.tell_lost();
                    return self.sync();
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.dirty_since.is_some_and(|since| since.elapsed() >= self.settings.sync) {
                self.sync();
            }
            if lost_at.elapsed() >= LOST_PERIOD {
                lost_at = Instant::now();
                self.tell_lost();
            }
        }
    }

    fn event(&mut self, event: &Event) {
        let names = self.feed.sink.names();
        let Some((verdict, facts)) = PacketFacts::of(event, &names) else { return };
        if event.verdict & TRACED != 0 {
            return self.record(Record::Traced(facts));
        }
        if !verdict.is_drop() {
            return self.record(Record::Allowed(facts));
        }
        let alarm = self.alarms.refused(verdict, &facts, Instant::now());
        self.record(Record::Refused(facts));
        if let Some(alarm) = alarm {
            self.record(alarm);
        }
    }

    fn record(&mut self, record: Record) {
        let is_flow = matches!(record, Record::FlowStart(_) | Record::FlowEnd(_));
        if is_flow && !self.settings.flows {
            return;
        }
        log(&record);
        self.feed.shared.recorded.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now();
        if !matches!(record, Record::Traced(_)) {
            self.write(&record, now);
        }
        let stamped = Arc::new(Stamped { time: humantime::format_rfc3339_micros(now).to_string(), record });
        if matches!(stamped.record, Record::Refused(_)) {
            let mut recent = self.feed.shared.recent.lock().unwrap_or_else(PoisonError::into_inner);
            if recent.len() >= RECENT_MAX {
                recent.pop_front();
            }
            recent.push_back(stamped.clone());
        }
        // Nobody watches: as good.
        let _ = self.feed.live.send(stamped);
    }

    fn write(&mut self, record: &Record, now: SystemTime) {
        let Some(store) = &mut self.store else { return };
        match store.append(record, now) {
            Ok(()) => {
                self.feed.shared.written.fetch_add(1, Ordering::Relaxed);
                self.dirty_since.get_or_insert_with(Instant::now);
            }
            Err(error) => {
                self.feed.shared.unwritten.fetch_add(1, Ordering::Relaxed);
                self.complain(&error);
            }
        }
    }

    fn sync(&mut self) {
        self.dirty_since = None;
        if let Some(Err(error)) = self.store.as_mut().map(Store::sync) {
            self.complain(&error);
        }
    }

    fn complain(&mut self, error: &io::Error) {
        if self.complained.is_none_or(|at| at.elapsed() >= COMPLAINT_PERIOD) {
            self.complained = Some(Instant::now());
            tracing::error!(%error, "evidence cannot be written; what is missing is counted: make room on the disk");
        }
    }

    fn tell_lost(&mut self) {
        let Shared { ring, queue, unwritten, .. } = &*self.feed.shared;
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let now = (value(ring), value(queue), value(unwritten));
        if now == self.lost {
            return;
        }
        let before = std::mem::replace(&mut self.lost, now);
        self.record(Record::Lost {
            ring: now.0.saturating_sub(before.0),
            queue: now.1.saturating_sub(before.1),
            unwritten: now.2.saturating_sub(before.2),
        });
    }
}

fn log_flow(flow: &FlowFacts) {
    let FlowFacts { protocol, source, source_port, destination, destination_port, rule, .. } = flow;
    match &flow.end {
        None => {
            tracing::debug!(target: "sekisho::flow", protocol, %source, source_port, %destination, destination_port, rule, "begins");
        }
        Some(end) => {
            let (bytes, reply_bytes, milliseconds) = (flow.bytes, flow.reply_bytes, flow.age_ms);
            tracing::debug!(target: "sekisho::flow", protocol, %source, source_port, %destination, destination_port, rule, end, bytes, reply_bytes, milliseconds, "ends");
        }
    }
}

/// What of it belongs into the log. SAs and reloads are logged where they happen; flows would drown everything, and are
/// said only where the log filter asks for `sekisho::flow=debug`.
fn log(record: &Record) {
    match record {
        Record::FlowStart(flow) | Record::FlowEnd(flow) => log_flow(flow),
        Record::Refused(packet) | Record::Allowed(packet) => {
            let PacketFacts { port, source, destination, protocol, destination_port: dport, .. } = packet;
            let reason = packet.verdict.as_str();
            match (&packet.spi, matches!(record, Record::Refused(_))) {
                (Some(spi), true) => {
                    tracing::info!(target: "sekisho::filter", port, %source, %destination, spi, reason, "refused");
                }
                (None, true) => {
                    tracing::info!(target: "sekisho::filter", port, %source, %destination, protocol, dport, reason, "refused");
                }
                (_, false) => {
                    tracing::info!(target: "sekisho::filter", port, %source, %destination, protocol, dport, "new flow");
                }
            }
        }
        Record::Alarm { alarm, port, source, detail } => {
            tracing::warn!(target: "sekisho::filter", alarm, port, %source, detail, "alarm");
        }
        Record::Lost { ring, queue, unwritten } => {
            tracing::warn!(
                ring,
                queue,
                unwritten,
                "records are missing: more happened than could be recorded"
            );
        }
        _ => {}
    }
}
