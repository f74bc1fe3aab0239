//! Random schedules: whatever both sides do and whatever the network does, once it is quiet both hold the same.

use std::time::Duration;

use proptest::prelude::*;

use crate::pair::{Pair, Side};
use crate::setup::{child, seeded_pair};

#[derive(Clone, Debug)]
enum Step {
    Initiate(Side),
    RekeyIke(Side),
    RekeyChild(Side, usize),
    FailChild(Side, usize),
    Close(Side),
    Rebind,
    Loss(u32),
    Wait(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let side = prop_oneof![Just(Side::A), Just(Side::B)];
    prop_oneof![
        1 => side.clone().prop_map(Step::Initiate),
        4 => side.clone().prop_map(Step::RekeyIke),
        4 => (side.clone(), 0usize..4).prop_map(|(side, which)| Step::RekeyChild(side, which)),
        1 => (side.clone(), 0usize..4).prop_map(|(side, which)| Step::FailChild(side, which)),
        1 => side.prop_map(Step::Close),
        1 => Just(Step::Rebind),
        1 => prop_oneof![Just(0), Just(10), Just(40)].prop_map(Step::Loss),
        4 => prop_oneof![0u64..80, Just(700), Just(3_000), Just(40_000)].prop_map(Step::Wait),
    ]
}

fn take(pair: &mut Pair, step: &Step) {
    match *step {
        // From behind the NAT only: nobody reaches A unasked.
        Step::Initiate(side) if pair.nat.is_none() || side == Side::A => {
            pair.initiate(side);
        }
        Step::Initiate(_) => {}
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
        Step::FailChild(side, which) => {
            if let Some(child) = pair.node(side).children.keys().copied().nth(which) {
                pair.act(side, |endpoint, now| endpoint.child_failed(now, child)).expect("installed");
            }
        }
        Step::Close(side) => {
            if let Some(ike) = pair.node(side).established.first().copied() {
                pair.act(side, |endpoint, now| endpoint.close(now, ike)).expect("established");
            }
        }
        Step::Rebind => {
            if let Some(nat) = &mut pair.nat {
                nat.rebind();
            }
        }
        Step::Loss(percent) => pair.network.loss_percent = percent,
        Step::Wait(milliseconds) => pair.run(Duration::from_millis(milliseconds)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_agree_once_it_is_quiet(seed: u64, nat: bool, steps in prop::collection::vec(any_step(), 1..25)) {
        let mut pair = seeded_pair(seed, |side, connection| {
            connection.children.push(child(side, "second", "192.168.2.0/24", "10.3.0.0/24"));
        });
        if nat {
            pair = pair.behind_nat();
        }
        pair.network.jitter = Duration::from_millis(15);
        pair.network.duplicate_percent = 10;
        pair.initiate(Side::A);
        pair.settle();
        for step in &steps {
            take(&mut pair, step);
        }
        pair.network.loss_percent = 0;
        // Longer than a dead peer is waited for.
        pair.run(Duration::from_secs(300));
        pair.settle();
        pair.assert_agreement();
        pair.act(Side::A, |endpoint, now| endpoint.close_all(now));
        pair.act(Side::B, |endpoint, now| endpoint.close_all(now));
        pair.run(Duration::from_secs(300));
        pair.assert_empty();
    }
}
