//! Attacks on the flow table and on services: they fail, and those who mean well notice nothing.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use sekisho_tests::gateway::settings::{HTTP, PRINT, SCAN};
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::scenario::site::Site;
use sekisho_tests::scenario::tunnel;
use sekisho_tests::stage::{self, Stage, Test};
use sekisho_tests::traffic::frame::{Addressing, Kind};
use sekisho_tests::traffic::inject::Injector;
use sekisho_tests::traffic::tap::Tap;
use sekisho_tests::traffic::tcp::{self, Conversation};
use sekisho_tests::traffic::{http, udp};

use super::negotiation::usual;

pub(crate) fn trials(stage: &Stage) -> Vec<Trial> {
    let tests: [(&str, Test); 4] = [
        ("one_source_and_one_network_fill_their_quota_while_others_live", quotas),
        ("a_syn_flood_ends_at_the_gateway_while_clients_connect", syn_flood),
        ("who_scans_is_told_of_and_held_down", scan),
        ("a_flood_of_unknown_ike_messages_ends_in_the_filter", unknown_ike),
    ];
    tests
        .into_iter()
        .map(|(name, test)| {
            let stage = stage.clone();
            Trial::test(format!("attacks::{name}"), move || stage::words(stage.run(test)))
        })
        .collect()
}

/// Runs with this at the end of the clinic's configuration, and takes it back.
fn with(site: &mut Site, more: &str, run: impl FnOnce(&Site) -> Result<String>) -> Result<String> {
    usual(site)?;
    let text = fs::read_to_string(site.clinic.config()).context("reading the configuration")?;
    fs::write(site.clinic.config(), format!("{text}\n{more}"))?;
    site.clinic.sekisho(&["reload"])?;
    let outcome = run(site);
    fs::write(site.clinic.config(), &text)?;
    site.clinic.sekisho(&["reload"])?;
    outcome
}

/// A host's cable, with frames to the gateway.
struct Attacker {
    injector: Injector,
    mac: ([u8; 6], [u8; 6]),
}

impl Attacker {
    fn at(site: &Site, place: Place, port: &str) -> Result<Self> {
        let injector =
            Injector::open(&site.at(place), if place == Place::Internet { "clinic" } else { "eth0" })?;
        let mac = (injector.mac(), site.at(Place::Clinic).mac(port)?);
        Ok(Self { injector, mac })
    }

    fn syn(&self, from: IpAddr, to: IpAddr, ports: (u16, u16)) -> Result<()> {
        self.injector.send(&Addressing { mac: self.mac, ip: (from, to) }.syn(ports)?)
    }

    fn udp(&self, from: IpAddr, to: IpAddr, ports: (u16, u16), payload: &[u8]) -> Result<()> {
        self.injector.send(&Addressing { mac: self.mac, ip: (from, to) }.udp(ports, payload)?)
    }
}

/// A port at which nobody answers.
const NOBODY: u16 = 9101;

