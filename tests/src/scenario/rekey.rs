//! New keys under load: every echo request is answered, and TCP goes on.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::site::{Peer, Site};
use crate::gateway::settings::BULK;
use crate::lab::patience::{stretch, until};
use crate::lab::plan::{Family, Place};
use crate::traffic::ping::Stream;
use crate::traffic::tap::Tap;
use crate::traffic::tcp::{self, Transfer};

/// One echo request in this time, each way of counting loss being only as good as the density of the requests. In an
/// emulated guest fewer: at this rate its processors would lose packets without any rekey.
const INTERVAL: Duration = Duration::from_millis(5);
/// A load that the tunnel carries without loss of its own, so that a lost segment is the rekey's.
const LOAD_BYTES_PER_SECOND: u32 = 1_000_000;
/// How long after a rekey loss would still show: old SAs linger for 5 s.
const AFTER: Duration = Duration::from_millis(700);
/// How often strongSwan may lose a packet before that counts.
const TRIES: usize = 3;
/// No packet for so long: longer than a retransmission of TCP takes at first.
const QUIET: Duration = Duration::from_millis(300);
/// A rekey's exchange, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(8);

/// Who begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The clinic's gateway.
    Clinic,
    /// The centre's.
    Centre,
}

/// One after the other.
pub const BOTH: [By; 2] = [By::Clinic, By::Centre];

/// Both sides renew the child SA's keys, one after the other.
pub fn child_without_loss(site: &mut Site) -> Result<String> {
    child_by(site, &BOTH)
}

/// These renew the child SA's keys.
pub fn child_by(site: &Site, who: &[By]) -> Result<String> {
    under_load(site, who, |by| renew_child(site, by))
}

/// One of both has the child SA's keys renewed; returns once the clinic has others.
pub fn renew_child(site: &Site, by: By) -> Result<()> {
    changes(site, &format!("{by:?}'s rekey of the child SA"), Site::child_spis, |site| {
        match (by, &site.centre) {
            (By::Clinic, _) => site.clinic.sekisho(&["rekey", "centre"]).map(drop),
            (By::Centre, Peer::Sekisho(centre)) => centre.sekisho(&["rekey", "clinic"]).map(drop),
            (By::Centre, Peer::StrongSwan(charon)) => charon.rekey_child(),
        }
    })
}

/// Both sides renew the IKE SA's keys; the child SAs stay.
pub fn ike_without_loss(site: &mut Site) -> Result<String> {
    ike_by(site, &BOTH)
}

/// These renew the IKE SA's keys; the child SAs stay.
pub fn ike_by(site: &Site, who: &[By]) -> Result<String> {
    site.await_tunnel()?;
    let children = site.child_spis()?;
    let report = under_load(site, who, |by| renew_ike(site, by))?;
    ensure!(site.child_spis()? == children, "the child SAs changed with the IKE SA's keys");
    Ok(report)
}

/// One of both has the IKE SA's keys renewed; returns once the clinic has others.
pub fn renew_ike(site: &Site, by: By) -> Result<()> {
    changes(site, &format!("{by:?}'s rekey of the IKE SA"), Site::ike_spis, |site| match (by, &site.centre) {
        (By::Clinic, _) => site.clinic.sekisho(&["rekey", "centre", "--ike"]).map(drop),
        (By::Centre, Peer::Sekisho(centre)) => centre.sekisho(&["rekey", "clinic", "--ike"]).map(drop),
        (By::Centre, Peer::StrongSwan(charon)) => charon.rekey_ike(),
    })
}

/// The clinic has both ends prove again who they are, twice: a second IKE SA with child SAs of its own takes over.
pub fn reauth_without_loss(site: &mut Site) -> Result<String> {
    reauth_by(site, &[By::Clinic; 2])
}

/// These have both ends prove again who they are.
///
/// strongSwan, where it answers, sends by the new child SA before its answer has left. What comes that early is of an SPI
/// that our gateway does not know yet, and is counted as that: so many packets may be lost, and no more.
///
/// Where strongSwan begins, it removes the former SAs with our answer, and with them a packet now and then that its threads have not
/// got to: one in some hundred runs. What is lost there counts if that is so each time, and is told in any case.
pub fn reauth_by(site: &Site, who: &[By]) -> Result<String> {
    site.await_tunnel()?;
    let spis = |site: &Site| Ok((site.ike_spis()?, site.child_spis()?));
    let strongswan_answers = matches!(site.centre, Peer::StrongSwan(_)) && who.contains(&By::Clinic);
    let renew = |by: By| {
        changes(site, &format!("{by:?}'s reauthentication"), spis, |site| match (by, &site.centre) {
            (By::Clinic, _) => site.clinic.sekisho(&["reauth", "centre"]).map(drop),
            (By::Centre, Peer::Sekisho(centre)) => centre.sekisho(&["reauth", "clinic"]).map(drop),
            (By::Centre, Peer::StrongSwan(charon)) => charon.reauthenticate(),
        })
    };
    let strongswan_begins = matches!(site.centre, Peer::StrongSwan(_)) && who.contains(&By::Centre);
    let mut losses = Vec::new();
    loop {
        match once(site, who, strongswan_answers, renew)? {
            Ok(told) if losses.is_empty() => return Ok(told),
            Ok(told) => return Ok(format!("{told}; before that {}", losses.join(", "))),
            Err(loss) => losses.push(loss),
        }
        ensure!(strongswan_begins && losses.len() < TRIES, "{}", losses.join(", "));
    }
}

