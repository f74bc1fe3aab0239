//! The SAs of one worker: by SPI inbound, by VPN port and selectors outbound.
//!
//! Owned by the worker's thread alone, so nothing here is locked. Everything a packet needs is resolved when the
//! control plane speaks, not when the packet comes: the path hangs on the outbound SA, and the pairs that a destination may
//! mean are found without asking the others. Nothing that the control plane says costs more because there are many pairs, but
//! for what is about all of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sekisho_abi::map::PORTS_MAX;

use super::config::L2Path;
use super::destinations::Destinations;
use super::pair::{Pair, ResolvedPath, canonical};
use crate::sa::{Outer, PortId, SaError};
use crate::transform::{InnerPacket, OuterHeader};

/// The caller asked for what cannot be.
pub(crate) fn refused(context: String) -> SaError {
    SaError::Io { context, source: io::Error::from(io::ErrorKind::InvalidInput) }
}

/// An outer device as the table knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Device {
    pub(crate) ifindex: u32,
    /// Largest IP packet, in bytes.
    pub(crate) mtu: usize,
}

/// Where a pair stands in the table.
pub(crate) type Slot = usize;

/// Which pair a packet goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    /// This one.
    Pair(Slot),
    /// The port has pairs in use, this one first, but the packet is outside of all their selectors.
    Outside(Slot),
    /// The port has no pair in use.
    NoneInUse,
}

/// One VPN port: the pairs whose outbound SA is in use.
#[derive(Debug, Default)]
struct Port {
    /// By their number, which they have in the order in which they came. A pair that takes another's place takes its number.
    active: BTreeMap<u64, Slot>,
    numbers: HashMap<Arc<str>, u64>,
    next_number: u64,
    destinations: Destinations,
}

impl Port {
    /// Puts the pair in use; returns the one of the same name that was until now, and its number.
    fn take(&mut self, pair: &Pair, slot: Slot) -> Option<(u64, Slot)> {
        let number = *self.numbers.entry(pair.name.clone()).or_insert_with(|| {
            self.next_number += 1;
            self.next_number
        });
        let former = self.active.insert(number, slot).filter(|former| *former != slot);
        for addresses in pair.selectors.remote_addresses() {
            self.destinations.insert(&addresses, (number, slot));
        }
        former.map(|former| (number, former))
    }

    /// Nothing is sent by it any more.
    fn drop_pair(&mut self, pair: &Pair, slot: Slot) {
        let Some(&number) = self.numbers.get(&pair.name) else { return };
        // Its name may be another's by now.
        if self.active.get(&number) == Some(&slot) {
            self.active.remove(&number);
            self.numbers.remove(&pair.name);
            self.forget_addresses(pair, (number, slot));
        }
    }

    fn forget_addresses(&mut self, pair: &Pair, numbered: (u64, Slot)) {
        for addresses in pair.selectors.remote_addresses() {
            self.destinations.remove(&addresses, numbered);
        }
    }
}

/// The SAs.
#[derive(Debug)]
pub(crate) struct Table {
    pairs: Vec<Option<Box<Pair>>>,
    /// Where there is none in `pairs`.
    free: Vec<Slot>,
    by_spi: HashMap<u32, Slot, BuildHasherDefault<SpiHasher>>,
    ports: Box<[Port]>,
    paths: HashMap<IpAddr, ResolvedPath>,
    /// The pairs by the peer's outer address.
    by_remote: BTreeSet<(IpAddr, Slot)>,
    devices: Vec<Device>,
    /// Inbound SPIs by their end.
    lingering: BTreeSet<(Instant, u32)>,
}

impl Table {
    pub(crate) fn new(devices: Vec<Device>) -> Self {
        Self {
            pairs: Vec::new(),
            free: Vec::new(),
            by_spi: HashMap::default(),
            ports: (0..PORTS_MAX).map(|_| Port::default()).collect(),
            paths: HashMap::new(),
            by_remote: BTreeSet::new(),
            devices,
            lingering: BTreeSet::new(),
        }
    }

    /// The pair that receives with this SPI.
    pub(crate) fn inbound(&mut self, spi: u32) -> Option<&mut Pair> {
        let slot = *self.by_spi.get(&spi)?;
        self.pair_mut(slot)
    }

