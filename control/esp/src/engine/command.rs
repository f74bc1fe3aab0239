//! What the control plane asks of a worker. Answered once it is in force.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use super::config::{EngineError, L2Path, Link};
use super::pair::Pair;
use super::table::Table;
use crate::sa::{Outer, SaError};
use crate::transform::OuterHeader;

/// What is asked.
#[derive(Debug)]
pub(crate) enum Command {
    /// SAs or paths are other ones.
    Change(Change),
    /// A device has come back under another index: opens sockets on it, and keeps them aside.
    Open {
        former: u32,
        link: Link,
        opened: SyncSender<Result<Vec<Opened>, EngineError>>,
    },
    /// Takes the sockets that were kept aside in place of those of the former device.
    Adopt {
        former: u32,
        link: Link,
    },
    /// Closes them.
    Discard,
    Stop,
}

/// What changes in the table of SAs.
#[derive(Debug)]
pub(crate) enum Change {
    /// Only inbound; [`Change::Activate`] follows.
    Install {
        pair: Box<Pair>,
    },
    Activate {
        spi_in: u32,
    },
    Repath {
        spi_in: u32,
        outer: Outer,
        header: OuterHeader,
    },
    Remove {
        spi_in: u32,
        linger: Duration,
    },
    SetPath {
        remote: IpAddr,
        path: L2Path,
    },
    ClearPath {
        remote: IpAddr,
    },
    SetMtu {
        ifindex: u32,
        mtu: u32,
    },
}

impl Change {
    pub(crate) fn carry_out(self, table: &mut Table, now: Instant) -> Result<(), SaError> {
        match self {
            Self::Install { pair } => table.install(pair),
            Self::Activate { spi_in } => table.activate(spi_in),
            Self::Repath { spi_in, outer, header } => table.repath(spi_in, outer, header),
            Self::Remove { spi_in, linger } => table.remove(spi_in, linger, now),
            Self::SetPath { remote, path } => table.set_path(remote, path),
            Self::ClearPath { remote } => {
                table.clear_path(remote);
                Ok(())
            }
            Self::SetMtu { ifindex, mtu } => {
                table.set_mtu(ifindex, mtu);
                Ok(())
            }
        }
    }
}

/// A command and where its answer goes.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) command: Command,
    pub(crate) answer: SyncSender<Result<(), SaError>>,
}

/// A socket that is to take the place of another.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) queue: u32,
    pub(crate) fd: Arc<OwnedFd>,
    pub(crate) zero_copy: bool,
}
