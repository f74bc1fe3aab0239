//! What a NIC shall do of the kernel's ESP (XFRMA_OFFLOAD_DEV), and what came of it.
//!
//! It is a wish: whatever a NIC, its driver or the kernel refuses is done by the kernel itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::state::Direction;
use super::wire::{Bytes, Request, attribute};

/// XFRM_OFFLOAD_INBOUND.
const INBOUND: u8 = 2;
/// Reasons that are logged. They are words of the kernel, and a handful.
const LOGGED_MAX: usize = 16;

/// A NIC for an SA: for encryption and integrity. The kernel makes the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offload {
    /// ifindex.
    pub(super) device: u32,
}

impl Offload {
    /// Writes the attribute of an SA.
    pub(super) fn put(self, request: &mut Request, direction: Direction) {
        request.attribute(attribute::OFFLOAD_DEV, |value| {
            value.u32(self.device).u8(if direction == Direction::In { INBOUND } else { 0 }).zeros(3);
        });
    }

    /// Reads the attribute, as the kernel shows it where the NIC does the work.
    pub(super) fn read(value: Bytes<'_>) -> Option<Offload> {
        Some(Offload { device: value.u32(0)? })
    }
}

/// Who does the work of an SA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Worker {
    /// The NIC.
    Nic,
    /// The kernel. Why, where a NIC was asked for.
    Kernel(Option<String>),
}

/// Which NICs are asked.
#[derive(Debug, Default)]
pub(super) struct Wish {
    /// ifindex of the port with each of our addresses; `None`: nothing is asked for.
    devices: Option<BTreeMap<IpAddr, u32>>,
    /// Why a NIC does not do what it was asked for, the last time.
    pub(super) refused: Option<String>,
    /// All such reasons that were logged: there may be one for each direction.
    logged: BTreeSet<String>,
}

impl Wish {
    pub(super) fn set(&mut self, devices: Option<BTreeMap<IpAddr, u32>>) {
        self.devices = devices;
    }

    /// The NIC to ask for an SA that ends at this address of ours.
    pub(super) fn of(&self, local: IpAddr) -> Option<Offload> {
        Some(Offload { device: *self.devices.as_ref()?.get(&local)? })
    }

    /// Remembers what came of asking for it; says whether the NIC does the work. Each reason is logged once.
    pub(super) fn heard(&mut self, local: IpAddr, worker: Worker) -> bool {
        let reason = match worker {
            Worker::Nic => return true,
            Worker::Kernel(Some(reason)) => reason,
            Worker::Kernel(None) if self.devices.is_some() => format!("no port has the address {local}"),
            Worker::Kernel(None) => return false,
        };
        if self.logged.len() < LOGGED_MAX && self.logged.insert(reason.clone()) {
            tracing::warn!(reason, "a NIC does not take an SA: the kernel encrypts by itself");
        }
        self.refused = Some(reason);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::HEADER;
    use super::*;

    /// As linux/xfrm.h has it; `golden` has the recorded ones.
    #[test]
    fn each_direction_has_its_flag() {
        for (direction, flags) in [(Direction::Out, 0), (Direction::In, 2)] {
            let mut request = Request::new(0, 0);
            Offload { device: 7 }.put(&mut request, direction);
            let bytes = request.finish(0).to_vec();
            let (kind, value) = Bytes(&bytes[HEADER..]).attributes().next().expect("an attribute");
            assert_eq!((kind, value.u8(4), value.0.len()), (attribute::OFFLOAD_DEV, Some(flags), 8));
            assert_eq!(Offload::read(value), Some(Offload { device: 7 }));
        }
    }

    #[test]
    fn a_refusal_is_kept_with_its_reason() {
        let local: IpAddr = "192.0.2.1".parse().expect("an address");
        let mut wish = Wish::default();
        assert_eq!((wish.of(local), wish.heard(local, Worker::Kernel(None))), (None, false));
        assert_eq!(wish.refused, None, "nothing was asked for");
        wish.set(Some(BTreeMap::from([(local, 7)])));
        assert_eq!(wish.of(local), Some(Offload { device: 7 }));
        assert!(wish.heard(local, Worker::Nic) && wish.refused.is_none());
        assert!(!wish.heard(local, Worker::Kernel(Some("no ESP there".into()))));
        assert_eq!(wish.refused.as_deref(), Some("no ESP there"));
        let other: IpAddr = "192.0.2.9".parse().expect("an address");
        assert_eq!((wish.of(other), wish.heard(other, Worker::Kernel(None))), (None, false));
        assert_eq!(wish.refused.as_deref(), Some("no port has the address 192.0.2.9"));
        assert!(!wish.heard(local, Worker::Kernel(Some("no ESP there".into()))));
        assert_eq!(wish.logged.len(), 2, "each reason once");
    }
}
