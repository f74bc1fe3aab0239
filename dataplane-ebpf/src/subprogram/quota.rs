//! What flows count in, and give back.

use sekisho_abi::flow::{Flow, FlowKey};
use sekisho_abi::verdict::Verdict;

use super::{done, number};
use crate::path::quota;
use crate::scratch::Scratch;

subprogram! {
    fn sekisho_settle(flow: *mut Flow) -> u32 {
        // SAFETY: the verifier holds every caller to a valid structure or null.
        if let Some(flow) = unsafe { flow.as_mut() } {
            quota::settle(flow);
        }
        0
    }
}

/// [`quota::settle`].
#[inline(always)]
pub(crate) fn settle(flow: &mut Flow) {
    sekisho_settle(flow);
}

subprogram! {
    fn sekisho_give_back(place: u32, counts: u64) -> u32 {
        quota::give_back(place, counts);
        0
    }
}

/// [`quota::give_back`].
#[inline(always)]
pub(crate) fn give_back(place: u32, counts: u64) {
    sekisho_give_back(place, counts);
}

subprogram! {
    fn sekisho_remove_flow(key: *const FlowKey) -> u32 {
        // SAFETY: as above.
        if let Some(key) = unsafe { key.as_ref() } {
            quota::remove(key);
        }
        0
    }
}

/// [`quota::remove`].
#[inline(always)]
pub(crate) fn remove_flow(key: &FlowKey) {
    sekisho_remove_flow(key);
}

step! { fn sekisho_discharge() = quota::discharge }
