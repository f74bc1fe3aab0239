//! Everything that must come up, comes up, with the same keys on both sides.

use std::sync::Arc;
use std::time::Duration;

use sekisho_ike::config::{Connection, EndpointConfig, LocalAuth, RemoteAuth};
use sekisho_ike::event::{CloseReason, Event, FailureKind};

use crate::pair::{Pair, Side};
use crate::pki::{KeyKind, Pki};
use crate::setup::{self, child, connection, endpoint, esp, established, ike, psk};

#[test]
fn a_pre_shared_key_in_two_round_trips() {
    let mut pair = established(|_, _| {});
    pair.assert_up(1);
    let Event::IkeEstablished(up) = &pair.a.events[0] else { panic!("{:?}", pair.a.events) };
    assert!(up.initiator && !up.nat_local && !up.nat_remote);
    assert_eq!(up.suite, "aes128gcm16-prfsha256-x25519");
    assert_eq!(up.remote_id.to_string(), "centre.example");
    assert!(
        matches!(&pair.a.events[1], Event::ChildInstall(child) if child.activate_outbound && child.replaces.is_none())
    );
    assert!(pair.a.failures.is_empty() && pair.b.failures.is_empty());
    let messages: Vec<_> = pair.sent.iter().map(|(side, transmit)| (*side, transmit.bytes[18])).collect();
    assert_eq!(messages, [(Side::A, 34), (Side::B, 34), (Side::A, 35), (Side::B, 35)], "two round trips");
}

#[test]
fn certificates_of_every_kind_with_an_intermediate() {
    for kind in [KeyKind::P256, KeyKind::P384, KeyKind::Ed25519, KeyKind::Rsa2048] {
        let pki = Pki::new();
        let mut pair = established(|_, connection| {
            connection.local_auth = pki.issue(&connection.local_id.to_string(), kind, 2030);
            connection.remote_auth = pki.anchors();
        });
        pair.assert_up(1);
        assert!(pair.a.failures.is_empty() && pair.b.failures.is_empty(), "{kind:?}: {:?}", pair.a.failures);
    }
}

#[test]
fn a_certificate_on_one_side_and_a_key_on_the_other() {
    let pki = Pki::new();
    let mut pair = established(|side, connection| match side {
        Side::A => connection.remote_auth = pki.anchors(),
        Side::B => connection.local_auth = pki.issue("centre.example", KeyKind::P256, 2030),
    });
    pair.assert_up(1);
}

#[test]
fn large_chains_travel_in_fragments() {
    let pki = Pki::new();
    let mut pair = established(|_, connection| {
        connection.local_auth = pki.issue(&connection.local_id.to_string(), KeyKind::Rsa2048, 2030);
        connection.remote_auth = pki.anchors();
    });
    pair.assert_up(1);
    assert!(pair.sent.iter().all(|(_, transmit)| transmit.bytes.len() <= 1228), "no IP fragments");
    let fragments = |from| {
        let of = pair.sent.iter().filter(|(side, transmit)| *side == from && transmit.bytes[16] == 53);
        of.count()
    };
    assert!(fragments(Side::A) >= 2 && fragments(Side::B) >= 2);
}

#[test]
fn every_ike_suite() {
    let encryption =
        ["aes128gcm16", "aes256gcm16", "chacha20poly1305", "aes128-sha256", "aes256-sha384", "aes256-sha512"];
    let prf = ["prfsha256", "prfsha384", "prfsha512"];
    for (encryption, prf) in encryption.iter().flat_map(|encryption| prf.map(|prf| (encryption, prf))) {
        let name = format!("{encryption}-{prf}-x25519");
        let mut pair = established(|_, connection| connection.ike_proposals = ike(&[&name]));
        pair.assert_up(1);
        assert_eq!(pair.a.endpoint.ike_sas().next().expect("up").suite, name);
    }
}

