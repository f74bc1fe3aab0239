//! Pools of virtual addresses (RFC 7296 section 2.19), and who has which.
//!
//! An address is leased to an identity. While an IKE SA uses it nobody else gets it; afterwards it is kept for its peer
//! until the pool has no other left. The first choice is computed from the identity, so that a peer gets the same address
//! after a restart too, as long as no two identities meet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ring::digest;

use crate::event::IkeHandle;

/// Leases remembered of one pool: a pool of IPv6 addresses has no end of its own.
const MAX_LEASES: usize = 65_536;

/// Addresses to give away: a range of one family, both ends included. Ranges of one name are one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: Arc<str>,
    /// The lowest address.
    pub first: IpAddr,
    /// The highest.
    pub last: IpAddr,
}

impl Pool {
    /// How many addresses it has; `u128::MAX` stands for all of IPv6.
    pub fn size(&self) -> u128 {
        let (first, last) = (number(self.first), number(self.last));
        if self.first.is_ipv4() != self.last.is_ipv4() {
            return 0;
        }
        last.checked_sub(first).map_or(0, |size| size.saturating_add(1))
    }

    /// Whether an address is one of it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && (self.first..=self.last).contains(&address)
    }

    fn address(&self, offset: u128) -> Option<IpAddr> {
        let number = number(self.first).checked_add(offset)?;
        match self.first {
            IpAddr::V4(_) => u32::try_from(number).ok().map(|number| Ipv4Addr::from(number).into()),
            IpAddr::V6(_) => Some(Ipv6Addr::from(number).into()),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    pub(crate) ike: IkeHandle,
    /// The identity that was proved, as bytes.
    pub(crate) peer: &'a [u8],
    /// The address it would like.
    pub(crate) wish: Option<IpAddr>,
    /// Whether IKE SAs of one identity are one peer's, of which only one stays.
    pub(crate) unique: bool,
}

#[derive(Debug)]
struct Lease {
    peer: Vec<u8>,
    /// IKE SAs that use it: two while one takes the place of the other.
    users: Vec<IkeHandle>,
    /// When it was last given back, counted in releases.
    released: u64,
}

/// The leases of one pool.
#[derive(Debug, Default)]
struct PoolLeases {
    by_address: BTreeMap<IpAddr, Lease>,
    /// The same by who has them, in use or reserved.
    by_peer: BTreeMap<Vec<u8>, BTreeSet<IpAddr>>,
}

impl PoolLeases {
    /// From now on this address is that peer's, and nobody's yet if it was another's.
    fn assign(&mut self, address: IpAddr, peer: &[u8]) -> &mut Lease {
        let lease = self.by_address.entry(address).or_insert_with(|| Lease {
            peer: Vec::new(),
            users: Vec::new(),
            released: 0,
        });
        if lease.peer != peer {
            if let Some(theirs) = self.by_peer.get_mut(&lease.peer) {
                theirs.remove(&address);
                if theirs.is_empty() {
                    self.by_peer.remove(&lease.peer);
                }
            }
            lease.peer = peer.to_vec();
            lease.users.clear();
        }
        self.by_peer.entry(peer.to_vec()).or_default().insert(address);
        lease
    }
}

/// The leases of every pool.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    pools: BTreeMap<Arc<str>, PoolLeases>,
    /// What each IKE SA uses: pools and addresses of them.
    used: BTreeMap<IkeHandle, BTreeSet<(Arc<str>, IpAddr)>>,
    releases: u64,
    /// How often somebody asked in vain, by pool.
    exhausted: BTreeMap<Arc<str>, u64>,
}

impl Leases {
    /// An address for a peer out of the ranges of one pool; `None`: all are in use.
    pub(crate) fn take(&mut self, ranges: &[&Pool], asker: Asker<'_>) -> Option<IpAddr> {
        let name = &ranges.first()?.name;
        let leases = self.pools.entry(name.clone()).or_default();
        let Some(address) = choose(ranges, leases, asker) else {
            *self.exhausted.entry(name.clone()).or_default() += 1;
            return None;
        };
        let lease = leases.assign(address, asker.peer);
        lease.users.push(asker.ike);
        self.used.entry(asker.ike).or_default().insert((name.clone(), address));
        Some(address)
    }

