//! Flows: the key of a packet, its direction, and what a packet does to the flow's state.

use sekisho_abi::Address;
use sekisho_abi::flow::{
    Flow, FlowKey, HOP_LIFETIME_NS, Hop, LIFETIMES, Lifetime, Window, tcp_state, window_flags,
};
use sekisho_abi::map::{Config, config_flags};
use sekisho_abi::verdict::Verdict;

use crate::fragment::part;
use crate::parse::{Kind, Packet};
use crate::tcp::{self, Change, Step};
use crate::window;

/// A [`FlowKey`] as the numbers it consists of in memory: the program writes it, and the kernel hashes it, in whole
/// words.
#[derive(Clone, Copy, Debug, Default, Eq)]
#[repr(transparent)]
pub struct Key([u64; 5]);

/// In whole words: the derived comparison would be a call.
impl PartialEq for Key {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let (Self([a, b, c, d, e]), Self([f, g, h, i, j])) = (self, other);
        (a ^ f) | (b ^ g) | (c ^ h) | (d ^ i) | (e ^ j) == 0
    }
}

const _: () = assert!(size_of::<Key>() == size_of::<FlowKey>(), "the same bytes");

impl Key {
    /// A digest of the key, which stands with its flow.
    #[inline(always)]
    pub const fn tag(&self) -> u64 {
        let Key([a, b, c, d, e]) = *self;
        let low = (a ^ b.rotate_left(31)).wrapping_mul(MIX);
        let high = (c ^ d.rotate_left(29) ^ e.rotate_left(17)).wrapping_mul(MIX.rotate_left(32));
        low ^ high.rotate_left(23)
    }

    /// That of a packet with these ends, and whether it comes from the key's low end.
    #[inline(always)]
    pub const fn of(
        source: [u64; 2],
        destination: [u64; 2],
        source_port_be: u16,
        destination_port_be: u16,
        protocol: u8,
    ) -> (Self, bool) {
        let from_low = is_lower(source, destination);
        let ([a, b], [c, d]) = if from_low { (source, destination) } else { (destination, source) };
        let [s0, s1] = source_port_be.to_ne_bytes();
        let [d0, d1] = destination_port_be.to_ne_bytes();
        let ports = if from_low { [s0, s1, d0, d1] } else { [d0, d1, s0, s1] };
        let [p0, p1, p2, p3] = ports;
        (Self([a, b, c, d, u64::from_ne_bytes([p0, p1, p2, p3, protocol, 0, 0, 0])]), from_low)
    }

    /// The lower end's address.
    #[inline(always)]
    pub const fn low(&self) -> [u64; 2] {
        let Self([a, b, ..]) = *self;
        [a, b]
    }

    /// The higher end's address.
    #[inline(always)]
    pub const fn high(&self) -> [u64; 2] {
        let Self([_, _, c, d, _]) = *self;
        [c, d]
    }

    /// The lower and the higher end's port, network byte order.
    #[inline(always)]
    pub const fn ports_be(&self) -> [u16; 2] {
        let Self([.., last]) = *self;
        let [l0, l1, h0, h1, ..] = last.to_ne_bytes();
        [u16::from_ne_bytes([l0, l1]), u16::from_ne_bytes([h0, h1])]
    }

    /// IP protocol number.
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        let Self([.., last]) = *self;
        let [_, _, _, _, protocol, ..] = last.to_ne_bytes();
        protocol
    }
}

/// Spreads bits: 2⁶⁴ divided by the golden ratio, odd.
pub const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// The reverse of [`halves`].
#[inline(always)]
pub const fn join([first, second]: [u64; 2]) -> Address {
    let [a, b, c, d, e, f, g, h] = first.to_ne_bytes();
    let [i, j, k, l, m, n, o, p] = second.to_ne_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

/// The key of the packet's flow, and whether the packet comes from the key's low end.
#[inline(always)]
pub fn key(packet: &Packet) -> (Key, bool) {
    let &Packet { ref source, ref destination, source_port_be, destination_port_be, protocol, .. } = packet;
    Key::of(halves(source), halves(destination), source_port_be, destination_port_be, protocol)
}

/// An address as two numbers in the machine's order.
#[inline(always)]
pub const fn halves(address: &Address) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p])]
}

