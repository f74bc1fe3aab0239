//! IKE_FOLLOWUP_KE (RFC 9370 section 2.2.4): the additional key exchanges of a CREATE_CHILD_SA, a request each. What is
//! being made comes into being with the last of them; until then it costs the responder one place, and its time is
//! bounded.

use std::collections::VecDeque;
use std::time::Duration;

use crate::content::Content;
use crate::context::Context;
use crate::create_child::AwaitedChild;
use crate::crypto::dh::{self, KeyShare, SharedSecret};
use crate::crypto::suite::{Additional, Group};
use crate::established::Established;
use crate::event::{ChildHandle, FailureKind, Path};
use crate::init::ke_payload;
use crate::rekey_ike::AwaitedIke;
use crate::sa::State;
use crate::timer::Timer;
use crate::wire::ke::KeyExchange;
use crate::wire::notify::Notify;
use crate::wire::{ExchangeType, NotifyType, Payload};

/// How long the responder waits for the next request: longer than a peer repeats one, taking it to be like us by default.
const FOLLOW_UP_WITHIN: Duration = Duration::from_secs(90);
/// Bytes of a link, by which we know our own state again; at random, so that those of two are never the same.
const LINK_BYTES: usize = 8;

/// The requester's part: the secrets so far, the key exchange under way, and those to come.
pub(crate) struct FollowUp {
    secrets: Vec<SharedSecret>,
    share: KeyShare,
    remaining: VecDeque<Group>,
}

/// The responder's part: what waits for the rest of its key exchanges.
pub(crate) struct Awaited {
    link: Vec<u8>,
    secrets: Vec<SharedSecret>,
    remaining: VecDeque<Group>,
    what: AwaitedSa,
}

/// What comes into being with the last key exchange.
pub(crate) enum AwaitedSa {
    Child(AwaitedChild),
    Ike(AwaitedIke),
}

impl FollowUp {
    /// Whether the key exchange under way is the last: the peer has everything with it.
    pub(crate) fn is_last(&self) -> bool {
        self.remaining.is_empty()
    }
}

/// What a response to one of our requests has brought.
pub(crate) enum Followed {
    /// All secrets, in their order.
    Done(Vec<SharedSecret>),
    /// The next request is under way.
    Next(FollowUp),
}

impl Established {
    /// Asks for the first additional key exchange, after a CREATE_CHILD_SA whose response is `content` and whose own key
    /// exchange has made `secret`. The error is for an operator.
    pub(crate) fn follow_up(
        &mut self,
        ctx: &mut Context<'_>,
        additional: &Additional,
        secret: SharedSecret,
        content: &Content,
    ) -> Result<FollowUp, String> {
        self.ask_next(ctx, vec![secret], additional.methods().collect(), content)
    }

    /// Takes the response to an IKE_FOLLOWUP_KE, and asks for the next.
    pub(crate) fn follow_on(
        &mut self,
        ctx: &mut Context<'_>,
        done: FollowUp,
        content: &Content,
    ) -> Result<Followed, String> {
        let FollowUp { mut secrets, share, remaining } = done;
        let ke = key_exchange(content, share.group())?;
        secrets.push(share.agree(&ke.data).map_err(|error| error.to_string())?);
        match remaining.is_empty() {
            true => Ok(Followed::Done(secrets)),
            false => self.ask_next(ctx, secrets, remaining, content).map(Followed::Next),
        }
    }

    fn ask_next(
        &mut self,
        ctx: &mut Context<'_>,
        secrets: Vec<SharedSecret>,
        mut remaining: VecDeque<Group>,
        content: &Content,
    ) -> Result<FollowUp, String> {
        let method = remaining.pop_front().ok_or("no additional key exchange is left")?;
        let link = content.notify(NotifyType::AdditionalKeyExchange).ok_or_else(|| {
            format!("the peer's response has no link to the key exchange {method}, which was agreed on")
        })?;
        let share = KeyShare::generate(method, ctx.random).map_err(|error| error.to_string())?;
        let payloads = [
            ke_payload(method, share.public()),
            Payload::Notify(Notify::with_data(NotifyType::AdditionalKeyExchange, link.data.clone())),
        ];
        let sent = self.channel.request(ctx, ExchangeType::IkeFollowupKe, &payloads);
        sent.map_err(|error| format!("a request could not be sent: {error}"))?;
        Ok(FollowUp { secrets, share, remaining })
    }

    /// Keeps what waits for additional key exchanges, in place of what waited before: a peer that asks for another has
    /// given that up. The payload that links the next request to it.
    pub(crate) fn await_follow_up(
        &mut self,
        ctx: &mut Context<'_>,
        additional: &Additional,
        secret: SharedSecret,
        what: AwaitedSa,
    ) -> Payload {
        let link = ctx.random.next_bytes(LINK_BYTES);
        let remaining = additional.methods().collect();
        let awaited = Awaited { link: link.clone(), secrets: vec![secret], remaining, what };
        self.awaited = Some(Box::new(awaited));
        ctx.timers.set(Timer::FollowUp, ctx.later(FOLLOW_UP_WITHIN));
        Payload::Notify(Notify::with_data(NotifyType::AdditionalKeyExchange, link))
    }

