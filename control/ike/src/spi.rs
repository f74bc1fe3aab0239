//! Inbound ESP SPIs in use, so that no two child SAs of this gateway share one.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::crypto::random::Random;

/// RFC 4303 section 2.1: 0 is never sent, 1 to 255 are reserved.
const RESERVED: u32 = 255;

/// The SPIs in use.
#[derive(Clone, Debug, Default)]
pub(crate) struct SpiPool(Arc<Mutex<BTreeSet<u32>>>);

impl SpiPool {
    /// Takes a free random SPI.
    pub(crate) fn take(&self, random: &mut dyn Random) -> InboundSpi {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let number = random.next_u32();
            if number > RESERVED && used.insert(number) {
                return InboundSpi { number, pool: self.clone() };
            }
        }
    }

    pub(crate) fn used(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// An inbound SPI of ours. Dropping it frees the number.
#[derive(Debug)]
pub(crate) struct InboundSpi {
    number: u32,
    pool: SpiPool,
}

impl InboundSpi {
    /// The number, whose network order stands on the wire.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }
}

impl Drop for InboundSpi {
    fn drop(&mut self) {
        self.pool.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::random::SeededRandom;

    #[test]
    fn an_spi_is_unique_and_given_back() {
        // The same seed twice draws the same numbers: the second must be another as long as the first is in use.
        let pool = SpiPool::default();
        let first = pool.take(&mut SeededRandom::new(1));
        let second = pool.take(&mut SeededRandom::new(1));
        assert_ne!(first.number(), second.number());
        assert_eq!(pool.used(), 2);
        let number = first.number();
        drop(first);
        assert_eq!(pool.take(&mut SeededRandom::new(1)).number(), number);
        drop(second);
        assert_eq!(pool.used(), 0);
    }
}
