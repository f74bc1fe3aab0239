use std::time::Duration;

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    NameConstraints, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};

use super::*;

const NOW: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(1_780_000_000)); // May 2026
const NONE: [&[u8]; 0] = [];

/// Parameters of a certificate valid through 2026.
fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.distinguished_name.push(DnType::OrganizationName, "Sekisho Test");
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    params
}

fn ca_params(common_name: &str) -> CertificateParams {
    let mut params = params(common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn gateway_params() -> CertificateParams {
    let mut params = params("gw.clinic.example");
    params.subject_alt_names = vec![
        SanType::DnsName("gw.clinic.example".try_into().unwrap()),
        SanType::IpAddress("192.0.2.1".parse().unwrap()),
        SanType::IpAddress("2001:db8::1".parse().unwrap()),
        SanType::Rfc822Name("admin@clinic.example".try_into().unwrap()),
    ];
    params
}

struct Authority {
    der: Vec<u8>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn root(params: CertificateParams) -> Authority {
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Authority { der: certificate.der().to_vec(), pem: certificate.pem(), issuer: Issuer::new(params, key) }
}

fn authority(common_name: &str) -> Authority {
    root(ca_params(common_name))
}

impl Authority {
    fn issue(&self, params: CertificateParams) -> Vec<u8> {
        params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().der().to_vec()
    }

    fn issue_authority(&self, params: CertificateParams) -> Authority {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Authority {
            der: certificate.der().to_vec(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    fn anchors(&self) -> TrustAnchors {
        TrustAnchors::from_der(&[&self.der]).unwrap()
    }

    fn crl(&self, serial: u64, next_update_year: i32) -> Vec<u8> {
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2025, 12, 1),
            next_update: date_time_ymd(next_update_year, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: date_time_ymd(2025, 12, 2),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().der().to_vec()
    }
}

fn refusal(end_entity: &[u8], intermediates: &[&[u8]], anchors: &TrustAnchors) -> CertificateError {
    verify_chain(end_entity, intermediates, anchors, NOW).unwrap_err()
}

#[test]
fn a_chain_over_an_intermediate_holds_in_any_order() {
    let root = root(ca_params("Root"));
    let middle = root.issue_authority(ca_params("Middle"));
    let lower = middle.issue_authority(ca_params("Lower"));
    let gateway = lower.issue(gateway_params());
    for intermediates in [[&middle.der, &lower.der], [&lower.der, &middle.der]] {
        let verified = verify_chain(&gateway, &intermediates, &root.anchors(), NOW).unwrap();
        assert_eq!(verified.certificate().subject(), "CN=gw.clinic.example, O=Sekisho Test");
    }
    // A pinned intermediate needs no root.
    assert!(verify_chain(&gateway, &NONE, &lower.anchors(), NOW).is_ok());
}

#[test]
fn identities_match_by_alternative_names_and_subject_only() {
    let root = root(ca_params("Root"));
    let verified = verify_chain(&root.issue(gateway_params()), &NONE, &root.anchors(), NOW).unwrap();
    let matches = |id: &str| verified.matches(&id.parse().unwrap());
    assert!(matches("gw.clinic.example"));
    assert!(matches("GW.Clinic.Example"));
    assert!(matches("192.0.2.1"));
    assert!(matches("2001:db8::1"));
    assert!(matches("admin@clinic.example"));
    assert!(matches("CN=gw.clinic.example, O=Sekisho Test"));
    for foreign in [
        "other.clinic.example",
        "w.clinic.example",
        "x.gw.clinic.example",
        "192.0.2.2",
        "2001:db8::2",
        "eve@clinic.example",
        "CN=gw.clinic.example",
        "CN=gw.clinic.example, O=Other",
        "keyid:gw.clinic.example",
    ] {
        assert!(!matches(foreign), "{foreign}");
    }
}

#[test]
fn a_common_name_alone_is_no_domain_name() {
    let root = root(ca_params("Root"));
    let verified = verify_chain(&root.issue(params("gw.example")), &NONE, &root.anchors(), NOW).unwrap();
    assert!(!verified.matches(&"gw.example".parse().unwrap()));
    let mut wildcard = params("any");
    wildcard.subject_alt_names = vec![SanType::DnsName("*.example".try_into().unwrap())];
    let verified = verify_chain(&root.issue(wildcard), &NONE, &root.anchors(), NOW).unwrap();
    assert!(!verified.matches(&"gw.example".parse().unwrap()));
}

#[test]
fn expired_and_not_yet_valid_name_the_certificate_and_the_time() {
    let root = root(ca_params("Root"));
    let mut old = gateway_params();
    old.not_before = date_time_ymd(2025, 1, 1);
    old.not_after = date_time_ymd(2026, 2, 3);
    let error = refusal(&root.issue(old), &[], &root.anchors());
    assert!(matches!(error, CertificateError::Expired { .. }));
    let said = error.to_string();
    assert!(said.contains("gw.clinic.example") && said.contains("2026-02-03T00:00:00Z"), "{said}");

    let mut early = gateway_params();
    early.not_before = date_time_ymd(2026, 12, 1);
    let error = refusal(&root.issue(early), &[], &root.anchors());
    assert!(matches!(error, CertificateError::NotYetValid { .. }), "{error}");

    let mut middle = ca_params("Old Middle");
    middle.not_after = date_time_ymd(2026, 2, 1);
    let middle = root.issue_authority(middle);
    let error = refusal(&middle.issue(gateway_params()), &[&middle.der], &root.anchors());
    assert!(matches!(&error, CertificateError::Expired { subject, .. } if subject.contains("Old Middle")));
}

#[test]
fn an_expired_anchor_is_no_anchor() {
    let mut expired = ca_params("Old Root");
    expired.not_after = date_time_ymd(2026, 2, 1);
    let root = root(expired);
    let error = refusal(&root.issue(gateway_params()), &[], &root.anchors());
    assert!(
        matches!(&error, CertificateError::Expired { subject, .. } if subject.contains("Old Root")),
        "{error}"
    );
}

#[test]
fn foreign_authorities_and_missing_intermediates_are_unknown_issuers() {
    let (ours, foreign) = (root(ca_params("Root")), root(ca_params("Foreign Root")));
    let error = refusal(&foreign.issue(gateway_params()), &[&foreign.der], &ours.anchors());
    assert!(
        matches!(&error, CertificateError::UnknownIssuer { issuer, .. } if issuer.contains("Foreign Root"))
    );
    let middle = ours.issue_authority(ca_params("Middle"));
    let error = refusal(&middle.issue(gateway_params()), &[], &ours.anchors());
    assert!(matches!(&error, CertificateError::UnknownIssuer { issuer, .. } if issuer.contains("Middle")));
}

#[test]
fn an_authority_of_the_same_name_with_another_key_is_a_bad_signature() {
    let (ours, impostor) = (root(ca_params("Root")), root(ca_params("Root")));
    let error = refusal(&impostor.issue(gateway_params()), &[], &ours.anchors());
    assert!(matches!(error, CertificateError::BadSignature { .. }), "{error}");
}

#[test]
fn who_is_no_authority_issues_nothing() {
    let root = root(ca_params("Root"));
    let not_suitable = |error: CertificateError, word: &str| {
        assert!(matches!(&error, CertificateError::NotSuitable { why, .. } if why.contains(word)), "{error}");
    };
    // Basic constraints absent, and CA:false.
    for is_ca in [IsCa::NoCa, IsCa::ExplicitNoCa] {
        let mut end_entity = gateway_params();
        end_entity.is_ca = is_ca;
        let end_entity = root.issue_authority(end_entity);
        let forged = end_entity.issue(gateway_params());
        not_suitable(refusal(&forged, &[&end_entity.der], &root.anchors()), "none of a CA");
        assert!(matches!(
            TrustAnchors::from_der(&[&end_entity.der]),
            Err(CertificateError::NotAnAuthority { .. })
        ));
    }
    // A CA whose key usage does not let it sign certificates.
    let mut no_sign = ca_params("No keyCertSign");
    no_sign.key_usages = vec![KeyUsagePurpose::CrlSign];
    let no_sign = root.issue_authority(no_sign);
    not_suitable(refusal(&no_sign.issue(gateway_params()), &[&no_sign.der], &root.anchors()), "none of a CA");
    // A path that is too long.
    let mut short = ca_params("Short");
    short.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let short = root.issue_authority(short);
    let below = short.issue_authority(ca_params("Below"));
    let gateway = below.issue(gateway_params());
    not_suitable(refusal(&gateway, &[&short.der, &below.der], &root.anchors()), "path length");
    // And an authority does not authenticate.
    let middle = root.issue_authority(ca_params("Middle"));
    let mut both = ca_params("Both");
    both.key_usages.push(KeyUsagePurpose::DigitalSignature);
    not_suitable(refusal(&root.issue(both), &[], &root.anchors()), "CA's certificate");
    not_suitable(refusal(&middle.der, &[], &root.anchors()), "digitalSignature");
}

#[test]
fn usages_must_allow_ike_if_they_stand_there() {
    let root = root(ca_params("Root"));
    let with = |purpose: Option<ExtendedKeyUsagePurpose>, usage: Option<KeyUsagePurpose>| {
        let mut params = gateway_params();
        params.extended_key_usages = purpose.into_iter().collect();
        params.key_usages = usage.into_iter().collect();
        verify_chain(&root.issue(params), &NONE, &root.anchors(), NOW)
    };
    assert!(with(None, None).is_ok());
    for good in [
        ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 17]),
        ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 5]),
        ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 6]),
        ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 7]),
        ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 8, 2, 2]),
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::Any,
    ] {
        assert!(with(Some(good.clone()), None).is_ok(), "{good:?}");
    }
    let error = with(Some(ExtendedKeyUsagePurpose::CodeSigning), None).unwrap_err();
    assert!(error.to_string().contains("id-kp-ipsecIKE"), "{error}");
    assert!(with(None, Some(KeyUsagePurpose::DigitalSignature)).is_ok());
    assert!(with(None, Some(KeyUsagePurpose::ContentCommitment)).is_ok());
    assert!(with(None, Some(KeyUsagePurpose::KeyEncipherment)).is_err());
}

