//! Transforms: the algorithms of a proposal (RFC 7296 sections 3.3.2, 3.3.3 and 3.3.5).

use crate::wire::error::WireError;
use crate::wire::number::registry;
use crate::wire::reader::{Reader, length_u16};

registry! {
    /// Transform type (RFC 7296 section 3.3.2, RFC 9370 for the additional key exchanges).
    TransformType: u8 {
        Encr = 1, "ENCR";
        Prf = 2, "PRF";
        Integ = 3, "INTEG";
        /// Key exchange method, before RFC 9370: Diffie-Hellman group.
        Ke = 4, "KE";
        /// Extended sequence numbers.
        Esn = 5, "ESN";
        AddKe1 = 6, "ADDKE1";
        AddKe2 = 7, "ADDKE2";
        AddKe3 = 8, "ADDKE3";
        AddKe4 = 9, "ADDKE4";
        AddKe5 = 10, "ADDKE5";
        AddKe6 = 11, "ADDKE6";
        AddKe7 = 12, "ADDKE7";
    }
}

registry! {
    /// Encryption algorithm.
    EncrId: u16 {
        TripleDes = 3, "ENCR_3DES";
        Null = 11, "ENCR_NULL";
        AesCbc = 12, "ENCR_AES_CBC";
        AesCtr = 13, "ENCR_AES_CTR";
        AesCcm8 = 14, "ENCR_AES_CCM_8";
        AesCcm12 = 15, "ENCR_AES_CCM_12";
        AesCcm16 = 16, "ENCR_AES_CCM_16";
        AesGcm8 = 18, "ENCR_AES_GCM_8";
        AesGcm12 = 19, "ENCR_AES_GCM_12";
        AesGcm16 = 20, "ENCR_AES_GCM_16";
        NullAuthAesGmac = 21, "ENCR_NULL_AUTH_AES_GMAC";
        CamelliaCbc = 23, "ENCR_CAMELLIA_CBC";
        ChaCha20Poly1305 = 28, "ENCR_CHACHA20_POLY1305";
    }
}

registry! {
    /// Pseudorandom function.
    PrfId: u16 {
        HmacMd5 = 1, "PRF_HMAC_MD5";
        HmacSha1 = 2, "PRF_HMAC_SHA1";
        Aes128Xcbc = 4, "PRF_AES128_XCBC";
        HmacSha2_256 = 5, "PRF_HMAC_SHA2_256";
        HmacSha2_384 = 6, "PRF_HMAC_SHA2_384";
        HmacSha2_512 = 7, "PRF_HMAC_SHA2_512";
        Aes128Cmac = 8, "PRF_AES128_CMAC";
    }
}

registry! {
    /// Integrity algorithm.
    IntegId: u16 {
        None = 0, "NONE";
        HmacMd5_96 = 1, "AUTH_HMAC_MD5_96";
        HmacSha1_96 = 2, "AUTH_HMAC_SHA1_96";
        AesXcbc96 = 5, "AUTH_AES_XCBC_96";
        AesCmac96 = 8, "AUTH_AES_CMAC_96";
        Aes128Gmac = 9, "AUTH_AES_128_GMAC";
        Aes192Gmac = 10, "AUTH_AES_192_GMAC";
        Aes256Gmac = 11, "AUTH_AES_256_GMAC";
        HmacSha2_256_128 = 12, "AUTH_HMAC_SHA2_256_128";
        HmacSha2_384_192 = 13, "AUTH_HMAC_SHA2_384_192";
        HmacSha2_512_256 = 14, "AUTH_HMAC_SHA2_512_256";
    }
}

