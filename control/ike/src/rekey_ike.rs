//! CREATE_CHILD_SA for the IKE SA itself (RFC 7296 sections 1.3.2 and 2.18), both roles. The children move to the new
//! IKE SA, which keeps the handle; the old one is deleted by whoever began.

use crate::channel::{Channel, ChannelParts};
use crate::content::Content;
use crate::context::Context;
use crate::crypto::dh::KeyShare;
use crate::crypto::keys::{Exchanged, IkeKeys};
use crate::crypto::negotiate;
use crate::crypto::suite::{Group, IkeSuite};
use crate::established::{Established, Pending, REKEY_RETRY, Task};
use crate::event::{Event, FailureKind, Path};
use crate::init::ke_payload;
use crate::retired::Retired;
use crate::sa::{IkeSa, State};
use crate::timer::{Timer, TimerTable};
use crate::wire::delete::Delete;
use crate::wire::ke::KeyExchange;
use crate::wire::nonce::Nonce;
use crate::wire::notify::Notify;
use crate::wire::sa::SecurityAssociation;
use crate::wire::transform::KeId;
use crate::wire::{ExchangeType, NotifyType, Payload};
use zeroize::Zeroizing;

/// Our request for a new IKE SA, under way.
pub(crate) struct IkeOffer {
    /// Ours of the new IKE SA.
    spi: u64,
    nonce: Vec<u8>,
    share: KeyShare,
    tried: Vec<Group>,
    /// The peer has rekeyed it meanwhile (section 2.8.2).
    rival: Option<RivalIke>,
}

struct RivalIke {
    successor: Successor,
    lowest_nonce: Vec<u8>,
}

/// The IKE SA that takes over.
struct Successor {
    channel: Channel,
    sk_d: Zeroizing<Vec<u8>>,
}

impl Established {
    /// Asks for a new IKE SA. `group`: where the present one is not wanted.
    pub(crate) fn offer_ike(
        &mut self,
        ctx: &mut Context<'_>,
        group: Option<Group>,
        tried: Vec<Group>,
    ) -> Pending {
        self.send_ike_offer(ctx, group, tried, None)
    }

    fn send_ike_offer(
        &mut self,
        ctx: &mut Context<'_>,
        group: Option<Group>,
        mut tried: Vec<Group>,
        rival: Option<RivalIke>,
    ) -> Pending {
        let group = group.unwrap_or(self.channel.suite.group);
        let share = match KeyShare::generate(group, ctx.random) {
            Ok(share) => share,
            Err(error) => {
                self.report(ctx, FailureKind::Internal, error.to_string());
                return Pending::Nothing;
            }
        };
        tried.push(group);
        let spi = ctx.ike_spi();
        let nonce = ctx.nonce();
        let offered = negotiate::offer_ike(&self.connection.ike_proposals, Some(spi));
        let mut payloads = vec![Payload::Sa(SecurityAssociation::new(offered))];
        payloads.extend(Nonce::new(nonce.clone()).ok().map(Payload::Nonce));
        payloads.push(ke_payload(group, share.public()));
        let offer = IkeOffer { spi, nonce, share, tried, rival };
        self.ask(ctx, ExchangeType::CreateChildSa, &payloads, Pending::Ike(Box::new(offer)))
    }

    /// The peer has answered our request.
    pub(crate) fn conclude_ike(
        self: Box<Self>,
        ctx: &mut Context<'_>,
        offer: IkeOffer,
        content: Content,
    ) -> Option<State> {
        if let Some(error) = content.error() {
            return self.ike_refused(ctx, offer, error);
        }
        let IkeOffer { spi, nonce, share, rival, .. } = offer;
        let made = self.succeed(ctx, &content, spi, &nonce, share);
        let (ours, peer_nonce) = match made {
            Ok(made) => made,
            Err(detail) => {
                self.report(ctx, FailureKind::Malformed, format!("rekey of the IKE SA: {detail}"));
                if let Some(rival) = rival {
                    return self.yield_to(ctx, rival.successor);
                }
                ctx.timers.set(Timer::IkeRekey, ctx.later(REKEY_RETRY));
                return self.go_on(ctx);
            }
        };
        let Some(rival) = rival else { return self.take_over(ctx, ours) };
        // RFC 7296 section 2.8.2: the exchange with the lowest of the four nonces made the redundant IKE SA, which
        // whoever began that exchange deletes; the other deletes the old one.
        if nonce.as_slice().min(&peer_nonce) < rival.lowest_nonce.as_slice() {
            self.spawn_retired(ctx, ours.channel, Some(vec![Payload::Delete(Delete::Ike)]));
            self.yield_to(ctx, rival.successor)
        } else {
            self.spawn_retired(ctx, rival.successor.channel, None);
            self.take_over(ctx, ours)
        }
    }

