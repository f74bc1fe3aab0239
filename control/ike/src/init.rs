//! IKE_SA_INIT (RFC 7296 section 1.2): algorithms, key exchange, nonces, NAT detection. Nobody is authenticated yet.

pub(crate) mod initiator;
pub(crate) mod responder;

use crate::config::Connection;
use crate::context::Context;
use crate::crypto::keys::IkeKeys;
use crate::crypto::signature::HASH_ALGORITHMS;
use crate::crypto::suite::Group;
use crate::event::{CloseReason, Event, FailureKind, IkeHandle, Path};
use crate::intermediate::Intermediate;
use crate::nat;
use crate::wire::ke::KeyExchange;
use crate::wire::notify::Notify;
use crate::wire::transform::KeId;
use crate::wire::{HashAlgorithm, NotifyType, Payload};

/// What IKE_SA_INIT leaves for IKE_AUTH to prove, the same on both sides.
pub(crate) struct Agreed {
    pub(crate) keys: IkeKeys,
    /// The request that was answered, as it stood on the wire.
    pub(crate) request: Vec<u8>,
    /// The response to it.
    pub(crate) response: Vec<u8>,
    pub(crate) nonce_i: Vec<u8>,
    pub(crate) nonce_r: Vec<u8>,
    /// The hash algorithms of the peer's RFC 7427 signatures; `None` if it does not know them.
    pub(crate) peer_hashes: Option<Vec<HashAlgorithm>>,
    /// The responder does without a child SA in IKE_AUTH (RFC 6023).
    pub(crate) childless: bool,
    /// The additional key exchanges between IKE_SA_INIT and IKE_AUTH.
    pub(crate) intermediate: Intermediate,
}

/// The notifies of both sides. `force_encapsulation`: the peer shall see a NAT.
fn announcements(
    ctx: &mut Context<'_>,
    spi_i: u64,
    spi_r: u64,
    path: Path,
    force_encapsulation: bool,
) -> Vec<Payload> {
    let mut payloads = nat::announcements(ctx, spi_i, spi_r, path, force_encapsulation).to_vec();
    payloads.extend([
        Payload::Notify(Notify::new(NotifyType::Ikev2FragmentationSupported)),
        Payload::Notify(Notify::from_signature_hashes(&HASH_ALGORITHMS)),
    ]);
    payloads
}

pub(crate) fn ke_payload(group: Group, public: &[u8]) -> Payload {
    Payload::Ke(KeyExchange::new(KeId::from(group.number()), public.to_vec()))
}

/// An attempt has failed before IKE_AUTH. The peer does not believe in the IKE SA yet, so nothing is to be deleted there.
pub(crate) fn fail(
    ctx: &mut Context<'_>,
    ike: IkeHandle,
    connection: &Connection,
    path: Path,
    kind: FailureKind,
    detail: String,
) {
    ctx.out.failure(path, Some(&connection.name), kind, detail);
    let connection = connection.name.clone();
    ctx.out.event(Event::IkeClosed { ike, connection, reason: CloseReason::Failed });
}
