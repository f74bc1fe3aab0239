//! Certificates, keys and pre-shared keys: read from their files, and checked before a peer finds fault with them.

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use der::{Decode, Encode};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sekisho_ike::crypto::signature::{PrivateKey, PrivateKeyError};
use sekisho_ike::crypto::x509::MAX_CRL_BYTES;
use sekisho_ike::wire::id::Identification;
use toml::Spanned;
use x509_cert::Certificate;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, SubjectAltName};
use zeroize::Zeroizing;

use super::diagnostic::Report;

/// Fewest bytes of a pre-shared key. RFC 7296 section 2.15 asks for as much randomness as the strongest key it
/// guards: 128 bits take 20 characters out of 94.
const PSK_BYTES_MIN: usize = 20;
/// Fewest different bytes in one; 20 random hexadecimal digits have fewer once in some ten thousand keys.
const PSK_VARIETY_MIN: usize = 8;
/// Longest file of a credential in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// From this time before its end on, a certificate is warned of.
const SOON: Duration = Duration::from_secs(30 * 24 * 3600);

/// Why a credential cannot be used. The file is at fault.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The file cannot be read.
    #[error("{} cannot be read: {error}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// Not a file, or far too long.
    #[error("{} is no file of at most {most} bytes", path.display())]
    NotAFile {
        /// Which.
        path: PathBuf,
        /// Its longest.
        most: u64,
    },
    /// A secret that others may read.
    #[error("{} can be read by every user of this host (mode {mode:04o})", path.display())]
    Exposed {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A pre-shared key that can be guessed.
    #[error("the pre-shared key in {} is weak: {why}", path.display())]
    WeakPsk {
        /// Which.
        path: PathBuf,
        /// In what way.
        why: String,
    },
    /// No private key.
    #[error("{}: {error}", path.display())]
    Key {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        error: PrivateKeyError,
    },
    /// No CRL.
    #[error("{}: {why}", path.display())]
    Crl {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// No certificate.
    #[error("{} holds no readable certificate: {why}", path.display())]
    Certificate {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

impl CredentialError {
    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::Unreadable { error, .. } if error.kind() == std::io::ErrorKind::NotFound => {
                "names are relative to the configuration's folder; `sekisho pki issue` makes certificates and keys".into()
            }
            Self::Unreadable { .. } => "make it readable for the daemon's user".into(),
            Self::NotAFile { .. } => "name the file itself".into(),
            Self::Exposed { path, .. } => format!(
                "chmod 600 {}; if other users had access to this host, replace the secret",
                path.display()
            ),
            Self::WeakPsk { .. } => "make a random one: `openssl rand -base64 32`, or use certificates".into(),
            Self::Key { .. } => "`sekisho pki issue` makes keys that fit".into(),
            Self::Crl { .. } => {
                "name a file with the CRL of the peer's CA, DER or PEM, as `sekisho pki crl` writes it".into()
            }
            Self::Certificate { .. } => "the file must be PEM, with a \"CERTIFICATE\" section".into(),
        }
    }
}

/// The pre-shared key in a file: its bytes without a line end behind them.
pub(super) fn load_psk(path: &Path) -> Result<Zeroizing<Vec<u8>>, CredentialError> {
    let mut psk = read_secret(path)?;
    if psk.last() == Some(&b'\n') {
        psk.pop();
        if psk.last() == Some(&b'\r') {
            psk.pop();
        }
    }
    match weakness(&psk) {
        Some(why) => Err(CredentialError::WeakPsk { path: path.to_owned(), why }),
        None => Ok(psk),
    }
}

/// The private key in a PEM file.
pub(super) fn load_key(path: &Path) -> Result<PrivateKey, CredentialError> {
    let pem = read_secret(path)?;
    PrivateKey::from_pem(&pem).map_err(|error| CredentialError::Key { path: path.to_owned(), error })
}

/// The certificates in a PEM file, in their order, at least one.
pub(super) fn load_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
    let unreadable = |why: String| CredentialError::Certificate { path: path.to_owned(), why };
    let (pem, _) = read_file(path)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| unreadable(error.to_string()))?;
    if chain.is_empty() {
        return Err(unreadable("it has no \"CERTIFICATE\" section".into()));
    }
    Ok(chain)
}

/// The bytes of a file with CRLs.
pub(super) fn load_crl(path: &Path) -> Result<Vec<u8>, CredentialError> {
    let (bytes, _) = read_bounded(path, MAX_CRL_BYTES as u64)?;
    Ok(bytes.to_vec())
}

pub(super) fn check_psk(path: &Spanned<PathBuf>, report: &Report) {
    match load_psk(path.get_ref()) {
        Ok(_) => {}
        // Someone may have written the key itself where the name of its file belongs.
        Err(CredentialError::Unreadable { error, .. }) => report
            .error(path.span(), format!("the file named in `psk` cannot be read: {error}"))
            .secret()
            .remedy("`psk` names a file, relative to the configuration's folder; the key itself must not stand here"),
        Err(error) => refuse(path, &error, report),
    }
}

