//! CREATE_CHILD_SA for child SAs (RFC 7296 sections 1.3.1, 1.3.3 and 2.8): new ones and rekeys, both roles.
//!
//! No packet is lost in a rekey. The responder takes the new inbound SA into use before it answers and goes on sending
//! with the old pair; the initiator sends with the new one from the answer on, then deletes the old one; the responder
//! follows when it sees the first packet or that DELETE.

use std::sync::Arc;
use std::time::Duration;

use crate::child::{self, ChildError, ChildPhase, Proposed, Terms};
use crate::config::ChildConfig;
use crate::content::Content;
use crate::context::Context;
use crate::crypto::dh::{self, KeyShare, SharedSecret};
use crate::crypto::keys::ChildKeymat;
use crate::crypto::negotiate::{self, Pfs};
use crate::crypto::suite::Group;
use crate::established::{Established, NewChild, Pending, REKEY_RETRY, Task};
use crate::event::{Binding, ChildHandle, CloseReason, FailureKind, Path};
use crate::followup::{AwaitedSa, FollowUp, Followed};
use crate::init::ke_payload;
use crate::resources;
use crate::sa::State;
use crate::spi::InboundSpi;
use crate::timer::Timer;
use crate::wire::nonce::Nonce;
use crate::wire::notify::Notify;
use crate::wire::sa::SecurityAssociation;
use crate::wire::transform::KeId;
use crate::wire::ts::TrafficSelectors;
use crate::wire::{ExchangeType, NotifyType, Payload, ProtocolId};

/// Our request for a child SA, under way.
pub(crate) struct ChildOffer {
    wish: ChildWish,
    stage: ChildStage,
}

/// What we ask for.
pub(crate) struct Aim {
    pub(crate) config: Arc<ChildConfig>,
    pub(crate) rekeys: Option<ChildHandle>,
    /// `None`: a first pair, of which the peer says whether there may be more.
    pub(crate) binding: Option<Binding>,
    /// The pair beside which it is to stand, for a single resource.
    pub(crate) beside: Option<ChildHandle>,
}

/// It, and what has come to pass since we asked.
struct ChildWish {
    config: Arc<ChildConfig>,
    rekeys: Option<ChildHandle>,
    binding: Option<Binding>,
    beside: Option<ChildHandle>,
    nonce: Vec<u8>,
    /// Groups a key was made for.
    tried: Vec<Group>,
    /// The peer has rekeyed the same child meanwhile (section 2.8.1).
    rival: Option<RivalChild>,
    /// SPIs unknown to us that the peer has deleted meanwhile: its DELETE can overtake its response.
    deleted: Vec<u32>,
}

enum ChildStage {
    /// CREATE_CHILD_SA is under way.
    Asked { spi: InboundSpi, share: Option<KeyShare> },
    /// It is agreed on, and an additional key exchange is under way.
    Following { terms: Terms, peer_nonce: Vec<u8>, follow_up: FollowUp },
}

/// A child that the peer has asked for, and that waits for additional key exchanges.
pub(crate) struct AwaitedChild {
    terms: Terms,
    pub(crate) rekeys: Option<ChildHandle>,
    binding: Binding,
    nonce_i: Vec<u8>,
    nonce_r: Vec<u8>,
}

/// A peer that has not had our answer by then counts as dead.
pub(crate) const CONFIRMED_AFTER: Duration = Duration::from_secs(120);
/// Most SPIs remembered in [`ChildOffer::deleted`]; one can be the right one.
const MAX_DELETED: usize = 16;
/// Pairs of child SAs of one IKE SA at most: each child and those that a rekey or a collision of rekeys makes beside it,
/// with room for a peer that is slow to delete.
const MAX_CHILDREN: usize = 16;
const MAX_CHILDREN_OF_ONE: usize = 4;

impl ChildOffer {
    /// Whether it would be the child of this name, or its successor; not one for a single resource.
    pub(crate) fn would_be(&self, name: &str) -> bool {
        self.wish.binding.and_then(Binding::resource).is_none() && *self.wish.config.name == *name
    }

