//! What is not one answer but many: flows, and what happens while somebody watches. One task a client, beside the
//! daemon's loop; a table is walked and written row by row, so that neither its size nor a slow reader matters to
//! anybody else.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use sekisho_abi::trace::Trace;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use crate::config::trie_prefix;
use crate::evidence::{Feed, FlowFacts, Names, Record, Stamped};
use crate::filter::{FlowTable, flow_key, monotonic_ns};

/// Rows under way to a client; one that does not read stops the walk, and nothing else.
const ROWS_UNDER_WAY: usize = 256;
/// Rows of a sorted list where the asker names no number, and at most: they are held while the table is walked.
const SORTED_DEFAULT: usize = 1000;
const SORTED_MAX: usize = 100_000;
/// Longest time that one trace runs.
const TRACE_MAX: Duration = Duration::from_secs(600);

/// A network, or one address, as an operator writes it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String", into = "String")]
pub struct Net(IpNet);

impl FromStr for Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Net, String> {
        let address = || text.parse::<IpAddr>().map(IpNet::from).ok();
        let net = text.parse::<IpNet>().ok().or_else(address);
        net.map(|net| Net(net.trunc()))
            .ok_or_else(|| format!("{text:?} is no address and no network, as 192.168.1.0/24"))
    }
}

impl TryFrom<String> for Net {
    type Error = String;

    fn try_from(text: String) -> Result<Net, String> {
        text.parse()
    }
}

impl From<Net> for String {
    fn from(net: Net) -> String {
        net.0.to_string()
    }
}

/// Which flows. What is not named does not matter.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct FlowFilter {
    /// Zone at either end.
    pub zone: Option<String>,
    /// Network of either end.
    pub address: Option<Net>,
    /// TCP or UDP port at either end.
    pub port: Option<u16>,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// Name of the rule.
    pub rule: Option<String>,
}

/// By what a list is sorted, largest first.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Sort {
    /// Bytes of both directions.
    Bytes,
    /// Packets of both directions.
    Packets,
    /// Time since it was opened.
    Age,
    /// Time since the last packet.
    Idle,
}

/// Which packets to trace. What is not named does not matter; both directions fit.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct TraceFilter {
    /// Port they enter by.
    pub entry: Option<String>,
    /// Network of one end.
    pub address: Option<Net>,
    /// Network of the other end.
    pub peer: Option<Net>,
    /// TCP or UDP port at either end.
    pub port: Option<u16>,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// Only what is refused.
    pub refused: bool,
}

/// What can be asked for that has many answers.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "stream", rename_all = "kebab-case")]
pub enum Wanted {
    /// Flows, each a row.
    Flows {
        /// Which.
        filter: FlowFilter,
        /// Sorted; else in the table's order.
        sort: Option<Sort>,
        /// Rows at most.
        limit: Option<usize>,
        /// Forget them, too: their next packets are judged anew.
        delete: bool,
    },
    /// The last refused packets, and if `follow` those to come.
    Drops {
        /// Go on.
        follow: bool,
    },
    /// Records as they are made, of these kinds; of all but traced ones if none is named.
    Watch {
        /// Kinds.
        kinds: Vec<String>,
    },
    /// Traced packets, for a time.
    Trace {
        /// Which.
        filter: TraceFilter,
        /// How long.
        seconds: u32,
    },
}

impl TraceFilter {
    /// As the programs want it.
    pub(crate) fn resolve(&self, names: &Names, time: Duration) -> Result<Trace, String> {
        let entry = match &self.entry {
            None => 0,
            Some(name) => names.port_id(name).ok_or_else(|| {
                format!("there is no port {name:?}; `sekisho status` lists those there are")
            })?,
        };
        let (network, mask) = self.address.map(masked).unwrap_or_default();
        let (peer_network, peer_mask) = self.peer.map(masked).unwrap_or_default();
        let time = time.min(TRACE_MAX);
        Ok(Trace {
            until_ns: monotonic_ns().saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)),
            network,
            mask,
            peer_network,
            peer_mask,
            port_be: self.port.unwrap_or(0).to_be(),
            entry,
            protocol: self.protocol.unwrap_or(0),
            refused: u8::from(self.refused),
            reserved: [0; 2],
        })
    }
}

fn masked(Net(net): Net) -> ([u8; 16], [u8; 16]) {
    let (bits, network) = trie_prefix(net);
    let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
    (network, mask.to_be_bytes())
}

impl FlowFilter {
    /// Whether it names nothing: every flow fits.
    pub fn is_empty(&self) -> bool {
        *self == FlowFilter::default()
    }