/// Checks a certificate chain, its key and the identity they shall prove.
pub(super) fn check_certificate(
    path: &Spanned<PathBuf>,
    key: &Spanned<PathBuf>,
    id: Option<&Identification>,
    now: SystemTime,
    report: &Report,
) {
    let private = load_key(key.get_ref()).map_err(|error| refuse(key, &error, report)).ok();
    let Some(chain) = parse_chain(path, report) else { return };
    let Some((leaf, issuers)) = chain.split_first() else { return };
    check_validity(leaf, "the certificate", path, now, report);
    for issuer in issuers {
        check_validity(issuer, "an intermediate certificate in this file", path, now, report);
    }
    check_rsa_size(leaf, path, report);
    if let Some(private) = private {
        check_match(leaf, &private, path, key, report);
    }
    if let Some(id) = id
        && !carries(leaf, id)
    {
        report
            .error(path.span(), format!("the certificate does not carry the identity {id}"))
            .expected(format!("it carries {}", identities(leaf)))
            .remedy("set `id` to one that the certificate carries, or issue one: `sekisho pki issue --id …`");
    }
}

/// Checks a bundle of CA certificates.
pub(super) fn check_ca(path: &Spanned<PathBuf>, now: SystemTime, report: &Report) {
    let Some(bundle) = parse_chain(path, report) else { return };
    for certificate in &bundle {
        check_validity(certificate, "the CA certificate", path, now, report);
        check_rsa_size(certificate, path, report);
        let constraints = certificate.tbs_certificate().get_extension::<BasicConstraints>();
        if !matches!(constraints, Ok(Some((_, BasicConstraints { ca: true, .. })))) {
            report
                .error(
                    path.span(),
                    format!(
                        "{} is no CA certificate: {}",
                        path.get_ref().display(),
                        certificate.tbs_certificate().subject()
                    ),
                )
                .expected("expected certificates with basicConstraints CA:TRUE (RFC 5280 section 4.2.1.9)")
                .remedy(
                    "name the file of the CA that issued the peer's certificate, not the peer's certificate",
                );
        }
    }
}

fn parse_chain(path: &Spanned<PathBuf>, report: &Report) -> Option<Vec<Certificate>> {
    let parse = |der: &CertificateDer<'_>| {
        Certificate::from_der(der).map_err(|error| CredentialError::Certificate {
            path: path.get_ref().clone(),
            why: error.to_string(),
        })
    };
    let chain = load_certificates(path.get_ref()).and_then(|chain| chain.iter().map(parse).collect());
    chain.map_err(|error| refuse(path, &error, report)).ok()
}

fn refuse(path: &Spanned<PathBuf>, error: &CredentialError, report: &Report) {
    report.error(path.span(), error.to_string()).remedy(error.remedy());
}

fn check_validity(
    certificate: &Certificate,
    what: &str,
    path: &Spanned<PathBuf>,
    now: SystemTime,
    report: &Report,
) {
    let validity = certificate.tbs_certificate().validity();
    let (from, until) = (validity.not_before.to_system_time(), validity.not_after.to_system_time());
    let show = |time| humantime::format_rfc3339_seconds(time).to_string();
    if now < from {
        report
            .error(path.span(), format!("{what} is not valid before {}", show(from)))
            .expected(format!("now it is {}", show(now)))
            .remedy("is this host's clock right? else issue the certificate anew");
    } else if now > until {
        report
            .error(path.span(), format!("{what} has expired on {}", show(until)))
            .expected(format!("now it is {}", show(now)))
            .remedy("issue a new one (`sekisho pki issue`), and reload");
    } else if until.duration_since(now).is_ok_and(|left| left < SOON) {
        report
            .warning(path.span(), format!("{what} expires on {}", show(until)))
            .remedy("issue a new one (`sekisho pki issue`), and reload");
    }
}

fn check_rsa_size(certificate: &Certificate, path: &Spanned<PathBuf>, report: &Report) {
    const RSA_ENCRYPTION: der::asn1::ObjectIdentifier =
        der::asn1::ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
    let info = certificate.tbs_certificate().subject_public_key_info();
    if info.algorithm.oid != RSA_ENCRYPTION {
        return;
    }
    let bits = info.subject_public_key.as_bytes().and_then(modulus_bits).unwrap_or(0);
    if bits < 2048 {
        report
            .error(path.span(), format!("an RSA key of {bits} bits is too short"))
            .expected("expected at least 2048 bits (RFC 8247 section 4.1)")
            .remedy(
                "issue a new certificate with `sekisho pki issue --rsa 3072`, or without `--rsa` for ECDSA",
            );
    }
}

