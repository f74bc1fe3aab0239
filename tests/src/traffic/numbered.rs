//! Numbered datagrams both ways between two hosts, paced: what became of each of them is known.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use crate::lab::namespace::Namespace;
use crate::lab::patience::{stretch, until};

/// Each begins with these: the stream's tag, then its own number, in network byte order.
const HEADER_BYTES: usize = 8;
/// The number of those by which the ends find each other.
const HELLO: u32 = u32::MAX;
/// Most numbers of one way: an hour at a high rate. What claims to be beyond is nobody's.
const NUMBERS_MAX: u32 = 1 << 24;
/// Shortest sleep: of what is due within it all is sent at once.
const TICK: Duration = Duration::from_millis(1);
/// A sender that was kept waiting for longer makes up for nothing: its burst would overflow queues.
const LATE_MAX: Duration = Duration::from_millis(10);
/// Until the ends have found each other.
const PATIENCE: Duration = Duration::from_secs(5);
/// What is under way when the senders end has arrived or is lost after this.
const SETTLE: Duration = Duration::from_millis(500);
/// How long a call waits before it looks whether it shall end.
const TURN: Duration = Duration::from_millis(20);
/// Tries to send one: an ICMP error that an earlier one has brought back is told in place of sending.
const TRIES: usize = 3;
/// A receiver that waits for its processor loses nothing.
const BUFFER_BYTES: usize = 32 << 20;
const LONGEST: usize = 1472;

/// How many, and of which size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Datagrams a second, each way.
    pub rate: u32,
    /// Bytes of UDP payload.
    pub bytes: usize,
}

/// A stream each way that runs.
#[derive(Debug)]
pub struct Numbered {
    stop: Arc<AtomicBool>,
    /// There, and back; taken by whoever stops it.
    ways: Vec<Way>,
}

#[derive(Debug)]
struct Way {
    arrived: Arc<AtomicU64>,
    sender: JoinHandle<()>,
    receiver: JoinHandle<Fate>,
}

/// What became of the datagrams of one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// Sent, also those that the host itself had no way for.
    pub sent: u64,
    /// Arrived, each counted once.
    pub arrived: u64,
    /// Arrived again.
    pub duplicated: u64,
    /// Arrived after one with a higher number.
    pub reordered: u64,
    /// Most that were lost one after the other.
    pub lost_in_a_row: u64,
    /// The longest time between two arrivals, or from the last one to the end if what was sent then is lost.
    pub longest_gap: Duration,
}

impl Fate {
    /// Sent and not arrived.
    pub fn lost(&self) -> u64 {
        self.sent - self.arrived
    }
}

impl std::fmt::Display for Fate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { sent, duplicated, reordered, lost_in_a_row, longest_gap, .. } = self;
        write!(
            f,
            "{} of {sent} lost ({lost_in_a_row} in a row), {duplicated} duplicated, {reordered} reordered, longest gap {:.1} ms",
            self.lost(),
            longest_gap.as_secs_f64() * 1e3
        )
    }
}

impl Numbered {
    /// Sends both ways from now on, between a port of one namespace and this address of the other. The near end says the
    /// first word, as the filter wants it.
    pub fn start(near: &Namespace, far: &Namespace, to: SocketAddr, pace: Pace) -> Result<Self> {
        ensure!((HEADER_BYTES..=LONGEST).contains(&pace.bytes) && pace.rate > 0, "no pace: {pace:?}");
        let any: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let (near, far) = (near.run(|| open((any, 0).into()))?, far.run(|| open(to))?);
        // Of the clock: what another stream has left on the way is not this one's.
        let tag = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos();
        near.connect(to).with_context(|| format!("the way to {to}"))?;
        introduce(&near, &far, tag)?;
        let stop = Arc::new(AtomicBool::new(false));
        let way = |from: &UdpSocket, to: &UdpSocket| -> Result<Way> {
            let (from, to) = (from.try_clone()?, to.try_clone()?);
            let (arrived, sent) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(u64::MAX)));
            let (count, all, stop) = (Arc::clone(&arrived), Arc::clone(&sent), Arc::clone(&stop));
            let sender = std::thread::spawn(move || send(&from, tag, pace, &stop, &sent));
            let receiver = std::thread::spawn(move || receive(&to, tag, &all, &count));
            Ok(Way { arrived, sender, receiver })
        };
        let ways = vec![way(&near, &far)?, way(&far, &near)?];
        Ok(Self { stop, ways })
    }

    /// How many have arrived so far, there and back.
    pub fn arrived(&self) -> [u64; 2] {
        [0, 1].map(|way: usize| self.ways.get(way).map_or(0, |way| way.arrived.load(Relaxed)))
    }

    /// Stops sending, waits for what is under way: the fate of those that went there, and of those that came back.
    pub fn stop(mut self) -> [Fate; 2] {
        self.stop.store(true, Relaxed);
        let mut fates = [Fate::default(); 2];
        for (fate, way) in fates.iter_mut().zip(std::mem::take(&mut self.ways)) {
            way.sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            *fate = way.receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        fates
    }
}

