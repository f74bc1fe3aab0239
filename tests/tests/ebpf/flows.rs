//! Flows: TCP's states, expiry, rule sets that change, and the table's bound.

use sekisho_abi::flow::{HOP_LIFETIME_NS, tcp_state};
use sekisho_abi::port::{Network, network_kind};
use sekisho_abi::verdict::Verdict;

use crate::forward::{from_engine, to};
use crate::lab::{Device, LAN1, LAN2, Lab, Service, VPN, WAN, address, zone};
use crate::packet::{ACK, FIN, Ip, RST, SYN, TCP, UDP, ip};

const CLIENT: &str = "10.1.0.2";
const SERVER: &str = "198.51.100.7";

fn there(flags: u8) -> Vec<u8> {
    to(Device::Lan1, ip(CLIENT, SERVER).tcp(5000, 80, flags))
}

fn back(flags: u8) -> Vec<u8> {
    to(Device::Wan, ip(SERVER, CLIENT).tcp(80, 5000, flags))
}

fn established(lab: &mut Lab) {
    lab.allow(LAN1, WAN, Service::Port(TCP, 80));
    for (device, frame) in
        [(Device::Lan1, there(SYN)), (Device::Wan, back(SYN | ACK)), (Device::Lan1, there(ACK))]
    {
        assert_eq!(lab.receive(device, &frame).verdict, Verdict::Forward);
    }
    assert_eq!(lab.flow().tcp_state, tcp_state::ESTABLISHED);
}

#[test]
fn what_a_flow_remembers() {
    let mut lab = Lab::new();
    established(&mut lab);
    let flow = lab.flow();
    assert_eq!((flow.port_from, flow.port_to), (LAN1, WAN));
    assert_eq!((flow.zone_from, flow.zone_to), (zone(LAN1), zone(WAN)));
    assert_eq!((flow.ifindex_from, flow.ifindex_to), (lab.ifindex(Device::Lan1), lab.ifindex(Device::Wan)));
    assert_eq!((flow.rule, flow.generation, u16::from_be(flow.rule_port_be)), (42, 7, 80));
    assert_eq!((flow.original.packets, flow.reply.packets, flow.replied), (2, 1, 1));
    assert_eq!(flow.original.bytes, 54 + 74);
    assert!(flow.created_ns > 0 && flow.last_seen_ns >= flow.created_ns);
}

#[test]
fn tcp_must_begin_with_a_syn() {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Any);
    for flags in [ACK, SYN | ACK, FIN | ACK, RST, RST | ACK] {
        assert_eq!(lab.receive(Device::Lan1, &there(flags)).verdict, Verdict::DropTcpState, "{flags:#04x}");
    }
    assert!(lab.flows().is_empty());
}

#[test]
fn tcp_closes_with_both_fins() {
    let mut lab = Lab::new();
    established(&mut lab);
    let there_at = |flags, sequence, ack| {
        to(Device::Lan1, ip(CLIENT, SERVER).tcp(5000, 80, flags).numbers(sequence, ack))
    };
    let back_at = |flags, sequence, ack| {
        to(Device::Wan, ip(SERVER, CLIENT).tcp(80, 5000, flags).numbers(sequence, ack))
    };
    for (device, frame, state) in [
        (Device::Lan1, there_at(FIN | ACK, 30, 10), tcp_state::FIN_WAIT),
        (Device::Wan, back_at(ACK, 10, 30), tcp_state::FIN_WAIT),
        (Device::Wan, back_at(ACK, 10, 31), tcp_state::CLOSE_WAIT),
        // Half closed: the other side may go on, and what it sends is acknowledged.
        (Device::Wan, back_at(ACK, 30, 31), tcp_state::CLOSE_WAIT),
        (Device::Wan, back_at(FIN | ACK, 50, 31), tcp_state::LAST_ACK),
        (Device::Wan, back_at(FIN | ACK, 50, 31), tcp_state::LAST_ACK),
        (Device::Lan1, there_at(FIN | ACK, 30, 51), tcp_state::TIME_WAIT),
        (Device::Wan, back_at(FIN | ACK, 50, 31), tcp_state::TIME_WAIT),
    ] {
        assert_eq!(lab.receive(device, &frame).verdict, Verdict::Forward);
        assert_eq!(lab.flow().tcp_state, state);
    }
    // The same ports again: a new flow, judged by rules.
    assert_eq!(lab.receive(Device::Wan, &back(SYN)).verdict, Verdict::DropPolicy);
    assert_eq!(lab.receive(Device::Lan1, &there(SYN)).verdict, Verdict::Forward);
    let flow = lab.flow();
    assert_eq!((flow.tcp_state, flow.original.packets, flow.fins), (tcp_state::SYN_SENT, 1, 0));
}

