//! The three arrays as the file has them.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use sekisho_abi::nat::NAT_POOL_MAX;
use toml::Spanned;

use super::address::{address, number, parse_addresses, parse_net, parse_target};
use super::{DestinationSpec, Family, MapSpec, NatSpec, SourceAddress, SourceSpec};
use crate::config::Match;
use crate::config::diagnostic::Report;
use crate::config::services::parse_match;
use crate::config::table::Section;

/// Source ports of translated flows where the file says nothing: those that need no privilege, as routers take.
const PORTS: RangeInclusive<u16> = 1024..=u16::MAX;

/// Reads the three arrays.
pub(in crate::config) fn read(file: &Section<'_>, report: &Report) -> NatSpec {
    let services = named_services(file);
    let Some(nat) = file.section("nat") else { return NatSpec::default() };
    let spec = NatSpec {
        sources: nat.array("source").into_iter().filter_map(|section| read_source(section, report)).collect(),
        destinations: nat
            .array("destination")
            .into_iter()
            .filter_map(|section| read_destination(section, &services, report))
            .collect(),
        maps: nat.array("map").into_iter().filter_map(|section| read_map(section, report)).collect(),
    };
    nat.finish();
    spec
}

fn read_source(section: Section<'_>, report: &Report) -> Option<SourceSpec> {
    let from = zones(&section, "from");
    let to = zones(&section, "to");
    let sources =
        section.parsed_list("source", "a network, as 192.168.4.0/24", parse_net).unwrap_or_default();
    let address = read_source_address(&section, report);
    let ports = section.parsed("ports", "a range of ports, as 1024-65535", |text| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last): (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (first > 0 && first <= last).then_some(first..=last)
    });
    let family = section.parsed("family", "\"ipv4\", \"ipv6\" or \"both\"", |text| match text {
        "ipv4" => Some(Family::V4),
        "ipv6" => Some(Family::V6),
        "both" => Some(Family::Both),
        _ => None,
    });
    if let (Some(family), Some(address)) = (&family, &address)
        && !matches!(address.get_ref(), SourceAddress::Interface)
    {
        report
            .error(family.span(), "`family` goes with `address = \"interface\"` only")
            .remedy("remove it: addresses say of which family they are");
    }
    section.finish();
    Some(SourceSpec {
        from: from?,
        to: to?,
        sources,
        address: address?,
        ports: ports.map_or(PORTS, Spanned::into_inner),
        family: family.map_or(Family::V4, Spanned::into_inner),
    })
}

fn read_source_address(section: &Section<'_>, report: &Report) -> Option<Spanned<SourceAddress>> {
    const EXPECTED: &str = "\"interface\", \"keep\", or addresses, as 203.0.113.10-203.0.113.20";
    let Some(texts) = section.strings("address") else {
        return match section.has("address") {
            true => None,
            false => section.missing("address", "\"interface\""),
        };
    };
    let span = section.key_span("address");
    if let [word] = &texts[..] {
        match word.get_ref().as_str() {
            "interface" => return Some(Spanned::new(word.span(), SourceAddress::Interface)),
            "keep" => return Some(Spanned::new(word.span(), SourceAddress::Keep)),
            _ => {}
        }
    }
    let ranges = section.parsed_list("address", EXPECTED, parse_addresses)?;
    let mut pool: Vec<IpAddr> = Vec::new();
    for range in &ranges {
        let (first, last) = *range.get_ref();
        if number(last) - number(first) >= u128::from(NAT_POOL_MAX) {
            report
                .error(range.span(), format!("{first}-{last} has too many addresses for a pool"))
                .expected(format!("expected at most {NAT_POOL_MAX}"))
                .remedy("name fewer: one address carries more than 60,000 flows to each server");
            return None;
        }
        pool.extend((number(first)..=number(last)).map(|value| address(value, first.is_ipv4())));
    }
    if ranges.len() != texts.len() {
        return None;
    }
    if pool.is_empty() {
        report
            .error(span, "`address` is empty")
            .expected(format!("expected {EXPECTED}"))
            .remedy("write \"interface\" for the address of the port by which a flow leaves");
        return None;
    }
    Some(Spanned::new(span, SourceAddress::Pool(pool)))
}

