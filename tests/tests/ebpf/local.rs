//! To the gateway itself: services, IKE, ESP, DHCP.

use sekisho_abi::verdict::Verdict;

use crate::forward::{from_engine, to};
use crate::lab::{Device, ENGINE_END, LAN1, Lab, NEIGHBOUR_MAC, Service, VPN, WAN, mac};
use crate::packet::{ACK, ICMP, RST, SYN, TCP, UDP, ip};

const PEER: &str = "198.51.100.9";
const GATEWAY: &str = "203.0.113.1";
/// An IKE header whose responder's SPI is set: no longer initial.
const IKE: [u8; 28] = [7; 28];

/// IKE_SA_INIT: the responder's SPI is zero.
fn initial(marker: bool) -> Vec<u8> {
    let mut message = vec![0; if marker { 4 } else { 0 }];
    message.extend([7; 8]);
    message.extend([0; 8]);
    message.extend([33, 0x20, 34, 0x08, 0, 0, 0, 0, 0, 0, 0, 28]);
    message
}

#[test]
fn services_need_a_rule() {
    let mut lab = Lab::new();
    let ssh = to(Device::Lan1, ip("10.1.0.2", "10.1.0.1").tcp(5000, 22, SYN));
    let ping = to(Device::Lan1, ip("10.1.0.2", "10.1.0.1").echo(true, 1));
    assert_eq!(lab.receive(Device::Lan1, &ssh).verdict, Verdict::DropPolicy);
    lab.allow(LAN1, 0, Service::Port(TCP, 22));
    assert_eq!(lab.receive(Device::Lan1, &ssh).verdict, Verdict::Pass);
    assert_eq!(lab.receive(Device::Lan1, &ping).verdict, Verdict::DropPolicy);
    // Type 8, code 0, as a rule names it.
    lab.allow(LAN1, 0, Service::Port(ICMP, 0x0800));
    let run = lab.receive(Device::Lan1, &ping);
    assert_eq!((run.verdict, &run.frame), (Verdict::Pass, &ping));
    // The gateway's answers belong to the flows.
    for answer in
        [ip("10.1.0.1", "10.1.0.2").tcp(22, 5000, SYN | ACK), ip("10.1.0.1", "10.1.0.2").echo(false, 1)]
    {
        let frame = answer.frame(NEIGHBOUR_MAC, mac(Device::Lan1));
        assert_eq!(lab.send(Device::Wan, &frame).verdict, Verdict::DropPolicy, "not by another port");
        assert_eq!(lab.send(Device::Lan1, &frame).verdict, Verdict::Pass);
    }
    let ack = to(Device::Lan1, ip("10.1.0.2", "10.1.0.1").tcp(5000, 22, ACK));
    assert_eq!(lab.receive(Device::Lan1, &ack).verdict, Verdict::Pass);
    let outside = to(Device::Wan, ip(PEER, GATEWAY).tcp(5000, 22, SYN));
    assert_eq!(lab.receive(Device::Wan, &outside).verdict, Verdict::DropPolicy);
}

#[test]
fn a_refused_connection_gets_its_reset() {
    let mut lab = Lab::new();
    lab.allow(LAN1, 0, Service::Port(TCP, 22));
    let ssh = to(Device::Lan1, ip("10.1.0.2", "10.1.0.1").tcp(5000, 22, SYN));
    assert_eq!(lab.receive(Device::Lan1, &ssh).verdict, Verdict::Pass);
    let reset = ip("10.1.0.1", "10.1.0.2").tcp(22, 5000, RST | ACK).frame(NEIGHBOUR_MAC, mac(Device::Lan1));
    assert_eq!(lab.send(Device::Lan1, &reset).verdict, Verdict::Pass);
}