impl Drop for Numbered {
    fn drop(&mut self) {
        // Its threads end by themselves then.
        self.stop.store(true, Relaxed);
    }
}

fn open(at: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(at).with_context(|| format!("binding a UDP socket to {at}"))?;
    // A lab's are root's; the usual buffer serves where nobody is.
    let _ = setsockopt(&socket, sockopt::RcvBufForce, &BUFFER_BYTES);
    socket.set_read_timeout(Some(TURN))?;
    Ok(socket)
}

/// Has the far end know the near one, and shows that both ways are open.
fn introduce(near: &UdpSocket, far: &UdpSocket, tag: u32) -> Result<()> {
    let mut hello = [0; HEADER_BYTES];
    write_header(&mut hello, tag, HELLO);
    let mut buffer = [0; LONGEST];
    until(PATIENCE, "a first datagram there and back", || {
        // What is refused for now may pass later.
        let _ = near.send(&hello);
        while let Ok((length, from)) = far.recv_from(&mut buffer) {
            if number_in(buffer.get(..length).unwrap_or_default(), tag) == Some(HELLO) {
                far.connect(from)?;
                let _ = far.send(&hello);
                break;
            }
        }
        let heard = near
            .recv(&mut buffer)
            .is_ok_and(|length| number_in(buffer.get(..length).unwrap_or_default(), tag) == Some(HELLO));
        Ok(heard.then_some(()))
    })
    .map(drop)
}

fn write_header(datagram: &mut [u8], tag: u32, number: u32) {
    let header = tag.to_be_bytes().into_iter().chain(number.to_be_bytes());
    datagram.iter_mut().zip(header).for_each(|(to, from)| *to = from);
}

fn number_in(datagram: &[u8], tag: u32) -> Option<u32> {
    let (head, rest) = datagram.split_first_chunk::<4>()?;
    (u32::from_be_bytes(*head) == tag).then_some(())?;
    rest.first_chunk().map(|number| u32::from_be_bytes(*number))
}

fn send(socket: &UdpSocket, tag: u32, pace: Pace, stop: &AtomicBool, sent: &AtomicU64) {
    let interval = Duration::from_secs(1) / pace.rate;
    let mut datagram = vec![0x5e; pace.bytes];
    let mut due = Instant::now();
    let mut number = 0;
    while !stop.load(Relaxed) && number < NUMBERS_MAX {
        let now = Instant::now();
        if due + LATE_MAX < now {
            due = now;
        }
        while due <= now && number < NUMBERS_MAX {
            write_header(&mut datagram, tag, number);
            // One that cannot be sent at all is lost like any other.
            let _ = (0..TRIES).any(|_| socket.send(&datagram).is_ok());
            number += 1;
            due += interval;
        }
        std::thread::sleep(due.saturating_duration_since(Instant::now()).max(TICK));
    }
    sent.store(number.into(), Relaxed);
}

fn receive(socket: &UdpSocket, tag: u32, sent: &AtomicU64, arrived: &AtomicU64) -> Fate {
    let mut seen = Seen::default();
    let mut buffer = [0; LONGEST + 1];
    let mut ended: Option<Instant> = None;
    loop {
        // An error is that of a datagram that was sent, and its loss shows in the counts.
        if let Ok(length) = socket.recv(&mut buffer)
            && let Some(number) = number_in(buffer.get(..length).unwrap_or_default(), tag)
        {
            seen.take(number, Instant::now());
            arrived.store(seen.arrived, Relaxed);
        }
        let all = sent.load(Relaxed);
        if all == u64::MAX {
            continue;
        }
        let now = Instant::now();
        let ended = *ended.get_or_insert(now);
        if seen.arrived >= all || now > ended + SETTLE * stretch() {
            return seen.fate(all, ended);
        }
    }
}

/// What has arrived of one way.
#[derive(Debug, Default)]
struct Seen {
    numbers: Vec<bool>,
    arrived: u64,
    duplicated: u64,
    reordered: u64,
    last: Option<Instant>,
    longest_gap: Duration,
}

