//! From a file to a [`Config`], or to everything that is wrong with it.

use std::path::Path;
use std::time::SystemTime;

use sekisho_abi::map::{FLOWS_MAX, NETWORKS_MAX, ROUTERS_MAX};
use toml::Spanned;
use toml::de::DeTable;

use super::diagnostic::{Diagnostic, Report, Severity};
use super::numbers::{Kind, Numbers};
use super::policies::PolicySpec;
use super::sets::Sets;
use super::table::Section;
use super::{
    Config, Loaded, Port, connections, evidence, gateway, limits, nat, policies, pools, ports, schedules,
    selectors, timeouts, zones,
};

/// Longest configuration in bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Reads and checks a configuration and the credentials it names. `Err` holds at least one error, and the warnings.
pub fn load(path: &Path) -> Result<Loaded, Vec<Diagnostic>> {
    load_with(path, |_| Numbers::default())
}

/// The same, where ports and zones may have numbers already: `in_force` is asked for those of the gateway with this name.
pub fn load_with(path: &Path, in_force: impl Fn(&str) -> Numbers) -> Result<Loaded, Vec<Diagnostic>> {
    let unreadable = |why: String, remedy: &str| {
        vec![Diagnostic::of_file(path, format!("cannot be read: {why}"), remedy.to_owned())]
    };
    let length = std::fs::metadata(path)
        .map_err(|error| unreadable(error.to_string(), "name the gateway's configuration file"))?
        .len();
    if length > FILE_BYTES_MAX {
        return Err(unreadable(format!("it has {length} bytes"), "a configuration has at most 4 MiB"));
    }
    let source = std::fs::read_to_string(path)
        .map_err(|error| unreadable(error.to_string(), "a configuration is a TOML file in UTF-8"))?;
    check_with(path, &source, SystemTime::now(), &in_force)
}

/// Checks a configuration whose text is `source` as if it stood at `path`, at the time `now`.
pub fn check(path: &Path, source: &str, now: SystemTime) -> Result<Loaded, Vec<Diagnostic>> {
    check_with(path, source, now, &|_| Numbers::default())
}

fn check_with(
    path: &Path,
    source: &str,
    now: SystemTime,
    in_force: &dyn Fn(&str) -> Numbers,
) -> Result<Loaded, Vec<Diagnostic>> {
    let report = Report::new(path, source);
    let (table, mistakes) = DeTable::parse_recoverable(source);
    for mistake in &mistakes {
        report
            .error(mistake.span().unwrap_or(0..0), format!("not TOML: {}", mistake.message()))
            .remedy("correct the syntax; the rest of the file is checked once it is TOML");
    }
    // What a parser made of broken text would only bring up mistakes that nobody made.
    let config = if mistakes.is_empty() { resolve(path, &table, now, in_force, &report) } else { None };
    let failed = report.failed();
    let findings = report.into_findings();
    match config {
        Some(config) if !failed => Ok(Loaded { config, warnings: findings }),
        _ if findings.iter().any(|finding| finding.severity == Severity::Error) => Err(findings),
        _ => Err(vec![Diagnostic::of_file(
            path,
            "is refused, but the reason was lost".into(),
            "this is a defect of sekisho; please report it with the file".into(),
        )]),
    }
}

fn resolve(
    path: &Path,
    table: &Spanned<DeTable<'_>>,
    now: SystemTime,
    in_force: &dyn Fn(&str) -> Numbers,
    report: &Report,
) -> Option<Config> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let file = Section::new(report, "", 0..0, table.get_ref());
    let gateway = gateway::read(&file, report);
    let timeouts = timeouts::read(&file, report);
    let flows_max = gateway.as_ref().map_or(FLOWS_MAX, |spec| spec.gateway.flows_max);
    let limits = limits::read(&file, flows_max, report);
    let ports = ports::read(&file, report);
    let zone_specs = zones::read(&file, report);
    let mut sets = Sets::read(&file, folder, report);
    let schedules = schedules::read(&file, report);
    let policy_specs = policies::read(&file, &mut sets, &schedules, report);
    let nat = nat::read(&file, report);
    let pools = pools::read(&file, report);
    let connections = connections::read(&file, folder, now, report);
    let evidence = evidence::read(&file, folder, report);
    file.finish();

    connections::check(&connections, &ports, report);
    selectors::check(&connections, &ports, &pools, &nat.outside(), report);
    pools::check(&pools, &connections, &ports, &nat.outside(), report);
    let in_force = gateway.as_ref().map(|spec| in_force(&spec.gateway.name)).unwrap_or_default();
    let numbers = zones::number(&in_force, &zone_specs, &ports, &policy_specs);
    let resolved = zones::resolve(&zone_specs, &ports, &connections, &numbers, report);
    pools::check_zones(&resolved.vpn_ports, &pools, &connections, report);
    let limits = limits.resolve(&resolved, report);
    let policies = policies::resolve(&policy_specs, &resolved, &sets, &numbers, report);
    if let Some(gateway) = &gateway {
        gateway::check_metrics(gateway, &ports, &policies, report);
    }
    if report.failed() {
        return None;
    }
    let gateway = gateway?.gateway;
    let mut config = Config {
        timeouts,
        limits,
        path: path.to_owned(),
        gateway,
        ports: ports
            .into_iter()
            .map(|port| {
                let zone = resolved.zones.iter().find(|zone| *zone.name == **port.zone.get_ref())?;
                Some(Port {
                    id: numbers.port(Kind::Port, port.name.get_ref()),
                    name: port.name.into_inner().into(),
                    interface: port.interface?.into_inner().into(),
                    vlan: port.vlan.map(Spanned::into_inner),
                    zone: zone.id,
                    addresses: port.addresses.into_iter().map(Spanned::into_inner).collect(),
                    networks: port.networks.into_iter().map(Spanned::into_inner).collect(),
                    uplink: port.uplink,
                    gateways: port.gateways.into_iter().map(Spanned::into_inner).collect(),
                    neighbours: port.neighbours,
                    bindings: port.bindings.into_iter().map(Spanned::into_inner).collect(),
                })
            })
            .collect::<Option<_>>()?,
        evidence,
        numbers,
        vpn_port_of: resolved
            .vpn_ports
            .iter()
            .enumerate()
            .flat_map(|(port, vpn)| vpn.connections.iter().map(move |index| (port, index)))
            .filter_map(|(port, &index)| Some((connections.get(index)?.name.get_ref().as_str().into(), port)))
            .collect(),
        vpn_ports: resolved.vpn_ports,
        zones: resolved.zones,
        policies,
        policy_lines: policy_specs.iter().map(PolicySpec::line).collect(),
        sets: sets.into_sets(),
        schedules,
        nat: super::Nat::default(),
        pools: pools.into_iter().map(pools::PoolSpec::resolve).collect(),
        connections: connections
            .into_iter()
            .map(connections::ConnectionSpec::resolve)
            .collect::<Option<_>>()?,
    };
    config.nat = nat::resolve(&nat, &config, report);
    let networks = config.networks().len();
    if networks > NETWORKS_MAX as usize {
        report
            .error(0..0, format!("the ports and connections have {networks} networks"))
            .expected(format!("the programs' table holds {NETWORKS_MAX}"))
            .remedy("summarise networks that lie side by side");
    }
    let routers = config.routers().len();
    if routers >= ROUTERS_MAX as usize {
        report
            .error(0..0, format!("the networks behind the ports lie behind {routers} routers"))
            .expected(format!("the programs' table holds {}", ROUTERS_MAX - 1))
            .remedy("let one router a port lead to the others");
    }
    Some(config)
}
