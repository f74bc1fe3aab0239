//! Instructions that the processor has executed for a packet, where it has counters and lets us read them. A virtual machine
//! mostly has none.

use std::io;

use perf_event::events::Hardware;
use perf_event::{Builder, Counter};

/// Counts what this thread executes, the kernel's instructions for it included.
#[derive(Debug)]
pub(super) struct Instructions(Counter);

impl Instructions {
    /// Opens the counter; `None` with the kernel's reason where there is none.
    pub(super) fn open() -> io::Result<Self> {
        let mut builder = Builder::new().observe_self().any_cpu().kind(Hardware::INSTRUCTIONS);
        builder.include_kernel().exclude_user(true);
        builder.build().map(Self)
    }

    fn of(&mut self, work: impl FnOnce()) -> io::Result<u64> {
        self.0.reset()?;
        self.0.enable()?;
        work();
        self.0.disable()?;
        self.0.read()
    }

    /// Of one run, where `work` makes as many runs as it is told: what else the call costs falls out between few and many.
    pub(super) fn of_a_run(&mut self, many: u32, work: impl Fn(u32)) -> io::Result<f64> {
        let (few, all) = (self.of(|| work(1))?, self.of(|| work(many))?);
        Ok(all.saturating_sub(few) as f64 / f64::from(many - 1))
    }
}
