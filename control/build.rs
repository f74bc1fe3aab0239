//! Builds the eBPF object that the daemon embeds, by the same code as `cargo xtask ebpf`.

use std::path::Path;
use std::process::ExitCode;

// Only a part of the file is used here; the rest is xtask's.
#[allow(dead_code)]
#[path = "../xtask/src/ebpf_build.rs"]
mod ebpf_build;

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    for tracked in ["dataplane-ebpf", "xtask/src/ebpf_build.rs", "Cargo.lock", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", root.join(tracked).display());
    }
    for variable in ["SEKISHO_CACHE", "SEKISHO_BPF_LINKER"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    match ebpf_build::build(root) {
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
