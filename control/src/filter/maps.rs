//! The maps as the daemon writes and reads them. Every call is one step of "desired state → maps".

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use aya::maps::lpm_trie::Key;
use aya::maps::xdp::{DevMapHash, XdpMapError, XskMap};
use aya::maps::{Array, HashMap, IterableMap, LpmTrie, Map, MapData, MapError, PerCpuArray, RingBuf};
use aya::{Ebpf, Pod};
use sekisho_abi::flow::{Flow, FlowKey};
use sekisho_abi::map::{Config, Counter, Spi, SpiKey, config_flags};
use sekisho_abi::nat::{
    DestinationNat, DestinationNatKey, NAT_POOL_MAX, SourceNat, SourceNatKey, Translated,
};
use sekisho_abi::port::{Network, Port, PortKey};
use sekisho_abi::quota::{Bucket, Secrets, ZONES_MAX, ZoneQuota};
use sekisho_abi::rule::{AddressKey, List, ListKey, Rule, RuleCounter, RuleKey};
use sekisho_abi::trace::Trace;
use sekisho_abi::verdict::{Verdict, counter_index};
use sekisho_abi::{Address, mapped};
use sekisho_ike::crypto::random::Random;

use super::counts::Counts;
use super::neighbours::Neighbours;
use super::{FilterError, batch};
use crate::nat::NatSet;
use crate::policy::RuleSet;
use crate::status::Count;

/// Longer than any program runs.
const PROGRAM_MAX: Duration = Duration::from_millis(50);

/// Handles of all maps.
pub struct Maps {
    config: Array<MapData, Config>,
    ports: HashMap<MapData, PortKey, Port>,
    networks: LpmTrie<MapData, Address, Network>,
    routers: Array<MapData, Address>,
    /// Bindings of addresses to MAC addresses.
    pub neighbours: Neighbours,
    lists: HashMap<MapData, ListKey, List>,
    addresses: LpmTrie<MapData, AddressKey, u32>,
    rules: LpmTrie<MapData, RuleKey, Rule>,
    /// What this daemon has put in force last, and under which number.
    rules_in_force: Option<(u32, RuleSet)>,
    rule_counters: PerCpuArray<MapData, RuleCounter>,
    spis: HashMap<MapData, SpiKey, Spi>,
    sockets: XskMap<MapData>,
    devices: DevMapHash<MapData>,
    counters: PerCpuArray<MapData, Counter>,
    source_nat: LpmTrie<MapData, SourceNatKey, SourceNat>,
    destination_nat: LpmTrie<MapData, DestinationNatKey, DestinationNat>,
    nat_pool: Array<MapData, Address>,
    /// Written with every rule set.
    nat: NatSet,
    secrets: Array<MapData, Secrets>,
    ike_spis: HashMap<MapData, u64, u32>,
    /// Counts of flows, shared with the programs.
    pub(super) counts: Arc<Counts>,
    /// Capacity of `FLOWS`.
    pub(super) flows_max: u32,
    /// For the flow sweeper's own thread.
    pub(super) translations: Option<HashMap<MapData, FlowKey, Translated>>,
    /// For the flow sweeper's own thread.
    pub(super) flows: Option<HashMap<MapData, FlowKey, Flow>>,
    /// For the event reader.
    pub(super) events: Option<RingBuf<MapData>>,
    pub(super) lost: Option<PerCpuArray<MapData, u64>>,
    trace: Array<MapData, Trace>,
    /// Bits of the configuration that outlive its replacement.
    standing: u16,
}

