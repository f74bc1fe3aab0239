//! One gateway in a network namespace: devices, routes, neighbours, programs and filled maps.
//!
//! ```text
//!   10.1.0.0/24, 2001:db8:1::/64 ── lan1 ┐          ┌ wan ── 203.0.113.0/24, 2001:db8:ff::/64, the Internet
//!                                        ├ gateway ─┤
//!   10.2.0.0/24, 2001:db8:2::/64 ── lan2 ┘          └ engine ── VPN 10: 10.9.0.0/16, 2001:db8:9::/48
//!                                                             └ VPN 11: 10.11.0.0/16
//! trunk: VLAN 10 ── 10.10.0.0/24, 2001:db8:10::/64; VLAN 20 ── 10.20.0.0/24, 2001:db8:20::/64; no untagged port
//! ```
//!
//! The gateway is `.1` and `::1` of each network; `.2` and `::2` are neighbours, as is `.254` and `::fe` on the WAN.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, DevMapHash, HashMap, Map, MapData, PerCpuArray, RingBuf, XskMap};
use aya::programs::{ProgramFd, SchedClassifier, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use sekisho_abi::event::{Claim, Event, FlowEnd};
use sekisho_abi::flow::{Flow, FlowKey, LIFETIMES, LIFETIMES_DEFAULT};
use sekisho_abi::map::{Config, Counter, Rate, Spi, SpiKey, config_flags};
use sekisho_abi::nat::{
    DESTINATION_NAT_KEY_BITS, DestinationNat, DestinationNatKey, HAIRPIN, NAT_POOL_MAX, SOURCE_NAT_KEY_BITS,
    SourceNat, SourceNatKey, Translated,
};
use sekisho_abi::neighbour::{Neighbour, NeighbourKey};
use sekisho_abi::port::{Network, Port, PortKey, TRUNK, ZONE_GATEWAY, network_kind, port_flags};
use sekisho_abi::quota::{Bucket, QUOTA_FLOWS_MAX, QUOTA_HALF_OPEN_MAX, Quotas, Secrets, ZoneQuota, slot};
use sekisho_abi::rule::{
    List, ListKey, RULE_KEY_BITS, RULE_KEY_BITS_ANY_PORT, RULE_KEY_BITS_ANY_PROTOCOL, Rule, RuleCounter,
    RuleKey, action, rule_flags,
};
use sekisho_abi::trace::Trace;
use sekisho_abi::verdict::{Verdict, counter_index};
use sekisho_abi::{Address, mapped};

use crate::packet::Ip;
use crate::{ebpf_build, test_run};

/// Port ids.
pub(crate) const LAN1: u16 = 1;
pub(crate) const LAN2: u16 = 2;
pub(crate) const WAN: u16 = 3;
pub(crate) const VLAN10: u16 = 4;
pub(crate) const VLAN20: u16 = 5;
pub(crate) const VPN: u16 = 10;
pub(crate) const VPN_OTHER: u16 = 11;
/// The port of the engine's end of its veth pair, for the program `engine`.
pub(crate) const ENGINE_END: u16 = 20;

/// Zones are numbered apart from ports, so that one taken for the other shows.
pub(crate) const fn zone(port: u16) -> u16 {
    port + 100
}

/// Number of the rules that [`Lab::allow`] and its like make.
pub(crate) const RULE_ID: u32 = 42;

/// Largest packet for VPN ports.
pub(crate) const VPN_MTU: u16 = 1400;
/// MAC address of every neighbour.
pub(crate) const NEIGHBOUR_MAC: [u8; 6] = [2, 0xaa, 0, 0, 0, 2];

/// Any protocol, or any port of one.
#[derive(Clone, Copy)]
pub(crate) enum Service {
    Any,
    Protocol(u8),
    Port(u8, u16),
}

/// The verdict of one frame, and what became of it.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) verdict: Verdict,
    /// Port whose counter rose.
    pub(crate) port: u16,
    pub(crate) frame: Vec<u8>,
}

/// The device a frame comes by or leaves by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Device {
    Lan1,
    Lan2,
    Wan,
    /// The kernel's end of the engine's veth pair.
    Engine,
    /// The engine's own end.
    EngineEnd,
    /// A device that is no port.
    Stray,
    /// A NIC that carries VLANs 10 and 20.
    Trunk,
    /// The kernel's end of the first one's veth pair.
    Vlan10,
    /// The kernel's end of the second one's.
    Vlan20,
    /// The other end of the first one's.
    Vlan10Wire,
    /// The other end of the second one's.
    Vlan20Wire,
}

const DEVICES: [(Device, &str, &str); 9] = [
    (Device::Lan1, "lan1", "lan1-host"),
    (Device::Lan2, "lan2", "lan2-host"),
    (Device::Wan, "wan", "wan-host"),
    (Device::Engine, "sekisho0", "sekisho0-x"),
    (Device::EngineEnd, "sekisho1", "sekisho1-x"),
    (Device::Stray, "stray", "stray-host"),
    (Device::Trunk, "trunk", "trunk-host"),
    (Device::Vlan10, "trunk.10", "trunk-10"),
    (Device::Vlan20, "trunk.20", "trunk-20"),
];

/// Ends of the VLAN ports' veth pairs that have an ifindex to know, too.
const WIRES: [(Device, &str); 2] = [(Device::Vlan10Wire, "trunk-10"), (Device::Vlan20Wire, "trunk-20")];

/// MAC addresses of the gateway's devices, fixed so that failures read alike.
pub(crate) const fn mac(device: Device) -> [u8; 6] {
    let device = match device {
        // Ports of one NIC have its address.
        Device::Vlan10 | Device::Vlan20 => Device::Trunk,
        other => other,
    };
    [2, 0xbb, 0, 0, 0, device as u8 + 1]
}

