//! `cargo xtask ci`: what CI does, on what CI sees.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};

use crate::{ebpf_build::target_dir, process};

/// Clones the last commit and runs its `.ci/run` there.
pub(crate) fn run(root: &Path) -> Result<()> {
    let place = target_dir(root).join("ci");
    let clone = place.join("clone");
    if clone.exists() {
        fs::remove_dir_all(&clone).with_context(|| format!("removing {}", clone.display()))?;
    }
    fs::create_dir_all(&place).with_context(|| format!("creating {}", place.display()))?;
    process::run(Command::new("git").args(["clone", "--quiet"]).arg(root).arg(&clone))?;
    let mut script = Command::new("bash");
    script.arg(".ci/run").current_dir(&clone).env("CI", "true");
    // Outlives the clone, as building every dependency again proves nothing.
    script.env("CARGO_TARGET_DIR", place.join("target"));
    process::run(&mut script)
}
