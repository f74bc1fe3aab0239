//! The programs by themselves: one gateway in a network namespace, with devices, routes, neighbours, programs and filled
//! maps, and single frames run through it (`BPF_PROG_TEST_RUN`). Nothing is sent.
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
//!
//! What goes wrong while a gateway is made, or with a call that always works, is a panic: tests and measurements have
//! nothing better to do.

mod devices;
#[allow(unsafe_code, reason = "what the kernel writes into a ring is a structure")]
mod events;
mod flows;
mod nat;
mod object;
pub mod packet;
mod ports;
mod quotas;
mod rules;
mod run;
#[allow(unsafe_code, reason = "bpf(2)")]
pub mod test_run;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, DevMapHash, HashMap, Map, MapData, PerCpuArray, PerCpuValues, XskMap};
use aya::programs::{ProgramError, ProgramFd, ProgramInfo, SchedClassifier, Xdp, XdpMode};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader};
use sekisho_abi::flow::LIFETIMES_DEFAULT;
use sekisho_abi::map::{Config, Counter};
use sekisho_abi::memo::{
    KNOWN_LISTS_MAX, KNOWN_NETWORKS_MAX, KNOWN_PORTS_MAX, KnownList, KnownNetwork, KnownPort,
};
use sekisho_abi::port::{network_kind, port_flags};
use sekisho_abi::quota::{self, QUOTA_FLOWS_MAX, QUOTA_HALF_OPEN_MAX, Quotas, Secrets};
use sekisho_abi::verdict::Verdict;
use sekisho_abi::{Address, mapped};

use devices::{DEVICES, WIRES, af_xdp_socket, enter_namespace, make_devices};
pub use devices::{Device, mac};
pub use object::{measuring_object, object};
pub use rules::Service;
pub use run::{Run, with_tag, without_tag};

/// Port id of the first LAN.
pub const LAN1: u16 = 1;
/// Of the second LAN.
pub const LAN2: u16 = 2;
/// Of the uplink.
pub const WAN: u16 = 3;
/// Of VLAN 10 on the trunk.
pub const VLAN10: u16 = 4;
/// Of VLAN 20 on the trunk.
pub const VLAN20: u16 = 5;
/// Of the one VPN.
pub const VPN: u16 = 10;
/// Of the other one.
pub const VPN_OTHER: u16 = 11;
/// The port of the engine's end of its veth pair, for the program `engine`.
pub const ENGINE_END: u16 = 20;

/// Zones are numbered apart from ports, so that one taken for the other shows.
pub const fn zone(port: u16) -> u16 {
    port + 100
}

/// Number of the rules that [`Lab::allow`] and its like make.
pub const RULE_ID: u32 = 42;

/// Largest packet for VPN ports.
pub const VPN_MTU: u16 = 1400;
/// MAC address of every neighbour.
pub const NEIGHBOUR_MAC: [u8; 6] = [2, 0xaa, 0, 0, 0, 2];

const XSK_BASE: u32 = 40;
/// Ports with a socket of the engine: those that carry ESP, its own end, and one that only has plaintext for it.
const WITH_SOCKETS: [u16; 4] = [WAN, ENGINE_END, VLAN10, LAN1];
/// Flows that a gateway has room for where nothing else is said: few, so that tables are made and filled quickly.
const FLOWS: u32 = 1024;
/// Buckets of `QUOTAS` that go with them.
pub const BUCKETS: u32 = quota::buckets(FLOWS);

/// How a gateway is made.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Room in the flow table.
    pub flows: u32,
    /// Lines for developers up to a level of aya-log: 0 none, 4 debug.
    pub log_level: u8,
}

impl Default for Setup {
    fn default() -> Self {
        Self { flows: FLOWS, log_level: 0 }
    }
}

/// One gateway, in the network namespace of the thread that made it.
#[derive(Debug)]
pub struct Lab {
    ebpf: Ebpf,
    ifindex: BTreeMap<Device, u32>,
    config: Config,
    counters: RefCell<BTreeMap<(u16, Verdict), Counter>>,
    /// Whether programs may have asked the tables.
    has_run: Cell<bool>,
    /// AF_XDP sockets in `SOCKETS`.
    _sockets: Vec<OwnedFd>,
}

impl Default for Lab {
    fn default() -> Self {
        Self::with(Setup::default())
    }
}

impl Lab {
    /// A gateway whose only rules are those that are added.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, with lines for developers up to a level of aya-log: 0 none, 4 debug.
    pub fn with_log_level(level: u8) -> Self {
        Self::with(Setup { log_level: level, ..Setup::default() })
    }