/// A terminal on LAN1 opens flows from all of its ports, then with all addresses of its network.
fn quotas(site: &mut Site) -> Result<String> {
    let limits = "[limits]\nflows_per_source = 200\nhalf_open_per_source = 50\n[limits.zones]\nlan1 = 1000\n\
                  [[policy]]\nname = \"unanswered\"\nfrom = \"lan1\"\nto = \"lan3\"\nallow = [\"udp/9101\"]\n";
    with(site, limits, |site| {
        let (own, printer) = (Place::Lan1.address(Family::V4), Place::Lan3.address(Family::V4));
        let mut held = Conversation::open(&site.at(Place::Lan1), Place::Lan3.socket(Family::V4, PRINT))?;
        let refused = |verdict: &str| Ok::<_, anyhow::Error>(site.clinic.status()?.verdict("lan1", verdict));
        let before = (refused("quota-source")?, refused("quota-half-open")?, refused("quota-zone")?);
        let attacker = Attacker::at(site, Place::Lan1, "lan1")?;
        // An address that nobody has: no RST ends what is half-open.
        let silent = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 19));
        for port in 10_000..10_200 {
            attacker.syn(silent, printer, (port, PRINT))?;
        }
        for port in 20_000..21_000 {
            attacker.udp(own, printer, (port, NOBODY), b"")?;
        }
        until(Duration::from_secs(5), "the refusals of one source", || {
            Ok((refused("quota-source")? > before.0 + 500 && refused("quota-half-open")? > before.1)
                .then_some(()))
        })?;
        let flows = site.clinic.status()?.zone_flows("lan1");
        ensure!(flows <= 400, "{flows} flows from LAN1");
        held.say(b"while its own host floods")?;
        // Everybody else of LAN1, as far as anyone believes it.
        for host in 20..=250 {
            for port in 0..20 {
                let forged = IpAddr::V4(Ipv4Addr::new(192, 168, 1, host));
                attacker.udp(forged, printer, (30_000 + port, NOBODY), b"")?;
            }
        }
        until(Duration::from_secs(5), "the refusals of one network", || {
            Ok((refused("quota-zone")? > before.2 + 500).then_some(()))
        })?;
        let status = site.clinic.status()?;
        ensure!(status.zone_flows("lan1") <= 1000, "{} flows from LAN1", status.zone_flows("lan1"));
        // The other zones, and what lives, notice nothing.
        tcp::ask(&site.at(Place::Lan3), Place::Lan1.socket(Family::V4, SCAN))?;
        http::get(&site.at(Place::Lan4), Place::Web.socket(Family::V4, HTTP), "/")?;
        held.say(b"while its network is forged")?;
        until(Duration::from_secs(5), "pressure", || {
            Ok(site.clinic.status()?.is_under_pressure().then_some(()))
        })?;
        // Unanswered flows live shorter now: LAN1 has room again long before they would have expired.
        let (_, waited) = until(Duration::from_secs(25), "room for LAN1", || {
            Ok(tcp::ask(&site.at(Place::Lan1), Place::Lan3.socket(Family::V4, PRINT)).is_ok().then_some(()))
        })?;
        held.say(b"and after all of it")?;
        let answered =
            udp::ask(&site.at(Place::Lan1), Place::Lan3.socket(Family::V4, PRINT), Duration::from_secs(2))?;
        ensure!(answered.is_some(), "no answer by UDP");
        Ok(format!("others lived on; LAN1 had room again after {:.1} s", waited.as_secs_f64()))
    })
}

/// A service that is published to the internet, and SYNs from forged addresses all over it.
fn syn_flood(site: &mut Site) -> Result<String> {
    const FLOOD: u32 = 4000;
    let policy = "[[policy]]\nname = \"published\"\nfrom = \"wan\"\nto = \"lan3\"\nallow = [\"tcp/9100\"]\n\
                  syn_challenge = \"always\"\n";
    with(site, policy, |site| {
        let printer = Place::Lan3.socket(Family::V4, PRINT);
        let (flows, challenged) = (site.clinic.status()?.flows(), challenges(site)?);
        let inside = Tap::start(&site.at(Place::Lan3), "eth0", &site.canary)?;
        let attacker = Attacker::at(site, Place::Internet, "wan")?;
        for number in 0..FLOOD {
            // 45.0.0.0/8: nobody's here.
            let [_, a, b, c] = number.wrapping_mul(2_654_435_761).to_be_bytes();
            let forged = IpAddr::V4(Ipv4Addr::new(45, a, b, c));
            attacker.syn(forged, printer.ip(), (1024, PRINT))?;
            if number == FLOOD / 2 {
                // The client's own system repeats its SYN, and nobody notices.
                for family in Family::BOTH {
                    tcp::ask(&site.at(Place::Web), Place::Lan3.socket(family, PRINT))
                        .with_context(|| format!("in the middle of the flood, {family}"))?;
                }
            }
        }
        let expected = challenged + u64::from(FLOOD);
        until(Duration::from_secs(5), "a challenge for each SYN", || {
            Ok((challenges(site)? >= expected).then_some(()))
        })?;
        let seen = inside.stop()?;
        let forged = seen
            .between
            .iter()
            .filter(|((kind, from, _), _)| {
                matches!(kind, Kind::Other(_)) && matches!(from, IpAddr::V4(from) if from.octets()[0] == 45)
            })
            .map(|(_, count)| count)
            .sum::<u64>();
        ensure!(forged == 0, "{forged} forged SYNs reached the server");
        let left = site.clinic.status()?.flows().saturating_sub(flows);
        ensure!(left < 100, "{left} flows are left of it");
        ensure!(site.clinic.status()?.verdict("wan", "syn-challenge-answered") >= 2, "nobody answered");
        tcp::ask(&site.at(Place::Web), printer).context("after the flood")?;
        Ok(format!(
            "{FLOOD} forged SYNs were challenged, none reached the server, a client connected among them"
        ))
    })
}

