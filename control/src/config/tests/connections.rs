//! Connections: their ends, children, selectors, algorithms and lives.

use sekisho_ike::config::PerResource;

use super::*;

#[test]
fn selectors() {
    refuses(CHILD_REMOTE, "remote = [\"fd00:c::/64\", ¦\"0.0.0.0/0\"]", "would send everything");
    refuses(
        CHILD_REMOTE,
        "remote = [\"fd00:c::/64\", ¦\"192.168.3.128/25\"]",
        "overlaps 192.168.3.0/24 of port lan3",
    );
    refuses(
        CHILD_REMOTE,
        "remote = [\"fd00:c::/64\", ¦\"203.0.113.0/24\"]",
        "contains the peer's own address",
    );
    refuses(CHILD_REMOTE, "remote = [\"fd00:c::/64\", ¦\"10.2.0.1/24\"]", "is a host's address");
    for nowhere in [
        "127.0.0.0/8",
        "169.254.0.0/16",
        "224.0.0.0/8",
        "250.0.0.0/8",
        "0.0.0.0/8",
        "fe80::/64",
        "ff00::/8",
        "::/96",
    ] {
        let edit = format!("remote = [\"10.2.0.0/24\", \"fd00:c::/64\", ¦\"{nowhere}\"]");
        refuses(CHILD_REMOTE, &edit, "is no network of hosts");
    }
    refuses(CHILD_LOCAL, "local = [\"fd00:1::/64\", ¦\"172.16.0.0/24\"]", "on no port");
    refuses(CHILD_LOCAL, "local = [\"fd00:1::/64\", \"192.168.1.0/24\", ¦\"10.2.0.0/24\"]", "on no port");
}

#[test]
fn families_need_partners() {
    let (source, place) = edited(CLINIC, CHILD_LOCAL, "local = [¦\"192.168.1.0/24\"]");
    let findings = check_now(&source).expect_err("IPv6 has no partner");
    assert!(
        findings.iter().any(|f| f.message.contains("fd00:c::/64 has no partner: no IPv6 network in `local`"))
    );
    assert!(findings.iter().all(|f| (f.line, f.column) != place), "IPv4 has one");
}

#[test]
fn a_network_is_behind_one_connection() {
    let second = r#"
[zones.other]
vpn = "other"
[connections.other]
local = { address = "198.51.100.2", id = "clinic.example", psk = "good.psk" }
remote = { address = "203.0.113.9", id = "other.example", psk = "good.psk" }
[[connections.other.child]]
name = "main"
local = ["192.168.1.0/24"]
"#;
    good(&format!("{CLINIC}{second}remote = [\"10.3.0.0/24\"]\n"));
    let (source, place) = edited(&format!("{CLINIC}{second}END"), "END", "remote = [¦\"10.2.0.128/25\"]\n");
    let findings = check_now(&source).expect_err("a clash");
    finding(&findings, place, "is behind other and behind centre", Severity::Error);
    let twin = format!("{CLINIC}{second}remote = [\"10.3.0.0/24\"]\n").replace("203.0.113.9", "203.0.113.2");
    let (source, place) = edited(&twin, "\"other.example\"", "¦\"centre.example\"");
    finding(
        &check_now(&source).expect_err("a twin"),
        place,
        "connection centre has the same peer",
        Severity::Error,
    );
    let hub = format!("{CLINIC}{second}remote = [\"10.3.0.0/24\"]\n")
        .replace(CHILD_LOCAL, "local = [\"192.168.1.0/24\", \"10.3.0.0/24\", \"fd00:1::/64\"]");
    good(&hub);
}

#[test]
fn children() {
    let child = format!("[[connections.centre.child]]\nname = \"main\"\n{CHILD_LOCAL}\n{CHILD_REMOTE}");
    let (source, _) = edited(CLINIC, &child, "¦");
    let findings = check_now(&source).expect_err("nothing to carry");
    assert!(findings.iter().any(|f| f.message.contains("carries nothing")));
    let twin = child.replace("\"main\"", "¦\"twin\"");
    refuses(&child, &format!("{child}\n{twin}"), "children main and twin carry the same traffic");
}

#[test]
fn ends() {
    refuses(
        "address = \"198.51.100.2\", id",
        "address = ¦\"198.51.100.3\", id",
        "no address of this gateway",
    );
    refuses("address = \"203.0.113.2\"", "address = ¦\"2001:db8:2::2\"", "different families");
    refuses("address = \"203.0.113.2\"", "address = ¦\"0.0.0.0\"", "no peer's address");
    refuses("address = \"203.0.113.2\"", "address = ¦\"198.51.100.2\"", "this gateway's own address");
    refuses(
        "remote = { address = \"203.0.113.2\", ",
        "¦remote = { ",
        "[connections.centre.remote] has no `address`",
    );
    good(
        &CLINIC
            .replace("address = \"203.0.113.2\", ", "")
            .replace("start = \"always\"", "start = \"answer\""),
    );
    refuses("id = \"centre.example\"", "id = ¦\"a name\"", "is no identity");
}

