//! Rules: which list is asked, which rule of several decides, what is counted and limited.

use sekisho_abi::rule::{
    CLASS_ANY, LIST_EMPTY, LIST_SOURCE_PORTS, List, RULE_KEY_BITS, Rule, RuleKey, action, list_flags,
    rule_flags,
};
use sekisho_abi::verdict::Verdict;

use crate::forward::to;
use crate::lab::{Device, LAN1, Lab, RULE_ID, Service, WAN};
use crate::packet::ip;

const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 2;

fn rule(order: u32, action: u16) -> Rule {
    Rule { order, id: order, action, flags: 0, interval_us: 0, burst_us: 0 }
}

const BY_ALL: u32 = list_flags::BY_SOURCE | list_flags::BY_DESTINATION | list_flags::BY_BOTH;

fn syn(source: &str, destination: &str, source_port: u16, port: u16) -> Vec<u8> {
    to(Device::Lan1, ip(source, destination).tcp(source_port, port, SYN))
}

#[test]
fn of_all_lists_the_first_rule_decides() {
    let mut lab = Lab::new();
    let list = |list, first, flags| List { list, first, flags };
    lab.list(CLASS_ANY, CLASS_ANY, list(1, 4, BY_ALL));
    lab.list(1, CLASS_ANY, list(2, 3, 0));
    lab.list(CLASS_ANY, 2, list(3, 2, 0));
    lab.list(1, 2, list(4, 1, 0));
    lab.class("10.1.0.2", 32, 1);
    lab.class("2001:db8:1::2", 128, 1);
    lab.class("198.51.100.0", 24, 2);
    lab.class("2001:db8:77::", 48, 2);
    for (number, action, service) in [
        (4, action::ALLOW, Service::Any),
        (3, action::DENY, Service::Port(TCP, 80)),
        (2, action::ALLOW, Service::Port(TCP, 80)),
        (1, action::DENY, Service::Port(TCP, 443)),
    ] {
        lab.add_rule(5 - number, service, rule(number, action));
    }
    for (source, destination) in [("10.1.0.{}", "198.51.{}.7"), ("2001:db8:1::{}", "2001:db8:{}::7")] {
        let v6 = source.contains(':');
        let (inside, outside) = if v6 { ("77", "78") } else { ("100", "101") };
        for (host, network, port, verdict) in [
            ("3", outside, 80, Verdict::Forward),    // only rule 4
            ("2", outside, 80, Verdict::DropPolicy), // rule 3 before 4
            ("2", outside, 81, Verdict::Forward),    // rule 4
            ("2", inside, 80, Verdict::Forward),     // rule 2 before 3 and 4
            ("3", inside, 80, Verdict::Forward),     // rule 2
            ("2", inside, 443, Verdict::DropPolicy), // rule 1
            ("3", inside, 443, Verdict::Forward),    // rule 4
        ] {
            let frame = syn(&source.replace("{}", host), &destination.replace("{}", network), 5000, port);
            assert_eq!(lab.receive(Device::Lan1, &frame).verdict, verdict, "{host} → {network} {port}");
        }
    }
    // Each rule has counted its own: 1, 2 and 3 once and 4 thrice for each family, packets and flows.
    let counted = [1, 2, 3, 4].map(|id| (lab.rule_counter(id).packets, lab.rule_counter(id).flows));
    assert_eq!(counted, [(2, 0), (4, 4), (2, 0), (6, 6)]);
}

#[test]
fn what_no_rule_matches_is_refused_and_counted_under_none() {
    let mut lab = Lab::new();
    lab.list(CLASS_ANY, CLASS_ANY, List { list: LIST_EMPTY, first: u32::MAX, flags: list_flags::BY_SOURCE });
    lab.list(1, CLASS_ANY, List { list: 2, first: 1, flags: 0 });
    lab.class("10.1.0.2", 32, 1);
    lab.add_rule(2, Service::Any, rule(1, action::ALLOW));
    assert_eq!(
        lab.receive(Device::Lan1, &syn("10.1.0.3", "198.51.100.7", 5000, 80)).verdict,
        Verdict::DropPolicy
    );
    assert_eq!(lab.rule_counter(0).packets, 1);
    assert_eq!(
        lab.receive(Device::Lan1, &syn("10.1.0.2", "198.51.100.7", 5000, 80)).verdict,
        Verdict::Forward
    );
    // An address outside of the list's class does not get in by a flow judged again either.
    lab.next_generation();
    lab.list(CLASS_ANY, CLASS_ANY, List { list: LIST_EMPTY, first: u32::MAX, flags: list_flags::BY_SOURCE });
    lab.list(1, CLASS_ANY, List { list: 2, first: 1, flags: 0 });
    lab.class("10.1.0.3", 32, 1);
    lab.add_rule(2, Service::Any, rule(1, action::ALLOW));
    let reply = to(Device::Wan, ip("198.51.100.7", "10.1.0.2").tcp(80, 5000, SYN | 0x10));
    assert_eq!(lab.receive(Device::Wan, &reply).verdict, Verdict::DropPolicy);
    assert_eq!(lab.flows().len(), 0, "the flow is over");
}

