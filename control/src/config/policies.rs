//! `[[policy]]`: who may open what towards whom.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use sekisho_abi::map::RULE_IDS_MAX;
use toml::Spanned;

use super::diagnostic::Report;
use super::limit;
use super::name::{GATEWAY, read_name};
use super::numbers::Numbers;
use super::services::{self, Services, TCP, UDP, parse_ports, read_matches};
use super::sets::Sets;
use super::table::Section;
use super::zones::{Zones, suggestion};
use super::{Action, Limit, Match, Policy, Schedule, SynChallenge, ZONE_GATEWAY, ZoneId};
use crate::policy::{self, Rules};

/// As many as have a counter each; half of the numbers, so that those of a changed file can all be new.
const POLICIES_MAX: usize = RULE_IDS_MAX as usize / 2;

/// A policy as the file has it; what needs no zones is resolved already.
pub(super) struct PolicySpec {
    name: Spanned<String>,
    line: usize,
    from: Vec<Spanned<String>>,
    to: Vec<Spanned<String>>,
    /// The traffic between two VPNs is meant.
    relay: bool,
    resolved: Policy,
}

impl PolicySpec {
    pub(super) fn name(&self) -> &str {
        self.name.get_ref()
    }

    /// Where it begins.
    pub(super) fn line(&self) -> usize {
        self.line
    }
}

/// Reads `[services]` and every `[[policy]]`.
pub(super) fn read(
    file: &Section<'_>,
    sets: &mut Sets,
    schedules: &[Schedule],
    report: &Report,
) -> Vec<PolicySpec> {
    let services = services::read(file, report);
    let policies: Vec<PolicySpec> = file
        .array("policy")
        .into_iter()
        .filter_map(|section| read_policy(section, &services, sets, schedules, report))
        .collect();
    if let Some(one_too_many) = policies.get(POLICIES_MAX) {
        report
            .error(one_too_many.name.span(), format!("there are {} policies", policies.len()))
            .expected(format!("the programs' counters hold {POLICIES_MAX}"))
            .remedy("merge policies that say the same of different addresses: name an address set");
    }
    let mut first: HashMap<&str, &PolicySpec> = HashMap::new();
    for policy in &policies {
        if let Some(first) = first.get(policy.name.get_ref().as_str()) {
            report
                .error(policy.name.span(), format!("there are two policies \"{}\"", policy.name.get_ref()))
                .related(first.name.span(), "first here")
                .remedy("give each policy a name of its own: status and logs show it");
            continue;
        }
        first.insert(policy.name.get_ref(), policy);
    }
    policies
}

/// Puts zone numbers for names, and looks at the policies as a whole.
pub(super) fn resolve(
    specs: &[PolicySpec],
    zones: &Zones,
    sets: &Sets,
    numbers: &Numbers,
    report: &Report,
) -> Vec<Policy> {
    let policies: Vec<Policy> = specs
        .iter()
        .map(|spec| {
            let find = |names: &[Spanned<String>]| -> Vec<ZoneId> {
                names.iter().filter_map(|name| zones.find(name, report)).collect()
            };
            let policy = Policy {
                id: numbers.policy(spec.name.get_ref()),
                from: find(&spec.from),
                to: find(&spec.to),
                ..spec.resolved.clone()
            };
            check_zones(spec, &policy, zones, report);
            policy
        })
        .collect();
    if report.failed() {
        return policies;
    }
    warn_unreachable(specs, &policies, sets, report);
    if let Err(error) = policy::compile(&Rules::all(&policies, sets.sets()))
        && let Some(last) = specs.last()
    {
        report
            .error(last.name.span(), error.to_string())
            .remedy("merge policies, address sets or port ranges that say the same");
    }
    policies
}

