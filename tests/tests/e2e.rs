//! Whole gateways in a network of namespaces: what the demonstration shows, and what it has no time for.
//!
//! `cargo test -p sekisho-tests --test e2e` as root. Tests run one after the other, in the order in which they stand
//! here, most of them on one lab: a run that lays a lab for each would take minutes to lay labs.

mod e2e {
    pub(crate) mod addresses;
    pub(crate) mod attacks;
    pub(crate) mod auto;
    pub(crate) mod clear;
    pub(crate) mod clinic;
    pub(crate) mod control;
    pub(crate) mod counters;
    pub(crate) mod evidence;
    pub(crate) mod explain;
    pub(crate) mod foreign;
    pub(crate) mod hundreds;
    pub(crate) mod lab;
    pub(crate) mod lan_services;
    pub(crate) mod life;
    pub(crate) mod load;
    pub(crate) mod mobility;
    pub(crate) mod nat;
    pub(crate) mod negotiation;
    pub(crate) mod neighbours;
    pub(crate) mod offload;
    pub(crate) mod operation;
    pub(crate) mod peer;
    pub(crate) mod pmtu;
    pub(crate) mod pools;
    pub(crate) mod refusal;
    pub(crate) mod reload;
    pub(crate) mod resources;
    pub(crate) mod sixteen;
    pub(crate) mod switch;
    pub(crate) mod vlan;
    pub(crate) mod workers;
}

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use sekisho_tests::scenario::site::Site;
use sekisho_tests::scenario::{DEMONSTRATION, ENDING};
use sekisho_tests::stage::{self, Stage};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They share a site.
    arguments.test_threads = Some(1);
    let stage = Stage::new(|| Site::sekisho("e2e", |_| {}));
    let mut trials = e2e::lab::trials();
    for scenario in DEMONSTRATION {
        let stage = stage.clone();
        let run = scenario.run;
        trials.push(Trial::test(name("shown", scenario.name), move || stage::words(stage.run(run))));
    }
    trials.extend(e2e::operation::trials(&stage));
    trials.extend(e2e::negotiation::trials(&stage));
    trials.extend(e2e::auto::trials(&stage));
    trials.extend(e2e::life::trials(&stage));
    trials.extend(e2e::load::trials(&stage));
    trials.extend(e2e::refusal::trials(&stage));
    trials.extend(e2e::reload::trials(&stage));
    trials.extend(e2e::nat::trials(&stage));
    trials.extend(e2e::addresses::trials(&stage));
    trials.extend(e2e::evidence::trials(&stage));
    trials.extend(e2e::explain::trials(&stage));
    trials.extend(e2e::pmtu::trials(&stage));
    trials.extend(e2e::attacks::trials(&stage));
    trials.extend(e2e::control::trials(&stage));
    trials.extend(e2e::mobility::trials(&stage));
    trials.extend(e2e::clear::trials(&stage));
    trials.extend(e2e::foreign::trials(&stage));
    trials.extend(e2e::counters::trials(&stage));
    trials.extend(e2e::offload::trials(&stage));
    trials.extend(e2e::pools::trials());
    trials.extend(e2e::sixteen::trials());
    trials.extend(e2e::hundreds::trials());
    trials.extend(e2e::vlan::trials());
    trials.extend(e2e::workers::trials());
    trials.extend(e2e::resources::trials(&stage));
    trials.extend(e2e::neighbours::trials());
    trials.extend(e2e::lan_services::trials());
    let last = stage.clone();
    trials.push(Trial::test(name("shown", ENDING.name), move || {
        stage::words(last.run(|site| {
            e2e::negotiation::usual(site)?;
            (ENDING.run)(site)
        }))
    }));
    let conclusion = libtest_mimic::run(&arguments, trials);
    stage.clear();
    stage::code(conclusion.has_failed())
}

/// A test's name: words joined so that it can be given on a command line as it is.
fn name(group: &str, words: &str) -> String {
    let words: String = words.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { ' ' }).collect();
    format!("{group}::{}", words.to_lowercase().split_whitespace().collect::<Vec<_>>().join("_"))
}
