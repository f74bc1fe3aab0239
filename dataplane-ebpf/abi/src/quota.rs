//! Quotas: what one source, one destination and one zone may have of the flow table, and what is known of sources that
//! try doors.
//!
//! Counts lie in arrays that the daemon maps into its memory, so that programs and daemon change them by atomic
//! operations alone: whoever takes a flow out of the table gives back what it was counted as. A flow remembers where it
//! is counted, so nothing is looked up for that.

use crate::pod;

/// Slots in a [`Bucket`]: as many as fit a line of the cache.
pub const SLOTS: usize = 8;

/// A bucket of `QUOTAS`. What is counted of a host has one slot in the bucket that its [`slot`] digest names.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// [`slot`] words, changed by atomic operations.
    pub slots: [u64; SLOTS],
}

/// A slot in one word: who is counted (a digest), half-open flows and flows.
///
/// ```text
///   63        40 39           24 23           0
///  │ tag        │ half-open     │ flows        │
/// ```
pub mod slot {
    /// One flow.
    pub const FLOW: u64 = 1;
    /// One half-open TCP flow.
    pub const HALF_OPEN: u64 = 1 << 24;
    /// The bits of both counts.
    pub const COUNTS: u64 = (1 << 40) - 1;
    /// First bit of the tag.
    pub const TAG_SHIFT: u32 = 40;

    /// Flows in a slot's word.
    #[inline(always)]
    pub const fn flows(word: u64) -> u32 {
        (word & 0xff_ffff) as u32
    }

    /// Half-open flows in a slot's word.
    #[inline(always)]
    pub const fn half_open(word: u64) -> u32 {
        (word >> 24 & 0xffff) as u32
    }

    /// The word with so much less in it, and no count below zero: what is wrong in one must not spoil its neighbour.
    #[inline(always)]
    pub const fn less(word: u64, sub: u64) -> u64 {
        let flows = flows(word).saturating_sub(flows(sub)) as u64;
        let half_open = half_open(word).saturating_sub(half_open(sub)) as u64;
        (word & !COUNTS) | (half_open * HALF_OPEN) | flows
    }
}

/// Most flows that a slot counts.
pub const QUOTA_FLOWS_MAX: u32 = (1 << 24) - 1;
/// Most half-open flows that a quota may allow: below what a slot counts, for CPUs that count at once.
pub const QUOTA_HALF_OPEN_MAX: u32 = 60_000;

/// An entry of `ZONES`, whose index is the zone's number. Changed by atomic operations.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZoneQuota {
    /// Flows that were opened from the zone.
    pub flows: u64,
    /// How many there may be; 0: none, as for a zone that is not configured.
    pub flows_max: u64,
}

/// Bit of [`Flow::half_open`](crate::flow::Flow::half_open): the flow counts as half-open.
pub const IS_HALF_OPEN: u64 = 1 << 32;

/// Quotas in force, a part of [`Config`](crate::map::Config).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    /// Buckets of `QUOTAS` less one: a power of two less one.
    pub bucket_mask: u32,
    /// Flows of one source; not asked of sources at an uplink, which anyone may forge.
    pub flows_per_source: u32,
    /// Half-open TCP flows of one source, likewise.
    pub half_open_per_source: u32,
    /// Half-open TCP flows to one destination.
    pub half_open_per_destination: u32,
    /// Half-open TCP flows to one destination from which on rules with
    /// [`SYN_CHALLENGE_PRESSURE`](crate::rule::rule_flags::SYN_CHALLENGE_PRESSURE) challenge.
    pub pressure_per_destination: u32,
    /// Different refused doors (destination, protocol, port) within the window that make a scan; 0: nobody looks.
    pub scan_doors: u32,
    /// The window, in seconds.
    pub scan_window_s: u32,
    /// [`scan_action`].
    pub scan_action: u32,
    /// How long a source counts as scanning after its last scan, in seconds.
    pub scan_hold_s: u32,
    /// Zero.
    pub reserved: u32,
}

/// Values of [`Quotas::scan_action`].
pub mod scan_action {
    /// An event, no more.
    pub const ALARM: u32 = 0;
    /// New flows of the source are rated.
    pub const LIMIT: u32 = 1;
    /// No new flows of the source.
    pub const BLOCK: u32 = 2;
}

/// Most that [`Quotas::scan_doors`] may be: as many as [`Scanner::doors`] tells apart without doubt.
pub const SCAN_DOORS_MAX: u32 = 128;

/// What is known of a source whose packets are refused. CPUs write it without a lock: a door may be counted twice or
/// missed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scanner {
    /// Doors tried in this window: one bit for each, by a digest.
    pub doors: [u64; 4],
    /// How many bits are set.
    pub count: u64,
    /// When the window began, nanoseconds of CLOCK_MONOTONIC.
    pub since_ns: u64,
    /// Until when the source counts as scanning, nanoseconds of CLOCK_MONOTONIC.
    pub until_ns: u64,
    /// State of the rate of its new flows: see [`Rate`](crate::map::Rate).
    pub next_ns: u64,
}

/// The one entry of `SECRETS`: keys of digests, from the daemon's random numbers. It has no `Debug`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Secrets {
    /// Of slots in `QUOTAS`; as old as that map.
    pub slots: [u64; 2],
    /// Of challenges that are sent now.
    pub challenge: [u64; 2],
    /// Of those that were sent before, whose answers may be on their way.
    pub former_challenge: [u64; 2],
}

pod!(Bucket, ZoneQuota, Quotas, Scanner, Secrets);

/// Bound of a zone's number: one zone for each port at most, and room for those that have gone. Capacity of `ZONES`.
pub const ZONES_MAX: u32 = 2 * crate::map::PORTS_MAX;
/// Sources whose refused doors are remembered; the least recently seen makes room.
pub const SCANNERS_MAX: u32 = 8_192;
/// Sources that have answered a challenge and are remembered; the least recently seen makes room.
pub const PROVEN_MAX: u32 = 65_536;
/// IKE SAs whose messages the programs know.
pub const IKE_SPIS_MAX: u32 = 65_536;

/// Default capacity of `QUOTAS`, for [`FLOWS_MAX`](crate::map::FLOWS_MAX); the daemon sets the one for its table.
pub const BUCKETS_MAX: u32 = buckets(crate::map::FLOWS_MAX);

/// Buckets for a flow table: a flow counts in two slots, and buckets should seldom fill up.
pub const fn buckets(flows_max: u32) -> u32 {
    let slots = flows_max as u64 * 4;
    let buckets = slots.div_ceil(SLOTS as u64).next_power_of_two();
    if buckets > 1 << 24 { 1 << 24 } else { buckets as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_any_size_has_slots_for_its_flows() {
        for flows in [1024, 1025, crate::map::FLOWS_MAX, 16_777_216] {
            let buckets = buckets(flows);
            assert!(buckets.is_power_of_two() && buckets as u64 * SLOTS as u64 >= 4 * u64::from(flows));
        }
    }
}
