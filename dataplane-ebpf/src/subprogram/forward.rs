//! Whole ways, and what is done to a packet that goes on.

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use sekisho_abi::verdict::Verdict;
use sekisho_dataplane::parse::Packet;

use super::{judged, number};
use crate::context::{SkbFrame, XdpFrame};
use crate::path::{forward, trunk};
use crate::scratch::Scratch;
use crate::{egress, path};

subprogram! {
    fn sekisho_long_way(ctx: *mut xdp_md, scratch: *mut Scratch) -> u32 {
        // SAFETY: the verifier holds every caller to a valid structure or null.
        match unsafe { scratch.as_mut() } {
            Some(scratch) => number(path::long_way(&XdpFrame::from_ptr(ctx), scratch)),
            None => number(Err(Verdict::DropInternal)),
        }
    }
}

/// [`path::long_way`].
#[inline(always)]
pub(crate) fn long_way(frame: &XdpFrame, scratch: &mut Scratch) -> Result<Verdict, Verdict> {
    judged(sekisho_long_way(frame.as_ptr(), scratch))
}

subprogram! {
    fn sekisho_untag(ctx: *mut xdp_md, scratch: *mut Scratch) -> u32 {
        // SAFETY: as above.
        match unsafe { scratch.as_mut() } {
            Some(scratch) => number(trunk::untag(&XdpFrame::from_ptr(ctx), scratch).map(|()| Verdict::Pass)),
            None => number(Err(Verdict::DropInternal)),
        }
    }
}

/// [`trunk::untag`].
#[inline(always)]
pub(crate) fn untag(frame: &XdpFrame, scratch: &mut Scratch) -> Result<(), Verdict> {
    judged(sekisho_untag(frame.as_ptr(), scratch)).map(|_| ())
}

subprogram! {
    fn sekisho_egress(ctx: *mut __sk_buff, scratch: *mut Scratch) -> u32 {
        // SAFETY: as above.
        match unsafe { scratch.as_mut() } {
            Some(scratch) => number(egress::packet(&SkbFrame::from_ptr(ctx), scratch).map(|()| Verdict::Pass)),
            None => number(Err(Verdict::DropInternal)),
        }
    }
}

/// [`egress::packet`].
#[inline(always)]
pub(crate) fn egress_packet(frame: &SkbFrame, scratch: &mut Scratch) -> Result<Verdict, Verdict> {
    judged(sekisho_egress(frame.as_ptr(), scratch))
}

subprogram! {
    fn sekisho_clamp(ctx: *mut xdp_md, packet: *const Packet, mtu: u32) -> u32 {
        // SAFETY: as above.
        if let (Some(packet), Ok(mtu)) = (unsafe { packet.as_ref() }, u16::try_from(mtu)) {
            forward::clamp_to(&XdpFrame::from_ptr(ctx), packet, mtu);
        }
        0
    }
}

/// [`forward::clamp_to`].
#[inline(always)]
pub(crate) fn clamp(frame: &XdpFrame, packet: &Packet, mtu: u16) {
    sekisho_clamp(frame.as_ptr(), packet, mtu.into());
}

subprogram! {
    fn sekisho_fib(ctx: *mut xdp_md, scratch: *mut Scratch, length: u32) -> u32 {
        // SAFETY: as above.
        if let (Some(scratch), Ok(length)) = (unsafe { scratch.as_mut() }, u16::try_from(length)) {
            forward::lookup(&XdpFrame::from_ptr(ctx), scratch, length);
        }
        0
    }
}

/// [`forward::lookup`].
#[inline(always)]
pub(crate) fn fib(frame: &XdpFrame, scratch: &mut Scratch, length: u16) {
    sekisho_fib(frame.as_ptr(), scratch, length.into());
}
