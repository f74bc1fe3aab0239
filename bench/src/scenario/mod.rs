//! What is measured. Each scenario can be run alone: `cargo xtask perf --scenario NAME`.

pub mod ike;

use anyhow::Result;

use crate::perf::session::Session;

/// One of them.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// As the command line has it.
    pub name: &'static str,
    /// What it measures, in a few words.
    pub about: &'static str,
    /// Measures.
    pub run: fn(&mut Session) -> Result<()>,
}

/// In the order in which they run.
pub const ALL: &[Scenario] = &[Scenario {
    name: "ike",
    about: "handshakes: time until many tunnels are up, CPU time and memory for each",
    run: ike::run,
}];
