//! Builds the eBPF object, the one way there is.
//!
//! This file is compiled twice: as a module of xtask (`cargo xtask ebpf`) and, through `#[path]`, of the daemon's
//! `build.rs`, which embeds the object. So it uses std alone, and it must come out the same under both: everything
//! an outer cargo, a clippy run or a user's environment would leak into the inner cargo is taken away in
//! [`clean_environment`].
//!
//! It owns no installing: where a tool is missing it says so and names the remedy (`cargo xtask setup`).

use std::{
    env, error, fmt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The linker's version; its own LLVM is rustc's (see xtask's `toolchain`).
pub(crate) const BPF_LINKER_VERSION: &str = "0.13.0";

/// The package and the binary target that hold the programs.
const PROGRAMS: [&str; 2] = ["sekisho-dataplane-ebpf", "sekisho-ebpf"];
/// The same of the programs that measurements bring along.
const MEASURING_PROGRAMS: [&str; 2] = ["sekisho-bench-ebpf", "sekisho-bench-ebpf"];
const TARGET: &str = "bpfel-unknown-none";

/// Separates flags in `CARGO_ENCODED_RUSTFLAGS`.
const FLAG_SEPARATOR: &str = "\x1f";

/// Why there is no object.
#[derive(Debug)]
pub(crate) enum Error {
    /// A tool of the chain isn't on this machine.
    Missing {
        /// What was looked for.
        what: &'static str,
        /// Where.
        place: PathBuf,
    },
    /// A command could not be run, or its answer not be understood.
    Command { command: String, reason: String },
    /// The inner cargo ran and failed; its own messages stand above.
    Build { command: String },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { what, place } => write!(
                f,
                "{what} is missing (looked at {}); run `cargo xtask setup` once to install it",
                place.display()
            ),
            Self::Command { command, reason } => write!(f, "`{command}`: {reason}"),
            Self::Build { command } => write!(f, "building the eBPF object failed: `{command}`"),
        }
    }
}

impl error::Error for Error {}

/// The compiler in use, as far as the eBPF tool chain depends on it.
#[derive(Debug, Clone)]
pub(crate) struct Rustc {
    /// `1.95.0`
    pub(crate) release: String,
    /// `22`: the linker reads rustc's bitcode, so it must be built for this one.
    pub(crate) llvm_major: u32,
    /// Where its libraries and, once installed, its sources are.
    pub(crate) sysroot: PathBuf,
}

impl Rustc {
    /// Asks the compiler that cargo uses: `RUSTC` where it's set (a build script's environment), else the one in PATH.
    pub(crate) fn detect() -> Result<Self, Error> {
        let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let verbose = answer(Command::new(&rustc).arg("-vV"))?;
        let sysroot = answer(Command::new(&rustc).args(["--print", "sysroot"]))?;
        let field = |name: &str| {
            verbose.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).ok_or_else(|| {
                Error::Command {
                    command: format!("{} -vV", rustc.display()),
                    reason: format!("no line `{name}` in its answer"),
                }
            })
        };
        let llvm = field("LLVM version:")?;
        let llvm_major =
            llvm.split('.').next().and_then(|major| major.parse().ok()).ok_or_else(|| Error::Command {
                command: format!("{} -vV", rustc.display()),
                reason: format!("LLVM version `{llvm}` not understood"),
            })?;
        Ok(Self { release: field("release:")?.to_owned(), llvm_major, sysroot: sysroot.trim().into() })
    }

    /// Where `-Z build-std` looks for the sources of `core`.
    pub(crate) fn library_source(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib/src/rust/library")
    }

    /// Where setup puts the linker, and where the build looks for it. The compiler is part of the path as the linker
    /// is bound to that compiler's LLVM library.
    pub(crate) fn bpf_linker(&self) -> PathBuf {
        match env::var_os("SEKISHO_BPF_LINKER") {
            Some(own) => own.into(),
            None => tools_dir().join(format!(
                "bpf-linker-{BPF_LINKER_VERSION}-rustc-{}-llvm-{}/bin/bpf-linker",
                self.release, self.llvm_major
            )),
        }
    }
}

/// Where installed tools are kept: `$SEKISHO_CACHE/tools`, by default `~/.cache/sekisho/tools`.
pub(crate) fn tools_dir() -> PathBuf {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("SEKISHO_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("sekisho")))
        .or_else(|| set("HOME").map(|dir| dir.join(".cache/sekisho")))
        .unwrap_or_else(|| env::temp_dir().join("sekisho-cache"))
        .join("tools")
}

/// Where cargo puts what it builds for the workspace at `root`.
pub(crate) fn target_dir(root: &Path) -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => root.join(dir),
        None => root.join("target"),
    }
}

/// Builds the object for the workspace at `root` and returns its path.
///
/// Cheap when nothing changed: the inner cargo tracks the sources itself.
pub(crate) fn build(root: &Path) -> Result<PathBuf, Error> {
    build_object(root, PROGRAMS)
}

/// Builds the object of the measurements' own programs the same way.
#[allow(dead_code, reason = "the daemon's build.rs has no use for them")]
pub(crate) fn build_measuring(root: &Path) -> Result<PathBuf, Error> {
    build_object(root, MEASURING_PROGRAMS)
}

