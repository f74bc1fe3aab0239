//! `sekisho explain`: what becomes of a packet, by which rule, route and translation, and why.
//!
//! The verdict is the programs' own: [`Twin`] runs them with one packet made here (`frame`) against the tables in force,
//! and what they found on the way is put into words (`way`, `words`). Nothing is sent, counted or remembered by it. Only what no
//! program knows is this module's: names, lines of the file, and which rules came near (`near`).

mod frame;
mod near;
mod service;
mod way;
mod words;

use std::collections::BTreeSet;
use std::net::IpAddr;

use sekisho_abi::flow::{Flow, tcp_state};
use sekisho_abi::port::{Port, PortKey, engine_mac, network_kind, port_flags};
use serde::{Deserialize, Serialize};

use self::frame::{Packet, Segment, flag};
use self::protocol::{ICMP, ICMPV6, TCP, UDP};
use self::way::Way;
use crate::config::{Config, trie_prefix};
use crate::filter::{About, FilterError, Twin, flow_key, is_expired, monotonic_ns};

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
        TCP | UDP if question.destination_port.is_none() => {
            Err("TCP and UDP ask for a destination port: add --dport".into())
        }
        ICMP | ICMPV6 if question.destination_port.is_some() => {
            Err("ICMP has no ports: leave --dport out; it is asked about an echo request".into())
        }
        TCP | UDP | ICMP | ICMPV6 => Ok(question),
        _ if question.destination_port.or(question.source_port).is_some() => {
            Err("only TCP and UDP have ports: leave --sport and --dport out".into())
        }
        _ => Ok(question),
    }
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
            false => (port.mac, twin.bound(port.id, question.source).unwrap_or(SENDER_MAC)),
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

fn port_name(config: &Config, id: u16) -> Option<&str> {
    let ports = config.ports.iter().map(|port| (port.id, &*port.name));
    let vpn_ports = config.vpn_ports.iter().map(|port| (port.id, &*port.name));
    ports.chain(vpn_ports).chain([(0, "gateway")]).find(|(known, _)| *known == id).map(|(_, name)| name)
}

/// The port by which the packet enters.
fn entry(twin: &Twin, config: &Config, question: &Question) -> Result<(PortKey, Port), String> {
    // A VLAN port stands there more than once; what comes out of its own device has no tag.
    let mut ports = twin.ports();
    ports.retain(|(key, port)| key.ifindex == port.ifindex);
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

fn address(bytes: sekisho_abi::Address) -> IpAddr {
    std::net::Ipv6Addr::from(bytes).to_canonical()
}

#[cfg(test)]
mod tests {
    use sekisho_abi::flow::Window;

    use super::*;

    fn question(source: &str, destination: &str, protocol: u8) -> Question {
        Question {
            from: None,
            to: None,
            source: source.parse().expect("an address"),
            destination: destination.parse().expect("an address"),
            protocol,
            source_port: None,
            destination_port: None,
            new: false,
        }
    }

    #[test]
    fn a_question_is_whole_or_says_what_it_lacks() {
        let v4 = |protocol| question("192.168.1.10", "192.168.3.10", protocol);
        let v6 = |protocol| question("fd00:1::10", "fd00:3::10", protocol);
        assert_eq!(settle(&v6(ICMP)).map(|question| question.protocol), Ok(ICMPV6));
        assert_eq!(settle(&v4(ICMPV6)).map(|question| question.protocol), Ok(ICMP));
        assert!(settle(&v4(47)).is_ok());
        for (mistake, remedy) in [
            (v4(TCP), "--dport"),
            (Question { destination_port: Some(1), ..v4(ICMP) }, "--dport"),
            (Question { source_port: Some(1), ..v4(47) }, "--sport"),
            (Question { destination: "fd00:3::10".parse().expect("an address"), ..v4(UDP) }, "IP versions"),
        ] {
            let error = settle(&mistake).expect_err("a mistake");
            assert!(error.contains(remedy), "{error}");
        }
    }

    #[test]
    fn a_segment_of_a_known_flow_is_what_its_side_may_send_next() {
        let window = |end| Window { end, ..Window::default() };
        let flow = |tcp_state| Flow {
            tcp_state,
            original_window: window(100),
            reply_window: window(200),
            ..Flow::default()
        };
        assert_eq!(segment(None, true).flags, flag::SYN);
        let again = segment(Some(flow(tcp_state::SYN_SENT)), true);
        assert_eq!((again.flags, again.sequence), (flag::SYN, 99));
        let answer = segment(Some(flow(tcp_state::SYN_SENT)), false);
        assert_eq!((answer.flags, answer.acknowledgment), (flag::SYN | flag::ACK, 100));
        let next = segment(Some(flow(tcp_state::ESTABLISHED)), false);
        assert_eq!((next.flags, next.sequence, next.acknowledgment), (flag::ACK, 200, 100));
    }
}
