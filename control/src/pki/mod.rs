//! A small certification authority for gateways: `sekisho pki`.
//!
//! A root signs one intermediate, the intermediate signs the gateways' certificates; afterwards the root's key can be
//! kept elsewhere. Everything is PEM in one folder. A private key is created readable by its owner only, and no file is
//! ever overwritten.
//!
//! Files: `root.crt.pem`, `root.key.pem`, `intermediate.crt.pem`, `intermediate.key.pem`; for a gateway
//! `PREFIX.crt.pem` (its certificate, then the intermediate's) and `PREFIX.key.pem`. What is revoked is listed in `revoked`
//! and published in `intermediate.crl` and `root.crl`, which are written anew each time.

#![forbid(unsafe_code)]

mod authority;
mod file;
mod key;
mod revocation;
mod show;

use std::path::PathBuf;
use std::time::SystemTime;

use sekisho_ike::wire::id::Identification;

pub use authority::{Initialised, Issue, Issued, init, issue};
pub use key::KeyKind;
pub use revocation::{Published, Reason, publish, revoke};
pub use show::show;

/// Why a certificate was not made or not shown.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// There is one already.
    #[error("{} exists and is not overwritten; choose another name or move it away", .0.display())]
    Exists(PathBuf),
    /// A file cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// The folder holds no authority.
    #[error("{} holds no certification authority ({missing} is missing); make one with `sekisho pki init`", dir.display())]
    NoAuthority {
        /// The folder.
        dir: PathBuf,
        /// What is not there.
        missing: &'static str,
    },
    /// It cannot be revoked here.
    #[error(
        "{} was not issued by the authority in this folder; only the one that issued it can revoke it",
        .0.display()
    )]
    NotIssuedHere(PathBuf),
    /// Such an identity cannot stand in a certificate that is made here.
    #[error("{0} cannot be put into a certificate here; use a domain name, an address or an e-mail address")]
    Identity(Identification),
    /// Without an identity a certificate proves nothing.
    #[error("a certificate needs at least one identity; give it with --id")]
    NoIdentity,
    /// The certificate would outlive its issuer's.
    #[error(
        "the intermediate certificate ends on {}, before the new one would; issue for fewer days or make a new \
         authority",
        humantime::format_rfc3339_seconds(*.0)
    )]
    Outlives(SystemTime),
    /// No certificate or key in a file.
    #[error("{}: {why}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A key could not be made.
    #[error("no key could be made: {0}")]
    Key(String),
    /// A certificate could not be made.
    #[error("the certificate could not be made: {0}")]
    Certificate(#[from] rcgen::Error),
}
