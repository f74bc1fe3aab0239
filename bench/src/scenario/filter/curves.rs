//! How the cost grows with what the gateway knows: flows, rules, addresses, zones.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::mpsc::channel;

use anyhow::{Context, Result, anyhow, ensure};
use sekisho_abi::map::FLOWS_MAX;
use sekisho_abi::mapped;
use sekisho_abi::rule::{ADDRESS_KEY_BITS, AddressKey, CLASS_ANY, List, ListKey, Rule, action, list_flags};
use sekisho_abi::verdict::Verdict;
use sekisho_tests::filter::packet::{UDP, ip};
use sekisho_tests::filter::{Device, LAN1, Lab, RULE_ID, Service, Setup, WAN, zone};

use super::clock::Clock;
use super::{HOSTS, PAYLOAD, RUNS, figure, in_namespace, to};
use crate::perf::session::Session;

/// The largest table that is filled: as an administrator of a large site configures it.
const LARGE_TABLE: u32 = 1 << 20;
/// Flows in a table of usual size, point by point.
const COUNTS: [usize; 5] = [1, 100, 1000, 10_000, 100_000];
/// New flows of one sample. All of them stay, and must find room beside those that are known.
const NEW_RUNS: usize = 1000;
/// Hosts on LAN1 that flows come from, and servers that they go to: 10.1.0.2 and on, 198.51.100.1 and on.
const HOSTS_COUNT: usize = 200;

pub(super) fn run(session: &mut Session) -> Result<()> {
    let few = session.is_quick();
    let pick = |all: &[usize]| if few { vec![all[0], all[all.len() - 1]] } else { all.to_vec() };
    for (table, case, counts) in [
        (FLOWS_MAX, "flows, in a table of 131,072", pick(&COUNTS)),
        (LARGE_TABLE, "flows, in a table of 1,048,576", pick(&[1, 1000, 10_000, 100_000, 1_000_000])),
    ] {
        in_namespace(session, |session| flows(session, case, table, &counts))?;
    }
    curve(session, "rules", &pick(&[10, 100, 1000, 10_000]), |rules| policy(rules, 0))?;
    curve(session, "addresses in sets", &pick(&[10, 1000, 10_000, 100_000]), |count| policy(10, count))?;
    curve(session, "zones, each with a rule for every other", &pick(&[2, 10, 50, 200]), zones)
}

