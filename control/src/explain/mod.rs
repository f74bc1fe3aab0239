//! `sekisho explain`: what becomes of a packet, by which rule, route and translation, and why.
//!
//! The verdict is the programs' own: [`Twin`] runs them with one packet made here (`frame`) against the tables in force,
//! and what they found on the way is put into words (`words`). Nothing is sent, counted or remembered by it. Only what no
//! program knows is this module's: names, lines of the file, and which rules came near (`near`).

mod frame;
mod near;
mod service;
mod words;

use std::collections::BTreeSet;
use std::net::IpAddr;

use sekisho_abi::flow::{Flow, FlowKey, tcp_state};
use sekisho_abi::nat::Translation;
use sekisho_abi::port::{Network, Port, PortKey, ZONE_GATEWAY, engine_mac, network_kind, port_flags};
use sekisho_abi::rule::{action, rule_flags};
use sekisho_abi::verdict::Verdict;
use serde::{Deserialize, Serialize};

use self::frame::{Packet, Segment, flag};
use self::protocol::{ICMP, ICMPV6, TCP, UDP};
use crate::config::{Config, trie_prefix};
use crate::filter::{About, FilterError, Outcome, Twin, flow_key, is_expired, monotonic_ns};

/// IP protocol numbers (IANA).
pub(crate) mod protocol {
    pub(crate) const ICMP: u8 = 1;
    pub(crate) const TCP: u8 = 6;
    pub(crate) const UDP: u8 = 17;
    pub(crate) const ICMPV6: u8 = 58;
}

/// Source ports tried where the asker names none: the dynamic ones (RFC 6335 section 6).
const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;
/// A sender's MAC address: locally administered, and nobody's.
const SENDER_MAC: [u8; 6] = [0x02, 0x5e, 0x51, 0, 0, 1];
/// Type and code of echo requests.
const ECHO: u16 = 8 << 8;
const ECHO_V6: u16 = 128 << 8;

/// A packet of which is asked what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// Port or zone by which it enters; else the one that the source belongs to.
    pub from: Option<String>,
    /// Port or zone to which it should get.
    pub to: Option<String>,
    /// Source address.
    pub source: IpAddr,
    /// Destination address, as the sender knows it.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// TCP, UDP: source port; echo requests: the identifier. Else one that no flow has.
    pub source_port: Option<u16>,
    /// TCP, UDP: destination port.
    pub destination_port: Option<u16>,
    /// As the first packet of a new flow, also where there is one with these ends.
    pub new: bool,
}

/// What becomes of it. Names are those of the configuration in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// It is let through, and gets to where the asker said.
    pub allowed: bool,
    /// The programs' verdict, as `sekisho drops` and `trace` name it.
    pub verdict: String,
    /// Port by which it enters.
    pub from_port: String,
    /// Its zone.
    pub from_zone: String,
    /// Whether a flow is known that it belongs to.
    pub known_flow: bool,
    /// What became of its destination before the rules were asked.
    pub destination_nat: Option<Translated>,
    /// The rule that decided; none where no rule fits, or none was asked.
    pub rule: Option<Decided>,
    /// Where no rule fits: those that nearly do.
    pub near: Vec<Near>,
    /// Port by which it leaves; `gateway` where it ends here; none where the way did not lead so far.
    pub to_port: Option<String>,
    /// Its zone.
    pub to_zone: Option<String>,
    /// MAC address of the next hop, where it is known.
    pub next_hop: Option<String>,
    /// What became of its source on the way out.
    pub source_nat: Option<Translated>,
    /// Where it goes into a tunnel.
    pub tunnel: Option<Tunnel>,
    /// All of it in words, in the order of the way.
    pub sentences: Vec<String>,
}

/// An end that was translated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Translated {
    /// The table that says so, as `[[nat.source]] number 1`.
    pub table: String,
    /// The address it gets.
    pub address: IpAddr,
    /// Its port then, of TCP and UDP; the identifier of an echo request.
    pub port: Option<u16>,
}

/// The rule that decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// Its name.
    pub name: String,
    /// Line of the file, from 1; 0: unknown.
    pub line: usize,
    /// Whether it allows.
    pub allows: bool,
    /// Whether it limits new flows.
    pub limited: bool,
    /// Whether each new flow is reported.
    pub logged: bool,
}

/// A rule that nearly fits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Near {
    /// Its name.
    pub name: String,
    /// Line of the file, from 1.
    pub line: usize,
    /// What is different.
    pub why: String,
}

