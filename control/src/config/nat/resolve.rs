//! Numbers for names and addresses for words, and what only the whole configuration shows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use sekisho_abi::map::PORTS_MAX;
use sekisho_abi::nat::NAT_POOL_MAX;
use toml::Spanned;

use super::{
    DestinationNat, DestinationSpec, Family, MapSpec, Nat, NatMap, NatSpec, SourceAddress, SourceNat,
    SourceSpec, Target,
};
use crate::config::diagnostic::Report;
use crate::config::ports::overlap;
use crate::config::zones::suggestion;
use crate::config::{Config, Match, Port, PortId, Zone};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Puts numbers for names and addresses for words.
pub(in crate::config) fn resolve(spec: &NatSpec, config: &Config, report: &Report) -> Nat {
    let finder = Finder { config, report };
    let mut nat = Nat::default();
    for source in &spec.sources {
        nat.sources.extend(finder.source(source));
    }
    nat.destinations.extend(spec.destinations.iter().filter_map(|spec| finder.destination(spec)));
    nat.maps.extend(spec.maps.iter().filter_map(|spec| finder.map(spec)));
    let pool: usize = nat
        .sources
        .iter()
        .map(|source| match &source.address {
            SourceAddress::Pool(pool) => pool.len(),
            _ => 2 * PORTS_MAX as usize,
        })
        .sum();
    if pool > NAT_POOL_MAX as usize
        && let Some(last) = spec.sources.last()
    {
        report
            .error(last.address.span(), format!("all pools together have {pool} addresses"))
            .expected(format!("the programs' table holds {NAT_POOL_MAX}"))
            .remedy("name fewer addresses");
    }
    nat
}

struct Finder<'a> {
    config: &'a Config,
    report: &'a Report,
}

