//! Address translation: before routes and rules the destination becomes the real one, on the way out the source becomes
//! the translated one. Rules, routes and the kernel, where it gets the packet, see real addresses on both sides.
//!
//! The opener's packets find their flow in `FLOWS` by the ends they enter with; replies come to ends that the gateway has
//! given, and ask `TRANSLATIONS` once `FLOWS` has nothing.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use sekisho_abi::flow::Flow;
use sekisho_abi::nat::{
    DestinationNat, DestinationNatKey, HAIRPIN, NAT_POOL_MAX, SourceNat, SourceNatKey, Translated,
    source_nat_kind, translated_kind,
};
use sekisho_abi::port::network_kind;
use sekisho_abi::verdict::Verdict;
use sekisho_dataplane::flow::{self, Key};
use sekisho_dataplane::nat::{self, Ends, Way};
use sekisho_dataplane::parse::Packet;
use sekisho_dataplane::rewrite::{self, Rewrite};
use sekisho_dataplane::{icmp, rewrite::Change};

use crate::context::{SkbFrame, XdpFrame, now_ns};
use crate::maps;
use crate::path::flow::End;
use crate::scratch::{Looked, Scratch};
use crate::subprogram;

/// What is found out about a packet's translation, in the program's scratch.
#[repr(C, align(8))]
pub(crate) struct Nat {
    /// Number of the table that gave the destination, 0: none has.
    pub(crate) destination_rule: u16,
    /// 1: the rest is about this packet. Otherwise nothing of it is, nor is it translated.
    pub(crate) active: u8,
    /// 1: it comes from the low end of `key`.
    pub(crate) from_low: u8,
    /// 1: it leaves with other ends than it came with, or may.
    changes: u8,
    /// What is left to find out.
    pub(crate) progress: Progress,
    reserved: u16,
    /// The packet's ends as they stand in the frame.
    pub(crate) entering: Ends,
    /// Those it leaves with.
    pub(crate) leaving: Ends,
    /// An ICMP error: those of the packet that it quotes, as whom it goes to knows them.
    quoted: Ends,
    /// The key of the packet's flow in `FLOWS`.
    pub(crate) key: Key,
    /// What the new flow's source is translated to.
    source: SourceNat,
}

impl Nat {
    /// Nothing is known but the packet.
    #[inline(always)]
    fn begin(&mut self, packet: &Packet) {
        self.entering = Ends::of(packet);
        self.leaving = self.entering;
        self.active = 1;
        self.changes = 0;
        self.progress = Progress::Settled;
        self.destination_rule = 0;
    }

    /// Finds the key of a packet that is not translated.
    #[inline(always)]
    pub(crate) fn find_key(&mut self, packet: &Packet) {
        if self.active == 0 {
            let (key, from_low) = flow::key(packet);
            self.key = key;
            self.from_low = u8::from(from_low);
        }
    }

    /// Whether the packet is to be rewritten.
    #[inline(always)]
    pub(crate) const fn changes(&self) -> bool {
        self.active != 0 && self.changes != 0
    }
}

/// The flow of a reply to ends that the gateway has given, on the short way; what it's rewritten to is in `scratch`.
#[inline(always)]
pub(crate) fn reply(scratch: &mut Scratch, key: &Key, from_low: bool) -> Option<&'static mut Flow> {
    let Scratch { seen, nat, flow: looked, .. } = scratch;
    let Some(translated) = maps::translated(key) else {
        *looked = Looked::Absent;
        return None;
    };
    if translated.kind != translated_kind::LEAVING || (translated.opener_is_low != 0) == from_low {
        return None;
    }
    let flow_key = *maps::key_of(translated);
    nat.key = flow_key;
    let known = maps::flow(&flow_key)?;
    nat.entering = Ends::of(&seen.packet);
    if Ends::translated(&known.translation).reversed() != nat.entering {
        return None;
    }
    nat.leaving = Ends::opened(&flow_key, known.opener_is_low != 0).reversed();
    Some(known)
}

