//! Additional key exchanges (RFC 9370): IKE_INTERMEDIATE before IKE_AUTH, IKE_FOLLOWUP_KE after CREATE_CHILD_SA.

use std::time::Duration;

use sekisho_ike::config::Connection;
use sekisho_ike::event::{CloseReason, FailureKind};
use sekisho_ike::wire::{ExchangeType, Outer};

use crate::pair::{Pair, Side};
use crate::setup::{self, child, esp, established, ike, pair, patient_pair};

const HYBRID: &str = "aes256gcm16-prfsha384-x25519-ke1_mlkem768";
const CHILD: &str = "aes256gcm16-x25519-ke1_mlkem768";

fn hybrid(_: Side, connection: &mut Connection) {
    connection.ike_proposals = ike(&[HYBRID]);
    for child in &mut connection.children {
        child.esp_proposals = esp(&[CHILD]);
    }
}

fn suite(pair: &Pair) -> String {
    pair.a.endpoint.ike_sas().next().expect("up").suite
}

fn exchanges(pair: &Pair, wanted: ExchangeType) -> usize {
    let of = |bytes: &[u8]| Outer::parse(bytes).expect("ours").header.exchange;
    pair.sent.iter().filter(|(_, transmit)| of(&transmit.bytes) == wanted).count()
}

#[test]
fn every_method_comes_up_from_either_side() {
    for more in [
        "ke1_mlkem512",
        "ke1_mlkem768",
        "ke1_mlkem1024",
        "ke4_ecp384",
        "ke1_mlkem768-ke2_ecp256-ke3_modp2048-ke4_mlkem512-ke5_ecp384-ke6_mlkem1024-ke7_modp3072",
    ] {
        for side in [Side::A, Side::B] {
            let name = format!("aes128gcm16-prfsha256-x25519-{more}");
            let mut pair = pair(|_, connection| connection.ike_proposals = ike(&[&name]));
            pair.initiate(side);
            pair.settle();
            pair.assert_up(1);
            assert_eq!(suite(&pair), name);
            assert!(pair.a.failures.is_empty() && pair.b.failures.is_empty());
        }
    }
}

#[test]
fn large_messages_go_in_fragments_both_ways() {
    let mut pair = pair(|_, connection| {
        connection.ike_proposals = ike(&["aes256gcm16-prfsha384-x25519-ke1_mlkem1024"]);
    });
    pair.initiate(Side::A);
    pair.settle();
    pair.assert_up(1);
    let of = |side| {
        let mine = pair.sent.iter().filter(move |(from, _)| *from == side);
        mine.filter(|(_, sent)| {
            Outer::parse(&sent.bytes).expect("ours").header.exchange == ExchangeType::IkeIntermediate
        })
        .count()
    };
    assert_eq!((of(Side::A), of(Side::B)), (2, 2));
    assert!(pair.sent.iter().all(|(_, sent)| sent.bytes.len() <= 1228));
}

#[test]
fn peers_without_it_are_met_without_it_or_refused() {
    let classical = "aes256gcm16-prfsha384-x25519";
    let with = |a: &[&str], b: &[&str]| {
        let mut pair = pair(|side, connection| {
            connection.ike_proposals = ike(if side == Side::A { a } else { b });
        });
        pair.initiate(Side::A);
        pair.settle();
        pair
    };
    for (a, b) in [
        (&[HYBRID, classical][..], &[classical][..]),
        (&[classical][..], &[HYBRID, classical][..]),
        (&["aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke1_none"][..], &[classical][..]),
        (&[classical][..], &["aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke1_none"][..]),
    ] {
        let mut pair = with(a, b);
        pair.assert_up(1);
        assert_eq!(suite(&pair), classical);
        assert_eq!(exchanges(&pair, ExchangeType::IkeIntermediate), 0);
    }
    for (a, b) in [(HYBRID, classical), (classical, HYBRID)] {
        let mut pair = with(&[a], &[b]);
        pair.run(Duration::from_secs(100));
        assert_eq!(pair.a.closed, [CloseReason::Failed]);
        assert!(pair.a.failed(FailureKind::NoProposalChosen));
        let said =
            &pair.b.failures.iter().find(|f| f.kind == FailureKind::NoProposalChosen).expect("said").detail;
        assert!(said.contains("ke1_mlkem768"), "{said}");
        pair.assert_empty();
    }
}

#[test]
fn loss_and_reordering_while_keys_change() {
    for seed in 0..40 {
        let mut pair = patient_pair(seed, |_, connection| {
            connection.ike_proposals =
                ike(&["aes128gcm16-prfsha256-x25519-ke1_mlkem768-ke2_ecp256-ke3_mlkem1024"]);
        });
        pair.network.loss_percent = 30;
        pair.network.duplicate_percent = 20;
        pair.network.jitter = Duration::from_millis(30);
        pair.initiate(Side::A);
        pair.settle();
        pair.network.loss_percent = 0;
        pair.run(Duration::from_secs(120));
        pair.settle();
        pair.assert_up(1);
    }
}

