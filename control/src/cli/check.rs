//! `sekisho check FILE`.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use crate::config::{self, Config, Diagnostic, Severity};

/// Checks a configuration file, and the certificates and keys that it names. Exit code: 0 if the gateway would take it,
/// 1 if not.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The gateway's TOML file.
    file: PathBuf,
    /// Print findings as JSON on standard output.
    #[arg(long)]
    json: bool,
}

/// The answer as JSON.
#[derive(Serialize)]
struct Answer<'a> {
    file: String,
    accepted: bool,
    findings: &'a [Diagnostic],
}

impl Arguments {
    /// Does it.
    pub fn run(self) -> ExitCode {
        let (config, findings) = match config::load(&self.file) {
            Ok(loaded) => (Some(loaded.config), loaded.warnings),
            Err(findings) => (None, findings),
        };
        let shown = match self.json {
            true => self.show_json(config.is_some(), &findings),
            false => self.show(config.as_ref(), &findings),
        };
        match (shown, config) {
            // Nobody is left to read it (`| head`): the exit code still tells.
            (Err(error), _) if error.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
            (_, Some(_)) => ExitCode::SUCCESS,
            (_, None) => ExitCode::FAILURE,
        }
    }

    fn show_json(&self, accepted: bool, findings: &[Diagnostic]) -> std::io::Result<()> {
        let answer = Answer { file: self.file.display().to_string(), accepted, findings };
        writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&answer)?)
    }

    fn show(&self, config: Option<&Config>, findings: &[Diagnostic]) -> std::io::Result<()> {
        let mut err = std::io::stderr().lock();
        let colours = err.is_terminal();
        for finding in findings {
            writeln!(err, "{}\n", finding.render(colours))?;
        }
        let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
        let file = self.file.display();
        match config {
            None => writeln!(
                err,
                "{file}: {}, {}; the gateway would not start",
                counted(count(Severity::Error), "error"),
                counted(count(Severity::Warning), "warning")
            ),
            Some(config) => writeln!(
                std::io::stdout(),
                "{file}: good. {}: {}, {}, {}, {}{}",
                config.gateway.name,
                counted(config.ports.len(), "port"),
                counted(config.zones.len(), "zone"),
                counted(config.policies.len(), "policy"),
                counted(config.connections.len(), "connection"),
                match count(Severity::Warning) {
                    0 => String::new(),
                    warnings => format!("; {}", counted(warnings, "warning")),
                }
            ),
        }
    }
}

fn counted(number: usize, what: &str) -> String {
    match (number, what.strip_suffix('y')) {
        (1, _) => format!("1 {what}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        (_, None) => format!("{number} {what}s"),
    }
}