/// Order of the ends. Addresses alone decide: a packet whose two addresses are the same is refused as a martian.
#[inline(always)]
const fn is_lower(a: [u64; 2], b: [u64; 2]) -> bool {
    let ([a0, a1], [b0, b1]) = (a, b);
    let (a0, b0) = (u64::from_be(a0), u64::from_be(b0));
    a0 < b0 || (a0 == b0 && u64::from_be(a1) < u64::from_be(b1))
}

/// Whether the packet comes from the side that opened the flow.
#[inline(always)]
pub const fn is_original(flow: &Flow, from_low: bool) -> bool {
    (flow.opener_is_low != 0) == from_low
}

/// The port by which a packet of this direction must enter (0: the gateway sends it).
#[inline(always)]
pub const fn entry(flow: &Flow, original: bool) -> u16 {
    if original { flow.port_from } else { flow.port_to }
}

/// The port by which a packet of this direction must leave (0: the gateway takes it).
#[inline(always)]
pub const fn exit(flow: &Flow, original: bool) -> u16 {
    if original { flow.port_to } else { flow.port_from }
}

/// Whether the flow's lifetime has passed.
#[inline(always)]
pub fn is_expired(flow: &Flow, config: &Config, now_ns: u64) -> bool {
    // The mask keeps the index within the classes.
    let seconds = config.lifetimes[usize::from(flow.lifetime) & (LIFETIMES - 1)];
    now_ns.saturating_sub(flow.last_seen_ns) > u64::from(seconds) * 1_000_000_000
}

/// The bits of [`Hop::until_ns`] that name the generation.
const HOP_GENERATION: u64 = 0xffff;

/// [`Hop::until_ns`] of a way found at `now_ns` under this generation.
#[inline(always)]
pub const fn hop_until(generation: u32, now_ns: u64) -> u64 {
    ((now_ns + HOP_LIFETIME_NS) & !HOP_GENERATION) | (generation as u64 & HOP_GENERATION)
}

/// Whether a way may be used at `now_ns` under this generation.
#[inline(always)]
pub const fn hop_holds(hop: &Hop, generation: u32, now_ns: u64) -> bool {
    hop.until_ns >= now_ns && (hop.until_ns ^ generation as u64) & HOP_GENERATION == 0
}

/// What a packet makes of its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It belongs to the flow, whose state becomes this.
    Yes(Progress),
    /// The flow is over: the packet is judged as the first of a new one.
    Restart,
    /// It does not fit the flow.
    No(Verdict),
}

/// The part of a flow that its packets move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// [`tcp_state`].
    pub tcp_state: u8,
    /// [`sekisho_abi::flow::fin`] bits.
    pub fins: u8,
    /// [`Lifetime`] class.
    pub lifetime: u8,
    /// Whether a reply was seen.
    pub replied: u8,
    /// What becomes of the windows.
    pub change: Change,
}

/// Holds a packet against its flow.
#[inline(always)]
pub fn fit(flow: &Flow, packet: &Packet, original: bool) -> Fit {
    let replied = flow.replied | u8::from(!original);
    let mut change = Change::Keep;
    let (state, fins, lifetime) = match packet.kind {
        Kind::Tcp => match tcp::step(flow, packet, original) {
            Step::To { state, fins, change: step } => {
                change = step;
                (state, fins, tcp_lifetime(flow, state, original, step))
            }
            Step::Restart => return Fit::Restart,
            Step::Refuse(verdict) => return Fit::No(verdict),
        },
        Kind::EchoRequest if !original => return Fit::No(Verdict::DropPolicy),
        Kind::EchoReply if original => return Fit::No(Verdict::DropPolicy),
        Kind::EchoRequest | Kind::EchoReply => (tcp_state::NONE, 0, Lifetime::Icmp),
        Kind::Udp | Kind::EspInUdp => {
            let class = if replied != 0 { Lifetime::UdpReplied } else { Lifetime::UdpUnreplied };
            (tcp_state::NONE, 0, class)
        }
        _ => (tcp_state::NONE, 0, Lifetime::Other),
    };
    Fit::Yes(Progress { tcp_state: state, fins, lifetime: lifetime as u8, replied, change })
}

/// Whether an ICMP error may be about this packet of the flow, as far as it was quoted.
#[inline(always)]
pub const fn may_be_answered(flow: &Flow, quoted: &Packet, original: bool) -> bool {
    let (s, r) = tcp::windows(flow, original);
    !matches!(quoted.kind, Kind::Tcp) || window::may_be_answered(s, r, quoted.tcp_sequence)
}

