//! What is measured. Each scenario can be run alone: `cargo xtask perf --scenario NAME`.

pub mod filter;
pub mod forwarding;
pub mod goodput;
pub mod ike;
pub mod life;

use anyhow::Result;

use crate::perf::session::Session;

/// One of them.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// As the command line has it.
    pub name: &'static str,
    /// What it measures, in a few words.
    pub about: &'static str,
    /// Measures.
    pub run: fn(&mut Session) -> Result<()>,
}

/// In the order in which they run.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "filter",
        about: "what the XDP program costs a packet, and how that grows with flows, rules, addresses and zones",
        run: filter::run,
    },
    Scenario {
        name: "forwarding",
        about: "packets forwarded in clear, known flows and new ones: beside nftables, the bare kernel, a bare redirect",
        run: forwarding::run,
    },
    Scenario {
        name: "goodput",
        about: "through the tunnel: TCP, UDP, latency under load, CPU; against strongSwan's and WireGuard's user space",
        run: goodput::run,
    },
    Scenario {
        name: "ike",
        about: "handshakes: many tunnels at once, and honest ones under a flood; against charon",
        run: ike::run,
    },
    Scenario {
        name: "life",
        about: "packets lost and the longest gap: rekeying, reload, restart, crash, change of line",
        run: life::run,
    },
];
