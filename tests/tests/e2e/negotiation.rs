//! Every algorithm, every proof, both IP versions outside, with and without UDP around ESP.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use sekisho_tests::gateway::certificates::{KeyType, write_psk};
use sekisho_tests::gateway::settings::Settings;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::scenario::site::{Site, certified, shared_key};
use sekisho_tests::scenario::{rekey, tunnel};
use sekisho_tests::stage::{self, Stage, Test};
use sekisho_tests::traffic::frame::Kind;
use sekisho_tests::traffic::tap::Tap;

/// IKE and ESP proposal; each algorithm of the slice occurs at least once.
const SUITES: [(&str, &str); 6] = [
    ("aes128gcm16-prfsha256-x25519", "aes128gcm16-x25519"),
    ("aes256gcm16-prfsha256-ecp256", "aes256gcm16-ecp256"),
    ("chacha20poly1305-prfsha256-x25519", "chacha20poly1305-x25519"),
    ("aes128-sha256-modp2048", "aes128-sha256-modp2048"),
    ("aes256-sha256-ecp256", "aes256-sha256-ecp256"),
    ("aes256gcm16-prfsha384-ecp384", "aes256gcm16"),
];

/// Long enough to be accepted as one.
pub(crate) const PSK: &str = "a test's key: correct horse battery staple 0123456789";

pub(crate) fn trials(stage: &Stage) -> Vec<Trial> {
    let suites = SUITES.map(|(ike, esp)| {
        let stage = stage.clone();
        let name = format!("negotiation::{ike}_{esp}");
        Trial::test(name, move || stage::words(stage.run(|site| suite(site, ike, esp))))
    });
    let others: [(&str, Test); 5] = [
        ("rsa_certificates", rsa),
        ("outside_ipv6", outside_ipv6),
        ("forced_udp", forced_udp),
        ("through_a_nat", through_a_nat),
        ("on_demand", on_demand),
    ];
    let others = others.map(|(name, test)| {
        let stage = stage.clone();
        Trial::test(format!("negotiation::{name}"), move || stage::words(stage.run(test)))
    });
    suites.into_iter().chain(others).collect()
}

/// Back to the settings of the demonstration.
pub(crate) fn usual(site: &mut Site) -> Result<()> {
    let [clinic, centre] = psk(site)?;
    site.reconfigure(&clinic, &centre)?;
    site.await_tunnel().map(drop)
}

/// Both gateways with one pre-shared key.
pub(crate) fn psk(site: &Site) -> Result<[Settings; 2]> {
    Ok(shared_key(&write_psk(&site.lab.dir().join("shared.psk"), PSK)?))
}

fn suite(site: &mut Site, ike: &str, esp: &str) -> Result<String> {
    let [clinic, centre] = psk(site)?;
    site.reconfigure(&clinic.proposals(ike, esp), &centre.proposals(ike, esp))?;
    let up = tunnel::up(site)?;
    let status = site.clinic.status()?;
    let connection = status.connection("centre")?;
    for part in ike.split('-') {
        ensure!(
            connection.ike_suite().contains(part),
            "{part} of {ike} is not in {}",
            connection.ike_suite()
        );
    }
    let cipher = esp.split('-').next().unwrap_or(esp);
    let suites = connection.child_suites();
    ensure!(
        suites.iter().all(|suite| suite.starts_with(cipher)),
        "{cipher} is not what {suites:?} start with"
    );
    tunnel::page_unseen(site)?;
    // Rekeying negotiates again, this time with the key exchange of the ESP proposal.
    let rekeyed = rekey::child_without_loss(site)?;
    let bulk = tunnel::throughput(site)?;
    Ok(format!("{up}; {rekeyed}; {bulk}"))
}

fn rsa(site: &mut Site) -> Result<String> {
    let [clinic, centre] = certified(&site.lab, KeyType::Rsa)?;
    site.reconfigure(&clinic, &centre)?;
    let up = tunnel::up(site)?;
    tunnel::page_unseen(site)?;
    Ok(up)
}

