//! Child SAs for single resources beside the first (RFC 9611), each side with its own.

use std::collections::BTreeSet;
use std::time::Duration;

use sekisho_ike::config::{Connection, EndpointConfig, PerResource, Resources};
use sekisho_ike::event::{ChildHandle, Event};
use sekisho_ike::wire::ExchangeType;
use sekisho_ike::wire::Outer;

use crate::pair::{Node, Pair, Side};
use crate::setup::{PATIENT, child, connection, endpoint, esp};

const SIDES: [Side; 2] = [Side::A, Side::B];

/// What a side has, and what is configured there.
type Has = (u16, PerResource);

fn seeded(seed: u64, has: [Has; 2], change: impl Fn(Side, &mut Connection)) -> Pair {
    let config = |side: Side, (count, per_resource): Has| {
        let mut connection = connection(side);
        change(side, &mut connection);
        for child in &mut connection.children {
            child.per_resource = per_resource;
        }
        let resources = Resources { count, most: 16 };
        EndpointConfig { resources, retransmit: PATIENT, ..endpoint(connection) }
    };
    Pair::seeded(seed, config(Side::A, has[0]), config(Side::B, has[1]))
}

/// From the first pair on no packet may be lost.
fn begin(pair: &mut Pair) {
    pair.initiate(Side::A);
    while pair.a.children.is_empty() {
        pair.run(Duration::from_millis(1));
    }
    pair.lossless = pair.a.endpoint.config().connections[0].children.len() == 1;
}

/// Established, with all that comes of it.
fn up(has: [Has; 2], change: impl Fn(Side, &mut Connection)) -> Pair {
    let mut pair = seeded(1, has, change);
    begin(&mut pair);
    pair.settle();
    // The side that answers begins later.
    pair.run(Duration::from_secs(30));
    pair.settle();
    pair
}

const THREE: Has = (8, PerResource::AtMost(3));

/// Which resources have pairs, one by one; those for everything as `None`.
fn bindings(node: &Node) -> Vec<Option<u16>> {
    let mut all: Vec<_> = node.children.values().map(|child| child.binding.resource()).collect();
    all.sort();
    all
}

fn with_binding(node: &Node, resource: Option<u16>) -> ChildHandle {
    let of_it = |child: &&sekisho_ike::ChildSa| child.binding.resource() == resource;
    node.children.values().find(of_it).expect("one for it").child
}

/// CREATE_CHILD_SA requests that a side has sent, repetitions included.
fn asked(pair: &Pair, side: Side) -> usize {
    let is_request = |bytes: &[u8]| {
        Outer::parse(bytes)
            .is_ok_and(|outer| outer.header.exchange == ExchangeType::CreateChildSa && !outer.header.response)
    };
    pair.sent.iter().filter(|(from, transmit)| *from == side && is_request(&transmit.bytes)).count()
}

fn assert_no_failures(pair: &Pair) {
    assert!(pair.a.failures.is_empty(), "{:?}", pair.a.failures);
    assert!(pair.b.failures.is_empty(), "{:?}", pair.b.failures);
}

const OF_THREE: [Option<u16>; 4] = [None, Some(0), Some(1), Some(2)];

#[test]
fn each_resource_gets_a_pair_beside_the_first() {
    let mut pair = up([THREE; 2], |_, _| {});
    pair.assert_up(4);
    assert_no_failures(&pair);
    for node in [&pair.a, &pair.b] {
        assert_eq!(bindings(node), OF_THREE);
        let keys: BTreeSet<_> =
            node.children.values().map(|child| child.keys_out.encryption.to_vec()).collect();
        assert_eq!(keys.len(), 4, "each has keys of its own");
        let first = node.children.values().next().expect("one");
        assert!(node.children.values().all(|child| {
            (&child.local, &child.remote) == (&first.local, &first.remote) && child.name == first.name
        }));
    }
    assert_eq!(
        (asked(&pair, Side::A), asked(&pair, Side::B)),
        (3, 0),
        "whoever began it asks, once for each"
    );
}

#[test]
fn without_traffic_too_both_send_with_all_of_them() {
    let mut pair = seeded(1, [THREE; 2], |_, _| {});
    pair.traffic = false;
    pair.initiate(Side::A);
    pair.settle();
    pair.assert_up(4);
    let awaited = |event: &&Event| matches!(event, Event::ChildInstall(child) if !child.activate_outbound);
    assert_eq!(
        pair.b.events.iter().filter(awaited).count(),
        3,
        "the one that answers waits until the other has it"
    );
}

#[test]
fn as_many_as_there_are_and_each_side_has_its_own_number() {
    let mut pair = up([(2, PerResource::Auto), (4, PerResource::Auto)], |_, _| {});
    pair.assert_agreement();
    assert_no_failures(&pair);
    assert_eq!(bindings(&pair.b), [None, Some(0), Some(1), Some(2), Some(3)]);
    assert_eq!(
        bindings(&pair.a),
        [None, Some(0), Some(0), Some(1), Some(1)],
        "all receive, the least used get more"
    );
    assert_eq!((asked(&pair, Side::A), asked(&pair, Side::B)), (2, 2));
    // One that has no use for them itself still takes what the peer wants.
    let mut pair = up([(1, PerResource::Auto), (2, PerResource::Auto)], |_, _| {});
    pair.assert_agreement();
    assert_eq!(bindings(&pair.b), [None, Some(0), Some(1)]);
    assert_eq!((asked(&pair, Side::A), asked(&pair, Side::B)), (0, 2));
}

