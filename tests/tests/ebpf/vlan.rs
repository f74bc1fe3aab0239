//! Trunks: tags off and on, and every tag that is none of ours.

use std::time::Duration;

use sekisho_abi::port::port_flags;
use sekisho_abi::verdict::Verdict;

use crate::forward::to;
use crate::lab::{
    Device, LAN1, LAN2, Lab, NEIGHBOUR_MAC, Run, Service, VLAN10, VLAN20, WAN, mac, with_tag, without_tag,
};
use crate::packet::{ACK, Ip, SYN, TCP, UDP, assert_checksums, ip};

const REDIRECT: u32 = 4;
const PASS: u32 = 2;
const DROP: u32 = 1;

/// A tagged frame from a neighbour to the gateway.
fn tagged(vlan: u16, packet: Ip) -> Vec<u8> {
    with_tag(vlan, &to(Device::Trunk, packet))
}

/// The frame is what was sent but for one hop, from the gateway's `out` to the neighbour.
#[track_caller]
fn assert_forwarded(run: &Run, sent: &[u8], out: Device) {
    assert_eq!(run.verdict, Verdict::Forward);
    let mut expected = sent.to_vec();
    expected[0..6].copy_from_slice(&NEIGHBOUR_MAC);
    expected[6..12].copy_from_slice(&mac(out));
    let is_tagged = matches!(out, Device::Vlan10 | Device::Vlan20);
    let frame = if is_tagged { without_tag(&run.frame) } else { run.frame.clone() };
    let tag = match out {
        Device::Vlan10 => &[0x81, 0, 0, 10][..],
        Device::Vlan20 => &[0x81, 0, 0, 20],
        _ => &frame[12..14],
    };
    assert_eq!(&run.frame[12..12 + tag.len()], tag, "{:02x?}", run.frame);
    assert_checksums(&frame);
    let hop_limit = if expected[12..14] == [8, 0] { 22 } else { 21 };
    expected[hop_limit] -= 1;
    if hop_limit == 22 {
        expected[24..26].copy_from_slice(&frame[24..26]);
    }
    assert_eq!(frame, expected);
}

/// Both directions of a flow between two VLANs, or a VLAN and another port; the first packet makes the flow, the others
/// take the short way.
#[test]
fn tags_go_off_and_on() {
    for (from, here, vlan_here, into, there, vlan_there) in [
        (Device::Vlan10, VLAN10, Some(10), Device::Lan1, LAN1, None),
        (Device::Lan1, LAN1, None, Device::Vlan20, VLAN20, Some(20)),
        (Device::Vlan10, VLAN10, Some(10), Device::Vlan20, VLAN20, Some(20)),
        (Device::Vlan20, VLAN20, Some(20), Device::Wan, WAN, None),
    ] {
        let mut lab = Lab::new();
        lab.allow(here, there, Service::Any);
        let host = |device| match device {
            Device::Vlan10 => ("10.10.0.2", "2001:db8:10::2"),
            Device::Vlan20 => ("10.20.0.2", "2001:db8:20::2"),
            Device::Lan1 => ("10.1.0.2", "2001:db8:1::2"),
            _ => ("198.51.100.7", "2001:db8:77::7"),
        };
        let (a, b) = (host(from), host(into));
        for (a, b) in [(a.0, b.0), (a.1, b.1)] {
            for (there, back) in [
                (ip(a, b).udp(5000, 53, b"question"), ip(b, a).udp(53, 5000, b"answer")),
                (ip(a, b).tcp(5000, 80, SYN), ip(b, a).tcp(80, 5000, SYN | ACK)),
                (ip(a, b).echo(true, 77), ip(b, a).echo(false, 77)),
                (ip(a, b), ip(b, a)),
            ] {
                for (packet, enters, vlan, leaves) in
                    [(there, from, vlan_here, into), (back, into, vlan_there, from)]
                {
                    let (nic, sent) = match vlan {
                        Some(_) => (Device::Trunk, to(Device::Trunk, packet)),
                        None => (enters, to(enters, packet)),
                    };
                    let frame = vlan.map_or(sent.clone(), |vlan| with_tag(vlan, &sent));
                    for _ in 0..3 {
                        assert_forwarded(&lab.receive(nic, &frame), &sent, leaves);
                    }
                }
            }
        }
    }
}

#[test]
fn the_nic_and_the_tag_are_remembered_with_the_flow() {
    let mut lab = Lab::new();
    lab.allow(VLAN10, VLAN20, Service::Any);
    let there = tagged(10, ip("10.10.0.2", "10.20.0.2").udp(5000, 53, b""));
    assert_eq!(lab.receive(Device::Trunk, &there).verdict, Verdict::Forward);
    let flow = lab.flow();
    assert_eq!(
        (flow.ifindex_from, flow.ifindex_to),
        (lab.ifindex(Device::Vlan10), lab.ifindex(Device::Vlan20))
    );
    assert_eq!((flow.original_hop.ifindex, flow.original_hop.vlan), (lab.ifindex(Device::Trunk), 20));
}

