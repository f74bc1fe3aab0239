//! Against strongSwan 5.9.8: its IKE, and its ESP in user space, with real traffic.
//!
//! `cargo test -p sekisho-tests --test interop` as root, with strongSwan installed (`cargo xtask setup`). One lab, our
//! gateway at the clinic, charon at the centre; each scenario in both roles. The matrix at the end has a line for each
//! cell; `docs/interop.md` is made of it.

mod interop {
    pub(crate) mod algorithms;
    pub(crate) mod control;
    pub(crate) mod endings;
    pub(crate) mod exchanges;
    pub(crate) mod keys;
    pub(crate) mod matrix;
    pub(crate) mod page;
    pub(crate) mod paths;
    pub(crate) mod pools;
    pub(crate) mod proofs;
    pub(crate) mod refusal;
    pub(crate) mod session;
}

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use sekisho_tests::scenario::site::Site;
use sekisho_tests::stage::{self, Stage};

use interop::matrix::Matrix;
use interop::{algorithms, control, endings, exchanges, keys, paths, pools, proofs, refusal};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They share a site.
    arguments.test_threads = Some(1);
    let stage = Stage::new(|| Site::strongswan("interop", |settings| settings.start = "manual"));
    let mut trials = vec![Trial::test("lab::strongswan_with_strongswan", || stage::words(control::both()))];
    let rows = [
        proofs::rows(),
        algorithms::rows(),
        exchanges::rows(),
        paths::rows(),
        pools::rows(),
        keys::rows(),
        endings::rows(),
        refusal::rows(),
    ];
    let matrix = Matrix::new(rows.into_iter().flatten().collect());
    trials.extend(matrix.trials(&stage));
    let conclusion = libtest_mimic::run(&arguments, trials);
    stage.clear();
    let written = matrix.conclude();
    if let Err(error) = &written {
        eprintln!("{error:#}");
    }
    stage::code(conclusion.has_failed() || written.is_err())
}
