//! The life of a connection: opened by a packet, closed for want of them, proved anew, and kept through a flood.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use sekisho_tests::lab::patience::until;
use sekisho_tests::scenario::flood::Flood;
use sekisho_tests::scenario::site::{Peer, Site};
use sekisho_tests::scenario::{rekey, tunnel};
use sekisho_tests::stage::{self, Stage, Test};

use super::negotiation::{psk, usual};

/// Silence, a question, its answer and a handshake; far less than giving up takes.
const FOUND: Duration = Duration::from_secs(20);

pub(crate) fn trials(stage: &Stage) -> Vec<Trial> {
    let tests: [(&str, Test); 4] = [
        ("a_packet_opens_it_and_idleness_closes_it", on_demand_and_idle),
        ("reauthentication_loses_no_packet", reauthentication),
        ("a_peer_that_was_killed_and_only_answers_is_found_by_its_own_word", killed_peer),
        ("a_flood_stops_neither_peers_nor_newcomers", flood),
    ];
    tests
        .into_iter()
        .map(|(name, test)| {
            let stage = stage.clone();
            Trial::test(format!("life::{name}"), move || stage::words(stage.run(test)))
        })
        .collect()
}

fn on_demand_and_idle(site: &mut Site) -> Result<String> {
    let [mut clinic, centre] = psk(site)?;
    (clinic.start, clinic.idle) = ("on-demand", Some("3s"));
    site.reconfigure(&clinic, &centre)?;
    let mut spis = Vec::new();
    for round in 1..=2 {
        let state = site.clinic.status()?.connection("centre")?.state().to_owned();
        ensure!(state == "waiting", "before any traffic the connection is {state}");
        tunnel::pages(site).context("the page that opens the tunnel")?;
        site.await_tunnel()?;
        spis.extend(site.child_spis()?);
        site.clinic.await_state("centre", "waiting", Duration::from_secs(20))?;
        ensure!(site.child_spis()?.is_empty(), "child SAs are left");
        site.our_centre()?.await_state("clinic", "waiting", Duration::from_secs(10))?;
        let (dead, idled) = site.clinic.status()?.connection("centre")?.ends();
        ensure!((dead, idled) == (0, round), "dead {dead}, idled {idled} in round {round}");
    }
    spis.sort_unstable();
    spis.dedup();
    ensure!(spis.len() == 2, "each opening has keys of its own: {spis:?}");
    Ok("opened twice by a page, closed twice after 3 s without a packet, on both sides".into())
}

fn reauthentication(site: &mut Site) -> Result<String> {
    usual(site)?;
    rekey::reauth_without_loss(site)
}

/// Nobody tells the clinic, and giving the peer up would take a minute.
fn killed_peer(site: &mut Site) -> Result<String> {
    let [mut clinic, centre] = psk(site)?;
    clinic.dpd = "1s";
    site.reconfigure(&clinic, &centre)?;
    site.await_tunnel()?;
    let opened =
        |site: &Site| Ok::<_, anyhow::Error>(site.clinic.status()?.connection("centre")?.established());
    let before = opened(site)?;
    let Peer::Sekisho(peer) = &mut site.centre else { bail!("strongSwan is at the centre") };
    peer.crash()?;
    peer.launch(&site.lab)?;
    let ((), time) = until(FOUND, "a second IKE SA with the peer", || {
        Ok((opened(site)? > before && site.child_spis()?.len() == 1).then_some(()))
    })?;
    tunnel::pages(site)?;
    let (dead, _) = site.clinic.status()?.connection("centre")?.ends();
    ensure!(dead == 0, "the peer was given up");
    usual(site)?;
    Ok(format!("{:.1} s after the peer's start", time.as_secs_f64()))
}

fn flood(site: &mut Site) -> Result<String> {
    let [mut clinic, mut centre] = psk(site)?;
    // Whoever forges an address may be a peer there, so that nothing is refused before the key exchange.
    (clinic.dpd, centre.remote_anywhere) = ("1s", true);
    site.reconfigure(&clinic, &centre)?;
    site.await_tunnel()?;
    let before = site.ike_spis()?;
    let flood = Flood::start(site)?;
    let outcome = during_the_flood(site, &before);
    let sent = flood.stop()?;
    let time = outcome?;
    let status = site.our_centre()?.status()?;
    let (cookies, half_open) = (status.cookies_demanded(), status.half_open());
    ensure!(cookies > 1000, "only {cookies} cookies for {sent} requests: did the flood arrive?");
    ensure!(half_open <= 1024, "{half_open} half-open IKE SAs");
    Ok(format!(
        "{sent} forged requests, {cookies} cookies, {half_open} half-open; the peer lived on, and came back in {:.2} s",
        time.as_secs_f64()
    ))
}

/// The peer's liveness checks are answered, packets pass, and a new handshake succeeds. How long that took.
fn during_the_flood(site: &Site, before: &(String, String)) -> Result<Duration> {
    // Some liveness checks long.
    std::thread::sleep(Duration::from_secs(5));
    tunnel::pages(site)?;
    let status = site.clinic.status()?;
    let connection = status.connection("centre")?;
    ensure!(connection.ends().0 == 0 && connection.ike_spis() == *before, "the peer was given up");
    site.clinic.sekisho(&["down", "centre"])?;
    site.clinic.await_state("centre", "down", Duration::from_secs(10))?;
    site.clinic.sekisho(&["up", "centre"])?;
    let time = site.await_tunnel()?;
    tunnel::pages(site)?;
    Ok(time)
}
