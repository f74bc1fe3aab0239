//! The algorithms: transforms (RFC 7296 section 3.3.2), the proposals an administrator writes, and the suite of one
//! SA. Only algorithms that RFC 8247 and RFC 8221 recommend exist here; a weak one cannot even be named.

mod additional;
mod narrowed;
mod parse;

use std::fmt;

pub use additional::{ADDKE_TYPES, Additional, AdditionalOffers};
pub use parse::ProposalError;

/// Key length of AES. (192 bits: no peer needs it, RFC 8247 section 2.1.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AesBits {
    /// 128 bits.
    Aes128,
    /// 256 bits.
    Aes256,
}

impl AesBits {
    /// Length of the key in bits, as the Key Length attribute has it.
    pub const fn bits(self) -> u16 {
        match self {
            AesBits::Aes128 => 128,
            AesBits::Aes256 => 256,
        }
    }

    /// Length of the key in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            AesBits::Aes128 => 16,
            AesBits::Aes256 => 32,
        }
    }
}

/// Encryption algorithms (transform type 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encryption {
    /// ENCR_AES_GCM_16 (RFC 5282, RFC 4106).
    AesGcm16 {
        /// Key length.
        bits: AesBits,
    },
    /// ENCR_AES_CBC (RFC 3602).
    AesCbc {
        /// Key length.
        bits: AesBits,
    },
    /// ENCR_CHACHA20_POLY1305 (RFC 7634).
    ChaCha20Poly1305,
}

impl Encryption {
    /// Whether it authenticates too, so that no integrity algorithm goes with it (RFC 5282 section 8).
    pub const fn is_aead(self) -> bool {
        match self {
            Encryption::AesGcm16 { .. } | Encryption::ChaCha20Poly1305 => true,
            Encryption::AesCbc { .. } => false,
        }
    }

    /// Bytes of key material it takes: the key, and the 4-byte salt of an AEAD at its end.
    pub const fn key_len(self) -> usize {
        match self {
            Encryption::AesGcm16 { bits } => bits.bytes() + 4,
            Encryption::AesCbc { bits } => bits.bytes(),
            Encryption::ChaCha20Poly1305 => 36,
        }
    }
}

/// Integrity algorithms (transform type 3), truncated as RFC 4868 says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, reason = "IANA's names: the underscore parts hash and tag lengths")]
pub enum Integrity {
    /// AUTH_HMAC_SHA2_256_128.
    HmacSha256_128,
    /// AUTH_HMAC_SHA2_384_192.
    HmacSha384_192,
    /// AUTH_HMAC_SHA2_512_256.
    HmacSha512_256,
}

impl Integrity {
    /// Bytes of key: as many as the hash has.
    pub const fn key_len(self) -> usize {
        match self {
            Integrity::HmacSha256_128 => 32,
            Integrity::HmacSha384_192 => 48,
            Integrity::HmacSha512_256 => 64,
        }
    }

    /// Bytes of the integrity check value on the wire.
    pub const fn icv_len(self) -> usize {
        self.key_len() / 2
    }

    /// The PRF of the same hash, which a proposal that names none gets.
    pub const fn prf(self) -> Prf {
        match self {
            Integrity::HmacSha256_128 => Prf::HmacSha256,
            Integrity::HmacSha384_192 => Prf::HmacSha384,
            Integrity::HmacSha512_256 => Prf::HmacSha512,
        }
    }
}

/// Pseudorandom functions (transform type 2, RFC 4868).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Prf {
    /// PRF_HMAC_SHA2_256.
    HmacSha256,
    /// PRF_HMAC_SHA2_384.
    HmacSha384,
    /// PRF_HMAC_SHA2_512.
    HmacSha512,
}

impl Prf {
    /// Bytes of its output, which are also those of its preferred key.
    pub const fn output_len(self) -> usize {
        match self {
            Prf::HmacSha256 => 32,
            Prf::HmacSha384 => 48,
            Prf::HmacSha512 => 64,
        }
    }
}

/// Key exchange methods (transform type 4). The value is IANA's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Group {
    /// 2048-bit MODP group (RFC 3526 section 3).
    Modp2048 = 14,
    /// 3072-bit MODP group (RFC 3526 section 4).
    Modp3072 = 15,
    /// 4096-bit MODP group (RFC 3526 section 5).
    Modp4096 = 16,
    /// 256-bit random ECP group (RFC 5903).
    Ecp256 = 19,
    /// 384-bit random ECP group (RFC 5903).
    Ecp384 = 20,
    /// Curve25519 (RFC 8031).
    X25519 = 31,
    /// ML-KEM-512 (FIPS 203, draft-ietf-ipsecme-ikev2-mlkem).
    MlKem512 = 35,
    /// ML-KEM-768.
    MlKem768 = 36,
    /// ML-KEM-1024.
    MlKem1024 = 37,
}

impl Group {
    /// Every method.
    pub const ALL: [Group; 9] = [
        Group::Modp2048,
        Group::Modp3072,
        Group::Modp4096,
        Group::Ecp256,
        Group::Ecp384,
        Group::X25519,
        Group::MlKem512,
        Group::MlKem768,
        Group::MlKem1024,
    ];

