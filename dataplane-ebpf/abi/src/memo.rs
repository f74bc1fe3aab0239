//! What programs remember of the daemon's tables, each CPU for itself, under one generation.

use crate::pod;
use crate::port::{Network, Port, PortKey};
use crate::rule::{List, ListKey};

/// Entries of `KNOWN_PORTS`: one half for ports by which packets come, one for those by which they leave.
pub const KNOWN_PORTS_MAX: u32 = 64;
/// Entries of `KNOWN_NETWORKS`: a LAN's hosts and some of those they speak with, in a CPU's first caches.
pub const KNOWN_NETWORKS_MAX: u32 = 1_024;
/// Entries of `KNOWN_LISTS`: pairs of zones.
pub const KNOWN_LISTS_MAX: u32 = 64;

/// Values of `known`.
pub mod known {
    /// The entry was never written.
    pub const NOTHING: u32 = 0;
    /// The table has an entry, and it stands here.
    pub const FOUND: u32 = 1;
    /// It has none.
    pub const ABSENT: u32 = 2;
}

/// An answer of `PORTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KnownPort {
    /// The port.
    pub port: Port,
    /// Its key.
    pub key: PortKey,
    /// The generation it was asked for under.
    pub generation: u32,
    /// [`known`].
    pub known: u32,
}

/// An answer of `NETWORKS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KnownNetwork {
    /// The address, in halves, as it stands in memory.
    pub address: [u64; 2],
    /// The longest prefix that holds it, if there is one.
    pub network: Network,
    /// The generation it was asked for under.
    pub generation: u32,
    /// [`known`].
    pub known: u32,
}

/// An answer of `LISTS`, whose key names the generation itself.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KnownList {
    /// Its key.
    pub key: ListKey,
    /// The list.
    pub list: List,
    /// [`known`].
    pub known: u32,
}

pod!(KnownPort, KnownNetwork, KnownList);