/// What [`arrive`] has come to.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Progress {
    /// The translation is known, or there is none.
    Settled = 0,
    /// The packet may open a flow: [`arrive_new`].
    New = 1,
    /// Its flow was translated under an earlier generation: [`holds_destination`], [`holds_source`].
    Stale = 2,
}

/// Finds the packet's translation, if it has one. From here on the packet's destination is the real one.
#[inline(always)]
pub(crate) fn arrive(scratch: &mut Scratch) -> Result<(), Verdict> {
    let Scratch { seen, nat, flow: looked, .. } = scratch;
    let config = maps::config().ok_or(Verdict::DropInternal)?;
    let packet = &mut seen.packet;
    nat.begin(packet);
    if !packet.has_flow() {
        nat.active = 0;
        return Ok(());
    }
    let (key, from_low) = flow::key(packet);
    nat.key = key;
    nat.from_low = u8::from(from_low);
    if *looked == Looked::Absent {
        nat.progress = Progress::New;
        return Ok(());
    }
    let (known, original) = if let Some(known) = maps::flow(&key) {
        if !known.translation.is_some() {
            return Ok(());
        }
        if !flow::is_original(known, from_low) {
            if flow::is_expired(known, config, now_ns()) {
                nat.progress = Progress::New;
                return Ok(());
            }
            // Replies know only the ends that the flow was given.
            return Err(Verdict::DropPolicy);
        }
        (known, true)
    } else {
        nat.progress = Progress::New;
        let Some(translated) = maps::translated(&key) else { return Ok(()) };
        if translated.kind != translated_kind::LEAVING || (translated.opener_is_low != 0) == from_low {
            return Ok(());
        }
        let flow_key = *maps::key_of(translated);
        let Some(known) = maps::flow(&flow_key) else { return Ok(()) };
        if Ends::translated(&known.translation).reversed() != nat.entering {
            return Ok(());
        }
        nat.key = flow_key;
        nat.from_low = u8::from(known.opener_is_low == 0);
        (known, false)
    };
    nat.progress = if known.generation == seen.generation { Progress::Settled } else { Progress::Stale };
    nat.destination_rule = known.translation.destination_rule;
    let way = Way { key: &nat.key, opener_is_low: known.opener_is_low != 0, translation: &known.translation };
    nat.leaving = way.leaving(original);
    nat.leaving.put_destination(packet);
    nat.changes = 1;
    Ok(())
}

/// Finds the destination of a packet that may open a flow.
#[inline(always)]
pub(crate) fn arrive_new(scratch: &mut Scratch) -> Result<(), Verdict> {
    let Scratch { seen, nat, .. } = scratch;
    let packet = &mut seen.packet;
    if let Some(rule) = destination_rule(seen.generation, seen.port, packet) {
        let (address, port_be) = nat::destination(rule, packet);
        packet.destination = address;
        packet.destination_port_be = port_be;
        nat.destination_rule = rule.rule;
        nat.leaving = Ends::of(packet);
        nat.changes = 1;
    }
    Ok(())
}

/// The translation of an ICMP error: that of the packet it is about, backwards.
#[inline(always)]
pub(crate) fn arrive_error(frame: &XdpFrame, scratch: &mut Scratch) -> Result<(), Verdict> {
    let Scratch { seen, nat, quoted, .. } = scratch;
    nat.begin(&seen.packet);
    *quoted = Packet::default();
    icmp::quoted(frame, &seen.packet, quoted)?;
    let (key, from_low) = flow::key(quoted);
    let Some((known, original)) = find(&key, from_low) else { return Ok(()) };
    if !known.translation.is_some() {
        return Ok(());
    }
    nat.key = known_by(&key);
    let way = Way { key: &nat.key, opener_is_low: known.opener_is_low != 0, translation: &known.translation };
    if way.leaving(original) != Ends::of(quoted) {
        return Err(Verdict::DropIcmpError);
    }
    nat.quoted = way.entering(original);
    nat.leaving.destination = nat.quoted.source;
    if nat.quoted.destination != flow::halves(&quoted.destination) {
        // Whoever sent it, the opener knows only the address it asked.
        nat.leaving.source = nat.quoted.destination;
    }
    nat.changes = 1;
    nat.leaving.put_destination(&mut seen.packet);
    Ok(())
}

