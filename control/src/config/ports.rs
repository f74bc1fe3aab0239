//! `[ports.*]`: interfaces, addresses, networks behind them, uplinks.

use std::net::IpAddr;

use ipnet::IpNet;
use toml::Spanned;

use super::Route;
use super::diagnostic::Report;
use super::name::read_name;
use super::neighbours::{self, Binding, Neighbours};
use super::table::Section;

/// One port as the file has it.
pub(super) struct PortSpec {
    pub(super) name: Spanned<String>,
    /// `None` where a finding has been made of it.
    pub(super) interface: Option<Spanned<String>>,
    /// `None` for untagged frames.
    pub(super) vlan: Option<Spanned<u16>>,
    pub(super) zone: Spanned<String>,
    pub(super) addresses: Vec<Spanned<IpNet>>,
    pub(super) networks: Vec<Spanned<Route>>,
    pub(super) uplink: bool,
    pub(super) gateways: Vec<Spanned<IpAddr>>,
    pub(super) neighbours: Neighbours,
    pub(super) bindings: Vec<Spanned<Binding>>,
}

impl PortSpec {
    /// Everything that is on this port or behind it, as networks.
    pub(super) fn reached(&self) -> impl Iterator<Item = Spanned<IpNet>> {
        let subnets = self.addresses.iter().map(|a| Spanned::new(a.span(), a.get_ref().trunc()));
        subnets.chain(self.networks.iter().map(|route| Spanned::new(route.span(), route.get_ref().prefix)))
    }

    fn vlan(&self) -> Option<u16> {
        self.vlan.as_ref().map(|vlan| *vlan.get_ref())
    }

    /// The device that the gateway makes for it.
    fn made_device(&self) -> Option<String> {
        Some(device_name(self.interface.as_ref()?.get_ref(), self.vlan()?))
    }

    pub(super) fn on_subnet(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|subnet| subnet.get_ref().contains(&address))
    }

    pub(super) fn own(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.get_ref().addr() == address)
    }
}

/// Reads the section and checks each port by itself, then all together.
pub(super) fn read(file: &Section<'_>, report: &Report) -> Vec<PortSpec> {
    let sections = file.sections("ports");
    if sections.is_empty() && !file.has("ports") {
        let _: Option<()> =
            file.missing("[ports.NAME]", "{ interface = \"eth0\", addresses = [\"192.168.1.1/24\"] }");
    }
    let ports: Vec<PortSpec> =
        sections.into_iter().map(|(name, section)| read_port(name, section, report)).collect();
    for port in &ports {
        check_addresses(port, report);
        check_networks(port, report);
        check_uplink(port, report);
        neighbours::check(port, report);
    }
    check_interfaces(&ports, report);
    check_overlaps(&ports, report);
    ports
}

