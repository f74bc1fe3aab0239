//! The control plane where things go wrong: starts that fail, ports that vanish, drivers without native XDP, peers that
//! do not take no for an answer; and what must never stand in a log.

use std::net::UdpSocket;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use sekisho_tests::gateway::certificates::{Authority, KeyType};
use sekisho_tests::gateway::settings::{HTTP, PRINT, Settings, Side};
use sekisho_tests::lab::Lab;
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::lab::topology::ip_show;
use sekisho_tests::scenario::site::{Site, certified};
use sekisho_tests::scenario::{rekey, tunnel};
use sekisho_tests::stage::{self, Stage, Test};
use sekisho_tests::traffic::tcp;

use super::negotiation::{PSK, psk, usual};

pub(crate) fn trials(stage: &Stage) -> Vec<Trial> {
    let tests: [(&str, Test); 7] = [
        ("no_driver_hides_a_vlan_tag", vlan_tags_stay),
        ("too_large_for_the_tunnel_is_answered", too_large),
        ("held_closed_stays_closed_whatever_the_peer_does", held_closed),
        ("a_port_that_vanished_is_taken_again", port_comes_back),
        ("a_port_that_cannot_follow_keeps_no_other_from_it", beside_one_that_cannot),
        ("a_start_that_fails_leaves_nothing", failed_start),
        ("no_key_stands_in_a_log", no_key_in_a_log),
    ];
    let mut trials = vec![Trial::test("control::a_port_without_native_xdp", || stage::words(generic()))];
    trials.extend(tests.map(|(name, test)| {
        let stage = stage.clone();
        Trial::test(format!("control::{name}"), move || stage::words(stage.run(test)))
    }));
    trials
}

/// A NIC that takes 802.1Q tags off would make tagged frames look like an access port's own.
fn vlan_tags_stay(site: &mut Site) -> Result<String> {
    usual(site)?;
    let offload = |site: &Site| -> Result<bool> {
        let mut ethtool = Command::new("ethtool");
        ethtool.args(["-k", "lan1"]);
        let shown = site.at(Place::Clinic).output(&mut ethtool)?;
        let line = shown.lines().find(|line| line.trim_start().starts_with("rx-vlan-offload:"));
        Ok(line.context("ethtool says nothing of rx-vlan-offload")?.contains(": on"))
    };
    ensure!(!offload(site)?, "rx-vlan-offload is on under the running gateway");
    site.clinic.stop()?;
    ensure!(offload(site)?, "rx-vlan-offload was not switched on again");
    usual(site)?;
    Ok("off while the gateway runs, on again after it".into())
}

/// A host that may not fragment hears how large a packet may be (RFC 1191, RFC 8201), and that by the first one.
fn too_large(site: &mut Site) -> Result<String> {
    usual(site)?;
    tunnel::pages(site)?;
    let mut told = Vec::new();
    for family in Family::BOTH {
        let server = Place::Server.address(family).to_string();
        let said = site.at(Place::Lan1).run(|| {
            let mut ping = Command::new("ping");
            ping.args(["-n", "-M", "do", "-s", "1440", "-c", "2", "-i", "0.3", "-W", "2", &server]);
            let output = ping.output().context("starting ping (package iputils-ping)")?;
            ensure!(
                !output.status.success(),
                "a packet larger than the tunnel's MTU was answered over {family}"
            );
            Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
        })?;
        let mtu = said
            .split_once("mtu")
            .map(|(_, rest)| rest.trim_start_matches([' ', '=']))
            .and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok())
            .with_context(|| format!("nobody said over {family} how large a packet may be:\n{said}"))?;
        ensure!((1280..1448).contains(&mtu), "an MTU of {mtu} is of no use over {family}:\n{said}");
        told.push(format!("{family}: {mtu}"));
    }
    Ok(told.join(", "))
}

