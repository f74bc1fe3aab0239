//! One laboratory: its namespaces, the processes in them, and its teardown.
//!
//! ```text
//!  lan1 192.168.1.10 ─┐                                              web 192.0.2.80
//!  lan2 192.168.2.10 ─┤        198.51.100.0/30     203.0.113.0/30      │
//!  lan3 192.168.3.10 ─┼ clinic ─────────────── internet ──────────── centre ── server 10.2.0.10
//!  lan4 192.168.4.10 ─┘        2001:db8:1::/64     2001:db8:2::/64
//! ```
//!
//! Everything a lab makes is recorded before it is made ([`record`]): the next lab of the same name, or `sekisho-lab
//! down`, removes what a killed run left behind.

pub mod namespace;
pub mod nat;
pub mod patience;
pub mod plan;
pub mod process;
pub mod record;
pub mod topology;
pub mod xfrm;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use anyhow::{Context, Result, bail};

use namespace::Namespace;
use plan::Place;
use record::Record;
use topology::Line;

/// Labs that are up in this process, for the signal handler.
static LIVE: Mutex<Vec<String>> = Mutex::new(Vec::new());
static HANDLER: Once = Once::new();
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// A laboratory that is up. Dropping it takes everything down, unless [`Lab::keep`] was said.
#[derive(Debug)]
pub struct Lab {
    name: String,
    record: Record,
    kept: bool,
}

impl Lab {
    /// Lays the whole topology under a name (lower-case letters and digits, at most 8: it is part of namespace names),
    /// after removing what an earlier lab of that name left behind.
    pub fn up(name: &str) -> Result<Self> {
        Self::by(name, Line::Routed)
    }

    /// The same with the gateways connected in that way.
    pub fn by(name: &str, line: Line) -> Result<Self> {
        require_root()?;
        if name.is_empty()
            || name.len() > 8
            || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        {
            bail!("a lab's name has 1 to 8 lower-case letters and digits, unlike {name:?}");
        }
        record::tear_down(name)?;
        HANDLER.call_once(|| {
            // Failing means that the program has a handler of its own, which then answers for its labs.
            let _ = ctrlc::set_handler(|| {
                INTERRUPTED.store(true, Ordering::SeqCst);
                tear_down_live();
                std::process::exit(130);
            });
        });
        let record = Record::open(name)?;
        LIVE.lock().unwrap_or_else(PoisonError::into_inner).push(name.to_owned());
        let lab = Self { name: name.to_owned(), record, kept: false };
        topology::lay(&lab, line).with_context(|| format!("laying the topology of lab {name}"))?;
        Ok(lab)
    }

    /// The lab's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace of one host or gateway.
    pub fn at(&self, place: Place) -> Namespace {
        Self::namespace(&self.name, place)
    }

    /// Makes one more namespace, for what the plan has no place for.
    pub fn add_namespace(&self, name: &str) -> Result<Namespace> {
        let namespace = Namespace::new(format!("sk-{}-{name}", self.name));
        self.record.namespace(namespace.name())?;
        topology::ip(&[], &format!("netns add {}\n", namespace.name()))?;
        topology::prepare(&namespace)?;
        Ok(namespace)
    }

    /// The namespace of a place of a lab that may be another program's.
    pub fn namespace(lab: &str, place: Place) -> Namespace {
        Namespace::new(format!("sk-{lab}-{}", place.name()))
    }

    /// The lab's own folder: configurations, certificates, logs. Gone with the lab.
    pub fn dir(&self) -> &Path {
        self.record.dir()
    }

    /// What this lab has made so far.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The lab stays up after this program: `sekisho-lab down` removes it.
    pub fn keep(&mut self) {
        self.kept = true;
    }

    /// Copies the logs and configurations to a place that outlives the lab, for a failure to be read.
    pub fn save_logs(&self) -> Result<PathBuf> {
        let to = target_dir()?.join("lab-logs").join(&self.name);
        copy_readable(self.dir(), &to).with_context(|| format!("saving the logs of lab {}", self.name))?;
        Ok(to)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        LIVE.lock().unwrap_or_else(PoisonError::into_inner).retain(|live| *live != self.name);
        if self.kept {
            return;
        }
        if let Err(error) = record::tear_down(&self.name) {
            eprintln!("lab {} is not wholly gone: {error:#}; `sekisho-lab down` tries again", self.name);
        }
    }
}

/// Whether a signal has asked this program to end: what fails from now on fails for want of its lab.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Takes down every lab of this process that is up: what a signal does.
pub fn tear_down_live() {
    let live = std::mem::take(&mut *LIVE.lock().unwrap_or_else(PoisonError::into_inner));
    for name in live {
        if let Err(error) = record::tear_down(&name) {
            eprintln!("lab {name} is not wholly gone: {error:#}");
        }
    }
}

/// Namespaces, XDP and raw sockets need root, and a lab that quietly does less would prove less.
pub fn require_root() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the lab makes network namespaces: run this as root (`cargo xtask` does so through sudo)");
    }
    Ok(())
}

/// Cargo's target directory, found from where this program stands in it.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("asking where this program stands")?;
    exe.ancestors()
        .find(|dir| dir.join("CACHEDIR.TAG").is_file())
        .map(Path::to_owned)
        .with_context(|| format!("{} does not stand in a target directory of cargo", exe.display()))
}

/// Copies a tree without private keys: logs get attached to reports.
fn copy_readable(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("creating {}", to.display()))?;
    for entry in std::fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_readable(&source, &target)?;
        } else if kind.is_file() && !source.to_string_lossy().contains("key") {
            std::fs::copy(&source, &target).with_context(|| format!("copying {}", source.display()))?;
        }
    }
    Ok(())
}
