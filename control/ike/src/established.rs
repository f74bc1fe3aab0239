//! An IKE SA that is up: its children, what is to be done, and the one exchange under way.
//!
//! The exchanges themselves are in `create_child.rs`, `rekey_ike.rs` and `informational.rs`, as further methods of
//! [`Established`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::channel::{Channel, Inbound, Message};
use crate::child::{Child, ChildError, ChildPhase, Terms};
use crate::config::{ChildConfig, Connection};
use crate::context::Context;
use crate::create_child::ChildOffer;
use crate::crypto::keys::ChildKeymat;
use crate::crypto::x509::VerifiedCertificate;
use crate::event::{
    Binding, ChildHandle, ChildSa, CloseReason, Event, FailureKind, IkeEstablished, IkeHandle, Path,
};
use crate::followup::Awaited;
use crate::mobike::Mobike;
use crate::nat::{KEEPALIVE, KEEPALIVE_INTERVAL};
use crate::rekey_ike::IkeOffer;
use crate::retired::Retired;
use crate::sa::State;
use crate::status::{IkeStatus, Phase};
use crate::timer::Timer;
use crate::unique::{Origin, When};
use crate::virtual_ip::VirtualAddresses;
use crate::wire::delete::Delete;
use crate::wire::id::Identification;
use crate::wire::notify::Notify;
use crate::wire::{ExchangeType, Outer, Payload};

/// How long the inbound SA of a replaced pair goes on receiving what is under way.
pub(crate) const LINGER: Duration = Duration::from_secs(5);
/// When a refused rekey is tried again.
pub(crate) const REKEY_RETRY: Duration = Duration::from_secs(30);
/// First wait before a child SA that should be and is not is asked for again; doubles up to the last.
const CHILD_RETRY: Duration = Duration::from_secs(30);
const CHILD_RETRY_LAST: Duration = Duration::from_secs(600);

/// The peer is who it says.
pub(crate) struct Established {
    pub(crate) handle: IkeHandle,
    pub(crate) connection: Arc<Connection>,
    pub(crate) channel: Channel,
    /// SK_d, from which children and the next IKE SA get their keys.
    pub(crate) sk_d: Zeroizing<Vec<u8>>,
    pub(crate) remote_id: Identification,
    pub(crate) origin: Origin,
    /// When the present keys were made.
    pub(crate) created: Instant,
    pub(crate) rekey_at: Instant,
    pub(crate) child_configs: Vec<Arc<ChildConfig>>,
    pub(crate) children: BTreeMap<ChildHandle, Child>,
    /// Names of children for which the peer wants no more SAs of single resources.
    pub(crate) sated: BTreeSet<Arc<str>>,
    /// What is to be asked of the peer, in order: one request at a time.
    pub(crate) tasks: VecDeque<Task>,
    /// What the peer could not do just now.
    pub(crate) deferred: Vec<Task>,
    pub(crate) pending: Pending,
    /// What the peer is making in several exchanges.
    pub(crate) awaited: Option<Box<Awaited>>,
    /// The peer says that it has no other IKE SA with us: those we know of are dead (RFC 7296 section 2.4).
    pub(crate) initial_contact: bool,
    /// IKE SAs with the same peer that go for the sake of this one.
    pub(crate) supersedes: Vec<(IkeHandle, When)>,
    /// Those that the peer was to delete were waited for.
    pub(crate) supersede_overdue: bool,
    child_wait: Duration,
    /// When we last began another one because somebody said that the peer has lost this one.
    pub(crate) doubted: Option<Instant>,
    /// Both follow changes of addresses (RFC 4555).
    pub(crate) mobike: Option<Mobike>,
    /// The peer's certificate, to be watched for being revoked.
    pub(crate) peer: Option<Arc<VerifiedCertificate>>,
    /// Given by either side in IKE_AUTH.
    pub(crate) virtual_addresses: VirtualAddresses,
}

