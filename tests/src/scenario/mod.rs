//! What must hold, each as one function: it returns the figure it measured, or says what was otherwise.
//!
//! The demonstration runs them as the lines of its table, the end-to-end suite as its tests: what is shown is what is
//! tested.

pub mod flood;
pub mod hostile;
pub mod lifecycle;
pub mod policy;
pub mod rekey;
pub mod separation;
pub mod site;
pub mod tunnel;

use crate::stage::Test;

/// One of them.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// What holds, in a few words.
    pub name: &'static str,
    /// Shows it.
    pub run: Test,
}

/// In the order of the demonstration; the last one ends the gateway.
pub const DEMONSTRATION: &[Scenario] = &[
    Scenario { name: "the tunnel comes up by itself", run: tunnel::up },
    Scenario { name: "LAN1 prints at LAN3, replies pass", run: policy::reception_prints },
    Scenario { name: "LAN3 does not reach LAN1, except scans", run: policy::office_only_scans },
    Scenario { name: "LAN4 browses the internet", run: policy::internet_pcs_browse },
    Scenario { name: "LAN1 does not reach the internet", run: policy::reception_has_no_internet },
    Scenario { name: "the internet reaches no LAN", run: policy::internet_reaches_no_lan },
    Scenario { name: "LAN4 cannot speak as LAN1", run: separation::spoofed_source },
    Scenario { name: "VPN addresses are refused in clear", run: separation::vpn_address_in_clear },
    Scenario { name: "server page through the tunnel, nothing in clear", run: tunnel::page_unseen },
    Scenario { name: "round trip through the tunnel", run: tunnel::round_trip },
    Scenario { name: "TCP throughput through the tunnel", run: tunnel::throughput },
    Scenario { name: "child SA rekey loses no packet", run: rekey::child_without_loss },
    Scenario { name: "IKE SA rekey loses no packet", run: rekey::ike_without_loss },
    Scenario { name: "garbage and unknown SPIs change nothing", run: hostile::garbage },
    Scenario { name: "recorded and forged ESP is refused", run: hostile::replayed_esp },
    Scenario { name: "recorded IKE changes nothing", run: hostile::replayed_ike },
    Scenario { name: "down closes the tunnel, nothing leaks", run: lifecycle::down_leaks_nothing },
    Scenario { name: "up opens it again", run: lifecycle::up_again },
    Scenario { name: "daemon killed: the filter stays in force", run: lifecycle::crash_keeps_filter },
    Scenario { name: "daemon back: takes over, flows survive", run: lifecycle::restart_takes_over },
];

/// What ends a gateway: not with `demo --keep`.
pub const ENDING: Scenario =
    Scenario { name: "stop removes everything", run: lifecycle::stop_removes_everything };
