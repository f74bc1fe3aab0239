//! ARP and neighbour discovery: who may claim what on which port.

use sekisho_abi::port::engine_mac;
use sekisho_abi::verdict::Verdict;

use crate::lab::{Device, LAN1, Lab, NEIGHBOUR_MAC, VPN, WAN, mac};
use crate::packet::{Ip, ip};

fn arp(operation: u8, sender_mac: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut frame = [[0xff; 6], NEIGHBOUR_MAC].concat();
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, operation]);
    frame.extend(sender_mac);
    frame.extend(sender);
    frame.extend([0; 6]);
    frame.extend(target);
    frame
}

#[test]
fn arp_senders_must_belong_to_the_port() {
    let lab = Lab::new();
    let gateway = [10, 1, 0, 1];
    for (device, sender, expected) in [
        (Device::Lan1, [10, 1, 0, 2], Verdict::Pass),
        (Device::Lan1, [0, 0, 0, 0], Verdict::Pass),
        (Device::Wan, [203, 0, 113, 254], Verdict::Pass),
        (Device::Wan, [198, 51, 100, 1], Verdict::Pass),
        (Device::Lan1, [10, 1, 0, 1], Verdict::DropNeighbour),
        (Device::Lan1, [10, 2, 0, 2], Verdict::DropNeighbour),
        (Device::Lan1, [10, 9, 0, 5], Verdict::DropNeighbour),
        (Device::Lan1, [198, 51, 100, 1], Verdict::DropNeighbour),
        (Device::Wan, [10, 1, 0, 2], Verdict::DropNeighbour),
        (Device::Wan, [10, 9, 0, 5], Verdict::DropNeighbour),
        (Device::Wan, [192, 0, 2, 1], Verdict::DropNeighbour),
        (Device::Lan1, [127, 0, 0, 1], Verdict::DropNeighbour),
    ] {
        let run = lab.receive(device, &arp(1, NEIGHBOUR_MAC, sender, gateway));
        assert_eq!(run.verdict, expected, "{device:?} {sender:?}");
    }
    let lies = arp(2, [2, 0, 0, 0, 0, 66], [10, 1, 0, 2], gateway);
    assert_eq!(lab.receive(Device::Lan1, &lies).verdict, Verdict::DropNeighbour);
    let reply_of_nobody = arp(2, NEIGHBOUR_MAC, [0; 4], gateway);
    assert_eq!(lab.receive(Device::Lan1, &reply_of_nobody).verdict, Verdict::DropNeighbour);
    let mut from_vpn = arp(1, engine_mac(VPN), [10, 9, 0, 5], gateway);
    from_vpn[6..12].copy_from_slice(&engine_mac(VPN));
    assert_eq!(lab.receive(Device::Engine, &from_vpn).verdict, Verdict::DropNeighbour);
}

#[test]
fn arp_is_read_with_care() {
    let lab = Lab::new();
    let frame = arp(1, NEIGHBOUR_MAC, [10, 1, 0, 2], [10, 1, 0, 1]);
    for length in 14..frame.len() {
        assert_eq!(lab.receive(Device::Lan1, &frame[..length]).verdict, Verdict::DropMalformed);
    }
    for at in [14, 15, 16, 17, 18, 19, 20, 21] {
        let mut other = frame.clone();
        other[at] ^= 0x40;
        assert_eq!(lab.receive(Device::Lan1, &other).verdict, Verdict::DropNeighbour, "byte {at}");
    }
}

const ALL_NODES: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

fn discovery(source: &str, kind: u8, target: &str) -> Ip {
    let target = target.parse::<std::net::Ipv6Addr>().expect("an address").octets();
    let rest = match kind {
        133 => vec![0; 4],
        134 => vec![0; 12],
        _ => [&[0; 4][..], &target].concat(),
    };
    ip(source, "ff02::1").icmp(kind, 0, &rest).hop_limit(255)
}