#[test]
fn every_group() {
    for group in ["modp2048", "modp3072", "modp4096", "ecp256", "ecp384", "x25519"] {
        let mut pair = established(|_, connection| {
            connection.ike_proposals = ike(&[&format!("aes128gcm16-prfsha256-{group}")]);
            connection.children[0].esp_proposals = esp(&[&format!("aes128gcm16-{group}")]);
        });
        pair.assert_up(1);
        // The group of the child comes into play with its rekey.
        let child = pair.a.child();
        pair.act(Side::A, |endpoint, now| endpoint.rekey_child(now, child)).expect("rekey");
        pair.settle();
        pair.assert_up(1);
        assert_eq!(
            pair.a.children.values().next().expect("one").suite.to_string(),
            format!("aes128gcm16-{group}-esn")
        );
    }
}

#[test]
fn every_esp_suite() {
    for name in [
        "aes128gcm16",
        "aes256gcm16",
        "chacha20poly1305",
        "aes128-sha256",
        "aes256-sha256",
        "aes128gcm16-noesn",
    ] {
        let mut pair = established(|_, connection| connection.children[0].esp_proposals = esp(&[name]));
        pair.assert_up(1);
        let child = pair.b.child();
        pair.act(Side::B, |endpoint, now| endpoint.rekey_child(now, child)).expect("rekey");
        pair.settle();
        pair.assert_up(1);
    }
}

#[test]
fn the_responder_asks_for_another_group() {
    let mut pair = established(|side, connection| {
        connection.ike_proposals = match side {
            Side::A => ike(&["aes128gcm16-prfsha256-x25519-ecp256-modp2048"]),
            Side::B => ike(&["aes128gcm16-prfsha256-ecp256"]),
        };
    });
    pair.assert_up(1);
    assert_eq!(pair.sent.len(), 6, "one refusal");
    assert!(pair.a.failures.is_empty());
}

#[test]
fn the_responder_asks_for_another_group_in_a_rekey() {
    let mut pair = established(|side, connection| {
        connection.children[0].esp_proposals = match side {
            Side::A => esp(&["aes128gcm16-x25519-ecp256"]),
            Side::B => esp(&["aes128gcm16-ecp256"]),
        };
    });
    let child = pair.a.child();
    pair.act(Side::A, |endpoint, now| endpoint.rekey_child(now, child)).expect("rekey");
    pair.settle();
    pair.assert_up(1);
    assert!(pair.a.failures.is_empty());
}

#[test]
fn defaults_agree_on_the_best() {
    let mut pair = established(|_, connection| {
        connection.ike_proposals = sekisho_ike::crypto::suite::IkeProposal::defaults();
        connection.children[0].esp_proposals = sekisho_ike::crypto::suite::EspProposal::defaults();
    });
    pair.assert_up(1);
    assert_eq!(pair.a.endpoint.ike_sas().next().expect("up").suite, "aes256gcm16-prfsha256-x25519");
}

#[test]
fn several_children_and_both_families() {
    let mut pair = established(|side, connection| {
        connection.children.push(child(side, "second", "192.168.2.0/24", "10.3.0.0/24"));
        connection.children.push(child(side, "six", "fd00:1::/64", "fd00:2::/64"));
    });
    pair.assert_up(3);
    let names: Vec<_> = pair.b.outbound.keys().map(|(name, _)| name.clone()).collect();
    assert_eq!(names, ["main", "second", "six"]);
}

#[test]
fn a_connection_without_children_comes_up() {
    let mut pair = established(|_, connection| connection.children.clear());
    pair.assert_up(0);
}

#[test]
fn selectors_are_narrowed_to_what_both_allow() {
    let mut pair = established(|side, connection| {
        if side == Side::A {
            connection.children[0] = child(side, "main", "192.168.0.0/16", "10.0.0.0/8");
        }
    });
    pair.assert_up(1);
    let child = pair.a.children.values().next().expect("one");
    assert_eq!(child.local, [setup::child(Side::A, "", "192.168.1.0/24", "10.2.0.0/24").local[0]]);
}

