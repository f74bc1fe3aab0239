//! The programs' object.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

#[path = "../../../xtask/src/ebpf_build.rs"]
#[allow(dead_code, reason = "the build is one function of it; the rest serves xtask")]
mod ebpf_build;

/// The programs' object, built once in a process; or what `SEKISHO_EBPF_OBJECT` names.
pub fn object() -> &'static [u8] {
    static OBJECT: OnceLock<Vec<u8>> = OnceLock::new();
    OBJECT.get_or_init(|| read("SEKISHO_EBPF_OBJECT", ebpf_build::build))
}

/// The same of the programs that measurements bring along; or what `SEKISHO_MEASURING_OBJECT` names.
pub fn measuring_object() -> &'static [u8] {
    static OBJECT: OnceLock<Vec<u8>> = OnceLock::new();
    OBJECT.get_or_init(|| read("SEKISHO_MEASURING_OBJECT", ebpf_build::build_measuring))
}

fn read(variable: &str, build: fn(&Path) -> Result<PathBuf, ebpf_build::Error>) -> Vec<u8> {
    let path = match std::env::var_os(variable) {
        Some(path) => PathBuf::from(path),
        None => {
            println!("building the eBPF object as `cargo xtask ebpf` does");
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
            build(root).unwrap_or_else(|error| panic!("{error}"))
        }
    };
    println!("eBPF object: {}", path.display());
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
