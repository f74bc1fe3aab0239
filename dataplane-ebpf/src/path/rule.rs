//! Step 6: may a new flow go from this zone to that one?

use sekisho_abi::Address;
use sekisho_abi::rule::{
    ADDRESS_KEY_BITS, AddressKey, Asked, CLASS_ANY, LIST_EMPTY, LIST_SOURCE_PORTS, List, ListKey,
    RULE_KEY_BITS, Rule, RuleKey, RuleRateKey, action, list_flags, rule_flags,
};
use sekisho_abi::verdict::Verdict;
use sekisho_dataplane::parse::Packet;
use sekisho_dataplane::rate::Limit;

use crate::context::now_ns;
use crate::maps;
use crate::memo;
use crate::subprogram;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Asks about a flow whose opener sends the packet (`original`) or receives it. `port_be`: destination port, or ICMP type
/// and code, of the flow's first packet, network byte order.
#[inline(always)]
pub(crate) fn about(
    asked: &mut Asked,
    generation: u32,
    packet: &Packet,
    original: bool,
    (from, to): (u16, u16),
    port_be: u16,
) {
    let (source, destination, source_port_be) = if original {
        (packet.source, packet.destination, packet.source_port_be)
    } else {
        (packet.destination, packet.source, packet.destination_port_be)
    };
    asked.source = source;
    asked.destination = destination;
    asked.generation = generation;
    asked.from = from;
    asked.to = to;
    asked.source_port_be = source_port_be;
    asked.port_be = port_be;
    asked.protocol = packet.protocol;
}

/// Whether the rules allow what is asked; what no rule names is refused. A refused packet of `bytes` is counted under
/// the rule that refused it.
#[inline(always)]
pub(crate) fn judge(asked: &mut Asked, bytes: u32) -> Result<(), Verdict> {
    find(asked);
    if asked.rule.action != action::ALLOW {
        count(asked.rule.id, bytes, 0);
        return Err(Verdict::DropPolicy);
    }
    Ok(())
}

/// Whether one more flow fits the limit of the rule that allows it.
#[inline(always)]
pub(crate) fn within_limit(asked: &Asked) -> Result<(), Verdict> {
    let rule = &asked.rule;
    if rule.interval_us == 0 {
        return Ok(());
    }
    let source = if rule.flags & rule_flags::PER_SOURCE != 0 { asked.source } else { [0; 16] };
    let key = RuleRateKey { source, rule: rule.id };
    let limit =
        Limit { interval_ns: u64::from(rule.interval_us) * 1000, burst_ns: u64::from(rule.burst_us) * 1000 };
    let now_ns = now_ns();
    let next_ns = match maps::RULE_RATES.get_ptr(key) {
        // SAFETY: map values outlive the program's run (RCU).
        Some(rate) => unsafe { (*rate).next_ns },
        None => 0,
    };
    let next_ns = limit.admit(next_ns, now_ns).ok_or(Verdict::DropRuleLimit)?;
    // What can't be remembered can't be limited: refused.
    maps::remember_rate(&key, next_ns).map_err(|()| Verdict::DropRuleLimit)
}

/// Counts a packet under a rule; `flows`: 1 if it opens one.
#[inline(always)]
pub(crate) fn count(rule: u32, bytes: u32, flows: u64) {
    let Some(counter) = maps::RULE_COUNTERS.get_ptr_mut(rule) else { return };
    // SAFETY: the entry is this CPU's own. A program on the way out may interrupt one on the way in: a lost count is
    // possible.
    unsafe {
        (*counter).packets = (*counter).packets.wrapping_add(1);
        (*counter).bytes = (*counter).bytes.wrapping_add(u64::from(bytes));
        (*counter).flows = (*counter).flows.wrapping_add(flows);
    }
}

/// The first rule that matches: of each kind of list that there is between the two zones, one is asked.
#[inline(always)]
fn find(asked: &mut Asked) {
    asked.rule = Rule::NONE;
    asked.source_class = CLASS_ANY;
    asked.destination_class = CLASS_ANY;
    let &mut Asked { generation, from, to, .. } = asked;
    let key = ListKey { generation, from, to, source_class: CLASS_ANY, destination_class: CLASS_ANY };
    let Some(any) = memo::list(key) else { return };
    // Most zones have no other list: not by a call, which costs as much as half a lookup.
    first_of(asked, any.list, any.first, any.flags);
    let kinds = any.flags;
    if kinds & (list_flags::BY_SOURCE | list_flags::BY_DESTINATION | list_flags::BY_BOTH) == 0 {
        return;
    }
    if kinds & (list_flags::BY_SOURCE | list_flags::BY_BOTH) != 0 {
        asked.source_class = class(asked.generation, &asked.source);
    }
    if kinds & (list_flags::BY_DESTINATION | list_flags::BY_BOTH) != 0 {
        asked.destination_class = class(asked.generation, &asked.destination);
    }
    let (source, destination) = (asked.source_class, asked.destination_class);
    if kinds & list_flags::BY_SOURCE != 0
        && source != CLASS_ANY
        && let Some(list) = list(asked, source, CLASS_ANY)
    {
        subprogram::first_rule(asked, list);
    }
    if kinds & list_flags::BY_DESTINATION != 0
        && destination != CLASS_ANY
        && let Some(list) = list(asked, CLASS_ANY, destination)
    {
        subprogram::first_rule(asked, list);
    }
    if kinds & list_flags::BY_BOTH != 0
        && source != CLASS_ANY
        && destination != CLASS_ANY
        && let Some(list) = list(asked, source, destination)
    {
        subprogram::first_rule(asked, list);
    }
}

#[inline(always)]
fn list(asked: &Asked, source_class: u32, destination_class: u32) -> Option<&'static List> {
    let &Asked { generation, from, to, .. } = asked;
    let key = ListKey { generation, from, to, source_class, destination_class };
    // SAFETY: a hash's elements are never unmapped while a program runs, and any bytes are a value.
    maps::LISTS.get_ptr(key).map(|list| unsafe { &*list })
}

/// The class of an address.
#[inline(always)]
fn class(generation: u32, address: &Address) -> u32 {
    let key = AddressKey { generation_be: generation.to_be_bytes(), address: *address };
    maps::longest::<0, _, _>(&maps::ADDRESSES, ADDRESS_KEY_BITS, key).copied().unwrap_or(CLASS_ANY)
}

/// Takes the first rule of a list that matches, if it stands before the one found so far. `first`:
/// [`List::first`](sekisho_abi::rule::List).
#[inline(always)]
pub(crate) fn first_of(asked: &mut Asked, list: u32, first: u32, flags: u32) {
    if list == LIST_EMPTY || first >= asked.rule.order {
        return;
    }
    let mut key = RuleKey {
        generation_be: asked.generation.to_be_bytes(),
        list_be: LIST_SOURCE_PORTS.to_be_bytes(),
        protocol: 0,
        source_port_class: 0,
        port_be: asked.source_port_be.to_ne_bytes(),
    };
    if flags & list_flags::SOURCE_PORTS != 0
        && matches!(asked.protocol, TCP | UDP)
        && let Some(class) = maps::longest::<4, _, _>(&maps::RULES, RULE_KEY_BITS, key)
    {
        key.source_port_class = class.id as u8;
    }
    key.list_be = list.to_be_bytes();
    key.protocol = asked.protocol;
    key.port_be = asked.port_be.to_ne_bytes();
    if let Some(rule) = maps::longest::<4, _, _>(&maps::RULES, RULE_KEY_BITS, key)
        && rule.order < asked.rule.order
    {
        asked.rule = *rule;
    }
}
