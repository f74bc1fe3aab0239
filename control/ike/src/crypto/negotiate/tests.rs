use proptest::prelude::*;

use super::*;
use crate::wire::sa::SecurityAssociation;
use crate::wire::transform::{Attribute, AttributeValue};
use crate::wire::{EncrId, EsnId, IntegId, KeId, PrfId, Transform, TransformId, TransformType};

const SPI: u32 = 0xc000_0001;
const PFS: Pfs = Pfs::Negotiated { ke: None };

fn ike(names: &[&str]) -> Vec<IkeProposal> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn esp(names: &[&str]) -> Vec<EspProposal> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// What both sides agree on, having checked that the initiator sees it the same way.
fn agreed_ike(initiator: &[&str], responder: &[&str], key: Option<Group>) -> Option<String> {
    let offer = offer_ike(&ike(initiator), None);
    let choice = choose_ike(&offer, &ike(responder), None, key, true).ok()?;
    let confirmed = confirm_ike(std::slice::from_ref(&choice.answer), &ike(initiator), false).unwrap();
    assert_eq!(confirmed.suite, choice.suite);
    Some(choice.suite.to_string())
}

fn agreed_esp(initiator: &[&str], responder: &[&str], pfs: Pfs) -> Option<String> {
    let offer = offer_esp(&esp(initiator), SPI, pfs);
    let choice = choose_esp(&offer, &esp(responder), SPI + 1, pfs).ok()?;
    assert_eq!(choice.peer_spi, SPI);
    let confirmed = confirm_esp(std::slice::from_ref(&choice.answer), &esp(initiator), pfs).unwrap();
    assert_eq!((confirmed.suite, confirmed.peer_spi), (choice.suite, SPI + 1));
    Some(choice.suite.to_string())
}

#[test]
fn the_responder_takes_its_own_best() {
    let both = ["aes128gcm16-aes256gcm16-prfsha256-prfsha384-x25519-ecp256"];
    assert_eq!(
        agreed_ike(&both, &["aes256gcm16-prfsha384-ecp256-x25519"], None).unwrap(),
        "aes256gcm16-prfsha384-ecp256"
    );
    // Proposals in our order, whatever the peer's.
    let cbc_first = ["aes256-sha256-modp2048", "aes128gcm16-prfsha256-x25519"];
    let gcm_first = ["aes128gcm16-prfsha256-x25519", "aes256-sha256-modp2048"];
    assert_eq!(agreed_ike(&cbc_first, &gcm_first, None).unwrap(), "aes128gcm16-prfsha256-x25519");
    assert_eq!(agreed_ike(&gcm_first, &cbc_first, None).unwrap(), "aes256-sha256-prfsha256-modp2048");
    assert_eq!(agreed_ike(&both, &["chacha20poly1305-prfsha256-x25519"], None), None);
    assert_eq!(agreed_ike(&both, &["aes128gcm16-prfsha512-x25519"], None), None);
    assert_eq!(agreed_ike(&both, &["aes128gcm16-prfsha256-modp2048"], None), None);
}

#[test]
fn the_group_of_the_key_exchange_is_kept_if_it_may_be() {
    let (initiator, responder) =
        (["aes128gcm16-prfsha256-ecp256-x25519"], ["aes128gcm16-prfsha256-x25519-ecp256"]);
    let agreed = |key| agreed_ike(&initiator, &responder, key).unwrap();
    assert_eq!(agreed(Some(Group::Ecp256)), "aes128gcm16-prfsha256-ecp256");
    assert_eq!(agreed(Some(Group::Modp4096)), "aes128gcm16-prfsha256-x25519");
    assert_eq!(agreed(None), "aes128gcm16-prfsha256-x25519");
}

