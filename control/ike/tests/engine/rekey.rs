//! Rekeys by either side, on time and on demand, without losing a packet.

use std::time::Duration;

use sekisho_ike::event::{CloseReason, Event};

use crate::pair::{Pair, Side};
use crate::setup::{child, established};

const SIDES: [Side; 2] = [Side::A, Side::B];

/// Keys of both directions of the only child, to see that they change.
fn keys(pair: &Pair) -> (Vec<u8>, Vec<u8>) {
    let child = pair.a.children.values().next().expect("a child");
    (child.keys_in.encryption.to_vec(), child.keys_out.encryption.to_vec())
}

#[test]
fn a_child_by_either_side() {
    for side in SIDES {
        let mut pair = established(|_, _| {});
        pair.lossless = true;
        let (old, before) = (pair.node(side).child(), keys(&pair));
        pair.act(side, |endpoint, now| endpoint.rekey_child(now, old)).expect("rekey");
        pair.settle();
        pair.assert_up(1);
        let after = keys(&pair);
        assert!(before.0 != after.0 && before.1 != after.1);
        assert_ne!(pair.node(side).child(), old);
        for node in [&pair.a, &pair.b] {
            let removed = node.events.iter().filter_map(|event| match event {
                Event::ChildRemove { linger, reason, .. } => Some((*linger, *reason)),
                _ => None,
            });
            assert_eq!(removed.collect::<Vec<_>>(), [(Duration::from_secs(5), CloseReason::Replaced)]);
        }
    }
}

#[test]
fn the_initiator_sends_with_the_new_pair_first_and_the_responder_follows() {
    let mut pair = established(|_, _| {});
    let old = pair.a.child();
    pair.a.events.clear();
    pair.b.events.clear();
    pair.act(Side::A, |endpoint, now| endpoint.rekey_child(now, old)).expect("rekey");
    pair.settle();
    let Event::ChildInstall(ours) = &pair.a.events[0] else { panic!("{:?}", pair.a.events) };
    assert!(ours.activate_outbound && ours.replaces == Some(old));
    let Event::ChildInstall(theirs) = &pair.b.events[0] else { panic!("{:?}", pair.b.events) };
    assert!(!theirs.activate_outbound && theirs.replaces.is_some());
    assert!(matches!(&pair.b.events[1], Event::ChildActivateOutbound { child } if *child == theirs.child));
}

#[test]
fn without_traffic_the_delete_makes_the_responder_follow() {
    let mut pair = established(|_, _| {});
    pair.traffic = false;
    let old = pair.a.child();
    pair.act(Side::A, |endpoint, now| endpoint.rekey_child(now, old)).expect("rekey");
    pair.settle();
    pair.assert_up(1);
    let activations =
        pair.b.events.iter().filter(|event| matches!(event, Event::ChildActivateOutbound { .. }));
    assert_eq!(activations.count(), 1);
}

#[test]
fn an_ike_sa_by_either_side_keeps_handle_and_children() {
    for side in SIDES {
        let mut pair = established(|side, connection| {
            connection.children.push(child(side, "second", "192.168.2.0/24", "10.3.0.0/24"));
        });
        pair.lossless = true;
        let (ike, children) = (pair.node(side).ike(), pair.a.children.keys().copied().collect::<Vec<_>>());
        let before = pair.a.endpoint.ike_sas().next().expect("up");
        pair.act(side, |endpoint, now| endpoint.rekey_ike(now, ike)).expect("rekey");
        pair.settle();
        pair.assert_up(2);
        assert_eq!(pair.node(side).ike(), ike);
        assert_eq!(pair.a.children.keys().copied().collect::<Vec<_>>(), children);
        let after = pair.a.endpoint.ike_sas().next().expect("up");
        assert!(before.spi_i != after.spi_i && before.spi_r != after.spi_r);
        assert_eq!(after.initiator, side == Side::A);
        assert_eq!(pair.a.endpoint.stats().ike_rekeyed, 1);
        assert_eq!(pair.b.endpoint.stats().ike_rekeyed, 1);
        pair.run(Duration::from_secs(120));
        assert_eq!((pair.a.endpoint.stats().retired, pair.b.endpoint.stats().retired), (0, 0));
        // The new IKE SA works, in both directions.
        for side in SIDES {
            let child = *pair.node(side).children.keys().next().expect("one");
            pair.act(side, |endpoint, now| endpoint.rekey_child(now, child)).expect("rekey");
            pair.settle();
            pair.assert_up(2);
        }
    }
}

#[test]
fn a_day_of_rekeys_on_time_loses_nothing() {
    let mut pair = established(|_, connection| {
        connection.ike_rekey_after = Duration::from_secs(4 * 3600);
        connection.children[0].rekey_after = Duration::from_secs(3600);
    });
    pair.lossless = true;
    for _ in 0..24 {
        pair.run(Duration::from_secs(3600));
        pair.settle();
        pair.assert_up(1);
    }
    let stats = pair.a.endpoint.stats();
    assert!((6..=14).contains(&stats.ike_rekeyed), "{stats:?}");
    assert!((24..=54).contains(&stats.children_installed), "{stats:?}");
    assert!(pair.a.failures.is_empty() && pair.b.failures.is_empty(), "{:?}", pair.a.failures);
}

#[test]
fn rekeys_begin_in_the_last_tenth_of_the_lifetime() {
    let pair = established(|_, connection| connection.children[0].rekey_after = Duration::from_secs(1000));
    for node in [&pair.a, &pair.b] {
        let child = node.children.values().next().expect("one");
        let after = child.rekey_at.saturating_duration_since(pair.start);
        assert!((900..=1001).contains(&after.as_secs()), "{after:?}");
    }
}

#[test]
fn perfect_forward_secrecy_is_as_the_proposal_says() {
    for (esp, group) in [("aes128gcm16", ""), ("aes128gcm16-ecp256", "-ecp256")] {
        let mut pair =
            established(|_, connection| connection.children[0].esp_proposals = crate::setup::esp(&[esp]));
        let child = pair.a.child();
        pair.act(Side::A, |endpoint, now| endpoint.rekey_child(now, child)).expect("rekey");
        pair.settle();
        pair.assert_up(1);
        let suite = pair.a.children.values().next().expect("one").suite.to_string();
        assert_eq!(suite, format!("aes128gcm16{group}-esn"));
    }
}
