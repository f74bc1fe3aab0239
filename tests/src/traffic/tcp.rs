//! TCP services and clients: an echo, a sink for bulk, a conversation that is held open.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::readable;
use crate::lab::namespace::Namespace;
use crate::lab::patience::stretch;

/// Patience for what should succeed: long beside a retransmitted SYN (1 s, then 2 s more).
const PATIENCE: Duration = Duration::from_secs(5);
/// Patience for what should be refused: the filter drops without a word, so only time tells.
const REFUSAL: Duration = Duration::from_millis(600);

/// A service that runs. Dropping it ends it.
#[derive(Debug)]
pub struct Service {
    stop: Arc<AtomicBool>,
    /// Bytes received, by all connections together.
    received: Arc<AtomicU64>,
    longest_stall: Arc<Mutex<Duration>>,
    thread: Option<JoinHandle<()>>,
}

/// What a service says to a connection, until it returns.
type Speak = dyn Fn(TcpStream, &Talk) -> std::io::Result<()> + Send + Sync;

/// What a connection's thread shares with its service.
pub(super) struct Talk {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    longest_stall: Arc<Mutex<Duration>>,
}

impl Service {
    /// Says back what it hears.
    pub fn echo(namespace: &Namespace, at: SocketAddr) -> Result<Self> {
        Self::start(namespace, at, |mut stream, talk| {
            let mut buffer = vec![0; 1 << 16];
            while let Some(length) = talk.hear(&mut stream, &mut buffer)? {
                stream.write_all(buffer.get(..length).unwrap_or_default())?;
            }
            Ok(())
        })
    }

    /// Takes everything and says nothing.
    pub fn sink(namespace: &Namespace, at: SocketAddr) -> Result<Self> {
        Self::start(namespace, at, |mut stream, talk| {
            let mut buffer = vec![0; 1 << 18];
            let mut last: Option<Instant> = None;
            while talk.hear(&mut stream, &mut buffer)?.is_some() {
                if let Some(last) = last.replace(Instant::now()) {
                    let mut longest = talk.longest_stall.lock().unwrap_or_else(PoisonError::into_inner);
                    *longest = longest.max(last.elapsed());
                }
            }
            Ok(())
        })
    }

