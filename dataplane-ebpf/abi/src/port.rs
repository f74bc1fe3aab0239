//! Ports and the networks behind them.

use crate::pod;

/// Where a packet entered: a NIC, or one VLAN of a NIC.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortKey {
    /// ifindex of the NIC.
    pub ifindex: u32,
    /// VLAN id of a trunk's port, 0 for untagged frames. For the engine's device this is the VPN port's id: the
    /// engine writes it into the source MAC of what it has decrypted (see [`engine_mac`]). Where the SAs are the kernel's, a VPN
    /// port stands under its xfrm interface, and once more under ifindex 0 with its id here, to be found by a network's owner.
    pub vlan: u16,
    /// Zero.
    pub reserved: u16,
}

/// A port of the gateway.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// The port's number, 1 … [`PORTS_MAX`](crate::map::PORTS_MAX) − 1. 0 means no port.
    pub id: u16,
    /// The zone it belongs to; [`ZONE_GATEWAY`] is the gateway itself.
    pub zone: u16,
    /// [`port_flags`].
    pub flags: u32,
    /// First index of this NIC's receive queues in `SOCKETS`, and how many there are. 0 queues: the engine does not
    /// listen here.
    pub xsk_base: u16,
    /// Number of receive queues.
    pub xsk_queues: u16,
    /// Largest IP packet in bytes that may leave through this port.
    pub mtu: u16,
    /// The port's own MAC address.
    pub mac: [u8; 6],
    /// ifindex to leave by.
    pub ifindex: u32,
}

/// The gateway itself as a zone: local services as destination, its own traffic as source.
pub const ZONE_GATEWAY: u16 = 0;

/// Bits of [`Port::flags`].
pub mod port_flags {
    /// The way to every network that no other port owns: source addresses without an entry in `NETWORKS` may enter.
    pub const UPLINK: u32 = 1 << 0;
    /// The far side of a VPN: no neighbours, no ARP, frames are to or from the engine.
    pub const VPN: u32 = 1 << 1;
    /// IKE (UDP 500, 4500) and ESP to the gateway are taken here.
    pub const IKE: u32 = 1 << 2;
    /// Besides `VPN`: the SAs are the kernel's (XFRM), and the device is an xfrm interface. What leaves by it has no Ethernet
    /// header; what comes out of it still has that of the ESP packet it was in.
    pub const KERNEL_SAS: u32 = 1 << 8;
}

/// Which port a prefix belongs to. The longest prefix decides; it is asked for the source (is it allowed to come from
/// here?) and for the destination (is it the gateway, a VPN, or the kernel's route?).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Owner's port id.
    pub port: u16,
    /// Owner's zone.
    pub zone: u16,
    /// [`network_kind`].
    pub kind: u16,
    /// Zero.
    pub reserved: u16,
}

/// Values of [`Network::kind`].
pub mod network_kind {
    /// Directly on a port, or routed behind a host there.
    pub const PORT: u16 = 1;
    /// Behind a VPN: enters and leaves through the VPN's port only (route separation).
    pub const VPN: u16 = 2;
    /// An address of the gateway itself (full-length prefix), subnet broadcast addresses included.
    pub const LOCAL: u16 = 3;
    /// Never a valid source or destination on any wire: martians (RFC 6890), as configured by the daemon.
    pub const MARTIAN: u16 = 4;
}

/// MAC address in which the engine's frames carry a VPN port's id: as destination of what shall be encrypted, as
/// source of what was decrypted. Locally administered; the last two bytes are the id, big-endian.
#[inline(always)]
pub const fn engine_mac(port: u16) -> [u8; 6] {
    [
        ENGINE_MAC_PREFIX[0],
        ENGINE_MAC_PREFIX[1],
        ENGINE_MAC_PREFIX[2],
        ENGINE_MAC_PREFIX[3],
        (port >> 8) as u8,
        port as u8,
    ]
}

/// First four bytes of every [`engine_mac`].
pub const ENGINE_MAC_PREFIX: [u8; 4] = [0x02, 0x5e, 0x50, 0x00];

pod!(PortKey, Port, Network);