    /// The resource that it is asked for, and the pair beside which.
    pub(crate) fn resource(&self) -> Option<(ChildHandle, u16)> {
        self.wish.beside.zip(self.wish.binding.and_then(Binding::resource))
    }

    /// The peer deletes a pair that we don't know (yet).
    pub(crate) fn note_deleted(&mut self, spi_out: u32) {
        if self.wish.deleted.len() < MAX_DELETED {
            self.wish.deleted.push(spi_out);
        }
    }
}

impl ChildWish {
    fn aim(self) -> (Aim, Vec<Group>, Option<RivalChild>) {
        let Self { config, rekeys, binding, beside, tried, rival, .. } = self;
        (Aim { config, rekeys, binding, beside }, tried, rival)
    }

    /// RFC 7296 section 2.8.1: both have rekeyed. The exchange with the lowest of the four nonces made the redundant
    /// pair, which whoever began that exchange deletes; the other deletes the old pair.
    fn is_redundant(&self, peer_nonce: &[u8]) -> bool {
        let rival = self.rival.as_ref();
        rival.is_some_and(|rival| self.nonce.as_slice().min(peer_nonce) < rival.lowest_nonce.as_slice())
    }
}

pub(crate) struct RivalChild {
    /// `None`: it waits for additional key exchanges.
    child: Option<ChildHandle>,
    lowest_nonce: Vec<u8>,
}

impl Established {
    /// Asks for a new child; `group`: the one to make a key for, where the first choice is not wanted.
    pub(crate) fn offer_child(
        &mut self,
        ctx: &mut Context<'_>,
        config: Arc<ChildConfig>,
        group: Option<Group>,
        tried: Vec<Group>,
    ) -> Pending {
        self.offer(ctx, Aim { config, rekeys: None, binding: None, beside: None }, group, tried, None)
    }

    /// Asks to replace a child. Nothing is asked if it is about to go anyway.
    pub(crate) fn offer_rekey(&mut self, ctx: &mut Context<'_>, handle: ChildHandle) -> Pending {
        match self.children.get(&handle) {
            // The peer is at it. Whatever becomes of that, we look again.
            Some(_) if self.awaits_rekey_of(handle) => {
                self.retry_rekey(ctx, Some(handle));
                Pending::Nothing
            }
            Some(child) if child.phase == ChildPhase::Up => {
                let (config, group) = (child.terms.config.clone(), child.terms.suite.group);
                let aim = Aim { config, rekeys: Some(handle), binding: Some(child.binding), beside: None };
                self.offer(ctx, aim, group, Vec::new(), None)
            }
            _ => Pending::Nothing,
        }
    }

    pub(crate) fn offer(
        &mut self,
        ctx: &mut Context<'_>,
        aim: Aim,
        group: Option<Group>,
        mut tried: Vec<Group>,
        rival: Option<RivalChild>,
    ) -> Pending {
        let Aim { config, rekeys, binding, beside } = aim;
        let group = group
            .or_else(|| config.esp_proposals.iter().find_map(|proposal| proposal.groups().first().copied()));
        let share = match group.map(|group| KeyShare::generate(group, ctx.random)).transpose() {
            Ok(share) => share,
            Err(error) => {
                self.report(ctx, FailureKind::Internal, error.to_string());
                return Pending::Nothing;
            }
        };
        tried.extend(group);
        let spi = ctx.numbers.esp_spis.take(ctx.random);
        let nonce = ctx.nonce();
        let replaced = rekeys.and_then(|handle| self.children.get(&handle));
        let offered =
            negotiate::offer_esp(&config.esp_proposals, spi.number(), Pfs::Negotiated { ke: group });
        let mut payloads = Vec::new();
        payloads.extend(replaced.map(|child| {
            Payload::Notify(Notify::about_esp(NotifyType::RekeySa, child.terms.spi_in.number()))
        }));
        payloads.push(Payload::Sa(SecurityAssociation::new(offered)));
        payloads.extend(Nonce::new(nonce.clone()).ok().map(Payload::Nonce));
        payloads.extend(share.as_ref().map(|share| ke_payload(share.group(), share.public())));
        payloads.push(Payload::TsI(TrafficSelectors::new(config.local.clone())));
        payloads.push(Payload::TsR(TrafficSelectors::new(config.remote.clone())));
        payloads.push(Payload::Notify(Notify::new(NotifyType::EspTfcPaddingNotSupported)));
        payloads.extend(self.announce_resource(ctx, &config, binding));
        let wish = ChildWish { config, rekeys, binding, beside, nonce, tried, rival, deleted: Vec::new() };
        let offer = ChildOffer { wish, stage: ChildStage::Asked { spi, share } };
        self.ask(ctx, ExchangeType::CreateChildSa, &payloads, Pending::Child(Box::new(offer)))
    }

