//! Whether a verified certificate, or one above it, has been revoked.

use std::sync::Arc;

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{
    EndEntityCert, ExpirationPolicy, RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy,
};

use super::{Certificate, CertificateError, Crl, IkeUsage, TrustAnchors, VerifiedCertificate};

/// What it takes for a certificate to count as not revoked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RevocationPolicy {
    /// CRLs are not looked at.
    Off,
    /// No CRL that is known lists it. A certificate whose CA has no CRL here is accepted, and a CRL goes on to count past
    /// its nextUpdate: an unreachable CA stops no clinic.
    #[default]
    IfPresent,
    /// Every certificate of the chain has a CRL here that is not past its nextUpdate and does not list it.
    Strict,
}

/// One certificate of a verified chain, and who issued it.
#[derive(Clone, Debug)]
pub(super) struct Link {
    subject: String,
    serial: Vec<u8>,
    issuer: Vec<u8>,
    /// DER of the issuer's SubjectPublicKeyInfo.
    issuer_key: Vec<u8>,
    crl_urls: Vec<String>,
}

impl Link {
    pub(super) fn between(certificate: &Certificate, issuer: &Certificate) -> Self {
        Self {
            subject: certificate.subject().to_owned(),
            serial: certificate.serial.clone(),
            issuer: issuer.subject_der.clone(),
            issuer_key: issuer.public_key().spki_der().to_vec(),
            crl_urls: certificate.crl_urls.clone(),
        }
    }
}

/// A CRL that a verified certificate points to, and who must have signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrlSource {
    /// Where it is (`http:`).
    pub url: String,
    /// DER of the issuer's name.
    pub(crate) issuer: Vec<u8>,
    /// DER of the issuer's SubjectPublicKeyInfo.
    pub(crate) issuer_key: Vec<u8>,
}

impl CrlSource {
    /// Whether a CRL is the one that is meant.
    pub(crate) fn is_of(&self, crl: &Crl) -> bool {
        crl.is_signed_by(&self.issuer, &self.issuer_key)
    }
}

impl VerifiedCertificate {
    /// Judges the chain by the CRLs of `anchors` and those `fetched`. Only CRLs count that the right authority has
    /// signed; of several the newest.
    pub fn check_revocation(
        &self,
        anchors: &TrustAnchors,
        fetched: &[Arc<Crl>],
        now: UnixTime,
    ) -> Result<(), CertificateError> {
        let (status, expiration) = match anchors.revocation {
            RevocationPolicy::Off => return Ok(()),
            RevocationPolicy::IfPresent => (UnknownStatusPolicy::Allow, ExpirationPolicy::Ignore),
            RevocationPolicy::Strict => (UnknownStatusPolicy::Deny, ExpirationPolicy::Enforce),
        };
        let crls = self.crls(anchors, fetched);
        let lists: Vec<_> = crls.iter().map(|crl| crl.list()).collect();
        let subject = || self.certificate().subject().to_owned();
        let Ok(builder) = RevocationOptionsBuilder::new(&lists) else {
            return match anchors.revocation {
                RevocationPolicy::Strict => Err(CertificateError::RevocationUnknown { subject: subject() }),
                _ => Ok(()),
            };
        };
        let options = builder
            .with_depth(RevocationCheckDepth::Chain)
            .with_status_policy(status)
            .with_expiration_policy(expiration)
            .build();
        let (end_entity, intermediates) = self.chain.split_first().ok_or(CertificateError::NoCertificate)?;
        let end_entity = CertificateDer::from(&**end_entity);
        let intermediates: Vec<_> = intermediates.iter().map(|der| CertificateDer::from(&**der)).collect();
        let judged = EndEntityCert::try_from(&end_entity).and_then(|end_entity| {
            let path = end_entity.verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &anchors.anchors,
                &intermediates,
                now,
                IkeUsage(anchors.purpose),
                Some(options),
                None,
            );
            path.map(|_| ())
        });
        match judged {
            Ok(()) => Ok(()),
            Err(webpki::Error::CertRevoked) => {
                let revoked = self.links.iter().find(|link| {
                    crls.iter().any(|crl| crl.issuer_der() == link.issuer && crl.lists(&link.serial))
                });
                let (subject, at_fault) = match revoked {
                    Some(link) => (subject(), link.subject.clone()),
                    None => (subject(), subject()),
                };
                Err(CertificateError::Revoked { subject, revoked: at_fault })
            }
            Err(webpki::Error::UnknownRevocationStatus) => {
                Err(CertificateError::RevocationUnknown { subject: subject() })
            }
            Err(webpki::Error::CrlExpired { next_update, .. }) => {
                Err(CertificateError::CrlExpired { subject: subject(), next_update })
            }
            // The chain held before; what does not now is a CRL.
            Err(error) => Err(CertificateError::NotSuitable {
                subject: subject(),
                why: format!("a CRL of its authorities cannot be used: {error}"),
            }),
        }
    }

    /// Where the CRLs are that would tell more than those known: for each certificate of the chain without a fresh one,
    /// the first place that it names.
    pub(crate) fn wanted_crls(
        &self,
        anchors: &TrustAnchors,
        fetched: &[Arc<Crl>],
        now: UnixTime,
    ) -> Vec<CrlSource> {
        if anchors.revocation == RevocationPolicy::Off {
            return Vec::new();
        }
        let known = self.crls(anchors, fetched);
        let is_known =
            |link: &&Link| known.iter().any(|crl| crl.issuer_der() == link.issuer && crl.is_fresh(now));
        let wanted = self.links.iter().filter(|link| !is_known(link));
        wanted.filter_map(Link::source).collect()
    }

    /// Whether a CRL lists a certificate of this chain. Quick, and no proof: the CRL's signature is not looked at.
    pub(crate) fn is_listed(&self, crl: &Crl) -> bool {
        self.links.iter().any(|link| crl.issuer_der() == link.issuer && crl.lists(&link.serial))
    }

    /// Every place where a CRL about this chain is.
    pub(crate) fn crl_sources(&self) -> impl Iterator<Item = CrlSource> + '_ {
        self.links.iter().filter_map(Link::source)
    }

    /// The CRLs that count for this chain, newest first.
    fn crls<'a>(&self, anchors: &'a TrustAnchors, fetched: &'a [Arc<Crl>]) -> Vec<&'a Crl> {
        let of_chain = |crl: &&Crl| {
            self.links.iter().any(|link| {
                crl.issuer_der() == link.issuer && crl.is_signed_by(&link.issuer, &link.issuer_key)
            })
        };
        let all = anchors.crls.iter().chain(fetched).map(|crl| &**crl);
        let mut crls: Vec<&Crl> = all.filter(of_chain).collect();
        crls.sort_by_key(|crl| std::cmp::Reverse(crl.this_update().as_secs()));
        crls
    }
}

impl Link {
    fn source(&self) -> Option<CrlSource> {
        let url = self.crl_urls.first()?.clone();
        Some(CrlSource { url, issuer: self.issuer.clone(), issuer_key: self.issuer_key.clone() })
    }
}
