//! ML-KEM (FIPS 203; draft-ietf-ipsecme-ikev2-mlkem): the requester sends an encapsulation key, the responder a
//! ciphertext of the secret.

use ml_kem::kem::{Ciphertext, Decapsulate, KeyExport, TryKeyInit};
use ml_kem::{B32, Seed, ml_kem_512, ml_kem_768, ml_kem_1024};
use zeroize::{Zeroize, Zeroizing};

use crate::crypto::random::Random;
use crate::crypto::suite::Group;

/// A private key. Zeroised when dropped.
pub(super) enum DecapsulationKey {
    MlKem512(Box<ml_kem_512::DecapsulationKey>),
    MlKem768(Box<ml_kem_768::DecapsulationKey>),
    MlKem1024(Box<ml_kem_1024::DecapsulationKey>),
}

impl DecapsulationKey {
    /// A fresh key and its encapsulation key (ML-KEM.KeyGen). `None`: the group is none of ML-KEM.
    pub(super) fn generate(group: Group, random: &mut dyn Random) -> Option<(Self, Vec<u8>)> {
        let mut seed = Seed::default();
        random.fill(&mut seed);
        let made = match group {
            Group::MlKem512 => {
                let key = Box::new(ml_kem_512::DecapsulationKey::from_seed(seed));
                let public = key.encapsulation_key().to_bytes().to_vec();
                Some((Self::MlKem512(key), public))
            }
            Group::MlKem768 => {
                let key = Box::new(ml_kem_768::DecapsulationKey::from_seed(seed));
                let public = key.encapsulation_key().to_bytes().to_vec();
                Some((Self::MlKem768(key), public))
            }
            Group::MlKem1024 => {
                let key = Box::new(ml_kem_1024::DecapsulationKey::from_seed(seed));
                let public = key.encapsulation_key().to_bytes().to_vec();
                Some((Self::MlKem1024(key), public))
            }
            _ => None,
        };
        seed.zeroize();
        made
    }

    /// The secret in a ciphertext (ML-KEM.Decaps). `None`: it has not the right length.
    pub(super) fn decapsulate(&self, ciphertext: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let mut secret = match self {
            Self::MlKem512(key) => key.decapsulate_slice(ciphertext).ok()?,
            Self::MlKem768(key) => key.decapsulate_slice(ciphertext).ok()?,
            Self::MlKem1024(key) => key.decapsulate_slice(ciphertext).ok()?,
        };
        let kept = Zeroizing::new(secret.to_vec());
        secret.zeroize();
        Some(kept)
    }
}

/// A fresh secret and its ciphertext for the holder of an encapsulation key (ML-KEM.Encaps). `None`: the key fails the
/// checks of FIPS 203 section 7.2.
pub(super) fn encapsulate(
    group: Group,
    encapsulation_key: &[u8],
    random: &mut dyn Random,
) -> Option<(Vec<u8>, Zeroizing<Vec<u8>>)> {
    let mut message = B32::default();
    random.fill(&mut message);
    let made = match group {
        Group::MlKem512 => {
            let key = ml_kem_512::EncapsulationKey::new_from_slice(encapsulation_key).ok();
            key.map(|key| kept::<ml_kem::MlKem512>(key.encapsulate_deterministic(&message)))
        }
        Group::MlKem768 => {
            let key = ml_kem_768::EncapsulationKey::new_from_slice(encapsulation_key).ok();
            key.map(|key| kept::<ml_kem::MlKem768>(key.encapsulate_deterministic(&message)))
        }
        Group::MlKem1024 => {
            let key = ml_kem_1024::EncapsulationKey::new_from_slice(encapsulation_key).ok();
            key.map(|key| kept::<ml_kem::MlKem1024>(key.encapsulate_deterministic(&message)))
        }
        _ => None,
    };
    message.zeroize();
    made
}

fn kept<K: ml_kem::Kem>(
    (ciphertext, mut secret): (Ciphertext<K>, ml_kem::kem::SharedKey<K>),
) -> (Vec<u8>, Zeroizing<Vec<u8>>) {
    let kept = Zeroizing::new(secret.to_vec());
    secret.as_mut_slice().zeroize();
    (ciphertext.to_vec(), kept)
}
