//! The chain: each line is a JSON object whose `prev` is the SHA-256 of the whole line before it, without its line feed.
//!
//! A line that was changed, removed, added or moved breaks the chain at its place. Whoever can write the files could
//! forge a new chain from there on; the signatures in `seal` records keep him from it, as long as he does not have the
//! key, and a `prev` noted elsewhere does, whatever he has.

use std::time::SystemTime;

use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Record;

/// `prev` of the first record of all.
pub const BEGINNING: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A line.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Line {
    /// Its number, from 0, without a gap.
    pub seq: u64,
    /// SHA-256 of the line before, 64 hexadecimal digits.
    pub prev: String,
    /// When it was recorded: RFC 3339, UTC, microseconds.
    pub time: String,
    /// What happened.
    #[serde(flatten)]
    pub record: Record,
}

/// Where the chain ends: what the next line continues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Number of the next line.
    pub next: u64,
    /// SHA-256 of the last one.
    pub hash: String,
}

impl Default for Head {
    fn default() -> Self {
        Self { next: 0, hash: BEGINNING.into() }
    }
}

impl Head {
    /// The next line, with its line feed; the head moves on once it is written.
    pub(super) fn line(&self, record: &Record, time: SystemTime) -> serde_json::Result<(String, Head)> {
        let line = Line {
            seq: self.next,
            prev: self.hash.clone(),
            time: humantime::format_rfc3339_micros(time).to_string(),
            record: record.clone(),
        };
        let mut text = serde_json::to_string(&line)?;
        let after = Head { next: self.next + 1, hash: hash(text.as_bytes()) };
        text.push('\n');
        Ok((text, after))
    }
}

/// SHA-256, in hexadecimal digits.
pub fn hash(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

/// The key that seals.
pub(super) struct Seal(Ed25519KeyPair);

impl Seal {
    /// A new key, as PKCS#8.
    pub(super) fn generate() -> Option<Zeroizing<Vec<u8>>> {
        Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .ok()
            .map(|key| Zeroizing::new(key.as_ref().to_vec()))
    }

    pub(super) fn from_pkcs8(bytes: &[u8]) -> Option<Seal> {
        Ed25519KeyPair::from_pkcs8(bytes).ok().map(Seal)
    }

    /// The public key, 64 hexadecimal digits.
    pub(super) fn public(&self) -> String {
        hex(self.0.public_key().as_ref())
    }

    /// Signs a head's hash, as text.
    pub(super) fn sign(&self, hash: &str) -> String {
        hex(self.0.sign(hash.as_bytes()).as_ref())
    }
}

/// Whether a seal is good.
pub(super) fn is_sealed(public: &str, hash: &str, signature: &str) -> bool {
    let (Some(public), Some(signature)) = (unhex(public), unhex(signature)) else { return false };
    UnparsedPublicKey::new(&ED25519, public).verify(hash.as_bytes(), &signature).is_ok()
}
