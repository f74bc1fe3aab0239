//! What else happens between two peers: one exchange or circumstance a row.

use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sekisho_tests::gateway::certificates::KeyType;
use sekisho_tests::gateway::settings::{Child, Settings};
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::{Family, LAN1_NETWORKS, Place, SERVER_NETWORKS};
use sekisho_tests::scenario::site::Site;
use sekisho_tests::scenario::tunnel;
use sekisho_tests::strongswan::Connection;
use sekisho_tests::traffic::frame::Kind;
use sekisho_tests::traffic::tap::Tap;

use super::matrix::{Role, Row};
use super::session::{self, ESP, IKE, PATIENCE, agree, delete_from_us, open};

/// Time in which strongSwan notices that we are gone: a check after 2 s, sent three times.
const GONE: Duration = Duration::from_secs(20);

/// Ethernet, IPv4 without options, UDP.
const HEADERS: usize = 14 + 20 + 8;

/// The rows.
pub(crate) fn rows() -> Vec<Row> {
    let row =
        |title: &'static str, run: fn(&mut Site, Role) -> Result<String>| Row::new("Exchanges", title, run);
    vec![
        row("INVALID_KE_PAYLOAD: the first group is not the peer's", other_group),
        row("cookie asked for", cookie)
            .not_for(Role::StrongSwan, "it is our cookie then: seen in the end-to-end suite's flood"),
        row("IKE_SA_INIT only, the first child later (RFC 6023)", childless)
            .not_for(Role::Ours, "our initiator sends its first child in IKE_AUTH whenever it has one"),
        row("fragmentation (RFC 7383): RSA chain of three in fragments of at most 576 bytes", fragments),
        row("narrowing: the peer has less than we ask for", narrower),
        row("narrowing: the peer asks for more than we have", wider),
        row("two child SAs in one IKE SA", two_children),
        row("reauthentication by strongSwan, make before break", reauthentication),
        row("liveness: strongSwan finds our gateway dead", dead_peer),
        row("INITIAL_CONTACT: our gateway crashes and comes back", crash)
            .not_for(Role::StrongSwan, "who comes back is who initiates"),
    ]
}

fn with(options: &[&str], (clinic, mut centre): (Settings, Connection)) -> (Settings, Connection) {
    centre.options = options.iter().map(|option| (*option).to_owned()).collect();
    (clinic, centre)
}

fn usual(site: &Site, role: Role) -> Result<(Settings, Connection)> {
    session::psk(site, role, IKE, ESP)
}

fn other_group(site: &mut Site, role: Role) -> Result<String> {
    let (one, both) = ("aes128gcm16-prfsha256-ecp256", "aes128gcm16-prfsha256-x25519-ecp256");
    let (ours, theirs) = match role {
        Role::Ours => (both, one),
        Role::StrongSwan => (one, both),
    };
    let (clinic, mut centre) = session::psk(site, role, ours, ESP)?;
    centre.ike = theirs.into();
    let figure = session::up(site, role, &(clinic, centre))?;
    let status = site.clinic.status()?;
    let suite = status.connection("centre")?.ike_suite().to_owned();
    ensure!(suite.to_lowercase().contains("256"), "the IKE SA is {suite}");
    delete_from_us(site)?;
    Ok(figure)
}

/// strongSwan asks everybody for a cookie while one IKE SA is half open: a stranger's, who has heard our first request and
/// repeats it from elsewhere.
fn cookie(site: &mut Site, role: Role) -> Result<String> {
    let (clinic, centre) = usual(site, role)?;
    site.reconfigure_foreign(&clinic, &centre)?;
    let carrier = Tap::start(&site.at(Place::Internet), "clinic", &site.canary)?;
    open(site, role)?;
    delete_from_us(site)?;
    let seen = carrier.stop()?;
    let first = seen.frames_to(Place::Centre.address(Family::V4), &[Kind::Ike]);
    let request = first.first().and_then(|frame| frame.get(HEADERS..)).context("no IKE seen")?;
    let centre_ike = Place::Centre.socket(Family::V4, 500);
    site.at(Place::Web).run(|| {
        UdpSocket::bind("0.0.0.0:500")?.send_to(request, centre_ike)?;
        Ok(())
    })?;
    let before = site.charon()?.log().len();
    open(site, role)?;
    tunnel::pages(site)?;
    let log = site.charon()?.log();
    ensure!(
        log.get(before..).unwrap_or_default().contains("N(COOKIE)"),
        "strongSwan did not ask for a cookie"
    );
    agree(site)?;
    delete_from_us(site)?;
    Ok("asked for, and returned".into())
}

fn childless(site: &mut Site, role: Role) -> Result<String> {
    let ends = with(&["childless = force"], usual(site, role)?);
    let figure = session::up(site, role, &ends)?;
    delete_from_us(site)?;
    Ok(figure)
}

