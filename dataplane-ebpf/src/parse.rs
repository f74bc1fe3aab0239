//! Step 1 of the packet's way: Ethernet, IPv4, IPv6, transport. What can't be understood is refused.
//!
//! Guarantees once [`ipv4`] or [`ipv6`] has returned `Ok`: the frame holds the whole IP packet (bytes after it are
//! Ethernet padding), no IPv4 option; the transport header lies within the packet, its length fields fit, and TCP flags are
//! a combination that stacks send. Of a later fragment only the addresses and its place in the datagram are known.

use sekisho_abi::Address;
use sekisho_abi::verdict::Verdict;

use crate::extension::{self, Step, Walk};
use crate::fragment::{self, part};
use crate::frame::Frame;
use crate::tcp;

/// Bytes of an Ethernet header.
pub const ETHERNET_BYTES: u32 = 14;
/// Bytes of an IPv4 header without options.
pub const IPV4_BYTES: u32 = 20;
/// Bytes of an IPv6 header.
pub const IPV6_BYTES: u32 = 40;

/// EtherTypes (IEEE 802 numbers).
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// 802.1Q tag.
    pub const VLAN: u16 = 0x8100;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// 802.1ad service tag.
    pub const SERVICE_VLAN: u16 = 0x88a8;
}

/// IP protocol numbers (IANA).
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// Datagram Congestion Control Protocol.
    pub const DCCP: u8 = 33;
    /// IPv6 fragment header.
    pub const IPV6_FRAGMENT: u8 = 44;
    /// Encapsulating Security Payload.
    pub const ESP: u8 = 50;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// No next header.
    pub const IPV6_NONE: u8 = 59;
    /// UDP-Lite.
    pub const UDP_LITE: u8 = 136;
}

/// UDP ports the pipeline knows by itself.
pub mod udp_port {
    /// DHCP server.
    pub const DHCP_SERVER: u16 = 67;
    /// DHCP client.
    pub const DHCP_CLIENT: u16 = 68;
    /// IKE.
    pub const IKE: u16 = 500;
    /// DHCPv6 client.
    pub const DHCPV6_CLIENT: u16 = 546;
    /// DHCPv6 server.
    pub const DHCPV6_SERVER: u16 = 547;
    /// IKE with non-ESP marker, and ESP in UDP (RFC 3948).
    pub const IKE_NAT_T: u16 = 4500;
}

/// An Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet {
    /// Destination MAC address.
    pub destination: [u8; 6],
    /// Source MAC address.
    pub source: [u8; 6],
    /// [`ethertype`].
    pub ethertype: u16,
}

impl Ethernet {
    /// Reads the header.
    #[inline(always)]
    pub fn read<F: Frame + ?Sized>(frame: &F) -> Result<Self, Verdict> {
        let [d0, d1, d2, d3, d4, d5, s0, s1] = frame.read_u64(0).ok_or(Verdict::DropMalformed)?.to_ne_bytes();
        let [s2, s3, s4, s5] = frame.read_u32(8).ok_or(Verdict::DropMalformed)?.to_ne_bytes();
        Ok(Self {
            destination: [d0, d1, d2, d3, d4, d5],
            source: [s0, s1, s2, s3, s4, s5],
            ethertype: u16::from_be(frame.read_u16(12).ok_or(Verdict::DropMalformed)?),
        })
    }

    /// Whether the destination is a multicast or broadcast MAC address.
    #[inline(always)]
    pub const fn to_group(&self) -> bool {
        self.destination[0] & 1 != 0
    }
}

/// What a packet is to the steps behind the parser.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A protocol without ports: one flow per pair of addresses and protocol.
    #[default]
    Other,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// UDP to port 4500 that begins with an SPI (RFC 3948 section 2.2).
    EspInUdp,
    /// ESP.
    Esp,
    /// ICMP or ICMPv6 echo request.
    EchoRequest,
    /// ICMP or ICMPv6 echo reply.
    EchoReply,
    /// An ICMP or ICMPv6 error with the packet it is about.
    IcmpError,
    /// Neighbour discovery (RFC 4861).
    Neighbour,
    /// Multicast listener discovery (RFC 2710, RFC 3810).
    Listener,
}

