//! What a changed configuration changes: for the operator who asks before, and for the daemon that carries it out.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use ipnet::IpNet;
use sekisho_abi::port::Network;
use sekisho_ike::EndpointConfig;
use serde::{Deserialize, Serialize};

use crate::config::{AddressSet, Config, Connection, Gateway};

/// One difference. Field names are part of the interface.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Change {
    /// `port`, `zone`, `policy`, `nat`, `pool`, `connection`, `credentials` or `gateway`.
    pub what: String,
    /// Its name in the configuration.
    pub name: String,
    /// What becomes of it.
    pub change: Kind,
}

/// What becomes of a thing.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It was not there before.
    Added,
    /// It is not there any more.
    Removed,
    /// It is another than before.
    Changed,
    /// It stands at another place among its like.
    Moved,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.change {
            Kind::Added => '+',
            Kind::Removed => '-',
            Kind::Changed => '~',
            Kind::Moved => '^',
        };
        write!(f, "{sign} {} {}", self.what, self.name)
    }
}

/// Everything that differs, and what that takes.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// For the operator.
    pub(super) list: Vec<Change>,
    /// Ports, networks, addresses, routes, devices, or how long flows live.
    pub(super) ground: bool,
    /// What a packet may do.
    pub(super) rules: bool,
    /// Whether a network or a port goes from one zone to another: judged one map after the other, a packet could be
    /// allowed by neither configuration.
    pub(super) regroups: bool,
    /// Connections, or how ends prove who they are.
    pub(super) connections: bool,
    /// What is recorded, and where.
    pub(super) evidence: bool,
    /// The address of the metrics.
    pub(super) metrics: bool,
}

impl Changes {
    /// From the configuration in force to another one; `ike` with the credentials as they are in the files.
    pub(super) fn between(before: (&Config, &EndpointConfig), after: (&Config, &EndpointConfig)) -> Changes {
        let ((old, old_ike), (new, new_ike)) = (before, after);
        // Whoever adds a field decides here what it takes to change it.
        let Config {
            path: _,
            numbers: _,
            vpn_port_of: _,
            evidence,
            gateway,
            timeouts,
            limits,
            ports,
            vpn_ports,
            zones,
            policies,
            policy_lines: _,
            sets,
            schedules,
            nat,
            pools,
            connections,
        } = new;
        let mut changes = Changes::default();
        let Gateway { name: _, metrics, datapath: _, offload: _, flows_max: _, engine_workers, engine_batch } =
            gateway;
        for (key, is_other) in [
            ("engine_workers", *engine_workers != old.gateway.engine_workers),
            ("engine_batch_us", *engine_batch != old.gateway.engine_batch),
        ] {
            if is_other {
                changes.add("gateway", key, Kind::Changed);
                changes.ground = true;
            }
        }
        changes.metrics = *metrics != old.gateway.metrics;
        if changes.metrics {
            changes.add("gateway", "metrics", Kind::Changed);
        }
        changes.evidence = *evidence != old.evidence;
        if changes.evidence {
            changes.add("gateway", "evidence", Kind::Changed);
        }
        if *timeouts != old.timeouts {
            changes.add("gateway", "timeouts", Kind::Changed);
            changes.ground = true;
        }
        if *limits != old.limits {
            changes.add("gateway", "limits", Kind::Changed);
            changes.ground = true;
        }
        let of_gateway = changes.list.len();
        changes.compare("port", old.ports.iter().map(|p| (&*p.name, p)), ports.iter().map(|p| (&*p.name, p)));
        let of_zones = changes.list.len();
        changes.compare("zone", old.zones.iter().map(|z| (&*z.name, z)), zones.iter().map(|z| (&*z.name, z)));
        changes.ground |= changes.list.len() > of_gateway || old.vpn_ports != *vpn_ports;
        changes.rules = changes.list.len() > of_zones;

        let before = changes.list.len();
        let name = |policy: &crate::config::Policy| policy.name.to_string();
        let old_names: Vec<_> = old.policies.iter().map(name).collect();
        let new_names: Vec<_> = policies.iter().map(name).collect();
        changes.compare(
            "policy",
            old_names.iter().map(String::as_str).zip(&old.policies),
            new_names.iter().map(String::as_str).zip(policies),
        );
        if changes.list.len() == before && old.policies != *policies {
            changes.add("policy", "(order)", Kind::Moved);
        }
        let named = |sets: &[AddressSet]| -> Vec<(String, AddressSet)> {
            sets.iter().filter_map(|set| Some((set.name.as_deref()?.to_owned(), set.clone()))).collect()
        };
        let (old_sets, new_sets) = (named(&old.sets), named(sets));
        changes.compare(
            "set",
            old_sets.iter().map(|(name, set)| (name.as_str(), set)),
            new_sets.iter().map(|(name, set)| (name.as_str(), set)),
        );
        changes.compare(
            "schedule",
            old.schedules.iter().map(|s| (&*s.name, s)),
            schedules.iter().map(|s| (&*s.name, s)),
        );
        changes.rules |= old.policies != *policies || old.sets != *sets || old.schedules != *schedules;
        if old.nat != *nat {
            changes.add("nat", "(tables)", Kind::Changed);
            changes.rules = true;
            changes.ground |=
                ports.iter().any(|port| old.nat.answered_by(port.id) != nat.answered_by(port.id));
        }

        let of_pools = changes.list.len();
        changes.compare("pool", old.pools.iter().map(|p| (&*p.name, p)), pools.iter().map(|p| (&*p.name, p)));
        changes.ground |= changes.list.len() > of_pools;

        let (formers, presents) = (by_name(&old.connections), by_name(connections));
        let (old_ike, new_ike) = (engines(old_ike), engines(new_ike));
        for connection in &old.connections {
            if !presents.contains_key(&*connection.name) {
                changes.add("connection", &connection.name, Kind::Removed);
            }
        }
        for connection in connections {
            let name = &connection.name;
            let Some(&former) = formers.get(&**name) else {
                changes.add("connection", name, Kind::Added);
                continue;
            };
            let same_engine = match (old_ike.get(&**name), new_ike.get(&**name)) {
                (Some(old), Some(new)) => old.is_same_as(new),
                (old, new) => old.is_none() && new.is_none(),
            };
            if former.start != connection.start
                || former.local != connection.local
                || former.remote != connection.remote
                || former.pools != connection.pools
                || (!same_engine && !is_same_but_for_credentials(former, connection))
            {
                changes.add("connection", name, Kind::Changed);
            } else if !same_engine {
                changes.add("credentials", name, Kind::Changed);
            } else if old.vpn_port(name).map(|port| port.id) != new.vpn_port(name).map(|port| port.id) {
                changes.add("connection", name, Kind::Moved);
            }
        }
        changes.connections = changes.list.iter().any(|c| matches!(&*c.what, "connection" | "credentials"));
        let owners =
            |config: &Config| -> BTreeMap<IpNet, Network> { config.networks().into_iter().collect() };
        let (old_owners, new_owners) = (owners(old), owners(new));
        changes.ground |= changes.connections || old_owners != new_owners;
        let moved = |old: &Network, new: &Network| (old.zone, old.kind) != (new.zone, new.kind);
        changes.regroups =
            old_owners.iter().any(|(net, old)| new_owners.get(net).is_some_and(|new| moved(old, new)))
                || old.ports.iter().any(|port| {
                    ports.iter().any(|other| {
                        (other.id == port.id || other.device() == port.device()) && other.zone != port.zone
                    })
                });
        changes
    }

