//! Lines as they are: narrow ones, NATs that forget, gateways that lose power.

use std::time::Duration;

use sekisho_ike::event::FailureKind;

use crate::pair::{Pair, Side};
use crate::pki::{KeyKind, Pki};
use crate::setup::established;

/// Ethernet's.
const MTU: usize = 1500;
/// What IPv6 carries everywhere, and the engine's datagrams keep below.
const LEAST_MTU: usize = 1280;

/// Both prove themselves by certificates, whose chains make long messages.
fn certified() -> Pair {
    let pki = Pki::new();
    crate::setup::pair(|_, connection| {
        connection.local_auth = pki.issue(&connection.local_id.to_string(), KeyKind::Rsa2048, 2030);
        connection.remote_auth = pki.anchors();
    })
}

#[test]
fn large_messages_pass_a_path_that_drops_ip_fragments() {
    for mtu in [MTU, LEAST_MTU] {
        let mut pair = certified();
        pair.network.mtu = mtu;
        pair.initiate(Side::A);
        pair.settle();
        pair.assert_up(1);
        let longest = pair.sent.iter().map(|(_, transmit)| transmit.bytes.len()).max();
        assert!(longest.is_some_and(|longest| longest > 1000), "certificates are long: {longest:?}");
    }
}

#[test]
fn a_path_too_narrow_for_any_message_is_reported_as_such() {
    let mut pair = certified();
    pair.network.mtu = 200;
    pair.initiate(Side::A);
    pair.run(Duration::from_secs(120));
    assert!(pair.a.failed(FailureKind::Timeout), "{:?}", pair.a.failures);
    pair.network.mtu = MTU;
    pair.initiate(Side::A);
    pair.settle();
    pair.assert_up(1);
}

#[test]
fn keepalives_hold_the_mapping_of_a_nat_that_forgets() {
    let mut pair = crate::setup::pair(|_, connection| connection.dpd_after = Duration::ZERO).behind_nat();
    let nat = pair.nat.as_mut().expect("behind one");
    nat.timeout = Duration::from_secs(30);
    pair.initiate(Side::A);
    pair.settle();
    let path = pair.b.endpoint.ike_sas().next().expect("up").path;
    pair.run(Duration::from_secs(600));
    // The centre reaches the clinic after ten quiet minutes, by the same port.
    let child = pair.b.child();
    pair.act(Side::B, |endpoint, now| endpoint.rekey_child(now, child)).expect("rekey");
    pair.settle();
    pair.assert_up(1);
    assert_eq!(pair.b.endpoint.ike_sas().next().expect("up").path, path);
}

#[test]
fn a_nat_that_forgets_too_soon_is_followed() {
    let mut pair = crate::setup::pair(|_, _| {}).behind_nat();
    let nat = pair.nat.as_mut().expect("behind one");
    // Shorter than the interval of keepalives: every message of A comes from another port.
    nat.timeout = Duration::from_secs(10);
    pair.initiate(Side::A);
    pair.settle();
    pair.run(Duration::from_secs(300));
    let child = pair.a.child();
    pair.act(Side::A, |endpoint, now| endpoint.rekey_child(now, child)).expect("rekey");
    pair.settle();
    pair.assert_up(1);
    let paths: std::collections::BTreeSet<_> = pair.b.events.iter().filter_map(moved).collect();
    assert!(paths.len() > 3, "{paths:?}");
}

fn moved(event: &sekisho_ike::Event) -> Option<sekisho_ike::event::Path> {
    match event {
        sekisho_ike::Event::PathChanged { path, .. } => Some(*path),
        _ => None,
    }
}

#[test]
fn a_side_that_lost_its_state_is_found_out_and_comes_back() {
    for side in [Side::A, Side::B] {
        let mut pair: Pair = established(|_, _| {});
        pair.crash(side);
        // The other still believes in it.
        assert_eq!(pair.node(side.other()).established.len(), 1);
        pair.initiate(side);
        pair.settle();
        pair.assert_up(1);
        pair.run(Duration::from_secs(300));
        pair.assert_up(1);
    }
}