impl Maps {
    pub(super) fn take(ebpf: &mut Ebpf, flows_max: u32) -> Result<Maps, FilterError> {
        let quotas: Array<MapData, Bucket> = take(ebpf, "QUOTAS")?;
        let zones: Array<MapData, ZoneQuota> = take(ebpf, "ZONES")?;
        Ok(Maps {
            counts: Arc::new(Counts::of(IterableMap::map(&quotas), IterableMap::map(&zones))?),
            flows_max,
            secrets: take(ebpf, "SECRETS")?,
            ike_spis: take(ebpf, "IKE_SPIS")?,
            config: take(ebpf, "CONFIG")?,
            ports: take(ebpf, "PORTS")?,
            networks: take(ebpf, "NETWORKS")?,
            routers: take(ebpf, "ROUTERS")?,
            neighbours: Neighbours::open(ebpf)?,
            lists: take(ebpf, "LISTS")?,
            addresses: take(ebpf, "ADDRESSES")?,
            rules: take(ebpf, "RULES")?,
            rules_in_force: None,
            rule_counters: take(ebpf, "RULE_COUNTERS")?,
            spis: take(ebpf, "SPIS")?,
            sockets: take(ebpf, "SOCKETS")?,
            devices: take(ebpf, "DEVICES")?,
            counters: take(ebpf, "COUNTERS")?,
            source_nat: take(ebpf, "SOURCE_NAT")?,
            destination_nat: take(ebpf, "DESTINATION_NAT")?,
            nat_pool: take(ebpf, "NAT_POOL")?,
            nat: NatSet::default(),
            translations: Some(take(ebpf, "TRANSLATIONS")?),
            flows: Some(take(ebpf, "FLOWS")?),
            events: Some(take(ebpf, "EVENTS")?),
            lost: Some(take(ebpf, "LOST")?),
            trace: take(ebpf, "TRACE")?,
            standing: 0,
        })
    }

    /// The configuration in force (all zero after a first load).
    pub fn config(&self) -> Result<Config, FilterError> {
        self.config.get(&0, 0).map_err(error("CONFIG"))
    }

    /// Replaces the configuration: one write, seen whole by every packet that comes after.
    pub fn set_config(&mut self, config: Config) -> Result<(), FilterError> {
        let flags = config.flags & !config_flags::TRACE | self.standing;
        self.config.set(0, Config { flags, ..config }, 0).map_err(error("CONFIG"))
    }

    /// Has the programs report the packets that this trace asks for, until its time; `None` ends it at once.
    pub fn set_trace(&mut self, trace: Option<Trace>) -> Result<(), FilterError> {
        self.standing = if trace.is_some() { config_flags::TRACE } else { 0 };
        self.trace.set(0, trace.unwrap_or_default(), 0).map_err(error("TRACE"))?;
        self.set_config(self.config()?)
    }

    /// From now on every packet is refused, until a configuration without the flag is set. The number of the rule set
    /// stays: a set written under a number that was used before would be mixed with what is left of the earlier one.
    pub fn close(&mut self) -> Result<(), FilterError> {
        let generation = self.config()?.generation;
        self.set_config(Config { generation, flags: config_flags::CLOSED, ..Config::default() })
    }

    /// Makes the ports exactly these.
    pub fn set_ports(&mut self, ports: &[(PortKey, Port)]) -> Result<(), FilterError> {
        reconcile_hash(&mut self.ports, ports).map_err(error("PORTS"))?;
        let wanted: Vec<u32> =
            ports.iter().map(|(key, _)| key.ifindex).filter(|ifindex| *ifindex != 0).collect();
        let present: Vec<u32> = self.devices.keys().filter_map(Result::ok).collect();
        for gone in present.into_iter().filter(|ifindex| !wanted.contains(ifindex)) {
            self.devices.remove(gone).map_err(error("DEVICES"))?;
        }
        for ifindex in wanted {
            self.devices.insert(ifindex, ifindex, None, 0).map_err(|refused| match refused {
                XdpMapError::MapError(source) => error("DEVICES")(source),
                XdpMapError::ChainedProgramNotSupported => FilterError::Missing("DEVICES"),
            })?;
        }
        Ok(())
    }

    /// Makes the routers behind which networks lie these, as [`Network::router`] counts them. Before networks that name
    /// them.
    pub fn set_routers(&mut self, routers: &[IpAddr]) -> Result<(), FilterError> {
        for (index, router) in (1..).zip(routers) {
            self.routers.set(index, bytes(*router), 0).map_err(error("ROUTERS"))?;
        }
        Ok(())
    }

    /// Makes the networks exactly these.
    pub fn set_networks(&mut self, networks: &[(IpAddr, u8, Network)]) -> Result<(), FilterError> {
        let wanted: BTreeMap<(u32, Address), Network> = networks
            .iter()
            .map(|(address, prefix, network)| {
                let offset = if address.is_ipv4() { 96 } else { 0 };
                ((offset + u32::from(*prefix), bytes(*address)), *network)
            })
            .collect();
        for ((prefix, address), network) in &wanted {
            self.networks.insert(&Key::new(*prefix, *address), network, 0).map_err(error("NETWORKS"))?;
        }
        let present: Vec<Key<Address>> = self.networks.keys().filter_map(Result::ok).collect();
        for key in present {
            let (prefix, address) = (key.prefix_len(), key.data());
            if !wanted.contains_key(&(prefix, address)) {
                self.networks.remove(&Key::new(prefix, address)).map_err(error("NETWORKS"))?;
            }
        }
        Ok(())
    }

