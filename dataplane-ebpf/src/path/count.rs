//! Step 8: one counter for every verdict, and sampled events.

use sekisho_abi::event::Event;
use sekisho_abi::port::{Port, PortKey};
use sekisho_abi::verdict::{Verdict, counter_index};
use sekisho_dataplane::parse::Packet;
use sekisho_dataplane::rate;

use crate::context::now_ns;
use crate::maps;
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
    if verdict.is_drop() {
        subprogram::event(seen, verdict);
    }
}

/// Sends an event unless this verdict had its share for now, which is told by `false`. An event that finds no room is
/// lost: the counters tell.
#[inline(always)]
pub(crate) fn event(seen: &Seen, verdict: u32) -> bool {
    let Some(rate) = maps::EVENT_RATES.get_ptr_mut(verdict) else { return false };
    let now_ns = now_ns();
    // SAFETY: the entry is this CPU's own, and outlives the program's run.
    let Some(next_ns) = rate::EVENTS.admit(unsafe { (*rate).next_ns }, now_ns) else { return false };
    // SAFETY: as above.
    unsafe { (*rate).next_ns = next_ns };
    let Some(mut entry) = maps::EVENTS.reserve::<Event>(0) else { return true };
    let packet = &seen.packet;
    entry.write(Event {
        time_ns: now_ns,
        source: packet.source,
        destination: packet.destination,
        spi_be: packet.spi_be,
        ifindex: seen.ifindex,
        port: seen.port,
        source_port_be: packet.source_port_be,
        destination_port_be: packet.destination_port_be,
        protocol: packet.protocol,
        verdict: (verdict & 0xff) as u8,
    });
    entry.submit(0);
    true
}