#[test]
fn a_reply_is_judged_again_by_the_openers_addresses() {
    let mut lab = Lab::new();
    let tables = |lab: &mut Lab| {
        let flags = list_flags::BY_SOURCE;
        lab.list(CLASS_ANY, CLASS_ANY, List { list: LIST_EMPTY, first: u32::MAX, flags });
        lab.list(1, CLASS_ANY, List { list: 2, first: 1, flags: 0 });
        lab.class("10.1.0.2", 32, 1);
        lab.add_rule(2, Service::Port(UDP, 53), rule(1, action::ALLOW));
    };
    tables(&mut lab);
    let query = to(Device::Lan1, ip("10.1.0.2", "198.51.100.7").udp(5000, 53, b""));
    assert_eq!(lab.receive(Device::Lan1, &query).verdict, Verdict::Forward);
    lab.next_generation();
    tables(&mut lab);
    let reply = to(Device::Wan, ip("198.51.100.7", "10.1.0.2").udp(53, 5000, b""));
    assert_eq!(lab.receive(Device::Wan, &reply).verdict, Verdict::Forward);
    assert_eq!(lab.flow().generation, lab.generation());
}

#[test]
fn a_rule_may_ask_for_source_ports() {
    let mut lab = Lab::new();
    lab.list(CLASS_ANY, CLASS_ANY, List { list: 1, first: 1, flags: list_flags::SOURCE_PORTS });
    let key = |list: u32, protocol, source_port_class, port: u16| RuleKey {
        generation_be: 7_u32.to_be_bytes(),
        list_be: list.to_be_bytes(),
        protocol,
        source_port_class,
        port_be: port.to_be_bytes(),
    };
    assert_eq!(lab.generation(), 7);
    // Port 123 is class 1.
    let class = Rule { id: 1, ..Rule::NONE };
    lab.add_prefix("RULES", RULE_KEY_BITS, key(LIST_SOURCE_PORTS, 0, 0, 123), class);
    lab.add_prefix("RULES", RULE_KEY_BITS, key(1, UDP, 1, 123), rule(1, action::ALLOW));
    let from = |port| to(Device::Lan1, ip("10.1.0.2", "198.51.100.7").udp(port, 123, b""));
    assert_eq!(lab.receive(Device::Lan1, &from(5000)).verdict, Verdict::DropPolicy);
    assert_eq!(lab.receive(Device::Lan1, &from(123)).verdict, Verdict::Forward);
}

/// A flood of new flows is held to the limit; flows that are open live on, and with a limit for each source nobody
/// suffers for another's flood.
#[test]
fn a_limit_holds_new_flows_down() {
    for per_source in [false, true] {
        let mut lab = Lab::new();
        lab.list(CLASS_ANY, CLASS_ANY, List { list: 1, first: 1, flags: 0 });
        let flags = if per_source { rule_flags::PER_SOURCE } else { 0 };
        // One an hour, ten at once.
        let interval_us = 3_600_000_000 / 10;
        let limited = Rule { flags, interval_us, burst_us: 9 * interval_us, ..rule(1, action::ALLOW) };
        lab.add_rule(1, Service::Any, limited);
        let from =
            |host, port| to(Device::Lan1, ip(&format!("10.1.0.{host}"), "198.51.100.7").udp(port, 53, b""));
        let admitted = (0..100)
            .filter(|port| lab.receive(Device::Lan1, &from(2, 5000 + port)).verdict == Verdict::Forward)
            .count();
        assert_eq!(admitted, 10);
        assert_eq!(lab.receive(Device::Lan1, &from(2, 6000)).verdict, Verdict::DropRuleLimit);
        assert_eq!(lab.receive(Device::Lan1, &from(2, 5000)).verdict, Verdict::Forward, "a known flow");
        let other = if per_source { Verdict::Forward } else { Verdict::DropRuleLimit };
        assert_eq!(lab.receive(Device::Lan1, &from(3, 5000)).verdict, other);
    }
}

#[test]
fn a_rule_counts_every_packet_of_its_flows() {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Any);
    let query = to(Device::Lan1, ip("10.1.0.2", "198.51.100.7").udp(5000, 53, b"who?"));
    let reply = to(Device::Wan, ip("198.51.100.7", "10.1.0.2").udp(53, 5000, b"you"));
    for _ in 0..3 {
        assert_eq!(lab.receive(Device::Lan1, &query).verdict, Verdict::Forward);
        assert_eq!(lab.receive(Device::Wan, &reply).verdict, Verdict::Forward);
    }
    let counter = lab.rule_counter(RULE_ID);
    assert_eq!((counter.packets, counter.flows), (6, 1));
    assert_eq!(counter.bytes, 3 * (query.len() + reply.len()) as u64);
}
