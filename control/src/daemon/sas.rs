//! The table of SAs as the loop has it, and its events.

use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use sekisho_esp::sa::{Outer, PairCounters, SaError, SaEvent, SaPair, SaTable};
use tokio::sync::mpsc;

use super::bringup::Ground;

/// Brings the data path's events into the loop. The thread ends with the table or the receiver.
pub(super) fn forward_sa_events(
    table: Weak<dyn SaTable>,
    events: mpsc::Sender<SaEvent>,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("sa-events".into()).spawn(move || {
        while let Some(table) = table.upgrade() {
            if events.is_closed() {
                return;
            }
            if let Some(event) = table.next_event(Duration::from_millis(200))
                && events.blocking_send(event).is_err()
            {
                return;
            }
        }
    })
}

impl Ground {
    /// The SAs' data path.
    pub(super) fn table(&self) -> Arc<dyn SaTable> {
        match (&self.engine, &self.xfrm) {
            (Some(engine), _) => engine.clone(),
            (None, Some(xfrm)) => xfrm.clone(),
            (None, None) => Arc::new(NoDatapath),
        }
    }
}

/// The data path of a gateway without a VPN: it has no SAs.
pub(super) struct NoDatapath;

impl SaTable for NoDatapath {
    fn name(&self) -> &'static str {
        "none"
    }

    fn install(&self, pair: SaPair, _activate: bool) -> Result<(), SaError> {
        Err(SaError::Unknown(pair.spi_in))
    }

    fn activate(&self, spi_in: u32) -> Result<(), SaError> {
        Err(SaError::Unknown(spi_in))
    }

    fn repath(&self, spi_in: u32, _outer: Outer) -> Result<(), SaError> {
        Err(SaError::Unknown(spi_in))
    }

    fn remove(&self, spi_in: u32, _linger: Duration) -> Result<(), SaError> {
        Err(SaError::Unknown(spi_in))
    }

    fn counters(&self, spi_in: u32) -> Result<PairCounters, SaError> {
        Err(SaError::Unknown(spi_in))
    }

    fn next_event(&self, timeout: Duration) -> Option<SaEvent> {
        std::thread::sleep(timeout);
        None
    }
}
