//! CRLs: asked for by those alone who proved who they are, waited for, believed from the right authority only, and heeded
//! also when the tunnel is up.

use std::time::Duration;

use sekisho_ike::config::LocalAuth;
use sekisho_ike::crypto::x509::RevocationPolicy;
use sekisho_ike::event::{CloseReason, FailureKind};

use crate::pair::{Pair, Side, WALL};
use crate::pki::{CRL_LIFE, KeyKind, Pki};
use crate::setup::{self, psk};

const URL: &str = "http://crl.example/intermediate.crl";
const SERIAL: u64 = 77;
const HOUR: Duration = Duration::from_secs(3600);

/// A is the one whose certificate points to a CRL; B judges it.
fn pair(pki: &Pki, policy: RevocationPolicy, crls: &[Vec<u8>]) -> Pair {
    let mut pair = setup::pair(|side, connection| {
        let name = connection.local_id.to_string();
        connection.local_auth = match side {
            Side::A => pki.issue_revocable(&name, SERIAL, URL),
            Side::B => pki.issue(&name, KeyKind::P256, 2030),
        };
        connection.remote_auth = match side {
            Side::A => pki.anchors_with(RevocationPolicy::Off, &[]),
            Side::B => pki.anchors_with(policy, crls),
        };
    });
    pair.traffic = false;
    pair
}

/// A begins, and B asks for the CRL.
fn asked(pair: &mut Pair) {
    pair.initiate(Side::A);
    pair.run(Duration::from_secs(2));
    assert_eq!(pair.b.crls_wanted, [URL], "{:?}", pair.b.failures);
    assert!(pair.b.established.is_empty(), "waits");
    pair.b.crls_wanted.clear();
}

fn fetched(pair: &mut Pair, crl: Result<&[u8], &str>) {
    pair.act(Side::B, |endpoint, now| endpoint.handle_crl(now, URL, crl.map_err(str::to_owned)));
}

#[test]
fn ike_auth_waits_for_the_crl_and_goes_on() {
    let pki = Pki::new();
    let mut pair = pair(&pki, RevocationPolicy::IfPresent, &[]);
    asked(&mut pair);
    // A repeats its request meanwhile, which changes nothing.
    pair.run(Duration::from_secs(2));
    assert!(pair.b.crls_wanted.is_empty());
    fetched(&mut pair, Ok(&pki.crl(WALL, &[])));
    pair.settle();
    pair.assert_up(1);
    assert!(pair.b.failures.is_empty(), "{:?}", pair.b.failures);
    // Another handshake needs no other fetch.
    let ike = pair.a.ike();
    pair.act(Side::A, |endpoint, now| endpoint.close(now, ike)).expect("up");
    pair.settle();
    pair.initiate(Side::A);
    pair.settle();
    pair.assert_up(1);
    assert!(pair.b.crls_wanted.is_empty(), "kept until its nextUpdate");
}

#[test]
fn who_is_revoked_is_refused_and_the_log_says_so() {
    let pki = Pki::new();
    for policy in [RevocationPolicy::IfPresent, RevocationPolicy::Strict] {
        let mut pair = pair(&pki, policy, &[pki.root_crl(WALL)]);
        asked(&mut pair);
        fetched(&mut pair, Ok(&pki.crl(WALL, &[SERIAL])));
        pair.settle();
        assert!(pair.a.failed(FailureKind::RefusedByPeer));
        let said = &pair.b.failures[0];
        assert_eq!(said.kind, FailureKind::CertificateRejected);
        assert!(said.detail.contains("revoked") && said.detail.contains("clinic.example"), "{}", said.detail);
        assert_eq!(said.connection.as_deref(), Some("tunnel"));
        pair.run(Duration::from_secs(120));
        pair.assert_empty();
    }
}

#[test]
fn the_initiator_judges_the_responder_as_well() {
    let pki = Pki::new();
    for revoked in [&[][..], &[SERIAL]] {
        let mut pair = setup::pair(|side, connection| {
            let name = connection.local_id.to_string();
            connection.local_auth = match side {
                Side::A => LocalAuth::Psk(psk("correct horse battery staple")),
                Side::B => pki.issue_revocable(&name, SERIAL, URL),
            };
            if side == Side::A {
                connection.remote_auth = pki.anchors();
            }
        });
        pair.initiate(Side::A);
        pair.run(Duration::from_secs(1));
        assert_eq!(pair.a.crls_wanted, [URL]);
        assert!(pair.a.established.is_empty());
        let crl = pki.crl(WALL, revoked);
        pair.act(Side::A, |endpoint, now| endpoint.handle_crl(now, URL, Ok(&crl)));
        pair.settle();
        if revoked.is_empty() {
            pair.assert_up(1);
        } else {
            assert!(pair.a.failed(FailureKind::CertificateRejected), "{:?}", pair.a.failures);
            assert_eq!(pair.b.closed, [CloseReason::Failed]);
        }
    }
}

