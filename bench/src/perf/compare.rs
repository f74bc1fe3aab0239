//! Two reports: what became better, what worse, and what the noise leaves open.

use std::fmt;

use super::report::{Better, OURS, Report, Series};
use super::statistics::{Drawn, Ratio, Refusal, WIDEST, interval};

/// A change below this fraction is none that anybody should act upon: another layout of the same code does as much.
pub const TOLERANCE: f64 = 0.05;

/// What became of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The whole interval is on the better side of the tolerance.
    Better,
    /// The whole interval is on the worse side of the tolerance.
    Worse,
    /// Neither.
    Same,
    /// The interval is too wide to say.
    Open,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Better => "better",
            Self::Worse => "WORSE",
            Self::Same => "same",
            Self::Open => "noise",
        })
    }
}

/// A figure of both reports.
#[derive(Clone, Debug)]
pub struct Change<'a> {
    /// Then.
    pub base: &'a Series,
    /// Now.
    pub now: &'a Series,
    /// Now over then.
    pub ratio: Result<Ratio, Refusal>,
    /// What it means.
    pub verdict: Verdict,
}

impl Change<'_> {
    /// The share of resamples in which the change goes the way that its median went.
    pub fn confidence(&self) -> f64 {
        match self.ratio {
            Ok(ratio) if ratio.value < 1.0 => ratio.below_one,
            Ok(ratio) => 1.0 - ratio.below_one,
            Err(_) => 0.0,
        }
    }
}

/// The figures that have become worse and are ours: where we take part, the others' figures only say that the machine
/// has changed.
pub fn regressions<'a, 'b>(changes: &'b [Change<'a>]) -> Vec<&'b Change<'a>> {
    let ours = |case: &Series| {
        changes.iter().any(|other| {
            let now = other.now;
            now.contender == OURS && now.scenario == case.scenario && now.case == case.case
        })
    };
    let worse = changes.iter().filter(|change| change.verdict == Verdict::Worse);
    worse.filter(|change| change.now.contender == OURS || !ours(change.now)).collect()
}

/// Every figure that both have, and of which one value is better than another.
pub fn changes<'a>(base: &'a Report, now: &'a Report) -> Vec<Change<'a>> {
    now.series
        .iter()
        .filter(|now| now.better != Better::Neither)
        // What an emulated processor did on one day is no base for another.
        .filter(|series| ![base, now].into_iter().any(|report| report.is_relative(&series.scenario)))
        .filter_map(|now| {
            let base = base.series.iter().find(|base| base.key() == now.key() && base.unit == now.unit)?;
            // Runs of different days have nothing in common: not drawn together, whatever their number.
            let ratio = interval(&now.samples, &base.samples, Drawn::Apart);
            Some(Change { base, now, ratio, verdict: verdict(now, base, ratio) })
        })
        .collect()
}

fn verdict(now: &Series, base: &Series, ratio: Result<Ratio, Refusal>) -> Verdict {
    // Also what was computed, of which there is one sample.
    if now.samples == base.samples {
        return Verdict::Same;
    }
    let ratio = match ratio {
        Ok(ratio) => ratio,
        // Nothing then and nothing now; or something where there was nothing, like the first lost packet.
        Err(Refusal::Zero) => return from_zero(now, base),
        Err(_) => return Verdict::Open,
    };
    let (up, down) = match now.better {
        Better::Higher => (Verdict::Better, Verdict::Worse),
        Better::Lower => (Verdict::Worse, Verdict::Better),
        Better::Neither => return Verdict::Open,
    };
    if ratio.high < 1.0 - TOLERANCE {
        down
    } else if ratio.low > 1.0 + TOLERANCE {
        up
    } else if (ratio.high - ratio.low) / ratio.value <= WIDEST {
        Verdict::Same
    } else {
        Verdict::Open
    }
}

/// Where the base's median is 0: clear only if all samples of both say the same.
fn from_zero(now: &Series, base: &Series) -> Verdict {
    let zero = |series: &Series| series.samples.iter().all(|sample| *sample == 0.0);
    let none_is_zero = now.samples.iter().all(|sample| *sample != 0.0);
    match (zero(base), zero(now), now.better) {
        (true, true, _) => Verdict::Same,
        (true, _, Better::Lower) if none_is_zero => Verdict::Worse,
        (true, _, Better::Higher) if none_is_zero => Verdict::Better,
        _ => Verdict::Open,
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Figure;
    use super::super::report::tests::{example, figure};
    use super::*;

    fn scaled(by: f64) -> Report {
        let mut report = example();
        for series in &mut report.series {
            series.samples.iter_mut().for_each(|sample| *sample *= by);
        }
        report
    }

    fn verdicts(base: &Report, now: &Report) -> Vec<Verdict> {
        changes(base, now).iter().map(|change| change.verdict).collect()
    }

    #[test]
    fn a_loss_is_found_a_gain_too_and_little_is_the_same() {
        assert_eq!(verdicts(&example(), &scaled(0.8)), [Verdict::Worse; 2]);
        assert_eq!(verdicts(&example(), &scaled(1.3)), [Verdict::Better; 2]);
        assert_eq!(verdicts(&example(), &scaled(1.01)), [Verdict::Same; 2]);
        let (base, now) = (example(), scaled(0.8));
        assert!(changes(&base, &now).iter().all(|change| change.confidence() > 0.99));
    }

    #[test]
    fn less_is_better_where_that_is_said() {
        let with = |value: f64| {
            let mut report = Report { series: Vec::new(), ..example() };
            let time = Figure { better: Better::Lower, ..figure(OURS, "time") };
            (0..5).for_each(|_| report.record(&time, value));
            report
        };
        assert_eq!(verdicts(&with(10.0), &with(8.0)), [Verdict::Better]);
        assert_eq!(verdicts(&with(10.0), &with(12.0)), [Verdict::Worse]);
        assert_eq!(verdicts(&with(0.0), &with(12.0)), [Verdict::Worse]);
        assert_eq!(verdicts(&with(0.0), &with(0.0)), [Verdict::Same]);
    }

    #[test]
    fn noise_is_no_verdict() {
        let with = |samples: [f64; 5]| {
            let mut report = Report { series: Vec::new(), ..example() };
            samples.iter().for_each(|sample| report.record(&figure(OURS, "noisy"), *sample));
            report
        };
        let base = with([100.0, 30.0, 200.0, 90.0, 20.0]);
        assert_eq!(verdicts(&base, &with([90.0, 25.0, 180.0, 80.0, 15.0])), [Verdict::Open]);
    }

    #[test]
    fn what_says_how_it_came_about_is_not_judged() {
        let with = |value: f64| {
            let mut report = Report { series: Vec::new(), ..example() };
            let offered = Figure { better: Better::Neither, ..figure(OURS, "flood") };
            (0..5).for_each(|_| report.record(&offered, value));
            report
        };
        assert_eq!(verdicts(&with(10.0), &with(5.0)), []);
    }

    #[test]
    fn what_others_lose_is_no_regression_of_ours() {
        let (base, mut now) = (example(), scaled(0.5));
        assert_eq!(regressions(&changes(&base, &now)).len(), 1);
        now.series[0].samples = base.series[0].samples.clone();
        assert_eq!(verdicts(&base, &now), [Verdict::Same, Verdict::Worse]);
        assert_eq!(regressions(&changes(&base, &now)).len(), 0);
    }

    #[test]
    fn figures_of_one_report_only_are_left_out() {
        let mut now = example();
        now.record(&figure("boringtun", "TCP, 1 stream"), 1.0);
        assert_eq!(changes(&example(), &now).len(), 2);
    }
}
