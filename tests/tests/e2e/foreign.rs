//! Other software's SAs, policies and xfrm interfaces beside ours: we leave them alone, and they get nothing of ours.
//! On the kernel's path only.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use sekisho_tests::gateway::settings::{HTTP, PRINT, is_kernels_path};
use sekisho_tests::lab::namespace::Namespace;
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::lab::topology::ip_show;
use sekisho_tests::lab::xfrm::{foreign, ours};
use sekisho_tests::scenario::site::Site;
use sekisho_tests::scenario::{lifecycle, tunnel};
use sekisho_tests::stage::{self, Stage, Test};
use sekisho_tests::traffic::frame::{ESP, Kind};
use sekisho_tests::traffic::tap::Tap;
use sekisho_tests::traffic::tcp;

use super::clear::interface;
use super::negotiation::{psk, usual};

pub(crate) fn trials(stage: &Stage) -> Vec<Trial> {
    let tests: [(&str, Test); 3] = [
        ("sas_policies_and_interfaces_of_others_stay_as_they_are", stay),
        ("policies_of_others_carry_nothing_of_ours", carry_nothing),
        ("a_switch_that_turns_policies_off_is_noticed", no_policies),
    ];
    let trial = |(name, test): (&str, Test)| {
        let stage = stage.clone();
        Trial::test(format!("foreign::{name}"), move || stage::words(stage.run(test)))
    };
    if is_kernels_path() { tests.map(trial).into() } else { Vec::new() }
}

/// The daemon looks once a second.
const SOON: Duration = Duration::from_secs(10);
/// AES-GCM with 128 bits and its salt.
const KEY: &str = "0x000102030405060708090a0b0c0d0e0fa0a1a2a3";

fn set(gateway: &Namespace, lines: &[String]) -> Result<()> {
    lines.iter().try_for_each(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        ip_show(gateway, &words).map(drop)
    })
}

/// Between the clinic's WAN and the web server: with and without an interface id, one of them next to ours.
fn of_others() -> Vec<String> {
    let own = Place::Clinic.address(Family::V4);
    let peer = Place::Web.address(Family::V4);
    let own6 = Place::Clinic.address(Family::V6);
    let peer6 = Place::Web.address(Family::V6);
    let aead = format!("mode tunnel aead rfc4106(gcm(aes)) {KEY} 128");
    let template = |from, to| format!("tmpl src {from} dst {to} proto esp reqid 77 mode tunnel");
    vec![
        format!("xfrm state add src {own} dst {peer} proto esp spi 0xf001 reqid 77 {aead}"),
        format!("xfrm state add src {peer} dst {own} proto esp spi 0xf002 reqid 77 {aead} if_id 0x2a"),
        format!(
            "xfrm state add src {peer6} dst {own6} proto esp spi 0xf003 reqid 77 {aead} if_id 0x5e510003"
        ),
        format!("xfrm policy add src 10.99.0.0/24 dst 10.98.0.0/24 dir out {}", template(own, peer)),
        format!(
            "xfrm policy add src 10.98.0.0/24 dst 10.99.0.0/24 dir in {} if_id 0x2a",
            template(peer, own)
        ),
        format!(
            "xfrm policy add src fd99::/64 dst fd98::/64 dir fwd {} if_id 0x5e510003",
            template(peer6, own6)
        ),
        "link add others42 type xfrm dev lo if_id 0x2a".to_owned(),
        "link set others42 up".to_owned(),
    ]
}

fn stay(site: &mut Site) -> Result<String> {
    let [clinic, centre] = psk(site)?;
    site.reconfigure(&clinic, &centre)?;
    site.await_tunnel()?;
    site.clinic.stop()?;
    let gateway = site.at(Place::Clinic);
    set(&gateway, &of_others())?;
    let outcome = untouched(site, &gateway);
    let cleared =
        set(&gateway, &["xfrm state flush", "xfrm policy flush", "link del others42"].map(str::to_owned));
    let figure = outcome?;
    cleared?;
    usual(site)?;
    Ok(figure)
}