/// What the steps behind the parser know of an IP packet. Without padding, as the verifier wants every byte set of
/// what goes to a subprogram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Packet {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// ESP, also in UDP: SPI in network byte order.
    pub spi_be: u32,
    /// TCP, UDP: source port. Echo request: identifier; echo reply: type and code of the request. Network byte order.
    pub source_port_be: u16,
    /// TCP, UDP: destination port. Echo reply: identifier; other ICMP: type and code. Network byte order.
    pub destination_port_be: u16,
    /// Bytes of the IP packet, header included.
    pub length: u16,
    /// Where the transport header begins in the frame.
    pub transport: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// IPv4 time to live, IPv6 hop limit.
    pub hop_limit: u8,
    /// IPv4 type of service, IPv6 traffic class.
    pub traffic_class: u8,
    /// TCP flags.
    pub tcp_flags: u8,
    /// IP version: 4 or 6, 0 before parsing.
    pub version: u8,
    /// What it is.
    pub kind: Kind,
    /// 1: an IPv6 router alert option (RFC 2711) was seen.
    pub router_alert: u8,
    /// TCP, where it was looked for: one more than how far the sender of a SYN shifts its windows; zero if it offers none.
    pub tcp_scale: u8,
    /// TCP: window as it stands in the header.
    pub tcp_window: u16,
    /// TCP: bytes behind the header.
    pub tcp_payload: u16,
    /// TCP: sequence number.
    pub tcp_sequence: u32,
    /// TCP: acknowledgment number.
    pub tcp_acknowledgment: u32,
    /// Fragment: identification, network byte order.
    pub fragment_id_be: u32,
    /// Fragment: bytes of the datagram before it.
    pub fragment_offset: u16,
    /// Fragment: bytes of the datagram in it.
    pub fragment_bytes: u16,
    /// [`part`]: whether it's a fragment, and which.
    pub fragment: u8,
    /// Fragment: 1 if it isn't the last.
    pub fragment_more: u8,
    /// Zero.
    pub reserved: [u8; 6],
}

const _: () = assert!(size_of::<Packet>() == 80, "padding");

impl Packet {
    /// Destination port (or ICMP type and code) as a number.
    #[inline(always)]
    pub const fn destination_port(&self) -> u16 {
        u16::from_be(self.destination_port_be)
    }

    /// Source port as a number.
    #[inline(always)]
    pub const fn source_port(&self) -> u16 {
        u16::from_be(self.source_port_be)
    }

    /// Whether packets of this kind belong to flows.
    #[inline(always)]
    pub const fn has_flow(&self) -> bool {
        !matches!(self.kind, Kind::IcmpError | Kind::Neighbour | Kind::Listener)
    }
}

/// The IPv4-mapped form of an address as it was read, and thus written, in one piece.
#[inline(always)]
const fn mapped(v4_ne: u32) -> Address {
    let [a, b, c, d] = v4_ne.to_ne_bytes();
    join(0, u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d]))
}

