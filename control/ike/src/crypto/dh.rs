//! Key exchange: our half of a Diffie-Hellman exchange or of a key encapsulation, and the secret both halves make.

mod mlkem;
mod modp;

use ring::agreement;
use zeroize::Zeroizing;

use self::mlkem::DecapsulationKey;
use self::modp::{Modulus, PrivateExponent};
use super::random::Random;
use super::suite::Group;

/// Why a key exchange failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DhError {
    /// The peer's Key Exchange Data has the wrong length: the peer is at fault.
    #[error("the peer's key exchange data for {group} has {found} bytes, not {expected}")]
    Length {
        /// The group.
        group: Group,
        /// Bytes received.
        found: usize,
        /// Bytes it has to have.
        expected: usize,
    },
    /// The peer's public value is none: out of range, not on the curve, or of small order (RFC 7296 section 2.12,
    /// RFC 6989), or an encapsulation key that fails the check of FIPS 203 section 7.2. A broken or hostile peer is at
    /// fault.
    #[error(
        "the peer's public value for {group} is not a valid one; its implementation is broken, or it attacks"
    )]
    InvalidPublic {
        /// The group.
        group: Group,
    },
    /// We could not make a key: the kernel's random numbers failed.
    #[error("could not make a key for {group}: the kernel gave no random numbers")]
    Generate {
        /// The group.
        group: Group,
    },
}

/// What both sides of a key exchange know and nobody else: g^ir, or the encapsulated key. Zeroised when dropped, never
/// shown.
pub struct SharedSecret(Zeroizing<Vec<u8>>);

impl SharedSecret {
    /// The octets that key derivation takes (RFC 7296 section 2.14: big-endian, of the modulus' length; ECP: the x
    /// coordinate, RFC 5903 section 7; X25519: as RFC 7748 has them).
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A secret to derive known keys from.
    #[cfg(test)]
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl std::fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedSecret(…)")
    }
}

/// The requester's half of one exchange. Used once: [`agree`](KeyShare::agree) takes it.
pub struct KeyShare {
    group: Group,
    public: Vec<u8>,
    private: Private,
}

enum Private {
    Ring(agreement::EphemeralPrivateKey),
    Modp(PrivateExponent),
    MlKem(DecapsulationKey),
}

impl KeyShare {
    /// Makes a fresh key. *ring* takes its own randomness from the kernel for X25519 and ECP; MODP exponents and seeds of
    /// ML-KEM come from `random`.
    pub fn generate(group: Group, random: &mut dyn Random) -> Result<Self, DhError> {
        let (private, public) = match group {
            Group::X25519 => generate_ring(&agreement::X25519).ok_or(DhError::Generate { group })?,
            Group::Ecp256 => generate_ring(&agreement::ECDH_P256).ok_or(DhError::Generate { group })?,
            Group::Ecp384 => generate_ring(&agreement::ECDH_P384).ok_or(DhError::Generate { group })?,
            Group::Modp2048 => generate_modp(Modulus::Bits2048, random),
            Group::Modp3072 => generate_modp(Modulus::Bits3072, random),
            Group::Modp4096 => generate_modp(Modulus::Bits4096, random),
            Group::MlKem512 | Group::MlKem768 | Group::MlKem1024 => {
                let (private, public) =
                    DecapsulationKey::generate(group, random).ok_or(DhError::Generate { group })?;
                (Private::MlKem(private), public)
            }
        };
        // ring writes a point as 04 | x | y; on the wire stands x | y alone (RFC 5903 section 7).
        let public = match (group, public.split_first()) {
            (Group::Ecp256 | Group::Ecp384, Some((0x04, xy))) => xy.to_vec(),
            _ => public,
        };
        Ok(Self { group, public, private })
    }

    /// The group.
    pub fn group(&self) -> Group {
        self.group
    }

    /// Key Exchange Data to send: MODP left-padded to the modulus' length, ECP x | y (RFC 5903 section 7), X25519 and
    /// encapsulation keys as they are.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// Whether `public` can be the value of a request, as far as that is cheap to say: the length, and of MODP the range.
    /// The rest (whether a point lies on its curve) shows when it is used.
    pub fn check_public(group: Group, public: &[u8]) -> Result<(), DhError> {
        check_length(group, public, group.request_len())?;
        let in_range = match group {
            Group::Modp2048 => Modulus::Bits2048.is_public(public),
            Group::Modp3072 => Modulus::Bits3072.is_public(public),
            Group::Modp4096 => Modulus::Bits4096.is_public(public),
            _ => true,
        };
        if in_range { Ok(()) } else { Err(DhError::InvalidPublic { group }) }
    }

