//! Lays namespaces and cables.
//!
//! A veth pair is not a cable: it hands over packets larger than the MTU and without checksums. So at every end that
//! feeds a gateway the offloads are off, and the peers of ports that XDP redirects to have GRO on, without which a
//! veth refuses redirected frames. `gro on` counts only when it is toggled after the link is up.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Lab;
use super::namespace::{Namespace, output};
use super::plan::{
    CENTRE_NEXT_HOPS, CENTRE_PORTS, CLINIC_NEXT_HOPS, CLINIC_PORTS, Family, Interface, Place, SERVER_NETWORKS,
};

/// What is between the gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// The internet: a router, which a tap can look at.
    Routed,
    /// One cable. Each gateway takes the other for its provider's router: the router's part of the machine is spared, where the
    /// gateways are what is measured.
    Straight,
}

/// Both ends of one cable.
#[derive(Clone, Copy)]
struct Cable {
    near: (Place, &'static str),
    far: (Place, &'static str),
}

const CABLES: [Cable; 8] = [
    Cable { near: (Place::Clinic, "lan1"), far: (Place::Lan1, "eth0") },
    Cable { near: (Place::Clinic, "lan2"), far: (Place::Lan2, "eth0") },
    Cable { near: (Place::Clinic, "lan3"), far: (Place::Lan3, "eth0") },
    Cable { near: (Place::Clinic, "lan4"), far: (Place::Lan4, "eth0") },
    Cable { near: (Place::Clinic, "wan"), far: (Place::Internet, "clinic") },
    Cable { near: (Place::Centre, "lan"), far: (Place::Server, "eth0") },
    Cable { near: (Place::Centre, "wan"), far: (Place::Internet, "centre") },
    Cable { near: (Place::Internet, "web"), far: (Place::Web, "eth0") },
];

/// From gateway to gateway.
const STRAIGHT: Cable = Cable { near: (Place::Clinic, "wan"), far: (Place::Centre, "wan") };

impl Line {
    fn cables(self) -> Vec<Cable> {
        match self {
            Line::Routed => CABLES.to_vec(),
            Line::Straight => {
                let wan = |cable: &Cable| cable.near.1 == "wan";
                CABLES.into_iter().filter(|cable| !wan(cable)).chain([STRAIGHT]).collect()
            }
        }
    }
}

/// The router's own addresses.
const ROUTER_PORTS: [Interface; 3] = [
    Interface { device: "clinic", v4: "198.51.100.1/30", v6: "2001:db8:1::1/64" },
    Interface { device: "centre", v4: "203.0.113.1/30", v6: "2001:db8:2::1/64" },
    Interface { device: "web", v4: "192.0.2.1/24", v6: "2001:db8:80::1/64" },
];

/// Makes everything but the gateways' own addresses, which are their daemons' work.
pub(super) fn lay(lab: &Lab, line: Line) -> Result<()> {
    let cables = line.cables();
    let names = Place::ALL.map(|place| lab.at(place));
    let mut batch = String::new();
    for name in &names {
        lab.record().namespace(name.name())?;
        let _ = writeln!(batch, "netns add {}", name.name());
    }
    ip(&[], &batch)?;
    for namespace in &names {
        prepare(namespace)?;
    }
    let mut batch = String::new();
    for Cable { near: (near, near_device), far: (far, far_device) } in &cables {
        let (near, far) = (lab.at(*near), lab.at(*far));
        let _ = writeln!(
            batch,
            "link add {near_device} mtu 1500 netns {} type veth peer name {far_device} mtu 1500 netns {}",
            near.name(),
            far.name()
        );
    }
    ip(&[], &batch)?;
    for (place, namespace) in Place::ALL.iter().zip(&names) {
        ip(&["-n", namespace.name()], &addresses(*place, line))?;
    }
    match line {
        Line::Routed => forward(&lab.at(Place::Internet))?,
        Line::Straight => introduce(lab)?,
    }
    for Cable { near, far } in &cables {
        for (place, device) in [near, far] {
            if !matches!(place, Place::Clinic | Place::Centre) {
                behave_like_a_cable(&lab.at(*place), device)?;
            }
        }
    }
    Ok(())
}

/// Gives every device so many receive and transmit queues. Before any gateway is at work: under XDP an end would need as many
/// queues as the other has at every moment.
pub fn widen(lab: &Lab, queues: u32) -> Result<()> {
    for Cable { near, far } in &CABLES {
        for end in [near, far] {
            set_queues(lab, *end, &["rx", "tx"], queues)?;
        }
    }
    Ok(())
}

/// The same for the clinic's WAN alone, with a gateway at work: what receives comes before what sends to it.
pub fn widen_wan(lab: &Lab, queues: u32) -> Result<()> {
    let ends = [(Place::Internet, "clinic"), (Place::Clinic, "wan")];
    ["rx", "tx"]
        .iter()
        .try_for_each(|way| ends.iter().try_for_each(|end| set_queues(lab, *end, &[way], queues)))
}

fn set_queues(lab: &Lab, (place, device): (Place, &str), ways: &[&str], queues: u32) -> Result<()> {
    let queues = queues.to_string();
    let mut ethtool = Command::new("ethtool");
    ethtool.args(["-L", device]);
    for way in ways {
        ethtool.args([way, queues.as_str()]);
    }
    lab.at(place).output(&mut ethtool)?;
    Ok(())
}

/// Gives both gateways what [`configure`] gives one: with it everything reaches everything, which shows that what is
/// refused later is refused by the filter.
pub fn forward_without_filter(lab: &Lab) -> Result<()> {
    configure(lab, Place::Clinic)?;
    configure(lab, Place::Centre)
}

/// Gives a gateway addresses, routes and plain forwarding, as a router without any filter has them.
pub fn configure(lab: &Lab, gateway: Place) -> Result<()> {
    let (ports, next_hops): (&[Interface], _) = match gateway {
        Place::Clinic => (&CLINIC_PORTS, CLINIC_NEXT_HOPS),
        Place::Centre => (&CENTRE_PORTS, CENTRE_NEXT_HOPS),
        other => bail!("{} is no gateway", other.name()),
    };
    let namespace = lab.at(gateway);
    let mut batch = String::new();
    for port in ports {
        add_addresses(&mut batch, port);
    }
    for next_hop in next_hops {
        let _ = writeln!(batch, "route add default via {next_hop}");
    }
    ip(&["-n", namespace.name()], &batch)?;
    forward(&namespace)
}

/// Switches plain forwarding on.
pub(crate) fn forward(namespace: &Namespace) -> Result<()> {
    namespace.sysctl("ipv4/ip_forward", "1")?;
    namespace.sysctl("ipv6/conf/all/forwarding", "1")
}

/// Before there are devices: they copy these from `default` when they appear.
pub(super) fn prepare(namespace: &Namespace) -> Result<()> {
    for (path, value) in [
        // Duplicate address detection would keep every address unusable for a second.
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
        ("ipv6/conf/default/router_solicitations", "0"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv4/conf/all/send_redirects", "0"),
        ("ipv4/conf/default/send_redirects", "0"),
    ] {
        namespace.sysctl(path, value)?;
    }
    Ok(())
}

/// Each gateway knows the other one's device by the address of its own next hop.
fn introduce(lab: &Lab) -> Result<()> {
    for (place, other, next_hops) in
        [(Place::Clinic, Place::Centre, CLINIC_NEXT_HOPS), (Place::Centre, Place::Clinic, CENTRE_NEXT_HOPS)]
    {
        let mac = lab.at(other).mac("wan")?.map(|byte| format!("{byte:02x}")).join(":");
        let mut batch = String::new();
        for next_hop in next_hops {
            let _ = writeln!(batch, "neigh replace {next_hop} lladdr {mac} dev wan nud permanent");
        }
        ip(&["-n", lab.at(place).name()], &batch)?;
    }
    Ok(())
}

fn addresses(place: Place, line: Line) -> String {
    let mut batch = "link set lo up\n".to_owned();
    let host = |batch: &mut String, prefixes: (u8, u8), gateways: (&str, &str)| {
        let _ = writeln!(batch, "link set eth0 up");
        let _ = writeln!(batch, "addr add {}/{} dev eth0", place.address(Family::V4), prefixes.0);
        let _ = writeln!(batch, "addr add {}/{} dev eth0 nodad", place.address(Family::V6), prefixes.1);
        let _ = writeln!(batch, "route add default via {}\nroute add default via {}", gateways.0, gateways.1);
    };
    match place {
        Place::Lan1 => host(&mut batch, (24, 64), ("192.168.1.1", "fd00:1::1")),
        Place::Lan2 => host(&mut batch, (24, 64), ("192.168.2.1", "fd00:2::1")),
        Place::Lan3 => host(&mut batch, (24, 64), ("192.168.3.1", "fd00:3::1")),
        Place::Lan4 => host(&mut batch, (24, 64), ("192.168.4.1", "fd00:4::1")),
        Place::Server => host(&mut batch, (24, 64), ("10.2.0.1", "fd10:2::1")),
        Place::Web => host(&mut batch, (24, 64), ("192.0.2.1", "2001:db8:80::1")),
        Place::Clinic => CLINIC_PORTS.iter().for_each(|port| link_up(&mut batch, port.device)),
        Place::Centre => CENTRE_PORTS.iter().for_each(|port| link_up(&mut batch, port.device)),
        Place::Internet if line == Line::Straight => {}
        Place::Internet => {
            for port in &ROUTER_PORTS {
                link_up(&mut batch, port.device);
                add_addresses(&mut batch, port);
            }
            // The carrier knows the way to every network behind the gateways: only their filters keep it out.
            for lan in 1..=4 {
                let _ =
                    writeln!(batch, "route add 192.168.{lan}.0/24 via {}", Place::Clinic.address(Family::V4));
                let _ =
                    writeln!(batch, "route add fd00:{lan}::/64 via {}", Place::Clinic.address(Family::V6));
            }
            for (network, family) in SERVER_NETWORKS.iter().zip(Family::BOTH) {
                let _ = writeln!(batch, "route add {network} via {}", Place::Centre.address(family));
            }
        }
    }
    batch
}

fn link_up(batch: &mut String, device: &str) {
    let _ = writeln!(batch, "link set {device} up");
}

fn add_addresses(batch: &mut String, port: &Interface) {
    let _ = writeln!(batch, "addr add {} dev {}", port.v4, port.device);
    let _ = writeln!(batch, "addr add {} dev {} nodad", port.v6, port.device);
}

/// What is sent into the cable here has the size and the checksums of frames on a cable, and what XDP sends is taken.
pub fn behave_like_a_cable(namespace: &Namespace, device: &str) -> Result<()> {
    for features in [&["tso", "off", "gso", "off", "tx", "off", "gro", "off"][..], &["gro", "on"][..]] {
        namespace.output(Command::new("ethtool").arg("-K").arg(device).args(features))?;
    }
    Ok(())
}

/// Gives a link another MTU, at both of its ends.
pub fn set_mtu(ends: [(&Namespace, &str); 2], mtu: u32) -> Result<()> {
    ends.iter().try_for_each(|(namespace, device)| {
        ip_show(namespace, &["link", "set", device, "mtu", &mtu.to_string()]).map(drop)
    })
}

/// Has a host or gateway forget what it has learned of paths.
pub fn forget_paths(namespace: &Namespace) -> Result<()> {
    ["-4", "-6"]
        .iter()
        .try_for_each(|family| ip_show(namespace, &[family, "route", "flush", "cache"]).map(drop))
}

/// Runs `ip -batch` over the lines.
pub fn ip(arguments: &[&str], batch: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(arguments)
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting ip (package iproute2)")?;
    child.stdin.take().context("ip has no stdin")?.write_all(batch.as_bytes()).context("writing to ip")?;
    let output = child.wait_with_output().context("waiting for ip")?;
    if !output.status.success() {
        bail!("ip {arguments:?} refused:\n{}of:\n{batch}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Runs one `ip` command in a namespace and returns what it printed.
pub fn ip_show(namespace: &Namespace, arguments: &[&str]) -> Result<String> {
    output(Command::new("ip").args(["-n", namespace.name()]).args(arguments))
}
