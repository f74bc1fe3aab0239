//! Tests of whole messages, honest and hostile: every value survives its bytes, and no bytes hurt.

use proptest::prelude::*;
use proptest::sample::Index;

use crate::wire::auth::Authentication;
use crate::wire::cert::{Certificate, CertificateRequest};
use crate::wire::config::{ConfigAttribute, Configuration};
use crate::wire::delete::Delete;
use crate::wire::eap::Eap;
use crate::wire::header::{HEADER_LEN, Header, Spi};
use crate::wire::id::IdPayload;
use crate::wire::id::tests::any_id;
use crate::wire::ke::KeyExchange;
use crate::wire::message::{Fragment, Outer, write_clear};
use crate::wire::nonce::Nonce;
use crate::wire::notify::Notify;
use crate::wire::number::{ExchangeType, PayloadType, ProtocolId};
use crate::wire::payload::{MAX_PAYLOADS, Payload, parse_payloads, write_payloads};
use crate::wire::protect::{protect, protect_fragment};
use crate::wire::sa::SaSpi;
use crate::wire::sa::tests::any_sa;
use crate::wire::ts::tests::any_selectors;
use crate::wire::vendor::VendorId;
use crate::wire::{KeId, WireError};

fn bytes(range: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), range)
}

fn any_notify() -> impl Strategy<Value = Notify> {
    let spi = prop_oneof![
        Just(SaSpi::None),
        any::<u32>().prop_map(SaSpi::Child),
        any::<u64>().prop_map(|spi| SaSpi::Ike(Spi(spi))),
    ];
    (any::<u8>(), spi, any::<u16>(), bytes(0..60)).prop_map(|(protocol, spi, notify_type, data)| Notify {
        protocol: protocol.into(),
        spi,
        notify_type: notify_type.into(),
        data,
    })
}

fn any_payload() -> impl Strategy<Value = Payload> {
    let configuration = prop::collection::vec((16u16..0x8000, bytes(0..20)), 0..5);
    prop_oneof![
        any_sa().prop_map(Payload::Sa),
        (any::<u16>(), bytes(1..600))
            .prop_map(|(group, data)| Payload::Ke(KeyExchange::new(group.into(), data))),
        any_id().prop_map(|id| Payload::IdI(IdPayload::new(id))),
        any_id().prop_map(|id| Payload::IdR(IdPayload::new(id))),
        bytes(1..900).prop_map(|der| Payload::Cert(Certificate::x509(der))),
        prop::collection::vec(any::<[u8; 20]>(), 0..6)
            .prop_map(|authorities| Payload::CertReq(CertificateRequest::X509 { authorities })),
        (any::<u8>(), bytes(1..300))
            .prop_map(|(method, data)| Payload::Auth(Authentication::new(method.into(), data))),
        bytes(16..257).prop_map(|nonce| Payload::Nonce(Nonce::new(nonce).unwrap())),
        any_notify().prop_map(Payload::Notify),
        Just(Payload::Delete(Delete::Ike)),
        prop::collection::vec(any::<u32>(), 0..9)
            .prop_map(|spis| Payload::Delete(Delete::Child { protocol: ProtocolId::Esp, spis })),
        bytes(0..40).prop_map(|id| Payload::Vendor(VendorId(id))),
        any_selectors().prop_map(Payload::TsI),
        any_selectors().prop_map(Payload::TsR),
        (any::<u8>(), configuration).prop_map(|(config_type, attributes)| {
            let attribute = |(attribute_type, value): (u16, Vec<u8>)| ConfigAttribute {
                attribute_type: attribute_type.into(),
                value,
            };
            Payload::Configuration(Configuration {
                config_type: config_type.into(),
                attributes: attributes.into_iter().map(attribute).collect(),
            })
        }),
        bytes(0..40).prop_map(|packet| Payload::Eap(Eap(packet))),
        (54u8.., bytes(0..40))
            .prop_map(|(number, data)| Payload::Unknown { payload_type: PayloadType::Unknown(number), data }),
    ]
}

fn any_chain() -> impl Strategy<Value = Vec<Payload>> {
    prop::collection::vec(any_payload(), 0..9)
}

