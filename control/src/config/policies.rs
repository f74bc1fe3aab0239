//! `[[policy]]` and `[services]`: who may open what towards whom.

use std::collections::BTreeMap;

use toml::Spanned;

use super::diagnostic::Report;
use super::name::{GATEWAY, read_name};
use super::table::Section;
use super::zones::{Zones, suggestion};
use super::{Action, Match, Policy, ZONE_GATEWAY, ZoneId};
use crate::policy;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// Words that are no names of services.
const WORDS: [(&str, u8); 6] =
    [("tcp", TCP), ("udp", UDP), ("gre", 47), ("esp", 50), ("ah", 51), ("sctp", 132)];

const EXPECTED: &str =
    "any, tcp/443, udp/5000-5010, tcp, icmp/echo, icmp, icmpv4/3/4, icmpv6/128, ip/47, or a service";

/// A policy as the file has it, with what it matches already resolved.
pub(super) struct PolicySpec {
    name: Spanned<String>,
    from: Vec<Spanned<String>>,
    to: Vec<Spanned<String>>,
    matches: Vec<Match>,
    action: Action,
    log: bool,
}

type Services = BTreeMap<String, Vec<Match>>;

/// Reads `[services]` and every `[[policy]]`.
pub(super) fn read(file: &Section<'_>, report: &Report) -> Vec<PolicySpec> {
    let services = read_services(file, report);
    let policies: Vec<PolicySpec> = file
        .array("policy")
        .into_iter()
        .filter_map(|section| read_policy(section, &services, report))
        .collect();
    for (index, policy) in policies.iter().enumerate() {
        let same = |other: &&PolicySpec| other.name.get_ref() == policy.name.get_ref();
        if let Some(first) = policies.iter().take(index).find(same) {
            report
                .error(policy.name.span(), format!("there are two policies \"{}\"", policy.name.get_ref()))
                .related(first.name.span(), "first here")
                .remedy("give each policy a name of its own: status and logs show it");
        }
    }
    policies
}

/// Puts zone numbers for names, and warns of policies that decide nothing.
pub(super) fn resolve(specs: &[PolicySpec], zones: &Zones, report: &Report) -> Vec<Policy> {
    let policies: Vec<Policy> = specs
        .iter()
        .map(|spec| {
            let find = |names: &[Spanned<String>]| -> Vec<ZoneId> {
                names.iter().filter_map(|name| zones.find(name, report)).collect()
            };
            let (from, to) = (find(&spec.from), find(&spec.to));
            if from == [ZONE_GATEWAY] && to == [ZONE_GATEWAY] {
                report
                    .error(
                        spec.name.span(),
                        format!("policy \"{}\" is from and to the gateway itself", spec.name.get_ref()),
                    )
                    .remedy("what stays inside the gateway passes no port; remove the policy");
            }
            Policy {
                name: spec.name.get_ref().as_str().into(),
                from,
                to,
                matches: spec.matches.clone(),
                action: spec.action,
                log: spec.log,
            }
        })
        .collect();
    if report.failed() {
        return policies;
    }
    for unreachable in policy::unreachable(&policies) {
        let Some(spec) = specs.get(unreachable.policy) else { continue };
        let deciders: Vec<_> = unreachable.decided_by.iter().filter_map(|&index| specs.get(index)).collect();
        let names: Vec<_> = deciders.iter().map(|spec| format!("\"{}\"", spec.name.get_ref())).collect();
        let mut warning = report.warning(
            spec.name.span(),
            format!(
                "policy \"{}\" is never reached: {} decides before it",
                spec.name.get_ref(),
                names.join(", ")
            ),
        );
        if let Some(first) = deciders.first() {
            warning = warning.related(first.name.span(), "decides before");
        }
        warning.remedy("the first match wins: move the narrower policy up, or remove it");
    }
    if let Err(error) = policy::compile(&policies)
        && let Some(last) = specs.last()
    {
        report.error(last.name.span(), error.to_string()).remedy("merge policies or simplify port ranges");
    }
    policies
}