#[test]
fn purposes_may_be_required_or_not_looked_at() {
    let root = root(ca_params("Root"));
    let judged = |purposes: Vec<ExtendedKeyUsagePurpose>, policy| {
        let mut params = gateway_params();
        params.extended_key_usages = purposes;
        let anchors = root.anchors().with_purpose(policy);
        verify_chain(&root.issue(params), &NONE, &anchors, NOW).map(|_| ())
    };
    let ike = || ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 17]);
    let old = || ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 8, 2, 2]);
    assert!(judged(vec![ike()], PurposePolicy::Strict).is_ok());
    assert!(judged(vec![ExtendedKeyUsagePurpose::ServerAuth, old()], PurposePolicy::Strict).is_ok());
    for purposes in [vec![], vec![ExtendedKeyUsagePurpose::ServerAuth], vec![ExtendedKeyUsagePurpose::Any]] {
        let error = judged(purposes, PurposePolicy::Strict).unwrap_err();
        assert!(error.to_string().contains("requires"), "{error}");
    }
    assert!(judged(vec![ExtendedKeyUsagePurpose::CodeSigning], PurposePolicy::IfPresent).is_err());
    assert!(judged(vec![ExtendedKeyUsagePurpose::CodeSigning], PurposePolicy::Off).is_ok());
}