#[test]
fn tcp_is_over_after_a_reset() {
    let mut lab = Lab::new();
    established(&mut lab);
    assert_eq!(lab.receive(Device::Wan, &back(RST)).verdict, Verdict::Forward);
    assert_eq!(lab.flow().tcp_state, tcp_state::CLOSE);
    assert_eq!(lab.receive(Device::Wan, &back(RST)).verdict, Verdict::Forward, "retransmitted");
    // Had the RST been lost behind us, this would bring another one.
    assert_eq!(lab.receive(Device::Lan1, &there(ACK)).verdict, Verdict::Forward);
    assert_eq!(lab.flow().tcp_state, tcp_state::CLOSE);
    assert_eq!(lab.receive(Device::Wan, &back(SYN | ACK)).verdict, Verdict::DropTcpState);
    assert_eq!(lab.receive(Device::Lan1, &there(SYN)).verdict, Verdict::Forward, "a new one");
}

#[test]
fn tcp_packets_that_do_not_fit() {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Any);
    assert_eq!(lab.receive(Device::Lan1, &there(SYN)).verdict, Verdict::Forward);
    assert_eq!(lab.receive(Device::Lan1, &there(ACK)).verdict, Verdict::DropTcpState, "no SYN+ACK yet");
    assert_eq!(lab.receive(Device::Lan1, &there(SYN | ACK)).verdict, Verdict::DropTcpState);
    let blind = to(Device::Wan, ip(SERVER, CLIENT).tcp(80, 5000, SYN | ACK).numbers(9, 11));
    assert_eq!(
        lab.receive(Device::Wan, &blind).verdict,
        Verdict::DropTcpWindow,
        "acknowledges more than the SYN"
    );
    for nonsense in [0, SYN | FIN, SYN | RST, FIN, 0xff] {
        assert_eq!(lab.receive(Device::Lan1, &there(nonsense)).verdict, Verdict::DropTcpState);
    }
}

#[test]
fn a_new_rule_set_judges_known_flows_again() {
    let mut lab = Lab::new();
    established(&mut lab);
    // Allowed again, first seen by a reply: judged as the flow was opened, not as this packet goes.
    lab.next_generation();
    lab.allow(LAN1, WAN, Service::Port(TCP, 80));
    assert_eq!(lab.receive(Device::Wan, &back(ACK)).verdict, Verdict::Forward);
    let flow = lab.flow();
    assert_eq!((flow.generation, flow.tcp_state, flow.port_from), (8, tcp_state::ESTABLISHED, LAN1));
    // No longer allowed.
    lab.next_generation();
    assert_eq!(lab.receive(Device::Wan, &back(ACK)).verdict, Verdict::DropPolicy);
    assert!(lab.flows().is_empty());
    assert_eq!(lab.receive(Device::Lan1, &there(ACK)).verdict, Verdict::DropTcpState);
}

