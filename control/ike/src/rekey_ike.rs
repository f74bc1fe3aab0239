//! CREATE_CHILD_SA for the IKE SA itself (RFC 7296 sections 1.3.2 and 2.18), both roles. The children move to the new
//! IKE SA, which keeps the handle; the old one is deleted by whoever began.

use crate::channel::{Channel, ChannelParts};
use crate::content::Content;
use crate::context::Context;
use crate::crypto::dh::{self, KeyShare, SharedSecret};
use crate::crypto::keys::{Exchanged, IkeKeys};
use crate::crypto::negotiate;
use crate::crypto::suite::{Group, IkeSuite};
use crate::established::{Established, Pending, REKEY_RETRY, Task};
use crate::event::{Event, FailureKind, Path};
use crate::followup::{AwaitedSa, FollowUp, Followed};
use crate::init::ke_payload;
use crate::retired::Retired;
use crate::sa::{IkeSa, State};
use crate::timer::{Timer, TimerTable};
use crate::wire::delete::Delete;
use crate::wire::nonce::Nonce;
use crate::wire::notify::Notify;
use crate::wire::sa::SecurityAssociation;
use crate::wire::transform::KeId;
use crate::wire::{ExchangeType, NotifyType, Payload};
use zeroize::Zeroizing;

/// Our request for a new IKE SA, under way.
pub(crate) struct IkeOffer {
    wish: IkeWish,
    stage: IkeStage,
}

/// What we want, and what has come to pass since we asked.
struct IkeWish {
    /// Ours of the new IKE SA.
    spi: u64,
    nonce: Vec<u8>,
    tried: Vec<Group>,
    /// The peer has rekeyed it meanwhile (section 2.8.2).
    rival: Option<RivalIke>,
}

enum IkeStage {
    /// CREATE_CHILD_SA is under way.
    Asked(KeyShare),
    /// It is agreed on, and an additional key exchange is under way.
    Following { terms: IkeTerms, follow_up: FollowUp },
}

/// What CREATE_CHILD_SA has agreed on, apart from keys.
struct IkeTerms {
    suite: IkeSuite,
    spi_i: u64,
    spi_r: u64,
    nonce_i: Vec<u8>,
    nonce_r: Vec<u8>,
}

/// An IKE SA that the peer has asked for, and that waits for additional key exchanges.
pub(crate) struct AwaitedIke(IkeTerms);

struct RivalIke {
    /// `None`: it waits for additional key exchanges.
    successor: Option<Successor>,
    lowest_nonce: Vec<u8>,
}

impl IkeWish {
    /// RFC 7296 section 2.8.2: both have rekeyed. The exchange with the lowest of the four nonces made the redundant IKE
    /// SA, which whoever began that exchange deletes; the other deletes the old one.
    fn is_redundant(&self, terms: &IkeTerms) -> bool {
        self.rival.as_ref().is_some_and(|rival| terms.lowest_nonce() < rival.lowest_nonce.as_slice())
    }
}

impl IkeTerms {
    fn lowest_nonce(&self) -> &[u8] {
        self.nonce_i.as_slice().min(&self.nonce_r)
    }
}

