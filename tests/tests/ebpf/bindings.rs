//! Whose an address is: bindings to MAC addresses, learned and configured.

use sekisho_abi::neighbour::{NEIGHBOURS_PER_PORT, Neighbour, NeighbourKey, neighbour_flags};
use sekisho_abi::port::{Network, network_kind, port_flags};
use sekisho_abi::verdict::Verdict;

use crate::forward::to;
use crate::lab::{Device, LAN1, LAN2, Lab, NEIGHBOUR_MAC, Service, VLAN10, address, mac, with_tag, zone};
use crate::packet::{ACK, Ip, SYN, ip};

/// Who would be another.
const ATTACKER: [u8; 6] = [2, 0xcc, 0, 0, 0, 66];
const ALL_NODES: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// A gateway whose LAN1 binds addresses, and may speak to LAN2.
fn bound(flags: u32) -> Lab {
    let mut lab = Lab::new();
    lab.add_port_with_mac(Device::Lan1, LAN1, flags, mac(Device::Lan1));
    lab.allow(LAN1, LAN2, Service::Any);
    lab.allow(LAN2, LAN1, Service::Any);
    lab
}

fn learning() -> Lab {
    bound(port_flags::BOUND)
}

fn arp(operation: u8, from: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut frame = [[0xff; 6], from].concat();
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, operation]);
    frame.extend(from);
    frame.extend(sender);
    frame.extend([0; 6]);
    frame.extend(target);
    frame
}

/// A neighbour solicitation (135) or advertisement (136) that tells the sender's MAC address.
fn discovery(from: [u8; 6], source: &str, kind: u8, target: &str) -> Vec<u8> {
    let target = target.parse::<std::net::Ipv6Addr>().expect("an address").octets();
    let option = [&[kind - 134, 1][..], &from].concat();
    let rest = [&[0; 4][..], &target, &option].concat();
    ip(source, "ff02::1").icmp(kind, 0, &rest).hop_limit(255).frame(ALL_NODES, from)
}

fn key(port: u16, text: &str) -> NeighbourKey {
    NeighbourKey { address: address(text), port, reserved: 0 }
}

fn frame(from: [u8; 6], packet: Ip) -> Vec<u8> {
    packet.frame(mac(Device::Lan1), from)
}

#[test]
fn an_address_belongs_to_who_used_it_first() {
    let lab = learning();
    let (host, gateway) = ([10, 1, 0, 7], [10, 1, 0, 1]);
    let judge = |frame: &[u8]| lab.receive(Device::Lan1, frame).verdict;
    // Asking whether an address is free binds nothing.
    assert_eq!(judge(&arp(1, ATTACKER, [0; 4], host)), Verdict::Pass);
    assert!(lab.neighbours().is_empty());
    assert_eq!(judge(&arp(1, NEIGHBOUR_MAC, host, gateway)), Verdict::Pass);
    let [(bound_key, neighbour)] = lab.neighbours()[..] else { panic!("one binding") };
    assert_eq!((bound_key, neighbour.mac, neighbour.flags), (key(LAN1, "10.1.0.7"), NEIGHBOUR_MAC, 0));
    // Requests, replies, and gratuitous ones of both kinds (RFC 5227 section 2.3).
    for (operation, target) in [(1, gateway), (2, gateway), (1, host), (2, host)] {
        let claimed = judge(&arp(operation, ATTACKER, host, target));
        assert_eq!(claimed, Verdict::DropNeighbourMac, "{operation} {target:?}");
        assert_eq!(judge(&arp(operation, NEIGHBOUR_MAC, host, target)), Verdict::Pass);
    }
    // The attacker keeps its own address.
    assert_eq!(judge(&arp(2, ATTACKER, [10, 1, 0, 66], gateway)), Verdict::Pass);
    assert_eq!(lab.neighbours().len(), 2);
}

