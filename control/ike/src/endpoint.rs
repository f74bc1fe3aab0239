//! The whole engine: every IKE SA of this gateway, found by SPI.
//!
//! One mutation (`handle_*` or a command), then drain [`Endpoint::poll_event`], then [`Endpoint::poll_transmit`]
//! (events first: a responder's [`Event::ChildInstall`] must be done before its reply leaves), then sleep until
//! [`Endpoint::poll_timeout`].

mod duplicates;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustls_pki_types::UnixTime;

use crate::config::{Connection, ConnectionName, EndpointConfig, RemoteAuth};
use crate::connections::Connections;
use crate::context::{Context, Numbers};
use crate::cookie::CookieJar;
use crate::crypto::random::Random;
use crate::crypto::x509::CertificateError;
use crate::directory::Directory;
use crate::established::{Established, Task};
use crate::event::{ChildHandle, CloseReason, Event, FailureKind, IkeHandle, Path, Transmit};
use crate::init::initiator::InitSent;
use crate::init::responder;
use crate::known::KnownSpis;
use crate::nat::KEEPALIVE;
use crate::outbox::Outbox;
use crate::pool::Leases;
use crate::rate::{Meter, Rate};
use crate::revocation::CrlCache;
use crate::sa::{IkeSa, State};
use crate::status::{IkeStatus, Stats};
use crate::strangers::{Source, Strangers};
use crate::timer::TimerTable;
use crate::wire::id::Identification;
use crate::wire::notify::Notify;
use crate::wire::{ExchangeType, Header, NotifyType, Outer, Payload, WireError, write_clear};

/// Answers to strangers about an SPI or version we don't know: in all, and to each.
const STRANGER_ANSWERS: (Rate, Rate) = (Rate::per_second(10, 10), Rate::per_second(1, 1));
/// First requests that are looked at from each source; a whole hospital may be behind one address. Peers with a configured
/// address are not held by it, for whoever forges that address could lock them out.
const FIRST_REQUESTS_OF_SOURCE: Rate = Rate::per_second(50, 200);
/// First requests that are looked at in all: looking costs some ten microseconds, so that one core has room for what is
/// established.
const FIRST_REQUESTS: Rate = Rate::per_second(25_000, 25_000);

/// All IKE SAs of one gateway.
pub struct Endpoint {
    shared: Shared,
    jar: CookieJar,
    /// By our SPI.
    sas: BTreeMap<u64, Entry>,
    /// Which of them is due when.
    deadlines: BTreeSet<(Instant, u64)>,
    /// First requests that have been answered: a repetition makes no second IKE SA.
    inits: BTreeMap<InitKey, u64>,
    /// Of them, those of strangers.
    strangers: Strangers,
    /// Those that are over (some forgotten meanwhile), in the order in which they ended.
    retired: VecDeque<u64>,
    answers: Meter,
    first_requests: Meter,
    known: KnownSpis,
}

/// What every IKE SA works with.
struct Shared {
    config: EndpointConfig,
    connections: Connections,
    random: Box<dyn Random>,
    /// One moment on both clocks.
    clock: (Instant, Duration),
    out: Outbox,
    numbers: Numbers,
    directory: Directory,
    addresses: Vec<IpAddr>,
    crls: CrlCache,
    leases: Leases,
}

impl Shared {
    fn context<'a>(
        &'a mut self,
        now: Instant,
        timers: &'a mut TimerTable,
        spawned: &'a mut Vec<IkeSa>,
    ) -> Context<'a> {
        let (base, unix) = self.clock;
        Context {
            now,
            unix_time: unix.saturating_add(now.saturating_duration_since(base)),
            config: &self.config,
            connections: &self.connections,
            random: &mut *self.random,
            out: &mut self.out,
            numbers: &mut self.numbers,
            others: &self.directory,
            addresses: &self.addresses,
            crls: &mut self.crls,
            leases: &mut self.leases,
            timers,
            spawned,
        }
    }
}

/// Who sent a first request: address, and SPI of its choice.
type InitKey = (SocketAddr, u64);

struct Entry {
    sa: IkeSa,
    init_key: Option<InitKey>,
}

impl Entry {
    /// Whose place it holds, if its peer is a stranger: that of the first request, wherever later messages come from.
    fn stranger(&self) -> Option<Source> {
        let (remote, _) = self.init_key.filter(|_| self.sa.state.is_stranger())?;
        Some(Source::of(remote.ip()))
    }
}

/// With whom an established IKE SA is.
struct Who {
    connection: ConnectionName,
    peer: Identification,
}

