//! The one packet of a question, as it would arrive.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::protocol::{ICMP, ICMPV6, TCP, UDP};

/// TTL and hop limit of what a host sends.
const HOPS: u8 = 64;
/// The window that a segment offers.
const WINDOW: u16 = 1024;
/// Payload of everything but TCP.
const PAYLOAD: [u8; 8] = [0; 8];

/// TCP's part of a segment without data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Segment {
    /// Flags as they stand in the header.
    pub(super) flags: u8,
    /// Sequence number.
    pub(super) sequence: u32,
    /// Acknowledgment number.
    pub(super) acknowledgment: u32,
}

/// TCP flags.
pub(super) mod flag {
    pub(in crate::explain) const SYN: u8 = 1 << 1;
    pub(in crate::explain) const ACK: u8 = 1 << 4;
}

/// A packet's two ends and what lies between Ethernet and payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    /// Destination and source MAC address, as they stand in a frame.
    pub(super) macs: ([u8; 6], [u8; 6]),
    /// VLAN id; 0: no tag.
    pub(super) vlan: u16,
    /// Both of one family.
    pub(super) source: IpAddr,
    /// Destination.
    pub(super) destination: IpAddr,
    /// IP protocol number.
    pub(super) protocol: u8,
    /// TCP, UDP: source port. ICMP: the identifier.
    pub(super) source_port: u16,
    /// TCP, UDP: destination port. ICMP: type and code.
    pub(super) destination_port: u16,
    /// TCP's.
    pub(super) segment: Segment,
}

