//! Public keys, as certificates carry them.

use der::asn1::{AnyRef, BitStringRef, ObjectIdentifier, UintRef};
use der::{Decode, Encode, Reader, SliceReader};
use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use x509_cert::spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoRef};

use super::{SignatureError, SignatureScheme};

pub(super) const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
pub(super) const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
pub(super) const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
pub(super) const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
pub(super) const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// The form of an ECDSA signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EcdsaForm {
    /// ECDSA-Sig-Value in DER (RFC 7427 section A.3).
    Der,
    /// r | s, each as long as the curve's order (RFC 4754 section 3).
    Raw,
}

/// The public key of a certificate: DER of its SubjectPublicKeyInfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    spki: Vec<u8>,
}

impl PublicKey {
    /// From the DER of a SubjectPublicKeyInfo. Whether it is a key that can be used shows when it is.
    pub(in crate::crypto) fn from_spki_der(spki: &[u8]) -> Self {
        Self { spki: spki.to_vec() }
    }

    pub(super) fn new(
        oid: ObjectIdentifier,
        parameters: Option<AnyRef<'_>>,
        key: &[u8],
    ) -> der::Result<Self> {
        let algorithm = AlgorithmIdentifierRef { oid, parameters };
        let subject_public_key = BitStringRef::from_bytes(key)?;
        Ok(Self { spki: SubjectPublicKeyInfoRef { algorithm, subject_public_key }.to_der()? })
    }

    /// DER of the SubjectPublicKeyInfo.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    pub(super) fn verify(
        &self,
        scheme: SignatureScheme,
        form: EcdsaForm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureError> {
        let key = self.key_for(scheme).ok_or(SignatureError::KeyMismatch(scheme))?;
        let algorithm: &dyn VerificationAlgorithm = match (scheme, form) {
            (SignatureScheme::RsaPkcs1Sha256, _) => &signature::RSA_PKCS1_2048_8192_SHA256,
            (SignatureScheme::RsaPkcs1Sha384, _) => &signature::RSA_PKCS1_2048_8192_SHA384,
            (SignatureScheme::RsaPkcs1Sha512, _) => &signature::RSA_PKCS1_2048_8192_SHA512,
            (SignatureScheme::RsaPssSha256, _) => &signature::RSA_PSS_2048_8192_SHA256,
            (SignatureScheme::RsaPssSha384, _) => &signature::RSA_PSS_2048_8192_SHA384,
            (SignatureScheme::RsaPssSha512, _) => &signature::RSA_PSS_2048_8192_SHA512,
            (SignatureScheme::EcdsaP256Sha256, EcdsaForm::Der) => &signature::ECDSA_P256_SHA256_ASN1,
            (SignatureScheme::EcdsaP256Sha256, EcdsaForm::Raw) => &signature::ECDSA_P256_SHA256_FIXED,
            (SignatureScheme::EcdsaP384Sha384, EcdsaForm::Der) => &signature::ECDSA_P384_SHA384_ASN1,
            (SignatureScheme::EcdsaP384Sha384, EcdsaForm::Raw) => &signature::ECDSA_P384_SHA384_FIXED,
            (SignatureScheme::Ed25519, _) => &signature::ED25519,
        };
        UnparsedPublicKey::new(algorithm, key).verify(message, signature).map_err(|_| SignatureError::Invalid)
    }

    /// The subject public key, if it is of the kind that the scheme goes with: RSAPublicKey, point, or Ed25519 key.
    fn key_for(&self, scheme: SignatureScheme) -> Option<&[u8]> {
        let SubjectPublicKeyInfoRef { algorithm, subject_public_key } =
            SubjectPublicKeyInfoRef::from_der(&self.spki).ok()?;
        let key = subject_public_key.as_bytes()?;
        let fits = match scheme {
            SignatureScheme::RsaPkcs1Sha256
            | SignatureScheme::RsaPkcs1Sha384
            | SignatureScheme::RsaPkcs1Sha512
            | SignatureScheme::RsaPssSha256
            | SignatureScheme::RsaPssSha384
            | SignatureScheme::RsaPssSha512 => {
                algorithm.oid == RSA_ENCRYPTION
                    && algorithm.parameters == Some(AnyRef::NULL)
                    && (2048..=8192).contains(&modulus_bits(key)?)
            }
            SignatureScheme::EcdsaP256Sha256 => on_curve(&algorithm, P256),
            SignatureScheme::EcdsaP384Sha384 => on_curve(&algorithm, P384),
            SignatureScheme::Ed25519 => algorithm.oid == ED25519 && algorithm.parameters.is_none(),
        };
        fits.then_some(key)
    }
}

fn on_curve(algorithm: &AlgorithmIdentifierRef<'_>, curve: ObjectIdentifier) -> bool {
    algorithm.oid == EC_PUBLIC_KEY && algorithm.parameters_oid() == Ok(curve)
}

/// Bits of the modulus of an RSAPublicKey (RFC 8017 appendix A.1.1).
fn modulus_bits(rsa_public_key: &[u8]) -> Option<usize> {
    let sequence = AnyRef::from_der(rsa_public_key).ok()?;
    let mut reader = SliceReader::new(sequence.value()).ok()?;
    let modulus: UintRef<'_> = reader.decode().ok()?;
    let first = modulus.as_bytes().first()?;
    let zeros = usize::try_from(first.leading_zeros()).ok()?;
    (modulus.as_bytes().len() * 8).checked_sub(zeros)
}
