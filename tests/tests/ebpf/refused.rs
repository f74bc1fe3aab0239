//! One case for each reason to refuse that the other modules do not come by.

use sekisho_abi::port::engine_mac;
use sekisho_abi::verdict::Verdict;

use crate::forward::{from_engine, to};
use crate::lab::{Device, LAN1, LAN2, Lab, NEIGHBOUR_MAC, Service, VPN, VPN_OTHER, WAN, mac};
use crate::packet::{Ip, SYN, ip};

/// A gateway where rules alone would allow everything.
fn open() -> Lab {
    let mut lab = Lab::new();
    let ports = [0, LAN1, LAN2, WAN, VPN, VPN_OTHER];
    for from in ports {
        for to in ports {
            lab.allow(from, to, Service::Any);
        }
    }
    lab
}

#[test]
fn sources_that_belong_elsewhere() {
    let lab = open();
    for (device, source, expected) in [
        (Device::Lan1, "10.2.0.2", Verdict::DropSpoof),
        (Device::Lan1, "10.1.0.1", Verdict::DropSpoof),
        (Device::Lan1, "10.1.0.255", Verdict::DropSpoof),
        (Device::Lan1, "203.0.113.254", Verdict::DropSpoof),
        (Device::Lan1, "8.8.8.8", Verdict::DropSpoof),
        (Device::Wan, "10.1.0.2", Verdict::DropSpoof),
        (Device::Wan, "203.0.113.1", Verdict::DropSpoof),
        // Route separation: what lives behind a VPN, in clear.
        (Device::Wan, "10.9.0.5", Verdict::DropClear),
        (Device::Lan1, "10.9.0.5", Verdict::DropClear),
        (Device::Lan2, "10.11.0.5", Verdict::DropClear),
        (Device::Wan, "192.0.2.1", Verdict::DropMartian),
        (Device::Wan, "127.0.0.1", Verdict::DropMartian),
        (Device::Wan, "0.1.2.3", Verdict::DropMartian),
        (Device::Wan, "224.0.0.1", Verdict::DropMartian),
        (Device::Wan, "255.255.255.255", Verdict::DropMartian),
        (Device::Wan, "10.2.0.9", Verdict::DropSpoof),
    ] {
        for packet in [ip(source, "10.2.0.9").udp(1, 2, b""), ip(source, "10.2.0.9").tcp(1, 2, SYN)] {
            let expected = if source == "10.2.0.9" { Verdict::DropMartian } else { expected };
            assert_eq!(lab.receive(device, &to(device, packet)).verdict, expected, "{device:?} {source}");
        }
    }
    for (device, source, expected) in [
        (Device::Lan1, "2001:db8:2::2", Verdict::DropSpoof),
        (Device::Lan1, "2001:db8:1::1", Verdict::DropSpoof),
        (Device::Wan, "2001:db8:9::5", Verdict::DropClear),
        (Device::Lan1, "fe80::2", Verdict::DropSpoof),
        (Device::Wan, "::1", Verdict::DropMartian),
        (Device::Wan, "::", Verdict::DropMartian),
        (Device::Wan, "ff02::1", Verdict::DropMartian),
        (Device::Wan, "::ffff:10.1.0.2", Verdict::DropMartian),
    ] {
        let frame = to(device, ip(source, "2001:db8:2::9").udp(1, 2, b""));
        assert_eq!(lab.receive(device, &frame).verdict, expected, "{device:?} {source}");
    }
    assert!(lab.flows().is_empty());
}

#[test]
fn sources_out_of_a_tunnel() {
    let lab = open();
    for (port, source, expected) in [
        (VPN, "10.11.0.5", Verdict::DropClear),
        (VPN_OTHER, "10.9.0.5", Verdict::DropClear),
        (VPN, "10.1.0.9", Verdict::DropSpoof),
        (VPN, "10.1.0.1", Verdict::DropSpoof),
        (VPN, "198.51.100.7", Verdict::DropSpoof),
    ] {
        let frame = from_engine(port, ip(source, "10.1.0.2").udp(1, 2, b""));
        assert_eq!(lab.receive(Device::Engine, &frame).verdict, expected, "{source}");
    }
    let link_local = from_engine(VPN, ip("fe80::5", "ff02::1:2").udp(546, 547, b""));
    assert_eq!(lab.receive(Device::Engine, &link_local).verdict, Verdict::DropSpoof);
}

#[test]
fn destinations_that_are_none() {
    let lab = open();
    for destination in ["127.0.0.1", "0.0.0.0", "240.0.0.1", "192.0.2.1"] {
        let frame = to(Device::Lan1, ip("10.1.0.2", destination).udp(1, 2, b""));
        assert_eq!(lab.receive(Device::Lan1, &frame).verdict, Verdict::DropMartian, "{destination}");
    }
    for destination in ["::", "::1", "::ffff:10.2.0.2"] {
        let frame = to(Device::Lan1, ip("2001:db8:1::2", destination).udp(1, 2, b""));
        assert_eq!(lab.receive(Device::Lan1, &frame).verdict, Verdict::DropMartian, "{destination}");
    }
}

