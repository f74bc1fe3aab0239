//! Requests to the kernel about SAs and policies, each checked by what the kernel then shows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sekisho_esp::sa::{Keys, Lifetimes, SaCounters, SaError, Transform};
use zeroize::Zeroizing;

use super::algorithm::Algorithm;
use super::listing::gone;
use super::offload::{Offload, Worker};
use super::plan;
use super::policy::{Policy, PolicyId};
use super::refusal::{explained, otherwise};
use super::socket::{Refusal, Socket};
use super::state::{Direction, Found, Sequence, State, StateId};
use super::wire::Received;

/// The port number of the SA that is made to see whether the kernel can: no port has it.
const PROBE_PORT: u16 = u16::MAX;
/// Its SPI: one that is never negotiated (RFC 4303 section 2.1).
const PROBE_SPI: u32 = 0x5f;
/// Its ends: addresses for documentation (RFC 5737, RFC 3849).
const PROBE_ENDS: [(IpAddr, IpAddr); 2] = [
    (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2))),
    (
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)),
    ),
];

/// The socket, and what this kernel knows.
pub(super) struct Writer {
    socket: Socket,
    directed: bool,
    /// It knows SAs that one processor alone sends with.
    processors: bool,
}

impl Writer {
    /// Opens the socket and makes an SA for each family that leads nowhere, to see what this kernel can. They are gone
    /// again when this returns.
    pub(super) fn open(has_ipv6: bool) -> Result<Writer, SaError> {
        let socket =
            Socket::open().map_err(|error| explained("cannot open a socket of XFRM", error.into()))?;
        let mut writer = Writer { socket, directed: true, processors: true };
        for ends in PROBE_ENDS.into_iter().take(if has_ipv6 { 2 } else { 1 }) {
            writer.probe(ends, Transform::Aes256Gcm16, true)?;
        }
        Ok(writer)
    }

    /// The same for the algorithms of a transform, without and with extended sequence numbers: of a cipher with an HMAC those
    /// are two modules of the kernel.
    pub(super) fn try_out(&mut self, transform: Transform) -> Result<(), SaError> {
        let [ends, _] = PROBE_ENDS;
        self.probe(ends, transform, false)?;
        self.probe(ends, transform, true)
    }

    fn probe(
        &mut self,
        (source, destination): (IpAddr, IpAddr),
        transform: Transform,
        esn: bool,
    ) -> Result<(), SaError> {
        let id = StateId { destination, spi: PROBE_SPI, source };
        let keys = no_keys(transform);
        let state = State { esn, ..unused(id, transform, &keys) };
        // One that a predecessor left when it died here.
        self.remove(&id)?;
        let added = self.add(&state);
        let shown = self.found(&id, |found| found.direction.is_some());
        self.remove(&id)?;
        added?;
        self.directed = shown?.unwrap_or(false);
        // A kernel that does not know the attribute leaves it out without a word, or refuses it.
        let of_one = State { processor: Some(0), ..state };
        self.processors &= self.add(&of_one).is_ok();
        self.remove(&id)
    }

    pub(super) fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// Whether this kernel knows the direction of an SA.
    pub(super) fn is_directed(&self) -> bool {
        self.directed
    }

    /// Whether this kernel knows SAs that one processor alone sends with.
    pub(super) fn knows_processors(&self) -> bool {
        self.processors
    }

    /// Makes an SA, in a NIC where one is asked for and takes it, and reads it back; says whose it is.
    pub(super) fn add(&mut self, state: &State<'_>) -> Result<Worker, SaError> {
        let tried = || {
            let (id, way) = (state.id, if state.direction == Direction::In { "in" } else { "out" });
            let algorithm = Algorithm::of(state.transform).names();
            format!(
                "cannot make the SA {:#010x} ({way}bound, {} to {}, {algorithm})",
                id.spi, id.source, id.destination
            )
        };
        let mut state = State { directed: self.directed, ..state.clone() };
        let mut outcome = self.socket.tell(state.add());
        let mut reason = None;
        if state.offload.is_some()
            && let Err(refusal) = &outcome
            && refusal.errno() != libc::EEXIST
        {
            let words = refusal.text.clone().unwrap_or_else(|| refusal.error.to_string());
            reason = Some(format!("the kernel says: {words}"));
            state.offload = None;
            outcome = self.socket.tell(state.add());
        }
        if state.directed && outcome.as_ref().is_err_and(|refusal| refusal.errno() == libc::EINVAL) {
            // A kernel before 6.10 misses a window where extended sequence numbers leave.
            state.directed = false;
            outcome = self.socket.tell(state.add());
        }
        match outcome {
            Ok(()) => {}
            Err(refusal) if refusal.errno() == libc::EEXIST => return Err(SaError::Exists(state.id.spi)),
            Err(refusal) => return Err(explained(tried(), refusal)),
        }
        let difference = match self.found(&state.id, |found| (found.offload, found.differs(&state)))? {
            Some((shown, None)) => return Ok(worker(state.offload, shown, reason)),
            Some((_, Some(difference))) => difference,
            None => "nothing of it",
        };
        self.remove(&state.id)?;
        Err(otherwise(&tried(), difference))
    }

