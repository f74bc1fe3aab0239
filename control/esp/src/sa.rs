//! SAs as the control plane sees them, and the trait behind which both data paths stand.

use std::iter::Sum;
use std::net::{IpAddr, SocketAddr};
use std::ops::{AddAssign, RangeInclusive};
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

/// Transform of an SA (IANA "IKEv2 Transform Type Values").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transform {
    /// ENCR_AES_GCM_16 with a 128-bit key (RFC 4106).
    Aes128Gcm16,
    /// ENCR_AES_GCM_16 with a 256-bit key.
    Aes256Gcm16,
    /// ENCR_CHACHA20_POLY1305 (RFC 7634).
    ChaCha20Poly1305,
    /// ENCR_AES_CBC, 128-bit key, with AUTH_HMAC_SHA2_256_128 (RFC 4868).
    Aes128CbcHmacSha256,
    /// ENCR_AES_CBC, 256-bit key, with AUTH_HMAC_SHA2_256_128.
    Aes256CbcHmacSha256,
    /// ENCR_AES_CBC, 128-bit key, with AUTH_HMAC_SHA2_384_192.
    Aes128CbcHmacSha384,
    /// ENCR_AES_CBC, 256-bit key, with AUTH_HMAC_SHA2_384_192.
    Aes256CbcHmacSha384,
    /// ENCR_AES_CBC, 128-bit key, with AUTH_HMAC_SHA2_512_256.
    Aes128CbcHmacSha512,
    /// ENCR_AES_CBC, 256-bit key, with AUTH_HMAC_SHA2_512_256.
    Aes256CbcHmacSha512,
}

/// Length of the salt at the end of an AEAD's key (RFC 4106 section 8.1, RFC 7634 section 2).
pub(crate) const SALT_BYTES: usize = 4;

impl Transform {
    /// Every transform.
    pub const ALL: [Self; 9] = [
        Self::Aes128Gcm16,
        Self::Aes256Gcm16,
        Self::ChaCha20Poly1305,
        Self::Aes128CbcHmacSha256,
        Self::Aes256CbcHmacSha256,
        Self::Aes128CbcHmacSha384,
        Self::Aes256CbcHmacSha384,
        Self::Aes128CbcHmacSha512,
        Self::Aes256CbcHmacSha512,
    ];

    /// Bytes of encryption key (salt included) and of integrity key (RFC 4868 section 2.1.1: as many as the hash has).
    pub const fn key_bytes(self) -> (usize, usize) {
        match self {
            Self::Aes128Gcm16 => (16 + SALT_BYTES, 0),
            Self::Aes256Gcm16 | Self::ChaCha20Poly1305 => (32 + SALT_BYTES, 0),
            Self::Aes128CbcHmacSha256 => (16, 32),
            Self::Aes256CbcHmacSha256 => (32, 32),
            Self::Aes128CbcHmacSha384 => (16, 48),
            Self::Aes256CbcHmacSha384 => (32, 48),
            Self::Aes128CbcHmacSha512 => (16, 64),
            Self::Aes256CbcHmacSha512 => (32, 64),
        }
    }
}

/// Keys of one direction. Zeroised when dropped, never shown.
#[derive(Clone)]
pub struct Keys {
    /// Encryption key, with the 4-byte salt at its end for GCM and ChaCha20-Poly1305.
    pub encryption: Zeroizing<Vec<u8>>,
    /// Integrity key; empty for AEADs.
    pub integrity: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(…)")
    }
}

/// One traffic selector (RFC 7296 section 3.13.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    /// Addresses, both of one family.
    pub addresses: RangeInclusive<IpAddr>,
    /// IP protocol, 0 for any.
    pub protocol: u8,
    /// Ports (or ICMP type and code), 0..=65535 for any.
    pub ports: RangeInclusive<u16>,
}

/// The outside of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// Our address, and port if ESP goes in UDP.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
    /// ESP in UDP (RFC 3948).
    pub udp_encapsulation: bool,
}

/// When an SA is worn out; `None`: never. A soft limit reports [`SaEvent::SoftExpired`], a hard one stops the SA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetimes {
    /// Packets after which a rekey is asked for.
    pub soft_packets: Option<u64>,
    /// Bytes after which a rekey is asked for.
    pub soft_bytes: Option<u64>,
    /// Packets after which nothing more is sent or received.
    pub hard_packets: Option<u64>,
    /// Bytes after which nothing more is sent or received.
    pub hard_bytes: Option<u64>,
}

/// A VPN port: which tunnel device, zone and policy an SA belongs to (the port id of `sekisho-abi`).
pub type PortId = u16;