fn read_services(file: &Section<'_>, report: &Report) -> Services {
    let Some(section) = file.section("services") else { return Services::new() };
    let mut services = Services::new();
    for (name, texts) in section.entries() {
        let name = read_name(name, "a service", report);
        if parse_match(name.get_ref()).is_some() {
            report
                .error(
                    name.span(),
                    format!("`{}` has a meaning already and cannot name a service", name.get_ref()),
                )
                .remedy("choose another name");
        }
        let mut matches = Vec::new();
        for text in &texts {
            match parse_match(text.get_ref()) {
                Some(parsed) => matches.extend(parsed),
                None => refuse_match(text, &Services::new(), report),
            }
        }
        if texts.is_empty() {
            report
                .error(name.span(), format!("service {} is empty", name.get_ref()))
                .remedy("name at least one protocol and port, as \"tcp/8600\"");
        }
        services.insert(name.into_inner(), matches);
    }
    services
}

fn read_policy(section: Section<'_>, services: &Services, report: &Report) -> Option<PolicySpec> {
    let name = match section.string("name") {
        Some(name) => Some(read_name(name, "a policy", report)),
        None if section.has("name") => None,
        None => section.missing("name", "\"print\""),
    };
    let from = read_zones(&section, "from", report);
    let to = read_zones(&section, "to", report);
    let (action, key) = match (section.has("allow"), section.has("deny")) {
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
    };
    let texts = section.strings(key);
    if texts.as_ref().is_some_and(Vec::is_empty) {
        report
            .error(section.key_span(key), format!("`{key}` is empty"))
            .expected(format!("expected at least one of {EXPECTED}"))
            .remedy("say what the policy speaks of, or remove it");
    }
    let matches = read_matches(&texts.unwrap_or_default(), services, report);
    let log = section.boolean("log").is_some_and(Spanned::into_inner);
    section.finish();
    Some(PolicySpec { name: name?, from, to, matches, action, log })
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

fn read_matches(texts: &[Spanned<String>], services: &Services, report: &Report) -> Vec<Match> {
    let mut matches = Vec::new();
    for text in texts {
        match (parse_match(text.get_ref()), services.get(text.get_ref())) {
            (Some(parsed), _) => matches.extend(parsed),
            (None, Some(service)) => matches.extend_from_slice(service),
            (None, None) => refuse_match(text, services, report),
        }
    }
    matches
}

fn refuse_match(text: &Spanned<String>, services: &Services, report: &Report) {
    let word = text.get_ref();
    let draft = |message: String| report.error(text.span(), message).expected(format!("expected {EXPECTED}"));
    let quoted = word.escape_debug();
    match word.split_once('/') {
        None => {
            let known = services.keys().map(String::as_str);
            draft(format!("there is no service \"{quoted}\"")).remedy(suggestion(word, "services", known));
        }
        Some(("icmp", _)) => draft(format!("\"{quoted}\" is no kind of ICMP message")).remedy(
            "numbers of IPv4 and IPv6 differ: write icmpv4/TYPE, icmpv6/TYPE, or a name both have: icmp/echo",
        ),
        Some(("tcp" | "udp", _)) => draft(format!("\"{quoted}\" is no port or range of ports"))
            .remedy("write a port from 0 to 65535, or FIRST-LAST with FIRST not above LAST"),
        Some(_) => draft(format!("\"{quoted}\" is no protocol and port"))
            .remedy("write PROTOCOL/PORT; protocols without a name go by number, as ip/47"),
    }
}

/// What a word matches; `None`: it is no match but perhaps a service's name.
fn parse_match(word: &str) -> Option<Vec<Match>> {
    let whole = |protocol| Match::Protocol { protocol, ports: 0..=u16::MAX };
    let message = |protocol, kind: u8, code: u8| {
        let number = u16::from_be_bytes([kind, code]);
        Match::Protocol { protocol, ports: number..=number }
    };
    let (protocol, rest) = match word.split_once('/') {
        Some((protocol, rest)) => (protocol, Some(rest)),
        None => (word, None),
    };
    Some(match (protocol, rest) {
        ("any", None) => vec![Match::Any],
        ("icmp", None) => vec![whole(ICMP), whole(ICMPV6)],
        ("icmp", Some("echo")) => vec![message(ICMP, 8, 0), message(ICMPV6, 128, 0)],
        ("icmpv4", None) => vec![whole(ICMP)],
        ("icmpv6", None) => vec![whole(ICMPV6)],
        ("icmpv4", Some(rest)) => vec![parse_icmp(ICMP, rest)?],
        ("icmpv6", Some(rest)) => vec![parse_icmp(ICMPV6, rest)?],
        ("tcp", Some(rest)) => vec![Match::Protocol { protocol: TCP, ports: parse_ports(rest)? }],
        ("udp", Some(rest)) => vec![Match::Protocol { protocol: UDP, ports: parse_ports(rest)? }],
        ("ip", Some(number)) => vec![whole(parse_number(number)?)],
        (word, None) => vec![whole(WORDS.iter().find(|(name, _)| *name == word)?.1)],
        _ => return None,
    })
}

fn parse_ports(text: &str) -> Option<std::ops::RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (parse_number(first)?, parse_number(last)?);
    (first <= last).then_some(first..=last)
}