#[test]
fn discovery_is_held_to_it_as_well() {
    let lab = learning();
    let judge = |frame: &[u8]| lab.receive(Device::Lan1, frame).verdict;
    let (own, gateway) = ("2001:db8:1::7", "2001:db8:1::1");
    assert_eq!(judge(&discovery(NEIGHBOUR_MAC, "fe80::7", 136, own)), Verdict::Pass);
    assert_eq!(lab.neighbours().len(), 2, "the target and the link-local source");
    for (source, kind, target) in [
        // An unsolicited advertisement, a solicitation from the address, and both by the link-local one.
        ("fe80::66", 136, own),
        (own, 135, gateway),
        ("fe80::7", 135, gateway),
        ("fe80::7", 136, "2001:db8:1::66"),
        ("fe80::66", 136, "fe80::7"),
    ] {
        let claimed = judge(&discovery(ATTACKER, source, kind, target));
        assert_eq!(claimed, Verdict::DropNeighbourMac, "{source} {kind} {target}");
    }
    assert_eq!(judge(&discovery(NEIGHBOUR_MAC, own, 135, gateway)), Verdict::Pass);
    assert_eq!(judge(&discovery(NEIGHBOUR_MAC, "fe80::7", 136, own)), Verdict::Pass);
}

/// With or without bindings; its other addresses stand in `NETWORKS`.
#[test]
fn nobody_claims_the_gateway_s_link_local_address() {
    let [a, b, c, d, e, f] = mac(Device::Lan1);
    let own = std::net::Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
        .to_string();
    for lab in [Lab::new(), learning()] {
        for (source, kind, target) in
            [("fe80::66", 136, &*own), (&*own, 135, "2001:db8:1::1"), (&*own, 136, "fe80::66")]
        {
            let run = lab.receive(Device::Lan1, &discovery(ATTACKER, source, kind, target));
            assert_eq!(run.verdict, Verdict::DropNeighbour, "{source} {kind} {target}");
        }
        let asked = discovery(NEIGHBOUR_MAC, "fe80::7", 135, &own);
        assert_eq!(lab.receive(Device::Lan1, &asked).verdict, Verdict::Pass);
    }
}

#[test]
fn packets_come_from_the_address_s_own_station() {
    for (host, server, gateway) in
        [("10.1.0.2", "10.2.0.2", "10.1.0.1"), ("2001:db8:1::2", "2001:db8:2::2", "2001:db8:1::1")]
    {
        let lab = learning();
        let packet = || ip(host, server).udp(5000, 53, b"question");
        assert_eq!(lab.receive(Device::Lan1, &frame(NEIGHBOUR_MAC, packet())).verdict, Verdict::Forward);
        // Into the known flow, beside it and to the gateway; the owner goes on all the while, on the short way.
        for _ in 0..3 {
            for forged in [packet(), ip(host, server).udp(5001, 53, b""), ip(host, gateway).udp(1, 2, b"")] {
                let run = lab.receive(Device::Lan1, &frame(ATTACKER, forged));
                assert_eq!(run.verdict, Verdict::DropNeighbourMac);
            }
            assert_eq!(lab.receive(Device::Lan1, &frame(NEIGHBOUR_MAC, packet())).verdict, Verdict::Forward);
        }
        assert_eq!(lab.flow().original_hop.bound_mac, NEIGHBOUR_MAC);
        // The answers of a port that binds nothing are anybody's who has the right addresses, as before.
        let answer = ip(server, host).udp(53, 5000, b"answer").frame(mac(Device::Lan2), ATTACKER);
        assert_eq!(lab.receive(Device::Lan2, &answer).verdict, Verdict::Forward);
        assert!(lab.neighbours().iter().all(|(key, _)| key.port == LAN1));
    }
}

