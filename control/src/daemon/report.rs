//! The state of everything as one [`Status`].

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use sekisho_abi::rule::RuleCounter;
use sekisho_esp::sa::SaCounters;
use sekisho_ike::event::{Binding, ChildHandle, IkeHandle};
use sekisho_ike::status::IkeStatus;

use super::bringup::INNER_DEVICE;
use super::engine::{self, Workers};
use super::tunnels::Tunnel;
use super::{Daemon, kernel_path, resources};
use crate::config::{Action, Connection};
use crate::kernel::xfrm::Offloaded;
use crate::status::{
    ChildStatus, ConnectionState, ConnectionStatus, Count, Datapath, FlowStatus, IkeEngineStatus,
    IkeSaStatus, LeaseStatus, Offload, PolicyStatus, PoolStatus, PortStatus, SaCount, SetStatus, Status,
    WorkersStatus, ZoneStatus,
};

impl Daemon {
    pub(super) fn status(&self, now: Instant) -> Status {
        let ike_sas: Vec<IkeStatus> = self.endpoint.ike_sas().collect();
        let sas = Sas::of(&ike_sas);
        let stats = self.endpoint.stats();
        let ports = self.ports();
        let mut failures: BTreeMap<String, u64> =
            stats.failures.iter().map(|(kind, count)| (kind.name().to_owned(), *count)).collect();
        if self.sockets.overflow() > 0 {
            failures.insert("socket-overflow".into(), self.sockets.overflow());
        }
        Status {
            gateway: self.config.gateway.name.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: now.duration_since(self.started).as_secs(),
            datapath: self.datapath(),
            connections: self
                .tunnels
                .iter()
                .zip(&self.config.connections)
                .map(|(tunnel, configured)| ConnectionStatus {
                    resource_sas: self.resource_sas(tunnel, configured, &sas),
                    name: tunnel.name.to_string(),
                    zone: self
                        .config
                        .vpn_port(&tunnel.name)
                        .and_then(|port| self.config.zone_name(port.zone))
                        .unwrap_or_default()
                        .to_owned(),
                    local_id: configured.local.id.to_string(),
                    remote_id: configured.remote.id.to_string(),
                    ..self.connection(tunnel, &sas, now)
                })
                .collect(),
            drops: drops(&ports),
            policies: self.policies(),
            sets: self.sets(),
            pools: self.pools(&ike_sas, &stats.pools_exhausted),
            ports,
            flows: FlowStatus {
                count: self.sweeper.count(),
                max: u64::from(self.config.gateway.flows_max),
                pressure: self.sweeper.is_under_pressure(),
            },
            zones: self.zones(),
            evidence: self.evidence.counters(),
            ike: IkeEngineStatus {
                half_open: stats.half_open.try_into().unwrap_or(u64::MAX),
                cookies_demanded: stats.cookies_demanded,
                retransmissions: stats.retransmissions,
                failures,
            },
            engine: match (&self.ground.engine, &self.ground.xfrm) {
                (Some(engine), _) => engine::counters(engine),
                (None, Some(_)) => kernel_path::statistics(),
                (None, None) => BTreeMap::new(),
            },
        }
    }

    fn datapath(&self) -> Datapath {
        let mut datapath = self.datapath.clone();
        if let (Some(offload), Some(table)) = (&mut datapath.offload, &self.ground.xfrm) {
            let Offloaded { in_nics, in_kernel, refused } = table.offloaded();
            *offload = Offload { in_nics, in_kernel, refused, ..std::mem::take(offload) };
        }
        if let Some(why) = &self.ground.policies_off {
            datapath.why = format!("the VPNs carry nothing: {why}");
        }
        if self.ground.engine.is_some() {
            let Workers { count, why } = self.ground.workers.clone();
            datapath.workers = Some(WorkersStatus { count, why });
        }
        datapath
    }

    fn resource_sas(&self, tunnel: &Tunnel, configured: &Connection, sas: &Sas<'_>) -> Option<String> {
        let children = sas.in_use_of(tunnel).into_iter().flat_map(|sa| &sa.children);
        resources::words(configured.per_resource, self.ground.resources(), children)
    }

    fn zones(&self) -> Vec<ZoneStatus> {
        let zones = self.config.zones.iter();
        zones
            .map(|zone| {
                let (flows, flows_max) = self.sweeper.zone(zone.id);
                ZoneStatus { name: zone.name.to_string(), flows, flows_max }
            })
            .collect()
    }

