//! Two gateways that know each other by a pre-shared key, as IKE endpoints sees them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use sekisho_ike::config::{
    ChildConfig, Connection, EndpointConfig, LocalAuth, PerResource, Psk, RemoteAuth, Resources, Uniqueness,
    Wanted,
};
use sekisho_ike::crypto::random::SeededRandom;
use sekisho_ike::event::Path;
use sekisho_ike::{Endpoint, Stats};

/// Which of the two.
#[derive(arbitrary::Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The clinic.
    A,
    /// The centre.
    B,
}

impl Side {
    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Where it sends IKE from.
    pub fn address(self) -> SocketAddr {
        match self {
            Self::A => SocketAddr::from(([198, 51, 100, 2], 500)),
            Self::B => SocketAddr::from(([203, 0, 113, 2], 500)),
        }
    }

    /// From this side to the other.
    pub fn path(self) -> Path {
        Path { local: self.address(), remote: self.other().address() }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::A => "clinic.example",
            Self::B => "centre.example",
        }
    }
}

/// The key that both know.
pub fn psk() -> Psk {
    Psk::new(b"correct horse battery staple".to_vec())
}

/// The name of the connection on both sides.
pub const CONNECTION: &str = "tunnel";

/// One gateway without SAs.
pub fn endpoint(side: Side, seed: u64, now: Instant) -> Endpoint {
    let networks = match side {
        Side::A => ["192.168.1.0/24", "10.2.0.0/24"],
        Side::B => ["10.2.0.0/24", "192.168.1.0/24"],
    };
    let [local, remote] = networks.map(|network| vec![network.parse().expect("a selector")]);
    let child = ChildConfig {
        name: "main".into(),
        local,
        remote,
        local_dynamic: false,
        remote_dynamic: false,
        esp_proposals: vec!["aes128gcm16-x25519".parse().expect("a proposal")],
        rekey_after: Duration::from_secs(3600),
        per_resource: PerResource::AtMost(2),
    };
    let connection = Connection {
        name: CONNECTION.into(),
        local_address: None,
        remote_address: Some(side.other().address().ip()),
        local_id: side.name().parse().expect("an identity"),
        remote_id: side.other().name().parse().expect("an identity"),
        local_auth: LocalAuth::Psk(psk()),
        remote_auth: RemoteAuth::Psk(psk()),
        ike_proposals: vec!["aes128gcm16-prfsha256-x25519".parse().expect("a proposal")],
        children: vec![child],
        ike_rekey_after: Duration::from_secs(4 * 3600),
        reauth_after: Duration::ZERO,
        uniqueness: Uniqueness::default(),
        dpd_after: Duration::from_secs(30),
        force_encapsulation: false,
        mobike: true,
        assigns: None,
        wants: Wanted::default(),
    };
    let config = EndpointConfig {
        connections: vec![Arc::new(connection)],
        resources: Resources { count: 2, most: 2 },
        ..EndpointConfig::default()
    };
    // May 2026: no certificate is judged here, so any date does.
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_000_000);
    Endpoint::new(config, Box::new(SeededRandom::new(seed)), now, wall)
}

/// Asserts that nothing is left: no SA in any state, and no timer.
pub fn assert_empty(endpoint: &Endpoint) {
    let Stats { half_open, established, retired, children, spis, .. } = endpoint.stats();
    assert_eq!((half_open, established, retired, children, spis), (0, 0, 0, 0, 0), "SAs are left");
    assert_eq!(endpoint.poll_timeout(), None, "a timer is left");
}