#[test]
fn discovery_must_belong_to_the_port() {
    let lab = Lab::new();
    for (device, source, kind, target, expected) in [
        (Device::Lan1, "fe80::2", 135, "2001:db8:1::1", Verdict::Pass),
        (Device::Lan1, "2001:db8:1::2", 135, "2001:db8:1::1", Verdict::Pass),
        (Device::Lan1, "::", 135, "2001:db8:1::2", Verdict::Pass),
        (Device::Lan1, "fe80::2", 136, "2001:db8:1::2", Verdict::Pass),
        (Device::Lan1, "fe80::2", 136, "fe80::2", Verdict::Pass),
        (Device::Lan1, "fe80::2", 133, "::", Verdict::Pass),
        (Device::Wan, "fe80::fe", 134, "::", Verdict::Pass),
        (Device::Wan, "fe80::fe", 136, "2001:db8:77::1", Verdict::Pass),
        (Device::Lan1, "fe80::2", 134, "::", Verdict::DropNeighbour),
        (Device::Lan1, "fe80::2", 137, "2001:db8:77::1", Verdict::DropNeighbour),
        (Device::Lan1, "fe80::2", 136, "2001:db8:1::1", Verdict::DropNeighbour),
        (Device::Lan1, "fe80::2", 136, "2001:db8:2::2", Verdict::DropNeighbour),
        (Device::Lan1, "fe80::2", 136, "2001:db8:9::5", Verdict::DropNeighbour),
        (Device::Lan1, "fe80::2", 136, "2001:db8:77::1", Verdict::DropNeighbour),
        (Device::Lan1, "2001:db8:2::2", 135, "2001:db8:1::1", Verdict::DropNeighbour),
        (Device::Lan1, "2001:db8:1::1", 135, "2001:db8:1::2", Verdict::DropNeighbour),
        (Device::Wan, "2001:db8:9::5", 135, "2001:db8:ff::1", Verdict::DropNeighbour),
    ] {
        let frame = discovery(source, kind, target).frame(ALL_NODES, NEIGHBOUR_MAC);
        assert_eq!(lab.receive(device, &frame).verdict, expected, "{device:?} {source} {kind} {target}");
    }
    let routed = discovery("fe80::2", 135, "2001:db8:1::1").hop_limit(254).frame(ALL_NODES, NEIGHBOUR_MAC);
    assert_eq!(lab.receive(Device::Lan1, &routed).verdict, Verdict::DropNeighbour);
    let tunnelled = discovery("fe80::2", 135, "2001:db8:1::1").frame(mac(Device::Engine), engine_mac(VPN));
    assert_eq!(lab.receive(Device::Engine, &tunnelled).verdict, Verdict::DropNeighbour);
    assert!(lab.flows().is_empty());
}

