//! Bindings of addresses to MAC addresses, for operators.

use std::net::IpAddr;

use sekisho_abi::neighbour::{Neighbour, NeighbourKey};

use super::Daemon;
use crate::config::Neighbours;
use crate::evidence::address;
use crate::filter::{bytes, is_static, monotonic_ns};
use crate::neighbours::{NeighbourStatus, mac_text};
use crate::status::BoundStatus;

impl Daemon {
    pub(super) fn neighbours(&self) -> Vec<NeighbourStatus> {
        let now_ns = monotonic_ns();
        let known = self.ground.maps.neighbours.list();
        known.iter().map(|(key, neighbour)| self.neighbour(key, neighbour, now_ns)).collect()
    }

    fn neighbour(&self, key: &NeighbourKey, neighbour: &Neighbour, now_ns: u64) -> NeighbourStatus {
        let port = self.config.ports.iter().find(|port| port.id == key.port);
        let is_static = is_static(neighbour);
        let silent_s = now_ns.saturating_sub(neighbour.seen_ns) / 1_000_000_000;
        NeighbourStatus {
            port: port.map_or("-", |port| &port.name).to_owned(),
            address: address(key.address),
            mac: mac_text(neighbour.mac),
            kind: if is_static { "static" } else { "learned" }.to_owned(),
            silent_s: (!is_static).then_some(silent_s),
        }
    }

    /// For the status of a port; none where addresses are not bound.
    pub(super) fn bound(&self, port: &crate::config::Port) -> Option<BoundStatus> {
        if port.neighbours == Neighbours::Off {
            return None;
        }
        let known = self.ground.maps.neighbours.list();
        let of_port = || known.iter().filter(|(key, _)| key.port == port.id);
        let fixed = of_port().filter(|(_, neighbour)| is_static(neighbour)).count();
        let mode = port.neighbours.name().to_owned();
        Some(BoundStatus { mode, fixed, learned: of_port().count() - fixed })
    }

    pub(super) fn forget_neighbour(&self, forgotten: IpAddr) -> Result<String, String> {
        match self.ground.maps.neighbours.forget(bytes(forgotten)) {
            Ok(0) => Err(format!(
                "nothing was learned of {forgotten}; `sekisho neighbours` shows what is, and static bindings are \
                 changed in the configuration"
            )),
            Ok(_) => {
                tracing::info!(address = %forgotten, "binding forgotten by an operator");
                Ok(format!("forgot whose {forgotten} is: the next host that uses it has it"))
            }
            Err(error) => Err(error.to_string()),
        }
    }
}
