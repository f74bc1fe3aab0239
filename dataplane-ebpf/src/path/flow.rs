//! Step 5: known flows, and new ones where a rule allows them.

use aya_ebpf::bindings::BPF_NOEXIST;
use sekisho_abi::flow::{Flow, Hop};
use sekisho_abi::map::{Config, Counter, SpiKey, config_flags};
use sekisho_abi::nat::Translation;
use sekisho_abi::port::{Port, ZONE_GATEWAY};
use sekisho_abi::rule::{Asked, action, rule_flags};
use sekisho_abi::verdict::Verdict;
use sekisho_dataplane::challenge;
use sekisho_dataplane::flow::{self, Fit, Key, Progress};
use sekisho_dataplane::fragment::part;
use sekisho_dataplane::frame::Frame;
use sekisho_dataplane::icmp;
use sekisho_dataplane::nat::Ends;
use sekisho_dataplane::parse::{Ethernet, Packet};
use sekisho_dataplane::rate::{self, Share, of};
use sekisho_dataplane::tcp;

use crate::context::{XdpFrame, now_ns};
use crate::maps;
use crate::path::count::{self, Seen};
use crate::path::nat::EEXIST;
use crate::path::rule;
use crate::path::{forward, nat, quota, share};
use crate::scratch::{Looked, Scratch};
use crate::subprogram;

/// Where a packet of a flow enters or leaves.
#[derive(Clone, Copy)]
pub(crate) struct End {
    /// Port id, 0 for the gateway.
    pub(crate) port: u16,
    /// Zone.
    pub(crate) zone: u16,
    /// ifindex, 0 for the gateway.
    pub(crate) ifindex: u32,
}

impl End {
    /// The gateway itself.
    pub(crate) const GATEWAY: End = End { port: 0, zone: ZONE_GATEWAY, ifindex: 0 };

    /// A port.
    #[inline(always)]
    pub(crate) const fn of(port: &Port) -> End {
        End { port: port.id, zone: port.zone, ifindex: port.ifindex }
    }

    /// All of it in one number: a subprogram takes no structure by value, and a pointer to a constant points into a map
    /// of constants, which the verifier doesn't let a subprogram have.
    #[inline(always)]
    pub(crate) const fn to_bits(self) -> u64 {
        (self.port as u64) << 48 | (self.zone as u64) << 32 | self.ifindex as u64
    }

    /// The reverse of [`to_bits`](Self::to_bits).
    #[inline(always)]
    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self { port: (bits >> 48) as u16, zone: (bits >> 32) as u16, ifindex: bits as u32 }
    }
}

/// The short way: a packet of a flow that is judged by the rules in force, enters as its packets of this direction do
/// and leaves by the hop they took a moment ago. `None` sends it the long way.
#[inline(always)]
pub(crate) fn known(
    frame: &XdpFrame,
    scratch: &mut Scratch,
    config: &Config,
    ethernet: &Ethernet,
) -> Result<Option<Verdict>, Verdict> {
    let seen = &mut scratch.seen;
    let packet = &seen.packet;
    if !packet.has_flow() || packet.fragment != part::WHOLE || packet.hop_limit <= 1 {
        return Ok(None);
    }
    let is_syn = packet.tcp_flags & tcp::flag::SYN != 0;
    let (key, from_low) = flow::key(packet);
    let (known, original, is_direct) = match maps::flow(&key) {
        Some(known) => {
            let original = flow::is_original(known, from_low);
            if !original && known.translation.is_some() {
                return Ok(None);
            }
            (known, original, true)
        }
        None if config.flags & config_flags::NAT != 0 => match nat::reply(scratch, &key, from_low) {
            Some(known) => (known, false, false),
            None => return Ok(None),
        },
        None => {
            scratch.flow = Looked::Absent;
            return Ok(None);
        }
    };
    if is_syn {
        return Ok(None);
    }
    let seen = &mut scratch.seen;
    let packet = &seen.packet;
    let now_ns = now_ns();
    let ifindex = if original { known.ifindex_from } else { known.ifindex_to };
    let hop = if original { &known.original_hop } else { &known.reply_hop };
    let entry = flow::entry(known, original);
    // A hop that is still good also says that the flow hasn't expired: lifetimes are whole seconds.
    if known.generation != seen.generation
        || !flow::hop_holds(hop, seen.generation, now_ns)
        || ifindex != seen.ifindex
        || (seen.vlan != 0 && seen.vlan != entry)
        || hop.received_mac != ethernet.destination
        || (hop.bound_mac != [0; 6] && hop.bound_mac != ethernet.source)
        || packet.length > hop.mtu
    {
        return Ok(None);
    }
    let progress = match flow::fit(known, packet, original) {
        Fit::Yes(progress) => progress,
        Fit::Restart | Fit::No(_) => return Ok(None),
    };
    seen.port = entry;
    let verdict = forward::by_hop(frame, config, &seen.packet, hop)?;
    scratch.tag = hop.vlan;
    let holds = if is_direct { maps::holds(known, &key) } else { maps::holds(known, &scratch.nat.key) };
    if !holds {
        return Err(Verdict::DropInternal);
    }
    if known.translation.is_some() {
        if original {
            scratch.nat.entering = Ends::of(&seen.packet);
            scratch.nat.leaving = Ends::translated(&known.translation);
        }
        subprogram::nat_leave(frame, scratch)?;
    }
    flow::touch(known, &scratch.seen.packet, progress, original, frame.bytes(), now_ns);
    settle(known);
    rule::count(known.rule, frame.bytes(), 0);
    Ok(Some(verdict))
}

