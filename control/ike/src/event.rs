//! What the engine asks of its caller, and tells it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::config::ConnectionName;
use crate::crypto::suite::EspSuite;
pub use crate::virtual_ip::VirtualAddresses;
use crate::wire::id::Identification;
use crate::wire::ts::TrafficSelector;

/// Where a datagram came from and to. Port 4500 means that the non-ESP marker (RFC 3948 section 2.2) stands on the
/// wire; the caller strips and adds it, the engine never sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Path {
    /// Our address and port.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
}

/// A datagram to send.
#[derive(Clone, Debug)]
pub struct Transmit {
    /// From and to.
    pub path: Path,
    /// The IKE message (without non-ESP marker), or the one byte 0xff of a NAT keepalive, which never gets a marker
    /// (RFC 3948 section 2.3; see [`KEEPALIVE`](crate::nat::KEEPALIVE)).
    pub bytes: Vec<u8>,
}

/// Numbers an IKE SA within one engine for its whole life, rekeying included (a rekey keeps the number).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IkeHandle(pub u64);

/// Numbers a pair of child SAs; a rekey makes a new number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChildHandle(pub u64);

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// An IKE SA is up.
    IkeEstablished(IkeEstablished),
    /// An IKE SA has virtual addresses (RFC 7296 section 2.19). They last as long as it.
    VirtualAddresses {
        /// Which.
        ike: IkeHandle,
        /// Connection.
        connection: ConnectionName,
        /// Ours, the peer's, and name servers.
        addresses: VirtualAddresses,
    },
    /// An IKE SA has new keys.
    IkeRekeyed {
        /// Which.
        ike: IkeHandle,
        /// Connection.
        connection: ConnectionName,
        /// New SPIs, initiator's and responder's, network byte order.
        spi_i: u64,
        /// The responder's.
        spi_r: u64,
    },
    /// An IKE SA is gone and its keys are wiped.
    IkeClosed {
        /// Which.
        ike: IkeHandle,
        /// Connection.
        connection: ConnectionName,
        /// Why.
        reason: CloseReason,
    },
    /// Install both SAs. Inbound at once; outbound becomes the one in use if `activate_outbound`, else at
    /// [`Event::ChildActivateOutbound`].
    ChildInstall(Box<ChildSa>),
    /// From now on use this child's outbound SA (the responder of a rekey, once the peer has shown that it is ready).
    ChildActivateOutbound {
        /// Which.
        child: ChildHandle,
    },
    /// Remove both SAs. The inbound one may linger so that packets under way are not lost.
    ChildRemove {
        /// Which.
        child: ChildHandle,
        /// How long the inbound SA goes on receiving.
        linger: Duration,
        /// Why.
        reason: CloseReason,
    },
    /// Addresses or ports changed, the peer's (NAT, MOBIKE) or our own: all its child SAs use these from now on.
    PathChanged {
        /// Which.
        ike: IkeHandle,
        /// The new path.
        path: Path,
        /// ESP in UDP on this path.
        udp_encapsulation: bool,
    },
    /// Fetch this CRL (an `http:` URL) without following redirects, at most
    /// [`MAX_CRL_BYTES`](crate::crypto::x509::MAX_CRL_BYTES), and hand it to
    /// [`Endpoint::handle_crl`](crate::Endpoint::handle_crl), or say there why it could not be had. The URL stands in a
    /// certificate below a configured CA, whose owner has proved to be it.
    CrlWanted {
        /// Where.
        url: String,
    },
    /// Something went wrong that an operator should know. Never ends an established SA by itself.
    Failure(Failure),
}

/// An IKE SA that is up.
#[derive(Clone, Debug)]
pub struct IkeEstablished {
    /// Its number.
    pub ike: IkeHandle,
    /// Connection.
    pub connection: ConnectionName,
    /// From and to.
    pub path: Path,
    /// Initiator's SPI.
    pub spi_i: u64,
    /// Responder's SPI.
    pub spi_r: u64,
    /// Whether we began it.
    pub initiator: bool,
    /// Who the peer proved to be.
    pub remote_id: Identification,
    /// The algorithms, by the names of the configuration (`aes128gcm16-prfsha256-x25519`).
    pub suite: String,
    /// Whether a NAT is on the way at our side, or at the peer's.
    pub nat_local: bool,
    /// The peer's side.
    pub nat_remote: bool,
}

/// A negotiated pair of child SAs with its keys.
#[derive(Clone)]
pub struct ChildSa {
    /// Its number.
    pub child: ChildHandle,
    /// The IKE SA it belongs to.
    pub ike: IkeHandle,
    /// Connection.
    pub connection: ConnectionName,
    /// Name of the [`ChildConfig`](crate::config::ChildConfig).
    pub name: Arc<str>,
    /// From and to, outside.
    pub path: Path,
    /// ESP in UDP on this path (RFC 3948).
    pub udp_encapsulation: bool,
    /// SPI we receive on (host order of the 32-bit number).
    pub spi_in: u32,
    /// SPI we send with.
    pub spi_out: u32,
    /// Algorithms.
    pub suite: EspSuite,
    /// Inbound keys.
    pub keys_in: ChildKeys,
    /// Outbound keys.
    pub keys_out: ChildKeys,
    /// Our side's networks, as narrowed.
    pub local: Vec<TrafficSelector>,
    /// The peer's.
    pub remote: Vec<TrafficSelector>,
    /// Whether to send with it at once.
    pub activate_outbound: bool,
    /// The pair it replaces.
    pub replaces: Option<ChildHandle>,
    /// What of ours it is for; other pairs of this name carry the rest.
    pub binding: Binding,
    /// When it will be rekeyed.
    pub rekey_at: Instant,
}