    /// Writes a rule set beside the one in force, flips to it, and only then removes the old one: every packet is judged
    /// by exactly one of the two. Returns the new generation.
    pub fn set_rules(&mut self, rules: &RuleSet) -> Result<u32, FilterError> {
        let mut config = self.config()?;
        let generation = config.generation.wrapping_add(1);
        let old = self.rules_in_force.take().filter(|(number, _)| *number == config.generation);
        if old.is_none() {
            // A daemon that died before it flipped left entries under this very number.
            self.keep_rules(config.generation)?;
        }
        batch::update_hash(&mut self.lists, rules.lists(generation)).map_err(error("LISTS"))?;
        let addresses = rules.addresses(generation).map(|(bits, key, class)| (Key::new(bits, key), class));
        batch::update_trie(&mut self.addresses, addresses).map_err(error("ADDRESSES"))?;
        let entries = rules.rules(generation).map(|(bits, key, rule)| (Key::new(bits, key), rule));
        batch::update_trie(&mut self.rules, entries).map_err(error("RULES"))?;
        self.keep_nat(generation.wrapping_sub(1))?;
        self.write_nat(generation)?;
        config.generation = generation;
        if !self.nat.is_empty() {
            config.flags |= config_flags::NAT;
        }
        config.flags &= !config_flags::CHALLENGES;
        if rules.challenges() {
            config.flags |= config_flags::CHALLENGES;
        }
        self.set_config(config)?;
        // A packet that was on its way at the flip finds its rule set whole.
        await_programs();
        match old {
            Some((number, old)) => self.remove_rules(number, &old)?,
            None => self.keep_rules(generation)?,
        }
        self.keep_nat(generation)?;
        self.rules_in_force = Some((generation, rules.clone()));
        Ok(generation)
    }

    /// Removes a rule set that is known.
    fn remove_rules(&mut self, generation: u32, rules: &RuleSet) -> Result<(), FilterError> {
        let lists = rules.lists(generation).map(|(key, _)| key);
        batch::delete_hash(&mut self.lists, lists).map_err(error("LISTS"))?;
        let addresses = rules.addresses(generation).map(|(bits, key, _)| Key::new(bits, key));
        batch::delete_trie(&mut self.addresses, addresses).map_err(error("ADDRESSES"))?;
        let entries = rules.rules(generation).map(|(bits, key, _)| Key::new(bits, key));
        batch::delete_trie(&mut self.rules, entries).map_err(error("RULES"))
    }

    /// What is translated from the next rule set on: both come into force in the same moment.
    pub fn set_nat(&mut self, nat: NatSet) {
        self.nat = nat;
    }

    fn write_nat(&mut self, generation: u32) -> Result<(), FilterError> {
        for (bits, key, value) in self.nat.sources(generation) {
            self.source_nat.insert(&Key::new(bits, key), value, 0).map_err(error("SOURCE_NAT"))?;
        }
        for (bits, key, value) in self.nat.destinations(generation) {
            self.destination_nat.insert(&Key::new(bits, key), value, 0).map_err(error("DESTINATION_NAT"))?;
        }
        for (index, address) in ((generation & 1) * NAT_POOL_MAX..).zip(self.nat.pool()) {
            self.nat_pool.set(index, address, 0).map_err(error("NAT_POOL"))?;
        }
        Ok(())
    }

    /// Removes the translations of every rule set but this one.
    fn keep_nat(&mut self, generation: u32) -> Result<(), FilterError> {
        let number = generation.to_be_bytes();
        let present: Vec<Key<SourceNatKey>> = self.source_nat.keys().filter_map(Result::ok).collect();
        for key in present.into_iter().filter(|key| { key.data() }.generation_be != number) {
            let key = Key::new(key.prefix_len(), key.data());
            self.source_nat.remove(&key).map_err(error("SOURCE_NAT"))?;
        }
        let present: Vec<Key<DestinationNatKey>> =
            self.destination_nat.keys().filter_map(Result::ok).collect();
        for key in present.into_iter().filter(|key| { key.data() }.generation_be != number) {
            let key = Key::new(key.prefix_len(), key.data());
            self.destination_nat.remove(&key).map_err(error("DESTINATION_NAT"))?;
        }
        Ok(())
    }

