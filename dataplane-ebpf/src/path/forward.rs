//! Step 7: where a packet leaves, and what is rewritten on the way out.

use aya_ebpf::bindings::bpf_fib_lookup as FibLookup;
use aya_ebpf::bindings::{BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS};
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use sekisho_abi::flow::{HOP_SOCKETS, Hop, hop_sockets};
use sekisho_abi::map::Config;
use sekisho_abi::port::{Network, Port, PortKey, ZONE_GATEWAY, engine_mac, network_kind, port_flags};
use sekisho_abi::verdict::Verdict;
use sekisho_dataplane::fragment::part;
use sekisho_dataplane::frame::Frame;
use sekisho_dataplane::mss;
use sekisho_dataplane::option::Search;
use sekisho_dataplane::parse::{ETHERNET_BYTES, Kind, Packet};
use sekisho_dataplane::rewrite::Rewrite;
use sekisho_dataplane::{checksum, tcp};

use crate::context::XdpFrame;
use crate::maps;
use crate::memo::{self, Way};
use crate::path::count::Seen;
use crate::path::{local, nat, pass};
use crate::scratch::Scratch;
use crate::subprogram;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The port by which a packet would leave, 0 where there are several, and its zone: as far as can be told without the
/// kernel's routes. `owner`: the destination's entry in `NETWORKS`.
#[inline(always)]
pub(crate) fn likely(config: &Config, owner: Option<&Network>) -> Option<(u16, u16)> {
    match owner {
        Some(owner) if owner.kind == network_kind::PORT => Some((owner.port, owner.zone)),
        None if config.uplink_zone != ZONE_GATEWAY => Some((config.uplink, config.uplink_zone)),
        _ => None,
    }
}

/// Finds the port by which a packet leaves and fills in the next hop: a neighbour, or the engine. The hop stays empty
/// where the packet is the kernel's, which has a neighbour to resolve first, or to tell the sender that the packet is
/// too big. `owner`: the destination's entry in `NETWORKS`.
#[inline(always)]
pub(crate) fn route(
    frame: &XdpFrame,
    config: &Config,
    scratch: &mut Scratch,
    entered: &Port,
    owner: Option<&Network>,
) -> Result<&'static Port, Verdict> {
    let length = scratch.seen.packet.length;
    if let Some(Network { kind: network_kind::VPN, port, .. }) = owner {
        if *port == entered.id {
            return Err(Verdict::DropNoRoute);
        }
        let port = vpn(config, *port)?;
        if length <= port.mtu && config.engine_ifindex != 0 {
            let hop = &mut scratch.hop;
            hop.macs = concat(engine_mac(port.id), config.engine_mac);
            hop.ifindex = match entered.xsk_queues {
                // Its sockets, if it has any, are for the ESP that it carries.
                queues if queues != 0 && entered.flags & (port_flags::IKE | port_flags::VPN) == 0 => {
                    hop_sockets(entered.xsk_base, queues)
                }
                _ => config.engine_ifindex,
            };
            hop.mtu = port.mtu;
        }
        return Ok(port);
    }
    subprogram::fib(frame, scratch, length);
    match scratch.fib.result {
        BPF_FIB_LKUP_RET_SUCCESS => {
            let Fib { macs, ifindex, mtu, .. } = scratch.fib;
            scratch.hop = Hop { macs, ifindex, mtu, ..Hop::default() };
        }
        BPF_FIB_LKUP_RET_NO_NEIGH => {}
        // Which port it would have left by is still asked: only what may pass gets an answer.
        BPF_FIB_LKUP_RET_FRAG_NEEDED => {
            subprogram::fib(frame, scratch, 0);
            if !matches!(scratch.fib.result, BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH) {
                return Err(Verdict::DropNoRoute);
            }
        }
        _ => return Err(Verdict::DropNoRoute),
    }
    let key = PortKey { ifindex: scratch.fib.ifindex, vlan: 0, reserved: 0 };
    let port = memo::port(Way::Out, key, scratch.seen.generation).ok_or(Verdict::DropNoRoute)?;
    if scratch.hop.ifindex != 0 {
        scratch.hop.ifindex = port.nic_ifindex;
        scratch.hop.vlan = port.vlan;
    }
    match owner {
        Some(Network { kind: network_kind::PORT, port: id, .. }) if *id == port.id => {}
        None if port.flags & port_flags::UPLINK != 0 => {}
        _ => return Err(Verdict::DropNoRoute),
    }
    if port.flags & port_flags::VPN != 0 {
        return Err(Verdict::DropNoRoute);
    }
    if entered.flags & port_flags::KERNEL_SAS != 0 {
        // The kernel forwards it, and holds it against the selectors of the SA it came by.
        scratch.hop = Hop::default();
    }
    Ok(port)
}

