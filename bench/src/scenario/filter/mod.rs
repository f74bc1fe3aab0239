//! What the XDP program `port` costs a packet, by test runs of single frames (`BPF_PROG_TEST_RUN`): no driver, no veth, no
//! copy.

mod clock;
mod curves;
mod instructions;
mod programs;

use std::any::Any;

use anyhow::{Context, Result, anyhow, ensure};
use sekisho_abi::map::FLOWS_MAX;
use sekisho_abi::nat::{SourceNat, source_nat_kind};
use sekisho_abi::verdict::Verdict;
use sekisho_tests::filter::packet::{ACK, Ip, SYN, ip};
use sekisho_tests::filter::{
    Device, LAN1, Lab, NEIGHBOUR_MAC, RULE_ID, Service, Setup, VLAN10, VLAN20, WAN, mac, with_tag,
};

use crate::perf::report::{Better, Figure};
use crate::perf::session::Session;
use clock::Clock;
use instructions::Instructions;

const SCENARIO: &str = "filter";
/// Test runs of one sample, each by itself.
const RUNS: usize = 2000;
/// Calls of one sample where frames are run in a row.
const CALLS: usize = 200;
/// Runs in a row of one frame: as many as its hop limit lasts.
const IN_A_ROW: u32 = 250;
/// Host on LAN1 and server on the internet, for both families.
const HOSTS: [(&str, &str); 2] = [("10.1.0.2", "198.51.100.7"), ("2001:db8:1::2", "2001:db8:77::7")];
/// Next hop of each family.
const ROUTERS: [&str; 2] = ["203.0.113.254", "2001:db8:ff::fe"];
/// Payload that makes an Ethernet frame of 64 bytes.
const PAYLOAD: [&[u8]; 2] = [&[0; 22], &[0; 2]];

/// Measures.
///
/// # Errors
/// When what is measured is not what happens.
pub fn run(session: &mut Session) -> Result<()> {
    in_namespace(session, programs::record)?;
    in_namespace(session, in_a_row)?;
    in_namespace(session, alone)?;
    curves::run(session)
}

/// Runs on a thread of its own, since a gateway takes its thread into another network namespace.
fn in_namespace(session: &mut Session, work: impl FnOnce(&mut Session) -> Result<()> + Send) -> Result<()> {
    std::thread::scope(|scope| scope.spawn(|| work(session)).join()).unwrap_or_else(|panic| {
        Err(anyhow!("a gateway could not be made, perhaps of a stale object: {}", reason(&*panic)))
    })
}

/// What was said in a panic: of a gateway that cannot be made.
fn reason(panic: &(dyn Any + Send)) -> &str {
    let literal = panic.downcast_ref::<&str>().copied();
    literal
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("its reason stands above")
}

/// A table of flows as large as it is by default.
fn gateway() -> Lab {
    Lab::with(Setup { flows: FLOWS_MAX, ..Setup::default() })
}

/// A frame to the gateway's device.
fn to(device: Device, packet: Ip) -> Vec<u8> {
    packet.hop_limit(u8::MAX).frame(mac(device), NEIGHBOUR_MAC)
}

fn figure<'a>(case: &'a str, packet: &'a str, at: Option<f64>) -> Figure<'a> {
    Figure {
        scenario: SCENARIO,
        case,
        contender: packet,
        name: "time",
        unit: "ns",
        better: Better::Lower,
        at,
    }
}

