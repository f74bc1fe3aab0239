//! Extensible Authentication payload (RFC 7296 section 3.16), kept opaque.
//!
//! EAP is not spoken; a peer that tries gets a refusal by name instead of a syntax error.

use crate::wire::error::WireError;
use crate::wire::reader::Reader;

/// An EAP packet, unchecked.
#[derive(Clone, PartialEq, Eq)]
pub struct Eap(pub Vec<u8>);

impl std::fmt::Debug for Eap {
    /// The length only: an EAP packet may carry a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Eap({} bytes)", self.0.len())
    }
}

impl Eap {
    /// Takes the body of an EAP payload as it is.
    pub fn parse(mut reader: Reader<'_>) -> Result<Self, WireError> {
        Ok(Self(reader.rest().to_vec()))
    }

    /// Appends the body of an EAP payload.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::number::PayloadType;

    #[test]
    fn keeps_any_bytes_and_shows_none() {
        let eap = Eap::parse(Reader::new(PayloadType::Eap, 0, b"\x02secret")).unwrap();
        assert_eq!(eap, Eap(b"\x02secret".to_vec()));
        assert_eq!(format!("{eap:?}"), "Eap(7 bytes)");
    }
}
