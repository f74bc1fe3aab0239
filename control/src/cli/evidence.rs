//! `sekisho evidence verify DIR`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::evidence::verify::{Verified, verify};

/// Evidence that was kept in files.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Find out whether the files are as they were written. Exit code: 0 if they are, 1 if not.
    Verify {
        /// The folder that `[evidence]` names.
        directory: PathBuf,
        /// A copy of `seal.pub` that was kept elsewhere; whoever forges the files may have forged the one beside them.
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
        /// A head that an earlier verification printed: the chain must still contain it.
        #[arg(long, value_name = "SHA256")]
        head: Option<String>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

impl Arguments {
    /// Does it.
    pub fn run(self) -> ExitCode {
        let Command::Verify { directory, key, head, json } = self.command;
        let key = key.map(std::fs::read_to_string).transpose();
        let found = key.and_then(|key| verify(&directory, key.as_deref(), head.as_deref()));
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                eprintln!("sekisho: {}: {error}", directory.display());
                return ExitCode::FAILURE;
            }
        };
        let text = match json {
            true => serde_json::to_string_pretty(&found).unwrap_or_default(),
            false => render(&found),
        };
        // Nobody is left to read it: the exit code still tells.
        let _ = writeln!(std::io::stdout(), "{text}");
        if found.fault.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn render(found: &Verified) -> String {
    if let Some(fault) = &found.fault {
        return format!("{}:{}: {}", fault.file.display(), fault.line, fault.message);
    }
    let mut text = format!(
        "good: {} records from number {} on, in {} files\nhead {}",
        found.records, found.first, found.files, found.head
    );
    match found.sealed {
        Some(last) => text += &format!("\nsealed up to record {last}"),
        None => text += "\nnot sealed yet",
    }
    if found.lost > 0 {
        text += &format!("\n{} records were never written, as the gateway says itself", found.lost);
    }
    text
}