/// An address from its halves, numbers in the machine's order.
#[inline(always)]
const fn join(first_ne: u64, second_ne: u64) -> Address {
    let [a, b, c, d, e, f, g, h] = first_ne.to_ne_bytes();
    let [i, j, k, l, m, n, o, p] = second_ne.to_ne_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

/// Reads an IPv4 packet (RFC 791) behind the Ethernet header.
#[inline(always)]
pub fn ipv4<F: Frame + ?Sized>(frame: &F, packet: &mut Packet) -> Result<(), Verdict> {
    let word = |at| frame.read_u32(ETHERNET_BYTES + at).ok_or(Verdict::DropMalformed);
    let [first, tos, l0, l1] = word(0)?.to_ne_bytes();
    let [f0, f1, ttl, protocol] = word(6)?.to_ne_bytes();
    packet.version = 4;
    packet.source = mapped(word(12)?);
    packet.destination = mapped(word(16)?);
    packet.protocol = protocol;
    packet.hop_limit = ttl;
    packet.traffic_class = tos;
    match first {
        0x45 => {}
        0x46..=0x4f => return Err(Verdict::DropOptions),
        _ => return Err(Verdict::DropMalformed),
    }
    let length = u16::from_be_bytes([l0, l1]);
    packet.length = length;
    if u32::from(length) < IPV4_BYTES || u32::from(length) + ETHERNET_BYTES > frame.length() {
        return Err(Verdict::DropMalformed);
    }
    let fragment = u16::from_be_bytes([f0, f1]);
    if fragment & 0x8000 != 0 {
        return Err(Verdict::DropMalformed);
    }
    let (start, payload) = (ETHERNET_BYTES + IPV4_BYTES, u32::from(length) - IPV4_BYTES);
    if fragment & 0x3fff != 0 {
        let id = frame.read_u16(ETHERNET_BYTES + 4).ok_or(Verdict::DropMalformed)?;
        packet.fragment_id_be = u32::from(id);
        let more = fragment & 0x2000 != 0;
        fragmented(packet, (fragment & 0x1fff).saturating_mul(8), payload, more)?;
        if packet.fragment == part::LATER {
            packet.transport = start as u16;
            return Ok(());
        }
    }
    transport::<F, true>(frame, packet, start, payload)
}

/// Notes that the packet is a fragment: these `bytes` of its datagram, from `offset` on.
#[inline(always)]
fn fragmented(packet: &mut Packet, offset: u16, bytes: u32, more: bool) -> Result<(), Verdict> {
    let piece = fragment::piece(offset, bytes, more)?;
    packet.fragment = if offset == 0 { part::FIRST } else { part::LATER };
    packet.fragment_offset = piece.offset;
    packet.fragment_bytes = piece.length;
    packet.fragment_more = u8::from(more);
    Ok(())
}

/// How far [`ipv6`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipv6 {
    /// To the end.
    Done,
    /// To extension headers: [`ipv6_extended`] has to go on. Apart, so that programs can keep the rare way out of line.
    Extended,
}

/// Reads an IPv6 packet (RFC 8200) behind the Ethernet header.
#[inline(always)]
pub fn ipv6<F: Frame + ?Sized>(frame: &F, packet: &mut Packet) -> Result<Ipv6, Verdict> {
    let words = |at| frame.read_u64(ETHERNET_BYTES + at).ok_or(Verdict::DropMalformed);
    let [v0, v1, _, _, l0, l1, next, hop_limit] = words(0)?.to_ne_bytes();
    packet.version = 6;
    packet.source = join(words(8)?, words(16)?);
    packet.destination = join(words(24)?, words(32)?);
    packet.protocol = next;
    packet.hop_limit = hop_limit;
    packet.traffic_class = (v0 << 4) | (v1 >> 4);
    if v0 >> 4 != 6 {
        return Err(Verdict::DropMalformed);
    }
    let payload = u32::from(u16::from_be_bytes([l0, l1]));
    // A packet's length is kept in 16 bits; a frame is never that long.
    let Ok(length) = u16::try_from(IPV6_BYTES + payload) else { return Err(Verdict::DropMalformed) };
    packet.length = length;
    if u32::from(length) + ETHERNET_BYTES > frame.length() {
        return Err(Verdict::DropMalformed);
    }
    let start = ETHERNET_BYTES + IPV6_BYTES;
    if extension::is_extension(next) {
        return Ok(Ipv6::Extended);
    }
    transport::<F, true>(frame, packet, start, payload)?;
    Ok(Ipv6::Done)
}

/// Goes on where [`ipv6`] met extension headers. `step` is [`Walk::step`] or a subprogram around it.
#[inline(always)]
pub fn ipv6_extended<F: Frame + ?Sized>(
    frame: &F,
    packet: &mut Packet,
    step: impl FnMut(&mut Walk) -> Result<Step, Verdict>,
) -> Result<(), Verdict> {
    let start = ETHERNET_BYTES + IPV6_BYTES;
    let end = ETHERNET_BYTES + u32::from(packet.length);
    let walk = Walk::new(packet.protocol, start, end).to_transport(step)?;
    packet.protocol = walk.next();
    packet.router_alert = walk.router_alert;
    if walk.fragment_header != 0 {
        let more = walk.fragment_bits & 1 != 0;
        let offset = walk.fragment_bits & 0xfff8;
        // A fragment that is the whole datagram is handled apart from all others (RFC 6946).
        if offset != 0 || more {
            packet.fragment_id_be = walk.fragment_id_be;
            fragmented(packet, offset, end.saturating_sub(walk.fragment_header), more)?;
        }
        if packet.fragment == part::LATER {
            packet.transport = walk.offset as u16;
            return Ok(());
        }
    }
    transport::<F, false>(frame, packet, walk.offset, end.saturating_sub(walk.offset))?;
    // It takes a packet out of every router's short way (RFC 6398 section 3): for no one but listeners.
    if packet.router_alert != 0 && packet.kind != Kind::Listener {
        return Err(Verdict::DropOptions);
    }
    Ok(())
}