    /// Removes the entries of every rule set but this one, whatever they are.
    fn keep_rules(&mut self, generation: u32) -> Result<(), FilterError> {
        let is_other = |of: [u8; 4]| of != generation.to_be_bytes();
        let lists: Vec<_> = self.lists.keys().filter_map(Result::ok).collect();
        let lists = lists.into_iter().filter(|key| key.generation != generation);
        batch::delete_hash(&mut self.lists, lists).map_err(error("LISTS"))?;
        let addresses: Vec<_> = self.addresses.keys().filter_map(Result::ok).collect();
        let addresses = addresses.into_iter().filter(|key| is_other(key.data().generation_be));
        batch::delete_trie(&mut self.addresses, addresses).map_err(error("ADDRESSES"))?;
        let entries: Vec<_> = self.rules.keys().filter_map(Result::ok).collect();
        let entries = entries.into_iter().filter(|key| is_other(key.data().generation_be));
        batch::delete_trie(&mut self.rules, entries).map_err(error("RULES"))
    }

    /// New keys for challenges; those sent under the former ones may still be answered. The first call makes those of
    /// quotas, too, which stay as long as what they count.
    pub fn renew_secrets(&mut self, random: &mut dyn Random) -> Result<(), FilterError> {
        let mut secrets = self.secrets.get(&0, 0).map_err(error("SECRETS"))?;
        let mut key = || [random.next_u64(), random.next_u64()];
        if secrets.slots == [0; 2] {
            secrets.slots = key();
            secrets.challenge = key();
        }
        secrets.former_challenge = secrets.challenge;
        secrets.challenge = key();
        self.secrets.set(0, secrets, 0).map_err(error("SECRETS"))
    }

    /// How many flows may be opened from each zone; from others none.
    pub fn set_zones(&mut self, flows_max: &BTreeMap<u16, u32>) {
        for number in 0..ZONES_MAX {
            let of_zone = u16::try_from(number).ok().and_then(|number| flows_max.get(&number));
            self.counts.set_zone_max(number, of_zone.copied().unwrap_or_default().into());
        }
    }

    /// Whether messages under an SPI are for an IKE SA of ours, from now on.
    pub fn set_ike_spi(&mut self, spi: u64, known: bool) -> Result<(), FilterError> {
        let key = spi.to_be();
        let changed = match known {
            true => self.ike_spis.insert(key, 1, 0),
            false => absent_is_fine(self.ike_spis.remove(&key)),
        };
        changed.map_err(error("IKE_SPIS"))
    }

    /// Makes an SA known to the programs. `destination`: where its packets go, to us or to the peer.
    pub fn add_spi(&mut self, destination: IpAddr, spi: u32, value: Spi) -> Result<(), FilterError> {
        self.spis.insert(spi_key(destination, spi), value, 0).map_err(error("SPIS"))
    }

    /// Forgets an SA.
    pub fn remove_spi(&mut self, destination: IpAddr, spi: u32) -> Result<(), FilterError> {
        absent_is_fine(self.spis.remove(&spi_key(destination, spi))).map_err(error("SPIS"))
    }

    /// Forgets all SAs: those of a predecessor, whose keys died with it.
    pub fn clear_spis(&mut self) -> Result<(), FilterError> {
        reconcile_hash(&mut self.spis, &[]).map_err(error("SPIS"))
    }

    /// Hands the engine's sockets to the programs.
    pub fn set_socket(&mut self, index: u32, socket: impl AsRawFd) -> Result<(), FilterError> {
        self.sockets.set(index, socket, 0).map_err(error("SOCKETS"))
    }