#[test]
fn additional_key_exchanges_are_agreed_on() {
    let base = "aes256gcm16-prfsha384-x25519";
    let agree = |initiator: &[&str], responder: &[&str]| {
        let name = |more: &&str| format!("{base}{more}");
        let (initiator, responder): (Vec<_>, Vec<_>) =
            (initiator.iter().map(name).collect(), responder.iter().map(name).collect());
        let (initiator, responder): (Vec<&str>, Vec<&str>) =
            (initiator.iter().map(String::as_str).collect(), responder.iter().map(String::as_str).collect());
        agreed_ike(&initiator, &responder, Some(Group::X25519))
            .map(|suite| suite.strip_prefix(base).expect("our suite").to_owned())
    };
    for both in [
        "-ke1_mlkem512",
        "-ke1_mlkem768",
        "-ke1_mlkem1024",
        "-ke3_mlkem768",
        "-ke1_mlkem768-ke2_ecp384-ke7_mlkem1024",
    ] {
        assert_eq!(agree(&[both], &[both]).as_deref(), Some(both));
        // Whoever needs one does not do without it.
        assert_eq!(agree(&[both], &[""]), None);
        assert_eq!(agree(&[""], &[both]), None);
        assert_eq!(agree(&[both, ""], &[""]).as_deref(), Some(""));
        assert_eq!(agree(&[""], &[both, ""]).as_deref(), Some(""));
        assert_eq!(agree(&[both, ""], &["", both]).as_deref(), Some(""));
    }
    // The responder's order counts.
    let (small_first, large_first) = ("-ke1_mlkem512-ke1_mlkem1024", "-ke1_mlkem1024-ke1_mlkem512");
    assert_eq!(agree(&[small_first], &[large_first]).as_deref(), Some("-ke1_mlkem1024"));
    // NONE makes it optional, on either side.
    let optional = "-ke1_mlkem768-ke1_none";
    assert_eq!(agree(&[optional], &[optional]).as_deref(), Some("-ke1_mlkem768"));
    assert_eq!(agree(&[optional], &[""]).as_deref(), Some(""));
    assert_eq!(agree(&[""], &[optional]).as_deref(), Some(""));
    assert_eq!(agree(&[optional], &["-ke1_mlkem1024-ke1_none"]).as_deref(), Some(""));
    // No method twice (RFC 9370 section 2.2.1).
    let twice = "-ke1_mlkem768-ke2_mlkem768-ke2_mlkem1024";
    assert_eq!(agree(&[twice], &[twice]).as_deref(), Some("-ke1_mlkem768-ke2_mlkem1024"));
    assert_eq!(agree(&["-ke1_x25519"], &["-ke1_x25519"]), None);
}

#[test]
fn an_answer_with_additional_key_exchanges_that_were_not_offered_is_refused() {
    let ours = ike(&["aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke2_mlkem1024-ke2_none"]);
    let answer = |name: &str| {
        let offer = offer_ike(&ike(&[&format!("aes256gcm16-prfsha384-x25519{name}")]), None);
        confirm_ike(&offer, &ours, false)
    };
    assert!(answer("-ke1_mlkem768-ke2_mlkem1024").is_ok());
    assert!(answer("-ke1_mlkem768-ke2_none").is_ok());
    assert!(answer("-ke1_mlkem768").is_ok());
    for wrong in [
        "",
        "-ke1_none",
        "-ke2_mlkem1024",
        "-ke1_mlkem1024",
        "-ke1_mlkem768-ke3_ecp256",
        "-ke1_mlkem768-ke2_mlkem768",
        "-ke1_mlkem768-ke1_none",
        "-ke1_mlkem768-ke2_mlkem1024-ke2_none",
    ] {
        assert!(matches!(answer(wrong), Err(NegotiateError::NotOffered(_))), "{wrong}");
    }
}

#[test]
fn a_peer_that_does_not_announce_intermediate_exchanges_gets_none() {
    let offer =
        offer_ike(&ike(&["aes256gcm16-prfsha384-x25519-ke1_mlkem768", "aes128gcm16-prfsha256-x25519"]), None);
    let choose = |ours: &[&str]| {
        choose_ike(&offer, &ike(ours), None, None, false).map(|choice| choice.suite.to_string())
    };
    assert!(choose(&["aes256gcm16-prfsha384-x25519-ke1_mlkem768"]).is_err());
    assert_eq!(
        choose(&["aes256gcm16-prfsha384-x25519-ke1_mlkem768", "aes128gcm16-prfsha256-x25519"]).unwrap(),
        "aes128gcm16-prfsha256-x25519"
    );
    let said = choose(&["aes256gcm16-prfsha384-x25519-ke1_mlkem768"]).unwrap_err().to_string();
    assert!(said.contains("ke1_mlkem768"), "{said}");
}

#[test]
fn every_suite_passes_both_ways() {
    for encryption in ["aes128gcm16", "aes256gcm16", "chacha20poly1305"] {
        for prf in ["prfsha256", "prfsha384", "prfsha512"] {
            for group in Group::ALL.into_iter().filter(|group| !group.is_kem()) {
                let name = format!("{encryption}-{prf}-{group}");
                assert_eq!(agreed_ike(&[&name], &[&name], Some(group)).unwrap(), name);
            }
        }
    }
    for encryption in ["aes128", "aes256"] {
        for integrity in ["sha256", "sha384", "sha512"] {
            let name = format!("{encryption}-{integrity}-x25519");
            let suite = format!("{encryption}-{integrity}-prf{integrity}-x25519");
            assert_eq!(agreed_ike(&[&name], &[&name], None).unwrap(), suite);
        }
    }
    let (offer, defaults) = (offer_ike(&IkeProposal::defaults(), None), IkeProposal::defaults());
    let choice = choose_ike(&offer, &defaults, None, Some(Group::X25519), true).unwrap();
    assert_eq!(choice.suite.to_string(), "aes256gcm16-prfsha256-x25519");
}

