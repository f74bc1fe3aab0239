//! The Encrypted payload and Encrypted Fragment payload (RFC 7296 section 3.14, RFC 7383, RFC 5282, RFC 7634).
//!
//! ```text
//! | IKE header … payload header [fragment numbers] | IV | payloads | padding | Pad Length | ICV |
//! |<------------------ aad_prefix ---------------->|<----------------- body ----------------->|
//! ```
//!
//! AEADs authenticate the prefix as associated data; with CBC the HMAC goes over prefix, IV and ciphertext.

use aes::{Aes128, Aes256};
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use ring::{aead, hmac};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::random::Random;
use super::suite::{AesBits, Encryption, IkeSuite, Integrity};

/// Bytes of IV of the AEADs, which is a counter here (RFC 5282 section 3.1, RFC 7634 section 2).
const AEAD_IV: usize = 8;
/// Bytes of tag of the AEADs.
const AEAD_TAG: usize = 16;
/// Bytes of a block of AES, and of CBC's IV.
const BLOCK: usize = 16;

/// Why a message could not be sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SkError {
    /// The body is too short for its IV, padding and integrity check value, or (CBC) no whole number of blocks.
    #[error("the encrypted payload has {0} bytes, which cannot be: it is cut off, or of another suite")]
    Length(usize),
    /// The integrity check failed. Someone on the path at fault, a peer with other keys, or a forger.
    #[error("the integrity check of an encrypted payload failed: forged, damaged, or under other keys")]
    Integrity,
    /// Authentic, but its Pad Length is more than there is: the peer is at fault.
    #[error("the peer padded an encrypted payload wrongly")]
    Padding,
    /// A key of the wrong length, or no integrity algorithm where the suite needs one: our own fault.
    #[error("keys do not fit the suite {0}")]
    Keys(IkeSuite),
    /// This direction's IVs are used up: rekey the IKE SA.
    #[error("the IVs of this IKE SA are used up; it must be rekeyed")]
    Exhausted,
}

/// One direction of an IKE SA: seals what we send, or opens what the peer sends. Make one for each direction; sealing
/// with two ciphers of one key would repeat IVs.
pub struct SkCipher {
    suite: IkeSuite,
    transform: Transform,
}

enum Transform {
    Aead { key: Box<aead::LessSafeKey>, salt: [u8; 4], next_iv: Option<u64> },
    CbcHmac { key: Zeroizing<Vec<u8>>, bits: AesBits, hmac: hmac::Key, icv_len: usize },
}

impl SkCipher {
    /// `sk_e` with the salt at its end for AEADs; `sk_a` empty for them.
    pub fn new(suite: &IkeSuite, sk_e: &[u8], sk_a: &[u8]) -> Result<Self, SkError> {
        let transform = match (suite.encryption, suite.integrity) {
            (Encryption::AesGcm16 { bits: AesBits::Aes128 }, None) => aead(&aead::AES_128_GCM, sk_e),
            (Encryption::AesGcm16 { bits: AesBits::Aes256 }, None) => aead(&aead::AES_256_GCM, sk_e),
            (Encryption::ChaCha20Poly1305, None) => aead(&aead::CHACHA20_POLY1305, sk_e),
            (Encryption::AesCbc { bits }, Some(integrity)) => cbc_hmac(bits, integrity, sk_e, sk_a),
            _ => None,
        };
        let fits = suite.integrity.is_some() || sk_a.is_empty();
        match transform {
            Some(transform) if fits => Ok(Self { suite: *suite, transform }),
            _ => Err(SkError::Keys(*suite)),
        }
    }

    /// Bytes that `seal` makes of so many bytes of payloads: IV, ciphertext with padding, integrity check value. The
    /// lengths in the IKE header and the payload's header have to be filled in with it before sealing, as they are
    /// authenticated.
    pub fn sealed_len(&self, plaintext_len: usize) -> usize {
        match &self.transform {
            Transform::Aead { .. } => AEAD_IV + plaintext_len + 1 + AEAD_TAG,
            Transform::CbcHmac { icv_len, .. } => {
                BLOCK + (plaintext_len + 1).next_multiple_of(BLOCK) + icv_len
            }
        }
    }

