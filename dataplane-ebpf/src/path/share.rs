//! What one host may have of something, and no more.

use aya_ebpf::bindings::BPF_ANY;
use sekisho_abi::map::Rate;
use sekisho_dataplane::frame::Aligned;
use sekisho_dataplane::rate::{Limit, Share};

use crate::maps;

/// Whether there is some left, of which a part is taken then. A host that can't be remembered can't be held down
/// either: it gets nothing.
#[inline(always)]
pub(crate) fn take(share: Share, limit: Limit, now_ns: u64) -> bool {
    let Aligned(share) = &Aligned(share);
    let next_ns = match maps::SHARES.get_ptr(share) {
        // SAFETY: map values outlive the program's run (RCU).
        Some(rate) => unsafe { (*rate).next_ns },
        None => 0,
    };
    match limit.admit(next_ns, now_ns) {
        Some(next_ns) => maps::SHARES.insert(share, Rate { next_ns }, u64::from(BPF_ANY)).is_ok(),
        None => false,
    }
}
