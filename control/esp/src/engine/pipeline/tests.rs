//! Two pipelines joined by bytes.

mod workers;

use std::rc::Rc;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use proptest::prelude::*;
use zeroize::Zeroizing;

use super::super::config::L2Path;
use super::super::table::{Device, Turn};
use super::*;
use crate::sa::{Keys, Lifetimes, Outer, PairCounters, SaPair, Transform};
use crate::transform::OuterHeader;
use crate::transform::inner::tests::{ipv4, ipv6, selector, udp};

const PORT_A: PortId = 7;
const PORT_B: PortId = 44;
const BUFFER: usize = 2048;
const START: usize = 256;
const PEER_MAC: MacAddress = [2, 0, 0, 0, 0, 9];
const PATH: L2Path =
    L2Path { ifindex: 5, source_mac: [2, 0, 0, 0, 1, 1], destination_mac: [2, 0, 0, 0, 1, 2], mtu: None };

struct Gateway {
    pipeline: Pipeline,
    /// Those of all workers of a gateway.
    events: Rc<Receiver<SaEvent>>,
}

impl Gateway {
    fn new() -> Self {
        let [gateway] = Self::workers();
        gateway
    }

    /// As many workers of one gateway.
    fn workers<const N: usize>() -> [Self; N] {
        let (sender, events) = mpsc::sync_channel(16);
        let (sender, events) = (Events::new(sender), Rc::new(events));
        let begun = Instant::now();
        let acquires = Arc::new(Acquires::new(begun, Duration::from_millis(250)));
        std::array::from_fn(|worker| {
            let turn = Turn { worker: worker as u16, workers: N as u16 };
            let table = Table::new(vec![Device { ifindex: 5, mtu: 1500 }], turn);
            let (sender, acquires) = (sender.clone(), acquires.clone());
            let pipeline = Pipeline::new(table, sender, acquires, PEER_MAC, begun);
            Self { pipeline, events: events.clone() }
        })
    }

    fn install(&mut self, pair: SaPair, activate: bool) {
        self.take(Pair::new(pair).unwrap(), activate);
    }

    fn take(&mut self, pair: Box<Pair>, activate: bool) {
        let (remote, spi_in) = (pair.outer.remote.ip(), pair.spi_in);
        self.pipeline.table.install(pair).unwrap();
        if activate {
            self.pipeline.table.activate(spi_in).unwrap();
        }
        self.pipeline.table.set_path(remote, PATH).unwrap();
    }

    fn counters(&mut self, spi_in: u32) -> PairCounters {
        self.pipeline.table.inbound(spi_in).unwrap().cells.snapshot()
    }

    fn event(&self) -> Option<SaEvent> {
        self.events.try_recv().ok()
    }

    /// A plaintext packet for a port; the ESP frame.
    fn encrypt(&mut self, port: PortId, packet: &[u8]) -> Result<Vec<u8>, DropReason> {
        self.encrypt_frame(&plaintext(port, packet))
    }

    fn encrypt_frame(&mut self, frame: &[u8]) -> Result<Vec<u8>, DropReason> {
        encrypt(&mut self.pipeline, frame)
    }

    fn decrypt(&mut self, frame: &[u8]) -> Result<Vec<u8>, DropReason> {
        decrypt(&mut self.pipeline, frame)
    }
}

fn plaintext(port: PortId, packet: &[u8]) -> Vec<u8> {
    let ether_type = if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [8, 0] };
    [&engine_mac(port)[..], &PEER_MAC, &ether_type, packet].concat()
}

/// A plaintext frame; the ESP frame.
fn encrypt(pipeline: &mut Pipeline, frame: &[u8]) -> Result<Vec<u8>, DropReason> {
    let (mut buffer, place) = buffer(frame);
    let departure = pipeline.encrypt(&mut buffer, place)?;
    assert_eq!(departure.device, 0);
    Ok(buffer[departure.frame].to_vec())
}

/// An ESP frame; the plaintext frame.
fn decrypt(pipeline: &mut Pipeline, frame: &[u8]) -> Result<Vec<u8>, DropReason> {
    let (mut buffer, place) = buffer(frame);
    let place = pipeline.decrypt(&mut buffer, place)?;
    Ok(buffer[place].to_vec())
}

fn buffer(frame: &[u8]) -> (Vec<u8>, Range<usize>) {
    let mut buffer = vec![0; BUFFER];
    let place = START..START + frame.len();
    buffer[place.clone()].copy_from_slice(frame);
    (buffer, place)
}

