//! MOBIKE (RFC 4555): either side moves, a line breaks, a NAT forgets; the child SAs stay, and both know where to send.

use std::net::IpAddr;
use std::time::Duration;

use sekisho_ike::event::{ChildHandle, CloseReason, Event};
use sekisho_ike::nat::NAT_PORT;

use crate::pair::{ADDRESS_A, ADDRESS_B, Pair, Side};
use crate::setup;

const ELSEWHERE_A: &str = "198.51.100.66";
const ELSEWHERE_B: &str = "203.0.113.66";
const V6_A: &str = "2001:db8:1::2";
const V6_B: &str = "2001:db8:2::2";

fn mobile() -> Pair {
    setup::pair(|_, connection| connection.mobike = true)
}

fn up(mut pair: Pair) -> Pair {
    pair.initiate(Side::A);
    pair.settle();
    pair.assert_up(1);
    pair
}

/// What the data paths of A and B use.
fn assert_paths(pair: &Pair, a: &str, b: &str) {
    let (a, b): (IpAddr, IpAddr) = (a.parse().expect("address"), b.parse().expect("address"));
    for (node, ours, theirs) in [(&pair.a, a, b), (&pair.b, b, a)] {
        let path = node.children.values().next().expect("a child").path;
        assert_eq!((path.local.ip(), path.remote.ip()), (ours, theirs));
        let ike = node.endpoint.ike_sas().next().expect("up").path;
        assert_eq!((ike.local.ip(), ike.remote.ip()), (ours, theirs), "IKE goes where ESP goes");
    }
}

/// The child SAs are the ones from before.
fn assert_same(pair: &mut Pair, before: &(ChildHandle, ChildHandle)) {
    assert_eq!((pair.a.child(), pair.b.child()), *before, "no child SA was made anew");
    assert!(pair.a.closed.is_empty() && pair.b.closed.is_empty());
    pair.assert_up(1);
}

#[test]
fn mobile_peers_meet_on_4500_without_udp_encapsulation() {
    let pair = up(mobile());
    for node in [&pair.a, &pair.b] {
        let child = node.children.values().next().expect("one");
        assert!(!child.udp_encapsulation);
        assert_eq!((child.path.local.port(), child.path.remote.port()), (NAT_PORT, NAT_PORT));
    }
    // One that does not speak it is not moved.
    let pair = up(setup::pair(|side, connection| connection.mobike = side == Side::A));
    assert_paths(&pair, ADDRESS_A, ADDRESS_B);
}

#[test]
fn the_initiator_moves_and_the_responder_follows() {
    let mut pair = up(mobile());
    let before = (pair.a.child(), pair.b.child());
    pair.readdress(Side::A, &[ELSEWHERE_A]);
    let ours = pair.a.children.values().next().expect("one").path;
    assert_eq!(ours.local.ip().to_string(), ELSEWHERE_A, "its own packets leave from there at once");
    pair.settle();
    assert_paths(&pair, ELSEWHERE_A, ADDRESS_B);
    assert_same(&mut pair, &before);
    // Back, with another rekey of everything in between.
    for side in [Side::A, Side::B] {
        let ike = pair.node(side).ike();
        pair.act(side, |endpoint, now| endpoint.rekey_ike(now, ike)).expect("rekey");
        pair.settle();
    }
    pair.readdress(Side::A, &[ADDRESS_A]);
    pair.settle();
    assert_paths(&pair, ADDRESS_A, ADDRESS_B);
    assert_same(&mut pair, &before);
}

#[test]
fn the_responder_sends_esp_to_a_new_address_once_it_is_checked() {
    let mut pair = up(mobile());
    pair.network.latency = Duration::from_millis(100);
    pair.readdress(Side::A, &[ELSEWHERE_A]);
    pair.run(Duration::from_millis(150));
    let (ike, esp) = (
        pair.b.endpoint.ike_sas().next().expect("up").path.remote.ip().to_string(),
        pair.b.children.values().next().expect("one").path.remote.ip().to_string(),
    );
    assert_eq!((ike.as_str(), esp.as_str()), (ELSEWHERE_A, ADDRESS_A));
    pair.settle();
    assert_paths(&pair, ELSEWHERE_A, ADDRESS_B);
}

