//! The next hop towards each peer, for what leaves without the kernel: ESP frames of the engine.
//!
//! The kernel answers "which way?" (route lookup) and "which Ethernet address?" (neighbour table). Neither XDP nor
//! AF_XDP makes the kernel confirm a neighbour, so stale entries that are in use are asked for again here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use sekisho_esp::engine::{Engine, L2Path};

use crate::kernel::{Kernel, KernelError, Link};

/// What the engine was last told.
#[derive(Default)]
pub(super) struct Paths {
    known: BTreeMap<IpAddr, L2Path>,
}

impl Paths {
    /// Looks up the way to every peer and tells the engine what changed.
    pub(super) async fn refresh(
        &mut self,
        kernel: &Kernel,
        engine: &Engine,
        links: &[Link],
        peers: &BTreeSet<IpAddr>,
    ) -> Result<(), KernelError> {
        if peers.is_empty() && self.known.is_empty() {
            return Ok(());
        }
        let neighbours = kernel.neighbours().await?;
        for &peer in peers {
            let found = match kernel.next_hop(peer).await? {
                None => None,
                Some(hop) => {
                    let neighbour = neighbours
                        .iter()
                        .find(|entry| entry.interface == hop.interface && entry.address == hop.neighbour);
                    if neighbour.is_none_or(|entry| !entry.fresh) {
                        kernel.probe_neighbour(hop.interface, hop.neighbour).await?;
                    }
                    let link = links.iter().find(|link| link.index == hop.interface);
                    link.zip(neighbour.and_then(|entry| entry.mac)).map(|(link, mac)| L2Path {
                        ifindex: link.index,
                        source_mac: link.mac,
                        destination_mac: mac,
                    })
                }
            };
            match (found, self.known.get(&peer)) {
                (Some(path), Some(known)) if path == *known => {}
                (Some(path), _) => {
                    tracing::debug!(%peer, ifindex = path.ifindex, "way to the peer");
                    if engine.set_path(peer, path).is_ok() {
                        self.known.insert(peer, path);
                    }
                }
                // A neighbour under renewal may be unknown for a moment: the last known way is better than none.
                (None, _) => {}
            }
        }
        let gone: Vec<IpAddr> = self.known.keys().filter(|peer| !peers.contains(peer)).copied().collect();
        for peer in gone {
            self.known.remove(&peer);
            // The engine forgets it with its thread at the latest.
            let _ = engine.clear_path(peer);
        }
        Ok(())
    }

    /// Whether the way to this peer is known.
    pub(super) fn knows(&self, peer: IpAddr) -> bool {
        self.known.contains_key(&peer)
    }
}

/// Has the kernel confirm the stale neighbours on the ports: forwarding by XDP uses them without telling it.
pub(super) async fn keep_neighbours(kernel: &Kernel, links: &[Link]) -> Result<(), KernelError> {
    for entry in kernel.neighbours().await? {
        let on_port = links.iter().any(|link| link.index == entry.interface);
        if on_port && entry.mac.is_some() && !entry.fresh {
            kernel.probe_neighbour(entry.interface, entry.address).await?;
        }
    }
    Ok(())
}
