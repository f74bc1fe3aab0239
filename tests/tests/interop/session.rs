//! What every scenario does with the pair: configure it, open it, look whether both sides agree, close it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sekisho_tests::gateway::certificates::{Authority, KeyType, write_psk};
use sekisho_tests::gateway::settings::{CENTRE_ID, CLINIC_ID, Credentials, Settings, Side};
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::Family;
use sekisho_tests::scenario::site::{Site, foreign};
use sekisho_tests::scenario::tunnel;
use sekisho_tests::strongswan::{Connection, Demand, Proof};

use super::matrix::Role;

/// Long enough to be accepted as one.
pub(crate) const PSK: &str = "a key for two makes of gateway: 0123456789 abcdef";
/// What a scenario uses that is not about algorithms.
pub(crate) const IKE: &str = "aes128gcm16-prfsha256-x25519";
/// The same for the child SAs.
pub(crate) const ESP: &str = "aes128gcm16-x25519";
/// For an exchange and its consequences on both sides.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Both ends' configuration.
pub(crate) type Ends = (Settings, Connection);

/// Each authority has a folder of its own.
static AUTHORITIES: AtomicU32 = AtomicU32::new(0);

/// Both ends with the usual algorithms and a pre-shared key.
pub(crate) fn usual(site: &Site, role: Role) -> Result<Ends> {
    psk(site, role, IKE, ESP)
}

/// Both ends with a pre-shared key.
pub(crate) fn psk(site: &Site, role: Role, ike: &str, esp: &str) -> Result<Ends> {
    let credentials = write_psk(&site.lab.dir().join("interop.psk"), PSK)?;
    let mut clinic = Settings::clinic(credentials).proposals(ike, esp);
    clinic.start = start(role);
    let ends = (Proof::Psk(PSK.into()), Demand::Psk(PSK.into()));
    Ok((clinic, foreign(Family::V4, ends, ike, esp)))
}

/// Both ends with certificates below one root; ours with the first kind of key, strongSwan's with the second.
pub(crate) fn certificates(site: &Site, role: Role, keys: (KeyType, KeyType)) -> Result<Ends> {
    let authority = authority(site, "Lab", keys.0)?;
    let mut clinic = Settings::clinic(authority.credentials(Side::Clinic, keys.0)?).proposals(IKE, ESP);
    clinic.start = start(role);
    let proof = Proof::Certificate(authority.issue(CENTRE_ID, keys.1, "swan")?);
    Ok((clinic, foreign(Family::V4, (proof, Demand::Authority(authority.root())), IKE, ESP)))
}

/// One end with a certificate, the other with the pre-shared key.
pub(crate) fn mixed(site: &Site, role: Role, ours: Side) -> Result<Ends> {
    let (mut clinic, mut centre) = usual(site, role)?;
    let Credentials::Psk(psk) = clinic.credentials else { bail!("the usual credentials are a key") };
    let authority = authority(site, "Lab", KeyType::Ecdsa)?;
    match ours {
        Side::Clinic => {
            let own = authority.issue(CLINIC_ID, KeyType::Ecdsa, "clinic")?;
            clinic.credentials = Credentials::PeerPsk { chain: own.chain, key: own.key, psk };
            centre.demand = Demand::Authority(authority.root());
        }
        Side::Centre => {
            clinic.credentials = Credentials::OwnPsk { psk, peer_ca: authority.root() };
            centre.proof = Proof::Certificate(authority.issue(CENTRE_ID, KeyType::Ecdsa, "swan")?);
        }
    }
    Ok((clinic, centre))
}

/// A new authority of this name, with keys of this kind.
pub(crate) fn authority(site: &Site, name: &str, keys: KeyType) -> Result<Authority> {
    let number = AUTHORITIES.fetch_add(1, Ordering::Relaxed);
    Authority::create_with(&site.lab.dir().join(format!("pki-{number}")), name, keys)
}

/// What `start` is for the clinic in a role.
pub(crate) const fn start(role: Role) -> &'static str {
    match role {
        Role::Ours => "manual",
        Role::StrongSwan => "answer",
    }
}

/// Configures both, opens it, sends pages through it that nobody outside can read, and both agree on what there is.
pub(crate) fn up(site: &mut Site, role: Role, ends: &Ends) -> Result<String> {
    up_over(site, role, ends, &Family::BOTH)
}

/// The same with pages over these families.
pub(crate) fn up_over(
    site: &mut Site,
    role: Role,
    (clinic, centre): &Ends,
    families: &[Family],
) -> Result<String> {
    site.reconfigure_foreign(clinic, centre)?;
    let time = open(site, role)?;
    tunnel::page_unseen_over(site, families)?;
    agree(site)?;
    Ok(format!("up {:.0} ms", time.as_secs_f64() * 1e3))
}

/// Up, and closed again.
pub(crate) fn up_and_down(site: &mut Site, role: Role, ends: &Ends) -> Result<String> {
    let figure = up(site, role, ends)?;
    close(site, role)?;
    Ok(figure)
}

/// Whoever has opened it closes it, and nothing is left at either side.
pub(crate) fn close(site: &Site, role: Role) -> Result<()> {
    match role {
        Role::Ours => delete_from_us(site),
        Role::StrongSwan => delete_from_strongswan(site),
    }
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
    ensure!(state == "down", "after `sekisho down` the connection is {state}");
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

/// What strongSwan logs while something is done.
pub(crate) fn strongswan_says<T>(
    site: &mut Site,
    work: impl FnOnce(&mut Site) -> Result<T>,
) -> Result<(T, String)> {
    let before = site.charon()?.log().len();
    let done = work(site)?;
    let log = site.charon()?.log();
    Ok((done, log.get(before..).context("strongSwan's log became shorter")?.to_owned()))
}
