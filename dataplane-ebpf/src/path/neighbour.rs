//! ARP, neighbour discovery and multicast listeners: checked against the port's networks, then the kernel's.

use sekisho_abi::port::{Port, port_flags};
use sekisho_abi::verdict::Verdict;
use sekisho_dataplane::neighbour;
use sekisho_dataplane::parse::{Ethernet, Packet};

use crate::context::XdpFrame;
use crate::maps;
use crate::path::count::Seen;

/// An ARP packet on a port.
#[inline(always)]
pub(crate) fn arp(frame: &XdpFrame, seen: &Seen) -> Result<Verdict, Verdict> {
    let port = seen.port()?;
    has_neighbours(port)?;
    let ethernet = Ethernet::read(frame)?;
    let arp = neighbour::arp(frame, &ethernet)?;
    if !arp.probe {
        neighbour::claim(maps::network(&arp.sender), port)?;
    }
    Ok(Verdict::Pass)
}

/// A neighbour discovery message on a port.
#[inline(always)]
pub(crate) fn discovery(frame: &XdpFrame, seen: &Seen) -> Result<Verdict, Verdict> {
    let port = seen.port()?;
    has_neighbours(port)?;
    let message = neighbour::discovery(frame, &seen.packet)?;
    neighbour::link_layer(frame, &seen.packet, &Ethernet::read(frame)?)?;
    if message.router && port.flags & port_flags::UPLINK == 0 {
        return Err(Verdict::DropNeighbour);
    }
    if let Some(source) = message.source {
        neighbour::claim(maps::network(&source), port)?;
    }
    if let Some(target) = message.target {
        let owner = maps::network(&target);
        if message.claims {
            neighbour::claim(owner, port)?;
        } else {
            neighbour::question(owner, port)?;
        }
    }
    Ok(Verdict::Pass)
}

/// A multicast listener message on a port.
#[inline(always)]
pub(crate) fn listener(packet: &Packet, port: &Port) -> Result<Verdict, Verdict> {
    has_neighbours(port)?;
    neighbour::listener(packet)?;
    Ok(Verdict::Pass)
}

#[inline(always)]
fn has_neighbours(port: &Port) -> Result<(), Verdict> {
    if port.flags & port_flags::VPN != 0 { Err(Verdict::DropNeighbour) } else { Ok(()) }
}
