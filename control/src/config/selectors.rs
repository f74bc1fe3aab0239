//! The children's networks against the ports, against each other and against common sense: a prefix has one way.

use ipnet::IpNet;
use toml::Spanned;

use super::behind::Behind;
use super::connections::{ChildSpec, ConnectionSpec};
use super::diagnostic::Report;
use super::pools::PoolSpec;
use super::ports::{PortSpec, holds_hosts, overlap};

pub(super) fn check(
    connections: &[ConnectionSpec],
    ports: &[PortSpec],
    pools: &[PoolSpec],
    translated: &[IpNet],
    report: &Report,
) {
    let networks = connections.iter().enumerate().flat_map(|(index, connection)| {
        let remote = connection.children.iter().flat_map(|child| &child.remote);
        remote.map(move |network| (index, network))
    });
    let behind = Behind::of(networks);
    for (index, connection) in connections.iter().enumerate() {
        for child in &connection.children {
            for network in child.local.iter().chain(&child.remote) {
                check_network(network, report);
            }
            check_families(child, connection, pools, report);
            for network in &child.local {
                if !pools.iter().any(|pool| pool.meets(network.get_ref())) {
                    check_local(network, index, &behind, ports, translated, report);
                }
            }
            for network in &child.remote {
                check_remote(network, connection, ports, report);
                check_clash(network, (index, connection), connections, &behind, report);
            }
        }
        check_twins(connection, report);
    }
}

fn check_network(network: &Spanned<IpNet>, report: &Report) {
    let prefix = *network.get_ref();
    if !holds_hosts(&prefix) {
        report
            .error(network.span(), format!("{prefix} is no network of hosts"))
            .expected("loopback, link-local and multicast addresses are never routed")
            .remedy("name a network that can be routed");
    }
    if prefix != prefix.trunc() {
        report
            .error(network.span(), format!("{prefix} is a host's address, not a network"))
            .expected("host bits must be zero")
            .remedy(format!(
                "write {}, or {}/{} for the host alone",
                prefix.trunc(),
                prefix.addr(),
                prefix.max_prefix_len()
            ));
    }
}

fn check_families(child: &ChildSpec, connection: &ConnectionSpec, pools: &[PoolSpec], report: &Report) {
    let alone =
        |mine: &[Spanned<IpNet>], theirs: &[Spanned<IpNet>], dynamic: Option<[bool; 2]>, side: &str| {
            for network in mine {
                let v4 = network.get_ref().addr().is_ipv4();
                let is_dynamic = dynamic.is_some_and(|families| families[usize::from(!v4)]);
                let partner = is_dynamic || theirs.iter().any(|other| other.get_ref().addr().is_ipv4() == v4);
                let known = !theirs.is_empty() || dynamic.is_some_and(|families| families.contains(&true));
                if known && !partner {
                    let family = if v4 { "IPv4" } else { "IPv6" };
                    report
                        .error(
                            network.span(),
                            format!("{} has no partner: no {family} network in `{side}`", network.get_ref()),
                        )
                        .expected("each family needs networks on both sides")
                        .remedy(format!("add an {family} network to `{side}`, or remove this one"));
                }
            }
        };
    let given = connection.given(pools).filter(|_| child.remote_dynamic.is_some());
    let asked = connection.asked().filter(|_| child.local_dynamic.is_some());
    alone(&child.local, &child.remote, given, "remote");
    alone(&child.remote, &child.local, asked, "local");
}

/// Ours are networks on a port, those to which addresses are translated, or (a hub) those behind another connection.
fn check_local(
    network: &Spanned<IpNet>,
    connection: usize,
    behind: &Behind<'_>,
    ports: &[PortSpec],
    translated: &[IpNet],
    report: &Report,
) {
    let prefix = network.get_ref();
    let on_port = ports.iter().flat_map(PortSpec::reached).any(|reached| overlap(reached.get_ref(), prefix));
    let is_translated = translated.iter().any(|outside| overlap(outside, prefix));
    let behind_other = || behind.overlapping(prefix).into_keys().any(|other| other != connection);
    if !on_port && !is_translated && !behind_other() {
        report
            .error(network.span(), format!("{prefix} is on no port of this gateway"))
            .expected("expected a network of a port, or one behind another connection")
            .remedy(
                "correct the network; one behind a router on a port belongs into that port's `networks` too",
            );
    }
}

