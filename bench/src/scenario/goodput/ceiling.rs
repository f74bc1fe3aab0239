//! What cannot be beaten: the cipher alone, and what the headers leave of a line.

use std::hint::black_box;
use std::time::Duration;

use anyhow::{Context, Result};
use ring::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};

use super::{LENGTHS as LENGTHS_FLOODED, ONE_STREAM, SCENARIO, flood_case};
use crate::contender::{Contender, Encryption, Wanted};
use crate::cpu_time;
use crate::perf::report::{Better, Figure};
use crate::perf::session::Session;

/// What the line carries, bits a second.
const LINE: f64 = 1e9;
/// What Ethernet takes of a line besides the packet: preamble 8, header 14, checksum 4, gap 12.
const ETHERNET: usize = 38;
/// MTU of the line.
const LINE_MTU: usize = 1500;
/// IPv4 and TCP headers, with TCP's timestamps.
const TCP_HEADERS: usize = 20 + 32;
/// Lengths of IP packets.
const LENGTHS: [usize; 6] = [64, 128, 256, 512, 1024, 1400];
/// CPU time of one sample of the cipher.
const SAMPLE: Duration = Duration::from_millis(20);
/// Packets between two looks at the clock.
const BATCH: usize = 256;

/// What a tunnel adds to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Encapsulation {
    name: &'static str,
    /// In front: outer IPv4, UDP, and the tunnel's own header with its IV.
    before: usize,
    /// Behind: what pads to this many bytes …
    align: usize,
    /// … after these are appended (ESP's pad length and next header), …
    trailer: usize,
    /// … and the ICV.
    icv: usize,
}

/// Outer IPv4 header.
const IPV4: usize = 20;
/// UDP header.
const UDP: usize = 8;
/// SPI and sequence number.
const ESP: usize = 8;
/// Pad length and next header (RFC 4303 section 2).
const ESP_TRAILER: usize = 2;

const NO_TUNNEL: Encapsulation = Encapsulation { name: "no tunnel", before: 0, align: 1, trailer: 0, icv: 0 };
/// Type, receiver and counter are 16 bytes; packets are padded to 16.
const WIREGUARD: Encapsulation =
    Encapsulation { name: "WireGuard", before: IPV4 + UDP + 16, align: 16, trailer: 0, icv: 16 };

/// IV of 8 bytes (RFC 4106, RFC 7634), payload padded to 4.
const fn esp_aead(name: &'static str, udp: usize) -> Encapsulation {
    Encapsulation { name, before: IPV4 + udp + ESP + 8, align: 4, trailer: ESP_TRAILER, icv: 16 }
}

/// IV of 16 bytes (RFC 3602), payload padded to 16, ICV of 16 (RFC 4868).
const fn esp_cbc(name: &'static str, udp: usize) -> Encapsulation {
    Encapsulation { name, before: IPV4 + udp + ESP + 16, align: 16, trailer: ESP_TRAILER, icv: 16 }
}

const ENCAPSULATIONS: [Encapsulation; 6] = [
    NO_TUNNEL,
    esp_aead("ESP, GCM or ChaCha20-Poly1305", 0),
    esp_aead("the same in UDP", UDP),
    esp_cbc("ESP, AES-CBC with HMAC-SHA2-256", 0),
    esp_cbc("AES-CBC in UDP", UDP),
    WIREGUARD,
];

impl Encapsulation {
    /// Length of the outer IP packet.
    fn outer(&self, inner: usize) -> usize {
        self.before + (inner + self.trailer).next_multiple_of(self.align) + self.icv
    }

    /// The longest inner packet that the line carries in one piece.
    fn mtu(&self) -> usize {
        (0..=LINE_MTU).rev().find(|inner| self.outer(*inner) <= LINE_MTU).unwrap_or_default()
    }

    /// Payload of TCP that the line carries in full packets, bits a second.
    fn tcp(&self) -> f64 {
        let mtu = self.mtu();
        self.carried(mtu) * (mtu - TCP_HEADERS) as f64 / mtu as f64
    }

    /// Of an inner packet's bytes, what the line carries, bits a second.
    fn carried(&self, inner: usize) -> f64 {
        LINE * inner as f64 / (self.outer(inner) + ETHERNET) as f64
    }
}

/// What a line of 1 Gbit/s carries of TCP's payload through such a tunnel, bits a second.
pub(super) fn line(contender: Contender, wanted: Wanted) -> f64 {
    let udp = if wanted.in_udp { UDP } else { 0 };
    let encapsulation = match (contender, wanted.encryption) {
        (Contender::Relay, _) => NO_TUNNEL,
        (Contender::WireguardGo | Contender::GotaTun | Contender::BoringTun, _) => WIREGUARD,
        (_, Encryption::Aes128CbcSha256) => esp_cbc("", udp),
        _ => esp_aead("", udp),
    };
    encapsulation.tcp()
}

