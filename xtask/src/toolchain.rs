//! The eBPF tool chain: the sources of `core`, and a linker that reads rustc's bitcode.
//!
//! Both are bound to the compiler: the sources are of its very version, the linker is built against the LLVM library
//! that the compiler brings. So neither comes from "the latest", and a new compiler gets new ones beside the old.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{
    crates::{self, Crate},
    ebpf_build::{BPF_LINKER_VERSION, Rustc, tools_dir},
    packages, process,
    setup::Part,
};

/// Debian suites that carry several versions of Rust's sources beside each other.
const RUST_SRC_SUITES: [&str; 2] = ["trixie-backports", "bookworm-backports"];

/// Rust's library sources, for `-Z build-std`.
pub(crate) struct RustSrc<'a> {
    pub(crate) rustc: &'a Rustc,
}

impl Part for RustSrc<'_> {
    fn name(&self) -> String {
        format!("rust-src {}", self.rustc.release)
    }

    fn missing(&self) -> Result<Option<String>> {
        let library = self.rustc.library_source();
        // Cargo reads the lock file before any source.
        let complete = library.join("core/src/lib.rs").is_file() && library.join("Cargo.lock").is_file();
        Ok((!complete).then(|| self.name()))
    }

    fn install(&self) -> Result<()> {
        if let Err(error) = self.with_rustup() {
            println!(
                "rustup has no rust-src for us ({error:#}); trying Debian's package of the same version"
            );
            self.with_debian().context("rust-src from Debian's package")?;
        }
        match self.missing()? {
            None => Ok(()),
            Some(what) => bail!("{what} is still not at {}", self.rustc.library_source().display()),
        }
    }
}

impl RustSrc<'_> {
    fn with_rustup(&self) -> Result<()> {
        if !process::have("rustup") {
            bail!("there is no rustup");
        }
        process::run(Command::new("rustup").args(["component", "add", "rust-src"]))
    }

    /// Rust's release tarball and Debian's package hold the same library, give or take licence texts.
    fn with_debian(&self) -> Result<()> {
        let release = &self.rustc.release;
        let scratch = tools_dir().join(format!("rust-src-{release}.partial"));
        let _scratch = Scratch::new(&scratch)?;
        let package = RUST_SRC_SUITES
            .iter()
            .find_map(|suite| {
                packages::download("rust-src", &format!("{release}+"), suite, &scratch)
                    .inspect_err(|error| println!("{suite}: {error:#}"))
                    .ok()
            })
            .ok_or_else(|| anyhow!("no suite has rust-src {release}"))?;
        process::run(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&scratch))?;
        let tree = scratch.join(format!("usr/src/rustc-{release}"));
        let library = tree.join("library");
        let destination = self.rustc.library_source();
        let parent = destination.parent().context("the library's source folder has no parent")?;
        fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
        // The sysroot may be on another file system than the cache: copy beside the place, then rename into it.
        let beside = parent.join("library.partial");
        remove_if_there(&beside)?;
        process::run(Command::new("cp").arg("--recursive").arg(&library).arg(&beside))?;
        remove_if_there(&destination)?;
        fs::rename(&beside, &destination)
            .with_context(|| format!("renaming {} to {}", beside.display(), destination.display()))
    }
}

/// The linker, of bitcode into one eBPF object with BTF.
pub(crate) struct BpfLinker<'a> {
    pub(crate) rustc: &'a Rustc,
}

impl Part for BpfLinker<'_> {
    fn name(&self) -> String {
        format!("bpf-linker {BPF_LINKER_VERSION} for LLVM {}", self.rustc.llvm_major)
    }

    fn missing(&self) -> Result<Option<String>> {
        let linker = self.rustc.bpf_linker();
        // Asking it for its version also finds one whose LLVM library went away with its compiler.
        let works = linker.is_file() && process::output(Command::new(&linker).arg("--version")).is_ok();
        Ok((!works).then(|| self.name()))
    }

    fn install(&self) -> Result<()> {
        if let Some(own) = env::var_os("SEKISHO_BPF_LINKER") {
            bail!("SEKISHO_BPF_LINKER names {}, which doesn't work", own.display());
        }
        let linker = self.rustc.bpf_linker();
        let place = linker.ancestors().nth(2).context("the linker's path has no folder")?;
        let prefix = tools_dir().join(format!("llvm-{}.partial", self.rustc.release));
        let _prefix = Scratch::new(&prefix)?;
        let lib = self.rustc.sysroot.join("lib");
        fs::create_dir(prefix.join("lib")).with_context(|| format!("creating {}/lib", prefix.display()))?;
        symlink(rustc_llvm(&lib)?, prefix.join("lib/libLLVM.so"))
            .context("linking to rustc's LLVM library")?;
        let feature = format!("llvm-{}", self.rustc.llvm_major);
        let krate = Crate { name: "bpf-linker", version: BPF_LINKER_VERSION, features: &[&feature] };
        crates::install(&krate, place, |cargo| {
            cargo.env("LLVM_PREFIX", &prefix);
            // Found at run time where the compiler keeps it.
            cargo.env("CARGO_ENCODED_RUSTFLAGS", format!("-Clink-arg=-Wl,-rpath,{}", lib.display()));
        })
    }
}

/// The LLVM library in a compiler's own folder: `libLLVM.so.22.1-rust-1.95.0-stable`.
fn rustc_llvm(lib: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(lib).with_context(|| format!("reading {}", lib.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("reading {}", lib.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("libLLVM.so.") && name.contains("-rust-") {
            return Ok(path);
        }
    }
    bail!(
        "{} holds no libLLVM.so.*-rust-*: this compiler doesn't bring its own LLVM; use the one that rustup installs",
        lib.display()
    )
}

/// A folder that is empty at first and gone at last.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(path: &Path) -> Result<Self> {
        remove_if_there(path)?;
        fs::create_dir_all(path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Left behind it costs space and no more; the next setup removes it first.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn remove_if_there(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    fs::remove_dir_all(path).with_context(|| format!("removing {}", path.display()))
}
