//! Sysctls, by their path below /proc/sys (which shows the namespace of the process).

use std::fs;
use std::path::PathBuf;

use super::KernelError;

/// Reads a value, without its line end.
pub(super) fn read(key: &str) -> Result<String, KernelError> {
    fs::read_to_string(path(key))
        .map(|value| value.trim_end().to_owned())
        .map_err(KernelError::io(format!("cannot read sysctl {key}")))
}

/// Writes a value.
pub(super) fn write(key: &str, value: &str) -> Result<(), KernelError> {
    fs::write(path(key), value).map_err(KernelError::io(format!("cannot set sysctl {key} to {value}")))
}

fn path(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(key)
}
