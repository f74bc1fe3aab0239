//! A tap on a cable: every frame is classified and searched for the canary as it passes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use memchr::memmem::Finder;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, setsockopt, socket, sockopt,
};

use super::frame::{Kind, classify};
use super::readable;
use crate::lab::namespace::{Namespace, link_address};

/// A socket buffer that holds what a burst at veth speed brings while this thread doesn't run.
const BUFFER_BYTES: usize = 64 << 20;
/// Frames kept whole, for the pcap file that a failure leaves.
const KEPT_FRAMES: usize = 4096;

/// A tap that listens.
#[derive(Debug)]
pub struct Tap {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Seen>>,
}

/// What passed.
#[derive(Debug, Default)]
pub struct Seen {
    /// Frames by kind.
    pub kinds: BTreeMap<Kind, u64>,
    /// Frames by kind and IP source and destination.
    pub between: BTreeMap<(Kind, IpAddr, IpAddr), u64>,
    /// Frames that contain the canary anywhere.
    pub canaries: u64,
    /// The first frames, with the time they were seen.
    frames: Vec<(SystemTime, Vec<u8>)>,
}

impl Tap {
    /// Listens, both directions, from now on.
    pub fn start(namespace: &Namespace, device: &str, canary: &str) -> Result<Self> {
        let (socket, index) = namespace.run(|| {
            let socket = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
                SockProtocol::EthAll,
            )
            .context("opening a packet socket")?;
            setsockopt(&socket, sockopt::RcvBufForce, &BUFFER_BYTES).context("enlarging the tap's buffer")?;
            let address = link_address(device)?;
            bind(socket.as_raw_fd(), &address)
                .with_context(|| format!("binding a packet socket to {device}"))?;
            Ok((socket, address.ifindex()))
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, canary) = (Arc::clone(&stop), canary.to_owned());
        let thread = std::thread::spawn(move || listen(&socket, index, &canary, &stopped));
        Ok(Self { stop, thread })
    }

    /// Ends, after everything that is already in the buffer.
    pub fn stop(self) -> Result<Seen> {
        // A frame that was sent just before must have crossed the veth.
        std::thread::sleep(Duration::from_millis(100));
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn listen(socket: &OwnedFd, index: usize, canary: &str, stop: &AtomicBool) -> Result<Seen> {
    let finder = Finder::new(canary);
    let mut seen = Seen::default();
    let mut buffer = vec![0; 1 << 17];
    loop {
        let ending = stop.load(Ordering::Relaxed);
        readable(socket, Duration::from_millis(50))?;
        loop {
            match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) {
                // Between its making and its binding the socket hears every device.
                Ok((length, Some(from))) if from.ifindex() == index => {
                    seen.take(buffer.get(..length).unwrap_or_default(), &finder);
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error).context("receiving from the tap"),
            }
        }
        if ending {
            return Ok(seen);
        }
    }
}

impl Seen {
    fn take(&mut self, frame: &[u8], canary: &Finder<'_>) {
        let (kind, ends) = classify(frame);
        self.canaries += u64::from(canary.find(frame).is_some());
        *self.kinds.entry(kind.clone()).or_default() += 1;
        if let Some((from, to)) = ends {
            *self.between.entry((kind, from, to)).or_default() += 1;
        }
        if self.frames.len() < KEPT_FRAMES {
            self.frames.push((SystemTime::now(), frame.to_vec()));
        }
    }

    /// Frames of a kind.
    pub fn count(&self, kind: &Kind) -> u64 {
        self.kinds.get(kind).copied().unwrap_or_default()
    }

    /// ESP packets, in UDP or not.
    pub fn esp(&self) -> u64 {
        self.count(&Kind::Esp) + self.count(&Kind::EspInUdp)
    }

    /// The kept frames towards an address, of these kinds, as they were on the wire.
    pub fn frames_to(&self, to: IpAddr, kinds: &[Kind]) -> Vec<&[u8]> {
        let wanted = |frame: &[u8]| {
            let (kind, ends) = classify(frame);
            kinds.contains(&kind) && ends.is_some_and(|(_, destination)| destination == to)
        };
        self.frames.iter().map(|(_, frame)| frame.as_slice()).filter(|frame| wanted(frame)).collect()
    }

    /// What is neither IKE, ESP nor a neighbour's business, in words.
    pub fn leaks(&self) -> Vec<String> {
        let other = |kind: &Kind| match kind {
            Kind::Other(what) => Some(what.clone()),
            _ => None,
        };
        let mut leaks: Vec<String> = self
            .between
            .iter()
            .filter_map(|((kind, from, to), count)| {
                Some(format!("{} from {from} to {to} ({count}×)", other(kind)?))
            })
            .collect();
        if leaks.is_empty() {
            leaks = self.kinds.keys().filter_map(other).collect();
        }
        leaks
    }

    /// One line: `312 ESP, 8 IKE, 4 ARP/NDP`.
    pub fn summary(&self) -> String {
        let neighbours = self.count(&Kind::Arp) + self.count(&Kind::Ndp) + self.count(&Kind::Mld);
        let mut text = format!(
            "{} ESP, {} IKE, {neighbours} ARP/NDP",
            self.esp(),
            self.count(&Kind::Ike) + self.count(&Kind::Keepalive)
        );
        for leak in self.leaks() {
            text.push_str(", ");
            text.push_str(&leak);
        }
        text
    }

    /// Writes the first frames as a pcap file (microseconds, Ethernet).
    pub fn write_pcap(&self, path: &Path) -> Result<()> {
        let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
        let mut out = BufWriter::new(file);
        let mut words = |words: &[u32], bytes: &[u8]| -> std::io::Result<()> {
            for word in words {
                out.write_all(&word.to_ne_bytes())?;
            }
            out.write_all(bytes)
        };
        // Magic, version 2.4 as two halves, zone, accuracy, snapshot length, link type.
        let version = u32::from_ne_bytes({
            let (major, minor) = (2_u16.to_ne_bytes(), 4_u16.to_ne_bytes());
            [major[0], major[1], minor[0], minor[1]]
        });
        words(&[0xa1b2_c3d4, version, 0, 0, 1 << 17, 1], &[]).context("writing the pcap header")?;
        for (time, frame) in &self.frames {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            let seconds = u32::try_from(since.as_secs()).unwrap_or(u32::MAX);
            let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
            words(&[seconds, since.subsec_micros(), length, length], frame).context("writing a frame")?;
        }
        Ok(())
    }
}
