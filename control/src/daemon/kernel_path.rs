//! The kernel's XFRM as the data path: one xfrm interface for each VPN port.
//!
//! What goes into a VPN is routed to its interface, whether or not there is an SA. The interface sends nothing in clear:
//! what finds no SA there is dropped, be the tunnel down or the daemon dead.

use std::collections::BTreeMap;
use std::time::Instant;

use sekisho_abi::port::{Port as FilterPort, PortKey, port_flags};
use sekisho_ike::config::Resources;

use super::bringup::Ground;
use crate::config::{self, Child, Config, Connection, DpdAction, Start, VpnPort};
use crate::kernel::xfrm::Trap;
use crate::kernel::{Kernel, KernelError, Link};

/// The xfrm interface of a VPN port: within the 15 bytes of a name.
pub(super) fn interface_name(port: u16) -> String {
    format!("sekisho-vpn{port}")
}

fn families(kernel: &Kernel) -> impl Iterator<Item = &'static str> + use<> {
    ["ipv4", "ipv6"].into_iter().take(if kernel.has_ipv6() { 2 } else { 1 })
}

/// The switch that has the kernel let in whatever comes by an SA, if one is on for all interfaces (since Linux 5.18 it does so
/// beside an interface's own), and the remedy.
pub(super) fn policies_off(kernel: &Kernel) -> Result<Option<String>, KernelError> {
    for family in families(kernel) {
        let value = kernel.sysctl(&format!("net/{family}/conf/all/disable_policy"))?;
        if value != "0" {
            return Ok(Some(format!(
                "net.{family}.conf.all.disable_policy is {value}, so that the kernel would let in whatever a peer sends; \
                 `sysctl -w net.{family}.conf.all.disable_policy=0`, or write datapath = \"engine\""
            )));
        }
    }
    Ok(None)
}

impl Ground {
    /// One xfrm interface for each VPN port, under the filter before it is up.
    pub(super) async fn make_xfrm_interfaces(&mut self, config: &Config) -> anyhow::Result<()> {
        let mut interfaces = BTreeMap::new();
        // SAs outlive a crash, and their interfaces; the ledger remembers both.
        self.kernel.note_xfrm(&mut self.ledger)?;
        let mtu = self.largest_link();
        for port in &config.vpn_ports {
            let name = interface_name(port.id);
            let link = self.kernel.xfrm_interface(&mut self.ledger, &name, port.id).await?;
            if self.kernel.has_ipv6() {
                for (key, value) in [("disable_ipv6", "0"), ("accept_ra", "0"), ("addr_gen_mode", "1")] {
                    let key = format!("net/ipv6/conf/{name}/{key}");
                    self.kernel.set_sysctl(&mut self.ledger, &key, value)?;
                }
            }
            // What is routed here is for our own policies alone, which the interface asks: another software's policy
            // without an interface id would take the packet before. IPv6 has no such switch; there `egress` refuses it.
            let key = format!("net/ipv4/conf/{name}/disable_xfrm");
            self.kernel.set_sysctl(&mut self.ledger, &key, "1")?;
            self.demand_policies(&name)?;
            self.filter.attach_tunnel(&link)?;
            let link = self.kernel.set_tunnel_up(&link, mtu).await?;
            interfaces.insert(port.id, link);
        }
        self.xfrm_interfaces = interfaces;
        // Whoever makes them puts the ports in force as well.
        self.look_at_policies().map(drop)
    }

    /// The interfaces carry packets as large as the largest of the ports does now: what fits a tunnel say its routes and the
    /// filter.
    pub(super) async fn resize_xfrm_interfaces(&mut self) -> Result<(), KernelError> {
        let mtu = self.largest_link();
        for link in self.xfrm_interfaces.values_mut().filter(|link| link.mtu != mtu) {
            *link = self.kernel.set_tunnel_up(link, mtu).await?;
        }
        Ok(())
    }