    /// The peer has answered our request, or an additional key exchange after it.
    pub(crate) fn conclude_child(&mut self, ctx: &mut Context<'_>, offer: ChildOffer, content: Content) {
        let ChildOffer { wish, stage } = offer;
        if let Some(error) = content.error() {
            self.child_refused(ctx, wish, error);
            return;
        }
        match stage {
            ChildStage::Asked { spi, share } => self.conclude_asked(ctx, wish, spi, share, &content),
            ChildStage::Following { terms, peer_nonce, follow_up } => {
                // As long as the peer lacks the redundant pair too, it is simply not gone on with.
                if !follow_up.is_last() && wish.is_redundant(&peer_nonce) {
                    return self.retry(ctx, &wish);
                }
                match self.follow_on(ctx, follow_up, &content) {
                    Ok(Followed::Done(secrets)) => {
                        self.finish_child(ctx, wish, terms, &peer_nonce, &secrets);
                    }
                    Ok(Followed::Next(follow_up)) => {
                        let stage = ChildStage::Following { terms, peer_nonce, follow_up };
                        self.pending = Pending::Child(Box::new(ChildOffer { wish, stage }));
                    }
                    Err(detail) => self.child_broken(ctx, &wish, terms.spi_in.number(), &detail),
                }
            }
        }
    }

    /// The peer has answered CREATE_CHILD_SA.
    fn conclude_asked(
        &mut self,
        ctx: &mut Context<'_>,
        mut wish: ChildWish,
        spi: InboundSpi,
        share: Option<KeyShare>,
        content: &Content,
    ) {
        let number = spi.number();
        let group = share.as_ref().map(KeyShare::group);
        let proposed = || Ok(Proposed { sa: content.sa()?, ours: content.ts_i()?, theirs: content.ts_r()? });
        let terms = proposed().and_then(|proposed| {
            child::confirm(wish.config.clone(), spi, proposed, Pfs::Negotiated { ke: group })
        });
        let terms = terms.and_then(|terms| self.with_a_new_spi(terms));
        let terms = terms.and_then(|terms| match wish.beside {
            Some(_) => child::with_all_selectors(terms),
            None => Ok(terms),
        });
        let terms = match terms {
            Ok(terms) => terms,
            Err(error) => {
                self.report_child_error(ctx, &wish.config.name, &error);
                self.retry(ctx, &wish);
                return self.delete_unused(ctx, number);
            }
        };
        wish.binding.get_or_insert_with(|| self.first_binding(ctx, &terms.config, content));
        let agreed = || {
            let peer_nonce = content.nonce().map_err(|error| error.to_string())?.to_vec();
            Ok::<_, String>((peer_nonce, first_secret(content, terms.suite.group, share)?))
        };
        let (peer_nonce, secret) = match agreed() {
            Ok(agreed) => agreed,
            Err(detail) => return self.child_broken(ctx, &wish, number, &detail),
        };
        let additional = terms.suite.additional;
        match secret {
            Some(_) if !additional.is_empty() && wish.is_redundant(&peer_nonce) => {
                self.retry(ctx, &wish);
            }
            Some(secret) if !additional.is_empty() => {
                match self.follow_up(ctx, &additional, secret, content) {
                    Ok(follow_up) => {
                        let stage = ChildStage::Following { terms, peer_nonce, follow_up };
                        self.pending = Pending::Child(Box::new(ChildOffer { wish, stage }));
                    }
                    Err(detail) => self.child_broken(ctx, &wish, number, &detail),
                }
            }
            secret => self.finish_child(ctx, wish, terms, &peer_nonce, secret.as_slice()),
        }
    }

