//! The second gate: what the kernel sends, its own traffic and what XDP left to it. Frames that XDP redirects do not
//! come by here.
//!
//! It keeps the promise of route separation when nothing else does: nothing for a network behind a VPN leaves in
//! clear, be the daemon dead, the route wrong or the packet the kernel's own.

use sekisho_abi::flow::Hop;
use sekisho_abi::map::{SpiKey, config_flags};
use sekisho_abi::port::{PortKey, network_kind, port_flags};
use sekisho_abi::verdict::Verdict;
use sekisho_dataplane::fragment::{self, part};
use sekisho_dataplane::frame::Frame as _;
use sekisho_dataplane::icmp;
use sekisho_dataplane::parse::{Kind, Packet, ethertype, udp_port};
use sekisho_dataplane::spoof::{self, Scope};

use crate::context::SkbFrame;
use crate::maps;
use crate::path::count::Seen;
use crate::path::flow::End;
use crate::path::{self, port, rule};
use crate::scratch::Scratch;
use crate::subprogram::{self, Subprograms};

/// What becomes of a frame that the kernel is about to send.
#[inline(always)]
pub(crate) fn judge(frame: &SkbFrame, scratch: &mut Scratch) -> Result<Verdict, Verdict> {
    let seen = &mut scratch.seen;
    let config = maps::config().ok_or(Verdict::DropInternal)?;
    seen.generation = maps::generation(config);
    let key = PortKey { ifindex: seen.ifindex, vlan: 0, reserved: 0 };
    let is_bare = maps::port(key).is_some_and(|port| port.flags & port_flags::KERNEL_SAS != 0);
    let ethernet = frame.ethernet(is_bare)?;
    let closed = config.flags & config_flags::CLOSED != 0;
    if closed && ethernet.ethertype == ethertype::ARP {
        return Ok(Verdict::Pass);
    }
    if closed && ethernet.ethertype != ethertype::IPV6 {
        return Err(Verdict::DropClosed);
    }
    seen.vlan = port::vlan(seen.ifindex, config, &ethernet.destination)?;
    if !closed {
        seen.port = seen.port()?.id;
    }
    if frame.has_vlan_tag() {
        return Err(Verdict::DropVlan);
    }
    path::parse(frame, seen, &ethernet)?;
    if seen.packet.version != 0 {
        if seen.packet.fragment == part::WHOLE {
            return subprogram::egress_packet(frame, scratch);
        }
        let port = seen.port | fragment::LEAVING;
        subprogram::arrive(scratch, port)?;
        let judged = subprogram::egress_packet(frame, scratch);
        subprogram::depart(scratch, port, judged.is_ok());
        return judged;
    }
    // ARP.
    if seen.ifindex == config.engine_ifindex { Err(Verdict::DropNeighbour) } else { Ok(Verdict::Pass) }
}

