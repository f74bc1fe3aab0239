//! An explanation in plain sentences, in the order of the packet's way.

use std::net::IpAddr;

use ipnet::IpNet;
use sekisho_abi::port::{Network, ZONE_GATEWAY, network_kind, port_flags};
use sekisho_abi::verdict::Verdict;

use super::way::Way;
use super::{Explanation, Near, Translated, Tunnel, service};

/// `reaches`: the packet leaves to where the asker said.
pub(super) fn sentences(way: &Way<'_>, explanation: &Explanation, reaches: bool) -> Vec<String> {
    let verdict = way.outcome.verdict;
    let mut said = vec![entry(way, explanation)];
    said.push(source(way));
    if matches!(verdict, Verdict::DropSpoof | Verdict::DropClear | Verdict::DropMartian) {
        said.push(end(way, explanation, reaches));
        return said;
    }
    if explanation.known_flow {
        let side = if way.original { "as the packets of its opener go" } else { "as replies go" };
        said.push(format!("Flow: it belongs to a flow that is known, {side}."));
    } else {
        said.push("Flow: none is known; it would be the first packet of one.".into());
    }
    if let Some(nat) = &explanation.destination_nat {
        said.push(format!("NAT before the rules: its destination becomes {}.", translated(nat)));
    }
    said.extend(route(way, explanation));
    said.extend(rule(way, explanation));
    if let Some(nat) = &explanation.source_nat {
        said.push(format!("NAT on the way out: its source becomes {}.", translated(nat)));
    }
    said.extend(explanation.tunnel.as_ref().map(tunnel));
    said.push(end(way, explanation, reaches));
    said
}

fn entry(way: &Way<'_>, explanation: &Explanation) -> String {
    let question = way.question;
    let what = service::asked(question.protocol, way.service);
    let ends = match question.protocol {
        super::TCP | super::UDP => {
            let [from, to] = [(question.source, way.source_port), (question.destination, way.service)]
                .map(|(address, port)| socket(address, port));
            format!("{from} → {to}")
        }
        _ => format!("{} → {}", question.source, question.destination),
    };
    format!(
        "Packet: {what}, {ends}, enters by port {}, zone {}.",
        explanation.from_port, explanation.from_zone
    )
}

fn source(way: &Way<'_>) -> String {
    let source = way.question.source;
    let here = way.port_name(way.port.id);
    let network = |kind: &str, owner: &Network| {
        let name = way.port_name(owner.port);
        match (prefix(way, source), owner.port == way.port.id) {
            (Some(prefix), true) => format!("{source} is of {prefix}, {kind} {name}: it may come from there"),
            (Some(prefix), false) => {
                format!("{source} is of {prefix}, {kind} {name}, and is not accepted from port {here}")
            }
            (None, _) => format!("{source} is {kind} {name}"),
        }
    };
    let said = match &way.owner {
        Some(owner) if owner.kind == network_kind::VPN => network("behind VPN", owner),
        Some(owner) if owner.kind == network_kind::LOCAL => {
            format!("{source} is the gateway's own address, and is accepted from no port")
        }
        Some(owner) if owner.kind == network_kind::MARTIAN => {
            format!("{source} is valid as a source on no wire")
        }
        Some(owner) => network("on port", owner),
        None if way.port.flags & port_flags::UPLINK != 0 => {
            format!("{source} belongs to no other port, and port {here} is an uplink: it may come from there")
        }
        None => {
            format!(
                "{source} belongs to no port: such addresses are accepted from uplinks only, not from {here}"
            )
        }
    };
    format!("Source: {said}.")
}

fn route(way: &Way<'_>, explanation: &Explanation) -> Option<String> {
    let (port, zone) = (explanation.to_port.as_ref()?, explanation.to_zone.as_ref()?);
    let target = explanation.destination_nat.as_ref().map_or(way.question.destination, |nat| nat.address);
    let why = match &way.target {
        _ if *port == "gateway" => return Some(format!("Route: {target} is the gateway itself.")),
        Some(network) if network.kind == network_kind::VPN => match prefix(way, target) {
            Some(prefix) => {
                format!("{prefix} is behind VPN {port}, zone {zone}: into a tunnel, never in clear")
            }
            None => format!("into the tunnels of VPN {port}, zone {zone}"),
        },
        Some(_) => match prefix(way, target) {
            Some(prefix) => format!("{prefix} is on port {port}, zone {zone}"),
            None => format!("by port {port}, zone {zone}"),
        },
        None => format!("{target} belongs to no port: by uplink {port}, zone {zone}"),
    };
    let hop = match (&explanation.next_hop, way.outcome.verdict) {
        (Some(mac), _) => format!("; next hop {mac}"),
        (None, Verdict::Pass) => {
            "; the kernel asks for the next hop's MAC address first, or answers the sender, and sends it itself".into()
        }
        _ => String::new(),
    };
    Some(format!("Route: {why}{hop}."))
}

