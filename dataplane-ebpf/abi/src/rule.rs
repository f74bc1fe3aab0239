//! Rules: a longest-prefix trie over (rule set, zones, protocol, destination port).
//!
//! The daemon compiles the administrator's ordered rules into disjoint prefixes, so that one lookup finds the rule
//! whatever their number.

use crate::pod;

/// Key data of `RULES`. Every field is in network byte order, for the trie compares bits from the first byte on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RuleKey {
    /// [`Config::generation`](crate::map::Config::generation).
    pub generation_be: [u8; 4],
    /// Zone the packet comes from.
    pub from_be: [u8; 2],
    /// Zone it goes to.
    pub to_be: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// TCP, UDP: destination port. ICMP, ICMPv6: type, code. Others: zero.
    pub port_be: [u8; 2],
    /// Zero; never part of a prefix.
    pub reserved: u8,
}

/// Prefix length in bits of a key with every field set.
pub const RULE_KEY_BITS: u32 = 88;
/// Prefix length in bits of a key for any protocol between two zones.
pub const RULE_KEY_BITS_ANY_PROTOCOL: u32 = 64;
/// Prefix length in bits of a key for any port of one protocol.
pub const RULE_KEY_BITS_ANY_PORT: u32 = 72;

/// What to do with a new flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// The rule's number, as `sekisho status` shows it.
    pub id: u32,
    /// [`action`].
    pub action: u16,
    /// [`rule_flags`].
    pub flags: u16,
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
}

pod!(RuleKey, Rule);