    /// Begins the counters of a port anew: its number stands for another one now.
    pub fn clear_counters(&mut self, port: u16) -> Result<(), FilterError> {
        for &verdict in Verdict::ALL {
            let index = counter_index(port, verdict);
            let cpus = self.counters.get(&index, 0).map_err(error("COUNTERS"))?.len();
            let zero = aya::maps::PerCpuValues::try_from(vec![Counter::default(); cpus])
                .map_err(|_| FilterError::Missing("COUNTERS"))?;
            self.counters.set(index, zero, 0).map_err(error("COUNTERS"))?;
        }
        Ok(())
    }

    /// Forgets what rules of these numbers have counted.
    pub fn clear_rule_counters(&mut self, rules: &[u16]) -> Result<(), FilterError> {
        let cpus = self.rule_counters.get(&0, 0).map_err(error("RULE_COUNTERS"))?.len();
        for &rule in rules {
            let zero = aya::maps::PerCpuValues::try_from(vec![RuleCounter::default(); cpus])
                .map_err(|_| FilterError::Missing("RULE_COUNTERS"))?;
            self.rule_counters.set(rule.into(), zero, 0).map_err(error("RULE_COUNTERS"))?;
        }
        Ok(())
    }

    /// What a rule has decided so far.
    pub fn rule_counter(&self, rule: u16) -> Result<RuleCounter, FilterError> {
        let values = self.rule_counters.get(&rule.into(), 0).map_err(error("RULE_COUNTERS"))?;
        Ok(values.iter().fold(RuleCounter::default(), |sum, value| RuleCounter {
            packets: sum.packets.wrapping_add(value.packets),
            bytes: sum.bytes.wrapping_add(value.bytes),
            flows: sum.flows.wrapping_add(value.flows),
        }))
    }

    /// What entered by a port, by verdict; verdicts that never occurred are left out.
    pub fn verdicts(&self, port: u16) -> Result<BTreeMap<String, Count>, FilterError> {
        let mut counts = BTreeMap::new();
        for &verdict in Verdict::ALL {
            let values = self.counters.get(&counter_index(port, verdict), 0).map_err(error("COUNTERS"))?;
            let count = values.iter().fold(Count::default(), |sum, value| Count {
                packets: sum.packets.wrapping_add(value.packets),
                bytes: sum.bytes.wrapping_add(value.bytes),
            });
            if count.packets > 0 {
                counts.insert(verdict.name().to_owned(), count);
            }
        }
        Ok(counts)
    }
}

/// An address as the maps hold it.
pub(crate) fn bytes(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Waits until every program that runs now has ended: they run inside of RCU read-side sections, and this waits for a
/// grace period.
fn await_programs() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_long = 1;
    // SAFETY: no memory is involved.
    if unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } != 0 {
        // Refused where CPUs run without ticks (nohz_full). No packet takes a thousandth of this.
        std::thread::sleep(PROGRAM_MAX);
    }
}

fn spi_key(destination: IpAddr, spi: u32) -> SpiKey {
    SpiKey { destination: bytes(destination), spi_be: spi.to_be() }
}

pub(super) fn error(map: &'static str) -> impl FnOnce(MapError) -> FilterError {
    move |source| FilterError::Map { map, source: Box::new(source) }
}

pub(super) fn take<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, FilterError>
where
    M: TryFrom<Map, Error = MapError>,
{
    M::try_from(ebpf.take_map(name).ok_or(FilterError::Missing(name))?).map_err(error(name))
}

fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn reconcile_hash<K, V>(map: &mut HashMap<MapData, K, V>, wanted: &[(K, V)]) -> Result<(), MapError>
where
    K: Pod + PartialEq,
    V: Pod,
{
    for (key, value) in wanted {
        map.insert(key, value, 0)?;
    }
    let present: Vec<K> = map.keys().filter_map(Result::ok).collect();
    for key in present {
        if !wanted.iter().any(|(other, _)| *other == key) {
            absent_is_fine(map.remove(&key))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Action, AddressSet, Match, Policy};
    use crate::filter::Filter;
    use crate::policy::{self, Rules};

    /// The zones between which there are rules under the number in force.
    fn in_force(maps: &Maps) -> Vec<(u16, u16)> {
        let generation = maps.config().expect("CONFIG").generation;
        let keys = maps.lists.keys().filter_map(Result::ok);
        keys.filter(|key| key.generation == generation).map(|key| (key.from, key.to)).collect()
    }

    /// Entries of all rule sets.
    fn entries(maps: &Maps) -> [usize; 3] {
        [maps.lists.keys().count(), maps.addresses.keys().count(), maps.rules.keys().count()]
    }

    fn between(from: u16, to: u16) -> RuleSet {
        let sets = [AddressSet { name: None, prefixes: vec!["10.0.0.0/8".parse().expect("a prefix")] }];
        let all = Policy {
            name: "all".into(),
            from: vec![from],
            to: vec![to],
            matches: vec![Match::Any],
            action: Action::Allow,
            ..Policy::default()
        };
        let some = Policy { sources: vec![0], ..all.clone() };
        policy::compile(&Rules::all(&[some, all], &sets)).expect("two policies")
    }

    /// Whatever a predecessor left in the maps, the next rule set is in force alone. Needs root.
    #[test]
    fn a_rule_set_is_never_mixed_with_what_is_left_of_another() {
        let gateway = format!("sk-rules-{}", std::process::id());
        let (_filter, mut maps) =
            Filter::open(&gateway, 1024, true).expect("the programs load (this test needs root)");
        maps.set_rules(&between(1, 2)).expect("the first");
        assert_eq!(in_force(&maps), [(1, 2); 2]);

        // A start with ports of another meaning closes the filter and begins anew.
        maps.close().expect("closes");
        maps.set_rules(&between(3, 4)).expect("the second");
        let second = in_force(&maps);

        // A daemon that died between writing a set and putting it in force.
        let config = maps.config().expect("CONFIG");
        maps.set_rules(&between(5, 6)).expect("the third");
        maps.set_config(config).expect("the flip that never was");
        maps.set_rules(&between(7, 8)).expect("the fourth");
        let fourth = in_force(&maps);

        let alone = entries(&maps);
        maps.set_rules(&between(7, 8)).expect("the fifth");
        let replaced = entries(&maps);
        Filter::remove(&gateway, &[]).expect("unpins");
        assert_eq!(second, [(3, 4); 2]);
        assert_eq!(fourth, [(7, 8); 2]);
        assert_eq!(alone, [2, 1, 2], "lists, addresses and rules");
        assert_eq!(replaced, alone);
    }

    /// Ten thousand policies and a hundred thousand addresses: all of it is in the kernel, the former set is gone. What it
    /// took is printed. Needs root.
    #[test]
    fn a_large_rule_set_is_put_in_force() {
        const POLICIES: u32 = 10_000;
        const ADDRESSES: u32 = 100_000;
        let host = |net: u32, n: u32| IpAddr::from(std::net::Ipv4Addr::from(net + 3 * n)).into();
        let prefixes = (0..ADDRESSES).map(|n| host(0x0a00_0000, n)).collect();
        let mut sets = vec![AddressSet { name: None, prefixes }];
        let mut policies = Vec::new();
        for n in 0..POLICIES {
            let port = u16::try_from(n % 5000).expect("a port");
            sets.push(AddressSet { name: None, prefixes: vec![host(0xac10_0000, n)] });
            policies.push(Policy {
                name: "one".into(),
                from: vec![1],
                to: vec![2],
                sources: if n % 2 == 0 { vec![sets.len() - 1] } else { Vec::new() },
                destinations: if n % 3 == 0 { vec![0] } else { Vec::new() },
                matches: vec![Match::Protocol { protocol: 6, ports: port..=port }],
                action: Action::Allow,
                ..Policy::default()
            });
        }
        let gateway = format!("sk-large-{}", std::process::id());
        let (_filter, mut maps) =
            Filter::open(&gateway, 1024, true).expect("the programs load (this test needs root)");
        let begin = std::time::Instant::now();
        let rules = policy::compile(&Rules::all(&policies, &sets)).expect("they fit");
        let compiled = begin.elapsed();
        maps.set_rules(&rules).expect("in force");
        let in_force = begin.elapsed();
        maps.set_rules(&rules).expect("in force again, the former removed");
        let again = begin.elapsed() - in_force;
        let entries = entries(&maps);
        Filter::remove(&gateway, &[]).expect("unpins");
        println!(
            "compiled in {compiled:?}, in force after {in_force:?}, the next set after {again:?}: {entries:?}"
        );
        assert_eq!(entries, [rules.lists(0).count(), rules.addresses(0).count(), rules.rules(0).count()]);
        assert!(entries[1] >= ADDRESSES as usize && entries[2] >= 5000);
    }
}
