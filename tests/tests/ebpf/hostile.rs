//! Bytes that no one would send in good faith. Whatever comes, the programs give one verdict and count it once; and
//! what isn't a whole packet of an allowed flow doesn't get out.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sekisho_abi::verdict::Verdict;

use crate::forward::{from_engine, to};
use crate::lab::{Device, LAN1, LAN2, Lab, Service, VPN, WAN};
use crate::packet::{SYN, UDP, ip};

fn lab() -> Lab {
    let mut lab = Lab::new();
    for from in [LAN1, LAN2, WAN, VPN] {
        for to in [0, LAN1, LAN2, WAN, VPN] {
            lab.allow(from, to, Service::Any);
        }
    }
    lab.add_spi("203.0.113.1", 1, false);
    lab.add_spi("203.0.113.1", 2, true);
    lab
}

/// Valid packets of every kind that the pipeline tells apart.
fn valid() -> Vec<(Device, Vec<u8>)> {
    let error = {
        let quoted = ip("10.1.0.2", "10.2.0.2").udp(1, 2, b"12345678").bytes();
        ip("10.2.0.2", "10.1.0.2").icmp(3, 3, &[&[0; 4][..], &quoted].concat())
    };
    let error_v6 = {
        let quoted = ip("2001:db8:1::2", "2001:db8:2::2").udp(1, 2, b"12345678").bytes();
        ip("2001:db8:2::2", "2001:db8:1::2").icmp(1, 4, &[&[0; 4][..], &quoted].concat())
    };
    let solicitation = ip("fe80::2", "ff02::1").icmp(
        135,
        0,
        &[&[0; 4][..], &[0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]].concat(),
    );
    let udp_v6 = || ip("2001:db8:1::2", "2001:db8:2::2").udp(1, 2, b"12345678");
    let mut packets = vec![
        (Device::Lan1, ip("10.1.0.2", "10.2.0.2").udp(1, 2, b"12345678")),
        (Device::Lan1, udp_v6()),
        (Device::Lan2, error),
        (Device::Lan2, error_v6),
        (Device::Lan1, udp_v6().extended(60, [1, 4, 0, 0, 0, 0]).extended(0, [0; 6])),
        (Device::Lan1, ip("10.1.0.2", "10.9.0.5").tcp_with(1, 2, SYN, &[1, 1, 1, 1, 2, 4, 5, 0xb4])),
        (Device::Lan1, ip("2001:db8:1::2", "2001:db8:9::5").tcp_with(1, 2, SYN, &[2, 4, 5, 0xb4])),
        (Device::Lan1, ip("10.1.0.2", "10.2.0.2").echo(true, 1)),
        (Device::Lan1, ip("2001:db8:1::2", "2001:db8:2::2").echo(true, 1)),
        (Device::Lan1, ip("10.1.0.2", "10.1.0.1").tcp(1, 22, SYN)),
        (Device::Lan1, solicitation.hop_limit(255)),
        (Device::Wan, ip("198.51.100.9", "203.0.113.1").esp(1)),
        (
            Device::Wan,
            ip("198.51.100.9", "203.0.113.1").udp(4500, 4500, &[0, 0, 0, 2, 0, 0, 0, 1, 9, 9, 9, 9]),
        ),
        (Device::Wan, ip("198.51.100.9", "203.0.113.1").udp(500, 500, &[7; 28])),
    ]
    .into_iter()
    .map(|(device, packet)| (device, to(device, packet)))
    .collect::<Vec<_>>();
    packets.push((Device::Engine, from_engine(VPN, ip("10.9.0.5", "10.1.0.2").udp(1, 2, b"12345678"))));
    packets
}

#[test]
fn every_truncation_of_every_packet_is_refused() {
    let lab = lab();
    for (device, frame) in valid() {
        let run = lab.receive(device, &frame);
        assert!(!run.verdict.is_drop(), "valid as a whole: {:?} {frame:02x?}", run.verdict);
        // Fourteen bytes are the least that the kernel runs a program on.
        for length in 14..frame.len() {
            let run = lab.receive(device, &frame[..length]);
            assert_eq!(run.verdict, Verdict::DropMalformed, "{length} of {frame:02x?}");
        }
        // Ethernet padding behind the packet changes nothing.
        let padded = [&frame[..], &[0; 30]].concat();
        let padded_run = lab.receive(device, &padded);
        assert_eq!(padded_run.verdict, run.verdict);
        assert_eq!(padded_run.frame.len(), padded.len());
    }
}

