//! `[pools.*]`: virtual addresses that peers are given (RFC 7296 section 2.19), and who may ask for or give one.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
use sekisho_ike::config as ike;
use toml::Spanned;

use super::connections::ConnectionSpec;
use super::diagnostic::Report;
use super::name::read_name;
use super::ports::{PortSpec, holds_hosts, overlap};
use super::table::Section;
use super::zones::suggestion;
use super::{Config, Connection, PortId, VpnPort};

/// Name servers of one pool: more than any resolver asks (resolv.conf(5) knows three), and as many as we take from a peer.
const DNS_MAX: usize = 16;

/// Addresses to give away, and what is told with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: Arc<str>,
    /// What is given: ranges of one family each, both ends included.
    pub ranges: Vec<(IpAddr, IpAddr)>,
    /// The networks that lie behind the VPN by it: every range, and the whole of every prefix.
    pub networks: Vec<IpNet>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
}

impl Pool {
    /// How many addresses of one family it has; `u128::MAX` stands for all of IPv6.
    pub fn size(&self, is_ipv6: bool) -> u128 {
        let of_family = self.ranges.iter().filter(|(first, _)| first.is_ipv6() == is_ipv6);
        let sizes = of_family.map(|&(first, last)| ike::Pool { name: self.name.clone(), first, last }.size());
        sizes.fold(0, u128::saturating_add)
    }
}

/// One pool as the file has it.
pub(super) struct PoolSpec {
    pub(super) name: Spanned<String>,
    ranges: Vec<Spanned<Range>>,
    dns: Vec<IpAddr>,
}

#[derive(Clone)]
struct Range {
    text: String,
    ends: (IpAddr, IpAddr),
    networks: Vec<IpNet>,
}

impl PoolSpec {
    /// Whether it has addresses of IPv4, and of IPv6.
    pub(super) fn families(&self) -> [bool; 2] {
        let has = |v4| self.ranges.iter().any(|range| range.get_ref().ends.0.is_ipv4() == v4);
        [has(true), has(false)]
    }

    /// Whether a network has an address in common with it.
    pub(super) fn meets(&self, network: &IpNet) -> bool {
        self.ranges.iter().any(|range| range.get_ref().meets(network))
    }

    /// The pool, once the file is known to be without errors.
    pub(super) fn resolve(self) -> Pool {
        Pool {
            name: self.name.into_inner().into(),
            ranges: self.ranges.iter().map(|range| range.get_ref().ends).collect(),
            networks: self.ranges.into_iter().flat_map(|range| range.into_inner().networks).collect(),
            dns: self.dns,
        }
    }
}

impl Range {
    fn meets(&self, network: &IpNet) -> bool {
        self.networks.iter().any(|own| overlap(own, network))
    }

    /// A prefix, whose first address and, of IPv4, last one belong to no host (RFC 1122 section 3.2.1.3, RFC 4291 section
    /// 2.6.1); one address; or FIRST-LAST.
    fn parse(text: &str) -> Option<Range> {
        let range = |ends, networks| Some(Range { text: text.to_owned(), ends, networks });
        if let Some((first, last)) = text.split_once('-') {
            let (first, last): (IpAddr, IpAddr) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            let networks = match (first, last) {
                (IpAddr::V4(a), IpAddr::V4(b)) if a <= b => {
                    Ipv4Subnets::new(a, b, 0).map(IpNet::V4).collect()
                }
                (IpAddr::V6(a), IpAddr::V6(b)) if a <= b => {
                    Ipv6Subnets::new(a, b, 0).map(IpNet::V6).collect()
                }
                _ => return None,
            };
            return range((first, last), networks);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return range((address, address), vec![IpNet::from(address)]);
        }
        let net: IpNet = text.parse().ok()?;
        let ends = match net {
            _ if net != net.trunc() => return None,
            IpNet::V4(net) if net.prefix_len() <= 30 => (
                Ipv4Addr::from_bits(net.network().to_bits() + 1).into(),
                Ipv4Addr::from_bits(net.broadcast().to_bits() - 1).into(),
            ),
            IpNet::V6(net) if net.prefix_len() <= 126 => {
                (Ipv6Addr::from_bits(net.network().to_bits() + 1).into(), net.broadcast().into())
            }
            net => (net.network(), net.broadcast()),
        };
        range(ends, vec![net])
    }
}

