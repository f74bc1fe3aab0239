//! Reauthentication without a gap (RFC 7296 section 2.8.3, RFC 4478).

use std::time::Duration;

use sekisho_ike::event::{CloseReason, FailureKind, Path};

use crate::pair::{Pair, Side};
use crate::setup::{child, established};

/// With two children; `seconds` on the sides that say so.
fn tunnel(seconds: impl Fn(Side) -> u64) -> Pair {
    let mut pair = established(|side, connection| {
        connection.children.push(child(side, "second", "192.168.2.0/24", "10.3.0.0/24"));
        connection.reauth_after = Duration::from_secs(seconds(side));
    });
    pair.lossless = true;
    pair
}

#[test]
fn on_time_and_on_demand_no_packet_is_lost() {
    let mut pair = tunnel(|side| if side == Side::A { 3600 } else { 0 });
    for round in 1..=5 {
        pair.run(Duration::from_secs(3610));
        pair.settle();
        pair.assert_up(2);
        assert_eq!(pair.a.closed.len(), round);
    }
    let ike = pair.a.ike();
    pair.act(Side::A, |endpoint, now| endpoint.reauthenticate(now, ike)).expect("up");
    pair.settle();
    pair.run(Duration::from_secs(60));
    pair.assert_up(2);
    assert_eq!(pair.a.closed.len(), 6);
    assert!(pair.a.closed.iter().chain(&pair.b.closed).all(|reason| *reason == CloseReason::Replaced));
    assert!(pair.a.failures.is_empty() && pair.b.failures.is_empty());
    assert_eq!(pair.b.endpoint.stats().ike_established, 7);
}

/// strongSwan removes its inbound SAs as soon as its DELETE is answered, and drops what it has not got to by then.
#[test]
fn the_former_one_is_let_go_when_what_was_under_way_by_it_has_arrived() {
    let said = |pair: &Pair| pair.sent.iter().filter(|(side, _)| *side == Side::B).count();
    for repeated in [false, true] {
        let mut pair = tunnel(|_| 0);
        let ike = pair.a.ike();
        pair.act(Side::A, |endpoint, now| endpoint.reauthenticate(now, ike)).expect("up");
        let begin = pair.now;
        while pair.b.closed.is_empty() {
            assert!(pair.now - begin < Duration::from_secs(10), "A deletes the former one");
            pair.run(Duration::from_millis(1));
        }
        let before = said(&pair);
        if repeated {
            let delete = pair.sent.iter().rfind(|(side, _)| *side == Side::A).expect("sent").1.clone();
            let path = Path { local: delete.path.remote, remote: delete.path.local };
            pair.inject(Side::B, path, &delete.bytes);
        }
        for after in 1..=200 {
            pair.run(Duration::from_millis(1));
            let answered = repeated || after >= 50;
            assert_eq!(said(&pair) - before, usize::from(answered), "{after} ms after");
        }
        pair.settle();
        pair.assert_up(2);
    }
}

#[test]
fn the_responder_names_the_time() {
    let mut pair = tunnel(|side| if side == Side::B { 1000 } else { 0 });
    for _ in 0..5 {
        pair.run(Duration::from_secs(905));
        pair.settle();
        pair.assert_up(2);
    }
    let established = pair.b.endpoint.stats().ike_established;
    assert!((5..=7).contains(&established), "{established}");
    assert!(pair.b.failures.is_empty());
}

#[test]
fn a_peer_that_cannot_is_closed() {
    let mut pair = tunnel(|side| if side == Side::B { 1000 } else { 0 });
    pair.lossless = false;
    // All but first requests pass: what is up lives, and nothing new comes.
    pair.network.drop_first_requests = true;
    pair.run(Duration::from_secs(1050));
    assert_eq!(pair.b.established.len(), 1, "a tenth more");
    pair.run(Duration::from_secs(100));
    assert_eq!(pair.b.closed, [CloseReason::Failed]);
    assert!(pair.b.failed(FailureKind::AuthenticationFailed));
    assert!(pair.a.failed(FailureKind::Timeout), "it has tried");
}

#[test]
fn while_lines_are_bad_the_old_one_goes_on_and_it_is_tried_again() {
    let mut pair = tunnel(|side| if side == Side::A { 1000 } else { 0 });
    pair.network.drop_first_requests = true;
    pair.run(Duration::from_secs(1200));
    pair.assert_up_among_attempts(2);
    pair.network.drop_first_requests = false;
    pair.run(Duration::from_secs(200));
    pair.settle();
    pair.assert_up(2);
    assert_eq!(pair.b.endpoint.stats().ike_established, 2);
}

#[test]
fn rekeys_and_reauthentication_do_not_disturb_each_other() {
    for seed in 0..30 {
        let mut pair = crate::setup::seeded_pair(seed, |_, _| {});
        pair.initiate(Side::A);
        pair.settle();
        pair.lossless = true;
        pair.network.jitter = Duration::from_millis(30);
        let (ike, at_b) = (pair.a.ike(), pair.b.ike());
        pair.act(Side::A, |endpoint, now| endpoint.reauthenticate(now, ike)).expect("up");
        pair.run(Duration::from_millis(seed * 4));
        let child = pair.b.children.keys().copied().next().expect("one");
        pair.act(Side::B, |endpoint, now| endpoint.rekey_child(now, child)).expect("there");
        pair.run(Duration::from_millis(seed * 3));
        if pair.b.established.contains(&at_b) {
            pair.act(Side::B, |endpoint, now| endpoint.rekey_ike(now, at_b)).expect("up");
        }
        pair.settle();
        pair.run(Duration::from_secs(200));
        pair.assert_up(1);
    }
}
