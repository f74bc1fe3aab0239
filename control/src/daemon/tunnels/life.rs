//! When a connection is opened, given up, tried again and closed for want of packets.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sekisho_ike::Endpoint;
use sekisho_ike::crypto::random::Random as _;
use sekisho_ike::event::CloseReason;

use super::{Tunnel, Tunnels};
use crate::config::{DpdAction, Start};
use crate::daemon::sockets::IKE_PORT;
use crate::daemon::uplinks::Uplinks;

/// First wait before a connection that failed is tried again; doubles up to the last.
pub(super) const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_secs(60);
/// Those who lost a peer come back within this time, evenly: a thousand of them are a hundred handshakes a second, which
/// one core does with ease.
const RESTART_SPREAD: Duration = Duration::from_secs(10);

impl Tunnels {
    /// Looks at what the SAs have carried: a peer whose packets come lives, and a connection without packets may be idle.
    /// To be called every second or so.
    pub(in crate::daemon) fn watch(&mut self, now: Instant, endpoint: &mut Endpoint) {
        let (table, children) = (&self.table, &mut self.children);
        self.connections.change_each(|tunnel| {
            children.note_seen(&tunnel.name, |handle, child| {
                // One that is just being removed carries nothing any more.
                let counters = table.counters(child.spi_in).ok()?;
                let seen = (counters.inbound.packets, counters.outbound.packets);
                if seen.0 != child.seen.0 {
                    let _ = endpoint.child_received(now, handle);
                }
                if seen != child.seen {
                    tunnel.last_packet = now;
                }
                Some(seen)
            });
            if tunnel.is_idle(now) {
                tunnel.close_idle(now, endpoint);
            }
        });
    }
}

impl Tunnel {
    pub(super) fn initiate(&mut self, now: Instant, endpoint: &mut Endpoint, uplinks: &Uplinks) {
        let Some(remote) = self.remote else { return };
        if self.ike.is_some() {
            return;
        }
        let local = uplinks.usable(self.local, self.mobike);
        let (local, remote) = (SocketAddr::new(local, IKE_PORT), SocketAddr::new(remote, IKE_PORT));
        match endpoint.initiate(now, &self.name, local, remote) {
            Ok(ike) => {
                tracing::info!(connection = &*self.name, peer = %remote, "connecting");
                self.ike = Some(ike);
            }
            Err(error) => {
                tracing::error!(connection = &*self.name, %error, "cannot connect");
                self.last_failure = Some(error.to_string());
                self.retry(now);
            }
        }
    }

    pub(super) fn closed(&mut self, now: Instant, reason: CloseReason) {
        self.ike = None;
        // A peer that accepts and then closes is not asked every second for ever.
        if self.up_since.take().is_some_and(|since| now.saturating_duration_since(since) >= RETRY_LAST) {
            self.wait = RETRY_FIRST;
        }
        if reason == CloseReason::Dead {
            self.dead += 1;
        }
        match (reason, self.start) {
            _ if self.held_down => {}
            (CloseReason::Dead, _) => self.given_up(now),
            // The next packet opens it again.
            (reason, Start::OnDemand) if reason != CloseReason::Failed => self.wanted = false,
            _ if self.wanted => self.retry(now),
            _ => {}
        }
    }

    /// The peer is dead.
    fn given_up(&mut self, now: Instant) {
        match self.life.dpd_action {
            // Where a centre fails, all its peers find out at the same time, and must not all be back at the same time.
            DpdAction::Restart if self.wanted => {
                self.next_try = Some(now + self.part_of(RESTART_SPREAD));
            }
            DpdAction::Restart => {}
            DpdAction::Trap => (self.wanted, self.trapped) = (false, true),
            DpdAction::Clear => self.wanted = false,
        }
    }

    /// Tries again after a while that grows, and differs between gateways by half of it in both directions.
    fn retry(&mut self, now: Instant) {
        let wait = self.wait / 2 + self.part_of(self.wait);
        self.next_try = Some(now + wait);
        self.wait = (self.wait * 2).min(RETRY_LAST);
    }

    /// A random part of a time.
    fn part_of(&mut self, time: Duration) -> Duration {
        time / 1000 * (self.jitter.next_u32() % 1000)
    }