/// Where the packet goes into a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// The connection whose networks hold it; none: no connection there has a child for such packets, and the engine
    /// refuses it.
    pub connection: Option<String>,
    /// The child.
    pub child: Option<String>,
    /// Whether it is up.
    pub up: bool,
}

/// What of the daemon's state an answer needs.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// In force.
    pub(crate) config: Config,
    /// Policies that schedules have put out of force.
    pub(crate) asleep: BTreeSet<usize>,
    /// Connections that carry something now.
    pub(crate) up: BTreeSet<String>,
}

/// What the rules were asked, or would be.
struct Asked {
    from: u16,
    to: u16,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    source_port: u16,
    service: u16,
}

/// Answers. The error is a sentence with its remedy.
pub(crate) fn explain(context: &Context, question: &Question) -> Result<Explanation, String> {
    let question = settle(question)?;
    Twin::with(&context.config.gateway.name, |twin| Ok(answer(twin, context, &question)))
        .map_err(|error: FilterError| error.to_string())?
}

/// The question with nothing left out that has a natural answer.
fn settle(question: &Question) -> Result<Question, String> {
    let mut question = question.clone();
    if question.source.is_ipv4() != question.destination.is_ipv4() {
        return Err("source and destination are of different IP versions: ask with two of one".into());
    }
    match (question.protocol, question.source) {
        (ICMP, IpAddr::V6(_)) => question.protocol = ICMPV6,
        (ICMPV6, IpAddr::V4(_)) => question.protocol = ICMP,
        _ => {}
    }
    match question.protocol {
        TCP | UDP => {
            if question.destination_port.is_none() {
                return Err("TCP and UDP ask for a destination port: add --dport".into());
            }
        }
        ICMP | ICMPV6 => {
            if question.destination_port.is_some() {
                return Err("ICMP has no ports: leave --dport out; it is asked about an echo request".into());
            }
        }
        _ if question.destination_port.or(question.source_port).is_some() => {
            return Err("only TCP and UDP have ports: leave --sport and --dport out".into());
        }
        _ => {}
    }
    Ok(question)
}

fn answer(twin: &mut Twin, context: &Context, question: &Question) -> Result<Explanation, String> {
    let in_force = twin.config().map_err(|error| error.to_string())?;
    let (key, port) = entry(twin, &context.config, question)?;
    let service = match question.protocol {
        ICMP => ECHO,
        ICMPV6 => ECHO_V6,
        _ => question.destination_port.unwrap_or(0),
    };
    let ends = |source_port| {
        flow_key(question.protocol, [(question.source, source_port), (question.destination, service)])
    };
    let source_port = match (question.source_port, question.protocol) {
        (Some(named), _) => named,
        (None, TCP | UDP | ICMP | ICMPV6) => SOURCE_PORTS
            .rev()
            .find(|port| twin.known(&ends(*port)).is_none())
            .ok_or("every dynamic source port has a flow: name one with --sport")?,
        _ => 0,
    };
    let ends = ends(source_port);
    let there = twin.known(&ends);
    let known =
        there.filter(|(_, flow)| !question.new && !is_expired(flow, &in_force.lifetimes, monotonic_ns()));
    // Whether the packet goes as the flow's opener's do.
    let original = known.is_none_or(|(key, flow)| {
        key == ends && (flow.opener_is_low != 0) == (ends.low == trie_prefix(question.source.into()).1)
    });
    let is_vpn = port.flags & port_flags::VPN != 0;
    let packet = Packet {
        macs: match is_vpn {
            true => (in_force.engine_mac, engine_mac(port.id)),
            false => (port.mac, SENDER_MAC),
        },
        vlan: if is_vpn { 0 } else { key.vlan },
        source: question.source,
        destination: question.destination,
        protocol: question.protocol,
        source_port,
        destination_port: service,
        segment: segment(known.map(|(_, flow)| flow), original),
    };
    let about = About {
        port: port.id,
        ends,
        known: known.map(|(key, _)| key),
        forgotten: there.filter(|_| question.new).map(|(key, _)| key),
    };
    let outcome = twin.judge(key.ifindex, &packet.frame(), &about).map_err(|error| error.to_string())?;
    let destination = match outcome.findings.asked.generation {
        0 => question.destination,
        _ if original => address(outcome.findings.asked.destination),
        _ => question.destination,
    };
    let way = Way {
        context,
        question,
        source_port,
        service,
        port: &port,
        known: known.is_some(),
        original,
        owner: twin.network(question.source),
        target: twin.network(destination),
        ports: twin.ports().into_iter().map(|(_, port)| port).collect(),
        outcome: &outcome,
    };
    Ok(way.explain())
}

