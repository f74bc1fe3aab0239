//! `cargo xtask test`: setup, lint, then the suites, each with its counts in one table.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::{
    ebpf_build::{self, target_dir},
    fuzz,
    leftovers::Leftovers,
    lint,
    page::Matrix,
    process::{self, Ending},
    setup::{self, Purpose},
    tally::{Counts, Tally, closing_line},
    vm::{self, Kernel},
};

/// What can be run by name; without a name all of them run, in this order, but kernels and xfrm only where all is asked
/// for.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// Formatting, clippy, dependencies
    Lint,
    /// Every crate's own tests, which need no privileges
    Unit,
    /// The programs in this kernel: verifier, and packet in, verdict and packet out
    Ebpf,
    /// The same programs in other kernels, in virtual machines: 6.1, 6.12 and the newest of Debian's backports
    Kernels,
    /// Whole gateways on the kernel's own ESP, in a virtual machine: with each other, and with strongSwan
    Xfrm,
    /// Whole gateways in a network of namespaces
    E2e,
    /// Every algorithm, outside and peer, on the data path that this kernel has
    Datapath,
    /// Against strongSwan
    Interop,
    /// Every fuzz target for half a minute, and their own lint
    Fuzz,
}

/// The package that holds the suites which need root.
const TESTS: &str = "sekisho-tests";
/// A suite that takes longer, its build included, hangs.
const DEADLINE: Duration = Duration::from_secs(30 * 60);
/// The same for a suite in a guest, which is slow.
const GUEST_DEADLINE: Duration = Duration::from_secs(20 * 60);
/// Of the end-to-end suite, what the data path has to do with.
const XFRM_GROUPS: [&str; 14] = [
    "shown::",
    "negotiation::",
    "auto::",
    "foreign::",
    "clear::",
    "counters::",
    "offload::",
    "mobility::",
    // And so `reload::`.
    "load::",
    "pmtu::",
    "pools::",
    "resources::",
    "sixteen::",
    "hundreds::",
];
/// Of them, what newer kernels have more of.
const NEWEST_GROUPS: [&str; 2] = ["resources::", "offload::"];
/// As shells say "ended by SIGINT".
const INTERRUPTED: u8 = 130;

/// How much of the suites runs.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    /// Also what takes long.
    pub(crate) slow_too: bool,
    /// docs/interop.md is made of the run.
    pub(crate) write_page: bool,
}

/// Runs the named suites, or all.
pub(crate) fn run(root: &Path, named: &[Suite], extent: Extent) -> Result<ExitCode> {
    let slow_too = extent.slow_too;
    let wanted = |suite: &Suite| match named {
        [] => !matches!(suite, Suite::Kernels | Suite::Xfrm | Suite::Fuzz) || slow_too,
        named => named.contains(suite),
    };
    let chosen: Vec<Suite> = Suite::value_variants().iter().copied().filter(wanted).collect();
    setup::ensure(Purpose::Everything, false)?;
    let in_lab = chosen.iter().any(|suite| suite.in_lab());
    if in_lab {
        process::authenticate()?;
    }
    let mut tally = Tally::default();
    {
        let guard = SweepAtEnd { leftovers: Leftovers::note()?, wanted: in_lab };
        run_each(root, &chosen, extent, &guard.leftovers, &mut tally)?;
    }
    let code = tally.conclude();
    Ok(if process::interrupted() { ExitCode::from(INTERRUPTED) } else { code })
}

/// Nothing may stay behind: not after a failure, an interrupt, or a terminal that went away.
struct SweepAtEnd {
    leftovers: Leftovers,
    wanted: bool,
}

impl Drop for SweepAtEnd {
    fn drop(&mut self) {
        if self.wanted {
            report(self.leftovers.sweep());
        }
    }
}