    /// The most bytes of payloads that seal into `sealed_len` bytes, for cutting a message into fragments (RFC 7383
    /// section 2.5); `None` if not even an empty one does.
    pub fn plaintext_len(&self, sealed_len: usize) -> Option<usize> {
        match &self.transform {
            Transform::Aead { .. } => sealed_len.checked_sub(AEAD_IV + 1 + AEAD_TAG),
            Transform::CbcHmac { icv_len, .. } => {
                let ciphertext = sealed_len.checked_sub(BLOCK + icv_len)?;
                (ciphertext - ciphertext % BLOCK).checked_sub(1)
            }
        }
    }

    /// The body after the payload's header (and for SKF after the fragment numbers). `aad_prefix` is the message from the
    /// IKE header to there, with final lengths.
    pub fn seal(
        &mut self,
        random: &mut dyn Random,
        aad_prefix: &[u8],
        plaintext: &[u8],
    ) -> Result<Vec<u8>, SkError> {
        let mut body = Vec::with_capacity(self.sealed_len(plaintext.len()));
        match &mut self.transform {
            Transform::Aead { key, salt, next_iv } => {
                let iv = next_iv.ok_or(SkError::Exhausted)?;
                *next_iv = iv.checked_add(1);
                let iv = iv.to_be_bytes();
                body.extend_from_slice(&iv);
                body.extend_from_slice(plaintext);
                // Pad Length 0: these ciphers need no padding.
                body.push(0);
                let (_, in_place) = body.split_at_mut(AEAD_IV);
                let tag = key
                    .seal_in_place_separate_tag(nonce(*salt, iv), aead::Aad::from(aad_prefix), in_place)
                    .map_err(|_| SkError::Length(plaintext.len()))?;
                body.extend_from_slice(tag.as_ref());
            }
            Transform::CbcHmac { key, bits, hmac, icv_len } => {
                let mut iv = [0; BLOCK];
                random.fill(&mut iv);
                let padding = (plaintext.len() + 1).next_multiple_of(BLOCK) - (plaintext.len() + 1);
                body.extend_from_slice(&iv);
                body.extend_from_slice(plaintext);
                body.resize(body.len() + padding, 0);
                body.push(u8::try_from(padding).map_err(|_| SkError::Padding)?);
                let (_, in_place) = body.split_at_mut(BLOCK);
                let sealed = match bits {
                    AesBits::Aes128 => encrypt::<cbc::Encryptor<Aes128>>(key, &iv, in_place),
                    AesBits::Aes256 => encrypt::<cbc::Encryptor<Aes256>>(key, &iv, in_place),
                };
                sealed.ok_or(SkError::Keys(self.suite))?;
                let tag = tag(hmac, aad_prefix, &body);
                body.extend(tag.as_ref().iter().take(*icv_len));
            }
        }
        Ok(body)
    }

