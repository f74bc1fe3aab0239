//! Which MAC address an address on a port belongs to.

use crate::{Address, pod};

/// An address that is used on a port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NeighbourKey {
    /// The address.
    pub address: Address,
    /// Port id.
    pub port: u16,
    /// Zero.
    pub reserved: u16,
}

/// Whose it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Neighbour {
    /// When it was last seen in use, nanoseconds of CLOCK_MONOTONIC.
    pub seen_ns: u64,
    /// MAC address.
    pub mac: [u8; 6],
    /// [`neighbour_flags`].
    pub flags: u16,
}

/// Bits of [`Neighbour::flags`].
pub mod neighbour_flags {
    /// It stands in the configuration: it neither ages nor changes.
    pub const STATIC: u16 = 1 << 0;
}

/// Capacity of `NEIGHBOURS`.
pub const NEIGHBOURS_MAX: u32 = 65_536;

/// Learned bindings of one port: what fills the table there leaves room for the others. A /20 of hosts, or a thousand hosts
/// with four IPv6 addresses each.
pub const NEIGHBOURS_PER_PORT: u32 = 4_096;

pod!(NeighbourKey, Neighbour);
