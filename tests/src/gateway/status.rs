//! `sekisho status --json`, read as any other program would read it.

use anyhow::{Context, Result};
use serde_json::Value;

/// One answer.
#[derive(Clone, Debug)]
pub struct Status(Value);

/// One connection of an answer.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a>(&'a Value);

impl Status {
    /// Reads what the command printed.
    pub fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).map(Self).context("`sekisho status --json` did not print JSON")
    }

    /// The daemon's pid.
    pub fn pid(&self) -> u64 {
        number(&self.0, "/pid")
    }

    /// `kernel` or `engine`, and why.
    pub fn datapath(&self) -> (&str, &str) {
        (text(&self.0, "/datapath/kind"), text(&self.0, "/datapath/why"))
    }

    /// The engine's workers, and why so many; `None` where it does not run.
    pub fn workers(&self) -> Option<(u64, &str)> {
        let workers = self.0.pointer("/datapath/workers")?;
        Some((number(workers, "/count"), text(workers, "/why")))
    }

    /// A counter of the engine.
    pub fn engine(&self, counter: &str) -> u64 {
        number(&self.0, &format!("/engine/{counter}"))
    }

    /// SAs that NICs have taken, SAs that they have not, and why.
    pub fn offload(&self) -> (u64, u64, &str) {
        let of = |key| number(&self.0, &format!("/datapath/offload/{key}"));
        (of("in_nics"), of("in_kernel"), text(&self.0, "/datapath/offload/refused"))
    }

    /// Packets refused for a reason, all ports together.
    pub fn drops(&self, reason: &str) -> u64 {
        number(&self.0, &format!("/drops/{reason}/packets"))
    }

    /// Packets that entered by a port and got a verdict.
    pub fn verdict(&self, port: &str, verdict: &str) -> u64 {
        let ports = self.0.pointer("/ports").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        ports
            .iter()
            .filter(|status| text(status, "/name") == port)
            .map(|status| number(status, &format!("/verdicts/{verdict}/packets")))
            .sum()
    }

    /// A counter of the ESP data path, by the name that status gives it.
    pub fn esp_counter(&self, name: &str) -> u64 {
        number(&self.0, &format!("/engine/{name}"))
    }

    /// Flows known.
    pub fn flows(&self) -> u64 {
        number(&self.0, "/flows/count")
    }

    /// Whether the flow table, or a zone's part of it, fills up.
    pub fn is_under_pressure(&self) -> bool {
        self.0.pointer("/flows/pressure").and_then(Value::as_bool).unwrap_or_default()
    }

    /// Flows that were opened from a zone.
    pub fn zone_flows(&self, zone: &str) -> u64 {
        let zones = self.0.pointer("/zones").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        zones
            .iter()
            .filter(|status| text(status, "/name") == zone)
            .map(|status| number(status, "/flows"))
            .sum()
    }

    /// Failures of the IKE engine of one kind.
    pub fn ike_failures(&self, kind: &str) -> u64 {
        number(&self.0, &format!("/ike/failures/{kind}"))
    }

    /// Connections that are up.
    pub fn connections_up(&self) -> usize {
        let all =
            self.0.pointer("/connections").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        all.iter().filter(|connection| text(connection, "/state") == "up").count()
    }

    /// IKE SAs whose peer has not authenticated.
    pub fn half_open(&self) -> u64 {
        number(&self.0, "/ike/half_open")
    }

    /// Strangers that were asked for a cookie.
    pub fn cookies_demanded(&self) -> u64 {
        number(&self.0, "/ike/cookies_demanded")
    }

    /// Of a pool: addresses it has, and how many are in use, and how often none was left.
    pub fn pool(&self, name: &str) -> (u64, u64, u64) {
        let pools = self.0.pointer("/pools").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let pool = pools.iter().find(|pool| text(pool, "/name") == name);
        let of = |pointer| pool.map(|pool| number(pool, pointer)).unwrap_or_default();
        (of("/size"), of("/used"), of("/exhausted"))
    }

    /// Who has an address of a pool: the identity.
    pub fn leases(&self) -> Vec<(String, String)> {
        let pools = self.0.pointer("/pools").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let leases =
            pools.iter().filter_map(|pool| pool.pointer("/leases").and_then(Value::as_array)).flatten();
        leases.map(|lease| (text(lease, "/address").to_owned(), text(lease, "/peer").to_owned())).collect()
    }

    /// A connection by its name.
    pub fn connection(&self, name: &str) -> Result<Connection<'_>> {
        self.0
            .pointer("/connections")
            .and_then(Value::as_array)
            .and_then(|all| all.iter().find(|connection| text(connection, "/name") == name))
            .map(Connection)
            .with_context(|| format!("the status knows no connection {name}"))
    }
}

