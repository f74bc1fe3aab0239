//! Forgetting flows that have outlived their time, in a thread of its own: the packet path never scans, and a full scan
//! never delays an IKE message. The same sweep tells the recorder of flows that have begun and ended since the last one:
//! that costs the packet path nothing.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::{HashMap, Map, MapData};
use sekisho_abi::flow::{Flow, FlowKey, LIFETIMES, Lifetime, tcp_state};
use sekisho_abi::quota::ZONES_MAX;

use super::audit::{self, Audit, Look};
use super::counts::Counts;
use super::maps::bytes;
use super::pressure::Pressure;
use super::{Filter, FilterError, Maps, batch, translations};
use crate::evidence::{FlowFacts, Record, Sink};

/// Time between two sweeps. A flow past its time is refused by the programs at once; sweeping only frees its place.
const PERIOD: Duration = Duration::from_secs(5);
/// The same while the table fills up.
const PERIOD_UNDER_PRESSURE: Duration = Duration::from_secs(1);
/// Time between two looks at how full it is, which cost next to nothing.
const LOOK_PERIOD: Duration = Duration::from_millis(250);

/// How long a sweep waits, in all, for a recorder that is behind.
const PATIENCE: Duration = Duration::from_secs(2);

/// The sweeping thread; ends when dropped.
pub struct FlowSweeper {
    counts: Arc<Counts>,
    is_under_pressure: Arc<AtomicBool>,
    /// Seconds, by class.
    lifetimes: Arc<[AtomicU32; LIFETIMES]>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl FlowSweeper {
    /// Starts it.
    pub fn start(maps: &mut Maps, sink: Sink) -> Result<FlowSweeper, FilterError> {
        let lifetimes = Arc::new(maps.config()?.lifetimes.map(AtomicU32::new));
        let mut flows = maps.flows.take().ok_or(FilterError::Missing("FLOWS"))?;
        let mut translations = maps.translations.take().ok_or(FilterError::Missing("TRANSLATIONS"))?;
        let neighbours = maps.neighbours.clone();
        let swept = lifetimes.clone();
        let counts = maps.counts.clone();
        let is_under_pressure = Arc::new(AtomicBool::new(false));
        let stop = Arc::new(AtomicBool::new(false));
        let mut sweeper = Sweeper {
            counts: counts.clone(),
            flows_max: maps.flows_max,
            lifetimes: lifetimes.clone(),
            sink,
            pressure: Pressure::default(),
            audit: Audit::default(),
            // Flows from before are known; their ends are told.
            swept_ns: monotonic_ns(),
        };
        let thread = thread::Builder::new()
            .name("flow-sweeper".into())
            .spawn({
                let (stop, is_under_pressure) = (stop.clone(), is_under_pressure.clone());
                move || {
                    let mut next = Instant::now();
                    while !stop.load(Ordering::Relaxed) {
                        let was = sweeper.pressure.any();
                        sweeper.look();
                        let is = sweeper.pressure.any();
                        is_under_pressure.store(is, Ordering::Relaxed);
                        if is != was {
                            let state =
                                if is { "fills up: unanswered flows live shorter" } else { "has room again" };
                            tracing::warn!(
                                flows = sweeper.counts.total(),
                                max = sweeper.flows_max,
                                "the flow table {state}"
                            );
                        }
                        let now = Instant::now();
                        if now >= next || (is && !was) {
                            sweeper.sweep(&mut flows, monotonic_ns());
                            translations::sweep(&mut translations, &flows, monotonic_ns());
                            let lifetime = swept.get(Lifetime::Neighbour as usize);
                            let seconds = lifetime.map_or(0, |seconds| seconds.load(Ordering::Relaxed));
                            neighbours.sweep(seconds, monotonic_ns());
                            next = now + if is { PERIOD_UNDER_PRESSURE } else { PERIOD };
                        }
                        thread::park_timeout(LOOK_PERIOD);
                    }
                }
            })
            .map_err(|source| FilterError::Pin { path: "flow-sweeper".into(), source })?;
        Ok(FlowSweeper { counts, is_under_pressure, lifetimes, stop, thread: Some(thread) })
    }

    /// How long flows live from the next sweep on: seconds, by class.
    pub fn set_lifetimes(&self, seconds: &[u32; LIFETIMES]) {
        for (lifetime, seconds) in self.lifetimes.iter().zip(seconds) {
            lifetime.store(*seconds, Ordering::Relaxed);
        }
    }

    /// Flows in the table.
    pub fn count(&self) -> u64 {
        self.counts.total()
    }

    /// Flows that were opened from a zone, and how many there may be.
    pub fn zone(&self, number: u16) -> (u64, u64) {
        self.counts.zone(number.into())
    }

    /// Whether the table, or a zone's part of it, fills up.
    pub fn is_under_pressure(&self) -> bool {
        self.is_under_pressure.load(Ordering::Relaxed)
    }
}

impl Drop for FlowSweeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// What the thread works with.
struct Sweeper {
    counts: Arc<Counts>,
    flows_max: u32,
    /// Seconds, by class.
    lifetimes: Arc<[AtomicU32; LIFETIMES]>,
    sink: Sink,
    pressure: Pressure,
    audit: Audit,
    swept_ns: u64,
}

impl Sweeper {
    /// Looks whether the table fills up.
    fn look(&mut self) {
        let zones = (0..ZONES_MAX).map(|number| {
            let (flows, flows_max) = self.counts.zone(number);
            (number, flows, flows_max)
        });
        self.pressure.look(self.counts.total(), self.flows_max.into(), zones);
    }

