//! `/metrics` for Prometheus: the same [`Status`] that `sekisho status` shows, in Prometheus' text format.
//!
//! | metric | type | labels |
//! |---|---|---|
//! | `sekisho_info` | gauge, 1 | `version`, `datapath` |
//! | `sekisho_uptime_seconds` | gauge | |
//! | `sekisho_connection_up` | gauge, 0 or 1 | `connection`, `zone` |
//! | `sekisho_connection_established_total` | counter | `connection` |
//! | `sekisho_connection_dead_total`, `sekisho_connection_idled_total` | counter | `connection` |
//! | `sekisho_ike_sa_age_seconds`, `sekisho_ike_sa_rekey_in_seconds` | gauge | `connection` |
//! | `sekisho_child_sa_age_seconds`, `sekisho_child_sa_rekey_in_seconds` | gauge | `connection`, `child`, `spi_in` |
//! | `sekisho_child_sa_packets_total`, `sekisho_child_sa_bytes_total` | counter | `connection`, `child`, `spi_in`, `direction` |
//! | `sekisho_child_sa_refused_total` | counter | `connection`, `child`, `spi_in`, `direction`, `reason` |
//! | `sekisho_port_packets_total`, `sekisho_port_bytes_total` | counter | `port`, `zone`, `verdict` |
//! | `sekisho_port_neighbours` | gauge | `port`, `kind` (`static`, `learned`) |
//! | `sekisho_policy_packets_total`, `sekisho_policy_bytes_total`, `sekisho_policy_flows_total` | counter | `policy` |
//! | `sekisho_set_prefixes` | gauge | `set` |
//! | `sekisho_pool_addresses`, `sekisho_pool_used` | gauge | `pool` |
//! | `sekisho_pool_exhausted_total` | counter | `pool` |
//! | `sekisho_flows`, `sekisho_flows_max`, `sekisho_flows_pressure` | gauge | |
//! | `sekisho_zone_flows`, `sekisho_zone_flows_max` | gauge | `zone` |
//! | `sekisho_evidence_records_total` | counter | `outcome` |
//! | `sekisho_ike_half_open` | gauge | |
//! | `sekisho_ike_cookies_total`, `sekisho_ike_retransmissions_total` | counter | |
//! | `sekisho_ike_failures_total` | counter | `kind` |
//! | `sekisho_engine_workers` | gauge | |
//! | `sekisho_engine_total` | counter | `counter` |
//! | `sekisho_offload_sas` | gauge | `worker` (`nic`, `kernel`) |

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use prometheus::{Encoder as _, GaugeVec, IntCounterVec, Opts, Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::api::{self, Answer, Pending};
use crate::status::{ChildStatus, ConnectionState, PolicyStatus, PoolStatus, SaCount, Status};

/// A scraper that takes longer than this is let go.
const PATIENCE: Duration = Duration::from_secs(10);
/// Scrapers at a time; the next ones wait until one has been served or let go.
const SCRAPERS_MAX: usize = 16;
/// Time between two attempts to bind the address.
const BIND_AGAIN: Duration = Duration::from_secs(1);
const NO_LABELS: Vec<&str> = Vec::new();

/// Serves `/metrics` until the receiver of the requests is dropped. Watching must not bring down what is watched: an
/// address that cannot be had is said, and tried again.
pub fn serve(address: SocketAddr, requests: mpsc::Sender<Pending>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut said = false;
        let listener = loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(_) if requests.is_closed() => return,
                Err(error) if !said => {
                    said = true;
                    tracing::error!(%address, %error, "no metrics: the address cannot be bound; trying on");
                }
                Err(_) => {}
            }
            tokio::time::sleep(BIND_AGAIN).await;
        };
        let places = Arc::new(Semaphore::new(SCRAPERS_MAX));
        while let Ok(place) = places.clone().acquire_owned().await
            && !requests.is_closed()
        {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let requests = requests.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| answer(request, requests.clone()));
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                let _ = tokio::time::timeout(PATIENCE, connection).await;
                drop(place);
            });
        }
    })
}