#[test]
fn algorithms() {
    let found = refuses("esp = [\"aes128gcm16-x25519\"]", "esp = [¦\"3des-x25519\"]", "refused because");
    assert!(found.message.contains("RFC 8247") || found.message.contains("RFC 8221"), "{}", found.message);
    refuses("ike = [\"aes128gcm16-prfsha256-x25519\"]", "¦ike = []", "`ike` is empty");
}

#[test]
fn the_life_of_a_connection() {
    use sekisho_esp::sa::Lifetimes;
    use sekisho_ike::config::Uniqueness;
    let source = CLINIC.replacen(
        "start = \"always\"",
        "start = \"on-demand\"\nidle = \"10m\"\nreauth = \"1day\"\nunique = \"keep\"\ndpd_action = \"clear\"",
        1,
    );
    let config = check_now(&source).expect("a good configuration");
    let wanted = Life {
        reauth: DAY,
        idle: Duration::from_secs(600),
        dpd: Duration::from_secs(30),
        dpd_action: DpdAction::Clear,
        unique: Uniqueness::Keep,
        limits: Lifetimes::default(),
    };
    assert_eq!(config.config.connections[0].life, wanted);
    // What is left out.
    for (start, dpd_action) in
        [("always", DpdAction::Restart), ("manual", DpdAction::Restart), ("on-demand", DpdAction::Trap)]
    {
        let config = check_now(&CLINIC.replacen("\"always\"", &format!("\"{start}\""), 1)).expect("good");
        let never = Duration::ZERO;
        let wanted = Life { reauth: never, idle: never, dpd_action, unique: Uniqueness::Replace, ..wanted };
        assert_eq!(config.config.connections[0].life, wanted);
    }
}

#[test]
fn what_one_child_sa_may_carry() {
    use sekisho_esp::sa::Lifetimes;
    let limits = |keys: &str| {
        let source = CLINIC.replacen("dpd = \"30s\"", keys, 1);
        check_now(&source).expect("a good configuration").config.connections[0].life.limits
    };
    let wanted = Lifetimes { soft_packets: Some(900), hard_packets: Some(1000), ..Lifetimes::default() };
    assert_eq!(limits("life_packets = 1000"), wanted);
    let wanted = Lifetimes { soft_bytes: Some(1 << 30), ..Lifetimes::default() };
    assert_eq!(limits("rekey_bytes = 1_073_741_824"), wanted);
    let wanted = Lifetimes { soft_bytes: Some(200_000), hard_bytes: Some(200_001), ..wanted };
    assert_eq!(limits("rekey_bytes = 200_000\nlife_bytes = 200_001"), wanted);
    refuses("dpd = \"30s\"", "rekey_packets = ¦99", "`rekey_packets` cannot be 99");
    refuses("dpd = \"30s\"", "life_bytes = ¦-1", "`life_bytes` cannot be -1");
    refuses("dpd = \"30s\"", "life_packets = 1000\nrekey_packets = ¦1000", "the SA would end before");
}

#[test]
fn a_life_that_cannot_be() {
    refuses("dpd = \"30s\"", "¦idle = \"10m\"", "is to be up always");
    refuses("dpd = \"30s\"", "reauth = ¦\"10s\"", "`reauth` cannot be 10s");
    refuses("dpd = \"30s\"", "reauth = ¦\"soon\"", "`reauth` cannot be \"soon\"");
    refuses("dpd = \"30s\"", "dpd_action = ¦\"hold\"", "`dpd_action` cannot be \"hold\"");
    refuses("dpd = \"30s\"", "unique = ¦\"yes\"", "`unique` cannot be \"yes\"");
    refuses("start = \"always\"", "start = \"answer\"\ndpd_action = ¦\"trap\"", "cannot open itself");
}

#[test]
fn child_sas_of_single_resources() {
    let with = |key: &str| CLINIC.replacen("rekey = \"1h\"", &format!("rekey = \"1h\"\n{key}"), 1);
    for (key, expected) in [
        ("", PerResource::Off),
        ("per_resource_sas = \"auto\"", PerResource::Auto),
        ("per_resource_sas = 4", PerResource::AtMost(4)),
    ] {
        let config = good(&with(key));
        assert_eq!(config.connections[0].per_resource, expected, "{key}");
        let engine = config.ike().expect("credentials");
        assert!(engine.connections[0].children.iter().all(|child| child.per_resource == expected));
    }
    let refused = |value: &str, expected: &str| {
        refuses("rekey = \"1h\"", &format!("rekey = \"1h\"\nper_resource_sas = ¦{value}"), expected)
    };
    assert!(refused("0", "`per_resource_sas` cannot be 0").remedy.contains("\"auto\""));
    refused("65", "`per_resource_sas` cannot be 65");
    refused("-1", "`per_resource_sas` cannot be -1");
    refused("\"all\"", "`per_resource_sas` is a string");
    refused("true", "`per_resource_sas` is a boolean");
}
