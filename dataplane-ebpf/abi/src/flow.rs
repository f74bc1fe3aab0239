//! Flows: what makes the filter stateful.

use crate::nat::Translation;
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
    /// TCP: what the side that opened the flow may send.
    pub original_window: Window,
    /// TCP: what the other side may send.
    pub reply_window: Window,
    /// A digest of the key. The table's elements are used again at once: whoever holds one for the moment of a packet
    /// sees by it that the element is another flow's by now.
    pub tag: u64,
    /// What its packets are translated to.
    pub translation: Translation,
    /// Where its source is counted in `QUOTAS`: index of the slot plus one; 0: nowhere.
    pub source_slot: u32,
    /// Index in `ZONES` that it counts in.
    pub quota_zone: u32,
    /// While it counts as half-open: [`IS_HALF_OPEN`](crate::quota::IS_HALF_OPEN), and where its destination is counted,
    /// as above. 0: it does not. Whoever makes it zero gives back what it counts; an atomic exchange says who.
    pub half_open: u64,
}

/// One side of a TCP flow as packets of both sides show it, after Guido van Rooij, *Real Stateful TCP Packet Filtering
/// in IP Filter* (2000), which nf_conntrack follows too. Sequence numbers are in the machine's order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// One past the highest sequence number that the side has sent.
    pub end: u32,
    /// Where the room ends that the other side has offered: its highest acknowledgment number plus window.
    pub max_end: u32,
    /// Largest window in bytes that the side has offered.
    pub max_window: u32,
    /// Highest acknowledgment number that the side has sent, if [`window_flags::ACKNOWLEDGED`]: what it expects next.
    pub max_ack: u32,
    /// How far the windows that the side offers are shifted (RFC 7323 section 2).
    pub scale: u8,
    /// [`window_flags`].
    pub flags: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

/// Bits of [`Window::flags`].
pub mod window_flags {
    /// The side has sent an acknowledgment number.
    pub const ACKNOWLEDGED: u8 = 1 << 0;
    /// Its SYN offered to scale windows.
    pub const SCALES: u8 = 1 << 1;
    /// The flow was picked up without its handshake: windows are not known, and not held against its packets.
    pub const PICKED_UP: u8 = 1 << 2;
    /// The side has sent a RST behind data that is not acknowledged yet.
    pub const RESET: u8 = 1 << 3;
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
    /// ifindex of the NIC to leave by; or, with [`HOP_SOCKETS`], the engine's sockets on the device it came by.
    pub ifindex: u32,
    /// Destination MAC address of what is received.
    pub received_mac: [u8; 6],
    /// Largest IP packet that may go this way.
    pub mtu: u16,
    /// VLAN id to tag with, 0 for none.
    pub vlan: u16,
    /// Source MAC address of what is received, where the port binds addresses to MAC addresses; else zero.
    pub bound_mac: [u8; 6],
}

/// In [`Hop::ifindex`]: what is to be encrypted goes straight to the engine's socket of the receive queue it came by. The
/// lowest 16 bits are the first of the device's in `SOCKETS`, those between say how many there are.
pub const HOP_SOCKETS: u32 = 1 << 31;

/// [`Hop::ifindex`] for so many sockets.
#[inline(always)]
pub const fn hop_sockets(first: u16, count: u16) -> u32 {
    HOP_SOCKETS | (count as u32 & 0x7fff) << 16 | first as u32
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
    /// SYN from both sides: they open it at once (RFC 9293 section 3.5).
    pub const SYN_SENT2: u8 = 2;
    /// SYN+ACK seen.
    pub const SYN_RECV: u8 = 3;
    /// Handshake done.
    pub const ESTABLISHED: u8 = 4;
    /// One side sent FIN.
    pub const FIN_WAIT: u8 = 5;
    /// The other side has acknowledged it: the flow is half closed.
    pub const CLOSE_WAIT: u8 = 6;
    /// Both sides sent FIN.
    pub const LAST_ACK: u8 = 7;
    /// Both FINs are acknowledged.
    pub const TIME_WAIT: u8 = 8;
    /// RST seen.
    pub const CLOSE: u8 = 9;
}

/// Classes of lifetimes.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// TCP: SYN seen.
    TcpSynSent = 0,
    /// TCP: SYN and SYN+ACK seen.
    TcpSynReceived = 1,
    /// TCP: established.
    TcpEstablished = 2,
    /// TCP: one FIN seen.
    TcpFinWait = 3,
    /// TCP: half closed.
    TcpCloseWait = 4,
    /// TCP: both FINs seen.
    TcpLastAck = 5,
    /// TCP: both FINs acknowledged.
    TcpTimeWait = 6,
    /// TCP: RST seen.
    TcpClosed = 7,
    /// UDP without a reply.
    UdpUnreplied = 8,
    /// UDP with replies.
    UdpReplied = 9,
    /// ICMP echo.
    Icmp = 10,
    /// Any other protocol.
    Other = 11,
    /// No flow: a learned binding of an address to a MAC address.
    Neighbour = 12,
}

/// Places for classes in `Config::lifetimes`; a power of two.
pub const LIFETIMES: usize = 16;

/// Default of `Config::lifetimes`, seconds, in the order of [`Lifetime`]: nf_conntrack's. A binding lasts a day, so that
/// it holds over a night in which its host is off.
pub const LIFETIMES_DEFAULT: [u32; LIFETIMES] =
    [120, 60, 432_000, 120, 60, 30, 120, 10, 30, 120, 30, 600, 86_400, 0, 0, 0];

pod!(FlowKey, Flow, Hop, Window);
