//! A whole life of a connection, for each proof and algorithm, in both roles: up, pages, rekeys from both sides, deletes
//! from both sides.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use sekisho_tests::gateway::certificates::{Authority, KeyType, write_psk};
use sekisho_tests::gateway::settings::{CENTRE_ID, Settings, Side};
use sekisho_tests::lab::Lab;
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::scenario::site::{Site, foreign};
use sekisho_tests::scenario::{rekey, tunnel};
use sekisho_tests::stage::{self, Stage};
use sekisho_tests::strongswan::{Charon, Connection, Proof};
use sekisho_tests::traffic::ping;

use super::table;

/// Long enough to be accepted as one.
pub(crate) const PSK: &str = "a key for two makes of gateway: 0123456789 abcdef";
/// For an exchange and its consequences on both sides.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Means {
    Psk,
    Certificates(KeyType),
}

#[derive(Clone, Copy)]
enum Initiator {
    Ours,
    StrongSwan,
}

struct Case {
    name: &'static str,
    means: Means,
    outer: Family,
    ike: &'static str,
    esp: &'static str,
}

const CASES: [Case; 6] = [
    Case {
        name: "psk_gcm128_x25519",
        means: Means::Psk,
        outer: Family::V4,
        ike: "aes128gcm16-prfsha256-x25519",
        esp: "aes128gcm16-x25519",
    },
    Case {
        name: "ecdsa_gcm256_ecp256",
        means: Means::Certificates(KeyType::Ecdsa),
        outer: Family::V4,
        ike: "aes256gcm16-prfsha256-ecp256",
        esp: "aes256gcm16-ecp256",
    },
    Case {
        name: "rsa_cbc_modp2048",
        means: Means::Certificates(KeyType::Rsa),
        outer: Family::V4,
        ike: "aes128-sha256-modp2048",
        esp: "aes128-sha256-modp2048",
    },
    Case {
        name: "psk_cbc256_ecp256",
        means: Means::Psk,
        outer: Family::V4,
        ike: "aes256-sha256-ecp256",
        esp: "aes256-sha256-ecp256",
    },
    Case {
        name: "psk_chacha20_x25519",
        means: Means::Psk,
        outer: Family::V4,
        ike: "chacha20poly1305-prfsha256-x25519",
        esp: "chacha20poly1305-x25519",
    },
    Case {
        name: "psk_outside_ipv6",
        means: Means::Psk,
        outer: Family::V6,
        ike: "aes128gcm16-prfsha256-x25519",
        esp: "aes128gcm16-x25519",
    },
];

pub(crate) fn trials(stage: &Stage) -> Vec<Trial> {
    let mut trials = Vec::new();
    for case in &CASES {
        for (initiator, role) in
            [(Initiator::Ours, "we_initiate"), (Initiator::StrongSwan, "strongswan_initiates")]
        {
            let (stage, name) = (stage.clone(), format!("{}::{role}", case.name));
            trials.push(Trial::test(name.clone(), move || {
                let outcome = stage.run(|site| life(site, case, initiator));
                match &outcome {
                    Ok(figures) => table::add(&name, figures),
                    Err(_) => table::add(&name, "FAILED, see above"),
                }
                stage::words(outcome)
            }));
        }
    }
    trials
}

/// The control: strongSwan on both sides of the lab.
pub(crate) fn control() -> Result<String> {
    let lab = Lab::up("swan")?;
    let (clinic, centre) = (Charon::start(&lab, Place::Clinic)?, Charon::start(&lab, Place::Centre)?);
    let mut figures = Vec::new();
    for outer in Family::BOTH {
        let at_centre =
            foreign(outer, Proof::Psk(PSK.into()), "aes128gcm16-prfsha256-x25519", "aes128gcm16-x25519");
        let at_clinic = Connection {
            local: at_centre.remote,
            remote: at_centre.local,
            local_id: at_centre.remote_id.clone(),
            remote_id: at_centre.local_id.clone(),
            local_ts: at_centre.remote_ts.clone(),
            remote_ts: at_centre.local_ts.clone(),
            vips: Vec::new(),
            pools: Vec::new(),
            ..at_centre.clone()
        };
        centre.load(&at_centre)?;
        clinic.load(&at_clinic)?;
        clinic.initiate()?;
        for family in Family::BOTH {
            let echo = ping::ping(
                &lab.at(Place::Lan1),
                Place::Server.address(family),
                10,
                Duration::from_millis(10),
            )?;
            ensure!(echo.lost() == 0, "{family} in {outer}: {echo}");
        }
        clinic.terminate()?;
        centre.await_children(0)?;
        figures.push(format!("outside {outer}: up, pings pass, deleted"));
    }
    Ok(figures.join("; "))
}