    /// The payloads inside `body`, which is everything after `aad_prefix`.
    pub fn open(&self, aad_prefix: &[u8], body: &[u8]) -> Result<Zeroizing<Vec<u8>>, SkError> {
        let mut plaintext = match &self.transform {
            Transform::Aead { key, salt, .. } => {
                let Some((iv, sealed)) = body.split_first_chunk::<AEAD_IV>() else {
                    return Err(SkError::Length(body.len()));
                };
                // At least a Pad Length under the tag.
                if sealed.len() <= AEAD_TAG {
                    return Err(SkError::Length(body.len()));
                }
                let mut in_place = Zeroizing::new(sealed.to_vec());
                let len = key
                    .open_in_place(nonce(*salt, *iv), aead::Aad::from(aad_prefix), &mut in_place)
                    .map_err(|_| SkError::Integrity)?
                    .len();
                in_place.truncate(len);
                in_place
            }
            Transform::CbcHmac { key, bits, hmac, icv_len } => {
                let authenticated = body.len().checked_sub(*icv_len).and_then(|at| body.split_at_checked(at));
                let Some((authenticated, icv)) = authenticated else {
                    return Err(SkError::Length(body.len()));
                };
                let Some((iv, ciphertext)) = authenticated.split_first_chunk::<BLOCK>() else {
                    return Err(SkError::Length(body.len()));
                };
                if ciphertext.is_empty() || ciphertext.len() % BLOCK != 0 {
                    return Err(SkError::Length(body.len()));
                }
                let tag = tag(hmac, aad_prefix, authenticated);
                let expected = tag.as_ref().get(..*icv_len).ok_or(SkError::Keys(self.suite))?;
                if !bool::from(expected.ct_eq(icv)) {
                    return Err(SkError::Integrity);
                }
                let mut in_place = Zeroizing::new(ciphertext.to_vec());
                let opened = match bits {
                    AesBits::Aes128 => decrypt::<cbc::Decryptor<Aes128>>(key, iv, &mut in_place),
                    AesBits::Aes256 => decrypt::<cbc::Decryptor<Aes256>>(key, iv, &mut in_place),
                };
                opened.ok_or(SkError::Keys(self.suite))?;
                in_place
            }
        };
        // The padding's contents mean nothing (RFC 7296 section 3.14); only authentic bytes come here.
        let pad_len = plaintext.last().copied().ok_or(SkError::Padding)?;
        let len = plaintext.len().checked_sub(1 + usize::from(pad_len)).ok_or(SkError::Padding)?;
        plaintext.truncate(len);
        Ok(plaintext)
    }
}

fn aead(algorithm: &'static aead::Algorithm, sk_e: &[u8]) -> Option<Transform> {
    let (key, salt) = sk_e.split_last_chunk::<4>()?;
    let key = aead::UnboundKey::new(algorithm, key).ok()?;
    Some(Transform::Aead { key: Box::new(aead::LessSafeKey::new(key)), salt: *salt, next_iv: Some(0) })
}

fn cbc_hmac(bits: AesBits, integrity: Integrity, sk_e: &[u8], sk_a: &[u8]) -> Option<Transform> {
    if sk_e.len() != bits.bytes() || sk_a.len() != integrity.key_len() {
        return None;
    }
    let algorithm = match integrity {
        Integrity::HmacSha256_128 => hmac::HMAC_SHA256,
        Integrity::HmacSha384_192 => hmac::HMAC_SHA384,
        Integrity::HmacSha512_256 => hmac::HMAC_SHA512,
    };
    Some(Transform::CbcHmac {
        key: Zeroizing::new(sk_e.to_vec()),
        bits,
        hmac: hmac::Key::new(algorithm, sk_a),
        icv_len: integrity.icv_len(),
    })
}

/// Salt | IV (RFC 5282 section 4, RFC 7634 section 2).
fn nonce(salt: [u8; 4], iv: [u8; AEAD_IV]) -> aead::Nonce {
    let mut nonce = [0; aead::NONCE_LEN];
    for (to, from) in nonce.iter_mut().zip(salt.iter().chain(&iv)) {
        *to = *from;
    }
    aead::Nonce::assume_unique_for_key(nonce)
}

fn tag(key: &hmac::Key, aad_prefix: &[u8], iv_and_ciphertext: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    context.update(aad_prefix);
    context.update(iv_and_ciphertext);
    context.sign()
}

