use super::*;
use crate::auth::responder::AwaitAuth;
use crate::channel::tests::{channels, path, take};
use crate::channel::{Inbound, Message};
use crate::context::testing::World;
use crate::crypto::dh::{self, KeyShare};
use crate::crypto::keys::IkeKeys;
use crate::init::ke_payload;
use crate::sa::State;
use crate::wire::{
    ExchangeType, Header, NotifyType, Outer, Payload, PayloadType, Spi, intermediate_octets, write_payloads,
};

const SUITE: &str = "aes256gcm16-prfsha256-x25519-ke1_mlkem512-ke2_mlkem768";

fn agreed(channel: &Channel) -> Agreed {
    let key = |byte: u8| Zeroizing::new(vec![byte; 32]);
    Agreed {
        keys: IkeKeys { d: key(1), ai: key(2), ar: key(3), ei: key(4), er: key(5), pi: key(6), pr: key(7) },
        request: vec![1],
        response: vec![2],
        nonce_i: vec![3; 32],
        nonce_r: vec![4; 32],
        peer_hashes: None,
        childless: true,
        intermediate: Intermediate::of(&channel.suite),
    }
}

fn received(inbound: Inbound) -> Message {
    match inbound {
        Inbound::Request(message) | Inbound::Response(message) => message,
        Inbound::Nothing | Inbound::Disowned => panic!("nothing came"),
    }
}

/// One exchange between both channels. Its messages as each side saw them: request and response.
fn exchange(
    world: &mut World,
    (initiator, ours): (&mut Channel, &mut Agreed),
    (responder, theirs): (&mut Channel, &mut Agreed),
) -> [(Vec<u8>, Vec<u8>); 2] {
    let method = ours.intermediate.next().expect("one is left");
    assert_eq!(theirs.intermediate.next(), Some(method));
    let share = KeyShare::generate(method, world.context().random).expect("key");
    let payloads = [ke_payload(method, share.public())];
    initiator.request(&mut world.context(), ExchangeType::IkeIntermediate, &payloads).expect("sent");
    let sent_request = initiator.take_sent_intermediate();
    let request = world.sent();
    let message = request.iter().map(|datagram| take(responder, world, datagram)).last().expect("sent");
    let message = received(message);
    let (data, secret) =
        dh::respond(method, &message.content.expect("ours").ke.expect("KE").data, world.context().random)
            .expect("valid");
    let payloads = [ke_payload(method, &data)];
    let path = message.path;
    responder.respond(&mut world.context(), ExchangeType::IkeIntermediate, path, &payloads).expect("sent");
    let sent_response = responder.take_sent_intermediate();
    conclude(theirs, responder, &message.octets, &sent_response, &secret).expect("keys");
    let response = world.sent();
    // The request again: answered again, though the keys have changed.
    for datagram in &request {
        assert!(matches!(take(responder, world, datagram), Inbound::Nothing));
    }
    assert_eq!(world.sent(), response, "repeated");
    let answer = response.iter().map(|datagram| take(initiator, world, datagram)).last().expect("sent");
    let answer = received(answer);
    let secret = share.agree(&answer.content.expect("ours").ke.expect("KE").data).expect("secret");
    conclude(ours, initiator, &sent_request, &answer.octets, &secret).expect("keys");
    [(sent_request, answer.octets), (message.octets, sent_response)]
}

#[test]
fn both_sides_prove_the_same_and_change_to_the_same_keys() {
    for fragmentation in [false, true] {
        let (mut initiator, mut responder, _) = channels(SUITE, fragmentation);
        let mut world = World::new(9);
        let (mut ours, mut theirs) = (agreed(&initiator), agreed(&responder));
        assert!(ours.intermediate.authenticated().is_empty(), "nothing to prove yet");
        let mut proofs = vec![ours.intermediate.authenticated()];
        for _ in 0..2 {
            let before = ours.keys.d.clone();
            let (initiator, responder) = ((&mut initiator, &mut ours), (&mut responder, &mut theirs));
            let [seen_i, seen_r] = exchange(&mut world, initiator, responder);
            assert_eq!(seen_i, seen_r, "as it was sent, whatever the fragments");
            assert_eq!(ours.keys.d, theirs.keys.d);
            assert_ne!(ours.keys.d, before);
            assert_eq!(ours.intermediate.authenticated(), theirs.intermediate.authenticated());
            assert!(!proofs.contains(&ours.intermediate.authenticated()));
            proofs.push(ours.intermediate.authenticated());
        }
        assert_eq!(ours.intermediate.next(), None);
        assert_eq!(ours.intermediate.authenticated()[64..], [0, 0, 0, 3], "the message ID of IKE_AUTH");
        // And on with the new keys.
        initiator.request(&mut world.context(), ExchangeType::IkeAuth, &[]).expect("sent");
        let [datagram] = &world.sent()[..] else { panic!("one datagram") };
        assert!(matches!(take(&mut responder, &mut world, datagram), Inbound::Request(_)));
    }
}

