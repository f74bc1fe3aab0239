//! A program that runs in the background in one of the lab's namespaces, with its output in the lab's folder.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Lab;
use super::namespace::Namespace;
use super::plan::Place;

/// A running program. Dropping it ends it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    what: String,
    log: PathBuf,
    kept: bool,
}

impl Process {
    /// Starts a program at a place, in a process group of its own so that a terminal's Ctrl-C reaches only us; its
    /// output is appended to `<lab>/<log>.log`.
    pub fn start(lab: &Lab, place: Place, command: &mut Command, log: &str) -> Result<Self> {
        Self::start_in(lab, &lab.at(place), command, log)
    }

    /// The same in any namespace of the lab.
    pub fn start_in(lab: &Lab, namespace: &Namespace, command: &mut Command, log: &str) -> Result<Self> {
        let what = command.get_program().to_string_lossy().into_owned();
        let log = lab.dir().join(format!("{log}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("opening {}", log.display()))?;
        let errors = file.try_clone().context("duplicating a file descriptor")?;
        command.stdin(Stdio::null()).stdout(file).stderr(errors).process_group(0);
        let child = namespace
            .run(|| command.spawn().with_context(|| format!("starting {what} in {}", namespace.name())))?;
        let process = Self { child, what, log, kept: false };
        let name = Path::new(&process.what).file_name().unwrap_or_default().to_string_lossy().into_owned();
        lab.record().process(process.child.id(), &name)?;
        Ok(process)
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far, in all its runs.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The exit status if it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("asking for {}", self.what))
    }

    /// It goes on when this value is dropped.
    pub fn keep(&mut self) {
        self.kept = true;
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("a pid beyond the kernel's range")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("sending {signal} to {}", self.what))
    }

    /// SIGKILL: what a crash does.
    pub fn crash(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.child.wait().map(drop).with_context(|| format!("waiting for {}", self.what))
    }

    /// SIGTERM, and the exit status within `patience`.
    pub fn stop(mut self, patience: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(patience)
    }

    fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} does not end within {patience:?} of SIGTERM", self.what);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.kept || !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let _ = self.signal(Signal::SIGTERM);
        if self.wait(Duration::from_secs(5)).is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
