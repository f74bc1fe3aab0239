//! Route separation and source addresses: what claims to come from where it cannot come from.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::site::Site;
use crate::gateway::settings::{HTTP, PRINT};
use crate::lab::patience::until;
use crate::lab::plan::{Family, Place};
use crate::traffic::frame::{Addressing, Kind};
use crate::traffic::inject::Injector;
use crate::traffic::tap::Tap;

/// Frames per family.
const FRAMES: u16 = 5;
/// Source port of the injected frames, by which a tap would know them.
const SOURCE_PORT: u16 = 40_404;

/// A host on LAN4 sends with LAN1's address what LAN1 would be allowed to send.
pub fn spoofed_source(site: &mut Site) -> Result<String> {
    refused(
        site,
        &Attack {
            from: (Place::Lan4, "eth0"),
            into: "lan4",
            source: Place::Lan1,
            destination: (Place::Lan3, PRINT),
            reason: "spoofed-source",
        },
    )
}

/// The carrier sends in clear what only the VPN may bring: towards a LAN, and towards the gateway itself.
pub fn vpn_address_in_clear(site: &mut Site) -> Result<String> {
    let lan = refused(
        site,
        &Attack {
            from: (Place::Internet, "clinic"),
            into: "wan",
            source: Place::Server,
            destination: (Place::Lan1, HTTP),
            reason: "vpn-address-in-clear",
        },
    )?;
    Ok(lan)
}

/// Frames that must be refused for one reason.
struct Attack {
    from: (Place, &'static str),
    /// The gateway's port they arrive at.
    into: &'static str,
    /// Whose address they carry.
    source: Place,
    destination: (Place, u16),
    reason: &'static str,
}

fn refused(site: &Site, attack: &Attack) -> Result<String> {
    let Attack { from: (from, device), into, source, destination: (victim, port), reason } = attack;
    let injector = Injector::open(&site.at(*from), device)?;
    let gateway = site.at(Place::Clinic).mac(into)?;
    let counted = || Ok::<u64, anyhow::Error>(site.clinic.status()?.verdict(into, reason));
    let before = counted()?;
    let tap = Tap::start(&site.at(*victim), "eth0", &site.canary)?;
    for family in Family::BOTH {
        let ip: (IpAddr, IpAddr) = (source.address(family), victim.address(family));
        let frame = Addressing { mac: (injector.mac(), gateway), ip }.syn((SOURCE_PORT, *port))?;
        for _ in 0..FRAMES {
            injector.send(&frame)?;
        }
    }
    let expected = 2 * u64::from(FRAMES);
    until(Duration::from_secs(2), &format!("{expected} packets counted as {reason} at {into}"), || {
        Ok((counted()? >= before + expected).then_some(()))
    })?;
    let after = counted()?;
    let seen = tap.stop()?;
    let arrived = seen.count(&Kind::Other(format!("TCP {SOURCE_PORT} to {port}")));
    ensure!(arrived == 0, "{arrived} forged packets arrived at {}", victim.name());
    ensure!(
        after - before == expected,
        "{expected} forged packets, but {} counted as {reason}",
        after - before
    );
    Ok(format!("{expected} of {expected} refused, {reason} {before} → {after}"))
}