registry! {
    /// Key exchange method (before RFC 9370: Diffie-Hellman group), also the first field of a KE payload.
    KeId: u16 {
        None = 0, "NONE";
        Modp768 = 1, "768-bit MODP Group";
        Modp1024 = 2, "1024-bit MODP Group";
        Modp1536 = 5, "1536-bit MODP Group";
        Modp2048 = 14, "2048-bit MODP Group";
        Modp3072 = 15, "3072-bit MODP Group";
        Modp4096 = 16, "4096-bit MODP Group";
        Modp6144 = 17, "6144-bit MODP Group";
        Modp8192 = 18, "8192-bit MODP Group";
        Ecp256 = 19, "256-bit random ECP group";
        Ecp384 = 20, "384-bit random ECP group";
        Ecp521 = 21, "521-bit random ECP group";
        Modp1024Prime160 = 22, "1024-bit MODP Group with 160-bit Prime Order Subgroup";
        Modp2048Prime224 = 23, "2048-bit MODP Group with 224-bit Prime Order Subgroup";
        Modp2048Prime256 = 24, "2048-bit MODP Group with 256-bit Prime Order Subgroup";
        BrainpoolP256r1 = 28, "brainpoolP256r1";
        BrainpoolP384r1 = 29, "brainpoolP384r1";
        BrainpoolP512r1 = 30, "brainpoolP512r1";
        Curve25519 = 31, "Curve25519";
        Curve448 = 32, "Curve448";
        MlKem512 = 35, "ml-kem-512";
        MlKem768 = 36, "ml-kem-768";
        MlKem1024 = 37, "ml-kem-1024";
    }
}

registry! {
    /// Extended sequence numbers (RFC 4303 section 2.2.1).
    EsnId: u16 {
        No = 0, "No Extended Sequence Numbers";
        Yes = 1, "Extended Sequence Numbers";
    }
}

/// One algorithm with its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TransformId {
    /// Type 1.
    Encr(EncrId),
    /// Type 2.
    Prf(PrfId),
    /// Type 3.
    Integ(IntegId),
    /// Type 4.
    Ke(KeId),
    /// Type 5.
    Esn(EsnId),
    /// Types 6 to 12 (ADDKE; the ID is then a [`KeId`]) and all we do not know.
    Other {
        /// Its kind.
        transform_type: TransformType,
        /// Its number.
        id: u16,
    },
}

impl TransformId {
    /// Of a kind and a number; total.
    pub fn new(transform_type: TransformType, id: u16) -> Self {
        match transform_type {
            TransformType::Encr => Self::Encr(id.into()),
            TransformType::Prf => Self::Prf(id.into()),
            TransformType::Integ => Self::Integ(id.into()),
            TransformType::Ke => Self::Ke(id.into()),
            TransformType::Esn => Self::Esn(id.into()),
            transform_type => Self::Other { transform_type, id },
        }
    }

    /// Its kind.
    pub const fn transform_type(self) -> TransformType {
        match self {
            Self::Encr(_) => TransformType::Encr,
            Self::Prf(_) => TransformType::Prf,
            Self::Integ(_) => TransformType::Integ,
            Self::Ke(_) => TransformType::Ke,
            Self::Esn(_) => TransformType::Esn,
            Self::Other { transform_type, .. } => transform_type,
        }
    }

    /// Its number within its kind.
    pub const fn number(self) -> u16 {
        match self {
            Self::Encr(id) => id.number(),
            Self::Prf(id) => id.number(),
            Self::Integ(id) => id.number(),
            Self::Ke(id) => id.number(),
            Self::Esn(id) => id.number(),
            Self::Other { id, .. } => id,
        }
    }
}

impl std::fmt::Display for TransformId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Encr(id) => id.fmt(f),
            Self::Prf(id) => id.fmt(f),
            Self::Integ(id) => id.fmt(f),
            Self::Ke(id) => id.fmt(f),
            Self::Esn(id) => id.fmt(f),
            Self::Other { transform_type, id } => write!(f, "{transform_type} {id}"),
        }
    }
}

/// A transform substructure.
///
/// ```text
/// | Last Substruc |   RESERVED    |        Transform Length       |
/// |Transform Type |   RESERVED    |          Transform ID         |
/// ~                      Transform Attributes                     ~
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transform {
    /// The algorithm.
    pub id: TransformId,
    /// Attribute Key Length, in bits.
    pub key_length: Option<u16>,
    /// Attributes that are not Key Length. RFC 7296 section 3.3.6: a transform that has any we do not understand
    /// must not be chosen.
    pub other_attributes: Vec<Attribute>,
}