#[test]
fn through_a_vpn_to_the_gateway() {
    let mut lab = Lab::new();
    lab.allow(VPN, 0, Service::Any);
    let ping = from_engine(VPN, ip("10.9.0.5", "10.1.0.1").echo(true, 1));
    for _ in 0..2 {
        assert_eq!(lab.receive(Device::Engine, &ping).verdict, Verdict::Pass);
    }
    let ssh = from_engine(VPN, ip("10.9.0.5", "10.1.0.1").tcp_with(1, 22, SYN, &[2, 4, 0x05, 0xb4]));
    let run = lab.receive(Device::Engine, &ssh);
    assert_eq!((run.verdict, &run.frame[54..58]), (Verdict::Pass, &[2, 4, 0x05, 0x50][..]));
}

#[test]
fn ike_comes_by_its_ports_only() {
    let lab = Lab::new();
    let marked = [&[0; 4][..], &IKE].concat();
    for datagram in [
        ip(PEER, GATEWAY).udp(500, 500, &IKE),
        ip(PEER, GATEWAY).udp(1025, 500, &initial(false)),
        ip(PEER, GATEWAY).udp(4500, 4500, &marked),
        ip(PEER, GATEWAY).udp(1025, 4500, &initial(true)),
        ip(PEER, GATEWAY).udp(4500, 4500, &[0xff]),
        ip("2001:db8:77::9", "2001:db8:ff::1").udp(500, 500, &initial(false)),
    ] {
        let run = lab.receive(Device::Wan, &to(Device::Wan, datagram));
        assert_eq!((run.verdict, run.port), (Verdict::Pass, WAN));
    }
    assert!(lab.flows().is_empty());
    let inside = to(Device::Lan1, ip("10.1.0.2", "10.1.0.1").udp(500, 500, &IKE));
    assert_eq!(lab.receive(Device::Lan1, &inside).verdict, Verdict::DropPolicy);
    let spoofed = to(Device::Wan, ip("10.1.0.2", GATEWAY).udp(500, 500, &IKE));
    assert_eq!(lab.receive(Device::Wan, &spoofed).verdict, Verdict::DropSpoof);
}

#[test]
fn strangers_who_begin_ike_are_held_down() {
    let lab = Lab::new();
    let begin = to(Device::Wan, ip(PEER, GATEWAY).udp(500, 500, &initial(false)));
    let drops = (0..400).filter(|_| lab.action("port", Device::Wan, &begin) == 1).count();
    // 100 at once and 200 a second; the loop takes well under a second.
    assert!((50..=299).contains(&drops), "{drops}");
    let run = lab.receive(Device::Wan, &begin);
    assert!(matches!(run.verdict, Verdict::DropRate | Verdict::Pass));
    // Neither another source nor an IKE SA at work suffers.
    let other = to(Device::Wan, ip("198.51.100.10", GATEWAY).udp(500, 500, &initial(false)));
    assert_eq!(lab.receive(Device::Wan, &other).verdict, Verdict::Pass);
    let known = to(Device::Wan, ip(PEER, GATEWAY).udp(500, 500, &IKE));
    assert_eq!(lab.receive(Device::Wan, &known).verdict, Verdict::Pass);
}

