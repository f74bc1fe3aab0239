//! The packet's way through `port`: one file for each step.
//!
//! A packet of a known flow takes the short way: parse, flow, forward. It needs no look at `PORTS`, `NETWORKS`, rules or
//! routes: a moment ago another packet of its flow and direction went the long way, from the same device to the same
//! hop, and what it went through is remembered with the flow. After that moment, or at once when the generation
//! changes, one goes the long way again.

pub(crate) mod challenge;
pub(crate) mod count;
pub(crate) mod flow;
pub(crate) mod forward;
pub(crate) mod fragment;
pub(crate) mod local;
pub(crate) mod nat;
pub(crate) mod neighbour;
pub(crate) mod port;
pub(crate) mod quota;
pub(crate) mod rule;
pub(crate) mod scan;
pub(crate) mod share;
pub(crate) mod trunk;

use sekisho_abi::flow::Hop;
use sekisho_abi::map::{Config, config_flags};
use sekisho_abi::port::{Port, network_kind, port_flags};
use sekisho_abi::rule::rule_flags;
use sekisho_abi::verdict::Verdict;
use sekisho_dataplane::challenge::is_answer;
use sekisho_dataplane::fragment::part;
use sekisho_dataplane::frame::Frame;
use sekisho_dataplane::parse::{self, Ethernet, Ipv6, Kind, ethertype};
use sekisho_dataplane::spoof::{self, Scope};
use sekisho_dataplane::tcp;

use crate::context::XdpFrame;
use crate::maps;
use crate::memo;
use crate::path::count::Seen;
use crate::path::flow::End;
use crate::path::port::Receiver;
use crate::scratch::{Looked, Scratch};
use crate::subprogram::{self, Subprograms};

/// What becomes of a received frame. `Ok` for what is let through, `Err` for the reason why not; on `Ok` of a redirect
/// the frame is rewritten and its target set.
#[inline(always)]
pub(crate) fn judge(frame: &XdpFrame, scratch: &mut Scratch) -> Result<Verdict, Verdict> {
    if trunk::is_tagged(frame) {
        subprogram::untag(frame, scratch)?;
    }
    match short_way(frame, scratch) {
        SHORT_WAY_ENDS if scratch.seen.packet.fragment != part::WHOLE => {
            let port = scratch.seen.port;
            subprogram::arrive(scratch, port)?;
            let judged = subprogram::long_way(frame, scratch);
            subprogram::depart(scratch, port, judged.is_ok());
            judged
        }
        SHORT_WAY_ENDS => subprogram::long_way(frame, scratch),
        number => subprogram::judged(number),
    }
}

/// What [`short_way`] gives back beside numbers of verdicts.
const SHORT_WAY_ENDS: u32 = 1 << 8;

/// What a packet that a rule lets open a flow must pass besides.
#[inline(always)]
pub(crate) fn screen(scratch: &mut Scratch) -> Result<(), Verdict> {
    challenge::ask(scratch)?;
    scan::may_open(scratch)
}

/// Whether [`screen`] has anything to ask: most packets are spared the call.
#[inline(always)]
pub(crate) fn is_screened(scratch: &Scratch) -> bool {
    const CHALLENGES: u16 = rule_flags::SYN_CHALLENGE | rule_flags::SYN_CHALLENGE_PRESSURE;
    let packet = &scratch.seen.packet;
    scratch.asked.rule.flags & CHALLENGES != 0
        || (packet.kind == Kind::Tcp && is_answer(packet))
        || scan::is_watched()
}

/// What is still to be done about a packet that is refused: a SYN that must answer a challenge gets it, and who tries
/// doors is noticed.
#[inline(always)]
pub(crate) fn refused(frame: &XdpFrame, scratch: &mut Scratch, verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::DropChallenge => subprogram::challenge(frame, scratch),
        Verdict::DropPolicy | Verdict::DropTcpState if scan::is_looked_for() => {
            subprogram::tried(scratch, verdict)
        }
        verdict => verdict,
    }
}

/// As far as most packets have to go. A function of its own for the sake of the stack: what it needed is free again
/// when the long way begins.
#[inline(never)]
fn short_way(frame: &XdpFrame, scratch: &mut Scratch) -> u32 {
    match judge_known(frame, scratch) {
        Ok(Some(verdict)) | Err(verdict) => u32::from(verdict as u8),
        Ok(None) => SHORT_WAY_ENDS,
    }
}

#[inline(always)]
fn judge_known(frame: &XdpFrame, scratch: &mut Scratch) -> Result<Option<Verdict>, Verdict> {
    let config = maps::config().ok_or(Verdict::DropInternal)?;
    let seen = &mut scratch.seen;
    if config.flags & config_flags::CLOSED != 0 {
        return Err(Verdict::DropClosed);
    }
    seen.generation = maps::generation(config);
    let ethernet = Ethernet::read(frame)?;
    seen.vlan = port::vlan(seen.ifindex, config, &ethernet.source)?;
    let parsed = parse(frame, seen, &ethernet);
    if parsed.is_ok()
        && !local::is_esp(&seen.packet)
        && let Some(verdict) = flow::known(frame, scratch, config, &ethernet)?
    {
        return Ok(Some(verdict));
    }
    let seen = &mut scratch.seen;
    let port = match seen.entered() {
        Ok(port) => port,
        Err(_) if maps::is_trunk(seen.ifindex) => return Err(Verdict::DropUntagged),
        Err(refused) => return Err(refused),
    };
    seen.port = port.id;
    seen.receiver = port::receiver(&ethernet, port)?;
    parsed?;
    if seen.packet.version == 0 {
        return subprogram::arp(frame, scratch).map(Some);
    }
    if seen.receiver == Receiver::Port { local::esp(frame, config, port, &seen.packet) } else { Ok(None) }
}

