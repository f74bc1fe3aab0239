//! Virtual addresses (RFC 7296 section 2.19): pools on one side, wishes on the other, and the selectors they make.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use sekisho_ike::EndpointConfig;
use sekisho_ike::config::{Assigned, Connection, Pool, Wanted};
use sekisho_ike::event::{CloseReason, FailureKind, VirtualAddresses};

use crate::pair::{Pair, Side};
use crate::setup::{connection, endpoint};

const DNS: &str = "10.2.0.53";

fn address(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn pool(name: &str, first: &str, last: &str) -> Pool {
    Pool { name: name.into(), first: address(first), last: address(last) }
}

/// A asks, B gives from pools of the size asked for.
fn roadwarrior(size: u8, change: impl Fn(Side, &mut Connection)) -> Pair {
    let config = |side: Side| {
        let mut connection = connection(side);
        let child = connection.children.first_mut().expect("one");
        match side {
            Side::A => {
                child.local.clear();
                child.local_dynamic = true;
                connection.wants = Wanted { ipv4: true, ipv6: false };
            }
            Side::B => {
                child.remote.clear();
                child.remote_dynamic = true;
                let pools = vec!["v6".into(), "v4".into()];
                connection.assigns = Some(Assigned { pools, dns: vec![address(DNS)], required: true });
            }
        }
        change(side, &mut connection);
        EndpointConfig {
            pools: vec![
                pool("v4", "10.9.0.10", &format!("10.9.0.{}", 9 + size)),
                pool("v6", "fd09::10", "fd09::ffff"),
            ],
            ..endpoint(connection)
        }
    };
    Pair::new(config(Side::A), config(Side::B))
}

fn virtual_addresses(pair: &Pair) -> [VirtualAddresses; 2] {
    [&pair.a, &pair.b].map(|node| node.endpoint.ike_sas().next().expect("up").virtual_addresses)
}

#[test]
fn an_address_is_given_and_is_the_selector() {
    let mut pair = roadwarrior(4, |_, _| {});
    pair.initiate(Side::A);
    pair.settle();
    pair.assert_up(1);
    let [a, b] = virtual_addresses(&pair);
    assert_eq!((a.local.len(), &a.local), (1, &b.remote));
    assert_eq!(a.dns, [address(DNS)]);
    let child = pair.a.children.values().next().expect("one");
    assert_eq!(child.local.len(), 1);
    assert_eq!((child.local[0].start(), child.local[0].end()), (a.local[0], a.local[0]));
    // Rekeys of everything, from both sides, keep it.
    for side in [Side::A, Side::B] {
        let (ike, child) = (pair.node(side).ike(), pair.node(side).child());
        pair.act(side, |endpoint, now| endpoint.rekey_child(now, child)).expect("rekey");
        pair.settle();
        pair.act(side, |endpoint, now| endpoint.rekey_ike(now, ike)).expect("rekey");
        pair.settle();
        pair.assert_up(1);
    }
    assert_eq!(virtual_addresses(&pair)[0], a);
    assert_eq!(pair.b.endpoint.stats().virtual_addresses, 1);
}

#[test]
fn both_families_at_once() {
    let mut pair = roadwarrior(4, |side, connection| {
        connection.wants.ipv6 = side == Side::A;
        let child = connection.children.first_mut().expect("one");
        let networks = if side == Side::A { &mut child.remote } else { &mut child.local };
        networks.push("fd10:2::/64".parse().expect("selector"));
    });
    pair.initiate(Side::A);
    pair.settle();
    pair.assert_up(1);
    let [a, _] = virtual_addresses(&pair);
    assert_eq!(a.local.iter().map(IpAddr::is_ipv4).collect::<Vec<_>>(), [true, false]);
    assert_eq!(pair.a.children.values().next().expect("one").local.len(), 2);
}

#[test]
fn a_peer_that_comes_back_or_proves_itself_anew_has_its_address_again() {
    let mut pair = roadwarrior(4, |_, _| {});
    pair.initiate(Side::A);
    pair.settle();
    let [a, _] = virtual_addresses(&pair);
    let ike = pair.a.ike();
    pair.act(Side::A, |endpoint, now| endpoint.reauthenticate(now, ike)).expect("established");
    pair.run(Duration::from_secs(30));
    pair.settle();
    assert_eq!(virtual_addresses(&pair)[0].local, a.local, "after reauthentication");
    assert_eq!(pair.b.endpoint.stats().virtual_addresses, 1);
    pair.crash(Side::A);
    pair.initiate(Side::A);
    pair.run(Duration::from_secs(30));
    pair.settle();
    assert_eq!(virtual_addresses(&pair)[0].local, a.local, "after a crash");
    pair.act(Side::A, |endpoint, now| endpoint.close_all(now));
    pair.run(Duration::from_secs(200));
    assert_eq!(pair.b.endpoint.stats().virtual_addresses, 0, "given back");
}

#[test]
fn an_exhausted_pool_refuses_and_the_reason_is_shown() {
    let mut pair = roadwarrior(0, |_, _| {});
    pair.initiate(Side::A);
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.a.closed, [CloseReason::Failed]);
    assert!(pair.a.failed(FailureKind::RefusedByPeer) && pair.b.failed(FailureKind::Overload));
    let why = &pair.a.failures.last().expect("one").detail;
    assert!(why.contains("INTERNAL_ADDRESS_FAILURE"), "{why}");
    assert_eq!(pair.b.endpoint.stats().pools_exhausted.get("v4"), Some(&1));
    pair.run(Duration::from_secs(200));
    pair.assert_empty();
}

