//! Negotiations that must fail: both ends say why, in log, status and metrics, and nothing comes up.

use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use sekisho_tests::gateway::Sekishod;
use sekisho_tests::gateway::certificates::{Authority, KeyType, write_psk};
use sekisho_tests::gateway::settings::{Credentials, Settings, Side};
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::scenario::site::Site;
use sekisho_tests::stage::{self, Stage};
use sekisho_tests::traffic::tcp;

use super::negotiation::{self, PSK};

/// The kinds of failure of which one must be counted, at the clinic and at the centre.
struct Expected {
    clinic: &'static [&'static str],
    centre: &'static [&'static str],
}

type Make = fn(&Site) -> Result<[Settings; 2]>;

const CASES: [(&str, Make, Expected); 6] = [
    (
        "wrong_psk",
        wrong_psk,
        Expected {
            clinic: &["refused-by-peer", "authentication-failed"],
            centre: &["authentication-failed"],
        },
    ),
    (
        "foreign_certificate",
        foreign_certificate,
        Expected { clinic: &["refused-by-peer", "authentication-failed"], centre: &["certificate-rejected"] },
    ),
    (
        "wrong_identity",
        wrong_identity,
        Expected {
            clinic: &["refused-by-peer", "authentication-failed"],
            centre: &["no-connection", "authentication-failed"],
        },
    ),
    (
        "no_common_ike_proposal",
        no_common_ike_proposal,
        Expected { clinic: &["no-proposal-chosen", "refused-by-peer"], centre: &["no-proposal-chosen"] },
    ),
    (
        "no_common_esp_proposal",
        no_common_esp_proposal,
        Expected { clinic: &["no-proposal-chosen", "refused-by-peer"], centre: &["no-proposal-chosen"] },
    ),
    (
        "selectors_without_overlap",
        selectors_without_overlap,
        Expected { clinic: &["ts-unacceptable", "refused-by-peer"], centre: &["ts-unacceptable"] },
    ),
];

pub(crate) fn trials(stage: &Stage) -> Vec<Trial> {
    let mut trials = Vec::new();
    for (name, make, expected) in CASES {
        let stage = stage.clone();
        trials.push(Trial::test(format!("refusal::{name}"), move || {
            stage::words(stage.run(|site| refused(site, make, &expected)))
        }));
    }
    let stage = stage.clone();
    trials.push(Trial::test("refusal::corrected_afterwards_it_comes_up", move || {
        stage::words(stage.run(|site| negotiation::usual(site).map(|()| "up".to_owned())))
    }));
    trials
}

fn refused(site: &mut Site, make: Make, expected: &Expected) -> Result<String> {
    let [clinic, centre] = make(site)?;
    // Logs are appended to: what an earlier case logged is not this one's.
    let (before_clinic, before_centre) = (site.clinic.log().len(), site.our_centre()?.log().len());
    site.reconfigure(&clinic, &centre)?;
    let at_clinic = counted(&site.clinic, expected.clinic, before_clinic)?;
    let at_centre = counted(site.our_centre()?, expected.centre, before_centre)?;
    let status = site.clinic.status()?;
    let connection = status.connection("centre")?;
    ensure!(connection.state() != "up", "the connection is up");
    ensure!(connection.child_spis().is_empty(), "there are child SAs: {:?}", connection.child_spis());
    ensure!(
        !connection.last_failure().is_empty(),
        "the status does not say why the connection is {}",
        connection.state()
    );
    tcp::expect_silence(&site.at(Place::Lan1), Place::Server.socket(Family::V4, 80))?;
    Ok(format!("clinic: {at_clinic}; centre: {at_centre}; status: {}", connection.last_failure()))
}

/// Waits for a failure of one of these kinds in the status, and finds it in metrics and log too.
fn counted(gateway: &Sekishod, kinds: &[&'static str], log_from: usize) -> Result<&'static str> {
    let what = format!("a failure of kind {} at {}", kinds.join(" or "), gateway.name());
    let (kind, _) = until(Duration::from_secs(10), &what, || {
        let status = gateway.status()?;
        Ok(kinds.iter().copied().find(|kind| status.ike_failures(kind) > 0))
    })?;
    let metric = gateway.metrics()?.value("sekisho_ike_failures_total", &[("kind", kind)]);
    ensure!(metric >= 1.0, "the metrics of {} do not count {kind}", gateway.name());
    let log = gateway.log();
    let line =
        log.get(log_from..).unwrap_or_default().lines().find(|line| line.contains(kind)).map(str::to_owned);
    ensure!(line.is_some(), "the log of {} does not mention {kind}", gateway.name());
    Ok(kind)
}

fn wrong_psk(site: &Site) -> Result<[Settings; 2]> {
    let [clinic, mut centre] = negotiation::psk(site)?;
    centre.credentials = write_psk(&site.lab.dir().join("other.psk"), &PSK.to_uppercase())?;
    Ok([clinic, centre])
}

fn foreign_certificate(site: &Site) -> Result<[Settings; 2]> {
    let (ours, foreign) = (authority(site, "ours")?, authority(site, "foreign")?);
    let Credentials::Certificates { chain, key, .. } = foreign.credentials(Side::Clinic, KeyType::Ecdsa)?
    else {
        anyhow::bail!("an authority's credentials are certificates");
    };
    let clinic = Settings::clinic(Credentials::Certificates { chain, key, peer_ca: ours.root() });
    Ok([clinic, Settings::centre(ours.credentials(Side::Centre, KeyType::Ecdsa)?)])
}

fn wrong_identity(site: &Site) -> Result<[Settings; 2]> {
    let ours = authority(site, "identities")?;
    let issued = ours.issue("stranger.example", KeyType::Ecdsa, "stranger")?;
    let mut clinic = Settings::clinic(Credentials::Certificates {
        chain: issued.chain,
        key: issued.key,
        peer_ca: ours.root(),
    });
    clinic.local_id = Some("stranger.example".into());
    Ok([clinic, Settings::centre(ours.credentials(Side::Centre, KeyType::Ecdsa)?)])
}

fn no_common_ike_proposal(site: &Site) -> Result<[Settings; 2]> {
    let [clinic, centre] = negotiation::psk(site)?;
    let esp = "aes128gcm16-x25519";
    Ok([
        clinic.proposals("aes128gcm16-prfsha256-x25519", esp),
        centre.proposals("aes256gcm16-prfsha256-x25519", esp),
    ])
}

fn no_common_esp_proposal(site: &Site) -> Result<[Settings; 2]> {
    let [clinic, centre] = negotiation::psk(site)?;
    let ike = "aes128gcm16-prfsha256-x25519";
    Ok([clinic.proposals(ike, "aes128gcm16"), centre.proposals(ike, "aes256-sha256")])
}

fn selectors_without_overlap(site: &Site) -> Result<[Settings; 2]> {
    let [clinic, mut centre] = negotiation::psk(site)?;
    for child in &mut centre.children {
        child.remote = vec!["192.168.2.0/24".into(), "fd00:2::/64".into()];
    }
    Ok([clinic, centre])
}

fn authority(site: &Site, name: &str) -> Result<Authority> {
    Authority::create(&site.lab.dir().join(format!("pki-{name}")))
}