fn read_port(name: Spanned<String>, section: Section<'_>, report: &Report) -> PortSpec {
    let name = read_name(name, "a port", report);
    let interface = match section.string("interface") {
        Some(interface) => Some(interface),
        None if section.has("interface") => None,
        None => section.missing("interface", &format!("\"{}\"", name.get_ref())),
    };
    if let Some(interface) = &interface {
        check_interface_name(interface, report);
    }
    let vlan = read_vlan(&section, interface.as_ref(), report);
    let zone =
        section.string("zone").map(|zone| read_name(zone, "a zone", report)).unwrap_or_else(|| name.clone());
    let addresses =
        section.parsed_list("addresses", "an address with its prefix length, as 192.168.1.1/24", |text| {
            text.parse().ok()
        });
    if addresses.is_none() && !section.has("addresses") {
        let _: Option<()> = section.missing("addresses", "[\"192.168.1.1/24\"]");
    }
    if addresses.as_ref().is_some_and(Vec::is_empty)
        && section.strings("addresses").is_some_and(|all| all.is_empty())
    {
        report
            .error(section.key_span("addresses"), format!("{} has no address", section.title()))
            .expected("expected at least one address")
            .remedy("give the gateway's own address on this port, as \"192.168.1.1/24\"");
    }
    let networks = section.parsed_list(
        "networks",
        "a network and its next hop, as 10.9.0.0/16 via 192.168.1.254",
        |text| {
            let (prefix, via) = text.split_once(" via ")?;
            Some(Route { prefix: prefix.trim().parse().ok()?, via: via.trim().parse().ok()? })
        },
    );
    let uplink = section.boolean("uplink").is_some_and(Spanned::into_inner);
    let gateways = section.parsed_list("gateways", "an address, as 198.51.100.1", |text| text.parse().ok());
    if uplink && !section.has("gateways") {
        report
            .error(section.span(), format!("the uplink {} has no gateway", section.title()))
            .expected("expected `gateways` in this section")
            .remedy(
                "add `gateways = [\"…\"]` with the provider's router, one per family of addresses in use",
            );
    }
    if !uplink && section.has("gateways") {
        report
            .error(section.key_span("gateways"), format!("{} has gateways but is no uplink", section.title()))
            .remedy(
                "add `uplink = true` if the internet is behind this port; for a network behind a router use \
                 `networks = [\"PREFIX via ROUTER\"]`",
            );
    }
    let (neighbours, bindings) = neighbours::read(&section, report);
    section.finish();
    PortSpec {
        name,
        interface,
        vlan,
        zone,
        addresses: addresses.unwrap_or_default(),
        networks: networks.unwrap_or_default(),
        uplink,
        gateways: gateways.unwrap_or_default(),
        neighbours,
        bindings,
    }
}

/// What the kernel takes as a name (dev_valid_name), so that the mistake shows here and not at the first start.
fn check_interface_name(interface: &Spanned<String>, report: &Report) {
    let name = interface.get_ref();
    let valid = (1..=NAME_MAX).contains(&name.len())
        && name != "."
        && name != ".."
        && name.chars().all(|c| c.is_ascii_graphic() && c != '/' && c != ':');
    if !valid {
        report
            .error(interface.span(), format!("\"{}\" is no name of an interface", name.escape_debug()))
            .expected("expected 1 to 15 characters without spaces, `/` and `:`")
            .remedy("`ip link` shows the names of this host's interfaces");
    }
}

/// VLAN ids that name a VLAN; 0 and 4095 do not (IEEE 802.1Q table 9-2).
const VLANS: std::ops::RangeInclusive<u16> = 1..=4094;

/// Longest name of an interface (IFNAMSIZ without the terminator).
const NAME_MAX: usize = 15;

/// The name of the device that stands for a VLAN of a NIC, as administrators are used to it.
pub(super) fn device_name(interface: &str, vlan: u16) -> String {
    format!("{interface}.{vlan}")
}

fn read_vlan(
    section: &Section<'_>,
    interface: Option<&Spanned<String>>,
    report: &Report,
) -> Option<Spanned<u16>> {
    let read = section.integer("vlan")?;
    let Some(vlan) = u16::try_from(*read.get_ref()).ok().filter(|vlan| VLANS.contains(vlan)) else {
        report
            .error(read.span(), format!("{} is no VLAN id", read.get_ref()))
            .expected(format!("expected a number from {} to {}", VLANS.start(), VLANS.end()))
            .remedy("name the VLAN as the switch has it; without `vlan` the port takes untagged frames");
        return None;
    };
    if let Some(interface) = interface {
        let device = device_name(interface.get_ref(), vlan);
        if device.len() > NAME_MAX && interface.get_ref().len() <= NAME_MAX {
            report
                .error(interface.span(), format!("the name of the VLAN's device, {device}, is too long"))
                .expected(format!("expected at most {NAME_MAX} characters, VLAN id and dot included"))
                .remedy(
                    "give the interface a shorter name (a .link file of systemd, or `ip link set … name …`)",
                );
        }
    }
    Some(Spanned::new(read.span(), vlan))
}