/// The flow of a packet under whichever of its pairs of ends the key is, and whether the packet is of its opener.
#[inline(always)]
pub(crate) fn find(key: &Key, from_low: bool) -> Option<(&'static mut Flow, bool)> {
    if let Some(known) = maps::flow(key) {
        let original = flow::is_original(known, from_low);
        return Some((known, original));
    }
    let translated = maps::translated(key)?;
    let original = (translated.opener_is_low != 0) == from_low;
    let flow_key = *maps::key_of(translated);
    maps::flow(&flow_key).map(|known| (known, original))
}

/// The key in `FLOWS` of the flow that [`find`] finds.
#[inline(always)]
fn known_by(key: &Key) -> Key {
    match maps::translated(key) {
        Some(translated) => *maps::key_of(translated),
        None => *key,
    }
}

/// The rule for a new flow's destination.
#[inline(always)]
fn destination_rule(generation: u32, port: u16, packet: &Packet) -> Option<&'static DestinationNat> {
    let mut key = DestinationNatKey {
        generation_be: generation.to_be_bytes(),
        port_be: port.to_be_bytes(),
        protocol: packet.protocol,
        reserved: 0,
        address: packet.destination,
        service_be: packet.destination_port_be.to_ne_bytes(),
    };
    let bits = 8 * size_of::<DestinationNatKey>() as u32;
    if let Some(rule) = maps::longest::<4, _, _>(&maps::DESTINATION_NAT, bits, key) {
        return Some(rule);
    }
    key.protocol = 0;
    maps::longest::<4, _, _>(&maps::DESTINATION_NAT, bits, key)
}

/// The rule for a new flow's source.
#[inline(always)]
fn source_rule(generation: u32, from: u16, port: u16, source: &[u8; 16]) -> Option<&'static SourceNat> {
    let key = SourceNatKey {
        generation_be: generation.to_be_bytes(),
        from_be: from.to_be_bytes(),
        port_be: port.to_be_bytes(),
        address: *source,
    };
    maps::longest::<4, _, _>(&maps::SOURCE_NAT, 8 * size_of::<SourceNatKey>() as u32, key)
}

/// Finds the rule for the source of the new flow, the one in `NEW_FLOW`.
#[inline(always)]
pub(crate) fn plan(scratch: &mut Scratch, from: End, to: End) -> Result<(), Verdict> {
    let Scratch { seen, nat, .. } = scratch;
    nat.source = SourceNat::default();
    if nat.active == 0 || from.port == 0 || to.port == 0 {
        // The gateway's own address is its own.
        return Ok(());
    }
    let mut rule = None;
    if nat.destination_rule != 0 && from.port == to.port {
        rule = source_rule(seen.generation, HAIRPIN, to.port, &seen.packet.source);
    }
    if rule.is_none() {
        rule = source_rule(seen.generation, from.zone, to.port, &seen.packet.source);
    }
    if let Some(rule) = rule {
        nat.source = *rule;
    }
    Ok(())
}

