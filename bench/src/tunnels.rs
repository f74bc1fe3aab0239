//! Two IKE engines in one process, joined by nothing: what one sends the other gets at once.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType, SignatureAlgorithm};
use sekisho_ike::Endpoint;
use sekisho_ike::config::{
    ChildConfig, Connection, EndpointConfig, Limits, LocalAuth, PerResource, Psk, RemoteAuth, Uniqueness,
    Wanted,
};
use sekisho_ike::crypto::random::SystemRandom;
use sekisho_ike::crypto::signature::PrivateKey;
use sekisho_ike::crypto::x509::TrustAnchors;
use sekisho_ike::event::{ChildHandle, Event, IkeHandle, Path};

/// How the peers prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// A pre-shared key.
    Psk,
    /// Certificates with ECDSA P-256, directly below the root.
    EcdsaP256,
    /// Certificates with RSA-2048, directly below the root.
    Rsa2048,
}

/// A private key of the gateways for signatures, in PKCS #8.
pub fn key_pair(auth: Auth) -> KeyPair {
    let generate = |algorithm: &'static SignatureAlgorithm| KeyPair::generate_for(algorithm).expect("a key");
    match auth {
        Auth::Psk | Auth::EcdsaP256 => generate(&rcgen::PKCS_ECDSA_P256_SHA256),
        // ring can't make RSA keys.
        Auth::Rsa2048 => {
            let pem = include_str!("../../control/ike/src/crypto/signature/testdata/rsa2048.pkcs8.pem");
            KeyPair::from_pem_and_sign_algo(pem, &rcgen::PKCS_RSA_SHA256).expect("a key")
        }
    }
}

struct Credentials {
    local: LocalAuth,
    remote: RemoteAuth,
}

/// For one name on each side, all below one root.
fn credentials(auth: Auth, names: [&str; 2]) -> [Credentials; 2] {
    if auth == Auth::Psk {
        let psk = || Psk::new(b"correct horse battery staple".to_vec());
        return names.map(|_| Credentials { local: LocalAuth::Psk(psk()), remote: RemoteAuth::Psk(psk()) });
    }
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_key = key_pair(auth);
    let root = params.self_signed(&root_key).expect("a root").der().to_vec();
    let issuer = Issuer::new(params, root_key);
    names.map(|name| {
        let key = key_pair(auth);
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().expect("a name"))];
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        Credentials {
            local: LocalAuth::Signature {
                chain: vec![certificate.der().to_vec().into()],
                key: Arc::new(PrivateKey::from_pkcs8_der(key.serialized_der()).expect("a key")),
            },
            remote: RemoteAuth::Certificate(Arc::new(TrustAnchors::from_der(&[&root]).expect("a root"))),
        }
    })
}

/// Clinics that connect to one centre.
pub struct Tunnels {
    /// All clinics in one engine.
    pub clinics: Endpoint,
    /// The centre.
    pub centre: Endpoint,
    /// Virtual time.
    pub now: Instant,
    /// Established IKE SAs and child SAs of the clinics, in the order in which they came up.
    pub up: Vec<(IkeHandle, ChildHandle)>,
    /// The last message of a clinic, as the centre got it.
    pub last: Option<(Path, Vec<u8>)>,
}

/// Virtual time between two handshakes: the rate to which strangers are held is not what is measured.
const BETWEEN: Duration = Duration::from_millis(20);

const CENTRE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 500);

fn clinic(number: u32) -> SocketAddr {
    let [_, a, b, c] = number.to_be_bytes();
    SocketAddr::from(([10, a, b, c], 500))
}

