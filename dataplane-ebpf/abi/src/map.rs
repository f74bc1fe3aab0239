//! The maps, on one page: names as the programs declare them, sizes, and who writes them.
//!
//! | map | kind | key → value | written by |
//! |---|---|---|---|
//! | `CONFIG` | array, 1 | 0 → [`Config`] | daemon |
//! | `PORTS` | hash | [`PortKey`](crate::port::PortKey) → [`Port`](crate::port::Port) | daemon |
//! | `NETWORKS` | LPM trie | prefix of an address → [`Network`](crate::port::Network) | daemon |
//! | `LISTS` | hash | [`ListKey`](crate::rule::ListKey) → [`List`](crate::rule::List) | daemon |
//! | `ADDRESSES` | LPM trie | [`AddressKey`](crate::rule::AddressKey) prefix → class | daemon |
//! | `RULES` | LPM trie | [`RuleKey`](crate::rule::RuleKey) prefix → [`Rule`](crate::rule::Rule) | daemon |
//! | `RULE_COUNTERS` | per-CPU array | [`Rule::id`](crate::rule::Rule) → [`RuleCounter`](crate::rule::RuleCounter) | programs |
//! | `RULE_RATES` | LRU hash | [`RuleRateKey`](crate::rule::RuleRateKey) → [`Rate`] | programs |
//! | `FLOWS` | hash | [`FlowKey`](crate::flow::FlowKey) → [`Flow`](crate::flow::Flow) | programs; the daemon expires |
//! | `TRANSLATIONS` | hash | [`FlowKey`](crate::flow::FlowKey) of a translated flow's other ends → [`Translated`](crate::nat::Translated) | programs; the daemon expires |
//! | `SOURCE_NAT` | LPM trie | [`SourceNatKey`](crate::nat::SourceNatKey) prefix → [`SourceNat`](crate::nat::SourceNat) | daemon |
//! | `DESTINATION_NAT` | LPM trie | [`DestinationNatKey`](crate::nat::DestinationNatKey) prefix → [`DestinationNat`](crate::nat::DestinationNat) | daemon |
//! | `NAT_POOL` | array | (generation & 1) × `NAT_POOL_MAX` + index → address | daemon |
//! | `NEIGHBOURS` | hash | [`NeighbourKey`](crate::neighbour::NeighbourKey) → [`Neighbour`](crate::neighbour::Neighbour) | programs, daemon |
//! | `NEIGHBOUR_COUNTS` | array | port id → number of learned bindings (`u32`) | programs; the daemon corrects |
//! | `ROUTERS` | array | [`Network::router`](crate::port::Network) → address | daemon |
//! | `SPIS` | hash | inbound [`SpiKey`] → [`Spi`] | daemon |
//! | `SOCKETS` | XSKMAP | [`Port::xsk_base`](crate::port::Port) + rx queue → AF_XDP socket of the engine | daemon |
//! | `DEVICES` | DEVMAP_HASH | ifindex → redirect target | daemon |
//! | `COUNTERS` | per-CPU array | [`counter_index`](crate::verdict::counter_index) → [`Counter`] | programs |
//! | `EVENTS` | ring buffer | [`Event`](crate::event::Event), [`FlowEnd`](crate::event::FlowEnd) | programs |
//! | `RATES` | LRU hash | source address → [`Rate`] | programs |
//! | `FRAGMENTS` | LRU hash | addresses, identification, protocol, port → fragments of a datagram, the programs' own affair | programs |
//! | `FRAGMENT_PAIRS` | LRU hash | addresses, protocol, port → where first fragments went | programs |
//! | `SHARES` | LRU hash | host, port and what of → [`Rate`] | programs |
//! | `NEW_DATAGRAM` | per-CPU array, 1 | 0 → a datagram in the making | programs |
//! | `KNOWN_PORTS` | per-CPU array | digest of a key → [`KnownPort`](crate::memo::KnownPort), what `PORTS` has answered | programs |
//! | `KNOWN_NETWORKS` | per-CPU array | digest of an address → [`KnownNetwork`](crate::memo::KnownNetwork), what `NETWORKS` has answered | programs |
//! | `KNOWN_LISTS` | per-CPU array | digest of zones → [`KnownList`](crate::memo::KnownList), what `LISTS` has answered | programs |
//! | `SCRATCH` | per-CPU array | program's number → what it knows of its packet, the programs' own affair | programs |
//! | `NEW_FLOW` | per-CPU array, 1 | 0 → [`Flow`](crate::flow::Flow) in the making | programs |
//! | `CLOCK` | array, 1 | 0 → [`Clock`] | programs |
//! | `TRACE` | array, 1 | 0 → [`Trace`](crate::trace::Trace) | daemon |
//! | `TRACE_RATES` | per-CPU array, 1 | 0 → [`Rate`] of traced packets | programs |
//! | `LOST` | per-CPU array, 1 | 0 → number of events that found no room (`u64`) | programs |
//! | `ALARM_RATE` | per-CPU array, 1 | 0 → [`Rate`] of claims told | programs |
//! | `QUOTAS` | array, shared memory | bucket → [`Bucket`](crate::quota::Bucket) | programs and daemon |
//! | `ZONES` | array, shared memory | zone → [`ZoneQuota`](crate::quota::ZoneQuota) | programs and daemon |
//! | `SECRETS` | array, 1 | 0 → [`Secrets`](crate::quota::Secrets) | daemon |
//! | `PROVEN` | LRU hash | source address → until when, nanoseconds of CLOCK_MONOTONIC | programs |
//! | `SCANNERS` | LRU hash | host and port → [`Scanner`](crate::quota::Scanner) | programs |
//! | `SCANNING` | array, 1 | 0 → until when anyone counts as scanning, nanoseconds of CLOCK_MONOTONIC | programs |
//! | `IKE_SPIS` | hash | our SPI of an IKE SA, as in messages → 1 | daemon |
//! | `EVENT_RATES` | per-CPU array | verdict's number → [`Rate`] | programs |

