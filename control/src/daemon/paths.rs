//! The next hop towards each peer, for what leaves without the kernel, ESP frames of the engine; and the largest packet that
//! gets there, on both data paths.
//!
//! The kernel answers "which way?" and "how large?" (route lookup) and "which Ethernet address?" (neighbour table). Neither XDP nor
//! AF_XDP makes the kernel confirm a neighbour, so stale entries that are in use are asked for again here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::Bound;

use sekisho_esp::engine::{Engine, L2Path};

use super::uplinks::Uplinks;
use crate::kernel::{Kernel, KernelError, Link, Neighbour};

/// Peers whose way is looked up in one turn by the clock, and as many again that have none yet: each costs some twenty
/// microseconds, in which no handshake goes on. Ten thousand peers have their turn within ten seconds; a route or an
/// address that changes has all of them looked up at once.
const TURN: usize = 1024;
/// For so many peers the kernel is asked for their neighbours one by one, and for more it lists all that it has, which
/// are hosts of every network, ours included: a handshake must not pay for those.
const ASKED_SINGLY: usize = 16;

/// Peers to look up, with our address towards each.
pub(super) type Peers = BTreeMap<IpAddr, IpAddr>;

/// Whose way is looked up.
pub(super) enum Look {
    /// That of these, to whom ESP goes since just now.
    New(Peers),
    /// That of those among them to whom ESP goes: a router has said that a packet there was too big.
    Said(BTreeSet<IpAddr>),
    /// By the clock: everybody's in turn.
    Turn,
    /// Everybody's: something has changed.
    All,
}

/// What the engine was last told.
#[derive(Default)]
pub(super) struct Paths {
    known: BTreeMap<IpAddr, L2Path>,
    /// Looked up at least once, and from which address of ours. What was not found then is looked up again by the clock,
    /// and not at every event.
    asked: Peers,
    /// Whose turn was last.
    last: Option<IpAddr>,
}

impl Paths {
    /// Those whose turn it is: whoever has no way yet, and the next of all.
    pub(super) fn turn(&mut self, peers: &Peers) -> Peers {
        if peers.len() <= TURN {
            return peers.clone();
        }
        let without = peers.iter().filter(|(peer, _)| !self.known.contains_key(*peer)).take(TURN);
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let next: Vec<_> = peers.range((after, Bound::Unbounded)).chain(peers).take(TURN).collect();
        self.last = next.last().map(|(peer, _)| **peer);
        without.chain(next).map(|(peer, local)| (*peer, *local)).collect()
    }

    /// Forgets whom no ESP is sent to any more.
    pub(super) fn keep_only(&mut self, engine: Option<&Engine>, peers: &Peers) {
        self.asked.retain(|peer, _| peers.contains_key(peer));
        self.known.retain(|peer, _| {
            let stays = peers.contains_key(peer);
            if !stays {
                // The engine forgets it with its thread at the latest.
                let _ = engine.map(|engine| engine.clear_path(*peer));
            }
            stays
        });
    }

    /// Looks up the way to these peers, from our address to theirs, and tells the engine, where it is the data path, what
    /// changed.
    pub(super) async fn refresh(
        &mut self,
        kernel: &Kernel,
        engine: Option<&Engine>,
        links: &[Link],
        uplinks: &Uplinks,
        peers: &Peers,
    ) -> Result<(), KernelError> {
        if peers.is_empty() {
            return Ok(());
        }
        let neighbours = Neighbours::for_so_many(peers.len(), kernel).await?;
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
        Ok(())
    }

    /// Largest packet that gets through to a peer, bytes, where less than the link carries.
    pub(super) fn mtu(&self, peer: IpAddr) -> Option<u16> {
        self.known.get(&peer)?.mtu.and_then(|mtu| u16::try_from(mtu).ok())
    }

    /// The same of all these that have less.
    pub(super) fn mtus(&self, peers: &Peers) -> BTreeMap<IpAddr, u16> {
        peers.keys().filter_map(|peer| Some((*peer, self.mtu(*peer)?))).collect()
    }

    /// Those of these addresses that were looked up before, as ESP goes there.
    pub(super) fn asked_among(&self, addresses: &BTreeSet<IpAddr>) -> Peers {
        addresses.iter().filter_map(|peer| Some((*peer, *self.asked.get(peer)?))).collect()
    }

