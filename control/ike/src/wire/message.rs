//! Whole messages: the header, the payloads in clear, and where the Encrypted payload lies (RFC 7296 section 3.14,
//! RFC 7383 section 2.5).
//!
//! ```text
//! |          IKE header (28)                                      |
//! ~          payloads in clear                                    ~
//! | Next Payload  |C|  RESERVED   |         Payload Length        |  generic header of SK or SKF
//! |        Fragment Number        |        Total Fragments        |  SKF only
//! ~          body: IV, ciphertext, padding, ICV                   ~  associated data ends before it
//! ```

use std::ops::Range;

use crate::wire::error::WireError;
use crate::wire::header::{HEADER_LEN, Header};
use crate::wire::number::PayloadType;
use crate::wire::payload::{Payload, parse_chain, take_payload, write_payloads};
use crate::wire::reader::Reader;

/// What can be said of a datagram without keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outer {
    /// The header.
    pub header: Header,
    /// Payloads in clear, before the Encrypted payload. Nobody vouches for them until the latter has been opened.
    pub payloads: Vec<Payload>,
    /// The Encrypted payload; always the last.
    pub protected: Option<Protected>,
}

/// An Encrypted payload (SK), or an Encrypted Fragment payload (SKF), as ranges of the datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protected {
    /// Type of the first payload inside. Of fragments, only the first one's counts.
    pub first_inner: PayloadType,
    /// Which fragment; `None`: SK.
    pub fragment: Option<Fragment>,
    /// Offset of the generic header.
    start: usize,
    /// IV to ICV.
    body: Range<usize>,
}

/// Place of a fragment (RFC 7383 section 2.5): `1 <= number <= total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Fragment Number, from 1.
    pub number: u16,
    /// Total Fragments.
    pub total: u16,
}

impl Fragment {
    /// Whether the numbers are possible.
    pub const fn is_valid(self) -> bool {
        1 <= self.number && self.number <= self.total
    }
}

impl Protected {
    /// Offset of the SK or SKF generic header in the datagram.
    pub const fn start(&self) -> usize {
        self.start
    }

    /// Offsets of IV, ciphertext and ICV in the datagram.
    pub fn body_range(&self) -> Range<usize> {
        self.body.clone()
    }

    /// The associated data (RFC 5282 section 5.1, RFC 7383 section 2.5.3): the header up to and with the generic header
    /// and the fragment fields. `None` if `datagram` is not the one that was parsed.
    pub fn associated_data<'a>(&self, datagram: &'a [u8]) -> Option<&'a [u8]> {
        datagram.get(..self.body.start)
    }

    /// The octet of the generic header that holds the critical bit. As a fragment is no payload of the whole message, that
    /// of one does not count.
    pub fn flags(&self, datagram: &[u8]) -> u8 {
        let flags = datagram.get(self.start.saturating_add(1)).copied();
        flags.filter(|_| self.fragment.is_none()).unwrap_or_default()
    }

    /// IV, ciphertext and ICV. `None` if `datagram` is not the one that was parsed.
    pub fn body<'a>(&self, datagram: &'a [u8]) -> Option<&'a [u8]> {
        datagram.get(self.body.clone())
    }
}

impl Outer {
    /// Reads a datagram, without the non-ESP marker (RFC 3948 section 2.2).
    pub fn parse(datagram: &[u8]) -> Result<Self, WireError> {
        let (header, first) = Header::parse(datagram)?;
        let mut reader = Reader::new(PayloadType::None, 0, datagram);
        reader.take(HEADER_LEN)?;
        let (payloads, last) = parse_chain(first, &mut reader)?;
        let protected = match last {
            PayloadType::None => None,
            _ => Some(Protected::parse(last, &mut reader)?),
        };
        Ok(Self { header, payloads, protected })
    }
}

impl Protected {
    fn parse(payload_type: PayloadType, reader: &mut Reader<'_>) -> Result<Self, WireError> {
        const RULE: &str = "RFC 7296 section 3.14";
        let start = reader.place().offset;
        let mut generic = take_payload(payload_type, reader)?;
        // Its Next Payload tells of the inside, so nothing can follow.
        reader.end(RULE)?;
        let fragment = match payload_type {
            PayloadType::Skf => {
                let fragment = Fragment { number: generic.body.u16()?, total: generic.body.u16()? };
                if !fragment.is_valid() {
                    return Err(generic
                        .body
                        .malformed("fragment number out of range", "RFC 7383 section 2.5"));
                }
                Some(fragment)
            }
            _ => None,
        };
        if generic.body.is_empty() {
            return Err(generic.body.malformed("an Encrypted payload without content", RULE));
        }
        let from = generic.body.place().offset;
        let body = from..from.saturating_add(generic.body.left());
        Ok(Self { first_inner: generic.next, fragment, start, body })
    }
}

/// The bytes of a message without an Encrypted payload.
pub fn write_clear(header: &Header, payloads: &[Payload]) -> Result<Vec<u8>, WireError> {
    let (first, chain) = write_payloads(payloads)?;
    let mut out = Vec::new();
    header.write(first, chain.len().saturating_add(HEADER_LEN), &mut out)?;
    out.extend_from_slice(&chain);
    Ok(out)
}