#[test]
fn only_configured_hosts_where_it_is_static() {
    let mut lab = bound(port_flags::BOUND | port_flags::BOUND_STATIC);
    let listed = Neighbour { seen_ns: 0, mac: NEIGHBOUR_MAC, flags: neighbour_flags::STATIC };
    lab.insert("NEIGHBOURS", key(LAN1, "10.1.0.2"), listed);
    lab.insert("NEIGHBOURS", key(LAN1, "2001:db8:1::2"), listed);
    let judge = |frame: &[u8]| lab.receive(Device::Lan1, frame).verdict;
    let packet = |host: &str| ip(host, "10.2.0.2").tcp(5000, 80, SYN);
    assert_eq!(judge(&frame(NEIGHBOUR_MAC, packet("10.1.0.2"))), Verdict::Forward);
    assert_eq!(judge(&frame(ATTACKER, packet("10.1.0.2"))), Verdict::DropNeighbourMac);
    assert_eq!(judge(&frame(ATTACKER, packet("10.1.0.66"))), Verdict::DropNeighbourUnbound);
    // Not with the right MAC address either: the table says which addresses there are.
    assert_eq!(judge(&frame(NEIGHBOUR_MAC, packet("10.1.0.66"))), Verdict::DropNeighbourUnbound);
    assert_eq!(judge(&arp(2, ATTACKER, [10, 1, 0, 66], [10, 1, 0, 1])), Verdict::DropNeighbourUnbound);
    assert_eq!(judge(&discovery(ATTACKER, "fe80::66", 136, "2001:db8:1::66")), Verdict::DropNeighbourUnbound);
    assert_eq!(judge(&discovery(ATTACKER, "fe80::66", 136, "2001:db8:1::2")), Verdict::DropNeighbourMac);
    // IPv6 does not work without link-local addresses, which no list has: they are learned.
    assert_eq!(judge(&discovery(NEIGHBOUR_MAC, "fe80::7", 135, "2001:db8:1::1")), Verdict::Pass);
    assert_eq!(judge(&discovery(ATTACKER, "fe80::7", 135, "2001:db8:1::1")), Verdict::DropNeighbourMac);
    let learned: Vec<_> =
        lab.neighbours().into_iter().filter(|(_, n)| n.flags == 0).map(|(key, _)| key).collect();
    assert!(learned.contains(&key(LAN1, "fe80::7")) && learned.iter().all(|key| key.address[0] == 0xfe));
}

#[test]
fn a_binding_ends_with_its_lifetime() {
    let mut lab = learning();
    lab.set_lifetimes(60);
    let claim = arp(2, ATTACKER, [10, 1, 0, 7], [10, 1, 0, 1]);
    let known = |seen_ns, flags| Neighbour { seen_ns, mac: NEIGHBOUR_MAC, flags };
    // Seen just now, by a clock that counts from the machine's start.
    lab.insert("NEIGHBOURS", key(LAN1, "10.1.0.7"), known(u64::MAX, 0));
    assert_eq!(lab.receive(Device::Lan1, &claim).verdict, Verdict::DropNeighbourMac);
    // One of the configuration has no lifetime.
    lab.insert("NEIGHBOURS", key(LAN1, "10.1.0.7"), known(0, neighbour_flags::STATIC));
    assert_eq!(lab.receive(Device::Lan1, &claim).verdict, Verdict::DropNeighbourMac);
    lab.insert("NEIGHBOURS", key(LAN1, "10.1.0.7"), known(0, 0));
    lab.set_lifetimes(0);
    assert_eq!(lab.receive(Device::Lan1, &claim).verdict, Verdict::Pass);
    let [(_, neighbour)] = lab.neighbours()[..] else { panic!("one binding") };
    assert_eq!(neighbour.mac, ATTACKER, "the address has a new owner");
}

/// A flood of claims costs newcomers their place, never a known host its own.
#[test]
fn the_table_is_bounded_for_each_port() {
    let mut lab = learning();
    assert_eq!(
        lab.receive(Device::Lan1, &arp(1, NEIGHBOUR_MAC, [10, 1, 0, 7], [10, 1, 0, 1])).verdict,
        Verdict::Pass
    );
    lab.set_neighbour_count(LAN1, NEIGHBOURS_PER_PORT);
    let newcomer = frame(ATTACKER, ip("10.1.0.66", "10.2.0.2").udp(1, 2, b""));
    assert_eq!(lab.receive(Device::Lan1, &newcomer).verdict, Verdict::DropNeighbourTable);
    let known = frame(NEIGHBOUR_MAC, ip("10.1.0.7", "10.2.0.2").udp(1, 2, b""));
    assert_eq!(lab.receive(Device::Lan1, &known).verdict, Verdict::Forward);
    lab.set_neighbour_count(LAN1, NEIGHBOURS_PER_PORT - 1);
    assert_eq!(lab.receive(Device::Lan1, &newcomer).verdict, Verdict::Forward);
    assert_eq!(lab.neighbours().len(), 2);
}

