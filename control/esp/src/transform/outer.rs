//! The outer headers: IPv4 or IPv6, and UDP where a NAT is on the way (RFC 3948).
//!
//! Written (RFC 4301 section 5.1.2): TTL 64; DSCP and ECN copied from the inner packet (RFC 6040 normal mode); IPv4
//! DF copied from inner IPv4 and set for inner IPv6; an identification where DF is clear, zero where it is set (RFC
//! 6864). The UDP checksum is zero over IPv4 (RFC 3948 section 2.1). Over IPv6 it is computed: RFC 6935 would allow
//! zero, but Linux refuses such datagrams unless the receiver opted in, and interoperability is worth the pass over
//! the packet on that rare path. On receipt it is never checked, for the ICV covers everything that counts.
//!
//! Read: total; fragments, IPv6 extension headers and anything but ESP or UDP are refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use super::inner::InnerPacket;
use crate::sa::Outer;

const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_ESP: u8 = 50;
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
const UDP_BYTES: usize = 8;
const TTL: u8 = 64;
/// The longest outer header: IPv6 and UDP.
pub const HEADER_MAX: usize = IPV6_BYTES + UDP_BYTES;

/// ECN codepoints (RFC 3168 section 5).
mod ecn {
    pub(super) const MASK: u8 = 3;
    pub(super) const NOT_ECT: u8 = 0;
    pub(super) const ECT_1: u8 = 1;
    pub(super) const ECT_0: u8 = 2;
    pub(super) const CE: u8 = 3;
}

/// Why an outer header was refused or could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OuterError {
    /// Lengths that contradict each other or the frame, or a version that is neither 4 nor 6.
    #[error("the outer header is malformed")]
    Malformed,
    /// A fragment: it must be put together before ESP (RFC 4303 section 3.4.1).
    #[error("the outer packet is a fragment")]
    Fragment,
    /// Neither ESP nor UDP.
    #[error("the outer packet carries neither ESP nor UDP")]
    Protocol,
    /// Local and remote address are of two families.
    #[error("the outside of the tunnel has addresses of two families")]
    Family,
    /// No room before the ESP packet, or a packet longer than IP can carry.
    #[error("no room for the outer header")]
    NoRoom,
}

/// The headers of one tunnel, ready but for what changes with each packet.
#[derive(Clone, Debug)]
pub struct OuterHeader {
    addresses: Addresses,
    /// Source and destination port, if ESP goes in UDP.
    udp: Option<(u16, u16)>,
}

#[derive(Clone, Copy, Debug)]
enum Addresses {
    V4 { source: [u8; 4], destination: [u8; 4] },
    V6 { source: [u8; 16], destination: [u8; 16] },
}

