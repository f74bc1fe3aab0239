//! The policy compiler: ordered policies into the prefixes of the `RULES` trie.
//!
//! An administrator writes a list in which the first match wins and what nothing matches is denied. The programs ask
//! once per new flow and take the longest prefix of (rule set, zones, protocol, port). The compiler turns the one
//! into the other, so that the price of a lookup does not depend on the number of policies.
//!
//! Between two zones the space is (protocol, port). For each protocol that a policy names, the ports fall into
//! intervals with one outcome each; the intervals become the fewest prefixes that give every port its outcome
//! (Draves, King, Venkatachary, Zill: "Constructing Optimal IP Routing Tables", 1999). An outcome that the shorter
//! prefix around gives already needs no entry; a deny therefore stands in the trie only inside a broader allow, or
//! where it is logged.
//!
//! Pure: no maps, no files.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use sekisho_abi::map::RULES_MAX;
use sekisho_abi::rule::{
    RULE_KEY_BITS_ANY_PORT, RULE_KEY_BITS_ANY_PROTOCOL, Rule, RuleKey, action, rule_flags,
};

use crate::config::{Action, Match, Policy, ZoneId};

/// A compiled rule set: the same whatever number it is put in force under.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    entries: Vec<RuleEntry>,
}

/// One prefix of the trie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleEntry {
    prefix_bits: u32,
    key: RuleKey,
    rule: Rule,
}

/// Why a list of policies cannot be put into the programs' map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Two rule sets must fit side by side during a reload.
    #[error(
        "the policies need {entries} entries, and half of the programs' table holds {limit}: name fewer zones per \
         policy, or port ranges that begin and end at powers of two"
    )]
    TooMany {
        /// How many they need.
        entries: usize,
        /// How many there may be.
        limit: usize,
    },
}

/// A policy that no packet can reach: every packet it speaks of is decided before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// Index of the policy.
    pub policy: usize,
    /// Indices of the policies that decide in its place, ascending.
    pub decided_by: Vec<usize>,
}

/// Compiles the list.
pub fn compile(policies: &[Policy]) -> Result<RuleSet, PolicyError> {
    let limit = RULES_MAX as usize / 2;
    let mut entries = Vec::new();
    for (&(from, to), list) in &by_zones(policies) {
        let zones = RuleKey { from_be: from.to_be_bytes(), to_be: to.to_be_bytes(), ..RuleKey::default() };
        compile_zones(policies, list, zones, &mut entries);
        if entries.len() > limit {
            return Err(PolicyError::TooMany { entries: entries.len(), limit });
        }
    }
    Ok(RuleSet { entries })
}

/// The policies that decide nothing, because earlier ones decide it all.
pub fn unreachable(policies: &[Policy]) -> Vec<Unreachable> {
    let mut reached = BTreeSet::new();
    let mut decided_by: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for list in by_zones(policies).values() {
        let mut decisions = vec![(None, Segment { ports: ALL_PORTS, decider: first_any(list) })];
        for protocol in protocols(list) {
            decisions.extend(segments(list, protocol).into_iter().map(|segment| (Some(protocol), segment)));
        }
        for (protocol, segment) in decisions {
            let Some(decider) = segment.decider else { continue };
            reached.insert(decider);
            for &(policy, matches) in list.iter().filter(|(policy, _)| *policy > decider) {
                let concerned = match (matches, protocol) {
                    (Match::Any, _) => true,
                    (Match::Protocol { protocol, ports }, Some(this)) => {
                        *protocol == this
                            && ports.start() <= segment.ports.end()
                            && segment.ports.start() <= ports.end()
                    }
                    (Match::Protocol { .. }, None) => false,
                };
                if concerned {
                    decided_by.entry(policy).or_default().insert(decider);
                }
            }
        }
    }
    (0..policies.len())
        .filter(|policy| !reached.contains(policy))
        .map(|policy| Unreachable {
            policy,
            decided_by: decided_by.remove(&policy).unwrap_or_default().into_iter().collect(),
        })
        .collect()
}