    fn largest_link(&self) -> u16 {
        self.links.iter().map(|link| link.mtu).max().unwrap_or(1500)
    }

    /// What comes out of an interface is held against policies: without them whoever has one SA speaks for every network.
    /// An interface's own switch turns that off.
    fn demand_policies(&mut self, name: &str) -> Result<(), KernelError> {
        for family in families(&self.kernel) {
            let key = format!("net/{family}/conf/{name}/disable_policy");
            self.kernel.set_sysctl(&mut self.ledger, &key, "0")?;
        }
        Ok(())
    }

    /// Looks whether somebody has turned that switch, which is turned back, or the one for all interfaces: that one is not
    /// ours, and while it is on the ports of VPNs carry nothing. Says whether they do otherwise than before.
    pub(super) fn look_at_policies(&mut self) -> anyhow::Result<bool> {
        if self.xfrm.is_none() {
            return Ok(false);
        }
        for name in self.xfrm_interfaces.values().map(|link| link.name.clone()).collect::<Vec<_>>() {
            let is_on = |family| {
                let value = self.kernel.sysctl(&format!("net/{family}/conf/{name}/disable_policy"));
                // An interface that is gone has none, and is made again without.
                value.is_ok_and(|value| value != "0")
            };
            if families(&self.kernel).any(is_on) {
                tracing::warn!(interface = name, "disable_policy was switched on: switched off again");
                self.demand_policies(&name)?;
            }
        }
        let now = policies_off(&self.kernel)?;
        if now == self.policies_off {
            return Ok(false);
        }
        match &now {
            Some(why) => tracing::error!("the VPNs carry nothing: {why}"),
            None => tracing::info!("the kernel asks its policies again: the VPNs go on"),
        }
        self.policies_off = now;
        Ok(true)
    }

    /// Makes xfrm interfaces that somebody has removed, or set down, once more. Says whether there were any. SAs and
    /// policies know their interface by its id, and go on. After an error the same call tries again, in its time.
    pub(super) async fn restore_xfrm_interfaces(&mut self, config: &Config) -> anyhow::Result<bool> {
        if self.xfrm.is_none() {
            return Ok(false);
        }
        let mut lost = Vec::new();
        for link in self.xfrm_interfaces.values() {
            let now = self.kernel.find_link(&link.name).await?;
            if now.is_none_or(|now| now.index != link.index || !now.up) {
                lost.push(link.name.clone());
            }
        }
        if lost.is_empty() && !self.repairs.is_unfinished() {
            return Ok(false);
        }
        let Some(pause) = self.repairs.begin(Instant::now()) else { return Ok(false) };
        tracing::warn!(
            interfaces = ?lost,
            pause_s = pause.as_secs(),
            "xfrm interfaces were removed or set down: made once more; if they are lost again, not before this pause. They \
             must be left to this gateway by network managers"
        );
        self.make_xfrm_interfaces(config).await?;
        self.put_given().await?;
        self.route_into_tunnels(config).await?;
        self.repairs.finish();
        Ok(true)
    }

    /// Has the kernel tell of packets for connections that wait for them, and know whether addresses are translated.
    pub(super) fn configure_xfrm(&self, config: &Config) -> anyhow::Result<()> {
        let Some(table) = &self.xfrm else { return Ok(()) };
        let waits = |connection: &&Connection| {
            connection.start == Start::OnDemand || connection.life.dpd_action == DpdAction::Trap
        };
        let traps = config.connections.iter().filter(waits).flat_map(|connection| {
            let port = config.vpn_port(&connection.name).map(|port| port.id);
            let child = move |child: &Child| {
                Some(Trap { port: port?, local: child.local.clone(), remote: child.remote.clone() })
            };
            connection.children.iter().filter_map(child)
        });
        self.offload(config);
        table.configure(&traps.collect::<Vec<_>>(), config.nat.is_some())?;
        if let Err(error) = table.make_room(pairs(config, table.processors())) {
            // It goes on with what there is, as it would have without.
            tracing::warn!(%error, "the kernel's tables of SAs grow while packets flow");
        }
        Ok(())
    }

