//! `sekishod` on one of the lab's gateways, handled as an administrator handles it.

pub mod certificates;
pub mod metrics;
pub mod settings;
pub mod status;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::lab::namespace::{Namespace, output};
use crate::lab::patience::until;
use crate::lab::plan::Place;
use crate::lab::process::Process;
use crate::lab::{Lab, topology};

use settings::Settings;
use status::Status;

/// From the start of the process to its first answer, on a busy machine.
const START: Duration = Duration::from_secs(20);
/// From SIGTERM to the end.
const STOP: Duration = Duration::from_secs(15);

/// A program of the product.
pub fn program(name: &str) -> Result<PathBuf> {
    let dir = match std::env::var_os("SEKISHO_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let exe = std::env::current_exe().context("asking where this program stands")?;
            let dir = exe.parent().context("this program stands in no folder")?;
            // Tests stand one folder deeper than programs.
            if dir.ends_with("deps") { dir.parent().unwrap_or(dir).to_owned() } else { dir.to_owned() }
        }
    };
    let path = dir.join(name);
    ensure!(
        path.is_file(),
        "{} is not built: run `cargo build --package sekisho`, use `cargo xtask`, or set SEKISHO_BIN_DIR",
        path.display()
    );
    Ok(path)
}

/// One gateway.
#[derive(Debug)]
pub struct Sekishod {
    name: String,
    namespace: Namespace,
    config: PathBuf,
    log: PathBuf,
    log_level: &'static str,
    process: Option<Process>,
}

impl Sekishod {
    /// Writes the configuration and starts the daemon; returns once it answers.
    pub fn start(lab: &Lab, place: Place, settings: &Settings) -> Result<Self> {
        let mut gateway = Self::prepare(lab, place, settings)?;
        gateway.launch(lab)?;
        Ok(gateway)
    }

    /// Writes the configuration, and starts nothing yet.
    pub fn prepare(lab: &Lab, place: Place, settings: &Settings) -> Result<Self> {
        Self::with_file(lab, place, |name| settings.toml(name), settings.log_level)
    }

    /// The same with a configuration that the caller has written, once it knows the gateway's name.
    pub fn with_file(
        lab: &Lab,
        place: Place,
        file: impl FnOnce(&str) -> String,
        log_level: &'static str,
    ) -> Result<Self> {
        Self::in_namespace(lab, (place.name(), lab.at(place)), file, log_level)
    }

    /// The same in any namespace of the lab, under a name of its own there.
    pub fn in_namespace(
        lab: &Lab,
        (name, namespace): (&str, Namespace),
        file: impl FnOnce(&str) -> String,
        log_level: &'static str,
    ) -> Result<Self> {
        let name = format!("{}-{name}", lab.name());
        let config = lab.dir().join(format!("{name}.toml"));
        fs::write(&config, file(&name)).with_context(|| format!("writing {}", config.display()))?;
        let log = lab.dir().join(format!("{name}.log"));
        Ok(Self { namespace, name, config, log, log_level, process: None })
    }

    /// Starts the daemon with the configuration that stands; returns once it answers.
    pub fn launch(&mut self, lab: &Lab) -> Result<()> {
        let started = self.begin(lab)?;
        self.await_answer(started)
    }

    /// Starts two of them; returns once both answer. An emulated machine takes seconds to judge the programs of one, and does
    /// it on one processor.
    pub fn launch_both(lab: &Lab, first: &mut Self, second: &mut Self) -> Result<()> {
        let started = [first.begin(lab)?, second.begin(lab)?];
        let [of_first, of_second] = started;
        first.await_answer(of_first)?;
        second.await_answer(of_second)
    }

    /// Starts the daemon, and says how long its log was before.
    fn begin(&self, lab: &Lab) -> Result<(Process, usize)> {
        ensure!(self.process.is_none(), "{} runs already", self.name);
        lab.record().gateway(&self.name)?;
        let mut command = Command::new(program("sekishod")?);
        command.arg("--config").arg(&self.config).args(["--log-level", self.log_level]);
        let log_before = self.log().len();
        Ok((Process::start_in(lab, &self.namespace, &mut command, &self.name)?, log_before))
    }