    /// Gives an SA other ports, in place.
    pub(super) fn update(&mut self, state: &State<'_>) -> Result<(), SaError> {
        let state = State { directed: self.directed, ..state.clone() };
        let told = self.socket.tell(state.update());
        told.map_err(|refusal| explained(format!("cannot change the SA {:#010x}", state.id.spi), refusal))
    }

    /// Makes an SA that goes on where another one ends, which is then removed. One between other addresses stands beside
    /// its predecessor until then; for the same destination the kernel has one place only. Gives back what the former one
    /// has counted: packets and bytes, but not what was refused, go on in the new one; and who does its work.
    pub(super) fn replace(
        &mut self,
        former: &StateId,
        mut state: State<'_>,
    ) -> Result<(SaCounters, Worker), SaError> {
        let (counters, sequence) = self.left(former)?.ok_or(SaError::Unknown(former.spi))?;
        state.sequence = match state.direction {
            Direction::In => Sequence { sent: 0, ..sequence },
            Direction::Out => sequence.onward(state.esn),
        };
        if former.destination == state.id.destination {
            self.remove(former)?;
            return Ok((counters, self.add(&state)?));
        }
        let worker = self.add(&state)?;
        self.remove(former)?;
        Ok((counters, worker))
    }

    /// What an SA has counted, and its last numbers. `None`: it is gone.
    pub(super) fn left(&mut self, id: &StateId) -> Result<Option<(SaCounters, Sequence)>, SaError> {
        self.found(id, |found| (found.counters, found.sequence.clone()))
    }

    /// Removes an SA; one that is gone counts as removed.
    pub(super) fn remove(&mut self, id: &StateId) -> Result<(), SaError> {
        let tried = || format!("cannot remove the SA {:#010x}", id.spi);
        gone(self.socket.tell(id.delete())).map_err(|refusal| explained(tried(), refusal))
    }

    /// What an SA has done; `None` if the kernel has none of that name.
    pub(super) fn counters(&mut self, id: &StateId) -> Result<Option<SaCounters>, SaError> {
        self.found(id, |found| found.counters)
    }

    fn found<T>(&mut self, id: &StateId, mut of: impl FnMut(&Found<'_>) -> T) -> Result<Option<T>, SaError> {
        let read = |received: &Received<'_>| Found::read(received.body).map(|found| of(&found));
        match self.socket.ask(id.get(), read) {
            Ok(found) => Ok(found),
            Err(refusal) if matches!(refusal.errno(), libc::ESRCH | libc::ENOENT) => Ok(None),
            Err(refusal) => Err(explained(format!("cannot look up the SA {:#010x}", id.spi), refusal)),
        }
    }

    /// Writes a policy, in place of the one with its name.
    pub(super) fn put_policy(&mut self, policy: &Policy) -> Result<(), SaError> {
        let told = self.socket.tell(policy.put());
        told.map_err(|refusal| explained("cannot set a policy of the kernel", refusal))
    }

    /// Removes a policy; one that is gone counts as removed.
    pub(super) fn remove_policy(&mut self, id: &PolicyId) -> Result<(), SaError> {
        let tried = |refusal: Refusal| explained("cannot remove a policy of the kernel", refusal);
        gone(self.socket.tell(id.delete())).map_err(tried)
    }
}

/// Keys of an SA that nothing is ever sealed with.
pub(super) fn no_keys(transform: Transform) -> Keys {
    let (encryption, integrity) = transform.key_bytes();
    Keys { encryption: Zeroizing::new(vec![0; encryption]), integrity: Zeroizing::new(vec![0; integrity]) }
}

/// Such an SA. What is left of it after a crash is ours by its interface id, and removed.
pub(super) fn unused(id: StateId, transform: Transform, keys: &Keys) -> State<'_> {
    State {
        id,
        direction: Direction::Out,
        reqid: 0,
        if_id: plan::if_id(PROBE_PORT),
        transform,
        keys,
        esn: false,
        window: 64,
        udp: None,
        lifetimes: Lifetimes::default(),
        sequence: Sequence::default(),
        directed: true,
        offload: None,
        processor: None,
    }
}

/// Who does the work of an SA that is as it was written. `asked`, `shown`: the NIC it was written for, and the one the kernel
/// names. `reason`: why there is none of the first.
fn worker(asked: Option<Offload>, shown: Option<Offload>, reason: Option<String>) -> Worker {
    match (asked, shown) {
        (_, Some(_)) => Worker::Nic,
        // Without a driver for it the kernel makes an SA of its own, without a word. It stays: it may have sent already, and
        // another one would begin with the same numbers under the same key.
        (Some(_), None) => {
            Worker::Kernel(Some("the device, or its driver, has no such offload of ESP".to_owned()))
        }
        (None, None) => Worker::Kernel(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_an_sa_is() {
        let nic = Some(Offload { device: 7 });
        assert_eq!(worker(nic, nic, None), Worker::Nic);
        let Worker::Kernel(Some(reason)) = worker(nic, None, None) else { panic!("in no NIC") };
        assert!(reason.contains("no such offload"), "{reason}");
        let said = Some("the kernel says: no".to_owned());
        assert_eq!(worker(None, None, said.clone()), Worker::Kernel(said));
        assert_eq!(worker(None, None, None), Worker::Kernel(None));
    }
}