#[test]
fn a_new_rule_set_judges_tunnelled_and_local_flows_again() {
    let mut lab = Lab::new();
    lab.allow(LAN1, VPN, Service::Any);
    lab.allow(LAN1, 0, Service::Port(UDP, 53));
    let tunnelled = to(Device::Lan1, ip(CLIENT, "10.9.0.5").udp(1, 2, b""));
    let answer = from_engine(VPN, ip("10.9.0.5", CLIENT).udp(2, 1, b""));
    let local = to(Device::Lan1, ip(CLIENT, "10.1.0.1").udp(1, 53, b""));
    assert_eq!(lab.receive(Device::Lan1, &tunnelled).verdict, Verdict::Encrypt);
    assert_eq!(lab.receive(Device::Lan1, &local).verdict, Verdict::Pass);
    lab.next_generation();
    assert_eq!(lab.receive(Device::Engine, &answer).verdict, Verdict::DropPolicy);
    assert_eq!(lab.receive(Device::Lan1, &tunnelled).verdict, Verdict::DropPolicy);
    assert_eq!(lab.receive(Device::Lan1, &local).verdict, Verdict::DropPolicy);
    assert!(lab.flows().is_empty());
}

/// What tables have answered holds under the generation it was asked for, and under no other.
#[test]
fn tables_are_asked_again_under_another_generation() {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Any);
    let newcomer = to(Device::Lan1, ip("10.77.0.2", "198.51.100.7").udp(1, 2, b""));
    assert_eq!(lab.receive(Device::Lan1, &newcomer).verdict, Verdict::DropSpoof);
    let network = Network { port: LAN1, zone: zone(LAN1), kind: network_kind::PORT, router: 0 };
    lab.add_prefix("NETWORKS", 96 + 24, address("10.77.0.0"), network);
    assert_eq!(lab.receive(Device::Lan1, &newcomer).verdict, Verdict::DropSpoof, "as a moment ago");
    lab.next_generation();
    assert_eq!(lab.receive(Device::Lan1, &newcomer).verdict, Verdict::DropPolicy, "no rules yet");
    lab.allow(LAN1, WAN, Service::Any);
    assert_eq!(lab.receive(Device::Lan1, &newcomer).verdict, Verdict::Forward);
}

#[test]
fn flows_expire() {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Port(UDP, 53));
    let question = to(Device::Lan1, ip(CLIENT, SERVER).udp(5000, 53, b""));
    let answer = to(Device::Wan, ip(SERVER, CLIENT).udp(53, 5000, b""));
    assert_eq!(lab.receive(Device::Lan1, &question).verdict, Verdict::Forward);
    assert_eq!(lab.receive(Device::Wan, &answer).verdict, Verdict::Forward);
    lab.set_lifetimes(0);
    std::thread::sleep(2 * std::time::Duration::from_nanos(HOP_LIFETIME_NS));
    assert_eq!(lab.receive(Device::Wan, &answer).verdict, Verdict::DropPolicy);
    assert_eq!(lab.receive(Device::Lan1, &question).verdict, Verdict::Forward);
    let flow = lab.flow();
    assert_eq!((flow.original.packets, flow.replied), (1, 0), "replaced by a new one");
}

#[test]
fn a_reply_from_the_wrong_side_is_refused() {
    let mut lab = Lab::new();
    lab.allow(LAN1, LAN2, Service::Any);
    let question = to(Device::Lan1, ip(CLIENT, "10.2.0.2").udp(5000, 53, b""));
    assert_eq!(lab.receive(Device::Lan1, &question).verdict, Verdict::Forward);
    let answer = |device| to(device, ip("10.2.0.2", CLIENT).udp(53, 5000, b""));
    for device in [Device::Wan, Device::Lan1] {
        assert_eq!(lab.receive(device, &answer(device)).verdict, Verdict::DropSpoof, "{device:?}");
    }
    let tunnelled = from_engine(VPN, ip("10.2.0.2", CLIENT).udp(53, 5000, b""));
    assert_eq!(lab.receive(Device::Engine, &tunnelled).verdict, Verdict::DropSpoof);
    assert_eq!(lab.receive(Device::Lan2, &answer(Device::Lan2)).verdict, Verdict::Forward);
    // The opener's own address from elsewhere.
    let forged = to(Device::Wan, ip(CLIENT, "10.2.0.2").udp(5000, 53, b""));
    assert_eq!(lab.receive(Device::Wan, &forged).verdict, Verdict::DropSpoof);
}