/// Reads the transport header: `length` bytes of the IP packet from `offset` of the frame on.
#[inline(always)]
fn transport<F: Frame + ?Sized, const NEAR: bool>(
    frame: &F,
    packet: &mut Packet,
    offset: u32,
    length: u32,
) -> Result<(), Verdict> {
    let Ok(transport) = u16::try_from(offset) else { return Err(Verdict::DropMalformed) };
    packet.transport = transport;
    let is_whole = packet.fragment == part::WHOLE;
    let short = if is_whole { Verdict::DropMalformed } else { Verdict::DropFragmentTiny };
    match packet.protocol {
        protocol::TCP => {
            if length < 20 {
                return Err(short);
            }
            let first = read_u64::<F, NEAR>(frame, offset)?.to_ne_bytes();
            let second = read_u64::<F, NEAR>(frame, offset + 8)?.to_ne_bytes();
            let [s0, s1, d0, d1, n0, n1, n2, n3] = first;
            let [a0, a1, a2, a3, data_offset, flags, w0, w1] = second;
            packet.source_port_be = u16::from_ne_bytes([s0, s1]);
            packet.destination_port_be = u16::from_ne_bytes([d0, d1]);
            packet.tcp_sequence = u32::from_be_bytes([n0, n1, n2, n3]);
            packet.tcp_acknowledgment = u32::from_be_bytes([a0, a1, a2, a3]);
            packet.tcp_flags = flags;
            packet.tcp_window = u16::from_be_bytes([w0, w1]);
            packet.kind = Kind::Tcp;
            let header = u32::from(data_offset >> 4) * 4;
            packet.tcp_payload = length.wrapping_sub(header) as u16;
            if header < 20 {
                return Err(Verdict::DropMalformed);
            }
            if header > length {
                return Err(short);
            }
            if !tcp::sane(flags) {
                return Err(Verdict::DropTcpState);
            }
        }
        protocol::UDP => {
            if length < 8 {
                return Err(short);
            }
            ports::<F, NEAR>(frame, packet, offset)?;
            packet.kind = Kind::Udp;
            let datagram = u32::from(u16::from_be(read_u16::<F, NEAR>(frame, offset + 4)?));
            if datagram < 8 || (is_whole && datagram > length) {
                return Err(Verdict::DropMalformed);
            }
            if packet.destination_port() == udp_port::IKE_NAT_T && datagram >= 12 && length >= 12 {
                packet.spi_be = read_u32::<F, NEAR>(frame, offset + 8)?;
                if packet.spi_be != 0 {
                    packet.kind = Kind::EspInUdp;
                }
            }
        }
        protocol::ICMP if packet.version == 4 => return icmp::<F, NEAR>(frame, packet, offset, length),
        protocol::ICMPV6 if packet.version == 6 => return icmp::<F, NEAR>(frame, packet, offset, length),
        protocol::ICMP | protocol::ICMPV6 | protocol::IPV6_NONE => return Err(Verdict::DropProtocol),
        protocol::ESP => {
            if length < 8 {
                return Err(short);
            }
            packet.spi_be = read_u32::<F, NEAR>(frame, offset)?;
            packet.kind = Kind::Esp;
        }
        _ => packet.kind = Kind::Other,
    }
    Ok(())
}

