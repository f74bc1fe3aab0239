//! How long a connection lives: reauthentication, liveness, idleness, several IKE SAs with one peer, and what one child SA
//! may carry.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Spanned;

use super::Reader;
use crate::config::table::Section;
use crate::config::{DpdAction, Life, Start};
use sekisho_esp::sa::Lifetimes;
use sekisho_ike::config::Uniqueness;

/// Shortest and longest time between two proofs of identity. A shorter one than the lower bound would only ever be under
/// way: an attempt on a bad line takes more than a minute.
const REAUTH: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(30 * 24 * 3600));
/// Shortest and longest time without packets after which a connection is closed. The counters are read once a second.
const IDLE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(7 * 24 * 3600));
const DPD_DEFAULT: Duration = Duration::from_secs(30);
const DPD_MAX: Duration = Duration::from_secs(3600);

/// Fewest packets and bytes of a child SA: with fewer a gateway would do little but rekey. The most are what the file can
/// say.
const PACKETS: RangeInclusive<i64> = 100..=i64::MAX;
const BYTES: RangeInclusive<i64> = 100_000..=i64::MAX;

impl Reader<'_> {
    pub(super) fn life(&self, section: &Section<'_>, start: Start) -> Life {
        let reauth = self.duration_or_never(section, "reauth", REAUTH);
        let idle = self.duration_or_never(section, "idle", IDLE);
        if !idle.is_zero() && start == Start::Always {
            self.report
                .error(
                    section.key_span("idle"),
                    "an idle connection is closed, and this one is to be up always",
                )
                .expected("expected `idle` with `start = \"on-demand\"`, \"manual\" or \"answer\"")
                .remedy("write `start = \"on-demand\"`: the next packet opens it again; or remove `idle`");
        }
        let dpd = self.duration(section, "dpd", DPD_DEFAULT, Duration::ZERO..=DPD_MAX);
        let action = section.parsed("dpd_action", "\"restart\", \"trap\" or \"clear\"", |text| {
            Some(match text {
                "restart" => DpdAction::Restart,
                "trap" => DpdAction::Trap,
                "clear" => DpdAction::Clear,
                _ => return None,
            })
        });
        if let Some(action) = &action
            && start == Start::Answer
            && *action.get_ref() != DpdAction::Clear
        {
            self.report
                .error(action.span(), "a connection that only answers cannot open itself again")
                .expected("expected `dpd_action = \"clear\"`, or none")
                .remedy("remove the line: the peer opens the connection when it is back");
        }
        let default = match start {
            Start::Always | Start::Manual => DpdAction::Restart,
            Start::OnDemand => DpdAction::Trap,
            Start::Answer => DpdAction::Clear,
        };
        let unique = section.parsed("unique", "\"replace\", \"keep\" or \"never\"", |text| {
            Some(match text {
                "replace" => Uniqueness::Replace,
                "keep" => Uniqueness::Keep,
                "never" => Uniqueness::Never,
                _ => return None,
            })
        });
        Life {
            reauth,
            idle,
            dpd,
            dpd_action: action.map_or(default, Spanned::into_inner),
            unique: unique.map(Spanned::into_inner).unwrap_or_default(),
            limits: self.limits(section),
        }
    }

    fn limits(&self, section: &Section<'_>) -> Lifetimes {
        let (soft_packets, hard_packets) = self.limit(section, "rekey_packets", "life_packets", PACKETS);
        let (soft_bytes, hard_bytes) = self.limit(section, "rekey_bytes", "life_bytes", BYTES);
        Lifetimes { soft_packets, soft_bytes, hard_packets, hard_bytes }
    }

    /// A soft and a hard limit. Where only the hard one is given, new keys are asked for at nine tenths of it.
    fn limit(
        &self,
        section: &Section<'_>,
        soft: &'static str,
        hard: &'static str,
        allowed: RangeInclusive<i64>,
    ) -> (Option<u64>, Option<u64>) {
        let read = |key| {
            let read = section.integer(key)?;
            if !allowed.contains(read.get_ref()) {
                self.report
                    .error(read.span(), format!("`{key}` cannot be {}", read.get_ref()))
                    .expected(format!("expected {} or more", allowed.start()))
                    .remedy("remove the line where only time and the sequence numbers shall end an SA");
                return None;
            }
            Some((read.span(), u64::try_from(*read.get_ref()).ok()?))
        };
        match (read(soft), read(hard)) {
            (Some((span, soft_limit)), Some((_, hard_limit))) if soft_limit >= hard_limit => {
                self.report
                    .error(span, format!("the SA would end before `{soft}` has it renewed"))
                    .expected(format!("expected less than `{hard}`, {hard_limit}"))
                    .remedy(format!("nine tenths of it, the default: {}", nine_tenths(hard_limit)));
                (None, None)
            }
            (soft, hard) => {
                let hard = hard.map(|(_, limit)| limit);
                (soft.map(|(_, limit)| limit).or(hard.map(nine_tenths)), hard)
            }
        }
    }

    /// A time between two bounds, or zero where the key is left out or says so.
    fn duration_or_never(
        &self,
        section: &Section<'_>,
        key: &'static str,
        (shortest, longest): (Duration, Duration),
    ) -> Duration {
        let zero = section.string(key).is_some_and(|text| {
            humantime::parse_duration(text.get_ref()).is_ok_and(|duration| duration.is_zero())
        });
        if zero || !section.has(key) {
            return Duration::ZERO;
        }
        self.duration(section, key, Duration::ZERO, shortest..=longest)
    }
}

fn nine_tenths(limit: u64) -> u64 {
    limit - limit / 10
}
