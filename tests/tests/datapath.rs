//! One data path, seen from outside: every algorithm, both IP versions inside and outside, with and without UDP around ESP,
//! between our gateways and with strongSwan. Which data path it is, the environment says (`SEKISHO_DATAPATH`).
//!
//! `cargo test -p sekisho-tests --test datapath` as root. The same cells run on both paths; `docs/datapath.md` holds what
//! became of them.

mod datapath {
    pub(crate) mod cell;
    pub(crate) mod page;
}

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Arguments, Trial};
use sekisho_tests::scenario::site::Site;
use sekisho_tests::stage::{self, Stage};

use datapath::cell::{self, Cell, Peer};
use datapath::page::{self, Ran};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They share a site for each peer.
    arguments.test_threads = Some(1);
    let results = Arc::<Mutex<Vec<Ran>>>::default();
    let mut trials = Vec::new();
    let mut stages = Vec::new();
    for peer in Peer::BOTH {
        let stage = Stage::new(match peer {
            Peer::Sekisho => || Site::sekisho("dpours", cell::quiet),
            Peer::StrongSwan => || Site::strongswan("dpswan", cell::quiet),
        });
        trials.extend(Cell::all(peer).map(|cell| trial(&stage, cell, &results)));
        stages.push(stage);
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    for stage in &stages {
        stage.clear();
    }
    let ran = results.lock().unwrap_or_else(PoisonError::into_inner);
    print!("{}", page::section(&ran));
    stage::code(conclusion.has_failed())
}

fn trial(stage: &Stage, cell: Cell, results: &Arc<Mutex<Vec<Ran>>>) -> Trial {
    let (stage, results) = (stage.clone(), results.clone());
    Trial::test(cell.name(), move || {
        let outcome = stage.run(|site| cell.show(site));
        if outcome.is_err() {
            // What it has left behind is not the next one's to meet.
            stage.clear();
        }
        results.lock().unwrap_or_else(PoisonError::into_inner).push((cell, outcome.is_ok()));
        stage::words(outcome)
    })
}
