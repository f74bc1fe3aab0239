//! Loss, and strangers: nothing that a third party sends may touch what is established.

use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;
use sekisho_ike::config::{Connection, EndpointConfig, Limits, Uniqueness};
use sekisho_ike::crypto::random::{Random, SeededRandom};
use sekisho_ike::event::{CloseReason, FailureKind, Path};
use sekisho_ike::wire::notify::Notify;
use sekisho_ike::wire::{ExchangeType, Header, NotifyType, Outer, Payload, Spi, write_clear};

use crate::pair::{Pair, Side};
use crate::setup::{connection, endpoint, established, pair, patient_pair};

fn path(pair: &Pair, to: Side) -> Path {
    let (ours, theirs) = match to {
        Side::A => (pair.a.address, pair.b.address),
        Side::B => (pair.b.address, pair.a.address),
    };
    Path { local: SocketAddr::new(ours, 500), remote: SocketAddr::new(theirs, 500) }
}

fn stranger(number: u16) -> Path {
    Path {
        local: "203.0.113.2:500".parse().expect("address"),
        remote: SocketAddr::from(([192, 0, 2, 9], number)),
    }
}

#[test]
fn a_third_of_all_datagrams_lost() {
    for seed in 0..30 {
        let mut pair = patient_pair(seed, |_, _| {});
        pair.network.loss_percent = 30;
        pair.network.jitter = Duration::from_millis(30);
        pair.network.duplicate_percent = 20;
        pair.initiate(Side::A);
        pair.settle();
        let child = pair.a.child();
        pair.act(Side::A, |endpoint, now| endpoint.rekey_child(now, child)).expect("rekey");
        pair.settle();
        let ike = pair.b.ike();
        pair.act(Side::B, |endpoint, now| endpoint.rekey_ike(now, ike)).expect("rekey");
        pair.settle();
        pair.network.loss_percent = 0;
        pair.run(Duration::from_secs(120));
        pair.settle();
        pair.assert_up(1);
        assert!(pair.a.closed.is_empty() && pair.b.closed.is_empty());
    }
}

#[test]
fn replays_change_nothing() {
    let mut pair = established(|_, _| {});
    for _ in 0..2 {
        let child = pair.a.child();
        pair.act(Side::A, |endpoint, now| endpoint.rekey_child(now, child)).expect("rekey");
        pair.settle();
    }
    let recorded = pair.sent.clone();
    pair.a.events.clear();
    pair.b.events.clear();
    for (from, transmit) in &recorded {
        for to in [from.other(), *from] {
            let path = path(&pair, to);
            pair.inject(to, path, &transmit.bytes);
            // And from elsewhere.
            pair.inject(
                to,
                Path { remote: "192.0.2.66:4500".parse().expect("address"), ..path },
                &transmit.bytes,
            );
        }
    }
    pair.run(Duration::from_secs(1));
    pair.settle();
    pair.assert_up(1);
    let only_failures = |events: &[sekisho_ike::Event]| {
        events.iter().all(|event| matches!(event, sekisho_ike::Event::Failure(_)))
    };
    assert!(only_failures(&pair.a.events), "{:?}", pair.a.events);
    assert!(only_failures(&pair.b.events), "{:?}", pair.b.events);
    let child = pair.b.child();
    pair.act(Side::B, |endpoint, now| endpoint.rekey_child(now, child)).expect("rekey");
    pair.run(Duration::from_secs(200));
    pair.settle();
    pair.assert_up(1);
}

#[test]
fn damaged_messages_are_counted_and_dropped() {
    let mut pair = established(|_, _| {});
    let ike = pair.b.endpoint.ike_sas().next().expect("up");
    let ours = Header::request(Spi(ike.spi_i), Spi(ike.spi_r), ExchangeType::Informational, true, 2);
    // A well-formed Encrypted payload that nobody sealed.
    let mut forged = Vec::new();
    ours.write(sekisho_ike::wire::PayloadType::Sk, 28 + 4 + 40, &mut forged).expect("header");
    forged.extend_from_slice(&[42, 0, 0, 44]);
    forged.extend_from_slice(&[7; 40]);
    let path = path(&pair, Side::B);
    for _ in 0..50 {
        pair.inject(Side::B, path, &forged);
    }
    assert_eq!(
        pair.b.failures.iter().filter(|failure| failure.kind == FailureKind::Integrity).count(),
        1,
        "one in a second"
    );
    assert_eq!(pair.b.endpoint.stats().failures[&FailureKind::Integrity], 50);
    pair.run(Duration::from_secs(60));
    pair.settle();
    pair.assert_up(1);
}