/// Both ends' configuration of a case.
fn configured(site: &Site, case: &Case, initiator: Initiator) -> Result<(Settings, Connection)> {
    let (mut clinic, proof) = match case.means {
        Means::Psk => {
            let credentials = write_psk(&site.lab.dir().join("interop.psk"), PSK)?;
            (Settings::clinic(credentials), Proof::Psk(PSK.into()))
        }
        Means::Certificates(keys) => {
            let dir =
                site.lab.dir().join(format!("pki-{}-{}", case.name, matches!(initiator, Initiator::Ours)));
            let authority = Authority::create(&dir)?;
            let own = authority.issue(CENTRE_ID, keys, "swan")?;
            (
                Settings::clinic(authority.credentials(Side::Clinic, keys)?),
                Proof::Certificates { own, root: authority.root() },
            )
        }
    };
    clinic.outer = case.outer;
    clinic.start = match initiator {
        Initiator::Ours => "manual",
        Initiator::StrongSwan => "answer",
    };
    Ok((clinic.proposals(case.ike, case.esp), foreign(case.outer, proof, case.ike, case.esp)))
}

fn life(site: &mut Site, case: &Case, initiator: Initiator) -> Result<String> {
    let (clinic, centre) = configured(site, case, initiator)?;
    site.reconfigure_foreign(&clinic, &centre)?;
    let mut figures = Vec::new();
    figures.push(format!("up {:.0} ms", open(site, initiator)?.as_secs_f64() * 1e3));
    tunnel::page_unseen(site)?;
    let child = rekey::child_without_loss(site).context("rekeying the child SA from both sides")?;
    let ike = rekey::ike_without_loss(site).context("rekeying the IKE SA from both sides")?;
    figures.push(format!("child SA: {}", losses(&child)));
    figures.push(format!("IKE SA: {}", losses(&ike)));
    agree(site)?;
    tunnel::pages(site).context("after all rekeys")?;
    delete_from_strongswan(site).context("strongSwan deletes")?;
    open(site, initiator).context("again after strongSwan's delete")?;
    tunnel::pages(site).context("again after strongSwan's delete")?;
    delete_from_us(site).context("we delete")?;
    figures.push("deletes from both sides".into());
    Ok(figures.join("; "))
}

/// `2 rekeys, 0 of 812 pings lost, longest gap 9 ms` of a longer report.
fn losses(report: &str) -> &str {
    report.split(';').next().unwrap_or(report)
}

fn open(site: &Site, initiator: Initiator) -> Result<Duration> {
    let begin = Instant::now();
    match initiator {
        Initiator::Ours => site.clinic.sekisho(&["up", "centre"]).map(drop)?,
        Initiator::StrongSwan => site.charon()?.initiate()?,
    }
    site.await_tunnel()?;
    site.charon()?.await_children(1)?;
    Ok(begin.elapsed())
}

/// Both sides name the same IKE SA.
fn agree(site: &Site) -> Result<()> {
    until(PATIENCE, "the same IKE SA on both sides, and only one", || {
        let (initiator, responder) = site.ike_spis()?;
        let ours = format!("{initiator}_i {responder}_r");
        Ok((site.charon()?.ike_spis()? == [ours]).then_some(()))
    })
    .map(drop)
}

fn delete_from_strongswan(site: &Site) -> Result<()> {
    site.charon()?.terminate()?;
    until(PATIENCE, "no SA left at our side", || {
        let status = site.clinic.status()?;
        let connection = status.connection("centre")?;
        match connection.state() {
            // A connection that shall be up may already be on its way again, with other SPIs.
            "up" => Ok(None),
            _ => Ok(connection.child_spis().is_empty().then_some(())),
        }
    })
    .map(drop)
}

fn delete_from_us(site: &Site) -> Result<()> {
    site.clinic.sekisho(&["down", "centre"])?;
    until(PATIENCE, "no SA left at strongSwan", || Ok(site.charon()?.sas()?.trim().is_empty().then_some(())))
        .map(drop)?;
    let state = site.clinic.status()?.connection("centre")?.state().to_owned();
    if state != "down" {
        bail!("after `sekisho down` the connection is {state}");
    }
    Ok(())
}