fn fragments(site: &mut Site, role: Role) -> Result<String> {
    let (mut clinic, centre) = with(
        &["fragmentation = force", "send_cert = always"],
        session::certificates(site, role, KeyType::Rsa, (IKE, ESP))?,
    );
    clinic.log_level = "debug";
    let before = site.charon()?.log().len();
    let figure = session::up(site, role, &(clinic, centre))?;
    let log = site.charon()?.log();
    let ours = log.get(before..).unwrap_or_default();
    ensure!(ours.contains("parsed IKE_AUTH") && ours.contains("EF("), "nothing came or went in fragments");
    delete_from_us(site)?;
    Ok(figure)
}

/// 10.2.0.0/25 holds the server's address.
fn narrower(site: &mut Site, role: Role) -> Result<String> {
    let (clinic, mut centre) = usual(site, role)?;
    centre.local_ts = vec!["10.2.0.0/25".into(), "fd10:2::/65".into()];
    let figure = session::up(site, role, &(clinic, centre))?;
    delete_from_us(site)?;
    Ok(figure)
}

fn wider(site: &mut Site, role: Role) -> Result<String> {
    let (clinic, mut centre) = usual(site, role)?;
    centre.local_ts = vec!["10.2.0.0/16".into(), "fd10:2::/48".into()];
    centre.remote_ts = vec!["192.168.0.0/16".into(), "fd00:1::/32".into()];
    let figure = session::up(site, role, &(clinic, centre))?;
    delete_from_us(site)?;
    Ok(figure)
}

/// One for each IP version.
fn two_children(site: &mut Site, role: Role) -> Result<String> {
    let (mut clinic, mut centre) = usual(site, role)?;
    let ([lan4, lan6], [server4, server6]) = (LAN1_NETWORKS, SERVER_NETWORKS);
    let owned = |network: &str| vec![network.to_owned()];
    clinic.children = [("four", lan4, server4), ("six", lan6, server6)]
        .map(|(name, local, remote)| Child { name: name.into(), local: owned(local), remote: owned(remote) })
        .into();
    (centre.local_ts, centre.remote_ts) = (owned(server4), owned(lan4));
    centre.more_children = vec![("six".into(), owned(server6), owned(lan6))];
    site.reconfigure_foreign(&clinic, &centre)?;
    match role {
        Role::Ours => site.clinic.sekisho(&["up", "centre"]).map(drop)?,
        Role::StrongSwan => {
            site.charon()?.initiate()?;
            site.charon()?.initiate_child("six")?;
        }
    }
    until(PATIENCE, "two child SAs", || Ok((site.child_spis()?.len() == 2).then_some(())))?;
    site.charon()?.await_children(2)?;
    tunnel::page_unseen(site)?;
    agree(site)?;
    delete_from_us(site)?;
    Ok("one for each IP version".into())
}

fn reauthentication(site: &mut Site, role: Role) -> Result<String> {
    let ends = usual(site, role)?;
    session::up(site, role, &ends)?;
    let before = (site.ike_spis()?, site.child_spis()?);
    site.charon()?.reauthenticate()?;
    until(PATIENCE, "another IKE SA and other child SAs", || {
        let now = (site.ike_spis()?, site.child_spis()?);
        Ok((now.0 != before.0 && now.1.len() == 1 && now.1 != before.1).then_some(()))
    })?;
    agree(site)?;
    site.charon()?.await_children(1)?;
    tunnel::pages(site)?;
    delete_from_us(site)?;
    Ok("one IKE SA and one child SA afterwards".into())
}

fn dead_peer(site: &mut Site, role: Role) -> Result<String> {
    let ends = with(&["dpd_delay = 2s"], usual(site, role)?);
    session::up(site, role, &ends)?;
    site.clinic.crash()?;
    until(GONE, "strongSwan without an SA", || Ok(site.charon()?.sas()?.trim().is_empty().then_some(())))?;
    Ok("its SAs are gone".into())
}

fn crash(site: &mut Site, role: Role) -> Result<String> {
    let (mut clinic, centre) = usual(site, role)?;
    clinic.start = "always";
    site.reconfigure_foreign(&clinic, &centre)?;
    site.await_tunnel()?;
    let before = site.ike_spis()?;
    site.clinic.crash()?;
    site.clinic.launch(&site.lab)?;
    until(PATIENCE, "another IKE SA", || {
        let now = site.ike_spis()?;
        Ok((!now.0.is_empty() && now != before).then_some(()))
    })?;
    site.await_tunnel()?;
    agree(site).context("strongSwan keeps the IKE SA of before")?;
    tunnel::pages(site)?;
    delete_from_us(site)?;
    Ok("the IKE SA of before is gone".into())
}
