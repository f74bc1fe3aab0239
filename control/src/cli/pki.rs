//! `sekisho pki`: making and looking at certificates.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use sekisho_ike::wire::id::Identification;

use crate::pki::{self, Issue, KeyKind, PkiError, Published, Reason};

/// How long CRLs are good unless told otherwise: a weekly job renews them in time.
const CRL_DAYS: u32 = 14;

/// Make and look at certificates.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a certification authority: a root and an intermediate.
    Init {
        /// Folder for its certificates and keys; made if it is not there.
        #[arg(long, value_name = "FOLDER")]
        dir: PathBuf,
        /// What the authority's name begins with.
        #[arg(long, default_value = "Sekisho")]
        name: String,
        /// Where the root's CRL will be published; stands in the intermediate certificate.
        #[arg(long, value_name = "URL", value_parser = http_url)]
        crl_url: Option<String>,
        #[command(flatten)]
        key: Key,
    },
    /// Issue a gateway's certificate.
    Issue {
        /// The authority's folder.
        #[arg(long, value_name = "FOLDER")]
        dir: PathBuf,
        /// Identity to carry: domain name, address or e-mail address; may be given several times.
        #[arg(long = "id", required = true, value_name = "ID", value_parser = identity)]
        ids: Vec<Identification>,
        /// Days until it expires.
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=1825))]
        days: u32,
        /// Makes PREFIX.crt.pem (certificate and intermediate) and PREFIX.key.pem.
        #[arg(long, value_name = "PREFIX")]
        out: PathBuf,
        /// Where the intermediate's CRL will be published; stands in the certificate.
        #[arg(long, value_name = "URL", value_parser = http_url)]
        crl_url: Option<String>,
        #[command(flatten)]
        key: Key,
    },
    /// Revoke a certificate, and write the CRLs.
    Revoke {
        /// The authority's folder.
        #[arg(long, value_name = "FOLDER")]
        dir: PathBuf,
        /// Why: unspecified, key-compromise, superseded or cessation-of-operation.
        #[arg(long, default_value_t = Reason::Unspecified)]
        reason: Reason,
        /// Days until the CRLs must be renewed.
        #[arg(long, default_value_t = CRL_DAYS, value_parser = clap::value_parser!(u32).range(1..=365))]
        days: u32,
        /// The certificate, PEM.
        certificate: PathBuf,
    },
    /// Write the CRLs anew, as must be done before they expire.
    Crl {
        /// The authority's folder.
        #[arg(long, value_name = "FOLDER")]
        dir: PathBuf,
        /// Days until they must be renewed.
        #[arg(long, default_value_t = CRL_DAYS, value_parser = clap::value_parser!(u32).range(1..=365))]
        days: u32,
    },
    /// Show what stands in a file of certificates or of a key.
    Show {
        /// PEM file.
        file: PathBuf,
    },
}

/// Kind of key.
#[derive(Debug, clap::Args)]
struct Key {
    /// ECDSA key on this curve (the default is p256).
    #[arg(long, value_name = "CURVE", conflicts_with = "rsa")]
    ec: Option<Curve>,
    /// Ed25519 key.
    #[arg(long, conflicts_with_all = ["ec", "rsa"])]
    ed25519: bool,
    /// RSA key of this many bits, 2048 to 4096; without a number 3072.
    #[arg(long, value_name = "BITS", num_args = 0..=1, default_missing_value = "3072", value_parser = rsa_bits)]
    rsa: Option<u16>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Curve {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
}

impl Arguments {
    /// Does it.
    pub fn run(self) -> ExitCode {
        match self.command.run() {
            Ok(text) => {
                // A reader that closes the pipe early is no failure: the files are made.
                let _ = write!(std::io::stdout(), "{text}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("sekisho pki: {error}");
                ExitCode::FAILURE
            }
        }
    }
}

impl Command {
    fn run(self) -> Result<String, PkiError> {
        match self {
            Self::Init { dir, name, crl_url, key } => {
                let made = pki::init(&dir, &name, key.kind(), crl_url.as_deref())?;
                Ok(format!(
                    "{} keys\n\
                     {}  root certificate: name it as `ca` of the peers\n\
                     {}  its key: keep it away from the gateways, offline if you can\n\
                     {}  intermediate certificate: part of every chain issued here\n\
                     {}  its key: `sekisho pki issue` needs it\n",
                    key.kind(),
                    made.root.display(),
                    made.root_key.display(),
                    made.intermediate.display(),
                    made.intermediate_key.display(),
                ))
            }
            Self::Issue { dir, ids, days, out, crl_url, key } => {
                let made = pki::issue(&Issue {
                    dir: &dir,
                    ids: &ids,
                    days,
                    key: key.kind(),
                    prefix: &out,
                    crl_url: crl_url.as_deref(),
                })?;
                let ids: Vec<String> = ids.iter().map(Identification::to_string).collect();
                Ok(format!(
                    "{} key, valid for {days} days, for {}\n\
                     {}  certificate and intermediate: `certificate` of the gateway\n\
                     {}  its key: `key` of the gateway\n",
                    key.kind(),
                    ids.join(", "),
                    made.chain.display(),
                    made.key.display(),
                ))
            }
            Self::Revoke { dir, reason, days, certificate } => {
                Ok(published(&pki::revoke(&dir, &certificate, reason, days)?, days))
            }
            Self::Crl { dir, days } => Ok(published(&pki::publish(&dir, days)?, days)),
            Self::Show { file } => pki::show(&file),
        }
    }
}

fn published(made: &Published, days: u32) -> String {
    let root = made.root.as_ref().map_or_else(
        || "the root's key is not here: its CRL was not renewed\n".to_owned(),
        |root| format!("{}  the root's CRL: about the intermediate\n", root.display()),
    );
    format!(
        "good for {days} days, then `sekisho pki crl` again; {} revoked\n\
         {}  the intermediate's CRL: `crl` of the peers, or publish it at the certificates' URL\n{root}",
        made.revoked,
        made.intermediate.display(),
    )
}

impl Key {
    fn kind(&self) -> KeyKind {
        if self.ed25519 {
            return KeyKind::Ed25519;
        }
        match (self.ec, self.rsa) {
            (_, Some(bits)) => KeyKind::Rsa { bits },
            (Some(Curve::P384), None) => KeyKind::EcP384,
            (Some(Curve::P256) | None, None) => KeyKind::EcP256,
        }
    }
}

fn identity(text: &str) -> Result<Identification, String> {
    text.parse().map_err(|error| format!("{error}"))
}

fn http_url(text: &str) -> Result<String, String> {
    let good = text.starts_with("http://") && text.bytes().all(|byte| byte.is_ascii_graphic());
    good.then(|| text.to_owned()).ok_or_else(|| "a CRL is fetched from an http:// URL".into())
}

fn rsa_bits(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(bits) if (2048..=4096).contains(&bits) && bits % 8 == 0 => Ok(bits),
        _ => Err(
            "an RSA key has 2048, 3072 or 4096 bits (less can be broken, more makes every handshake slow)"
                .into(),
        ),
    }
}
