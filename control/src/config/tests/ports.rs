//! Ports: interfaces, VLANs, addresses, networks behind them, neighbours, uplinks.

use super::*;

#[test]
fn interfaces_and_addresses() {
    let twice = refuses("interface = \"lan2\"", "interface = ¦\"lan1\"", "interface lan1 is a port already");
    assert_eq!(twice.related.expect("the first place").message, "first here");
    refuses("\"192.168.3.1/24\"", "¦\"192.168.3.0/24\"", "the subnet's own number");
    refuses("\"192.168.3.1/24\"", "¦\"192.168.3.255/24\"", "the subnet's broadcast address");
    refuses("\"fd00:3::1/64\"", "¦\"fd00:3::/64\"", "anycast");
    refuses("\"fd00:3::1/64\"", "¦\"fe80::1/64\"", "link-local");
    refuses("\"192.168.3.1/24\"", "¦\"127.0.0.1/8\"", "no host's address");
    refuses("\"192.168.3.1/24\"", "¦\"250.0.0.1/8\"", "reserved");
    refuses("\"192.168.3.1/24\"", "¦\"192.168.3.1\"", "`addresses` cannot be");
    refuses("\"192.168.3.1/24\", ", "\"192.168.3.1/24\", ¦\"192.168.3.1/24\", ", "stands twice");
    refuses("\"192.168.3.1/24\"", "¦\"192.168.2.9/23\"", "overlaps 192.168.2.0/24 of port lan2");
}

#[test]
fn vlans() {
    let on = |port: &str, text: &str| CLINIC.replace(&format!("interface = \"{port}\""), text);
    let trunk = |first: &str, second: &str| {
        on("lan1", first).replace("interface = \"lan2\"", &format!("interface = \"eth1\"{second}"))
    };
    let config = good(&trunk("interface = \"eth1\"\nvlan = 10", "\nvlan = 20"));
    let devices: Vec<_> = config.ports.iter().take(2).map(|port| (port.device(), port.vlan)).collect();
    assert_eq!(devices, [("eth1.10".into(), Some(10)), ("eth1.20".into(), Some(20))]);
    // One of a NIC's ports may be untagged.
    good(&trunk("interface = \"eth1\"\nvlan = 10", ""));
    for vlan in ["0", "4095", "-1", "70000"] {
        refuses("interface = \"lan2\"", &format!("interface = \"eth1\"\nvlan = ¦{vlan}"), "is no VLAN id");
    }
    refuses("interface = \"lan2\"", "interface = \"eth1\"\nvlan = ¦\"10\"", "`vlan` is a string");
    refuses("interface = \"lan1\"", "interface = ¦\"enp0s31f6np0\"\nvlan = 1000", "is too long");
    for (first, second, expected) in [
        ("interface = \"eth1\"\nvlan = 10", "\nvlan = 10", "VLAN 10 of eth1 is a port already"),
        ("interface = \"eth1\"", "", "interface eth1 is a port already"),
        ("interface = \"eth1.20\"", "\nvlan = 20", "eth1.20 is the device of another port's VLAN"),
    ] {
        let found = check_now(&trunk(first, second)).expect_err(expected);
        assert_eq!(found[0].message, expected);
    }
}

#[test]
fn bindings_of_neighbours() {
    let on = |text: &str| format!("interface = \"lan1\"\n{text}");
    let refuse = |text: &str, message: &str| refuses("interface = \"lan1\"", &on(text), message);
    let learn = |bindings: &str| format!("neighbours = \"learn\"\nbindings = [{bindings}]");
    let config = good(&CLINIC.replace(
        "interface = \"lan1\"",
        &on(&learn("\"192.168.1.10 at 52:54:00:12:34:56\", \"fe80::1 at 52-54-00-12-34-57\"")),
    ));
    assert_eq!(config.ports[0].neighbours, Neighbours::Learn);
    let macs: Vec<_> = config.ports[0].bindings.iter().map(|binding| binding.mac[5]).collect();
    assert_eq!(macs, [0x56, 0x57]);
    assert_eq!(config.ports[1].neighbours, Neighbours::Off);
    refuse("neighbours = ¦\"some\"", "`neighbours` cannot be");
    refuse("¦neighbours = \"static\"", "no host of [ports.lan1] may say a word");
    refuse("¦bindings = [\"192.168.1.10 at 52:54:00:12:34:56\"]", "bindings that nothing asks for");
    refuse(&learn("¦\"192.168.1.10 52:54:00:12:34:56\""), "`bindings` cannot be");
    refuse(&learn("¦\"192.168.1.10 at 01:00:5e:00:00:01\""), "`bindings` cannot be");
    refuse(&learn("¦\"192.168.1.1 at 52:54:00:12:34:56\""), "is the gateway's own address");
    refuse(&learn("¦\"192.168.2.9 at 52:54:00:12:34:56\""), "is in no subnet of port lan1");
    let twice = "\"192.168.1.10 at 52:54:00:12:34:56\", ¦\"192.168.1.10 at 52:54:00:12:34:57\"";
    refuse(&learn(twice), "is bound twice");
    refuses("[services]", "[timeouts]\nneighbour = ¦\"0s\"\n[services]", "`neighbour` cannot be 0s");
}

