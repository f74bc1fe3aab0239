//! What the programs tell for the record: flows that they end, and the packets of a trace.

use sekisho_abi::event::{TRACED, flow_end};
use sekisho_abi::trace::Trace;
use sekisho_abi::verdict::Verdict;

use crate::forward::to;
use crate::lab::{Device, LAN1, Lab, Service, WAN, address};
use crate::packet::{ACK, RST, SYN, ip};

const CLIENT: &str = "10.1.0.2";
const SERVER: &str = "198.51.100.7";

fn there(port: u16, flags: u8) -> Vec<u8> {
    to(Device::Lan1, ip(CLIENT, SERVER).tcp(port, 80, flags))
}

fn back(port: u16, flags: u8) -> Vec<u8> {
    to(Device::Wan, ip(SERVER, CLIENT).tcp(80, port, flags))
}

fn established(lab: &mut Lab) {
    lab.allow(LAN1, WAN, Service::Any);
    for (device, frame) in [
        (Device::Lan1, there(5000, SYN)),
        (Device::Wan, back(5000, SYN | ACK)),
        (Device::Lan1, there(5000, ACK)),
    ] {
        assert_eq!(lab.receive(device, &frame).verdict, Verdict::Forward);
    }
}

#[test]
fn a_flow_that_another_replaces_is_told_with_its_counts() {
    let mut lab = Lab::new();
    established(&mut lab);
    assert_eq!(lab.receive(Device::Wan, &back(5000, RST)).verdict, Verdict::Forward);
    assert!(lab.flow_ends().is_empty(), "it is there still");
    let ended = lab.flow();
    assert_eq!(lab.receive(Device::Lan1, &there(5000, SYN)).verdict, Verdict::Forward);
    let ends = lab.flow_ends();
    let [end] = ends[..] else { panic!("one end: {ends:?}") };
    assert_eq!((end.why, end.flow), (flow_end::REPLACED, ended));
    assert_eq!((end.flow.original.packets, end.flow.reply.packets), (2, 2));
    assert_eq!((end.key, end.reserved), (lab.flows()[0].0, 0));
    assert!(end.time_ns >= ended.last_seen_ns);
}

#[test]
fn a_flow_that_the_rules_refuse_is_told() {
    let mut lab = Lab::new();
    established(&mut lab);
    let key = lab.flows()[0].0;
    lab.next_generation();
    assert_eq!(lab.receive(Device::Wan, &back(5000, ACK)).verdict, Verdict::DropPolicy);
    // The packet itself is reported behind it.
    let ends = lab.first_flow_end();
    assert_eq!((ends.why, ends.key), (flow_end::REFUSED, key));
}

#[test]
fn a_trace_reports_what_it_asks_for_until_its_time() {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Any);
    let trace = Trace {
        until_ns: u64::MAX,
        network: address(CLIENT),
        mask: [0xff; 16],
        port_be: 80_u16.to_be(),
        protocol: 6,
        ..Trace::default()
    };
    lab.set_trace(trace);
    lab.receive(Device::Lan1, &there(5000, SYN));
    lab.receive(Device::Wan, &back(5000, SYN | ACK));
    lab.receive(Device::Lan1, &to(Device::Lan1, ip(CLIENT, SERVER).udp(5000, 53, b"another")));
    let events = lab.events();
    let verdict = Verdict::Forward as u8 | TRACED;
    let seen: Vec<_> = events.iter().map(|event| (event.verdict, event.port, event.source)).collect();
    assert_eq!(seen, [(verdict, LAN1, address(CLIENT)), (verdict, WAN, address(SERVER))]);
    lab.set_trace(Trace { until_ns: 1, ..trace });
    lab.receive(Device::Lan1, &there(5000, ACK));
    assert!(lab.events().is_empty(), "its time is over");
}
