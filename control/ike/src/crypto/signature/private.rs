//! Private keys.

use std::fmt;

use der::asn1::{AnyRef, ObjectIdentifier, OctetStringRef};
use der::{Encode, Header, Length, Tag};
use ring::error::KeyRejected;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::{self, PemObject};
use x509_cert::spki::AlgorithmIdentifierRef;
use zeroize::{Zeroize, Zeroizing};

use super::public::{EC_PUBLIC_KEY, ED25519, P256, P384, PublicKey, RSA_ENCRYPTION};
use super::{SignatureError, SignatureScheme};
use crate::wire::HashAlgorithm;

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
    #[error(
        "no private key in this PEM file; it needs a section \"PRIVATE KEY\", \"RSA PRIVATE KEY\" or \"EC PRIVATE KEY\""
    )]
    NoKey,
    /// It is encrypted.
    #[error(
        "the private key is encrypted with a passphrase; store it decrypted, readable by the daemon alone"
    )]
    Encrypted,
    /// Not readable, or of a kind that is not supported.
    #[error(
        "the private key is refused ({0}); it must be RSA of 2048 to 4096 bits, ECDSA P-256 or P-384, or Ed25519"
    )]
    Refused(String),
}

/// Our signature key. Never shown. The bytes it is read from are zeroised; what *ring* keeps of them is not, for as
/// long as the process lives it is in use anyway.
pub struct PrivateKey {
    algorithm: KeyAlgorithm,
    pair: Pair,
    public: PublicKey,
    rsa_padding: RsaPadding,
}

/// How an RSA key signs; verifying takes both. RFC 7427 lets peers agree on hashes, not on this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RsaPadding {
    /// RSASSA-PSS (RFC 8247 section 3.2).
    #[default]
    Pss,
    /// RSASSA-PKCS1-v1_5, for peers that know no other.
    Pkcs1,
}

enum Pair {
    Rsa(Box<RsaKeyPair>),
    /// *ring* fixes the form of signatures with the pair: DER for RFC 7427, r | s for RFC 4754.
    Ecdsa {
        der: Box<EcdsaKeyPair>,
        raw: Box<EcdsaKeyPair>,
    },
    Ed25519(Ed25519KeyPair),
}

impl PrivateKey {
    /// From a PEM file with a PKCS#8 ("PRIVATE KEY"), PKCS#1 ("RSA PRIVATE KEY") or SEC1 ("EC PRIVATE KEY") section.
    pub fn from_pem(pem: &[u8]) -> Result<Self, PrivateKeyError> {
        let mut der = match PrivateKeyDer::from_pem_slice(pem) {
            Ok(der) => der,
            Err(pem::Error::NoItemsFound) if contains(pem, b"ENCRYPTED PRIVATE KEY") => {
                return Err(PrivateKeyError::Encrypted);
            }
            Err(pem::Error::NoItemsFound) => return Err(PrivateKeyError::NoKey),
            // The old form of encryption leaves its headers inside the section.
            Err(_) if contains(pem, b"Proc-Type: 4,ENCRYPTED") => return Err(PrivateKeyError::Encrypted),
            Err(error) => return Err(PrivateKeyError::Refused(error.to_string())),
        };
        let key = match &der {
            PrivateKeyDer::Pkcs8(der) => Self::from_pkcs8_der(der.secret_pkcs8_der()),
            PrivateKeyDer::Pkcs1(der) => {
                RsaKeyPair::from_der(der.secret_pkcs1_der()).map_err(refused).and_then(Self::from_rsa)
            }
            PrivateKeyDer::Sec1(der) => Self::from_sec1_der(der.secret_sec1_der()),
            _ => Err(PrivateKeyError::NoKey),
        };
        der.zeroize();
        key
    }

