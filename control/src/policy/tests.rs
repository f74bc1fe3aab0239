use std::collections::HashSet;

use ipnet::IpNet;
use proptest::prelude::*;
use sekisho_abi::{Address, mapped};

use super::*;
use crate::config::trie_prefix;

const ICMP: u8 = 1;

fn tcp(ports: RangeInclusive<u16>) -> Match {
    Match::Protocol { protocol: TCP, ports }
}

fn policy(from: ZoneId, to: ZoneId, action: Action, matches: Vec<Match>) -> Policy {
    Policy { name: "p".into(), from: vec![from], to: vec![to], matches, action, ..Policy::default() }
}

fn set(prefixes: &[&str]) -> AddressSet {
    AddressSet { name: None, prefixes: prefixes.iter().map(|text| text.parse().expect("a prefix")).collect() }
}

#[derive(Clone, Debug)]
struct Packet {
    from: ZoneId,
    to: ZoneId,
    source: Address,
    destination: Address,
    protocol: u8,
    source_port: u16,
    port: u16,
}

/// The tables of a rule set, asked as the programs ask them.
struct Tables<'a> {
    set: &'a RuleSet,
    generation: u32,
}

impl Tables<'_> {
    fn decide(&self, packet: &Packet) -> Rule {
        let &Packet { from, to, .. } = packet;
        let Some(any) = self.list(from, to, CLASS_ANY, CLASS_ANY) else { return Rule::NONE };
        let mut found = self.first(any, packet, Rule::NONE);
        let (source, destination) = (self.class(packet.source), self.class(packet.destination));
        for (flag, source, destination) in [
            (list_flags::BY_SOURCE, source, CLASS_ANY),
            (list_flags::BY_DESTINATION, CLASS_ANY, destination),
            (list_flags::BY_BOTH, source, destination),
        ] {
            let asks = (flag == list_flags::BY_DESTINATION || source != CLASS_ANY)
                && (flag == list_flags::BY_SOURCE || destination != CLASS_ANY);
            if any.flags & flag != 0
                && asks
                && let Some(list) = self.list(from, to, source, destination)
            {
                found = self.first(list, packet, found);
            }
        }
        found
    }

    fn list(&self, from: ZoneId, to: ZoneId, source_class: u32, destination_class: u32) -> Option<List> {
        let asked = ListKey { generation: self.generation, from, to, source_class, destination_class };
        self.set.lists(self.generation).find(|(key, _)| *key == asked).map(|(_, list)| list)
    }

    fn class(&self, address: Address) -> u32 {
        let asked = u128::from_be_bytes(address);
        let bits_alike = |key: &AddressKey| (u128::from_be_bytes(key.address) ^ asked).leading_zeros();
        self.set
            .addresses(self.generation)
            .filter(|(bits, key, _)| bits_alike(key) >= bits - ADDRESS_KEY_BITS_ANY)
            .max_by_key(|(bits, ..)| *bits)
            .map_or(CLASS_ANY, |(.., class)| class)
    }

    /// The rule of a list if it stands before the one found already.
    fn first(&self, list: List, packet: &Packet, found: Rule) -> Rule {
        if list.list == LIST_EMPTY || list.first >= found.order {
            return found;
        }
        let key = |list: u32, protocol, source_port_class, port: u16| RuleKey {
            generation_be: self.generation.to_be_bytes(),
            list_be: list.to_be_bytes(),
            protocol,
            source_port_class,
            port_be: port.to_be_bytes(),
        };
        let mut class = 0;
        if list.flags & list_flags::SOURCE_PORTS != 0 && matches!(packet.protocol, TCP | UDP) {
            let found = self.lookup(key(LIST_SOURCE_PORTS, 0, 0, packet.source_port));
            class = found.map_or(0, |rule| u8::try_from(rule.id).expect("a class"));
        }
        match self.lookup(key(list.list, packet.protocol, class, packet.port)) {
            Some(rule) if rule.order < found.order => rule,
            _ => found,
        }
    }

    fn lookup(&self, asked: RuleKey) -> Option<Rule> {
        let asked = bits(asked);
        self.set
            .rules(self.generation)
            .filter(|(prefix_bits, key, _)| (bits(*key) ^ asked).leading_zeros() >= *prefix_bits)
            .max_by_key(|(prefix_bits, ..)| *prefix_bits)
            .map(|(.., rule)| rule)
    }
}