/// `sekisho down` at the end that answers: the other opens it again and again, in vain, until `sekisho up`.
fn held_closed(site: &mut Site) -> Result<String> {
    let [clinic, mut centre] = psk(site)?;
    // Such a connection cannot be opened from here, yet `up` must lift the hold.
    centre.remote_anywhere = true;
    site.reconfigure(&clinic, &centre)?;
    site.await_tunnel()?;
    let centre = site.our_centre()?;
    let log_before = centre.log().len();
    centre.sekisho(&["down", "clinic"])?;
    let begin = Instant::now();
    let lan1 = site.at(Place::Lan1);
    while begin.elapsed() < Duration::from_secs(5) {
        let state = centre.status()?.connection("clinic")?.state().to_owned();
        ensure!(state == "down", "after {:?} it is {state}", begin.elapsed());
        tcp::expect_silence(&lan1, Place::Server.socket(Family::V4, HTTP))?;
    }
    let log = centre.log();
    let said = log.get(log_before..).unwrap_or_default();
    let refused = said.matches("while held closed").count();
    ensure!(refused > 0, "the clinic did not even try");
    ensure!(refused < 5, "the clinic tried {refused} times in five seconds");
    centre.sekisho(&["up", "clinic"])?;
    site.clinic.await_up("centre", Duration::from_secs(30))?;
    tunnel::pages(site)?;
    usual(site)?;
    Ok(format!("refused {refused}×, then open"))
}

/// Somebody pulls a USB adapter and plugs it in again.
fn port_comes_back(site: &mut Site) -> Result<String> {
    usual(site)?;
    ip_show(&site.at(Place::Clinic), &["link", "del", "lan2"])?;
    until(FOLLOWED, "the log about the interface that is gone", || {
        Ok(site.clinic.log().contains("interface is gone").then_some(()))
    })?;
    // The other ports go on.
    tcp::ask(&site.at(Place::Lan1), Place::Lan3.socket(Family::V4, PRINT))?;
    tunnel::pages(site)?;

    plug_in(site, Place::Lan2, 2)?;
    let (time, refused) = judged_again(site, Place::Lan2, 2)?;
    Ok(format!("judged again {:.1} s after it was back, {refused} refused", time.as_secs_f64()))
}

/// How soon a port follows its interface.
const FOLLOWED: Duration = Duration::from_secs(5);

/// A new interface for the LAN of this number, with its host behind it.
fn plug_in(site: &Site, host: Place, number: u8) -> Result<()> {
    let (clinic, name) = (site.at(Place::Clinic), host.name());
    let at_host = site.at(host);
    ip_show(
        &clinic,
        &["link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", at_host.name()],
    )?;
    for words in [
        &["link", "set", "eth0", "up"][..],
        &["addr", "add", &format!("{}/24", host.address(Family::V4)), "dev", "eth0"],
        &["addr", "add", &format!("{}/64", host.address(Family::V6)), "dev", "eth0", "nodad"],
        &["route", "add", "default", "via", &format!("192.168.{number}.1")],
        &["route", "add", "default", "via", &format!("fd00:{number}::1")],
    ] {
        ip_show(&at_host, words)?;
    }
    Ok(())
}

/// Waits until the port of this LAN has its addresses and refuses what it should; how long the former took, and how many.
fn judged_again(site: &Site, host: Place, number: u8) -> Result<(Duration, u64)> {
    let (clinic, at_host, port) = (site.at(Place::Clinic), site.at(host), host.name());
    let ((), time) = until(FOLLOWED, "the port's addresses on the new interface", || {
        let addresses = ip_show(&clinic, &["-oneline", "addr", "show", "dev", port])?;
        let own = [format!("192.168.{number}.1/24"), format!("fd00:{number}::1/64")];
        Ok(own.iter().all(|own| addresses.contains(own)).then_some(()))
    })?;
    let judged = |status: &sekisho_tests::gateway::status::Status| status.verdict(port, "policy");
    let mut refused = 0;
    // The rest of the port follows its addresses.
    until(FOLLOWED, "a refused packet on the new interface", || {
        let (more, ()) =
            site.growth(judged, || tcp::expect_silence(&at_host, Place::Lan1.socket(Family::V4, PRINT)))?;
        refused += more;
        Ok((refused > 0).then_some(()))
    })?;
    Ok((time, refused))
}