/// What zones a policy may not bring together.
fn check_zones(spec: &PolicySpec, policy: &Policy, zones: &Zones, report: &Report) {
    let name = spec.name.get_ref();
    if policy.from == [ZONE_GATEWAY] && policy.to == [ZONE_GATEWAY] {
        report
            .error(spec.name.span(), format!("policy \"{name}\" is from and to the gateway itself"))
            .remedy("what stays inside the gateway passes no port; remove the policy");
    }
    if policy.action != Action::Allow {
        return;
    }
    let isolated = |id: &&ZoneId| zones.zone(**id).is_some_and(|zone| zone.isolated);
    let uplink = |id: &&ZoneId| zones.has_uplink(**id);
    for (inside, outside) in [(&policy.from, &policy.to), (&policy.to, &policy.from)] {
        if let (Some(inside), Some(outside)) = (inside.iter().find(isolated), outside.iter().find(uplink)) {
            let of = |id: ZoneId| zones.zone(id).map_or("-", |zone| &zone.name);
            report
                .error(
                    spec.name.span(),
                    format!(
                        "policy \"{name}\" allows traffic between zone {}, which is isolated, and zone {}, which is an \
                         uplink",
                        of(*inside),
                        of(*outside)
                    ),
                )
                .expected("an isolated zone has no traffic with an uplink")
                .remedy("take one of the two zones out of the policy, or `isolated` out of the zone");
        }
    }
    let vpn = |id: &&ZoneId| zones.zone(**id).is_some_and(|zone| zone.vpn);
    if let (Some(from), Some(to)) = (policy.from.iter().find(vpn), policy.to.iter().find(vpn))
        && !spec.relay
    {
        let of = |id: ZoneId| zones.zone(id).map_or("-", |zone| &zone.name);
        report
            .warning(
                spec.name.span(),
                format!("policy \"{name}\" relays from VPN {} to VPN {}", of(*from), of(*to)),
            )
            .expected("traffic from one VPN to another through this gateway")
            .remedy("write `relay = true` if that is meant; else make two policies of it");
    }
}

fn warn_unreachable(specs: &[PolicySpec], policies: &[Policy], sets: &Sets, report: &Report) {
    for unreachable in policy::unreachable(policies, sets.sets()) {
        let Some(spec) = specs.get(unreachable.policy) else { continue };
        let name = spec.name.get_ref();
        let deciders: Vec<_> = unreachable.decided_by.iter().filter_map(|&index| specs.get(index)).collect();
        let Some(first) = deciders.first() else {
            report
                .warning(
                    spec.name.span(),
                    format!("policy \"{name}\" matches nothing: its addresses are an empty set"),
                )
                .remedy("put addresses into the set, or remove the policy");
            continue;
        };
        let names: Vec<_> = deciders.iter().map(|spec| format!("\"{}\"", spec.name.get_ref())).collect();
        let contradicts = deciders.iter().any(|decider| decider.resolved.action != spec.resolved.action);
        let how = if contradicts { "decides otherwise before it" } else { "decides before it" };
        report
            .warning(
                spec.name.span(),
                format!("policy \"{name}\" is never reached: {} {how}", names.join(", ")),
            )
            .related(first.name.span(), "decides before")
            .remedy("the first match wins: move the narrower policy up, or remove it");
    }
}

fn read_policy(
    section: Section<'_>,
    services: &Services,
    sets: &mut Sets,
    schedules: &[Schedule],
    report: &Report,
) -> Option<PolicySpec> {
    let name = match section.string("name") {
        Some(name) => Some(read_name(name, "a policy", report)),
        None if section.has("name") => None,
        None => section.missing("name", "\"print\""),
    };
    let from = read_zones(&section, "from", report);
    let to = read_zones(&section, "to", report);
    let (action, key) = read_action(&section, report);
    let texts = section.strings(key);
    if texts.as_ref().is_some_and(Vec::is_empty) {
        report
            .error(section.key_span(key), format!("`{key}` is empty"))
            .expected(format!("expected at least one of {}", services::EXPECTED))
            .remedy("say what the policy speaks of, or remove it");
    }
    let matches = read_matches(&texts.unwrap_or_default(), services, report);
    let sources = read_addresses(&section, "source", sets, report);
    let destinations = read_addresses(&section, "destination", sets, report);
    let source_ports = read_source_ports(&section, &matches, report);
    let log = section.boolean("log").is_some_and(Spanned::into_inner);
    let relay = section.boolean("relay").is_some_and(Spanned::into_inner);
    let limit = section.parsed("limit", limit::EXPECTED, Limit::parse);
    if let Some(limit) = &limit
        && action == Action::Deny
    {
        report
            .error(limit.span(), "a policy that denies has no limit")
            .expected("a limit says how many new flows are allowed")
            .remedy("remove the limit, or make it a policy that allows");
    }
    let syn_challenge =
        section.parsed("syn_challenge", "\"always\", \"pressure\" or \"never\"", |text| match text {
            "always" => Some(SynChallenge::Always),
            "pressure" => Some(SynChallenge::Pressure),
            "never" => Some(SynChallenge::Never),
            _ => None,
        });
    if let Some(challenge) = &syn_challenge
        && *challenge.get_ref() != SynChallenge::Never
    {
        let has_tcp = matches.iter().any(|matched| matched.protocol().is_none_or(|protocol| protocol == TCP));
        if action == Action::Deny || !has_tcp {
            report
                .error(challenge.span(), "nothing that this policy speaks of can be challenged")
                .expected("a challenge is for TCP that a policy allows")
                .remedy("remove `syn_challenge`, or put it into the policy that allows the service");
        }
    }
    let schedule = section.string("schedule").and_then(|name| find_schedule(&name, schedules, report));
    let line = report.line(section.span().start);
    section.finish();
    let name = name?;
    let resolved = Policy {
        name: name.get_ref().as_str().into(),
        id: 0,
        from: Vec::new(),
        to: Vec::new(),
        sources,
        destinations,
        source_ports,
        matches,
        action,
        log,
        limit: limit.map(Spanned::into_inner),
        syn_challenge: syn_challenge.map(Spanned::into_inner).unwrap_or_default(),
        schedule,
    };
    Some(PolicySpec { name, line, from, to, relay, resolved })
}

