//! Ten thousand tunnels in one engine: what each costs in memory, how long all of them take to be rekeyed, and whether the
//! cost of a message grows with their number. A program of its own, for it counts every byte that is allocated.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use sekisho_bench::cpu_time;
use sekisho_bench::tunnels::{Auth, Tunnels};
use sekisho_ike::event::Path;

/// The system's allocator, and how many bytes are out.
struct Counting;

static BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed on unchanged; the counter owns nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are System's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How many tunnels an engine holds.
const COUNTS: [u32; 4] = [10, 100, 1000, 10_000];
/// The engines are measured in turn, so often, each time on so many tunnels.
const ROUNDS: u32 = 15;
const SAMPLE: u32 = 10;
const PROPOSAL: &str = "aes128gcm16-prfsha256-x25519";

/// An engine with tunnels, and what was measured on it: microseconds of CPU time, both sides where both have work.
struct Population {
    count: u32,
    bytes: usize,
    tunnels: Tunnels,
    /// What the last clinics of the fill have sent last.
    sent: Vec<(Path, Vec<u8>)>,
    handshakes: Vec<f64>,
    messages: Vec<f64>,
    rekeys: Vec<f64>,
}

/// Mean CPU time of one, in microseconds.
fn each(many: u32, work: impl FnOnce()) -> f64 {
    let began = cpu_time();
    work();
    (cpu_time() - began).as_secs_f64() * 1e6 / f64::from(many)
}

/// Lowest, median and highest.
fn spread(samples: &mut [f64]) -> String {
    samples.sort_by(f64::total_cmp);
    let last = samples.len() - 1;
    format!("{:.1} ({:.1}–{:.1})", samples[last / 2], samples[0], samples[last])
}

impl Population {
    fn new(count: u32) -> Self {
        let mut tunnels = Tunnels::new(count + ROUNDS * SAMPLE, Auth::Psk, PROPOSAL);
        let mut sent = Vec::new();
        let before = BYTES.load(Ordering::Relaxed);
        for number in 0..count {
            tunnels.connect(number);
            if number >= count - SAMPLE {
                sent.extend(tunnels.last.take());
            }
        }
        // Both ends live in this process: a tunnel is counted twice.
        let bytes = (BYTES.load(Ordering::Relaxed) - before) / (2 * count as usize);
        let [handshakes, messages, rekeys] = [const { Vec::new() }; 3];
        Self { count, bytes, tunnels, sent, handshakes, messages, rekeys }
    }

    fn measure(&mut self, round: u32) {
        let Self { tunnels, sent, .. } = self;
        self.messages.push(each(SAMPLE * 100, || {
            for message in sent.iter().cycle().take(SAMPLE as usize * 100) {
                tunnels.repeat(message);
            }
        }));
        let first = self.count + round * SAMPLE;
        self.handshakes.push(each(SAMPLE, || {
            for number in first..first + SAMPLE {
                tunnels.connect(number);
            }
        }));
        let fresh: Vec<_> = tunnels.up.iter().copied().rev().take(SAMPLE as usize).collect();
        self.rekeys.push(each(SAMPLE, || {
            for (ike, child) in fresh {
                tunnels.rekey(ike, child);
            }
        }));
    }
}

fn main() {
    let mut all = COUNTS.map(Population::new);
    for round in 0..ROUNDS {
        for population in &mut all {
            population.measure(round);
        }
    }
    println!("CPU time in µs: median of {ROUNDS} rounds (lowest–highest)");
    println!(
        "{:>8} {:>12} {:>24} {:>24} {:>24}",
        "tunnels", "bytes each", "handshake, both sides", "a message repeated", "rekey of both SAs"
    );
    for Population { count, bytes, handshakes, messages, rekeys, .. } in &mut all {
        let [handshakes, messages, rekeys] = [handshakes, messages, rekeys].map(|samples| spread(samples));
        println!("{count:>8} {bytes:>12} {handshakes:>24} {messages:>24} {rekeys:>24}");
    }
    let [.., largest] = &mut all;
    let tunnels = &mut largest.tunnels;
    let everybody: Vec<_> = tunnels.up.iter().copied().take(largest.count as usize).collect();
    let one = each(largest.count, || {
        for (ike, child) in everybody {
            tunnels.rekey(ike, child);
        }
    });
    let seconds = one * f64::from(largest.count) / 1e6;
    println!("full rekey of {} IKE SAs and child SAs, both sides: {seconds:.1} s", largest.count);
}
