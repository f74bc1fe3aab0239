//! Which numbers mean which ports and zones, on disk from the moment the maps speak by them.
//!
//! Flows and counters speak of ports and zones by number. When the numbers mean something else now, they must not be
//! taken over: a flow between two zones would become one between two others.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::config::Config;

/// The meaning of the numbers in one configuration, and the file that holds the one in force.
pub(super) struct Layout {
    path: PathBuf,
    text: String,
}

impl Layout {
    /// That of a configuration.
    pub(super) fn of(config: &Config, run_directory: &Path) -> Layout {
        let mut text = String::new();
        for port in &config.ports {
            text += &format!("port {} {} {} {}\n", port.id, port.name, port.interface, port.zone);
        }
        for port in &config.vpn_ports {
            text += &format!("vpn {} {} {}\n", port.id, port.name, port.zone);
        }
        for zone in &config.zones {
            text += &format!("zone {} {}\n", zone.id, zone.name);
        }
        Layout { path: run_directory.join("layout"), text }
    }

    /// Whether the maps speak by these numbers.
    pub(super) fn is_in_force(&self) -> bool {
        fs::read_to_string(&self.path).is_ok_and(|in_force| in_force == self.text)
    }

    /// Before the first change: a start that fails from here on leaves numbers that nobody may rely on.
    pub(super) fn withdraw(&self) -> anyhow::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Once every map speaks by these numbers.
    pub(super) fn put_in_force(&self) -> anyhow::Result<()> {
        fs::write(&self.path, &self.text).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The next start after one that failed half-way must not take flows over by numbers that never came into force.
    #[test]
    fn a_start_that_failed_half_way_leaves_no_layout() {
        let directory = tempfile::TempDir::new().expect("a folder");
        let layout = |text: &str| Layout { path: directory.path().join("layout"), text: text.into() };
        let (old, new) = (layout("zone 1 lan\n"), layout("zone 1 wan\n"));
        assert!(!old.is_in_force());
        old.withdraw().expect("nothing there is as good");
        old.put_in_force().expect("writes");
        assert!(old.is_in_force() && !new.is_in_force());
        new.withdraw().expect("removes");
        assert!(!old.is_in_force() && !new.is_in_force());
        new.put_in_force().expect("writes");
        assert!(new.is_in_force() && !old.is_in_force());
    }
}
