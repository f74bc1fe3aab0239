//! Forgetting flows that have outlived their time, in a thread of its own: the packet path never scans, and a full scan
//! never delays an IKE message. The same sweep tells the recorder of flows that have begun and ended since the last one:
//! that costs the packet path nothing.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use sekisho_abi::flow::{Flow, FlowKey, LIFETIMES, Lifetime, tcp_state};

use super::maps::bytes;
use super::{Filter, FilterError, Maps, translations};
use crate::evidence::{FlowFacts, Record, Sink};

/// Time between two sweeps. A flow past its time is refused by the programs at once; sweeping only frees its place.
const PERIOD: Duration = Duration::from_secs(5);

/// How long a sweep waits, in all, for a recorder that is behind.
const PATIENCE: Duration = Duration::from_secs(2);

/// The sweeping thread; ends when dropped.
pub struct FlowSweeper {
    count: Arc<AtomicU64>,
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
        let count = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::Builder::new()
            .name("flow-sweeper".into())
            .spawn({
                let (count, lifetimes, stop) = (count.clone(), lifetimes.clone(), stop.clone());
                move || {
                    // Flows from before are known; their ends are told.
                    let mut swept_ns = monotonic_ns();
                    while !stop.load(Ordering::Relaxed) {
                        let now_ns = monotonic_ns();
                        let seconds = lifetimes.each_ref().map(|seconds| seconds.load(Ordering::Relaxed));
                        let alive = sweep(&mut flows, &seconds, now_ns, swept_ns, &sink);
                        count.store(alive, Ordering::Relaxed);
                        swept_ns = now_ns;
                        translations::sweep(&mut translations, &flows, monotonic_ns());
                        let lifetime = seconds.get(Lifetime::Neighbour as usize).copied().unwrap_or_default();
                        neighbours.sweep(lifetime, monotonic_ns());
                        thread::park_timeout(PERIOD);
                    }
                }
            })
            .map_err(|source| FilterError::Pin { path: "flow-sweeper".into(), source })?;
        Ok(FlowSweeper { count, lifetimes, stop, thread: Some(thread) })
    }

    /// How long flows live from the next sweep on: seconds, by class.
    pub fn set_lifetimes(&self, seconds: &[u32; LIFETIMES]) {
        for (lifetime, seconds) in self.lifetimes.iter().zip(seconds) {
            lifetime.store(*seconds, Ordering::Relaxed);
        }
    }

    /// Flows known at the last sweep.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
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

/// Removes what has expired and counts what is left; tells of both, and of what was made since `swept_ns`.
fn sweep(
    flows: &mut HashMap<MapData, FlowKey, Flow>,
    lifetimes: &[u32],
    now_ns: u64,
    swept_ns: u64,
    sink: &Sink,
) -> u64 {
    let mut alive = 0;
    let mut expired = Vec::new();
    let names = sink.names();
    let mut patience = PATIENCE;
    for (key, flow) in flows.iter().filter_map(Result::ok) {
        if flow.created_ns >= swept_ns && flow.created_ns < now_ns {
            let start = Record::FlowStart(FlowFacts::of(&key, &flow, &names, now_ns));
            sink.record_patiently(start, &mut patience);
        }
        if is_expired(&flow, lifetimes, now_ns) {
            expired.push(key);
        } else {
            alive += 1;
        }
    }
    for key in expired {
        // A packet may have revived it since: looked at once more, so that at most a flow without traffic is lost.
        if let Ok(flow) = flows.get(&key, 0)
            && is_expired(&flow, lifetimes, now_ns)
            && flows.remove(&key).is_ok()
        {
            let end = FlowFacts::of(&key, &flow, &names, now_ns).ended(why(&flow));
            sink.record_patiently(end, &mut patience);
        }
    }
    alive
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
pub struct FlowTable(HashMap<MapData, FlowKey, Flow>);

impl FlowTable {
    /// That of a gateway in force.
    pub fn open(gateway: &str) -> Result<FlowTable, FilterError> {
        let error = |source| FilterError::Map { map: "FLOWS", source: Box::new(source) };
        let data = MapData::from_pin(Filter::flows_pin(gateway)).map_err(error)?;
        Ok(FlowTable(HashMap::try_from(Map::HashMap(data)).map_err(error)?))
    }

    /// Every flow; one that comes or goes meanwhile may be missing. Ends in any case, also where so many come and go that
    /// the kernel begins again and again.
    pub fn iter(&self, flows_max: usize) -> impl Iterator<Item = (FlowKey, Flow)> + '_ {
        self.0.iter().take(flows_max.saturating_mul(2)).filter_map(Result::ok)
    }

    /// One flow.
    pub fn find(&self, key: &FlowKey) -> Option<Flow> {
        self.0.get(key, 0).ok()
    }

    /// Forgets a flow, and says whether it was there.
    pub fn remove(&mut self, key: &FlowKey) -> bool {
        self.0.remove(key).is_ok()
    }
}

/// The key of a flow between two ends: address and port; of an echo request the identifier, and its type and code.
pub(crate) fn flow_key(protocol: u8, ends: [(IpAddr, u16); 2]) -> FlowKey {
    let mut ends = ends.map(|(address, port)| (bytes(address), port.to_be()));
    ends.sort_by_key(|(address, _)| *address);
    let [low, high] = ends;
    FlowKey {
        low: low.0,
        high: high.0,
        low_port_be: low.1,
        high_port_be: high.1,
        protocol,
        reserved: [0; 3],
    }
}

pub(crate) fn is_expired(flow: &Flow, lifetimes: &[u32], now_ns: u64) -> bool {
    let seconds = lifetimes.get(usize::from(flow.lifetime)).copied().unwrap_or(0);
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
        assert!(!is_expired(&flow(Lifetime::UdpUnreplied), &LIFETIMES_DEFAULT, 40 * second));
        assert!(is_expired(&flow(Lifetime::UdpUnreplied), &LIFETIMES_DEFAULT, 41 * second));
        assert!(!is_expired(&flow(Lifetime::TcpEstablished), &LIFETIMES_DEFAULT, 432_000 * second));
        // A clock that seems to run backwards between CPUs keeps the flow.
        assert!(!is_expired(&flow(Lifetime::Icmp), &LIFETIMES_DEFAULT, 9 * second));
    }
}
