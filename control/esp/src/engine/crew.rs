//! The workers as the control plane sees them: one line to each, and one order in which all of them hear of everything.
//!
//! Each worker has a table of SAs of its own, and all of these say the same, for they get the same commands in the same order.
//! What one refuses all refuse, but for what goes by the clock or by the kernel: there the others take back what they did.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::command::{Change, Command, Request};
use super::config::Reassembled;
use super::counters::{DropCells, DropReason};
use crate::sa::SaError;

/// Packets that came in fragments and wait for a worker: few do, and what is too many is lost as on any line.
const REASSEMBLED_MAX: usize = 256;
/// How long all workers together may take to answer: they answer within a batch, unless a thread is starved or dead.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// All workers.
#[derive(Debug)]
pub(crate) struct Crew {
    hands: Vec<Hand>,
    /// How long their answers are waited for.
    patience: Duration,
    /// Held by whoever gives orders.
    order: Mutex<()>,
}

/// The line to one worker.
#[derive(Debug)]
pub(crate) struct Hand {
    requests: Sender<Request>,
    reassembled: SyncSender<Reassembled>,
    /// Those that were too many. The other counters are the worker's own.
    unheard: AtomicU64,
    wake: Arc<OwnedFd>,
    drops: Arc<DropCells>,
    thread: Option<JoinHandle<()>>,
}

/// The worker's end of it.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) requests: Receiver<Request>,
    pub(crate) reassembled: Receiver<Reassembled>,
    pub(crate) wake: Arc<OwnedFd>,
    pub(crate) drops: Arc<DropCells>,
}

/// The right to command, for as long as it is held.
pub(crate) struct Orders<'a> {
    hands: &'a [Hand],
    patience: Duration,
    _alone: MutexGuard<'a, ()>,
}

impl Crew {
    pub(crate) fn new(hands: Vec<Hand>) -> Self {
        Self { hands, patience: ANSWER_MAX, order: Mutex::default() }
    }

    pub(crate) fn size(&self) -> usize {
        self.hands.len()
    }