/// Something to ask of the peer.
#[derive(Clone, Debug)]
pub(crate) enum Task {
    CreateChild(Arc<ChildConfig>),
    /// One more pair, for a single resource, beside this one.
    AddResource(ChildHandle),
    RekeyChild(ChildHandle),
    DeleteChild(ChildHandle),
    /// A pair that the peer has and we never installed, by our inbound SPI.
    DeleteUnused(u32),
    RekeyIke,
    Liveness,
    /// The peer shall follow us to our path (RFC 4555).
    Update,
    /// The peer shall know our other addresses.
    Announce,
    /// Whether the peer receives where it says it is.
    Check,
}

/// The request under way, with the secrets that its response needs.
#[derive(Default)]
pub(crate) enum Pending {
    #[default]
    Nothing,
    Liveness,
    Delete(Option<ChildHandle>),
    /// UPDATE_SA_ADDRESSES for this path.
    Update(Path),
    /// COOKIE2, to this path.
    Check {
        path: Path,
        cookie: Vec<u8>,
    },
    Child(Box<ChildOffer>),
    Ike(Box<IkeOffer>),
}

/// A pair both sides have agreed on.
pub(crate) struct NewChild {
    pub(crate) terms: Terms,
    pub(crate) keymat: ChildKeymat,
    /// Whether the exchange that made it was ours.
    pub(crate) initiated: bool,
    pub(crate) activate: bool,
    pub(crate) replaces: Option<ChildHandle>,
    pub(crate) binding: Binding,
}

impl Established {
    /// IKE_AUTH has succeeded.
    pub(crate) fn begin(
        ctx: &mut Context<'_>,
        handle: IkeHandle,
        connection: Arc<Connection>,
        channel: Channel,
        sk_d: Zeroizing<Vec<u8>>,
        remote_id: Identification,
        origin: Origin,
    ) -> Self {
        let rekey_at = ctx.renewal(connection.ike_rekey_after);
        ctx.timers.set(Timer::IkeRekey, rekey_at);
        if channel.nat.local {
            ctx.timers.set(Timer::Keepalive, ctx.later(KEEPALIVE_INTERVAL));
        }
        ctx.out.counters.ike_established += 1;
        ctx.out.event(Event::IkeEstablished(IkeEstablished {
            ike: handle,
            connection: connection.name.clone(),
            path: channel.path,
            spi_i: channel.spi_i,
            spi_r: channel.spi_r,
            initiator: channel.initiator,
            remote_id: remote_id.clone(),
            suite: channel.suite.to_string(),
            nat_local: channel.nat.local,
            nat_remote: channel.nat.remote,
        }));
        let this = Self {
            handle,
            child_configs: connection.children.iter().cloned().map(Arc::new).collect(),
            connection,
            channel,
            sk_d,
            remote_id,
            origin,
            created: ctx.now,
            rekey_at,
            children: BTreeMap::new(),
            sated: BTreeSet::new(),
            tasks: VecDeque::new(),
            deferred: Vec::new(),
            pending: Pending::Nothing,
            mobike: None,
            awaited: None,
            virtual_addresses: VirtualAddresses::default(),
            initial_contact: false,
            supersedes: Vec::new(),
            supersede_overdue: false,
            child_wait: CHILD_RETRY,
            doubted: None,
            peer: None,
        };
        this.heard(ctx);
        this
    }

    /// The initiator asks for the children that IKE_AUTH had no room for.
    pub(crate) fn want_other_children(&mut self, ctx: &mut Context<'_>) {
        let others = self.child_configs.iter().skip(1).cloned().map(Task::CreateChild);
        // They carry what nothing carries yet, and go first.
        let rest = std::mem::replace(&mut self.tasks, others.collect());
        self.tasks.extend(rest);
        self.pump(ctx);
    }

    /// Whether everything it is to carry has been asked for and answered.
    pub(crate) fn is_settled(&self) -> bool {
        self.tasks.is_empty() && matches!(self.pending, Pending::Nothing | Pending::Liveness)
    }

    /// Whether a new pair may be sent with at once. Where the peer has another IKE SA with us, that one carries the traffic
    /// until the peer shows that it has the new pair, as in a rekey.
    pub(crate) fn has_no_twin(&self, ctx: &Context<'_>) -> bool {
        let mut same_peer = ctx.others.of_peer(&self.connection.name, &self.remote_id);
        same_peer.all(|(handle, _)| handle == self.handle)
    }

