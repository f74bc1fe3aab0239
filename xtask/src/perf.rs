//! `cargo xtask perf`: builds for release, and hands over to the program that measures.

use std::{ffi::OsString, path::Path, process::Command};

use anyhow::{Context, Result};
use clap::Args;

use crate::{
    crates::Rival,
    demo::programs,
    ebpf_build::{self, target_dir, tools_dir},
    packages::DebianPackages,
    process,
    setup::{self, Part as _, Purpose},
    vm::{self, Kernel},
};

/// The measuring program, of package sekisho-bench.
const PERF: &str = "sekisho-perf";
/// The scenario that needs a guest, and so the download of its kernel.
const IN_GUEST: &str = "xfrm";

/// What is measured, and what becomes of it.
#[derive(Args)]
pub(crate) struct PerfArgs {
    /// As the measuring program takes them, which has its own `--help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTION")]
    options: Vec<OsString>,
}

impl PerfArgs {
    fn has(&self, words: &[&str]) -> bool {
        self.options.iter().any(|option| words.iter().any(|word| option == word))
    }

    /// Nothing is measured, only told.
    fn only_asks(&self) -> bool {
        self.has(&["--help", "-h", "--list", "--version", "-V"])
    }

    fn wants_guest(&self) -> bool {
        let named = |option: &OsString| option.to_string_lossy().starts_with("--scenario");
        let asked = self.options.iter().any(|option| option.to_string_lossy().ends_with(IN_GUEST));
        asked || !(self.has(&["--quick"]) || self.options.iter().any(named))
    }
}

/// Builds, measures and reports.
pub(crate) fn run(root: &Path, args: &PerfArgs) -> Result<()> {
    // Together, so that libraries which both use are built once.
    let packages = ["--package", "sekisho", "--package", "sekisho-bench"];
    let build = || process::run(process::cargo().args(["build", "--release"]).args(packages).arg("--bins"));
    if args.only_asks() {
        setup::ensure(Purpose::Build, false)?;
        build()?;
        return process::run_foreground(Command::new(programs()?.join(PERF)).args(&args.options));
    }
    setup::ensure(Purpose::Lab, false)?;
    setup::bring(&DebianPackages::PERF)?;
    process::authenticate()?;
    build()?;
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
    if args.wants_guest() {
        match vm::prepare(Kernel::V6_12) {
            // Brought by whoever owns the cache, and found there by root.
            Ok(()) => {
                perf.env("SEKISHO_GUEST", process::ourselves()?);
                perf.env("SEKISHO_CACHE", tools_dir().parent().context("tools without a cache")?);
            }
            Err(error) => eprintln!("perf: nothing will be measured in a guest: {error:#}"),
        }
    }
    // Built by whoever has the tool chain, which root may not.
    perf.env("SEKISHO_EBPF_OBJECT", ebpf_build::build(root)?);
    perf.env("SEKISHO_MEASURING_OBJECT", ebpf_build::build_measuring(root)?);
    // One that is said counts, for it comes later.
    perf.arg("--out").arg(target_dir(root).join("perf")).args(&args.options);
    process::run_foreground(&mut perf)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{Cli, Task};

    fn args(options: &[&str]) -> PerfArgs {
        PerfArgs { options: options.iter().map(OsString::from).collect() }
    }

    #[test]
    fn options_are_handed_on_untouched() {
        for options in [&["--quick", "--write"][..], &["--help"], &["--scenario", "ike", "--out", "x"], &[]] {
            let line = ["xtask", "perf"].iter().chain(options);
            let Task::Perf(parsed) = Cli::try_parse_from(line).expect("a command").command else {
                panic!("another task")
            };
            assert_eq!(parsed.options, options);
        }
    }

    #[test]
    fn a_guest_is_brought_where_it_is_measured_in() {
        assert!(args(&[]).wants_guest());
        assert!(args(&["--write"]).wants_guest());
        assert!(args(&["--quick", "--scenario", "xfrm"]).wants_guest());
        assert!(!args(&["--quick"]).wants_guest());
        assert!(args(&["--scenario=xfrm"]).wants_guest());
        assert!(!args(&["--scenario", "ike"]).wants_guest());
        assert!(!args(&["--scenario=ike"]).wants_guest());
    }

    #[test]
    fn questions_are_no_measurements() {
        assert!(args(&["--help"]).only_asks());
        assert!(args(&["--quick", "--list"]).only_asks());
        assert!(!args(&["--quick"]).only_asks());
    }
}
