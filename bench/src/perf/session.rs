//! One run of the suite: how long each scenario may measure, and where it puts what it finds.

use std::fmt::Display;
use std::time::{Duration, Instant, SystemTime};

use super::machine::Machine;
use super::report::{Figure, Guest, Remark, Report, Took};

/// What a scenario is given.
#[derive(Debug)]
pub struct Session {
    quick: bool,
    begun: Instant,
    asked_for: Vec<String>,
    scenario: &'static str,
    entered: Instant,
    report: Report,
}

impl Session {
    /// A new one on this machine.
    pub fn new(quick: bool) -> Self {
        let begun = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        Self {
            quick,
            begun: Instant::now(),
            asked_for: Vec::new(),
            scenario: "",
            entered: Instant::now(),
            report: Report::new(Machine::look(), quick, begun),
        }
    }

    /// The scenarios that were named, if any were.
    pub fn asked_for(&mut self, scenarios: &[String]) {
        self.asked_for = scenarios.to_vec();
    }

    /// Whether this scenario was named.
    pub fn is_asked_for(&self) -> bool {
        self.asked_for.iter().any(|named| named == self.scenario)
    }

    /// The scenario that measures from now on.
    pub fn enter(&mut self, scenario: &'static str) {
        self.scenario = scenario;
        self.entered = Instant::now();
    }

    /// All scenarios together shall take less than 5 minutes: fewer rounds, shorter samples, and only the cases that
    /// a change is most likely to show in.
    pub fn is_quick(&self) -> bool {
        self.quick
    }

    /// How often each contender is measured. The least with which a ratio is told at all, or enough for its interval to
    /// mean something.
    pub fn rounds(&self) -> usize {
        if self.quick { 3 } else { 4 }
    }

    /// How long a sample of something steady takes: from one second to the next the machine varies more than within one, so
    /// rounds tell more than longer samples.
    pub fn sample(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// Who is measured when: each contender once a round, in an order that is turned round each time, so that none always
    /// comes after the same other one. With it the number of the round, from 0.
    pub fn turns<T: Clone>(&self, contenders: &[T]) -> Vec<(usize, T)> {
        Self::turns_in(self.rounds(), contenders)
    }

    /// The same in so many rounds.
    pub fn turns_in<T: Clone>(rounds: usize, contenders: &[T]) -> Vec<(usize, T)> {
        let mut out = Vec::new();
        for round in 0..rounds {
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

    /// What this scenario has found in a guest, by that guest's own report.
    pub fn adopt(&mut self, found: Report) {
        self.report.guests.insert(self.scenario.to_owned(), Guest::of(&found.machine));
        for series in &found.series {
            for value in &series.samples {
                self.report.record(&series.figure(), *value);
            }
        }
        self.report.versions.extend(found.versions);
        self.report.skipped.extend(found.skipped);
        self.report.proved.extend(found.proved);
        self.report.failed.extend(found.failed);
    }

    /// The scenario has ended; it should have within `budget`.
    pub fn leave(&mut self, budget: Duration) {
        let seconds = self.entered.elapsed().as_secs_f64();
        let (scenario, budget) = (self.scenario.to_owned(), budget.as_secs_f64());
        if seconds > budget {
            self.progress(format_args!("took {seconds:.0} s, and should take {budget:.0}"));
        }
        self.report.took.push(Took { scenario, seconds, budget });
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