    fn policies(&self) -> Vec<PolicyStatus> {
        let lines = self.config.policy_lines.iter().copied().chain(std::iter::repeat(0));
        let policies = self.config.policies.iter().zip(lines).enumerate();
        policies
            .map(|(index, (policy, line))| {
                let counter = self.ground.maps.rule_counter(policy.id).unwrap_or_else(|error| {
                    tracing::error!(%error, "counters cannot be read");
                    RuleCounter::default()
                });
                PolicyStatus {
                    name: policy.name.to_string(),
                    id: policy.id,
                    line,
                    action: if policy.action == Action::Allow { "allow" } else { "deny" }.to_owned(),
                    in_force: !self.asleep.contains(&index),
                    packets: counter.packets,
                    bytes: counter.bytes,
                    flows: counter.flows,
                }
            })
            .collect()
    }

    fn pools(&self, ike_sas: &[IkeStatus], exhausted: &BTreeMap<Arc<str>, u64>) -> Vec<PoolStatus> {
        let mut given: BTreeMap<IpAddr, LeaseStatus> = BTreeMap::new();
        for sa in ike_sas {
            for address in &sa.virtual_addresses.remote {
                let peer = sa.remote_id.as_ref().map(ToString::to_string).unwrap_or_default();
                let connection = sa.connection.as_deref().unwrap_or_default().to_owned();
                given.insert(*address, LeaseStatus { address: address.to_string(), peer, connection });
            }
        }
        let pools = self.config.pools.iter().map(|pool| {
            let ranges: Vec<_> =
                self.endpoint.config().pools.iter().filter(|range| range.name == pool.name).collect();
            let size = ranges.iter().fold(0u128, |sum, range| sum.saturating_add(range.size()));
            let of_it =
                given.iter().filter(|(address, _)| ranges.iter().any(|range| range.contains(**address)));
            let leases: Vec<LeaseStatus> = of_it.map(|(_, lease)| lease.clone()).collect();
            PoolStatus {
                name: pool.name.to_string(),
                size: u64::try_from(size).unwrap_or(u64::MAX),
                used: leases.len() as u64,
                exhausted: exhausted.get(&pool.name).copied().unwrap_or_default(),
                leases,
            }
        });
        pools.collect()
    }

    fn sets(&self) -> Vec<SetStatus> {
        let named =
            self.config.sets.iter().filter_map(|set| Some((set.name.as_deref()?, set.prefixes.len())));
        named.map(|(name, prefixes)| SetStatus { name: name.to_owned(), prefixes }).collect()
    }

    fn ports(&self) -> Vec<PortStatus> {
        let verdicts = |id: u16| {
            self.ground.maps.verdicts(id).unwrap_or_else(|error| {
                tracing::error!(%error, "counters cannot be read");
                BTreeMap::new()
            })
        };
        let zone = |id: u16| self.config.zone_name(id).unwrap_or_default().to_owned();
        let physical = self.config.ports.iter().map(|port| PortStatus {
            name: port.name.to_string(),
            interface: port.device().to_string(),
            zone: zone(port.zone),
            id: port.id,
            mode: self.ground.modes.get(&port.id).copied().unwrap_or_default().to_owned(),
            verdicts: verdicts(port.id),
            neighbours: self.bound(port),
        });
        let vpn = self.config.vpn_ports.iter().map(|port| PortStatus {
            name: port.name.to_string(),
            interface: match self.ground.xfrm_interfaces.get(&port.id) {
                Some(link) => link.name.clone(),
                None => INNER_DEVICE.to_owned(),
            },
            zone: zone(port.zone),
            id: port.id,
            mode: "vpn".to_owned(),
            verdicts: verdicts(port.id),
            neighbours: None,
        });
        // Port 0 collects what came in where no port is, and what passed on to the engine's end, which its port has counted.
        let mut nowhere = PortStatus { name: "-".into(), verdicts: verdicts(0), ..PortStatus::default() };
        nowhere.verdicts.retain(|name, _| name != sekisho_abi::verdict::Verdict::Encrypt.name());
        physical.chain(vpn).chain((!nowhere.verdicts.is_empty()).then_some(nowhere)).collect()
    }