    /// Whether the way from our address to this peer was looked up.
    pub(super) fn has_asked(&self, peer: IpAddr, local: IpAddr) -> bool {
        self.asked.get(&peer) == Some(&local)
    }
}

/// Where the neighbours are looked up.
enum Neighbours {
    /// All that there were a moment ago.
    Listed(HashMap<(u32, IpAddr), Neighbour>),
    /// The kernel, each time.
    Asked,
}

impl Neighbours {
    async fn for_so_many(peers: usize, kernel: &Kernel) -> Result<Neighbours, KernelError> {
        if peers <= ASKED_SINGLY {
            return Ok(Neighbours::Asked);
        }
        let all = kernel.neighbours().await?.into_iter();
        Ok(Neighbours::Listed(all.map(|entry| ((entry.interface, entry.address), entry)).collect()))
    }

    async fn find(
        &self,
        kernel: &Kernel,
        interface: u32,
        address: IpAddr,
    ) -> Result<Option<Neighbour>, KernelError> {
        match self {
            Neighbours::Listed(all) => Ok(all.get(&(interface, address)).copied()),
            Neighbours::Asked => kernel.neighbour(interface, address).await,
        }
    }
}

/// The way to one peer as the kernel would go by the interface of our address, if its neighbour is known; a stale or unknown one is asked for.
async fn way(
    kernel: &Kernel,
    links: &[Link],
    neighbours: &Neighbours,
    leaving: Option<u32>,
    (local, peer): (IpAddr, IpAddr),
) -> Result<Option<L2Path>, KernelError> {
    let Some(hop) = kernel.next_hop(local, peer, leaving).await? else { return Ok(None) };
    let Some(link) = links.iter().find(|link| link.index == hop.interface) else { return Ok(None) };
    let neighbour = neighbours.find(kernel, hop.interface, hop.neighbour).await?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(count: u32) -> Peers {
        let local = IpAddr::from([192, 0, 2, 1]);
        (0..count).map(|number| (IpAddr::from((0xc612_0000 + number).to_be_bytes()), local)).collect()
    }

    fn path() -> L2Path {
        L2Path { ifindex: 1, source_mac: [2; 6], destination_mac: [4; 6], mtu: None }
    }

    #[test]
    fn few_are_looked_up_every_time() {
        let few = peers(TURN as u32);
        let mut paths = Paths::default();
        assert_eq!(paths.turn(&few), few);
        assert_eq!(paths.turn(&few), few);
        assert_eq!(paths.turn(&Peers::new()), Peers::new());
    }

    #[test]
    fn many_are_looked_up_in_turn_and_nobody_is_forgotten() {
        let many = peers(10_000);
        let mut paths =
            Paths { known: many.keys().map(|peer| (*peer, path())).collect(), ..Paths::default() };
        for _ in 0..3 {
            let mut seen = Peers::new();
            for _ in 0..many.len().div_ceil(TURN) {
                let turn = paths.turn(&many);
                assert!(turn.len() <= TURN);
                seen.extend(turn);
            }
            assert_eq!(seen, many);
        }
    }

    #[test]
    fn who_has_no_way_yet_does_not_wait_for_a_turn() {
        let many = peers(10_000);
        let mut paths =
            Paths { known: many.keys().map(|peer| (*peer, path())).collect(), ..Paths::default() };
        let without = IpAddr::from(0xc612_2000_u32.to_be_bytes());
        paths.known.remove(&without);
        for _ in 0..3 {
            assert!(paths.turn(&many).contains_key(&without));
        }
    }

    #[test]
    fn whom_nothing_is_sent_to_is_forgotten() {
        let many = peers(10);
        let known = many.keys().map(|peer| (*peer, path())).collect();
        let mut paths = Paths { known, asked: many.clone(), last: None };
        let left = peers(3);
        paths.keep_only(None, &left);
        let local = IpAddr::from([192, 0, 2, 1]);
        assert_eq!(paths.known.len(), 3);
        assert!(left.keys().all(|peer| paths.has_asked(*peer, local)));
        assert_eq!(paths.asked, left);
    }

    #[test]
    fn a_strangers_address_is_not_looked_up() {
        let paths = Paths { asked: peers(3), ..Paths::default() };
        let said = peers(5).into_keys().skip(2).collect();
        assert_eq!(paths.asked_among(&said), peers(3).into_iter().skip(2).collect());
    }
}
