//! Two channels of one IKE SA, face to face.

use super::*;
use crate::context::testing::World;
use crate::crypto::dh::KeyShare;
use crate::crypto::keys::Exchanged;
use crate::crypto::negotiate::{choose_ike, offer_ike};
use crate::crypto::suite::{Group, IkeProposal};
use crate::wire::{protect, write_clear};

pub(crate) fn path() -> Path {
    Path {
        local: "192.0.2.1:500".parse().expect("address"),
        remote: "192.0.2.2:500".parse().expect("address"),
    }
}

/// Initiator's and responder's channel under the same keys, and their SK_d.
pub(crate) fn channels(suite: &str, fragmentation: bool) -> (Channel, Channel, Zeroizing<Vec<u8>>) {
    let mut world = World::new(5);
    let proposals: Vec<IkeProposal> = vec![suite.parse().expect("suite")];
    let suite = choose_ike(&offer_ike(&proposals, None), &proposals, None, Some(Group::X25519), true)
        .expect("ours")
        .suite;
    let mut share = || KeyShare::generate(Group::X25519, world.context().random).expect("key");
    let (ours, theirs) = (share(), share());
    let public = theirs.public().to_vec();
    let secret = ours.agree(&public).expect("secret");
    let exchanged = Exchanged { nonce_i: &[1; 32], nonce_r: &[2; 32], spi_i: 0x11, spi_r: 0x22 };
    let keys = IkeKeys::derive(&suite, &secret, exchanged).expect("keys");
    let channel = |initiator| {
        let nat = NatStatus::default();
        let parts =
            ChannelParts { spi_i: 0x11, spi_r: 0x22, initiator, suite, path: path(), nat, fragmentation };
        Channel::initial(parts, &keys, world.now).expect("channel")
    };
    (channel(true), channel(false), keys.d.clone())
}

pub(crate) fn take(channel: &mut Channel, world: &mut World, datagram: &[u8]) -> Inbound {
    let outer = Outer::parse(datagram).expect("well-formed");
    channel.receive(&mut world.context(), path(), datagram, &outer)
}

/// Seals payloads as a peer would that obeys no rule of ours: any chain of bytes.
pub(crate) fn forge(
    channel: &mut Channel,
    world: &mut World,
    exchange: ExchangeType,
    first: u8,
    inner: &[u8],
) -> Vec<u8> {
    let id = channel.requests.next_id().expect("idle");
    forge_at(channel, world, (exchange, id), first, inner)
}

/// The same under any message ID.
pub(crate) fn forge_at(
    channel: &mut Channel,
    world: &mut World,
    (exchange, id): (ExchangeType, u32),
    first: u8,
    inner: &[u8],
) -> Vec<u8> {
    let header = Header::request(Spi(channel.spi_i), Spi(channel.spi_r), exchange, channel.initiator, id);
    let sealed_len = channel.outbound.sealed_len(inner.len());
    let ctx = world.context();
    let seal = |aad: &[u8], plaintext: &[u8]| Ok(channel.outbound.seal(ctx.random, aad, plaintext)?);
    protect::<SendError>(&header, PayloadType::from(first), inner, sealed_len, seal).expect("sealed")
}

const SUITES: [&str; 3] =
    ["aes128gcm16-prfsha256-x25519", "chacha20poly1305-prfsha384-x25519", "aes256-sha512-prfsha512-x25519"];

#[test]
fn a_request_is_answered_once_and_repeated_from_the_cache() {
    for suite in SUITES {
        let mut world = World::new(1);
        let (mut initiator, mut responder, _) = channels(suite, false);
        initiator.request(&mut world.context(), ExchangeType::IkeAuth, &[]).expect("sent");
        assert!(
            initiator.request(&mut world.context(), ExchangeType::IkeAuth, &[]).is_err(),
            "the window is one"
        );
        let request = world.sent().remove(0);
        let Inbound::Request(message) = take(&mut responder, &mut world, &request) else {
            panic!("a request")
        };
        assert_eq!(message.exchange, ExchangeType::IkeAuth);
        responder.respond(&mut world.context(), message.exchange, message.path, &[]).expect("sent");
        let response = world.sent().remove(0);
        assert!(matches!(take(&mut responder, &mut world, &request), Inbound::Nothing));
        assert_eq!(world.sent(), std::slice::from_ref(&response), "the same bytes");
        assert!(matches!(take(&mut initiator, &mut world, &response), Inbound::Response(_)));
        assert!(matches!(take(&mut initiator, &mut world, &response), Inbound::Nothing), "a replay");
        assert!(initiator.is_idle());
    }
}