async fn answer(
    request: Request<Incoming>,
    requests: mpsc::Sender<Pending>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() != "/metrics" {
        return Ok(plain(StatusCode::NOT_FOUND, "the metrics are at /metrics\n"));
    }
    if request.method() != Method::GET {
        return Ok(plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n"));
    }
    let (reply, status) = oneshot::channel();
    let asked = requests.send((api::Request::Status, reply)).await;
    let Some(Answer::Status { status }) = (match asked {
        Ok(()) => status.await.ok(),
        Err(_) => None,
    }) else {
        return Ok(plain(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping\n"));
    };
    // Beside the loop, whose thread this is: with thousands of connections it takes longer than a packet may wait.
    let encoded = tokio::task::spawn_blocking(move || encode(&status)).await;
    Ok(match encoded.unwrap_or_else(|error| Err(prometheus::Error::Msg(error.to_string()))) {
        Ok(text) => {
            let mut response = Response::new(Full::new(Bytes::from(text)));
            let version = hyper::header::HeaderValue::from_static(prometheus::TEXT_FORMAT);
            response.headers_mut().insert(CONTENT_TYPE, version);
            response
        }
        Err(error) => {
            tracing::error!(%error, "cannot encode the metrics");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "cannot encode the metrics; see the log\n")
        }
    })
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}

/// The text format. A registry of its own for each scrape: what is gone from the status is gone from the metrics.
pub fn encode(status: &Status) -> Result<Vec<u8>, prometheus::Error> {
    let page = Page { registry: Registry::new() };
    page.gauge(
        "sekisho_info",
        "The daemon's version and ESP data path.",
        &["version", "datapath"],
        [(vec![status.version.as_str(), status.datapath.kind.as_str()], 1.0)],
    )?;
    page.gauge(
        "sekisho_uptime_seconds",
        "Seconds since the daemon was started.",
        &[],
        [(NO_LABELS, seconds(status.uptime_s))],
    )?;
    connections(&page, status)?;
    children(&page, status)?;
    ports(&page, status)?;
    policies(&page, status)?;
    pools(&page, status)?;
    page.gauge("sekisho_flows", "Flows known.", &[], [(NO_LABELS, seconds(status.flows.count))])?;
    page.gauge(
        "sekisho_flows_max",
        "Capacity of the flow table.",
        &[],
        [(NO_LABELS, seconds(status.flows.max))],
    )?;
    page.counter(
        "sekisho_evidence_records_total",
        "Records of what happened, by what became of them: made, written into files, or lost and where.",
        &["outcome"],
        [
            ("recorded", status.evidence.recorded),
            ("written", status.evidence.written),
            ("lost-ring", status.evidence.lost_ring),
            ("lost-queue", status.evidence.lost_queue),
            ("lost-unwritten", status.evidence.lost_unwritten),
        ]
        .map(|(outcome, count)| (vec![outcome], count)),
    )?;
    page.gauge(
        "sekisho_flows_pressure",
        "1 while the flow table, or a zone's part of it, fills up.",
        &[],
        [(NO_LABELS, if status.flows.pressure { 1.0 } else { 0.0 })],
    )?;
    let zones = || status.zones.iter();
    page.gauge(
        "sekisho_zone_flows",
        "Flows that were opened from the zone.",
        &["zone"],
        zones().map(|zone| (vec![zone.name.as_str()], seconds(zone.flows))),
    )?;
    page.gauge(
        "sekisho_zone_flows_max",
        "How many flows may be opened from the zone.",
        &["zone"],
        zones().map(|zone| (vec![zone.name.as_str()], seconds(zone.flows_max))),
    )?;
    page.gauge(
        "sekisho_ike_half_open",
        "IKE SAs whose peer has not authenticated yet.",
        &[],
        [(NO_LABELS, seconds(status.ike.half_open))],
    )?;
    page.counter(
        "sekisho_ike_cookies_total",
        "Strangers asked to show that they receive at their address.",
        &[],
        [(NO_LABELS, status.ike.cookies_demanded)],
    )?;
    page.counter(
        "sekisho_ike_retransmissions_total",
        "Requests sent again because no answer came.",
        &[],
        [(NO_LABELS, status.ike.retransmissions)],
    )?;
    page.counter(
        "sekisho_ike_failures_total",
        "Failures of IKE exchanges by kind.",
        &["kind"],
        status.ike.failures.iter().map(|(kind, count)| (vec![kind.as_str()], *count)),
    )?;
    if let Some(workers) = &status.datapath.workers {
        page.gauge(
            "sekisho_engine_workers",
            "Threads of the user-space ESP engine.",
            &[],
            [(NO_LABELS, seconds(workers.count.into()))],
        )?;
    }
    page.counter(
        "sekisho_engine_total",
        "Counters of the ESP data path: the engine's, or the kernel's for all of the namespace.",
        &["counter"],
        status.engine.iter().map(|(name, count)| (vec![name.as_str()], *count)),
    )?;
    let offload = status.datapath.offload.iter();
    page.gauge(
        "sekisho_offload_sas",
        "SAs by who does their work, where NICs are asked to.",
        &["worker"],
        offload.flat_map(|offload| {
            [("nic", offload.in_nics), ("kernel", offload.in_kernel)]
                .map(|(worker, sas)| (vec![worker], seconds(sas as u64)))
        }),
    )?;
    let mut text = Vec::new();
    TextEncoder::new().encode(&page.registry.gather(), &mut text)?;
    Ok(text)
}

fn connections(page: &Page, status: &Status) -> Result<(), prometheus::Error> {
    let all = &status.connections;
    page.gauge(
        "sekisho_connection_up",
        "1 while the connection has an IKE SA and a child SA.",
        &["connection", "zone"],
        all.iter().map(|c| {
            let up = if c.state == ConnectionState::Up { 1.0 } else { 0.0 };
            (vec![c.name.as_str(), c.zone.as_str()], up)
        }),
    )?;
    page.counter(
        "sekisho_connection_established_total",
        "How often the connection came up.",
        &["connection"],
        all.iter().map(|c| (vec![c.name.as_str()], c.established)),
    )?;
    page.counter(
        "sekisho_connection_dead_total",
        "How often the connection's peer was given up as dead.",
        &["connection"],
        all.iter().map(|c| (vec![c.name.as_str()], c.dead)),
    )?;
    page.counter(
        "sekisho_connection_idled_total",
        "How often the connection was closed for want of packets.",
        &["connection"],
        all.iter().map(|c| (vec![c.name.as_str()], c.idled)),
    )?;
    let ike = || all.iter().filter_map(|c| c.ike.as_ref().map(|ike| (c.name.as_str(), ike)));
    page.gauge(
        "sekisho_ike_sa_age_seconds",
        "Seconds since the IKE SA's keys were made.",
        &["connection"],
        ike().map(|(name, ike)| (vec![name], seconds(ike.age_s))),
    )?;
    page.gauge(
        "sekisho_ike_sa_rekey_in_seconds",
        "Seconds until the IKE SA is rekeyed.",
        &["connection"],
        ike().map(|(name, ike)| (vec![name], seconds(ike.rekey_in_s))),
    )
}

/// Takes one number out of an SA's counters.
type Pick = fn(&SaCount) -> u64;

fn children(page: &Page, status: &Status) -> Result<(), prometheus::Error> {
    const LABELS: [&str; 3] = ["connection", "child", "spi_in"];
    const DIRECTED: [&str; 4] = ["connection", "child", "spi_in", "direction"];
    let rows: Vec<(Vec<&str>, &ChildStatus)> = status
        .connections
        .iter()
        .flat_map(|c| c.children.iter().map(move |child| (c, child)))
        .map(|(c, child)| (vec![c.name.as_str(), child.name.as_str(), child.spi_in.as_str()], child))
        .collect();
    // A peer may have dozens for single resources: of those what they carry, and what is refused where anything is.
    let firsts = || rows.iter().filter(|(_, child)| child.resource.is_none());
    page.gauge(
        "sekisho_child_sa_age_seconds",
        "Seconds since the child SA was made.",
        &LABELS,
        firsts().map(|(l, child)| (l.clone(), seconds(child.age_s))),
    )?;
    page.gauge(
        "sekisho_child_sa_rekey_in_seconds",
        "Seconds until the child SA is rekeyed.",
        &LABELS,
        firsts().map(|(l, child)| (l.clone(), seconds(child.rekey_in_s))),
    )?;
    let directed = |pick: Pick, zeros_too: bool| {
        rows.iter()
            .flat_map(move |(l, child)| {
                let directions = [("in", &child.inbound), ("out", &child.outbound)];
                directions.map(|(direction, count)| {
                    let mut labels = l.clone();
                    labels.push(direction);
                    (labels, pick(count), zeros_too || child.resource.is_none())
                })
            })
            .filter(|(_, count, zero_too)| *zero_too || *count > 0)
            .map(|(labels, count, _)| (labels, count))
            .collect::<Vec<_>>()
    };
    page.counter(
        "sekisho_child_sa_packets_total",
        "Packets carried by the child SA.",
        &DIRECTED,
        directed(|count| count.packets, true),
    )?;
    page.counter(
        "sekisho_child_sa_bytes_total",
        "Bytes of inner packets carried by the child SA.",
        &DIRECTED,
        directed(|count| count.bytes, true),
    )?;
    let reasons: [(&str, Pick); 6] = [
        ("replay", |count| count.replay),
        ("integrity", |count| count.integrity),
        ("selector", |count| count.selector),
        ("malformed", |count| count.malformed),
        ("expired", |count| count.expired),
        ("unsent", |count| count.unsent),
    ];
    page.counter(
        "sekisho_child_sa_refused_total",
        "Packets refused by the child SA, by reason.",
        &["connection", "child", "spi_in", "direction", "reason"],
        reasons.into_iter().flat_map(|(reason, pick)| {
            directed(pick, false).into_iter().map(move |(mut labels, count)| {
                labels.push(reason);
                (labels, count)
            })
        }),
    )
}

fn ports(page: &Page, status: &Status) -> Result<(), prometheus::Error> {
    let rows = || {
        status.ports.iter().flat_map(|port| {
            port.verdicts.iter().map(move |(verdict, count)| {
                (vec![port.name.as_str(), port.zone.as_str(), verdict.as_str()], count)
            })
        })
    };
    const LABELS: [&str; 3] = ["port", "zone", "verdict"];
    page.counter(
        "sekisho_port_packets_total",
        "Packets that entered by the port, by verdict.",
        &LABELS,
        rows().map(|(labels, count)| (labels, count.packets)),
    )?;
    page.counter(
        "sekisho_port_bytes_total",
        "Bytes that entered by the port, by verdict.",
        &LABELS,
        rows().map(|(labels, count)| (labels, count.bytes)),
    )?;
    let bound = status.ports.iter().filter_map(|port| Some((port.name.as_str(), port.neighbours.as_ref()?)));
    page.gauge(
        "sekisho_port_neighbours",
        "Addresses that are bound to MAC addresses on the port.",
        &["port", "kind"],
        bound.flat_map(|(name, bound)| {
            let row = |kind, count: usize| (vec![name, kind], count as f64);
            [row("static", bound.fixed), row("learned", bound.learned)]
        }),
    )
}

fn policies(page: &Page, status: &Status) -> Result<(), prometheus::Error> {
    let rows = |pick: fn(&PolicyStatus) -> u64| {
        status.policies.iter().map(move |policy| (vec![policy.name.as_str()], pick(policy)))
    };
    let label = ["policy"];
    page.counter(
        "sekisho_policy_packets_total",
        "Packets of the flows the policy has opened, or that it has refused.",
        &label,
        rows(|policy| policy.packets),
    )?;
    page.counter(
        "sekisho_policy_bytes_total",
        "Bytes of the same packets.",
        &label,
        rows(|policy| policy.bytes),
    )?;
    page.counter(
        "sekisho_policy_flows_total",
        "Flows the policy has opened.",
        &label,
        rows(|policy| policy.flows),
    )?;
    page.gauge(
        "sekisho_set_prefixes",
        "Prefixes in the address set.",
        &["set"],
        status.sets.iter().map(|set| (vec![set.name.as_str()], seconds(set.prefixes as u64))),
    )
}

fn pools(page: &Page, status: &Status) -> Result<(), prometheus::Error> {
    let rows = |pick: fn(&PoolStatus) -> u64| {
        status.pools.iter().map(move |pool| (vec![pool.name.as_str()], seconds(pick(pool))))
    };
    let label = ["pool"];
    page.gauge("sekisho_pool_addresses", "Addresses the pool has.", &label, rows(|pool| pool.size))?;
    page.gauge(
        "sekisho_pool_used",
        "Addresses of the pool that peers have.",
        &label,
        rows(|pool| pool.used),
    )?;
    page.counter(
        "sekisho_pool_exhausted_total",
        "How often a peer asked when the pool had no address left.",
        &label,
        status.pools.iter().map(|pool| (vec![pool.name.as_str()], pool.exhausted)),
    )
}

/// Prometheus' numbers are floating point; counters of seconds and flows are far below 2^53.
fn seconds(value: u64) -> f64 {
    value as f64
}

struct Page {
    registry: Registry,
}

impl Page {
    fn gauge<'a>(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        rows: impl IntoIterator<Item = (Vec<&'a str>, f64)>,
    ) -> Result<(), prometheus::Error> {
        let metric = GaugeVec::new(Opts::new(name, help), labels)?;
        for (values, value) in rows {
            metric.get_metric_with_label_values(&values)?.set(value);
        }
        self.registry.register(Box::new(metric))
    }

    fn counter<'a>(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        rows: impl IntoIterator<Item = (Vec<&'a str>, u64)>,
    ) -> Result<(), prometheus::Error> {
        let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
        for (values, value) in rows {
            metric.get_metric_with_label_values(&values)?.inc_by(value);
        }
        self.registry.register(Box::new(metric))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::status::{ConnectionStatus, Count, PortStatus};

    /// Somebody else's port must not end the gateway; and the metrics come once it is free.
    #[tokio::test]
    async fn an_address_in_use_is_waited_for() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let other = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = other.local_addr().expect("bound");
        let (requests, mut pending) = mpsc::channel::<Pending>(1);
        let server = serve(address, requests);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!server.is_finished());
        drop(other);
        let daemon = async {
            let (_, reply) = pending.recv().await.expect("a scrape");
            reply.send(Answer::Status { status: Box::default() }).expect("awaited");
        };
        let scrape = async {
            let mut stream = loop {
                match tokio::net::TcpStream::connect(address).await {
                    Ok(stream) => break stream,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            };
            stream
                .write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                .await
                .expect("asks");
            let mut page = String::new();
            stream.read_to_string(&mut page).await.expect("answers");
            page
        };
        let both = async { tokio::join!(daemon, scrape).1 };
        let page = tokio::time::timeout(Duration::from_secs(10), both).await.expect("in time");
        assert!(page.contains("sekisho_uptime_seconds 0"), "{page}");
    }

    #[test]
    fn every_fact_of_the_status_is_there() {
        let status = Status {
            gateway: "clinic".into(),
            connections: vec![ConnectionStatus {
                name: "centre".into(),
                zone: "vpn".into(),
                state: ConnectionState::Up,
                children: vec![ChildStatus {
                    name: "main".into(),
                    spi_in: "0xc0000001".into(),
                    inbound: SaCount { packets: 7, replay: 2, ..SaCount::default() },
                    ..ChildStatus::default()
                }]
                .into_iter()
                .chain((0..3).map(|number| ChildStatus {
                    name: "main".into(),
                    spi_in: format!("0xd000000{number}"),
                    outbound: SaCount { packets: 5, expired: u64::from(number), ..SaCount::default() },
                    resource: Some(number),
                    ..ChildStatus::default()
                }))
                .collect(),
                ..ConnectionStatus::default()
            }],
            ports: vec![PortStatus {
                name: "lan1".into(),
                zone: "lan1".into(),
                verdicts: BTreeMap::from([("policy".into(), Count { packets: 3, bytes: 180 })]),
                ..PortStatus::default()
            }],
            pools: vec![PoolStatus { name: "p".into(), size: 9, used: 2, exhausted: 1, leases: Vec::new() }],
            ..Status::default()
        };
        let text = String::from_utf8(encode(&status).expect("encodes")).expect("UTF-8");
        for line in [
            r#"sekisho_connection_up{connection="centre",zone="vpn"} 1"#,
            r#"sekisho_child_sa_packets_total{child="main",connection="centre",direction="in",spi_in="0xc0000001"} 7"#,
            r#"sekisho_child_sa_refused_total{child="main",connection="centre",direction="in",reason="replay",spi_in="0xc0000001"} 2"#,
            r#"sekisho_child_sa_packets_total{child="main",connection="centre",direction="out",spi_in="0xd0000000"} 5"#,
            r#"sekisho_child_sa_refused_total{child="main",connection="centre",direction="out",reason="expired",spi_in="0xd0000002"} 2"#,
            r#"sekisho_pool_addresses{pool="p"} 9"#,
            r#"sekisho_pool_used{pool="p"} 2"#,
            r#"sekisho_pool_exhausted_total{pool="p"} 1"#,
            r#"sekisho_port_packets_total{port="lan1",verdict="policy",zone="lan1"} 3"#,
        ] {
            assert!(text.contains(line), "missing: {line}\n{text}");
        }
        // Of an SA for a single resource nothing is said that is not there: there may be dozens.
        assert_eq!(text.matches("spi_in=\"0xd0000000\"").count(), 4, "{text}");
    }
}