    pub(super) fn start(
        namespace: &Namespace,
        at: SocketAddr,
        speak: impl Fn(TcpStream, &Talk) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = namespace.run(|| {
            let listener = TcpListener::bind(at).with_context(|| format!("listening at {at}"))?;
            listener.set_nonblocking(true).context("making a listener non-blocking")?;
            Ok(listener)
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let received = Arc::new(AtomicU64::new(0));
        let longest_stall = Arc::new(Mutex::new(Duration::ZERO));
        let talk = || Talk {
            stop: Arc::clone(&stop),
            received: Arc::clone(&received),
            longest_stall: Arc::clone(&longest_stall),
        };
        let shared = talk();
        let speak: Arc<Speak> = Arc::new(speak);
        let thread = std::thread::spawn(move || accept(&listener, &shared, &speak));
        Ok(Self { stop, received, longest_stall, thread: Some(thread) })
    }

    /// Bytes received so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A connection's failure is its client's to report.
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, talk: &Talk, speak: &Arc<Speak>) {
    while !talk.stop.load(Ordering::Relaxed) {
        if !readable(listener, Duration::from_millis(50)).unwrap_or(false) {
            continue;
        }
        let Ok((stream, _)) = listener.accept() else { continue };
        let (speak, talk) = (Arc::clone(speak), talk.clone());
        std::thread::spawn(move || {
            // The client sees a broken connection and says so.
            let _ = stream.set_nonblocking(false).and_then(|()| speak(stream, &talk));
        });
    }
}

impl Clone for Talk {
    fn clone(&self) -> Self {
        Self {
            stop: Arc::clone(&self.stop),
            received: Arc::clone(&self.received),
            longest_stall: Arc::clone(&self.longest_stall),
        }
    }
}

impl Talk {
    /// Reads; `None` at the end of the stream or of the service.
    pub(super) fn hear(&self, stream: &mut TcpStream, buffer: &mut [u8]) -> std::io::Result<Option<usize>> {
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        while !self.stop.load(Ordering::Relaxed) {
            match stream.read(buffer) {
                Ok(0) => return Ok(None),
                Ok(length) => {
                    self.received.fetch_add(u64::try_from(length).unwrap_or(u64::MAX), Ordering::Relaxed);
                    return Ok(Some(length));
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// Opens a connection from a namespace.
pub fn connect(namespace: &Namespace, to: SocketAddr) -> Result<TcpStream> {
    namespace.run(|| {
        let stream = TcpStream::connect_timeout(&to, PATIENCE * stretch())
            .with_context(|| format!("connecting to {to}"))?;
        stream.set_read_timeout(Some(PATIENCE * stretch())).context("setting a timeout")?;
        stream.set_write_timeout(Some(PATIENCE * stretch())).context("setting a timeout")?;
        stream.set_nodelay(true).context("switching Nagle's algorithm off")?;
        Ok(stream)
    })
}

/// Holds if a connection gets no answer at all. A reset is an answer: it shows that the SYN arrived.
pub fn expect_silence(namespace: &Namespace, to: SocketAddr) -> Result<()> {
    namespace.run(|| match TcpStream::connect_timeout(&to, REFUSAL) {
        Err(error) if error.kind() == ErrorKind::TimedOut => Ok(()),
        Err(error) => bail!("TCP to {to} should get no answer but got: {error}"),
        Ok(_) => bail!("TCP to {to} should get no answer but was accepted"),
    })
}

/// Holds if a connection comes to nothing: no answer at all, or a router's word that there is no way. A reset shows that
/// the SYN arrived.
pub fn expect_no_way(namespace: &Namespace, to: SocketAddr) -> Result<()> {
    namespace.run(|| match TcpStream::connect_timeout(&to, REFUSAL) {
        Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::HostUnreachable) => Ok(()),
        Err(error) => bail!("TCP to {to} should come to nothing but got: {error}"),
        Ok(_) => bail!("TCP to {to} should come to nothing but was accepted"),
    })
}

/// A connection to an echo service that stays open.
#[derive(Debug)]
pub struct Conversation {
    stream: TcpStream,
}

impl Conversation {
    /// Opens it.
    pub fn open(namespace: &Namespace, to: SocketAddr) -> Result<Self> {
        Ok(Self { stream: connect(namespace, to)? })
    }

    /// The port it was opened from.
    pub fn local_port(&self) -> Result<u16> {
        Ok(self.stream.local_addr().context("asking for the own end")?.port())
    }

    /// Says something, and how long until it was heard back whole.
    pub fn say(&mut self, words: &[u8]) -> Result<Duration> {
        let begin = Instant::now();
        self.stream.write_all(words).context("speaking")?;
        let mut heard = vec![0; words.len()];
        self.stream.read_exact(&mut heard).context("listening")?;
        ensure!(heard == words, "the echo answered something else");
        Ok(begin.elapsed())
    }
}

/// One question to an echo service, on a connection of its own.
pub fn ask(namespace: &Namespace, to: SocketAddr) -> Result<Duration> {
    let begin = Instant::now();
    Conversation::open(namespace, to)?.say(b"sekisho asks")?;
    Ok(begin.elapsed())
}

/// What a bulk transfer did, as its receiver saw it.
#[derive(Clone, Copy, Debug)]
pub struct Bulk {
    /// Bytes that arrived.
    pub bytes: u64,
    /// In this time.
    pub time: Duration,
    /// The longest time without any.
    pub longest_stall: Duration,
}

impl Bulk {
    /// Megabits a second.
    pub fn megabits(&self) -> f64 {
        // Far below 2^52 bits.
        self.bytes as f64 * 8.0 / 1e6 / self.time.as_secs_f64()
    }
}

/// A transfer towards a [`Service::sink`] that runs in the background.
#[derive(Debug)]
pub struct Transfer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
    received_before: u64,
    begin: Instant,
}

impl Transfer {
    /// Begins to send as fast as TCP allows, or at most so many bytes a second.
    pub fn start(
        namespace: &Namespace,
        to: SocketAddr,
        sink: &Service,
        bytes_per_second: Option<u32>,
    ) -> Result<Self> {
        let mut stream = connect(namespace, to)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        *sink.longest_stall.lock().unwrap_or_else(PoisonError::into_inner) = Duration::ZERO;
        let (received_before, begin) = (sink.received(), Instant::now());
        let thread = std::thread::spawn(move || {
            let chunk = vec![0x5e; if bytes_per_second.is_some() { 1 << 14 } else { 1 << 17 }];
            let mut due = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                stream.write_all(&chunk).context("sending bulk")?;
                if let Some(rate) = bytes_per_second {
                    due += Duration::from_secs_f64(chunk.len() as f64 / f64::from(rate));
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                }
            }
            stream.shutdown(Shutdown::Write).context("ending a bulk transfer")
        });
        Ok(Self { stop, thread, received_before, begin })
    }

    /// Ends it and reports.
    pub fn stop(self, sink: &Service) -> Result<Bulk> {
        let (bytes, time) = (sink.received() - self.received_before, self.begin.elapsed());
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let longest_stall = *sink.longest_stall.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Bulk { bytes, time, longest_stall })
    }
}

/// Sends for some time as fast as TCP allows.
pub fn bulk(namespace: &Namespace, to: SocketAddr, sink: &Service, time: Duration) -> Result<Bulk> {
    let transfer = Transfer::start(namespace, to, sink, None)?;
    std::thread::sleep(time);
    transfer.stop(sink)
}

/// Segments that this namespace's TCP has sent again, since it was made.
pub fn retransmitted(namespace: &Namespace) -> Result<u64> {
    let snmp = namespace.proc_net("snmp")?;
    let mut tcp = snmp.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (tcp.next().unwrap_or_default(), tcp.next().unwrap_or_default());
    names
        .split_whitespace()
        .zip(values.split_whitespace())
        .find_map(|(name, value)| (name == "RetransSegs").then(|| value.parse().ok())?)
        .context("/proc/net/snmp has no RetransSegs")
}
