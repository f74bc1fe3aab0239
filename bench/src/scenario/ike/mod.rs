//! Handshakes: many tunnels at once, at a fixed rate, from many addresses; all keys renewed; honest ones under a flood: ours
//! beside charon with the same proposals.

mod answering;
mod bring_up;
mod flooded;
mod offered;

use anyhow::{Context, Result};

use self::bring_up::{Credentials, SETUPS};
use crate::contender::Contender;
use crate::perf::report::{Better, Figure};
use crate::perf::session::Session;

/// As the report has it.
const SCENARIO: &str = "ike";
/// Tunnels that are brought up at once in a quick run.
const FEW: u32 = 50;
/// Enough for a ratio: each takes seconds.
const ROUNDS: usize = 3;
/// Who answers.
const ANSWERING: [Contender; 2] = [Contender::Sekisho, Contender::StrongSwan];

/// Measures every setup in turn.
///
/// # Errors
/// When credentials cannot be made. What a contender fails at is its own failure in the report.
pub fn run(session: &mut Session) -> Result<()> {
    let mut able = Vec::new();
    for contender in ANSWERING {
        match contender.version() {
            Ok(version) => {
                session.version(contender.name(), version);
                able.push(contender);
            }
            Err(error) => session.skip(contender.name(), format_args!("{error:#}")),
        }
    }
    let mut setups = SETUPS.to_vec();
    if session.is_quick() {
        setups.retain(|setup| setup.is_usual());
        session.skip("other credentials, many tunnels", "only in a full run");
    }
    let dir = tempfile::tempdir().context("a folder for credentials")?;
    for setup in setups {
        let count = if session.is_quick() { FEW } else { setup.tunnels };
        let case = format!("{count} tunnels at once, {}", setup.title);
        session.progress(format_args!("credentials for {case}"));
        let credentials = Credentials::make(setup, count, dir.path())?;
        for (round, contender) in Session::turns_in(ROUNDS, &able) {
            session.progress(format_args!("round {}: {case}, {} answers", round + 1, contender.name()));
            let figures = match bring_up::measure(contender, setup, &credentials, count) {
                Ok(figures) => figures,
                Err(error) => {
                    session.failed(format_args!("{case}, {}", contender.name()), format_args!("{error:#}"));
                    continue;
                }
            };
            let mut record = |name, unit, better, value| {
                let contender = contender.name();
                let figure =
                    Figure { scenario: SCENARIO, case: &case, contender, name, unit, better, at: None };
                session.record(&figure, value);
            };
            record("handshakes a core", "1/s", Better::Higher, 1e6 / figures.cpu);
            record("CPU time each", "µs", Better::Lower, figures.cpu);
            record("asymmetric operations each", "µs", Better::Neither, figures.bare);
            record("all up after", "s", Better::Lower, figures.seconds);
            record("memory each", "bytes", Better::Lower, figures.memory);
        }
    }
    offered::run(session, &able);
    flooded::run(session, &able)
}
