//! Address translation by whole gateways: what the far end sees, and that answers find their way.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use sekisho_tests::gateway::Sekishod;
use sekisho_tests::gateway::certificates::KeyType;
use sekisho_tests::gateway::settings::{Child, HTTP, PRINT, SCAN, Settings};
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::lab::{Lab, topology};
use sekisho_tests::scenario::site::{Services, Site, TUNNEL_PATIENCE, WEB_PAGE, canary, certified};
use sekisho_tests::scenario::tunnel;
use sekisho_tests::stage::{self, Stage, Test};
use sekisho_tests::traffic::frame::Kind;
use sekisho_tests::traffic::tap::{Seen, Tap};
use sekisho_tests::traffic::tcp::{self, Conversation};
use sekisho_tests::traffic::{http, ping, udp};

use super::negotiation::usual;

/// The network of both sites, and where each site's host is in it.
const EQUAL: &str = "192.168.1.0/24";
/// The host behind the centre, as it is numbered there.
const EQUAL_SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 20);
/// The same host, as the clinic knows it.
const SERVER_OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 20);
/// Reception, as the centre knows it.
const RECEPTION_OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 10);
/// The UDP service of the internet.
const UDP_PORT: u16 = 5353;
/// Patience for an answer over UDP.
const ANSWER: Duration = Duration::from_secs(2);

pub(crate) fn trials(stage: &Stage) -> Vec<Trial> {
    let tests: [(&str, Test); 3] = [
        ("a_lan_reaches_the_internet_by_the_gateways_address", masquerade),
        ("the_internet_reaches_a_host_by_a_forwarded_port", forwarded),
        ("a_forwarded_port_is_reached_from_inside_by_the_public_address", hairpin),
    ];
    let on_the_site = tests.into_iter().map(|(name, test)| {
        let stage = stage.clone();
        Trial::test(format!("nat::{name}"), move || stage::words(stage.run(test)))
    });
    let alone = Trial::test("nat::two_sites_with_the_same_network_meet_through_the_tunnel", || {
        stage::words(equal_networks())
    });
    on_the_site.chain([alone]).collect()
}

const MASQUERADE: &str = r#"
[[nat.source]]
from = "lan4"
to = "wan"
address = "interface"
family = "both"

[[policy]]
name = "questions"
from = "lan4"
to = "wan"
allow = ["udp/5353"]
"#;

fn masquerade(site: &mut Site) -> Result<String> {
    with(site, MASQUERADE)?;
    let (lan4, web) = (site.at(Place::Lan4), site.at(Place::Web));
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, UDP_PORT));
    let _echo = udp::Echo::start(&web, any)?;
    let tap = Tap::start(&web, "eth0", &site.canary)?;
    for family in Family::BOTH {
        let far = Place::Web.address(family);
        let page = http::get(&lan4, SocketAddr::new(far, HTTP), "/")
            .with_context(|| format!("a page over {family}"))?;
        ensure!(page == WEB_PAGE, "another page came over {family}: {page:?}");
        let answer = udp::ask(&lan4, SocketAddr::new(far, UDP_PORT), ANSWER)?;
        ensure!(answer.is_some(), "UDP over {family}: no answer");
        let echo = ping::ping(&lan4, far, 5, Duration::from_millis(20))?;
        ensure!(echo.lost() == 0, "ICMP echo over {family}: {echo}");
    }
    let seen = tap.stop()?;
    for family in Family::BOTH {
        for what in ["TCP", "UDP", "ICMP"] {
            let known = asked(&seen, what, Place::Web.address(family));
            ensure!(
                known == [Place::Clinic.address(family)],
                "the web server was asked over {family} with {what} by {known:?}: {}",
                seen.summary()
            );
        }
    }
    // The gateway's own address carries IKE and ESP as well.
    site.await_tunnel()?;
    tunnel::pages(site)?;
    let page = http::get(&lan4, Place::Web.socket(Family::V4, HTTP), "/")?;
    ensure!(page == WEB_PAGE, "another page came beside the tunnel: {page:?}");
    // What is not allowed is not allowed from another address either.
    tcp::expect_silence(&site.at(Place::Lan2), Place::Web.socket(Family::V4, HTTP))?;

    // A translated connection outlives a crash of the daemon and a reload that changes something else.
    let _secure = tcp::Service::echo(&web, SocketAddr::from((Ipv6Addr::UNSPECIFIED, 443)))?;
    let mut held = Conversation::open(&lan4, Place::Web.socket(Family::V4, 443))?;
    held.say(b"before")?;
    site.clinic.crash()?;
    held.say(b"while nobody watches")?;
    site.clinic.launch(&site.lab)?;
    held.say(b"after the crash")?;
    let text = file(site)?;
    let more = "\n[[policy]]\nname = \"more\"\nfrom = \"lan2\"\nto = \"lan3\"\nallow = [\"print\"]\n";
    fs::write(site.clinic.config(), format!("{text}{more}"))?;
    site.clinic.sekisho(&["reload"])?;
    held.say(b"after the reload")?;
    // Without the table its address is not what the other end knows: it is over.
    fs::write(site.clinic.config(), text.replacen(MASQUERADE, "", 1))?;
    site.clinic.sekisho(&["reload"])?;
    ensure!(held.say(b"without a translation").is_err(), "the connection lives on untranslated");
    usual(site)?;
    Ok(format!("at the web server: {}", seen.summary()))
}