#[test]
fn errors_in_clear_are_not_believed() {
    let mut pair = established(|_, _| {});
    let ike = pair.a.endpoint.ike_sas().next().expect("up");
    // While a request of A is outstanding, its answers are forged.
    let child = pair.a.child();
    pair.act(Side::A, |endpoint, now| endpoint.rekey_child(now, child)).expect("rekey");
    let path = path(&pair, Side::A);
    for (notify, id) in
        [NotifyType::InvalidIkeSpi, NotifyType::AuthenticationFailed, NotifyType::InvalidSyntax]
            .into_iter()
            .flat_map(|notify| (0..4).map(move |id| (notify, id)))
    {
        for exchange in [ExchangeType::Informational, ExchangeType::CreateChildSa, ExchangeType::IkeAuth] {
            let header = Header {
                response: true,
                ..Header::request(Spi(ike.spi_i), Spi(ike.spi_r), exchange, false, id)
            };
            let forged = write_clear(&header, &[Payload::Notify(Notify::new(notify))]).expect("message");
            pair.inject(Side::A, path, &forged);
        }
    }
    pair.settle();
    pair.assert_up(1);
    assert_ne!(pair.a.child(), child, "the rekey went through");
}

#[test]
fn a_forged_refusal_does_not_end_an_attempt_that_the_peer_answers() {
    let mut pair = pair(|_, _| {});
    pair.initiate(Side::A);
    let request = Outer::parse(&pair.sent[0].1.bytes).expect("our own").header;
    let path = path(&pair, Side::A);
    for notify in [NotifyType::NoProposalChosen, NotifyType::InvalidSyntax, NotifyType::AuthenticationFailed]
    {
        let forged = write_clear(&request.reply(), &[Payload::Notify(Notify::new(notify))]).expect("message");
        pair.inject(Side::A, path, &forged);
    }
    let weaker = Notify::invalid_ke(sekisho_ike::wire::KeId::Modp1024);
    pair.inject(Side::A, path, &write_clear(&request.reply(), &[Payload::Notify(weaker)]).expect("message"));
    pair.settle();
    pair.assert_up(1);
}

#[test]
fn unknown_spis_are_answered_rarely_and_never_in_turn() {
    let mut pair = established(|_, _| {});
    pair.sent.clear();
    let header = Header::request(Spi(1), Spi(2), ExchangeType::Informational, true, 0);
    let request = write_clear(&header, &[]).expect("message");
    let response = write_clear(&header.reply(), &[]).expect("message");
    for number in 1..100 {
        pair.inject(Side::B, stranger(number), &request);
        pair.inject(Side::B, stranger(number), &response);
    }
    assert_eq!(pair.sent.len(), 1, "one INVALID_IKE_SPI in a second");
    assert!(pair.sent[0].1.bytes.len() <= request.len() + 8, "nothing to amplify with");
    assert!(pair.b.failed(FailureKind::UnknownSpi));
    pair.assert_up(1);
}

#[test]
fn another_version_is_told_ours() {
    let mut pair = established(|_, _| {});
    pair.sent.clear();
    let header = Header::request(Spi(1), Spi(0), ExchangeType::IkeSaInit, true, 0);
    let mut request = write_clear(&header, &[]).expect("message");
    request[17] = 0x30;
    pair.inject(Side::B, stranger(1), &request);
    let answer = Outer::parse(&pair.sent[0].1.bytes).expect("an answer");
    assert!(
        matches!(&answer.payloads[..], [Payload::Notify(n)] if n.notify_type == NotifyType::InvalidMajorVersion)
    );
    request[17] = 0x10;
    pair.inject(Side::B, stranger(1), &request);
    assert_eq!(pair.sent.len(), 1, "IKEv1 is not answered");
}

