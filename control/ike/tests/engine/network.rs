//! What lies between the two: a line with its faults, and a NAT.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use sekisho_ike::event::Transmit;
use sekisho_ike::nat::NAT_PORT;

/// What happens to datagrams on the way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network {
    pub(crate) latency: Duration,
    /// Up to this much more, at random: reorders.
    pub(crate) jitter: Duration,
    pub(crate) loss_percent: u32,
    pub(crate) duplicate_percent: u32,
    /// Longest IP packet in bytes; a longer one would go in IP fragments, and those are dropped.
    pub(crate) mtu: usize,
    /// No new IKE SA can be begun; what is up goes on.
    pub(crate) drop_first_requests: bool,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(20),
            jitter: Duration::ZERO,
            loss_percent: 0,
            duplicate_percent: 0,
            mtu: 65_535,
            drop_first_requests: false,
        }
    }
}

/// In front of A: rewrites source addresses and ports.
pub(crate) struct Nat {
    pub(crate) public: IpAddr,
    /// By inner port.
    mappings: BTreeMap<u16, Mapping>,
    next_port: u16,
    /// A mapping that nothing went through for so long is forgotten, as real devices do.
    pub(crate) timeout: Duration,
}

#[derive(Clone, Copy)]
struct Mapping {
    outer: u16,
    used: Instant,
}

impl Nat {
    pub(crate) fn new(public: IpAddr) -> Self {
        Self { public, mappings: BTreeMap::new(), next_port: 20_000, timeout: Duration::MAX }
    }

    pub(crate) fn outward(&mut self, now: Instant, port: u16) -> SocketAddr {
        self.forget_idle(now);
        let next_port = &mut self.next_port;
        let mapping = self.mappings.entry(port).or_insert_with(|| {
            *next_port += 1;
            Mapping { outer: *next_port, used: now }
        });
        mapping.used = now;
        SocketAddr::new(self.public, mapping.outer)
    }

    pub(crate) fn inward(&mut self, now: Instant, port: u16) -> Option<u16> {
        self.forget_idle(now);
        let (inner, mapping) = self.mappings.iter_mut().find(|(_, mapping)| mapping.outer == port)?;
        mapping.used = now;
        Some(*inner)
    }

    fn forget_idle(&mut self, now: Instant) {
        self.mappings.retain(|_, mapping| now.saturating_duration_since(mapping.used) < self.timeout);
    }

    /// The device restarts: every flow gets another port.
    pub(crate) fn rebind(&mut self) {
        self.mappings.clear();
    }
}

/// Bytes of the IP packet that carries a datagram.
pub(crate) fn ip_length(transmit: &Transmit) -> usize {
    let ip = if transmit.path.remote.is_ipv4() { 20 } else { 40 };
    let marker = if transmit.path.local.port() == NAT_PORT { 4 } else { 0 };
    ip + 8 + marker + transmit.bytes.len()
}
