//! Step 4: packets to the gateway itself.

use aya_ebpf::bindings::{BPF_ANY, xdp_action};
use sekisho_abi::flow::Hop;
use sekisho_abi::map::{Config, Rate, SpiKey};
use sekisho_abi::port::{Port, port_flags};
use sekisho_abi::verdict::Verdict;
use sekisho_dataplane::fragment::part;
use sekisho_dataplane::frame::Frame;
use sekisho_dataplane::parse::{Kind, Packet, udp_port};
use sekisho_dataplane::rate::{Share, of};
use sekisho_dataplane::{rate, spoof};

use crate::context::{XdpFrame, now_ns};
use crate::maps;
use crate::path::count::Seen;
use crate::path::flow::End;
use crate::path::{forward, pass, rule, share, trunk};
use crate::scratch::Scratch;
use crate::subprogram::{self, Subprograms};

/// ESP of a known SA goes to the engine, or to the kernel where that has the SAs, before anything else is asked: the SA's
/// own integrity check says more about the sender than its address. `None` for everything that is no such ESP.
#[inline(always)]
pub(crate) fn esp(
    frame: &XdpFrame,
    config: &Config,
    port: &Port,
    packet: &Packet,
) -> Result<Option<Verdict>, Verdict> {
    if port.flags & port_flags::IKE == 0 || !is_for_engine(packet)? {
        return Ok(None);
    }
    if config.engine_ifindex == 0 {
        return Ok(Some(Verdict::Decrypt));
    }
    match port.handover_ifindex {
        0 => to_engine(frame, port, Verdict::Decrypt).map(Some),
        // The engine listens where the tag is off.
        device if trunk::redirect(device) == xdp_action::XDP_REDIRECT => Ok(Some(Verdict::Decrypt)),
        _ => Err(Verdict::DropInternal),
    }
}

/// Whether the engine takes it: whole ESP of a known SA.
#[inline(always)]
pub(crate) fn is_for_engine(packet: &Packet) -> Result<bool, Verdict> {
    Ok(is_esp(packet) && packet.fragment == part::WHOLE && is_known(packet)?)
}

/// Whether there is an SA to receive it, in the form in which it comes.
#[inline(always)]
fn is_known(packet: &Packet) -> Result<bool, Verdict> {
    let key = SpiKey { destination: packet.destination, spi_be: packet.spi_be };
    match maps::spi(&key) {
        Some(spi) if spi.outbound != 0 => Ok(false),
        Some(spi) if (spi.udp_encapsulated != 0) != (packet.kind == Kind::EspInUdp) => {
            Err(Verdict::DropEspEncapsulation)
        }
        found => Ok(found.is_some()),
    }
}

/// Redirects the frame to the engine's socket on the receive queue it came by.
#[inline(always)]
pub(crate) fn to_engine(frame: &XdpFrame, port: &Port, verdict: Verdict) -> Result<Verdict, Verdict> {
    to_socket(frame, u32::from(port.xsk_base), u32::from(port.xsk_queues), verdict)
}

/// The same by the first of a device's sockets and how many it has: one for each queue.
#[inline(always)]
pub(crate) fn to_socket(
    frame: &XdpFrame,
    first: u32,
    count: u32,
    verdict: Verdict,
) -> Result<Verdict, Verdict> {
    let queue = frame.rx_queue();
    if queue >= count {
        return Err(Verdict::DropInternal);
    }
    match maps::SOCKETS.redirect(first + queue, u64::from(xdp_action::XDP_DROP)) {
        Ok(_) => Ok(verdict),
        Err(_) => Err(Verdict::DropInternal),
    }
}

/// A packet to one of the gateway's addresses.
#[inline(always)]
pub(crate) fn to_gateway(
    frame: &XdpFrame,
    scratch: &mut Scratch,
    config: &Config,
    port: &Port,
) -> Result<Verdict, Verdict> {
    let packet = &scratch.seen.packet;
    if packet.kind == Kind::IcmpError {
        frame.expects_error(scratch, Some(port.id), 0)?;
        return pass(frame, config, port);
    }
    if packet.fragment == part::EARLY {
        if scratch.exit != 0 {
            return Err(Verdict::DropFragmentOrphan);
        }
        return pass(frame, config, port);
    }
    scratch.exit = 0;
    if is_esp(packet) {
        if port.flags & port_flags::IKE == 0 {
            return Err(Verdict::DropPolicy);
        }
        // The kernel puts them together within its bounds, and the daemon hands what comes out to the engine.
        if packet.fragment != part::WHOLE && is_known(packet)? {
            return pass(frame, config, port);
        }
        return Err(Verdict::DropUnknownSpi);
    }
    if packet.kind == Kind::Udp && matches!(packet.destination_port(), udp_port::IKE | udp_port::IKE_NAT_T) {
        if port.flags & port_flags::IKE == 0 {
            return Err(Verdict::DropPolicy);
        }
        if packet.fragment != part::LATER {
            subprogram::limit_strangers(frame, scratch, port.id)?;
        }
        return pass(frame, config, port);
    }
    scratch.hop = Hop::default();
    subprogram::admit_received(scratch, End::of(port), End::GATEWAY, frame.bytes())?;
    forward::clamp(frame, &scratch.seen.packet, port, None);
    pass(frame, config, port)
}

