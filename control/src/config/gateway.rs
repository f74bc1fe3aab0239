//! `[gateway]`: the gateway's name, its metrics, its data path.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use sekisho_abi::map::FLOWS_MAX;
use sekisho_esp::engine::WORKERS_MAX;
use toml::Spanned;

use super::diagnostic::Report;
use super::name::read_name;
use super::ports::PortSpec;
use super::table::Section;
use super::{Datapath, Gateway, Match, Offload, Policy, ZONE_GATEWAY};

/// Fewest and most flows that the table may be made for.
const FLOWS: std::ops::RangeInclusive<u32> = 1024..=16_777_216;
/// How long a packet may wait to be taken together with others: at 200,000 packets a second ten come in that time.
const ENGINE_BATCH: Duration = Duration::from_micros(50);
/// Longest that may be configured: more would be felt in each round trip.
const ENGINE_BATCH_MAX: Duration = Duration::from_micros(1000);
const TCP: u8 = 6;

/// The section, and where the address of the metrics stands.
pub(super) struct GatewaySpec {
    pub(super) gateway: Gateway,
    metrics: Option<Spanned<SocketAddr>>,
}

pub(super) fn read(file: &Section<'_>, report: &Report) -> Option<GatewaySpec> {
    if !file.has("gateway") {
        return file.missing("[gateway]", "{ name = \"clinic\" }");
    }
    let section = file.section("gateway")?;
    let name = match section.string("name") {
        Some(name) => Some(read_name(name, "a gateway", report)),
        None if section.has("name") => None,
        None => section.missing("name", "\"clinic\""),
    };
    let metrics = section.parsed("metrics", "an address with a port, as 127.0.0.1:9469", |text| {
        text.parse::<SocketAddr>().ok()
    });
    let datapath = section.parsed("datapath", "\"auto\", \"kernel\" or \"engine\"", |text| {
        Some(match text {
            "auto" => Datapath::Auto,
            "kernel" => Datapath::Kernel,
            "engine" => Datapath::Engine,
            _ => return None,
        })
    });
    let offload = read_offload(&section, datapath.as_ref().map(|read| *read.get_ref()), report);
    let flows_max = read_flows_max(&section, report);
    let engine_workers = read_engine_workers(&section, report);
    let engine_batch = read_engine_batch(&section, report);
    section.finish();
    Some(GatewaySpec {
        gateway: Gateway {
            name: name?.into_inner().into(),
            metrics: metrics.as_ref().map(|metrics| *metrics.get_ref()),
            datapath: datapath.map(Spanned::into_inner).unwrap_or_default(),
            offload,
            flows_max,
            engine_workers,
            engine_batch,
        },
        metrics,
    })
}

fn read_offload(section: &Section<'_>, datapath: Option<Datapath>, report: &Report) -> Offload {
    let Some(read) = section.string("offload") else { return Offload::None };
    let known = [Offload::None, Offload::Crypto].into_iter().find(|offload| offload.name() == read.get_ref());
    let error = |message: String| report.error(read.span(), message);
    match known {
        None if read.get_ref() == "packet" => {
            // The kernel leaves the check of policies to such a NIC, and gives out what was decrypted on the outer port.
            error("`offload = \"packet\"` is not supported before it has been seen at work on a NIC".into())
                .expected("expected \"none\" or \"crypto\"")
                .remedy("use \"crypto\"");
        }
        None => {
            error(format!("`offload` cannot be \"{}\"", read.get_ref().escape_debug()))
                .expected("expected \"none\" or \"crypto\"")
                .remedy("write \"none\" or \"crypto\"");
        }
        Some(Offload::Crypto) if datapath == Some(Datapath::Engine) => {
            error("the engine encrypts by itself: no NIC can do it for it".into())
                .expected("expected `offload = \"none\"`, or `datapath = \"kernel\"`")
                .remedy("remove the line, or write `datapath = \"kernel\"`");
        }
        Some(_) => {}
    }
    known.unwrap_or_default()
}

fn read_flows_max(section: &Section<'_>, report: &Report) -> u32 {
    let Some(read) = section.integer("flows_max") else { return FLOWS_MAX };
    match u32::try_from(*read.get_ref()).ok().filter(|flows| FLOWS.contains(flows)) {
        Some(flows) => flows,
        None => {
            report
                .error(read.span(), format!("`flows_max` cannot be {}", read.get_ref()))
                .expected(format!("expected {} to {}", FLOWS.start(), FLOWS.end()))
                .remedy(format!("remove the line for the default, {FLOWS_MAX}"));
            FLOWS_MAX
        }
    }
}

fn read_engine_workers(section: &Section<'_>, report: &Report) -> Option<u32> {
    let read = section.integer_or("engine_workers", "auto")?;
    let number = (*read.get_ref())?;
    let workers = u32::try_from(number).ok().filter(|workers| (1..=WORKERS_MAX).contains(workers));
    if workers.is_none() {
        report
            .error(read.span(), format!("`engine_workers` cannot be {number}"))
            .expected(format!("expected 1 to {WORKERS_MAX}, or \"auto\""))
            .remedy(
                "remove the line for the default, \"auto\": as many as processors and receive queues allow",
            );
    }
    workers
}

fn read_engine_batch(section: &Section<'_>, report: &Report) -> Option<Duration> {
    let read = section.integer("engine_batch_us")?;
    let wait = u64::try_from(*read.get_ref()).ok().map(Duration::from_micros);
    let wait = wait.filter(|wait| *wait <= ENGINE_BATCH_MAX);
    if wait.is_none() {
        report
            .error(read.span(), format!("`engine_batch_us` cannot be {}", read.get_ref()))
            .expected(format!("expected 0 to {}", ENGINE_BATCH_MAX.as_micros()))
            .remedy(format!(
                "remove the line for the default, {}; 0 leaves the NICs as they are",
                ENGINE_BATCH.as_micros()
            ));
    }
    wait
}

impl Gateway {
    /// How long a packet may wait at a NIC for others to be taken with it, while the engine is used.
    pub fn engine_batch(&self) -> Duration {
        self.engine_batch.unwrap_or(ENGINE_BATCH)
    }
}

/// The metrics' address against ports and policies.
pub(super) fn check_metrics(spec: &GatewaySpec, ports: &[PortSpec], policies: &[Policy], report: &Report) {
    let Some(metrics) = &spec.metrics else { return };
    let address = metrics.get_ref().ip();
    if address.is_loopback() {
        return;
    }
    let own = |address: IpAddr| {
        ports.iter().any(|port| port.addresses.iter().any(|own| own.get_ref().addr() == address))
    };
    if !address.is_unspecified() && !own(address) {
        report
            .error(metrics.span(), format!("{address} is no address of this gateway"))
            .expected("expected a loopback address or one of a port")
            .remedy("127.0.0.1:9469 keeps the metrics on this host");
        return;
    }
    let port = metrics.get_ref().port();
    let opens = |matches: &Match| match matches {
        Match::Any => true,
        Match::Protocol { protocol, ports } => *protocol == TCP && ports.contains(&port),
    };
    let reachable =
        policies.iter().any(|policy| policy.to.contains(&ZONE_GATEWAY) && policy.matches.iter().any(opens));
    if !reachable {
        report
            .warning(
                metrics.span(),
                format!("no policy lets anyone reach the metrics at {}", metrics.get_ref()),
            )
            .expected("not on loopback, and no policy to \"gateway\"")
            .remedy(format!(
                "add a policy `to = \"gateway\"` with `allow = [\"tcp/{port}\"]`, or use 127.0.0.1:{port}"
            ));
    }
}