/// Chooses the ends of the new flow, and makes them known. The flow's translation stays zero where nothing is
/// translated.
#[inline(always)]
pub(crate) fn open(scratch: &mut Scratch) -> Result<(), Verdict> {
    let Scratch { seen, nat, .. } = scratch;
    if nat.active == 0 {
        // The gateway's own, which must not have the ends of a flow that is translated.
        nat.entering = Ends::of(&seen.packet);
    }
    nat.leaving = Ends::of(&seen.packet);
    let rule = nat.source;
    match rule.kind {
        source_nat_kind::POOL => choose(scratch, &rule)?,
        source_nat_kind::PREFIX => {
            let address = nat::with_prefix(&seen.packet.source, &rule.prefix, rule.index as u16);
            nat.leaving.source = flow::halves(&address);
            claim_one(scratch)?;
        }
        _ => claim_one(scratch)?,
    }
    let Nat { entering, leaving, .. } = &scratch.nat;
    let translation = &mut new_flow()?.translation;
    let same_source = entering.source == leaving.source && entering.source_port_be == leaving.source_port_be;
    translation.source_rule = if same_source { 0 } else { rule.rule };
    translation.destination_rule = scratch.nat.destination_rule;
    if !translation.is_some() {
        return Ok(());
    }
    translation.source = flow::join(leaving.source);
    translation.destination = flow::join(leaving.destination);
    translation.source_port_be = leaving.source_port_be;
    translation.destination_port_be = leaving.destination_port_be;
    let both = translation.source_rule != 0 && translation.destination_rule != 0;
    scratch.nat.changes = 1;
    // Where both ends are others, what the kernel sends of the flow has a third pair.
    if both && subprogram::nat_claim(scratch, translated_kind::BETWEEN) != Claim::Done as u32 {
        return Err(Verdict::DropNatConflict);
    }
    Ok(())
}

/// What came of a claim.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Claim {
    /// The ends are the flow's.
    Done = 0,
    /// They are another's.
    Taken = 1,
    /// The table is full.
    Full = 2,
}

/// Takes these ends, or none.
#[inline(always)]
fn claim_one(scratch: &mut Scratch) -> Result<(), Verdict> {
    match subprogram::nat_claim(scratch, translated_kind::LEAVING) {
        claim if claim == Claim::Done as u32 => Ok(()),
        claim if claim == Claim::Full as u32 => Err(Verdict::DropFlowTable),
        _ => Err(Verdict::DropNatConflict),
    }
}

/// Takes an address and a port of a pool.
#[inline(always)]
fn choose(scratch: &mut Scratch, rule: &SourceNat) -> Result<(), Verdict> {
    let kind = scratch.seen.packet.kind;
    let protocol = scratch.seen.packet.protocol;
    let own = u16::from_be(scratch.nat.entering.source_port_be);
    // SAFETY: the helper has no preconditions. It can't be predicted from its output (prandom is SipHash-fed).
    let random = unsafe { bpf_get_prandom_u32() };
    let paired = nat::paired(&scratch.seen.packet.source, rule.count);
    let has_port = nat::has_port(kind);
    for step in 0..nat::TRIES {
        let index = if step < nat::TRIES_PAIRED { paired } else { paired.wrapping_add(step) };
        // At least one address; a program's division by zero gives zero anyway.
        let index = index.checked_rem(rule.count).unwrap_or(0);
        let half = (scratch.seen.generation & 1) * NAT_POOL_MAX;
        let Some(&address) = maps::NAT_POOL.get(half + rule.index + index) else {
            return Err(Verdict::DropInternal);
        };
        let is_own = step == 0 && (rule.port_first..=rule.port_last).contains(&own);
        let port = if is_own { own } else { nat::candidate(rule.port_first, rule.port_last, random, step) };
        scratch.nat.leaving.source = flow::halves(&address);
        if has_port {
            if !nat::may_give(protocol, port) {
                continue;
            }
            scratch.nat.leaving.source_port_be = port.to_be();
        }
        match subprogram::nat_claim(scratch, translated_kind::LEAVING) {
            claim if claim == Claim::Done as u32 => return Ok(()),
            claim if claim == Claim::Full as u32 => return Err(Verdict::DropFlowTable),
            _ if !has_port && rule.count == 1 => return Err(Verdict::DropNatConflict),
            _ => {}
        }
    }
    Err(if has_port { Verdict::DropNatExhausted } else { Verdict::DropNatConflict })
}

