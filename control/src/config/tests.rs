//! Every check with the place it reports: a good configuration, one edit, the finding. `¦` in an edit marks where the
//! finding must stand.

mod nat;
mod pools;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use sekisho_abi::port::network_kind;
use sekisho_ike::config::PerResource;
use tempfile::TempDir;

use super::*;
use crate::pki::{self, Issue, KeyKind};

const CLINIC: &str = include_str!("../../examples/clinic.toml");
const CENTRE: &str = include_str!("../../examples/centre.toml");
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A folder with everything that the examples name, and some files that are wrong.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = TempDir::new().expect("a folder");
    let dir = folder.path();
    let authority = dir.join("pki");
    pki::init(&authority, "Test", KeyKind::EcP256, None).expect("an authority");
    pki::publish(&authority, 14).expect("CRLs");
    for name in ["clinic", "centre"] {
        let ids = [format!("{name}.example").parse().expect("an identity")];
        let prefix = dir.join(name);
        let request = Issue {
            dir: &authority,
            ids: &ids,
            days: 365,
            key: KeyKind::EcP256,
            prefix: &prefix,
            crl_url: None,
        };
        pki::issue(&request).expect("a certificate");
    }
    fs::copy(authority.join("root.crt.pem"), dir.join("root.crt.pem")).expect("the root");
    write(dir, "good.psk", b"7vJ#kd93mXq0pL2zRt8w\n", 0o600);
    write(dir, "short.psk", b"hunter2", 0o600);
    write(dir, "dull.psk", b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 0o600);
    write(dir, "repeated.psk", b"abcdefghijabcdefghijabcdefghij", 0o600);
    write(dir, "open.psk", b"7vJ#kd93mXq0pL2zRt8w", 0o644);
    write(dir, "empty.pem", b"", 0o600);
    let key = fs::read(dir.join("clinic.key.pem")).expect("the key");
    write(dir, "open.key.pem", &key, 0o644);
    short_rsa(dir, &authority);
    folder
});

/// A certificate for a key that is too short, which no tool here would issue.
fn short_rsa(dir: &Path, authority: &Path) {
    use rsa::pkcs8::EncodePublicKey;
    let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 1024).expect("a key");
    let public = key.to_public_key().to_public_key_der().expect("its public half");
    let subject = rcgen::SubjectPublicKeyInfo::from_der(public.as_bytes()).expect("its public half");
    let read = |name: &str| fs::read_to_string(authority.join(name)).expect("the authority");
    let signer = rcgen::KeyPair::from_pem(&read("intermediate.key.pem")).expect("its key");
    let issuer = rcgen::Issuer::from_ca_cert_pem(&read("intermediate.crt.pem"), signer).expect("an issuer");
    let mut params = rcgen::CertificateParams::new(["clinic.example".to_owned()]).expect("parameters");
    params.not_after = (SystemTime::now() + DAY * 365).into();
    let certificate = params.signed_by(&subject, &issuer).expect("a certificate");
    write(dir, "short-rsa.crt.pem", certificate.pem().as_bytes(), 0o600);
}

fn write(dir: &Path, name: &str, bytes: &[u8], mode: u32) {
    let path = dir.join(name);
    fs::write(&path, bytes).expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode");
}

fn check_at(source: &str, now: SystemTime) -> Result<Loaded, Vec<Diagnostic>> {
    check(&FOLDER.path().join("gateway.toml"), source, now)
}

fn check_now(source: &str) -> Result<Loaded, Vec<Diagnostic>> {
    check_at(source, SystemTime::now())
}

fn good(source: &str) -> Config {
    match check_now(source) {
        Ok(loaded) if loaded.warnings.is_empty() => loaded.config,
        Ok(loaded) => panic!("{:#?}", loaded.warnings),
        Err(findings) => panic!("{}", findings.iter().map(Diagnostic::to_string).collect::<String>()),
    }
}

