//! Address translation (RFC 3022, behaviour after RFC 4787, RFC 5382 and RFC 5508): which ends a flow's packets have
//! where, and which source ports are tried.
//!
//! No payload is ever looked at: there are no helpers for protocols that carry addresses in it, and so nothing that a
//! web page could make them say ("NAT slipstreaming").

use sekisho_abi::Address;
use sekisho_abi::nat::{DestinationNat, Translation};

use crate::flow::{self, Key};
use crate::parse::{Kind, Packet, protocol, udp_port};

/// Ports tried for a new flow before it is refused. The first is the opener's own.
pub const TRIES: u32 = 16;
/// Tries with the address that the opener's other flows have (RFC 4787 section 4.1: paired); the rest go to others.
pub const TRIES_PAIRED: u32 = 12;

/// A packet's two ends, in the machine's numbers: programs copy and compare them in whole words.
#[derive(Clone, Copy, Debug, Default, Eq)]
#[repr(C)]
pub struct Ends {
    /// Source address.
    pub source: [u64; 2],
    /// Destination address.
    pub destination: [u64; 2],
    /// Source port, network byte order; as in [`FlowKey`](sekisho_abi::flow::FlowKey).
    pub source_port_be: u16,
    /// Destination port, network byte order.
    pub destination_port_be: u16,
    /// Zero.
    pub reserved: [u16; 2],
}

/// In whole words: the derived comparison would be a call.
impl PartialEq for Ends {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let ([a, b], [c, d]) = (self.source, self.destination);
        let ([e, f], [g, h]) = (other.source, other.destination);
        let ports =
            self.source_port_be ^ other.source_port_be | self.destination_port_be ^ other.destination_port_be;
        (a ^ e) | (b ^ f) | (c ^ g) | (d ^ h) | u64::from(ports) == 0
    }
}

impl Ends {
    /// Those of a packet.
    #[inline(always)]
    pub const fn of(packet: &Packet) -> Self {
        Self {
            source: flow::halves(&packet.source),
            destination: flow::halves(&packet.destination),
            source_port_be: packet.source_port_be,
            destination_port_be: packet.destination_port_be,
            reserved: [0; 2],
        }
    }

    /// Those of the opener's packets as they enter.
    #[inline(always)]
    pub const fn opened(key: &Key, opener_is_low: bool) -> Self {
        let (low, high, [low_port_be, high_port_be]) = (key.low(), key.high(), key.ports_be());
        let (source, destination) = if opener_is_low { (low, high) } else { (high, low) };
        let (source_port_be, destination_port_be) =
            if opener_is_low { (low_port_be, high_port_be) } else { (high_port_be, low_port_be) };
        Self { source, destination, source_port_be, destination_port_be, reserved: [0; 2] }
    }

    /// Those of the opener's packets as they leave.
    #[inline(always)]
    pub const fn translated(translation: &Translation) -> Self {
        Self {
            source: flow::halves(&translation.source),
            destination: flow::halves(&translation.destination),
            source_port_be: translation.source_port_be,
            destination_port_be: translation.destination_port_be,
            reserved: [0; 2],
        }
    }

    /// Those of a packet the other way.
    #[inline(always)]
    pub const fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port_be: self.destination_port_be,
            destination_port_be: self.source_port_be,
            reserved: [0; 2],
        }
    }

    /// With this one's source and another's destination.
    #[inline(always)]
    pub const fn to(self, other: &Self) -> Self {
        Self { destination: other.destination, destination_port_be: other.destination_port_be, ..self }
    }

    /// Makes them a packet's.
    #[inline(always)]
    pub const fn put(&self, packet: &mut Packet) {
        packet.source = flow::join(self.source);
        packet.source_port_be = self.source_port_be;
        self.put_destination(packet);
    }

    /// Makes the destination a packet's.
    #[inline(always)]
    pub const fn put_destination(&self, packet: &mut Packet) {
        packet.destination = flow::join(self.destination);
        packet.destination_port_be = self.destination_port_be;
    }

    /// The key under which a packet with these ends is looked for, and whether it comes from the key's low end.
    #[inline(always)]
    pub const fn key(&self, protocol: u8) -> (Key, bool) {
        Key::of(self.source, self.destination, self.source_port_be, self.destination_port_be, protocol)
    }
}