const FORWARDED: &str = r#"
[[nat.destination]]
on = "wan"
service = ["tcp/8443", "udp/8443"]
to = "192.168.2.10:9100"

[[nat.destination]]
on = "wan"
service = ["tcp/9443"]
to = "192.168.4.10:9100"

[[policy]]
name = "published"
from = "wan"
to = "lan2"
allow = ["tcp/9100", "udp/9100"]
"#;

fn forwarded(site: &mut Site) -> Result<String> {
    with(site, FORWARDED)?;
    let (web, lan2) = (site.at(Place::Web), site.at(Place::Lan2));
    let _echo = udp::Echo::start(&lan2, SocketAddr::from((Ipv6Addr::UNSPECIFIED, PRINT)))?;
    let public = Place::Clinic.socket(Family::V4, 8443);
    let tap = Tap::start(&lan2, "eth0", &site.canary)?;
    tcp::ask(&web, public).context("TCP to the forwarded port")?;
    ensure!(udp::ask(&web, public, ANSWER)?.is_some(), "UDP to the forwarded port: no answer");
    let seen = tap.stop()?;
    for what in ["TCP", "UDP"] {
        let known = asked(&seen, what, Place::Lan2.address(Family::V4));
        ensure!(
            known == [Place::Web.address(Family::V4)],
            "the host was asked with {what} by {known:?}: {}",
            seen.summary()
        );
    }
    let (refused, ()) = site.growth(
        |status| status.verdict("wan", "policy"),
        || {
            // A translation allows nothing by itself, and the host's own port is not the public one.
            tcp::expect_silence(&web, Place::Clinic.socket(Family::V4, 9443))?;
            tcp::expect_silence(&web, Place::Lan4.socket(Family::V4, PRINT))
        },
    )?;
    ensure!(refused >= 2, "2 connections were refused, but only {refused} packets counted");
    tcp::expect_silence(&web, Place::Clinic.socket(Family::V4, 8444))?;
    site.await_tunnel()?;
    tunnel::pages(site)?;
    usual(site)?;
    Ok(format!("at the host: {}; {refused} packets refused", seen.summary()))
}

const HAIRPIN: &str = r#"
[[nat.destination]]
on = "wan"
service = ["tcp/8443"]
to = "192.168.2.10:9100"

[[policy]]
name = "published"
from = ["lan2", "lan4"]
to = "lan2"
allow = ["tcp/9100"]
"#;

fn hairpin(site: &mut Site) -> Result<String> {
    with(site, HAIRPIN)?;
    let public = Place::Clinic.socket(Family::V4, 8443);
    tcp::ask(&site.at(Place::Lan4), public).context("from another LAN")?;
    // Its own host asks itself: both ends of the connection are on one cable, and each knows only the gateway.
    let lan2 = site.at(Place::Lan2);
    let tap = Tap::start(&lan2, "eth0", &site.canary)?;
    tcp::ask(&lan2, public).context("from the host's own network")?;
    let seen = tap.stop()?;
    let known = asked(&seen, "TCP", Place::Lan2.address(Family::V4));
    let gateway = IpAddr::from([192, 168, 2, 1]);
    ensure!(
        known.contains(&gateway) && known.contains(&public.ip()),
        "the host heard from {known:?}: {}",
        seen.summary()
    );
    tcp::expect_silence(&site.at(Place::Lan1), public)?;
    usual(site)?;
    Ok(format!("on the host's cable: {}", seen.summary()))
}

/// The clinic with these tables in its file, started anew.
pub(crate) fn with(site: &mut Site, tables: &str) -> Result<()> {
    usual(site)?;
    let text = file(site)?;
    fs::write(site.clinic.config(), format!("{text}{tables}")).context("writing the configuration")?;
    site.clinic.stop()?;
    site.clinic.launch(&site.lab)
}

fn file(site: &Site) -> Result<String> {
    fs::read_to_string(site.clinic.config()).context("reading the configuration")
}

/// Who sent packets of a kind to an address.
fn asked(seen: &Seen, what: &str, to: IpAddr) -> Vec<IpAddr> {
    let of_the_kind = |kind: &Kind| matches!(kind, Kind::Other(words) if words.starts_with(what));
    let mut from: Vec<IpAddr> = seen
        .between
        .keys()
        .filter(|(kind, _, destination)| of_the_kind(kind) && *destination == to)
        .map(|(_, source, _)| *source)
        .collect();
    from.sort_unstable();
    from.dedup();
    from
}

