//! The file as a whole: its syntax, keys, types and names, and how findings are reported.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

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
