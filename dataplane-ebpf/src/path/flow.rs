//! Step 5: known flows, and new ones where a rule allows them.

use aya_ebpf::bindings::BPF_ANY;
use sekisho_abi::flow::{Flow, FlowKey};
use sekisho_abi::map::{Config, Counter};
use sekisho_abi::port::{Port, ZONE_GATEWAY};
use sekisho_abi::rule::rule_flags;
use sekisho_abi::verdict::Verdict;
use sekisho_dataplane::flow::{self, Fit, Progress};
use sekisho_dataplane::frame::Frame;
use sekisho_dataplane::icmp;
use sekisho_dataplane::parse::Packet;

use crate::context::{XdpFrame, now_ns};
use crate::maps;
use crate::path::count::Seen;
use crate::path::{forward, rule};

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

/// The short way: a packet of a flow that is judged by the rules in force, enters where the flow's packets of its
/// direction enter, and leaves where they leave. `None` sends it the long way.
#[inline(always)]
pub(crate) fn known(
    frame: &XdpFrame,
    seen: &Seen,
    config: &Config,
    port: &Port,
) -> Result<Option<Verdict>, Verdict> {
    let packet = &seen.packet;
    if !packet.has_flow() {
        return Ok(None);
    }
    let (key, from_low) = flow::key(packet);
    let Some(known) = maps::flow(&key) else { return Ok(None) };
    let now_ns = now_ns();
    let original = flow::is_original(known, from_low);
    if known.generation != config.generation
        || flow::entry(known, original) != port.id
        || flow::is_expired(known, config, now_ns)
    {
        return Ok(None);
    }
    let progress = match flow::fit(known, packet, original) {
        Fit::Yes(progress) => progress,
        Fit::Restart => return Ok(None),
        Fit::No => return Err(Verdict::DropTcpState),
    };
    let exit_ifindex = if original { known.ifindex_to } else { known.ifindex_from };
    let Some(verdict) =
        forward::along(frame, config, packet, port, flow::exit(known, original), exit_ifindex)?
    else {
        return Ok(None);
    };
    flow::touch(known, progress, original, frame.bytes(), now_ns);
    Ok(Some(verdict))
}

/// How a packet was admitted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admitted {
    /// Nothing more to do.
    Silently,
    /// It opened a flow by a rule that wants an event.
    Logged,
}

/// The long way: the packet's flow is found, judged again or made, or the packet refused. `entry` and `exit` are
/// where this packet goes in and out; that its addresses belong there is known.
#[inline(always)]
pub(crate) fn admit(packet: &Packet, entry: End, exit: End, bytes: u32) -> Result<Admitted, Verdict> {
    let config = maps::config().ok_or(Verdict::DropInternal)?;
    let (key, from_low) = flow::key(packet);
    let arriving = Arriving { packet, key: &key, from_low, entry, exit, bytes, now_ns: now_ns() };
    find_or_open(config, &arriving)
}

/// A packet on the long way, with what was found out about it.
struct Arriving<'a> {
    packet: &'a Packet,
    key: &'a FlowKey,
    from_low: bool,
    entry: End,
    exit: End,
    bytes: u32,
    now_ns: u64,
}

#[inline(always)]
fn find_or_open(config: &Config, arriving: &Arriving<'_>) -> Result<Admitted, Verdict> {
    let &Arriving { packet, key, from_low, entry, exit, bytes, now_ns } = arriving;
    if let Some(known) = maps::flow(key)
        && !flow::is_expired(known, config, now_ns)
    {
        let original = flow::is_original(known, from_low);
        if flow::entry(known, original) == entry.port {
            match flow::fit(known, packet, original) {
                Fit::Yes(progress) => {
                    if known.generation != config.generation || flow::exit(known, original) != exit.port {
                        judge_again(config, arriving, known, original)?;
                    }
                    flow::touch(known, progress, original, bytes, now_ns);
                    return Ok(Admitted::Silently);
                }
                Fit::Restart => {}
                Fit::No => return Err(Verdict::DropTcpState),
            }
        } else if known.generation == config.generation {
            // The right addresses from the wrong side: a reply must come from where the flow went to.
            return Err(Verdict::DropPolicy);
        }
    }
    open(config, arriving)
}

