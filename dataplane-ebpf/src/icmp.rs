//! ICMP errors: the packet they are about (RFC 792, RFC 4443 section 3).

use sekisho_abi::{Address, mapped};
use sekisho_abi::verdict::Verdict;

use crate::frame::Frame;
use crate::parse::{IPV4_BYTES, IPV6_BYTES, Kind, Packet, protocol, udp_port};

/// Bytes of an ICMP error before the packet it quotes.
pub const ERROR_BYTES: u32 = 8;

/// Fewest bytes of an IPv4 packet that any flow carries.
const LENGTH_MIN: u16 = 28;

/// Whether the checksum is that of this IPv4 header with some time to live: routers count it down before they quote, and
/// not all of them mend the checksum.
#[inline(always)]
fn is_header(header: &[u8; 20]) -> bool {
    let [a, b, c, d, e, f, g, h, _, i, j, k, l, m, n, o, p, q, r, s] = *header;
    let words = [[a, b], [c, d], [e, f], [g, h], [0, i], [j, k], [l, m], [n, o], [p, q], [r, s]];
    let mut sum = 0;
    for word in words {
        sum += u32::from(u16::from_be_bytes(word));
    }
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    // What is missing is the time to live, the high byte of its word.
    (0xffff - sum) & 0xff == 0
}

/// Whose packet was not delivered for want of its host (RFC 792 type 3 code 1, RFC 4443 type 1 code 3): the destination
/// that such an error quotes.
#[inline(always)]
pub fn unreachable_host<F: Frame + ?Sized>(frame: &F, error: &Packet) -> Option<Address> {
    let start = u32::from(error.transport) + ERROR_BYTES;
    match (error.version, error.destination_port_be.to_ne_bytes()) {
        (4, [3, 1]) => frame.read_at::<4>(start + 16).map(mapped),
        (6, [1, 3]) => frame.read_at::<16>(start + 24),
        _ => None,
    }
}

