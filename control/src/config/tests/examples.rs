//! The examples: what they come to.

use super::*;

#[test]
fn the_examples_are_good() {
    let clinic = good(CLINIC);
    assert_eq!(
        clinic.ports.iter().map(|port| (port.id, &*port.name)).collect::<Vec<_>>(),
        [(1, "lan1"), (2, "lan2"), (3, "lan3"), (4, "lan4"), (5, "wan")]
    );
    assert_eq!(clinic.zones.iter().map(|zone| zone.id).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    let vpn = clinic.vpn_port("centre").expect("a VPN port");
    assert_eq!((vpn.id, vpn.zone, clinic.zone_name(vpn.zone)), (6, 6, Some("centre")));
    let centre = good(CENTRE);
    assert_eq!(centre.gateway.datapath, Datapath::Auto);
    assert_eq!(centre.connections[0].start, Start::Answer);
}

#[test]
fn the_examples_give_the_ike_engine_what_it_needs() {
    let endpoint = good(CLINIC).ike().expect("credentials");
    let [connection] = endpoint.connections.as_slice() else { panic!("{endpoint:?}") };
    assert_eq!(connection.local_id.as_fqdn(), Some("clinic.example"));
    assert_eq!(connection.children[0].remote.len(), 2);
    assert!(!format!("{endpoint:?}").contains("BEGIN"), "no key in Debug");
}

#[test]
fn policies_resolve_to_zones_and_matches() {
    let clinic = good(CLINIC);
    let print = &clinic.policies[0];
    assert_eq!((&*print.name, &print.from[..], &print.to[..]), ("print", &[1, 2][..], &[3][..]));
    assert_eq!(print.matches.len(), 4, "two ports, and echo in both families");
    assert_eq!(clinic.policies[5].to, [ZONE_GATEWAY]);
    assert!(clinic.policies[6].log);
}

#[test]
fn a_file_without_policies_opens_nothing() {
    let source: String = CENTRE.split("[[policy]]").next().expect("the first part").to_owned()
        + CENTRE.find("[connections").map(|at| &CENTRE[at..]).expect("the connections");
    let config = good(&source);
    let rules = crate::policy::Rules::all(&config.policies, &config.sets);
    assert_eq!(crate::policy::compile(&rules).expect("rules").lists(1).count(), 0);
}

#[test]
fn networks_have_one_owner_each() {
    let clinic = good(CLINIC);
    let networks = clinic.networks();
    let owner = |prefix: &str| {
        let prefix: IpNet = prefix.parse().expect("a prefix");
        networks.iter().find(|(net, _)| *net == prefix).map(|(_, n)| (n.kind, n.port, n.zone))
    };
    assert_eq!(owner("192.168.1.0/24"), Some((network_kind::PORT, 1, 1)));
    assert_eq!(owner("192.168.1.1/32"), Some((network_kind::LOCAL, 1, ZONE_GATEWAY)));
    assert_eq!(owner("192.168.1.255/32"), Some((network_kind::LOCAL, 1, ZONE_GATEWAY)));
    assert_eq!(owner("fd00:1::1/128"), Some((network_kind::LOCAL, 1, ZONE_GATEWAY)));
    assert_eq!(owner("10.2.0.0/24"), Some((network_kind::VPN, 6, 6)));
    assert_eq!(owner("fd00:c::/64"), Some((network_kind::VPN, 6, 6)));
    assert_eq!(owner("127.0.0.0/8"), Some((network_kind::MARTIAN, 0, 0)));
    assert_eq!(owner("198.51.100.0/30"), Some((network_kind::PORT, 5, 5)));
    let mut prefixes: Vec<_> = networks.iter().map(|(net, _)| trie_prefix(*net)).collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    assert_eq!(prefixes.len(), networks.len());
}

#[test]
fn what_an_administrator_configures_is_no_martian() {
    let source = CLINIC.replace("192.168.4.1/24", "169.254.0.9/16");
    let networks = good(&source).networks();
    let link_local: IpNet = "169.254.0.0/16".parse().expect("a prefix");
    let owner = networks.iter().find(|(net, _)| *net == link_local).expect("an owner");
    assert_eq!(owner.1.kind, network_kind::PORT);
}