fn outside_ipv6(site: &mut Site) -> Result<String> {
    let [mut clinic, mut centre] = psk(site)?;
    (clinic.outer, centre.outer) = (Family::V6, Family::V6);
    site.reconfigure(&clinic, &centre)?;
    let up = tunnel::up(site)?;
    let seen = tunnel::carrier_during(site, tunnel::pages)?;
    ensure!(
        seen.between
            .keys()
            .any(|(kind, from, _)| *kind == Kind::Esp && *from == Place::Clinic.address(Family::V6)),
        "no ESP in IPv6 was seen: {}",
        seen.summary()
    );
    let rekeyed = rekey::child_without_loss(site)?;
    Ok(format!("{up}; {rekeyed}; {}", tunnel::throughput(site)?))
}

fn forced_udp(site: &mut Site) -> Result<String> {
    let mut figures = Vec::new();
    for outer in Family::BOTH {
        let [mut clinic, mut centre] = psk(site)?;
        (clinic.outer, centre.outer, clinic.force_udp) = (outer, outer, true);
        site.reconfigure(&clinic, &centre)?;
        let up = tunnel::up(site)?;
        ensure!(
            site.clinic.status()?.connection("centre")?.udp_encapsulation(),
            "the status says that ESP goes bare"
        );
        let seen = tunnel::carrier_during(site, tunnel::pages)?;
        ensure!(seen.count(&Kind::Esp) == 0, "bare ESP at the carrier: {}", seen.summary());
        ensure!(seen.count(&Kind::EspInUdp) > 0, "no ESP in UDP at the carrier: {}", seen.summary());
        figures.push(format!("{outer}: {up}"));
    }
    Ok(figures.join("; "))
}

/// A real NAT that changes address and port between the gateways.
fn through_a_nat(site: &mut Site) -> Result<String> {
    let router = site.at(Place::Internet);
    let clinic_wan = Place::Clinic.address(Family::V4);
    let rules = format!(
        "table ip sekisho_lab {{ chain out {{ type nat hook postrouting priority srcnat; \
         oifname \"centre\" ip saddr {clinic_wan} udp sport {{ 500, 4500 }} masquerade to :20000-30000 random; \
         oifname \"centre\" ip saddr {clinic_wan} masquerade; }}; }}"
    );
    router.output(Command::new("nft").arg(&rules))?;
    let outcome = behind_the_nat(site);
    router.output(Command::new("nft").args(["delete", "table", "ip", "sekisho_lab"]))?;
    outcome
}

fn behind_the_nat(site: &mut Site) -> Result<String> {
    let [clinic, mut centre] = psk(site)?;
    centre.remote_anywhere = true;
    site.reconfigure(&clinic, &centre)?;
    let up = tunnel::up(site)?;
    ensure!(site.clinic.status()?.connection("centre")?.udp_encapsulation(), "the NAT was not found");
    let behind = Tap::start(&site.at(Place::Internet), "centre", &site.canary)?;
    tunnel::pages(site)?;
    let behind = behind.stop()?;
    let clinic_wan = Place::Clinic.address(Family::V4);
    ensure!(behind.count(&Kind::Esp) == 0, "bare ESP behind the NAT: {}", behind.summary());
    ensure!(
        behind.between.keys().all(|(_, from, to)| *from != clinic_wan && *to != clinic_wan),
        "the NAT did not translate: {:?}",
        behind.between.keys()
    );
    let rekeyed = rekey::ike_without_loss(site)?;
    Ok(format!("{up}; {rekeyed}"))
}

/// The first packet opens the tunnel.
fn on_demand(site: &mut Site) -> Result<String> {
    let [mut clinic, centre] = psk(site)?;
    clinic.start = "on-demand";
    site.reconfigure(&clinic, &centre)?;
    let state = site.clinic.status()?.connection("centre")?.state().to_owned();
    ensure!(state == "waiting", "before any traffic the connection is {state}");
    let begin = std::time::Instant::now();
    tunnel::pages(site).context("the page that opens the tunnel")?;
    let time = begin.elapsed();
    site.await_tunnel()?;
    Ok(format!("first two pages after {:.2} s, tunnel included", time.as_secs_f64()))
}
