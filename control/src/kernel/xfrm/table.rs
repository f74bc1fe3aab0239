//! The kernel's SAs behind [`SaTable`].
//!
//! The control plane's calls are carried out at once, over one socket; another thread reads the kernel's events. What the
//! kernel has no event for is looked at a few times a second: the first packet of a new inbound SA, and what lingers.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use sekisho_esp::sa::{Outer, PairCounters, PortId, SaError, SaEvent, SaPair, SaTable, Selector, Transform};

use super::algorithm::Algorithm;
use super::asked::{Asked, Asker, Step};
use super::event::{self, XfrmEvent};
use super::listing::{policies, remove_all};
use super::offload::Wish;
use super::pair::Pair;
use super::plan::{self, TRAP_SPI};
use super::processors;
use super::refusal::explained;
use super::room;
use super::selector::{self, POLICIES_MAX, XfrmSelector};
use super::socket::Socket;
use super::state::{State, StateId};
use super::wire::group;
use super::writer::Writer;

/// How often what has no event is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How long the kernel keeps a packet's wish for an SA to itself before it may tell of the next one.
const ACQUIRE_PERIOD: Duration = Duration::from_secs(1);
/// Between two looks at the kernel's policies where events are lost in a row, or policies cannot be written.
const RESTORE_PAUSE: Duration = Duration::from_secs(1);
/// First reqid: ties policies to SAs, and stands nowhere else on the machine.
const REQID_FIRST: u32 = 0x5e50_0000;

/// Packets from here to there open a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trap {
    /// VPN port.
    pub port: PortId,
    /// Networks on our side.
    pub local: Vec<IpNet>,
    /// The peer's.
    pub remote: Vec<IpNet>,
}

/// Who does the work of the SAs there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offloaded {
    /// SAs in NICs.
    pub in_nics: usize,
    /// SAs that the kernel does the work of.
    pub in_kernel: usize,
    /// Why a NIC has not taken one, the last time.
    pub refused: Option<String>,
}

/// XFRM as a data path.
pub struct XfrmTable {
    inner: Mutex<Inner>,
    events: Mutex<Socket>,
}

struct Inner {
    writer: Writer,
    /// By inbound SPI.
    pairs: BTreeMap<u32, Pair>,
    /// One for each name, for as long as this lives: a rekeyed pair takes its predecessor's place under the same policies.
    reqids: BTreeMap<Arc<str>, u32>,
    /// Inbound SPI of the pair that is sent with, for each name of a port and resource.
    in_use: BTreeMap<(PortId, Arc<str>, Option<u16>), u32>,
    translates: bool,
    wish: Wish,
    policies: Asked,
    /// The kernel's notes of acquires, and when they are to be forgotten.
    acquired: Vec<(Instant, StateId)>,
    /// Buckets that the kernel's tables of SAs were made large for.
    buckets: u32,
    /// Somebody may have removed policies of ours: when to look.
    policies_lost: Option<Instant>,
    /// What has our interface ids is ours to remove.
    is_ours: bool,
    looked: Instant,
    pending: VecDeque<SaEvent>,
}

impl XfrmTable {
    /// Opens the sockets and sees what this kernel can. Nothing there is touched before [`take_over`](Self::take_over): it
    /// may be a running gateway's.
    pub fn open(has_ipv6: bool) -> Result<XfrmTable, SaError> {
        let io = |error: io::Error| explained("cannot open a socket of XFRM", error.into());
        let groups = [group::ACQUIRE, group::EXPIRE, group::POLICY, group::MAPPING];
        let events = Socket::listen(&groups).map_err(io)?;
        let writer = Writer::open(has_ipv6)?;
        let inner = Inner {
            writer,
            pairs: BTreeMap::new(),
            reqids: BTreeMap::new(),
            in_use: BTreeMap::new(),
            translates: false,
            wish: Wish::default(),
            policies: Asked::default(),
            acquired: Vec::new(),
            buckets: 0,
            policies_lost: None,
            is_ours: false,
            looked: Instant::now(),
            pending: VecDeque::new(),
        };
        Ok(XfrmTable { inner: Mutex::new(inner), events: Mutex::new(events) })
    }

