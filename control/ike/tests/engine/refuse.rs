//! What must not come up does not, and both sides say why.

use std::time::Duration;

use sekisho_ike::Connection;
use sekisho_ike::event::{CloseReason, FailureKind};

use crate::pair::{Pair, Side};
use crate::pki::{KeyKind, Pki};
use crate::setup::{self, child, esp, ike, psk};
use sekisho_ike::config::{LocalAuth, RemoteAuth};

/// Lets A try, and expects that it fails on both sides for these reasons.
fn refused(a: FailureKind, b: FailureKind, change: impl Fn(Side, &mut Connection)) -> Pair {
    let mut pair = setup::pair(change);
    pair.initiate(Side::A);
    pair.run(Duration::from_secs(5));
    assert!(pair.a.failed(a), "A: {:?}", pair.a.failures);
    assert!(pair.b.failed(b), "B: {:?}", pair.b.failures);
    assert_eq!(pair.a.closed, [CloseReason::Failed]);
    assert!(pair.a.children.is_empty());
    pair.run(Duration::from_secs(120));
    pair.assert_empty();
    pair
}

#[test]
fn wrong_psk() {
    let pair = refused(FailureKind::RefusedByPeer, FailureKind::AuthenticationFailed, |side, connection| {
        if side == Side::A {
            connection.local_auth = LocalAuth::Psk(psk("another key, mistyped perhaps"));
        }
    });
    assert!(pair.a.failures[0].detail.contains("AUTHENTICATION_FAILED"));
    assert!(pair.b.failures[0].detail.contains("same key on both"), "{:?}", pair.b.failures);
    assert_eq!(pair.b.failures[0].connection.as_deref(), Some("tunnel"));
}

#[test]
fn an_empty_psk_proves_nothing() {
    refused(FailureKind::RefusedByPeer, FailureKind::AuthenticationFailed, |_, connection| {
        connection.local_auth = LocalAuth::Psk(psk(""));
        connection.remote_auth = RemoteAuth::Psk(psk(""));
    });
}

#[test]
fn a_responder_with_a_wrong_psk_is_told_so() {
    let pair = refused(FailureKind::AuthenticationFailed, FailureKind::RefusedByPeer, |side, connection| {
        if side == Side::B {
            connection.local_auth = LocalAuth::Psk(psk("another key, mistyped perhaps"));
        }
    });
    assert_eq!(pair.b.closed, [CloseReason::Failed], "it was up there for a moment");
}

#[test]
fn no_secret_stands_in_a_failure() {
    let pair = refused(FailureKind::RefusedByPeer, FailureKind::AuthenticationFailed, |side, connection| {
        if side == Side::A {
            connection.local_auth = LocalAuth::Psk(psk("hunter2 hunter2 hunter2"));
        }
    });
    let said = format!("{:?}{:?}{:?}{:?}", pair.a.failures, pair.b.failures, pair.a.events, pair.b.events);
    assert!(!said.contains("hunter2") && !said.contains("correct horse"));
}

#[test]
fn a_foreign_authority() {
    let (ours, foreign) = (Pki::new(), Pki::new());
    let pair = refused(FailureKind::RefusedByPeer, FailureKind::CertificateRejected, |side, connection| {
        let issuer = if side == Side::A { &foreign } else { &ours };
        connection.local_auth = issuer.issue(&connection.local_id.to_string(), KeyKind::P256, 2030);
        connection.remote_auth = ours.anchors();
    });
    assert!(pair.b.failures[0].detail.contains("clinic.example"), "{:?}", pair.b.failures);
}

#[test]
fn an_expired_certificate() {
    let pki = Pki::new();
    let pair = refused(FailureKind::RefusedByPeer, FailureKind::CertificateRejected, |side, connection| {
        let until = if side == Side::A { 2025 } else { 2030 };
        connection.local_auth = pki.issue(&connection.local_id.to_string(), KeyKind::P256, until);
        connection.remote_auth = pki.anchors();
    });
    assert!(pair.b.failures[0].detail.contains("expired"), "{:?}", pair.b.failures);
}

#[test]
fn the_responders_certificate_is_judged_too() {
    let pki = Pki::new();
    refused(FailureKind::CertificateRejected, FailureKind::RefusedByPeer, |side, connection| {
        let until = if side == Side::B { 2025 } else { 2030 };
        connection.local_auth = pki.issue(&connection.local_id.to_string(), KeyKind::P256, until);
        connection.remote_auth = pki.anchors();
    });
}

#[test]
fn a_certificate_without_the_identity() {
    let pki = Pki::new();
    let pair = refused(FailureKind::RefusedByPeer, FailureKind::CertificateRejected, |side, connection| {
        let name =
            if side == Side::A { "impostor.example".to_owned() } else { connection.local_id.to_string() };
        connection.local_auth = pki.issue(&name, KeyKind::P256, 2030);
        connection.remote_auth = pki.anchors();
    });
    assert!(pair.b.failures[0].detail.contains("does not carry"), "{:?}", pair.b.failures);
}