/// First requests from many strangers, each well-formed, as only IKE_SA_INIT needs to be.
fn flood(pair: &mut Pair, count: u16) {
    let address = pair.a.address;
    flood_from(pair, count, |number| SocketAddr::new(address, 1000 + number), |_| {});
}

/// As [`flood`], from these addresses; `change` is made to each request.
fn flood_from(
    pair: &mut Pair,
    count: u16,
    remote: impl Fn(u16) -> SocketAddr,
    change: impl Fn(&mut Vec<u8>),
) {
    let mut attacker = Pair::seeded(99, endpoint(connection(Side::A)), endpoint(connection(Side::B)));
    for number in 0..count {
        attacker.sent.clear();
        attacker.initiate(Side::A);
        let mut request = attacker.sent[0].1.bytes.clone();
        change(&mut request);
        let local = SocketAddr::new(pair.b.address, 500);
        pair.inject(Side::B, Path { local, remote: remote(number) }, &request);
    }
}

/// B answers anybody, and holds so many half-open IKE SAs.
fn open_to_all(half_open: usize) -> Pair {
    let limits = Limits { half_open, cookie_threshold: 1000, ..Limits::default() };
    let anybody = Connection { remote_address: None, ..connection(Side::B) };
    Pair::new(endpoint(connection(Side::A)), EndpointConfig { limits, ..endpoint(anybody) })
}

fn address(number: u16) -> SocketAddr {
    let [high, low] = number.to_be_bytes();
    SocketAddr::from(([192, 0, high, low], 500))
}

#[test]
fn a_flood_of_first_requests_is_held_by_cookies_and_forgotten() {
    let mut pair = pair(|_, _| {});
    flood(&mut pair, 200);
    let stats = pair.b.endpoint.stats();
    assert_eq!(stats.half_open, 32, "the cookie threshold");
    assert_eq!(stats.cookies_demanded, 168);
    // An honest peer still gets through.
    pair.initiate(Side::A);
    pair.run(Duration::from_secs(2));
    assert_eq!(pair.a.established.len(), 1);
    pair.act(Side::A, |endpoint, now| endpoint.close_all(now));
    pair.run(Duration::from_secs(200));
    pair.assert_empty();
}

#[test]
fn half_open_ike_sas_are_bounded() {
    let mut pair = open_to_all(16);
    flood_from(&mut pair, 50, address, |_| {});
    assert_eq!(pair.b.endpoint.stats().half_open, 16);
    assert!(pair.b.failed(FailureKind::Overload));
    pair.run(Duration::from_secs(60));
    pair.assert_empty();
}

/// Returns the cookie that a request was answered with, as a stranger does that receives at its address.
fn with_cookies(pair: &mut Pair, count: u16, remote: impl Fn(u16) -> SocketAddr) {
    let mut attacker = Pair::seeded(98, endpoint(connection(Side::A)), endpoint(connection(Side::B)));
    for number in 0..count {
        let remote = remote(number);
        let path = Path { local: SocketAddr::new(pair.b.address, 500), remote };
        attacker.sent.clear();
        attacker.initiate(Side::A);
        let request = attacker.sent[0].1.bytes.clone();
        pair.sent.clear();
        pair.inject(Side::B, path, &request);
        let Some((_, answer)) = pair.sent.first().cloned() else { continue };
        let outer = Outer::parse(&answer.bytes).expect("an answer");
        let is_cookie = |n: &Notify| n.notify_type == NotifyType::Cookie;
        if matches!(&outer.payloads[..], [Payload::Notify(n)] if is_cookie(n)) {
            attacker.sent.clear();
            let to_a = self::path(&attacker, Side::A);
            attacker.inject(Side::A, to_a, &answer.bytes);
            let again = attacker.sent[0].1.bytes.clone();
            pair.inject(Side::B, path, &again);
        }
    }
}