    /// An IKE SA is over. Its addresses stay reserved for its peer as long as there are others.
    pub(crate) fn release(&mut self, ike: IkeHandle) {
        for (name, address) in self.used.remove(&ike).into_iter().flatten() {
            let Some(leases) = self.pools.get_mut(&name) else { continue };
            // It may have become another's meanwhile.
            if let Some(lease) = leases.by_address.get_mut(&address)
                && lease.users.contains(&ike)
            {
                lease.users.retain(|user| *user != ike);
                self.releases += 1;
                lease.released = self.releases;
            }
        }
    }

    /// How often a pool had no address for a peer, by its name.
    pub(crate) fn exhausted(&self) -> &BTreeMap<Arc<str>, u64> {
        &self.exhausted
    }

    /// Addresses in use.
    pub(crate) fn in_use(&self) -> usize {
        let all = self.pools.values().flat_map(|leases| leases.by_address.values());
        all.filter(|lease| !lease.users.is_empty()).count()
    }
}

fn choose(ranges: &[&Pool], leases: &PoolLeases, asker: Asker<'_>) -> Option<IpAddr> {
    let contains = |address: IpAddr| ranges.iter().any(|pool| pool.contains(address));
    let PoolLeases { by_address, by_peer } = leases;
    let theirs = by_peer.get(asker.peer).into_iter().flatten().filter(|address| contains(**address));
    let mut own = theirs.filter_map(|address| Some((*address, by_address.get(address)?)));
    let shared = |address: IpAddr, lease: &Lease| {
        lease.users.is_empty() || asker.unique || asker.wish == Some(address)
    };
    if let Some((address, _)) = own.find(|(address, lease)| shared(*address, lease)) {
        return Some(address);
    }
    let room = by_address.len() < MAX_LEASES;
    let free = |address: &IpAddr| room && contains(*address) && !by_address.contains_key(address);
    if let Some(wish) = asker.wish.filter(free) {
        return Some(wish);
    }
    let free_in = |pool: &&Pool| {
        let size = pool.size();
        let start = start_of(asker.peer).checked_rem(size)?;
        // Among one more than are taken, one is free.
        let tries = size.min(by_address.len() as u128 + 1);
        (0..tries).find_map(|step| {
            let offset = start.checked_add(step).map_or(0, |offset| offset % size);
            pool.address(offset).filter(free)
        })
    };
    // Else the one whose peer is gone longest.
    ranges.iter().find_map(free_in).or_else(|| {
        let idle = by_address.iter().filter(|(address, lease)| lease.users.is_empty() && contains(**address));
        idle.min_by_key(|(_, lease)| lease.released).map(|(address, _)| *address)
    })
}