    /// The IKE SA that our request has made, and the peer's nonce.
    fn succeed(
        &self,
        ctx: &Context<'_>,
        content: &Content,
        spi: u64,
        nonce: &[u8],
        share: KeyShare,
    ) -> Result<(Successor, Vec<u8>), String> {
        let sa = content.sa().map_err(|error| error.to_string())?;
        let ke = content.ke().map_err(|error| error.to_string())?;
        let peer_nonce = content.nonce().map_err(|error| error.to_string())?;
        let choice = negotiate::confirm_ike(&sa.proposals, &self.connection.ike_proposals, true)
            .map_err(|error| error.to_string())?;
        let spi_r = choice.peer_spi.ok_or("the peer's proposal has no SPI")?;
        if choice.suite.group != share.group() {
            return Err(format!("the peer chose {}, our key was for {}", choice.suite.group, share.group()));
        }
        let exchanged = Exchanged { nonce_i: nonce, nonce_r: peer_nonce, spi_i: spi, spi_r };
        Ok((self.successor(ctx, choice.suite, share, ke, exchanged, true)?, peer_nonce.to_vec()))
    }

    fn successor(
        &self,
        ctx: &Context<'_>,
        suite: IkeSuite,
        share: KeyShare,
        ke: &KeyExchange,
        exchanged: Exchanged<'_>,
        initiator: bool,
    ) -> Result<Successor, String> {
        if ke.group.number() != share.group().number() {
            return Err(format!("{} was agreed on, the KE payload is of {}", share.group(), ke.group));
        }
        let secret = share.agree(&ke.data).map_err(|error| error.to_string())?;
        let keys = IkeKeys::rekey(&suite, self.channel.suite.prf, &self.sk_d, &secret, exchanged)
            .map_err(|error| error.to_string())?;
        let parts = ChannelParts {
            spi_i: exchanged.spi_i,
            spi_r: exchanged.spi_r,
            initiator,
            suite,
            path: self.channel.path,
            nat: self.channel.nat,
            fragmentation: self.channel.fragmentation,
        };
        let channel = Channel::rekeyed(parts, &keys, ctx.now).map_err(|error| error.to_string())?;
        Ok(Successor { channel, sk_d: keys.d.clone() })
    }

    fn ike_refused(
        mut self: Box<Self>,
        ctx: &mut Context<'_>,
        offer: IkeOffer,
        error: &Notify,
    ) -> Option<State> {
        match error.notify_type {
            NotifyType::InvalidKePayload => {
                let wanted =
                    error.invalid_ke_group().ok().and_then(|group| Group::from_number(group.number()));
                let offered =
                    |group: &Group| self.connection.ike_proposals.iter().any(|p| p.groups().contains(group));
                if let Some(group) = wanted.filter(|group| offered(group) && !offer.tried.contains(group)) {
                    self.pending = self.send_ike_offer(ctx, Some(group), offer.tried, offer.rival);
                    return self.go_on(ctx);
                }
            }
            // RFC 7296 section 1.3: it can't rekey at all; a new IKE SA does what a rekey would.
            NotifyType::NoAdditionalSas if offer.rival.is_none() && self.origin.ours => {
                self.reauthenticate(ctx);
                return self.go_on(ctx);
            }
            NotifyType::TemporaryFailure if offer.rival.is_none() => {
                self.defer(ctx, Task::RekeyIke);
                return self.go_on(ctx);
            }
            _ => {}
        }
        // RFC 7296 section 2.25.2: the peer's own rekey has succeeded; ours is needless.
        if let Some(rival) = offer.rival {
            return self.yield_to(ctx, rival.successor);
        }
        let detail = format!("the peer refused to rekey the IKE SA with {error}: compare the IKE proposals");
        self.report(ctx, FailureKind::RefusedByPeer, detail);
        ctx.timers.set(Timer::IkeRekey, ctx.later(REKEY_RETRY));
        self.go_on(ctx)
    }

    /// The peer asks for a new IKE SA.
    pub(crate) fn accept_ike(
        mut self: Box<Self>,
        ctx: &mut Context<'_>,
        path: Path,
        content: Content,
    ) -> Option<State> {
        let (successor, lowest_nonce) = match self.answer_ike(ctx, path, &content) {
            Ok(made) => made,
            Err(refusal) => {
                self.answer(ctx, ExchangeType::CreateChildSa, path, &[Payload::Notify(refusal)]);
                return self.go_on(ctx);
            }
        };
        // Both have rekeyed: the answer to ours decides.
        if let Pending::Ike(offer) = &mut self.pending {
            offer.rival = Some(RivalIke { successor, lowest_nonce });
            return self.go_on(ctx);
        }
        self.yield_to(ctx, successor)
    }