/// Sends an admitted packet on.
#[inline(always)]
pub(crate) fn leave(
    frame: &XdpFrame,
    config: &Config,
    scratch: &mut Scratch,
    entered: &Port,
    exit: &Port,
) -> Result<Verdict, Verdict> {
    clamp(frame, &scratch.seen.packet, entered, Some(exit));
    if scratch.hop.ifindex == 0 {
        // The kernel counts the hop itself, so the packet goes to it as it came, but for its destination.
        nat::stays(scratch);
        translate(frame, scratch)?;
        let passed = pass(frame, config, entered)?;
        let is_encrypted = exit.flags & port_flags::KERNEL_SAS != 0 && scratch.seen.packet.length <= exit.mtu;
        return Ok(if is_encrypted { Verdict::Encrypt } else { passed });
    }
    let verdict = by_hop(frame, config, &scratch.seen.packet, &scratch.hop)?;
    scratch.tag = scratch.hop.vlan;
    translate(frame, scratch)?;
    Ok(verdict)
}

#[inline(always)]
fn translate(frame: &XdpFrame, scratch: &mut Scratch) -> Result<(), Verdict> {
    match scratch.seen.packet.kind {
        _ if !scratch.nat.changes() => Ok(()),
        Kind::IcmpError => subprogram::nat_leave_error(frame, scratch),
        _ => subprogram::nat_leave(frame, scratch),
    }
}

/// Rewrites the frame and redirects it. Its tag is the last thing that it gets: until then headers lie where they were.
#[inline(always)]
pub(crate) fn by_hop(
    frame: &XdpFrame,
    config: &Config,
    packet: &Packet,
    hop: &Hop,
) -> Result<Verdict, Verdict> {
    // First what may be refused: such a frame stays as it was.
    let verdict = redirect(frame, config, hop.ifindex)?;
    count_hop(frame, packet)?;
    frame.write_macs(&hop.macs).ok_or(Verdict::DropMalformed)?;
    Ok(verdict)
}

/// To a NIC, or to the engine: by its veth pair, or straight to a socket of the device the frame came by.
#[inline(always)]
fn redirect(frame: &XdpFrame, config: &Config, hop: u32) -> Result<Verdict, Verdict> {
    let mut device = hop;
    if hop & HOP_SOCKETS != 0 {
        let (first, count) = (hop & 0xffff, hop >> 16 & 0x7fff);
        if frame.rx_queue() < count {
            return local::to_socket(frame, first, count, Verdict::Encrypt);
        }
        // A queue that came later has no socket.
        device = config.engine_ifindex;
    }
    match maps::DEVICES.redirect(device, 0) {
        Ok(_) if device == config.engine_ifindex => Ok(Verdict::Encrypt),
        Ok(_) => Ok(Verdict::Forward),
        Err(_) => Err(Verdict::DropInternal),
    }
}

/// The port of a VPN: on the engine's device, or under no device at all where the SAs are the kernel's.
#[inline(always)]
fn vpn(config: &Config, id: u16) -> Result<&'static Port, Verdict> {
    let key = PortKey { ifindex: config.engine_ifindex, vlan: id, reserved: 0 };
    maps::port(key).ok_or(Verdict::DropNoRoute)
}

/// The kernel's answer to where a packet goes.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Fib {
    result: u32,
    ifindex: u32,
    macs: [u8; 12],
    mtu: u16,
    reserved: u16,
}