/// The rule id under which the programs and `sekisho status` know the policy at this index; 0 is "no policy".
pub fn rule_id(policy: usize) -> u32 {
    u32::try_from(policy).unwrap_or(u32::MAX).saturating_add(1)
}

/// The policy with this rule id.
pub fn by_rule_id(policies: &[Policy], id: u32) -> Option<&Policy> {
    policies.get(usize::try_from(id).ok()?.checked_sub(1)?)
}

impl RuleSet {
    /// The prefixes, in no particular order; no two are equal.
    pub fn entries(&self) -> &[RuleEntry] {
        &self.entries
    }
}

impl RuleEntry {
    /// Prefix length in bits, rule set number included.
    pub fn prefix_bits(&self) -> u32 {
        self.prefix_bits
    }

    /// The key under this rule set number.
    pub fn key(&self, generation: u32) -> RuleKey {
        RuleKey { generation_be: generation.to_be_bytes(), ..self.key }
    }

    /// What to do.
    pub fn rule(&self) -> Rule {
        self.rule
    }
}

const ALL_PORTS: RangeInclusive<u16> = 0..=u16::MAX;

/// What the policies say between two zones, first match first, with the policy's index.
type ZoneList<'a> = Vec<(usize, &'a Match)>;

/// Ports with one outcome, and the policy that decides it; `None`: no policy does.
struct Segment {
    ports: RangeInclusive<u16>,
    decider: Option<usize>,
}

fn by_zones(policies: &[Policy]) -> BTreeMap<(ZoneId, ZoneId), ZoneList<'_>> {
    let mut lists: BTreeMap<_, ZoneList<'_>> = BTreeMap::new();
    for (index, policy) in policies.iter().enumerate() {
        for &from in &policy.from {
            for &to in &policy.to {
                lists.entry((from, to)).or_default().extend(policy.matches.iter().map(|m| (index, m)));
            }
        }
    }
    lists
}

/// Every protocol that is named.
fn protocols(list: &ZoneList<'_>) -> BTreeSet<u8> {
    list.iter()
        .filter_map(|(_, matches)| match matches {
            Match::Any => None,
            Match::Protocol { protocol, .. } => Some(*protocol),
        })
        .collect()
}

/// Who decides the protocols that nobody names.
fn first_any(list: &ZoneList<'_>) -> Option<usize> {
    list.iter().find(|(_, matches)| **matches == Match::Any).map(|(policy, _)| *policy)
}

/// The ports of one protocol, cut where the outcome may change, in ascending order and without gaps.
fn segments(list: &ZoneList<'_>, protocol: u8) -> Vec<Segment> {
    let concerned: Vec<(usize, RangeInclusive<u16>)> = list
        .iter()
        .filter_map(|(policy, matches)| match matches {
            Match::Any => Some((*policy, ALL_PORTS)),
            Match::Protocol { protocol: named, ports } => {
                (*named == protocol).then(|| (*policy, ports.clone()))
            }
        })
        .collect();
    let mut starts = BTreeSet::from([0]);
    for (_, ports) in &concerned {
        starts.insert(*ports.start());
        starts.extend(ports.end().checked_add(1));
    }
    let mut segments: Vec<Segment> = Vec::with_capacity(starts.len());
    for start in starts {
        let decider = concerned.iter().find(|(_, ports)| ports.contains(&start)).map(|(policy, _)| *policy);
        if let Some(last) = segments.last_mut() {
            if last.decider == decider {
                continue;
            }
            last.ports = *last.ports.start()..=start - 1;
        }
        segments.push(Segment { ports: start..=u16::MAX, decider });
    }
    segments
}

