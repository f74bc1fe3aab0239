//! What the gateway is doing, as one value: the API sends it, the command prints it, the metrics are made from it.
//!
//! One source for all three, so that a table, `--json` and Prometheus can never disagree. Field names are part of the
//! interface: they change only with the major version.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::evidence::Counters;

/// Everything `sekisho status` shows.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Status {
    /// The gateway's name.
    pub gateway: String,
    /// Version of the daemon.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Seconds since it was started.
    pub uptime_s: u64,
    /// Which data path carries ESP, and why that one.
    pub datapath: Datapath,
    /// The ports, VPN ports included.
    pub ports: Vec<PortStatus>,
    /// The configured connections.
    pub connections: Vec<ConnectionStatus>,
    /// Packets refused by the filter, by reason, all ports together. Reasons that never occurred are left out.
    pub drops: BTreeMap<String, Count>,
    /// The policies, first match first.
    #[serde(default)]
    pub policies: Vec<PolicyStatus>,
    /// Pools of virtual addresses.
    #[serde(default)]
    pub pools: Vec<PoolStatus>,
    /// Address sets with a name.
    #[serde(default)]
    pub sets: Vec<SetStatus>,
    /// Flows.
    pub flows: FlowStatus,
    /// What zones have of the flow table.
    #[serde(default)]
    pub zones: Vec<ZoneStatus>,
    /// How much was recorded as evidence, and how much was not.
    pub evidence: Counters,
    /// The IKE engine.
    pub ike: IkeEngineStatus,
    /// The user-space ESP engine's own counters; empty where the kernel carries ESP.
    pub engine: BTreeMap<String, u64>,
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// One policy.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct PolicyStatus {
    /// Its name in the configuration.
    pub name: String,
    /// The number in the maps.
    pub id: u16,
    /// Line of the configuration in which it begins.
    pub line: usize,
    /// `allow` or `deny`.
    pub action: String,
    /// Whether its schedule, if it has one, has it in force now.
    pub in_force: bool,
    /// Packets of the flows it has opened, or packets it has refused.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Flows it has opened.
    pub flows: u64,
}

/// One pool of virtual addresses.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct PoolStatus {
    /// Its name in the configuration.
    pub name: String,
    /// How many addresses it has; a pool of IPv6 may have more than the largest number here, which then stands for them.
    pub size: u64,
    /// How many of them peers have now.
    pub used: u64,
    /// How often a peer asked when none was left.
    pub exhausted: u64,
    /// Who has which, by address.
    pub leases: Vec<LeaseStatus>,
}

/// A virtual address that a peer has.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct LeaseStatus {
    /// The address.
    pub address: String,
    /// The identity that the peer has proved.
    pub peer: String,
    /// Its connection.
    pub connection: String,
}

/// One address set.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct SetStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Prefixes in it; a range is several.
    pub prefixes: usize,
}

/// The ESP data path in use.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Datapath {
    /// `kernel` or `engine`.
    pub kind: String,
    /// The reason for the choice.
    pub why: String,
    /// The user-space engine's workers; none where it does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<WorkersStatus>,
    /// What NICs do of it; nothing where they are not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offload: Option<Offload>,
}

/// Threads that carry ESP.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct WorkersStatus {
    /// How many.
    pub count: u32,
    /// Why so many.
    pub why: String,
}

/// What NICs do of the kernel's ESP.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Offload {
    /// `crypto` or `packet`.
    pub asked_for: String,
    /// SAs that NICs have taken.
    pub in_nics: usize,
    /// SAs that the kernel does the work of.
    pub in_kernel: usize,
    /// Why a NIC has not taken one, the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// One port.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct PortStatus {
    /// Its name in the configuration.
    pub name: String,
    /// The NIC; for a VPN port the engine's device.
    pub interface: String,
    /// Its zone.
    pub zone: String,
    /// The number in the maps.
    pub id: u16,
    /// `native`, `generic`, or `vpn`.
    pub mode: String,
    /// Packets that entered here, by verdict. Verdicts that never occurred are left out.
    pub verdicts: BTreeMap<String, Count>,
    /// Bindings of addresses to MAC addresses; none where the port has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub neighbours: Option<BoundStatus>,
}

/// Bindings of one port.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct BoundStatus {
    /// `learn` or `static`.
    pub mode: String,
    /// Those of the configuration.
    pub fixed: usize,
    /// Those that were learned.
    pub learned: usize,
}

/// State of a configured connection.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum ConnectionState {
    /// No IKE SA, and none is wanted now.
    #[default]
    Down,
    /// No IKE SA; it comes up when traffic or the peer asks for it.
    Waiting,
    /// Under negotiation, or waiting for the next try.
    Connecting,
    /// IKE SA and at least one child SA.
    Up,
    /// IKE SA without a child SA: nothing can be carried.
    Degraded,
}

