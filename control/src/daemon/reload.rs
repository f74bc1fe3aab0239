//! Another configuration without another start: read and checked aside, compared, and the difference carried out.
//!
//! What is unchanged goes on untouched: flows that are still allowed, IKE SAs, sockets, numbers of ports and zones. The
//! order is fail closed. What is no longer allowed ends first, by the rules; then ports and networks are those of the
//! new configuration, and every flow is judged again; connections follow. After an error in the middle the former
//! configuration is put in force again, and where that fails as well, the filter closes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use sekisho_ike::EndpointConfig;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::change::{Change, Changes, Kind};
use super::crl::CrlFiles;
use super::sas::{NoDatapath, forward_sa_events};
use super::{Daemon, datapath, layout, metrics_at, uplinks};
use crate::api::Answer;
use crate::causes::told;
use crate::config::{self, Config, Datapath};
use crate::evidence::{Names, Record};
use crate::nat::NatSet;
use crate::policy::RuleSet;

/// What a reload did, or would do.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Reloaded {
    /// Whether it was carried out; only checked otherwise.
    pub applied: bool,
    /// The differences to what was in force.
    pub changes: Vec<Change>,
    /// What an administrator should look at, though it works.
    pub warnings: Vec<String>,
    /// How long carrying it out took, in milliseconds.
    pub milliseconds: u64,
}

impl Reloaded {
    /// As an operator reads it.
    pub fn render(&self) -> String {
        let mut lines = self.warnings.iter().map(|warning| format!("warning: {warning}")).collect::<Vec<_>>();
        lines.extend(self.changes.iter().map(ToString::to_string));
        lines.push(match (self.applied, self.changes.is_empty()) {
            (_, true) => "nothing has changed".into(),
            (true, false) => format!("in force after {} ms", self.milliseconds),
            (false, false) => "would change; nothing was changed".into(),
        });
        lines.join("\n")
    }
}

/// A configuration that has passed every check, with everything read that it names.
pub(super) struct Prepared {
    config: Config,
    ike: EndpointConfig,
    rules: RuleSet,
    warnings: Vec<String>,
}

/// Who asked for it.
pub(super) struct Asked {
    /// Only compare.
    check: bool,
    /// Where the answer goes; for a signal, nowhere.
    reply: Option<oneshot::Sender<Answer>>,
}

/// What was read, and for whom.
pub(super) type Read = (Result<Box<Prepared>, String>, Asked);

/// Reads and checks a configuration; the error is for the operator to read.
fn prepare(path: &Path) -> Result<Box<Prepared>, String> {
    let loaded = config::load_with(path, layout::numbers_in_force).map_err(|findings| {
        let findings: Vec<String> = findings.iter().map(ToString::to_string).collect();
        format!("{}\n\nnothing was changed: {} has errors", findings.join("\n\n"), path.display())
    })?;
    let config = loaded.config;
    let ike = config.ike().map_err(|error| format!("nothing was changed: credentials: {error}"))?;
    let rules = config.rules(SystemTime::now()).map_err(|error| format!("nothing was changed: {error}"))?;
    let warnings = loaded.warnings.iter().map(config::Diagnostic::line).collect();
    Ok(Box::new(Prepared { config, ike, rules, warnings }))
}

impl Daemon {
    /// Begins to read the configuration anew, beside the loop: checking ten thousand policies must not delay an IKE
    /// message. What comes of it arrives by `read`.
    pub(super) fn begin_reload(
        &mut self,
        check: bool,
        reply: Option<oneshot::Sender<Answer>>,
        read: &mpsc::Sender<Read>,
    ) {
        if self.is_reading {
            let reason = "a configuration is being read already; try again when it is done".to_owned();
            return answer(reply, Answer::Refused { reason });
        }
        self.is_reading = true;
        let (path, read): (PathBuf, _) = (self.config.path.clone(), read.clone());
        tokio::task::spawn_blocking(move || {
            let asked = Asked { check, reply };
            // A loop that has ended needs no configuration.
            let _ = read.blocking_send((prepare(&path), asked));
        });
    }

    /// Carries out what was read, or says why not.
    pub(super) async fn finish_reload(&mut self, (prepared, asked): Read) {
        self.is_reading = false;
        let outcome = match prepared {
            Ok(prepared) => self.reload(*prepared, asked.check).await,
            Err(reason) => Err(reason),
        };
        let done = match outcome {
            Ok(reloaded) => Answer::Reloaded { reloaded },
            Err(reason) => {
                if !asked.check {
                    tracing::error!("configuration not reloaded: {reason}");
                    let applied = false;
                    self.evidence.sink().record(Record::Reload { applied, detail: reason.clone() });
                }
                Answer::Refused { reason }
            }
        };
        answer(asked.reply, done);
    }

