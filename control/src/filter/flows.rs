//! Forgetting flows that have outlived their time, in a thread of its own: the packet path never scans, and a full scan
//! never delays an IKE message.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use aya::maps::{HashMap, MapData};
use sekisho_abi::flow::{Flow, FlowKey};

use super::{FilterError, Maps, translations};

/// Time between two sweeps. A flow past its time is refused by the programs at once; sweeping only frees its place.
const PERIOD: Duration = Duration::from_secs(5);

/// The sweeping thread; ends when dropped.
pub struct FlowSweeper {
    count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl FlowSweeper {
    /// Starts it.
    pub fn start(maps: &mut Maps) -> Result<FlowSweeper, FilterError> {
        let lifetimes = maps.config()?.lifetimes;
        let mut flows = maps.flows.take().ok_or(FilterError::Missing("FLOWS"))?;
        let mut translations = maps.translations.take().ok_or(FilterError::Missing("TRANSLATIONS"))?;
        let count = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::Builder::new()
            .name("flow-sweeper".into())
            .spawn({
                let (count, stop) = (count.clone(), stop.clone());
                move || {
                    while !stop.load(Ordering::Relaxed) {
                        count.store(sweep(&mut flows, &lifetimes, monotonic_ns()), Ordering::Relaxed);
                        translations::sweep(&mut translations, &flows, monotonic_ns());
                        thread::park_timeout(PERIOD);
                    }
                }
            })
            .map_err(|source| FilterError::Pin { path: "flow-sweeper".into(), source })?;
        Ok(FlowSweeper { count, stop, thread: Some(thread) })
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

/// Removes what has expired and counts what is left.
fn sweep(flows: &mut HashMap<MapData, FlowKey, Flow>, lifetimes: &[u32], now_ns: u64) -> u64 {
    let mut alive = 0;
    let mut expired = Vec::new();
    for (key, flow) in flows.iter().filter_map(Result::ok) {
        if is_expired(&flow, lifetimes, now_ns) {
            expired.push(key);
        } else {
            alive += 1;
        }
    }
    for key in expired {
        // A packet may have revived it since: looked at once more, so that at most a flow without traffic is lost.
        if flows.get(&key, 0).is_ok_and(|flow| is_expired(&flow, lifetimes, now_ns)) {
            let _ = flows.remove(&key);
        }
    }
    alive
}

fn is_expired(flow: &Flow, lifetimes: &[u32], now_ns: u64) -> bool {
    let seconds = lifetimes.get(usize::from(flow.lifetime)).copied().unwrap_or(0);
    now_ns.saturating_sub(flow.last_seen_ns) > u64::from(seconds) * 1_000_000_000
}

/// CLOCK_MONOTONIC, which `bpf_ktime_get_ns` reads too.
fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec; CLOCK_MONOTONIC always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sekisho_abi::flow::{LIFETIMES_DEFAULT, Lifetime};

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