#[test]
fn combined_and_other_ciphers_never_share_a_proposal() {
    let mixed = ["aes256-aes128gcm16-sha256-prfsha256-x25519"];
    let offer = offer_ike(&ike(&mixed), None);
    let [cbc, gcm] = offer.as_slice() else { panic!("two proposals") };
    assert_eq!((cbc.number, gcm.number), (1, 2));
    let integrity = |proposal: &Proposal| {
        proposal.transforms.iter().filter(|one| one.id.transform_type() == TransformType::Integ).count()
    };
    assert_eq!((integrity(cbc), integrity(gcm)), (1, 0));
    let gcm_only = ["aes128gcm16-prfsha256-x25519"];
    assert_eq!(agreed_ike(&mixed, &gcm_only, None).unwrap(), gcm_only[0]);
    assert_eq!(agreed_ike(&mixed, &mixed, None).unwrap(), "aes256-sha256-prfsha256-x25519");
}

#[test]
fn an_offer_goes_over_the_wire() {
    let offer = offer_ike(&IkeProposal::defaults(), Some(5));
    assert!(SecurityAssociation::new(offer.clone()).write(&mut Vec::new()).is_ok());
    assert!(offer.iter().all(|proposal| proposal.spi == SaSpi::Ike(Spi(5))));
    let offer = offer_esp(&EspProposal::defaults(), SPI, PFS);
    assert!(SecurityAssociation::new(offer).write(&mut Vec::new()).is_ok());
}

#[test]
fn forward_secrecy_is_left_out_in_ike_auth_and_kept_after() {
    let (with, without) = (["aes128gcm16-ecp256-x25519"], ["aes128gcm16"]);
    assert_eq!(agreed_esp(&with, &with, Pfs::Never).unwrap(), "aes128gcm16-esn");
    assert_eq!(agreed_esp(&with, &with, PFS).unwrap(), "aes128gcm16-ecp256-esn");
    let key = Pfs::Negotiated { ke: Some(Group::X25519) };
    assert_eq!(agreed_esp(&with, &with, key).unwrap(), "aes128gcm16-x25519-esn");
    assert_eq!(agreed_esp(&without, &without, PFS).unwrap(), "aes128gcm16-esn");
    // Neither side is talked out of it, nor into it.
    assert_eq!(agreed_esp(&with, &without, PFS), None);
    assert_eq!(agreed_esp(&without, &with, PFS), None);
}

#[test]
fn extended_sequence_numbers_as_both_want() {
    for (initiator, responder, agreed) in [
        ("aes128gcm16", "aes128gcm16", Some("aes128gcm16-esn")),
        ("aes128gcm16", "aes128gcm16-noesn", Some("aes128gcm16")),
        ("aes128gcm16-noesn", "aes128gcm16", Some("aes128gcm16")),
        ("aes128gcm16-esn", "aes128gcm16", Some("aes128gcm16-esn")),
        ("aes128gcm16-esn", "aes128gcm16-noesn", None),
    ] {
        assert_eq!(agreed_esp(&[initiator], &[responder], Pfs::Never).as_deref(), agreed);
    }
}

fn proposal(transforms: Vec<Transform>) -> Proposal {
    Proposal { number: 1, protocol: ProtocolId::Esp, spi: SaSpi::Child(SPI), transforms }
}

fn gcm() -> Transform {
    Transform::encr(EncrId::AesGcm16, 128)
}

fn plain(id: TransformId) -> Transform {
    Transform::new(id)
}

#[test]
fn none_is_an_answer_to_none() {
    let none = plain(TransformId::Integ(IntegId::None));
    let no_group = plain(TransformId::Ke(KeId::None));
    let no_esn = plain(TransformId::Esn(EsnId::No));
    let offer = [proposal(vec![gcm(), none.clone(), no_group.clone(), no_esn.clone()])];
    let choice = choose_esp(&offer, &esp(&["aes128gcm16"]), SPI, PFS).unwrap();
    assert_eq!(choice.answer.transforms, [gcm(), none, no_group, no_esn]);
    assert_eq!(choice.suite.to_string(), "aes128gcm16");
}