/// An entry of `TRANSLATIONS` in the making.
#[repr(C)]
pub(crate) struct Claimed {
    key: Key,
    value: Translated,
}

/// Makes a pair of the new flow's ends known, unless it is another flow's.
#[inline(always)]
pub(crate) fn claim(scratch: &mut Scratch, kind: u8) -> Claim {
    let Scratch { seen, nat, .. } = scratch;
    let Some(claimed) = maps::CLAIMED.get_ptr_mut(0) else { return Claim::Full };
    // SAFETY: as for the flow in the making.
    let Claimed { key, value } = unsafe { &mut *claimed };
    let is_leaving = kind == translated_kind::LEAVING;
    let ends = if is_leaving { &nat.leaving } else { &Ends::of(&seen.packet) };
    let from_low;
    (*key, from_low) = ends.key(seen.packet.protocol);
    if is_leaving && nat.leaving == nat.entering {
        // Nothing to translate; but the ends must not be a translated flow's either.
        return if maps::translated(key).is_some() { Claim::Taken } else { Claim::Done };
    }
    if maps::flow(key).is_some() {
        return Claim::Taken;
    }
    value.flow = *maps::flow_key(&nat.key);
    value.made_ns = now_ns();
    value.kind = kind;
    value.opener_is_low = u8::from(from_low);
    // By reference: a copy would lie on the stack.
    match maps::TRANSLATIONS.insert(maps::flow_key(key), value, u64::from(BPF_NOEXIST)) {
        Ok(()) => Claim::Done,
        Err(error) if error == -EEXIST => Claim::Taken,
        Err(_) => Claim::Full,
    }
}

pub(crate) const EEXIST: i32 = 17;

/// Forgets the ends of a flow that is over, or found no place. The daemon finds what is left of flows that end otherwise.
#[inline(always)]
pub(crate) fn forget(scratch: &mut Scratch, flow: &Flow) -> Result<(), Verdict> {
    if !flow.translation.is_some() {
        return Ok(());
    }
    let Scratch { nat, .. } = scratch;
    let (flow_key, opener_is_low) = (nat.key, flow.opener_is_low != 0);
    remove(&Ends::translated(&flow.translation).key(flow_key.protocol()).0, &flow_key);
    let between = Ends::opened(&flow_key, opener_is_low).to(&Ends::translated(&flow.translation));
    remove(&between.key(flow_key.protocol()).0, &flow_key);
    Ok(())
}

/// Forgets the ends of the known flow.
#[inline(always)]
pub(crate) fn forget_known(scratch: &mut Scratch) -> Result<(), Verdict> {
    let key = scratch.nat.key;
    match maps::flow(&key) {
        Some(known) => forget(scratch, known),
        None => Ok(()),
    }
}

/// Forgets the ends of the flow in the making.
#[inline(always)]
pub(crate) fn forget_new(scratch: &mut Scratch) -> Result<(), Verdict> {
    forget(scratch, new_flow()?)
}

/// Removes an entry of this flow, and of no other.
#[inline(always)]
fn remove(key: &Key, flow_key: &Key) {
    if maps::translated(key).is_some_and(|translated| maps::key_of(translated) == flow_key) {
        // Already gone if another CPU was quicker.
        let _ = maps::TRANSLATIONS.remove(maps::flow_key(key));
    }
}

/// The flow in the making.
#[inline(always)]
pub(crate) fn new_flow() -> Result<&'static mut Flow, Verdict> {
    let scratch = maps::NEW_FLOW.get_ptr_mut(0).ok_or(Verdict::DropInternal)?;
    // SAFETY: the entry is this CPU's own, and a program is not interrupted by another of its kind on it.
    Ok(unsafe { &mut *scratch })
}