/// A translated flow.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    /// Its key in `FLOWS`.
    pub key: &'a Key,
    /// Whether the opener is the key's low end.
    pub opener_is_low: bool,
    /// Its translation.
    pub translation: &'a Translation,
}

impl Way<'_> {
    /// The ends of packets as they enter: those of the opener (`original`), or of replies.
    #[inline(always)]
    pub const fn entering(&self, original: bool) -> Ends {
        if original {
            Ends::opened(self.key, self.opener_is_low)
        } else {
            Ends::translated(self.translation).reversed()
        }
    }

    /// As they leave.
    #[inline(always)]
    pub const fn leaving(&self, original: bool) -> Ends {
        self.entering(!original).reversed()
    }

    /// With the destination translated only: as rules, routes and the kernel see them.
    #[inline(always)]
    pub const fn between(&self, original: bool) -> Ends {
        self.entering(original).to(&self.leaving(original))
    }
}

/// What a rule makes of a packet's destination and its port. Only TCP and UDP have ports to translate.
#[inline(always)]
pub fn destination(rule: &DestinationNat, packet: &Packet) -> (Address, u16) {
    let address = with_prefix(&packet.destination, &rule.prefix, rule.prefix_bits);
    let port = packet.destination_port();
    let port = match packet.kind {
        Kind::Tcp | Kind::Udp | Kind::EspInUdp if rule.port_fixed != 0 => rule.port_fixed,
        Kind::Tcp | Kind::Udp | Kind::EspInUdp => port.wrapping_add(rule.port_shift),
        _ => port,
    };
    (address, port.to_be())
}

/// An address with its first `bits` bits replaced.
#[inline(always)]
pub fn with_prefix(address: &Address, prefix: &Address, bits: u16) -> Address {
    let [high, low] = halves(address);
    let [prefix_high, prefix_low] = halves(prefix);
    let mask = |bits: u16| u64::MAX.checked_shl(64 - u32::from(bits)).unwrap_or(0);
    let (first, second) = if bits >= 64 { (u64::MAX, mask(bits.min(128) - 64)) } else { (mask(bits), 0) };
    join((high & !first) | (prefix_high & first), (low & !second) | (prefix_low & second))
}

/// An address as two numbers.
#[inline(always)]
const fn halves(address: &Address) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    [u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes([i, j, k, l, m, n, o, p])]
}