/// The example with one edit; its text, and where the mark stood.
fn edited(source: &str, from: &str, to: &str) -> (String, (usize, usize)) {
    assert!(source.contains(from), "the example has no {from:?}");
    assert!(to.contains('¦'), "{to:?} marks no place");
    let marked = source.replacen(from, to, 1);
    let before = marked.split('¦').next().expect("a part before the mark");
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().expect("a line").chars().count() + 1;
    (marked.replace('¦', ""), (line, column))
}

/// The finding at the mark, which must say what it is about and what to do.
fn finding(findings: &[Diagnostic], place: (usize, usize), message: &str, severity: Severity) -> Diagnostic {
    let found = findings.iter().find(|finding| {
        (finding.line, finding.column) == place
            && finding.message.contains(message)
            && finding.severity == severity
    });
    let found = found.unwrap_or_else(|| {
        let all: Vec<String> = findings.iter().map(Diagnostic::line).collect();
        panic!("no {severity:?} {message:?} at {place:?} among\n{}", all.join("\n"))
    });
    assert!(!found.remedy.is_empty());
    found.clone()
}

/// The edit makes exactly one error, at the mark.
#[track_caller]
fn refuses(from: &str, to: &str, message: &str) -> Diagnostic {
    let (source, place) = edited(CLINIC, from, to);
    let findings = check_now(&source).expect_err("the edit is an error");
    let found = finding(&findings, place, message, Severity::Error);
    let others: Vec<String> = findings
        .iter()
        .filter(|f| f.severity == Severity::Error && **f != found)
        .map(Diagnostic::line)
        .collect();
    assert!(others.is_empty(), "{}", others.join("\n"));
    found
}

/// As [`refuses`], where one mistake shows at several places.
#[track_caller]
fn refuses_among_others(from: &str, to: &str, message: &str) -> Diagnostic {
    let (source, place) = edited(CLINIC, from, to);
    finding(&check_now(&source).expect_err("the edit is an error"), place, message, Severity::Error)
}

/// The edit is taken, with a warning at the mark.
#[track_caller]
fn warns(from: &str, to: &str, message: &str) -> Diagnostic {
    let (source, place) = edited(CLINIC, from, to);
    let loaded = check_now(&source).expect("the edit is no error");
    finding(&loaded.warnings, place, message, Severity::Warning)
}

const LOCAL_PROOF: &str = "certificate = \"clinic.crt.pem\", key = \"clinic.key.pem\"";
const REMOTE_PROOF: &str = "ca = \"root.crt.pem\"";
const CHILD_LOCAL: &str =
    "local = [\"192.168.1.0/24\", \"192.168.2.0/24\", \"fd00:1::/64\", \"fd00:2::/64\"]";
const CHILD_REMOTE: &str = "remote = [\"10.2.0.0/24\", \"fd00:c::/64\"]";

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

#[test]
fn toml_itself() {
    refuses("name = \"clinic\"\n", "name = ¦clinic\n", "not TOML");
    let source =
        CLINIC.replacen("name = \"clinic\"", "name = clinic", 1).replacen("uplink = true", "uplink = ja", 1);
    assert!(check_now(&source).expect_err("two errors").len() >= 2, "both are reported");
}

#[test]
fn unknown_keys_get_the_nearest_known_one() {
    let found = refuses("datapath =", "¦datapaht =", "knows no `datapaht`");
    assert_eq!(found.remedy, "did you mean `datapath`?");
    refuses("[services]", "[¦sevices2.x]\n[services]", "knows no `sevices2`");
    refuses("dpd = \"30s\"", "¦dpdd = \"30s\"", "knows no `dpdd`");
    refuses("id = \"centre.example\"", "id = \"centre.example\", ¦adress = \"x\"", "knows no `adress`");
    refuses("log = true", "¦logs = true", "knows no `logs`");
}

