//! A host that takes another's address on the same wire: ARP, neighbour discovery, and packets.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etherparse::PacketBuilder;
use libtest_mimic::Trial;
use sekisho_tests::gateway::Sekishod;
use sekisho_tests::gateway::settings::{PRINT, SCAN};
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::lab::{Lab, topology};
use sekisho_tests::scenario::site::{Services, canary};
use sekisho_tests::stage;
use sekisho_tests::traffic::frame::{Addressing, Kind};
use sekisho_tests::traffic::inject::Injector;
use sekisho_tests::traffic::tap::Tap;
use sekisho_tests::traffic::tcp;

use super::clinic::{alone, reload};

/// Who would be the printer.
const ATTACKER: [u8; 6] = [2, 0xcc, 0, 0, 0, 66];
/// Patience for counters.
const SEEN: Duration = Duration::from_secs(10);

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test("neighbours::nobody_takes_another_hosts_address", || stage::words(spoofing()))]
}

fn spoofing() -> Result<String> {
    let lab = Lab::up("bound")?;
    let outcome = in_the_lab(&lab);
    if outcome.is_err() {
        lab.save_logs()?;
    }
    outcome
}

fn in_the_lab(lab: &Lab) -> Result<String> {
    let _services = Services::start(lab.name(), &canary())?;
    let (gateway, plain) = alone(lab, |text| text)?;
    let bound =
        |keys: &str| plain.replacen("interface = \"lan3\"", &format!("interface = \"lan3\"\n{keys}"), 1);
    let wire = Injector::open(&lab.at(Place::Lan3), "eth0")?;

    // The control: without bindings the gateway believes whoever speaks last.
    prints(lab)?;
    claim(lab, &wire)?;
    for family in Family::BOTH {
        until(SEEN, "the gateway deceived", || {
            Ok((known_to_the_kernel(lab, family)? == text(ATTACKER)).then_some(()))
        })
        .with_context(|| format!("the control over {family}"))?;
    }
    for address in [Place::Lan3.address(Family::V4), Place::Lan3.address(Family::V6)] {
        topology::ip_show(&lab.at(Place::Clinic), &["neigh", "del", &address.to_string(), "dev", "lan3"])?;
    }

    reload(&gateway, &bound("neighbours = \"learn\""))?;
    prints(lab)?;
    let before = gateway.status()?.drops("neighbour-mac");
    for _ in 0..3 {
        claim(lab, &wire)?;
        prints(lab)?;
    }
    until(SEEN, "claims refused", || {
        Ok((gateway.status()?.drops("neighbour-mac") >= before + 6).then_some(()))
    })?;
    for family in Family::BOTH {
        let known = known_to_the_kernel(lab, family)?;
        ensure!(known != text(ATTACKER), "the gateway was deceived over {family}: {known}");
    }
    // The printer's address in the attacker's frames opens nothing that the printer may open.
    ensure!(scans_seen(lab, &wire, ATTACKER)? == 0, "a packet with another's address passed");
    ensure!(scans_seen(lab, &wire, wire.mac())? > 0, "the control: the printer's own did not pass");

    let shown = gateway.sekisho(&["neighbours"])?;
    let printer = Place::Lan3.address(Family::V4).to_string();
    let line = shown.lines().find(|line| line.contains(&printer)).context("the printer is not shown")?;
    ensure!(line.contains(&text(wire.mac())) && line.contains("learned"), "it is shown as {line}");
    // A device that was replaced: an operator has the binding forgotten, and the next that uses the address has it.
    gateway.sekisho(&["neighbours", "--forget", &printer])?;
    ensure!(scans_seen(lab, &wire, ATTACKER)? > 0, "the new device does not get the address");
    ensure!(
        tcp::ask(&lab.at(Place::Lan3), Place::Lan1.socket(Family::V4, SCAN)).is_err(),
        "the old device keeps it"
    );
    gateway.sekisho(&["neighbours", "--forget", &printer])?;
    tcp::ask(&lab.at(Place::Lan3), Place::Lan1.socket(Family::V4, SCAN)).context("the old device again")?;
    ensure!(gateway.sekisho(&["neighbours", "--forget", "192.168.3.99"]).is_err(), "nothing to forget");

    only_listed(lab, &gateway, &bound, &wire)?;
    let alarms = gateway.log().matches("neighbour").count();
    ensure!(alarms > 0, "no alarm in the log");
    Ok(format!("{} claims refused", gateway.status()?.drops("neighbour-mac")))
}

