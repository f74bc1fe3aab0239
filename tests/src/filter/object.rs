//! The programs' object.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

#[path = "../../../xtask/src/ebpf_build.rs"]
#[allow(dead_code, reason = "the build is one function of it; the rest serves xtask")]
mod ebpf_build;

/// The programs' object, built once per test run.
pub fn object() -> &'static [u8] {
    static OBJECT: OnceLock<Vec<u8>> = OnceLock::new();
    OBJECT.get_or_init(|| {
        let path = match std::env::var_os("SEKISHO_EBPF_OBJECT") {
            Some(path) => PathBuf::from(path),
            None => {
                println!("building the eBPF object as `cargo xtask ebpf` does");
                let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
                ebpf_build::build(root).unwrap_or_else(|error| panic!("{error}"))
            }
        };
        println!("eBPF object: {}", path.display());
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    })
}