/// Reads the packet; what isn't IP must be ARP and leaves it empty.
#[inline(always)]
pub(crate) fn parse<F: Frame + Subprograms>(
    frame: &F,
    seen: &mut Seen,
    ethernet: &Ethernet,
) -> Result<(), Verdict> {
    match ethernet.ethertype {
        ethertype::IPV4 => parse::ipv4(frame, &mut seen.packet),
        ethertype::IPV6 => match parse::ipv6(frame, &mut seen.packet)? {
            Ipv6::Done => Ok(()),
            Ipv6::Extended => frame.ipv6_extended(&mut seen.packet),
        },
        ethertype::ARP => Ok(()),
        // A trunk's tag is off by now; the kernel has none to send.
        ethertype::VLAN | ethertype::SERVICE_VLAN => Err(Verdict::DropVlan),
        _ => Err(Verdict::DropEtherType),
    }
}

/// Finds out how the sender of a SYN scales its windows.
#[inline(always)]
pub(crate) fn scaled<F: Subprograms>(frame: &F, seen: &mut Seen) {
    if seen.packet.tcp_flags & tcp::flag::SYN != 0 && seen.packet.fragment != part::LATER {
        seen.packet.tcp_scale = frame.scale(seen.packet.transport);
    }
}

/// Everything but packets of known flows.
#[inline(always)]
pub(crate) fn long_way(frame: &XdpFrame, scratch: &mut Scratch) -> Result<Verdict, Verdict> {
    let config = maps::config().ok_or(Verdict::DropInternal)?;
    let port = scratch.seen.entered()?;
    scaled(frame, &mut scratch.seen);
    let packet = &scratch.seen.packet;
    match packet.kind {
        Kind::Neighbour => return subprogram::discovery(frame, scratch),
        Kind::Listener => return neighbour::listener(packet, port),
        _ => {}
    }
    let (source, destination) =
        (spoof::scope(packet, &packet.source), spoof::scope(packet, &packet.destination));
    spoof::martian(packet, source, destination)?;
    if source == Scope::Unicast {
        spoof::source(memo::network(&packet.source, scratch.seen.generation).as_ref(), port)?;
    } else if port.flags & port_flags::VPN != 0 {
        // Behind a VPN there is no link.
        return Err(Verdict::DropSpoof);
    }
    let is_bound = port.flags & port_flags::BOUND != 0;
    if is_bound {
        subprogram::bound(frame, scratch)?;
    }
    scratch.port_flags = port.flags;
    if spoof::stays_on_link(destination) {
        return local::on_link(scratch, port, frame.bytes());
    }
    if scratch.seen.receiver != Receiver::Port {
        // A unicast packet in a multicast or broadcast frame (RFC 1122 section 3.3.6).
        return Err(Verdict::DropMulticast);
    }
    if config.flags & config_flags::NAT != 0 && scratch.seen.packet.fragment != part::EARLY {
        subprogram::nat_arrive(frame, scratch)?;
    }
    let owner = memo::network(&scratch.seen.packet.destination, scratch.seen.generation);
    let owner = owner.as_ref();
    match owner.map(|network| network.kind) {
        Some(network_kind::LOCAL) => local::to_gateway(frame, scratch, config, port),
        Some(network_kind::MARTIAN) => Err(Verdict::DropMartian),
        _ => {
            scratch.hop = Hop::default();
            // The rules refuse most of what belongs to no flow: where it would leave is plain, they come before the
            // kernel's routes, which cost more than all else.
            if scratch.flow == Looked::Absent
                && let Some((exit, zone)) = forward::likely(config, owner)
            {
                scratch.exit = exit;
                subprogram::ask(scratch, port.zone, zone, frame.bytes())?;
            }
            let exit = forward::route(frame, config, scratch, port, owner)?;
            if scratch.seen.packet.fragment == part::EARLY {
                if scratch.exit != exit.id {
                    return Err(Verdict::DropFragmentOrphan);
                }
                return forward::leave(frame, config, scratch, port, exit);
            }
            scratch.exit = exit.id;
            if scratch.seen.packet.kind == Kind::IcmpError {
                frame.expects_error(scratch, Some(port.id), exit.id)?;
            } else {
                let ethernet = Ethernet::read(frame)?;
                scratch.hop.received_mac = ethernet.destination;
                scratch.hop.bound_mac = if is_bound { ethernet.source } else { [0; 6] };
                subprogram::admit_received(scratch, End::of(port), End::of(exit), frame.bytes())?;
            }
            forward::leave(frame, config, scratch, port, exit)
        }
    }
}

/// Frames to the kernel carry the device's MAC address; what comes out of the engine may carry any. An xfrm interface has
/// none.
#[inline(always)]
pub(crate) fn pass(frame: &XdpFrame, config: &Config, port: &Port) -> Result<Verdict, Verdict> {
    if port.flags & (port_flags::VPN | port_flags::KERNEL_SAS) == port_flags::VPN {
        frame.write(0, config.engine_mac).ok_or(Verdict::DropMalformed)?;
    }
    Ok(Verdict::Pass)
}
