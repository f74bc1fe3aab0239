//! What every scenario does with the pair: configure it, open it, look whether both sides agree, close it.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use sekisho_tests::gateway::certificates::{Authority, KeyType, write_psk};
use sekisho_tests::gateway::settings::{CENTRE_ID, Settings, Side};
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::Family;
use sekisho_tests::scenario::site::{Site, foreign};
use sekisho_tests::scenario::tunnel;
use sekisho_tests::strongswan::{Connection, Proof};

use super::matrix::Role;

/// Long enough to be accepted as one.
pub(crate) const PSK: &str = "a key for two makes of gateway: 0123456789 abcdef";
/// What a scenario uses that is not about algorithms.
pub(crate) const IKE: &str = "aes128gcm16-prfsha256-x25519";
/// The same for the child SAs.
pub(crate) const ESP: &str = "aes128gcm16-x25519";
/// For an exchange and its consequences on both sides.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Both ends' configuration with a pre-shared key.
pub(crate) fn psk(site: &Site, role: Role, ike: &str, esp: &str) -> Result<(Settings, Connection)> {
    let credentials = write_psk(&site.lab.dir().join("interop.psk"), PSK)?;
    let mut clinic = Settings::clinic(credentials).proposals(ike, esp);
    clinic.start = start(role);
    Ok((clinic, foreign(Family::V4, Proof::Psk(PSK.into()), ike, esp)))
}

/// Both ends' configuration with certificates below one root.
pub(crate) fn certificates(
    site: &Site,
    role: Role,
    keys: KeyType,
    (ike, esp): (&str, &str),
) -> Result<(Settings, Connection)> {
    let dir = site.lab.dir().join(format!("pki-{keys:?}-{role:?}").to_lowercase());
    let authority = Authority::create(&dir)?;
    let own = authority.issue(CENTRE_ID, keys, "swan")?;
    let mut clinic = Settings::clinic(authority.credentials(Side::Clinic, keys)?).proposals(ike, esp);
    clinic.start = start(role);
    let proof = Proof::Certificates { own, root: authority.root() };
    Ok((clinic, foreign(Family::V4, proof, ike, esp)))
}

const fn start(role: Role) -> &'static str {
    match role {
        Role::Ours => "manual",
        Role::StrongSwan => "answer",
    }
}

/// Configures both, opens it, sends pages through it that nobody outside can read, and both agree on what there is.
pub(crate) fn up(site: &mut Site, role: Role, (clinic, centre): &(Settings, Connection)) -> Result<String> {
    site.reconfigure_foreign(clinic, centre)?;
    let time = open(site, role)?;
    tunnel::page_unseen(site)?;
    agree(site)?;
    Ok(format!("up {:.0} ms", time.as_secs_f64() * 1e3))
}

/// Opens the connection from one side and waits for the other; how long it took.
pub(crate) fn open(site: &Site, role: Role) -> Result<Duration> {
    let begin = Instant::now();
    match role {
        Role::Ours => site.clinic.sekisho(&["up", "centre"]).map(drop)?,
        Role::StrongSwan => site.charon()?.initiate()?,
    }
    site.await_tunnel()?;
    let children = site.child_spis()?.len();
    site.charon()?.await_children(children.max(1))?;
    Ok(begin.elapsed())
}

/// Both sides name the same IKE SA.
pub(crate) fn agree(site: &Site) -> Result<()> {
    until(PATIENCE, "the same IKE SA on both sides, and only one", || {
        let (initiator, responder) = site.ike_spis()?;
        let ours = format!("{initiator}_i {responder}_r");
        Ok((site.charon()?.ike_spis()? == [ours]).then_some(()))
    })
    .map(drop)
}

/// strongSwan closes it, and nothing is left at our side.
pub(crate) fn delete_from_strongswan(site: &Site) -> Result<()> {
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

/// The reverse.
pub(crate) fn delete_from_us(site: &Site) -> Result<()> {
    site.clinic.sekisho(&["down", "centre"])?;
    until(PATIENCE, "no SA left at strongSwan", || Ok(site.charon()?.sas()?.trim().is_empty().then_some(())))
        .map(drop)?;
    let state = site.clinic.status()?.connection("centre")?.state().to_owned();
    if state != "down" {
        bail!("after `sekisho down` the connection is {state}");
    }
    Ok(())
}

/// One side renews the child SA's keys; both have the new one, and only that.
pub(crate) fn rekey_child(site: &Site, role: Role) -> Result<()> {
    let before = site.child_spis()?;
    match role {
        Role::Ours => site.clinic.sekisho(&["rekey", "centre"]).map(drop)?,
        Role::StrongSwan => site.charon()?.rekey_child()?,
    }
    until(PATIENCE, "another child SA in place of the old one", || {
        let now = site.child_spis()?;
        Ok((now != before && now.len() == before.len()).then_some(()))
    })?;
    site.charon()?.await_children(before.len())
}
