//! Clinics from many addresses: handshakes that begin at a fixed rate, whatever becomes of the earlier ones (open loop); as many
//! as the centre takes (closed loop); and then all keys renewed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sekisho_tests::initiators::{Initiators, Inside};

use super::SCENARIO;
use super::answering::Centre;
use crate::contender::Contender;
use crate::perf::report::{Better, Figure};
use crate::perf::session::Session;
use crate::perf::statistics::quantile;

/// Names of the labs: of the open loop and of the closed one.
const LABS: [&str; 2] = ["perfopen", "perfall"];
/// Handshakes that begin a second.
const RATES: [f64; 4] = [100.0, 200.0, 400.0, 800.0];
/// Of those, the ones of a quick run.
const FEW_RATES: [f64; 2] = [100.0, 400.0];
/// How long handshakes begin at each rate, in a quick run and in a full one.
const TIMES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];
/// Enough for a ratio: each takes long.
const ROUNDS: usize = 3;
/// A handshake that takes longer has failed: people have hung up.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where the last handshake began so much later than it was due, the machine could not offer that many.
const LATE: Duration = Duration::from_millis(500);
/// Below this share of successes a higher rate shows no more, and would only take long.
const HOPELESS: f64 = 90.0;
/// Clinics that connect as fast as the centre takes them, in a quick run and in a full one.
const CLINICS: [u32; 2] = [200, 1000];
/// And those that our own centre has in a full run besides.
const MANY: u32 = 10_000;
/// Of them, those at a time whose handshake or rekeying is under way: fewer than from which on cookies are asked for.
const AT_ONCE: usize = 24;
/// Until all of them are done.
const LIMIT: Duration = Duration::from_secs(120);

/// Measures everyone in turn.
pub(super) fn run(session: &mut Session, contenders: &[Contender]) {
    for (round, contender) in Session::turns_in(ROUNDS, contenders) {
        session.progress(format_args!(
            "round {}: handshakes by the rate offered, {}",
            round + 1,
            contender.name()
        ));
        if let Err(error) = open_loop(session, contender) {
            session.failed(
                format_args!("handshakes by the rate offered, {}", contender.name()),
                format_args!("{error:#}"),
            );
        }
    }
    let clinics = CLINICS[usize::from(!session.is_quick())];
    for (round, contender) in Session::turns_in(ROUNDS, contenders) {
        session.progress(format_args!(
            "round {}: {clinics} clinics at once, {}",
            round + 1,
            contender.name()
        ));
        closed_loop(session, contender, clinics);
    }
    if session.is_quick() {
        session.skip(format_args!("{MANY} clinics"), "only in a full run");
        return;
    }
    session.progress(format_args!("{MANY} clinics at once, {}", Contender::Sekisho.name()));
    closed_loop(session, Contender::Sekisho, MANY);
}

fn open_loop(session: &mut Session, contender: Contender) -> Result<()> {
    const CASE: &str = "handshakes by the rate offered, 1/s";
    let time = TIMES[usize::from(!session.is_quick())];
    let rates = if session.is_quick() { &FEW_RATES[..] } else { &RATES };
    let most = rates.iter().fold(0.0_f64, |most, rate| most.max(rate * time.as_secs_f64()));
    let centre = Centre::start(contender, LABS[0])?;
    let mut clinics = Initiators::new(&centre.lab, most.ceil() as u32 + 1, Inside::Address)?;
    for &rate in rates {
        let found = clinics.open_loop(rate, time, PATIENCE)?;
        clinics.close()?;
        if found.late > LATE {
            session.skip(
                format_args!("{CASE}: {rate} and more, {}", contender.name()),
                "this machine could not begin so many beside the gateway that answers",
            );
            break;
        }
        let mut record = |name, unit, better, value| {
            let contender = contender.name();
            let at = Some(rate);
            session
                .record(&Figure { scenario: SCENARIO, case: CASE, contender, name, unit, better, at }, value);
        };
        let succeeded = found.times.len() as f64 / f64::from(found.offered) * 100.0;
        record("succeeded", "%", Better::Higher, succeeded);
        let times: Vec<f64> = found.times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
        for (name, share) in [("p50 of a handshake", 0.5), ("p99 of a handshake", 0.99)] {
            if let Some(time) = quantile(&times, share) {
                record(name, "ms", Better::Lower, time);
            }
        }
        if succeeded < HOPELESS {
            break;
        }
    }
    Ok(())
}

fn closed_loop(session: &mut Session, contender: Contender, count: u32) {
    if let Err(error) = all_at_once(session, contender, count) {
        session
            .failed(format_args!("{count} clinics at once, {}", contender.name()), format_args!("{error:#}"));
    }
}

/// Everybody connects, and then everybody's keys are renewed.
fn all_at_once(session: &mut Session, contender: Contender, count: u32) -> Result<()> {
    let centre = Centre::start(contender, LABS[1])?;
    let mut clinics = Initiators::new(&centre.lab, count, Inside::Address)?;
    let before = centre.used()?;
    let (tunnels, up_after) = clinics.connect(0..count, AT_ONCE, LIMIT)?;
    centre.await_clinics(count as usize).context("after the handshakes")?;
    let up = centre.used()?;
    let connect = format!("{count} clinics connect, {AT_ONCE} at a time, an address each");
    let each = |total: f64| total / f64::from(count);
    let mut record = |case: &str, name, unit, better, value| {
        let contender = contender.name();
        session.record(&Figure { scenario: SCENARIO, case, contender, name, unit, better, at: None }, value);
    };
    record(&connect, "all up after", "s", Better::Lower, up_after.as_secs_f64());
    record(&connect, "handshakes", "1/s", Better::Higher, f64::from(count) / up_after.as_secs_f64());
    record(&connect, "CPU time each", "µs", Better::Lower, each((up.cpu - before.cpu).as_secs_f64() * 1e6));
    record(
        &connect,
        "memory each",
        "bytes",
        Better::Lower,
        each(up.memory.saturating_sub(before.memory) as f64),
    );
    let rekey = format!("IKE SAs and child SAs of {count} clinics renew their keys, {AT_ONCE} at a time");
    let sent_again = clinics.retransmissions();
    let (renewed, took) = clinics.rekey(&tunnels, AT_ONCE, LIMIT)?;
    // Who was lost on the way would be missing here, by either side's count.
    ensure!(renewed.len() == tunnels.len(), "{} of {} have new keys", renewed.len(), tunnels.len());
    clinics.settle(count, PATIENCE).context("after the keys were renewed")?;
    centre.await_clinics(count as usize).context("after the keys were renewed")?;
    let after = centre.used()?;
    record(&rekey, "all renewed after", "s", Better::Lower, took.as_secs_f64());
    record(&rekey, "CPU time each", "µs", Better::Lower, each((after.cpu - up.cpu).as_secs_f64() * 1e6));
    let sent_again = (clinics.retransmissions() - sent_again) as f64;
    record(&rekey, "requests sent again", "", Better::Neither, sent_again);
    session.proved(
        format_args!("{}: no tunnel is lost while all keys are renewed", contender.name()),
        format_args!("{count} IKE SAs and {count} child SAs by either side's count"),
    );
    Ok(())
}