/// Reads the sections.
pub(super) fn read(file: &Section<'_>, report: &Report) -> Vec<PoolSpec> {
    file.sections("pools").into_iter().map(|(name, section)| read_pool(name, section, report)).collect()
}

fn read_pool(name: Spanned<String>, section: Section<'_>, report: &Report) -> PoolSpec {
    let name = read_name(name, "a pool", report);
    let expected = "a network or a range, as 10.9.0.0/24 or 10.9.0.10-10.9.0.99";
    let ranges = section.parsed_list("addresses", expected, Range::parse);
    if !section.has("addresses") {
        let _: Option<()> = section.missing("addresses", "[\"10.9.0.0/24\"]");
    } else if section.strings("addresses").is_some_and(|all| all.is_empty()) {
        report
            .error(section.key_span("addresses"), format!("{} has no address to give", section.title()))
            .remedy("name networks or ranges, as \"10.9.0.0/24\"");
    }
    let dns: Vec<Spanned<IpAddr>> =
        section.parsed_list("dns", "an address, as 10.2.0.53", |text| text.parse().ok()).unwrap_or_default();
    for server in &dns {
        let address = server.get_ref();
        if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
            report
                .error(server.span(), format!("{address} is no name server's address"))
                .expected("expected the address of one host that the peers can reach")
                .remedy("name the resolver behind this gateway");
        }
    }
    if let Some(extra) = dns.get(DNS_MAX) {
        report
            .error(extra.span(), format!("{} names {} name servers", section.title(), dns.len()))
            .expected(format!("expected at most {DNS_MAX}"))
            .remedy("remove some: resolvers ask two or three");
    }
    section.finish();
    PoolSpec {
        name,
        ranges: ranges.unwrap_or_default(),
        dns: dns.into_iter().map(Spanned::into_inner).collect(),
    }
}

/// The pools against ports, networks of children, peers, translations and each other: an address is in one place.
pub(super) fn check(
    pools: &[PoolSpec],
    connections: &[ConnectionSpec],
    ports: &[PortSpec],
    translated: &[IpNet],
    report: &Report,
) {
    for (index, pool) in pools.iter().enumerate() {
        for (position, range) in pool.ranges.iter().enumerate() {
            let place = Place { pool, range, report };
            place.check_hosts();
            place.check_ports(ports);
            place.check_connections(connections);
            if translated.iter().any(|outside| range.get_ref().meets(outside)) {
                place.taken("an address that [nat] gives to packets", "choose another range");
            }
            let before = pools.iter().take(index).flat_map(|other| &other.ranges);
            let before = before.chain(pool.ranges.iter().take(position));
            place.check_pools(before);
        }
        let user = connections.iter().find(|connection| connection.gives(pool));
        if user.is_none() {
            report
                .warning(pool.name.span(), format!("pool {} is given to nobody", pool.name.get_ref()))
                .expected("a pool is named in `pools` of a connection")
                .remedy(format!("add `pools = \"{}\"` to the connection, or remove it", pool.name.get_ref()));
        }
    }
    for connection in connections {
        connection.check_giving(pools, report);
        connection.check_asking(report);
        connection.check_dynamic(pools, report);
    }
}

/// One range, for its messages.
struct Place<'a> {
    pool: &'a PoolSpec,
    range: &'a Spanned<Range>,
    report: &'a Report,
}

