//! The kinds of records. Names of kinds and fields are part of the interface: they change only with the major version.

use std::net::{IpAddr, Ipv6Addr};

use sekisho_abi::event::{Event, FlowEnd, TRACED, flow_end};
use sekisho_abi::flow::{Flow, FlowKey, tcp_state};
use sekisho_abi::verdict::Verdict;
use serde::{Deserialize, Serialize};

use super::Names;

/// One thing that happened.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Record {
    /// A packet was refused (sampled).
    Refused(PacketFacts),
    /// The first packet of a flow whose rule is logged (sampled).
    Allowed(PacketFacts),
    /// A packet that a trace asks for. Shown, never kept in files.
    Traced(PacketFacts),
    /// A flow began. Reported by the next sweep, within seconds.
    FlowStart(FlowFacts),
    /// A flow ended, with its final counts.
    FlowEnd(FlowFacts),
    /// Something that looks like an attack.
    Alarm {
        /// `spoof`, `scan`, `neighbour-spoof`, `neighbour-mac`, `neighbour-unbound` or `neighbour-table-full`.
        alarm: String,
        /// Port it came in by.
        port: String,
        /// The address it claimed to be.
        source: IpAddr,
        /// What was seen, in a few words.
        detail: String,
    },
    /// An IKE SA is up.
    IkeUp {
        /// Connection.
        connection: String,
        /// The peer's address and port.
        peer: String,
        /// Who it proved to be.
        remote_id: String,
        /// Algorithms.
        suite: String,
    },
    /// An IKE SA is gone.
    IkeDown {
        /// Connection.
        connection: String,
        /// Why.
        reason: String,
    },
    /// A pair of child SAs is in force.
    ChildUp {
        /// Connection.
        connection: String,
        /// Child.
        child: String,
        /// SPI we receive on.
        spi_in: String,
        /// SPI we send with.
        spi_out: String,
        /// Algorithms.
        suite: String,
    },
    /// A pair of child SAs is gone.
    ChildDown {
        /// Connection.
        connection: String,
        /// SPI we received on.
        spi_in: String,
        /// Why.
        reason: String,
    },
    /// A configuration was put in force, or refused.
    Reload {
        /// Whether it is in force.
        applied: bool,
        /// What changed, or why it was refused.
        detail: String,
    },
    /// An operator's command.
    Command {
        /// As given.
        command: String,
        /// What was answered.
        outcome: String,
    },
    /// The daemon has started.
    Start {
        /// Its version.
        version: String,
    },
    /// The daemon stops in good order.
    Stop,
    /// Records that are missing here, since the last such record.
    Lost {
        /// Events that found no room in the programs' ring buffer.
        ring: u64,
        /// Records that found the recorder's queue full.
        queue: u64,
        /// Records that could not be written.
        unwritten: u64,
    },
    /// A crash had left half a line, which was cut off.
    Recovered {
        /// Its length in bytes.
        bytes: u64,
    },
    /// An old file was removed to make room.
    Pruned {
        /// Its name.
        file: String,
        /// Number of its last record.
        last: u64,
        /// SHA-256 of its last record.
        hash: String,
    },
    /// A signature over everything before.
    Seal {
        /// Ed25519, over the text in `prev`.
        signature: String,
    },
}

/// A packet's addresses and what became of it.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct PacketFacts {
    /// Port it came in by; for what the gateway itself sends, the port it was to leave by.
    pub port: String,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Source port, or ICMP identifier.
    pub source_port: u16,
    /// Destination port; of ICMP the type (high byte) and code.
    pub destination_port: u16,
    /// SPI of ESP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spi: Option<String>,
    /// The verdict's name, as in `sekisho status`.
    pub verdict: String,
    /// The rule that allowed the packet's flow, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

