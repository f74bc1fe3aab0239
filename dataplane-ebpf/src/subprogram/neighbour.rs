//! Which MAC address an address belongs to.

use aya_ebpf::bindings::xdp_md;
use sekisho_abi::verdict::Verdict;

use super::{done, judged, number};
use crate::context::XdpFrame;
use crate::path::neighbour;
use crate::scratch::Scratch;

/// [`neighbour::arp`], and whose its addresses are.
#[inline(always)]
pub(crate) fn arp(frame: &XdpFrame, scratch: &mut Scratch) -> Result<Verdict, Verdict> {
    read_arp(frame, scratch)?;
    judged(sekisho_held(scratch, 0))
}

/// [`neighbour::discovery`], and whose its addresses are.
#[inline(always)]
pub(crate) fn discovery(frame: &XdpFrame, scratch: &mut Scratch) -> Result<Verdict, Verdict> {
    read_discovery(frame, scratch)?;
    judged(sekisho_held(scratch, 0))?;
    judged(sekisho_held(scratch, 1))
}

/// [`neighbour::source`], and whose it is.
#[inline(always)]
pub(crate) fn bound(frame: &XdpFrame, scratch: &mut Scratch) -> Result<(), Verdict> {
    read_source(frame, scratch)?;
    judged(sekisho_held(scratch, 0)).map(|_| ())
}

step! { fn sekisho_arp, read_arp(xdp_md as XdpFrame) = neighbour::arp }
step! { fn sekisho_discovery, read_discovery(xdp_md as XdpFrame) = neighbour::discovery }
step! { fn sekisho_source, read_source(xdp_md as XdpFrame) = neighbour::source }

subprogram! {
    /// [`neighbour::held`] of the first or the second address.
    fn sekisho_held(scratch: *const Scratch, second: u32) -> u32 {
        // SAFETY: the verifier holds every caller to a valid structure or null.
        match unsafe { scratch.as_ref() } {
            Some(scratch) => {
                let [first, other] = &scratch.used;
                done(neighbour::held(scratch, if second == 0 { first } else { other }))
            }
            None => number(Err(Verdict::DropInternal)),
        }
    }
}