use crate::flow::LIFETIMES;
use crate::quota::Quotas;
use crate::{Address, pod};

/// The one entry of `CONFIG`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The rule set in force: the first field of every [`RuleKey`](crate::rule::RuleKey) that is looked up. A reload
    /// writes the new set under the next number and then flips this one field. Every change of `PORTS` or `NETWORKS`
    /// needs a new generation as well, when it is made: a known flow is held against them only when it's judged again, and
    /// CPUs remember what they have answered ([`memo`](crate::memo)).
    pub generation: u32,
    /// ifindex of the kernel-side end of the engine's veth pair; 0 while there is none: SAs, if any, are the kernel's.
    pub engine_ifindex: u32,
    /// MAC address of that device: packets the kernel shall take carry it as destination.
    pub engine_mac: [u8; 6],
    /// [`config_flags`].
    pub flags: u16,
    /// Zone of the ports that are uplinks ([`UPLINK`](crate::port::port_flags::UPLINK)); 0: there are none, or their zones
    /// differ. What goes to no network in `NETWORKS` leaves to it.
    pub uplink_zone: u16,
    /// Id of the one port that is an uplink; 0: there is none, or there are several.
    pub uplink: u16,
    /// Lifetimes of flows by class, in seconds: see [`crate::flow::Lifetime`].
    pub lifetimes: [u32; LIFETIMES],
    /// What one source, destination or zone may have.
    pub quotas: Quotas,
}

