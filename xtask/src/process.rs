//! Running commands: each in a group of its own, so that an interrupt or a deadline ends the whole tree below it.
//!
//! Owns the one record of what runs at the moment and the one flag that says "we were asked to stop". Everything
//! that may take long goes through [`run`] or [`run_watched`]; quick questions to the system go through [`output`].

use std::{
    env,
    ffi::OsStr,
    io::{self, BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill, killpg},
    unistd::{Pid, geteuid},
};

use crate::ebpf_build;

/// What [`on_interrupt`] has to end: a whole group, or the one foreground process that shares the terminal with us.
#[derive(Clone, Copy)]
enum Running {
    Group(Pid),
    Foreground(Pid),
}

static RUNNING: Mutex<Option<Running>> = Mutex::new(None);
static OURSELVES: OnceLock<PathBuf> = OnceLock::new();
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How often a running command is looked at: short beside any command that matters, long beside the cost of looking.
const POLL: Duration = Duration::from_millis(50);
/// How long a group has between being asked to end and being made to: a lab takes its daemons and namespaces down
/// then, which takes seconds.
const GRACE: Duration = Duration::from_secs(20);

/// Remembers where this program is. For the beginning: a build on the way may put another in its place, and the kernel calls this
/// one deleted from then on.
pub(crate) fn remember_ourselves() -> Result<()> {
    let path = env::current_exe().context("finding this program")?;
    OURSELVES.get_or_init(|| path);
    Ok(())
}

/// Where this program is, or the one that a build has put in its place.
pub(crate) fn ourselves() -> Result<&'static Path> {
    OURSELVES.get().map(PathBuf::as_path).context("where this program is was not asked in time")
}

/// From now on SIGINT, SIGTERM and SIGHUP end what runs, and let the caller clean up, instead of ending us on the spot.
pub(crate) fn handle_signals() -> Result<()> {
    ctrlc::set_handler(on_interrupt).context("installing the signal handler")
}

fn on_interrupt() {
    // The second request finds a command that didn't listen to the first one.
    let signal = if INTERRUPTED.swap(true, Ordering::SeqCst) { Signal::SIGKILL } else { Signal::SIGTERM };
    let running = *RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    match running {
        Some(Running::Group(leader)) => signal_group(leader, signal),
        // Failing means that it ended by itself just now.
        Some(Running::Foreground(pid)) => drop(kill(pid, signal)),
        None => {}
    }
}

/// Signals every process of a group. One that ended by itself just now is no error.
fn signal_group(leader: Pid, signal: Signal) {
    let _ = killpg(leader, signal);
    if !is_root() {
        // What sudo started for us is out of our own reach.
        let mut kill = Command::new("sudo");
        kill.args(["--non-interactive", "kill", "-s", signal.as_str().trim_start_matches("SIG"), "--"]);
        let _ = kill.arg(format!("-{leader}")).stderr(Stdio::null()).status();
    }
}

/// True once we were asked to stop.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// True where we are root.
pub(crate) fn is_root() -> bool {
    geteuid().is_root()
}

/// A command that needs root: as it is where we are root, through sudo where not.
pub(crate) fn as_root(program: impl AsRef<OsStr>) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg("--preserve-env").arg("--").arg(program);
    command
}

/// Asks for the password now, at the terminal, and not in the middle of a test that owns it.
pub(crate) fn authenticate() -> Result<()> {
    if is_root() {
        return Ok(());
    }
    run_foreground(Command::new("sudo").arg("--validate")).context("this needs root, or sudo")
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// True if a program of this name is in PATH or where the system's own programs are (a user's PATH often lacks sbin).
pub(crate) fn have(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir: PathBuf| dir.join(program).is_file())
}

/// Runs a command to its end, its output on ours; an error if it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    echo(command);
    let child = spawn(command.stdin(Stdio::null()))?;
    let status = wait(child, command, None)?;
    check(command, status)
}

/// Runs a command that may talk to the user: it stays in the terminal's foreground.
pub(crate) fn run_foreground(command: &mut Command) -> Result<()> {
    echo(command);
    let child = command.spawn().with_context(|| format!("starting `{}`", ebpf_build::line(command)))?;
    set_running(Some(Running::Foreground(pid(&child))));
    let status = wait(child, command, None)?;
    check(command, status)
}

