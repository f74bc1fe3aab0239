//! Making an authority, and issuing with it.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use der::Decode;
use rcgen::{
    BasicConstraints, CertificateParams, CrlDistributionPoint, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sekisho_ike::wire::id::Identification;
use x509_cert::Certificate;
use zeroize::Zeroizing;

use super::file::{at, make_folder, refuse_existing, with_suffix, write_certificates, write_key};
use super::{KeyKind, PkiError};

pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);
const ROOT_DAYS: u32 = 3650;
const INTERMEDIATE_DAYS: u32 = 1825;
/// Certificates are valid from this long ago on, for gateways whose clocks run behind.
pub(super) const CLOCK_SKEW: Duration = Duration::from_secs(300);
/// id-kp-ipsecIKE (RFC 4945 section 5.1.3.12).
const IPSEC_IKE: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 17];
/// Bytes of a serial number; RFC 5280 section 4.1.2.2 allows 20.
const SERIAL_BYTES: usize = 16;

pub(super) const ROOT: &str = "root";
pub(super) const INTERMEDIATE: &str = "intermediate";
const CERTIFICATE_SUFFIX: &str = "crt.pem";
const KEY_SUFFIX: &str = "key.pem";

/// A new authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initialised {
    /// The root certificate: what the peers' `ca` names.
    pub root: PathBuf,
    /// Its key, needed only for a new intermediate.
    pub root_key: PathBuf,
    /// The intermediate certificate.
    pub intermediate: PathBuf,
    /// Its key, with which gateways' certificates are issued.
    pub intermediate_key: PathBuf,
}

/// What to issue.
#[derive(Clone, Debug)]
pub struct Issue<'a> {
    /// The authority's folder.
    pub dir: &'a Path,
    /// Identities that the certificate shall carry; the first is also its common name.
    pub ids: &'a [Identification],
    /// How long it is valid.
    pub days: u32,
    /// Its key.
    pub key: KeyKind,
    /// The files become `PREFIX.crt.pem` and `PREFIX.key.pem`.
    pub prefix: &'a Path,
    /// Where the intermediate's CRL will be found.
    pub crl_url: Option<&'a str>,
}

/// An issued certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The certificate, and the intermediate's behind it.
    pub chain: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Makes a root and an intermediate in `dir`, whose names begin with `name`. The root's CRL will be found at `crl_url`.
pub fn init(dir: &Path, name: &str, key: KeyKind, crl_url: Option<&str>) -> Result<Initialised, PkiError> {
    let files = |stem: &str| {
        (with_suffix(&dir.join(stem), CERTIFICATE_SUFFIX), with_suffix(&dir.join(stem), KEY_SUFFIX))
    };
    let ((root, root_key), (intermediate, intermediate_key)) = (files(ROOT), files(INTERMEDIATE));
    refuse_existing(&[&root, &root_key, &intermediate, &intermediate_key])?;
    make_folder(dir)?;

    let now = SystemTime::now();
    let root_pair = key.generate()?;
    let root_params = ca_params(&format!("{name} Root CA"), 1, now, ROOT_DAYS)?;
    let root_certificate = root_params.self_signed(&root_pair)?;
    let intermediate_pair = key.generate()?;
    let mut intermediate_params = ca_params(&format!("{name} Intermediate CA"), 0, now, INTERMEDIATE_DAYS)?;
    intermediate_params.crl_distribution_points = distribution_points(crl_url);
    let intermediate_certificate =
        intermediate_params.signed_by(&intermediate_pair, &Issuer::from_params(&root_params, &root_pair))?;

    write_key(&root_key, &Zeroizing::new(root_pair.serialize_pem()))?;
    write_certificates(&root, &root_certificate.pem())?;
    write_key(&intermediate_key, &Zeroizing::new(intermediate_pair.serialize_pem()))?;
    write_certificates(&intermediate, &intermediate_certificate.pem())?;
    Ok(Initialised { root, root_key, intermediate, intermediate_key })
}

