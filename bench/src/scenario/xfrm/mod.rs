//! The kernel's ESP: our data path `kernel` beside strongSwan on XFRM with nftables, in a virtual machine, for not every
//! kernel that this suite runs on has ESP. Where the processor cannot run guests itself one is emulated, and the report tells
//! ratios alone. What traffic notices of a gateway's life is measured there as well, and told with `life`.

pub mod guest;
mod rules;

use std::env;
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use sekisho_tests::gateway::settings::DATAPATH;
use sekisho_tests::lab::patience::STRETCH;

use crate::contender::Contender;
use crate::forwarder::nftables;
use crate::perf::report::{Remark, Report};
use crate::perf::session::Session;

/// As the report has it.
const SCENARIO: &str = "xfrm";
/// What brings a guest: the program `xtask`, which says so where it can.
pub(super) const GUEST: &str = "SEKISHO_GUEST";
/// Whose kernel: the newer one, on which ESP is twice as fast as on the older one.
const KERNEL: &str = "6.12";
/// Seconds for all of it, the boot included: a guest that hangs ends.
const LIMIT: u64 = 230;
/// How many times as long everything may take in a guest that is emulated.
const PATIENCE: &str = "4";
/// Begins the line with the guest's report.
const MARK: &str = "sekisho-perf-report ";

/// Measures.
///
/// # Errors
/// When the guest does not start, or breaks off before anything was measured.
pub fn run(session: &mut Session) -> Result<()> {
    const WHAT: &str = "the kernel's ESP, against strongSwan on it with nftables";
    if session.is_quick() && !session.is_asked_for() {
        session.skip(WHAT, "a guest takes its time: only in a full run, or with `--scenario xfrm`");
        return Ok(());
    }
    let Some(starter) = env::var_os(GUEST).filter(|path| !path.is_empty()) else {
        session.skip(WHAT, "there is no guest to measure in; `cargo xtask perf` brings one where it can");
        return Ok(());
    };
    // The guest has this machine's files: the same programs.
    for contender in [Contender::Sekisho, Contender::StrongSwan] {
        session.version(contender.name(), contender.version()?);
    }
    session.version("nftables", nftables::version()?);
    session.progress("starting a guest");
    let found = in_guest(session, &starter, SCENARIO, LIMIT)?;
    ensure!(!found.series.is_empty(), "the guest has measured nothing; its output stands above");
    session.adopt(found);
    Ok(())
}

/// One part of this program, for at most so many seconds, in a guest: its last report.
pub(super) fn in_guest(session: &Session, starter: &OsStr, part: &str, limit: u64) -> Result<Report> {
    let this = env::current_exe().context("finding this program")?;
    let mut command = Command::new(starter);
    command.args(["vm", "--kernel", KERNEL, "--timeout", &limit.to_string(), "--"]).arg(this);
    if session.is_quick() {
        command.arg("--quick");
    }
    command.args(["guest", part]).env(DATAPATH, "kernel").env(STRETCH, PATIENCE);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", starter.display()))?;
    let output = child.stdout.take().context("a guest without output")?;
    let mut last = None;
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("reading what the guest says")?;
        let line = String::from_utf8_lossy(&line);
        match report_in(&line) {
            Some(report) => last = Some(report),
            None => println!("  guest: {}", line.trim_end()),
        }
    }
    let status = child.wait().context("waiting for the guest")?;
    let mut report: Report =
        last.with_context(|| format!("the guest has ended without a report ({status})"))??;
    // What it had is good, and the reader is told why there is no more.
    if !status.success() {
        report.failed.push(Remark {
            scenario: part.into(),
            what: "the guest".into(),
            why: format!("it did not end well: {status}"),
        });
    }
    Ok(report)
}

fn report_in(line: &str) -> Option<Result<Report>> {
    let json = line.trim_end().strip_prefix(MARK)?;
    Some(serde_json::from_str(json).context("what the guest has reported"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::perf::machine::Machine;

    #[test]
    fn a_report_is_one_line_among_others() {
        let report = Report::new(Machine::default(), false, "2026-01-01T00:00:00Z".into());
        let line = guest::line(&report).expect("JSON");
        assert!(!line.contains('\n'));
        let read = report_in(&format!("{line}\r")).expect("one").expect("whole");
        assert_eq!(read, report);
        assert!(report_in("round 1").is_none());
        assert!(report_in("sekisho-perf-report {").expect("one").is_err());
    }
}