    /// IANA's number.
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The group of a number, if it is one of ours.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|group| group.number() == number)
    }

    /// Whether it is a key encapsulation mechanism: too large for IKE_SA_INIT, and too young to be relied on alone, so
    /// it only ever adds to a Diffie-Hellman exchange (RFC 9370).
    pub const fn is_kem(self) -> bool {
        matches!(self, Group::MlKem512 | Group::MlKem768 | Group::MlKem1024)
    }

    /// Bytes of Key Exchange Data in a request: a public value, or an encapsulation key.
    pub const fn request_len(self) -> usize {
        match self {
            Group::Modp2048 => 256,
            Group::Modp3072 => 384,
            Group::Modp4096 => 512,
            Group::Ecp256 => 64,
            Group::Ecp384 => 96,
            Group::X25519 => 32,
            Group::MlKem512 => 800,
            Group::MlKem768 => 1184,
            Group::MlKem1024 => 1568,
        }
    }

    /// Bytes of Key Exchange Data in a response: a public value, or a ciphertext.
    pub const fn response_len(self) -> usize {
        match self {
            Group::MlKem512 => 768,
            Group::MlKem768 => 1088,
            Group::MlKem1024 => 1568,
            _ => self.request_len(),
        }
    }
}

/// What an administrator allows for an IKE SA, each list best first. Parsed from the names strongSwan uses too:
/// `aes128gcm16-aes256gcm16-prfsha256-x25519-ecp256`. Holds at least one encryption algorithm, one PRF and one group,
/// and integrity algorithms exactly if an encryption algorithm needs one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IkeProposal {
    encryption: Vec<Encryption>,
    integrity: Vec<Integrity>,
    prf: Vec<Prf>,
    groups: Vec<Group>,
    additional: AdditionalOffers,
}

impl IkeProposal {
    /// Encryption algorithms, best first.
    pub fn encryption(&self) -> &[Encryption] {
        &self.encryption
    }

    /// Integrity algorithms for those encryption algorithms that are not AEADs.
    pub fn integrity(&self) -> &[Integrity] {
        &self.integrity
    }

    /// PRFs.
    pub fn prf(&self) -> &[Prf] {
        &self.prf
    }

    /// Key exchange methods.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Additional key exchanges.
    pub fn additional(&self) -> &AdditionalOffers {
        &self.additional
    }

    /// What a connection without proposals gets: AEADs first, then AES-CBC with HMAC-SHA-2 for older peers.
    pub fn defaults() -> Vec<Self> {
        let prf = vec![Prf::HmacSha256, Prf::HmacSha384];
        let groups = vec![Group::X25519, Group::Ecp256, Group::Modp2048];
        vec![
            Self {
                encryption: vec![
                    Encryption::AesGcm16 { bits: AesBits::Aes256 },
                    Encryption::AesGcm16 { bits: AesBits::Aes128 },
                ],
                integrity: Vec::new(),
                prf: prf.clone(),
                groups: groups.clone(),
                additional: AdditionalOffers::default(),
            },
            Self {
                encryption: vec![
                    Encryption::AesCbc { bits: AesBits::Aes256 },
                    Encryption::AesCbc { bits: AesBits::Aes128 },
                ],
                integrity: vec![Integrity::HmacSha256_128, Integrity::HmacSha384_192],
                prf,
                groups,
                additional: AdditionalOffers::default(),
            },
        ]
    }
}

/// What an administrator allows for a child SA, each list best first: `aes128gcm16-ecp256` (with perfect forward
/// secrecy at each rekey), `aes256gcm16` (without), `aes256-sha256`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EspProposal {
    encryption: Vec<Encryption>,
    integrity: Vec<Integrity>,
    groups: Vec<Group>,
    additional: AdditionalOffers,
    esn: EsnChoice,
}

impl EspProposal {
    /// Encryption algorithms, best first.
    pub fn encryption(&self) -> &[Encryption] {
        &self.encryption
    }

    /// Integrity algorithms for those encryption algorithms that are not AEADs.
    pub fn integrity(&self) -> &[Integrity] {
        &self.integrity
    }

    /// Key exchange methods for perfect forward secrecy; none: without.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Additional key exchanges; none without perfect forward secrecy.
    pub fn additional(&self) -> &AdditionalOffers {
        &self.additional
    }

    /// Extended sequence numbers.
    pub fn esn(&self) -> EsnChoice {
        self.esn
    }

    /// What a child without proposals gets.
    pub fn defaults() -> Vec<Self> {
        let groups = vec![Group::X25519, Group::Ecp256, Group::Modp2048];
        vec![
            Self {
                encryption: vec![
                    Encryption::AesGcm16 { bits: AesBits::Aes256 },
                    Encryption::AesGcm16 { bits: AesBits::Aes128 },
                ],
                integrity: Vec::new(),
                groups: groups.clone(),
                additional: AdditionalOffers::default(),
                esn: EsnChoice::Either,
            },
            Self {
                encryption: vec![
                    Encryption::AesCbc { bits: AesBits::Aes256 },
                    Encryption::AesCbc { bits: AesBits::Aes128 },
                ],
                integrity: vec![Integrity::HmacSha256_128],
                groups,
                additional: AdditionalOffers::default(),
                esn: EsnChoice::Either,
            },
        ]
    }
}

