//! Virtual addresses between whole gateways: the clinic is given one of each family by the centre, and speaks by it.

use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use sekisho_tests::gateway::settings::{ECHO, HTTP, Pool, Settings};
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::lab::topology;
use sekisho_tests::scenario::site::{Site, TUNNEL_PATIENCE};
use sekisho_tests::stage::{self, Stage, Test};
use sekisho_tests::traffic::tap::Tap;
use sekisho_tests::traffic::tcp::{self, Conversation};
use sekisho_tests::traffic::{http, ping, udp};

use super::clear::interface;
use super::negotiation::{psk, usual};

/// What the centre gives.
const POOL: [&str; 2] = ["10.9.0.0/29", "fd09::/64"];
const NAME_SERVER: &str = "10.2.0.53";
/// A service of the clinic's gateway itself.
const OWN_SERVICE: u16 = 8443;
/// Patience for an answer over UDP.
const ANSWER: Duration = Duration::from_secs(2);
/// From an event at one gateway to what the other makes of it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reception goes by the clinic's address; the gateway itself may ask and be asked.
const CLINIC_TABLES: &str = r#"
[[nat.source]]
from = "lan1"
to = "centre"
address = "interface"
family = "both"

[[policy]]
name = "own-questions"
from = "gateway"
to = "centre"
allow = ["icmp/echo", "tcp/80"]

[[policy]]
name = "own-service"
from = "centre"
to = "gateway"
allow = ["icmp/echo", "tcp/8443"]
"#;

const CENTRE_TABLES: &str = r#"
[[policy]]
name = "own-service-of-clinics"
from = "lan"
to = "clinic"
allow = ["icmp/echo", "tcp/8443", "tcp/9100"]
"#;

pub(crate) fn trials(stage: &Stage) -> Vec<Trial> {
    let tests: [(&str, Test); 5] = [
        ("a_clinic_is_given_addresses_and_speaks_by_them", given),
        ("addresses_go_with_the_connection_and_come_back", kept),
        ("a_pool_that_moves_takes_its_peers_along", moved),
        ("an_exhausted_pool_turns_away_and_says_so", exhausted),
        ("an_address_of_our_own_hosts_is_not_taken", refused),
    ];
    let trials = tests.into_iter().map(|(name, test)| {
        let stage = stage.clone();
        Trial::test(format!("addresses::{name}"), move || stage::words(stage.run(test)))
    });
    trials.collect()
}

fn settings(site: &Site) -> Result<[Settings; 2]> {
    let [clinic, centre] = psk(site)?;
    let pool = Pool {
        name: "clinics".into(),
        addresses: POOL.map(str::to_owned).to_vec(),
        dns: vec![NAME_SERVER.into()],
    };
    let (mut clinic, mut centre) = (clinic.asking(&["ipv4", "ipv6"]), centre.giving(pool));
    clinic.more = CLINIC_TABLES.into();
    centre.more = CENTRE_TABLES.into();
    Ok([clinic, centre])
}

/// The addresses that the clinic has now, IPv4 first.
fn addresses(site: &Site) -> Result<[IpAddr; 2]> {
    let status = site.clinic.status()?;
    let (addresses, servers) = status.connection("centre")?.given();
    ensure!(servers == [NAME_SERVER], "the name servers are {servers:?}");
    let parsed: Vec<IpAddr> = addresses.iter().filter_map(|address| address.parse().ok()).collect();
    let found: [IpAddr; 2] =
        parsed.try_into().map_err(|other| anyhow::anyhow!("the addresses are {other:?}"))?;
    ensure!(found[0].to_string().starts_with("10.9.0.") && found[1].to_string().starts_with("fd09::"));
    Ok(found)
}

/// Pages for reception over both families, and who the server saw.
fn pages(site: &Site, ours: [IpAddr; 2]) -> Result<()> {
    let tap = Tap::start(&site.at(Place::Server), "eth0", &site.canary)?;
    for family in Family::BOTH {
        let page = http::get(&site.at(Place::Lan1), Place::Server.socket(family, HTTP), "/")
            .with_context(|| format!("a page over {family}"))?;
        ensure!(page.contains(&site.canary), "another page came over {family}: {page:?}");
    }
    let seen = tap.stop()?;
    for (family, own) in Family::BOTH.into_iter().zip(ours) {
        let server = Place::Server.address(family);
        let asked: Vec<IpAddr> =
            seen.between.keys().filter(|(_, _, to)| *to == server).map(|(_, from, _)| *from).collect();
        ensure!(
            !asked.is_empty() && asked.iter().all(|from| *from == own || !is_global(from)),
            "the server was asked by {asked:?}, not by {own}"
        );
    }
    Ok(())
}

/// Not one of neighbour discovery's.
fn is_global(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => true,
        IpAddr::V6(v6) => {
            !v6.is_unicast_link_local()
                && !v6.is_unspecified()
                && *v6 != Ipv6Addr::new(0xfd10, 2, 0, 0, 0, 0, 0, 1)
        }
    }
}