/// A transform attribute that is not Key Length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// Its type, 15 bits.
    pub attribute_type: u16,
    /// Its value.
    pub value: AttributeValue,
}

/// Value of a transform attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttributeValue {
    /// Type/Value format: two bytes.
    Short(u16),
    /// Type/Length/Value format.
    Long(Vec<u8>),
}

const ATTRIBUTE_FORMAT: u16 = 0x8000;
const ATTRIBUTE_KEY_LENGTH: u16 = 14;
const MORE_TRANSFORMS: u8 = 3;

/// Most attributes of one transform; RFC 7296 defines one.
pub const MAX_ATTRIBUTES: usize = 8;

impl Transform {
    /// Without attributes.
    pub const fn new(id: TransformId) -> Self {
        Self { id, key_length: None, other_attributes: Vec::new() }
    }

    /// An encryption algorithm with a key of `bits`.
    pub const fn encr(id: EncrId, bits: u16) -> Self {
        Self { id: TransformId::Encr(id), key_length: Some(bits), other_attributes: Vec::new() }
    }

    /// Reads one substructure; `last`: whether it is the last one by its proposal's count.
    pub(crate) fn parse(reader: &mut Reader<'_>, last: bool) -> Result<Self, WireError> {
        let more = reader.u8()?;
        if more != if last { 0 } else { MORE_TRANSFORMS } {
            return Err(reader.malformed("Last Substruc disagrees with the number of transforms", SECTION));
        }
        reader.u8()?;
        let length = usize::from(reader.u16()?);
        let Some(length) = length.checked_sub(4) else {
            return Err(reader.malformed("transform length is less than its header", SECTION));
        };
        let mut body = reader.sub(length)?;
        let transform_type = TransformType::from(body.u8()?);
        body.u8()?;
        let mut transform = Self::new(TransformId::new(transform_type, body.u16()?));
        while !body.is_empty() {
            transform.parse_attribute(&mut body)?;
        }
        Ok(transform)
    }

    fn parse_attribute(&mut self, body: &mut Reader<'_>) -> Result<(), WireError> {
        const RULE: &str = "RFC 7296 section 3.3.5";
        let format_and_type = body.u16()?;
        let attribute_type = format_and_type & !ATTRIBUTE_FORMAT;
        let value = if format_and_type & ATTRIBUTE_FORMAT != 0 {
            AttributeValue::Short(body.u16()?)
        } else {
            let length = usize::from(body.u16()?);
            AttributeValue::Long(body.take(length)?.to_vec())
        };
        match (attribute_type, value) {
            (ATTRIBUTE_KEY_LENGTH, AttributeValue::Short(bits)) if self.key_length.is_none() => {
                self.key_length = Some(bits);
            }
            (ATTRIBUTE_KEY_LENGTH, AttributeValue::Short(_)) => {
                return Err(body.malformed("Key Length stands twice", RULE));
            }
            (ATTRIBUTE_KEY_LENGTH, AttributeValue::Long(_)) => {
                return Err(body.malformed("Key Length must have the Type/Value format", RULE));
            }
            (attribute_type, value) => {
                if self.other_attributes.len() == MAX_ATTRIBUTES {
                    return Err(body.too_many("attributes of a transform", MAX_ATTRIBUTES));
                }
                self.other_attributes.push(Attribute { attribute_type, value });
            }
        }
        Ok(())
    }

    /// Appends the substructure.
    pub(crate) fn write(&self, last: bool, out: &mut Vec<u8>) -> Result<(), WireError> {
        let mut attributes = Vec::new();
        if let Some(bits) = self.key_length {
            attributes.extend_from_slice(&(ATTRIBUTE_FORMAT | ATTRIBUTE_KEY_LENGTH).to_be_bytes());
            attributes.extend_from_slice(&bits.to_be_bytes());
        }
        for attribute in &self.other_attributes {
            attribute.write(&mut attributes)?;
        }
        let length = length_u16("bytes of a transform", attributes.len().saturating_add(8))?;
        out.extend_from_slice(&[if last { 0 } else { MORE_TRANSFORMS }, 0]);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&[self.id.transform_type().number(), 0]);
        out.extend_from_slice(&self.id.number().to_be_bytes());
        out.extend_from_slice(&attributes);
        Ok(())
    }
}

