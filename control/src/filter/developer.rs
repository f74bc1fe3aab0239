//! The programs' own log lines (aya-log), for those who work on them: a line beside each event, at level `debug`.
//!
//! Off unless the log filter asks for `sekisho_ebpf=debug` when the programs are loaded: the level is a constant in them,
//! so that the verifier removes what is off.

use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Levels as aya-log counts them.
static OFF: u8 = 0;
static DEBUG: u8 = aya_log::Level::Debug as u8;

/// Whether somebody wants the lines.
fn is_wanted() -> bool {
    tracing::enabled!(target: "sekisho_ebpf", tracing::Level::DEBUG)
}

/// Sets the level before the programs are loaded.
pub(super) fn set_level(loader: &mut EbpfLoader<'_>) {
    loader.override_global(aya_log::LEVEL, if is_wanted() { &DEBUG } else { &OFF }, true);
}

/// Nobody wants the lines of these programs.
pub(super) fn set_off(loader: &mut EbpfLoader<'_>) {
    loader.override_global(aya_log::LEVEL, &OFF, true);
}

/// Brings the lines into the daemon's log, if they are wanted. Without them the filter works all the same.
pub(super) fn start(ebpf: &mut Ebpf) {
    if !is_wanted() {
        return;
    }
    let logger = match EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(error) => return tracing::warn!(%error, "no log lines from the eBPF programs"),
    };
    // SAFETY: the logger's map owns a valid file descriptor, and nothing replaces or closes it while `AsyncFd` owns it.
    let lines = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
    let mut lines = match lines {
        Ok(lines) => lines,
        Err(error) => {
            return tracing::warn!(error = %error.into_parts().1, "no log lines from the eBPF programs");
        }
    };
    tokio::spawn(async move {
        while let Ok(mut guard) = lines.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    });
}