/// What is known of a packet's flow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// It is judged by the rules in force, and the packet is counted.
    Known,
    /// The rules in force, or another way, ask for it to be judged again.
    Again,
    /// None: the packet may open one.
    New,
}

impl<'a> Arriving<'a> {
    #[inline(always)]
    fn of(
        seen: &'a Seen,
        hop: &'a Hop,
        key: &'a Key,
        from_low: bool,
        (entry, exit): (End, End),
        bytes: u32,
    ) -> Self {
        let Seen { packet, generation, .. } = seen;
        let generation = *generation;
        Self { packet, generation, key, from_low, entry, exit, bytes, hop, now_ns: now_ns() }
    }
}

/// The long way begins: the packet's flow is found, or what to ask the rules instead. `entry` and `exit` are where this
/// packet goes in and out; that its addresses belong there is known. The way to remember is in `scratch`.
#[inline(always)]
pub(crate) fn find(scratch: &mut Scratch, entry: End, exit: End, bytes: u32) -> Result<Found, Verdict> {
    let config = maps::config().ok_or(Verdict::DropInternal)?;
    let Scratch { seen, hop, asked, nat, flow: looked, .. } = scratch;
    nat.find_key(&seen.packet);
    let (key, from_low) = (nat.key, nat.from_low != 0);
    let known = maps::flow(&key);
    *looked = if known.is_some() { Looked::Present } else { Looked::Absent };
    find_known(config, known, &Arriving::of(seen, hop, &key, from_low, (entry, exit), bytes), asked)
}

/// Asks the rules whether a packet that has no flow may open one between two zones; a refused one of `bytes` is counted.
#[inline(always)]
pub(crate) fn ask(scratch: &mut Scratch, from: u16, to: u16, bytes: u32) -> Result<(), Verdict> {
    let config = maps::config().ok_or(Verdict::DropInternal)?;
    let Scratch { seen: Seen { packet, generation, .. }, asked, nat, allowed, .. } = scratch;
    nat.find_key(packet);
    may_begin(config, packet)?;
    rule::about(asked, *generation, packet, true, (from, to), flow::rule_port_be(packet));
    *allowed = 1;
    rule::judge(asked, bytes)
}

/// Whether a packet is one that flows begin with, or a challenge's answer.
#[inline(always)]
fn may_begin(config: &Config, packet: &Packet) -> Result<(), Verdict> {
    if !(config.flags & config_flags::CHALLENGES != 0 && challenge::is_answer(packet)) {
        flow::first(config, packet)?;
    }
    Ok(())
}

