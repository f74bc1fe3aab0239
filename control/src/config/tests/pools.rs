//! Virtual addresses: who gives, who asks, and every mistake.

use std::sync::Arc;

use super::*;

const START: &str = "start = \"always\"             # or on-demand, manual, answer";
const TABLE: &str = "[pools.staff]\naddresses = [\"10.9.0.0/29\", \"10.9.1.5-10.9.1.6\", \"fd09::/126\"]\ndns = \"10.2.0.53\"\n";

/// The example as one that gives addresses.
fn giving() -> String {
    let table = format!("{TABLE}\n[connections.centre]");
    CLINIC
        .replacen(START, "start = \"answer\"\npools = \"staff\"", 1)
        .replacen(CHILD_REMOTE, "remote = \"dynamic\"", 1)
        .replacen("[connections.centre]", &table, 1)
}

/// The example as one that asks for addresses.
fn asking() -> String {
    CLINIC.replacen(START, "start = \"always\"\nrequest = [\"ipv4\", \"ipv6\"]", 1).replacen(
        CHILD_LOCAL,
        "local = \"dynamic\"",
        1,
    )
}

/// The edit makes exactly one error, at the mark.
#[track_caller]
fn refuses_in(source: &str, from: &str, to: &str, message: &str) {
    let (source, place) = edited(source, from, to);
    let findings = check_now(&source).expect_err("the edit is an error");
    let found = finding(&findings, place, message, Severity::Error);
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
    let others: Vec<String> = errors.filter(|error| **error != found).map(Diagnostic::line).collect();
    assert!(others.is_empty(), "{}", others.join("\n"));
}

#[test]
fn a_pool_is_what_hosts_can_have_and_is_behind_the_vpn() {
    let config = good(&giving());
    let pool = &config.pools[0];
    assert_eq!((pool.size(false), pool.size(true)), (8, 3));
    let shown: Vec<String> = pool.ranges.iter().map(|(first, last)| format!("{first}-{last}")).collect();
    assert_eq!(shown, ["10.9.0.1-10.9.0.6", "10.9.1.5-10.9.1.6", "fd09::1-fd09::3"]);
    let vpn = config.vpn_ports[0].id;
    let networks = config.networks();
    for network in ["10.9.0.0/29", "10.9.1.5/32", "10.9.1.6/32", "fd09::/126"] {
        let owner = networks.iter().find(|(net, _)| net.to_string() == network).map(|(_, owner)| *owner);
        let owner = owner.unwrap_or_else(|| panic!("{network} is nobody's"));
        assert_eq!((owner.kind, owner.port), (network_kind::VPN, vpn));
    }
    let engine = config.ike().expect("credentials");
    assert_eq!(engine.pools.iter().filter(|range| &*range.name == "staff").count(), 3);
    let assigned = engine.connections[0].assigns.as_ref().expect("it gives");
    assert_eq!(assigned.pools, [Arc::from("staff")]);
    assert!(assigned.required && assigned.dns.len() == 1);
    assert!(engine.connections[0].children[0].remote_dynamic);
}

#[test]
fn who_asks_has_what_it_is_given_and_no_more() {
    let config = good(&asking());
    let engine = config.ike().expect("credentials");
    assert!(engine.connections[0].wants.ipv4 && engine.connections[0].wants.ipv6);
    assert!(engine.connections[0].children[0].local_dynamic);
    assert_eq!(config.asking_port("centre"), Some(config.vpn_ports[0].id));
    assert_eq!(good(CLINIC).asking_port("centre"), None);
    let refuses = |address: &str| config.refuses_address("centre", address.parse().expect("an address"));
    for (address, why) in [
        ("192.168.1.10", "port lan1"),
        ("192.168.1.1", "port lan1"),
        ("198.51.100.1", "port wan"),
        ("203.0.113.2", "a peer's own address"),
        ("224.0.0.5", "no host"),
        ("127.0.0.1", "no host"),
        ("fe80::1", "no host"),
        ("fd00:2::9", "port lan2"),
    ] {
        let said = refuses(address).unwrap_or_else(|| panic!("{address} is taken"));
        assert!(said.contains(why), "{address}: {said}");
    }
    // Also one of the peer's own network, which it knows best.
    for address in ["10.9.0.7", "10.2.0.200", "fd09::7"] {
        assert_eq!(refuses(address), None, "{address}");
    }
}