/// In place of one port's interface comes something that can be no port; in place of another one's, one that can.
fn beside_one_that_cannot(site: &mut Site) -> Result<String> {
    usual(site)?;
    let clinic = site.at(Place::Clinic);
    let log_before = site.clinic.log().len();
    let said = |words: &str| {
        until(FOLLOWED, &format!("{words:?} in the log"), || {
            Ok(site.clinic.log().get(log_before..).unwrap_or_default().contains(words).then_some(()))
        })
    };
    ip_show(&clinic, &["link", "del", "lan2"])?;
    said("interface is gone")?;
    ip_show(&clinic, &["tuntap", "add", "dev", "lan2", "mode", "tun"])?;
    ip_show(&clinic, &["link", "del", "lan4"])?;
    let followed = plug_in(site, Place::Lan4, 4).and_then(|()| judged_again(site, Place::Lan4, 4));
    let named = said("port lan2: ");
    ip_show(&clinic, &["link", "del", "lan2"])?;
    plug_in(site, Place::Lan2, 2)?;
    let (time, refused) = followed?;
    named.context("which port it is that cannot follow")?;
    judged_again(site, Place::Lan2, 2).context("the first one, once it can be a port again")?;
    Ok(format!("{:.1} s, {refused} refused", time.as_secs_f64()))
}

/// Another IKE daemon holds UDP 500: the machine is afterwards as it was before.
fn failed_start(site: &mut Site) -> Result<String> {
    usual(site)?;
    let clinic = site.at(Place::Clinic);
    site.clinic.stop()?;
    let forwarding = |what: &str| {
        let file = format!("/proc/sys/net/{what}");
        clinic.run(|| std::fs::read_to_string(&file).with_context(|| format!("reading {file}")))
    };
    let before = (forwarding("ipv4/ip_forward")?, forwarding("ipv6/conf/all/forwarding")?);
    let other = clinic.run(|| UdpSocket::bind("0.0.0.0:500").context("holding UDP 500"))?;
    let error = match site.clinic.launch(&site.lab) {
        Ok(()) => bail!("it started beside another IKE daemon"),
        Err(error) => format!("{error:#}"),
    };
    ensure!(error.contains("another IKE daemon"), "it does not say what is in the way: {error}");
    let left = site.clinic.leftovers()?;
    ensure!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    let after = (forwarding("ipv4/ip_forward")?, forwarding("ipv6/conf/all/forwarding")?);
    ensure!(before == after, "forwarding was {before:?} and is {after:?}");
    drop(other);
    site.clinic.launch(&site.lab)?;
    site.await_tunnel()?;

    // Where a filter was in force it stays, and the next start takes it over.
    site.clinic.crash()?;
    let other = clinic.run(|| UdpSocket::bind("0.0.0.0:500").context("holding UDP 500"))?;
    ensure!(site.clinic.launch(&site.lab).is_err(), "it started beside another IKE daemon");
    drop(other);
    tcp::ask(&site.at(Place::Lan1), Place::Lan3.socket(Family::V4, PRINT))?;
    tcp::expect_silence(&site.at(Place::Lan3), Place::Lan1.socket(Family::V4, PRINT))?;
    site.clinic.launch(&site.lab)?;
    site.await_tunnel()?;
    Ok("everything taken back on a clean machine; the filter kept after a crash".into())
}

