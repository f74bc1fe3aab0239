//! The ports as the programs know them.

use std::time::SystemTime;

use sekisho_abi::port::{Port as FilterPort, PortKey, port_flags};

use super::{GONE, Ground};
use crate::config::{Config, Neighbours, Port, VpnPort};
use crate::daemon::{kernel_path, trunk};
use crate::filter::{BoundPort, bytes};
use crate::kernel::Link;

impl Ground {
    /// Every entry of `PORTS`.
    pub(super) fn ports(&self, config: &Config) -> Vec<(PortKey, FilterPort)> {
        let range = |link: &Link| self.sockets.get(&link.index).copied().unwrap_or((0, 0));
        let mut all = Vec::new();
        for ((port, link), trunk) in config.ports.iter().zip(&self.links).zip(&self.trunks) {
            if link.index == GONE {
                continue;
            }
            let (xsk_base, xsk_queues) = range(link);
            let mut flags = match port.neighbours {
                Neighbours::Off => 0,
                Neighbours::Learn => port_flags::BOUND,
                Neighbours::Static => port_flags::BOUND | port_flags::BOUND_STATIC,
            };
            if port.uplink {
                flags |= port_flags::UPLINK;
            }
            if takes_ike(config, port) {
                flags |= port_flags::IKE;
            }
            let entry = FilterPort {
                id: port.id,
                zone: port.zone,
                flags,
                xsk_base,
                xsk_queues,
                mtu: link.mtu,
                mac: link.mac,
                ifindex: link.index,
                nic_ifindex: link.index,
                ..FilterPort::default()
            };
            all.extend(trunk::entries(port, entry, trunk.as_ref()));
        }
        let mtu = |port: &VpnPort| self.tunnel_mtu(config, port);
        if self.policies_off.is_none() {
            all.extend(kernel_path::ports(config, &self.xfrm_interfaces, mtu));
        }
        let Some((inner, engine)) = &self.tunnel else { return all };
        for port in &config.vpn_ports {
            all.push((
                PortKey { ifindex: inner.index, vlan: port.id, reserved: 0 },
                FilterPort {
                    id: port.id,
                    zone: port.zone,
                    flags: port_flags::VPN,
                    mtu: self.tunnel_mtu(config, port),
                    mac: inner.mac,
                    ifindex: inner.index,
                    nic_ifindex: inner.index,
                    ..FilterPort::default()
                },
            ));
        }
        let (xsk_base, xsk_queues) = range(engine);
        all.push((
            PortKey { ifindex: engine.index, ..PortKey::default() },
            FilterPort {
                xsk_base,
                xsk_queues,
                mtu: engine.mtu,
                mac: engine.mac,
                ifindex: engine.index,
                nic_ifindex: engine.index,
                ..FilterPort::default()
            },
        ));
        all
    }

    pub(super) fn put_ports_in_force(&mut self, config: &Config) -> anyhow::Result<()> {
        self.offload(config);
        self.maps.set_ports(&self.ports(config))?;
        // Known flows are held against the ports only when they are judged again.
        self.maps.set_rules(&config.rules(SystemTime::now())?)?;
        Ok(())
    }
}

/// Whether a connection ends on this port, or may come to.
pub(in crate::daemon) fn takes_ike(config: &Config, port: &Port) -> bool {
    port.addresses
        .iter()
        .any(|net| config.connections.iter().any(|connection| connection.local.address == net.addr()))
        || (port.uplink && config.connections.iter().any(|connection| connection.mobike))
}

/// Ports that bind addresses to MAC addresses.
pub(super) fn bound_ports(config: &Config) -> Vec<BoundPort> {
    let bound = config.ports.iter().filter(|port| port.neighbours != Neighbours::Off);
    bound
        .map(|port| BoundPort {
            port: port.id,
            learns: port.neighbours == Neighbours::Learn,
            bindings: port.bindings.iter().map(|binding| (bytes(binding.address), binding.mac)).collect(),
        })
        .collect()
}