#[test]
fn one_source_does_not_take_all_places() {
    let mut pair = open_to_all(64);
    // A real address, with a /64 of IPv6 counting as one.
    with_cookies(&mut pair, 200, |number| SocketAddr::from(([192, 0, 2, 1], 1000 + number)));
    assert_eq!(pair.b.endpoint.stats().half_open, 8, "an eighth of the limit");
    assert!(pair.b.failed(FailureKind::Overload));
    with_cookies(&mut pair, 200, |number| SocketAddr::from(([0x2001, 0xdb8, 1, 1, number, 0, 0, 1], 500)));
    assert_eq!(pair.b.endpoint.stats().half_open, 16);
    // Everybody else gets through.
    pair.initiate(Side::A);
    pair.run(Duration::from_secs(2));
    assert_eq!(pair.a.established.len(), 1);
    // Places are given back.
    pair.run(Duration::from_secs(60));
    with_cookies(&mut pair, 200, |number| SocketAddr::from(([192, 0, 2, 1], 1000 + number)));
    assert_eq!(pair.b.endpoint.stats().half_open, 8);
}

#[test]
fn a_forger_cannot_use_up_the_places_of_another_address() {
    let mut pair = open_to_all(64);
    // Below the cookie threshold nobody has to show that it receives, so only half of a source's places go that way.
    flood(&mut pair, 50);
    assert_eq!(pair.b.endpoint.stats().half_open, 4);
    pair.initiate(Side::A);
    pair.run(Duration::from_secs(2));
    assert_eq!(pair.a.established.len(), 1, "with a cookie it gets a place");
}

#[test]
fn each_source_is_looked_at_so_often() {
    let mut pair = open_to_all(100_000);
    // From an address that no connection names.
    flood_from(&mut pair, 1000, |number| SocketAddr::from(([192, 0, 2, 1], 1000 + number)), |_| {});
    let looked_at = pair.sent.iter().filter(|(from, _)| *from == Side::B).count();
    assert_eq!(looked_at, 200, "the burst of one source");
    assert!(pair.b.failed(FailureKind::Overload));
    // Another is not concerned.
    pair.initiate(Side::A);
    pair.run(Duration::from_secs(2));
    assert_eq!(pair.a.established.len(), 1);
}

#[test]
fn a_flood_from_everywhere_stops_neither_peers_nor_newcomers() {
    let mut pair = open_to_all(1024);
    pair.initiate(Side::A);
    pair.settle();
    pair.traffic = false;
    pair.sent.clear();
    // Two minutes of it, with forged sources and well-formed requests; among them the address of the peer itself.
    let mut attacker = Pair::seeded(97, endpoint(connection(Side::A)), endpoint(connection(Side::B)));
    attacker.initiate(Side::A);
    let request = attacker.sent[0].1.bytes.clone();
    let mut random = SeededRandom::new(11);
    let local = SocketAddr::new(pair.b.address, 500);
    let peer = pair.a.address;
    let mut spi = 0u64;
    for _ in 0..120 {
        for number in 0..150 {
            let mut request = request.clone();
            spi += 1;
            request[..8].copy_from_slice(&spi.to_be_bytes());
            let remote = match number % 10 {
                0 => SocketAddr::new(peer, 1000 + number),
                _ => SocketAddr::from((random.next_u32().to_be_bytes(), 500)),
            };
            pair.inject(Side::B, Path { local, remote }, &request);
        }
        pair.run(Duration::from_secs(1));
        let stats = pair.b.endpoint.stats();
        assert!(stats.half_open <= 1024 && stats.strangers <= 1024, "{stats:?}");
    }
    // Both asked for signs of life all along, and had them without asking twice.
    assert!(pair.a.closed.is_empty() && pair.b.closed.is_empty());
    assert_eq!((pair.a.endpoint.stats().retransmissions, pair.b.endpoint.stats().retransmissions), (0, 0));
    let asked = pair.sent.iter().filter(|(_, sent)| sent.bytes[18] == 37).count();
    assert!(asked >= 6, "{asked}");
    // Answers are no larger than requests.
    let longest = pair.sent.iter().filter(|(from, sent)| *from == Side::B && sent.bytes[18] == 34);
    assert!(longest.map(|(_, sent)| sent.bytes.len()).all(|length| length <= request.len() + 100));
    // A new honest peer gets in while it goes on.
    pair.act(Side::A, |endpoint, now| endpoint.close_all(now));
    pair.run(Duration::from_secs(1));
    pair.initiate(Side::A);
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.a.established.len(), 1, "{:?}", pair.a.failures);
}

