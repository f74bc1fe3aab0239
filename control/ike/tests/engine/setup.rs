//! Configurations of both sides.

use std::sync::Arc;
use std::time::Duration;

use sekisho_ike::config::{
    ChildConfig, Connection, EndpointConfig, LocalAuth, PerResource, Psk, RemoteAuth, Retransmit, Uniqueness,
    Wanted,
};
use sekisho_ike::crypto::suite::{EspProposal, IkeProposal};

use crate::pair::{ADDRESS_A, ADDRESS_B, Pair, Side};

/// What is configured on one side; B's mirrors A's.
pub(crate) fn connection(side: Side) -> Connection {
    let (ours, theirs) = match side {
        Side::A => (("clinic.example", ADDRESS_A), ("centre.example", ADDRESS_B)),
        Side::B => (("centre.example", ADDRESS_B), ("clinic.example", ADDRESS_A)),
    };
    Connection {
        name: "tunnel".into(),
        local_address: None,
        remote_address: Some(theirs.1.parse().expect("address")),
        local_id: ours.0.parse().expect("identity"),
        remote_id: theirs.0.parse().expect("identity"),
        local_auth: LocalAuth::Psk(psk("correct horse battery staple")),
        remote_auth: RemoteAuth::Psk(psk("correct horse battery staple")),
        ike_proposals: ike(&["aes128gcm16-prfsha256-x25519"]),
        children: vec![child(side, "main", "192.168.1.0/24", "10.2.0.0/24")],
        ike_rekey_after: Duration::from_secs(4 * 3600),
        reauth_after: Duration::ZERO,
        uniqueness: Uniqueness::Replace,
        dpd_after: Duration::from_secs(30),
        force_encapsulation: false,
        mobike: false,
        assigns: None,
        wants: Wanted::default(),
    }
}

/// A child with A's and B's networks.
pub(crate) fn child(side: Side, name: &str, a: &str, b: &str) -> ChildConfig {
    let (local, remote) = match side {
        Side::A => (a, b),
        Side::B => (b, a),
    };
    ChildConfig {
        name: name.into(),
        local: vec![local.parse().expect("selector")],
        remote: vec![remote.parse().expect("selector")],
        local_dynamic: false,
        remote_dynamic: false,
        esp_proposals: esp(&["aes128gcm16-x25519"]),
        rekey_after: Duration::from_secs(3600),
        per_resource: PerResource::Off,
    }
}

pub(crate) fn psk(text: &str) -> Psk {
    Psk::new(text.as_bytes().to_vec())
}

pub(crate) fn ike(names: &[&str]) -> Vec<IkeProposal> {
    names.iter().map(|name| name.parse().expect("proposal")).collect()
}

pub(crate) fn esp(names: &[&str]) -> Vec<EspProposal> {
    names.iter().map(|name| name.parse().expect("proposal")).collect()
}

pub(crate) fn endpoint(connection: Connection) -> EndpointConfig {
    EndpointConfig { connections: vec![Arc::new(connection)], ..EndpointConfig::default() }
}

/// For networks so bad that a peer may seem dead by the default: retransmits so often that this cannot happen by chance.
pub(crate) const PATIENT: Retransmit =
    Retransmit { initial: Duration::from_millis(500), growth_percent: 110, tries: 40 };

/// Both sides as [`seeded_pair`] has them, and patient.
pub(crate) fn patient_pair(seed: u64, change: impl Fn(Side, &mut Connection)) -> Pair {
    let config = |side| {
        let mut connection = connection(side);
        change(side, &mut connection);
        EndpointConfig { retransmit: PATIENT, ..endpoint(connection) }
    };
    Pair::seeded(seed, config(Side::A), config(Side::B))
}

/// Both sides, with a change made to each.
pub(crate) fn pair(change: impl Fn(Side, &mut Connection)) -> Pair {
    seeded_pair(1, change)
}

pub(crate) fn seeded_pair(seed: u64, change: impl Fn(Side, &mut Connection)) -> Pair {
    let config = |side| {
        let mut connection = connection(side);
        change(side, &mut connection);
        endpoint(connection)
    };
    Pair::seeded(seed, config(Side::A), config(Side::B))
}

/// Both sides with an established tunnel.
pub(crate) fn established(change: impl Fn(Side, &mut Connection)) -> Pair {
    let mut pair = pair(change);
    pair.initiate(Side::A);
    pair.settle();
    pair
}
