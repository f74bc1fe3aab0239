//! Which numbers mean which ports and zones, on disk from the moment the maps speak by them.
//!
//! Flows and counters speak of ports and zones by number. `numbers` says what each stands for, so that the next
//! configuration gives the same ones ([`Numbers`]); where it cannot be read, flows are not taken over: one between two
//! zones would become one between two others. `layout` says on which interface and in which zone each port was: where
//! that has changed, a start closes the filter until every map says the same.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::api::run_directory;
use crate::config::{Config, Numbers};

/// Holds the inode of the network namespace that the gateway's devices are in.
pub(super) const NAMESPACE: &str = "namespace";
const NUMBERS: &str = "numbers";
const LAYOUT: &str = "layout";

/// The numbers that a gateway's maps speak by; none if nothing is in force.
pub fn numbers_in_force(gateway: &str) -> Numbers {
    read_numbers(&run_directory(gateway)).unwrap_or_default()
}

/// Refuses a start where a gateway of this name is in force in another network namespace: programs, ledger and addresses
/// belong to that one's devices, and would be taken for this one's.
pub(super) fn claim_namespace(run_directory: &Path, gateway: &str, is_in_force: bool) -> anyhow::Result<()> {
    let own = fs::metadata("/proc/self/ns/net").context("cannot ask for the network namespace")?.ino();
    claim(run_directory, gateway, is_in_force, own)
}

fn claim(run_directory: &Path, gateway: &str, is_in_force: bool, own: u64) -> anyhow::Result<()> {
    let path = run_directory.join(NAMESPACE);
    let other = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    if let Some(other) = other.filter(|other| is_in_force && *other != own) {
        anyhow::bail!(
            "gateway {gateway} is in force in another network namespace (net:[{other}], here it is net:[{own}]): give this \
             one a name of its own; if that namespace is gone, remove /sys/fs/bpf/sekisho/{gateway} and {}",
            run_directory.display()
        );
    }
    fs::write(&path, own.to_string()).with_context(|| format!("cannot write {}", path.display()))
}

fn read_numbers(run_directory: &Path) -> Option<Numbers> {
    Numbers::parse(&fs::read_to_string(run_directory.join(NUMBERS)).ok()?)
}

/// What the numbers mean in one configuration, and the files that hold what is in force.
pub(super) struct Layout {
    directory: PathBuf,
    numbers: Numbers,
    text: String,
}

impl Layout {
    /// That of a configuration.
    pub(super) fn of(config: &Config, run_directory: &Path) -> Layout {
        let mut text = String::new();
        for port in &config.ports {
            text += &format!("port {} {} {} {}\n", port.id, port.name, port.device(), port.zone);
        }
        for port in &config.vpn_ports {
            text += &format!("vpn {} {} {}\n", port.id, port.name, port.zone);
        }
        Layout { directory: run_directory.to_owned(), numbers: config.numbers.clone(), text }
    }

    /// Whether the maps speak by these numbers, and perhaps by others that nothing here has.
    pub(super) fn knows_the_numbers(&self) -> bool {
        read_numbers(&self.directory).is_some_and(|in_force| in_force.with(&self.numbers).is_some())
    }

    /// Ports that the maps do not speak of yet; all of them if they speak by numbers unknown.
    pub(super) fn new_ports(&self) -> Vec<u16> {
        self.numbers.new_ports(&read_numbers(&self.directory).unwrap_or_default()).collect()
    }

    /// The same for policies.
    pub(super) fn new_policies(&self) -> Vec<u16> {
        self.numbers.new_policies(&read_numbers(&self.directory).unwrap_or_default()).collect()
    }

    /// Whether the maps have the same ports on the same interfaces in the same zones.
    pub(super) fn is_in_force(&self) -> bool {
        self.knows_the_numbers()
            && fs::read_to_string(self.directory.join(LAYOUT)).is_ok_and(|in_force| in_force == self.text)
    }

    /// Before the first change. From here on the old numbers and the new ones are in use, and after a start that fails
    /// half-way nobody relies on the ports being as they were.
    pub(super) fn begin(&self) -> anyhow::Result<()> {
        let both = read_numbers(&self.directory).and_then(|in_force| in_force.with(&self.numbers));
        self.write(NUMBERS, &both.unwrap_or_else(|| self.numbers.clone()).to_string())?;
        if self.is_in_force() { Ok(()) } else { self.remove(LAYOUT) }
    }

    /// Once every map speaks by these numbers.
    pub(super) fn put_in_force(&self) -> anyhow::Result<()> {
        self.write(NUMBERS, &self.numbers.to_string())?;
        self.write(LAYOUT, &self.text)
    }

    /// Once nothing speaks by them any more.
    pub(super) fn withdraw(&self) -> anyhow::Result<()> {
        self.remove(LAYOUT)?;
        self.remove(NUMBERS)
    }

    fn write(&self, file: &str, text: &str) -> anyhow::Result<()> {
        let (path, aside) = (self.directory.join(file), self.directory.join(format!("{file}.new")));
        // A rename is atomic: a crash leaves the old numbers or the new ones.
        fs::write(&aside, text)
            .and_then(|()| fs::rename(&aside, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn remove(&self, file: &str) -> anyhow::Result<()> {
        let path = self.directory.join(file);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(directory: &Path, numbers: &str, text: &str) -> Layout {
        let numbers = Numbers::parse(numbers).expect("numbers");
        Layout { directory: directory.to_owned(), numbers, text: text.into() }
    }

    /// The next start after one that failed half-way must not take the ports for unchanged.
    #[test]
    fn a_start_that_failed_half_way_leaves_no_layout_but_every_number() {
        let directory = tempfile::TempDir::new().expect("a folder");
        let old = layout(directory.path(), "zone 1 lan\n", "port lan on lan1\n");
        let new = layout(directory.path(), "zone 2 wan\n", "port wan on lan1\n");
        assert!(!old.is_in_force() && !old.knows_the_numbers());
        old.withdraw().expect("nothing there is as good");
        old.put_in_force().expect("writes");
        assert!(old.is_in_force() && !new.is_in_force());
        new.begin().expect("writes");
        assert!(!old.is_in_force() && !new.is_in_force());
        assert!(old.knows_the_numbers() && new.knows_the_numbers(), "both may be in the maps");
        new.put_in_force().expect("writes");
        assert!(new.is_in_force() && !old.is_in_force());
        new.withdraw().expect("removes");
        assert!(!new.knows_the_numbers());
    }

    #[test]
    fn another_namespace_is_refused_while_the_gateway_is_in_force() {
        let directory = tempfile::TempDir::new().expect("a folder");
        let claim = |is_in_force, own| claim(directory.path(), "clinic", is_in_force, own);
        claim(true, 1).expect("nobody has claimed it");
        claim(true, 1).expect("its own");
        let error = claim(true, 2).expect_err("another's").to_string();
        assert!(
            error.contains("clinic") && error.contains("net:[1]") && error.contains("net:[2]"),
            "{error}"
        );
        claim(false, 2).expect("nothing is in force any more");
        claim(true, 2).expect("its own now");
    }

    #[test]
    fn a_number_that_meant_something_else_is_not_known() {
        let directory = tempfile::TempDir::new().expect("a folder");
        layout(directory.path(), "zone 1 lan\nport 1 lan1\n", "").put_in_force().expect("writes");
        let other = layout(directory.path(), "zone 1 wan\nport 1 lan1\nport 2 lan2\n", "");
        assert!(!other.knows_the_numbers());
        assert_eq!(other.new_ports(), [2]);
    }
}