/// ICMP (RFC 792) and ICMPv6 (RFC 4443) headers.
#[inline(always)]
fn icmp<F: Frame + ?Sized, const NEAR: bool>(
    frame: &F,
    packet: &mut Packet,
    offset: u32,
    length: u32,
) -> Result<(), Verdict> {
    let is_whole = packet.fragment == part::WHOLE;
    if length < 8 {
        return Err(if is_whole { Verdict::DropMalformed } else { Verdict::DropFragmentTiny });
    }
    let type_and_code_be = read_u16::<F, NEAR>(frame, offset)?;
    let [kind, code] = type_and_code_be.to_ne_bytes();
    let identifier_be = read_u16::<F, NEAR>(frame, offset + 4)?;
    packet.destination_port_be = type_and_code_be;
    packet.kind = match (packet.version, kind) {
        (4, 8) | (6, 128) if code == 0 => {
            packet.source_port_be = identifier_be;
            Kind::EchoRequest
        }
        (4, 0) | (6, 129) if code == 0 => {
            let request = if packet.version == 4 { 8 } else { 128 };
            packet.source_port_be = u16::from_ne_bytes([request, 0]);
            packet.destination_port_be = identifier_be;
            Kind::EchoReply
        }
        (4, 3 | 11 | 12) | (6, 1..=4) => Kind::IcmpError,
        (6, 133..=137) => Kind::Neighbour,
        (6, 130..=132 | 143) => Kind::Listener,
        // Redirects, timestamps, router advertisements over IPv4 and whatever else: no one needs them here.
        _ => return Err(Verdict::DropProtocol),
    };
    // Errors quote no more than fits; neighbour discovery must not be cut (RFC 6980).
    if !is_whole && !matches!(packet.kind, Kind::EchoRequest | Kind::EchoReply) {
        return Err(Verdict::DropFragment);
    }
    Ok(())
}

/// Source and destination port of TCP and UDP.
#[inline(always)]
fn ports<F: Frame + ?Sized, const NEAR: bool>(
    frame: &F,
    packet: &mut Packet,
    offset: u32,
) -> Result<(), Verdict> {
    let [s0, s1, d0, d1] = read_u32::<F, NEAR>(frame, offset)?.to_ne_bytes();
    packet.source_port_be = u16::from_ne_bytes([s0, s1]);
    packet.destination_port_be = u16::from_ne_bytes([d0, d1]);
    Ok(())
}

#[inline(always)]
fn read_u16<F: Frame + ?Sized, const NEAR: bool>(frame: &F, offset: u32) -> Result<u16, Verdict> {
    let number = if NEAR { frame.read_u16(offset) } else { frame.read_at(offset).map(u16::from_ne_bytes) };
    number.ok_or(Verdict::DropMalformed)
}

#[inline(always)]
fn read_u32<F: Frame + ?Sized, const NEAR: bool>(frame: &F, offset: u32) -> Result<u32, Verdict> {
    let number = if NEAR { frame.read_u32(offset) } else { frame.read_at(offset).map(u32::from_ne_bytes) };
    number.ok_or(Verdict::DropMalformed)
}

