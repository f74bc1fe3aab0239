//! The initiator's IKE_AUTH.

use std::sync::Arc;
use std::time::Instant;

use super::{AuthFault, Patience, Proof, Side, certificate_request, prove, readable, verify};
use crate::channel::{Channel, Inbound, Message};
use crate::child::{self, Proposed};
use crate::config::{ChildConfig, Connection, Uniqueness};
use crate::content::Content;
use crate::context::Context;
use crate::crypto::keys::ChildKeymat;
use crate::crypto::negotiate::{self, Pfs};
use crate::established::{Established, NewChild, Task};
use crate::event::{Binding, CloseReason, Event, FailureKind, IkeHandle, Path};
use crate::init::Agreed;
use crate::mobike;
use crate::resources;
use crate::retired::Retired;
use crate::revocation::CRL_WAIT;
use crate::sa::State;
use crate::spi::InboundSpi;
use crate::status::{IkeStatus, Phase};
use crate::timer::Timer;
use crate::unique::Origin;
use crate::virtual_ip;
use crate::wire::delete::Delete;
use crate::wire::id::IdPayload;
use crate::wire::notify::Notify;
use crate::wire::sa::SecurityAssociation;
use crate::wire::ts::TrafficSelectors;
use crate::wire::{ExchangeType, NotifyType, Outer, Payload};

/// IKE_AUTH sent.
pub(crate) struct AuthSent {
    handle: IkeHandle,
    connection: Arc<Connection>,
    channel: Channel,
    agreed: Agreed,
    /// The child that was offered along.
    child: Option<(Arc<ChildConfig>, InboundSpi)>,
    started: Instant,
    /// The peer's response, while CRLs are fetched to judge it by.
    unjudged: Option<Box<Message>>,
}

impl AuthSent {
    /// Sends our proof and the first child's offer.
    pub(crate) fn begin(
        ctx: &mut Context<'_>,
        handle: IkeHandle,
        connection: Arc<Connection>,
        channel: Channel,
        agreed: Agreed,
        started: Instant,
    ) -> Option<State> {
        let child = connection
            .children
            .first()
            .map(|config| virtual_ip::offered(config, &connection, channel.path))
            .map(|config| (Arc::new(config), ctx.numbers.esp_spis.take(ctx.random)));
        let mut this = Box::new(Self { handle, connection, channel, agreed, child, started, unjudged: None });
        match this.send(ctx) {
            Ok(()) => Some(State::AuthSent(this)),
            Err(detail) => {
                this.give_up(ctx, FailureKind::Internal, detail);
                None
            }
        }
    }

    fn send(&mut self, ctx: &mut Context<'_>) -> Result<(), String> {
        if self.child.is_none() && !self.agreed.childless {
            return Err(
                "the connection has no child, and the peer wants one in IKE_AUTH: configure its networks"
                    .into(),
            );
        }
        let id = IdPayload::new(self.connection.local_id.clone());
        let prf = self.channel.suite.prf;
        let (certificates, auth) = prove(&self.connection, &self.agreed, prf, Side::Initiator, &id)
            .map_err(|error| error.to_string())?;
        let mut payloads = vec![Payload::IdI(id)];
        payloads.extend(certificates);
        // RFC 7296 section 2.4, judged as late as can be: the peer may have opened one meanwhile.
        let unique = self.connection.uniqueness != Uniqueness::Never;
        if unique && !ctx.others.has(&self.connection.name) {
            payloads.push(Payload::Notify(Notify::new(NotifyType::InitialContact)));
        }
        if self.connection.mobike {
            payloads.extend(mobike::announcements(ctx.addresses, self.channel.path));
        }
        payloads.extend(certificate_request([&*self.connection]));
        // Whom we want; of a pattern the peer chooses.
        payloads
            .extend(self.connection.remote_id.exact().cloned().map(|id| Payload::IdR(IdPayload::new(id))));
        payloads.push(auth);
        payloads.extend(virtual_ip::request(self.connection.wants));
        if let Some((config, spi)) = &self.child {
            let offer = negotiate::offer_esp(&config.esp_proposals, spi.number(), Pfs::Never);
            payloads.push(Payload::Sa(SecurityAssociation::new(offer)));
            payloads.push(Payload::TsI(TrafficSelectors::new(config.local.clone())));
            payloads.push(Payload::TsR(TrafficSelectors::new(config.remote.clone())));
            payloads.push(Payload::Notify(Notify::new(NotifyType::EspTfcPaddingNotSupported)));
            if config.per_resource.accepted(ctx.config.resources) > 0 {
                payloads.extend(resources::announcement(Binding::Fallback));
            }
        }
        self.channel.request(ctx, ExchangeType::IkeAuth, &payloads).map_err(|error| error.to_string())
    }