/// Puts a flow together that a rule has allowed, in `NEW_FLOW`, and counts it. `true`: the rule wants an event.
#[inline(always)]
pub(crate) fn open(scratch: &mut Scratch, entry: End, exit: End, bytes: u32) -> Result<bool, Verdict> {
    let config = maps::config().ok_or(Verdict::DropInternal)?;
    let Scratch { seen, hop, asked, nat, .. } = scratch;
    let (key, from_low) = (nat.key, nat.from_low != 0);
    let is_logged = make(config, &Arriving::of(seen, hop, &key, from_low, (entry, exit), bytes), asked)?;
    quota::charge(scratch)?;
    Ok(is_logged)
}

/// A packet on the long way, with what was found out about it.
struct Arriving<'a> {
    packet: &'a Packet,
    generation: u32,
    key: &'a Key,
    from_low: bool,
    entry: End,
    exit: End,
    bytes: u32,
    hop: &'a Hop,
    now_ns: u64,
}

#[inline(always)]
fn find_known(
    config: &Config,
    known: Option<&'static mut Flow>,
    arriving: &Arriving<'_>,
    asked: &mut Asked,
) -> Result<Found, Verdict> {
    let &Arriving { packet, generation, key, from_low, entry, exit, bytes, now_ns, .. } = arriving;
    if let Some(known) = known
        && !flow::is_expired(known, config, now_ns)
    {
        let original = flow::is_original(known, from_low);
        if flow::entry(known, original) == entry.port {
            match flow::fit(known, packet, original) {
                Fit::Yes(progress) => {
                    if !maps::holds(known, key) {
                        return Err(Verdict::DropInternal);
                    }
                    if known.generation != generation || flow::exit(known, original) != exit.port {
                        let (from, to) = if original { (entry, exit) } else { (exit, entry) };
                        rule::about(
                            asked,
                            generation,
                            packet,
                            original,
                            (from.zone, to.zone),
                            known.rule_port_be,
                        );
                        return Ok(Found::Again);
                    }
                    flow::touch(known, packet, progress, original, bytes, now_ns);
                    settle(known);
                    rule::count(known.rule, bytes, 0);
                    remember(known, arriving, original);
                    return Ok(Found::Known);
                }
                Fit::Restart => {}
                Fit::No(refused) => return Err(refused),
            }
        } else if known.generation == generation {
            // The right addresses from the wrong side: a reply must come from where the flow went to.
            return Err(Verdict::DropPolicy);
        }
    }
    may_begin(config, packet)?;
    rule::about(asked, generation, packet, true, (entry.zone, exit.zone), flow::rule_port_be(packet));
    Ok(Found::New)
}

/// Remembers the way for the next packets of this direction. The time stands last: what another CPU takes for a way of
/// this generation is whole.
#[inline(always)]
fn remember(known: &mut Flow, arriving: &Arriving<'_>, original: bool) {
    let to = if original { &mut known.original_hop } else { &mut known.reply_hop };
    to.until_ns = 0;
    let hop = arriving.hop;
    if hop.ifindex == 0 {
        return;
    }
    in_order();
    *to = Hop { until_ns: 0, ..*hop };
    in_order();
    to.until_ns = flow::hop_until(arriving.generation, arriving.now_ns);
}

/// Whether a flow still counts as half-open, though its handshake is over.
#[inline(always)]
const fn is_unsettled(known: &Flow) -> bool {
    known.half_open != 0 && !tcp::is_half_open(known.tcp_state)
}

#[inline(always)]
fn settle(known: &mut Flow) {
    if is_unsettled(known) {
        subprogram::settle(known);
    }
}

/// Settles the flow of a packet that [`continues`] has let through.
#[inline(always)]
pub(crate) fn settle_sent(scratch: &mut Scratch) -> Result<(), Verdict> {
    let (key, from_low) = flow::key(&scratch.seen.packet);
    if let Some((known, _)) = nat::find(&key, from_low) {
        settle(known);
    }
    Ok(())
}

/// Keeps the compiler from moving writes across: for this target it has no fence to offer.
#[inline(always)]
fn in_order() {
    // SAFETY: no instruction.
    unsafe { core::arch::asm!("", options(nostack, preserves_flags)) };
}