#[test]
fn cookies_are_demanded_under_load_and_returned() {
    let busy = EndpointConfig {
        limits: sekisho_ike::config::Limits { cookie_threshold: 0, ..Default::default() },
        ..endpoint(connection(Side::B))
    };
    let mut pair = Pair::new(endpoint(connection(Side::A)), busy);
    pair.initiate(Side::A);
    pair.settle();
    pair.assert_up(1);
    assert_eq!(pair.b.endpoint.stats().cookies_demanded, 1);
    assert_eq!(pair.sent.len(), 6, "one more round trip");
}

#[test]
fn a_cookie_and_another_group_at_once() {
    let busy = |mut connection: Connection| {
        connection.ike_proposals = ike(&["aes128gcm16-prfsha256-ecp384"]);
        EndpointConfig {
            limits: sekisho_ike::config::Limits { cookie_threshold: 0, ..Default::default() },
            ..endpoint(connection)
        }
    };
    let mut ours = connection(Side::A);
    ours.ike_proposals = ike(&["aes128gcm16-prfsha256-x25519-ecp384"]);
    let mut pair = Pair::new(endpoint(ours), busy(connection(Side::B)));
    pair.initiate(Side::A);
    pair.settle();
    pair.assert_up(1);
}

#[test]
fn close_from_either_side_leaves_nothing() {
    for side in [Side::A, Side::B] {
        let mut pair = established(|side, connection| {
            connection.children.push(child(side, "second", "192.168.2.0/24", "10.3.0.0/24"));
        });
        pair.assert_up(2);
        let ike = pair.node(side).ike();
        pair.act(side, |endpoint, now| endpoint.close(now, ike)).expect("close");
        assert!(pair.node(side).children.is_empty(), "at once on our side");
        pair.run(Duration::from_secs(1));
        assert_eq!(pair.node(side).closed, [CloseReason::Local]);
        assert_eq!(pair.node(side.other()).closed, [CloseReason::Peer]);
        assert!(pair.act(side, |endpoint, now| endpoint.close(now, ike)).is_err(), "it is gone");
        pair.run(Duration::from_secs(120));
        pair.assert_empty();
    }
}

#[test]
fn both_close_at_once() {
    let mut pair = established(|_, _| {});
    pair.act(Side::A, |endpoint, now| endpoint.close_all(now));
    pair.act(Side::B, |endpoint, now| endpoint.close_all(now));
    pair.run(Duration::from_secs(120));
    pair.assert_empty();
}

/// Who waits for it can end then, though what is closed still answers the peer for a while.
#[test]
fn a_farewell_is_over_once_it_is_acknowledged() {
    let mut pair = established(|_, _| {});
    pair.act(Side::A, |endpoint, now| endpoint.close_all(now));
    let told = |pair: &Pair| {
        let stats = pair.a.endpoint.stats();
        (stats.retired, stats.unacknowledged)
    };
    assert_eq!(told(&pair), (1, 1));
    pair.run(Duration::from_secs(1));
    assert_eq!(told(&pair), (1, 0));
    assert_eq!(pair.b.endpoint.stats().unacknowledged, 0, "the peer has nothing to be acknowledged");
}

#[test]
fn closing_in_the_middle_of_every_step_leaves_nothing() {
    for milliseconds in (0..120).step_by(10) {
        let mut pair = setup::pair(|_, _| {});
        pair.initiate(Side::A);
        pair.run(Duration::from_millis(milliseconds));
        pair.act(Side::A, |endpoint, now| endpoint.close_all(now));
        pair.run(Duration::from_secs(200));
        pair.assert_empty();
    }
}

#[test]
fn a_dead_peer_is_noticed() {
    let mut pair = established(|_, _| {});
    pair.b.up = false;
    pair.run(Duration::from_secs(97));
    assert!(pair.a.closed.is_empty(), "30 s of silence, then retransmissions");
    pair.run(Duration::from_secs(3));
    assert_eq!(pair.a.closed, [CloseReason::Dead]);
    assert!(pair.a.children.is_empty());
    assert!(pair.a.failed(FailureKind::Timeout));
    pair.run(Duration::from_secs(120));
    assert_eq!(pair.a.endpoint.stats().retired, 0);
}

