//! A peer that holds the keys and keeps no rule: messages with any content under a right integrity check, before and
//! after it has authenticated.
//!
//! The input is a byte (bit 0: authenticate first) and then records of five bytes and their content: what to bend (see
//! [`Record`]), exchange type, first payload, and the content's length in two bytes.
//!
//! Asserts: no panic; memory stays bounded by what was sent; what cannot authenticate establishes nothing; once our side
//! has closed and the timers have run out, nothing is left.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use sekisho_fuzz::ike::{Side, assert_empty, endpoint, psk};
use sekisho_fuzz::memory::within;
use sekisho_ike::Endpoint;
use sekisho_ike::crypto::dh::KeyShare;
use sekisho_ike::crypto::keys::{Exchanged, IkeKeys, psk_auth, signed_octets};
use sekisho_ike::crypto::negotiate::{Pfs, offer_esp, offer_ike};
use sekisho_ike::crypto::random::SeededRandom;
use sekisho_ike::crypto::sk::SkCipher;
use sekisho_ike::crypto::suite::{Additional, AesBits, Encryption, Group, IkeProposal, IkeSuite, Prf};
use sekisho_ike::event::{Event, Path};
use sekisho_ike::wire::auth::Authentication;
use sekisho_ike::wire::id::{IdPayload, Identification};
use sekisho_ike::wire::ke::KeyExchange;
use sekisho_ike::wire::nonce::Nonce;
use sekisho_ike::wire::sa::SecurityAssociation;
use sekisho_ike::wire::ts::TrafficSelectors;
use sekisho_ike::wire::{
    AuthMethod, ExchangeType, Fragment, Header, KeId, Outer, Payload, PayloadType, Spi, WireError, protect,
    protect_fragment, write_clear, write_payloads,
};

const SUITE: IkeSuite = IkeSuite {
    encryption: Encryption::AesGcm16 { bits: AesBits::Aes128 },
    integrity: None,
    prf: Prf::HmacSha256,
    group: Group::X25519,
    additional: Additional::NONE,
};
const SPI: Spi = Spi(0x1122_3344_5566_7788);
const NONCE: [u8; 32] = [0x5a; 32];
/// Messages of one run.
const RECORDS: usize = 24;
/// Longer than a peer is waited for, or a half-open or closed IKE SA kept.
const REST: Duration = Duration::from_secs(400);

fuzz_target!(|bytes: &[u8]| {
    // One payload's values, kept by an exchange that waits, and fragments of one message are the most there may be.
    within((4 << 20) + 64 * bytes.len(), || run(bytes));
});

fn run(bytes: &[u8]) {
    let Some((&begin, mut rest)) = bytes.split_first() else { return };
    let mut peer = Peer::connect();
    let authenticate = begin & 1 != 0;
    if authenticate {
        peer.authenticate();
        assert_eq!(peer.gateway.stats().established, 1, "an honest peer is let in");
    }
    for _ in 0..RECORDS {
        let Some(record) = Record::take(&mut rest) else { break };
        peer.send(&record);
        if !authenticate {
            assert_eq!(peer.gateway.stats().ike_established, 0, "let in without authentication");
        }
    }
    peer.gateway.close_all(peer.now);
    peer.drain();
    let until = peer.now + REST;
    while let Some(at) = peer.gateway.poll_timeout().filter(|at| *at <= until) {
        peer.now = peer.now.max(at);
        peer.gateway.handle_timeout(peer.now);
        peer.drain();
    }
    assert_empty(&peer.gateway);
}

/// One message.
struct Record<'a> {
    /// Bit 0: a response. Bit 1: without the flag of the initiator. Bit 2: the last message ID again. Bit 3: one message
    /// ID is left out. Bits 4 and 5: fragment 1 of 2, 2 of 2, or alone of 1. Bit 6: some seconds pass before it. Bit 7:
    /// from another port.
    bend: u8,
    exchange: u8,
    first: u8,
    content: &'a [u8],
}

impl<'a> Record<'a> {
    fn take(rest: &mut &'a [u8]) -> Option<Self> {
        let (&[bend, exchange, first, l0, l1], after) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes([l0, l1])).min(after.len());
        let (content, after) = after.split_at_checked(length)?;
        *rest = after;
        Some(Self { bend, exchange, first, content })
    }
}

/// Begins an IKE SA with a gateway, by the book, and then does as it likes.
struct Peer {
    gateway: Endpoint,
    now: Instant,
    random: SeededRandom,
    cipher: SkCipher,
    keys: IkeKeys,
    init: Vec<u8>,
    nonce_r: Vec<u8>,
    spi_r: Spi,
    /// Of our next request.
    next_id: u32,
    /// Of the gateway's last request.
    asked: u32,
}