fn header() -> Header {
    Header::request(Spi(0x0123_4567_89ab_cdef), Spi(7), ExchangeType::IkeAuth, true, 1)
}

/// Seals by prefixing eight bytes and appending sixteen.
fn seal(_: &[u8], inner: &[u8]) -> Result<Vec<u8>, WireError> {
    Ok([&[0xee; 8][..], inner, &[0xff; 16]].concat())
}

/// A message with payloads in clear before its Encrypted payload, which `protect` does not write but a peer may.
fn mixed(payloads: &[Payload], skf: bool) -> Vec<u8> {
    let (first, chain) = write_payloads(&[payloads, &[marker()]].concat()).unwrap();
    let own: u8 = if skf { 53 } else { 46 };
    let mut sealed = vec![33, 0, 0, 4 + 40];
    sealed.extend_from_slice(&[0, 2, 0, 3]);
    sealed.extend_from_slice(&[0xab; 36]);
    let mut out = Vec::new();
    header().write(first, HEADER_LEN + chain.len() + sealed.len(), &mut out).unwrap();
    let last = out.len() + chain.len() - 6;
    out.extend_from_slice(&chain);
    out[last] = own;
    out.extend_from_slice(&sealed);
    out
}

/// A vendor ID of two bytes, so that its generic header lies at a known place from the end.
fn marker() -> Payload {
    Payload::Vendor(VendorId(vec![1, 2]))
}

proptest! {
    #[test]
    fn any_chain_survives(chain in any_chain()) {
        let (first, out) = write_payloads(&chain).unwrap();
        prop_assert_eq!(parse_payloads(first, &out), Ok(chain));
    }

    #[test]
    fn any_message_in_clear_survives(chain in any_chain()) {
        let out = write_clear(&header(), &chain).unwrap();
        let parsed = Outer { header: header(), payloads: chain, protected: None };
        prop_assert_eq!(Outer::parse(&out), Ok(parsed));
    }

    #[test]
    fn any_protected_message_survives(chain in any_chain(), number in 1u16..=5, fragmented: bool) {
        let (first, inner) = write_payloads(&chain).unwrap();
        let sealed_len = inner.len() + 24;
        let fragment = fragmented.then_some(Fragment { number, total: 5 });
        let out = match fragment {
            None => protect(&header(), first, &inner, sealed_len, seal).unwrap(),
            Some(fragment) => protect_fragment(&header(), fragment, first, &inner, sealed_len, seal).unwrap(),
        };
        let outer = Outer::parse(&out).unwrap();
        prop_assert_eq!(outer.header, header());
        prop_assert!(outer.payloads.is_empty());
        let protected = outer.protected.unwrap();
        prop_assert_eq!(protected.fragment, fragment);
        let shown = if fragmented && number > 1 { PayloadType::None } else { first };
        prop_assert_eq!(protected.first_inner, shown);
        prop_assert_eq!(protected.start(), HEADER_LEN);
        let aad_len = HEADER_LEN + if fragmented { 8 } else { 4 };
        prop_assert_eq!(protected.associated_data(&out), Some(&out[..aad_len]));
        let body = protected.body(&out).unwrap();
        prop_assert_eq!(body, &out[aad_len..]);
        prop_assert_eq!(&body[8..body.len() - 16], &inner[..]);
    }

    #[test]
    fn any_bytes_are_read_or_refused(datagram in bytes(0..600), first: u8) {
        let _ = Outer::parse(&datagram);
        let _ = parse_payloads(PayloadType::from(first), &datagram);
    }

    /// The body of every payload type, behind a header that is right.
    #[test]
    fn any_body_is_read_or_refused(first in 33u8..=54, body in bytes(0..400)) {
        let length = u16::try_from(body.len() + 4).unwrap().to_be_bytes();
        let chain = [&[0, 0][..], &length, &body].concat();
        if let Ok(payloads) = parse_payloads(PayloadType::from(first), &chain) {
            // What was read can be written, and then means the same.
            let (first, again) = write_payloads(&payloads).unwrap();
            prop_assert_eq!(parse_payloads(first, &again), Ok(payloads));
        }
    }

    #[test]
    fn a_mutated_message_is_read_or_refused(
        chain in any_chain(), skf: bool, flips in prop::collection::vec((any::<Index>(), any::<u8>()), 1..6),
        cut in any::<Index>(), repair: bool,
    ) {
        let mut datagram = mixed(&chain, skf);
        for (at, value) in flips {
            let at = at.index(datagram.len());
            datagram[at] = value;
        }
        datagram.truncate(cut.index(datagram.len()) + 1);
        if repair && datagram.len() >= HEADER_LEN {
            // So that the mutation is not stopped by the header's length already.
            let length = u32::try_from(datagram.len()).unwrap().to_be_bytes();
            datagram[24..28].copy_from_slice(&length);
        }
        if let Ok(Outer { protected: Some(protected), .. }) = Outer::parse(&datagram) {
            prop_assert!(protected.associated_data(&datagram).is_some());
            prop_assert!(!protected.body(&datagram).unwrap().is_empty());
        }
    }

    #[test]
    fn every_truncation_is_an_error(chain in any_chain(), skf: bool, cut in any::<Index>(), repair: bool) {
        let mut datagram = mixed(&chain, skf);
        prop_assert!(Outer::parse(&datagram).is_ok());
        datagram.truncate(cut.index(datagram.len()));
        if repair && datagram.len() >= HEADER_LEN {
            let length = u32::try_from(datagram.len()).unwrap().to_be_bytes();
            datagram[24..28].copy_from_slice(&length);
        }
        prop_assert!(Outer::parse(&datagram).is_err());
    }
}

