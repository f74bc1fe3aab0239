//! Being in a network namespace: by thread, so that a measurement returns values instead of text to parse.
//!
//! A thread that has entered a namespace keeps the file systems of the host (`ip netns exec` would hide bpffs), its
//! sockets belong to the namespace for good, and so do the processes it starts.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

/// A named network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// The namespace of this name, which need not exist yet.
    pub fn new(name: String) -> Self {
        Self { name }
    }

    /// Its name under `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that holds it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Does something inside: sockets opened and processes started there stay there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter()?;
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Does something inside, in the background.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> JoinHandle<Result<T>> {
        let inside = self.clone();
        thread::spawn(move || {
            inside.enter()?;
            work()
        })
    }

    /// Runs a program inside to its end; its stdout if it succeeds, else an error with what it printed.
    pub fn output(&self, command: &mut Command) -> Result<String> {
        self.run(|| output(command)).with_context(|| format!("in namespace {}", self.name))
    }

    /// Sets a sysctl by its path below `/proc/sys/net`.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<()> {
        self.run(|| {
            let file = format!("/proc/sys/net/{path}");
            std::fs::write(&file, value).with_context(|| format!("writing {value} to {file}"))
        })
    }

    /// Reads a file below `/proc/net` as this namespace sees it.
    pub fn proc_net(&self, file: &str) -> Result<String> {
        self.run(|| {
            // `/proc/net` would be the whole process's, not this thread's.
            let file = format!("/proc/thread-self/net/{file}");
            std::fs::read_to_string(&file).with_context(|| format!("reading {file}"))
        })
    }

    /// The device's hardware address.
    pub fn mac(&self, device: &str) -> Result<[u8; 6]> {
        self.run(|| link_address(device)?.addr().with_context(|| format!("{device} has no hardware address")))
    }

    fn enter(&self) -> Result<()> {
        let path = self.path();
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering namespace {}", self.name))
    }
}

/// The link-layer address of a device of the current thread's namespace, as a packet socket binds to it.
pub(crate) fn link_address(device: &str) -> Result<nix::sys::socket::LinkAddr> {
    nix::ifaddrs::getifaddrs()
        .context("listing interfaces")?
        .filter(|interface| interface.interface_name == device)
        .find_map(|interface| interface.address.as_ref().and_then(|address| address.as_link_addr().copied()))
        .with_context(|| format!("there is no device {device}"))
}

/// The stdout of a program that succeeds.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(std::process::Stdio::null())
        .output()
        .with_context(|| format!("starting {:?}", command.get_program()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        bail!("{command:?}: {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
    }
    Ok(text(&output.stdout))
}
