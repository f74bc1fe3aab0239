//! The SAs of one worker: by SPI inbound, by VPN port and selectors outbound, and of several with the same selectors by what
//! they are for: this worker's own, before the one that all workers have.
//!
//! Owned by the worker's thread alone, so nothing here is locked. Everything a packet needs is resolved when the
//! control plane speaks, not when the packet comes: the path hangs on the outbound SA, and a port with one pair in use
//! finds it with one index.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sekisho_abi::map::PORTS_MAX;

use super::config::L2Path;
use super::pair::{Pair, ResolvedPath, canonical};
use super::recent::Recent;
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

/// Which worker this is, and of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) worker: u16,
    pub(crate) workers: u16,
}

impl Turn {
    /// Whether this worker sends with what is for that resource: where there are more resources than workers, it has several.
    fn has(self, resource: u16) -> bool {
        resource % self.workers.max(1) == self.worker
    }
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

/// One VPN port.
#[derive(Debug, Default)]
pub(crate) struct Port {
    /// The pairs whose outbound SA is in use, in the order they came.
    pub(crate) active: Vec<Slot>,
    /// Those for single resources, of all workers, by name.
    bound: HashMap<Arc<str>, Vec<Slot>>,
}

/// The SAs.
#[derive(Debug)]
pub(crate) struct Table {
    turn: Turn,
    pairs: Vec<Option<Box<Pair>>>,
    by_spi: HashMap<u32, Slot, BuildHasherDefault<SpiHasher>>,
    ports: Box<[Port]>,
    paths: HashMap<IpAddr, ResolvedPath>,
    devices: Vec<Device>,
    lingering: Vec<(Instant, u32)>,
    recent: Recent,
}

impl Table {
    pub(crate) fn new(devices: Vec<Device>, turn: Turn) -> Self {
        Self {
            turn,
            pairs: Vec::new(),
            by_spi: HashMap::default(),
            ports: (0..PORTS_MAX).map(|_| Port::default()).collect(),
            paths: HashMap::new(),
            devices,
            lingering: Vec::new(),
            recent: Recent::new(),
        }
    }

    pub(crate) fn turn(&self) -> Turn {
        self.turn
    }

    /// The pair that receives with this SPI.
    pub(crate) fn inbound(&mut self, spi: u32) -> Option<&mut Pair> {
        let slot = *self.by_spi.get(&spi)?;
        self.pair_mut(slot)
    }

    /// The pair in use that carries this packet of a VPN port. `None`: there is no such port.
    pub(crate) fn select(&mut self, port: PortId, packet: &InnerPacket) -> Option<Selection> {
        let Port { active, bound } = self.ports.get(usize::from(port))?;
        // The one that there is costs less to ask.
        let is_remembered = active.len() > 1 || !bound.is_empty();
        if is_remembered && let Some(slot) = self.recent.pair(port, packet) {
            return Some(Selection::Pair(slot));
        }
        let matches =
            |slot: &Slot| self.pair(*slot).is_some_and(|pair| pair.selectors.matches_outbound(packet));
        // Whichever resources they are for: each worker may use each.
        let any_bound = || bound.values().flatten().copied().find(matches);
        let selected = active.iter().copied().find(matches).or_else(any_bound);
        Some(match selected.map(|slot| self.own(port, packet, slot)) {
            Some(slot) => {
                if is_remembered {
                    self.recent.remember(port, packet, slot);
                }
                Selection::Pair(slot)
            }
            None => active.first().map_or(Selection::NoneInUse, |slot| Selection::Outside(*slot)),
        })
    }

    /// This worker's own pair with the selectors of that one, if there is any. Flows are dealt out among several.
    fn own(&self, port: PortId, packet: &InnerPacket, slot: Slot) -> Slot {
        let bound =
            self.ports.get(usize::from(port)).map(|port| &port.bound).filter(|bound| !bound.is_empty());
        let alike = self.pair(slot).and_then(|pair| bound?.get(&pair.name));
        let resource = |slot: &Slot| self.pair(*slot).and_then(|pair| pair.resource);
        let own = || {
            let is_own = |slot: &&Slot| resource(slot).is_some_and(|resource| self.turn.has(resource));
            alike.into_iter().flatten().filter(is_own)
        };
        match own().count() {
            0 => slot,
            count => own().nth(Recent::deal(port, packet, count)).copied().unwrap_or(slot),
        }
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
        let slot = match self.pairs.iter().position(Option::is_none) {
            Some(slot) => slot,
            None => {
                self.pairs.push(None);
                self.pairs.len() - 1
            }
        };
        if let Some(place) = self.pairs.get_mut(slot) {
            *place = Some(pair);
        }
        self.by_spi.insert(spi, slot);
        Ok(())
    }

