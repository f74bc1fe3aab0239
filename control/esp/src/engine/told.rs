//! What the control plane was told, by whichever worker: so that it hears of a thing once.
//!
//! No worker waits here. Where another one is just telling the same, it is told; and an event for which there was no room
//! is told when the next packet shows it again.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant};

use sekisho_abi::map::PORTS_MAX;

use crate::sa::{PortId, SaEvent};

/// Where events go. Never waits: what is not taken is told again when it happens again.
#[derive(Clone, Debug)]
pub(crate) struct Events(SyncSender<SaEvent>);

impl Events {
    pub(crate) fn new(sender: SyncSender<SaEvent>) -> Self {
        Self(sender)
    }

    /// Tells an event once: `told` remembers, unless the queue was full.
    pub(crate) fn once(&self, told: &AtomicBool, event: SaEvent) {
        if !told.load(Relaxed) && !told.swap(true, Relaxed) && !self.tell(event) {
            told.store(false, Relaxed);
        }
    }

    fn tell(&self, event: SaEvent) -> bool {
        !matches!(self.0.try_send(event), Err(TrySendError::Full(_)))
    }
}

/// What was told of a pair.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) first_inbound: AtomicBool,
    pub(crate) soft: AtomicBool,
    pub(crate) hard: AtomicBool,
    pub(crate) remapped: Remapped,
}

impl Told {
    /// Nothing yet of a pair whose peer is expected there.
    pub(crate) fn new(remote: SocketAddr) -> Self {
        Self {
            first_inbound: AtomicBool::new(false),
            soft: AtomicBool::new(false),
            hard: AtomicBool::new(false),
            remapped: Remapped::new(remote),
        }
    }
}

/// What was told in [`SaEvent::Remapped`].
#[derive(Debug)]
pub(crate) struct Remapped {
    /// Something was told: spares the others the look.
    any: AtomicBool,
    /// Locked while a peer is elsewhere than expected, and never waited for.
    state: Mutex<Whereabouts>,
}

#[derive(Debug)]
struct Whereabouts {
    /// Where the control plane expects the peer. A worker that has not heard of a move yet expects it elsewhere.
    expected: SocketAddr,
    told: Option<SocketAddr>,
}

impl Remapped {
    fn new(expected: SocketAddr) -> Self {
        Self { any: AtomicBool::new(false), state: Mutex::new(Whereabouts { expected, told: None }) }
    }

    /// The peer is expected there from now on. Before the workers hear of it.
    pub(crate) fn expect(&self, remote: SocketAddr) {
        // Nobody panics with it in hand.
        let Ok(mut state) = self.state.lock() else { return };
        *state = Whereabouts { expected: remote, told: None };
        self.any.store(false, Relaxed);
    }

    /// The newest packet came from where it should.
    pub(crate) fn is_home(&self) {
        if self.any.load(Relaxed)
            && let Ok(mut state) = self.state.try_lock()
        {
            state.told = None;
            self.any.store(false, Relaxed);
        }
    }

    /// The newest packet came from elsewhere.
    pub(crate) fn is_elsewhere(
        &self,
        remote: SocketAddr,
        same: impl Fn(SocketAddr) -> bool,
        events: &Events,
        spi_in: u32,
    ) {
        let Ok(mut state) = self.state.try_lock() else { return };
        if !same(state.expected)
            && state.told != Some(remote)
            && events.tell(SaEvent::Remapped { spi_in, remote })
        {
            state.told = Some(remote);
            self.any.store(true, Relaxed);
        }
    }
}

/// When an acquire was last told, of each VPN port: milliseconds since the engine began and one more; 0: never.
#[derive(Debug)]
pub(crate) struct Acquires {
    begun: Instant,
    interval: Duration,
    told: Box<[AtomicU64]>,
}

impl Acquires {
    pub(crate) fn new(begun: Instant, interval: Duration) -> Self {
        Self { begun, interval, told: (0..PORTS_MAX).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Tells an acquire, unless one of this port was told within the interval.
    pub(crate) fn tell(&self, port: PortId, now: Instant, events: &Events, event: SaEvent) {
        let Some(told) = self.told.get(usize::from(port)) else { return };
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let last = told.load(Relaxed);
        let this = millis(now.saturating_duration_since(self.begun)).saturating_add(1);
        if last != 0 && this < last.saturating_add(millis(self.interval)) {
            return;
        }
        // Who is the first to say so tells it.
        if told.compare_exchange(last, this, Relaxed, Relaxed).is_ok() && !events.tell(event) {
            told.store(last, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const SPI: u32 = 0x1000;

    #[test]
    fn of_several_workers_one_tells() {
        let (sender, events) = mpsc::sync_channel(8);
        let (tell, told) = (Events::new(sender), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope
                    .spawn(|| (0..1000).for_each(|_| tell.once(&told, SaEvent::SoftExpired { spi_in: SPI })));
            }
        });
        assert_eq!(events.try_iter().count(), 1);
    }

    #[test]
    fn what_there_was_no_room_for_is_told_again() {
        let (sender, events) = mpsc::sync_channel(1);
        let (tell, told) = (Events::new(sender), AtomicBool::new(false));
        let event = |spi_in| SaEvent::HardExpired { spi_in };
        tell.once(&AtomicBool::new(false), event(1));
        tell.once(&told, event(SPI));
        assert_eq!(events.try_iter().collect::<Vec<_>>(), [event(1)]);
        tell.once(&told, event(SPI));
        tell.once(&told, event(SPI));
        assert_eq!(events.try_iter().collect::<Vec<_>>(), [event(SPI)]);
    }

    /// One worker has heard of a move, another has not: neither tells what the control plane knows.
    #[test]
    fn a_move_that_is_known_is_not_told_by_a_worker_that_lags() {
        let (sender, events) = mpsc::sync_channel(8);
        let tell = Events::new(sender);
        let [old, new]: [SocketAddr; 2] =
            ["192.0.2.1:4500", "192.0.2.1:9999"].map(|text| text.parse().unwrap());
        let remapped = Remapped::new(old);
        let elsewhere = || remapped.is_elsewhere(new, |expected| expected == new, &tell, SPI);
        elsewhere();
        elsewhere();
        assert_eq!(events.try_iter().count(), 1);
        remapped.expect(new);
        elsewhere();
        remapped.is_home();
        elsewhere();
        assert_eq!(events.try_iter().count(), 0);
        // Back home and away again is news.
        remapped.expect(old);
        elsewhere();
        remapped.is_home();
        elsewhere();
        assert_eq!(events.try_iter().count(), 2);
    }

    #[test]
    fn acquires_come_at_a_bounded_rate_whoever_tells() {
        let (sender, events) = mpsc::sync_channel(8);
        let tell = Events::new(sender);
        let begun = Instant::now();
        let acquires = Acquires::new(begun, Duration::from_millis(250));
        let acquire = |port, after| {
            let [source, destination] = ["10.1.0.1", "10.2.0.1"].map(|text| text.parse().unwrap());
            let event = SaEvent::Acquire { port, source, destination };
            acquires.tell(port, begun + Duration::from_millis(after), &tell, event);
            events.try_iter().count()
        };
        assert_eq!([acquire(7, 0), acquire(7, 249), acquire(8, 249), acquire(7, 250)], [1, 0, 1, 1]);
        // A worker whose batch began earlier.
        assert_eq!(acquire(7, 240), 0);
    }
}
