//! IKE_AUTH (RFC 7296 sections 1.2 and 2.15): both sides prove who they are, and the first child SA comes along.

pub(crate) mod initiator;
pub(crate) mod responder;

use std::sync::Arc;

use crate::channel::Message;
use crate::config::{Connection, LocalAuth, RemoteAuth};
use crate::content::Content;
use crate::context::Context;
use crate::crypto::keys;
use crate::crypto::signature::{SignatureError, sign_auth, verify_auth};
use crate::crypto::suite::Prf;
use crate::crypto::x509::{CertificateError, MAX_CHAIN, TrustAnchors, VerifiedCertificate, verify_path};
use crate::event::FailureKind;
use crate::init::Agreed;
use crate::wire::auth::Authentication;
use crate::wire::cert::{AUTHORITY_LEN, Certificate, CertificateRequest, MAX_AUTHORITIES};
use crate::wire::id::IdPayload;
use crate::wire::{AuthMethod, Payload};

/// A proof that does not hold, for the operator's eyes: the peer only learns that it failed.
#[derive(Debug)]
pub(crate) struct AuthFault {
    pub(crate) kind: FailureKind,
    pub(crate) detail: String,
}

impl AuthFault {
    fn new(kind: FailureKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }
}

/// One side of the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Initiator,
    Responder,
}

/// What a side's AUTH payload covers: its own IKE_SA_INIT message, the other's nonce, its own identity.
fn octets(agreed: &Agreed, prf: Prf, side: Side, id: &IdPayload) -> Vec<u8> {
    let (message, nonce, sk_p) = match side {
        Side::Initiator => (&agreed.request, &agreed.nonce_r, &agreed.keys.pi),
        Side::Responder => (&agreed.response, &agreed.nonce_i, &agreed.keys.pr),
    };
    let mut octets = keys::signed_octets(prf, message, nonce, sk_p, &id.body());
    // RFC 9242 section 3.3.2.
    octets.extend(agreed.intermediate.authenticated());
    octets
}

/// Our proof: the AUTH payload, and the certificates that go before it.
fn prove(
    connection: &Connection,
    agreed: &Agreed,
    prf: Prf,
    side: Side,
    id: &IdPayload,
) -> Result<(Vec<Payload>, Payload), SignatureError> {
    let octets = octets(agreed, prf, side, id);
    match &connection.local_auth {
        LocalAuth::Psk(psk) => {
            let data = keys::psk_auth(prf, psk, &octets).to_vec();
            Ok((Vec::new(), Payload::Auth(Authentication::new(AuthMethod::SharedKey, data))))
        }
        LocalAuth::Signature { chain, key } => {
            let signed = sign_auth(key, agreed.peer_hashes.as_deref(), &octets)?;
            let certificates =
                chain.iter().map(|der| Payload::Cert(Certificate::x509(der.to_vec()))).collect();
            Ok((certificates, Payload::Auth(Authentication::new(signed.method, signed.data))))
        }
    }
}

/// What we ask the peer's certificate to be signed by: the CAs of every connection that the peer may belong to, as far as
/// one payload takes them. What a peer asks of us changes nothing: a connection has one certificate, and it is sent.
pub(crate) fn certificate_request<'a>(
    connections: impl IntoIterator<Item = &'a Connection>,
) -> Option<Payload> {
    let mut authorities = Vec::new();
    for connection in connections {
        let RemoteAuth::Certificate(anchors) = &connection.remote_auth else { continue };
        let keys = anchors.certreq_authority();
        let (keys, _) = keys.as_chunks::<AUTHORITY_LEN>();
        for key in keys {
            if !authorities.contains(key) && authorities.len() < MAX_AUTHORITIES {
                authorities.push(*key);
            }
        }
    }
    (!authorities.is_empty()).then_some(Payload::CertReq(CertificateRequest::X509 { authorities }))
}

/// What a proof that holds leaves to do.
pub(crate) enum Proof {
    /// Nothing. The peer's certificate, if it is to be watched for being revoked.
    Proven(Option<Arc<VerifiedCertificate>>),
    /// To wait for CRLs, and judge again.
    AwaitCrls,
}

/// Whether CRLs may still be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    Left,
    Over,
}