#[test]
fn two_hosts_may_ping_each_other_with_one_identifier() {
    let mut lab = Lab::new();
    lab.allow(LAN1, LAN2, Service::Any);
    lab.allow(LAN2, LAN1, Service::Any);
    let echo = |packet: Ip, request| packet.echo(request, 9);
    for request in [true, false] {
        let frame = to(Device::Lan1, echo(ip(CLIENT, "10.2.0.2"), request));
        let expected = if request { Verdict::Forward } else { Verdict::DropPolicy };
        assert_eq!(lab.receive(Device::Lan1, &frame).verdict, expected);
    }
    let other = to(Device::Lan2, echo(ip("10.2.0.2", CLIENT), true));
    assert_eq!(lab.receive(Device::Lan2, &other).verdict, Verdict::Forward);
    for (device, source, destination) in
        [(Device::Lan1, CLIENT, "10.2.0.2"), (Device::Lan2, "10.2.0.2", CLIENT)]
    {
        let reply = to(device, echo(ip(source, destination), false));
        assert_eq!(lab.receive(device, &reply).verdict, Verdict::Forward);
    }
    assert_eq!(lab.flows().len(), 2);
}

#[test]
fn a_full_table_refuses_new_flows_and_keeps_the_old() {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Any);
    let known = to(Device::Lan1, ip(CLIENT, SERVER).udp(1, 2, b""));
    assert_eq!(lab.receive(Device::Lan1, &known).verdict, Verdict::Forward);
    lab.exhaust_flows();
    let new = to(Device::Lan1, ip(CLIENT, SERVER).udp(1, 3, b""));
    assert_eq!(lab.receive(Device::Lan1, &new).verdict, Verdict::DropFlowTable);
    assert_eq!(lab.receive(Device::Lan1, &known).verdict, Verdict::Forward);
}

#[test]
fn events_tell_of_refusals_and_of_logged_flows() {
    let mut lab = Lab::new();
    lab.allow_logged(LAN1, LAN2, Service::Port(UDP, 53));
    let allowed = to(Device::Lan1, ip(CLIENT, "10.2.0.2").udp(5000, 53, b""));
    assert_eq!(lab.receive(Device::Lan1, &allowed).verdict, Verdict::Forward);
    assert_eq!(lab.receive(Device::Lan1, &allowed).verdict, Verdict::Forward);
    let refused = to(Device::Lan1, ip(CLIENT, "10.2.0.2").udp(5000, 54, b""));
    for _ in 0..50 {
        assert_eq!(lab.receive(Device::Lan1, &refused).verdict, Verdict::DropPolicy);
    }
    let events = lab.events();
    let verdicts = |verdict: Verdict| events.iter().filter(|event| event.verdict == verdict as u8).count();
    assert_eq!(verdicts(Verdict::Forward), 1);
    // Fifty in a moment: the burst of each CPU, and what a slow machine adds.
    assert!((1..=49).contains(&verdicts(Verdict::DropPolicy)), "{}", verdicts(Verdict::DropPolicy));
    let event = events.last().expect("events");
    assert_eq!((event.source, event.destination), (address(CLIENT), address("10.2.0.2")));
    assert_eq!((u16::from_be(event.source_port_be), u16::from_be(event.destination_port_be)), (5000, 54));
    assert_eq!((event.port, event.protocol, event.ifindex), (LAN1, UDP, lab.ifindex(Device::Lan1)));
    assert!(event.time_ns > 0);
}

#[test]
fn lines_for_developers_are_off_unless_asked_for() {
    for (level, lines) in [(0, 0), (4, 1)] {
        let mut lab = Lab::with_log_level(level);
        let refused = to(Device::Lan1, ip(CLIENT, "10.2.0.2").udp(5000, 54, b""));
        assert_eq!(lab.receive(Device::Lan1, &refused).verdict, Verdict::DropPolicy);
        assert_eq!(lab.log_lines(), lines, "level {level}");
    }
}
