//! Through the VPN, and what the carrier sees of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::policy::ms;
use super::site::Site;
use crate::gateway::settings::{BULK, ECHO, HTTP};
use crate::lab::patience::stretch;
use crate::lab::plan::{Family, Place};
use crate::traffic::tap::{Seen, Tap};
use crate::traffic::{http, ping, tcp, udp};

/// The tunnel comes up by itself.
pub fn up(site: &mut Site) -> Result<String> {
    site.await_tunnel()?;
    let since = site.begun.elapsed();
    let status = site.clinic.status()?;
    let connection = status.connection("centre")?;
    let (kind, _) = status.datapath();
    Ok(format!(
        "{:.1} s after the daemon's start: {}, ESP {} in the {kind}",
        since.as_secs_f64(),
        connection.ike_suite(),
        connection.child_suites().join(", ")
    ))
}

/// Pages with a canary through the tunnel: the server's cable shows it, the carrier's doesn't, and shows nothing but
/// IKE and ESP.
pub fn page_unseen(site: &mut Site) -> Result<String> {
    page_unseen_over(site, &Family::BOTH)
}

/// The same over these families.
pub fn page_unseen_over(site: &mut Site, families: &[Family]) -> Result<String> {
    site.await_tunnel()?;
    let outside = Tap::start(&site.at(Place::Internet), "clinic", &site.canary)?;
    let inside = Tap::start(&site.at(Place::Server), "eth0", &site.canary)?;
    pages_over(site, families)?;
    let (outside, inside) = (outside.stop()?, inside.stop()?);
    let saved = site.lab.dir().join("page_unseen.pcap");
    outside.write_pcap(&saved)?;
    let pages = families.len() as u64;
    ensure!(
        inside.canaries >= 2 * pages,
        "the taps prove nothing: the server's cable did not show the canary either"
    );
    ensure!(outside.canaries == 0, "the carrier saw the canary in {} frames", outside.canaries);
    ensure!(outside.esp() >= 4 * pages, "{pages} page(s) in {} ESP packets?", outside.esp());
    ensure!(
        outside.leaks().is_empty(),
        "the carrier saw more than IKE and ESP: {}",
        outside.leaks().join(", ")
    );
    Ok(format!("carrier: {}, canary 0×; server's cable: canary {}×", outside.summary(), inside.canaries))
}

/// What the carrier sees while something is done: nothing but IKE and ESP, and no canary.
pub fn carrier_during(site: &Site, work: impl FnOnce(&Site) -> Result<()>) -> Result<Seen> {
    let carrier = Tap::start(&site.at(Place::Internet), "clinic", &site.canary)?;
    work(site)?;
    let seen = carrier.stop()?;
    ensure!(seen.canaries == 0, "the carrier saw the canary in {} frames", seen.canaries);
    ensure!(seen.leaks().is_empty(), "the carrier saw more than IKE and ESP: {}", seen.leaks().join(", "));
    Ok(seen)
}

/// The server's page over both families.
pub fn pages(site: &Site) -> Result<()> {
    pages_over(site, &Family::BOTH)
}

/// The server's page over these families. The canary goes there and comes back.
pub fn pages_over(site: &Site, families: &[Family]) -> Result<()> {
    for family in families {
        let path = format!("/{}", site.canary);
        let page = http::get(&site.at(Place::Lan1), Place::Server.socket(*family, HTTP), &path)
            .with_context(|| format!("the server's page over {family}"))?;
        ensure!(page.contains(&site.canary), "another page came over {family}: {page:?}");
    }
    Ok(())
}

/// ICMP echo, UDP and TCP through the tunnel.
pub fn round_trip(site: &mut Site) -> Result<String> {
    site.await_tunnel()?;
    let lan1 = site.at(Place::Lan1);
    let mut figures = Vec::new();
    for family in Family::BOTH {
        let echo = ping::ping(&lan1, Place::Server.address(family), 100, Duration::from_millis(5))?;
        ensure!(echo.lost() == 0, "ICMP echo over {family}: {echo}");
        let server = Place::Server.socket(family, ECHO);
        ensure!(udp::ask(&lan1, server, Duration::from_secs(2))?.is_some(), "UDP over {family}: no reply");
        tcp::ask(&lan1, server).with_context(|| format!("TCP over {family}"))?;
        figures.push(format!("{family} {}", ms(echo.median())));
    }
    Ok(format!("{}, 0 of 200 lost", figures.join(", ")))
}

/// One TCP connection for three seconds.
pub fn throughput(site: &mut Site) -> Result<String> {
    site.await_tunnel()?;
    let lan1 = site.at(Place::Lan1);
    let before = tcp::retransmitted(&lan1)?;
    let bulk = tcp::bulk(
        &lan1,
        Place::Server.socket(Family::V4, BULK),
        &site.services.bulk_server,
        Duration::from_secs(3),
    )?;
    let again = tcp::retransmitted(&lan1)? - before;
    // Far below any figure that is of interest: only a transfer that hardly moves is a failure here.
    ensure!(bulk.megabits() > 10.0 / f64::from(stretch()), "only {:.1} Mbit/s", bulk.megabits());
    Ok(format!("{:.0} Mbit/s, {again} segments sent again", bulk.megabits()))
}
