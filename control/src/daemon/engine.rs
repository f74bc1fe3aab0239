//! The user-space ESP engine: how many workers it gets, and what it is started with.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::thread;

use anyhow::Context as _;
use sekisho_abi::map::SOCKETS_MAX;
use sekisho_esp::engine::{Engine, EngineConfig, Link as EngineLink, WORKERS_MAX};

use super::bringup::takes_ike;
use crate::config::{Config, Port};
use crate::kernel::Link;

/// Most frames of 2 KiB that the engine locks for the sockets of all its workers, 128 MiB in all: NICs with dozens of queues
/// would have it lock gigabytes.
const FRAMES_MAX: u32 = 1 << 16;

/// Processors that this process may use, as they were when it was first asked: a quota that changes later (cgroups) must not have
/// the next reload end every tunnel.
static PROCESSORS: LazyLock<u32> = LazyLock::new(|| {
    thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1))
});

/// The workers of an engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Workers {
    /// How many.
    pub(super) count: u32,
    /// Why so many, for status.
    pub(super) why: String,
}

impl Workers {
    /// As many as are configured, else as many as there are processors; but each needs one of these, and a receive queue of each
    /// port on which connections end.
    pub(super) fn of(config: &Config, links: &[Link]) -> Workers {
        let queues = config.ports.iter().filter(|port| takes_ike(config, port)).filter_map(|port| {
            let device = port.device();
            links.iter().find(|link| *link.name == *device).map(|link| (&*port.name, link.rx_queues))
        });
        Self::choose(config.gateway.engine_workers, *PROCESSORS, queues)
    }

    fn choose<'a>(
        configured: Option<u32>,
        processors: u32,
        queues: impl Iterator<Item = (&'a str, u32)>,
    ) -> Workers {
        let few = |count, of: &str| format!("{count} {of}{}", if count == 1 { "" } else { "s" });
        let of_ports = queues
            .map(|(port, queues)| (queues, format!("port {port} has {}", few(queues, "receive queue"))));
        let (least, limit) = [
            (processors, format!("the machine has {}", few(processors, "processor"))),
            (WORKERS_MAX, format!("{WORKERS_MAX} is the most")),
        ]
        .into_iter()
        .chain(of_ports)
        .min_by_key(|(count, _)| *count)
        .unwrap_or((1, String::new()));
        let (count, why) = match configured {
            Some(configured) if configured <= least => (configured, "configured".to_owned()),
            Some(configured) => (least, format!("{configured} configured, but {limit}")),
            None => (least, limit),
        };
        Workers { count: count.max(1), why }
    }
}

/// A device as the engine knows it.
pub(super) fn device(link: &Link) -> EngineLink {
    EngineLink {
        ifindex: link.index,
        name: link.name.clone(),
        queues: link.rx_queues,
        mtu: u32::from(link.mtu),
    }
}

/// Starts an engine. `inner`, `own`: both ends of its veth pair, its own the second.
pub(super) fn start(
    config: &Config,
    links: &[Link],
    inner: &Link,
    own: &Link,
    workers: u32,
) -> anyhow::Result<Engine> {
    let (outer, others): (Vec<_>, Vec<_>) =
        config.ports.iter().zip(links).partition(|(port, _)| takes_ike(config, port));
    let all = |ports: Vec<(&Port, &Link)>| ports.into_iter().map(|(_, link)| device(link)).collect();
    let mut settings = EngineConfig::new(device(own), inner.mac, all(outer));
    settings.workers = workers;
    // A VLAN's frames come by the NIC of all of them, with a tag.
    settings.direct = all(others.into_iter().filter(|(port, _)| port.vlan.is_none()).collect());
    let sockets = |settings: &EngineConfig| {
        let links = settings.outer.iter().chain(&settings.direct).chain([&settings.inner]);
        links.map(|link| link.queues).sum::<u32>()
    };
    if sockets(&settings) > SOCKETS_MAX {
        settings.direct.clear();
    }
    // Each socket has a full ring of frames to receive into, and as many are under way; of many sockets each has less.
    let wanted = 2 * settings.ring_size * sockets(&settings);
    settings.frames = settings.frames.max(wanted.min(FRAMES_MAX));
    Engine::start(settings).context("the user-space ESP engine does not start")
}

/// The engine's counters for status.
pub(super) fn counters(engine: &Engine) -> BTreeMap<String, u64> {
    let statistics = engine.statistics();
    let mut counters = BTreeMap::new();
    for (reason, count) in statistics.drops {
        counters.insert(format!("dropped-{}", reason.name()), count);
    }
    for socket in statistics.sockets {
        let prefix = format!("{}-{}", socket.name, socket.queue);
        for (name, count) in [
            ("rx-packets", socket.rx_packets),
            ("tx-packets", socket.tx_packets),
            ("tx-ring-full", socket.tx_ring_full),
            ("rx-ring-full", socket.rx_ring_full),
            ("rx-fill-ring-empty", socket.rx_fill_ring_empty_descs),
            ("rx-dropped", socket.rx_dropped),
        ] {
            counters.insert(format!("{prefix}-{name}"), count);
        }
    }
    counters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scarcest_thing_says_how_many_there_are() {
        let choose = |configured, processors, queues: &[(&'static str, u32)]| {
            let Workers { count, why } = Workers::choose(configured, processors, queues.iter().copied());
            (count, why)
        };
        let expect = |count, why: &str| (count, why.to_owned());
        assert_eq!(choose(None, 4, &[("wan", 8)]), expect(4, "the machine has 4 processors"));
        assert_eq!(choose(None, 1, &[("wan", 8)]), expect(1, "the machine has 1 processor"));
        assert_eq!(choose(None, 4, &[("wan", 8), ("wan2", 1)]), expect(1, "port wan2 has 1 receive queue"));
        assert_eq!(choose(None, 64, &[("wan", 64)]), expect(16, "16 is the most"));
        assert_eq!(choose(Some(3), 4, &[("wan", 8)]), expect(3, "configured"));
        assert_eq!(
            choose(Some(8), 8, &[("wan", 2)]),
            expect(2, "8 configured, but port wan has 2 receive queues")
        );
        assert_eq!(choose(None, 4, &[("wan", 0)]).0, 1);
    }
}
