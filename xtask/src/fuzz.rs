//! `cargo xtask fuzz`: the fuzz targets of tests/fuzz, for so many seconds each.
//!
//! What is found on the way stays outside git: grown corpora and crashes below target/fuzz. What a target begins with
//! is in tests/fuzz/seeds. The crate is a workspace of its own, built by cargo-fuzz with the pinned compiler.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    crates::CargoFuzz,
    ebpf_build::target_dir,
    process::{self, Ending},
    setup,
    tally::{Counts, Tally},
};

/// The crate's folder in the workspace.
const CRATE: &str = "tests/fuzz";
/// Seconds for each target, unless told otherwise.
pub(crate) const SECONDS: u64 = 30;
/// What a target may take beyond its time: reading a grown corpus.
const SLACK: Duration = Duration::from_secs(120);
/// Seconds for one input: a parser that takes this long for one can be kept busy by a few.
const INPUT_SECONDS: u32 = 10;
/// Most bytes of an input: every limit of the parsers but the longest datagrams is below.
const INPUT_BYTES: u32 = 16 * 1024;
/// Megabytes of the whole process: the fuzzer's own tables take about a third.
const MEGABYTES: u32 = 1024;

/// Where a target's files are.
struct Place {
    target: String,
    program: PathBuf,
    seeds: PathBuf,
    corpus: PathBuf,
    crashes: PathBuf,
}

/// Prints the targets, each with what it is about: its documentation up to the first stop.
pub(crate) fn list(root: &Path) -> Result<()> {
    for target in targets(root)? {
        let source = root.join(CRATE).join("fuzz_targets").join(format!("{target}.rs"));
        let source = fs::read_to_string(&source).with_context(|| format!("reading {}", source.display()))?;
        let about = source.trim_start_matches("//! ").split([':', '.']).next().unwrap_or_default();
        println!("{target:<14} {about}");
    }
    Ok(())
}

/// Formatting and clippy of the crate, which the workspace's own don't see.
pub(crate) fn check(root: &Path, tally: &mut Tally) -> Result<()> {
    let start = Instant::now();
    let (mut counts, mut notes) = (Counts::default(), Vec::new());
    let manifest = root.join(CRATE).join("Cargo.toml");
    let mut fmt = process::cargo();
    fmt.args(["fmt", "--check", "--manifest-path"]).arg(&manifest);
    let mut clippy = process::cargo();
    clippy.args(["clippy", "--locked", "--all-targets", "--manifest-path"]).arg(&manifest);
    clippy.arg("--target-dir").arg(folder(root).join("check")).args(["--", "--deny", "warnings"]);
    for (name, command) in [("formatting", &mut fmt), ("clippy", &mut clippy)] {
        match process::run(command) {
            Ok(()) => counts.passed += 1,
            Err(error) => {
                counts.failed += 1;
                notes.push(format!("{name} failed: {error:#}"));
            }
        }
    }
    tally.record("fuzz lint", start, counts, notes);
    Ok(())
}

/// Runs the named targets, or all, for so many seconds each.
pub(crate) fn run(root: &Path, named: &[String], seconds: u64, tally: &mut Tally) -> Result<()> {
    let known = targets(root)?;
    if let Some(unknown) = named.iter().find(|name| !known.contains(*name)) {
        let known: Vec<_> = known.iter().map(String::as_str).collect();
        bail!("there is no fuzz target {unknown}; there are {}", known.join(", "));
    }
    setup::bring(&CargoFuzz)?;
    let start = Instant::now();
    if let Err(error) = build(root) {
        let counts = Counts { failed: 1, ..Counts::default() };
        tally.record("fuzz", start, counts, vec![format!("{error:#}")]);
        return Ok(());
    }
    let (mut counts, mut notes) = (Counts::default(), Vec::new());
    for target in known.into_iter().filter(|target| named.is_empty() || named.contains(target)) {
        if process::interrupted() {
            counts.failed += 1;
            notes.push("interrupted".to_owned());
            break;
        }
        match one(&Place::new(root, target), seconds)? {
            None => counts.passed += 1,
            Some(failure) => {
                counts.failed += 1;
                notes.push(failure);
            }
        }
    }
    tally.record("fuzz", start, counts, notes);
    Ok(())
}

