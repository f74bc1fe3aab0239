//! `cargo xtask demo` and `cargo xtask lab`: builds what is shown, and hands over to the lab's own program.

use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::{
    Peer,
    ebpf_build::target_dir,
    process,
    setup::{self, Purpose},
};

/// Shows a gateway at work.
pub(crate) fn run(keep: bool, peer: Peer) -> Result<()> {
    setup::ensure(Purpose::Lab, false)?;
    let mut lab = built_lab()?;
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
    process::run_foreground(built_lab()?.arg("down"))
}

/// The lab's program, as root, with the daemon and the command beside it: built for release, as what is shown is
/// also measured.
fn built_lab() -> Result<Command> {
    process::authenticate()?;
    process::run(process::cargo().args(["build", "--release", "--package", "sekisho", "--bins"]))?;
    process::run(process::cargo().args([
        "build",
        "--release",
        "--package",
        "sekisho-tests",
        "--bin",
        "sekisho-lab",
    ]))?;
    let programs = std::path::absolute(target_dir(std::path::Path::new(".")).join("release"))
        .context("the folder of the built programs")?;
    let mut lab = process::as_root(programs.join("sekisho-lab"));
    lab.env("SEKISHO_BIN_DIR", &programs);
    Ok(lab)
}
