//! `sekisho flows`, `drops`, `trace` and `watch`: rows as they come, as a table or as JSON lines.

use std::io::{self, Write as _};
use std::time::Duration;

use clap::Args;

use crate::api::{Answer, Request, ask, ask_for_rows};
use crate::evidence::{FlowFacts, PacketFacts, Record, Stamped};
use crate::feed::{FlowFilter, Net, Sort, TraceFilter, Wanted};

/// Flows that are known.
#[derive(Debug, Args)]
pub struct Flows {
    /// Zone at either end.
    #[arg(long)]
    zone: Option<String>,
    /// Address or network of either end.
    #[arg(long)]
    address: Option<Net>,
    /// TCP or UDP port at either end.
    #[arg(long)]
    port: Option<u16>,
    /// tcp, udp, icmp, icmpv6, or the number of an IP protocol.
    #[arg(long, value_parser = protocol)]
    protocol: Option<u8>,
    /// Name of the rule that allows them.
    #[arg(long)]
    rule: Option<String>,
    /// Largest first; the table's order otherwise.
    #[arg(long, value_enum)]
    sort: Option<Sort>,
    /// Rows at most.
    #[arg(long)]
    limit: Option<usize>,
    /// Forget them: their next packets are judged anew, and TCP is cut.
    #[arg(long)]
    delete: bool,
    /// With `--delete`: every flow, where no filter says which.
    #[arg(long, requires = "delete")]
    all: bool,
    /// A JSON object a line.
    #[arg(long)]
    json: bool,
}

/// Refused packets: totals by port and reason, and the last ones.
#[derive(Debug, Args)]
pub struct Drops {
    /// Go on with those to come.
    #[arg(long, short)]
    follow: bool,
    /// A JSON object a line.
    #[arg(long)]
    json: bool,
}

/// Live: which packet takes which verdict, and by which rule.
#[derive(Debug, Args)]
pub struct Trace {
    /// Port of the gateway that they enter by.
    #[arg(long)]
    from: Option<String>,
    /// Address or network of one end.
    #[arg(long)]
    address: Option<Net>,
    /// Address or network of the other end.
    #[arg(long)]
    peer: Option<Net>,
    /// TCP or UDP port at either end.
    #[arg(long)]
    port: Option<u16>,
    /// tcp, udp, icmp, icmpv6, or the number of an IP protocol.
    #[arg(long, value_parser = protocol)]
    protocol: Option<u8>,
    /// Only what is refused.
    #[arg(long)]
    refused: bool,
    /// For how long, up to 10m.
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    time: Duration,
    /// A JSON object a line.
    #[arg(long)]
    json: bool,
}

/// Live: what happens, as it is recorded.
#[derive(Debug, Args)]
pub struct Watch {
    /// Kinds of records, as flow-end, alarm, ike-up; all if none is named.
    kinds: Vec<String>,
    /// A JSON object a line.
    #[arg(long)]
    json: bool,
}

pub(super) fn protocol(text: &str) -> Result<u8, String> {
    Ok(match text {
        "tcp" => 6,
        "udp" => 17,
        "icmp" => 1,
        "icmpv6" => 58,
        number => {
            number.parse().map_err(|_| "expected tcp, udp, icmp, icmpv6 or a number up to 255".to_owned())?
        }
    })
}

impl Flows {
    /// Does it.
    pub async fn run(self, gateway: &str) -> io::Result<Answer> {
        let Flows { zone, address, port, protocol, rule, sort, limit, delete, all, json } = self;
        let filter = FlowFilter { zone, address, port, protocol, rule };
        if delete && filter.is_empty() && !all {
            return Ok(Answer::Refused { reason: "name which flows to forget, or say --all".into() });
        }
        if !json {
            head(&format!(
                "{:<7} {:<44} {:<44} {:<22} {:<16} {:<12} {:>10} {:>12} {:>10} {:>12} {:>8} {:>6}",
                "proto",
                "from",
                "to",
                "zones",
                "rule",
                "state",
                "packets",
                "bytes",
                "replies",
                "bytes",
                "age",
                "idle"
            ));
        }
        let wanted = Wanted::Flows { filter, sort, limit, delete };
        ask_for_rows(gateway, wanted, |answer| show::<FlowFacts>(json, answer, flow)).await
    }
}