fn keys(salt: u8) -> Keys {
    Keys { encryption: Zeroizing::new(vec![salt; 20]), integrity: Zeroizing::default() }
}

/// A's pair; B's is the mirror.
fn pair_a(outer: Outer) -> SaPair {
    SaPair {
        port: PORT_A,
        name: "a".into(),
        resource: None,
        spi_in: 0xaaaa_0001,
        spi_out: 0xbbbb_0001,
        transform: Transform::Aes128Gcm16,
        keys_in: keys(1),
        keys_out: keys(2),
        esn: false,
        replay_window: 1024,
        outer,
        local: vec![
            selector("10.1.0.0", "10.1.255.255", 0, 0..=65535),
            selector("2001:db8:0:1::", "2001:db8:0:1:ffff:ffff:ffff:ffff", 0, 0..=65535),
        ],
        remote: vec![
            selector("10.2.0.0", "10.2.255.255", 0, 0..=65535),
            selector("2001:db8:0:2::", "2001:db8:0:2:ffff:ffff:ffff:ffff", 0, 0..=65535),
        ],
        lifetimes: Lifetimes::default(),
    }
}

fn mirrored(pair: &SaPair) -> SaPair {
    SaPair {
        port: PORT_B,
        spi_in: pair.spi_out,
        spi_out: pair.spi_in,
        keys_in: pair.keys_out.clone(),
        keys_out: pair.keys_in.clone(),
        outer: Outer { local: pair.outer.remote, remote: pair.outer.local, ..pair.outer },
        local: pair.remote.clone(),
        remote: pair.local.clone(),
        ..pair.clone()
    }
}

fn outer(local: &str, remote: &str, udp_encapsulation: bool) -> Outer {
    Outer { local: local.parse().unwrap(), remote: remote.parse().unwrap(), udp_encapsulation }
}

fn plain() -> Outer {
    outer("192.0.2.1:500", "198.51.100.2:500", false)
}

fn gateways(pair: SaPair) -> (Gateway, Gateway) {
    let (mut a, mut b) = (Gateway::new(), Gateway::new());
    b.install(mirrored(&pair), true);
    a.install(pair, true);
    (a, b)
}

fn ping() -> Vec<u8> {
    ipv4([10, 1, 0, 2], [10, 2, 0, 3], 17, &udp(1000, 2000, &[0x77; 100]))
}

#[test]
fn packets_of_both_families_go_through_tunnels_of_both() {
    let v6 = |a: u16, b: u16| {
        ipv6(
            std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, a, 0, 0, 0, 1),
            std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, b, 0, 0, 0, 1),
            17,
            &udp(1, 2, &[3; 77]),
        )
    };
    let v4_back = ipv4([10, 2, 0, 3], [10, 1, 0, 2], 17, &udp(2000, 1000, &[0x55; 1300]));
    for tunnel in [
        plain(),
        outer("192.0.2.1:4500", "198.51.100.2:4501", true),
        outer("[2001:db8:ff::1]:0", "[2001:db8:ff::2]:0", false),
        outer("[2001:db8:ff::1]:4500", "[2001:db8:ff::2]:4500", true),
    ] {
        for esn in [false, true] {
            let (mut a, mut b) = gateways(SaPair { esn, ..pair_a(tunnel) });
            for (there, back) in [(ping(), v4_back.clone()), (v6(1, 2), v6(2, 1))] {
                let frame = a.encrypt(PORT_A, &there).unwrap();
                assert_eq!(frame[..6], PATH.destination_mac);
                assert_eq!(frame[6..12], PATH.source_mac);
                let received = b.decrypt(&frame).unwrap();
                assert_eq!(received[..6], PEER_MAC);
                assert_eq!(received[6..12], engine_mac(PORT_B));
                assert_eq!(received[14..], there);
                let frame = b.encrypt(PORT_B, &back).unwrap();
                assert_eq!(a.decrypt(&frame).unwrap()[14..], back);
            }
            let counters = a.counters(0xaaaa_0001);
            assert_eq!((counters.outbound.packets, counters.inbound.packets), (2, 2));
            assert_eq!(counters.outbound.bytes, (ping().len() + v6(1, 2).len()) as u64);
            assert_eq!(a.event(), None);
        }
    }
}