/// Whether the configuration in force would still give a flow the destination it has; asked when the flow is judged
/// again. A flow without a translation goes on without.
#[inline(always)]
pub(crate) fn holds_destination(scratch: &mut Scratch) -> Result<(), Verdict> {
    let Scratch { seen, nat, quoted, .. } = scratch;
    let known = maps::flow(&{ nat.key }).ok_or(Verdict::DropPolicy)?;
    *quoted = Packet::default();
    Ends::opened(&nat.key, known.opener_is_low != 0).put(quoted);
    quoted.protocol = seen.packet.protocol;
    quoted.kind = seen.packet.kind;
    let translation = &known.translation;
    if translation.destination_rule == 0 {
        return Ok(());
    }
    let rule = destination_rule(seen.generation, known.port_from, quoted).ok_or(Verdict::DropPolicy)?;
    let (address, port_be) = nat::destination(rule, quoted);
    let same = flow::halves(&address) == flow::halves(&translation.destination)
        && port_be == translation.destination_port_be;
    if same { Ok(()) } else { Err(Verdict::DropPolicy) }
}

/// The same for the source. The opener's packet is in `quoted`, left there by [`holds_destination`].
#[inline(always)]
pub(crate) fn holds_source(scratch: &mut Scratch) -> Result<(), Verdict> {
    let Scratch { seen, nat, quoted, .. } = scratch;
    let known = maps::flow(&{ nat.key }).ok_or(Verdict::DropPolicy)?;
    let translation = &known.translation;
    if translation.source_rule == 0 {
        return Ok(());
    }
    let mut rule = None;
    if translation.destination_rule != 0 && known.port_from == known.port_to {
        rule = source_rule(seen.generation, HAIRPIN, known.port_to, &quoted.source);
    }
    if rule.is_none() {
        rule = source_rule(seen.generation, known.zone_from, known.port_to, &quoted.source);
    }
    let rule = rule.ok_or(Verdict::DropPolicy)?;
    let expected = match rule.kind {
        source_nat_kind::PREFIX => nat::with_prefix(&quoted.source, &rule.prefix, rule.index as u16),
        source_nat_kind::POOL if rule.count == 1 => {
            let half = (seen.generation & 1) * NAT_POOL_MAX;
            *maps::NAT_POOL.get(half + rule.index).ok_or(Verdict::DropPolicy)?
        }
        // One of many: that it is still the gateway's is as much as one look tells.
        source_nat_kind::POOL => match maps::network(&translation.source) {
            Some(network) if network.kind == network_kind::LOCAL => translation.source,
            _ => return Err(Verdict::DropPolicy),
        },
        _ => return Err(Verdict::DropPolicy),
    };
    let same = flow::halves(&expected) == flow::halves(&translation.source);
    if same { Ok(()) } else { Err(Verdict::DropPolicy) }
}

/// Rewrites a packet that leaves.
#[inline(always)]
pub(crate) fn leave(frame: &XdpFrame, scratch: &mut Scratch) -> Result<(), Verdict> {
    let Scratch { seen, nat, .. } = scratch;
    rewrite::ends(frame, &seen.packet, &nat.entering, &nat.leaving).ok_or(Verdict::DropMalformed)
}

/// Rewrites an ICMP error that leaves.
#[inline(always)]
pub(crate) fn leave_error(frame: &XdpFrame, scratch: &mut Scratch) -> Result<(), Verdict> {
    let Scratch { seen, nat, quoted, .. } = scratch;
    nat.entering.put_destination(&mut seen.packet);
    rewrite::error(frame, &seen.packet, &nat.leaving, quoted, &nat.quoted).ok_or(Verdict::DropMalformed)
}

/// Before the kernel gets a packet: its source stays as it is until `egress`, for the kernel would take its own address
/// as a source for a forgery, and answers to it for its own.
#[inline(always)]
pub(crate) const fn stays(scratch: &mut Scratch) {
    scratch.nat.leaving.source = scratch.nat.entering.source;
    scratch.nat.leaving.source_port_be = scratch.nat.entering.source_port_be;
}

