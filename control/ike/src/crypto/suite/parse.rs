//! Proposals from their names, with errors an administrator can act on.

use std::str::FromStr;

use super::{
    ADDKE_TYPES, AdditionalOffers, AesBits, Encryption, EsnChoice, EspProposal, Group, IkeProposal,
    Integrity, Prf,
};

/// Why a proposal's name is refused. The configuration is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposalError {
    /// No such algorithm.
    #[error("proposal \"{proposal}\": \"{token}\" is not an algorithm here; accepted are {accepted}")]
    Unknown {
        /// The whole name.
        proposal: String,
        /// The part at fault.
        token: String,
        /// What would be accepted.
        accepted: &'static str,
    },
    /// An algorithm that exists but must not be used, or not here.
    #[error("proposal \"{proposal}\": \"{token}\" is refused because {because}")]
    Refused {
        /// The whole name.
        proposal: String,
        /// The part at fault.
        token: String,
        /// Why, and what to write in its place.
        because: &'static str,
    },
    /// A part that a proposal needs is missing, or contradicts another.
    #[error("proposal \"{proposal}\" {fault}")]
    Incomplete {
        /// The whole name.
        proposal: String,
        /// What is missing and what to add.
        fault: &'static str,
    },
}

const IKE_TOKENS: &str = "aes128gcm16, aes256gcm16, chacha20poly1305, aes128, aes256, sha256, sha384, sha512, \
     prfsha256, prfsha384, prfsha512, x25519, ecp256, ecp384, modp2048, modp3072, modp4096, and ke1_mlkem768 \
     (ke1_ to ke7_ before a group, mlkem512, mlkem768, mlkem1024 or none)";
const ESP_TOKENS: &str = "aes128gcm16, aes256gcm16, chacha20poly1305, aes128, aes256, sha256, sha384, sha512, \
     x25519, ecp256, ecp384, modp2048, modp3072, modp4096, esn, noesn, and ke1_mlkem768 (ke1_ to ke7_ before a group, \
     mlkem512, mlkem768, mlkem1024 or none)";

enum Token {
    Encryption(Encryption),
    Integrity(Integrity),
    Prf(Prf),
    Group(Group),
    /// Transform type ADDKEn by its n, and the method; `None` is NONE.
    Additional(usize, Option<Group>),
    Esn(bool),
}

fn token(name: &str) -> Option<Token> {
    use AesBits::{Aes128, Aes256};
    Some(match name {
        "aes128gcm16" | "aes128gcm128" => Token::Encryption(Encryption::AesGcm16 { bits: Aes128 }),
        "aes256gcm16" | "aes256gcm128" => Token::Encryption(Encryption::AesGcm16 { bits: Aes256 }),
        "chacha20poly1305" => Token::Encryption(Encryption::ChaCha20Poly1305),
        "aes128" => Token::Encryption(Encryption::AesCbc { bits: Aes128 }),
        "aes256" => Token::Encryption(Encryption::AesCbc { bits: Aes256 }),
        "sha256" | "sha2_256" => Token::Integrity(Integrity::HmacSha256_128),
        "sha384" | "sha2_384" => Token::Integrity(Integrity::HmacSha384_192),
        "sha512" | "sha2_512" => Token::Integrity(Integrity::HmacSha512_256),
        "prfsha256" => Token::Prf(Prf::HmacSha256),
        "prfsha384" => Token::Prf(Prf::HmacSha384),
        "prfsha512" => Token::Prf(Prf::HmacSha512),
        "esn" => Token::Esn(true),
        "noesn" => Token::Esn(false),
        _ => return group(name).map(Token::Group).or_else(|| additional(name)),
    })
}

fn group(name: &str) -> Option<Group> {
    Some(match name {
        "modp2048" => Group::Modp2048,
        "modp3072" => Group::Modp3072,
        "modp4096" => Group::Modp4096,
        "ecp256" => Group::Ecp256,
        "ecp384" => Group::Ecp384,
        "x25519" | "curve25519" => Group::X25519,
        "mlkem512" => Group::MlKem512,
        "mlkem768" => Group::MlKem768,
        "mlkem1024" => Group::MlKem1024,
        _ => return None,
    })
}