/// Takes one sample: figures by what the packet is.
type Sample = Box<dyn FnMut() -> Result<Vec<(&'static str, f64)>>>;

/// Every point of a curve is a gateway of its own, on a thread of its own. They take turns, so that what else happens on the
/// machine is not taken for growth.
fn curve(
    session: &mut Session,
    case: &str,
    points: &[usize],
    prepare: impl Fn(usize) -> Result<Sample> + Sync,
) -> Result<()> {
    session.progress(case);
    let prepare = &prepare;
    std::thread::scope(|scope| {
        let gateways: Vec<_> = points
            .iter()
            .map(|&at| {
                let (ask, asked) = channel::<()>();
                let (answer, answers) = channel();
                scope.spawn(move || {
                    let mut sample = prepare(at);
                    // Ends when nobody asks any more, or nobody listens.
                    while asked.recv().is_ok() {
                        let found = match &mut sample {
                            Ok(sample) => sample(),
                            Err(error) => Err(anyhow!("{error:#}")),
                        };
                        if answer.send(found).is_err() {
                            break;
                        }
                    }
                });
                (at, ask, answers)
            })
            .collect();
        for index in session.turns(&(0..points.len()).collect::<Vec<_>>()).into_iter().map(|(_, index)| index)
        {
            let (at, ask, answers) = &gateways[index];
            // A gateway that could not be made has told why, and is gone.
            let gone = || format!("{case}: the gateway with {at}");
            ask.send(()).with_context(gone)?;
            for (packet, time) in answers.recv().with_context(gone)?? {
                session.record(&figure(case, packet, Some(*at as f64)), time);
            }
        }
        Ok(())
    })
}

/// The first packet of flow number so-and-so; source port, then host, then server change.
fn frame(number: usize) -> Vec<u8> {
    let last = |base: [u8; 3], offset: usize| {
        let octet = u8::try_from(2 + offset).unwrap_or(u8::MAX);
        IpAddr::from(Ipv4Addr::new(base[0], base[1], base[2], octet)).to_string()
    };
    let (turn, host) = (number / HOSTS_COUNT, number % HOSTS_COUNT);
    let (server, port) = (turn % HOSTS_COUNT, turn / HOSTS_COUNT);
    let port = 1024 + u16::try_from(port % 60_000).unwrap_or_default();
    to(Device::Lan1, ip(&last([10, 1, 0], host), &last([198, 51, 100], server)).udp(port, 53, PAYLOAD[0]))
}

/// Known flows picked all over the table, and new ones, with so many in it.
fn flows(session: &mut Session, case: &str, table: u32, counts: &[usize]) -> Result<()> {
    let mut lab = Lab::with(Setup { flows: table, ..Setup::default() });
    lab.allow(LAN1, WAN, Service::Any);
    let clock = Clock::new()?;
    let receive = lab.runner(Device::Lan1);
    // Flows that are opened by the way are behind all those that are known.
    let mut next_new = counts.iter().copied().max().unwrap_or_default();
    let mut known = 0;
    for &count in counts {
        session.progress(format_args!("{case}: {count}"));
        for number in known..count {
            receive(&frame(number));
        }
        known = count;
        ensure!(lab.receive(Device::Lan1, &frame(count - 1)).verdict == Verdict::Forward, "flow {count}");
        for _ in 0..session.rounds() {
            // An odd step that has no factor in common with the count visits all of it.
            let time =
                clock.median(&lab, Device::Lan1, RUNS, |run| frame(run.wrapping_mul(611_953) % count))?;
            session.record(&figure(case, "known flow", Some(count as f64)), time);
            let first = next_new;
            next_new += NEW_RUNS;
            let before = lab.rule_counter(RULE_ID).flows;
            let time = clock.median(&lab, Device::Lan1, NEW_RUNS, |run| frame(first + run))?;
            let opened = lab.rule_counter(RULE_ID).flows - before;
            ensure!(opened == NEW_RUNS as u64, "{opened} of {NEW_RUNS} new flows were opened");
            session.record(&figure(case, "new flow", Some(count as f64)), time);
        }
    }
    Ok(())
}

/// A new flow by the last of so many rules, and what no rule allows. Where sets have addresses, that rule asks for the
/// source and the destination, and three lists are asked before it.
fn policy(rules: usize, addresses: usize) -> Result<Sample> {
    let mut lab = Lab::with(Setup { flows: FLOWS_MAX, ..Setup::default() });
    let last = u32::try_from(rules)?;
    let rule =
        |order| Rule { order, id: order, action: action::ALLOW, flags: 0, interval_us: 0, burst_us: 0 };
    let list = |list, flags| List { list, first: 1, flags };
    let kinds = list_flags::BY_SOURCE | list_flags::BY_DESTINATION | list_flags::BY_BOTH;
    lab.list(CLASS_ANY, CLASS_ANY, list(1, if addresses > 0 { kinds } else { 0 }));
    for order in 1..last {
        lab.add_rule(1, Service::Port(UDP, u16::try_from(1000 + order)?), rule(order));
    }
    if addresses == 0 {
        lab.add_rule(1, Service::Port(UDP, 53), rule(last));
    } else {
        for (number, source, destination) in [(2, 1, CLASS_ANY), (3, CLASS_ANY, 2), (4, 1, 2)] {
            lab.list(source, destination, list(number, 0));
            let port = if number == 4 { 53 } else { 54 };
            lab.add_rule(number, Service::Port(UDP, port), rule(last));
        }
        lab.class("10.1.0.0", 24, 1);
        lab.class("198.51.100.0", 24, 2);
        let generation_be = lab.generation().to_be_bytes();
        for number in 0..u32::try_from(addresses)? {
            let [_, b, c, d] = (number * 7).to_be_bytes();
            let key = AddressKey { generation_be, address: mapped([100 + b, c, d, 1]) };
            lab.add_prefix("ADDRESSES", ADDRESS_KEY_BITS, key, 3_u32);
        }
    }
    let stray = to(Device::Lan1, ip(HOSTS[0].0, HOSTS[0].1).udp(5000, 60_000, PAYLOAD[0]));
    ensure!(lab.receive(Device::Lan1, &stray).verdict == Verdict::DropPolicy, "what no rule allows");
    let (clock, mut next_new) = (Clock::new()?, 0);
    Ok(Box::new(move || {
        let first = next_new;
        next_new += RUNS;
        let new = clock.median(&lab, Device::Lan1, RUNS, |run| frame(first + run))?;
        let opened = lab.rule_counter(last).flows;
        ensure!(opened == next_new as u64, "{opened} flows were opened by the last rule");
        let refused = clock.median(&lab, Device::Lan1, RUNS, |_| stray.clone())?;
        Ok(vec![("new flow", new), ("refused", refused)])
    }))
}

/// A new flow where so many zones have a rule towards each other.
fn zones(count: usize) -> Result<Sample> {
    let mut lab = Lab::with(Setup { flows: FLOWS_MAX, ..Setup::default() });
    lab.allow(LAN1, WAN, Service::Port(UDP, 53));
    let generation = lab.generation();
    let count = u16::try_from(count)?;
    let rule = Rule { order: 1, id: 7, action: action::ALLOW, flags: 0, interval_us: 0, burst_us: 0 };
    // LAN1 and the WAN are two of them; the others are numbered behind those of the gateway's own ports.
    let number = |index: u16| match index {
        0 => zone(LAN1),
        1 => zone(WAN),
        index => 300 + index,
    };
    let pairs = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
    for (list, (from, to)) in (1..).zip(pairs.filter(|(from, to)| from != to && (*from, *to) != (0, 1))) {
        let key = ListKey { generation, from: number(from), to: number(to), ..ListKey::default() };
        lab.insert("LISTS", key, List { list, first: 1, flags: 0 });
        lab.add_rule(list, Service::Port(UDP, 53), rule);
    }
    let (clock, mut next_new) = (Clock::new()?, 0);
    Ok(Box::new(move || {
        let first = next_new;
        next_new += RUNS;
        let new = clock.median(&lab, Device::Lan1, RUNS, |run| frame(first + run))?;
        let opened = lab.rule_counter(RULE_ID).flows;
        ensure!(opened == next_new as u64, "{opened} new flows were opened");
        Ok(vec![("new flow", new)])
    }))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_flow_is_another_one() {
        let ends: HashSet<Vec<u8>> = (0..100_000).map(|number| frame(number)[26..38].to_vec()).collect();
        assert_eq!(ends.len(), 100_000);
        assert_eq!(frame(1_048_575).len(), 64);
    }

    #[test]
    fn the_table_has_room_for_all_that_is_opened() {
        let rounds = Session::new(false).rounds();
        let opened = COUNTS.iter().max().expect("points") + COUNTS.len() * rounds * NEW_RUNS;
        assert!(opened < FLOWS_MAX as usize, "{opened}");
    }
}