/// What a policy does, and the key that says so.
fn read_action(section: &Section<'_>, report: &Report) -> (Action, &'static str) {
    match (section.has("allow"), section.has("deny")) {
        (true, false) => (Action::Allow, "allow"),
        (false, true) => (Action::Deny, "deny"),
        (true, true) => {
            report
                .error(section.key_span("deny"), "a policy allows or denies, not both")
                .related(section.key_span("allow"), "it allows here")
                .remedy("make two policies of it: the first match wins");
            (Action::Deny, "deny")
        }
        (false, false) => {
            let _: Option<()> = section.missing("allow", "[\"tcp/443\"]` or `deny = [\"any\"]");
            (Action::Deny, "deny")
        }
    }
}

/// Address sets and addresses. An empty list is no way to say "any".
fn read_addresses(section: &Section<'_>, key: &'static str, sets: &mut Sets, report: &Report) -> Vec<usize> {
    let Some(texts) = section.strings(key) else { return Vec::new() };
    if texts.is_empty() {
        report
            .error(section.key_span(key), format!("`{key}` is empty"))
            .expected("expected an address set or addresses")
            .remedy(format!("remove `{key}` if any address is meant"));
    }
    sets.resolve(&texts, report)
}

fn read_source_ports(section: &Section<'_>, matches: &[Match], report: &Report) -> Vec<RangeInclusive<u16>> {
    let expected = "a port or a range of ports, as \"123\" or \"1024-65535\"";
    let Some(ports) = section.parsed_list("source_ports", expected, parse_ports) else { return Vec::new() };
    if !matches.iter().all(|m| matches!(m.protocol(), Some(TCP | UDP))) {
        report
            .error(
                section.key_span("source_ports"),
                "`source_ports` in a policy that is not for TCP and UDP alone",
            )
            .expected("other protocols have no ports")
            .remedy("make two policies of it: the first match wins");
    }
    if ports.is_empty() {
        report
            .error(section.key_span("source_ports"), "`source_ports` is empty")
            .expected(format!("expected {expected}"))
            .remedy("remove `source_ports` if any port is meant");
    }
    ports.into_iter().map(Spanned::into_inner).collect()
}

fn find_schedule(name: &Spanned<String>, schedules: &[Schedule], report: &Report) -> Option<usize> {
    let found = schedules.iter().position(|schedule| *schedule.name == **name.get_ref());
    if found.is_none() {
        report
            .error(name.span(), format!("there is no schedule \"{}\"", name.get_ref().escape_debug()))
            .expected("expected the name of a schedule")
            .remedy(suggestion(
                name.get_ref(),
                "schedules",
                schedules.iter().map(|schedule| &*schedule.name),
            ));
    }
    found
}

fn read_zones(section: &Section<'_>, key: &'static str, report: &Report) -> Vec<Spanned<String>> {
    let zones = section.strings(key);
    if !section.has(key) {
        let _: Option<()> = section.missing(key, "\"ZONE\"");
    } else if zones.as_ref().is_some_and(Vec::is_empty) {
        report
            .error(section.key_span(key), format!("`{key}` names no zone"))
            .expected(format!("expected a zone, a list of zones, or \"{GATEWAY}\""))
            .remedy("name the zone, or remove the policy");
    }
    zones.unwrap_or_default()
}