    /// Removes what a predecessor left under our interface ids. From now on they are this table's, until it ends.
    pub fn take_over(&self) -> Result<(), SaError> {
        let mut inner = self.inner();
        inner.is_ours = true;
        remove_all(inner.writer.socket(), |id| plan::port(id).is_some())
    }

    /// Whether a child between these networks fits into the kernel's policies.
    pub fn fits(local: &[IpNet], remote: &[IpNet]) -> Result<(), SaError> {
        selectors(local, remote).map(drop)
    }

    /// From now on packets of these are told of as [`SaEvent::Acquire`] where they have no SA. `translates`: the filter changes
    /// destinations of what was decrypted, so that the kernel cannot hold them against selectors.
    pub fn configure(&self, traps: &[Trap], translates: bool) -> Result<(), SaError> {
        let mut all = Vec::new();
        for (number, trap) in (1..).zip(traps) {
            let selectors = selectors(&trap.local, &trap.remote)?;
            all.extend(selectors.into_iter().map(|selector| plan::trap(trap.port, selector, number)));
        }
        let mut inner = self.inner();
        inner.policies.ask(Asker::Traps, all);
        if std::mem::replace(&mut inner.translates, translates) != translates {
            let pairs: Vec<u32> = inner.pairs.keys().copied().collect();
            pairs.into_iter().for_each(|spi_in| inner.ask_policies(spi_in));
        }
        inner.settle_policies()
    }

    /// Has the kernel make its tables large enough for so many pairs, if they are not: where they grow later a packet may be lost.
    pub fn make_room(&self, pairs: usize) -> Result<(), SaError> {
        let mut inner = self.inner();
        let buckets = room::buckets_for(pairs);
        if buckets > inner.buckets {
            room::make(&mut inner.writer, buckets)?;
            inner.buckets = buckets;
        }
        Ok(())
    }

    /// From now on these NICs are asked to encrypt and check for each new SA: those with our addresses, by ifindex. `None`:
    /// none is.
    pub fn offload(&self, devices: Option<BTreeMap<IpAddr, u32>>) {
        self.inner().wish.set(devices);
    }

    /// What NICs do.
    pub fn offloaded(&self) -> Offloaded {
        let inner = self.inner();
        let mut offloaded = Offloaded { refused: inner.wish.refused.clone(), ..Offloaded::default() };
        for pair in inner.pairs.values() {
            let sas = [Some(pair.in_nic.0), pair.active.then_some(pair.in_nic.1)];
            for in_nic in sas.into_iter().flatten() {
                *(if in_nic { &mut offloaded.in_nics } else { &mut offloaded.in_kernel }) += 1;
            }
        }
        offloaded
    }

