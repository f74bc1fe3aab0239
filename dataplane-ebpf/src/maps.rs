//! Every map of the programs. What they hold, and who writes them, stands in [`sekisho_abi::map`].

use aya_ebpf::bindings::{BPF_ANY, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie;
use aya_ebpf::maps::{Array, DevMapHash, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, XskMap};
use sekisho_abi::Address;
use sekisho_abi::flow::{Flow, FlowKey};
use sekisho_abi::map::{
    ADDRESSES_MAX, Clock, Config, Counter, DEVICES_MAX, EVENTS_BYTES, FLOWS_MAX, FRAGMENT_PAIRS_MAX,
    FRAGMENTS_MAX, LISTS_MAX, NAT_MAX, NETWORKS_MAX, PORTS_MAX, RATES_MAX, ROUTERS_MAX, RULE_IDS_MAX,
    RULE_RATES_MAX, RULES_MAX, Rate, SOCKETS_MAX, SPIS_MAX, Spi, SpiKey,
};
use sekisho_abi::memo::{
    KNOWN_LISTS_MAX, KNOWN_NETWORKS_MAX, KNOWN_PORTS_MAX, KnownList, KnownNetwork, KnownPort,
};
use sekisho_abi::nat::{
    DestinationNat, DestinationNatKey, NAT_POOL_MAX, SourceNat, SourceNatKey, Translated,
};
use sekisho_abi::neighbour::{NEIGHBOURS_MAX, Neighbour, NeighbourKey};
use sekisho_abi::port::{Network, Port, PortKey, TRUNK};
use sekisho_abi::quota::{
    BUCKETS_MAX, Bucket, IKE_SPIS_MAX, PROVEN_MAX, SCANNERS_MAX, Scanner, Secrets, ZONES_MAX, ZoneQuota,
};
use sekisho_abi::rule::{AddressKey, List, ListKey, Rule, RuleCounter, RuleKey, RuleRateKey};
use sekisho_abi::trace::Trace;
use sekisho_abi::verdict::{COUNTERS_MAX, VERDICTS_MAX};
use sekisho_dataplane::flow::{self, Key};
use sekisho_dataplane::fragment::{Datagram, FragmentKey, Pair, PairKey};
use sekisho_dataplane::frame::Aligned;
use sekisho_dataplane::rate::Share;

use crate::path::nat::Claimed;
use crate::scratch::{PROGRAMS, Scratch};

#[map]
pub(crate) static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static PORTS: HashMap<PortKey, Port> = HashMap::with_max_entries(PORTS_MAX, 0);
// An address in two numbers: on the stack it is written in two pieces.
#[map]
pub(crate) static NETWORKS: LpmTrie<[u64; 2], Network> = LpmTrie::with_max_entries(NETWORKS_MAX, 0);
// Room for the largest rule sets costs nothing until it is used.
#[map]
pub(crate) static LISTS: HashMap<ListKey, List> = HashMap::with_max_entries(LISTS_MAX, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static ADDRESSES: LpmTrie<AddressKey, u32> = LpmTrie::with_max_entries(ADDRESSES_MAX, 0);
#[map]
pub(crate) static RULES: LpmTrie<RuleKey, Rule> = LpmTrie::with_max_entries(RULES_MAX, 0);
#[map]
pub(crate) static RULE_COUNTERS: PerCpuArray<RuleCounter> = PerCpuArray::with_max_entries(RULE_IDS_MAX, 0);
#[map]
pub(crate) static RULE_RATES: LruHashMap<RuleRateKey, Rate> = LruHashMap::with_max_entries(RULE_RATES_MAX, 0);
// A plain hash: it never evicts, so that a flood of new flows can't push out those at work.
#[map]
pub(crate) static FLOWS: HashMap<FlowKey, Flow> = HashMap::with_max_entries(FLOWS_MAX, 0);
// Takes memory as it fills, for most gateways translate little or nothing.
#[map]
pub(crate) static TRANSLATIONS: HashMap<FlowKey, Translated> =
    HashMap::with_max_entries(FLOWS_MAX, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static SOURCE_NAT: LpmTrie<SourceNatKey, SourceNat> = LpmTrie::with_max_entries(NAT_MAX, 0);
#[map]
pub(crate) static DESTINATION_NAT: LpmTrie<DestinationNatKey, DestinationNat> =
    LpmTrie::with_max_entries(NAT_MAX, 0);
#[map]
pub(crate) static NAT_POOL: Array<Address> = Array::with_max_entries(2 * NAT_POOL_MAX, 0);
// A plain hash: a flood of claims can't push out the bindings that it would take over. Takes memory as it fills.
#[map]
pub(crate) static NEIGHBOURS: HashMap<NeighbourKey, Neighbour> =
    HashMap::with_max_entries(NEIGHBOURS_MAX, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static NEIGHBOUR_COUNTS: Array<u32> = Array::with_max_entries(PORTS_MAX, 0);
#[map]
pub(crate) static ROUTERS: Array<Address> = Array::with_max_entries(ROUTERS_MAX, 0);
#[map]
pub(crate) static SPIS: HashMap<SpiKey, Spi> = HashMap::with_max_entries(SPIS_MAX, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static SOCKETS: XskMap = XskMap::with_max_entries(SOCKETS_MAX, 0);
#[map]
pub(crate) static DEVICES: DevMapHash = DevMapHash::with_max_entries(DEVICES_MAX, 0);
#[map]
pub(crate) static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(COUNTERS_MAX, 0);
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_BYTES, 0);
#[map]
pub(crate) static RATES: LruHashMap<Address, Rate> = LruHashMap::with_max_entries(RATES_MAX, 0);
// The least recently seen datagrams make room: a flood is bounded, and those that are complete don't miss it.
#[map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, Datagram> =
    LruHashMap::with_max_entries(FRAGMENTS_MAX, 0);
#[map]
pub(crate) static FRAGMENT_PAIRS: LruHashMap<PairKey, Pair> =
    LruHashMap::with_max_entries(FRAGMENT_PAIRS_MAX, 0);
#[map]
pub(crate) static SHARES: LruHashMap<Share, Rate> = LruHashMap::with_max_entries(RATES_MAX, 0);
// Where a new datagram is put together.
#[map]
pub(crate) static NEW_DATAGRAM: PerCpuArray<Datagram> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub(crate) static KNOWN_PORTS: PerCpuArray<KnownPort> = PerCpuArray::with_max_entries(KNOWN_PORTS_MAX, 0);
#[map]
pub(crate) static KNOWN_NETWORKS: PerCpuArray<KnownNetwork> =
    PerCpuArray::with_max_entries(KNOWN_NETWORKS_MAX, 0);
#[map]
pub(crate) static KNOWN_LISTS: PerCpuArray<KnownList> = PerCpuArray::with_max_entries(KNOWN_LISTS_MAX, 0);
// What a program knows of its packet.
#[map]
pub(crate) static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(PROGRAMS, 0);
// Where a new flow is put together.
#[map]
pub(crate) static NEW_FLOW: PerCpuArray<Flow> = PerCpuArray::with_max_entries(1, 0);
// Where an entry of `TRANSLATIONS` is put together.
#[map]
pub(crate) static CLAIMED: PerCpuArray<Claimed> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub(crate) static CLOCK: Array<Clock> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static ALARM_RATE: PerCpuArray<Rate> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub(crate) static EVENT_RATES: PerCpuArray<Rate> = PerCpuArray::with_max_entries(VERDICTS_MAX, 0);
// Counts that the daemon changes in shared memory.
#[map]
pub(crate) static QUOTAS: Array<Bucket> = Array::with_max_entries(BUCKETS_MAX, BPF_F_MMAPABLE);
#[map]
pub(crate) static ZONES: Array<ZoneQuota> = Array::with_max_entries(ZONES_MAX, BPF_F_MMAPABLE);
#[map]
pub(crate) static SECRETS: Array<Secrets> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static PROVEN: LruHashMap<Address, u64> = LruHashMap::with_max_entries(PROVEN_MAX, 0);
#[map]
pub(crate) static SCANNERS: LruHashMap<Share, Scanner> = LruHashMap::with_max_entries(SCANNERS_MAX, 0);
#[map]
pub(crate) static NEW_SCANNER: PerCpuArray<Scanner> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub(crate) static SCANNING: Array<u64> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static IKE_SPIS: HashMap<u64, u32> = HashMap::with_max_entries(IKE_SPIS_MAX, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static TRACE: Array<Trace> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static TRACE_RATES: PerCpuArray<Rate> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub(crate) static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The configuration in force.
#[inline(always)]
pub(crate) fn config() -> Option<&'static Config> {
    CONFIG.get(0)
}

/// Whether SAs are the user-space engine's. Otherwise ESP is left to the kernel.
#[inline(always)]
pub(crate) fn has_engine() -> bool {
    config().is_some_and(|config| config.engine_ifindex != 0)
}

/// The generation in force. A packet's way asks once, before any table: what a later step may find changed then
/// belongs to a newer generation than the one its flow is marked with, and the flow's next packet is judged again.
#[inline(always)]
pub(crate) fn generation(config: &Config) -> u32 {
    // SAFETY: a reference is valid; volatile, as the daemon writes it at any time.
    unsafe { (&raw const config.generation).read_volatile() }
}

/// The port with this key.
#[inline(always)]
pub(crate) fn port(key: PortKey) -> Option<&'static Port> {
    // SAFETY: a hash's elements are never unmapped while a program runs, and any bytes are a value. The daemon replaces a
    // port's entry as a whole.
    PORTS.get_ptr(key).map(|port| unsafe { &*port })
}

/// Whether a NIC carries tagged ports.
#[inline(always)]
pub(crate) fn is_trunk(ifindex: u32) -> bool {
    port(PortKey { ifindex, vlan: TRUNK, reserved: 0 }).is_some()
}

/// A trie's key with something before it.
#[repr(C)]
struct Placed<const BEFORE: usize, K> {
    before: [u8; BEFORE],
    key: lpm_trie::Key<K>,
}

/// The entry of the longest prefix that this key, of so many bits, has in the trie. `BEFORE`: so many bytes stand on the stack
/// before the key and the length of its prefix that the address in it is aligned.
#[inline(always)]
pub(crate) fn longest<const BEFORE: usize, K, V>(
    trie: &'static LpmTrie<K, V>,
    bits: u32,
    key: K,
) -> Option<&'static V> {
    let placed = Aligned(Placed { before: [0_u8; BEFORE], key: lpm_trie::Key::new(bits, key) });
    trie.get(&placed.0.key)
}

/// The longest prefix in `NETWORKS` that holds this address.
#[inline(always)]
pub(crate) fn network(address: &Address) -> Option<&'static Network> {
    longest::<4, _, _>(&NETWORKS, 128, flow::halves(address))
}

/// The binding of this address.
#[inline(always)]
pub(crate) fn neighbour(key: &NeighbourKey) -> Option<&'static mut Neighbour> {
    // SAFETY: a hash's elements are never unmapped while a program runs, and any bytes are a value. One that is another's by
    // now costs a packet, or counts as seen a second time.
    NEIGHBOURS.get_ptr_mut(key).map(|neighbour| unsafe { &mut *neighbour })
}

