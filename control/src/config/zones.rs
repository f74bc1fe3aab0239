//! `[zones.*]`: which ports belong together, and which zones are the far sides of connections.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sekisho_abi::map::PORTS_MAX;
use toml::Spanned;

use super::connections::ConnectionSpec;
use super::diagnostic::Report;
use super::name::{GATEWAY, read_name};
use super::numbers::{Kind, Numbers};
use super::policies::PolicySpec;
use super::ports::PortSpec;
use super::table::{Section, nearest};
use super::{PortId, VpnPort, ZONE_GATEWAY, Zone, ZoneId};

/// One `[zones.NAME]` as the file has it.
pub(super) struct ZoneSpec {
    name: Spanned<String>,
    vpn: Option<Vec<Spanned<String>>>,
    isolated: Option<Spanned<bool>>,
}

/// The zones with their numbers.
#[derive(Default)]
pub(super) struct Zones {
    pub(super) zones: Vec<Zone>,
    pub(super) vpn_ports: Vec<VpnPort>,
    /// Zones with an uplink.
    uplinks: BTreeSet<ZoneId>,
}

impl Zones {
    /// The zone with this number.
    pub(super) fn zone(&self, id: ZoneId) -> Option<&Zone> {
        self.zones.iter().find(|zone| zone.id == id)
    }

    /// Whether one of a zone's ports is an uplink.
    pub(super) fn has_uplink(&self, id: ZoneId) -> bool {
        self.uplinks.contains(&id)
    }

    /// The number of a zone that a policy names; reports a name that none has.
    pub(super) fn find(&self, name: &Spanned<String>, report: &Report) -> Option<ZoneId> {
        let text = name.get_ref();
        if text == GATEWAY {
            return Some(ZONE_GATEWAY);
        }
        let found = self.zones.iter().find(|zone| *zone.name == **text).map(|zone| zone.id);
        if found.is_none() {
            let known = || self.zones.iter().map(|zone| &*zone.name).chain([GATEWAY]);
            report
                .error(name.span(), format!("there is no zone \"{}\"", text.escape_debug()))
                .expected("expected the name of a zone")
                .remedy(suggestion(text, "zones", known()));
        }
        found
    }
}

pub(super) fn read(file: &Section<'_>, report: &Report) -> Vec<ZoneSpec> {
    let sections = file.sections("zones");
    sections
        .into_iter()
        .map(|(name, section)| {
            let spec = ZoneSpec {
                name: read_name(name, "a zone", report),
                vpn: section.strings("vpn"),
                isolated: section.boolean("isolated"),
            };
            section.finish();
            spec
        })
        .collect()
}

/// Numbers ports, zones and policies: new ones in the order of the ports, then the VPN zones in the order of the file.
pub(super) fn number(
    in_force: &Numbers,
    specs: &[ZoneSpec],
    ports: &[PortSpec],
    policies: &[PolicySpec],
) -> Numbers {
    let vpn = || specs.iter().filter(|spec| spec.vpn.is_some()).map(|spec| spec.name.get_ref().as_str());
    let of_ports = ports.iter().map(|port| (Kind::Port, port.name.get_ref().as_str()));
    let zones = ports.iter().map(|port| port.zone.get_ref().as_str()).chain(vpn());
    let policies = policies.iter().map(|policy| (Kind::Policy, policy.name()));
    let of_ports = of_ports.chain(vpn().map(|name| (Kind::Vpn, name)));
    in_force.next(of_ports.chain(zones.map(|name| (Kind::Zone, name))).chain(policies))
}