fn rule(way: &Way<'_>, explanation: &Explanation) -> Vec<String> {
    let Some(rule) = &explanation.rule else {
        let verdict = way.outcome.verdict;
        let asked = way.outcome.findings.asked;
        if verdict != Verdict::DropPolicy || asked.generation == 0 {
            return Vec::new();
        }
        let [from, to] = [asked.from, asked.to].map(|zone| way.zone_name(zone));
        let what = service::asked(way.question.protocol, u16::from_be(asked.port_be));
        let mut said = vec![format!(
            "Rule: none allows {what} from zone {from} to zone {to}; what no rule names is refused."
        )];
        said.extend(explanation.near.iter().map(|Near { name, line, why }| {
            format!("  Near: {name:?} (line {line}) would allow it, but {why}.")
        }));
        return said;
    };
    let does = if rule.allows { "allows it" } else { "refuses it" };
    let mut said = format!("Rule: {:?} (line {}) {does}", rule.name, rule.line);
    if way.known && way.outcome.findings.asked.generation == 0 {
        said = format!("Rule: {:?} (line {}) has allowed its flow", rule.name, rule.line);
    }
    match way.outcome.verdict {
        Verdict::DropRuleLimit => said += ", but its limit of new flows is used up at the moment",
        _ if rule.limited && !way.known => said += ", within its limit of new flows",
        _ => {}
    }
    if rule.logged && !way.known {
        said += ", and reports each new flow";
    }
    vec![said + "."]
}

fn tunnel(tunnel: &Tunnel) -> String {
    match (&tunnel.connection, &tunnel.child) {
        (Some(connection), Some(child)) => {
            let state = if tunnel.up { "is up" } else { "is not up at the moment: until it is, packets are dropped" };
            format!("Tunnel: child {child} of connection {connection} carries it; the connection {state}.")
        }
        _ => "Tunnel: no child of the connections there has networks for these two addresses: the ESP engine refuses it."
            .into(),
    }
}

/// The last sentence.
fn end(way: &Way<'_>, explanation: &Explanation, reaches: bool) -> String {
    let verdict = way.outcome.verdict;
    let name = verdict.name();
    if verdict.is_drop() {
        return format!("Refused ({name}): {}.", why(way, verdict));
    }
    if let (false, Some(to), Some(port)) = (reaches, &way.question.to, &explanation.to_port) {
        return format!("Let through ({name}), but to {port} and not to {to}.");
    }
    if explanation.tunnel.as_ref().is_some_and(|tunnel| tunnel.connection.is_none()) {
        return "Refused: the filter lets it through, the ESP engine does not.".into();
    }
    if verdict == Verdict::Challenge {
        return format!(
            "Allowed ({name}), once its sender has answered a challenge: TCP clients do so by themselves."
        );
    }
    match &explanation.to_port {
        Some(port) if port == "gateway" => format!("Allowed ({name}): it gets to the gateway."),
        Some(port) => format!("Allowed ({name}): it leaves by port {port}."),
        None => format!("Allowed ({name})."),
    }
}

/// Why a packet is refused.
fn why(way: &Way<'_>, verdict: Verdict) -> String {
    let here = way.port_name(way.port.id);
    let text = match verdict {
        Verdict::DropSpoof => return format!("the source address does not belong to port {here}"),
        Verdict::DropClear => "the source belongs behind a VPN and came in clear",
        Verdict::DropMartian => "its source or its destination is valid on no wire",
        Verdict::DropPolicy if way.known => "the flow's packets of this direction do not come from here",
        Verdict::DropPolicy => "no rule allows it",
        Verdict::DropTcpState => "it does not fit the state of its TCP flow",
        Verdict::DropTcpWindow => "it lies out of the windows of its TCP flow",
        Verdict::DropFlowTable => "the flow table is full",
        Verdict::DropTtl => "its time to live is used up",
        Verdict::DropNoRoute => "there is no route, or none that leads to the port whose the destination is",
        Verdict::DropClosed => "the filter is closed: the gateway is starting, or could not be put in force",
        Verdict::DropMulticast => "the gateway takes no such multicast or broadcast",
        Verdict::DropIcmpError => "it answers no packet of a known flow",
        Verdict::DropRate => "the source has used up its share at the moment",
        Verdict::DropRuleLimit => "the rule's limit of new flows is used up at the moment",
        Verdict::DropQuotaSource => "the source has its quota of flows",
        Verdict::DropQuotaHalfOpen => "the source has its quota of half-open TCP flows",
        Verdict::DropQuotaDestination => "the destination has its quota of half-open TCP flows",
        Verdict::DropQuotaZone => "the zone has its quota of flows",
        Verdict::DropScanLimit => "the source has tried many doors, and may open few new flows for a time",
        Verdict::DropNatConflict => {
            "the translated ends are another flow's already, and the protocol has no port that could be another"
        }
        Verdict::DropNatExhausted => "no free port was found to translate the source to",
        Verdict::DropUnknownSpi => "it belongs to no SA",
        Verdict::DropProtocol => "the filter cannot judge this protocol",
        _ => "see its name under `sekisho drops`",
    };
    text.into()
}

/// The configured network that an address is in: the longest prefix.
fn prefix(way: &Way<'_>, address: IpAddr) -> Option<IpNet> {
    let networks = way.context.config.networks().into_iter();
    let holding = networks.filter(|(net, network)| network.zone != ZONE_GATEWAY && net.contains(&address));
    holding.map(|(net, _)| net).max_by_key(IpNet::prefix_len)
}

fn translated(nat: &Translated) -> String {
    let to = nat.port.map_or_else(|| nat.address.to_string(), |port| socket(nat.address, port));
    format!("{to} by {}", nat.table)
}

fn socket(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}