/// Issues a certificate by the intermediate.
pub fn issue(request: &Issue<'_>) -> Result<Issued, PkiError> {
    let Some(first) = request.ids.first() else { return Err(PkiError::NoIdentity) };
    let chain = with_suffix(request.prefix, CERTIFICATE_SUFFIX);
    let key = with_suffix(request.prefix, KEY_SUFFIX);
    refuse_existing(&[&chain, &key])?;

    let issuer_pem = read_authority(request.dir, "intermediate.crt.pem")?;
    let issuer_key = read_authority(request.dir, "intermediate.key.pem")?;
    let issuer_path = request.dir.join("intermediate.crt.pem");
    let unreadable = |why: String| PkiError::Unreadable { path: issuer_path.clone(), why };
    let issuer_der = CertificateDer::from_pem_slice(issuer_pem.as_bytes())
        .map_err(|error| unreadable(error.to_string()))?;
    let parsed = Certificate::from_der(&issuer_der).map_err(|error| unreadable(error.to_string()))?;
    let issuer_end = parsed.tbs_certificate().validity().not_after.to_system_time();
    let issuer = Issuer::from_ca_cert_der(&issuer_der, KeyPair::from_pem(&issuer_key)?)?;

    let now = SystemTime::now();
    if now + DAY * request.days > issuer_end {
        return Err(PkiError::Outlives(issuer_end));
    }
    let mut params = params(&first.to_string(), now, request.days)?;
    params.subject_alt_names = request.ids.iter().map(alternative_name).collect::<Result<_, _>>()?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::Other(IPSEC_IKE.to_vec()),
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.crl_distribution_points = distribution_points(request.crl_url);
    let pair = request.key.generate()?;
    let certificate = params.signed_by(&pair, &issuer)?;

    write_key(&key, &Zeroizing::new(pair.serialize_pem()))?;
    write_certificates(&chain, &format!("{}{}", certificate.pem(), *issuer_pem))?;
    Ok(Issued { chain, key })
}

fn distribution_points(url: Option<&str>) -> Vec<CrlDistributionPoint> {
    url.into_iter().map(|url| CrlDistributionPoint { uris: vec![url.to_owned()] }).collect()
}

