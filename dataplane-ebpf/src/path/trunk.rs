//! Before step 1, and after the last: the tag of a trunk's ports (IEEE 802.1Q).
//!
//! A tagged frame loses its tag first of all, and from there on is its port's: the device it came by is the one by which
//! the kernel knows the port, a veth pair's end, which has the port's addresses, routes and neighbours. A packet that
//! leaves by such a port gets its tag last of all, and goes to the NIC at once. What the kernel shall receive takes
//! the way through the pair, and so does what the kernel sends.

use aya_ebpf::bindings::xdp_action;
use sekisho_abi::port::{Port, PortKey};
use sekisho_abi::verdict::Verdict;
use sekisho_dataplane::frame::Frame;
use sekisho_dataplane::parse::Ethernet;
use sekisho_dataplane::vlan;

use crate::context::XdpFrame;
use crate::maps;
use crate::path::count::Seen;
use crate::path::{local, parse};
use crate::scratch::Scratch;

/// Whether the frame has a tag.
#[inline(always)]
pub(crate) fn is_tagged(frame: &XdpFrame) -> bool {
    frame.read_u16(12).is_some_and(|kind| vlan::is_tag(u16::from_be(kind)))
}

/// Takes the tag off and finds the port that it names.
#[inline(always)]
pub(crate) fn untag(frame: &XdpFrame, scratch: &mut Scratch) -> Result<(), Verdict> {
    let Scratch { seen, handover, came_tagged, .. } = scratch;
    let named = vlan::read(frame).and_then(|vlan| port(seen.ifindex, vlan).ok_or(Verdict::DropVlanUnknown));
    match named {
        Ok(port) => {
            frame.pop_tag().ok_or(Verdict::DropInternal)?;
            seen.ifindex = port.ifindex;
            *handover = port.handover_ifindex;
            *came_tagged = port.vlan;
            Ok(())
        }
        Err(_) if !maps::is_trunk(seen.ifindex) => Err(Verdict::DropVlan),
        Err(refused) => Err(refused),
    }
}

/// The tagged port with this VLAN id. On the engine's device such a key would be a VPN port's, which has none.
#[inline(always)]
fn port(ifindex: u32, vlan: u16) -> Option<&'static Port> {
    maps::port(PortKey { ifindex, vlan, reserved: 0 }).filter(|port| port.vlan == vlan)
}

/// Puts the tag on a frame that was redirected.
#[inline(always)]
pub(crate) fn tagged(frame: &XdpFrame, vlan: u16) -> u32 {
    match frame.push_tag(vlan) {
        Some(()) => xdp_action::XDP_REDIRECT,
        // No driver leaves so little room before a frame; tracepoints show it.
        None => xdp_action::XDP_ABORTED,
    }
}

/// Redirects the frame to a device.
#[inline(always)]
pub(crate) fn redirect(ifindex: u32) -> u32 {
    maps::DEVICES.redirect(ifindex, 0).unwrap_or(xdp_action::XDP_DROP)
}

/// A frame that comes out of the pair to the kernel: ESP of a known SA is the engine's, which listens there.
#[inline(always)]
pub(crate) fn hand_over(frame: &XdpFrame, seen: &mut Seen) -> Result<Verdict, Verdict> {
    let port = seen.port()?;
    if port.xsk_queues == 0 {
        return Ok(Verdict::Pass);
    }
    parse(frame, seen, &Ethernet::read(frame)?)?;
    let packet = &seen.packet;
    if local::is_for_engine(packet)? {
        local::to_engine(frame, port, Verdict::Decrypt)
    } else {
        Ok(Verdict::Pass)
    }
}