impl Peer {
    fn connect() -> Self {
        let now = Instant::now();
        let mut gateway = endpoint(Side::B, 2, now);
        let mut random = SeededRandom::new(1);
        let share = KeyShare::generate(Group::X25519, &mut random).expect("a key");
        let proposals: Vec<IkeProposal> = vec!["aes128gcm16-prfsha256-x25519".parse().expect("a proposal")];
        let request = Header::request(SPI, Spi::ZERO, ExchangeType::IkeSaInit, true, 0);
        let init = write_clear(
            &request,
            &[
                Payload::Sa(SecurityAssociation::new(offer_ike(&proposals, None))),
                Payload::Ke(KeyExchange::new(KeId::Curve25519, share.public().to_vec())),
                Payload::Nonce(Nonce::new(NONCE.to_vec()).expect("a nonce")),
            ],
        )
        .expect("a message");
        gateway.handle_datagram(now, Side::B.path(), &init);
        let answer = gateway.poll_transmit().expect("an answer");
        let Outer { header, payloads, .. } = Outer::parse(&answer.bytes).expect("a message");
        let public = payloads.iter().find_map(|payload| match payload {
            Payload::Ke(ke) => Some(ke.data.clone()),
            _ => None,
        });
        let nonce_r = payloads.iter().find_map(|payload| match payload {
            Payload::Nonce(nonce) => Some(nonce.as_bytes().to_vec()),
            _ => None,
        });
        let nonce_r = nonce_r.expect("a nonce");
        let secret = share.agree(&public.expect("a key")).expect("a key that fits");
        let exchanged = Exchanged { nonce_i: &NONCE, nonce_r: &nonce_r, spi_i: SPI.0, spi_r: header.spi_r.0 };
        let keys = IkeKeys::derive(&SUITE, &secret, exchanged).expect("short keys");
        let cipher = SkCipher::new(&SUITE, &keys.ei, &[]).expect("keys that fit");
        let spi_r = header.spi_r;
        Self { gateway, now, random, cipher, keys, init, nonce_r, spi_r, next_id: 1, asked: 0 }
    }

    /// IKE_AUTH as it should be.
    fn authenticate(&mut self) {
        let id = IdPayload::new(Identification::fqdn("clinic.example").expect("a name"));
        let octets = signed_octets(SUITE.prf, &self.init, &self.nonce_r, &self.keys.pi, &id.body());
        let auth = psk_auth(SUITE.prf, &psk(), &octets).to_vec();
        let selectors = |network: &str| TrafficSelectors::new(vec![network.parse().expect("a selector")]);
        let esp = ["aes128gcm16-x25519".parse().expect("a proposal")];
        let payloads = [
            Payload::IdI(id),
            Payload::Auth(Authentication::new(AuthMethod::SharedKey, auth)),
            Payload::Sa(SecurityAssociation::new(offer_esp(&esp, 0x1234_5678, Pfs::Never))),
            Payload::TsI(selectors("192.168.1.0/24")),
            Payload::TsR(selectors("10.2.0.0/24")),
        ];
        let (first, chain) = write_payloads(&payloads).expect("a chain");
        let record = Record { bend: 0, exchange: 35, first: first.number(), content: &chain };
        self.send(&record);
    }

    fn send(&mut self, record: &Record<'_>) {
        let bend = |bit: u8| record.bend & (1 << bit) != 0;
        if bend(6) {
            self.now += Duration::from_secs(7);
            self.gateway.handle_timeout(self.now);
            self.drain();
        }
        let message_id = match (bend(0), bend(2), bend(3)) {
            (true, ..) => self.asked,
            (_, true, _) => self.next_id.saturating_sub(1),
            (_, _, true) => self.next_id + 1,
            _ => self.next_id,
        };
        let header = Header {
            response: bend(0),
            ..Header::request(SPI, self.spi_r, ExchangeType::from(record.exchange), !bend(1), message_id)
        };
        let first = PayloadType::from(record.first);
        let length = self.cipher.sealed_len(record.content.len());
        let (cipher, random) = (&mut self.cipher, &mut self.random);
        let seal = |prefix: &[u8], content: &[u8]| {
            Ok::<_, WireError>(cipher.seal(random, prefix, content).expect("fresh keys"))
        };
        let message = match record.bend >> 4 & 3 {
            0 => protect(&header, first, record.content, length, seal),
            part => {
                let fragment = Fragment { number: u16::from(part == 2) + 1, total: u16::from(part != 3) + 1 };
                protect_fragment(&header, fragment, first, record.content, length, seal)
            }
        };
        // Too long for a datagram.
        let Ok(message) = message else { return };
        let mut path = Side::B.path();
        if bend(7) {
            path = Path { remote: (path.remote.ip(), 4500).into(), local: (path.local.ip(), 4500).into() };
        }
        self.gateway.handle_datagram(self.now, path, &message);
        if self.drain() && message_id == self.next_id && !bend(0) {
            self.next_id += 1;
        }
    }

    /// Takes out what the gateway says; whether it answered a request.
    fn drain(&mut self) -> bool {
        while let Some(event) = self.gateway.poll_event() {
            if let Event::Failure(failure) = event {
                assert!(!failure.detail.chars().any(|c| c.is_control()), "{:?}", failure.detail);
            }
        }
        let mut answered = false;
        while let Some(transmit) = self.gateway.poll_transmit() {
            if let Ok((header, _)) = Header::parse(&transmit.bytes) {
                answered |= header.response;
                if !header.response {
                    self.asked = header.message_id;
                }
            }
        }
        answered
    }
}
