//! Quotas of the flow table: who fills it is stopped, the others live; and the counts are those of the flows there are.

use std::sync::atomic::{AtomicU16, Ordering};

use sekisho_abi::verdict::Verdict;

use crate::forward::to;
use crate::lab::{Device, LAN1, LAN2, Lab, Service, WAN};
use crate::packet::{ACK, RST, SYN, TCP, UDP, ip};

const SERVER: &str = "198.51.100.7";

fn udp(source: &str, port: u16) -> Vec<u8> {
    to(Device::Lan1, ip(source, SERVER).udp(port, 53, b""))
}

fn syn(source: &str, port: u16) -> Vec<u8> {
    to(Device::Lan1, ip(source, SERVER).tcp(port, 443, SYN))
}

/// The verdicts of packets from these ports, counted.
fn count(lab: &Lab, frames: impl Iterator<Item = Vec<u8>>, expected: Verdict) -> usize {
    frames.filter(|frame| lab.receive(Device::Lan1, frame).verdict == expected).count()
}

#[test]
fn one_source_fills_its_quota_and_no_more() {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Any);
    lab.set_quotas(|quotas| quotas.flows_per_source = 20);
    let flood = || (1..=60).map(|port| udp("10.1.0.2", port));
    assert_eq!(count(&lab, flood(), Verdict::Forward), 20);
    assert_eq!(count(&lab, flood(), Verdict::Forward), 20, "those that it has");
    assert_eq!(count(&lab, flood(), Verdict::DropQuotaSource), 40);
    // Its neighbours notice nothing.
    assert_eq!(lab.receive(Device::Lan1, &udp("10.1.0.3", 7)).verdict, Verdict::Forward);
    let six = to(Device::Lan1, ip("2001:db8:1::3", "2001:db8:77::1").udp(7, 53, b""));
    assert_eq!(lab.receive(Device::Lan1, &six).verdict, Verdict::Forward);
    assert_eq!((lab.counted(), lab.zone_flows(LAN1)), ((22, 0), 22));
}

#[test]
fn forged_sources_of_one_network_fill_their_zone_and_no_more() {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Any);
    lab.allow(LAN2, WAN, Service::Any);
    lab.set_zone_quota(LAN1, 30);
    let known = udp("10.1.0.250", 9);
    assert_eq!(lab.receive(Device::Lan1, &known).verdict, Verdict::Forward);
    let flood = || (2..=100).map(|host| udp(&format!("10.1.0.{host}"), 1));
    assert_eq!(count(&lab, flood(), Verdict::Forward), 29);
    assert_eq!(count(&lab, flood(), Verdict::DropQuotaZone), 70);
    assert_eq!(lab.receive(Device::Lan1, &known).verdict, Verdict::Forward, "a flow that lives");
    let other = to(Device::Lan2, ip("10.2.0.2", SERVER).udp(1, 53, b""));
    assert_eq!(lab.receive(Device::Lan2, &other).verdict, Verdict::Forward, "another zone");
    assert_eq!((lab.zone_flows(LAN1), lab.zone_flows(LAN2)), (30, 1));
}

#[test]
fn half_open_flows_are_few_and_established_ones_are_not_half_open() {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Any);
    lab.set_quotas(|quotas| quotas.half_open_per_source = 5);
    let flood = || (1..=20).map(|port| syn("10.1.0.2", port));
    assert_eq!(count(&lab, flood(), Verdict::Forward), 5);
    assert_eq!(lab.receive(Device::Lan1, &syn("10.1.0.2", 21)).verdict, Verdict::DropQuotaHalfOpen);
    assert_eq!(lab.receive(Device::Lan1, &udp("10.1.0.2", 1)).verdict, Verdict::Forward, "UDP goes on");
    assert_eq!(lab.receive(Device::Lan1, &syn("10.1.0.3", 1)).verdict, Verdict::Forward, "another host");
    // Counted at the source and at the destination.
    assert_eq!(lab.counted(), (7, 12));
    let back = |flags, port| to(Device::Wan, ip(SERVER, "10.1.0.2").tcp(443, port, flags));
    let there = |flags, port| to(Device::Lan1, ip("10.1.0.2", SERVER).tcp(port, 443, flags));
    for (device, frame) in [(Device::Wan, back(SYN | ACK, 1)), (Device::Lan1, there(ACK, 1))] {
        assert_eq!(lab.receive(device, &frame).verdict, Verdict::Forward);
    }
    assert_eq!(lab.counted(), (7, 10), "established");
    let refused = to(Device::Wan, ip(SERVER, "10.1.0.2").tcp(443, 2, RST | ACK).numbers(0, 10));
    assert_eq!(lab.receive(Device::Wan, &refused).verdict, Verdict::Forward);
    assert_eq!(lab.counted(), (7, 8), "reset");
    assert_eq!(count(&lab, (30..40).map(|port| syn("10.1.0.2", port)), Verdict::Forward), 2);
    // The same again changes nothing.
    assert_eq!(lab.receive(Device::Lan1, &there(ACK, 1)).verdict, Verdict::Forward);
    assert_eq!(lab.counted(), (9, 12));
}

