//! Ports, the networks behind them, neighbours, and what the engine is known by.

use std::net::IpAddr;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData, XskMap};
use sekisho_abi::Address;
use sekisho_abi::map::{Spi, SpiKey};
use sekisho_abi::neighbour::{Neighbour, NeighbourKey};
use sekisho_abi::port::{Network, Port, PortKey, TRUNK, port_flags};

use super::devices::{colons, run_ip};
use super::{Device, Lab, VLAN10, VPN, VPN_MTU, WITH_SOCKETS, XSK_BASE, address, mac, octets, zone};

impl Lab {
    pub(super) fn add_port(&mut self, device: Device, id: u16, flags: u32) {
        self.add_port_with_mac(device, id, flags, mac(device));
    }

    /// Makes the device a port, whose own MAC address is this one.
    pub fn add_port_with_mac(&mut self, device: Device, id: u16, flags: u32, mac: [u8; 6]) {
        let is_vpn = flags & port_flags::VPN != 0;
        let ifindex = self.ifindex(device);
        let port = Port {
            id,
            zone: zone(id),
            flags,
            xsk_base: u16::try_from(XSK_BASE).expect("small") + id,
            xsk_queues: u16::from(WITH_SOCKETS.contains(&id)),
            mtu: if is_vpn { VPN_MTU } else { 1500 },
            mac,
            ifindex,
            nic_ifindex: ifindex,
            ..Port::default()
        };
        self.insert("PORTS", PortKey { ifindex, vlan: if is_vpn { id } else { 0 }, reserved: 0 }, port);
    }

    /// SAs are the kernel's from now on, and what was the engine's device is the xfrm interface of [`VPN`].
    pub fn use_kernel_sas(&mut self) {
        let ifindex = self.ifindex(Device::Engine);
        self.config.engine_ifindex = 0;
        self.config.engine_mac = [0; 6];
        self.write_config();
        let port = Port {
            id: VPN,
            zone: zone(VPN),
            flags: port_flags::VPN | port_flags::KERNEL_SAS,
            mtu: VPN_MTU,
            ifindex,
            ..Port::default()
        };
        self.insert("PORTS", PortKey { ifindex, vlan: 0, reserved: 0 }, port);
        self.insert("PORTS", PortKey { ifindex: 0, vlan: VPN, reserved: 0 }, port);
    }

    /// A VLAN port of the trunk, where ESP is taken, by the devices of its veth pair.
    pub(super) fn add_vlan_port(&mut self, (device, wire): (Device, Device), id: u16, vlan: u16, flags: u32) {
        let nic_ifindex = self.ifindex(Device::Trunk);
        let (ifindex, handover_ifindex) = (self.ifindex(device), self.ifindex(wire));
        let port = Port {
            id,
            zone: zone(id),
            flags,
            xsk_base: u16::try_from(XSK_BASE).expect("small") + id,
            xsk_queues: 1,
            mtu: 1500,
            mac: mac(device),
            ifindex,
            nic_ifindex,
            handover_ifindex,
            vlan,
            reserved: 0,
        };
        self.set_zone_quota(id, u64::MAX);
        for key in [(nic_ifindex, vlan), (ifindex, 0), (handover_ifindex, 0)] {
            self.insert("PORTS", PortKey { ifindex: key.0, vlan: key.1, reserved: 0 }, port);
        }
        let trunk = PortKey { ifindex: nic_ifindex, vlan: TRUNK, reserved: 0 };
        self.insert("PORTS", trunk, Port::default());
    }

    /// Removes a port, as a reload does.
    pub fn remove_port(&mut self, device: Device) {
        let key = PortKey { ifindex: self.ifindex(device), vlan: 0, reserved: 0 };
        self.remove::<_, Port>("PORTS", key);
    }

    /// A network of a port, or of a kind for itself (port 0).
    pub fn add_network(&mut self, prefix: &str, bits: u32, port: u16, kind: u16) {
        let zone = if port == 0 { 0 } else { zone(port) };
        self.add_network_of(prefix, bits, Network { port, zone, kind, router: 0 });
    }

    /// A network with everything that is known of it.
    pub fn add_network_of(&mut self, prefix: &str, bits: u32, network: Network) {
        let address: IpAddr = prefix.parse().expect("an address");
        let bits = if address.is_ipv4() { bits + 96 } else { bits };
        let mut map: LpmTrie<&mut MapData, Address, Network> =
            self.ebpf.map_mut("NETWORKS").expect("a map").try_into().expect("a trie");
        map.insert(&Key::new(bits, octets(address)), network, 0).expect("room");
        self.changed("NETWORKS");
    }

    /// A router that networks name by this number.
    pub fn set_router(&mut self, number: u32, router: &str) {
        let mut map: Array<&mut MapData, Address> =
            self.ebpf.map_mut("ROUTERS").expect("a map").try_into().expect("an array");
        map.set(number, address(router), 0).expect("an entry");
    }

    /// VLAN 10 binds addresses to MAC addresses as they are used.
    pub fn bind_vlan10(&mut self) {
        self.add_vlan_port((Device::Vlan10, Device::Vlan10Wire), VLAN10, 10, port_flags::BOUND);
    }

    /// Every binding of an address to a MAC address, by port.
    pub fn neighbours(&self) -> Vec<(NeighbourKey, Neighbour)> {
        let map: HashMap<&MapData, NeighbourKey, Neighbour> =
            self.ebpf.map("NEIGHBOURS").expect("a map").try_into().expect("a hash");
        let mut all: Vec<_> = map.iter().map(|entry| entry.expect("an entry")).collect();
        all.sort_by_key(|(key, _)| (key.port, key.address));
        all
    }

    /// So many bindings were learned on a port.
    pub fn set_neighbour_count(&mut self, port: u16, count: u32) {
        let mut map: Array<&mut MapData, u32> =
            self.ebpf.map_mut("NEIGHBOUR_COUNTS").expect("a map").try_into().expect("an array");
        map.set(port.into(), count, 0).expect("an entry");
    }

    /// A neighbour has another MAC address from now on.
    pub fn move_neighbour(&self, address: &str, device: &str, mac: [u8; 6]) {
        run_ip(&format!("neigh replace {address} lladdr {} nud permanent dev {device}\n", colons(mac)));
    }

    /// An SA of the VPN receives under this SPI.
    pub fn add_spi(&mut self, destination: &str, spi: u32, udp_encapsulated: bool) {
        let key = SpiKey { destination: address(destination), spi_be: spi.to_be() };
        self.insert("SPIS", key, Spi { port: VPN, udp_encapsulated: udp_encapsulated.into(), outbound: 0 });
    }

    /// An SA by which ESP is sent to a peer.
    pub fn add_spi_out(&mut self, peer: &str, spi: u32) {
        let key = SpiKey { destination: address(peer), spi_be: spi.to_be() };
        self.insert("SPIS", key, Spi { port: VPN, udp_encapsulated: 0, outbound: 1 });
    }

    /// Takes the engine's socket of a port away.
    pub fn remove_socket(&mut self, port: u16) {
        let mut map: XskMap<&mut MapData> =
            self.ebpf.map_mut("SOCKETS").expect("a map").try_into().expect("an xskmap");
        map.unset(XSK_BASE + u32::from(port)).expect("a socket");
    }

    /// An IKE SA of ours has this SPI.
    pub fn add_ike_spi(&mut self, spi: u64) {
        self.insert("IKE_SPIS", spi.to_be(), 1_u32);
    }
}