#[test]
fn a_quiet_peer_is_asked_and_lives() {
    let mut pair = established(|_, _| {});
    pair.sent.clear();
    pair.run(Duration::from_secs(1000));
    pair.assert_up(1);
    assert!((20..80).contains(&pair.sent.len()), "about one question in 30 s: {}", pair.sent.len());
}

#[test]
fn no_answer_ends_the_attempt() {
    let mut pair = setup::pair(|_, _| {});
    pair.b.up = false;
    pair.initiate(Side::A);
    pair.run(Duration::from_secs(67));
    assert!(pair.a.closed.is_empty());
    pair.run(Duration::from_secs(3));
    assert_eq!(pair.a.closed, [CloseReason::Failed]);
    assert!(pair.a.failed(FailureKind::Timeout));
    assert_eq!(pair.sent.len(), 8, "one request, seven retransmissions");
    pair.assert_empty();
}

#[test]
fn a_restarted_peer_replaces_its_old_ike_sa() {
    let mut pair = established(|_, _| {});
    let fresh = Pair::seeded(77, endpoint(connection(Side::A)), endpoint(connection(Side::B)));
    pair.a = fresh.a;
    pair.initiate(Side::A);
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.b.closed, [CloseReason::Replaced]);
    pair.assert_up(1);
}

#[test]
fn a_data_path_that_refuses_a_pair_gets_rid_of_it_on_both_sides() {
    for side in [Side::A, Side::B] {
        let mut pair = established(|_, _| {});
        let child = pair.node(side).child();
        pair.act(side, |endpoint, now| endpoint.child_failed(now, child)).expect("there");
        pair.settle();
        pair.assert_agreement();
        assert!(pair.a.children.is_empty() && pair.b.children.is_empty());
        assert_eq!(pair.a.established.len(), 1, "the IKE SA stays");
    }
}

#[test]
fn a_changed_configuration_closes_what_it_concerns() {
    let mut pair = established(|_, _| {});
    let same = endpoint(connection(Side::A));
    pair.act(Side::A, |endpoint, now| endpoint.set_config(now, same));
    pair.settle();
    pair.assert_up(1);
    let mut changed = connection(Side::A);
    changed.children[0].rekey_after = Duration::from_secs(60);
    pair.act(Side::A, |endpoint, now| endpoint.set_config(now, setup::endpoint(changed)));
    pair.run(Duration::from_secs(200));
    assert_eq!(
        (pair.a.closed.as_slice(), pair.b.closed.as_slice()),
        (&[CloseReason::Local][..], &[CloseReason::Peer][..])
    );
    pair.assert_empty();
}

#[test]
fn the_responder_finds_the_connection_by_identity() {
    let clinic = |name: &str, key: &str| {
        let mut connection = connection(Side::B);
        connection.name = name.into();
        connection.remote_address = None;
        connection.remote_id = format!("{name}.example").parse().expect("identity");
        connection.local_auth = LocalAuth::Psk(psk(key));
        connection.remote_auth = RemoteAuth::Psk(psk(key));
        connection
    };
    let wanted = "correct horse battery staple";
    let all = [
        clinic("first", "the first clinic's own key"),
        clinic("clinic", wanted),
        clinic("last", "and the last one's"),
    ];
    let centre = EndpointConfig { connections: all.map(Arc::new).to_vec(), ..EndpointConfig::default() };
    let mut pair = Pair::new(endpoint(connection(Side::A)), centre);
    pair.initiate(Side::A);
    pair.settle();
    pair.assert_up(1);
    assert_eq!(pair.b.endpoint.ike_sas().next().expect("up").connection.as_deref(), Some("clinic"));
}
