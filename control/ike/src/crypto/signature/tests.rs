use proptest::prelude::*;

use super::*;

const OCTETS: &[u8] = b"RealMessage | Nonce | MACedID";

/// Test keys, each in PEM and the kind it is. Made for these tests and used nowhere else.
fn keys() -> Vec<(KeyAlgorithm, &'static str)> {
    vec![
        (KeyAlgorithm::Rsa { bits: 2048 }, include_str!("testdata/rsa2048.pkcs8.pem")),
        (KeyAlgorithm::Rsa { bits: 2048 }, include_str!("testdata/rsa2048.pkcs1.pem")),
        (KeyAlgorithm::EcdsaP256, include_str!("testdata/p256.pkcs8.pem")),
        (KeyAlgorithm::EcdsaP256, include_str!("testdata/p256.sec1.pem")),
        (KeyAlgorithm::EcdsaP384, include_str!("testdata/p384.pkcs8.pem")),
        (KeyAlgorithm::EcdsaP384, include_str!("testdata/p384.sec1.pem")),
        (KeyAlgorithm::Ed25519, include_str!("testdata/ed25519.pkcs8.pem")),
    ]
}

fn key(algorithm: KeyAlgorithm) -> PrivateKey {
    let (_, pem) = keys().into_iter().find(|(kind, _)| *kind == algorithm).unwrap();
    PrivateKey::from_pem(pem.as_bytes()).unwrap()
}

#[test]
fn every_form_of_pem_is_read_and_nothing_of_it_shown() {
    for (algorithm, pem) in keys() {
        let key = PrivateKey::from_pem(pem.as_bytes()).unwrap();
        assert_eq!(key.algorithm(), algorithm);
        assert_eq!(format!("{key:?}"), format!("PrivateKey({algorithm}, …)"));
    }
    let forms = |at: usize| PrivateKey::from_pem(keys()[at].1.as_bytes()).unwrap().public_key().clone();
    assert_eq!(forms(0), forms(1));
    assert_eq!(forms(2), forms(3));
    assert_eq!(forms(4), forms(5));
}

#[test]
fn what_one_signs_the_other_verifies() {
    let hashes = Some(&HASH_ALGORITHMS[..]);
    for (_, pem) in keys() {
        let key = PrivateKey::from_pem(pem.as_bytes()).unwrap();
        let auth = sign_auth(&key, hashes, OCTETS).unwrap();
        assert_eq!(auth.method, AuthMethod::DigitalSignature);
        let scheme = verify_auth(auth.method, &auth.data, key.public_key(), OCTETS).unwrap();
        assert_eq!(Ok(scheme), key.choose_scheme(&HASH_ALGORITHMS));
        let other = verify_auth(auth.method, &auth.data, key.public_key(), b"other octets");
        assert_eq!(other, Err(SignatureError::Invalid));
    }
}

#[test]
fn every_scheme_of_rsa_verifies() {
    let key = key(KeyAlgorithm::Rsa { bits: 2048 });
    for scheme in SignatureScheme::ALL {
        let Ok(signature) = key.sign(scheme, OCTETS) else {
            assert!(matches!(
                scheme,
                SignatureScheme::EcdsaP256Sha256
                    | SignatureScheme::EcdsaP384Sha384
                    | SignatureScheme::Ed25519
            ));
            continue;
        };
        let identifier = scheme.algorithm_identifier();
        let data = [&[identifier.len() as u8], identifier, &signature].concat();
        assert_eq!(verify_auth(AuthMethod::DigitalSignature, &data, key.public_key(), OCTETS), Ok(scheme));
    }
}

#[test]
fn signatures_of_openssl_verify() {
    // Made by `openssl dgst -sha256 -sign` over OCTETS: RSA PKCS#1 v1.5, RSA-PSS with a salt of 32, ECDSA P-256.
    for (kind, scheme, signature) in [
        (
            KeyAlgorithm::Rsa { bits: 2048 },
            SignatureScheme::RsaPkcs1Sha256,
            &include_bytes!("testdata/openssl.rsa-pkcs1-sha256.sig")[..],
        ),
        (
            KeyAlgorithm::Rsa { bits: 2048 },
            SignatureScheme::RsaPssSha256,
            &include_bytes!("testdata/openssl.rsa-pss-sha256.sig")[..],
        ),
        (
            KeyAlgorithm::EcdsaP256,
            SignatureScheme::EcdsaP256Sha256,
            &include_bytes!("testdata/openssl.ecdsa-p256-sha256.sig")[..],
        ),
        (
            KeyAlgorithm::EcdsaP384,
            SignatureScheme::EcdsaP384Sha384,
            &include_bytes!("testdata/openssl.ecdsa-p384-sha384.sig")[..],
        ),
        (
            KeyAlgorithm::Ed25519,
            SignatureScheme::Ed25519,
            &include_bytes!("testdata/openssl.ed25519.sig")[..],
        ),
    ] {
        let identifier = scheme.algorithm_identifier();
        let data = [&[identifier.len() as u8], identifier, signature].concat();
        let key = key(kind);
        assert_eq!(verify_auth(AuthMethod::DigitalSignature, &data, key.public_key(), OCTETS), Ok(scheme));
    }
}

