//! `cargo xtask demo` and `cargo xtask lab`: builds what is shown, and hands over to the lab's own program.

use std::{
    path::{self, Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::{
    Datapath, Peer,
    ebpf_build::target_dir,
    process,
    setup::{self, Purpose},
    vm::{self, Kernel},
};

/// The lab's program, of package sekisho-tests.
const LAB: &str = "sekisho-lab";

/// Seconds for all of it in a guest without help from the processor.
const GUEST_LIMIT: Duration = Duration::from_secs(20 * 60);

/// Shows a gateway at work.
pub(crate) fn run(root: &Path, keep: bool, peer: Peer, datapath: Datapath) -> Result<ExitCode> {
    setup::ensure(Purpose::Lab, false)?;
    process::authenticate()?;
    // Together, so that libraries which both use are built once.
    let packages = ["--package", "sekisho", "--package", "sekisho-tests"];
    process::run(process::cargo().args(["build", "--release"]).args(packages).arg("--bins"))?;
    let mut lab = lab(&programs()?);
    let peer = peer.to_possible_value().context("a peer without a name")?;
    let datapath_name = datapath.to_possible_value().context("a data path without a name")?;
    let arguments = ["demo", "--peer", peer.get_name(), "--datapath", datapath_name.get_name()];
    if datapath == Datapath::Kernel && !kernel_has_ipsec() {
        if keep {
            bail!(
                "--keep leaves nothing here: this kernel has no xfrm interfaces, so the demonstration runs in a guest"
            );
        }
        println!("This kernel has no xfrm interfaces: in a virtual machine with another one.");
        let programs = programs()?;
        let lab = programs.join(LAB);
        let bin_dir = format!("SEKISHO_BIN_DIR={}", programs.display());
        let patience = format!("SEKISHO_PATIENCE={}", vm::patience());
        let command = ["env", &bin_dir, &patience, &lab.to_string_lossy()];
        let command: Vec<String> = command.into_iter().chain(arguments).map(str::to_owned).collect();
        return vm::run(root, Kernel::V6_12, GUEST_LIMIT, &command);
    }
    lab.args(arguments);
    if keep {
        lab.arg("--keep");
    }
    // It cleans up after itself when asked to stop, which needs more than a kill.
    process::run_foreground(&mut lab)?;
    Ok(ExitCode::SUCCESS)
}

/// Whether this kernel makes xfrm interfaces, tried in a namespace of its own.
fn kernel_has_ipsec() -> bool {
    let mut ip = process::as_root("unshare");
    ip.args(["--net", "ip", "link", "add", "probe", "type", "xfrm", "if_id", "1"]);
    process::output(&mut ip).is_ok()
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