fn run_each(
    root: &Path,
    chosen: &[Suite],
    extent: Extent,
    leftovers: &Leftovers,
    tally: &mut Tally,
) -> Result<()> {
    let mut products = None;
    for suite in chosen {
        if process::interrupted() {
            break;
        }
        println!("\n== {} ==", suite.name());
        match suite {
            Suite::Lint => lint::run(tally)?,
            Suite::Unit => unit(root, extent.slow_too, tally)?,
            Suite::Fuzz => {
                fuzz::check(root, tally)?;
                fuzz::run(root, &[], fuzz::SECONDS, tally)?;
            }
            Suite::Ebpf | Suite::Kernels | Suite::Xfrm | Suite::E2e | Suite::Datapath | Suite::Interop => {
                let start = Instant::now();
                // Built once, and only if a suite wants it.
                let built = products.get_or_insert_with(|| Products::build(root));
                match built {
                    Ok(products) if *suite == Suite::Kernels => kernels(root, products, tally)?,
                    Ok(products) if *suite == Suite::Xfrm => xfrm(root, extent, products, tally)?,
                    Ok(products) => lab(root, *suite, extent, products, tally)?,
                    Err(error) => {
                        let counts = Counts { failed: 1, ..Counts::default() };
                        tally.record(suite.name(), start, counts, vec![format!("{error:#}")]);
                    }
                }
                report(leftovers.sweep());
            }
        }
    }
    Ok(())
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Self::Lint => "lint",
            Self::Unit => "unit",
            Self::Ebpf => "ebpf",
            Self::Kernels => "kernels",
            Self::Xfrm => "xfrm",
            Self::E2e => "e2e",
            Self::Datapath => "datapath",
            Self::Interop => "interop",
            Self::Fuzz => "fuzz",
        }
    }

    fn in_lab(self) -> bool {
        matches!(self, Self::Ebpf | Self::E2e | Self::Datapath | Self::Interop)
    }
}

/// What the lab's suites test.
struct Products {
    object: PathBuf,
    programs: PathBuf,
}

impl Products {
    fn build(root: &Path) -> Result<Self> {
        let object = ebpf_build::build(root)?;
        process::run(process::cargo().args(["build", "--workspace", "--bins"]))?;
        Ok(Self { object, programs: target_dir(root).join("debug") })
    }
}

/// The crates' own tests, and the examples in their documentation.
///
/// Every suite names the whole workspace and then picks what it runs: with other packages chosen, cargo would choose other
/// features for the libraries, and build most of them anew for each suite.
fn unit(root: &Path, slow_too: bool, tally: &mut Tally) -> Result<()> {
    let mut cargo = process::cargo();
    if slow_too {
        // The IKE engine's random schedules: minutes instead of seconds.
        cargo.env("SEKISHO_SCHEDULES", "20000");
    }
    if process::have("cargo-nextest") {
        cargo.args(["nextest", "run", "--no-fail-fast", "--workspace"]);
        cargo.args(["--filterset", &format!("not (package({TESTS}) & kind(test))")]);
        if slow_too {
            cargo.args(["--run-ignored", "all"]);
        }
        suite(root, "unit", &mut cargo, tally)?;
        // The one kind of test that nextest doesn't run.
        let mut cargo = process::cargo();
        cargo.args(["test", "--doc", "--no-fail-fast", "--workspace"]);
        return suite_or_nothing(root, "doc", &mut cargo, tally);
    }
    cargo.args(["test", "--no-fail-fast", "--workspace", "--exclude", TESTS]);
    if slow_too {
        cargo.args(["--", "--include-ignored"]);
    }
    suite(root, "unit", &mut cargo, tally)
}

