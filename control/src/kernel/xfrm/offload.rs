//! What a NIC shall do of the kernel's ESP (XFRMA_OFFLOAD_DEV), and what came of it.
//!
//! It is a wish: whatever a NIC, its driver or the kernel refuses is done by the kernel itself.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::state::Direction;
use super::wire::{Bytes, Request, attribute};

/// XFRM_OFFLOAD_INBOUND.
const INBOUND: u8 = 2;
/// XFRM_OFFLOAD_PACKET (Linux 6.2): encapsulation, limits and policies, too.
const PACKET: u8 = 4;

/// How much of an SA a NIC does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffloadKind {
    /// Encryption and integrity.
    Crypto,
    /// All of it.
    Packet,
}

impl OffloadKind {
    /// As the configuration has it.
    pub const fn name(self) -> &'static str {
        match self {
            OffloadKind::Crypto => "crypto",
            OffloadKind::Packet => "packet",
        }
    }
}

/// A NIC for an SA or a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offload {
    /// ifindex.
    pub(super) device: u32,
    pub(super) kind: OffloadKind,
}

impl Offload {
    /// Writes the attribute of an SA.
    pub(super) fn put(self, request: &mut Request, direction: Direction) {
        self.write(request, if direction == Direction::In { INBOUND } else { 0 });
    }

    /// Writes the attribute of a policy, which has its direction elsewhere.
    pub(super) fn put_in_policy(self, request: &mut Request) {
        self.write(request, 0);
    }

    fn write(self, request: &mut Request, flags: u8) {
        let flags = flags | if self.kind == OffloadKind::Packet { PACKET } else { 0 };
        request.attribute(attribute::OFFLOAD_DEV, |value| {
            value.u32(self.device).u8(flags).zeros(3);
        });
    }

    /// Reads the attribute, as the kernel shows it where the NIC does the work.
    pub(super) fn read(value: Bytes<'_>) -> Option<Offload> {
        let kind = if value.u8(4)? & PACKET == 0 { OffloadKind::Crypto } else { OffloadKind::Packet };
        Some(Offload { device: value.u32(0)?, kind })
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
    kind: Option<OffloadKind>,
    /// ifindex of the port with each of our addresses.
    devices: BTreeMap<IpAddr, u32>,
    /// Why a NIC does not do what it was asked for, the last time.
    pub(super) refused: Option<String>,
}

impl Wish {
    pub(super) fn set(&mut self, kind: Option<OffloadKind>, devices: BTreeMap<IpAddr, u32>) {
        (self.kind, self.devices) = (kind, devices);
    }

    /// The NIC to ask for an SA that ends at this address of ours.
    pub(super) fn of(&self, local: IpAddr) -> Option<Offload> {
        Some(Offload { device: *self.devices.get(&local)?, kind: self.kind? })
    }

    /// Remembers what came of asking for it; says whether the NIC does the work. A refusal is logged once.
    pub(super) fn heard(&mut self, local: IpAddr, worker: Worker) -> bool {
        let reason = match worker {
            Worker::Nic => return true,
            Worker::Kernel(Some(reason)) => reason,
            Worker::Kernel(None) if self.kind.is_some() => format!("no port has the address {local}"),
            Worker::Kernel(None) => return false,
        };
        if self.refused.as_ref() != Some(&reason) {
            tracing::warn!(reason, "a NIC does not take an SA: the kernel encrypts by itself");
            self.refused = Some(reason);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::HEADER;
    use super::*;

    fn flags(write: impl FnOnce(&mut Request)) -> u8 {
        let mut request = Request::new(0, 0);
        write(&mut request);
        let bytes = request.finish(0).to_vec();
        let (kind, value) = Bytes(&bytes[HEADER..]).attributes().next().expect("an attribute");
        assert_eq!((kind, value.u32(0), value.0.len()), (attribute::OFFLOAD_DEV, Some(7), 8));
        value.u8(4).expect("flags")
    }

    /// As linux/xfrm.h has them; `golden` has the recorded ones of crypto offload.
    #[test]
    fn each_wish_has_its_flags() {
        let offload = |kind| Offload { device: 7, kind };
        let (crypto, packet) = (offload(OffloadKind::Crypto), offload(OffloadKind::Packet));
        let of = |offload: Offload, direction| flags(|request| offload.put(request, direction));
        assert_eq!([of(crypto, Direction::Out), of(crypto, Direction::In)], [0, 2]);
        assert_eq!([of(packet, Direction::Out), of(packet, Direction::In)], [4, 6]);
        assert_eq!(flags(|request| packet.put_in_policy(request)), 4);
    }

    #[test]
    fn a_refusal_is_kept_with_its_reason() {
        let local: IpAddr = "192.0.2.1".parse().expect("an address");
        let mut wish = Wish::default();
        assert_eq!((wish.of(local), wish.heard(local, Worker::Kernel(None))), (None, false));
        assert_eq!(wish.refused, None, "nothing was asked for");
        wish.set(Some(OffloadKind::Crypto), BTreeMap::from([(local, 7)]));
        assert_eq!(wish.of(local), Some(Offload { device: 7, kind: OffloadKind::Crypto }));
        assert!(wish.heard(local, Worker::Nic) && wish.refused.is_none());
        assert!(!wish.heard(local, Worker::Kernel(Some("no ESP there".into()))));
        assert_eq!(wish.refused.as_deref(), Some("no ESP there"));
        let other: IpAddr = "192.0.2.9".parse().expect("an address");
        assert_eq!((wish.of(other), wish.heard(other, Worker::Kernel(None))), (None, false));
        assert_eq!(wish.refused.as_deref(), Some("no port has the address 192.0.2.9"));
    }
}
