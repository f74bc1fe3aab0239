//! What there is for either kind of frame: extension headers, TCP options, and errors about known flows.

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use sekisho_abi::verdict::Verdict;
use sekisho_dataplane::extension::{self, Walk};
use sekisho_dataplane::frame::Frame;
use sekisho_dataplane::option::{self, Search};
use sekisho_dataplane::parse::{self, Packet};

use super::{judged, number};
use crate::context::{SkbFrame, XdpFrame};
use crate::path::flow;
use crate::scratch::Scratch;

/// Stands for any port, where one is asked for by number.
const ANY_PORT: u32 = u32::MAX;
/// What a step of a loop gives back where there is more to do.
const MORE: u32 = 1 << 8;

/// Frames for which there are subprograms.
pub(crate) trait Subprograms {
    /// [`option::scale`] of the TCP header at this offset.
    fn scale(&self, offset: u16) -> u8;
    /// [`parse::ipv6_extended`].
    fn ipv6_extended(&self, packet: &mut Packet) -> Result<(), Verdict>;
    /// [`flow::expects_error`].
    fn expects_error(&self, scratch: &mut Scratch, entry: Option<u16>, exit: u16) -> Result<(), Verdict>;
}

impl Subprograms for XdpFrame {
    #[inline(always)]
    fn scale(&self, offset: u16) -> u8 {
        sekisho_scale_xdp(self.as_ptr(), offset.into()) as u8
    }

    #[inline(always)]
    fn ipv6_extended(&self, packet: &mut Packet) -> Result<(), Verdict> {
        judged(sekisho_extended_xdp(self.as_ptr(), packet)).map(|_| ())
    }

    #[inline(always)]
    fn expects_error(&self, scratch: &mut Scratch, entry: Option<u16>, exit: u16) -> Result<(), Verdict> {
        let entry = entry.map_or(ANY_PORT, u32::from);
        judged(sekisho_expects_error_xdp(self.as_ptr(), scratch, entry, exit.into())).map(|_| ())
    }
}

impl Subprograms for SkbFrame {
    #[inline(always)]
    fn scale(&self, offset: u16) -> u8 {
        sekisho_scale_skb(self.as_ptr(), offset.into()) as u8
    }

    #[inline(always)]
    fn ipv6_extended(&self, packet: &mut Packet) -> Result<(), Verdict> {
        judged(sekisho_extended_skb(self.as_ptr(), packet)).map(|_| ())
    }

    #[inline(always)]
    fn expects_error(&self, scratch: &mut Scratch, entry: Option<u16>, exit: u16) -> Result<(), Verdict> {
        let entry = entry.map_or(ANY_PORT, u32::from);
        judged(sekisho_expects_error_skb(self.as_ptr(), scratch, entry, exit.into())).map(|_| ())
    }
}

subprogram! {
    fn sekisho_extended_xdp(ctx: *mut xdp_md, packet: *mut Packet) -> u32 {
        // SAFETY: the verifier holds every caller to a valid structure or null.
        match unsafe { packet.as_mut() } {
            Some(packet) => extended(&XdpFrame::from_ptr(ctx), packet, |walk| sekisho_extension_xdp(ctx, walk)),
            None => number(Err(Verdict::DropInternal)),
        }
    }
}

subprogram! {
    fn sekisho_extended_skb(ctx: *mut __sk_buff, packet: *mut Packet) -> u32 {
        // SAFETY: as above.
        match unsafe { packet.as_mut() } {
            Some(packet) => extended(&SkbFrame::from_ptr(ctx), packet, |walk| sekisho_extension_skb(ctx, walk)),
            None => number(Err(Verdict::DropInternal)),
        }
    }
}

#[inline(always)]
fn extended<F: Frame>(frame: &F, packet: &mut Packet, step: impl Fn(&mut Walk) -> u32) -> u32 {
    let step = |walk: &mut Walk| match step(walk) {
        MORE => Ok(extension::Step::More),
        step => judged(step).map(|_| extension::Step::Transport),
    };
    number(parse::ipv6_extended(frame, packet, step).map(|()| Verdict::Pass))
}

