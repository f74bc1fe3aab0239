//! `cargo xtask perf`: builds for release, and hands over to the program that measures.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;

use crate::{
    demo::programs,
    ebpf_build::target_dir,
    process,
    setup::{self, Purpose},
};

/// The measuring program, of package sekisho-bench.
const PERF: &str = "sekisho-perf";

/// What is measured, and what becomes of it.
#[derive(Args)]
pub(crate) struct PerfArgs {
    /// All scenarios in less than 5 minutes: fewer rounds, shorter samples, fewer cases
    #[arg(long)]
    quick: bool,
    /// Only this one; may be given again. `--list` names them
    #[arg(long, value_name = "NAME")]
    scenario: Vec<String>,
    /// Compare with the report.json of an earlier run; fails if a figure has become worse
    #[arg(long, value_name = "BASE.json")]
    compare: Option<PathBuf>,
    /// Where report.json, report.md, report.html and the plots go
    ///
    /// target/perf if nothing is said.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only name the scenarios
    #[arg(long)]
    list: bool,
}

/// Builds, measures and reports.
pub(crate) fn run(root: &Path, args: &PerfArgs) -> Result<()> {
    setup::ensure(Purpose::Lab, false)?;
    process::authenticate()?;
    // Together, so that libraries which both use are built once.
    let packages = ["--package", "sekisho", "--package", "sekisho-bench"];
    process::run(process::cargo().args(["build", "--release"]).args(packages).arg("--bins"))?;
    let programs = programs()?;
    let mut perf = process::as_root(programs.join(PERF));
    perf.env("SEKISHO_BIN_DIR", &programs);
    if args.quick {
        perf.arg("--quick");
    }
    if args.list {
        perf.arg("--list");
    }
    for scenario in &args.scenario {
        perf.arg("--scenario").arg(scenario);
    }
    if let Some(base) = &args.compare {
        perf.arg("--compare").arg(base);
    }
    perf.arg("--out").arg(args.out.clone().unwrap_or_else(|| target_dir(root).join("perf")));
    process::run_foreground(&mut perf)
}