/// The IKE SA that takes over.
pub(crate) struct Successor {
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
        let wish = IkeWish { spi, nonce, tried, rival };
        let offer = IkeOffer { wish, stage: IkeStage::Asked(share) };
        self.ask(ctx, ExchangeType::CreateChildSa, &payloads, Pending::Ike(Box::new(offer)))
    }

    /// The peer has answered our request, or an additional key exchange after it.
    pub(crate) fn conclude_ike(
        mut self: Box<Self>,
        ctx: &mut Context<'_>,
        offer: IkeOffer,
        content: Content,
    ) -> Option<State> {
        let IkeOffer { wish, stage } = offer;
        if let Some(error) = content.error() {
            return self.ike_refused(ctx, wish, error);
        }
        let followed = match stage {
            IkeStage::Asked(share) => self.conclude_ike_asked(ctx, &wish, share, &content),
            IkeStage::Following { terms, follow_up } => {
                match follow_up.is_last() || !wish.is_redundant(&terms) {
                    true => self.follow_on(ctx, follow_up, &content).map(|followed| Some((terms, followed))),
                    false => Ok(None),
                }
            }
        };
        let made = match followed {
            Ok(Some((terms, Followed::Next(follow_up)))) => {
                let stage = IkeStage::Following { terms, follow_up };
                self.pending = Pending::Ike(Box::new(IkeOffer { wish, stage }));
                return self.go_on(ctx);
            }
            // As long as the peer lacks the redundant IKE SA too, it is simply not gone on with.
            Ok(None) => return self.give_way(ctx, wish.rival),
            Ok(Some((terms, Followed::Done(secrets)))) => {
                self.successor(ctx, &terms, &secrets, true).map(|made| (terms, made))
            }
            Err(detail) => Err(detail),
        };
        let (terms, ours) = match made {
            Ok(made) => made,
            Err(detail) => {
                self.report(ctx, FailureKind::Malformed, format!("rekey of the IKE SA: {detail}"));
                return self.give_way(ctx, wish.rival);
            }
        };
        if wish.is_redundant(&terms) {
            self.spawn_retired(ctx, ours.channel, Some(vec![Payload::Delete(Delete::Ike)]));
            return self.give_way(ctx, wish.rival);
        }
        if let Some(loser) = wish.rival.and_then(|rival| rival.successor) {
            self.spawn_retired(ctx, loser.channel, None);
        }
        self.take_over(ctx, ours)
    }

    /// The peer's own rekey counts, when it is done; without one ours is tried again.
    fn give_way(self: Box<Self>, ctx: &mut Context<'_>, rival: Option<RivalIke>) -> Option<State> {
        match rival.and_then(|rival| rival.successor) {
            Some(successor) => self.yield_to(ctx, successor),
            None => {
                ctx.timers.set(Timer::IkeRekey, ctx.later(REKEY_RETRY));
                self.go_on(ctx)
            }
        }
    }

    /// The peer has answered CREATE_CHILD_SA. `None`: the new IKE SA is redundant, and the peer does not have it.
    fn conclude_ike_asked(
        &mut self,
        ctx: &mut Context<'_>,
        wish: &IkeWish,
        share: KeyShare,
        content: &Content,
    ) -> Result<Option<(IkeTerms, Followed)>, String> {
        let sa = content.sa().map_err(|error| error.to_string())?;
        let ke = content.ke().map_err(|error| error.to_string())?;
        let peer_nonce = content.nonce().map_err(|error| error.to_string())?;
        let choice = negotiate::confirm_ike(&sa.proposals, &self.connection.ike_proposals, true)
            .map_err(|error| error.to_string())?;
        let suite = choice.suite;
        let spi_r = choice.peer_spi.ok_or("the peer's proposal has no SPI")?;
        if suite.group != share.group() {
            return Err(format!("the peer chose {}, our key was for {}", suite.group, share.group()));
        }
        if ke.group.number() != share.group().number() {
            return Err(format!("{} was agreed on, the KE payload is of {}", share.group(), ke.group));
        }
        let secret = share.agree(&ke.data).map_err(|error| error.to_string())?;
        let (nonce_i, nonce_r) = (wish.nonce.clone(), peer_nonce.to_vec());
        let terms = IkeTerms { suite, spi_i: wish.spi, spi_r, nonce_i, nonce_r };
        if suite.additional.is_empty() {
            return Ok(Some((terms, Followed::Done(vec![secret]))));
        }
        if wish.is_redundant(&terms) {
            return Ok(None);
        }
        let follow_up = self.follow_up(ctx, &suite.additional, secret, content)?;
        Ok(Some((terms, Followed::Next(follow_up))))
    }

    fn successor(
        &self,
        ctx: &Context<'_>,
        terms: &IkeTerms,
        secrets: &[SharedSecret],
        initiator: bool,
    ) -> Result<Successor, String> {
        let IkeTerms { suite, spi_i, spi_r, nonce_i, nonce_r } = terms;
        let exchanged = Exchanged { nonce_i, nonce_r, spi_i: *spi_i, spi_r: *spi_r };
        let keys = IkeKeys::rekey(suite, self.channel.suite.prf, &self.sk_d, secrets, exchanged)
            .map_err(|error| error.to_string())?;
        let parts = ChannelParts {
            spi_i: *spi_i,
            spi_r: *spi_r,
            initiator,
            suite: *suite,
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
        wish: IkeWish,
        error: &Notify,
    ) -> Option<State> {
        match error.notify_type {
            NotifyType::InvalidKePayload => {
                let wanted =
                    error.invalid_ke_group().ok().and_then(|group| Group::from_number(group.number()));
                let offered =
                    |group: &Group| self.connection.ike_proposals.iter().any(|p| p.groups().contains(group));
                if let Some(group) = wanted.filter(|group| offered(group) && !wish.tried.contains(group)) {
                    self.pending = self.send_ike_offer(ctx, Some(group), wish.tried, wish.rival);
                    return self.go_on(ctx);
                }
            }
            // RFC 7296 section 1.3: it can't rekey at all; a new IKE SA does what a rekey would.
            NotifyType::NoAdditionalSas if wish.rival.is_none() && self.origin.ours => {
                self.reauthenticate(ctx);
                return self.go_on(ctx);
            }
            // RFC 9370 section 2.2.4: the peer knows no more of the exchange that was to be gone on with.
            NotifyType::TemporaryFailure | NotifyType::StateNotFound if wish.rival.is_none() => {
                self.defer(ctx, Task::RekeyIke);
                return self.go_on(ctx);
            }
            _ => {}
        }
        // RFC 7296 section 2.25.2: the peer's own rekey has succeeded, or is about to; ours is needless.
        if wish.rival.is_none() {
            let detail =
                format!("the peer refused to rekey the IKE SA with {error}: compare the IKE proposals");
            self.report(ctx, FailureKind::RefusedByPeer, detail);
        }
        self.give_way(ctx, wish.rival)
    }

    /// The peer asks for a new IKE SA.
    pub(crate) fn accept_ike(
        mut self: Box<Self>,
        ctx: &mut Context<'_>,
        path: Path,
        content: Content,
    ) -> Option<State> {
        let (terms, secret, mut reply) = match self.agree_ike(ctx, &content) {
            Ok(agreed) => agreed,
            Err(refusal) => {
                self.answer(ctx, ExchangeType::CreateChildSa, path, &[Payload::Notify(refusal)]);
                return self.go_on(ctx);
            }
        };
        let additional = terms.suite.additional;
        if !additional.is_empty() {
            if let Pending::Ike(offer) = &mut self.pending {
                let lowest_nonce = terms.lowest_nonce().to_vec();
                offer.wish.rival = Some(RivalIke { successor: None, lowest_nonce });
            }
            let awaited = AwaitedSa::Ike(AwaitedIke(terms));
            reply.push(self.await_follow_up(ctx, &additional, secret, awaited));
            self.answer(ctx, ExchangeType::CreateChildSa, path, &reply);
            return self.go_on(ctx);
        }
        match self.finish_awaited_ike(ctx, AwaitedIke(terms), &[secret]) {
            Ok((successor, lowest_nonce)) => {
                self.answer(ctx, ExchangeType::CreateChildSa, path, &reply);
                self.settle_rival(ctx, successor, lowest_nonce)
            }
            Err(detail) => {
                self.report(ctx, FailureKind::Internal, format!("rekey of the IKE SA: {detail}"));
                let refusal = Payload::Notify(Notify::new(NotifyType::TemporaryFailure));
                self.answer(ctx, ExchangeType::CreateChildSa, path, &[refusal]);
                self.go_on(ctx)
            }
        }
    }

    /// The IKE SA that the peer has asked for, its key exchanges done, and the lower of its nonces.
    pub(crate) fn finish_awaited_ike(
        &self,
        ctx: &Context<'_>,
        AwaitedIke(terms): AwaitedIke,
        secrets: &[SharedSecret],
    ) -> Result<(Successor, Vec<u8>), String> {
        Ok((self.successor(ctx, &terms, secrets, false)?, terms.lowest_nonce().to_vec()))
    }

    /// The peer has a new IKE SA. If both have rekeyed, the answer to ours decides.
    pub(crate) fn settle_rival(
        mut self: Box<Self>,
        ctx: &mut Context<'_>,
        successor: Successor,
        lowest_nonce: Vec<u8>,
    ) -> Option<State> {
        if let Pending::Ike(offer) = &mut self.pending {
            offer.wish.rival = Some(RivalIke { successor: Some(successor), lowest_nonce });
            return self.go_on(ctx);
        }
        self.yield_to(ctx, successor)
    }

    fn agree_ike(
        &mut self,
        ctx: &mut Context<'_>,
        content: &Content,
    ) -> Result<(IkeTerms, SharedSecret, Vec<Payload>), Notify> {
        let syntax = |_| Notify::new(NotifyType::InvalidSyntax);
        // RFC 7296 section 2.25.2: not while a child is being made, rekeyed or closed. And one rival is enough.
        let busy = match &self.pending {
            Pending::Child(_) | Pending::Delete(_) => true,
            Pending::Ike(offer) => offer.wish.rival.as_ref().is_some_and(|rival| rival.successor.is_some()),
            Pending::Nothing | Pending::Liveness | Pending::Update(_) | Pending::Check { .. } => false,
        };
        if busy {
            return Err(Notify::new(NotifyType::TemporaryFailure));
        }
        let (sa, ke) = (content.sa().map_err(syntax)?, content.ke().map_err(syntax)?);
        let nonce_i = content.nonce().map_err(syntax)?.to_vec();
        let theirs = Group::from_number(ke.group.number());
        let spi_r = ctx.ike_spi();
        let ours = &self.connection.ike_proposals;
        let choice =
            negotiate::choose_ike(&sa.proposals, ours, Some(spi_r), theirs, true).map_err(|error| {
                self.report(ctx, FailureKind::NoProposalChosen, format!("rekey of the IKE SA: {error}"));
                Notify::new(NotifyType::NoProposalChosen)
            })?;
        let suite = choice.suite;
        if theirs != Some(suite.group) {
            return Err(Notify::invalid_ke(KeId::from(suite.group.number())));
        }
        let spi_i = choice.peer_spi.ok_or_else(|| Notify::new(NotifyType::InvalidSyntax))?;
        let (data, secret) = dh::respond(suite.group, &ke.data, ctx.random).map_err(|error| {
            self.report(ctx, FailureKind::Malformed, format!("rekey of the IKE SA: {error}"));
            Notify::new(NotifyType::InvalidSyntax)
        })?;
        let nonce_r = ctx.nonce();
        let mut reply = vec![Payload::Sa(SecurityAssociation::new(vec![choice.answer]))];
        reply.extend(Nonce::new(nonce_r.clone()).ok().map(Payload::Nonce));
        reply.push(ke_payload(suite.group, &data));
        Ok((IkeTerms { suite, spi_i, spi_r, nonce_i, nonce_r }, secret, reply))
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
            Pending::Ike(offer) => match offer.wish.rival.and_then(|rival| rival.successor) {
                Some(successor) => Ok(self.yield_to(ctx, successor)),
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
        self.forget_awaited(ctx);
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
