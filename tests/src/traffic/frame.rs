//! Ethernet frames made by hand, and what kind a frame from the wire is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail};
use etherparse::{
    EtherType, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, NetSlice, PacketBuilder, SlicedPacket,
    TransportSlice,
};

/// IANA "Assigned Internet Protocol Numbers": ESP.
pub const ESP: IpNumber = IpNumber(50);

/// From where to where on the link, and from whom to whom in the packet: not necessarily the truth.
#[derive(Clone, Copy, Debug)]
pub struct Addressing {
    /// Hardware addresses, source and destination.
    pub mac: ([u8; 6], [u8; 6]),
    /// Source and destination, of one family.
    pub ip: (IpAddr, IpAddr),
}

impl Addressing {
    /// A UDP datagram.
    pub fn udp(&self, ports: (u16, u16), payload: &[u8]) -> Result<Vec<u8>> {
        let builder = PacketBuilder::ethernet2(self.mac.0, self.mac.1);
        let mut frame = Vec::new();
        match self.ip {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                builder.ipv4(from.octets(), to.octets(), 64).udp(ports.0, ports.1).write(&mut frame, payload)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                builder.ipv6(from.octets(), to.octets(), 64).udp(ports.0, ports.1).write(&mut frame, payload)
            }
            (from, to) => bail!("{from} and {to} are of different families"),
        }
        .context("building a UDP frame")?;
        Ok(frame)
    }

    /// A TCP SYN: what opens a flow if anything does.
    pub fn syn(&self, ports: (u16, u16)) -> Result<Vec<u8>> {
        let builder = PacketBuilder::ethernet2(self.mac.0, self.mac.1);
        let mut frame = Vec::new();
        match self.ip {
            (IpAddr::V4(from), IpAddr::V4(to)) => builder
                .ipv4(from.octets(), to.octets(), 64)
                .tcp(ports.0, ports.1, 0x5e_c1_50, 64_240)
                .syn()
                .write(&mut frame, &[]),
            (IpAddr::V6(from), IpAddr::V6(to)) => builder
                .ipv6(from.octets(), to.octets(), 64)
                .tcp(ports.0, ports.1, 0x5e_c1_50, 64_240)
                .syn()
                .write(&mut frame, &[]),
            (from, to) => bail!("{from} and {to} are of different families"),
        }
        .context("building a TCP frame")?;
        Ok(frame)
    }

    /// Any protocol with any payload.
    pub fn raw(&self, protocol: IpNumber, payload: &[u8]) -> Result<Vec<u8>> {
        let mut frame = [self.mac.1, self.mac.0].concat();
        let length = u16::try_from(payload.len()).context("a payload beyond an IP packet")?;
        match self.ip {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let header = Ipv4Header::new(length, 64, protocol, from.octets(), to.octets())
                    .context("a payload beyond an IPv4 packet")?;
                frame.extend_from_slice(&EtherType::IPV4.0.to_be_bytes());
                header.write(&mut frame).context("building an IPv4 header")?;
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let header = Ipv6Header {
                    traffic_class: 0,
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: length,
                    next_header: protocol,
                    hop_limit: 64,
                    source: from.octets(),
                    destination: to.octets(),
                };
                frame.extend_from_slice(&EtherType::IPV6.0.to_be_bytes());
                header.write(&mut frame).context("building an IPv6 header")?;
            }
            (from, to) => bail!("{from} and {to} are of different families"),
        }
        frame.extend_from_slice(payload);
        Ok(frame)
    }
}

/// An ESP packet's payload with this SPI: sequence number 1 and noise where the ciphertext would be.
pub fn esp_payload(spi: u32) -> Vec<u8> {
    let mut payload = spi.to_be_bytes().to_vec();
    payload.extend_from_slice(&1_u32.to_be_bytes());
    payload.extend((0_u8..96).map(|i| i.wrapping_mul(151).wrapping_add(7)));
    payload
}

/// What a frame on the carrier's cable is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// ARP.
    Arp,
    /// ESP as IP protocol 50 (RFC 4303).
    Esp,
    /// ESP in UDP 4500 (RFC 3948 section 2.1).
    EspInUdp,
    /// IKE: UDP 500, or UDP 4500 with the non-ESP marker.
    Ike,
    /// The one-byte NAT keepalive (RFC 3948 section 2.3).
    Keepalive,
    /// Multicast listener reports (RFC 3810): a host's kernel sends them when a link comes up.
    Mld,
    /// Neighbour discovery (RFC 4861).
    Ndp,
    /// Anything else: a leak. In words.
    Other(String),
}