#[test]
fn frames_of_no_port() {
    let lab = open();
    let packet = || ip("10.1.0.2", "10.2.0.2").udp(1, 2, b"");
    let run = lab.receive(Device::Stray, &to(Device::Stray, packet()));
    assert_eq!((run.verdict, run.port), (Verdict::DropNoPort, 0));
    for source in [NEIGHBOUR_MAC, engine_mac(0), engine_mac(12), engine_mac(LAN1)] {
        let frame = ip("10.9.0.5", "10.1.0.2").udp(1, 2, b"").frame(mac(Device::Engine), source);
        assert_eq!(lab.receive(Device::Engine, &frame).verdict, Verdict::DropNoPort, "{source:?}");
    }
    // On a NIC the engine's address means nothing.
    let forged = ip("10.9.0.5", "10.1.0.2").udp(1, 2, b"").frame(mac(Device::Wan), engine_mac(VPN));
    assert_eq!(lab.receive(Device::Wan, &forged).verdict, Verdict::DropClear);
}

#[test]
fn frames_for_another_station() {
    let lab = open();
    for destination in [NEIGHBOUR_MAC, mac(Device::Lan2)] {
        let frame = ip("10.1.0.2", "10.2.0.2").udp(1, 2, b"").frame(destination, NEIGHBOUR_MAC);
        assert_eq!(lab.receive(Device::Lan1, &frame).verdict, Verdict::DropOtherHost);
    }
}

#[test]
fn tags_and_other_protocols() {
    let lab = open();
    let frame = to(Device::Lan1, ip("10.1.0.2", "10.2.0.2").udp(1, 2, b""));
    let tagged = |tags: &[u8]| [&frame[..12], tags, &frame[12..]].concat();
    for tags in
        [&[0x81, 0, 0, 1][..], &[0x81, 0, 0xe0, 0], &[0x88, 0xa8, 0, 1], &[0x81, 0, 0, 1, 0x81, 0, 0, 2]]
    {
        assert_eq!(lab.receive(Device::Lan1, &tagged(tags)).verdict, Verdict::DropVlan, "{tags:02x?}");
    }
    for ethertype in [[0x88, 0xcc], [0x88, 0x63], [0x05, 0xdc], [0x00, 0x26], [0xff, 0xff]] {
        let mut other = frame.clone();
        other[12..14].copy_from_slice(&ethertype);
        assert_eq!(lab.receive(Device::Lan1, &other).verdict, Verdict::DropEtherType, "{ethertype:02x?}");
    }
}

#[test]
fn broken_headers() {
    let lab = open();
    let frame = to(Device::Lan1, ip("10.1.0.2", "10.2.0.2").udp(1, 2, b"hello"));
    for (at, value, expected) in [
        (14, 0x46, Verdict::DropOptions),
        (14, 0x44, Verdict::DropMalformed),
        (14, 0x55, Verdict::DropMalformed),
        (17, 0x00, Verdict::DropMalformed),
        (17, 0xff, Verdict::DropMalformed),
        (20, 0x20, Verdict::DropFragmentInconsistent),
        (21, 0x01, Verdict::DropFragmentOrphan),
        (38, 0xff, Verdict::DropMalformed),
        (39, 0x07, Verdict::DropMalformed),
    ] {
        let mut broken = frame.clone();
        broken[at] = value;
        assert_eq!(lab.receive(Device::Lan1, &broken).verdict, expected, "byte {at}");
    }
    let none = to(Device::Lan1, Ip { protocol: 59, ..ip("2001:db8:1::2", "2001:db8:2::2") });
    assert_eq!(lab.receive(Device::Lan1, &none).verdict, Verdict::DropProtocol);
}

#[test]
fn a_closed_gateway_takes_nothing() {
    let mut lab = open();
    let known = to(Device::Lan1, ip("10.1.0.2", "10.2.0.2").udp(1, 2, b""));
    assert_eq!(lab.receive(Device::Lan1, &known).verdict, Verdict::Forward);
    lab.close();
    let mut arp = vec![0xff; 6];
    arp.extend(NEIGHBOUR_MAC);
    arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend([0; 18]);
    let ike = to(Device::Wan, ip("198.51.100.9", "203.0.113.1").udp(500, 500, &[7; 28]));
    for (device, frame) in [(Device::Lan1, &known), (Device::Lan1, &arp), (Device::Wan, &ike)] {
        assert_eq!(lab.receive(device, frame).verdict, Verdict::DropClosed);
    }
}

#[test]
fn no_rule_means_no() {
    let lab = Lab::new();
    for (device, source, destination) in [
        (Device::Lan1, "10.1.0.2", "10.2.0.2"),
        (Device::Lan1, "10.1.0.2", "198.51.100.7"),
        (Device::Lan1, "10.1.0.2", "10.9.0.5"),
        (Device::Lan1, "10.1.0.2", "10.1.0.1"),
        (Device::Lan1, "10.1.0.2", "10.1.0.9"),
        (Device::Wan, "198.51.100.7", "10.1.0.2"),
        (Device::Wan, "198.51.100.7", "10.9.0.5"),
        (Device::Wan, "198.51.100.7", "203.0.113.1"),
    ] {
        for packet in [
            ip(source, destination).udp(1, 2, b""),
            ip(source, destination).tcp(1, 2, SYN),
            ip(source, destination).echo(true, 1),
            ip(source, destination),
        ] {
            let run = lab.receive(device, &to(device, packet));
            assert_eq!(run.verdict, Verdict::DropPolicy, "{source} {destination}");
        }
    }
    assert!(lab.flows().is_empty());
}
