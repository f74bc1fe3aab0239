//! What an operator can ask: numbers and the state of every IKE SA.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::config::ConnectionName;
use crate::event::{Binding, ChildHandle, FailureKind, IkeHandle, Path};
use crate::virtual_ip::VirtualAddresses;
use crate::wire::id::Identification;
use crate::wire::ts::TrafficSelector;

/// Totals over the whole engine. Counters only grow; the others are the present number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// IKE SAs on which the peer has not authenticated yet, both roles.
    pub half_open: usize,
    /// Established IKE SAs.
    pub established: usize,
    /// IKE SAs that are gone for their user but still answer retransmissions or wait for their DELETE's reply.
    pub retired: usize,
    /// Of those, the ones whose peer has not acknowledged our DELETE yet.
    pub unacknowledged: usize,
    /// Child SA pairs.
    pub children: usize,
    /// Virtual addresses of our pools in use.
    pub virtual_addresses: usize,
    /// Counter: requests for an address that a pool had none for, by pool.
    pub pools_exhausted: BTreeMap<Arc<str>, u64>,
    /// Places held by strangers: half-open IKE SAs that others began, and what is left of failed ones for a while.
    pub strangers: usize,
    /// Inbound SPIs of child SAs in use, those included that are offered and not yet agreed on.
    pub spis: usize,
    /// Counter: datagrams handed in.
    pub datagrams_received: u64,
    /// Counter: datagrams handed out, keepalives and retransmissions included.
    pub datagrams_sent: u64,
    /// Counter: requests sent again because no answer came.
    pub retransmissions: u64,
    /// Counter: requests of the peer answered again from the cache.
    pub responses_repeated: u64,
    /// Counter: cookies demanded (RFC 7296 section 2.6).
    pub cookies_demanded: u64,
    /// Counter: IKE SAs established.
    pub ike_established: u64,
    /// Counter: IKE SAs rekeyed.
    pub ike_rekeyed: u64,
    /// Counter: child SA pairs negotiated, rekeys included.
    pub children_installed: u64,
    /// Counter: failures by kind, those included whose event was held back by the rate limit.
    pub failures: BTreeMap<FailureKind, u64>,
}

/// One IKE SA as an operator sees it.
#[derive(Clone, Debug)]
pub struct IkeStatus {
    /// Its number.
    pub ike: IkeHandle,
    /// Connection; `None` while a responder does not know it yet.
    pub connection: Option<ConnectionName>,
    /// Where it stands.
    pub phase: Phase,
    /// Whether we began it (for the present keys: a rekey by the peer makes us the responder).
    pub initiator: bool,
    /// From and to.
    pub path: Path,
    /// Initiator's SPI, the number whose network order stands on the wire.
    pub spi_i: u64,
    /// Responder's SPI; 0 while unknown.
    pub spi_r: u64,
    /// The algorithms, by the names of the configuration; empty while unknown.
    pub suite: String,
    /// Who the peer proved to be.
    pub remote_id: Option<Identification>,
    /// A NAT is on our side.
    pub nat_local: bool,
    /// A NAT is on the peer's side.
    pub nat_remote: bool,
    /// When the present keys were made, or the attempt began.
    pub created: Instant,
    /// When it will be rekeyed.
    pub rekey_at: Option<Instant>,
    /// When the last authentic message came.
    pub last_heard: Option<Instant>,
    /// An exchange is under way, or something waits to be asked of the peer.
    pub busy: bool,
    /// Virtual addresses on it.
    pub virtual_addresses: VirtualAddresses,
    /// Its child SAs.
    pub children: Vec<ChildStatus>,
}

/// How far an IKE SA has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// IKE_SA_INIT sent, no answer yet.
    Initiating,
    /// Keys agreed, the peer has not proved who it is.
    Authenticating,
    /// Up.
    Established,
}

impl Phase {
    /// The name in status output.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Initiating => "initiating",
            Phase::Authenticating => "authenticating",
            Phase::Established => "established",
        }
    }
}

/// One pair of child SAs.
#[derive(Clone, Debug)]
pub struct ChildStatus {
    /// Its number.
    pub child: ChildHandle,
    /// Name of the [`ChildConfig`](crate::config::ChildConfig).
    pub name: Arc<str>,
    /// SPI we receive on.
    pub spi_in: u32,
    /// SPI we send with.
    pub spi_out: u32,
    /// The algorithms, by the names of the configuration.
    pub suite: String,
    /// Our side's networks, as narrowed.
    pub local: Vec<TrafficSelector>,
    /// The peer's.
    pub remote: Vec<TrafficSelector>,
    /// When it was negotiated.
    pub created: Instant,
    /// When it will be rekeyed.
    pub rekey_at: Instant,
    /// Whether we send with it (the responder of a rekey waits for the peer's first packet).
    pub outbound_active: bool,
    /// What of ours it is for.
    pub binding: Binding,
}