/// Truncations whose length fields were made to fit.
#[test]
fn every_truncation_with_lengths_made_to_fit() {
    let lab = lab();
    for (device, frame) in valid() {
        let header = if frame[12] == 0x08 { 34 } else { 54 };
        for length in header..frame.len() {
            let mut short = frame[..length].to_vec();
            if header == 34 {
                let total = u16::try_from(length - 14).expect("short").to_be_bytes();
                short[16..18].copy_from_slice(&total);
            } else {
                let payload = u16::try_from(length - 54).expect("short").to_be_bytes();
                short[18..20].copy_from_slice(&payload);
            }
            let run = lab.receive(device, &short);
            // Where a transport header is whole, less payload is still a packet; the programs must only stay sound.
            if length < header + 8 {
                assert!(run.verdict.is_drop(), "{:?} {short:02x?}", run.verdict);
            }
        }
    }
}

#[test]
fn random_bytes() {
    let lab = lab();
    let mut runner = TestRunner::new(Config { cases: 4000, failure_persistence: None, ..Config::default() });
    let frames = (any::<u8>(), prop::collection::vec(any::<u8>(), 14..300));
    runner
        .run(&frames, |(choice, mut frame)| {
            // Far enough into the pipeline to be of interest: right MAC address, right EtherType, right version.
            frame[..6].copy_from_slice(&crate::lab::mac(Device::Lan1));
            let six = choice & 1 != 0;
            frame[12..14].copy_from_slice(if six { &[0x86, 0xdd] } else { &[8, 0] });
            if let Some(first) = frame.get_mut(14) {
                *first = if six { 0x60 } else { 0x45 };
            }
            let action = lab.action("port", Device::Lan1, &frame);
            // Random addresses never belong to the port.
            prop_assert_eq!(action, 1);
            if Lab::can_send(&frame) {
                prop_assert_eq!(lab.action("egress", Device::Lan1, &frame), 2);
            }
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    assert!(lab.flows().is_empty());
}

#[test]
fn valid_packets_with_changed_bytes() {
    let lab = lab();
    let packets = valid();
    let mut runner = TestRunner::new(Config { cases: 6000, failure_persistence: None, ..Config::default() });
    let changes = (0..packets.len(), prop::collection::vec((12usize..100, any::<u8>()), 1..4), 14usize..200);
    runner
        .run(&changes, |(choice, changes, length)| {
            let (device, mut frame) = packets[choice].clone();
            for (at, value) in changes {
                if let Some(byte) = frame.get_mut(at) {
                    *byte = value;
                }
            }
            let length = length.min(frame.len());
            let action = lab.action("port", device, &frame[..length]);
            prop_assert!(matches!(action, 1 | 2 | 4), "aborted: {action}");
            if length < 34 {
                prop_assert_eq!(action, 1);
            }
            if Lab::can_send(&frame[..length]) {
                prop_assert!(matches!(lab.action("egress", device, &frame[..length]), 0 | 2));
            }
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    // Nothing a mutation may do opens a flow for an address of another port.
    for (_, flow) in lab.flows() {
        assert!([LAN1, LAN2, WAN, VPN, 0].contains(&flow.port_from));
    }
}

/// A flood of new flows from one host meets the table's bound and leaves the gateway working.
#[test]
fn a_flood_of_flows() {
    let lab = lab();
    let known = to(Device::Lan1, ip("10.1.0.2", "10.2.0.2").udp(1, 2, b""));
    assert_eq!(lab.receive(Device::Lan1, &known).verdict, Verdict::Forward);
    for port in 0..2000 {
        let frame = to(Device::Lan1, ip("10.1.0.2", "10.2.0.2").udp(port, 7, b""));
        lab.action("port", Device::Lan1, &frame);
    }
    let new = to(Device::Lan1, ip("10.1.0.2", "10.2.0.2").udp(2001, 7, b""));
    assert_eq!(lab.receive(Device::Lan1, &new).verdict, Verdict::DropFlowTable);
    assert_eq!(lab.receive(Device::Lan1, &known).verdict, Verdict::Forward);
    assert!(lab.flows().iter().all(|(key, _)| key.protocol == UDP));
}
