//! Sources that try doors: noticed once, held down where their address is their own.

use sekisho_abi::quota::scan_action;
use sekisho_abi::verdict::Verdict;

use crate::forward::to;
use crate::lab::{Device, LAN1, Lab, Service, WAN};
use crate::packet::{FIN, SYN, TCP, ip};

fn lab(action: u32) -> Lab {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Port(TCP, 443));
    lab.set_quotas(|quotas| {
        quotas.scan_doors = 16;
        quotas.scan_window_s = 600;
        quotas.scan_hold_s = 600;
        quotas.scan_action = action;
    });
    lab
}

/// Tries ports of one host; the verdicts that were not the policy's.
fn scan(lab: &Lab, device: Device, source: &str, destination: &str) -> Vec<Verdict> {
    let frames = (1..=100).map(|port| to(device, ip(source, destination).tcp(5000, port, SYN)));
    let verdicts = frames.map(|frame| lab.receive(device, &frame).verdict);
    verdicts.filter(|verdict| *verdict != Verdict::DropPolicy).collect()
}

fn open(lab: &Lab, source: &str, port: u16) -> Verdict {
    lab.receive(Device::Lan1, &to(Device::Lan1, ip(source, "198.51.100.7").tcp(port, 443, SYN))).verdict
}

#[test]
fn a_scan_is_one_alarm() {
    let mut lab = lab(scan_action::ALARM);
    assert_eq!(scan(&lab, Device::Lan1, "10.1.0.2", "10.2.0.2"), [Verdict::DropScan]);
    let alarms: Vec<_> =
        lab.events().into_iter().filter(|event| event.verdict == Verdict::DropScan as u8).collect();
    assert_eq!(alarms.len(), 1);
    assert_eq!((alarms[0].source, alarms[0].port), (crate::lab::address("10.1.0.2"), LAN1));
    for port in 0..50 {
        assert_eq!(open(&lab, "10.1.0.2", 6000 + port), Verdict::Forward, "an alarm alone");
    }
    // Segments that no stack sends, to one port of many hosts, in IPv6.
    let stealthy = (1..=40).map(|host| {
        to(Device::Lan1, ip("2001:db8:1::2", &format!("2001:db8:2::{host:x}")).tcp(5000, 445, FIN))
    });
    let verdicts: Vec<_> = stealthy.map(|frame| lab.receive(Device::Lan1, &frame).verdict).collect();
    assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::DropScan).count(), 1, "{verdicts:?}");
}

#[test]
fn who_scans_may_open_few_flows_and_keeps_what_it_has() {
    let lab = lab(scan_action::LIMIT);
    assert_eq!(open(&lab, "10.1.0.2", 5999), Verdict::Forward);
    assert_eq!(scan(&lab, Device::Lan1, "10.1.0.2", "10.2.0.2"), [Verdict::DropScan]);
    let opened = (0..200).filter(|port| open(&lab, "10.1.0.2", 6000 + port) == Verdict::Forward).count();
    assert!((15..=100).contains(&opened), "{opened}");
    assert_eq!(open(&lab, "10.1.0.2", 5999), Verdict::Forward, "the flow from before");
    let neighbours = (0..200).filter(|port| open(&lab, "10.1.0.3", 6000 + port) == Verdict::Forward).count();
    assert_eq!(neighbours, 200);
}

#[test]
fn who_scans_may_be_shut_out() {
    let lab = lab(scan_action::BLOCK);
    assert_eq!(open(&lab, "10.1.0.2", 5999), Verdict::Forward);
    assert_eq!(scan(&lab, Device::Lan1, "10.1.0.2", "10.2.0.2"), [Verdict::DropScan]);
    assert_eq!(open(&lab, "10.1.0.2", 6000), Verdict::DropScanLimit);
    assert_eq!(open(&lab, "10.1.0.2", 5999), Verdict::Forward, "the flow from before");
    assert_eq!(open(&lab, "10.1.0.3", 6000), Verdict::Forward);
}

/// Whoever forges an address at an uplink would shut its owner out.
#[test]
fn nobody_is_shut_out_by_a_forger_at_an_uplink() {
    let mut lab = lab(scan_action::BLOCK);
    lab.allow(WAN, LAN1, Service::Port(TCP, 443));
    assert_eq!(scan(&lab, Device::Wan, "198.51.100.9", "10.1.0.2"), [Verdict::DropScan], "told all the same");
    let frame = to(Device::Wan, ip("198.51.100.9", "10.1.0.2").tcp(6000, 443, SYN));
    assert_eq!(lab.receive(Device::Wan, &frame).verdict, Verdict::Forward);
}
