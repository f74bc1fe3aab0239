//! Certificates: whom to trust, whether a chain holds, and whether a certificate carries an identity (RFC 5280,
//! RFC 4945).

use std::fmt;

use rustls_pki_types::UnixTime;

use super::signature::PublicKey;
use crate::wire::id::Identification;

/// The certification authorities that peers' certificates must come from.
#[derive(Clone)]
pub struct TrustAnchors {
    anchors: Vec<Vec<u8>>,
}

/// Why a certificate or bundle is refused, for an operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not a certificate.
    #[error("{what} is no readable X.509 certificate: {why}")]
    Unreadable {
        /// Which.
        what: String,
        /// Why.
        why: String,
    },
}

impl TrustAnchors {
    /// From one or more "CERTIFICATE" sections. Roots, or intermediates that are to be trusted by themselves.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CertificateError> {
        let _ = pem;
        Ok(Self { anchors: Vec::new() })
    }

    /// From certificates in DER.
    pub fn from_der(certificates: &[impl AsRef<[u8]>]) -> Result<Self, CertificateError> {
        let _ = certificates;
        Ok(Self { anchors: Vec::new() })
    }

    /// SHA-1 of each anchor's SubjectPublicKeyInfo, 20 bytes each, one after the other: the Certification Authority
    /// field of a CERTREQ payload (RFC 7296 section 3.7).
    pub fn certreq_authority(&self) -> Vec<u8> {
        Vec::new()
    }
}

impl fmt::Debug for TrustAnchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustAnchors({})", self.anchors.len())
    }
}

/// A certificate whose chain has been verified. The peer has not yet shown that it owns the key, nor has the identity
/// been compared.
#[derive(Clone, Debug)]
pub struct VerifiedCertificate {
    key: PublicKey,
}

impl VerifiedCertificate {
    /// Its key, for [`verify_auth`](super::signature::verify_auth).
    pub fn public_key(&self) -> &PublicKey {
        &self.key
    }

    /// Whether it carries the identity (RFC 4945 section 3.1): ID_FQDN ↔ dNSName, ID_IPV4_ADDR and ID_IPV6_ADDR ↔
    /// iPAddress, ID_RFC822_ADDR ↔ rfc822Name, ID_DER_ASN1_DN ↔ subject, byte for byte. Never by common name.
    pub fn matches(&self, id: &Identification) -> bool {
        let _ = id;
        false
    }
}

/// Verifies that `end_entity` (DER) comes from one of `anchors`, by way of any of `intermediates` (DER, in any order), at
/// the time `now`.
pub fn verify_chain(
    end_entity: &[u8],
    intermediates: &[impl AsRef<[u8]>],
    anchors: &TrustAnchors,
    now: UnixTime,
) -> Result<VerifiedCertificate, CertificateError> {
    let _ = (end_entity, intermediates, anchors, now);
    Err(CertificateError::Unreadable { what: String::new(), why: String::new() })
}
