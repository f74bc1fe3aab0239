//! Two engines back to back, with fixed keys and the kernel's own stack at both ends.
//!
//! ```text
//!  sk-esp-a            namespace of this test, made with unshare              sk-esp-b
//!  plain-a ── veth ── inner-a ─ engine A ─ wan-a ── veth ── wan-b ─ engine B ─ inner-b ── veth ── plain-b
//!  10.1.0.1                                                                                   10.2.0.1
//! ```
//!
//! Needs root, `ip`, `ethtool` and `ping`.

mod lab;
mod redirect;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lab::{Lab, Side};
use sekisho_abi::port::engine_mac;
use sekisho_esp::engine::{DropReason, Engine, EngineConfig, EngineError, L2Path, Link};
use sekisho_esp::sa::{Keys, Lifetimes, Outer, SaEvent, SaPair, SaTable, Selector, Transform};

const PORT: u16 = 9;

/// One lab at a time: two at once on a small machine would only measure each other.
static ONE: Mutex<()> = Mutex::new(());

fn keys(transform: Transform, fill: u8) -> Keys {
    let (encryption, integrity) = transform.key_bytes();
    Keys { encryption: vec![fill; encryption].into(), integrity: vec![fill; integrity].into() }
}

fn any_of(first: &str, last: &str) -> Selector {
    Selector { addresses: first.parse().unwrap()..=last.parse().unwrap(), protocol: 0, ports: 0..=65535 }
}

/// A's pair with these SPIs; B's is its mirror.
fn pairs(transform: Transform, local: &str, remote: &str, udp_encapsulation: bool, spi: u32) -> [SaPair; 2] {
    let (local, remote): (SocketAddr, SocketAddr) = (local.parse().unwrap(), remote.parse().unwrap());
    let a = SaPair {
        port: PORT,
        name: "a-b".into(),
        resource: None,
        spi_in: 0xa000_0000 | spi,
        spi_out: 0xb000_0000 | spi,
        transform,
        keys_in: keys(transform, 0x11),
        keys_out: keys(transform, 0x22),
        esn: true,
        replay_window: 1024,
        outer: Outer { local, remote, udp_encapsulation },
        local: vec![any_of("10.1.0.0", "10.1.255.255")],
        remote: vec![any_of("10.2.0.0", "10.2.255.255")],
        lifetimes: Lifetimes::default(),
    };
    let b = SaPair {
        spi_in: a.spi_out,
        spi_out: a.spi_in,
        keys_in: a.keys_out.clone(),
        keys_out: a.keys_in.clone(),
        outer: Outer { local: remote, remote: local, udp_encapsulation },
        local: a.remote.clone(),
        remote: a.local.clone(),
        ..a.clone()
    };
    [a, b]
}

fn start(lab: &Lab, side: Side) -> Engine {
    start_with(lab, side, 1)
}

fn start_with(lab: &Lab, side: Side, workers: u32) -> Engine {
    let link = |name: String, mtu| Link { ifindex: lab.ifindex(&name), name, queues: lab::QUEUES, mtu };
    let inner = link(format!("inner-{}", side.letter()), 1400);
    let wan = link(format!("wan-{}", side.letter()), 1500);
    let config = EngineConfig::new(inner, lab.plain_mac(side), vec![wan]);
    Engine::start(EngineConfig { frames: 4096, workers, ..config }).unwrap()
}

fn point_paths(lab: &Lab, engine: &Engine, side: Side) {
    let (own, other) = (format!("wan-{}", side.letter()), format!("wan-{}", side.other().letter()));
    let path = L2Path {
        ifindex: lab.ifindex(&own),
        source_mac: lab.mac(&own),
        destination_mac: lab.mac(&other),
        mtu: None,
    };
    for remote in ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"] {
        engine.set_path(remote.parse::<IpAddr>().unwrap(), path).unwrap();
    }
}

