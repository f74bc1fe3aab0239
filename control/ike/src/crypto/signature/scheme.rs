//! Signature schemes and their AlgorithmIdentifiers.

use std::fmt;

use der::asn1::{AnyRef, ObjectIdentifier};
use der::{Decode, DecodeValue, FixedTag, Reader, SliceReader, Tag, TagMode, TagNumber, Tagged};
use x509_cert::spki::AlgorithmIdentifierRef;

use crate::wire::HashAlgorithm;

const SHA256_WITH_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
const SHA384_WITH_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.12");
const SHA512_WITH_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.13");
const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const MGF1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.8");
const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3");
const ECDSA_WITH_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_WITH_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

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

impl SignatureScheme {
    /// Every scheme.
    pub const ALL: [SignatureScheme; 9] = [
        SignatureScheme::RsaPkcs1Sha256,
        SignatureScheme::RsaPkcs1Sha384,
        SignatureScheme::RsaPkcs1Sha512,
        SignatureScheme::RsaPssSha256,
        SignatureScheme::RsaPssSha384,
        SignatureScheme::RsaPssSha512,
        SignatureScheme::EcdsaP256Sha256,
        SignatureScheme::EcdsaP384Sha384,
        SignatureScheme::Ed25519,
    ];

    /// The hash algorithm that a verifier must have announced.
    pub const fn hash(self) -> HashAlgorithm {
        match self {
            SignatureScheme::RsaPkcs1Sha256
            | SignatureScheme::RsaPssSha256
            | SignatureScheme::EcdsaP256Sha256 => HashAlgorithm::Sha2_256,
            SignatureScheme::RsaPkcs1Sha384
            | SignatureScheme::RsaPssSha384
            | SignatureScheme::EcdsaP384Sha384 => HashAlgorithm::Sha2_384,
            SignatureScheme::RsaPkcs1Sha512 | SignatureScheme::RsaPssSha512 => HashAlgorithm::Sha2_512,
            SignatureScheme::Ed25519 => HashAlgorithm::Identity,
        }
    }

    /// DER of the AlgorithmIdentifier, as RFC 7427 appendix A and RFC 8420 section 2 have it.
    pub const fn algorithm_identifier(self) -> &'static [u8] {
        match self {
            SignatureScheme::RsaPkcs1Sha256 => {
                &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b, 0x05, 0x00]
            }
            SignatureScheme::RsaPkcs1Sha384 => {
                &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c, 0x05, 0x00]
            }
            SignatureScheme::RsaPkcs1Sha512 => {
                &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d, 0x05, 0x00]
            }
            SignatureScheme::RsaPssSha256 => &[
                0x30, 0x41, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a, 0x30, 0x34,
                0xa0, 0x0f, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01,
                0x05, 0x00, 0xa1, 0x1c, 0x30, 0x1a, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01,
                0x01, 0x08, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01,
                0x05, 0x00, 0xa2, 0x03, 0x02, 0x01, 0x20,
            ],
            SignatureScheme::RsaPssSha384 => &[
                0x30, 0x41, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a, 0x30, 0x34,
                0xa0, 0x0f, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02,
                0x05, 0x00, 0xa1, 0x1c, 0x30, 0x1a, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01,
                0x01, 0x08, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02,
                0x05, 0x00, 0xa2, 0x03, 0x02, 0x01, 0x30,
            ],
            SignatureScheme::RsaPssSha512 => &[
                0x30, 0x41, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a, 0x30, 0x34,
                0xa0, 0x0f, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03,
                0x05, 0x00, 0xa1, 0x1c, 0x30, 0x1a, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01,
                0x01, 0x08, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03,
                0x05, 0x00, 0xa2, 0x03, 0x02, 0x01, 0x40,
            ],
            SignatureScheme::EcdsaP256Sha256 => {
                &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02]
            }
            SignatureScheme::EcdsaP384Sha384 => {
                &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03]
            }
            SignatureScheme::Ed25519 => &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70],
        }
    }

    /// The scheme of an AlgorithmIdentifier in DER, if it is one of ours. RFC 7427 leaves the curve of ECDSA to the
    /// certificate: here P-256 goes with SHA-256 and P-384 with SHA-384, as everywhere.
    pub fn from_algorithm_identifier(der: &[u8]) -> Option<Self> {
        let AlgorithmIdentifierRef { oid, parameters } = AlgorithmIdentifierRef::from_der(der).ok()?;
        match (oid, parameters) {
            (RSASSA_PSS, Some(parameters)) => Self::from_pss_parameters(parameters),
            (SHA256_WITH_RSA, parameters) if null_or_absent(parameters) => {
                Some(SignatureScheme::RsaPkcs1Sha256)
            }
            (SHA384_WITH_RSA, parameters) if null_or_absent(parameters) => {
                Some(SignatureScheme::RsaPkcs1Sha384)
            }
            (SHA512_WITH_RSA, parameters) if null_or_absent(parameters) => {
                Some(SignatureScheme::RsaPkcs1Sha512)
            }
            (ECDSA_WITH_SHA256, None) => Some(SignatureScheme::EcdsaP256Sha256),
            (ECDSA_WITH_SHA384, None) => Some(SignatureScheme::EcdsaP384Sha384),
            (ED25519, None) => Some(SignatureScheme::Ed25519),
            _ => None,
        }
    }

    /// RSASSA-PSS-params (RFC 4055 section 3.1). Absent fields would mean SHA-1 and 20 bytes of salt: not accepted. Both
    /// hashes must be the same and the salt as long as the hash, which is what *ring* verifies.
    fn from_pss_parameters(parameters: AnyRef<'_>) -> Option<Self> {
        if parameters.tag() != Tag::Sequence {
            return None;
        }
        let mut reader = SliceReader::new(parameters.value()).ok()?;
        let hash: AlgorithmIdentifierRef<'_> = field(&mut reader, 0)?;
        let mask: AlgorithmIdentifierRef<'_> = field(&mut reader, 1)?;
        let salt_len: u16 = field(&mut reader, 2)?;
        let trailer = reader.context_specific::<u8>(TagNumber(3), TagMode::Explicit).ok()?;
        reader.finish().ok()?;
        let mask_hash: AlgorithmIdentifierRef<'_> = mask.parameters?.decode_as().ok()?;
        let consistent = mask.oid == MGF1
            && mask_hash.oid == hash.oid
            && null_or_absent(hash.parameters)
            && null_or_absent(mask_hash.parameters)
            && matches!(trailer, None | Some(1));
        match (hash.oid, salt_len) {
            (SHA256, 32) if consistent => Some(SignatureScheme::RsaPssSha256),
            (SHA384, 48) if consistent => Some(SignatureScheme::RsaPssSha384),
            (SHA512, 64) if consistent => Some(SignatureScheme::RsaPssSha512),
            _ => None,
        }
    }
}

