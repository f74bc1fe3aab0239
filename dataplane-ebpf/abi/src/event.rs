//! What the programs tell the daemon, sampled: at most a bounded number a second for each verdict.

use crate::{Address, pod};

/// One refused packet.
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
    /// [`Verdict`](crate::verdict::Verdict) number.
    pub verdict: u8,
}

pod!(Event);
