//! One run of the suite: how long each scenario may measure, and where it puts what it finds.

use std::fmt::Display;
use std::time::{Duration, Instant, SystemTime};

use super::machine::Machine;
use super::report::{Figure, Remark, Report};

/// What a scenario is given.
#[derive(Debug)]
pub struct Session {
    quick: bool,
    begun: Instant,
    scenario: &'static str,
    report: Report,
}

impl Session {
    /// A new one on this machine.
    pub fn new(quick: bool) -> Self {
        let begun = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        Self {
            quick,
            begun: Instant::now(),
            scenario: "",
            report: Report::new(Machine::look(), quick, begun),
        }
    }

    /// The scenario that measures from now on.
    pub fn enter(&mut self, scenario: &'static str) {
        self.scenario = scenario;
    }

    /// All scenarios together shall take less than 5 minutes: fewer rounds, shorter samples, and only the cases that
    /// a change is most likely to show in.
    pub fn is_quick(&self) -> bool {
        self.quick
    }

    /// How often each contender is measured. The least with which a ratio is told at all, or enough for its interval to
    /// mean something.
    pub fn rounds(&self) -> usize {
        if self.quick { 3 } else { 5 }
    }

    /// How long a sample of something steady takes.
    pub fn sample(&self) -> Duration {
        Duration::from_millis(if self.quick { 1000 } else { 3000 })
    }

    /// Who is measured when: each contender once a round, in an order that is turned round each time, so that none always
    /// comes after the same other one. With it the number of the round, from 0.
    pub fn turns<T: Clone>(&self, contenders: &[T]) -> Vec<(usize, T)> {
        let mut out = Vec::new();
        for round in 0..self.rounds() {
            let mut order = contenders.to_vec();
            if round % 2 == 1 {
                order.reverse();
            }
            out.extend(order.into_iter().map(|contender| (round, contender)));
        }
        out
    }

    /// Tells what happens now.
    pub fn progress(&self, what: impl Display) {
        println!("[{:>5.0} s] {}: {what}", self.begun.elapsed().as_secs_f64(), self.scenario);
    }

    /// One sample. In the order of recording, samples of one index belong to one round.
    pub fn record(&mut self, figure: &Figure<'_>, value: f64) {
        self.report.record(figure, value);
    }

    /// Something that can't be measured here: it stands in the report.
    pub fn skip(&mut self, what: impl Display, why: impl Display) {
        self.progress(format_args!("SKIPPED {what}: {why}"));
        let remark = self.remark(what, why);
        if !self.report.skipped.contains(&remark) {
            self.report.skipped.push(remark);
        }
    }

    /// Something that a figure rests on was shown to hold.
    pub fn proved(&mut self, what: impl Display, how: impl Display) {
        self.progress(format_args!("{what}: {how}"));
        let remark = self.remark(what, how);
        self.report.proved.push(remark);
    }

    /// Something did not hold, or broke off: the run fails, and the others are measured all the same.
    pub fn failed(&mut self, what: impl Display, why: impl Display) {
        self.progress(format_args!("FAILED {what}: {why}"));
        let remark = self.remark(what, why);
        self.report.failed.push(remark);
    }

    /// A contender's version.
    pub fn version(&mut self, contender: &str, version: impl Into<String>) {
        self.report.versions.insert(contender.to_owned(), version.into());
    }

    /// What was found so far.
    pub fn report(&mut self) -> &Report {
        self.report.seconds = self.begun.elapsed().as_secs_f64();
        &self.report
    }

    fn remark(&self, what: impl Display, why: impl Display) -> Remark {
        Remark { scenario: self.scenario.to_owned(), what: what.to_string(), why: why.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_alternate_and_turn_round() {
        let session = Session::new(true);
        let turns = session.turns(&["a", "b"]);
        assert_eq!(turns, [(0, "a"), (0, "b"), (1, "b"), (1, "a"), (2, "a"), (2, "b")]);
    }

    #[test]
    fn a_skip_stands_in_the_report_once() {
        let mut session = Session::new(true);
        session.enter("goodput");
        session.skip("gotatun", "it is not installed");
        session.skip("gotatun", "it is not installed");
        assert_eq!(session.report().skipped.len(), 1);
        assert_eq!(session.report().skipped[0].scenario, "goodput");
    }
}
