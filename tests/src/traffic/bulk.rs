//! TCP that keeps a tunnel full both ways for as long as it is let, and never more than a queue holds.
//!
//! As much is under way as a small window has room for. Two processors that carry both gateways and both hosts are full with
//! that, and no queue on the way overflows: what else is lost meanwhile is lost by something else.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::lab::namespace::Namespace;
use crate::lab::patience::stretch;

/// Connections at once.
const CONNECTIONS: usize = 2;
/// What a connection may have under way each way, as SO_SNDBUF has it. The kernel doubles that, and counts some two thousand bytes
/// for a segment: 50 of them, and 100 of two connections, where a veth pair's queue holds 256.
const WINDOW_BYTES: usize = 48 << 10;
/// Written and read at once.
const CHUNK_BYTES: usize = 1 << 16;
/// Until a connection is there.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a call may wait before it looks whether it shall end.
const TURN: Duration = Duration::from_millis(100);

/// A load that runs.
#[derive(Debug)]
pub struct Bulk {
    stop: Arc<AtomicBool>,
    begun: Instant,
    /// There, and back.
    ways: [Arc<Way>; 2],
    threads: Vec<JoinHandle<()>>,
}

/// What has arrived at one end.
#[derive(Debug, Default)]
struct Way {
    bytes: AtomicU64,
    arrivals: Mutex<Arrivals>,
    broken: Mutex<Option<String>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Arrivals {
    last: Option<Instant>,
    longest_stall: Duration,
}

impl Arrivals {
    fn at(&mut self, now: Instant) {
        if let Some(last) = self.last.replace(now) {
            self.longest_stall = self.longest_stall.max(now - last);
        }
    }
}

/// What came of one way.
#[derive(Clone, Debug, Default)]
pub struct Carried {
    /// Bytes that arrived.
    pub bytes: u64,
    /// In this time.
    pub time: Duration,
    /// The longest time in which none arrived, the end included.
    pub longest_stall: Duration,
    /// Why a connection has ended before it was to.
    pub broken: Option<String>,
}

impl Carried {
    /// Megabits a second.
    pub fn megabits(&self) -> f64 {
        // Far below 2^52 bits.
        self.bytes as f64 * 8.0 / 1e6 / self.time.as_secs_f64()
    }
}

impl Bulk {
    /// Connects from one namespace to an address of the other, and sends both ways from now on.
    pub fn start(near: &Namespace, far: &Namespace, to: SocketAddr) -> Result<Self> {
        let listener = far.run(|| TcpListener::bind(to).with_context(|| format!("listening at {to}")))?;
        let stop = Arc::new(AtomicBool::new(false));
        let ways: [Arc<Way>; 2] = Default::default();
        let mut bulk = Self { stop, begun: Instant::now(), ways, threads: Vec::new() };
        for _ in 0..CONNECTIONS {
            let near = near.run(|| connect(to))?;
            let (far, _) = listener.accept().context("accepting a connection")?;
            Socket::from(far.try_clone()?).set_send_buffer_size(WINDOW_BYTES).context("bounding a window")?;
            for (stream, arriving) in [(near, 1), (far, 0)] {
                // A socket's timeouts are those of all that share it.
                stream.set_read_timeout(Some(TURN))?;
                stream.set_write_timeout(Some(TURN))?;
                let (reading, way) = (stream.try_clone()?, Arc::clone(&bulk.ways[arriving]));
                let [stopped, stopping] = [Arc::clone(&bulk.stop), Arc::clone(&bulk.stop)];
                bulk.threads.push(std::thread::spawn(move || read(reading, &way, &stopped)));
                bulk.threads.push(std::thread::spawn(move || write(stream, &stopping)));
            }
        }
        Ok(bulk)
    }

    /// Bytes that have arrived so far, there and back.
    pub fn arrived(&self) -> [u64; 2] {
        [0, 1].map(|way: usize| self.ways[way].bytes.load(Relaxed))
    }

    /// Ends it: what came of the way there, and of the way back.
    pub fn stop(mut self) -> [Carried; 2] {
        let time = self.begun.elapsed();
        let carried = [0, 1].map(|way: usize| self.ways[way].carried(self.begun, time));
        self.end();
        carried
    }

    fn end(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        self.end();
    }
}

impl Way {
    fn carried(&self, begun: Instant, time: Duration) -> Carried {
        let mut arrivals = *self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        arrivals.last.get_or_insert(begun);
        arrivals.at(begun + time);
        Carried {
            bytes: self.bytes.load(Relaxed),
            time,
            longest_stall: arrivals.longest_stall,
            broken: self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    fn breaks(&self, why: &str) {
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        broken.get_or_insert_with(|| why.to_owned());
    }
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))
        .context("opening a TCP socket")?;
    socket.set_send_buffer_size(WINDOW_BYTES).context("bounding a window")?;
    socket
        .connect_timeout(&SockAddr::from(to), PATIENCE * stretch())
        .with_context(|| format!("connecting to {to}"))?;
    Ok(socket.into())
}

fn is_turn_over(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn read(mut stream: TcpStream, way: &Way, stop: &AtomicBool) {
    let mut buffer = vec![0; CHUNK_BYTES];
    while !stop.load(Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return way.breaks("the other end has closed it"),
            Ok(length) => {
                way.bytes.fetch_add(length as u64, Relaxed);
                way.arrivals.lock().unwrap_or_else(PoisonError::into_inner).at(Instant::now());
            }
            Err(error) if is_turn_over(&error) => {}
            Err(error) => return way.breaks(&error.to_string()),
        }
    }
    // A writer at the other end that waits for room ends now.
    let _ = stream.shutdown(Shutdown::Both);
}

fn write(mut stream: TcpStream, stop: &AtomicBool) {
    let chunk = vec![0x5e; CHUNK_BYTES];
    while !stop.load(Relaxed) {
        match stream.write(&chunk) {
            Ok(_) => {}
            Err(error) if is_turn_over(&error) => {}
            // The reader of this end says so.
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_between_two_arrivals_and_up_to_the_end() {
        let (begun, after) = (Instant::now(), Duration::from_millis);
        let way = Way::default();
        for millis in [10, 20, 120, 130] {
            way.arrivals.lock().expect("nobody panics").at(begun + after(millis));
        }
        assert_eq!(way.carried(begun, after(140)).longest_stall, after(100));
        assert_eq!(way.carried(begun, after(500)).longest_stall, after(370));
        assert_eq!(Way::default().carried(begun, after(40)).longest_stall, after(40), "nothing came");
    }

    #[test]
    fn rates_are_of_what_arrived() {
        let carried = Carried { bytes: 1_000_000, time: Duration::from_secs(2), ..Carried::default() };
        assert_eq!(carried.megabits(), 4.0);
    }
}
