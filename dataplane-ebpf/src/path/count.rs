//! Step 8: one counter for every verdict, and sampled events.

use sekisho_abi::event::{Event, FlowEnd, TRACED};
use sekisho_abi::flow::{Flow, FlowKey};
use sekisho_abi::map::config_flags;
use sekisho_abi::port::{Port, PortKey};
use sekisho_abi::verdict::{Verdict, counter_index};
use sekisho_dataplane::parse::Packet;
use sekisho_dataplane::{rate, trace};

use crate::context::now_ns;
use crate::maps;
use crate::memo::{self, Way};
use crate::path::port::Receiver;
use crate::subprogram;

/// What is known of a frame, filled on its way. Without padding, as the verifier wants every byte set of what goes to a
/// subprogram.
#[repr(C, align(8))]
pub(crate) struct Seen {
    /// Device.
    pub(crate) ifindex: u32,
    /// Port id, 0 until known.
    pub(crate) port: u16,
    /// With `ifindex` the key of the port in `PORTS`.
    pub(crate) vlan: u16,
    /// The packet, empty until parsed.
    pub(crate) packet: Packet,
    /// The generation by which all of it is judged.
    pub(crate) generation: u32,
    /// Whom the frame is for.
    pub(crate) receiver: Receiver,
    reserved: [u8; 3],
}

const _: () = assert!(size_of::<Seen>() == 96, "padding");

impl Seen {
    #[inline(always)]
    pub(crate) fn new(ifindex: u32) -> Self {
        Self {
            ifindex,
            port: 0,
            vlan: 0,
            packet: Packet::default(),
            generation: 0,
            receiver: Receiver::Group,
            reserved: [0; 3],
        }
    }

    /// The port once more, for a subprogram.
    #[inline(always)]
    pub(crate) fn port(&self) -> Result<&'static Port, Verdict> {
        maps::port(PortKey { ifindex: self.ifindex, vlan: self.vlan, reserved: 0 }).ok_or(Verdict::DropNoPort)
    }

    /// The port that the program `port` has got the frame by.
    #[inline(always)]
    pub(crate) fn entered(&self) -> Result<&'static Port, Verdict> {
        let key = PortKey { ifindex: self.ifindex, vlan: self.vlan, reserved: 0 };
        memo::port(Way::In, key, self.generation).ok_or(Verdict::DropNoPort)
    }
}

/// Counts the verdict, and tells the daemon of what was refused.
#[inline(always)]
pub(crate) fn verdict(seen: &Seen, verdict: Verdict, bytes: u32) {
    if let Some(counter) = maps::COUNTERS.get_ptr_mut(counter_index(seen.port, verdict)) {
        // SAFETY: the entry is this CPU's own, and a program is not interrupted by another of its kind on it.
        unsafe {
            (*counter).packets = (*counter).packets.wrapping_add(1);
            (*counter).bytes = (*counter).bytes.wrapping_add(u64::from(bytes));
        }
    }
    if verdict.is_drop() && is_due(verdict) {
        subprogram::event(seen, verdict);
    }
    if maps::config().is_some_and(|config| config.flags & config_flags::TRACE != 0) {
        subprogram::trace(seen, verdict);
    }
}

/// Whether an event of this verdict may be sent now: without a call for the many that may not.
#[inline(always)]
fn is_due(verdict: Verdict) -> bool {
    let Some(rate) = maps::EVENT_RATES.get_ptr(u32::from(verdict as u8)) else { return false };
    // SAFETY: the entry is this CPU's own, and outlives the program's run.
    rate::EVENTS.admit(unsafe { (*rate).next_ns }, now_ns()).is_some()
}

/// Sends an event if a trace asks for this packet.
#[inline(always)]
pub(crate) fn traced(seen: &Seen, verdict: u32) {
    let now_ns = now_ns();
    let Some(trace) = maps::TRACE.get(0) else { return };
    let is_drop = verdict >= FIRST_DROP;
    if !trace::wants(trace, &seen.packet, seen.port, is_drop, now_ns) {
        return;
    }
    let Some(rate) = maps::TRACE_RATES.get_ptr_mut(0) else { return };
    // SAFETY: the entry is this CPU's own, and outlives the program's run.
    match rate::TRACES.admit(unsafe { (*rate).next_ns }, now_ns) {
        // SAFETY: as above.
        Some(next_ns) => unsafe { (*rate).next_ns = next_ns },
        None => return lost(),
    }
    send(seen, verdict as u8 | TRACED, now_ns);
}

/// Tells the daemon of a flow that ends here.
#[inline(always)]
pub(crate) fn flow_end(key: &FlowKey, flow: &Flow, why: u32) {
    let Some(mut entry) = maps::EVENTS.reserve::<FlowEnd>(0) else { return lost() };
    let end = entry.as_mut_ptr();
    // SAFETY: reserved memory of a `FlowEnd`; every field is written. Field by field, as the whole does not fit the stack.
    unsafe {
        (&raw mut (*end).time_ns).write(now_ns());
        core::ptr::copy_nonoverlapping(key, &raw mut (*end).key, 1);
        core::ptr::copy_nonoverlapping(flow, &raw mut (*end).flow, 1);
        (&raw mut (*end).why).write(why);
        (&raw mut (*end).reserved).write(0);
    }
    entry.submit(0);
}

/// Counts an event that found no room.
#[inline(always)]
fn lost() {
    if let Some(lost) = maps::LOST.get_ptr_mut(0) {
        // SAFETY: the entry is this CPU's own.
        unsafe { *lost = (*lost).wrapping_add(1) };
    }
}

/// The least number of a verdict that refuses.
const FIRST_DROP: u32 = 16;

/// Sends an event unless this verdict had its share for now, which is told by `false`. An event that finds no room is
/// lost, and counted.
#[inline(always)]
pub(crate) fn event(seen: &Seen, verdict: u32) -> bool {
    let Some(rate) = maps::EVENT_RATES.get_ptr_mut(verdict) else { return false };
    let now_ns = now_ns();
    // SAFETY: the entry is this CPU's own, and outlives the program's run.
    let Some(next_ns) = rate::EVENTS.admit(unsafe { (*rate).next_ns }, now_ns) else { return false };
    // SAFETY: as above.
    unsafe { (*rate).next_ns = next_ns };
    send(seen, (verdict & 0xff) as u8, now_ns);
    true
}

#[inline(always)]
fn send(seen: &Seen, verdict: u8, now_ns: u64) {
    let Some(mut entry) = maps::EVENTS.reserve::<Event>(0) else { return lost() };
    let (packet, event) = (&seen.packet, entry.as_mut_ptr());
    // SAFETY: reserved memory of an `Event`; every field is written. Field by field, for the stack's sake.
    unsafe {
        (&raw mut (*event).time_ns).write(now_ns);
        core::ptr::copy_nonoverlapping(&raw const packet.source, &raw mut (*event).source, 1);
        core::ptr::copy_nonoverlapping(&raw const packet.destination, &raw mut (*event).destination, 1);
        (&raw mut (*event).spi_be).write(packet.spi_be);
        (&raw mut (*event).ifindex).write(seen.ifindex);
        (&raw mut (*event).port).write(seen.port);
        (&raw mut (*event).source_port_be).write(packet.source_port_be);
        (&raw mut (*event).destination_port_be).write(packet.destination_port_be);
        (&raw mut (*event).protocol).write(packet.protocol);
        (&raw mut (*event).verdict).write(verdict);
    }
    entry.submit(0);
}