/// What the certificate says is fetched from nowhere before its owner has shown to be one that our CA knows.
#[test]
fn nobody_but_a_proven_peer_has_us_fetch_anything() {
    let (pki, foreign) = (Pki::new(), Pki::new());
    let refuse = |change: &dyn Fn(&mut LocalAuth, &str)| {
        let mut pair = setup::pair(|side, connection| {
            let name = connection.local_id.to_string();
            connection.local_auth = pki.issue_revocable(&name, SERIAL, URL);
            connection.remote_auth = pki.anchors_with(RevocationPolicy::Strict, &[]);
            if side == Side::A {
                change(&mut connection.local_auth, &name);
            }
        });
        pair.initiate(Side::A);
        pair.settle();
        assert!(pair.b.crls_wanted.is_empty() && pair.a.crls_wanted.is_empty());
        assert!(pair.a.failed(FailureKind::RefusedByPeer), "{:?}", pair.b.failures);
        pair
    };
    refuse(&|auth, name| *auth = foreign.issue_revocable(name, SERIAL, URL));
    refuse(&|auth, _| *auth = pki.issue_revocable("impostor.example", SERIAL, URL));
    // The right certificate without its key.
    let pair = refuse(&|auth, name| {
        let LocalAuth::Signature { key: other, .. } = pki.issue_revocable(name, 2, URL) else { return };
        let LocalAuth::Signature { key, .. } = auth else { return };
        *key = other;
    });
    assert!(pair.b.failed(FailureKind::AuthenticationFailed), "{:?}", pair.b.failures);
}

#[test]
fn only_http_is_fetched() {
    let pki = Pki::new();
    for url in
        ["ldap://crl.example/cn=x", "file:///etc/shadow", "https://crl.example/x", "http://crl.example/a b"]
    {
        let mut pair = setup::pair(|_, connection| {
            let name = connection.local_id.to_string();
            connection.local_auth = pki.issue_revocable(&name, SERIAL, url);
            connection.remote_auth = pki.anchors();
        });
        pair.initiate(Side::A);
        pair.settle();
        pair.assert_up(1);
        assert!(pair.b.crls_wanted.is_empty() && pair.a.crls_wanted.is_empty(), "{url}");
    }
}

#[test]
fn a_crl_that_cannot_be_had_stops_only_where_it_is_required() {
    let pki = Pki::new();
    for (policy, up) in [(RevocationPolicy::IfPresent, true), (RevocationPolicy::Strict, false)] {
        for answered in [true, false] {
            let mut pair = pair(&pki, policy, &[pki.root_crl(WALL)]);
            asked(&mut pair);
            if answered {
                fetched(&mut pair, Err("connection refused"));
                assert!(pair.b.failures[0].detail.contains("connection refused"), "{:?}", pair.b.failures);
                assert_eq!(pair.b.failures[0].kind, FailureKind::CrlUnavailable);
            }
            pair.run(Duration::from_secs(10));
            pair.settle();
            assert_eq!(!pair.b.established.is_empty(), up, "{policy:?} {:?}", pair.b.failures);
            if !up {
                let last = pair.b.failures.last().expect("said");
                assert!(last.detail.contains("no CRL tells"), "{}", last.detail);
            }
        }
    }
}

#[test]
fn a_crl_of_somebody_else_is_not_believed() {
    let (pki, foreign) = (Pki::new(), Pki::new());
    // Of the same name, but another key; too much; nothing.
    for bytes in [foreign.crl(WALL, &[SERIAL]), pki.root_crl(WALL), vec![0x30, 0x80, 0, 0], Vec::new()] {
        let mut pair = pair(&pki, RevocationPolicy::IfPresent, &[]);
        asked(&mut pair);
        fetched(&mut pair, Ok(&bytes));
        pair.settle();
        pair.assert_up(1);
        assert!(pair.b.failed(FailureKind::CrlUnavailable));
    }
    // Neither is what nobody asked for.
    let mut pair = pair(&pki, RevocationPolicy::IfPresent, &[]);
    fetched(&mut pair, Ok(&pki.crl(WALL, &[SERIAL])));
    pair.initiate(Side::A);
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.b.crls_wanted, [URL]);
}