/// What the rules in force, or another route, make of a known flow, once they have been asked. `false`: it is over.
#[inline(always)]
pub(crate) fn judged_again(scratch: &mut Scratch, entry: End, exit: End) -> Result<bool, Verdict> {
    let Scratch { seen: Seen { generation, .. }, asked, nat, .. } = scratch;
    let (generation, key, from_low) = (*generation, nat.key, nat.from_low != 0);
    let known = maps::flow(&key).ok_or(Verdict::DropInternal)?;
    if asked.rule.action != action::ALLOW {
        // A flow that the rules in force refuse is over. One that merely was led astray stays: its own way is allowed.
        return if known.generation != generation { Ok(false) } else { Err(Verdict::DropPolicy) };
    }
    if !maps::holds(known, &key) {
        return Err(Verdict::DropInternal);
    }
    let original = flow::is_original(known, from_low);
    if known.translation.is_some() && flow::exit(known, original) != exit.port {
        // The ends it was given belong to the way it took.
        return Ok(false);
    }
    let (from, to) = if original { (entry, exit) } else { (exit, entry) };
    known.port_from = from.port;
    known.port_to = to.port;
    known.ifindex_from = from.ifindex;
    known.ifindex_to = to.ifindex;
    // The other direction may lead elsewhere now, too.
    known.original_hop.until_ns = 0;
    known.reply_hop.until_ns = 0;
    known.zone_from = from.zone;
    known.zone_to = to.zone;
    known.rule = asked.rule.id;
    known.generation = generation;
    Ok(true)
}

#[inline(always)]
fn make(config: &Config, arriving: &Arriving<'_>, asked: &Asked) -> Result<bool, Verdict> {
    let &Arriving { packet, generation, key, from_low, entry, exit, bytes, now_ns, .. } = arriving;
    let Progress { tcp_state, fins, lifetime, replied, .. } = flow::first(config, packet)?;
    let rule_port_be = flow::rule_port_be(packet);
    // Built in a map, as it would take a third of the stack.
    let new = nat::new_flow()?;
    new.translation = Translation::default();
    new.last_seen_ns = now_ns;
    new.created_ns = now_ns;
    new.original = Counter { packets: 1, bytes: u64::from(bytes) };
    new.reply = Counter { packets: 0, bytes: 0 };
    new.rule = asked.rule.id;
    new.generation = generation;
    new.port_from = entry.port;
    new.port_to = exit.port;
    new.zone_from = entry.zone;
    new.zone_to = exit.zone;
    new.opener_is_low = u8::from(from_low);
    new.tcp_state = tcp_state;
    new.lifetime = lifetime;
    new.replied = replied;
    new.rule_port_be = rule_port_be;
    new.fins = fins;
    new.ifindex_from = entry.ifindex;
    new.ifindex_to = exit.ifindex;
    remember(new, arriving, true);
    new.reply_hop.until_ns = 0;
    (new.original_window, new.reply_window) = flow::first_windows(packet);
    new.tag = key.tag();
    // Counted when nothing refuses it any more.
    new.source_slot = 0;
    new.half_open = 0;
    new.quota_zone = u32::from(entry.zone);
    Ok(asked.rule.flags & rule_flags::LOG != 0)
}

/// Puts the flow in the making into the table, in the place of one that is over.
#[inline(always)]
pub(crate) fn insert(scratch: &mut Scratch) -> Result<(), Verdict> {
    let new: &Flow = nat::new_flow()?;
    let key = scratch.nat.key;
    if scratch.flow == Looked::Present {
        subprogram::remove_flow(maps::flow_key(&key));
    }
    match maps::FLOWS.insert(maps::flow_key(&key), new, u64::from(BPF_NOEXIST)) {
        Ok(()) => {}
        // Another CPU was quicker; the sender repeats the packet.
        Err(error) if error == -EEXIST => return Err(Verdict::DropInternal),
        Err(_) => return Err(Verdict::DropFlowTable),
    }
    // Its first packet is all that is counted yet.
    rule::count(new.rule, new.original.bytes as u32, 1);
    Ok(())
}