/// `ke1_mlkem768`.
fn additional(name: &str) -> Option<Token> {
    let (number, method) = name.strip_prefix("ke")?.split_once('_')?;
    let number = (1..=ADDKE_TYPES).find(|known| number == known.to_string())?;
    let method = if method == "none" { None } else { Some(group(method)?) };
    Some(Token::Additional(number, method))
}

/// Names that other implementations accept and this one does not (RFC 8247, RFC 8221), with the reason and the remedy.
fn weakness(name: &str) -> Option<&'static str> {
    Some(match name {
        "3des" | "des" | "blowfish" | "blowfish128" | "blowfish256" | "cast128" => {
            "its 64-bit blocks leak under one key within hours (RFC 8247 section 2.1); use aes256gcm16 or aes128gcm16"
        }
        "null" => "it does not encrypt; use aes256gcm16 or aes128gcm16",
        "md5" | "md5_128" | "prfmd5" => "MD5 is broken (RFC 8247 section 2.3); use sha256",
        "sha1" | "sha" | "sha1_160" | "prfsha1" => "SHA-1 is broken (RFC 8247); use sha256 and prfsha256",
        "modp768" | "modp1024" | "modp1024s160" => {
            "a state can compute discrete logarithms of that size (RFC 8247 section 2.4); use x25519, ecp256 or modp2048"
        }
        "modp1536" | "modp2048s224" | "modp2048s256" => {
            "RFC 8247 section 2.4 advises against that group; use x25519, ecp256 or modp2048"
        }
        "ecp192" | "ecp224" => "that curve is too small; use x25519, ecp256 or ecp384",
        "aes192" | "aes192gcm16" | "aes192gcm128" | "aes192ctr" => {
            "no peer needs 192-bit keys, which RFC 8247 section 2.1 leaves out; use aes256gcm16 or aes256"
        }
        "aes128gcm8" | "aes256gcm8" | "aes128gcm64" | "aes256gcm64" | "aes128gcm12" | "aes256gcm12"
        | "aes128gcm96" | "aes256gcm96" => {
            "its short integrity check value can be forged too cheaply (RFC 8221 section 5); use aes256gcm16 or aes128gcm16"
        }
        "sha256_96" => "it is a truncation no RFC has; use sha256",
        _ => {
            let additional = (1..=ADDKE_TYPES).find_map(|number| name.strip_prefix(&format!("ke{number}_")));
            return additional.and_then(weakness);
        }
    })
}

/// PRFs that a proposal without any gets: those of its integrity algorithms, or all where it has AEADs alone.
pub(super) fn implied_prf(integrity: &[Integrity]) -> Vec<Prf> {
    match integrity {
        [] => vec![Prf::HmacSha256, Prf::HmacSha384, Prf::HmacSha512],
        integrity => integrity.iter().map(|integrity| integrity.prf()).collect(),
    }
}

#[derive(Default)]
struct Parts {
    encryption: Vec<Encryption>,
    integrity: Vec<Integrity>,
    prf: Vec<Prf>,
    groups: Vec<Group>,
    additional: AdditionalOffers,
    esn: Vec<bool>,
}

impl Parts {
    fn parse(proposal: &str, accepted: &'static str) -> Result<Self, ProposalError> {
        let mut parts = Self::default();
        for name in proposal.split('-') {
            let fresh = match token(name) {
                Some(Token::Encryption(value)) => push(&mut parts.encryption, value),
                Some(Token::Integrity(value)) => push(&mut parts.integrity, value),
                Some(Token::Prf(value)) => push(&mut parts.prf, value),
                Some(Token::Group(value)) if value.is_kem() => {
                    return Err(refused(
                        proposal,
                        name,
                        "it is to be added to a Diffie-Hellman group and not to replace it; write x25519-ke1_mlkem768",
                    ));
                }
                Some(Token::Group(value)) => push(&mut parts.groups, value),
                Some(Token::Additional(number, method)) => parts.additional.add(number, method),
                Some(Token::Esn(value)) => push(&mut parts.esn, value),
                None => {
                    let (proposal, token) = (proposal.to_owned(), name.to_owned());
                    return Err(match weakness(name) {
                        Some(because) => ProposalError::Refused { proposal, token, because },
                        None => ProposalError::Unknown { proposal, token, accepted },
                    });
                }
            };
            if !fresh {
                return Err(refused(proposal, name, "it stands there twice; write it once"));
            }
        }
        let needs_integrity = parts.encryption.iter().any(|encryption| !encryption.is_aead());
        let fault = if parts.encryption.is_empty() {
            Some("has no encryption algorithm; add one, such as aes256gcm16")
        } else if needs_integrity && parts.integrity.is_empty() {
            Some("has AES-CBC without an integrity algorithm; add sha256, or use aes256gcm16")
        } else if parts.groups.is_empty() && !parts.additional.is_empty() {
            Some("has an additional key exchange without a group to add it to; add x25519")
        } else {
            None
        };
        fault.map_or(Ok(parts), |fault| Err(incomplete(proposal, fault)))
    }