#[test]
fn a_destination_has_a_quota_of_half_open_flows() {
    let mut lab = Lab::new();
    lab.allow(WAN, LAN1, Service::Port(TCP, 443));
    lab.set_quotas(|quotas| {
        quotas.half_open_per_destination = 8;
        // Nobody at an uplink is held to a quota by an address that anyone can forge.
        quotas.half_open_per_source = 1;
        quotas.flows_per_source = 1;
    });
    let frame =
        |host, server: &str| to(Device::Wan, ip(&format!("198.51.100.{host}"), server).tcp(1000, 443, SYN));
    let verdicts: Vec<_> =
        (1..=20).map(|host| lab.receive(Device::Wan, &frame(host, "10.1.0.2")).verdict).collect();
    assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::Forward).count(), 8);
    assert_eq!(verdicts.last(), Some(&Verdict::DropQuotaDestination));
    assert_eq!(lab.receive(Device::Wan, &frame(1, "10.1.0.254")).verdict, Verdict::Forward, "another server");
    assert_eq!((lab.counted(), lab.zone_flows(WAN)), ((0, 9), 9), "what is refused counts nowhere");
}

/// Flows that are refused by a new rule set, and those whose ends are used again, give back what they count.
#[test]
fn counts_follow_flows_that_the_programs_end() {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Any);
    assert_eq!(lab.receive(Device::Lan1, &syn("10.1.0.2", 1)).verdict, Verdict::Forward);
    assert_eq!(lab.receive(Device::Lan1, &udp("10.1.0.2", 1)).verdict, Verdict::Forward);
    assert_eq!((lab.counted(), lab.zone_flows(LAN1)), ((2, 2), 2));
    // After a reset the same ends open anew.
    let refused = to(Device::Wan, ip(SERVER, "10.1.0.2").tcp(443, 1, RST | ACK).numbers(0, 10));
    assert_eq!(lab.receive(Device::Wan, &refused).verdict, Verdict::Forward);
    assert_eq!(lab.counted(), (2, 0));
    assert_eq!(lab.receive(Device::Lan1, &syn("10.1.0.2", 1)).verdict, Verdict::Forward);
    assert_eq!((lab.counted(), lab.zone_flows(LAN1), lab.flows().len()), ((2, 2), 2, 2));
    // A rule set that allows UDP only.
    lab.next_generation();
    lab.allow(LAN1, WAN, Service::Protocol(UDP));
    assert_eq!(lab.receive(Device::Lan1, &syn("10.1.0.2", 1)).verdict, Verdict::DropPolicy);
    assert_eq!(lab.receive(Device::Lan1, &udp("10.1.0.2", 1)).verdict, Verdict::Forward);
    assert_eq!((lab.counted(), lab.zone_flows(LAN1), lab.flows().len()), ((1, 0), 1, 1));
}

/// A flow that finds no place in the table counts nowhere.
#[test]
fn what_finds_no_place_is_not_counted() {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Any);
    lab.exhaust_flows();
    assert_eq!(lab.receive(Device::Lan1, &syn("10.1.0.2", 1)).verdict, Verdict::DropFlowTable);
    assert_eq!((lab.counted(), lab.zone_flows(LAN1)), ((0, 0), 0));
}

/// Several CPUs open flows at once, the same ones among them: each flow is counted once.
#[test]
fn counts_are_exact_with_several_cpus() {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Any);
    let next = AtomicU16::new(1);
    let run = lab.runner(Device::Lan1);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let port = next.fetch_add(1, Ordering::Relaxed);
                    if port > 2000 {
                        break;
                    }
                    // Two CPUs at a time have the same ends.
                    let (host, port) = (2 + port % 3, port / 2 + 1);
                    run(&syn(&format!("10.1.0.{host}"), port % 300 + 1));
                }
            });
        }
    });
    let flows = u32::try_from(lab.flows().len()).expect("few");
    assert!(flows > 500, "{flows}");
    assert_eq!(lab.counted(), (flows, 2 * flows));
    assert_eq!(lab.zone_flows(LAN1), u64::from(flows));
}
