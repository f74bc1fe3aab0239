//! What a handshake cannot cost less than: its cryptography alone.

use std::hint::black_box;
use std::time::Duration;

use sekisho_ike::crypto::dh::{KeyShare, respond};
use sekisho_ike::crypto::random::SystemRandom;
use sekisho_ike::crypto::signature::{HASH_ALGORITHMS, PrivateKey, sign_auth, verify_auth};
use sekisho_ike::crypto::suite::Group;

use crate::cpu_time;
use crate::tunnels::{Auth, key_pair};

/// Mean CPU time of one call.
pub fn mean(calls: u32, mut work: impl FnMut()) -> Duration {
    let began = cpu_time();
    for _ in 0..calls {
        work();
    }
    (cpu_time() - began) / calls
}

/// The asymmetric operations of one handshake, both sides: each makes a key and the secret of every key exchange, and
/// with certificates each signs once and verifies the peer's signature and the root's on its certificate.
///
/// # Panics
/// When one of them fails.
pub fn asymmetric(auth: Auth, groups: &[Group]) -> Duration {
    let mut random = SystemRandom::new();
    let exchanges: Duration = groups
        .iter()
        .map(|group| {
            mean(100, || {
                let share = KeyShare::generate(*group, &mut random).expect("valid");
                let (response, theirs) = respond(*group, share.public(), &mut random).expect("valid");
                black_box((share.agree(&response).expect("valid"), theirs));
            })
        })
        .sum();
    if auth == Auth::Psk {
        return exchanges;
    }
    let key = PrivateKey::from_pkcs8_der(key_pair(auth).serialized_der()).expect("valid");
    let signed = sign_auth(&key, Some(&HASH_ALGORITHMS), b"octets").expect("valid");
    let sign = mean(100, || {
        black_box(sign_auth(&key, Some(&HASH_ALGORITHMS), b"octets").expect("valid"));
    });
    let verify = mean(100, || {
        verify_auth(signed.method, &signed.data, key.public_key(), b"octets").expect("valid");
    });
    exchanges + 2 * sign + 4 * verify
}