impl Packet {
    /// The frame.
    pub(super) fn frame(&self) -> Vec<u8> {
        let transport = self.transport();
        let (ethertype, ip) = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                (0x0800_u16, self.ipv4(source, destination, &transport))
            }
            (source, destination) => (0x86dd, self.ipv6(v6(source), v6(destination), &transport)),
        };
        let mut frame = [self.macs.0, self.macs.1].concat();
        if self.vlan != 0 {
            frame.extend(0x8100_u16.to_be_bytes());
            frame.extend(self.vlan.to_be_bytes());
        }
        frame.extend(ethertype.to_be_bytes());
        frame.extend(ip);
        frame
    }

    /// The header behind IP's (RFC 9293 section 3.1, RFC 768, RFC 792, RFC 4443), with payload.
    fn transport(&self) -> Vec<u8> {
        let ports = [self.source_port.to_be_bytes(), self.destination_port.to_be_bytes()].concat();
        let (mut bytes, at) = match self.protocol {
            TCP => {
                let Segment { flags, sequence, acknowledgment } = self.segment;
                let numbers = [sequence.to_be_bytes(), acknowledgment.to_be_bytes()].concat();
                let rest = [&[5 << 4, flags][..], &WINDOW.to_be_bytes(), &[0; 4]].concat();
                ([ports, numbers, rest].concat(), 16)
            }
            UDP => {
                let length = 8 + u16::try_from(PAYLOAD.len()).unwrap_or(0);
                ([&ports, &length.to_be_bytes()[..], &[0, 0], &PAYLOAD].concat(), 6)
            }
            ICMP | ICMPV6 => {
                let [kind, code] = self.destination_port.to_be_bytes();
                let identifier = self.source_port.to_be_bytes();
                ([&[kind, code, 0, 0], &identifier[..], &[0, 1], &PAYLOAD].concat(), 2)
            }
            _ => return PAYLOAD.to_vec(),
        };
        let sum = checksum(&[&self.pseudo_header(bytes.len()), &bytes]);
        if let Some(place) = bytes.get_mut(at..at + 2) {
            place.copy_from_slice(&sum.to_be_bytes());
        }
        bytes
    }

    /// What the checksum covers beside the packet itself (RFC 9293 section 3.1, RFC 8200 section 8.1); nothing for ICMP.
    fn pseudo_header(&self, length: usize) -> Vec<u8> {
        let length = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
        match (self.source, self.destination) {
            (IpAddr::V4(_), _) if self.protocol == ICMP => Vec::new(),
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                [&source.octets()[..], &destination.octets(), &[0, self.protocol], &length].concat()
            }
            (source, destination) => [
                &v6(source).octets()[..],
                &v6(destination).octets(),
                &[0, 0],
                &length,
                &[0, 0, 0, self.protocol],
            ]
            .concat(),
        }
    }

    fn ipv4(&self, source: Ipv4Addr, destination: Ipv4Addr, transport: &[u8]) -> Vec<u8> {
        let length = u16::try_from(20 + transport.len()).unwrap_or(u16::MAX).to_be_bytes();
        // Don't fragment.
        let mut header = [&[0x45, 0][..], &length, &[0, 0, 0x40, 0, HOPS, self.protocol, 0, 0]].concat();
        header.extend(source.octets());
        header.extend(destination.octets());
        let sum = checksum(&[&header]);
        if let Some(place) = header.get_mut(10..12) {
            place.copy_from_slice(&sum.to_be_bytes());
        }
        [&header, transport].concat()
    }

    fn ipv6(&self, source: Ipv6Addr, destination: Ipv6Addr, transport: &[u8]) -> Vec<u8> {
        let length = u16::try_from(transport.len()).unwrap_or(u16::MAX).to_be_bytes();
        [
            &[0x60, 0, 0, 0][..],
            &length,
            &[self.protocol, HOPS],
            &source.octets(),
            &destination.octets(),
            transport,
        ]
        .concat()
    }
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// The Internet checksum (RFC 1071) over parts of even length but for the last.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for word in parts.iter().flat_map(|part| part.chunks(2)) {
        let [high, low] = [word.first(), word.get(1)].map(|byte| u32::from(byte.copied().unwrap_or(0)));
        sum += high << 8 | low;
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    match !u16::try_from(sum).unwrap_or(0) {
        // UDP: a zero says that there is none (RFC 768); in the others both stand for the same.
        0 => 0xffff,
        sum => sum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(source: &str, destination: &str, protocol: u8) -> Packet {
        Packet {
            macs: ([2; 6], [4; 6]),
            vlan: 0,
            source: source.parse().expect("an address"),
            destination: destination.parse().expect("an address"),
            protocol,
            source_port: 40_000,
            destination_port: 9100,
            segment: Segment { flags: flag::SYN, sequence: 7, acknowledgment: 0 },
        }
    }

    /// A sum over what carries its own checksum is zero, all ones complemented.
    fn is_whole(parts: &[&[u8]]) -> bool {
        matches!(checksum(parts), 0xffff | 0)
    }

    #[test]
    fn lengths_and_checksums_are_right_in_both_families() {
        for (source, destination, ip_bytes) in
            [("192.168.1.10", "192.168.3.10", 20), ("fd00:1::10", "fd00:3::10", 40)]
        {
            for (protocol, bytes) in [(TCP, 20), (UDP, 16), (ICMP, 16), (ICMPV6, 16), (47, 8)] {
                let packet = packet(source, destination, protocol);
                let frame = packet.frame();
                assert_eq!(frame.len(), 14 + ip_bytes + bytes, "{protocol} {source}");
                let (ip, transport) = frame[14..].split_at(ip_bytes);
                if ip_bytes == 20 {
                    assert!(is_whole(&[ip]));
                    assert_eq!(u16::from_be_bytes([ip[2], ip[3]]) as usize, 20 + bytes);
                } else {
                    assert_eq!(u16::from_be_bytes([ip[4], ip[5]]) as usize, bytes);
                }
                if protocol != 47 {
                    assert!(is_whole(&[&packet.pseudo_header(bytes), transport]), "{protocol} {source}");
                }
            }
        }
    }

    #[test]
    fn a_tag_stands_between_addresses_and_type() {
        let tagged = Packet { vlan: 10, ..packet("10.0.0.1", "10.0.0.2", UDP) }.frame();
        assert_eq!(tagged[12..18], [0x81, 0, 0, 10, 8, 0]);
    }
}