/// Everything there is to tell from.
struct Way<'a> {
    context: &'a Context,
    question: &'a Question,
    source_port: u16,
    /// Destination port; type and code of ICMP.
    service: u16,
    /// By which it enters.
    port: &'a Port,
    known: bool,
    /// It goes as the flow's opener's packets do.
    original: bool,
    /// Whose the source is.
    owner: Option<Network>,
    /// Whose the real destination is.
    target: Option<Network>,
    ports: Vec<Port>,
    outcome: &'a Outcome,
}

impl Way<'_> {
    fn explain(&self) -> Explanation {
        let config = &self.context.config;
        let Outcome { verdict, findings, .. } = self.outcome;
        let exit = self.exit();
        let asked = (findings.asked.generation != 0).then(|| self.asked());
        let rule = self.rule();
        let near = match (&asked, &rule) {
            (Some(asked), None) if *verdict == Verdict::DropPolicy => {
                near::rules(config, &self.context.asleep, asked)
            }
            _ => Vec::new(),
        };
        let tunnel = self.tunnel(exit);
        let reaches =
            self.question.to.as_ref().is_none_or(|to| exit.is_some_and(|id| self.is_called(id, to)));
        let carried = tunnel.as_ref().is_none_or(|tunnel| tunnel.connection.is_some());
        let mut explanation = Explanation {
            allowed: !verdict.is_drop() && reaches && carried,
            verdict: verdict.name().into(),
            from_port: self.port_name(self.port.id),
            from_zone: self.zone_name(self.port.zone),
            known_flow: self.known,
            destination_nat: self.destination_nat(),
            rule,
            near,
            to_port: exit.map(|id| self.port_name(id)),
            to_zone: exit.map(|id| self.zone_name(self.zone_of(id))),
            next_hop: self.next_hop(),
            source_nat: self.source_nat(),
            tunnel,
            sentences: Vec::new(),
        };
        explanation.sentences = words::sentences(self, &explanation, reaches);
        explanation
    }

    /// Port by which it leaves, 0 for the gateway; `None`: it did not come so far.
    fn exit(&self) -> Option<u16> {
        let Outcome { findings, flow, .. } = self.outcome;
        if let (true, Some((_, flow))) = (self.known, flow) {
            return Some(if self.original { flow.port_to } else { flow.port_from });
        }
        let is_own = self.target.is_some_and(|network| network.kind == network_kind::LOCAL);
        match findings.exit {
            0 if is_own && (findings.asked.generation != 0 || !self.outcome.verdict.is_drop()) => Some(0),
            0 => None,
            exit => Some(exit),
        }
    }

    fn asked(&self) -> Asked {
        let asked = &self.outcome.findings.asked;
        Asked {
            from: asked.from,
            to: asked.to,
            source: address(asked.source),
            destination: address(asked.destination),
            protocol: asked.protocol,
            source_port: u16::from_be(asked.source_port_be),
            service: u16::from_be(asked.port_be),
        }
    }

    fn rule(&self) -> Option<Decided> {
        let Outcome { findings, flow, .. } = self.outcome;
        let rule = findings.asked.rule;
        let (id, allows) = match (findings.asked.generation, flow) {
            // A known flow that the rules in force were not asked about: the one that has allowed it.
            (0, Some((_, flow))) if self.known => (flow.rule, true),
            (0, _) => return None,
            _ => (rule.id, rule.action == action::ALLOW),
        };
        let config = &self.context.config;
        let index = config.policies.iter().position(|policy| id != 0 && u32::from(policy.id) == id)?;
        let policy = config.policies.get(index)?;
        Some(Decided {
            name: policy.name.to_string(),
            line: config.policy_lines.get(index).copied().unwrap_or(0),
            allows,
            limited: policy.limit.is_some(),
            logged: rule.flags & rule_flags::LOG != 0,
        })
    }

    fn destination_nat(&self) -> Option<Translated> {
        let Outcome { findings, flow, .. } = self.outcome;
        let question = self.question;
        if let Some((key, flow)) = flow.as_ref().filter(|(_, flow)| flow.translation.is_some()) {
            let Translation { destination, destination_port_be, destination_rule, source_rule, .. } =
                flow.translation;
            return match self.original {
                true if destination_rule != 0 => {
                    Some(self.translated(destination_rule, destination, destination_port_be))
                }
                // A reply comes to the source that its flow was given, and goes to the opener.
                false if source_rule != 0 => {
                    let opener = ends_of(key, flow).0;
                    Some(self.translated(source_rule, opener.0, opener.1))
                }
                _ => None,
            };
        }
        let asked = &findings.asked;
        let changed = asked.generation != 0
            && findings.nat_active == 1
            && findings.destination_rule != 0
            && address(asked.destination) != question.destination;
        let port_changed =
            matches!(question.protocol, TCP | UDP) && u16::from_be(asked.port_be) != self.service;
        (changed || findings.nat_active == 1 && findings.destination_rule != 0 && port_changed)
            .then(|| self.translated(findings.destination_rule, asked.destination, asked.port_be))
    }

    fn source_nat(&self) -> Option<Translated> {
        let (key, flow) = self.outcome.flow.as_ref()?;
        let Translation { source, source_port_be, source_rule, destination_rule, .. } = flow.translation;
        match self.original {
            true if source_rule != 0 => Some(self.translated(source_rule, source, source_port_be)),
            // A reply leaves with the destination that its opener asked for.
            false if destination_rule != 0 => {
                let target = ends_of(key, flow).1;
                Some(self.translated(destination_rule, target.0, target.1))
            }
            _ => None,
        }
    }

    fn translated(&self, table: u16, to: sekisho_abi::Address, port_be: u16) -> Translated {
        let nat = &self.context.config.nat;
        let number = usize::from(table);
        let (sources, destinations) = (nat.sources.len(), nat.destinations.len());
        // As they are numbered for the programs: sources, destinations, maps; then the gateway's own.
        let table = match number {
            _ if number <= sources => format!("[[nat.source]] number {number}"),
            _ if number <= sources + destinations => {
                format!("[[nat.destination]] number {}", number - sources)
            }
            _ if number <= sources + destinations + nat.maps.len() => {
                format!("[[nat.map]] number {}", number - sources - destinations)
            }
            _ => "hairpin of [[nat.destination]]".into(),
        };
        let has_port = matches!(self.question.protocol, TCP | UDP | ICMP | ICMPV6);
        Translated { table, address: address(to), port: has_port.then_some(u16::from_be(port_be)) }
    }

    fn next_hop(&self) -> Option<String> {
        let Outcome { findings, verdict, .. } = self.outcome;
        let is_neighbour = *verdict == Verdict::Forward && findings.hop.ifindex != 0;
        let [a, b, c, d, e, f, ..] = findings.hop.macs;
        is_neighbour.then(|| [a, b, c, d, e, f].map(|byte| format!("{byte:02x}")).join(":"))
    }

    /// The child that carries it, where it goes into a tunnel.
    fn tunnel(&self, exit: Option<u16>) -> Option<Tunnel> {
        let config = &self.context.config;
        let port = config.vpn_ports.iter().find(|port| Some(port.id) == exit)?;
        if self.outcome.verdict.is_drop() {
            return None;
        }
        let source = self.source_nat().map_or(self.question.source, |nat| nat.address);
        let destination = self.destination_nat().map_or(self.question.destination, |nat| nat.address);
        let holds = |nets: &[ipnet::IpNet], address| nets.iter().any(|net| net.contains(&address));
        let mut connections = port.connections.iter().filter_map(|&index| config.connections.get(index));
        let found = connections.find_map(|connection| {
            let child = connection
                .children
                .iter()
                .find(|child| holds(&child.local, source) && holds(&child.remote, destination))?;
            Some((connection.name.to_string(), child.name.to_string()))
        });
        let (connection, child) = found.unzip();
        let up = connection.as_ref().is_some_and(|name| self.context.up.contains(name));
        Some(Tunnel { connection, child, up })
    }

    fn zone_of(&self, port: u16) -> u16 {
        self.ports.iter().find(|known| known.id == port).map_or(ZONE_GATEWAY, |port| port.zone)
    }

    fn zone_name(&self, id: u16) -> String {
        self.context.config.zone_name(id).map_or_else(|| id.to_string(), str::to_owned)
    }

    fn port_name(&self, id: u16) -> String {
        port_name(&self.context.config, id).map_or_else(|| id.to_string(), str::to_owned)
    }

    /// Whether a port, or its zone, has this name.
    fn is_called(&self, port: u16, name: &str) -> bool {
        self.port_name(port) == name || self.zone_name(self.zone_of(port)) == name
    }
}