    /// Whether the peer is about to replace the IKE SA: nothing new is begun on it.
    pub(crate) fn awaits_ike(&self) -> bool {
        self.awaited.as_ref().is_some_and(|awaited| matches!(awaited.what, AwaitedSa::Ike(_)))
    }

    /// Whether the peer is about to replace this child.
    pub(crate) fn awaits_rekey_of(&self, child: ChildHandle) -> bool {
        self.awaited.as_ref().is_some_and(
            |awaited| matches!(&awaited.what, AwaitedSa::Child(waiting) if waiting.rekeys == Some(child)),
        )
    }

    /// The peer has taken too long, or what it was making is not wanted any more.
    pub(crate) fn forget_awaited(&mut self, ctx: &mut Context<'_>) {
        self.awaited = None;
        ctx.timers.stop(Timer::FollowUp);
    }

    /// The peer's next additional key exchange.
    pub(crate) fn handle_followup_ke(
        mut self: Box<Self>,
        ctx: &mut Context<'_>,
        path: Path,
        content: &Content,
    ) -> Option<State> {
        let link = content.notify(NotifyType::AdditionalKeyExchange).map(|notify| notify.data.as_slice());
        let Some(mut awaited) = self.awaited.take_if(|awaited| link == Some(awaited.link.as_slice())) else {
            // RFC 9370 section 2.2.4: the peer has to begin again with CREATE_CHILD_SA.
            let refusal = Payload::Notify(Notify::new(NotifyType::StateNotFound));
            self.answer(ctx, ExchangeType::IkeFollowupKe, path, &[refusal]);
            return self.go_on(ctx);
        };
        ctx.timers.stop(Timer::FollowUp);
        let reply = match awaited.exchange(ctx, content) {
            Ok(reply) => reply,
            Err(detail) => {
                self.report(ctx, FailureKind::Malformed, format!("IKE_FOLLOWUP_KE: {detail}"));
                let refusal = Payload::Notify(Notify::new(NotifyType::InvalidSyntax));
                self.answer(ctx, ExchangeType::IkeFollowupKe, path, &[refusal]);
                return self.go_on(ctx);
            }
        };
        if !awaited.remaining.is_empty() {
            let link = ctx.random.next_bytes(LINK_BYTES);
            let next = Payload::Notify(Notify::with_data(NotifyType::AdditionalKeyExchange, link.clone()));
            awaited.link = link;
            self.awaited = Some(awaited);
            ctx.timers.set(Timer::FollowUp, ctx.later(FOLLOW_UP_WITHIN));
            self.answer(ctx, ExchangeType::IkeFollowupKe, path, &[reply, next]);
            return self.go_on(ctx);
        }
        let Awaited { secrets, what, .. } = *awaited;
        match what {
            AwaitedSa::Child(child) => {
                let answer = match self.finish_awaited_child(ctx, child, &secrets) {
                    Ok(()) => reply,
                    Err(refusal) => Payload::Notify(refusal),
                };
                self.answer(ctx, ExchangeType::IkeFollowupKe, path, &[answer]);
                self.go_on(ctx)
            }
            AwaitedSa::Ike(ike) => {
                let made = self.finish_awaited_ike(ctx, ike, &secrets);
                let answer = if made.is_ok() {
                    reply
                } else {
                    Payload::Notify(Notify::new(NotifyType::InvalidSyntax))
                };
                self.answer(ctx, ExchangeType::IkeFollowupKe, path, &[answer]);
                match made {
                    Ok((successor, lowest_nonce)) => self.settle_rival(ctx, successor, lowest_nonce),
                    Err(detail) => {
                        self.report(ctx, FailureKind::Internal, format!("rekey of the IKE SA: {detail}"));
                        self.go_on(ctx)
                    }
                }
            }
        }
    }
}

impl Awaited {
    /// One key exchange: the KE payload that answers it.
    fn exchange(&mut self, ctx: &mut Context<'_>, content: &Content) -> Result<Payload, String> {
        let method = self.remaining.pop_front().ok_or("no additional key exchange is left")?;
        let ke = key_exchange(content, method)?;
        let (data, secret) = dh::respond(method, &ke.data, ctx.random).map_err(|error| error.to_string())?;
        self.secrets.push(secret);
        Ok(ke_payload(method, &data))
    }
}

fn key_exchange(content: &Content, method: Group) -> Result<&KeyExchange, String> {
    let ke = content.ke().map_err(|error| error.to_string())?;
    match ke.group.number() == method.number() {
        true => Ok(ke),
        false => Err(format!("{method} was agreed on, the KE payload is of {}", ke.group)),
    }
}
