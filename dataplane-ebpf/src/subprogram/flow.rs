//! Flows: found, judged again, opened, and ended.

use aya_ebpf::bindings::__sk_buff;
use sekisho_abi::event::flow_end;
use sekisho_abi::map::config_flags;
use sekisho_abi::verdict::Verdict;

use super::count::event;
use super::nat::{sekisho_nat_forget_known, sekisho_nat_forget_new, sekisho_nat_open, sekisho_nat_plan};
use super::quota::sekisho_discharge;
use super::rule::{rule, sekisho_rule_limit};
use super::screen::sekisho_screen;
use super::{done, judged, number};
use crate::context::SkbFrame;
use crate::maps;
use crate::path;
use crate::path::flow::{self, End, Found};
use crate::scratch::{Looked, Scratch};

/// Set beside [`Verdict::Pass`] where the rule that allowed a new flow wants an event.
const LOGGED: u32 = 1 << 8;
/// The packet belongs to no flow. Both of these hold no verdict's number.
const NEW: u32 = 1 << 9 | 0xff;
/// Its flow is to be judged again.
const AGAIN: u32 = 1 << 10 | 0xff;
/// Set beside [`Verdict::DropPolicy`] where the packet's flow is over.
const OVER: u32 = 1 << 11;

subprogram! {
    /// [`Pass`](Verdict::Pass) for a known flow, [`NEW`], [`AGAIN`] or a refusal.
    fn sekisho_find(scratch: *mut Scratch, entry: u64, exit: u64, bytes: u32) -> u32 {
        // SAFETY: the verifier holds every caller to a valid structure or null.
        let Some(scratch) = (unsafe { scratch.as_mut() }) else { return number(Err(Verdict::DropInternal)) };
        match flow::find(scratch, End::from_bits(entry), End::from_bits(exit), bytes) {
            Ok(Found::Known) => number(Ok(Verdict::Pass)),
            Ok(Found::New) => NEW,
            Ok(Found::Again) => AGAIN,
            Err(refused) => number(Err(refused)),
        }
    }
}

subprogram! {
    fn sekisho_judged_again(scratch: *mut Scratch, entry: u64, exit: u64) -> u32 {
        // SAFETY: as above.
        let Some(scratch) = (unsafe { scratch.as_mut() }) else { return number(Err(Verdict::DropInternal)) };
        match flow::judged_again(scratch, End::from_bits(entry), End::from_bits(exit)) {
            Ok(true) => number(Ok(Verdict::Pass)),
            Ok(false) => number(Err(Verdict::DropPolicy)) | OVER,
            Err(refused) => number(Err(refused)),
        }
    }
}

subprogram! {
    fn sekisho_open(scratch: *mut Scratch, entry: u64, exit: u64, bytes: u32) -> u32 {
        // SAFETY: as above.
        let Some(scratch) = (unsafe { scratch.as_mut() }) else { return number(Err(Verdict::DropInternal)) };
        match flow::open(scratch, End::from_bits(entry), End::from_bits(exit), bytes) {
            Ok(false) => number(Ok(Verdict::Pass)),
            Ok(true) => number(Ok(Verdict::Pass)) | LOGGED,
            Err(refused) => number(Err(refused)),
        }
    }
}

/// A packet on the long way: its flow is found, judged again or made, or the packet refused. One step after the other,
/// and not one inside of the other, for the sake of the stack.
#[inline(always)]
pub(crate) fn admit(scratch: &mut Scratch, entry: End, exit: End, bytes: u32) -> Result<(), Verdict> {
    let (in_bits, out_bits) = (entry.to_bits(), exit.to_bits());
    let mut found = sekisho_find(scratch, in_bits, out_bits, bytes);
    if found == AGAIN {
        // What they say lies in `asked`; a flow that they refuse is over.
        let _ = rule(&mut scratch.asked, bytes);
        let again = sekisho_judged_again(scratch, in_bits, out_bits);
        if again & OVER != 0 {
            forget(scratch);
        }
        judged(again)?;
        found = sekisho_find(scratch, in_bits, out_bits, bytes);
    }
    if found != NEW {
        // Judged again by another CPU meanwhile, by other rules: refused, as its number is no verdict's.
        return judged(found).map(|_| ());
    }
    rule(&mut scratch.asked, bytes)?;
    open(scratch, entry, exit, bytes)
}