    /// The same, made so.
    pub fn with(Setup { flows, log_level }: Setup) -> Self {
        let buckets = quota::buckets(flows);
        enter_namespace();
        let ifindex = make_devices();
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("FLOWS", flows)
            .map_max_entries("QUOTAS", buckets)
            .override_global("AYA_LOG_LEVEL", &log_level, true)
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
            has_run: Cell::new(false),
            _sockets: Vec::new(),
        };
        lab.fill(buckets);
        lab
    }

    fn fill(&mut self, buckets: u32) {
        self.config = Config {
            generation: 7,
            engine_ifindex: self.ifindex(Device::Engine),
            engine_mac: mac(Device::Engine),
            flags: 0,
            uplink_zone: zone(WAN),
            uplink: WAN,
            lifetimes: LIFETIMES_DEFAULT,
            quotas: Quotas {
                bucket_mask: buckets - 1,
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
        for port in WITH_SOCKETS {
            let index = XSK_BASE + u32::from(port);
            map.set(index, socket.as_raw_fd(), 0).expect("an AF_XDP socket");
        }
        self._sockets.push(socket);
    }

    /// The device's number in this namespace.
    pub fn ifindex(&self, device: Device) -> u32 {
        self.ifindex[&device]
    }

    /// What the kernel says of each program, by name.
    pub fn programs(&self) -> impl Iterator<Item = (&str, Result<ProgramInfo, ProgramError>)> {
        let loaded = self.ebpf.programs().filter(|(_, program)| program.fd().is_ok());
        loaded.map(|(name, program)| (name, program.info()))
    }

    /// A map.
    pub fn map(&self, name: &str) -> &Map {
        self.ebpf.map(name).expect("a map")
    }

    /// Every map, by name.
    pub fn maps(&self) -> impl Iterator<Item = (&str, &Map)> {
        self.ebpf.maps()
    }

    fn program(&self, name: &str) -> &ProgramFd {
        self.has_run.set(true);
        self.ebpf.program(name).expect("a program").fd().expect("loaded")
    }

    /// Puts an entry into a hash.
    pub fn insert<K: aya::Pod, V: aya::Pod>(&mut self, name: &str, key: K, value: V) {
        let mut map: HashMap<&mut MapData, K, V> =
            self.ebpf.map_mut(name).expect("a map").try_into().expect("a hash");
        map.insert(key, value, 0).expect("room");
        self.changed(name);
    }

    fn remove<K: aya::Pod, V: aya::Pod>(&mut self, name: &str, key: K) {
        let mut map: HashMap<&mut MapData, K, V> =
            self.ebpf.map_mut(name).expect("a map").try_into().expect("a hash");
        map.remove(&key).expect("an entry");
        self.changed(name);
    }

    /// A table has changed and the generation has not, as it never is by the daemon: what the programs remember of it is
    /// wrong.
    fn changed(&mut self, table: &str) {
        if matches!(table, "PORTS" | "NETWORKS" | "LISTS") && self.has_run.replace(false) {
            self.clear::<KnownPort>("KNOWN_PORTS", KNOWN_PORTS_MAX);
            self.clear::<KnownNetwork>("KNOWN_NETWORKS", KNOWN_NETWORKS_MAX);
            self.clear::<KnownList>("KNOWN_LISTS", KNOWN_LISTS_MAX);
        }
    }

    fn clear<V: aya::Pod + Default>(&mut self, map: &str, entries: u32) {
        let mut map: PerCpuArray<&mut MapData, V> =
            self.ebpf.map_mut(map).expect("a map").try_into().expect("a per-CPU array");
        let cpus = nr_cpus().expect("CPUs");
        for index in 0..entries {
            let zero = PerCpuValues::try_from(vec![V::default(); cpus]).expect("one for each CPU");
            map.set(index, zero, 0).expect("an entry");
        }
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

    /// A prefix of a trie.
    pub fn add_prefix<K: aya::Pod, V: aya::Pod>(&mut self, map: &str, bits: u32, key: K, value: V) {
        let mut map: LpmTrie<&mut MapData, K, V> =
            self.ebpf.map_mut(map).expect("a map").try_into().expect("a trie");
        map.insert(&Key::new(bits, key), value, 0).expect("room");
    }
}

/// An address as the maps have it.
pub fn address(text: &str) -> Address {
    octets(text.parse().expect("an address"))
}

fn octets(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(address) => mapped(address.octets()),
        IpAddr::V6(address) => address.octets(),
    }
}
