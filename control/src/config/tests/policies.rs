//! Zones and policies, and what policies name: services, sets, schedules, limits.

use super::*;

#[test]
fn zones() {
    refuses("[zones.centre]", "[zones.¦spare]\n[zones.centre]", "neither port nor connection");
    refuses("vpn = \"centre\"", "vpn = [\"centre\", ¦\"center\"]", "no connection \"center\"");
    refuses("[zones.centre]", "[zones.¦lan1]\nvpn = \"centre\"\n[zones.centre]", "has ports and a VPN");
    refuses(
        "# ---- Policies",
        "[zones.second]\nvpn = ¦\"centre\"\n# ---- Policies",
        "is behind a zone already",
    );
    let unused = "[zones.centre]               # what is behind the tunnel\nvpn = \"centre\"";
    let source = CLINIC.replace(unused, "").replace("to = \"centre\"", "to = \"wan\"");
    let findings = check_now(&source).expect_err("a connection without a zone");
    assert!(findings.iter().any(|f| f.message.contains("connection centre is behind no zone")));
}

#[test]
fn policies_name_what_exists() {
    let found = refuses(
        "to = \"centre\"\nallow = [\"web\"",
        "to = ¦\"center\"\nallow = [\"web\"",
        "no zone \"center\"",
    );
    assert_eq!(found.remedy, "did you mean \"centre\"?");
    refuses("allow = [\"scan\"]", "allow = [¦\"scam\"]", "no service \"scam\"");
    refuses("allow = [\"scan\"]", "allow = [¦\"tcp/99999\"]", "no port or range of ports");
    refuses("allow = [\"scan\"]", "allow = [¦\"icmp/8\"]", "no kind of ICMP message");
    refuses("allow = [\"scan\"]", "allow = [¦\"quic/443\"]", "no protocol and port");
    refuses("allow = [\"scan\"]", "¦allow = []", "`allow` is empty");
    refuses("allow = [\"scan\"]", "allow = [\"scan\"]\n¦deny = [\"any\"]", "allows or denies, not both");
    refuses("from = [\"lan1\", \"lan2\"]", "¦from = []", "`from` names no zone");
    refuses("web = [", "web = [¦\"scan\", ", "there is no service");
    refuses(
        "name = \"claims\"\nfrom = \"lan2\"\nto = \"centre\"",
        "name = ¦\"claims\"\nfrom = \"gateway\"\nto = \"gateway\"",
        "from and to the gateway itself",
    );
}

#[test]
fn policies_that_decide_nothing() {
    let found = warns(
        "[[policy]]\nname = \"claims\"",
        "[[policy]]\nname = \"all\"\nfrom = \"lan2\"\nto = \"centre\"\nallow = [\"any\"]\n\n[[policy]]\nname = ¦\"claims\"",
        "policy \"claims\" is never reached: \"all\" decides before it",
    );
    assert!(found.related.is_some());
}

const PRINT: &str = "to = \"lan3\"\nallow = [\"print\", \"icmp/echo\"]";

fn print_with(keys: &str) -> String {
    format!("{PRINT}\n{keys}")
}

#[test]
fn policies_name_sets_addresses_ports_hours_and_limits() {
    let own = "to = \"lan3\"\nallow = [\"tcp/9100\"]\nsource = [\"desks\", \"192.168.2.7\"]\n\
               destination = \"192.168.3.9\"\nsource_ports = [\"1024-65535\"]\nschedule = \"day\"\n\
               limit = \"10/s per source\"";
    let tables = "[sets]\ndesks = [\"192.168.1.10-192.168.1.20\", \"fd00:1::/64\"]\n\n\
                  [schedules.day]\nfrom = \"08:00\"\nto = \"18:00\"\ntime_zone = \"UTC\"\n\n[services]";
    let source = CLINIC.replacen(PRINT, own, 1).replacen("[services]", tables, 1);
    let config = good(&source);
    let policy = &config.policies[0];
    assert_eq!((policy.sources.len(), policy.destinations.len()), (2, 1));
    assert_eq!(config.sets[policy.sources[0]].name.as_deref(), Some("desks"));
    assert_eq!(policy.source_ports, [1024..=65535]);
    assert!(policy.limit.is_some_and(|limit| limit.per_source));
    assert_eq!(config.schedules[policy.schedule.expect("one")].name.as_ref(), "day");
    let line = source.lines().position(|line| line == "name = \"print\"").expect("there") + 1;
    assert!(config.policy_lines[0].abs_diff(line) <= 1);
    let midnight = SystemTime::UNIX_EPOCH;
    assert_eq!(config.asleep(midnight).into_iter().collect::<Vec<_>>(), [0]);
    assert!(config.asleep(midnight + DAY / 2).is_empty());
    let rules = |now| config.rules(now).expect("rules").lists(1).count();
    assert!(rules(midnight) < rules(midnight + DAY / 2));
}