subprogram! {
    fn sekisho_extension_xdp(ctx: *mut xdp_md, walk: *mut Walk) -> u32 {
        // SAFETY: as above.
        match unsafe { walk.as_mut() } {
            Some(walk) => extension_step(&XdpFrame::from_ptr(ctx), walk),
            None => number(Err(Verdict::DropInternal)),
        }
    }
}

subprogram! {
    fn sekisho_extension_skb(ctx: *mut __sk_buff, walk: *mut Walk) -> u32 {
        // SAFETY: as above.
        match unsafe { walk.as_mut() } {
            Some(walk) => extension_step(&SkbFrame::from_ptr(ctx), walk),
            None => number(Err(Verdict::DropInternal)),
        }
    }
}

#[inline(always)]
fn extension_step<F: Frame>(frame: &F, walk: &mut Walk) -> u32 {
    match walk.step(frame) {
        Ok(extension::Step::More) => MORE,
        Ok(extension::Step::Transport) => number(Ok(Verdict::Pass)),
        Err(refused) => number(Err(refused)),
    }
}

subprogram! {
    fn sekisho_option_xdp(ctx: *mut xdp_md, search: *mut Search) -> u32 {
        // SAFETY: as above.
        option_step(&XdpFrame::from_ptr(ctx), unsafe { search.as_mut() })
    }
}

subprogram! {
    fn sekisho_option_skb(ctx: *mut __sk_buff, search: *mut Search) -> u32 {
        // SAFETY: as above.
        option_step(&SkbFrame::from_ptr(ctx), unsafe { search.as_mut() })
    }
}

#[inline(always)]
fn option_step<F: Frame>(frame: &F, search: Option<&mut Search>) -> u32 {
    match search.map(|search| search.step(frame)) {
        Some(option::Step::More) => MORE,
        Some(option::Step::Found) => number(Ok(Verdict::Pass)),
        Some(option::Step::Absent) | None => number(Err(Verdict::DropOptions)),
    }
}

/// What [`option_step`] says.
#[inline(always)]
fn stepped(step: u32) -> option::Step {
    match step {
        MORE => option::Step::More,
        step if judged(step).is_ok() => option::Step::Found,
        _ => option::Step::Absent,
    }
}

subprogram! {
    fn sekisho_scale_xdp(ctx: *mut xdp_md, offset: u32) -> u32 {
        let step = |search: &mut Search| stepped(sekisho_option_xdp(ctx, search));
        option::scale(&XdpFrame::from_ptr(ctx), offset, step).into()
    }
}

subprogram! {
    fn sekisho_scale_skb(ctx: *mut __sk_buff, offset: u32) -> u32 {
        let step = |search: &mut Search| stepped(sekisho_option_skb(ctx, search));
        option::scale(&SkbFrame::from_ptr(ctx), offset, step).into()
    }
}

/// [`Search::step`].
#[inline(always)]
pub(crate) fn option_step_of(frame: &XdpFrame, search: &mut Search) -> option::Step {
    stepped(sekisho_option_xdp(frame.as_ptr(), search))
}

subprogram! {
    fn sekisho_expects_error_xdp(ctx: *mut xdp_md, scratch: *mut Scratch, entry: u32, exit: u32) -> u32 {
        // SAFETY: as above.
        match unsafe { scratch.as_mut() } {
            Some(scratch) => expects(&XdpFrame::from_ptr(ctx), scratch, entry, exit),
            None => number(Err(Verdict::DropInternal)),
        }
    }
}

subprogram! {
    fn sekisho_expects_error_skb(ctx: *mut __sk_buff, scratch: *mut Scratch, entry: u32, exit: u32) -> u32 {
        // SAFETY: as above.
        match unsafe { scratch.as_mut() } {
            Some(scratch) => expects(&SkbFrame::from_ptr(ctx), scratch, entry, exit),
            None => number(Err(Verdict::DropInternal)),
        }
    }
}

#[inline(always)]
fn expects<F: Frame>(frame: &F, scratch: &mut Scratch, entry: u32, exit: u32) -> u32 {
    let entry = u16::try_from(entry).ok();
    let Ok(exit) = u16::try_from(exit) else { return number(Err(Verdict::DropInternal)) };
    number(flow::expects_error(frame, scratch, entry, exit).map(|()| Verdict::Pass))
}
