//! Nothing for the VPN leaves in clear, whatever state it is in: `shown::` sees the tunnel closed, rekeyed, and its daemon
//! killed; here is the rest, and what somebody's hand can do to the kernel's SAs, policies and interfaces.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use sekisho_tests::gateway::settings::is_kernels_path;
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::Place;
use sekisho_tests::lab::topology::ip_show;
use sekisho_tests::scenario::site::Site;
use sekisho_tests::scenario::{lifecycle, tunnel};
use sekisho_tests::stage::{self, Stage, Test};
use sekisho_tests::traffic::tap::Tap;

use super::negotiation::{psk, usual};

/// The daemon looks at SAs and interfaces once a second, and a rekey takes a moment.
const HEALED: Duration = Duration::from_secs(15);

pub(crate) fn trials(stage: &Stage) -> Vec<Trial> {
    let always: [(&str, Test); 4] = [
        ("before_the_tunnel_is_up", before_it_is_up),
        ("after_an_orderly_stop", stopped),
        ("the_interface_deleted_by_hand", |site| same_sas(site, &["link", "del", &interface(site)?])),
        ("the_interface_set_down_by_hand", |site| {
            same_sas(site, &["link", "set", &interface(site)?, "down"])
        }),
    ];
    let of_the_kernel: [(&str, Test); 3] = [
        ("sas_flushed_by_hand", |site| by_hand(site, &["xfrm", "state", "flush"])),
        ("policies_flushed_by_hand", |site| by_hand(site, &["xfrm", "policy", "flush"])),
        ("everything_deleted_by_hand_while_the_daemon_is_dead", dead),
    ];
    let trial = |(name, test): (&str, Test)| {
        let stage = stage.clone();
        Trial::test(format!("clear::{name}"), move || stage::words(stage.run(test)))
    };
    let of_the_kernel = is_kernels_path().then_some(of_the_kernel).into_iter().flatten();
    always.into_iter().chain(of_the_kernel).map(trial).collect()
}

fn before_it_is_up(site: &mut Site) -> Result<String> {
    let [mut clinic, centre] = psk(site)?;
    clinic.start = "manual";
    site.reconfigure(&clinic, &centre)?;
    let state = site.clinic.status()?.connection("centre")?.state().to_owned();
    ensure!(state == "down", "it is {state}");
    let figure = lifecycle::unreachable_and_unseen(site)?;
    site.clinic.sekisho(&["up", "centre"])?;
    site.await_tunnel()?;
    tunnel::pages(site)?;
    Ok(figure)
}

fn stopped(site: &mut Site) -> Result<String> {
    usual(site)?;
    tunnel::pages(site)?;
    site.clinic.stop()?;
    let outcome = lifecycle::unreachable_and_unseen(site);
    site.clinic.launch(&site.lab)?;
    site.await_tunnel()?;
    tunnel::pages(site)?;
    outcome
}

/// What packets for the VPN leave by: the one xfrm interface, or the kernel's end of the engine's veth pair.
pub(crate) fn interface(site: &Site) -> Result<String> {
    if !is_kernels_path() {
        return Ok("sekisho0".into());
    }
    let links = ip_show(&site.at(Place::Clinic), &["-o", "link", "show", "type", "xfrm"])?;
    let name = links.split(": ").nth(1).and_then(|name| name.split('@').next());
    name.map(str::to_owned).with_context(|| format!("there is no xfrm interface: {links:?}"))
}

/// Somebody does this to a gateway at work: nothing is seen outside, and soon pages go through the tunnel again.
fn by_hand(site: &mut Site, what: &[&str]) -> Result<String> {
    usual(site)?;
    heals(site, what)
}

fn heals(site: &Site, what: &[&str]) -> Result<String> {
    tunnel::pages(site)?;
    let outside = Tap::start(&site.at(Place::Internet), "clinic", &site.canary)?;
    ip_show(&site.at(Place::Clinic), what)?;
    let healed = until(HEALED, "a page through the tunnel", || tunnel::pages(site).map(Some));
    let seen = outside.stop()?;
    ensure!(seen.leaks().is_empty(), "in clear at the carrier: {}", seen.leaks().join(", "));
    let ((), time) = healed?;
    Ok(format!("pages again after {:.1} s; carrier: {}", time.as_secs_f64(), seen.summary()))
}

/// The same where SAs are not touched by it.
fn same_sas(site: &mut Site, what: &[&str]) -> Result<String> {
    usual(site)?;
    let before = site.child_spis()?;
    let figure = heals(site, what)?;
    let now = site.child_spis()?;
    ensure!(now == before, "the SAs {before:?} were replaced by {now:?}");
    Ok(figure)
}

fn dead(site: &mut Site) -> Result<String> {
    usual(site)?;
    let (gateway, interface) = (site.at(Place::Clinic), interface(site)?);
    site.clinic.crash()?;
    let mut figures = Vec::new();
    for what in [&["xfrm", "state", "flush"][..], &["xfrm", "policy", "flush"], &["link", "del", &interface]]
    {
        ip_show(&gateway, what)?;
        let figure = lifecycle::unreachable_and_unseen(site).with_context(|| format!("after ip {what:?}"))?;
        figures.push(figure);
    }
    site.clinic.launch(&site.lab)?;
    site.await_tunnel()?;
    tunnel::pages(site)?;
    Ok(figures.join("; "))
}