#[test]
fn ping_udp_and_tcp_pass_between_two_engines() {
    let lab = Lab::new(engine_mac(PORT));
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (a, b) = (start(&lab, Side::A), start(&lab, Side::B));
    let _redirects: Vec<_> = [&a, &b].into_iter().flat_map(redirect::all).collect();

    // Nothing is known yet: the packet asks for an SA and does not leave.
    assert!(!lab.ping(1));
    let event = a.next_event(Duration::from_secs(1)).expect("an acquire");
    let (source, destination) = ("10.1.0.1".parse().unwrap(), "10.2.0.1".parse().unwrap());
    assert_eq!(event, SaEvent::Acquire { port: PORT, source, destination });

    point_paths(&lab, &a, Side::A);
    point_paths(&lab, &b, Side::B);
    let cases = [
        (Transform::Aes128Gcm16, "192.0.2.1:500", "192.0.2.2:500", false),
        (Transform::ChaCha20Poly1305, "192.0.2.1:4500", "192.0.2.2:4500", true),
        (Transform::Aes256CbcHmacSha256, "[2001:db8::1]:500", "[2001:db8::2]:500", false),
        (Transform::Aes256Gcm16, "[2001:db8::1]:4500", "[2001:db8::2]:4500", true),
    ];
    for (number, (transform, local, remote, udp)) in cases.into_iter().enumerate() {
        let [pair_a, pair_b] = pairs(transform, local, remote, udp, number as u32 + 0x1000);
        let (spi_a, spi_b) = (pair_a.spi_in, pair_b.spi_in);
        a.install(pair_a, true).unwrap();
        b.install(pair_b, true).unwrap();
        assert!(lab.ping(3), "{transform:?} over {local}");
        assert_eq!(lab.udp_echo(200), 200, "{transform:?} over {local}");
        let began = Instant::now();
        lab.tcp_transfer(16 << 20);
        let seconds = began.elapsed().as_secs_f64();
        println!("{transform:?} {local} udp={udp}: TCP {:.0} Mbit/s", (16 << 20) as f64 * 8e-6 / seconds);

        let (out, back) = (a.counters(spi_a).unwrap(), b.counters(spi_b).unwrap());
        assert!(out.outbound.packets > 200 && out.inbound.packets > 200);
        assert!(back.inbound.bytes > 16 << 20);
        for inbound in [out.inbound, back.inbound] {
            assert_eq!(
                (inbound.replay, inbound.integrity, inbound.selector, inbound.malformed),
                (0, 0, 0, 0)
            );
        }
        a.remove(spi_a, Duration::ZERO).unwrap();
        b.remove(spi_b, Duration::ZERO).unwrap();
        assert!(a.counters(spi_a).is_err());
        assert!(!lab.ping(1), "without an SA nothing passes");
    }

    let statistics = a.statistics();
    assert_eq!(statistics.sockets.len(), 2 * lab::QUEUES as usize);
    for device in ["inner-a", "wan-a"] {
        let sockets = statistics.sockets.iter().filter(|socket| socket.name == device);
        let (received, sent) =
            sockets.fold((0, 0), |(rx, tx), socket| (rx + socket.rx_packets, tx + socket.tx_packets));
        assert!(received > 1000 && sent > 1000, "{device}: {received} received, {sent} sent");
    }
    for socket in &statistics.sockets {
        assert_eq!((socket.tx_invalid_descs, socket.rx_invalid_descs, socket.zero_copy), (0, 0, false));
    }
    let no_sa = statistics.drops.iter().find(|(reason, _)| *reason == DropReason::NoSa).unwrap().1;
    assert!(no_sa >= cases.len() as u64);
}

/// Flows of one SA on two queues, each queue a worker's, there and back; then the same over a cable that was replaced.
#[test]
fn two_workers_share_an_sa() {
    const FLOWS: usize = 16;
    const ROUNDS: u32 = 40;
    const BURST: u32 = 8;
    let lab = Lab::new(engine_mac(PORT));
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (a, b) = (start_with(&lab, Side::A, 2), start_with(&lab, Side::B, 2));
    assert_eq!((a.workers(), b.workers()), (2, 2));
    let mut redirects: Vec<_> = [&a, &b].into_iter().flat_map(redirect::all).collect();
    let [pair_a, pair_b] = pairs(Transform::Aes128Gcm16, "192.0.2.1:500", "192.0.2.2:500", false, 7);
    let (spi_a, spi_b) = (pair_a.spi_in, pair_b.spi_in);
    a.install(pair_a.clone(), true).unwrap();
    b.install(pair_b, true).unwrap();
    assert!(a.install(pair_a, true).is_err(), "the same SPI twice");
    let all = FLOWS * (ROUNDS * BURST) as usize;
    let mut wan = ["wan-a", "wan-b"].map(|device| lab.ifindex(device));
    for cable in 1..=2 {
        point_paths(&lab, &a, Side::A);
        point_paths(&lab, &b, Side::B);
        // ARP and the like are over.
        assert!(lab.ping(1));
        let counters = || {
            let (a, b) = (a.counters(spi_a).unwrap(), b.counters(spi_b).unwrap());
            [a.outbound, b.inbound, b.outbound, a.inbound]
        };
        let before = counters();
        assert_eq!(lab.flows(FLOWS, ROUNDS, BURST), all, "cable {cable}");
        for (engine, side) in [(&a, Side::A), (&b, Side::B)] {
            let sockets = engine.statistics().sockets;
            assert_eq!(sockets.len(), 2 * lab::QUEUES as usize);
            for socket in sockets {
                let (name, queue) = (&socket.name, socket.queue);
                assert!(
                    socket.rx_packets > 100 && socket.tx_packets > 100,
                    "queue {queue} of {name} of {side:?}: {} received, {} sent",
                    socket.rx_packets,
                    socket.tx_packets
                );
            }
        }
        let now = counters();
        for (now, before) in now.iter().zip(before) {
            assert!(now.packets - before.packets >= all as u64);
            assert_eq!((now.replay, now.integrity, now.selector, now.malformed), (0, 0, 0, 0));
        }
        let passed =
            |side: usize| (now[side].packets - before[side].packets, now[side].bytes - before[side].bytes);
        assert_eq!((passed(0), passed(2)), (passed(1), passed(3)), "what one sent the other took");
        if cable == 2 {
            break;
        }

        lab::run(&["ip", "link", "delete", "wan-a"]);
        assert!(!lab.ping(1));
        lab::lay_wan();
        let link = |side: Side, queues| {
            let name = format!("wan-{}", side.letter());
            Link { ifindex: lab.ifindex(&name), name, queues, mtu: 1500 }
        };
        // Somebody else holds the first queue: the second worker's socket can be opened, and is not kept.
        let config = EngineConfig::new(link(Side::A, 1), [2; 6], vec![link(Side::B, 1)]);
        let stranger = Engine::start(EngineConfig { frames: 256, ..config }).unwrap();
        let ends = [(&a, Side::A), (&b, Side::B)];
        for ((engine, side), former) in ends.into_iter().zip(wan) {
            let before = engine.sockets().len();
            assert!(matches!(engine.replace_device(former, link(side, 1)), Err(EngineError::Config(_))));
            let error = engine.replace_device(former, link(side, lab::QUEUES)).unwrap_err();
            assert!(matches!(error, EngineError::Busy { queue: 0, .. }), "{error}");
            let still = engine.sockets().into_iter().filter(|(ifindex, ..)| *ifindex == former).count();
            assert_eq!((engine.sockets().len(), still), (before, lab::QUEUES as usize));
        }
        drop(stranger);
        for ((engine, side), former) in ends.into_iter().zip(&mut wan) {
            let now = link(side, lab::QUEUES);
            let before = std::mem::replace(former, now.ifindex);
            engine.replace_device(before, now).unwrap();
        }
        redirects.push(redirect::of_device(&a, wan[0]));
        redirects.push(redirect::of_device(&b, wan[1]));
    }

    a.remove(spi_a, Duration::from_millis(300)).unwrap();
    assert!(!lab.ping(1), "without an SA nothing leaves");
    assert!(a.counters(spi_a).is_err() && a.activate(spi_a).is_err());
}

