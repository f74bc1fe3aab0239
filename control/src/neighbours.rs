//! `sekisho neighbours`: which address belongs to which MAC address.

use std::fmt::Write as _;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// One binding.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct NeighbourStatus {
    /// The port's name.
    pub port: String,
    /// The address.
    pub address: IpAddr,
    /// The MAC address, bytes in hexadecimal with colons.
    pub mac: String,
    /// `static` or `learned`.
    pub kind: String,
    /// Since when it was not seen in use, in seconds; none for a static one.
    pub silent_s: Option<u64>,
}

/// A MAC address as operators write it.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// As an operator reads them.
pub fn render(neighbours: &[NeighbourStatus]) -> String {
    if neighbours.is_empty() {
        return "no bindings: ports have them with `neighbours = \"learn\"` or \"static\"".into();
    }
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{:<12} {:<40} {:<18} {:<8} {:>10}",
        "port", "address", "MAC address", "kind", "silent"
    );
    for NeighbourStatus { port, address, mac, kind, silent_s } in neighbours {
        let silent = silent_s.map(|seconds| format!("{seconds} s")).unwrap_or_default();
        let line = format!("{port:<12} {:<40} {mac:<18} {kind:<8} {silent:>10}", address.to_string());
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each() {
        let one = NeighbourStatus {
            port: "lan1".into(),
            address: "192.168.1.10".parse().expect("an address"),
            mac: mac_text([0x52, 0x54, 0, 0x12, 0x34, 0xab]),
            kind: "learned".into(),
            silent_s: Some(7),
        };
        let text = render(&[one.clone(), NeighbourStatus { kind: "static".into(), silent_s: None, ..one }]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].contains("52:54:00:12:34:ab") && lines[1].ends_with("7 s"), "{text}");
        assert!(lines[2].ends_with("static"), "{text}");
        assert!(render(&[]).starts_with("no bindings"));
    }
}
