//! The user-space engine: ESP over AF_XDP behind [`SaTable`](crate::sa::SaTable).

mod config;
mod counters;

pub use config::{EngineConfig, EngineError, L2Path, Link, MacAddress, XskMode};
pub use counters::{DropReason, EngineStatistics, SocketStatistics};

use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::sa::{Outer, PairCounters, SaError, SaEvent, SaPair, SaTable};

/// A running engine. Dropping it stops the thread, closes the sockets and wipes all keys.
#[derive(Debug)]
pub struct Engine {}

impl Engine {
    /// Opens the sockets and starts the worker thread. Devices must exist; frames arrive once the caller has put
    /// [`Engine::sockets`] into the XSKMAP and an XDP program on each device redirects into it.
    pub fn start(_config: EngineConfig) -> Result<Engine, EngineError> {
        Err(EngineError::Config("not yet".into()))
    }

    /// Every socket with its device and receive queue: what belongs into the XSKMAP `SOCKETS`.
    pub fn sockets(&self) -> impl Iterator<Item = (u32, u32, BorrowedFd<'_>)> {
        std::iter::empty()
    }

    /// From now on ESP for this peer address leaves that way.
    pub fn set_path(&self, _remote: IpAddr, _path: L2Path) -> Result<(), SaError> {
        Err(SaError::Stopped)
    }

    /// From now on there is no way to this peer: its packets are counted as unsent.
    pub fn clear_path(&self, _remote: IpAddr) -> Result<(), SaError> {
        Err(SaError::Stopped)
    }

    /// The state in numbers.
    pub fn statistics(&self) -> EngineStatistics {
        EngineStatistics::default()
    }
}

impl SaTable for Engine {
    fn name(&self) -> &'static str {
        "engine"
    }

    fn install(&self, _pair: SaPair, _activate: bool) -> Result<(), SaError> {
        Err(SaError::Stopped)
    }

    fn activate(&self, _spi_in: u32) -> Result<(), SaError> {
        Err(SaError::Stopped)
    }

    fn repath(&self, _spi_in: u32, _outer: Outer) -> Result<(), SaError> {
        Err(SaError::Stopped)
    }

    fn remove(&self, _spi_in: u32, _linger: Duration) -> Result<(), SaError> {
        Err(SaError::Stopped)
    }

    fn counters(&self, _spi_in: u32) -> Result<PairCounters, SaError> {
        Err(SaError::Stopped)
    }

    fn next_event(&self, _timeout: Duration) -> Option<SaEvent> {
        None
    }
}
