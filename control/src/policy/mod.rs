//! The policy compiler: ordered policies into the tables by which the programs judge new flows.
//!
//! An administrator writes a list in which the first match wins and what nothing matches is denied. The programs ask
//! once per new flow, and what they pay for it must not depend on the number of policies or of addresses. What the
//! tables are, and how they are asked, stands in [`sekisho_abi::rule`]; this is recursive flow classification (Gupta,
//! McKeown: "Packet Classification on Multiple Fields", 1999) with sparse tables.
//!
//! Between two zones the policies fall into four kinds: those that name no addresses, sources only, destinations only,
//! and both. A list stands for all policies of one kind that match one class of source, of destination, or one pair of
//! classes. The kinds are not multiplied with each other: a packet asks one list of each kind that there is, and the
//! earliest policy wins. So a set of a hundred thousand addresses is one class as long as no other set cuts through it,
//! and ten thousand policies for one host each are ten thousand lists of one policy.
//!
//! Pure: no maps, no files.

#![forbid(unsafe_code)]

mod classes;
mod ports;
#[cfg(test)]
mod tests;
mod unreachable;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;

use sekisho_abi::map::{ADDRESSES_MAX, LISTS_MAX, RULES_MAX};
use sekisho_abi::rule::{
    ADDRESS_KEY_BITS_ANY, AddressKey, CLASS_ANY, LIST_EMPTY, LIST_SOURCE_PORTS, List, ListKey,
    RULE_KEY_BITS_ANY_PORT, RULE_KEY_BITS_ANY_PROTOCOL, Rule, RuleKey, action, list_flags, rule_flags,
};

use self::classes::Classes;
use self::ports::{Block, segments};
use crate::config::{Action, AddressSet, Match, Policy, SynChallenge, ZoneId};

pub use unreachable::{Unreachable, unreachable};

/// What is compiled.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// The list, first match wins.
    pub policies: &'a [Policy],
    /// The address sets that it names.
    pub sets: &'a [AddressSet],
    /// Policies that are not in force now, because of their schedules.
    pub asleep: &'a BTreeSet<usize>,
}

/// A compiled rule set: the same whatever number it is put in force under.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    /// Entries of `LISTS`; no two are equal.
    lists: Vec<(ListKey, List)>,
    /// Entries of `ADDRESSES`: prefix length and key, class.
    addresses: Vec<(u32, AddressKey, u32)>,
    /// Entries of `RULES`; no two are equal.
    rules: Vec<RuleEntry>,
}

/// One prefix of the trie `RULES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleEntry {
    prefix_bits: u32,
    key: RuleKey,
    rule: Rule,
}

/// Why a list of policies cannot be put into the programs' maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Two rule sets must fit side by side during a reload.
    #[error(
        "the policies need {entries} entries for protocols and ports, and half of the programs' table holds {limit}: \
         name fewer addresses that are in other sets too, or port ranges that begin and end at powers of two"
    )]
    TooManyRules {
        /// How many they need.
        entries: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Sets that cut through each other, on both sides of one policy.
    #[error(
        "the policies need more than {limit} combinations of sources and destinations, and half of the programs' table \
         holds no more: do not let a policy name large sets on both sides whose addresses other policies name one by one"
    )]
    TooManyLists {
        /// How many there may be.
        limit: usize,
    },
    /// Two rule sets must fit side by side here, too.
    #[error("the address sets have {prefixes} prefixes, and half of the programs' table holds {limit}")]
    TooManyAddresses {
        /// How many there are.
        prefixes: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The classes of source ports are numbered in one byte.
    #[error("the policies name source ports that fall into {classes} ranges, and there may be {limit}")]
    TooManySourcePorts {
        /// How many there are.
        classes: usize,
        /// How many there may be.
        limit: usize,
    },
}

