//! Reauthentication (RFC 7296 section 2.8.3) without a gap: a second IKE SA with its own children is made first, then the
//! old one is deleted. Who began the connection begins this, too; the other can only ask for it (RFC 4478).

use std::time::Duration;

use crate::content::Content;
use crate::context::Context;
use crate::established::Established;
use crate::event::FailureKind;
use crate::init::initiator::InitSent;
use crate::sa::{IkeSa, State};
use crate::timer::{Timer, TimerTable};
use crate::wire::notify::Notify;
use crate::wire::{NotifyType, Payload};

/// A new attempt after one that may have failed: longer than one takes with our default retransmissions.
const RETRY: Duration = Duration::from_secs(90);

impl Established {
    /// Sets the timer, once the peer has proved who it is. `content`: its message, which may name a time.
    pub(crate) fn plan_reauth(&mut self, ctx: &mut Context<'_>, content: &Content) {
        let configured = self.connection.reauth_after;
        if !self.origin.ours {
            if !configured.is_zero() {
                // The peer has been told, and gets a tenth more.
                ctx.timers.set(Timer::Reauth, ctx.later(configured + configured / 10));
            }
            return;
        }
        if !configured.is_zero() {
            let at = ctx.renewal(configured);
            ctx.timers.set(Timer::Reauth, at);
        }
        self.hear_auth_lifetime(ctx, content);
    }

    /// What we tell an initiator: AUTH_LIFETIME, if we want it to prove again who it is.
    pub(crate) fn auth_lifetime(&self) -> Option<Payload> {
        let lifetime = self.connection.reauth_after;
        (!lifetime.is_zero()).then(|| Payload::Notify(Notify::auth_lifetime(lifetime)))
    }

    /// The peer names the time (RFC 4478 section 3): ours, if it is the earlier.
    pub(crate) fn hear_auth_lifetime(&mut self, ctx: &mut Context<'_>, content: &Content) {
        let told = content.notify(NotifyType::AuthLifetime).and_then(|notify| notify.lifetime().ok());
        if let Some(told) = told.filter(|_| self.origin.ours) {
            // In time: with a tenth to spare, and as much again at random.
            let at = ctx.renewal(told / 10 * 9);
            if ctx.timers.at(Timer::Reauth).is_none_or(|planned| at < planned) {
                ctx.timers.set(Timer::Reauth, at);
            }
        }
    }

    /// The time is over. `false`: the peer was to begin, and has not.
    pub(crate) fn reauth_due(&mut self, ctx: &mut Context<'_>) -> bool {
        if self.origin.ours {
            self.reauthenticate(ctx);
            return true;
        }
        let detail = format!(
            "{} did not prove again who it is within the configured reauthentication time, though asked to (RFC 4478): the \
             connection is closed",
            self.remote_id
        );
        self.report(ctx, FailureKind::AuthenticationFailed, detail);
        false
    }

    /// Begins the second IKE SA, and once more if nothing comes of it.
    pub(crate) fn reauthenticate(&mut self, ctx: &mut Context<'_>) {
        self.begin_second(ctx);
        ctx.timers.set(Timer::Reauth, ctx.later(RETRY));
    }

    /// Somebody says that the peer has no such IKE SA: it may have been started anew. That is anybody's word, so it changes
    /// nothing here (RFC 7296 section 2.21.4). A second IKE SA shows what is true, for there the peer proves who it is. Who has
    /// begun this one begins that one, and not more often than an attempt takes.
    pub(crate) fn doubt(&mut self, ctx: &mut Context<'_>) {
        let is_recent = self.doubted.is_some_and(|at| ctx.now.saturating_duration_since(at) < RETRY);
        if !self.origin.ours || is_recent {
            return;
        }
        self.doubted = Some(ctx.now);
        self.begin_second(ctx);
    }

    /// The endpoint sees, once it is established, that it supersedes this one.
    fn begin_second(&mut self, ctx: &mut Context<'_>) {
        let handle = ctx.numbers.ike();
        let spi = ctx.ike_spi();
        let (connection, path) = (self.connection.clone(), self.channel.path);
        let mut timers = TimerTable::default();
        match InitSent::begin(&mut ctx.with_timers(&mut timers), handle, connection, path, spi) {
            Ok(begun) => {
                ctx.spawned.push(IkeSa { spi, timers, state: State::InitSent(Box::new(begun)) });
            }
            Err(detail) => self.report(ctx, FailureKind::Internal, format!("reauthentication: {detail}")),
        }
    }
}
