//! Classic attacks that need no more than one packet, and helpers that there are none of.

use sekisho_abi::nat::{SourceNat, source_nat_kind};
use sekisho_abi::port::network_kind;
use sekisho_abi::verdict::Verdict;

use crate::forward::to;
use crate::lab::{Device, LAN1, LAN2, Lab, NEIGHBOUR_MAC, Service, WAN, mac};
use crate::packet::{ACK, Ip, SYN, ip};

/// A gateway where rules alone would allow everything.
fn open() -> Lab {
    let mut lab = Lab::new();
    let ports = [0, LAN1, LAN2, WAN];
    for from in ports {
        for to in ports {
            lab.allow(from, to, Service::Any);
        }
    }
    lab
}

#[test]
fn land() {
    let lab = open();
    for (device, address, expected) in [
        (Device::Lan1, "10.1.0.2", Verdict::DropMartian),
        (Device::Lan1, "10.1.0.1", Verdict::DropMartian),
        (Device::Wan, "203.0.113.1", Verdict::DropMartian),
        (Device::Lan1, "2001:db8:1::2", Verdict::DropMartian),
        (Device::Lan1, "2001:db8:1::1", Verdict::DropMartian),
    ] {
        let frame = to(device, ip(address, address).tcp(139, 139, SYN));
        assert_eq!(lab.receive(device, &frame).verdict, expected, "{address}");
    }
    assert!(lab.flows().is_empty());
}

/// An echo request to everybody, with the victim's address: from outside it reaches nobody, and a broadcast on the link
/// is not carried on.
#[test]
fn smurf() {
    let mut lab = Lab::new();
    lab.allow(WAN, LAN1, Service::Any);
    lab.allow(LAN1, LAN2, Service::Any);
    let directed = ip("198.51.100.7", "10.1.0.255").echo(true, 1);
    assert_eq!(lab.receive(Device::Wan, &to(Device::Wan, directed)).verdict, Verdict::DropPolicy);
    for destination in ["255.255.255.255", "224.0.0.1"] {
        let frame = ip("10.1.0.2", destination).echo(true, 1).frame([0xff; 6], NEIGHBOUR_MAC);
        assert_eq!(lab.receive(Device::Lan1, &frame).verdict, Verdict::DropMulticast, "{destination}");
    }
    let all_nodes =
        ip("2001:db8:1::2", "ff02::1").echo(true, 1).frame([0x33, 0x33, 0, 0, 0, 1], NEIGHBOUR_MAC);
    assert_eq!(lab.receive(Device::Lan1, &all_nodes).verdict, Verdict::DropMulticast);
    // A frame to everybody around a packet to one.
    let wrapped = ip("10.1.0.2", "10.2.0.2").echo(true, 1).frame([0xff; 6], NEIGHBOUR_MAC);
    assert_eq!(lab.receive(Device::Lan1, &wrapped).verdict, Verdict::DropMulticast);
    let one = to(Device::Lan1, ip("10.1.0.2", "10.2.0.2").echo(true, 1));
    assert_eq!(lab.receive(Device::Lan1, &one).verdict, Verdict::Forward, "one host");
}

/// The frame of an IPv4 packet with options in its header.
fn with_options(packet: Ip, options: &[u8]) -> Vec<u8> {
    let mut frame = to(Device::Lan1, packet);
    frame.splice(34..34, options.iter().copied());
    frame[14] = 0x45 + u8::try_from(options.len() / 4).expect("few");
    let length = u16::try_from(frame.len() - 14).expect("short").to_be_bytes();
    frame[16..18].copy_from_slice(&length);
    let header = 14..34 + options.len();
    frame[24..26].fill(0);
    let sum: u32 = frame[header].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).expect("folded");
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn source_routes_and_router_alerts() {
    let lab = open();
    let packet = || ip("10.1.0.2", "10.2.0.2").udp(1, 2, b"12345678");
    for (name, options) in [
        ("loose source route", &[131, 7, 4, 10, 2, 0, 9, 0][..]),
        ("strict source route", &[137, 7, 4, 10, 2, 0, 9, 0]),
        ("record route", &[7, 7, 4, 0, 0, 0, 0, 0]),
        ("time stamps", &[68, 8, 5, 0, 0, 0, 0, 0]),
        ("router alert", &[148, 4, 0, 0]),
        ("nothing at all", &[1, 1, 1, 0]),
    ] {
        let run = lab.receive(Device::Lan1, &with_options(packet(), options));
        assert_eq!(run.verdict, Verdict::DropOptions, "{name}");
    }
    assert_eq!(lab.receive(Device::Lan1, &to(Device::Lan1, packet())).verdict, Verdict::Forward);
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    let six = || ip("2001:db8:1::2", "2001:db8:2::2").udp(1, 2, b"12345678");
    for (name, header, options) in [
        ("routing header 0", ROUTING, [0, 0, 0, 0, 0, 0]),
        ("segment routing", ROUTING, [4, 1, 0, 0, 0, 0]),
        ("router alert", HOP_BY_HOP, [5, 2, 0, 0, 1, 0]),
    ] {
        let run = lab.receive(Device::Lan1, &to(Device::Lan1, six().extended(header, options)));
        assert_eq!(run.verdict, Verdict::DropOptions, "{name}");
    }
    let padded = six().extended(HOP_BY_HOP, [1, 4, 0, 0, 0, 0]);
    assert_eq!(lab.receive(Device::Lan1, &to(Device::Lan1, padded)).verdict, Verdict::Forward);
}