/// A flood of messages under SPIs that name nothing ends in the program; peers that are known go on, whatever address the
/// flood bears.
#[test]
fn messages_of_unknown_ike_sas_are_held_down() {
    let mut lab = Lab::new();
    lab.add_ike_spi(0x0102_0304_0506_0708);
    let message = |spi_i: u64, spi_r: u64, flags: u8| {
        let mut message = [spi_i.to_be_bytes(), spi_r.to_be_bytes()].concat();
        message.extend([46, 0x20, 37, flags, 0, 0, 0, 1, 0, 0, 0, 28]);
        message
    };
    let from = |source: &str, message: &[u8]| to(Device::Wan, ip(source, GATEWAY).udp(500, 500, message));
    let own = 0x0102_0304_0506_0708;
    let flood = |source: &str, count: u64| {
        let frames = (1..=count).map(|spi| from(source, &message(spi, 0x99, 0x08)));
        frames.filter(|frame| lab.action("port", Device::Wan, frame) == 2).count()
    };
    // Some come after a restart: they are answered that they name nothing.
    let passed = flood(PEER, 400);
    assert!((40..=200).contains(&passed), "{passed}");
    // Whose share is used up: one more every 50 ms may pass.
    let mostly_refused = |frame: &[u8]| {
        let passed = (0..100).filter(|_| lab.action("port", Device::Wan, frame) == 2).count();
        assert!(passed < 50, "{passed} passed");
    };
    // Our SPI, but in the place of the responder's where the responder sends.
    mostly_refused(&from(PEER, &message(7, own, 0)));
    for _ in 0..300 {
        // Ours is the responder's where the initiator sends, and the initiator's where the responder does.
        for known in [message(7, own, 0x08), message(own, 7, 0x20), message(own, 0, 0x20)] {
            assert_eq!(lab.receive(Device::Wan, &from(PEER, &known)).verdict, Verdict::Pass);
        }
    }
    // From many addresses.
    let passed: usize = (0..200).map(|host| flood(&format!("198.51.{host}.7"), 10)).sum();
    assert!((400..=1500).contains(&passed), "{passed}");
    assert_eq!(lab.receive(Device::Wan, &from(PEER, &message(7, own, 0x08))).verdict, Verdict::Pass);
    // Behind the marker, too, and what is no message at all.
    let marked = [&[0; 4][..], &message(7, own, 0x08)].concat();
    let frame = to(Device::Wan, ip(PEER, GATEWAY).udp(4500, 4500, &marked));
    assert_eq!(lab.receive(Device::Wan, &frame).verdict, Verdict::Pass);
    flood(PEER, 400);
    mostly_refused(&from(PEER, &[1, 2, 3]));
    assert_eq!(lab.receive(Device::Wan, &frame).verdict, Verdict::Pass);
}

#[test]
fn esp_goes_to_the_engine() {
    let mut lab = Lab::new();
    lab.add_spi(GATEWAY, 0x1122_3344, false);
    lab.add_spi(GATEWAY, 0x5566_7788, true);
    lab.add_spi("2001:db8:ff::1", 0x1122_3344, false);
    let esp = |spi| ip(PEER, GATEWAY).esp(spi);
    let in_udp = |spi: u32| {
        let payload = [&spi.to_be_bytes()[..], &[0, 0, 0, 1], &[0xa5; 40]].concat();
        ip(PEER, GATEWAY).udp(4500, 4500, &payload)
    };
    for (packet, expected) in [
        (esp(0x1122_3344), Verdict::Decrypt),
        (in_udp(0x5566_7788), Verdict::Decrypt),
        (ip("2001:db8:77::9", "2001:db8:ff::1").esp(0x1122_3344), Verdict::Decrypt),
        (in_udp(0x1122_3344), Verdict::DropEspEncapsulation),
        (esp(0x5566_7788), Verdict::DropEspEncapsulation),
        (esp(0x1122_3345), Verdict::DropUnknownSpi),
        (in_udp(0x1122_3345), Verdict::DropUnknownSpi),
        (ip(PEER, "10.1.0.1").esp(0x1122_3344), Verdict::DropUnknownSpi),
    ] {
        let frame = to(Device::Wan, packet);
        let run = lab.receive(Device::Wan, &frame);
        assert_eq!(run.verdict, expected);
        assert_eq!(run.frame, frame, "the engine gets it as it came");
    }
    let events = lab.events();
    let unknown =
        events.iter().find(|event| event.verdict == Verdict::DropUnknownSpi as u8).expect("an event");
    assert_eq!(u32::from_be(unknown.spi_be), 0x1122_3345);
    // Not on a port without IKE.
    let inside = to(Device::Lan1, ip("10.1.0.2", GATEWAY).esp(0x1122_3344));
    assert_eq!(lab.receive(Device::Lan1, &inside).verdict, Verdict::DropPolicy);
    assert!(lab.flows().is_empty());
}