#[test]
fn ethernet_padding_is_not_carried() {
    let (mut a, mut b) = gateways(pair_a(plain()));
    let packet = ipv4([10, 1, 0, 2], [10, 2, 0, 3], 17, &udp(1, 2, b""));
    let frame = [&engine_mac(PORT_A)[..], &PEER_MAC, &[8, 0], &packet, &[0xee; 18]].concat();
    let mut frame = a.encrypt_frame(&frame).unwrap();
    frame.extend_from_slice(&[0xee; 7]);
    assert_eq!(b.decrypt(&frame).unwrap()[14..], packet);
}

#[test]
fn a_replay_a_forgery_and_a_stranger_are_refused_and_counted() {
    let (mut a, mut b) = gateways(pair_a(plain()));
    let frame = a.encrypt(PORT_A, &ping()).unwrap();
    b.decrypt(&frame).unwrap();
    assert_eq!(b.decrypt(&frame), Err(DropReason::Replay));

    let mut forged = a.encrypt(PORT_A, &ping()).unwrap();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(b.decrypt(&forged), Err(DropReason::Integrity));
    *forged.last_mut().unwrap() ^= 1;
    assert!(b.decrypt(&forged).is_ok(), "a forgery must not use up the number");

    let mut unknown = a.encrypt(PORT_A, &ping()).unwrap();
    unknown[14 + 20] ^= 1;
    assert_eq!(b.decrypt(&unknown), Err(DropReason::UnknownSpi));
    let mut elsewhere = a.encrypt(PORT_A, &ping()).unwrap();
    elsewhere[14 + 19] ^= 1;
    assert_eq!(b.decrypt(&elsewhere), Err(DropReason::UnknownSpi));

    let inbound = b.counters(0xbbbb_0001).inbound;
    assert_eq!((inbound.packets, inbound.replay, inbound.integrity), (2, 1, 1));
}

#[test]
fn dummies_and_padding_for_traffic_flow_confidentiality_are_understood() {
    let (mut a, mut b) = gateways(pair_a(plain()));
    let mut receive = |payload: &[u8], next_header: u8| {
        let (mut bytes, place) = buffer(payload);
        let pair = a.pipeline.table.inbound(0xaaaa_0001).unwrap();
        let outbound = pair.outbound.as_mut().unwrap();
        let sequence = outbound.sa.sequence.take().unwrap();
        let esp = outbound.sa.key.seal(&mut bytes, place, outbound.sa.spi, sequence, next_header).unwrap();
        let packet = InnerPacket::parse(&ping()).unwrap();
        let outer = outbound.header.prepend(&mut bytes, esp, &packet, 0).unwrap();
        let frame = prepend_ethernet(&mut bytes, outer, PEER_MAC, PEER_MAC, 0x0800).unwrap();
        b.decrypt(&bytes[frame])
    };
    assert_eq!(receive(&[0xaa; 33], 59), Err(DropReason::Dummy));
    assert_eq!(receive(&[], 59), Err(DropReason::Dummy));
    let padded = [&ping()[..], &[0xaa; 200]].concat();
    assert_eq!(receive(&padded, 4).unwrap()[14..], ping());
    // A header that does not say what follows, transport mode, and a packet that is cut short.
    for (payload, next_header) in [(&ping()[..], 41), (&ping()[20..], 17), (&ping()[..60], 4)] {
        assert_eq!(receive(payload, next_header), Err(DropReason::Selector));
    }
    let inbound = b.counters(0xbbbb_0001).inbound;
    assert_eq!((inbound.packets, inbound.selector, inbound.malformed), (1, 3, 0));
}

#[test]
fn the_negotiated_encapsulation_is_the_only_one() {
    let (mut a, _) = gateways(pair_a(plain()));
    let udp = outer("192.0.2.1:4500", "198.51.100.2:4500", true);
    let (mut a_udp, mut b) = gateways(pair_a(udp));
    assert_eq!(b.decrypt(&a.encrypt(PORT_A, &ping()).unwrap()), Err(DropReason::Encapsulation));
    assert!(b.decrypt(&a_udp.encrypt(PORT_A, &ping()).unwrap()).is_ok());
}

