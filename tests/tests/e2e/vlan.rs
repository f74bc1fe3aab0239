//! Two LANs of a building on one cable: tagged ports of a trunk, through a switch, without a VLAN driver.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use sekisho_tests::gateway::Sekishod;
use sekisho_tests::gateway::settings::{BULK, PRINT, SCAN};
use sekisho_tests::lab::namespace::Namespace;
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::lab::{Lab, topology};
use sekisho_tests::scenario::site::{Services, canary};
use sekisho_tests::stage;
use sekisho_tests::traffic::frame::{Addressing, Kind};
use sekisho_tests::traffic::inject::Injector;
use sekisho_tests::traffic::tap::Tap;
use sekisho_tests::traffic::tcp::{self, Conversation};
use sekisho_tests::traffic::{ping, udp};

use super::clinic::{alone, reload};
use super::switch::Switch;

/// Where the switch stands: the server behind the centre has nothing to do here.
const SWITCH: Place = Place::Server;
/// VLAN ids of the hospital network and of the office.
const HOSPITAL: u16 = 20;
const OFFICE: u16 = 30;
/// Patience for an answer over UDP.
const ANSWER: Duration = Duration::from_secs(2);
/// Patience for what the daemon sees once a second.
const SEEN: Duration = Duration::from_secs(10);

const POLICIES: &str = r#"
[[policy]]
name = "hospital-prints"
from = "lan2"
to = "lan3"
allow = ["print", "ping", "udp/9100", "tcp/5001"]

[[policy]]
name = "gateway-answers"
from = ["lan2", "lan3"]
to = "gateway"
allow = ["ping"]
"#;

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test("vlan::two_lans_on_one_trunk", || stage::words(on_one_trunk()))]
}

fn on_one_trunk() -> Result<String> {
    let lab = Lab::up("trunk")?;
    let outcome = in_the_lab(&lab);
    if outcome.is_err() {
        lab.save_logs()?;
    }
    outcome
}

fn in_the_lab(lab: &Lab) -> Result<String> {
    let (clinic, at_switch) = (lab.at(Place::Clinic), lab.at(SWITCH));
    for device in ["lan2", "lan3"] {
        topology::ip_show(&clinic, &["link", "set", device, "netns", at_switch.name()])?;
        topology::ip_show(&at_switch, &["link", "set", device, "up"])?;
    }
    let cable = ["link", "add", "trunk", "type", "veth", "peer", "name", "trunk", "netns", at_switch.name()];
    topology::ip_show(&clinic, &cable)?;
    as_a_cable(&at_switch)?;
    topology::ip_show(&clinic, &["link", "set", "trunk", "up"])?;
    let _switch = Switch::start(&at_switch, "trunk", &[("lan2", HOSPITAL), ("lan3", OFFICE)])?;
    let services = Services::start(lab.name(), &canary())?;

    let on = |text: &str, port: &str, vlan: u16| {
        let vlan = format!("interface = \"trunk\"\nvlan = {vlan}");
        text.replacen(&format!("interface = \"{port}\""), &vlan, 1)
    };
    let (mut gateway, text) = alone(lab, |text| on(&on(&text, "lan2", HOSPITAL), "lan3", OFFICE) + POLICIES)?;

    let (hospital, office) = (lab.at(Place::Lan2), lab.at(Place::Lan3));
    for family in Family::BOTH {
        reach_the_gateway(lab, family)?;
        works(lab, family)?;
        // The other direction, and another service, are not allowed.
        tcp::expect_silence(&office, Place::Lan2.socket(family, PRINT))?;
        tcp::expect_silence(&hospital, Place::Lan3.socket(family, SCAN))?;
        tcp::expect_silence(&hospital, Place::Lan1.socket(family, PRINT))?;
    }
    // Frames as long as the NIC takes them, the tag not counted.
    let job = tcp::bulk(
        &hospital,
        Place::Lan3.socket(Family::V4, BULK),
        &services.bulk_lan3,
        Duration::from_millis(500),
    )?;
    ensure!(job.bytes > 100_000, "a print job of {} bytes in half a second", job.bytes);
    let hopping = hopping(lab, &gateway)?;
    reload_and_crash(lab, &mut gateway, &text)?;

    ensure!(gateway.stop()?.success(), "the daemon ended with an error");
    let left = gateway.leftovers()?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    let links = topology::ip_show(&clinic, &["-oneline", "link", "show"])?;
    ensure!(!links.contains(": trunk.") && !links.contains(": trunk-"), "left behind: {links}");
    Ok(format!("a print job at {:.0} Mbit/s; {hopping}", job.megabits()))
}

/// Redirected frames come to a veth only while GRO is on; but a switch puts no frames together.
fn as_a_cable(at_switch: &Namespace) -> Result<()> {
    topology::ip_show(at_switch, &["link", "set", "trunk", "up"])?;
    topology::ip_show(at_switch, &["link", "set", "trunk", "gro_max_size", "1"])?;
    for switched in ["off", "on"] {
        at_switch.output(Command::new("ethtool").args(["-K", "trunk", "gro", switched]))?;
    }
    Ok(())
}

/// ARP and neighbour discovery, and an answer by the gateway itself.
fn reach_the_gateway(lab: &Lab, family: Family) -> Result<()> {
    for (place, v4, v6) in
        [(Place::Lan2, "192.168.2.1", "fd00:2::1"), (Place::Lan3, "192.168.3.1", "fd00:3::1")]
    {
        let gateway: IpAddr = if family == Family::V4 { v4 } else { v6 }.parse()?;
        let echo = ping::ping(&lab.at(place), gateway, 3, Duration::from_millis(20))?;
        ensure!(echo.lost() == 0, "{} and its gateway over {family}: {echo}", place.name());
    }
    Ok(())
}

