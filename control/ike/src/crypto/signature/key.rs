//! Private keys.

use std::fmt;

use super::{SignatureError, SignatureScheme};

/// What kind of key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAlgorithm {
    /// RSA.
    Rsa {
        /// Bits of the modulus.
        bits: usize,
    },
    /// ECDSA on P-256.
    EcdsaP256,
    /// ECDSA on P-384.
    EcdsaP384,
    /// Ed25519.
    Ed25519,
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyAlgorithm::Rsa { bits } => write!(f, "RSA {bits}"),
            KeyAlgorithm::EcdsaP256 => f.write_str("ECDSA P-256"),
            KeyAlgorithm::EcdsaP384 => f.write_str("ECDSA P-384"),
            KeyAlgorithm::Ed25519 => f.write_str("Ed25519"),
        }
    }
}

/// Why a private key is refused. The file is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrivateKeyError {
    /// No PEM section with a private key.
    #[error("no private key in this PEM file; it needs a section \"PRIVATE KEY\", \"RSA PRIVATE KEY\" or \"EC PRIVATE KEY\"")]
    NoKey,
    /// It is encrypted.
    #[error("the private key is encrypted with a passphrase; store it decrypted, readable by the daemon alone")]
    Encrypted,
    /// Not readable, or of a kind that is not supported.
    #[error("the private key is refused ({0}); it must be RSA of 2048 to 8192 bits, ECDSA P-256 or P-384, or Ed25519")]
    Refused(String),
}

/// Our signature key. Never shown.
pub struct PrivateKey {
    algorithm: KeyAlgorithm,
}

impl PrivateKey {
    /// From a PEM file with a PKCS#8 ("PRIVATE KEY"), PKCS#1 ("RSA PRIVATE KEY") or SEC1 ("EC PRIVATE KEY") section.
    pub fn from_pem(pem: &[u8]) -> Result<Self, PrivateKeyError> {
        let _ = pem;
        Err(PrivateKeyError::NoKey)
    }

    /// From the DER of a PKCS#8 PrivateKeyInfo.
    pub fn from_pkcs8_der(der: &[u8]) -> Result<Self, PrivateKeyError> {
        let _ = der;
        Err(PrivateKeyError::NoKey)
    }

    /// What kind of key.
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// Signs.
    pub fn sign(&self, scheme: SignatureScheme, message: &[u8]) -> Result<Vec<u8>, SignatureError> {
        let _ = (scheme, message);
        Err(SignatureError::Signing(self.algorithm))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({}, …)", self.algorithm)
    }
}