impl Tunnels {
    /// So many clinics, none of them connected.
    pub fn new(count: u32, auth: Auth, ike_proposal: &str) -> Self {
        let names = ["clinic.example", "centre.example"];
        let [ours, theirs] = credentials(auth, names);
        let connection = |number: u32, side: usize| {
            let credentials = if side == 0 { &ours } else { &theirs };
            let (local, remote) = if side == 0 { (clinic(number), CENTRE) } else { (CENTRE, clinic(number)) };
            let [_, a, b, c] = number.to_be_bytes();
            let inner = [format!("10.{a}.{b}.{c}"), "172.16.0.0/16".to_owned()];
            let [near, far] = if side == 0 { [0, 1] } else { [1, 0] };
            Arc::new(Connection {
                name: format!("clinic-{number}").into(),
                local_address: Some(local.ip()),
                remote_address: Some(remote.ip()),
                local_id: names[side].parse().expect("a name"),
                remote_id: names[1 - side].parse().expect("a name"),
                local_auth: credentials.local.clone(),
                remote_auth: credentials.remote.clone(),
                ike_proposals: vec![ike_proposal.parse().expect("a proposal")],
                children: vec![ChildConfig {
                    name: "main".into(),
                    local: vec![inner[near].parse().expect("a network")],
                    remote: vec![inner[far].parse().expect("a network")],
                    local_dynamic: false,
                    remote_dynamic: false,
                    esp_proposals: vec!["aes128gcm16-x25519".parse().expect("a proposal")],
                    rekey_after: Duration::from_secs(3600),
                    per_resource: PerResource::Off,
                }],
                ike_rekey_after: Duration::from_secs(4 * 3600),
                reauth_after: Duration::ZERO,
                uniqueness: Uniqueness::Replace,
                dpd_after: Duration::ZERO,
                assigns: None,
                wants: Wanted::default(),
                force_encapsulation: false,
                mobike: false,
            })
        };
        // The bounds for strangers are not what is measured.
        let limits = Limits { half_open: 1 << 20, cookie_threshold: 1 << 20, ..Limits::default() };
        let now = Instant::now();
        let endpoint = |side| {
            let connections = (0..count).map(|number| connection(number, side)).collect();
            let config = EndpointConfig { connections, limits, ..EndpointConfig::default() };
            Endpoint::new(config, Box::new(SystemRandom::new()), now, SystemTime::now())
        };
        Self { clinics: endpoint(0), centre: endpoint(1), now, up: Vec::new(), last: None }
    }

    /// Brings one clinic's tunnel up.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn connect(&mut self, number: u32) {
        let before = self.up.len();
        let name = format!("clinic-{number}");
        self.now += BETWEEN;
        self.clinics.handle_timeout(self.now);
        self.centre.handle_timeout(self.now);
        self.clinics.initiate(self.now, &name, clinic(number), CENTRE).expect("a connection");
        self.settle();
        assert_eq!(self.up.len(), before + 1, "the tunnel is up");
    }

    /// Delivers everything until nobody has anything to say.
    pub fn settle(&mut self) {
        let mut to_centre = VecDeque::new();
        loop {
            drain(&mut self.clinics, &mut self.up);
            drain(&mut self.centre, &mut Vec::new());
            while let Some(transmit) = self.clinics.poll_transmit() {
                to_centre.push_back(transmit);
            }
            let mut quiet = to_centre.is_empty();
            while let Some(transmit) = to_centre.pop_front() {
                let path = Path { local: transmit.path.remote, remote: transmit.path.local };
                self.centre.handle_datagram(self.now, path, &transmit.bytes);
                self.last = Some((path, transmit.bytes));
            }
            drain(&mut self.centre, &mut Vec::new());
            while let Some(transmit) = self.centre.poll_transmit() {
                quiet = false;
                let path = Path { local: transmit.path.remote, remote: transmit.path.local };
                self.clinics.handle_datagram(self.now, path, &transmit.bytes);
            }
            if quiet {
                return;
            }
        }
    }

    /// The centre gets a message once more: it finds the IKE SA, sees what it is, and may repeat its answer.
    pub fn repeat(&mut self, (path, bytes): &(Path, Vec<u8>)) {
        self.centre.handle_datagram(self.now, *path, bytes);
        while self.centre.poll_event().is_some() {}
        while self.centre.poll_transmit().is_some() {}
    }

    /// Rekeys a tunnel's IKE SA and its child SA.
    pub fn rekey(&mut self, ike: IkeHandle, child: ChildHandle) {
        self.clinics.rekey_ike(self.now, ike).expect("established");
        self.settle();
        self.clinics.rekey_child(self.now, child).expect("installed");
        self.settle();
    }
}

fn drain(endpoint: &mut Endpoint, up: &mut Vec<(IkeHandle, ChildHandle)>) {
    while let Some(event) = endpoint.poll_event() {
        match event {
            Event::ChildInstall(child) if child.replaces.is_none() => up.push((child.ike, child.child)),
            Event::Failure(failure) => panic!("{}", failure.detail),
            _ => {}
        }
    }
}
