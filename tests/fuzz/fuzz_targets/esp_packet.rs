//! ESP packets: outer headers, decryption and inner packets, in both directions.
//!
//! Asserts: what a header check accepts lies within the bytes; what was sealed and wrapped is found and opened to the
//! same again, under every transform; nothing opens that was damaged, or never sealed.
#![no_main]

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sekisho_esp::sa::{Keys, Outer, Selector, Transform};
use sekisho_esp::transform::{
    EspHeader, InnerPacket, Layout, OpeningKey, OuterHeader, OuterPacket, SealingKey, SelectorPair, Sequence,
};
use sekisho_fuzz::memory::within;
use zeroize::Zeroizing;

const SPI: u32 = 0x1234_5678;
/// Room for the outer headers and ESP's own, and behind the packet for padding and ICV.
const ROOM: usize = 128;

static KEYS: LazyLock<Vec<(SealingKey, OpeningKey)>> = LazyLock::new(|| {
    let pair = |transform: Transform| {
        let (encryption, integrity) = transform.key_bytes();
        let bytes = |length| Zeroizing::new(vec![0x5a; length]);
        let keys = Keys { encryption: bytes(encryption), integrity: bytes(integrity) };
        let sealing = SealingKey::new(transform, &keys).expect("keys that fit");
        (sealing, OpeningKey::new(transform, &keys).expect("keys that fit"))
    };
    Transform::ALL.map(pair).into()
});

static SELECTORS: LazyLock<SelectorPair> = LazyLock::new(|| {
    let v4 = |last| Ipv4Addr::new(10, 0, 0, last).into();
    let v6 = |last| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last).into();
    let local = [
        Selector { addresses: v4(0)..=v4(255), protocol: 0, ports: 0..=65535 },
        Selector { addresses: v6(0)..=v6(255), protocol: 6, ports: 443..=443 },
    ];
    SelectorPair::new(&local, &local).expect("a pair")
});

fuzz_target!(|bytes: &[u8]| {
    // Made here, where nobody counts memory yet.
    let selectors = &*SELECTORS;
    outer(bytes);
    let inner = within(0, || InnerPacket::parse(bytes));
    if let Ok(inner) = inner {
        assert!(inner.length <= bytes.len(), "longer than what there is");
        within(0, || (selectors.matches_outbound(&inner), selectors.matches_inbound(&inner)));
        if let Some(packet) = bytes.get(..inner.length) {
            round_trip(packet, &inner);
        }
    }
});

/// Nobody sealed these bytes.
fn outer(bytes: &[u8]) {
    let Ok(packet) = within(0, || OuterPacket::parse(bytes)) else { return };
    let esp = bytes.get(packet.esp.clone()).expect("within the bytes");
    let Some(header) = EspHeader::parse(esp) else { return };
    for (_, opening) in KEYS.iter() {
        let mut buffer = bytes.to_vec();
        let sequence = Sequence { number: header.sequence_low.into(), extended: false };
        assert!(opening.open(&mut buffer, packet.esp.clone(), sequence).is_err(), "opened a forgery");
    }
}

fn round_trip(packet: &[u8], inner: &InnerPacket) {
    let choice = packet.iter().fold(0usize, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
    let transform = Transform::ALL[choice % Transform::ALL.len()];
    let (sealing, opening) = &KEYS[choice % Transform::ALL.len()];
    let extended = choice & 64 != 0;
    let number = if extended { 5 << 32 | 7 } else { 7 };
    let sequence = Sequence { number, extended };
    let outside = match choice & 128 {
        0 => ("192.0.2.1:4500", "192.0.2.2:4500"),
        _ => ("[2001:db8::1]:4500", "[2001:db8::2]:4500"),
    };
    let udp_encapsulation = choice & 256 != 0;
    let outer = Outer {
        local: outside.0.parse().expect("an address"),
        remote: outside.1.parse().expect("an address"),
        udp_encapsulation,
    };

    let mut buffer = vec![0xee; 2 * ROOM + packet.len()];
    buffer[ROOM..ROOM + packet.len()].copy_from_slice(packet);
    let place = ROOM..ROOM + packet.len();
    let next_header = inner.version.next_header();
    let esp = sealing.seal(&mut buffer, place, SPI, sequence, next_header).expect("room");
    let layout = Layout::of(transform);
    assert_eq!(esp.len(), layout.headroom() + packet.len() + layout.tailroom(packet.len()));
    let header = OuterHeader::new(&outer).expect("one family");
    // Longer than IP can carry.
    let Ok(whole) = header.prepend(&mut buffer, esp.clone(), inner, 1) else { return };

    let wire = &mut buffer[whole];
    let found = OuterPacket::parse(wire).expect("our own headers");
    assert_eq!(found.udp, udp_encapsulation);
    assert_eq!((found.source.ip(), found.destination.ip()), (outer.local.ip(), outer.remote.ip()));
    assert_eq!(found.esp.len(), esp.len());
    let read = EspHeader::parse(&wire[found.esp.clone()]).expect("our own header");
    assert_eq!(read, EspHeader { spi: SPI, sequence_low: 7 });

    let mut damaged = wire.to_vec();
    let at = found.esp.start + choice % found.esp.len();
    damaged[at] ^= 1 << (choice >> 9 & 7);
    // The receiver infers the number from the packet; what is there to be damaged is its low half.
    let low = EspHeader::parse(&damaged[found.esp.clone()]).expect("as long as before").sequence_low;
    let inferred = Sequence { number: number & !0xffff_ffff | u64::from(low), extended };
    assert!(opening.open(&mut damaged, found.esp.clone(), inferred).is_err(), "opened what was damaged");

    let opened = opening.open(wire, found.esp, sequence).expect("what was sealed");
    assert_eq!(opened.next_header, next_header);
    assert_eq!(&wire[opened.payload], packet);
}