/// Static bindings: the printer, and nobody else.
fn only_listed(
    lab: &Lab,
    gateway: &Sekishod,
    bound: &impl Fn(&str) -> String,
    wire: &Injector,
) -> Result<()> {
    let mac = text(wire.mac());
    let listed =
        Family::BOTH.map(|family| format!("\"{} at {mac}\"", Place::Lan3.address(family))).join(", ");
    reload(gateway, &bound(&format!("neighbours = \"static\"\nbindings = [{listed}]")))?;
    prints(lab)?;
    let before = gateway.status()?.drops("neighbour-unbound");
    let stranger = Addressing {
        mac: (wire.mac(), lab.at(Place::Clinic).mac("lan3")?),
        ip: ("192.168.3.77".parse()?, Place::Lan1.address(Family::V4)),
    };
    wire.send(&stranger.syn((40_000, SCAN))?)?;
    until(SEEN, "a stranger refused", || {
        Ok((gateway.status()?.drops("neighbour-unbound") > before).then_some(()))
    })?;
    Ok(())
}

/// Reception prints.
fn prints(lab: &Lab) -> Result<()> {
    for family in Family::BOTH {
        tcp::ask(&lab.at(Place::Lan1), Place::Lan3.socket(family, PRINT))
            .with_context(|| format!("a print job over {family}"))?;
    }
    Ok(())
}

/// How many of three forged SYNs of the printer to reception's scan folder reach it.
fn scans_seen(lab: &Lab, wire: &Injector, from: [u8; 6]) -> Result<u64> {
    let tap = Tap::start(&lab.at(Place::Lan1), "eth0", "")?;
    let forged = Addressing {
        mac: (from, lab.at(Place::Clinic).mac("lan3")?),
        ip: (Place::Lan3.address(Family::V4), Place::Lan1.address(Family::V4)),
    };
    for port in 40_001..=40_003 {
        wire.send(&forged.syn((port, SCAN))?)?;
    }
    let seen = tap.stop()?;
    Ok((40_001..=40_003).map(|port| seen.count(&Kind::Other(format!("TCP {port} to {SCAN}")))).sum())
}

/// A gratuitous ARP, and an unsolicited neighbour advertisement with the override flag: "the printer is here".
fn claim(lab: &Lab, wire: &Injector) -> Result<()> {
    let gateway = lab.at(Place::Clinic).mac("lan3")?;
    let (IpAddr::V4(v4), IpAddr::V6(v6)) = (Place::Lan3.address(Family::V4), Place::Lan3.address(Family::V6))
    else {
        anyhow::bail!("the plan's families");
    };
    let mut arp = [[0xff; 6], ATTACKER].concat();
    arp.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 2]);
    // Sender and target are the same, which makes it gratuitous.
    for _ in 0..2 {
        arp.extend(ATTACKER);
        arp.extend(v4.octets());
    }
    wire.send(&arp)?;
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x66);
    // Target and target link-layer address (RFC 4861 section 4.4).
    let payload = [&v6.octets()[..], &[2, 1], &ATTACKER].concat();
    let mut advertisement = Vec::new();
    PacketBuilder::ethernet2(ATTACKER, gateway)
        .ipv6(source.octets(), all_nodes.octets(), 255)
        .icmpv6_raw(136, 0, [0x20, 0, 0, 0])
        .write(&mut advertisement, &payload)
        .context("building a neighbour advertisement")?;
    wire.send(&advertisement)
}

/// The MAC address by which the gateway's kernel knows the printer.
fn known_to_the_kernel(lab: &Lab, family: Family) -> Result<String> {
    let address = Place::Lan3.address(family).to_string();
    let shown = topology::ip_show(&lab.at(Place::Clinic), &["neigh", "show", &address, "dev", "lan3"])?;
    let mac = shown.split_whitespace().skip_while(|word| *word != "lladdr").nth(1);
    Ok(mac.unwrap_or_default().to_owned())
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