    /// From the DER of a PKCS#8 PrivateKeyInfo.
    pub fn from_pkcs8_der(der: &[u8]) -> Result<Self, PrivateKeyError> {
        let attempts = [
            |der: &[u8]| RsaKeyPair::from_pkcs8(der).map_err(refused).and_then(Self::from_rsa),
            |der: &[u8]| Self::from_ecdsa(KeyAlgorithm::EcdsaP256, der),
            |der: &[u8]| Self::from_ecdsa(KeyAlgorithm::EcdsaP384, der),
            // "Maybe unchecked": OpenSSL writes no public key to check against.
            |der: &[u8]| {
                Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(refused).and_then(Self::from_ed25519)
            },
        ];
        let mut why = PrivateKeyError::Refused("WrongAlgorithm".to_owned());
        for attempt in attempts {
            match attempt(der) {
                Ok(key) => return Ok(key),
                Err(PrivateKeyError::Refused(reason)) if reason == "WrongAlgorithm" => {}
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    /// An ECPrivateKey (RFC 5915) names its curve inside; *ring* reads it in a PKCS#8 wrapping only.
    fn from_sec1_der(der: &[u8]) -> Result<Self, PrivateKeyError> {
        let mut why = PrivateKeyError::NoKey;
        for (algorithm, curve) in [(KeyAlgorithm::EcdsaP256, P256), (KeyAlgorithm::EcdsaP384, P384)] {
            let wrapped =
                wrap_sec1(der, curve).map_err(|error| PrivateKeyError::Refused(error.to_string()))?;
            match Self::from_ecdsa(algorithm, &wrapped) {
                Ok(key) => return Ok(key),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    fn from_rsa(pair: RsaKeyPair) -> Result<Self, PrivateKeyError> {
        let algorithm = KeyAlgorithm::Rsa { bits: pair.public().modulus_len() * 8 };
        let public = PublicKey::new(RSA_ENCRYPTION, Some(AnyRef::NULL), pair.public().as_ref());
        Self::with_public(algorithm, Pair::Rsa(Box::new(pair)), public)
    }

    fn from_ecdsa(algorithm: KeyAlgorithm, der: &[u8]) -> Result<Self, PrivateKeyError> {
        let (curve, der_form, raw_form) = match algorithm {
            KeyAlgorithm::EcdsaP384 => (
                P384,
                &signature::ECDSA_P384_SHA384_ASN1_SIGNING,
                &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
            ),
            _ => (
                P256,
                &signature::ECDSA_P256_SHA256_ASN1_SIGNING,
                &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            ),
        };
        let random = SystemRandom::new();
        let der_pair = EcdsaKeyPair::from_pkcs8(der_form, der, &random).map_err(refused)?;
        let raw_pair = EcdsaKeyPair::from_pkcs8(raw_form, der, &random).map_err(refused)?;
        let point = der_pair.public_key().as_ref();
        let public = PublicKey::new(EC_PUBLIC_KEY, Some(AnyRef::from(&curve)), point);
        Self::with_public(algorithm, Pair::Ecdsa { der: Box::new(der_pair), raw: Box::new(raw_pair) }, public)
    }

    fn from_ed25519(pair: Ed25519KeyPair) -> Result<Self, PrivateKeyError> {
        let public = PublicKey::new(ED25519, None, pair.public_key().as_ref());
        Self::with_public(KeyAlgorithm::Ed25519, Pair::Ed25519(pair), public)
    }

    fn with_public(
        algorithm: KeyAlgorithm,
        pair: Pair,
        public: der::Result<PublicKey>,
    ) -> Result<Self, PrivateKeyError> {
        let public = public.map_err(|error| PrivateKeyError::Refused(error.to_string()))?;
        Ok(Self { algorithm, pair, public, rsa_padding: RsaPadding::Pss })
    }

    /// The same key, signing so if it is an RSA key.
    pub fn with_rsa_padding(self, rsa_padding: RsaPadding) -> Self {
        Self { rsa_padding, ..self }
    }

    /// What kind of key.
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// Its public key, which must be that of the certificate it goes with.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// The best scheme for this key among those whose hash the peer announced: RSA with the padding chosen, ECDSA with the
    /// curve's hash, Ed25519.
    pub fn choose_scheme(&self, peer_hashes: &[HashAlgorithm]) -> Result<SignatureScheme, SignatureError> {
        let (schemes, needed): (&[SignatureScheme], _) = match self.algorithm {
            KeyAlgorithm::Rsa { .. } if self.rsa_padding == RsaPadding::Pkcs1 => (
                &[
                    SignatureScheme::RsaPkcs1Sha256,
                    SignatureScheme::RsaPkcs1Sha384,
                    SignatureScheme::RsaPkcs1Sha512,
                ],
                "SHA2-256, SHA2-384 or SHA2-512",
            ),
            KeyAlgorithm::Rsa { .. } => (
                &[
                    SignatureScheme::RsaPssSha256,
                    SignatureScheme::RsaPssSha384,
                    SignatureScheme::RsaPssSha512,
                ],
                "SHA2-256, SHA2-384 or SHA2-512",
            ),
            KeyAlgorithm::EcdsaP256 => (&[SignatureScheme::EcdsaP256Sha256], "SHA2-256"),
            KeyAlgorithm::EcdsaP384 => (&[SignatureScheme::EcdsaP384Sha384], "SHA2-384"),
            KeyAlgorithm::Ed25519 => (&[SignatureScheme::Ed25519], "Identity (RFC 8420)"),
        };
        let scheme = schemes.iter().find(|scheme| peer_hashes.contains(&scheme.hash()));
        scheme.copied().ok_or(SignatureError::NoCommonHash { key: self.algorithm, needed })
    }

    /// Signs. ECDSA gives an ECDSA-Sig-Value in DER, as RFC 7427 wants.
    pub fn sign(&self, scheme: SignatureScheme, message: &[u8]) -> Result<Vec<u8>, SignatureError> {
        let failed = |_| SignatureError::Signing(self.algorithm);
        let random = SystemRandom::new();
        match (&self.pair, self.algorithm, scheme) {
            (Pair::Rsa(pair), ..) => {
                let encoding: &dyn signature::RsaEncoding = match scheme {
                    SignatureScheme::RsaPkcs1Sha256 => &signature::RSA_PKCS1_SHA256,
                    SignatureScheme::RsaPkcs1Sha384 => &signature::RSA_PKCS1_SHA384,
                    SignatureScheme::RsaPkcs1Sha512 => &signature::RSA_PKCS1_SHA512,
                    SignatureScheme::RsaPssSha256 => &signature::RSA_PSS_SHA256,
                    SignatureScheme::RsaPssSha384 => &signature::RSA_PSS_SHA384,
                    SignatureScheme::RsaPssSha512 => &signature::RSA_PSS_SHA512,
                    _ => return Err(SignatureError::WrongKey { key: self.algorithm, scheme }),
                };
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(encoding, &random, message, &mut signature).map_err(failed)?;
                Ok(signature)
            }
            (Pair::Ecdsa { der, .. }, KeyAlgorithm::EcdsaP256, SignatureScheme::EcdsaP256Sha256)
            | (Pair::Ecdsa { der, .. }, KeyAlgorithm::EcdsaP384, SignatureScheme::EcdsaP384Sha384) => {
                Ok(der.sign(&random, message).map_err(failed)?.as_ref().to_vec())
            }
            (Pair::Ed25519(pair), _, SignatureScheme::Ed25519) => Ok(pair.sign(message).as_ref().to_vec()),
            _ => Err(SignatureError::WrongKey { key: self.algorithm, scheme }),
        }
    }

    /// ECDSA as r | s (RFC 4754 section 3), with the curve's hash.
    pub(super) fn sign_raw_ecdsa(&self, message: &[u8]) -> Result<Vec<u8>, SignatureError> {
        let Pair::Ecdsa { raw, .. } = &self.pair else {
            return Err(SignatureError::NoLegacyMethod { key: self.algorithm });
        };
        let signature = raw.sign(&SystemRandom::new(), message);
        Ok(signature.map_err(|_| SignatureError::Signing(self.algorithm))?.as_ref().to_vec())
    }
}

fn refused(error: KeyRejected) -> PrivateKeyError {
    PrivateKeyError::Refused(error.to_string())
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// PrivateKeyInfo around an ECPrivateKey (RFC 5208 section 5).
fn wrap_sec1(sec1: &[u8], curve: ObjectIdentifier) -> der::Result<Zeroizing<Vec<u8>>> {
    let algorithm = AlgorithmIdentifierRef { oid: EC_PUBLIC_KEY, parameters: Some(AnyRef::from(&curve)) };
    let private = OctetStringRef::new(sec1)?;
    let len = (Length::from(3u8) + algorithm.encoded_len()? + private.encoded_len()?)?;
    let capacity = usize::try_from((len + Length::from(6u8))?)?;
    let mut out = Zeroizing::new(Vec::with_capacity(capacity));
    Header::new(Tag::Sequence, len).encode_to_vec(&mut out)?;
    0u8.encode_to_vec(&mut out)?;
    algorithm.encode_to_vec(&mut out)?;
    private.encode_to_vec(&mut out)?;
    Ok(out)
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({}, …)", self.algorithm)
    }
}
