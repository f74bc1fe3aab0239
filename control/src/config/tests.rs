//! Every check with the place it reports: a good configuration, one edit, the finding. `¦` in an edit marks where the
//! finding must stand.

mod connections;
mod credentials;
mod examples;
mod file;
mod gateway;
mod nat;
mod policies;
mod pools;
mod ports;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use sekisho_abi::port::network_kind;
use tempfile::TempDir;

use super::*;
use crate::pki::{self, Issue, KeyKind};

const CLINIC: &str = include_str!("../../examples/clinic.toml");
const CENTRE: &str = include_str!("../../examples/centre.toml");
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A folder with everything that the examples name, and some files that are wrong.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = TempDir::new().expect("a folder");
    let dir = folder.path();
    let authority = dir.join("pki");
    pki::init(&authority, "Test", KeyKind::EcP256, None).expect("an authority");
    pki::publish(&authority, 14).expect("CRLs");
    for name in ["clinic", "centre"] {
        let ids = [format!("{name}.example").parse().expect("an identity")];
        let prefix = dir.join(name);
        let request = Issue {
            dir: &authority,
            ids: &ids,
            days: 365,
            key: KeyKind::EcP256,
            prefix: &prefix,
            crl_url: None,
        };
        pki::issue(&request).expect("a certificate");
    }
    fs::copy(authority.join("root.crt.pem"), dir.join("root.crt.pem")).expect("the root");
    write(dir, "good.psk", b"7vJ#kd93mXq0pL2zRt8w\n", 0o600);
    write(dir, "short.psk", b"hunter2", 0o600);
    write(dir, "dull.psk", b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 0o600);
    write(dir, "repeated.psk", b"abcdefghijabcdefghijabcdefghij", 0o600);
    write(dir, "open.psk", b"7vJ#kd93mXq0pL2zRt8w", 0o644);
    write(dir, "empty.pem", b"", 0o600);
    let key = fs::read(dir.join("clinic.key.pem")).expect("the key");
    write(dir, "open.key.pem", &key, 0o644);
    short_rsa(dir, &authority);
    folder
});

/// A certificate for a key that is too short, which no tool here would issue.
fn short_rsa(dir: &Path, authority: &Path) {
    use rsa::pkcs8::EncodePublicKey;
    let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 1024).expect("a key");
    let public = key.to_public_key().to_public_key_der().expect("its public half");
    let subject = rcgen::SubjectPublicKeyInfo::from_der(public.as_bytes()).expect("its public half");
    let read = |name: &str| fs::read_to_string(authority.join(name)).expect("the authority");
    let signer = rcgen::KeyPair::from_pem(&read("intermediate.key.pem")).expect("its key");
    let issuer = rcgen::Issuer::from_ca_cert_pem(&read("intermediate.crt.pem"), signer).expect("an issuer");
    let mut params = rcgen::CertificateParams::new(["clinic.example".to_owned()]).expect("parameters");
    params.not_after = (SystemTime::now() + DAY * 365).into();
    let certificate = params.signed_by(&subject, &issuer).expect("a certificate");
    write(dir, "short-rsa.crt.pem", certificate.pem().as_bytes(), 0o600);
}

fn write(dir: &Path, name: &str, bytes: &[u8], mode: u32) {
    let path = dir.join(name);
    fs::write(&path, bytes).expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode");
}

fn check_at(source: &str, now: SystemTime) -> Result<Loaded, Vec<Diagnostic>> {
    check(&FOLDER.path().join("gateway.toml"), source, now)
}

fn check_now(source: &str) -> Result<Loaded, Vec<Diagnostic>> {
    check_at(source, SystemTime::now())
}

fn good(source: &str) -> Config {
    match check_now(source) {
        Ok(loaded) if loaded.warnings.is_empty() => loaded.config,
        Ok(loaded) => panic!("{:#?}", loaded.warnings),
        Err(findings) => panic!("{}", findings.iter().map(Diagnostic::to_string).collect::<String>()),
    }
}

/// The example with one edit; its text, and where the mark stood.
fn edited(source: &str, from: &str, to: &str) -> (String, (usize, usize)) {
    assert!(source.contains(from), "the example has no {from:?}");
    assert!(to.contains('¦'), "{to:?} marks no place");
    let marked = source.replacen(from, to, 1);
    let before = marked.split('¦').next().expect("a part before the mark");
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().expect("a line").chars().count() + 1;
    (marked.replace('¦', ""), (line, column))
}

/// The finding at the mark, which must say what it is about and what to do.
fn finding(findings: &[Diagnostic], place: (usize, usize), message: &str, severity: Severity) -> Diagnostic {
    let found = findings.iter().find(|finding| {
        (finding.line, finding.column) == place
            && finding.message.contains(message)
            && finding.severity == severity
    });
    let found = found.unwrap_or_else(|| {
        let all: Vec<String> = findings.iter().map(Diagnostic::line).collect();
        panic!("no {severity:?} {message:?} at {place:?} among\n{}", all.join("\n"))
    });
    assert!(!found.remedy.is_empty());
    found.clone()
}

/// The edit makes exactly one error, at the mark.
#[track_caller]
fn refuses(from: &str, to: &str, message: &str) -> Diagnostic {
    let (source, place) = edited(CLINIC, from, to);
    let findings = check_now(&source).expect_err("the edit is an error");
    let found = finding(&findings, place, message, Severity::Error);
    let others: Vec<String> = findings
        .iter()
        .filter(|f| f.severity == Severity::Error && **f != found)
        .map(Diagnostic::line)
        .collect();
    assert!(others.is_empty(), "{}", others.join("\n"));
    found
}

/// As [`refuses`], where one mistake shows at several places.
#[track_caller]
fn refuses_among_others(from: &str, to: &str, message: &str) -> Diagnostic {
    let (source, place) = edited(CLINIC, from, to);
    finding(&check_now(&source).expect_err("the edit is an error"), place, message, Severity::Error)
}

/// The edit is taken, with a warning at the mark.
#[track_caller]
fn warns(from: &str, to: &str, message: &str) -> Diagnostic {
    let (source, place) = edited(CLINIC, from, to);
    let loaded = check_now(&source).expect("the edit is no error");
    finding(&loaded.warnings, place, message, Severity::Warning)
}

const CHILD_LOCAL: &str =
    "local = [\"192.168.1.0/24\", \"192.168.2.0/24\", \"fd00:1::/64\", \"fd00:2::/64\"]";
const CHILD_REMOTE: &str = "remote = [\"10.2.0.0/24\", \"fd00:c::/64\"]";
