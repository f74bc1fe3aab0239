//! What a mutation leaves behind for the caller: events, datagrams, counters.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::config::ConnectionName;
use crate::event::{Event, Failure, FailureKind, Path, Transmit};
use crate::wire::id::is_invisible;

/// What strangers cause is reported once per path in this time.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Paths that may be reported on within one interval: a flood from many addresses must not flood the log.
const REPORT_PATHS: usize = 64;
/// Characters of a failure's detail at most.
const MAX_DETAIL: usize = 1000;

/// Collects outputs until the caller takes them.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pub(crate) events: VecDeque<Event>,
    pub(crate) transmits: VecDeque<Transmit>,
    pub(crate) counters: Counters,
    reported: BTreeMap<(FailureKind, Path), Instant>,
}

/// Counters that only grow; see [`Stats`](crate::status::Stats).
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) datagrams_received: u64,
    pub(crate) datagrams_sent: u64,
    pub(crate) retransmissions: u64,
    pub(crate) responses_repeated: u64,
    pub(crate) cookies_demanded: u64,
    pub(crate) ike_established: u64,
    pub(crate) ike_rekeyed: u64,
    pub(crate) children_installed: u64,
    pub(crate) failures: BTreeMap<FailureKind, u64>,
}

impl Outbox {
    pub(crate) fn event(&mut self, event: Event) {
        self.events.push_back(event);
    }

    pub(crate) fn send(&mut self, path: Path, bytes: Vec<u8>) {
        self.counters.datagrams_sent += 1;
        self.transmits.push_back(Transmit { path, bytes });
    }

    pub(crate) fn send_all(&mut self, path: Path, datagrams: &[Vec<u8>]) {
        for bytes in datagrams {
            self.send(path, bytes.clone());
        }
    }

    /// A failure that a configured or authenticated peer, or we ourselves, brought about.
    pub(crate) fn failure(
        &mut self,
        path: Path,
        connection: Option<&ConnectionName>,
        kind: FailureKind,
        detail: impl Into<String>,
    ) {
        self.count(kind);
        let (connection, detail) = (connection.cloned(), presentable(detail.into()));
        self.event(Event::Failure(Failure { connection, path, kind, detail }));
    }

    /// A failure that anybody can bring about at will: always counted, reported at a bounded rate. Returns whether it
    /// was reported, so that an answer to a stranger can be held to the same rate.
    pub(crate) fn stranger_failure(
        &mut self,
        now: Instant,
        path: Path,
        connection: Option<&ConnectionName>,
        kind: FailureKind,
        detail: impl FnOnce() -> String,
    ) -> bool {
        self.reported.retain(|_, at| now.saturating_duration_since(*at) < REPORT_INTERVAL);
        if self.reported.contains_key(&(kind, path)) || self.reported.len() >= REPORT_PATHS {
            self.count(kind);
            return false;
        }
        self.reported.insert((kind, path), now);
        self.failure(path, connection, kind, detail());
        true
    }

    fn count(&mut self, kind: FailureKind) {
        let counter = self.counters.failures.entry(kind).or_default();
        *counter = counter.saturating_add(1);
    }
}

/// A detail may quote a peer: nothing in it breaks a log's lines or moves a terminal's cursor, and it has an end.
fn presentable(detail: String) -> String {
    let visible = |c: char| if c.is_control() || is_invisible(c) { char::REPLACEMENT_CHARACTER } else { c };
    let mut shown: String = detail.chars().take(MAX_DETAIL).map(visible).collect();
    if detail.chars().nth(MAX_DETAIL).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_counted_always_and_reported_seldom() {
        let now = Instant::now();
        let mut out = Outbox::default();
        let path = |port: u16| Path {
            local: "192.0.2.1:500".parse().expect("address"),
            remote: std::net::SocketAddr::from(([198, 51, 100, 1], port)),
        };
        let mut report = |after: u64, port| {
            let at = now + Duration::from_millis(after);
            out.stranger_failure(at, path(port), None, FailureKind::Malformed, String::new)
        };
        assert!(report(0, 1));
        assert!(!report(999, 1));
        assert!(report(1000, 1));
        assert!(report(1000, 2));
        let flood = (3..10_000).filter(|port| report(1001, *port)).count();
        assert_eq!(flood, REPORT_PATHS - 2);
        assert_eq!(out.counters.failures[&FailureKind::Malformed], 4 + 9_997);
    }

    #[test]
    fn what_a_peer_wrote_neither_breaks_nor_floods_a_log() {
        let mut out = Outbox::default();
        let path = Path {
            local: "192.0.2.1:500".parse().expect("address"),
            remote: "192.0.2.2:500".parse().expect("address"),
        };
        let detail = format!("it says \u{1b}[2J\r\n\u{202e}{}", "\u{3042}".repeat(5000));
        out.failure(path, None, FailureKind::Malformed, detail);
        let Some(Event::Failure(failure)) = out.events.pop_front() else { panic!("a failure") };
        assert!(failure.detail.starts_with("it says \u{fffd}[2J\u{fffd}\u{fffd}\u{fffd}\u{3042}"));
        assert!(failure.detail.ends_with("\u{3042}…"));
        assert_eq!(failure.detail.chars().count(), MAX_DETAIL + 1);
    }
}
