//! Fragments.

use sekisho_abi::verdict::Verdict;
use sekisho_dataplane::fragment::{Datagram, Piece};
use sekisho_dataplane::parse::Packet;

use super::{judged, number};
use crate::path::fragment;
use crate::scratch::Scratch;

subprogram! {
    fn sekisho_place(datagram: *mut Datagram, offset: u32, length: u32, more: u32) -> u32 {
        // SAFETY: the verifier holds every caller to a valid structure or null.
        let (Some(datagram), Ok(offset), Ok(length)) =
            (unsafe { datagram.as_mut() }, u16::try_from(offset), u16::try_from(length))
        else {
            return number(Err(Verdict::DropInternal));
        };
        let piece = Piece { offset, length, more: more != 0 };
        number(datagram.place(piece).map(|()| Verdict::Pass))
    }
}

/// [`Datagram::place`].
#[inline(always)]
pub(crate) fn place(datagram: &mut Datagram, packet: &Packet) -> Result<(), Verdict> {
    let &Packet { fragment_offset, fragment_bytes, fragment_more, .. } = packet;
    judged(sekisho_place(datagram, fragment_offset.into(), fragment_bytes.into(), fragment_more.into()))
        .map(|_| ())
}

subprogram! {
    fn sekisho_arrive(scratch: *mut Scratch, port: u32) -> u32 {
        // SAFETY: as above.
        match (unsafe { scratch.as_mut() }, u16::try_from(port)) {
            (Some(scratch), Ok(port)) => number(fragment::arrive(scratch, port).map(|()| Verdict::Pass)),
            _ => number(Err(Verdict::DropInternal)),
        }
    }
}

/// [`fragment::arrive`].
#[inline(always)]
pub(crate) fn arrive(scratch: &mut Scratch, port: u16) -> Result<(), Verdict> {
    judged(sekisho_arrive(scratch, port.into())).map(|_| ())
}

subprogram! {
    fn sekisho_depart(scratch: *mut Scratch, port: u32, passed: u32) -> u32 {
        // SAFETY: as above.
        if let (Some(scratch), Ok(port)) = (unsafe { scratch.as_mut() }, u16::try_from(port)) {
            fragment::depart(scratch, port, passed != 0);
        }
        0
    }
}

/// [`fragment::depart`].
#[inline(always)]
pub(crate) fn depart(scratch: &mut Scratch, port: u16, passed: bool) {
    sekisho_depart(scratch, port.into(), passed.into());
}
