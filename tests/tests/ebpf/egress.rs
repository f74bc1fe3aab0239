//! The second gate: what the kernel sends.

use sekisho_abi::port::{engine_mac, network_kind};
use sekisho_abi::verdict::Verdict;

use crate::forward::to;
use crate::lab::{Device, LAN1, Lab, NEIGHBOUR_MAC, Service, VPN, VPN_OTHER, WAN, mac};
use crate::packet::{ACK, Ip, SYN, TCP, UDP, ip};

fn out(device: Device, packet: Ip) -> Vec<u8> {
    packet.frame(NEIGHBOUR_MAC, mac(device))
}

fn into_vpn(port: u16, packet: Ip) -> Vec<u8> {
    packet.frame(engine_mac(port), mac(Device::Engine))
}

#[test]
fn own_traffic_needs_a_rule() {
    let mut lab = Lab::new();
    let question = out(Device::Wan, ip("203.0.113.1", "198.51.100.53").udp(5000, 53, b"question"));
    let answer = to(Device::Wan, ip("198.51.100.53", "203.0.113.1").udp(53, 5000, b"answer"));
    assert_eq!(lab.send(Device::Wan, &question).verdict, Verdict::DropPolicy);
    assert_eq!(lab.receive(Device::Wan, &answer).verdict, Verdict::DropPolicy);
    lab.allow(0, WAN, Service::Port(UDP, 53));
    let run = lab.send(Device::Wan, &question);
    assert_eq!((run.verdict, run.port), (Verdict::Pass, WAN));
    assert_eq!(lab.receive(Device::Wan, &answer).verdict, Verdict::Pass);
    assert_eq!(lab.send(Device::Wan, &question).verdict, Verdict::Pass);
    let flow = lab.flow();
    assert_eq!((flow.port_from, flow.port_to, flow.replied), (0, WAN, 1));
    assert_eq!((flow.original.packets, flow.reply.packets), (2, 1));
    // The rule goes, the flow with it.
    lab.next_generation();
    assert_eq!(lab.send(Device::Wan, &question).verdict, Verdict::DropPolicy);
    assert!(lab.flows().is_empty());
}

#[test]
fn own_connections() {
    let mut lab = Lab::new();
    lab.allow(0, WAN, Service::Port(TCP, 443));
    let there = |flags| out(Device::Wan, ip("2001:db8:ff::1", "2001:db8:77::7").tcp(5000, 443, flags));
    let back = |flags| to(Device::Wan, ip("2001:db8:77::7", "2001:db8:ff::1").tcp(443, 5000, flags));
    assert_eq!(lab.send(Device::Wan, &there(ACK)).verdict, Verdict::DropTcpState);
    assert_eq!(lab.send(Device::Wan, &there(SYN)).verdict, Verdict::Pass);
    assert_eq!(lab.receive(Device::Wan, &back(SYN | ACK)).verdict, Verdict::Pass);
    assert_eq!(lab.send(Device::Wan, &there(ACK)).verdict, Verdict::Pass);
    assert_eq!(lab.send(Device::Lan1, &there(ACK)).verdict, Verdict::DropPolicy);
}