/// Asks the kernel's routing table and neighbours. `length`: checked against the route's MTU unless zero.
#[inline(always)]
pub(crate) fn lookup(frame: &XdpFrame, scratch: &mut Scratch, length: u16) {
    let Scratch { seen: Seen { ifindex, packet, .. }, lookup: fib, .. } = scratch;
    // SAFETY: a structure of integers, for which zero is a value.
    *fib = unsafe { core::mem::zeroed() };
    fib.l4_protocol = packet.protocol;
    fib.__bindgen_anon_1.tot_len = length;
    fib.ifindex = *ifindex;
    if packet.version == 4 {
        fib.family = AF_INET;
        fib.__bindgen_anon_2.tos = packet.traffic_class;
        let [.., s0, s1, s2, s3] = packet.source;
        let [.., d0, d1, d2, d3] = packet.destination;
        fib.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes([s0, s1, s2, s3]);
        fib.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes([d0, d1, d2, d3]);
    } else {
        fib.family = AF_INET6;
        fib.__bindgen_anon_2.flowinfo = (u32::from(packet.traffic_class) << 20).to_be();
        fib.__bindgen_anon_3.ipv6_src = words(&packet.source);
        fib.__bindgen_anon_4.ipv6_dst = words(&packet.destination);
    }
    let size = size_of::<FibLookup>() as i32;
    // SAFETY: the context is the kernel's, the structure is initialised and of the given size.
    let result = unsafe { bpf_fib_lookup(frame.as_ptr().cast(), fib, size, 0) };
    // SAFETY: a union of two numbers of the same size; the kernel leaves one of the two there.
    let mtu = unsafe { fib.__bindgen_anon_1.mtu_result };
    scratch.fib = Fib {
        // Negative for arguments the kernel doesn't take: as any number that isn't known, no route.
        result: result as u32,
        ifindex: fib.ifindex,
        macs: concat(fib.dmac, fib.smac),
        // Where the kernel leaves the packet's own length there, the bound is too low, never too high.
        mtu,
        reserved: 0,
    };
}

/// Destination and source MAC address, as they stand in a frame.
#[inline(always)]
const fn concat(destination: [u8; 6], source: [u8; 6]) -> [u8; 12] {
    let [d0, d1, d2, d3, d4, d5] = destination;
    let [s0, s1, s2, s3, s4, s5] = source;
    [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5]
}

#[inline(always)]
fn words(address: &[u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
}

/// Takes one from the time to live (RFC 1812 section 5.3.1) or hop limit.
#[inline(always)]
fn count_hop(frame: &XdpFrame, packet: &Packet) -> Result<(), Verdict> {
    let hop_limit = packet.hop_limit;
    if hop_limit <= 1 {
        return Err(Verdict::DropTtl);
    }
    if packet.version == 4 {
        // Time to live, protocol and checksum in one word.
        let at = ETHERNET_BYTES + 8;
        let [ttl, protocol, s0, s1] = frame.read_u32(at).ok_or(Verdict::DropMalformed)?.to_ne_bytes();
        let word = |ttl| u16::from_be_bytes([ttl, protocol]);
        let sum = checksum::replace(u16::from_be_bytes([s0, s1]), word(ttl), word(ttl.wrapping_sub(1)));
        let [s0, s1] = sum.to_be_bytes();
        let word = u32::from_ne_bytes([ttl.wrapping_sub(1), protocol, s0, s1]);
        frame.write_u32(at, word).ok_or(Verdict::DropMalformed)
    } else {
        frame.write(ETHERNET_BYTES as usize + 7, [hop_limit - 1]).ok_or(Verdict::DropMalformed)
    }
}

/// Lowers the MSS of a SYN that goes into a tunnel or comes out of one.
#[inline(always)]
pub(crate) fn clamp(frame: &XdpFrame, packet: &Packet, entered: &Port, exit: Option<&Port>) {
    if packet.tcp_flags & tcp::flag::SYN == 0 || packet.fragment == part::LATER {
        return;
    }
    let tunnel = |port: &Port| if port.flags & port_flags::VPN != 0 { port.mtu } else { u16::MAX };
    let mtu = tunnel(entered).min(exit.map_or(u16::MAX, tunnel));
    if mtu != u16::MAX {
        subprogram::clamp(frame, packet, mtu);
    }
}

/// Lowers a SYN's MSS so that segments fit into `mtu`.
#[inline(always)]
pub(crate) fn clamp_to(frame: &XdpFrame, packet: &Packet, mtu: u16) {
    let limit = mss::of_mtu(mtu, packet.version);
    let step = |search: &mut Search| subprogram::option_step_of(frame, search);
    if let Some(change) = mss::clamp(frame, u32::from(packet.transport), limit, step) {
        // The parser has seen the header within the frame, so neither write can miss it.
        let _ = frame.write_at(change.offset, change.mss.to_be_bytes());
        let _ = frame.write_at(change.checksum_offset, change.checksum.to_be_bytes());
    }
}