    fn connection(&self, tunnel: &Tunnel, sas: &Sas<'_>, now: Instant) -> ConnectionStatus {
        let established =
            sas.in_use_of(tunnel).filter(|sa| sa.phase == sekisho_ike::status::Phase::Established);
        let children: Vec<ChildStatus> = self
            .tunnels
            .children(&tunnel.name)
            .filter_map(|(handle, own)| Some((sas.child(handle)?, own)))
            .map(|(child, own)| {
                let counters = self.tunnels.counters(child.spi_in);
                ChildStatus {
                    name: child.name.to_string(),
                    spi_in: format!("{:#010x}", child.spi_in),
                    spi_out: format!("{:#010x}", child.spi_out),
                    suite: child.suite.clone(),
                    udp_encapsulation: own.is_udp(),
                    local: child.local.iter().map(ToString::to_string).collect(),
                    remote: child.remote.iter().map(ToString::to_string).collect(),
                    age_s: now.saturating_duration_since(child.created).as_secs(),
                    rekey_in_s: child.rekey_at.saturating_duration_since(now).as_secs(),
                    inbound: count(counters.inbound),
                    outbound: count(counters.outbound),
                    fallback: child.binding == Binding::Fallback,
                    resource: child.binding.resource(),
                }
            })
            .collect();
        let state = match (established, children.is_empty()) {
            (Some(_), false) => ConnectionState::Up,
            (Some(_), true) => ConnectionState::Degraded,
            (None, _) if tunnel.ike.is_some() || tunnel.is_wanted() => ConnectionState::Connecting,
            (None, _) if tunnel.waits() => ConnectionState::Waiting,
            (None, _) => ConnectionState::Down,
        };
        ConnectionStatus {
            name: tunnel.name.to_string(),
            state,
            ike: established.map(|sa| IkeSaStatus {
                local: sa.path.local.to_string(),
                remote: sa.path.remote.to_string(),
                spi_i: format!("{:016x}", sa.spi_i),
                spi_r: format!("{:016x}", sa.spi_r),
                initiator: sa.initiator,
                suite: sa.suite.clone(),
                age_s: now.saturating_duration_since(sa.created).as_secs(),
                rekey_in_s: sa.rekey_at.map_or(0, |at| at.saturating_duration_since(now).as_secs()),
                nat: sa.nat_local || sa.nat_remote,
            }),
            addresses: established.map(|sa| words(&sa.virtual_addresses.local)).unwrap_or_default(),
            name_servers: established.map(|sa| words(&sa.virtual_addresses.dns)).unwrap_or_default(),
            children,
            established: tunnel.established,
            dead: tunnel.dead,
            idled: tunnel.idled,
            quiet_s: established.map(|_| tunnel.quiet(now).as_secs()),
            retry_in_s: tunnel.retry_in(now).map(|wait| wait.as_secs()),
            last_failure: tunnel.last_failure.clone(),
            ..ConnectionStatus::default()
        }
    }
}

/// What the IKE engine tells of its SAs, by their numbers: one look at each, however many connections ask.
struct Sas<'a> {
    by_number: HashMap<IkeHandle, &'a IkeStatus>,
    children: HashMap<ChildHandle, &'a sekisho_ike::status::ChildStatus>,
}

impl<'a> Sas<'a> {
    fn of(all: &'a [IkeStatus]) -> Self {
        let children = all.iter().flat_map(|sa| &sa.children);
        Self {
            by_number: all.iter().map(|sa| (sa.ike, sa)).collect(),
            children: children.map(|child| (child.child, child)).collect(),
        }
    }

    /// The IKE SA that a connection uses.
    fn in_use_of(&self, tunnel: &Tunnel) -> Option<&'a IkeStatus> {
        self.by_number.get(&tunnel.ike?).copied()
    }

    fn child(&self, handle: ChildHandle) -> Option<&'a sekisho_ike::status::ChildStatus> {
        self.children.get(&handle).copied()
    }
}

fn words(addresses: &[IpAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

/// Refused packets by reason, all ports together.
fn drops(ports: &[PortStatus]) -> BTreeMap<String, Count> {
    let mut sums: BTreeMap<String, Count> = BTreeMap::new();
    let is_drop =
        |name: &str| sekisho_abi::verdict::Verdict::ALL.iter().any(|v| v.is_drop() && v.name() == name);
    for (reason, count) in ports.iter().flat_map(|port| &port.verdicts).filter(|(name, _)| is_drop(name)) {
        let sum = sums.entry(reason.clone()).or_default();
        sum.packets += count.packets;
        sum.bytes += count.bytes;
    }
    sums
}

fn count(counters: SaCounters) -> SaCount {
    let SaCounters { packets, bytes, replay, integrity, selector, malformed, expired, unsent } = counters;
    SaCount { packets, bytes, replay, integrity, selector, malformed, expired, unsent }
}
