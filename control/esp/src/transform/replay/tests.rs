use std::collections::BTreeSet;
use std::sync::atomic::AtomicU32;
use std::thread;

use proptest::prelude::*;

use super::*;

const WORD_BITS: u64 = 64;

/// The window of a single reader, as RFC 6479 has it: a ring of 64-bit words that are cleared as the window enters them. A
/// second reading of the RFC to hold the shared one against.
struct Serial {
    extended: bool,
    /// Packets the window spans; 0: numbers are not checked.
    size: u64,
    /// The highest authentic number; 0 before the first.
    top: u64,
    /// One bit per number; the count of words is a power of two and spans at least one word more than the window, so
    /// that the word being entered never holds a bit that still counts.
    seen: Box<[u64]>,
}

impl Serial {
    /// A window of `size` packets (0: none, every number passes).
    fn new(size: u32, extended: bool) -> Self {
        let size = u64::from(size.min(WINDOW_MAX));
        let words = if size == 0 { 0 } else { (size.div_ceil(WORD_BITS) + 1).next_power_of_two() };
        Self { extended, size, top: 0, seen: (0..words).map(|_| 0).collect() }
    }

    /// Infers the whole number from the 32 bits in the packet, and refuses it if it was seen or is too old.
    fn check(&self, low: u32) -> Result<Sequence, ReplayError> {
        let number = self.infer(low)?;
        // RFC 4303 section 2.2: the first packet has number 1, and numbers never cycle back to 0.
        if number == 0 {
            return Err(ReplayError::TooOld);
        }
        if self.size != 0 && number <= self.top {
            if self.top - number >= self.size {
                return Err(ReplayError::TooOld);
            }
            let (word, bit) = self.place(number);
            if self.seen.get(word).is_none_or(|word| word & bit != 0) {
                return Err(ReplayError::Replayed);
            }
        }
        Ok(Sequence { number, extended: self.extended })
    }

    /// Marks an authentic packet as seen; returns whether it is the newest so far.
    fn commit(&mut self, sequence: Sequence) -> bool {
        let number = sequence.number;
        let newest = number > self.top;
        if self.size == 0 {
            self.top = self.top.max(number);
            return newest;
        }
        if newest {
            let entered = number / WORD_BITS - self.top / WORD_BITS;
            for step in 1..=entered.min(self.seen.len() as u64) {
                let (word, _) = self.place(self.top.wrapping_add(step * WORD_BITS));
                if let Some(word) = self.seen.get_mut(word) {
                    *word = 0;
                }
            }
            self.top = number;
        }
        let (word, bit) = self.place(number);
        if let Some(word) = self.seen.get_mut(word) {
            *word |= bit;
        }
        newest
    }

    /// Index of the word, and the bit in it.
    fn place(&self, number: u64) -> (usize, u64) {
        // The count of words is a power of two and small.
        let mask = (self.seen.len() as u64).wrapping_sub(1);
        (((number / WORD_BITS) & mask) as usize, 1 << (number % WORD_BITS))
    }

    /// RFC 4303 appendix A2.1: the high half is the one that puts the number nearest to the window.
    fn infer(&self, low: u32) -> Result<u64, ReplayError> {
        if !self.extended {
            return Ok(u64::from(low));
        }
        let window = if self.size == 0 { INFERENCE_WINDOW } else { self.size };
        let (top_high, top_low) = (self.top >> 32, self.top & 0xffff_ffff);
        let low = u64::from(low);
        let high = if top_low >= window - 1 {
            // Case A: the window lies within one subspace.
            if low + window > top_low { Some(top_high) } else { top_high.checked_add(1) }
        } else {
            // Case B: it spans two.
            let bottom = (top_low + (1 << 32)) - (window - 1);
            if low >= bottom { top_high.checked_sub(1) } else { Some(top_high) }
        };
        match high {
            Some(high @ 0..=0xffff_ffff) => Ok(high << 32 | low),
            _ => Err(ReplayError::TooOld),
        }
    }
}

/// The window as the RFC describes it, with a set instead of a bitmap.
struct Model {
    size: u64,
    top: u64,
    seen: BTreeSet<u64>,
}

impl Model {
    fn receive(&mut self, number: u64) -> bool {
        let old = number == 0 || number + self.size <= self.top;
        if old || self.seen.contains(&number) {
            return false;
        }
        self.seen.insert(number);
        self.top = self.top.max(number);
        true
    }
}