#[test]
fn without_rfc_7427_ecdsa_alone_is_left() {
    for (kind, method, len) in [
        (KeyAlgorithm::EcdsaP256, AuthMethod::EcdsaSha256P256, 64),
        (KeyAlgorithm::EcdsaP384, AuthMethod::EcdsaSha384P384, 96),
    ] {
        let key = key(kind);
        let auth = sign_auth(&key, None, OCTETS).unwrap();
        assert_eq!((auth.method, auth.data.len()), (method, len));
        assert!(verify_auth(method, &auth.data, key.public_key(), OCTETS).is_ok());
        for len in 0..auth.data.len() {
            let cut = verify_auth(method, &auth.data[..len], key.public_key(), OCTETS);
            assert_eq!(cut, Err(SignatureError::Invalid));
        }
    }
    for kind in [KeyAlgorithm::Rsa { bits: 2048 }, KeyAlgorithm::Ed25519] {
        assert_eq!(sign_auth(&key(kind), None, OCTETS), Err(SignatureError::NoLegacyMethod { key: kind }));
    }
}

#[test]
fn the_scheme_is_one_whose_hash_the_peer_has() {
    let rsa = key(KeyAlgorithm::Rsa { bits: 2048 });
    assert_eq!(rsa.choose_scheme(&[HashAlgorithm::Sha2_512]), Ok(SignatureScheme::RsaPssSha512));
    assert!(rsa.choose_scheme(&[HashAlgorithm::Sha1, HashAlgorithm::Identity]).is_err());
    let p256 = key(KeyAlgorithm::EcdsaP256);
    let refused = sign_auth(&p256, Some(&[HashAlgorithm::Sha2_384]), OCTETS);
    assert!(matches!(refused, Err(SignatureError::NoCommonHash { needed: "SHA2-256", .. })));
}

#[test]
fn an_rsa_key_signs_with_the_padding_that_was_chosen() {
    let rsa = key(KeyAlgorithm::Rsa { bits: 2048 }).with_rsa_padding(RsaPadding::Pkcs1);
    for (hash, scheme) in [
        (HashAlgorithm::Sha2_256, SignatureScheme::RsaPkcs1Sha256),
        (HashAlgorithm::Sha2_512, SignatureScheme::RsaPkcs1Sha512),
    ] {
        let auth = sign_auth(&rsa, Some(&[hash]), OCTETS).unwrap();
        assert_eq!(verify_auth(auth.method, &auth.data, rsa.public_key(), OCTETS), Ok(scheme));
    }
    let p256 = key(KeyAlgorithm::EcdsaP256).with_rsa_padding(RsaPadding::Pkcs1);
    assert_eq!(p256.choose_scheme(&HASH_ALGORITHMS), Ok(SignatureScheme::EcdsaP256Sha256));
}

/// What one scheme signed is not taken as another's, though the key is the same: neither is the padding guessed.
#[test]
fn a_signature_holds_for_the_scheme_that_is_named_alone() {
    let rsa = key(KeyAlgorithm::Rsa { bits: 2048 });
    let schemes = SignatureScheme::ALL.into_iter().filter(|scheme| rsa.sign(*scheme, OCTETS).is_ok());
    let schemes: Vec<_> = schemes.collect();
    assert_eq!(schemes.len(), 6);
    for signed in &schemes {
        let signature = rsa.sign(*signed, OCTETS).unwrap();
        for named in &schemes {
            let identifier = named.algorithm_identifier();
            let data = [&[identifier.len() as u8], identifier, &signature].concat();
            let verified = verify_auth(AuthMethod::DigitalSignature, &data, rsa.public_key(), OCTETS);
            assert_eq!(verified.is_ok(), named == signed, "{signed} named {named}");
        }
        // Longer and shorter ones, with zeros that some take for padding.
        for changed in
            [[&[0][..], &signature].concat(), [&signature[..], &[0]].concat(), signature[1..].to_vec()]
        {
            let identifier = signed.algorithm_identifier();
            let data = [&[identifier.len() as u8][..], identifier, &changed].concat();
            assert!(verify_auth(AuthMethod::DigitalSignature, &data, rsa.public_key(), OCTETS).is_err());
        }
    }
}