#[test]
fn a_peer_that_does_not_know_of_it_gets_one_pair_and_no_question() {
    for has in [[THREE, (8, PerResource::Off)], [(8, PerResource::Off), THREE]] {
        let mut pair = up(has, |_, _| {});
        pair.run(Duration::from_secs(1000));
        pair.assert_up(1);
        assert_no_failures(&pair);
        assert_eq!((asked(&pair, Side::A), asked(&pair, Side::B)), (0, 0));
        let first = pair.a.child();
        pair.act(Side::A, |endpoint, now| endpoint.rekey_child(now, first)).expect("rekey");
        pair.settle();
        pair.run(Duration::from_secs(1000));
        pair.assert_up(1);
    }
}

#[test]
fn every_child_has_its_own_and_comes_before_the_further_ones() {
    let two = |side, connection: &mut Connection| {
        connection.children.push(child(side, "second", "192.168.2.0/24", "10.3.0.0/24"));
    };
    let mut pair = up([THREE; 2], two);
    pair.assert_up(8);
    let order: Vec<_> = pair
        .a
        .events
        .iter()
        .filter_map(|event| match event {
            Event::ChildInstall(child) => Some((child.name.to_string(), child.binding.resource())),
            _ => None,
        })
        .collect();
    assert_eq!(order[..2], [("main".to_owned(), None), ("second".to_owned(), None)]);
    let different: BTreeSet<_> = order.iter().collect();
    assert_eq!(different.len(), 8);
}

#[test]
fn a_peer_that_has_enough_is_not_asked_on() {
    let mut pair = up([(8, PerResource::AtMost(4)), (8, PerResource::AtMost(1))], |_, _| {});
    pair.assert_agreement();
    assert_eq!(bindings(&pair.a), [None, Some(0), Some(1)]);
    assert_eq!(bindings(&pair.b), [None, Some(0), Some(0)]);
    assert_eq!(asked(&pair, Side::A), 3, "the third was refused");
    assert_no_failures(&pair);
    pair.run(Duration::from_secs(3000));
    assert_eq!(asked(&pair, Side::A), 3);
    // With its next successor the first pair may ask once more.
    let first = with_binding(&pair.a, None);
    pair.act(Side::A, |endpoint, now| endpoint.rekey_child(now, first)).expect("rekey");
    pair.settle();
    assert_eq!(asked(&pair, Side::A), 5);
    pair.assert_agreement();
    assert_no_failures(&pair);
}

#[test]
fn a_rekeyed_pair_is_for_the_same_resource() {
    let mut pair = up([THREE; 2], |_, _| {});
    for side in SIDES {
        for resource in OF_THREE {
            let old = with_binding(pair.node(side), resource);
            let before = pair.node(side.other()).children.clone();
            pair.act(side, |endpoint, now| endpoint.rekey_child(now, old)).expect("rekey");
            pair.settle();
            pair.assert_up(4);
            assert_eq!((bindings(&pair.a), bindings(&pair.b)), (OF_THREE.to_vec(), OF_THREE.to_vec()));
            assert_ne!(with_binding(pair.node(side), resource), old);
            let kept =
                pair.node(side.other()).children.keys().filter(|child| before.contains_key(child)).count();
            assert_eq!(kept, 3, "the others stay as they are");
        }
    }
    assert_no_failures(&pair);
}

#[test]
fn both_rekey_the_same_pair_at_once() {
    for (seed, shift) in (0..4).flat_map(|seed| [0, 5, 15, 25, 45].map(|shift| (seed, shift))) {
        let mut pair = seeded(seed, [THREE; 2], |_, _| {});
        begin(&mut pair);
        pair.settle();
        let (ours, theirs) = (with_binding(&pair.a, Some(1)), with_binding(&pair.b, Some(1)));
        pair.act(Side::A, |endpoint, now| endpoint.rekey_child(now, ours)).expect("rekey");
        pair.run(Duration::from_millis(shift));
        // With a late shift the peer's rekey has come first.
        let _ = pair.act(Side::B, |endpoint, now| endpoint.rekey_child(now, theirs));
        pair.settle();
        pair.run(Duration::from_secs(200));
        pair.assert_up(4);
        assert_eq!((bindings(&pair.a), bindings(&pair.b)), (OF_THREE.to_vec(), OF_THREE.to_vec()));
    }
}

#[test]
fn what_the_peer_deletes_is_not_asked_for_at_once() {
    let mut pair = up([THREE; 2], |_, _| {});
    // What fails on one side is lost until the other hears of it.
    pair.lossless = false;
    for (side, left) in [(Side::A, 3), (Side::B, 2)] {
        let one = *pair.node(side).children.keys().last().expect("one");
        pair.act(side, |endpoint, now| endpoint.child_failed(now, one)).expect("there");
        pair.settle();
        pair.run(Duration::from_secs(1000));
        pair.assert_up(left);
    }
    assert_eq!(asked(&pair, Side::A), 3, "the others carry on");
    let first = with_binding(&pair.b, None);
    pair.act(Side::B, |endpoint, now| endpoint.rekey_child(now, first)).expect("rekey");
    pair.settle();
    pair.assert_up(4);
}