    /// Puts the pair in use, in place of the port's pair with the same name and resource.
    pub(crate) fn activate(&mut self, spi_in: u32) -> Result<(), SaError> {
        let slot = *self.by_spi.get(&spi_in).ok_or(SaError::Unknown(spi_in))?;
        let pair = self.pair_mut(slot).ok_or(SaError::Unknown(spi_in))?;
        if pair.outbound.is_none() {
            return Err(SaError::Unknown(spi_in));
        }
        pair.active = true;
        let (name, resource, port) = (pair.name.clone(), pair.resource, pair.port);
        self.recent.forget();
        let Some(port) = self.ports.get_mut(usize::from(port)) else { return Err(SaError::Unknown(spi_in)) };
        let in_use = match resource {
            None => &mut port.active,
            Some(_) => port.bound.entry(name.clone()).or_default(),
        };
        for place in &mut *in_use {
            let Some(other) = self.pairs.get_mut(*place).and_then(Option::as_deref_mut) else { continue };
            if other.name == name && other.resource == resource {
                other.active = other.spi_in == spi_in;
                *place = slot;
                return Ok(());
            }
        }
        in_use.push(slot);
        Ok(())
    }

    pub(crate) fn repath(&mut self, spi_in: u32, outer: Outer, header: OuterHeader) -> Result<(), SaError> {
        let outer = canonical(outer);
        let path = self.paths.get(&outer.remote.ip()).copied();
        let pair = self.inbound(spi_in).ok_or(SaError::Unknown(spi_in))?;
        let Some(outbound) = &mut pair.outbound else { return Err(SaError::Unknown(spi_in)) };
        outbound.header = header;
        outbound.path = path;
        if pair.outer.local.ip() != outer.local.ip() {
            pair.former = Some(pair.outer.local.ip());
        }
        pair.outer = outer;
        Ok(())
    }

    /// Wipes the outbound SA now and the inbound one after `linger`.
    pub(crate) fn remove(&mut self, spi_in: u32, linger: Duration, now: Instant) -> Result<(), SaError> {
        let slot = *self.by_spi.get(&spi_in).ok_or(SaError::Unknown(spi_in))?;
        let pair = self.pair_mut(slot).ok_or(SaError::Unknown(spi_in))?;
        pair.outbound = None;
        pair.active = false;
        let (name, port) = (pair.name.clone(), usize::from(pair.port));
        self.recent.forget();
        if let Some(port) = self.ports.get_mut(port) {
            port.active.retain(|active| *active != slot);
            if let Some(bound) = port.bound.get_mut(&name) {
                bound.retain(|bound| *bound != slot);
                if bound.is_empty() {
                    port.bound.remove(&name);
                }
            }
        }
        self.lingering.retain(|(_, spi)| *spi != spi_in);
        match now.checked_add(linger) {
            Some(until) if !linger.is_zero() => self.lingering.push((until, spi_in)),
            _ => self.forget(spi_in),
        }
        Ok(())
    }

    fn forget(&mut self, spi_in: u32) {
        // A later pair may have the same SPI: nothing of this one may be left to expire then.
        self.lingering.retain(|(_, spi)| *spi != spi_in);
        if let Some(place) = self.by_spi.remove(&spi_in).and_then(|slot| self.pairs.get_mut(slot)) {
            *place = None;
        }
    }

    /// Wipes what has lingered long enough.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some(&(_, spi_in)) = self.lingering.iter().find(|(until, _)| *until <= now) {
            self.forget(spi_in);
        }
    }

    /// When [`Table::expire`] next has something to do.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.lingering.iter().map(|(until, _)| *until).min()
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
        for pair in self.pairs.iter_mut().flatten() {
            if pair.outer.remote.ip() == remote
                && let Some(outbound) = &mut pair.outbound
            {
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
