//! The initiator's IKE_SA_INIT. Everything that comes back is anybody's word until IKE_AUTH: an error is noted and
//! believed only when nothing better comes (RFC 7296 section 2.21.1).

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Agreed, announcements, fail, ke_payload};
use crate::channel::{Channel, ChannelParts};
use crate::config::Connection;
use crate::content::Content;
use crate::context::Context;
use crate::crypto::dh::KeyShare;
use crate::crypto::keys::{Exchanged, IkeKeys};
use crate::crypto::negotiate;
use crate::crypto::suite::Group;
use crate::event::{CloseReason, Event, FailureKind, IkeHandle, Path};
use crate::exchange::RequestWindow;
use crate::intermediate::Intermediate;
use crate::intermediate::initiator::IntermediateSent;
use crate::nat;
use crate::sa::State;
use crate::status::{IkeStatus, Phase};
use crate::timer::Timer;
use crate::wire::nonce::Nonce;
use crate::wire::notify::Notify;
use crate::wire::sa::SecurityAssociation;
use crate::wire::{ExchangeType, Header, NotifyType, Outer, Payload, Spi, write_clear};

/// How long a better response may take after an error that nobody signed.
const GRACE: Duration = Duration::from_secs(2);
/// A responder that asks for another cookie each time is given up.
const MAX_COOKIES: u32 = 4;

/// IKE_SA_INIT sent.
pub(crate) struct InitSent {
    handle: IkeHandle,
    connection: Arc<Connection>,
    path: Path,
    spi_i: u64,
    nonce: Vec<u8>,
    share: KeyShare,
    /// Groups a key was made for, the present one last.
    tried: Vec<Group>,
    cookie: Option<Vec<u8>>,
    cookies: u32,
    /// The present request.
    request: Vec<u8>,
    window: RequestWindow,
    refusal: Option<(FailureKind, String)>,
    started: Instant,
}

impl InitSent {
    /// Sends the first request. The error says why none can be made.
    pub(crate) fn begin(
        ctx: &mut Context<'_>,
        handle: IkeHandle,
        connection: Arc<Connection>,
        path: Path,
        spi_i: u64,
    ) -> Result<Self, String> {
        let group = connection
            .ike_proposals
            .first()
            .and_then(|proposal| proposal.groups().first().copied())
            .ok_or("it has no IKE proposal; configure one, or leave them out for the default")?;
        let share = KeyShare::generate(group, ctx.random).map_err(|error| error.to_string())?;
        let mut this = Self {
            handle,
            path,
            spi_i,
            nonce: ctx.nonce(),
            share,
            tried: vec![group],
            cookie: None,
            cookies: 0,
            request: Vec::new(),
            window: RequestWindow::new(0),
            refusal: None,
            started: ctx.now,
            connection,
        };
        this.send(ctx)?;
        Ok(this)
    }

    fn send(&mut self, ctx: &mut Context<'_>) -> Result<(), String> {
        let mut payloads = Vec::new();
        // RFC 7296 section 2.6: the cookie comes first, all else stays as it was.
        if let Some(cookie) = &self.cookie {
            payloads.push(Payload::Notify(Notify::with_data(NotifyType::Cookie, cookie.clone())));
        }
        let offer = negotiate::offer_ike(&self.connection.ike_proposals, None);
        let nonce = Nonce::new(self.nonce.clone()).map_err(|error| error.to_string())?;
        payloads.push(Payload::Sa(SecurityAssociation::new(offer)));
        payloads.push(ke_payload(self.share.group(), self.share.public()));
        payloads.push(Payload::Nonce(nonce));
        payloads.extend(announcements(ctx, self.spi_i, 0, self.path, self.connection.force_encapsulation));
        // RFC 9370 section 2.2.1: additional key exchanges are carried out in IKE_INTERMEDIATE.
        if self.connection.ike_proposals.iter().any(|proposal| !proposal.additional().is_empty()) {
            payloads.push(Payload::Notify(Notify::new(NotifyType::IntermediateExchangeSupported)));
        }
        let header = Header::request(Spi(self.spi_i), Spi::ZERO, ExchangeType::IkeSaInit, true, 0);
        self.request = write_clear(&header, &payloads).map_err(|error| error.to_string())?;
        // A changed request has the same message ID (RFC 7296 section 2.2), and its own retransmissions.
        self.window = RequestWindow::new(0);
        let wait = self.window.sent(0, vec![self.request.clone()], &ctx.config.retransmit);
        ctx.out.send(self.path, self.request.clone());
        ctx.timers.set(Timer::Retransmit, ctx.later(wait));
        Ok(())
    }