/// No way from one VLAN into another but through the gateway: a host that puts another's tag on its frames, or its
/// addresses into them.
#[test]
fn hopping_fails() {
    let mut lab = Lab::new();
    lab.allow(VLAN10, VLAN20, Service::Any);
    lab.allow(VLAN20, LAN1, Service::Any);
    let flow = ip("10.10.0.2", "10.20.0.2").udp(5000, 53, b"");
    assert_eq!(lab.receive(Device::Trunk, &tagged(10, flow.clone())).verdict, Verdict::Forward);
    // The same packet from another VLAN, from an access port, and without a tag.
    assert_eq!(lab.receive(Device::Trunk, &tagged(20, flow.clone())).verdict, Verdict::DropSpoof);
    assert_eq!(lab.receive(Device::Lan1, &to(Device::Lan1, flow.clone())).verdict, Verdict::DropSpoof);
    assert_eq!(lab.receive(Device::Trunk, &to(Device::Trunk, flow.clone())).verdict, Verdict::DropUntagged);
    // An answer that comes by another VLAN than the flow goes to.
    let answer = ip("10.20.0.2", "10.10.0.2").udp(53, 5000, b"");
    assert_eq!(lab.receive(Device::Trunk, &tagged(10, answer.clone())).verdict, Verdict::DropSpoof);
    assert_eq!(lab.receive(Device::Trunk, &tagged(20, answer)).verdict, Verdict::Forward);
    // The old trick: an outer tag that a switch takes off, and an inner one that it doesn't see.
    let hop = with_tag(10, &tagged(20, flow.clone()));
    assert_eq!(lab.receive(Device::Trunk, &hop).verdict, Verdict::DropVlanDouble);
    // What is allowed to one VLAN is not to the other.
    let refused = tagged(10, ip("10.10.0.2", "10.1.0.2").tcp(5000, 80, SYN));
    assert_eq!(lab.receive(Device::Trunk, &refused).verdict, Verdict::DropPolicy);
}

#[test]
fn tags_that_name_no_port() {
    let mut lab = Lab::new();
    for port in [VLAN10, VLAN20, LAN1] {
        lab.allow(port, LAN2, Service::Any);
    }
    let frame = to(Device::Trunk, ip("10.10.0.2", "10.2.0.2").udp(1, 2, b""));
    let tagged = |tags: &[u8]| [&frame[..12], tags, &frame[12..]].concat();
    for (tags, expected) in [
        (&[][..], Verdict::DropUntagged),
        (&[0x81, 0, 0, 1], Verdict::DropVlanUnknown),
        (&[0x81, 0, 0, 11], Verdict::DropVlanUnknown),
        (&[0x81, 0, 0x0f, 0xff], Verdict::DropVlanUnknown),
        (&[0x81, 0, 0xff, 0xff], Verdict::DropVlanUnknown),
        (&[0x81, 0, 0, 0], Verdict::DropVlanPriority),
        (&[0x81, 0, 0xe0, 0], Verdict::DropVlanPriority),
        (&[0x88, 0xa8, 0, 10], Verdict::DropVlanDouble),
        (&[0x88, 0xa8, 0, 20, 0x81, 0, 0, 10], Verdict::DropVlanDouble),
        (&[0x81, 0, 0, 10, 0x81, 0, 0, 10], Verdict::DropVlanDouble),
        (&[0x81, 0, 0, 10, 0x88, 0xa8, 0, 10], Verdict::DropVlanDouble),
        (&[0x81, 0, 0, 10, 0x91, 0, 0, 10], Verdict::DropVlanDouble),
        (&[0x81, 0, 0, 0, 0x81, 0, 0, 10], Verdict::DropVlanDouble),
    ] {
        let run = lab.receive(Device::Trunk, &tagged(tags));
        assert_eq!((run.verdict, run.port), (expected, 0), "{tags:02x?}");
    }
    // Priority bits beside a VLAN id are nobody's harm.
    let run = lab.receive(Device::Trunk, &tagged(&[0x81, 0, 0xe0, 10]));
    assert_eq!((run.verdict, run.port), (Verdict::Forward, VLAN10));
    // Cut off anywhere in its tag, a frame is refused by any name.
    let whole = tagged(&[0x81, 0, 0, 10]);
    for end in 14..34 {
        assert!(lab.receive(Device::Trunk, &whole[..end]).verdict.is_drop(), "{end} bytes");
    }
}

