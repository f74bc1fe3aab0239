//! The initiator's IKE_INTERMEDIATE.

use std::sync::Arc;
use std::time::Instant;

use super::conclude;
use crate::auth::initiator::AuthSent;
use crate::channel::{Channel, Inbound, Message};
use crate::config::Connection;
use crate::context::Context;
use crate::crypto::dh::KeyShare;
use crate::event::{CloseReason, Event, FailureKind, IkeHandle, Path};
use crate::init::{Agreed, fail, ke_payload};
use crate::sa::State;
use crate::status::{IkeStatus, Phase};
use crate::timer::Timer;
use crate::wire::{ExchangeType, Outer};

/// IKE_INTERMEDIATE sent.
pub(crate) struct IntermediateSent {
    handle: IkeHandle,
    connection: Arc<Connection>,
    channel: Channel,
    agreed: Agreed,
    share: KeyShare,
    /// What we sent, to be proved.
    request: Vec<u8>,
    started: Instant,
}

impl IntermediateSent {
    /// Carries out the next additional key exchange; IKE_AUTH, if none is left.
    pub(crate) fn begin(
        ctx: &mut Context<'_>,
        handle: IkeHandle,
        connection: Arc<Connection>,
        channel: Channel,
        agreed: Agreed,
        started: Instant,
    ) -> Option<State> {
        let Some(method) = agreed.intermediate.next() else {
            return AuthSent::begin(ctx, handle, connection, channel, agreed, started);
        };
        let share = match KeyShare::generate(method, ctx.random) {
            Ok(share) => share,
            Err(error) => {
                fail(ctx, handle, &connection, channel.path, FailureKind::Internal, error.to_string());
                return None;
            }
        };
        let request = Vec::new();
        let mut this = Box::new(Self { handle, connection, channel, agreed, share, request, started });
        let payloads = [ke_payload(method, this.share.public())];
        match this.channel.request(ctx, ExchangeType::IkeIntermediate, &payloads) {
            Ok(()) => {
                this.request = this.channel.take_sent_intermediate();
                Some(State::IntermediateSent(this))
            }
            Err(error) => this.fail(ctx, FailureKind::Internal, error.to_string()),
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
            // A peer has nothing to ask before IKE_AUTH.
            Inbound::Nothing | Inbound::Request(_) | Inbound::Disowned => Some(State::IntermediateSent(self)),
            Inbound::Response(message) => self.conclude(ctx, &message),
        }
    }

    fn conclude(self: Box<Self>, ctx: &mut Context<'_>, message: &Message) -> Option<State> {
        let content = match &message.content {
            Ok(content) => content,
            Err(error) => {
                let detail = format!("the peer's IKE_INTERMEDIATE is malformed: {error}");
                return self.fail(ctx, FailureKind::Malformed, detail);
            }
        };
        if let Some(error) = content.error() {
            let detail = format!("the peer refused IKE_INTERMEDIATE with {error}: see the peer's log");
            return self.fail(ctx, FailureKind::RefusedByPeer, detail);
        }
        let method = self.share.group();
        let Some(ke) = content.ke.as_ref().filter(|ke| ke.group.number() == method.number()) else {
            let detail = format!(
                "the peer's IKE_INTERMEDIATE has no KE payload of {method}, which was agreed on; its implementation is \
                 at fault"
            );
            return self.fail(ctx, FailureKind::Malformed, detail);
        };
        let Self { handle, connection, mut channel, mut agreed, share, request, started } = *self;
        let secret = match share.agree(&ke.data) {
            Ok(secret) => secret,
            Err(error) => {
                fail(ctx, handle, &connection, channel.path, FailureKind::Malformed, error.to_string());
                return None;
            }
        };
        if let Err(detail) = conclude(&mut agreed, &mut channel, &request, &message.octets, &secret) {
            fail(ctx, handle, &connection, channel.path, FailureKind::Internal, detail);
            return None;
        }
        Self::begin(ctx, handle, connection, channel, agreed, started)
    }

    pub(crate) fn handle_timer(mut self: Box<Self>, ctx: &mut Context<'_>, timer: Timer) -> Option<State> {
        if timer == Timer::Retransmit && !self.channel.retransmit(ctx) {
            let detail = format!(
                "no answer to IKE_INTERMEDIATE from {}: the peer stopped answering, or UDP {} or large packets are \
                 blocked on the way",
                self.channel.path.remote,
                self.channel.path.remote.port()
            );
            return self.fail(ctx, FailureKind::Timeout, detail);
        }
        Some(State::IntermediateSent(self))
    }

    fn fail(self: Box<Self>, ctx: &mut Context<'_>, kind: FailureKind, detail: String) -> Option<State> {
        fail(ctx, self.handle, &self.connection, self.channel.path, kind, detail);
        None
    }

    /// The caller no longer wants it.
    pub(crate) fn close(self: Box<Self>, ctx: &mut Context<'_>) -> Option<State> {
        let connection = self.connection.name.clone();
        ctx.out.event(Event::IkeClosed { ike: self.handle, connection, reason: CloseReason::Local });
        None
    }

    pub(crate) fn handle(&self) -> IkeHandle {
        self.handle
    }

    /// Another configuration is in force, in which the connection stands as it was.
    pub(crate) fn adopt(&mut self, connection: Arc<Connection>) {
        self.connection = connection;
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    pub(crate) fn status(&self) -> IkeStatus {
        let connection = Some(self.connection.name.clone());
        self.channel.status(self.handle, connection, Phase::Initiating, self.started)
    }
}