/// A pair of SAs to install (tunnel mode).
#[derive(Clone, Debug)]
pub struct SaPair {
    /// VPN port behind the pair.
    pub port: PortId,
    /// What it is for: connection, child and peer. Of the pairs with one name only one is sent with, and one for each
    /// resource.
    pub name: Arc<str>,
    /// The resource of ours that sends with it (RFC 9611): of the engine a worker, by its number modulo their count; of the
    /// kernel a processor. `None`: every one that has none of its own.
    pub resource: Option<u16>,
    /// SPI we receive on, as a number.
    pub spi_in: u32,
    /// SPI we send with, as a number.
    pub spi_out: u32,
    /// Algorithms, the same both ways.
    pub transform: Transform,
    /// Inbound keys.
    pub keys_in: Keys,
    /// Outbound keys.
    pub keys_out: Keys,
    /// Extended sequence numbers (RFC 4303 section 2.2.1).
    pub esn: bool,
    /// Replay window in packets (0: none).
    pub replay_window: u32,
    /// The outside.
    pub outer: Outer,
    /// Networks on our side: source of what is sent, destination of what is received.
    pub local: Vec<Selector>,
    /// The peer's side.
    pub remote: Vec<Selector>,
    /// Lifetimes, both ways.
    pub lifetimes: Lifetimes,
}

/// What an SA has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SaCounters {
    /// Packets.
    pub packets: u64,
    /// Bytes of the inner packets.
    pub bytes: u64,
    /// Inbound: refused as replayed or too old.
    pub replay: u64,
    /// Inbound: integrity check failed.
    pub integrity: u64,
    /// Inbound: inner packet malformed, of a wrong protocol, or outside the selectors. Outbound: outside the selectors.
    pub selector: u64,
    /// Malformed (too short, padding wrong, not tunnel mode).
    pub malformed: u64,
    /// Stopped by a hard lifetime or the end of the sequence numbers.
    pub expired: u64,
    /// Could not be sent: no path, ring full, too large.
    pub unsent: u64,
}

/// Both directions of a pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PairCounters {
    /// Received.
    pub inbound: SaCounters,
    /// Sent.
    pub outbound: SaCounters,
}

impl AddAssign for SaCounters {
    fn add_assign(&mut self, more: Self) {
        // Whoever adds a counter adds it here.
        let Self { packets, bytes, replay, integrity, selector, malformed, expired, unsent } = more;
        self.packets += packets;
        self.bytes += bytes;
        self.replay += replay;
        self.integrity += integrity;
        self.selector += selector;
        self.malformed += malformed;
        self.expired += expired;
        self.unsent += unsent;
    }
}

impl Sum for PairCounters {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), |mut sum, part| {
            sum.inbound += part.inbound;
            sum.outbound += part.outbound;
            sum
        })
    }
}

/// What the data path tells the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SaEvent {
    /// A soft lifetime has passed, or sequence numbers run low: rekey.
    SoftExpired {
        /// The inbound SPI names the pair.
        spi_in: u32,
    },
    /// A hard lifetime has passed or sequence numbers ran out: the SA sends nothing more.
    HardExpired {
        /// The inbound SPI names the pair.
        spi_in: u32,
    },
    /// A packet for this port had no SA: on-demand connections start now.
    Acquire {
        /// VPN port.
        port: PortId,
        /// Inner source.
        source: IpAddr,
        /// Inner destination.
        destination: IpAddr,
    },
    /// The first authentic packet has arrived on a pair whose outbound SA was not yet in use.
    FirstInbound {
        /// The inbound SPI names the pair.
        spi_in: u32,
    },
    /// Authentic ESP came from another address or port than the pair sends to (NAT mapping changed).
    Remapped {
        /// The inbound SPI names the pair.
        spi_in: u32,
        /// Where it came from.
        remote: SocketAddr,
    },
}

/// Why the data path refused.
#[derive(Debug, thiserror::Error)]
pub enum SaError {
    /// An SA with this SPI is there already.
    #[error("an SA with SPI {0:#010x} exists")]
    Exists(u32),
    /// No such pair.
    #[error("no SA with SPI {0:#010x}")]
    Unknown(u32),
    /// The key has the wrong length for the transform.
    #[error("{0:?} needs a key of {1} bytes, not {2}")]
    KeyLength(Transform, usize, usize),
    /// The kernel, or the engine's thread, refused.
    #[error("{context}: {source}")]
    Io {
        /// What was tried, and the remedy.
        context: String,
        /// The error.
        #[source]
        source: std::io::Error,
    },
    /// The data path has stopped.
    #[error("the data path has stopped")]
    Stopped,
}

/// The database of SAs of a data path: the kernel's XFRM or the user-space engine. Calls return once the data path
/// acts by them. The inbound SPI names a pair.
pub trait SaTable: Send + Sync {
    /// Name for status: `kernel` or `engine`.
    fn name(&self) -> &'static str;
    /// Installs both SAs. Inbound works at once; `activate`: outbound too, in place of the port's pair with the same
    /// `name` and `resource`, without a packet lost between.
    fn install(&self, pair: SaPair, activate: bool) -> Result<(), SaError>;
    /// From now on outbound packets use this pair.
    fn activate(&self, spi_in: u32) -> Result<(), SaError>;
    /// Outbound packets go there from now on, and inbound ones are expected from there.
    fn repath(&self, spi_in: u32, outer: Outer) -> Result<(), SaError>;
    /// Removes the pair: outbound at once, inbound after `linger`. Keys are wiped.
    fn remove(&self, spi_in: u32, linger: Duration) -> Result<(), SaError>;
    /// What the pair has done.
    fn counters(&self, spi_in: u32) -> Result<PairCounters, SaError>;
    /// The next event, waiting up to `timeout`; `None` when there was none. For one thread that the caller owns.
    fn next_event(&self, timeout: Duration) -> Option<SaEvent>;
}