    pub(crate) fn handle_message(
        mut self: Box<Self>,
        ctx: &mut Context<'_>,
        path: Path,
        datagram: &[u8],
        outer: Outer,
    ) -> Option<State> {
        let header = outer.header;
        let expected = header.response
            && !header.initiator
            && header.exchange == ExchangeType::IkeSaInit
            && header.message_id == 0
            && outer.protected.is_none()
            && path.remote == self.path.remote;
        if !expected {
            return Some(State::InitSent(self));
        }
        let content = match Content::sort(outer.payloads) {
            Ok(content) => content,
            Err(error) => {
                self.note(
                    ctx,
                    FailureKind::Malformed,
                    format!("the answer to IKE_SA_INIT is malformed: {error}"),
                );
                return Some(State::InitSent(self));
            }
        };
        let outcome = if let Some(cookie) = content.notify(NotifyType::Cookie) {
            self.take_cookie(ctx, cookie)
        } else if let Some(notify) = content.notify(NotifyType::InvalidKePayload) {
            self.take_group(ctx, notify)
        } else if content.notify(NotifyType::Redirect).is_some() {
            // We did not say REDIRECT_SUPPORTED, and anybody could have sent this (RFC 5685 section 3).
            let detail = "the peer sends us to another gateway (RFC 5685), which is not followed: configure that one's address";
            self.note(ctx, FailureKind::RefusedByPeer, detail.to_owned());
            Ok(())
        } else if let Some(error) = content.error() {
            let kind = match error.notify_type {
                NotifyType::NoProposalChosen => FailureKind::NoProposalChosen,
                _ => FailureKind::RefusedByPeer,
            };
            let remedy = match error.notify_type {
                NotifyType::NoProposalChosen => {
                    "it has no connection for our address, or none of our IKE proposals: compare both configurations"
                }
                _ => "see the peer's log",
            };
            self.note(ctx, kind, format!("the peer refused IKE_SA_INIT with {error}: {remedy}"));
            Ok(())
        } else {
            return self.agree(ctx, header, datagram, &content);
        };
        match outcome {
            Ok(()) => Some(State::InitSent(self)),
            Err(detail) => self.fail(ctx, FailureKind::Internal, detail),
        }
    }

    /// RFC 7296 section 2.6.
    fn take_cookie(&mut self, ctx: &mut Context<'_>, notify: &Notify) -> Result<(), String> {
        let Ok(cookie) = notify.cookie() else { return Ok(()) };
        if self.cookies == MAX_COOKIES || self.cookie.as_deref() == Some(cookie) {
            return Ok(());
        }
        self.cookies += 1;
        self.cookie = Some(cookie.to_vec());
        self.send(ctx)
    }

    /// RFC 7296 section 1.2: only a group that we offered, and each at most once, so that no forger leads us round.
    fn take_group(&mut self, ctx: &mut Context<'_>, notify: &Notify) -> Result<(), String> {
        let Ok(wanted) = notify.invalid_ke_group() else { return Ok(()) };
        let offered = self.connection.ike_proposals.iter().flat_map(|proposal| proposal.groups());
        let group =
            Group::from_number(wanted.number()).filter(|group| offered.clone().any(|other| other == group));
        match group {
            Some(group) if !self.tried.contains(&group) => {
                self.share = KeyShare::generate(group, ctx.random).map_err(|error| error.to_string())?;
                self.tried.push(group);
                self.send(ctx)
            }
            Some(_) => Ok(()),
            None => {
                let detail =
                    format!("the peer asks for group {wanted}, which we do not offer: compare the proposals");
                self.note(ctx, FailureKind::NoProposalChosen, detail);
                Ok(())
            }
        }
    }

