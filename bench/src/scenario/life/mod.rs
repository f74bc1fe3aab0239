//! What traffic notices of a gateway's life: packets lost and the longest silence while keys are renewed, rules are
//! reloaded, the daemon restarts or is killed, and the line changes. First with little else to do, then beside a load that
//! fills the tunnel.

pub(in crate::scenario) mod event;
pub(in crate::scenario) mod loaded;

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};
use sekisho_tests::gateway::Sekishod;
use sekisho_tests::gateway::settings::Settings;
use sekisho_tests::lab::Lab;
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::lab::topology::ip_show;
use sekisho_tests::traffic::ping::{Outcome, Stream};

use crate::contender::{Contender, Encryption, Wanted, sekisho, strongswan};
use crate::perf::report::{Better, Figure};
use crate::perf::session::Session;

/// Name of the scenario's lab.
const LAB: &str = "life";
/// As the report has it.
const SCENARIO: &str = "life";
/// Between two echo requests: a gap is known to this, and so many packets a second are told as lost.
const INTERVAL: Duration = Duration::from_millis(5);
/// Quiet before each event, and after it: what it costs shows within this.
const AROUND: Duration = Duration::from_millis(300);
/// How often the events with little else to do come, in a quick run and in a full one.
const ROUNDS: [usize; 2] = [2, 3];
/// Until an event is over, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Policies that are reloaded, in a quick run and in a full one.
const POLICIES: [u16; 2] = [1_000, 10_000];
/// The port of the first of them.
const FIRST_PORT: u16 = 20_000;
/// The clinic's line before it changes, as its port has it.
const OLD_LINE: &str = "198.51.100.2/30";
/// The other one, which it has as well.
const NEW_LINE: &str = "198.51.100.6/30";
/// The carrier's end of that.
const NEW_NEXT_HOP: &str = "198.51.100.5/30";

/// Measures.
///
/// # Errors
/// When a lab cannot be laid. What a contender fails at is its own failure in the report.
pub fn run(session: &mut Session) -> Result<()> {
    let mut able = Vec::new();
    let mut wanted = vec![Contender::Sekisho, Contender::StrongSwan];
    if session.is_quick() {
        wanted.truncate(1);
        session.skip("strongswan", "only in a full run");
    }
    for contender in wanted {
        match contender.version() {
            Ok(version) => {
                session.version(contender.name(), version);
                able.push(contender);
            }
            Err(error) => session.skip(contender.name(), format_args!("{error:#}")),
        }
    }
    let [few, many] = ROUNDS;
    for (round, contender) in Session::turns_in(if session.is_quick() { few } else { many }, &able) {
        session.progress(format_args!("round {}: {}", round + 1, contender.name()));
        let measured = match contender {
            Contender::Sekisho => ours(session),
            _ => strongswans(session),
        };
        if let Err(error) = measured {
            session.failed(contender.name(), format_args!("{error:#}"));
        }
    }
    for contender in able {
        session.progress(format_args!("beside a load: {}", contender.name()));
        if let Err(error) = loaded::run(session, contender) {
            session.failed(format_args!("{} beside a load", contender.name()), format_args!("{error:#}"));
        }
    }
    Ok(())
}

fn ours(session: &mut Session) -> Result<()> {
    let lab = Lab::up(LAB)?;
    let router = lab.at(Place::Internet);
    ip_show(&router, &["addr", "add", NEW_NEXT_HOP, "dev", "clinic"])?;
    let wanted = Wanted { encryption: Encryption::Aes128Gcm, in_udp: false };
    let [mut clinic, centre] = sekisho::settings(&lab, wanted)?;
    clinic.more_wan = vec![NEW_LINE.to_owned()];
    let [few, many] = POLICIES;
    let count = if session.is_quick() { few } else { many };
    clinic.more = policies(count, FIRST_PORT);
    let changed = Settings { more: policies(count, FIRST_PORT + 1), ..clinic.clone() };
    let mut pair = sekisho::Pair::with(&lab, &clinic, &centre)?;
    let gateway = &mut pair.clinic;
    let mut event = |case: &str, work: &mut dyn FnMut(&mut Sekishod) -> Result<()>| {
        let outcome = while_pinging(&lab, || work(gateway)).with_context(|| case.to_owned())?;
        record(session, case, Contender::Sekisho, &outcome);
        Ok::<_, anyhow::Error>(())
    };
    event(CHILD_REKEY, &mut |gateway| renewed((&*gateway, "centre"), &[], child_spis))?;
    event(IKE_REKEY, &mut |gateway| renewed((&*gateway, "centre"), &["--ike"], ike_spis))?;
    event(&format!("reload of {count} policies, each another one"), &mut |gateway| gateway.reload(&changed))?;
    event("daemon killed, and started again", &mut |gateway| {
        gateway.crash()?;
        gateway.launch(&lab)?;
        gateway.await_up("centre", PATIENCE).map(drop)
    })?;
    event("daemon stopped in order, and started again", &mut |gateway| {
        gateway.stop()?;
        gateway.launch(&lab)?;
        gateway.await_up("centre", PATIENCE).map(drop)
    })?;
    event("the line's address goes, another one takes over (MOBIKE)", &mut |gateway| {
        ip_show(gateway.namespace(), &["addr", "del", OLD_LINE, "dev", "wan"])?;
        let there = NEW_LINE.split('/').next().unwrap_or(NEW_LINE);
        until(PATIENCE, "the IKE SA at the other address", || {
            let (local, _) = gateway.status()?.connection("centre")?.path();
            Ok(local.starts_with(&format!("{there}:")).then_some(()))
        })
        .map(drop)
    })
}

