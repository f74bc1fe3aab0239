//! The lab itself: what it claims to be, it is, and it goes away.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::lab::{Lab, topology};
use sekisho_tests::scenario::site::{Services, canary};
use sekisho_tests::stage;
use sekisho_tests::traffic::frame::{Addressing, ESP, Kind, esp_payload};
use sekisho_tests::traffic::inject::Injector;
use sekisho_tests::traffic::tap::Tap;
use sekisho_tests::traffic::{http, ping, tcp, udp};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("lab::without_a_filter_everything_reaches_everything", || {
            stage::words(everything_reaches())
        }),
        Trial::test("lab::a_lab_that_was_killed_is_removed_by_the_next", || {
            stage::words(removed_by_the_next())
        }),
    ]
}

/// The controls of the suite's refusals: services answer, taps see clear text and the canary, injected frames arrive.
fn everything_reaches() -> Result<String> {
    let lab = Lab::up("plain")?;
    topology::forward_without_filter(&lab)?;
    let canary = canary();
    let services = Services::start(lab.name(), &canary)?;
    let tap = Tap::start(&lab.at(Place::Internet), "clinic", &canary)?;
    for family in Family::BOTH {
        for (from, to, port) in [
            (Place::Lan1, Place::Lan3, 9100),
            (Place::Lan3, Place::Lan1, 9100),
            (Place::Lan3, Place::Lan1, 8600),
            (Place::Web, Place::Lan1, 9100),
            (Place::Web, Place::Lan4, 9100),
            (Place::Lan1, Place::Server, 7),
        ] {
            tcp::ask(&lab.at(from), to.socket(family, port))?;
        }
        ensure!(
            udp::ask(&lab.at(Place::Lan1), Place::Lan3.socket(family, 9100), Duration::from_secs(1))?
                .is_some()
        );
        let page = http::get(&lab.at(Place::Lan1), Place::Server.socket(family, 80), "/")?;
        ensure!(page.contains(&canary), "the server's page is {page:?}");
        let echo =
            ping::ping(&lab.at(Place::Server), Place::Lan1.address(family), 5, Duration::from_millis(5))?;
        ensure!(echo.lost() == 0, "{echo}");
    }
    let spoofed = Addressing {
        mac: (lab.at(Place::Internet).mac("clinic")?, lab.at(Place::Clinic).mac("wan")?),
        ip: (Place::Server.address(Family::V4), Place::Lan1.address(Family::V4)),
    };
    let inside = Tap::start(&lab.at(Place::Lan1), "eth0", &canary)?;
    let injector = Injector::open(&lab.at(Place::Internet), "clinic")?;
    injector.send(&spoofed.syn((40_404, 80))?)?;
    injector.send(&spoofed.raw(ESP, &esp_payload(0x1234_5678))?)?;
    let inside = inside.stop()?;
    ensure!(
        inside.count(&Kind::Other("TCP 40404 to 80".into())) >= 1,
        "the forged SYN did not arrive: {}",
        inside.summary()
    );
    ensure!(inside.count(&Kind::Esp) == 1, "the forged ESP did not arrive: {}", inside.summary());
    let seen = tap.stop()?;
    ensure!(seen.canaries >= 2, "the tap did not find the canary in {}", seen.summary());
    ensure!(
        seen.leaks().iter().any(|leak| leak.starts_with("TCP")),
        "the tap saw no TCP: {}",
        seen.summary()
    );
    let bulk = tcp::bulk(
        &lab.at(Place::Lan1),
        Place::Lan3.socket(Family::V4, 5001),
        &services.bulk_lan3,
        Duration::from_millis(500),
    )?;
    ensure!(bulk.bytes > 0, "bulk did not move");
    Ok(format!("plain forwarding {:.0} Mbit/s; the tap found the canary {}×", bulk.megabits(), seen.canaries))
}

fn removed_by_the_next() -> Result<String> {
    let mut killed = Lab::up("plain")?;
    let sleeper = sekisho_tests::lab::process::Process::start(
        &killed,
        Place::Lan1,
        std::process::Command::new("sleep").arg("600"),
        "sleeper",
    )?;
    let pid = sleeper.pid();
    let file = killed.dir().join("a file");
    std::fs::write(&file, "left behind")?;
    // As if this program had been killed here: nothing of its cleaning runs.
    killed.keep();
    std::mem::forget(sleeper);
    drop(killed);
    ensure!(Path::new(&format!("/proc/{pid}")).exists(), "the sleeper should have been left behind");
    let next = Lab::up("plain")?;
    ensure!(!file.exists(), "{} is still there", file.display());
    // Its parent, this program, has not waited for it: a zombie is what is left of it at most.
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    ensure!(state.is_empty() || state.contains(") Z "), "the sleeper still runs: {state}");
    let namespace = next.at(Place::Lan1).path();
    drop(next);
    ensure!(!namespace.exists(), "{} is still there", namespace.display());
    Ok("processes, namespaces and files are gone".into())
}
