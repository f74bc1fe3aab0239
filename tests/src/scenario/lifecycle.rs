//! Closing, opening, crashing, coming back, ending.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::policy::ms;
use super::site::Site;
use super::tunnel;
use crate::gateway::settings::{HTTP, PRINT};
use crate::lab::plan::{Family, Place};
use crate::traffic::tap::Tap;
use crate::traffic::tcp::{self, Conversation};

/// After `sekisho down` the server is out of reach, and what LAN1 still sends to it goes nowhere, least of all out in
/// clear.
pub fn down_leaks_nothing(site: &mut Site) -> Result<String> {
    site.await_tunnel()?;
    site.clinic.sekisho(&["down", "centre"])?;
    site.clinic.await_state("centre", "down", Duration::from_secs(10))?;
    unreachable_and_unseen(site)
}

/// LAN1 calls the server in vain, and the carrier sees nothing of it.
pub fn unreachable_and_unseen(site: &Site) -> Result<String> {
    let outside = Tap::start(&site.at(Place::Internet), "clinic", &site.canary)?;
    for family in Family::BOTH {
        tcp::expect_no_way(&site.at(Place::Lan1), Place::Server.socket(family, HTTP))?;
    }
    let seen = outside.stop()?;
    ensure!(seen.leaks().is_empty(), "in clear at the carrier: {}", seen.leaks().join(", "));
    Ok(format!("carrier: {}", seen.summary()))
}

/// LAN1 reaches the server, and the carrier sees nothing but ESP of it.
fn reachable_and_unseen(site: &Site) -> Result<String> {
    let outside = Tap::start(&site.at(Place::Internet), "clinic", &site.canary)?;
    tunnel::pages(site)?;
    let seen = outside.stop()?;
    ensure!(seen.leaks().is_empty(), "in clear at the carrier: {}", seen.leaks().join(", "));
    Ok(format!("the kernel's tunnel goes on; carrier: {}", seen.summary()))
}

/// `sekisho up`.
pub fn up_again(site: &mut Site) -> Result<String> {
    let begin = Instant::now();
    site.clinic.sekisho(&["up", "centre"])?;
    site.await_tunnel()?;
    let time = begin.elapsed();
    tunnel::pages(site)?;
    Ok(format!("after {}", ms(time)))
}

/// The daemon is killed with traffic flowing: flows and rules stay in force, and nothing that should go through the
/// VPN goes out in clear. The kernel's SAs outlive the daemon, the engine's do not.
pub fn crash_keeps_filter(site: &mut Site) -> Result<String> {
    let is_kernels = site.clinic.status()?.datapath().0 == "kernel";
    let lan1 = site.at(Place::Lan1);
    let printer = Place::Lan3.socket(Family::V4, PRINT);
    let mut held = Conversation::open(&lan1, printer)?;
    held.say(b"before the crash")?;
    site.clinic.crash()?;
    held.say(b"after the crash").context("a connection that was open at the crash")?;
    for family in Family::BOTH {
        tcp::ask(&lan1, Place::Lan3.socket(family, PRINT))
            .with_context(|| format!("a new connection that the rules allow, over {family}"))?;
        tcp::expect_silence(&site.at(Place::Lan3), Place::Lan1.socket(family, PRINT))?;
        tcp::expect_silence(&site.at(Place::Web), Place::Lan1.socket(family, HTTP))?;
    }
    let carrier = if is_kernels { reachable_and_unseen(site)? } else { unreachable_and_unseen(site)? };
    site.held = Some(held);
    Ok(format!("allowed passes, refused is refused; {carrier}"))
}

/// The next daemon takes the filter over without a gap, and the tunnel comes back.
pub fn restart_takes_over(site: &mut Site) -> Result<String> {
    let Some(mut held) = site.held.take() else { bail!("no connection was left open by the crash") };
    let begin = Instant::now();
    site.clinic.launch(&site.lab)?;
    let back = begin.elapsed();
    held.say(b"after the restart").context("a connection that was open all along")?;
    tcp::expect_silence(&site.at(Place::Lan3), Place::Lan1.socket(Family::V4, PRINT))?;
    site.await_tunnel()?;
    let tunnel = begin.elapsed();
    tunnel::pages(site)?;
    Ok(format!(
        "daemon after {}, tunnel after {:.1} s, open TCP connection survived",
        ms(back),
        tunnel.as_secs_f64()
    ))
}

/// SIGTERM: no pins, no devices, no programs, no addresses.
pub fn stop_removes_everything(site: &mut Site) -> Result<String> {
    // What is looked for afterwards must be there to be found before.
    let there = site.clinic.leftovers()?;
    for kind in ["/sys/fs/bpf/", "/run/sekisho/", "link ", "address "] {
        ensure!(
            there.iter().any(|thing| thing.starts_with(kind)),
            "no {kind} while the gateway runs: {there:?}"
        );
    }
    let begin = Instant::now();
    let status = site.clinic.stop()?;
    let time = begin.elapsed();
    ensure!(status.success(), "sekishod ended with {status}");
    let left = site.clinic.leftovers()?;
    ensure!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    Ok(format!("in {}: {} pins, devices, programs, addresses gone", ms(time), there.len()))
}
