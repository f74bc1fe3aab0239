//! Translations: what is read, what is compiled of it, and every mistake.

use super::*;
use crate::nat::{Given, NatSet};

/// Where tables go in the example.
const HERE: &str = "[[policy]]\nname = \"print\"";

fn with(table: &str) -> String {
    format!("{table}\n{HERE}")
}

#[test]
fn sources_destinations_and_maps() {
    let tables = "[[nat.source]]\nfrom = \"lan4\"\nto = \"wan\"\naddress = \"interface\"\n\
        [[nat.source]]\nfrom = [\"lan2\", \"lan3\"]\nto = \"wan\"\nsource = \"192.168.2.0/25\"\n\
        address = [\"203.0.113.10-203.0.113.12\", \"203.0.113.20\"]\nports = \"2000-2999\"\n\
        [[nat.destination]]\non = \"wan\"\nservice = [\"tcp/8000-8003\", \"scan\"]\nto = \"192.168.2.10\"\n\
        [[nat.destination]]\non = \"wan\"\naddress = \"203.0.113.30\"\nservice = \"tcp/443\"\n\
        to = \"192.168.2.10:8443\"\nhairpin = false\n\
        [[nat.map]]\nzone = \"wan\"\ninside = \"192.168.3.0/28\"\noutside = \"203.0.113.64/28\"\n";
    let config = good(&CLINIC.replacen(HERE, &with(tables), 1));
    let nat = &config.nat;
    assert_eq!(nat.sources[0].address, SourceAddress::Interface);
    assert_eq!(nat.sources[0].ports, 1024..=65535);
    let SourceAddress::Pool(pool) = &nat.sources[1].address else { panic!("{nat:?}") };
    assert_eq!(pool.len(), 4);
    assert_eq!(nat.destinations[0].addresses, ["198.51.100.2".parse::<IpAddr>().expect("an address")]);
    assert_eq!(nat.destinations[0].on.len(), 5, "the WAN, and hairpin from the LANs");
    assert_eq!((nat.destinations[1].on.len(), nat.destinations[1].port), (1, Some((8443, true))));
    let wan = config.ports.iter().find(|port| port.uplink).expect("an uplink").id;
    // Four of the pool, one of each forwarded port, sixteen of the map.
    assert_eq!(nat.answered_by(wan).len(), 4 + 2 + 16);
    let local = |text: &str| {
        config.networks().iter().any(|(net, owner)| {
            owner.kind == network_kind::LOCAL && net.to_string() == text && owner.port == wan
        })
    };
    assert!(local("203.0.113.10/32") && local("203.0.113.30/32") && local("203.0.113.64/28"));
    let set = NatSet::of(&config, &Given::new());
    assert!(set.destinations(1).any(|(_, _, rule)| rule.port_fixed == 8443));
    // Rule 1 once, rule 2 from two zones, the map from each zone, hairpin for each subnet of a port.
    assert_eq!(set.sources(1).filter(|(_, _, rule)| rule.rule == 1).count(), 1);
    assert_eq!(set.sources(1).filter(|(_, _, rule)| rule.rule == 2).count(), 2);
    assert_eq!(set.pool().len(), 1 + 4 + 10);
    assert!(
        !NatSet::of(&good(CLINIC), &Given::new()).sources(1).any(|_| true),
        "nothing where nothing is asked for"
    );
}

#[test]
fn a_tunnel_under_another_name() {
    let source = CLINIC.replacen("\"192.168.1.0/24\", \"192.168.2.0/24\"", "\"10.77.1.0/24\"", 1).replacen(
        HERE,
        &with("[[nat.map]]\nzone = \"centre\"\ninside = \"192.168.1.0/24\"\noutside = \"10.77.1.0/24\""),
        1,
    );
    let config = good(&source);
    assert_eq!(config.nat.maps[0].ports, [config.vpn_ports[0].id]);
}