/// Ranges of source ports that can be told apart.
const SOURCE_PORT_CLASSES_MAX: usize = 256;
/// Policies in all lists together. Lists that are longer in sum are refused before they cost memory and minutes.
const WORK_MAX: usize = 8_000_000;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Compiles the list.
pub fn compile(rules: &Rules<'_>) -> Result<RuleSet, PolicyError> {
    let classes = Classes::of(rules.sets);
    let limit = ADDRESSES_MAX as usize / 2;
    if classes.prefixes.len() > limit {
        return Err(PolicyError::TooManyAddresses { prefixes: classes.prefixes.len(), limit });
    }
    let mut compiler = Compiler {
        rules,
        source_ports: source_port_classes(rules.policies)?,
        numbers: HashMap::new(),
        work: 0,
        out: RuleSet::default(),
    };
    compiler.out.addresses = classes
        .prefixes
        .iter()
        .map(|&(bits, address, class)| {
            (ADDRESS_KEY_BITS_ANY + bits, AddressKey { address, ..AddressKey::default() }, class)
        })
        .collect();
    compiler.emit_source_ports();
    for (&(from, to), list) in &by_zones(rules.policies, rules.asleep) {
        compiler.between(from, to, list, &classes)?;
    }
    Ok(compiler.out)
}

impl<'a> Rules<'a> {
    /// Every policy.
    pub fn all(policies: &'a [Policy], sets: &'a [AddressSet]) -> Self {
        const NONE: &BTreeSet<usize> = &BTreeSet::new();
        Self { policies, sets, asleep: NONE }
    }
}

impl RuleSet {
    /// Entries of `LISTS` under this rule set number.
    pub fn lists(&self, generation: u32) -> impl Iterator<Item = (ListKey, List)> {
        self.lists.iter().map(move |(key, list)| (ListKey { generation, ..*key }, *list))
    }

    /// Whether any of them challenges TCP clients.
    pub fn challenges(&self) -> bool {
        let flags = rule_flags::SYN_CHALLENGE | rule_flags::SYN_CHALLENGE_PRESSURE;
        self.rules.iter().any(|entry| entry.rule.flags & flags != 0)
    }

    /// Entries of `ADDRESSES` under this rule set number: prefix length in bits, number included, key, class.
    pub fn addresses(&self, generation: u32) -> impl Iterator<Item = (u32, AddressKey, u32)> {
        let generation_be = generation.to_be_bytes();
        self.addresses
            .iter()
            .map(move |(bits, key, class)| (*bits, AddressKey { generation_be, ..*key }, *class))
    }

    /// Entries of `RULES` under this rule set number: prefix length in bits, number included, key, rule.
    pub fn rules(&self, generation: u32) -> impl Iterator<Item = (u32, RuleKey, Rule)> {
        let generation_be = generation.to_be_bytes();
        self.rules
            .iter()
            .map(move |entry| (entry.prefix_bits, RuleKey { generation_be, ..entry.key }, entry.rule))
    }
}

/// Indices of the policies between two zones, ascending.
type ZoneLists = BTreeMap<(ZoneId, ZoneId), Vec<u32>>;

fn by_zones(policies: &[Policy], asleep: &BTreeSet<usize>) -> ZoneLists {
    let mut lists = ZoneLists::new();
    for (place, policy) in policies.iter().enumerate().filter(|(place, _)| !asleep.contains(place)) {
        let number = u32::try_from(place).unwrap_or(u32::MAX);
        for &from in &policy.from {
            for &to in &policy.to {
                let list = lists.entry((from, to)).or_default();
                // A zone may be named twice.
                if list.last() != Some(&number) {
                    list.push(number);
                }
            }
        }
    }
    lists
}

fn index(policies: &[Policy], number: u32) -> Option<&Policy> {
    policies.get(usize::try_from(number).ok()?)
}

/// Where the classes of source ports begin; class `n` is the `n`-th.
fn source_port_classes(policies: &[Policy]) -> Result<Vec<u16>, PolicyError> {
    let mut starts = BTreeSet::from([0]);
    for ports in policies.iter().flat_map(|policy| &policy.source_ports) {
        starts.insert(*ports.start());
        starts.extend(ports.end().checked_add(1));
    }
    match starts.len() {
        classes if classes > SOURCE_PORT_CLASSES_MAX => {
            Err(PolicyError::TooManySourcePorts { classes, limit: SOURCE_PORT_CLASSES_MAX })
        }
        _ => Ok(starts.into_iter().collect()),
    }
}

/// The policies between two zones that ask for the same addresses.
struct Bundle {
    sources: Option<Vec<u32>>,
    destinations: Option<Vec<u32>>,
    policies: Vec<u32>,
}

/// Bundles whose policies belong to one list.
type Bundles = Vec<u32>;