    /// Tells XFRM which NICs to ask for help: those of the ports with our addresses.
    pub(super) fn offload(&self, config: &Config) {
        let Some(table) = &self.xfrm else { return };
        let ports = config.ports.iter().zip(&self.links);
        let devices =
            ports.flat_map(|(port, link)| port.addresses.iter().map(|net| (net.addr(), link.index)));
        table.offload((config.gateway.offload == config::Offload::Crypto).then(|| devices.collect()));
    }
}

/// How many pairs of SAs there are when everybody is connected: one for each child of each peer. `processors`: those that may have SAs
/// of their own.
fn pairs(config: &Config, processors: u16) -> usize {
    let resources = Resources { count: processors, most: processors };
    let of = |connection: &Connection| {
        let each = 1 + usize::from(connection.per_resource.wanted(resources));
        connection.children.len().saturating_mul(each).saturating_mul(peers(config, connection))
    };
    config.connections.iter().map(of).fold(0, usize::saturating_add)
}

/// How many peers a connection may have: one, or as many as there are addresses for. Each takes one of each family.
fn peers(config: &Config, connection: &Connection) -> usize {
    let given = [false, true].map(|is_ipv6| {
        let sizes = config.pools_of(connection).map(|pool| pool.size(is_ipv6));
        sizes.fold(0, u128::saturating_add).try_into().unwrap_or(usize::MAX)
    });
    given.into_iter().filter(|size| *size != 0).min().unwrap_or(1)
}

/// The entries of VPN ports in the filter: by their interface, and by their number alone.
pub(super) fn ports(
    config: &Config,
    interfaces: &BTreeMap<u16, Link>,
    mtu: impl Fn(&VpnPort) -> u16,
) -> Vec<(PortKey, FilterPort)> {
    let mut all = Vec::new();
    for port in &config.vpn_ports {
        let Some(link) = interfaces.get(&port.id) else { continue };
        let entry = FilterPort {
            id: port.id,
            zone: port.zone,
            flags: port_flags::VPN | port_flags::KERNEL_SAS,
            mtu: mtu(port),
            ifindex: link.index,
            ..FilterPort::default()
        };
        all.push((PortKey { ifindex: link.index, ..PortKey::default() }, entry));
        all.push((PortKey { ifindex: 0, vlan: port.id, reserved: 0 }, entry));
    }
    all
}

/// What the kernel has dropped around IPsec, all of the namespace together (/proc/net/xfrm_stat).
pub(super) fn statistics() -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string("/proc/net/xfrm_stat").unwrap_or_default();
    read_statistics(&text)
}

fn read_statistics(text: &str) -> BTreeMap<String, u64> {
    let fields = text.lines().filter_map(|line| line.split_once(char::is_whitespace));
    fields.filter_map(|(name, count)| Some((kebab(name), count.trim().parse().ok()?))).collect()
}

/// `XfrmInNoStates` as the other counters are written: `xfrm-in-no-states`.
fn kebab(name: &str) -> String {
    let mut out = String::new();
    for character in name.chars() {
        if character.is_ascii_uppercase() && !out.is_empty() {
            out.push('-');
        }
        out.push(character.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_name_fits() {
        assert!(interface_name(sekisho_abi::map::PORTS_MAX as u16 - 1).len() < libc::IFNAMSIZ);
    }

    #[test]
    fn statistics_are_read_by_name() {
        let read =
            read_statistics("XfrmInError             \t0\nXfrmInNoStates    7\nbroken\nXfrmOutError x\n");
        assert_eq!(
            read.into_iter().collect::<Vec<_>>(),
            [("xfrm-in-error".into(), 0), ("xfrm-in-no-states".into(), 7)]
        );
    }
}