/// One connection.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct ConnectionStatus {
    /// Its name in the configuration.
    pub name: String,
    /// The zone behind it.
    pub zone: String,
    /// State.
    pub state: ConnectionState,
    /// Our identity.
    pub local_id: String,
    /// The identity the peer must prove.
    pub remote_id: String,
    /// The IKE SA, while there is one.
    pub ike: Option<IkeSaStatus>,
    /// Virtual addresses that the peer has given us.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Name servers that the peer has named with them.
    #[serde(default)]
    pub name_servers: Vec<String>,
    /// The child SAs.
    pub children: Vec<ChildStatus>,
    /// How many of them are for single workers or processors (RFC 9611), and why not more; none where none is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_sas: Option<String>,
    /// How often it came up since the daemon started.
    pub established: u64,
    /// How often its peer was given up as dead.
    pub dead: u64,
    /// How often it was closed for want of packets.
    pub idled: u64,
    /// Seconds since the last packet, while it is up.
    pub quiet_s: Option<u64>,
    /// Seconds until it is tried again.
    pub retry_in_s: Option<u64>,
    /// The last failure, if any: kind and sentence.
    pub last_failure: Option<String>,
}

/// An IKE SA.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct IkeSaStatus {
    /// Our address and port.
    pub local: String,
    /// The peer's.
    pub remote: String,
    /// Initiator's SPI, 16 hexadecimal digits.
    pub spi_i: String,
    /// Responder's SPI.
    pub spi_r: String,
    /// Whether we began it.
    pub initiator: bool,
    /// Algorithms.
    pub suite: String,
    /// Seconds since it, or the last rekey of it, was made.
    pub age_s: u64,
    /// Seconds until the next rekey.
    pub rekey_in_s: u64,
    /// Whether a NAT was found on the way, or UDP is forced.
    pub nat: bool,
}

/// A pair of child SAs.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct ChildStatus {
    /// Its name in the configuration.
    pub name: String,
    /// SPI we receive on, `0x` and 8 hexadecimal digits.
    pub spi_in: String,
    /// SPI we send with.
    pub spi_out: String,
    /// Algorithms.
    pub suite: String,
    /// ESP in UDP 4500.
    pub udp_encapsulation: bool,
    /// Networks on our side.
    pub local: Vec<String>,
    /// The peer's.
    pub remote: Vec<String>,
    /// Seconds since it was made.
    pub age_s: u64,
    /// Seconds until the next rekey.
    pub rekey_in_s: u64,
    /// Received.
    pub inbound: SaCount,
    /// Sent.
    pub outbound: SaCount,
    /// Whether it carries what has no SA of its own, and both ends know that others do (RFC 9611).
    #[serde(default)]
    pub fallback: bool,
    /// The worker or processor that sends with it alone, by its number; none: all do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<u16>,
}

/// Counters of one SA.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct SaCount {
    /// Packets.
    pub packets: u64,
    /// Bytes of the inner packets.
    pub bytes: u64,
    /// Refused: replayed, or older than the window.
    pub replay: u64,
    /// Refused: integrity check.
    pub integrity: u64,
    /// Refused: outside the selectors.
    pub selector: u64,
    /// Refused: malformed.
    pub malformed: u64,
    /// Refused: lifetime or sequence numbers used up.
    pub expired: u64,
    /// Could not be sent.
    pub unsent: u64,
}

/// The flow table.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct FlowStatus {
    /// Flows known.
    pub count: u64,
    /// Capacity.
    pub max: u64,
    /// Whether the table, or a zone's part of it, fills up, so that unanswered flows live shorter.
    #[serde(default)]
    pub pressure: bool,
}

/// One zone's part of the flow table.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct ZoneStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Flows that were opened from it.
    pub flows: u64,
    /// How many there may be.
    pub flows_max: u64,
}

/// The IKE engine as a whole.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct IkeEngineStatus {
    /// Half-open IKE SAs.
    pub half_open: u64,
    /// Strangers that were asked to show first that they receive at their address.
    pub cookies_demanded: u64,
    /// Requests sent again because no answer came.
    pub retransmissions: u64,
    /// Failures by kind; kinds that never occurred are left out.
    pub failures: BTreeMap<String, u64>,
}

impl ChildStatus {
    /// Which one of several with the same name it is.
    fn words(&self) -> String {
        match self.resource {
            Some(number) => format!(" of resource {number}"),
            None if self.fallback => " of all".to_owned(),
            None => String::new(),
        }
    }
}