/// One test target of the tests' package, as root, one test at a time: they share the machine's network and maps.
fn lab(root: &Path, which: Suite, extent: Extent, products: &Products, tally: &mut Tally) -> Result<()> {
    let mut cargo = process::cargo();
    cargo.args(["test", "--no-fail-fast", "--workspace", "--test", which.name()]);
    if !process::is_root() {
        // The build stays ours; only what was built runs as root.
        cargo.args(["--config", r#"target."cfg(unix)".runner = ["sudo", "--preserve-env", "--"]"#]);
    }
    let write_page = which == Suite::Interop && extent.write_page;
    cargo.args(["--", "--test-threads=1"]);
    if extent.slow_too || write_page {
        cargo.arg("--include-ignored");
    }
    if write_page {
        cargo.env("SEKISHO_INTEROP_WRITE", "1");
    }
    cargo.env("SEKISHO_BIN_DIR", &products.programs);
    cargo.env("SEKISHO_EBPF_OBJECT", &products.object);
    if which == Suite::Datapath {
        cargo.env("SEKISHO_DATAPATH", "engine");
        return with_matrix(root, which.name(), &mut cargo, extent, tally);
    }
    suite(root, which.name(), &mut cargo, tally)
}

/// A suite that prints a matrix, which is the one on its page unless this run writes it there.
fn with_matrix(
    root: &Path,
    name: &str,
    cargo: &mut Command,
    extent: Extent,
    tally: &mut Tally,
) -> Result<()> {
    let start = Instant::now();
    let matrix = Mutex::new(Matrix::default());
    let hear = |line: &str| matrix.lock().unwrap_or_else(PoisonError::into_inner).hear(line);
    let (mut counts, mut notes) = count(root, name, cargo, hear)?;
    let matrix = matrix.into_inner().unwrap_or_else(PoisonError::into_inner);
    let is_whole = counts.failed == 0 && matrix.is_whole();
    if extent.write_page && is_whole {
        matrix.write(root)?;
    } else if !is_whole || !matrix.is_on_page(root)? {
        counts.failed += 1;
        notes.push("the matrix is not the one on its page: `cargo xtask test datapath xfrm --write`".into());
    }
    tally.record(name, start, counts, notes);
    Ok(())
}

/// The eBPF suite once more in each guest kernel, but for what a guest can tell nothing of: costs, and races that it
/// would take too long to wait for.
fn kernels(root: &Path, products: &Products, tally: &mut Tally) -> Result<()> {
    let us = process::ourselves()?;
    for kernel in Kernel::value_variants() {
        let seconds = GUEST_DEADLINE.as_secs();
        let runner = format!(
            r#"target."cfg(unix)".runner = ["{}", "vm", "--kernel", "{}", "--timeout", "{seconds}", "--"]"#,
            us.display(),
            kernel.name()
        );
        let mut cargo = process::cargo();
        cargo.args(["test", "--workspace", "--test", Suite::Ebpf.name(), "--config", &runner]);
        cargo.args(["--", "--test-threads=1", "--skip", "cost", "--skip", "races"]);
        cargo.env("SEKISHO_EBPF_OBJECT", &products.object);
        suite(root, &format!("linux-{}", kernel.name()), &mut cargo, tally)?;
    }
    Ok(())
}

/// The gateways' suites once more on the kernel's ESP: what does not wait for long, since a guest is slow.
fn xfrm(root: &Path, extent: Extent, products: &Products, tally: &mut Tally) -> Result<()> {
    let us = process::ourselves()?;
    // One pattern each, for no more is understood.
    let groups = XFRM_GROUPS.iter().map(|group| (Kernel::V6_12, Suite::E2e, Some(*group)));
    let newest = NEWEST_GROUPS.iter().map(|group| (Kernel::Newest, Suite::E2e, Some(*group)));
    for (kernel, target, chosen) in groups.chain([(Kernel::V6_12, Suite::Datapath, None)]).chain(newest) {
        let seconds = GUEST_DEADLINE.as_secs();
        let runner = format!(
            r#"target."cfg(unix)".runner = ["{}", "vm", "--kernel", "{}", "--timeout", "{seconds}", "--"]"#,
            us.display(),
            kernel.name()
        );
        let mut cargo = process::cargo();
        cargo.args(["test", "--workspace", "--test", target.name(), "--config", &runner]);
        cargo.args(["--", "--test-threads=1"]).args(chosen);
        cargo.env("SEKISHO_BIN_DIR", &products.programs);
        cargo.env("SEKISHO_EBPF_OBJECT", &products.object);
        cargo.env("SEKISHO_DATAPATH", "kernel");
        cargo.env("SEKISHO_PATIENCE", vm::patience());
        let part = chosen.map_or(target.name(), |pattern| pattern.trim_end_matches(':'));
        let name = match kernel {
            Kernel::Newest => format!("xfrm-{part}-{}", kernel.name()),
            _ => format!("xfrm-{part}"),
        };
        match target {
            Suite::Datapath => with_matrix(root, &name, &mut cargo, extent, tally)?,
            _ => suite(root, &name, &mut cargo, tally)?,
        }
    }
    Ok(())
}

/// Runs a command that runs tests, and records its counts. One that runs no test has failed.
fn suite(root: &Path, name: &str, cargo: &mut Command, tally: &mut Tally) -> Result<()> {
    let start = Instant::now();
    let (mut counts, mut notes) = count(root, name, cargo, |_| {})?;
    if counts == Counts::default() {
        counts.failed = 1;
        notes.push("ran no test".to_owned());
    }
    tally.record(name, start, counts, notes);
    Ok(())
}

/// The same for a kind of test there may be none of.
fn suite_or_nothing(root: &Path, name: &str, cargo: &mut Command, tally: &mut Tally) -> Result<()> {
    let start = Instant::now();
    let (counts, notes) = count(root, name, cargo, |_| {})?;
    if counts != Counts::default() {
        tally.record(name, start, counts, notes);
    }
    Ok(())
}

/// `hear` is told each line of the output.
fn count(
    root: &Path,
    name: &str,
    cargo: &mut Command,
    hear: impl Fn(&str) + Send + Sync,
) -> Result<(Counts, Vec<String>)> {
    // A test that finds, while it runs, that this machine can't run it adds a line here: "name: reason".
    let skips = target_dir(root).join(format!("skipped-{name}.txt"));
    remove_file(&skips)?;
    cargo.env("SEKISHO_SKIP_LOG", &skips);
    if io::IsTerminal::is_terminal(&io::stdout()) {
        cargo.env("CARGO_TERM_COLOR", "always");
    }
    let counts = Mutex::new(Counts::default());
    let ending = process::run_watched(cargo, DEADLINE, |line| {
        hear(line);
        if let Some(more) = closing_line(line) {
            counts.lock().unwrap_or_else(PoisonError::into_inner).add(more);
        }
    })?;
    let mut counts = counts.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut notes = Vec::new();
    for skip in fs::read_to_string(&skips).unwrap_or_default().lines() {
        counts.passed = counts.passed.saturating_sub(1);
        counts.skipped += 1;
        notes.push(format!("skipped {skip}"));
    }
    let failure = match ending {
        Ending::Exited(status) if status.success() => None,
        Ending::Exited(_) if process::interrupted() => Some("interrupted".to_owned()),
        Ending::Exited(status) => Some(status.to_string()),
        Ending::TimedOut => Some(format!("not done after {} minutes", DEADLINE.as_secs() / 60)),
    };
    if let Some(failure) = failure {
        // Also what fails without a failed test, like a build, counts.
        counts.failed = counts.failed.max(1);
        notes.push(failure);
    }
    Ok((counts, notes))
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            // Written by a test that ran as root, perhaps.
            let rm = [OsStr::new("-f"), path.as_os_str()];
            process::output(process::as_root("rm").args(rm)).map(drop).context(error)
        }
        _ => Ok(()),
    }
}

/// Cleaning up is told about, and its failing is no reason to lose the results.
fn report(swept: Result<Vec<String>>) {
    // A terminal that went away is one of the reasons to be here.
    let _ = match swept {
        Ok(removed) if removed.is_empty() => Ok(()),
        Ok(removed) => writeln!(io::stdout(), "removed namespaces left behind: {}", removed.join(" ")),
        Err(error) => writeln!(io::stderr(), "cleaning up: {error:#}"),
    };
}
