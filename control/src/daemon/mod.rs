//! `sekishod`: one loop that owns everything, and what feeds it.
//!
//! | task | owns | feeds the loop by |
//! |---|---|---|
//! | this loop | IKE engine, connections, maps, netlink | |
//! | `sockets` (one a UDP socket) | the socket's reading side | bounded channels of datagrams: peers', strangers' |
//! | `too_big` | raw sockets of ICMP | bounded channel of destinations |
//! | `crl` (one a CRL) | the connection to its server | bounded channel of CRLs |
//! | `api`, `metrics` (one a client) | the client | bounded channel of requests |
//! | reader of a changed configuration | nothing | channel of one checked configuration |
//! | SA event thread | nothing | bounded channel of [`SaEvent`] |
//! | engine threads (`sekisho-esp`), one for each worker | SAs' keys, AF_XDP sockets | acknowledged commands, counters in atomics |
//! | flow sweeper thread | handle of `FLOWS` | an atomic count, records |
//! | event thread | the ring `EVENTS` | records |
//! | evidence thread | the files of evidence | watchers |
//!
//! No lock is held across anything. Cancel safety: every `select!` branch is a channel, a timer or [`Events::next`].

mod bringup;
mod change;
mod crl;
mod datapath;
mod engine;
mod given;
mod kernel_path;
mod layout;
mod neighbours;
mod paths;
mod quotas;
mod reassembled;
mod reload;
mod repairs;
mod report;
mod requests;
mod resources;
mod run_directory;
mod sas;
mod sockets;
mod stop;
mod too_big;
mod trunk;
mod tunnels;
mod uplinks;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use sekisho_esp::engine::Reassembled;
use sekisho_esp::sa::SaEvent;
use sekisho_ike::crypto::random::SystemRandom;
use sekisho_ike::{Endpoint, EndpointConfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle as Task;
use tokio::time::MissedTickBehavior;

pub use self::change::{Change, Kind as ChangeKind};
pub use self::layout::numbers_in_force;
pub use self::reload::Reloaded;

use self::bringup::Ground;
use self::crl::{CrlFiles, Fetched};
use self::datapath::{Choice, Proven};
use self::paths::{Look, Paths, Peers};
use self::sas::forward_sa_events;
use self::sockets::{Outlet, Sockets};
use self::too_big::TooBig;
use self::tunnels::Tunnels;
use crate::api::{self, Pending, Request};
use crate::causes::told;
use crate::config::Config;
use crate::evidence::{Names, Record, Recorder};
use crate::filter::{Events, Filter, FlowSweeper};
use crate::kernel::Watch;
use crate::status;

/// Requests of operators and scrapers waiting for the loop.
const REQUESTS_MAX: usize = 64;
/// How often the ports' interfaces and the way to the peers are looked up again.
const WATCH_PERIOD: Duration = Duration::from_secs(1);
/// How long a key of challenges is used: an answer comes within a round trip, and a guess has no more time than this.
const SECRETS_PERIOD: Duration = Duration::from_secs(60);
/// How often stale neighbours are asked for.
const NEIGHBOURS_PERIOD: Duration = Duration::from_secs(10);

/// Runs a gateway until SIGTERM or SIGINT, then takes everything back.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let directory = api::run_directory(&config.gateway.name);
    api::make_private(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let _lock = run_directory::lock(&directory, &config.gateway.name)?;
    // Read before anything is touched: a key that cannot be read must not leave a half-built gateway.
    let ike = config.ike().context("credentials")?;
    let datapath = datapath::choose(&config).await?;
    let was_in_force = Filter::is_in_force(&config.gateway.name) || directory.join(bringup::LEDGER).exists();
    layout::claim_namespace(&directory, &config.gateway.name, was_in_force)?;
    let (mut daemon, requests) = match start(&config, &directory, datapath, ike).await {
        Ok(started) => started,
        Err(error) => {
            if bringup::after_failed_start(&config, &directory, was_in_force).await {
                run_directory::remove(&config, &directory);
            }
            return Err(error);
        }
    };
    // Only an operator's word takes the filter back. After an error it stays, as after a crash.
    daemon.serve(requests).await.context("the filter stays in force; start the daemon again")?;
    daemon.stop().await
}

/// Everything up to the first packet that may pass.
async fn start(
    config: &Config,
    directory: &Path,
    datapath: Choice,
    ike: EndpointConfig,
) -> anyhow::Result<(Daemon, mpsc::Receiver<Pending>)> {
    if let Some(table) = &datapath.table {
        table.take_over().context("taking over the kernel's SAs")?;
    }
    let Choice { status, table, proven } = datapath;
    let ground = bringup::bring_up(config, directory, table).await?;
    let ike = EndpointConfig { resources: ground.resources(), ..ike };
    let (sender, requests) = mpsc::channel::<Pending>(REQUESTS_MAX);
    let mut daemon =
        Daemon::new(config.clone(), directory.to_owned(), (status, proven), ike, ground, sender.clone())?;
    let feed = daemon.evidence.feed().clone();
    api::serve(&config.gateway.name, sender.clone(), feed).context("cannot open the control socket")?;
    daemon.metrics = metrics_at(config.gateway.metrics, &sender);
    Ok((daemon, requests))
}

/// Serves the metrics, if they are to be served anywhere.
fn metrics_at(address: Option<SocketAddr>, requests: &mpsc::Sender<Pending>) -> Option<Task<()>> {
    address.map(|address| crate::metrics::serve(address, requests.clone()))
}

struct Daemon {
    config: Config,
    directory: PathBuf,
    datapath: status::Datapath,
    /// What the kernel was seen to have, where it is the data path.
    proven: Proven,
    started: Instant,
    ground: Ground,
    sweeper: FlowSweeper,
    filter_events: Events,
    /// When the trace that runs ends by itself.
    trace_until: Option<Instant>,
    /// Last: what ends before it is still recorded.
    evidence: Recorder,
    endpoint: Endpoint,
    tunnels: Tunnels,
    paths: Paths,
    sockets: Sockets,
    datagrams: Outlet,
    /// ESP that came in fragments.
    reassembled: mpsc::Receiver<Reassembled>,
    /// What routers say of packets of ours.
    too_big: TooBig,
    crl_files: CrlFiles,
    crl_sender: mpsc::Sender<Fetched>,
    crls: mpsc::Receiver<Fetched>,
    sa_events: mpsc::Receiver<SaEvent>,
    /// Absent only while one engine takes the place of another.
    sa_event_thread: Option<JoinHandle<()>>,
    /// Policies that schedules have put out of force.
    asleep: BTreeSet<usize>,
    /// For those that ask on behalf of others: the metrics.
    requests: mpsc::Sender<Pending>,
    metrics: Option<Task<()>>,
    /// A changed configuration is being read and checked.
    is_reading: bool,
    /// Neither a changed configuration nor the former one could be put in force: the filter is closed until one is, be it the
    /// former one without a change.
    is_torn: bool,
    /// When challenges got a new key.
    secrets_renewed: Instant,
}

impl Daemon {
    fn new(
        config: Config,
        directory: PathBuf,
        (datapath, proven): (status::Datapath, Proven),
        ike: EndpointConfig,
        mut ground: Ground,
        requests: mpsc::Sender<Pending>,
    ) -> anyhow::Result<Daemon> {
        let now = Instant::now();
        let endpoint = Endpoint::new(ike, Box::new(SystemRandom::new()), now, SystemTime::now());
        let table = ground.table();
        let (sender, sa_events) = mpsc::channel(REQUESTS_MAX);
        let sa_event_thread = forward_sa_events(Arc::downgrade(&table), sender)?;
        let (inlet, datagrams, reassembled) = sockets::channels(endpoint.known_spis());
        let locals: BTreeSet<IpAddr> = uplinks::configured(&config).collect();
        let sockets = Sockets::bind(locals, inlet, ground.xfrm.is_some())?;
        let too_big = TooBig::listen(ground.kernel.has_ipv6()).context("cannot open raw sockets for ICMP")?;
        let (crl_sender, crls) = mpsc::channel(crl::FETCHED_MAX);
        let evidence = Recorder::start(&config.evidence).context("[evidence] `directory`")?;
        evidence.set_names(Names::of(&config, &Names::default()));
        evidence.sink().record(Record::Start { version: env!("CARGO_PKG_VERSION").into() });
        Ok(Daemon {
            asleep: config.asleep(SystemTime::now()),
            tunnels: Tunnels::new(&config, table, evidence.sink().clone(), now),
            sweeper: FlowSweeper::start(&mut ground.maps, evidence.sink().clone())?,
            filter_events: Events::start(&mut ground.maps, evidence.sink().clone())?,
            trace_until: None,
            evidence,
            started: now,
            paths: Paths::default(),
            crl_files: CrlFiles::of(&config),
            config,
            directory,
            datapath,
            proven,
            ground,
            endpoint,
            sockets,
            datagrams,
            reassembled,
            too_big,
            crl_sender,
            crls,
            sa_events,
            sa_event_thread: Some(sa_event_thread),
            requests,
            metrics: None,
            secrets_renewed: now,
            is_reading: false,
            is_torn: false,
        })
    }

    /// The loop.
    async fn serve(&mut self, mut requests: mpsc::Receiver<Pending>) -> anyhow::Result<()> {
        let mut hangup = signal(SignalKind::hangup())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut watch_due = tokio::time::interval(WATCH_PERIOD);
        let mut neighbours_due = tokio::time::interval(NEIGHBOURS_PERIOD);
        // After a pause nothing is made up for: once is enough.
        for due in [&mut watch_due, &mut neighbours_due] {
            due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let watch = Watch::open(self.ground.nics())?;
        self.follow_uplinks(Look::All).await;
        let (reader, mut read) = mpsc::channel(1);
        tracing::info!(gateway = &*self.config.gateway.name, "ready");
        loop {
            self.settle().await;
            let due = [self.endpoint.poll_timeout(), self.tunnels.next_timeout()].into_iter().flatten().min();
            let timer = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // What anyone can flood stands last: an operator's word and the clock come through in any weather.
                biased;
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                _ = hangup.recv() => self.begin_reload(false, None, &reader),
                Some((request, reply)) = requests.recv() => match request {
                    Request::Reload { check } => self.begin_reload(check, Some(reply), &reader),
                    Request::Explain { question } => self.explain(question, reply),
                    // An asker who has left does not matter.
                    request => drop(reply.send(self.handle_request(request))),
                },
                Some(read) = read.recv() => self.finish_reload(read).await,
                Some(event) = self.sa_events.recv() => {
                    self.tunnels.handle_sa_event(Instant::now(), event, &mut self.endpoint);
                }
                () = timer => {
                    let now = Instant::now();
                    self.endpoint.handle_timeout(now);
                    self.tunnels.handle_timeout(now, &mut self.endpoint, &mut self.ground.maps);
                }
                _ = watch_due.tick() => {
                    if self.ground.engine.as_ref().is_some_and(|engine| !engine.is_running()) {
                        anyhow::bail!("a thread of the user-space ESP engine has ended: not all that the tunnels carry arrives");
                    }
                    self.follow_schedules();
                    self.follow_uplinks(Look::Turn).await;
                    self.follow_given().await;
                    self.renew_secrets();
                    self.tunnels.watch(Instant::now(), &mut self.endpoint);
                    if self.trace_until.is_some_and(|until| until <= Instant::now()) {
                        self.end_trace();
                    }
                }
                Some(Fetched { url, crl }) = self.crls.recv() => {
                    self.endpoint.handle_crl(Instant::now(), &url, crl.as_deref().map_err(Clone::clone));
                }
                () = watch.changed() => self.follow_uplinks(Look::All).await,
                _ = neighbours_due.tick() => {
                    self.crl_files.follow(Instant::now(), &self.config, &mut self.endpoint);
                    if let Err(error) = paths::keep_neighbours(&self.ground.kernel, &self.ground.links).await {
                        tracing::warn!(%error, "neighbours not refreshed");
                    }
                }
                said = self.too_big.said() => self.refresh_paths(Look::Said(said)).await,
                Some(packet) = self.reassembled.recv() => {
                    if let Some(engine) = &self.ground.engine {
                        engine.take_reassembled(packet);
                    }
                }
                Some(datagram) = self.datagrams.next() => {
                    self.endpoint.handle_datagram(Instant::now(), datagram.path, &datagram.bytes);
                }
            }
        }
    }

    /// Keys of challenges are used for a time and known for another.
    fn renew_secrets(&mut self) {
        if self.secrets_renewed.elapsed() < SECRETS_PERIOD {
            return;
        }
        self.secrets_renewed = Instant::now();
        if let Err(error) = self.ground.maps.renew_secrets(&mut SystemRandom::new()) {
            tracing::error!(%error, "challenges go on with the former key");
        }
    }

    /// Puts other rules in force where the clock has passed a schedule's boundary. Looking at the clock each time, and not
    /// waiting for the boundary, also follows a clock that is set.
    fn follow_schedules(&mut self) {
        let now = SystemTime::now();
        let asleep = self.config.asleep(now);
        if asleep == self.asleep {
            return;
        }
        let name = |index: &usize| self.config.policies.get(*index).map(|policy| &*policy.name);
        let begun: Vec<&str> = self.asleep.difference(&asleep).filter_map(name).collect();
        let ended: Vec<&str> = asleep.difference(&self.asleep).filter_map(name).collect();
        tracing::info!(begun = begun.join(" "), ended = ended.join(" "), "schedules");
        let outcome = match self.config.rules(now) {
            Ok(rules) => self.ground.put_rules_in_force(&self.config, &rules, &self.directory),
            Err(error) => Err(error.into()),
        };
        match outcome {
            Ok(()) => self.asleep = asleep,
            // Tried again with the next look.
            Err(error) => tracing::error!("the schedules' rules are not in force: {}", told(&error)),
        }
    }

    /// Carries out what the IKE engine wants.
    async fn settle(&mut self) {
        let now = Instant::now();
        self.tunnels.settle(now, &mut self.endpoint, &mut self.ground.maps, &self.sockets);
        for url in self.tunnels.crls_wanted.drain(..) {
            crl::fetch(url, self.crl_sender.clone());
        }
        if std::mem::take(&mut self.tunnels.given_changed) {
            self.follow_given().await;
            self.tunnels.settle(Instant::now(), &mut self.endpoint, &mut self.ground.maps, &self.sockets);
        }
        // Only what is new is looked at here: this comes after each datagram, however many peers there are.
        let mut new: Peers = std::mem::take(&mut self.tunnels.new_peers).into_iter().collect();
        new.retain(|peer, local| !self.paths.has_asked(*peer, *local));
        if !new.is_empty() {
            self.refresh_paths(Look::New(new)).await;
        }
    }

    async fn refresh_paths(&mut self, look: Look) {
        let engine = self.ground.engine.as_deref();
        if engine.is_none() && self.ground.xfrm.is_none() {
            return;
        }
        let are_new = matches!(look, Look::New(_));
        let was_said = matches!(look, Look::Said(_));
        let peers = match look {
            Look::New(peers) => peers,
            Look::Said(peers) => self.paths.asked_among(&peers),
            Look::Turn | Look::All => {
                let all: Peers = self.tunnels.peers().collect();
                self.paths.keep_only(engine, &all);
                if matches!(look, Look::Turn) { self.paths.turn(&all) } else { all }
            }
        };
        let before = self.paths.mtus(&peers);
        let Ground { kernel, links, .. } = &self.ground;
        if let Err(error) = self.paths.refresh(kernel, engine, links, &self.tunnels.uplinks, &peers).await {
            tracing::warn!(%error, "ways to the peers not refreshed");
        }
        let now = self.paths.mtus(&peers);
        if are_new && now.is_empty() || was_said && now == before {
            // Nothing has become narrower.
            return;
        }
        for (peer, mtu) in now.iter().filter(|(peer, mtu)| was_said && before.get(*peer) != Some(*mtu)) {
            tracing::info!(%peer, mtu, "a router has told of a narrower path");
        }
        let mut narrow = BTreeMap::<u16, u16>::new();
        for (port, peer) in self.tunnels.ends() {
            if let Some(mtu) = self.paths.mtu(peer) {
                narrow.entry(port).and_modify(|least| *least = mtu.min(*least)).or_insert(mtu);
            }
        }
        if let Err(error) = self.ground.follow_paths(&self.config, narrow).await {
            tracing::error!("a narrower path is not followed: {}", told(&error));
        }
    }
}