impl Place<'_> {
    fn taken(&self, by: &str, remedy: &str) {
        self.report
            .error(self.range.span(), format!("{} overlaps {by}", self.range.get_ref().text))
            .expected("an address of a pool is behind the VPN, and nowhere else")
            .remedy(remedy);
    }

    fn check_hosts(&self) {
        let Range { text, networks, .. } = self.range.get_ref();
        if networks.iter().any(|network| !holds_hosts(network) || network.prefix_len() == 0) {
            self.report
                .error(self.range.span(), format!("{text} holds addresses that no host can have"))
                .expected("loopback, link-local and multicast addresses are never routed")
                .remedy("name a private network that is used nowhere else, as 10.9.0.0/24");
        }
    }

    fn check_ports(&self, ports: &[PortSpec]) {
        for port in ports {
            let Some(reached) = port.reached().find(|reached| self.range.get_ref().meets(reached.get_ref()))
            else {
                continue;
            };
            self.report
                .error(
                    self.range.span(),
                    format!(
                        "{} overlaps {} of port {}",
                        self.range.get_ref().text,
                        reached.get_ref(),
                        port.name.get_ref()
                    ),
                )
                .related(reached.span(), "here it is on our side")
                .expected("what is behind the VPN is never accepted in clear")
                .remedy("give the pool a network of its own");
        }
    }

    fn check_connections(&self, connections: &[ConnectionSpec]) {
        let range = self.range.get_ref();
        for connection in connections {
            let name = connection.name.get_ref();
            let networks = connection.children.iter().flat_map(|child| &child.remote);
            if let Some(network) = networks.into_iter().find(|network| range.meets(network.get_ref())) {
                self.report
                    .error(
                        self.range.span(),
                        format!(
                            "{} of pool {} overlaps {}, which is behind {name}",
                            range.text,
                            self.pool.name.get_ref(),
                            network.get_ref()
                        ),
                    )
                    .related(network.span(), "the other claim")
                    .remedy("write \"dynamic\" there if the pool's addresses are meant; else choose another range");
            }
            let peer = connection.remote.as_ref().and_then(|remote| remote.address.as_ref());
            if let Some(peer) = peer.filter(|peer| range.meets(&IpNet::from(*peer.get_ref()))) {
                self.report
                    .error(self.range.span(), format!("{} contains a peer's own address", range.text))
                    .related(peer.span(), "the peer")
                    .expected("the tunnel's own packets to the peer would go into the tunnel")
                    .remedy("choose a range without it");
            }
        }
    }

    fn check_pools<'a>(&self, before: impl Iterator<Item = &'a Spanned<Range>>) {
        let range = self.range.get_ref();
        for other in before.filter(|other| other.get_ref().networks.iter().any(|net| range.meets(net))) {
            self.report
                .error(self.range.span(), format!("{} overlaps {}", range.text, other.get_ref().text))
                .related(other.span(), "given away here already")
                .expected("an address is given to one peer")
                .remedy("make the ranges disjoint; several connections may name one pool");
        }
    }
}

impl ConnectionSpec {
    fn gives(&self, pool: &PoolSpec) -> bool {
        self.pools.iter().any(|name| name.get_ref() == pool.name.get_ref())
    }

    fn check_giving(&self, pools: &[PoolSpec], report: &Report) {
        let Some(first) = self.pools.first() else { return };
        for name in &self.pools {
            let known = || pools.iter().map(|pool| pool.name.get_ref().as_str());
            if !known().any(|pool| pool == name.get_ref()) {
                report
                    .error(name.span(), format!("there is no pool \"{}\"", name.get_ref().escape_debug()))
                    .expected("expected the name of a pool")
                    .remedy(suggestion(name.get_ref(), "pools", known()));
            }
        }
        if self.start != super::Start::Answer {
            report
                .error(first.span(), "an address is given to a peer that opens the connection")
                .expected("expected `start = \"answer\"`")
                .remedy("write it, or, to be given an address, `request` in place of `pools`");
        }
        if !self.children.iter().any(|child| child.remote_dynamic.is_some()) {
            report
                .error(first.span(), "no child carries the addresses that are given")
                .expected("expected `remote = \"dynamic\"` in a child of this connection")
                .remedy("write \"dynamic\" for the peer's network");
        }
    }

