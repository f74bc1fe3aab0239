//! Where no rule fits: those that would if little were otherwise.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{Asked, Near, service};
use crate::config::{Action, Config, Policy, ZoneId};

/// Rules named at most.
const NEAR_MAX: usize = 3;
/// A rule from which more is different has nothing to do with the question.
const DIFFERENCES_MAX: usize = 2;

/// The rules that allow what is nearest to what is asked, first those from which the least is different.
pub(super) fn rules(config: &Config, asleep: &BTreeSet<usize>, asked: &Asked) -> Vec<Near> {
    let lines = config.policy_lines.iter().copied().chain(std::iter::repeat(0));
    let mut near: Vec<(usize, Near)> = config
        .policies
        .iter()
        .zip(lines)
        .enumerate()
        .filter(|(_, (policy, _))| policy.action == Action::Allow)
        .map(|(index, (policy, line))| {
            let differences = differences(config, policy, asleep.contains(&index), asked);
            (differences.len(), Near { name: policy.name.to_string(), line, why: differences.join("; ") })
        })
        .filter(|(count, _)| (1..=DIFFERENCES_MAX).contains(count))
        .collect();
    near.sort_by_key(|(count, _)| *count);
    let least = near.first().map_or(0, |(count, _)| *count);
    near.into_iter().filter(|(count, _)| *count == least).map(|(_, near)| near).take(NEAR_MAX).collect()
}

/// What of a rule does not fit.
fn differences(config: &Config, policy: &Policy, asleep: bool, asked: &Asked) -> Vec<String> {
    let mut differences = Vec::new();
    let zones = |zones: &[ZoneId]| -> String {
        let names: Vec<&str> = zones.iter().filter_map(|id| config.zone_name(*id)).collect();
        names.join(", ")
    };
    if !policy.from.contains(&asked.from) {
        differences.push(format!("it is from {}", zones(&policy.from)));
    }
    if !policy.to.contains(&asked.to) {
        differences.push(format!("it is to {}", zones(&policy.to)));
    }
    let fits = policy
        .matches
        .iter()
        .any(|matched| matched.ports_of(asked.protocol).is_some_and(|ports| ports.contains(&asked.service)));
    if !fits {
        let services: Vec<String> = policy.matches.iter().map(service::of).collect();
        differences.push(format!("it allows {}", services.join(", ")));
    }
    let within = |sets: &[usize], address| {
        sets.is_empty()
            || sets
                .iter()
                .filter_map(|&index| config.sets.get(index))
                .any(|set| set.prefixes.iter().any(|prefix| prefix.contains(&IpNet::from(address))))
    };
    let names = |sets: &[usize]| -> String {
        let sets = sets.iter().filter_map(|&index| config.sets.get(index));
        let texts: Vec<String> = sets
            .map(|set| match &set.name {
                Some(name) => name.to_string(),
                None => set.prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            })
            .collect();
        texts.join(", ")
    };
    if !within(&policy.sources, asked.source) {
        differences.push(format!("its sources are {}", names(&policy.sources)));
    }
    if !within(&policy.destinations, asked.destination) {
        differences.push(format!("its destinations are {}", names(&policy.destinations)));
    }
    let source_port = |ports: &std::ops::RangeInclusive<u16>| ports.contains(&asked.source_port);
    if !policy.source_ports.is_empty() && !policy.source_ports.iter().any(source_port) {
        differences.push("it wants another source port".into());
    }
    if asleep {
        differences.push("its schedule has it out of force now".into());
    }
    differences
}