/// Bits of the modulus of an RSAPublicKey (RFC 8017 appendix A.1.1).
fn modulus_bits(rsa_public_key: &[u8]) -> Option<usize> {
    let numbers = Vec::<der::asn1::Uint>::from_der(rsa_public_key).ok()?;
    let modulus = numbers.first()?.as_bytes();
    Some(modulus.len() * 8 - modulus.first()?.leading_zeros() as usize)
}

fn check_match(
    leaf: &Certificate,
    private: &PrivateKey,
    path: &Spanned<PathBuf>,
    key: &Spanned<PathBuf>,
    report: &Report,
) {
    let certified = leaf.tbs_certificate().subject_public_key_info();
    let ours = x509_cert::spki::SubjectPublicKeyInfoOwned::from_der(private.public_key().spki_der());
    if !ours.is_ok_and(|ours| ours.subject_public_key == certified.subject_public_key) {
        report
            .error(key.span(), format!("this key ({}) is not the certificate's", private.algorithm()))
            .related(path.span(), "the certificate")
            .remedy("name the key that was made with the certificate; its file name usually says so");
    }
}

/// Whether the certificate carries the identity (RFC 4945 section 3.1); never by common name.
fn carries(certificate: &Certificate, id: &Identification) -> bool {
    if let Some(name) = id.as_distinguished_name() {
        return certificate.tbs_certificate().subject().to_der().is_ok_and(|subject| subject == name);
    }
    alternative_names(certificate).iter().any(|name| match name {
        GeneralName::DnsName(dns) => id.as_fqdn().is_some_and(|fqdn| fqdn.eq_ignore_ascii_case(dns.as_str())),
        GeneralName::Rfc822Name(mailbox) => id.as_rfc822() == Some(mailbox.as_str()),
        GeneralName::IpAddress(bytes) => {
            id.as_address().is_some_and(|address| address_of(bytes.as_bytes()) == Some(address))
        }
        _ => false,
    })
}

/// What the certificate carries, for a message.
fn identities(certificate: &Certificate) -> String {
    let mut found: Vec<String> = alternative_names(certificate)
        .iter()
        .filter_map(|name| match name {
            GeneralName::DnsName(dns) => Some(dns.to_string()),
            GeneralName::Rfc822Name(mailbox) => Some(mailbox.to_string()),
            GeneralName::IpAddress(bytes) => address_of(bytes.as_bytes()).map(|address| address.to_string()),
            _ => None,
        })
        .collect();
    found.push(format!("subject \"{}\"", certificate.tbs_certificate().subject()));
    found.iter().map(|name| name.escape_debug().to_string()).collect::<Vec<_>>().join(", ")
}

fn alternative_names(certificate: &Certificate) -> Vec<GeneralName> {
    match certificate.tbs_certificate().get_extension::<SubjectAltName>() {
        Ok(Some((_, names))) => names.0,
        _ => Vec::new(),
    }
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// In what way a pre-shared key can be guessed (RFC 7296 section 2.15).
fn weakness(psk: &[u8]) -> Option<String> {
    if psk.len() < PSK_BYTES_MIN {
        return Some(format!("it has {} bytes, at least {PSK_BYTES_MIN} are needed", psk.len()));
    }
    let mut seen = [false; 256];
    for byte in psk {
        if let Some(seen) = seen.get_mut(usize::from(*byte)) {
            *seen = true;
        }
    }
    let variety = seen.iter().filter(|seen| **seen).count();
    if variety < PSK_VARIETY_MIN {
        return Some(format!("it consists of {variety} different characters"));
    }
    let repeats = |period: usize| psk.iter().zip(psk.iter().skip(period)).all(|(a, b)| a == b);
    if let Some(period) = (1..=psk.len() / 2).find(|period| repeats(*period)) {
        return Some(format!("it repeats itself every {period} bytes"));
    }
    None
}

/// A file that nobody but its owner and its group may read.
fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, CredentialError> {
    let (bytes, mode) = read_file(path)?;
    if mode & 0o007 != 0 {
        return Err(CredentialError::Exposed { path: path.to_owned(), mode });
    }
    Ok(bytes)
}

/// A file's bytes and its permission bits, both of the same open file.
fn read_file(path: &Path) -> Result<(Zeroizing<Vec<u8>>, u32), CredentialError> {
    read_bounded(path, FILE_BYTES_MAX)
}

fn read_bounded(path: &Path, most: u64) -> Result<(Zeroizing<Vec<u8>>, u32), CredentialError> {
    let unreadable = |error| CredentialError::Unreadable { path: path.to_owned(), error };
    // Non-blocking: a FIFO under this name must not hold up the daemon.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() || metadata.len() > most {
        return Err(CredentialError::NotAFile { path: path.to_owned(), most });
    }
    // Room for all of it at once: a vector that grows leaves copies of the secret behind.
    let room = usize::try_from(metadata.len()).unwrap_or(0).saturating_add(1);
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(metadata.len()).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok((bytes, metadata.mode() & 0o7777))
}
