//! Every way to prove an identity: strongSwan's log must name the very signature scheme.

use anyhow::{Result, ensure};
use sekisho_tests::gateway::certificates::KeyType;
use sekisho_tests::gateway::settings::Side;
use sekisho_tests::scenario::site::Site;

use super::matrix::{Role, Row};
use super::session::{self, Ends, strongswan_says, up_and_down};

/// Title, how both ends are made, and what strongSwan calls our proof and its own.
type Case = (&'static str, fn(&Site, Role) -> Result<Ends>, [&'static str; 2]);

const CASES: [Case; 9] = [
    ("pre-shared key", session::usual, ["pre-shared key"; 2]),
    ("ECDSA P-256", |site, role| same(site, role, KeyType::Ecdsa), ["ECDSA_WITH_SHA256_DER"; 2]),
    ("ECDSA P-384", |site, role| same(site, role, KeyType::EcdsaP384), ["ECDSA_WITH_SHA384_DER"; 2]),
    ("Ed25519", |site, role| same(site, role, KeyType::Ed25519), ["ED25519"; 2]),
    ("RSA-3072, PKCS#1 v1.5", rsa_pkcs1, ["RSA_EMSA_PKCS1_SHA2_"; 2]),
    ("RSA-3072, PSS", rsa_pss, ["RSA_EMSA_PSS_SHA2_"; 2]),
    (
        "we by ECDSA P-256, strongSwan by RSA-3072",
        |site, role| session::certificates(site, role, (KeyType::Ecdsa, KeyType::Rsa)),
        ["ECDSA_WITH_SHA256_DER", "RSA_EMSA_P"],
    ),
    (
        "we by pre-shared key, strongSwan by certificate",
        |site, role| session::mixed(site, role, Side::Centre),
        ["pre-shared key", "ECDSA_WITH_SHA256_DER"],
    ),
    (
        "we by certificate, strongSwan by pre-shared key",
        |site, role| session::mixed(site, role, Side::Clinic),
        ["ECDSA_WITH_SHA256_DER", "pre-shared key"],
    ),
];

/// The rows.
pub(crate) fn rows() -> Vec<Row> {
    CASES
        .iter()
        .map(|&(title, ends, schemes)| {
            Row::new("Proofs of identity", title, move |site, role| proved(site, role, ends, schemes))
        })
        .collect()
}

fn proved(
    site: &mut Site,
    role: Role,
    ends: fn(&Site, Role) -> Result<Ends>,
    [ours, theirs]: [&str; 2],
) -> Result<String> {
    let ends = ends(site, role)?;
    let (figure, log) = strongswan_says(site, |site| up_and_down(site, role, &ends))?;
    for end in [
        format!("authentication of 'clinic.example' with {ours}"),
        format!("authentication of 'centre.example' (myself) with {theirs}"),
    ] {
        ensure!(log.contains(&end), "strongSwan does not say \"{end}\"");
    }
    Ok(figure)
}

fn same(site: &Site, role: Role, keys: KeyType) -> Result<Ends> {
    session::certificates(site, role, (keys, keys))
}

fn rsa_pkcs1(site: &Site, role: Role) -> Result<Ends> {
    let (mut clinic, centre) = same(site, role, KeyType::Rsa)?;
    clinic.more_keys[1].push("rsa = \"pkcs1\"".into());
    Ok((clinic, centre))
}

/// PSS is our default, and strongSwan's only where its configuration says so: it then takes nothing else from us, either.
fn rsa_pss(site: &Site, role: Role) -> Result<Ends> {
    let (clinic, mut centre) = same(site, role, KeyType::Rsa)?;
    let auth = "auth = ike:rsa/pss-sha256-sha384-sha512".to_owned();
    (centre.local_options, centre.remote_options) = (vec![auth.clone()], vec![auth]);
    Ok((clinic, centre))
}