/// RFC 4055 section 2.1: both forms are to be accepted.
fn null_or_absent(parameters: Option<AnyRef<'_>>) -> bool {
    parameters.is_none_or(|parameters| parameters == AnyRef::NULL)
}

fn field<'a, T>(reader: &mut SliceReader<'a>, number: u32) -> Option<T>
where
    T: DecodeValue<'a> + FixedTag + 'a,
{
    reader.context_specific::<T>(TagNumber(number), TagMode::Explicit).ok()?
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn identifiers_come_back() {
        for scheme in SignatureScheme::ALL {
            let der = scheme.algorithm_identifier();
            assert!(der.len() < 256);
            assert_eq!(SignatureScheme::from_algorithm_identifier(der), Some(scheme));
            for len in 0..der.len() {
                assert_eq!(SignatureScheme::from_algorithm_identifier(&der[..len]), None);
            }
            assert_eq!(SignatureScheme::from_algorithm_identifier(&[der, &[0]].concat()), None);
        }
    }

    #[test]
    fn a_changed_bit_never_gives_the_same_scheme() {
        for scheme in SignatureScheme::ALL {
            for bit in 0..scheme.algorithm_identifier().len() * 8 {
                let mut der = scheme.algorithm_identifier().to_vec();
                der[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(SignatureScheme::from_algorithm_identifier(&der), Some(scheme));
            }
        }
    }

    #[test]
    fn sha1_in_any_form_is_none_of_ours() {
        for der in [
            // sha1WithRSAEncryption, ecdsa-with-SHA1, RSASSA-PSS with empty and with default parameters.
            &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05, 0x05, 0x00][..],
            &[0x30, 0x09, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01],
            &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a, 0x30, 0x00],
            &[0x30, 0x0b, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a],
        ] {
            assert_eq!(SignatureScheme::from_algorithm_identifier(der), None);
        }
    }

    #[test]
    fn pss_with_hashes_without_parameters_is_accepted() {
        // As some write it: hash identifiers without NULL (RFC 4055 section 2.1).
        let der = [
            0x30, 0x3d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a, 0x30, 0x30, 0xa0,
            0x0d, 0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0xa1, 0x1a,
            0x30, 0x18, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08, 0x30, 0x0b, 0x06,
            0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0xa2, 0x03, 0x02, 0x01, 0x20,
        ];
        assert_eq!(SignatureScheme::from_algorithm_identifier(&der), Some(SignatureScheme::RsaPssSha256));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = SignatureScheme::from_algorithm_identifier(&bytes);
        }
    }
}
