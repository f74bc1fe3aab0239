//! One IKE SA for each peer, or not, as the configuration says (RFC 7296 section 2.4).

use std::collections::BTreeSet;
use std::time::Duration;

use sekisho_ike::config::Uniqueness;
use sekisho_ike::event::{CloseReason, FailureKind};

use crate::pair::{Pair, Side};
use crate::setup::{pair, seeded_pair};

const SIDES: [Side; 2] = [Side::A, Side::B];

/// B lets A come from any address.
fn with(policy: Uniqueness) -> Pair {
    pair(|side, connection| {
        connection.uniqueness = policy;
        if side == Side::B {
            connection.remote_address = None;
        }
    })
}

#[test]
fn a_new_one_replaces_the_old_one_without_losing_a_packet() {
    for (first, second) in SIDES.into_iter().flat_map(|first| SIDES.map(|second| (first, second))) {
        let mut pair = with(Uniqueness::Replace);
        let old = pair.initiate(first);
        pair.settle();
        pair.lossless = true;
        pair.run(Duration::from_secs(5));
        pair.initiate(second);
        pair.settle();
        pair.run(Duration::from_secs(120));
        pair.assert_up(1);
        assert!(!pair.node(first).established.contains(&old));
        assert_eq!(pair.a.closed, [CloseReason::Replaced]);
        assert_eq!(pair.b.closed.len(), 1);
    }
}

#[test]
fn the_first_can_be_kept_against_one_from_elsewhere() {
    let mut pair = with(Uniqueness::Keep);
    pair.initiate(Side::A);
    pair.settle();
    let before = pair.b.endpoint.ike_sas().next().expect("up").spi_i;
    // The same identity at another address: its owner moved, or somebody has its key.
    pair.a.address = "198.51.100.77".parse().expect("address");
    pair.initiate(Side::A);
    pair.run(Duration::from_secs(5));
    assert!(pair.b.failed(FailureKind::Duplicate), "{:?}", pair.b.failures);
    let after: BTreeSet<_> =
        pair.b.endpoint.ike_sas().filter(|sa| sa.remote_id.is_some()).map(|sa| sa.spi_i).collect();
    assert_eq!(after, BTreeSet::from([before]));
}

#[test]
fn a_peer_that_lost_its_state_is_let_in_whatever_is_kept() {
    for policy in [Uniqueness::Keep, Uniqueness::Replace] {
        let mut pair = with(policy);
        pair.initiate(Side::A);
        pair.settle();
        pair.crash(Side::A);
        pair.a.address = "198.51.100.77".parse().expect("address");
        pair.initiate(Side::A);
        pair.settle();
        pair.run(Duration::from_secs(20));
        pair.assert_up(1);
    }
}

#[test]
fn both_stay_where_there_is_no_rule() {
    let mut pair = with(Uniqueness::Never);
    pair.initiate(Side::A);
    pair.settle();
    pair.initiate(Side::A);
    pair.settle();
    pair.run(Duration::from_secs(60));
    assert_eq!((pair.a.established.len(), pair.b.established.len()), (2, 2));
    // They are found by their connection, oldest first, until they are closed.
    let statuses: Vec<_> = pair.b.endpoint.ike_sas().collect();
    let connection = statuses[0].connection.clone().expect("known");
    let with = |endpoint: &sekisho_ike::Endpoint| endpoint.established_with(&connection).collect::<Vec<_>>();
    assert_eq!(with(&pair.b.endpoint), [statuses[0].ike, statuses[1].ike]);
    assert_eq!(pair.b.endpoint.established_with("another").count(), 0);
    for (closed, left) in [(0, vec![statuses[1].ike]), (1, vec![])] {
        pair.b.endpoint.close(pair.now, statuses[closed].ike).expect("established");
        assert_eq!(with(&pair.b.endpoint), left);
    }
}

#[test]
fn a_connection_is_closed_with_all_that_it_has() {
    let mut pair = with(Uniqueness::Never);
    pair.initiate(Side::A);
    pair.settle();
    pair.initiate(Side::A);
    pair.settle();
    // And one whose first message has not been answered.
    pair.initiate(Side::A);
    let left = |pair: &Pair| pair.a.endpoint.ike_sas().count();
    let connection = pair.a.endpoint.ike_sas().next().and_then(|sa| sa.connection).expect("known");
    pair.a.endpoint.close_connection(pair.now, "another");
    assert_eq!(left(&pair), 3);
    pair.a.endpoint.close_connection(pair.now, &connection);
    assert_eq!(left(&pair), 0);
    pair.settle();
    pair.run(Duration::from_secs(60));
    assert_eq!((pair.a.established.len(), pair.b.established.len()), (0, 0));
}

#[test]
fn many_beginnings_at_once_end_with_one() {
    for seed in 0..40 {
        let mut pair = seeded_pair(seed, |_, _| {});
        pair.network.jitter = Duration::from_millis(40);
        pair.network.duplicate_percent = 20;
        for side in [Side::A, Side::B, Side::A, Side::B] {
            pair.initiate(side);
            pair.run(Duration::from_millis(seed % 60));
        }
        pair.run(Duration::from_secs(200));
        pair.settle();
        pair.assert_agreement();
        assert!(pair.a.established.len() <= 1, "seed {seed}");
    }
}
