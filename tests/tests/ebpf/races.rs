//! What several CPUs, and the daemon beside them, do at the same time.

use std::sync::atomic::{AtomicBool, Ordering};

use sekisho_abi::port::network_kind;
use sekisho_abi::verdict::Verdict;

use crate::forward::to;
use crate::lab::{Device, LAN1, Lab, Service, VPN, WAN};
use crate::packet::ip;

/// A rule set is flipped while a packet is on its way: what one set allowed must not go as judged by the other.
#[test]
fn a_flow_is_of_the_rule_set_that_judged_it() {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Any);
    let (mut config, mut map) = lab.shared_config();
    let (allowing, refusing) = (config.generation, config.generation + 1);
    let stop = AtomicBool::new(false);
    let frame = to(Device::Lan1, ip("10.1.0.2", "198.51.100.7").udp(5000, 53, b""));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                config.generation = if config.generation == allowing { refusing } else { allowing };
                map.set(0, config, 0).expect("the one entry");
            }
        });
        let mut made = 0;
        let mut wrong = 0;
        for _ in 0..100_000 {
            lab.action("port", Device::Lan1, &frame);
            for (_, flow) in lab.flows() {
                made += 1;
                wrong += u32::from(flow.generation == refusing);
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(made > 100, "{made} flows seen");
        assert_eq!(wrong, 0, "flows that no rule allows, of {made}");
    });
}

/// A CPU that is slow to remember a way may do so after another one has judged the flow again.
#[test]
fn a_way_of_another_rule_set_is_not_taken() {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Any);
    let frame = to(Device::Lan1, ip("10.1.0.2", "198.51.100.7").udp(5000, 53, b""));
    assert_eq!(lab.receive(Device::Lan1, &frame).verdict, Verdict::Forward);
    lab.add_network("198.51.100.0", 24, VPN, network_kind::VPN);
    lab.next_generation();
    lab.allow(LAN1, VPN, Service::Any);
    let (config, _) = lab.shared_config();
    lab.change_flow(|flow| flow.generation = config.generation);
    assert_eq!(lab.receive(Device::Lan1, &frame).verdict, Verdict::Encrypt);
}