    fn await_answer(&mut self, (mut process, log_before): (Process, usize)) -> Result<()> {
        until(START, "sekishod's first answer", || {
            if let Some(status) = process.ended()? {
                // Asking on would only wait for nothing.
                let log = process.log();
                let said = tail(log.get(log_before..).unwrap_or_default(), 12);
                return Ok(Some(Err(anyhow::anyhow!("sekishod ended with {status}:\n{said}"))));
            }
            // The previous daemon's answer, if it is still there, is not this one's.
            Ok((self.status()?.pid() == u64::from(process.pid())).then_some(Ok(())))
        })?
        .0?;
        self.process = Some(process);
        Ok(())
    }

    /// Writes another configuration and has the daemon carry out the difference.
    pub fn reload(&mut self, settings: &Settings) -> Result<()> {
        fs::write(&self.config, settings.toml(&self.name))
            .with_context(|| format!("writing {}", self.config.display()))?;
        self.sekisho(&["reload"]).map(drop)
    }

    /// Its name: `<lab>-clinic`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it stands.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Everything it has logged, in all its runs.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// What `sekisho status --json` says.
    pub fn status(&self) -> Result<Status> {
        Status::parse(&self.sekisho(&["status", "--json"])?)
    }

    /// Runs `sekisho --gateway <name> …` and returns what it printed.
    pub fn sekisho(&self, arguments: &[&str]) -> Result<String> {
        output(Command::new(program("sekisho")?).args(["--gateway", &self.name]).args(arguments))
    }

    /// Waits until a connection is up; how long that took.
    pub fn await_up(&self, connection: &str, patience: Duration) -> Result<Duration> {
        self.await_state(connection, "up", patience)
    }

    /// Waits for a state of a connection; how long that took.
    pub fn await_state(&self, connection: &str, state: &str, patience: Duration) -> Result<Duration> {
        let what = format!("connection {connection} of {} {state}", self.name);
        let waited = until(patience, &what, || {
            Ok((self.status()?.connection(connection)?.state() == state).then_some(()))
        });
        match waited {
            Ok(((), time)) => Ok(time),
            Err(error) => {
                let now = self.status()?.connection(connection)?.describe();
                Err(error.context(format!("it is {now}")))
            }
        }
    }

    /// SIGKILL: what a crash does. The filter must stay in force.
    pub fn crash(&mut self) -> Result<()> {
        self.process.take().context("the daemon does not run")?.crash()
    }

    /// SIGTERM, and the exit status.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.process.take().context("the daemon does not run")?.stop(STOP)
    }

    /// Whether the daemon was started and not yet stopped or crashed.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Goes on after this program has ended.
    pub fn keep(&mut self) {
        if let Some(process) = &mut self.process {
            process.keep();
        }
    }

    /// What is left of a gateway that was stopped: pins, devices, programs on ports. Nothing, if all is well.
    pub fn leftovers(&self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        for dir in [format!("/sys/fs/bpf/sekisho/{}", self.name), format!("/run/sekisho/{}", self.name)] {
            if Path::new(&dir).exists() {
                left.push(dir);
            }
        }
        let links = topology::ip_show(&self.namespace, &["-oneline", "link", "show"])?;
        left.extend(
            links
                .lines()
                .filter(|link| {
                    link.contains(": sekisho") || link.contains("prog/xdp") || link.contains(" xdp ")
                })
                .map(|link| format!("link {link}")),
        );
        let addresses = topology::ip_show(&self.namespace, &["-oneline", "addr", "show", "scope", "global"])?;
        left.extend(addresses.lines().map(|address| format!("address {address}")));
        // Where the kernel has no IPsec, there is none to ask for.
        if Path::new("/proc/net/xfrm_stat").exists() {
            for kind in ["state", "policy"] {
                let listed = topology::ip_show(&self.namespace, &["xfrm", kind, "list"])?;
                left.extend(
                    listed
                        .lines()
                        .filter(|line| line.starts_with("src"))
                        .map(|line| format!("{kind} {line}")),
                );
            }
        }
        Ok(left)
    }
}

/// The last lines of a log.
pub fn tail(log: &str, lines: usize) -> String {
    let all: Vec<&str> = log.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}