    /// The peer's answer can't be used, but the peer may think that it has the pair.
    fn child_broken(&mut self, ctx: &mut Context<'_>, wish: &ChildWish, spi_in: u32, detail: &str) {
        self.report(ctx, FailureKind::Malformed, format!("child {}: {detail}", wish.config.name));
        self.retry(ctx, wish);
        self.delete_unused(ctx, spi_in);
    }

    /// All key exchanges are done: the peer has the pair.
    fn finish_child(
        &mut self,
        ctx: &mut Context<'_>,
        wish: ChildWish,
        terms: Terms,
        peer_nonce: &[u8],
        secrets: &[SharedSecret],
    ) {
        let number = terms.spi_in.number();
        if wish.deleted.contains(&terms.spi_out) {
            let detail =
                format!("the peer deleted child {} as soon as it was made: see its log", wish.config.name);
            self.report(ctx, FailureKind::RefusedByPeer, detail);
            return self.retry(ctx, &wish);
        }
        let prf = self.channel.suite.prf;
        let keymat = ChildKeymat::derive(prf, &self.sk_d, &terms.suite, secrets, &wish.nonce, peer_nonce);
        let keymat = match keymat {
            Ok(keymat) => keymat,
            Err(error) => return self.child_broken(ctx, &wish, number, &error.to_string()),
        };
        if wish.is_redundant(peer_nonce) {
            return self.delete_unused(ctx, number);
        }
        let ChildWish { rekeys, rival, binding, .. } = wish;
        let binding = binding.unwrap_or_default();
        if let Some(rival) = rival {
            if rekeys.is_some_and(|handle| self.awaits_rekey_of(handle)) {
                self.forget_awaited(ctx);
            }
            let loser = rival.child.and_then(|loser| self.children.get_mut(&loser));
            if let Some(loser) = loser.filter(|child| child.phase == ChildPhase::Up) {
                loser.phase = ChildPhase::Replaced;
            }
        }
        // The peer may have deleted the old pair meanwhile, or the caller given it up.
        let present =
            |old: &ChildHandle| self.children.get(old).is_some_and(|old| old.phase != ChildPhase::Removed);
        let replaces = rekeys.filter(present);
        self.install(ctx, NewChild { terms, keymat, initiated: true, activate: true, replaces, binding });
        if let Some(old) = replaces {
            self.enqueue(Task::DeleteChild(old));
        }
    }