/// Tells the daemon that the known flow, if there is one, ends here.
#[inline(always)]
pub(crate) fn end(scratch: &Scratch, why: u32) {
    let key = scratch.nat.key;
    if let Some(known) = maps::flow(&key) {
        count::flow_end(maps::flow_key(&key), known, why);
    }
}

/// Takes the known flow out of the table.
#[inline(always)]
pub(crate) fn forget(scratch: &mut Scratch) -> Result<(), Verdict> {
    let key = scratch.nat.key;
    subprogram::remove_flow(maps::flow_key(&key));
    Ok(())
}

/// Takes a packet that XDP has admitted and left to the kernel: its flow must lead out by the port `exit`. No rule is
/// asked, for XDP has just done so.
#[inline(always)]
pub(crate) fn continues(scratch: &mut Scratch, exit: u16, bytes: u32) -> Result<(), Verdict> {
    let config = maps::config().ok_or(Verdict::DropInternal)?;
    let packet = &scratch.seen.packet;
    if !packet.has_flow() {
        return Err(Verdict::DropPolicy);
    }
    let now_ns = now_ns();
    let (key, from_low) = flow::key(packet);
    let (known, original) = nat::find(&key, from_low).ok_or(Verdict::DropPolicy)?;
    if known.generation != config.generation
        || flow::is_expired(known, config, now_ns)
        || flow::exit(known, original) != exit
    {
        return Err(Verdict::DropPolicy);
    }
    match flow::fit(known, packet, original) {
        Fit::Yes(progress) => flow::touch(known, packet, progress, original, bytes, now_ns),
        Fit::Restart => return Err(Verdict::DropTcpState),
        Fit::No(refused) => return Err(refused),
    }
    // Left to the caller, for the sake of the stack.
    scratch.unsettled = u8::from(is_unsettled(known));
    nat::sent(scratch, &key, known, original)
}

/// Lets an ICMP error through only where it answers a packet of a known flow: it must enter by the port that packet
/// left by (`entry`, where it's known), and leave by the one it came by (`exit`).
#[inline(always)]
pub(crate) fn expects_error<F: Frame>(
    frame: &F,
    scratch: &mut Scratch,
    entry: Option<u16>,
    exit: u16,
) -> Result<(), Verdict> {
    let config = maps::config().ok_or(Verdict::DropInternal)?;
    let now_ns = now_ns();
    let Scratch { seen, quoted, nat: scratch_nat, .. } = scratch;
    if scratch_nat.changes() {
        // The quoted packet goes by the ends it left with.
        scratch_nat.entering.put_destination(&mut seen.packet);
    }
    *quoted = Packet::default();
    icmp::quoted(frame, &seen.packet, quoted)?;
    if exit == End::GATEWAY.port && is_sent(quoted) {
        return believed(quoted, exit, now_ns);
    }
    let (key, from_low) = flow::key(quoted);
    let (known, original) = nat::find(&key, from_low).ok_or(Verdict::DropIcmpError)?;
    if known.generation != config.generation
        || flow::is_expired(known, config, now_ns)
        || entry.is_some_and(|entry| flow::exit(known, original) != entry)
        || flow::entry(known, original) != exit
        || !flow::may_be_answered(known, quoted, original)
    {
        return Err(Verdict::DropIcmpError);
    }
    believed(quoted, exit, now_ns)
}

/// Whether it is ESP of ours: only who saw it knows its SPI. Of such a packet the kernel learns the path's MTU.
#[inline(always)]
fn is_sent(quoted: &Packet) -> bool {
    let key = SpiKey { destination: quoted.destination, spi_be: quoted.spi_be };
    quoted.spi_be != 0 && maps::spi(&key).is_some_and(|spi| spi.outbound != 0)
}

#[inline(always)]
fn believed(quoted: &Packet, exit: u16, now_ns: u64) -> Result<(), Verdict> {
    let share = Share::new(&quoted.source, quoted.version, exit, of::ICMP_ERRORS);
    if share::take(share, rate::ICMP_ERRORS, now_ns) { Ok(()) } else { Err(Verdict::DropRate) }
}