#[test]
fn selectors_hold_in_both_directions() {
    let (mut a, mut b) = gateways(pair_a(plain()));
    let foreign = ipv4([10, 9, 0, 2], [10, 2, 0, 3], 17, &udp(1, 2, b""));
    assert_eq!(a.encrypt(PORT_A, &foreign), Err(DropReason::Selector));
    assert_eq!(a.counters(0xaaaa_0001).outbound.selector, 1);

    // A sender whose selectors are wider than ours.
    let wide =
        SaPair { local: vec![selector("0.0.0.0", "255.255.255.255", 0, 0..=65535)], ..pair_a(plain()) };
    let mut liar = Gateway::new();
    liar.install(wide, true);
    let frame = liar.encrypt(PORT_A, &foreign).unwrap();
    assert_eq!(b.decrypt(&frame), Err(DropReason::Selector));
    assert_eq!(b.counters(0xbbbb_0001).inbound.selector, 1);
}

#[test]
fn a_packet_without_an_sa_asks_for_one_at_a_bounded_rate() {
    let mut a = Gateway::new();
    let acquire = SaEvent::Acquire {
        port: PORT_A,
        source: "10.1.0.2".parse().unwrap(),
        destination: "10.2.0.3".parse().unwrap(),
    };
    assert_eq!(a.encrypt(PORT_A, &ping()), Err(DropReason::NoSa));
    assert_eq!(a.event(), Some(acquire.clone()));
    assert_eq!(a.encrypt(PORT_A, &ping()), Err(DropReason::NoSa));
    assert_eq!(a.event(), None);
    a.pipeline.now += Duration::from_millis(250);
    assert_eq!(a.encrypt(PORT_A, &ping()), Err(DropReason::NoSa));
    assert_eq!(a.event(), Some(acquire));
}

#[test]
fn frames_that_are_none_of_ours_are_refused() {
    let (mut a, mut b) = gateways(pair_a(plain()));
    let arp = [&[0xff; 6][..], &PEER_MAC, &[8, 6], &[0; 28]].concat();
    assert_eq!(a.encrypt_frame(&arp), Err(DropReason::Foreign));
    let arp = [&engine_mac(PORT_A)[..], &PEER_MAC, &[8, 6], &[0; 28]].concat();
    assert_eq!(a.encrypt_frame(&arp), Err(DropReason::Foreign));
    let mismatch = [&engine_mac(PORT_A)[..], &PEER_MAC, &[0x86, 0xdd], &ping()].concat();
    assert_eq!(a.encrypt_frame(&mismatch), Err(DropReason::Malformed));
    assert_eq!(a.encrypt(60_000, &ping()), Err(DropReason::Foreign));
    let tcp = [&PEER_MAC[..], &PEER_MAC, &[8, 0], &ipv4([1, 1, 1, 1], [2, 2, 2, 2], 6, &[0; 20])].concat();
    assert_eq!(b.decrypt(&tcp), Err(DropReason::Foreign));
}

#[test]
fn without_a_path_or_with_too_large_a_packet_nothing_leaves() {
    let (mut a, _) = gateways(pair_a(plain()));
    let sized = |bytes: usize| ipv4([10, 1, 0, 2], [10, 2, 0, 3], 17, &udp(1, 2, &vec![0; bytes - 28]));
    // 1500 less outer IPv4 20, ESP and IV 16, ICV 16, trailer 2, in units of 4.
    assert_eq!(a.encrypt(PORT_A, &sized(1446)).unwrap().len(), 14 + 1500);
    assert_eq!(a.encrypt(PORT_A, &sized(1447)), Err(DropReason::TooLarge));
    a.pipeline.table.clear_path("198.51.100.2".parse().unwrap());
    assert_eq!(a.encrypt(PORT_A, &ping()), Err(DropReason::NoPath));
    assert_eq!(a.counters(0xaaaa_0001).outbound.unsent, 2);
    let wrong = L2Path { ifindex: 99, ..PATH };
    assert!(a.pipeline.table.set_path("198.51.100.2".parse().unwrap(), wrong).is_err());
}

#[test]
fn a_path_that_is_narrower_than_the_device_bounds_the_packet() {
    let (mut a, _) = gateways(pair_a(plain()));
    let remote = plain().remote.ip();
    let sized = |bytes: usize| ipv4([10, 1, 0, 7], [10, 2, 0, 9], 17, &vec![0; bytes - 20]);
    for (mtu, largest) in [(None, 1446), (Some(1400), 1346), (Some(9000), 1446)] {
        a.pipeline.table.set_path(remote, L2Path { mtu, ..PATH }).unwrap();
        assert!(a.encrypt(PORT_A, &sized(largest)).is_ok(), "{mtu:?}");
        assert_eq!(a.encrypt(PORT_A, &sized(largest + 1)), Err(DropReason::TooLarge), "{mtu:?}");
    }
}