    /// Another IKE SA with the same peer is gone: its pairs may have been the ones in use. Ours, to be put to use.
    pub(crate) fn take_over_sending(&mut self) -> Vec<ChildHandle> {
        let up = self.children.values_mut().filter(|child| child.phase == ChildPhase::Up);
        up.map(|child| {
            child.outbound_active = true;
            child.handle
        })
        .collect()
    }

    pub(crate) fn handle_message(
        mut self: Box<Self>,
        ctx: &mut Context<'_>,
        path: Path,
        datagram: &[u8],
        outer: &Outer,
    ) -> Option<State> {
        match self.channel.receive(ctx, path, datagram, outer) {
            Inbound::Nothing => Some(State::Established(self)),
            Inbound::Disowned => {
                self.doubt(ctx);
                Some(State::Established(self))
            }
            Inbound::Request(message) => {
                self.heard(ctx);
                self.follow(ctx, message.path, false);
                self.handle_request(ctx, message)
            }
            Inbound::Response(message) => {
                self.heard(ctx);
                self.follow(ctx, message.path, true);
                self.handle_response(ctx, message)
            }
        }
    }

    fn handle_request(mut self: Box<Self>, ctx: &mut Context<'_>, message: Message) -> Option<State> {
        let Message { exchange, path, content, .. } = message;
        self.confirm_resources(ctx);
        let content = match content {
            Ok(content) => content,
            Err(error) => {
                self.answer(ctx, exchange, path, &[Payload::Notify(error.notify())]);
                let detail = format!("the peer sent a malformed request: {error}");
                self.report(ctx, FailureKind::Malformed, detail);
                // RFC 7296 section 2.21.3: both sides give the IKE SA up; section 2.5: but not for an unknown payload.
                return match error.is_unsupported_critical() {
                    true => self.go_on(ctx),
                    false => self.end(ctx, CloseReason::Failed),
                };
            }
        };
        match exchange {
            ExchangeType::CreateChildSa => self.handle_create_child_sa(ctx, path, content),
            ExchangeType::IkeFollowupKe => self.handle_followup_ke(ctx, path, &content),
            ExchangeType::Informational => self.handle_informational(ctx, path, content),
            _ => {
                let refusal = Notify::new(crate::wire::NotifyType::InvalidSyntax);
                self.answer(ctx, exchange, path, &[Payload::Notify(refusal)]);
                self.go_on(ctx)
            }
        }
    }

    fn handle_response(mut self: Box<Self>, ctx: &mut Context<'_>, message: Message) -> Option<State> {
        let pending = std::mem::take(&mut self.pending);
        let content = match message.content {
            Ok(content) => content,
            Err(error) => {
                self.report(
                    ctx,
                    FailureKind::Malformed,
                    format!("the peer sent a malformed response: {error}"),
                );
                return self.close(ctx, CloseReason::Failed);
            }
        };
        match pending {
            Pending::Nothing | Pending::Liveness => {}
            Pending::Delete(child) => {
                if let Some(child) = child {
                    self.remove_child(ctx, child, CloseReason::Replaced);
                }
            }
            Pending::Update(path) => self.conclude_update(ctx, path, &content),
            Pending::Check { path, cookie } => self.conclude_check(ctx, path, &cookie, &content),
            Pending::Child(offer) => self.conclude_child(ctx, *offer, content),
            Pending::Ike(offer) => return self.conclude_ike(ctx, *offer, content),
        }
        self.go_on(ctx)
    }

