//! The addressing plan: documentation prefixes outside (RFC 5737, RFC 3849), private ones inside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, in the order in which checks run.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// A host or gateway of the lab: one namespace each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// The clinic's gateway: ports `lan1` … `lan4` and `wan`.
    Clinic,
    /// Reception: the eligibility terminal.
    Lan1,
    /// Hospital network: the claims terminal.
    Lan2,
    /// Office: the shared printer and scanner.
    Lan3,
    /// Internet PCs.
    Lan4,
    /// The router between all: what a carrier, or an attacker at the carrier, sees.
    Internet,
    /// The centre's gateway: ports `lan` and `wan`.
    Centre,
    /// The server behind the centre.
    Server,
    /// A web server on the internet.
    Web,
}

impl Place {
    /// Every place.
    pub const ALL: [Place; 9] = [
        Place::Clinic,
        Place::Lan1,
        Place::Lan2,
        Place::Lan3,
        Place::Lan4,
        Place::Internet,
        Place::Centre,
        Place::Server,
        Place::Web,
    ];

    /// The hosts at the clinic.
    pub const CLINIC_HOSTS: [Place; 4] = [Place::Lan1, Place::Lan2, Place::Lan3, Place::Lan4];

    /// The last part of the namespace's name.
    pub const fn name(self) -> &'static str {
        match self {
            Place::Clinic => "clinic",
            Place::Lan1 => "lan1",
            Place::Lan2 => "lan2",
            Place::Lan3 => "lan3",
            Place::Lan4 => "lan4",
            Place::Internet => "internet",
            Place::Centre => "centre",
            Place::Server => "server",
            Place::Web => "web",
        }
    }

    /// The place's address: a host's only one, a gateway's on the WAN side. The internet router answers with its
    /// address towards the clinic.
    pub const fn address(self, family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::V4(match self {
                Place::Clinic => Ipv4Addr::new(198, 51, 100, 2),
                Place::Lan1 => Ipv4Addr::new(192, 168, 1, 10),
                Place::Lan2 => Ipv4Addr::new(192, 168, 2, 10),
                Place::Lan3 => Ipv4Addr::new(192, 168, 3, 10),
                Place::Lan4 => Ipv4Addr::new(192, 168, 4, 10),
                Place::Internet => Ipv4Addr::new(198, 51, 100, 1),
                Place::Centre => Ipv4Addr::new(203, 0, 113, 2),
                Place::Server => Ipv4Addr::new(10, 2, 0, 10),
                Place::Web => Ipv4Addr::new(192, 0, 2, 80),
            }),
            Family::V6 => IpAddr::V6(match self {
                Place::Clinic => Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2),
                Place::Lan1 => Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x10),
                Place::Lan2 => Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0x10),
                Place::Lan3 => Ipv6Addr::new(0xfd00, 3, 0, 0, 0, 0, 0, 0x10),
                Place::Lan4 => Ipv6Addr::new(0xfd00, 4, 0, 0, 0, 0, 0, 0x10),
                Place::Internet => Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1),
                Place::Centre => Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2),
                Place::Server => Ipv6Addr::new(0xfd10, 2, 0, 0, 0, 0, 0, 0x10),
                Place::Web => Ipv6Addr::new(0x2001, 0xdb8, 0x80, 0, 0, 0, 0, 0x80),
            }),
        }
    }

    /// Address and port.
    pub const fn socket(self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(family), port)
    }
}

/// An address with its prefix length, as `ip` and the configuration write it.
#[derive(Clone, Copy, Debug)]
pub struct Interface {
    /// The device's name.
    pub device: &'static str,
    /// IPv4 address and prefix.
    pub v4: &'static str,
    /// IPv6 address and prefix.
    pub v6: &'static str,
}

/// The clinic gateway's ports as its administrator configures them.
pub const CLINIC_PORTS: [Interface; 5] = [
    Interface { device: "lan1", v4: "192.168.1.1/24", v6: "fd00:1::1/64" },
    Interface { device: "lan2", v4: "192.168.2.1/24", v6: "fd00:2::1/64" },
    Interface { device: "lan3", v4: "192.168.3.1/24", v6: "fd00:3::1/64" },
    Interface { device: "lan4", v4: "192.168.4.1/24", v6: "fd00:4::1/64" },
    Interface { device: "wan", v4: "198.51.100.2/30", v6: "2001:db8:1::2/64" },
];

/// The centre gateway's ports.
pub const CENTRE_PORTS: [Interface; 2] = [
    Interface { device: "lan", v4: "10.2.0.1/24", v6: "fd10:2::1/64" },
    Interface { device: "wan", v4: "203.0.113.2/30", v6: "2001:db8:2::2/64" },
];

/// Next hops of the clinic's WAN port, IPv4 and IPv6.
pub const CLINIC_NEXT_HOPS: [&str; 2] = ["198.51.100.1", "2001:db8:1::1"];

/// Next hops of the centre's WAN port, IPv4 and IPv6.
pub const CENTRE_NEXT_HOPS: [&str; 2] = ["203.0.113.1", "2001:db8:2::1"];

/// The network behind the centre, IPv4 and IPv6.
pub const SERVER_NETWORKS: [&str; 2] = ["10.2.0.0/24", "fd10:2::/64"];

/// The clinic's network that uses the VPN, IPv4 and IPv6.
pub const LAN1_NETWORKS: [&str; 2] = ["192.168.1.0/24", "fd00:1::/64"];