#[test]
fn nothing_for_a_vpn_leaves_in_clear() {
    let mut lab = Lab::new();
    for to in [LAN1, WAN, VPN, VPN_OTHER] {
        lab.allow(0, to, Service::Any);
        lab.allow(LAN1, to, Service::Any);
    }
    for packet in [
        ip("203.0.113.1", "10.9.0.5").udp(1, 2, b""),
        ip("203.0.113.1", "10.9.0.5").udp(500, 500, b"even IKE"),
        ip("203.0.113.1", "10.9.0.5").icmp(3, 1, &[0; 36]),
        ip("10.1.0.2", "10.9.0.5").udp(1, 2, b""),
        ip("2001:db8:ff::1", "2001:db8:9::5").echo(true, 1),
    ] {
        for device in [Device::Wan, Device::Lan1] {
            let run = lab.send(device, &out(device, packet.clone()));
            assert_eq!(run.verdict, Verdict::DropClearEgress);
        }
        let other = into_vpn(VPN_OTHER, packet);
        assert_eq!(
            lab.send(Device::Engine, &other).verdict,
            Verdict::DropClearEgress,
            "another tunnel is no better"
        );
    }
    // A flow that went elsewhere before the network moved behind the VPN doesn't help.
    let packet = || ip("203.0.113.1", "198.51.100.7").udp(1, 2, b"");
    assert_eq!(lab.send(Device::Wan, &out(Device::Wan, packet())).verdict, Verdict::Pass);
    lab.add_network("198.51.100.0", 24, VPN, network_kind::VPN);
    assert_eq!(lab.send(Device::Wan, &out(Device::Wan, packet())).verdict, Verdict::DropClearEgress);
}

#[test]
fn own_traffic_into_a_vpn() {
    let mut lab = Lab::new();
    let packet = || ip("10.1.0.1", "10.9.0.5").udp(1, 2, b"");
    assert_eq!(lab.send(Device::Engine, &into_vpn(VPN, packet())).verdict, Verdict::DropPolicy);
    lab.allow(0, VPN, Service::Any);
    let run = lab.send(Device::Engine, &into_vpn(VPN, packet()));
    assert_eq!((run.verdict, run.port), (Verdict::Pass, VPN));
    for destination in [NEIGHBOUR_MAC, engine_mac(0), engine_mac(12), [0xff; 6]] {
        let frame = packet().frame(destination, mac(Device::Engine));
        assert_eq!(lab.send(Device::Engine, &frame).verdict, Verdict::DropNoPort);
    }
}

#[test]
fn what_always_passes() {
    let mut lab = Lab::new();
    lab.add_spi_out("198.51.100.9", 1);
    lab.add_spi_out("198.51.100.9", 0x0101_0101);
    let mut arp = [[0xff; 6], mac(Device::Wan)].concat();
    arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend([0; 18]);
    assert_eq!(lab.send(Device::Wan, &arp).verdict, Verdict::Pass);
    let solicitation = ip("fe80::1", "ff02::1").icmp(135, 0, &[0x20; 20]).hop_limit(255);
    let report =
        ip("fe80::1", "ff02::16").icmp(143, 0, &[0; 24]).hop_limit(1).extended(0, [5, 2, 0, 0, 1, 0]);
    let error = ip("203.0.113.1", "198.51.100.7").icmp(3, 1, &[0; 36]);
    for packet in [solicitation.clone(), report, error] {
        assert_eq!(lab.send(Device::Wan, &out(Device::Wan, packet)).verdict, Verdict::Pass);
    }
    for packet in [
        ip("203.0.113.1", "198.51.100.9").udp(500, 500, &ike(0x20, 28)),
        ip("203.0.113.1", "198.51.100.9").udp(4500, 1025, &[0xff]),
        ip("203.0.113.1", "198.51.100.9").udp(4500, 4500, &[1; 60]),
        ip("203.0.113.1", "198.51.100.9").esp(1),
    ] {
        assert_eq!(lab.send(Device::Wan, &out(Device::Wan, packet.clone())).verdict, Verdict::Pass);
        let elsewhere = Ip { source: "10.1.0.1".parse().expect("an address"), ..packet };
        let run = lab.send(Device::Lan1, &out(Device::Lan1, elsewhere));
        assert_eq!(run.verdict, Verdict::DropPolicy, "IKE leaves by IKE ports");
    }
    // Into a tunnel nothing goes without a rule, and there are no neighbours there.
    let mut arp_in = arp;
    arp_in[..6].copy_from_slice(&engine_mac(VPN));
    assert_eq!(lab.send(Device::Engine, &arp_in).verdict, Verdict::DropNeighbour);
    let frame = into_vpn(VPN, solicitation);
    assert_eq!(lab.send(Device::Engine, &frame).verdict, Verdict::DropNeighbour);
}