#[test]
fn an_intermediate_may_come_from_a_file_but_is_no_anchor() {
    let (root, foreign) = (root(ca_params("Root")), root(ca_params("Foreign")));
    let middle = root.issue_authority(ca_params("Middle"));
    let gateway = middle.issue(gateway_params());
    assert!(verify_chain(&gateway, &NONE, &root.anchors(), NOW).is_err());
    let with = |authority: &Authority| authority.anchors().with_intermediates(&[&middle.der]).unwrap();
    assert!(verify_chain(&gateway, &NONE, &with(&root), NOW).is_ok());
    assert!(verify_chain(&gateway, &NONE, &with(&foreign), NOW).is_err());
    assert!(root.anchors().with_intermediates(&[&gateway]).is_err());
}

#[test]
fn names_that_an_authority_may_not_issue_for_are_refused() {
    let root = root(ca_params("Root"));
    let mut constrained = ca_params("Constrained");
    constrained.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName("other.example".to_owned())],
        excluded_subtrees: Vec::new(),
    });
    let constrained = root.issue_authority(constrained);
    let error = refusal(&constrained.issue(gateway_params()), &[&constrained.der], &root.anchors());
    assert!(error.to_string().contains("name constraints"), "{error}");
}

#[test]
fn unknown_critical_extensions_are_refused() {
    let root = root(ca_params("Root"));
    let mut params = gateway_params();
    let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    extension.set_criticality(true);
    params.custom_extensions = vec![extension];
    let error = refusal(&root.issue(params), &[], &root.anchors());
    assert!(matches!(error, CertificateError::NotSuitable { .. }), "{error}");
}

