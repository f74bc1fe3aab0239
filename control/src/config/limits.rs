//! `[limits]`: what one source, destination and zone may have of the flow table, and what becomes of those who try doors.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use sekisho_abi::quota::{QUOTA_FLOWS_MAX, QUOTA_HALF_OPEN_MAX, SCAN_DOORS_MAX};
use toml::Spanned;

use super::diagnostic::Report;
use super::table::Section;
use super::zones::Zones;
use super::{Limits, ScanAction, ZoneId};

/// Defaults, as parts of the flow table: a source that has a sixteenth of it is a busy server, and no one zone can take
/// more than half.
const SOURCE_PART: u32 = 16;
const ZONE_PART: u32 = 2;
/// Half-open TCP flows: a browser opens dozens at once, a hospital's server answers within a second.
const HALF_OPEN_PER_SOURCE: u32 = 256;
const HALF_OPEN_PER_DESTINATION: u32 = 1024;
/// Different refused doors within a minute that are no accident: printers and updates look for a few.
const SCAN_DOORS: u32 = 64;
const SCAN_TIME: Duration = Duration::from_secs(60);
/// Fewest doors that make a scan: a host that is set up wrong knocks at some.
const SCAN_DOORS_MIN: u32 = 8;
const SCAN_TIMES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

/// The section as the file has it.
pub(super) struct LimitsSpec {
    limits: Limits,
    /// By name of the zone.
    zones: Vec<(Spanned<String>, u32)>,
}

pub(super) fn read(file: &Section<'_>, flows_max: u32, report: &Report) -> LimitsSpec {
    let mut limits = Limits {
        flows_per_source: flows_max / SOURCE_PART,
        flows_per_zone: flows_max / ZONE_PART,
        zones: BTreeMap::new(),
        half_open_per_source: HALF_OPEN_PER_SOURCE,
        half_open_per_destination: HALF_OPEN_PER_DESTINATION,
        scan: ScanAction::Limit,
        scan_doors: SCAN_DOORS,
        scan_window: SCAN_TIME,
        scan_hold: SCAN_TIME,
    };
    let Some(section) = file.section("limits") else { return LimitsSpec { limits, zones: Vec::new() } };
    let flows = 1..=QUOTA_FLOWS_MAX;
    let half_open = 1..=QUOTA_HALF_OPEN_MAX;
    for (key, place, allowed) in [
        ("flows_per_source", &mut limits.flows_per_source, flows.clone()),
        ("flows_per_zone", &mut limits.flows_per_zone, flows.clone()),
        ("half_open_per_source", &mut limits.half_open_per_source, half_open.clone()),
        ("half_open_per_destination", &mut limits.half_open_per_destination, half_open),
        ("scan_doors", &mut limits.scan_doors, SCAN_DOORS_MIN..=SCAN_DOORS_MAX),
    ] {
        if let Some(read) = section.integer(key) {
            *place = number(key, &read, allowed, *place, report);
        }
    }
    let scan = section.parsed("scan", "\"limit\", \"block\", \"alarm\" or \"off\"", |text| {
        Some(match text {
            "limit" => ScanAction::Limit,
            "block" => ScanAction::Block,
            "alarm" => ScanAction::Alarm,
            "off" => ScanAction::Off,
            _ => return None,
        })
    });
    limits.scan = scan.map_or(limits.scan, Spanned::into_inner);
    for (key, place) in [("scan_window", &mut limits.scan_window), ("scan_hold", &mut limits.scan_hold)] {
        let read = section.parsed(key, "a time of whole seconds from 1s to 1day, as 60s", |text| {
            let time = humantime::parse_duration(text).ok()?;
            (SCAN_TIMES.contains(&time) && time.subsec_nanos() == 0).then_some(time)
        });
        *place = read.map_or(*place, Spanned::into_inner);
    }
    let zones = section.section("zones").map(|zones| {
        let read = zones.integers();
        read.into_iter()
            .map(|(name, flows_max)| {
                let number = number(name.get_ref(), &flows_max, flows.clone(), limits.flows_per_zone, report);
                (name, number)
            })
            .collect()
    });
    section.finish();
    LimitsSpec { limits, zones: zones.unwrap_or_default() }
}

fn number(
    key: &str,
    read: &Spanned<i64>,
    allowed: RangeInclusive<u32>,
    default: u32,
    report: &Report,
) -> u32 {
    let number = u32::try_from(*read.get_ref()).ok().filter(|number| allowed.contains(number));
    number.unwrap_or_else(|| {
        report
            .error(read.span(), format!("`{}` cannot be {}", key.escape_debug(), read.get_ref()))
            .expected(format!("expected {} to {}", allowed.start(), allowed.end()))
            .remedy(format!("remove the line for the default, {default}"));
        default
    })
}

impl LimitsSpec {
    /// Puts zone numbers for names.
    pub(super) fn resolve(self, zones: &Zones, report: &Report) -> Limits {
        let of_zones: BTreeMap<ZoneId, u32> = self
            .zones
            .iter()
            .filter_map(|(name, flows_max)| Some((zones.find(name, report)?, *flows_max)))
            .collect();
        Limits { zones: of_zones, ..self.limits }
    }
}
