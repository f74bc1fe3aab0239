//! Certificates: whom to trust, whether a chain holds, and whether a certificate carries an identity (RFC 5280,
//! RFC 4945).
//!
//! webpki builds and checks the path: signatures, validity, basic and name constraints, extended key usage, CRLs. Here
//! stands what it leaves out: key usage, and that the anchor itself is valid.

mod certificate;
mod crl;
mod error;
mod revocation;

use std::fmt;
use std::sync::Arc;

use ring::digest;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{
    EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter, KeyUsage,
    RequiredEkuNotFoundContext, VerifiedPath,
};

pub use self::certificate::Certificate;
pub use self::crl::{Crl, MAX_CRL_BYTES};
pub use self::error::CertificateError;
use self::revocation::Link;
pub use self::revocation::{CrlSource, RevocationPolicy};
use super::signature::PublicKey;
use crate::wire::id::Identification;

/// Most certificates that a peer may send or a file add: a chain of five is long.
pub const MAX_CHAIN: usize = 16;

/// The certification authorities that peers' certificates must come from, and what they have revoked.
#[derive(Clone)]
pub struct TrustAnchors {
    anchors: Vec<TrustAnchor<'static>>,
    /// One for each anchor, in the same order.
    certificates: Vec<Certificate>,
    /// Intermediates that peers need not send, DER.
    intermediates: Vec<Vec<u8>>,
    crls: Arc<[Arc<Crl>]>,
    revocation: RevocationPolicy,
    purpose: PurposePolicy,
}

/// What a peer's certificate must be made for (extended key usage).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PurposePolicy {
    /// Anything.
    Off,
    /// If purposes stand in it, one of them is IPsec, or TLS as CAs put into certificates of gateways, or any (RFC 4945
    /// section 5.1.3.12).
    #[default]
    IfPresent,
    /// One of them is id-kp-ipsecIKE, or iKEIntermediate as older CAs have it: a certificate of a web server is none of
    /// a gateway.
    Strict,
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
        Ok(Self {
            anchors,
            certificates: read,
            intermediates: Vec::new(),
            crls: Arc::new([]),
            revocation: RevocationPolicy::default(),
            purpose: PurposePolicy::default(),
        })
    }

    /// With these CRLs (DER, or PEM) in place of those before.
    pub fn with_crls(
        self,
        crls: &[impl AsRef<[u8]>],
        revocation: RevocationPolicy,
    ) -> Result<Self, CertificateError> {
        Self { revocation, ..self }.with_other_crls(crls)
    }

    /// The same with other CRLs (DER, or PEM).
    pub fn with_other_crls(&self, crls: &[impl AsRef<[u8]>]) -> Result<Self, CertificateError> {
        let mut read = Vec::new();
        for bytes in crls {
            read.extend(Crl::from_der_or_pem(bytes.as_ref())?.into_iter().map(Arc::new));
        }
        Ok(Self { crls: read.into(), ..self.clone() })
    }

    /// With intermediate certificates (DER) that peers need not send. They are not trusted by themselves.
    pub fn with_intermediates(
        mut self,
        intermediates: &[impl AsRef<[u8]>],
    ) -> Result<Self, CertificateError> {
        for der in intermediates {
            let certificate = Certificate::from_der(der.as_ref())?;
            if !certificate.is_authority() {
                return Err(CertificateError::NotAnAuthority { subject: certificate.subject().to_owned() });
            }
            self.intermediates.push(der.as_ref().to_vec());
        }
        Ok(self)
    }

    /// With this word on extended key usage.
    pub fn with_purpose(mut self, purpose: PurposePolicy) -> Self {
        self.purpose = purpose;
        self
    }

    /// Whether CRLs count at all.
    pub(crate) fn watches_revocation(&self) -> bool {
        self.revocation != RevocationPolicy::Off
    }

    /// The CRLs that were loaded.
    pub(crate) fn crls(&self) -> &[Arc<Crl>] {
        &self.crls
    }

    /// Whether both trust the same keys under the same rules. What is revoked may differ.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        self.certreq_authority() == other.certreq_authority()
            && self.intermediates == other.intermediates
            && self.revocation == other.revocation
            && self.purpose == other.purpose
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
pub struct VerifiedCertificate {
    certificate: Certificate,
    /// DER of the end entity's certificate and those between it and the anchor.
    chain: Vec<Vec<u8>>,
    /// The same with their issuers.
    links: Vec<Link>,
}

impl VerifiedCertificate {
    /// What stands in it.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Its key, for [`verify_auth`](super::signature::verify_auth).
    pub fn public_key(&self) -> &PublicKey {
        self.certificate.public_key()
    }

    /// Whether it carries the identity: see [`Certificate::matches`].
    pub fn matches(&self, id: &Identification) -> bool {
        self.certificate.matches(id)
    }
}