/// Both sites are 192.168.1.0/24; each knows the other by a network of its own.
fn equal_networks() -> Result<String> {
    let lab = Lab::up("equal")?;
    let outcome = equal_networks_in(&lab);
    if outcome.is_err() {
        lab.save_logs()?;
    }
    outcome
}

fn equal_networks_in(lab: &Lab) -> Result<String> {
    let server = lab.at(Place::Server);
    for words in [
        &["addr", "flush", "dev", "eth0", "scope", "global"][..],
        &["addr", "add", &format!("{EQUAL_SERVER}/24"), "dev", "eth0"],
        &["route", "replace", "default", "via", "192.168.1.1"],
    ] {
        topology::ip_show(&server, words)?;
    }
    let canary = canary();
    let _services = Services::start(lab.name(), &canary)?;
    let _scanner = tcp::Service::echo(&lab.at(Place::Lan1), SocketAddr::from((Ipv6Addr::UNSPECIFIED, 8601)))?;
    let [mut clinic, mut centre] = certified(lab, KeyType::Ecdsa)?;
    let networks = ["10.77.1.0/24".to_owned(), "10.77.2.0/24".to_owned()];
    for (settings, [local, remote]) in
        [(&mut clinic, [&networks[0], &networks[1]]), (&mut centre, [&networks[1], &networks[0]])]
    {
        settings.children =
            vec![Child { name: "main".into(), local: vec![local.clone()], remote: vec![remote.clone()] }];
    }
    let centre = started(lab, Place::Centre, &centre, |text| {
        text.replacen("10.2.0.1/24", "192.168.1.1/24", 1)
            + &map("clinic", &networks[1])
            + "\n[[policy]]\nname = \"scan\"\nfrom = \"lan\"\nto = \"clinic\"\nallow = [\"tcp/8600\"]\n"
    })?;
    let clinic = started(lab, Place::Clinic, &clinic, |text| {
        text + &map("centre", &networks[0])
            + "\n[[policy]]\nname = \"scan\"\nfrom = \"centre\"\nto = \"lan1\"\nallow = [\"tcp/8600\"]\n"
    })?;
    clinic.await_up("centre", TUNNEL_PATIENCE)?;
    centre.await_up("clinic", TUNNEL_PATIENCE)?;

    let reception = lab.at(Place::Lan1);
    let tap = Tap::start(&server, "eth0", &canary)?;
    let carrier = Tap::start(&lab.at(Place::Internet), "clinic", &canary)?;
    let page = http::get(&reception, SocketAddr::from((SERVER_OUTSIDE, HTTP)), "/").context("the page")?;
    ensure!(page.contains(&canary), "another page came: {page:?}");
    let echo = SocketAddr::from((SERVER_OUTSIDE, 7));
    ensure!(udp::ask(&reception, echo, ANSWER)?.is_some(), "UDP: no answer");
    let pings = ping::ping(&reception, SERVER_OUTSIDE.into(), 10, Duration::from_millis(20))?;
    ensure!(pings.lost() == 0, "ICMP echo: {pings}");
    // And the other way: the same words, from the other end.
    tcp::ask(&server, SocketAddr::from((RECEPTION_OUTSIDE, SCAN))).context("from the centre's host")?;
    let (seen, carried) = (tap.stop()?, carrier.stop()?);
    for what in ["TCP", "UDP", "ICMP"] {
        let known = asked(&seen, what, EQUAL_SERVER.into());
        ensure!(
            known == [IpAddr::from(RECEPTION_OUTSIDE)],
            "the server heard {what} from {known:?}: {}",
            seen.summary()
        );
    }
    ensure!(carried.leaks().is_empty(), "the carrier saw more than ESP: {}", carried.summary());
    ensure!(carried.canaries == 0 && carried.esp() > 0, "the carrier saw {}", carried.summary());
    tcp::expect_silence(&server, SocketAddr::from((RECEPTION_OUTSIDE, 8601)))?;
    Ok(format!("at the server: {}; at the carrier: {}", seen.summary(), carried.summary()))
}

fn map(zone: &str, outside: &str) -> String {
    format!("\n[[nat.map]]\nzone = \"{zone}\"\ninside = \"{EQUAL}\"\noutside = \"{outside}\"\n")
}

fn started(
    lab: &Lab,
    place: Place,
    settings: &Settings,
    adapt: impl FnOnce(String) -> String,
) -> Result<Sekishod> {
    let mut gateway = Sekishod::prepare(lab, place, settings)?;
    let text = fs::read_to_string(gateway.config()).context("reading the configuration")?;
    fs::write(gateway.config(), adapt(text)).context("writing the configuration")?;
    gateway.launch(lab)?;
    Ok(gateway)
}
