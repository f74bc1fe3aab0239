//! Flows: what makes the filter stateful.

use crate::{Address, pod};

/// A flow, the same for both of its directions: the lower (address, port) pair stands first.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The lower end's address.
    pub low: Address,
    /// The higher end's address.
    pub high: Address,
    /// The lower end's port, network byte order. ICMP echo: the identifier at the end that asks, the request's type
    /// and code (high and low byte) at the end that answers, so that two hosts may ask each other at once.
    pub low_port_be: u16,
    /// The higher end's port, as above.
    pub high_port_be: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// The state of a flow. Programs on several CPUs update it without a lock: a lost count is possible. What permits says
/// by which rule set it was judged, `generation` for the flow and [`Hop::until_ns`] for a way, and counts under that
/// one only: a CPU that finishes late leaves nothing behind that a newer rule set would be thought to have allowed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// When the last packet was seen, nanoseconds of CLOCK_MONOTONIC.
    pub last_seen_ns: u64,
    /// When it was made.
    pub created_ns: u64,
    /// Packets from the side that opened the flow.
    pub original: crate::map::Counter,
    /// Packets of replies.
    pub reply: crate::map::Counter,
    /// The rule that allowed it.
    pub rule: u32,
    /// Rule set by which it was last judged; another one in force means it is judged again.
    pub generation: u32,
    /// Port it was opened from (0: the gateway).
    pub port_from: u16,
    /// Port it was opened towards (0: the gateway).
    pub port_to: u16,
    /// Zone it was opened from.
    pub zone_from: u16,
    /// Zone it was opened towards.
    pub zone_to: u16,
    /// 1: the opener is the key's low end; 0: the high end.
    pub opener_is_low: u8,
    /// [`tcp_state`]; 0 for other protocols.
    pub tcp_state: u8,
    /// [`Lifetime`] class in force, an index into `Config::lifetimes`.
    pub lifetime: u8,
    /// 1 once a reply was seen.
    pub replied: u8,
    /// Destination port of the first packet, network byte order: what rules are asked with when the flow is judged again.
    pub rule_port_be: u16,
    /// [`fin`]: which sides have sent a FIN.
    pub fins: u8,
    /// Zero.
    pub reserved: u8,
    /// ifindex it was opened from (0: the gateway).
    pub ifindex_from: u32,
    /// ifindex it was opened towards (0: the gateway).
    pub ifindex_to: u32,
    /// The way of packets from the side that opened the flow.
    pub original_hop: Hop,
    /// The way of replies.
    pub reply_hop: Hop,
}

/// The way a flow's packets of one direction take through the gateway, remembered for a moment: the programs ask
/// `NETWORKS`, the kernel's routes and neighbours again every [`HOP_LIFETIME_NS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hop {
    /// Until when it may be used, nanoseconds of CLOCK_MONOTONIC, but for the lowest 16 bits: they are those of the
    /// generation it was found under. Zero: none is known.
    pub until_ns: u64,
    /// Destination and source MAC address of what is sent, as they stand in a frame.
    pub macs: [u8; 12],
    /// ifindex to leave by.
    pub ifindex: u32,
    /// Destination MAC address of what is received.
    pub received_mac: [u8; 6],
    /// Largest IP packet that may go this way.
    pub mtu: u16,
}

/// How long a [`Hop`] is used, in nanoseconds: about an eighth of a second.
pub const HOP_LIFETIME_NS: u64 = 1 << 27;

/// Bits of [`Flow::fins`].
pub mod fin {
    /// The side that opened the flow.
    pub const ORIGINAL: u8 = 1 << 0;
    /// The other side.
    pub const REPLY: u8 = 1 << 1;
}

/// States of a TCP flow, named as nf_conntrack names them.
pub mod tcp_state {
    /// Not TCP.
    pub const NONE: u8 = 0;
    /// SYN from the opener.
    pub const SYN_SENT: u8 = 1;
    /// SYN+ACK from the other side.
    pub const SYN_RECV: u8 = 2;
    /// Handshake done.
    pub const ESTABLISHED: u8 = 3;
    /// One side sent FIN.
    pub const FIN_WAIT: u8 = 4;
    /// Both sides sent FIN.
    pub const TIME_WAIT: u8 = 5;
    /// RST seen.
    pub const CLOSE: u8 = 6;
}

/// Classes of lifetimes; the defaults are nf_conntrack's.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// TCP before the handshake is done.
    TcpHalfOpen = 0,
    /// TCP established.
    TcpEstablished = 1,
    /// TCP after a FIN.
    TcpClosing = 2,
    /// TCP after a RST.
    TcpClosed = 3,
    /// UDP without a reply.
    UdpUnreplied = 4,
    /// UDP with replies.
    UdpReplied = 5,
    /// ICMP echo.
    Icmp = 6,
    /// Any other protocol.
    Other = 7,
}

/// Default of `Config::lifetimes`, seconds, in the order of [`Lifetime`].
pub const LIFETIMES_DEFAULT: [u32; 8] = [60, 432_000, 120, 10, 30, 120, 30, 600];

pod!(FlowKey, Flow, Hop);
