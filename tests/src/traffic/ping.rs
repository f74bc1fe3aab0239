//! A steady stream of ICMP echo requests: every single loss is counted, and the longest silence measured.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Icmpv6Slice, Icmpv6Type, Ipv4HeaderSlice};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::readable;
use crate::lab::namespace::Namespace;
use crate::lab::patience::stretch;

/// How long a reply may take before its request counts as lost.
const PATIENCE: Duration = Duration::from_secs(2);
/// Patience for what should be refused: the filter drops without a word, so only time tells.
const REFUSAL: Duration = Duration::from_millis(400);
static IDENTIFIER: AtomicU16 = AtomicU16::new(1);

/// A stream that runs.
#[derive(Debug)]
pub struct Stream {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Outcome>>,
}

/// What became of the requests.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Requests sent.
    pub sent: usize,
    /// Requests answered, each counted once.
    pub answered: usize,
    /// Round-trip times, in the order of the replies.
    pub round_trips: Vec<Duration>,
    /// The longest time between two replies.
    pub longest_gap: Duration,
}

impl Outcome {
    /// Requests without a reply.
    pub fn lost(&self) -> usize {
        self.sent - self.answered
    }

    /// The median round-trip time.
    pub fn median(&self) -> Duration {
        let mut sorted = self.round_trips.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let milliseconds = |d: Duration| d.as_secs_f64() * 1e3;
        write!(
            f,
            "{}/{} replies, RTT {:.2} ms, longest gap {:.0} ms",
            self.answered,
            self.sent,
            milliseconds(self.median()),
            milliseconds(self.longest_gap)
        )
    }
}

impl Stream {
    /// Sends requests from a namespace, one every `interval`, until stopped.
    pub fn start(namespace: &Namespace, to: IpAddr, interval: Duration) -> Result<Self> {
        let mut echo = namespace.run(|| Echo::open(to))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut due = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                echo.request()?;
                due += interval;
                echo.collect(due)?;
            }
            echo.finish(PATIENCE * stretch())
        });
        Ok(Self { stop, thread })
    }

    /// Stops sending, and waits for the last replies.
    pub fn stop(self) -> Result<Outcome> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Sends `count` requests, one every `interval`.
pub fn ping(namespace: &Namespace, to: IpAddr, count: usize, interval: Duration) -> Result<Outcome> {
    let mut echo = namespace.run(|| Echo::open(to))?;
    for _ in 0..count {
        echo.request()?;
        echo.collect(Instant::now() + interval)?;
    }
    echo.finish(PATIENCE * stretch())
}

/// Holds if a request gets no reply.
pub fn expect_silence(namespace: &Namespace, to: IpAddr) -> Result<()> {
    let mut echo = namespace.run(|| Echo::open(to))?;
    echo.request()?;
    ensure!(echo.finish(REFUSAL)?.answered == 0, "{to} should not have answered an ICMP echo request");
    Ok(())
}

struct Echo {
    socket: Socket,
    to: IpAddr,
    identifier: u16,
    sequence: u16,
    waiting: HashMap<u16, Instant>,
    last_reply: Option<Instant>,
    outcome: Outcome,
}

impl Echo {
    /// In the namespace of the current thread.
    fn open(to: IpAddr) -> Result<Self> {
        let (domain, protocol) = match to {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol)).context("opening a raw ICMP socket")?;
        socket.set_nonblocking(true).context("making a socket non-blocking")?;
        socket.set_recv_buffer_size(1 << 20).context("enlarging a socket's buffer")?;
        let identifier = IDENTIFIER.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            socket,
            to,
            identifier,
            sequence: 0,
            waiting: HashMap::new(),
            last_reply: None,
            outcome: Outcome::default(),
        })
    }

    fn request(&mut self) -> Result<()> {
        let header = IcmpEchoHeader { id: self.identifier, seq: self.sequence };
        let payload = [0x5e; 56];
        let mut message = match self.to {
            IpAddr::V4(_) => {
                Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(header), &payload).to_bytes().to_vec()
            }
            // The kernel fills in ICMPv6's checksum (RFC 3542 section 3.1).
            IpAddr::V6(_) => {
                etherparse::Icmpv6Header::new(Icmpv6Type::EchoRequest(header)).to_bytes().to_vec()
            }
        };
        message.extend_from_slice(&payload);
        let now = Instant::now();
        match self.socket.send_to(&message, &SockAddr::from(SocketAddr::new(self.to, 0))) {
            Ok(_) => {}
            // No route for now, or an ICMP error that came back earlier: this request is lost, and counts as such.
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(_) => {
                self.outcome.sent += 1;
                self.sequence = self.sequence.wrapping_add(1);
                return Ok(());
            }
        }
        ensure!(self.waiting.insert(self.sequence, now).is_none(), "more than 65,535 requests are under way");
        self.outcome.sent += 1;
        self.sequence = self.sequence.wrapping_add(1);
        Ok(())
    }

    /// Takes replies until a point in time.
    fn collect(&mut self, until: Instant) -> Result<()> {
        let mut buffer = [0; 2048];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(length) => {
                    let message = buffer.get(..length).unwrap_or_default();
                    if let Some(sequence) = self.reply(message) {
                        self.answered(sequence);
                    }
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // An ICMP error to an earlier request: the loss shows in the counts.
                Err(_) => continue,
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            // poll(2) counts milliseconds: rounded up, or the last one would be spent spinning.
            readable(&self.socket, left.max(Duration::from_millis(1)))?;
        }
    }

    /// The sequence number if this is a reply to one of ours.
    fn reply(&self, message: &[u8]) -> Option<u16> {
        let header = match self.to {
            IpAddr::V4(_) => {
                let ip = Ipv4HeaderSlice::from_slice(message).ok()?;
                let icmp = message.get(ip.slice().len()..)?;
                match etherparse::Icmpv4Slice::from_slice(icmp).ok()?.icmp_type() {
                    Icmpv4Type::EchoReply(header) => header,
                    _ => return None,
                }
            }
            IpAddr::V6(_) => match Icmpv6Slice::from_slice(message).ok()?.icmp_type() {
                Icmpv6Type::EchoReply(header) => header,
                _ => return None,
            },
        };
        (header.id == self.identifier).then_some(header.seq)
    }

    fn answered(&mut self, sequence: u16) {
        let Some(sent) = self.waiting.remove(&sequence) else { return };
        let now = Instant::now();
        self.outcome.answered += 1;
        self.outcome.round_trips.push(now - sent);
        if let Some(last) = self.last_reply.replace(now) {
            self.outcome.longest_gap = self.outcome.longest_gap.max(now - last);
        }
    }

    fn finish(mut self, patience: Duration) -> Result<Outcome> {
        let deadline = Instant::now() + patience;
        while !self.waiting.is_empty() && Instant::now() < deadline {
            self.collect(Instant::now() + Duration::from_millis(10))?;
        }
        Ok(self.outcome)
    }
}