#[test]
fn a_lost_first_pair_comes_again_whatever_the_others_do() {
    let mut pair = up([THREE; 2], |_, _| {});
    pair.lossless = false;
    let first = with_binding(&pair.b, None);
    pair.act(Side::B, |endpoint, now| endpoint.child_failed(now, first)).expect("there");
    pair.settle();
    assert_eq!(bindings(&pair.a), OF_THREE[1..]);
    pair.run(Duration::from_secs(60));
    pair.settle();
    pair.assert_up(4);
    assert_eq!((bindings(&pair.a), bindings(&pair.b)), (OF_THREE.to_vec(), OF_THREE.to_vec()));
}

#[test]
fn a_rekeyed_ike_sa_keeps_them_and_a_new_one_makes_its_own() {
    for side in SIDES {
        let mut pair = up([THREE; 2], |_, _| {});
        let (ike, children) = (pair.node(side).ike(), pair.a.children.keys().copied().collect::<Vec<_>>());
        pair.act(side, |endpoint, now| endpoint.rekey_ike(now, ike)).expect("rekey");
        pair.settle();
        pair.run(Duration::from_secs(60));
        pair.assert_up(4);
        assert_eq!(pair.a.children.keys().copied().collect::<Vec<_>>(), children);
    }
    let mut pair =
        up([THREE; 2], |_, connection| connection.children[0].rekey_after = Duration::from_secs(40_000));
    let (ike, before) = (pair.a.ike(), pair.a.children.clone());
    pair.act(Side::A, |endpoint, now| endpoint.reauthenticate(now, ike)).expect("up");
    pair.settle();
    pair.run(Duration::from_secs(60));
    pair.assert_up(4);
    assert_eq!((bindings(&pair.a), bindings(&pair.b)), (OF_THREE.to_vec(), OF_THREE.to_vec()));
    assert!(pair.a.children.keys().all(|child| !before.contains_key(child)));
    assert_no_failures(&pair);
}

#[test]
fn both_ask_at_once() {
    // The other side's patience is over while the question of the one that began is on its way.
    let mut crossed = 0;
    for (seed, latency) in (4..10).enumerate() {
        let mut pair = seeded(seed as u64, [(2, PerResource::Auto); 2], |_, connection| {
            connection.dpd_after = Duration::ZERO;
        });
        pair.network.latency = Duration::from_secs(latency);
        begin(&mut pair);
        pair.settle();
        pair.run(Duration::from_secs(100));
        pair.settle();
        pair.assert_agreement();
        assert_no_failures(&pair);
        for node in [&pair.a, &pair.b] {
            let resources: BTreeSet<_> = bindings(node).into_iter().collect();
            assert_eq!(resources, [None, Some(0), Some(1)].into(), "latency {latency} s");
        }
        crossed += usize::from(asked(&pair, Side::B) > 0);
        pair.network.latency = Duration::from_millis(20);
        pair.act(Side::B, |endpoint, now| endpoint.close_all(now));
        pair.run(Duration::from_secs(300));
        pair.assert_empty();
    }
    assert!(crossed > 0, "in some of these both have asked");
}

#[test]
fn bad_lines_make_them_late_and_lose_nothing() {
    for seed in 0..20 {
        let mut pair = seeded(seed, [THREE; 2], |_, connection| {
            connection.children[0].esp_proposals = match seed % 3 {
                0 => esp(&["aes128gcm16"]),
                1 => esp(&["aes128gcm16-x25519-ke1_mlkem768"]),
                _ => esp(&["aes256gcm16-ecp256", "aes128gcm16-x25519"]),
            };
        });
        pair.network.loss_percent = 25;
        pair.network.duplicate_percent = 10;
        pair.network.jitter = Duration::from_millis(60);
        begin(&mut pair);
        pair.settle();
        pair.run(Duration::from_secs(200));
        pair.settle();
        pair.network.loss_percent = 0;
        pair.run(Duration::from_secs(200));
        pair.settle();
        pair.assert_up(4);
        assert_eq!((bindings(&pair.a), bindings(&pair.b)), (OF_THREE.to_vec(), OF_THREE.to_vec()));
    }
}

#[test]
fn a_day_of_rekeys_leaves_as_many() {
    let mut pair = up([THREE; 2], |_, connection| {
        connection.ike_rekey_after = Duration::from_secs(4 * 3600);
        connection.children[0].rekey_after = Duration::from_secs(3600);
    });
    for _ in 0..24 {
        pair.run(Duration::from_secs(3600));
        pair.settle();
        pair.assert_up(4);
        assert_eq!((bindings(&pair.a), bindings(&pair.b)), (OF_THREE.to_vec(), OF_THREE.to_vec()));
    }
    assert_no_failures(&pair);
}
