//! What the programs tell the daemon through `EVENTS`. The two kinds are told apart by their length.

use crate::flow::{Flow, FlowKey};
use crate::{Address, pod};

/// One packet: refused, or the first of a flow whose rule wants it (both sampled: at most a bounded number a second for
/// each verdict), or traced.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Nanoseconds of CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// SPI in network byte order for ESP, else zero.
    pub spi_be: u32,
    /// ifindex it entered by.
    pub ifindex: u32,
    /// Port id it entered by, 0 if none.
    pub port: u16,
    /// Source port (or ICMP identifier), network byte order.
    pub source_port_be: u16,
    /// Destination port (or ICMP type and code), network byte order.
    pub destination_port_be: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// [`Verdict`](crate::verdict::Verdict) number, with [`TRACED`].
    pub verdict: u8,
}

/// Bit of [`Event::verdict`]: the packet is one that a trace asks for.
pub const TRACED: u8 = 1 << 7;

/// A flow that a program has ended; those that merely expire are the daemon's to find.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowEnd {
    /// Nanoseconds of CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// Which.
    pub key: FlowKey,
    /// As it was at its end.
    pub flow: Flow,
    /// [`flow_end`].
    pub why: u32,
    /// Zero.
    pub reserved: u32,
}

/// Values of [`FlowEnd::why`].
pub mod flow_end {
    /// A new flow has its addresses and ports.
    pub const REPLACED: u32 = 1;
    /// The rules in force refuse it.
    pub const REFUSED: u32 = 2;
}

/// A packet whose sender uses an address that is another's, or that it may not have.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// Nanoseconds of CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// The address.
    pub address: Address,
    /// The sender's MAC address.
    pub mac: [u8; 6],
    /// The MAC address that the address is bound to; zero for none.
    pub bound: [u8; 6],
    /// Port id.
    pub port: u16,
    /// [`Verdict`](crate::verdict::Verdict) number.
    pub verdict: u8,
    /// Zero.
    pub reserved: u8,
}

pod!(Event, FlowEnd, Claim);
