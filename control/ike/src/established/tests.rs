//! An established IKE SA facing a peer that breaks rules, with valid keys.

use super::*;
use crate::channel::tests::{channels, forge, path};
use crate::config::{LocalAuth, Psk, RemoteAuth};
use crate::context::testing::World;
use crate::wire::NotifyType;
use crate::wire::sa::SecurityAssociation;

struct Case {
    world: World,
    state: Option<State>,
    peer: Channel,
}

fn connection() -> Connection {
    Connection {
        name: "tunnel".into(),
        local_address: None,
        remote_address: None,
        local_id: "a.example".parse().expect("identity"),
        remote_id: "b.example".parse().expect("identity"),
        local_auth: LocalAuth::Psk(Psk::new(vec![1; 32])),
        remote_auth: RemoteAuth::Psk(Psk::new(vec![1; 32])),
        ike_proposals: vec!["aes128gcm16-prfsha256-x25519".parse().expect("proposal")],
        children: Vec::new(),
        ike_rekey_after: Duration::from_secs(3600),
        reauth_after: Duration::ZERO,
        uniqueness: crate::config::Uniqueness::default(),
        dpd_after: Duration::from_secs(30),
        force_encapsulation: false,
        mobike: false,
    }
}

impl Case {
    /// We are the responder.
    fn new() -> Self {
        Self::of(connection())
    }

    fn of(connection: Connection) -> Self {
        let mut world = World::new(3);
        let (peer, channel, sk_d) = channels("aes128gcm16-prfsha256-x25519", false);
        let connection = Arc::new(connection);
        let remote_id = "b.example".parse().expect("identity");
        let origin = Origin::new(false, world.now, world.now, [&[1; 32], &[2; 32]]);
        let state = Established::begin(
            &mut world.context(),
            IkeHandle(1),
            connection,
            channel,
            sk_d,
            remote_id,
            origin,
        );
        world.out.events.clear();
        Self { world, state: Some(State::Established(Box::new(state))), peer }
    }

    fn give(&mut self, datagram: &[u8]) {
        let outer = Outer::parse(datagram).expect("well-formed outside");
        let state = self.state.take().expect("there");
        self.state = state.handle_message(&mut self.world.context(), path(), datagram, outer);
    }

    /// The peer asks; what we answer.
    fn ask(&mut self, exchange: ExchangeType, payloads: &[Payload]) -> Vec<NotifyType> {
        self.peer.request(&mut self.world.context(), exchange, payloads).expect("idle");
        let request = self.world.sent().remove(0);
        self.give(&request);
        self.answer()
    }

    fn answer(&mut self) -> Vec<NotifyType> {
        let response = self.world.sent().remove(0);
        let outer = Outer::parse(&response).expect("our own");
        match self.peer.receive(&mut self.world.context(), path(), &response, &outer) {
            Inbound::Response(message) => {
                let content = message.content.expect("our own");
                content.notifies.iter().map(|notify| notify.notify_type).collect()
            }
            Inbound::Nothing | Inbound::Request(_) => panic!("a response"),
        }
    }

    fn is_up(&self) -> bool {
        matches!(self.state, Some(State::Established(_)))
    }
}

#[test]
fn an_unknown_critical_payload_is_refused_and_the_ike_sa_stays() {
    let mut case = Case::new();
    let request = forge(&mut case.peer, &mut case.world, ExchangeType::Informational, 200, &[0, 0x80, 0, 4]);
    case.give(&request);
    assert!(case.is_up());
    assert_eq!(case.world.sent().len(), 1);
}

#[test]
fn a_malformed_authentic_request_ends_the_ike_sa() {
    let mut case = Case::new();
    let request = forge(&mut case.peer, &mut case.world, ExchangeType::Informational, 41, &[0, 0, 0, 200]);
    case.give(&request);
    assert!(!case.is_up());
    assert!(
        case.world
            .out
            .events
            .iter()
            .any(|event| { matches!(event, Event::IkeClosed { reason: CloseReason::Failed, .. }) })
    );
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut case = Case::new();
    assert_eq!(case.ask(ExchangeType::IkeAuth, &[]), [NotifyType::InvalidSyntax]);
    assert_eq!(case.ask(ExchangeType::from(99), &[]), [NotifyType::InvalidSyntax]);
    assert_eq!(case.ask(ExchangeType::CreateChildSa, &[]), [NotifyType::InvalidSyntax]);
    assert_eq!(case.ask(ExchangeType::Informational, &[]), []);
    assert!(case.is_up());
}