#[test]
fn methods_that_are_no_signatures_or_weak_are_refused() {
    let key = key(KeyAlgorithm::EcdsaP256);
    for method in
        [AuthMethod::RsaSignature, AuthMethod::SharedKey, AuthMethod::DssSignature, AuthMethod::Null]
    {
        let refused = verify_auth(method, &[0; 64], key.public_key(), OCTETS);
        assert!(matches!(refused, Err(SignatureError::Method(at, _)) if at == method));
    }
}

#[test]
fn a_key_of_another_kind_is_told_apart_from_a_wrong_signature() {
    let (p256, p384) = (key(KeyAlgorithm::EcdsaP256), key(KeyAlgorithm::EcdsaP384));
    let auth = sign_auth(&p256, Some(&HASH_ALGORITHMS), OCTETS).unwrap();
    assert_eq!(
        verify_auth(auth.method, &auth.data, p384.public_key(), OCTETS),
        Err(SignatureError::KeyMismatch(SignatureScheme::EcdsaP256Sha256))
    );
}

#[test]
fn every_changed_bit_and_every_truncation_is_refused() {
    for kind in [KeyAlgorithm::EcdsaP256, KeyAlgorithm::Ed25519] {
        let key = key(kind);
        let auth = sign_auth(&key, Some(&HASH_ALGORITHMS), OCTETS).unwrap();
        for bit in 0..auth.data.len() * 8 {
            let mut forged = auth.data.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(verify_auth(auth.method, &forged, key.public_key(), OCTETS).is_err(), "{kind} {bit}");
        }
        for len in 0..auth.data.len() {
            assert!(verify_auth(auth.method, &auth.data[..len], key.public_key(), OCTETS).is_err());
        }
    }
}

#[test]
fn keys_that_cannot_be_used_are_refused_with_the_reason() {
    let said = |pem: &str| PrivateKey::from_pem(pem.as_bytes()).unwrap_err();
    assert_eq!(said(""), PrivateKeyError::NoKey);
    assert_eq!(
        said("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        PrivateKeyError::NoKey
    );
    assert_eq!(said(include_str!("testdata/encrypted.pkcs8.pem")), PrivateKeyError::Encrypted);
    assert_eq!(said(include_str!("testdata/encrypted.pkcs1.pem")), PrivateKeyError::Encrypted);
    assert!(said(include_str!("testdata/rsa1024.pkcs8.pem")).to_string().contains("TooSmall"));
    assert!(said(include_str!("testdata/p521.pkcs8.pem")).to_string().contains("P-256"));
    assert!(PrivateKey::from_pkcs8_der(b"not DER").is_err());
}

/// DER of an RSAPublicKey: modulus of so many bytes, and the exponent.
fn rsa_public_key(modulus: usize, exponent: &[u8]) -> Vec<u8> {
    // Leading zero, so that it is positive; odd, as a product of primes is.
    let modulus = [&[0, 0x80][..], &vec![0x55; modulus - 2], &[1]].concat();
    let integer = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).expect("short").to_be_bytes();
        [&[0x02, 0x82][..], &length, bytes].concat()
    };
    let exponent = [&[0x02, exponent.len() as u8], exponent].concat();
    let content = [integer(&modulus), exponent].concat();
    let length = u16::try_from(content.len()).expect("short").to_be_bytes();
    [&[0x30, 0x82][..], &length, &content].concat()
}