fn build_object(root: &Path, [package, binary]: [&str; 2]) -> Result<PathBuf, Error> {
    let rustc = Rustc::detect()?;
    let core = rustc.library_source().join("core/src/lib.rs");
    if !core.is_file() {
        return Err(Error::Missing { what: "rust-src (the source of Rust's core library)", place: core });
    }
    let linker = rustc.bpf_linker();
    if !linker.is_file() {
        return Err(Error::Missing { what: "bpf-linker", place: linker });
    }

    // A target folder of its own: an outer cargo holds the lock of the usual one while it runs our build script.
    let target_dir = target_dir(root).join("ebpf");

    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root);
    cargo.args(["build", "--locked", "--package", package, "--bin", binary, "--release", "--target", TARGET]);
    cargo.args(["-Z", "build-std=core", "--target-dir"]).arg(&target_dir);
    clean_environment(&mut cargo);
    // Stable rustc with the one unstable thing this needs, build-std; so no nightly, and one compiler for all.
    cargo.env("RUSTC_BOOTSTRAP", "1");
    // Said here rather than left to the workspace's release profile, whose thin LTO is meant for the daemon: the
    // linker does the whole-program work itself. Debug information is what BTF is made from.
    cargo.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1");
    cargo.env("CARGO_PROFILE_RELEASE_DEBUG", "2");
    cargo.env("CARGO_PROFILE_RELEASE_LTO", "off");
    cargo.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3");
    cargo.env("CARGO_PROFILE_RELEASE_STRIP", "none");
    // The encoded form wins over RUSTFLAGS and over any configuration file.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", rustflags(&linker).join(FLAG_SEPARATOR));
    // A build script's stdout is a channel of instructions to the outer cargo.
    cargo.stdout(Stdio::null());

    let status = cargo.status().map_err(|error| command_error(&cargo, &error))?;
    if !status.success() {
        return Err(Error::Build { command: line(&cargo) });
    }
    let object = target_dir.join(TARGET).join("release").join(binary);
    if !object.is_file() {
        return Err(Error::Missing { what: "the eBPF object that cargo just built", place: object });
    }
    Ok(object)
}

/// The compiler flags of the programs.
fn rustflags(linker: &Path) -> Vec<String> {
    // In a build script the daemon's own target counts: the registers behind a `pt_regs` differ by CPU.
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_else(|_| env::consts::ARCH.to_owned());
    vec![
        format!("-Clinker={}", linker.display()),
        format!("--cfg=bpf_target_arch=\"{arch}\""),
        // Instruction set v3, in every kernel since 5.12: 32-bit arithmetic and jumps, atomics that return a value.
        "-Ctarget-cpu=v3".to_owned(),
        // BTF is generated from this, at the link.
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // Else small copies and clearings become calls of loops that go byte by byte, for every packet.
        "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
        // Addresses lie unaligned in most keys and headers, and else every one is put together byte by byte. The
        // machines that run these programs take such accesses (x86-64, arm64: the verifier knows), but for the
        // stack's: there `Aligned` is to be used.
        "-Clink-arg=--cpu-features=+allows-misaligned-mem-access".to_owned(),
    ]
}

/// Takes away what the surroundings would change in the build: another cargo's build-script variables, clippy's
/// wrapper, the user's flags and profiles. What says *where* things come from (home, network, registries, toolchain,
/// job server) stays.
pub(crate) fn clean_environment(command: &mut Command) {
    const KEPT: [&str; 8] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_MAKEFLAGS",
        "CARGO_NET_",
        "CARGO_REGISTRIES_",
        "CARGO_REGISTRY_",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
    ];
    const REMOVED: [&str; 13] = [
        "RUSTC_LINKER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_WRAPPER",
        "RUSTDOCFLAGS",
        "RUSTFLAGS",
        // What cargo tells a build script. Libraries' build scripts ask to be run again when one of them changes, so
        // leaving them would build everything anew at each turn from `cargo build` to `cargo xtask ebpf`.
        "DEBUG",
        "HOST",
        "NUM_JOBS",
        "OPT_LEVEL",
        "OUT_DIR",
        "PROFILE",
        "RUSTDOC",
        "TARGET",
    ];
    for (name, _) in env::vars_os() {
        // A name that isn't UTF-8 is none of cargo's.
        let Some(name) = name.to_str() else { continue };
        let cargos = name.starts_with("CARGO") && !KEPT.iter().any(|kept| name.starts_with(kept));
        if cargos || REMOVED.contains(&name) {
            command.env_remove(name);
        }
    }
}

/// Runs a command for its stdout.
fn answer(command: &mut Command) -> Result<String, Error> {
    let output = command.stderr(Stdio::inherit()).output().map_err(|error| command_error(command, &error))?;
    if !output.status.success() {
        return Err(Error::Command { command: line(command), reason: output.status.to_string() });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn command_error(command: &Command, error: &std::io::Error) -> Error {
    Error::Command { command: line(command), reason: error.to_string() }
}

/// The command as one would type it.
pub(crate) fn line(command: &Command) -> String {
    let program = Path::new(command.get_program());
    // Cargo is known by its path in its own toolchain, which nobody types.
    let program = if program.ends_with("cargo") { Path::new("cargo") } else { program };
    let mut words = vec![program.display().to_string()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    words.join(" ")
}
