//! The rules.

use sekisho_abi::rule::{Asked, List};
use sekisho_abi::verdict::Verdict;

use super::{judged, number};
use crate::path::rule;

subprogram! {
    fn sekisho_rule(asked: *mut Asked, bytes: u32) -> u32 {
        // SAFETY: the verifier holds every caller to a valid structure or null.
        match unsafe { asked.as_mut() } {
            Some(asked) => number(rule::judge(asked, bytes).map(|()| Verdict::Pass)),
            None => number(Err(Verdict::DropInternal)),
        }
    }
}

/// [`rule::judge`].
#[inline(always)]
pub(crate) fn rule(asked: &mut Asked, bytes: u32) -> Result<(), Verdict> {
    judged(sekisho_rule(asked, bytes)).map(|_| ())
}

subprogram! {
    fn sekisho_first_rule(asked: *mut Asked, list: u32, first: u32, flags: u32) -> u32 {
        // SAFETY: as above.
        if let Some(asked) = unsafe { asked.as_mut() } {
            rule::first_of(asked, list, first, flags);
        }
        0
    }
}

/// [`rule::first_of`].
#[inline(always)]
pub(crate) fn first_rule(asked: &mut Asked, list: &List) {
    sekisho_first_rule(asked, list.list, list.first, list.flags);
}

subprogram! {
    fn sekisho_rule_limit(asked: *const Asked) -> u32 {
        // SAFETY: as above.
        match unsafe { asked.as_ref() } {
            Some(asked) => number(rule::within_limit(asked).map(|()| Verdict::Pass)),
            None => number(Err(Verdict::DropInternal)),
        }
    }
}