    /// The pair in use that carries this packet of a VPN port, the earliest of those that may. `None`: there is no such port.
    pub(crate) fn select(&self, port: PortId, packet: &InnerPacket) -> Option<Selection> {
        let port = self.ports.get(usize::from(port))?;
        let may_carry =
            |slot: Slot| self.pair(slot).is_some_and(|pair| pair.selectors.matches_outbound(packet));
        let covering = port.destinations.covering(packet.destination);
        Some(match covering.iter().find(|(_, slot)| may_carry(*slot)) {
            Some((_, slot)) => Selection::Pair(*slot),
            None => port
                .active
                .first_key_value()
                .map_or(Selection::NoneInUse, |(_, slot)| Selection::Outside(*slot)),
        })
    }

    fn pair(&self, slot: Slot) -> Option<&Pair> {
        self.pairs.get(slot)?.as_deref()
    }

    pub(crate) fn pair_mut(&mut self, slot: Slot) -> Option<&mut Pair> {
        self.pairs.get_mut(slot)?.as_deref_mut()
    }

    /// Only inbound; [`Table::activate`] follows.
    pub(crate) fn install(&mut self, mut pair: Box<Pair>) -> Result<(), SaError> {
        let spi = pair.spi_in;
        if self.by_spi.contains_key(&spi) {
            return Err(SaError::Exists(spi));
        }
        let path = self.paths.get(&pair.outer.remote.ip()).copied();
        if let Some(outbound) = &mut pair.outbound {
            outbound.path = path;
        }
        let slot = self.free.pop().unwrap_or(self.pairs.len());
        if slot == self.pairs.len() {
            self.pairs.push(None);
        }
        self.by_remote.insert((pair.outer.remote.ip(), slot));
        if let Some(place) = self.pairs.get_mut(slot) {
            *place = Some(pair);
        }
        self.by_spi.insert(spi, slot);
        Ok(())
    }

    /// Puts the pair in use, in place of the port's pair with the same name.
    pub(crate) fn activate(&mut self, spi_in: u32) -> Result<(), SaError> {
        let unknown = || SaError::Unknown(spi_in);
        let slot = *self.by_spi.get(&spi_in).ok_or_else(unknown)?;
        let pair = self.pairs.get_mut(slot).and_then(Option::as_deref_mut).ok_or_else(unknown)?;
        let port = self.ports.get_mut(usize::from(pair.port)).ok_or_else(unknown)?;
        if pair.outbound.is_none() {
            return Err(unknown());
        }
        pair.active = true;
        let former = port.take(pair, slot);
        if let Some((number, slot)) = former
            && let Some(former) = self.pairs.get_mut(slot).and_then(Option::as_deref_mut)
        {
            former.active = false;
            port.forget_addresses(former, (number, slot));
        }
        Ok(())
    }

    pub(crate) fn repath(&mut self, spi_in: u32, outer: Outer, header: OuterHeader) -> Result<(), SaError> {
        let outer = canonical(outer);
        let path = self.paths.get(&outer.remote.ip()).copied();
        let slot = *self.by_spi.get(&spi_in).ok_or(SaError::Unknown(spi_in))?;
        let pair = self.pair_mut(slot).ok_or(SaError::Unknown(spi_in))?;
        let Some(outbound) = &mut pair.outbound else { return Err(SaError::Unknown(spi_in)) };
        outbound.header = header;
        outbound.path = path;
        let former = std::mem::replace(&mut pair.outer, outer);
        if former.local.ip() != outer.local.ip() {
            pair.former = Some(former.local.ip());
        }
        self.by_remote.remove(&(former.remote.ip(), slot));
        self.by_remote.insert((outer.remote.ip(), slot));
        Ok(())
    }