#[test]
fn who_is_revoked_later_loses_its_tunnel() {
    let pki = Pki::new();
    let mut pair = pair(&pki, RevocationPolicy::IfPresent, &[]);
    asked(&mut pair);
    fetched(&mut pair, Ok(&pki.crl(WALL, &[])));
    pair.settle();
    pair.assert_up(1);
    // Every hour, rekeys or not, the authority is asked for news.
    for hour in 1..4 {
        pair.run(HOUR);
        assert_eq!(pair.b.crls_wanted, [URL], "hour {hour}");
        pair.b.crls_wanted.clear();
        fetched(&mut pair, Ok(&pki.crl(WALL + HOUR * hour, &[])));
        pair.run(Duration::from_secs(120));
        assert_eq!(pair.b.established.len(), 1);
    }
    let ike = pair.b.ike();
    pair.act(Side::B, |endpoint, now| endpoint.rekey_ike(now, ike)).expect("up");
    pair.settle();
    pair.run(HOUR);
    assert_eq!(pair.b.crls_wanted, [URL]);
    // First a replay of the time before, then the truth.
    fetched(&mut pair, Ok(&pki.crl(WALL, &[])));
    assert!(pair.b.failures.last().expect("said").detail.contains("older"), "{:?}", pair.b.failures);
    pair.b.crls_wanted.clear();
    pair.run(HOUR);
    assert_eq!(pair.b.crls_wanted, [URL]);
    fetched(&mut pair, Ok(&pki.crl(WALL + HOUR * 5, &[SERIAL])));
    pair.settle();
    assert!(pair.a.children.is_empty() && pair.b.children.is_empty());
    assert!(pair.b.failed(FailureKind::CertificateRejected));
    assert_eq!(
        (&pair.a.closed[..], &pair.b.closed[..]),
        (&[CloseReason::Peer][..], &[CloseReason::Failed][..])
    );
}

#[test]
fn a_loaded_crl_counts_at_once_also_for_whom_is_up() {
    let pki = Pki::new();
    let config = |crls: &[Vec<u8>]| {
        let mut connection = setup::connection(Side::B);
        connection.local_auth = LocalAuth::Psk(psk("correct horse battery staple"));
        connection.remote_auth = pki.anchors_with(RevocationPolicy::Strict, crls);
        setup::endpoint(connection)
    };
    let good = [pki.root_crl(WALL), pki.crl(WALL, &[])];
    let mut pair = setup::pair(|side, connection| {
        if side == Side::A {
            connection.local_auth = pki.issue_revocable(&connection.local_id.to_string(), SERIAL, URL);
        }
        if side == Side::B {
            connection.remote_auth = pki.anchors_with(RevocationPolicy::Strict, &good);
        }
    });
    pair.initiate(Side::A);
    pair.settle();
    pair.assert_up(1);
    assert!(pair.b.crls_wanted.is_empty(), "a fresh one is there");
    // The same again closes nothing; one that lists the peer closes its IKE SA.
    pair.act(Side::B, |endpoint, now| endpoint.set_config(now, config(&good)));
    pair.settle();
    pair.assert_up(1);
    let listed = [pki.root_crl(WALL), pki.crl(WALL, &[SERIAL])];
    pair.act(Side::B, |endpoint, now| endpoint.set_config(now, config(&listed)));
    pair.settle();
    assert!(pair.a.children.is_empty() && pair.b.children.is_empty());
    pair.initiate(Side::A);
    pair.settle();
    assert!(pair.a.failed(FailureKind::RefusedByPeer));
}

#[test]
fn an_old_crl_counts_where_none_is_required() {
    let pki = Pki::new();
    let old = WALL - CRL_LIFE * 2;
    for (revoked, policy, up) in [
        (&[][..], RevocationPolicy::IfPresent, true),
        (&[SERIAL], RevocationPolicy::IfPresent, false),
        (&[], RevocationPolicy::Strict, false),
        (&[SERIAL], RevocationPolicy::Off, true),
    ] {
        let mut pair = pair(&pki, policy, &[pki.root_crl(WALL), pki.crl(old, revoked)]);
        pair.initiate(Side::A);
        pair.run(Duration::from_secs(10));
        assert_eq!(!pair.b.established.is_empty(), up, "{policy:?} {revoked:?} {:?}", pair.b.failures);
    }
}