#[inline(always)]
const fn join(high: u64, low: u64) -> Address {
    let [a, b, c, d, e, f, g, h] = high.to_be_bytes();
    let [i, j, k, l, m, n, o, p] = low.to_be_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

/// Which address of a pool a source's flows have: always the same, so that servers see one host as one (RFC 4787
/// section 4.1).
#[inline(always)]
pub const fn paired(source: &Address, count: u32) -> u32 {
    let [high, low] = halves(source);
    // Multiplication by an odd constant near 2^64 divided by the golden ratio mixes low bits into the high ones.
    let mixed = (high ^ low.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed >> 32) as u32;
    // At least one; a program's division by zero gives zero anyway.
    match mixed.checked_rem(count) {
        Some(index) => index,
        None => 0,
    }
}

/// Whether packets of this kind have a source port, or an identifier, that can be another.
#[inline(always)]
pub const fn has_port(kind: Kind) -> bool {
    matches!(kind, Kind::Tcp | Kind::Udp | Kind::EspInUdp | Kind::EchoRequest)
}

/// The port for a try, out of `first` to `last`: a random one to begin with, then its neighbours (RFC 6056
/// section 3.3.1).
#[inline(always)]
pub const fn candidate(first: u16, last: u16, random: u32, step: u32) -> u16 {
    let size = (last.wrapping_sub(first) as u32) + 1;
    first.wrapping_add((random.wrapping_add(step) % size) as u16)
}

/// Whether a port may be given to a flow: UDP 500 and 4500 are the gateway's own for IKE and ESP.
#[inline(always)]
pub const fn may_give(protocol: u8, port: u16) -> bool {
    protocol != protocol::UDP || (port != udp_port::IKE && port != udp_port::IKE_NAT_T)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address() -> impl Strategy<Value = Address> {
        prop_oneof![any::<[u8; 16]>(), any::<[u8; 4]>().prop_map(sekisho_abi::mapped)]
    }

    fn ends() -> impl Strategy<Value = Ends> {
        (address(), address(), any::<u16>(), any::<u16>()).prop_map(|(source, destination, s, d)| Ends {
            source: flow::halves(&source),
            destination: flow::halves(&destination),
            source_port_be: s,
            destination_port_be: d,
            reserved: [0; 2],
        })
    }

    proptest! {
        #[test]
        fn a_reply_takes_the_way_back(opened in ends(), translated in ends(), protocol: u8) {
            prop_assume!(opened.source != opened.destination);
            let (key, from_low) = opened.key(protocol);
            prop_assert_eq!(Ends::opened(&key, from_low), opened);
            let translation = Translation {
                source: flow::join(translated.source),
                destination: flow::join(translated.destination),
                source_port_be: translated.source_port_be,
                destination_port_be: translated.destination_port_be,
                source_rule: 1,
                destination_rule: 1,
            };
            let way = Way { key: &key, opener_is_low: from_low, translation: &translation };
            prop_assert_eq!(way.entering(true), opened);
            prop_assert_eq!(way.leaving(true), translated);
            prop_assert_eq!(way.between(true), opened.to(&translated));
            prop_assert_eq!(way.entering(false), way.leaving(true).reversed());
            prop_assert_eq!(way.leaving(false), way.entering(true).reversed());
            prop_assert_eq!(way.between(false), way.between(true).reversed());
        }

        #[test]
        fn a_prefix_takes_the_place_of_the_first_bits(old: u128, new: u128, bits in 0u16..=128) {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            let got = with_prefix(&old.to_be_bytes(), &new.to_be_bytes(), bits);
            prop_assert_eq!(u128::from_be_bytes(got), (old & !mask) | (new & mask));
        }

        #[test]
        fn ports_are_of_the_range_and_a_small_one_is_tried_whole(first: u16, size in 0u16..16, random: u32) {
            let last = first.saturating_add(size);
            let mut tried: Vec<u16> = (0..TRIES).map(|step| candidate(first, last, random, step)).collect();
            tried.sort_unstable();
            tried.dedup();
            prop_assert_eq!(tried, (first..=last).collect::<Vec<_>>());
        }

        #[test]
        fn pairing_stays_in_the_pool(source in address(), count in 1u32..5000) {
            prop_assert!(paired(&source, count) < count);
        }
    }

    #[test]
    fn neighbours_spread_over_the_pool() {
        let mut hosts = [0; 8];
        for host in 0..=255 {
            hosts[paired(&sekisho_abi::mapped([192, 168, 1, host]), 8) as usize] += 1;
        }
        assert!(hosts.iter().all(|&hosts| hosts > 10), "{hosts:?}");
    }

    #[test]
    fn ports_of_services() {
        let packet = |kind| Packet { kind, destination_port_be: 8005u16.to_be(), ..Packet::default() };
        let rule = |port_shift, port_fixed| DestinationNat {
            prefix: sekisho_abi::mapped([192, 168, 2, 10]),
            prefix_bits: 128,
            port_shift,
            port_fixed,
            rule: 1,
        };
        let port = |rule, kind| u16::from_be(destination(&rule, &packet(kind)).1);
        assert_eq!(port(rule(0, 0), Kind::Tcp), 8005);
        assert_eq!(port(rule(1000, 0), Kind::Udp), 9005);
        assert_eq!(port(rule(1000u16.wrapping_neg(), 0), Kind::Tcp), 7005);
        assert_eq!(port(rule(0, 80), Kind::Tcp), 80);
        assert_eq!(port(rule(0, 80), Kind::EchoRequest), 8005, "a type is no port");
        assert_eq!(destination(&rule(0, 0), &packet(Kind::Tcp)).0, sekisho_abi::mapped([192, 168, 2, 10]));
    }

    #[test]
    fn the_gateway_keeps_its_ports_for_ike() {
        assert!(!may_give(protocol::UDP, 500) && !may_give(protocol::UDP, 4500));
        assert!(may_give(protocol::TCP, 4500) && may_give(protocol::UDP, 4501));
    }
}