impl Seen {
    fn take(&mut self, number: u32, now: Instant) {
        // Also a hello that was repeated.
        if number >= NUMBERS_MAX {
            return;
        }
        let index = number as usize;
        let is_highest = index >= self.numbers.len();
        if is_highest {
            self.numbers.resize(index + 1, false);
        }
        let Some(place) = self.numbers.get_mut(index) else { return };
        if std::mem::replace(place, true) {
            self.duplicated += 1;
            return;
        }
        self.arrived += 1;
        self.reordered += u64::from(!is_highest);
        if let Some(last) = self.last.replace(now) {
            self.longest_gap = self.longest_gap.max(now - last);
        }
    }

    /// So many were sent, until then.
    fn fate(mut self, sent: u64, ended: Instant) -> Fate {
        let count = usize::try_from(sent).unwrap_or(usize::MAX);
        let is_last_lost = count > 0 && self.numbers.get(count - 1) != Some(&true);
        if is_last_lost && let Some(last) = self.last {
            self.longest_gap = self.longest_gap.max(ended.saturating_duration_since(last));
        }
        let missing = count.saturating_sub(self.numbers.len());
        let within = self.numbers.split(|arrived| *arrived).map(<[bool]>::len);
        let trailing = self.numbers.iter().rev().take_while(|arrived| !**arrived).count() + missing;
        let lost_in_a_row = within.chain([trailing]).max().unwrap_or_default() as u64;
        let Self { arrived, duplicated, reordered, longest_gap, .. } = self;
        Fate { sent, arrived, duplicated, reordered, lost_in_a_row, longest_gap }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fate of those that arrived in this order, a millisecond apart, of so many.
    fn fate(numbers: &[u32], sent: u64) -> Fate {
        let begun = Instant::now();
        let after = |millis: usize| begun + Duration::from_millis(millis as u64);
        let mut seen = Seen::default();
        numbers.iter().enumerate().for_each(|(index, number)| seen.take(*number, after(index)));
        seen.fate(sent, after(100))
    }

    #[test]
    fn each_is_lost_duplicated_reordered_or_simply_there() {
        let millis = Duration::from_millis;
        let all = fate(&[0, 1, 2, 3], 4);
        let plain = Fate { sent: 4, arrived: 4, longest_gap: millis(1), ..Fate::default() };
        assert_eq!((all, all.lost()), (plain, 0));
        assert_eq!(fate(&[0, 2, 1, 3], 4), Fate { reordered: 1, ..plain });
        assert_eq!(fate(&[0, 1, 1, 2, 3], 4).duplicated, 1);
        let holes = fate(&[0, 3, 4, 9], 10);
        assert_eq!((holes.lost(), holes.lost_in_a_row, holes.longest_gap), (6, 4, millis(1)));
        let cut_off = fate(&[0, 1], 10);
        assert_eq!((cut_off.lost(), cut_off.lost_in_a_row, cut_off.longest_gap), (8, 8, millis(99)));
        let late = fate(&[0, 5, 2], 10);
        assert_eq!((late.lost_in_a_row, late.reordered), (4, 1));
        let nothing = fate(&[], 10);
        assert_eq!((nothing.lost(), nothing.lost_in_a_row), (10, 10));
    }

    #[test]
    fn what_is_no_number_of_this_stream_counts_for_nothing() {
        assert_eq!(fate(&[HELLO, NUMBERS_MAX, 0], 1), Fate { sent: 1, arrived: 1, ..Fate::default() });
        let mut datagram = [0; 12];
        write_header(&mut datagram, 7, 9);
        assert_eq!([number_in(&datagram, 7), number_in(&datagram, 8)], [Some(9), None]);
        assert_eq!(number_in(&datagram[..7], 7), None);
    }

    #[test]
    fn a_stream_on_loopback_arrives_whole() {
        let [near, far] = [0, 1].map(|_| open((Ipv4Addr::LOCALHOST, 0).into()).expect("a socket"));
        near.connect(far.local_addr().expect("bound")).expect("connected");
        introduce(&near, &far, 5).expect("there and back");
        let (stop, sent, arrived) = (AtomicBool::new(false), AtomicU64::new(u64::MAX), AtomicU64::new(0));
        let pace = Pace { rate: 1000, bytes: 64 };
        let fate = std::thread::scope(|scope| {
            let receiver = scope.spawn(|| receive(&far, 5, &sent, &arrived));
            scope.spawn(|| send(&near, 5, pace, &stop, &sent));
            while arrived.load(Relaxed) < 20 {
                std::thread::sleep(TICK);
            }
            stop.store(true, Relaxed);
            receiver.join().expect("no panic")
        });
        assert!(fate.sent >= 20 && fate.lost() == 0 && fate.duplicated == 0, "{fate}");
    }
}
