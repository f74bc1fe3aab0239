//! Address translation: packet in, packet out, with every checksum, both ways.

use std::net::IpAddr;

use sekisho_abi::nat::{DestinationNat, HAIRPIN, SourceNat, source_nat_kind};
use sekisho_abi::port::network_kind;
use sekisho_abi::verdict::Verdict;

use crate::forward::{from_engine, to};
use crate::lab::{Device, LAN1, LAN2, Lab, NEIGHBOUR_MAC, Run, Service, VPN, WAN, address, mac};
use crate::packet::{ESP, Ip, SYN, TCP, UDP, assert_checksums, ip};

const ACK: u8 = crate::packet::ACK;

/// Sources go to the first `count` addresses of the pool, and to these ports.
fn pool(count: u32, port_first: u16, port_last: u16) -> SourceNat {
    SourceNat {
        rule: 1,
        kind: source_nat_kind::POOL,
        port_first,
        port_last,
        index: 0,
        count,
        ..SourceNat::default()
    }
}

fn prefix(text: &str, bits: u32) -> SourceNat {
    SourceNat {
        rule: 2,
        kind: source_nat_kind::PREFIX,
        index: bits,
        prefix: address(text),
        ..SourceNat::default()
    }
}

fn host(text: &str, port_fixed: u16) -> DestinationNat {
    DestinationNat {
        rule: 3,
        prefix_bits: 128,
        port_fixed,
        prefix: address(text),
        ..DestinationNat::default()
    }
}

/// A gateway that gives its own WAN address to what comes from LAN1.
fn masquerading() -> Lab {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Any);
    lab.set_pool(&["203.0.113.1"]);
    lab.add_source_nat(LAN1, WAN, "0.0.0.0", 0, pool(1, 1024, u16::MAX));
    lab
}

/// The packet of a frame that has left: its ends, and its ports or its identifier.
fn ends(run: &Run) -> (IpAddr, IpAddr, u16, u16) {
    assert_checksums(&run.frame);
    let packet = &run.frame[14..];
    let number = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    if packet[0] >> 4 == 4 {
        let v4 = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).expect("four"));
        let at = if packet[9] == 1 { 24 } else { 20 };
        (v4(12), v4(16), number(at), number(at + 2))
    } else {
        let v6 = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).expect("sixteen"));
        let at = if packet[6] == 58 { 44 } else { 40 };
        (v6(8), v6(24), number(at), number(at + 2))
    }
}

#[track_caller]
fn assert_ends(run: &Run, source: &str, destination: &str) -> (u16, u16) {
    let (from, to, source_port, destination_port) = ends(run);
    assert_eq!((from.to_string().as_str(), to.to_string().as_str()), (source, destination));
    (source_port, destination_port)
}

#[test]
fn a_masqueraded_source_and_the_way_back() {
    let lab = masquerading();
    let (lan, server, wan) = ("10.1.0.2", "198.51.100.7", "203.0.113.1");
    for (there, back, ports) in [
        (ip(lan, server).udp(5000, 53, b"question"), ip(server, wan).udp(53, 5000, b"answer"), (5000, 53)),
        (ip(lan, server).tcp(5000, 80, SYN), ip(server, wan).tcp(80, 5000, SYN | ACK), (5000, 80)),
    ] {
        for _ in 0..3 {
            let run = lab.receive(Device::Lan1, &to(Device::Lan1, there.clone()));
            assert_eq!(run.verdict, Verdict::Forward, "{there:?}");
            assert_eq!(assert_ends(&run, wan, server), ports, "a port that is free stays");
            let run = lab.receive(Device::Wan, &to(Device::Wan, back.clone()));
            assert_eq!(run.verdict, Verdict::Forward, "{back:?}");
            assert_eq!(assert_ends(&run, server, lan), (ports.1, ports.0));
            assert_eq!(run.frame[..6], NEIGHBOUR_MAC);
        }
    }
    let ping = to(Device::Lan1, ip(lan, server).echo(true, 2000));
    let pong = to(Device::Wan, ip(server, wan).echo(false, 2000));
    for _ in 0..3 {
        assert_eq!(assert_ends(&lab.receive(Device::Lan1, &ping), wan, server).0, 2000);
        assert_eq!(assert_ends(&lab.receive(Device::Wan, &pong), server, lan).0, 2000);
    }
    // GRE has no port: by its addresses alone.
    assert_ends(&lab.receive(Device::Lan1, &to(Device::Lan1, ip(lan, server))), wan, server);
    assert_ends(&lab.receive(Device::Wan, &to(Device::Wan, ip(server, wan))), server, lan);
    let other = to(Device::Lan1, ip("10.1.0.3", server));
    assert_eq!(lab.receive(Device::Lan1, &other).verdict, Verdict::DropNatConflict);
}

