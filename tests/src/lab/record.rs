//! What a lab has made, written down before it is made, so that a run that was killed can be cleaned up by the next.
//!
//! `/run/sekisho-lab/<lab>/record` has one entry a line:
//!
//! ```text
//! namespace sk-demo-clinic
//! gateway demo-clinic
//! process 4711 8812345 sekishod
//! ```
//!
//! A process is known by its pid *and* its start time (field 22 of `/proc/<pid>/stat`), for pids are used again.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::topology;

const ROOT: &str = "/run/sekisho-lab";
/// What a process gets to end by itself: `sekishod` removes addresses, programs and SAs then.
const GRACE: Duration = Duration::from_secs(5);

/// The open record of one lab.
#[derive(Clone, Debug)]
pub struct Record {
    dir: PathBuf,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Namespace(String),
    Gateway(String),
    Process { pid: i32, start: u64 },
}

impl Record {
    /// Begins the record of a lab.
    pub(super) fn open(lab: &str) -> Result<Self> {
        let dir = Path::new(ROOT).join(lab);
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(Self { dir })
    }

    /// The lab's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A namespace is about to be made.
    pub(super) fn namespace(&self, name: &str) -> Result<()> {
        self.write(&format!("namespace {name}"))
    }

    /// A gateway of this name is about to be started: its run directory and its pins may stay if it is killed.
    pub fn gateway(&self, name: &str) -> Result<()> {
        self.write(&format!("gateway {name}"))
    }

    /// A process was started.
    pub fn process(&self, pid: u32, what: &str) -> Result<()> {
        let pid = i32::try_from(pid).context("a pid beyond the kernel's range")?;
        match start_time(pid) {
            Some(start) => self.write(&format!("process {pid} {start} {what}")),
            None => Ok(()),
        }
    }

    fn write(&self, line: &str) -> Result<()> {
        let path = self.dir.join("record");
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        writeln!(file, "{line}").with_context(|| format!("writing to {}", path.display()))
    }
}

/// The labs that have a record: up, or left behind.
pub fn labs() -> Result<Vec<String>> {
    match fs::read_dir(ROOT) {
        Ok(entries) => Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("reading {ROOT}")),
    }
}

/// Removes everything a lab has made; does nothing if there is nothing.
pub fn tear_down(lab: &str) -> Result<()> {
    let dir = Path::new(ROOT).join(lab);
    let text = match fs::read_to_string(dir.join("record")) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("reading the record of lab {lab}")),
    };
    let entries: Vec<Entry> = text.lines().filter_map(parse).collect();
    let processes: Vec<(i32, u64)> = entries
        .iter()
        .rev()
        .filter_map(|entry| match entry {
            Entry::Process { pid, start } => Some((*pid, *start)),
            _ => None,
        })
        .collect();
    end(&processes)?;
    let mut batch = String::new();
    for entry in &entries {
        match entry {
            Entry::Namespace(name) if Path::new("/run/netns").join(name).exists() => {
                batch.push_str(&format!("netns del {name}\n"));
            }
            Entry::Gateway(name) => {
                for dir in [format!("/sys/fs/bpf/sekisho/{name}"), format!("/run/sekisho/{name}")] {
                    remove_tree(Path::new(&dir))?;
                }
            }
            _ => {}
        }
    }
    if !batch.is_empty() {
        topology::ip(&[], &batch)?;
    }
    remove_tree(&dir)
}

fn parse(line: &str) -> Option<Entry> {
    let mut words = line.split(' ');
    match (words.next()?, words.next()?) {
        ("namespace", name) if is_plain(name) => Some(Entry::Namespace(name.to_owned())),
        ("gateway", name) if is_plain(name) => Some(Entry::Gateway(name.to_owned())),
        ("process", pid) => Some(Entry::Process {
            pid: pid.parse().ok().filter(|pid| *pid > 1)?,
            start: words.next()?.parse().ok()?,
        }),
        _ => None,
    }
}

/// A name that stays one path component.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Asks all to end, then makes them.
fn end(processes: &[(i32, u64)]) -> Result<()> {
    let alive = || processes.iter().filter(|(pid, start)| is_alive(*pid, *start));
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        for (pid, _) in alive() {
            // Failing means that it has ended just now.
            let _ = kill(Pid::from_raw(*pid), signal);
        }
        let deadline = Instant::now() + GRACE;
        while alive().next().is_some() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    if let Some((pid, _)) = alive().next() {
        bail!("process {pid} survives SIGKILL");
    }
    Ok(())
}

/// Whether this very process runs still; a zombie doesn't.
pub(crate) fn is_alive(pid: i32, start: u64) -> bool {
    stat(pid).is_some_and(|(state, actual)| actual == start && state != 'Z' && state != 'X')
}

/// When the process was started, in ticks since boot.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    stat(pid).map(|(_, start)| start)
}

/// State and start time: fields 3 and 22 of proc(5)'s stat, counted after the command's closing parenthesis, for a
/// command may contain spaces and parentheses itself.
fn stat(pid: i32) -> Option<(char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

fn remove_tree(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("removing {}", dir.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_back_and_nothing_else_is_taken_for_one() {
        assert_eq!(parse("namespace sk-demo-web"), Some(Entry::Namespace("sk-demo-web".into())));
        assert_eq!(parse("process 12 99 sekishod"), Some(Entry::Process { pid: 12, start: 99 }));
        for bad in [
            "",
            "process",
            "process 1 5 init",
            "process x 5",
            "gateway ../../etc",
            "namespace a/b",
            "gateway ",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_process_is_known_by_its_start_time_too() {
        let own = i32::try_from(std::process::id()).expect("a pid");
        let start = start_time(own).expect("this process runs");
        assert!(is_alive(own, start));
        assert!(!is_alive(own, start + 1), "another process that once had this pid");
    }
}