impl OuterHeader {
    /// The headers towards this tunnel's peer.
    pub fn new(outer: &Outer) -> Result<Self, OuterError> {
        let addresses = match (outer.local.ip().to_canonical(), outer.remote.ip().to_canonical()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                Addresses::V4 { source: source.octets(), destination: destination.octets() }
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                Addresses::V6 { source: source.octets(), destination: destination.octets() }
            }
            _ => return Err(OuterError::Family),
        };
        let udp = outer.udp_encapsulation.then(|| (outer.local.port(), outer.remote.port()));
        Ok(Self { addresses, udp })
    }

    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        let ip = match self.addresses {
            Addresses::V4 { .. } => IPV4_BYTES,
            Addresses::V6 { .. } => IPV6_BYTES,
        };
        ip + if self.udp.is_some() { UDP_BYTES } else { 0 }
    }

    /// EtherType of the frames.
    pub fn ether_type(&self) -> u16 {
        match self.addresses {
            Addresses::V4 { .. } => 0x0800,
            Addresses::V6 { .. } => 0x86dd,
        }
    }

    /// Writes the headers before the ESP packet at `esp` and returns where the whole packet lies. `identification` is
    /// used where the packet may be fragmented, and must then not repeat soon between the same two addresses.
    pub fn prepend(
        &self,
        buffer: &mut [u8],
        esp: Range<usize>,
        inner: &InnerPacket,
        identification: u16,
    ) -> Result<Range<usize>, OuterError> {
        let start = esp.start.checked_sub(self.bytes()).ok_or(OuterError::NoRoom)?;
        let packet = buffer.get_mut(start..esp.end).ok_or(OuterError::NoRoom)?;
        let total = u16::try_from(packet.len()).map_err(|_| OuterError::NoRoom)?;
        let protocol = if self.udp.is_some() { PROTOCOL_UDP } else { PROTOCOL_ESP };

        let payload = match self.addresses {
            Addresses::V4 { source, destination } => {
                let (ip, payload) = packet.split_first_chunk_mut::<IPV4_BYTES>().ok_or(OuterError::NoRoom)?;
                let flags_id =
                    if inner.dont_fragment { [0, 0, 0x40, 0] } else { id_and_no_flags(identification) };
                *ip = ipv4(inner.traffic_class, total, flags_id, protocol, source, destination);
                payload
            }
            Addresses::V6 { source, destination } => {
                let (ip, payload) = packet.split_first_chunk_mut::<IPV6_BYTES>().ok_or(OuterError::NoRoom)?;
                let length = total.saturating_sub(IPV6_BYTES as u16);
                *ip = ipv6(inner.traffic_class, length, protocol, source, destination);
                payload
            }
        };
        if let Some((source_port, destination_port)) = self.udp {
            self.write_udp(payload, source_port, destination_port)?;
        }
        Ok(start..esp.end)
    }

    fn write_udp(&self, datagram: &mut [u8], source: u16, destination: u16) -> Result<(), OuterError> {
        let length = u16::try_from(datagram.len()).map_err(|_| OuterError::NoRoom)?;
        let [s0, s1] = source.to_be_bytes();
        let [d0, d1] = destination.to_be_bytes();
        let [l0, l1] = length.to_be_bytes();
        *datagram.first_chunk_mut::<UDP_BYTES>().ok_or(OuterError::NoRoom)? = [s0, s1, d0, d1, l0, l1, 0, 0];
        if let Addresses::V6 { source, destination } = self.addresses {
            let pseudo = sum(&source) + sum(&destination) + u64::from(length) + u64::from(PROTOCOL_UDP);
            // RFC 8200 section 8.1: a checksum that comes out as zero is sent as all ones.
            let checksum = match fold(pseudo + sum(datagram)) {
                0 => 0xffff,
                checksum => checksum,
            };
            if let Some([_, _, _, _, _, _, c0, c1]) = datagram.first_chunk_mut::<UDP_BYTES>() {
                [*c0, *c1] = checksum.to_be_bytes();
            }
        }
        Ok(())
    }
}

fn id_and_no_flags(identification: u16) -> [u8; 4] {
    let [i0, i1] = identification.to_be_bytes();
    [i0, i1, 0, 0]
}

fn ipv4(
    traffic_class: u8,
    total: u16,
    [i0, i1, f0, f1]: [u8; 4],
    protocol: u8,
    [s0, s1, s2, s3]: [u8; 4],
    [d0, d1, d2, d3]: [u8; 4],
) -> [u8; IPV4_BYTES] {
    let [t0, t1] = total.to_be_bytes();
    let header = |[c0, c1]: [u8; 2]| {
        [0x45, traffic_class, t0, t1, i0, i1, f0, f1, TTL, protocol, c0, c1, s0, s1, s2, s3, d0, d1, d2, d3]
    };
    header(fold(sum(&header([0, 0]))).to_be_bytes())
}

fn ipv6(
    traffic_class: u8,
    length: u16,
    protocol: u8,
    source: [u8; 16],
    destination: [u8; 16],
) -> [u8; IPV6_BYTES] {
    let [l0, l1] = length.to_be_bytes();
    let mut header = [0; IPV6_BYTES];
    let fixed = [0x60 | traffic_class >> 4, traffic_class << 4, 0, 0, l0, l1, protocol, TTL];
    let bytes = fixed.iter().chain(&source).chain(&destination);
    header.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    header
}