/// Every fragment of a packet leaves as the same part of another packet.
#[track_caller]
fn assert_translated(lab: &Lab, device: Device, id: u16, there: &Ip, leaves: &Ip) {
    let leaves = leaves.clone().hop_limit(there.hop_limit - 1).fragments(id, 1400);
    for (fragment, leaves) in there.clone().fragments(id, 1400).into_iter().zip(leaves) {
        let run = lab.receive(device, &to(device, fragment));
        assert_eq!(run.verdict, Verdict::Forward);
        assert_eq!(run.frame[14..], leaves.bytes());
    }
}

#[test]
fn fragments_of_a_masqueraded_source_and_the_way_back() {
    let lab = masquerading();
    let (lan, server, wan) = ("10.1.0.2", "198.51.100.7", "203.0.113.1");
    let udp = |from: &str, into: &str, ports: (u16, u16)| ip(from, into).udp(ports.0, ports.1, &[0x5a; 4003]);
    for id in [1, 2] {
        let (there, back) = ((5000, 53), (53, 5000));
        assert_translated(&lab, Device::Lan1, id, &udp(lan, server, there), &udp(wan, server, there));
        assert_translated(&lab, Device::Wan, id, &udp(server, wan, back), &udp(server, lan, back));
    }
    assert_eq!(lab.flow().original.packets, 6, "one flow");
    let ping = |from: &str, into: &str, request| {
        let mut echo = ip(from, into).echo(request, 2000);
        echo.payload.extend([0x5a; 2000]);
        echo
    };
    assert_translated(&lab, Device::Lan1, 3, &ping(lan, server, true), &ping(wan, server, true));
    assert_translated(&lab, Device::Wan, 3, &ping(server, wan, false), &ping(server, lan, false));
    // Nobody knows yet what they are to be translated to, whatever passed between the two before.
    for (device, early) in
        [(Device::Lan1, udp(lan, server, (5000, 53))), (Device::Wan, udp(server, wan, (53, 5000)))]
    {
        let early = to(device, early.fragments(9, 1400).remove(1));
        assert_eq!(lab.receive(device, &early).verdict, Verdict::DropFragmentOrphan);
    }
}

#[test]
fn fragments_to_a_forwarded_port_and_between_hosts_that_are_not_translated() {
    let mut lab = Lab::new();
    lab.allow(WAN, LAN2, Service::Port(UDP, 5353));
    lab.allow(LAN1, LAN2, Service::Port(UDP, 53));
    for (client, public, inside) in
        [("198.51.100.7", "203.0.113.1", "10.2.0.2"), ("2001:db8:77::7", "2001:db8:ff::1", "2001:db8:2::2")]
    {
        lab.add_destination_nat(
            WAN,
            (public, if public.contains(':') { 128 } else { 32 }),
            (UDP, 53),
            host(inside, 5353),
        );
        let question = |into: &str, port| ip(client, into).udp(5000, port, &[0x5a; 4003]);
        let answer = |from: &str, port| ip(from, client).udp(port, 5000, &[0xa5; 4003]);
        for id in [1, 2] {
            assert_translated(&lab, Device::Wan, id, &question(public, 53), &question(inside, 5353));
            assert_translated(&lab, Device::Lan2, id, &answer(inside, 5353), &answer(public, 53));
        }
    }
    let plain = ip("10.1.0.2", "10.2.0.2").udp(5000, 53, &[0x5a; 4003]);
    assert_translated(&lab, Device::Lan1, 1, &plain, &plain);
    let early = to(Device::Lan1, plain.fragments(2, 1400).remove(2));
    assert_eq!(lab.receive(Device::Lan1, &early).verdict, Verdict::Forward, "as without translation");
}