impl WorkersStatus {
    fn words(&self) -> String {
        let Self { count, why } = self;
        format!("\nworkers {count}: {why}")
    }
}

impl Status {
    /// The table an operator reads.
    pub fn render(&self) -> String {
        let mut out = String::new();
        let Status { gateway, version, pid, uptime_s, datapath, flows, ike, .. } = self;
        let _ = writeln!(
            out,
            "gateway {gateway}  sekishod {version}  pid {pid}  up {}\ndata path {}: {}{}\nflows {} of {}{}",
            duration(*uptime_s),
            datapath.kind,
            datapath.why,
            datapath.workers.as_ref().map(WorkersStatus::words).unwrap_or_default(),
            flows.count,
            flows.max,
            if flows.pressure { ", filling up: unanswered ones live shorter" } else { "" }
        );
        if let Some(Offload { asked_for, in_nics, in_kernel, refused }) = &datapath.offload {
            let why = refused.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
            let _ = writeln!(out, "offload {asked_for}: {in_nics} SAs in NICs, {in_kernel} not{why}");
        }
        let _ = writeln!(out, "\nCONNECTIONS");
        for connection in &self.connections {
            connection.render(&mut out);
        }
        let _ = writeln!(out, "\nPORTS");
        let _ = writeln!(
            out,
            "  {:<10} {:<12} {:<10} {:<8} {:>14} {:>14} {:>14}",
            "port", "interface", "zone", "mode", "forwarded", "to gateway", "refused"
        );
        for port in &self.ports {
            let of = |names: &[&str]| -> u64 {
                names.iter().filter_map(|name| port.verdicts.get(*name)).map(|c| c.packets).sum()
            };
            let accepted = ["forward", "encrypt", "decrypt", "pass", "syn-challenge"];
            let refused: u64 = port
                .verdicts
                .iter()
                .filter(|(name, _)| !accepted.contains(&name.as_str()))
                .map(|(_, c)| c.packets)
                .sum();
            let _ = writeln!(
                out,
                "  {:<10} {:<12} {:<10} {:<8} {:>14} {:>14} {:>14}",
                port.name,
                port.interface,
                port.zone,
                port.mode,
                of(&["forward", "encrypt"]),
                of(&["decrypt", "pass"]),
                refused
            );
        }
        for port in &self.ports {
            if let Some(BoundStatus { mode, fixed, learned }) = &port.neighbours {
                let _ = writeln!(
                    out,
                    "  {:<10} neighbours: {mode}, {fixed} static, {learned} learned",
                    port.name
                );
            }
        }
        if !self.zones.is_empty() {
            let _ = writeln!(out, "\nZONES\n  {:<32} {:>14} {:>14}", "zone", "flows", "at most");
        }
        for ZoneStatus { name, flows, flows_max } in &self.zones {
            let _ = writeln!(out, "  {name:<32} {flows:>14} {flows_max:>14}");
        }
        if !self.policies.is_empty() {
            let _ = writeln!(out, "\nPOLICIES");
            let _ = writeln!(
                out,
                "  {:<32} {:<6} {:>12} {:>14} {:>18}",
                "policy", "", "flows", "packets", "bytes"
            );
        }
        for policy in &self.policies {
            let PolicyStatus { name, action, flows, packets, bytes, in_force, .. } = policy;
            let action = if *in_force { action.as_str() } else { "asleep" };
            let _ = writeln!(out, "  {name:<32} {action:<6} {flows:>12} {packets:>14} {bytes:>18}");
        }
        if !self.pools.is_empty() {
            let _ = writeln!(out, "\nPOOLS");
        }
        for PoolStatus { name, size, used, exhausted, leases } in &self.pools {
            let _ = writeln!(out, "  {name}: {used} of {size} in use, {exhausted} turned away");
            for LeaseStatus { address, peer, connection } in leases {
                let _ = writeln!(out, "    {address:<39} {peer}  ({connection})");
            }
        }
        let _ = writeln!(out, "\nREFUSED BY REASON");
        for (reason, count) in &self.drops {
            let _ = writeln!(out, "  {reason:<24} {:>12} packets {:>14} bytes", count.packets, count.bytes);
        }
        if self.drops.is_empty() {
            let _ = writeln!(out, "  nothing");
        }
        if !ike.failures.is_empty() {
            let _ = writeln!(out, "\nIKE FAILURES");
            for (kind, count) in &ike.failures {
                let _ = writeln!(out, "  {kind:<24} {count:>12}");
            }
        }
        out
    }
}

