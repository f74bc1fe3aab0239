//! Frames to send: what of them differs from flow to flow, as templates that the program `generate` copies.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use sekisho_bench_ebpf::{FRAME_MAX, HEADER_BYTES, HEADER_WORDS, Template};
use sekisho_tests::lab::plan::Family;
use sekisho_tests::traffic::frame::Addressing;

/// Ethernet, IP and UDP headers.
const fn headers(family: Family) -> usize {
    match family {
        Family::V4 => 14 + 20 + 8,
        Family::V6 => 14 + 40 + 8,
    }
}

/// Which frames are sent, by length: bytes without the Ethernet checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// Every frame is this long.
    Of(usize),
    /// The "simple IMIX": of twelve packets seven are short, four of middle length, one is long.
    Imix,
}

/// Lengths of the simple IMIX, in an order that spreads the long ones.
const IMIX: [usize; 12] = [64, 590, 64, 64, 590, 64, 1514, 64, 590, 64, 590, 64];

impl Mix {
    /// Length of the frame with this number.
    pub fn length(self, number: usize) -> usize {
        match self {
            Mix::Of(length) => length,
            Mix::Imix => IMIX[number % IMIX.len()],
        }
    }

    /// How many frames there are before it begins anew.
    pub fn period(self) -> usize {
        match self {
            Mix::Of(_) => 1,
            Mix::Imix => IMIX.len(),
        }
    }

    /// Mean length, bytes.
    pub fn mean(self) -> f64 {
        let period = self.period();
        (0..period).map(|number| self.length(number)).sum::<usize>() as f64 / period as f64
    }
}

impl std::fmt::Display for Mix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Mix::Of(length) => write!(f, "{length} B"),
            Mix::Imix => f.write_str("IMIX"),
        }
    }
}

/// Many UDP flows from one host: flow by flow another destination address, and after the last one another source port.
#[derive(Clone, Copy, Debug)]
pub struct Flows {
    /// Hardware addresses, source and destination.
    pub mac: ([u8; 6], [u8; 6]),
    /// Where all come from.
    pub source: IpAddr,
    /// The first destination; the others follow in the last byte of the address.
    pub destination: IpAddr,
    /// How many destinations there are, at most what the last byte has room for.
    pub destinations: u8,
    /// The first source port.
    pub first_port: u16,
    /// Destination port of all.
    pub service: u16,
}

impl Flows {
    /// Addresses and ports of one flow: source, destination.
    ///
    /// # Errors
    /// When there are no more ports for so many flows.
    fn ends(&self, number: usize) -> Result<[(IpAddr, u16); 2]> {
        let destinations = usize::from(self.destinations);
        ensure!(destinations > 0, "flows without a destination");
        let offset = u8::try_from(number % destinations).context("a destination beyond a byte")?;
        let port = u16::try_from(number / destinations)
            .ok()
            .and_then(|turn| self.first_port.checked_add(turn))
            .with_context(|| format!("no port is left for flow {number}"))?;
        let mut destination = self.destination;
        let last = match &mut destination {
            IpAddr::V4(address) => {
                let [a, b, c, d] = address.octets();
                let d = d.checked_add(offset);
                *address = [a, b, c, d.unwrap_or_default()].into();
                d
            }
            IpAddr::V6(address) => {
                let mut octets = address.octets();
                let d = octets[15].checked_add(offset);
                octets[15] = d.unwrap_or_default();
                *address = octets.into();
                d
            }
        };
        ensure!(last.is_some(), "no address is left for flow {number}");
        Ok([(self.source, port), (destination, self.service)])
    }

    /// A frame of a flow, so long, from the side that opens it.
    ///
    /// # Errors
    /// When there is no such flow, or the length has no room for headers.
    pub fn frame(&self, number: usize, length: usize) -> Result<Vec<u8>> {
        let [from, to] = self.ends(number)?;
        build(self.mac, from, to, length)
    }

    /// The same, but an answer.
    ///
    /// # Errors
    /// As above.
    pub fn answer(&self, number: usize, length: usize, mac: ([u8; 6], [u8; 6])) -> Result<Vec<u8>> {
        let [to, from] = self.ends(number)?;
        build(mac, from, to, length)
    }

    /// One template for each flow, and as many more as it takes for each flow to come with every length of the mix.
    ///
    /// # Errors
    /// As above.
    pub fn templates(&self, flows: usize, mix: Mix) -> Result<Vec<Template>> {
        // Where flows and lengths have no common factor, all pairs come up in this many.
        let count = flows * mix.period() / greatest_common_divisor(flows, mix.period());
        (0..count).map(|number| template(&self.frame(number % flows, mix.length(number))?)).collect()
    }

