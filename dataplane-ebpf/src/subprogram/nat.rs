//! Translation.

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use sekisho_abi::verdict::Verdict;
use sekisho_dataplane::parse::Kind;

use super::flow::forget;
use super::{done, judged, number};
use crate::context::{SkbFrame, XdpFrame};
use crate::path::flow::End;
use crate::path::nat::{self, Progress};
use crate::scratch::Scratch;

/// [`nat::arrive`] and what follows from it. A known flow whose translation the configuration in force would not give is
/// over.
#[inline(always)]
pub(crate) fn nat_arrive(frame: &XdpFrame, scratch: &mut Scratch) -> Result<(), Verdict> {
    if scratch.seen.packet.kind == Kind::IcmpError {
        return nat_arrive_error(frame, scratch);
    }
    judged(sekisho_nat_arrive(scratch))?;
    match scratch.nat.progress {
        Progress::Settled => Ok(()),
        Progress::New => judged(sekisho_nat_arrive_new(scratch)).map(|_| ()),
        Progress::Stale => nat_holds(scratch),
    }
}

/// Whether a known flow's translation still holds; the flow is over if not.
#[inline(always)]
fn nat_holds(scratch: &mut Scratch) -> Result<(), Verdict> {
    let destination = judged(sekisho_nat_holds_destination(scratch));
    let holds = destination.and_then(|_| judged(sekisho_nat_holds_source(scratch)));
    if holds.is_err() {
        forget(scratch);
    }
    holds.map(|_| ())
}

step! { fn sekisho_nat_arrive() = nat::arrive }
step! { fn sekisho_nat_arrive_new() = nat::arrive_new }
step! { fn sekisho_nat_arrive_error, nat_arrive_error(xdp_md as XdpFrame) = nat::arrive_error }
step! { fn sekisho_nat_holds_destination() = nat::holds_destination }
step! { fn sekisho_nat_holds_source() = nat::holds_source }

subprogram! {
    fn sekisho_nat_plan(scratch: *mut Scratch, from: u64, to: u64) -> u32 {
        // SAFETY: the verifier holds every caller to a valid structure or null.
        match unsafe { scratch.as_mut() } {
            Some(scratch) => done(nat::plan(scratch, End::from_bits(from), End::from_bits(to))),
            None => number(Err(Verdict::DropInternal)),
        }
    }
}

subprogram! {
    /// [`nat::claim`]; gives back the number of a [`nat::Claim`].
    fn sekisho_nat_claim(scratch: *mut Scratch, kind: u32) -> u32 {
        // SAFETY: as above.
        match unsafe { scratch.as_mut() } {
            Some(scratch) => nat::claim(scratch, kind as u8) as u32,
            None => nat::Claim::Full as u32,
        }
    }
}

/// [`nat::claim`].
#[inline(always)]
pub(crate) fn nat_claim(scratch: &mut Scratch, kind: u8) -> u32 {
    sekisho_nat_claim(scratch, kind.into())
}

step! { fn sekisho_nat_open() = nat::open }
step! { fn sekisho_nat_forget_known() = nat::forget_known }
step! { fn sekisho_nat_forget_new() = nat::forget_new }
step! { fn sekisho_nat_leave, nat_leave(xdp_md as XdpFrame) = nat::leave }
step! { fn sekisho_nat_leave_error, nat_leave_error(xdp_md as XdpFrame) = nat::leave_error }
step! { fn sekisho_nat_egress, nat_egress(__sk_buff as SkbFrame) = nat::egress }

subprogram! {
    fn sekisho_nat_egress_error(ctx: *mut __sk_buff, scratch: *mut Scratch, own: u32) -> u32 {
        // SAFETY: as above.
        match unsafe { scratch.as_mut() } {
            Some(scratch) => done(nat::egress_error(&SkbFrame::from_ptr(ctx), scratch, own != 0)),
            None => number(Err(Verdict::DropInternal)),
        }
    }
}

/// [`nat::egress_error`] and what follows from it.
#[inline(always)]
pub(crate) fn nat_egress_error(frame: &SkbFrame, scratch: &mut Scratch, own: bool) -> Result<(), Verdict> {
    judged(sekisho_nat_egress_error(frame.as_ptr(), scratch, own.into()))?;
    match own {
        _ if !scratch.nat.changes() => Ok(()),
        true => nat_egress_error_quote(frame, scratch),
        false => nat_egress_error_source(frame, scratch),
    }
}

step! { fn sekisho_nat_egress_error_quote, nat_egress_error_quote(__sk_buff as SkbFrame) = nat::egress_error_quote }
step! { fn sekisho_nat_egress_error_source, nat_egress_error_source(__sk_buff as SkbFrame) = nat::egress_error_source }