/// An IKE header with this version, and as many bytes as it says.
fn ike(version: u8, length: u8) -> Vec<u8> {
    let mut message = vec![7; length.into()];
    message[17] = version;
    message[24..28].copy_from_slice(&u32::from(length).to_be_bytes());
    message
}

/// A policy of other software could have taken a packet for our VPN into an SA of its own.
#[test]
fn esp_leaves_by_our_sas_alone() {
    let mut lab = Lab::new();
    let (own, peer, other) = ("203.0.113.1", "198.51.100.9", "198.51.100.10");
    let marked = |spi: u32| [&spi.to_be_bytes()[..], &[7; 60]].concat();
    lab.add_spi_out(peer, 0x1122_3344);
    // What we receive by is no SA to send by.
    lab.add_spi(own, 0x5566_7788, false);
    for (packet, verdict) in [
        (ip(own, peer).esp(0x1122_3344), Verdict::Pass),
        (ip(own, peer).esp(0x1122_3345), Verdict::DropUnknownSpi),
        (ip(own, other).esp(0x1122_3344), Verdict::DropUnknownSpi),
        (ip(own, own).esp(0x5566_7788), Verdict::DropUnknownSpi),
        (ip(own, peer).udp(4500, 4500, &marked(0x1122_3344)), Verdict::Pass),
        (ip(own, peer).udp(4500, 4500, &marked(0x1122_3345)), Verdict::DropUnknownSpi),
        // Behind a NAT.
        (ip(own, peer).udp(4500, 31_000, &marked(0x1122_3344)), Verdict::Pass),
        (ip(own, peer).udp(4500, 31_000, &marked(0x1122_3345)), Verdict::DropUnknownSpi),
        (ip(own, peer).udp(4500, 31_000, &marked(0)), Verdict::Pass),
        (ip(own, peer).udp(4500, 31_000, &[0xff]), Verdict::Pass),
        (ip(own, peer).udp(500, 31_000, &ike(0x20, 64)), Verdict::Pass),
        // Without a marker ESP has no place there, be the SA ours or not.
        (ip(own, peer).udp(500, 31_000, &marked(0x1122_3344)), Verdict::DropUnknownSpi),
        (ip(own, peer).udp(500, 31_000, &marked(0x1122_3345)), Verdict::DropUnknownSpi),
        (ip(own, peer).udp(500, 31_000, &ike(0x10, 64)), Verdict::DropUnknownSpi),
        (ip(own, peer).udp(500, 31_000, &[ike(0x20, 64), vec![0]].concat()), Verdict::DropUnknownSpi),
        (ip(own, peer).udp(500, 31_000, &[0; 20]), Verdict::DropUnknownSpi),
    ] {
        let run = lab.send(Device::Wan, &out(Device::Wan, packet));
        assert_eq!((run.verdict, run.port), (verdict, WAN));
    }
}

#[test]
fn forwarding_by_the_kernel_alone_is_refused() {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Any);
    // No flow: XDP never saw it.
    for packet in [
        ip("10.1.0.2", "198.51.100.7").udp(1, 2, b""),
        ip("10.1.0.2", "198.51.100.7").tcp(1, 2, SYN),
        ip("10.1.0.2", "198.51.100.7").echo(true, 1),
        ip("10.1.0.2", "198.51.100.7"),
    ] {
        assert_eq!(lab.send(Device::Wan, &out(Device::Wan, packet)).verdict, Verdict::DropPolicy);
    }
    let error = ip("10.1.0.2", "198.51.100.7").icmp(
        3,
        1,
        &[&[0; 4][..], &ip("198.51.100.7", "10.1.0.2").udp(1, 2, b"").bytes()].concat(),
    );
    assert_eq!(lab.send(Device::Wan, &out(Device::Wan, error)).verdict, Verdict::DropIcmpError);
    assert_eq!(
        lab.send(Device::Wan, &out(Device::Wan, ip("127.0.0.1", "198.51.100.7"))).verdict,
        Verdict::DropMartian
    );
}

