//! What is measured. Each scenario can be run alone: `cargo xtask perf --scenario NAME`.

pub mod filter;
pub mod forwarding;
pub mod goodput;
pub mod ike;
pub mod inward;
pub mod life;
pub mod peers;
pub mod xfrm;

use std::time::Duration;

use anyhow::Result;

use crate::perf::session::Session;

/// One of them.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// As the command line has it.
    pub name: &'static str,
    /// What it measures, in a few words.
    pub about: &'static str,
    /// Seconds that it may take on a quiet machine: in a quick run, and in a full one. All of a quick run together take
    /// less than 5 minutes, of a full one less than 25.
    pub seconds: [u64; 2],
    /// It runs where it is named, and is no part of all scenarios together.
    pub only_named: bool,
    /// Measures.
    pub run: fn(&mut Session) -> Result<()>,
}

impl Scenario {
    /// How long it may take.
    pub fn budget(&self, quick: bool) -> Duration {
        let [short, long] = self.seconds;
        Duration::from_secs(if quick { short } else { long })
    }
}

/// In the order in which they run.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "filter",
        about: "what the XDP program costs a packet, and how that grows with flows, rules, addresses and zones",
        seconds: [12, 40],
        only_named: false,
        run: filter::run,
    },
    Scenario {
        name: "forwarding",
        about: "packets forwarded in clear, known flows and new ones: beside nftables, the bare kernel, a bare redirect",
        seconds: [53, 200],
        only_named: false,
        run: forwarding::run,
    },
    Scenario {
        name: "goodput",
        about: "through the tunnel: TCP, UDP, latency under load, CPU; against strongSwan's and WireGuard's user space",
        seconds: [106, 575],
        only_named: false,
        run: goodput::run,
    },
    Scenario {
        name: "ike",
        about: "handshakes: many tunnels at once, and honest ones under a flood; against charon",
        seconds: [58, 280],
        only_named: false,
        run: ike::run,
    },
    Scenario {
        name: "life",
        about: "packets lost and the longest gap, at rest and beside a full load: rekeys, restarts, crashes, changed paths",
        seconds: [50, 125],
        only_named: false,
        run: life::run,
    },
    Scenario {
        name: "peers",
        about: "a thousand peers of one centre, with traffic: set-up, memory, and what a packet costs by their number",
        seconds: [15, 40],
        only_named: false,
        run: peers::run,
    },
    Scenario {
        name: "xfrm",
        about: "through the tunnel on the kernel's ESP, in a virtual machine: against strongSwan with nftables",
        seconds: [5, 235],
        only_named: false,
        run: xfrm::run,
    },
    Scenario {
        name: "peers-xfrm",
        about: "the same peers on the kernel's ESP, in a virtual machine; only where named",
        seconds: [300, 300],
        only_named: true,
        run: peers::run_in_guest,
    },
    Scenario {
        name: "inward",
        about: "by which way decrypted packets come into the kernel: the engine's, and what else could be done; only where named",
        seconds: [25, 60],
        only_named: true,
        run: inward::run,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_them_keep_what_is_promised() {
        let usual = || ALL.iter().filter(|scenario| !scenario.only_named);
        let all = |quick| usual().map(|scenario| scenario.budget(quick)).sum::<Duration>();
        assert!(all(true) < Duration::from_secs(5 * 60), "{:?}", all(true));
        assert!(all(false) < Duration::from_secs(25 * 60), "{:?}", all(false));
    }
}
