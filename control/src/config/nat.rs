//! `[[nat.source]]`, `[[nat.destination]]` and `[[nat.map]]`: which flows are translated, and to what.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;
use sekisho_abi::map::PORTS_MAX;
use sekisho_abi::nat::NAT_POOL_MAX;
use toml::Spanned;

use super::diagnostic::Report;
use super::ports::overlap;
use super::services::parse_match;
use super::table::Section;
use super::zones::suggestion;
use super::{Config, Match, PortId, Zone, ZoneId};

/// Source ports of translated flows where the file says nothing: those that need no privilege, as routers take.
const PORTS: RangeInclusive<u16> = 1024..=u16::MAX;
/// Addresses of one 1:1 map for which a port itself answers ARP and neighbour discovery; a larger outside must be routed
/// to the gateway.
const MAP_ANSWERED_MAX: u128 = 256;

const TCP: u8 = 6;
const UDP: u8 = 17;

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

/// Reads the three arrays.
pub(super) fn read(file: &Section<'_>, report: &Report) -> NatSpec {
    let services = named_services(file);
    let Some(nat) = file.section("nat") else { return NatSpec::default() };
    let spec = NatSpec {
        sources: nat.array("source").into_iter().filter_map(|section| read_source(section, report)).collect(),
        destinations: nat
            .array("destination")
            .into_iter()
            .filter_map(|section| read_destination(section, &services, report))
            .collect(),
        maps: nat.array("map").into_iter().filter_map(|section| read_map(section, report)).collect(),
    };
    nat.finish();
    spec
}

fn read_source(section: Section<'_>, report: &Report) -> Option<SourceSpec> {
    let from = zones(&section, "from");
    let to = zones(&section, "to");
    let sources =
        section.parsed_list("source", "a network, as 192.168.4.0/24", parse_net).unwrap_or_default();
    let address = read_source_address(&section, report);
    let ports = section.parsed("ports", "a range of ports, as 1024-65535", |text| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last): (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (first > 0 && first <= last).then_some(first..=last)
    });
    let family = section.parsed("family", "\"ipv4\", \"ipv6\" or \"both\"", |text| match text {
        "ipv4" => Some(Family::V4),
        "ipv6" => Some(Family::V6),
        "both" => Some(Family::Both),
        _ => None,
    });
    if let (Some(family), Some(address)) = (&family, &address)
        && !matches!(address.get_ref(), SourceAddress::Interface)
    {
        report
            .error(family.span(), "`family` goes with `address = \"interface\"` only")
            .remedy("remove it: addresses say of which family they are");
    }
    section.finish();
    Some(SourceSpec {
        from: from?,
        to: to?,
        sources,
        address: address?,
        ports: ports.map_or(PORTS, Spanned::into_inner),
        family: family.map_or(Family::V4, Spanned::into_inner),
    })
}

fn read_source_address(section: &Section<'_>, report: &Report) -> Option<Spanned<SourceAddress>> {
    const EXPECTED: &str = "\"interface\", \"keep\", or addresses, as 203.0.113.10-203.0.113.20";
    let Some(texts) = section.strings("address") else {
        return match section.has("address") {
            true => None,
            false => section.missing("address", "\"interface\""),
        };
    };
    let span = section.key_span("address");
    if let [word] = &texts[..] {
        match word.get_ref().as_str() {
            "interface" => return Some(Spanned::new(word.span(), SourceAddress::Interface)),
            "keep" => return Some(Spanned::new(word.span(), SourceAddress::Keep)),
            _ => {}
        }
    }
    let ranges = section.parsed_list("address", EXPECTED, parse_addresses)?;
    let mut pool: Vec<IpAddr> = Vec::new();
    for range in &ranges {
        let (first, last) = *range.get_ref();
        if number(last) - number(first) >= u128::from(NAT_POOL_MAX) {
            report
                .error(range.span(), format!("{first}-{last} has too many addresses for a pool"))
                .expected(format!("expected at most {NAT_POOL_MAX}"))
                .remedy("name fewer: one address carries more than 60,000 flows to each server");
            return None;
        }
        pool.extend((number(first)..=number(last)).map(|value| address(value, first.is_ipv4())));
    }
    if ranges.len() != texts.len() {
        return None;
    }
    if pool.is_empty() {
        report
            .error(span, "`address` is empty")
            .expected(format!("expected {EXPECTED}"))
            .remedy("write \"interface\" for the address of the port by which a flow leaves");
        return None;
    }
    Some(Spanned::new(span, SourceAddress::Pool(pool)))
}

