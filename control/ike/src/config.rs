//! What an administrator decides, as values: the engine never reads a file.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use subtle::ConstantTimeEq;

use crate::crypto::suite::{EspProposal, IkeProposal};
use crate::crypto::{signature::PrivateKey, x509::TrustAnchors};
pub use crate::pool::Pool;
pub use crate::resources::{PerResource, Resources};
pub use crate::unique::Uniqueness;
pub use crate::virtual_ip::{Assigned, Wanted};
use crate::wire::id::{IdPattern, Identification};
use crate::wire::ts::TrafficSelector;

/// Names a configured connection; chosen by the caller, shown in logs.
pub type ConnectionName = Arc<str>;

/// Everything an [`Endpoint`](crate::Endpoint) works from.
#[derive(Clone, Debug, Default)]
pub struct EndpointConfig {
    /// The connections. The responder picks one by addresses and identities.
    pub connections: Vec<Arc<Connection>>,
    /// Virtual addresses to give to peers.
    pub pools: Vec<Pool>,
    /// Retransmission of requests.
    pub retransmit: Retransmit,
    /// Bounds for strangers.
    pub limits: Limits,
    /// What of ours can have a child SA of its own (RFC 9611).
    pub resources: Resources,
}

/// RFC 7296 section 2.4: the requester retransmits, with growing waits.
#[derive(Clone, Copy, Debug)]
pub struct Retransmit {
    /// Wait before the first retransmission.
    pub initial: Duration,
    /// Factor by which each further wait grows, in percent (180: 1.8 times).
    pub growth_percent: u32,
    /// Retransmissions before the peer counts as dead.
    pub tries: u32,
}

impl Default for Retransmit {
    /// 0.5 s growing by 1.8, 7 tries: the peer counts as dead after about 68 s.
    fn default() -> Self {
        Self { initial: Duration::from_millis(500), growth_percent: 180, tries: 7 }
    }
}

/// Bounds of what strangers may cost us, and peers that misuse what they are trusted with.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Half-open IKE SAs in all. One source (an IPv4 address, or an IPv6 /64) gets an eighth of them.
    pub half_open: usize,
    /// Half-open IKE SAs from which on every new one must return a cookie (RFC 7296 section 2.6).
    pub cookie_threshold: usize,
    /// Lifetime of a half-open IKE SA.
    pub half_open_timeout: Duration,
    /// Longest accepted message in bytes.
    pub message_bytes: usize,
    /// IKE SAs that are over and only answer what the peer may repeat; past it the oldest are forgotten early.
    pub retired: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            half_open: 1024,
            cookie_threshold: 32,
            half_open_timeout: Duration::from_secs(30),
            message_bytes: 65_535,
            retired: 8192,
        }
    }
}

/// One configured connection: a peer, how both prove who they are, and what may be carried.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Its name.
    pub name: ConnectionName,
    /// Our address; `None`: any.
    pub local_address: Option<IpAddr>,
    /// The peer's address; `None`: any (the connection then only answers).
    pub remote_address: Option<IpAddr>,
    /// Who we are.
    pub local_id: Identification,
    /// Who the peer must be, or may be.
    pub remote_id: IdPattern,
    /// How we prove it.
    pub local_auth: LocalAuth,
    /// How the peer must.
    pub remote_auth: RemoteAuth,
    /// IKE proposals, best first.
    pub ike_proposals: Vec<IkeProposal>,
    /// The child SAs.
    pub children: Vec<ChildConfig>,
    /// IKE SA is rekeyed after this time (less a random part of up to a tenth).
    pub ike_rekey_after: Duration,
    /// Both prove anew who they are after this time, by a second IKE SA that replaces the first (RFC 7296 section 2.8.3);
    /// zero: never. Whoever began the connection begins this too; the other asks for it (RFC 4478) and closes the IKE SA
    /// when nothing comes of it.
    pub reauth_after: Duration,
    /// What becomes of a second IKE SA with the same peer.
    pub uniqueness: Uniqueness,
    /// Silence after which a liveness check is sent (RFC 7296 section 2.4); zero: never.
    pub dpd_after: Duration,
    /// Act as if behind a NAT, so that ESP always goes in UDP 4500.
    pub force_encapsulation: bool,
    /// Follow changes of addresses on either side (RFC 4555), if the peer does too.
    pub mobike: bool,
    /// What the peer is given that asks for a virtual address; `None`: it gets none.
    pub assigns: Option<Assigned>,
    /// The virtual addresses that we ask the peer for, where we begin.
    pub wants: Wanted,
}