    /// How many of what, in one line for the log.
    pub(super) fn summary(&self) -> String {
        let mut counts: BTreeMap<(&str, Kind), usize> = BTreeMap::new();
        for change in &self.list {
            *counts.entry((&change.what, change.change)).or_default() += 1;
        }
        if counts.is_empty() {
            return "nothing".into();
        }
        let words = counts.into_iter().map(|((what, change), count)| {
            let change = format!("{change:?}").to_lowercase();
            format!("{count} {what} {change}")
        });
        words.collect::<Vec<_>>().join(", ")
    }

    pub(super) fn add(&mut self, what: &str, name: &str, change: Kind) {
        self.list.push(Change { what: what.into(), name: name.into(), change });
    }

    fn compare<'a, T: PartialEq + 'a>(
        &mut self,
        what: &str,
        before: impl Iterator<Item = (&'a str, &'a T)>,
        after: impl Iterator<Item = (&'a str, &'a T)>,
    ) {
        let before: BTreeMap<&str, &T> = before.collect();
        let after: BTreeMap<&str, &T> = after.collect();
        for name in before.keys().filter(|name| !after.contains_key(*name)) {
            self.add(what, name, Kind::Removed);
        }
        for (name, thing) in &after {
            match before.get(name) {
                None => self.add(what, name, Kind::Added),
                Some(former) if former != thing => self.add(what, name, Kind::Changed),
                Some(_) => {}
            }
        }
    }
}

fn by_name(connections: &[Connection]) -> HashMap<&str, &Connection> {
    connections.iter().map(|connection| (&*connection.name, connection)).collect()
}