#[test]
fn mistakes_of_pools() {
    let giving = giving();
    let refuse = |to: &str, message: &str| refuses_in(&giving, "\"10.9.0.0/29\"", to, message);
    refuse("¦\"10.9.0.1/29\"", "`addresses` cannot be");
    refuse("¦\"10.9.0.9-10.9.0.5\"", "`addresses` cannot be");
    refuse("¦\"10.9.0.9-fd09::5\"", "`addresses` cannot be");
    refuse("¦\"192.168.1.128/25\"", "overlaps 192.168.1.0/24 of port lan1");
    refuse("¦\"198.51.100.0/24\"", "overlaps 198.51.100.0/30 of port wan");
    refuse("¦\"203.0.113.0/24\"", "contains a peer's own address");
    refuse("¦\"224.0.0.0/24\"", "no host can have");
    refuse("\"10.9.0.0/29\", ¦\"10.9.0.6\"", "overlaps 10.9.0.0/29");
    refuses_in(&giving, "dns = \"10.2.0.53\"", "dns = ¦\"127.0.0.53\"", "no name server's address");
    refuses_in(&giving, "dns = \"10.2.0.53\"", "¦nds = \"10.2.0.53\"", "knows no `nds`");
    refuses_in(&giving, "pools = \"staff\"", "pools = ¦\"stafff\"", "no pool \"stafff\"");
    refuses_in(
        &giving,
        "[pools.staff]\naddresses = [\"10.9.0.0/29\", \"10.9.1.5-10.9.1.6\", \"fd09::/126\"]",
        "[pools.¦staff]",
        "[pools.staff] has no `addresses`",
    );
}

#[test]
fn mistakes_of_those_who_give() {
    let giving = giving();
    refuses_in(
        &giving,
        "start = \"answer\"\npools = ",
        "start = \"always\"\npools = ¦",
        "opens the connection",
    );
    let (fixed, place) = edited(&giving, "pools = \"staff\"\n", "pools = ¦\"staff\"\n");
    let fixed = fixed.replacen("remote = \"dynamic\"", "remote = [\"10.8.0.0/24\", \"fd08::/64\"]", 1);
    let findings = check_now(&fixed).expect_err("nobody can use an address");
    finding(&findings, place, "no child carries", Severity::Error);
    let only_v4 = giving.replacen(", \"fd09::/126\"", "", 1);
    refuses_in(
        &only_v4,
        "\"fd00:1::/64\", \"fd00:2::/64\"]\nremote",
        "¦\"fd00:1::/64\"]\nremote",
        "no partner: no IPv6 network in `remote`",
    );
    refuses_in(
        &giving,
        "\"192.168.2.0/24\", \"fd00:1::/64\", \"fd00:2::/64\"]\nremote = ",
        "\"192.168.2.0/24\"]\nremote = ¦",
        "no IPv6 network in `local`",
    );
    let spare =
        giving.replacen("[pools.staff]", "[pools.spare]\naddresses = \"10.7.0.0/24\"\n[pools.staff]", 1);
    let loaded = check_now(&spare).expect("no error");
    assert!(loaded.warnings.iter().any(|warning| warning.message.contains("spare is given to nobody")));
}

#[test]
fn mistakes_of_those_who_ask() {
    let asking = asking();
    refuses_in(&asking, "[\"ipv4\", \"ipv6\"]", "[\"ipv4\", \"ipv6\", ¦\"ipv5\"]", "`request` cannot be");
    refuses_in(&asking, "request = [\"ipv4\", \"ipv6\"]", "¦request = []", "asks for nothing");
    refuses_in(&asking, "start = \"always\"\nrequest", "start = \"answer\"\n¦request", "who opens");
    refuses_in(
        &asking,
        "start = \"always\"\nrequest",
        "start = \"on-demand\"\n¦request",
        "no packet can open it",
    );
    let nothing = asking.replacen("request = [\"ipv4\", \"ipv6\"]\n", "", 1);
    refuses_in(&nothing, "local = \"dynamic\"", "local = ¦\"dynamic\"", "stands for nothing");
    refuses_in(
        &asking,
        "local = \"dynamic\"\nremote = [\"10.2.0.0/24\", \"fd00:c::/64\"]",
        "local = ¦\"dynamic\"\nremote = [\"10.2.0.0/24\"]",
        "no IPv6 network in `remote`",
    );
}
