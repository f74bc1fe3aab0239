//! Child SAs for single workers beside the one for all (RFC 9611), between gateways with two workers each; on the kernel's path for
//! single processors.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use sekisho_tests::gateway::Sekishod;
use sekisho_tests::gateway::settings::{ECHO, is_kernels_path};
use sekisho_tests::gateway::status::Connection;
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::scenario::site::Site;
use sekisho_tests::scenario::tunnel;
use sekisho_tests::stage::{self, Stage};
use sekisho_tests::traffic::frame::Kind;
use sekisho_tests::traffic::tap::Tap;

use super::negotiation::{psk, usual};
use super::workers::{AFTER, Load, QUEUES, sekisho, with_keys};

/// All SAs are there: an exchange each, on a busy machine.
const MADE: Duration = Duration::from_secs(20);
/// Packets by an SA that are no accident: of 32 flows each SA of four has some.
const MANY: u64 = 20;
/// Patience for that many, where the kernel deals flows out to queues as it likes.
const SPREAD: Duration = Duration::from_secs(20);
/// Far longer than a refused question would take to be asked again.
const QUIET: Duration = Duration::from_secs(15);

/// From each processor.
const DATAGRAMS: u64 = 100;
/// Patience for one of them, in a guest.
const ANSWER: Duration = Duration::from_secs(10);

const AUTO: &str = "per_resource_sas = \"auto\"";
const FOUR: &str = "per_resource_sas = 4";

pub(crate) fn trials(stage: &Stage) -> Vec<Trial> {
    if is_kernels_path() {
        let stage = stage.clone();
        return vec![Trial::test("resources::each_processor_sends_with_its_own", move || {
            stage::words(stage.run(of_processors))
        })];
    }
    let trial = |name, keys: [&'static [&'static str]; 2], test: fn(&mut Site) -> Result<String>| {
        Trial::test(format!("resources::{name}"), move || stage::words(with_keys(QUEUES, keys, test)))
    };
    vec![
        trial("each_worker_sends_with_its_own", [&[AUTO], &[AUTO]], one_each),
        trial("two_workers_deal_flows_out_among_four", [&[FOUR], &[FOUR]], two_each),
        trial("a_peer_without_has_one_sa", [&[AUTO], &[]], alone),
        trial("a_peer_with_enough_is_not_asked_on", [&[FOUR], &["per_resource_sas = 1"]], enough),
    ]
}

fn one_each(site: &mut Site) -> Result<String> {
    spread(site, 2)
}

fn two_each(site: &mut Site) -> Result<String> {
    spread(site, 4)
}

/// So many beside the first at both gateways, each of which carries some of the flows; new keys for all of them while they do.
fn spread(site: &mut Site, count: u64) -> Result<String> {
    site.await_tunnel()?;
    tunnel::page_unseen(site)?;
    let gateways = [(&site.clinic, "centre"), (sekisho(site)?, "clinic")];
    for (gateway, connection) in gateways {
        have(gateway, connection, count)?;
    }
    let shown = site.clinic.sekisho(&["status"])?;
    for words in [
        format!("SAs of single resources: {count} of {count}"),
        "main of all".into(),
        "main of resource 1".into(),
    ] {
        ensure!(shown.contains(&words), "the table has no {words:?}: {shown}");
    }
    let load = Load::start(&site.at(Place::Lan1))?;
    let outcome = under_load(&gateways, count);
    let echoed = load.stop()?;
    let rounds = outcome?;
    for (gateway, connection) in gateways {
        let status = gateway.status()?;
        for reason in ["replay", "integrity", "selector", "no-path", "ring-full"] {
            let dropped = status.engine(&format!("dropped-{reason}"));
            ensure!(dropped == 0, "{dropped} frames dropped as {reason} at the gateway of {connection}");
        }
        let failure = status.connection(connection)?.last_failure().to_owned();
        ensure!(failure.is_empty(), "{failure}");
    }
    Ok(format!(
        "{count} SAs beside the first carry the flows of {echoed} datagrams, none lost in {rounds} rounds of new keys"
    ))
}