/// Records both.
pub(super) fn run(session: &mut Session) -> Result<()> {
    for encapsulation in &ENCAPSULATIONS {
        let mtu = encapsulation.mtu();
        let mut record = |case: &str, name: &str, unit: &str, better, at, value| {
            let contender = encapsulation.name;
            session.record(&Figure { scenario: SCENARIO, case, contender, name, unit, better, at }, value);
        };
        let case = "computed: a line of 1 Gbit/s";
        record(case, "TCP goodput at most", "Mbit/s", Better::Higher, None, encapsulation.tcp() / 1e6);
        record(case, "MTU inside", "bytes", Better::Higher, None, mtu as f64);
        let added = encapsulation.outer(mtu) - mtu;
        record(case, "added to a full packet", "bytes", Better::Lower, None, added as f64);
        for length in LENGTHS {
            let (at, inside) = (Some(length as f64), encapsulation.carried(length) / 1e6);
            record(
                "computed: a line of 1 Gbit/s, by length of the inner packet",
                "inner IP",
                "Mbit/s",
                Better::Higher,
                at,
                inside,
            );
        }
    }
    let ciphers = [
        ("AES-128-GCM", &aead::AES_128_GCM),
        ("AES-256-GCM", &aead::AES_256_GCM),
        ("ChaCha20-Poly1305", &aead::CHACHA20_POLY1305),
    ];
    session.progress("the ciphers alone");
    for (_, (contender, algorithm)) in session.turns(&ciphers) {
        for length in LENGTHS {
            let value = seal_rate(algorithm, length)? / 1e6;
            let figure = Figure {
                scenario: SCENARIO,
                case: "ceiling: ring's ciphers alone, one core, by length of the packet",
                contender,
                name: "sealed",
                unit: "Mbit/s",
                better: Better::Higher,
                at: Some(length as f64),
            };
            session.record(&figure, value);
        }
    }
    Ok(())
}

/// What part of each ceiling our engine reaches, round by round.
pub(super) fn fractions(session: &mut Session) -> Result<()> {
    let esp = esp_aead("", 0);
    let mut found = Vec::new();
    let loads = LENGTHS_FLOODED.map(|length| (flood_case(length), length));
    for (case, length) in [(ONE_STREAM.to_owned(), esp.mtu())].into_iter().chain(loads) {
        let samples = |contender: Contender| {
            let report = session.report();
            let all = report.of_case(SCENARIO, &case);
            let first = all.iter().find(|series| series.contender == contender.name());
            first.map(|series| series.samples.clone()).unwrap_or_default()
        };
        let mut samples = samples;
        let (ours, bare) = (samples(Contender::Sekisho), samples(Contender::Relay));
        let (bits, line) = match case == ONE_STREAM {
            // Mbit/s of TCP's payload.
            true => (1e6 * length as f64 / (length - TCP_HEADERS) as f64, esp.carried(length)),
            // Thousands of packets a second.
            false => (1e3 * length as f64 * 8.0, esp.carried(length)),
        };
        let sealed = seal_rate(&aead::AES_128_GCM, length)?;
        for (sample, bare) in ours.iter().zip(bare) {
            let shares = [sample / bare, sample * bits / sealed, sample * bits / line];
            found.push((case.clone(), shares.map(|share| share * 100.0)));
        }
    }
    for (load, shares) in found {
        for (name, share) in
            ["of bare AF_XDP", "of AES-128-GCM on one core", "of a line of 1 Gbit/s"].into_iter().zip(shares)
        {
            let case = "our engine, by what it cannot exceed";
            let (contender, unit, better) = (load.as_str(), "%", Better::Neither);
            session
                .record(&Figure { scenario: SCENARIO, case, contender, name, unit, better, at: None }, share);
        }
    }
    Ok(())
}

/// Bits that one core seals in a second of CPU time.
fn seal_rate(algorithm: &'static aead::Algorithm, length: usize) -> Result<f64> {
    let key =
        UnboundKey::new(algorithm, &vec![7; algorithm.key_len()]).ok().context("a key of this length")?;
    let key = LessSafeKey::new(key);
    let mut packet = vec![0x45; length];
    let mut number = 0_u64;
    let began = cpu_time();
    let mut spent = Duration::ZERO;
    while spent < SAMPLE {
        for _ in 0..BATCH {
            number += 1;
            let mut nonce = [0; aead::NONCE_LEN];
            nonce[4..].copy_from_slice(&number.to_be_bytes());
            let nonce = Nonce::assume_unique_for_key(nonce);
            let tag = key.seal_in_place_separate_tag(nonce, Aad::from([0; 8]), black_box(&mut packet));
            let _ = black_box(tag.ok().context("sealing")?);
        }
        spent = cpu_time() - began;
    }
    Ok(number as f64 * length as f64 * 8.0 / spent.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_of_the_wire() {
        let of = |name: &str| ENCAPSULATIONS.iter().find(|of| of.name == name).expect("listed");
        // RFC 4303 with RFC 4106: 20 + 8 + 8, 100 + 2 padded to 104, 16.
        assert_eq!(of("ESP, GCM or ChaCha20-Poly1305").outer(100), 156);
        assert_eq!(of("ESP, GCM or ChaCha20-Poly1305").mtu(), 1446);
        // 20 + 8 + 16, 100 + 2 padded to 112, 16.
        assert_eq!(of("ESP, AES-CBC with HMAC-SHA2-256").outer(100), 172);
        // WireGuard: 60 bytes and padding.
        assert_eq!(of("WireGuard").outer(1408), 1468);
        assert_eq!(of("no tunnel").outer(100), 100);
    }

    #[test]
    fn a_line_carries_no_more_than_it_can() {
        for encapsulation in &ENCAPSULATIONS {
            assert!(encapsulation.outer(encapsulation.mtu()) <= LINE_MTU, "{encapsulation:?}");
            assert!(LENGTHS.iter().all(|length| encapsulation.carried(*length) < LINE));
        }
        // The well-known figure of TCP over Ethernet with timestamps.
        let plain = NO_TUNNEL.tcp() / 1e6;
        assert!((plain - 941.5).abs() < 0.1, "{plain}");
    }
}