#[test]
fn what_is_revoked_is_refused_and_what_is_required_must_be_there() {
    let root = root(ca_params("Root"));
    let gateway = |serial: u64| {
        let mut params = gateway_params();
        params.serial_number = Some(SerialNumber::from(serial));
        root.issue(params)
    };
    let verify = |serial, crls: &[Vec<u8>], policy| {
        let anchors = root.anchors().with_crls(crls, policy).unwrap();
        verify_chain(&gateway(serial), &NONE, &anchors, NOW).map(|_| ())
    };
    let (fresh, old) = (root.crl(7, 2027), root.crl(7, 2026));
    let revoked = |result| matches!(result, Err(CertificateError::Revoked { .. }));
    for policy in [RevocationPolicy::IfPresent, RevocationPolicy::Strict] {
        assert!(revoked(verify(7, std::slice::from_ref(&fresh), policy)));
        assert!(verify(8, std::slice::from_ref(&fresh), policy).is_ok());
    }
    assert!(revoked(verify(7, std::slice::from_ref(&old), RevocationPolicy::IfPresent)));
    assert!(verify(8, std::slice::from_ref(&old), RevocationPolicy::IfPresent).is_ok());
    assert!(matches!(
        verify(8, std::slice::from_ref(&old), RevocationPolicy::Strict),
        Err(CertificateError::CrlExpired { .. })
    ));
    assert!(verify(8, &[], RevocationPolicy::IfPresent).is_ok());
    let foreign = authority("Foreign").crl(8, 2027);
    for crls in [vec![], vec![foreign]] {
        assert!(matches!(
            verify(8, &crls, RevocationPolicy::Strict),
            Err(CertificateError::RevocationUnknown { .. })
        ));
    }
    assert!(root.anchors().with_crls(&[b"no CRL"], RevocationPolicy::IfPresent).is_err());
}

#[test]
fn a_bundle_is_read_and_names_its_keys() {
    let (one, two) = (root(ca_params("One")), root(ca_params("Two")));
    let bundle = format!("{}\ncomment\n{}", one.pem, two.pem);
    let anchors = TrustAnchors::from_pem(bundle.as_bytes()).unwrap();
    assert_eq!(format!("{anchors:?}"), r#"["CN=One, O=Sekisho Test", "CN=Two, O=Sekisho Test"]"#);
    let authority = anchors.certreq_authority();
    assert_eq!(authority.len(), 40);
    assert_eq!(authority[..20], one.anchors().certreq_authority());
    assert!(matches!(TrustAnchors::from_pem(b"nothing"), Err(CertificateError::NoCertificate)));
    assert!(
        TrustAnchors::from_pem(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").is_err()
    );
}

#[test]
fn every_truncation_and_every_changed_bit_is_refused() {
    let root = root(ca_params("Root"));
    let gateway = root.issue(gateway_params());
    let anchors = root.anchors();
    for len in 0..gateway.len() {
        assert!(verify_chain(&gateway[..len], &NONE, &anchors, NOW).is_err());
    }
    for bit in 0..gateway.len() * 8 {
        let mut forged = gateway.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        assert!(verify_chain(&forged, &NONE, &anchors, NOW).is_err(), "{bit}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_refused_without_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        at in any::<proptest::sample::Index>(),
    ) {
        let root = root(ca_params("Root"));
        let anchors = root.anchors();
        prop_assert!(verify_chain(&bytes, &[&bytes], &anchors, NOW).is_err());
        prop_assert!(TrustAnchors::from_der(&[&bytes]).is_err());
        // Splices into a real one reach deeper.
        let mut spliced = root.issue(gateway_params());
        let at = at.index(spliced.len());
        spliced.splice(at..(at + bytes.len().min(40)).min(spliced.len()), bytes.iter().copied().take(40));
        let _ = verify_chain(&spliced, &[&spliced], &anchors, NOW);
    }
}