/// A flow.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct FlowFacts {
    /// IP protocol number.
    pub protocol: u8,
    /// The side that opened it.
    pub source: IpAddr,
    /// The other side.
    pub destination: IpAddr,
    /// Its port, or ICMP identifier.
    pub source_port: u16,
    /// Its port; of ICMP the request's type (high byte) and code.
    pub destination_port: u16,
    /// Zone it was opened from.
    pub from_zone: String,
    /// Zone it was opened towards.
    pub to_zone: String,
    /// Port it was opened from; `gateway` for the gateway itself.
    pub from_port: String,
    /// Port it was opened towards.
    pub to_port: String,
    /// The rule that allowed it; its number where that is long gone.
    pub rule: String,
    /// TCP's state as nf_conntrack names it; else `replied` or `unreplied`.
    pub state: String,
    /// Milliseconds since it was opened (of one that has ended: its duration until the last packet).
    pub age_ms: u64,
    /// Milliseconds since its last packet.
    pub idle_ms: u64,
    /// Packets from the side that opened it.
    pub packets: u64,
    /// Their bytes, as frames.
    pub bytes: u64,
    /// Packets of replies.
    pub reply_packets: u64,
    /// Their bytes.
    pub reply_bytes: u64,
    /// Of one that has ended: `expired`, `finished`, `reset`, `replaced`, `refused` or `deleted`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
}

impl PacketFacts {
    /// From what a program has sent. `None` for a verdict that this daemon does not know.
    pub(crate) fn of(event: &Event, names: &Names) -> Option<(Verdict, PacketFacts)> {
        let verdict = Verdict::from_number(event.verdict & !TRACED)?;
        let facts = PacketFacts {
            port: if event.port == 0 { "-".into() } else { names.port(event.port) },
            source: address(event.source),
            destination: address(event.destination),
            protocol: event.protocol,
            source_port: u16::from_be(event.source_port_be),
            destination_port: u16::from_be(event.destination_port_be),
            spi: (event.spi_be != 0).then(|| format!("{:#010x}", u32::from_be(event.spi_be))),
            verdict: verdict.name().to_owned(),
            rule: None,
        };
        Some((verdict, facts))
    }
}

impl FlowFacts {
    /// From the table's entry, at the time `now_ns` of CLOCK_MONOTONIC.
    pub fn of(key: &FlowKey, flow: &Flow, names: &Names, now_ns: u64) -> FlowFacts {
        let low = (address(key.low), u16::from_be(key.low_port_be));
        let high = (address(key.high), u16::from_be(key.high_port_be));
        let ((source, source_port), (destination, destination_port)) =
            if flow.opener_is_low != 0 { (low, high) } else { (high, low) };
        FlowFacts {
            protocol: key.protocol,
            source,
            destination,
            source_port,
            destination_port,
            from_zone: names.zone(flow.zone_from),
            to_zone: names.zone(flow.zone_to),
            from_port: names.port(flow.port_from),
            to_port: names.port(flow.port_to),
            rule: names.rule(flow.rule),
            state: state(flow).to_owned(),
            age_ms: now_ns.saturating_sub(flow.created_ns) / 1_000_000,
            idle_ms: now_ns.saturating_sub(flow.last_seen_ns) / 1_000_000,
            packets: flow.original.packets,
            bytes: flow.original.bytes,
            reply_packets: flow.reply.packets,
            reply_bytes: flow.reply.bytes,
            end: None,
        }
    }

    /// As the record of its end.
    pub fn ended(mut self, why: &str) -> Record {
        self.age_ms = self.age_ms.saturating_sub(self.idle_ms);
        self.end = Some(why.to_owned());
        Record::FlowEnd(self)
    }
}

/// Why a program ended a flow.
pub(super) fn why(end: &FlowEnd) -> &'static str {
    match end.why {
        flow_end::REPLACED => "replaced",
        _ => "refused",
    }
}

fn state(flow: &Flow) -> &'static str {
    match flow.tcp_state {
        tcp_state::SYN_SENT => "syn-sent",
        tcp_state::SYN_RECV => "syn-recv",
        tcp_state::ESTABLISHED => "established",
        tcp_state::FIN_WAIT => "fin-wait",
        tcp_state::TIME_WAIT => "time-wait",
        tcp_state::CLOSE => "close",
        _ if flow.replied != 0 => "replied",
        _ => "unreplied",
    }
}

/// An address as an operator writes it.
pub(crate) fn address(bytes: [u8; 16]) -> IpAddr {
    let v6 = Ipv6Addr::from(bytes);
    v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
}