fn port_name(config: &Config, id: u16) -> Option<&str> {
    let ports = config.ports.iter().map(|port| (port.id, &*port.name));
    let vpn_ports = config.vpn_ports.iter().map(|port| (port.id, &*port.name));
    ports.chain(vpn_ports).chain([(0, "gateway")]).find(|(known, _)| *known == id).map(|(_, name)| name)
}

/// The port by which the packet enters.
fn entry(twin: &Twin, config: &Config, question: &Question) -> Result<(PortKey, Port), String> {
    let ports = twin.ports();
    let by_id = |id: u16| ports.iter().find(|(_, port)| port.id == id).copied();
    let owner = twin.network(question.source);
    let owning = owner.filter(|owner| matches!(owner.kind, network_kind::PORT | network_kind::VPN));
    let uplinks: Vec<_> = ports.iter().filter(|(_, port)| port.flags & port_flags::UPLINK != 0).collect();
    let Some(name) = &question.from else {
        if owner.is_some_and(|owner| owner.kind == network_kind::LOCAL) {
            return Err(format!(
                "{} is the gateway's own address, and what the gateway itself sends comes by no port: name the port of a \
                 forger with --from, or ask about a host's packet",
                question.source
            ));
        }
        return match (owning.and_then(|owner| by_id(owner.port)), &uplinks[..]) {
            (Some(port), _) => Ok(port),
            (None, [only]) => Ok(**only),
            _ => Err(format!("{} belongs to no port: say with --from where it comes in", question.source)),
        };
    };
    let named = |(_, port): &&(PortKey, Port)| port_name(config, port.id) == Some(name.as_str());
    if let Some(port) = ports.iter().find(named) {
        return Ok(*port);
    }
    let Some(zone) = config.zones.iter().find(|zone| *zone.name == **name) else {
        let mut known: Vec<&str> = ports.iter().filter_map(|(_, port)| port_name(config, port.id)).collect();
        known.extend(config.zones.iter().map(|zone| &*zone.name));
        known.sort_unstable();
        known.dedup();
        return Err(format!("there is no port or zone {name:?}; there are {}", known.join(", ")));
    };
    let mut of_zone = ports.iter().filter(|(_, port)| port.zone == zone.id);
    let owned = of_zone.clone().find(|(_, port)| owning.is_some_and(|owner| owner.port == port.id));
    let uplink = of_zone.clone().find(|(_, port)| owner.is_none() && port.flags & port_flags::UPLINK != 0);
    match (owned.or(uplink), of_zone.next(), of_zone.next()) {
        (Some(port), ..) | (None, Some(port), None) => Ok(*port),
        _ => Err(format!(
            "zone {name} has several ports, and {} belongs to none of them: name the port with --from",
            question.source
        )),
    }
}

