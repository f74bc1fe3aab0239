//! The responder's IKE_AUTH.

use std::sync::Arc;
use std::time::Instant;

use super::{AuthFault, Patience, Proof, Side, prove, readable, verify};
use crate::channel::{Channel, Inbound, Message, MessageError};
use crate::child::{self, ChildError, Proposed};
use crate::config::{Connection, Uniqueness};
use crate::connections::Connections;
use crate::content::Content;
use crate::context::Context;
use crate::crypto::keys::ChildKeymat;
use crate::crypto::negotiate::Pfs;
use crate::established::{Established, NewChild};
use crate::event::{FailureKind, IkeHandle, Path};
use crate::init::Agreed;
use crate::mobike;
use crate::resources;
use crate::retired::Retired;
use crate::revocation::CRL_WAIT;
use crate::sa::State;
use crate::select;
use crate::status::{IkeStatus, Phase};
use crate::timer::Timer;
use crate::unique::Origin;
use crate::wire::id::IdPayload;
use crate::wire::notify::Notify;
use crate::wire::sa::SecurityAssociation;
use crate::wire::ts::TrafficSelectors;
use crate::wire::{ExchangeType, NotifyType, Outer, Payload};

/// IKE_SA_INIT answered. The peer is nobody yet.
pub(crate) struct AwaitAuth {
    handle: IkeHandle,
    candidates: Vec<Arc<Connection>>,
    pub(crate) channel: Channel,
    pub(crate) agreed: Agreed,
    started: Instant,
    /// How often IKE_SA_INIT may still be answered again.
    repeats_left: u32,
    /// The peer's IKE_AUTH request, while CRLs are fetched to judge it by.
    unjudged: Option<Box<Message>>,
}

/// A peer whose response is lost asks again some seven times; more often the answer would go to an address that somebody
/// forged.
const MAX_REPEATS: u32 = 16;
/// Connections by which one proof is judged at most: a verification is dear, and a stranger may ask for it.
const MAX_ATTEMPTS: usize = 8;

impl AwaitAuth {
    pub(crate) fn new(
        ctx: &mut Context<'_>,
        candidates: Vec<Arc<Connection>>,
        channel: Channel,
        agreed: Agreed,
    ) -> Self {
        let (handle, started) = (ctx.numbers.ike(), ctx.now);
        Self { handle, candidates, channel, agreed, started, repeats_left: MAX_REPEATS, unjudged: None }
    }

    pub(crate) fn handle(&self) -> IkeHandle {
        self.handle
    }

    pub(crate) fn local_spi(&self) -> u64 {
        self.channel.local_spi()
    }

    /// IKE_SA_INIT came again: if it is the same request, our response was lost.
    pub(crate) fn repeat_init(&mut self, ctx: &mut Context<'_>, path: Path, datagram: &[u8]) {
        if self.agreed.request == datagram
            && let Some(left) = self.repeats_left.checked_sub(1)
        {
            self.repeats_left = left;
            ctx.out.counters.responses_repeated += 1;
            ctx.out.send(path, self.agreed.response.clone());
        }
    }

    pub(crate) fn handle_message(
        mut self: Box<Self>,
        ctx: &mut Context<'_>,
        path: Path,
        datagram: &[u8],
        outer: &Outer,
    ) -> Option<State> {
        match self.channel.receive(ctx, path, datagram, outer) {
            // While its IKE_AUTH is judged, the peer may repeat it.
            Inbound::Request(_) if self.unjudged.is_some() => Some(State::AwaitAuth(self)),
            // The first messages are IKE_INTERMEDIATE, if such were agreed on, and IKE_AUTH; whatever else the peer asks
            // for before it stays unanswered.
            Inbound::Request(message) if message.exchange == ExchangeType::IkeIntermediate => {
                self.exchange_keys(ctx, &message)
            }
            Inbound::Request(message) if message.exchange == ExchangeType::IkeAuth => {
                match self.agreed.intermediate.next() {
                    None => self.judge(ctx, message, Patience::Left),
                    Some(method) => {
                        let detail =
                            format!("IKE_AUTH before the key exchange {method}, which was agreed on");
                        self.refuse_step(ctx, &message, detail)
                    }
                }
            }
            Inbound::Nothing | Inbound::Request(_) | Inbound::Response(_) => Some(State::AwaitAuth(self)),
        }
    }

    /// Whether it waits for CRLs.
    pub(crate) fn awaits_crls(&self) -> bool {
        self.unjudged.is_some()
    }

    /// A CRL has come, or will not: judges again.
    pub(crate) fn resume(mut self: Box<Self>, ctx: &mut Context<'_>, patience: Patience) -> Option<State> {
        match self.unjudged.take() {
            Some(message) => self.judge(ctx, *message, patience),
            None => Some(State::AwaitAuth(self)),
        }
    }