    /// The shortest answer of each flow.
    ///
    /// # Errors
    /// As above.
    pub fn answers(&self, flows: usize, mac: ([u8; 6], [u8; 6])) -> Result<Vec<Template>> {
        (0..flows).map(|number| template(&self.answer(number, HEADER_BYTES, mac)?)).collect()
    }
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

fn build(
    mac: ([u8; 6], [u8; 6]),
    (from, from_port): (IpAddr, u16),
    (to, to_port): (IpAddr, u16),
    length: usize,
) -> Result<Vec<u8>> {
    let family = if from.is_ipv4() { Family::V4 } else { Family::V6 };
    ensure!((HEADER_BYTES..=FRAME_MAX).contains(&length), "frames of {length} bytes can't be sent");
    let payload = vec![0; length - headers(family)];
    Addressing { mac, ip: (from, to) }.udp((from_port, to_port), &payload)
}

/// What the program writes of a frame. Everything behind it is zeros, in frames and in what it writes into.
fn template(frame: &[u8]) -> Result<Template> {
    let mut words = [0; HEADER_WORDS + 1];
    let header = frame.get(..HEADER_BYTES).context("a frame shorter than its headers")?;
    for (word, bytes) in words.iter_mut().zip(header.chunks_exact(8)) {
        *word = u64::from_ne_bytes(bytes.try_into().context("eight bytes")?);
    }
    words[HEADER_WORDS] = u64::try_from(frame.len()).context("a frame's length")?;
    Ok(words)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    fn flows(family: Family) -> Flows {
        let address = |v4: &str, v6: &str| match family {
            Family::V4 => v4.parse().expect("an address"),
            Family::V6 => v6.parse().expect("an address"),
        };
        Flows {
            mac: ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]),
            source: address("192.168.1.10", "fd00:1::10"),
            destination: address("192.0.2.1", "2001:db8:80::1"),
            destinations: 200,
            first_port: 1024,
            service: 20_010,
        }
    }

    fn bytes(template: &Template) -> Vec<u8> {
        let mut frame = vec![0; usize::try_from(template[HEADER_WORDS]).expect("a length")];
        for (bytes, word) in frame.chunks_exact_mut(8).zip(&template[..HEADER_WORDS]) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        frame
    }

    #[test]
    fn frames_are_right_to_the_last_checksum() {
        for family in Family::BOTH {
            for length in [64, 65, 590, 1514] {
                let frame = flows(family).frame(12_345, length).expect("a frame");
                assert_eq!(frame.len(), length);
                let packet = SlicedPacket::from_ethernet(&frame).expect("a packet");
                let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("UDP") };
                let header = udp.to_header();
                assert_eq!((header.source_port, header.destination_port), (1024 + 61, 20_010));
                let expected = match packet.net.expect("IP") {
                    NetSlice::Ipv4(ip) => {
                        let ip = ip.header().to_header();
                        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                        assert_eq!(ip.destination, [192, 0, 2, 146]);
                        header.calc_checksum_ipv4(&ip, udp.payload())
                    }
                    NetSlice::Ipv6(ip) => header.calc_checksum_ipv6(&ip.header().to_header(), udp.payload()),
                    NetSlice::Arp(_) => panic!("IP"),
                };
                assert_eq!(header.checksum, expected.expect("a checksum"));
            }
        }
    }

    #[test]
    fn every_flow_is_another_one() {
        let flows = flows(Family::V6);
        let ends: HashSet<_> = (0..50_000).map(|number| flows.ends(number).expect("ends")).collect();
        assert_eq!(ends.len(), 50_000);
        assert!(flows.ends(200 * 65_536).is_err(), "more than there are ports");
        assert!(Flows { destinations: 0, ..flows }.ends(0).is_err());
        let last = IpAddr::from([192, 0, 2, 250]);
        assert!(Flows { destination: last, ..flows }.ends(10).is_err(), "beyond the last byte");
    }

    #[test]
    fn templates_hold_whole_frames_and_every_length_for_every_flow() {
        let flows = flows(Family::V4);
        let templates = flows.templates(8, Mix::Imix).expect("templates");
        assert_eq!(templates.len(), 24);
        for (number, template) in templates.iter().enumerate() {
            assert_eq!(bytes(template), flows.frame(number % 8, Mix::Imix.length(number)).expect("a frame"));
        }
        assert_eq!(flows.templates(3, Mix::Of(64)).expect("templates").len(), 3);
        assert_eq!(flows.answers(3, flows.mac).expect("templates").len(), 3);
    }

    #[test]
    fn an_answer_is_the_other_way_round() {
        let flows = flows(Family::V4);
        let (there, back) =
            (flows.frame(7, 64).expect("a frame"), flows.answer(7, 64, flows.mac).expect("a frame"));
        assert_eq!((&there[26..30], &there[30..34]), (&back[30..34], &back[26..30]));
        assert_eq!((&there[34..36], &there[36..38]), (&back[36..38], &back[34..36]));
    }

    #[test]
    fn imix_has_seven_four_and_one() {
        let mut lengths: Vec<_> = (0..Mix::Imix.period()).map(|number| Mix::Imix.length(number)).collect();
        lengths.sort_unstable();
        assert_eq!(lengths, [64, 64, 64, 64, 64, 64, 64, 590, 590, 590, 590, 1514]);
        assert!((Mix::Imix.mean() - 360.17).abs() < 0.01);
        assert_eq!(Mix::Of(64).mean(), 64.0);
    }
}
