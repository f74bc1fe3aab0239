//! Certificates: whom to trust, whether a chain holds, and whether a certificate carries an identity (RFC 5280,
//! RFC 4945).
//!
//! webpki builds and checks the path: signatures, validity, basic and name constraints, extended key usage, CRLs. Here
//! stands what it leaves out: key usage, and that the anchor itself is valid.

mod certificate;
mod error;

use std::fmt;
use std::sync::Arc;

use ring::digest;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, ExtendedKeyUsageValidator, KeyPurposeId,
    KeyPurposeIdIter, KeyUsage, OwnedCertRevocationList, RequiredEkuNotFoundContext, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
};

pub use self::certificate::Certificate;
pub use self::error::CertificateError;
use super::signature::PublicKey;
use crate::wire::id::Identification;

/// The certification authorities that peers' certificates must come from, and what they have revoked.
#[derive(Clone)]
pub struct TrustAnchors {
    anchors: Vec<TrustAnchor<'static>>,
    /// One for each anchor, in the same order.
    certificates: Vec<Certificate>,
    crls: Arc<[CertRevocationList<'static>]>,
    revocation: RevocationPolicy,
}

/// What it takes for a certificate to count as not revoked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RevocationPolicy {
    /// No CRL that was loaded lists it. A certificate whose CA has no CRL here is accepted, and a CRL goes on to count
    /// past its nextUpdate: an unreachable CA stops no clinic.
    #[default]
    Known,
    /// Every certificate of the chain has a CRL here that is not past its nextUpdate and does not list it.
    Required,
}

impl TrustAnchors {
    /// From one or more "CERTIFICATE" sections. Roots, or intermediates that are to be trusted by themselves.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CertificateError> {
        Self::from_der(&read_chain(pem)?)
    }

    /// From certificates in DER.
    pub fn from_der(certificates: &[impl AsRef<[u8]>]) -> Result<Self, CertificateError> {
        let mut anchors = Vec::new();
        let mut read = Vec::new();
        for der in certificates {
            let certificate = Certificate::from_der(der.as_ref())?;
            // A certificate of an end entity as an anchor could issue certificates for every identity.
            if !certificate.is_authority() || !certificate.may_sign_certificates() {
                return Err(CertificateError::NotAnAuthority { subject: certificate.subject().to_owned() });
            }
            let der = CertificateDer::from(der.as_ref());
            let anchor =
                webpki::anchor_from_trusted_cert(&der).map_err(|error| CertificateError::Unreadable {
                    what: format!("the CA certificate of \"{}\"", certificate.subject()),
                    why: error.to_string(),
                })?;
            anchors.push(anchor.to_owned());
            read.push(certificate);
        }
        if anchors.is_empty() {
            return Err(CertificateError::NoCertificate);
        }
        Ok(Self { anchors, certificates: read, crls: Arc::new([]), revocation: RevocationPolicy::Known })
    }

    /// With these CRLs (DER) in place of those before.
    pub fn with_crls(
        mut self,
        crls: &[impl AsRef<[u8]>],
        revocation: RevocationPolicy,
    ) -> Result<Self, CertificateError> {
        let read = |der: &[u8]| {
            let crl = OwnedCertRevocationList::from_der(der).map_err(|error| {
                CertificateError::Unreadable { what: "a CRL".to_owned(), why: error.to_string() }
            })?;
            Ok(CertRevocationList::Owned(crl))
        };
        self.crls = crls.iter().map(|der| read(der.as_ref())).collect::<Result<_, _>>()?;
        self.revocation = revocation;
        Ok(self)
    }

    /// SHA-1 of each anchor's SubjectPublicKeyInfo, 20 bytes each, one after the other: the Certification Authority
    /// field of a CERTREQ payload (RFC 7296 section 3.7). SHA-1 only names a key here, nothing rests on it.
    pub fn certreq_authority(&self) -> Vec<u8> {
        let sha1 = |certificate: &Certificate| {
            digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, certificate.public_key().spki_der())
        };
        self.certificates.iter().flat_map(|certificate| sha1(certificate).as_ref().to_vec()).collect()
    }

    /// The anchors, as they were read, for an operator to see what is trusted and until when.
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    fn certificate_of(&self, anchor: &TrustAnchor<'_>) -> Option<&Certificate> {
        let at = self.anchors.iter().position(|known| known == anchor)?;
        self.certificates.get(at)
    }
}