const SECTION: &str = "RFC 7296 section 3.3.2";

impl Attribute {
    fn write(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        if self.attribute_type & ATTRIBUTE_FORMAT != 0 || self.attribute_type == ATTRIBUTE_KEY_LENGTH {
            return Err(WireError::Unwritable {
                what: "a transform attribute has a type past 15 bits, or is a second Key Length",
                rule: "RFC 7296 section 3.3.5",
            });
        }
        match &self.value {
            AttributeValue::Short(value) => {
                out.extend_from_slice(&(self.attribute_type | ATTRIBUTE_FORMAT).to_be_bytes());
                out.extend_from_slice(&value.to_be_bytes());
            }
            AttributeValue::Long(value) => {
                out.extend_from_slice(&self.attribute_type.to_be_bytes());
                out.extend_from_slice(
                    &length_u16("bytes of a transform attribute", value.len())?.to_be_bytes(),
                );
                out.extend_from_slice(value);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::number::PayloadType;

    fn parse(bytes: &[u8]) -> Result<Transform, WireError> {
        Transform::parse(&mut Reader::new(PayloadType::Sa, 0, bytes), true)
    }

    #[test]
    fn golden_aes_gcm_256() {
        let bytes = [0, 0, 0, 12, 1, 0, 0, 20, 0x80, 14, 1, 0];
        let transform = Transform::encr(EncrId::AesGcm16, 256);
        assert_eq!(parse(&bytes), Ok(transform.clone()));
        let mut out = Vec::new();
        transform.write(true, &mut out).unwrap();
        assert_eq!(out, bytes);
    }

    #[test]
    fn key_length_must_be_short_and_stand_once() {
        assert!(parse(&[0, 0, 0, 16, 1, 0, 0, 20, 0, 14, 0, 4, 0, 0, 1, 0]).is_err());
        assert!(parse(&[0, 0, 0, 16, 1, 0, 0, 20, 0x80, 14, 1, 0, 0x80, 14, 0, 128]).is_err());
    }

    #[test]
    fn lengths_that_lie_are_errors() {
        for length in [0u8, 3, 4, 7, 9, 11, 13] {
            assert!(parse(&[0, 0, 0, length, 1, 0, 0, 20, 0x80, 14, 1, 0]).is_err(), "{length}");
        }
        // A long attribute that claims more than the transform holds.
        assert!(parse(&[0, 0, 0, 12, 1, 0, 0, 20, 0, 15, 0, 1]).is_err());
        assert!(parse(&[3, 0, 0, 8, 1, 0, 0, 20]).is_err());
    }

    #[test]
    fn unknown_attributes_are_kept_and_bounded() {
        let transform = parse(&[0, 0, 0, 13, 1, 0, 0, 20, 0, 99, 0, 1, 7]).unwrap();
        let value = AttributeValue::Long(vec![7]);
        assert_eq!(transform.other_attributes, [Attribute { attribute_type: 99, value }]);
        let mut bytes = vec![0, 0, 0, 8 + 4 * 9, 1, 0, 0, 20];
        for _ in 0..9 {
            bytes.extend_from_slice(&[0x80, 99, 0, 0]);
        }
        assert!(matches!(parse(&bytes), Err(WireError::TooMany { limit: MAX_ATTRIBUTES, .. })));
    }

    #[test]
    fn every_kind_and_number_survives() {
        for transform_type in 0..=u8::MAX {
            for id in [0, 1, 12, 20, 31, 36, 0x8000, u16::MAX] {
                let parsed = TransformId::new(transform_type.into(), id);
                assert_eq!((parsed.transform_type().number(), parsed.number()), (transform_type, id));
            }
        }
    }
}