/// Known flows, whose frames leave so that they can come in again: the next hop has the port's own MAC address. And what is
/// refused, and not changed.
fn in_a_row(session: &mut Session) -> Result<()> {
    const CASE: &str = "one frame again and again";
    session.progress(CASE);
    let mut lab = gateway();
    lab.allow(LAN1, WAN, Service::Any);
    for router in ROUTERS {
        lab.move_neighbour(router, "wan", mac(Device::Lan1));
    }
    let mut cases = Vec::new();
    for ((host, server), (payload, family)) in
        HOSTS.into_iter().zip(PAYLOAD.into_iter().zip(["IPv4", "IPv6"]))
    {
        let udp = to(Device::Lan1, ip(host, server).udp(5000, 53, payload));
        ensure!(lab.receive(Device::Lan1, &udp).verdict == Verdict::Forward, "a UDP flow");
        let answer = to(Device::Wan, ip(server, host).udp(53, 5000, payload));
        ensure!(lab.receive(Device::Wan, &answer).verdict == Verdict::Forward, "its answer");
        cases.push((format!("known flow, UDP, {family}"), udp, Verdict::Forward));
        for (device, packet) in [
            (Device::Lan1, ip(host, server).tcp(5001, 443, SYN)),
            (Device::Wan, ip(server, host).tcp(443, 5001, SYN | ACK)),
            (Device::Lan1, ip(host, server).tcp(5001, 443, ACK)),
        ] {
            ensure!(lab.receive(device, &to(device, packet)).verdict == Verdict::Forward, "a TCP flow");
        }
        let data = to(Device::Lan1, ip(host, server).tcp(5001, 443, ACK));
        cases.push((format!("known flow, TCP, {family}"), data, Verdict::Forward));
        let spoofed = if family == "IPv4" { "10.2.0.9" } else { "2001:db8:2::9" };
        let spoofed = to(Device::Lan1, ip(spoofed, server).udp(5000, 53, payload));
        cases.push((format!("spoofed source, {family}"), spoofed, Verdict::DropSpoof));
        // LAN1's server may not be asked from the internet.
        let denied = to(Device::Wan, ip(server, host).udp(5000, 80, payload));
        cases.push((format!("refused by the policy, {family}"), denied, Verdict::DropPolicy));
    }
    let mut unknown = cases[0].1.clone();
    unknown[12..14].copy_from_slice(&0x88cc_u16.to_be_bytes());
    cases.push(("unknown EtherType".into(), unknown, Verdict::DropEtherType));
    for (name, frame, verdict) in &cases {
        let device = if *verdict == Verdict::DropPolicy { Device::Wan } else { Device::Lan1 };
        ensure!(lab.receive(device, frame).verdict == *verdict, "{name}");
    }
    let mut instructions = match Instructions::open() {
        Ok(counter) => Some(counter),
        Err(error) => {
            let why = format!("this processor's counters are not ours to read (perf_event_open): {error}");
            session.skip("instructions a packet", why);
            None
        }
    };
    for _ in 0..session.rounds() {
        for (name, frame, verdict) in &cases {
            let device = if *verdict == Verdict::DropPolicy { Device::Wan } else { Device::Lan1 };
            let before = lab.rule_counter(RULE_ID).packets;
            let best = (0..CALLS).map(|_| lab.cost(device, frame, IN_A_ROW)).min().context("calls")?;
            let passed = lab.rule_counter(RULE_ID).packets - before;
            let expected = if *verdict == Verdict::Forward { CALLS as u64 * u64::from(IN_A_ROW) } else { 0 };
            ensure!(passed == expected, "{name}: {passed} of {expected} were let through");
            session.record(&figure(CASE, name, None), best.as_nanos() as f64);
            if let Some(counter) = &mut instructions {
                let count = counter.of_a_run(IN_A_ROW, |runs| {
                    lab.cost(device, frame, runs);
                })?;
                let figure = Figure { name: "instructions", unit: "", ..figure(CASE, name, None) };
                session.record(&figure, count);
            }
        }
    }
    Ok(())
}

/// One kind of packet that is changed on its way, so that each is a run by itself.
struct Alone<'a> {
    name: &'a str,
    device: Device,
    /// The frame with this number.
    frame: Box<dyn Fn(usize) -> Vec<u8>>,
}

/// Every kind of packet by itself.
fn alone(session: &mut Session) -> Result<()> {
    const CASE: &str = "a frame by itself";
    session.progress(CASE);
    let mut lab = gateway();
    lab.allow(LAN1, WAN, Service::Any);
    lab.allow(VLAN10, WAN, Service::Any);
    lab.allow(VLAN10, VLAN20, Service::Any);
    let clock = Clock::new()?;
    let mut cases = known_and_new(&lab)?;
    cases.extend(fragments(&lab)?);
    cases.extend(tagged(&lab)?);
    measure(session, CASE, &clock, &lab, &cases)?;
    // Translation is a flag of the whole gateway: apart, so that the others do not pay for it.
    let mut lab = gateway();
    lab.allow(LAN1, WAN, Service::Any);
    lab.set_pool(&["203.0.113.1"]);
    let pool = SourceNat {
        rule: 1,
        kind: source_nat_kind::POOL,
        port_first: 1024,
        port_last: u16::MAX,
        count: 1,
        ..SourceNat::default()
    };
    lab.add_source_nat(LAN1, WAN, "0.0.0.0", 0, pool);
    let (host, server) = HOSTS[0];
    let there = move |number: usize| to(Device::Lan1, ip(host, server).udp(port(number), 53, PAYLOAD[0]));
    let back = move |_: usize| to(Device::Wan, ip(server, "203.0.113.1").udp(53, port(FIXED), PAYLOAD[0]));
    ensure!(lab.receive(Device::Lan1, &there(FIXED)).verdict == Verdict::Forward, "a translated flow");
    ensure!(lab.receive(Device::Wan, &back(FIXED)).verdict == Verdict::Forward, "its answer");
    let cases = [
        Alone {
            name: "source NAT, known flow",
            device: Device::Lan1,
            frame: Box::new(move |_| there(FIXED)),
        },
        Alone { name: "source NAT, answer", device: Device::Wan, frame: Box::new(back) },
        Alone { name: "source NAT, new flow", device: Device::Lan1, frame: Box::new(there) },
    ];
    measure(session, CASE, &clock, &lab, &cases)
}