#[test]
fn a_key_where_a_certificate_is_expected() {
    let pki = Pki::new();
    refused(FailureKind::RefusedByPeer, FailureKind::AuthenticationFailed, |side, connection| {
        if side == Side::B {
            connection.remote_auth = pki.anchors();
        }
    });
    refused(FailureKind::RefusedByPeer, FailureKind::AuthenticationFailed, |side, connection| {
        if side == Side::A {
            connection.local_auth = pki.issue("clinic.example", KeyKind::P256, 2030);
        } else {
            connection.remote_auth = RemoteAuth::Psk(psk("correct horse battery staple"));
        }
    });
}

#[test]
fn an_unknown_identity() {
    let pair = refused(FailureKind::RefusedByPeer, FailureKind::NoConnection, |side, connection| {
        if side == Side::A {
            connection.local_id = "stranger.example".parse().expect("identity");
        }
    });
    assert!(pair.b.failures[0].detail.contains("stranger.example"));
}

#[test]
fn a_responder_of_another_name() {
    refused(FailureKind::RefusedByPeer, FailureKind::NoConnection, |side, connection| {
        if side == Side::A {
            connection.remote_id = "other.example".parse().expect("identity");
        }
    });
}

#[test]
fn no_ike_proposal_in_common() {
    let pair = refused(FailureKind::NoProposalChosen, FailureKind::NoProposalChosen, |side, connection| {
        if side == Side::B {
            connection.ike_proposals = ike(&["aes256-sha512-modp4096"]);
        }
    });
    assert!(pair.b.failures[0].detail.contains("modp4096"), "{:?}", pair.b.failures);
}

#[test]
fn no_connection_for_the_address() {
    refused(FailureKind::NoProposalChosen, FailureKind::NoConnection, |side, connection| {
        if side == Side::B {
            connection.remote_address = Some("192.0.2.77".parse().expect("address"));
        }
    });
}

/// Lets A try, and expects an IKE SA without the child.
fn childless(kind: FailureKind, change: impl Fn(Side, &mut Connection)) {
    let mut pair = setup::established(change);
    pair.assert_agreement();
    assert!(pair.a.children.is_empty());
    assert_eq!((pair.a.established.len(), pair.b.established.len()), (1, 1));
    assert!(pair.a.failed(kind), "A: {:?}", pair.a.failures);
    assert!(pair.b.failed(kind), "B: {:?}", pair.b.failures);
}

#[test]
fn selectors_without_overlap_leave_the_ike_sa_up() {
    childless(FailureKind::TsUnacceptable, |side, connection| {
        if side == Side::B {
            connection.children[0] = child(side, "main", "192.168.77.0/24", "10.2.0.0/24");
        }
    });
}

#[test]
fn no_esp_proposal_in_common_leaves_the_ike_sa_up() {
    childless(FailureKind::NoProposalChosen, |side, connection| {
        if side == Side::B {
            connection.children[0].esp_proposals = esp(&["aes256-sha256"]);
        }
    });
}

#[test]
fn a_second_child_that_fails_leaves_the_first() {
    let mut pair = setup::established(|side, connection| {
        connection.children.push(match side {
            Side::A => child(side, "second", "192.168.2.0/24", "10.3.0.0/24"),
            Side::B => child(side, "second", "192.168.2.0/24", "10.77.0.0/24"),
        });
    });
    pair.assert_up(1);
    assert!(pair.a.failed(FailureKind::TsUnacceptable) && pair.b.failed(FailureKind::TsUnacceptable));
}

#[test]
fn commands_name_what_is_unknown() {
    let mut pair = setup::pair(|_, _| {});
    let (local, remote) =
        ("192.0.2.1:500".parse().expect("address"), "192.0.2.2:500".parse().expect("address"));
    let error =
        pair.act(Side::A, |endpoint, now| endpoint.initiate(now, "nowhere", local, remote)).unwrap_err();
    assert!(error.to_string().contains("nowhere"));
    let ike = sekisho_ike::event::IkeHandle(9);
    let child = sekisho_ike::event::ChildHandle(9);
    assert!(pair.act(Side::A, |endpoint, now| endpoint.rekey_ike(now, ike)).is_err());
    assert!(pair.act(Side::A, |endpoint, now| endpoint.rekey_child(now, child)).is_err());
    assert!(pair.act(Side::A, |endpoint, now| endpoint.child_first_inbound(now, child)).is_err());
    pair.assert_empty();
}

#[test]
fn more_certificates_than_a_chain_has_are_not_looked_at() {
    let pki = Pki::new();
    let pair = refused(FailureKind::RefusedByPeer, FailureKind::CertificateRejected, |side, connection| {
        connection.local_auth = pki.issue(&connection.local_id.to_string(), KeyKind::P256, 2030);
        connection.remote_auth = pki.anchors();
        if let (Side::A, LocalAuth::Signature { chain, .. }) = (side, &mut connection.local_auth) {
            let intermediate = chain[1].clone();
            chain.extend(std::iter::repeat_n(intermediate, 15));
        }
    });
    assert!(pair.b.failures[0].detail.contains("17 certificates"), "{:?}", pair.b.failures);
}