/// Which kind a frame is, and between whom, if it is IP.
pub fn classify(frame: &[u8]) -> (Kind, Option<(IpAddr, IpAddr)>) {
    let Ok(packet) = SlicedPacket::from_ethernet(frame) else {
        return (Kind::Other(format!("unreadable frame of {} bytes", frame.len())), None);
    };
    let (ends, protocol) = match &packet.net {
        Some(NetSlice::Arp(_)) => return (Kind::Arp, None),
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            let ends: (Ipv4Addr, Ipv4Addr) = (header.source_addr(), header.destination_addr());
            ((IpAddr::from(ends.0), IpAddr::from(ends.1)), ip.payload().ip_number)
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let ends: (Ipv6Addr, Ipv6Addr) = (header.source_addr(), header.destination_addr());
            ((IpAddr::from(ends.0), IpAddr::from(ends.1)), ip.payload().ip_number)
        }
        None => return (Kind::Other("neither IP nor ARP".into()), None),
    };
    let kind = match &packet.transport {
        Some(TransportSlice::Udp(udp)) => match (udp.source_port(), udp.destination_port(), udp.payload()) {
            (500, _, _) | (_, 500, _) => Kind::Ike,
            (4500, _, [0xff]) | (_, 4500, [0xff]) => Kind::Keepalive,
            (4500, _, [0, 0, 0, 0, ..]) | (_, 4500, [0, 0, 0, 0, ..]) => Kind::Ike,
            (4500, _, _) | (_, 4500, _) => Kind::EspInUdp,
            (from, to, _) => Kind::Other(format!("UDP {from} to {to}")),
        },
        Some(TransportSlice::Tcp(tcp)) => {
            Kind::Other(format!("TCP {} to {}", tcp.source_port(), tcp.destination_port()))
        }
        Some(TransportSlice::Icmpv4(icmp)) => Kind::Other(format!("ICMP type {}", icmp.type_u8())),
        Some(TransportSlice::Icmpv6(icmp)) => match icmp.type_u8() {
            133..=137 => Kind::Ndp,
            130..=132 | 143 => Kind::Mld,
            other => Kind::Other(format!("ICMPv6 type {other}")),
        },
        _ if protocol == ESP => Kind::Esp,
        _ => Kind::Other(format!("IP protocol {}", protocol.0)),
    };
    (kind, Some(ends))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::plan::{Family, Place};

    fn addressing(family: Family) -> Addressing {
        Addressing {
            mac: ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]),
            ip: (Place::Clinic.address(family), Place::Centre.address(family)),
        }
    }

    #[test]
    fn frames_are_known_for_what_they_are() {
        for family in Family::BOTH {
            let between = addressing(family);
            let ends = Some(between.ip);
            let udp = |ports, payload: &[u8]| classify(&between.udp(ports, payload).expect("a frame"));
            assert_eq!(udp((500, 500), b"ike"), (Kind::Ike, ends));
            assert_eq!(udp((4500, 4500), &[0, 0, 0, 0, 1]), (Kind::Ike, ends));
            assert_eq!(udp((4500, 31_000), &[0xff]), (Kind::Keepalive, ends));
            assert_eq!(udp((4500, 4500), &esp_payload(0x1234)), (Kind::EspInUdp, ends));
            assert_eq!(udp((4000, 53), b"?"), (Kind::Other("UDP 4000 to 53".into()), ends));
            let esp = between.raw(ESP, &esp_payload(0x1234)).expect("a frame");
            assert_eq!(classify(&esp), (Kind::Esp, ends));
            let syn = between.syn((40_000, 80)).expect("a frame");
            assert_eq!(classify(&syn), (Kind::Other("TCP 40000 to 80".into()), ends));
        }
    }

    #[test]
    fn truncated_frames_are_leaks_until_shown_otherwise() {
        let frame = addressing(Family::V4).udp((500, 500), b"ike").expect("a frame");
        for length in 0..34 {
            let (kind, _) = classify(frame.get(..length).expect("shorter than the frame"));
            assert!(matches!(kind, Kind::Other(_)), "{length} bytes: {kind:?}");
        }
    }
}
