//! `sekisho-perf`: measures real gateways in a lab of namespaces; `cargo xtask perf` calls it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use sekisho_bench::contender::relay;
use sekisho_bench::perf::compare::{Change, changes, regressions};
use sekisho_bench::perf::render::{self, page, table};
use sekisho_bench::perf::report::Report;
use sekisho_bench::perf::session::Session;
use sekisho_bench::scenario::{ALL, Scenario, peers, xfrm};
use sekisho_tests::lab::require_root;

/// What Sekisho and its peers can do, measured.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// All scenarios in less than 5 minutes: fewer rounds, shorter samples, fewer cases.
    #[arg(long)]
    quick: bool,
    /// Only this one; may be given again.
    #[arg(long, value_name = "NAME")]
    scenario: Vec<String>,
    /// Compare with the report.json of an earlier run; fails if a figure has become worse.
    #[arg(long, value_name = "BASE.json")]
    compare: Option<PathBuf>,
    /// Where report.json, report.md, report.html and the plots go.
    #[arg(long, value_name = "DIR", default_value = "target/perf", overrides_with = "out")]
    out: PathBuf,
    /// Only name the scenarios.
    #[arg(long)]
    list: bool,
    /// Write docs/performance.md and its plots, of all scenarios. The page says whether it was in full, and names what failed.
    #[arg(long, conflicts_with_all = ["scenario", "list"])]
    write: bool,
    /// One part of a scenario, for the program's own use.
    #[command(subcommand)]
    part: Option<Part>,
}

/// What the program starts of itself.
#[derive(Subcommand)]
enum Part {
    /// Measures a scenario's part in a guest, and prints its report, after each round where there are several.
    #[command(hide = true)]
    Guest {
        /// As the report has it.
        scenario: String,
    },
    /// Passes packets on between two ports of the present namespace by the engine's sockets.
    #[command(hide = true)]
    Relay {
        /// Device, its hardware address, and the next hop's.
        #[arg(num_args = 2, required = true)]
        ends: Vec<relay::End>,
    },
}

fn main() -> ExitCode {
    match perform(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sekisho-perf: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(arguments: &Arguments) -> Result<()> {
    match &arguments.part {
        Some(Part::Guest { scenario }) => {
            let part = if scenario == "xfrm" { xfrm::guest::run } else { peers::guest::run };
            return part(arguments.quick);
        }
        Some(Part::Relay { ends }) => {
            return relay::run(ends.as_slice().try_into().context("a relay has two ports")?);
        }
        None => {}
    }
    if arguments.list {
        for Scenario { name, about, .. } in ALL {
            println!("{name:<12} {about}");
        }
        return Ok(());
    }
    let chosen = chosen(&arguments.scenario)?;
    // Read first: a base that is none is told before the measuring, not after it.
    let base = arguments.compare.as_deref().map(Report::read).transpose()?;
    require_root()?;
    let mut session = Session::new(arguments.quick);
    session.asked_for(&arguments.scenario);
    if let Ok(commit) = std::env::var("SEKISHO_COMMIT") {
        session.version("commit", commit);
    }
    if let Some(base) = &base {
        comparable(base, session.report())?;
    }
    for scenario in chosen {
        session.enter(scenario.name);
        if let Err(error) = (scenario.run)(&mut session) {
            session.failed("the scenario", format_args!("{error:#}"));
        }
        // Where a guest was asked for it takes as long as in a full run.
        let quick = arguments.quick && !session.report().guests.contains_key(scenario.name);
        session.leave(scenario.budget(quick));
        // After each, so that an interrupted run leaves what it had.
        render::write(session.report(), None, &arguments.out)?;
    }
    let report = session.report();
    let compared = base.as_ref().map(|base| changes(base, report));
    render::write(report, compared.as_deref(), &arguments.out)?;
    println!("\n{}{}report: {}", told(report), told_times(report), arguments.out.join("report.md").display());
    if let Some(compared) = &compared {
        print!("{}", told_changes(compared));
    }
    if arguments.write {
        page::write(&arguments.out, Path::new("docs"))?;
    }
    conclude(report, compared.as_deref().unwrap_or_default(), &arguments.out)
}

fn chosen(names: &[String]) -> Result<Vec<&'static Scenario>> {
    for name in names {
        if !ALL.iter().any(|scenario| scenario.name == name) {
            let known: Vec<&str> = ALL.iter().map(|scenario| scenario.name).collect();
            bail!("there is no scenario {name}; there are {}", known.join(", "));
        }
    }
    Ok(ALL
        .iter()
        .filter(|scenario| match names {
            [] => !scenario.only_named,
            names => names.iter().any(|name| name == scenario.name),
        })
        .collect())
}

/// Figures of another machine, or of a run of another kind, are no base.
fn comparable(base: &Report, now: &Report) -> Result<()> {
    let differs = now.machine.differs(&base.machine);
    ensure!(differs.is_empty(), "the base was measured on another machine: {}", differs.join("; "));
    ensure!(
        base.quick == now.quick,
        "one of the runs is quick and the other is not: they measure other cases"
    );
    Ok(())
}

/// The tables of what was measured, for the terminal.
fn told(report: &Report) -> String {
    let mut out = String::new();
    for scenario in report.scenarios() {
        if let Some(guest) = table::of_guest(report, scenario) {
            out += &format!("{scenario}: {guest}\n\n");
        }
        for case in report.cases(scenario) {
            for table in table::of_case(report, scenario, case) {
                out += &columns(&format!("{scenario}: {}", table.title), &table);
            }
        }
    }
    out
}

fn told_times(report: &Report) -> String {
    let times = table::of_times(report);
    columns(&times.title, &times)
}

fn told_changes(changes: &[Change<'_>]) -> String {
    match table::of_changes(changes) {
        (summary, table) if table.rows.is_empty() => format!("{summary}\n"),
        (summary, table) => columns(&summary, &table),
    }
}

fn columns(title: &str, table: &table::Table) -> String {
    let mut out = format!("{title}\n");
    let all = || std::iter::once(&table.head).chain(&table.rows);
    let width = |column: usize| {
        all().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    for row in all() {
        for (index, cell) in row.iter().enumerate() {
            let width = width(index);
            let _ = match index {
                0 => write!(out, "  {cell:<width$}"),
                _ => write!(out, "  {cell:>width$}"),
            };
        }
        out.push('\n');
    }
    out.push('\n');
    out
}

fn conclude(report: &Report, changes: &[Change<'_>], out: &Path) -> Result<()> {
    for remark in &report.skipped {
        println!("skipped: {}, {}: {}", remark.scenario, remark.what, remark.why);
    }
    for remark in &report.failed {
        println!("FAILED: {}, {}: {}", remark.scenario, remark.what, remark.why);
    }
    ensure!(
        report.failed.is_empty(),
        "{} of what was tried failed; see {}",
        report.failed.len(),
        out.display()
    );
    ensure!(!report.series.is_empty(), "nothing was measured");
    let worse = regressions(changes);
    for change in &worse {
        let now = change.now;
        println!("WORSE: {}, {}: {}, {}", now.scenario, now.case, now.contender, now.name);
    }
    ensure!(worse.is_empty(), "{} figures have become worse since the base", worse.len());
    Ok(())
}