#[test]
fn addresses_that_are_none() {
    refuses(PRINT, &print_with("source = [¦\"desks\"]"), "no address set \"desks\"");
    refuses(PRINT, &print_with("source = [¦\"192.168.1.1/24\"]"), "no address set");
    refuses(PRINT, &print_with("¦destination = []"), "`destination` is empty");
    refuses("[services]", "[sets]\ndesks = [¦\"host.example\"]\n[services]", "is no address");
    refuses("[services]", "[sets]\n¦\"10.0.0.1\" = [\"10.0.0.1\"]\n[services]", "is no name");
    refuses("[services]", "[sets]\ndesks = [¦\"file:nowhere.txt\"]\n[services]", "cannot be read");
    warns("[services]", "[sets]\n¦desks = []\n[services]", "is empty");
}

#[test]
fn a_set_may_stand_in_a_file() {
    write(FOLDER.path(), "desks.txt", b"# desks\n192.168.1.10\n\n192.168.1.16/28 # a row\n", 0o600);
    write(FOLDER.path(), "broken.txt", b"192.168.1.10\nhost.example\n", 0o600);
    let with = |file: &str| {
        CLINIC.replacen("[services]", &format!("[sets]\ndesks = \"file:{file}\"\n[services]"), 1)
    };
    assert_eq!(good(&with("desks.txt")).sets[0].prefixes.len(), 2);
    let findings = check_now(&with("broken.txt")).expect_err("a broken line");
    assert!(findings.iter().any(|finding| finding.message.contains("broken.txt:2")), "{findings:?}");
}

#[test]
fn schedules_limits_and_source_ports_that_are_none() {
    refuses(PRINT, &print_with("schedule = ¦\"day\""), "no schedule \"day\"");
    refuses("[services]", "[schedules.¦day]\nfrom = \"08:00\"\n[services]", "no `time_zone`");
    refuses("[services]", "[schedules.day]\ntime_zone = ¦\"Mars\"\n[services]", "`time_zone` cannot be");
    refuses(PRINT, &print_with("limit = ¦\"fast\""), "`limit` cannot be");
    refuses(PRINT, &print_with("¦source_ports = [\"1024-65535\"]"), "not for TCP and UDP alone");
    refuses("deny = [\"any\"]", "deny = [\"any\"]\nlimit = ¦\"1/s\"", "has no limit");
}

#[test]
fn an_isolated_zone_has_no_policy_with_an_uplink() {
    let isolated = "[zones.lan4]\nisolated = true\n\n[zones.centre]";
    let source = CLINIC.replacen("[zones.centre]", isolated, 1);
    let findings = check_now(&source).expect_err("lan4 has a policy to the WAN");
    let found = findings.iter().find(|finding| finding.message.contains("is isolated")).expect("said");
    assert!(found.message.contains("\"internet\""), "{}", found.message);
    refuses_among_others(
        "[zones.centre]",
        "[zones.wan]\nisolated = ¦true\n\n[zones.centre]",
        "has an uplink",
    );
    // A policy that denies is no contradiction.
    let lan1 = "[zones.lan1]\nisolated = true\n\n[zones.centre]";
    assert!(good(&CLINIC.replacen("[zones.centre]", lan1, 1)).zones[0].isolated);
}

#[test]
fn a_relay_between_vpns_must_be_meant() {
    let relay =
        "[[policy]]\nname = ¦\"relay\"\nfrom = \"centre\"\nto = \"centre\"\nallow = [\"any\"]\n\n[services]";
    warns("[services]", relay, "relays from VPN centre to VPN centre");
    let meant = relay.replace("allow", "relay = true\nallow").replace('¦', "");
    good(&CLINIC.replacen("[services]", &meant, 1));
}

#[test]
fn challenges() {
    let with = |more: &str| {
        format!("[[policy]]\nname = \"x\"\nfrom = \"wan\"\nto = \"gateway\"\n{more}\n\n[services]")
    };
    let policy = |more: &str| {
        let config = good(&CLINIC.replacen("[services]", &with(more), 1));
        config.policies.iter().find(|policy| &*policy.name == "x").expect("it").syn_challenge
    };
    assert_eq!(policy("allow = [\"tcp/22\"]"), SynChallenge::Never);
    assert_eq!(policy("allow = [\"tcp/22\"]\nsyn_challenge = \"always\""), SynChallenge::Always);
    assert_eq!(policy("allow = [\"any\"]\nsyn_challenge = \"pressure\""), SynChallenge::Pressure);
    let refused = |more: &str, expected: &str| refuses("[services]", &with(more), expected);
    refused("allow = [\"tcp/22\"]\nsyn_challenge = ¦\"yes\"", "`syn_challenge` cannot be");
    refused("allow = [\"udp/53\"]\nsyn_challenge = ¦\"always\"", "can be challenged");
    refused("deny = [\"tcp/22\"]\nsyn_challenge = ¦\"always\"", "can be challenged");
}
