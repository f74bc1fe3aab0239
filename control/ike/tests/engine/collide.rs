//! Both sides do it at once (RFC 7296 sections 2.8.1, 2.8.2 and 2.25).

use std::time::Duration;

use crate::pair::{Pair, Side};
use crate::setup::{child, patient_pair, seeded_pair};

/// An established tunnel; different seeds make different nonces, so that either side wins.
fn tunnel(seed: u64) -> Pair {
    let mut pair = seeded_pair(seed, |_, _| {});
    pair.initiate(Side::A);
    pair.settle();
    pair.lossless = true;
    pair
}

fn rekey_child(pair: &mut Pair, side: Side) {
    let child = *pair.node(side).children.keys().next().expect("a child");
    pair.act(side, |endpoint, now| endpoint.rekey_child(now, child)).expect("rekey");
}

fn rekey_ike(pair: &mut Pair, side: Side) {
    let ike = pair.node(side).ike();
    pair.act(side, |endpoint, now| endpoint.rekey_ike(now, ike)).expect("rekey");
}

fn assert_quiet(pair: &mut Pair) {
    pair.settle();
    pair.assert_up(1);
    pair.run(Duration::from_secs(200));
    pair.assert_up(1);
    assert_eq!((pair.a.endpoint.stats().retired, pair.b.endpoint.stats().retired), (0, 0));
    assert!(pair.a.closed.is_empty() && pair.b.closed.is_empty());
    assert!(
        pair.a.failures.is_empty() && pair.b.failures.is_empty(),
        "{:?} {:?}",
        pair.a.failures,
        pair.b.failures
    );
}

/// Delays between the two beginnings, around the latency of 20 ms.
const SHIFTS: [u64; 6] = [0, 5, 15, 25, 45, 70];

type Step = fn(&mut Pair, Side);

fn crossed(first: Step, second: Step) {
    for (seed, shift) in (0..8).flat_map(|seed| SHIFTS.map(|shift| (seed, shift))) {
        let mut pair = tunnel(seed);
        first(&mut pair, Side::A);
        pair.run(Duration::from_millis(shift));
        second(&mut pair, Side::B);
        assert_quiet(&mut pair);
    }
}

#[test]
fn both_rekey_the_same_child() {
    crossed(rekey_child, rekey_child);
}

#[test]
fn both_rekey_the_ike_sa() {
    crossed(rekey_ike, rekey_ike);
}

#[test]
fn one_rekeys_the_ike_sa_and_the_other_the_child() {
    crossed(rekey_ike, rekey_child);
    crossed(rekey_child, rekey_ike);
}

#[test]
fn the_winner_is_the_exchange_without_the_lowest_nonce() {
    // Either side wins with some seed, and the two always agree; else this test would not see both branches.
    let winners: std::collections::BTreeSet<_> = (0..16)
        .map(|seed| {
            let mut pair = tunnel(seed);
            rekey_ike(&mut pair, Side::A);
            rekey_ike(&mut pair, Side::B);
            assert_quiet(&mut pair);
            pair.a.endpoint.ike_sas().next().expect("up").initiator
        })
        .collect();
    assert_eq!(winners.len(), 2);
}

#[test]
fn collisions_survive_loss() {
    for seed in 0..60 {
        let mut pair = patient_pair(seed, |_, _| {});
        pair.initiate(Side::A);
        pair.settle();
        pair.lossless = true;
        pair.network.loss_percent = 30;
        let step: [Step; 2] = if seed % 2 == 0 { [rekey_child; 2] } else { [rekey_ike; 2] };
        step[0](&mut pair, Side::A);
        step[1](&mut pair, Side::B);
        pair.settle();
        pair.network.loss_percent = 0;
        pair.run(Duration::from_secs(200));
        pair.settle();
        pair.assert_up(1);
    }
}

#[test]
fn one_rekeys_and_the_other_deletes() {
    for (seed, shift) in (0..4).flat_map(|seed| SHIFTS.map(|shift| (seed, shift))) {
        let mut pair = tunnel(seed);
        pair.lossless = false;
        rekey_child(&mut pair, Side::A);
        pair.run(Duration::from_millis(shift));
        let child = *pair.b.children.keys().next().expect("a child");
        pair.act(Side::B, |endpoint, now| endpoint.child_failed(now, child)).expect("there");
        pair.settle();
        pair.run(Duration::from_secs(20));
        pair.settle();
        pair.assert_agreement();
        assert!(pair.a.children.len() <= 1);
    }
}

#[test]
fn one_rekeys_and_the_other_closes() {
    for (step, shift) in
        [rekey_child as Step, rekey_ike].into_iter().flat_map(|s| SHIFTS.map(|shift| (s, shift)))
    {
        let mut pair = tunnel(shift);
        pair.lossless = false;
        step(&mut pair, Side::A);
        pair.run(Duration::from_millis(shift));
        pair.act(Side::B, |endpoint, now| endpoint.close_all(now));
        pair.run(Duration::from_secs(300));
        pair.assert_empty();
    }
}

#[test]
fn both_initiate_at_once() {
    for (seed, shift) in (0..8).flat_map(|seed| SHIFTS.map(|shift| (seed, shift))) {
        let mut pair = seeded_pair(seed, |side, connection| {
            connection.children.push(child(side, "second", "192.168.2.0/24", "10.3.0.0/24"));
        });
        pair.initiate(Side::A);
        pair.run(Duration::from_millis(shift));
        pair.initiate(Side::B);
        pair.settle();
        pair.run(Duration::from_secs(200));
        pair.assert_up(2);
        pair.act(Side::A, |endpoint, now| endpoint.close_all(now));
        pair.run(Duration::from_secs(200));
        pair.assert_empty();
    }
}
