//! The parts that the verifier judges each by itself (global functions, Linux 5.6): whatever a caller has found out
//! about its packet is forgotten at the call, so that ways do not multiply.
//!
//! Hence their signatures: a context, numbers, pointers to structures without padding that may be null; one number
//! comes back, a verdict's where nothing else is said.

#[macro_use]
mod declare;
mod by_frame;
mod count;
mod flow;
mod forward;
mod fragment;
mod nat;
mod neighbour;
mod quota;
mod rule;
mod screen;

use sekisho_abi::verdict::Verdict;

pub(crate) use self::by_frame::{Subprograms, option_step_of};
pub(crate) use self::count::{event, trace};
pub(crate) use self::flow::{admit, admit_received, ask, continues};
pub(crate) use self::forward::{clamp, egress_packet, fib, long_way, untag};
pub(crate) use self::fragment::{arrive, depart, place};
pub(crate) use self::nat::{nat_arrive, nat_claim, nat_egress, nat_egress_error, nat_leave, nat_leave_error};
pub(crate) use self::neighbour::{arp, bound, discovery};
pub(crate) use self::quota::{give_back, remove_flow, settle};
pub(crate) use self::rule::{first_rule, rule};
pub(crate) use self::screen::{challenge, limit_strangers, tried};

/// The number of the verdict in either arm.
#[inline(always)]
fn number(judged: Result<Verdict, Verdict>) -> u32 {
    match judged {
        Ok(verdict) | Err(verdict) => u32::from(verdict as u8),
    }
}

/// The verdict with this number, as `Ok` or `Err`.
#[inline(always)]
pub(crate) fn judged(number: u32) -> Result<Verdict, Verdict> {
    match Verdict::from_number((number & 0xff) as u8) {
        Some(verdict) if !verdict.is_drop() => Ok(verdict),
        Some(verdict) => Err(verdict),
        None => Err(Verdict::DropInternal),
    }
}

/// The same for a step that finds nothing but whether to go on.
#[inline(always)]
fn done(step: Result<(), Verdict>) -> u32 {
    number(step.map(|()| Verdict::Pass))
}