/// The lifetime of a TCP flow in this state: short where one side may have reset it.
#[inline(always)]
const fn tcp_lifetime(flow: &Flow, state: u8, original: bool, change: Change) -> Lifetime {
    let (s, r) = tcp::windows(flow, original);
    let own = match change {
        Change::Keep => s.flags,
        Change::Reset => window_flags::RESET,
        _ => 0,
    };
    if (own | r.flags) & window_flags::RESET != 0 { Lifetime::TcpClosed } else { tcp::lifetime(state) }
}

/// Whether a packet may be the first of a flow, and the flow's state then.
#[inline(always)]
pub const fn first(config: &Config, packet: &Packet) -> Result<Progress, Verdict> {
    // Its first fragment has opened the flow; what has ended since doesn't begin in the middle.
    if packet.fragment == part::LATER {
        return Err(Verdict::DropFragmentOrphan);
    }
    let (tcp_state, lifetime) = match packet.kind {
        Kind::Tcp if tcp::opens(packet.tcp_flags) => (tcp_state::SYN_SENT, Lifetime::TcpSynSent),
        Kind::Tcp if config.flags & config_flags::TCP_PICK_UP != 0 && tcp::picks_up(packet.tcp_flags) => {
            (tcp_state::ESTABLISHED, Lifetime::TcpEstablished)
        }
        Kind::Tcp => return Err(Verdict::DropTcpState),
        Kind::Udp | Kind::EspInUdp => (tcp_state::NONE, Lifetime::UdpUnreplied),
        Kind::EchoRequest => (tcp_state::NONE, Lifetime::Icmp),
        Kind::Other | Kind::Esp => (tcp_state::NONE, Lifetime::Other),
        Kind::EchoReply | Kind::IcmpError | Kind::Neighbour | Kind::Listener => {
            return Err(Verdict::DropPolicy);
        }
    };
    Ok(Progress { tcp_state, fins: 0, lifetime: lifetime as u8, replied: 0, change: Change::Keep })
}

/// What rules are asked with for a new flow: destination port, or ICMP type and code, network byte order.
#[inline(always)]
pub const fn rule_port_be(packet: &Packet) -> u16 {
    packet.destination_port_be
}

/// The windows of a new TCP flow: the opener's, and what is known of the other side's.
#[inline(always)]
pub const fn first_windows(packet: &Packet) -> (Window, Window) {
    if tcp::opens(packet.tcp_flags) {
        (window::begun(packet), NO_WINDOW)
    } else {
        let flags = window_flags::PICKED_UP;
        (window::picked_up(packet), Window { end: packet.tcp_acknowledgment, flags, ..NO_WINDOW })
    }
}

/// Nothing is known of a side.
pub const NO_WINDOW: Window =
    Window { end: 0, max_end: 0, max_window: 0, max_ack: 0, scale: 0, flags: 0, reserved: [0; 2] };