/// What is allowed between the two VLANs, and between another port and one of them.
fn works(lab: &Lab, family: Family) -> Result<()> {
    let printer = Place::Lan3.socket(family, PRINT);
    for place in [Place::Lan2, Place::Lan1] {
        let from = lab.at(place);
        tcp::ask(&from, printer).with_context(|| format!("{} prints over {family}", place.name()))?;
        ensure!(udp::ask(&from, printer, ANSWER)?.is_some(), "UDP from {} over {family}", place.name());
    }
    tcp::ask(&lab.at(Place::Lan3), Place::Lan1.socket(family, SCAN))?;
    Ok(())
}

/// Somebody who can put any frame on the trunk reaches no VLAN but by its own rules.
fn hopping(lab: &Lab, gateway: &Sekishod) -> Result<String> {
    let (at_switch, clinic) = (lab.at(SWITCH), lab.at(Place::Clinic));
    let attacker = Injector::open(&at_switch, "trunk")?;
    let printer = Tap::start(&lab.at(Place::Lan3), "eth0", "")?;
    let syn = Addressing {
        mac: (attacker.mac(), clinic.mac("trunk")?),
        ip: (Place::Lan2.address(Family::V4), Place::Lan3.address(Family::V4)),
    }
    .syn((40_404, PRINT))?;
    let with =
        |tags: &[u8]| [syn.get(..12).unwrap_or_default(), tags, syn.get(12..).unwrap_or_default()].concat();
    let before = gateway.status()?;
    let attempts = [
        ("spoofed-source", &[0x81, 0, 0, 30][..]),
        ("vlan-double", &[0x81, 0, 0, 20, 0x81, 0, 0, 30]),
        ("vlan-double", &[0x88, 0xa8, 0, 20, 0x81, 0, 0, 30]),
        ("vlan-priority", &[0x81, 0, 0xe0, 0]),
        ("vlan-unknown", &[0x81, 0, 0, 31]),
        ("untagged", &[]),
    ];
    for (_, tags) in attempts {
        attacker.send(&with(tags))?;
    }
    // A broadcast of one VLAN, of a kind that hosts would answer.
    let shout = Addressing {
        mac: (attacker.mac(), [0xff; 6]),
        ip: (Place::Lan2.address(Family::V4), "255.255.255.255".parse()?),
    }
    .udp((137, 137), b"who is there")?;
    let mut tagged = shout;
    tagged.splice(12..12, [0x81, 0, 0, 20]);
    attacker.send(&tagged)?;
    let (after, _) = until(SEEN, "refusals by name", || {
        let now = gateway.status()?;
        let mut expected = std::collections::BTreeMap::<&str, u64>::new();
        for reason in attempts.iter().map(|(reason, _)| *reason).chain(["multicast"]) {
            *expected.entry(reason).or_default() += 1;
        }
        let all = expected.iter().all(|(reason, count)| now.drops(reason) >= before.drops(reason) + count);
        Ok(all.then_some(now))
    })?;
    let seen = printer.stop()?;
    let forged = seen.count(&Kind::Other(format!("TCP 40404 to {PRINT}")));
    ensure!(forged == 0, "{forged} forged frames came to the office");
    ensure!(seen.count(&Kind::Other("UDP 137 to 137".into())) == 0, "a broadcast crossed into the office");
    // Not because nothing would arrive: in its own VLAN the same frame does.
    let printer = Tap::start(&lab.at(Place::Lan3), "eth0", "")?;
    attacker.send(&with(&[0x81, 0, 0, 20]))?;
    let seen = printer.stop()?;
    ensure!(
        seen.count(&Kind::Other(format!("TCP 40404 to {PRINT}"))) >= 1,
        "the control: {}",
        seen.summary()
    );
    Ok(format!(
        "hopping refused: {} double, {} unknown",
        after.drops("vlan-double"),
        after.drops("vlan-unknown")
    ))
}

/// A VLAN port goes and comes; flows outlive the daemon.
fn reload_and_crash(lab: &Lab, gateway: &mut Sekishod, text: &str) -> Result<()> {
    let (clinic, hospital) = (lab.at(Place::Clinic), lab.at(Place::Lan2));
    let printer = Place::Lan3.socket(Family::V4, PRINT);
    let mut held = Conversation::open(&hospital, printer)?;
    held.say(b"before")?;
    gateway.crash()?;
    held.say(b"while nobody watches")?;
    works(lab, Family::V4)?;
    gateway.launch(lab)?;
    held.say(b"after the crash")?;

    let other = text.replacen(&format!("vlan = {HOSPITAL}"), "vlan = 77", 1);
    reload(gateway, &other)?;
    tcp::expect_silence(&hospital, printer)?;
    tcp::ask(&lab.at(Place::Lan1), printer).context("the other VLAN goes on")?;
    let links = topology::ip_show(&clinic, &["-oneline", "link", "show"])?;
    ensure!(links.contains("trunk.77") && !links.contains("trunk.20"), "after the reload: {links}");
    reload(gateway, text)?;
    works(lab, Family::V4)?;

    // Somebody who does not know removes the device.
    topology::ip_show(&clinic, &["link", "del", "trunk.30"])?;
    until(SEEN, "the device of VLAN 30 made again", || {
        Ok(tcp::ask(&hospital, printer).is_ok().then_some(()))
    })?;
    for family in Family::BOTH {
        reach_the_gateway(lab, family)?;
        works(lab, family)?;
    }
    ensure!(Path::new("/sys/fs/bpf/sekisho").join(gateway.name()).exists(), "the filter is pinned");
    Ok(())
}
