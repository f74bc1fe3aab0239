//! The numbers of linux/xfrm.h, and netlink messages: written into one buffer that is wiped, read without trust.
//!
//! Numbers are in the machine's byte order, addresses, ports and SPIs in that of the network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zeroize::Zeroizing;

/// Message types (XFRM_MSG_*).
pub(super) mod message {
    pub(crate) const NEWSA: u16 = 0x10;
    pub(crate) const DELSA: u16 = 0x11;
    pub(crate) const GETSA: u16 = 0x12;
    pub(crate) const NEWPOLICY: u16 = 0x13;
    pub(crate) const DELPOLICY: u16 = 0x14;
    pub(crate) const GETPOLICY: u16 = 0x15;
    pub(crate) const ACQUIRE: u16 = 0x17;
    pub(crate) const EXPIRE: u16 = 0x18;
    pub(crate) const UPDPOLICY: u16 = 0x19;
    pub(crate) const UPDSA: u16 = 0x1a;
    pub(crate) const FLUSHPOLICY: u16 = 0x1d;
    pub(crate) const NEWSADINFO: u16 = 0x22;
    pub(crate) const GETSADINFO: u16 = 0x23;
    pub(crate) const MAPPING: u16 = 0x26;
}

/// Attributes (XFRMA_*).
pub(super) mod attribute {
    pub(crate) const ALG_CRYPT: u16 = 2;
    pub(crate) const ENCAP: u16 = 4;
    pub(crate) const TMPL: u16 = 5;
    pub(crate) const LTIME_VAL: u16 = 9;
    pub(crate) const REPLAY_VAL: u16 = 10;
    pub(crate) const SRCADDR: u16 = 13;
    pub(crate) const ALG_AEAD: u16 = 18;
    pub(crate) const ALG_AUTH_TRUNC: u16 = 20;
    pub(crate) const REPLAY_ESN_VAL: u16 = 23;
    pub(crate) const OFFLOAD_DEV: u16 = 28;
    pub(crate) const IF_ID: u16 = 31;
    pub(crate) const MTIMER_THRESH: u16 = 32;
    pub(crate) const SA_DIR: u16 = 33;
    pub(crate) const SA_PCPU: u16 = 35;
}

/// Multicast groups (XFRMNLGRP_*).
pub(super) mod group {
    pub(crate) const ACQUIRE: u32 = 1;
    pub(crate) const EXPIRE: u32 = 2;
    pub(crate) const POLICY: u32 = 4;
    pub(crate) const MAPPING: u32 = 8;
}

/// AF_INET.
pub(super) const INET: u16 = 2;
/// AF_INET6.
pub(super) const INET6: u16 = 10;
/// IP protocol ESP.
pub(super) const ESP: u8 = 50;
/// XFRM_MODE_TUNNEL.
pub(super) const TUNNEL: u8 = 1;

/// Bytes of a netlink header.
pub(super) const HEADER: usize = 16;
/// Of an attribute's header.
const ATTRIBUTE_HEADER: usize = 4;
/// Longest request: an SA with its keys and the bitmap of its replay window takes 900 bytes. A buffer that never grows leaves
/// no copy of a key behind.
const REQUEST_MAX: usize = 4096;
/// The bits of an attribute's type that are flags (NLA_F_NESTED, NLA_F_NET_BYTEORDER).
const TYPE_FLAGS: u16 = 0xc000;

/// A request in the making. Wiped when dropped, for it may hold keys.
pub(super) struct Request {
    bytes: Zeroizing<Vec<u8>>,
}

impl Request {
    /// Begins a message. `flags`: NLM_F_*.
    pub(super) fn new(kind: u16, flags: u16) -> Request {
        let mut bytes = Zeroizing::new(Vec::with_capacity(REQUEST_MAX));
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        Request { bytes }
    }