    /// Another configuration is in force, in which each candidate stands as it was.
    pub(crate) fn adopt(&mut self, connections: &Connections) -> bool {
        match self.candidates.iter().map(|old| connections.successor(old)).collect() {
            Some(candidates) => {
                self.candidates = candidates;
                true
            }
            None => false,
        }
    }

    fn judge(
        mut self: Box<Self>,
        ctx: &mut Context<'_>,
        message: Message,
        patience: Patience,
    ) -> Option<State> {
        // The initiator moves to port 4500 with this message, and a NAT may give it another port or address. Without a
        // NAT it is somebody else who sent the message on: the answer goes there, what follows does not.
        let same_host = message.path.remote.ip() == self.channel.path.remote.ip();
        if same_host || self.channel.nat.remote {
            self.channel.path = message.path;
        }
        let content = match readable(&message) {
            Ok(content) => content,
            Err(fault) => {
                let notify = message.content.as_ref().err().map(|error| error.notify());
                return self.refuse(ctx, message.path, None, fault, notify);
            }
        };
        let Some(id_i) = content.id_i.as_ref() else {
            let fault = AuthFault::new(
                FailureKind::Malformed,
                "the peer sent no identity (IDi); its implementation is at fault",
            );
            return self.refuse(ctx, message.path, None, fault, Some(Notify::new(NotifyType::InvalidSyntax)));
        };
        let wanted = content.id_r.as_ref().map(|id| &id.id);
        let fitting = select::by_identities(&self.candidates, &id_i.id, wanted);
        let prf = self.channel.suite.prf;
        let mut first_fault = None;
        let mut accepted = None;
        // Which connection is meant may show only by the proof: one wants a key and another a certificate, or both have
        // the same pattern of identities, but other CAs.
        for connection in fitting.into_iter().take(MAX_ATTEMPTS) {
            match verify(ctx, &connection, &self.agreed, prf, Side::Initiator, id_i, content, patience) {
                Ok(Proof::Proven(peer)) => {
                    accepted = Some((connection, peer));
                    break;
                }
                Ok(Proof::AwaitCrls) => {
                    // It stays a stranger's half-open IKE SA until then.
                    ctx.timers.set(Timer::Revocation, ctx.later(CRL_WAIT));
                    self.unjudged = Some(Box::new(message));
                    return Some(State::AwaitAuth(self));
                }
                Err(fault) => {
                    first_fault.get_or_insert((connection, fault));
                }
            }
        }
        ctx.timers.stop(Timer::HalfOpen);
        ctx.timers.stop(Timer::Revocation);
        let Some((connection, peer)) = accepted else {
            if let Some((connection, fault)) = first_fault {
                return self.refuse(ctx, message.path, Some(&connection), fault, None);
            }
            let asked = wanted.map(|id| format!(" and asks for {id}")).unwrap_or_default();
            let detail = format!(
                "no connection for a peer at {} that calls itself {}{asked}: compare the identities of both gateways",
                message.path.remote.ip(),
                id_i.id
            );
            return self.refuse(
                ctx,
                message.path,
                None,
                AuthFault::new(FailureKind::NoConnection, detail),
                None,
            );
        };
        let initial_contact = content.notify(NotifyType::InitialContact).is_some();
        if connection.uniqueness == Uniqueness::Keep
            && !initial_contact
            && ctx.others.has_elsewhere(&connection.name, &id_i.id, message.path.remote.ip())
        {
            let detail = format!(
                "{} is connected from another address already, and `unique` keeps the first: close that one, or let the new \
                 one replace it",
                id_i.id
            );
            let fault = AuthFault::new(FailureKind::Duplicate, detail);
            return self.refuse(ctx, message.path, Some(&connection), fault, None);
        }
        let id_r = IdPayload::new(connection.local_id.clone());
        let (certificates, auth) = match prove(&connection, &self.agreed, prf, Side::Responder, &id_r) {
            Ok(proof) => proof,
            Err(error) => {
                let fault = AuthFault::new(FailureKind::Internal, error.to_string());
                return self.refuse(ctx, message.path, Some(&connection), fault, None);
            }
        };
        let mut payloads = vec![Payload::IdR(id_r)];
        payloads.extend(certificates);
        payloads.push(auth);
        let Self { handle, channel, agreed, started, .. } = *self;
        let remote_id = id_i.id.clone();
        let origin = Origin::new(false, started, ctx.now, [&agreed.nonce_i, &agreed.nonce_r]);
        let sk_d = agreed.keys.d.clone();
        let mut established = Established::begin(ctx, handle, connection, channel, sk_d, remote_id, origin);
        established.watch(ctx, peer);
        established.initial_contact = initial_contact;
        established.plan_reauth(ctx, content);
        payloads.extend(established.auth_lifetime());
        established.agree_on_mobike(ctx, content, false);
        if established.mobike.is_some() {
            payloads.extend(mobike::announcements(ctx.addresses, established.channel.path));
        }
        match established.assign_addresses(ctx, content) {
            Ok(reply) => {
                payloads.extend(reply);
                payloads.extend(established.accept_first_child(ctx, &agreed, content));
            }
            // RFC 7296 section 3.15.4: the IKE SA is there, the child is not.
            Err(refusal) => payloads.push(Payload::Notify(Notify::new(refusal))),
        }
        established.answer(ctx, ExchangeType::IkeAuth, message.path, &payloads);
        Some(State::Established(Box::new(established)))
    }