fn untouched(site: &mut Site, gateway: &Namespace) -> Result<String> {
    let before = foreign(gateway)?;
    for sign in ["0x0000f001", "0x0000f002", "0x0000f003", "10.99.0.0/24", "fd99::/64", "others42"] {
        ensure!(before.contains(sign), "{sign} is not there to be found:\n{before}");
    }
    let same = |after: &str| -> Result<()> {
        let now = foreign(gateway)?;
        ensure!(now == before, "after {after} it is\n{now}where it was\n{before}");
        Ok(())
    };
    site.clinic.launch(&site.lab)?;
    same("a start")?;
    site.await_tunnel()?;
    tunnel::pages(site)?;
    same("a tunnel's coming up")?;
    let text = std::fs::read_to_string(site.clinic.config())?;
    let other = text.replacen("dpd = \"30s\"", "dpd = \"29s\"", 1);
    ensure!(other != text, "the configuration has no `dpd`");
    std::fs::write(site.clinic.config(), other)?;
    site.clinic.sekisho(&["reload"])?;
    std::fs::write(site.clinic.config(), text)?;
    site.clinic.sekisho(&["reload"])?;
    site.await_tunnel()?;
    site.clinic.sekisho(&["rekey", "centre"])?;
    tunnel::pages(site)?;
    same("a reload and a rekey")?;
    site.clinic.crash()?;
    let (left, policies, interfaces) = ours(gateway)?;
    ensure!(
        left.len() >= 2 && policies > 0 && interfaces == 1,
        "a crash leaves {left:?}, {policies} policies, {interfaces} interfaces of ours"
    );
    same("a crash")?;
    site.clinic.launch(&site.lab)?;
    site.await_tunnel()?;
    tunnel::pages(site)?;
    let (now, ..) = ours(gateway)?;
    ensure!(
        !now.is_empty() && now.iter().all(|spi| !left.contains(spi)),
        "after the next start there are {now:?}, and before it {left:?}"
    );
    same("the start after a crash")?;
    site.clinic.stop()?;
    let (sas, policies, interfaces) = ours(gateway)?;
    ensure!(
        sas.is_empty() && policies == 0 && interfaces == 0,
        "a stop leaves {sas:?}, {policies} policies, {interfaces} interfaces of ours"
    );
    same("a stop")?;
    Ok(format!(
        "{} bytes of others' as they were; {} SAs left by a crash were removed",
        before.len(),
        left.len()
    ))
}

/// The selectors of our own connection, asked before all others, and no interface id: the kernel looks at such policies
/// where it routes a packet, before our interface sees it.
fn greedy() -> [String; 3] {
    let (own, peer) = (Place::Clinic.address(Family::V4), Place::Web.address(Family::V4));
    let template = format!("tmpl src {own} dst {peer} proto esp reqid 78 mode tunnel");
    [
        format!(
            "xfrm state add src {own} dst {peer} proto esp spi 0xf00d reqid 78 mode tunnel flag af-unspec aead \
             rfc4106(gcm(aes)) {KEY} 128"
        ),
        format!("xfrm policy add src 192.168.1.0/24 dst 10.2.0.0/24 dir out priority 1 {template}"),
        format!("xfrm policy add src fd00:1::/64 dst fd10:2::/64 dir out priority 1 {template}"),
    ]
}

fn carry_nothing(site: &mut Site) -> Result<String> {
    usual(site)?;
    tunnel::pages(site)?;
    let gateway = site.at(Place::Clinic);
    set(&gateway, &greedy())?;
    let outcome = beside_greedy(site);
    for policy in ["src 192.168.1.0/24 dst 10.2.0.0/24 dir out", "src fd00:1::/64 dst fd10:2::/64 dir out"] {
        set(&gateway, &[format!("xfrm policy delete {policy}")])?;
    }
    let (own, peer) = (Place::Clinic.address(Family::V4), Place::Web.address(Family::V4));
    set(&gateway, &[format!("xfrm state delete src {own} dst {peer} proto esp spi 0xf00d")])?;
    let figure = outcome?;
    tunnel::pages(site).context("once they are gone")?;
    Ok(figure)
}

