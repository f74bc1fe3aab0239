//! The time of a single test run, less what a test run costs by itself.

use std::os::fd::AsFd as _;

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::Xdp;
use sekisho_tests::filter::{Device, Lab, measuring_object, test_run};

/// A program that does nothing: its time is the measurement's own.
pub(super) struct Clock {
    ebpf: Ebpf,
}

impl Clock {
    pub(super) fn new() -> Result<Self> {
        let mut ebpf = Ebpf::load(measuring_object()).context("loading the measuring programs")?;
        let program: &mut Xdp = ebpf.program_mut("nothing").context("no program nothing")?.try_into()?;
        program.load().context("loading nothing")?;
        Ok(Self { ebpf })
    }

    /// Median time of `port` for the frames with these numbers, nanoseconds: each is a run by itself, and after it comes
    /// one of the program that does nothing.
    pub(super) fn median(
        &self,
        lab: &Lab,
        device: Device,
        runs: usize,
        mut frame: impl FnMut(usize) -> Vec<u8>,
    ) -> Result<f64> {
        let nothing = self.ebpf.program("nothing").context("no program nothing")?.fd()?.as_fd();
        let (mut port, mut empty) = (Vec::with_capacity(runs), Vec::with_capacity(runs));
        for number in 0..runs {
            let frame = frame(number);
            port.push(lab.cost(device, &frame, 1).as_nanos() as f64);
            let run = test_run::xdp(nothing, lab.ifindex(device), 0, &frame, 1).context("a test run")?;
            empty.push(run.duration.as_nanos() as f64);
        }
        Ok(median(&mut port) - median(&mut empty))
    }
}

/// The middle one; of none 0.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_not_the_mean() {
        assert_eq!(median(&mut [9.0, 1.0, 100.0, 2.0, 3.0]), 3.0);
        assert_eq!(median(&mut []), 0.0);
    }
}