/// An IKE_SA_INIT request, byte by byte from RFC 7296 sections 3.1 to 3.10.
fn ike_sa_init() -> Vec<u8> {
    let mut out = vec![
        0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, // initiator's SPI
        0, 0, 0, 0, 0, 0, 0, 0, // responder's SPI
        33, 0x20, 34, 0x08, // SA first, version 2.0, IKE_SA_INIT, initiator
        0, 0, 0, 0, // message ID
        0, 0, 0, 194, // length
        34, 0, 0, 40, // SA; KE follows
        0, 0, 0, 36, 1, 1, 0, 3, // the only proposal: number 1, IKE, no SPI, three transforms
        3, 0, 0, 12, 1, 0, 0, 20, 0x80, 0x0e, 0x00, 0x80, // ENCR_AES_GCM_16, 128 bits
        3, 0, 0, 8, 2, 0, 0, 5, // PRF_HMAC_SHA2_256
        0, 0, 0, 8, 4, 0, 0, 31, // Curve25519
        40, 0, 0, 40, 0, 31, 0, 0, // KE of Curve25519; Nonce follows
    ];
    out.extend_from_slice(&[0x5a; 32]);
    out.extend_from_slice(&[41, 0, 0, 36]); // Nonce; N follows
    out.extend_from_slice(&[0xc3; 32]);
    out.extend_from_slice(&[41, 0, 0, 28, 0, 0, 0x40, 0x04]); // NAT_DETECTION_SOURCE_IP; N follows
    out.extend_from_slice(&[0x11; 20]);
    out.extend_from_slice(&[41, 0, 0, 8, 0, 0, 0x40, 0x2e]); // IKEV2_FRAGMENTATION_SUPPORTED; N follows
    out.extend_from_slice(&[0, 0, 0, 14, 0, 0, 0x40, 0x2f, 0, 2, 0, 3, 0, 4]); // SIGNATURE_HASH_ALGORITHMS
    out
}