fn receive(window: &ReplayWindow, low: u32) -> Result<u64, ReplayError> {
    let sequence = window.check(low)?;
    window.commit(sequence)?;
    Ok(sequence.number)
}

#[test]
fn a_number_passes_once_and_zero_never() {
    let window = ReplayWindow::new(64, false);
    assert_eq!(receive(&window, 0), Err(ReplayError::TooOld));
    assert_eq!(receive(&window, 1), Ok(1));
    assert_eq!(receive(&window, 1), Err(ReplayError::Replayed));
    assert_eq!(receive(&window, 64), Ok(64));
    assert_eq!(receive(&window, 2), Ok(2));
    assert_eq!(receive(&window, 65), Ok(65));
    assert_eq!(receive(&window, 1), Err(ReplayError::TooOld));
    assert_eq!(receive(&window, u32::MAX), Ok(0xffff_ffff));
    assert_eq!(receive(&window, u32::MAX), Err(ReplayError::Replayed));
}

#[test]
fn a_check_alone_changes_nothing() {
    let window = ReplayWindow::new(1024, false);
    for _ in 0..3 {
        assert!(window.check(1_000_000).is_ok());
    }
    assert_eq!(window.top(), 0);
    assert_eq!(receive(&window, 5), Ok(5));
}

#[test]
fn without_a_window_everything_but_zero_passes() {
    let window = ReplayWindow::new(0, false);
    assert_eq!(receive(&window, 9), Ok(9));
    assert_eq!(receive(&window, 9), Ok(9));
    assert_eq!(receive(&window, 0), Err(ReplayError::TooOld));
}

#[test]
fn extended_numbers_wrap_into_the_next_subspace_and_late_ones_stay_behind() {
    for size in [0, 64, 1024] {
        let window = ReplayWindow::new(size, true);
        assert_eq!(receive(&window, 1), Ok(1));
        // Big steps within the first subspace; one of nearly 2^32 would be taken for a late packet.
        assert_eq!(receive(&window, 0x7fff_ffff), Ok(0x7fff_ffff));
        assert_eq!(receive(&window, 0xffff_fff0), Ok(0xffff_fff0));
        assert_eq!(receive(&window, 3), Ok(1 << 32 | 3));
        assert_eq!(receive(&window, 0xffff_fff1), Ok(0xffff_fff1));
        assert_eq!(receive(&window, 4), Ok(1 << 32 | 4));
    }
}

#[test]
fn extended_numbers_end_where_they_end() {
    let window = ReplayWindow::new(64, true);
    window.commit(Sequence { number: u64::MAX, extended: true }).unwrap();
    assert_eq!(window.check(u32::MAX), Err(ReplayError::Replayed));
    assert_eq!(window.check(5), Err(ReplayError::TooOld));
    // Before the first subspace there is none.
    assert_eq!(ReplayWindow::new(64, true).check(u32::MAX), Err(ReplayError::TooOld));
}

/// How often each number is accepted when several workers offer all of them, each in an order of its own.
fn accepted_by_workers(window: &ReplayWindow, numbers: u32) -> Vec<u32> {
    const WORKERS: u32 = 4;
    // Coprime to the reach, so that every number of a stretch has its turn.
    const STRIDES: [u32; WORKERS as usize] = [1, 7, 11, 13];
    const REACH: u32 = 32;
    let accepted: Vec<AtomicU32> = (0..=numbers).map(|_| AtomicU32::new(0)).collect();
    thread::scope(|scope| {
        for stride in STRIDES {
            let accepted = &accepted;
            scope.spawn(move || {
                for stretch in 0..numbers / REACH {
                    for step in 0..REACH {
                        let number = stretch * REACH + step * stride % REACH + 1;
                        if receive(window, number).is_ok() {
                            accepted[number as usize].fetch_add(1, Relaxed);
                        }
                    }
                }
            });
        }
    });
    accepted.into_iter().skip(1).map(AtomicU32::into_inner).collect()
}