/// The flow with this key.
#[inline(always)]
pub(crate) fn flow(key: &Key) -> Option<&'static mut Flow> {
    // SAFETY: a hash's elements are never unmapped while a program runs, and any bytes are a value. Programs on other
    // CPUs may write the same flow, as said at `Flow`. An element that is removed may become another flow's at once, which
    // its tag tells: what was read is used, and the flow written, only after `holds` has looked once more.
    FLOWS.get_ptr_mut(flow_key(key)).map(|flow| unsafe { &mut *flow }).filter(|flow| holds(flow, key))
}

/// Whether the element is still that of the flow with this key.
#[inline(always)]
pub(crate) fn holds(flow: &Flow, key: &Key) -> bool {
    // SAFETY: a reference is valid; volatile, as another CPU may write it at any time.
    unsafe { (&raw const flow.tag).read_volatile() == key.tag() }
}

/// The key in `FLOWS` of a translated flow.
#[inline(always)]
pub(crate) fn key_of(translated: &Translated) -> &Key {
    const _: () = assert!(core::mem::offset_of!(Translated, flow) == 0 && align_of::<Translated>() == 8);
    // SAFETY: the same bytes, of which each value is valid, at the begin of what is aligned as strictly.
    unsafe { &*core::ptr::from_ref(translated).cast() }
}

/// The translated flow that has these ends elsewhere on its way.
#[inline(always)]
pub(crate) fn translated(key: &Key) -> Option<&'static Translated> {
    // SAFETY: as for `port`. Entries are made and removed, never changed.
    TRANSLATIONS.get_ptr(flow_key(key)).map(|translated| unsafe { &*translated })
}

/// The key in its own words.
#[inline(always)]
pub(crate) fn flow_key(key: &Key) -> &FlowKey {
    // SAFETY: the same bytes, of which each value is valid, and more strictly aligned.
    unsafe { &*core::ptr::from_ref(key).cast() }
}

/// Remembers how far a rule's limit is used. A function of its own, so that the value doesn't lie on its caller's stack.
#[inline(never)]
pub(crate) fn remember_rate(key: &RuleRateKey, next_ns: u64) -> Result<(), ()> {
    RULE_RATES.insert(key, Rate { next_ns }, u64::from(BPF_ANY)).map_err(|_| ())
}

/// The inbound SA with this key.
#[inline(always)]
pub(crate) fn spi(key: &SpiKey) -> Option<&'static Spi> {
    // SAFETY: as for `port`.
    SPIS.get_ptr(key).map(|spi| unsafe { &*spi })
}