#[test]
fn esp_without_its_headers_is_decrypted() {
    for (outside, headers) in [(plain(), 20), (outer("192.0.2.1:4500", "192.0.2.2:4500", true), 28)] {
        let (mut a, mut b) = gateways(pair_a(outside));
        let frame = a.encrypt(PORT_A, &ping()).unwrap();
        let esp = frame[ETHERNET_BYTES + headers..].to_vec();
        let known = OuterPacket {
            source: outside.local,
            destination: outside.remote,
            udp: outside.udp_encapsulation,
            ecn: 0,
            esp: 0..esp.len(),
        };
        let mut take = |outer: &OuterPacket| {
            let (mut buffer, place) = buffer(&esp);
            let place = b.pipeline.decrypt_esp(&mut buffer, place, outer)?;
            Ok(buffer[place].to_vec())
        };
        let other = OuterPacket { udp: !known.udp, ..known.clone() };
        assert_eq!(take(&other), Err(DropReason::Encapsulation));
        assert!(take(&known).unwrap().ends_with(&ping()));
        assert_eq!(take(&known), Err(DropReason::Replay));
    }
}

#[test]
fn sequence_numbers_wear_out_and_never_cycle() {
    let (mut a, mut b) = gateways(pair_a(plain()));
    let skip = |gateway: &mut Gateway, last| {
        let pair = gateway.pipeline.table.inbound(0xaaaa_0001).unwrap();
        pair.outbound.as_ref().unwrap().sa.sequence.skip_to(last);
    };
    skip(&mut a, u64::from(u32::MAX / 10 * 9));
    b.decrypt(&a.encrypt(PORT_A, &ping()).unwrap()).unwrap();
    assert_eq!(a.event(), Some(SaEvent::SoftExpired { spi_in: 0xaaaa_0001 }));
    skip(&mut a, u64::from(u32::MAX) - 1);
    b.decrypt(&a.encrypt(PORT_A, &ping()).unwrap()).unwrap();
    assert_eq!(a.event(), None, "told once");
    for _ in 0..2 {
        assert_eq!(a.encrypt(PORT_A, &ping()), Err(DropReason::Expired));
    }
    assert_eq!(a.event(), Some(SaEvent::HardExpired { spi_in: 0xaaaa_0001 }));
    assert_eq!(a.event(), None);
    assert_eq!(a.counters(0xaaaa_0001).outbound.expired, 2);
}

#[test]
fn extended_sequence_numbers_go_on_past_32_bits() {
    let (mut a, mut b) = gateways(SaPair { esn: true, ..pair_a(plain()) });
    for last in [0x7fff_ffff, 0xffff_fffe, 0xffff_ffff, 0x1_0000_0000] {
        let pair = a.pipeline.table.inbound(0xaaaa_0001).unwrap();
        pair.outbound.as_ref().unwrap().sa.sequence.skip_to(last);
        let frame = a.encrypt(PORT_A, &ping()).unwrap();
        assert_eq!(b.decrypt(&frame).unwrap()[14..], ping());
    }
    assert_eq!(b.pipeline.table.inbound(0xbbbb_0001).unwrap().inbound.window.top(), 0x1_0000_0001);
    assert_eq!(a.event(), None);
}

#[test]
fn lifetimes_are_told_once_and_stop_both_directions() {
    let lifetimes = Lifetimes { soft_packets: Some(1), hard_packets: Some(2), ..Lifetimes::default() };
    let (mut a, mut b) = gateways(SaPair { lifetimes, ..pair_a(plain()) });
    let mut other = Gateway::new();
    other.install(pair_a(plain()), true);
    let frames: Vec<_> = (0..3).map(|_| other.encrypt(PORT_A, &ping()).unwrap()).collect();
    assert!(a.encrypt(PORT_A, &ping()).is_ok() && a.event().is_none());
    assert!(a.encrypt(PORT_A, &ping()).is_ok());
    assert_eq!(a.event(), Some(SaEvent::SoftExpired { spi_in: 0xaaaa_0001 }));
    assert_eq!(a.encrypt(PORT_A, &ping()), Err(DropReason::Expired));
    assert_eq!(a.event(), Some(SaEvent::HardExpired { spi_in: 0xaaaa_0001 }));
    let results: Vec<_> = frames.iter().map(|frame| b.decrypt(frame).is_ok()).collect();
    assert_eq!(results, [true, true, false]);
    assert_eq!(b.counters(0xbbbb_0001).inbound.expired, 1);
}