fn compile_zones(policies: &[Policy], list: &ZoneList<'_>, zones: RuleKey, entries: &mut Vec<RuleEntry>) {
    let others = outcome(policies, first_any(list));
    if !others.same_effect(&Outcome::DEFAULT) {
        entries.push(RuleEntry { prefix_bits: RULE_KEY_BITS_ANY_PROTOCOL, key: zones, rule: others.rule() });
    }
    for protocol in protocols(list) {
        let outcomes: Vec<(RangeInclusive<u16>, Outcome)> = segments(list, protocol)
            .into_iter()
            .map(|segment| (segment.ports, outcome(policies, segment.decider)))
            .collect();
        Block::new(&outcomes, 0, 0).emit(others, 0, 0, &mut |first_port, port_bits, outcome| {
            entries.push(RuleEntry {
                prefix_bits: RULE_KEY_BITS_ANY_PORT + port_bits,
                key: RuleKey { protocol, port_be: first_port.to_be_bytes(), ..zones },
                rule: outcome.rule(),
            });
        });
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Outcome {
    id: u32,
    allow: bool,
    log: bool,
}

impl Outcome {
    /// What the programs do where the trie has no entry.
    const DEFAULT: Self = Self { id: 0, allow: false, log: false };

    /// Whether the programs may take the one for the other: refusals that nobody reports are all alike.
    fn same_effect(&self, other: &Self) -> bool {
        let silent_deny = |outcome: &Self| !outcome.allow && !outcome.log;
        self == other || (silent_deny(self) && silent_deny(other))
    }

    fn rule(&self) -> Rule {
        Rule {
            id: self.id,
            action: if self.allow { action::ALLOW } else { action::DENY },
            flags: if self.log { rule_flags::LOG } else { 0 },
        }
    }
}

fn outcome(policies: &[Policy], decider: Option<usize>) -> Outcome {
    let found = decider.and_then(|index| Some((index, policies.get(index)?)));
    found.map_or(Outcome::DEFAULT, |(index, policy)| Outcome {
        id: rule_id(index),
        allow: policy.action == Action::Allow,
        log: policy.log,
    })
}

/// An aligned block of ports and the outcomes with which it would need the fewest entries.
struct Block {
    best: BTreeSet<Outcome>,
    halves: Option<Box<[Block; 2]>>,
}

impl Block {
    /// The block whose first `bits` port bits are those of `first`, out of segments without gaps.
    fn new(segments: &[(RangeInclusive<u16>, Outcome)], first: u16, bits: u32) -> Self {
        let last = first | u16::MAX.checked_shr(bits).unwrap_or(0);
        let at = segments.partition_point(|(ports, _)| *ports.end() < first);
        let (ports, outcome) = match segments.get(at) {
            Some((ports, outcome)) => (ports.clone(), *outcome),
            None => (ALL_PORTS, Outcome::DEFAULT),
        };
        if *ports.end() >= last || bits >= u16::BITS {
            return Self { best: BTreeSet::from([outcome]), halves: None };
        }
        let middle = first | 1 << (u16::BITS - 1 - bits);
        let halves = [Self::new(segments, first, bits + 1), Self::new(segments, middle, bits + 1)];
        let mut best = &halves[0].best & &halves[1].best;
        if best.is_empty() {
            best = &halves[0].best | &halves[1].best;
        }
        Self { best, halves: Some(Box::new(halves)) }
    }

    /// Hands out (first port, port bits, outcome) for every prefix that must differ from the one around it.
    fn emit(&self, around: Outcome, first: u16, bits: u32, out: &mut impl FnMut(u16, u32, Outcome)) {
        let here = match self.best.iter().find(|outcome| outcome.same_effect(&around)) {
            Some(_) => around,
            None => {
                let chosen = self.best.first().copied().unwrap_or(Outcome::DEFAULT);
                out(first, bits, chosen);
                chosen
            }
        };
        if let Some(halves) = &self.halves {
            let middle = first | 1 << (u16::BITS - 1 - bits);
            halves[0].emit(here, first, bits + 1, out);
            halves[1].emit(here, middle, bits + 1, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const TCP: u8 = 6;

    fn tcp(ports: RangeInclusive<u16>) -> Match {
        Match::Protocol { protocol: TCP, ports }
    }

    fn policy(from: ZoneId, to: ZoneId, action: Action, matches: Vec<Match>) -> Policy {
        Policy { name: "p".into(), from: vec![from], to: vec![to], matches, action, log: false }
    }

    /// What the programs do: the longest prefix that covers the packet's key.
    fn lookup(set: &RuleSet, generation: u32, packet: &Packet) -> Rule {
        let bits = |key: RuleKey| {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&key.generation_be);
            bytes[4..6].copy_from_slice(&key.from_be);
            bytes[6..8].copy_from_slice(&key.to_be);
            bytes[8] = key.protocol;
            bytes[9..11].copy_from_slice(&key.port_be);
            u128::from_be_bytes(bytes)
        };
        let asked = bits(RuleKey {
            generation_be: generation.to_be_bytes(),
            from_be: packet.from.to_be_bytes(),
            to_be: packet.to.to_be_bytes(),
            protocol: packet.protocol,
            port_be: packet.port.to_be_bytes(),
            reserved: 0,
        });
        set.entries()
            .iter()
            .filter(|e| (bits(e.key(generation)) ^ asked).leading_zeros() >= e.prefix_bits())
            .max_by_key(|e| e.prefix_bits())
            .map_or(Rule { id: 0, action: action::DENY, flags: 0 }, RuleEntry::rule)
    }

    #[derive(Clone, Debug)]
    struct Packet {
        from: ZoneId,
        to: ZoneId,
        protocol: u8,
        port: u16,
    }

    /// What the administrator meant.
    fn first_match(policies: &[Policy], packet: &Packet) -> Option<usize> {
        policies.iter().position(|policy| {
            policy.from.contains(&packet.from)
                && policy.to.contains(&packet.to)
                && policy.matches.iter().any(|m| match m {
                    Match::Any => true,
                    Match::Protocol { protocol, ports } => {
                        *protocol == packet.protocol && ports.contains(&packet.port)
                    }
                })
        })
    }

    fn ports() -> impl Strategy<Value = u16> {
        prop_oneof![Just(0), Just(u16::MAX), 0..20u16, 1016..1030u16, 65_500..=u16::MAX, any::<u16>()]
    }

    fn matches() -> impl Strategy<Value = Match> {
        let range = (ports(), ports()).prop_map(|(a, b)| a.min(b)..=a.max(b));
        prop_oneof![
            1 => Just(Match::Any),
            8 => (prop_oneof![Just(1), Just(TCP), Just(17)], range)
                .prop_map(|(protocol, ports)| Match::Protocol { protocol, ports }),
        ]
    }

    fn policies() -> impl Strategy<Value = Vec<Policy>> {
        let zones = || prop::collection::vec(0..3u16, 1..3);
        let action = prop_oneof![Just(Action::Allow), Just(Action::Deny)];
        let one = (zones(), zones(), prop::collection::vec(matches(), 1..4), action, any::<bool>()).prop_map(
            |(from, to, matches, action, log)| Policy { name: "p".into(), from, to, matches, action, log },
        );
        prop::collection::vec(one, 0..12)
    }

    fn packets() -> impl Strategy<Value = Vec<Packet>> {
        let one = (0..4u16, 0..4u16, prop_oneof![Just(1), Just(TCP), Just(17), any::<u8>()], ports())
            .prop_map(|(from, to, protocol, port)| Packet { from, to, protocol, port });
        prop::collection::vec(one, 64)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn the_trie_does_what_the_list_says(policies in policies(), packets in packets(), generation: u32) {
            let set = compile(&policies).unwrap();
            for packet in &packets {
                let rule = lookup(&set, generation, packet);
                match first_match(&policies, packet) {
                    Some(index) if policies[index].action == Action::Allow || policies[index].log => {
                        prop_assert_eq!(rule.id, rule_id(index), "{:?}", packet);
                        prop_assert_eq!(rule.action == action::ALLOW, policies[index].action == Action::Allow);
                        prop_assert_eq!(rule.flags == rule_flags::LOG, policies[index].log);
                    }
                    _ => {
                        prop_assert_eq!(rule.action, action::DENY, "{:?}", packet);
                        prop_assert_eq!(rule.flags, 0);
                    }
                }
                prop_assert_eq!(lookup(&set, generation.wrapping_add(1), packet).id, rule.id);
            }
        }

        #[test]
        fn no_prefix_stands_twice_nor_has_bits_beyond_its_length(policies in policies()) {
            let mut seen = HashSet::new();
            for entry in compile(&policies).unwrap().entries() {
                prop_assert!(seen.insert((entry.prefix_bits(), entry.key(0))));
                prop_assert!((64..=88).contains(&entry.prefix_bits()));
                let ports = u16::from_be_bytes(entry.key(0).port_be);
                let port_bits = entry.prefix_bits().saturating_sub(RULE_KEY_BITS_ANY_PORT);
                prop_assert_eq!(ports & u16::MAX.checked_shr(port_bits).unwrap_or(0), 0);
            }
        }

        #[test]
        fn what_is_called_unreachable_is_never_the_first_match(policies in policies(), packets in packets()) {
            let unreachable = unreachable(&policies);
            for packet in &packets {
                if let Some(index) = first_match(&policies, packet) {
                    prop_assert!(unreachable.iter().all(|u| u.policy != index));
                }
            }
        }
    }

    #[test]
    fn a_deny_stands_only_inside_a_broader_allow() {
        let alone =
            [policy(1, 2, Action::Deny, vec![tcp(22..=22)]), policy(1, 2, Action::Allow, vec![tcp(80..=80)])];
        assert_eq!(compile(&alone).unwrap().entries().len(), 1);
        let inside =
            [policy(1, 2, Action::Deny, vec![tcp(22..=22)]), policy(1, 2, Action::Allow, vec![Match::Any])];
        let set = compile(&inside).unwrap();
        assert_eq!(set.entries().len(), 2);
        assert!(set.entries().iter().any(|e| e.rule().id == 1 && e.rule().action == action::DENY));
    }

    #[test]
    fn a_logged_deny_stands_though_nothing_is_allowed() {
        let mut logged = policy(1, 2, Action::Deny, vec![Match::Any]);
        logged.log = true;
        let set = compile(&[logged]).unwrap();
        let [entry] = set.entries() else { panic!("{set:?}") };
        assert_eq!(entry.prefix_bits(), RULE_KEY_BITS_ANY_PROTOCOL);
        assert_eq!(entry.rule(), Rule { id: 1, action: action::DENY, flags: rule_flags::LOG });
    }

    #[test]
    fn a_range_takes_few_prefixes() {
        let set = compile(&[policy(1, 2, Action::Allow, vec![tcp(1024..=u16::MAX)])]).unwrap();
        assert_eq!(set.entries().len(), 2, "all of TCP allowed, the first 1024 ports not");
    }

    #[test]
    fn a_policy_behind_a_broader_one_is_unreachable() {
        let list = [
            policy(1, 2, Action::Allow, vec![tcp(1..=100)]),
            policy(1, 2, Action::Allow, vec![tcp(101..=200)]),
            policy(1, 2, Action::Deny, vec![tcp(50..=150)]),
            policy(2, 1, Action::Deny, vec![tcp(50..=150)]),
        ];
        assert_eq!(unreachable(&list), [Unreachable { policy: 2, decided_by: vec![0, 1] }]);
    }

    #[test]
    fn rule_ids_lead_back_to_their_policies() {
        let list = [policy(1, 2, Action::Allow, vec![Match::Any])];
        assert_eq!(by_rule_id(&list, rule_id(0)), list.first());
        assert_eq!(by_rule_id(&list, 0), None);
        assert_eq!(by_rule_id(&list, 2), None);
    }
}
