//! Key Exchange payload (RFC 7296 section 3.4).
//!
//! ```text
//! |   Key Exchange Method Num     |           RESERVED            |
//! ~                       Key Exchange Data                       ~
//! ```

use crate::wire::error::WireError;
use crate::wire::reader::Reader;
use crate::wire::transform::KeId;

/// The public value of a key exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyExchange {
    /// The method (Diffie-Hellman group).
    pub group: KeId,
    /// The public value or ciphertext, as the method lays it out. Never empty; whether its length and value suit the
    /// method is for `crypto` to say.
    pub data: Vec<u8>,
}

const SECTION: &str = "RFC 7296 section 3.4";

impl KeyExchange {
    /// Of a method and its public value.
    pub const fn new(group: KeId, data: Vec<u8>) -> Self {
        Self { group, data }
    }

    /// Reads the body of a KE payload.
    pub fn parse(mut reader: Reader<'_>) -> Result<Self, WireError> {
        let group = KeId::from(reader.u16()?);
        reader.u16()?;
        let data = reader.rest().to_vec();
        if data.is_empty() {
            return Err(reader.malformed("no key exchange data", SECTION));
        }
        Ok(Self { group, data })
    }

    /// Appends the body of a KE payload.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        if self.data.is_empty() {
            return Err(WireError::Unwritable { what: "a KE payload without data", rule: SECTION });
        }
        out.extend_from_slice(&self.group.number().to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&self.data);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::number::PayloadType;

    #[test]
    fn golden_bytes() {
        let parse = |bytes| KeyExchange::parse(Reader::new(PayloadType::Ke, 0, bytes));
        let ke = KeyExchange::new(KeId::Curve25519, vec![0xaa; 32]);
        let mut out = Vec::new();
        ke.write(&mut out).unwrap();
        assert_eq!(out[..4], [0, 31, 0, 0]);
        assert_eq!(parse(&out), Ok(ke));
        for end in 0..=4 {
            assert!(parse(&out[..end]).is_err(), "{end}");
        }
        assert!(KeyExchange::new(KeId::Modp2048, Vec::new()).write(&mut Vec::new()).is_err());
    }
}