    /// Whether an integrity algorithm stands beside AEADs alone, which take none (RFC 5282 section 8).
    fn has_idle_integrity(&self) -> bool {
        self.encryption.iter().all(|encryption| encryption.is_aead()) && !self.integrity.is_empty()
    }
}

/// Whether `value` was not there yet.
fn push<T: PartialEq>(list: &mut Vec<T>, value: T) -> bool {
    let fresh = !list.contains(&value);
    list.push(value);
    fresh
}

fn refused(proposal: &str, token: &str, because: &'static str) -> ProposalError {
    ProposalError::Refused { proposal: proposal.to_owned(), token: token.to_owned(), because }
}

fn incomplete(proposal: &str, fault: &'static str) -> ProposalError {
    ProposalError::Incomplete { proposal: proposal.to_owned(), fault }
}

impl FromStr for IkeProposal {
    type Err = ProposalError;

    fn from_str(name: &str) -> Result<Self, ProposalError> {
        let mut parts = Parts::parse(name, IKE_TOKENS)?;
        if let Some(esn) = parts.esn.first() {
            let token = if *esn { "esn" } else { "noesn" };
            return Err(refused(
                name,
                token,
                "extended sequence numbers belong to ESP; write it in the child's proposal",
            ));
        }
        if parts.prf.is_empty() {
            parts.prf = implied_prf(&parts.integrity);
        }
        // `aes256gcm16-sha384-x25519`: the hash is meant for the PRF alone.
        if parts.has_idle_integrity() {
            parts.integrity.clear();
        }
        let Parts { encryption, integrity, prf, groups, additional, .. } = parts;
        if groups.is_empty() {
            return Err(incomplete(name, "has no key exchange group; add x25519, ecp256 or modp2048"));
        }
        Ok(Self { encryption, integrity, prf, groups, additional })
    }
}

impl FromStr for EspProposal {
    type Err = ProposalError;

