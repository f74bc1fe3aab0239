//! Which port every address belongs to: the entries of the `NETWORKS` trie.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sekisho_abi::port::{Network, ZONE_GATEWAY, network_kind};
use sekisho_abi::{Address, mapped};

use super::{Config, PortId, SourceAddress, ZoneId};

/// Sources and destinations that are valid on no wire (RFC 6890, RFC 1122 section 3.2.1.3, RFC 4291 section 2.7).
/// Groups are left out: they are destinations, and the programs judge them before they ask whose an address is; so is
/// link-local IPv6, of which every link has its own. Documentation prefixes are left out too: test networks are made
/// of them.
const MARTIANS_V4: [(Ipv4Addr, u8); 3] = [
    // "This network": the programs know DHCP's 0.0.0.0 before they ask.
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    // Link-local (RFC 3927 section 2.7: never forwarded).
    (Ipv4Addr::new(169, 254, 0, 0), 16),
];
const MARTIANS_V6: [(Ipv6Addr, u8); 3] = [
    // Unspecified, loopback and the deprecated IPv4-compatible ones. IPv4-mapped addresses (::ffff:0:0/96) are IPv4's
    // own entries in the same trie.
    (Ipv6Addr::UNSPECIFIED, 96),
    // Discard-only (RFC 6666).
    (Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64),
    // Site-local (deprecated by RFC 3879).
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10),
];

impl Config {
    /// The zone of the ports that are uplinks; that of the gateway where there are none, or their zones differ.
    pub fn uplink_zone(&self) -> ZoneId {
        let mut zones = self.ports.iter().filter(|port| port.uplink).map(|port| port.zone);
        match zones.next() {
            Some(first) if zones.all(|zone| zone == first) => first,
            _ => ZONE_GATEWAY,
        }
    }

    /// The one port that is an uplink; 0 where there is none, or several.
    pub fn only_uplink(&self) -> PortId {
        let mut uplinks = self.ports.iter().filter(|port| port.uplink);
        match (uplinks.next(), uplinks.next()) {
            (Some(port), None) => port.id,
            _ => 0,
        }
    }

    /// Every prefix that has an owner, each once: martians, the ports' subnets and what is routed behind them, the
    /// networks behind VPNs, and the gateway's own addresses with their subnets' broadcast addresses (zone: the
    /// gateway; port: the one they are on).
    pub fn networks(&self) -> Vec<(IpNet, Network)> {
        let mut owners = BTreeMap::new();
        let routers = self.routers();
        // In rising order of precedence: what an administrator configures is no martian.
        let martian = Network { port: 0, zone: 0, kind: network_kind::MARTIAN, router: 0 };
        owners.extend(martians().map(|prefix| (prefix, martian)));
        for port in &self.ports {
            let owner = Network { port: port.id, zone: port.zone, kind: network_kind::PORT, router: 0 };
            owners.extend(port.addresses.iter().map(|address| (address.trunc(), owner)));
            for route in &port.networks {
                let router = routers.iter().position(|router| *router == (port.id, route.via));
                let router = router.and_then(|index| u16::try_from(index + 1).ok()).unwrap_or(0);
                owners.insert(route.prefix, Network { router, ..owner });
            }
        }
        for port in &self.vpn_ports {
            let owner = Network { port: port.id, zone: port.zone, kind: network_kind::VPN, router: 0 };
            owners.extend(self.behind(port).into_iter().map(|(prefix, _)| (prefix, owner)));
        }
        for port in &self.ports {
            let owner = Network { port: port.id, zone: ZONE_GATEWAY, kind: network_kind::LOCAL, router: 0 };
            for subnet in &port.addresses {
                owners.insert(IpNet::from(subnet.addr()), owner);
                if let IpNet::V4(v4) = subnet
                    && v4.prefix_len() <= 30
                {
                    owners.insert(IpNet::from(IpAddr::V4(v4.broadcast())), owner);
                }
            }
        }
        self.translated(&mut owners);
        owners.into_iter().collect()
    }

    /// Routers on the ports behind which networks lie, each once: what [`Network::router`] counts, from 1.
    pub fn routers(&self) -> Vec<(PortId, IpAddr)> {
        let routes =
            self.ports.iter().flat_map(|port| port.networks.iter().map(|route| (port.id, route.via)));
        let mut routers: Vec<_> = routes.collect();
        routers.sort_unstable();
        routers.dedup();
        routers
    }

    /// Addresses that are given to others' packets are the gateway's own.
    fn translated(&self, owners: &mut BTreeMap<IpNet, Network>) {
        let local = |port| Network { port, zone: ZONE_GATEWAY, kind: network_kind::LOCAL, router: 0 };
        for source in &self.nat.sources {
            if let (SourceAddress::Pool(pool), Some(&port)) = (&source.address, source.to.first()) {
                owners.extend(pool.iter().map(|&address| (IpNet::from(address), local(port))));
            }
        }
        for destination in &self.nat.destinations {
            if let Some(&port) = destination.on.first() {
                for &address in &destination.addresses {
                    owners.entry(address.into()).or_insert(local(port));
                }
            }
        }
        for map in &self.nat.maps {
            if let Some(&port) = map.ports.first() {
                owners.insert(map.outside, local(port));
            }
        }
    }
}

/// A prefix as the tries know it: its length in bits, and its address, IPv4 in IPv4-mapped form.
pub fn trie_prefix(prefix: IpNet) -> (u32, Address) {
    match prefix {
        IpNet::V4(v4) => (96 + u32::from(v4.prefix_len()), mapped(v4.network().octets())),
        IpNet::V6(v6) => (u32::from(v6.prefix_len()), v6.network().octets()),
    }
}

fn martians() -> impl Iterator<Item = IpNet> {
    let v4 = MARTIANS_V4.iter().filter_map(|(address, bits)| Ipv4Net::new(*address, *bits).ok());
    let v6 = MARTIANS_V6.iter().filter_map(|(address, bits)| Ipv6Net::new(*address, *bits).ok());
    v4.chain(reserved()).map(IpNet::V4).chain(v6.map(IpNet::V6))
}

/// 240.0.0.0/4 without 255.255.255.255, to which a DHCP server answers: at every length the neighbour of the prefix
/// that holds it.
fn reserved() -> impl Iterator<Item = Ipv4Net> {
    (5..=32u8).filter_map(|bits| {
        let neighbour = (u32::MAX << (32 - bits)) ^ (1 << (32 - bits));
        Ipv4Net::new(neighbour.into(), bits).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trie_prefix_of_ipv4_counts_from_the_mapped_form() {
        let (bits, address) = trie_prefix("10.2.3.4/16".parse().expect("a prefix"));
        assert_eq!((bits, address), (112, mapped([10, 2, 0, 0])));
        let (bits, address) = trie_prefix("fd00:1::5/32".parse().expect("a prefix"));
        assert_eq!(bits, 32);
        assert_eq!(address[..4], [0xfd, 0, 0, 1]);
        assert_eq!(address[4..], [0; 12]);
    }

    #[test]
    fn reserved_is_240_4_without_the_broadcast() {
        let owns = |address: [u8; 4]| reserved().filter(|net| net.contains(&Ipv4Addr::from(address))).count();
        for address in [[240, 0, 0, 0], [251, 1, 2, 3], [255, 255, 255, 254], [255, 0, 0, 0]] {
            assert_eq!(owns(address), 1, "{address:?}");
        }
        for address in [[255, 255, 255, 255], [239, 255, 255, 255], [10, 0, 0, 1]] {
            assert_eq!(owns(address), 0, "{address:?}");
        }
    }
}