    /// The peer does not do what was agreed on: INVALID_SYNTAX, and the end.
    pub(crate) fn refuse_step(
        mut self: Box<Self>,
        ctx: &mut Context<'_>,
        message: &Message,
        detail: String,
    ) -> Option<State> {
        ctx.out.stranger_failure(ctx.now, message.path, None, FailureKind::Malformed, || detail);
        let notify = message.content.as_ref().err().map(MessageError::notify);
        let notify = notify.unwrap_or_else(|| Notify::new(NotifyType::InvalidSyntax));
        self.channel.respond(ctx, message.exchange, message.path, &[Payload::Notify(notify)]).ok()?;
        Retired::refused(ctx, self.channel)
    }

    /// The peer learns that it failed, not why (RFC 7296 section 2.21.2). The IKE SA stays only to say so again.
    fn refuse(
        mut self: Box<Self>,
        ctx: &mut Context<'_>,
        path: Path,
        connection: Option<&Arc<Connection>>,
        fault: AuthFault,
        notify: Option<Notify>,
    ) -> Option<State> {
        let name = connection.map(|connection| &connection.name);
        ctx.out.stranger_failure(ctx.now, path, name, fault.kind, || fault.detail);
        let notify = notify.unwrap_or_else(|| Notify::new(NotifyType::AuthenticationFailed));
        // If not even that can be sent, the peer's timeout says it.
        self.channel.respond(ctx, ExchangeType::IkeAuth, path, &[Payload::Notify(notify)]).ok()?;
        Retired::refused(ctx, self.channel)
    }

    pub(crate) fn handle_timer(self: Box<Self>, ctx: &mut Context<'_>, timer: Timer) -> Option<State> {
        if timer == Timer::Revocation {
            return self.resume(ctx, Patience::Over);
        }
        if timer != Timer::HalfOpen {
            return Some(State::AwaitAuth(self));
        }
        let path = self.channel.path;
        let name = match self.candidates.as_slice() {
            [only] => Some(&only.name),
            _ => None,
        };
        ctx.out.stranger_failure(ctx.now, path, name, FailureKind::Timeout, || {
            format!(
                "{} began IKE_SA_INIT and did not go on to IKE_AUTH: it refuses our answer, or UDP 4500 or large packets \
                 are blocked on the way",
                path.remote
            )
        });
        None
    }

    pub(crate) fn status(&self) -> IkeStatus {
        self.channel.status(self.handle, None, Phase::Authenticating, self.started)
    }
}

impl Established {
    /// Makes the child offered in IKE_AUTH; the payloads that answer the offer. Whatever becomes of it, the IKE SA
    /// stays (RFC 7296 section 1.2).
    fn accept_first_child(
        &mut self,
        ctx: &mut Context<'_>,
        agreed: &Agreed,
        content: &Content,
    ) -> Vec<Payload> {
        // RFC 6023: none is asked for.
        if content.sa.is_none() {
            return Vec::new();
        }
        let proposed = || Ok(Proposed { sa: content.sa()?, ours: content.ts_r()?, theirs: content.ts_i()? });
        let accepted = proposed()
            .and_then(|proposed| child::accept(ctx, &self.child_configs, None, proposed, Pfs::Never));
        let (terms, answer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => return vec![self.refuse_child(ctx, &error)],
        };
        let keymat = ChildKeymat::derive(
            self.channel.suite.prf,
            &agreed.keys.d,
            &terms.suite,
            &[],
            &agreed.nonce_i,
            &agreed.nonce_r,
        );
        let Ok(keymat) = keymat else {
            return vec![Payload::Notify(Notify::new(NotifyType::NoAdditionalSas))];
        };
        let mut payloads = vec![
            Payload::Sa(SecurityAssociation::new(vec![answer])),
            Payload::TsI(TrafficSelectors::new(terms.remote.clone())),
            Payload::TsR(TrafficSelectors::new(terms.local.clone())),
            Payload::Notify(Notify::new(NotifyType::EspTfcPaddingNotSupported)),
        ];
        let activate = self.has_no_twin(ctx);
        let binding = self.first_binding(ctx, &terms.config, content);
        payloads.extend(resources::announcement(binding));
        self.install(ctx, NewChild { terms, keymat, initiated: false, activate, replaces: None, binding });
        payloads
    }

    fn refuse_child(&mut self, ctx: &mut Context<'_>, error: &ChildError) -> Payload {
        self.report_child_error(ctx, "offered by the peer", error);
        Payload::Notify(Notify::new(error.notify_type()))
    }
}
