//! Rules: what decides whether a new flow may be opened. Three tables, asked in this order:
//!
//! 1. `LISTS` under (rule set, zones) says which conditions the rules between the two zones have at all.
//! 2. `ADDRESSES` gives an address its class: two addresses are of one class when they are in the same address sets.
//!    Asked only where rules between the two zones name addresses. `LISTS` again, under the zones and these classes,
//!    says which lists of rules concern the packet: at most four.
//! 3. `RULES` gives the first rule of a list for (protocol, port): one longest-prefix lookup, whatever their number.
//!
//! Of what the lists give, the rule with the lowest [`Rule::order`] decides. The daemon compiles the administrator's
//! ordered rules into these tables.

use crate::{Address, pod};

/// Key of `LISTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListKey {
    /// [`Config::generation`](crate::map::Config::generation).
    pub generation: u32,
    /// Zone the packet comes from.
    pub from: u16,
    /// Zone it goes to.
    pub to: u16,
    /// Class of its source; [`CLASS_ANY`]: rules that ask for no source.
    pub source_class: u32,
    /// Class of its destination; [`CLASS_ANY`]: rules that ask for no destination.
    pub destination_class: u32,
}

/// The class of addresses that are in no set.
pub const CLASS_ANY: u32 = 0;

/// A list of rules.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// Its number in [`RuleKey::list_be`]; [`LIST_EMPTY`] has no rules.
    pub list: u32,
    /// Lowest [`Rule::order`] in it: who has found a rule before that one need not ask.
    pub first: u32,
    /// [`list_flags`].
    pub flags: u32,
}

/// A list without rules.
pub const LIST_EMPTY: u32 = 0;
/// In the place of a list: source ports and their classes ([`Rule::id`]).
pub const LIST_SOURCE_PORTS: u32 = u32::MAX;

/// Bits of [`List::flags`].
pub mod list_flags {
    /// The list's rules name source ports.
    pub const SOURCE_PORTS: u32 = 1 << 0;
    /// Between these zones there are lists by class of the source. Set, as the two below, where both classes are
    /// [`CLASS_ANY`](super::CLASS_ANY).
    pub const BY_SOURCE: u32 = 1 << 1;
    /// The same by class of the destination.
    pub const BY_DESTINATION: u32 = 1 << 2;
    /// The same by both together.
    pub const BY_BOTH: u32 = 1 << 3;
}

/// Key data of `ADDRESSES`, whose value is the class of the longest prefix.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddressKey {
    /// [`Config::generation`](crate::map::Config::generation), network byte order.
    pub generation_be: [u8; 4],
    /// The address.
    pub address: Address,
}

/// Prefix length in bits of the rule set's number in an [`AddressKey`].
pub const ADDRESS_KEY_BITS_ANY: u32 = 32;
/// Prefix length in bits of an [`AddressKey`] with the whole address.
pub const ADDRESS_KEY_BITS: u32 = 160;

/// Key data of `RULES`. Every field is in network byte order, for the trie compares bits from the first byte on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RuleKey {
    /// [`Config::generation`](crate::map::Config::generation).
    pub generation_be: [u8; 4],
    /// [`List::list`].
    pub list_be: [u8; 4],
    /// IP protocol number.
    pub protocol: u8,
    /// Class of the source port where the list's rules name source ports, else 0.
    pub source_port_class: u8,
    /// TCP, UDP: destination port. ICMP, ICMPv6: type, code. Others: zero.
    pub port_be: [u8; 2],
}

/// Prefix length in bits of a key with every field set.
pub const RULE_KEY_BITS: u32 = 96;
/// Prefix length in bits of a key for any protocol.
pub const RULE_KEY_BITS_ANY_PROTOCOL: u32 = 64;
/// Prefix length in bits of a key for any port of one protocol, and one class of source ports.
pub const RULE_KEY_BITS_ANY_PORT: u32 = 80;

/// What to do with a new flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Its place among the administrator's rules, from 1: the lowest decides.
    pub order: u32,
    /// Its number in `RULE_COUNTERS`, in flows and in status; it goes with the rule's name and outlives a reload. 0 is
    /// no rule.
    pub id: u32,
    /// [`action`].
    pub action: u16,
    /// [`rule_flags`].
    pub flags: u16,
    /// Limit of new flows: microseconds between two at the full rate; 0: no limit.
    pub interval_us: u32,
    /// Microseconds by which new flows may come early, all together.
    pub burst_us: u32,
}

impl Rule {
    /// What is in force where no rule matches.
    pub const NONE: Rule =
        Rule { order: u32::MAX, id: 0, action: action::DENY, flags: 0, interval_us: 0, burst_us: 0 };
}

/// Values of [`Rule::action`].
pub mod action {
    /// Refuse and count.
    pub const DENY: u16 = 0;
    /// Make a flow.
    pub const ALLOW: u16 = 1;
}

/// Bits of [`Rule::flags`].
pub mod rule_flags {
    /// Send an event for each new flow.
    pub const LOG: u16 = 1 << 0;
    /// The limit holds for each source by itself.
    pub const PER_SOURCE: u16 = 1 << 1;
    /// A TCP client must answer a challenge before its SYN opens a flow.
    pub const SYN_CHALLENGE: u16 = 1 << 2;
    /// The same, but only while many half-open flows lead to the destination.
    pub const SYN_CHALLENGE_PRESSURE: u16 = 1 << 3;
}

/// What the rules are asked, and what they answer. Without padding, as it goes to subprograms.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Source address.
    pub source: Address,
    /// Destination address, the real one.
    pub destination: Address,
    /// [`Config::generation`](crate::map::Config::generation) of the rules asked.
    pub generation: u32,
    /// Zone the flow is opened from.
    pub from: u16,
    /// Zone it goes to.
    pub to: u16,
    /// Source port, network byte order.
    pub source_port_be: u16,
    /// Destination port, or ICMP type and code, of the flow's first packet, network byte order.
    pub port_be: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// The answer.
    pub rule: Rule,
    /// Class of the source, where it had to be known.
    pub source_class: u32,
    /// The same of the destination.
    pub destination_class: u32,
    /// Zero.
    pub reserved_end: u32,
}

const _: () = assert!(size_of::<Asked>() == 32 + 16 + 20 + 12, "padding");

/// What a rule has decided so far.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleCounter {
    /// Packets it let through, or refused.
    pub packets: u64,
    /// Bytes of their frames.
    pub bytes: u64,
    /// Flows it opened.
    pub flows: u64,
}

/// Key of `RULE_RATES`: whom a limit counts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RuleRateKey {
    /// The source, or zeros for all of them together.
    pub source: Address,
    /// [`Rule::id`].
    pub rule: u32,
}

pod!(ListKey, List, AddressKey, RuleKey, Rule, Asked, RuleCounter, RuleRateKey);