#[test]
fn every_flipped_bit_is_noticed_and_changes_nothing() {
    for suite in SUITES {
        let mut world = World::new(1);
        let (mut initiator, mut responder, _) = channels(suite, false);
        initiator.request(&mut world.context(), ExchangeType::Informational, &[]).expect("sent");
        let request = world.sent().remove(0);
        for bit in 0..request.len() * 8 {
            let mut damaged = request.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Ok(outer) = Outer::parse(&damaged) {
                let inbound = responder.receive(&mut world.context(), path(), &damaged, &outer);
                assert!(matches!(inbound, Inbound::Nothing), "bit {bit}");
            }
        }
        assert!(world.sent().is_empty());
        assert!(matches!(take(&mut responder, &mut world, &request), Inbound::Request(_)));
    }
}

#[test]
fn a_message_is_not_taken_back_by_its_sender() {
    let mut world = World::new(1);
    let (mut initiator, _, _) = channels(SUITES[0], false);
    initiator.request(&mut world.context(), ExchangeType::Informational, &[]).expect("sent");
    let request = world.sent().remove(0);
    assert!(matches!(take(&mut initiator, &mut world, &request), Inbound::Nothing));
}

#[test]
fn messages_in_clear_are_not_taken() {
    let mut world = World::new(1);
    let (_, mut responder, _) = channels(SUITES[0], false);
    let header = Header::request(Spi(0x11), Spi(0x22), ExchangeType::Informational, true, 1);
    let clear = write_clear(&header, &[]).expect("message");
    assert!(matches!(take(&mut responder, &mut world, &clear), Inbound::Nothing));
}

#[test]
fn large_messages_travel_in_fragments_in_any_order_and_repeated_once() {
    for suite in SUITES {
        let mut world = World::new(1);
        let (mut initiator, mut responder, _) = channels(suite, true);
        let large = Payload::Vendor(crate::wire::vendor::VendorId(vec![9; 1000]));
        let payloads = vec![large; 6];
        initiator.request(&mut world.context(), ExchangeType::IkeAuth, &payloads).expect("sent");
        let mut fragments = world.sent();
        assert!(fragments.len() >= 5);
        assert!(fragments.iter().all(|fragment| fragment.len() <= fragment::DATAGRAM_BYTES));
        fragments.reverse();
        let last = fragments.pop().expect("the first fragment");
        for fragment in &fragments {
            assert!(matches!(take(&mut responder, &mut world, fragment), Inbound::Nothing));
        }
        let Inbound::Request(message) = take(&mut responder, &mut world, &last) else { panic!("complete") };
        assert!(message.content.is_ok());
        responder.respond(&mut world.context(), message.exchange, message.path, &[]).expect("sent");
        world.sent();
        for fragment in fragments.iter().chain([&last]) {
            take(&mut responder, &mut world, fragment);
        }
        assert_eq!(world.sent().len(), 1, "only the first fragment asks for the response again");
    }
}

#[test]
fn a_message_too_large_for_its_fragments_is_an_error() {
    let mut world = World::new(1);
    let (mut initiator, _, _) = channels(SUITES[0], true);
    let payloads =
        vec![Payload::Unknown { payload_type: PayloadType::Unknown(200), data: vec![0; 60_000] }; 2];
    let sent = initiator.request(&mut world.context(), ExchangeType::IkeAuth, &payloads);
    assert!(matches!(sent, Err(SendError::TooManyFragments(_))));
    assert!(initiator.is_idle(), "nothing is outstanding");
}

#[test]
fn an_unknown_critical_payload_is_told_apart_from_bad_syntax() {
    let mut world = World::new(1);
    let (mut initiator, mut responder, _) = channels(SUITES[0], false);
    let forged = forge(&mut initiator, &mut world, ExchangeType::Informational, 200, &[0, 0x80, 0, 4]);
    let Inbound::Request(message) = take(&mut responder, &mut world, &forged) else { panic!("authentic") };
    let error = message.content.expect_err("critical");
    assert!(error.is_unsupported_critical());
    assert_eq!(error.notify().notify_type, NotifyType::UnsupportedCriticalPayload);
    assert_eq!(error.notify().data, [200]);
    let forged = forge(&mut initiator, &mut world, ExchangeType::Informational, 41, &[0, 0, 0, 200]);
    let Inbound::Request(message) = take(&mut responder, &mut world, &forged) else { panic!("authentic") };
    let error = message.content.expect_err("truncated");
    assert!(!error.is_unsupported_critical());
    assert_eq!(error.notify().notify_type, NotifyType::InvalidSyntax);
}

#[test]
fn a_response_of_another_exchange_is_none() {
    let mut world = World::new(1);
    let (mut initiator, mut responder, _) = channels(SUITES[0], false);
    initiator.request(&mut world.context(), ExchangeType::IkeAuth, &[]).expect("sent");
    let request = world.sent().remove(0);
    assert!(matches!(take(&mut responder, &mut world, &request), Inbound::Request(_)));
    responder.respond(&mut world.context(), ExchangeType::Informational, path(), &[]).expect("sent");
    let response = world.sent().remove(0);
    assert!(matches!(take(&mut initiator, &mut world, &response), Inbound::Nothing));
    assert!(initiator.is_waiting());
}
