//! The responder's IKE_INTERMEDIATE. The peer is still nobody: a wrong step ends it.

use super::conclude;
use crate::auth::responder::AwaitAuth;
use crate::channel::Message;
use crate::context::Context;
use crate::crypto::dh;
use crate::init::ke_payload;
use crate::sa::State;
use crate::timer::Timer;
use crate::wire::ExchangeType;

impl AwaitAuth {
    /// Carries out the additional key exchange that is next.
    pub(crate) fn exchange_keys(
        mut self: Box<Self>,
        ctx: &mut Context<'_>,
        message: &Message,
    ) -> Option<State> {
        let made = self.answer_intermediate(ctx, message);
        match made {
            Ok(()) => {
                // At most seven times: that many exchanges can have been agreed on.
                let limit = ctx.config.limits.half_open_timeout;
                ctx.timers.set(Timer::HalfOpen, ctx.later(limit));
                Some(State::AwaitAuth(self))
            }
            Err(detail) => self.refuse_step(ctx, message, detail),
        }
    }

    fn answer_intermediate(&mut self, ctx: &mut Context<'_>, message: &Message) -> Result<(), String> {
        let content = message.content.as_ref().map_err(|error| format!("IKE_INTERMEDIATE: {error}"))?;
        let method = self
            .agreed
            .intermediate
            .next()
            .ok_or("an IKE_INTERMEDIATE that was not agreed on; the peer's implementation is at fault")?;
        let ke = content.ke.as_ref().filter(|ke| ke.group.number() == method.number()).ok_or_else(|| {
            format!("an IKE_INTERMEDIATE without a KE payload of {method}, which was agreed on")
        })?;
        let (data, secret) = dh::respond(method, &ke.data, ctx.random).map_err(|error| error.to_string())?;
        let payloads = [ke_payload(method, &data)];
        self.channel
            .respond(ctx, ExchangeType::IkeIntermediate, message.path, &payloads)
            .map_err(|error| error.to_string())?;
        let response = self.channel.take_sent_intermediate();
        conclude(&mut self.agreed, &mut self.channel, &message.octets, &response, &secret)
    }
}