#[test]
fn a_rekey_loses_no_packet() {
    let (mut a, mut b) = gateways(pair_a(plain()));
    let under_way = a.encrypt(PORT_A, &ping()).unwrap();
    let next = SaPair {
        spi_in: 0xaaaa_0002,
        spi_out: 0xbbbb_0002,
        keys_in: keys(3),
        keys_out: keys(4),
        ..pair_a(plain())
    };
    // The responder receives with both, and sends with the old one until the initiator has shown the new one.
    b.install(mirrored(&next), false);
    a.install(next, true);
    let old = b.encrypt(PORT_B, &ipv4([10, 2, 0, 3], [10, 1, 0, 2], 17, &udp(1, 2, b""))).unwrap();
    assert_eq!(old[34..38], 0xaaaa_0001u32.to_be_bytes());
    assert!(a.decrypt(&old).is_ok());

    let new = a.encrypt(PORT_A, &ping()).unwrap();
    assert_eq!(new[34..38], 0xbbbb_0002u32.to_be_bytes());
    assert!(b.decrypt(&new).is_ok());
    assert_eq!(b.event(), Some(SaEvent::FirstInbound { spi_in: 0xbbbb_0002 }));
    assert!(b.decrypt(&a.encrypt(PORT_A, &ping()).unwrap()).is_ok());
    assert_eq!(b.event(), None);
    b.pipeline.table.activate(0xbbbb_0002).unwrap();

    let now = b.pipeline.now;
    b.pipeline.table.remove(0xbbbb_0001, Duration::from_secs(5), now).unwrap();
    assert!(b.decrypt(&under_way).is_ok(), "the old inbound SA lingers");
    assert_eq!(b.pipeline.table.next_expiry(), Some(now + Duration::from_secs(5)));
    b.pipeline.table.expire(now + Duration::from_secs(5));
    assert!(b.pipeline.table.inbound(0xbbbb_0001).is_none());
    let frame = b.encrypt(PORT_B, &ipv4([10, 2, 0, 3], [10, 1, 0, 2], 17, &udp(1, 2, b""))).unwrap();
    assert_eq!(frame[34..38], 0xaaaa_0002u32.to_be_bytes());
}

#[test]
fn an_spi_used_again_does_not_inherit_the_end_of_the_one_before() {
    let (mut a, mut b) = gateways(pair_a(plain()));
    let now = b.pipeline.now;
    b.pipeline.table.remove(0xbbbb_0001, Duration::from_secs(5), now).unwrap();
    b.pipeline.table.remove(0xbbbb_0001, Duration::ZERO, now).unwrap();
    assert!(b.pipeline.table.remove(0xbbbb_0001, Duration::ZERO, now).is_err());
    assert_eq!(b.pipeline.table.next_expiry(), None);
    b.install(mirrored(&pair_a(plain())), true);
    b.pipeline.table.expire(now + Duration::from_secs(9));
    assert!(b.decrypt(&a.encrypt(PORT_A, &ping()).unwrap()).is_ok());
}

#[test]
fn two_connections_on_one_port_are_told_apart_by_selectors() {
    let (mut a, _) = gateways(pair_a(plain()));
    let other = SaPair {
        name: "other".into(),
        spi_in: 0xaaaa_0009,
        spi_out: 0xcccc_0009,
        outer: outer("192.0.2.1:0", "203.0.113.9:0", false),
        remote: vec![selector("10.3.0.0", "10.3.255.255", 0, 0..=65535)],
        ..pair_a(plain())
    };
    a.install(other, true);
    let spi = |gateway: &mut Gateway, destination| {
        let packet = ipv4([10, 1, 0, 2], destination, 17, &udp(1, 2, b""));
        gateway.encrypt(PORT_A, &packet).map(|frame| frame[34..38].to_vec())
    };
    assert_eq!(spi(&mut a, [10, 2, 0, 1]), Ok(0xbbbb_0001u32.to_be_bytes().to_vec()));
    assert_eq!(spi(&mut a, [10, 3, 0, 1]), Ok(0xcccc_0009u32.to_be_bytes().to_vec()));
    assert_eq!(spi(&mut a, [10, 4, 0, 1]), Err(DropReason::Selector));
    let now = a.pipeline.now;
    a.pipeline.table.remove(0xaaaa_0009, Duration::ZERO, now).unwrap();
    assert_eq!(spi(&mut a, [10, 3, 0, 1]), Err(DropReason::Selector));
}

