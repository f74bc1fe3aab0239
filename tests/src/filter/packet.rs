//! Frames to send in: built from parts, with right lengths and checksums, and checked the same way when they come out.

use std::net::IpAddr;

/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Of TCP.
pub const TCP: u8 = 6;
/// Of UDP.
pub const UDP: u8 = 17;
/// Of ESP.
pub const ESP: u8 = 50;
/// Of ICMPv6.
pub const ICMPV6: u8 = 58;

/// TCP flag: no more data.
pub const FIN: u8 = 0x01;
/// TCP flag: synchronise sequence numbers.
pub const SYN: u8 = 0x02;
/// TCP flag: reset.
pub const RST: u8 = 0x04;
/// TCP flag: the acknowledgment number counts.
pub const ACK: u8 = 0x10;

/// An IP packet to be.
#[derive(Clone, Debug)]
pub struct Ip {
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Transport header and payload, its checksum not yet filled in.
    pub payload: Vec<u8>,
    /// Of a fragment: identification, offset in bytes, whether more follow.
    pub fragment: Option<(u16, u16, bool)>,
}

/// From one address to another: GRE, until something else is put in.
pub fn ip(source: &str, destination: &str) -> Ip {
    Ip {
        source: source.parse().expect("an address"),
        destination: destination.parse().expect("an address"),
        protocol: 47,
        hop_limit: 64,
        payload: vec![1, 2, 3, 4, 5, 6, 7, 8],
        fragment: None,
    }
}

impl Ip {
    /// TCP without options; 20 bytes of payload follow an ACK. Both sides begin at number 9.
    pub fn tcp(self, source: u16, destination: u16, flags: u8) -> Self {
        self.tcp_with(source, destination, flags, &[])
    }

    /// TCP with options, a multiple of four bytes.
    pub fn tcp_with(mut self, source: u16, destination: u16, flags: u8, options: &[u8]) -> Self {
        let offset = u8::try_from((20 + options.len()) / 4).expect("at most 60 bytes") << 4;
        self.protocol = TCP;
        self.payload = [source.to_be_bytes(), destination.to_be_bytes()].concat();
        let sequence = if flags & SYN == 0 { 10 } else { 9 };
        let ack = if flags & ACK == 0 { 0 } else { 10 };
        self.payload.extend([0, 0, 0, sequence, 0, 0, 0, ack, offset, flags, 0xff, 0xff, 0, 0, 0, 0]);
        self.payload.extend(options);
        if flags == ACK {
            self.payload.extend([0x5a; 20]);
        }
        self
    }

    /// Other sequence and acknowledgment numbers.
    pub fn numbers(mut self, sequence: u32, ack: u32) -> Self {
        self.payload[4..8].copy_from_slice(&sequence.to_be_bytes());
        self.payload[8..12].copy_from_slice(&ack.to_be_bytes());
        self
    }

    /// Another window.
    pub fn window(mut self, window: u16) -> Self {
        self.payload[14..16].copy_from_slice(&window.to_be_bytes());
        self
    }

    /// UDP with this payload.
    pub fn udp(mut self, source: u16, destination: u16, payload: &[u8]) -> Self {
        let length = u16::try_from(8 + payload.len()).expect("short");
        self.protocol = UDP;
        self.payload =
            [&source.to_be_bytes()[..], &destination.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload]
                .concat();
        self
    }

    /// ICMP or ICMPv6 with these first bytes (type, code) and the rest of its header and payload.
    pub fn icmp(mut self, kind: u8, code: u8, rest: &[u8]) -> Self {
        self.protocol = if self.source.is_ipv4() { ICMP } else { ICMPV6 };
        self.payload = [&[kind, code, 0, 0][..], rest].concat();
        self
    }

    /// Echo request or reply.
    pub fn echo(self, request: bool, identifier: u16) -> Self {
        let kind = match (self.source.is_ipv4(), request) {
            (true, true) => 8,
            (true, false) => 0,
            (false, true) => 128,
            (false, false) => 129,
        };
        let rest = [&identifier.to_be_bytes()[..], &[0, 1], &[0x5a; 16]].concat();
        self.icmp(kind, 0, &rest)
    }

    /// ESP with this SPI.
    pub fn esp(mut self, spi: u32) -> Self {
        self.protocol = ESP;
        self.payload = [&spi.to_be_bytes()[..], &[0, 0, 0, 1], &[0xa5; 40]].concat();
        self
    }

    /// Another hop limit.
    pub fn hop_limit(mut self, hop_limit: u8) -> Self {
        self.hop_limit = hop_limit;
        self
    }