#[test]
fn wrong_types() {
    refuses("uplink = true", "uplink = true\nzone = ¦1", "`zone` is an integer");
    refuses("dpd = \"30s\"", "dpd = ¦30", "`dpd` is an integer");
    refuses("dpd = \"30s\"", "dpd = ¦\"soon\"", "`dpd` cannot be \"soon\"");
    refuses("datapath = \"auto\"", "datapath = ¦\"fast\"", "`datapath` cannot be \"fast\"");
    refuses("datapath = \"auto\"", "offload = ¦\"all\"", "`offload` cannot be \"all\"");
    refuses(
        "datapath = \"auto\"",
        "datapath = \"engine\"\noffload = ¦\"crypto\"",
        "the engine encrypts by itself",
    );
    let source = CLINIC.replacen("datapath = \"auto\"", "datapath = \"kernel\"\noffload = \"crypto\"", 1);
    assert_eq!(check_now(&source).expect("good").config.gateway.offload, Offload::Crypto);
    let found =
        refuses("datapath = \"auto\"", "offload = ¦\"packet\"", "not supported before it has been seen");
    assert_eq!(found.remedy, "use \"crypto\"");
    refuses("metrics = \"127.0.0.1:9469\"", "flows_max = ¦5", "`flows_max` cannot be 5");
    refuses("metrics = \"127.0.0.1:9469\"", "engine_workers = ¦0", "`engine_workers` cannot be 0");
    refuses("metrics = \"127.0.0.1:9469\"", "engine_workers = ¦17", "`engine_workers` cannot be 17");
    refuses("metrics = \"127.0.0.1:9469\"", "engine_workers = ¦\"all\"", "`engine_workers` is a string");
    refuses("metrics = \"127.0.0.1:9469\"", "engine_workers = ¦true", "`engine_workers` is a boolean");
    refuses("interface = \"lan1\"", "interface = ¦7", "`interface` is an integer");
    refuses("[services]", "[timeouts]\nudp = ¦\"0s\"\n[services]", "`udp` cannot be 0s");
    refuses("[services]", "[timeouts]\nicmp = ¦\"soon\"\n[services]", "`icmp` cannot be");
    refuses("[services]", "[timeouts]\n¦tcp_establishd = \"1h\"\n[services]", "knows no `tcp_establishd`");
    refuses("rekey = \"1h\"", "rekey = ¦\"1s\"", "`rekey` cannot be 1s");
    refuses("start = \"always\"", "start = ¦\"allways\"", "`start` cannot be");
    refuses("log = true", "log = ¦\"yes\"", "`log` is a string");
}

#[test]
fn missing_keys() {
    refuses("[gateway]\nname = \"clinic\"", "[¦gateway]", "[gateway] has no `name`");
    refuses(
        "[ports.lan4]",
        "[ports.¦lan5]\ninterface = \"x\"\n[ports.lan4]",
        "[ports.lan5] has no `addresses`",
    );
    refuses(
        "[ports.lan4]",
        "[ports.lan5]\ninterface = \"x\"\n¦addresses = []\n[ports.lan4]",
        "[ports.lan5] has no address",
    );
    refuses(
        "[ports.lan4]",
        "[ports.¦lan5]\naddresses = [\"192.168.9.1/24\"]\n[ports.lan4]",
        "has no `interface`",
    );
    refuses(
        "local = { address = \"198.51.100.2\", id = \"clinic.example\", ",
        "¦local = { address = \"198.51.100.2\", ",
        "[connections.centre.local] has no `id`",
    );
    refuses("[[policy]]\nname = \"claims\"", "¦[[policy]]", "[[policy]] has no `name`");
    refuses(
        "[[policy]]\nname = \"claims\"\nfrom = \"lan2\"",
        "¦[[policy]]\nname = \"claims\"",
        "[[policy]] has no `from`",
    );
}

#[test]
fn names() {
    refuses("name = \"clinic\"", "name = ¦\"../etc\"", "is no name for a gateway");
    refuses_among_others("uplink = true", "uplink = true\nzone = ¦\"gateway\"", "is the gateway itself");
    refuses("interface = \"wan\"", "interface = ¦\"a name too long\"", "no name of an interface");
    refuses("name = \"claims\"", "name = ¦\"print\"", "two policies \"print\"");
    refuses("scan = [", "¦tcp = [\"tcp/1\"]\nscan = [", "has a meaning already");
}

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