/// Gives a packet that the kernel sends the source that its flow has outside.
#[inline(always)]
pub(crate) fn egress(frame: &SkbFrame, scratch: &mut Scratch) -> Result<(), Verdict> {
    let Scratch { seen, nat, .. } = scratch;
    rewrite::ends(frame, &seen.packet, &nat.entering, &nat.leaving).ok_or(Verdict::DropMalformed)
}

/// The ends of a packet of a known flow that the kernel sends. `key`: the one it was found under.
#[inline(always)]
pub(crate) fn sent(scratch: &mut Scratch, key: &Key, known: &Flow, original: bool) -> Result<(), Verdict> {
    let Scratch { seen, nat, .. } = scratch;
    nat.changes = 0;
    if !known.translation.is_some() {
        return Ok(());
    }
    nat.key = known_by(key);
    let way = Way { key: &nat.key, opener_is_low: known.opener_is_low != 0, translation: &known.translation };
    nat.entering = Ends::of(&seen.packet);
    if way.between(original) != nat.entering {
        return Err(Verdict::DropPolicy);
    }
    nat.leaving = way.leaving(original);
    nat.active = 1;
    nat.changes = 1;
    Ok(())
}

/// An ICMP error that the kernel sends: its own quotes the packet as the kernel saw it, another's is on its way through
/// and lacks the source only.
#[inline(always)]
pub(crate) fn egress_error(frame: &SkbFrame, scratch: &mut Scratch, own: bool) -> Result<(), Verdict> {
    let Scratch { seen, nat, quoted, .. } = scratch;
    *quoted = Packet::default();
    if icmp::quoted(frame, &seen.packet, quoted).is_err() {
        // The kernel answers packets that belong to no flow, too: those to itself.
        return if own { Ok(()) } else { Err(Verdict::DropIcmpError) };
    }
    let (key, from_low) = flow::key(quoted);
    let Some((known, original)) = find(&key, from_low) else { return Ok(()) };
    if !known.translation.is_some() {
        return Ok(());
    }
    nat.key = known_by(&key);
    let way = Way { key: &nat.key, opener_is_low: known.opener_is_low != 0, translation: &known.translation };
    nat.entering = Ends::of(&seen.packet);
    nat.leaving = nat.entering;
    if own {
        if way.between(original) == Ends::of(quoted) {
            nat.quoted = way.entering(original);
            nat.active = 1;
            nat.changes = 1;
        }
        return Ok(());
    }
    let asked = way.entering(original).destination;
    if way.leaving(original).destination != asked {
        nat.leaving.source = asked;
        nat.active = 1;
        nat.changes = 1;
    }
    Ok(())
}

/// Makes the kernel's own ICMP error quote the packet as its sender knows it.
#[inline(always)]
pub(crate) fn egress_error_quote(frame: &SkbFrame, scratch: &mut Scratch) -> Result<(), Verdict> {
    let Scratch { seen, nat, quoted, .. } = scratch;
    rewrite::error(frame, &seen.packet, &nat.leaving, quoted, &nat.quoted).ok_or(Verdict::DropMalformed)
}

/// Gives an ICMP error on its way through the source that [`egress_error`] has found.
#[inline(always)]
pub(crate) fn egress_error_source(frame: &SkbFrame, scratch: &mut Scratch) -> Result<(), Verdict> {
    let Scratch { seen, nat, .. } = scratch;
    let pseudo = rewrite::addresses(frame, seen.packet.version, &nat.entering, &nat.leaving)
        .ok_or(Verdict::DropMalformed)?;
    if seen.packet.version == 4 {
        return Ok(());
    }
    let at = u32::from(seen.packet.transport) + 2;
    frame.update_checksum(at, pseudo, Change::default(), false).ok_or(Verdict::DropMalformed)
}
