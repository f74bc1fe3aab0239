//! Several connections on one address: which of them a peer gets shows by who it claims to be, whom it wants, and how it
//! proves it.

use std::net::SocketAddr;
use std::sync::Arc;

use sekisho_ike::config::{Connection, EndpointConfig, LocalAuth, RemoteAuth};
use sekisho_ike::event::{Event, FailureKind};
use sekisho_ike::nat::IKE_PORT;

use crate::pair::{Pair, Side};
use crate::pki::{KeyKind, Pki};
use crate::setup::{self, psk};

fn key(text: &str) -> (LocalAuth, RemoteAuth) {
    (LocalAuth::Psk(psk(text)), RemoteAuth::Psk(psk(text)))
}

/// One of B's connections: name, whom it takes, and how both prove it.
fn of_centre(
    name: &str,
    remote: &str,
    (local_auth, remote_auth): (LocalAuth, RemoteAuth),
) -> Arc<Connection> {
    Arc::new(Connection {
        name: name.into(),
        remote_address: None,
        remote_id: remote.parse().expect("pattern"),
        local_auth,
        remote_auth,
        ..setup::connection(Side::B)
    })
}

/// One of A's.
fn of_clinic(name: &str, id: &str, (local_auth, remote_auth): (LocalAuth, RemoteAuth)) -> Arc<Connection> {
    Arc::new(Connection {
        name: name.into(),
        local_id: id.parse().expect("identity"),
        local_auth,
        remote_auth,
        ..setup::connection(Side::A)
    })
}

fn pair(a: Vec<Arc<Connection>>, b: Vec<Arc<Connection>>) -> Pair {
    let config = |connections| EndpointConfig { connections, ..EndpointConfig::default() };
    let mut pair = Pair::new(config(a), config(b));
    pair.traffic = false;
    pair
}

fn open(pair: &mut Pair, connection: &str) {
    let at = |address| SocketAddr::new(address, IKE_PORT);
    let (local, remote) = (at(pair.a.address), at(pair.b.address));
    pair.act(Side::A, |endpoint, now| endpoint.initiate(now, connection, local, remote)).expect("initiate");
    pair.settle();
}

/// The connections that B brought up, in order.
fn taken(pair: &Pair) -> Vec<(String, String)> {
    let up = pair.b.events.iter().filter_map(|event| match event {
        Event::IkeEstablished(up) => Some((up.connection.to_string(), up.remote_id.to_string())),
        _ => None,
    });
    up.collect()
}

#[test]
fn each_peer_gets_the_connection_that_names_it_best() {
    let pki = Pki::new();
    let certified = |name: &str| (pki.issue(name, KeyKind::P256, 2030), pki.anchors());
    let centre = "centre.example";
    // The most open stands first: the order of the file decides nothing here.
    let b = vec![
        of_centre("anyone", "%any", certified(centre)),
        of_centre("clinics", "*.clinics.example", certified(centre)),
        of_centre("osaka", "*.osaka.clinics.example", certified(centre)),
        of_centre("first", "first.clinics.example", certified(centre)),
        of_centre("keyed", "keyed.clinics.example", key("a key of one clinic alone")),
        of_centre("other-keyed", "other.clinics.example", key("and one of another clinic")),
    ];
    let of = |id: &str| of_clinic(id, id, certified(id));
    let keyed = |id: &str, text| of_clinic(id, id, key(text));
    let a = vec![
        of("first.clinics.example"),
        of("second.clinics.example"),
        of("a.osaka.clinics.example"),
        of("elsewhere.example"),
        keyed("keyed.clinics.example", "a key of one clinic alone"),
        keyed("other.clinics.example", "and one of another clinic"),
    ];
    let ids: Vec<String> = a.iter().map(|connection| connection.name.to_string()).collect();
    let mut pair = pair(a, b);
    for id in &ids {
        open(&mut pair, id);
    }
    let expected = ["first", "clinics", "osaka", "anyone", "keyed", "other-keyed"];
    let expected: Vec<_> = expected.iter().map(|name| (*name).to_owned()).zip(ids).collect();
    assert_eq!(taken(&pair), expected, "{:?}", pair.b.failures);
    assert_eq!(pair.b.established.len(), 6, "none closes another");
}

#[test]
fn a_key_of_one_identity_opens_nothing_for_another() {
    let b = vec![
        of_centre("one", "one.example", key("the key of the first clinic")),
        of_centre("two", "two.example", key("the key of the second clinic")),
    ];
    let mut pair = pair(vec![of_clinic("x", "two.example", key("the key of the first clinic"))], b);
    open(&mut pair, "x");
    assert!(pair.b.failed(FailureKind::AuthenticationFailed) && taken(&pair).is_empty());
}

