//! Finding an SA among many: outbound by VPN port and selectors, inbound by SPI; and what one that comes in place of another
//! costs, as a rekey does. All peers are in one zone, which is the most that one port can have.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion};
use sekisho_esp::engine::lookup::Lookup;
use sekisho_esp::sa::{Keys, Lifetimes, Outer, PortId, SaPair, Selector, Transform};
use sekisho_esp::transform::InnerPacket;

const COUNTS: [u32; 5] = [1, 10, 100, 1000, 10_000];
const PORT: PortId = 7;
/// Packets, each for another peer: more than caches foresee. A power of two.
const PACKETS: usize = 4096;

/// A peer with a network of 256 addresses; `round` tells the pairs of one peer apart.
fn pair(peer: u32, round: u32) -> SaPair {
    let [_, a, b, c] = peer.to_be_bytes();
    let network = |last| [10 + a, b, c, last].into();
    let selector = |addresses| Selector { addresses, protocol: 0, ports: 0..=u16::MAX };
    let keys = Keys { encryption: vec![7; 20].into(), integrity: Vec::new().into() };
    let spi = spi(peer, round);
    SaPair {
        port: PORT,
        name: format!("peer-{peer}").into(),
        resource: None,
        spi_in: spi,
        spi_out: spi,
        transform: Transform::Aes128Gcm16,
        keys_in: keys.clone(),
        keys_out: keys,
        esn: true,
        // The window has no part in this.
        replay_window: 64,
        outer: Outer {
            local: ([192, 0, 2, 1], 0).into(),
            remote: ([198, 18 + a, b, c], 0).into(),
            udp_encapsulation: false,
        },
        local: vec![selector([192, 168, 0, 0].into()..=[192, 168, 255, 255].into())],
        remote: vec![selector(network(0)..=network(255))],
        lifetimes: Lifetimes::default(),
    }
}

/// As random as SPIs are, and none of them twice nor below 256.
fn spi(peer: u32, round: u32) -> u32 {
    (peer * 2 + round % 2 + 1).wrapping_mul(0x9e37_79b1)
}

/// Peers in no order that a processor could foresee.
fn peers(count: u32) -> impl Iterator<Item = u32> {
    (0..PACKETS as u32).map(move |number| number.wrapping_mul(0x9e37_79b1).rotate_left(15) % count)
}

fn packet(peer: u32) -> InnerPacket {
    let [_, a, b, c] = peer.to_be_bytes();
    let mut bytes = [0; 28];
    bytes[0] = 0x45;
    bytes[3] = 28;
    bytes[9] = 17;
    bytes[12..16].copy_from_slice(&[192, 168, 1, 10]);
    bytes[16..20].copy_from_slice(&[10 + a, b, c, 9]);
    InnerPacket::parse(&bytes).expect("a packet")
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for name in ["find outbound", "find inbound", "two rekeys"] {
        let mut group = criterion.benchmark_group(name);
        for count in COUNTS {
            let mut lookup = Lookup::with((0..count).map(|peer| pair(peer, 0))).expect("pairs");
            let packets: Vec<InnerPacket> = peers(count).map(packet).collect();
            let spis: Vec<u32> = peers(count).map(|peer| spi(peer, 0)).collect();
            let last = count - 1;
            let mut next = 0;
            let mut at = || {
                next = (next + 1) % PACKETS;
                next
            };
            let id = BenchmarkId::from_parameter(count);
            match name {
                "find outbound" => group.bench_function(id, |bencher| {
                    bencher.iter(|| lookup.outbound(PORT, black_box(&packets[at()])).expect("an SA"));
                }),
                "find inbound" => group.bench_function(id, |bencher| {
                    bencher.iter(|| lookup.inbound(black_box(spis[at()])).expect("an SA"));
                }),
                // There and back again: two rekeys, keys expanded included.
                _ => group.bench_function(id, |bencher| {
                    bencher.iter(|| {
                        for round in [1, 0] {
                            lookup.install(pair(last, round)).expect("a pair");
                            lookup.remove(spi(last, 1 - round)).expect("its predecessor");
                        }
                    });
                }),
            };
        }
        group.finish();
    }
    criterion.final_summary();
}
