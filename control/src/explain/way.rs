//! From what the programs have found to what is told.

use sekisho_abi::flow::{Flow, FlowKey};
use sekisho_abi::nat::Translation;
use sekisho_abi::port::{Network, Port, ZONE_GATEWAY, network_kind};
use sekisho_abi::rule::{action, rule_flags};
use sekisho_abi::verdict::Verdict;

use super::protocol::{ICMP, ICMPV6, TCP, UDP};
use super::{
    Asked, Context, Decided, Explanation, Question, Translated, Tunnel, address, near, port_name, words,
};
use crate::filter::Outcome;

/// Everything there is to tell from.
pub(super) struct Way<'a> {
    pub(super) context: &'a Context,
    pub(super) question: &'a Question,
    pub(super) source_port: u16,
    /// Destination port; type and code of ICMP.
    pub(super) service: u16,
    /// By which it enters.
    pub(super) port: &'a Port,
    pub(super) known: bool,
    /// It goes as the flow's opener's packets do.
    pub(super) original: bool,
    /// Whose the source is.
    pub(super) owner: Option<Network>,
    /// Whose the real destination is.
    pub(super) target: Option<Network>,
    pub(super) ports: Vec<Port>,
    pub(super) outcome: &'a Outcome,
}

impl Way<'_> {
    pub(super) fn explain(&self) -> Explanation {
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

    pub(super) fn zone_name(&self, id: u16) -> String {
        self.context.config.zone_name(id).map_or_else(|| id.to_string(), str::to_owned)
    }

    pub(super) fn port_name(&self, id: u16) -> String {
        port_name(&self.context.config, id).map_or_else(|| id.to_string(), str::to_owned)
    }

    /// Whether a port, or its zone, has this name.
    fn is_called(&self, port: u16, name: &str) -> bool {
        self.port_name(port) == name || self.zone_name(self.zone_of(port)) == name
    }
}

/// An end of a flow: address, and port in network byte order.
type End = (sekisho_abi::Address, u16);

/// The opener's end of a flow, and the one it asked for.
fn ends_of(key: &FlowKey, flow: &Flow) -> (End, End) {
    let (low, high) = ((key.low, key.low_port_be), (key.high, key.high_port_be));
    if flow.opener_is_low != 0 { (low, high) } else { (high, low) }
}