impl fmt::Debug for TrustAnchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.certificates.iter().map(Certificate::subject)).finish()
    }
}

/// The "CERTIFICATE" sections of a PEM file in DER, in their order: end entity first where it is a chain.
pub fn read_chain(pem: &[u8]) -> Result<Vec<Arc<[u8]>>, CertificateError> {
    let mut chain = Vec::new();
    for section in CertificateDer::pem_slice_iter(pem) {
        let der = section.map_err(|error| CertificateError::Unreadable {
            what: "a PEM file of certificates".to_owned(),
            why: error.to_string(),
        })?;
        chain.push(Arc::from(der.as_ref()));
    }
    if chain.is_empty() {
        return Err(CertificateError::NoCertificate);
    }
    Ok(chain)
}

/// A certificate whose chain has been verified. The peer has not yet shown that it owns the key, nor has the identity
/// been compared.
#[derive(Clone, Debug)]
pub struct VerifiedCertificate(Certificate);

impl VerifiedCertificate {
    /// What stands in it.
    pub fn certificate(&self) -> &Certificate {
        &self.0
    }

    /// Its key, for [`verify_auth`](super::signature::verify_auth).
    pub fn public_key(&self) -> &PublicKey {
        self.0.public_key()
    }

    /// Whether it carries the identity: see [`Certificate::matches`].
    pub fn matches(&self, id: &Identification) -> bool {
        self.0.matches(id)
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
    let certificate = Certificate::from_der(end_entity)?;
    let attempt = Attempt { certificate: &certificate, intermediates, anchors, now };
    if !certificate.may_sign_messages() {
        return Err(attempt.not_suitable("its key usage lacks digitalSignature (RFC 4945 section 5.1.3.2)"));
    }
    attempt.verify(end_entity).map_err(|error| attempt.explain(&error))?;
    Ok(VerifiedCertificate(certificate))
}

struct Attempt<'a, D> {
    certificate: &'a Certificate,
    intermediates: &'a [D],
    anchors: &'a TrustAnchors,
    now: UnixTime,
}

