//! The SAs of one worker: by SPI inbound, by VPN port and selectors outbound, and of several with the same selectors by what
//! they are for: this worker's own, before the one that all workers have.
//!
//! Owned by the worker's thread alone, so nothing here is locked. Everything a packet needs is resolved when the
//! control plane speaks, not when the packet comes: the path hangs on the outbound SA, and the pairs that a destination may
//! mean are found without asking the others. Nothing that the control plane says costs more because there are many pairs, but
//! for what is about all of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sekisho_abi::map::PORTS_MAX;

use super::config::L2Path;
use super::destinations::Destinations;
use super::pair::{Pair, ResolvedPath, canonical};
use crate::sa::{Outer, PortId, SaError};
use crate::transform::{InnerPacket, OuterHeader, Ports};

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

/// One VPN port: the pairs whose outbound SA is in use.
#[derive(Debug, Default)]
struct Port {
    /// Those by their rank. A pair that takes another's place has its rank.
    active: BTreeMap<Rank, Slot>,
    /// What is sent with for single resources, of all workers.
    bound: usize,
    groups: HashMap<Arc<str>, u64>,
    next_group: u64,
    destinations: Destinations<(Rank, Slot)>,
}

/// In which order the pairs of a port are asked: those for single resources last, for each worker may use each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    is_bound: bool,
    /// Which name: by number, in the order in which they came.
    group: u64,
    /// 0 where it is bound to none.
    resource: u16,
}

impl Rank {
    fn of(group: u64, resource: Option<u16>) -> Self {
        Self { is_bound: resource.is_some(), group, resource: resource.unwrap_or_default() }
    }

    /// All pairs of a group that are bound to a resource.
    fn bound(group: u64) -> RangeInclusive<Self> {
        Self::of(group, Some(0))..=Self::of(group, Some(u16::MAX))
    }
}

impl Port {
    /// Puts the pair in use; returns the one of the same name and resource that was until now, and its rank.
    fn take(&mut self, pair: &Pair, slot: Slot) -> Option<(Rank, Slot)> {
        let group = *self.groups.entry(pair.name.clone()).or_insert_with(|| {
            self.next_group += 1;
            self.next_group
        });
        let rank = Rank::of(group, pair.resource);
        let before = self.active.insert(rank, slot);
        self.bound += usize::from(rank.is_bound && before.is_none());
        for addresses in pair.selectors.remote_addresses() {
            self.destinations.insert(&addresses, (rank, slot));
        }
        before.filter(|before| *before != slot).map(|before| (rank, before))
    }

    /// Nothing is sent by it any more.
    fn drop_pair(&mut self, pair: &Pair, slot: Slot) {
        let Some(&group) = self.groups.get(&pair.name) else { return };
        let rank = Rank::of(group, pair.resource);
        // Its place may be another's by now.
        if self.active.get(&rank) != Some(&slot) {
            return;
        }
        self.active.remove(&rank);
        self.bound -= usize::from(rank.is_bound);
        self.forget_addresses(pair, (rank, slot));
        let is_last = !self.active.contains_key(&Rank::of(group, None))
            && self.active.range(Rank::bound(group)).next().is_none();
        if is_last {
            self.groups.remove(&pair.name);
        }
    }

    fn forget_addresses(&mut self, pair: &Pair, ranked: (Rank, Slot)) {
        for addresses in pair.selectors.remote_addresses() {
            self.destinations.remove(&addresses, ranked);
        }
    }

    /// The worker's own pair beside this one, if there is any. Flows are dealt out among several.
    fn own(&self, turn: Turn, packet: &InnerPacket, (rank, slot): (Rank, Slot)) -> Slot {
        if self.bound == 0 {
            return slot;
        }
        let own = || self.active.range(Rank::bound(rank.group)).filter(|(rank, _)| turn.has(rank.resource));
        match own().count() {
            0 => slot,
            count => own().nth(deal(packet, count)).map_or(slot, |(_, own)| *own),
        }
    }
}

/// The SAs.
#[derive(Debug)]
pub(crate) struct Table {
    turn: Turn,
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
    pub(crate) fn new(devices: Vec<Device>, turn: Turn) -> Self {
        Self {
            turn,
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

    pub(crate) fn turn(&self) -> Turn {
        self.turn
    }

    /// The pair that receives with this SPI.
    pub(crate) fn inbound(&mut self, spi: u32) -> Option<&mut Pair> {
        let slot = *self.by_spi.get(&spi)?;
        self.pair_mut(slot)
    }

    /// The pair in use that carries this packet of a VPN port: of those that may the earliest, and beside it this worker's own.
    /// `None`: there is no such port.
    pub(crate) fn select(&self, port: PortId, packet: &InnerPacket) -> Option<Selection> {
        let port = self.ports.get(usize::from(port))?;
        let may_carry =
            |slot: Slot| self.pair(slot).is_some_and(|pair| pair.selectors.matches_outbound(packet));
        let covering = port.destinations.covering(packet.destination);
        Some(match covering.iter().find(|(_, slot)| may_carry(*slot)) {
            Some(found) => Selection::Pair(port.own(self.turn, packet, *found)),
            None => match port.active.first_key_value() {
                Some((rank, slot)) if !rank.is_bound => Selection::Outside(*slot),
                _ => Selection::NoneInUse,
            },
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

    /// Puts the pair in use, in place of the port's pair with the same name and resource.
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
        if let Some((rank, slot)) = former
            && let Some(former) = self.pairs.get_mut(slot).and_then(Option::as_deref_mut)
        {
            former.active = false;
            port.forget_addresses(former, (rank, slot));
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

/// Which of so many takes a flow: always the same one.
fn deal(packet: &InnerPacket, count: usize) -> usize {
    let InnerPacket { source, destination, protocol, ports, .. } = *packet;
    let ports = match ports {
        Ports::Pair { source, destination } => u64::from(source) << 16 | u64::from(destination),
        Ports::TypeCode(both) => 1 << 32 | u64::from(both),
        Ports::Opaque => 1 << 33,
    };
    let fold = |address: u128| (address >> 64) as u64 ^ address as u64;
    let mixed = (fold(source) ^ fold(destination).rotate_left(32) ^ ports << 8 ^ u64::from(protocol) << 48)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 40) as usize % count.max(1)
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