/// Verifies that `end_entity` (DER) comes from one of `anchors`, by way of any of `intermediates` (DER, in any order), at
/// the time `now`, and that no CRL of `anchors` stands against it.
pub fn verify_chain(
    end_entity: &[u8],
    intermediates: &[impl AsRef<[u8]>],
    anchors: &TrustAnchors,
    now: UnixTime,
) -> Result<VerifiedCertificate, CertificateError> {
    let verified = verify_path(end_entity, intermediates, anchors, now)?;
    verified.check_revocation(anchors, &[], now)?;
    Ok(verified)
}

/// As [`verify_chain`], but without a look at what is revoked, which
/// [`VerifiedCertificate::check_revocation`] tells.
pub fn verify_path(
    end_entity: &[u8],
    intermediates: &[impl AsRef<[u8]>],
    anchors: &TrustAnchors,
    now: UnixTime,
) -> Result<VerifiedCertificate, CertificateError> {
    let certificate = Certificate::from_der(end_entity)?;
    let intermediates: Vec<&[u8]> = intermediates
        .iter()
        .map(AsRef::as_ref)
        .chain(anchors.intermediates.iter().map(Vec::as_slice))
        .collect();
    let attempt = Attempt { certificate: &certificate, intermediates: &intermediates, anchors, now };
    if !certificate.may_sign_messages() {
        return Err(attempt.not_suitable("its key usage lacks digitalSignature (RFC 4945 section 5.1.3.2)"));
    }
    let (chain, links) = attempt.verify(end_entity).map_err(|error| attempt.explain(&error))?;
    Ok(VerifiedCertificate { certificate, chain, links })
}

/// A chain, and its links.
type Chain = (Vec<Vec<u8>>, Vec<Link>);

struct Attempt<'a> {
    certificate: &'a Certificate,
    intermediates: &'a [&'a [u8]],
    anchors: &'a TrustAnchors,
    now: UnixTime,
}

impl Attempt<'_> {
    fn verify(&self, end_entity: &[u8]) -> Result<Chain, webpki::Error> {
        let der = end_entity.to_vec();
        let end_entity = CertificateDer::from(end_entity);
        let end_entity = EndEntityCert::try_from(&end_entity)?;
        let intermediates: Vec<_> = self.intermediates.iter().map(|der| CertificateDer::from(*der)).collect();
        let path = end_entity.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &self.anchors.anchors,
            &intermediates,
            self.now,
            IkeUsage(self.anchors.purpose),
            None,
            Some(&|path| self.check_path(path)),
        )?;
        let mut chain = vec![der];
        let mut certificates = vec![self.certificate.clone()];
        for intermediate in path.intermediate_certificates() {
            certificates.push(Certificate::from_der(&intermediate.der()).map_err(|_| webpki::Error::BadDer)?);
            chain.push(intermediate.der().to_vec());
        }
        let anchor = self.anchors.certificate_of(path.anchor()).ok_or(webpki::Error::UnknownIssuer)?;
        let issuers = certificates.iter().skip(1).chain([anchor]);
        let links = certificates.iter().zip(issuers);
        let links = links.map(|(certificate, issuer)| Link::between(certificate, issuer)).collect();
        Ok((chain, links))
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
                self.not_suitable(match self.anchors.purpose {
                    PurposePolicy::Strict => {
                        "its extended key usage does not name id-kp-ipsecIKE (or iKEIntermediate), which the \
                         connection requires"
                    }
                    PurposePolicy::IfPresent | PurposePolicy::Off => {
                        "its extended key usage allows neither id-kp-ipsecIKE nor serverAuth, clientAuth or any"
                    }
                })
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
        let intermediates = self.intermediates.iter().filter_map(|der| Certificate::from_der(der).ok());
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

/// Those of [`USAGES`] that say IKE: id-kp-ipsecIKE, iKEIntermediate.
const IKE_USAGES: [usize; 2] = [0, 6];

/// Without the extension any use is allowed (RFC 4945 section 5.1.3.12), unless the policy wants it.
struct IkeUsage(PurposePolicy);

impl ExtendedKeyUsageValidator for IkeUsage {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        if self.0 == PurposePolicy::Off {
            return Ok(());
        }
        let accepted = USAGES.iter().enumerate().filter(|(index, _)| match self.0 {
            PurposePolicy::Strict => IKE_USAGES.contains(index),
            PurposePolicy::IfPresent | PurposePolicy::Off => true,
        });
        let accepted: Vec<_> = accepted.map(|(_, usage)| KeyPurposeId::new(usage)).collect();
        let mut present = Vec::new();
        for purpose in purposes {
            let purpose = purpose?;
            if accepted.contains(&purpose) {
                return Ok(());
            }
            present.push(purpose.to_decoded_oid());
        }
        if present.is_empty() && self.0 == PurposePolicy::IfPresent {
            return Ok(());
        }
        let [ipsec_ike, ..] = USAGES;
        let required = KeyUsage::required_if_present(ipsec_ike);
        Err(webpki::Error::RequiredEkuNotFoundContext(RequiredEkuNotFoundContext { required, present }))
    }
}

#[cfg(test)]
mod tests;
