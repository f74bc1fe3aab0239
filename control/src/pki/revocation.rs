//! Revoking certificates, and publishing it: a list of serial numbers in the authority's folder, and CRLs made from it.
//!
//! `revoked` has a line for each certificate: issuer (`root` or `intermediate`), serial number, time (seconds since 1970),
//! reason. It is only ever added to.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use der::{Decode, Encode};
use rcgen::{
    CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevocationReason, RevokedCertParams,
    SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_cert::Certificate;

use super::PkiError;
use super::authority::{CLOCK_SKEW, DAY, INTERMEDIATE, ROOT, read_authority};
use super::file::{at, with_suffix};

const LIST: &str = "revoked";
const CRL_SUFFIX: &str = "crl";

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The intermediate's CRL, DER: about the gateways' certificates.
    pub intermediate: PathBuf,
    /// The root's CRL, DER: about the intermediate. `None` if the root's key is not here.
    pub root: Option<PathBuf>,
    /// How many certificates the intermediate's lists.
    pub revoked: usize,
}

/// Why a certificate is revoked (RFC 5280 section 5.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reason {
    /// Not said.
    #[default]
    Unspecified,
    /// Somebody else may have its key.
    KeyCompromise,
    /// Replaced by another.
    Superseded,
    /// Its gateway is no more.
    CessationOfOperation,
}

impl Reason {
    const ALL: [Reason; 4] =
        [Self::Unspecified, Self::KeyCompromise, Self::Superseded, Self::CessationOfOperation];

