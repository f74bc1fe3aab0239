//! The outside of the tunnel moves while packets flow inside: addresses change, lines break, interfaces go and come back.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use sekisho_tests::gateway::Sekishod;
use sekisho_tests::lab::nat::{Mapping, Nat};
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::lab::topology::ip_show;
use sekisho_tests::scenario::site::Site;
use sekisho_tests::stage::{self, Stage, Test};
use sekisho_tests::traffic::ping::{self, Stream};

use super::negotiation::{psk, usual};

/// For the daemon to see it, both engines to speak of it, and neighbours to be found.
const PATIENCE: Duration = Duration::from_secs(20);
const INTERVAL: Duration = Duration::from_millis(10);
/// Longer than any test: IKE says nothing by itself.
const SILENT: &str = "1h";

pub(crate) fn trials(stage: &Stage) -> Vec<Trial> {
    let tests: [(&str, Test); 6] = [
        ("the_clinics_address_changes", clinic_moves),
        ("the_centres_address_changes", centre_moves),
        ("the_line_goes_down_and_comes_back", line_down_and_up),
        ("the_wan_interface_vanishes_and_comes_back", interface_comes_back),
        ("the_second_uplink_takes_over", second_uplink),
        ("a_nat_maps_to_other_ports_and_then_to_another_address", nat_maps_elsewhere),
    ];
    let trial = |(name, test): (&str, Test)| {
        let stage = stage.clone();
        Trial::test(format!("mobility::{name}"), move || stage::words(stage.run(test)))
    };
    tests.map(trial).into()
}

/// What was there before and must be there after: nothing was negotiated anew.
fn sas(site: &Site) -> Result<(Vec<String>, u64)> {
    let status = site.clinic.status()?;
    let connection = status.connection("centre")?;
    Ok((connection.child_spis(), connection.established()))
}

/// Packets that the SAs have received and sent.
fn carried(site: &Site) -> Result<[u64; 2]> {
    let status = site.clinic.status()?;
    let connection = status.connection("centre")?;
    Ok(["inbound", "outbound"].map(|direction| connection.child_sum(&format!("{direction}/packets"))))
}

/// Pings of both families pass; says how many were answered.
fn pings_pass(site: &Site) -> Result<u64> {
    let mut answered = 0;
    for family in Family::BOTH {
        let (reception, server) = (site.at(Place::Lan1), Place::Server.address(family));
        until(PATIENCE, "an answer through the tunnel", || {
            Ok((ping::ping(&reception, server, 1, INTERVAL)?.lost() == 0).then_some(()))
        })?;
        let echo = ping::ping(&reception, server, 50, INTERVAL)?;
        ensure!(echo.lost() == 0, "{family}: {echo}");
        answered += echo.answered as u64;
    }
    Ok(answered)
}

/// The outer ends of a gateway's connection, its own and the peer's.
fn path(gateway: &Sekishod, connection: &str) -> Result<(String, String)> {
    Ok(gateway.status()?.connection(connection)?.path())
}

/// Does something to the outside with pings under way, until the ends of the tunnel are as `there` says.
fn while_pinging(
    site: &Site,
    what: &str,
    change: impl FnOnce() -> Result<()>,
    there: impl Fn(&Site) -> Result<bool>,
) -> Result<String> {
    let (before, counted) = (sas(site)?, carried(site)?);
    let server = Place::Server.address(Family::V4);
    let stream = Stream::start(&site.at(Place::Lan1), server, INTERVAL)?;
    std::thread::sleep(Duration::from_millis(300));
    change()?;
    let moved = until(PATIENCE, what, || Ok(there(site)?.then_some(())));
    let passing = moved.and_then(|((), time)| pings_pass(site).map(|answered| (time, answered)));
    let outcome = stream.stop()?;
    let (time, answered) = passing.with_context(|| format!("pings meanwhile: {outcome}"))?;
    ensure!(sas(site)? == before, "SAs were made anew");
    // What was counted before the move, and every answer since.
    let least = counted.map(|before| before + answered + outcome.answered as u64);
    let what = format!("counters of the SAs that go on from {counted:?} to {least:?}");
    until(PATIENCE, &what, || {
        let goes_on = carried(site)?.iter().zip(least).all(|(now, least)| *now >= least);
        Ok(goes_on.then_some(()))
    })?;
    Ok(format!(
        "after {:.1} s; {} of {} pings lost, {outcome}",
        time.as_secs_f64(),
        outcome.lost(),
        outcome.sent
    ))
}

fn clinic_moves(site: &mut Site) -> Result<String> {
    let [mut clinic, centre] = psk(site)?;
    clinic.more_wan = vec!["198.51.100.6/30".into()];
    let router = site.at(Place::Internet);
    ip_show(&router, &["addr", "add", "198.51.100.5/30", "dev", "clinic"])?;
    site.reconfigure(&clinic, &centre)?;
    site.await_tunnel()?;
    pings_pass(site)?;
    let gateway = site.at(Place::Clinic);
    let renumber = || ip_show(&gateway, &["addr", "del", "198.51.100.2/30", "dev", "wan"]).map(drop);
    let figure = while_pinging(site, "the IKE SA at the other address", renumber, |site| {
        Ok(path(&site.clinic, "centre")?.0.starts_with("198.51.100.6:"))
    });
    ip_show(&router, &["addr", "del", "198.51.100.5/30", "dev", "clinic"])?;
    usual(site)?;
    figure
}

