//! `cargo xtask perf`: builds for release, and hands over to the program that measures.

use anyhow::Result;

use crate::{
    demo::programs,
    process,
    setup::{self, Purpose},
};

/// The measuring program, of package sekisho-bench.
const PERF: &str = "sekisho-perf";

/// Measures; the arguments are the program's own.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    setup::ensure(Purpose::Lab, false)?;
    process::authenticate()?;
    let packages = ["--package", "sekisho", "--package", "sekisho-bench"];
    process::run(process::cargo().args(["build", "--release"]).args(packages).arg("--bins"))?;
    let programs = programs()?;
    let mut perf = process::as_root(programs.join(PERF));
    perf.env("SEKISHO_BIN_DIR", &programs).args(arguments);
    process::run_foreground(&mut perf)
}