#[test]
fn what_the_kernel_cuts_leaves_translated() {
    let mut lab = masquerading();
    lab.allow(0, WAN, Service::Port(UDP, 53));
    let (lan, server, wan) = ("10.1.0.2", "198.51.100.7", "203.0.113.1");
    let large = |from: &str, port| ip(from, server).udp(port, 53, &[0x5a; 2003]);
    assert_eq!(lab.receive(Device::Lan1, &to(Device::Lan1, large(lan, 5000))).verdict, Verdict::Pass);
    for (from, port) in [(lan, 5000), (wan, 6000)] {
        for (cut, leaves) in
            large(from, port).fragments(1, 1400).into_iter().zip(large(wan, port).fragments(1, 1400))
        {
            let run = lab.send(Device::Wan, &cut.frame([2; 6], [2; 6]));
            assert_eq!(run.verdict, Verdict::Pass, "from {from}");
            assert_eq!(run.frame[14..], leaves.bytes(), "from {from}");
        }
    }
}

#[test]
fn udp_without_a_checksum_stays_without() {
    let lab = masquerading();
    let mut frame = to(Device::Lan1, ip("10.1.0.2", "198.51.100.7").udp(5000, 53, b"question"));
    frame[40..42].fill(0);
    for _ in 0..2 {
        let run = lab.receive(Device::Lan1, &frame);
        assert_eq!(run.verdict, Verdict::Forward);
        assert_eq!(run.frame[40..42], [0, 0]);
        assert_eq!(run.frame[26..30], [203, 0, 113, 1]);
    }
}

#[test]
fn two_hosts_with_one_port() {
    let lab = masquerading();
    let (server, wan) = ("198.51.100.7", "203.0.113.1");
    for packet in [
        |host: &str| ip(host, "198.51.100.7").udp(5000, 53, b"question"),
        |host: &str| ip(host, "198.51.100.7").tcp(5000, 80, SYN),
        |host: &str| ip(host, "198.51.100.7").echo(true, 5000),
    ] {
        let first =
            assert_ends(&lab.receive(Device::Lan1, &to(Device::Lan1, packet("10.1.0.2"))), wan, server).0;
        let second =
            assert_ends(&lab.receive(Device::Lan1, &to(Device::Lan1, packet("10.1.0.3"))), wan, server).0;
        assert_eq!(first, 5000);
        assert!(second != 5000 && second >= 1024, "{second}");
    }
    // Each reply finds its own.
    let port = assert_ends(
        &lab.receive(Device::Lan1, &to(Device::Lan1, ip("10.1.0.3", server).udp(5000, 53, b"question"))),
        wan,
        server,
    )
    .0;
    let back = to(Device::Wan, ip(server, wan).udp(53, port, b"answer"));
    assert_eq!(assert_ends(&lab.receive(Device::Wan, &back), server, "10.1.0.3"), (53, 5000));
}

#[test]
fn a_port_that_others_have_is_given_by_chance() {
    let lab = masquerading();
    let mut ports = Vec::new();
    for host in 2..40u8 {
        let packet = ip(&format!("10.1.0.{host}"), "198.51.100.7").udp(5000, 53, b"question");
        ports.push(ends(&lab.receive(Device::Lan1, &to(Device::Lan1, packet))).2);
    }
    let steps: std::collections::BTreeSet<u16> =
        ports.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    assert!(steps.len() > 20, "no pattern: {ports:?}");
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 38, "none twice");
}

#[test]
fn a_range_that_is_used_up() {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Any);
    lab.set_pool(&["203.0.113.1"]);
    lab.add_source_nat(LAN1, WAN, "0.0.0.0", 0, pool(1, 40_000, 40_003));
    let from = |host: u8| to(Device::Lan1, ip(&format!("10.1.0.{host}"), "198.51.100.7").udp(5000, 53, b"?"));
    let mut ports: Vec<u16> = (2..6).map(|host| ends(&lab.receive(Device::Lan1, &from(host))).2).collect();
    ports.sort_unstable();
    assert_eq!(ports, [40_000, 40_001, 40_002, 40_003]);
    assert_eq!(lab.receive(Device::Lan1, &from(6)).verdict, Verdict::DropNatExhausted);
    assert_eq!(lab.flows().len(), 4, "nothing is left of it");
    // Ends are taken towards one server only; and those who have a port keep it.
    let other = to(Device::Lan1, ip("10.1.0.6", "198.51.100.8").udp(5000, 53, b"?"));
    assert_eq!(lab.receive(Device::Lan1, &other).verdict, Verdict::Forward);
    assert_eq!(lab.receive(Device::Lan1, &from(3)).verdict, Verdict::Forward);
}

