//! `cargo xtask perf`: builds for release, and hands over to the program that measures.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use clap::Args;

use crate::{
    crates::Rival,
    demo::programs,
    ebpf_build::{self, target_dir},
    packages::DebianPackages,
    process,
    setup::{self, Part as _, Purpose},
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
    /// Write docs/performance.md and its plots: all scenarios run, and each must succeed. The page says whether it was in full
    #[arg(long, conflicts_with_all = ["scenario", "list"])]
    write: bool,
}

/// The page that `--write` makes, and the folder of its plots.
const PAGE: [&str; 2] = ["docs/performance.md", "docs/performance"];

/// Builds, measures and reports.
pub(crate) fn run(root: &Path, args: &PerfArgs) -> Result<()> {
    setup::ensure(Purpose::Lab, false)?;
    setup::bring(&DebianPackages::PERF)?;
    process::authenticate()?;
    // Together, so that libraries which both use are built once.
    let packages = ["--package", "sekisho", "--package", "sekisho-bench"];
    process::run(process::cargo().args(["build", "--release"]).args(packages).arg("--bins"))?;
    let programs = programs()?;
    let mut perf = process::as_root(programs.join(PERF));
    perf.env("SEKISHO_BIN_DIR", &programs);
    // A tree that was unpacked and not cloned has none.
    let mut git = Command::new("git");
    if let Ok(commit) = process::output(git.args(["describe", "--always", "--dirty"]).current_dir(root)) {
        perf.env("SEKISHO_COMMIT", commit.trim());
    }
    for rival in Rival::ALL {
        // One that can't be had is a skip that the report tells, and no reason to measure nothing.
        match setup::bring(&rival) {
            Ok(()) => drop(perf.env(rival.variable, rival.program())),
            Err(error) => eprintln!("perf: {} will not take part: {error:#}", rival.name()),
        }
    }
    // Built by whoever has the tool chain, which root may not.
    perf.env("SEKISHO_EBPF_OBJECT", ebpf_build::build(root)?);
    perf.env("SEKISHO_MEASURING_OBJECT", ebpf_build::build_measuring(root)?);
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
    let out = args.out.clone().unwrap_or_else(|| target_dir(root).join("perf"));
    perf.arg("--out").arg(&out);
    process::run_foreground(&mut perf)?;
    if args.write { write(&out, root) } else { Ok(()) }
}

/// Makes the page of a report.
fn write(out: &Path, root: &Path) -> Result<()> {
    let [page, folder] = PAGE.map(|place| root.join(place));
    let report = out.join("report.md");
    let text = fs::read_to_string(&report).with_context(|| format!("reading {}", report.display()))?;
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let plots = out.join("plots");
    for entry in fs::read_dir(&plots).with_context(|| format!("reading {}", plots.display()))? {
        let path = entry.with_context(|| format!("reading {}", plots.display()))?.path();
        let name = path.file_name().context("a plot without a name")?;
        fs::copy(&path, folder.join(name)).with_context(|| format!("copying {}", path.display()))?;
    }
    // The plots stand beside the page in a folder of its name.
    fs::write(&page, text.replace("](plots/", "](performance/"))
        .with_context(|| format!("writing {}", page.display()))?;
    println!("written: {}", page.display());
    Ok(())
}