pub(crate) struct Lab {
    ebpf: Ebpf,
    ifindex: BTreeMap<Device, u32>,
    config: Config,
    counters: RefCell<BTreeMap<(u16, Verdict), Counter>>,
    /// AF_XDP sockets in `SOCKETS`.
    _sockets: Vec<OwnedFd>,
}

impl Lab {
    /// A gateway whose only rules are those a test adds.
    pub(crate) fn new() -> Self {
        Self::with_log_level(0)
    }

    /// The same, with lines for developers up to a level of aya-log: 0 none, 4 debug.
    pub(crate) fn with_log_level(level: u8) -> Self {
        enter_namespace();
        let ifindex = make_devices();
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("FLOWS", 1024)
            .map_max_entries("QUOTAS", BUCKETS)
            .override_global("AYA_LOG_LEVEL", &level, true)
            .load(object())
            .unwrap_or_else(|error| panic!("loading the object: {error}"));
        for name in ["port", "engine", "handover", "tag"] {
            let program: &mut Xdp = ebpf.program_mut(name).expect("an XDP program").try_into().expect("XDP");
            program.load().unwrap_or_else(|error| panic!("program {name}: {error:?}"));
        }
        let program: &mut SchedClassifier =
            ebpf.program_mut("egress").expect("a tc program").try_into().expect("a classifier");
        program.load().unwrap_or_else(|error| panic!("program egress: {error:?}"));
        // Test runs on behalf of a device need its receive queues registered, which attaching does.
        let port: &mut Xdp = ebpf.program_mut("port").expect("an XDP program").try_into().expect("XDP");
        for (_, name, _) in DEVICES {
            port.attach(name, XdpMode::Driver).unwrap_or_else(|error| panic!("attaching to {name}: {error}"));
        }
        // What the kernel sends by a VLAN port is not received here once more.
        let tag: &mut Xdp = ebpf.program_mut("tag").expect("an XDP program").try_into().expect("XDP");
        for (_, name) in WIRES {
            tag.attach(name, XdpMode::Driver).unwrap_or_else(|error| panic!("attaching to {name}: {error}"));
        }
        let mut lab = Self {
            ebpf,
            ifindex,
            config: Config::default(),
            counters: RefCell::default(),
            _sockets: Vec::new(),
        };
        lab.fill();
        lab
    }

    fn fill(&mut self) {
        self.config = Config {
            generation: 7,
            engine_ifindex: self.ifindex(Device::Engine),
            engine_mac: mac(Device::Engine),
            flags: 0,
            uplink_zone: zone(WAN),
            uplink: WAN,
            lifetimes: LIFETIMES_DEFAULT,
            quotas: Quotas {
                bucket_mask: BUCKETS - 1,
                flows_per_source: QUOTA_FLOWS_MAX,
                half_open_per_source: QUOTA_HALF_OPEN_MAX,
                half_open_per_destination: QUOTA_HALF_OPEN_MAX,
                pressure_per_destination: QUOTA_HALF_OPEN_MAX,
                ..Quotas::default()
            },
        };
        self.write_config();
        let secrets = Secrets { slots: [1, 2], challenge: [3, 4], former_challenge: [5, 6] };
        self.set("SECRETS", 0, secrets);
        for port in [LAN1, LAN2, WAN, VPN, VPN_OTHER] {
            self.set_zone_quota(port, u64::MAX);
        }
        self.add_port(Device::Lan1, LAN1, 0);
        self.add_port(Device::Lan2, LAN2, 0);
        self.add_port(Device::Wan, WAN, port_flags::UPLINK | port_flags::IKE);
        self.add_port(Device::Engine, VPN, port_flags::VPN);
        self.add_port(Device::Engine, VPN_OTHER, port_flags::VPN);
        self.add_port(Device::EngineEnd, ENGINE_END, 0);
        self.add_vlan_port((Device::Vlan10, Device::Vlan10Wire), VLAN10, 10, port_flags::IKE);
        self.add_vlan_port((Device::Vlan20, Device::Vlan20Wire), VLAN20, 20, port_flags::IKE);
        for (prefix, bits, port, kind) in [
            ("10.1.0.0", 24, LAN1, network_kind::PORT),
            ("2001:db8:1::", 64, LAN1, network_kind::PORT),
            ("10.2.0.0", 24, LAN2, network_kind::PORT),
            ("2001:db8:2::", 64, LAN2, network_kind::PORT),
            ("10.10.0.0", 24, VLAN10, network_kind::PORT),
            ("2001:db8:10::", 64, VLAN10, network_kind::PORT),
            ("10.20.0.0", 24, VLAN20, network_kind::PORT),
            ("2001:db8:20::", 64, VLAN20, network_kind::PORT),
            ("10.10.0.1", 32, VLAN10, network_kind::LOCAL),
            ("2001:db8:10::1", 128, VLAN10, network_kind::LOCAL),
            ("10.20.0.1", 32, VLAN20, network_kind::LOCAL),
            ("203.0.113.0", 24, WAN, network_kind::PORT),
            ("2001:db8:ff::", 64, WAN, network_kind::PORT),
            ("10.9.0.0", 16, VPN, network_kind::VPN),
            ("2001:db8:9::", 48, VPN, network_kind::VPN),
            ("10.11.0.0", 16, VPN_OTHER, network_kind::VPN),
            ("10.1.0.1", 32, LAN1, network_kind::LOCAL),
            ("10.1.0.255", 32, LAN1, network_kind::LOCAL),
            ("2001:db8:1::1", 128, LAN1, network_kind::LOCAL),
            ("10.2.0.1", 32, LAN2, network_kind::LOCAL),
            ("203.0.113.1", 32, WAN, network_kind::LOCAL),
            ("2001:db8:ff::1", 128, WAN, network_kind::LOCAL),
            ("192.0.2.0", 24, 0, network_kind::MARTIAN),
        ] {
            self.add_network(prefix, bits, port, kind);
        }
        let devices: Vec<u32> = self.ifindex.values().copied().collect();
        let mut map: DevMapHash<&mut MapData> =
            self.ebpf.map_mut("DEVICES").expect("a map").try_into().expect("a devmap");
        for ifindex in devices {
            map.insert(ifindex, ifindex, None, 0).expect("a device of this namespace");
        }
        let socket = af_xdp_socket();
        let mut map: XskMap<&mut MapData> =
            self.ebpf.map_mut("SOCKETS").expect("a map").try_into().expect("an xskmap");
        for port in [WAN, ENGINE_END, VLAN10] {
            let index = XSK_BASE + u32::from(port);
            map.set(index, std::os::fd::AsRawFd::as_raw_fd(&socket), 0).expect("an AF_XDP socket");
        }
        self._sockets.push(socket);
    }

