//! Authentication payload (RFC 7296 section 3.8, RFC 7427 section 3).

use crate::wire::error::WireError;
use crate::wire::number::{AuthMethod, PayloadType};
use crate::wire::reader::{Reader, count_u8};

/// Most bytes of a proof: an RSA signature of 16384 bits with its AlgorithmIdentifier.
pub const MAX_AUTH_BYTES: usize = 2048 + 256;

const SECTION: &str = "RFC 7296 section 3.8";

/// Proof of identity.
#[derive(Clone, PartialEq, Eq)]
pub struct Authentication {
    /// Kind of proof.
    pub method: AuthMethod,
    /// The proof: a MAC or a signature; for [`AuthMethod::DigitalSignature`] see [`Self::digital_signature`].
    pub data: Vec<u8>,
}

impl std::fmt::Debug for Authentication {
    /// Method and length: a proof by pre-shared key lets one who reads it try keys offline.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Authentication({}, {} bytes)", self.method, self.data.len())
    }
}

impl Authentication {
    /// Of a method and its proof.
    pub const fn new(method: AuthMethod, data: Vec<u8>) -> Self {
        Self { method, data }
    }

    /// A signature after RFC 7427 with the DER AlgorithmIdentifier that says how it was made.
    ///
    /// ```text
    /// | ASN.1 Length  | AlgorithmIdentifier ASN.1 object              |
    /// ~                         Signature Value                       ~
    /// ```
    pub fn from_digital_signature(algorithm: &[u8], signature: &[u8]) -> Result<Self, WireError> {
        let mut data = vec![count_u8("bytes of an AlgorithmIdentifier", algorithm.len())?];
        data.extend_from_slice(algorithm);
        data.extend_from_slice(signature);
        Ok(Self { method: AuthMethod::DigitalSignature, data })
    }

    /// AlgorithmIdentifier (DER, unchecked) and signature of an RFC 7427 proof; an error if the method is another.
    pub fn digital_signature(&self) -> Result<(&[u8], &[u8]), WireError> {
        const RULE: &str = "RFC 7427 section 3";
        let mut reader = Reader::new(PayloadType::Auth, 0, &self.data);
        if self.method != AuthMethod::DigitalSignature {
            return Err(reader.malformed("the method is not Digital Signature", RULE));
        }
        let length = usize::from(reader.u8()?);
        let algorithm = reader.take(length)?;
        if algorithm.is_empty() || reader.is_empty() {
            return Err(reader.malformed("no AlgorithmIdentifier or no signature", RULE));
        }
        Ok((algorithm, reader.rest()))
    }

    /// Reads the body of an AUTH payload.
    pub fn parse(mut reader: Reader<'_>) -> Result<Self, WireError> {
        let method = AuthMethod::from(reader.u8()?);
        reader.array::<3>()?;
        if reader.is_empty() {
            return Err(reader.malformed("no authentication data", SECTION));
        }
        if reader.left() > MAX_AUTH_BYTES {
            return Err(reader.too_many("bytes of authentication data", MAX_AUTH_BYTES));
        }
        Ok(Self { method, data: reader.rest().to_vec() })
    }

    /// Appends the body of an AUTH payload.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        if self.data.is_empty() {
            return Err(WireError::Unwritable { what: "an AUTH payload without data", rule: SECTION });
        }
        out.extend_from_slice(&[self.method.number(), 0, 0, 0]);
        out.extend_from_slice(&self.data);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Result<Authentication, WireError> {
        Authentication::parse(Reader::new(PayloadType::Auth, 0, bytes))
    }

    #[test]
    fn layout_and_bounds() {
        let auth = Authentication::new(AuthMethod::SharedKey, vec![9; 32]);
        let mut out = Vec::new();
        auth.write(&mut out).unwrap();
        assert_eq!(out[..5], [2, 0, 0, 0, 9]);
        assert_eq!(parse(&out), Ok(auth));
        for end in 0..=4 {
            assert!(parse(&out[..end]).is_err(), "{end}");
        }
        assert!(matches!(parse(&[2; 4 + MAX_AUTH_BYTES + 1]), Err(WireError::TooMany { .. })));
    }

    #[test]
    fn digital_signature_splits_and_checks_its_inner_length() {
        let auth = Authentication::from_digital_signature(&[0x30, 0], &[1, 2, 3]).unwrap();
        assert_eq!(auth.data, [2, 0x30, 0, 1, 2, 3]);
        assert_eq!(auth.digital_signature(), Ok((&[0x30, 0][..], &[1, 2, 3][..])));
        for data in [vec![], vec![0], vec![0, 1], vec![2, 0x30], vec![2, 0x30, 0], vec![255; 200]] {
            let auth = Authentication::new(AuthMethod::DigitalSignature, data);
            assert!(auth.digital_signature().is_err(), "{:?}", auth.data);
        }
        let other = Authentication::new(AuthMethod::SharedKey, vec![2, 0x30, 0, 1]);
        assert!(other.digital_signature().is_err());
        assert!(Authentication::from_digital_signature(&[0; 256], &[1]).is_err());
    }

    #[test]
    fn debug_shows_no_byte() {
        let shown = format!("{:?}", Authentication::new(AuthMethod::SharedKey, vec![0xab, 0xcd]));
        assert_eq!(shown, "Authentication(Shared Key Message Integrity Code, 2 bytes)");
    }
}