    pub(crate) fn handle_timer(mut self: Box<Self>, ctx: &mut Context<'_>, timer: Timer) -> Option<State> {
        match timer {
            Timer::Retransmit => {
                if !self.channel.retransmit(ctx) {
                    let detail =
                        format!("{} no longer answers: it is down, or the line is", self.channel.path.remote);
                    self.report(ctx, FailureKind::Timeout, detail);
                    return self.end(ctx, CloseReason::Dead);
                }
                self.probe(ctx);
            }
            Timer::Liveness => {
                if !self.channel.is_waiting() {
                    self.enqueue(Task::Liveness);
                }
            }
            Timer::Keepalive => {
                ctx.out.send(self.channel.path, KEEPALIVE.to_vec());
                ctx.timers.set(Timer::Keepalive, ctx.later(KEEPALIVE_INTERVAL));
            }
            Timer::IkeRekey => self.enqueue(Task::RekeyIke),
            Timer::ChildRekey(handle) => match self.children.get(&handle).map(|child| child.phase) {
                Some(ChildPhase::Up) => self.enqueue(Task::RekeyChild(handle)),
                // Whoever replaced it has forgotten to delete it.
                Some(ChildPhase::Replaced) => self.enqueue(Task::DeleteChild(handle)),
                Some(ChildPhase::Closing | ChildPhase::Removed) | None => {}
            },
            Timer::FollowUp => self.forget_awaited(ctx),
            Timer::Retry => {
                for task in std::mem::take(&mut self.deferred) {
                    self.enqueue(task);
                }
            }
            Timer::Reauth => {
                if !self.reauth_due(ctx) {
                    return self.close(ctx, CloseReason::Failed);
                }
            }
            Timer::Children => self.ask_for_missing(),
            Timer::Resources => self.look_at_resources(ctx),
            Timer::Supersede => self.supersede_overdue = true,
            Timer::Revocation => self.look_at_crls(ctx),
            Timer::Grace | Timer::HalfOpen | Timer::Parting | Timer::Forget => {}
        }
        self.go_on(ctx)
    }

    /// Does what is next, and stays.
    pub(crate) fn go_on(mut self: Box<Self>, ctx: &mut Context<'_>) -> Option<State> {
        self.pump(ctx);
        Some(State::Established(self))
    }

    /// Adds a task, once.
    pub(crate) fn enqueue(&mut self, task: Task) {
        let same = |other: &Task| match (other, &task) {
            (Task::CreateChild(a), Task::CreateChild(b)) => a.name == b.name,
            (Task::AddResource(a), Task::AddResource(b)) | (Task::RekeyChild(a), Task::RekeyChild(b)) => {
                a == b
            }
            (Task::DeleteChild(a), Task::DeleteChild(b)) => a == b,
            (Task::DeleteUnused(a), Task::DeleteUnused(b)) => a == b,
            (Task::RekeyIke, Task::RekeyIke)
            | (Task::Liveness, Task::Liveness)
            | (Task::Update, Task::Update)
            | (Task::Announce, Task::Announce)
            | (Task::Check, Task::Check) => true,
            _ => false,
        };
        if !self.tasks.iter().chain(&self.deferred).any(same) {
            self.tasks.push_back(task);
        }
    }

    /// Begins the next task if no request is under way.
    pub(crate) fn pump(&mut self, ctx: &mut Context<'_>) {
        while self.channel.is_idle() {
            // RFC 7296 section 2.25.2: what is begun while the peer replaces the IKE SA would be lost.
            let held = self.awaits_ike();
            let goes_on = |task: &Task| matches!(task, Task::Liveness | Task::Update | Task::Check);
            let next = self.tasks.iter().position(|task| !held || goes_on(task));
            let Some(task) = next.and_then(|at| self.tasks.remove(at)) else { return };
            self.pending = match task {
                Task::CreateChild(config) => self.offer_child(ctx, config, None, Vec::new()),
                Task::AddResource(beside) => self.offer_resource(ctx, beside),
                Task::RekeyChild(handle) => self.offer_rekey(ctx, handle),
                Task::DeleteChild(handle) => self.request_delete(ctx, handle),
                Task::DeleteUnused(spi) => self.ask(
                    ctx,
                    ExchangeType::Informational,
                    &[Payload::Delete(Delete::esp(spi))],
                    Pending::Delete(None),
                ),
                Task::RekeyIke => self.offer_ike(ctx, None, Vec::new()),
                Task::Liveness => self.ask_liveness(ctx),
                Task::Update => self.request_update(ctx),
                Task::Announce => self.request_announcement(ctx),
                Task::Check => self.request_check(ctx),
            };
        }
    }