#[test]
fn what_is_proved_is_the_message_as_if_it_were_not_encrypted() {
    let (mut initiator, mut responder, _) = channels(SUITE, false);
    let mut world = World::new(9);
    let (mut ours, mut theirs) = (agreed(&initiator), agreed(&responder));
    let [(request, response), _] =
        exchange(&mut world, (&mut initiator, &mut ours), (&mut responder, &mut theirs));
    // RFC 9242 section 3.3.2: the lengths don't count IV, padding and ICV.
    let (ke_len, whole) = (4 + 4 + 800, 28 + 4 + 4 + 4 + 800);
    assert_eq!(request.len(), whole);
    let header = [
        &[0, 0, 0, 0, 0, 0, 0, 0x11, 0, 0, 0, 0, 0, 0, 0, 0x22][..],
        &[46, 0x20, 43, 0x08, 0, 0, 0, 1],
        &u32::try_from(whole).unwrap().to_be_bytes(),
        &[34, 0],
        &u16::try_from(4 + ke_len).unwrap().to_be_bytes(),
        &[0, 0],
        &u16::try_from(ke_len).unwrap().to_be_bytes(),
        &[0, 35, 0, 0],
    ]
    .concat();
    assert_eq!(request[..header.len()], header);
    assert_eq!(response.len(), 28 + 4 + 4 + 4 + 768);
    // IntAuth_i1 = prf(SK_pi1, A | P), IntAuth_r1 = prf(SK_pr1, A | P), with the keys before the exchange.
    let prf = initiator.suite.prf;
    let expected = [
        prf.compute(&[6; 32], &[&request]).as_slice(),
        prf.compute(&[7; 32], &[&response]).as_slice(),
        &[0, 0, 0, 2],
    ]
    .concat();
    assert_eq!(ours.intermediate.authenticated(), expected);
    // And from then on prf(SK_pi2, IntAuth_i1 | A | P).
    let keys = (ours.keys.pi.clone(), ours.keys.pr.clone());
    let [(request, response), _] =
        exchange(&mut world, (&mut initiator, &mut ours), (&mut responder, &mut theirs));
    let expected = [
        prf.compute(&keys.0, &[&expected[..32], &request]).as_slice(),
        prf.compute(&keys.1, &[&expected[32..64], &response]).as_slice(),
        &[0, 0, 0, 3],
    ]
    .concat();
    assert_eq!(ours.intermediate.authenticated(), expected);
}

#[test]
fn payloads_in_clear_are_not_taken() {
    let (mut initiator, mut responder, _) = channels(SUITE, false);
    let mut world = World::new(9);
    initiator.request(&mut world.context(), ExchangeType::IkeIntermediate, &[]).expect("sent");
    let [datagram] = &world.sent()[..] else { panic!("one datagram") };
    // A Vendor ID before the Encrypted payload: nobody proves it. (It breaks the seal too; so look at what is dropped
    // before that counts as forged.)
    let mut changed = datagram.clone();
    changed.splice(28..28, [46, 0, 0, 8, 1, 2, 3, 4]);
    changed[16] = 43;
    let length = u32::try_from(changed.len()).unwrap().to_be_bytes();
    changed[24..28].copy_from_slice(&length);
    assert_eq!(Outer::parse(&changed).expect("well-formed").payloads.len(), 1);
    assert!(matches!(take(&mut responder, &mut world, &changed), Inbound::Nothing));
    assert!(world.out.counters.failures.is_empty(), "not even opened");
    assert!(matches!(take(&mut responder, &mut world, datagram), Inbound::Request(_)));
}

#[test]
fn the_octets_of_an_empty_message() {
    let header = Header::request(Spi(1), Spi(2), ExchangeType::IkeIntermediate, true, 7);
    let (first, inner) = write_payloads(&[]).unwrap();
    let mut written = Vec::new();
    header.write(PayloadType::Skf, 99, &mut written).unwrap();
    let octets = intermediate_octets(&written, 0, first, &inner);
    assert_eq!(octets[16..], [46, 0x20, 43, 0x08, 0, 0, 0, 7, 0, 0, 0, 32, 0, 0, 0, 4]);
}

