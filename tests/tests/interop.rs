//! Against strongSwan 5.9.8: its IKE, and its ESP in user space, with real traffic.
//!
//! `cargo test -p sekisho-tests --test interop` as root, with strongSwan installed (`cargo xtask setup`). One lab, our
//! gateway at the clinic, charon at the centre; each case in both roles. The table at the end has a line for each.

mod interop {
    pub(crate) mod case;
    pub(crate) mod refusal;
    pub(crate) mod table;
}

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use sekisho_tests::scenario::site::Site;
use sekisho_tests::stage::{self, Stage};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They share a site.
    arguments.test_threads = Some(1);
    let stage = Stage::new(|| Site::strongswan("interop", |_| {}));
    let mut trials =
        vec![Trial::test("lab::strongswan_with_strongswan", || stage::words(interop::case::control()))];
    trials.extend(interop::case::trials(&stage));
    trials.extend(interop::refusal::trials(&stage));
    let conclusion = libtest_mimic::run(&arguments, trials);
    stage.clear();
    interop::table::print();
    stage::code(conclusion.has_failed())
}