/// One file is one target.
fn targets(root: &Path) -> Result<BTreeSet<String>> {
    let sources = root.join(CRATE).join("fuzz_targets");
    let mut targets = BTreeSet::new();
    for entry in fs::read_dir(&sources).with_context(|| format!("reading {}", sources.display()))? {
        let path = entry.with_context(|| format!("reading {}", sources.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            targets.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    Ok(targets)
}

fn folder(root: &Path) -> PathBuf {
    target_dir(root).join("fuzz")
}

/// Every target at once, as they share all but their last file.
fn build(root: &Path) -> Result<()> {
    let mut fuzz = Command::new(CargoFuzz::program());
    fuzz.args(["fuzz", "build", "--fuzz-dir"]).arg(root.join(CRATE));
    fuzz.arg("--target-dir").arg(folder(root).join("build")).args(["--target", &triple()]);
    // The parsers have no unsafe code for an address sanitizer to watch, and run twice as often without it. Coverage
    // alone is stable, so that the pinned compiler does as it is.
    fuzz.args(["--sanitizer", "none"]);
    process::run(&mut fuzz)
}

/// cargo-fuzz builds for a named target.
fn triple() -> String {
    format!("{}-unknown-linux-gnu", env::consts::ARCH)
}

impl Place {
    fn new(root: &Path, target: String) -> Self {
        let folder = folder(root);
        Self {
            program: folder.join("build").join(triple()).join("release").join(&target),
            seeds: root.join(CRATE).join("seeds").join(&target),
            corpus: folder.join("corpus").join(&target),
            crashes: folder.join("crashes").join(&target),
            target,
        }
    }

    /// The fuzzer with what holds for every run, one input's included.
    fn fuzzer(&self) -> Command {
        let mut fuzzer = Command::new(&self.program);
        fuzzer.arg(format!("-timeout={INPUT_SECONDS}")).arg(format!("-rss_limit_mb={MEGABYTES}"));
        fuzzer
    }

    fn crashes(&self) -> Result<BTreeSet<PathBuf>> {
        let entries =
            fs::read_dir(&self.crashes).with_context(|| format!("reading {}", self.crashes.display()))?;
        entries.map(|entry| Ok(entry?.path())).collect()
    }
}

/// Fuzzes one target; says what is wrong, if anything is.
fn one(place: &Place, seconds: u64) -> Result<Option<String>> {
    for folder in [&place.corpus, &place.crashes] {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    let before = place.crashes()?;
    let mut fuzzer = place.fuzzer();
    fuzzer.arg(format!("-max_total_time={seconds}")).arg(format!("-max_len={INPUT_BYTES}"));
    fuzzer.arg(format!("-artifact_prefix={}/", place.crashes.display()));
    fuzzer.args(["-print_final_stats=1", "-verbosity=0"]);
    // What is found goes into the first folder; the others are only read.
    fuzzer.arg(&place.corpus);
    if place.seeds.is_dir() {
        fuzzer.arg(&place.seeds);
    }
    println!("\n-- {} --", place.target);
    let ending = process::run_watched(&mut fuzzer, Duration::from_secs(seconds) + SLACK, |_| {})?;
    let failure = match ending {
        Ending::Exited(status) if status.success() => return Ok(None),
        Ending::Exited(_) if process::interrupted() => "interrupted".to_owned(),
        Ending::Exited(status) => status.to_string(),
        Ending::TimedOut => format!("not done after {seconds} seconds"),
    };
    let mut lines = vec![format!("{}: {failure}", place.target)];
    for crash in place.crashes()?.difference(&before) {
        lines.push(format!("  reproduce: {} {}", place.program.display(), crash.display()));
    }
    Ok(Some(lines.join("\n")))
}