    fn answer_ike(
        &mut self,
        ctx: &mut Context<'_>,
        path: Path,
        content: &Content,
    ) -> Result<(Successor, Vec<u8>), Notify> {
        let syntax = |_| Notify::new(NotifyType::InvalidSyntax);
        // RFC 7296 section 2.25.2: not while a child is being made, rekeyed or closed. And one rival is enough.
        let busy = match &self.pending {
            Pending::Child(_) | Pending::Delete(_) => true,
            Pending::Ike(offer) => offer.rival.is_some(),
            Pending::Nothing | Pending::Liveness | Pending::Update(_) | Pending::Check { .. } => false,
        };
        if busy {
            return Err(Notify::new(NotifyType::TemporaryFailure));
        }
        let (sa, ke) = (content.sa().map_err(syntax)?, content.ke().map_err(syntax)?);
        let nonce_i = content.nonce().map_err(syntax)?;
        let theirs = Group::from_number(ke.group.number());
        let spi = ctx.ike_spi();
        let choice = negotiate::choose_ike(&sa.proposals, &self.connection.ike_proposals, Some(spi), theirs)
            .map_err(|error| {
                self.report(ctx, FailureKind::NoProposalChosen, format!("rekey of the IKE SA: {error}"));
                Notify::new(NotifyType::NoProposalChosen)
            })?;
        if theirs != Some(choice.suite.group) {
            return Err(Notify::invalid_ke(KeId::from(choice.suite.group.number())));
        }
        let spi_i = choice.peer_spi.ok_or_else(|| Notify::new(NotifyType::InvalidSyntax))?;
        let made = KeyShare::generate(choice.suite.group, ctx.random).map_err(|error| error.to_string());
        let nonce_r = ctx.nonce();
        let made = made.and_then(|share| {
            let reply = vec![
                Payload::Sa(SecurityAssociation::new(vec![choice.answer.clone()])),
                Payload::Nonce(Nonce::new(nonce_r.clone()).map_err(|error| error.to_string())?),
                ke_payload(share.group(), share.public()),
            ];
            let exchanged = Exchanged { nonce_i, nonce_r: &nonce_r, spi_i, spi_r: spi };
            Ok((self.successor(ctx, choice.suite, share, ke, exchanged, false)?, reply))
        });
        let (successor, reply) = made.map_err(|detail| {
            self.report(ctx, FailureKind::Malformed, format!("rekey of the IKE SA: {detail}"));
            Notify::new(NotifyType::InvalidSyntax)
        })?;
        self.answer(ctx, ExchangeType::CreateChildSa, path, &reply);
        let lowest_nonce = nonce_r.min(nonce_i.to_vec());
        Ok((successor, lowest_nonce))
    }

    /// Our rekey counts: go on with its IKE SA, and delete the old one.
    fn take_over(self: Box<Self>, ctx: &mut Context<'_>, successor: Successor) -> Option<State> {
        self.move_to(ctx, successor, Some(vec![Payload::Delete(Delete::Ike)]))
    }

    /// The peer's rekey counts: go on with its IKE SA. The peer deletes the old one.
    fn yield_to(self: Box<Self>, ctx: &mut Context<'_>, successor: Successor) -> Option<State> {
        self.move_to(ctx, successor, None)
    }

    /// RFC 7296 section 2.25.2: the peer has deleted the old IKE SA while our own rekey was under way. If it had made a
    /// new one, that counts.
    pub(crate) fn yield_to_rival(
        mut self: Box<Self>,
        ctx: &mut Context<'_>,
    ) -> Result<Option<State>, Box<Self>> {
        match std::mem::take(&mut self.pending) {
            Pending::Ike(offer) => match offer.rival {
                Some(rival) => Ok(self.yield_to(ctx, rival.successor)),
                None => Err(self),
            },
            pending => {
                self.pending = pending;
                Err(self)
            }
        }
    }

    /// Moves all there is to the successor, a new entry of the endpoint; what stays is the old channel.
    fn move_to(
        mut self: Box<Self>,
        ctx: &mut Context<'_>,
        successor: Successor,
        farewell: Option<Vec<Payload>>,
    ) -> Option<State> {
        let mut timers = std::mem::take(ctx.timers);
        timers.stop(Timer::Retransmit);
        let mut old = std::mem::replace(&mut self.channel, successor.channel);
        old.abandon(ctx);
        self.sk_d = successor.sk_d;
        self.keep_mobility_tasks();
        self.pending = Pending::Nothing;
        self.created = ctx.now;
        self.rekey_at = ctx.renewal(self.connection.ike_rekey_after);
        timers.set(Timer::IkeRekey, self.rekey_at);
        let again = |task: &Task| !matches!(task, Task::RekeyIke);
        self.tasks.retain(again);
        self.deferred.retain(again);
        ctx.out.counters.ike_rekeyed += 1;
        ctx.out.event(Event::IkeRekeyed {
            ike: self.handle,
            connection: self.connection.name.clone(),
            spi_i: self.channel.spi_i,
            spi_r: self.channel.spi_r,
        });
        let spi = self.channel.local_spi();
        let state = self.go_on(&mut ctx.with_timers(&mut timers))?;
        ctx.spawned.push(IkeSa { spi, timers, state });
        Retired::begin(ctx, old, farewell)
    }

    /// The redundant IKE SA of a collision has only to be deleted.
    fn spawn_retired(&self, ctx: &mut Context<'_>, channel: Channel, farewell: Option<Vec<Payload>>) {
        let spi = channel.local_spi();
        let mut timers = TimerTable::default();
        if let Some(state) = Retired::begin(&mut ctx.with_timers(&mut timers), channel, farewell) {
            ctx.spawned.push(IkeSa { spi, timers, state });
        }
    }
}