    /// Sees whether this kernel has the algorithms of these transforms; their names there.
    pub fn can(&self, transforms: &[Transform]) -> Result<Vec<String>, SaError> {
        let mut inner = self.inner();
        let mut names = Vec::new();
        for &transform in transforms {
            inner.writer.try_out(transform)?;
            let name = Algorithm::of(transform).names();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// What `status` says of this path: features of this kernel.
    pub fn features(&self) -> String {
        let inner = self.inner();
        let direction =
            if inner.writer.is_directed() { "SA direction" } else { "no SA direction (Linux 6.10)" };
        let processors = if inner.writer.knows_processors() {
            "SAs of single processors"
        } else {
            "no SAs of single processors (Linux 6.13)"
        };
        format!("{direction}, {processors}")
    }

    /// How many processors may have an SA of their own; 0: this kernel knows of none.
    pub fn processors(&self) -> u16 {
        if self.inner().writer.knows_processors() { processors::count() } else { 0 }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves SAs that are removed as any others.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for XfrmTable {
    fn drop(&mut self) {
        let inner = self.inner.get_mut().unwrap_or_else(PoisonError::into_inner);
        if inner.is_ours
            && let Err(error) = remove_all(inner.writer.socket(), |id| plan::port(id).is_some())
        {
            tracing::error!(%error, "SAs stay in the kernel; `ip xfrm state` lists them");
        }
    }
}

/// Those of all that goes from one of these networks to one of those.
fn selectors(local: &[IpNet], remote: &[IpNet]) -> Result<Vec<XfrmSelector>, SaError> {
    let any = |net: &IpNet| Selector {
        addresses: net.network()..=net.broadcast(),
        protocol: 0,
        ports: 0..=u16::MAX,
    };
    let (local, remote): (Vec<_>, Vec<_>) =
        (local.iter().map(any).collect(), remote.iter().map(any).collect());
    selector::between(&local, &remote).ok_or_else(too_many)
}

fn too_many() -> SaError {
    SaError::Io {
        context: format!(
            "selectors that take more than {POLICIES_MAX} policies of the kernel; use networks instead of ranges, or write \
             datapath = \"engine\""
        ),
        source: io::Error::from(io::ErrorKind::InvalidInput),
    }
}

impl Inner {
    /// What this pair asks for may have changed, or it is gone.
    fn ask_policies(&mut self, spi_in: u32) {
        let asked = self.pairs.get(&spi_in).map(|pair| pair.wanted().policies(self.translates));
        self.policies.ask(Asker::Pair(spi_in), asked.unwrap_or_default());
    }

    /// Makes the kernel's policies those that the pairs and traps ask for.
    fn settle_policies(&mut self) -> Result<(), SaError> {
        let writer = &mut self.writer;
        self.policies.settle(|step| match step {
            Step::Put(policy) => writer.put_policy(policy),
            Step::Remove(id) => writer.remove_policy(id),
        })
    }

    fn reqid(&mut self, name: &Arc<str>) -> u32 {
        let next = REQID_FIRST + u32::try_from(self.reqids.len()).unwrap_or(0);
        *self.reqids.entry(name.clone()).or_insert(next)
    }

    fn install(&mut self, pair: SaPair, activate: bool) -> Result<(), SaError> {
        let spi_in = pair.spi_in;
        if self.pairs.contains_key(&spi_in) {
            return Err(SaError::Exists(spi_in));
        }
        let outbound = selector::between(&pair.local, &pair.remote).ok_or_else(too_many)?;
        let inbound = selector::between(&pair.remote, &pair.local).ok_or_else(too_many)?;
        let reqid = self.reqid(&pair.name);
        let mut pair = Pair::new(pair, reqid, outbound, inbound)?;
        let local = pair.outer().local.ip();
        let worker = self.writer.add(&State { offload: self.wish.of(local), ..pair.inbound() })?;
        pair.in_nic.0 = self.wish.heard(local, worker);
        self.pairs.insert(spi_in, pair);
        self.ask_policies(spi_in);
        let rest = self.settle_policies();
        let rest = rest.and_then(|()| if activate { self.activate(spi_in) } else { Ok(()) });
        if rest.is_err() {
            // What could not be made whole is not there.
            let _ = self.remove(spi_in, Duration::ZERO);
        }
        rest
    }

    fn activate(&mut self, spi_in: u32) -> Result<(), SaError> {
        let pair =
            self.pairs.get(&spi_in).filter(|pair| !pair.is_leaving()).ok_or(SaError::Unknown(spi_in))?;
        if pair.active {
            return Ok(());
        }
        let (port, name, resource) = (pair.port(), pair.name().clone(), pair.resource());
        let is_there = pair.can_send();
        let in_nic = if is_there {
            pair.in_nic.1
        } else {
            let local = pair.outer().local.ip();
            let worker = self.writer.add(&State { offload: self.wish.of(local), ..pair.resumed()? })?;
            self.wish.heard(local, worker)
        };
        let former = self.in_use.insert((port, name, resource), spi_in);
        if let Some(pair) = former.and_then(|spi| self.pairs.get_mut(&spi)) {
            pair.rest(Instant::now());
        }
        if let Some(pair) = self.pairs.get_mut(&spi_in) {
            pair.send();
            pair.in_nic.1 = in_nic;
        }
        former.into_iter().chain([spi_in]).for_each(|spi| self.ask_policies(spi));
        // Both stand side by side. Under a policy that is new the kernel looks for an SA, and takes the newest.
        self.policies.write_again(Asker::Pair(spi_in));
        self.settle_policies()?;
        match former {
            // Not where the older one is put in use again.
            Some(former) if is_there => self.stop_sending(former),
            _ => Ok(()),
        }
    }

    /// Takes the outbound SA away, and keeps what it has counted.
    fn stop_sending(&mut self, spi_in: u32) -> Result<(), SaError> {
        let Some(pair) = self.pairs.get_mut(&spi_in) else { return Ok(()) };
        let id = pair.outbound().id;
        let left = self.writer.left(&id);
        pair.stopped(left.as_ref().ok().cloned().flatten());
        let removed = self.writer.remove(&id);
        left.and(removed)
    }

    fn remove(&mut self, spi_in: u32, linger: Duration) -> Result<(), SaError> {
        let pair = self.pairs.get_mut(&spi_in).ok_or(SaError::Unknown(spi_in))?;
        let was_active = std::mem::replace(&mut pair.active, false);
        pair.leave(Instant::now() + linger);
        if was_active {
            self.in_use.remove(&(pair.port(), pair.name().clone(), pair.resource()));
        }
        self.ask_policies(spi_in);
        // With the policies first, what is sent meanwhile finds no SA in place of a dying one.
        let mut outcome = self.settle_policies();
        if was_active {
            outcome = outcome.and(self.stop_sending(spi_in));
        }
        if linger.is_zero() { outcome.and(self.forget(spi_in)) } else { outcome }
    }

    /// Takes the inbound SA away, too.
    fn forget(&mut self, spi_in: u32) -> Result<(), SaError> {
        let stopped = self.end_rest(spi_in);
        let Some(pair) = self.pairs.remove(&spi_in) else { return Ok(()) };
        let removed = self.writer.remove(&pair.inbound().id);
        self.ask_policies(spi_in);
        self.settle_policies().and(removed).and(stopped)
    }

    /// Takes an outbound SA away that is there and not in use.
    fn end_rest(&mut self, spi_in: u32) -> Result<(), SaError> {
        match self.pairs.get(&spi_in) {
            Some(pair) if pair.can_send() && !pair.active => self.stop_sending(spi_in),
            _ => Ok(()),
        }
    }

    fn repath(&mut self, spi_in: u32, outer: Outer) -> Result<(), SaError> {
        self.end_rest(spi_in)?;
        let pair = self.pairs.get_mut(&spi_in).ok_or(SaError::Unknown(spi_in))?;
        let former = pair.outer();
        let outer = super::pair::canonical(outer);
        if former == outer {
            return Ok(());
        }
        let (old_in, old_out) = (pair.inbound().id, pair.outbound().id);
        pair.set_outer(outer);
        let only_ports = former.local.ip() == outer.local.ip()
            && former.remote.ip() == outer.remote.ip()
            && former.udp_encapsulation
            && outer.udp_encapsulation;
        if only_ports {
            self.writer.update(&pair.inbound())?;
            return if pair.active { self.writer.update(&pair.outbound()) } else { Ok(()) };
        }
        let offload = self.wish.of(outer.local.ip());
        let replaced = self.writer.replace(&old_in, State { offload, ..pair.inbound() });
        let (counted, worker) = match replaced {
            Ok(replaced) => replaced,
            Err(error) => {
                // By its new names nobody would find them. Their loss is seen, and told.
                let _ = self.writer.remove(&old_in);
                let _ = self.writer.remove(&old_out);
                return Err(error);
            }
        };
        pair.moved(counted);
        pair.in_nic.0 = self.wish.heard(outer.local.ip(), worker);
        if pair.active {
            let replaced = self.writer.replace(&old_out, State { offload, ..pair.outbound() });
            let (_, worker) = match replaced {
                Ok(replaced) => replaced,
                Err(error) => {
                    let _ = self.writer.remove(&old_out);
                    return Err(error);
                }
            };
            pair.in_nic.1 = self.wish.heard(outer.local.ip(), worker);
        }
        self.ask_policies(spi_in);
        self.settle_policies()
    }

    fn counters(&mut self, spi_in: u32) -> Result<PairCounters, SaError> {
        let pair = self.pairs.get_mut(&spi_in).ok_or(SaError::Unknown(spi_in))?;
        let inbound = self.writer.counters(&pair.inbound().id)?;
        let outbound = match pair.can_send() {
            true => self.writer.counters(&pair.outbound().id)?,
            false => Some(pair.sent),
        };
        if (inbound.is_none() || outbound.is_none()) && !pair.is_leaving() && !pair.loss_told {
            // `ip xfrm state flush`, or the end of a hard limit. The peer still sends by it: new ones are needed.
            pair.loss_told = true;
            tracing::warn!(spi_in = format!("{spi_in:#010x}"), "an SA is no longer in the kernel");
            self.pending.push_back(SaEvent::HardExpired { spi_in });
        }
        Ok(PairCounters {
            inbound: pair.received(inbound.unwrap_or_default()),
            outbound: outbound.unwrap_or_default(),
        })
    }

    /// Writes those of our policies again that others have removed: without them nothing leaves, and nothing is let in.
    fn restore_policies(&mut self) -> Result<(), SaError> {
        let there = policies(self.writer.socket(), |id| plan::port(id).is_some())?;
        match self.policies.missing(|id| there.contains(id)) {
            0 => Ok(()),
            lost => {
                tracing::warn!(lost, "policies were removed by others: written again");
                self.settle_policies()
            }
        }
    }

    /// What the kernel has no event for.
    fn look(&mut self, now: Instant) {
        if now.duration_since(self.looked) < LOOK {
            return;
        }
        self.looked = now;
        let rested: Vec<u32> =
            self.pairs.values().filter(|pair| pair.has_rested(now)).map(Pair::spi_in).collect();
        for spi_in in rested {
            if let Err(error) = self.stop_sending(spi_in) {
                tracing::error!(%error, spi_in = format!("{spi_in:#010x}"), "outbound SA stays in the kernel");
            }
        }
        let due: Vec<u32> = self.pairs.values().filter(|pair| pair.is_due(now)).map(Pair::spi_in).collect();
        for spi_in in due {
            if let Err(error) = self.forget(spi_in) {
                tracing::error!(%error, spi_in = format!("{spi_in:#010x}"), "inbound SA stays in the kernel");
            }
        }
        let waiting: Vec<u32> = self
            .pairs
            .values_mut()
            .filter_map(|pair| pair.awaits_first(now).then(|| pair.spi_in()))
            .collect();
        for spi_in in waiting {
            let received = self.counters(spi_in).is_ok_and(|counters| counters.inbound.packets > 0);
            if let (true, Some(pair)) = (received, self.pairs.get_mut(&spi_in)) {
                pair.first_told = true;
                self.pending.push_back(SaEvent::FirstInbound { spi_in });
            }
        }
        let notes: Vec<StateId> =
            self.acquired.iter().filter(|(due, _)| *due <= now).map(|(_, id)| *id).collect();
        self.acquired.retain(|(due, _)| *due > now);
        for id in notes {
            // Without it the next packet is told of again, and late at worst: the kernel forgets it after 30 seconds.
            let _ = self.writer.remove(&id);
        }
    }

    /// What an event of the kernel means for the control plane, if it is about an SA of ours.
    fn translate(&mut self, event: XfrmEvent) -> Option<SaEvent> {
        match event {
            XfrmEvent::Expired { id, hard } => {
                let is_it = |known: &StateId| known.spi == id.spi && known.destination == id.destination;
                let pair = self
                    .pairs
                    .values()
                    .find(|pair| is_it(&pair.inbound().id) || (pair.active && is_it(&pair.outbound().id)))?;
                let spi_in = pair.spi_in();
                Some(if hard { SaEvent::HardExpired { spi_in } } else { SaEvent::SoftExpired { spi_in } })
            }
            XfrmEvent::Acquire { if_id, wanted, source, destination } => {
                let port = plan::port(if_id)?;
                if wanted.spi == TRAP_SPI {
                    self.acquired.push((Instant::now() + ACQUIRE_PERIOD, wanted));
                }
                Some(SaEvent::Acquire { port, source, destination })
            }
            XfrmEvent::Remapped { id, remote } => {
                let pair = self.pairs.get_mut(&id.spi)?;
                let is_news = pair.inbound().id.destination == id.destination && pair.remap(remote);
                is_news.then_some(SaEvent::Remapped { spi_in: id.spi, remote })
            }
            XfrmEvent::PolicyGone(id) => {
                if self.policies.is_there(&id) {
                    self.policies_lost.get_or_insert_with(Instant::now);
                }
                None
            }
            XfrmEvent::PoliciesGone => {
                self.policies_lost.get_or_insert_with(Instant::now);
                None
            }
        }
    }
}

impl SaTable for XfrmTable {
    fn name(&self) -> &'static str {
        "kernel"
    }

    fn install(&self, pair: SaPair, activate: bool) -> Result<(), SaError> {
        self.inner().install(pair, activate)
    }

    fn activate(&self, spi_in: u32) -> Result<(), SaError> {
        self.inner().activate(spi_in)
    }

    fn repath(&self, spi_in: u32, outer: Outer) -> Result<(), SaError> {
        self.inner().repath(spi_in, outer)
    }

    fn remove(&self, spi_in: u32, linger: Duration) -> Result<(), SaError> {
        self.inner().remove(spi_in, linger)
    }

    fn counters(&self, spi_in: u32) -> Result<PairCounters, SaError> {
        self.inner().counters(spi_in)
    }

    fn next_event(&self, timeout: Duration) -> Option<SaEvent> {
        let deadline = Instant::now() + timeout;
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let now = Instant::now();
            {
                let mut inner = self.inner();
                inner.look(now);
                if let Some(event) = inner.pending.pop_front() {
                    return Some(event);
                }
            }
            if now >= deadline {
                return None;
            }
            let patience = deadline.duration_since(now).min(LOOK).as_millis().try_into().unwrap_or(u16::MAX);
            let mut read = Vec::new();
            let mut lost = false;
            if let Err(error) = events.events(patience, |received| read.extend(event::read(received))) {
                // ENOBUFS: some were lost. What they would have told of SAs is told again by the next packet, or by time.
                lost = true;
                tracing::warn!(%error, "events of the kernel's SAs were lost");
            }
            let mut inner = self.inner();
            for event in read {
                let told = inner.translate(event);
                inner.pending.extend(told);
            }
            let now = Instant::now();
            if lost {
                inner.policies_lost.get_or_insert(now + RESTORE_PAUSE);
            }
            if inner.policies_lost.is_some_and(|due| due <= now) {
                inner.policies_lost = None;
                if let Err(error) = inner.restore_policies() {
                    inner.policies_lost = Some(now + RESTORE_PAUSE);
                    tracing::error!(%error, "policies are missing in the kernel");
                }
            }
        }
    }
}
