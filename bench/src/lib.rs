//! Benchmarks of Sekisho; `bench/README.md` says what each figure means. The library holds what several of them need.

pub mod bare;
pub mod contender;
pub mod flood;
pub mod forwarder;
pub mod generator;
pub mod iperf;
pub mod perf;
pub mod scenario;
pub mod tunnels;

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// CPU time that this thread has used: what others on the machine do is not in it, but for what they take from caches.
///
/// # Panics
/// On a kernel without that clock.
pub fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock for each thread").into()
}