#[test]
fn golden_ike_sa_init() {
    use crate::wire::number::{HashAlgorithm, NotifyType};
    use crate::wire::sa::{Proposal, SecurityAssociation};
    use crate::wire::transform::{EncrId, PrfId, Transform, TransformId};

    let header = Header::request(Spi(0xa1a2_a3a4_a5a6_a7a8), Spi::ZERO, ExchangeType::IkeSaInit, true, 0);
    let hashes = [HashAlgorithm::Sha2_256, HashAlgorithm::Sha2_384, HashAlgorithm::Sha2_512];
    let payloads = vec![
        Payload::Sa(SecurityAssociation::new(vec![Proposal {
            number: 1,
            protocol: ProtocolId::Ike,
            spi: SaSpi::None,
            transforms: vec![
                Transform::encr(EncrId::AesGcm16, 128),
                Transform::new(TransformId::Prf(PrfId::HmacSha2_256)),
                Transform::new(TransformId::Ke(KeId::Curve25519)),
            ],
        }])),
        Payload::Ke(KeyExchange::new(KeId::Curve25519, vec![0x5a; 32])),
        Payload::Nonce(Nonce::new(vec![0xc3; 32]).unwrap()),
        Payload::Notify(Notify::with_data(NotifyType::NatDetectionSourceIp, vec![0x11; 20])),
        Payload::Notify(Notify::new(NotifyType::Ikev2FragmentationSupported)),
        Payload::Notify(Notify::from_signature_hashes(&hashes)),
    ];
    assert_eq!(write_clear(&header, &payloads), Ok(ike_sa_init()));
    assert_eq!(Outer::parse(&ike_sa_init()), Ok(Outer { header, payloads, protected: None }));
}

#[test]
fn every_truncation_of_ike_sa_init_is_an_error() {
    let whole = ike_sa_init();
    for end in 0..whole.len() {
        assert!(Outer::parse(&whole[..end]).is_err(), "{end}");
        let mut repaired = whole[..end].to_vec();
        if let Some(length) = repaired.get_mut(24..28) {
            length.copy_from_slice(&u32::try_from(end).unwrap().to_be_bytes());
        }
        assert!(Outer::parse(&repaired).is_err(), "{end} with its length right");
    }
    assert!(Outer::parse(&[&whole[..], &[0]].concat()).is_err());
}

fn datagram(first: u8, chain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    header().write(PayloadType::from(first), HEADER_LEN + chain.len(), &mut out).unwrap();
    out.extend_from_slice(chain);
    out
}

#[test]
fn chains_that_lie_are_errors() {
    for (first, chain, why) in [
        (43, &[][..], "first payload missing"),
        (43, &[0, 0, 0], "half a generic header"),
        (43, &[0, 0, 0, 0], "length zero"),
        (43, &[0, 0, 0, 3], "length less than the generic header"),
        (43, &[0, 0, 0, 5], "length past the end"),
        (43, &[0, 0, 0xff, 0xff, 1], "length far past the end"),
        (43, &[43, 0, 0, 4], "next payload missing"),
        (43, &[0, 0, 0, 4, 0], "bytes behind the last payload"),
        (0, &[0], "bytes without a payload"),
        (40, &[0, 0, 0, 4], "empty nonce"),
        (33, &[0, 0, 0, 4], "empty SA"),
        (46, &[0, 0, 0, 4], "empty Encrypted payload"),
        (46, &[33, 0, 0, 5, 0, 0], "bytes behind the Encrypted payload"),
        (46, &[33, 0, 0, 6, 0], "Encrypted payload past the end"),
        (53, &[33, 0, 0, 7, 0, 1, 0], "half the fragment fields"),
        (53, &[33, 0, 0, 8, 0, 1, 0, 1], "empty fragment"),
        (53, &[33, 0, 0, 9, 0, 0, 0, 1, 9], "fragment 0"),
        (53, &[33, 0, 0, 9, 0, 2, 0, 1, 9], "fragment 2 of 1"),
        (53, &[33, 0, 0, 9, 0, 0, 0, 0, 9], "fragment 0 of 0"),
    ] {
        let error = Outer::parse(&datagram(first, chain)).expect_err(why);
        assert_eq!(error.notify_type(), Some(crate::wire::NotifyType::InvalidSyntax), "{why}: {error}");
    }
}

