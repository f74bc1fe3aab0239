//! What becomes of one frame: plaintext frame in, ESP frame out, and back. No socket and no clock of its own, so all
//! of it is tested with bytes alone.
//!
//! Every refusal has a [`DropReason`]; where an SA is known it is counted there as well.
//!
//! Cost aim: beside the cipher, at most 100 ns for a packet.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use sekisho_abi::port::{ENGINE_MAC_PREFIX, engine_mac};

use super::config::MacAddress;
use super::counters::DropReason;
use super::lifetime::Wear;
use super::pair::Pair;
use super::table::{Selection, Table};
use super::told::{Acquires, Events, Told};
use crate::sa::{PortId, SaEvent};
use crate::transform::inner::{Version, set_ecn};
use crate::transform::outer::decapsulated_ecn;
use crate::transform::packet::NEXT_HEADER_NONE;
use crate::transform::{EspHeader, InnerPacket, OpenError, OuterError, OuterPacket};

/// Ethernet II without a tag.
const ETHERNET_BYTES: usize = 14;

/// An ESP frame ready to leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Departure {
    /// Where the frame lies in the buffer.
    pub(crate) frame: Range<usize>,
    /// Index of the outer device.
    pub(crate) device: usize,
}

/// The SAs, and what is needed around them to turn one frame into another.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) table: Table,
    /// The time of the batch.
    pub(crate) now: Instant,
    /// Which outer devices do not get on with what is sealed already: for these nothing more is.
    pub(crate) backed_up: Box<[bool]>,
    events: Events,
    acquires: Arc<Acquires>,
    inner_peer_mac: MacAddress,
    /// IPv4 identification of the last packet.
    identification: u16,
    /// From one identification to the next: each worker has its own residue, so that none are in use twice at a time. A power of
    /// two, by which a residue outlives the wrap at 65,536.
    identification_step: u16,
}

impl Pipeline {
    pub(crate) fn new(
        table: Table,
        events: Events,
        acquires: Arc<Acquires>,
        inner_peer_mac: MacAddress,
        now: Instant,
    ) -> Self {
        let turn = table.turn();
        Self {
            backed_up: vec![false; table.devices()].into(),
            table,
            now,
            events,
            acquires,
            inner_peer_mac,
            identification: turn.worker,
            identification_step: turn.workers.next_power_of_two(),
        }
    }

    /// A frame from the plaintext side: its destination address names the VPN port. On success the ESP frame lies in
    /// the same buffer.
    pub(crate) fn encrypt(
        &mut self,
        buffer: &mut [u8],
        frame: Range<usize>,
    ) -> Result<Departure, DropReason> {
        let bytes = buffer.get(frame.clone()).ok_or(DropReason::Malformed)?;
        let (&[m0, m1, m2, m3, p0, p1, _, _, _, _, _, _, t0, t1], packet) =
            bytes.split_first_chunk::<ETHERNET_BYTES>().ok_or(DropReason::Malformed)?;
        if [m0, m1, m2, m3] != ENGINE_MAC_PREFIX {
            return Err(DropReason::Foreign);
        }
        let version = version_of([t0, t1]).ok_or(DropReason::Foreign)?;
        let packet = InnerPacket::parse(packet).map_err(|_| DropReason::Malformed)?;
        if packet.version != version {
            return Err(DropReason::Malformed);
        }
        let start = frame.start + ETHERNET_BYTES;
        self.encrypt_packet(buffer, start..start + packet.length, &packet, u16::from_be_bytes([p0, p1]))
    }