    /// One fragment of the packet: so many bytes of its payload from an offset on.
    pub fn fragment(mut self, id: u16, offset: u16, length: u16, more: bool) -> Self {
        self.fill_checksum();
        let end = usize::from(offset + length).min(self.payload.len());
        let bytes = self.payload[usize::from(offset)..end].to_vec();
        Self { payload: bytes, fragment: Some((id, offset, more)), ..self }
    }

    /// The packet in fragments of at most so many bytes, a multiple of eight.
    pub fn fragments(self, id: u16, cut: u16) -> Vec<Self> {
        let total = u16::try_from(self.payload.len()).expect("a packet");
        (0..total.div_ceil(cut))
            .map(|number| self.clone().fragment(id, number * cut, cut, (number + 1) * cut < total))
            .collect()
    }

    /// Puts an IPv6 extension header before the payload.
    pub fn extended(mut self, kind: u8, options: [u8; 6]) -> Self {
        self.fill_checksum();
        self.payload = [&[self.protocol, 0][..], &options, &self.payload].concat();
        self.protocol = kind;
        self
    }

    /// The packet's bytes.
    pub fn bytes(mut self) -> Vec<u8> {
        if self.fragment.is_none() {
            self.fill_checksum();
        }
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let length = u16::try_from(20 + self.payload.len()).expect("short").to_be_bytes();
                let mut header =
                    vec![0x45, 0, length[0], length[1], 0x12, 0x34, 0x40, 0, self.hop_limit, self.protocol];
                if let Some((id, offset, more)) = self.fragment {
                    header[4..6].copy_from_slice(&id.to_be_bytes());
                    header[6..8].copy_from_slice(&((offset / 8) | (u16::from(more) << 13)).to_be_bytes());
                }
                header.extend([0, 0]);
                header.extend(source.octets());
                header.extend(destination.octets());
                let sum = !sum(&header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                [header, self.payload].concat()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                if let Some((id, offset, more)) = self.fragment {
                    let bits = (offset | u16::from(more)).to_be_bytes();
                    let id = u32::from(id).to_be_bytes();
                    self.payload = [&[self.protocol, 0][..], &bits, &id, &self.payload].concat();
                    self.protocol = 44;
                }
                let length = u16::try_from(self.payload.len()).expect("short").to_be_bytes();
                let mut header = vec![0x60, 0, 0, 0, length[0], length[1], self.protocol, self.hop_limit];
                header.extend(source.octets());
                header.extend(destination.octets());
                [header, self.payload].concat()
            }
            addresses => panic!("two families: {addresses:?}"),
        }
    }

    /// The packet in a frame.
    pub fn frame(self, destination: [u8; 6], source: [u8; 6]) -> Vec<u8> {
        let ethertype = if self.source.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] };
        [&destination[..], &source, &ethertype, &self.bytes()].concat()
    }

    fn fill_checksum(&mut self) {
        let at = match self.protocol {
            TCP => 16,
            UDP => 6,
            ICMP | ICMPV6 => 2,
            _ => return,
        };
        if self.payload.len() >= at + 2 {
            let sum = !transport_sum(self.source, self.destination, self.protocol, &self.payload);
            self.payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
    }
}

/// Panics unless the checksums of a frame's IPv4 header and of its TCP, UDP or ICMP are right.
#[track_caller]
pub fn assert_checksums(frame: &[u8]) {
    let packet = &frame[14..];
    let (source, destination, protocol, payload) = if packet[0] >> 4 == 4 {
        assert_eq!(sum(&packet[..20]), 0xffff, "IPv4 header checksum");
        let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).expect("four"));
        let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        (address(12), address(16), packet[9], &packet[20..length])
    } else {
        let address = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).expect("sixteen"));
        (address(8), address(24), packet[6], &packet[40..])
    };
    if [TCP, UDP, ICMP, ICMPV6].contains(&protocol) {
        assert_eq!(transport_sum(source, destination, protocol, payload), 0xffff, "transport checksum");
    }
}

/// The one's complement sum of pseudo-header and payload.
fn transport_sum(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> u16 {
    let mut covered = Vec::new();
    if protocol != ICMP {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                covered.extend(source.octets());
                covered.extend(destination.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                covered.extend(source.octets());
                covered.extend(destination.octets());
            }
            addresses => panic!("two families: {addresses:?}"),
        }
        covered.extend(u32::try_from(payload.len()).expect("short").to_be_bytes());
        covered.extend([0, 0, 0, protocol]);
    }
    covered.extend(payload);
    sum(&covered)
}

/// One's complement sum of 16-bit words (RFC 1071).
fn sum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded")
}
