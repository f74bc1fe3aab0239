//! Step 7: where a packet leaves, and what is rewritten on the way out.

use aya_ebpf::bindings::bpf_fib_lookup as FibLookup;
use aya_ebpf::bindings::{BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS};
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use sekisho_abi::map::Config;
use sekisho_abi::port::{Network, Port, PortKey, engine_mac, network_kind, port_flags};
use sekisho_abi::verdict::Verdict;
use sekisho_dataplane::frame::Frame;
use sekisho_dataplane::mss::{self, Search};
use sekisho_dataplane::parse::{ETHERNET_BYTES, Packet};
use sekisho_dataplane::{checksum, tcp};

use crate::context::XdpFrame;
use crate::maps;
use crate::path::pass;
use crate::subprogram;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// How a packet leaves.
#[derive(Clone, Copy)]
pub(crate) enum Hop {
    /// To the engine, for encryption.
    Engine,
    /// To a neighbour.
    Neighbour {
        /// Destination and source MAC address, as they stand in a frame.
        macs: [u8; 12],
    },
    /// By the kernel: it has a neighbour to resolve first, or to tell the sender that the packet is too big.
    Kernel,
}

/// By which port a packet leaves, and how.
pub(crate) struct Exit {
    /// The port.
    pub(crate) port: &'static Port,
    /// How.
    pub(crate) hop: Hop,
}

/// Finds the way for a packet of no known flow. `owner`: the destination's entry in `NETWORKS`.
#[inline(always)]
pub(crate) fn route(
    frame: &XdpFrame,
    config: &Config,
    packet: &Packet,
    entered: &Port,
    owner: Option<&Network>,
) -> Result<Exit, Verdict> {
    if let Some(Network { kind: network_kind::VPN, port, .. }) = owner {
        if *port == entered.id {
            return Err(Verdict::DropNoRoute);
        }
        let port = vpn(config, *port)?;
        return Ok(Exit { port, hop: engine_hop(packet, port) });
    }
    let mut fib = subprogram::fib(frame, packet, packet.length);
    if fib.result == BPF_FIB_LKUP_RET_FRAG_NEEDED {
        // Which port it would have left by is still asked: only what may pass gets an answer.
        fib = Fib { result: BPF_FIB_LKUP_RET_FRAG_NEEDED, ..subprogram::fib(frame, packet, 0) };
    }
    let hop = fib.hop()?;
    let port =
        maps::port(PortKey { ifindex: fib.ifindex, vlan: 0, reserved: 0 }).ok_or(Verdict::DropNoRoute)?;
    match owner {
        Some(Network { kind: network_kind::PORT, port: id, .. }) if *id == port.id => {}
        None if port.flags & port_flags::UPLINK != 0 => {}
        _ => return Err(Verdict::DropNoRoute),
    }
    if port.flags & port_flags::VPN != 0 {
        return Err(Verdict::DropNoRoute);
    }
    Ok(Exit { port, hop })
}

/// Finds the way for a packet of a known flow, and sends it on. `None` where the route no longer leads to the port
/// that the flow was judged for.
#[inline(always)]
pub(crate) fn along(
    frame: &XdpFrame,
    config: &Config,
    packet: &Packet,
    entered: &Port,
    exit_port: u16,
    exit_ifindex: u32,
) -> Result<Option<Verdict>, Verdict> {
    if exit_port == 0 {
        clamp(frame, packet, entered, None);
        return pass(frame, config, entered).map(Some);
    }
    if exit_ifindex == config.engine_ifindex {
        let port = vpn(config, exit_port)?;
        let exit = Exit { port, hop: engine_hop(packet, port) };
        return leave(frame, config, packet, entered, &exit).map(Some);
    }
    let fib = subprogram::fib(frame, packet, packet.length);
    let hop = fib.hop()?;
    if fib.result != BPF_FIB_LKUP_RET_FRAG_NEEDED && fib.ifindex != exit_ifindex {
        return Ok(None);
    }
    clamp(frame, packet, entered, None);
    send(frame, config, packet, entered, exit_ifindex, hop).map(Some)
}

/// Sends an admitted packet on.
#[inline(always)]
pub(crate) fn leave(
    frame: &XdpFrame,
    config: &Config,
    packet: &Packet,
    entered: &Port,
    exit: &Exit,
) -> Result<Verdict, Verdict> {
    clamp(frame, packet, entered, Some(exit.port));
    match exit.hop {
        Hop::Engine => {
            let [d0, d1, d2, d3, d4, d5] = engine_mac(exit.port.id);
            let [s0, s1, s2, s3, s4, s5] = config.engine_mac;
            let macs = [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5];
            rewrite(frame, packet, macs)?;
            redirect(config.engine_ifindex, Verdict::Encrypt)
        }
        hop => send(frame, config, packet, entered, exit.port.ifindex, hop),
    }
}

