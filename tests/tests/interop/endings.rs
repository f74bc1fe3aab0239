//! How it ends: by a word from either side, or without one.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sekisho_tests::lab::patience::until;
use sekisho_tests::scenario::site::Site;
use sekisho_tests::scenario::tunnel;

use super::matrix::{Role, Row};
use super::session::{self, PATIENCE, agree, close, delete_from_strongswan, delete_from_us, open, usual};

/// strongSwan asks after 2 s, and three times in 6 s.
const GONE_FOR_STRONGSWAN: Duration = Duration::from_secs(20);
/// Our engine repeats a request for 68 s (`Retransmit` in control/ike/src/config.rs).
const GONE_FOR_US: Duration = Duration::from_secs(90);

/// The rows.
pub(crate) fn rows() -> Vec<Row> {
    let row =
        |title: &'static str, run: fn(&mut Site, Role) -> Result<String>| Row::new("Endings", title, run);
    vec![
        row("strongSwan deletes the IKE SA, and it is opened again", deleted_by_strongswan),
        row("we delete the IKE SA, and it stays closed until an operator opens it", deleted_by_us),
        row("strongSwan deletes the child SA alone, and opens another", child_deleted)
            .not_for(Role::Ours, "who opens a child SA in an IKE SA that is up is strongSwan"),
        row("liveness: strongSwan finds our gateway dead", dead_gateway),
        row("liveness: our gateway finds strongSwan dead", dead_strongswan).slow(),
        row("INITIAL_CONTACT: our gateway crashes and comes back", crash)
            .not_for(Role::StrongSwan, "who comes back is who initiates"),
        row("INITIAL_CONTACT: strongSwan crashes and comes back", strongswan_crashes)
            .not_for(Role::Ours, "who comes back is who initiates"),
    ]
}

fn deleted_by_strongswan(site: &mut Site, role: Role) -> Result<String> {
    let ends = usual(site, role)?;
    session::up(site, role, &ends)?;
    delete_from_strongswan(site)?;
    match role {
        // What an operator has opened comes back by itself.
        Role::Ours => site.await_tunnel().map(drop)?,
        Role::StrongSwan => open(site, role).map(drop)?,
    }
    tunnel::pages(site).context("opened again")?;
    agree(site)?;
    close(site, role)?;
    Ok("opened again".into())
}

fn deleted_by_us(site: &mut Site, role: Role) -> Result<String> {
    let ends = usual(site, role)?;
    session::up(site, role, &ends)?;
    delete_from_us(site)?;
    // An IKE SA comes up for a moment, and is closed at once.
    let _ = site.charon()?.initiate();
    until(PATIENCE, "strongSwan without an SA", || {
        Ok(site.charon()?.sas()?.trim().is_empty().then_some(()))
    })?;
    ensure!(site.child_spis()?.is_empty(), "child SAs are left");
    site.clinic.sekisho(&["up", "centre"])?;
    site.await_tunnel()?;
    tunnel::pages(site).context("opened again")?;
    agree(site)?;
    delete_from_us(site)?;
    Ok("opened again by an operator".into())
}

fn child_deleted(site: &mut Site, role: Role) -> Result<String> {
    let ends = usual(site, role)?;
    session::up(site, role, &ends)?;
    let ike = site.ike_spis()?;
    site.charon()?.terminate_child()?;
    site.clinic.await_state("centre", "degraded", PATIENCE)?;
    ensure!(site.child_spis()?.is_empty(), "child SAs are left");
    site.charon()?.initiate()?;
    site.await_tunnel()?;
    ensure!(site.ike_spis()? == ike, "the IKE SA is another one");
    tunnel::pages(site)?;
    close(site, role)?;
    Ok("the IKE SA stayed".into())
}

fn dead_gateway(site: &mut Site, role: Role) -> Result<String> {
    let (clinic, centre) = usual(site, role)?;
    session::up(site, role, &(clinic, centre.option("dpd_delay = 2s")))?;
    site.clinic.crash()?;
    until(GONE_FOR_STRONGSWAN, "strongSwan without an SA", || {
        Ok(site.charon()?.sas()?.trim().is_empty().then_some(()))
    })?;
    Ok("its SAs are gone".into())
}

fn dead_strongswan(site: &mut Site, role: Role) -> Result<String> {
    let (mut clinic, centre) = usual(site, role)?;
    clinic.dpd = "1s";
    session::up(site, role, &(clinic, centre))?;
    site.charon_mut()?.0.crash()?;
    let gone = until(GONE_FOR_US, "our gateway giving the peer up", || {
        Ok((site.clinic.status()?.connection("centre")?.ends().0 == 1).then_some(()))
    });
    let (charon, lab) = site.charon_mut()?;
    charon.start_again(lab)?;
    let ((), time) = gone?;
    ensure!(site.child_spis()?.is_empty(), "child SAs are left");
    Ok(format!("given up after {:.0} s", time.as_secs_f64()))
}

fn crash(site: &mut Site, role: Role) -> Result<String> {
    let ends = usual(site, role)?;
    session::up(site, role, &ends)?;
    let before = site.ike_spis()?;
    site.clinic.crash()?;
    site.clinic.launch(&site.lab)?;
    open(site, role)?;
    ensure!(site.ike_spis()? != before, "the IKE SA is the one of before");
    agree(site).context("strongSwan keeps the IKE SA of before")?;
    tunnel::pages(site)?;
    close(site, role)?;
    Ok("the IKE SA of before is gone".into())
}

fn strongswan_crashes(site: &mut Site, role: Role) -> Result<String> {
    let ends = usual(site, role)?;
    session::up(site, role, &ends)?;
    let before = site.ike_spis()?;
    let (charon, lab) = site.charon_mut()?;
    charon.crash()?;
    charon.start_again(lab)?;
    charon.load(&ends.1)?;
    charon.initiate()?;
    until(PATIENCE, "another IKE SA in place of the one of before", || {
        let now = site.ike_spis()?;
        Ok((!now.0.is_empty() && now != before).then_some(()))
    })?;
    agree(site).context("we keep the IKE SA of before")?;
    let children = site.child_spis()?;
    ensure!(children.len() == 1, "{} child SAs", children.len());
    tunnel::pages(site)?;
    close(site, role)?;
    Ok("the IKE SA of before is gone".into())
}
