//! `cargo xtask setup`: everything this machine needs and doesn't have yet.
//!
//! Each [`Part`] knows whether it is there and how to bring it; looking costs well under a second, so that test and
//! demo begin with it and a fresh clone on a fresh machine needs no other command.

use std::{fs, fs::File, time::Instant};

use anyhow::{Context, Result, bail};

use crate::{
    crates::CargoDeny,
    ebpf_build::{Rustc, tools_dir},
    packages::DebianPackages,
    toolchain::{BpfLinker, RustSrc},
};

/// One thing that a machine needs.
pub(crate) trait Part {
    /// What it is, with its version where that matters.
    fn name(&self) -> String;
    /// What of it isn't there or doesn't work; `None` when all is well.
    fn missing(&self) -> Result<Option<String>>;
    /// Brings it.
    fn install(&self) -> Result<()>;
}

/// What the machine is to be made ready for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Building the eBPF object.
    Build,
    /// Building, and running the lab.
    Lab,
    /// All that a developer and CI do.
    Everything,
}

/// Installs what is missing; says so, and is quiet about what is there unless `verbose`.
pub(crate) fn ensure(purpose: Purpose, verbose: bool) -> Result<()> {
    let rustc = Rustc::detect()?;
    let _lock = lock()?;
    parts(purpose, &rustc).iter().try_for_each(|part| bring_part(&**part, verbose))
}

/// The same for one part, which few need and no other waits for.
pub(crate) fn bring(part: &dyn Part) -> Result<()> {
    let _lock = lock()?;
    bring_part(part, false)
}

/// Two setups at once would build the same thing twice, into the same place. Held until the file is dropped.
fn lock() -> Result<File> {
    let tools = tools_dir();
    fs::create_dir_all(&tools).with_context(|| format!("creating {}", tools.display()))?;
    let lock = tools.join("lock");
    let file = File::create(&lock).with_context(|| format!("opening {}", lock.display()))?;
    if file.try_lock().is_err() {
        println!("setup: waiting for another one to finish");
        file.lock().with_context(|| format!("locking {}", lock.display()))?;
    }
    Ok(file)
}

fn bring_part(part: &dyn Part, verbose: bool) -> Result<()> {
    match part.missing()? {
        None if verbose => println!("setup: {} already there", part.name()),
        None => {}
        Some(what) => {
            println!("setup: installing {what}");
            let start = Instant::now();
            part.install().with_context(|| format!("installing {what}"))?;
            println!("setup: {} installed in {:.1} s", part.name(), start.elapsed().as_secs_f64());
        }
    }
    Ok(())
}

/// Lists what is missing and changes nothing; an error if anything is.
pub(crate) fn check() -> Result<()> {
    let rustc = Rustc::detect()?;
    let mut missing = 0;
    for part in parts(Purpose::Everything, &rustc) {
        match part.missing()? {
            None => println!("there:   {}", part.name()),
            Some(what) => {
                missing += 1;
                println!("missing: {what}");
            }
        }
    }
    if missing > 0 {
        bail!("something is missing; `cargo xtask setup` installs it");
    }
    Ok(())
}

fn parts(purpose: Purpose, rustc: &Rustc) -> Vec<Box<dyn Part + '_>> {
    let mut parts: Vec<Box<dyn Part + '_>> = Vec::new();
    if purpose != Purpose::Build {
        parts.push(Box::new(DebianPackages::LAB));
    }
    parts.push(Box::new(RustSrc { rustc }));
    parts.push(Box::new(BpfLinker { rustc }));
    if purpose == Purpose::Everything {
        parts.push(Box::new(CargoDeny));
    }
    parts
}