    async fn reload(&mut self, new: Prepared, check: bool) -> Result<Reloaded, String> {
        self.only_at_a_start(&new.config)?;
        let mut changes = Changes::between((&self.config, self.endpoint.config()), (&new.config, &new.ike));
        if self.is_torn {
            changes.add("gateway", "(filter)", Kind::Changed);
            changes.ground = true;
            // Closed it may not be: that may have been what failed.
            changes.regroups = true;
        }
        self.ground.look_at_queues().await;
        // NICs may have other queues than they had, whatever is in the file. A port without its interface is put in force when
        // that is back.
        if !changes.ground && self.ground.is_whole() && !self.ground.keeps_engine(&new.config) {
            changes.add("gateway", "(engine)", Kind::Changed);
            changes.ground = true;
        }
        let mut reloaded = Reloaded {
            applied: !check,
            changes: changes.list.clone(),
            warnings: new.warnings.clone(),
            milliseconds: 0,
        };
        if check {
            return Ok(reloaded);
        }
        for warning in &new.warnings {
            tracing::warn!("{warning}");
        }
        let begin = Instant::now();
        self.put_in_force(new, &changes).await?;
        reloaded.milliseconds = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        let detail = changes.summary();
        self.evidence.sink().record(Record::Reload { applied: true, detail });
        tracing::info!(
            changes = changes.summary(),
            milliseconds = reloaded.milliseconds,
            "configuration reloaded"
        );
        Ok(reloaded)
    }

    /// Refuses what only a start can change.
    fn only_at_a_start(&mut self, new: &Config) -> Result<(), String> {
        let (before, after) = (&self.config.gateway, &new.gateway);
        let key = match () {
            () if before.name != after.name => "name",
            () if before.datapath != after.datapath => "datapath",
            () if before.offload != after.offload => "offload",
            () if before.flows_max != after.flows_max => "flows_max",
            () => return self.kernel_can_carry(new),
        };
        Err(format!(
            "nothing was changed: [gateway] `{key}` changes only with a restart of the daemon; take that line back, or \
             restart it (the filter stays in force meanwhile)"
        ))
    }

    /// Whether the kernel, which `auto` has taken, would be taken again. Who has asked for it hears at each connection what it lacks.
    fn kernel_can_carry(&mut self, new: &Config) -> Result<(), String> {
        let Some(table) = self.ground.xfrm.as_ref().filter(|_| new.gateway.datapath == Datapath::Auto) else {
            return Ok(());
        };
        datapath::can_carry(table, new, &mut self.proven).map(drop).map_err(|error| {
            format!(
                "nothing was changed: the kernel carries ESP, and not all of this: {}; a restart of the daemon takes the engine \
                 (the filter stays in force meanwhile)",
                told(&error)
            )
        })
    }

    async fn put_in_force(&mut self, new: Prepared, changes: &Changes) -> Result<(), String> {
        let Prepared { config, ike, rules, .. } = new;
        if !changes.ground {
            if changes.rules {
                self.ground.maps.set_nat(NatSet::of(&config, &self.ground.given));
                self.name_rules(&config);
                self.ground.put_rules_in_force(&config, &rules, &self.directory).map_err(|error| {
                    format!("the rules in force are still the former ones: {}", told(&error))
                })?;
            }
            self.adopt(config, changes);
            return Ok(());
        }
        self.name_rules(&config);
        let keeps_engine = self.ground.keeps_engine(&config);
        if !keeps_engine {
            tracing::warn!(
                "the ESP engine starts anew, for its ports, their queues or its workers change: every connection is \
                 opened again"
            );
            self.end_engine();
        }
        let locals: BTreeSet<IpAddr> = uplinks::configured(&config).collect();
        let outcome = match self.change_ground(&config, &rules, changes).await {
            Ok(()) => self.sockets.bind_more(locals.iter().copied()).map_err(anyhow::Error::from),
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            return Err(self.go_back(&error, keeps_engine).await);
        }
        if !keeps_engine {
            self.begin_engine().map_err(|error| format!("no connection can come up: {error}"))?;
        }
        self.change_connections(&config, ike);
        self.sockets.keep_only(&locals);
        self.is_torn = false;
        self.adopt(config, changes);
        Ok(())
    }

    /// Ports, networks, routes and rules.
    async fn change_ground(
        &mut self,
        config: &Config,
        rules: &RuleSet,
        changes: &Changes,
    ) -> anyhow::Result<()> {
        if changes.regroups {
            // For the moment that this takes nothing passes.
            self.ground.maps.close()?;
        } else {
            self.ground.maps.set_nat(NatSet::of(config, &self.ground.given));
            // What goes away has no rules any more before its networks become somebody else's.
            self.ground.maps.set_rules(rules)?;
        }
        self.ground.put_in_force(config, rules, &self.directory).await
    }