/// Sum of big-endian 16-bit words (RFC 1071), an odd last byte padded with zero. Frames are far too short to overflow.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let whole: u64 = words.iter().map(|word| u64::from(u32::from_be_bytes(*word))).sum();
    let (pairs, last) = rest.as_chunks::<2>();
    let pairs: u64 = pairs.iter().map(|pair| u64::from(u16::from_be_bytes(*pair))).sum();
    whole + pairs + last.first().map_or(0, |byte| u64::from(*byte) << 8)
}

/// The checksum of a sum.
fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// A received packet whose outer headers have been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OuterPacket {
    /// Sender; port 0 without UDP.
    pub source: SocketAddr,
    /// Receiver: us; port 0 without UDP.
    pub destination: SocketAddr,
    /// ESP came in UDP.
    pub udp: bool,
    /// ECN field of the outer header.
    pub ecn: u8,
    /// Where ESP lies in the bytes that were parsed.
    pub esp: Range<usize>,
}

impl OuterPacket {
    /// Checks the headers of the packet that `bytes` begins with; what follows its length is padding.
    pub fn parse(bytes: &[u8]) -> Result<Self, OuterError> {
        match bytes.first().ok_or(OuterError::Malformed)? >> 4 {
            4 => Self::parse_v4(bytes),
            6 => Self::parse_v6(bytes),
            _ => Err(OuterError::Malformed),
        }
    }

    fn parse_v4(bytes: &[u8]) -> Result<Self, OuterError> {
        let &[version_ihl, tos, l0, l1, _, _, f0, f1, _, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] =
            bytes.first_chunk::<IPV4_BYTES>().ok_or(OuterError::Malformed)?;
        let header = usize::from(version_ihl & 0x0f) * 4;
        let end = usize::from(u16::from_be_bytes([l0, l1]));
        if header < IPV4_BYTES || end < header || end > bytes.len() {
            return Err(OuterError::Malformed);
        }
        // More fragments, or an offset.
        if u16::from_be_bytes([f0, f1]) & 0x3fff != 0 {
            return Err(OuterError::Fragment);
        }
        let (source, destination) = (Ipv4Addr::new(s0, s1, s2, s3), Ipv4Addr::new(d0, d1, d2, d3));
        Self::upper_layer(bytes, header..end, protocol, source.into(), destination.into(), tos & ecn::MASK)
    }

    fn parse_v6(bytes: &[u8]) -> Result<Self, OuterError> {
        let (&[_, class_low, _, _, l0, l1, protocol, _], rest) =
            bytes.split_first_chunk::<8>().ok_or(OuterError::Malformed)?;
        let (source, rest) = rest.split_first_chunk::<16>().ok_or(OuterError::Malformed)?;
        let destination = rest.first_chunk::<16>().ok_or(OuterError::Malformed)?;
        let end = IPV6_BYTES + usize::from(u16::from_be_bytes([l0, l1]));
        if end > bytes.len() {
            return Err(OuterError::Malformed);
        }
        let (source, destination) = (Ipv6Addr::from(*source), Ipv6Addr::from(*destination));
        let ecn = class_low >> 4 & ecn::MASK;
        Self::upper_layer(bytes, IPV6_BYTES..end, protocol, source.into(), destination.into(), ecn)
    }

    fn upper_layer(
        bytes: &[u8],
        payload: Range<usize>,
        protocol: u8,
        source: IpAddr,
        destination: IpAddr,
        ecn: u8,
    ) -> Result<Self, OuterError> {
        let (udp, ports, esp) = match protocol {
            PROTOCOL_ESP => (false, (0, 0), payload),
            PROTOCOL_UDP => {
                let datagram = bytes.get(payload.clone()).ok_or(OuterError::Malformed)?;
                let &[s0, s1, d0, d1, l0, l1, _, _] =
                    datagram.first_chunk::<UDP_BYTES>().ok_or(OuterError::Malformed)?;
                let length = usize::from(u16::from_be_bytes([l0, l1]));
                if length < UDP_BYTES || length > datagram.len() {
                    return Err(OuterError::Malformed);
                }
                let ports = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
                (true, ports, payload.start + UDP_BYTES..payload.start + length)
            }
            _ => return Err(OuterError::Protocol),
        };
        Ok(Self {
            source: SocketAddr::new(source, ports.0),
            destination: SocketAddr::new(destination, ports.1),
            udp,
            ecn,
            esp,
        })
    }
}