/// What is remembered of flows says the same as the selectors would, through rekeys, removals and pairs that come.
#[test]
fn many_connections_on_one_port_are_told_apart_while_they_come_and_go() {
    const PEERS: u8 = 200;
    let mut gateway = Gateway::new();
    let network = |peer: u8| [0, 255].map(|host| format!("10.{}.{peer}.{host}", 100 + peer % 2));
    let pair = |peer: u8, round: u32| {
        let spi = 0x1000_0000 + (round << 16) + u32::from(peer);
        let [first, last] = network(peer);
        let pair = pair_a(plain());
        SaPair {
            name: format!("peer-{peer}").into(),
            spi_in: spi,
            spi_out: spi,
            remote: vec![selector(&first, &last, 0, 0..=65535)],
            ..pair
        }
    };
    let to =
        |peer: u8, host: u8| ipv4([10, 1, 0, 2], [10, 100 + peer % 2, peer, host], 17, &udp(1, 2, &[0; 8]));
    let spi_of = |frame: &[u8]| u32::from_be_bytes(frame[34..38].try_into().unwrap());
    for round in 0..3 {
        for peer in 0..PEERS {
            gateway.install(pair(peer, round), true);
            if round > 0 {
                let former = pair(peer, round - 1).spi_in;
                let now = gateway.pipeline.now;
                gateway.pipeline.table.remove(former, Duration::ZERO, now).unwrap();
            }
            // The flow's second packet is the remembered one.
            for _ in 0..2 {
                let frame = gateway.encrypt(PORT_A, &to(peer, 7)).unwrap();
                assert_eq!(spi_of(&frame), pair(peer, round).spi_out);
            }
        }
        for host in [7, 8] {
            for peer in 0..PEERS {
                let frame = gateway.encrypt(PORT_A, &to(peer, host)).unwrap();
                assert_eq!(spi_of(&frame), pair(peer, round).spi_out, "peer {peer}");
            }
        }
    }
    let now = gateway.pipeline.now;
    gateway.pipeline.table.remove(pair(9, 2).spi_in, Duration::ZERO, now).unwrap();
    assert_eq!(gateway.encrypt(PORT_A, &to(9, 7)), Err(DropReason::Selector));
    assert!(gateway.encrypt(PORT_A, &to(10, 7)).is_ok());
}

/// Printed and not held against a figure: `cargo test -p sekisho-esp cost -- --nocapture`.
#[test]
fn cost_of_a_packet_among_many_peers() {
    const CALLS: u32 = 2000;
    for peers in [1_u16, 10, 100, 1000] {
        let mut gateway = Gateway::new();
        for peer in 0..peers {
            let [high, low] = peer.to_be_bytes();
            let of = |host: u8| format!("10.{}.{low}.{host}", 100 + high);
            let (spi, name) = (0x1000_0000 + u32::from(peer), format!("peer-{peer}").into());
            let remote = vec![selector(&of(0), &of(255), 0, 0..=65535)];
            gateway.install(SaPair { name, spi_in: spi, spi_out: spi, remote, ..pair_a(plain()) }, true);
        }
        let [high, low] = (peers - 1).to_be_bytes();
        let packet = ipv4([10, 1, 0, 2], [10, 100 + high, low, 7], 17, &udp(1, 2, &[0; 64]));
        let began = Instant::now();
        for _ in 0..CALLS {
            gateway.encrypt(PORT_A, &packet).unwrap();
        }
        println!("{peers} peers: {:?} a packet of the last one", began.elapsed() / CALLS);
    }
}