impl Connection {
    /// Whether an IKE SA made under `self` would be the same under `other`. A signature key counts as the same with its
    /// certificates, and trust anchors with their keys. What peers are given may change: addresses that are given stay
    /// theirs while a pool has them.
    pub fn is_same_as(&self, other: &Self) -> bool {
        let Self {
            name,
            local_address,
            remote_address,
            local_id,
            remote_id,
            local_auth,
            remote_auth,
            ike_proposals,
            children,
            ike_rekey_after,
            reauth_after,
            uniqueness,
            dpd_after,
            force_encapsulation,
            mobike,
            assigns: _,
            wants,
        } = self;
        let local_auth = match (local_auth, &other.local_auth) {
            (LocalAuth::Psk(ours), LocalAuth::Psk(theirs)) => ours.is_same_as(theirs),
            (LocalAuth::Signature { chain: ours, .. }, LocalAuth::Signature { chain: theirs, .. }) => {
                ours == theirs
            }
            _ => false,
        };
        let remote_auth = match (remote_auth, &other.remote_auth) {
            (RemoteAuth::Psk(ours), RemoteAuth::Psk(theirs)) => ours.is_same_as(theirs),
            (RemoteAuth::Certificate(ours), RemoteAuth::Certificate(theirs)) => ours.is_same_as(theirs),
            _ => false,
        };
        local_auth
            && remote_auth
            && *name == other.name
            && *local_address == other.local_address
            && *remote_address == other.remote_address
            && *local_id == other.local_id
            && *remote_id == other.remote_id
            && *ike_proposals == other.ike_proposals
            && *children == other.children
            && *ike_rekey_after == other.ike_rekey_after
            && *reauth_after == other.reauth_after
            && *uniqueness == other.uniqueness
            && *dpd_after == other.dpd_after
            && *force_encapsulation == other.force_encapsulation
            && *mobike == other.mobike
            && *wants == other.wants
    }
}

/// How we prove who we are.
#[derive(Clone, Debug)]
pub enum LocalAuth {
    /// Pre-shared key.
    Psk(Psk),
    /// Signature (RFC 7427, or RSA/ECDSA of RFC 7296/4754 where the peer knows no RFC 7427).
    Signature {
        /// End-entity certificate first, then intermediates, DER.
        chain: Vec<Arc<[u8]>>,
        /// Its key.
        key: Arc<PrivateKey>,
    },
}

/// How the peer must prove who it is.
#[derive(Clone, Debug)]
pub enum RemoteAuth {
    /// Pre-shared key.
    Psk(Psk),
    /// A certificate with the peer's identity below one of these anchors.
    Certificate(Arc<TrustAnchors>),
}

/// A pre-shared key. Zeroised when dropped, never shown.
#[derive(Clone)]
pub struct Psk(pub(crate) Arc<zeroize::Zeroizing<Vec<u8>>>);

impl Psk {
    /// Takes the key's bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(zeroize::Zeroizing::new(bytes)))
    }

    fn is_same_as(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl std::fmt::Debug for Psk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Psk(…)")
    }
}

/// One child SA of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildConfig {
    /// Its name within the connection.
    pub name: Arc<str>,
    /// Networks on our side.
    pub local: Vec<TrafficSelector>,
    /// Networks on the peer's side.
    pub remote: Vec<TrafficSelector>,
    /// On our side, also our virtual addresses; our outer address where we have none.
    pub local_dynamic: bool,
    /// On the peer's side, also its virtual addresses; its outer address where it has none.
    pub remote_dynamic: bool,
    /// ESP proposals, best first.
    pub esp_proposals: Vec<EspProposal>,
    /// Child SA is rekeyed after this time (less a random part of up to a tenth).
    pub rekey_after: Duration,
    /// Child SAs for single resources beside it (RFC 9611), with a peer that knows of them.
    pub per_resource: PerResource,
}
