//! What the engine is started with, what it is told of the network, and why it may refuse to start.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// Most workers. Each has a share of the packet memory, which is bounded for all together, and every command waits for all
/// of them.
pub const WORKERS_MAX: u32 = 16;

/// An Ethernet address in wire order.
pub type MacAddress = [u8; 6];

/// A network device the engine receives from and sends through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index in this network namespace.
    pub ifindex: u32,
    /// Its name, for errors, statistics and logs.
    pub name: String,
    /// Number of receive queues; the engine opens one AF_XDP socket for each.
    pub queues: u32,
    /// Largest IP packet the device sends, in bytes. Longer outer packets are counted as unsent.
    pub mtu: u32,
}

/// How a packet leaves towards a peer: the device, and the Ethernet addresses of the next hop. The control plane
/// finds them by route and neighbour lookup and keeps them up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct L2Path {
    /// Device to leave by: one of [`EngineConfig::outer`].
    pub ifindex: u32,
    /// Source address: the device's own.
    pub source_mac: MacAddress,
    /// Destination address: the next hop's.
    pub destination_mac: MacAddress,
    /// Largest IP packet that gets through to the peer, in bytes, where a router has told so: the device may send larger
    /// ones.
    pub mtu: Option<u32>,
}

/// ESP that came in fragments, put together by somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reassembled {
    /// Sender; port 0 without UDP.
    pub source: SocketAddr,
    /// Our address it came to; port 0 without UDP.
    pub destination: SocketAddr,
    /// ECN field of the outer header.
    pub ecn: u8,
    /// From the SPI on.
    pub esp: Vec<u8>,
}

/// Whether frames are copied between driver and engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XskMode {
    /// Zero-copy where the driver can, copy mode elsewhere; decided for each device.
    #[default]
    Auto,
    /// Copy mode on every device.
    Copy,
}

/// Bytes of a frame where nothing else is asked for.
const FRAME_SIZE: u32 = 2048;
/// Of them what the kernel keeps for itself before a received frame (XDP_PACKET_HEADROOM).
const KERNEL_HEADROOM: u32 = 256;
/// Of an Ethernet header.
const ETHERNET: u32 = 14;
/// Longest IP packet, bytes, that fits a frame of [`EngineConfig::new`], plaintext or ESP. The kernel drops longer ones before the
/// engine could see them.
pub const PACKET_MAX: u16 = (FRAME_SIZE - KERNEL_HEADROOM - ETHERNET) as u16;

/// What an engine works with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// The engine's end of the veth pair on the plaintext side.
    pub inner: Link,
    /// MAC address of the other end of that pair: destination of every decrypted frame.
    pub inner_peer_mac: MacAddress,
    /// Devices from which plaintext comes straight, without the veth pair between: the filter has judged it there. Nothing is
    /// sent by them.
    pub direct: Vec<Link>,
    /// Devices that carry ESP.
    pub outer: Vec<Link>,
    /// Threads among which the queues are dealt out: at most [`WORKERS_MAX`], and as many as the inner device and each outer one
    /// have queues.
    pub workers: u32,
    /// Frames in the packet memory, for all sockets of all workers together.
    pub frames: u32,
    /// Bytes of a frame, kernel headroom of 256 bytes included: 2048 or 4096.
    pub frame_size: u32,
    /// Descriptors of each ring; a power of two.
    pub ring_size: u32,
    /// Copy or zero-copy.
    pub mode: XskMode,
    /// Shortest time between two [`SaEvent::Acquire`](crate::sa::SaEvent::Acquire) of one VPN port.
    pub acquire_interval: Duration,
}

impl EngineConfig {
    /// The defaults: one worker, 16,384 frames of 2048 bytes (32 MiB), rings of 2048 descriptors, one acquire in 250 ms.
    pub fn new(inner: Link, inner_peer_mac: MacAddress, outer: Vec<Link>) -> Self {
        Self {
            inner,
            inner_peer_mac,
            direct: Vec::new(),
            outer,
            workers: 1,
            frames: 16_384,
            frame_size: FRAME_SIZE,
            ring_size: 2048,
            mode: XskMode::Auto,
            acquire_interval: Duration::from_millis(250),
        }
    }
}

/// Why the engine does not start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The configuration contradicts itself.
    #[error("engine configuration: {0}")]
    Config(String),
    /// The kernel has no AF_XDP.
    #[error("this kernel has no AF_XDP sockets: it needs CONFIG_XDP_SOCKETS=y, or use the kernel data path")]
    NoAfXdp(#[source] io::Error),
    /// Not enough rights.
    #[error("{context} is not permitted: run with CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF")]
    Permission {
        /// What was tried.
        context: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The packet memory could not be locked.
    #[error(
        "cannot lock {bytes} bytes of packet memory: raise RLIMIT_MEMLOCK (LimitMEMLOCK=infinity), grant \
         CAP_IPC_LOCK, or configure fewer frames"
    )]
    MemoryLock {
        /// How much was asked for.
        bytes: u64,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The device or the queue is not there.
    #[error(
        "device {device} has no receive queue {queue} or does not exist: check its name and `ethtool -l`"
    )]
    NoDevice {
        /// Its name.
        device: String,
        /// The queue.
        queue: u32,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Another AF_XDP socket holds the queue.
    #[error("queue {queue} of {device} is held by another AF_XDP socket: stop the other user of the device")]
    Busy {
        /// Its name.
        device: String,
        /// The queue.
        queue: u32,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Any other refusal of the kernel.
    #[error("{context}: {source}")]
    Io {
        /// What was tried.
        context: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}