/// Does something and waits until the SPIs are other ones and the connection is up with them.
fn changes<T: PartialEq>(
    site: &Site,
    what: &str,
    spis: impl Fn(&Site) -> Result<T>,
    work: impl FnOnce(&Site) -> Result<()>,
) -> Result<()> {
    let before = spis(site)?;
    work(site)?;
    until(PATIENCE, what, || {
        let up = site.clinic.status()?.connection("centre")?.state() == "up";
        Ok((up && spis(site)? != before).then_some(()))
    })
    .map(drop)
}

/// Waits for what an earlier check has left in TCP's buffers: megabytes, which strongSwan's socket drops a part of when
/// they come at once, and which would be taken for the rekey's loss.
fn quiet(site: &Site) -> Result<()> {
    let sent =
        || Ok::<_, anyhow::Error>(site.clinic.status()?.connection("centre")?.child_sum("outbound/packets"));
    until(PATIENCE, "a tunnel without traffic", || {
        let before = sent()?;
        std::thread::sleep(QUIET);
        Ok((sent()? == before).then_some(()))
    })
    .map(drop)
}

/// No echo request is lost.
fn under_load(site: &Site, who: &[By], renew: impl Fn(By) -> Result<()>) -> Result<String> {
    once(site, who, false, &renew)?.map_err(anyhow::Error::msg)
}

/// Echo requests and a TCP transfer all the while, and a tap at the carrier. `early`: whether packets may come before
/// their SPI is known. What to tell of it; an error within if requests were lost.
fn once(
    site: &Site,
    who: &[By],
    early: bool,
    renew: impl Fn(By) -> Result<()>,
) -> Result<Result<String, String>> {
    site.await_tunnel()?;
    quiet(site)?;
    let unknown = || Ok::<_, anyhow::Error>(site.clinic.status()?.drops("esp-unknown-spi"));
    let unknown_before = unknown()?;
    let lan1 = site.at(Place::Lan1);
    let outside = Tap::start(&site.at(Place::Internet), "clinic", &site.canary)?;
    let again_before = tcp::retransmitted(&lan1)?;
    let sink = &site.services.bulk_server;
    let load = LOAD_BYTES_PER_SECOND / stretch();
    let transfer = Transfer::start(&lan1, Place::Server.socket(Family::V4, BULK), sink, Some(load))?;
    let interval = INTERVAL * stretch();
    let streams = [
        Stream::start(&lan1, Place::Server.address(Family::V4), interval)?,
        Stream::start(&lan1, Place::Server.address(Family::V6), interval)?,
    ];
    std::thread::sleep(Duration::from_millis(300));
    let worked: Result<()> = who.iter().try_for_each(|by| {
        renew(*by)?;
        std::thread::sleep(AFTER * stretch());
        Ok(())
    });
    let (mut sent, mut lost, mut gap) = (0, 0, Duration::ZERO);
    for stream in streams {
        let outcome = stream.stop()?;
        sent += outcome.sent;
        lost += outcome.lost();
        gap = gap.max(outcome.longest_gap);
    }
    let bulk = transfer.stop(sink)?;
    let again = tcp::retransmitted(&lan1)? - again_before;
    let seen = outside.stop()?;
    worked?;
    let unknown = unknown()? - unknown_before;
    let excused = if early { unknown } else { 0 };
    ensure!(bulk.bytes > 0, "TCP did not move");
    ensure!(seen.leaks().is_empty(), "the carrier saw more than IKE and ESP: {}", seen.leaks().join(", "));
    if lost as u64 > excused {
        return Ok(Err(format!(
            "{lost} of {sent} echo requests got no reply (longest gap {gap:?}); {unknown} ESP packets of an unknown SPI"
        )));
    }
    Ok(Ok(format!(
        "{} renewals, {lost} of {sent} pings lost, longest gap {:.0} ms; TCP {:.0} Mbit/s, {again} sent again, stall {:.0} ms",
        who.len(),
        gap.as_secs_f64() * 1e3,
        bulk.megabits(),
        bulk.longest_stall.as_secs_f64() * 1e3
    )))
}
