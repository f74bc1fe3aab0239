//! Keys of certificates.

use std::fmt;

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256};
use rsa::RsaPrivateKey;
use rsa::pkcs8::EncodePrivateKey;
use rsa::rand_core::OsRng;

use super::PkiError;

/// What kind of key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA on P-256.
    EcP256,
    /// ECDSA on P-384.
    EcP384,
    /// Ed25519.
    Ed25519,
    /// RSA.
    Rsa {
        /// Bits of the modulus.
        bits: u16,
    },
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EcP256 => f.write_str("ECDSA P-256"),
            Self::EcP384 => f.write_str("ECDSA P-384"),
            Self::Ed25519 => f.write_str("Ed25519"),
            Self::Rsa { bits } => write!(f, "RSA {bits}"),
        }
    }
}

impl KeyKind {
    /// A new key.
    pub(super) fn generate(self) -> Result<KeyPair, PkiError> {
        match self {
            Self::EcP256 => Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?),
            Self::EcP384 => Ok(KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?),
            Self::Ed25519 => Ok(KeyPair::generate_for(&PKCS_ED25519)?),
            Self::Rsa { bits } => {
                // ring signs with RSA keys but makes none. The crate `rsa` is asked for the primes only; no signature
                // is ever made with it (RUSTSEC-2023-0071 is about its private-key operations).
                let made = RsaPrivateKey::new(&mut OsRng, usize::from(bits));
                let key = made.map_err(|error| PkiError::Key(error.to_string()))?;
                let pkcs8 = key.to_pkcs8_der().map_err(|error| PkiError::Key(error.to_string()))?;
                Ok(KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8.as_bytes().into(), &PKCS_RSA_SHA256)?)
            }
        }
    }
}
