//! What the IKE engine has agreed on, as the data path wants it.

use sekisho_esp::sa::{Keys, Lifetimes, Outer, PortId, SaPair, Selector, Transform};
use sekisho_ike::crypto::suite::{AesBits, Encryption, Integrity};
use sekisho_ike::event::ChildSa;
use sekisho_ike::wire::ts::{Ports, TrafficSelector};

/// Packets the replay window spans (RFC 4303 section 3.4.3 asks for 64), the most that XFRM can do. Several queues and CPUs
/// reorder: what one of the sender's workers has sealed waits until its thread runs again, and at 300,000 packets a second the
/// others number 1,200 in the 4 ms of a tick.
const REPLAY_WINDOW: u32 = 4096;

/// An IKE child SA as the data path wants it.
pub(super) fn pair(
    sa: &ChildSa,
    port: PortId,
    outer: Outer,
    lifetimes: Lifetimes,
) -> Result<SaPair, &'static str> {
    let keys = |keys: &sekisho_ike::event::ChildKeys| Keys {
        encryption: keys.encryption.clone(),
        integrity: keys.integrity.clone(),
    };
    Ok(SaPair {
        port,
        name: used_for(&sa.connection, &sa.name, &sa.remote).into(),
        resource: sa.binding.resource(),
        spi_in: sa.spi_in,
        spi_out: sa.spi_out,
        transform: transform(sa.suite.encryption, sa.suite.integrity)?,
        keys_in: keys(&sa.keys_in),
        keys_out: keys(&sa.keys_out),
        esn: sa.suite.esn,
        replay_window: REPLAY_WINDOW,
        outer,
        local: selectors(&sa.local),
        remote: selectors(&sa.remote),
        lifetimes,
    })
}

/// What a pair is for: connection, child and the peer's networks, for clinics of one pool have the former two in common. A
/// pair takes the place of the one in use for the same, and of no other.
fn used_for(connection: &str, child: &str, remote: &[TrafficSelector]) -> String {
    let networks: Vec<String> = remote.iter().map(ToString::to_string).collect();
    format!("{connection}/{child} {}", networks.join(" "))
}

/// What algorithms that IKE has agreed on, or may agree on, come to.
pub(in crate::daemon) fn transform(
    encryption: Encryption,
    integrity: Option<Integrity>,
) -> Result<Transform, &'static str> {
    match (encryption, integrity) {
        (Encryption::AesGcm16 { bits: AesBits::Aes128 }, None) => Ok(Transform::Aes128Gcm16),
        (Encryption::AesGcm16 { bits: AesBits::Aes256 }, None) => Ok(Transform::Aes256Gcm16),
        (Encryption::ChaCha20Poly1305, None) => Ok(Transform::ChaCha20Poly1305),
        (Encryption::AesCbc { bits: AesBits::Aes128 }, Some(Integrity::HmacSha256_128)) => {
            Ok(Transform::Aes128CbcHmacSha256)
        }
        (Encryption::AesCbc { bits: AesBits::Aes256 }, Some(Integrity::HmacSha256_128)) => {
            Ok(Transform::Aes256CbcHmacSha256)
        }
        (Encryption::AesCbc { bits: AesBits::Aes128 }, Some(Integrity::HmacSha384_192)) => {
            Ok(Transform::Aes128CbcHmacSha384)
        }
        (Encryption::AesCbc { bits: AesBits::Aes256 }, Some(Integrity::HmacSha384_192)) => {
            Ok(Transform::Aes256CbcHmacSha384)
        }
        (Encryption::AesCbc { bits: AesBits::Aes128 }, Some(Integrity::HmacSha512_256)) => {
            Ok(Transform::Aes128CbcHmacSha512)
        }
        (Encryption::AesCbc { bits: AesBits::Aes256 }, Some(Integrity::HmacSha512_256)) => {
            Ok(Transform::Aes256CbcHmacSha512)
        }
        _ => Err("the data path has no such combination of algorithms; configure another `esp` proposal"),
    }
}

/// Selectors of packets whose ports cannot be seen are left out: the pipeline refuses such packets anyway.
fn selectors(list: &[TrafficSelector]) -> Vec<Selector> {
    list.iter()
        .filter_map(|ts| match ts.ports() {
            Ports::Range { start, end } => Some(Selector {
                addresses: ts.start()..=ts.end(),
                protocol: ts.protocol(),
                ports: start..=end,
            }),
            Ports::Opaque => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clinics_of_one_pool_do_not_take_each_others_place() {
        let of = |remote: &str| {
            used_for("clinics", "main", &[remote.parse::<TrafficSelector>().expect("a selector")])
        };
        assert_eq!(of("10.64.0.1/32"), of("10.64.0.1/32"), "a rekeyed pair takes its predecessor's");
        assert_ne!(of("10.64.0.1/32"), of("10.64.0.2/32"));
        assert_eq!(of("10.64.0.1/32"), "clinics/main 10.64.0.1/32");
    }
}