/// `TYPE` or `TYPE/CODE`.
fn parse_icmp(protocol: u8, text: &str) -> Option<Match> {
    let (kind, codes) = match text.split_once('/') {
        Some((kind, code)) => {
            let code: u8 = parse_number(code)?;
            (parse_number(kind)?, code..=code)
        }
        None => (parse_number(text)?, 0..=u8::MAX),
    };
    let ports = u16::from_be_bytes([kind, *codes.start()])..=u16::from_be_bytes([kind, *codes.end()]);
    Some(Match::Protocol { protocol, ports })
}

/// Digits only: `str::parse` would take `+80` too.
fn parse_number<N: std::str::FromStr>(digits: &str) -> Option<N> {
    digits.chars().all(|c| c.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(protocol: u8, ports: std::ops::RangeInclusive<u16>) -> Option<Vec<Match>> {
        Some(vec![Match::Protocol { protocol, ports }])
    }

    #[test]
    fn matches_read_as_written() {
        assert_eq!(parse_match("any"), Some(vec![Match::Any]));
        assert_eq!(parse_match("tcp/9100"), one(6, 9100..=9100));
        assert_eq!(parse_match("udp/5000-5010"), one(17, 5000..=5010));
        assert_eq!(parse_match("udp"), one(17, 0..=65535));
        assert_eq!(parse_match("icmpv4/3"), one(1, 0x0300..=0x03ff));
        assert_eq!(parse_match("icmpv4/3/4"), one(1, 0x0304..=0x0304));
        assert_eq!(parse_match("icmpv6/128/0"), one(58, 0x8000..=0x8000));
        assert_eq!(parse_match("ip/47"), one(47, 0..=65535));
        assert_eq!(parse_match("esp"), one(50, 0..=65535));
        let echo = parse_match("icmp/echo").unwrap_or_default();
        assert_eq!(echo.len(), 2, "one for each family");
    }

    #[test]
    fn nonsense_is_no_match() {
        for word in [
            "",
            "/",
            "tcp/",
            "tcp/-",
            "tcp/65536",
            "tcp/9-1",
            "tcp/+80",
            "tcp/ 80",
            "icmp/8",
            "ip/256",
            "any/1",
            "esp/1",
            "TCP/80",
        ] {
            assert_eq!(parse_match(word), None, "{word}");
        }
    }
}