/// What the clinic's kernel has on the device of its VPNs.
fn on_the_device(site: &Site) -> Result<String> {
    let device = interface(site)?;
    let words = ["-oneline", "addr", "show", "dev", &device, "scope", "global"];
    topology::ip_show(&site.at(Place::Clinic), &words)
}

fn given(site: &mut Site) -> Result<String> {
    let [clinic, centre] = settings(site)?;
    site.reconfigure(&clinic, &centre)?;
    site.await_tunnel()?;
    let ours = addresses(site)?;
    let carrier = Tap::start(&site.at(Place::Internet), "clinic", &site.canary)?;
    pages(site, ours)?;
    let (lan1, gateway, server) = (site.at(Place::Lan1), site.at(Place::Clinic), site.at(Place::Server));
    let _own = tcp::Service::echo(&gateway, SocketAddr::from((Ipv6Addr::UNSPECIFIED, OWN_SERVICE)))?;
    for (family, own) in Family::BOTH.into_iter().zip(ours) {
        let far = Place::Server.address(family);
        let answer = udp::ask(&lan1, SocketAddr::new(far, ECHO), ANSWER)?;
        ensure!(answer.is_some(), "UDP over {family}: no answer");
        for (who, from, to) in
            [("reception", &lan1, far), ("the gateway itself", &gateway, far), ("the server", &server, own)]
        {
            let echo = ping::ping(from, to, 5, Duration::from_millis(20))?;
            ensure!(echo.lost() == 0, "ICMP echo of {who} to {to}: {echo}");
        }
        tcp::ask(&server, SocketAddr::new(own, OWN_SERVICE)).context("the server asks the gateway")?;
        // What no policy allows stays closed, and so do the hosts behind.
        tcp::expect_silence(&server, SocketAddr::new(own, 9100))?;
        tcp::expect_silence(&server, Place::Lan1.socket(family, 9100))?;
    }
    let seen = carrier.stop()?;
    ensure!(seen.leaks().is_empty(), "the carrier saw more than IKE and ESP: {}", seen.summary());
    let status = site.our_centre()?.status()?;
    let (size, used, exhausted) = status.pool("clinics");
    ensure!(used == 2 && exhausted == 0 && size > 1000, "the pool has {used} of {size} in use, {exhausted}");
    ensure!(status.leases().iter().all(|(_, peer)| peer == "clinic.example"), "{:?}", status.leases());
    let page = site.our_centre()?.sekisho(&["status"])?;
    ensure!(page.contains("POOLS") && page.contains(&ours[0].to_string()), "the table has no pool:\n{page}");
    Ok(format!("{} and {} given; {}", ours[0], ours[1], seen.summary()))
}

fn kept(site: &mut Site) -> Result<String> {
    let [clinic, centre] = settings(site)?;
    site.reconfigure(&clinic, &centre)?;
    site.await_tunnel()?;
    let ours = addresses(site)?;
    let mut held = Conversation::open(&site.at(Place::Lan1), Place::Server.socket(Family::V4, ECHO))?;
    held.say(b"before")?;
    // A rekeyed IKE SA, one that is proved anew, and a reload of both ends.
    let before = site.ike_spis()?;
    for what in [&["rekey", "--ike", "centre"][..], &["reauth", "centre"]] {
        let before = site.ike_spis()?;
        site.clinic.sekisho(what)?;
        until(PATIENCE, &format!("another IKE SA after {what:?}"), || {
            Ok((site.ike_spis()? != before).then_some(()))
        })?;
        ensure!(addresses(site)? == ours, "other addresses after {what:?}");
        held.say(b"after a new IKE SA")?;
    }
    ensure!(site.ike_spis()? != before);
    let more = "\n[[policy]]\nname = \"more\"\nfrom = \"lan2\"\nto = \"lan3\"\nallow = [\"tcp/9100\"]\n";
    let text = fs::read_to_string(site.clinic.config())?;
    fs::write(site.clinic.config(), format!("{text}{more}"))?;
    let spis = site.child_spis()?;
    site.clinic.sekisho(&["reload"])?;
    let centre = site.our_centre()?;
    let text = fs::read_to_string(centre.config())?;
    fs::write(centre.config(), text.replacen("10.9.0.0/29", "10.9.0.0/28", 1))?;
    let changes = centre.sekisho(&["reload"])?;
    ensure!(changes.contains("~ pool clinics"), "the reload says {changes}");
    held.say(b"after reloads of both")?;
    ensure!(site.child_spis()? == spis, "a reload replaced the SAs");
    ensure!(addresses(site)? == ours, "other addresses after a reload");
    // Closed: the address is the peer's to give again, and nothing of it stays here.
    site.clinic.sekisho(&["down", "centre"])?;
    until(PATIENCE, "the addresses taken from the device", || {
        Ok(on_the_device(site)?.trim().is_empty().then_some(()))
    })?;
    until(PATIENCE, "the addresses back in the pool", || {
        Ok((site.our_centre()?.status()?.pool("clinics").1 == 0).then_some(()))
    })?;
    // What reception asks meanwhile is refused, and not remembered as a flow that would stay without the address.
    let far = Place::Server.address(Family::V4);
    let lost = ping::ping(&site.at(Place::Lan1), far, 3, Duration::from_millis(20))?;
    ensure!(lost.lost() == 3, "the server answered without a tunnel: {lost}");
    site.clinic.sekisho(&["up", "centre"])?;
    site.clinic.await_up("centre", TUNNEL_PATIENCE)?;
    ensure!(addresses(site)? == ours, "other addresses after a new connection");
    pages(site, ours)?;
    // A crash leaves them on the device; the next start takes them away, and gets them again.
    site.clinic.crash()?;
    ensure!(on_the_device(site)?.contains(&ours[0].to_string()), "the address is gone with the daemon");
    let lab = &site.lab;
    site.clinic.launch(lab)?;
    site.clinic.await_up("centre", TUNNEL_PATIENCE)?;
    ensure!(addresses(site)? == ours, "other addresses after a crash");
    pages(site, ours)?;
    site.clinic.stop()?;
    let left = site.clinic.leftovers()?;
    ensure!(left.is_empty(), "left of a stopped gateway: {left:?}");
    let lab = &site.lab;
    site.clinic.launch(lab)?;
    usual(site)?;
    Ok(format!("{} over rekey, reauthentication, reloads, a new connection and a crash", ours[0]))
}