fn bits(key: RuleKey) -> u128 {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&key.generation_be);
    bytes[4..8].copy_from_slice(&key.list_be);
    bytes[8] = key.protocol;
    bytes[9] = key.source_port_class;
    bytes[10..12].copy_from_slice(&key.port_be);
    u128::from_be_bytes(bytes)
}

/// What the administrator meant.
fn first_match(policies: &[Policy], sets: &[AddressSet], packet: &Packet) -> Option<usize> {
    let is_in = |named: &[usize], address: Address| {
        named.is_empty()
            || named.iter().flat_map(|&set| &sets[set].prefixes).any(|prefix| {
                let (bits, first) = trie_prefix(*prefix);
                let apart = u128::from_be_bytes(first) ^ u128::from_be_bytes(address);
                // IPv4 lives in a corner of IPv6, but is none of it.
                let same_family = (bits >= 96 && first[..12] == mapped([0; 4])[..12])
                    == (address[..12] == mapped([0; 4])[..12]);
                same_family && apart.leading_zeros() >= bits
            })
    };
    policies.iter().position(|policy| {
        let ports = &policy.source_ports;
        policy.from.contains(&packet.from)
            && policy.to.contains(&packet.to)
            && is_in(&policy.sources, packet.source)
            && is_in(&policy.destinations, packet.destination)
            && (ports.is_empty() || ports.iter().any(|range| range.contains(&packet.source_port)))
            && policy
                .matches
                .iter()
                .any(|m| m.ports_of(packet.protocol).is_some_and(|p| p.contains(&packet.port)))
    })
}

fn ports() -> impl Strategy<Value = u16> {
    prop_oneof![Just(0), Just(u16::MAX), 0..20u16, 1016..1030u16, 65_500..=u16::MAX, any::<u16>()]
}

fn range() -> impl Strategy<Value = RangeInclusive<u16>> {
    (ports(), ports()).prop_map(|(a, b)| a.min(b)..=a.max(b))
}

fn protocol() -> impl Strategy<Value = u8> {
    prop_oneof![Just(ICMP), Just(TCP), Just(UDP)]
}

/// Few addresses of each family, so that prefixes cut through each other.
fn prefixes() -> impl Strategy<Value = IpNet> {
    let v4 = (24..=32u8, 0..16u8).prop_map(|(bits, last)| (format!("10.0.0.{last}"), bits));
    let v6 = (120..=128u8, 0..16u8).prop_map(|(bits, last)| (format!("fd00::{last:x}"), bits));
    let one = prop_oneof![4 => v4, 2 => v6].prop_map(|(address, bits)| {
        IpNet::new(address.parse().expect("an address"), bits).expect("a prefix").trunc()
    });
    let all = prop_oneof![Just("0.0.0.0/0"), Just("::/0")].prop_map(|text| text.parse().expect("a prefix"));
    prop_oneof![9 => one, 1 => all]
}

fn addresses() -> impl Strategy<Value = Address> {
    let v4 = (0..20u8).prop_map(|last| mapped([10, 0, 0, last]));
    let v6 = (0..20u16).prop_map(|last| std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last).octets());
    prop_oneof![4 => v4, 2 => v6, 1 => Just(mapped([192, 0, 2, 1]))]
}

const SETS: usize = 5;

fn sets() -> impl Strategy<Value = Vec<AddressSet>> {
    let one =
        prop::collection::vec(prefixes(), 0..4).prop_map(|prefixes| AddressSet { name: None, prefixes });
    prop::collection::vec(one, SETS)
}