/// The stdout of a quick command that succeeds.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = ebpf_build::line(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}`: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// How a watched command ended.
pub(crate) enum Ending {
    Exited(ExitStatus),
    /// It was still running at its deadline.
    TimedOut,
}

/// Runs a command to its end or its deadline, its output on ours, and shows `line` every line of it.
pub(crate) fn run_watched(
    command: &mut Command,
    deadline: Duration,
    line: impl Fn(&str) + Sync,
) -> Result<Ending> {
    echo(command);
    watch(command, deadline, line)
}

/// The same without a word about the command, which is none that anybody would type.
pub(crate) fn watch(command: &mut Command, deadline: Duration, line: impl Fn(&str) + Sync) -> Result<Ending> {
    let mut child = spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let end = Instant::now() + deadline;
    thread::scope(|scope| {
        scope.spawn(|| stdout.map(|from| pass_on(from, io::stdout(), &line)));
        scope.spawn(|| stderr.map(|from| pass_on(from, io::stderr(), &line)));
        match wait(child, command, Some(end))? {
            Waited::Exited(status) => Ok(Ending::Exited(status)),
            Waited::TimedOut => Ok(Ending::TimedOut),
        }
    })
}

/// Copies line by line; ends when the last holder of the other end is gone.
fn pass_on(from: impl io::Read, mut to: impl Write, line: &impl Fn(&str)) {
    let mut from = BufReader::new(from);
    let mut bytes = Vec::new();
    // A line that isn't UTF-8, or a terminal that went away, must not end the run.
    while matches!(from.read_until(b'\n', &mut bytes), Ok(1..)) {
        let _ = to.write_all(&bytes).and_then(|()| to.flush());
        line(String::from_utf8_lossy(&bytes).trim_end());
        bytes.clear();
    }
}

enum Waited {
    Exited(ExitStatus),
    TimedOut,
}

fn spawn(command: &mut Command) -> Result<Child> {
    if interrupted() {
        bail!("interrupted");
    }
    let child = command
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting `{}`", ebpf_build::line(command)))?;
    set_running(Some(Running::Group(pid(&child))));
    Ok(child)
}

/// Waits for the end; past `end` (if any), or when we are asked to stop, makes it come.
fn wait(mut child: Child, command: &Command, end: Option<Instant>) -> Result<Waited> {
    let group = pid(&child);
    let mut timed_out = false;
    let mut kill_at = None;
    let status = loop {
        let status =
            child.try_wait().with_context(|| format!("waiting for `{}`", ebpf_build::line(command)))?;
        if let Some(status) = status {
            break status;
        }
        let now = Instant::now();
        if !timed_out && end.is_some_and(|end| now >= end) {
            timed_out = true;
            signal_group(group, Signal::SIGTERM);
        }
        if timed_out || interrupted() {
            let at = *kill_at.get_or_insert(now + GRACE);
            if now >= at {
                signal_group(group, Signal::SIGKILL);
            }
        }
        thread::sleep(POLL);
    };
    end_group(group, kill_at.unwrap_or_else(|| Instant::now() + GRACE));
    set_running(None);
    Ok(if timed_out { Waited::TimedOut } else { Waited::Exited(status) })
}

/// Ends what the leader left in its group: a test that outlives its killed cargo takes its lab down first, and is
/// waited for until `kill_at`. What stayed would hold our pipes open.
fn end_group(group: Pid, kill_at: Instant) {
    let left = || !matches!(killpg(group, None), Err(Errno::ESRCH));
    if left() {
        signal_group(group, Signal::SIGTERM);
    }
    while left() && Instant::now() < kill_at {
        thread::sleep(POLL);
    }
    if left() {
        signal_group(group, Signal::SIGKILL);
    }
}

fn check(command: &Command, waited: Waited) -> Result<()> {
    if interrupted() {
        bail!("interrupted");
    }
    match waited {
        Waited::Exited(status) if status.success() => Ok(()),
        Waited::Exited(status) => bail!("`{}`: {status}", ebpf_build::line(command)),
        Waited::TimedOut => bail!("`{}`: not done in time", ebpf_build::line(command)),
    }
}

fn set_running(running: Option<Running>) {
    *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) = running;
}

fn pid(child: &Child) -> Pid {
    // Linux's pids end at 2^22.
    Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX))
}

/// Says what is about to run, as one would type it.
fn echo(command: &Command) {
    println!("+ {}", ebpf_build::line(command));
}
