//! Counters: each written by one worker alone, read by anyone without a lock, who adds up those of several workers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::sa::{PairCounters, SaCounters};

/// One counter with a single writer. A plain load and store: an atomic addition would cost a locked bus cycle for
/// each packet, and there is nobody to race with.
#[derive(Debug, Default)]
pub(crate) struct Cell(AtomicU64);

impl Cell {
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One direction of a pair; the fields are those of [`SaCounters`].
#[derive(Debug, Default)]
pub(crate) struct SaCells {
    pub(crate) packets: Cell,
    pub(crate) bytes: Cell,
    pub(crate) replay: Cell,
    pub(crate) integrity: Cell,
    pub(crate) selector: Cell,
    pub(crate) malformed: Cell,
    pub(crate) expired: Cell,
    pub(crate) unsent: Cell,
}

impl SaCells {
    fn snapshot(&self) -> SaCounters {
        SaCounters {
            packets: self.packets.value(),
            bytes: self.bytes.value(),
            replay: self.replay.value(),
            integrity: self.integrity.value(),
            selector: self.selector.value(),
            malformed: self.malformed.value(),
            expired: self.expired.value(),
            unsent: self.unsent.value(),
        }
    }
}

/// Both directions of a pair. Each direction begins on a cache line of its own.
#[derive(Debug, Default)]
pub(crate) struct PairCells {
    pub(crate) inbound: Aligned<SaCells>,
    pub(crate) outbound: Aligned<SaCells>,
}

/// Keeps what two directions write apart in the cache.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Aligned<T>(pub(crate) T);

impl PairCells {
    pub(crate) fn snapshot(&self) -> PairCounters {
        PairCounters { inbound: self.inbound.0.snapshot(), outbound: self.outbound.0.snapshot() }
    }
}

/// Declares the reasons once: variant and the name under which status and metrics show it.
macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)+) => {
        /// Why the engine dropped a frame. Reasons that can be laid at an SA's door are counted there as well.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DropReason { $($(#[$doc])* $variant),+ }

        impl DropReason {
            /// Every reason.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant),+];

            /// The name in status and metrics.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name),+ }
            }
        }
    };
}

drop_reasons! {
    /// Not a frame the engine takes: ARP, neighbour discovery, a broadcast, an unknown destination address.
    Foreign = "foreign";
    /// Headers that contradict the frame or each other.
    Malformed = "malformed";
    /// Plaintext for a VPN port that has no SA in use.
    NoSa = "no-sa";
    /// ESP with an SPI, or to an address, that belongs to no SA.
    UnknownSpi = "unknown-spi";
    /// ESP in the form (UDP or not) that was not negotiated.
    Encapsulation = "encapsulation";
    /// A sequence number seen before, or older than the window.
    Replay = "replay";
    /// The integrity check failed.
    Integrity = "integrity";
    /// The inner packet is outside the SA's selectors.
    Selector = "selector";
    /// A lifetime or the sequence numbers have ended.
    Expired = "expired";
    /// A dummy packet (RFC 4303 section 2.6): the peer's traffic flow confidentiality, no fault.
    Dummy = "dummy";
    /// Congestion marked on a packet that cannot carry the mark (RFC 6040 section 4.2).
    Congestion = "congestion";
    /// No way towards the peer is known.
    NoPath = "no-path";
    /// Larger than the frame or the device's MTU.
    TooLarge = "too-large";
    /// The device takes no more frames for now.
    RingFull = "ring-full";
}

/// One counter for each reason.
#[derive(Debug, Default)]
pub(crate) struct DropCells([Cell; DropReason::ALL.len()]);

impl DropCells {
    pub(crate) fn count(&self, reason: DropReason) {
        if let Some(cell) = self.0.get(reason as usize) {
            cell.add(1);
        }
    }

    pub(crate) fn snapshot(&self) -> Vec<(DropReason, u64)> {
        DropReason::ALL.iter().zip(&self.0).map(|(&reason, cell)| (reason, cell.value())).collect()
    }
}

/// What one socket has carried.
#[derive(Debug, Default)]
pub(crate) struct SocketCells {
    pub(crate) rx_packets: Cell,
    pub(crate) rx_bytes: Cell,
    pub(crate) tx_packets: Cell,
    pub(crate) tx_bytes: Cell,
    pub(crate) tx_ring_full: Cell,
}

/// One AF_XDP socket, as status and metrics show it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketStatistics {
    /// The device.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// The receive queue.
    pub queue: u32,
    /// Whether the driver works on our memory without copying.
    pub zero_copy: bool,
    /// Frames received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames given to the kernel to send.
    pub tx_packets: u64,
    /// Bytes given to the kernel to send.
    pub tx_bytes: u64,
    /// Frames dropped for want of room in the transmit ring.
    pub tx_ring_full: u64,
    /// Kernel: frames dropped for reasons other than a full ring.
    pub rx_dropped: u64,
    /// Kernel: frames dropped because we did not take them in time.
    pub rx_ring_full: u64,
    /// Kernel: times the fill ring had no frame for it.
    pub rx_fill_ring_empty_descs: u64,
    /// Kernel: times it looked for a frame to send and there was none.
    pub tx_ring_empty_descs: u64,
    /// Kernel: descriptors of ours it refused, on the receive side.
    pub rx_invalid_descs: u64,
    /// Kernel: descriptors of ours it refused, on the transmit side.
    pub tx_invalid_descs: u64,
}

/// The engine's state in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineStatistics {
    /// One entry for each socket.
    pub sockets: Vec<SocketStatistics>,
    /// How many frames were dropped, by reason.
    pub drops: Vec<(DropReason, u64)>,
}