fn policies() -> impl Strategy<Value = Vec<Policy>> {
    let zones = || prop::collection::vec(0..2u16, 1..3);
    let action = prop_oneof![Just(Action::Allow), Just(Action::Deny)];
    let named = || prop::collection::vec(0..SETS, 0..3);
    let matches = (protocol(), range()).prop_map(|(protocol, ports)| Match::Protocol { protocol, ports });
    let any_match = prop_oneof![1 => Just(Match::Any), 6 => matches];
    let source_ports = prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(range(), 1..3)];
    let one = (
        (zones(), zones()),
        (named(), named()),
        prop::collection::vec(any_match, 1..4),
        (action, any::<bool>(), source_ports),
    )
        .prop_map(|((from, to), (sources, destinations), matches, (action, log, source_ports))| {
            let has_ports = matches.iter().all(|m| matches!(m.protocol(), Some(TCP | UDP)));
            let source_ports = if has_ports { source_ports } else { Vec::new() };
            Policy {
                name: "p".into(),
                from,
                to,
                sources,
                destinations,
                source_ports,
                matches,
                action,
                log,
                ..Policy::default()
            }
        });
    prop::collection::vec(one, 0..12)
}

fn packets() -> impl Strategy<Value = Vec<Packet>> {
    let one = (
        (0..3u16, 0..3u16),
        (addresses(), addresses()),
        prop_oneof![4 => protocol(), 1 => any::<u8>()],
        (ports(), ports()),
    )
        .prop_map(|((from, to), (source, destination), protocol, (source_port, port))| Packet {
            from,
            to,
            source,
            destination,
            protocol,
            source_port,
            port,
        });
    prop::collection::vec(one, 48)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_tables_do_what_the_list_says(
        policies in policies(), sets in sets(), packets in packets(), generation: u32
    ) {
        let set = compile(&Rules::all(&policies, &sets)).unwrap();
        let tables = Tables { set: &set, generation };
        for packet in &packets {
            let rule = tables.decide(packet);
            match first_match(&policies, &sets, packet) {
                Some(index) => {
                    prop_assert_eq!(rule.order as usize, index + 1, "{:?}", packet);
                    prop_assert_eq!(rule.action == action::ALLOW, policies[index].action == Action::Allow);
                    prop_assert_eq!(rule.flags == rule_flags::LOG, policies[index].log);
                }
                None => prop_assert_eq!(rule, Rule::NONE, "{:?}", packet),
            }
        }
    }

    #[test]
    fn no_entry_stands_twice_nor_has_bits_beyond_its_length(policies in policies(), sets in sets()) {
        let set = compile(&Rules::all(&policies, &sets)).unwrap();
        let mut seen = HashSet::new();
        for (prefix_bits, key, _) in set.rules(0) {
            prop_assert!(seen.insert((prefix_bits, key)));
            prop_assert!((RULE_KEY_BITS_ANY_PROTOCOL..=96).contains(&prefix_bits));
            prop_assert_eq!(bits(key) & u128::MAX.checked_shr(prefix_bits).unwrap_or(0), 0);
        }
        let mut seen = HashSet::new();
        for (bits, key, _) in set.addresses(0) {
            prop_assert!(seen.insert((bits, key)));
            let address = u128::from_be_bytes(key.address);
            prop_assert_eq!(address & u128::MAX.checked_shr(bits - ADDRESS_KEY_BITS_ANY).unwrap_or(0), 0);
        }
        let mut seen = HashSet::new();
        prop_assert!(set.lists(0).all(|(key, _)| seen.insert(key)));
    }

    #[test]
    fn what_is_called_unreachable_is_never_the_first_match(
        policies in policies(), sets in sets(), packets in packets()
    ) {
        let unreachable = unreachable(&policies, &sets);
        for packet in &packets {
            if let Some(index) = first_match(&policies, &sets, packet) {
                prop_assert!(unreachable.iter().all(|u| u.policy != index), "{} {:?}", index, packet);
            }
        }
    }
}

#[test]
fn a_range_takes_few_prefixes() {
    let set = compile(&Rules::all(&[policy(1, 2, Action::Allow, vec![tcp(1024..=u16::MAX)])], &[])).unwrap();
    assert_eq!(set.rules(0).count(), 2, "all of TCP allowed, the first 1024 ports not");
}

#[test]
fn what_is_the_same_between_several_zones_stands_once() {
    let all = Policy {
        from: vec![1, 2, 3],
        to: vec![4, 5, 6],
        ..policy(0, 0, Action::Allow, vec![tcp(80..=80), tcp(443..=443)])
    };
    let set = compile(&Rules::all(&[all], &[])).unwrap();
    assert_eq!((set.lists(0).count(), set.rules(0).count()), (9, 2));
}

