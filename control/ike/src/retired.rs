//! An IKE SA that is over: it says goodbye, and answers what the peer may still repeat.

use std::time::Duration;

use crate::channel::{Channel, Inbound};
use crate::context::Context;
use crate::event::Path;
use crate::sa::State;
use crate::timer::Timer;
use crate::wire::notify::Notify;
use crate::wire::{ExchangeType, NotifyType, Outer, Payload};

/// How long a peer is waited for that must delete the IKE SA, or may repeat its last request: longer than its
/// retransmissions, taking them to be like our default ones.
const LINGER: Duration = Duration::from_secs(90);
/// How long we stay for a peer that has nothing more to ask, or that nobody knows.
const SHORT_LINGER: Duration = Duration::from_secs(10);
/// How long a peer that has moved to another IKE SA waits for the answer to its DELETE of the former. Many remove their
/// inbound SAs with the answer, and what we sent by them a moment before must be there by then, past both sides' queues.
const PARTING: Duration = Duration::from_millis(50);

/// No children, no owner; only its messages are left.
pub(crate) struct Retired {
    channel: Channel,
    /// What is to be said once the outstanding request is answered.
    farewell: Option<Vec<Payload>>,
    /// Where the answer to the peer's DELETE goes, as long as it is owed.
    owed: Option<Path>,
    /// The peer never authenticated: it counts among the strangers.
    pub(crate) stranger: bool,
}

impl Retired {
    /// Ends an IKE SA with a last request (`farewell`), or by waiting for the peer's.
    pub(crate) fn begin(
        ctx: &mut Context<'_>,
        channel: Channel,
        farewell: Option<Vec<Payload>>,
    ) -> Option<State> {
        Self { channel, farewell, owed: None, stranger: false }.enter(ctx, LINGER)
    }

    /// Ends an IKE SA whose peer did not prove who it is, and has been told so.
    pub(crate) fn refused(ctx: &mut Context<'_>, channel: Channel) -> Option<State> {
        Self { channel, farewell: None, owed: None, stranger: true }.enter(ctx, SHORT_LINGER)
    }

    /// Ends an IKE SA that the peer has deleted. `owed`: where the answer goes, if it is still to be given.
    pub(crate) fn deleted(ctx: &mut Context<'_>, mut channel: Channel, owed: Option<Path>) -> Option<State> {
        channel.abandon(ctx);
        Self { channel, farewell: None, owed, stranger: false }.enter(ctx, LINGER)
    }

    /// Whether a goodbye is still to be said, or to be answered.
    pub(crate) fn is_unacknowledged(&self) -> bool {
        self.farewell.is_some() || self.owed.is_some() || self.channel.is_waiting()
    }

    fn enter(mut self, ctx: &mut Context<'_>, linger: Duration) -> Option<State> {
        ctx.timers.stop_all_but(Timer::Retransmit);
        ctx.timers.set(Timer::Forget, ctx.later(linger));
        if self.owed.is_some() {
            ctx.timers.set(Timer::Parting, ctx.later(PARTING));
        }
        self.say_farewell(ctx)?;
        Some(State::Retired(Box::new(self)))
    }

    /// `None` when it can't be said.
    fn say_farewell(&mut self, ctx: &mut Context<'_>) -> Option<()> {
        if !self.channel.is_waiting()
            && let Some(farewell) = self.farewell.take()
        {
            self.channel.request(ctx, ExchangeType::Informational, &farewell).ok()?;
        }
        Some(())
    }

    pub(crate) fn handle_message(
        mut self: Box<Self>,
        ctx: &mut Context<'_>,
        path: Path,
        datagram: &[u8],
        outer: &Outer,
    ) -> Option<State> {
        match self.channel.receive(ctx, path, datagram, outer) {
            Inbound::Nothing | Inbound::Disowned => {}
            Inbound::Request(message) => {
                // RFC 7296 section 2.25.2: nothing new on an IKE SA that is being closed.
                let answer = match message.exchange {
                    ExchangeType::Informational => Vec::new(),
                    _ => vec![Payload::Notify(Notify::new(NotifyType::TemporaryFailure))],
                };
                // It may be the one that an answer is owed to, once more.
                self.owed = None;
                self.channel.respond(ctx, message.exchange, message.path, &answer).ok()?;
            }
            Inbound::Response(_) if self.farewell.is_some() => self.say_farewell(ctx)?,
            Inbound::Response(_) => ctx.timers.set(Timer::Forget, ctx.later(SHORT_LINGER)),
        }
        Some(State::Retired(self))
    }

    pub(crate) fn handle_timer(mut self: Box<Self>, ctx: &mut Context<'_>, timer: Timer) -> Option<State> {
        match timer {
            Timer::Forget => None,
            Timer::Parting => {
                if let Some(path) = self.owed.take() {
                    self.channel.respond(ctx, ExchangeType::Informational, path, &[]).ok()?;
                }
                Some(State::Retired(self))
            }
            Timer::Retransmit => self.channel.retransmit(ctx).then_some(State::Retired(self)),
            _ => Some(State::Retired(self)),
        }
    }
}