impl ConnectionStatus {
    fn render(&self, out: &mut String) {
        let state = match self.state {
            ConnectionState::Down => "down",
            ConnectionState::Waiting => "waiting",
            ConnectionState::Connecting => "connecting",
            ConnectionState::Up => "up",
            ConnectionState::Degraded => "degraded",
        };
        let _ = writeln!(out, "  {}: {state}  {} ↔ {}", self.name, self.local_id, self.remote_id);
        if let Some(ike) = &self.ike {
            let _ = writeln!(
                out,
                "    IKE   {} ↔ {}  {}{}  {}_i {}_r  age {}  rekey in {}",
                ike.local,
                ike.remote,
                ike.suite,
                if ike.nat { "  NAT" } else { "" },
                ike.spi_i,
                ike.spi_r,
                duration(ike.age_s),
                duration(ike.rekey_in_s)
            );
        }
        if !self.addresses.is_empty() {
            let servers = if self.name_servers.is_empty() { "none" } else { &self.name_servers.join(", ") };
            let _ = writeln!(out, "    given {}  name servers {servers}", self.addresses.join(", "));
        }
        if let Some(words) = &self.resource_sas {
            let _ = writeln!(out, "    SAs of single resources: {words}");
        }
        for child in &self.children {
            let _ = writeln!(
                out,
                "    ESP   {}{}  {} ↔ {}  {}{}  in {} out {}  age {}  rekey in {}",
                child.name,
                child.words(),
                child.local.join(","),
                child.remote.join(","),
                child.suite,
                if child.udp_encapsulation { "  UDP" } else { "" },
                child.spi_in,
                child.spi_out,
                duration(child.age_s),
                duration(child.rekey_in_s)
            );
            for (direction, count) in [("in", &child.inbound), ("out", &child.outbound)] {
                let refused = count.replay
                    + count.integrity
                    + count.selector
                    + count.malformed
                    + count.expired
                    + count.unsent;
                let _ = writeln!(
                    out,
                    "          {direction:<3} {:>12} packets {:>16} bytes {:>8} refused",
                    count.packets, count.bytes, refused
                );
            }
        }
        if let Some(seconds) = self.retry_in_s {
            let _ = writeln!(out, "    tried again in {}", duration(seconds));
        }
        if self.state != ConnectionState::Up
            && let Some(failure) = &self.last_failure
        {
            let _ = writeln!(out, "    last failure: {failure}");
        }
    }
}

/// Seconds as `1d 2h`, `3h 4m`, `5m 6s`, `7s`: two units are enough for an operator.
fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    if days > 0 {
        format!("{days}d {hours}h")
    } else if hours > 0 {
        format!("{hours}h {minutes}m")
    } else if minutes > 0 {
        format!("{minutes}m {}s", seconds % 60)
    } else {
        format!("{seconds}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units() {
        assert_eq!(duration(7), "7s");
        assert_eq!(duration(306), "5m 6s");
        assert_eq!(duration(3 * 3600 + 240), "3h 4m");
        assert_eq!(duration(86_400 + 7_200 + 59), "1d 2h");
    }

    #[test]
    fn the_table_names_every_connection_port_and_reason() {
        let status = Status {
            gateway: "clinic".into(),
            ports: vec![PortStatus {
                name: "lan1".into(),
                verdicts: BTreeMap::from([("policy".into(), Count { packets: 3, bytes: 180 })]),
                ..PortStatus::default()
            }],
            connections: vec![ConnectionStatus {
                name: "centre".into(),
                last_failure: Some("timeout: no answer".into()),
                ..ConnectionStatus::default()
            }],
            drops: BTreeMap::from([("policy".into(), Count { packets: 3, bytes: 180 })]),
            datapath: Datapath {
                offload: Some(Offload {
                    refused: Some("no such NIC".into()),
                    in_kernel: 2,
                    ..Offload::default()
                }),
                ..Datapath::default()
            },
            pools: vec![PoolStatus {
                name: "clinics".into(),
                size: 254,
                used: 1,
                leases: vec![LeaseStatus {
                    address: "10.9.0.7".into(),
                    peer: "dentist.example".into(),
                    connection: "clinics".into(),
                }],
                ..PoolStatus::default()
            }],
            ..Status::default()
        };
        let table = status.render();
        for expected in [
            "clinic",
            "2 not (no such NIC)",
            "lan1",
            "centre: down",
            "no answer",
            "policy",
            "1 of 254",
            "dentist.example",
        ] {
            assert!(table.contains(expected), "{expected} is missing in:\n{table}");
        }
    }

    #[test]
    fn json_round_trip() {
        let status = Status { gateway: "centre".into(), ..Status::default() };
        let json = serde_json::to_string(&status).expect("serialises");
        assert_eq!(serde_json::from_str::<Status>(&json).expect("parses"), status);
    }
}