impl<D: AsRef<[u8]>> Attempt<'_, D> {
    fn verify(&self, end_entity: &[u8]) -> Result<(), webpki::Error> {
        let end_entity = CertificateDer::from(end_entity);
        let end_entity = EndEntityCert::try_from(&end_entity)?;
        let intermediates: Vec<_> =
            self.intermediates.iter().map(|der| CertificateDer::from(der.as_ref())).collect();
        let crls: Vec<_> = self.anchors.crls.iter().collect();
        let (status, expiration) = match self.anchors.revocation {
            RevocationPolicy::Known => (UnknownStatusPolicy::Allow, ExpirationPolicy::Ignore),
            RevocationPolicy::Required if crls.is_empty() => {
                return Err(webpki::Error::UnknownRevocationStatus);
            }
            RevocationPolicy::Required => (UnknownStatusPolicy::Deny, ExpirationPolicy::Enforce),
        };
        let revocation = RevocationOptionsBuilder::new(&crls).ok().map(|builder| {
            builder
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(status)
                .with_expiration_policy(expiration)
                .build()
        });
        let path = end_entity.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &self.anchors.anchors,
            &intermediates,
            self.now,
            IkeUsage,
            revocation,
            Some(&|path| self.check_path(path)),
        );
        path.map(|_| ())
    }

    /// What webpki leaves out; an error lets it try another path.
    fn check_path(&self, path: &VerifiedPath<'_>) -> Result<(), webpki::Error> {
        for intermediate in path.intermediate_certificates() {
            let certificate =
                Certificate::from_der(&intermediate.der()).map_err(|_| webpki::Error::BadDer)?;
            if !certificate.may_sign_certificates() {
                return Err(webpki::Error::EndEntityUsedAsCa);
            }
        }
        let anchor = self.anchors.certificate_of(path.anchor()).ok_or(webpki::Error::UnknownIssuer)?;
        let (time, not_before, not_after) = (self.now, anchor.not_before(), anchor.not_after());
        if time < not_before {
            return Err(webpki::Error::CertNotValidYet { time, not_before });
        }
        if time > not_after {
            return Err(webpki::Error::CertExpired { time, not_after });
        }
        Ok(())
    }

    fn explain(&self, error: &webpki::Error) -> CertificateError {
        let subject = self.certificate.subject().to_owned();
        match *error {
            webpki::Error::CertExpired { not_after, .. } => CertificateError::Expired {
                subject: self.subject_where(|certificate| certificate.not_after() == not_after),
                not_after,
            },
            webpki::Error::CertNotValidYet { not_before, .. } => CertificateError::NotYetValid {
                subject: self.subject_where(|certificate| certificate.not_before() == not_before),
                not_before,
            },
            webpki::Error::UnknownIssuer => {
                CertificateError::UnknownIssuer { subject, issuer: self.certificate.issuer().to_owned() }
            }
            webpki::Error::InvalidSignatureForPublicKey | webpki::Error::SignatureAlgorithmMismatch => {
                CertificateError::BadSignature { subject }
            }
            webpki::Error::CertRevoked => CertificateError::Revoked { subject },
            webpki::Error::UnknownRevocationStatus => CertificateError::RevocationUnknown { subject },
            webpki::Error::CrlExpired { next_update, .. } => {
                CertificateError::CrlExpired { subject, next_update }
            }
            webpki::Error::CaUsedAsEndEntity => {
                self.not_suitable("it is a CA's certificate, with which nobody authenticates")
            }
            webpki::Error::EndEntityUsedAsCa => {
                self.not_suitable("a certificate above it is none of a CA (basic constraints, key usage)")
            }
            webpki::Error::PathLenConstraintViolated => {
                self.not_suitable("there are more CAs above it than a path length constraint allows")
            }
            webpki::Error::NameConstraintViolation => {
                self.not_suitable("a CA above it may not issue for its names (name constraints)")
            }
            webpki::Error::RequiredEkuNotFoundContext(_) | webpki::Error::EmptyEkuExtension => {
                self.not_suitable(
                    "its extended key usage allows neither id-kp-ipsecIKE nor serverAuth, clientAuth or any",
                )
            }
            webpki::Error::UnsupportedSignatureAlgorithmContext(_)
            | webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => self.not_suitable(
                "it, or one above it, is signed with an algorithm that is not accepted here: SHA-2 with RSA from 2048 \
                 bits, P-256, P-384 or Ed25519 is",
            ),
            ref error => self.not_suitable(&error.to_string()),
        }
    }

    fn not_suitable(&self, why: &str) -> CertificateError {
        CertificateError::NotSuitable { subject: self.certificate.subject().to_owned(), why: why.to_owned() }
    }

    /// Which certificate webpki means: it tells the time only.
    fn subject_where(&self, fits: impl Fn(&Certificate) -> bool) -> String {
        let intermediates =
            self.intermediates.iter().filter_map(|der| Certificate::from_der(der.as_ref()).ok());
        let mut all = std::iter::once(self.certificate.clone())
            .chain(intermediates)
            .chain(self.anchors.certificates.iter().cloned());
        all.find(fits).as_ref().unwrap_or(self.certificate).subject().to_owned()
    }
}

/// Extended key usages, any of which suffices (content octets of their OIDs): those of RFC 4945 section 5.1.3.12, the
/// ones for TLS that CAs put into certificates of gateways, and what Windows and macOS want to see.
const USAGES: [&[u8]; 8] = [
    // id-kp-ipsecIKE 1.3.6.1.5.5.7.3.17
    &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x11],
    // id-kp-ipsecEndSystem, ipsecTunnel, ipsecUser 1.3.6.1.5.5.7.3.5 to 7
    &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x05],
    &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x06],
    &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x07],
    // id-kp-serverAuth, clientAuth 1.3.6.1.5.5.7.3.1 and 2
    &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01],
    &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02],
    // iKEIntermediate 1.3.6.1.5.5.8.2.2
    &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x08, 0x02, 0x02],
    // anyExtendedKeyUsage 2.5.29.37.0
    &[0x55, 0x1d, 0x25, 0x00],
];

/// Without the extension any use is allowed (RFC 4945 section 5.1.3.12).
struct IkeUsage;

impl ExtendedKeyUsageValidator for IkeUsage {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let mut present = Vec::new();
        for purpose in purposes {
            let purpose = purpose?;
            if USAGES.iter().any(|usage| KeyPurposeId::new(usage) == purpose) {
                return Ok(());
            }
            present.push(purpose.to_decoded_oid());
        }
        if present.is_empty() {
            return Ok(());
        }
        let [ipsec_ike, ..] = USAGES;
        let required = KeyUsage::required_if_present(ipsec_ike);
        Err(webpki::Error::RequiredEkuNotFoundContext(RequiredEkuNotFoundContext { required, present }))
    }
}

#[cfg(test)]
mod tests;
