//! Nonce payload (RFC 7296 section 3.9).

use crate::wire::error::WireError;
use crate::wire::reader::Reader;

/// Bytes a nonce may have (RFC 7296 section 3.9).
pub const NONCE_BYTES: std::ops::RangeInclusive<usize> = 16..=256;

const SECTION: &str = "RFC 7296 section 3.9";

/// Random bytes of one side, 16 to 256 of them.
#[derive(Clone, PartialEq, Eq)]
pub struct Nonce(Vec<u8>);

impl Nonce {
    /// Of 16 to 256 bytes.
    pub fn new(bytes: Vec<u8>) -> Result<Self, WireError> {
        if NONCE_BYTES.contains(&bytes.len()) {
            Ok(Self(bytes))
        } else {
            Err(WireError::Unwritable { what: "a nonce must have 16 to 256 bytes", rule: SECTION })
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads the body of a Nonce payload.
    pub fn parse(mut reader: Reader<'_>) -> Result<Self, WireError> {
        if !NONCE_BYTES.contains(&reader.left()) {
            return Err(reader.malformed("a nonce must have 16 to 256 bytes", SECTION));
        }
        Ok(Self(reader.rest().to_vec()))
    }

    /// Appends the body of a Nonce payload.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
}

impl std::fmt::Debug for Nonce {
    /// The length only: the nonces of CREATE_CHILD_SA travel encrypted, and key derivation takes them in.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Nonce({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::number::PayloadType;

    #[test]
    fn length_is_enforced_both_ways() {
        for (length, valid) in [(0, false), (15, false), (16, true), (32, true), (256, true), (257, false)] {
            let bytes = vec![7; length];
            let parsed = Nonce::parse(Reader::new(PayloadType::Nonce, 0, &bytes));
            assert_eq!(parsed.is_ok(), valid, "{length}");
            assert_eq!(Nonce::new(bytes).is_ok(), valid, "{length}");
        }
    }

    #[test]
    fn debug_shows_no_byte() {
        assert_eq!(format!("{:?}", Nonce::new(vec![0xab; 16]).unwrap()), "Nonce(16 bytes)");
    }
}
