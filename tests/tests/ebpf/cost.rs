//! What a new flow and a refusal cost, with few rules and addresses and with many. Figures are printed; what is asserted
//! is that the rule meant has decided.

use std::time::Duration;

use sekisho_abi::rule::{
    ADDRESS_KEY_BITS, AddressKey, CLASS_ANY, List, ListKey, Rule, action, list_flags, rule_flags,
};
use sekisho_abi::verdict::Verdict;
use sekisho_abi::{Address, mapped};

use crate::forward::to;
use crate::lab::{Device, LAN1, Lab, Service, WAN, zone};
use crate::packet::{SYN, TCP, ip};

const UDP: u8 = 17;
/// Single runs of which the best counts: it tells the program's cost from the machine's noise.
const RUNS: usize = 3000;
/// Runs in a row where the packet changes nothing.
const REPEAT: u32 = 250;

/// A gateway with so many rules between LAN1 and the WAN, for one port each, and so many addresses in sets. The last
/// rule is for port 53, and asks for the source and the destination of the frame where there are sets.
fn gateway(rules: u32, addresses: u32) -> Lab {
    let mut lab = Lab::new();
    let generation = lab.generation();
    let key = |source_class, destination_class| ListKey {
        generation,
        from: zone(LAN1),
        to: zone(WAN),
        source_class,
        destination_class,
    };
    let rule =
        |order| Rule { order, id: order, action: action::ALLOW, flags: 0, interval_us: 0, burst_us: 0 };
    let kinds = list_flags::BY_SOURCE | list_flags::BY_DESTINATION | list_flags::BY_BOTH;
    let flags = if addresses > 0 { kinds } else { 0 };
    lab.insert("LISTS", key(CLASS_ANY, CLASS_ANY), List { list: 1, first: 1, flags });
    for order in 1..rules {
        let port = u16::try_from(1000 + order).expect("a port");
        lab.add_rule(1, Service::Port(UDP, port), rule(order));
    }
    if addresses == 0 {
        lab.add_rule(1, Service::Port(UDP, 53), rule(rules));
        return lab;
    }
    // Each kind of list has to be asked; only the last has the rule.
    for (number, source, destination) in [(2, 1, CLASS_ANY), (3, CLASS_ANY, 2), (4, 1, 2)] {
        lab.insert("LISTS", key(source, destination), List { list: number, first: 1, flags: 0 });
        lab.add_rule(number, Service::Port(UDP, if number == 4 { 53 } else { 54 }), rule(rules));
    }
    let mut add = |address: Address, class: u32| {
        let key = AddressKey { generation_be: generation.to_be_bytes(), address };
        lab.add_prefix("ADDRESSES", ADDRESS_KEY_BITS, key, class);
    };
    add(mapped([10, 1, 0, 2]), 1);
    add(mapped([198, 51, 100, 7]), 2);
    for number in 0..addresses {
        let [_, b, c, d] = (number * 7).to_be_bytes();
        add(mapped([100 + b, c, d, 1]), 3);
    }
    lab
}

#[test]
fn cost_of_a_new_flow() {
    for (rules, addresses) in
        [(10, 0), (1000, 0), (10_000, 0), (10, 1000), (10, 100_000), (10_000, 1000), (10_000, 100_000)]
    {
        let mut lab = gateway(rules, addresses);
        let frame = to(Device::Lan1, ip("10.1.0.2", "198.51.100.7").udp(5000, 53, &[0; 22]));
        assert_eq!(lab.receive(Device::Lan1, &frame).verdict, Verdict::Forward);
        assert_eq!(lab.rule_counter(rules).flows, 1, "the last rule");
        let opened = |lab: &mut Lab| -> Duration {
            lab.forget_flows();
            lab.cost(Device::Lan1, &frame, 1)
        };
        let best = (0..RUNS).map(|_| opened(&mut lab)).min().expect("runs");
        assert_eq!(lab.rule_counter(rules).flows as usize, 1 + RUNS, "each run opened a flow");
        let stray = to(Device::Lan1, ip("10.1.0.2", "198.51.100.7").udp(5000, 60_000, &[0; 22]));
        assert_eq!(lab.receive(Device::Lan1, &stray).verdict, Verdict::DropPolicy);
        let refused = (0..RUNS).map(|_| lab.cost(Device::Lan1, &stray, REPEAT)).min().expect("runs");
        println!("{rules} rules, {addresses} addresses: new flow {best:?}, refused by none {refused:?}");
    }
}

/// What quotas, challenges and the look at scans add: a new TCP flow by a rule of each kind, the challenge itself, and a
/// refusal where nobody and where somebody looks for scans.
#[test]
fn cost_of_attacks() {
    let frame = to(Device::Lan1, ip("10.1.0.2", "198.51.100.7").tcp(5000, 443, SYN));
    for (name, flags, pressure) in [
        ("without a challenge", 0, u32::MAX),
        ("challenged under pressure, none", rule_flags::SYN_CHALLENGE_PRESSURE, u32::MAX),
        ("challenged", rule_flags::SYN_CHALLENGE, 0),
    ] {
        let mut lab = Lab::new();
        lab.allow_challenged(LAN1, WAN, Service::Port(TCP, 443), flags);
        lab.set_quotas(|quotas| quotas.pressure_per_destination = pressure);
        let expected = if flags == rule_flags::SYN_CHALLENGE { Verdict::Challenge } else { Verdict::Forward };
        assert_eq!(lab.receive(Device::Lan1, &frame).verdict, expected);
        let mut run = || {
            lab.forget_flows();
            lab.cost(Device::Lan1, &frame, 1)
        };
        let best = (0..RUNS).map(|_| run()).min().expect("runs");
        println!("SYN {name}: {best:?}");
    }
    for doors in [0, 64] {
        let mut lab = Lab::new();
        lab.set_quotas(|quotas| (quotas.scan_doors, quotas.scan_window_s) = (doors, 60));
        let refused = (0..RUNS).map(|_| lab.cost(Device::Lan1, &frame, REPEAT)).min().expect("runs");
        assert_eq!(lab.receive(Device::Lan1, &frame).verdict, Verdict::DropPolicy);
        println!("refused, scans of {doors} doors: {refused:?}");
    }
}

#[test]
fn cost_of_a_refusal() {
    let lab = gateway(10, 0);
    let frame = to(Device::Lan1, ip("10.2.0.2", "198.51.100.7").udp(5000, 53, &[0; 22]));
    let spoofed = (0..RUNS).map(|_| lab.cost(Device::Lan1, &frame, REPEAT)).min().expect("runs");
    let mut tagged = frame.clone();
    tagged[12..14].copy_from_slice(&0x88cc_u16.to_be_bytes());
    let unknown = (0..RUNS).map(|_| lab.cost(Device::Lan1, &tagged, REPEAT)).min().expect("runs");
    println!("spoofed source {spoofed:?}, unknown EtherType {unknown:?}");
    let verdicts = [&frame, &tagged].map(|frame| lab.receive(Device::Lan1, frame).verdict);
    assert_eq!(verdicts, [Verdict::DropSpoof, Verdict::DropEtherType]);
}
