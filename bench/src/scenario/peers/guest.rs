//! What is measured in the guest: the same, once, on the kernel's ESP.

use anyhow::Result;

use super::{KERNEL, SCENARIO_IN_GUEST, measure};
use crate::perf::session::Session;
use crate::scenario::xfrm::guest::line;

/// Measures, and prints the report.
///
/// # Errors
/// When it breaks off: there is nothing to compare half of it with.
pub fn run(quick: bool) -> Result<()> {
    let mut session = Session::new(quick);
    session.enter(SCENARIO_IN_GUEST);
    measure(&mut session, SCENARIO_IN_GUEST, KERNEL)?;
    println!("{}", line(session.report())?);
    Ok(())
}