/// The address that the centre gives is the VPN port's, once it is there.
#[test]
fn an_address_that_was_given_is_the_interfaces() {
    let source = CLINIC
        .replacen(CHILD_LOCAL, "local = \"dynamic\"", 1)
        .replacen("start = \"always\"", "start = \"always\"\nrequest = [\"ipv4\", \"ipv6\"]", 1)
        .replacen(
            HERE,
            &with("[[nat.source]]\nfrom = \"lan1\"\nto = \"centre\"\naddress = \"interface\""),
            1,
        );
    let config = good(&source);
    let port = config.asking_port("centre").expect("it asks");
    assert_eq!(port, config.vpn_ports[0].id);
    let given = "10.9.0.77".parse().expect("an address");
    let pool = |given: &Given| {
        let set = NatSet::of(&config, given);
        let (_, _, rule) = set.sources(1).next().expect("one");
        assert_eq!(rule.kind, sekisho_abi::nat::source_nat_kind::POOL, "never untranslated");
        (set.pool().len(), rule.index < sekisho_abi::nat::NAT_POOL_MAX)
    };
    assert_eq!(pool(&Given::new()), (0, false), "no address to be found yet");
    assert_eq!(pool(&Given::from([(port, vec![given])])), (1, true));
    assert_eq!(pool(&Given::from([(port, vec!["fd09::7".parse().expect("an address")])])), (0, false));
}

#[test]
fn mistakes_of_sources() {
    let source = |rest: &str| with(&format!("[[nat.source]]\nfrom = \"lan4\"\n{rest}"));
    refuses(HERE, &source("to = ¦\"wam\"\naddress = \"interface\""), "no zone \"wam\"");
    refuses(HERE, &source("to = \"centre\"\naddress = ¦\"interface\""), "no IPv4 address to give");
    refuses(HERE, &source("to = \"wan\"\naddress = ¦\"203.0.113.20-203.0.113.10\""), "`address` cannot be");
    refuses(HERE, &source("to = \"wan\"\naddress = \"interface\"\nports = ¦\"9-1\""), "`ports` cannot be");
    refuses(HERE, &source("to = \"wan\"\n¦address = \"192.168.1.77\""), "in a network of port lan1");
    refuses(HERE, &source("to = \"wan\"\n¦address = \"198.51.100.1\""), "the router of port wan");
    refuses(
        HERE,
        &source("to = \"wan\"\naddress = \"203.0.113.9\"\nsource = ¦\"fd00:4::/64\""),
        "another family",
    );
    refuses(
        HERE,
        &source("to = \"wan\"\naddress = \"203.0.113.9\"\nfamily = ¦\"ipv4\""),
        "`family` goes with",
    );
    refuses(HERE, &source("to = \"centre\"\n¦address = \"10.77.1.1\""), "no child of zone centre carries");
}

#[test]
fn mistakes_of_destinations_and_maps() {
    let destination = |rest: &str| with(&format!("[[nat.destination]]\non = \"wan\"\n{rest}"));
    refuses(HERE, &destination("service = ¦\"htp\"\nto = \"192.168.2.10\""), "no service \"htp\"");
    refuses(HERE, &destination("service = ¦\"any\"\nto = \"192.168.2.10\""), "takes IKE away");
    refuses(HERE, &destination("service = \"tcp/443\"\nto = ¦\"192.168.1.1:443\""), "the gateway itself");
    refuses(
        HERE,
        &destination("service = ¦\"tcp/80-90\"\nto = \"192.168.2.10:8080-8081\""),
        "do not go together",
    );
    refuses(HERE, &destination("service = ¦\"icmp/echo\"\nto = \"192.168.2.10:80\""), "do not go together");
    refuses(HERE, &destination("service = \"tcp/80\"\nto = ¦\"192.168.2.10:0\""), "`to` cannot be");
    let map = |rest: &str| with(&format!("[[nat.map]]\nzone = \"centre\"\n{rest}"));
    refuses(HERE, &map("inside = \"192.168.1.0/24\"\noutside = ¦\"10.77.0.0/16\""), "not of the size");
    refuses(
        HERE,
        &map("inside = \"192.168.1.0/24\"\noutside = ¦\"10.77.1.0/24\""),
        "no child of zone centre carries",
    );
    refuses(HERE, &map("inside = ¦\"192.168.1.7/24\"\noutside = \"10.77.1.0/24\""), "`inside` cannot be");
}
