//! What stands in one certificate.

use std::net::IpAddr;

use der::{Decode, Encode};
use rustls_pki_types::UnixTime;
use x509_cert::ext::pkix::name::{DistributionPointName, GeneralName};
use x509_cert::ext::pkix::{BasicConstraints, CrlDistributionPoints, KeyUsage, SubjectAltName};
use x509_cert::name::Name;
use x509_cert::time::Time;

use super::CertificateError;
use crate::crypto::signature::PublicKey;
use crate::wire::distinguished_name::DistinguishedName;
use crate::wire::id::Identification;

/// Subjects are shown no longer than this, in characters.
const SHOWN: usize = 200;
/// URLs of CRLs that are kept of one certificate, and the longest in bytes: RFC 5280 wants one, large CAs give two.
const CRL_URLS: usize = 4;
const CRL_URL_BYTES: usize = 1024;

/// A certificate that has been read, and not judged.
#[derive(Clone, Debug)]
pub struct Certificate {
    subject: String,
    issuer: String,
    not_before: UnixTime,
    not_after: UnixTime,
    key: PublicKey,
    identities: Vec<Identification>,
    key_usage: Option<KeyUsage>,
    is_authority: bool,
    /// Content octets of the serial number.
    pub(super) serial: Vec<u8>,
    /// DER of the subject.
    pub(super) subject_der: Vec<u8>,
    /// Where its CRL is, by HTTP.
    pub(super) crl_urls: Vec<String>,
}

impl Certificate {
    /// From DER.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        Self::read(der).map_err(|error| CertificateError::Unreadable {
            what: "a certificate".to_owned(),
            why: error.to_string(),
        })
    }

    fn read(der: &[u8]) -> der::Result<Self> {
        let certificate = x509_cert::Certificate::from_der(der)?;
        let tbs = certificate.tbs_certificate();
        let alternative = tbs.get_extension::<SubjectAltName>()?;
        let alternative = alternative.iter().flat_map(|(_, names)| &names.0).filter_map(identity);
        let subject_der = tbs.subject().to_der()?;
        let subject = Identification::distinguished_name(&subject_der).ok();
        let points = tbs.get_extension::<CrlDistributionPoints>()?;
        let constraints = tbs.get_extension::<BasicConstraints>()?;
        Ok(Self {
            subject: show(tbs.subject()),
            issuer: show(tbs.issuer()),
            not_before: unix_time(tbs.validity().not_before),
            not_after: unix_time(tbs.validity().not_after),
            key: PublicKey::from_spki_der(&tbs.subject_public_key_info().to_der()?),
            identities: alternative.chain(subject).collect(),
            key_usage: tbs.get_extension::<KeyUsage>()?.map(|(_, usage)| usage),
            is_authority: constraints.is_some_and(|(_, constraints)| constraints.ca),
            serial: tbs.serial_number().as_bytes().to_vec(),
            subject_der,
            crl_urls: points.map(|(_, points)| crl_urls(&points)).unwrap_or_default(),
        })
    }

    /// Its subject, as `C=JP, O=Clinic, CN=gateway`, without control or invisible characters.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Its issuer, in the same form.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// When it begins to be valid.
    pub fn not_before(&self) -> UnixTime {
        self.not_before
    }

    /// When it ends to be valid.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// Its key.
    pub fn public_key(&self) -> &PublicKey {
        &self.key
    }

    /// Whether it carries the identity (RFC 4945 section 3.1): ID_FQDN ↔ dNSName, ID_IPV4_ADDR and ID_IPV6_ADDR ↔
    /// iPAddress, ID_RFC822_ADDR ↔ rfc822Name, ID_DER_ASN1_DN ↔ subject, each by
    /// [`Identification::matches`]. Never by common name, and no wildcards; ID_KEY_ID never matches.
    pub fn matches(&self, id: &Identification) -> bool {
        self.identities.iter().any(|identity| identity.matches(id))
    }

    /// Where the CRL is that would list it, by HTTP (RFC 5280 section 4.2.1.13), in its order.
    pub fn crl_urls(&self) -> &[String] {
        &self.crl_urls
    }

    pub(super) fn is_authority(&self) -> bool {
        self.is_authority
    }

    /// RFC 4945 section 5.1.3.2: without the extension any use is allowed.
    pub(super) fn may_sign_messages(&self) -> bool {
        self.key_usage.is_none_or(|usage| usage.digital_signature() || usage.non_repudiation())
    }

    /// RFC 5280 section 4.2.1.3.
    pub(super) fn may_sign_certificates(&self) -> bool {
        self.key_usage.is_none_or(|usage| usage.key_cert_sign())
    }
}

fn identity(name: &GeneralName) -> Option<Identification> {
    match name {
        GeneralName::DnsName(name) => Identification::fqdn(name.as_str()).ok(),
        GeneralName::Rfc822Name(mailbox) => Identification::rfc822(mailbox.as_str()).ok(),
        GeneralName::IpAddress(address) => {
            let address = address.as_bytes();
            let v4 = <[u8; 4]>::try_from(address).map(IpAddr::from);
            let address = v4.or_else(|_| <[u8; 16]>::try_from(address).map(IpAddr::from)).ok()?;
            Some(Identification::address(address))
        }
        _ => None,
    }
}

/// HTTP only: RFC 5280 has LDAP too, and HTTPS would need a certificate to judge a certificate. CRLs by others than the
/// certificate's issuer, or for some reasons only, are not understood by webpki either.
fn crl_urls(points: &CrlDistributionPoints) -> Vec<String> {
    let whole = points.0.iter().filter(|point| point.crl_issuer.is_none() && point.reasons.is_none());
    let names = whole.filter_map(|point| match &point.distribution_point {
        Some(DistributionPointName::FullName(names)) => Some(names),
        _ => None,
    });
    let urls = names.flatten().filter_map(|name| match name {
        GeneralName::UniformResourceIdentifier(url) => Some(url.as_str()),
        _ => None,
    });
    let usable = |url: &&str| {
        url.len() <= CRL_URL_BYTES
            && url.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://"))
            && url.bytes().all(|byte| byte.is_ascii_graphic())
    };
    urls.filter(usable).take(CRL_URLS).map(str::to_owned).collect()
}

fn show(name: &Name) -> String {
    show_der(&name.to_der().unwrap_or_default())
}

/// A name in DER, for people.
pub(super) fn show_der(der: &[u8]) -> String {
    match DistinguishedName::from_der(der) {
        Ok(name) => name.to_string().chars().take(SHOWN).collect(),
        Err(_) => "(no name)".to_owned(),
    }
}

pub(super) fn unix_time(time: Time) -> UnixTime {
    UnixTime::since_unix_epoch(time.to_unix_duration())
}
