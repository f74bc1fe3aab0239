//! The table of SAs without an engine around it, for whoever measures what finding an SA costs among many.

use std::time::{Duration, Instant};

use super::pair::Pair;
use super::table::{Selection, Table, Turn};
use crate::sa::{PortId, SaError, SaPair};
use crate::transform::InnerPacket;

/// The SAs of one worker, as it finds them.
#[derive(Debug)]
pub struct Lookup(Table);

impl Lookup {
    /// With these pairs, all in use.
    pub fn with(pairs: impl IntoIterator<Item = SaPair>) -> Result<Self, SaError> {
        let mut lookup = Self(Table::new(Vec::new(), Turn { worker: 0, workers: 1 }));
        pairs.into_iter().try_for_each(|pair| lookup.install(pair))?;
        Ok(lookup)
    }

    /// Installs a pair and puts it in use in place of the one with the same name, as a rekey does.
    pub fn install(&mut self, pair: SaPair) -> Result<(), SaError> {
        let spi_in = pair.spi_in;
        self.0.install(Pair::new(pair)?)?;
        self.0.activate(spi_in)
    }

    /// Removes a pair at once.
    pub fn remove(&mut self, spi_in: u32) -> Result<(), SaError> {
        self.0.remove(spi_in, Duration::ZERO, Instant::now())
    }

    /// SPI of the SA that sends this packet of a VPN port, found by its selectors.
    pub fn outbound(&mut self, port: PortId, packet: &InnerPacket) -> Option<u32> {
        let Selection::Pair(slot) = self.0.select(port, packet)? else { return None };
        self.0.pair_mut(slot)?.outbound.as_ref().map(|outbound| outbound.sa.spi)
    }

    /// VPN port of the SA with this SPI.
    pub fn inbound(&mut self, spi: u32) -> Option<PortId> {
        self.0.inbound(spi).map(|pair| pair.port)
    }
}