/// Sources behind a router are held against the router's binding.
#[test]
fn networks_know_their_routers() {
    let two = "interface = \"lan4\"\nnetworks = [\"10.8.0.0/16 via 192.168.4.253\", \"10.9.0.0/16 via 192.168.4.254\", \
               \"10.10.0.0/16 via 192.168.4.253\"]";
    let config = good(&CLINIC.replace("interface = \"lan4\"", two));
    let routers = config.routers();
    let router_of = |prefix: &str| {
        let prefix: IpNet = prefix.parse().expect("a prefix");
        let networks = config.networks();
        let (_, network) = networks.iter().find(|(net, _)| *net == prefix).expect("an owner");
        network.router.checked_sub(1).map(|index| routers[usize::from(index)].1.to_string())
    };
    assert_eq!(router_of("10.8.0.0/16").as_deref(), Some("192.168.4.253"));
    assert_eq!(router_of("10.9.0.0/16").as_deref(), Some("192.168.4.254"));
    assert_eq!(router_of("10.10.0.0/16").as_deref(), Some("192.168.4.253"));
    assert_eq!(router_of("192.168.4.0/24"), None);
}

#[test]
fn networks_behind_ports() {
    let with = |network: &str| format!("interface = \"lan4\"\nnetworks = [{network}]");
    let refuse = |network: &str, message: &str| {
        refuses("interface = \"lan4\"", &with(network), message);
    };
    good(&CLINIC.replace("interface = \"lan4\"", &with("\"10.9.0.0/16 via 192.168.4.254\"")));
    refuse("¦\"10.9.0.0/16\"", "`networks` cannot be");
    refuse("¦\"10.9.0.0/16 via 192.168.1.254\"", "is in no subnet of port lan4");
    refuse("¦\"10.9.0.0/16 via 192.168.4.1\"", "is the gateway itself");
    refuse("¦\"10.9.0.0/16 via fd00:4::9\"", "different families");
    refuse("¦\"10.9.0.1/16 via 192.168.4.254\"", "is a host's address");
    refuses_among_others(
        "interface = \"lan4\"",
        &with("¦\"0.0.0.0/0 via 192.168.4.254\""),
        "a default route",
    );
}

/// Where packets to no known network leave is told to the programs as far as it is one place.
#[test]
fn where_strangers_live() {
    let mut config = good(CLINIC);
    let at = config.ports.iter().position(|port| port.uplink).expect("an uplink");
    let (id, zone) = (config.ports[at].id, config.ports[at].zone);
    assert_eq!((config.only_uplink(), config.uplink_zone()), (id, zone));
    let mut second = config.ports[at].clone();
    second.id += 100;
    config.ports.push(second);
    assert_eq!((config.only_uplink(), config.uplink_zone()), (0, zone), "two of one zone");
    config.ports.last_mut().expect("the second").zone += 100;
    assert_eq!((config.only_uplink(), config.uplink_zone()), (0, 0), "two of two zones");
    config.ports.iter_mut().for_each(|port| port.uplink = false);
    assert_eq!((config.only_uplink(), config.uplink_zone()), (0, 0), "none");
}

#[test]
fn uplinks() {
    let gateways = "uplink = true\ngateways = [\"198.51.100.1\", \"2001:db8:1::1\"]";
    refuses(
        &format!(
            "[ports.wan]\ninterface = \"wan\"\naddresses = [\"198.51.100.2/30\", \"2001:db8:1::2/64\"]\n{gateways}"
        ),
        "[ports.¦wan]\ninterface = \"wan\"\naddresses = [\"198.51.100.2/30\", \"2001:db8:1::2/64\"]\nuplink = true",
        "has no gateway",
    );
    refuses_among_others(gateways, "¦gateways = [\"198.51.100.1\"]", "has gateways but is no uplink");
    refuses_among_others(
        "address = \"198.51.100.2\", id",
        "address = ¦\"192.168.1.1\", id",
        "which is no uplink",
    );
    refuses("gateways = [\"198.51.100.1\"", "gateways = [¦\"198.51.100.9\"", "is in no subnet of port wan");
    refuses("gateways = [\"198.51.100.1\"", "gateways = [¦\"198.51.100.2\"", "own address");
    refuses(
        "\"2001:db8:1::1\"]",
        "¦\"2001:db8:1::3\", \"2001:db8:1::1\"]"
            .replace("¦", "")
            .replacen("\"2001:db8:1::1\"]", "¦\"2001:db8:1::1\"]", 1)
            .as_str(),
        "two gateways of one family",
    );
}