#[test]
fn a_full_flow_table_leaves_nothing_behind() {
    let mut lab = masquerading();
    lab.exhaust_flows();
    let packet = to(Device::Lan1, ip("10.1.0.2", "198.51.100.7").udp(5000, 53, b"?"));
    assert_eq!(lab.receive(Device::Lan1, &packet).verdict, Verdict::DropFlowTable);
    assert_eq!(lab.translations(), 0);
}

#[test]
fn a_host_keeps_its_address_of_a_pool() {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Any);
    let pooled = ["203.0.113.10", "203.0.113.11", "203.0.113.12", "203.0.113.13"];
    lab.set_pool(&pooled);
    for address in pooled {
        lab.add_network(address, 32, WAN, network_kind::LOCAL);
    }
    lab.add_source_nat(LAN1, WAN, "10.1.0.0", 24, pool(4, 1024, u16::MAX));
    let mut given = std::collections::BTreeSet::new();
    for host in 2..30u8 {
        let source = |port| {
            let packet = ip(&format!("10.1.0.{host}"), "198.51.100.7").udp(port, 53, b"?");
            ends(&lab.receive(Device::Lan1, &to(Device::Lan1, packet))).0
        };
        assert_eq!(source(5000), source(6000));
        given.insert(source(5000));
    }
    assert!(given.len() > 1, "{given:?}");
}

#[test]
fn nobody_speaks_in_a_translated_flow_s_name() {
    let lab = masquerading();
    let there = to(Device::Lan1, ip("10.1.0.2", "198.51.100.7").udp(5000, 53, b"question"));
    assert_eq!(lab.receive(Device::Lan1, &there).verdict, Verdict::Forward);
    // From outside to the address inside, as if there were no translation.
    let direct = to(Device::Wan, ip("198.51.100.7", "10.1.0.2").udp(53, 5000, b"answer"));
    assert_eq!(lab.receive(Device::Wan, &direct).verdict, Verdict::DropPolicy);
    // From inside with the gateway's address.
    let forged = to(Device::Lan1, ip("203.0.113.1", "198.51.100.7").udp(5000, 53, b"question"));
    assert_eq!(lab.receive(Device::Lan1, &forged).verdict, Verdict::DropSpoof);
    // Another server.
    let other = to(Device::Wan, ip("198.51.100.8", "203.0.113.1").udp(53, 5000, b"answer"));
    assert_eq!(lab.receive(Device::Wan, &other).verdict, Verdict::DropPolicy);
}

#[test]
fn the_gateway_s_own_traffic_has_ends_of_its_own() {
    let mut lab = masquerading();
    lab.allow(0, WAN, Service::Any);
    let own =
        |port| ip("203.0.113.1", "198.51.100.7").udp(port, 53, b"question").frame([2; 6], mac(Device::Wan));
    assert_eq!(lab.send(Device::Wan, &own(5000)).verdict, Verdict::Pass);
    let there = to(Device::Lan1, ip("10.1.0.2", "198.51.100.7").udp(5000, 53, b"question"));
    let given = ends(&lab.receive(Device::Lan1, &there)).2;
    assert_ne!(given, 5000, "the gateway has it");
    assert_eq!(lab.send(Device::Wan, &own(given)).verdict, Verdict::DropNatConflict);
    let back = to(Device::Wan, ip("198.51.100.7", "203.0.113.1").udp(53, 5000, b"answer"));
    assert_eq!(lab.receive(Device::Wan, &back).verdict, Verdict::Pass);
}

#[test]
fn a_forwarded_port() {
    let mut lab = Lab::new();
    lab.allow(WAN, LAN1, Service::Port(TCP, 8443));
    lab.add_destination_nat(WAN, ("203.0.113.1", 32), (TCP, 443), host("10.1.0.2", 8443));
    let (client, wan, server) = ("198.51.100.7", "203.0.113.1", "10.1.0.2");
    for _ in 0..2 {
        let run = lab.receive(Device::Wan, &to(Device::Wan, ip(client, wan).tcp(5000, 443, SYN)));
        assert_eq!(run.verdict, Verdict::Forward);
        assert_eq!(assert_ends(&run, client, server), (5000, 8443));
        let run = lab.receive(Device::Lan1, &to(Device::Lan1, ip(server, client).tcp(8443, 5000, SYN | ACK)));
        assert_eq!(run.verdict, Verdict::Forward);
        assert_eq!(assert_ends(&run, wan, client), (443, 5000));
    }
    // Rules are asked with the real port: what is not forwarded is the gateway's own.
    let other = lab.receive(Device::Wan, &to(Device::Wan, ip(client, wan).tcp(5000, 8443, SYN)));
    assert_eq!(other.verdict, Verdict::DropPolicy);
    // The server opens nothing by it.
    let opens = lab.receive(Device::Lan1, &to(Device::Lan1, ip(server, client).tcp(8443, 5001, SYN)));
    assert_eq!(opens.verdict, Verdict::DropPolicy);
}

