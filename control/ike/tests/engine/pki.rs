//! A certification authority for tests: root, intermediate, gateways.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
    SignatureAlgorithm, date_time_ymd,
};
use sekisho_ike::config::{LocalAuth, RemoteAuth};
use sekisho_ike::crypto::signature::PrivateKey;
use sekisho_ike::crypto::x509::TrustAnchors;

/// The key of a gateway.
#[derive(Clone, Copy, Debug)]
pub(crate) enum KeyKind {
    P256,
    P384,
    Ed25519,
    Rsa2048,
}

/// A root and an intermediate that issues.
pub(crate) struct Pki {
    root: Vec<u8>,
    intermediate: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let root_key = KeyPair::generate().expect("key");
        let root_params = authority("Test Root");
        let root = root_params.self_signed(&root_key).expect("root").der().to_vec();
        let root_issuer = Issuer::new(root_params, root_key);
        let key = KeyPair::generate().expect("key");
        let params = authority("Test Intermediate");
        let intermediate = params.signed_by(&key, &root_issuer).expect("intermediate").der().to_vec();
        Self { root, intermediate, issuer: Issuer::new(params, key) }
    }

    /// What trusts this authority.
    pub(crate) fn anchors(&self) -> RemoteAuth {
        RemoteAuth::Certificate(Arc::new(TrustAnchors::from_der(&[&self.root]).expect("anchor")))
    }

    /// A certificate for a domain name, valid until the end of `until`, with its chain and key.
    pub(crate) fn issue(&self, name: &str, kind: KeyKind, until: i32) -> LocalAuth {
        let key = key(kind);
        let mut params = params(name);
        params.not_after = date_time_ymd(until, 12, 31);
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().expect("name"))];
        let certificate = params.signed_by(&key, &self.issuer).expect("certificate");
        LocalAuth::Signature {
            chain: vec![certificate.der().to_vec().into(), self.intermediate.clone().into()],
            key: Arc::new(PrivateKey::from_pkcs8_der(key.serialized_der()).expect("key")),
        }
    }
}

fn key(kind: KeyKind) -> KeyPair {
    let generate = |algorithm: &'static SignatureAlgorithm| KeyPair::generate_for(algorithm).expect("key");
    match kind {
        KeyKind::P256 => generate(&rcgen::PKCS_ECDSA_P256_SHA256),
        KeyKind::P384 => generate(&rcgen::PKCS_ECDSA_P384_SHA384),
        KeyKind::Ed25519 => generate(&rcgen::PKCS_ED25519),
        // ring can't make RSA keys.
        KeyKind::Rsa2048 => {
            let pem = include_str!("../../src/crypto/signature/testdata/rsa2048.pkcs8.pem");
            KeyPair::from_pem_and_sign_algo(pem, &rcgen::PKCS_RSA_SHA256).expect("key")
        }
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.not_after = date_time_ymd(2035, 1, 1);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params
}
