//! A certification authority for tests: root, intermediate, gateways.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint, DnType, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
    SignatureAlgorithm, date_time_ymd,
};
use sekisho_ike::config::{LocalAuth, RemoteAuth};
use sekisho_ike::crypto::signature::PrivateKey;
use sekisho_ike::crypto::x509::{RevocationPolicy, TrustAnchors};

/// How long a CRL is good.
pub(crate) const CRL_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

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
    root_issuer: Issuer<'static, KeyPair>,
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
        Self { root, intermediate, issuer: Issuer::new(params, key), root_issuer }
    }

    /// What trusts this authority.
    pub(crate) fn anchors(&self) -> RemoteAuth {
        RemoteAuth::Certificate(Arc::new(TrustAnchors::from_der(&[&self.root]).expect("anchor")))
    }

    /// What trusts this authority, with a word on its CRLs, and these loaded.
    pub(crate) fn anchors_with(&self, policy: RevocationPolicy, crls: &[Vec<u8>]) -> RemoteAuth {
        let anchors = TrustAnchors::from_der(&[&self.root]).expect("anchor");
        RemoteAuth::Certificate(Arc::new(anchors.with_crls(crls, policy).expect("CRLs")))
    }

    /// The intermediate's CRL made at `this_update`, good for a week, and its bytes in DER. Times in seconds since 1970.
    pub(crate) fn crl(&self, this_update: Duration, revoked: &[u64]) -> Vec<u8> {
        crl(&self.issuer, this_update, revoked)
    }

    /// The root's CRL, which lists nothing.
    pub(crate) fn root_crl(&self, this_update: Duration) -> Vec<u8> {
        crl(&self.root_issuer, this_update, &[])
    }

    /// A certificate for a domain name, valid until the end of `until`, with its chain and key.
    pub(crate) fn issue(&self, name: &str, kind: KeyKind, until: i32) -> LocalAuth {
        self.issue_with(name, kind, |params| params.not_after = date_time_ymd(until, 12, 31))
    }

    /// The same with a serial number, and a pointer to its CRL.
    pub(crate) fn issue_revocable(&self, name: &str, serial: u64, url: &str) -> LocalAuth {
        self.issue_with(name, KeyKind::P256, |params| {
            params.not_after = date_time_ymd(2030, 1, 1);
            params.serial_number = Some(SerialNumber::from(serial));
            params.crl_distribution_points = vec![CrlDistributionPoint { uris: vec![url.to_owned()] }];
        })
    }

    fn issue_with(
        &self,
        name: &str,
        kind: KeyKind,
        change: impl FnOnce(&mut CertificateParams),
    ) -> LocalAuth {
        let key = key(kind);
        let mut params = params(name);
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().expect("name"))];
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("certificate");
        LocalAuth::Signature {
            chain: vec![certificate.der().to_vec().into(), self.intermediate.clone().into()],
            key: Arc::new(PrivateKey::from_pkcs8_der(key.serialized_der()).expect("key")),
        }
    }
}

fn crl(issuer: &Issuer<'static, KeyPair>, this_update: Duration, revoked: &[u64]) -> Vec<u8> {
    let at = |time: Duration| (SystemTime::UNIX_EPOCH + time).into();
    let revoked = revoked.iter().map(|serial| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: at(this_update),
        reason_code: None,
        invalidity_date: None,
    });
    let params = CertificateRevocationListParams {
        this_update: at(this_update),
        next_update: at(this_update + CRL_LIFE),
        crl_number: SerialNumber::from(this_update.as_secs()),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(issuer).expect("CRL").der().to_vec()
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
