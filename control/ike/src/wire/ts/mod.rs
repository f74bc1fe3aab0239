//! Traffic Selector payloads (RFC 7296 section 3.13).
//!
//! ```text
//! |   TS Type     |IP Protocol ID |       Selector Length         |
//! |           Start Port          |           End Port            |
//! ~                         Starting Address                      ~
//! ~                         Ending Address                        ~
//! ```

mod selector;
mod text;

use std::net::IpAddr;

use crate::wire::error::WireError;
use crate::wire::reader::{Reader, count_u8, length_u16};

pub use selector::{Ports, SelectorError, TrafficSelector};

/// Most selectors of one payload: its count has 8 bits.
pub const MAX_SELECTORS: usize = 255;

const TS_IPV4_ADDR_RANGE: u8 = 7;
const TS_IPV6_ADDR_RANGE: u8 = 8;
const SECTION: &str = "RFC 7296 section 3.13.1";

/// A TSi or TSr payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrafficSelectors {
    /// Address ranges, the sender's favourite first.
    pub selectors: Vec<TrafficSelector>,
    /// Selectors of other kinds (labels of RFC 9478, Fibre Channel of RFC 4595). We can select by none of them: a
    /// choice leaves them out.
    pub other: Vec<OtherSelector>,
}

/// A selector that is no range of IP addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherSelector {
    /// TS Type; neither 7 nor 8.
    pub ts_type: u8,
    /// Second byte and all after the length, as on the wire.
    pub data: (u8, Vec<u8>),
}

impl TrafficSelectors {
    /// Of address ranges; a payload holds 1 to 255.
    pub const fn new(selectors: Vec<TrafficSelector>) -> Self {
        Self { selectors, other: Vec::new() }
    }

    /// Reads the body of a TSi or TSr payload.
    pub fn parse(mut reader: Reader<'_>) -> Result<Self, WireError> {
        const RULE: &str = "RFC 7296 section 3.13";
        let count = reader.u8()?;
        reader.array::<3>()?;
        if count == 0 {
            return Err(reader.malformed("no traffic selector", RULE));
        }
        let mut payload = Self { selectors: Vec::new(), other: Vec::new() };
        for _ in 0..count {
            payload.parse_selector(&mut reader)?;
        }
        reader.end(RULE)?;
        Ok(payload)
    }

    fn parse_selector(&mut self, reader: &mut Reader<'_>) -> Result<(), WireError> {
        let ts_type = reader.u8()?;
        let protocol = reader.u8()?;
        let length = usize::from(reader.u16()?);
        let Some(length) = length.checked_sub(4) else {
            return Err(reader.malformed("selector length is less than its header", SECTION));
        };
        let mut body = reader.sub(length)?;
        if !matches!(ts_type, TS_IPV4_ADDR_RANGE | TS_IPV6_ADDR_RANGE) {
            self.other.push(OtherSelector { ts_type, data: (protocol, body.rest().to_vec()) });
            return Ok(());
        }
        let (first_port, last_port) = (body.u16()?, body.u16()?);
        let (start, end): (IpAddr, IpAddr) = if ts_type == TS_IPV4_ADDR_RANGE {
            (body.array::<4>()?.into(), body.array::<4>()?.into())
        } else {
            (body.array::<16>()?.into(), body.array::<16>()?.into())
        };
        body.end(SECTION)?;
        let selector = TrafficSelector::from_wire(protocol, (first_port, last_port), start, end)
            .map_err(|what| body.malformed(what, SECTION))?;
        self.selectors.push(selector);
        Ok(())
    }

    /// Appends the body of a TSi or TSr payload.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        let count = self.selectors.len().saturating_add(self.other.len());
        if count == 0 {
            return Err(WireError::Unwritable { what: "a TS payload without a selector", rule: SECTION });
        }
        out.extend_from_slice(&[count_u8("traffic selectors", count)?, 0, 0, 0]);
        for selector in &self.selectors {
            write_selector(selector, out);
        }
        for OtherSelector { ts_type, data: (second, rest) } in &self.other {
            if matches!(*ts_type, TS_IPV4_ADDR_RANGE | TS_IPV6_ADDR_RANGE) {
                return Err(WireError::Unwritable {
                    what: "an address range as another selector",
                    rule: SECTION,
                });
            }
            out.extend_from_slice(&[*ts_type, *second]);
            out.extend_from_slice(
                &length_u16("bytes of a selector", rest.len().saturating_add(4))?.to_be_bytes(),
            );
            out.extend_from_slice(rest);
        }
        Ok(())
    }
}

