//! What becomes of one frame: plaintext frame in, ESP frame out, and back. No socket and no clock of its own, so all
//! of it is tested with bytes alone.
//!
//! Every refusal has a [`DropReason`]; where an SA is known it is counted there as well.
//!
//! Cost aim: beside the cipher, at most 100 ns for a packet.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant};

use sekisho_abi::port::{ENGINE_MAC_PREFIX, engine_mac};

use super::config::MacAddress;
use super::counters::DropReason;
use super::table::{Pair, Selection, Table, Wear};
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
    events: Events,
    inner_peer_mac: MacAddress,
    acquire_interval: Duration,
    /// IPv4 identification of the next packet that may be fragmented.
    identification: u16,
}

/// Where events go. Never waits: what is not taken is told again when it happens again.
#[derive(Debug)]
pub(crate) struct Events(SyncSender<SaEvent>);

impl Events {
    pub(crate) fn new(sender: SyncSender<SaEvent>) -> Self {
        Self(sender)
    }

    /// Tells an event once: `told` remembers, unless the queue was full.
    fn once(&self, told: &mut bool, event: SaEvent) {
        if !*told {
            *told = self.tell(event);
        }
    }

    fn tell(&self, event: SaEvent) -> bool {
        !matches!(self.0.try_send(event), Err(TrySendError::Full(_)))
    }
}

impl Pipeline {
    pub(crate) fn new(
        table: Table,
        events: Events,
        inner_peer_mac: MacAddress,
        acquire_interval: Duration,
        now: Instant,
    ) -> Self {
        Self { table, now, events, inner_peer_mac, acquire_interval, identification: 0 }
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
        let Pair { outbound, cells, spi_in, soft_told, hard_told, .. } = pair;
        let outbound = outbound.as_mut().ok_or(DropReason::NoSa)?;
        let (cells, spi_in) = (&cells.outbound.0, *spi_in);

        match worse(outbound.meter.wear(), outbound.sequence.wear()) {
            Wear::Fresh => {}
            Wear::Soft => self.events.once(soft_told, SaEvent::SoftExpired { spi_in }),
            Wear::Hard => {
                cells.expired.add(1);
                self.events.once(hard_told, SaEvent::HardExpired { spi_in });
                return Err(DropReason::Expired);
            }
        }
        let Some(path) = outbound.path else {
            cells.unsent.add(1);
            return Err(DropReason::NoPath);
        };
        let layout = outbound.key.layout();
        let before = outbound.header.bytes() + layout.headroom();
        let behind = layout.tailroom(packet.length);
        if before + packet.length + behind > path.mtu
            || before + ETHERNET_BYTES > place.start
            || place.end.saturating_add(behind) > buffer.len()
        {
            cells.unsent.add(1);
            return Err(DropReason::TooLarge);
        }

        // Nothing can fail from here on for want of room: no sequence number is lost.
        let sequence = outbound.sequence.take().ok_or(DropReason::Expired)?;
        let sealed = outbound
            .key
            .seal(buffer, place, outbound.spi, sequence, packet.version.next_header())
            .map_err(|_| DropReason::TooLarge)?;
        self.identification = self.identification.wrapping_add(1);
        let outer = outbound
            .header
            .prepend(buffer, sealed, packet, self.identification)
            .map_err(|_| DropReason::TooLarge)?;
        let ether_type = outbound.header.ether_type();
        let frame = prepend_ethernet(buffer, outer, path.l2.destination_mac, path.l2.source_mac, ether_type)?;
        outbound.meter.add(packet.length);
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
    fn acquire(&mut self, port: PortId, packet: &InnerPacket) {
        let Some(state) = self.table.port_mut(port) else { return };
        let due =
            state.acquire_told.is_none_or(|told| self.now.duration_since(told) >= self.acquire_interval);
        let event = SaEvent::Acquire { port, source: packet.source(), destination: packet.destination() };
        if due && self.events.tell(event) {
            state.acquire_told = Some(self.now);
        }
    }
}

/// RFC 4303 section 3.4: window, integrity, window again, then what was inside. Returns where the inner packet lies.
fn open(
    pair: &mut Pair,
    events: &Events,
    buffer: &mut [u8],
    esp: Range<usize>,
    outer: &OuterPacket,
    sequence_low: u32,
) -> Result<(Range<usize>, Version), DropReason> {
    let spi_in = pair.spi_in;
    let cells = &pair.cells.inbound.0;
    let inbound = &mut pair.inbound;
    match inbound.meter.wear() {
        Wear::Fresh => {}
        Wear::Soft => events.once(&mut pair.soft_told, SaEvent::SoftExpired { spi_in }),
        Wear::Hard => {
            cells.expired.add(1);
            events.once(&mut pair.hard_told, SaEvent::HardExpired { spi_in });
            return Err(DropReason::Expired);
        }
    }

    let sequence = inbound.window.check(sequence_low).map_err(|_| {
        cells.replay.add(1);
        DropReason::Replay
    })?;
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
    let newest = inbound.window.commit(sequence);
    if pair.outbound.is_some() {
        if !pair.active {
            events.once(&mut pair.first_inbound_told, SaEvent::FirstInbound { spi_in });
        }
        // Only the newest packet may move the path: a copy sent late from elsewhere must not.
        if newest {
            tell_remapped(&mut pair.remapped_told, pair.outer.remote, outer, spi_in, events);
        }
    }
    let opened = opened?;
    if opened.next_header == NEXT_HEADER_NONE {
        inbound.meter.add(0);
        return Err(DropReason::Dummy);
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
    inbound.meter.add(packet.length);
    cells.packets.add(1);
    cells.bytes.add(packet.length as u64);
    Ok((start..start + packet.length, packet.version))
}

fn tell_remapped(
    told: &mut Option<SocketAddr>,
    expected: SocketAddr,
    outer: &OuterPacket,
    spi_in: u32,
    events: &Events,
) {
    let remote = outer.source;
    let same = if outer.udp { remote == expected } else { remote.ip() == expected.ip() };
    if same {
        *told = None;
    } else if *told != Some(remote) && events.tell(SaEvent::Remapped { spi_in, remote }) {
        *told = Some(remote);
    }
}

fn worse(a: Wear, b: Wear) -> Wear {
    match (a, b) {
        (Wear::Hard, _) | (_, Wear::Hard) => Wear::Hard,
        (Wear::Soft, _) | (_, Wear::Soft) => Wear::Soft,
        (Wear::Fresh, Wear::Fresh) => Wear::Fresh,
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
