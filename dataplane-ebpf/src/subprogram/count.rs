//! Events and traces.

use sekisho_abi::verdict::Verdict;

use crate::path::count::{self, Seen};

subprogram! {
    fn sekisho_event(seen: *const Seen, verdict: u32) -> u32 {
        // SAFETY: the verifier holds every caller to a valid structure or null.
        if let Some(seen) = unsafe { seen.as_ref() }
            && count::event(seen, verdict)
        {
            sekisho_log(seen.ifindex, seen.port.into(), verdict);
        }
        0
    }
}

/// [`count::event`].
#[inline(always)]
pub(crate) fn event(seen: &Seen, verdict: Verdict) {
    sekisho_event(seen, u32::from(verdict as u8));
}

subprogram! {
    /// One line for a developer, as seldom as events are. Events tell the daemon more.
    fn sekisho_log(ifindex: u32, port: u32, verdict: u32) -> u32 {
        aya_log_ebpf::debug!((), "ifindex {} port {} verdict {}", ifindex, port, verdict);
        0
    }
}

subprogram! {
    fn sekisho_trace(seen: *const Seen, verdict: u32) -> u32 {
        // SAFETY: as above.
        if let Some(seen) = unsafe { seen.as_ref() } {
            count::traced(seen, verdict);
        }
        0
    }
}

/// [`count::traced`].
#[inline(always)]
pub(crate) fn trace(seen: &Seen, verdict: Verdict) {
    sekisho_trace(seen, u32::from(verdict as u8));
}
