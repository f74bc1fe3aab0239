//! Everything taken back: at an orderly stop, and after a start that failed on a clean machine.

use std::path::Path;
use std::time::Duration;

use super::LEDGER;
use super::forwarding::{FORWARDING, is_sysctl};
use crate::causes::told;
use crate::config::Config;
use crate::daemon::layout::Layout;
use crate::filter::Filter;
use crate::kernel::{Kernel, Ledger};

/// How long the kernel may take to let go of a program whose link is gone.
const DETACH_PATIENCE: Duration = Duration::from_secs(2);

/// After a start that failed. On a machine on which nothing was in force before, everything is taken back: a gateway
/// half built serves nobody, and locks out who comes to mend it. Where a filter was in force, it stays. Says whether
/// everything was taken back.
pub(in crate::daemon) async fn after_failed_start(
    config: &Config,
    run_directory: &Path,
    was_in_force: bool,
) -> bool {
    if was_in_force {
        tracing::error!(
            gateway = &*config.gateway.name,
            "the start failed; the filter that was in force stays in force, and refuses everything if the ports or zones \
             have changed: mend the fault below and start again"
        );
        return false;
    }
    let taken_back = async {
        let kernel = Kernel::open()?;
        let mut ledger = Ledger::open(&run_directory.join(LEDGER))?;
        tear_down(&kernel, &mut ledger, config, run_directory).await
    };
    let outcome: anyhow::Result<()> = taken_back.await;
    match &outcome {
        Ok(()) => tracing::info!("the start failed; everything was taken back"),
        Err(error) => {
            tracing::error!("the start failed, and not everything could be taken back: {}", told(error));
        }
    }
    outcome.is_ok()
}

/// Takes everything back that any run of this gateway made. Goes on after errors: what can be removed is.
pub(in crate::daemon) async fn tear_down(
    kernel: &Kernel,
    ledger: &mut Ledger,
    config: &Config,
    run_directory: &Path,
) -> anyhow::Result<()> {
    // The last thing made was forwarding; undone backwards, it is off before any filter goes.
    let mut forwards = false;
    for made in ledger.entries().rev().cloned().collect::<Vec<_>>() {
        match kernel.undo(&made).await {
            Ok(()) => ledger.strike(&made)?,
            Err(error) => {
                tracing::error!(%error, ?made, "could not be taken back; it stays in the ledger");
                forwards |= FORWARDING.iter().any(|key| is_sysctl(&made, key));
            }
        }
    }
    anyhow::ensure!(!forwards, "forwarding could not be switched off, so the filter stays in force");
    let interfaces: Vec<String> = config.ports.iter().map(|port| port.interface.to_string()).collect();
    Filter::remove(&config.gateway.name, &interfaces)?;
    for interface in &interfaces {
        if !kernel.await_xdp_gone(interface, DETACH_PATIENCE).await {
            tracing::warn!(
                interface,
                "still carries an XDP program; `ip link set dev {interface} xdp off` removes it"
            );
        }
    }
    Layout::of(config, run_directory).withdraw()
}