const CHILD_REKEY: &str = "child SA's keys renewed";
const IKE_REKEY: &str = "IKE SA's keys renewed";

/// What of it an administrator of strongSwan does as often.
fn strongswans(session: &mut Session) -> Result<()> {
    let lab = Lab::up(LAB)?;
    let wanted = Wanted { encryption: Encryption::Aes128Gcm, in_udp: true };
    let pair = strongswan::Pair::raise(&lab, wanted)?;
    let charon = &pair.clinic;
    let outcome = while_pinging(&lab, || {
        let before = charon.child_spis()?;
        charon.rekey_child()?;
        until(PATIENCE, "other child SAs", || Ok((charon.child_spis()? != before).then_some(()))).map(drop)
    })?;
    record(session, CHILD_REKEY, Contender::StrongSwan, &outcome);
    let outcome = while_pinging(&lab, || {
        let before = charon.ike_spis()?;
        charon.rekey_ike()?;
        until(PATIENCE, "another IKE SA", || Ok((charon.ike_spis()? != before).then_some(()))).map(drop)
    })?;
    record(session, IKE_REKEY, Contender::StrongSwan, &outcome);
    Ok(())
}

/// So many policies that allow nothing that anybody asks for.
fn policies(count: u16, first: u16) -> String {
    let mut out = String::new();
    for number in 0..count {
        let _ = writeln!(
            out,
            "[[policy]]\nname = \"p{number}\"\nfrom = \"lan1\"\nto = \"lan2\"\nallow = [\"tcp/{}\"]",
            first + number
        );
    }
    out
}

/// A gateway, and its connection.
type End<'a> = (&'a Sekishod, &'a str);

fn child_spis((gateway, connection): End<'_>) -> Result<Vec<String>> {
    Ok(gateway.status()?.connection(connection)?.child_spis())
}

fn ike_spis((gateway, connection): End<'_>) -> Result<Vec<String>> {
    let (ours, theirs) = gateway.status()?.connection(connection)?.ike_spis();
    Ok(vec![ours, theirs])
}

/// Orders new keys, and waits until the connection is up with them.
fn renewed(end: End<'_>, which: &[&str], spis: fn(End<'_>) -> Result<Vec<String>>) -> Result<()> {
    let (gateway, connection) = end;
    let before = spis(end)?;
    gateway.sekisho(&[&["rekey", connection], which].concat())?;
    until(PATIENCE, "other SPIs", || {
        let up = gateway.status()?.connection(connection)?.state() == "up";
        Ok((up && spis(end)? != before).then_some(()))
    })
    .map(drop)
}

/// From LAN1 to the server, all the while.
fn while_pinging(lab: &Lab, work: impl FnOnce() -> Result<()>) -> Result<Outcome> {
    let stream = Stream::start(&lab.at(Place::Lan1), Place::Server.address(Family::V4), INTERVAL)?;
    std::thread::sleep(AROUND);
    let worked = work();
    std::thread::sleep(AROUND);
    let outcome = stream.stop()?;
    worked?;
    anyhow::ensure!(outcome.answered > 0, "no packet came through at all");
    Ok(outcome)
}

fn record(session: &mut Session, case: &str, contender: Contender, outcome: &Outcome) {
    let contender = contender.name();
    let mut one = |name, unit, better, value| {
        session.record(&Figure { scenario: SCENARIO, case, contender, name, unit, better, at: None }, value);
    };
    one("longest gap", "ms", Better::Lower, outcome.longest_gap.as_secs_f64() * 1e3);
    one("lost", "packets", Better::Lower, outcome.lost() as f64);
    one("sent", "packets", Better::Neither, outcome.sent as f64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reloaded_policies_are_other_ones() {
        let [few, _] = POLICIES;
        let (before, after) = (policies(few, FIRST_PORT), policies(few, FIRST_PORT + 1));
        assert_eq!(before.matches("[[policy]]").count(), usize::from(few));
        assert!(before.lines().zip(after.lines()).filter(|(b, a)| b != a).count() == usize::from(few));
        assert!(POLICIES.iter().all(|count| FIRST_PORT.checked_add(count + 1).is_some()));
    }
}