impl Drops {
    /// Does it.
    pub async fn run(self, gateway: &str) -> io::Result<Answer> {
        let json = self.json;
        if !json {
            let Answer::Status { status } = ask(gateway, &Request::Status).await? else {
                return Err(io::Error::other("the daemon is of another version"));
            };
            head(&format!("{:<12} {:<24} {:>12} {:>14}", "port", "reason", "packets", "bytes"));
            for port in &status.ports {
                for (reason, count) in
                    port.verdicts.iter().filter(|(name, _)| status.drops.contains_key(*name))
                {
                    head(&format!(
                        "{:<12} {reason:<24} {:>12} {:>14}",
                        port.name, count.packets, count.bytes
                    ));
                }
            }
            head("\nthe last ones (a sample):");
        }
        let wanted = Wanted::Drops { follow: self.follow };
        ask_for_rows(gateway, wanted, |answer| show::<Stamped>(json, answer, record)).await
    }
}

impl Trace {
    /// Does it.
    pub async fn run(self, gateway: &str) -> io::Result<Answer> {
        let Trace { from, address, peer, port, protocol, refused, time, json } = self;
        let filter = TraceFilter { entry: from, address, peer, port, protocol, refused };
        let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX).max(1);
        let wanted = Wanted::Trace { filter, seconds };
        ask_for_rows(gateway, wanted, |answer| show::<Stamped>(json, answer, record)).await
    }
}

impl Watch {
    /// Does it.
    pub async fn run(self, gateway: &str) -> io::Result<Answer> {
        let json = self.json;
        let wanted = Wanted::Watch { kinds: self.kinds };
        ask_for_rows(gateway, wanted, |answer| show::<Stamped>(json, answer, record)).await
    }
}

/// A line that a reader who has left need not see.
fn head(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Writes one row; whether somebody still reads.
fn show<T: serde::de::DeserializeOwned>(json: bool, answer: Answer, text: impl Fn(&T) -> String) -> bool {
    let line = match answer {
        Answer::Row { row } if json => row.to_string(),
        Answer::Row { row } => match serde_json::from_value::<T>(row.clone()) {
            Ok(row) => text(&row),
            // A daemon of a newer version: better as it is than not at all.
            Err(_) => row.to_string(),
        },
        Answer::Missed { count } if json => serde_json::json!({ "missed": count }).to_string(),
        Answer::Missed { count } => format!("… {count} missed: more than could be shown …"),
        _ => return true,
    };
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).is_ok()
}

fn name(protocol: u8) -> String {
    match protocol {
        1 => "icmp".into(),
        6 => "tcp".into(),
        17 => "udp".into(),
        50 => "esp".into(),
        58 => "icmpv6".into(),
        number => number.to_string(),
    }
}

fn end(address: std::net::IpAddr, protocol: u8, port: u16) -> String {
    match protocol {
        6 | 17 => std::net::SocketAddr::new(address, port).to_string(),
        _ => address.to_string(),
    }
}

fn flow(flow: &FlowFacts) -> String {
    let FlowFacts { protocol, source, destination, source_port, destination_port, .. } = *flow;
    format!(
        "{:<7} {:<44} {:<44} {:<22} {:<16} {:<12} {:>10} {:>12} {:>10} {:>12} {:>8} {:>6}",
        name(protocol),
        end(source, protocol, source_port),
        end(destination, protocol, destination_port),
        format!("{} → {}", flow.from_zone, flow.to_zone),
        flow.rule,
        flow.state,
        flow.packets,
        flow.bytes,
        flow.reply_packets,
        flow.reply_bytes,
        format!("{}s", flow.age_ms / 1000),
        format!("{}s", flow.idle_ms / 1000),
    )
}

fn packet(packet: &PacketFacts) -> String {
    let &PacketFacts { protocol, source, destination, source_port, destination_port, .. } = packet;
    let mut line = format!(
        "{:<8} {:<7} {} → {}  {}",
        packet.port,
        name(protocol),
        end(source, protocol, source_port),
        end(destination, protocol, destination_port),
        packet.verdict
    );
    if let Some(spi) = &packet.spi {
        line += &format!("  spi {spi}");
    }
    if let Some(rule) = &packet.rule {
        line += &format!("  by rule {rule}");
    }
    line
}

fn record(stamped: &Stamped) -> String {
    let what = match &stamped.record {
        Record::Refused(facts) | Record::Allowed(facts) | Record::Traced(facts) => packet(facts),
        Record::FlowStart(facts) => format!("flow-start {}", flow(facts)),
        Record::FlowEnd(facts) => {
            format!("flow-end   {}  {}", flow(facts), facts.end.as_deref().unwrap_or_default())
        }
        other => serde_json::to_string(other).unwrap_or_default(),
    };
    format!("{}  {what}", stamped.time)
}