/// Holds a known flow against the rules in force, or against a route that has moved.
#[inline(always)]
fn judge_again(
    config: &Config,
    arriving: &Arriving<'_>,
    known: &mut Flow,
    original: bool,
) -> Result<(), Verdict> {
    let &Arriving { key, entry, exit, .. } = arriving;
    let (from, to) = if original { (entry, exit) } else { (exit, entry) };
    let Ok(rule) = rule::judge(config, from.zone, to.zone, key.protocol, known.rule_port_be) else {
        // A flow that the rules in force refuse is over. One that merely was led astray stays: its own way is allowed.
        if known.generation != config.generation {
            // Already gone if another CPU was quicker.
            let _ = maps::FLOWS.remove(key);
        }
        return Err(Verdict::DropPolicy);
    };
    known.port_from = from.port;
    known.port_to = to.port;
    known.ifindex_from = from.ifindex;
    known.ifindex_to = to.ifindex;
    known.zone_from = from.zone;
    known.zone_to = to.zone;
    known.rule = rule.id;
    known.generation = config.generation;
    Ok(())
}

/// Makes a flow if a rule allows it.
#[inline(always)]
fn open(config: &Config, arriving: &Arriving<'_>) -> Result<Admitted, Verdict> {
    let &Arriving { packet, key, from_low, entry, exit, bytes, now_ns } = arriving;
    let Progress { tcp_state, fins, lifetime, replied } = flow::first(packet)?;
    let rule_port_be = flow::rule_port_be(packet);
    let rule = rule::judge(config, entry.zone, exit.zone, packet.protocol, rule_port_be)?;
    let new = Flow {
        last_seen_ns: now_ns,
        created_ns: now_ns,
        original: Counter { packets: 1, bytes: u64::from(bytes) },
        reply: Counter { packets: 0, bytes: 0 },
        rule: rule.id,
        generation: config.generation,
        port_from: entry.port,
        port_to: exit.port,
        zone_from: entry.zone,
        zone_to: exit.zone,
        opener_is_low: u8::from(from_low),
        tcp_state,
        lifetime,
        replied,
        rule_port_be,
        fins,
        reserved: 0,
        ifindex_from: entry.ifindex,
        ifindex_to: exit.ifindex,
    };
    maps::FLOWS.insert(key, &new, u64::from(BPF_ANY)).map_err(|_| Verdict::DropFlowTable)?;
    Ok(if rule.flags & rule_flags::LOG != 0 { Admitted::Logged } else { Admitted::Silently })
}

/// Takes a packet that XDP has admitted and left to the kernel: its flow must lead out by the port `exit`. No rule is
/// asked, for XDP has just done so.
#[inline(always)]
pub(crate) fn continues(config: &Config, packet: &Packet, exit: u16, bytes: u32) -> Result<(), Verdict> {
    if !packet.has_flow() {
        return Err(Verdict::DropPolicy);
    }
    let now_ns = now_ns();
    let (key, from_low) = flow::key(packet);
    let known = maps::flow(&key).ok_or(Verdict::DropPolicy)?;
    let original = flow::is_original(known, from_low);
    if known.generation != config.generation
        || flow::is_expired(known, config, now_ns)
        || flow::exit(known, original) != exit
    {
        return Err(Verdict::DropPolicy);
    }
    match flow::fit(known, packet, original) {
        Fit::Yes(progress) => flow::touch(known, progress, original, bytes, now_ns),
        Fit::Restart | Fit::No => return Err(Verdict::DropTcpState),
    }
    Ok(())
}

/// Lets an ICMP error through only where it answers a packet of a known flow: it must enter by the port that packet
/// left by (`entry`, where it's known), and leave by the one it came by (`exit`).
#[inline(always)]
pub(crate) fn expects_error<F: Frame>(
    frame: &F,
    error: &Packet,
    entry: Option<u16>,
    exit: u16,
) -> Result<(), Verdict> {
    let config = maps::config().ok_or(Verdict::DropInternal)?;
    let mut quoted = Packet::default();
    icmp::quoted(frame, error, &mut quoted)?;
    let (key, from_low) = flow::key(&quoted);
    let known = maps::flow(&key).ok_or(Verdict::DropIcmpError)?;
    let original = flow::is_original(known, from_low);
    if known.generation != config.generation
        || flow::is_expired(known, config, now_ns())
        || entry.is_some_and(|entry| flow::exit(known, original) != entry)
        || flow::entry(known, original) != exit
    {
        return Err(Verdict::DropIcmpError);
    }
    Ok(())
}