fn read_destination(
    section: Section<'_>,
    services: &dyn Fn(&str) -> Option<Vec<Match>>,
    report: &Report,
) -> Option<DestinationSpec> {
    let on = zones(&section, "on");
    let addresses = match section.string("address").as_ref().map(Spanned::get_ref).map(String::as_str) {
        Some("interface") => None,
        _ => section
            .parsed_list("address", "\"interface\", or addresses, as 203.0.113.10", |text| text.parse().ok()),
    };
    let names = section.strings("service");
    if names.as_ref().is_none_or(Vec::is_empty) && (names.is_some() || !section.has("service")) {
        let _: Option<()> = section.missing("service", "\"tcp/443\"");
    }
    let mut read = Vec::new();
    for name in names.iter().flatten() {
        match parse_match(name.get_ref()).or_else(|| services(name.get_ref())) {
            Some(matches) => read.push(Spanned::new(name.span(), matches)),
            None => report
                .error(name.span(), format!("there is no service \"{}\"", name.get_ref().escape_debug()))
                .expected("expected any, tcp/443, udp/5000-5010, tcp, icmp/echo, ip/47, or a service")
                .remedy("name what of the address is forwarded, as \"tcp/443\""),
        }
    }
    let to =
        section.parsed("to", "a host, as 192.168.2.10, 192.168.2.10:8443 or [fd00:2::10]:8443", parse_target);
    if to.is_none() && !section.has("to") {
        let _: Option<()> = section.missing("to", "\"192.168.2.10:8443\"");
    }
    let hairpin = section.boolean("hairpin").is_none_or(Spanned::into_inner);
    section.finish();
    Some(DestinationSpec { on: on?, addresses, services: read, to: to?, hairpin })
}

fn read_map(section: Section<'_>, report: &Report) -> Option<MapSpec> {
    let zones = zones(&section, "zone");
    let network = |key| {
        let net = section.parsed(key, "a network, as 192.168.1.0/24", parse_net);
        if net.is_none() && !section.has(key) {
            let _: Option<()> = section.missing(key, "\"192.168.1.0/24\"");
        }
        net
    };
    let (inside, outside) = (network("inside"), network("outside"));
    section.finish();
    let (inside, outside) = (inside?, outside?);
    let (here, there) = (inside.get_ref(), outside.get_ref());
    if here.prefix_len() != there.prefix_len() || here.addr().is_ipv4() != there.addr().is_ipv4() {
        report
            .error(outside.span(), format!("{there} is not of the size and family of {here}"))
            .related(inside.span(), "the inside")
            .expected("each address has one partner")
            .remedy(format!("name a network with /{}", here.prefix_len()));
        return None;
    }
    Some(MapSpec { zones: zones?, inside, outside })
}

/// A key that names zones.
fn zones(section: &Section<'_>, key: &'static str) -> Option<Vec<Spanned<String>>> {
    match section.strings(key) {
        Some(zones) if !zones.is_empty() => Some(zones),
        None if section.has(key) => None,
        _ => section.missing(key, "\"ZONE\""),
    }
}

/// `[services]`, whose mistakes the policies report.
fn named_services(file: &Section<'_>) -> impl Fn(&str) -> Option<Vec<Match>> {
    let entries = file.section("services").map(|section| section.entries()).unwrap_or_default();
    move |wanted| {
        let (_, texts) = entries.iter().find(|(name, _)| name.get_ref() == wanted)?;
        Some(texts.iter().filter_map(|text| parse_match(text.get_ref())).flatten().collect())
    }
}

/// Puts numbers for names and addresses for words.
pub(super) fn resolve(spec: &NatSpec, config: &Config, report: &Report) -> Nat {
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
        let reached = |port: &&super::Port| {
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

/// A network without host bits.
fn parse_net(text: &str) -> Option<IpNet> {
    let net: IpNet = text.parse().ok()?;
    (net == net.trunc()).then_some(net)
}

/// One address, or FIRST-LAST.
fn parse_addresses(text: &str) -> Option<(IpAddr, IpAddr)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (IpAddr, IpAddr) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first.is_ipv4() == last.is_ipv4() && first <= last).then_some((first, last))
}

/// ADDRESS, ADDRESS:PORT or ADDRESS:FIRST-LAST; an IPv6 address with a port stands in brackets.
fn parse_target(text: &str) -> Option<Target> {
    if let Ok(address) = text.parse() {
        return Some(Target { address, ports: None });
    }
    let (host, ports) = text.rsplit_once(':')?;
    let address = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => IpAddr::V6(v6.parse().ok()?),
        None => IpAddr::V4(host.parse().ok()?),
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (first > 0 && first <= last).then_some(Target { address, ports: Some((first, last)) })
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn address(number: u128, is_v4: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(bits) if is_v4 => Ipv4Addr::from_bits(bits).into(),
        _ => Ipv6Addr::from_bits(number).into(),
    }
}

fn size(net: &IpNet) -> u128 {
    1u128.checked_shl(u32::from(net.max_prefix_len() - net.prefix_len())).unwrap_or(u128::MAX)
}

fn addresses(net: &IpNet) -> Vec<IpAddr> {
    let first = number(net.network());
    (first..=number(net.broadcast())).map(|value| address(value, net.addr().is_ipv4())).collect()
}