#[test]
fn metrics() {
    warns(
        "metrics = \"127.0.0.1:9469\"",
        "metrics = ¦\"192.168.1.1:9469\"",
        "no policy lets anyone reach the metrics",
    );
    refuses("metrics = \"127.0.0.1:9469\"", "metrics = ¦\"192.0.2.7:9469\"", "no address of this gateway");
    refuses("metrics = \"127.0.0.1:9469\"", "metrics = ¦\"127.0.0.1\"", "`metrics` cannot be");
}

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
fn one_proof_for_each_end() {
    refuses(
        LOCAL_PROOF,
        &format!("{LOCAL_PROOF}, ¦psk = \"good.psk\""),
        "a pre-shared key and a certificate",
    );
    refuses(REMOTE_PROOF, &format!("{REMOTE_PROOF}, ¦psk = \"good.psk\""), "a pre-shared key and a CA");
    refuses(
        &format!("local = {{ address = \"198.51.100.2\", id = \"clinic.example\", {LOCAL_PROOF}"),
        "¦local = { address = \"198.51.100.2\", id = \"clinic.example\"",
        "proves nothing",
    );
    refuses(
        &format!("remote = {{ address = \"203.0.113.2\", id = \"centre.example\", {REMOTE_PROOF}"),
        "¦remote = { address = \"203.0.113.2\", id = \"centre.example\"",
        "nothing says how",
    );
    refuses(
        &format!("local = {{ address = \"198.51.100.2\", id = \"clinic.example\", {LOCAL_PROOF}"),
        "¦local = { address = \"198.51.100.2\", id = \"clinic.example\", key = \"clinic.key.pem\"",
        "has no `certificate`",
    );
    good(&CLINIC.replace(LOCAL_PROOF, "psk = \"good.psk\"").replace(REMOTE_PROOF, "psk = \"good.psk\""));
}

#[test]
fn pre_shared_keys() {
    let refuse = |file: &str, message: &str| refuses(LOCAL_PROOF, &format!("psk = ¦\"{file}\""), message);
    refuse("short.psk", "it has 7 bytes");
    refuse("dull.psk", "1 different characters");
    refuse("repeated.psk", "repeats itself every 10 bytes");
    refuse("open.psk", "can be read by every user");
    refuse(".", "is no file");
    let missing = refuse("secretwrittenhere", "cannot be read");
    let shown = missing.render(false) + &missing.line();
    assert!(!shown.contains("secretwrittenhere"), "what may be the key itself is not repeated: {shown}");
}

#[test]
fn certificates_and_keys() {
    let local = |certificate: &str, key: &str| format!("certificate = {certificate}, key = {key}");
    let refuse =
        |certificate: &str, key: &str, message: &str| refuses(LOCAL_PROOF, &local(certificate, key), message);
    refuse("¦\"none.crt.pem\"", "\"clinic.key.pem\"", "cannot be read");
    refuse("\"clinic.crt.pem\"", "¦\"none.key.pem\"", "cannot be read");
    refuse("¦\"empty.pem\"", "\"clinic.key.pem\"", "no readable certificate");
    refuse("\"clinic.crt.pem\"", "¦\"empty.pem\"", "no private key");
    refuse("\"clinic.crt.pem\"", "¦\"open.key.pem\"", "can be read by every user");
    refuse("\"clinic.crt.pem\"", "¦\"centre.key.pem\"", "is not the certificate's");
    refuse("¦\"centre.crt.pem\"", "\"centre.key.pem\"", "does not carry the identity clinic.example");
    let short = edited(CLINIC, LOCAL_PROOF, &local("¦\"short-rsa.crt.pem\"", "\"clinic.key.pem\""));
    let findings = check_now(&short.0).expect_err("too short");
    finding(&findings, short.1, "an RSA key of 1024 bits is too short", Severity::Error);
    refuses(REMOTE_PROOF, "ca = ¦\"centre.crt.pem\"", "is no CA certificate");
    refuses(REMOTE_PROOF, "ca = ¦\"none.pem\"", "cannot be read");
}