#[test]
fn the_responder_moves_and_the_initiator_is_told() {
    let mut pair = up(mobile());
    let before = (pair.a.child(), pair.b.child());
    pair.readdress(Side::B, &[ELSEWHERE_B]);
    pair.settle();
    assert_paths(&pair, ADDRESS_A, ELSEWHERE_B);
    assert_same(&mut pair, &before);
}

#[test]
fn both_move_at_once_and_meet_at_an_address_told_before() {
    let mut pair = mobile();
    pair.readdress(Side::B, &[ADDRESS_B, ELSEWHERE_B]);
    pair.readdress(Side::A, &[ADDRESS_A]);
    let mut pair = up(pair);
    let before = (pair.a.child(), pair.b.child());
    pair.readdress(Side::A, &[ELSEWHERE_A]);
    pair.readdress(Side::B, &[ELSEWHERE_B]);
    pair.run(Duration::from_secs(40));
    pair.settle();
    assert_paths(&pair, ELSEWHERE_A, ELSEWHERE_B);
    assert_same(&mut pair, &before);
}

#[test]
fn a_dead_line_is_left_for_the_second_uplink() {
    for (side, dead) in [(Side::A, ADDRESS_A), (Side::B, ADDRESS_B)] {
        let mut pair = mobile();
        pair.readdress(Side::A, &[ADDRESS_A, ELSEWHERE_A]);
        pair.readdress(Side::B, &[ADDRESS_B, ELSEWHERE_B]);
        let mut pair = up(pair);
        let before = (pair.a.child(), pair.b.child());
        // Nobody is told: the provider's line is dead, the address is still there.
        pair.dead.push(dead.parse().expect("address"));
        pair.run(Duration::from_secs(60));
        pair.settle();
        match side {
            Side::A => assert_paths(&pair, ELSEWHERE_A, ADDRESS_B),
            Side::B => assert_paths(&pair, ADDRESS_A, ELSEWHERE_B),
        }
        assert_same(&mut pair, &before);
    }
}

#[test]
fn from_ipv4_to_ipv6_outside_and_back() {
    let mut pair = mobile();
    pair.readdress(Side::B, &[ADDRESS_B, V6_B]);
    let mut pair = up(pair);
    let before = (pair.a.child(), pair.b.child());
    pair.readdress(Side::A, &[V6_A]);
    pair.settle();
    assert_paths(&pair, V6_A, V6_B);
    pair.readdress(Side::A, &[ADDRESS_A]);
    pair.settle();
    assert_paths(&pair, ADDRESS_A, ADDRESS_B);
    assert_same(&mut pair, &before);
}

#[test]
fn moving_again_before_the_answer_ends_at_the_last_address() {
    let mut pair = up(mobile());
    let before = (pair.a.child(), pair.b.child());
    for host in 100..110 {
        pair.readdress(Side::A, &[&format!("198.51.100.{host}")]);
        pair.run(Duration::from_millis(15));
    }
    pair.run(Duration::from_secs(30));
    pair.settle();
    assert_paths(&pair, "198.51.100.109", ADDRESS_B);
    assert_same(&mut pair, &before);
}

#[test]
fn on_a_lossy_line_too() {
    for seed in 0..20 {
        let mut pair = setup::patient_pair(seed, |_, connection| connection.mobike = true);
        pair.network.jitter = Duration::from_millis(30);
        pair.network.duplicate_percent = 20;
        let mut pair = up(pair);
        pair.network.loss_percent = 30;
        for (side, address) in
            [(Side::A, ELSEWHERE_A), (Side::A, ADDRESS_A), (Side::B, ELSEWHERE_B), (Side::B, ADDRESS_B)]
        {
            pair.readdress(side, &[address]);
            pair.run(Duration::from_millis(700));
        }
        pair.run(Duration::from_secs(120));
        pair.network.loss_percent = 0;
        pair.run(Duration::from_secs(120));
        pair.settle();
        assert_paths(&pair, ADDRESS_A, ADDRESS_B);
        assert!(pair.a.closed.is_empty() && pair.b.closed.is_empty(), "seed {seed}");
        pair.assert_up(1);
    }
}

