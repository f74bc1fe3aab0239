//! `[[nat.source]]`, `[[nat.destination]]` and `[[nat.map]]`: which flows are translated, and to what.

mod address;
mod read;
mod resolve;

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use toml::Spanned;

use self::address::{addresses, size};
pub(super) use self::read::read;
pub(super) use self::resolve::resolve;
use super::{Match, PortId, ZoneId};

/// Addresses of one 1:1 map for which a port itself answers ARP and neighbour discovery; a larger outside must be routed
/// to the gateway.
const MAP_ANSWERED_MAX: u128 = 256;

/// Every translation of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nat {
    /// `[[nat.source]]`: the first that matches decides, after the maps.
    pub sources: Vec<SourceNat>,
    /// `[[nat.destination]]`: the first that matches decides, before the maps.
    pub destinations: Vec<DestinationNat>,
    /// `[[nat.map]]`.
    pub maps: Vec<NatMap>,
}

/// Flows from one zone to another get another source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceNat {
    /// Zones they come from.
    pub from: Vec<ZoneId>,
    /// Ports they leave by.
    pub to: Vec<PortId>,
    /// Sources concerned.
    pub sources: Vec<IpNet>,
    /// What they get.
    pub address: SourceAddress,
    /// The ports to choose from.
    pub ports: RangeInclusive<u16>,
}

/// What a source is translated to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceAddress {
    /// It stays.
    Keep,
    /// The address of the port by which the flow leaves; of a VPN, the one that its peer has given us.
    Interface,
    /// One of these.
    Pool(Vec<IpAddr>),
}

/// Flows to an address of the gateway go to a host behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationNat {
    /// Ports they come by.
    pub on: Vec<PortId>,
    /// The addresses asked for.
    pub addresses: Vec<IpAddr>,
    /// The services asked for.
    pub services: Vec<Match>,
    /// The host.
    pub to: IpAddr,
    /// The port there that takes the place of the service's first, and whether it takes the place of all.
    pub port: Option<(u16, bool)>,
}

/// Two networks of one size, each the other's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatMap {
    /// Ports on whose side the outside is known.
    pub ports: Vec<PortId>,
    /// As it is here.
    pub inside: IpNet,
    /// As it is known there.
    pub outside: IpNet,
}

impl Nat {
    /// Whether anything is translated.
    pub fn is_some(&self) -> bool {
        !self.sources.is_empty() || !self.destinations.is_empty() || !self.maps.is_empty()
    }

    /// Addresses beside its own that a port answers for: pools, and the outside of maps.
    pub fn answered_by(&self, port: PortId) -> Vec<IpAddr> {
        let pools = self.sources.iter().filter(|source| source.to.contains(&port)).flat_map(|source| {
            match &source.address {
                SourceAddress::Pool(pool) => pool.as_slice(),
                _ => &[],
            }
        });
        let asked = self
            .destinations
            .iter()
            .filter(|destination| destination.on.first() == Some(&port))
            .flat_map(|destination| &destination.addresses);
        let mut all: Vec<IpAddr> = pools.chain(asked).copied().collect();
        for map in self.maps.iter().filter(|map| map.ports.contains(&port)) {
            if size(&map.outside) <= MAP_ANSWERED_MAX {
                all.extend(addresses(&map.outside));
            }
        }
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// The tables as the file has them.
#[derive(Default)]
pub(super) struct NatSpec {
    sources: Vec<SourceSpec>,
    destinations: Vec<DestinationSpec>,
    maps: Vec<MapSpec>,
}

struct SourceSpec {
    from: Vec<Spanned<String>>,
    to: Vec<Spanned<String>>,
    sources: Vec<Spanned<IpNet>>,
    address: Spanned<SourceAddress>,
    ports: RangeInclusive<u16>,
    family: Family,
}

struct DestinationSpec {
    on: Vec<Spanned<String>>,
    addresses: Option<Vec<Spanned<IpAddr>>>,
    services: Vec<Spanned<Vec<Match>>>,
    to: Spanned<Target>,
    hairpin: bool,
}

#[derive(Clone, Copy)]
struct Target {
    address: IpAddr,
    ports: Option<(u16, u16)>,
}

struct MapSpec {
    zones: Vec<Spanned<String>>,
    inside: Spanned<IpNet>,
    outside: Spanned<IpNet>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
    Both,
}

impl NatSpec {
    /// The networks under which a peer knows ours.
    pub(super) fn outside(&self) -> Vec<IpNet> {
        let pools = self.sources.iter().filter_map(|source| match source.address.get_ref() {
            SourceAddress::Pool(pool) => Some(pool.iter().copied().map(IpNet::from)),
            _ => None,
        });
        self.maps.iter().map(|map| *map.outside.get_ref()).chain(pools.flatten()).collect()
    }
}
