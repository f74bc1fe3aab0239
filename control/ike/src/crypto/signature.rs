//! Signatures in AUTH payloads: RFC 7427 (method 14), and ECDSA of RFC 4754 (methods 9 and 10) for peers without it.

mod private;
mod public;
mod scheme;

pub use private::{KeyAlgorithm, PrivateKey, PrivateKeyError, RsaPadding};
pub use public::PublicKey;
pub use scheme::SignatureScheme;

use self::public::EcdsaForm;

use crate::wire::{AuthMethod, HashAlgorithm};

/// Why a signature could not be made or is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The peer announced no hash algorithm (SIGNATURE_HASH_ALGORITHMS) that our key can sign with.
    #[error(
        "our {key} key needs {needed}, which the peer does not announce; use another key, or a newer peer"
    )]
    NoCommonHash {
        /// Our key.
        key: KeyAlgorithm,
        /// What it could use.
        needed: &'static str,
    },
    /// The peer has no RFC 7427, and our key has no acceptable method without.
    #[error(
        "the peer does not support RFC 7427 signatures, and without them a {key} key has no method better than SHA-1; \
         use an ECDSA P-256 or P-384 certificate, or update the peer"
    )]
    NoLegacyMethod {
        /// Our key.
        key: KeyAlgorithm,
    },
    /// The scheme does not belong to the key: our own fault.
    #[error("a {key} key cannot sign with {scheme}")]
    WrongKey {
        /// The key.
        key: KeyAlgorithm,
        /// The scheme.
        scheme: SignatureScheme,
    },
    /// *ring* could not sign.
    #[error("signing with our {0} key failed")]
    Signing(KeyAlgorithm),
    /// Not a method for signatures that we take.
    #[error("the peer authenticates with {0}, which is no signature method accepted here; {1}")]
    Method(AuthMethod, &'static str),
    /// The Authentication Data is malformed. The peer is at fault.
    #[error("the peer's AUTH payload is malformed: {0}")]
    Malformed(&'static str),
    /// A signature algorithm that we do not accept, such as one with SHA-1. The DER of its AlgorithmIdentifier.
    #[error("the peer signs with an algorithm that is not accepted here (AlgorithmIdentifier {})", hex(.0))]
    UnknownAlgorithm(Vec<u8>),
    /// The certificate's key is not one that the signature algorithm goes with, or too small.
    #[error(
        "the key in the peer's certificate is not one for {0}: RSA from 2048 to 8192 bits, P-256, P-384 or Ed25519"
    )]
    KeyMismatch(SignatureScheme),
    /// The signature does not hold: the peer does not have the certificate's key, or the messages were tampered with.
    #[error(
        "the peer's signature does not hold: it does not own the certificate's key, or someone changed messages"
    )]
    Invalid,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hash algorithms to announce in SIGNATURE_HASH_ALGORITHMS (RFC 7427 section 4, RFC 8420 for Identity).
pub const HASH_ALGORITHMS: [HashAlgorithm; 4] =
    [HashAlgorithm::Sha2_256, HashAlgorithm::Sha2_384, HashAlgorithm::Sha2_512, HashAlgorithm::Identity];

/// Authentication Data with its method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedAuth {
    /// Method of the AUTH payload.
    pub method: AuthMethod,
    /// Authentication Data.
    pub data: Vec<u8>,
}

/// Signs `octets` ([`signed_octets`](super::keys::signed_octets)). `peer_hashes` are those of the peer's
/// SIGNATURE_HASH_ALGORITHMS notify, `None` if it sent none: then only methods 9 and 10 are left.
pub fn sign_auth(
    key: &PrivateKey,
    peer_hashes: Option<&[HashAlgorithm]>,
    octets: &[u8],
) -> Result<SignedAuth, SignatureError> {
    let Some(peer_hashes) = peer_hashes else {
        let method = match key.algorithm() {
            KeyAlgorithm::EcdsaP256 => AuthMethod::EcdsaSha256P256,
            KeyAlgorithm::EcdsaP384 => AuthMethod::EcdsaSha384P384,
            // Method 1 means SHA-1 (RFC 7296 section 2.15), and Ed25519 exists in RFC 7427's method only (RFC 8420).
            key @ (KeyAlgorithm::Rsa { .. } | KeyAlgorithm::Ed25519) => {
                return Err(SignatureError::NoLegacyMethod { key });
            }
        };
        return Ok(SignedAuth { method, data: key.sign_raw_ecdsa(octets)? });
    };
    let scheme = key.choose_scheme(peer_hashes)?;
    let identifier = scheme.algorithm_identifier();
    let mut data = Vec::new();
    // Each of our identifiers is shorter than 256 bytes (tested).
    data.push(u8::try_from(identifier.len()).map_err(|_| SignatureError::Signing(key.algorithm()))?);
    data.extend_from_slice(identifier);
    data.extend(key.sign(scheme, octets)?);
    Ok(SignedAuth { method: AuthMethod::DigitalSignature, data })
}

/// Whether the peer's Authentication Data proves that it owns `key`, the key of its verified certificate. Says by which
/// scheme.
pub fn verify_auth(
    method: AuthMethod,
    data: &[u8],
    key: &PublicKey,
    octets: &[u8],
) -> Result<SignatureScheme, SignatureError> {
    let (scheme, form, signature) = match method {
        AuthMethod::DigitalSignature => {
            let (scheme, signature) = split_digital_signature(data)?;
            (scheme, EcdsaForm::Der, signature)
        }
        AuthMethod::EcdsaSha256P256 => (SignatureScheme::EcdsaP256Sha256, EcdsaForm::Raw, data),
        AuthMethod::EcdsaSha384P384 => (SignatureScheme::EcdsaP384Sha384, EcdsaForm::Raw, data),
        AuthMethod::RsaSignature => {
            return Err(SignatureError::Method(
                method,
                "it signs with SHA-1; enable RFC 7427 (digital signatures with SHA-2) at the peer",
            ));
        }
        AuthMethod::SharedKey => {
            return Err(SignatureError::Method(
                method,
                "a certificate is configured for it; set both sides alike",
            ));
        }
        _ => {
            return Err(SignatureError::Method(
                method,
                "let the peer use RFC 7427 with RSA, ECDSA or Ed25519",
            ));
        }
    };
    key.verify(scheme, form, octets, signature)?;
    Ok(scheme)
}

/// ```text
/// | ASN.1 Length (1 octet) | AlgorithmIdentifier | Signature |      (RFC 7427 section 3)
/// ```
fn split_digital_signature(data: &[u8]) -> Result<(SignatureScheme, &[u8]), SignatureError> {
    let (&len, rest) = data.split_first().ok_or(SignatureError::Malformed("it is empty"))?;
    let (identifier, signature) = rest
        .split_at_checked(usize::from(len))
        .ok_or(SignatureError::Malformed("its AlgorithmIdentifier is longer than the payload"))?;
    let scheme = SignatureScheme::from_algorithm_identifier(identifier)
        .ok_or_else(|| SignatureError::UnknownAlgorithm(identifier.to_vec()))?;
    Ok((scheme, signature))
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;