#[test]
fn critical_bit_decides_over_unknown_types_only() {
    let of = |first, critical: u8| Outer::parse(&datagram(first, &[0, critical, 0, 5, 9]));
    let unknown = PayloadType::Unknown(200);
    assert_eq!(of(200, 0).unwrap().payloads, [Payload::Unknown { payload_type: unknown, data: vec![9] }]);
    // The reserved bits beside it mean nothing.
    assert!(of(200, 0x7f).is_ok());
    assert_eq!(of(200, 0x80), Err(WireError::UnsupportedCritical(unknown)));
    assert!(of(43, 0x80).is_ok());
    // A lie about the length is a lie even in a payload to be skipped.
    assert!(matches!(Outer::parse(&datagram(200, &[0, 0, 0, 6, 9])), Err(WireError::Truncated { .. })));
}

#[test]
fn payloads_are_bounded() {
    let many = vec![Payload::Vendor(VendorId(Vec::new())); MAX_PAYLOADS];
    let out = write_clear(&header(), &many).unwrap();
    assert_eq!(Outer::parse(&out).unwrap().payloads.len(), MAX_PAYLOADS);
    let too_many = [&[43, 0, 0, 4].repeat(MAX_PAYLOADS)[..], &[0, 0, 0, 4]].concat();
    assert!(matches!(
        Outer::parse(&datagram(43, &too_many)),
        Err(WireError::TooMany { limit: MAX_PAYLOADS, .. })
    ));
    assert!(matches!(write_payloads(&vec![marker(); MAX_PAYLOADS + 1]), Err(WireError::TooLong { .. })));
}

#[test]
fn encrypted_payloads_do_not_nest() {
    let inner = [0, 0, 0, 8, 1, 2, 3, 4];
    for first in [46, 53] {
        assert!(matches!(parse_payloads(PayloadType::from(first), &inner), Err(WireError::Malformed { .. })));
    }
    assert_eq!(parse_payloads(PayloadType::None, &[]), Ok(Vec::new()));
    assert!(parse_payloads(PayloadType::None, &[0]).is_err());
}

#[test]
fn what_does_not_fit_is_not_written() {
    let payload =
        |length| Payload::Unknown { payload_type: PayloadType::Unknown(200), data: vec![0; length] };
    assert!(write_payloads(&[payload(65_531)]).is_ok());
    assert!(matches!(write_payloads(&[payload(65_532)]), Err(WireError::TooLong { .. })));
    assert!(matches!(
        write_clear(&header(), &[payload(40_000), payload(40_000)]),
        Err(WireError::TooLong { .. })
    ));
    let disguised = Payload::Unknown { payload_type: PayloadType::Sk, data: vec![0] };
    assert!(write_payloads(&[disguised]).is_err());
    let none = |_: &[u8], _: &[u8]| Ok::<_, WireError>(vec![0; 70_000]);
    assert!(protect(&header(), PayloadType::None, &[], 70_000, none).is_err());
}

#[test]
fn sealing_must_keep_its_promise() {
    for (promised, made) in [(24, 23), (24, 25), (0, 0), (24, 0)] {
        let seal = |_: &[u8], _: &[u8]| Ok::<_, WireError>(vec![0; made]);
        let sealed = protect(&header(), PayloadType::None, &[], promised, seal);
        assert!(matches!(sealed, Err(WireError::Unwritable { .. })), "{promised} promised, {made} made");
    }
    let fragment = Fragment { number: 3, total: 2 };
    assert!(protect_fragment(&header(), fragment, PayloadType::None, &[1], 25, seal).is_err());
}

/// What sealing is given is what the receiver will take for associated data, final lengths included.
#[test]
fn associated_data_is_the_same_on_both_sides() {
    let mut sealed_over = Vec::new();
    let out = protect(&header(), PayloadType::Nonce, &[1, 2, 3], 27, |aad, inner| {
        sealed_over = aad.to_vec();
        seal(aad, inner)
    })
    .unwrap();
    let protected = Outer::parse(&out).unwrap().protected.unwrap();
    assert_eq!(protected.associated_data(&out), Some(&sealed_over[..]));
    assert_eq!(sealed_over[24..], [0, 0, 0, 59, 40, 0, 0, 31]);
    assert_eq!(protected.associated_data(&out[..20]), None);
    assert_eq!(protected.body(&out[..40]), None);
}
