//! Which pair took the last packets of a flow. A port may have a thousand peers, and the selectors of one after the other
//! would be held against every packet: cheap for the first peer, dear for the last.
//!
//! Cost aim: 10 ns for a flow that is known, however many pairs there are.

use super::table::Slot;
use crate::sa::PortId;
use crate::transform::InnerPacket;
use crate::transform::inner::Ports;

/// Flows that are remembered; a power of two. Of two in one place the later is.
const PLACES: usize = 4096;

/// All of a packet that selectors ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flow {
    port: PortId,
    protocol: u8,
    ports: Ports,
    source: u128,
    destination: u128,
}

impl Flow {
    fn of(port: PortId, packet: &InnerPacket) -> Self {
        let InnerPacket { source, destination, protocol, ports, .. } = *packet;
        Self { port, protocol, ports, source, destination }
    }

    /// Where it is remembered. Who fills one place with flows of his own makes them slow, and is held against every
    /// selector as before.
    fn place(&self) -> usize {
        let fold = |address: u128| (address >> 64) as u64 ^ address as u64;
        let ports = match self.ports {
            Ports::Pair { source, destination } => u64::from(source) << 16 | u64::from(destination),
            Ports::TypeCode(both) => 1 << 32 | u64::from(both),
            Ports::Opaque => 1 << 33,
        };
        let mixed =
            (fold(self.source) ^ fold(self.destination).rotate_left(32) ^ ports << 8 ^ u64::from(self.port))
                .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 40) as usize & (PLACES - 1)
    }
}

/// The flows.
#[derive(Debug)]
pub(super) struct Recent {
    /// Flow, pair, and the number of changes before which it was so.
    places: Box<[Option<(Flow, Slot, u64)>]>,
    changes: u64,
}

impl Recent {
    pub(super) fn new() -> Self {
        Self { places: (0..PLACES).map(|_| None).collect(), changes: 0 }
    }

    /// Pairs in use have come or gone: whatever was known is to be asked again.
    pub(super) fn forget(&mut self) {
        self.changes += 1;
    }

    /// The pair that took the last packet of this flow.
    pub(super) fn pair(&self, port: PortId, packet: &InnerPacket) -> Option<Slot> {
        let flow = Flow::of(port, packet);
        match self.places.get(flow.place())? {
            Some((known, slot, changes)) if *changes == self.changes && *known == flow => Some(*slot),
            _ => None,
        }
    }

    /// Which of so many takes a flow: always the same one.
    pub(super) fn deal(port: PortId, packet: &InnerPacket, count: usize) -> usize {
        Flow::of(port, packet).place() % count.max(1)
    }

    /// This pair takes it.
    pub(super) fn remember(&mut self, port: PortId, packet: &InnerPacket, slot: Slot) {
        let flow = Flow::of(port, packet);
        if let Some(place) = self.places.get_mut(flow.place()) {
            *place = Some((flow, slot, self.changes));
        }
    }
}
