//! A challenge that only who receives at its source address can answer, before a SYN opens a flow: a SYN+ACK whose
//! acknowledgment number is not what the client waits for, but a digest of its addresses and ports.
//!
//! ```text
//!   client: SYN            ──►
//!                          ◄── gateway: SYN+ACK, acknowledgment = digest
//!   client: RST, sequence = digest (RFC 9293 section 3.10.7.3: an acknowledgment that is not acceptable)
//!   client: SYN again      ──►  opens a flow like any other: with the server's own options, numbers and windows
//! ```
//!
//! The client stays in SYN-SENT and repeats its SYN by itself; nothing of the connection is the gateway's, and nothing of
//! it is kept until the RST has come. Also known as RST cookies.

use sekisho_abi::Address;

use crate::flow::halves;
use crate::parse::{ETHERNET_BYTES, IPV4_BYTES, IPV6_BYTES, Packet};
use crate::rewrite::{Change, Rewrite};
use crate::siphash::siphash;
use crate::tcp::flag::{ACK, RST, SYN};

/// Bytes of a TCP header without options.
const TCP_BYTES: u32 = 20;
/// Time to live of what the gateway sends itself.
const HOP_LIMIT: u8 = 64;

/// The digest of a packet's ends, as its client sends.
#[inline(always)]
pub const fn digest(packet: &Packet, secret: &[u64; 2]) -> u64 {
    let ([a, b], [c, d]) = (halves(&packet.source), halves(&packet.destination));
    let ports = (packet.source_port_be as u64) << 16 | packet.destination_port_be as u64;
    siphash::<2, 4, 5>(secret, &[a, b, c, d, ports])
}

/// Whether the packet looks like the answer to a challenge.
#[inline(always)]
pub const fn is_answer(packet: &Packet) -> bool {
    packet.tcp_flags & (SYN | ACK | RST) == RST && packet.tcp_payload == 0
}

/// Whether it is the answer to a challenge with this digest.
#[inline(always)]
pub const fn answers(packet: &Packet, digest: u64) -> bool {
    packet.tcp_sequence == digest as u32
}

/// Whom a sender that has answered stands for: an IPv6 host has as many addresses as it likes of its /64.
#[inline(always)]
pub const fn prover(packet: &Packet) -> Address {
    let [a, b, c, d, e, f, g, h, ..] = packet.source;
    match packet.version {
        4 => packet.source,
        _ => [a, b, c, d, e, f, g, h, 0, 0, 0, 0, 0, 0, 0, 0],
    }
}

/// The 32-bit word of the TCP header with data offset, flags and window: no options, no window.
const OFFSET_AND_FLAGS: u32 = u32::from_ne_bytes([(TCP_BYTES as u8 / 4) << 4, SYN | ACK, 0, 0]);

/// Makes the challenge of the SYN in this frame, in its place; what was behind the header is padding then. `None` where
/// the frame is not as a SYN without extension headers is, or the digest is what the client waits for.
#[inline(always)]
pub fn write<F: Rewrite>(frame: &F, packet: &Packet, digest: u64) -> Option<()> {
    let (acknowledgment, sequence) = (digest as u32, (digest >> 32) as u32);
    if acknowledgment == packet.tcp_sequence.wrapping_add(1) {
        return None;
    }
    let transport = u32::from(packet.transport);
    let is_v4 = packet.version == 4;
    // Constants for the verifier's sake.
    let addresses = if is_v4 {
        if transport != ETHERNET_BYTES + IPV4_BYTES {
            return None;
        }
        ipv4(frame)?
    } else {
        if transport != ETHERNET_BYTES + IPV6_BYTES {
            return None;
        }
        ipv6(frame)?
    };
    if is_v4 {
        tcp::<{ ETHERNET_BYTES + IPV4_BYTES }, F>(frame, addresses, sequence, acknowledgment)
    } else {
        tcp::<{ ETHERNET_BYTES + IPV6_BYTES }, F>(frame, addresses, sequence, acknowledgment)
    }
}

/// The IPv4 header, back to where it came from. Gives back the sum of its addresses.
#[inline(always)]
fn ipv4<F: Rewrite>(frame: &F) -> Option<u64> {
    const AT: u32 = ETHERNET_BYTES;
    let length = frame.read_u16(AT + 2)?;
    let new_length = ((IPV4_BYTES + TCP_BYTES) as u16).to_be();
    let hops = frame.read_u16(AT + 8)?;
    let [_, protocol] = hops.to_ne_bytes();
    let new_hops = u16::from_ne_bytes([HOP_LIMIT, protocol]);
    let change = Change::short(length, new_length).and(Change::short(hops, new_hops));
    let sum = change.apply(frame.read_u16(AT + 10)?);
    let (source, destination) = (frame.read_u32(AT + 12)?, frame.read_u32(AT + 16)?);
    frame.write_u16(AT + 2, new_length)?;
    frame.write_u16(AT + 8, new_hops)?;
    frame.write_u16(AT + 10, sum)?;
    frame.write_u32(AT + 12, destination)?;
    frame.write_u32(AT + 16, source)?;
    Some(u64::from(source) + u64::from(destination))
}