    fn child_refused(&mut self, ctx: &mut Context<'_>, wish: ChildWish, error: &Notify) {
        let rekeyed = wish.rekeys.and_then(|handle| self.children.get(&handle)).map(|child| child.phase);
        match error.notify_type {
            NotifyType::InvalidKePayload => {
                let wanted =
                    error.invalid_ke_group().ok().and_then(|group| Group::from_number(group.number()));
                let offered =
                    |group: &Group| wish.config.esp_proposals.iter().any(|p| p.groups().contains(group));
                match wanted.filter(|group| offered(group) && !wish.tried.contains(group)) {
                    Some(group) => {
                        let (aim, tried, rival) = wish.aim();
                        self.pending = self.offer(ctx, aim, Some(group), tried, rival);
                    }
                    None => {
                        self.report_child_refusal(ctx, &wish.config.name, error);
                        self.retry(ctx, &wish);
                    }
                }
            }
            // RFC 9611 section 5.2, and what those say who do not know of it: it has enough. That is no failure.
            NotifyType::TsMaxQueue | NotifyType::NoAdditionalSas if wish.beside.is_some() => {
                self.retry(ctx, &wish);
            }
            // RFC 7296 section 2.9: it takes one pair of networks in each child SA only.
            NotifyType::SinglePairRequired
                if wish.beside.is_none()
                    && let Some(single) = child::first_pair(&wish.config) =>
            {
                self.report_child_refusal(ctx, &wish.config.name, error);
                let (aim, _, rival) = wish.aim();
                self.pending = self.offer(ctx, Aim { config: single, ..aim }, None, Vec::new(), rival);
            }
            // RFC 7296 section 2.25: the peer is busy with the same SA, or its rekey has made ours needless. RFC 9370 section
            // 2.2.4: it knows no more of the exchange that was to be gone on with.
            NotifyType::TemporaryFailure | NotifyType::StateNotFound => match wish.rekeys {
                Some(handle) if rekeyed == Some(ChildPhase::Up) => self.defer(ctx, Task::RekeyChild(handle)),
                Some(_) => {}
                None => match wish.beside {
                    Some(beside) => self.defer(ctx, Task::AddResource(beside)),
                    None => self.defer(ctx, Task::CreateChild(wish.config)),
                },
            },
            // Section 2.25.1: the peer has deleted it, and the DELETE has come or is on its way; or it has lost it; or
            // the response by which it will learn of it is still on its way.
            NotifyType::ChildSaNotFound => match wish.rekeys {
                Some(handle) if rekeyed == Some(ChildPhase::Up) && self.is_unconfirmed(ctx, handle) => {
                    self.defer(ctx, Task::RekeyChild(handle));
                }
                Some(handle) if rekeyed == Some(ChildPhase::Up) => {
                    self.remove_child(ctx, handle, CloseReason::Peer);
                    if wish.binding.and_then(Binding::resource).is_none() {
                        self.enqueue(Task::CreateChild(wish.config));
                    }
                }
                _ => {}
            },
            _ => {
                self.report_child_refusal(ctx, &wish.config.name, error);
                self.retry(ctx, &wish);
            }
        }
    }

    /// Whether the peer asked for this pair so lately that our answer may not have reached it.
    fn is_unconfirmed(&self, ctx: &Context<'_>, handle: ChildHandle) -> bool {
        self.children.get(&handle).is_some_and(|child| {
            !child.initiated && ctx.now.saturating_duration_since(child.created) < CONFIRMED_AFTER
        })
    }

    /// What we asked for has come to nothing. One more pair of a child is not asked for again: the others carry on.
    fn retry(&mut self, ctx: &mut Context<'_>, wish: &ChildWish) {
        match wish.beside {
            Some(_) => drop(self.sated.insert(wish.config.name.clone())),
            None => self.retry_rekey(ctx, wish.rekeys),
        }
    }

    /// The old pair still works; its rekey is tried again before it is worn out. A child that was not made at all is asked
    /// for again later.
    fn retry_rekey(&mut self, ctx: &mut Context<'_>, rekeys: Option<ChildHandle>) {
        match rekeys {
            Some(handle) if self.children.contains_key(&handle) => {
                ctx.timers.set(Timer::ChildRekey(handle), ctx.later(REKEY_RETRY));
            }
            Some(_) => {}
            None => self.miss_child(ctx),
        }
    }

    /// A CREATE_CHILD_SA request: for which SA?
    pub(crate) fn handle_create_child_sa(
        mut self: Box<Self>,
        ctx: &mut Context<'_>,
        path: Path,
        content: Content,
    ) -> Option<State> {
        let of_ike = content
            .sa
            .as_ref()
            .is_some_and(|sa| sa.proposals.iter().any(|proposal| proposal.protocol == ProtocolId::Ike));
        if of_ike {
            return self.accept_ike(ctx, path, content);
        }
        let payloads =
            self.accept_child(ctx, &content).unwrap_or_else(|refusal| vec![Payload::Notify(refusal)]);
        self.answer(ctx, ExchangeType::CreateChildSa, path, &payloads);
        self.go_on(ctx)
    }

