//! Is the peer there? (RFC 7296 section 2.4)

use std::time::Duration;

use sekisho_ike::event::CloseReason;

use crate::pair::{Pair, Side};
use crate::setup::established;

/// With liveness checks of A after 30 s, and none of B.
fn tunnel() -> Pair {
    let mut pair = established(|side, connection| {
        if side == Side::B {
            connection.dpd_after = Duration::ZERO;
        }
    });
    pair.sent.clear();
    pair
}

#[test]
fn a_silent_peer_is_asked_and_one_that_sends_packets_is_not() {
    let mut pair = tunnel();
    pair.run(Duration::from_secs(320));
    let asked = pair.sent.iter().filter(|(from, _)| *from == Side::A).count();
    assert!((9..=11).contains(&asked), "{asked}");
    pair.sent.clear();
    for _ in 0..60 {
        let child = pair.a.child();
        pair.act(Side::A, |endpoint, now| endpoint.child_received(now, child)).expect("there");
        pair.run(Duration::from_secs(5));
    }
    assert_eq!(pair.sent.len(), 0, "packets are life enough");
    pair.run(Duration::from_secs(31));
    assert!(!pair.sent.is_empty(), "and it is asked again once they cease");
}

#[test]
fn a_peer_that_is_gone_is_given_up() {
    let mut pair = tunnel();
    pair.node(Side::B).up = false;
    pair.run(Duration::from_secs(120));
    assert_eq!(pair.a.closed, [CloseReason::Dead]);
    assert!(pair.a.children.is_empty());
}

/// It knows nothing, and says so: the second IKE SA is there long before it would be given up.
#[test]
fn a_peer_that_was_started_anew_is_found_by_its_own_word() {
    let mut pair = tunnel();
    pair.crash(Side::B);
    pair.run(Duration::from_secs(35));
    pair.assert_up(1);
    assert_eq!(pair.a.closed, [CloseReason::Replaced]);
    assert_eq!(pair.a.endpoint.stats().ike_established, 2);
}

#[test]
fn a_child_that_is_lost_comes_back() {
    for side in [Side::A, Side::B] {
        let mut pair = tunnel();
        let child = pair.node(side).child();
        pair.act(side, |endpoint, now| endpoint.child_failed(now, child)).expect("there");
        pair.settle();
        assert!(pair.a.children.is_empty() && pair.b.children.is_empty());
        pair.run(Duration::from_secs(40));
        pair.settle();
        pair.assert_up(1);
    }
}