fn challenges(site: &Site) -> Result<u64> {
    Ok(site.clinic.status()?.verdict("wan", "syn-challenge"))
}

/// The office tries the doors of reception.
fn scan(site: &mut Site) -> Result<String> {
    let limits = "[limits]\nscan_doors = 32\nscan = \"block\"\nscan_hold = \"5s\"\n";
    with(site, limits, |site| {
        let mut held = Conversation::open(&site.at(Place::Lan3), Place::Lan1.socket(Family::V4, SCAN))?;
        let before = site.clinic.status()?.verdict("lan3", "scan");
        let attacker = Attacker::at(site, Place::Lan3, "lan3")?;
        for port in 1..=200 {
            attacker.syn(Place::Lan3.address(Family::V4), Place::Lan1.address(Family::V4), (50_000, port))?;
        }
        until(Duration::from_secs(5), "the alarm", || {
            Ok((site.clinic.status()?.verdict("lan3", "scan") == before + 1).then_some(()))
        })?;
        ensure!(site.clinic.sekisho(&["drops"])?.contains("scan"), "`sekisho drops` does not tell of it");
        held.say(b"what was open goes on")?;
        tcp::expect_silence(&site.at(Place::Lan3), Place::Lan1.socket(Family::V4, SCAN))?;
        ensure!(site.clinic.status()?.verdict("lan3", "scan-limit") > 0, "not shut out by the filter");
        tcp::ask(&site.at(Place::Lan1), Place::Lan3.socket(Family::V4, PRINT)).context("to the scanner")?;
        until(Duration::from_secs(15), "the end of it", || {
            let asked = tcp::ask(&site.at(Place::Lan3), Place::Lan1.socket(Family::V4, SCAN));
            Ok(asked.is_ok().then_some(()))
        })?;
        Ok("one alarm; new connections were refused for 5 s, the open one went on".into())
    })
}

/// Messages under SPIs that name nothing, with the centre's own address and others.
fn unknown_ike(site: &mut Site) -> Result<String> {
    usual(site)?;
    site.await_tunnel()?;
    let before = (site.ike_spis()?, site.clinic.status()?.verdict("wan", "ike-unknown-spi"));
    let attacker = Attacker::at(site, Place::Internet, "wan")?;
    let clinic = Place::Clinic.address(Family::V4);
    let mut sent = 0;
    for number in 0..5000_u32 {
        let mut message = [u64::from(number) + 1, 0x77].map(u64::to_be_bytes).concat();
        message.extend([46, 0x20, 37, 0x08, 0, 0, 0, 1, 0, 0, 0, 28]);
        let [_, a, b, c] = number.wrapping_mul(2_654_435_761).to_be_bytes();
        for from in [Place::Centre.address(Family::V4), IpAddr::V4(Ipv4Addr::new(45, a, b, c))] {
            attacker.udp(from, clinic, (500, 500), &message)?;
            sent += 1;
        }
        if number == 2500 {
            site.clinic.sekisho(&["rekey", "centre", "--ike"])?;
        }
    }
    until(Duration::from_secs(5), "the rekey in the middle of the flood", || {
        Ok((site.ike_spis()? != before.0).then_some(()))
    })?;
    tunnel::pages(site)?;
    let refused = site.clinic.status()?.verdict("wan", "ike-unknown-spi") - before.1;
    ensure!(refused > 5000, "only {refused} of {sent} ended in the filter");
    Ok(format!("{refused} of {sent} messages ended in the filter; the IKE SA was rekeyed meanwhile"))
}