fn check_addresses(port: &PortSpec, report: &Report) {
    for (index, address) in port.addresses.iter().enumerate() {
        let subnet = *address.get_ref();
        let host = subnet.addr();
        if let Some((why, remedy)) = unusable(subnet) {
            report
                .error(address.span(), format!("{host} cannot be an address of the gateway: it is {why}"))
                .expected("expected the address of one host")
                .remedy(remedy);
        }
        if let Some(first) = port.addresses.iter().take(index).find(|first| first.get_ref().addr() == host) {
            report
                .error(address.span(), format!("{host} stands twice"))
                .related(first.span(), "first here")
                .remedy("remove one of the two");
        }
    }
}

/// Why an address with its prefix cannot be a host's, and what to write in its place.
fn unusable(subnet: IpNet) -> Option<(&'static str, String)> {
    let remedy_inside = || match subnet.hosts().next() {
        Some(host) => format!("take an address inside the subnet, as {host}/{}", subnet.prefix_len()),
        None => "take an address of a subnet".to_owned(),
    };
    let address = subnet.addr();
    if address.is_loopback() || address.is_multicast() || address.is_unspecified() {
        return Some(("no host's address on any wire", "take an address of this port's subnet".to_owned()));
    }
    match subnet {
        IpNet::V4(net) if net.prefix_len() == 0 => Some(("in no subnet", remedy_inside())),
        IpNet::V6(net) if net.prefix_len() == 0 => Some(("in no subnet", remedy_inside())),
        IpNet::V4(net) if net.addr().octets()[0] == 0 || net.addr().octets()[0] >= 240 => {
            Some(("reserved (RFC 6890)", "take an address of this port's subnet".to_owned()))
        }
        IpNet::V4(net) if net.prefix_len() <= 30 && net.addr() == net.network() => {
            Some(("the subnet's own number", remedy_inside()))
        }
        IpNet::V4(net) if net.prefix_len() <= 30 && net.addr() == net.broadcast() => {
            Some(("the subnet's broadcast address", remedy_inside()))
        }
        IpNet::V6(net) if net.prefix_len() <= 126 && net.addr() == net.network() => {
            Some(("the subnet-router anycast address (RFC 4291 section 2.6.1)", remedy_inside()))
        }
        IpNet::V6(net) if net.addr().is_unicast_link_local() => Some((
            "link-local, which the kernel gives itself",
            "take a global or unique local address".to_owned(),
        )),
        IpNet::V6(net) if net.addr().to_ipv4_mapped().is_some() => {
            Some(("an IPv4-mapped address", "write it as an IPv4 address".to_owned()))
        }
        _ => None,
    }
}

fn check_networks(port: &PortSpec, report: &Report) {
    for route in &port.networks {
        let Route { prefix, via } = *route.get_ref();
        if prefix != prefix.trunc() {
            report
                .error(route.span(), format!("{prefix} is a host's address, not a network"))
                .remedy(format!("write {}", prefix.trunc()));
        }
        if !holds_hosts(&prefix) {
            report.error(route.span(), format!("{prefix} is no network of hosts")).remedy(
                "loopback, link-local and multicast addresses are never routed; name another network",
            );
        }
        if prefix.prefix_len() == 0 {
            report
                .error(route.span(), "a default route is no network behind a port")
                .remedy("mark the port `uplink = true` and name the router in `gateways`");
        }
        if via.is_ipv4() != prefix.addr().is_ipv4() {
            report
                .error(route.span(), format!("{prefix} and its next hop {via} are of different families"))
                .remedy("name a next hop of the network's own family");
        } else if port.own(via) {
            report
                .error(route.span(), format!("the next hop {via} is the gateway itself"))
                .remedy("name the router behind which the network lies");
        } else if !port.on_subnet(via) {
            report
                .error(
                    route.span(),
                    format!("the next hop {via} is in no subnet of port {}", port.name.get_ref()),
                )
                .remedy("name a router inside one of this port's subnets");
        }
    }
}