    pub(crate) fn handle_message(
        mut self: Box<Self>,
        ctx: &mut Context<'_>,
        path: Path,
        datagram: &[u8],
        outer: &Outer,
    ) -> Option<State> {
        match self.channel.receive(ctx, path, datagram, outer) {
            Inbound::Nothing => Some(State::AuthSent(self)),
            // A peer has nothing to ask before it has answered; unanswered, it will ask again.
            Inbound::Request(_) => Some(State::AuthSent(self)),
            Inbound::Response(message) => self.conclude(ctx, message, Patience::Left),
        }
    }

    /// Whether it waits for CRLs.
    pub(crate) fn awaits_crls(&self) -> bool {
        self.unjudged.is_some()
    }

    /// A CRL has come, or will not: judges again.
    pub(crate) fn resume(mut self: Box<Self>, ctx: &mut Context<'_>, patience: Patience) -> Option<State> {
        match self.unjudged.take() {
            Some(message) => self.conclude(ctx, *message, patience),
            None => Some(State::AuthSent(self)),
        }
    }

    /// Another configuration is in force, in which the connection stands as it was.
    pub(crate) fn adopt(&mut self, connection: Arc<Connection>) {
        self.connection = connection;
    }

    fn conclude(
        mut self: Box<Self>,
        ctx: &mut Context<'_>,
        message: Message,
        patience: Patience,
    ) -> Option<State> {
        let content = match readable(&message) {
            Ok(content) => content,
            Err(fault) => return self.reject(ctx, fault),
        };
        if let (Err(_), Some(error)) = (content.auth(), content.error()) {
            let remedy = match error.notify_type {
                NotifyType::AuthenticationFailed => {
                    "it does not accept our identity, certificate or pre-shared key, or has no connection for them; \
                     its log says which"
                }
                _ => "see the peer's log",
            };
            self.give_up(
                ctx,
                FailureKind::RefusedByPeer,
                format!("the peer refused IKE_AUTH with {error}: {remedy}"),
            );
            // The responder has forgotten the IKE SA already (RFC 7296 section 2.21.2).
            return None;
        }
        let Some(id) = content.id_r.as_ref() else {
            let fault = AuthFault::new(
                FailureKind::Malformed,
                "the peer sent no identity (IDr); its implementation is at fault",
            );
            return self.reject(ctx, fault);
        };
        if !self.connection.remote_id.matches(&id.id) {
            let detail = format!(
                "the peer calls itself {}, the connection expects {}: correct the identity on one of both",
                id.id, self.connection.remote_id
            );
            return self.reject(ctx, AuthFault::new(FailureKind::AuthenticationFailed, detail));
        }
        let prf = self.channel.suite.prf;
        let (connection, agreed) = (&self.connection, &self.agreed);
        let peer = match verify(ctx, connection, agreed, prf, Side::Responder, id, content, patience) {
            Ok(Proof::Proven(peer)) => peer,
            Ok(Proof::AwaitCrls) => {
                ctx.timers.set(Timer::Revocation, ctx.later(CRL_WAIT));
                self.unjudged = Some(Box::new(message));
                return Some(State::AuthSent(self));
            }
            Err(fault) => return self.reject(ctx, fault),
        };
        ctx.timers.stop(Timer::Revocation);
        let Self { handle, connection, channel, agreed, child, started, .. } = *self;
        let remote_id = id.id.clone();
        let origin = Origin::new(true, started, ctx.now, [&agreed.nonce_i, &agreed.nonce_r]);
        let sk_d = agreed.keys.d.clone();
        let mut established = Established::begin(ctx, handle, connection, channel, sk_d, remote_id, origin);
        established.watch(ctx, peer);
        established.plan_reauth(ctx, content);
        established.agree_on_mobike(ctx, content, true);
        let has_addresses = established.take_addresses(ctx, content);
        if !has_addresses {
            return Box::new(established).close(ctx, CloseReason::Failed);
        }
        if let Some((offered, spi)) = child {
            let config = established.child_configs.first().cloned().unwrap_or(offered);
            established.conclude_first_child(ctx, config, spi, &agreed, content);
        }
        established.want_other_children(ctx);
        Some(State::Established(Box::new(established)))
    }