    fn add_port(&mut self, device: Device, id: u16, flags: u32) {
        self.add_port_with_mac(device, id, flags, mac(device));
    }

    pub(crate) fn add_port_with_mac(&mut self, device: Device, id: u16, flags: u32, mac: [u8; 6]) {
        let is_vpn = flags & port_flags::VPN != 0;
        let ifindex = self.ifindex(device);
        let port = Port {
            id,
            zone: zone(id),
            flags,
            xsk_base: u16::try_from(XSK_BASE).expect("small") + id,
            xsk_queues: 1,
            mtu: if is_vpn { VPN_MTU } else { 1500 },
            mac,
            ifindex,
            nic_ifindex: ifindex,
            ..Port::default()
        };
        self.insert("PORTS", PortKey { ifindex, vlan: if is_vpn { id } else { 0 }, reserved: 0 }, port);
    }

    /// SAs are the kernel's from now on, and what was the engine's device is the xfrm interface of [`VPN`].
    pub(crate) fn use_kernel_sas(&mut self) {
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
    fn add_vlan_port(&mut self, (device, wire): (Device, Device), id: u16, vlan: u16, flags: u32) {
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
    pub(crate) fn remove_port(&mut self, device: Device) {
        let key = PortKey { ifindex: self.ifindex(device), vlan: 0, reserved: 0 };
        self.remove::<_, Port>("PORTS", key);
    }

    pub(crate) fn add_network(&mut self, prefix: &str, bits: u32, port: u16, kind: u16) {
        let zone = if port == 0 { 0 } else { zone(port) };
        self.add_network_of(prefix, bits, Network { port, zone, kind, router: 0 });
    }

    pub(crate) fn add_network_of(&mut self, prefix: &str, bits: u32, network: Network) {
        let address: IpAddr = prefix.parse().expect("an address");
        let bits = if address.is_ipv4() { bits + 96 } else { bits };
        let mut map: LpmTrie<&mut MapData, Address, Network> =
            self.ebpf.map_mut("NETWORKS").expect("a map").try_into().expect("a trie");
        map.insert(&Key::new(bits, octets(address)), network, 0).expect("room");
    }

    /// A router that networks name by this number.
    pub(crate) fn set_router(&mut self, number: u32, router: &str) {
        let mut map: Array<&mut MapData, Address> =
            self.ebpf.map_mut("ROUTERS").expect("a map").try_into().expect("an array");
        map.set(number, address(router), 0).expect("an entry");
    }

    /// VLAN 10 binds addresses to MAC addresses as they are used.
    pub(crate) fn bind_vlan10(&mut self) {
        self.add_vlan_port((Device::Vlan10, Device::Vlan10Wire), VLAN10, 10, port_flags::BOUND);
    }

    /// Every binding of an address to a MAC address, by port.
    pub(crate) fn neighbours(&self) -> Vec<(NeighbourKey, Neighbour)> {
        let map: HashMap<&MapData, NeighbourKey, Neighbour> =
            self.ebpf.map("NEIGHBOURS").expect("a map").try_into().expect("a hash");
        let mut all: Vec<_> = map.iter().map(|entry| entry.expect("an entry")).collect();
        all.sort_by_key(|(key, _)| (key.port, key.address));
        all
    }

    /// So many bindings were learned on a port.
    pub(crate) fn set_neighbour_count(&mut self, port: u16, count: u32) {
        let mut map: Array<&mut MapData, u32> =
            self.ebpf.map_mut("NEIGHBOUR_COUNTS").expect("a map").try_into().expect("an array");
        map.set(port.into(), count, 0).expect("an entry");
    }

    /// What was told of senders with others' addresses, oldest first.
    pub(crate) fn claims(&mut self) -> Vec<Claim> {
        let mut ring: RingBuf<&mut MapData> =
            self.ebpf.map_mut("EVENTS").expect("a map").try_into().expect("a ring");
        let mut claims = Vec::new();
        while let Some(item) = ring.next() {
            if item.len() == size_of::<Claim>() {
                // SAFETY: plain data, as long as the type.
                claims.push(unsafe { item.as_ptr().cast::<Claim>().read_unaligned() });
            }
        }
        claims
    }

    /// Allows new flows between ports (0: the gateway) under the generation in force.
    pub(crate) fn allow(&mut self, from: u16, to: u16, service: Service) {
        self.rule(self.config.generation, from, to, service, action::ALLOW, 0);
    }

    /// The same, with flags that challenge.
    pub(crate) fn allow_challenged(&mut self, from: u16, to: u16, service: Service, flags: u16) {
        self.rule(self.config.generation, from, to, service, action::ALLOW, flags);
    }

    /// The same, with an event for each new flow.
    pub(crate) fn allow_logged(&mut self, from: u16, to: u16, service: Service) {
        self.rule(self.config.generation, from, to, service, action::ALLOW, rule_flags::LOG);
    }

    pub(crate) fn deny(&mut self, from: u16, to: u16, service: Service) {
        self.rule(self.config.generation, from, to, service, action::DENY, 0);
    }

    fn rule(&mut self, generation: u32, from: u16, to: u16, service: Service, action: u16, flags: u16) {
        let zone = |port: u16| if port == 0 { ZONE_GATEWAY } else { zone(port) };
        let (from, to) = (zone(from), zone(to));
        // One list for each pair of zones.
        let list = (u32::from(from) << 16) | (u32::from(to) + 1);
        let key = ListKey { generation, from, to, ..ListKey::default() };
        self.insert("LISTS", key, List { list, first: 1, flags: 0 });
        let rule = Rule { order: 1, id: RULE_ID, action, flags, interval_us: 0, burst_us: 0 };
        self.add_rule(list, service, rule);
    }

    /// A rule in a list, under the generation in force.
    pub(crate) fn add_rule(&mut self, list: u32, service: Service, rule: Rule) {
        let (bits, protocol, port) = match service {
            Service::Any => (RULE_KEY_BITS_ANY_PROTOCOL, 0, 0),
            Service::Protocol(protocol) => (RULE_KEY_BITS_ANY_PORT, protocol, 0),
            Service::Port(protocol, port) => (RULE_KEY_BITS, protocol, port),
        };
        let key = RuleKey {
            generation_be: self.config.generation.to_be_bytes(),
            list_be: list.to_be_bytes(),
            protocol,
            source_port_class: 0,
            port_be: port.to_be_bytes(),
        };
        self.add_prefix("RULES", bits, key, rule);
    }

    /// A prefix of a trie.
    pub(crate) fn add_prefix<K: aya::Pod, V: aya::Pod>(&mut self, map: &str, bits: u32, key: K, value: V) {
        let mut map: LpmTrie<&mut MapData, K, V> =
            self.ebpf.map_mut(map).expect("a map").try_into().expect("a trie");
        map.insert(&Key::new(bits, key), value, 0).expect("room");
    }

    /// The configuration in force.
    pub(crate) fn generation(&self) -> u32 {
        self.config.generation
    }

    /// What a rule has decided so far.
    pub(crate) fn rule_counter(&self, id: u32) -> RuleCounter {
        let map: PerCpuArray<&MapData, RuleCounter> =
            self.ebpf.map("RULE_COUNTERS").expect("a map").try_into().expect("a per-CPU array");
        let mut sum = RuleCounter::default();
        for counter in map.get(&id, 0).expect("an entry").iter() {
            sum.packets += counter.packets;
            sum.bytes += counter.bytes;
            sum.flows += counter.flows;
        }
        sum
    }

    /// Flips to the next rule set, which is empty.
    pub(crate) fn next_generation(&mut self) {
        self.config.generation += 1;
        self.write_config();
    }

    pub(crate) fn close(&mut self) {
        self.config.flags |= config_flags::CLOSED;
        self.write_config();
    }

    pub(crate) fn set_flags(&mut self, flags: u16) {
        self.config.flags = flags;
        self.write_config();
    }

    pub(crate) fn set_lifetimes(&mut self, seconds: u32) {
        self.config.lifetimes = [seconds; LIFETIMES];
        self.write_config();
    }

    /// What one source, destination or zone may have.
    pub(crate) fn set_quotas(&mut self, change: impl FnOnce(&mut Quotas)) {
        change(&mut self.config.quotas);
        self.write_config();
    }

    /// How many flows may be opened from a port's zone, of which there are none yet.
    pub(crate) fn set_zone_quota(&mut self, port: u16, flows_max: u64) {
        self.set("ZONES", zone(port).into(), ZoneQuota { flows: 0, flows_max });
    }

    /// Flows that were opened from a port's zone.
    pub(crate) fn zone_flows(&self, port: u16) -> u64 {
        let map: Array<&MapData, ZoneQuota> =
            self.ebpf.map("ZONES").expect("a map").try_into().expect("an array");
        map.get(&zone(port).into(), 0).expect("an entry").flows
    }

    /// Flows and half-open flows in all slots together: by source, and half-open ones by destination.
    pub(crate) fn counted(&self) -> (u32, u32) {
        let map: Array<&MapData, Bucket> =
            self.ebpf.map("QUOTAS").expect("a map").try_into().expect("an array");
        let buckets = map.iter().map(|bucket| bucket.expect("an entry"));
        let mut sums = (0, 0);
        for word in buckets.flat_map(|bucket| bucket.slots) {
            sums = (sums.0 + slot::flows(word), sums.1 + slot::half_open(word));
        }
        sums
    }

    /// Challenges get another key, as after a minute.
    pub(crate) fn renew_secrets(&mut self, former: u64) {
        self.set(
            "SECRETS",
            0,
            Secrets { slots: [1, 2], challenge: [former + 1, 4], former_challenge: [former, 4] },
        );
    }

    /// An IKE SA of ours has this SPI.
    pub(crate) fn add_ike_spi(&mut self, spi: u64) {
        self.insert("IKE_SPIS", spi.to_be(), 1_u32);
    }

    fn set<V: aya::Pod>(&mut self, map: &str, index: u32, value: V) {
        let mut map: Array<&mut MapData, V> =
            self.ebpf.map_mut(map).expect("a map").try_into().expect("an array");
        map.set(index, value, 0).expect("an entry");
    }

    fn write_config(&mut self) {
        let mut map: Array<&mut MapData, Config> =
            self.ebpf.map_mut("CONFIG").expect("a map").try_into().expect("an array");
        map.set(0, self.config, 0).expect("the one entry");
    }

    pub(crate) fn add_spi(&mut self, destination: &str, spi: u32, udp_encapsulated: bool) {
        let key = SpiKey { destination: address(destination), spi_be: spi.to_be() };
        self.insert("SPIS", key, Spi { port: VPN, udp_encapsulated: udp_encapsulated.into() });
    }

    /// Takes the engine's socket of a port away.
    pub(crate) fn remove_socket(&mut self, port: u16) {
        let mut map: XskMap<&mut MapData> =
            self.ebpf.map_mut("SOCKETS").expect("a map").try_into().expect("an xskmap");
        map.unset(XSK_BASE + u32::from(port)).expect("a socket");
    }

    /// A source has had its share of fragmented datagrams at a port, for as long as a test may take.
    pub(crate) fn use_up_fragments(&mut self, source: &str, port: u16) {
        self.use_up(source, port, 0);
    }

    /// The same of ICMP errors to a host.
    pub(crate) fn use_up_errors(&mut self, host: &str, port: u16) {
        self.use_up(host, port, 1);
    }

    fn use_up(&mut self, host: &str, port: u16, of: u16) {
        let mut key = [0_u8; 20];
        key[..16].copy_from_slice(&address(host));
        key[16..18].copy_from_slice(&port.to_ne_bytes());
        key[18..].copy_from_slice(&of.to_ne_bytes());
        self.insert("SHARES", key, Rate { next_ns: u64::MAX / 2 });
    }

    pub(crate) fn insert<K: aya::Pod, V: aya::Pod>(&mut self, map: &str, key: K, value: V) {
        let mut map: HashMap<&mut MapData, K, V> =
            self.ebpf.map_mut(map).expect("a map").try_into().expect("a hash");
        map.insert(key, value, 0).expect("room");
    }

    fn remove<K: aya::Pod, V: aya::Pod>(&mut self, map: &str, key: K) {
        let mut map: HashMap<&mut MapData, K, V> =
            self.ebpf.map_mut(map).expect("a map").try_into().expect("a hash");
        map.remove(&key).expect("an entry");
    }

    /// New flows from a port to another with a source in this prefix get this source.
    pub(crate) fn add_source_nat(&mut self, from: u16, to: u16, prefix: &str, bits: u32, value: SourceNat) {
        let prefix: IpAddr = prefix.parse().expect("an address");
        let bits = if prefix.is_ipv4() { bits + 96 } else { bits };
        let from = if from == HAIRPIN { HAIRPIN } else { zone(from) };
        let key = SourceNatKey {
            generation_be: self.config.generation.to_be_bytes(),
            from_be: from.to_be_bytes(),
            port_be: to.to_be_bytes(),
            address: octets(prefix),
        };
        let mut map: LpmTrie<&mut MapData, SourceNatKey, SourceNat> =
            self.ebpf.map_mut("SOURCE_NAT").expect("a map").try_into().expect("a trie");
        map.insert(&Key::new(SOURCE_NAT_KEY_BITS + bits, key), value, 0).expect("room");
        self.switch_nat_on();
    }

    /// New flows by a port to an address, and a port unless 0, get another destination.
    pub(crate) fn add_destination_nat(
        &mut self,
        on: u16,
        (address, bits): (&str, u32),
        (protocol, port): (u8, u16),
        value: DestinationNat,
    ) {
        let address: IpAddr = address.parse().expect("an address");
        let bits = if address.is_ipv4() { bits + 96 } else { bits } + if port == 0 { 0 } else { 16 };
        let key = DestinationNatKey {
            generation_be: self.config.generation.to_be_bytes(),
            port_be: on.to_be_bytes(),
            protocol,
            reserved: 0,
            address: octets(address),
            service_be: port.to_be_bytes(),
        };
        let mut map: LpmTrie<&mut MapData, DestinationNatKey, DestinationNat> =
            self.ebpf.map_mut("DESTINATION_NAT").expect("a map").try_into().expect("a trie");
        map.insert(&Key::new(DESTINATION_NAT_KEY_BITS + bits, key), value, 0).expect("room");
        self.switch_nat_on();
    }

    /// Addresses of the pool, from the first on.
    pub(crate) fn set_pool(&mut self, addresses: &[&str]) {
        let half = (self.config.generation & 1) * NAT_POOL_MAX;
        let mut map: Array<&mut MapData, Address> =
            self.ebpf.map_mut("NAT_POOL").expect("a map").try_into().expect("an array");
        for (index, text) in (half..).zip(addresses) {
            map.set(index, address(text), 0).expect("room");
        }
    }

    fn switch_nat_on(&mut self) {
        self.config.flags |= config_flags::NAT;
        self.write_config();
    }

    /// How many ends are translated flows'.
    pub(crate) fn translations(&self) -> usize {
        let map: HashMap<&MapData, FlowKey, Translated> =
            self.ebpf.map("TRANSLATIONS").expect("a map").try_into().expect("a hash");
        map.keys().count()
    }

    /// Every flow there is.
    pub(crate) fn flows(&self) -> Vec<(FlowKey, Flow)> {
        let map: HashMap<&MapData, FlowKey, Flow> =
            self.ebpf.map("FLOWS").expect("a map").try_into().expect("a hash");
        map.iter().map(|entry| entry.expect("an entry")).collect()
    }

    /// The one flow there is.
    pub(crate) fn flow(&self) -> Flow {
        match self.flows().as_slice() {
            [(_, flow)] => *flow,
            flows => panic!("one flow expected: {flows:?}"),
        }
    }

    /// Writes to the one flow there is, as another CPU may at any time.
    pub(crate) fn change_flow(&mut self, change: impl FnOnce(&mut Flow)) {
        let [(key, mut flow)] = self.flows()[..] else { panic!("one flow expected") };
        change(&mut flow);
        self.insert("FLOWS", key, flow);
    }

    /// The configuration, and where another thread may write it.
    pub(crate) fn shared_config(&self) -> (Config, Array<MapData, Config>) {
        let Some(Map::Array(map)) = self.ebpf.map("CONFIG") else { panic!("an array") };
        let fd = map.fd().as_fd().try_clone_to_owned().expect("a descriptor");
        let map = Map::Array(MapData::from_fd(fd).expect("a map"));
        (self.config, map.try_into().expect("an array"))
    }

    /// Removes every flow.
    pub(crate) fn forget_flows(&mut self) {
        for (key, _) in self.flows() {
            self.remove::<FlowKey, Flow>("FLOWS", key);
        }
    }

    /// Fills the flow table up.
    pub(crate) fn exhaust_flows(&mut self) {
        let mut map: HashMap<&mut MapData, FlowKey, Flow> =
            self.ebpf.map_mut("FLOWS").expect("a map").try_into().expect("a hash");
        for number in 0..=u16::MAX {
            let key = FlowKey { low_port_be: number, protocol: 253, ..FlowKey::default() };
            if map.insert(key, Flow::default(), 0).is_err() {
                return;
            }
        }
        panic!("the table has no bound");
    }

    /// How many lines for developers have come.
    pub(crate) fn log_lines(&mut self) -> usize {
        let mut ring: RingBuf<&mut MapData> =
            self.ebpf.map_mut("AYA_LOGS").expect("a map").try_into().expect("a ring");
        let mut lines = 0;
        while ring.next().is_some() {
            lines += 1;
        }
        lines
    }

    /// The events that have come, oldest first.
    pub(crate) fn events(&mut self) -> Vec<Event> {
        self.reports()
    }

    /// The ends of flows that have come.
    pub(crate) fn flow_ends(&mut self) -> Vec<FlowEnd> {
        self.reports()
    }

    /// The end of a flow that came first, whatever came after it.
    pub(crate) fn first_flow_end(&mut self) -> FlowEnd {
        let mut ring: RingBuf<&mut MapData> =
            self.ebpf.map_mut("EVENTS").expect("a map").try_into().expect("a ring");
        let item = ring.next().expect("a report");
        assert_eq!(item.len(), size_of::<FlowEnd>());
        // SAFETY: plain data, as long as the type.
        unsafe { item.as_ptr().cast::<FlowEnd>().read_unaligned() }
    }

    /// What has come through `EVENTS`, all of one kind.
    fn reports<T>(&mut self) -> Vec<T> {
        let mut ring: RingBuf<&mut MapData> =
            self.ebpf.map_mut("EVENTS").expect("a map").try_into().expect("a ring");
        let mut reports = Vec::new();
        while let Some(item) = ring.next() {
            assert_eq!(item.len(), size_of::<T>());
            // SAFETY: plain data, as long as the type.
            reports.push(unsafe { item.as_ptr().cast::<T>().read_unaligned() });
        }
        reports
    }

    /// Has packets reported that a trace asks for.
    pub(crate) fn set_trace(&mut self, trace: Trace) {
        let mut map: Array<&mut MapData, Trace> =
            self.ebpf.map_mut("TRACE").expect("a map").try_into().expect("an array");
        map.set(0, trace, 0).expect("the one entry");
        self.set_flags(config_flags::TRACE);
    }

    /// A neighbour has another MAC address from now on.
    pub(crate) fn move_neighbour(&self, address: &str, device: &str, mac: [u8; 6]) {
        run_ip(&format!("neigh replace {address} lladdr {} nud permanent dev {device}\n", colons(mac)));
    }

    /// A map.
    pub(crate) fn map(&self, name: &str) -> &Map {
        self.ebpf.map(name).expect("a map")
    }

    /// Every map, by name.
    pub(crate) fn maps(&self) -> impl Iterator<Item = (&str, &Map)> {
        self.ebpf.maps()
    }

    pub(crate) fn ifindex(&self, device: Device) -> u32 {
        self.ifindex[&device]
    }

    /// A frame through `port`, as if received by the device.
    pub(crate) fn receive(&self, device: Device, frame: &[u8]) -> Run {
        self.run_xdp("port", device, 0, frame)
    }

    /// The same, on another receive queue.
    pub(crate) fn receive_on_queue(&self, device: Device, queue: u32, frame: &[u8]) -> Run {
        self.run_xdp("port", device, queue, frame)
    }

    /// A frame through `engine`.
    pub(crate) fn receive_engine(&self, frame: &[u8]) -> Run {
        self.run_xdp("engine", Device::EngineEnd, 0, frame)
    }

    fn run_xdp(&self, program: &str, device: Device, queue: u32, frame: &[u8]) -> Run {
        let fd = self.program(program);
        let before = self.read_counters();
        let outcome = test_run::xdp(fd.as_fd(), self.ifindex(device), queue, frame, 1)
            .unwrap_or_else(|error| panic!("{device:?}, {} bytes: {error}", frame.len()));
        // What came tagged is counted without its tag once the port is known.
        let tag = if is_tagged(frame) { 4 } else { 0 };
        let (port, verdict) = self.rose(&before, |port| frame.len() - if port == 0 { 0 } else { tag });
        let expected = match verdict {
            Verdict::Encrypt | Verdict::Decrypt if self.config.engine_ifindex == 0 => 2,
            Verdict::Forward | Verdict::Encrypt | Verdict::Decrypt | Verdict::Challenge => 4,
            // To the device by which the kernel knows the port.
            Verdict::Pass if is_tagged(frame) => 4,
            Verdict::Pass => 2,
            _ => 1,
        };
        assert_eq!(outcome.action, expected, "action of {verdict:?}");
        if verdict.is_drop() && outcome.frame.len() == frame.len() {
            assert_eq!(outcome.frame, frame, "a refused frame stays as it was");
        } else if verdict.is_drop() {
            assert_eq!(outcome.frame, without_tag(frame), "but for its tag");
        }
        Run { verdict, port, frame: outcome.frame }
    }

    /// A frame through `egress`, as if the kernel sent it by the device.
    pub(crate) fn send(&self, device: Device, frame: &[u8]) -> Run {
        let fd = self.program("egress");
        let before = self.read_counters();
        let outcome = test_run::skb(fd.as_fd(), self.ifindex(device), frame)
            .unwrap_or_else(|error| panic!("{device:?}, {} bytes: {error}", frame.len()));
        let (port, verdict) = self.rose(&before, |_| frame.len());
        assert_eq!(outcome.action, if verdict == Verdict::Pass { 0 } else { 2 }, "action of {verdict:?}");
        if self.config.flags & config_flags::NAT == 0 || verdict.is_drop() {
            assert_eq!(outcome.frame, frame);
        }
        Run { verdict, port, frame: outcome.frame }
    }

    /// A packet through `egress` on a device without Ethernet headers.
    pub(crate) fn send_bare(&self, device: Device, packet: &Ip) -> Run {
        let frame = packet.clone().frame([0; 6], [0; 6]);
        let bare = &frame[14..];
        let fd = self.program("egress");
        let before = self.read_counters();
        let outcome = test_run::skb(fd.as_fd(), self.ifindex(device), bare)
            .unwrap_or_else(|error| panic!("{device:?}, {} bytes: {error}", bare.len()));
        // Counted like frames of every other device.
        let (port, verdict) = self.rose(&before, |_| frame.len());
        assert_eq!(outcome.action, if verdict == Verdict::Pass { 0 } else { 2 }, "action of {verdict:?}");
        assert_eq!(outcome.frame, bare);
        Run { verdict, port, frame: outcome.frame }
    }

    /// A frame through `handover` or `tag`: action and frame. They count nothing.
    pub(crate) fn through(&self, program: &str, device: Device, frame: &[u8]) -> (u32, Vec<u8>) {
        let fd = self.program(program);
        let outcome = test_run::xdp(fd.as_fd(), self.ifindex(device), 0, frame, 1).expect("a run");
        (outcome.action, outcome.frame)
    }

    /// Mean time of `port` for this frame. Each run takes the frame as the one before left it, so it must still be for
    /// the gateway, and its hop limit last.
    pub(crate) fn cost(&self, device: Device, frame: &[u8], repeat: u32) -> Duration {
        let fd = self.program("port");
        test_run::xdp(fd.as_fd(), self.ifindex(device), 0, frame, repeat).expect("a run").duration
    }

    /// Whether the kernel runs tc programs on this frame at all: it wants the whole IP header there.
    pub(crate) fn can_send(frame: &[u8]) -> bool {
        frame.len() >= if frame[12..14] == [0x86, 0xdd] { 54 } else { 34 }
    }

    /// Whether the action alone would let a frame out, for floods that need no counters.
    pub(crate) fn action(&self, program: &str, device: Device, frame: &[u8]) -> u32 {
        let fd = self.program(program);
        let outcome = match program {
            "egress" => test_run::skb(fd.as_fd(), self.ifindex(device), frame),
            _ => test_run::xdp(fd.as_fd(), self.ifindex(device), 0, frame, 1),
        };
        outcome.unwrap_or_else(|error| panic!("{program}, {} bytes: {error}", frame.len())).action
    }

    /// Runs frames through `port`, on whatever thread asks.
    pub(crate) fn runner(&self, device: Device) -> impl Fn(&[u8]) + Send + Sync + use<> {
        let fd = self.program("port").as_fd().try_clone_to_owned().expect("a descriptor");
        let ifindex = self.ifindex(device);
        move |frame| {
            test_run::xdp(fd.as_fd(), ifindex, 0, frame, 1).expect("a run");
        }
    }

    fn program(&self, name: &str) -> &ProgramFd {
        self.ebpf.program(name).expect("a program").fd().expect("loaded")
    }

    fn rose(
        &self,
        before: &BTreeMap<(u16, Verdict), Counter>,
        bytes: impl Fn(u16) -> usize,
    ) -> (u16, Verdict) {
        let after = self.read_counters();
        let rose: Vec<_> = after.iter().filter(|(key, counter)| before.get(key) != Some(counter)).collect();
        let [(&(port, verdict), counter)] = rose[..] else { panic!("one counter must rise: {rose:?}") };
        let zero = Counter::default();
        let before = before.get(&(port, verdict)).unwrap_or(&zero);
        assert_eq!(counter.packets - before.packets, 1);
        assert_eq!(counter.bytes - before.bytes, u64::try_from(bytes(port)).expect("small"));
        self.counters.replace(after);
        (port, verdict)
    }

    fn read_counters(&self) -> BTreeMap<(u16, Verdict), Counter> {
        let map: PerCpuArray<&MapData, Counter> =
            self.ebpf.map("COUNTERS").expect("a map").try_into().expect("a per-CPU array");
        let mut counters = BTreeMap::new();
        for port in [0, LAN1, LAN2, WAN, VLAN10, VLAN20, VPN, VPN_OTHER, ENGINE_END] {
            for &verdict in Verdict::ALL {
                let mut sum = Counter::default();
                for counter in map.get(&counter_index(port, verdict), 0).expect("an entry").iter() {
                    sum.packets += counter.packets;
                    sum.bytes += counter.bytes;
                }
                counters.insert((port, verdict), sum);
            }
        }
        counters
    }
}

const XSK_BASE: u32 = 40;
/// Buckets of `QUOTAS`.
pub(crate) const BUCKETS: u32 = sekisho_abi::quota::buckets(1024);

/// The frame with an 802.1Q tag.
pub(crate) fn with_tag(vlan: u16, frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0], &vlan.to_be_bytes(), &frame[12..]].concat()
}