fn moved(site: &mut Site) -> Result<String> {
    let [clinic, centre] = settings(site)?;
    site.reconfigure(&clinic, &centre)?;
    site.await_tunnel()?;
    let ours = addresses(site)?;
    let centre = site.our_centre()?;
    let text = fs::read_to_string(centre.config())?;
    fs::write(centre.config(), text.replace("10.9.0.0/29", "10.9.0.16/29"))?;
    centre.sekisho(&["reload"])?;
    let now = until(TUNNEL_PATIENCE, "an address of the other range", || {
        let (addresses, _) = site.clinic.status()?.connection("centre")?.given();
        Ok(addresses.first().filter(|address| **address != ours[0].to_string()).cloned())
    })?
    .0;
    site.await_tunnel()?;
    pages(site, addresses(site)?)?;
    ensure!(!on_the_device(site)?.contains(&format!("{}/32", ours[0])), "the former address stayed");
    Ok(format!("from {} to {now}", ours[0]))
}

/// Whoever may open several IKE SAs with one identity gets an address for each.
fn exhausted(site: &mut Site) -> Result<String> {
    let [clinic, mut centre] = settings(site)?;
    centre.pools[0].addresses = vec!["10.9.0.1".into(), "fd09::1".into()];
    site.reconfigure(&clinic, &centre)?;
    let centre = site.our_centre()?;
    let text = fs::read_to_string(centre.config())?;
    fs::write(
        centre.config(),
        text.replacen("start = \"answer\"", "start = \"answer\"\nunique = \"never\"", 1),
    )?;
    centre.sekisho(&["reload"])?;
    until(TUNNEL_PATIENCE, "the tunnel under the changed connection", || {
        let up = site.clinic.status()?.connection("centre")?.state() == "up";
        Ok((up && site.our_centre()?.status()?.pool("clinics") == (2, 2, 0)).then_some(()))
    })?;
    let ours = addresses(site)?;
    site.clinic.sekisho(&["reauth", "centre"])?;
    let why = until(PATIENCE, "the reason in the status", || {
        let failure = site.clinic.status()?.connection("centre")?.last_failure().to_owned();
        Ok(failure.contains("INTERNAL_ADDRESS_FAILURE").then_some(failure))
    })?
    .0;
    let (size, used, exhausted) = site.our_centre()?.status()?.pool("clinics");
    ensure!((size, used) == (2, 2) && exhausted >= 1, "{used} of {size} in use, {exhausted} turned away");
    // Who has an address goes on with it.
    ensure!(addresses(site)? == ours, "other addresses after a refusal");
    pages(site, ours)?;
    Ok(why)
}

fn refused(site: &mut Site) -> Result<String> {
    let [clinic, mut centre] = settings(site)?;
    // An address of the clinic's own reception.
    centre.pools[0].addresses[0] = "192.168.1.10".into();
    site.reconfigure(&clinic, &centre)?;
    let why = until(PATIENCE, "the reason in the status", || {
        let failure = site.clinic.status()?.connection("centre")?.last_failure().to_owned();
        Ok(failure.contains("192.168.1.10").then_some(failure))
    })?
    .0;
    ensure!(why.contains("port lan1"), "the status says {why}");
    ensure!(!on_the_device(site)?.contains("192.168.1.10"), "the address was taken");
    usual(site)?;
    Ok(why)
}
