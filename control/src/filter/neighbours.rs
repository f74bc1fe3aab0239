//! Bindings of addresses to MAC addresses: the programs learn them, the configuration has some, operators forget them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData};
use sekisho_abi::Address;
use sekisho_abi::map::PORTS_MAX;
use sekisho_abi::neighbour::{Neighbour, NeighbourKey, neighbour_flags};

use super::FilterError;
use super::maps::{error, take};

/// What a port's bindings shall be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BoundPort {
    /// Port id.
    pub port: u16,
    /// Others than `bindings` are learned.
    pub learns: bool,
    /// The configuration's.
    pub bindings: Vec<(Address, [u8; 6])>,
}

/// The tables. Clones are handles of the same ones: the sweeper's thread has one, too.
#[derive(Clone)]
pub struct Neighbours {
    tables: Arc<Mutex<Tables>>,
}

struct Tables {
    bindings: HashMap<MapData, NeighbourKey, Neighbour>,
    counts: Array<MapData, u32>,
}

impl Neighbours {
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Neighbours, FilterError> {
        let tables = Tables { bindings: take(ebpf, "NEIGHBOURS")?, counts: take(ebpf, "NEIGHBOUR_COUNTS")? };
        Ok(Neighbours { tables: Arc::new(Mutex::new(tables)) })
    }

    /// Nothing is left half done where a thread ends by a panic: every call is a row of single writes.
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every binding.
    pub fn list(&self) -> Vec<(NeighbourKey, Neighbour)> {
        let mut all: Vec<_> = self.tables().bindings.iter().filter_map(Result::ok).collect();
        all.sort_unstable_by_key(|(key, _)| (key.port, key.address));
        all
    }

    /// Forgets what was learned of an address, on every port. Says how many bindings that were.
    pub fn forget(&self, address: Address) -> Result<usize, FilterError> {
        self.remove(|key, neighbour| key.address == address && !is_static(neighbour))
    }

    /// Makes the configured bindings exactly these, and forgets learned ones where none are learned any more.
    pub fn set(&self, ports: &[BoundPort]) -> Result<(), FilterError> {
        let wanted: BTreeMap<(u16, Address), [u8; 6]> = ports
            .iter()
            .flat_map(|port| port.bindings.iter().map(|(address, mac)| ((port.port, *address), *mac)))
            .collect();
        self.remove(|key, neighbour| {
            let port = ports.iter().find(|port| port.port == key.port);
            match (port, is_static(neighbour)) {
                (None, _) => true,
                (Some(_), true) => !wanted.contains_key(&(key.port, key.address)),
                // Link-local addresses are learned in any case.
                (Some(port), false) => !port.learns && key.address.first() != Some(&0xfe),
            }
        })?;
        let tables = &mut *self.tables();
        for ((port, address), mac) in wanted {
            let key = NeighbourKey { address, port, reserved: 0 };
            let neighbour = Neighbour { seen_ns: 0, mac, flags: neighbour_flags::STATIC };
            tables.bindings.insert(key, neighbour, 0).map_err(error("NEIGHBOURS"))?;
        }
        tables.count()
    }

    /// Removes learned bindings whose hosts have been silent for their lifetime.
    pub(super) fn sweep(&self, lifetime_s: u32, now_ns: u64) {
        let lifetime_ns = u64::from(lifetime_s) * 1_000_000_000;
        let is_over = |neighbour: &Neighbour| {
            !is_static(neighbour) && now_ns.saturating_sub(neighbour.seen_ns) > lifetime_ns
        };
        if let Err(error) = self.remove(|_, neighbour| is_over(neighbour)) {
            tracing::warn!(%error, "bindings of neighbours are not swept");
        }
    }