/// The frame without its outer tag.
pub(crate) fn without_tag(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &frame[16..]].concat()
}

fn is_tagged(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x81, 0])
}

/// An address as the maps have it.
pub(crate) fn address(text: &str) -> Address {
    octets(text.parse().expect("an address"))
}

fn octets(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(address) => mapped(address.octets()),
        IpAddr::V6(address) => address.octets(),
    }
}

/// The programs' object, built once per test run.
pub(crate) fn object() -> &'static [u8] {
    static OBJECT: OnceLock<Vec<u8>> = OnceLock::new();
    OBJECT.get_or_init(|| {
        let path = match std::env::var_os("SEKISHO_EBPF_OBJECT") {
            Some(path) => PathBuf::from(path),
            None => {
                println!("building the eBPF object as `cargo xtask ebpf` does");
                let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
                ebpf_build::build(root).unwrap_or_else(|error| panic!("{error}"))
            }
        };
        println!("eBPF object: {}", path.display());
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    })
}

/// Gives this thread a network namespace of its own. It goes away with its last user.
fn enter_namespace() {
    // SAFETY: no memory is involved; the call changes the calling thread's namespace only.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "a network namespace: {} (root is needed)", std::io::Error::last_os_error());
}

fn make_devices() -> BTreeMap<Device, u32> {
    // Hosts at the far ends stay silent, so that what the programs see is what the tests run.
    write_sysctl("net/ipv6/conf/default/disable_ipv6", "1");
    let mut script = String::from("link set lo up\n");
    for (device, name, peer) in DEVICES {
        let mac = colons(mac(device));
        script += &format!("link add {name} address {mac} numrxqueues 2 type veth peer name {peer}\n");
        script += &format!("link set {name} up\nlink set {peer} up\n");
    }
    run_ip(&script);
    let mut script = String::new();
    let neighbour = colons(NEIGHBOUR_MAC);
    for (name, v4, v6) in [
        ("lan1", "10.1.0", "2001:db8:1:"),
        ("lan2", "10.2.0", "2001:db8:2:"),
        ("wan", "203.0.113", "2001:db8:ff:"),
        ("trunk.10", "10.10.0", "2001:db8:10:"),
        ("trunk.20", "10.20.0", "2001:db8:20:"),
    ] {
        script += &format!("addr add {v4}.1/24 dev {name}\naddr add {v6}:1/64 dev {name} nodad\n");
        for host in ["2", "254"] {
            script += &format!("neigh add {v4}.{host} lladdr {neighbour} nud permanent dev {name}\n");
        }
        for host in ["2", "fe"] {
            script += &format!("neigh add {v6}:{host} lladdr {neighbour} nud permanent dev {name}\n");
        }
    }
    script += "route add default via 203.0.113.254\nroute add default via 2001:db8:ff::fe\n";
    // The kernel asks for an address on the device before it routes for it.
    script += "addr add 169.254.77.1/32 dev sekisho0\n";
    for name in ["lan1", "lan2", "wan", "sekisho0", "trunk.10", "trunk.20"] {
        write_sysctl(&format!("net/ipv6/conf/{name}/disable_ipv6"), "0");
    }
    run_ip(&script);
    write_sysctl("net/ipv4/ip_forward", "1");
    write_sysctl("net/ipv6/conf/all/forwarding", "1");
    let devices = DEVICES.iter().map(|(device, name, _)| (*device, *name));
    devices
        .chain(WIRES)
        .map(|(device, name)| {
            let name = std::ffi::CString::new(name).expect("no zero");
            // SAFETY: a terminated string.
            let ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) };
            assert_ne!(ifindex, 0);
            (device, ifindex)
        })
        .collect()
}

/// A MAC address as ip(8) reads it.
fn colons(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Runs commands of ip(8), one a line.
fn run_ip(script: &str) {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("ip(8) of iproute2: {error}"));
    child.stdin.take().expect("piped").write_all(script.as_bytes()).expect("a batch");
    assert!(child.wait().expect("ip(8)").success(), "ip -batch:\n{script}");
}

fn write_sysctl(name: &str, value: &str) {
    // The kernel shows each thread the values of its own network namespace here.
    let path = Path::new("/proc/sys").join(name);
    std::fs::write(&path, value).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn af_xdp_socket() -> OwnedFd {
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    assert!(fd >= 0, "an AF_XDP socket: {}", std::io::Error::last_os_error());
    // SAFETY: the descriptor was just made and has no other owner.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
