//! NAT traversal (RFC 7296 section 2.23).

use std::time::Duration;

use sekisho_ike::event::Event;
use sekisho_ike::nat::NAT_PORT;

use crate::pair::{Pair, Side, is_keepalive};
use crate::pki::{KeyKind, Pki};
use crate::setup::{established, pair};

fn behind_nat() -> Pair {
    let mut pair = pair(|_, _| {}).behind_nat();
    pair.initiate(Side::A);
    pair.settle();
    pair
}

#[test]
fn behind_a_nat_both_move_to_4500_and_esp_goes_in_udp() {
    let mut pair = behind_nat();
    pair.assert_up(1);
    let (a, b) =
        (pair.a.endpoint.ike_sas().next().expect("up"), pair.b.endpoint.ike_sas().next().expect("up"));
    assert!(a.nat_local && !a.nat_remote && !b.nat_local && b.nat_remote);
    assert_eq!((a.path.local.port(), a.path.remote.port()), (NAT_PORT, NAT_PORT));
    assert_eq!(b.path.local.port(), NAT_PORT);
    assert!(b.path.remote.port() > 20_000, "the NAT's port");
    for node in [&pair.a, &pair.b] {
        let child = node.children.values().next().expect("one");
        assert!(child.udp_encapsulation);
        assert_eq!(child.path.local.port(), NAT_PORT);
    }
    assert_eq!(pair.b.children.values().next().expect("one").path.remote, b.path.remote);
}

#[test]
fn without_a_nat_nothing_moves() {
    let mut pair = established(|_, _| {});
    pair.assert_up(1);
    assert!(pair.sent.iter().all(|(_, transmit)| transmit.path.local.port() == 500));
    assert!(!pair.a.children.values().next().expect("one").udp_encapsulation);
    pair.run(Duration::from_secs(100));
    assert!(!pair.sent.iter().any(|(_, transmit)| is_keepalive(transmit)));
}

#[test]
fn encapsulation_can_be_forced_by_either_side() {
    for forcing in [Side::A, Side::B] {
        let mut pair = established(|side, connection| connection.force_encapsulation = side == forcing);
        pair.assert_up(1);
        assert!(pair.a.children.values().next().expect("one").udp_encapsulation);
        assert_eq!(pair.a.endpoint.ike_sas().next().expect("up").path.local.port(), NAT_PORT);
    }
}

#[test]
fn the_mapping_is_kept_alive_by_the_side_behind_the_nat() {
    let mut pair = behind_nat();
    pair.sent.clear();
    pair.run(Duration::from_secs(205));
    let keepalives = |side| pair.sent.iter().filter(|(from, t)| *from == side && is_keepalive(t)).count();
    assert_eq!((keepalives(Side::A), keepalives(Side::B)), (10, 0));
    pair.assert_up(1);
}

#[test]
fn a_changed_mapping_is_followed() {
    let mut pair = behind_nat();
    let before = pair.b.endpoint.ike_sas().next().expect("up").path;
    pair.nat.as_mut().expect("nat").rebind();
    pair.run(Duration::from_secs(120));
    pair.settle();
    let after = pair.b.endpoint.ike_sas().next().expect("up").path;
    assert_ne!(before.remote, after.remote);
    assert!(
        pair.b.events.iter().any(|event| matches!(event, Event::PathChanged { path, .. } if *path == after))
    );
    pair.assert_up(1);
    assert_eq!(pair.b.children.values().next().expect("one").path, after);
    let child = pair.b.child();
    pair.act(Side::B, |endpoint, now| endpoint.rekey_child(now, child)).expect("rekey");
    pair.settle();
    pair.assert_up(1);
}

#[test]
fn rekeys_keep_the_path() {
    let mut pair = behind_nat();
    for side in [Side::B, Side::A] {
        let ike = pair.node(side).ike();
        pair.act(side, |endpoint, now| endpoint.rekey_ike(now, ike)).expect("rekey");
        pair.settle();
        let child = pair.node(side).child();
        pair.act(side, |endpoint, now| endpoint.rekey_child(now, child)).expect("rekey");
        pair.settle();
        pair.assert_up(1);
        assert!(pair.a.children.values().next().expect("one").udp_encapsulation);
    }
}

#[test]
fn fragments_pass_a_nat() {
    let pki = Pki::new();
    let mut pair = pair(|_, connection| {
        connection.local_auth = pki.issue(&connection.local_id.to_string(), KeyKind::Rsa2048, 2030);
        connection.remote_auth = pki.anchors();
    })
    .behind_nat();
    pair.initiate(Side::A);
    pair.settle();
    pair.assert_up(1);
}