#[test]
fn a_queue_without_a_socket_is_refused() {
    let mut lab = Lab::new();
    lab.add_spi(GATEWAY, 1, false);
    let frame = to(Device::Wan, ip(PEER, GATEWAY).esp(1));
    assert_eq!(lab.receive_on_queue(Device::Wan, 0, &frame).verdict, Verdict::Decrypt);
    assert_eq!(lab.receive_on_queue(Device::Wan, 1, &frame).verdict, Verdict::DropInternal);
    // The engine's socket is gone.
    lab.remove_socket(WAN);
    assert_eq!(lab.receive(Device::Wan, &frame).verdict, Verdict::DropInternal);
}

#[test]
fn the_engine_s_end_redirects_everything() {
    let mut lab = Lab::new();
    for frame in
        [to(Device::EngineEnd, ip("10.1.0.2", "10.9.0.5").udp(1, 2, b"")), vec![0; 14], vec![0xff; 60]]
    {
        let run = lab.receive_engine(&frame);
        assert_eq!((run.verdict, run.port), (Verdict::Encrypt, ENGINE_END));
        assert_eq!(run.frame, frame);
    }
    lab.remove_socket(ENGINE_END);
    assert_eq!(lab.receive_engine(&[0; 60]).verdict, Verdict::DropInternal);
    lab.remove_port(Device::EngineEnd);
    assert_eq!(lab.receive_engine(&[0; 60]).verdict, Verdict::DropNoPort);
}

#[test]
fn dhcp_where_a_rule_lets_it_in() {
    let mut lab = Lab::new();
    let discover = ip("0.0.0.0", "255.255.255.255").udp(68, 67, &[1; 240]).frame([0xff; 6], NEIGHBOUR_MAC);
    let solicit =
        ip("fe80::2", "ff02::1:2").udp(546, 547, &[1; 60]).frame([0x33, 0x33, 0, 1, 0, 2], NEIGHBOUR_MAC);
    let offer = ip("203.0.113.254", "255.255.255.255").udp(67, 68, &[2; 240]).frame([0xff; 6], NEIGHBOUR_MAC);
    assert_eq!(lab.receive(Device::Lan1, &discover).verdict, Verdict::DropMulticast);
    assert_eq!(lab.receive(Device::Lan1, &solicit).verdict, Verdict::DropMulticast);
    assert_eq!(lab.receive(Device::Wan, &offer).verdict, Verdict::DropMulticast);
    lab.allow(LAN1, 0, Service::Port(UDP, 67));
    lab.allow(LAN1, 0, Service::Port(UDP, 547));
    lab.allow(WAN, 0, Service::Port(UDP, 68));
    assert_eq!(lab.receive(Device::Lan1, &discover).verdict, Verdict::Pass);
    assert_eq!(lab.receive(Device::Lan1, &solicit).verdict, Verdict::Pass);
    assert_eq!(lab.receive(Device::Wan, &offer).verdict, Verdict::Pass);
    assert!(lab.flows().is_empty());
    // 0.0.0.0 is good for nothing else.
    for other in [
        ip("0.0.0.0", "255.255.255.255").udp(68, 69, b""),
        ip("0.0.0.0", "10.1.0.1").udp(68, 67, b""),
        ip("0.0.0.0", "10.9.0.5").tcp(1, 2, SYN),
    ] {
        assert_eq!(lab.receive(Device::Lan1, &to(Device::Lan1, other)).verdict, Verdict::DropMartian);
    }
}

/// All keys of ten thousand peers are renewed while the former SAs linger: for each two SPIs of ours, and two of the peer's.
#[test]
fn ten_thousand_peers_have_room_to_renew_their_keys_at_once() {
    let mut lab = Lab::new();
    for spi in 1..=40_000 {
        lab.add_spi(GATEWAY, spi, false);
    }
    let esp = |spi: u32| to(Device::Wan, ip(PEER, GATEWAY).esp(spi));
    assert_ne!(lab.receive(Device::Wan, &esp(40_000)).verdict, Verdict::DropUnknownSpi);
    assert_eq!(lab.receive(Device::Wan, &esp(40_001)).verdict, Verdict::DropUnknownSpi);
}
