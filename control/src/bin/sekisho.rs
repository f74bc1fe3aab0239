//! The operator's command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sekisho::api::{Answer, Request, ask, run_directory};
use sekisho::causes::told;
use sekisho::cli;

/// Looks into a running Sekisho gateway, and prepares one.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Which gateway, by its name in the configuration; needed only if several run on this machine.
    #[arg(long, short, global = true, value_name = "NAME")]
    gateway: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show tunnels, ports and what was refused.
    Status {
        /// As JSON, with every counter.
        #[arg(long)]
        json: bool,
    },
    /// Bring a connection up.
    Up {
        /// Its name.
        connection: String,
    },
    /// Close a connection and keep it closed.
    Down {
        /// Its name.
        connection: String,
    },
    /// Renew the keys of a connection's child SAs now.
    Rekey {
        /// Its name.
        connection: String,
        /// Renew the IKE SA's keys instead.
        #[arg(long)]
        ike: bool,
    },
    /// Let both ends of a connection prove again who they are, without a gap
    Reauth {
        /// Its name.
        connection: String,
    },
    /// Have the daemon read its configuration file anew, and carry out what has changed.
    Reload {
        /// Only say what would change.
        #[arg(long)]
        check: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show the flows that are known.
    Flows(cli::stream::Flows),
    /// Show what was refused: totals, and the last packets.
    Drops(cli::stream::Drops),
    /// Follow packets live: which verdict, by which rule.
    Trace(cli::stream::Trace),
    /// Follow what happens: flows, SAs, alarms, commands.
    Watch(cli::stream::Watch),
    /// Verify evidence that was kept in files.
    Evidence(cli::evidence::Arguments),
    /// Explain what would become of a packet: by which rule, route and translation, and why.
    Explain(cli::explain::Arguments),
    /// Show which address belongs to which MAC address on ports that bind them.
    Neighbours {
        /// Forget what was learned of this address: the next host that uses it has it.
        #[arg(long, value_name = "ADDRESS")]
        forget: Option<std::net::IpAddr>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Check a configuration file and everything it names.
    Check(cli::check::Arguments),
    /// Make and look at certificates.
    Pki(cli::pki::Arguments),
}

fn main() -> ExitCode {
    let Arguments { gateway, command } = Arguments::parse();
    let (request, json) = match command {
        Command::Check(arguments) => return arguments.run(),
        Command::Pki(arguments) => return arguments.run(),
        Command::Evidence(arguments) => return arguments.run(),
        Command::Explain(arguments) => {
            return cli::explain::show(reach(gateway, async |name| arguments.run(name).await));
        }
        Command::Flows(arguments) => return stream(gateway, async |name| arguments.run(name).await),
        Command::Drops(arguments) => return stream(gateway, async |name| arguments.run(name).await),
        Command::Trace(arguments) => return stream(gateway, async |name| arguments.run(name).await),
        Command::Watch(arguments) => return stream(gateway, async |name| arguments.run(name).await),
        Command::Status { json } => (Request::Status, json),
        Command::Up { connection } => (Request::Up { connection }, false),
        Command::Down { connection } => (Request::Down { connection }, false),
        Command::Reauth { connection } => (Request::Reauth { connection }, false),
        Command::Rekey { connection, ike } => (Request::Rekey { connection, ike }, false),
        Command::Reload { check, json } => (Request::Reload { check }, json),
        Command::Neighbours { forget, json } => (Request::Neighbours { forget }, json),
    };
    match answer(gateway, &request) {
        Ok(Answer::Status { status }) if json => match serde_json::to_string_pretty(&status) {
            Ok(text) => print(&text),
            Err(error) => fail(&error.to_string()),
        },
        Ok(Answer::Status { status }) => print(status.render().trim_end()),
        Ok(Answer::Neighbours { neighbours }) if json => match serde_json::to_string_pretty(&neighbours) {
            Ok(text) => print(&text),
            Err(error) => fail(&error.to_string()),
        },
        Ok(Answer::Neighbours { neighbours }) => print(sekisho::neighbours::render(&neighbours).trim_end()),
        Ok(Answer::Reloaded { reloaded }) if json => match serde_json::to_string_pretty(&reloaded) {
            Ok(text) => print(&text),
            Err(error) => fail(&error.to_string()),
        },
        Ok(Answer::Reloaded { reloaded }) => print(reloaded.render().trim_end()),
        Ok(Answer::Done { message }) => print(&message),
        Ok(Answer::Refused { reason }) => fail(&reason),
        Ok(_) => fail("the daemon answered something else: is it of another version?"),
        Err(error) => fail(&told(&error)),
    }
}

fn print(text: &str) -> ExitCode {
    cli::print(text);
    ExitCode::SUCCESS
}

fn fail(text: &str) -> ExitCode {
    eprintln!("sekisho: {text}");
    ExitCode::FAILURE
}

/// Shows rows until their end.
fn stream(gateway: Option<String>, run: impl AsyncFnOnce(&str) -> std::io::Result<Answer>) -> ExitCode {
    match reach(gateway, run) {
        Ok(Answer::Refused { reason }) => fail(&reason),
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => fail(&told(&error)),
    }
}

fn answer(gateway: Option<String>, request: &Request) -> anyhow::Result<Answer> {
    reach(gateway, async |name| ask(name, request).await)
}

fn reach<T>(gateway: Option<String>, run: impl AsyncFnOnce(&str) -> std::io::Result<T>) -> anyhow::Result<T> {
    let gateway = match gateway {
        Some(name) => name,
        None => only_gateway()?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(&gateway)).map_err(|error| {
        let directory = run_directory(&gateway);
        anyhow::anyhow!(
            "cannot reach the daemon of gateway {gateway}: {error}; is its sekishod running ({}), and are you root?",
            directory.display()
        )
    })
}

/// The gateway of this machine, if there is one and only one.
fn only_gateway() -> anyhow::Result<String> {
    let mut names = Vec::new();
    if let Ok(entries) = std::fs::read_dir("/run/sekisho") {
        for entry in entries.flatten() {
            if entry.path().join("control.sock").exists() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
    }
    names.sort();
    match names.as_slice() {
        [only] => Ok(only.clone()),
        [] => anyhow::bail!("no gateway is running on this machine (nothing in /run/sekisho)"),
        several => anyhow::bail!("several gateways run here; choose with --gateway: {}", several.join(", ")),
    }
}