/// Whose MAC address a message tells must be who sent it, as ARP has it.
#[test]
fn link_layer_addresses_are_the_sender_s_own() {
    let lab = Lab::new();
    const ANOTHER: [u8; 6] = [2, 0, 0, 0, 0, 66];
    let told = |kind: u8, target: &str, options: &[u8]| {
        let mut message = discovery("fe80::2", kind, target);
        message.payload.extend(options);
        message.frame(ALL_NODES, NEIGHBOUR_MAC)
    };
    let option = |kind: u8, mac: [u8; 6]| [&[kind, 1][..], &mac].concat();
    let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
    for (kind, target, of) in [(135, "2001:db8:1::1", 1), (136, "2001:db8:1::2", 2), (133, "::", 1)] {
        for (options, expected) in [
            (option(of, NEIGHBOUR_MAC), Verdict::Pass),
            ([&nonce[..], &option(of, NEIGHBOUR_MAC)].concat(), Verdict::Pass),
            (option(of, ANOTHER), Verdict::DropNeighbour),
            (option(3 - of, ANOTHER), Verdict::DropNeighbour),
            ([&nonce[..], &option(of, ANOTHER)].concat(), Verdict::DropNeighbour),
            ([&option(of, NEIGHBOUR_MAC)[..], &option(of, ANOTHER)].concat(), Verdict::DropNeighbour),
            (vec![of, 0, 2, 0xaa, 0, 0, 0, 2], Verdict::DropMalformed),
            (vec![of, 2, 2, 0xaa, 0, 0, 0, 2], Verdict::DropMalformed),
            (nonce.repeat(17), Verdict::DropNeighbour),
        ] {
            let run = lab.receive(Device::Lan1, &told(kind, target, &options));
            assert_eq!(run.verdict, expected, "{kind} {options:02x?}");
        }
    }
    // RFC 1812 section 3.3.2: a group is nobody's own address.
    for group in [[0xff; 6], [3, 0xaa, 0, 0, 0, 2]] {
        let mut frame = arp(2, group, [10, 1, 0, 2], [10, 1, 0, 1]);
        frame[6..12].copy_from_slice(&group);
        assert_eq!(lab.receive(Device::Lan1, &frame).verdict, Verdict::DropNeighbour);
        let mut frame = told(136, "2001:db8:1::2", &option(2, group));
        frame[6..12].copy_from_slice(&group);
        assert_eq!(lab.receive(Device::Lan1, &frame).verdict, Verdict::DropNeighbour);
    }
}

#[test]
fn listener_reports() {
    let lab = Lab::new();
    let report = || ip("fe80::2", "ff02::16").icmp(143, 0, &[0; 24]).hop_limit(1);
    let alerted = report().extended(0, [5, 2, 0, 0, 1, 0]).frame(ALL_NODES, NEIGHBOUR_MAC);
    assert_eq!(lab.receive(Device::Lan1, &alerted).verdict, Verdict::Pass);
    let silent = report().frame(ALL_NODES, NEIGHBOUR_MAC);
    assert_eq!(lab.receive(Device::Lan1, &silent).verdict, Verdict::DropNeighbour);
    let routed = ip("2001:db8:1::2", "ff02::16").icmp(143, 0, &[0; 24]).hop_limit(1);
    let routed = routed.extended(0, [5, 2, 0, 0, 1, 0]).frame(ALL_NODES, NEIGHBOUR_MAC);
    assert_eq!(lab.receive(Device::Lan1, &routed).verdict, Verdict::DropNeighbour);
}

#[test]
fn other_groups_are_refused() {
    let mut lab = Lab::new();
    lab.allow(LAN1, 0, crate::lab::Service::Any);
    lab.allow(LAN1, WAN, crate::lab::Service::Any);
    for (packet, group) in [
        (ip("10.1.0.2", "224.0.0.251").udp(5353, 5353, b""), [1, 0, 0x5e, 0, 0, 0xfb]),
        (ip("10.1.0.2", "239.1.2.3").udp(1, 2, b""), [1, 0, 0x5e, 1, 2, 3]),
        (ip("10.1.0.2", "255.255.255.255").udp(1, 137, b""), [0xff; 6]),
        (ip("2001:db8:1::2", "ff02::fb").udp(5353, 5353, b""), [0x33, 0x33, 0, 0, 0, 0xfb]),
        (ip("2001:db8:1::2", "ff02::1").echo(true, 1), ALL_NODES),
        (ip("2001:db8:1::2", "fe80::1").echo(true, 1), mac(Device::Lan1)),
        // A unicast packet in a broadcast frame.
        (ip("10.1.0.2", "198.51.100.7").udp(1, 2, b""), [0xff; 6]),
        (ip("10.1.0.2", "10.1.0.1").udp(1, 2, b""), [0xff; 6]),
    ] {
        let frame = packet.frame(group, NEIGHBOUR_MAC);
        assert_eq!(lab.receive(Device::Lan1, &frame).verdict, Verdict::DropMulticast);
    }
    assert!(lab.flows().is_empty());
}
