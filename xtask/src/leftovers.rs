//! Removes what a lab left behind: network namespaces, and the processes in them.
//!
//! A lab names its namespaces `sk-…`, and a lab that belongs to a running process `sk-<its pid>-…`. Several runs may
//! share a machine, and one may have been left up on purpose (`demo --keep`), so a sweep takes only what is known to
//! be ownerless: the pid's process is gone, or it carries no pid and appeared during this very run.

use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::process;

/// What was there before the run.
pub(crate) struct Leftovers {
    before: BTreeSet<String>,
}

impl Leftovers {
    /// Takes note of what is there.
    pub(crate) fn note() -> Result<Self> {
        Ok(Self { before: namespaces()? })
    }

    /// Removes what is ownerless; returns what it removed.
    pub(crate) fn sweep(&self) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        for name in namespaces()? {
            let ownerless = match owner(&name) {
                Some(pid) => !Path::new("/proc").join(pid.to_string()).exists(),
                None => !self.before.contains(&name),
            };
            if ownerless {
                remove(&name)?;
                removed.push(name);
            }
        }
        Ok(removed)
    }
}

/// The lab's namespaces that exist now.
fn namespaces() -> Result<BTreeSet<String>> {
    if !process::have("ip") {
        return Ok(BTreeSet::new());
    }
    // `sk-gw1 (id: 3)`
    let list = process::output(process::as_root("ip").args(["netns", "list"]))?;
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    Ok(names.filter(|name| name.starts_with("sk-")).map(str::to_owned).collect())
}

/// The pid in `sk-<pid>-…`.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix("sk-")?.split('-').next()?.parse().ok()
}

fn remove(name: &str) -> Result<()> {
    let pids = process::output(process::as_root("ip").args(["netns", "pids", name]))?;
    for pid in pids.split_whitespace() {
        // A process that is gone by now is as good as killed.
        if process::is_root() {
            let _ = pid.parse().map(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL));
        } else {
            let _ = process::output(process::as_root("kill").args(["-KILL", pid]));
        }
    }
    // The last process holds the namespace, and with it its links, until the kernel has cleared it away.
    std::thread::sleep(Duration::from_millis(20));
    process::output(process::as_root("ip").args(["netns", "delete", name]))
        .with_context(|| format!("removing the namespace {name}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::owner;

    #[test]
    fn owner_is_in_the_name() {
        assert_eq!(owner("sk-4711-gw1"), Some(4711));
        assert_eq!(owner("sk-demo-gw1"), None);
        assert_eq!(owner("sk-"), None);
        assert_eq!(owner("eth0"), None);
    }
}