#[test]
fn what_xdp_left_to_the_kernel_goes_on() {
    let mut lab = Lab::new();
    lab.allow(LAN1, 0, Service::Any);
    lab.allow(LAN1, WAN, Service::Any);
    let host = "10.1.0.2";
    // Every packet of a connection, seen by XDP and once more on its way out.
    for (packet, reply) in
        [(SYN, false), (SYN | ACK, true), (ACK, false), (0x11, false), (0x11, true), (ACK, false)].map(
            |(flags, reply)| {
                let packet = if reply {
                    ip("198.51.100.7", host).tcp(80, 5000, flags)
                } else {
                    ip(host, "198.51.100.7").tcp(5000, 80, flags)
                };
                (packet, reply)
            },
        )
    {
        let (entry, exit) = if reply { (Device::Wan, Device::Lan1) } else { (Device::Lan1, Device::Wan) };
        assert_eq!(lab.receive(entry, &to(entry, packet.clone())).verdict, Verdict::Forward);
        assert_eq!(lab.send(exit, &out(exit, packet)).verdict, Verdict::Pass);
    }
}

#[test]
fn devices_and_tags_of_no_port() {
    let mut lab = Lab::new();
    lab.allow(0, WAN, Service::Any);
    let frame = out(Device::Wan, ip("203.0.113.1", "198.51.100.7").udp(1, 2, b""));
    assert_eq!(lab.send(Device::Stray, &frame).verdict, Verdict::DropNoPort);
    let tagged = [&frame[..12], &[0x81, 0, 0, 1], &frame[12..]].concat();
    assert_eq!(lab.send(Device::Wan, &tagged).verdict, Verdict::DropVlan);
    for group in ["224.0.0.251", "255.255.255.255", "239.1.2.3"] {
        let frame =
            ip("203.0.113.1", group).udp(5353, 5353, b"").frame([1, 0, 0x5e, 0, 0, 0xfb], mac(Device::Wan));
        assert_eq!(lab.send(Device::Wan, &frame).verdict, Verdict::DropMulticast, "{group}");
    }
    // A DHCP client, where a rule says so.
    let discover = ip("0.0.0.0", "255.255.255.255").udp(68, 67, &[1; 240]).frame([0xff; 6], mac(Device::Wan));
    assert_eq!(lab.send(Device::Wan, &discover).verdict, Verdict::Pass);
    lab.next_generation();
    assert_eq!(lab.send(Device::Wan, &discover).verdict, Verdict::DropPolicy);
}

#[test]
fn a_closed_gateway_sends_nothing() {
    let mut lab = Lab::new();
    lab.allow(0, WAN, Service::Any);
    lab.close();
    for packet in [
        ip("203.0.113.1", "198.51.100.9").udp(500, 500, &[7; 28]),
        ip("203.0.113.1", "198.51.100.9").udp(1, 2, b""),
        ip("2001:db8:ff::1", "2001:db8:77::7").tcp(1, 2, SYN),
        ip("203.0.113.1", "198.51.100.7").icmp(3, 1, &[0; 36]),
    ] {
        assert_eq!(lab.send(Device::Wan, &out(Device::Wan, packet)).verdict, Verdict::DropClosed);
    }
    let solicitation = ip("fe80::1", "ff02::1").icmp(135, 0, &[0x20; 20]).hop_limit(255);
    assert_eq!(lab.send(Device::Wan, &out(Device::Wan, solicitation)).verdict, Verdict::Pass);
    let mut arp = [[0xff; 6], mac(Device::Wan)].concat();
    arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend([0; 18]);
    assert_eq!(lab.send(Device::Wan, &arp).verdict, Verdict::Pass);
}
