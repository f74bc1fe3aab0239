use std::cell::RefCell;

use proptest::prelude::*;
use sekisho_abi::mapped;

use super::*;
use crate::icmp;
use crate::parse::{self, Ipv6};

/// A frame in memory.
struct Bytes(RefCell<Vec<u8>>);

impl Frame for Bytes {
    fn length(&self) -> u32 {
        self.0.borrow().len().try_into().expect("short")
    }

    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.borrow().as_slice().read(offset)
    }

    fn read_at<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.read(offset)
    }
}

impl Rewrite for Bytes {
    fn write_u32(&self, offset: u32, value: u32) -> Option<()> {
        self.write_at(offset, value.to_ne_bytes())
    }

    fn write_u16(&self, offset: u32, value: u16) -> Option<()> {
        self.write_at(offset, value.to_ne_bytes())
    }

    fn write_u64(&self, offset: u32, value: u64) -> Option<()> {
        self.write_at(offset, value.to_ne_bytes())
    }

    fn write_at<const N: usize>(&self, offset: u32, bytes: [u8; N]) -> Option<()> {
        let at = offset as usize;
        self.0.borrow_mut().get_mut(at..at + N)?.copy_from_slice(&bytes);
        Some(())
    }
}

/// One's complement sum of 16-bit words (RFC 1071).
fn sum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded")
}

