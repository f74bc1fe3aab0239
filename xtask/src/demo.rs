//! `cargo xtask demo` and `cargo xtask lab`: builds what is shown, and hands over to the lab's own program.

use std::{
    path::{self, Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::{
    Peer,
    ebpf_build::target_dir,
    process,
    setup::{self, Purpose},
};

/// The lab's program, of package sekisho-tests.
const LAB: &str = "sekisho-lab";

/// Shows a gateway at work.
pub(crate) fn run(keep: bool, peer: Peer) -> Result<()> {
    setup::ensure(Purpose::Lab, false)?;
    process::authenticate()?;
    // Together, so that libraries which both use are built once.
    let packages = ["--package", "sekisho", "--package", "sekisho-tests"];
    process::run(process::cargo().args(["build", "--release"]).args(packages).arg("--bins"))?;
    let mut lab = lab(&programs()?);
    let peer = peer.to_possible_value().context("a peer without a name")?;
    lab.args(["demo", "--peer", peer.get_name()]);
    if keep {
        lab.arg("--keep");
    }
    // It cleans up after itself when asked to stop, which needs more than a kill.
    process::run_foreground(&mut lab)
}

/// Ends what `demo --keep` left up.
pub(crate) fn down() -> Result<()> {
    process::authenticate()?;
    let programs = programs()?;
    // The one that laid the lab takes it down, also while the tree doesn't compile.
    if !programs.join(LAB).is_file() {
        build_lab()?;
    }
    process::run_foreground(lab(&programs).arg("down"))
}

/// Where the built programs are. Built for release, as what is shown is also measured.
pub(crate) fn programs() -> Result<PathBuf> {
    path::absolute(target_dir(Path::new(".")).join("release")).context("the folder of the built programs")
}

fn build_lab() -> Result<()> {
    process::run(process::cargo().args(["build", "--release", "--package", "sekisho-tests", "--bin", LAB]))
}

/// The lab's program, as root, told where the daemon and the command are.
fn lab(programs: &Path) -> Command {
    let mut lab = process::as_root(programs.join(LAB));
    lab.env("SEKISHO_BIN_DIR", programs);
    lab
}
