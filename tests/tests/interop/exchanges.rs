//! What else may happen while a connection comes up: one exchange or circumstance a row.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sekisho_tests::gateway::settings::Child;
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::{Family, LAN1_NETWORKS, Place, SERVER_NETWORKS};
use sekisho_tests::scenario::flood::first_request;
use sekisho_tests::scenario::site::Site;
use sekisho_tests::scenario::tunnel;
use sekisho_tests::traffic::frame::{Addressing, Kind};
use sekisho_tests::traffic::inject::Injector;
use sekisho_tests::traffic::tap::Tap;

use super::matrix::{Role, Row};
use super::session::{
    self, ESP, PATIENCE, agree, close, open, rekey_child, strongswan_says, up_and_down, usual,
};

/// Ethernet, IPv4 without options, UDP.
const HEADERS: usize = 14 + 20 + 8;
/// Half-open IKE SAs from which on our engine asks for cookies (`Limits` in control/ike/src/config.rs), and some more.
const STRANGERS: u32 = 40;

/// The rows.
pub(crate) fn rows() -> Vec<Row> {
    let row =
        |title: &'static str, run: fn(&mut Site, Role) -> Result<String>| Row::new("Exchanges", title, run);
    vec![
        row("INVALID_KE_PAYLOAD: the first group is not the peer's", other_group),
        row("a cookie is asked for", cookie),
        row("childless start (RFC 6023)", childless)
            .not_for(Role::Ours, "our initiator sends its first child in IKE_AUTH whenever it has one"),
        row("narrowing: the responder has less than the initiator asks for", narrowed),
        row("narrowing: the responder has more than the initiator asks for", widened),
        row("two child SAs in one IKE SA", two_children),
        row("SAs for single resources (RFC 9611), which strongSwan 5.9.8 does not know: one SA", one_for_all),
        row("on demand: the first packet opens it", on_demand).not_for(
            Role::StrongSwan,
            "strongSwan's trap is its own affair: what comes to us is the handshake of other rows",
        ),
    ]
}

/// The initiator begins with X25519 and would take P-256, too.
fn other_group(site: &mut Site, role: Role) -> Result<String> {
    let (one, both) = ("aes128gcm16-prfsha256-ecp256", "aes128gcm16-prfsha256-x25519-ecp256");
    let (ours, theirs) = match role {
        Role::Ours => (both, one),
        Role::StrongSwan => (one, both),
    };
    let (clinic, mut centre) = session::psk(site, role, ours, ESP)?;
    centre.ike = theirs.into();
    let (figure, log) = strongswan_says(site, |site| up_and_down(site, role, &(clinic, centre)))?;
    ensure!(log.contains("N(INVAL_KE)"), "strongSwan saw no INVALID_KE_PAYLOAD");
    ensure!(log.contains("ECP_256"), "strongSwan did not use P-256");
    Ok(figure)
}

fn cookie(site: &mut Site, role: Role) -> Result<String> {
    match role {
        Role::Ours => strongswans_cookie(site),
        Role::StrongSwan => our_cookie(site),
    }
}

/// strongSwan is told to ask for cookies while one IKE SA is half open: a stranger's, who has heard our first request and
/// repeats it from elsewhere.
fn strongswans_cookie(site: &mut Site) -> Result<String> {
    let (clinic, mut centre) = usual(site, Role::Ours)?;
    centre.remote = None;
    site.reconfigure_foreign(&clinic, &centre)?;
    let carrier = Tap::start(&site.at(Place::Internet), "clinic", &site.canary)?;
    open(site, Role::Ours)?;
    close(site, Role::Ours)?;
    let seen = carrier.stop()?;
    let first = seen.frames_to(Place::Centre.address(Family::V4), &[Kind::Ike]);
    let request = first.first().and_then(|frame| frame.get(HEADERS..)).context("no IKE seen")?;
    let centre_ike = Place::Centre.socket(Family::V4, 500);
    let stranger = site.at(Place::Web).run(|| Ok(UdpSocket::bind("0.0.0.0:500")?))?;
    until(PATIENCE, "the stranger half open", || {
        // Once more: as long as strongSwan has the IKE SA of the first request it takes another for a repetition.
        stranger.send_to(request, centre_ike)?;
        Ok(site.charon()?.sas()?.contains("CONNECTING").then_some(()))
    })?;
    drop(stranger);
    let ((), log) = strongswan_says(site, |site| {
        open(site, Role::Ours)?;
        tunnel::page_unseen(site)?;
        agree(site)
    })?;
    ensure!(log.contains("N(COOKIE)"), "strongSwan did not ask for a cookie");
    site.clinic.sekisho(&["down", "centre"])?;
    site.charon()?.forget()?;
    Ok("asked for, and returned".into())
}