/// A VPN port's number stands in `PORTS` where VLAN ids do.
#[test]
fn a_tag_on_the_engine_s_device_names_no_vpn() {
    let lab = Lab::new();
    let frame = with_tag(10, &to(Device::Engine, ip("10.9.0.5", "10.1.0.2").udp(1, 2, b"")));
    assert_eq!(lab.receive(Device::Engine, &frame).verdict, Verdict::DropVlan);
}

#[test]
fn an_untagged_port_beside_tagged_ones() {
    let mut lab = Lab::new();
    lab.add_port_with_mac(Device::Trunk, LAN2, 0, mac(Device::Trunk));
    lab.allow(LAN2, LAN1, Service::Any);
    lab.allow(VLAN10, LAN1, Service::Any);
    let packet = || ip("10.2.0.2", "10.1.0.2").udp(1, 2, b"");
    let run = lab.receive(Device::Trunk, &to(Device::Trunk, packet()));
    assert_eq!((run.verdict, run.port), (Verdict::Forward, LAN2));
    assert_eq!(lab.receive(Device::Trunk, &tagged(10, packet())).verdict, Verdict::DropSpoof);
    let run = lab.receive(Device::Trunk, &tagged(10, ip("10.10.0.2", "10.1.0.2").udp(1, 2, b"")));
    assert_eq!((run.verdict, run.port), (Verdict::Forward, VLAN10));
}

/// What the kernel shall receive comes to it without a tag, by the device that stands for the port.
#[test]
fn the_kernel_answers_on_every_vlan() {
    let mut lab = Lab::new();
    lab.allow(VLAN10, 0, Service::Port(TCP, 22));
    let arp = |sender: [u8; 4]| {
        let mut frame = [[0xff; 6], NEIGHBOUR_MAC].concat();
        frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
        frame.extend(NEIGHBOUR_MAC);
        frame.extend(sender);
        frame.extend([0, 0, 0, 0, 0, 0, 10, 10, 0, 1]);
        frame
    };
    let target = "2001:db8:10::1".parse::<std::net::Ipv6Addr>().expect("an address").octets();
    let solicitation = ip("2001:db8:10::2", "ff02::1:ff00:1")
        .icmp(135, 0, &[&[0; 4][..], &target].concat())
        .hop_limit(255)
        .frame([0x33, 0x33, 0xff, 0, 0, 1], NEIGHBOUR_MAC);
    let ssh = to(Device::Trunk, ip("10.10.0.2", "10.10.0.1").tcp(5000, 22, SYN));
    for frame in [arp([10, 10, 0, 2]), arp([0; 4]), solicitation, ssh] {
        let run = lab.receive(Device::Trunk, &with_tag(10, &frame));
        assert_eq!((run.verdict, run.port), (Verdict::Pass, VLAN10));
        assert_eq!(run.frame, frame, "the tag is off");
        assert_eq!(lab.through("handover", Device::Vlan10, &frame), (PASS, frame.clone()));
    }
    // In the other VLAN they claim what isn't theirs, or are allowed nothing.
    assert_eq!(
        lab.receive(Device::Trunk, &with_tag(20, &arp([10, 10, 0, 2]))).verdict,
        Verdict::DropNeighbour
    );
    let ssh = to(Device::Trunk, ip("10.20.0.2", "10.20.0.1").tcp(5000, 22, SYN));
    assert_eq!(lab.receive(Device::Trunk, &with_tag(20, &ssh)).verdict, Verdict::DropPolicy);
}

/// A neighbour that the kernel doesn't know, and a packet too large for the way out, are the kernel's to deal with.
#[test]
fn what_the_kernel_must_finish_is_handed_over() {
    let mut lab = Lab::new();
    lab.allow(VLAN10, VLAN20, Service::Any);
    let unknown = to(Device::Trunk, ip("10.10.0.2", "10.20.0.77").udp(1, 2, b""));
    let run = lab.receive(Device::Trunk, &with_tag(10, &unknown));
    assert_eq!((run.verdict, run.frame), (Verdict::Pass, unknown.clone()));
    // Once it knows, it sends by the port's device, through the second gate, and the other end puts the tag on.
    let sent =
        ip("10.10.0.2", "10.20.0.77").udp(1, 2, b"").hop_limit(63).frame(NEIGHBOUR_MAC, mac(Device::Vlan20));
    let run = lab.send(Device::Vlan20, &sent);
    assert_eq!((run.verdict, run.port), (Verdict::Pass, VLAN20));
    assert_eq!(lab.through("tag", Device::Vlan20Wire, &sent), (REDIRECT, with_tag(20, &sent)));
    // Nothing else gets one: from a device that is no such end.
    assert_eq!(lab.through("tag", Device::Lan1, &sent).0, DROP);
    assert_eq!(lab.through("tag", Device::Stray, &sent).0, DROP);
}