    const fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "key-compromise",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessation-of-operation",
        }
    }

    /// In a CRL. RFC 5280 has "unspecified" left out.
    const fn code(self) -> Option<RevocationReason> {
        match self {
            Self::Unspecified => None,
            Self::KeyCompromise => Some(RevocationReason::KeyCompromise),
            Self::Superseded => Some(RevocationReason::Superseded),
            Self::CessationOfOperation => Some(RevocationReason::CessationOfOperation),
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Reason {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|reason| reason.name() == text);
        found.ok_or_else(|| format!("expected one of {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// One line of the list.
struct Entry {
    issuer: String,
    serial: Vec<u8>,
    time: SystemTime,
    reason: Reason,
}

/// Revokes the first certificate in a PEM file, which the authority in `dir` must have issued, and writes the CRLs anew,
/// good for so many days.
pub fn revoke(dir: &Path, certificate: &Path, reason: Reason, days: u32) -> Result<Published, PkiError> {
    let unreadable = |why: String| PkiError::Unreadable { path: certificate.to_owned(), why };
    let pem = std::fs::read(certificate).map_err(at(certificate))?;
    let der = CertificateDer::from_pem_slice(&pem).map_err(|error| unreadable(error.to_string()))?;
    let parsed = Certificate::from_der(&der).map_err(|error| unreadable(error.to_string()))?;
    let issuer_name =
        parsed.tbs_certificate().issuer().to_der().map_err(|error| unreadable(error.to_string()))?;
    let issuer = [INTERMEDIATE, ROOT].into_iter().find(|issuer| {
        issuer_of(dir, issuer)
            .is_ok_and(|(certificate, _)| subject(&certificate).as_ref() == Some(&issuer_name))
    });
    let Some(issuer) = issuer else { return Err(PkiError::NotIssuedHere(certificate.to_owned())) };
    let serial = parsed.tbs_certificate().serial_number().as_bytes().to_vec();
    let known = read_list(dir)?;
    if !known.iter().any(|entry| entry.issuer == issuer && entry.serial == serial) {
        let entry = Entry { issuer: issuer.to_owned(), serial, time: SystemTime::now(), reason };
        append(dir, &entry)?;
    }
    publish(dir, days)
}

/// Writes the CRLs anew, good for so many days: they must be renewed before.
pub fn publish(dir: &Path, days: u32) -> Result<Published, PkiError> {
    let entries = read_list(dir)?;
    let intermediate = write_crl(dir, INTERMEDIATE, &entries, days)?;
    // The root's key may be kept elsewhere.
    let root = match dir.join(with_suffix(Path::new(ROOT), "key.pem")).exists() {
        true => Some(write_crl(dir, ROOT, &entries, days)?),
        false => None,
    };
    let revoked = entries.iter().filter(|entry| entry.issuer == INTERMEDIATE).count();
    Ok(Published { intermediate, root, revoked })
}

fn write_crl(dir: &Path, issuer: &str, entries: &[Entry], days: u32) -> Result<PathBuf, PkiError> {
    let (certificate, key) = issuer_of(dir, issuer)?;
    let signer = Issuer::from_ca_cert_der(&certificate, KeyPair::from_pem(&key)?)?;
    let now = SystemTime::now();
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let of_issuer = entries.iter().filter(|entry| entry.issuer == issuer);
    let params = CertificateRevocationListParams {
        this_update: (now - CLOCK_SKEW).into(),
        next_update: (now + DAY * days).into(),
        // Grows with every CRL, also of two within a second.
        crl_number: SerialNumber::from(u64::try_from(since.as_micros()).unwrap_or(u64::MAX)),
        issuing_distribution_point: None,
        revoked_certs: of_issuer
            .map(|entry| RevokedCertParams {
                serial_number: SerialNumber::from(entry.serial.clone()),
                revocation_time: entry.time.into(),
                reason_code: entry.reason.code(),
                invalidity_date: None,
            })
            .collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let crl = params.signed_by(&signer)?;
    // Whoever reads it has the old one whole or the new one whole.
    let path = with_suffix(&dir.join(issuer), CRL_SUFFIX);
    let draft = with_suffix(&path, "new");
    let mut file = File::create(&draft).map_err(at(&draft))?;
    file.write_all(crl.der()).and_then(|()| file.sync_all()).map_err(at(&draft))?;
    std::fs::rename(&draft, &path).map_err(at(&path))?;
    Ok(path)
}

/// An authority's certificate, and its key in PEM.
fn issuer_of(
    dir: &Path,
    issuer: &str,
) -> Result<(CertificateDer<'static>, zeroize::Zeroizing<String>), PkiError> {
    let (certificate, key) = match issuer {
        ROOT => ("root.crt.pem", "root.key.pem"),
        _ => ("intermediate.crt.pem", "intermediate.key.pem"),
    };
    let pem = read_authority(dir, certificate)?;
    let unreadable = |why: String| PkiError::Unreadable { path: dir.join(certificate), why };
    let der =
        CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| unreadable(error.to_string()))?;
    Ok((der.into_owned(), read_authority(dir, key)?))
}

fn subject(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    Certificate::from_der(certificate).ok()?.tbs_certificate().subject().to_der().ok()
}

fn read_list(dir: &Path) -> Result<Vec<Entry>, PkiError> {
    let path = dir.join(LIST);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(at(&path)(error)),
    };
    let parse = |(number, line): (usize, &str)| {
        parse_line(line).ok_or_else(|| PkiError::Unreadable {
            path: path.clone(),
            why: format!(
                "line {} is no revoked certificate; restore the file, for nobody listed may be lost",
                number + 1
            ),
        })
    };
    text.lines().enumerate().map(parse).collect()
}

fn parse_line(line: &str) -> Option<Entry> {
    let words: Vec<&str> = line.split(' ').collect();
    let [issuer @ (ROOT | INTERMEDIATE), serial, time, reason] = words[..] else { return None };
    let (pairs, []) = serial.as_bytes().as_chunks::<2>() else { return None };
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    Some(Entry {
        issuer: issuer.to_owned(),
        serial: pairs.iter().map(byte).collect::<Option<Vec<u8>>>().filter(|serial| !serial.is_empty())?,
        time: UNIX_EPOCH.checked_add(Duration::from_secs(time.parse().ok()?))?,
        reason: reason.parse().ok()?,
    })
}

fn append(dir: &Path, entry: &Entry) -> Result<(), PkiError> {
    let path = dir.join(LIST);
    let mut line = format!("{} ", entry.issuer);
    for byte in &entry.serial {
        // Writing to a String does not fail.
        let _ = write!(line, "{byte:02x}");
    }
    let since = entry.time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let _ = writeln!(line, " {} {}", since.as_secs(), entry.reason);
    let mut file = File::options().create(true).append(true).open(&path).map_err(at(&path))?;
    file.write_all(line.as_bytes()).and_then(|()| file.sync_all()).map_err(at(&path))
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::UnixTime;
    use sekisho_ike::crypto::x509::{CertificateError, RevocationPolicy, TrustAnchors, verify_chain};
    use tempfile::TempDir;

    use super::*;
    use crate::pki::{Issue, KeyKind, init, issue};

    fn judged(folder: &Path, chain: &Path) -> Result<(), CertificateError> {
        let dir = folder.join("pki");
        let read = |path: PathBuf| std::fs::read(path).expect("a file");
        let crls = [read(dir.join("intermediate.crl")), read(dir.join("root.crl"))];
        let anchors = TrustAnchors::from_pem(&read(dir.join("root.crt.pem"))).expect("the root");
        let anchors = anchors.with_crls(&crls, RevocationPolicy::Strict).expect("CRLs");
        let pem = read(chain.to_owned());
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().expect("certificates");
        let (leaf, rest) = chain.split_first().expect("one");
        verify_chain(leaf, rest, &anchors, UnixTime::now()).map(|_| ())
    }

    #[test]
    fn who_is_revoked_is_refused_and_nobody_else() {
        for key in [KeyKind::EcP256, KeyKind::Ed25519] {
            let folder = TempDir::new().expect("a folder");
            let dir = folder.path().join("pki");
            init(&dir, "Test", key, None).expect("an authority");
            let make = |name: &str| {
                let prefix = folder.path().join(name);
                let ids = [format!("{name}.example").parse().expect("identity")];
                let request = Issue { dir: &dir, ids: &ids, days: 30, key, prefix: &prefix, crl_url: None };
                issue(&request).expect("a certificate").chain
            };
            let (lost, kept) = (make("lost"), make("kept"));
            assert_eq!(publish(&dir, 7).expect("CRLs").revoked, 0);
            assert!(judged(folder.path(), &lost).is_ok());
            for _ in 0..2 {
                let published = revoke(&dir, &lost, Reason::KeyCompromise, 7).expect("revoked");
                assert_eq!(published.revoked, 1, "once is enough");
            }
            let refused = judged(folder.path(), &lost);
            assert!(matches!(refused, Err(CertificateError::Revoked { .. })), "{refused:?}");
            assert!(judged(folder.path(), &kept).is_ok());
            // The intermediate itself.
            revoke(&dir, &dir.join("intermediate.crt.pem"), Reason::Superseded, 7).expect("revoked");
            let refused = judged(folder.path(), &kept);
            assert!(matches!(refused, Err(CertificateError::Revoked { .. })), "{refused:?}");
        }
    }

    #[test]
    fn what_another_authority_issued_is_not_revoked_here() {
        let folder = TempDir::new().expect("a folder");
        let (ours, other) = (folder.path().join("a"), folder.path().join("b"));
        init(&ours, "Ours", KeyKind::EcP256, None).expect("an authority");
        init(&other, "Other", KeyKind::EcP256, None).expect("an authority");
        let refused = revoke(&ours, &other.join("intermediate.crt.pem"), Reason::Unspecified, 7);
        assert!(matches!(refused, Err(PkiError::NotIssuedHere(_))), "{refused:?}");
        std::fs::write(ours.join(LIST), "intermediate zz 0 unspecified\n").expect("written");
        let refused = publish(&ours, 7);
        assert!(
            matches!(refused, Err(PkiError::Unreadable { .. })),
            "a broken list is never taken as empty: {refused:?}"
        );
    }
}