#[test]
fn a_moved_peer_is_told_once_and_only_by_the_newest_packet() {
    let here = outer("192.0.2.1:4500", "198.51.100.2:4500", true);
    let (mut a, mut b) = gateways(pair_a(here));
    let late = a.encrypt(PORT_A, &ping()).unwrap();
    let moved = |mut frame: Vec<u8>| {
        frame[14 + 21] = 0x99;
        frame
    };
    let frame = moved(a.encrypt(PORT_A, &ping()).unwrap());
    b.decrypt(&frame).unwrap();
    let remote = SocketAddr::new("192.0.2.1".parse().unwrap(), 0x1199);
    assert_eq!(b.event(), Some(SaEvent::Remapped { spi_in: 0xbbbb_0001, remote }));
    b.decrypt(&moved(a.encrypt(PORT_A, &ping()).unwrap())).unwrap();
    assert_eq!(b.event(), None);
    let mut other = late;
    other[14 + 20] = 0x77;
    b.decrypt(&other).unwrap();
    assert_eq!(b.event(), None, "a late packet moves nothing");

    let there = Outer { remote, ..mirrored(&pair_a(here)).outer };
    b.pipeline.table.repath(0xbbbb_0001, there, OuterHeader::new(&there).unwrap()).unwrap();
    b.decrypt(&moved(a.encrypt(PORT_A, &ping()).unwrap())).unwrap();
    assert_eq!(b.event(), None);
    b.pipeline.table.set_path(remote.ip(), PATH).unwrap();
    let back = ipv4([10, 2, 0, 3], [10, 1, 0, 2], 17, &udp(1, 2, b""));
    assert_eq!(b.encrypt(PORT_B, &back).unwrap()[14 + 22..14 + 24], [0x11, 0x99]);
}

#[test]
fn after_a_move_both_addresses_of_ours_receive() {
    let (mut a, mut b) = gateways(pair_a(plain()));
    let under_way = a.encrypt(PORT_A, &ping()).unwrap();
    let here = mirrored(&pair_a(plain())).outer;
    let there = Outer { local: "192.0.2.99:500".parse().unwrap(), ..here };
    b.pipeline.table.repath(0xbbbb_0001, there, OuterHeader::new(&there).unwrap()).unwrap();
    b.decrypt(&under_way).unwrap();
    let mut to_new = a.encrypt(PORT_A, &ping()).unwrap();
    to_new[14 + 16..14 + 20].copy_from_slice(&[192, 0, 2, 99]);
    b.decrypt(&to_new).unwrap();
    let mut elsewhere = a.encrypt(PORT_A, &ping()).unwrap();
    elsewhere[14 + 19] ^= 1;
    assert_eq!(b.decrypt(&elsewhere), Err(DropReason::UnknownSpi));
}

#[test]
fn congestion_marks_pass_through_the_tunnel() {
    let (mut a, mut b) = gateways(pair_a(plain()));
    let mut capable = ping();
    capable[1] = 2;
    let mut frame = a.encrypt(PORT_A, &capable).unwrap();
    assert_eq!(frame[15] & 3, 2);
    frame[15] |= 3;
    assert_eq!(b.decrypt(&frame).unwrap()[15] & 3, 3);
    let mut frame = a.encrypt(PORT_A, &ping()).unwrap();
    frame[15] |= 3;
    assert_eq!(b.decrypt(&frame), Err(DropReason::Congestion));
}

#[test]
fn pairs_that_cannot_be_are_refused() {
    for bad in [
        SaPair { spi_in: 255, ..pair_a(plain()) },
        SaPair { spi_out: 0, ..pair_a(plain()) },
        SaPair { port: 256, ..pair_a(plain()) },
        SaPair { keys_in: Keys { encryption: Zeroizing::new(vec![0; 16]), ..keys(1) }, ..pair_a(plain()) },
        pair_a(outer("192.0.2.1:0", "[2001:db8::1]:0", false)),
    ] {
        assert!(Pair::new(bad).is_err());
    }
    let (mut a, _) = gateways(pair_a(plain()));
    let again = Pair::new(pair_a(plain())).unwrap();
    assert!(a.pipeline.table.install(again).is_err());
}

proptest! {
    #[test]
    fn no_bytes_make_the_pipeline_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..160),
        valid: bool,
    ) {
        let (mut a, mut b) = gateways(pair_a(plain()));
        if valid {
            let header = [&engine_mac(PORT_A)[..], &PEER_MAC, &[8, 0]].concat();
            bytes.splice(..bytes.len().min(14), header);
        }
        let _ = a.encrypt_frame(&bytes);
        prop_assert!(b.decrypt(&bytes).is_err());
        let mut frame = a.encrypt(PORT_A, &ping()).unwrap();
        let at = usize::from(bytes.first().copied().unwrap_or(0)) % frame.len();
        frame.truncate(at);
        prop_assert!(b.decrypt(&frame).is_err());
    }
}