    /// Sends a request. The state to wait in; nothing to wait for when it could not be sent.
    pub(crate) fn ask(
        &mut self,
        ctx: &mut Context<'_>,
        exchange: ExchangeType,
        payloads: &[Payload],
        pending: Pending,
    ) -> Pending {
        match self.channel.request(ctx, exchange, payloads) {
            Ok(()) => pending,
            Err(error) => {
                self.report(ctx, FailureKind::Internal, format!("a request could not be sent: {error}"));
                Pending::Nothing
            }
        }
    }

    /// Answers the request at hand.
    pub(crate) fn answer(
        &mut self,
        ctx: &mut Context<'_>,
        exchange: ExchangeType,
        path: Path,
        payloads: &[Payload],
    ) {
        if let Err(error) = self.channel.respond(ctx, exchange, path, payloads) {
            self.report(ctx, FailureKind::Internal, format!("a response could not be sent: {error}"));
        }
    }

    /// The peer is busy: tries again in a while, different on both sides.
    pub(crate) fn defer(&mut self, ctx: &mut Context<'_>, task: Task) {
        self.deferred.push(task);
        let wait = Duration::from_millis(1000 + u64::from(ctx.random.next_u32() % 4000));
        ctx.timers.set(Timer::Retry, ctx.later(wait));
    }

    /// Tells the caller to install a pair.
    pub(crate) fn install(&mut self, ctx: &mut Context<'_>, new: NewChild) {
        let handle = ctx.numbers.child();
        self.install_as(ctx, handle, new);
    }

    /// As [`install`](Self::install), under this number.
    pub(crate) fn install_as(&mut self, ctx: &mut Context<'_>, handle: ChildHandle, new: NewChild) {
        let NewChild { terms, keymat, initiated, activate, replaces, binding } = new;
        let rekey_at = ctx.renewal(terms.config.rekey_after);
        ctx.timers.set(Timer::ChildRekey(handle), rekey_at);
        let (keys_out, keys_in) = match initiated {
            true => (keymat.initiator, keymat.responder),
            false => (keymat.responder, keymat.initiator),
        };
        if let Some(old) = replaces.and_then(|old| self.children.get_mut(&old))
            && old.phase == ChildPhase::Up
        {
            old.phase = ChildPhase::Replaced;
        }
        self.child_wait = CHILD_RETRY;
        ctx.out.counters.children_installed += 1;
        ctx.out.event(Event::ChildInstall(Box::new(ChildSa {
            child: handle,
            ike: self.handle,
            connection: self.connection.name.clone(),
            name: terms.config.name.clone(),
            path: self.esp_path(),
            udp_encapsulation: self.channel.nat.floats(),
            spi_in: terms.spi_in.number(),
            spi_out: terms.spi_out,
            suite: terms.suite,
            keys_in,
            keys_out,
            local: terms.local.clone(),
            remote: terms.remote.clone(),
            activate_outbound: activate,
            replaces,
            binding,
            rekey_at,
        })));
        let child = Child {
            handle,
            terms,
            created: ctx.now,
            rekey_at,
            initiated,
            outbound_active: activate,
            replaces,
            binding,
            phase: ChildPhase::Up,
        };
        self.children.insert(handle, child);
        self.resources_installed(ctx, handle);
    }

    /// The peer shows that it sends with this pair: so do we.
    pub(crate) fn activate(&mut self, ctx: &mut Context<'_>, handle: ChildHandle) {
        if let Some(child) = self.children.get_mut(&handle)
            && !child.outbound_active
            && child.phase == ChildPhase::Up
        {
            child.outbound_active = true;
            ctx.out.event(Event::ChildActivateOutbound { child: handle });
        }
    }