#[test]
fn a_policy_behind_a_broader_one_is_unreachable() {
    let list = [
        policy(1, 2, Action::Allow, vec![tcp(1..=100)]),
        policy(1, 2, Action::Allow, vec![tcp(101..=200)]),
        policy(1, 2, Action::Deny, vec![tcp(50..=150)]),
        policy(2, 1, Action::Deny, vec![tcp(50..=150)]),
    ];
    assert_eq!(unreachable(&list, &[]), [Unreachable { policy: 2, decided_by: vec![0, 1] }]);
}

#[test]
fn a_narrower_source_is_unreachable_behind_a_wider_one_only() {
    let sets = [set(&["10.0.0.0/8"]), set(&["10.1.0.0/16"]), set(&["192.0.2.0/24"]), set(&[])];
    let of = |source| Policy { sources: vec![source], ..policy(1, 2, Action::Allow, vec![tcp(80..=80)]) };
    assert_eq!(unreachable(&[of(0), of(1)], &sets), [Unreachable { policy: 1, decided_by: vec![0] }]);
    assert_eq!(unreachable(&[of(1), of(0), of(2)], &sets), []);
    assert_eq!(unreachable(&[of(3)], &sets), [Unreachable { policy: 0, decided_by: vec![] }]);
    let by_day = Policy { schedule: Some(0), ..of(0) };
    assert_eq!(unreachable(&[by_day, of(1)], &sets), [], "at night the second decides");
}

#[test]
fn a_policy_that_sleeps_decides_nothing_and_keeps_its_number() {
    let by_day = policy(1, 2, Action::Deny, vec![Match::Any]);
    let list = [by_day, Policy { id: 9, ..policy(1, 2, Action::Allow, vec![tcp(80..=80)]) }];
    let asleep = BTreeSet::from([0]);
    let rules = Rules { asleep: &asleep, ..Rules::all(&list, &[]) };
    let set = compile(&rules).unwrap();
    let found: Vec<_> = set.rules(0).map(|(.., rule)| (rule.id, rule.order)).collect();
    assert_eq!(found, [(9, 2)]);
}

/// Hosts that a policy names one by one, inside of a large set that another names.
#[test]
fn ten_thousand_hosts_inside_a_set_take_lists_in_proportion() {
    let host = |n: u32| format!("10.{}.{}.{}/32", n >> 16, n >> 8 & 255, n & 255);
    let mut sets = vec![set(&["10.0.0.0/8"])];
    let mut list = Vec::new();
    for n in 0..10_000 {
        sets.push(set(&[&host(n)]));
        let port = u16::try_from(n % 1000).unwrap();
        let to_port = vec![tcp(port..=port)];
        list.push(Policy { sources: vec![sets.len() - 1], ..policy(1, 2, Action::Allow, to_port) });
    }
    list.push(Policy { sources: vec![0], ..policy(1, 2, Action::Allow, vec![tcp(5000..=5000)]) });
    let set = compile(&Rules::all(&list, &sets)).unwrap();
    assert_eq!(set.lists(0).count(), 10_002);
    assert!(set.rules(0).count() <= 20_001, "{}", set.rules(0).count());
}

#[test]
fn what_would_blow_up_is_refused() {
    // Each of a thousand hosts on either side has a policy of its own, and one policy is for all pairs of them.
    let mut sets = vec![set(&["10.0.0.0/8"])];
    let mut list = vec![Policy {
        sources: vec![0],
        destinations: vec![0],
        ..policy(1, 2, Action::Allow, vec![tcp(80..=80)])
    }];
    for n in 0..1000 {
        sets.push(set(&[&format!("10.0.{}.{}/32", n / 256, n % 256)]));
        let own = policy(1, 2, Action::Allow, vec![tcp(22..=22)]);
        list.push(Policy { sources: vec![n + 1], ..own });
    }
    assert!(matches!(compile(&Rules::all(&list, &sets)), Err(PolicyError::TooManyLists { .. })));
}