fn read_destination(
    section: Section<'_>,
    services: &dyn Fn(&str) -> Option<Vec<Match>>,
    report: &Report,
) -> Option<DestinationSpec> {
    let on = zones(&section, "on");
    let addresses = match section.string("address").as_ref().map(Spanned::get_ref).map(String::as_str) {
        Some("interface") => None,
        _ => section
            .parsed_list("address", "\"interface\", or addresses, as 203.0.113.10", |text| text.parse().ok()),
    };
    let names = section.strings("service");
    if names.as_ref().is_none_or(Vec::is_empty) && (names.is_some() || !section.has("service")) {
        let _: Option<()> = section.missing("service", "\"tcp/443\"");
    }
    let mut read = Vec::new();
    for name in names.iter().flatten() {
        match parse_match(name.get_ref()).or_else(|| services(name.get_ref())) {
            Some(matches) => read.push(Spanned::new(name.span(), matches)),
            None => report
                .error(name.span(), format!("there is no service \"{}\"", name.get_ref().escape_debug()))
                .expected("expected any, tcp/443, udp/5000-5010, tcp, icmp/echo, ip/47, or a service")
                .remedy("name what of the address is forwarded, as \"tcp/443\""),
        }
    }
    let to =
        section.parsed("to", "a host, as 192.168.2.10, 192.168.2.10:8443 or [fd00:2::10]:8443", parse_target);
    if to.is_none() && !section.has("to") {
        let _: Option<()> = section.missing("to", "\"192.168.2.10:8443\"");
    }
    let hairpin = section.boolean("hairpin").is_none_or(Spanned::into_inner);
    section.finish();
    Some(DestinationSpec { on: on?, addresses, services: read, to: to?, hairpin })
}

fn read_map(section: Section<'_>, report: &Report) -> Option<MapSpec> {
    let zones = zones(&section, "zone");
    let network = |key| {
        let net = section.parsed(key, "a network, as 192.168.1.0/24", parse_net);
        if net.is_none() && !section.has(key) {
            let _: Option<()> = section.missing(key, "\"192.168.1.0/24\"");
        }
        net
    };
    let (inside, outside) = (network("inside"), network("outside"));
    section.finish();
    let (inside, outside) = (inside?, outside?);
    let (here, there) = (inside.get_ref(), outside.get_ref());
    if here.prefix_len() != there.prefix_len() || here.addr().is_ipv4() != there.addr().is_ipv4() {
        report
            .error(outside.span(), format!("{there} is not of the size and family of {here}"))
            .related(inside.span(), "the inside")
            .expected("each address has one partner")
            .remedy(format!("name a network with /{}", here.prefix_len()));
        return None;
    }
    Some(MapSpec { zones: zones?, inside, outside })
}

/// A key that names zones.
fn zones(section: &Section<'_>, key: &'static str) -> Option<Vec<Spanned<String>>> {
    match section.strings(key) {
        Some(zones) if !zones.is_empty() => Some(zones),
        None if section.has(key) => None,
        _ => section.missing(key, "\"ZONE\""),
    }
}

/// `[services]`, whose mistakes the policies report.
fn named_services(file: &Section<'_>) -> impl Fn(&str) -> Option<Vec<Match>> {
    let entries = file.section("services").map(|section| section.entries()).unwrap_or_default();
    move |wanted| {
        let (_, texts) = entries.iter().find(|(name, _)| name.get_ref() == wanted)?;
        Some(texts.iter().filter_map(|text| parse_match(text.get_ref())).flatten().collect())
    }
}