fn check_remote(network: &Spanned<IpNet>, connection: &ConnectionSpec, ports: &[PortSpec], report: &Report) {
    let prefix = network.get_ref();
    if prefix.prefix_len() == 0 {
        report
            .error(
                network.span(),
                format!("{prefix} would send everything through {}", connection.name.get_ref()),
            )
            .expected("refused: the tunnel's own packets to the peer would go into the tunnel")
            .remedy("name the networks behind the peer");
        return;
    }
    let on_port = ports.iter().find_map(|port| {
        let reached = port.reached().find(|reached| overlap(reached.get_ref(), prefix))?;
        Some((port, reached))
    });
    if let Some((port, reached)) = on_port {
        report
            .error(
                network.span(),
                format!("{prefix} overlaps {} of port {}", reached.get_ref(), port.name.get_ref()),
            )
            .related(reached.span(), "here it is on our side")
            .expected("what is behind the VPN is never accepted in clear")
            .remedy("exchange `local` and `remote` if they are mixed up; else one side must be renumbered");
    }
    let peer = connection.remote.as_ref().and_then(|remote| remote.address.as_ref());
    if let Some(peer) = peer.filter(|peer| prefix.contains(peer.get_ref())) {
        report
            .error(network.span(), format!("{prefix} contains the peer's own address {}", peer.get_ref()))
            .related(peer.span(), "the peer")
            .expected("the tunnel's own packets to the peer would go into the tunnel")
            .remedy("name the networks behind the peer without its outer address");
    }
}

fn check_clash(
    network: &Spanned<IpNet>,
    (index, connection): (usize, &ConnectionSpec),
    connections: &[ConnectionSpec],
    behind: &Behind<'_>,
    report: &Report,
) {
    let prefix = network.get_ref();
    let mut overlapping = behind.overlapping(prefix);
    // Each two are told of once: where the later one stands.
    overlapping.retain(|other, _| *other < index);
    for (other, theirs) in
        overlapping.into_iter().filter_map(|(o, theirs)| Some((connections.get(o)?, theirs)))
    {
        report
            .error(
                network.span(),
                format!(
                    "{prefix} is behind {} and behind {}",
                    connection.name.get_ref(),
                    other.name.get_ref()
                ),
            )
            .related(theirs.span(), "the other claim")
            .remedy("a network is behind one connection: narrow one of the two");
    }
}

/// Two children of one connection with the same pair of networks: which one a packet takes would be chance.
fn check_twins(connection: &ConnectionSpec, report: &Report) {
    for (index, child) in connection.children.iter().enumerate() {
        for other in connection.children.iter().take(index) {
            let meets = |mine: &[Spanned<IpNet>], theirs: &[Spanned<IpNet>]| {
                mine.iter().any(|a| theirs.iter().any(|b| overlap(a.get_ref(), b.get_ref())))
            };
            let local = child.local_dynamic.is_some() && other.local_dynamic.is_some()
                || meets(&child.local, &other.local);
            let remote = child.remote_dynamic.is_some() && other.remote_dynamic.is_some()
                || meets(&child.remote, &other.remote);
            if local && remote {
                report
                    .error(
                        child.name.span(),
                        format!(
                            "children {} and {} carry the same traffic",
                            other.name.get_ref(),
                            child.name.get_ref()
                        ),
                    )
                    .related(other.name.span(), "the other child")
                    .remedy("put the networks into one child, or make them disjoint");
            }
        }
    }
}
