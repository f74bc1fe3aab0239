//! ICMP errors: only about packets of known flows, and only from the side those went to.

use sekisho_abi::verdict::Verdict;

use crate::forward::{from_engine, to};
use crate::lab::{Device, LAN1, Lab, Service, VPN, WAN};
use crate::packet::{ESP, Ip, SYN, UDP, assert_checksums, ip};

/// An error about `about`, quoting `quoted` bytes of it, from `source` to whoever sent it.
fn error(source: &str, about: Ip, kind: u8, quoted: usize) -> Ip {
    let mut quote = about.clone().bytes();
    quote.truncate(quoted);
    let destination = about.source.to_string();
    ip(source, &destination).icmp(kind, 0, &[&[0, 0, 5, 0][..], &quote].concat())
}

#[test]
fn answers_to_packets_of_a_flow() {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Any);
    for (host, server, router, header, kinds) in [
        ("10.1.0.2", "198.51.100.7", "198.51.100.1", 20, &[3, 11, 12][..]),
        ("2001:db8:1::2", "2001:db8:77::7", "2001:db8:77::1", 40, &[1, 2, 3, 4]),
    ] {
        for packet in [
            ip(host, server).udp(5000, 53, b"0123456789"),
            ip(host, server).tcp(5000, 80, SYN),
            ip(host, server).echo(true, 7),
        ] {
            let refused = error(router, packet.clone(), kinds[0], 100);
            assert_eq!(lab.receive(Device::Wan, &to(Device::Wan, refused)).verdict, Verdict::DropIcmpError);
            assert_eq!(
                lab.receive(Device::Lan1, &to(Device::Lan1, packet.clone())).verdict,
                Verdict::Forward
            );
            for &kind in kinds {
                for quoted in [header + 8, 100] {
                    let frame = to(Device::Wan, error(router, packet.clone(), kind, quoted));
                    let run = lab.receive(Device::Wan, &frame);
                    assert_eq!(run.verdict, Verdict::Forward, "type {kind}, {quoted} bytes of {packet:?}");
                    assert_checksums(&run.frame);
                }
            }
            let short = to(Device::Wan, error(router, packet, kinds[0], header + 7));
            assert!(lab.receive(Device::Wan, &short).verdict.is_drop());
        }
    }
}

#[test]
fn answers_to_replies() {
    let mut lab = Lab::new();
    lab.allow(LAN1, VPN, Service::Any);
    let question = ip("10.1.0.2", "10.9.0.5").udp(5000, 53, b"question");
    let reply = ip("10.9.0.5", "10.1.0.2").udp(53, 5000, b"answer");
    assert_eq!(lab.receive(Device::Lan1, &to(Device::Lan1, question.clone())).verdict, Verdict::Encrypt);
    // The host has closed its socket: its error goes back into the tunnel.
    let frame = to(Device::Lan1, error("10.1.0.2", reply, 3, 36));
    assert_eq!(lab.receive(Device::Lan1, &frame).verdict, Verdict::Encrypt);
    let frame = from_engine(VPN, error("10.9.0.1", question, 11, 36));
    assert_eq!(lab.receive(Device::Engine, &frame).verdict, Verdict::Forward);
}

#[test]
fn forged_errors() {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Any);
    lab.allow(WAN, LAN1, Service::Any);
    let packet = ip("10.1.0.2", "198.51.100.7").udp(5000, 53, b"0123456789");
    assert_eq!(lab.receive(Device::Lan1, &to(Device::Lan1, packet.clone())).verdict, Verdict::Forward);
    let about = |other: Ip| to(Device::Wan, error("198.51.100.1", other, 3, 100));
    for (name, other) in [
        ("another port", ip("10.1.0.2", "198.51.100.7").udp(5000, 54, b"0123456789")),
        ("another protocol", Ip { protocol: ESP, ..packet.clone() }),
        ("another host", ip("10.1.0.3", "198.51.100.7").udp(5000, 53, b"0123456789")),
        ("an error", ip("10.1.0.2", "198.51.100.7").icmp(3, 0, &[0; 20])),
    ] {
        assert_eq!(lab.receive(Device::Wan, &about(other)).verdict, Verdict::DropIcmpError, "{name}");
    }
    // From a side the flow's packet never went to, even though that side may send from this address.
    let inside = to(
        Device::Lan1,
        error("10.1.0.9", ip("198.51.100.7", "10.1.0.2").udp(53, 5000, b"0123456789"), 3, 100),
    );
    assert_eq!(lab.receive(Device::Lan1, &inside).verdict, Verdict::Forward, "the flow's own side may");
    let tunnel = from_engine(VPN, error("10.9.0.5", packet.clone(), 3, 100));
    assert_eq!(lab.receive(Device::Engine, &tunnel).verdict, Verdict::DropIcmpError);
    // The quoted packet was sent by someone else than who is told.
    let quote = packet.clone().bytes();
    let misled = ip("198.51.100.1", "10.1.0.9").icmp(3, 0, &[&[0; 4][..], &quote].concat());
    assert_eq!(lab.receive(Device::Wan, &to(Device::Wan, misled)).verdict, Verdict::DropIcmpError);
    lab.next_generation();
    assert_eq!(
        lab.receive(Device::Wan, &about(packet)).verdict,
        Verdict::DropIcmpError,
        "not judged again yet"
    );
}