    /// A child SA that should be is not, and nothing under way makes it: whoever began the connection asks again in a while.
    pub(crate) fn miss_child(&mut self, ctx: &mut Context<'_>) {
        if self.origin.ours && ctx.timers.at(Timer::Children).is_none() {
            let jitter = self.child_wait / 1000 * (ctx.random.next_u32() % 250);
            ctx.timers.set(Timer::Children, ctx.later(self.child_wait + jitter));
            self.child_wait = (self.child_wait * 2).min(CHILD_RETRY_LAST);
        }
    }

    /// A pair has gone without a successor. What one for a single resource has carried the others carry.
    fn miss(&mut self, ctx: &mut Context<'_>, binding: Binding, name: Arc<str>) {
        match binding {
            Binding::Only | Binding::Fallback => self.miss_child(ctx),
            // RFC 9611 section 6: asked for again at once it could be deleted for ever.
            Binding::Resource(_) => drop(self.sated.insert(name)),
        }
    }

    fn ask_for_missing(&mut self) {
        let missing: Vec<_> =
            self.child_configs.iter().filter(|config| !self.has_child(&config.name)).cloned().collect();
        for config in missing {
            self.enqueue(Task::CreateChild(config));
        }
    }

    fn has_child(&self, name: &str) -> bool {
        let under_way = matches!(&self.pending, Pending::Child(offer) if offer.would_be(name));
        under_way
            || self
                .children
                .values()
                .filter(|child| child.binding.resource().is_none())
                .any(|child| *child.terms.config.name == *name && child.phase != ChildPhase::Removed)
    }

    /// Forgets a pair. Its successor is in use from now on.
    pub(crate) fn remove_child(&mut self, ctx: &mut Context<'_>, handle: ChildHandle, reason: CloseReason) {
        let successors: Vec<_> = self
            .children
            .values()
            .filter(|child| child.replaces == Some(handle))
            .map(|child| child.handle)
            .collect();
        for successor in successors {
            self.activate(ctx, successor);
        }
        ctx.timers.stop(Timer::ChildRekey(handle));
        if let Some(child) = self.children.remove(&handle)
            && child.phase != ChildPhase::Removed
        {
            self.reinstate(child.replaces);
            let linger = if reason == CloseReason::Replaced { LINGER } else { Duration::ZERO };
            ctx.out.event(Event::ChildRemove { child: handle, linger, reason });
            if reason != CloseReason::Replaced {
                self.miss(ctx, child.binding, child.terms.config.name.clone());
            }
        }
    }

    /// The pair that had replaced this one is gone: if it was the only one, this one counts again.
    fn reinstate(&mut self, predecessor: Option<ChildHandle>) {
        let Some(handle) = predecessor else { return };
        let replaced = self
            .children
            .values()
            .any(|child| child.replaces == predecessor && child.phase != ChildPhase::Removed);
        if let Some(child) = self.children.get_mut(&handle)
            && child.phase == ChildPhase::Replaced
            && !replaced
        {
            child.phase = ChildPhase::Up;
        }
    }

    /// The caller can't use the pair: it removes it, and the peer shall too.
    pub(crate) fn discard_child(&mut self, ctx: &mut Context<'_>, handle: ChildHandle, reason: CloseReason) {
        if let Some(child) = self.children.get_mut(&handle)
            && child.phase != ChildPhase::Removed
        {
            child.phase = ChildPhase::Removed;
            let (predecessor, binding, name) =
                (child.replaces, child.binding, child.terms.config.name.clone());
            self.reinstate(predecessor);
            ctx.out.event(Event::ChildRemove { child: handle, linger: Duration::ZERO, reason });
            self.enqueue(Task::DeleteChild(handle));
            self.miss(ctx, binding, name);
        }
        self.pump(ctx);
    }

    /// Ends the IKE SA with a DELETE to the peer.
    pub(crate) fn close(self: Box<Self>, ctx: &mut Context<'_>, reason: CloseReason) -> Option<State> {
        self.report_closed(ctx, reason);
        Retired::begin(ctx, self.channel, Some(vec![Payload::Delete(Delete::Ike)]))
    }