#[inline(always)]
fn send(
    frame: &XdpFrame,
    config: &Config,
    packet: &Packet,
    entered: &Port,
    ifindex: u32,
    hop: Hop,
) -> Result<Verdict, Verdict> {
    match hop {
        Hop::Neighbour { macs } => {
            rewrite(frame, packet, macs)?;
            redirect(ifindex, Verdict::Forward)
        }
        // The kernel counts the hop itself, so the packet goes to it as it came.
        Hop::Kernel | Hop::Engine => pass(frame, config, entered),
    }
}

/// The port of a VPN.
#[inline(always)]
fn vpn(config: &Config, id: u16) -> Result<&'static Port, Verdict> {
    if config.engine_ifindex == 0 {
        return Err(Verdict::DropNoRoute);
    }
    let key = PortKey { ifindex: config.engine_ifindex, vlan: id, reserved: 0 };
    maps::port(key).ok_or(Verdict::DropNoRoute)
}

/// The kernel tells the sender of a packet that is too big for the tunnel.
#[inline(always)]
fn engine_hop(packet: &Packet, port: &Port) -> Hop {
    if packet.length > port.mtu { Hop::Kernel } else { Hop::Engine }
}

/// The kernel's answer to where a packet goes.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Fib {
    result: u32,
    ifindex: u32,
    macs: [u8; 12],
}

impl Fib {
    /// No way.
    pub(crate) const NONE: Self = Self { result: u32::MAX, ifindex: 0, macs: [0; 12] };

    #[inline(always)]
    fn hop(&self) -> Result<Hop, Verdict> {
        match self.result {
            BPF_FIB_LKUP_RET_SUCCESS => Ok(Hop::Neighbour { macs: self.macs }),
            BPF_FIB_LKUP_RET_NO_NEIGH | BPF_FIB_LKUP_RET_FRAG_NEEDED => Ok(Hop::Kernel),
            _ => Err(Verdict::DropNoRoute),
        }
    }
}

/// Asks the kernel's routing table and neighbours. `length`: checked against the route's MTU unless zero.
#[inline(always)]
pub(crate) fn lookup(frame: &XdpFrame, packet: &Packet, length: u16) -> Fib {
    // SAFETY: a structure of integers, for which zero is a value.
    let mut fib: FibLookup = unsafe { core::mem::zeroed() };
    fib.l4_protocol = packet.protocol;
    fib.__bindgen_anon_1.tot_len = length;
    fib.ifindex = frame.ifindex();
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
    let result = unsafe { bpf_fib_lookup(frame.as_ptr().cast(), &raw mut fib, size, 0) };
    let [d0, d1, d2, d3, d4, d5] = fib.dmac;
    let [s0, s1, s2, s3, s4, s5] = fib.smac;
    Fib {
        // Negative for arguments the kernel doesn't take: as any number that isn't known, no route.
        result: result as u32,
        ifindex: fib.ifindex,
        macs: [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5],
    }
}

#[inline(always)]
fn words(address: &[u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
}

/// Writes MAC addresses and takes one from the time to live (RFC 1812 section 5.3.1) or hop limit.
#[inline(always)]
fn rewrite(frame: &XdpFrame, packet: &Packet, macs: [u8; 12]) -> Result<(), Verdict> {
    let header = ETHERNET_BYTES as usize;
    let hop_limit = packet.hop_limit;
    if hop_limit <= 1 {
        return Err(Verdict::DropTtl);
    }
    if packet.version == 4 {
        let [sum0, sum1] = frame.read::<2>(ETHERNET_BYTES + 10).ok_or(Verdict::DropMalformed)?;
        let word = |ttl| u16::from_be_bytes([ttl, packet.protocol]);
        let sum = checksum::replace(u16::from_be_bytes([sum0, sum1]), word(hop_limit), word(hop_limit - 1));
        frame.write(header + 8, [hop_limit - 1]).ok_or(Verdict::DropMalformed)?;
        frame.write(header + 10, sum.to_be_bytes()).ok_or(Verdict::DropMalformed)?;
    } else {
        frame.write(header + 7, [hop_limit - 1]).ok_or(Verdict::DropMalformed)?;
    }
    frame.write(0, macs).ok_or(Verdict::DropMalformed)
}

/// Lowers the MSS of a SYN that goes into a tunnel or comes out of one.
#[inline(always)]
pub(crate) fn clamp(frame: &XdpFrame, packet: &Packet, entered: &Port, exit: Option<&Port>) {
    if packet.tcp_flags & tcp::flag::SYN == 0 {
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
    let step = |search: &mut Search| subprogram::mss_step(frame, search);
    if let Some(change) = mss::clamp(frame, u32::from(packet.transport), limit, step) {
        // The parser has seen the header within the frame, so neither write can miss it.
        let _ = frame.write_at(change.offset, change.mss.to_be_bytes());
        let _ = frame.write_at(change.checksum_offset, change.checksum.to_be_bytes());
    }
}

#[inline(always)]
fn redirect(ifindex: u32, verdict: Verdict) -> Result<Verdict, Verdict> {
    match maps::DEVICES.redirect(ifindex, 0) {
        Ok(_) => Ok(verdict),
        Err(_) => Err(Verdict::DropInternal),
    }
}