#[inline(always)]
fn read_u64<F: Frame + ?Sized, const NEAR: bool>(frame: &F, offset: u32) -> Result<u64, Verdict> {
    let number = if NEAR { frame.read_u64(offset) } else { frame.read_at(offset).map(u64::from_ne_bytes) };
    number.ok_or(Verdict::DropMalformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(frame: &[u8]) -> Result<Packet, Verdict> {
        let mut packet = Packet::default();
        match Ethernet::read(frame)?.ethertype {
            ethertype::IPV4 => ipv4(frame, &mut packet)?,
            ethertype::IPV6 => {
                if ipv6(frame, &mut packet)? == Ipv6::Extended {
                    ipv6_extended(frame, &mut packet, |walk| walk.step(frame))?;
                }
            }
            _ => return Err(Verdict::DropEtherType),
        }
        Ok(packet)
    }

    /// An IPv4 packet with this payload.
    fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(20 + payload.len()).expect("short").to_be_bytes();
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        frame.extend([
            0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ]);
        frame.extend(payload);
        frame
    }

    /// An IPv6 packet with this payload.
    fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).expect("short").to_be_bytes();
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd];
        frame.extend([0x60, 0, 0, 0, length[0], length[1], next, 64]);
        frame.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        frame.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        frame.extend(payload);
        frame
    }

    fn tcp(flags: u8) -> Vec<u8> {
        let mut header = vec![0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags];
        header.extend([0xff, 0xff, 0, 0, 0, 0]);
        header
    }

    #[test]
    fn tcp_over_both() {
        for frame in
            [v4(6, &tcp(0x02)), v6(6, &tcp(0x02)), v6(0, &[&[6, 0, 1, 4, 0, 0, 0, 0][..], &tcp(2)].concat())]
        {
            let packet = parse(&frame).expect("valid");
            assert_eq!((packet.source_port(), packet.destination_port(), packet.tcp_flags), (12345, 80, 2));
            assert_eq!((packet.kind, packet.protocol), (Kind::Tcp, 6));
            assert_eq!(usize::from(packet.transport), frame.len() - 20);
            assert_eq!(usize::from(packet.length), frame.len() - 14);
            // Every truncation is malformed.
            for length in 0..frame.len() {
                assert_eq!(parse(&frame[..length]), Err(Verdict::DropMalformed), "{length}");
            }
            // Ethernet padding is not part of the packet.
            let padded = [&frame[..], &[0; 20]].concat();
            assert_eq!(parse(&padded), Ok(packet));
        }
    }

    #[test]
    fn refused() {
        for (change, verdict) in [
            ((14, 0x46), Verdict::DropOptions),
            ((14, 0x44), Verdict::DropMalformed),
            ((14, 0x65), Verdict::DropMalformed),
            ((17, 19), Verdict::DropMalformed),
            ((17, 41), Verdict::DropMalformed),
            ((20, 0x20), Verdict::DropFragmentInconsistent),
            ((20, 0x80), Verdict::DropMalformed),
            ((23, 58), Verdict::DropProtocol),
            ((34 + 12, 0x40), Verdict::DropMalformed),
            ((34 + 12, 0x60), Verdict::DropMalformed),
            ((34 + 13, 0x03), Verdict::DropTcpState),
            ((34 + 13, 0x00), Verdict::DropTcpState),
            ((12, 0x81), Verdict::DropEtherType),
        ] {
            let mut frame = v4(6, &tcp(2));
            frame[change.0] = change.1;
            assert_eq!(parse(&frame), Err(verdict), "{change:?}");
        }
        assert_eq!(parse(&v6(1, &[8, 0, 0, 0, 0, 0, 0, 0])), Err(Verdict::DropProtocol));
        assert_eq!(parse(&v6(59, &[])), Err(Verdict::DropProtocol));
        assert_eq!(parse(&v4(1, &[5, 0, 0, 0, 0, 0, 0, 0])), Err(Verdict::DropProtocol));
        assert_eq!(parse(&v4(1, &[8, 1, 0, 0, 0, 0, 0, 0])), Err(Verdict::DropProtocol));
        assert_eq!(parse(&v4(17, &[0, 1, 0, 2, 0, 9, 0, 0])), Err(Verdict::DropMalformed));
        assert_eq!(parse(&v4(17, &[0, 1, 0, 2, 0, 7, 0, 0])), Err(Verdict::DropMalformed));
    }

    #[test]
    fn udp_4500_is_told_apart() {
        let datagram = |payload: &[u8]| {
            let length = u8::try_from(8 + payload.len()).expect("short");
            parse(&v4(17, &[&[0x11, 0x94, 0x11, 0x94, 0, length, 0, 0], payload].concat())).expect("valid")
        };
        assert_eq!(datagram(&[0, 0, 0, 0, 1, 2, 3, 4]).kind, Kind::Udp, "non-ESP marker");
        assert_eq!(datagram(&[0xff]).kind, Kind::Udp, "NAT keepalive");
        let esp = datagram(&[1, 2, 3, 4, 0, 0, 0, 1]);
        assert_eq!((esp.kind, esp.spi_be.to_ne_bytes()), (Kind::EspInUdp, [1, 2, 3, 4]));
    }

    #[test]
    fn echo_has_one_flow_for_both_ways() {
        let request = parse(&v4(1, &[8, 0, 0, 0, 0xab, 0xcd, 0, 1])).expect("valid");
        let reply = parse(&v4(1, &[0, 0, 0, 0, 0xab, 0xcd, 0, 1])).expect("valid");
        assert_eq!((request.source_port(), request.destination_port()), (0xabcd, 0x0800));
        assert_eq!((reply.source_port(), reply.destination_port()), (0x0800, 0xabcd));
    }

    proptest! {
        #[test]
        fn total(mut frame in prop::collection::vec(any::<u8>(), 0..200), six: bool) {
            if let Some(version) = frame.get_mut(12..15) {
                version.copy_from_slice(if six { &[0x86, 0xdd, 0x60] } else { &[8, 0, 0x45] });
            }
            if let Ok(packet) = parse(&frame) {
                prop_assert!(usize::from(packet.length) + 14 <= frame.len());
                prop_assert!(usize::from(packet.transport) <= frame.len());
            }
        }
    }
}