fn beside_greedy(site: &Site) -> Result<String> {
    let outside = Tap::start(&site.at(Place::Internet), "clinic", &site.canary)?;
    let refused = || Ok::<_, anyhow::Error>(site.clinic.status()?.drops("esp-unknown-spi"));
    let before = refused()?;
    // IPv4 has a switch for it.
    let v4 = tunnel::pages_over(site, &[Family::V4]);
    // Of IPv6 the other policy takes the packet, and the second gate refuses what comes of it.
    let v6 = tcp::expect_no_way(&site.at(Place::Lan1), Place::Server.socket(Family::V6, HTTP));
    let gated = refused()? - before;
    let seen = outside.stop()?;
    let taken = seen.frames_to(Place::Web.address(Family::V4), &[Kind::Esp, Kind::EspInUdp]).len();
    ensure!(taken == 0, "{taken} packets of ours left in another software's {ESP:?}");
    ensure!(seen.leaks().is_empty(), "in clear at the carrier: {}", seen.leaks().join(", "));
    v4.context("beside a policy of others")?;
    v6?;
    ensure!(gated > 0, "the second gate has refused nothing");
    Ok(format!(
        "IPv4 goes on in our SAs; of IPv6 {gated} packets refused by the second gate, none seen outside"
    ))
}

/// Without policies the kernel lets in whatever comes by an SA. One interface's own switch is turned back; the one for all
/// of them is not ours, and nothing passes while it is on.
fn no_policies(site: &mut Site) -> Result<String> {
    usual(site)?;
    tunnel::pages(site)?;
    let gateway = site.at(Place::Clinic);
    let (_, _, interfaces) = ours(&gateway)?;
    ensure!(interfaces == 1, "there are {interfaces} xfrm interfaces of ours");
    let own = &interface(site)?;
    for family in ["ipv4", "ipv6"] {
        switch(&gateway, family, own, "1")?;
        until(SOON, "the interface's own switch turned back", || {
            Ok((switched(&gateway, family, own)? == "0").then_some(()))
        })?;
        tunnel::pages(site)?;
        switch(&gateway, family, "all", "1")?;
        let outcome = while_off(site);
        switch(&gateway, family, "all", "0")?;
        outcome.with_context(|| format!("while {family} has no policies"))?;
        until(SOON, "pages once policies are asked again", || tunnel::pages(site).map(Some))?;
        let status = site.clinic.status()?;
        ensure!(!status.datapath().1.contains("disable_policy"), "status says {:?}", status.datapath());
    }
    Ok("an interface's own is turned back; while the one for all is on, nothing passes".into())
}

fn while_off(site: &Site) -> Result<()> {
    until(SOON, "the reason in the status", || {
        let status = site.clinic.status()?;
        Ok(status.datapath().1.contains("disable_policy").then_some(()))
    })?;
    lifecycle::unreachable_and_unseen(site)?;
    // Nor does anything come out of the tunnel.
    tcp::expect_no_way(&site.at(Place::Server), Place::Lan1.socket(Family::V4, HTTP))?;
    tcp::ask(&site.at(Place::Lan1), Place::Lan3.socket(Family::V4, PRINT))
        .context("from LAN to LAN")
        .map(drop)
}

fn switch(gateway: &Namespace, family: &str, interface: &str, value: &str) -> Result<()> {
    gateway.sysctl(&format!("{family}/conf/{interface}/disable_policy"), value)
}

fn switched(gateway: &Namespace, family: &str, interface: &str) -> Result<String> {
    let path = format!("/proc/sys/net/{family}/conf/{interface}/disable_policy");
    gateway.run(|| {
        let read = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        Ok(read.trim_end().to_owned())
    })
}