    fn check_asking(&self, report: &Report) {
        let Some(request) = &self.request else { return };
        if self.start == super::Start::Answer {
            report
                .error(request.span(), "only who opens a connection asks for an address")
                .expected("expected `start` other than \"answer\"")
                .remedy("write `start = \"always\"`; to give addresses, write `pools` in place of `request`");
        }
        if self.start == super::Start::OnDemand || self.life.dpd_action == super::DpdAction::Trap {
            report
                .error(request.span(), "no packet can open it: before the address is given, none has it")
                .expected("expected `start = \"always\"` or \"manual\", and no `dpd_action = \"trap\"`")
                .remedy("write `start = \"always\"`");
        }
        if !self.children.iter().any(|child| child.local_dynamic.is_some()) {
            report
                .error(request.span(), "no child carries the address that is asked for")
                .expected("expected `local = \"dynamic\"` in a child of this connection")
                .remedy("write \"dynamic\" for our network");
        }
    }

    /// What `dynamic` stands for, and whether each of its families has a partner on the other side.
    fn check_dynamic(&self, pools: &[PoolSpec], report: &Report) {
        let has = |networks: &[Spanned<IpNet>], v4: bool| {
            networks.iter().any(|network| network.get_ref().addr().is_ipv4() == v4)
        };
        for child in &self.children {
            let ends = [
                (&child.local_dynamic, "local", "remote", has as fn(&_, _) -> _, &child.remote),
                (&child.remote_dynamic, "remote", "local", has, &child.local),
            ];
            for (dynamic, side, other, has, networks) in ends {
                let Some(dynamic) = dynamic else { continue };
                let (families, key, remedy) = match side {
                    "local" => (self.asked(), "request", "request = [\"ipv4\"]"),
                    _ => (self.given(pools), "pools", "pools = \"NAME\""),
                };
                let Some(families) = families else {
                    report
                        .error(dynamic.span(), format!("\"dynamic\" in `{side}` stands for nothing"))
                        .expected(format!("expected `{key}` in the connection"))
                        .remedy(format!("add `{remedy}` to the connection, or name networks here"));
                    continue;
                };
                for (v4, name) in [(true, "IPv4"), (false, "IPv6")] {
                    let wanted = families[usize::from(!v4)];
                    if wanted && !networks.is_empty() && !has(networks, v4) {
                        report
                            .error(
                                dynamic.span(),
                                format!(
                                    "its {name} addresses have no partner: no {name} network in `{other}`"
                                ),
                            )
                            .expected("each family needs networks on both sides")
                            .remedy(format!(
                                "add an {name} network to `{other}`, or take {name} out of `{key}`"
                            ));
                    }
                }
            }
        }
    }

    /// Families that are asked for, IPv4 first.
    pub(super) fn asked(&self) -> Option<[bool; 2]> {
        let ike::Wanted { ipv4, ipv6 } = *self.request.as_ref()?.get_ref();
        Some([ipv4, ipv6])
    }

    /// Families that are given, IPv4 first.
    pub(super) fn given(&self, pools: &[PoolSpec]) -> Option<[bool; 2]> {
        let given = pools.iter().filter(|pool| self.gives(pool)).map(PoolSpec::families);
        let all = given.fold([false; 2], |all, one| [all[0] || one[0], all[1] || one[1]]);
        (!self.pools.is_empty()).then_some(all)
    }
}

