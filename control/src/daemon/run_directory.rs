//! The gateway's folder below `/run/sekisho`: whose it is, and its end.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::Context as _;

use super::layout;
use crate::api;
use crate::config::Config;

/// One daemon a gateway: two would undo each other's work.
pub(super) fn lock(directory: &Path, gateway: &str) -> anyhow::Result<File> {
    let path = directory.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        // A daemon that was just stopping may have removed this very file: the next one would lock another.
        Ok(()) => match (file.metadata(), std::fs::metadata(&path)) {
            (Ok(ours), Ok(there)) if ours.ino() == there.ino() => Ok(file),
            _ => anyhow::bail!("gateway {gateway} was just being stopped; start it again"),
        },
        Err(TryLockError::WouldBlock) => {
            anyhow::bail!("gateway {gateway} is running already: its sekishod holds {}", path.display())
        }
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

/// Once nothing is in force any more. What else lies there stays.
pub(super) fn remove(config: &Config, directory: &Path) {
    let _ = std::fs::remove_file(api::socket_path(&config.gateway.name));
    let _ = std::fs::remove_file(directory.join("lock"));
    let _ = std::fs::remove_file(directory.join(layout::NAMESPACE));
    let _ = std::fs::remove_dir(directory);
}
