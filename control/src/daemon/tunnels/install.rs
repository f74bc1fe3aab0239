//! Child SAs come into the data path and the filter, get another path, and leave.

use std::time::{Duration, Instant};

use sekisho_abi::map::Spi;
use sekisho_esp::sa::Outer;
use sekisho_ike::Endpoint;
use sekisho_ike::event::{ChildHandle, ChildSa, CloseReason, IkeHandle, Path};

use super::{Child, Tunnels, pair, word};
use crate::evidence::Record;
use crate::filter::Maps;

/// How long ESP to a former address of ours is let through: longer than packets are under way.
const PATH_LINGER: Duration = Duration::from_secs(5);

impl Tunnels {
    pub(super) fn install(&mut self, now: Instant, sa: ChildSa, endpoint: &mut Endpoint, maps: &mut Maps) {
        let tunnel = self.connections.named(&sa.connection);
        // Of one that is held down the IKE SA is being closed.
        let Some(tunnel) = tunnel.filter(|tunnel| !tunnel.held_down) else {
            let _ = endpoint.child_failed(now, sa.child);
            return;
        };
        let (port, limits) = (tunnel.port, tunnel.life.limits);
        let outer =
            Outer { local: sa.path.local, remote: sa.path.remote, udp_encapsulation: sa.udp_encapsulation };
        let spi = Spi { port, udp_encapsulated: u8::from(sa.udp_encapsulation), outbound: 0 };
        let result = pair::pair(&sa, port, outer, limits)
            .map_err(|error| error.to_owned())
            // The filter learns the SPI first: once the outbound SA is in use the peer answers with its own new one, and
            // may do so before the next line here runs.
            .and_then(|pair| {
                let told = maps.add_spi(outer.local.ip(), sa.spi_in, spi);
                let told = told
                    .and_then(|()| maps.add_spi(outer.remote.ip(), sa.spi_out, Spi { outbound: 1, ..spi }));
                told.map(|()| pair).map_err(|e| e.to_string())
            })
            .and_then(|pair| self.table.install(pair, sa.activate_outbound).map_err(|e| e.to_string()));
        match result {
            Ok(()) => {
                tracing::info!(
                    connection = &*sa.connection,
                    child = &*sa.name,
                    spi_in = format!("{:#010x}", sa.spi_in),
                    spi_out = format!("{:#010x}", sa.spi_out),
                    suite = %sa.suite,
                    udp = sa.udp_encapsulation,
                    resource = sa.binding.resource(),
                    rekey = sa.replaces.is_some(),
                    "child SA installed"
                );
                self.evidence.record(Record::ChildUp {
                    connection: sa.connection.to_string(),
                    child: sa.name.to_string(),
                    spi_in: format!("{:#010x}", sa.spi_in),
                    spi_out: format!("{:#010x}", sa.spi_out),
                    suite: sa.suite.to_string(),
                });
                self.new_peers.push((outer.remote.ip(), outer.local.ip()));
                self.leaving.stays((outer.local.ip(), sa.spi_in));
                self.leaving.stays((outer.remote.ip(), sa.spi_out));
                let (connection, ike) = (sa.connection, sa.ike);
                let (spi_in, spi_out) = (sa.spi_in, sa.spi_out);
                let child = Child { connection, port, ike, spi_in, spi_out, outer, seen: (0, 0) };
                self.children.insert(sa.child, child);
            }
            Err(error) => {
                tracing::error!(
                    connection = &*sa.connection,
                    child = &*sa.name,
                    error,
                    "child SA not installed"
                );
                // Peers choose their SPIs without each other: another SA of the same address may have this one.
                if !self.children.have((outer.local.ip(), sa.spi_in)) {
                    let _ = self.table.remove(sa.spi_in, Duration::ZERO);
                }
                for (address, spi) in [(outer.local.ip(), sa.spi_in), (outer.remote.ip(), sa.spi_out)] {
                    if !self.children.have((address, spi)) {
                        let _ = maps.remove_spi(address, spi);
                    }
                }
                let _ = endpoint.child_failed(now, sa.child);
            }
        }
    }

    /// From now on its outbound SA is the one in use; where that cannot be, a new pair is needed.
    pub(super) fn activate(&self, now: Instant, handle: ChildHandle, endpoint: &mut Endpoint) {
        if let Some(spi_in) = self.children.get(handle).map(|child| child.spi_in)
            && let Err(error) = self.table.activate(spi_in)
        {
            tracing::error!(%error, spi_in = format!("{spi_in:#010x}"), "outbound SA not activated: rekeying");
            let _ = endpoint.rekey_child(now, handle);
        }
    }

    pub(super) fn remove(
        &mut self,
        now: Instant,
        handle: ChildHandle,
        linger: Duration,
        reason: CloseReason,
    ) {
        let Some(child) = self.children.take(handle) else { return };
        let name = &*child.connection;
        let spi_in = format!("{:#010x}", child.spi_in);
        tracing::info!(connection = name, spi_in, reason = ?reason, "child SA removed");
        let down =
            Record::ChildDown { connection: name.to_string(), spi_in: spi_in.clone(), reason: word(reason) };
        self.evidence.record(down);
        if let Err(error) = self.table.remove(child.spi_in, linger) {
            tracing::error!(%error, spi_in, "child SA could not be removed from the data path");
        }
        self.leaving.put(now + linger, (child.outer.local.ip(), child.spi_in));
        self.leaving.put(now + linger, (child.outer.remote.ip(), child.spi_out));
    }

    /// One of both has moved: ESP follows IKE. What is on its way to our former address is still received for a while.
    pub(super) fn repath(
        &mut self,
        now: Instant,
        ike: IkeHandle,
        path: Path,
        udp_encapsulation: bool,
        maps: &mut Maps,
    ) {
        self.new_peers.push((path.remote.ip(), path.local.ip()));
        let outer = Outer { local: path.local, remote: path.remote, udp_encapsulation };
        for handle in self.children.of_ike(ike).collect::<Vec<_>>() {
            let Some(former) = self.children.repath(handle, outer) else { continue };
            let Some(child) = self.children.get(handle) else { continue };
            tracing::info!(
                connection = &*child.connection,
                local = %path.local,
                remote = %path.remote,
                udp = udp_encapsulation,
                "child SA has another path"
            );
            let (here, there) = (outer.local.ip(), outer.remote.ip());
            for (former, now_at, number) in
                [(former.local.ip(), here, child.spi_in), (former.remote.ip(), there, child.spi_out)]
            {
                self.leaving.stays((now_at, number));
                if former != now_at {
                    self.leaving.put(now + PATH_LINGER, (former, number));
                }
            }
            let spi = Spi { port: child.port, udp_encapsulated: u8::from(udp_encapsulation), outbound: 0 };
            // The filter knows the address before the peer can use it.
            let told = maps.add_spi(here, child.spi_in, spi);
            let told = told.and_then(|()| maps.add_spi(there, child.spi_out, Spi { outbound: 1, ..spi }));
            let told = told.map_err(|error| error.to_string());
            let told =
                told.and_then(|()| self.table.repath(child.spi_in, outer).map_err(|error| error.to_string()));
            if let Err(error) = told {
                tracing::error!(error, connection = &*child.connection, "ESP does not follow");
            }
        }
    }
}