#[test]
fn closing_and_dying_in_between_leave_nothing() {
    for milliseconds in (0..200).step_by(10) {
        let mut pair = pair(hybrid);
        pair.initiate(Side::A);
        pair.run(Duration::from_millis(milliseconds));
        pair.act(Side::A, |endpoint, now| endpoint.close_all(now));
        pair.run(Duration::from_secs(200));
        pair.assert_empty();
        let mut pair = self::pair(hybrid);
        pair.initiate(Side::A);
        pair.run(Duration::from_millis(milliseconds));
        pair.b.up = false;
        pair.run(Duration::from_secs(300));
        assert!(pair.a.established.is_empty() && pair.a.failed(FailureKind::Timeout));
        assert_eq!(pair.a.endpoint.stats().half_open, 0);
    }
}

#[test]
fn everybody_proves_what_was_said_in_between() {
    // Whoever sits between knows neither key, but suppose that it could change IKE_SA_INIT's offer on the way: without
    // the additional exchange both sides still agree on keys, and AUTH must fail.
    let optional = "aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke1_none";
    let mut pair = pair(|_, connection| connection.ike_proposals = ike(&[optional]));
    pair.initiate(Side::A);
    let (_, first) = pair.sent[0].clone();
    let mut changed = first.bytes.clone();
    let addke = [0u8, 0, 0, 8, 6, 0, 0, 0];
    let offered = [3u8, 0, 0, 8, 6, 0, 0, 36];
    let at = changed.windows(8).position(|bytes| bytes == offered).expect("the offer");
    // ML-KEM-768 becomes a method that nobody knows; NONE is left.
    changed[at + 7] = 99;
    assert!(changed.windows(8).any(|bytes| bytes == addke), "NONE is the last transform");
    pair.drop_in_flight();
    let path = first.path;
    let seen = sekisho_ike::event::Path { local: path.remote, remote: path.local };
    pair.inject(Side::B, seen, &changed);
    pair.run(Duration::from_secs(200));
    assert!(pair.a.established.is_empty() && pair.b.established.is_empty());
    assert!(pair.b.failed(FailureKind::AuthenticationFailed), "{:?}", pair.b.failures);
}

#[test]
fn an_ike_sa_is_rekeyed_by_either_side() {
    for side in [Side::A, Side::B] {
        let mut pair = established(hybrid);
        pair.lossless = true;
        let handle = pair.node(side).ike();
        let before = pair.a.endpoint.ike_sas().next().expect("up").spi_i;
        pair.sent.clear();
        pair.act(side, |endpoint, now| endpoint.rekey_ike(now, handle)).expect("rekey");
        pair.settle();
        pair.assert_up(1);
        assert_eq!(suite(&pair), HYBRID);
        assert_ne!(pair.a.endpoint.ike_sas().next().expect("up").spi_i, before);
        assert!(exchanges(&pair, ExchangeType::IkeFollowupKe) >= 2);
        // The new one works, both ways.
        for side in [Side::A, Side::B] {
            let handle = pair.node(side).ike();
            pair.act(side, |endpoint, now| endpoint.rekey_ike(now, handle)).expect("rekey");
            pair.settle();
            pair.assert_up(1);
        }
        assert!(pair.a.failures.is_empty() && pair.b.failures.is_empty());
        pair.run(Duration::from_secs(200));
        assert_eq!((pair.a.endpoint.stats().retired, pair.b.endpoint.stats().retired), (0, 0));
    }
}

#[test]
fn children_are_made_and_rekeyed_by_either_side() {
    for (side, more) in [
        (Side::A, "ke1_mlkem768"),
        (Side::B, "ke1_mlkem768"),
        (Side::A, "ke1_mlkem512-ke2_mlkem1024-ke3_ecp384"),
        (Side::B, "ke2_mlkem1024"),
    ] {
        let proposal = format!("aes256gcm16-x25519-{more}");
        let mut pair = established(|side, connection| {
            connection.children.push(child(side, "second", "192.168.2.0/24", "10.3.0.0/24"));
            hybrid(side, connection);
            for child in &mut connection.children {
                child.esp_proposals = esp(&[&proposal]);
            }
        });
        pair.assert_up(2);
        pair.lossless = true;
        let second = pair.a.children.values().find(|child| &*child.name == "second").expect("made");
        assert_eq!(second.suite.to_string(), format!("{proposal}-esn"), "made in CREATE_CHILD_SA");
        let first = pair.a.children.values().find(|child| &*child.name == "main").expect("made");
        assert_eq!(first.suite.to_string(), "aes256gcm16-esn", "IKE_AUTH has no key exchange of its own");
        for round in 0..3 {
            let old = *pair.node(side).children.keys().next().expect("a child");
            pair.act(side, |endpoint, now| endpoint.rekey_child(now, old)).expect("rekey");
            pair.settle();
            pair.assert_up(2);
            assert!(!pair.node(side).children.contains_key(&old), "{round}");
        }
        for child in pair.a.children.values() {
            assert_eq!(child.suite.to_string(), format!("{proposal}-esn"));
        }
        assert!(pair.a.failures.is_empty() && pair.b.failures.is_empty());
    }
}