    /// Removes what has expired; tells of that, and of what was made since the last sweep. Counts that are not those of the
    /// flows are put right.
    fn sweep(&mut self, flows: &mut HashMap<MapData, FlowKey, Flow>, now_ns: u64) {
        let lifetimes = self.lifetimes.each_ref().map(|seconds| seconds.load(Ordering::Relaxed));
        let is_expired =
            |pressure: &Pressure, flow: &Flow| is_past(flow, pressure.seconds(flow, &lifetimes), now_ns);
        let mut expired = Vec::new();
        let mut seen = HashSet::new();
        let names = self.sink.names();
        let mut patience = PATIENCE;
        let mut look = Look::begin(&self.counts);
        let looked_ns = monotonic_ns();
        for (key, flow) in flows.iter().filter_map(Result::ok) {
            // Where a flow goes meanwhile, the kernel begins again.
            if !seen.insert(key) {
                continue;
            }
            if flow.created_ns < looked_ns {
                look.saw(&flow);
            }
            if flow.created_ns >= self.swept_ns && flow.created_ns < now_ns {
                let start = Record::FlowStart(FlowFacts::of(&key, &flow, &names, now_ns));
                self.sink.record_patiently(start, &mut patience);
            }
            if is_expired(&self.pressure, &flow) {
                expired.push(key);
            }
            if seen.len() > 2 * self.flows_max as usize {
                break;
            }
        }
        for (counter, add) in self.audit.conclude(look.end(&self.counts)) {
            tracing::warn!(?counter, add, "a count of flows was not that of the flows there are: put right");
            audit::correct(&self.counts, counter, add);
        }
        for key in expired {
            // A packet may have revived it since: looked at once more, so that at most a flow without traffic is lost.
            if flows.get(&key, 0).is_ok_and(|flow| is_expired(&self.pressure, &flow))
                && let Some(flow) = batch::take(flows, &key)
            {
                self.counts.give_back(&flow);
                let end = FlowFacts::of(&key, &flow, &names, now_ns).ended(why(&flow));
                self.sink.record_patiently(end, &mut patience);
            }
        }
        self.swept_ns = now_ns;
    }
}

/// What the last packets of an expired flow had said.
fn why(flow: &Flow) -> &'static str {
    match flow.tcp_state {
        tcp_state::TIME_WAIT => "finished",
        tcp_state::CLOSE => "reset",
        _ => "expired",
    }
}