/// Number of a flow that is none of those that are opened.
const FIXED: usize = 60_000;

/// Another source port for each number.
fn port(number: usize) -> u16 {
    1024 + u16::try_from(number % 64_000).unwrap_or_default()
}

fn known_and_new(lab: &Lab) -> Result<Vec<Alone<'static>>> {
    let mut cases = Vec::new();
    for ((host, server), (payload, names)) in HOSTS.into_iter().zip(PAYLOAD.into_iter().zip([
        [
            "known flow, UDP, IPv4",
            "new flow, UDP, IPv4",
            "new flow, TCP, IPv4",
            "refused by the policy, IPv4",
        ],
        [
            "known flow, UDP, IPv6",
            "new flow, UDP, IPv6",
            "new flow, TCP, IPv6",
            "refused by the policy, IPv6",
        ],
    ])) {
        let udp = move |number| to(Device::Lan1, ip(host, server).udp(port(number), 53, payload));
        ensure!(lab.receive(Device::Lan1, &udp(FIXED)).verdict == Verdict::Forward, "a flow");
        let denied = move |_| to(Device::Wan, ip(server, host).udp(5000, 80, payload));
        ensure!(lab.receive(Device::Wan, &denied(0)).verdict == Verdict::DropPolicy, "a refusal");
        let syn = move |number| to(Device::Lan1, ip(host, server).tcp(port(number), 443, SYN));
        let lan1 = Device::Lan1;
        cases.push(Alone { name: names[0], device: lan1, frame: Box::new(move |_| udp(FIXED)) });
        cases.push(Alone { name: names[1], device: lan1, frame: Box::new(udp) });
        cases.push(Alone { name: names[2], device: lan1, frame: Box::new(syn) });
        cases.push(Alone { name: names[3], device: Device::Wan, frame: Box::new(denied) });
    }
    Ok(cases)
}

/// First and second fragments of datagrams of a known flow; a second one's first has come before.
fn fragments(lab: &Lab) -> Result<Vec<Alone<'static>>> {
    let (host, server) = HOSTS[0];
    let cut = move |id: u16| ip(host, server).udp(port(FIXED), 53, &[0x5a; 2000]).fragments(id, 1400);
    let first = move |number: usize| to(Device::Lan1, cut(1 + (number % 4096) as u16)[0].clone());
    let later = move |_: usize| to(Device::Lan1, cut(u16::MAX)[1].clone());
    let opened = to(Device::Lan1, cut(u16::MAX)[0].clone());
    ensure!(lab.receive(Device::Lan1, &opened).verdict == Verdict::Forward, "a first fragment");
    ensure!(lab.receive(Device::Lan1, &later(0)).verdict == Verdict::Forward, "a second one");
    Ok(vec![
        Alone { name: "first fragment, IPv4", device: Device::Lan1, frame: Box::new(first) },
        Alone { name: "later fragment, IPv4", device: Device::Lan1, frame: Box::new(later) },
    ])
}

/// Known flows from a VLAN of the trunk.
fn tagged(lab: &Lab) -> Result<Vec<Alone<'static>>> {
    let frame = |server: &'static str| {
        move |_: usize| with_tag(10, &to(Device::Trunk, ip("10.10.0.2", server).udp(5000, 53, PAYLOAD[0])))
    };
    let (out, across) = (frame("198.51.100.7"), frame("10.20.0.2"));
    for frame in [out(0), across(0)] {
        ensure!(lab.receive(Device::Trunk, &frame).verdict == Verdict::Forward, "a tagged frame");
    }
    Ok(vec![
        Alone { name: "known flow, VLAN to port", device: Device::Trunk, frame: Box::new(out) },
        Alone { name: "known flow, VLAN to VLAN", device: Device::Trunk, frame: Box::new(across) },
    ])
}

fn measure(session: &mut Session, case: &str, clock: &Clock, lab: &Lab, cases: &[Alone<'_>]) -> Result<()> {
    for round in 0..session.rounds() {
        for Alone { name, device, frame } in cases {
            // New flows are new in every round.
            let time = clock.median(lab, *device, RUNS, |run| frame(round * RUNS + run))?;
            session.record(&figure(case, name, None), time);
        }
    }
    Ok(())
}