/// What each processor sends goes by its own SA, where the kernel knows of that; where not, no peer is asked, and status says so.
fn of_processors(site: &mut Site) -> Result<String> {
    let [mut clinic, mut centre] = psk(site)?;
    for settings in [&mut clinic, &mut centre] {
        settings.more_keys[0].push(AUTO.into());
    }
    site.reconfigure(&clinic, &centre)?;
    site.await_tunnel()?;
    let status = site.clinic.status()?;
    let (_, why) = status.datapath();
    let outcome = if why.contains("no SAs of single processors") {
        only_the_first(site, "Linux 6.13")
    } else {
        by_processor(site)
    };
    usual(site)?;
    outcome
}

/// The first SA stays the only one, for this reason.
fn only_the_first(site: &Site, reason: &str) -> Result<String> {
    thread::sleep(QUIET);
    tunnel::pages(site)?;
    let status = site.clinic.status()?;
    let connection = status.connection("centre")?;
    ensure!(connection.child_spis().len() == 1, "{:?}", connection.bound_children());
    let words = connection.resource_sas().to_owned();
    ensure!(words.contains(reason), "{words}");
    Ok(words)
}

/// The lab's hosts send to the gateway by veth: a gateway works on their packets on the processor that sent them.
fn by_processor(site: &Site) -> Result<String> {
    let processors = thread::available_parallelism()?.get() as u64;
    ensure!(processors > 1, "one processor can show nothing");
    have(&site.clinic, "centre", processors)?;
    have(sekisho(site)?, "clinic", processors)?;
    tunnel::pages(site)?;
    let (mut shares, before) = (Vec::new(), spis(&site.clinic, "centre")?);
    for round in 0..2 {
        for processor in 0..processors {
            shares.push(share_of(site, processor)?);
        }
        if round == 0 {
            site.clinic.sekisho(&["rekey", "centre"])?;
            until(MADE, "new keys for all of them", || {
                Ok(spis(&site.clinic, "centre")?.is_disjoint(&before).then_some(()))
            })?;
            thread::sleep(AFTER);
            have(&site.clinic, "centre", processors)?;
        }
    }
    Ok(format!("{processors} processors; by the own SA of the one that sent: {}", shares.join(", ")))
}

/// Datagrams from one processor, there and back: almost all of them go by its SA.
fn share_of(site: &Site, processor: u64) -> Result<String> {
    let counts = || -> Result<_> { Ok(sent(&site.clinic.status()?.connection("centre")?)) };
    let before = counts()?;
    site.at(Place::Lan1).run(|| {
        let mut only = CpuSet::new();
        only.set(usize::try_from(processor)?)?;
        // Of this thread, which ends with the datagrams.
        sched_setaffinity(Pid::from_raw(0), &only).context("choosing a processor")?;
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(Place::Server.socket(Family::V4, ECHO))?;
        socket.set_read_timeout(Some(ANSWER))?;
        for number in 0..DATAGRAMS {
            socket.send(&number.to_be_bytes())?;
            socket.recv(&mut [0; 8]).with_context(|| format!("datagram {number} got lost"))?;
        }
        Ok(())
    })?;
    let after = counts()?;
    let growth = |resource| {
        let of = |counts: &BTreeMap<Option<u64>, u64>| counts.get(&resource).copied().unwrap_or_default();
        of(&after).saturating_sub(of(&before))
    };
    let own = growth(Some(processor));
    // A soft interrupt may run on the other processor, and other packets go now and then.
    ensure!(
        own >= DATAGRAMS * 3 / 4,
        "{own} of {DATAGRAMS} datagrams of processor {processor} by its SA: {before:?} {after:?}"
    );
    Ok(format!("{own} of {DATAGRAMS}"))
}

