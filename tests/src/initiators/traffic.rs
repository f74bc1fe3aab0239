//! Traffic of every initiator with the server, both ways at once, which goes on while IKE does: so many questions are under
//! way at any time, and each is answered, or lost.

use std::collections::{HashMap, VecDeque};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::echo::{ECHO, Heard, Question, Way, heard};
use super::plan;
use super::sas::Refused;
use crate::lab::Lab;
use crate::lab::patience::stretch;
use crate::lab::plan::{Family, Place};

/// How long an answer may take before its question counts as lost.
const PATIENCE: Duration = Duration::from_secs(3);
/// UDP port that the server asks from: always the same one, so that it is the same flow again.
const ASKING: u16 = 4007;
/// What is told of that nobody waits for: the first few say what is wrong.
const STRAYS_TOLD: usize = 5;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Questions {
    /// Whose hosts take part.
    pub initiators: Range<u32>,
    /// Under way at any time, both ways together.
    pub at_once: usize,
    /// Bytes of ICMP and UDP payload.
    pub bytes: usize,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exchanged {
    /// Questions that were answered, of all ways and initiators.
    pub answered: u64,
    /// Questions without an answer in time.
    pub lost: u64,
    /// The fewest answers that any initiator has had by either way.
    pub fewest: u64,
    /// Packets that nobody waited for: an answer for the second time, a packet of another's, one that does not open.
    pub strays: u64,
    /// The first of them, in words.
    pub told: Vec<String>,
    /// How long it went on, its end not included.
    pub time: Duration,
}

/// Traffic that goes on.
#[derive(Debug)]
pub(super) struct Traffic {
    questions: Questions,
    server: Arc<UdpSocket>,
    begun: Instant,
    /// When no more was asked, if nothing is.
    ended: Option<Instant>,
    next: u64,
    waiting: HashMap<Question, Instant>,
    /// By age; those that are answered are not taken out.
    by_age: VecDeque<(Instant, Question)>,
    answered: HashMap<(Way, u32), u64>,
    found: Exchanged,
}

/// A packet of an initiator's host, to be sealed.
pub(super) type Inner = (u32, Vec<u8>);

impl Traffic {
    /// None is asked yet; the first will have this number.
    pub(super) fn start(lab: &Lab, questions: Questions, first: u64) -> Result<Self> {
        ensure!(!questions.initiators.is_empty(), "nobody takes part");
        let at = Place::Server.socket(Family::V4, ASKING);
        let server = lab.at(Place::Server).run(|| {
            let socket = UdpSocket::bind(at).context("the server's socket")?;
            socket.set_nonblocking(true).context("the server's socket")?;
            Ok(Arc::new(socket))
        })?;
        Ok(Self {
            questions,
            server,
            begun: Instant::now(),
            ended: None,
            next: first,
            waiting: HashMap::new(),
            by_age: VecDeque::new(),
            answered: HashMap::new(),
            found: Exchanged::default(),
        })
    }

    /// What becomes readable when the server is answered.
    pub(super) fn server(&self) -> Arc<UdpSocket> {
        self.server.clone()
    }

    /// Number of the next question.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// No more is asked from now on.
    pub(super) fn end(&mut self) {
        self.ended.get_or_insert_with(Instant::now);
    }

    /// Whether everything is answered, or lost.
    pub(super) fn is_over(&self) -> bool {
        self.ended.is_some() && self.waiting.is_empty()
    }

    /// Asks until enough is under way; the server by itself, hosts behind initiators by `send`.
    pub(super) fn ask(&mut self, send: &mut Vec<Inner>) -> Result<()> {
        let now = Instant::now();
        self.give_up(now);
        while self.ended.is_none() && self.waiting.len() < self.questions.at_once {
            // Each initiator in turn, one way and then the other.
            let Range { start, end } = self.questions.initiators;
            let turn = (self.next / 2 % u64::from(end - start)) as u32;
            let way = if self.next.is_multiple_of(2) { Way::There } else { Way::Back };
            let question = Question { way, initiator: start + turn, number: self.next };
            self.next += 1;
            match way {
                Way::There => send.push((question.initiator, question.ping(self.questions.bytes)?)),
                Way::Back => {
                    let to = SocketAddrV4::new(plan::host(question.initiator), ECHO);
                    match self.server.send_to(&question.payload(self.questions.bytes), to) {
                        Ok(_) => {}
                        // It is lost, as it would be on the way.
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error).with_context(|| format!("asking {to}")),
                    }
                }
            }
            self.waiting.insert(question, now);
            self.by_age.push_back((now, question));
        }
        Ok(())
    }

    /// Counts as lost what has waited too long.
    fn give_up(&mut self, now: Instant) {
        let patience = PATIENCE * stretch();
        while let Some(&(asked, question)) = self.by_age.front() {
            if self.waiting.contains_key(&question) && now.duration_since(asked) < patience {
                return;
            }
            self.by_age.pop_front();
            if self.waiting.remove(&question).is_some() {
                self.found.lost += 1;
            }
        }
    }

    /// An initiator has decrypted something: what its host does with it.
    pub(super) fn hear(&mut self, initiator: u32, packet: &[u8], send: &mut Vec<Inner>) {
        match heard(initiator, packet) {
            Some(Heard::Answer(question)) => self.answer(question),
            Some(Heard::Asked(_, answer)) => send.push((initiator, answer)),
            None => self.stray(format_args!("behind c{initiator}: a packet for nobody there")),
        }
    }

    /// A packet of this initiator's SA came from or to elsewhere.
    pub(super) fn misdelivered(&mut self, initiator: u32, [from, to]: [Ipv4Addr; 2]) {
        self.stray(format_args!("ESP of c{initiator}, from {from} to {to}"));
    }

    /// Something came that is no packet of an SA.
    pub(super) fn refused(&mut self, why: Refused) {
        self.stray(why);
    }

    /// Takes in what the server is answered.
    pub(super) fn read_answers(&mut self) -> Result<()> {
        let mut buffer = [0; 2048];
        loop {
            let (length, from) = match self.server.recv_from(&mut buffer) {
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("the server's answers"),
            };
            let question = Question::read(buffer.get(..length).unwrap_or_default());
            let by = |question: &Question| SocketAddr::from((plan::host(question.initiator), ECHO));
            match question.filter(|question| question.way == Way::Back && by(question) == from) {
                Some(question) => self.answer(question),
                None => self.stray(format_args!("at the server: a packet of {from}")),
            }
        }
    }

    fn answer(&mut self, question: Question) {
        if self.waiting.remove(&question).is_some() {
            self.found.answered += 1;
            *self.answered.entry((question.way, question.initiator)).or_default() += 1;
        } else {
            self.stray(format_args!("{question:?} is answered again, or too late"));
        }
    }

    fn stray(&mut self, what: impl std::fmt::Display) {
        self.found.strays += 1;
        if self.found.told.len() < STRAYS_TOLD {
            self.found.told.push(what.to_string());
        }
    }

    /// What was found until now.
    pub(super) fn found(&self) -> Exchanged {
        let of = |way, initiator| self.answered.get(&(way, initiator)).copied().unwrap_or_default();
        let all = self.questions.initiators.clone().flat_map(|number| Way::BOTH.map(|way| of(way, number)));
        let end = self.ended.unwrap_or_else(Instant::now);
        Exchanged {
            fewest: all.min().unwrap_or_default(),
            time: end.duration_since(self.begun),
            ..self.found.clone()
        }
    }
}