struct Compiler<'a> {
    rules: &'a Rules<'a>,
    source_ports: Vec<u16>,
    /// Lists by their policies: what is the same between several zones stands once.
    numbers: HashMap<Vec<u32>, List>,
    work: usize,
    out: RuleSet,
}

impl Compiler<'_> {
    fn between(
        &mut self,
        from: ZoneId,
        to: ZoneId,
        list: &[u32],
        classes: &Classes,
    ) -> Result<(), PolicyError> {
        let bundles = bundles(self.rules.policies, list, classes);
        let limit = LISTS_MAX as usize / 2;
        let mut lists: BTreeMap<(u32, u32), Bundles> =
            BTreeMap::from([((CLASS_ANY, CLASS_ANY), Bundles::new())]);
        let mut flags = 0;
        const ANY: &[u32] = &[CLASS_ANY];
        for (number, bundle) in (0..).zip(&bundles) {
            flags |= match (&bundle.sources, &bundle.destinations) {
                (None, None) => 0,
                (Some(_), None) => list_flags::BY_SOURCE,
                (None, Some(_)) => list_flags::BY_DESTINATION,
                (Some(_), Some(_)) => list_flags::BY_BOTH,
            };
            let sources = bundle.sources.as_deref().unwrap_or(ANY);
            let destinations = bundle.destinations.as_deref().unwrap_or(ANY);
            self.work += sources.len().saturating_mul(destinations.len());
            if self.work > WORK_MAX {
                return Err(PolicyError::TooManyLists { limit });
            }
            for &source in sources {
                for &destination in destinations {
                    lists.entry((source, destination)).or_default().push(number);
                }
            }
        }
        if self.out.lists.len() + lists.len() > limit {
            return Err(PolicyError::TooManyLists { limit });
        }
        let mut known: HashMap<Bundles, List> = HashMap::new();
        for ((source_class, destination_class), members) in lists {
            let mut list = match known.get(&members) {
                Some(list) => *list,
                None => {
                    let list = self.list(&bundles, &members)?;
                    known.insert(members, list);
                    list
                }
            };
            if (source_class, destination_class) == (CLASS_ANY, CLASS_ANY) {
                list.flags |= flags;
            }
            let key = ListKey { generation: 0, from, to, source_class, destination_class };
            self.out.lists.push((key, list));
        }
        Ok(())
    }

    /// The list of these bundles' policies, compiled if it is a new one.
    fn list(&mut self, bundles: &[Bundle], members: &Bundles) -> Result<List, PolicyError> {
        let bundle = |number: &u32| usize::try_from(*number).ok().and_then(|number| bundles.get(number));
        let mut policies: Vec<u32> =
            members.iter().filter_map(bundle).flat_map(|bundle| &bundle.policies).copied().collect();
        policies.sort_unstable();
        let Some(&first) = policies.first() else {
            return Ok(List { list: LIST_EMPTY, first: u32::MAX, flags: 0 });
        };
        if let Some(list) = self.numbers.get(&policies) {
            return Ok(*list);
        }
        let limit = RULES_MAX as usize / 2;
        self.work += policies.len();
        let uses_source_ports = policies
            .iter()
            .any(|&p| index(self.rules.policies, p).is_some_and(|p| !p.source_ports.is_empty()));
        let list = List {
            list: u32::try_from(self.numbers.len()).unwrap_or(u32::MAX).saturating_add(1),
            first: order(first),
            flags: if uses_source_ports { list_flags::SOURCE_PORTS } else { 0 },
        };
        self.emit_list(list, &policies);
        if self.out.rules.len() > limit || self.work > WORK_MAX {
            return Err(PolicyError::TooManyRules { entries: self.out.rules.len().max(limit + 1), limit });
        }
        self.numbers.insert(policies, list);
        Ok(list)
    }

    /// The prefixes of a list.
    fn emit_list(&mut self, list: List, policies: &[u32]) {
        let of = |&number: &u32| index(self.rules.policies, number).map(|policy| (number, policy));
        let policies: Vec<(u32, &Policy)> = policies.iter().filter_map(of).collect();
        let matches = || {
            policies
                .iter()
                .flat_map(|&(number, policy)| policy.matches.iter().map(move |m| (number, policy, m)))
        };
        let any = matches().find(|(_, _, m)| **m == Match::Any).map(|(number, ..)| number);
        let key = RuleKey { list_be: list.list.to_be_bytes(), ..RuleKey::default() };
        let mut out = Vec::new();
        if any.is_some() {
            out.push((RULE_KEY_BITS_ANY_PROTOCOL, key, any));
        }
        let protocols: BTreeSet<u8> = matches().filter_map(|(_, _, m)| m.protocol()).collect();
        for protocol in protocols {
            let by_source_port = list.flags & list_flags::SOURCE_PORTS != 0 && matches!(protocol, TCP | UDP);
            let starts = if by_source_port { self.source_ports.as_slice() } else { &[0] };
            for (source_port_class, start) in (0..=u8::MAX).zip(starts) {
                let claims = matches().filter_map(|(number, policy, m)| {
                    let ports = m.ports_of(protocol)?;
                    let asks = !policy.source_ports.is_empty();
                    (!asks || policy.source_ports.iter().any(|range| range.contains(start)))
                        .then_some((number, ports))
                });
                let key = RuleKey { protocol, source_port_class, ..key };
                Block::all(&segments(claims)).emit(any, &mut |port, bits, decider| {
                    let key = RuleKey { port_be: port.to_be_bytes(), ..key };
                    out.push((RULE_KEY_BITS_ANY_PORT + bits, key, decider));
                });
            }
        }
        for (prefix_bits, key, decider) in out {
            let rule = self.rule(decider);
            self.out.rules.push(RuleEntry { prefix_bits, key, rule });
        }
    }

    /// Which class a source port is of.
    fn emit_source_ports(&mut self) {
        let starts = &self.source_ports;
        let ends = starts.iter().skip(1).map(|next| next - 1).chain([u16::MAX]);
        let segments: Vec<(RangeInclusive<u16>, u32)> =
            starts.iter().zip(ends).zip(0..).map(|((&start, end), class)| (start..=end, class)).collect();
        let key = RuleKey { list_be: LIST_SOURCE_PORTS.to_be_bytes(), ..RuleKey::default() };
        Block::all(&segments).emit(0, &mut |port, bits, class| {
            self.out.rules.push(RuleEntry {
                prefix_bits: RULE_KEY_BITS_ANY_PORT + bits,
                key: RuleKey { port_be: port.to_be_bytes(), ..key },
                rule: Rule { id: class, ..Rule::NONE },
            });
        });
    }

    fn rule(&self, decider: Option<u32>) -> Rule {
        let found = decider.and_then(|number| Some((number, index(self.rules.policies, number)?)));
        let Some((number, policy)) = found else { return Rule::NONE };
        let mut flags = if policy.log { rule_flags::LOG } else { 0 };
        if policy.limit.is_some_and(|limit| limit.per_source) {
            flags |= rule_flags::PER_SOURCE;
        }
        flags |= match policy.syn_challenge {
            SynChallenge::Never => 0,
            SynChallenge::Pressure => rule_flags::SYN_CHALLENGE_PRESSURE,
            SynChallenge::Always => rule_flags::SYN_CHALLENGE,
        };
        Rule {
            order: order(number),
            id: policy.id.into(),
            action: if policy.action == Action::Allow { action::ALLOW } else { action::DENY },
            flags,
            interval_us: policy.limit.map_or(0, |limit| limit.interval_us),
            burst_us: policy.limit.map_or(0, |limit| limit.burst_us),
        }
    }
}

/// [`Rule::order`] of a policy.
fn order(number: u32) -> u32 {
    number.saturating_add(1)
}

fn bundles(policies: &[Policy], list: &[u32], classes: &Classes) -> Vec<Bundle> {
    let mut numbers: HashMap<(&[usize], &[usize]), usize> = HashMap::new();
    let mut bundles: Vec<Bundle> = Vec::new();
    for &number in list {
        let Some(policy) = index(policies, number) else { continue };
        let condition = (policy.sources.as_slice(), policy.destinations.as_slice());
        let at = *numbers.entry(condition).or_insert(bundles.len());
        match bundles.get_mut(at) {
            Some(bundle) => bundle.policies.push(number),
            None => {
                let of = |sets: &[usize]| (!sets.is_empty()).then(|| classes.of_any(sets));
                bundles.push(Bundle {
                    sources: of(condition.0),
                    destinations: of(condition.1),
                    policies: vec![number],
                });
            }
        }
    }
    bundles
}