/// The bytes that a transport checksum covers.
fn covered(version: u8, protocol: u8, ends: &Ends, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    if version == 4 && protocol == protocol::ICMP {
        return payload.to_vec();
    }
    let from = if version == 4 { 12 } else { 0 };
    bytes.extend(&flow::join(ends.source)[from..]);
    bytes.extend(&flow::join(ends.destination)[from..]);
    bytes.extend(u32::try_from(payload.len()).expect("short").to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes.extend(payload);
    bytes
}

/// A packet of the field's protocols.
#[derive(Clone, Debug)]
struct Sample {
    version: u8,
    protocol: u8,
    ends: Ends,
    /// Whether UDP goes without a checksum.
    unchecked: bool,
    data: Vec<u8>,
}

impl Sample {
    fn is_echo(&self) -> bool {
        matches!(self.protocol, protocol::ICMP | protocol::ICMPV6)
    }

    fn checksum_at(&self) -> Option<usize> {
        match self.protocol {
            protocol::TCP => Some(16),
            protocol::UDP | protocol::UDP_LITE | protocol::DCCP => Some(6),
            protocol::ICMP | protocol::ICMPV6 => Some(2),
            _ => None,
        }
    }

    fn packet(&self) -> Vec<u8> {
        let [s0, s1] = self.ends.source_port_be.to_ne_bytes();
        let [d0, d1] = self.ends.destination_port_be.to_ne_bytes();
        let length = u16::try_from(8 + self.data.len()).expect("short").to_be_bytes();
        let mut payload = match self.protocol {
            protocol::TCP => vec![s0, s1, d0, d1, 0, 0, 0, 9, 0, 0, 0, 7, 0x50, 0x10, 1, 1, 0, 0, 0, 0],
            protocol::UDP => vec![s0, s1, d0, d1, length[0], length[1], 0, 0],
            protocol::ICMP | protocol::ICMPV6 => {
                vec![if self.version == 4 { 8 } else { 128 }, 0, 0, 0, s0, s1, 0, 1]
            }
            _ => vec![1, 2, 3, 4, 5, 6, 0, 0],
        };
        payload.extend(&self.data);
        if let Some(at) = self.checksum_at().filter(|_| !self.unchecked) {
            let checksum = match !sum(&covered(self.version, self.protocol, &self.ends, &payload)) {
                0 if self.protocol == protocol::UDP => 0xffff,
                checksum => checksum,
            };
            payload[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        }
        let length = u16::try_from(payload.len()).expect("short");
        if self.version == 4 {
            let [l0, l1] = (length + 20).to_be_bytes();
            let mut header = vec![0x45, 0, l0, l1, 0x12, 0x34, 0x40, 0, 64, self.protocol, 0, 0];
            header.extend(&flow::join(self.ends.source)[12..]);
            header.extend(&flow::join(self.ends.destination)[12..]);
            let checksum = !sum(&header);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            [header, payload].concat()
        } else {
            let [l0, l1] = length.to_be_bytes();
            let mut header = vec![0x60, 0, 0, 0, l0, l1, self.protocol, 64];
            header.extend(flow::join(self.ends.source));
            header.extend(flow::join(self.ends.destination));
            [header, payload].concat()
        }
    }

    /// Its ends as the parser sees them.
    fn seen(&self, ends: Ends) -> Ends {
        if self.is_echo() {
            let kind = if self.version == 4 { 8 } else { 128 };
            return Ends { destination_port_be: u16::from_ne_bytes([kind, 0]), ..ends };
        }
        match self.protocol {
            protocol::TCP | protocol::UDP => ends,
            _ => Ends { source_port_be: 0, destination_port_be: 0, ..ends },
        }
    }
}

fn framed(packet: &[u8]) -> Vec<u8> {
    let ethertype = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    [&[0; 12][..], &ethertype, packet].concat()
}

fn parsed(frame: &[u8]) -> Packet {
    let mut packet = Packet::default();
    if frame[12] == 8 {
        parse::ipv4(frame, &mut packet).expect("parses");
    } else {
        assert_eq!(parse::ipv6(frame, &mut packet), Ok(Ipv6::Done));
    }
    packet
}

fn ends_of(version: u8) -> impl Strategy<Value = Ends> {
    let address = move || {
        any::<[u8; 16]>().prop_map(move |bytes| match version {
            4 => mapped([bytes[0], bytes[1], bytes[2], bytes[3]]),
            _ => bytes,
        })
    };
    // 4500 would make another kind of packet of it.
    let port = || any::<u16>().prop_filter("ESP in UDP", |port| *port != 4500u16.to_be());
    (address(), address(), port(), port()).prop_map(|(source, destination, s, d)| Ends {
        source: flow::halves(&source),
        destination: flow::halves(&destination),
        source_port_be: s,
        destination_port_be: d,
        reserved: [0; 2],
    })
}

/// A packet and the ends to give it.
fn samples() -> impl Strategy<Value = (Sample, Ends)> {
    let protocols = prop_oneof![Just(6), Just(17), Just(1), Just(47), Just(33), Just(136)];
    (prop_oneof![Just(4u8), Just(6u8)], protocols).prop_flat_map(|(version, protocol)| {
        let protocol = if version == 6 && protocol == 1 { protocol::ICMPV6 } else { protocol };
        (ends_of(version), ends_of(version), prop::collection::vec(any::<u8>(), 0..40), any::<bool>())
            .prop_map(move |(ends, to, data, unchecked)| {
                let unchecked = unchecked && protocol == protocol::UDP && version == 4;
                let sample = Sample { version, protocol, ends, unchecked, data };
                let to = sample.seen(to);
                (sample, to)
            })
    })
}

/// Whether two packets are the same but for the two forms that a sum of zero has.
fn same(got: &[u8], expected: &[u8], checksum_at: Option<usize>, is_udp: bool) -> bool {
    let Some(at) = checksum_at.filter(|_| !is_udp) else { return got == expected };
    let normal = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        if bytes[at..at + 2] == [0xff, 0xff] {
            bytes[at..at + 2].fill(0);
        }
        bytes
    };
    normal(got) == normal(expected)
}

proptest! {
    #[test]
    fn as_if_sent_with_these_ends((sample, to) in samples()) {
        let frame = framed(&sample.packet());
        let packet = parsed(&frame);
        let bytes = Bytes(RefCell::new(frame));
        ends(&bytes, &packet, &Ends::of(&packet), &to).expect("within the frame");
        let after = Sample { ends: to, ..sample.clone() };
        let got = bytes.0.into_inner();
        let transport = if sample.version == 4 { 34 } else { 54 };
        let at = sample.checksum_at().map(|at| at + transport);
        prop_assert!(same(&got, &framed(&after.packet()), at, sample.protocol == 17), "{:02x?}", got);
    }

    #[test]
    fn a_later_fragment_has_addresses_only((sample, to) in samples()) {
        let frame = framed(&sample.packet());
        let packet = Packet { fragment: part::LATER, ..parsed(&frame) };
        let (_, transport) = frame.split_at(if sample.version == 4 { 34 } else { 54 });
        let bytes = Bytes(RefCell::new(frame.clone()));
        ends(&bytes, &packet, &Ends::of(&packet), &to).expect("within the frame");
        let got = bytes.0.into_inner();
        prop_assert!(got.ends_with(transport), "what is no header of its own stays");
        let after = Ends { source_port_be: packet.source_port_be, destination_port_be: packet.destination_port_be, ..to };
        prop_assert_eq!(Ends::of(&parsed(&got)), after);
        prop_assert!(sample.version == 6 || sum(&got[14..34]) == 0xffff);
    }

    #[test]
    fn an_error_quotes_the_packet_as_its_sender_knows_it((sample, to) in samples(), quoted in 28usize..120) {
        let whole = sample.packet();
        let header = if sample.version == 4 { 20 } else { 40 };
        let quote = |packet: &[u8]| packet[..quoted.max(header + 8).min(packet.len())].to_vec();
        let router = if sample.version == 4 { mapped([9, 8, 7, 6]) } else { [0x2a; 16] };
        let icmp = |destination: [u64; 2], quote: Vec<u8>| {
            let ends = Ends { source: flow::halves(&router), destination, ..Ends::default() };
            let mut payload = vec![if sample.version == 4 { 3 } else { 1 }, 0, 0, 0, 0, 0, 5, 0];
            payload.extend(quote);
            let protocol = if sample.version == 4 { protocol::ICMP } else { protocol::ICMPV6 };
            let checksum = !sum(&covered(sample.version, protocol, &ends, &payload));
            payload[2..4].copy_from_slice(&checksum.to_be_bytes());
            // The header of some other packet, whose payload this takes the place of.
            let other = Sample { protocol: 47, ends, data: payload[8..].to_vec(), ..sample.clone() };
            let mut packet = other.packet();
            packet.truncate(header);
            if sample.version == 4 {
                packet[9] = protocol;
                packet[10..12].fill(0);
                let checksum = !sum(&packet);
                packet[10..12].copy_from_slice(&checksum.to_be_bytes());
            } else {
                packet[6] = protocol;
            }
            framed(&[packet, payload].concat())
        };
        let frame = icmp(sample.ends.source, quote(&whole));
        let about = parsed(&frame);
        let mut inner = Packet::default();
        icmp::quoted(frame.as_slice(), &about, &mut inner).expect("a quote");
        let bytes = Bytes(RefCell::new(frame));
        let outer = Ends { destination: to.source, ..Ends::of(&about) };
        error(&bytes, &about, &outer, &inner, &to).expect("within the frame");
        let after = Sample { ends: to, ..sample.clone() };
        let expected = icmp(to.source, quote(&after.packet()));
        let got = bytes.0.into_inner();
        // Where a checksum within has the other form of zero, the outer one shows it.
        let start = 14 + header;
        prop_assert_eq!(&got[..start + 2], &expected[..start + 2]);
        let outer_sum = covered(sample.version, if sample.version == 4 { 1 } else { 58 }, &outer, &got[start..]);
        prop_assert_eq!(sum(&outer_sum), 0xffff);
        let (got, expected) = (&got[start + 8..], &expected[start + 8..]);
        let at = sample.checksum_at().map(|at| at + header);
        // Half a checksum is none: whoever gets it can do nothing with it.
        let length = if at.is_some_and(|at| at + 1 == got.len()) { got.len() - 1 } else { got.len() };
        let at = at.filter(|at| at + 2 <= length);
        prop_assert!(same(&got[..length], &expected[..length], at, sample.protocol == 17));
    }

    /// Whatever the bytes, a write goes nowhere else.
    #[test]
    fn total(bytes in prop::collection::vec(any::<u8>(), 0..100), transport in 0u16..120, version: bool, kind in 0u8..9) {
        let kind = match kind {
            0 => Kind::Tcp,
            1 => Kind::Udp,
            2 => Kind::EchoRequest,
            3 => Kind::EchoReply,
            _ => Kind::Other,
        };
        let packet = Packet { version: if version { 4 } else { 6 }, transport, kind, ..Packet::default() };
        let length = bytes.len();
        let frame = Bytes(RefCell::new(bytes));
        let _ = ends(&frame, &packet, &Ends::default(), &Ends { source_port_be: 7, ..Ends::default() });
        let _ = error(&frame, &packet, &Ends::default(), &packet, &Ends::default());
        prop_assert_eq!(frame.0.into_inner().len(), length);
    }
}

#[test]
fn udp_without_a_checksum_stays_without_and_zero_is_written_as_ones() {
    let change = Change::short(1, 2);
    assert_eq!(updated(0, Change::default(), change, true), 0);
    // ~(~2 + ~1 + 2) = 1 for most sums; the one that gives zero:
    let old = (0..=u16::MAX).find(|&old| old != 0 && change.apply(old) == 0).expect("one");
    assert_eq!(updated(old, Change::default(), change, true), 0xffff);
    assert_eq!(updated(old, Change::default(), change, false), 0);
}
