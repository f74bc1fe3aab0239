//! A whole life of a connection, for each proof: up, pages, rekeys from both sides under load, deletes from both sides.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sekisho_tests::gateway::certificates::KeyType;
use sekisho_tests::lab::Lab;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::scenario::site::{Site, foreign};
use sekisho_tests::scenario::{rekey, tunnel};
use sekisho_tests::strongswan::{Charon, Connection, Proof};
use sekisho_tests::traffic::ping;

use super::matrix::{Role, Row};
use super::session::{self, ESP, IKE, PSK, agree, delete_from_strongswan, delete_from_us, open};

#[derive(Clone, Copy)]
enum Means {
    Psk,
    Certificates(KeyType),
}

struct Life {
    title: &'static str,
    means: Means,
    outer: Family,
    ike: &'static str,
    esp: &'static str,
}

const LIVES: [Life; 4] = [
    Life { title: "PSK", means: Means::Psk, outer: Family::V4, ike: IKE, esp: ESP },
    Life { title: "PSK, IPv6 outside", means: Means::Psk, outer: Family::V6, ike: IKE, esp: ESP },
    Life {
        title: "ECDSA P-256 certificates, a chain of three",
        means: Means::Certificates(KeyType::Ecdsa),
        outer: Family::V4,
        ike: "aes256gcm16-prfsha256-ecp256",
        esp: "aes256gcm16-ecp256",
    },
    Life {
        title: "RSA certificates, MODP-2048, AES-CBC",
        means: Means::Certificates(KeyType::Rsa),
        outer: Family::V4,
        ike: "aes128-sha256-modp2048",
        esp: "aes128-sha256-modp2048",
    },
];

/// The rows.
pub(crate) fn rows() -> Vec<Row> {
    LIVES
        .iter()
        .map(|life| Row::new("Whole lives", life.title, move |site, role| live(site, life, role)))
        .collect()
}

fn live(site: &mut Site, life: &Life, role: Role) -> Result<String> {
    let (mut clinic, mut centre) = match life.means {
        Means::Psk => session::psk(site, role, life.ike, life.esp)?,
        Means::Certificates(keys) => session::certificates(site, role, keys, (life.ike, life.esp))?,
    };
    clinic.outer = life.outer;
    (centre.local, centre.remote) = (Place::Centre.address(life.outer), Place::Clinic.address(life.outer));
    let mut figures = vec![session::up(site, role, &(clinic, centre))?];
    let child = rekey::child_without_loss(site).context("rekeying the child SA from both sides")?;
    let ike = rekey::ike_without_loss(site).context("rekeying the IKE SA from both sides")?;
    figures.push(format!("child SA: {}", losses(&child)));
    figures.push(format!("IKE SA: {}", losses(&ike)));
    agree(site)?;
    tunnel::pages(site).context("after all rekeys")?;
    delete_from_strongswan(site).context("strongSwan deletes")?;
    open(site, role).context("again after strongSwan's delete")?;
    tunnel::pages(site).context("again after strongSwan's delete")?;
    delete_from_us(site).context("we delete")?;
    figures.push("deletes from both sides".into());
    Ok(figures.join("; "))
}

/// `2 rekeys, 0 of 812 pings lost, longest gap 9 ms` of a longer report.
fn losses(report: &str) -> &str {
    report.split(';').next().unwrap_or(report)
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