    /// The peer chose: make the keys and go on to IKE_AUTH.
    fn agree(
        mut self: Box<Self>,
        ctx: &mut Context<'_>,
        header: Header,
        datagram: &[u8],
        content: &Content,
    ) -> Option<State> {
        let (sa, ke, nonce_r) = match (content.sa(), content.ke(), content.nonce()) {
            (Ok(sa), Ok(ke), Ok(nonce)) if !header.spi_r.is_zero() => (sa, ke, nonce),
            _ => {
                self.note(
                    ctx,
                    FailureKind::Malformed,
                    "the answer to IKE_SA_INIT lacks an SA, KE or Nonce payload or \
                     the responder's SPI; the peer's implementation is at fault"
                        .to_owned(),
                );
                return Some(State::InitSent(self));
            }
        };
        let choice = match negotiate::confirm_ike(&sa.proposals, &self.connection.ike_proposals, false) {
            Ok(choice)
                if !choice.suite.additional.is_empty()
                    && content.notify(NotifyType::IntermediateExchangeSupported).is_none() =>
            {
                let detail = format!(
                    "the peer chose {} without announcing IKE_INTERMEDIATE (RFC 9370 section 2.2.1); its \
                     implementation is at fault",
                    choice.suite
                );
                self.note(ctx, FailureKind::NoProposalChosen, detail);
                return Some(State::InitSent(self));
            }
            Ok(choice)
                if choice.suite.group == self.share.group()
                    && ke.group.number() == choice.suite.group.number() =>
            {
                choice
            }
            Ok(choice) => {
                let detail =
                    format!("the peer chose {} but sent a KE payload of {}", choice.suite.group, ke.group);
                self.note(ctx, FailureKind::NoProposalChosen, detail);
                return Some(State::InitSent(self));
            }
            Err(error) => {
                self.note(ctx, FailureKind::NoProposalChosen, error.to_string());
                return Some(State::InitSent(self));
            }
        };
        let Self { handle, connection, path, spi_i, nonce, share, request, started, .. } = *self;
        let spi_r = header.spi_r.0;
        let failed = |ctx: &mut Context<'_>, kind, detail| {
            fail(ctx, handle, &connection, path, kind, detail);
            None
        };
        let secret = match share.agree(&ke.data) {
            Ok(secret) => secret,
            Err(error) => return failed(ctx, FailureKind::Malformed, error.to_string()),
        };
        let exchanged = Exchanged { nonce_i: &nonce, nonce_r, spi_i, spi_r };
        let keys = match IkeKeys::derive(&choice.suite, &secret, exchanged) {
            Ok(keys) => keys,
            Err(error) => return failed(ctx, FailureKind::Internal, error.to_string()),
        };
        let sources = content.notify_data(NotifyType::NatDetectionSourceIp);
        let destination = content.notify_data(NotifyType::NatDetectionDestinationIp).first().copied();
        let mut nat = nat::detect(spi_i, spi_r, path, &sources, destination);
        nat.local |= connection.force_encapsulation && destination.is_some();
        let parts = ChannelParts {
            spi_i,
            spi_r,
            initiator: true,
            suite: choice.suite,
            // RFC 4555 section 3.3: an initiator that may move is at home on 4500, NAT or no NAT.
            path: match nat.floats() || (connection.mobike && destination.is_some()) {
                true => nat::floated(path),
                false => path,
            },
            nat,
            fragmentation: content.notify(NotifyType::Ikev2FragmentationSupported).is_some(),
        };
        let channel = match Channel::initial(parts, &keys, ctx.now) {
            Ok(channel) => channel,
            Err(error) => return failed(ctx, FailureKind::Internal, error.to_string()),
        };
        let agreed = Agreed {
            keys,
            request,
            response: datagram.to_vec(),
            nonce_i: nonce,
            nonce_r: nonce_r.to_vec(),
            peer_hashes: content.signature_hashes(),
            childless: content.notify(NotifyType::ChildlessIkev2Supported).is_some(),
            intermediate: Intermediate::of(&choice.suite),
        };
        ctx.timers.stop(Timer::Grace);
        ctx.timers.stop(Timer::Retransmit);
        IntermediateSent::begin(ctx, handle, connection, channel, agreed, started)
    }

    /// Remembers a refusal that may be forged.
    fn note(&mut self, ctx: &mut Context<'_>, kind: FailureKind, detail: String) {
        if self.refusal.is_none() {
            ctx.timers.set(Timer::Grace, ctx.later(GRACE));
            self.refusal = Some((kind, detail));
        }
    }

    pub(crate) fn handle_timer(mut self: Box<Self>, ctx: &mut Context<'_>, timer: Timer) -> Option<State> {
        match timer {
            Timer::Retransmit => {
                let Some((datagrams, wait)) = self.window.overdue(&ctx.config.retransmit) else {
                    let (kind, detail) = self.refusal.take().unwrap_or_else(|| {
                        let detail = format!(
                            "no answer to IKE_SA_INIT from {}: is the address right, the peer up, and UDP 500 and 4500 \
                             open on the way?",
                            self.path.remote
                        );
                        (FailureKind::Timeout, detail)
                    });
                    return self.fail(ctx, kind, detail);
                };
                ctx.out.counters.retransmissions += 1;
                ctx.out.send_all(self.path, datagrams);
                ctx.timers.set(Timer::Retransmit, ctx.later(wait));
                Some(State::InitSent(self))
            }
            Timer::Grace => match self.refusal.take() {
                Some((kind, detail)) => self.fail(ctx, kind, detail),
                None => Some(State::InitSent(self)),
            },
            _ => Some(State::InitSent(self)),
        }
    }

    fn fail(self: Box<Self>, ctx: &mut Context<'_>, kind: FailureKind, detail: String) -> Option<State> {
        fail(ctx, self.handle, &self.connection, self.path, kind, detail);
        None
    }

    /// The caller no longer wants it. The peer knows nothing that needs deleting.
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
        IkeStatus {
            ike: self.handle,
            connection: Some(self.connection.name.clone()),
            phase: Phase::Initiating,
            initiator: true,
            path: self.path,
            spi_i: self.spi_i,
            spi_r: 0,
            suite: String::new(),
            remote_id: None,
            nat_local: false,
            nat_remote: false,
            created: self.started,
            rekey_at: None,
            last_heard: None,
            busy: true,
            virtual_addresses: Default::default(),
            children: Vec::new(),
        }
    }
}
