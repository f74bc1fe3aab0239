//! What the daemon's tables have answered to this CPU's last packets, under the generation in force.
//!
//! A lookup in a hash or a trie costs several calls, one in a per-CPU array none. The daemon changes `PORTS`, `NETWORKS` and
//! `LISTS` before it makes another generation of it, never after: what was answered under a generation holds as long as that
//! one. An entry makes room for any other that has its place, so a flood of addresses costs what it did without.

use sekisho_abi::Address;
use sekisho_abi::memo::{KNOWN_LISTS_MAX, KNOWN_NETWORKS_MAX, KNOWN_PORTS_MAX, KnownList, KnownPort, known};
use sekisho_abi::port::{Network, Port, PortKey};
use sekisho_abi::rule::{List, ListKey};
use sekisho_dataplane::flow::{self, MIX};

use crate::maps;

/// Which way a packet goes by a port. Each has places of its own, for both are known of a packet at once.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Way {
    /// It came by it.
    In = 0,
    /// It leaves by it.
    Out = KNOWN_PORTS_MAX / 2,
}

/// The port with this key.
#[inline(always)]
pub(crate) fn port(way: Way, key: PortKey, generation: u32) -> Option<&'static Port> {
    let index = (key.ifindex ^ u32::from(key.vlan)) % (KNOWN_PORTS_MAX / 2) + way as u32;
    let entry = maps::KNOWN_PORTS.get_ptr_mut(index)?;
    // SAFETY: the entry is this CPU's own, and one packet at a time is in the one program that uses it, which asks for one
    // port in each of the two parts.
    let entry = unsafe { &mut *entry };
    if entry.known == known::NOTHING || entry.generation != generation || entry.key != key {
        let port = maps::port(key)?;
        *entry = KnownPort { port: *port, key, generation, known: known::FOUND };
    }
    Some(&entry.port)
}

/// The longest prefix in `NETWORKS` that holds this address.
#[inline(always)]
pub(crate) fn network(address: &Address, generation: u32) -> Option<Network> {
    let [first, second] = flow::halves(address);
    let digest = (first ^ second.rotate_left(32)).wrapping_mul(MIX);
    let entry = maps::KNOWN_NETWORKS.get_ptr_mut((digest >> 32) as u32 % KNOWN_NETWORKS_MAX)?;
    // SAFETY: as above; the answer is given by value.
    let entry = unsafe { &mut *entry };
    if entry.known == known::NOTHING
        || entry.generation != generation
        || (entry.address[0] ^ first) | (entry.address[1] ^ second) != 0
    {
        let found = maps::network(address);
        entry.address = [first, second];
        entry.generation = generation;
        entry.network = found.copied().unwrap_or_default();
        entry.known = if found.is_some() { known::FOUND } else { known::ABSENT };
    }
    if entry.known == known::FOUND { Some(entry.network) } else { None }
}

/// The list of rules with this key, in which there is no class.
#[inline(always)]
pub(crate) fn list(key: ListKey) -> Option<&'static List> {
    let index = (u32::from(key.from) ^ u32::from(key.to) << 3) % KNOWN_LISTS_MAX;
    let entry = maps::KNOWN_LISTS.get_ptr_mut(index)?;
    // SAFETY: the entry is this CPU's own; what asks for rules runs with bottom halves off, in XDP as on the way out.
    let entry = unsafe { &mut *entry };
    if entry.known == known::NOTHING || entry.key != key {
        // SAFETY: a hash's elements are never unmapped while a program runs, and any bytes are a value.
        let list = maps::LISTS.get_ptr(key).map(|list| unsafe { &*list })?;
        *entry = KnownList { key, list: *list, known: known::FOUND };
    }
    Some(&entry.list)
}
