//! The next hop towards each peer, for what leaves without the kernel, ESP frames of the engine; and the largest packet that
//! gets there, on both data paths.
//!
//! The kernel answers "which way?" and "how large?" (route lookup) and "which Ethernet address?" (neighbour table). Neither XDP nor
//! AF_XDP makes the kernel confirm a neighbour, so stale entries that are in use are asked for again here.

use std::collections::BTreeMap;
use std::net::IpAddr;

use sekisho_esp::engine::{Engine, L2Path};

use super::uplinks::Uplinks;
use crate::kernel::{Kernel, KernelError, Link, Neighbour};

/// What the engine was last told.
#[derive(Default)]
pub(super) struct Paths {
    known: BTreeMap<IpAddr, L2Path>,
    /// Looked up at least once, and from which address of ours. What was not found then is looked up again by the clock,
    /// and not at every event.
    asked: BTreeMap<IpAddr, IpAddr>,
}

impl Paths {
    /// Looks up the way to every peer, from our address to theirs, and tells the engine, where it is the data path, what
    /// changed.
    pub(super) async fn refresh(
        &mut self,
        kernel: &Kernel,
        engine: Option<&Engine>,
        links: &[Link],
        uplinks: &Uplinks,
        peers: &BTreeMap<IpAddr, IpAddr>,
    ) -> Result<(), KernelError> {
        self.asked.retain(|peer, _| peers.contains_key(peer));
        if peers.is_empty() && self.known.is_empty() {
            return Ok(());
        }
        let neighbours = kernel.neighbours().await?;
        for (&peer, &local) in peers {
            self.asked.insert(peer, local);
            // One peer's trouble is not the others'.
            let found = way(kernel, links, &neighbours, uplinks.interface(local), (local, peer))
                .await
                .unwrap_or_else(|error| {
                    tracing::warn!(%error, %peer, "way to the peer not found");
                    None
                });
            match (found, self.known.get(&peer)) {
                (Some(path), Some(known)) if path == *known => {}
                (Some(path), _) => {
                    tracing::debug!(%peer, ifindex = path.ifindex, "way to the peer");
                    if engine.is_none_or(|engine| engine.set_path(peer, path).is_ok()) {
                        self.known.insert(peer, path);
                    }
                }
                // A neighbour under renewal may be unknown for a moment: the last known way is better than none.
                (None, _) => {}
            }
        }
        let gone: Vec<IpAddr> = self.known.keys().filter(|peer| !peers.contains_key(peer)).copied().collect();
        for peer in gone {
            self.known.remove(&peer);
            // The engine forgets it with its thread at the latest.
            let _ = engine.map(|engine| engine.clear_path(peer));
        }
        Ok(())
    }

    /// Largest packet that gets through to a peer, bytes, where less than the link carries.
    pub(super) fn mtu(&self, peer: IpAddr) -> Option<u16> {
        self.known.get(&peer)?.mtu.and_then(|mtu| u16::try_from(mtu).ok())
    }

    /// Whether the way from our address to this peer was looked up.
    pub(super) fn has_asked(&self, peer: IpAddr, local: IpAddr) -> bool {
        self.asked.get(&peer) == Some(&local)
    }
}

/// The way to one peer as the kernel would go by the interface of our address, if its neighbour is known; a stale or unknown one is asked for.
async fn way(
    kernel: &Kernel,
    links: &[Link],
    neighbours: &[Neighbour],
    leaving: Option<u32>,
    (local, peer): (IpAddr, IpAddr),
) -> Result<Option<L2Path>, KernelError> {
    let Some(hop) = kernel.next_hop(local, peer, leaving).await? else { return Ok(None) };
    let Some(link) = links.iter().find(|link| link.index == hop.interface) else { return Ok(None) };
    let neighbour =
        neighbours.iter().find(|entry| entry.interface == hop.interface && entry.address == hop.neighbour);
    if neighbour.is_none_or(|entry| !entry.fresh) {
        kernel.probe_neighbour(hop.interface, hop.neighbour).await?;
    }
    let mac = neighbour.and_then(|entry| entry.mac);
    // As a router has told the kernel, which forgets it after some minutes (RFC 1191 section 6.3).
    let mtu = hop.mtu.filter(|mtu| *mtu < u32::from(link.mtu));
    Ok(mac.map(|mac| L2Path { ifindex: link.index, source_mac: link.mac, destination_mac: mac, mtu }))
}

/// Has the kernel confirm the stale neighbours on the ports: forwarding by XDP uses them without telling it.
pub(super) async fn keep_neighbours(kernel: &Kernel, links: &[Link]) -> Result<(), KernelError> {
    for entry in kernel.neighbours().await? {
        let on_port = links.iter().any(|link| link.index == entry.interface);
        if on_port && entry.mac.is_some() && !entry.fresh {
            // It may have gone meanwhile, and the others are asked for all the same.
            if let Err(error) = kernel.probe_neighbour(entry.interface, entry.address).await {
                tracing::debug!(%error, "stale neighbour not asked for");
            }
        }
    }
    Ok(())
}