/// Writes a packet's traces into its flow.
#[inline(always)]
pub fn touch(flow: &mut Flow, packet: &Packet, progress: Progress, original: bool, bytes: u32, now_ns: u64) {
    // A flow that a RST has closed must not be kept alive by its own packets.
    if flow.tcp_state != tcp_state::CLOSE || progress.tcp_state != tcp_state::CLOSE {
        flow.last_seen_ns = now_ns;
    }
    if packet.kind == Kind::Tcp {
        tcp::change(flow, packet, original, progress.change);
    }
    flow.tcp_state = progress.tcp_state;
    flow.fins = progress.fins;
    flow.lifetime = progress.lifetime;
    flow.replied = progress.replied;
    let counter = if original { &mut flow.original } else { &mut flow.reply };
    counter.packets = counter.packets.wrapping_add(1);
    counter.bytes = counter.bytes.wrapping_add(bytes as u64);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sekisho_abi::flow::LIFETIMES_DEFAULT;

    fn reverse(packet: &Packet) -> Packet {
        Packet {
            source: packet.destination,
            destination: packet.source,
            source_port_be: packet.destination_port_be,
            destination_port_be: packet.source_port_be,
            ..*packet
        }
    }

    #[test]
    fn a_way_holds_for_its_time_and_generation() {
        let now_ns = 5_000_000_000;
        let hop = Hop { until_ns: hop_until(0x1_0007, now_ns), ..Hop::default() };
        assert!(hop_holds(&hop, 0x1_0007, now_ns));
        assert!(!hop_holds(&hop, 0x1_0008, now_ns) && !hop_holds(&hop, 0x1_0006, now_ns));
        assert!(hop_holds(&hop, 0x1_0007, now_ns + HOP_LIFETIME_NS - (1 << 16)));
        assert!(!hop_holds(&hop, 0x1_0007, now_ns + HOP_LIFETIME_NS + (1 << 16)));
        assert!(!hop_holds(&Hop::default(), 0, 1), "none is known");
    }

    proptest! {
        #[test]
        fn both_directions_share_a_key(
            source: Address, destination: Address, source_port_be: u16, destination_port_be: u16, protocol: u8
        ) {
            prop_assume!(source != destination);
            let packet =
                Packet { source, destination, source_port_be, destination_port_be, protocol, ..Packet::default() };
            let (there, low) = key(&packet);
            let (back, back_low) = key(&reverse(&packet));
            prop_assert_eq!(there, back);
            prop_assert_ne!(low, back_low);
            prop_assert_eq!(low, source < destination);
            // Word by word what the structure has in memory.
            let (ends, ports) = if low {
                ([source, destination], [source_port_be, destination_port_be])
            } else {
                ([destination, source], [destination_port_be, source_port_be])
            };
            let mut bytes = ends.concat();
            bytes.extend(ports.map(u16::to_ne_bytes).concat());
            bytes.extend([protocol, 0, 0, 0]);
            prop_assert_eq!(there.0.map(u64::to_ne_bytes).concat(), bytes);
        }
    }

    #[test]
    fn lifetimes() {
        let config = Config { lifetimes: LIFETIMES_DEFAULT, ..Config::default() };
        let mut flow = Flow { lifetime: Lifetime::UdpUnreplied as u8, last_seen_ns: 5, ..Flow::default() };
        let udp = Packet { kind: Kind::Udp, ..Packet::default() };
        assert!(!is_expired(&flow, &config, 30_000_000_005));
        assert!(is_expired(&flow, &config, 30_000_000_006));
        assert!(!is_expired(&flow, &config, 0), "the coarse clock may stand still");
        let Fit::Yes(progress) = fit(&flow, &udp, false) else { panic!("a reply fits") };
        touch(&mut flow, &udp, progress, false, 60, 30_000_000_000);
        assert_eq!((flow.lifetime, flow.replied, flow.reply.packets), (Lifetime::UdpReplied as u8, 1, 1));
        assert!(!is_expired(&flow, &config, 149_000_000_000));
        // A class out of range, as only a broken map could hold it, is still no panic.
        flow.lifetime = 0xff;
        assert!(!is_expired(&flow, &config, 30_000_000_000));
    }

    #[test]
    fn a_closed_flow_ages() {
        let mut flow = Flow { tcp_state: tcp_state::ESTABLISHED, last_seen_ns: 1, ..Flow::default() };
        let reset = Packet { kind: Kind::Tcp, tcp_flags: tcp::flag::RST, ..Packet::default() };
        for now in [10, 20] {
            let Fit::Yes(progress) = fit(&flow, &reset, true) else { panic!("a reset fits") };
            touch(&mut flow, &reset, progress, true, 60, now);
        }
        assert_eq!((flow.tcp_state, flow.last_seen_ns), (tcp_state::CLOSE, 10));
    }

    #[test]
    fn echo_needs_the_right_side() {
        let flow = Flow::default();
        let request = Packet { kind: Kind::EchoRequest, ..Packet::default() };
        let reply = Packet { kind: Kind::EchoReply, ..Packet::default() };
        assert!(matches!(fit(&flow, &request, true), Fit::Yes(_)));
        assert!(matches!(fit(&flow, &reply, false), Fit::Yes(_)));
        let no = Fit::No(Verdict::DropPolicy);
        assert_eq!((fit(&flow, &request, false), fit(&flow, &reply, true)), (no, no));
        let config = Config::default();
        assert!(first(&config, &request).is_ok());
        assert_eq!(first(&config, &reply), Err(Verdict::DropPolicy));
    }
}
