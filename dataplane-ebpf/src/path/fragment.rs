//! Fragments: put to the others of their datagram before they are judged, and the first one's judgment remembered for
//! them.
//!
//! A later fragment that comes before its first is let through only between hosts whose last first fragment was let
//! through a moment ago, by the same ports, and only so many. A receiver can do nothing with it unless the first follows,
//! and that one is judged like any other. None is between hosts whose addresses were translated. Programs on two CPUs may put fragments of one datagram together at once, and
//! miss an overlap; NICs spread fragments by addresses alone, so that those of one datagram come to one CPU.

use aya_ebpf::bindings::BPF_ANY;
use sekisho_abi::verdict::Verdict;
use sekisho_dataplane::fragment::{self, Datagram, EARLY_MAX, LIFETIME_NS, Pair, part};
use sekisho_dataplane::parse::Packet;
use sekisho_dataplane::rate::{self, Share, of};

use crate::context::now_ns;
use crate::maps;
use crate::path::share;
use crate::scratch::Scratch;
use crate::subprogram;

/// Before a fragment is judged. `port`: where it enters, or leaves with [`fragment::LEAVING`].
#[inline(always)]
pub(crate) fn arrive(scratch: &mut Scratch, port: u16) -> Result<(), Verdict> {
    let now_ns = now_ns();
    let packet = &mut scratch.seen.packet;
    let key = fragment::key(packet, port);
    if let Some(datagram) = datagram(&key).filter(|datagram| !datagram.is_over(now_ns)) {
        subprogram::place(datagram, packet)?;
        if packet.fragment == part::FIRST {
            return Ok(());
        }
        if datagram.has_first() {
            fragment::complete(packet, datagram);
            return Ok(());
        }
        scratch.exit = early(packet, scratch.seen.generation, port, now_ns)?;
        packet.fragment = part::EARLY;
        return Ok(());
    }
    let share = Share::new(&packet.source, packet.version, port, of::FRAGMENTS);
    if !share::take(share, rate::FRAGMENTS, now_ns) {
        return Err(Verdict::DropFragmentRate);
    }
    if packet.fragment == part::FIRST {
        return Ok(());
    }
    scratch.exit = early(packet, scratch.seen.generation, port, now_ns)?;
    begin(&key, packet, false, now_ns)?;
    packet.fragment = part::EARLY;
    Ok(())
}

/// After a fragment was judged.
#[inline(always)]
pub(crate) fn depart(scratch: &mut Scratch, port: u16, passed: bool) {
    let Scratch { seen, nat, .. } = scratch;
    let packet = &mut seen.packet;
    if packet.fragment != part::FIRST {
        return;
    }
    if nat.active != 0 {
        // The others come with the ends that it came with.
        nat.entering.put_destination(packet);
    }
    let now_ns = now_ns();
    let key = fragment::key(packet, port);
    match datagram(&key).filter(|datagram| !datagram.is_over(now_ns)) {
        Some(datagram) if passed => datagram.admit(packet),
        Some(datagram) => datagram.refuse(),
        // Where there is no room the others find no first, and are dropped.
        None if passed => drop(begin(&key, packet, true, now_ns)),
        None => {}
    }
    if passed && port & fragment::LEAVING == 0 {
        let &mut Scratch { exit, ref seen, ref nat, .. } = scratch;
        let packet = &seen.packet;
        // What one that comes before its first would be translated to is not known.
        let early = if nat.changes() { 0 } else { EARLY_MAX };
        let pair = Pair { seen_ns: now_ns, generation: seen.generation, exit, early };
        // As above: without it none may come early.
        let _ = maps::FRAGMENT_PAIRS.insert(fragment::pair_key(packet, port), pair, u64::from(BPF_ANY));
    }
}

/// The datagram with this key.
#[inline(always)]
fn datagram(key: &fragment::FragmentKey) -> Option<&'static mut Datagram> {
    // SAFETY: a hash's elements are never unmapped while a program runs, and any bytes that programs write there are a
    // value. One that is another datagram's by now names ports of no flow between this fragment's hosts.
    maps::FRAGMENTS.get_ptr_mut(key).map(|datagram| unsafe { &mut *datagram })
}

/// A new datagram, of which this fragment has come.
#[inline(always)]
fn begin(key: &fragment::FragmentKey, packet: &Packet, admitted: bool, now_ns: u64) -> Result<(), Verdict> {
    let scratch = maps::NEW_DATAGRAM.get_ptr_mut(0).ok_or(Verdict::DropInternal)?;
    // SAFETY: the entry is this CPU's own; one program at a time makes a datagram on it, as for `Scratch`. A program on its
    // way out may run where one on its way in has ended, never in its middle.
    let new = unsafe { &mut *scratch };
    new.begin(now_ns);
    subprogram::place(new, packet)?;
    if admitted {
        new.admit(packet);
    }
    maps::FRAGMENTS.insert(key, *new, u64::from(BPF_ANY)).map_err(|_| Verdict::DropFragmentOrphan)
}

/// Where a fragment may go that comes before its first.
#[inline(always)]
fn early(packet: &Packet, generation: u32, port: u16, now_ns: u64) -> Result<u16, Verdict> {
    let pair = maps::FRAGMENT_PAIRS.get_ptr_mut(fragment::pair_key(packet, port));
    // SAFETY: as for `datagram`; one that is another pair's by now is held against the route, too.
    let pair = pair.map(|pair| unsafe { &mut *pair }).ok_or(Verdict::DropFragmentOrphan)?;
    let fresh = now_ns.saturating_sub(pair.seen_ns) <= LIFETIME_NS && pair.generation == generation;
    if !fresh || pair.early == 0 {
        return Err(Verdict::DropFragmentOrphan);
    }
    pair.early = pair.early.wrapping_sub(1);
    Ok(pair.exit)
}