/// Ours asks whoever comes while many strangers are half open. They come from 45.0.0.0/8, where nobody is.
fn our_cookie(site: &mut Site) -> Result<String> {
    let (mut clinic, centre) = usual(site, Role::StrongSwan)?;
    clinic.remote_anywhere = true;
    site.reconfigure_foreign(&clinic, &centre)?;
    let injector = Injector::open(&site.at(Place::Internet), "clinic")?;
    let mac = (injector.mac(), site.at(Place::Clinic).mac("wan")?);
    for number in 0..STRANGERS {
        let [.., last] = number.to_be_bytes();
        let ip = (IpAddr::V4(Ipv4Addr::new(45, 0, last, 1)), Place::Clinic.address(Family::V4));
        injector.send(&Addressing { mac, ip }.udp((500, 500), &first_request(number))?)?;
        // Below the rate at which strangers are answered at all.
        std::thread::sleep(Duration::from_millis(5));
    }
    let demanded = |site: &Site| Ok::<_, anyhow::Error>(site.clinic.status()?.cookies_demanded());
    let before = demanded(site)?;
    let (_, log) = strongswan_says(site, |site| open(site, Role::StrongSwan))?;
    ensure!(log.contains("N(COOKIE)"), "strongSwan was not asked for a cookie");
    ensure!(demanded(site)? > before, "our status counts no cookie");
    tunnel::page_unseen(site)?;
    agree(site)?;
    close(site, Role::StrongSwan)?;
    // The strangers would hold their places for another half minute.
    site.clinic.stop()?;
    Ok("asked for, and returned".into())
}

/// strongSwan sends no child in IKE_AUTH and opens it in CREATE_CHILD_SA.
fn childless(site: &mut Site, role: Role) -> Result<String> {
    let (clinic, centre) = usual(site, role)?;
    let centre = centre.option("childless = force");
    let (figure, log) = strongswan_says(site, |site| up_and_down(site, role, &(clinic, centre)))?;
    ensure!(
        log.contains("generating CREATE_CHILD_SA request"),
        "strongSwan did not open the child SA by itself"
    );
    Ok(figure)
}

/// The responder's networks are parts of the initiator's; the hosts are in them.
fn narrowed(site: &mut Site, role: Role) -> Result<String> {
    differing(site, role, role)
}

/// The reverse.
fn widened(site: &mut Site, role: Role) -> Result<String> {
    let less = if role == Role::Ours { Role::StrongSwan } else { Role::Ours };
    differing(site, role, less)
}

/// `more`: whose networks are the larger ones. What is negotiated is the smaller ones, and both say so.
fn differing(site: &mut Site, role: Role, more: Role) -> Result<String> {
    let owned = |networks: [&str; 2]| networks.map(str::to_owned).to_vec();
    let server = owned(["10.2.0.0/25", "fd10:2::/65"]);
    let lan = owned(["192.168.1.0/25", "fd00:1::/65"]);
    let (mut clinic, mut centre) = usual(site, role)?;
    match more {
        Role::Ours => (centre.local_ts, centre.remote_ts) = (server, lan),
        Role::StrongSwan => {
            clinic.children = vec![Child { name: "main".into(), local: lan, remote: server }];
        }
    }
    let figure = session::up(site, role, &(clinic, centre))?;
    let sas = site.charon()?.sas()?;
    for network in ["10.2.0.0/25", "fd10:2::/65", "192.168.1.0/25", "fd00:1::/65"] {
        ensure!(sas.contains(network), "strongSwan's child SA is not for {network}: {sas}");
    }
    close(site, role)?;
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
            open(site, role)?;
            site.charon()?.initiate_child("six")?;
        }
    }
    until(PATIENCE, "two child SAs", || Ok((site.child_spis()?.len() == 2).then_some(())))?;
    site.charon()?.await_children(2)?;
    tunnel::page_unseen(site)?;
    agree(site)?;
    close(site, role)?;
    Ok("one for each IP version".into())
}

/// Ours would have one for each of four; strongSwan passes over the notify, and nothing more is asked, with new keys neither.
fn one_for_all(site: &mut Site, role: Role) -> Result<String> {
    let (mut clinic, centre) = usual(site, role)?;
    clinic.more_keys[0].push("per_resource_sas = 4".into());
    site.reconfigure_foreign(&clinic, &centre)?;
    let (figure, log) = strongswan_says(site, |site| {
        open(site, role)?;
        tunnel::page_unseen(site)?;
        // A row before this one may have been about a refusal.
        let before = site.clinic.status()?.connection("centre")?.last_failure().to_owned();
        rekey_child(site, role)?;
        agree(site)?;
        tunnel::pages(site)?;
        let status = site.clinic.status()?;
        let connection = status.connection("centre")?;
        let words = connection.resource_sas().to_owned();
        ensure!(words.contains("the peer does not know"), "{words}");
        ensure!(connection.last_failure() == before, "{}", connection.last_failure());
        close(site, role)?;
        Ok(words)
    })?;
    let noted = log.contains("16444");
    ensure!(noted == (role == Role::Ours), "SA_RESOURCE_INFO was seen by strongSwan: {noted}");
    Ok(figure)
}

fn on_demand(site: &mut Site, role: Role) -> Result<String> {
    let (mut clinic, centre) = usual(site, role)?;
    clinic.start = "on-demand";
    site.reconfigure_foreign(&clinic, &centre)?;
    // What an operator has closed stays closed; this is the way back to waiting for a packet.
    if site.clinic.status()?.connection("centre")?.state() == "down" {
        site.clinic.stop()?;
        site.clinic.launch(&site.lab)?;
    }
    let state = site.clinic.status()?.connection("centre")?.state().to_owned();
    ensure!(state == "waiting", "before any traffic the connection is {state}");
    tunnel::pages(site).context("the page that opens the tunnel")?;
    tunnel::page_unseen(site)?;
    agree(site)?;
    close(site, role)?;
    Ok("opened by a page".into())
}
