//! What a packet is screened by before it becomes a flow, or a stranger's message reaches the gateway.

use aya_ebpf::bindings::xdp_md;
use sekisho_abi::verdict::Verdict;
use sekisho_dataplane::parse::Packet;

use super::{done, judged, number};
use crate::context::XdpFrame;
use crate::path;
use crate::path::{challenge, local, scan};
use crate::scratch::Scratch;

step! { fn sekisho_screen() = path::screen }

subprogram! {
    /// Gives back the number of a verdict.
    fn sekisho_challenge(ctx: *mut xdp_md, scratch: *mut Scratch) -> u32 {
        // SAFETY: the verifier holds every caller to a valid structure or null.
        match unsafe { scratch.as_mut() } {
            Some(scratch) => number(challenge::send(&XdpFrame::from_ptr(ctx), scratch)),
            None => number(Err(Verdict::DropInternal)),
        }
    }
}

/// [`challenge::send`].
#[inline(always)]
pub(crate) fn challenge(frame: &XdpFrame, scratch: &mut Scratch) -> Verdict {
    match judged(sekisho_challenge(frame.as_ptr(), scratch)) {
        Ok(verdict) | Err(verdict) => verdict,
    }
}

subprogram! {
    fn sekisho_limit_strangers(ctx: *mut xdp_md, packet: *const Packet, port: u32) -> u32 {
        // SAFETY: as above.
        match (unsafe { packet.as_ref() }, u16::try_from(port)) {
            (Some(packet), Ok(port)) => done(local::limit_strangers(&XdpFrame::from_ptr(ctx), packet, port)),
            _ => number(Err(Verdict::DropInternal)),
        }
    }
}

/// [`local::limit_strangers`].
#[inline(always)]
pub(crate) fn limit_strangers(frame: &XdpFrame, scratch: &Scratch, port: u16) -> Result<(), Verdict> {
    judged(sekisho_limit_strangers(frame.as_ptr(), &raw const scratch.seen.packet, port.into())).map(|_| ())
}

subprogram! {
    /// Whether the packet makes a scan.
    fn sekisho_tried(scratch: *mut Scratch) -> u32 {
        // SAFETY: as above.
        match unsafe { scratch.as_mut() } {
            Some(scratch) => scan::tried(scratch).into(),
            None => 0,
        }
    }
}

/// [`scan::tried`].
#[inline(always)]
pub(crate) fn tried(scratch: &mut Scratch, refused: Verdict) -> Verdict {
    if sekisho_tried(scratch) != 0 { Verdict::DropScan } else { refused }
}