/// An address belongs to the peers of one zone, and a zone to which an address is given translates to that one alone.
pub(super) fn check_zones(
    vpn_ports: &[VpnPort],
    pools: &[PoolSpec],
    connections: &[ConnectionSpec],
    report: &Report,
) {
    for port in vpn_ports {
        let behind: Vec<&ConnectionSpec> =
            port.connections.iter().filter_map(|&index| connections.get(index)).collect();
        let asks = behind.iter().find_map(|connection| connection.request.as_ref());
        if let Some(request) = asks.filter(|_| behind.len() > 1) {
            report
                .error(request.span(), format!("zone {} has several connections", port.name))
                .expected("the address that a peer gives is the zone's own, and a zone has one")
                .remedy("give this connection a zone of its own");
        }
    }
    for pool in pools {
        let mut users = vpn_ports.iter().flat_map(|port| {
            let behind = port.connections.iter().filter_map(|&index| connections.get(index));
            let names = behind.flat_map(|connection| &connection.pools);
            names.filter(|name| name.get_ref() == pool.name.get_ref()).map(move |name| (port.id, name))
        });
        let Some((first, _)) = users.next() else { continue };
        if let Some((_, name)) = users.find(|(port, _)| *port != first) {
            report
                .error(name.span(), format!("pool {} is given in another zone already", pool.name.get_ref()))
                .related(pool.name.span(), "the pool")
                .expected("an address belongs to one zone, or the filter could not tell whose it is")
                .remedy("give each zone a pool of its own");
        }
    }
}

impl Config {
    /// The pools of a connection.
    pub fn pools_of<'a>(&'a self, connection: &'a Connection) -> impl Iterator<Item = &'a Pool> + 'a {
        self.pools.iter().filter(|pool| connection.pools.contains(&pool.name))
    }

    /// The networks behind a VPN, each with the child that carries it; where one stands in several, the first.
    pub fn behind(&self, port: &VpnPort) -> Vec<(IpNet, &super::Child)> {
        let (mut behind, mut known) = (Vec::new(), HashSet::new());
        for connection in port.connections.iter().filter_map(|&index| self.connections.get(index)) {
            for child in &connection.children {
                let given = self.pools_of(connection).filter(|_| child.remote_dynamic);
                let given = given.flat_map(|pool| &pool.networks);
                for network in child.remote.iter().chain(given) {
                    if known.insert(*network) {
                        behind.push((*network, child));
                    }
                }
            }
        }
        behind
    }

    /// The VPN port that has the address a connection is given; `None` where it asks for none.
    pub fn asking_port(&self, connection: &str) -> Option<PortId> {
        let asks = self.connections.iter().any(|other| *other.name == *connection && other.request.any());
        self.vpn_port(connection).filter(|_| asks).map(|port| port.id)
    }

    /// Why an address that the peer of a connection gives us cannot be ours: whoever may give addresses must not thereby
    /// take those of our own hosts or of another peer's.
    pub fn refuses_address(&self, connection: &str, address: IpAddr) -> Option<String> {
        let host = IpNet::from(address);
        if !holds_hosts(&host) {
            return Some("which no host can have".to_owned());
        }
        for port in &self.ports {
            let mut reached =
                port.addresses.iter().map(IpNet::trunc).chain(port.networks.iter().map(|route| route.prefix));
            if let Some(network) = reached.find(|network| network.contains(&address)) {
                return Some(format!("which lies in {network} of port {}", port.name));
            }
        }
        for other in self.connections.iter().filter(|other| *other.name != *connection) {
            let mut networks = other.children.iter().flat_map(|child| &child.remote);
            if networks.any(|network| network.contains(&address)) {
                return Some(format!("which is behind connection {}", other.name));
            }
        }
        if self.pools.iter().any(|pool| pool.networks.iter().any(|network| network.contains(&address))) {
            return Some("which is of a pool that this gateway gives away itself".to_owned());
        }
        if self.connections.iter().any(|other| other.remote.address == Some(address)) {
            return Some("which is a peer's own address outside the tunnels".to_owned());
        }
        let gateways = self.ports.iter().flat_map(|port| &port.gateways);
        gateways.into_iter().any(|gateway| *gateway == address).then(|| "which is a router's".to_owned())
    }
}