    pub(crate) fn orders(&self) -> Orders<'_> {
        let alone = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        Orders { hands: &self.hands, patience: self.patience, _alone: alone }
    }

    /// Whether every worker's thread lives.
    pub(crate) fn is_running(&self) -> bool {
        self.hands.iter().all(|hand| hand.thread.as_ref().is_some_and(|thread| !thread.is_finished()))
    }

    /// Hands a packet to the worker of its SA: always the same one, which keeps the order.
    pub(crate) fn take_reassembled(&self, packet: Reassembled) {
        let spi = packet.esp.first_chunk().map_or(0, |spi| u32::from_be_bytes(*spi));
        // SPIs are chosen at random.
        let turn = spi as usize % self.hands.len().max(1);
        let Some(hand) = self.hands.get(turn) else { return };
        match hand.reassembled.try_send(packet) {
            // A worker that cannot be woken looks by itself within a second.
            Ok(()) => drop(hand.wake()),
            Err(_) => drop(hand.unheard.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// Frames dropped by all of them, by reason.
    pub(crate) fn drops(&self) -> Vec<(DropReason, u64)> {
        let all = self.hands.iter().flat_map(|hand| {
            let unheard = (DropReason::RingFull, hand.unheard.load(Ordering::Relaxed));
            hand.drops.snapshot().into_iter().chain([unheard])
        });
        let mut sums: Vec<_> = DropReason::ALL.iter().map(|reason| (*reason, 0)).collect();
        for (reason, count) in all {
            if let Some((_, sum)) = sums.get_mut(reason as usize) {
                *sum += count;
            }
        }
        sums
    }
}

impl Orders<'_> {
    /// Has every worker do something, by its number, and waits until all have. The first refusal is returned.
    pub(crate) fn all(&self, command: impl FnMut(usize) -> Command) -> Result<(), SaError> {
        first_refusal(self.answers(command))
    }

    /// The same; where one refuses or does not answer, all but those that refused `undo` it: who has not answered yet may do it
    /// later, and has then been asked to undo it as well.
    pub(crate) fn all_or_none(
        &self,
        command: impl FnMut(usize) -> Command,
        undo: impl Fn() -> Change,
    ) -> Result<(), SaError> {
        let answers = self.answers(command);
        if !answers.iter().all(|answer| matches!(answer, Ok(Ok(())))) {
            let all = self.hands.iter().zip(&answers);
            let asked = all
                .filter(|(_, answer)| !matches!(answer, Ok(Err(_))))
                .map(|(hand, _)| hand.ask(Command::Change(undo())));
            // What has stopped meanwhile has forgotten it as well.
            self.wait_for(asked.collect());
        }
        first_refusal(answers)
    }

    fn answers(&self, mut command: impl FnMut(usize) -> Command) -> Vec<Answered> {
        self.wait_for(self.hands.iter().enumerate().map(|(worker, hand)| hand.ask(command(worker))).collect())
    }

    /// All were asked before the first answer is waited for, and there is one deadline for all answers.
    fn wait_for(&self, asked: Vec<Result<Answer, SaError>>) -> Vec<Answered> {
        let deadline = Instant::now() + self.patience;
        let left = || deadline.saturating_duration_since(Instant::now());
        let wait = |answer: Answer| answer.recv_timeout(left()).map_err(|_| SaError::Stopped);
        asked.into_iter().map(|asked| asked.and_then(wait)).collect()
    }
}

type Answer = Receiver<Result<(), SaError>>;
/// What a worker said, or why it did not.
type Answered = Result<Result<(), SaError>, SaError>;

fn first_refusal(answers: Vec<Answered>) -> Result<(), SaError> {
    answers.into_iter().try_for_each(|answer| answer?)
}

impl Hand {
    /// A line with both of its ends.
    pub(crate) fn new() -> io::Result<(Hand, Desk)> {
        let (requests, asked) = mpsc::channel();
        let (reassembled, packets) = mpsc::sync_channel(REASSEMBLED_MAX);
        let wake = Arc::new(eventfd()?);
        let drops = Arc::<DropCells>::default();
        let desk = Desk { requests: asked, reassembled: packets, wake: wake.clone(), drops: drops.clone() };
        Ok((Hand { requests, reassembled, unheard: AtomicU64::new(0), wake, drops, thread: None }, desk))
    }

    /// The thread that works at the other end.
    pub(crate) fn works(&mut self, thread: JoinHandle<()>) {
        self.thread = Some(thread);
    }

    fn ask(&self, command: Command) -> Result<Answer, SaError> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.requests.send(Request { command, answer }).map_err(|_| SaError::Stopped)?;
        self.wake()?;
        Ok(answered)
    }

    fn wake(&self) -> Result<(), SaError> {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the buffer is eight bytes long and outlives the call.
        let written = unsafe { libc::write(self.wake.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        let error = io::Error::last_os_error();
        // A counter that is full wakes the worker just as well.
        if written < 0 && error.kind() != io::ErrorKind::WouldBlock {
            return Err(SaError::Io { context: "waking a thread of the engine".into(), source: error });
        }
        Ok(())
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        if matches!(self.ask(Command::Stop), Err(SaError::Io { .. })) {
            tracing::error!("a thread of the engine cannot be woken to stop");
        }
        if thread.join().is_err() {
            tracing::error!("a thread of the engine had panicked");
        }
    }
}

impl Desk {
    /// Takes note of having been woken.
    pub(crate) fn acknowledge(&self) {
        let mut count = [0u8; 8];
        // SAFETY: the buffer is eight bytes long and outlives the call; the eventfd does not block.
        let read = unsafe { libc::read(self.wake.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
        if read < 0 && io::Error::last_os_error().kind() != io::ErrorKind::WouldBlock {
            tracing::warn!("an eventfd of the engine cannot be read");
        }
    }
}

fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: plain system call.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor the kernel has just given to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::pair::Pair;
    use super::super::table::{Table, Turn};
    use super::*;
    use crate::sa::{Keys, Lifetimes, Outer, SaPair, Transform};
    use crate::transform::inner::tests::selector;

    const ALONE: Turn = Turn { worker: 0, workers: 1 };

    /// A worker without sockets: it changes its table, and hears packets in the end.
    fn work(desk: &Desk, table: &mut Table) -> Vec<u8> {
        while let Ok(Request { command: Command::Change(change), answer }) = desk.requests.recv() {
            let _ = answer.send(change.carry_out(table, Instant::now()));
        }
        desk.reassembled.try_iter().filter_map(|packet| packet.esp.last().copied()).collect()
    }

    fn pair(spi_in: u32) -> Box<Pair> {
        let keys = Keys { encryption: vec![7; 20].into(), integrity: Vec::new().into() };
        let outer = Outer {
            local: "192.0.2.1:500".parse().unwrap(),
            remote: "192.0.2.2:500".parse().unwrap(),
            udp_encapsulation: false,
        };
        let any = vec![selector("0.0.0.0", "255.255.255.255", 0, 0..=65535)];
        Pair::new(SaPair {
            port: 7,
            name: "a".into(),
            resource: None,
            spi_in,
            spi_out: 0x2000,
            transform: Transform::Aes128Gcm16,
            keys_in: keys.clone(),
            keys_out: keys,
            esn: false,
            replay_window: 64,
            outer,
            local: any.clone(),
            remote: any,
            lifetimes: Lifetimes::default(),
        })
        .unwrap()
    }

    /// Does something with three such workers, whose tables hold these SPIs at first; returns what they hold in the end, and
    /// what they heard.
    fn with_workers(first: [&[u32]; 3], work_with: impl FnOnce(&Crew)) -> (Vec<Table>, Vec<Vec<u8>>) {
        let (mut hands, mut desks) = (Vec::new(), Vec::new());
        for spis in first {
            let (hand, desk) = Hand::new().unwrap();
            let mut table = Table::new(Vec::new(), ALONE);
            spis.iter().for_each(|spi| table.install(pair(*spi)).unwrap());
            hands.push(hand);
            desks.push((desk, table));
        }
        let crew = Crew::new(hands);
        thread::scope(|scope| {
            let threads: Vec<_> = desks
                .into_iter()
                .map(|(desk, mut table)| scope.spawn(move || (work(&desk, &mut table), table)))
                .collect();
            work_with(&crew);
            drop(crew);
            threads
                .into_iter()
                .map(|thread| {
                    let (heard, table) = thread.join().unwrap();
                    (table, heard)
                })
                .unzip()
        })
    }

    fn install(orders: &Orders<'_>, spi_in: u32) -> Result<(), SaError> {
        orders.all_or_none(
            |_| Command::Change(Change::Install { pair: pair(spi_in) }),
            || Change::Remove { spi_in, linger: Duration::ZERO },
        )
    }

    #[test]
    fn what_one_refuses_the_others_take_back() {
        // In one table an SA with this SPI lingers yet.
        let (mut tables, _) = with_workers([&[], &[0x1000], &[]], |crew| {
            let orders = crew.orders();
            assert!(matches!(install(&orders, 0x1000), Err(SaError::Exists(0x1000))));
            install(&orders, 0x1001).unwrap();
        });
        let holds = |table: &mut Table, spi| table.inbound(spi).is_some();
        let held: Vec<_> =
            tables.iter_mut().map(|table| (holds(table, 0x1000), holds(table, 0x1001))).collect();
        assert_eq!(held, [(false, true), (true, true), (false, true)]);
    }

    #[test]
    fn what_one_does_too_late_is_taken_back_as_well() {
        let ((first, desk), (second, late)) = (Hand::new().unwrap(), Hand::new().unwrap());
        let mut crew = Crew::new(vec![first, second]);
        crew.patience = Duration::from_millis(20);
        let mut tables = [(); 2].map(|()| Table::new(Vec::new(), ALONE));
        thread::scope(|scope| {
            let [first, second] = &mut tables;
            scope.spawn(move || work(&desk, first));
            assert!(matches!(install(&crew.orders(), 0x1000), Err(SaError::Stopped)));
            drop(crew);
            // What it was asked for is all there still.
            work(&late, second);
        });
        assert!(tables.iter_mut().all(|table| table.inbound(0x1000).is_none()));
    }

    #[test]
    fn without_one_of_them_nothing_is_in_force() {
        let (hand, desk) = Hand::new().unwrap();
        drop(desk);
        let crew = Crew::new(vec![hand]);
        assert!(matches!(install(&crew.orders(), 0x1000), Err(SaError::Stopped)));
        assert!(!crew.is_running());
    }

    #[test]
    fn packets_of_one_sa_go_to_one_worker_in_their_order() {
        let (_, mut heard) = with_workers([&[]; 3], |crew| {
            for number in 0..60 {
                let [source, destination] = ["192.0.2.2:0", "192.0.2.1:0"].map(|text| text.parse().unwrap());
                let esp = vec![0, 0, 16, number % 3, number];
                crew.take_reassembled(Reassembled { source, destination, ecn: 0, esp });
            }
        });
        heard.sort();
        let of_sa = |sa: u8| (0..60).filter(|number| number % 3 == sa).collect::<Vec<u8>>();
        assert_eq!(heard, [of_sa(0), of_sa(1), of_sa(2)]);
    }
}