impl Connection<'_> {
    /// `up`, `down`, `waiting`, `connecting`, `degraded`.
    pub fn state(&self) -> &str {
        text(self.0, "/state")
    }

    /// How often the peer was given up as dead, and how often the connection was closed for want of packets.
    pub fn ends(&self) -> (u64, u64) {
        (number(self.0, "/dead"), number(self.0, "/idled"))
    }

    /// The IKE SA's SPIs, initiator's and responder's; empty while there is none.
    pub fn ike_spis(&self) -> (String, String) {
        (text(self.0, "/ike/spi_i").to_owned(), text(self.0, "/ike/spi_r").to_owned())
    }

    /// Outer addresses and ports of the IKE SA, ours and the peer's; empty while there is none.
    pub fn path(&self) -> (String, String) {
        (text(self.0, "/ike/local").to_owned(), text(self.0, "/ike/remote").to_owned())
    }

    /// Algorithms of the IKE SA.
    pub fn ike_suite(&self) -> &str {
        text(self.0, "/ike/suite")
    }

    /// Addresses that the peer has given, and name servers.
    pub fn given(&self) -> (Vec<String>, Vec<String>) {
        let words = |key: &str| -> Vec<String> {
            let all = self.0.pointer(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            all.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        (words("/addresses"), words("/name_servers"))
    }

    /// Inbound SPIs of the child SAs.
    pub fn child_spis(&self) -> Vec<String> {
        self.children().iter().map(|child| text(child, "/spi_in").to_owned()).collect()
    }

    /// Of each child SA: the resource that sends with it (`None`: all), its inbound SPI, and packets received and sent.
    pub fn bound_children(&self) -> Vec<(Option<u64>, String, u64, u64)> {
        let children = self.children().iter().map(|child| {
            let resource = child.pointer("/resource").and_then(Value::as_u64);
            let spi_in = text(child, "/spi_in").to_owned();
            (resource, spi_in, number(child, "/inbound/packets"), number(child, "/outbound/packets"))
        });
        children.collect()
    }

    /// What is said of the SAs for single resources.
    pub fn resource_sas(&self) -> &str {
        text(self.0, "/resource_sas")
    }

    /// Algorithms of the child SAs.
    pub fn child_suites(&self) -> Vec<String> {
        self.children().iter().map(|child| text(child, "/suite").to_owned()).collect()
    }

    /// Whether ESP goes in UDP, for every child SA.
    pub fn udp_encapsulation(&self) -> bool {
        !self.children().is_empty()
            && self
                .children()
                .iter()
                .all(|child| child.pointer("/udp_encapsulation") == Some(&Value::Bool(true)))
    }

    /// Sum of a counter over the child SAs: `inbound/packets`, `inbound/replay`, `outbound/unsent`, …
    pub fn child_sum(&self, counter: &str) -> u64 {
        self.children().iter().map(|child| number(child, &format!("/{counter}"))).sum()
    }

    /// How often it came up since the daemon started.
    pub fn established(&self) -> u64 {
        number(self.0, "/established")
    }

    /// The last failure, kind and sentence.
    pub fn last_failure(&self) -> &str {
        text(self.0, "/last_failure")
    }

    /// State and last failure, for an error message.
    pub fn describe(&self) -> String {
        match self.last_failure() {
            "" => self.state().to_owned(),
            failure => format!("{} ({failure})", self.state()),
        }
    }

    fn children(&self) -> &[Value] {
        self.0.pointer("/children").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    }
}

/// A counter that never moved is left out of the status: it is 0.
fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or_default()
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
