//! A PKI made with `sekisho pki`, as an administrator makes one.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::program;
use super::settings::{CENTRE_ID, CLINIC_ID, Credentials, Side};
use crate::lab::namespace::output;

/// Which keys certificates have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// ECDSA on P-256, the default.
    Ecdsa,
    /// ECDSA on P-384.
    EcdsaP384,
    /// Ed25519.
    Ed25519,
    /// RSA with 2048 bits, the least that is accepted.
    Rsa2048,
    /// RSA with 3072 bits.
    Rsa,
    /// RSA with 4096 bits.
    Rsa4096,
}

impl KeyType {
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Ecdsa => &[],
            Self::EcdsaP384 => &["--ec", "p384"],
            Self::Ed25519 => &["--ed25519"],
            Self::Rsa2048 => &["--rsa", "2048"],
            Self::Rsa => &["--rsa"],
            Self::Rsa4096 => &["--rsa", "4096"],
        }
    }
}

/// A certification authority and what it issued.
#[derive(Clone, Debug)]
pub struct Authority {
    dir: PathBuf,
}

/// A certificate with its key.
#[derive(Clone, Debug)]
pub struct Issued {
    /// End-entity certificate and intermediates, PEM.
    pub chain: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
}

impl Authority {
    /// Makes a new root and intermediate in a new folder.
    pub fn create(dir: &Path) -> Result<Self> {
        Self::create_with(dir, "Sekisho", KeyType::Ecdsa)
    }

    /// The same under another name, with keys of this kind.
    pub fn create_with(dir: &Path, name: &str, keys: KeyType) -> Result<Self> {
        let mut command = Command::new(program("sekisho")?);
        output(command.args(["pki", "init", "--name", name, "--dir"]).arg(dir).args(keys.options()))?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Revokes a certificate; the CRL that says so.
    pub fn revoke(&self, certificate: &Path) -> Result<PathBuf> {
        let mut command = Command::new(program("sekisho")?);
        output(command.args(["pki", "revoke", "--dir"]).arg(&self.dir).arg(certificate))?;
        Ok(self.dir.join("intermediate.crl"))
    }

    /// The root certificate.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root.crt.pem")
    }

    /// Issues a certificate for an identity.
    pub fn issue(&self, id: &str, keys: KeyType, name: &str) -> Result<Issued> {
        let prefix = self.dir.join(name);
        let mut command = Command::new(program("sekisho")?);
        command.args(["pki", "issue", "--dir"]).arg(&self.dir).args(["--id", id, "--out"]).arg(&prefix);
        output(command.args(keys.options()))?;
        let with = |suffix: &str| prefix.with_file_name(format!("{name}.{suffix}.pem"));
        Ok(Issued { chain: with("crt"), key: with("key") })
    }

    /// Credentials of one of the lab's gateways whose peer is below the same root.
    pub fn credentials(&self, side: Side, keys: KeyType) -> Result<Credentials> {
        let id = match side {
            Side::Clinic => CLINIC_ID,
            Side::Centre => CENTRE_ID,
        };
        let name = format!("{}-{keys:?}", id.split('.').next().unwrap_or(id)).to_lowercase();
        let Issued { chain, key } = self.issue(id, keys, &name)?;
        Ok(Credentials::Certificates { chain, key, peer_ca: self.root() })
    }
}

/// Writes a pre-shared key that only root can read.
pub fn write_psk(path: &Path, key: &str) -> Result<Credentials> {
    let mut file = fs::File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("creating {}", path.display()))?;
    file.write_all(key.as_bytes()).with_context(|| format!("writing {}", path.display()))?;
    Ok(Credentials::Psk(path.to_owned()))
}
