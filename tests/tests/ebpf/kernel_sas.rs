//! SAs of the kernel: an xfrm interface in place of the engine's device, and ESP left where it is.
//!
//! The engine's veth end plays the xfrm interface. What comes out of one still has the Ethernet header of the ESP packet it
//! was in; what goes into one has none. For such a frame a test run takes the protocol from where an EtherType would
//! stand, which is inside of the source address: hence sources like 8.0.1.5 (0x0800) and 2001:db8:86dd::5.

use sekisho_abi::port::network_kind;
use sekisho_abi::verdict::Verdict;

use crate::forward::to;
use crate::lab::{Device, LAN1, Lab, NEIGHBOUR_MAC, Service, VPN, WAN, mac};
use crate::packet::{ACK, Ip, SYN, TCP, UDP, ip};

const GATEWAY: &str = "203.0.113.1";
const PEER: &str = "198.51.100.9";

fn lab() -> Lab {
    let mut lab = Lab::new();
    lab.use_kernel_sas();
    for (prefix, bits, kind) in [
        ("8.0.1.0", 24, network_kind::PORT),
        ("8.0.1.1", 32, network_kind::LOCAL),
        ("2001:db8:86dd::", 64, network_kind::PORT),
    ] {
        lab.add_network(prefix, bits, LAN1, kind);
    }
    lab
}

/// Out of an SA: with the Ethernet header that the ESP packet had.
fn decrypted(packet: Ip) -> Vec<u8> {
    packet.frame(mac(Device::Wan), NEIGHBOUR_MAC)
}

#[test]
fn esp_of_a_known_sa_is_left_to_the_kernel() {
    let mut lab = lab();
    lab.add_spi(GATEWAY, 0x1122_3344, false);
    lab.add_spi(GATEWAY, 0x5566_7788, true);
    for (spi, verdict) in [
        (0x1122_3344, Verdict::Decrypt),
        (0x5566_7788, Verdict::DropEspEncapsulation),
        (0x1122_3345, Verdict::DropUnknownSpi),
    ] {
        let frame = to(Device::Wan, ip(PEER, GATEWAY).esp(spi));
        let run = lab.receive(Device::Wan, &frame);
        assert_eq!((run.verdict, run.port), (verdict, WAN));
        assert_eq!(run.frame, frame);
    }
}

#[test]
fn nobody_is_told_that_a_tunnel_is_down() {
    for kernel in [true, false] {
        let lab = if kernel { lab() } else { Lab::new() };
        for (own, host, inside, elsewhere, [kind, code]) in [
            ("10.1.0.1", "10.1.0.2", "10.9.0.5", "198.51.100.7", [3, 1]),
            ("2001:db8:1::1", "2001:db8:1::2", "2001:db8:9::5", "2001:db8:77::7", [1, 3]),
        ] {
            let sent = |about: &str, code| {
                let quoted = ip(host, about).udp(5000, 53, b"question").bytes();
                let error = ip(own, host).icmp(kind, code, &[&[0; 4][..], &quoted].concat());
                lab.send(Device::Lan1, &error.frame(mac(Device::Lan1), NEIGHBOUR_MAC)).verdict
            };
            let expected = if kernel { Verdict::DropIcmpError } else { Verdict::Pass };
            assert_eq!(sent(inside, code), expected);
            assert_eq!(sent(elsewhere, code), Verdict::Pass);
            // A port that is closed, and what is too big, are another matter.
            assert_eq!(sent(inside, 4), Verdict::Pass);
        }
    }
}

#[test]
fn what_a_rule_lets_into_a_vpn_is_the_kernels_to_encrypt() {
    let mut lab = lab();
    for (host, server) in [("8.0.1.5", "10.9.0.5"), ("2001:db8:86dd::5", "2001:db8:9::5")] {
        let packet = || ip(host, server).udp(5000, 53, b"question");
        let frame = to(Device::Lan1, packet());
        assert_eq!(lab.receive(Device::Lan1, &frame).verdict, Verdict::DropPolicy);
        assert_eq!(lab.send_bare(Device::Engine, &packet()).verdict, Verdict::DropPolicy, "no flow yet");
        lab.allow(LAN1, VPN, Service::Port(UDP, 53));
        for _ in 0..2 {
            let run = lab.receive(Device::Lan1, &frame);
            assert_eq!((run.verdict, run.port), (Verdict::Encrypt, LAN1));
            assert_eq!(run.frame, frame, "the kernel forwards it, and counts the hop");
            let run = lab.send_bare(Device::Engine, &packet());
            assert_eq!((run.verdict, run.port), (Verdict::Pass, VPN));
        }
        // Never in clear.
        let out = packet().frame(NEIGHBOUR_MAC, mac(Device::Wan));
        assert_eq!(lab.send(Device::Wan, &out).verdict, Verdict::DropClearEgress);
        lab.next_generation();
    }
}

