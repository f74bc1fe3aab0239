//! Writing other addresses and ports into a packet, with every checksum that covers them (RFC 1624, RFC 3022
//! section 4.1), and into the packet that an ICMP error quotes (RFC 5508 section 4).

use crate::flow;
use crate::fragment::part;
use crate::frame::Frame;
use crate::icmp::ERROR_BYTES;
use crate::nat::Ends;
use crate::parse::{ETHERNET_BYTES, IPV4_BYTES, IPV6_BYTES, Kind, Packet, protocol};

/// A frame that can be written to. Offsets as in [`Frame`].
pub trait Rewrite: Frame {
    /// Writes four bytes, a number in the machine's order, at an offset that is a constant once everything is inlined.
    fn write_u32(&self, offset: u32, value: u32) -> Option<()>;

    /// Writes two bytes, likewise.
    fn write_u16(&self, offset: u32, value: u16) -> Option<()>;

    /// Writes eight bytes, likewise.
    fn write_u64(&self, offset: u32, value: u64) -> Option<()>;

    /// Writes at an offset that depends on the packet.
    fn write_at<const N: usize>(&self, offset: u32, bytes: [u8; N]) -> Option<()>;

    /// Updates the TCP, UDP or ICMP checksum at `offset` for what has changed in the pseudo-header and in what is
    /// behind it. `zero_is_none`: zero means that there is none, and is never written (RFC 768).
    #[inline(always)]
    fn update_checksum(&self, offset: u32, pseudo: Change, rest: Change, zero_is_none: bool) -> Option<()> {
        let old = u16::from_ne_bytes(self.read_at(offset)?);
        self.write_at(offset, updated(old, pseudo, rest, zero_is_none).to_ne_bytes())
    }

    /// The same at an offset that is a constant.
    #[inline(always)]
    fn update_checksum_near(
        &self,
        offset: u32,
        pseudo: Change,
        rest: Change,
        zero_is_none: bool,
    ) -> Option<()> {
        let old = self.read_u16(offset)?;
        self.write_u16(offset, updated(old, pseudo, rest, zero_is_none))
    }
}

/// The checksum after these changes.
#[inline(always)]
fn updated(old: u16, pseudo: Change, rest: Change, zero_is_none: bool) -> u16 {
    if zero_is_none && old == 0 {
        return 0;
    }
    match pseudo.and(rest).apply(old) {
        0 if zero_is_none => 0xffff,
        sum => sum,
    }
}

/// What replacing words adds to a one's complement sum, as in equation 3 of RFC 1624. Sums come out right whatever the
/// byte order they are made in (RFC 1071 section 2): this is the machine's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change(u64);

impl Change {
    /// One 32-bit word replaced by another.
    #[inline(always)]
    pub const fn word(old: u32, new: u32) -> Self {
        Self(!old as u64 + new as u64)
    }

    /// One 16-bit word replaced by another.
    #[inline(always)]
    pub const fn short(old: u16, new: u16) -> Self {
        Self((!old) as u64 + new as u64)
    }

    /// One address replaced by another, in a packet of this IP version.
    #[inline(always)]
    pub const fn address(old: [u64; 2], new: [u64; 2], version: u8) -> Self {
        let ([o0, o1], [n0, n1]) = (old, new);
        // The first half of an IPv4 address is zero.
        if version == 4 { Self::long(o1, n1) } else { Self::long(o0, n0).and(Self::long(o1, n1)) }
    }

    /// One 64-bit word replaced by another.
    #[inline(always)]
    const fn long(old: u64, new: u64) -> Self {
        Self::word(old as u32, new as u32).and(Self::word((old >> 32) as u32, (new >> 32) as u32))
    }

    /// Both changes: far from an overflow, as there is one summand a word of a header.
    #[inline(always)]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }

    /// As a 16-bit one's complement number.
    #[inline(always)]
    pub const fn folded(self) -> u16 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        sum as u16
    }

    /// The checksum, as it stands in memory, after the change.
    #[inline(always)]
    pub const fn apply(self, checksum: u16) -> u16 {
        !Self(self.0.wrapping_add(!checksum as u64)).folded()
    }
}