/// The TCP of the packet: a SYN, or what the flow's side may send next.
fn segment(known: Option<Flow>, original: bool) -> Segment {
    let Some(flow) = known else { return Segment { flags: flag::SYN, sequence: 1, acknowledgment: 0 } };
    let (own, other) = match original {
        true => (flow.original_window, flow.reply_window),
        false => (flow.reply_window, flow.original_window),
    };
    match flow.tcp_state {
        // Its SYN once more.
        tcp_state::SYN_SENT if original => {
            Segment { flags: flag::SYN, sequence: own.end.wrapping_sub(1), acknowledgment: 0 }
        }
        tcp_state::SYN_SENT => {
            Segment { flags: flag::SYN | flag::ACK, sequence: 1, acknowledgment: other.end }
        }
        _ => Segment { flags: flag::ACK, sequence: own.end, acknowledgment: other.end },
    }
}

/// An end of a flow: address, and port in network byte order.
type End = (sekisho_abi::Address, u16);

/// The opener's end of a flow, and the one it asked for.
fn ends_of(key: &FlowKey, flow: &Flow) -> (End, End) {
    let (low, high) = ((key.low, key.low_port_be), (key.high, key.high_port_be));
    if flow.opener_is_low != 0 { (low, high) } else { (high, low) }
}

fn address(bytes: sekisho_abi::Address) -> IpAddr {
    std::net::Ipv6Addr::from(bytes).to_canonical()
}
