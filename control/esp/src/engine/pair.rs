//! A pair of SAs: what its workers share, and what each has of its own.
//!
//! Shared are the keys, the sequence numbers, the replay window, the lifetimes, and what was told. Each worker has its own
//! counters and its own view of where the peer is: nothing that one of them writes for every packet lies beside what
//! another reads.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use sekisho_abi::map::PORTS_MAX;

use super::config::L2Path;
use super::counters::PairCells;
use super::lifetime::{Meter, SequenceCounter};
use super::table::refused;
use super::told::Told;
use crate::sa::{Outer, PortId, SaError, SaPair};
use crate::transform::packet::SPI_MIN;
use crate::transform::{OpeningKey, OuterHeader, ReplayWindow, SealingKey, SelectorPair};

/// A pair of SAs as a worker uses it. Made on the caller's thread, so that no worker ever expands keys.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) port: PortId,
    pub(crate) spi_in: u32,
    pub(crate) selectors: SelectorPair,
    pub(crate) outer: Outer,
    /// Our address before the last move: what was under way to it is still taken, as long as the filter lets it through.
    pub(crate) former: Option<IpAddr>,
    /// This worker's.
    pub(crate) cells: Arc<PairCells>,
    pub(crate) inbound: Arc<Inbound>,
    /// `None` once the pair was removed and its inbound SA lingers.
    pub(crate) outbound: Option<Departing>,
    /// The outbound SA is the one in use.
    pub(crate) active: bool,
    pub(crate) told: Arc<Told>,
    pub(crate) name: Arc<str>,
    pub(crate) resource: Option<u16>,
}

/// The SA that receives. Its key is wiped when the last worker has let go of it.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) key: OpeningKey,
    pub(crate) window: ReplayWindow,
    pub(crate) meter: Meter,
}

/// The SA that sends. Its key is wiped when the last worker has let go of it.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) key: SealingKey,
    pub(crate) spi: u32,
    pub(crate) sequence: SequenceCounter,
    pub(crate) meter: Meter,
}

/// The SA that sends, and the way that its packets take.
#[derive(Clone, Debug)]
pub(crate) struct Departing {
    pub(crate) sa: Arc<Outbound>,
    pub(crate) header: OuterHeader,
    pub(crate) path: Option<ResolvedPath>,
}

/// A path with what the worker knows of its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ResolvedPath {
    pub(crate) l2: L2Path,
    /// Index among the outer devices.
    pub(crate) device: usize,
    /// Largest IP packet, in bytes.
    pub(crate) mtu: usize,
}

impl Pair {
    /// Checks the pair and expands its keys.
    pub(crate) fn new(pair: SaPair) -> Result<Box<Self>, SaError> {
        for spi in [pair.spi_in, pair.spi_out] {
            if spi < SPI_MIN {
                return Err(refused(format!("SPI {spi:#010x} is reserved (RFC 4303 section 2.1)")));
            }
        }
        if u32::from(pair.port) >= PORTS_MAX {
            return Err(refused(format!("VPN port {} is beyond the last, {}", pair.port, PORTS_MAX - 1)));
        }
        let selectors =
            SelectorPair::new(&pair.local, &pair.remote).map_err(|error| refused(error.to_string()))?;
        let header = OuterHeader::new(&pair.outer).map_err(|error| refused(error.to_string()))?;
        let outer = canonical(pair.outer);
        Ok(Box::new(Self {
            port: pair.port,
            spi_in: pair.spi_in,
            selectors,
            outer,
            former: None,
            cells: Arc::default(),
            inbound: Arc::new(Inbound {
                key: OpeningKey::new(pair.transform, &pair.keys_in)?,
                window: ReplayWindow::new(pair.replay_window, pair.esn),
                meter: Meter::new(pair.lifetimes),
            }),
            outbound: Some(Departing {
                sa: Arc::new(Outbound {
                    key: SealingKey::new(pair.transform, &pair.keys_out)?,
                    spi: pair.spi_out,
                    sequence: SequenceCounter::new(pair.esn),
                    meter: Meter::new(pair.lifetimes),
                }),
                header,
                path: None,
            }),
            active: false,
            told: Arc::new(Told::new(outer.remote)),
            name: pair.name,
            resource: pair.resource,
        }))
    }

    /// The same pair for another worker.
    pub(crate) fn share(&self) -> Box<Self> {
        Box::new(Self {
            port: self.port,
            spi_in: self.spi_in,
            selectors: self.selectors.clone(),
            outer: self.outer,
            former: self.former,
            cells: Arc::default(),
            inbound: self.inbound.clone(),
            outbound: self.outbound.clone(),
            active: self.active,
            told: self.told.clone(),
            name: self.name.clone(),
            resource: self.resource,
        })
    }
}

/// Addresses in one form, as packets show them.
pub(crate) fn canonical(outer: Outer) -> Outer {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    Outer { local: plain(outer.local), remote: plain(outer.remote), ..outer }
}