/// What the IKE engine makes of the connections, by name.
fn engines(config: &EndpointConfig) -> HashMap<&str, &sekisho_ike::Connection> {
    config.connections.iter().map(|connection| (&*connection.name, &**connection)).collect()
}

/// Whether the file says the same of both, so that a difference is one of the files it names.
fn is_same_but_for_credentials(a: &Connection, b: &Connection) -> bool {
    // No secrets: a configuration holds paths.
    format!("{a:?}") == format!("{b:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Numbers;

    const BEFORE: &str = r#"
[gateway]
name = "g"
[ports.lan1]
interface = "lan1"
addresses = ["192.168.1.1/24"]
[ports.lan2]
interface = "lan2"
addresses = ["192.168.2.1/24"]
[[policy]]
name = "print"
from = "lan1"
to = "lan2"
allow = ["tcp/9100"]
[[policy]]
name = "scan"
from = "lan2"
to = "lan1"
allow = ["tcp/8600"]
"#;

    /// Ports and zones keep the numbers of the configuration before.
    fn changes(text: &str) -> (Changes, Vec<String>) {
        let folder = tempfile::TempDir::new().expect("a folder");
        let path = folder.path().join("g.toml");
        let load = |text: &str, numbers: Numbers| {
            std::fs::write(&path, text).expect("writes");
            let loaded = crate::config::load_with(&path, |_| numbers.clone());
            loaded.unwrap_or_else(|findings| panic!("{findings:?}")).config
        };
        let before = load(BEFORE, Numbers::default());
        let after = load(text, before.numbers.clone());
        let none = EndpointConfig::default();
        let changes = Changes::between((&before, &none), (&after, &none));
        let list = changes.list.iter().map(ToString::to_string).collect();
        (changes, list)
    }

    #[test]
    fn the_same_file_changes_nothing() {
        let (changes, list) = changes(BEFORE);
        assert!(list.is_empty() && !changes.ground && !changes.rules && !changes.connections, "{list:?}");
        assert_eq!(changes.summary(), "nothing");
    }

    #[test]
    fn a_policy_needs_no_ground() {
        let (changes, list) = changes(&BEFORE.replace("tcp/9100", "tcp/9101"));
        assert_eq!(list, ["~ policy print"]);
        assert!(changes.rules && !changes.ground && !changes.regroups);
    }

    #[test]
    fn lifetimes_of_flows_are_put_in_force() {
        let (changes, list) = changes(&format!("{BEFORE}[timeouts]\nudp = \"45s\"\n"));
        assert_eq!(list, ["~ gateway timeouts"]);
        assert!(changes.ground && !changes.regroups && !changes.connections);
    }

    #[test]
    fn limits_are_put_in_force() {
        let (changes, list) = changes(&format!("{BEFORE}[limits]\nflows_per_source = 100\n"));
        assert_eq!(list, ["~ gateway limits"]);
        assert!(changes.ground && !changes.regroups && !changes.connections);
    }

    #[test]
    fn the_order_of_policies_counts() {
        let (print, scan) =
            (BEFORE.find("[[policy]]").expect("one"), BEFORE.rfind("[[policy]]").expect("two"));
        let text = format!("{}{}{}", &BEFORE[..print], &BEFORE[scan..], &BEFORE[print..scan]);
        let (changes, list) = changes(&text);
        assert_eq!(list, ["^ policy (order)"]);
        assert!(changes.rules);
    }

    #[test]
    fn a_port_that_changes_its_zone_regroups() {
        let text = BEFORE.replace("interface = \"lan2\"", "interface = \"lan2\"\nzone = \"office\"");
        let (changes, list) = changes(
            &text
                .replace("\"lan2\"\nallow", "\"office\"\nallow")
                .replace("from = \"lan2\"", "from = \"office\""),
        );
        assert!(list.contains(&"~ port lan2".into()) && list.contains(&"+ zone office".into()), "{list:?}");
        assert!(changes.regroups && changes.ground);
    }

    #[test]
    fn a_pool_is_a_change_of_its_own() {
        let (changes, list) = changes(&format!("{BEFORE}[pools.p]\naddresses = \"10.9.0.0/24\"\n"));
        assert_eq!(list, ["+ pool p"]);
        assert!(changes.ground && !changes.rules && !changes.connections);
    }

    #[test]
    fn a_new_port_does_not_regroup() {
        let text = format!("{BEFORE}[ports.lan3]\ninterface = \"lan3\"\naddresses = [\"192.168.3.1/24\"]\n");
        let (changes, list) = changes(&text);
        assert_eq!(list, ["+ port lan3", "+ zone lan3"]);
        assert!(changes.ground && !changes.regroups);
        assert_eq!(changes.summary(), "1 port added, 1 zone added");
    }
}
