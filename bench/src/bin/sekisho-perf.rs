//! `sekisho-perf`: measures real gateways in a lab of namespaces; `cargo xtask perf` calls it.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sekisho_bench::perf::bring_up;
use sekisho_tests::lab::require_root;

/// What Sekisho's gateways can do, measured.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
enum Scenario {
    /// Many tunnels at once: time until all are up, CPU time and memory for each.
    BringUp {
        /// How many.
        #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        tunnels: u32,
        /// How often.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: u32,
    },
}

fn main() -> ExitCode {
    let done = require_root().and_then(|()| match Arguments::parse().scenario {
        Scenario::BringUp { tunnels, rounds } => bring_up::run(tunnels, rounds),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sekisho-perf: {error:#}");
            ExitCode::FAILURE
        }
    }
}
