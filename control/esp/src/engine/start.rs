//! Opens what the workers work with: packet memory and sockets, dealt out among them.

use std::ops::Range;
use std::sync::Arc;

use super::Handle;
use super::config::{EngineConfig, EngineError, Link, WORKERS_MAX};
use super::counters::SocketCells;
use super::umem::Umem;
use super::worker::{Side, Station};
use super::xsk::Socket;

/// What one worker works with.
#[derive(Debug)]
pub(crate) struct Place {
    /// Dropped before the memory the kernel was given through them.
    pub(crate) stations: Vec<Station>,
    pub(crate) umem: Umem,
    /// Stations of the inner device.
    pub(crate) inner: Range<usize>,
    /// Stations of each outer device, in the order of the configuration.
    pub(crate) outer: Vec<Range<usize>>,
}

/// Opens a socket on every queue of every device. Queue `q` is worker `q mod workers`'s. Queues of devices from which plaintext
/// comes straight are dealt out one after the other, for such a device may have fewer queues than there are workers.
pub(crate) fn open(config: &EngineConfig) -> Result<(Vec<Place>, Vec<Handle>), EngineError> {
    check(config)?;
    let mut places = Vec::new();
    for _ in 0..config.workers {
        let umem = Umem::new(config.frames / config.workers, config.frame_size)?;
        places.push(Place { stations: Vec::new(), umem, inner: 0..0, outer: Vec::new() });
    }
    let mut handles = Vec::new();
    let inner = open_device(config, &config.inner, Side::Inner, 0, &mut places, &mut handles)?;
    for (place, inner) in places.iter_mut().zip(inner) {
        place.inner = inner;
    }
    let mut dealt = 0;
    for link in &config.direct {
        let before: Vec<usize> = places.iter().map(|place| place.stations.len()).collect();
        let handles_before = handles.len();
        match open_device(config, link, Side::Direct, dealt, &mut places, &mut handles) {
            Ok(_) => dealt += link.queues,
            Err(error) => {
                // Its plaintext comes by the veth pair.
                tracing::warn!(%error, device = link.name, "plaintext does not come straight from a device");
                for (place, before) in places.iter_mut().zip(before) {
                    place.stations.truncate(before);
                }
                handles.truncate(handles_before);
            }
        }
    }
    for link in &config.outer {
        let ranges = open_device(config, link, Side::Outer, 0, &mut places, &mut handles)?;
        for (place, range) in places.iter_mut().zip(ranges) {
            place.outer.push(range);
        }
    }
    Ok((places, handles))
}

/// Opens one socket for each queue of a device, the first for the worker whose turn it is; returns which stations they are, of
/// each worker.
fn open_device(
    config: &EngineConfig,
    link: &Link,
    side: Side,
    first: u32,
    places: &mut [Place],
    handles: &mut Vec<Handle>,
) -> Result<Vec<Range<usize>>, EngineError> {
    let begins: Vec<usize> = places.iter().map(|place| place.stations.len()).collect();
    for queue in 0..link.queues {
        let worker = ((first + queue) % config.workers) as usize;
        let (Some(Place { stations, umem, .. }), Some(&begin)) = (places.get_mut(worker), begins.get(worker))
        else {
            continue;
        };
        let sibling = stations.get(begin).map(|station| &station.socket);
        let socket = Socket::open(umem, link, queue, config.ring_size, side.mode(config.mode), sibling)?;
        let cells = Arc::<SocketCells>::default();
        handles.push(Handle {
            ifindex: link.ifindex,
            name: link.name.clone(),
            side,
            queue,
            zero_copy: socket.zero_copy(),
            fd: socket.fd().clone(),
            cells: cells.clone(),
        });
        let (turn, ifindex) = (stations.len() - begin, link.ifindex);
        stations.push(Station { socket, ifindex, side, queue, turn, cells, failing: false, gone: false });
    }
    Ok(begins.into_iter().zip(&*places).map(|(begin, place)| begin..place.stations.len()).collect())
}

fn check(config: &EngineConfig) -> Result<(), EngineError> {
    let refuse = |what: &str| Err(EngineError::Config(what.into()));
    if config.outer.is_empty() {
        return refuse("it needs at least one outer device");
    }
    if config.outer.iter().chain(&config.direct).chain([&config.inner]).any(|link| link.queues == 0) {
        return refuse("every device needs at least one receive queue");
    }
    if !(1..=WORKERS_MAX).contains(&config.workers) {
        return Err(EngineError::Config(format!("workers must be between 1 and {WORKERS_MAX}")));
    }
    let narrow = config.outer.iter().chain([&config.inner]).find(|link| link.queues < config.workers);
    if let Some(Link { name, queues, .. }) = narrow {
        let workers = config.workers;
        return Err(EngineError::Config(format!(
            "each of {workers} workers needs a receive queue of {name}, which has {queues}"
        )));
    }
    if !matches!(config.frame_size, 2048 | 4096) {
        return refuse("frame_size must be 2048 or 4096 bytes");
    }
    if !config.ring_size.is_power_of_two() || !(64..=32_768).contains(&config.ring_size) {
        return refuse("ring_size must be a power of two between 64 and 32768");
    }
    if !(256 * config.workers..=1 << 20).contains(&config.frames) {
        return refuse("frames must be between 256 for each worker and 1048576");
    }
    Ok(())
}