/// Whether the peer is who `connection` says it must be.
#[expect(clippy::too_many_arguments, reason = "each is another part of what is judged")]
fn verify(
    ctx: &mut Context<'_>,
    connection: &Connection,
    agreed: &Agreed,
    prf: Prf,
    side: Side,
    id: &IdPayload,
    content: &Content,
    patience: Patience,
) -> Result<Proof, AuthFault> {
    let Some(auth) = content.auth.as_ref().filter(|_| !content.eap) else {
        let detail = "the peer sent no AUTH payload: it wants EAP, which is not supported; configure a certificate or \
             a pre-shared key there";
        return Err(AuthFault::new(FailureKind::AuthenticationFailed, detail));
    };
    let octets = octets(agreed, prf, side, id);
    match (&connection.remote_auth, auth.method) {
        (RemoteAuth::Psk(psk), AuthMethod::SharedKey) => {
            match keys::verify_psk_auth(prf, psk, &octets, &auth.data) {
                true => Ok(Proof::Proven(None)),
                false => Err(AuthFault::new(
                    FailureKind::AuthenticationFailed,
                    format!(
                        "the pre-shared key of {} is not ours: enter the same key on both gateways",
                        id.id
                    ),
                )),
            }
        }
        (RemoteAuth::Psk(_), method) => Err(AuthFault::new(
            FailureKind::AuthenticationFailed,
            format!("{} authenticates by {method}, but the connection expects a pre-shared key", id.id),
        )),
        (RemoteAuth::Certificate(_), AuthMethod::SharedKey) => Err(AuthFault::new(
            FailureKind::AuthenticationFailed,
            format!("{} authenticates by a pre-shared key, but the connection expects a certificate", id.id),
        )),
        (RemoteAuth::Certificate(anchors), method) => {
            let certificate = prove_certificate(ctx, anchors, id, content)?;
            // Nothing but a proof that holds brings us to ask anybody for anything.
            verify_auth(method, &auth.data, certificate.public_key(), &octets)
                .map_err(|error| AuthFault::new(FailureKind::AuthenticationFailed, error.to_string()))?;
            revocation(ctx, anchors, certificate, patience)
        }
    }
}

/// The peer's certificate, if its chain holds and it carries the identity.
fn prove_certificate(
    ctx: &Context<'_>,
    anchors: &TrustAnchors,
    id: &IdPayload,
    content: &Content,
) -> Result<VerifiedCertificate, AuthFault> {
    let rejected = |detail: String| AuthFault::new(FailureKind::CertificateRejected, detail);
    let certificates = content.x509();
    let Some((end_entity, intermediates)) = certificates.split_first() else {
        return Err(rejected(format!(
            "{} sent no certificate: configure it to send its certificate always",
            id.id
        )));
    };
    if certificates.len() > MAX_CHAIN {
        return Err(rejected(format!(
            "{} sent {} certificates, more than the {MAX_CHAIN} that are looked at: leave those out that are not of its \
             chain",
            id.id,
            certificates.len()
        )));
    }
    let certificate = verify_path(end_entity, intermediates, anchors, ctx.wall())
        .map_err(|error| rejected(error.to_string()))?;
    if !certificate.matches(&id.id) {
        return Err(rejected(format!(
            "the certificate of {0} does not carry the identity {0}: issue one with it as subject alternative name",
            id.id
        )));
    }
    Ok(certificate)
}

/// Whether CRLs stand against a certificate, once those that it points to have come.
fn revocation(
    ctx: &mut Context<'_>,
    anchors: &TrustAnchors,
    certificate: VerifiedCertificate,
    patience: Patience,
) -> Result<Proof, AuthFault> {
    let (fetched, wall) = (ctx.crls.crls(), ctx.wall());
    let judged = certificate.check_revocation(anchors, &fetched, wall);
    // What is revoked stays so, whatever a newer CRL may say.
    let is_revoked = matches!(judged, Err(CertificateError::Revoked { .. }));
    if !is_revoked && patience == Patience::Left {
        let wanted = certificate.wanted_crls(anchors, &fetched, wall);
        if ctx.ask_for_crls(wanted) {
            return Ok(Proof::AwaitCrls);
        }
    }
    judged.map_err(|error| AuthFault::new(FailureKind::CertificateRejected, error.to_string()))?;
    Ok(Proof::Proven(anchors.watches_revocation().then(|| Arc::new(certificate))))
}

/// The content of a message, or the fault.
fn readable(message: &Message) -> Result<&Content, AuthFault> {
    message.content.as_ref().map_err(|error| {
        AuthFault::new(FailureKind::Malformed, format!("the peer's IKE_AUTH is malformed: {error}"))
    })
}