    /// Ends the IKE SA without a word: the peer knows, or is no more.
    pub(crate) fn end(self: Box<Self>, ctx: &mut Context<'_>, reason: CloseReason) -> Option<State> {
        self.report_closed(ctx, reason);
        match reason {
            CloseReason::Dead => None,
            _ => Retired::deleted(ctx, self.channel, None),
        }
    }

    /// Whether it is another IKE SA that carries the peer's pairs on.
    pub(crate) fn is_superseded(&self, ctx: &Context<'_>) -> bool {
        !self.has_no_twin(ctx) && !matches!(self.pending, Pending::Ike(_))
    }

    /// The peer deletes an IKE SA that another has superseded; its DELETE came by this path.
    pub(crate) fn part(self: Box<Self>, ctx: &mut Context<'_>, path: Path) -> Option<State> {
        self.report_closed(ctx, CloseReason::Peer);
        Retired::deleted(ctx, self.channel, Some(path))
    }

    fn report_closed(&self, ctx: &mut Context<'_>, reason: CloseReason) {
        ctx.leases.release(self.handle);
        // Another IKE SA with this peer goes on: what is under way on this one must not be lost.
        let (linger, reason) = match (self.has_no_twin(ctx), reason) {
            (false, CloseReason::Peer | CloseReason::Replaced) => (LINGER, CloseReason::Replaced),
            (_, reason) => (Duration::ZERO, reason),
        };
        for child in self.children.values().filter(|child| child.phase != ChildPhase::Removed) {
            ctx.out.event(Event::ChildRemove { child: child.handle, linger, reason });
        }
        let connection = self.connection.name.clone();
        ctx.out.event(Event::IkeClosed { ike: self.handle, connection, reason });
    }

    /// The peer lives.
    pub(crate) fn heard(&self, ctx: &mut Context<'_>) {
        if !self.connection.dpd_after.is_zero() {
            ctx.timers.set(Timer::Liveness, ctx.later(self.connection.dpd_after));
        }
    }

    pub(crate) fn report(&self, ctx: &mut Context<'_>, kind: FailureKind, detail: String) {
        ctx.out.failure(self.channel.path, Some(&self.connection.name), kind, detail);
    }

    pub(crate) fn report_child_error(&self, ctx: &mut Context<'_>, name: &str, error: &ChildError) {
        self.report(ctx, error.kind(), format!("child {name}: {error}"));
    }

    pub(crate) fn report_child_refusal(&self, ctx: &mut Context<'_>, name: &str, notify: &Notify) {
        use crate::wire::NotifyType;
        let (kind, remedy) = match notify.notify_type {
            NotifyType::TsUnacceptable => {
                (FailureKind::TsUnacceptable, "the networks of both gateways must mirror each other")
            }
            NotifyType::NoProposalChosen => (
                FailureKind::NoProposalChosen,
                "it accepts none of our ESP proposals: compare both configurations",
            ),
            NotifyType::SinglePairRequired => (
                FailureKind::TsUnacceptable,
                "it takes one pair of networks in each child: configure one child for each pair; the first pair is tried",
            ),
            _ => (FailureKind::RefusedByPeer, "see the peer's log"),
        };
        self.report(ctx, kind, format!("the peer refused child {name} with {notify}: {remedy}"));
    }

    /// The peer has a pair that we can't use.
    pub(crate) fn delete_unused(&mut self, ctx: &mut Context<'_>, spi_in: u32) {
        self.enqueue(Task::DeleteUnused(spi_in));
        self.pump(ctx);
    }

    pub(crate) fn status(&self) -> IkeStatus {
        let connection = Some(self.connection.name.clone());
        IkeStatus {
            remote_id: Some(self.remote_id.clone()),
            rekey_at: Some(self.rekey_at),
            virtual_addresses: self.virtual_addresses.clone(),
            busy: self.channel.is_waiting() || !self.tasks.is_empty() || !self.deferred.is_empty(),
            children: self
                .children
                .values()
                .filter(|c| c.phase != ChildPhase::Removed)
                .map(Child::status)
                .collect(),
            ..self.channel.status(self.handle, connection, Phase::Established, self.created)
        }
    }
}

#[cfg(test)]
mod tests;
