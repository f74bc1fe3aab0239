//! Ten thousand tunnels in one engine: what each costs in memory, how long all of them take to be rekeyed, and whether the
//! cost of a message grows with their number. A program of its own, for it counts every byte that is allocated.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use sekisho_bench::tunnels::{Auth, Tunnels};

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

const TUNNELS: u32 = 10_000;

fn main() {
    let proposal = "aes128gcm16-prfsha256-x25519";
    println!("{:>8} {:>14} {:>14} {:>16}", "tunnels", "bytes each", "handshake µs", "rekey of one µs");
    for count in [10, 100, 1000, TUNNELS] {
        let mut tunnels = Tunnels::new(count, Auth::Psk, proposal);
        let before = BYTES.load(Ordering::Relaxed);
        let began = Instant::now();
        for number in 0..count {
            tunnels.connect(number);
        }
        let handshake = began.elapsed() / count;
        // Both ends live in this process: a tunnel is counted twice.
        let bytes = (BYTES.load(Ordering::Relaxed) - before) / (2 * count as usize);
        let sample: Vec<_> = tunnels.up.iter().copied().take(10).collect();
        let began = Instant::now();
        for (ike, child) in &sample {
            tunnels.rekey(*ike, *child);
        }
        let rekey = began.elapsed() / 10;
        println!("{count:>8} {bytes:>14} {:>14} {:>16}", handshake.as_micros(), rekey.as_micros());
        if count == TUNNELS {
            let rest: Vec<_> = tunnels.up.iter().copied().skip(10).collect();
            let began = Instant::now();
            for (ike, child) in rest {
                tunnels.rekey(ike, child);
            }
            let elapsed = began.elapsed().as_secs_f64();
            println!("full rekey of {count} IKE SAs and child SAs, both sides: {elapsed:.1} s");
        }
    }
}
