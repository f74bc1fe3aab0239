//! The one door: `cargo xtask --help` names everything that can be done with this tree, and CI does no more than a
//! developer can do here.
#![forbid(unsafe_code)]

mod ci;
mod crates;
mod demo;
mod ebpf_build;
mod ebpf_stack;
mod fuzz;
mod leftovers;
mod lint;
mod object;
mod packages;
mod page;
mod perf;
mod process;
mod setup;
mod suites;
mod tally;
mod toolchain;
mod vm;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    perf::PerfArgs,
    setup::Purpose,
    suites::{Extent, Suite},
    tally::Tally,
    vm::Kernel,
};

/// Builds, tests and demonstrates Sekisho.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run `.ci/run` on a fresh clone of the last commit, as CI does
    ///
    /// What isn't committed isn't tested. The clone's build files are kept for the next run, below target/ci.
    Ci,
    /// Show a gateway at work: build it, lay a network of namespaces around it, drive traffic through it
    Demo(DemoArgs),
    /// Build the eBPF object that the daemon embeds
    Ebpf {
        /// Also list the object's programs with their sizes and stack, its maps, and its sections
        #[arg(long)]
        stats: bool,
    },
    /// Run the fuzz targets of tests/fuzz, a bounded time each
    ///
    /// Installs cargo-fuzz when first called. Grown corpora and crashes stay below target/fuzz.
    Fuzz(FuzzArgs),
    /// The demonstration's network of namespaces
    #[command(subcommand)]
    Lab(LabTask),
    /// Check formatting, clippy's lints, and the dependencies' licences, sources and known vulnerabilities
    Lint,
    /// Measure Sekisho and what a user would pick instead, side by side in the lab
    ///
    /// Writes report.json, report.md and report.html with plots to target/perf; bench/README.md says what each figure
    /// means. Takes the machine for itself: what else runs shows in the figures. `--help` tells its options.
    #[command(disable_help_flag = true)]
    Perf(PerfArgs),
    /// Install what building, testing and demonstrating need and this machine lacks
    ///
    /// Debian packages (no service is started or enabled), Rust's library sources, bpf-linker and cargo-deny. Tools
    /// go to ~/.cache/sekisho, or to $SEKISHO_CACHE. Needs root, or sudo, where packages are missing.
    Setup {
        /// Only list what is missing; change nothing, and fail if anything is
        #[arg(long)]
        check: bool,
    },
    /// Set the machine up, then lint and run the tests
    ///
    /// Suites other than lint and unit need root, or sudo: they lay networks of namespaces.
    Test {
        /// Also run what takes long: tests marked as slow (`#[ignore]`), and the suites kernels, xfrm and fuzz
        #[arg(long)]
        all: bool,
        /// Write docs/interop.md from what the suite interop shows, and the matrices of docs/datapath.md from what the
        /// suites datapath and xfrm show: every cell must pass
        #[arg(long)]
        write: bool,
        /// Run only these suites
        suites: Vec<Suite>,
    },
    /// Run a command in a virtual machine with another kernel and this machine's files
    ///
    /// The guest's changes are thrown away, and it has no network. Where the processor cannot run guests, QEMU emulates
    /// one: 10 to 30 times slower. The kernel is downloaded when first called, 70 to 120 MB, and kept in the cache.
    Vm(VmArgs),
}

#[derive(Args)]
struct VmArgs {
    /// Whose kernel
    #[arg(long, value_enum, default_value_t = Kernel::V6_1)]
    kernel: Kernel,
    /// Seconds it may take, the boot included
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
    /// The command, with its arguments after `--`
    #[arg(required = true, trailing_var_arg = true)]
    command: Vec<String>,
}

#[derive(Args)]
struct DemoArgs {
    /// Leave the network and the daemons up, to look around; `cargo xtask lab down` ends them
    #[arg(long)]
    keep: bool,
    /// What stands at the far end of the tunnel
    #[arg(long, value_enum, default_value_t = Peer::Sekisho)]
    peer: Peer,
    /// Which ESP the gateways use; `kernel` in a virtual machine where this kernel has none
    #[arg(long, value_enum, default_value_t = Datapath::Auto)]
    datapath: Datapath,
}

#[derive(Args)]
struct FuzzArgs {
    /// Run only these targets
    targets: Vec<String>,
    /// Seconds for each target
    #[arg(long, value_name = "SECONDS", default_value_t = fuzz::SECONDS)]
    time: u64,
    /// Only list the targets
    #[arg(long, conflicts_with_all = ["targets", "time", "check"])]
    list: bool,
    /// Only check their formatting and clippy's lints
    #[arg(long, conflicts_with_all = ["targets", "time"])]
    check: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Peer {
    Sekisho,
    Strongswan,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Datapath {
    Auto,
    Kernel,
    Engine,
}

#[derive(Clone, Copy, Subcommand)]
enum LabTask {
    /// End its daemons and remove its namespaces
    Down,
}

fn main() -> ExitCode {
    match perform(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<ExitCode> {
    process::remember_ourselves()?;
    process::handle_signals()?;
    let root = root()?;
    // A task's own commands may be typed in any folder of the tree.
    std::env::set_current_dir(&root).with_context(|| format!("entering {}", root.display()))?;
    match task {
        Task::Ci => ci::run(&root)?,
        Task::Demo(args) => return demo::run(&root, args.keep, args.peer, args.datapath),
        Task::Ebpf { stats } => {
            setup::ensure(Purpose::Build, false)?;
            let object = ebpf_build::build(&root)?;
            println!("{}", object.display());
            if stats {
                print!("{}", object::describe(&object)?);
            }
        }
        Task::Fuzz(FuzzArgs { list: true, .. }) => fuzz::list(&root)?,
        Task::Fuzz(args) => {
            // The daemon's crate embeds the eBPF object.
            setup::ensure(Purpose::Build, false)?;
            let mut tally = Tally::default();
            match args.check {
                true => fuzz::check(&root, &mut tally)?,
                false => fuzz::run(&root, &args.targets, args.time, &mut tally)?,
            }
            return Ok(tally.conclude());
        }
        Task::Lab(LabTask::Down) => demo::down()?,
        Task::Lint => {
            setup::ensure(Purpose::Everything, false)?;
            let mut tally = Tally::default();
            lint::run(&mut tally)?;
            return Ok(tally.conclude());
        }
        Task::Perf(args) => perf::run(&root, &args)?,
        Task::Setup { check: true } => setup::check()?,
        Task::Setup { check: false } => setup::ensure(Purpose::Everything, true)?,
        Task::Test { all, write, suites } => {
            return suites::run(&root, &suites, Extent { slow_too: all, write_page: write });
        }
        Task::Vm(args) => {
            return vm::run(&root, args.kernel, Duration::from_secs(args.timeout), &args.command);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The workspace this program was built from.
fn root() -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map(Path::to_owned).context("xtask's folder has no parent")
}