#[test]
fn hairpin() {
    let mut lab = Lab::new();
    lab.allow(LAN1, LAN1, Service::Port(UDP, 53));
    lab.allow(LAN2, LAN1, Service::Port(UDP, 53));
    lab.set_pool(&["10.1.0.1"]);
    for port in [LAN1, LAN2] {
        lab.add_destination_nat(port, ("203.0.113.1", 32), (UDP, 5353), host("10.1.0.2", 53));
    }
    lab.add_source_nat(HAIRPIN, LAN1, "10.1.0.0", 24, pool(1, 1024, u16::MAX));
    let there = to(Device::Lan1, ip("10.1.0.254", "203.0.113.1").udp(5000, 5353, b"question"));
    for _ in 0..2 {
        let run = lab.receive(Device::Lan1, &there);
        assert_eq!(run.verdict, Verdict::Forward);
        let (port, _) = assert_ends(&run, "10.1.0.1", "10.1.0.2");
        let back = to(Device::Lan1, ip("10.1.0.2", "10.1.0.1").udp(53, port, b"answer"));
        let run = lab.receive(Device::Lan1, &back);
        assert_eq!(assert_ends(&run, "203.0.113.1", "10.1.0.254"), (5353, 5000));
    }
    assert_eq!(lab.translations(), 2, "as it leaves, and in between");
    // From another port the server answers by the gateway anyway, and sees who asks.
    let there = to(Device::Lan2, ip("10.2.0.2", "203.0.113.1").udp(5000, 5353, b"question"));
    assert_ends(&lab.receive(Device::Lan2, &there), "10.2.0.2", "10.1.0.2");
    let back = to(Device::Lan1, ip("10.1.0.2", "10.2.0.2").udp(53, 5000, b"answer"));
    assert_ends(&lab.receive(Device::Lan1, &back), "203.0.113.1", "10.2.0.2");
}

#[test]
fn equal_networks_behind_a_vpn() {
    let mut lab = Lab::new();
    lab.allow(LAN1, VPN, Service::Any);
    lab.allow(VPN, LAN1, Service::Any);
    for (inside, outside, bits, remote, us, as_seen) in [
        ("10.1.0.0", "10.77.1.0", 24u16, "10.9.0.20", "10.1.0.2", "10.77.1.2"),
        ("2001:db8:1::", "fd77:1::", 64, "2001:db8:9::20", "2001:db8:1::2", "fd77:1::2"),
    ] {
        let v4 = inside.contains('.');
        let whole = if v4 { bits + 96 } else { bits };
        lab.add_source_nat(LAN1, VPN, inside, bits.into(), prefix(outside, whole.into()));
        let value = DestinationNat {
            rule: 4,
            prefix_bits: whole,
            prefix: address(inside),
            ..DestinationNat::default()
        };
        lab.add_destination_nat(VPN, (outside, bits.into()), (0, 0), value);
        for _ in 0..2 {
            let run = lab.receive(Device::Lan1, &to(Device::Lan1, ip(us, remote).udp(5000, 53, b"question")));
            assert_eq!(run.verdict, Verdict::Encrypt);
            assert_eq!(assert_ends(&run, as_seen, remote), (5000, 53));
            let run =
                lab.receive(Device::Engine, &from_engine(VPN, ip(remote, as_seen).udp(53, 5000, b"answer")));
            assert_eq!(run.verdict, Verdict::Forward);
            assert_eq!(assert_ends(&run, remote, us), (53, 5000));
            // The other side may begin as well.
            let run = lab.receive(Device::Engine, &from_engine(VPN, ip(remote, as_seen).echo(true, 9)));
            assert_eq!(run.verdict, Verdict::Forward);
            assert_ends(&run, remote, us);
            let run = lab.receive(Device::Lan1, &to(Device::Lan1, ip(us, remote).echo(false, 9)));
            assert_eq!(run.verdict, Verdict::Encrypt);
            assert_ends(&run, as_seen, remote);
        }
    }
}

