//! Transforms by the names of the kernel's crypto API, with the ICV lengths that the RFCs give.

use sekisho_esp::sa::{Keys, SaError, Transform};

use super::wire::{Bytes, Request, attribute};

/// Bytes of an algorithm's name in a message.
const NAME: usize = 64;

/// How the kernel calls a transform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    /// Encryption and integrity in one, the salt at the key's end. ICV in bits.
    Aead { name: &'static str, icv: u32 },
    /// AES-CBC, and an HMAC cut to so many bits (RFC 4868: half of the hash; the kernel's own default for SHA-256 is 96).
    Separate { integrity: &'static str, truncated: u32 },
}

const CBC: &str = "cbc(aes)";

impl Algorithm {
    pub(super) const fn of(transform: Transform) -> Algorithm {
        match transform {
            Transform::Aes128Gcm16 | Transform::Aes256Gcm16 => {
                Algorithm::Aead { name: "rfc4106(gcm(aes))", icv: 128 }
            }
            Transform::ChaCha20Poly1305 => {
                Algorithm::Aead { name: "rfc7539esp(chacha20,poly1305)", icv: 128 }
            }
            Transform::Aes128CbcHmacSha256 | Transform::Aes256CbcHmacSha256 => {
                Algorithm::Separate { integrity: "hmac(sha256)", truncated: 128 }
            }
            Transform::Aes128CbcHmacSha384 | Transform::Aes256CbcHmacSha384 => {
                Algorithm::Separate { integrity: "hmac(sha384)", truncated: 192 }
            }
            Transform::Aes128CbcHmacSha512 | Transform::Aes256CbcHmacSha512 => {
                Algorithm::Separate { integrity: "hmac(sha512)", truncated: 256 }
            }
        }
    }

    /// The names, for an error.
    pub(super) fn names(self) -> String {
        match self {
            Algorithm::Aead { name, .. } => name.to_owned(),
            Algorithm::Separate { integrity, .. } => format!("{CBC} with {integrity}"),
        }
    }
}

/// Whether the keys have the transform's lengths.
pub(super) fn check(transform: Transform, keys: &Keys) -> Result<(), SaError> {
    let (encryption, integrity) = transform.key_bytes();
    for (expected, key) in [(encryption, &keys.encryption), (integrity, &keys.integrity)] {
        if key.len() != expected {
            return Err(SaError::KeyLength(transform, expected, key.len()));
        }
    }
    Ok(())
}

/// Writes the transform's attributes.
pub(super) fn put(request: &mut Request, transform: Transform, keys: &Keys) {
    match Algorithm::of(transform) {
        Algorithm::Aead { name, icv } => {
            request.attribute(attribute::ALG_AEAD, |value| key(value, name, Some(icv), &keys.encryption));
        }
        Algorithm::Separate { integrity, truncated } => {
            request.attribute(attribute::ALG_CRYPT, |value| key(value, CBC, None, &keys.encryption));
            let of = |value: &mut Request| key(value, integrity, Some(truncated), &keys.integrity);
            request.attribute(attribute::ALG_AUTH_TRUNC, of);
        }
    }
}

/// A name in its 64 bytes, the key's length in bits, the ICV's, the key.
fn key(value: &mut Request, name: &str, icv: Option<u32>, key: &[u8]) {
    value.put(name.as_bytes()).zeros(NAME.saturating_sub(name.len()));
    value.u32(u32::try_from(key.len() * 8).unwrap_or(u32::MAX));
    if let Some(icv) = icv {
        value.u32(icv);
    }
    value.put(key);
}

/// One algorithm as the kernel shows it.
pub(super) struct Shown<'a> {
    name: &'a [u8],
    icv: Option<u32>,
    key: &'a [u8],
}

impl<'a> Shown<'a> {
    pub(super) fn read(kind: u16, value: Bytes<'a>) -> Option<Shown<'a>> {
        let name = value.slice(0, NAME)?;
        let name = name.split(|byte| *byte == 0).next()?;
        let bytes = usize::try_from(value.u32(NAME)?.div_ceil(8)).ok()?;
        let has_icv = kind != attribute::ALG_CRYPT;
        let icv = if has_icv { Some(value.u32(NAME + 4)?) } else { None };
        let key = value.slice(NAME + if has_icv { 8 } else { 4 }, bytes)?;
        Some(Shown { name, icv, key })
    }

    fn is(&self, name: &str, icv: Option<u32>, key: &[u8]) -> bool {
        self.name == name.as_bytes()
            && self.icv == icv
            && bool::from(subtle::ConstantTimeEq::ct_eq(self.key, key))
    }
}

/// Whether these are a transform's algorithms with these keys. Keys are compared in constant time.
pub(super) fn matches(shown: &[(u16, Shown<'_>)], transform: Transform, keys: &Keys) -> bool {
    let has = |kind: u16, name, icv, key: &[u8]| {
        shown.iter().any(|(other, shown)| *other == kind && shown.is(name, icv, key))
    };
    match Algorithm::of(transform) {
        Algorithm::Aead { name, icv } => has(attribute::ALG_AEAD, name, Some(icv), &keys.encryption),
        Algorithm::Separate { integrity, truncated } => {
            has(attribute::ALG_CRYPT, CBC, None, &keys.encryption)
                && has(attribute::ALG_AUTH_TRUNC, integrity, Some(truncated), &keys.integrity)
        }
    }
}