    /// The secret shared with the peer that answered with `response` as Key Exchange Data. A ciphertext that was not
    /// made for our encapsulation key gives a secret that the peer does not have (FIPS 203 section 6.3).
    pub fn agree(self, response: &[u8]) -> Result<SharedSecret, DhError> {
        let Self { group, private, .. } = self;
        check_length(group, response, group.response_len())?;
        let secret = match private {
            Private::Ring(private) => {
                let point = match group {
                    Group::Ecp256 | Group::Ecp384 => [&[0x04], response].concat(),
                    _ => response.to_vec(),
                };
                // ring refuses points off the curve and (RFC 7748 section 6.1) an all-zero result. Of a product
                // on an ECP curve it gives x alone, as RFC 5903 section 7 wants.
                let peer = agreement::UnparsedPublicKey::new(private.algorithm(), point);
                agreement::agree_ephemeral(private, &peer, |secret| Zeroizing::new(secret.to_vec())).ok()
            }
            Private::Modp(private) => private.power(response),
            Private::MlKem(private) => private.decapsulate(response),
        };
        secret.map(SharedSecret).ok_or(DhError::InvalidPublic { group })
    }
}

/// The responder's half of one exchange: what to answer to the Key Exchange Data of a request, and the secret.
pub fn respond(
    group: Group,
    request: &[u8],
    random: &mut dyn Random,
) -> Result<(Vec<u8>, SharedSecret), DhError> {
    KeyShare::check_public(group, request)?;
    if group.is_kem() {
        let (ciphertext, secret) =
            mlkem::encapsulate(group, request, random).ok_or(DhError::InvalidPublic { group })?;
        return Ok((ciphertext, SharedSecret(secret)));
    }
    let share = KeyShare::generate(group, random)?;
    let public = share.public().to_vec();
    Ok((public, share.agree(request)?))
}

fn check_length(group: Group, data: &[u8], expected: usize) -> Result<(), DhError> {
    match data.len() {
        found if found != expected => Err(DhError::Length { group, found, expected }),
        _ => Ok(()),
    }
}

fn generate_ring(algorithm: &'static agreement::Algorithm) -> Option<(Private, Vec<u8>)> {
    let private =
        agreement::EphemeralPrivateKey::generate(algorithm, &ring::rand::SystemRandom::new()).ok()?;
    let public = private.compute_public_key().ok()?.as_ref().to_vec();
    Some((Private::Ring(private), public))
}

fn generate_modp(modulus: Modulus, random: &mut dyn Random) -> (Private, Vec<u8>) {
    let private = PrivateExponent::generate(modulus, random);
    let public = private.public();
    (Private::Modp(private), public)
}

