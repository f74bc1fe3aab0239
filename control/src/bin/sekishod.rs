//! The gateway's daemon.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use sekisho::causes::told;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer};

/// The Sekisho gateway: IKEv2, ESP and an XDP filter, from one configuration file.
///
/// Runs in the foreground in the network namespace it is started in. SIGTERM takes back everything it made; after a
/// crash the filter stays in force, and the next start takes it over.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The gateway's configuration; `sekisho check FILE` says what is wrong with one.
    #[arg(long, short, value_name = "FILE", default_value = "/etc/sekisho/gateway.toml")]
    config: PathBuf,
    /// What to log, e.g. `info`, `debug`, or `info,sekisho_ike=debug`.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log_level: String,
    /// Where and how to log; `auto` takes journald under systemd, else text on standard error.
    #[arg(long, value_enum, default_value_t = LogFormat::Auto)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Auto,
    Text,
    Json,
    Journald,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(error) = start_log(&arguments) {
        eprintln!("sekishod: {}", told(&error));
        return ExitCode::from(2);
    }
    let loaded = match sekisho::config::load_with(&arguments.config, sekisho::daemon::numbers_in_force) {
        Ok(loaded) => loaded,
        Err(diagnostics) => {
            for diagnostic in &diagnostics {
                eprintln!("{}", diagnostic.render(std::io::stderr().is_terminal()));
            }
            eprintln!("sekishod: {} has errors; nothing was started", arguments.config.display());
            return ExitCode::from(2);
        }
    };
    for warning in &loaded.warnings {
        tracing::warn!("{}", warning.line());
    }
    // One thread for the loop and its sockets: the hot paths are the kernel's and the engine's.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start the runtime");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(sekisho::daemon::run(loaded.config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", told(&error));
            ExitCode::FAILURE
        }
    }
}

fn start_log(arguments: &Arguments) -> anyhow::Result<()> {
    // The loader's own log is for its authors; it comes back with `aya=debug,aya_obj=debug` in the filter.
    let filter = EnvFilter::try_new(format!("aya=warn,aya_obj=warn,{}", arguments.log_level))?;
    // systemd sets JOURNAL_STREAM for services whose standard error is the journal.
    let under_systemd = std::env::var_os("JOURNAL_STREAM").is_some();
    let format = match arguments.log_format {
        LogFormat::Auto if under_systemd => LogFormat::Journald,
        LogFormat::Auto => LogFormat::Text,
        chosen => chosen,
    };
    let layer = match format {
        LogFormat::Journald => tracing_journald::layer()?.boxed(),
        LogFormat::Json => tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr).boxed(),
        LogFormat::Auto | LogFormat::Text => tracing_subscriber::fmt::layer()
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr)
            .boxed(),
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).try_init()?;
    Ok(())
}
