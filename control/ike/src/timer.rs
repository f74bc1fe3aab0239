//! Everything an IKE SA waits for: one enum, one table.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::event::ChildHandle;

/// What becomes due. An IKE SA has at most one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// The outstanding request is sent again, or given up.
    Retransmit,
    /// An unauthenticated error notify is believed, as nothing better came.
    Grace,
    /// A responder's half-open IKE SA is forgotten.
    HalfOpen,
    /// The peer's next additional key exchange has not come.
    FollowUp,
    /// A request refused with TEMPORARY_FAILURE, or a child that could not be negotiated, is tried again.
    Retry,
    /// The peer was silent: is it alive?
    Liveness,
    /// NAT keepalive.
    Keepalive,
    /// The IKE SA is worn out.
    IkeRekey,
    /// The peer must prove again who it is, or we must (RFC 4478).
    Reauth,
    /// The child SAs that should be and are not are asked for again.
    Children,
    /// Child SAs for single resources are to be looked at.
    Resources,
    /// An IKE SA that another has superseded is still there.
    Supersede,
    /// A child SA is worn out.
    ChildRekey(ChildHandle),
    /// CRLs were waited for long enough; or those that an established IKE SA rests on are to be looked at again.
    Revocation,
    /// The peer's DELETE of a superseded IKE SA is answered.
    Parting,
    /// A retired IKE SA is forgotten.
    Forget,
}

/// When each is due.
#[derive(Clone, Debug, Default)]
pub(crate) struct TimerTable(BTreeMap<Timer, Instant>);

impl TimerTable {
    /// Sets or moves a timer.
    pub(crate) fn set(&mut self, timer: Timer, at: Instant) {
        self.0.insert(timer, at);
    }

    /// Stops a timer.
    pub(crate) fn stop(&mut self, timer: Timer) {
        self.0.remove(&timer);
    }

    /// When a timer is due, if it is set.
    pub(crate) fn at(&self, timer: Timer) -> Option<Instant> {
        self.0.get(&timer).copied()
    }

    /// Stops every timer but one.
    pub(crate) fn stop_all_but(&mut self, timer: Timer) {
        self.0.retain(|other, _| *other == timer);
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.values().min().copied()
    }

    /// Takes out the earliest timer that is due at `now`.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Timer> {
        let (timer, _) = self.0.iter().filter(|(_, at)| **at <= now).min_by_key(|(_, at)| **at)?;
        let timer = *timer;
        self.0.remove(&timer);
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn timers_expire_in_the_order_of_their_deadlines() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut table = TimerTable::default();
        table.set(Timer::Retransmit, after(3));
        table.set(Timer::Forget, after(1));
        table.set(Timer::ChildRekey(ChildHandle(1)), after(2));
        table.set(Timer::ChildRekey(ChildHandle(2)), after(9));
        table.set(Timer::Retransmit, after(4));
        table.set(Timer::Liveness, after(1));
        table.stop(Timer::Liveness);
        let mut only = table.clone();
        only.stop_all_but(Timer::Retransmit);
        assert_eq!(only.next(), Some(after(4)));
        assert_eq!(table.next(), Some(after(1)));
        assert_eq!(table.expire(now), None);
        let due: Vec<_> = std::iter::from_fn(|| table.expire(after(5))).collect();
        assert_eq!(due, [Timer::Forget, Timer::ChildRekey(ChildHandle(1)), Timer::Retransmit]);
        assert_eq!(table.next(), Some(after(9)));
    }
}