    fn encrypt_packet(
        &mut self,
        buffer: &mut [u8],
        place: Range<usize>,
        packet: &InnerPacket,
        port: PortId,
    ) -> Result<Departure, DropReason> {
        let slot = match self.table.select(port, packet).ok_or(DropReason::Foreign)? {
            Selection::Pair(slot) => slot,
            Selection::Outside(slot) => {
                if let Some(pair) = self.table.pair_mut(slot) {
                    pair.cells.outbound.0.selector.add(1);
                }
                self.acquire(port, packet);
                return Err(DropReason::Selector);
            }
            Selection::NoneInUse => {
                self.acquire(port, packet);
                return Err(DropReason::NoSa);
            }
        };
        let pair = self.table.pair_mut(slot).ok_or(DropReason::NoSa)?;
        let Pair { outbound, cells, spi_in, told, .. } = pair;
        let outbound = outbound.as_ref().ok_or(DropReason::NoSa)?;
        let (cells, sa) = (&cells.outbound.0, &*outbound.sa);

        let wear = sa.meter.wear().max(sa.sequence.wear());
        tell_wear(wear, told, &self.events, *spi_in);
        if wear == Wear::Hard {
            cells.expired.add(1);
            return Err(DropReason::Expired);
        }
        let Some(path) = outbound.path else {
            cells.unsent.add(1);
            return Err(DropReason::NoPath);
        };
        let layout = sa.key.layout();
        let before = outbound.header.bytes() + layout.headroom();
        let behind = layout.tailroom(packet.length);
        if before + packet.length + behind > path.mtu
            || before + ETHERNET_BYTES > place.start
            || place.end.saturating_add(behind) > buffer.len()
        {
            cells.unsent.add(1);
            return Err(DropReason::TooLarge);
        }

        if self.backed_up.get(path.device) == Some(&true) {
            cells.unsent.add(1);
            return Err(DropReason::RingFull);
        }

        // Nothing can fail from here on for want of room: no sequence number is lost.
        let taken = if sa.meter.take(packet.length) { sa.sequence.take() } else { None };
        let Some(sequence) = taken else {
            // Another worker has used up what was left since it was looked at.
            cells.expired.add(1);
            tell_wear(Wear::Hard, told, &self.events, *spi_in);
            return Err(DropReason::Expired);
        };
        let sealed = sa
            .key
            .seal(buffer, place, sa.spi, sequence, packet.version.next_header())
            .map_err(|_| DropReason::TooLarge)?;
        self.identification = self.identification.wrapping_add(self.identification_step);
        let outer = outbound
            .header
            .prepend(buffer, sealed, packet, self.identification)
            .map_err(|_| DropReason::TooLarge)?;
        let ether_type = outbound.header.ether_type();
        let frame = prepend_ethernet(buffer, outer, path.l2.destination_mac, path.l2.source_mac, ether_type)?;
        cells.packets.add(1);
        cells.bytes.add(packet.length as u64);
        Ok(Departure { frame, device: path.device })
    }

    /// A frame from an outer device: Ethernet, IP, perhaps UDP, ESP. On success the plaintext frame for the other end
    /// of the veth pair lies in the same buffer.
    pub(crate) fn decrypt(
        &mut self,
        buffer: &mut [u8],
        frame: Range<usize>,
    ) -> Result<Range<usize>, DropReason> {
        let bytes = buffer.get(frame.clone()).ok_or(DropReason::Malformed)?;
        let (&[.., t0, t1], packet) =
            bytes.split_first_chunk::<ETHERNET_BYTES>().ok_or(DropReason::Malformed)?;
        version_of([t0, t1]).ok_or(DropReason::Foreign)?;
        let outer = OuterPacket::parse(packet).map_err(|error| match error {
            OuterError::Protocol => DropReason::Foreign,
            _ => DropReason::Malformed,
        })?;
        let start = frame.start + ETHERNET_BYTES;
        let esp = start + outer.esp.start..start + outer.esp.end;
        self.decrypt_esp(buffer, esp, &outer)
    }

    /// The same from the SPI on: `esp` is where it lies, with room before it for an Ethernet header. `outer`: what it came
    /// in.
    pub(crate) fn decrypt_esp(
        &mut self,
        buffer: &mut [u8],
        esp: Range<usize>,
        outer: &OuterPacket,
    ) -> Result<Range<usize>, DropReason> {
        let header = buffer.get(esp.clone()).and_then(EspHeader::parse).ok_or(DropReason::Malformed)?;
        let pair = self.table.inbound(header.spi).ok_or(DropReason::UnknownSpi)?;
        let destination = outer.destination.ip();
        if destination != pair.outer.local.ip() && Some(destination) != pair.former {
            return Err(DropReason::UnknownSpi);
        }
        if outer.udp != pair.outer.udp_encapsulation
            || (outer.udp && outer.destination.port() != pair.outer.local.port())
        {
            pair.cells.inbound.0.malformed.add(1);
            return Err(DropReason::Encapsulation);
        }
        open(pair, &self.events, buffer, esp, outer, header.sequence_low).and_then(|(place, version)| {
            prepend_ethernet(buffer, place, self.inner_peer_mac, engine_mac(pair.port), version.ether_type())
        })
    }

    /// Asks for an SA, at a bounded rate for each port.
    fn acquire(&self, port: PortId, packet: &InnerPacket) {
        let event = SaEvent::Acquire { port, source: packet.source(), destination: packet.destination() };
        self.acquires.tell(port, self.now, &self.events, event);
    }
}

