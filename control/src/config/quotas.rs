//! `[quotas]`: how much of the flow table one source, one destination or one zone may take.

use toml::Spanned;

use super::diagnostic::Report;
use super::table::Section;
use super::zones::Zones;
use super::{Zone, ZoneId};

/// Fewest flows that a quota may allow: below that, one page of a browser is refused.
const LEAST: u32 = 16;
/// Where pressure begins if the file does not say, in percent of the flow table.
const PRESSURE_DEFAULT: u8 = 75;

/// Quotas of flows. What they allow together may be more than the table holds: they keep one from taking it all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    /// Half-open flows towards one destination.
    pub half_open_per_destination: u32,
    /// Percent of the flow table above which flows without an answer live shorter.
    pub pressure: u8,
    /// By zone, those without entries of their own included; the gateway itself has no quota.
    pub zones: Vec<(ZoneId, ZoneQuota)>,
}

impl Quotas {
    /// Whether anything is another for the zones that both have.
    pub fn differ(&self, other: &Quotas) -> bool {
        let own = |zone: ZoneId| self.zones.iter().find(|(id, _)| *id == zone).map(|(_, quota)| quota);
        self.half_open_per_destination != other.half_open_per_destination
            || self.pressure != other.pressure
            || other.zones.iter().any(|(zone, quota)| own(*zone).is_some_and(|own| own != quota))
    }
}

/// Quotas of the flows opened from one zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZoneQuota {
    /// Flows.
    pub flows: u32,
    /// Flows of one source: an IPv4 address, or an IPv6 network of 64 bits.
    pub flows_per_source: u32,
    /// Half-open flows of one source: TCP before its handshake is done, anything else before its first reply.
    pub half_open_per_source: u32,
}

/// What a section says about zones' quotas.
#[derive(Clone, Copy, Default)]
pub(super) struct ZoneQuotaSpec {
    flows: Option<u32>,
    flows_per_source: Option<u32>,
    half_open_per_source: Option<u32>,
}

/// `[quotas]` as the file has it.
#[derive(Default)]
pub(super) struct QuotasSpec {
    zones: ZoneQuotaSpec,
    half_open_per_destination: Option<u32>,
    pressure: Option<u8>,
}

pub(super) fn read(file: &Section<'_>, report: &Report) -> QuotasSpec {
    let Some(section) = file.section("quotas") else { return QuotasSpec::default() };
    let spec = QuotasSpec {
        zones: ZoneQuotaSpec {
            flows: number(&section, "flows_per_zone", report),
            flows_per_source: number(&section, "flows_per_source", report),
            half_open_per_source: number(&section, "half_open_per_source", report),
        },
        half_open_per_destination: number(&section, "half_open_per_destination", report),
        pressure: section.integer("pressure").and_then(|read| percent(&read, report)),
    };
    section.finish();
    spec
}

/// `quota` of a zone.
pub(super) fn read_zone(zone: &Section<'_>, report: &Report) -> ZoneQuotaSpec {
    let Some(section) = zone.section("quota") else { return ZoneQuotaSpec::default() };
    let spec = ZoneQuotaSpec {
        flows: number(&section, "flows", report),
        flows_per_source: number(&section, "flows_per_source", report),
        half_open_per_source: number(&section, "half_open_per_source", report),
    };
    section.finish();
    spec
}

fn number(section: &Section<'_>, key: &'static str, report: &Report) -> Option<u32> {
    let read = section.integer(key)?;
    let number = u32::try_from(*read.get_ref()).ok().filter(|number| *number >= LEAST);
    if number.is_none() {
        report
            .error(read.span(), format!("`{key}` cannot be {}", read.get_ref()))
            .expected(format!("expected {LEAST} to {}", u32::MAX))
            .remedy("remove the line for the default, a share of `flows_max`");
    }
    number
}

fn percent(read: &Spanned<i64>, report: &Report) -> Option<u8> {
    let percent = u8::try_from(*read.get_ref()).ok().filter(|percent| (10..=100).contains(percent));
    if percent.is_none() {
        report
            .error(read.span(), format!("`pressure` cannot be {}", read.get_ref()))
            .expected("expected 10 to 100, percent of the flow table")
            .remedy(format!("remove the line for the default, {PRESSURE_DEFAULT}"));
    }
    percent
}

/// Puts defaults, shares of the table, where the file says nothing.
pub(super) fn resolve(spec: &QuotasSpec, zones: &Zones, flows_max: u32) -> Quotas {
    let share = |parts: u32| (flows_max / parts).max(LEAST);
    let of = |zone: &Zone| {
        let own = zones.quota(&zone.name);
        let pick = |pick: fn(&ZoneQuotaSpec) -> Option<u32>| own.and_then(pick).or(pick(&spec.zones));
        ZoneQuota {
            flows: pick(|quota| quota.flows).unwrap_or(flows_max - flows_max / 4),
            flows_per_source: pick(|quota| quota.flows_per_source).unwrap_or(share(8)),
            half_open_per_source: pick(|quota| quota.half_open_per_source).unwrap_or(share(32)),
        }
    };
    Quotas {
        half_open_per_destination: spec.half_open_per_destination.unwrap_or(share(8)),
        pressure: spec.pressure.unwrap_or(PRESSURE_DEFAULT),
        zones: zones.zones.iter().map(|zone| (zone.id, of(zone))).collect(),
    }
}