#[test]
fn a_missing_esn_transform_means_without_and_stays_missing() {
    let offer = [proposal(vec![gcm()])];
    let choice = choose_esp(&offer, &esp(&["aes128gcm16"]), SPI, PFS).unwrap();
    assert_eq!(choice.answer.transforms, [gcm()]);
    assert!(!choice.suite.esn);
    assert!(choose_esp(&offer, &esp(&["aes128gcm16-esn"]), SPI, PFS).is_err());
}

#[test]
fn what_is_not_understood_is_not_chosen() {
    let ours = esp(&["aes128gcm16"]);
    let no_esn = || plain(TransformId::Esn(EsnId::No));
    let chosen = |transforms| choose_esp(&[proposal(transforms)], &ours, SPI, PFS).is_ok();
    assert!(chosen(vec![gcm(), no_esn()]));
    // Another attribute, another key length, none at all, an AEAD with integrity, an unknown type, a PRF in ESP.
    let attribute = Attribute { attribute_type: 99, value: AttributeValue::Short(1) };
    assert!(!chosen(vec![Transform { other_attributes: vec![attribute], ..gcm() }, no_esn()]));
    assert!(!chosen(vec![Transform::encr(EncrId::AesGcm16, 192), no_esn()]));
    assert!(!chosen(vec![plain(TransformId::Encr(EncrId::AesGcm16)), no_esn()]));
    assert!(!chosen(vec![gcm(), plain(TransformId::Integ(IntegId::HmacSha2_256_128)), no_esn()]));
    assert!(!chosen(vec![gcm(), plain(TransformId::new(TransformType::AddKe1, 36)), no_esn()]));
    assert!(!chosen(vec![gcm(), plain(TransformId::Prf(PrfId::HmacSha2_256)), no_esn()]));
    // But beside an algorithm that is understood it does no harm.
    assert!(chosen(vec![plain(TransformId::Encr(EncrId::TripleDes)), gcm(), no_esn()]));
    let ike_offer = Proposal { protocol: ProtocolId::Ike, spi: SaSpi::None, ..proposal(vec![gcm()]) };
    assert!(choose_esp(&[ike_offer], &ours, SPI, PFS).is_err());
}

#[test]
fn an_answer_that_was_not_offered_is_refused() {
    let ours = ike(&["aes128gcm16-prfsha256-x25519-ecp256", "aes256-sha256-modp2048"]);
    let offer = offer_ike(&ours, None);
    let good = choose_ike(&offer, &ours, None, None, true).unwrap().answer;
    let refused =
        |answer: &[Proposal]| matches!(confirm_ike(answer, &ours, false), Err(NegotiateError::NotOffered(_)));
    assert!(!refused(std::slice::from_ref(&good)));
    assert!(refused(&[]));
    assert!(refused(&[good.clone(), good.clone()]));
    // Number of another proposal, of none; a second group; a type less; an algorithm of another proposal.
    for number in [0, 2, 3, 255] {
        assert!(refused(&[Proposal { number, ..good.clone() }]));
    }
    let mut second = good.clone();
    second.transforms.push(plain(TransformId::Ke(KeId::Ecp256)));
    assert!(refused(&[second]));
    for missing in 0..good.transforms.len() {
        let mut less = good.clone();
        less.transforms.remove(missing);
        assert!(refused(&[less]));
    }
    let mut foreign = good.clone();
    foreign.transforms[0] = Transform::encr(EncrId::AesGcm16, 256);
    assert!(refused(&[foreign]));
    assert!(refused(&[Proposal { protocol: ProtocolId::Esp, ..good }]));
}

#[test]
fn spis_are_those_of_the_exchange() {
    let ours = ike(&["aes128gcm16-prfsha256-x25519"]);
    let choose = |theirs, own| choose_ike(&offer_ike(&ours, theirs), &ours, own, None, true);
    assert_eq!(choose(None, None).unwrap().peer_spi, None);
    let rekey = choose(Some(7), Some(8)).unwrap();
    assert_eq!((rekey.peer_spi, rekey.answer.spi.clone()), (Some(7), SaSpi::Ike(Spi(8))));
    assert_eq!(confirm_ike(&[rekey.answer], &ours, true).unwrap().peer_spi, Some(8));
    for (theirs, own) in [(None, Some(8)), (Some(7), None), (Some(0), Some(8))] {
        assert!(matches!(choose(theirs, own), Err(NegotiateError::Spi(_))));
    }
    let ours = esp(&["aes128gcm16"]);
    for spi in [0, 1, 255] {
        let refused = choose_esp(&offer_esp(&ours, spi, PFS), &ours, SPI, PFS);
        assert!(matches!(refused, Err(NegotiateError::Spi(_))));
    }
    assert!(choose_esp(&offer_esp(&ours, 256, PFS), &ours, SPI, PFS).is_ok());
}

