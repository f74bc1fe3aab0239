//! `cargo xtask lint`: formatting, clippy, and the dependencies' licences, bans, sources and advisories.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    crates::CargoDeny,
    process::{self, Ending},
    tally::{Counts, Tally},
};

/// A machine without internet answers at once or not at all.
const ADVISORIES_DEADLINE: Duration = Duration::from_secs(60);

/// Runs every check, also past a failed one.
pub(crate) fn run(tally: &mut Tally) -> Result<()> {
    let start = Instant::now();
    let mut counts = Counts::default();
    let mut notes = Vec::new();
    let mut check = |name: &str, command: &mut Command| match process::run(command) {
        Ok(()) => counts.passed += 1,
        Err(error) => {
            counts.failed += 1;
            notes.push(format!("{name} failed: {error:#}"));
        }
    };

    check("formatting", process::cargo().args(["fmt", "--all", "--check"]));
    check(
        "clippy",
        process::cargo().args(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]),
    );
    check("licences, bans, sources", deny().args(["check", "licenses", "bans", "sources"]));
    if process::interrupted() {
        // Not to be taken for a machine without internet.
    } else if fetch_advisories()? {
        check("advisories", deny().args(["check", "--disable-fetch", "advisories"]));
    } else {
        counts.skipped += 1;
        notes.push(
            "ADVISORIES SKIPPED: the database of known vulnerabilities can't be fetched here, so nobody has \
             looked whether a dependency has one"
                .to_owned(),
        );
    }
    for note in &notes {
        println!("{note}");
    }
    tally.record("lint", start, counts, notes);
    Ok(())
}

fn deny() -> Command {
    let mut deny = Command::new(CargoDeny::program());
    deny.args(["--log-level", "warn", "--workspace"]);
    deny
}

/// True if the advisory database is here, and fresh.
fn fetch_advisories() -> Result<bool> {
    let ending = process::run_watched(deny().args(["fetch", "db"]), ADVISORIES_DEADLINE, |_| {})?;
    Ok(matches!(ending, Ending::Exited(status) if status.success()))
}