    /// Wipes the outbound SA now and the inbound one after `linger`.
    pub(crate) fn remove(&mut self, spi_in: u32, linger: Duration, now: Instant) -> Result<(), SaError> {
        let slot = *self.by_spi.get(&spi_in).ok_or(SaError::Unknown(spi_in))?;
        let pair = self.pairs.get_mut(slot).and_then(Option::as_deref_mut).ok_or(SaError::Unknown(spi_in))?;
        pair.outbound = None;
        pair.active = false;
        if let Some(port) = self.ports.get_mut(usize::from(pair.port)) {
            port.drop_pair(pair, slot);
        }
        let end = now.checked_add(linger).filter(|_| !linger.is_zero());
        let former = std::mem::replace(&mut pair.ends, end);
        if let Some(former) = former {
            self.lingering.remove(&(former, spi_in));
        }
        match end {
            Some(end) => drop(self.lingering.insert((end, spi_in))),
            None => self.forget(spi_in),
        }
        Ok(())
    }

    fn forget(&mut self, spi_in: u32) {
        let Some(slot) = self.by_spi.remove(&spi_in) else { return };
        let Some(pair) = self.pairs.get_mut(slot).and_then(Option::take) else { return };
        self.free.push(slot);
        self.by_remote.remove(&(pair.outer.remote.ip(), slot));
        // A later pair may have the same SPI: nothing of this one may be left to expire then.
        if let Some(end) = pair.ends {
            self.lingering.remove(&(end, spi_in));
        }
    }

    /// Wipes what has lingered long enough.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some(&(end, spi_in)) = self.lingering.first().filter(|(end, _)| *end <= now) {
            self.lingering.remove(&(end, spi_in));
            self.forget(spi_in);
        }
    }

    /// When [`Table::expire`] next has something to do.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.lingering.first().map(|(end, _)| *end)
    }

    /// How many outer devices there are.
    pub(crate) fn devices(&self) -> usize {
        self.devices.len()
    }

    /// Which of the outer devices has this index.
    pub(crate) fn device(&self, ifindex: u32) -> Option<usize> {
        self.devices.iter().position(|device| device.ifindex == ifindex)
    }

    /// A device is another from now on. Paths over it are looked up anew by the caller.
    pub(crate) fn replace_device(&mut self, device: usize, ifindex: u32, mtu: u32) {
        if let Some(device) = self.devices.get_mut(device) {
            *device = Device { ifindex, mtu: usize::try_from(mtu).unwrap_or(usize::MAX) };
        }
    }

    /// A device carries packets of another size from now on.
    pub(crate) fn set_mtu(&mut self, ifindex: u32, mtu: u32) {
        let Some(changed) = self.device(ifindex) else { return };
        self.replace_device(changed, ifindex, mtu);
        let paths = self.paths.iter().filter(|(_, path)| path.device == changed);
        let paths: Vec<_> = paths.map(|(remote, path)| (*remote, path.l2)).collect();
        for (remote, path) in paths {
            // Its device is there, as just seen.
            let _ = self.set_path(remote, path);
        }
    }

    pub(crate) fn set_path(&mut self, remote: IpAddr, path: L2Path) -> Result<(), SaError> {
        let found = self.devices.iter().enumerate().find(|(_, device)| device.ifindex == path.ifindex);
        let Some((index, device)) = found else {
            return Err(refused(format!("interface {} is none of the engine's outer devices", path.ifindex)));
        };
        let narrowest = path.mtu.and_then(|mtu| usize::try_from(mtu).ok()).unwrap_or(usize::MAX);
        let resolved = ResolvedPath { l2: path, device: index, mtu: device.mtu.min(narrowest) };
        self.paths.insert(remote.to_canonical(), resolved);
        self.resolve(remote.to_canonical(), Some(resolved));
        Ok(())
    }

    pub(crate) fn clear_path(&mut self, remote: IpAddr) {
        self.paths.remove(&remote.to_canonical());
        self.resolve(remote.to_canonical(), None);
    }

    fn resolve(&mut self, remote: IpAddr, path: Option<ResolvedPath>) {
        for (_, slot) in self.by_remote.range((remote, 0)..=(remote, Slot::MAX)) {
            let pair = self.pairs.get_mut(*slot).and_then(Option::as_deref_mut);
            if let Some(outbound) = pair.and_then(|pair| pair.outbound.as_mut()) {
                outbound.path = path;
            }
        }
    }
}

/// Spreads SPIs over the table with one multiplication. We choose inbound SPIs at random ourselves, so nobody else can
/// aim at one bucket.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SpiHasher(u64);

impl Hasher for SpiHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, spi: u32) {
        self.0 = (self.0 ^ u64::from(spi)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }
}