/// Keys in certificates that a library may crash on, or that make forging easy (CVE-2017-11185, CVE-2021-45079 and their
/// kin): nothing verifies under any of them.
#[test]
fn keys_of_certificates_that_cannot_be_used_verify_nothing() {
    use der::asn1::{AnyRef, ObjectIdentifier};
    let oid = ObjectIdentifier::new_unwrap;
    let rsa = oid("1.2.840.113549.1.1.1");
    let (ec, p256, p521) = (oid("1.2.840.10045.2.1"), oid("1.2.840.10045.3.1.7"), oid("1.3.132.0.35"));
    let null = Some(AnyRef::NULL);
    let key = |oid, parameters, key: &[u8]| PublicKey::new(oid, parameters, key).expect("DER");
    let good = rsa_public_key(256, &[1, 0, 1]);
    let unusable = [
        ("RSA of 1024 bits", key(rsa, null, &rsa_public_key(128, &[1, 0, 1]))),
        ("RSA of 16384 bits", key(rsa, null, &rsa_public_key(2048, &[1, 0, 1]))),
        ("RSA with the exponent 0", key(rsa, null, &rsa_public_key(256, &[0]))),
        ("RSA with the exponent 1", key(rsa, null, &rsa_public_key(256, &[1]))),
        ("RSA with an even exponent", key(rsa, null, &rsa_public_key(256, &[2]))),
        ("RSA with a negative exponent", key(rsa, null, &rsa_public_key(256, &[0x81]))),
        ("RSA with an exponent as long as the modulus", key(rsa, null, &rsa_public_key(256, &[0x7f; 100]))),
        ("RSA without NULL", key(rsa, None, &good)),
        ("RSA cut short", key(rsa, null, &good[..good.len() - 3])),
        ("RSA that is empty", key(rsa, null, &[])),
        ("an empty SEQUENCE", key(rsa, null, &[0x30, 0])),
        ("the modulus 0", key(rsa, null, &[0x30, 6, 2, 1, 0, 2, 1, 3])),
        ("id-RSASSA-PSS", key(oid("1.2.840.113549.1.1.10"), None, &good)),
        ("DSA", key(oid("1.2.840.10040.4.1"), None, &[2, 1, 5])),
        ("P-521", key(ec, Some(AnyRef::from(&p521)), &[4; 133])),
        ("EC without a curve", key(ec, None, &[4; 65])),
        ("the point at infinity", key(ec, Some(AnyRef::from(&p256)), &[0])),
        ("a point off the curve", key(ec, Some(AnyRef::from(&p256)), &[4; 65])),
        ("a compressed point", key(ec, Some(AnyRef::from(&p256)), &[2; 33])),
        ("half an Ed25519 key", key(oid("1.3.101.112"), None, &[1; 16])),
        ("Ed25519 of small order", key(oid("1.3.101.112"), None, &[0; 32])),
        ("no SubjectPublicKeyInfo", PublicKey::from_spki_der(&[0x30, 0x80])),
    ];
    for (what, key) in &unusable {
        for scheme in SignatureScheme::ALL {
            let identifier = scheme.algorithm_identifier();
            for length in [0, 1, 64, 72, 96, 128, 256, 2048] {
                // Of an RSA key with the exponent 1 the padded digest is its own signature.
                for signature in [vec![0; length], vec![0xff; length], padded_digest(length)] {
                    let data = [&[identifier.len() as u8], identifier, &signature].concat();
                    let verified = verify_auth(AuthMethod::DigitalSignature, &data, key, OCTETS);
                    assert!(verified.is_err(), "{what}: {scheme} of {length} bytes");
                }
            }
        }
    }
}

/// EMSA-PKCS1-v1_5 of SHA-256 over [`OCTETS`] (RFC 8017 section 9.2), or zeros where there is no room for it.
fn padded_digest(length: usize) -> Vec<u8> {
    const INFO: [u8; 19] = [
        0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00,
        0x04, 0x20,
    ];
    let digest = ring::digest::digest(&ring::digest::SHA256, OCTETS);
    match length.checked_sub(INFO.len() + digest.as_ref().len() + 11) {
        Some(room) => [&[0, 1][..], &vec![0xff; room + 8], &[0], &INFO, digest.as_ref()].concat(),
        None => vec![0; length],
    }
}

proptest! {
    #[test]
    fn any_bytes_are_refused_without_panic(
        method in any::<u8>(),
        data in proptest::collection::vec(any::<u8>(), 0..200),
        spki in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let key = PublicKey::from_spki_der(&spki);
        prop_assert!(verify_auth(method.into(), &data, &key, OCTETS).is_err());
        prop_assert!(verify_auth(AuthMethod::DigitalSignature, &data, &key, OCTETS).is_err());
        prop_assert!(PrivateKey::from_pkcs8_der(&data).is_err());
    }
}
