//! TCP by iperf3, the tool by which others tell their figures, between two hosts of the lab.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use sekisho_tests::gateway::settings::BULK;
use sekisho_tests::lab::Lab;
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::lab::process::Process;
use serde_json::Value;

/// The port that the lab's policies allow for bulk.
const PORT: u16 = BULK;
/// Until the server listens.
const START: Duration = Duration::from_secs(5);

/// The listening side, at the lab's server. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    _process: Process,
}

impl Server {
    /// Starts it; returns once it listens.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(lab: &Lab) -> Result<Self> {
        let mut command = Command::new("iperf3");
        command.args(["--server", "--port", &PORT.to_string()]);
        let mut process = Process::start(lab, Place::Server, &mut command, "iperf3")?;
        let listening = format!(":{PORT:04X} ");
        until(START, "iperf3's port", || {
            if let Some(status) = process.ended()? {
                return Ok(Some(Err(anyhow::anyhow!("iperf3 ended with {status}:\n{}", process.log()))));
            }
            // Asking it by a connection would be taken for a client.
            let sockets = [lab.at(Place::Server).proc_net("tcp")?, lab.at(Place::Server).proc_net("tcp6")?];
            Ok(sockets.concat().contains(&listening).then_some(Ok(())))
        })?
        .0?;
        Ok(Self { _process: process })
    }
}

/// What is transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Connections at once.
    pub streams: u32,
    /// From the server to LAN1, in place of the other way.
    pub reverse: bool,
    /// How long; iperf3 knows whole seconds only, and this is rounded up.
    pub time: Duration,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transferred {
    /// Payload of TCP that arrived, bits a second.
    pub bits_per_second: f64,
    /// Segments that were sent again.
    pub retransmits: f64,
}

impl Transfer {
    /// Transfers between LAN1 and the server.
    ///
    /// # Errors
    /// When iperf3 says so.
    pub fn run(self, lab: &Lab) -> Result<Transferred> {
        let seconds = self.time.as_secs_f64().ceil().max(1.0);
        let mut command = Command::new("iperf3");
        command.args([
            "--client",
            &Place::Server.address(Family::V4).to_string(),
            "--port",
            &PORT.to_string(),
        ]);
        command.args(["--time", &format!("{seconds:.0}"), "--parallel", &self.streams.to_string()]);
        command.args(["--connect-timeout", "5000", "--json"]);
        if self.reverse {
            command.arg("--reverse");
        }
        transferred(&lab.at(Place::Lan1).output(&mut command)?)
    }
}

fn transferred(json: &str) -> Result<Transferred> {
    let said: Value = serde_json::from_str(json).context("iperf3 did not print JSON")?;
    let number = |pointer: &str| {
        said.pointer(pointer).and_then(Value::as_f64).with_context(|| {
            let why = said.get("error").and_then(Value::as_str).unwrap_or("and does not say why");
            format!("iperf3 tells no {pointer}: {why}")
        })
    };
    Ok(Transferred {
        bits_per_second: number("/end/sum_received/bits_per_second")?,
        retransmits: number("/end/sum_sent/retransmits")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrived_counts() {
        let json = r#"{"end": {"sum_sent": {"bits_per_second": 2e9, "retransmits": 7},
            "sum_received": {"bits_per_second": 1.5e9}}}"#;
        let transferred = transferred(json).expect("whole");
        assert_eq!(transferred, Transferred { bits_per_second: 1.5e9, retransmits: 7.0 });
        assert!(super::transferred(r#"{"error": "unable to connect"}"#).is_err());
        assert!(super::transferred("no JSON").is_err());
    }
}