    /// The former configuration again, after an error.
    async fn go_back(&mut self, error: &anyhow::Error, keeps_engine: bool) -> String {
        let back = async {
            // The pair of the one that has just started may have other queues, and none that a socket holds goes away.
            if !keeps_engine {
                self.ground.stop_engine();
            }
            let rules = self.config.rules(SystemTime::now())?;
            self.ground.put_in_force(&self.config, &rules, &self.directory).await?;
            if !keeps_engine {
                self.begin_engine()?;
                let ike = self.config.ike()?;
                self.change_connections(&self.config.clone(), ike);
            }
            anyhow::Ok(())
        };
        match back.await {
            Ok(()) => {
                self.is_torn = false;
                format!("{}; the former configuration is in force again", told(error))
            }
            Err(worse) => {
                self.is_torn = true;
                let closed = match self.ground.maps.close() {
                    Ok(()) => "the filter is closed, nothing passes".to_owned(),
                    Err(error) => format!("the filter could not be closed ({error})"),
                };
                format!(
                    "{}; and the former configuration could not be put in force again: {}; {closed}: mend the fault, then \
                     `sekisho reload` or restart the daemon",
                    told(error),
                    told(&worse)
                )
            }
        }
    }

    /// SAs of connections that are gone or otherwise are closed, and the peers told; the others stay.
    fn change_connections(&mut self, config: &Config, ike: EndpointConfig) {
        let now = Instant::now();
        // An SA belongs to a port for life.
        let moved: BTreeSet<&str> = self
            .config
            .connections
            .iter()
            .map(|connection| &*connection.name)
            .filter(|name| {
                self.config.vpn_port(name).map(|port| port.id) != config.vpn_port(name).map(|port| port.id)
            })
            .collect();
        let sas = self
            .endpoint
            .ike_sas()
            .filter(|sa| sa.connection.as_deref().is_some_and(|name| moved.contains(name)));
        for sa in sas.map(|sa| sa.ike).collect::<Vec<_>>() {
            // Gone meanwhile is as good.
            let _ = self.endpoint.close(now, sa);
        }
        self.endpoint.set_config(now, EndpointConfig { resources: self.ground.resources(), ..ike });
        // While the connections that end are still known by name.
        self.tunnels.settle(now, &mut self.endpoint, &mut self.ground.maps, &self.sockets);
        self.tunnels.reconfigure(config, now);
        self.tunnels.handle_timeout(now, &mut self.endpoint, &mut self.ground.maps);
    }

    /// Closes every SA and ends the ESP engine, so that another can have its sockets.
    fn end_engine(&mut self) {
        let now = Instant::now();
        self.endpoint.set_config(now, EndpointConfig::default());
        self.tunnels.settle(now, &mut self.endpoint, &mut self.ground.maps, &self.sockets);
        self.tunnels.use_table(Arc::new(NoDatapath));
        self.ground.stop_engine();
        // It may wait for room that nobody makes any more.
        self.sa_events.close();
        // The thread may hold the engine for a moment.
        if let Some(thread) = self.sa_event_thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of SA events had panicked");
        }
    }

    /// Hands the connections over to the engine that runs now.
    fn begin_engine(&mut self) -> anyhow::Result<()> {
        let table = self.ground.table();
        let (sender, events) = mpsc::channel(super::REQUESTS_MAX);
        self.sa_events = events;
        self.sa_event_thread = Some(forward_sa_events(Arc::downgrade(&table), sender)?);
        self.tunnels.use_table(table);
        self.paths = super::Paths::default();
        Ok(())
    }

    /// Before rules come into force: flows that they end are named by those before.
    fn name_rules(&self, config: &Config) {
        let former = self.evidence.sink().names();
        self.evidence.set_names(Names::of(config, &former));
    }

    /// From now on this is the configuration.
    fn adopt(&mut self, config: Config, changes: &Changes) {
        self.asleep = config.asleep(SystemTime::now());
        if changes.metrics {
            if let Some(server) = self.metrics.take() {
                server.abort();
            }
            self.metrics = metrics_at(config.gateway.metrics, &self.requests);
        }
        self.crl_files = CrlFiles::of(&config);
        if changes.evidence
            && let Err(error) = self.evidence.configure(&config.evidence)
        {
            tracing::error!(%error, "[evidence] `directory` cannot be used; records go where they went before");
        }
        self.sweeper.set_lifetimes(&config.timeouts.seconds);
        self.config = config;
    }
}

/// An asker who has left does not matter.
fn answer(reply: Option<oneshot::Sender<Answer>>, answer: Answer) {
    if let Some(reply) = reply {
        let _ = reply.send(answer);
    }
}