#[test]
fn rekeys_survive_loss_and_reordering() {
    for seed in 0..40 {
        let mut pair = patient_pair(seed, hybrid);
        pair.initiate(Side::A);
        pair.settle();
        pair.lossless = true;
        pair.network.loss_percent = 30;
        pair.network.duplicate_percent = 20;
        pair.network.jitter = Duration::from_millis(30);
        let side = if seed % 2 == 0 { Side::A } else { Side::B };
        let child = *pair.node(side).children.keys().next().expect("a child");
        pair.act(side, |endpoint, now| endpoint.rekey_child(now, child)).expect("rekey");
        pair.settle();
        let handle = pair.node(side).ike();
        pair.act(side, |endpoint, now| endpoint.rekey_ike(now, handle)).expect("rekey");
        pair.settle();
        pair.network.loss_percent = 0;
        pair.run(Duration::from_secs(200));
        pair.settle();
        pair.assert_up(1);
        assert!(pair.a.closed.is_empty() && pair.b.closed.is_empty());
    }
}

/// Delays between the two beginnings, around the latency of 20 ms: an exchange and its follow-up take 80 ms.
const SHIFTS: [u64; 10] = [0, 5, 15, 25, 35, 45, 55, 65, 75, 100];

type Step = fn(&mut Pair, Side);

fn rekey_child(pair: &mut Pair, side: Side) {
    let child = *pair.node(side).children.keys().next().expect("a child");
    pair.act(side, |endpoint, now| endpoint.rekey_child(now, child)).expect("rekey");
}

fn rekey_ike(pair: &mut Pair, side: Side) {
    let ike = pair.node(side).ike();
    pair.act(side, |endpoint, now| endpoint.rekey_ike(now, ike)).expect("rekey");
}

fn crossed(first: Step, second: Step) {
    for (seed, shift) in (0..8).flat_map(|seed| SHIFTS.map(|shift| (seed, shift))) {
        let mut pair = setup::seeded_pair(seed, hybrid);
        pair.initiate(Side::A);
        pair.settle();
        pair.lossless = true;
        first(&mut pair, Side::A);
        pair.run(Duration::from_millis(shift));
        second(&mut pair, Side::B);
        pair.settle();
        pair.run(Duration::from_secs(300));
        pair.settle();
        pair.assert_up(1);
        assert_eq!((pair.a.endpoint.stats().retired, pair.b.endpoint.stats().retired), (0, 0));
        assert!(pair.a.closed.is_empty() && pair.b.closed.is_empty(), "{seed} {shift}");
        assert!(
            pair.a.failures.is_empty() && pair.b.failures.is_empty(),
            "{seed} {shift} {:?} {:?}",
            pair.a.failures,
            pair.b.failures
        );
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
fn collisions_survive_loss() {
    for seed in 0..60 {
        let mut pair = patient_pair(seed, hybrid);
        pair.initiate(Side::A);
        pair.settle();
        pair.lossless = true;
        pair.network.loss_percent = 30;
        let step: [Step; 2] = match seed % 3 {
            0 => [rekey_child; 2],
            1 => [rekey_ike; 2],
            _ => [rekey_ike, rekey_child],
        };
        step[0](&mut pair, Side::A);
        step[1](&mut pair, Side::B);
        pair.settle();
        pair.network.loss_percent = 0;
        pair.run(Duration::from_secs(300));
        pair.settle();
        pair.assert_up(1);
    }
}

#[test]
fn a_peer_that_dies_between_the_exchanges_is_noticed() {
    for step in [rekey_child as Step, rekey_ike] {
        for (milliseconds, dead) in (0..100).step_by(10).flat_map(|at| [(at, Side::A), (at, Side::B)]) {
            let mut pair = established(hybrid);
            step(&mut pair, Side::A);
            pair.run(Duration::from_millis(milliseconds));
            pair.node(dead).up = false;
            pair.run(Duration::from_secs(300));
            let living = pair.node(dead.other());
            assert_eq!(living.closed, [CloseReason::Dead]);
            assert!(living.children.is_empty());
            assert_eq!(living.endpoint.stats().retired, 0);
        }
    }
}

#[test]
fn one_rekeys_and_the_other_closes_or_deletes() {
    for (step, shift) in
        [rekey_child as Step, rekey_ike].into_iter().flat_map(|s| SHIFTS.map(|shift| (s, shift)))
    {
        let mut pair = established(hybrid);
        step(&mut pair, Side::A);
        pair.run(Duration::from_millis(shift));
        pair.act(Side::B, |endpoint, now| endpoint.close_all(now));
        pair.run(Duration::from_secs(300));
        pair.assert_empty();
        let mut pair = established(hybrid);
        step(&mut pair, Side::A);
        pair.run(Duration::from_millis(shift));
        if let Some(child) = pair.b.children.keys().next().copied() {
            pair.act(Side::B, |endpoint, now| endpoint.child_failed(now, child)).expect("there");
        }
        pair.settle();
        pair.run(Duration::from_secs(100));
        pair.settle();
        pair.assert_agreement();
        assert!(pair.a.children.len() <= 1);
    }
}