#[test]
fn one_that_must_ask_and_does_not_is_refused() {
    let mut pair = roadwarrior(4, |side, connection| {
        if side == Side::A {
            connection.wants = Wanted::default();
        }
    });
    pair.initiate(Side::A);
    pair.run(Duration::from_secs(5));
    assert!(pair.a.children.is_empty() && pair.b.children.is_empty());
    assert!(pair.b.failed(FailureKind::NoConnection));
}

#[test]
fn a_peer_that_gives_nothing_is_left() {
    let mut pair = roadwarrior(4, |_, connection| connection.assigns = None);
    pair.initiate(Side::A);
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.a.closed, [CloseReason::Failed]);
    pair.run(Duration::from_secs(200));
    pair.assert_empty();
}

#[test]
fn a_connection_that_asks_for_an_address_is_not_the_peers_to_open() {
    let mut pair = roadwarrior(4, |_, _| {});
    pair.initiate(Side::B);
    pair.run(Duration::from_secs(5));
    assert!(pair.a.children.is_empty() && pair.b.children.is_empty());
    pair.run(Duration::from_secs(200));
    pair.assert_empty();
}

#[test]
fn a_pool_that_grows_disturbs_nobody_and_one_that_moves_away_does() {
    let mut pair = roadwarrior(4, |_, _| {});
    pair.initiate(Side::A);
    pair.settle();
    let other = |pools: Vec<Pool>| EndpointConfig { pools, ..pair.b.endpoint.config().clone() };
    let larger = other(vec![pool("v4", "10.9.0.1", "10.9.0.4"), pool("v4", "10.9.0.5", "10.9.0.200")]);
    let elsewhere = other(vec![pool("v4", "10.8.0.1", "10.8.0.200")]);
    pair.act(Side::B, |endpoint, now| endpoint.set_config(now, larger));
    pair.settle();
    pair.assert_up(1);
    pair.act(Side::B, |endpoint, now| endpoint.set_config(now, elsewhere));
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.a.closed, [CloseReason::Peer]);
    pair.initiate(Side::A);
    pair.settle();
    assert!(virtual_addresses(&pair)[0].local[0].to_string().starts_with("10.8.0."));
}

#[test]
fn dynamic_without_a_pool_is_the_outer_address() {
    let mut pair = roadwarrior(4, |_, connection| {
        connection.wants = Wanted::default();
        connection.assigns = None;
    });
    pair.initiate(Side::A);
    pair.settle();
    pair.assert_up(1);
    let child = pair.a.children.values().next().expect("one");
    assert_eq!((child.local[0].start(), child.local.len()), (pair.a.address, 1));
}

#[test]
fn a_hundred_peers_have_a_hundred_addresses() {
    // Each a gateway of its own that comes once; the one pool stays.
    let centre = |name: &str| {
        let mut centre = connection(Side::B);
        centre.name = name.into();
        centre.remote_id = format!("{name}.example").parse().expect("identity");
        let child = centre.children.first_mut().expect("one");
        child.remote.clear();
        child.remote_dynamic = true;
        centre.assigns = Some(Assigned { pools: vec!["v4".into()], dns: Vec::new(), required: true });
        Arc::new(centre)
    };
    let names: Vec<String> = (0..100).map(|n| format!("peer{n}")).collect();
    let config = EndpointConfig {
        connections: names.iter().map(|name| centre(name)).collect(),
        pools: vec![pool("v4", "10.9.0.10", "10.9.0.109")],
        ..EndpointConfig::default()
    };
    let visitor = |name: &str| {
        let mut visitor = connection(Side::A);
        visitor.local_id = format!("{name}.example").parse().expect("identity");
        let child = visitor.children.first_mut().expect("one");
        child.local.clear();
        child.local_dynamic = true;
        visitor.wants = Wanted { ipv4: true, ipv6: false };
        endpoint(visitor)
    };
    let mut pair = Pair::new(visitor("peer0"), config);
    let mut given = std::collections::BTreeSet::new();
    for (seed, name) in (1000..).zip(&names) {
        pair.a = Pair::seeded(seed, visitor(name), EndpointConfig::default()).a;
        pair.initiate(Side::A);
        pair.run(Duration::from_millis(500));
        let up = pair.a.endpoint.ike_sas().next().expect("up");
        assert!(given.insert(up.virtual_addresses.local[0]), "given twice");
    }
    assert_eq!(given.len(), 100);
}