impl std::fmt::Debug for ChildSa {
    /// Everything but the keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChildSa")
            .field("child", &self.child)
            .field("connection", &self.connection)
            .field("name", &self.name)
            .field("binding", &self.binding)
            .field("path", &self.path)
            .field("spi_in", &format_args!("{:#010x}", self.spi_in))
            .field("spi_out", &format_args!("{:#010x}", self.spi_out))
            .field("suite", &self.suite)
            .field("local", &self.local)
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}

/// What a pair of child SAs is among those with the same selectors (RFC 9611).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Binding {
    /// The only one, as far as the peer knows.
    #[default]
    Only,
    /// For everything that has none of its own; both sides know that there may be more.
    Fallback,
    /// For one of our resources, by its number from 0 on: a processor, or a thread of the data path.
    Resource(u16),
}

impl Binding {
    /// The number of the resource; `None`: it is for all of them.
    pub fn resource(self) -> Option<u16> {
        match self {
            Binding::Only | Binding::Fallback => None,
            Binding::Resource(number) => Some(number),
        }
    }
}

/// Keys of one direction (RFC 7296 section 2.17): encryption key (with the salt at its end where the algorithm has
/// one, RFC 4106 section 8.1) and integrity key (empty for AEADs).
#[derive(Clone)]
pub struct ChildKeys {
    /// Encryption key and salt.
    pub encryption: Zeroizing<Vec<u8>>,
    /// Integrity key.
    pub integrity: Zeroizing<Vec<u8>>,
}

/// Why something ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// An operator or the configuration asked for it.
    Local,
    /// The peer deleted it.
    Peer,
    /// The peer no longer answers.
    Dead,
    /// Replaced by a rekey, or by a new IKE SA of the same peer.
    Replaced,
    /// It never came up, or broke: a [`Failure`] said why.
    Failed,
}

/// A failure with the one at fault.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The connection, as far as it was known.
    pub connection: Option<ConnectionName>,
    /// With whom.
    pub path: Path,
    /// Which kind, for counters.
    pub kind: FailureKind,
    /// One sentence for an operator: what happened, and where one exists, the remedy.
    pub detail: String,
}

/// Kinds of failures; each is a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FailureKind {
    /// A datagram that is not IKEv2, is truncated or contradicts itself.
    Malformed,
    /// A message for an IKE SA that does not exist.
    UnknownSpi,
    /// Nothing in common in the proposals.
    NoProposalChosen,
    /// No connection fits the peer's address or identity.
    NoConnection,
    /// The peer's proof does not hold (wrong PSK, wrong signature).
    AuthenticationFailed,
    /// The peer's certificate is expired, foreign, or does not carry the identity.
    CertificateRejected,
    /// A CRL could not be fetched, or must not be believed.
    CrlUnavailable,
    /// The selectors have nothing in common.
    TsUnacceptable,
    /// The peer refused with a notify.
    RefusedByPeer,
    /// The peer does not answer.
    Timeout,
    /// Integrity check of an encrypted message failed.
    Integrity,
    /// The peer is connected already, and the configuration keeps its first connection.
    Duplicate,
    /// A bound was reached.
    Overload,
    /// An error of our own or of the caller.
    Internal,
}

impl FailureKind {
    /// Every kind.
    pub const ALL: [FailureKind; 14] = [
        FailureKind::Malformed,
        FailureKind::UnknownSpi,
        FailureKind::NoProposalChosen,
        FailureKind::NoConnection,
        FailureKind::AuthenticationFailed,
        FailureKind::CertificateRejected,
        FailureKind::CrlUnavailable,
        FailureKind::TsUnacceptable,
        FailureKind::RefusedByPeer,
        FailureKind::Timeout,
        FailureKind::Integrity,
        FailureKind::Duplicate,
        FailureKind::Overload,
        FailureKind::Internal,
    ];

    /// The name in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            FailureKind::Malformed => "malformed",
            FailureKind::UnknownSpi => "unknown-spi",
            FailureKind::NoProposalChosen => "no-proposal-chosen",
            FailureKind::NoConnection => "no-connection",
            FailureKind::AuthenticationFailed => "authentication-failed",
            FailureKind::CertificateRejected => "certificate-rejected",
            FailureKind::CrlUnavailable => "crl-unavailable",
            FailureKind::TsUnacceptable => "ts-unacceptable",
            FailureKind::RefusedByPeer => "refused-by-peer",
            FailureKind::Timeout => "timeout",
            FailureKind::Integrity => "integrity",
            FailureKind::Duplicate => "duplicate",
            FailureKind::Overload => "overload",
            FailureKind::Internal => "internal",
        }
    }
}