/// The flows as others than the sweeper look at them: through the pin, so that nobody waits for anybody.
pub struct FlowTable {
    flows: HashMap<MapData, FlowKey, Flow>,
    counts: Counts,
}

impl FlowTable {
    /// That of a gateway in force.
    pub fn open(gateway: &str) -> Result<FlowTable, FilterError> {
        let error = |source| FilterError::Map { map: "FLOWS", source: Box::new(source) };
        let pinned = |name: &str| MapData::from_pin(Filter::pin_of(gateway, name)).map_err(error);
        let flows = HashMap::try_from(Map::HashMap(pinned("FLOWS")?)).map_err(error)?;
        Ok(FlowTable { flows, counts: Counts::of(&pinned("QUOTAS")?, &pinned("ZONES")?)? })
    }

    /// Every flow; one that comes or goes meanwhile may be missing. Ends in any case, also where so many come and go that
    /// the kernel begins again and again.
    pub fn iter(&self, flows_max: usize) -> impl Iterator<Item = (FlowKey, Flow)> + '_ {
        self.flows.iter().take(flows_max.saturating_mul(2)).filter_map(Result::ok)
    }

    /// One flow.
    pub fn find(&self, key: &FlowKey) -> Option<Flow> {
        self.flows.get(key, 0).ok()
    }

    /// Forgets a flow, and says whether it was there.
    pub fn remove(&mut self, key: &FlowKey) -> bool {
        let taken = batch::take(&self.flows, key);
        if let Some(flow) = &taken {
            self.counts.give_back(flow);
        }
        taken.is_some()
    }
}

/// The key of a flow between two ends: address and port; of an echo request the identifier, and its type and code.
pub(crate) fn flow_key(protocol: u8, ends: [(IpAddr, u16); 2]) -> FlowKey {
    let mut ends = ends.map(|(address, port)| (bytes(address), port.to_be()));
    ends.sort_by_key(|(address, _)| *address);
    let [low, high] = ends;
    FlowKey { low: low.0, high: high.0, low_port_be: low.1, high_port_be: high.1, protocol, reserved: [0; 3] }
}

/// Whether a flow has outlived its usual time.
pub(crate) fn is_expired(flow: &Flow, lifetimes: &[u32], now_ns: u64) -> bool {
    is_past(flow, lifetimes.get(usize::from(flow.lifetime)).copied().unwrap_or(0), now_ns)
}

/// Whether so many seconds have gone by since the flow's last packet.
fn is_past(flow: &Flow, seconds: u32, now_ns: u64) -> bool {
    now_ns.saturating_sub(flow.last_seen_ns) > u64::from(seconds) * 1_000_000_000
}

/// CLOCK_MONOTONIC, which `bpf_ktime_get_ns` reads too.
pub(crate) fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec; CLOCK_MONOTONIC always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sekisho_abi::flow::LIFETIMES_DEFAULT;

    #[test]
    fn a_flow_expires_by_its_class() {
        let second = 1_000_000_000;
        let flow = |lifetime: Lifetime| Flow {
            last_seen_ns: 10 * second,
            lifetime: lifetime as u8,
            ..Flow::default()
        };
        let none = Pressure::default();
        let is_expired = |flow: &Flow, now_ns| is_past(flow, none.seconds(flow, &LIFETIMES_DEFAULT), now_ns);
        assert!(!is_expired(&flow(Lifetime::UdpUnreplied), 40 * second));
        assert!(is_expired(&flow(Lifetime::UdpUnreplied), 41 * second));
        assert!(!is_expired(&flow(Lifetime::TcpEstablished), 432_000 * second));
        // A clock that seems to run backwards between CPUs keeps the flow.
        assert!(!is_expired(&flow(Lifetime::Icmp), 9 * second));
    }
}