/// An error about a packet, quoting some bytes of it, from `source` to whoever sent it.
fn error(source: &str, about: Ip, quoted: usize) -> Ip {
    let mut quote = about.clone().bytes();
    quote.truncate(quoted);
    let kind = if about.source.is_ipv4() { 3 } else { 1 };
    ip(source, &about.source.to_string()).icmp(kind, 0, &[&[0, 0, 5, 0][..], &quote].concat())
}

#[test]
fn errors_reach_the_sender_about_the_packet_it_sent() {
    let lab = masquerading();
    let (lan, server, wan, router) = ("10.1.0.2", "198.51.100.7", "203.0.113.1", "198.51.100.1");
    for (sent, seen) in [
        (ip(lan, server).udp(5000, 53, b"question"), ip(wan, server).udp(5000, 53, b"question")),
        (ip(lan, server).tcp(5000, 80, SYN), ip(wan, server).tcp(5000, 80, SYN)),
        (ip(lan, server).echo(true, 5000), ip(wan, server).echo(true, 5000)),
    ] {
        assert_eq!(lab.receive(Device::Lan1, &to(Device::Lan1, sent.clone())).verdict, Verdict::Forward);
        for quoted in [28, 100] {
            let run = lab.receive(Device::Wan, &to(Device::Wan, error(router, seen.clone(), quoted)));
            assert_eq!(run.verdict, Verdict::Forward, "{seen:?}");
            let expected = to(Device::Wan, error(router, sent.clone(), quoted));
            assert_checksums(&run.frame);
            assert_eq!(run.frame[26..34], expected[26..34], "outer addresses");
            assert_eq!(run.frame[36..], expected[36..], "quoted as it was sent");
        }
    }
}

#[test]
fn an_error_of_the_server_hides_it() {
    let mut lab = Lab::new();
    lab.allow(WAN, LAN1, Service::Any);
    lab.add_destination_nat(WAN, ("203.0.113.1", 32), (UDP, 5353), host("10.1.0.2", 53));
    let (client, wan, server) = ("198.51.100.7", "203.0.113.1", "10.1.0.2");
    let sent = ip(client, wan).udp(5000, 5353, b"question");
    let seen = ip(client, server).udp(5000, 53, b"question");
    assert_eq!(lab.receive(Device::Wan, &to(Device::Wan, sent.clone())).verdict, Verdict::Forward);
    let run = lab.receive(Device::Lan1, &to(Device::Lan1, error(server, seen, 36)));
    assert_eq!(run.verdict, Verdict::Forward);
    let expected = to(Device::Lan1, error(wan, sent, 36));
    assert_checksums(&run.frame);
    assert_eq!(run.frame[26..], expected[26..]);
}

#[test]
fn what_the_kernel_gets_leaves_translated() {
    let mut lab = masquerading();
    lab.add_destination_nat(WAN, ("203.0.113.1", 32), (UDP, 5353), host("10.2.0.99", 53));
    lab.allow(WAN, LAN2, Service::Any);
    // No neighbour on the WAN: the kernel gets it with its own source, which only leaves as the gateway's.
    let packet = ip("10.1.0.2", "203.0.113.77").udp(5000, 53, b"question");
    let run = lab.receive(Device::Lan1, &to(Device::Lan1, packet.clone()));
    assert_eq!(run.verdict, Verdict::Pass);
    assert_ends(&run, "10.1.0.2", "203.0.113.77");
    let run = lab.send(Device::Wan, &packet.frame(NEIGHBOUR_MAC, mac(Device::Wan)));
    assert_eq!(run.verdict, Verdict::Pass);
    assert_eq!(assert_ends(&run, "203.0.113.1", "203.0.113.77"), (5000, 53));
    // No neighbour behind a forwarded port: the kernel gets it with the real destination.
    let packet = ip("198.51.100.7", "203.0.113.1").udp(5000, 5353, b"question");
    let run = lab.receive(Device::Wan, &to(Device::Wan, packet));
    assert_eq!(run.verdict, Verdict::Pass);
    assert_eq!(assert_ends(&run, "198.51.100.7", "10.2.0.99"), (5000, 53));
    let between = ip("198.51.100.7", "10.2.0.99").udp(5000, 53, b"question");
    let run = lab.send(Device::Lan2, &between.clone().frame(NEIGHBOUR_MAC, mac(Device::Lan2)));
    assert_eq!(run.verdict, Verdict::Pass);
    assert_ends(&run, "198.51.100.7", "10.2.0.99");
    // The kernel's own error about it quotes what the sender sent.
    let own = error("203.0.113.1", between, 36).frame(NEIGHBOUR_MAC, mac(Device::Wan));
    let run = lab.send(Device::Wan, &own);
    assert_eq!(run.verdict, Verdict::Pass);
    assert_checksums(&run.frame);
    let sent = ip("198.51.100.7", "203.0.113.1").udp(5000, 5353, b"question");
    assert_eq!(run.frame[42..], error("203.0.113.1", sent, 36).frame([0; 6], [0; 6])[42..]);
}

