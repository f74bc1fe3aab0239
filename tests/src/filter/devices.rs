//! The gateway's devices in a network namespace of their own, with addresses, routes and neighbours.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Socket, Type};

use super::NEIGHBOUR_MAC;

/// The device a frame comes by or leaves by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Device {
    /// The first LAN.
    Lan1,
    /// The second LAN.
    Lan2,
    /// The uplink.
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

pub(super) const DEVICES: [(Device, &str, &str); 9] = [
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
pub(super) const WIRES: [(Device, &str); 2] =
    [(Device::Vlan10Wire, "trunk-10"), (Device::Vlan20Wire, "trunk-20")];

/// MAC addresses of the gateway's devices, fixed so that failures read alike.
pub const fn mac(device: Device) -> [u8; 6] {
    let device = match device {
        // Ports of one NIC have its address.
        Device::Vlan10 | Device::Vlan20 => Device::Trunk,
        other => other,
    };
    [2, 0xbb, 0, 0, 0, device as u8 + 1]
}

/// Gives this thread a network namespace of its own. It goes away with its last user.
pub(super) fn enter_namespace() {
    unshare(CloneFlags::CLONE_NEWNET)
        .unwrap_or_else(|error| panic!("a network namespace: {error} (root is needed)"));
}

pub(super) fn make_devices() -> BTreeMap<Device, u32> {
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
            (device, if_nametoindex(name).unwrap_or_else(|error| panic!("{name}: {error}")))
        })
        .collect()
}

/// A MAC address as ip(8) reads it.
pub(super) fn colons(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Runs commands of ip(8), one a line.
pub(super) fn run_ip(script: &str) {
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

/// An AF_XDP socket that is bound to nothing.
pub(super) fn af_xdp_socket() -> OwnedFd {
    Socket::new(Domain::from(libc::AF_XDP), Type::RAW, None).expect("an AF_XDP socket").into()
}
