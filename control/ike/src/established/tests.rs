//! An established IKE SA facing a peer that breaks rules, with valid keys.

use super::*;
use crate::channel::tests::{channels, forge, path};
use crate::config::{PerResource, Resources};
use crate::context::testing::{World, connection};
use crate::wire::NotifyType;
use crate::wire::sa::SecurityAssociation;

struct Case {
    world: World,
    state: Option<State>,
    peer: Channel,
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

/// RFC 7296 sections 2.21 and 3.10.1: errors about packets, message IDs and SPIs, and errors that nobody knows, are news
/// in a request and no more.
#[test]
fn errors_in_requests_change_nothing() {
    let (mut case, config) = Case::with_child();
    case.ask(ExchangeType::CreateChildSa, &child_request(&config, 1000));
    let unknown = NotifyType::from(8191);
    for notify in [
        NotifyType::InvalidSelectors,
        NotifyType::InvalidMessageId,
        NotifyType::InvalidIkeSpi,
        NotifyType::InvalidSpi,
        NotifyType::NoProposalChosen,
        unknown,
    ] {
        let about = Notify::with_data(notify, vec![0xff; 40]);
        assert_eq!(case.ask(ExchangeType::Informational, &[Payload::Notify(about)]), [], "{notify:?}");
        assert!(case.is_up() && case.children() == 1 && case.removed() == 0, "{notify:?}");
    }
}

/// EAP has its place in IKE_AUTH, if anywhere.
#[test]
fn an_eap_payload_after_ike_auth_means_nothing() {
    let mut case = Case::new();
    let eap = || Payload::Eap(crate::wire::eap::Eap(vec![3, 1, 0, 4]));
    assert_eq!(case.ask(ExchangeType::Informational, &[eap()]), []);
    assert_eq!(case.ask(ExchangeType::CreateChildSa, &[eap()]), [NotifyType::InvalidSyntax]);
    assert_eq!(case.ask(ExchangeType::IkeAuth, &[eap()]), [NotifyType::InvalidSyntax]);
    assert!(case.is_up());
}

/// RFC 7296 sections 2.2 and 2.3: the window is one. What is ahead of it waits for nobody, and what repeats the last
/// message ID gets the last answer again, whatever it says.
#[test]
fn message_ids_are_taken_one_by_one_and_the_last_answer_is_kept() {
    let (mut case, config) = Case::with_child();
    case.ask(ExchangeType::CreateChildSa, &child_request(&config, 1000));
    let answer_to = |case: &mut Case, datagram: &[u8]| {
        case.give(datagram);
        case.world.sent()
    };
    let delete = |case: &mut Case, id: u32| {
        let (first, chain) = crate::wire::write_payloads(&[Payload::Delete(Delete::Ike)]).expect("payloads");
        crate::channel::tests::forge_at(
            &mut case.peer,
            &mut case.world,
            (ExchangeType::Informational, id),
            first.number(),
            &chain,
        )
    };
    // The peer has used ID 1; 2 is next.
    for ahead in [3, 4, 1000, u32::MAX] {
        let request = delete(&mut case, ahead);
        assert!(answer_to(&mut case, &request).is_empty() && case.is_up(), "{ahead}");
    }
    let behind = delete(&mut case, 0);
    assert!(
        answer_to(&mut case, &behind).is_empty() && case.is_up(),
        "an answer is kept for the last one only"
    );
    let repeated = delete(&mut case, 1);
    let (first, second) = (answer_to(&mut case, &repeated), answer_to(&mut case, &repeated));
    assert_eq!((first.len(), &first), (1, &second), "the same bytes again");
    assert!(case.is_up() && case.children() == 1, "another request under an old ID is not acted on");
    // And in its order it is.
    let next = delete(&mut case, 2);
    assert_eq!(answer_to(&mut case, &next).len(), 1);
    assert!(!case.is_up());
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

fn child_config() -> ChildConfig {
    ChildConfig {
        name: "main".into(),
        local: vec!["10.2.0.0/24".parse().expect("selector")],
        remote: vec!["192.168.1.0/24".parse().expect("selector")],
        local_dynamic: false,
        remote_dynamic: false,
        esp_proposals: vec!["aes128gcm16".parse().expect("proposal")],
        rekey_after: Duration::from_secs(3600),
        per_resource: PerResource::Off,
    }
}

/// The payloads of a request for a child SA that the peer receives on with `spi`.
fn child_request(config: &ChildConfig, spi: u32) -> Vec<Payload> {
    let ts = |selectors: &[crate::wire::ts::TrafficSelector]| {
        crate::wire::ts::TrafficSelectors::new(selectors.to_vec())
    };
    let pfs = crate::crypto::negotiate::Pfs::Never;
    let offer = crate::crypto::negotiate::offer_esp(&config.esp_proposals, spi, pfs);
    vec![
        Payload::Sa(SecurityAssociation::new(offer)),
        Payload::Nonce(crate::wire::nonce::Nonce::new(vec![1; 32]).expect("length")),
        Payload::TsI(ts(&config.remote)),
        Payload::TsR(ts(&config.local)),
    ]
}

impl Case {
    fn with_child() -> (Self, ChildConfig) {
        let config = child_config();
        (Self::of(Connection { children: vec![config.clone()], ..connection() }), config)
    }

    fn children(&self) -> usize {
        match &self.state {
            Some(State::Established(state)) => state.children.len(),
            _ => panic!("up"),
        }
    }

    fn removed(&self) -> usize {
        self.world.out.events.iter().filter(|event| matches!(event, Event::ChildRemove { .. })).count()
    }
}

#[test]
fn an_spi_of_the_peer_names_one_child_only() {
    let (mut case, config) = Case::with_child();
    let request = child_request(&config, 1000);
    assert!(!case.ask(ExchangeType::CreateChildSa, &request).contains(&NotifyType::InvalidSyntax));
    assert_eq!(case.ask(ExchangeType::CreateChildSa, &request), [NotifyType::InvalidSyntax]);
    for reserved in [0, 1, 255] {
        let refused = case.ask(ExchangeType::CreateChildSa, &child_request(&config, reserved));
        assert!(refused.iter().any(|notify| notify.is_error()), "SPI {reserved}");
    }
    assert_eq!(case.children(), 1);
}

#[test]
fn a_child_is_deleted_once_however_often_the_peer_says_so() {
    let (mut case, config) = Case::with_child();
    case.ask(ExchangeType::CreateChildSa, &child_request(&config, 1000));
    let twice = Delete::Child { protocol: crate::wire::ProtocolId::Esp, spis: vec![1000, 1000, 77, 1000] };
    for payloads in
        [vec![Payload::Delete(twice.clone()), Payload::Delete(twice.clone())], vec![Payload::Delete(twice)]]
    {
        assert_eq!(case.ask(ExchangeType::Informational, &payloads), []);
        assert_eq!((case.children(), case.removed()), (0, 1));
    }
    assert!(case.is_up());
}

#[test]
fn a_rekey_names_an_esp_sa_of_ours() {
    let (mut case, config) = Case::with_child();
    case.ask(ExchangeType::CreateChildSa, &child_request(&config, 1000));
    let about = |protocol, spi| Notify { protocol, spi, ..Notify::new(NotifyType::RekeySa) };
    use crate::wire::ProtocolId;
    use crate::wire::sa::SaSpi;
    // Another protocol with the right SPI, no SPI, and an IKE SA's: the protocol is looked at before the SPI.
    for (protocol, spi) in [
        (ProtocolId::Ah, SaSpi::Child(1000)),
        (ProtocolId::Ike, SaSpi::Child(1000)),
        (ProtocolId::None, SaSpi::Child(1000)),
        (ProtocolId::Esp, SaSpi::None),
        (ProtocolId::Ike, SaSpi::Ike(crate::wire::Spi(1000))),
    ] {
        let mut request = vec![Payload::Notify(about(protocol, spi.clone()))];
        request.extend(child_request(&config, 2000));
        assert_eq!(case.ask(ExchangeType::CreateChildSa, &request), [NotifyType::InvalidSyntax], "{spi:?}");
        assert_eq!(case.children(), 1);
    }
}

#[test]
fn deletes_of_other_protocols_change_nothing() {
    let (mut case, config) = Case::with_child();
    case.ask(ExchangeType::CreateChildSa, &child_request(&config, 1000));
    let ah = Delete::Child { protocol: crate::wire::ProtocolId::Ah, spis: vec![1000] };
    assert_eq!(case.ask(ExchangeType::Informational, &[Payload::Delete(ah)]), []);
    assert_eq!((case.children(), case.removed()), (1, 0));
}

#[test]
fn selectors_that_lie_make_no_child() {
    // Counts, lengths and kinds of TS payloads (CVE-2013-6076, CVE-2023-41913 and their kin): authentic, and malformed.
    let (mut case, _) = Case::with_child();
    for body in [
        &[255, 0, 0, 0][..],
        &[1, 0, 0, 0, 7, 0, 0, 200],
        &[1, 0, 0, 0, 8, 0, 0, 16, 0, 0, 255, 255, 10, 0, 0, 0],
        &[1, 0, 0, 0, 7, 0, 0, 0],
        &[0, 0, 0, 0],
    ] {
        let length = u16::try_from(4 + body.len()).expect("short").to_be_bytes();
        let chain = [&[0, 0], &length[..], body].concat();
        let request = forge(&mut case.peer, &mut case.world, ExchangeType::CreateChildSa, 44, &chain);
        case.give(&request);
        assert!(!case.is_up(), "an authentic peer that cannot count is not gone on with");
        case = Case::with_child().0;
    }
}

#[test]
fn a_peer_gets_children_within_bounds() {
    let (mut case, config) = Case::with_child();
    let mut refused = 0;
    for spi in 1000..1100 {
        let request = child_request(&config, spi);
        let answer = case.ask(ExchangeType::CreateChildSa, &request);
        refused += usize::from(answer.contains(&NotifyType::NoAdditionalSas));
    }
    assert_eq!((case.children(), refused), (16, 84));
}

/// SA_RESOURCE_INFO with data that tells nothing, as it may be (RFC 9611 section 5.1).
fn further_request(config: &ChildConfig, spi: u32) -> Vec<Payload> {
    let info = Notify::with_data(NotifyType::SaResourceInfo, spi.to_ne_bytes().repeat(20));
    let mut request = child_request(config, spi);
    request.push(Payload::Notify(info));
    request
}

#[test]
fn a_peer_gets_further_pairs_within_bounds() {
    let config = ChildConfig { per_resource: PerResource::AtMost(2), ..child_config() };
    let mut case = Case::of(Connection { children: vec![config.clone()], ..connection() });
    case.world.config.resources = Resources { count: 2, most: 16 };
    let answers: Vec<_> = (1000..1008)
        .map(|spi| case.ask(ExchangeType::CreateChildSa, &further_request(&config, spi)))
        .collect();
    for (number, answer) in answers.iter().enumerate() {
        let expected = if number < 5 { NotifyType::SaResourceInfo } else { NotifyType::TsMaxQueue };
        assert!(answer.contains(&expected), "{number}: {answer:?}");
        assert!(!answer.contains(&NotifyType::NoAdditionalSas), "that would be about all selectors");
    }
    let Some(State::Established(state)) = &case.state else { panic!("up") };
    let bindings: Vec<_> = state.children.values().map(|child| child.binding.resource()).collect();
    assert_eq!(bindings, [None, Some(0), Some(1), Some(0), Some(1)], "the least used takes the next");
    // One that is replaced makes no room, and one that is deleted does.
    assert_eq!(case.ask(ExchangeType::Informational, &[Payload::Delete(Delete::esp(1003))]), []);
    let again = case.ask(ExchangeType::CreateChildSa, &further_request(&config, 1100));
    assert!(again.contains(&NotifyType::SaResourceInfo));
}

#[test]
fn a_peer_that_asks_for_further_pairs_where_none_are_wanted_is_told_so() {
    let (mut case, config) = Case::with_child();
    let first = case.ask(ExchangeType::CreateChildSa, &further_request(&config, 1000));
    assert!(!first.iter().any(|notify| notify.is_error() || *notify == NotifyType::SaResourceInfo));
    assert_eq!(
        case.ask(ExchangeType::CreateChildSa, &further_request(&config, 1001)),
        [NotifyType::TsMaxQueue]
    );
    assert_eq!(case.children(), 1);
}

/// RFC 9611 section 4: the same properties as the first.
#[test]
fn a_further_pair_has_the_algorithms_of_the_first() {
    let proposals = |names: &[&str]| names.iter().map(|name| name.parse().expect("proposal")).collect();
    let config = ChildConfig {
        per_resource: PerResource::AtMost(2),
        esp_proposals: proposals(&["aes256gcm16", "aes128gcm16"]),
        ..child_config()
    };
    let mut case = Case::of(Connection { children: vec![config.clone()], ..connection() });
    case.world.config.resources = Resources { count: 2, most: 16 };
    let only = |name| ChildConfig { esp_proposals: proposals(&[name]), ..config.clone() };
    case.ask(ExchangeType::CreateChildSa, &further_request(&only("aes128gcm16"), 1000));
    assert_eq!(
        case.ask(ExchangeType::CreateChildSa, &further_request(&only("aes256gcm16"), 1001)),
        [NotifyType::NoProposalChosen]
    );
    // Of both the first one's is chosen, though the other is liked better.
    let both = case.ask(ExchangeType::CreateChildSa, &further_request(&config, 1002));
    assert!(both.contains(&NotifyType::SaResourceInfo));
    let Some(State::Established(state)) = &case.state else { panic!("up") };
    let suites: Vec<_> = state.children.values().map(|child| child.terms.suite.encryption).collect();
    assert_eq!((suites.len(), suites[0]), (2, suites[1]));
}

#[test]
fn a_child_of_wider_selectors_is_not_a_further_pair_of_a_narrow_one() {
    let narrow = ChildConfig { per_resource: PerResource::AtMost(2), ..child_config() };
    let wide = ChildConfig {
        name: "wide".into(),
        local: vec!["10.2.0.0/16".parse().expect("selector")],
        ..narrow.clone()
    };
    let children = vec![narrow.clone(), wide.clone()];
    let mut case = Case::of(Connection { children, ..connection() });
    case.world.config.resources = Resources { count: 2, most: 16 };
    for (config, spi) in [(&narrow, 1000), (&wide, 1001), (&narrow, 1002), (&wide, 1003)] {
        let answer = case.ask(ExchangeType::CreateChildSa, &further_request(config, spi));
        assert!(answer.contains(&NotifyType::SaResourceInfo), "{answer:?}");
    }
    let Some(State::Established(state)) = &case.state else { panic!("up") };
    let all: Vec<_> = state.children.values().collect();
    let of = |name: &str| -> Vec<_> {
        all.iter().filter(|child| *child.terms.config.name == *name).map(|child| child.binding).collect()
    };
    assert_eq!([of("main"), of("wide")], [(); 2].map(|()| vec![Binding::Fallback, Binding::Resource(0)]));
}