#[test]
fn behind_a_nat_and_out_again() {
    let pair = up(mobile());
    let before = (pair.a.child(), pair.b.child());
    // The laptop is carried home.
    let mut pair = pair.behind_nat();
    let inside = pair.a.address.to_string();
    pair.readdress(Side::A, &[&inside]);
    pair.settle();
    let (a, b) =
        (pair.a.endpoint.ike_sas().next().expect("up"), pair.b.endpoint.ike_sas().next().expect("up"));
    assert!(a.nat_local && b.nat_remote);
    for node in [&pair.a, &pair.b] {
        assert!(node.children.values().next().expect("one").udp_encapsulation);
    }
    pair.run(Duration::from_secs(100));
    assert!(pair.sent.iter().any(|(side, transmit)| *side == Side::A && crate::pair::is_keepalive(transmit)));
    pair.nat = None;
    pair.readdress(Side::A, &[ELSEWHERE_A]);
    pair.settle();
    for node in [&pair.a, &pair.b] {
        assert!(!node.children.values().next().expect("one").udp_encapsulation);
    }
    pair.sent.clear();
    pair.run(Duration::from_secs(100));
    assert!(!pair.sent.iter().any(|(_, transmit)| crate::pair::is_keepalive(transmit)));
    assert_paths(&pair, ELSEWHERE_A, ADDRESS_B);
    assert_same(&mut pair, &before);
}

#[test]
fn a_changed_mapping_is_told_by_the_one_behind_the_nat() {
    let mut pair = up(mobile().behind_nat());
    let before = (pair.a.child(), pair.b.child());
    pair.nat.as_mut().expect("nat").rebind();
    pair.run(Duration::from_secs(60));
    pair.settle();
    let nat = pair.b.endpoint.ike_sas().next().expect("up").path.remote;
    assert_eq!(pair.b.children.values().next().expect("one").path.remote, nat);
    assert_same(&mut pair, &before);
    // ESP shows it earlier, where it flows.
    let child = pair.b.child();
    let remapped = std::net::SocketAddr::new(nat.ip(), nat.port() + 7);
    pair.act(Side::B, |endpoint, now| endpoint.child_remapped(now, child, remapped)).expect("there");
    assert_eq!(pair.b.children.values().next().expect("one").path.remote, remapped);
}

#[test]
fn esp_from_elsewhere_moves_nothing_where_no_nat_is() {
    for mobike in [false, true] {
        let mut pair = up(setup::pair(|_, connection| connection.mobike = mobike));
        for side in [Side::A, Side::B] {
            let child = pair.node(side).child();
            let forged = "192.0.2.99:4500".parse().expect("address");
            pair.act(side, |endpoint, now| endpoint.child_remapped(now, child, forged)).expect("there");
        }
        assert_paths(&pair, ADDRESS_A, ADDRESS_B);
    }
}

#[test]
fn without_mobike_a_moved_gateway_begins_anew() {
    let mut pair = setup::established(|_, _| {});
    pair.readdress(Side::A, &[ELSEWHERE_A]);
    assert_eq!(pair.a.closed, [CloseReason::Dead], "at once: nothing else can be done");
    // Behind a NAT the peer follows by itself (RFC 7296 section 2.23).
    let mut pair = up(setup::pair(|_, _| {}).behind_nat());
    pair.nat.as_mut().expect("nat").rebind();
    pair.readdress(Side::A, &["192.168.1.77"]);
    pair.settle();
    pair.assert_up(1);
    let told = |event: &Event| matches!(event, Event::PathChanged { .. });
    assert!(pair.a.events.iter().any(told) && pair.b.events.iter().any(told));
}

#[test]
fn an_address_that_goes_and_comes_back_costs_nothing() {
    let mut pair = up(mobile());
    let before = (pair.a.child(), pair.b.child());
    pair.readdress(Side::A, &[ADDRESS_A]);
    pair.dead.push(ADDRESS_A.parse().expect("address"));
    pair.act(Side::A, |endpoint, now| endpoint.set_addresses(now, Vec::new()));
    pair.run(Duration::from_secs(20));
    pair.dead.clear();
    pair.readdress(Side::A, &[ADDRESS_A]);
    pair.run(Duration::from_secs(60));
    pair.settle();
    assert_paths(&pair, ADDRESS_A, ADDRESS_B);
    assert_same(&mut pair, &before);
}