/// [`admit`] of a packet that was received: what the short way has found out need not be asked again.
#[inline(always)]
pub(crate) fn admit_received(
    scratch: &mut Scratch,
    entry: End,
    exit: End,
    bytes: u32,
) -> Result<(), Verdict> {
    if scratch.flow != Looked::Absent {
        return admit(scratch, entry, exit, bytes);
    }
    if scratch.allowed == 0 || scratch.asked.to != exit.zone {
        ask(scratch, entry.zone, exit.zone, bytes)?;
    }
    open(scratch, entry, exit, bytes)
}

subprogram! {
    fn sekisho_ask(scratch: *mut Scratch, from: u32, to: u32, bytes: u32) -> u32 {
        // SAFETY: as above.
        match (unsafe { scratch.as_mut() }, u16::try_from(from), u16::try_from(to)) {
            (Some(scratch), Ok(from), Ok(to)) => done(flow::ask(scratch, from, to, bytes)),
            _ => number(Err(Verdict::DropInternal)),
        }
    }
}

/// [`flow::ask`].
#[inline(always)]
pub(crate) fn ask(scratch: &mut Scratch, from: u16, to: u16, bytes: u32) -> Result<(), Verdict> {
    judged(sekisho_ask(scratch, from.into(), to.into(), bytes)).map(|_| ())
}

/// Opens the flow that the rules allow, and no other is in its place, or one that is over.
#[inline(always)]
fn open(scratch: &mut Scratch, entry: End, exit: End, bytes: u32) -> Result<(), Verdict> {
    if entry.port != 0 && path::is_screened(scratch) {
        judged(sekisho_screen(scratch))?;
    }
    if scratch.asked.rule.interval_us != 0 {
        judged(sekisho_rule_limit(&raw const scratch.asked))?;
    }
    let opened = sekisho_open(scratch, entry.to_bits(), exit.to_bits(), bytes);
    judged(opened)?;
    let inserted = translate_and_insert(scratch, entry, exit);
    if inserted.is_err() {
        sekisho_discharge(scratch);
    }
    inserted?;
    if opened & LOGGED != 0 {
        event(&scratch.seen, if exit.port == 0 { Verdict::Pass } else { Verdict::Forward });
    }
    Ok(())
}

/// Translates the new flow, if it is to be, and puts it into the table. One step after the other, for the stack's sake.
#[inline(always)]
fn translate_and_insert(scratch: &mut Scratch, from: End, to: End) -> Result<(), Verdict> {
    let is_nat = maps::config().is_some_and(|config| config.flags & config_flags::NAT != 0);
    let replaces = scratch.flow == Looked::Present;
    if is_nat {
        if replaces {
            judged(sekisho_nat_forget_known(scratch))?;
        }
        judged(sekisho_nat_plan(scratch, from.to_bits(), to.to_bits()))?;
    }
    let opened = if is_nat { judged(sekisho_nat_open(scratch)) } else { Ok(Verdict::Pass) };
    let inserted = opened.and_then(|_| {
        if replaces {
            sekisho_flow_end(scratch, flow_end::REPLACED);
        }
        judged(sekisho_insert(scratch))
    });
    if inserted.is_err() && is_nat {
        sekisho_nat_forget_new(scratch);
    }
    inserted.map(|_| ())
}

step! { fn sekisho_insert() = flow::insert }

/// Takes the known flow, and what it was translated to, out of the tables.
#[inline(always)]
pub(super) fn forget(scratch: &mut Scratch) {
    sekisho_nat_forget_known(scratch);
    sekisho_flow_end(scratch, flow_end::REFUSED);
    sekisho_forget(scratch);
}

step! { fn sekisho_forget() = flow::forget }

subprogram! {
    fn sekisho_flow_end(scratch: *const Scratch, why: u32) -> u32 {
        // SAFETY: as above.
        if let Some(scratch) = unsafe { scratch.as_ref() } {
            flow::end(scratch, why);
        }
        0
    }
}

subprogram! {
    fn sekisho_continues(ctx: *mut __sk_buff, scratch: *mut Scratch, exit: u32) -> u32 {
        // SAFETY: as above.
        match (unsafe { scratch.as_mut() }, u16::try_from(exit)) {
            (Some(scratch), Ok(exit)) => {
                done(flow::continues(scratch, exit, SkbFrame::from_ptr(ctx).bytes()))
            }
            _ => number(Err(Verdict::DropInternal)),
        }
    }
}

/// [`flow::continues`].
#[inline(always)]
pub(crate) fn continues(frame: &SkbFrame, scratch: &mut Scratch, exit: u16) -> Result<(), Verdict> {
    judged(sekisho_continues(frame.as_ptr(), scratch, exit.into()))?;
    if scratch.unsettled != 0 {
        sekisho_settle_sent(scratch);
    }
    Ok(())
}

step! { fn sekisho_settle_sent() = flow::settle_sent }