#[test]
fn deleting_and_rekeying_what_is_unknown() {
    let mut case = Case::new();
    assert_eq!(case.ask(ExchangeType::Informational, &[Payload::Delete(Delete::esp(77))]), []);
    let rekey = Payload::Notify(Notify::about_esp(NotifyType::RekeySa, 77));
    assert_eq!(case.ask(ExchangeType::CreateChildSa, &[rekey]), [NotifyType::ChildSaNotFound]);
    let nobody = Payload::Notify(Notify::new(NotifyType::RekeySa));
    assert_eq!(case.ask(ExchangeType::CreateChildSa, &[nobody]), [NotifyType::InvalidSyntax]);
    assert!(case.is_up());
}

#[test]
fn a_rekey_of_the_ike_sa_with_nothing_in_common_is_refused() {
    let mut case = Case::new();
    let proposals = vec!["aes256gcm16-prfsha384-x25519".parse().expect("proposal")];
    let offer = crate::crypto::negotiate::offer_ike(&proposals, Some(9));
    let payloads = [
        Payload::Sa(SecurityAssociation::new(offer)),
        Payload::Nonce(crate::wire::nonce::Nonce::new(vec![1; 32]).expect("length")),
        crate::init::ke_payload(crate::crypto::suite::Group::X25519, &[9; 32]),
    ];
    assert_eq!(case.ask(ExchangeType::CreateChildSa, &payloads), [NotifyType::NoProposalChosen]);
    assert!(case.is_up());
    assert!(case.world.spawned.is_empty());
}

#[test]
fn a_rekey_with_a_key_of_no_order_is_refused() {
    let mut case = Case::new();
    let proposals = vec!["aes128gcm16-prfsha256-x25519".parse().expect("proposal")];
    let offer = crate::crypto::negotiate::offer_ike(&proposals, Some(9));
    let payloads = [
        Payload::Sa(SecurityAssociation::new(offer)),
        Payload::Nonce(crate::wire::nonce::Nonce::new(vec![1; 32]).expect("length")),
        crate::init::ke_payload(crate::crypto::suite::Group::X25519, &[0; 32]),
    ];
    assert_eq!(case.ask(ExchangeType::CreateChildSa, &payloads), [NotifyType::InvalidSyntax]);
    assert!(case.is_up() && case.world.spawned.is_empty());
}

#[test]
fn an_authentic_authentication_failure_ends_the_ike_sa() {
    let mut case = Case::new();
    let notify = Payload::Notify(Notify::new(NotifyType::AuthenticationFailed));
    assert_eq!(case.ask(ExchangeType::Informational, &[notify]), []);
    assert!(!case.is_up());
}

#[test]
fn a_deleted_ike_sa_still_answers_the_repeated_delete() {
    let mut case = Case::new();
    case.peer
        .request(&mut case.world.context(), ExchangeType::Informational, &[Payload::Delete(Delete::Ike)])
        .expect("idle");
    let request = case.world.sent().remove(0);
    case.give(&request);
    let first = case.world.sent();
    case.give(&request);
    assert_eq!((first.len(), case.world.sent()), (1, first));
    assert!(matches!(case.state, Some(State::Retired(_))));
}

#[test]
fn a_peer_gets_children_within_bounds() {
    let config = ChildConfig {
        name: "main".into(),
        local: vec!["10.2.0.0/24".parse().expect("selector")],
        remote: vec!["192.168.1.0/24".parse().expect("selector")],
        esp_proposals: vec!["aes128gcm16".parse().expect("proposal")],
        rekey_after: Duration::from_secs(3600),
    };
    let mut case = Case::of(Connection { children: vec![config.clone()], ..connection() });
    let ts = |selectors: &[crate::wire::ts::TrafficSelector]| {
        crate::wire::ts::TrafficSelectors::new(selectors.to_vec())
    };
    let mut refused = 0;
    for spi in 1000..1100 {
        let pfs = crate::crypto::negotiate::Pfs::Never;
        let offer = crate::crypto::negotiate::offer_esp(&config.esp_proposals, spi, pfs);
        let payloads = [
            Payload::Sa(SecurityAssociation::new(offer)),
            Payload::Nonce(crate::wire::nonce::Nonce::new(vec![1; 32]).expect("length")),
            Payload::TsI(ts(&config.remote)),
            Payload::TsR(ts(&config.local)),
        ];
        refused += usize::from(
            case.ask(ExchangeType::CreateChildSa, &payloads).contains(&NotifyType::NoAdditionalSas),
        );
    }
    let Some(State::Established(state)) = &case.state else { panic!("up") };
    assert_eq!((state.children.len(), refused), (16, 84));
}