/// A responder that waits for the first of two exchanges, and the initiator's end.
fn waiting(world: &mut World) -> (Channel, Agreed, Box<AwaitAuth>) {
    let (initiator, responder, _) = channels(SUITE, true);
    let (ours, theirs) = (agreed(&initiator), agreed(&responder));
    (initiator, ours, Box::new(AwaitAuth::new(&mut world.context(), Vec::new(), responder, theirs)))
}

/// Sends a request and gives the responder's next state.
fn ask(
    world: &mut World,
    initiator: &mut Channel,
    waiting: Box<AwaitAuth>,
    exchange: ExchangeType,
    payloads: &[Payload],
) -> State {
    initiator.request(&mut world.context(), exchange, payloads).expect("sent");
    let mut state = State::AwaitAuth(waiting);
    for datagram in world.sent() {
        let State::AwaitAuth(waiting) = state else { panic!("a fragment is answered") };
        let outer = Outer::parse(&datagram).expect("well-formed");
        state = waiting.handle_message(&mut world.context(), path(), &datagram, &outer).expect("a state");
    }
    state
}

/// The response, as the initiator sees it.
fn answer(world: &mut World, initiator: &mut Channel) -> Message {
    let sent = world.sent();
    received(sent.iter().map(|datagram| take(initiator, world, datagram)).last().expect("an answer"))
}

fn assert_refused(world: &mut World, initiator: &mut Channel, state: &State) {
    assert!(matches!(state, State::Retired(_)), "it is over");
    let content = answer(world, initiator).content.expect("readable");
    assert_eq!(content.error().map(|error| error.notify_type), Some(NotifyType::InvalidSyntax));
}

#[test]
fn a_wrong_key_exchange_ends_the_attempt() {
    let mut random = World::new(3);
    let good = KeyShare::generate(Group::MlKem512, random.context().random).expect("key").public().to_vec();
    let other = KeyShare::generate(Group::MlKem768, random.context().random).expect("key").public().to_vec();
    let ke = |group: Group, data: &[u8]| vec![ke_payload(group, data)];
    for payloads in [
        Vec::new(),
        ke(Group::MlKem768, &other),
        ke(Group::MlKem768, &good),
        ke(Group::MlKem512, &good[1..]),
        ke(Group::MlKem512, &[&good[..], &[0]].concat()),
        ke(Group::MlKem512, &[1]),
        // Coefficients past the modulus (FIPS 203 section 7.2).
        ke(Group::MlKem512, &[0xff; 800]),
    ] {
        let mut world = World::new(9);
        let (mut initiator, _, waiting) = waiting(&mut world);
        let exchange = ExchangeType::IkeIntermediate;
        let state = ask(&mut world, &mut initiator, waiting, exchange, &payloads);
        assert_refused(&mut world, &mut initiator, &state);
    }
}

#[test]
fn ike_auth_before_the_key_exchanges_is_refused_and_one_too_many_too() {
    let mut world = World::new(9);
    let (mut initiator, _, early) = waiting(&mut world);
    let state = ask(&mut world, &mut initiator, early, ExchangeType::IkeAuth, &[]);
    assert_refused(&mut world, &mut initiator, &state);

    let (mut initiator, mut ours, mut responder) = waiting(&mut world);
    while let Some(method) = ours.intermediate.next() {
        let share = KeyShare::generate(method, world.context().random).expect("key");
        let payloads = [ke_payload(method, share.public())];
        let exchange = ExchangeType::IkeIntermediate;
        let state = ask(&mut world, &mut initiator, responder, exchange, &payloads);
        let State::AwaitAuth(waiting) = state else { panic!("it goes on") };
        responder = waiting;
        let request = initiator.take_sent_intermediate();
        let message = answer(&mut world, &mut initiator);
        let data = message.content.expect("readable").ke.expect("a KE payload").data;
        let secret = share.agree(&data).expect("a secret");
        conclude(&mut ours, &mut initiator, &request, &message.octets, &secret).expect("keys");
    }
    let share = KeyShare::generate(Group::MlKem1024, world.context().random).expect("key");
    let payloads = [ke_payload(Group::MlKem1024, share.public())];
    let state = ask(&mut world, &mut initiator, responder, ExchangeType::IkeIntermediate, &payloads);
    assert_refused(&mut world, &mut initiator, &state);
}