/// The second half of an IPv4 address without what maps it.
#[inline(always)]
const fn v4([_, second]: [u64; 2]) -> u32 {
    let [_, _, _, _, a, b, c, d] = second.to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

/// Two 16-bit numbers as they stand side by side in memory.
#[inline(always)]
const fn pair(first_be: u16, second_be: u16) -> u32 {
    let ([a, b], [c, d]) = (first_be.to_ne_bytes(), second_be.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// Where a transport header keeps its ports and its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// Two ports first, the checksum at this offset.
    Ports { checksum: u32, zero_is_none: bool },
    /// An echo message of this version: the checksum at offset 2, the identifier at 4.
    Echo,
    /// No ports; a checksum over the pseudo-header at this offset.
    Covered { checksum: u32 },
    /// Nothing that depends on the addresses.
    Plain,
}

impl Layout {
    #[inline(always)]
    const fn of(kind: Kind, protocol: u8) -> Self {
        match kind {
            Kind::Tcp => Self::Ports { checksum: 16, zero_is_none: false },
            Kind::Udp | Kind::EspInUdp => Self::Ports { checksum: 6, zero_is_none: true },
            Kind::EchoRequest | Kind::EchoReply => Self::Echo,
            // DCCP (RFC 4340 section 9.1) and UDP-Lite (RFC 3828 section 3.1). SCTP's checksum covers no addresses.
            _ => match protocol {
                protocol::DCCP | protocol::UDP_LITE => Self::Covered { checksum: 6 },
                _ => Self::Plain,
            },
        }
    }
}

/// The echo identifier among a packet's two "ports".
#[inline(always)]
const fn identifier_be(kind: Kind, ends: &Ends) -> u16 {
    match kind {
        Kind::EchoRequest => ends.source_port_be,
        _ => ends.destination_port_be,
    }
}

/// Where the transport header of an IPv4 packet begins.
const IPV4_TRANSPORT: u32 = ETHERNET_BYTES + IPV4_BYTES;
/// Where that of an IPv6 packet without extension headers begins.
const IPV6_TRANSPORT: u32 = ETHERNET_BYTES + IPV6_BYTES;

/// Gives a packet other ends. `from`: those it has in the frame. The parser has seen all headers within the frame; `None`
/// can only come of a frame that it has not.
#[inline(always)]
pub fn ends<F: Rewrite + ?Sized>(frame: &F, packet: &Packet, from: &Ends, to: &Ends) -> Option<()> {
    let pseudo = addresses(frame, packet.version, from, to)?;
    if packet.fragment == part::LATER {
        // Ports, and the one checksum of them all, are in the first.
        return Some(());
    }
    if packet.version == 4 {
        transport::<F, true>(frame, packet, IPV4_TRANSPORT, pseudo, from, to)
    } else if u32::from(packet.transport) == IPV6_TRANSPORT {
        transport::<F, true>(frame, packet, IPV6_TRANSPORT, pseudo, from, to)
    } else {
        transport::<F, false>(frame, packet, packet.transport.into(), pseudo, from, to)
    }
}

/// What other addresses change in a sum over them.
#[inline(always)]
const fn both_addresses(from: &Ends, to: &Ends, version: u8) -> Change {
    Change::address(from.source, to.source, version).and(Change::address(
        from.destination,
        to.destination,
        version,
    ))
}

/// Writes the addresses into the IP header; what it changes in a pseudo-header.
#[inline(always)]
pub fn addresses<F: Rewrite + ?Sized>(frame: &F, version: u8, from: &Ends, to: &Ends) -> Option<Change> {
    let change = both_addresses(from, to, version);
    if version == 4 {
        let checksum = frame.read_u16(ETHERNET_BYTES + 10)?;
        frame.write_u16(ETHERNET_BYTES + 10, change.apply(checksum))?;
        frame.write_u32(ETHERNET_BYTES + 12, v4(to.source))?;
        frame.write_u32(ETHERNET_BYTES + 16, v4(to.destination))?;
    } else {
        let ([s0, s1], [d0, d1]) = (to.source, to.destination);
        frame.write_u64(ETHERNET_BYTES + 8, s0)?;
        frame.write_u64(ETHERNET_BYTES + 16, s1)?;
        frame.write_u64(ETHERNET_BYTES + 24, d0)?;
        frame.write_u64(ETHERNET_BYTES + 32, d1)?;
    }
    Some(change)
}

#[inline(always)]
fn transport<F: Rewrite + ?Sized, const NEAR: bool>(
    frame: &F,
    packet: &Packet,
    at: u32,
    pseudo: Change,
    from: &Ends,
    to: &Ends,
) -> Option<()> {
    match Layout::of(packet.kind, packet.protocol) {
        Layout::Ports { checksum, zero_is_none } => {
            let ports = pair(to.source_port_be, to.destination_port_be);
            let change = Change::word(pair(from.source_port_be, from.destination_port_be), ports);
            if NEAR {
                frame.write_u32(at, ports)?;
                frame.update_checksum_near(at + checksum, pseudo, change, zero_is_none)
            } else {
                frame.write_at(at, ports.to_ne_bytes())?;
                frame.update_checksum(at + checksum, pseudo, change, zero_is_none)
            }
        }
        Layout::Echo => {
            let (old, new) = (identifier_be(packet.kind, from), identifier_be(packet.kind, to));
            // ICMP has no pseudo-header (RFC 792), ICMPv6 does (RFC 4443 section 2.3).
            let pseudo = if packet.version == 4 { Change::default() } else { pseudo };
            let change = Change::short(old, new);
            if NEAR {
                frame.write_u16(at + 4, new)?;
                frame.update_checksum_near(at + 2, pseudo, change, false)
            } else {
                frame.write_at(at + 4, new.to_ne_bytes())?;
                frame.update_checksum(at + 2, pseudo, change, false)
            }
        }
        Layout::Covered { checksum } => {
            frame.update_checksum(at + checksum, pseudo, Change::default(), false)
        }
        Layout::Plain => Some(()),
    }
}

/// Gives an ICMP error other addresses, and the packet that it quotes other ends. `quoted` is that packet as it stands
/// there, all of it within the error as far as its ports.
#[inline(always)]
pub fn error<F: Rewrite + ?Sized>(
    frame: &F,
    error: &Packet,
    outer: &Ends,
    quoted: &Packet,
    inner: &Ends,
) -> Option<()> {
    let pseudo = addresses(frame, error.version, &Ends::of(error), outer)?;
    let change = quote(frame, error, quoted, inner)?;
    let pseudo = if error.version == 4 { Change::default() } else { pseudo };
    frame.update_checksum(u32::from(error.transport) + 2, pseudo, change, false)
}

/// Rewrites the quoted packet; what it changes in the error's payload.
#[inline(always)]
fn quote<F: Rewrite + ?Sized>(frame: &F, error: &Packet, quoted: &Packet, to: &Ends) -> Option<Change> {
    let start = u32::from(error.transport) + ERROR_BYTES;
    let from = Ends::of(quoted);
    let addresses = both_addresses(&from, to, quoted.version);
    let mut change = addresses;
    let at = if quoted.version == 4 {
        let checksum = u16::from_ne_bytes(frame.read_at(start + 10)?);
        let new = addresses.apply(checksum);
        change = change.and(Change::short(checksum, new));
        frame.write_at(start + 10, new.to_ne_bytes())?;
        frame.write_at(start + 12, v4(to.source).to_ne_bytes())?;
        frame.write_at(start + 16, v4(to.destination).to_ne_bytes())?;
        start + IPV4_BYTES
    } else {
        frame.write_at(start + 8, flow::join(to.source))?;
        frame.write_at(start + 24, flow::join(to.destination))?;
        start + IPV6_BYTES
    };
    let end = u32::from(error.length) + ETHERNET_BYTES;
    let (checksum_at, pseudo, rest, zero_is_none) = match Layout::of(quoted.kind, quoted.protocol) {
        Layout::Ports { checksum, zero_is_none } => {
            let ports = pair(to.source_port_be, to.destination_port_be);
            frame.write_at(at, ports.to_ne_bytes())?;
            let ports = Change::word(pair(from.source_port_be, from.destination_port_be), ports);
            (at + checksum, addresses, ports, zero_is_none)
        }
        Layout::Echo => {
            let (old, new) = (identifier_be(quoted.kind, &from), identifier_be(quoted.kind, to));
            frame.write_at(at + 4, new.to_ne_bytes())?;
            let pseudo = if quoted.version == 4 { Change::default() } else { addresses };
            (at + 2, pseudo, Change::short(old, new), false)
        }
        Layout::Covered { checksum } => (at + checksum, addresses, Change::default(), false),
        Layout::Plain => return Some(change),
    };
    change = change.and(rest);
    // Eight bytes are all that RFC 792 promises: TCP's checksum may be cut off.
    if checksum_at + 2 > end {
        return Some(change);
    }
    let old = u16::from_ne_bytes(frame.read_at(checksum_at)?);
    let new = updated(old, pseudo, rest, zero_is_none);
    frame.write_at(checksum_at, new.to_ne_bytes())?;
    Some(change.and(Change::short(old, new)))
}

#[cfg(test)]
mod tests;