/// Extended sequence numbers (transform type 5, RFC 4303 section 2.2.1) in a proposal: token `esn`, `noesn`, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EsnChoice {
    /// Preferred, but a peer without them is accepted.
    Either,
    /// Required.
    Required,
    /// Refused.
    Refused,
}

/// The algorithms of one IKE SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IkeSuite {
    /// Encryption.
    pub encryption: Encryption,
    /// Integrity; `None` exactly if the encryption is an AEAD.
    pub integrity: Option<Integrity>,
    /// Pseudorandom function.
    pub prf: Prf,
    /// Key exchange method.
    pub group: Group,
    /// Additional key exchanges.
    pub additional: Additional,
}

/// The algorithms of one pair of child SAs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EspSuite {
    /// Encryption.
    pub encryption: Encryption,
    /// Integrity; `None` exactly if the encryption is an AEAD.
    pub integrity: Option<Integrity>,
    /// Key exchange method of perfect forward secrecy; `None` for the child of IKE_AUTH and without PFS.
    pub group: Option<Group>,
    /// Additional key exchanges.
    pub additional: Additional,
    /// Extended sequence numbers.
    pub esn: bool,
}

impl fmt::Display for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Encryption::AesGcm16 { bits } => write!(f, "aes{}gcm16", bits.bits()),
            Encryption::AesCbc { bits } => write!(f, "aes{}", bits.bits()),
            Encryption::ChaCha20Poly1305 => f.write_str("chacha20poly1305"),
        }
    }
}

impl fmt::Display for Integrity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Integrity::HmacSha256_128 => "sha256",
            Integrity::HmacSha384_192 => "sha384",
            Integrity::HmacSha512_256 => "sha512",
        })
    }
}

impl fmt::Display for Prf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Prf::HmacSha256 => "prfsha256",
            Prf::HmacSha384 => "prfsha384",
            Prf::HmacSha512 => "prfsha512",
        })
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Group::Modp2048 => "modp2048",
            Group::Modp3072 => "modp3072",
            Group::Modp4096 => "modp4096",
            Group::Ecp256 => "ecp256",
            Group::Ecp384 => "ecp384",
            Group::X25519 => "x25519",
            Group::MlKem512 => "mlkem512",
            Group::MlKem768 => "mlkem768",
            Group::MlKem1024 => "mlkem1024",
        })
    }
}

/// Writes tokens with hyphens between them.
fn join(f: &mut fmt::Formatter<'_>, tokens: &[&dyn fmt::Display]) -> fmt::Result {
    for (at, token) in tokens.iter().enumerate() {
        if at > 0 {
            f.write_str("-")?;
        }
        write!(f, "{token}")?;
    }
    Ok(())
}

fn tokens<T: fmt::Display>(list: &[T]) -> impl Iterator<Item = &dyn fmt::Display> {
    list.iter().map(|token| token as &dyn fmt::Display)
}

impl fmt::Display for IkeProposal {
    /// The name, as it parses. The PRFs are left out where the integrity algorithms imply them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let implied = self.prf == parse::implied_prf(&self.integrity);
        let prf = if implied { &[] } else { self.prf.as_slice() };
        let all: Vec<_> = tokens(&self.encryption)
            .chain(tokens(&self.integrity))
            .chain(tokens(prf))
            .chain(tokens(&self.groups))
            .collect();
        join(f, &all)?;
        write!(f, "{}", self.additional)
    }
}

impl fmt::Display for EspProposal {
    /// The name, as it parses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let esn = match self.esn {
            EsnChoice::Either => "",
            EsnChoice::Required => "-esn",
            EsnChoice::Refused => "-noesn",
        };
        let all: Vec<_> =
            tokens(&self.encryption).chain(tokens(&self.integrity)).chain(tokens(&self.groups)).collect();
        join(f, &all)?;
        write!(f, "{}{esn}", self.additional)
    }
}

impl fmt::Display for IkeSuite {
    /// `aes128gcm16-prfsha256-x25519-ke1_mlkem768`, `aes256-sha256-prfsha256-modp2048`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.encryption)?;
        if let Some(integrity) = self.integrity {
            write!(f, "-{integrity}")?;
        }
        write!(f, "-{}-{}{}", self.prf, self.group, self.additional)
    }
}

impl fmt::Display for EspSuite {
    /// `aes128gcm16-ecp256-esn`, `aes256-sha256`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.encryption)?;
        if let Some(integrity) = self.integrity {
            write!(f, "-{integrity}")?;
        }
        if let Some(group) = self.group {
            write!(f, "-{group}{}", self.additional)?;
        }
        f.write_str(if self.esn { "-esn" } else { "" })
    }
}
