//! Step 2: which port a frame came by, and whether it is for that port.

use sekisho_abi::map::Config;
use sekisho_abi::port::{ENGINE_MAC_PREFIX, Port, port_flags};
use sekisho_abi::verdict::Verdict;
use sekisho_dataplane::parse::Ethernet;

/// Whom a frame is for.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Receiver {
    /// The port's own MAC address.
    Port,
    /// A multicast or broadcast MAC address.
    Group,
}

/// The key of the port a frame came by or leaves by, in `PORTS`. On the engine's device `engine_side` names the VPN
/// port: its source address where the engine sent it, its destination where the engine gets it.
#[inline(always)]
pub(crate) fn vlan(ifindex: u32, config: &Config, engine_side: &[u8; 6]) -> Result<u16, Verdict> {
    if ifindex == config.engine_ifindex { vpn_port(engine_side) } else { Ok(0) }
}

/// The VPN port in an [`engine_mac`](sekisho_abi::port::engine_mac).
#[inline(always)]
fn vpn_port(mac: &[u8; 6]) -> Result<u16, Verdict> {
    let [p0, p1, p2, p3, high, low] = *mac;
    if [p0, p1, p2, p3] != ENGINE_MAC_PREFIX {
        return Err(Verdict::DropNoPort);
    }
    let port = u16::from_be_bytes([high, low]);
    if port == 0 { Err(Verdict::DropNoPort) } else { Ok(port) }
}

/// Refuses what is for another station: as XDP comes before the NIC's filter is felt, a switch that floods would
/// otherwise have its frames forwarded twice.
#[inline(always)]
pub(crate) fn receiver(ethernet: &Ethernet, port: &Port) -> Result<Receiver, Verdict> {
    if port.flags & port_flags::VPN != 0 || ethernet.destination == port.mac {
        Ok(Receiver::Port)
    } else if ethernet.to_group() {
        Ok(Receiver::Group)
    } else {
        Err(Verdict::DropOtherHost)
    }
}
