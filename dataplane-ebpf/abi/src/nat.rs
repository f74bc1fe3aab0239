//! Address translation (NAT, RFC 3022): what new flows are translated to, and by what the packets of translated flows
//! are found.
//!
//! A translated flow has three pairs of ends: as its opener's packets enter (the key in `FLOWS`), as they leave, and as
//! the kernel's routes and the rules see them in between: with the real destination, and still the real source.
//! Packets of replies are found under the second, what the kernel sends under the third.

use crate::flow::FlowKey;
use crate::{Address, pod};

/// Key data of `SOURCE_NAT`, a longest-prefix trie. Every field is in network byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceNatKey {
    /// [`Config::generation`](crate::map::Config::generation).
    pub generation_be: [u8; 4],
    /// Zone the flow is opened from, or [`HAIRPIN`].
    pub from_be: [u8; 2],
    /// Port it leaves by.
    pub port_be: [u8; 2],
    /// The opener's address.
    pub address: Address,
}

/// Bits of a [`SourceNatKey`] before the address.
pub const SOURCE_NAT_KEY_BITS: u32 = 64;

/// In place of the zone for a flow whose destination was translated and that leaves by the port it came by: the server
/// would answer its neighbour directly, with an address that the opener never asked.
pub const HAIRPIN: u16 = u16::MAX;

/// What a source address is translated to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceNat {
    /// The table's number in the configuration, from 1.
    pub rule: u16,
    /// [`source_nat_kind`].
    pub kind: u16,
    /// `POOL`: ports to choose from, first and last; the opener's own where it is one of them and free.
    pub port_first: u16,
    /// The last of them.
    pub port_last: u16,
    /// `POOL`: index of the first address in this generation's half of `NAT_POOL`. `PREFIX`: length of the prefix.
    pub index: u32,
    /// `POOL`: number of addresses, at least 1.
    pub count: u32,
    /// `PREFIX`: the prefix that takes the place of the address's own.
    pub prefix: Address,
}

/// Values of [`SourceNat::kind`].
pub mod source_nat_kind {
    /// The source stays.
    pub const EXEMPT: u16 = 0;
    /// An address of a pool, and a port of a range.
    pub const POOL: u16 = 1;
    /// Another prefix, the rest of the address and the port as they are.
    pub const PREFIX: u16 = 2;
}

/// Key data of `DESTINATION_NAT`, a longest-prefix trie. Every field is in network byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestinationNatKey {
    /// [`Config::generation`](crate::map::Config::generation).
    pub generation_be: [u8; 4],
    /// Port it comes by.
    pub port_be: [u8; 2],
    /// IP protocol number; 0: any, for which is asked where there is none for the protocol itself.
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
    /// Destination.
    pub address: Address,
    /// TCP, UDP: destination port. ICMP: type, code. Others: zero.
    pub service_be: [u8; 2],
}

/// Bits of a [`DestinationNatKey`] before the address.
pub const DESTINATION_NAT_KEY_BITS: u32 = 64;

/// What a destination is translated to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DestinationNat {
    /// The table's number in the configuration, from 1.
    pub rule: u16,
    /// Length of `prefix`, 128 for one host.
    pub prefix_bits: u16,
    /// Added to the destination port, modulo 2^16.
    pub port_shift: u16,
    /// Takes the port's place instead, unless zero.
    pub port_fixed: u16,
    /// Takes the place of the address's own first bits.
    pub prefix: Address,
}

/// What a flow's packets are translated to: how those of its opener leave. Ports as in [`FlowKey`].
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Translation {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port, or identifier of an echo request, network byte order.
    pub source_port_be: u16,
    /// Destination port, network byte order.
    pub destination_port_be: u16,
    /// Number of the table that gave the source, 0: it is the opener's own.
    pub source_rule: u16,
    /// Number of the table that gave the destination, 0: it is the one the opener named.
    pub destination_rule: u16,
}

impl Translation {
    /// Whether anything is translated at all.
    #[inline(always)]
    pub const fn is_some(&self) -> bool {
        self.source_rule | self.destination_rule != 0
    }
}

/// A value of `TRANSLATIONS`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Translated {
    /// The flow's key in `FLOWS`.
    pub flow: FlowKey,
    /// When it was made, nanoseconds of CLOCK_MONOTONIC.
    pub made_ns: u64,
    /// [`translated_kind`].
    pub kind: u8,
    /// 1: the opener's side is the low end of this entry's key.
    pub opener_is_low: u8,
    /// Zero.
    pub reserved: [u8; 6],
}

/// Values of [`Translated::kind`].
pub mod translated_kind {
    /// The key is the flow's ends as packets leave.
    pub const LEAVING: u8 = 0;
    /// The key is the flow's ends with the destination translated only; where that is one of the other two pairs, it
    /// has no entry of its own.
    pub const BETWEEN: u8 = 1;
}

/// Addresses of one generation in `NAT_POOL`.
pub const NAT_POOL_MAX: u32 = 4096;

pod!(SourceNatKey, SourceNat, DestinationNatKey, DestinationNat, Translation, Translated);