#[test]
fn validity() {
    let (source, place) = edited(CLINIC, LOCAL_PROOF, &LOCAL_PROOF.replacen("\"clinic", "¦\"clinic", 1));
    let early = check_at(&source, SystemTime::now() - DAY).expect_err("not yet valid");
    finding(&early, place, "the certificate is not valid before", Severity::Error);
    let late = check_at(&source, SystemTime::now() + DAY * 366).expect_err("expired");
    finding(&late, place, "the certificate has expired", Severity::Error);
    let soon = check_at(&source, SystemTime::now() + DAY * 350).expect("still valid");
    finding(&soon.warnings, place, "the certificate expires on", Severity::Warning);
    let far = check_at(&source, SystemTime::now() + DAY * 365 * 11).expect_err("all expired");
    assert!(far.iter().any(|f| f.message.contains("the CA certificate has expired")));
}

#[test]
fn algorithms() {
    let found = refuses("esp = [\"aes128gcm16-x25519\"]", "esp = [¦\"3des-x25519\"]", "refused because");
    assert!(found.message.contains("RFC 8247") || found.message.contains("RFC 8221"), "{}", found.message);
    refuses("ike = [\"aes128gcm16-prfsha256-x25519\"]", "¦ike = []", "`ike` is empty");
}

#[test]
fn every_error_is_reported_at_once() {
    let source = CLINIC
        .replace("datapath", "datapth")
        .replace("\"scan\"", "\"scam\"")
        .replace("203.0.113.2", "0.0.0.0");
    let findings = check_now(&source).expect_err("three errors");
    assert!(findings.len() >= 3);
    assert!(findings.is_sorted_by_key(|finding| (finding.line, finding.column)));
}

#[test]
fn a_file_that_cannot_be_read() {
    let missing = PathBuf::from("no/such/file.toml");
    let findings = load(&missing).expect_err("no file");
    assert!(findings[0].to_string().contains("no/such/file.toml: cannot be read"));
    assert_eq!(findings[0].place(), "no/such/file.toml");
}

