//! Refused packets, as the programs report them (sampled), turned into log lines.

use std::io;
use std::net::{IpAddr, Ipv6Addr};

use aya::maps::{MapData, RingBuf};
use sekisho_abi::event::Event;
use sekisho_abi::verdict::Verdict;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{FilterError, Maps};

/// The reader of `EVENTS`. Cancel-safe: an event not yet returned stays in the ring.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Events {
    /// Takes the ring.
    pub fn open(maps: &mut Maps) -> Result<Events, FilterError> {
        let ring = maps.events.take().ok_or(FilterError::Missing("EVENTS"))?;
        // SAFETY: the map owns a valid file descriptor, and nothing replaces or closes it while `AsyncFd` owns the map.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
            .map_err(|error| FilterError::Pin { path: "EVENTS".into(), source: error.into() })?;
        Ok(Events { ring })
    }

    /// Waits for the next event.
    pub async fn next(&mut self) -> io::Result<Event> {
        loop {
            let mut guard = self.ring.readable_mut().await?;
            if let Some(item) = guard.get_inner_mut().next()
                && let Some(event) = parse(&item)
            {
                return Ok(event);
            }
            guard.clear_ready();
        }
    }
}

fn parse(bytes: &[u8]) -> Option<Event> {
    if bytes.len() < size_of::<Event>() {
        return None;
    }
    // SAFETY: `Event` is plain data (any bytes are a value) and there are enough of them; the read is unaligned.
    Some(unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() })
}

/// Writes one refused packet to the log: where it came in, what it claimed to be, and why it was refused.
pub fn log(event: &Event, port: &str) {
    let Some(verdict) = Verdict::from_number(event.verdict) else { return };
    let source = address(event.source);
    let destination = address(event.destination);
    let reason = verdict.name();
    if verdict.is_drop() {
        if event.spi_be != 0 {
            let spi = format!("{:#010x}", u32::from_be(event.spi_be));
            tracing::info!(target: "sekisho::filter", port, %source, %destination, spi, reason, "refused");
        } else {
            let (protocol, dport) = (event.protocol, u16::from_be(event.destination_port_be));
            tracing::info!(target: "sekisho::filter", port, %source, %destination, protocol, dport, reason, "refused");
        }
    } else {
        let (protocol, dport) = (event.protocol, u16::from_be(event.destination_port_be));
        tracing::info!(target: "sekisho::filter", port, %source, %destination, protocol, dport, "new flow");
    }
}

fn address(bytes: [u8; 16]) -> IpAddr {
    let v6 = Ipv6Addr::from(bytes);
    v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
}
