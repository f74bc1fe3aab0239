//! Where no rule fits: those that would if little were otherwise.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{Asked, Near, service};
use crate::config::{Action, Config, Policy, ZoneId};

/// Rules named at most.
const NEAR_MAX: usize = 3;
/// A rule that is farther off has nothing to do with the question.
const FAR: usize = 3;
/// How far off a rule is by another zone; by anything else it is one step.
const ZONE: usize = 2;

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
            let (steps, why): (Vec<usize>, Vec<String>) = differences.into_iter().unzip();
            (steps.iter().sum(), Near { name: policy.name.to_string(), line, why: why.join("; ") })
        })
        .filter(|(steps, _)| (1..FAR).contains(steps))
        .collect();
    near.sort_by_key(|(steps, _)| *steps);
    let least = near.first().map_or(0, |(steps, _)| *steps);
    near.into_iter().filter(|(steps, _)| *steps == least).map(|(_, near)| near).take(NEAR_MAX).collect()
}

/// What of a rule does not fit, each with how far off that is.
fn differences(config: &Config, policy: &Policy, asleep: bool, asked: &Asked) -> Vec<(usize, String)> {
    let mut differences = Vec::new();
    let zones = |zones: &[ZoneId]| -> String {
        let names: Vec<&str> = zones.iter().filter_map(|id| config.zone_name(*id)).collect();
        names.join(", ")
    };
    if !policy.from.contains(&asked.from) {
        differences.push((ZONE, format!("it is from {}", zones(&policy.from))));
    }
    if !policy.to.contains(&asked.to) {
        differences.push((ZONE, format!("it is to {}", zones(&policy.to))));
    }
    let fits = policy
        .matches
        .iter()
        .any(|matched| matched.ports_of(asked.protocol).is_some_and(|ports| ports.contains(&asked.service)));
    if !fits {
        let services: Vec<String> = policy.matches.iter().map(service::of).collect();
        differences.push((1, format!("it allows {}", services.join(", "))));
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
        differences.push((1, format!("its sources are {}", names(&policy.sources))));
    }
    if !within(&policy.destinations, asked.destination) {
        differences.push((1, format!("its destinations are {}", names(&policy.destinations))));
    }
    let source_port = |ports: &std::ops::RangeInclusive<u16>| ports.contains(&asked.source_port);
    if !policy.source_ports.is_empty() && !policy.source_ports.iter().any(source_port) {
        differences.push((1, "it wants another source port".into()));
    }
    if asleep {
        differences.push((1, "its schedule has it out of force now".into()));
    }
    differences
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::SystemTime;

    use super::*;
    use crate::config::check;

    const FILE: &str = r#"
[gateway]
name = "near"

[ports.lan1]
interface = "lan1"
addresses = ["192.168.1.1/24"]

[ports.lan2]
interface = "lan2"
addresses = ["192.168.2.1/24"]

[sets]
tills = ["192.168.1.10", "192.168.1.11"]

[[policy]]
name = "print"
from = "lan1"
to = "lan2"
source = "tills"
allow = ["tcp/9100", "udp/5000-5010"]

[[policy]]
name = "ping"
from = "lan2"
to = "lan1"
allow = ["icmp/echo"]

[[policy]]
name = "never"
from = "lan1"
to = "lan2"
deny = ["any"]
"#;

    fn near(from: u16, to: u16, source: &str, protocol: u8, service: u16) -> Vec<(String, String)> {
        let loaded = check(Path::new("near.toml"), FILE, SystemTime::UNIX_EPOCH).expect("a configuration");
        let asked = Asked {
            from,
            to,
            source: source.parse().expect("an address"),
            destination: "192.168.2.10".parse().expect("an address"),
            protocol,
            source_port: 40_000,
            service,
        };
        let near = rules(&loaded.config, &BTreeSet::new(), &asked);
        near.into_iter().map(|near| (near.name, near.why)).collect()
    }

    #[test]
    fn what_is_nearest_comes_first_and_says_what_is_different() {
        let print = |why: &str| vec![("print".to_owned(), why.to_owned())];
        let services = "it allows tcp/9100, udp/5000-5010";
        assert_eq!(near(1, 2, "192.168.1.10", 6, 9101), print(services));
        assert_eq!(near(1, 2, "192.168.1.12", 6, 9100), print("its sources are tills"));
        assert_eq!(near(1, 2, "192.168.1.12", 6, 9101), print(&format!("{services}; its sources are tills")));
        let names = |near: Vec<(String, String)>| near.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(
            names(near(2, 1, "192.168.1.10", 6, 9100)),
            ["ping"],
            "not the rule of the other direction"
        );
        assert_eq!(near(2, 2, "192.168.1.10", 6, 9100), print("it is from lan1"));
        assert!(near(1, 1, "192.168.1.12", 47, 0).is_empty(), "nothing is near");
        assert!(near(1, 2, "192.168.1.10", 6, 9100).is_empty(), "it fits: something else refused it");
    }
}
