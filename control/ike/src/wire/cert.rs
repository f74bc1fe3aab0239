//! Certificate and Certificate Request payloads (RFC 7296 sections 3.6 and 3.7).

use crate::wire::error::WireError;
use crate::wire::number::CertEncoding;
use crate::wire::reader::Reader;

/// Most bytes of one certificate.
pub const MAX_CERTIFICATE_BYTES: usize = 16 * 1024;
/// Most authorities of one request: a peer with every public CA in its store names about 150.
pub const MAX_AUTHORITIES: usize = 512;
/// Bytes of the SHA-1 hash of an authority's public key.
pub const AUTHORITY_LEN: usize = 20;

const CERT: &str = "RFC 7296 section 3.6";

/// A certificate or revocation list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// How `data` is encoded. Never Hash and URL: that would have us fetch what a stranger points to, and we never
    /// announce HTTP_CERT_LOOKUP_SUPPORTED.
    pub encoding: CertEncoding,
    /// For [`CertEncoding::X509Signature`] one DER certificate, unchecked. Never empty.
    pub data: Vec<u8>,
}

impl Certificate {
    /// One X.509 certificate in DER.
    pub const fn x509(der: Vec<u8>) -> Self {
        Self { encoding: CertEncoding::X509Signature, data: der }
    }

    /// Reads the body of a CERT payload.
    pub fn parse(mut reader: Reader<'_>) -> Result<Self, WireError> {
        let encoding = CertEncoding::from(reader.u8()?);
        if let CertEncoding::HashAndUrlCertificate | CertEncoding::HashAndUrlBundle = encoding {
            return Err(reader.malformed("Hash and URL, which was never announced as supported", CERT));
        }
        if reader.is_empty() {
            return Err(reader.malformed("no certificate data", CERT));
        }
        if reader.left() > MAX_CERTIFICATE_BYTES {
            return Err(reader.too_many("bytes of a certificate", MAX_CERTIFICATE_BYTES));
        }
        Ok(Self { encoding, data: reader.rest().to_vec() })
    }

    /// Appends the body of a CERT payload.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        if self.data.is_empty() {
            return Err(WireError::Unwritable { what: "a CERT payload without data", rule: CERT });
        }
        out.push(self.encoding.number());
        out.extend_from_slice(&self.data);
        Ok(())
    }
}

/// What certificates a peer would like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateRequest {
    /// An X.509 certificate below one of these authorities; none: below any.
    X509 {
        /// SHA-1 of each authority's SubjectPublicKeyInfo.
        authorities: Vec<[u8; AUTHORITY_LEN]>,
    },
    /// Another encoding. A request may be ignored (RFC 7296 section 3.7).
    Other {
        /// Which.
        encoding: CertEncoding,
        /// As on the wire.
        data: Vec<u8>,
    },
}

impl CertificateRequest {
    /// Reads the body of a CERTREQ payload.
    pub fn parse(mut reader: Reader<'_>) -> Result<Self, WireError> {
        let encoding = CertEncoding::from(reader.u8()?);
        if encoding != CertEncoding::X509Signature {
            if reader.left() > MAX_CERTIFICATE_BYTES {
                return Err(reader.too_many("bytes of a certificate request", MAX_CERTIFICATE_BYTES));
            }
            return Ok(Self::Other { encoding, data: reader.rest().to_vec() });
        }
        if reader.left() > AUTHORITY_LEN.saturating_mul(MAX_AUTHORITIES) {
            return Err(reader.too_many("authorities of a certificate request", MAX_AUTHORITIES));
        }
        let mut authorities = Vec::new();
        while !reader.is_empty() {
            authorities.push(reader.array()?);
        }
        Ok(Self::X509 { authorities })
    }

    /// Appends the body of a CERTREQ payload.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::X509 { authorities } => {
                out.push(CertEncoding::X509Signature.number());
                out.extend_from_slice(authorities.as_flattened());
            }
            Self::Other { encoding, data } => {
                out.push(encoding.number());
                out.extend_from_slice(data);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::number::PayloadType;

    fn certificate(bytes: &[u8]) -> Result<Certificate, WireError> {
        Certificate::parse(Reader::new(PayloadType::Cert, 0, bytes))
    }

    fn request(bytes: &[u8]) -> Result<CertificateRequest, WireError> {
        CertificateRequest::parse(Reader::new(PayloadType::CertReq, 0, bytes))
    }

    #[test]
    fn certificates_are_bounded_and_not_empty() {
        assert_eq!(certificate(&[4, 0x30, 0]), Ok(Certificate::x509(vec![0x30, 0])));
        assert!(certificate(&[]).is_err());
        assert!(certificate(&[4]).is_err());
        assert!(certificate(&vec![4; 1 + MAX_CERTIFICATE_BYTES]).is_ok());
        assert!(matches!(certificate(&vec![4; 2 + MAX_CERTIFICATE_BYTES]), Err(WireError::TooMany { .. })));
    }

    #[test]
    fn hash_and_url_is_refused() {
        for encoding in [12, 13] {
            assert!(matches!(certificate(&[encoding, 1, 2, 3]), Err(WireError::Malformed { .. })));
        }
        // As a mere wish it may be ignored.
        assert!(matches!(request(&[12, 1, 2]), Ok(CertificateRequest::Other { .. })));
    }

    #[test]
    fn authorities_are_whole_hashes() {
        let mut bytes = vec![4];
        bytes.extend_from_slice(&[1; 20]);
        bytes.extend_from_slice(&[2; 20]);
        let parsed = request(&bytes).unwrap();
        assert_eq!(parsed, CertificateRequest::X509 { authorities: vec![[1; 20], [2; 20]] });
        let mut out = Vec::new();
        parsed.write(&mut out);
        assert_eq!(out, bytes);
        assert_eq!(request(&[4]), Ok(CertificateRequest::X509 { authorities: Vec::new() }));
        for end in (2..41).filter(|end| *end != 21) {
            assert!(request(&bytes[..end]).is_err(), "{end}");
        }
        assert!(matches!(request(&vec![4; 1 + 20 * 513]), Err(WireError::TooMany { .. })));
    }
}