/// An IP packet.
#[inline(always)]
pub(crate) fn packet(frame: &SkbFrame, scratch: &mut Scratch) -> Result<(), Verdict> {
    path::scaled(frame, &mut scratch.seen);
    let seen = &scratch.seen;
    let config = maps::config().ok_or(Verdict::DropInternal)?;
    let packet = &seen.packet;
    let is_engine = seen.ifindex == config.engine_ifindex;
    let neighbour = match packet.kind {
        Kind::Neighbour => packet.hop_limit == 255,
        Kind::Listener => packet.hop_limit == 1,
        _ => false,
    };
    if neighbour {
        return if is_engine { Err(Verdict::DropNeighbour) } else { Ok(()) };
    }
    if config.flags & config_flags::CLOSED != 0 {
        return Err(Verdict::DropClosed);
    }
    let port = seen.port()?;
    let owner = maps::network(&packet.destination);
    match owner {
        Some(owner) if owner.kind == network_kind::VPN && owner.port != port.id => {
            return Err(Verdict::DropClearEgress);
        }
        Some(owner) if owner.kind == network_kind::MARTIAN => return Err(Verdict::DropMartian),
        _ => {}
    }
    let scope = spoof::scope(packet, &packet.source);
    let own = match scope {
        Scope::Unicast => {
            maps::network(&packet.source).is_some_and(|source| source.kind == network_kind::LOCAL)
        }
        // The kernel itself sends from these only as a client or server of DHCP, or for neighbour discovery.
        Scope::LinkLocal | Scope::Unspecified => true,
        Scope::Group | Scope::Martian => return Err(Verdict::DropMartian),
    };
    if spoof::stays_on_link(spoof::scope(packet, &packet.destination)) || scope != Scope::Unicast {
        if !spoof::is_link_service(packet) || is_engine {
            return Err(Verdict::DropMulticast);
        }
        let Scratch { seen: Seen { packet, generation, .. }, asked, .. } = scratch;
        let zones = (End::GATEWAY.zone, port.zone);
        rule::about(asked, *generation, packet, true, zones, packet.destination_port_be);
        return subprogram::rule(asked, frame.bytes());
    }
    if own && port.flags & port_flags::IKE != 0 && is_ike_or_esp(packet) {
        return if is_ours(frame, packet) { Ok(()) } else { Err(Verdict::DropUnknownSpi) };
    }
    if packet.kind == Kind::IcmpError {
        // The gateway's own errors answer a packet that was let in; another's must fit a flow, as it did on entry.
        if !own {
            frame.expects_error(scratch, None, port.id)?;
        } else if is_about_a_tunnel(frame, packet) {
            return Err(Verdict::DropIcmpError);
        }
        return match config.flags & config_flags::NAT {
            0 => Ok(()),
            _ => subprogram::nat_egress_error(frame, scratch, own),
        };
    }
    if own {
        scratch.hop = Hop::default();
        return subprogram::admit(scratch, End::GATEWAY, End::of(port), frame.bytes());
    }
    subprogram::continues(frame, scratch, port.id)?;
    if scratch.nat.changes() { subprogram::nat_egress(frame, scratch) } else { Ok(()) }
}

/// Whether it says that a host behind a VPN cannot be reached: what the kernel says while it has no SA for a packet. The
/// tunnel may be on its way up, by that very packet; a TCP client would give up by the word instead of trying again. The
/// engine says nothing, either.
#[inline(always)]
fn is_about_a_tunnel(frame: &SkbFrame, error: &Packet) -> bool {
    !maps::has_engine()
        && icmp::unreachable_host(frame, error)
            .and_then(|destination| maps::network(&destination))
            .is_some_and(|network| network.kind == network_kind::VPN)
}

/// IKE from our own ports, and ESP.
#[inline(always)]
fn is_ike_or_esp(packet: &Packet) -> bool {
    let from_ike = matches!(packet.source_port(), udp_port::IKE | udp_port::IKE_NAT_T);
    packet.kind == Kind::Esp || (matches!(packet.kind, Kind::Udp | Kind::EspInUdp) && from_ike)
}

/// Whether it is IKE, or ESP by an SA of ours. A policy of other software may have taken a packet for one of our VPNs into
/// an SA of its own: to another peer, under keys that are not ours.
#[inline(always)]
fn is_ours(frame: &SkbFrame, packet: &Packet) -> bool {
    let udp = u32::from(packet.transport);
    let spi_be = match packet.kind {
        // Later fragments go as the first one did.
        Kind::Udp if packet.fragment == part::LATER => 0,
        Kind::Udp if packet.source_port() == udp_port::IKE => return is_ike(frame, udp),
        // Behind a NAT the peer has another port than 4500. Shorter: a keepalive. Zero: the non-ESP marker (RFC 3948
        // section 2.2).
        Kind::Udp => frame.read_at::<4>(udp + 8).map_or(0, u32::from_ne_bytes),
        _ => packet.spi_be,
    };
    let key = SpiKey { destination: packet.destination, spi_be };
    spi_be == 0 || maps::spi(&key).is_some_and(|spi| spi.outbound != 0)
}

/// Whether a UDP datagram from port 500, which has no marker, is IKE and not somebody's ESP: by the version and the length
/// in the IKE header (RFC 7296 section 3.1), which ESP does not have at these places but by chance.
#[inline(always)]
fn is_ike(frame: &SkbFrame, udp: u32) -> bool {
    let ike = udp + 8;
    let (Some([high, low]), Some([version]), Some(length)) =
        (frame.read_at(udp + 4), frame.read_at(ike + 17), frame.read_at(ike + 24))
    else {
        return false;
    };
    let payload = u32::from(u16::from_be_bytes([high, low])).wrapping_sub(8);
    version >> 4 == 2 && u32::from_be_bytes(length) == payload
}
