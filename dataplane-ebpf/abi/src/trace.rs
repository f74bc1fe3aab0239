//! `sekisho trace`: which packets an operator wants to see judged.

use crate::{Address, pod};

/// The one entry of `TRACE`. Looked at only while [`config_flags::TRACE`](crate::map::config_flags::TRACE) is set.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// Until when, nanoseconds of CLOCK_MONOTONIC: a daemon that dies leaves no trace running.
    pub until_ns: u64,
    /// One end's network: the address with its host bits zero.
    pub network: Address,
    /// Its mask; all zero: any address.
    pub mask: Address,
    /// The other end's network.
    pub peer_network: Address,
    /// Its mask.
    pub peer_mask: Address,
    /// Port of either end, network byte order; 0: any.
    pub port_be: u16,
    /// Port id the packet entered by; 0: any.
    pub entry: u16,
    /// IP protocol number; 0: any.
    pub protocol: u8,
    /// 1: only what is refused.
    pub refused: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

pod!(Trace);