/// A packet that no router carries: DHCP where a rule lets it in, nothing else. It makes no flow, as the answer
/// comes from another address than the one it was sent to.
#[inline(always)]
pub(crate) fn on_link(scratch: &mut Scratch, port: &Port, bytes: u32) -> Result<Verdict, Verdict> {
    let Scratch { seen: Seen { packet, generation, .. }, asked, .. } = scratch;
    if port.flags & port_flags::VPN != 0 || !spoof::is_link_service(packet) {
        return Err(Verdict::DropMulticast);
    }
    rule::about(asked, *generation, packet, true, (port.zone, End::GATEWAY.zone), packet.destination_port_be);
    match subprogram::rule(asked, bytes) {
        Ok(()) => {
            rule::count(asked.rule.id, bytes, 0);
            Ok(Verdict::Pass)
        }
        Err(_) => Err(Verdict::DropMulticast),
    }
}

/// Whether it may be for the engine.
#[inline(always)]
pub(crate) fn is_esp(packet: &Packet) -> bool {
    matches!(packet.kind, Kind::Esp | Kind::EspInUdp)
}

/// Holds down IKE messages of strangers: those that would open an IKE SA, whose responder's SPI is zero (RFC 7296 section
/// 3.1), and those that name no IKE SA of ours. Peers that are known go on undisturbed while a stranger with their address
/// floods.
#[inline(always)]
pub(crate) fn limit_strangers(frame: &XdpFrame, packet: &Packet, port: u16) -> Result<(), Verdict> {
    let marker = if packet.destination_port() == udp_port::IKE_NAT_T { 4 } else { 0 };
    let at = u32::from(packet.transport) + 8 + marker;
    let Some([i0, i1, i2, i3, i4, i5, i6, i7, r0, r1, r2, r3, r4, r5, r6, r7, _, _, _, flags]) =
        frame.read_at::<20>(at)
    else {
        // No header of IKE: a NAT's keep-alive, or nothing.
        return unknown(packet, port);
    };
    let initiator = u64::from_ne_bytes([i0, i1, i2, i3, i4, i5, i6, i7]);
    let responder = u64::from_ne_bytes([r0, r1, r2, r3, r4, r5, r6, r7]);
    let own = if flags & IKE_INITIATOR != 0 { responder } else { initiator };
    if maps::IKE_SPIS.get_ptr(own).is_some() {
        return Ok(());
    }
    if responder != 0 {
        return unknown(packet, port);
    }
    let now_ns = now_ns();
    let next_ns = match maps::RATES.get_ptr(packet.source) {
        // SAFETY: map values outlive the program's run (RCU).
        Some(rate) => unsafe { (*rate).next_ns },
        None => 0,
    };
    let next_ns = rate::IKE_INITIAL.admit(next_ns, now_ns).ok_or(Verdict::DropRate)?;
    // A source that can't be remembered can't be held down either: refuse it.
    maps::RATES.insert(packet.source, Rate { next_ns }, u64::from(BPF_ANY)).map_err(|_| Verdict::DropRate)
}

/// The flag of an IKE message whose sender is the IKE SA's initiator, so that the responder's SPI is ours (RFC 7296
/// section 3.1).
const IKE_INITIATOR: u8 = 0x08;

/// A message that names no IKE SA of ours. Some come after a restart, and are answered; more than that cost nothing.
#[inline(always)]
fn unknown(packet: &Packet, port: u16) -> Result<(), Verdict> {
    let now_ns = now_ns();
    let of_source = Share::new(&packet.source, packet.version, port, of::IKE_UNKNOWN);
    let of_all = Share { host: [0; 16], port: 0, of: of::IKE_UNKNOWN };
    if share::take(of_source, rate::IKE_UNKNOWN, now_ns) && share::take(of_all, rate::IKE_UNKNOWN_ALL, now_ns)
    {
        Ok(())
    } else {
        Err(Verdict::DropIkeUnknown)
    }
}