/// The IPv6 header, likewise.
#[inline(always)]
fn ipv6<F: Rewrite>(frame: &F) -> Option<u64> {
    const AT: u32 = ETHERNET_BYTES;
    let (s0, s1) = (frame.read_u64(AT + 8)?, frame.read_u64(AT + 16)?);
    let (d0, d1) = (frame.read_u64(AT + 24)?, frame.read_u64(AT + 32)?);
    let [_, _, next, _] = frame.read_u32(AT + 4)?.to_ne_bytes();
    let [high, low] = (TCP_BYTES as u16).to_be_bytes();
    frame.write_u32(AT + 4, u32::from_ne_bytes([high, low, next, HOP_LIMIT]))?;
    frame.write_u64(AT + 8, d0)?;
    frame.write_u64(AT + 16, d1)?;
    frame.write_u64(AT + 24, s0)?;
    frame.write_u64(AT + 32, s1)?;
    let words = |long: u64| (long & 0xffff_ffff) + (long >> 32);
    Some(words(s0) + words(s1) + words(d0) + words(d1))
}

/// The TCP header, with its checksum.
#[inline(always)]
fn tcp<const AT: u32, F: Rewrite>(
    frame: &F,
    addresses: u64,
    sequence: u32,
    acknowledgment: u32,
) -> Option<()> {
    let [s0, s1, d0, d1] = frame.read_u32(AT)?.to_ne_bytes();
    let ports = u32::from_ne_bytes([d0, d1, s0, s1]);
    let (sequence, acknowledgment) = (sequence.to_be(), acknowledgment.to_be());
    // The pseudo-header's last words: protocol and length.
    let rest = u32::from_ne_bytes([0, 6, 0, TCP_BYTES as u8]);
    let sum = addresses
        + u64::from(rest)
        + u64::from(ports)
        + u64::from(sequence)
        + u64::from(acknowledgment)
        + u64::from(OFFSET_AND_FLAGS);
    let [c0, c1] = (!fold(sum)).to_ne_bytes();
    frame.write_u32(AT, ports)?;
    frame.write_u32(AT + 4, sequence)?;
    frame.write_u32(AT + 8, acknowledgment)?;
    frame.write_u32(AT + 12, OFFSET_AND_FLAGS)?;
    frame.write_u32(AT + 16, u32::from_ne_bytes([c0, c1, 0, 0]))
}

/// A sum of 32-bit words as a one's complement sum of 16-bit words.
#[inline(always)]
const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use sekisho_abi::mapped;

    fn syn() -> Packet {
        Packet {
            version: 4,
            source: mapped([198, 51, 100, 7]),
            destination: mapped([10, 1, 0, 2]),
            source_port_be: 40_000_u16.to_be(),
            destination_port_be: 443_u16.to_be(),
            protocol: 6,
            tcp_flags: SYN,
            ..Packet::default()
        }
    }

    #[test]
    fn only_the_right_answer_counts() {
        let secret = [3, 4];
        let digest = digest(&syn(), &secret);
        let answer = Packet { tcp_flags: RST, tcp_sequence: digest as u32, ..syn() };
        assert!(is_answer(&answer) && answers(&answer, super::digest(&answer, &secret)));
        assert!(!answers(&answer, super::digest(&answer, &[3, 5])), "of another secret");
        let other = Packet { source: mapped([198, 51, 100, 8]), ..answer };
        assert!(!answers(&other, super::digest(&other, &secret)), "of another source");
        for flags in [SYN, ACK, RST | ACK, SYN | RST] {
            assert!(!is_answer(&Packet { tcp_flags: flags, ..answer }), "{flags:#04x}");
        }
    }

    #[test]
    fn an_ipv6_host_is_its_network() {
        let of = |source: [u8; 16]| prover(&Packet { version: 6, source, ..Packet::default() });
        let host = |last| [0x20, 1, 0xd, 0xb8, 0, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, last];
        assert_eq!(of(host(1)), of(host(2)));
        assert_eq!(prover(&syn()), syn().source);
    }
}
