//! Tools that are published crates, built once and kept in the cache.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    ebpf_build::{clean_environment, tools_dir},
    process,
    setup::Part,
};

/// A published crate whose program is wanted.
pub(crate) struct Crate<'a> {
    pub(crate) name: &'a str,
    pub(crate) version: &'a str,
    /// In place of the default ones; empty means the default ones.
    pub(crate) features: &'a [&'a str],
}

/// Builds a crate's program into `place/bin/`, which appears complete or not at all.
pub(crate) fn install(krate: &Crate<'_>, place: &Path, prepare: impl FnOnce(&mut Command)) -> Result<()> {
    let partial = place.with_added_extension("partial");
    let build = place.with_added_extension("build");
    let mut cargo = process::cargo();
    clean_environment(&mut cargo);
    cargo.args(["install", "--locked", "--no-track", "--force", krate.name, "--version", krate.version]);
    if !krate.features.is_empty() {
        cargo.arg("--no-default-features").args(["--features", &krate.features.join(",")]);
    }
    cargo.arg("--root").arg(&partial).arg("--target-dir").arg(&build);
    // Tools that run for seconds needn't be built for minutes: their own release profiles ask for whole-program LTO.
    cargo.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    cargo.env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    cargo.env("CARGO_PROFILE_RELEASE_LTO", "off");
    cargo.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1");
    prepare(&mut cargo);
    // Away from the workspace, whose configuration is meant for the workspace.
    cargo.current_dir(tools_dir());
    let result = process::run(&mut cargo);
    // The intermediate files are ten times the program, and are never needed again.
    let _ = fs::remove_dir_all(&build);
    result?;
    // What stood there was found not to work.
    let _ = fs::remove_dir_all(place);
    fs::rename(&partial, place)
        .with_context(|| format!("renaming {} to {}", partial.display(), place.display()))
}

/// cargo-deny: licences, bans, sources and known vulnerabilities of the dependencies.
pub(crate) struct CargoDeny;

impl CargoDeny {
    const VERSION: &str = "0.20.2";

    pub(crate) fn program() -> PathBuf {
        Self::place().join("bin/cargo-deny")
    }

    fn place() -> PathBuf {
        tools_dir().join(format!("cargo-deny-{}", Self::VERSION))
    }
}

impl Part for CargoDeny {
    fn name(&self) -> String {
        format!("cargo-deny {}", Self::VERSION)
    }

    fn missing(&self) -> Result<Option<String>> {
        let works = process::output(Command::new(Self::program()).arg("--version")).is_ok();
        Ok((!works).then(|| self.name()))
    }

    fn install(&self) -> Result<()> {
        let krate = Crate { name: "cargo-deny", version: Self::VERSION, features: &[] };
        // It runs for a second either way, and this halves the longest step of a setup.
        install(&krate, &Self::place(), |cargo| {
            cargo.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0");
        })
    }
}

/// cargo-fuzz: builds the fuzz targets with the compiler's own coverage.
pub(crate) struct CargoFuzz;

impl CargoFuzz {
    const VERSION: &str = "0.13.2";

    pub(crate) fn program() -> PathBuf {
        Self::place().join("bin/cargo-fuzz")
    }

    fn place() -> PathBuf {
        tools_dir().join(format!("cargo-fuzz-{}", Self::VERSION))
    }
}

impl Part for CargoFuzz {
    fn name(&self) -> String {
        format!("cargo-fuzz {}", Self::VERSION)
    }

    fn missing(&self) -> Result<Option<String>> {
        let works = process::output(Command::new(Self::program()).args(["fuzz", "--version"])).is_ok();
        Ok((!works).then(|| self.name()))
    }

    fn install(&self) -> Result<()> {
        let krate = Crate { name: "cargo-fuzz", version: Self::VERSION, features: &[] };
        // It starts the compiler and waits.
        install(&krate, &Self::place(), |cargo| {
            cargo.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0");
        })
    }
}

/// WireGuard in user space by others, which the performance suite measures beside us: built as their authors release them,
/// for a rival that was built for speed of building would prove nothing.
pub(crate) struct Rival {
    name: &'static str,
    version: &'static str,
    program: &'static str,
    /// Where the measuring program looks for it.
    pub(crate) variable: &'static str,
}

impl Rival {
    pub(crate) const ALL: [Self; 2] = [
        Self { name: "gotatun-cli", version: "0.10.2", program: "gotatun", variable: "SEKISHO_GOTATUN" },
        Self {
            name: "boringtun-cli",
            version: "0.7.1",
            program: "boringtun-cli",
            variable: "SEKISHO_BORINGTUN",
        },
    ];

    pub(crate) fn program(&self) -> PathBuf {
        self.place().join("bin").join(self.program)
    }

    fn place(&self) -> PathBuf {
        tools_dir().join(format!("{}-{}", self.name, self.version))
    }
}

impl Part for Rival {
    fn name(&self) -> String {
        format!("{} {}", self.name, self.version)
    }

    fn missing(&self) -> Result<Option<String>> {
        let works = process::output(Command::new(self.program()).arg("--version")).is_ok();
        Ok((!works).then(|| self.name()))
    }

    fn install(&self) -> Result<()> {
        let krate = Crate { name: self.name, version: self.version, features: &[] };
        install(&krate, &self.place(), |cargo| {
            for key in ["CODEGEN_UNITS", "DEBUG", "LTO", "OPT_LEVEL"] {
                cargo.env_remove(format!("CARGO_PROFILE_RELEASE_{key}"));
            }
        })
    }
}
