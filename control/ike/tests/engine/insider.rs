//! A peer that holds the keys of IKE_SA_INIT and has not proved who it is: nothing but a right IKE_AUTH gets an answer that
//! means anything (RFC 7296 section 1.2).

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use sekisho_ike::Endpoint;
use sekisho_ike::crypto::dh::KeyShare;
use sekisho_ike::crypto::keys::{Exchanged, IkeKeys};
use sekisho_ike::crypto::negotiate::{choose_ike, offer_ike};
use sekisho_ike::crypto::random::SeededRandom;
use sekisho_ike::crypto::sk::SkCipher;
use sekisho_ike::crypto::suite::Group;
use sekisho_ike::event::{Event, Path};
use sekisho_ike::wire::auth::Authentication;
use sekisho_ike::wire::delete::Delete;
use sekisho_ike::wire::eap::Eap;
use sekisho_ike::wire::id::IdPayload;
use sekisho_ike::wire::ke::KeyExchange;
use sekisho_ike::wire::nonce::Nonce;
use sekisho_ike::wire::notify::Notify;
use sekisho_ike::wire::sa::SecurityAssociation;
use sekisho_ike::wire::{
    AuthMethod, ExchangeType, Header, KeId, NotifyType, Outer, Payload, PayloadType, Spi, WireError, protect,
    write_clear, write_payloads,
};

use crate::pair::{ADDRESS_A, ADDRESS_B, Side, WALL};
use crate::setup::{connection, endpoint, ike};

const SPI: Spi = Spi(7);
const NONCE: [u8; 32] = [0x5a; 32];

struct Insider {
    gateway: Endpoint,
    now: Instant,
    cipher: SkCipher,
    random: SeededRandom,
    spi_r: Spi,
}

impl Insider {
    fn new() -> Self {
        let now = Instant::now();
        let config = endpoint(connection(Side::B));
        let wall = SystemTime::UNIX_EPOCH + WALL;
        let mut gateway = Endpoint::new(config, Box::new(SeededRandom::new(2)), now, wall);
        let mut random = SeededRandom::new(1);
        let share = KeyShare::generate(Group::X25519, &mut random).expect("a key");
        let proposals = ike(&["aes128gcm16-prfsha256-x25519"]);
        let offer = offer_ike(&proposals, None);
        let suite = choose_ike(&offer, &proposals, None, Some(Group::X25519), false).expect("ours").suite;
        let payloads = [
            Payload::Sa(SecurityAssociation::new(offer)),
            Payload::Ke(KeyExchange::new(KeId::Curve25519, share.public().to_vec())),
            Payload::Nonce(Nonce::new(NONCE.to_vec()).expect("a nonce")),
        ];
        let header = Header::request(SPI, Spi::ZERO, ExchangeType::IkeSaInit, true, 0);
        let request = write_clear(&header, &payloads).expect("a message");
        gateway.handle_datagram(now, path(), &request);
        let answer = gateway.poll_transmit().expect("an answer");
        let Outer { header, payloads, .. } = Outer::parse(&answer.bytes).expect("a message");
        let (mut public, mut nonce_r) = (Vec::new(), Vec::new());
        for payload in payloads {
            match payload {
                Payload::Ke(ke) => public = ke.data,
                Payload::Nonce(nonce) => nonce_r = nonce.as_bytes().to_vec(),
                _ => {}
            }
        }
        let secret = share.agree(&public).expect("a secret");
        let (spi_i, spi_r) = (SPI.0, header.spi_r.0);
        let exchanged = Exchanged { nonce_i: &NONCE, nonce_r: &nonce_r, spi_i, spi_r };
        let keys = IkeKeys::derive(&suite, &secret, exchanged).expect("keys");
        let cipher = SkCipher::new(&suite, &keys.ei, &keys.ai).expect("a cipher");
        Self { gateway, now, cipher, random, spi_r: header.spi_r }
    }

    /// Sends a message; how many datagrams came back.
    fn send(&mut self, exchange: ExchangeType, response: bool, id: u32, payloads: &[Payload]) -> usize {
        let (first, content) = write_payloads(payloads).expect("payloads");
        self.send_chain(exchange, response, id, (first, &content))
    }

    /// The same with any chain of payloads in it.
    fn send_chain(
        &mut self,
        exchange: ExchangeType,
        response: bool,
        id: u32,
        (first, content): (PayloadType, &[u8]),
    ) -> usize {
        let header = Header { response, ..Header::request(SPI, self.spi_r, exchange, true, id) };
        let length = self.cipher.sealed_len(content.len());
        let Self { cipher, random, .. } = self;
        let seal =
            |aad: &[u8], plain: &[u8]| Ok::<_, WireError>(cipher.seal(random, aad, plain).expect("sealed"));
        let message = protect(&header, first, content, length, seal).expect("a message");
        self.gateway.handle_datagram(self.now, path(), &message);
        std::iter::from_fn(|| self.gateway.poll_transmit()).count()
    }