    pub(super) fn put(&mut self, bytes: &[u8]) -> &mut Request {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub(super) fn zeros(&mut self, count: usize) -> &mut Request {
        let length = self.bytes.len() + count;
        self.bytes.resize(length, 0);
        self
    }

    pub(super) fn u8(&mut self, value: u8) -> &mut Request {
        self.put(&[value])
    }

    pub(super) fn u16(&mut self, value: u16) -> &mut Request {
        self.put(&value.to_ne_bytes())
    }

    pub(super) fn u16_be(&mut self, value: u16) -> &mut Request {
        self.put(&value.to_be_bytes())
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Request {
        self.put(&value.to_ne_bytes())
    }

    pub(super) fn u32_be(&mut self, value: u32) -> &mut Request {
        self.put(&value.to_be_bytes())
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Request {
        self.put(&value.to_ne_bytes())
    }

    /// xfrm_address_t: 16 bytes, of which IPv4 takes the first four.
    pub(super) fn address(&mut self, address: IpAddr) -> &mut Request {
        match address {
            IpAddr::V4(v4) => self.put(&v4.octets()).zeros(12),
            IpAddr::V6(v6) => self.put(&v6.octets()),
        }
    }

    /// An attribute, whatever `fill` writes into it.
    pub(super) fn attribute(&mut self, kind: u16, fill: impl FnOnce(&mut Request)) -> &mut Request {
        let start = self.bytes.len();
        self.zeros(2).u16(kind);
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        if let Some(place) = self.bytes.get_mut(start..start + 2) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
        let padding = self.bytes.len().next_multiple_of(4) - self.bytes.len();
        self.zeros(padding)
    }

    /// The whole message under this sequence number.
    pub(super) fn finish(&mut self, sequence: u32) -> &[u8] {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        if let Some(place) = self.bytes.get_mut(0..4) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
        if let Some(place) = self.bytes.get_mut(8..12) {
            place.copy_from_slice(&sequence.to_ne_bytes());
        }
        &self.bytes
    }
}

/// What follows a header.
#[derive(Clone, Copy)]
pub(super) struct Received<'a> {
    pub(super) kind: u16,
    pub(super) sequence: u32,
    pub(super) body: Bytes<'a>,
}

/// The messages in one datagram. Ends at the first one that is cut off.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let header = Bytes(bytes);
        let length = usize::try_from(header.u32(0)?).ok()?;
        let body = bytes.get(HEADER..length)?;
        let received = Received { kind: header.u16(4)?, sequence: header.u32(8)?, body: Bytes(body) };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(received)
    })
}

/// Bytes from the kernel: every read is checked, and none needs to be where it is expected.
#[derive(Clone, Copy)]
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(super) fn array<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    pub(super) fn slice(self, at: usize, length: usize) -> Option<&'a [u8]> {
        self.0.get(at..at.checked_add(length)?)
    }

    pub(super) fn from(self, at: usize) -> Option<Bytes<'a>> {
        self.0.get(at..).map(Bytes)
    }

    pub(super) fn u8(self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }

    pub(super) fn u16(self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_ne_bytes)
    }

    pub(super) fn u16_be(self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_be_bytes)
    }

    pub(super) fn u32(self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_ne_bytes)
    }

    pub(super) fn u32_be(self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_be_bytes)
    }

    pub(super) fn u64(self, at: usize) -> Option<u64> {
        self.array(at).map(u64::from_ne_bytes)
    }

    /// An xfrm_address_t of this family.
    pub(super) fn address(self, at: usize, family: u16) -> Option<IpAddr> {
        match family {
            INET => self.array::<4>(at).map(|octets| IpAddr::V4(Ipv4Addr::from(octets))),
            INET6 => self.array::<16>(at).map(|octets| IpAddr::V6(Ipv6Addr::from(octets))),
            _ => None,
        }
    }

    /// The attributes that begin here. Ends at the first one that is cut off.
    pub(super) fn attributes(self) -> impl Iterator<Item = (u16, Bytes<'a>)> {
        let mut rest = self;
        std::iter::from_fn(move || {
            let length = usize::from(rest.u16(0)?);
            let kind = rest.u16(2)? & !TYPE_FLAGS;
            let value = rest.0.get(ATTRIBUTE_HEADER..length)?;
            rest = Bytes(rest.0.get(length.next_multiple_of(4)..).unwrap_or_default());
            Some((kind, Bytes(value)))
        })
    }
}

/// AF_INET or AF_INET6.
pub(super) fn family(address: IpAddr) -> u16 {
    if address.is_ipv4() { INET } else { INET6 }
}

/// "No address" of the same family.
pub(super) fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_cut_off_ends_the_walk() {
        let mut request = Request::new(message::NEWSA, 5);
        request.u32(1).attribute(attribute::IF_ID, |value| {
            value.u32(7);
        });
        let bytes = request.finish(9).to_vec();
        let found: Vec<_> = messages(&bytes).collect();
        assert_eq!((found.len(), found[0].kind, found[0].sequence), (1, message::NEWSA, 9));
        let attributes: Vec<_> = found[0].body.from(4).expect("there").attributes().collect();
        assert_eq!(
            (attributes.len(), attributes[0].0, attributes[0].1.u32(0)),
            (1, attribute::IF_ID, Some(7))
        );
        for length in 0..bytes.len() {
            assert_eq!(messages(&bytes[..length]).count(), 0, "a message of {length} bytes");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            for received in messages(&bytes) {
                prop_assert!(received.body.attributes().count() <= bytes.len() / ATTRIBUTE_HEADER);
            }
        }
    }
}