fn write_selector(selector: &TrafficSelector, out: &mut Vec<u8>) {
    let (ts_type, length) =
        if selector.start().is_ipv4() { (TS_IPV4_ADDR_RANGE, 16u16) } else { (TS_IPV6_ADDR_RANGE, 40u16) };
    let (first_port, last_port) = selector.ports().to_wire();
    out.extend_from_slice(&[ts_type, selector.protocol()]);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&first_port.to_be_bytes());
    out.extend_from_slice(&last_port.to_be_bytes());
    for address in [selector.start(), selector.end()] {
        match address {
            IpAddr::V4(address) => out.extend_from_slice(&address.octets()),
            IpAddr::V6(address) => out.extend_from_slice(&address.octets()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::number::PayloadType;

    fn parse(bytes: &[u8]) -> Result<TrafficSelectors, WireError> {
        TrafficSelectors::parse(Reader::new(PayloadType::TsI, 0, bytes))
    }

    /// 10.1.0.0/16 for TCP 443, and every IPv6 address.
    const TWO: [u8; 60] = [
        2, 0, 0, 0, // two selectors
        7, 6, 0, 16, 0x01, 0xbb, 0x01, 0xbb, 10, 1, 0, 0, 10, 1, 255, 255, //
        8, 0, 0, 40, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, //
        255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
    ];

    #[test]
    fn golden_bytes() {
        let parsed = parse(&TWO).unwrap();
        let shown: Vec<String> = parsed.selectors.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.1.0.0/16[tcp/443]", "::/0"]);
        let mut out = Vec::new();
        parsed.write(&mut out).unwrap();
        assert_eq!(out, TWO);
    }

    #[test]
    fn truncations_lengths_and_counts_that_lie_are_errors() {
        for end in 0..TWO.len() {
            assert!(parse(&TWO[..end]).is_err(), "{end}");
        }
        // Offsets of: the count, the first and the second selector's length.
        for (at, right) in [(0usize, 2u8), (7, 16), (23, 40)] {
            for wrong in (0..=u8::MAX).filter(|&wrong| wrong != right) {
                let mut bytes = TWO;
                bytes[at] = wrong;
                assert!(parse(&bytes).is_err(), "byte {at} as {wrong}");
            }
        }
        assert!(parse(&[0, 0, 0, 0]).is_err());
        // A selector that holds more than its addresses.
        assert!(parse(&[1, 0, 0, 0, 7, 0, 0, 17, 0, 0, 255, 255, 10, 0, 0, 1, 10, 0, 0, 1, 9]).is_err());
        assert!(parse(&[&TWO[..], &[0]].concat()).is_err());
    }

    #[test]
    fn ranges_the_wrong_way_round_are_errors() {
        let with = |protocol: u8, ports: [u8; 4], last: u8| {
            let [a, b, c, d] = ports;
            parse(&[1, 0, 0, 0, 7, protocol, 0, 16, a, b, c, d, 10, 0, 0, 5, 10, 0, 0, last])
        };
        assert!(with(6, [0, 80, 0, 80], 5).is_ok());
        assert!(with(6, [0, 80, 0, 80], 4).is_err());
        assert!(with(6, [0, 80, 0, 79], 5).is_err());
        assert!(with(6, [0xff, 0xff, 0, 1], 5).is_err());
        assert!(with(0, [0, 80, 0, 80], 5).is_err());
        let opaque = with(17, [0xff, 0xff, 0, 0], 5).unwrap();
        assert_eq!(opaque.selectors[0].ports(), Ports::Opaque);
    }

    #[test]
    fn other_kinds_are_kept_apart() {
        let bytes =
            [2, 0, 0, 0, 10, 0, 0, 6, 0xab, 0xcd, 7, 0, 0, 16, 0, 0, 255, 255, 10, 0, 0, 1, 10, 0, 0, 1];
        let parsed = parse(&bytes).unwrap();
        assert_eq!(parsed.selectors.len(), 1);
        assert_eq!(parsed.other, [OtherSelector { ts_type: 10, data: (0, vec![0xab, 0xcd]) }]);
        let disguised = OtherSelector { ts_type: 7, data: (0, Vec::new()) };
        let lie = TrafficSelectors { selectors: Vec::new(), other: vec![disguised] };
        assert!(lie.write(&mut Vec::new()).is_err());
    }

    #[test]
    fn a_payload_holds_1_to_255() {
        let any = TrafficSelector::any(false);
        for (count, valid) in [(0, false), (1, true), (MAX_SELECTORS, true), (MAX_SELECTORS + 1, false)] {
            let mut out = Vec::new();
            let written = TrafficSelectors::new(vec![any; count]).write(&mut out);
            assert_eq!(written.is_ok(), valid, "{count}");
            if valid {
                assert_eq!(parse(&out).unwrap().selectors.len(), count);
            }
        }
    }

    pub(crate) fn any_selector() -> impl Strategy<Value = TrafficSelector> {
        let addresses = prop_oneof![
            any::<[u32; 2]>().prop_map(|[a, b]| (
                IpAddr::from(a.min(b).to_be_bytes()),
                IpAddr::from(a.max(b).to_be_bytes())
            )),
            any::<[u128; 2]>().prop_map(|[a, b]| (
                IpAddr::from(a.min(b).to_be_bytes()),
                IpAddr::from(a.max(b).to_be_bytes())
            )),
            (any::<u32>(), 0u8..=32).prop_map(|(bits, prefix_len)| {
                let host = u32::MAX.checked_shr(prefix_len.into()).unwrap_or(0);
                (IpAddr::from((bits & !host).to_be_bytes()), IpAddr::from((bits | host).to_be_bytes()))
            }),
        ];
        let ports = prop_oneof![
            Just((0, Ports::ANY)),
            Just((0, Ports::Opaque)),
            (1u8.., Just(Ports::Opaque)),
            (1u8.., any::<[u16; 2]>())
                .prop_map(|(protocol, [a, b])| (protocol, Ports::Range { start: a.min(b), end: a.max(b) })),
        ];
        (addresses, ports).prop_map(|((start, end), (protocol, ports))| {
            TrafficSelector::new(start, end).unwrap().with_ports(protocol, ports).unwrap()
        })
    }

    pub(crate) fn any_selectors() -> impl Strategy<Value = TrafficSelectors> {
        let other = (9u8.., any::<u8>(), prop::collection::vec(any::<u8>(), 0..20))
            .prop_map(|(ts_type, second, rest)| OtherSelector { ts_type, data: (second, rest) });
        (prop::collection::vec(any_selector(), 1..6), prop::collection::vec(other, 0..3))
            .prop_map(|(selectors, other)| TrafficSelectors { selectors, other })
    }

    proptest! {
        #[test]
        fn round_trip(selectors in any_selectors()) {
            let mut out = Vec::new();
            selectors.write(&mut out).unwrap();
            prop_assert_eq!(parse(&out), Ok(selectors));
        }
    }
}
