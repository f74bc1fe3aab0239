//! Our gateway's configuration.

use std::fmt::Write as _;

use sekisho_bench_ebpf::PORT_FIRST;
use sekisho_tests::gateway::settings::{Side, ports};

/// What one host may open: it is the only one there is.
const FLOWS_PER_SOURCE: u32 = 65_536;

/// LAN1 may open so many services of the internet, one policy each. Everything else is the default.
pub(super) fn configuration(name: &str, rules: u16) -> String {
    let mut out = format!(
        "[gateway]\nname = \"{name}\"\n{}\n[limits]\nflows_per_source = {FLOWS_PER_SOURCE}\n",
        ports(Side::Clinic, &[])
    );
    for rule in 1..=rules {
        let _ = write!(
            out,
            "\n[[policy]]\nname = \"service-{rule}\"\nfrom = \"lan1\"\nto = \"wan\"\nallow = [\"udp/{}\"]\n",
            PORT_FIRST + rule
        );
    }
    out
}
