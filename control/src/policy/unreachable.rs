//! Policies that decide nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;

use super::classes::Classes;
use super::ports::{ALL, segments};
use super::{by_zones, index};
use crate::config::{AddressSet, Match, Policy};

/// A policy that no packet can reach: every packet it speaks of is decided before, or none exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// Index of the policy.
    pub policy: usize,
    /// Indices of the policies that decide in its place, ascending; none where its address sets are empty.
    pub decided_by: Vec<usize>,
}

/// Comparisons after which no more policies are looked at: warnings must not keep a gateway from starting.
const EFFORT_MAX: usize = 20_000_000;

/// The policies that decide nothing, because earlier ones decide it all. Looks for earlier policies that take in all
/// addresses and source ports of the later one, at the same times or always; several that do so only together are not
/// found.
pub fn unreachable(policies: &[Policy], sets: &[AddressSet]) -> Vec<Unreachable> {
    let classes = Classes::of(sets);
    let mut search =
        Search { policies, effort: EFFORT_MAX, reached: BTreeSet::new(), decided_by: BTreeMap::new() };
    for list in by_zones(policies, &BTreeSet::new()).values() {
        search.between_two_zones(&Groups::of(policies, list, &classes));
    }
    let Search { reached, mut decided_by, effort, .. } = search;
    if effort == 0 {
        return Vec::new();
    }
    (0..policies.len())
        .filter(|&policy| !reached.contains(&(policy as u32)))
        .map(|policy| Unreachable {
            policy,
            decided_by: decided_by
                .remove(&(policy as u32))
                .unwrap_or_default()
                .into_iter()
                .map(|decider| decider as usize)
                .collect(),
        })
        .collect()
}

struct Search<'a> {
    policies: &'a [Policy],
    effort: usize,
    reached: BTreeSet<u32>,
    decided_by: BTreeMap<u32, BTreeSet<u32>>,
}

impl Search<'_> {
    fn between_two_zones(&mut self, groups: &Groups<'_>) {
        for group in &groups.groups {
            if group.condition.is_empty() {
                continue;
            }
            let mut concerned = group.policies.clone();
            for other in groups.candidates(&group.condition) {
                self.effort = self.effort.saturating_sub(1 + other.condition.size());
                if other.condition.takes_in(&group.condition) && !std::ptr::eq(other, group) {
                    concerned.extend(&other.policies);
                }
            }
            concerned.sort_unstable();
            self.effort = self.effort.saturating_sub(concerned.len());
            if self.effort == 0 {
                return;
            }
            self.within(&group.policies, &concerned);
        }
    }

    /// Who of `own` decides anything, where all of `concerned` take in their addresses.
    fn within(&mut self, own: &[u32], concerned: &[u32]) {
        let matches = || {
            let of = |&policy: &u32| index(self.policies, policy).map(|found| (policy, found));
            concerned
                .iter()
                .filter_map(of)
                .flat_map(|(policy, found)| found.matches.iter().map(move |m| (policy, m)))
        };
        let any = matches().find(|(_, m)| **m == Match::Any).map(|(policy, _)| policy);
        let protocols: BTreeSet<u8> = matches().filter_map(|(_, m)| m.protocol()).collect();
        let mut decisions: Vec<(Option<u8>, RangeInclusive<u16>, u32)> = Vec::new();
        decisions.extend(any.map(|decider| (None, ALL, decider)));
        for protocol in protocols {
            let claims =
                matches().filter_map(|(policy, m)| m.ports_of(protocol).map(|ports| (policy, ports)));
            let decided = segments(claims).into_iter();
            decisions.extend(decided.filter_map(|(ports, decider)| Some((Some(protocol), ports, decider?))));
        }
        let mut found = Vec::new();
        for (protocol, ports, decider) in decisions {
            if own.binary_search(&decider).is_ok() {
                self.reached.insert(decider);
            }
            for &policy in own.iter().filter(|policy| **policy > decider && !self.reached.contains(policy)) {
                let Some(later) = index(self.policies, policy) else { continue };
                let overlaps = |m: &Match| match (m, protocol) {
                    (Match::Any, _) => true,
                    (Match::Protocol { .. }, None) => false,
                    (m, Some(protocol)) => m
                        .ports_of(protocol)
                        .is_some_and(|own| own.start() <= ports.end() && ports.start() <= own.end()),
                };
                if later.matches.iter().any(overlaps) {
                    found.push((policy, decider));
                }
            }
        }
        for (policy, decider) in found {
            self.decided_by.entry(policy).or_default().insert(decider);
        }
    }
}

