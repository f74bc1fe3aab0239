//! What the data path tells of its SAs.

use std::time::Instant;

use sekisho_esp::sa::SaEvent;
use sekisho_ike::Endpoint;

use super::Tunnels;

impl Tunnels {
    /// Something happened in the data path.
    pub(in crate::daemon) fn handle_sa_event(
        &mut self,
        now: Instant,
        event: SaEvent,
        endpoint: &mut Endpoint,
    ) {
        match event {
            SaEvent::SoftExpired { spi_in } | SaEvent::HardExpired { spi_in } => {
                tracing::info!(spi_in = format!("{spi_in:#010x}"), ?event, "child SA is worn out: rekeying");
                if let Some(child) = self.children.with_spi_in(spi_in) {
                    let _ = endpoint.rekey_child(now, child);
                }
            }
            SaEvent::FirstInbound { spi_in } => {
                if let Some(child) = self.children.with_spi_in(spi_in) {
                    let _ = endpoint.child_first_inbound(now, child);
                }
            }
            SaEvent::Acquire { port, source, destination } => {
                if let Some(mut tunnel) = self.connections.carrying(port, source, destination)
                    && tunnel.trapped
                    && !tunnel.held_down
                    && tunnel.ike.is_none()
                    && tunnel.next_try.is_none()
                {
                    tracing::info!(connection = &*tunnel.name, %source, %destination, "traffic asks for the tunnel");
                    tunnel.wanted = true;
                    tunnel.initiate(now, endpoint, &self.uplinks);
                }
            }
            // The engine knows whether a NAT may do that (RFC 7296 section 2.23).
            SaEvent::Remapped { spi_in, remote } => {
                if let Some(child) = self.children.with_spi_in(spi_in) {
                    let _ = endpoint.child_remapped(now, child, remote);
                }
            }
        }
    }
}