impl Who {
    fn of(state: &State) -> Option<Self> {
        match state {
            State::Established(state) => {
                Some(Self { connection: state.connection.name.clone(), peer: state.remote_id.clone() })
            }
            _ => None,
        }
    }
}

/// Why a command was refused. The caller is at fault; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No connection of this name is configured.
    #[error("no connection is named {0:?}: use a name of the present configuration")]
    UnknownConnection(String),
    /// The IKE SA is gone, or not established yet.
    #[error("IKE SA {} is not established: it may have been closed meanwhile", .0.0)]
    UnknownIke(IkeHandle),
    /// The child SA is gone.
    #[error("child SA {} does not exist: it may have been rekeyed or closed meanwhile", .0.0)]
    UnknownChild(ChildHandle),
    /// The connection's proposals are empty or need a group we can't make a key for.
    #[error("connection {connection} can't be initiated: {detail}")]
    Unusable {
        /// Which.
        connection: ConnectionName,
        /// Why.
        detail: String,
    },
}

impl Endpoint {
    /// An engine without SAs. `now` and `wall` are the same moment on both clocks; certificates are judged by `wall`
    /// plus what has passed since `now`.
    pub fn new(config: EndpointConfig, mut random: Box<dyn Random>, now: Instant, wall: SystemTime) -> Self {
        let jar = CookieJar::new(&mut *random, now);
        let connections = Connections::new(&config.connections);
        let unix_time = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            shared: Shared {
                config,
                connections,
                random,
                clock: (now, unix_time),
                out: Outbox::default(),
                numbers: Numbers::default(),
                directory: Directory::default(),
                addresses: Vec::new(),
                crls: CrlCache::default(),
                leases: Leases::default(),
            },
            jar,
            sas: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            inits: BTreeMap::new(),
            strangers: Strangers::default(),
            retired: VecDeque::new(),
            answers: Meter::new(STRANGER_ANSWERS.0, STRANGER_ANSWERS.1),
            first_requests: Meter::new(FIRST_REQUESTS, FIRST_REQUESTS_OF_SOURCE),
            known: KnownSpis::default(),
        }
    }

    /// Takes in one datagram (without non-ESP marker).
    pub fn handle_datagram(&mut self, now: Instant, path: Path, bytes: &[u8]) {
        self.shared.out.counters.datagrams_received += 1;
        // The peer's keepalive concerns only the NAT (RFC 3948 section 2.3).
        if bytes == KEEPALIVE {
            return;
        }
        let limit = self.shared.config.limits.message_bytes;
        if bytes.len() > limit {
            self.shared.out.stranger_failure(now, path, None, FailureKind::Malformed, || {
                format!("dropped a datagram of {} bytes, more than the configured {limit}", bytes.len())
            });
            return;
        }
        let outer = match Outer::parse(bytes) {
            Ok(outer) => outer,
            Err(error) => {
                self.shared.out.stranger_failure(now, path, None, FailureKind::Malformed, || {
                    format!("dropped a datagram from {}: {error}", path.remote)
                });
                return self.answer_unreadable(now, path, bytes, &error);
            }
        };
        let header = outer.header;
        if header.exchange == ExchangeType::IkeSaInit && header.initiator && !header.response {
            return self.handle_init(now, path, bytes, outer);
        }
        let spi = if header.initiator { header.spi_r.0 } else { header.spi_i.0 };
        if !self.sas.contains_key(&spi) {
            self.shared.out.stranger_failure(now, path, None, FailureKind::UnknownSpi, || {
                format!(
                    "{} sent {} of IKE SA {}/{}, which does not exist here: it may be one from before a restart",
                    path.remote, header.exchange, header.spi_i, header.spi_r
                )
            });
            if !header.response {
                self.answer_stranger(now, path, &header, Notify::new(NotifyType::InvalidIkeSpi));
            }
            return;
        }
        self.with_sa(now, spi, |state, ctx| state.handle_message(ctx, path, bytes, outer));
    }

    /// Names to the peer what it may do without (RFC 7296 section 2.5). Anything else that can't be read stays unanswered.
    fn answer_unreadable(&mut self, now: Instant, path: Path, bytes: &[u8], error: &WireError) {
        match error {
            WireError::MajorVersion { major: 3.., header } if !header.response => {
                self.answer_stranger(now, path, header, Notify::invalid_major_version());
            }
            WireError::UnsupportedCritical(payload) => {
                if let Ok((header, _)) = Header::parse(bytes)
                    && is_first_request(&header)
                {
                    self.answer_stranger(now, path, &header, Notify::unsupported_critical(*payload));
                }
            }
            _ => {}
        }
    }

    /// A first request, from anybody.
    fn handle_init(&mut self, now: Instant, path: Path, datagram: &[u8], outer: Outer) {
        let header = outer.header;
        if !is_first_request(&header) {
            self.shared.out.stranger_failure(now, path, None, FailureKind::Malformed, || {
                format!("dropped an IKE_SA_INIT from {} with a responder's SPI or a message ID", path.remote)
            });
            return;
        }
        let key = (path.remote, header.spi_i.0);
        if let Some(&spi) = self.inits.get(&key) {
            return self.with_sa(now, spi, |mut state, ctx| {
                if let State::AwaitAuth(waiting) = &mut state {
                    waiting.repeat_init(ctx, path, datagram);
                }
                Some(state)
            });
        }
        let configured = self.shared.connections.name_peer(path.remote.ip());
        if !self.first_requests.admits(now, Source::of(path.remote.ip()), configured) {
            self.shared.out.stranger_failure(now, path, None, FailureKind::Overload, || {
                format!("{} sends first requests faster than they are looked at", path.remote.ip())
            });
            return;
        }
        let (mut timers, mut spawned) = (TimerTable::default(), Vec::new());
        let mut ctx = self.shared.context(now, &mut timers, &mut spawned);
        let strangers = &mut self.strangers;
        let Some(waiting) = responder::answer(&mut ctx, &mut self.jar, strangers, path, datagram, outer)
        else {
            return;
        };
        let spi = waiting.local_spi();
        let state = State::AwaitAuth(Box::new(waiting));
        self.store(Entry { sa: IkeSa { spi, timers, state }, init_key: Some(key) });
    }

    /// Our SPIs, for telling apart what belongs to an IKE SA before it is handed in.
    pub fn known_spis(&self) -> KnownSpis {
        self.known.clone()
    }

    /// An unauthenticated answer, rarely: a hint to an honest peer, and nothing to flood third parties with.
    fn answer_stranger(&mut self, now: Instant, path: Path, request: &Header, notify: Notify) {
        if let Ok(bytes) = write_clear(&request.reply(), &[Payload::Notify(notify)])
            && self.answers.admits(now, Source::of(path.remote.ip()), false)
        {
            self.shared.out.send(path, bytes);
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, spi)) = self.deadlines.first()
            && at <= now
        {
            self.deadlines.remove(&(at, spi));
            self.with_sa(now, spi, |mut state, ctx| {
                while let Some(timer) = ctx.timers.expire(now) {
                    state = state.handle_timer(ctx, timer)?;
                }
                Some(state)
            });
        }
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.shared.out.transmits.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.shared.out.events.pop_front()
    }

    /// When to call [`Endpoint::handle_timeout`]; `None` while nothing is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Begins an IKE SA for a connection; its first child comes with IKE_AUTH, the others by CREATE_CHILD_SA. `local`
    /// and `remote` are those of the first message (port 500, or 4500 to begin there).
    pub fn initiate(
        &mut self,
        now: Instant,
        connection: &str,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<IkeHandle, CommandError> {
        let known = self.shared.connections.named(connection);
        let connection = known.ok_or_else(|| CommandError::UnknownConnection(connection.to_owned()))?.clone();
        let handle = self.shared.numbers.ike();
        let (mut timers, mut spawned) = (TimerTable::default(), Vec::new());
        let mut ctx = self.shared.context(now, &mut timers, &mut spawned);
        let spi = ctx.ike_spi();
        let name = connection.name.clone();
        let begun = InitSent::begin(&mut ctx, handle, connection, Path { local, remote }, spi);
        let begun = begun.map_err(|detail| CommandError::Unusable { connection: name, detail })?;
        self.store(Entry {
            sa: IkeSa { spi, timers, state: State::InitSent(Box::new(begun)) },
            init_key: None,
        });
        Ok(handle)
    }

    /// Closes an IKE SA and its children: DELETE goes to the peer, events follow at once.
    pub fn close(&mut self, now: Instant, ike: IkeHandle) -> Result<(), CommandError> {
        let spi = self.shared.directory.ike(ike).ok_or(CommandError::UnknownIke(ike))?;
        self.with_sa(now, spi, |state, ctx| state.close(ctx, CloseReason::Local));
        Ok(())
    }

    /// Closes every IKE SA of a connection, those included that are not established yet: both ends may have begun one at once.
    pub fn close_connection(&mut self, now: Instant, connection: &str) {
        for ike in self.shared.directory.of_connection(connection).collect::<Vec<_>>() {
            // Gone meanwhile is as good.
            let _ = self.close(now, ike);
        }
    }

    /// Closes every IKE SA.
    pub fn close_all(&mut self, now: Instant) {
        for spi in self.sas.keys().copied().collect::<Vec<_>>() {
            self.with_sa(now, spi, |state, ctx| state.close(ctx, CloseReason::Local));
        }
    }

    /// Rekeys an IKE SA now.
    pub fn rekey_ike(&mut self, now: Instant, ike: IkeHandle) -> Result<(), CommandError> {
        let spi = self.established_ike(ike)?;
        self.with_established(now, spi, |state, _| state.enqueue(Task::RekeyIke));
        Ok(())
    }

    /// Proves anew who both are, by a second IKE SA that replaces this one once it carries everything (RFC 7296
    /// section 2.8.3).
    pub fn reauthenticate(&mut self, now: Instant, ike: IkeHandle) -> Result<(), CommandError> {
        let spi = self.established_ike(ike)?;
        self.with_established(now, spi, Established::reauthenticate);
        Ok(())
    }

    fn established_ike(&self, ike: IkeHandle) -> Result<u64, CommandError> {
        let established = |spi: &u64| {
            self.sas.get(spi).is_some_and(|entry| matches!(entry.sa.state, State::Established(_)))
        };
        self.shared.directory.ike(ike).filter(established).ok_or(CommandError::UnknownIke(ike))
    }

    /// Rekeys a child SA now (its lifetime in packets or bytes ran low).
    pub fn rekey_child(&mut self, now: Instant, child: ChildHandle) -> Result<(), CommandError> {
        let spi = self.holder(child)?;
        self.with_established(now, spi, |state, _| state.enqueue(Task::RekeyChild(child)));
        Ok(())
    }

    /// The data path refused the pair: it is removed, and deleted at the peer too.
    pub fn child_failed(&mut self, now: Instant, child: ChildHandle) -> Result<(), CommandError> {
        let spi = self.holder(child)?;
        self.with_established(now, spi, |state, ctx| state.discard_child(ctx, child, CloseReason::Failed));
        Ok(())
    }

    /// The data path received the first authentic packet on a pair that does not send yet.
    pub fn child_first_inbound(&mut self, now: Instant, child: ChildHandle) -> Result<(), CommandError> {
        let spi = self.holder(child)?;
        self.with_established(now, spi, |state, ctx| state.activate(ctx, child));
        Ok(())
    }

    /// The configuration it works from.
    pub fn config(&self) -> &EndpointConfig {
        &self.shared.config
    }

    /// The data path received authentic packets on a pair: the peer lives, and need not be asked (RFC 7296 section 2.4).
    /// Once in a while is enough.
    pub fn child_received(&mut self, now: Instant, child: ChildHandle) -> Result<(), CommandError> {
        let spi = self.holder(child)?;
        self.with_established(now, spi, |state, ctx| state.heard(ctx));
        Ok(())
    }

    /// Authentic ESP came on a pair from another address or port than it is sent to: the NAT in front of the peer has a
    /// new mapping. Believed where there is a NAT (RFC 7296 section 2.23).
    pub fn child_remapped(
        &mut self,
        now: Instant,
        child: ChildHandle,
        remote: SocketAddr,
    ) -> Result<(), CommandError> {
        let spi = self.holder(child)?;
        self.with_established(now, spi, |state, ctx| state.follow_esp(ctx, remote));
        Ok(())
    }

    /// Our own addresses from now on that IKE may use, best first. IKE SAs whose address is gone move to another one: with
    /// MOBIKE (RFC 4555), or behind a NAT of ours; others are closed at once, as they can only be begun anew.
    pub fn set_addresses(&mut self, now: Instant, addresses: Vec<IpAddr>) {
        if self.shared.addresses == addresses {
            return;
        }
        self.shared.addresses = addresses;
        for spi in self.sas.keys().copied().collect::<Vec<_>>() {
            self.with_sa(now, spi, |state, ctx| match state {
                State::Established(mut established) => match established.addresses_changed(ctx) {
                    true => established.go_on(ctx),
                    false => established.end(ctx, CloseReason::Dead),
                },
                other => Some(other),
            });
        }
    }

    /// Works from another configuration from now on. IKE SAs whose connection vanished or changed are closed, and those
    /// whose peer has an address that no pool of its connection has any more.
    pub fn set_config(&mut self, now: Instant, config: EndpointConfig) {
        let connections = Connections::new(&config.connections);
        let mut stale = Vec::new();
        for entry in self.sas.values_mut() {
            let state = &mut entry.sa.state;
            let stays = matches!(state, State::Retired(_)) || state.adopt(&connections);
            let keeps = match state {
                State::Established(state) => state.may_keep_addresses(&config.pools),
                _ => true,
            };
            if !stays || !keeps {
                stale.push(entry.sa.spi);
            }
        }
        for spi in stale {
            self.with_sa(now, spi, |state, ctx| state.close(ctx, CloseReason::Local));
        }
        self.shared.config = config;
        self.shared.connections = connections;
        self.judge_peers(now);
    }

    /// Other CRLs (DER or PEM) than before were loaded for a connection. IKE SAs whose peer they revoke are closed.
    pub fn set_crls(
        &mut self,
        now: Instant,
        connection: &str,
        crls: &[impl AsRef<[u8]>],
    ) -> Result<(), CertificateError> {
        let mut config = self.shared.config.clone();
        for known in config.connections.iter_mut().filter(|known| *known.name == *connection) {
            if let RemoteAuth::Certificate(anchors) = &known.remote_auth {
                let anchors = anchors.with_other_crls(crls)?;
                let remote_auth = RemoteAuth::Certificate(Arc::new(anchors));
                *known = Arc::new(Connection { remote_auth, ..(**known).clone() });
            }
        }
        self.set_config(now, config);
        Ok(())
    }

    /// A CRL of [`Event::CrlWanted`] was fetched (DER or PEM), or could not be. IKE SAs that wait for it go on; those
    /// whose peer it revokes are closed.
    pub fn handle_crl(&mut self, now: Instant, url: &str, fetched: Result<&[u8], String>) {
        let (base, unix) = self.shared.clock;
        let unix_time = unix.saturating_add(now.saturating_duration_since(base));
        let wall = UnixTime::since_unix_epoch(unix_time);
        if let Err(why) = self.shared.crls.take(now, wall, url, fetched) {
            let concerned = self.sas.values().map(|entry| &entry.sa.state).find(|state| match state {
                State::Established(state) => {
                    state.peer.as_ref().is_some_and(|peer| peer.crl_sources().any(|source| source.url == url))
                }
                state => state.awaits_crls(),
            });
            let status = concerned.and_then(State::status);
            if let Some(status) = status {
                let detail = format!(
                    "the CRL at {url} is of no use: {why}; the gateway must be able to reach that server (allow DNS and \
                     tcp/80 from zone \"gateway\"), or name a file with the CRL in `crl`"
                );
                let connection = status.connection.as_ref();
                self.shared.out.failure(status.path, connection, FailureKind::CrlUnavailable, detail);
            }
        }
        self.judge_peers(now);
    }

    /// Other CRLs are known.
    fn judge_peers(&mut self, now: Instant) {
        let concerned = self.sas.values().filter(|entry| match &entry.sa.state {
            State::Established(state) => state.peer.is_some(),
            state => state.awaits_crls(),
        });
        for spi in concerned.map(|entry| entry.sa.spi).collect::<Vec<_>>() {
            self.with_sa(now, spi, State::crls_changed);
        }
    }

    /// Totals.
    pub fn stats(&self) -> Stats {
        let counters = &self.shared.out.counters;
        let mut stats = Stats {
            datagrams_received: counters.datagrams_received,
            datagrams_sent: counters.datagrams_sent,
            retransmissions: counters.retransmissions,
            responses_repeated: counters.responses_repeated,
            cookies_demanded: counters.cookies_demanded,
            ike_established: counters.ike_established,
            ike_rekeyed: counters.ike_rekeyed,
            children_installed: counters.children_installed,
            failures: counters.failures.clone(),
            virtual_addresses: self.shared.leases.in_use(),
            pools_exhausted: self.shared.leases.exhausted().clone(),
            strangers: self.strangers.total(),
            spis: self.shared.numbers.esp_spis.used(),
            ..Stats::default()
        };
        for entry in self.sas.values() {
            match &entry.sa.state {
                State::InitSent(_)
                | State::IntermediateSent(_)
                | State::AuthSent(_)
                | State::AwaitAuth(_) => stats.half_open += 1,
                State::Retired(retired) => {
                    stats.retired += 1;
                    stats.unacknowledged += usize::from(retired.is_unacknowledged());
                }
                State::Established(state) => {
                    stats.established += 1;
                    stats.children += state.children.len();
                }
            }
        }
        stats
    }

    /// Every IKE SA, in the order of their handles.
    pub fn ike_sas(&self) -> impl Iterator<Item = IkeStatus> + '_ {
        let mut all: Vec<_> = self.sas.values().filter_map(|entry| entry.sa.state.status()).collect();
        all.sort_by_key(|status| status.ike);
        all.into_iter()
    }

    /// The established IKE SAs of a connection, oldest first.
    pub fn established_with<'a>(&'a self, connection: &str) -> impl Iterator<Item = IkeHandle> + use<'a> {
        self.shared.directory.established_with(connection)
    }

    fn holder(&self, child: ChildHandle) -> Result<u64, CommandError> {
        self.shared.directory.holder(child).ok_or(CommandError::UnknownChild(child))
    }

    fn with_established(
        &mut self,
        now: Instant,
        spi: u64,
        change: impl FnOnce(&mut Established, &mut Context<'_>),
    ) {
        self.with_sa(now, spi, |state, ctx| match state {
            State::Established(mut established) => {
                change(&mut established, ctx);
                established.go_on(ctx)
            }
            other => Some(other),
        });
    }

    /// One mutation of one IKE SA, and what follows from it for the others.
    fn with_sa(
        &mut self,
        now: Instant,
        spi: u64,
        change: impl FnOnce(State, &mut Context<'_>) -> Option<State>,
    ) {
        let Some(Entry { sa, init_key }) = self.take(spi) else { return };
        let IkeSa { spi, mut timers, state } = sa;
        let mut spawned = Vec::new();
        let mark = self.shared.out.events.len();
        let was_retired = state.is_retired();
        let was = Who::of(&state);
        let next = change(state, &mut self.shared.context(now, &mut timers, &mut spawned));
        let is = next.as_ref().and_then(Who::of);
        let retired = next.as_ref().is_some_and(State::is_retired) && !was_retired;
        match next {
            Some(state) => self.store(Entry { sa: IkeSa { spi, timers, state }, init_key }),
            None => {
                self.known.set(spi, false);
                self.forget_init(init_key);
            }
        }
        if retired {
            self.retire(spi);
        }
        let mut moved = None;
        for sa in spawned {
            let (spi, retired) = (sa.spi, sa.state.is_retired());
            moved = moved.or(Who::of(&sa.state).map(|_| spi));
            self.store(Entry { sa, init_key: None });
            if retired {
                self.retire(spi);
            }
        }
        match (was, is) {
            (Some(gone), None) if moved.is_none() => self.hand_over(mark, &gone),
            (None, Some(_)) => self.judge_duplicates(now, spi),
            _ => {}
        }
        self.close_superseded(now, moved.unwrap_or(spi));
    }

    /// Holds what is over within its bound.
    fn retire(&mut self, spi: u64) {
        self.retired.push_back(spi);
        while self.retired.len() > self.shared.config.limits.retired
            && let Some(oldest) = self.retired.pop_front()
        {
            if let Some(entry) = self.take(oldest) {
                self.known.set(oldest, false);
                self.forget_init(entry.init_key);
            }
        }
    }

    fn forget_init(&mut self, key: Option<InitKey>) {
        if let Some(key) = key {
            self.inits.remove(&key);
        }
    }

    fn store(&mut self, entry: Entry) {
        let spi = entry.sa.spi;
        self.known.set(spi, true);
        if let Some(source) = entry.stranger() {
            self.strangers.enter(source);
        }
        self.shared.directory.enter(&entry.sa);
        self.deadlines.extend(entry.sa.timers.next().map(|at| (at, spi)));
        if let Some(key) = entry.init_key {
            self.inits.insert(key, spi);
        }
        self.sas.insert(spi, entry);
    }

    fn take(&mut self, spi: u64) -> Option<Entry> {
        let entry = self.sas.remove(&spi)?;
        self.shared.directory.leave(&entry.sa);
        if let Some(source) = entry.stranger() {
            self.strangers.leave(source);
        }
        if let Some(at) = entry.sa.timers.next() {
            self.deadlines.remove(&(at, spi));
        }
        Some(entry)
    }
}

/// RFC 7296 section 3.1: the initiator's first message, before the responder has an SPI.
fn is_first_request(header: &Header) -> bool {
    header.exchange == ExchangeType::IkeSaInit
        && header.initiator
        && !header.response
        && header.spi_r.is_zero()
        && header.message_id == 0
}