/// Reads the quoted packet of an ICMP error into an empty one, as far as it names its flow or SA: addresses, protocol, ports, SPI. Only packets that
/// the pipeline itself would have let through are looked for, so options, extension headers and later fragments fit
/// no flow.
#[inline(always)]
pub fn quoted<F: Frame + ?Sized>(frame: &F, error: &Packet, quoted: &mut Packet) -> Result<(), Verdict> {
    let start = u32::from(error.transport) + ERROR_BYTES;
    quoted.version = error.version;
    let transport = if error.version == 4 {
        let header = frame.read_at::<20>(start).ok_or(Verdict::DropMalformed)?;
        let [first, _, l0, l1, _, _, f0, f1, _, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = header;
        if first != 0x45 || u16::from_be_bytes([f0, f1]) & 0x3fff != 0 {
            return Err(Verdict::DropIcmpError);
        }
        if u16::from_be_bytes([l0, l1]) < LENGTH_MIN || !is_header(&header) {
            return Err(Verdict::DropIcmpError);
        }
        quoted.protocol = protocol;
        quoted.source = mapped([s0, s1, s2, s3]);
        quoted.destination = mapped([d0, d1, d2, d3]);
        start + IPV4_BYTES
    } else {
        let [first, _, _, _, _, _, next, _] = frame.read_at::<8>(start).ok_or(Verdict::DropMalformed)?;
        if first >> 4 != 6 {
            return Err(Verdict::DropIcmpError);
        }
        quoted.protocol = next;
        quoted.source = frame.address_at(start + 8).ok_or(Verdict::DropMalformed)?;
        quoted.destination = frame.address_at(start + 24).ok_or(Verdict::DropMalformed)?;
        start + IPV6_BYTES
    };
    // RFC 792 and RFC 4443 promise at least eight bytes of the quoted packet's payload. They must be part of this
    // packet, not of the padding behind it.
    if transport + 8 > u32::from(error.length) + crate::parse::ETHERNET_BYTES {
        return Err(Verdict::DropMalformed);
    }
    let [p0, p1, p2, p3, i0, i1, i2, i3] = frame.read_at::<8>(transport).ok_or(Verdict::DropMalformed)?;
    match (quoted.protocol, quoted.version, p0) {
        (protocol::TCP, _, _) | (protocol::UDP, _, _) => {
            quoted.kind = if quoted.protocol == protocol::TCP { Kind::Tcp } else { Kind::Udp };
            quoted.source_port_be = u16::from_ne_bytes([p0, p1]);
            quoted.destination_port_be = u16::from_ne_bytes([p2, p3]);
            quoted.tcp_sequence = u32::from_be_bytes([i0, i1, i2, i3]);
            if quoted.source_port() == udp_port::IKE_NAT_T
                && transport + 12 <= u32::from(error.length) + crate::parse::ETHERNET_BYTES
                && let Some(spi) = frame.read_at::<4>(transport + 8)
            {
                quoted.spi_be = u32::from_ne_bytes(spi);
            }
        }
        (protocol::ESP, _, _) => {
            quoted.kind = Kind::Other;
            quoted.spi_be = u32::from_ne_bytes([p0, p1, p2, p3]);
        }
        (protocol::ICMP, 4, 8) | (protocol::ICMPV6, 6, 128) => {
            quoted.kind = Kind::EchoRequest;
            quoted.source_port_be = u16::from_ne_bytes([i0, i1]);
            quoted.destination_port_be = u16::from_ne_bytes([p0, p1]);
        }
        (protocol::ICMP, 4, 0) => {
            quoted.kind = Kind::EchoReply;
            quoted.source_port_be = u16::from_ne_bytes([8, 0]);
            quoted.destination_port_be = u16::from_ne_bytes([i0, i1]);
        }
        (protocol::ICMPV6, 6, 129) => {
            quoted.kind = Kind::EchoReply;
            quoted.source_port_be = u16::from_ne_bytes([128, 0]);
            quoted.destination_port_be = u16::from_ne_bytes([i0, i1]);
        }
        (protocol::ICMP | protocol::ICMPV6, _, _) => return Err(Verdict::DropIcmpError),
        _ => quoted.kind = Kind::Other,
    }
    // An error goes to whoever sent the packet it is about; anything else is forged.
    if quoted.source != error.destination {
        return Err(Verdict::DropIcmpError);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn quoted(frame: &[u8], error: &Packet) -> Result<Packet, Verdict> {
        let mut packet = Packet::default();
        super::quoted(frame, error, &mut packet).map(|()| packet)
    }

    const A: [u8; 4] = [10, 0, 0, 1];
    const B: [u8; 4] = [10, 0, 0, 2];

    /// The frame of an ICMP error to A about a UDP packet from A to B, and the error as parsed.
    fn unreachable(inner_source: [u8; 4], first: u8) -> (Vec<u8>, Packet) {
        let mut frame = vec![0; 42];
        let mut header = vec![first, 0, 0, 36, 0, 0, 0, 0, 64, 17, 0, 0];
        header.extend(inner_source);
        header.extend(B);
        let mut sum: u32 =
            header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
        sum = (sum & 0xffff) + (sum >> 16);
        header[10..12].copy_from_slice(&(!u16::try_from(sum).expect("folded")).to_be_bytes());
        // Counted down, and the checksum left as it was.
        header[8] = 63;
        frame.extend(header);
        frame.extend([0x30, 0x39, 0, 53, 0, 16, 0, 0]);
        let length = u16::try_from(frame.len() - 14).expect("short");
        let error = Packet {
            version: 4,
            transport: 34,
            length,
            destination: mapped(A),
            kind: Kind::IcmpError,
            ..Packet::default()
        };
        (frame, error)
    }

    #[test]
    fn names_the_flow() {
        let (frame, error) = unreachable(A, 0x45);
        let packet = quoted(&frame, &error).expect("fits");
        assert_eq!((packet.source, packet.destination), (mapped(A), mapped(B)));
        assert_eq!((packet.source_port(), packet.destination_port(), packet.kind), (12345, 53, Kind::Udp));
        for length in 42..frame.len() {
            let error = Packet { length: u16::try_from(length - 14).expect("short"), ..error };
            assert!(quoted(&frame[..length], &error).is_err(), "{length}");
            assert!(quoted(&frame, &error).is_err(), "{length}, padded");
        }
    }

    #[test]
    fn refused() {
        let (frame, error) = unreachable(B, 0x45);
        assert_eq!(quoted(&frame, &error), Err(Verdict::DropIcmpError), "not about the receiver's packet");
        let (frame, error) = unreachable(A, 0x46);
        assert_eq!(quoted(&frame, &error), Err(Verdict::DropIcmpError), "options");
        for at in [43, 45, 47, 51, 53, 59] {
            let (mut frame, error) = unreachable(A, 0x45);
            frame[at] ^= 0x10;
            assert_eq!(quoted(&frame, &error), Err(Verdict::DropIcmpError), "byte {at} and the checksum");
        }
    }

    proptest! {
        #[test]
        fn total(bytes in prop::collection::vec(any::<u8>(), 0..120), transport: u16, length: u16, six: bool) {
            let error = Packet { transport, length, version: if six { 6 } else { 4 }, ..Packet::default() };
            if let Ok(packet) = quoted(&bytes, &error) {
                prop_assert_eq!(packet.source, error.destination);
            }
        }
    }
}