/// Bits of [`Config::flags`].
pub mod config_flags {
    /// Every packet is dropped: the daemon has attached the programs but not yet filled the maps.
    pub const CLOSED: u16 = 1 << 0;
    /// A TCP packet in the middle of a connection may open a flow, where a rule allows it.
    pub const TCP_PICK_UP: u16 = 1 << 1;
    /// Addresses are translated: there is something in `SOURCE_NAT` or `DESTINATION_NAT`, or there was and its flows
    /// may live.
    pub const NAT: u16 = 1 << 4;
    /// Somebody traces packets: `TRACE` says which.
    pub const TRACE: u16 = 1 << 8;
    /// There are rules that challenge.
    pub const CHALLENGES: u16 = 1 << 9;
}

/// What an ESP packet is known by: SPI and the address it is sent to (RFC 4301 section 4.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SpiKey {
    /// The gateway's address on the outside; of an outbound SA the peer's.
    pub destination: Address,
    /// SPI in network byte order, as it stands in the packet.
    pub spi_be: u32,
}

/// A known SA.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spi {
    /// Port id of the VPN port behind the SA.
    pub port: u16,
    /// 1: ESP is expected in UDP 4500 (RFC 3948); 0: as IP protocol 50. The other form is dropped.
    pub udp_encapsulated: u8,
    /// 1: it sends. Nothing is received by it, but what a router says of its packets is believed.
    pub outbound: u8,
}

/// Packets and bytes (whole frames as the program saw them).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// How far ahead a source has used its share: the theoretical arrival time of its next packet (GCRA, ITU-T I.371).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds of CLOCK_MONOTONIC.
    pub next_ns: u64,
}

/// The time as of the last timer tick, for programs that can't afford to ask for it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// The kernel's count of ticks.
    pub jiffies: u64,
    /// Nanoseconds of CLOCK_MONOTONIC when that count was first seen.
    pub now_ns: u64,
}

pod!(Config, SpiKey, Spi, Counter, Rate, Clock);

/// Capacity of `PORTS`, and the bound of a port id (exclusive).
pub const PORTS_MAX: u32 = 256;
/// Capacity of `ROUTERS`; its first entry stands for no router.
pub const ROUTERS_MAX: u32 = 1_024;
/// Capacity of `NETWORKS`.
pub const NETWORKS_MAX: u32 = 16_384;
/// Capacity of `LISTS`, both generations together.
pub const LISTS_MAX: u32 = 524_288;
/// Capacity of `ADDRESSES`, both generations together: a hundred thousand prefixes in each, and room for ranges.
pub const ADDRESSES_MAX: u32 = 1_048_576;
/// Capacity of `RULES`, both generations together.
pub const RULES_MAX: u32 = 524_288;
/// Capacity of `RULE_COUNTERS`, and the bound of a rule's number (exclusive). 0 counts what no rule matches.
pub const RULE_IDS_MAX: u32 = 32_768;
/// Sources, times rules with a limit, whose rate is remembered; the least recently seen makes room.
pub const RULE_RATES_MAX: u32 = 16_384;
/// Default capacity of `FLOWS`; the daemon sets the configured one before loading.
pub const FLOWS_MAX: u32 = 131_072;
/// Capacity of `SOURCE_NAT` and of `DESTINATION_NAT`, both generations together.
pub const NAT_MAX: u32 = 32_768;
/// Capacity of `SPIS`: two for each pair of SAs. While the keys of 10,000 peers are renewed there may be 40,000, as former SAs
/// linger; three times that, for what takes no memory until it is there.
pub const SPIS_MAX: u32 = 131_072;
/// Capacity of `SOCKETS`.
pub const SOCKETS_MAX: u32 = 256;
/// Capacity of `DEVICES`.
pub const DEVICES_MAX: u32 = 256;
/// Sources whose rate is remembered; the least recently seen makes room.
pub const RATES_MAX: u32 = 16_384;
/// Datagrams whose fragments are followed at a time.
pub const FRAGMENTS_MAX: u32 = 8_192;
/// Pairs of hosts whose fragments may come out of order.
pub const FRAGMENT_PAIRS_MAX: u32 = 4_096;
/// Size of `EVENTS` in bytes.
pub const EVENTS_BYTES: u32 = 1 << 18;
