//! Policies in their notation: services, zones, and what is allowed or denied between them.
//!
//! Asserts: the trie that the programs look packets up in says what the administrator's list says, for packets at and
//! around every border that the list names; a policy said to be unreachable decides none of them.
#![no_main]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::time::SystemTime;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use sekisho::config::{Action, Loaded, Match, Policy, check};
use sekisho::policy::{RuleSet, Rules, compile, unreachable};
use sekisho_abi::rule::{ListKey, Rule, RuleKey, action, rule_flags};

/// More says nothing new, and takes long to look at.
const POLICIES: usize = 8;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    service: Vec<Notation<'a>>,
    policies: Vec<Written<'a>>,
}

#[derive(Arbitrary, Debug)]
struct Written<'a> {
    from: u8,
    to: u8,
    allow: bool,
    log: bool,
    matches: Vec<Notation<'a>>,
}

/// One of `allow` or `deny`.
#[derive(Arbitrary, Debug)]
enum Notation<'a> {
    Any,
    Protocol(Name),
    Port(Name, u16),
    Ports(Name, u16, u8),
    Number(u8),
    Echo,
    Icmp(u8, u8),
    Service,
    Text(&'a str),
}

#[derive(Arbitrary, Debug)]
enum Name {
    Tcp,
    Udp,
}

fuzz_target!(|input: Input<'_>| {
    let Ok(Loaded { config, .. }) =
        check(Path::new("/nowhere/gateway.toml"), &text(&input), SystemTime::UNIX_EPOCH)
    else {
        return;
    };
    let Ok(set) = compile(&Rules::all(&config.policies, &config.sets)) else { return };
    let idle: BTreeSet<_> =
        unreachable(&config.policies, &config.sets).into_iter().map(|found| found.policy).collect();
    let zones: Vec<_> = (0..=config.zones.len()).filter_map(|zone| u16::try_from(zone).ok()).collect();
    for (protocol, port) in borders(&config.policies) {
        for &from in &zones {
            for &to in &zones {
                let decider = first_match(&config.policies, from, to, protocol, port);
                let rule = lookup(&set, from, to, protocol, port);
                assert!(decider.is_none_or(|index| !idle.contains(&index)), "{decider:?} is reached");
                let policy = decider.and_then(|index| config.policies.get(index));
                let allowed = policy.is_some_and(|policy| policy.action == Action::Allow);
                let logged = policy.is_some_and(|policy| policy.log);
                assert_eq!(
                    rule.action == action::ALLOW,
                    allowed,
                    "{from}→{to} {protocol}/{port}: {decider:?}"
                );
                assert_eq!(rule.flags & rule_flags::LOG != 0, logged, "{from}→{to} {protocol}/{port}");
                if let Some(index) = decider.filter(|_| allowed || logged) {
                    assert_eq!(rule.order as usize, index + 1);
                }
            }
        }
    }
});

/// A gateway with three ports and these policies.
fn text(input: &Input<'_>) -> String {
    let mut text = String::from("[gateway]\nname = \"fuzz\"\n");
    for port in 1..=3 {
        let _ = write!(
            text,
            "[ports.lan{port}]\ninterface = \"lan{port}\"\naddresses = [\"10.0.{port}.1/24\"]\n"
        );
    }
    if !input.service.is_empty() {
        let _ = writeln!(text, "[services]\nown = {}", list(&input.service));
    }
    for (number, policy) in input.policies.iter().take(POLICIES).enumerate() {
        let verb = if policy.allow { "allow" } else { "deny" };
        let _ = write!(
            text,
            "[[policy]]\nname = \"p{number}\"\nfrom = {}\nto = {}\n{verb} = {}\nlog = {}\n",
            zones(policy.from),
            zones(policy.to),
            list(&policy.matches),
            policy.log
        );
    }
    text
}

fn zones(bits: u8) -> String {
    let names = ["gateway", "lan1", "lan2", "lan3"];
    let chosen = names.iter().enumerate().filter(|(bit, _)| bits & (1 << bit) != 0);
    format!("[{}]", chosen.map(|(_, name)| format!("\"{name}\"")).collect::<Vec<_>>().join(", "))
}

fn list(notations: &[Notation<'_>]) -> String {
    let words = notations.iter().take(POLICIES).map(|notation| {
        let word = match notation {
            Notation::Any => "any".to_owned(),
            Notation::Protocol(name) => name.word().to_owned(),
            Notation::Port(name, port) => format!("{}/{port}", name.word()),
            Notation::Ports(name, port, more) => {
                format!("{}/{port}-{}", name.word(), port.saturating_add((*more).into()))
            }
            Notation::Number(number) => format!("ip/{number}"),
            Notation::Echo => "icmp/echo".to_owned(),
            Notation::Icmp(kind, code) => format!("icmpv4/{kind}/{code}"),
            Notation::Service => "own".to_owned(),
            Notation::Text(text) => (*text).to_owned(),
        };
        toml::Value::String(word).to_string()
    });
    format!("[{}]", words.collect::<Vec<_>>().join(", "))
}

impl Name {
    const fn word(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Protocols and ports at which an outcome may change.
fn borders(policies: &[Policy]) -> BTreeSet<(u8, u16)> {
    let mut borders = BTreeSet::from([(0, 0), (6, 0), (6, 65535), (17, 53), (255, 0)]);
    for matched in policies.iter().flat_map(|policy| &policy.matches) {
        if let Match::Protocol { protocol, ports } = matched {
            let (first, last) = (*ports.start(), *ports.end());
            for port in [first, last, first.saturating_sub(1), last.saturating_add(1), first.midpoint(last)] {
                borders.insert((*protocol, port));
            }
        }
    }
    borders
}

/// What the administrator meant.
fn first_match(policies: &[Policy], from: u16, to: u16, protocol: u8, port: u16) -> Option<usize> {
    policies.iter().position(|policy| {
        policy.from.contains(&from)
            && policy.to.contains(&to)
            && policy.matches.iter().any(|matched| match matched {
                Match::Any => true,
                Match::Protocol { protocol: of, ports } => *of == protocol && ports.contains(&port),
            })
    })
}

/// What the programs do where no policy names addresses: the list between the zones, and the longest prefix in it.
fn lookup(set: &RuleSet, from: u16, to: u16, protocol: u8, port: u16) -> Rule {
    let between = ListKey { from, to, ..ListKey::default() };
    let Some((_, list)) = set.lists(0).find(|(key, _)| *key == between) else { return Rule::NONE };
    let asked = bits(&RuleKey {
        list_be: list.list.to_be_bytes(),
        protocol,
        port_be: port.to_be_bytes(),
        ..RuleKey::default()
    });
    let covering = set.rules(0).filter(|(length, key, _)| (bits(key) ^ asked).leading_zeros() >= *length);
    covering.max_by_key(|(length, ..)| *length).map_or(Rule::NONE, |(.., rule)| rule)
}

/// As the trie compares them, from the first byte on.
fn bits(key: &RuleKey) -> u128 {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&key.generation_be);
    bytes[4..8].copy_from_slice(&key.list_be);
    bytes[8] = key.protocol;
    bytes[9] = key.source_port_class;
    bytes[10..12].copy_from_slice(&key.port_be);
    u128::from_be_bytes(bytes)
}