/// Whatever the daemons say of themselves at their most talkative, no secret is in it.
fn no_key_in_a_log(site: &mut Site) -> Result<String> {
    let talkative = "info,sekisho=trace,sekisho_ike=trace,sekisho_esp=trace";
    let authority = Authority::create(&site.lab.dir().join("pki-talkative"))?;
    let certificates = [
        Settings::clinic(authority.credentials(Side::Clinic, KeyType::Ecdsa)?),
        Settings::centre(authority.credentials(Side::Centre, KeyType::Ecdsa)?),
    ];
    for mut settings in [psk(site)?, certificates] {
        for settings in &mut settings {
            settings.log_level = talkative;
        }
        let [clinic, centre] = settings;
        site.reconfigure(&clinic, &centre)?;
        site.await_tunnel()?;
        tunnel::pages(site)?;
        rekey::child_without_loss(site)?;
        rekey::ike_without_loss(site)?;
    }
    let logs = site.clinic.log() + &site.our_centre()?.log();
    ensure!(logs.contains("IKE SA rekeyed"), "the logs are not of these sessions");
    let hex: String = PSK.bytes().map(|byte| format!("{byte:02x}")).collect();
    for secret in [PSK, hex.as_str(), "correct horse"] {
        ensure!(!logs.contains(secret), "the pre-shared key is in a log");
    }
    for line in logs.lines() {
        ensure!(!shows_bytes(line), "a log shows bytes that may be a key: {line}");
    }
    usual(site)?;
    Ok(format!("{} lines without a key", logs.lines().count()))
}

/// Sixteen bytes or more, in hexadecimal or as a list of numbers: no key is shorter. SPIs are eight.
fn shows_bytes(line: &str) -> bool {
    let hexadecimal = line.split(|c: char| !c.is_ascii_hexdigit()).any(|word| word.len() >= 32);
    let mut run = 0;
    let list = line.split([',', '[', ']']).any(|word| {
        run = if word.trim().parse::<u8>().is_ok() { run + 1 } else { 0 };
        run >= 16
    });
    hexadecimal || list
}

/// One port is a bridge, which has no native XDP: all ports run in generic mode, and judge, redirect and encrypt alike.
fn generic() -> Result<String> {
    ensure!(
        shows_bytes(&"0f".repeat(16)) && shows_bytes(&format!("{:?}", [7u8; 16])),
        "the search finds nothing"
    );
    let lab = Lab::up("generic")?;
    let clinic = lab.at(Place::Clinic);
    for words in [
        &["link", "set", "lan3", "down"][..],
        &["link", "set", "lan3", "name", "lan3nic"],
        &["link", "add", "lan3", "type", "bridge"],
        &["link", "set", "lan3nic", "master", "lan3"],
        &["link", "set", "lan3nic", "up"],
        &["link", "set", "lan3", "up"],
    ] {
        ip_show(&clinic, words)?;
    }
    let [clinic, centre] = certified(&lab, KeyType::Ecdsa)?;
    let mut site = Site::between(lab, &clinic, &centre)?;
    let outcome = generic_at_work(&mut site);
    if outcome.is_err() {
        site.lab.save_logs()?;
    }
    outcome
}

fn generic_at_work(site: &mut Site) -> Result<String> {
    ensure!(site.clinic.log().contains("generic mode"), "the fallback is not in the log");
    let table = site.clinic.sekisho(&["status"])?;
    ensure!(!table.contains(" native "), "a port is in native mode beside one that cannot be:\n{table}");
    ensure!(table.matches(" generic ").count() == 5, "five ports are generic:\n{table}");
    for family in Family::BOTH {
        tcp::ask(&site.at(Place::Lan1), Place::Lan3.socket(family, PRINT))
            .with_context(|| format!("into the bridge over {family}"))?;
        tcp::expect_silence(&site.at(Place::Lan3), Place::Lan1.socket(family, PRINT))?;
    }
    let (refused, ()) = site.growth(
        |status| status.verdict("lan3", "policy"),
        || tcp::expect_silence(&site.at(Place::Lan3), Place::Lan1.socket(Family::V4, PRINT)),
    )?;
    ensure!(refused > 0, "the bridge's port judged nothing");
    site.await_tunnel()?;
    tunnel::pages(site)?;
    // The next start finds generic links, and stays with them.
    site.clinic.crash()?;
    site.clinic.launch(&site.lab)?;
    site.await_tunnel()?;
    tunnel::pages(site)?;
    let status = site.clinic.stop()?;
    let left = site.clinic.leftovers()?;
    let ours: Vec<_> = left.iter().filter(|line| !line.contains("address")).collect();
    ensure!(status.success() && ours.is_empty(), "{status}, left behind: {ours:?}");
    Ok("five ports in generic mode: judged, forwarded, encrypted".into())
}