fn start_of(peer: &[u8]) -> u128 {
    let hash = digest::digest(&digest::SHA256, peer);
    hash.as_ref().first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(first: &str, last: &str) -> Pool {
        Pool {
            name: "p".into(),
            first: first.parse().expect("address"),
            last: last.parse().expect("address"),
        }
    }

    fn asker(ike: u64, peer: &str) -> Asker<'_> {
        Asker { ike: IkeHandle(ike), peer: peer.as_bytes(), wish: None, unique: true }
    }

    #[test]
    fn every_address_is_given_once_and_the_next_peer_gets_none() {
        let (pool, mut leases) = (pool("10.9.0.10", "10.9.0.13"), Leases::default());
        let mut given: Vec<_> =
            (0..4).map(|n| leases.take(&[&pool], asker(n, &format!("peer {n}"))).expect("free")).collect();
        given.sort_unstable();
        assert_eq!(given, [10, 11, 12, 13].map(|host| IpAddr::from([10, 9, 0, host])));
        assert_eq!(leases.take(&[&pool], asker(9, "one too many")), None);
        leases.release(IkeHandle(2));
        let address = leases.take(&[&pool], asker(9, "one too many")).expect("that of the one who left");
        assert!(given.contains(&address));
        assert_eq!(leases.in_use(), 4);
        assert_eq!(leases.take(&[&pool], asker(10, "peer 2")), None, "its reservation is gone");
    }

    #[test]
    fn who_has_what_is_told_the_same_by_address_by_peer_and_by_ike_sa() {
        let (pool, mut leases) = (pool("10.9.0.10", "10.9.0.19"), Leases::default());
        for ike in 0..300 {
            // Twenty peers on ten addresses, some by two IKE SAs at once, which stay for a while.
            leases.take(&[&pool], asker(ike, &format!("peer {}", ike * 7 % 20)));
            leases.release(IkeHandle(ike.saturating_sub(ike % 13)));
            let of_pool = leases.pools.get("p").expect("the pool");
            let (mut by_peer, mut used) = (BTreeMap::new(), BTreeSet::new());
            for (address, lease) in &of_pool.by_address {
                by_peer.entry(lease.peer.clone()).or_insert_with(BTreeSet::new).insert(*address);
                used.extend(lease.users.iter().map(|user| (*user, *address)));
            }
            assert_eq!(of_pool.by_peer, by_peer);
            for (user, address) in used {
                let uses = leases.used.get(&user).expect("uses something");
                assert!(uses.contains(&("p".into(), address)));
            }
        }
        (0..300).for_each(|ike| leases.release(IkeHandle(ike)));
        assert_eq!((leases.in_use(), leases.used.len()), (0, 0));
    }

    #[test]
    fn a_peer_gets_its_own_address_again() {
        let (pool, mut leases) = (pool("fd00::1:0", "fd00::1:ffff"), Leases::default());
        let address = leases.take(&[&pool], asker(1, "clinic")).expect("free");
        assert_eq!(leases.take(&[&pool], asker(2, "clinic")), Some(address), "while one replaces the other");
        leases.release(IkeHandle(1));
        assert_eq!(leases.in_use(), 1, "the second still has it");
        leases.release(IkeHandle(2));
        for n in 10..100 {
            leases.take(&[&pool], asker(n, &format!("other {n}"))).expect("room for all");
        }
        assert_eq!(leases.take(&[&pool], asker(3, "clinic")), Some(address));
        assert_eq!(
            Leases::default().take(&[&pool], asker(1, "clinic")),
            Some(address),
            "after a restart too"
        );
    }

    #[test]
    fn devices_that_share_an_identity_do_not_share_an_address() {
        let (pool, mut leases) = (pool("10.9.0.10", "10.9.0.13"), Leases::default());
        let device = |ike, wish| Asker { unique: false, wish, ..asker(ike, "staff") };
        let first = leases.take(&[&pool], device(1, None)).expect("free");
        let second = leases.take(&[&pool], device(2, None)).expect("free");
        assert_ne!(first, second);
        assert_eq!(leases.take(&[&pool], device(3, Some(second))), Some(second), "its own, anew");
    }

    #[test]
    fn ranges_of_one_name_are_one_pool() {
        let ranges = [pool("10.9.0.10", "10.9.0.11"), pool("10.9.1.0", "10.9.1.0")];
        let (ranges, mut leases) = ([&ranges[0], &ranges[1]], Leases::default());
        let given: Vec<_> =
            (0..3).map(|n| leases.take(&ranges, asker(n, &format!("peer {n}"))).expect("free")).collect();
        let distinct: BTreeSet<_> = given.iter().collect();
        assert_eq!(distinct.len(), 3);
        assert_eq!(leases.take(&ranges, asker(9, "one too many")), None);
        assert_eq!(leases.exhausted().get("p"), Some(&1));
        // The peer in the second range comes back to it, though the first has room again.
        for n in 0..3 {
            leases.release(IkeHandle(n));
        }
        let last = given.iter().position(|address| ranges[1].contains(*address)).expect("one is there");
        let peer = format!("peer {last}");
        assert_eq!(leases.take(&ranges, asker(20, &peer)), Some(given[last]));
    }

    #[test]
    fn a_wish_is_granted_where_it_can_be() {
        let (pool, mut leases) = (pool("10.9.0.10", "10.9.0.13"), Leases::default());
        let wish = |ike, peer, text: &str| Asker { wish: text.parse().ok(), ..asker(ike, peer) };
        let wanted: IpAddr = "10.9.0.12".parse().expect("address");
        assert_eq!(leases.take(&[&pool], wish(1, "a", "10.9.0.12")), Some(wanted));
        let other = leases.take(&[&pool], wish(2, "b", "10.9.0.12")).expect("another");
        assert_ne!(other, wanted);
        for outside in ["10.9.0.14", "192.0.2.1", "fd00::1", "0.0.0.0"] {
            assert!(pool.contains(leases.take(&[&pool], wish(2, "b", outside)).expect("its own")));
        }
    }

    #[test]
    fn hostile_pools_are_empty() {
        for (first, last) in [("10.9.0.13", "10.9.0.10"), ("10.9.0.1", "fd00::1"), ("fd00::1", "10.9.0.1")] {
            assert_eq!(Leases::default().take(&[&pool(first, last)], asker(1, "a")), None);
        }
        let all = pool("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        assert!(Leases::default().take(&[&all], asker(1, "a")).is_some());
    }
}