    fn from_str(name: &str) -> Result<Self, ProposalError> {
        let parts = Parts::parse(name, ESP_TOKENS)?;
        if parts.has_idle_integrity() {
            return Err(incomplete(
                name,
                "has an integrity algorithm beside AEADs, which take none (RFC 4106); leave it out",
            ));
        }
        let Parts { encryption, integrity, prf, groups, additional, esn } = parts;
        if let Some(prf) = prf.first() {
            return Err(refused(name, &prf.to_string(), "ESP has no PRF; leave it out"));
        }
        let esn = match esn.as_slice() {
            [true] => EsnChoice::Required,
            [false] => EsnChoice::Refused,
            _ => EsnChoice::Either,
        };
        Ok(Self { encryption, integrity, groups, additional, esn })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_they_were_written() {
        for name in [
            "aes128gcm16-prfsha256-x25519",
            "aes256-sha256-modp2048",
            "aes128gcm16-aes256gcm16-prfsha256-x25519-ecp256",
            "aes128gcm16-aes256-sha384-sha256-prfsha512-ecp384-modp4096",
            "chacha20poly1305-prfsha512-modp3072",
            "aes256gcm16-prfsha384-x25519-ke1_mlkem768",
            "aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke1_none-ke3_mlkem1024-ke7_ecp384",
        ] {
            assert_eq!(name.parse::<IkeProposal>().map(|proposal| proposal.to_string()), Ok(name.to_owned()));
        }
        for name in [
            "aes128gcm16-ecp256",
            "aes256gcm16",
            "aes256-sha256",
            "aes256-sha512-sha384",
            "aes128gcm16-esn",
            "aes128gcm16-noesn",
            "aes256gcm16-x25519-ke1_mlkem512-ke2_mlkem1024-noesn",
        ] {
            assert_eq!(name.parse::<EspProposal>().map(|proposal| proposal.to_string()), Ok(name.to_owned()));
        }
    }

    #[test]
    fn aliases_and_implied_parts() {
        let proposal: IkeProposal = "aes256-sha256-curve25519".parse().unwrap();
        assert_eq!(proposal.prf(), [Prf::HmacSha256]);
        assert_eq!(proposal.groups(), [Group::X25519]);
        let proposal: IkeProposal = "aes256gcm16-sha384-x25519-ke1_mlkem768".parse().unwrap();
        assert_eq!((proposal.prf(), proposal.integrity()), (&[Prf::HmacSha384][..], &[][..]));
        assert_eq!(proposal.additional().lists()[0], [Some(Group::MlKem768)]);
        assert!(proposal.additional().lists()[1..].iter().all(Vec::is_empty));
        let proposal: IkeProposal = "aes256gcm16-ecp384".parse().unwrap();
        assert_eq!(proposal.prf(), [Prf::HmacSha256, Prf::HmacSha384, Prf::HmacSha512]);
        let proposal: EspProposal = "aes128gcm128-esn-noesn".parse().unwrap();
        assert_eq!(proposal.esn(), EsnChoice::Either);
        assert!(proposal.groups().is_empty());
    }

    #[test]
    fn the_defaults_parse_as_written() {
        for proposal in IkeProposal::defaults() {
            assert_eq!(proposal.to_string().parse(), Ok(proposal));
        }
        for proposal in EspProposal::defaults() {
            assert_eq!(proposal.to_string().parse(), Ok(proposal));
        }
    }

    #[test]
    fn weak_algorithms_are_refused_with_the_reason() {
        for (name, token) in [
            ("3des-sha256-modp2048", "3des"),
            ("aes256-sha1-modp2048", "sha1"),
            ("aes256-md5-modp2048", "md5"),
            ("aes256-sha256-modp1024", "modp1024"),
            ("aes256-sha256-modp1536", "modp1536"),
            ("des-sha256-modp2048", "des"),
            ("null-sha256-modp2048", "null"),
            ("aes256-sha256-modp768", "modp768"),
            ("aes192-sha256-modp2048", "aes192"),
            ("aes256gcm16-prfsha1-x25519", "prfsha1"),
            ("aes256gcm16-prfmd5-x25519", "prfmd5"),
            ("aes256gcm16-prfsha384-x25519-ke1_modp1024", "ke1_modp1024"),
            ("aes256gcm16-prfsha384-mlkem768", "mlkem768"),
            ("aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke1_mlkem768", "ke1_mlkem768"),
        ] {
            let error = name.parse::<IkeProposal>().unwrap_err();
            assert!(
                matches!(&error, ProposalError::Refused { token: at, .. } if at == token),
                "{name}: {error}"
            );
            assert!(error.to_string().contains("refused because"), "{error}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let said = |name: &str| name.parse::<IkeProposal>().unwrap_err().to_string();
        assert!(said("aes512gcm16-prfsha256-x25519").contains("\"aes512gcm16\" is not an algorithm here"));
        assert!(said("").contains("\"\" is not an algorithm"));
        for wrong in ["ke0_mlkem768", "ke8_mlkem768", "ke1_", "ke_mlkem768", "ke1_kyber", "ke01_mlkem768"] {
            let error = said(&format!("aes128gcm16-prfsha256-x25519-{wrong}"));
            assert!(error.contains(&format!("\"{wrong}\" is not an algorithm here")), "{error}");
            assert!(error.contains("ke1_mlkem768"), "{error}");
        }
        assert!(said("aes128gcm16-mlkem768").contains("write x25519-ke1_mlkem768"));
        assert!(said("aes128gcm16-prfsha256").contains("add x25519"));
        assert!(said("aes128-prfsha256-x25519").contains("add sha256"));
        assert!(said("aes128gcm16-aes128gcm16-prfsha256-x25519").contains("twice"));
        assert!(said("aes128gcm16-prfsha256-x25519-esn").contains("child's proposal"));
        let said = |name: &str| name.parse::<EspProposal>().unwrap_err().to_string();
        assert!(said("aes256gcm16-sha512").contains("leave it out"));
        assert!(said("aes256gcm16-ke1_mlkem768").contains("add x25519"));
        assert!(said("aes256gcm16-prfsha256").contains("no PRF"));
        assert!(said("x25519").contains("no encryption"));
    }
}
