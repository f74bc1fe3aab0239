//! A thousand peers of one centre, each with an IKE SA, a child SA and a network of its own: what one more costs to set up,
//! what memory it takes, and whether a packet costs the same however many there are. On the engine here; on the kernel's ESP in
//! a guest, where that is asked for.

pub mod guest;
mod population;

use std::env;
use std::time::Duration;

use anyhow::{Result, ensure};

use self::population::Population;
use super::xfrm::in_guest;
use crate::perf::report::{Better, Figure, OURS};
use crate::perf::session::Session;

/// As the report has them: here, and in a guest.
const SCENARIO: &str = "peers";
const SCENARIO_IN_GUEST: &str = "peers-xfrm";
/// Everybody connects, how the centre stands, and everybody's packets.
const CONNECT: &str = "1000 peers connect, a connection and a network each";
const LOOK: &str = "1000 connections, by how many are connected";
const PACKETS: &str = "packets of 92 bytes by the number of SAs, 64 questions under way";
/// As configurations have it.
const KERNEL: &str = "kernel";
/// Name of the lab.
const LAB: &str = "perfmany";
/// How many are connected at once.
const COUNTS: [u32; 4] = [1, 10, 100, 1000];
/// The last of them to connect, by whom it is seen whether one among many costs more.
const LAST: u32 = 100;
/// Gateways that are started, one after the other, in a quick run and in a full one.
const ROUNDS: [usize; 2] = [1, 3];
/// How long traffic is looked at, with each number of peers on the way up and once more on the way down.
const SAMPLE: Duration = Duration::from_millis(300);
/// How often in a row, in a quick run and in a full one.
const SAMPLES: [usize; 2] = [1, 2];
/// Seconds for all of it in a guest, the boot included: a guest that hangs ends.
const LIMIT: u64 = 540;

/// Measures the engine.
///
/// # Errors
/// None: what fails is a failure in the report.
pub fn run(session: &mut Session) -> Result<()> {
    let [few, many] = ROUNDS;
    for round in 0..if session.is_quick() { few } else { many } {
        session.progress(format_args!("round {}: {} peers, engine", round + 1, COUNTS[COUNTS.len() - 1]));
        if let Err(error) = measure(session, SCENARIO, "engine") {
            session.failed("a thousand peers", format_args!("{error:#}"));
        }
    }
    Ok(())
}

/// Measures the kernel's ESP, in a guest.
///
/// # Errors
/// When the guest does not start, or breaks off before anything was measured.
pub fn run_in_guest(session: &mut Session) -> Result<()> {
    let Some(starter) = env::var_os(super::xfrm::GUEST).filter(|path| !path.is_empty()) else {
        session.skip(
            "a thousand peers",
            "there is no guest to measure in; `cargo xtask perf` brings one where it can",
        );
        return Ok(());
    };
    session.progress("starting a guest");
    let found = in_guest(session, &starter, SCENARIO_IN_GUEST, LIMIT)?;
    ensure!(!found.series.is_empty(), "the guest has measured nothing; its output stands above");
    session.adopt(found);
    Ok(())
}

/// One gateway: more and more peers, traffic with each number, and the same on the way back, so that what else the machine does
/// falls on all alike.
fn measure(session: &mut Session, scenario: &'static str, datapath: &'static str) -> Result<()> {
    let most = COUNTS.iter().copied().max().unwrap_or_default();
    let mut population = Population::start(LAB, datapath, most)?;
    let milliseconds = |name| figure(scenario, LOOK, name, "ms", Better::Lower);
    session.record(&milliseconds("CPU time of the start"), population.started().as_secs_f64() * 1e3);
    let before = population.memory()?;
    let (mut time, mut lost) = (Duration::ZERO, 0);
    for count in COUNTS {
        // The last of many by themselves: what is theirs alone is what the others cost them.
        let steps = if count == most { vec![count - LAST, count] } else { vec![count] };
        for step in steps {
            let grown = population.grow_to(step)?;
            time += grown.time;
            if step >= LAST {
                let at = Some(f64::from(step));
                let (name, unit) = ("CPU time of one of the last to connect", "µs");
                let figure = Figure { at, ..figure(scenario, CONNECT, name, unit, Better::Lower) };
                session.record(&figure, grown.each);
            }
        }
        session.progress(format_args!("{count} connected"));
        lost += traffic(session, scenario, datapath, &mut population)?;
    }
    let connected = population.connected()?;
    ensure!(connected == most as usize, "{connected} are connected by the centre's own count");
    let after = population.memory()?;
    let each = |before: u64, after: u64| after.saturating_sub(before) as f64 / f64::from(most);
    let up = figure(scenario, CONNECT, "all up after", "s", Better::Lower);
    session.record(&up, time.as_secs_f64());
    let memory = figure(scenario, CONNECT, "memory each", "bytes", Better::Lower);
    session.record(&memory, each(before.resident, after.resident));
    if datapath == KERNEL {
        let memory = figure(scenario, CONNECT, "memory of the kernel each", "bytes", Better::Lower);
        session.record(&memory, each(before.kernel, after.kernel));
    }
    for count in COUNTS.into_iter().rev() {
        population.shrink_to(count)?;
        // Not on the way up: what it takes for a moment would be told as what peers take.
        let looked = population.look()?;
        for (name, time) in [("CPU time of a status", looked.status), ("CPU time of a scrape", looked.scrape)]
        {
            let figure = Figure { at: Some(f64::from(count)), ..milliseconds(name) };
            session.record(&figure, time.as_secs_f64() * 1e3);
        }
        lost += traffic(session, scenario, datapath, &mut population)?;
    }
    let how = format!("{most} peers, each with its own host; {lost} lost in all, none came to another");
    match lost {
        0 => session.proved("every question is answered, by whom it was meant for", how),
        _ => session.failed("every question is answered", how),
    }
    Ok(())
}

/// Traffic of all that are connected; how many questions were lost.
fn traffic(
    session: &mut Session,
    scenario: &'static str,
    datapath: &str,
    population: &mut Population,
) -> Result<u64> {
    let mut lost = 0;
    for _ in 0..SAMPLES[usize::from(!session.is_quick())] {
        let sample = population.sample(SAMPLE)?;
        let at = Some(population.size() as f64);
        let mut record = |name, unit, better, value| {
            session.record(&Figure { at, ..figure(scenario, PACKETS, name, unit, better) }, value);
        };
        // The kernel's ESP is nobody's process: what the daemon takes there it takes beside the packets.
        let gateway = match datapath {
            KERNEL => "CPU time of the daemon beside a packet",
            _ => "CPU time of the gateway a packet",
        };
        record(gateway, "ns", Better::Lower, sample.daemon);
        record("CPU time of all a packet", "ns", Better::Lower, sample.everybody);
        record("answered", "1/s", Better::Higher, sample.rate);
        lost += sample.lost;
    }
    Ok(lost)
}

fn figure<'a>(scenario: &'a str, case: &'a str, name: &'a str, unit: &'a str, better: Better) -> Figure<'a> {
    Figure { scenario, case, contender: OURS, name, unit, better, at: None }
}
