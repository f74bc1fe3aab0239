//! Signature schemes and their AlgorithmIdentifiers.

use std::fmt;

/// A signature algorithm with its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SignatureScheme {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RsaPkcs1Sha256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    RsaPkcs1Sha384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    RsaPkcs1Sha512,
    /// RSASSA-PSS with SHA-256, MGF1 with SHA-256, 32 bytes of salt.
    RsaPssSha256,
    /// RSASSA-PSS with SHA-384, MGF1 with SHA-384, 48 bytes of salt.
    RsaPssSha384,
    /// RSASSA-PSS with SHA-512, MGF1 with SHA-512, 64 bytes of salt.
    RsaPssSha512,
    /// ECDSA on P-256 with SHA-256.
    EcdsaP256Sha256,
    /// ECDSA on P-384 with SHA-384.
    EcdsaP384Sha384,
    /// Ed25519 (RFC 8420).
    Ed25519,
}

impl fmt::Display for SignatureScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SignatureScheme::RsaPkcs1Sha256 => "RSA PKCS#1 v1.5 with SHA-256",
            SignatureScheme::RsaPkcs1Sha384 => "RSA PKCS#1 v1.5 with SHA-384",
            SignatureScheme::RsaPkcs1Sha512 => "RSA PKCS#1 v1.5 with SHA-512",
            SignatureScheme::RsaPssSha256 => "RSA-PSS with SHA-256",
            SignatureScheme::RsaPssSha384 => "RSA-PSS with SHA-384",
            SignatureScheme::RsaPssSha512 => "RSA-PSS with SHA-512",
            SignatureScheme::EcdsaP256Sha256 => "ECDSA P-256 with SHA-256",
            SignatureScheme::EcdsaP384Sha384 => "ECDSA P-384 with SHA-384",
            SignatureScheme::Ed25519 => "Ed25519",
        })
    }
}
