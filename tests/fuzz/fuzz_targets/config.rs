//! A gateway's configuration file: any text.
//!
//! Asserts: it is accepted whole or refused with at least one error; every finding has a remedy, stands at a place in the
//! file, and can be shown; what is accepted can be turned into what the kernel and the engines work from.
#![no_main]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use sekisho::config::{Diagnostic, Loaded, Severity, check};
use sekisho::policy;
use sekisho_fuzz::pki::{CLINIC_KEY_PEM, CLINIC_PEM, PKI, ROOT_PEM};

/// Where the configuration pretends to be: beside certificates and keys that it may name.
static PLACE: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join("sekisho-fuzz-config");
    fs::create_dir_all(&folder).expect("a folder");
    let psk = b"kWm0Yh3v9Q2xTz7LrB5nJc8D".as_slice();
    let files = [
        ("root.crt.pem", ROOT_PEM),
        ("clinic.crt.pem", CLINIC_PEM),
        ("clinic.key.pem", CLINIC_KEY_PEM),
        ("psk", psk),
    ];
    for (name, bytes) in files {
        let path = folder.join(name);
        fs::write(&path, bytes).expect("a file");
        // Secrets that others may read are refused.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
    }
    folder.join("gateway.toml")
});

fuzz_target!(|source: &str| {
    // Opening a device may do more than fail.
    if ["/dev", "/proc", "/sys"].iter().any(|folder| source.contains(folder)) {
        return;
    }
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(PKI.now.as_secs());
    match check(&PLACE, source, now) {
        Ok(Loaded { config, warnings }) => {
            assert!(warnings.iter().all(|warning| warning.severity == Severity::Warning));
            show(source, &warnings);
            assert!(!config.networks().is_empty());
            let _ = policy::compile(&policy::Rules::all(&config.policies, &config.sets));
            let _ = policy::unreachable(&config.policies, &config.sets);
            if let Err(error) = config.ike() {
                assert!(!error.to_string().is_empty());
            }
        }
        Err(findings) => {
            assert!(findings.iter().any(|finding| finding.severity == Severity::Error));
            show(source, &findings);
        }
    }
});

fn show(source: &str, findings: &[Diagnostic]) {
    // An empty file has a first line too.
    let lines = source.split('\n').count().max(1);
    for finding in findings {
        assert!(finding.line <= lines, "line {} of {lines}", finding.line);
        assert!(!finding.message.is_empty() && !finding.remedy.is_empty());
        assert!(!finding.render(false).is_empty() && !finding.render(true).is_empty());
        assert!(!finding.line().is_empty());
    }
}
