//! Programs that are not ours: where they are, and how old.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// The program of this name: where the environment variable says, else in PATH or where the system keeps its own.
///
/// # Errors
/// When it is nowhere.
pub fn find(name: &str, variable: Option<&str>) -> Result<PathBuf> {
    if let Some(path) = variable.and_then(env::var_os).filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir: PathBuf| dir.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not installed; `cargo xtask perf` brings it"))
}

/// The first line in which a program says a number after its own name or "version".
///
/// # Errors
/// When it cannot be started, or says nothing of the kind.
pub fn version(program: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("starting {}", program.display()))?;
    // Some say it on stderr, and some below a banner.
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    version_line(&text).map(str::to_owned).with_context(|| format!("{} tells no version", program.display()))
}

fn version_line(text: &str) -> Option<&str> {
    text.lines().map(str::trim).find(|line| {
        line.split_whitespace().skip(1).any(|word| {
            let word = word.trim_start_matches(['v', 'U']);
            word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.')
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_below_a_banner() {
        let text = "┌────┐\n│  Running wireguard-go is not required  │\n└────┘\nwireguard-go v0.0.20220316\n\nUserspace";
        assert_eq!(version_line(text), Some("wireguard-go v0.0.20220316"));
        assert_eq!(version_line("Linux strongSwan U5.9.8/K6.1"), Some("Linux strongSwan U5.9.8/K6.1"));
        assert_eq!(version_line("iperf 3.12 (cJSON 1.7.15)"), Some("iperf 3.12 (cJSON 1.7.15)"));
        assert_eq!(version_line("nothing of the kind"), None);
    }

    #[test]
    fn what_is_nowhere_is_said_to_be() {
        let error = find("no-such-program-anywhere", None).expect_err("nowhere");
        assert!(error.to_string().contains("no-such-program-anywhere is not installed"));
    }
}