/// RFC 6040 section 4.2, figure 4: the ECN field a packet goes on with, from what the inner and the outer header say.
/// `None`: the packet is to be dropped.
pub fn decapsulated_ecn(inner: u8, outer: u8) -> Option<u8> {
    match (inner & ecn::MASK, outer & ecn::MASK) {
        (ecn::NOT_ECT, ecn::CE) => None,
        (ecn::NOT_ECT, _) => Some(ecn::NOT_ECT),
        (_, ecn::CE) => Some(ecn::CE),
        (ecn::ECT_0, ecn::ECT_1) => Some(ecn::ECT_1),
        (inner, _) => Some(inner),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::transform::inner::tests::{checksum, ipv4 as inner_ipv4, ipv6 as inner_ipv6};

    fn tunnel(local: &str, remote: &str, udp_encapsulation: bool) -> OuterHeader {
        OuterHeader::new(&Outer {
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            udp_encapsulation,
        })
        .unwrap()
    }

    fn inner(tos: u8, dont_fragment: bool) -> InnerPacket {
        let mut bytes = inner_ipv4([10, 1, 0, 1], [10, 2, 0, 1], 17, &[]);
        bytes[1] = tos;
        bytes[6] = if dont_fragment { 0x40 } else { 0 };
        InnerPacket::parse(&bytes).unwrap()
    }

    fn prepended(header: &OuterHeader, inner: &InnerPacket, esp: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0xee; HEADER_MAX];
        buffer.extend_from_slice(esp);
        let end = buffer.len();
        let place = header.prepend(&mut buffer, HEADER_MAX..end, inner, 0xabcd).unwrap();
        assert_eq!(place, HEADER_MAX - header.bytes()..end);
        buffer[place].to_vec()
    }

    #[test]
    fn ipv4_header_carries_what_the_rfcs_say() {
        let header = tunnel("192.0.2.1:0", "198.51.100.2:0", false);
        let packet = prepended(&header, &inner(0xb9, true), &[7; 40]);
        assert_eq!(packet[..10], [0x45, 0xb9, 0, 60, 0, 0, 0x40, 0, 64, 50]);
        assert_eq!(packet[12..20], [192, 0, 2, 1, 198, 51, 100, 2]);
        assert_eq!(checksum(&packet[..20]), 0);
        let packet = prepended(&header, &inner(0, false), &[7; 40]);
        assert_eq!(packet[4..8], [0xab, 0xcd, 0, 0]);
        assert_eq!(checksum(&packet[..20]), 0);
        let v6 = inner_ipv6(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST, 59, &[]);
        let packet = prepended(&header, &InnerPacket::parse(&v6).unwrap(), &[7; 40]);
        assert_eq!(packet[6], 0x40, "DF is set for inner IPv6");
    }

    #[test]
    fn what_is_written_is_read_again() {
        let cases = [
            ("192.0.2.1:4500", "198.51.100.2:31000", true),
            ("192.0.2.1:0", "198.51.100.2:0", false),
            ("[2001:db8::1]:4500", "[2001:db8::2]:4500", true),
            ("[2001:db8::1]:0", "[2001:db8::2]:0", false),
        ];
        for (local, remote, udp) in cases {
            for length in [8, 41, 1400] {
                let esp: Vec<u8> = (0..length).map(|i| i as u8 ^ 0x5a).collect();
                let mut packet = prepended(&tunnel(local, remote, udp), &inner(0x02, true), &esp);
                let end = packet.len();
                packet.extend_from_slice(&[0; 6]);
                let read = OuterPacket::parse(&packet).unwrap();
                assert_eq!(read.source, local.parse().unwrap());
                assert_eq!(read.destination, remote.parse().unwrap());
                assert_eq!((read.udp, read.ecn), (udp, 2));
                assert_eq!(packet[read.esp.clone()], esp);
                assert_eq!(read.esp.end, end);
            }
        }
    }

    #[test]
    fn the_udp_checksum_is_zero_over_ipv4_and_right_over_ipv6() {
        let packet = prepended(&tunnel("192.0.2.1:4500", "192.0.2.2:4500", true), &inner(0, true), &[9; 33]);
        assert_eq!(packet[26..28], [0, 0]);
        for length in [32, 33, 34, 35] {
            let header = tunnel("[2001:db8::1]:4500", "[2001:db8::2]:4500", true);
            let packet = prepended(&header, &inner(0, true), &vec![0xa9; length]);
            let mut pseudo = packet[8..40].to_vec();
            pseudo.extend_from_slice(&[0, 0, packet[4], packet[5], 0, 0, 0, 17]);
            pseudo.extend_from_slice(&packet[40..]);
            assert_eq!(checksum(&pseudo), 0);
            assert_ne!(packet[46..48], [0, 0]);
        }
    }

    #[test]
    fn fragments_other_protocols_and_lies_are_refused() {
        let good = prepended(&tunnel("192.0.2.1:4500", "192.0.2.2:4500", true), &inner(0, false), &[9; 33]);
        for length in 0..good.len() {
            assert!(OuterPacket::parse(&good[..length]).is_err());
        }
        let changed = |at: usize, value: u8| {
            let mut packet = good.clone();
            packet[at] = value;
            OuterPacket::parse(&packet)
        };
        assert_eq!(changed(6, 0x20), Err(OuterError::Fragment));
        assert_eq!(changed(7, 1), Err(OuterError::Fragment));
        assert_eq!(changed(9, 6), Err(OuterError::Protocol));
        assert_eq!(changed(0, 0x44), Err(OuterError::Malformed));
        assert_eq!(changed(0, 0x75), Err(OuterError::Malformed));
        assert_eq!(changed(24, 0xff), Err(OuterError::Malformed));
        assert_eq!(changed(25, 7), Err(OuterError::Malformed));
        let mixed = Outer {
            local: "192.0.2.1:4500".parse().unwrap(),
            remote: "[2001:db8::1]:4500".parse().unwrap(),
            udp_encapsulation: true,
        };
        assert_eq!(OuterHeader::new(&mixed).unwrap_err(), OuterError::Family);
    }

    /// RFC 6040 figure 4, row by row (inner) and column by column (outer Not-ECT, ECT(0), ECT(1), CE).
    #[test]
    fn ecn_is_decapsulated_by_the_table() {
        let (not, ect0, ect1, ce) = (0, 2, 1, 3);
        let table = [
            (not, [Some(not), Some(not), Some(not), None]),
            (ect0, [Some(ect0), Some(ect0), Some(ect1), Some(ce)]),
            (ect1, [Some(ect1), Some(ect1), Some(ect1), Some(ce)]),
            (ce, [Some(ce), Some(ce), Some(ce), Some(ce)]),
        ];
        for (inner, row) in table {
            assert_eq!([not, ect0, ect1, ce].map(|outer| decapsulated_ecn(inner, outer)), row);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_packet_that_fits_or_an_error(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..120),
            version in prop::option::of(prop::sample::select(vec![0x45u8, 0x46, 0x60])),
            protocol in prop::sample::select(vec![17u8, 50]),
        ) {
            if let (Some(version), Some(first)) = (version, bytes.first_mut()) {
                *first = version;
                for at in [6, 9] {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = protocol;
                    }
                }
            }
            if let Ok(packet) = OuterPacket::parse(&bytes) {
                prop_assert!(packet.esp.start <= packet.esp.end && packet.esp.end <= bytes.len());
            }
        }
    }
}
