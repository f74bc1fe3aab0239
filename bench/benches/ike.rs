//! What IKE costs: whole handshakes of two engines beside the sum of the cryptographic operations in them, messages to
//! and from bytes, and key derivation. The aim is that cryptography is at least 60 % of a handshake.

use std::hint::black_box;
use std::time::Duration;

use criterion::Criterion;
use sekisho_bench::bare::{asymmetric, mean};
use sekisho_bench::tunnels::{Auth, Tunnels};
use sekisho_ike::crypto::dh::{KeyShare, respond};
use sekisho_ike::crypto::keys::{Exchanged, IkeKeys};
use sekisho_ike::crypto::negotiate::{choose_ike, offer_ike};
use sekisho_ike::crypto::random::SystemRandom;
use sekisho_ike::crypto::suite::{Group, IkeProposal, IkeSuite};
use sekisho_ike::wire::ke::KeyExchange;
use sekisho_ike::wire::nonce::Nonce;
use sekisho_ike::wire::sa::SecurityAssociation;
use sekisho_ike::wire::{ExchangeType, Header, KeId, Outer, Payload, Spi, write_clear};

const SETUPS: [(&str, Auth, &str, &[Group]); 4] = [
    ("psk, x25519", Auth::Psk, "aes128gcm16-prfsha256-x25519", &[Group::X25519]),
    ("ecdsa-p256, x25519", Auth::EcdsaP256, "aes128gcm16-prfsha256-x25519", &[Group::X25519]),
    ("rsa-2048, modp2048", Auth::Rsa2048, "aes128gcm16-prfsha256-modp2048", &[Group::Modp2048]),
    (
        "psk, x25519, ml-kem-768",
        Auth::Psk,
        "aes128gcm16-prfsha256-x25519-ke1_mlkem768",
        &[Group::X25519, Group::MlKem768],
    ),
];

fn handshakes() {
    const HANDSHAKES: u32 = 300;
    println!(
        "{:<26} {:>12} {:>12} {:>12} {:>6}",
        "handshake, both sides", "engine µs", "crypto µs", "per s, side", "share"
    );
    for (name, auth, proposal, groups) in SETUPS {
        let mut tunnels = Tunnels::new(HANDSHAKES, auth, proposal);
        // Each in turn with the bare operations, so that both see the same machine.
        let (mut engine, mut bare) = (Duration::ZERO, Duration::ZERO);
        const ROUND: u32 = 100;
        for round in 0..HANDSHAKES / ROUND {
            bare += asymmetric(auth, groups);
            let mut number = round * ROUND;
            engine += mean(ROUND, || {
                tunnels.connect(number);
                number += 1;
            });
        }
        let (engine, bare) = (engine.as_secs_f64() * 1e6, bare.as_secs_f64() * 1e6);
        let rounds = f64::from(HANDSHAKES / ROUND);
        println!(
            "{name:<26} {:>12.0} {:>12.0} {:>12.0} {:>5.0}%",
            engine / rounds,
            bare / rounds,
            2e6 * rounds / engine,
            100.0 * bare / engine
        );
    }
}

fn suite() -> IkeSuite {
    let ours: Vec<IkeProposal> = vec!["aes128gcm16-prfsha256-x25519".parse().unwrap()];
    choose_ike(&offer_ike(&ours, None), &ours, None, None, true).unwrap().suite
}

fn benchmark(criterion: &mut Criterion) {
    let header = Header::request(Spi(1), Spi(0), ExchangeType::IkeSaInit, true, 0);
    let payloads = [
        Payload::Sa(SecurityAssociation::new(offer_ike(&IkeProposal::defaults(), None))),
        Payload::Ke(KeyExchange::new(KeId::Curve25519, vec![7; 32])),
        Payload::Nonce(Nonce::new(vec![7; 32]).unwrap()),
    ];
    let message = write_clear(&header, &payloads).unwrap();
    criterion.bench_function("IKE_SA_INIT build", |b| {
        b.iter(|| black_box(write_clear(&header, black_box(&payloads)).unwrap()));
    });
    criterion.bench_function("IKE_SA_INIT parse", |b| {
        b.iter(|| black_box(Outer::parse(black_box(&message)).unwrap()));
    });
    let mut random = SystemRandom::new();
    let share = KeyShare::generate(Group::X25519, &mut random).unwrap();
    let (_, secret) = respond(Group::X25519, share.public(), &mut random).unwrap();
    let suite = suite();
    let exchanged = Exchanged { nonce_i: &[1; 32], nonce_r: &[2; 32], spi_i: 1, spi_r: 2 };
    criterion.bench_function("IKE keys", |b| {
        b.iter(|| black_box(IkeKeys::derive(&suite, &secret, exchanged).unwrap()));
    });
    for group in Group::ALL {
        criterion.bench_function(&format!("key exchange, both sides: {group}"), |b| {
            b.iter(|| {
                let share = KeyShare::generate(group, &mut random).unwrap();
                let (response, theirs) = respond(group, share.public(), &mut random).unwrap();
                black_box((share.agree(&response).unwrap(), theirs))
            });
        });
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20)
        .configure_from_args();
    benchmark(&mut criterion);
    criterion.final_summary();
    handshakes();
}
