//! `sekisho explain`: the programs once more, loaded beside those in force and run by hand. They read the same tables
//! ([`SHARED`]); what they write ([`OWN`]) is their own and is thrown away, so that a question leaves nothing behind.

use crate::flow::Hop;
use crate::pod;
use crate::rule::Asked;

/// Maps that the programs only read: an explanation asks those in force.
pub const SHARED: [&str; 14] = [
    "CONFIG",
    "PORTS",
    "NETWORKS",
    "ROUTERS",
    "LISTS",
    "ADDRESSES",
    "RULES",
    "SPIS",
    "SOCKETS",
    "DEVICES",
    "SOURCE_NAT",
    "DESTINATION_NAT",
    "NAT_POOL",
    "SECRETS",
];

/// Arrays of counts that the programs change: their own begin as a copy of those in force, of the same size.
pub const COPIED: [&str; 3] = ["QUOTAS", "ZONES", "NEIGHBOUR_COUNTS"];

/// Tables that the programs write and find again by a key, with the capacity that is enough for one question. Of those in
/// force the entries are copied that the question is about.
pub const REMEMBERED: [(&str, u32); 6] = [
    ("FLOWS", 64),
    ("TRANSLATIONS", 64),
    ("NEIGHBOURS", 64),
    ("RULE_RATES", 1024),
    ("RATES", 1024),
    ("SHARES", 1024),
];

/// Maps that the programs write, and that begin empty for a question, with the capacity that is enough.
pub const OWN: [(&str, Option<u32>); 23] = [
    ("RULE_COUNTERS", Some(1)),
    ("COUNTERS", None),
    ("EVENTS", None),
    ("FRAGMENTS", Some(1024)),
    ("FRAGMENT_PAIRS", Some(1024)),
    ("NEW_DATAGRAM", None),
    ("KNOWN_PORTS", None),
    ("KNOWN_NETWORKS", None),
    ("KNOWN_LISTS", None),
    ("SCRATCH", None),
    ("NEW_FLOW", None),
    ("CLAIMED", None),
    ("CLOCK", None),
    ("ALARM_RATE", None),
    ("EVENT_RATES", None),
    ("TRACE", None),
    ("TRACE_RATES", None),
    ("LOST", None),
    ("PROVEN", Some(1024)),
    ("SCANNERS", Some(1024)),
    ("NEW_SCANNER", None),
    ("SCANNING", None),
    ("IKE_SPIS", Some(1)),
];

/// What the way of a packet has come to, at the begin of a program's entry in `SCRATCH`. Zero before the first packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// The question to the rules and their answer; [`Asked::generation`] is zero where they were not asked.
    pub asked: Asked,
    /// The next hop; ifindex 0: the kernel has the neighbour to resolve, or none was looked for.
    pub hop: Hop,
    /// Port id by which the packet leaves, 0 for the gateway, or where none was found.
    pub exit: u16,
    /// Zero.
    pub reserved: [u8; 6],
    /// Number of the table that translated the destination, 0: none has. Only where [`Findings::nat_active`] is 1.
    pub destination_rule: u16,
    /// 1: the translation of the packet was asked for.
    pub nat_active: u8,
    /// The programs' own.
    pub rest: [u8; 5],
}

pod!(Findings);
