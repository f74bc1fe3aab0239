//! Which datagrams are for an IKE SA that exists, told apart before anything is parsed: a caller that cannot keep up must
//! drop what strangers send, and not what peers do.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// Our SPIs in use. A clone sees the same SPIs, also from another task.
#[derive(Clone, Debug, Default)]
pub struct KnownSpis(Arc<Mutex<Spis>>);

#[derive(Debug, Default)]
struct Spis {
    in_use: BTreeSet<u64>,
    /// What has changed since somebody asked.
    changes: Vec<(u64, bool)>,
}

/// Where the header's fields are (RFC 7296 section 3.1), in bytes.
const SPI_I: std::ops::Range<usize> = 0..8;
const SPI_R: std::ops::Range<usize> = 8..16;
const FLAGS: usize = 19;
/// The sender is the IKE SA's initiator, so that the responder's SPI is ours.
const INITIATOR: u8 = 0x08;

impl KnownSpis {
    /// Whether an IKE message (without non-ESP marker) names an IKE SA of ours. What cannot be read names none. Says
    /// nothing about who sent it.
    pub fn claims(&self, message: &[u8]) -> bool {
        let Some(flags) = message.get(FLAGS) else { return false };
        let place = if flags & INITIATOR == 0 { SPI_I } else { SPI_R };
        let spi = message.get(place).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
        spi.is_some_and(|spi| self.0.lock().unwrap_or_else(PoisonError::into_inner).in_use.contains(&spi))
    }

    /// Whether an SPI of ours is in use from now on. The engine keeps this up to date by itself.
    pub fn set(&self, spi: u64, known: bool) {
        let mut spis = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_change = match known {
            true => spis.in_use.insert(spi),
            false => spis.in_use.remove(&spi),
        };
        if is_change {
            spis.changes.push((spi, known));
        }
    }

    /// SPIs that have come into use (`true`) or gone out of it since the last call, in order. For one caller, who tells
    /// them to a filter in front.
    pub fn take_changes(&self) -> Vec<(u64, bool)> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{ExchangeType, Header, Spi, write_clear};

    #[test]
    fn our_spi_is_the_responders_where_the_initiator_sends() {
        let known = KnownSpis::default();
        known.set(7, true);
        let claims = |spi_i, spi_r, initiator| {
            let header = Header::request(Spi(spi_i), Spi(spi_r), ExchangeType::Informational, initiator, 1);
            known.claims(&write_clear(&header, &[]).expect("a header"))
        };
        assert!(claims(1, 7, true) && claims(7, 1, false));
        assert!(!claims(7, 1, true) && !claims(1, 7, false) && !claims(0, 0, true));
        known.set(7, true);
        known.set(7, false);
        assert!(!claims(1, 7, true));
        assert_eq!(known.take_changes(), [(7, true), (7, false)]);
        assert!(known.take_changes().is_empty());
        assert!((0..28).all(|length| !known.claims(&vec![0; length])), "nothing is read past the end");
    }
}
