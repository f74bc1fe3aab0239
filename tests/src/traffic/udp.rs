//! UDP: an echo, and one question.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::readable;
use crate::lab::namespace::Namespace;

/// Longest UDP payload.
const DATAGRAM_MAX: usize = 65_535;

/// An echo that runs. Dropping it ends it.
#[derive(Debug)]
pub struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Starts it.
    pub fn start(namespace: &Namespace, at: SocketAddr) -> Result<Self> {
        let socket =
            namespace.run(|| UdpSocket::bind(at).with_context(|| format!("binding a UDP socket to {at}")))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; DATAGRAM_MAX];
            while !stopped.load(Ordering::Relaxed) {
                if readable(&socket, Duration::from_millis(50)).unwrap_or(false)
                    && let Ok((length, from)) = socket.recv_from(&mut buffer)
                {
                    // An answer that can't be sent is the asker's to miss.
                    let _ = socket.send_to(buffer.get(..length).unwrap_or_default(), from);
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Asks an echo once; how long the answer took, or `None` if none came within `patience`.
pub fn ask(namespace: &Namespace, to: SocketAddr, patience: Duration) -> Result<Option<Duration>> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = namespace.run(|| UdpSocket::bind((any, 0)).context("binding a UDP socket"))?;
    socket.set_read_timeout(Some(patience)).context("setting a timeout")?;
    let (begin, question) = (Instant::now(), b"sekisho asks");
    socket.send_to(question, to).with_context(|| format!("sending to {to}"))?;
    let mut answer = [0; 64];
    match socket.recv_from(&mut answer) {
        Ok((length, from)) => {
            ensure!(from == to, "{from} answered in place of {to}");
            ensure!(answer.get(..length) == Some(question.as_slice()), "the echo answered something else");
            Ok(Some(begin.elapsed()))
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
        Err(error) => bail!("UDP to {to}: {error}"),
    }
}
