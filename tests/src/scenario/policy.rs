//! Who may speak to whom: requirements R2, R3 and R5 of the gateway appliance.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::site::{Site, WEB_PAGE};
use crate::gateway::settings::{HTTP, PRINT, SCAN};
use crate::lab::plan::{Family, Place};
use crate::traffic::{http, ping, tcp, udp};

/// Milliseconds for people.
pub(super) fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// TCP and UDP to the printer and an ICMP echo, with their replies, both families.
pub fn reception_prints(site: &mut Site) -> Result<String> {
    let lan1 = site.at(Place::Lan1);
    let mut figures = Vec::new();
    for family in Family::BOTH {
        let printer = Place::Lan3.socket(family, PRINT);
        let tcp = tcp::ask(&lan1, printer).with_context(|| format!("TCP over {family}"))?;
        let udp = udp::ask(&lan1, printer, Duration::from_secs(2))?;
        ensure!(udp.is_some(), "UDP over {family}: no reply from the printer");
        let echo = ping::ping(&lan1, printer.ip(), 3, Duration::from_millis(50))?;
        ensure!(echo.lost() == 0, "ICMP echo over {family}: {echo}");
        figures.push(format!("{family} TCP {}", ms(tcp)));
    }
    Ok(figures.join(", "))
}

/// The other direction is refused and counted, except for the one service that is allowed.
pub fn office_only_scans(site: &mut Site) -> Result<String> {
    let lan3 = site.at(Place::Lan3);
    let (refused, ()) = site.growth(
        |status| status.verdict("lan3", "policy"),
        || {
            for family in Family::BOTH {
                for port in [PRINT, HTTP] {
                    tcp::expect_silence(&lan3, Place::Lan1.socket(family, port))?;
                }
                ping::expect_silence(&lan3, Place::Lan1.address(family))?;
            }
            Ok(())
        },
    )?;
    ensure!(refused >= 6, "6 connections were refused, but only {refused} packets counted");
    for family in Family::BOTH {
        tcp::ask(&lan3, Place::Lan1.socket(family, SCAN)).with_context(|| format!("scan over {family}"))?;
    }
    Ok(format!("{refused} packets refused and counted, scans pass"))
}

/// A page of the internet, both families.
pub fn internet_pcs_browse(site: &mut Site) -> Result<String> {
    let lan4 = site.at(Place::Lan4);
    for family in Family::BOTH {
        let page = http::get(&lan4, Place::Web.socket(family, HTTP), "/")
            .with_context(|| format!("over {family}"))?;
        ensure!(page == WEB_PAGE, "another page came over {family}: {page:?}");
    }
    let echo = ping::ping(&lan4, Place::Web.address(Family::V4), 5, Duration::from_millis(20))?;
    ensure!(echo.lost() == 0, "ICMP echo: {echo}");
    Ok(format!("IPv4 and IPv6, RTT {}", ms(echo.median())))
}

/// The secure LAN's hosts have no internet access.
pub fn reception_has_no_internet(site: &mut Site) -> Result<String> {
    let lan1 = site.at(Place::Lan1);
    let (refused, ()) = site.growth(
        |status| status.verdict("lan1", "policy"),
        || {
            for family in Family::BOTH {
                tcp::expect_silence(&lan1, Place::Web.socket(family, HTTP))?;
                let answer = udp::ask(&lan1, Place::Web.socket(family, 53), Duration::from_millis(100))
                    .unwrap_or_default();
                ensure!(answer.is_none(), "UDP from LAN1 was answered over {family}");
            }
            Ok(())
        },
    )?;
    ensure!(refused >= 4, "4 attempts were refused, but only {refused} packets counted");
    Ok(format!("{refused} packets refused and counted"))
}

/// The carrier has routes to every LAN; only the filter keeps it out.
pub fn internet_reaches_no_lan(site: &mut Site) -> Result<String> {
    let (web, router) = (&site.at(Place::Web), &site.at(Place::Internet));
    let (refused, attempts) = site.growth(
        |status| status.verdict("wan", "policy"),
        || {
            // All at once: each waits only to hear nothing.
            thread::scope(|scope| {
                let mut attempts = Vec::new();
                for host in Place::CLINIC_HOSTS {
                    for family in Family::BOTH {
                        attempts
                            .push(scope.spawn(move || tcp::expect_silence(web, host.socket(family, PRINT))));
                        attempts
                            .push(scope.spawn(move || ping::expect_silence(router, host.address(family))));
                    }
                }
                let count = attempts.len();
                for attempt in attempts {
                    attempt.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                }
                Ok(count)
            })
        },
    )?;
    ensure!(
        usize::try_from(refused).is_ok_and(|refused| refused >= attempts),
        "{attempts} attempts were refused, but only {refused} packets counted"
    );
    Ok(format!("{attempts} attempts, {refused} packets refused and counted"))
}