#[test]
fn a_refusal_shows_both_sides_within_bounds() {
    let transforms = vec![Transform::encr(EncrId::AesCbc, 192), plain(TransformId::Prf(PrfId::HmacSha1))];
    let offer = Proposal { protocol: ProtocolId::Ike, spi: SaSpi::None, ..proposal(transforms) };
    let ours = ike(&["aes128gcm16-prfsha256-x25519"]);
    let said = choose_ike(std::slice::from_ref(&offer), &ours, None, None, true).unwrap_err().to_string();
    assert_eq!(
        said,
        "no proposal in common: the peer offers IKE ENCR_AES_CBC of 192 bits-PRF_HMAC_SHA1; configured are \
         aes128gcm16-prfsha256-x25519"
    );
    let huge = Proposal { transforms: vec![Transform::encr(EncrId::AesCbc, 192); 128], ..offer };
    let said = choose_ike(&vec![huge; 64], &ours, None, None, true).unwrap_err().to_string();
    assert!(said.len() < 8000);
}

/// Transforms of which proposals that nearly fit, or fit, can be made.
fn any_likely_transform() -> impl Strategy<Value = Transform> {
    let all = offer_ike(&IkeProposal::defaults(), None).into_iter().chain(offer_esp(
        &EspProposal::defaults(),
        SPI,
        PFS,
    ));
    let mut pool: Vec<_> = all.flat_map(|proposal| proposal.transforms).collect();
    pool.push(plain(TransformId::Integ(IntegId::None)));
    pool.push(plain(TransformId::Ke(KeId::None)));
    pool.push(Transform::encr(EncrId::TripleDes, 168));
    pool.push(plain(TransformId::new(TransformType::AddKe1, 36)));
    proptest::sample::select(pool)
}

proptest! {
    #[test]
    fn an_answer_is_part_of_what_was_offered(
        lists in proptest::collection::vec(proptest::collection::vec(any_likely_transform(), 0..8), 1..4),
    ) {
        let (ike, esp) = (IkeProposal::defaults(), EspProposal::defaults());
        let proposals = |protocol: ProtocolId, spi: SaSpi| -> Vec<_> {
            let numbered = (1..).zip(lists.clone());
            numbered
                .map(|(number, transforms)| Proposal { number, protocol, spi: spi.clone(), transforms })
                .collect()
        };
        let part = |answer: &Proposal, offer: &[Proposal]| {
            let offered = offer.iter().find(|proposal| proposal.number == answer.number);
            let transforms = offered.map(|proposal| proposal.transforms.as_slice()).unwrap_or_default();
            let mut types: Vec<_> = transforms.iter().map(|one| one.id.transform_type()).collect();
            types.sort_unstable();
            types.dedup();
            // One of each type that was offered (RFC 7296 section 3.3.6), and nothing else.
            answer.transforms.len() == types.len() && answer.transforms.iter().all(|one| transforms.contains(one))
        };
        let offer = proposals(ProtocolId::Esp, SaSpi::Child(SPI));
        for pfs in [Pfs::Never, PFS] {
            if let Ok(choice) = choose_esp(&offer, &esp, SPI, pfs) {
                prop_assert!(part(&choice.answer, &offer));
                prop_assert_eq!(choice.suite.encryption.is_aead(), choice.suite.integrity.is_none());
            }
        }
        let offer = proposals(ProtocolId::Ike, SaSpi::None);
        if let Ok(choice) = choose_ike(&offer, &ike, None, None, true) {
            prop_assert!(part(&choice.answer, &offer));
            prop_assert_eq!(choice.suite.encryption.is_aead(), choice.suite.integrity.is_none());
        }
    }

    #[test]
    fn any_offer_is_chosen_from_or_refused(sa in crate::wire::sa::tests::any_sa()) {
        let (ike, esp) = (IkeProposal::defaults(), EspProposal::defaults());
        for pfs in [Pfs::Never, PFS] {
            let _ = choose_esp(&sa.proposals, &esp, SPI, pfs);
            let _ = confirm_esp(&sa.proposals, &esp, pfs);
        }
        for spi in [None, Some(1)] {
            let _ = choose_ike(&sa.proposals, &ike, spi, None, true);
            let _ = confirm_ike(&sa.proposals, &ike, spi.is_some());
        }
    }
}