impl Finder<'_> {
    fn zone(&self, name: &Spanned<String>) -> Option<&Zone> {
        let found = self.config.zones.iter().find(|zone| *zone.name == **name.get_ref());
        if found.is_none() {
            let known = self.config.zones.iter().map(|zone| &*zone.name);
            self.report
                .error(
                    name.span(),
                    format!("there is no zone \"{}\" to translate", name.get_ref().escape_debug()),
                )
                .expected("expected the name of a zone; the gateway's own packets have its own addresses")
                .remedy(suggestion(name.get_ref(), "zones", known));
        }
        found
    }

    fn ports(&self, names: &[Spanned<String>]) -> Vec<PortId> {
        names.iter().filter_map(|name| self.zone(name)).flat_map(|zone| &zone.ports).copied().collect()
    }

    /// The gateway's own addresses on a port.
    fn own(&self, port: PortId) -> impl Iterator<Item = IpAddr> {
        let port = self.config.ports.iter().find(move |candidate| candidate.id == port);
        port.into_iter().flat_map(|port| &port.addresses).map(IpNet::addr)
    }

    /// Whether the far side of a VPN is asked for an address, which is then ours on that port.
    fn asks(&self, port: PortId, is_v4: bool) -> bool {
        let port = self.config.vpn_ports.iter().find(|candidate| candidate.id == port);
        let behind = port.into_iter().flat_map(|port| &port.connections);
        behind
            .filter_map(|&index| self.config.connections.get(index))
            .any(|connection| if is_v4 { connection.request.ipv4 } else { connection.request.ipv6 })
    }

    fn source(&self, spec: &SourceSpec) -> Vec<SourceNat> {
        let from = spec.from.iter().filter_map(|name| self.zone(name)).map(|zone| zone.id).collect();
        let to = self.ports(&spec.to);
        let families = match spec.address.get_ref() {
            SourceAddress::Keep => vec![true, false],
            SourceAddress::Interface => match spec.family {
                Family::V4 => vec![true],
                Family::V6 => vec![false],
                Family::Both => vec![true, false],
            },
            SourceAddress::Pool(pool) => {
                let is_v4 = pool.first().is_some_and(IpAddr::is_ipv4);
                if let Some(other) = pool.iter().find(|address| address.is_ipv4() != is_v4) {
                    self.report
                        .error(
                            spec.address.span(),
                            format!("{other} is of another family than the first address"),
                        )
                        .remedy("write one [[nat.source]] for each family");
                }
                self.check_pool(spec, pool, &to);
                vec![is_v4]
            }
        };
        if matches!(spec.address.get_ref(), SourceAddress::Interface) {
            for &port in &to {
                for &is_v4 in &families {
                    if !self.own(port).any(|own| own.is_ipv4() == is_v4) && !self.asks(port, is_v4) {
                        let family = if is_v4 { "IPv4" } else { "IPv6" };
                        self.report
                            .error(
                                spec.address.span(),
                                format!("a port of `to` has no {family} address to give"),
                            )
                            .expected("the far side of a VPN has one only where its connection asks for one (`request`)")
                            .remedy("name the addresses to translate to in place of \"interface\"");
                    }
                }
            }
        }
        let all = |is_v4| match is_v4 {
            true => IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0),
            false => IpNet::new_assert(Ipv6Addr::UNSPECIFIED.into(), 0),
        };
        let sources = match spec.sources.is_empty() {
            true => families.iter().map(|&is_v4| all(is_v4)).collect(),
            false => {
                let fits = |net: &&Spanned<IpNet>| families.contains(&net.get_ref().addr().is_ipv4());
                if let Some(other) = spec.sources.iter().find(|net| !fits(net)) {
                    self.report
                        .error(
                            other.span(),
                            format!("{} is of another family than `address`", other.get_ref()),
                        )
                        .remedy("write one [[nat.source]] for each family");
                }
                spec.sources.iter().map(|net| *net.get_ref()).collect()
            }
        };
        let address = spec.address.get_ref().clone();
        vec![SourceNat { from, to, sources, address, ports: spec.ports.clone() }]
    }

    fn check_pool(&self, spec: &SourceSpec, pool: &[IpAddr], to: &[PortId]) {
        for address in pool {
            let elsewhere = self.config.ports.iter().filter(|port| !to.contains(&port.id)).find(|port| {
                port.addresses.iter().any(|net| net.contains(address))
                    || port.networks.iter().any(|route| route.prefix.contains(address))
            });
            if let Some(port) = elsewhere {
                self.report
                    .error(spec.address.span(), format!("{address} is in a network of port {}", port.name))
                    .expected("answers would not come back to the gateway")
                    .remedy(
                        "name addresses of the ports in `to`, or such as are routed to the gateway there",
                    );
                return;
            }
            for port in self.config.ports.iter().filter(|port| to.contains(&port.id)) {
                if port.gateways.contains(address) {
                    self.report
                        .error(spec.address.span(), format!("{address} is the router of port {}", port.name))
                        .remedy("leave it out of the pool");
                }
            }
        }
        for port in self.config.vpn_ports.iter().filter(|port| to.contains(&port.id)) {
            let carried = |address: &IpAddr| self.local_of(port.id).any(|local| local.contains(address));
            if let Some(address) = pool.iter().find(|address| !carried(address)) {
                self.report
                    .error(spec.address.span(), format!("no child of zone {} carries {address}", port.name))
                    .expected("packets would fit no selector of the tunnel")
                    .remedy("add it to `local` of a child of that connection");
            }
        }
    }

    /// What the connections behind a VPN port call ours.
    fn local_of(&self, port: PortId) -> impl Iterator<Item = &IpNet> {
        let port = self.config.vpn_ports.iter().find(move |candidate| candidate.id == port);
        port.into_iter()
            .flat_map(|port| &port.connections)
            .filter_map(|&index| self.config.connections.get(index))
            .flat_map(|connection| &connection.children)
            .flat_map(|child| &child.local)
    }

    fn destination(&self, spec: &DestinationSpec) -> Option<DestinationNat> {
        let mut on = self.ports(&spec.on);
        let target = *spec.to.get_ref();
        let is_v4 = target.address.is_ipv4();
        if self.config.ports.iter().any(|port| port.addresses.iter().any(|net| net.addr() == target.address))
        {
            self.report
                .error(spec.to.span(), format!("{} is the gateway itself", target.address))
                .remedy("its own services need a policy to \"gateway\", and no translation");
        }
        let addresses: Vec<IpAddr> = match &spec.addresses {
            None => on.iter().flat_map(|&port| self.own(port)).filter(|own| own.is_ipv4() == is_v4).collect(),
            Some(addresses) => {
                if let Some(other) = addresses.iter().find(|address| address.get_ref().is_ipv4() != is_v4) {
                    self.report
                        .error(other.span(), format!("{} is of another family than `to`", other.get_ref()))
                        .related(spec.to.span(), "the host")
                        .remedy("write one [[nat.destination]] for each family");
                }
                addresses.iter().map(|address| *address.get_ref()).collect()
            }
        };
        if addresses.is_empty() {
            self.report
                .error(spec.to.span(), "the ports of `on` have no address of this family")
                .remedy("name the address that is asked for in `address`");
        }
        for services in &spec.services {
            self.check_services(services, &addresses, target);
        }
        if spec.hairpin {
            let inside = self.config.ports.iter().filter(|port| !port.uplink && !on.contains(&port.id));
            on.extend(inside.map(|port| port.id).collect::<Vec<_>>());
        }
        Some(DestinationNat {
            on,
            addresses,
            services: spec.services.iter().flat_map(|services| services.get_ref()).cloned().collect(),
            to: target.address,
            port: target.ports.map(|(first, last)| (first, first == last)),
        })
    }

    fn check_services(&self, services: &Spanned<Vec<Match>>, addresses: &[IpAddr], target: Target) {
        for service in services.get_ref() {
            let takes_ike = match service {
                Match::Any => true,
                Match::Protocol { protocol, ports } => {
                    *protocol == UDP && (ports.contains(&500) || ports.contains(&4500))
                }
            };
            let ends = |address: &&IpAddr| {
                self.config.connections.iter().any(|connection| connection.local.address == **address)
            };
            if let Some(address) = addresses.iter().find(ends).filter(|_| takes_ike) {
                self.report
                    .error(
                        services.span(),
                        format!("this takes IKE away from {address}, where connections end"),
                    )
                    .expected("UDP 500 and 4500 are the gateway's own there")
                    .remedy("name the services that the host offers, as \"tcp/443\"");
            }
            let Some((first, last)) = target.ports else { continue };
            let fits = match service {
                Match::Protocol { protocol: TCP | UDP, ports } => {
                    first == last || last - first == ports.end() - ports.start()
                }
                _ => false,
            };
            if !fits {
                self.report
                    .error(services.span(), "the ports of `service` and of `to` do not go together")
                    .expected("expected TCP or UDP, and one port or a range of the same length in `to`")
                    .remedy("leave the port out of `to` to keep the one that is asked for");
            }
        }
    }

    fn map(&self, spec: &MapSpec) -> Option<NatMap> {
        let ports = self.ports(&spec.zones);
        let (inside, outside) = (*spec.inside.get_ref(), *spec.outside.get_ref());
        let reached = |port: &&Port| {
            port.addresses
                .iter()
                .map(IpNet::trunc)
                .chain(port.networks.iter().map(|route| route.prefix))
                .any(|net| overlap(&net, &inside))
        };
        if !self.config.ports.iter().any(|port| reached(&port)) {
            self.report
                .error(spec.inside.span(), format!("{inside} is on no port of this gateway"))
                .remedy("name a network of a port, or add it to that port's `networks`");
        }
        for port in &self.config.ports {
            let net = port.addresses.iter().map(IpNet::trunc).find(|net| overlap(net, &outside));
            if let Some(net) = net.filter(|_| !ports.contains(&port.id)) {
                self.report
                    .error(spec.outside.span(), format!("{outside} overlaps {net} of port {}", port.name))
                    .expected("one address would be two hosts'")
                    .remedy("choose a network that is used nowhere else on this gateway");
            }
        }
        for port in self.config.vpn_ports.iter().filter(|port| ports.contains(&port.id)) {
            if !self.local_of(port.id).any(|local| local.contains(&outside)) {
                self.report
                    .error(spec.outside.span(), format!("no child of zone {} carries {outside}", port.name))
                    .expected("packets would fit no selector of the tunnel")
                    .remedy("name it in `local` of a child of that connection, in place of the inside");
            }
        }
        Some(NatMap { ports, inside, outside })
    }
}