#[test]
fn a_reload_keeps_what_would_be_given_again() {
    let mut lab = masquerading();
    let there = to(Device::Lan1, ip("10.1.0.2", "198.51.100.7").udp(5000, 53, b"question"));
    let back = to(Device::Wan, ip("198.51.100.7", "203.0.113.1").udp(53, 5000, b"answer"));
    assert_eq!(lab.receive(Device::Lan1, &there).verdict, Verdict::Forward);
    lab.next_generation();
    lab.allow(LAN1, WAN, Service::Any);
    lab.set_pool(&["203.0.113.1"]);
    lab.add_source_nat(LAN1, WAN, "0.0.0.0", 0, pool(1, 1024, u16::MAX));
    assert_ends(&lab.receive(Device::Wan, &back), "198.51.100.7", "10.1.0.2");
    assert_ends(&lab.receive(Device::Lan1, &there), "203.0.113.1", "198.51.100.7");
    // Another address from now on: the flow is over, and the next packet opens one.
    lab.next_generation();
    lab.allow(LAN1, WAN, Service::Any);
    lab.set_pool(&["203.0.113.9"]);
    lab.add_network("203.0.113.9", 32, WAN, network_kind::LOCAL);
    lab.add_source_nat(LAN1, WAN, "0.0.0.0", 0, pool(1, 1024, u16::MAX));
    assert_eq!(lab.receive(Device::Lan1, &there).verdict, Verdict::DropPolicy);
    assert_eq!((lab.flows().len(), lab.translations()), (0, 0));
    assert_ends(&lab.receive(Device::Lan1, &there), "203.0.113.9", "198.51.100.7");
}

/// What a web page could make a browser say (NAT slipstreaming) opens nothing: no payload is looked at.
#[test]
fn words_in_a_payload_open_no_port() {
    let lab = masquerading();
    for (port, words) in [
        (5060, &b"REGISTER sip:x SIP/2.0\r\nContact: <sip:a@10.1.0.2:3306>\r\n\r\n"[..]),
        (21, b"PORT 10,1,0,2,12,234\r\n"),
        (6667, b"\x01DCC SEND x 167837698 3306\x01\r\n"),
    ] {
        let packet = ip("10.1.0.2", "198.51.100.7").udp(5000, port, words);
        let run = lab.receive(Device::Lan1, &to(Device::Lan1, packet));
        assert_eq!(run.verdict, Verdict::Forward);
        assert!(run.frame.ends_with(words), "left as it is");
        for knock in [3306u16, 3306] {
            let syn = ip("198.51.100.7", "203.0.113.1").tcp(4000, knock, SYN);
            assert_eq!(lab.receive(Device::Wan, &to(Device::Wan, syn)).verdict, Verdict::DropPolicy);
        }
    }
    assert_eq!(lab.flows().len(), 3);
}

#[test]
fn esp_of_a_host_behind() {
    let lab = masquerading();
    let there = to(Device::Lan1, ip("10.1.0.2", "198.51.100.7").esp(7));
    let back = to(Device::Wan, ip("198.51.100.7", "203.0.113.1").esp(8));
    for _ in 0..2 {
        assert_ends(&lab.receive(Device::Lan1, &there), "203.0.113.1", "198.51.100.7");
        assert_ends(&lab.receive(Device::Wan, &back), "198.51.100.7", "10.1.0.2");
    }
    assert_eq!(there[23], ESP);
}