#[test]
fn an_engine_starts_again_on_the_same_devices() {
    let lab = Lab::new(engine_mac(PORT));
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..3 {
        drop(start(&lab, Side::A));
    }
}

#[test]
fn refusals_name_the_device_and_the_remedy() {
    let lab = Lab::new(engine_mac(PORT));
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let refusal = |name: &str, ifindex: u32, queues: u32| {
        let inner = Link { ifindex: lab.ifindex("inner-a"), name: "inner-a".into(), queues: 1, mtu: 1500 };
        let outer = Link { ifindex, name: name.into(), queues, mtu: 1500 };
        let config = EngineConfig { frames: 1024, ..EngineConfig::new(inner, [2; 6], vec![outer]) };
        Engine::start(config).unwrap_err()
    };
    let wan = lab.ifindex("wan-a");
    let error = refusal("sk-none", 9999, 1);
    assert!(matches!(&error, EngineError::NoDevice { device, .. } if device == "sk-none"), "{error}");
    let error = refusal("wan-a", wan, lab::QUEUES + 1);
    assert!(matches!(error, EngineError::NoDevice { queue: lab::QUEUES, .. }), "{error}");
    let error = refusal("wan-a", wan, 0);
    assert!(matches!(error, EngineError::Config(_)), "{error}");
    let link = |name: &str, queues| Link { ifindex: lab.ifindex(name), name: name.into(), queues, mtu: 1500 };
    let config = EngineConfig::new(link("inner-a", 2), [2; 6], vec![link("wan-a", 1)]);
    let error = Engine::start(EngineConfig { workers: 2, ..config }).unwrap_err();
    assert!(error.to_string().contains("each of 2 workers needs a receive queue of wan-a"), "{error}");
    let held = start(&lab, Side::A);
    let error = refusal("wan-a", wan, 1);
    assert!(matches!(&error, EngineError::Busy { device, .. } if device == "inner-a"), "{error}");
    drop(held);
}

#[test]
fn an_engine_whose_device_is_gone_neither_spins_nor_hangs() {
    let lab = Lab::new(engine_mac(PORT));
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let engine = start(&lab, Side::A);
    let _redirects = redirect::all(&engine);
    point_paths(&lab, &engine, Side::A);
    let [pair, _] = pairs(Transform::Aes128Gcm16, "192.0.2.1:500", "192.0.2.2:500", false, 7);
    let spi = pair.spi_in;
    engine.install(pair, true).unwrap();
    lab::run(&["ip", "link", "delete", "wan-a"]);
    assert!(!lab.ping(3));
    let before = lab::cpu_time();
    std::thread::sleep(Duration::from_millis(500));
    let used = lab::cpu_time() - before;
    assert!(used < Duration::from_millis(100), "{used:?} of 500 ms without traffic");
    engine.remove(spi, Duration::ZERO).unwrap();
}