#[test]
fn whom_the_peer_wants_decides_between_identities_of_ours() {
    let of = |name: &str, id: &str| {
        let connection = of_centre(name, "clinic.example", key("the same key for both services"));
        Arc::new(Connection { local_id: id.parse().expect("identity"), ..(*connection).clone() })
    };
    let b = vec![
        of("records", "records.example"),
        of("registry", "registry.example"),
        of("third", "third.example"),
    ];
    let wants = |id: &str| {
        let connection = of_clinic("tunnel", "clinic.example", key("the same key for both services"));
        Arc::new(Connection { remote_id: id.parse().expect("identity"), ..(*connection).clone() })
    };
    for (wanted, name) in
        [("registry.example", "registry"), ("records.example", "records"), ("third.example", "third")]
    {
        let mut pair = pair(vec![wants(wanted)], b.clone());
        open(&mut pair, "tunnel");
        assert_eq!(taken(&pair), [(name.to_owned(), "clinic.example".to_owned())]);
    }
    // Who takes any of ours gets the first, and is told which it is.
    let mut anyone = pair(vec![wants("%any")], b.clone());
    open(&mut anyone, "tunnel");
    assert_eq!(taken(&anyone)[0].0, "records");
    let mut nobody = pair(vec![wants("unknown.example")], b);
    open(&mut nobody, "tunnel");
    assert!(nobody.b.failed(FailureKind::NoConnection) && taken(&nobody).is_empty());
}

#[test]
fn the_proof_decides_between_connections_for_the_same_identities() {
    let (ours, others) = (Pki::new(), Pki::new());
    let centre = "centre.example";
    let b = vec![
        of_centre("others", "*.example", (ours.issue(centre, KeyKind::P256, 2030), others.anchors())),
        of_centre(
            "keyed",
            "*.example",
            (ours.issue(centre, KeyKind::P256, 2030), key("a key of a group of clinics").1),
        ),
        of_centre("ours", "*.example", (ours.issue(centre, KeyKind::P256, 2030), ours.anchors())),
    ];
    let a = vec![
        of_clinic("certified", "a.example", (ours.issue("a.example", KeyKind::P256, 2030), ours.anchors())),
        of_clinic("keyed", "b.example", (key("a key of a group of clinics").0, ours.anchors())),
        of_clinic("neither", "c.example", (key("another key, that nobody knows").0, ours.anchors())),
    ];
    let mut pair = pair(a, b);
    for name in ["certified", "keyed", "neither"] {
        open(&mut pair, name);
    }
    let expected = [("ours", "a.example"), ("keyed", "b.example")];
    assert_eq!(
        taken(&pair),
        expected.map(|(name, id)| (name.to_owned(), id.to_owned())),
        "{:?}",
        pair.b.failures
    );
    assert!(pair.a.failed(FailureKind::RefusedByPeer));
}

#[test]
fn each_side_proves_itself_in_its_own_way() {
    let pki = Pki::new();
    for certified in [Side::A, Side::B] {
        for kind in [KeyKind::P256, KeyKind::P384, KeyKind::Ed25519, KeyKind::Rsa2048] {
            let mut pair = setup::established(|side, connection| {
                if side == certified {
                    connection.local_auth = pki.issue(&connection.local_id.to_string(), kind, 2030);
                } else {
                    connection.remote_auth = pki.anchors();
                }
            });
            pair.assert_up(1);
        }
    }
}

/// INITIAL_CONTACT of one peer says nothing about another of the same connection; its own new IKE SA replaces its old one.
#[test]
fn peers_of_one_connection_do_not_push_each_other_out() {
    let b = vec![of_centre("clinics", "*.clinics.example", key("a key of a group of clinics"))];
    let of = |id: &str| of_clinic(id, id, key("a key of a group of clinics"));
    let names = ["a.clinics.example", "b.clinics.example", "c.clinics.example"];
    let mut pair = pair(names.map(of).to_vec(), b);
    for name in names {
        open(&mut pair, name);
    }
    assert_eq!(pair.b.established.len(), 3);
    open(&mut pair, "b.clinics.example");
    pair.settle();
    let mut peers: Vec<_> =
        pair.b.endpoint.ike_sas().filter_map(|sa| sa.remote_id).map(|id| id.to_string()).collect();
    peers.sort_unstable();
    peers.dedup();
    assert_eq!(peers, names);
}
