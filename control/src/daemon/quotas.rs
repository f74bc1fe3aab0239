//! `[limits]` as the programs know them.

use std::time::Duration;

use sekisho_abi::quota::{Quotas, buckets, scan_action};

use crate::config::{Config, Limits, ScanAction};

/// Policies that challenge under pressure begin to where a destination has one part in so many of its quota of half-open
/// flows: early enough that its quota is never reached by who does not answer.
const CHALLENGED_PART: u32 = 4;

/// The quotas as the programs know them.
pub(super) fn quotas(config: &Config) -> Quotas {
    let Limits { scan, scan_window, scan_hold, .. } = &config.limits;
    let seconds = |time: &Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    Quotas {
        bucket_mask: buckets(config.gateway.flows_max) - 1,
        flows_per_source: config.limits.flows_per_source,
        half_open_per_source: config.limits.half_open_per_source,
        half_open_per_destination: config.limits.half_open_per_destination,
        pressure_per_destination: config.limits.half_open_per_destination.div_ceil(CHALLENGED_PART),
        scan_doors: if *scan == ScanAction::Off { 0 } else { config.limits.scan_doors },
        scan_window_s: seconds(scan_window),
        scan_action: match scan {
            ScanAction::Off | ScanAction::Alarm => scan_action::ALARM,
            ScanAction::Limit => scan_action::LIMIT,
            ScanAction::Block => scan_action::BLOCK,
        },
        scan_hold_s: seconds(scan_hold),
        reserved: 0,
    }
}