#[test]
fn key_exchanges_that_come_to_nothing_are_held_by_cookies_too() {
    let mut pair = pair(|_, _| {});
    // No point of X25519: refused only after a key of ours was made. It leaves no IKE SA, but must not be free.
    let spoil = |request: &mut Vec<u8>| {
        let ke = [0u8, 0, 40, 0, 31, 0, 0];
        let at = request.windows(7).position(|bytes| bytes == ke).expect("a KE payload") + 7;
        request[at..at + 32].fill(0);
    };
    let address = pair.a.address;
    flood_from(&mut pair, 200, |number| SocketAddr::new(address, 1000 + number), spoil);
    let stats = pair.b.endpoint.stats();
    assert_eq!(stats.half_open, 0);
    assert_eq!(stats.cookies_demanded, 168);
    // It passes.
    pair.run(Duration::from_secs(60));
    pair.initiate(Side::A);
    pair.settle();
    pair.assert_up(1);
    assert_eq!(pair.b.endpoint.stats().cookies_demanded, 168);
}

#[test]
fn a_repeated_first_request_is_answered_a_few_times_only() {
    let mut pair = pair(|_, _| {});
    pair.initiate(Side::A);
    let request = pair.sent[0].1.bytes.clone();
    let path = path(&pair, Side::B);
    pair.inject(Side::B, path, &request);
    pair.sent.clear();
    for _ in 0..1000 {
        pair.inject(Side::B, path, &request);
    }
    assert_eq!(pair.sent.len(), 16, "no source of traffic to whoever's address it is");
    pair.settle();
    pair.assert_up(1);
}

#[test]
fn an_unknown_critical_payload_in_a_first_request_is_named() {
    let mut pair = pair(|_, _| {});
    let header = Header::request(Spi(1), Spi(0), ExchangeType::IkeSaInit, true, 0);
    let message = |header: &Header, first: u8| {
        let mut bytes = Vec::new();
        header.write(first.into(), 32, &mut bytes).expect("header");
        bytes.extend_from_slice(&[0, 0x80, 0, 4]);
        bytes
    };
    pair.inject(Side::B, stranger(1), &message(&header, 200));
    let (_, answer) = pair.sent.first().expect("an answer");
    let answer = Outer::parse(&answer.bytes).expect("ours");
    assert_eq!(answer.header, header.reply());
    let [Payload::Notify(notify)] = &answer.payloads[..] else { panic!("{answer:?}") };
    assert_eq!(notify.notify_type, NotifyType::UnsupportedCriticalPayload);
    assert_eq!(notify.data, [200]);
    // Nothing else in clear is answered: not a response, not another exchange.
    pair.run(Duration::from_secs(10));
    pair.sent.clear();
    let elsewhere = Header { exchange: ExchangeType::Informational, spi_r: Spi(7), ..header };
    for header in [header.reply(), elsewhere] {
        pair.inject(Side::B, stranger(2), &message(&header, 200));
    }
    assert!(pair.sent.is_empty());
}

#[test]
fn without_a_nat_no_message_moves_the_peer() {
    let mut pair = pair(|_, _| {});
    pair.initiate(Side::A);
    while pair.sent.len() < 3 {
        pair.run(Duration::from_millis(10));
    }
    // IKE_AUTH, sent on by somebody else before the original comes.
    let (from, auth) = pair.sent[2].clone();
    assert_eq!(from, Side::A);
    let elsewhere = Path { remote: "192.0.2.66:500".parse().expect("address"), ..path(&pair, Side::B) };
    pair.inject(Side::B, elsewhere, &auth.bytes);
    let child = pair.b.children.values().next().expect("up");
    assert_eq!(child.path.remote.ip(), pair.a.address);
    pair.settle();
    pair.assert_up(1);
}