/// What comes from behind a router comes from the router's MAC address.
#[test]
fn networks_behind_a_router() {
    let mut lab = learning();
    let routed = Network { port: LAN1, zone: zone(LAN1), kind: network_kind::PORT, router: 3 };
    lab.add_network_of("10.77.0.0", 16, routed);
    lab.set_router(3, "10.1.0.254");
    let judge = |frame: &[u8]| lab.receive(Device::Lan1, frame).verdict;
    assert_eq!(judge(&arp(2, NEIGHBOUR_MAC, [10, 1, 0, 254], [10, 1, 0, 1])), Verdict::Pass);
    for host in ["10.77.0.5", "10.77.200.1"] {
        let packet = || ip(host, "10.2.0.2").udp(1, 2, b"");
        assert_eq!(judge(&frame(NEIGHBOUR_MAC, packet())), Verdict::Forward);
        assert_eq!(judge(&frame(ATTACKER, packet())), Verdict::DropNeighbourMac);
    }
    assert_eq!(lab.neighbours().len(), 1, "one for all that is behind it");
}

#[test]
fn each_port_and_vlan_has_bindings_of_its_own() {
    let mut lab = learning();
    // The same link-local address in two networks is two hosts'.
    let hello = |from| discovery(from, "fe80::7", 135, "2001:db8:1::1");
    assert_eq!(lab.receive(Device::Lan1, &hello(NEIGHBOUR_MAC)).verdict, Verdict::Pass);
    let there = discovery(ATTACKER, "fe80::7", 135, "2001:db8:10::1");
    lab.bind_vlan10();
    assert_eq!(lab.receive(Device::Trunk, &with_tag(10, &there)).verdict, Verdict::Pass);
    let known: Vec<_> = lab.neighbours().into_iter().map(|(key, n)| (key.port, n.mac)).collect();
    assert_eq!(known, [(LAN1, NEIGHBOUR_MAC), (VLAN10, ATTACKER)]);
    let forged = discovery(NEIGHBOUR_MAC, "fe80::7", 135, "2001:db8:10::1");
    assert_eq!(lab.receive(Device::Trunk, &with_tag(10, &forged)).verdict, Verdict::DropNeighbourMac);
}

/// Who used whose address is told, with both MAC addresses.
#[test]
fn a_violation_is_told() {
    let mut lab = learning();
    let host = || ip("10.1.0.7", "10.2.0.2").tcp(5000, 80, SYN);
    assert_eq!(lab.receive(Device::Lan1, &frame(NEIGHBOUR_MAC, host())).verdict, Verdict::Forward);
    assert!(lab.claims().is_empty());
    let forged = ip("10.1.0.7", "10.2.0.2").tcp(5000, 80, ACK);
    assert_eq!(lab.receive(Device::Lan1, &frame(ATTACKER, forged)).verdict, Verdict::DropNeighbourMac);
    let [claim] = lab.claims()[..] else { panic!("one claim") };
    assert_eq!((claim.address, claim.mac, claim.bound), (address("10.1.0.7"), ATTACKER, NEIGHBOUR_MAC));
    assert_eq!((claim.port, claim.verdict), (LAN1, Verdict::DropNeighbourMac as u8));
    assert!(claim.time_ns > 0);
}

/// Nothing is bound where nothing is to be.
#[test]
fn ports_without_bindings_learn_nothing() {
    let mut lab = Lab::new();
    lab.allow(LAN1, LAN2, Service::Any);
    for from in [NEIGHBOUR_MAC, ATTACKER] {
        assert_eq!(
            lab.receive(Device::Lan1, &arp(2, from, [10, 1, 0, 7], [10, 1, 0, 1])).verdict,
            Verdict::Pass
        );
        let packet = ip("10.1.0.7", "10.2.0.2").udp(1, 2, b"");
        assert_eq!(lab.receive(Device::Lan1, &frame(from, packet)).verdict, Verdict::Forward);
    }
    let echo = to(Device::Lan1, ip("10.1.0.7", "10.2.0.2").echo(true, 1));
    assert_eq!(lab.receive(Device::Lan1, &echo).verdict, Verdict::Forward);
    assert!(lab.neighbours().is_empty());
}