    fn fits(&self, flow: &FlowFacts) -> bool {
        let at_an_end = |Net(net): &Net| [flow.source, flow.destination].iter().any(|end| net.contains(end));
        self.zone.as_ref().is_none_or(|zone| [&flow.from_zone, &flow.to_zone].contains(&zone))
            && self.address.as_ref().is_none_or(at_an_end)
            && self.port.is_none_or(|port| [flow.source_port, flow.destination_port].contains(&port))
            && self.protocol.is_none_or(|protocol| flow.protocol == protocol)
            && self.rule.as_ref().is_none_or(|rule| flow.rule == *rule)
    }
}

impl Sort {
    fn key(self, flow: &FlowFacts) -> u64 {
        match self {
            Sort::Bytes => flow.bytes.saturating_add(flow.reply_bytes),
            Sort::Packets => flow.packets.saturating_add(flow.reply_packets),
            Sort::Age => flow.age_ms,
            Sort::Idle => flow.idle_ms,
        }
    }
}

/// A row on its way, or how many could not be shown since the last one.
pub(crate) enum Item {
    Row(serde_json::Value),
    Missed(u64),
}

/// Begins to walk the flow table; rows arrive until it is done, or the receiver is dropped.
pub(crate) fn flows(
    gateway: Arc<str>,
    feed: Feed,
    filter: FlowFilter,
    order: (Option<Sort>, Option<usize>),
    delete: bool,
) -> mpsc::Receiver<Item> {
    let (rows, receiver) = mpsc::channel(ROWS_UNDER_WAY);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = walk(&gateway, &feed, &filter, order, delete, &rows) {
            tracing::error!(%error, "the flow table cannot be read");
        }
    });
    receiver
}

fn walk(
    gateway: &str,
    feed: &Feed,
    filter: &FlowFilter,
    (sort, limit): (Option<Sort>, Option<usize>),
    delete: bool,
    rows: &mpsc::Sender<Item>,
) -> Result<(), crate::filter::FilterError> {
    let (table, mut remover) = (FlowTable::open(gateway)?, FlowTable::open(gateway)?);
    let names = feed.sink().names();
    let row = |flow: &FlowFacts| {
        serde_json::to_value(flow).is_ok_and(|row| rows.blocking_send(Item::Row(row)).is_ok())
    };
    let limit = limit.unwrap_or(if sort.is_some() { SORTED_DEFAULT } else { usize::MAX });
    let mut sorted: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
    let mut held: Vec<FlowFacts> = Vec::new();
    let mut shown = 0;
    // The iterator goes on from the key before: that one must still be there.
    let mut over = None;
    let end = |remover: &mut FlowTable, over: Option<(sekisho_abi::flow::FlowKey, FlowFacts)>| {
        if let Some((key, facts)) = over
            && remover.remove(&key)
        {
            feed.sink().record(facts.ended("deleted"));
        }
    };
    for (key, flow) in table.iter(sekisho_abi::map::FLOWS_MAX.max(16_777_216) as usize) {
        end(&mut remover, over.take());
        let facts = FlowFacts::of(&key, &flow, &names, monotonic_ns());
        if !filter.fits(&facts) {
            continue;
        }
        if delete {
            over = Some((key, facts.clone()));
        }
        let Some(sort) = sort else {
            if shown >= limit || !row(&facts) {
                break;
            }
            shown += 1;
            continue;
        };
        let rank = sort.key(&facts);
        if sorted.len() < limit.min(SORTED_MAX) {
            sorted.push(Reverse((rank, held.len())));
            held.push(facts);
        } else if let Some(mut least) = sorted.peek_mut()
            && rank > least.0.0
            && let Some(place) = held.get_mut(least.0.1)
        {
            *place = facts;
            *least = Reverse((rank, least.0.1));
        }
    }
    end(&mut remover, over);
    for Reverse((_, index)) in sorted.into_sorted_vec() {
        if held.get(index).is_some_and(|facts| !row(facts)) {
            break;
        }
    }
    Ok(())
}