/// Whole blocks in place; `None` if the key's length is wrong or bytes are left over, neither of which the caller lets
/// happen.
fn encrypt<C>(key: &[u8], iv: &[u8], bytes: &mut [u8]) -> Option<()>
where
    C: KeyIvInit + BlockModeEncrypt<BlockSize = <Aes128 as cbc::cipher::BlockSizeUser>::BlockSize>,
{
    let (blocks, rest) = aes::Block::slice_as_chunks_mut(bytes);
    C::new_from_slices(key, iv).ok()?.encrypt_blocks(blocks);
    rest.is_empty().then_some(())
}

fn decrypt<C>(key: &[u8], iv: &[u8], bytes: &mut [u8]) -> Option<()>
where
    C: KeyIvInit + BlockModeDecrypt<BlockSize = <Aes128 as cbc::cipher::BlockSizeUser>::BlockSize>,
{
    let (blocks, rest) = aes::Block::slice_as_chunks_mut(bytes);
    C::new_from_slices(key, iv).ok()?.decrypt_blocks(blocks);
    rest.is_empty().then_some(())
}

impl std::fmt::Debug for SkCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SkCipher({}, …)", self.suite)
    }
}

#[cfg(test)]
mod vectors;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::random::SeededRandom;
    use crate::crypto::suite::{Additional, Group, Prf};
    use proptest::prelude::*;

    const PREFIX: &[u8] = b"IKE header and payload header";

    fn suites() -> Vec<IkeSuite> {
        use AesBits::{Aes128, Aes256};
        let suite = |encryption, integrity| IkeSuite {
            encryption,
            integrity,
            prf: Prf::HmacSha256,
            group: Group::X25519,
            additional: Additional::NONE,
        };
        let mut suites = vec![
            suite(Encryption::AesGcm16 { bits: Aes128 }, None),
            suite(Encryption::AesGcm16 { bits: Aes256 }, None),
            suite(Encryption::ChaCha20Poly1305, None),
        ];
        for bits in [Aes128, Aes256] {
            for integrity in [Integrity::HmacSha256_128, Integrity::HmacSha384_192, Integrity::HmacSha512_256]
            {
                suites.push(suite(Encryption::AesCbc { bits }, Some(integrity)));
            }
        }
        suites
    }

    fn cipher(suite: &IkeSuite, seed: u8) -> SkCipher {
        let sk_e = vec![seed; suite.encryption.key_len()];
        let sk_a = vec![seed ^ 0xff; suite.integrity.map_or(0, |integrity| integrity.key_len())];
        SkCipher::new(suite, &sk_e, &sk_a).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_and_has_the_foretold_length() {
        let mut random = SeededRandom::new(1);
        for suite in suites() {
            let mut cipher = cipher(&suite, 7);
            for len in 0..70 {
                let plaintext = random.next_bytes(len);
                let body = cipher.seal(&mut random, PREFIX, &plaintext).unwrap();
                assert_eq!(body.len(), cipher.sealed_len(len), "{suite} {len}");
                assert_eq!(cipher.open(PREFIX, &body).unwrap().as_slice(), plaintext);
                let most = cipher.plaintext_len(body.len()).unwrap();
                assert!(most >= len && cipher.sealed_len(most) == body.len());
                assert!(cipher.sealed_len(most + 1) > body.len());
            }
            assert_eq!(cipher.plaintext_len(cipher.sealed_len(0) - 1), None);
        }
    }

    #[test]
    fn every_bit_counts() {
        let mut random = SeededRandom::new(2);
        for suite in suites() {
            let mut cipher = cipher(&suite, 7);
            let body = cipher.seal(&mut random, PREFIX, b"payloads").unwrap();
            for bit in 0..body.len() * 8 {
                let mut forged = body.clone();
                forged[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(cipher.open(PREFIX, &forged).unwrap_err(), SkError::Integrity);
            }
            let mut prefix = PREFIX.to_vec();
            prefix[0] ^= 1;
            assert_eq!(cipher.open(&prefix, &body).unwrap_err(), SkError::Integrity);
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        let mut random = SeededRandom::new(3);
        for suite in suites() {
            let mut cipher = cipher(&suite, 7);
            let body = cipher.seal(&mut random, PREFIX, &[1; 40]).unwrap();
            for len in 0..body.len() {
                let error = cipher.open(PREFIX, &body[..len]).unwrap_err();
                assert!(matches!(error, SkError::Length(_) | SkError::Integrity), "{error}");
            }
        }
    }

    #[test]
    fn other_keys_do_not_open() {
        let mut random = SeededRandom::new(4);
        for suite in suites() {
            let body = cipher(&suite, 7).seal(&mut random, PREFIX, b"payloads").unwrap();
            assert_eq!(cipher(&suite, 8).open(PREFIX, &body).unwrap_err(), SkError::Integrity);
        }
    }

    #[test]
    fn ivs_never_repeat_and_run_out() {
        let mut random = SeededRandom::new(5);
        for suite in suites() {
            let mut cipher = cipher(&suite, 7);
            let one = cipher.seal(&mut random, PREFIX, b"payloads").unwrap();
            let two = cipher.seal(&mut random, PREFIX, b"payloads").unwrap();
            assert_ne!(one[..8], two[..8]);
            if let Transform::Aead { next_iv, .. } = &mut cipher.transform {
                *next_iv = Some(u64::MAX);
                assert!(cipher.seal(&mut random, PREFIX, b"payloads").is_ok());
                assert_eq!(cipher.seal(&mut random, PREFIX, b"payloads"), Err(SkError::Exhausted));
            }
        }
    }

    #[test]
    fn the_longest_padding_opens_and_one_more_is_refused() {
        let mut random = SeededRandom::new(6);
        // A peer may pad more than it needs: seal "payloads" that end in a Pad Length of their own, then drop ours by
        // choosing their length so that ours is 0.
        for suite in suites().into_iter().filter(|suite| suite.integrity.is_some()) {
            let SkCipher { transform: Transform::CbcHmac { key, bits, hmac, icv_len }, .. } =
                cipher(&suite, 7)
            else {
                unreachable!("the suite has an integrity algorithm");
            };
            for (pad_len, expected) in [(31, Ok(0)), (15, Ok(16)), (32, Err(SkError::Padding))] {
                let mut body = random.next_bytes(BLOCK);
                let iv = body.clone();
                let mut padded = vec![9; 32];
                padded[31] = pad_len;
                match bits {
                    AesBits::Aes128 => encrypt::<cbc::Encryptor<Aes128>>(&key, &iv, &mut padded).unwrap(),
                    AesBits::Aes256 => encrypt::<cbc::Encryptor<Aes256>>(&key, &iv, &mut padded).unwrap(),
                }
                body.extend(padded);
                let icv = tag(&hmac, PREFIX, &body);
                body.extend(&icv.as_ref()[..icv_len]);
                assert_eq!(cipher(&suite, 7).open(PREFIX, &body).map(|payloads| payloads.len()), expected);
            }
        }
    }

    #[test]
    fn keys_that_do_not_fit_are_refused() {
        for suite in suites() {
            let sk_e = vec![0; suite.encryption.key_len()];
            let sk_a = vec![0; suite.integrity.map_or(0, |integrity| integrity.key_len())];
            assert!(SkCipher::new(&suite, &sk_e[1..], &sk_a).is_err());
            assert!(SkCipher::new(&suite, &[], &sk_a).is_err());
            assert!(SkCipher::new(&suite, &sk_e, &[&sk_a[..], &[0]].concat()).is_err());
            let contrary = if suite.integrity.is_some() { None } else { Some(Integrity::HmacSha256_128) };
            let broken = IkeSuite { integrity: contrary, ..suite };
            assert_eq!(SkCipher::new(&broken, &sk_e, &[0; 32]).unwrap_err(), SkError::Keys(broken));
        }
    }

    #[test]
    fn what_another_program_sealed_opens() {
        // By Python's cryptography package; the AEADs with 3 bytes of padding, which a peer may add.
        use AesBits::{Aes128, Aes256};
        for (encryption, integrity, body) in [
            (
                Encryption::AesGcm16 { bits: Aes128 },
                None,
                "1011121314151617e5d04922015200916d2d15d434f40bce9d4c52207dcc48b9fc4bebf70cbd9750",
            ),
            (
                Encryption::AesGcm16 { bits: Aes256 },
                None,
                "1011121314151617db923ed6e51961c609e30cc89d7488251229ad769075e17baf9c6fb9dc280e7f",
            ),
            (
                Encryption::ChaCha20Poly1305,
                None,
                "101112131415161702c04bf8d810a583576222f214de7b07afb8505789fdc9e9b265a50861562f36",
            ),
            (
                Encryption::AesCbc { bits: Aes128 },
                Some(Integrity::HmacSha256_128),
                "202122232425262728292a2b2c2d2e2fe5b7153cdb6f4ba9f71f0edc10a1d98da4a58d48a5856418c4c83a92d9568eba",
            ),
            (
                Encryption::AesCbc { bits: Aes128 },
                Some(Integrity::HmacSha512_256),
                "202122232425262728292a2b2c2d2e2fe5b7153cdb6f4ba9f71f0edc10a1d98dde9b7295cf38d3c6aecf094c84f0b4c3008e82e81de30f0070ca5f1708510755",
            ),
            (
                Encryption::AesCbc { bits: Aes256 },
                Some(Integrity::HmacSha256_128),
                "202122232425262728292a2b2c2d2e2ff558a9e3ae73aca077dde133163c3dedfb09cfcdfc836a236332d8a1f90cebd6",
            ),
            (
                Encryption::AesCbc { bits: Aes256 },
                Some(Integrity::HmacSha512_256),
                "202122232425262728292a2b2c2d2e2ff558a9e3ae73aca077dde133163c3ded855eb204a73415d8c7594dd4c5596502708a39046f58be0388930337018f43b2",
            ),
        ] {
            let suite = IkeSuite {
                encryption,
                integrity,
                prf: Prf::HmacSha256,
                group: Group::X25519,
                additional: Additional::NONE,
            };
            let sk_e: Vec<u8> = (1..).take(encryption.key_len()).collect();
            let sk_a: Vec<u8> =
                (0..=0xff).rev().take(integrity.map_or(0, |integrity| integrity.key_len())).collect();
            let body: Vec<u8> = (0..body.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&body[at..at + 2], 16).unwrap())
                .collect();
            let cipher = SkCipher::new(&suite, &sk_e, &sk_a).unwrap();
            assert_eq!(cipher.open(PREFIX, &body).unwrap().as_slice(), b"IKE payloads", "{suite}");
        }
    }

    #[test]
    fn aes_cbc_is_that_of_rfc_3602() {
        // Case 1 of section 4.
        let key =
            [0x06, 0xa9, 0x21, 0x40, 0x36, 0xb8, 0xa1, 0x5b, 0x51, 0x2e, 0x03, 0xd5, 0x34, 0x12, 0x00, 0x06];
        let iv =
            [0x3d, 0xaf, 0xba, 0x42, 0x9d, 0x9e, 0xb4, 0x30, 0xb4, 0x22, 0xda, 0x80, 0x2c, 0x9f, 0xac, 0x41];
        let mut block = *b"Single block msg";
        encrypt::<cbc::Encryptor<Aes128>>(&key, &iv, &mut block).unwrap();
        assert_eq!(
            block,
            [0xe3, 0x53, 0x77, 0x9c, 0x10, 0x79, 0xae, 0xb8, 0x27, 0x08, 0x94, 0x2d, 0xbe, 0x77, 0x18, 0x1a]
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_panic(
            body in proptest::collection::vec(any::<u8>(), 0..300),
            prefix in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            for suite in suites() {
                prop_assert!(cipher(&suite, 7).open(&prefix, &body).is_err());
            }
        }
    }
}
