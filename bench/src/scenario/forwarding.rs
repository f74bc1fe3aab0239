//! What gateways forward in clear: ours, nftables with conntrack, the kernel without a filter, and a redirect that asks
//! nothing. All on one core, the generator and the sink included.

use std::time::Duration;

use anyhow::Result;
use sekisho_tests::lab::plan::Family;

use crate::forwarder::{Forwarder, Kind, Load, RULES, version};
use crate::generator::frame::Mix;
use crate::perf::report::{Better, Figure};
use crate::perf::session::Session;

const SCENARIO: &str = "forwarding";
/// Flows of a busy gateway.
const FLOWS: usize = 10_000;
/// New flows of one sample, in a quick run and in a full one: fewer than either table has room for by default.
const NEW_FLOWS: [usize; 2] = [10_000, 50_000];
/// Of the rate of a flood: well below what a gateway can do, so that what is lost is lost for another reason.
const PACE: f64 = 0.8;
/// Steady rates show in less than what other scenarios need.
const SAMPLE_PART: u32 = 4;
/// Rules of the policies.
const RULE_COUNTS: [u16; 3] = [RULES, 100, 1000];

fn loads(quick: bool) -> Vec<Load> {
    let load = |family, mix, flows| Load { family, mix, flows };
    if quick {
        return vec![load(Family::V4, Mix::Of(64), FLOWS), load(Family::V6, Mix::Imix, FLOWS)];
    }
    let mut all = Vec::new();
    for family in Family::BOTH {
        all.extend([Mix::Of(64), Mix::Imix, Mix::Of(1514)].map(|mix| load(family, mix, FLOWS)));
    }
    // One flow beside many shows what a miss in the caches costs, whatever the length.
    all.push(load(Family::V4, Mix::Of(64), 1));
    all
}

/// Measures.
///
/// # Errors
/// When a lab can't be laid.
pub fn run(session: &mut Session) -> Result<()> {
    session.version("nftables", version()?);
    let mut forwarders = Vec::new();
    for kind in Kind::ALL {
        session.progress(format_args!("setting up {}", kind.name()));
        forwarders.push(Forwarder::up(kind)?);
    }
    let sample = session.sample() / SAMPLE_PART;
    for load in loads(session.is_quick()) {
        forward(session, &mut forwarders, load, sample)?;
    }
    forwarders.retain(|forwarder| matches!(forwarder.kind(), Kind::Sekisho | Kind::Nftables));
    let families = if session.is_quick() { &[Family::V4][..] } else { &Family::BOTH };
    for rules in RULE_COUNTS {
        for forwarder in &mut forwarders {
            forwarder.rules(rules)?;
        }
        for family in families {
            by_rules(session, &mut forwarders, *family, rules, sample)?;
        }
    }
    Ok(())
}

/// Who is asked in which round.
fn turns(session: &Session, forwarders: &[Forwarder]) -> Vec<usize> {
    let all: Vec<usize> = (0..forwarders.len()).collect();
    session.turns(&all).into_iter().map(|(_, index)| index).collect()
}

fn figure<'a>(
    case: &'a str,
    kind: Kind,
    (name, unit, better): (&'a str, &'a str, Better),
    at: Option<f64>,
) -> Figure<'a> {
    Figure { scenario: SCENARIO, case, contender: kind.name(), name, unit, better, at }
}

const RATE: (&str, &str, Better) = ("rate", "Mpps", Better::Higher);
const CPU: (&str, &str, Better) = ("CPU time a packet", "ns", Better::Lower);
const LOST: (&str, &str, Better) = ("lost in a flood", "%", Better::Lower);
const LOST_PACED: (&str, &str, Better) = ("lost at 80 % of it, paced", "%", Better::Lower);
const NEW: (&str, &str, Better) = ("rate", "k/s", Better::Higher);
const NEW_CPU: (&str, &str, Better) = ("CPU time a new flow", "ns", Better::Lower);

fn forward(session: &mut Session, forwarders: &mut [Forwarder], load: Load, sample: Duration) -> Result<()> {
    let flows = if load.flows == 1 { "1 flow".to_owned() } else { format!("{} flows", load.flows) };
    let case = format!("{}, {}, {flows}", load.mix, load.family);
    session.progress(&case);
    let mut templates = Vec::new();
    for forwarder in forwarders.iter_mut() {
        templates.push(forwarder.establish(load)?);
    }
    for index in turns(session, forwarders) {
        let (forwarder, templates) = (&mut forwarders[index], templates[index]);
        let kind = forwarder.kind();
        let flood = forwarder.flood(templates, sample)?;
        session.record(&figure(&case, kind, RATE, None), flood.rate() / 1e6);
        session.record(&figure(&case, kind, CPU, None), flood.cpu_ns());
        session.record(&figure(&case, kind, LOST, None), flood.lost());
        let paced = forwarder.paced(templates, flood.rate() * PACE, sample / 2)?;
        session.record(&figure(&case, kind, LOST_PACED, None), paced.lost());
    }
    Ok(())
}

/// Known flows and new ones, by the number of rules.
fn by_rules(
    session: &mut Session,
    forwarders: &mut [Forwarder],
    family: Family,
    rules: u16,
    sample: Duration,
) -> Result<()> {
    let at = Some(f64::from(rules));
    let (known_case, new_case) =
        (format!("known flows by rules, {family}"), format!("new flows by rules, {family}"));
    session.progress(format_args!("{rules} rules, {family}"));
    let known = Load { family, mix: Mix::Of(64), flows: FLOWS };
    let new = Load { flows: NEW_FLOWS[usize::from(!session.is_quick())], ..known };
    for index in turns(session, forwarders) {
        let forwarder = &mut forwarders[index];
        let kind = forwarder.kind();
        let templates = forwarder.establish(known)?;
        let flood = forwarder.flood(templates, sample)?;
        session.record(&figure(&known_case, kind, RATE, at), flood.rate() / 1e6);
        session.record(&figure(&known_case, kind, CPU, at), flood.cpu_ns());
        let templates = forwarder.renew(new)?;
        let opened = forwarder.once(templates)?;
        session.record(&figure(&new_case, kind, NEW, at), opened.rate() / 1e3);
        session.record(&figure(&new_case, kind, NEW_CPU, at), opened.cpu_ns());
        session.record(&figure(&new_case, kind, LOST, at), opened.lost());
        forwarder.forget_flows()?;
    }
    Ok(())
}
