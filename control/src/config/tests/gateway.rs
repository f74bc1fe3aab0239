//! `[gateway]`, `[timeouts]` and `[limits]`.

use super::*;

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
fn batches_of_the_engine() {
    let with = |key: &str| CLINIC.replacen("[gateway]", &format!("[gateway]\n{key}"), 1);
    for (key, wait) in [("", 50), ("engine_batch_us = 0", 0), ("engine_batch_us = 200", 200)] {
        assert_eq!(good(&with(key)).gateway.engine_batch(), Duration::from_micros(wait), "{key}");
    }
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
