//! `[services]`, and the notation of what a policy matches: protocols, ports and kinds of ICMP messages.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use toml::Spanned;

use super::Match;
use super::diagnostic::Report;
use super::name::read_name;
use super::table::Section;
use super::zones::suggestion;

const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// Words that are no names of services.
const WORDS: [(&str, u8); 6] =
    [("tcp", TCP), ("udp", UDP), ("gre", 47), ("esp", 50), ("ah", 51), ("sctp", 132)];

pub(super) const EXPECTED: &str =
    "any, tcp/443, udp/5000-5010, tcp, icmp/echo, icmp, icmpv4/3/4, icmpv6/128, ip/47, or a service";

/// What each service stands for.
pub(super) type Services = BTreeMap<String, Vec<Match>>;

/// Reads `[services]`.
pub(super) fn read(file: &Section<'_>, report: &Report) -> Services {
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

/// What a policy's `allow` or `deny` stands for.
pub(super) fn read_matches(texts: &[Spanned<String>], services: &Services, report: &Report) -> Vec<Match> {
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
pub(super) fn parse_match(word: &str) -> Option<Vec<Match>> {
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

/// `PORT` or `FIRST-LAST`.
pub(super) fn parse_ports(text: &str) -> Option<RangeInclusive<u16>> {
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

    fn one(protocol: u8, ports: RangeInclusive<u16>) -> Option<Vec<Match>> {
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
