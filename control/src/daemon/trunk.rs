//! Ports that are VLANs of a NIC (IEEE 802.1Q), without the kernel's VLAN driver.
//!
//! For each there is a veth pair. One end, `eth1.10`, is the port to the kernel: it has the addresses, routes, neighbours
//! and the NIC's MAC address. The other, `eth1-10`, is the wire to the NIC: what the kernel sends comes out of it, gets its
//! tag by the program `tag` and goes to the NIC; what the NIC's program leaves to the kernel goes in by it. Packets from
//! port to port never see the pair.

use sekisho_abi::port::{Port as FilterPort, PortKey, TRUNK};

use super::bringup::{GONE, Ground, answer_for, attach_port, interface, takes_ike};
use crate::config::{Config, Port};
use crate::kernel::{Kernel, KernelError, Ledger, Link};

/// What carries a VLAN port.
#[derive(Clone, Debug)]
pub(super) struct Trunk {
    /// Its NIC.
    pub(super) nic: Link,
    /// The end of its veth pair that is not the port.
    pub(super) wire: Link,
}

impl Trunk {
    /// The same as they are now.
    pub(super) async fn again(&self, kernel: &Kernel) -> Result<Trunk, KernelError> {
        Ok(Trunk { nic: kernel.link(&self.nic.name).await?, wire: kernel.link(&self.wire.name).await? })
    }
}

/// The interfaces that have the ports' addresses, made where they have to be, and what carries them.
pub(super) async fn devices(
    config: &Config,
    nics: Vec<Link>,
    kernel: &Kernel,
    ledger: &mut Ledger,
) -> Result<(Vec<Link>, Vec<Option<Trunk>>), KernelError> {
    let (mut links, mut trunks) = (Vec::new(), Vec::new());
    for (port, nic) in config.ports.iter().zip(nics) {
        let (link, trunk) = match port.vlan {
            None => (nic, None),
            Some(_) => {
                let (link, trunk) = device(port, nic, kernel, ledger).await?;
                (link, Some(trunk))
            }
        };
        links.push(link);
        trunks.push(trunk);
    }
    Ok((links, trunks))
}

/// The veth pair of a VLAN port, made or brought up to what its NIC is now.
pub(super) async fn device(
    port: &Port,
    nic: Link,
    kernel: &Kernel,
    ledger: &mut Ledger,
) -> Result<(Link, Trunk), KernelError> {
    let (device, wire) = (port.device(), wire_name(port));
    // The tag is not counted in an MTU: the VLAN carries packets as long as the NIC.
    let (link, wire) = kernel.veth_pair(ledger, &device, &wire, nic.mtu, Some(nic.mac)).await?;
    for end in [&link, &wire] {
        kernel.set_offloads_off(&end.name)?;
    }
    if kernel.has_ipv6() {
        // The wire's end is nobody's: no neighbour discovery out of it.
        kernel.set_sysctl(ledger, &format!("net/ipv6/conf/{}/disable_ipv6", wire.name), "1")?;
    }
    // Routes and uplinks go by the port's carrier, which is whether the other end runs.
    kernel.set_running(&wire, nic.carrier || !nic.up).await?;
    Ok((kernel.link(&link.name).await?, Trunk { nic, wire }))
}

/// `eth1-10` for `eth1.10`.
fn wire_name(port: &Port) -> String {
    port.vlan.map(|vlan| format!("{}-{vlan}", port.interface)).unwrap_or_default()
}

/// Has a trunk's NIC hand over tagged frames as they are.
pub(super) async fn prepare_nic(nic: &Link, kernel: &Kernel, ledger: &mut Ledger) -> Result<(), KernelError> {
    kernel.keep_vlan_tags(ledger, &nic.name)?;
    kernel.take_every_vlan(ledger, &nic.name)?;
    kernel.set_up(ledger, nic).await
}