#[test]
fn errors_about_the_gateway_s_own_traffic() {
    let mut lab = Lab::new();
    lab.allow(0, WAN, Service::Port(UDP, 53));
    let question = ip("203.0.113.1", "198.51.100.53").udp(5000, 53, b"question");
    let sent = question.clone().frame([2; 6], [2; 6]);
    let about = to(Device::Wan, error("198.51.100.1", question, 3, 100));
    assert_eq!(lab.receive(Device::Wan, &about).verdict, Verdict::DropIcmpError);
    assert_eq!(lab.send(Device::Wan, &sent).verdict, Verdict::Pass);
    assert_eq!(lab.receive(Device::Wan, &about).verdict, Verdict::Pass);
}

/// What a router says of ESP is believed where it names an SA that sends there: the path's MTU is learned by it.
#[test]
fn errors_about_the_gateway_s_esp() {
    let mut lab = Lab::new();
    for (own, peer, router, kind) in [
        ("203.0.113.1", "198.51.100.9", "198.51.100.1", 3),
        ("2001:db8:ff::1", "2001:db8:77::9", "2001:db8:77::1", 2),
    ] {
        let in_udp = |spi: u32| ip(own, peer).udp(4500, 4500, &[&spi.to_be_bytes()[..], &[0; 60]].concat());
        let about = |packet: Ip| to(Device::Wan, error(router, packet, kind, 100));
        let verdict = |lab: &Lab, packet: Ip| lab.receive(Device::Wan, &about(packet)).verdict;
        for packet in [ip(own, peer).esp(7), in_udp(7)] {
            assert_eq!(verdict(&lab, packet), Verdict::DropIcmpError, "before there is an SA");
        }
        lab.add_spi_out(peer, 7);
        for packet in [ip(own, peer).esp(7), in_udp(7)] {
            assert_eq!(verdict(&lab, packet), Verdict::Pass);
        }
        let other_peer = if kind == 3 { "198.51.100.8" } else { "2001:db8:77::8" };
        for forged in [ip(own, peer).esp(8), in_udp(8), in_udp(0), ip(own, other_peer).esp(7)] {
            assert_eq!(verdict(&lab, forged), Verdict::DropIcmpError);
        }
        // Nothing is received by it.
        let esp = to(Device::Wan, ip(peer, own).esp(7));
        assert_eq!(lab.receive(Device::Wan, &esp).verdict, Verdict::DropUnknownSpi);
    }
}

#[test]
fn numbers_of_tcp_that_were_never_sent() {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Any);
    for (host, server, router, kind) in [
        ("10.1.0.2", "198.51.100.7", "198.51.100.1", 3),
        ("2001:db8:1::2", "2001:db8:77::7", "2001:db8:77::1", 2),
    ] {
        let sent = ip(host, server).tcp(5000, 80, SYN).numbers(1_000_000, 0);
        assert_eq!(lab.receive(Device::Lan1, &to(Device::Lan1, sent.clone())).verdict, Verdict::Forward);
        for forged in [1_000_002, 930_000, 0, 1 << 31] {
            let other = sent.clone().numbers(forged, 0);
            let frame = to(Device::Wan, error(router, other, kind, 60));
            assert_eq!(lab.receive(Device::Wan, &frame).verdict, Verdict::DropIcmpError, "{forged}");
        }
        let frame = to(Device::Wan, error(router, sent.clone(), kind, 60));
        assert_eq!(lab.receive(Device::Wan, &frame).verdict, Verdict::Forward);
        lab.use_up_errors(if kind == 3 { host } else { "2001:db8:1::" }, LAN1);
        assert_eq!(lab.receive(Device::Wan, &frame).verdict, Verdict::DropRate);
    }
}

#[test]
fn headers_that_no_one_sent() {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Any);
    let sent = ip("10.1.0.2", "198.51.100.7").udp(5000, 53, b"question");
    assert_eq!(lab.receive(Device::Lan1, &to(Device::Lan1, sent.clone())).verdict, Verdict::Forward);
    let frame = to(Device::Wan, error("198.51.100.1", sent, 3, 100));
    // The quoted header's identification without its checksum, and its length.
    for (at, value) in [(14 + 28 + 5, 0xff), (14 + 28 + 3, 27)] {
        let mut forged = frame.clone();
        forged[at] = value;
        assert_eq!(lab.receive(Device::Wan, &forged).verdict, Verdict::DropIcmpError, "byte {at}");
    }
    // A router has counted the hop and left the checksum.
    let mut counted = frame.clone();
    counted[14 + 28 + 8] -= 1;
    assert_eq!(lab.receive(Device::Wan, &counted).verdict, Verdict::Forward);
}

#[test]
fn messages_nobody_needs() {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Any);
    for kind in [4, 5, 9, 10, 13, 14, 17, 18] {
        let frame = to(Device::Lan1, ip("10.1.0.2", "198.51.100.7").icmp(kind, 0, &[0; 16]));
        assert_eq!(lab.receive(Device::Lan1, &frame).verdict, Verdict::DropProtocol, "type {kind}");
    }
    let wrong_family = Ip { protocol: 58, ..ip("10.1.0.2", "198.51.100.7").echo(true, 1) };
    assert_eq!(lab.receive(Device::Lan1, &to(Device::Lan1, wrong_family)).verdict, Verdict::DropProtocol);
}