#[test]
fn what_does_not_fit_is_answered_and_not_counted_as_encrypted() {
    let mut lab = lab();
    lab.allow(LAN1, VPN, Service::Port(UDP, 53));
    let frame = to(Device::Lan1, ip("8.0.1.5", "10.9.0.5").udp(5000, 53, &[0; 1400]));
    assert_eq!(lab.receive(Device::Lan1, &frame).verdict, Verdict::Pass);
}

#[test]
fn what_comes_out_of_a_vpn_is_judged_and_forwarded_by_the_kernel() {
    let mut lab = lab();
    let syn = decrypted(ip("10.9.0.5", "10.1.0.99").tcp(5000, 443, SYN));
    assert_eq!(lab.receive(Device::Engine, &syn).verdict, Verdict::DropPolicy);
    lab.allow(VPN, LAN1, Service::Port(TCP, 443));
    let run = lab.receive(Device::Engine, &syn);
    assert_eq!((run.verdict, run.port), (Verdict::Pass, VPN));
    assert_eq!(run.frame[..14], syn[..14], "the kernel knows the frame by its header");
    let answer = to(Device::Lan1, ip("10.1.0.99", "10.9.0.5").tcp(443, 5000, SYN | ACK));
    assert_eq!(lab.receive(Device::Lan1, &answer).verdict, Verdict::Encrypt);
    // The kernel holds each of them against the SA's selectors: none takes a shorter way.
    let ack = decrypted(ip("10.9.0.5", "10.1.0.99").tcp(5000, 443, ACK));
    for _ in 0..3 {
        assert_eq!(lab.receive(Device::Engine, &ack).verdict, Verdict::Pass);
    }
}

#[test]
fn addresses_belong_to_their_side_of_the_vpn() {
    let mut lab = lab();
    for from in [LAN1, VPN] {
        lab.allow(from, LAN1, Service::Any);
        lab.allow(from, VPN, Service::Any);
    }
    for (source, verdict) in [
        ("10.1.0.5", Verdict::DropSpoof),
        ("203.0.113.77", Verdict::DropSpoof),
        ("198.51.100.7", Verdict::DropSpoof),
        // Behind another VPN.
        ("10.11.0.5", Verdict::DropClear),
    ] {
        let frame = decrypted(ip(source, "10.1.0.99").udp(1, 2, b""));
        assert_eq!(lab.receive(Device::Engine, &frame).verdict, verdict, "{source}");
    }
    let clear = to(Device::Wan, ip("10.9.0.5", "10.1.0.99").udp(1, 2, b""));
    assert_eq!(lab.receive(Device::Wan, &clear).verdict, Verdict::DropClear);
    let hairpin = decrypted(ip("10.9.0.5", "10.9.0.6").udp(1, 2, b""));
    assert_eq!(lab.receive(Device::Engine, &hairpin).verdict, Verdict::DropNoRoute);
}

#[test]
fn the_gateways_own_packets_need_a_rule_into_a_vpn() {
    let mut lab = lab();
    let packet = ip("8.0.1.1", "10.9.0.5").udp(5000, 53, b"question");
    assert_eq!(lab.send_bare(Device::Engine, &packet).verdict, Verdict::DropPolicy);
    lab.allow(0, VPN, Service::Port(UDP, 53));
    let run = lab.send_bare(Device::Engine, &packet);
    assert_eq!((run.verdict, run.port), (Verdict::Pass, VPN));
    let answer = decrypted(ip("10.9.0.5", "8.0.1.1").udp(53, 5000, b"answer"));
    assert_eq!(lab.receive(Device::Engine, &answer).verdict, Verdict::Pass);
}
