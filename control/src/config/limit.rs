//! `limit` of a policy: how many new flows it may open.

/// A rate of new flows, as the programs count it (GCRA).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limit {
    /// Microseconds between two new flows at the full rate.
    pub interval_us: u32,
    /// Microseconds by which new flows may come early, all together.
    pub burst_us: u32,
    /// Whether each source has this rate for itself.
    pub per_source: bool,
}

/// What `limit` may look like.
pub(super) const EXPECTED: &str =
    "a rate of new flows, as \"100/s\", \"100/s per source\" or \"30/min burst 10 per source\"";

/// Highest rate: one a microsecond.
const PER_SECOND_MAX: u64 = 1_000_000;
/// New flows at once where the policy does not say: a second's worth, and never fewer.
const BURST_DEFAULT: u64 = 5;

impl Limit {
    /// Reads `COUNT/UNIT [burst COUNT] [per source]`.
    pub(super) fn parse(text: &str) -> Option<Limit> {
        let mut words = text.split_ascii_whitespace();
        let (count, unit) = words.next()?.split_once('/')?;
        let seconds: u64 = match unit {
            "s" | "second" => 1,
            "min" | "minute" => 60,
            "h" | "hour" => 3600,
            _ => return None,
        };
        let count = number(count)?;
        if count > PER_SECOND_MAX * seconds {
            return None;
        }
        let interval_us = seconds * 1_000_000 / count;
        let mut burst = None;
        let mut per_source = false;
        while let Some(word) = words.next() {
            match word {
                "burst" if burst.is_none() => burst = Some(number(words.next()?)?),
                "per" if !per_source && words.next() == Some("source") => per_source = true,
                _ => return None,
            }
        }
        let burst = burst.unwrap_or_else(|| count.min((count / seconds).max(BURST_DEFAULT)));
        Some(Limit {
            interval_us: u32::try_from(interval_us).ok()?,
            burst_us: u32::try_from((burst - 1).checked_mul(interval_us)?).ok()?,
            per_source,
        })
    }
}

/// A positive number.
fn number(digits: &str) -> Option<u64> {
    if !digits.chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|number| *number > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_read_as_written() {
        let limit = |interval_us, burst_us, per_source| Some(Limit { interval_us, burst_us, per_source });
        assert_eq!(Limit::parse("100/s"), limit(10_000, 990_000, false));
        assert_eq!(Limit::parse("100/s per source"), limit(10_000, 990_000, true));
        assert_eq!(Limit::parse("2/s burst 1"), limit(500_000, 0, false));
        assert_eq!(Limit::parse("30/min burst 10 per source"), limit(2_000_000, 18_000_000, true));
        assert_eq!(Limit::parse("30/min per source burst 10"), limit(2_000_000, 18_000_000, true));
        assert_eq!(Limit::parse("1/h"), limit(3_600_000_000, 0, false));
    }

    #[test]
    fn nonsense_is_no_limit() {
        for text in [
            "",
            "100",
            "0/s",
            "-1/s",
            "+1/s",
            "100/d",
            "100/s per",
            "100/s per host",
            "100/s burst",
            "100/s burst 0",
            "1/h burst 3",
            "2000000/s",
            "100/s per source per source",
            "1/s burst 18446744073709551615",
        ] {
            assert_eq!(Limit::parse(text), None, "{text}");
        }
    }
}