/// The ports' zones in the order of the ports, then the VPN zones in the order of the file.
pub(super) fn resolve(
    specs: &[ZoneSpec],
    ports: &[PortSpec],
    connections: &[ConnectionSpec],
    numbers: &Numbers,
    report: &Report,
) -> Zones {
    let mut resolved = Zones::default();
    for port in ports {
        let id = numbers.port(Kind::Port, port.name.get_ref());
        let name = port.zone.get_ref();
        match resolved.zones.iter_mut().find(|zone| *zone.name == **name) {
            Some(zone) => zone.ports.push(id),
            None => {
                let zone = Zone {
                    id: numbers.zone(name),
                    name: name.as_str().into(),
                    ports: vec![id],
                    vpn: false,
                    isolated: isolated(specs, name),
                };
                resolved.zones.push(zone);
            }
        }
        if port.uplink
            && let Some(zone) = resolved.zones.iter().find(|zone| *zone.name == **name)
        {
            resolved.uplinks.insert(zone.id);
        }
    }
    for spec in specs {
        let name: Arc<str> = spec.name.get_ref().as_str().into();
        if let Some(isolated) = spec.isolated.as_ref().filter(|isolated| *isolated.get_ref())
            && resolved.zones.iter().any(|zone| zone.name == name && resolved.uplinks.contains(&zone.id))
        {
            report
                .error(isolated.span(), format!("zone {name} has an uplink and cannot be isolated from it"))
                .remedy("give the hosts to be isolated a port and a zone of their own");
        }
    }
    let mut taken: BTreeMap<usize, &ZoneSpec> = BTreeMap::new();
    let named = connections.iter().enumerate().map(|(index, c)| (c.name.get_ref().as_str(), index)).collect();
    for spec in specs {
        let name: Arc<str> = spec.name.get_ref().as_str().into();
        let has_ports = resolved.zones.iter().any(|zone| zone.name == name && !zone.vpn);
        let Some(vpn) = &spec.vpn else {
            if !has_ports {
                report
                    .error(spec.name.span(), format!("zone {name} has neither port nor connection"))
                    .remedy(format!(
                        "add `vpn = \"CONNECTION\"`, or `zone = \"{name}\"` to a port, or remove the zone"
                    ));
            }
            continue;
        };
        if has_ports {
            report
                .error(spec.name.span(), format!("zone {name} has ports and a VPN"))
                .expected("a zone is either")
                .remedy("give the VPN a zone of its own: what may pass between the two is then a policy");
            continue;
        }
        if vpn.is_empty() {
            report
                .error(spec.name.span(), format!("zone {name} has neither port nor connection"))
                .remedy("name the connection in `vpn`, or remove the zone");
        }
        let behind = claim(spec, vpn, &named, &mut taken, report);
        let port: PortId = numbers.port(Kind::Vpn, &name);
        let zone = numbers.zone(&name);
        resolved.vpn_ports.push(VpnPort { id: port, name: Arc::clone(&name), zone, connections: behind });
        resolved.zones.push(Zone {
            id: zone,
            isolated: isolated(specs, &name),
            name,
            ports: vec![port],
            vpn: true,
        });
    }
    for (index, connection) in connections.iter().enumerate() {
        if !taken.contains_key(&index) {
            let name = connection.name.get_ref();
            report
                .error(connection.name.span(), format!("connection {name} is behind no zone"))
                .expected("its traffic could be judged by no policy")
                .remedy(format!("add `[zones.{name}]` with `vpn = \"{name}\"`"));
        }
    }
    if ports.len() + resolved.vpn_ports.len() >= PORTS_MAX as usize
        && let Some(last) = specs.last().map(|spec| &spec.name).or(ports.last().map(|port| &port.name))
    {
        report
            .error(
                last.span(),
                format!("there are {} ports and VPN zones", ports.len() + resolved.vpn_ports.len()),
            )
            .expected(format!("the programs' tables hold {}", PORTS_MAX - 1))
            .remedy("put several connections behind one zone");
    }
    resolved
}

fn isolated(specs: &[ZoneSpec], name: &str) -> bool {
    let spec = specs.iter().find(|spec| spec.name.get_ref() == name);
    spec.and_then(|spec| spec.isolated.as_ref()).is_some_and(|isolated| *isolated.get_ref())
}

/// The connections that a VPN zone names.
fn claim<'a>(
    spec: &'a ZoneSpec,
    names: &[Spanned<String>],
    connections: &BTreeMap<&str, usize>,
    taken: &mut BTreeMap<usize, &'a ZoneSpec>,
    report: &Report,
) -> Vec<usize> {
    let mut behind = Vec::new();
    for name in names {
        let Some(&index) = connections.get(name.get_ref().as_str()) else {
            report
                .error(name.span(), format!("there is no connection \"{}\"", name.get_ref().escape_debug()))
                .expected("expected the name of a connection")
                .remedy(suggestion(name.get_ref(), "connections", connections.keys().copied()));
            continue;
        };
        if let Some(first) = taken.insert(index, spec) {
            report
                .error(name.span(), format!("connection {} is behind a zone already", name.get_ref()))
                .related(first.name.span(), "behind this one")
                .remedy("a connection belongs to one zone; remove it from the other");
            continue;
        }
        behind.push(index);
    }
    behind
}

/// Names the candidate that was probably meant, else all of them.
pub(super) fn suggestion<'c>(word: &str, what: &str, known: impl Iterator<Item = &'c str> + Clone) -> String {
    match nearest(word, known.clone()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None if known.clone().next().is_none() => {
            format!("the file has no {what} yet; add one or remove this name")
        }
        None => format!("{what} here: {}", known.collect::<Vec<_>>().join(", ")),
    }
}