#[test]
fn of_several_workers_exactly_one_gets_a_number() {
    for extended in [false, true] {
        // All of them fit the window, so none is ever too old.
        let window = ReplayWindow::new(WINDOW_MAX, extended);
        let counts = accepted_by_workers(&window, WINDOW_MAX - 32);
        assert!(counts.iter().all(|count| *count == 1));
        assert_eq!(window.top(), counts.len() as u64);
    }
}

#[test]
fn a_sliding_window_gives_no_number_to_two_workers() {
    for size in [1, 33, 64, 1024] {
        let window = ReplayWindow::new(size, false);
        let counts = accepted_by_workers(&window, 1 << 17);
        assert!(counts.iter().all(|count| *count <= 1), "window of {size}");
        // Who was first at the newest number has it.
        assert_eq!((window.top(), counts.last()), (1 << 17, Some(&1)));
    }
}

#[test]
fn who_commits_second_is_refused() {
    let window = ReplayWindow::new(64, false);
    let [first, second] = [window.check(9).unwrap(), window.check(9).unwrap()];
    assert_eq!(window.commit(first), Ok(true));
    assert_eq!(window.commit(second), Err(ReplayError::Replayed));
    let late = window.check(10).unwrap();
    assert_eq!(window.commit(Sequence { number: 100_000, extended: false }), Ok(true));
    // Its word may stand for a later block by now; a number that others have passed is not the newest in any case.
    assert_ne!(window.commit(late), Ok(true));
}

proptest! {
    #[test]
    fn it_agrees_with_the_model(
        size in 1u32..3000,
        steps in proptest::collection::vec((any::<bool>(), 0u64..5000), 1..400),
    ) {
        let window = ReplayWindow::new(size, false);
        let mut model = Model { size: u64::from(size), top: 0, seen: BTreeSet::new() };
        for (forward, distance) in steps {
            let number = if forward { model.top + distance } else { model.top.saturating_sub(distance) };
            let passed = receive(&window, number as u32).is_ok();
            prop_assert_eq!(passed, model.receive(number), "number {} top {}", number, model.top);
        }
    }

    /// The sender's number is always inferred from its low half while it is less than 2^31 ahead and within
    /// the window behind.
    #[test]
    fn inference_finds_the_senders_number(
        size in 1u32..3000,
        start in 1u64..1 << 40,
        steps in proptest::collection::vec((any::<bool>(), 0u64..1 << 31), 1..50),
    ) {
        let window = ReplayWindow::new(size, true);
        window.commit(Sequence { number: start, extended: true }).unwrap();
        let mut model = Model { size: u64::from(size), top: start, seen: BTreeSet::from([start]) };
        for (forward, distance) in steps {
            let number = if forward {
                model.top + distance
            } else {
                model.top.saturating_sub(distance % u64::from(size))
            };
            match window.check(number as u32) {
                Ok(sequence) => {
                    prop_assert_eq!(sequence.number, number);
                    prop_assert!(model.receive(number));
                    window.commit(sequence).unwrap();
                }
                Err(_) => prop_assert!(!model.receive(number)),
            }
        }
    }

    /// Whatever arrives, both windows say the same of it.
    #[test]
    fn it_agrees_with_the_window_of_a_single_reader(
        size in prop_oneof![Just(0u32), 1u32..200, 200u32..70_000],
        extended: bool,
        begin in prop_oneof![Just(0u64), any::<u64>()],
        steps in proptest::collection::vec((0u8..4, any::<u32>()), 1..600),
    ) {
        let (window, mut serial) = (ReplayWindow::new(size, extended), Serial::new(size, extended));
        let begin = if extended { begin } else { begin & 0xffff_ffff };
        if begin > 0 {
            let sequence = Sequence { number: begin, extended };
            prop_assert_eq!(window.commit(sequence), Ok(serial.commit(sequence)));
        }
        for (kind, distance) in steps {
            let top = serial.top as u32;
            let low = match kind {
                0 => top.wrapping_add(distance % 100),
                1 => top.wrapping_sub(distance % 300),
                2 => top.wrapping_sub(distance % 70_000),
                _ => distance,
            };
            let verdict = serial.check(low);
            prop_assert_eq!(window.check(low), verdict, "low {} top {}", low, serial.top);
            if let Ok(sequence) = verdict {
                prop_assert_eq!(window.commit(sequence), Ok(serial.commit(sequence)));
            }
            prop_assert_eq!(window.top(), serial.top);
        }
    }
}