fn check_uplink(port: &PortSpec, report: &Report) {
    for (index, gateway) in port.gateways.iter().enumerate() {
        let address = *gateway.get_ref();
        if port.own(address) {
            report
                .error(gateway.span(), format!("the gateway {address} is this gateway's own address"))
                .expected("expected the provider's router")
                .remedy("name the router on the other end of the line");
        } else if !port.on_subnet(address) {
            report
                .error(
                    gateway.span(),
                    format!("the gateway {address} is in no subnet of port {}", port.name.get_ref()),
                )
                .expected("expected an address inside one of the port's subnets")
                .remedy("correct the gateway, or the prefix length of the port's address");
        }
        let same_family = |other: &&Spanned<IpAddr>| other.get_ref().is_ipv4() == address.is_ipv4();
        if let Some(first) = port.gateways.iter().take(index).find(same_family) {
            report
                .error(gateway.span(), "two gateways of one family")
                .related(first.span(), "the first one")
                .remedy("keep one IPv4 and one IPv6 gateway per uplink");
        }
    }
}

/// Two ports on one interface are told apart by their VLAN ids, of which one may be none.
fn check_interfaces(ports: &[PortSpec], report: &Report) {
    for (index, port) in ports.iter().enumerate() {
        let Some(interface) = &port.interface else { continue };
        let (nic, vlan) = (interface.get_ref(), port.vlan());
        let others = || ports.iter().take(index).filter_map(|other| Some((other, other.interface.as_ref()?)));
        if let Some((_, first)) = others().find(|(other, on)| on.get_ref() == nic && other.vlan() == vlan) {
            let (what, remedy) = match vlan {
                None => (format!("interface {nic}"), "give each port an interface, or a VLAN, of its own"),
                Some(vlan) => (format!("VLAN {vlan} of {nic}"), "give each port a VLAN of its own"),
            };
            report
                .error(interface.span(), format!("{what} is a port already"))
                .related(first.span(), "first here")
                .remedy(remedy);
        }
        let mut devices = ports.iter().filter_map(PortSpec::made_device);
        if devices.any(|device| device == *nic) {
            report
                .error(interface.span(), format!("{nic} is the device of another port's VLAN"))
                .expected("expected the interface of a NIC")
                .remedy(
                    "write `interface` and `vlan` as two keys; the gateway makes the VLAN's device itself",
                );
        }
    }
}

/// Two ports that claim one address could not be told apart by the spoof check.
fn check_overlaps(ports: &[PortSpec], report: &Report) {
    for (index, port) in ports.iter().enumerate() {
        for mine in port.reached() {
            for other in ports.iter().take(index) {
                if let Some(theirs) = other.reached().find(|theirs| overlap(theirs.get_ref(), mine.get_ref()))
                {
                    report
                        .error(
                            mine.span(),
                            format!(
                                "{} overlaps {} of port {}",
                                mine.get_ref(),
                                theirs.get_ref(),
                                other.name.get_ref()
                            ),
                        )
                        .related(theirs.span(), "the other network")
                        .remedy("give each port a network of its own; one side must be renumbered");
                }
            }
        }
    }
}

/// Whether a prefix may hold hosts that a router reaches (RFC 6890); the default route may.
pub(super) fn holds_hosts(prefix: &IpNet) -> bool {
    let address = prefix.network();
    let routable = match address {
        IpAddr::V4(v4) => {
            !v4.is_link_local() && v4.octets()[0] < 240 && (v4.octets()[0] != 0 || prefix.prefix_len() < 8)
        }
        IpAddr::V6(v6) => {
            !v6.is_unicast_link_local()
                && (!v6.is_unspecified() || prefix.prefix_len() < 8)
                && v6.to_ipv4_mapped().is_none()
        }
    };
    routable && !address.is_loopback() && !address.is_multicast()
}

/// Whether two networks have an address in common.
pub(super) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}