    fn remove(&self, is_over: impl Fn(&NeighbourKey, &Neighbour) -> bool) -> Result<usize, FilterError> {
        let tables = &mut *self.tables();
        let over: Vec<NeighbourKey> = tables
            .bindings
            .iter()
            .filter_map(Result::ok)
            .filter(|(key, neighbour)| is_over(key, neighbour))
            .map(|(key, _)| key)
            .collect();
        let mut removed = 0;
        for key in over {
            // A packet may have been seen since.
            if tables.bindings.get(&key, 0).is_ok_and(|neighbour| is_over(&key, &neighbour)) {
                tables.bindings.remove(&key).map_err(error("NEIGHBOURS"))?;
                removed += 1;
            }
        }
        tables.count()?;
        Ok(removed)
    }
}

impl Tables {
    /// Puts right how many each port has learned. What a program learns meanwhile is not counted: the bound is soft by that.
    fn count(&mut self) -> Result<(), FilterError> {
        let mut counts: BTreeMap<u16, u32> = BTreeMap::new();
        for (key, neighbour) in self.bindings.iter().filter_map(Result::ok) {
            if !is_static(&neighbour) {
                *counts.entry(key.port).or_default() += 1;
            }
        }
        for port in 0..PORTS_MAX {
            let now = self.counts.get(&port, 0).map_err(error("NEIGHBOUR_COUNTS"))?;
            let count = u16::try_from(port).ok().and_then(|port| counts.get(&port)).copied().unwrap_or(0);
            if now != count {
                self.counts.set(port, count, 0).map_err(error("NEIGHBOUR_COUNTS"))?;
            }
        }
        Ok(())
    }
}

/// Whether the configuration has it.
pub fn is_static(neighbour: &Neighbour) -> bool {
    neighbour.flags & neighbour_flags::STATIC != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Filter;
    use sekisho_abi::mapped;

    /// What the configuration wants, what was learned, and what an operator has forgotten. Needs root.
    #[test]
    fn bindings_follow_the_configuration() {
        let gateway = format!("sk-neighbours-{}", std::process::id());
        let (_filter, maps) =
            Filter::open(&gateway, 1024, true).expect("the programs load (this test needs root)");
        let neighbours = maps.neighbours.clone();
        let (a, b, c) = (mapped([10, 0, 0, 2]), mapped([10, 0, 0, 3]), mapped([10, 0, 0, 4]));
        let learn = |port, address| {
            let key = NeighbourKey { address, port, reserved: 0 };
            let learned = Neighbour { seen_ns: 5_000_000_000, mac: [2; 6], flags: 0 };
            neighbours.tables().bindings.insert(key, learned, 0).expect("room");
        };
        let port = |port, learns, bindings: &[Address]| BoundPort {
            port,
            learns,
            bindings: bindings.iter().map(|address| (*address, [4; 6])).collect(),
        };
        let known = || -> Vec<_> {
            neighbours.list().iter().map(|(key, n)| (key.port, key.address, is_static(n))).collect()
        };
        let counts = |port: u32| neighbours.tables().counts.get(&port, 0).expect("a count");
        learn(1, a);
        learn(1, b);
        learn(2, c);
        neighbours.set(&[port(1, true, &[b]), port(2, false, &[a])]).expect("writes");
        assert_eq!(known(), [(1, a, false), (1, b, true), (2, a, true)], "the configuration's goes before");
        assert_eq!((counts(1), counts(2)), (1, 0));
        learn(1, c);
        assert_eq!(neighbours.forget(c).expect("forgets"), 1);
        assert_eq!(neighbours.forget(b).expect("keeps"), 0, "a static one stays");
        neighbours.sweep(10, 14_000_000_000);
        assert_eq!(known().len(), 3, "nine seconds old");
        neighbours.sweep(10, 16_000_000_000);
        assert_eq!(known(), [(1, b, true), (2, a, true)]);
        neighbours.set(&[port(1, true, &[])]).expect("writes");
        assert_eq!(known(), []);
        assert_eq!((counts(1), counts(2)), (0, 0));
        Filter::remove(&gateway, &[]).expect("unpins");
    }
}
