//! A NAT at the router, in front of the clinic's gateway: what leaves gets an address and ports of the router's, and the
//! answers find back. It keeps no state, so that its mapping changes when it is told to, and at once, also under load.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::Result;

use super::Lab;
use super::namespace::Namespace;
use super::plan::{Family, Place};

/// IKE, and IKE and ESP in UDP (RFC 3948): what it translates.
const PORTS: [u16; 2] = [500, 4500];
/// Which packets, and what else becomes of them. ESP in UDP may have no checksum (RFC 3948 section 2.1), and nftables would make a
/// wrong one of none; those of IKE it mends.
const CHECKSUMS: [(&str, &str); 2] = [("udp checksum 0", "udp checksum set 0"), ("", "")];
/// The router's table.
const TABLE: &str = "sekisho_nat";

/// Where it maps the gateway to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// An address of the router's on the centre's side, or one that the centre would send there.
    pub address: Ipv4Addr,
    /// In place of port 500; of 4500 the next one.
    pub port: u16,
}

impl Mapping {
    /// What it begins with.
    pub const FIRST: Self = Self { address: Ipv4Addr::new(203, 0, 113, 1), port: 20_000 };

    /// Other ports of the same address.
    pub const fn other_ports(self) -> Self {
        Self { port: self.port + PORTS.len() as u16, ..self }
    }

    /// The same ports of another address.
    pub const fn other_address(self) -> Self {
        let [a, b, c, d] = self.address.octets();
        Self { address: Ipv4Addr::new(a, b, c, d + 4), ..self }
    }
}

/// It, at work. Dropping it takes it away.
#[derive(Debug)]
pub struct Nat {
    router: Namespace,
}

impl Nat {
    /// Starts it.
    pub fn start(lab: &Lab, mapping: Mapping) -> Result<Self> {
        let nat = Self { router: lab.at(Place::Internet) };
        nat.map(mapping)?;
        Ok(nat)
    }

    /// Maps to there from now on: what comes to a former mapping is dropped.
    pub fn map(&self, mapping: Mapping) -> Result<()> {
        self.router.output(Command::new("nft").arg(rules(mapping))).map(drop)
    }
}

impl Drop for Nat {
    fn drop(&mut self) {
        // At the end of a lab that is gone there is nothing to remove.
        let _ = self.router.output(Command::new("nft").args(["delete", "table", "ip", TABLE]));
    }
}

/// All of it in one transaction. What comes for ports that are none of the mapping's is dropped before the router could answer
/// that nobody listens there.
fn rules(Mapping { address, port }: Mapping) -> String {
    let gateway = Place::Clinic.address(Family::V4);
    let (mut inward, mut outward) = (String::new(), String::new());
    for (inside, outside) in PORTS.into_iter().zip(port..) {
        for (which, and) in CHECKSUMS {
            inward += &format!(
                "ip daddr {address} udp dport {outside} {which} udp dport set {inside} ip daddr set {gateway} {and} accept; "
            );
            outward += &format!(
                "ip saddr {gateway} udp sport {inside} {which} udp sport set {outside} ip saddr set {address} {and} accept; "
            );
        }
    }
    format!(
        "table ip {TABLE} {{ }}; delete table ip {TABLE}; table ip {TABLE} {{ \
         chain inward {{ type filter hook prerouting priority raw; iifname != \"centre\" accept; {inward}\
         udp dport {{ 500, 4500, 20000-29999 }} drop; }}; \
         chain outward {{ type filter hook postrouting priority mangle; oifname != \"centre\" accept; {outward}}}; }}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_differ_in_what_they_say() {
        let (first, ports, address) =
            (Mapping::FIRST, Mapping::FIRST.other_ports(), Mapping::FIRST.other_address());
        assert_eq!((ports.address, address.port), (first.address, first.port));
        assert!(ports.port >= first.port + 2 && address.address != first.address);
        let rules = rules(ports);
        for mapped in ["udp dport 20002  udp dport set 500", "udp sport 4500  udp sport set 20003"] {
            assert!(rules.contains(mapped), "{rules}");
        }
    }
}
