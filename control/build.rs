//! Builds the eBPF object that the daemon embeds, by the same code as `cargo xtask ebpf`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

#[path = "../xtask/src/ebpf_build.rs"]
mod ebpf_build;

fn main() -> ExitCode {
    // Cargo runs it in the package's folder. Nothing here may remember where the tree lay when it was compiled.
    let Some(root) = env::current_dir().ok().and_then(|package| package.parent().map(Path::to_owned)) else {
        println!("cargo::error=the package's folder has no parent");
        return ExitCode::FAILURE;
    };
    let tracked =
        ["Cargo.lock", "Cargo.toml", "dataplane-ebpf", "rust-toolchain.toml", "xtask/src/ebpf_build.rs"];
    for path in tracked {
        println!("cargo::rerun-if-changed=../{path}");
    }
    for variable in ["SEKISHO_CACHE", "SEKISHO_BPF_LINKER"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    match embedded(&root) {
        Ok(object) => {
            println!("cargo::rustc-env=SEKISHO_EBPF_OBJECT={}", object.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("cargo::error={error}");
            ExitCode::FAILURE
        }
    }
}

/// A copy of the object that belongs to this build alone: the original is built anew, or cleaned, by others.
fn embedded(root: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let object = ebpf_build::build(root)?;
    let copy = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: run me through cargo")?)
        .join("sekisho.bpf.o");
    fs::copy(&object, &copy).map_err(|error| format!("cannot copy {}: {error}", object.display()))?;
    Ok(copy)
}