fn centre_moves(site: &mut Site) -> Result<String> {
    let [clinic, mut centre] = psk(site)?;
    centre.more_wan = vec!["203.0.113.6/30".into()];
    let router = site.at(Place::Internet);
    ip_show(&router, &["addr", "add", "203.0.113.5/30", "dev", "centre"])?;
    site.reconfigure(&clinic, &centre)?;
    site.await_tunnel()?;
    pings_pass(site)?;
    let gateway = site.at(Place::Centre);
    let renumber = || ip_show(&gateway, &["addr", "del", "203.0.113.2/30", "dev", "wan"]).map(drop);
    let figure = while_pinging(site, "the IKE SA to the centre's other address", renumber, |site| {
        Ok(path(&site.clinic, "centre")?.1.starts_with("203.0.113.6:"))
    });
    ip_show(&router, &["addr", "del", "203.0.113.5/30", "dev", "centre"])?;
    usual(site)?;
    figure
}

fn line_down_and_up(site: &mut Site) -> Result<String> {
    usual(site)?;
    pings_pass(site)?;
    let gateway = site.at(Place::Clinic);
    let change = || {
        ip_show(&gateway, &["link", "set", "wan", "down"])?;
        std::thread::sleep(Duration::from_secs(2));
        ip_show(&gateway, &["link", "set", "wan", "up"]).map(drop)
    };
    while_pinging(site, "the IKE SA", change, |site| Ok(!path(&site.clinic, "centre")?.0.is_empty()))
}

/// Somebody pulls the adapter of the line and plugs it in again.
fn interface_comes_back(site: &mut Site) -> Result<String> {
    usual(site)?;
    pings_pass(site)?;
    let (gateway, router) = (site.at(Place::Clinic), site.at(Place::Internet));
    let change = || {
        ip_show(&gateway, &["link", "del", "wan"])?;
        until(PATIENCE, "the log about the interface that is gone", || {
            Ok(site.clinic.log().contains("interface is gone").then_some(()))
        })?;
        lay_line(&gateway, &router, ("wan", "clinic"), &["198.51.100.1/30", "2001:db8:1::1/64"])?;
        ip_show(&gateway, &["link", "set", "wan", "up"])?;
        Ok(())
    };
    while_pinging(site, "the IKE SA", change, |site| Ok(!path(&site.clinic, "centre")?.0.is_empty()))
}

/// A cable from the clinic's gateway to the router.
fn lay_line(
    gateway: &sekisho_tests::lab::namespace::Namespace,
    router: &sekisho_tests::lab::namespace::Namespace,
    (near, far): (&str, &str),
    addresses: &[&str],
) -> Result<()> {
    ip_show(gateway, &["link", "add", near, "type", "veth", "peer", "name", far, "netns", router.name()])?;
    ip_show(router, &["link", "set", far, "up"])?;
    for address in addresses {
        ip_show(
            router,
            &["addr", "add", address, "dev", far, "nodad"][..if address.contains(':') { 6 } else { 5 }],
        )?;
    }
    for features in [&["tso", "off", "gso", "off", "tx", "off", "gro", "off"][..], &["gro", "on"][..]] {
        router.output(Command::new("ethtool").arg("-K").arg(far).args(features))?;
    }
    Ok(())
}

/// The provider's line is dead though the link is up: nobody tells the gateway.
fn second_uplink(site: &mut Site) -> Result<String> {
    let [mut clinic, centre] = psk(site)?;
    let (gateway, router) = (site.at(Place::Clinic), site.at(Place::Internet));
    lay_line(&gateway, &router, ("wan2", "clinic2"), &["198.51.100.9/30"])?;
    clinic.second_uplink = true;
    clinic.dpd = "1s";
    site.reconfigure(&clinic, &centre)?;
    site.await_tunnel()?;
    pings_pass(site)?;
    let break_line = || ip_show(&router, &["addr", "del", "198.51.100.1/30", "dev", "clinic"]).map(drop);
    let figure = while_pinging(site, "the IKE SA over the second uplink", break_line, |site| {
        Ok(path(&site.clinic, "centre")?.0.starts_with("198.51.100.10:"))
    });
    ip_show(&router, &["addr", "add", "198.51.100.1/30", "dev", "clinic"])?;
    usual(site)?;
    ip_show(&gateway, &["link", "del", "wan2"])?;
    figure
}

/// Nobody but the packets of the tunnel shows the centre where the clinic is now. First by other ports, then by the same ports of
/// another address, and both soon after each other.
fn nat_maps_elsewhere(site: &mut Site) -> Result<String> {
    let [mut clinic, mut centre] = psk(site)?;
    centre.remote_anywhere = true;
    (clinic.dpd, centre.dpd) = (SILENT, SILENT);
    let nat = Nat::start(&site.lab, Mapping::FIRST)?;
    site.reconfigure(&clinic, &centre)?;
    site.await_tunnel()?;
    pings_pass(site)?;
    let mut figures = Vec::new();
    let ports = Mapping::FIRST.other_ports();
    for mapping in [ports, ports.other_address()] {
        // Of port 4500, which carries ESP and IKE.
        let there = format!("{}:{}", mapping.address, mapping.port + 1);
        let figure = while_pinging(
            site,
            &format!("ESP to {there}"),
            || nat.map(mapping),
            |site| Ok(path(site.our_centre()?, "clinic")?.1 == there),
        );
        figures.push(figure?);
    }
    drop(nat);
    usual(site)?;
    Ok(figures.join("; "))
}