/// RFC 4303 section 3.4: window, integrity, window again, then what was inside. Returns where the inner packet lies.
fn open(
    pair: &Pair,
    events: &Events,
    buffer: &mut [u8],
    esp: Range<usize>,
    outer: &OuterPacket,
    sequence_low: u32,
) -> Result<(Range<usize>, Version), DropReason> {
    let spi_in = pair.spi_in;
    let cells = &pair.cells.inbound.0;
    let inbound = &*pair.inbound;
    let worn_out = || {
        cells.expired.add(1);
        tell_wear(Wear::Hard, &pair.told, events, spi_in);
        DropReason::Expired
    };
    match inbound.meter.wear() {
        Wear::Hard => return Err(worn_out()),
        wear => tell_wear(wear, &pair.told, events, spi_in),
    }

    let replayed = |_| {
        cells.replay.add(1);
        DropReason::Replay
    };
    let sequence = inbound.window.check(sequence_low).map_err(replayed)?;
    let opened = match inbound.key.open(buffer, esp, sequence) {
        Ok(opened) => Ok(opened),
        Err(OpenError::Integrity) => {
            cells.integrity.add(1);
            return Err(DropReason::Integrity);
        }
        Err(OpenError::Truncated) => {
            cells.malformed.add(1);
            return Err(DropReason::Malformed);
        }
        // Authentic, so the window moves all the same.
        Err(OpenError::Padding) => {
            cells.malformed.add(1);
            Err(DropReason::Malformed)
        }
    };
    let newest = inbound.window.commit(sequence).map_err(replayed)?;
    if pair.outbound.is_some() {
        if !pair.active {
            events.once(&pair.told.first_inbound, SaEvent::FirstInbound { spi_in });
        }
        // Only the newest packet may move the path: a copy sent late from elsewhere must not.
        if newest {
            tell_remapped(&pair.told, pair.outer.remote, outer, spi_in, events);
        }
    }
    let opened = opened?;
    if opened.next_header == NEXT_HEADER_NONE {
        return Err(if inbound.meter.take(0) { DropReason::Dummy } else { worn_out() });
    }

    let start = opened.payload.start;
    let payload = buffer.get_mut(opened.payload).unwrap_or_default();
    let packet = InnerPacket::parse(payload)
        .ok()
        .filter(|packet| packet.version.next_header() == opened.next_header)
        .filter(|packet| pair.selectors.matches_inbound(packet))
        .ok_or_else(|| {
            cells.selector.add(1);
            DropReason::Selector
        })?;
    let ecn = decapsulated_ecn(packet.traffic_class, outer.ecn).ok_or(DropReason::Congestion)?;
    if ecn != packet.traffic_class & 3 {
        set_ecn(payload, packet.version, ecn);
    }
    if !inbound.meter.take(packet.length) {
        return Err(worn_out());
    }
    cells.packets.add(1);
    cells.bytes.add(packet.length as u64);
    Ok((start..start + packet.length, packet.version))
}

fn tell_remapped(told: &Told, expected: SocketAddr, outer: &OuterPacket, spi_in: u32, events: &Events) {
    let remote = outer.source;
    let same = |expected: SocketAddr| {
        if outer.udp { remote == expected } else { remote.ip() == expected.ip() }
    };
    if same(expected) {
        told.remapped.is_home();
    } else {
        told.remapped.is_elsewhere(remote, same, events, spi_in);
    }
}

fn tell_wear(wear: Wear, told: &Told, events: &Events, spi_in: u32) {
    match wear {
        Wear::Fresh => {}
        Wear::Soft => events.once(&told.soft, SaEvent::SoftExpired { spi_in }),
        Wear::Hard => events.once(&told.hard, SaEvent::HardExpired { spi_in }),
    }
}

fn version_of(ether_type: [u8; 2]) -> Option<Version> {
    [Version::V4, Version::V6].into_iter().find(|version| version.ether_type().to_be_bytes() == ether_type)
}

fn prepend_ethernet(
    buffer: &mut [u8],
    packet: Range<usize>,
    destination: MacAddress,
    source: MacAddress,
    ether_type: u16,
) -> Result<Range<usize>, DropReason> {
    let start = packet.start.checked_sub(ETHERNET_BYTES).ok_or(DropReason::TooLarge)?;
    let header = buffer.get_mut(start..packet.start).ok_or(DropReason::TooLarge)?;
    let bytes = destination.into_iter().chain(source).chain(ether_type.to_be_bytes());
    header.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    Ok(start..packet.end)
}

#[cfg(test)]
mod tests;