/// Every SA carries flows, before and after each of both gateways has had new keys made for all of them.
fn under_load(gateways: &[(&Sekishod, &str); 2], count: u64) -> Result<usize> {
    all_carry(gateways, count)?;
    for (gateway, connection) in gateways {
        let before = spis(gateway, connection)?;
        gateway.sekisho(&["rekey", connection])?;
        until(MADE, "new keys for all of them", || {
            let now = spis(gateway, connection)?;
            Ok((now.is_disjoint(&before) && now.len() == before.len()).then_some(()))
        })?;
        // What was sealed with the old keys has arrived.
        thread::sleep(AFTER);
        for (gateway, connection) in gateways {
            have(gateway, connection, count)?;
        }
        all_carry(gateways, count)?;
    }
    Ok(gateways.len())
}

/// Packets go out by every SA for a single resource, at both gateways; all that the one sends the other gets.
fn all_carry(gateways: &[(&Sekishod, &str); 2], count: u64) -> Result<()> {
    for (gateway, connection) in gateways {
        until(SPREAD, "flows on every SA", || {
            let status = gateway.status()?;
            let sent = sent(&status.connection(connection)?);
            let carried = sent.iter().filter(|(resource, packets)| resource.is_some() && **packets > MANY);
            Ok((carried.count() as u64 == count).then_some(()))
        })?;
    }
    Ok(())
}

/// Packets sent, by resource.
fn sent(connection: &Connection<'_>) -> BTreeMap<Option<u64>, u64> {
    let mut all = BTreeMap::new();
    for (resource, _, _, sent) in connection.bound_children() {
        *all.entry(resource).or_default() += sent;
    }
    all
}

fn spis(gateway: &Sekishod, connection: &str) -> Result<BTreeSet<String>> {
    Ok(gateway.status()?.connection(connection)?.child_spis().into_iter().collect())
}

/// One SA for all, and one for each of so many resources.
fn have(gateway: &Sekishod, connection: &str, count: u64) -> Result<()> {
    let expected: Vec<Option<u64>> = [None].into_iter().chain((0..count).map(Some)).collect();
    until(MADE, "an SA for each resource", || {
        let status = gateway.status()?;
        let connection = status.connection(connection)?;
        let mut there: Vec<_> =
            connection.bound_children().into_iter().map(|(resource, ..)| resource).collect();
        there.sort();
        Ok((there == expected).then_some(()))
    })
    .map(drop)
}

fn alone(site: &mut Site) -> Result<String> {
    site.await_tunnel()?;
    tunnel::pages(site)?;
    site.clinic.sekisho(&["rekey", "centre"])?;
    let words = only_the_first(site, "the peer does not know")?;
    let centre = sekisho(site)?.status()?;
    let shown = centre.connection("clinic")?.resource_sas().to_owned();
    ensure!(shown.is_empty(), "the peer has none configured, and says {shown:?}");
    Ok(words)
}

fn enough(site: &mut Site) -> Result<String> {
    site.await_tunnel()?;
    let bound =
        |site: &Site| -> Result<Vec<_>> { Ok(site.clinic.status()?.connection("centre")?.bound_children()) };
    until(MADE, "as many as the peer takes", || Ok((bound(site)?.len() == 3).then_some(())))?;
    // The question that was refused, and its answer.
    thread::sleep(AFTER);
    let spis = site.child_spis()?;
    let carrier = Tap::start(&site.at(Place::Internet), "clinic", &site.canary)?;
    thread::sleep(QUIET);
    let asked = carrier.stop()?.frames_to(Place::Centre.address(Family::V4), &[Kind::Ike]).len();
    ensure!(asked <= 1, "{asked} IKE messages went to the peer, where none but a sign of life is due");
    ensure!(site.child_spis()? == spis, "other SAs than before: {:?}", bound(site)?);
    tunnel::pages(site)?;
    let status = site.clinic.status()?;
    let connection = status.connection("centre")?;
    let words = connection.resource_sas().to_owned();
    ensure!(words.starts_with("2 of 4"), "{words}");
    ensure!(connection.last_failure().is_empty(), "{}", connection.last_failure());
    Ok(words)
}
