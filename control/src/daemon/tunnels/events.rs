//! What the events of the IKE engine mean for the connections.

use std::time::Instant;

use sekisho_ike::Endpoint;
use sekisho_ike::event::{Event, Failure, FailureKind};

use super::{Tunnels, word};
use crate::evidence::Record;
use crate::filter::Maps;

impl Tunnels {
    pub(super) fn handle_event(
        &mut self,
        now: Instant,
        event: Event,
        endpoint: &mut Endpoint,
        maps: &mut Maps,
    ) {
        match event {
            Event::IkeEstablished(up) => {
                tracing::info!(
                    connection = &*up.connection,
                    peer = %up.path.remote,
                    remote_id = %up.remote_id,
                    suite = up.suite,
                    spi_i = format!("{:016x}", up.spi_i),
                    spi_r = format!("{:016x}", up.spi_r),
                    initiator = up.initiator,
                    nat = up.nat_local || up.nat_remote,
                    "IKE SA established"
                );
                self.evidence.record(Record::IkeUp {
                    connection: up.connection.to_string(),
                    peer: up.path.remote.to_string(),
                    remote_id: up.remote_id.to_string(),
                    suite: up.suite.clone(),
                });
                let Some(mut tunnel) = self.connections.change(&up.connection) else { return };
                if tunnel.held_down {
                    tracing::warn!(
                        connection = &*tunnel.name,
                        "opened by the peer while held closed: closed again; `sekisho up` lifts the hold"
                    );
                    let _ = endpoint.close(now, up.ike);
                    return;
                }
                tunnel.ike = Some(up.ike);
                tunnel.established += 1;
                tunnel.up_since = Some(now);
                tunnel.last_packet = now;
                tunnel.next_try = None;
            }
            Event::IkeRekeyed { connection, spi_i, spi_r, .. } => tracing::info!(
                connection = &*connection,
                spi_i = format!("{spi_i:016x}"),
                spi_r = format!("{spi_r:016x}"),
                "IKE SA rekeyed"
            ),
            Event::IkeClosed { ike, connection, reason } => {
                self.given_changed = true;
                tracing::info!(connection = &*connection, reason = ?reason, "IKE SA closed");
                self.evidence
                    .record(Record::IkeDown { connection: connection.to_string(), reason: word(reason) });
                if let Some(mut tunnel) = self.connections.change(&connection)
                    && tunnel.ike == Some(ike)
                {
                    // Where both ends opened it at once, the other IKE SA goes on alone.
                    match endpoint.established_with(&tunnel.name).find(|other| *other != ike) {
                        Some(other) => tunnel.ike = Some(other),
                        None => tunnel.closed(now, reason),
                    }
                }
            }
            Event::VirtualAddresses { connection, addresses, .. } => {
                self.given_changed = true;
                tracing::info!(
                    connection = &*connection,
                    local = ?addresses.local,
                    remote = ?addresses.remote,
                    dns = ?addresses.dns,
                    "virtual addresses"
                );
            }
            Event::ChildInstall(child) => self.install(now, *child, endpoint, maps),
            Event::ChildActivateOutbound { child } => self.activate(now, child, endpoint),
            Event::ChildRemove { child, linger, reason } => self.remove(now, child, linger, reason),
            Event::PathChanged { ike, path, udp_encapsulation } => {
                self.repath(now, ike, path, udp_encapsulation, maps);
            }
            Event::CrlWanted { url } => self.crls_wanted.push(url),
            Event::Failure(failure) => self.failed(&failure),
        }
    }

    fn failed(&mut self, failure: &Failure) {
        let kind = failure.kind.name();
        let peer = failure.path.remote;
        let connection = failure.connection.as_deref().unwrap_or("-");
        // Anyone can send garbage; what concerns a configured peer is for the operator.
        match failure.kind {
            FailureKind::Malformed | FailureKind::UnknownSpi | FailureKind::Integrity => {
                tracing::warn!(connection, %peer, kind, "{}", failure.detail);
            }
            _ => tracing::error!(connection, %peer, kind, "{}", failure.detail),
        }
        let concerned = failure.connection.as_deref().and_then(|name| self.connections.change(name));
        if let Some(mut tunnel) = concerned {
            tunnel.last_failure = Some(format!("{kind}: {}", failure.detail));
        }
    }
}