#[test]
fn one_peer_holds_a_few_ike_sas_at_most() {
    let mut pair = pair(|_, connection| connection.uniqueness = Uniqueness::Never);
    for _ in 0..20 {
        // No rule makes them one.
        pair.initiate(Side::A);
        pair.initiate(Side::A);
        pair.run(Duration::from_secs(2));
    }
    assert_eq!(pair.b.endpoint.stats().established, 8);
    assert_eq!(pair.a.endpoint.stats().established, 8, "and the peer is told");
    assert!(pair.b.closed.iter().all(|reason| *reason == CloseReason::Replaced));
}

#[test]
fn what_is_over_is_remembered_within_bounds() {
    let limits = Limits { retired: 20, ..Limits::default() };
    let config = EndpointConfig { limits, ..endpoint(connection(Side::B)) };
    let mut pair = Pair::new(endpoint(connection(Side::A)), config);
    pair.initiate(Side::A);
    pair.settle();
    for _ in 0..50 {
        let ike = pair.a.ike();
        pair.act(Side::A, |endpoint, now| endpoint.rekey_ike(now, ike)).expect("rekey");
        pair.settle();
    }
    assert_eq!(pair.b.endpoint.stats().retired, 20);
    pair.assert_up(1);
    pair.act(Side::A, |endpoint, now| endpoint.close_all(now));
    pair.run(Duration::from_secs(200));
    pair.assert_empty();
}

#[test]
fn an_oversized_datagram_is_refused() {
    let limits = Limits { message_bytes: 2000, ..Limits::default() };
    let config = EndpointConfig { limits, ..endpoint(connection(Side::B)) };
    let mut pair = Pair::new(endpoint(connection(Side::A)), config);
    pair.inject(Side::B, stranger(1), &[0; 2001]);
    assert!(pair.b.failed(FailureKind::Malformed));
}

#[test]
fn garbage_leaves_an_established_pair_untouched() {
    let mut pair = established(|_, _| {});
    let genuine: Vec<_> = pair.sent.iter().map(|(_, transmit)| transmit.bytes.clone()).collect();
    let mut random = SeededRandom::new(4);
    for round in 0..20_000 {
        let len = usize::try_from(random.next_u32() % 400).expect("small");
        let mut bytes = match round % 2 {
            0 => random.next_bytes(len),
            _ => genuine[round % genuine.len()].clone(),
        };
        for _ in 0..1 + random.next_u32() % 4 {
            let at = usize::try_from(random.next_u32()).expect("fits") % bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= random.next_bytes(1)[0];
            }
        }
        let side = if round % 3 == 0 { Side::A } else { Side::B };
        let path = path(&pair, side);
        pair.inject(side, path, &bytes);
    }
    pair.run(Duration::from_secs(200));
    pair.settle();
    pair.assert_up(1);
    let child = pair.a.child();
    pair.act(Side::A, |endpoint, now| endpoint.rekey_child(now, child)).expect("rekey");
    pair.settle();
    pair.assert_up(1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_at_any_moment_are_survived(
        bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0u64..120, exchange in 33u8..39, flags: u8,
    ) {
        let mut pair = pair(|_, _| {});
        pair.initiate(Side::A);
        pair.run(Duration::from_millis(at));
        let spis = pair.sent[0].1.bytes.get(..16).map(<[u8]>::to_vec).unwrap_or_default();
        for side in [Side::A, Side::B] {
            let path = path(&pair, side);
            pair.inject(side, path, &bytes);
            // The same behind a header that finds its way.
            let length = u32::try_from(28 + bytes.len()).expect("small").to_be_bytes();
            let first = bytes.first().copied().unwrap_or(0);
            let message = [&spis[..], &[first, 0x20, exchange, flags, 0, 0, 0, 0], &length, &bytes].concat();
            pair.inject(side, path, &message);
        }
        pair.settle();
        pair.assert_up(1);
    }
}