/// What became of a VLAN port's NIC and of its own device, which is made again if somebody removed it. Says whether anything
/// was new.
pub(super) async fn watch(config: &Config, ground: &mut Ground, position: usize) -> anyhow::Result<bool> {
    let (Some(port), Some(known), Some(Some(trunk))) =
        (config.ports.get(position), ground.links.get(position), ground.trunks.get(position))
    else {
        return Ok(false);
    };
    let look = async |name: &str| match ground.kernel.link(name).await {
        Ok(link) => Ok(Some(link)),
        Err(KernelError::NoInterface(_)) => Ok(None),
        Err(error) => Err(error),
    };
    let (nic, own) = (look(&port.interface).await?, look(&port.device()).await?);
    let name = &*port.name;
    let Some(nic) = nic else {
        if known.index == GONE {
            return Ok(false);
        }
        tracing::error!(
            port = name,
            interface = &*port.interface,
            "interface is gone: the port carries nothing until it is back"
        );
        let gone = Link { index: GONE, ..known.clone() };
        ground.replace_link(position, gone);
        return Ok(true);
    };
    if nic == trunk.nic && own.as_ref() == Some(known) {
        return Ok(false);
    }
    tracing::warn!(port = name, interface = nic.name, up = nic.up, mtu = nic.mtu, "interface changed");
    let (link, trunk) = device(port, nic, &ground.kernel, &mut ground.ledger).await?;
    let mode = attach_port(&link, Some(&trunk), &mut ground.filter)?;
    prepare_nic(&trunk.nic, &ground.kernel, &mut ground.ledger).await?;
    let link = interface(config, port, &link, &ground.kernel, &mut ground.ledger).await?;
    answer_for(config, port, &ground.kernel, &mut ground.ledger).await?;
    let trunk = trunk.again(&ground.kernel).await?;
    let is_other = ground.links.get(position).is_some_and(|known| known.index != link.index);
    ground.replace_link(position, link);
    if let Some(place) = ground.trunks.get_mut(position) {
        *place = Some(trunk);
    }
    ground.modes.insert(port.id, mode.name());
    if is_other && takes_ike(config, port) {
        ground.hand_to_engine(position, true)?;
    }
    Ok(true)
}

/// What stands for a port in `PORTS`. `entry`: as it would be untagged.
pub(super) fn entries(port: &Port, entry: FilterPort, trunk: Option<&Trunk>) -> Vec<(PortKey, FilterPort)> {
    let key = |ifindex, vlan| PortKey { ifindex, vlan, reserved: 0 };
    let (Some(trunk), Some(vlan)) = (trunk, port.vlan) else { return vec![(key(entry.ifindex, 0), entry)] };
    let entry =
        FilterPort { nic_ifindex: trunk.nic.index, handover_ifindex: trunk.wire.index, vlan, ..entry };
    let marker = FilterPort { nic_ifindex: trunk.nic.index, ..FilterPort::default() };
    let entries = [
        (key(trunk.nic.index, vlan), entry),
        (key(entry.ifindex, 0), entry),
        (key(trunk.wire.index, 0), entry),
        (key(trunk.nic.index, TRUNK), marker),
    ];
    entries.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Neighbours;

    fn port(vlan: Option<u16>) -> Port {
        Port {
            id: 4,
            name: "office".into(),
            interface: "eth1".into(),
            vlan,
            zone: 3,
            addresses: Vec::new(),
            networks: Vec::new(),
            uplink: false,
            gateways: Vec::new(),
            neighbours: Neighbours::Off,
            bindings: Vec::new(),
        }
    }

    fn link(name: &str, index: u32) -> Link {
        Link {
            name: name.into(),
            index,
            mac: [2; 6],
            mtu: 1500,
            rx_queues: 1,
            up: true,
            carrier: true,
            xdp: false,
        }
    }

    #[test]
    fn a_vlan_port_is_found_by_its_tag_its_device_and_its_wire() {
        let entry = FilterPort { id: 4, ifindex: 11, nic_ifindex: 11, ..FilterPort::default() };
        let keys = |port: &Port, trunk: Option<&Trunk>| -> Vec<_> {
            let entries = entries(port, entry, trunk);
            entries.iter().map(|(key, port)| (key.ifindex, key.vlan, port.id, port.vlan)).collect()
        };
        assert_eq!(keys(&port(None), None), [(11, 0, 4, 0)]);
        let trunk = Trunk { nic: link("eth1", 7), wire: link("eth1-30", 12) };
        let office = port(Some(30));
        assert_eq!((&*office.device(), wire_name(&office)), ("eth1.30", "eth1-30".to_owned()));
        let found = keys(&office, Some(&trunk));
        assert_eq!(found, [(7, 30, 4, 30), (11, 0, 4, 30), (12, 0, 4, 30), (7, TRUNK, 0, 0)]);
        let (_, entry) = entries(&office, entry, Some(&trunk))[0];
        assert_eq!((entry.ifindex, entry.nic_ifindex, entry.handover_ifindex), (11, 7, 12));
    }
}