impl std::fmt::Debug for KeyShare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyShare").field("group", &self.group).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod vectors;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::random::{SeededRandom, SystemRandom};
    use proptest::prelude::*;

    fn unhex(hex: &str) -> Vec<u8> {
        hex.as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    #[test]
    fn both_sides_agree_and_the_wire_form_has_its_length() {
        let mut random = SystemRandom::new();
        for group in Group::ALL {
            let ours = KeyShare::generate(group, &mut random).unwrap();
            let request = ours.public().to_vec();
            let (response, theirs) = respond(group, &request, &mut random).unwrap();
            assert_eq!((request.len(), response.len()), (group.request_len(), group.response_len()));
            assert_ne!(request, response);
            let secret_a = ours.agree(&response).unwrap();
            assert_eq!(secret_a.as_bytes(), theirs.as_bytes());
            let expected_len = match group {
                Group::Ecp256 | Group::X25519 => 32,
                Group::Ecp384 => 48,
                Group::MlKem512 | Group::MlKem768 | Group::MlKem1024 => 32,
                _ => group.request_len(),
            };
            assert_eq!(secret_a.as_bytes().len(), expected_len, "{group}");
        }
    }

    #[test]
    fn wrong_lengths_are_refused() {
        let mut random = SystemRandom::new();
        for group in Group::ALL {
            let expected = group.response_len();
            for found in [0, 1, expected - 1, expected + 1] {
                let share = KeyShare::generate(group, &mut random).unwrap();
                let error = DhError::Length { group, found, expected };
                assert_eq!(share.agree(&vec![2; found]).unwrap_err(), error);
            }
            let expected = group.request_len();
            for found in [0, 1, expected - 1, expected + 1] {
                let error = DhError::Length { group, found, expected };
                assert_eq!(respond(group, &vec![2; found], &mut random).unwrap_err(), error);
            }
        }
    }

    #[test]
    fn values_that_are_no_public_keys_are_refused() {
        let mut random = SystemRandom::new();
        for group in Group::ALL.into_iter().filter(|group| !group.is_kem()) {
            let zero = vec![0; group.request_len()];
            let mut one = zero.clone();
            *one.last_mut().unwrap() = 1;
            let mut values = vec![zero, one];
            if group == Group::X25519 {
                // The other points of small order (RFC 7748 section 7, in the clamped ladder all give zero).
                values = vec![vec![0; 32]];
                values.push(unhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"));
                values.push(unhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"));
                values.push(unhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"));
            } else {
                values.push(vec![0xff; group.request_len()]);
            }
            for value in values {
                let share = KeyShare::generate(group, &mut random).unwrap();
                assert_eq!(share.agree(&value).unwrap_err(), DhError::InvalidPublic { group });
                assert_eq!(
                    respond(group, &value, &mut random).unwrap_err(),
                    DhError::InvalidPublic { group }
                );
            }
        }
    }

    #[test]
    fn an_encapsulation_key_with_a_coefficient_past_the_modulus_is_refused() {
        let mut random = SystemRandom::new();
        for group in [Group::MlKem512, Group::MlKem768, Group::MlKem1024] {
            let good = KeyShare::generate(group, &mut random).unwrap().public().to_vec();
            assert!(respond(group, &good, &mut random).is_ok());
            // Two coefficients of 12 bits in three bytes (FIPS 203 section 7.2: each below 3329).
            for at in [0, 3, good.len() - 32 - 3] {
                for bytes in [[0x01, 0x0d, 0x00], [0xff, 0x0f, 0x00], [0x00, 0x10, 0xd0], [0xff; 3]] {
                    let mut bad = good.clone();
                    bad[at..at + 3].copy_from_slice(&bytes);
                    let error = respond(group, &bad, &mut random).unwrap_err();
                    assert_eq!(error, DhError::InvalidPublic { group }, "{at} {bytes:?}");
                }
            }
        }
    }

    #[test]
    fn a_changed_ciphertext_gives_another_secret() {
        let mut random = SystemRandom::new();
        for group in [Group::MlKem512, Group::MlKem768, Group::MlKem1024] {
            let share = KeyShare::generate(group, &mut random).unwrap();
            let (mut ciphertext, secret) = respond(group, share.public(), &mut random).unwrap();
            ciphertext[5] ^= 4;
            assert_ne!(share.agree(&ciphertext).unwrap().as_bytes(), secret.as_bytes());
        }
    }

    #[test]
    fn a_point_off_the_curve_is_refused_and_one_on_it_is_taken() {
        // gi of RFC 5903 section 8.1.
        let point = unhex(
            "DAD0B65394221CF9B051E1FECA5787D098DFE637FC90B9EF945D0C37725811805271A0461CDB8252D61F1C456FA3E59AB1F45B33ACCF5F58389E0577B8990BB3",
        );
        let share = |random: &mut SystemRandom| KeyShare::generate(Group::Ecp256, random).unwrap();
        let mut random = SystemRandom::new();
        assert_eq!(share(&mut random).agree(&point).unwrap().as_bytes().len(), 32);
        let mut off = point;
        *off.last_mut().unwrap() ^= 1;
        assert_eq!(
            share(&mut random).agree(&off).unwrap_err(),
            DhError::InvalidPublic { group: Group::Ecp256 }
        );
    }

    #[test]
    fn what_can_be_no_public_value_is_told_without_a_key() {
        for group in [Group::Modp2048, Group::Modp3072, Group::Modp4096] {
            let mut value = vec![0; group.request_len()];
            let invalid = Err(DhError::InvalidPublic { group });
            assert_eq!(KeyShare::check_public(group, &value), invalid);
            *value.last_mut().unwrap() = 2;
            assert_eq!(KeyShare::check_public(group, &value), Ok(()));
            value.fill(0xff);
            assert_eq!(KeyShare::check_public(group, &value), invalid, "the prime itself");
            let (found, expected) = (value.len() - 1, value.len());
            let error = Err(DhError::Length { group, found, expected });
            assert_eq!(KeyShare::check_public(group, &value[1..]), error);
        }
        assert!(KeyShare::check_public(Group::Ecp256, &[1; 65]).is_err());
        assert_eq!(KeyShare::check_public(Group::X25519, &[1; 32]), Ok(()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let groups = [Group::Modp2048, Group::Ecp256, Group::Ecp384, Group::X25519, Group::MlKem768];
            for group in groups {
                let mut random = SeededRandom::new(1);
                for len in [bytes.len(), group.request_len(), group.response_len()] {
                    let mut sized = bytes.clone();
                    sized.resize(len, 0);
                    let _ = KeyShare::generate(group, &mut random).unwrap().agree(&sized);
                    let _ = respond(group, &sized, &mut random);
                }
            }
        }
    }
}