fn ca_params(name: &str, path_length: u8, now: SystemTime, days: u32) -> Result<CertificateParams, PkiError> {
    let mut params = params(name, now, days)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn params(common_name: &str, now: SystemTime, days: u32) -> Result<CertificateParams, PkiError> {
    let mut serial = [0; SERIAL_BYTES];
    SystemRandom::new()
        .fill(&mut serial)
        .map_err(|_| PkiError::Key("the system's randomness fails".into()))?;
    // Positive, and never with a leading zero byte: one form in every tool that prints it.
    serial[0] = serial[0] & 0x7f | 0x40;

    let mut params = CertificateParams::default();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + DAY * days).into();
    params.serial_number = Some(SerialNumber::from(serial.to_vec()));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// The SubjectAltName that proves an identity (RFC 4945 section 3.1).
fn alternative_name(id: &Identification) -> Result<SanType, PkiError> {
    if let Some(address) = id.as_address() {
        return Ok(SanType::IpAddress(address));
    }
    if let Some(name) = id.as_fqdn() {
        return Ok(SanType::DnsName(name.try_into()?));
    }
    match id.as_rfc822() {
        Some(mailbox) => Ok(SanType::Rfc822Name(mailbox.try_into()?)),
        None => Err(PkiError::Identity(id.clone())),
    }
}

pub(super) fn read_authority(dir: &Path, name: &'static str) -> Result<Zeroizing<String>, PkiError> {
    let path = dir.join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(PkiError::NoAuthority { dir: dir.to_owned(), missing: name })
        }
        Err(error) => Err(at(&path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustls_pki_types::UnixTime;
    use sekisho_ike::crypto::x509::{TrustAnchors, verify_chain};
    use tempfile::TempDir;

    use super::*;
    use crate::pki::show;

    fn id(text: &str) -> Identification {
        text.parse().expect("an identity")
    }

    fn authority(key: KeyKind) -> (TempDir, Initialised) {
        let folder = TempDir::new().expect("a folder");
        let made = init(&folder.path().join("pki"), "Test", key, None).expect("an authority");
        (folder, made)
    }

    fn issue_for(folder: &TempDir, ids: &[Identification], key: KeyKind) -> Result<Issued, PkiError> {
        let (dir, prefix) = (folder.path().join("pki"), folder.path().join("gw.example"));
        issue(&Issue { dir: &dir, ids, days: 30, key, prefix: &prefix, crl_url: None })
    }

    fn pem(path: &Path) -> Vec<u8> {
        std::fs::read(path).expect("a file")
    }

    /// As a peer would: up to the root, by way of the chain file alone.
    fn verifies(made: &Initialised, issued: &Issued, id: &Identification) -> bool {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem(&issued.chain))
            .collect::<Result<_, _>>()
            .expect("certificates");
        let (leaf, rest) = chain.split_first().expect("a certificate");
        let anchors = TrustAnchors::from_pem(&pem(&made.root)).expect("the root");
        verify_chain(leaf, rest, &anchors, UnixTime::now()).is_ok_and(|verified| verified.matches(id))
    }

    #[test]
    fn what_is_issued_verifies_below_its_own_root_only() {
        let ids = [id("gw.example"), id("198.51.100.2"), id("2001:db8::1"), id("ops@gw.example")];
        for key in [KeyKind::EcP256, KeyKind::EcP384, KeyKind::Ed25519] {
            let (folder, made) = authority(key);
            let (_other_folder, other) = authority(key);
            let issued = issue_for(&folder, &ids, key).expect("a certificate");
            for id in &ids {
                assert!(verifies(&made, &issued, id), "{id}");
                assert!(!verifies(&other, &issued, id), "{id}");
            }
            assert!(!verifies(&made, &issued, &id("other.example")));
        }
    }

    #[test]
    fn rsa_keys() {
        let (folder, made) = authority(KeyKind::Rsa { bits: 2048 });
        let issued =
            issue_for(&folder, &[id("gw.example")], KeyKind::Rsa { bits: 2048 }).expect("a certificate");
        assert!(verifies(&made, &issued, &id("gw.example")));
        assert!(show(&issued.key).expect("a key").contains("RSA 2048"));
    }

    #[test]
    fn keys_are_for_their_owner_only() {
        let (folder, made) = authority(KeyKind::EcP256);
        let issued = issue_for(&folder, &[id("gw.example")], KeyKind::EcP256).expect("a certificate");
        for key in [&made.root_key, &made.intermediate_key, &issued.key] {
            let mode = key.metadata().expect("a file").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", key.display());
        }
        assert!(issued.key.ends_with("gw.example.key.pem"), "the dot belongs to the name");
    }

    #[test]
    fn nothing_is_overwritten() {
        let (folder, made) = authority(KeyKind::EcP256);
        let issued = issue_for(&folder, &[id("gw.example")], KeyKind::EcP256).expect("a certificate");
        let before = (pem(&made.root_key), pem(&issued.key));
        let again = init(&folder.path().join("pki"), "Test", KeyKind::EcP256, None);
        assert!(matches!(again, Err(PkiError::Exists(_))), "{again:?}");
        let again = issue_for(&folder, &[id("gw.example")], KeyKind::EcP256);
        assert!(matches!(again, Err(PkiError::Exists(_))), "{again:?}");
        assert_eq!(before, (pem(&made.root_key), pem(&issued.key)));
    }

    #[test]
    fn what_cannot_be_issued() {
        let (folder, _) = authority(KeyKind::EcP256);
        let named = issue_for(&folder, &[id("C=JP, CN=gw")], KeyKind::EcP256);
        assert!(matches!(named, Err(PkiError::Identity(_))), "{named:?}");
        assert!(matches!(issue_for(&folder, &[], KeyKind::EcP256), Err(PkiError::NoIdentity)));
        let (dir, prefix, ids) = (folder.path().join("pki"), folder.path().join("long"), [id("gw.example")]);
        let long = issue(&Issue {
            dir: &dir,
            ids: &ids,
            days: u32::MAX,
            key: KeyKind::EcP256,
            prefix: &prefix,
            crl_url: None,
        });
        assert!(matches!(long, Err(PkiError::Outlives(_))), "{long:?}");
        let nowhere = issue(&Issue {
            dir: folder.path(),
            ids: &ids,
            days: 1,
            key: KeyKind::EcP256,
            prefix: &prefix,
            crl_url: None,
        });
        assert!(matches!(nowhere, Err(PkiError::NoAuthority { .. })), "{nowhere:?}");
        assert!(!folder.path().join("long.key.pem").exists(), "a refusal leaves no key behind");
    }

    #[test]
    fn what_is_shown_of_a_certificate_and_of_a_key() {
        let (folder, _) = authority(KeyKind::EcP256);
        let issued =
            issue_for(&folder, &[id("gw.example"), id("198.51.100.2")], KeyKind::EcP256).expect("both");
        let chain = show(&issued.chain).expect("a chain");
        for part in
            ["CN=gw.example", "identity     198.51.100.2", "ipsecIKE", "ECDSA P-256", "CA certificate"]
        {
            assert!(chain.contains(part), "{part} in\n{chain}");
        }
        let key = show(&issued.key).expect("a key");
        let secret = String::from_utf8(pem(&issued.key)).expect("text");
        assert!(
            secret.lines().filter(|line| !line.starts_with('-')).all(|line| !key.contains(line)),
            "{key}"
        );
    }
}