    /// Makes a child on the peer's request. The payloads of the answer, or the refusal.
    fn accept_child(&mut self, ctx: &mut Context<'_>, content: &Content) -> Result<Vec<Payload>, Notify> {
        // RFC 7296 section 2.25.2.
        if let Pending::Ike(_) = self.pending {
            return Err(Notify::new(NotifyType::TemporaryFailure));
        }
        if self.children.len() >= MAX_CHILDREN.max(MAX_CHILDREN_OF_ONE * self.places(ctx)) {
            let (path, name) = (self.channel.path, &self.connection.name);
            ctx.out.stranger_failure(ctx.now, path, Some(name), FailureKind::Overload, || {
                format!(
                    "the peer has {} pairs of child SAs and asks for more: it does not delete what it replaces; see its log",
                    self.children.len()
                )
            });
            return Err(Notify::new(NotifyType::NoAdditionalSas));
        }
        let rekeys = self.rekeyed_by(content)?;
        let (preferred, binding) = self.bind(ctx, content, rekeys)?;
        let theirs = content.ke.as_ref().and_then(|ke| Group::from_number(ke.group.number()));
        let proposed = || Ok(Proposed { sa: content.sa()?, ours: content.ts_r()?, theirs: content.ts_i()? });
        let accepted = proposed().and_then(|proposed| {
            let pfs = Pfs::Negotiated { ke: theirs };
            child::accept(ctx, &self.child_configs, preferred.as_ref(), proposed, pfs)
        });
        let accepted = accepted.and_then(|(terms, answer)| Ok((self.with_a_new_spi(terms)?, answer)));
        let binding = match (&accepted, binding) {
            (_, Some(binding)) => binding,
            (Ok((terms, _)), None) => self.first_binding(ctx, &terms.config, content),
            (Err(_), None) => Binding::Only,
        };
        let (terms, answer) = accepted.map_err(|error| {
            self.report_child_error(ctx, "asked for by the peer", &error);
            Notify::new(error.notify_type())
        })?;
        if let Some(group) = terms.suite.group.filter(|group| theirs != Some(*group)) {
            return Err(Notify::invalid_ke(KeId::from(group.number())));
        }
        let nonce_i = content.nonce().map_err(|_| Notify::new(NotifyType::InvalidSyntax))?.to_vec();
        let nonce_r = ctx.nonce();
        let (ke, secret) = match (terms.suite.group, &content.ke) {
            (Some(group), Some(ke)) => {
                let (data, secret) = dh::respond(group, &ke.data, ctx.random).map_err(|error| {
                    self.report(ctx, FailureKind::Malformed, format!("child {}: {error}", terms.config.name));
                    Notify::new(NotifyType::InvalidSyntax)
                })?;
                (Some(ke_payload(group, &data)), Some(secret))
            }
            _ => (None, None),
        };
        let mut payloads = vec![Payload::Sa(SecurityAssociation::new(vec![answer]))];
        payloads.extend(Nonce::new(nonce_r.clone()).ok().map(Payload::Nonce));
        payloads.extend(ke);
        payloads.push(Payload::TsI(TrafficSelectors::new(terms.remote.clone())));
        payloads.push(Payload::TsR(TrafficSelectors::new(terms.local.clone())));
        payloads.push(Payload::Notify(Notify::new(NotifyType::EspTfcPaddingNotSupported)));
        payloads.extend(resources::announcement(binding));
        let additional = terms.suite.additional;
        let child = AwaitedChild { terms, rekeys, binding, nonce_i, nonce_r };
        match secret {
            Some(secret) if !additional.is_empty() => {
                self.note_rival(&child, None);
                payloads.push(self.await_follow_up(ctx, &additional, secret, AwaitedSa::Child(child)));
            }
            secret => self.install_awaited(ctx, child, secret.as_slice())?,
        }
        Ok(payloads)
    }