#[test]
fn a_report_shows_file_line_column_and_a_caret() {
    let found = refuses("datapath =", "¦datapaht =", "knows no");
    let report = found.to_string();
    assert!(report.contains(&format!("gateway.toml:{}:1", found.line)), "{report}");
    assert!(report.contains("^^^^^^^^ unknown key"), "{report}");
    assert!(report.contains("help: did you mean `datapath`?"), "{report}");
    let json = serde_json::to_value(&found).expect("JSON");
    assert_eq!(json["severity"], "error");
    assert_eq!(json["column"], 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever stands in the file, the answer is a list of findings that can be shown.
    #[test]
    fn no_text_makes_it_panic(cut in 0..CLINIC.len(), length in 0..40usize, with in "[\\PC\\n\\r\\t\"\\[\\]=./{}¦é関]{0,12}") {
        let mut bytes = CLINIC.as_bytes().to_vec();
        let end = (cut + length).min(bytes.len());
        bytes.splice(cut..end, with.bytes());
        let source = String::from_utf8_lossy(&bytes).into_owned();
        let findings = match check_now(&source) {
            Ok(loaded) => loaded.warnings,
            Err(findings) => {
                prop_assert!(findings.iter().any(|finding| finding.severity == Severity::Error));
                findings
            }
        };
        for finding in findings {
            prop_assert!(!finding.render(true).is_empty());
            prop_assert!(!finding.remedy.is_empty());
        }
    }
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
fn timeouts() {
    use sekisho_abi::flow::{LIFETIMES_DEFAULT, Lifetime};
    assert_eq!(good(CLINIC).timeouts.seconds, LIFETIMES_DEFAULT);
    let read =
        good(&format!("{CLINIC}\n[timeouts]\ntcp_established = \"2h\"\nudp = \"45s\"\ntcp_pick_up = true\n"))
            .timeouts;
    let mut expected = LIFETIMES_DEFAULT;
    expected[Lifetime::TcpEstablished as usize] = 7200;
    expected[Lifetime::UdpUnreplied as usize] = 45;
    assert_eq!((read.seconds, read.tcp_pick_up), (expected, true));
}

#[test]
fn workers_of_the_engine() {
    let with = |key: &str| CLINIC.replacen("[gateway]", &format!("[gateway]\n{key}"), 1);
    for (key, workers) in [("", None), ("engine_workers = \"auto\"", None), ("engine_workers = 4", Some(4))] {
        assert_eq!(good(&with(key)).gateway.engine_workers, workers, "{key}");
    }
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

#[test]
fn limits() {
    let limits = good(CLINIC).limits;
    assert_eq!((limits.flows_per_source, limits.flows_per_zone), (8192, 65_536));
    assert_eq!((limits.scan, limits.scan_doors), (ScanAction::Limit, 64));
    let small = CLINIC.replacen("[gateway]", "[gateway]\nflows_max = 4096", 1);
    assert_eq!((good(&small).limits.flows_per_source, good(&small).limits.flows_per_zone), (256, 2048));
    let config = good(&format!(
        "{CLINIC}\n[limits]\nflows_per_source = 100\nhalf_open_per_source = 9\nscan = \"block\"\nscan_hold = \"10min\"\n\
         [limits.zones]\nlan4 = 500\n"
    ));
    let limits = &config.limits;
    assert_eq!((limits.flows_per_source, limits.half_open_per_source), (100, 9));
    assert_eq!((limits.scan, limits.scan_hold), (ScanAction::Block, Duration::from_secs(600)));
    let zone = |name: &str| config.zones.iter().find(|zone| &*zone.name == name).expect("a zone").id;
    assert_eq!((limits.of_zone(zone("lan4")), limits.of_zone(zone("lan1"))), (500, 65_536));
    refuses("[services]", "[limits]\nflows_per_source = ¦0\n[services]", "`flows_per_source` cannot be 0");
    refuses("[services]", "[limits]\nhalf_open_per_source = ¦60001\n[services]", "cannot be 60001");
    refuses("[services]", "[limits]\nscan = ¦\"kill\"\n[services]", "`scan` cannot be");
    refuses("[services]", "[limits]\nscan_hold = ¦\"0s\"\n[services]", "`scan_hold` cannot be");
    refuses("[services]", "[limits.zones]\n¦lan9 = 5\n[services]", "there is no zone \"lan9\"");
    refuses("[services]", "[limits.zones]\nlan1 = ¦\"5\"\n[services]", "`lan1` is a string");
    refuses("[services]", "[limits.zones]\nlan1 = ¦0\n[services]", "`lan1` cannot be 0");
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

#[test]
fn what_a_peers_certificate_is_judged_by() {
    let with = |more: &str| format!("{REMOTE_PROOF}, {more}");
    refuses(REMOTE_PROOF, &with("revocation = ¦\"sometimes\""), "`revocation` cannot be");
    refuses(REMOTE_PROOF, &with("purpose = ¦\"tls\""), "`purpose` cannot be");
    refuses(REMOTE_PROOF, &with("crl = ¦\"none.crl\""), "cannot be read");
    refuses(REMOTE_PROOF, &with("crl = ¦\"root.crt.pem\""), "X509 CRL");
    refuses(REMOTE_PROOF, &with("intermediates = ¦\"centre.crt.pem\""), "is no CA certificate");
    refuses(REMOTE_PROOF, &with("crl = \"pki/root.crl\", revocation = ¦\"off\""), "would not be looked at");
    let all = with(
        "crl = [\"pki/root.crl\", \"pki/intermediate.crl\"], revocation = \"strict\", purpose = \"strict\"",
    );
    let config = good(&CLINIC.replacen(REMOTE_PROOF, &all, 1));
    let RemoteCredential::Ca(remote) = &config.connections[0].remote.credential else { panic!("a CA") };
    assert_eq!((remote.crls.len(), remote.revocation), (2, RevocationPolicy::Strict));
    assert!(config.ike().is_ok());
}