/// Records from now on (and recent ones first, for refused packets).
pub(crate) fn records(gateway: Arc<str>, feed: &Feed, wanted: &Wanted) -> mpsc::Receiver<Item> {
    let (rows, receiver) = mpsc::channel(ROWS_UNDER_WAY);
    let mut live = feed.watch();
    let (recent, follow) = match wanted {
        Wanted::Drops { follow } => (feed.recent(), *follow),
        _ => (Vec::new(), true),
    };
    let (feed, wanted) = (feed.clone(), wanted.clone());
    tokio::spawn(async move {
        let table = FlowTable::open(&gateway).ok();
        for stamped in recent {
            if !send(&rows, &stamped).await {
                return;
            }
        }
        if !follow {
            return;
        }
        loop {
            let stamped = tokio::select! {
                () = rows.closed() => return,
                stamped = live.recv() => stamped,
            };
            match stamped {
                Ok(stamped) if !fits(&wanted, &stamped.record) => {}
                Ok(stamped) => {
                    let stamped = explained(&stamped, table.as_ref(), &feed.sink().names());
                    if !send(&rows, &stamped).await {
                        return;
                    }
                }
                Err(RecvError::Lagged(missed)) => {
                    if rows.send(Item::Missed(missed)).await.is_err() {
                        return;
                    }
                }
                Err(RecvError::Closed) => return,
            }
        }
    });
    receiver
}

async fn send(rows: &mpsc::Sender<Item>, stamped: &Stamped) -> bool {
    match serde_json::to_value(stamped) {
        Ok(row) => rows.send(Item::Row(row)).await.is_ok(),
        Err(_) => true,
    }
}

fn fits(wanted: &Wanted, record: &Record) -> bool {
    match (wanted, record) {
        (Wanted::Drops { .. }, Record::Refused(_)) | (Wanted::Trace { .. }, Record::Traced(_)) => true,
        (Wanted::Watch { kinds }, Record::Traced(_)) if kinds.is_empty() => false,
        (Wanted::Watch { kinds }, record) => {
            kinds.is_empty() || kinds.iter().any(|kind| *kind == kind_of(record))
        }
        _ => false,
    }
}

/// The name of a record's kind.
pub(crate) fn kind_of(record: &Record) -> String {
    let value = serde_json::to_value(record).unwrap_or_default();
    value.get("kind").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
}

/// A traced packet that was let through, with the rule of its flow.
fn explained(stamped: &Arc<Stamped>, table: Option<&FlowTable>, names: &Names) -> Arc<Stamped> {
    let Record::Traced(packet) = &stamped.record else { return stamped.clone() };
    let ends = [(packet.source, packet.source_port), (packet.destination, packet.destination_port)];
    let flow = table.and_then(|table| table.find(&flow_key(packet.protocol, ends)));
    let Some(flow) = flow else { return stamped.clone() };
    let mut packet = packet.clone();
    packet.rule = Some(names.rule(flow.rule));
    Arc::new(Stamped { time: stamped.time.clone(), record: Record::Traced(packet) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_masked_as_the_programs_compare_it() {
        let (network, mask) = masked("192.168.1.77/24".parse().expect("a network"));
        assert_eq!(network[10..], [0xff, 0xff, 192, 168, 1, 0]);
        assert_eq!(mask[12..], [255, 255, 255, 0]);
        let (network, mask) = masked("::/0".parse().expect("a network"));
        assert_eq!((network, mask), ([0; 16], [0; 16]));
    }

    #[test]
    fn filters_fit_either_end() {
        let flow = FlowFacts {
            protocol: 6,
            source: "192.168.1.7".parse().expect("address"),
            destination: "192.168.3.7".parse().expect("address"),
            source_port: 40_000,
            destination_port: 9100,
            from_zone: "lan1".into(),
            to_zone: "lan3".into(),
            from_port: "lan1".into(),
            to_port: "lan3".into(),
            rule: "print".into(),
            state: "established".into(),
            age_ms: 1,
            idle_ms: 1,
            packets: 1,
            bytes: 1,
            reply_packets: 0,
            reply_bytes: 0,
            end: None,
        };
        let none = FlowFilter::default;
        for (filter, fits) in [
            (none(), true),
            (FlowFilter { zone: Some("lan3".into()), ..none() }, true),
            (FlowFilter { zone: Some("wan".into()), ..none() }, false),
            (FlowFilter { address: "192.168.3.0/24".parse().ok(), ..none() }, true),
            (FlowFilter { address: "192.168.2.0/24".parse().ok(), ..none() }, false),
            (FlowFilter { port: Some(9100), ..none() }, true),
            (FlowFilter { port: Some(80), ..none() }, false),
            (FlowFilter { protocol: Some(17), ..none() }, false),
            (FlowFilter { rule: Some("print".into()), ..none() }, true),
            (FlowFilter { rule: Some("scan".into()), ..none() }, false),
        ] {
            assert_eq!(filter.fits(&flow), fits, "{filter:?}");
        }
    }
}