/// Policies between two zones by what they ask beside protocol and destination port.
struct Groups<'a> {
    groups: Vec<Group<'a>>,
    /// Groups that ask for no source, and those whose sources have a class among them.
    of_any_source: Vec<usize>,
    by_source: HashMap<u32, Vec<usize>>,
}

struct Group<'a> {
    condition: Condition<'a>,
    policies: Vec<u32>,
}

#[derive(PartialEq, Eq, Hash, Clone)]
struct Condition<'a> {
    sources: Option<Vec<u32>>,
    destinations: Option<Vec<u32>>,
    source_ports: &'a [RangeInclusive<u16>],
    schedule: Option<usize>,
}

impl<'a> Groups<'a> {
    fn of(policies: &'a [Policy], list: &[u32], classes: &Classes) -> Self {
        let mut numbers: HashMap<Condition<'a>, usize> = HashMap::new();
        let mut groups: Vec<Group<'a>> = Vec::new();
        for &number in list {
            let Some(policy) = index(policies, number) else { continue };
            let of = |sets: &[usize]| (!sets.is_empty()).then(|| classes.of_any(sets));
            let condition = Condition {
                sources: of(&policy.sources),
                destinations: of(&policy.destinations),
                source_ports: &policy.source_ports,
                schedule: policy.schedule,
            };
            let at = *numbers.entry(condition.clone()).or_insert(groups.len());
            match groups.get_mut(at) {
                Some(group) => group.policies.push(number),
                None => groups.push(Group { condition, policies: vec![number] }),
            }
        }
        let (mut of_any_source, mut by_source) = (Vec::new(), HashMap::<u32, Vec<usize>>::new());
        for (at, group) in groups.iter().enumerate() {
            match &group.condition.sources {
                None => of_any_source.push(at),
                Some(classes) => {
                    classes.iter().for_each(|class| by_source.entry(*class).or_default().push(at));
                }
            }
        }
        Self { groups, of_any_source, by_source }
    }

    /// Those that may take in all sources of a condition.
    fn candidates(&self, condition: &Condition<'_>) -> impl Iterator<Item = &Group<'a>> {
        let first = condition.sources.as_ref().and_then(|classes| classes.first());
        let by_source = first.and_then(|class| self.by_source.get(class)).into_iter().flatten();
        self.of_any_source.iter().chain(by_source).filter_map(|&at| self.groups.get(at))
    }
}

impl Condition<'_> {
    /// Whether there is no such packet.
    fn is_empty(&self) -> bool {
        [&self.sources, &self.destinations].into_iter().any(|side| side.as_ref().is_some_and(Vec::is_empty))
    }

    fn size(&self) -> usize {
        [&self.sources, &self.destinations].into_iter().flatten().map(Vec::len).sum()
    }

    /// Whether all that fits the other one fits this one.
    fn takes_in(&self, other: &Self) -> bool {
        let side = |mine: &Option<Vec<u32>>, others: &Option<Vec<u32>>| match (mine, others) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(mine), Some(others)) => others.iter().all(|class| mine.binary_search(class).is_ok()),
        };
        side(&self.sources, &other.sources)
            && side(&self.destinations, &other.destinations)
            && (self.source_ports.is_empty() || self.source_ports == other.source_ports)
            && (self.schedule.is_none() || self.schedule == other.schedule)
    }
}