    /// Nothing was established; what was said of it can be shown on any terminal.
    #[track_caller]
    fn assert_refused(&mut self) {
        let stats = self.gateway.stats();
        assert_eq!((stats.ike_established, stats.children), (0, 0));
        while let Some(event) = self.gateway.poll_event() {
            let Event::Failure(failure) = event else { panic!("{event:?}") };
            assert!(
                !failure.detail.is_empty() && !failure.detail.chars().any(char::is_control),
                "{failure:?}"
            );
        }
    }
}

fn path() -> Path {
    let address = |text: &str| SocketAddr::new(text.parse().expect("address"), 500);
    Path { local: address(ADDRESS_B), remote: address(ADDRESS_A) }
}

#[test]
fn nothing_but_ike_auth_is_answered_before_it() {
    for exchange in [36, 37, 34, 38, 99].map(ExchangeType::from) {
        for id in [0, 1, 2] {
            let mut insider = Insider::new();
            let delete = [Payload::Delete(Delete::Ike)];
            assert_eq!(insider.send(exchange, false, id, &delete), 0, "{exchange} with ID {id}");
            assert_eq!(insider.send(exchange, true, id, &delete), 0, "a response nobody asked for");
            assert_eq!(insider.gateway.stats().half_open, 1, "not deleted by {exchange}");
        }
    }
}

/// EAP before, in place of and after a proof: the state machine has no place for it (CVE-2023-26463 and its kin).
#[test]
fn early_eap_payloads_lead_nowhere() {
    let id = || Payload::IdI(IdPayload::new("clinic.example".parse().expect("identity")));
    // Success, a request without its content, a length that lies, nothing at all, a response of type Notification.
    for packet in [&[3, 1, 0, 4][..], &[1, 1, 0, 5], &[2, 1, 0xff, 0xff, 1], &[], &[2, 0, 0, 6, 2, 0]] {
        let eap = || Payload::Eap(Eap(packet.to_vec()));
        for payloads in [vec![eap()], vec![id(), eap()], vec![eap(), eap()], vec![id(), auth(), eap()]] {
            let mut insider = Insider::new();
            assert!(insider.send(ExchangeType::IkeAuth, false, 1, &payloads) <= 1, "one refusal");
            insider.send(ExchangeType::IkeAuth, false, 2, &[auth()]);
            insider.assert_refused();
        }
        // What was not agreed on is refused, and nothing else is answered.
        for (exchange, answers) in [(ExchangeType::Informational, 0), (ExchangeType::IkeIntermediate, 1)] {
            let mut insider = Insider::new();
            assert_eq!(insider.send(exchange, false, 1, &[eap()]), answers, "{exchange}");
            insider.assert_refused();
        }
    }
}

fn auth() -> Payload {
    Payload::Auth(Authentication::new(AuthMethod::SharedKey, vec![7; 32]))
}

/// Identities of every type, of lengths that suit it and of others (CVE-2017-9022, CVE-2023-38710 and their kin), and
/// with what a log must not be fooled by.
#[test]
fn identities_of_any_type_and_length_are_read_or_refused() {
    let (proof, chain) = write_payloads(&[auth()]).expect("payloads");
    for kind in 0..=255u8 {
        for data in
            [&[0; 0][..], &[0], &[0; 4], &[0; 5], &[0xff; 16], &[0; 17], b"a\0b.example", b"\x1b[2J\n\r"]
        {
            let length = u16::try_from(8 + data.len()).expect("short").to_be_bytes();
            let id = [&[proof.number(), 0, length[0], length[1], kind, 0, 0, 0], data, &chain].concat();
            let mut insider = Insider::new();
            let answers = insider.send_chain(ExchangeType::IkeAuth, false, 1, (PayloadType::IdI, &id));
            assert!(answers <= 1, "one refusal of type {kind}");
            insider.assert_refused();
        }
    }
    // The payload is too short for its own type, or not there at all.
    for body in [&[0, 0, 0, 4][..], &[0, 0, 0, 7, 2, 0, 0]] {
        let mut insider = Insider::new();
        insider.send_chain(ExchangeType::IkeAuth, false, 1, (PayloadType::IdI, body));
        insider.assert_refused();
    }
}

#[test]
fn what_proves_nothing_establishes_nothing() {
    let id = || Payload::IdI(IdPayload::new("clinic.example".parse().expect("identity")));
    for payloads in [
        vec![],
        vec![id()],
        vec![id(), id()],
        vec![id(), Payload::Notify(Notify::new(NotifyType::InitialContact))],
        vec![Payload::Delete(Delete::Ike)],
    ] {
        let mut insider = Insider::new();
        assert_eq!(insider.send(ExchangeType::IkeAuth, false, 1, &payloads), 1, "one refusal");
        let stats = insider.gateway.stats();
        assert_eq!((stats.ike_established, stats.children), (0, 0));
        // A second try on the same IKE SA is none.
        insider.send(ExchangeType::IkeAuth, false, 2, &payloads);
        assert_eq!(insider.gateway.stats().ike_established, 0);
        let opened = std::iter::from_fn(|| insider.gateway.poll_event())
            .any(|event| matches!(event, Event::IkeEstablished(_) | Event::ChildInstall(_)));
        assert!(!opened);
        insider.now += Duration::from_secs(120);
        insider.gateway.handle_timeout(insider.now);
        assert_eq!((insider.gateway.stats().strangers, insider.gateway.poll_timeout()), (0, None));
    }
}
