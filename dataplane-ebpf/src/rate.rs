//! A rate limit in one number (GCRA, ITU-T I.371 annex A): the theoretical arrival time of the next packet.

use sekisho_abi::Address;

/// A rate and how far it may be exceeded in a burst.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Nanoseconds between packets at the full rate.
    pub interval_ns: u64,
    /// Nanoseconds by which packets may come early, all together.
    pub burst_ns: u64,
}

/// Packets of one source that would open an IKE SA: 200 a second, 100 at once.
pub const IKE_INITIAL: Limit = Limit { interval_ns: 5_000_000, burst_ns: 500_000_000 };

/// Messages of one source that name no IKE SA of ours: 20 a second, 50 at once. A peer sends some after our restart.
pub const IKE_UNKNOWN: Limit = Limit { interval_ns: 50_000_000, burst_ns: 2_450_000_000 };

/// The same of all sources together: 500 a second, 500 at once.
pub const IKE_UNKNOWN_ALL: Limit = Limit { interval_ns: 2_000_000, burst_ns: 998_000_000 };

/// Fragmented datagrams of one source: 2,000 a second, 500 at once. Identifications of IPv4 last no longer either.
pub const FRAGMENTS: Limit = Limit { interval_ns: 500_000, burst_ns: 250_000_000 };

/// ICMP errors to one host: 100 a second, 100 at once. A path's MTU takes one.
pub const ICMP_ERRORS: Limit = Limit { interval_ns: 10_000_000, burst_ns: 1_000_000_000 };

/// Whose share of what: a host at a port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// An IPv4 address, or an IPv6 /64.
    pub host: Address,
    /// Port id.
    pub port: u16,
    /// [`of`].
    pub of: u16,
}

/// Values of [`Share::of`].
pub mod of {
    /// Fragmented datagrams from the host.
    pub const FRAGMENTS: u16 = 0;
    /// ICMP errors to the host.
    pub const ICMP_ERRORS: u16 = 1;
    /// Doors that the host has tried.
    pub const DOORS: u16 = 2;
    /// IKE messages from the host that name no IKE SA of ours.
    pub const IKE_UNKNOWN: u16 = 3;
}

impl Share {
    /// The share of a host at a port. `version`: of IP.
    #[inline(always)]
    pub const fn new(host: &Address, version: u8, port: u16, of: u16) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = *host;
        let host = if version == 4 { *host } else { [a, b, c, d, e, f, g, h, 0, 0, 0, 0, 0, 0, 0, 0] };
        Self { host, port, of }
    }
}

/// Events of one verdict on one CPU: 10 a second, 10 at once.
pub const EVENTS: Limit = Limit { interval_ns: 100_000_000, burst_ns: 900_000_000 };

/// Traced packets on one CPU: 1,000 a second, 1,000 at once. More than a reader follows, and no flood.
pub const TRACES: Limit = Limit { interval_ns: 1_000_000, burst_ns: 999_000_000 };

impl Limit {
    /// Whether a packet at `now_ns` conforms, and if so the state to keep. `next_ns` is the state so far, zero at
    /// first.
    #[inline(always)]
    pub const fn admit(self, next_ns: u64, now_ns: u64) -> Option<u64> {
        let next_ns = if next_ns > now_ns { next_ns } else { now_ns };
        if next_ns - now_ns > self.burst_ns {
            return None;
        }
        Some(next_ns.wrapping_add(self.interval_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packets admitted out of `count` that come every `gap_ns`.
    fn admitted(limit: Limit, count: u64, gap_ns: u64) -> u64 {
        let mut next = 0;
        let mut passed = 0;
        for packet in 0..count {
            if let Some(state) = limit.admit(next, 1 << 40 | (packet * gap_ns)) {
                next = state;
                passed += 1;
            }
        }
        passed
    }

    #[test]
    fn burst_then_rate() {
        assert_eq!(admitted(EVENTS, 1000, 0), 10, "at once");
        assert_eq!(admitted(IKE_INITIAL, 1000, 0), 101, "at once");
        assert_eq!(admitted(IKE_INITIAL, 1000, 5_000_000), 1000, "at the rate");
        // Ten seconds at four times the rate: the burst and ten seconds' worth.
        let passed = admitted(IKE_INITIAL, 8000, 1_250_000);
        assert!((2099..=2102).contains(&passed), "{passed}");
    }
}