    /// Makes the child whose additional key exchanges are done; the refusal, if the one that it replaces is not there any
    /// more.
    pub(crate) fn finish_awaited_child(
        &mut self,
        ctx: &mut Context<'_>,
        child: AwaitedChild,
        secrets: &[SharedSecret],
    ) -> Result<(), Notify> {
        let up = |old: ChildHandle| self.children.get(&old).is_some_and(|old| old.phase == ChildPhase::Up);
        match child.rekeys.is_none_or(up) {
            true => self.install_awaited(ctx, child, secrets),
            false => Err(Notify::new(NotifyType::TemporaryFailure)),
        }
    }

    fn install_awaited(
        &mut self,
        ctx: &mut Context<'_>,
        child: AwaitedChild,
        secrets: &[SharedSecret],
    ) -> Result<(), Notify> {
        let AwaitedChild { terms, rekeys, binding, nonce_i, nonce_r } = &child;
        let (prf, rekeys, binding) = (self.channel.suite.prf, *rekeys, *binding);
        let keymat = ChildKeymat::derive(prf, &self.sk_d, &terms.suite, secrets, nonce_i, nonce_r);
        let keymat = keymat.map_err(|error| {
            self.report(ctx, FailureKind::Internal, format!("child {}: {error}", terms.config.name));
            Notify::new(NotifyType::TemporaryFailure)
        })?;
        let handle = ctx.numbers.child();
        self.note_rival(&child, Some(handle));
        // What one more pair would carry has a way until the peer has our answer.
        let activate = rekeys.is_none() && binding.resource().is_none() && self.has_no_twin(ctx);
        let new =
            NewChild { terms: child.terms, keymat, initiated: false, activate, replaces: rekeys, binding };
        self.install_as(ctx, handle, new);
        Ok(())
    }

    /// The peer rekeys the child that we are rekeying.
    fn note_rival(&mut self, child: &AwaitedChild, installed: Option<ChildHandle>) {
        if let Pending::Child(offer) = &mut self.pending
            && child.rekeys.is_some()
            && offer.wish.rekeys == child.rekeys
        {
            let lowest_nonce = child.nonce_i.clone().min(child.nonce_r.clone());
            offer.wish.rival = Some(RivalChild { child: installed, lowest_nonce });
        }
    }

    /// Refuses a pair whose SPI the peer has given to another one of this IKE SA.
    fn with_a_new_spi(&self, terms: Terms) -> Result<Terms, ChildError> {
        match self.children.values().any(|child| child.terms.spi_out == terms.spi_out) {
            true => Err(ChildError::RepeatedSpi(terms.spi_out)),
            false => Ok(terms),
        }
    }

    /// Which child a request replaces; `None`: it makes a new one.
    fn rekeyed_by(&self, content: &Content) -> Result<Option<ChildHandle>, Notify> {
        let Some(notify) = content.notify(NotifyType::RekeySa) else { return Ok(None) };
        let spi = notify.esp_spi().map_err(|_| Notify::new(NotifyType::InvalidSyntax))?;
        match self.children.values().find(|child| child.terms.spi_out == spi) {
            Some(child) if child.phase == ChildPhase::Up => Ok(Some(child.handle)),
            // RFC 7296 section 2.25.1: it is being closed, or has been replaced already.
            Some(_) => Err(Notify::new(NotifyType::TemporaryFailure)),
            None => Err(Notify::about_esp(NotifyType::ChildSaNotFound, spi)),
        }
    }
}

/// The secret of CREATE_CHILD_SA's own key exchange, for the requester.
fn first_secret(
    content: &Content,
    chosen: Option<Group>,
    share: Option<KeyShare>,
) -> Result<Option<SharedSecret>, String> {
    match (chosen, share) {
        (None, _) => Ok(None),
        (Some(group), Some(share)) if share.group() == group => {
            let ke = content.ke().map_err(|error| error.to_string())?;
            if ke.group.number() != group.number() {
                return Err(format!("{group} was agreed on, the KE payload is of {}", ke.group));
            }
            share.agree(&ke.data).map(Some).map_err(|error| error.to_string())
        }
        (Some(group), _) => Err(format!("the peer chose {group}, for which no key was sent")),
    }
}
