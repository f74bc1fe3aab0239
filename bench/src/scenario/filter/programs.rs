//! What the verifier had to do with each program, and what it has become.

use anyhow::{Context, Result};
use sekisho_tests::filter::{Lab, object};

use super::SCENARIO;
use crate::perf::report::{Better, Figure};
use crate::perf::session::Session;

#[path = "../../../../xtask/src/ebpf_stack.rs"]
#[allow(dead_code, reason = "the rest serves xtask")]
mod ebpf_stack;

/// Records every program of a gateway once: these figures have no noise.
pub(super) fn record(session: &mut Session) -> Result<()> {
    const CASE: &str = "programs in this kernel";
    session.progress(CASE);
    let lab = Lab::new();
    let functions = ebpf_stack::functions(object()).context("reading the object")?;
    for (name, info) in lab.programs() {
        let info = info.with_context(|| format!("facts of {name}"))?;
        let mut figure = Figure {
            scenario: SCENARIO,
            case: CASE,
            contender: name,
            name: "instructions verified",
            unit: "",
            better: Better::Lower,
            at: None,
        };
        match info.verified_instruction_count() {
            Some(count) => session.record(&figure, count.into()),
            None => session.skip("instructions verified", "the kernel does not tell before 5.16"),
        }
        for (what, bytes) in
            [("eBPF code", info.size_translated().unwrap_or_default()), ("native code", info.size_jitted())]
        {
            (figure.name, figure.unit) = (what, "KiB");
            session.record(&figure, f64::from(bytes) / 1024.0);
        }
        (figure.name, figure.unit) = ("stack, deepest chain of calls", "B");
        session.record(&figure, ebpf_stack::deepest(&functions, name).0.into());
    }
    Ok(())
}
