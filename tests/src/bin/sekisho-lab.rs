//! `sekisho-lab`: the laboratory from a terminal; `cargo xtask demo` and `cargo xtask lab` call it.

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use sekisho_tests::demo::{self, Options, PeerKind};
use sekisho_tests::lab::require_root;

/// Sekisho's laboratory: a clinic, the internet and a centre as network namespaces on this machine.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the gateway at work: a table of checks with measured figures.
    Demo {
        /// Leave the lab up, and say how to look around in it.
        #[arg(long)]
        keep: bool,
        /// Who stands at the centre.
        #[arg(long, value_enum, default_value_t = Peer::Sekisho)]
        peer: Peer,
        /// Which ESP the gateways use.
        #[arg(long, value_enum, default_value_t = Datapath::Auto)]
        datapath: Datapath,
    },
    /// Take down every lab, also one that a killed run left behind.
    Down,
    /// Lay a lab whose gateways are plain routers without filter or VPN, and leave it up.
    Plain,
    /// Serve the hosts' services of a lab that is up (what `demo --keep` leaves running).
    #[command(hide = true)]
    Serve {
        /// The lab's name.
        #[arg(long)]
        lab: String,
        /// What the server's page contains.
        #[arg(long)]
        canary: String,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Peer {
    Sekisho,
    Strongswan,
}

#[derive(Clone, Copy, ValueEnum)]
enum Datapath {
    Auto,
    Kernel,
    Engine,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sekisho-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything held.
fn run(command: Command) -> anyhow::Result<bool> {
    require_root()?;
    match command {
        Command::Demo { keep, peer, datapath } => demo::run(&Options {
            keep,
            peer: match peer {
                Peer::Sekisho => PeerKind::Sekisho,
                Peer::Strongswan => PeerKind::StrongSwan,
            },
            datapath: match datapath {
                Datapath::Auto => "auto",
                Datapath::Kernel => "kernel",
                Datapath::Engine => "engine",
            }
            .to_owned(),
        }),
        Command::Down => {
            let labs = demo::down()?;
            println!(
                "{}",
                if labs.is_empty() {
                    "there was no lab".into()
                } else {
                    format!("gone: {}", labs.join(", "))
                }
            );
            Ok(true)
        }
        Command::Plain => {
            let mut lab = demo::plain("plain")?;
            lab.keep();
            println!("up, with namespaces sk-{}-…; take it down with `sekisho-lab down`", lab.name());
            Ok(true)
        }
        Command::Serve { lab, canary } => demo::serve(&lab, &canary).map(|()| true),
    }
}
