//! Random schedules: whatever both sides do and whatever the network does, once it is quiet both hold the same, with the
//! same keys, and what was used is given back. That no message ID is used twice is checked all along, by `ids.rs`.
//!
//! A schedule follows from its seed alone. `SEKISHO_SCHEDULE=<seed>` runs one again, `SEKISHO_SCHEDULES=<count>` runs so
//! many.

use std::time::Duration;

use sekisho_ike::crypto::random::{Random, SeededRandom};

use crate::pair::{Pair, Side};
use crate::setup::{child, seeded_pair};

/// Schedules of an ordinary run: a few seconds.
const SCHEDULES: u64 = 400;
/// Steps of one schedule at most.
const STEPS: u64 = 30;
/// Longer than a dead peer is waited for, a lost IKE SA is noticed, and what is over is kept.
const QUIET: Duration = Duration::from_secs(600);

#[derive(Clone, Debug)]
enum Step {
    Up(Side),
    Down(Side),
    RekeyIke(Side),
    RekeyChild(Side, usize),
    Reauthenticate(Side),
    FailChild(Side, usize),
    Crash(Side),
    /// Nothing passes from now on.
    Partition,
    Loss(u32),
    /// The NAT forgets its mappings.
    Rebind,
    Wait(u64),
}

/// What the dice say.
struct Dice(SeededRandom);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0.next_u64() % limit
    }

    fn one_of<const N: usize, T: Copy>(&mut self, all: [T; N]) -> T {
        let at = usize::try_from(self.below(N as u64)).expect("small");
        all[at]
    }

    fn step(&mut self) -> Step {
        let side = self.one_of([Side::A, Side::B]);
        let which = usize::try_from(self.below(4)).expect("small");
        match self.below(26) {
            0 | 1 => Step::Up(side),
            2 => Step::Down(side),
            3..=5 => Step::RekeyIke(side),
            6..=9 => Step::RekeyChild(side, which),
            10 | 11 => Step::Reauthenticate(side),
            12 => Step::FailChild(side, which),
            13 => Step::Crash(side),
            14 => Step::Partition,
            15 | 16 => Step::Loss(self.one_of([0, 0, 10, 40])),
            17 => Step::Rebind,
            _ => Step::Wait(match self.below(4) {
                0 => self.one_of([700, 3_000, 40_000, 150_000]),
                _ => self.below(80),
            }),
        }
    }
}

fn take(pair: &mut Pair, step: &Step) {
    match *step {
        // From behind the NAT only: nobody reaches A unasked.
        Step::Up(side) if pair.nat.is_none() || side == Side::A => {
            pair.initiate(side);
        }
        Step::Up(_) => {}
        Step::Down(side) => pair.act(side, |endpoint, now| endpoint.close_all(now)),
        Step::RekeyIke(side) => {
            if let Some(ike) = pair.node(side).established.last().copied() {
                pair.act(side, |endpoint, now| endpoint.rekey_ike(now, ike)).expect("established");
            }
        }
        Step::RekeyChild(side, which) => {
            if let Some(child) = pair.node(side).children.keys().copied().nth(which) {
                pair.act(side, |endpoint, now| endpoint.rekey_child(now, child)).expect("installed");
            }
        }
        Step::Reauthenticate(side) if pair.nat.is_none() || side == Side::A => {
            if let Some(ike) = pair.node(side).established.first().copied() {
                pair.act(side, |endpoint, now| endpoint.reauthenticate(now, ike)).expect("established");
            }
        }
        Step::Reauthenticate(_) => {}
        Step::FailChild(side, which) => {
            if let Some(child) = pair.node(side).children.keys().copied().nth(which) {
                pair.act(side, |endpoint, now| endpoint.child_failed(now, child)).expect("installed");
            }
        }
        Step::Crash(side) => pair.crash(side),
        Step::Partition => pair.network.loss_percent = 100,
        Step::Loss(percent) => pair.network.loss_percent = percent,
        Step::Rebind => {
            if let Some(nat) = &mut pair.nat {
                nat.rebind();
            }
        }
        Step::Wait(milliseconds) => pair.run(Duration::from_millis(milliseconds)),
    }
}

fn run(seed: u64) {
    let mut dice = Dice(SeededRandom::new(seed));
    let mut pair = seeded_pair(seed, |side, connection| {
        connection.children.push(child(side, "second", "192.168.2.0/24", "10.3.0.0/24"));
    });
    if dice.below(3) == 0 {
        pair = pair.behind_nat();
    }
    pair.network.jitter = Duration::from_millis(15);
    pair.network.duplicate_percent = 10;
    pair.initiate(Side::A);
    pair.settle();
    let steps: Vec<Step> = (0..1 + dice.below(STEPS)).map(|_| dice.step()).collect();
    let _told = OnFailure(format!("schedule {seed}: {steps:?}"));
    for step in &steps {
        take(&mut pair, step);
    }
    pair.network.loss_percent = 0;
    pair.run(QUIET);
    pair.settle();
    pair.assert_agreement();
    assert!(pair.a.established.len() <= 1, "one IKE SA");
    for side in [Side::A, Side::B] {
        pair.act(side, |endpoint, now| endpoint.close_all(now));
    }
    pair.run(QUIET);
    pair.assert_empty();
}

/// Says which schedule failed, and how to see it again.
struct OnFailure(String);

impl Drop for OnFailure {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0.split([' ', ':']).nth(1).unwrap_or_default();
            eprintln!("{}\nagain: SEKISHO_SCHEDULE={seed} cargo test -p sekisho-ike schedule", self.0);
        }
    }
}

#[test]
fn both_agree_once_it_is_quiet() {
    let wish = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    if let Some(seed) = wish("SEKISHO_SCHEDULE") {
        return run(seed);
    }
    for seed in 0..wish("SEKISHO_SCHEDULES").unwrap_or(SCHEDULES) {
        run(seed);
    }
}