    /// RFC 7296 section 2.21.2: the responder believes in this IKE SA; tell it why it must not.
    fn reject(self: Box<Self>, ctx: &mut Context<'_>, fault: AuthFault) -> Option<State> {
        self.give_up(ctx, fault.kind, fault.detail);
        let farewell = vec![
            Payload::Notify(Notify::new(NotifyType::AuthenticationFailed)),
            Payload::Delete(Delete::Ike),
        ];
        Retired::begin(ctx, self.channel, Some(farewell))
    }

    pub(crate) fn handle_timer(mut self: Box<Self>, ctx: &mut Context<'_>, timer: Timer) -> Option<State> {
        if timer == Timer::Revocation {
            return self.resume(ctx, Patience::Over);
        }
        if timer == Timer::Retransmit && !self.channel.retransmit(ctx) {
            let detail = format!(
                "no answer to IKE_AUTH from {}: the peer stopped answering, or UDP {} or large packets are blocked on the \
                 way",
                self.channel.path.remote,
                self.channel.path.remote.port()
            );
            self.give_up(ctx, FailureKind::Timeout, detail);
            return None;
        }
        Some(State::AuthSent(self))
    }

    fn give_up(&self, ctx: &mut Context<'_>, kind: FailureKind, detail: String) {
        ctx.out.failure(self.channel.path, Some(&self.connection.name), kind, detail);
        self.closed(ctx, CloseReason::Failed);
    }

    /// The caller no longer wants it; the peer may already believe in it.
    pub(crate) fn close(self: Box<Self>, ctx: &mut Context<'_>) -> Option<State> {
        self.closed(ctx, CloseReason::Local);
        Retired::begin(ctx, self.channel, Some(vec![Payload::Delete(Delete::Ike)]))
    }

    fn closed(&self, ctx: &mut Context<'_>, reason: CloseReason) {
        let connection = self.connection.name.clone();
        ctx.out.event(Event::IkeClosed { ike: self.handle, connection, reason });
    }

    pub(crate) fn handle(&self) -> IkeHandle {
        self.handle
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    pub(crate) fn status(&self) -> IkeStatus {
        let connection = Some(self.connection.name.clone());
        self.channel.status(self.handle, connection, Phase::Authenticating, self.started)
    }
}

impl Established {
    /// What became of the child offered in IKE_AUTH. Whatever it is, the IKE SA stays (RFC 7296 section 1.2).
    fn conclude_first_child(
        &mut self,
        ctx: &mut Context<'_>,
        config: Arc<ChildConfig>,
        spi: InboundSpi,
        agreed: &Agreed,
        content: &Content,
    ) {
        if let Some(error) = content.error() {
            self.report_child_refusal(ctx, &config.name, error);
            match child::first_pair(&config).filter(|_| error.notify_type == NotifyType::SinglePairRequired) {
                Some(single) => self.enqueue(Task::CreateChild(single)),
                None => self.miss_child(ctx),
            }
            return;
        }
        let number = spi.number();
        let proposed = || Ok(Proposed { sa: content.sa()?, ours: content.ts_i()?, theirs: content.ts_r()? });
        let terms = proposed().and_then(|proposed| child::confirm(config.clone(), spi, proposed, Pfs::Never));
        let terms = match terms {
            Ok(terms) => terms,
            Err(error) => {
                self.report_child_error(ctx, &config.name, &error);
                // The peer has it installed.
                self.delete_unused(ctx, number);
                self.miss_child(ctx);
                return;
            }
        };
        let keymat = ChildKeymat::derive(
            self.channel.suite.prf,
            &agreed.keys.d,
            &terms.suite,
            &[],
            &agreed.nonce_i,
            &agreed.nonce_r,
        );
        match keymat {
            Ok(keymat) => {
                let binding = self.first_binding(ctx, &terms.config, content);
                self.install(
                    ctx,
                    NewChild { terms, keymat, initiated: true, activate: true, replaces: None, binding },
                );
            }
            Err(error) => {
                let path = self.channel.path;
                ctx.out.failure(path, Some(&self.connection.name), FailureKind::Internal, error.to_string());
            }
        }
    }
}