/// NAT slipstreaming: a web page makes its visitor send words that helpers of other gateways take for an invitation (SIP,
/// FTP, H.323, IRC). There are no helpers: whatever a flow carries, nothing else is opened by it.
#[test]
fn what_a_flow_says_opens_no_door() {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Any);
    lab.add_network("203.0.113.50", 32, WAN, network_kind::LOCAL);
    lab.set_pool(&["203.0.113.50"]);
    let to_pool = SourceNat {
        rule: 1,
        kind: source_nat_kind::POOL,
        count: 1,
        port_first: 1024,
        port_last: 65_535,
        ..SourceNat::default()
    };
    lab.add_source_nat(LAN1, WAN, "0.0.0.0", 0, to_pool);
    let (client, attacker, outside) = ("10.1.0.2", "198.51.100.66", "203.0.113.50");
    for (service, words) in [
        (5060, "REGISTER sip:a;transport=tcp SIP/2.0\r\nContact: <sip:a@10.1.0.2:3306>\r\n\r\n"),
        (21, "PORT 10,1,0,2,12,234\r\n"),
        (21, "EPRT |1|10.1.0.2|3306|\r\n"),
        (1720, "\x03\0\0\x20\x08\x02\0\x01\x05\x0a\x01\0\x02\x0c\x6a"),
        (6667, "PRIVMSG a :\x01DCC SEND a 167837698 3306\x01\r\n"),
    ] {
        let (flows, translations) = (lab.flows().len(), lab.translations());
        let port = 40_000 + u16::try_from(flows).expect("few");
        let there = |flags, sequence, ack, words: &str| {
            let mut packet = ip(client, attacker).tcp(port, service, flags).numbers(sequence, ack);
            packet.payload.truncate(20);
            packet.payload.extend(words.as_bytes());
            to(Device::Lan1, packet)
        };
        let back = to(Device::Wan, ip(attacker, outside).tcp(service, port, SYN | ACK).numbers(900, 101));
        assert_eq!(lab.receive(Device::Lan1, &there(SYN, 100, 0, "")).verdict, Verdict::Forward);
        assert_eq!(lab.receive(Device::Wan, &back).verdict, Verdict::Forward);
        assert_eq!(lab.receive(Device::Lan1, &there(ACK, 101, 901, "")).verdict, Verdict::Forward);
        let said = lab.receive(Device::Lan1, &there(ACK, 101, 901, words));
        assert_eq!(said.verdict, Verdict::Forward);
        assert_eq!(said.frame[54..], *words.as_bytes(), "not a word is changed");
        // The door that a helper would have opened.
        for (destination, expected) in [(outside, Verdict::DropPolicy), (client, Verdict::DropPolicy)] {
            for packet in [
                ip(attacker, destination).tcp(service, 3306, SYN),
                ip(attacker, destination).udp(service, 3306, b""),
            ] {
                let verdict = lab.receive(Device::Wan, &to(Device::Wan, packet)).verdict;
                assert_eq!(verdict, expected, "{service} to {destination}");
            }
        }
        assert_eq!((lab.flows().len(), lab.translations()), (flows + 1, translations + 1));
    }
}

/// A service of the gateway is where it is configured, whichever of its addresses somebody asks.
#[test]
fn services_of_the_gateway_are_where_they_are_configured() {
    let mut lab = Lab::new();
    lab.allow(LAN1, 0, Service::Port(crate::packet::TCP, 22));
    // Everything may pass through, and nothing to the gateway itself.
    for from in [LAN1, LAN2, WAN] {
        for to in [LAN1, LAN2, WAN] {
            lab.allow(from, to, Service::Any);
        }
    }
    for (device, source) in [(Device::Lan2, "10.2.0.2"), (Device::Wan, "198.51.100.7")] {
        for own in ["10.1.0.1", "10.2.0.1", "203.0.113.1"] {
            let frame = to(device, ip(source, own).tcp(5000, 22, SYN));
            assert_eq!(lab.receive(device, &frame).verdict, Verdict::DropPolicy, "{device:?} {own}");
        }
    }
    let frame = to(Device::Lan1, ip("10.1.0.2", "10.1.0.1").tcp(5000, 22, SYN));
    assert_eq!(lab.receive(Device::Lan1, &frame).verdict, Verdict::Pass);
    // What would answer has the way back through the second gate only as part of that flow.
    let answer = |source, destination| {
        ip(source, destination).tcp(22, 5000, SYN | ACK).frame(NEIGHBOUR_MAC, mac(Device::Lan1))
    };
    assert_eq!(lab.send(Device::Lan1, &answer("10.1.0.1", "10.1.0.3")).verdict, Verdict::DropTcpState);
    assert_eq!(lab.send(Device::Lan1, &answer("10.1.0.1", "10.1.0.2")).verdict, Verdict::Pass);
}