/// The second gate knows each VLAN's own flows.
#[test]
fn the_second_gate_holds_for_each_vlan() {
    let mut lab = Lab::new();
    lab.allow(VLAN10, VLAN20, Service::Port(UDP, 2));
    let packet = || ip("10.10.0.2", "10.20.0.77").udp(1, 2, b"");
    assert_eq!(lab.receive(Device::Trunk, &tagged(10, packet())).verdict, Verdict::Pass);
    let sent = |device| packet().frame(NEIGHBOUR_MAC, mac(device));
    assert_eq!(lab.send(Device::Vlan20, &sent(Device::Vlan20)).verdict, Verdict::Pass);
    assert_eq!(lab.send(Device::Vlan10, &sent(Device::Vlan10)).verdict, Verdict::DropPolicy);
    assert_eq!(lab.send(Device::Trunk, &sent(Device::Trunk)).verdict, Verdict::DropNoPort);
    let tagged = with_tag(20, &sent(Device::Vlan20));
    assert_eq!(lab.send(Device::Vlan20, &tagged).verdict, Verdict::DropVlan);
}

/// ESP comes to the engine where the tag is off: it listens at the port's own device.
#[test]
fn esp_on_a_vlan_reaches_the_engine() {
    let mut lab = Lab::new();
    lab.add_spi("10.10.0.1", 0x1234, false);
    let esp = |spi| to(Device::Trunk, ip("198.51.100.7", "10.10.0.1").esp(spi));
    let run = lab.receive(Device::Trunk, &with_tag(10, &esp(0x1234)));
    assert_eq!((run.verdict, run.port, &run.frame), (Verdict::Decrypt, VLAN10, &esp(0x1234)));
    assert_eq!(lab.through("handover", Device::Vlan10, &run.frame), (REDIRECT, esp(0x1234)));
    // Another packet that happens to be ESP is the kernel's.
    assert_eq!(lab.through("handover", Device::Vlan10, &esp(0x9999)).0, PASS);
    assert_eq!(port_flags::IKE & port_flags::UPLINK, 0);
}

/// Groups end at the port, whatever the tag.
#[test]
fn groups_stay_in_their_vlan() {
    let mut lab = Lab::new();
    lab.allow(VLAN10, VLAN20, Service::Any);
    lab.allow(VLAN10, 0, Service::Any);
    for (packet, group) in [
        (ip("10.10.0.2", "224.0.0.251").udp(5353, 5353, b""), [1, 0, 0x5e, 0, 0, 0xfb]),
        (ip("10.10.0.2", "255.255.255.255").udp(1, 137, b""), [0xff; 6]),
        (ip("10.10.0.2", "10.20.0.2").udp(1, 2, b""), [0xff; 6]),
        (ip("2001:db8:10::2", "ff02::fb").udp(5353, 5353, b""), [0x33, 0x33, 0, 0, 0, 0xfb]),
    ] {
        let frame = with_tag(10, &packet.frame(group, NEIGHBOUR_MAC));
        assert_eq!(lab.receive(Device::Trunk, &frame).verdict, Verdict::DropMulticast);
    }
    assert!(lab.flows().is_empty());
}

/// Single runs of which the best counts.
const RUNS: usize = 3000;

/// What a tag adds to a packet of a known flow; figures are printed.
#[test]
fn cost_of_tags() {
    let mut lab = Lab::new();
    for (from, into) in [(LAN1, LAN2), (VLAN10, LAN2), (LAN1, VLAN20), (VLAN10, VLAN20)] {
        lab.allow(from, into, Service::Any);
    }
    for (name, v4, v6) in [
        ("port to port", ("10.1.0.2", "10.2.0.2"), ("2001:db8:1::2", "2001:db8:2::2")),
        ("VLAN to port", ("10.10.0.2", "10.2.0.2"), ("2001:db8:10::2", "2001:db8:2::2")),
        ("port to VLAN", ("10.1.0.2", "10.20.0.2"), ("2001:db8:1::2", "2001:db8:20::2")),
        ("VLAN to VLAN", ("10.10.0.2", "10.20.0.2"), ("2001:db8:10::2", "2001:db8:20::2")),
    ] {
        let best = [v4, v6].map(|(source, destination)| {
            let packet = ip(source, destination).udp(5000, 53, &[0; 22]);
            let (device, frame) = match name.starts_with("VLAN") {
                true => (Device::Trunk, tagged(10, packet)),
                false => (Device::Lan1, to(Device::Lan1, packet)),
            };
            let mut best = Duration::MAX;
            for _ in 0..RUNS {
                best = best.min(lab.cost(device, &frame, 1));
            }
            assert_eq!(lab.receive(device, &frame).verdict, Verdict::Forward);
            best
        });
        println!("known flow, {name}: IPv4 {:?}, IPv6 {:?}", best[0], best[1]);
    }
}