    /// How long no packet was seen in it.
    pub(in crate::daemon) fn quiet(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last_packet)
    }

    /// How long until it is tried again.
    pub(in crate::daemon) fn retry_in(&self, now: Instant) -> Option<Duration> {
        self.next_try.map(|at| at.saturating_duration_since(now))
    }

    /// Whether it is up, and has carried nothing for as long as it may.
    fn is_idle(&self, now: Instant) -> bool {
        let quiet = self.quiet(now);
        !self.life.idle.is_zero() && self.ike.is_some() && self.up_since.is_some() && quiet >= self.life.idle
    }

    /// Its keys are wiped with it; the next packet, operator or peer opens it again.
    fn close_idle(&mut self, now: Instant, endpoint: &mut Endpoint) {
        tracing::info!(connection = &*self.name, idle = ?self.life.idle, "no packets: closing the connection");
        self.wanted = false;
        self.idled += 1;
        endpoint.close_connection(now, &self.name);
    }
}

#[cfg(test)]
mod tests {
    use sekisho_ike::event::IkeHandle;

    use super::super::connection::testing;
    use super::*;

    fn tunnel(now: Instant) -> Tunnel {
        with_seed(now, 1)
    }

    fn with_seed(now: Instant, seed: u64) -> Tunnel {
        testing::tunnel("centre", now, seed)
    }

    #[test]
    fn a_peer_that_accepts_and_closes_is_asked_ever_more_rarely() {
        let mut now = Instant::now();
        let mut tunnel = tunnel(now);
        let mut wait_after = |lived: Duration| {
            tunnel.up_since = Some(now);
            now += lived;
            tunnel.closed(now, CloseReason::Peer);
            tunnel.next_try.expect("tries again") - now
        };
        let around = |wait: Duration, seconds: u64| {
            let middle = Duration::from_secs(seconds);
            assert!(wait >= middle / 2 && wait <= middle * 3 / 2, "{wait:?} instead of {middle:?}");
        };
        let soon = Duration::from_millis(10);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            around(wait_after(soon), seconds);
        }
        // One that held is worth a quick return.
        around(wait_after(RETRY_LAST), 1);
    }

    #[test]
    fn a_thousand_clinics_do_not_come_back_at_once() {
        let now = Instant::now();
        let back = |seed| {
            let mut tunnel = with_seed(now, seed);
            tunnel.closed(now, CloseReason::Dead);
            tunnel.next_try.expect("tries again") - now
        };
        let mut seconds = [0; 10];
        for seed in 0..1000 {
            seconds[usize::try_from(back(seed).as_secs()).expect("few")] += 1;
        }
        assert!(seconds.iter().all(|clinics| (60..140).contains(clinics)), "{seconds:?}");
    }

    #[test]
    fn what_becomes_of_a_connection_whose_peer_is_dead_is_configured() {
        let now = Instant::now();
        let dead = |action, wanted| {
            let mut tunnel = tunnel(now);
            (tunnel.next_try, tunnel.wanted, tunnel.life.dpd_action) = (None, wanted, action);
            tunnel.closed(now, CloseReason::Dead);
            assert_eq!(tunnel.dead, 1);
            (tunnel.next_try.is_some(), tunnel.wanted, tunnel.waits())
        };
        assert_eq!(dead(DpdAction::Restart, true), (true, true, false));
        assert_eq!(dead(DpdAction::Restart, false), (false, false, false));
        assert_eq!(dead(DpdAction::Trap, true), (false, false, true));
        assert_eq!(dead(DpdAction::Clear, true), (false, false, false));
    }

    #[test]
    fn a_connection_is_idle_once_no_packet_came_for_so_long() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut tunnel = tunnel(start);
        assert!(!tunnel.is_idle(after(1_000_000)), "never, unless configured");
        tunnel.life.idle = Duration::from_secs(10);
        assert!(!tunnel.is_idle(after(100)), "it is not up");
        tunnel.ike = Some(IkeHandle(1));
        tunnel.up_since = Some(start);
        assert!(!tunnel.is_idle(after(9)) && tunnel.is_idle(after(10)));
        tunnel.last_packet = after(5);
        assert!(!tunnel.is_idle(after(14)) && tunnel.is_idle(after(15)));
    }
}
