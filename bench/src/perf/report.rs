//! What a run has found, as `report.json` holds it: raw samples, so that whoever doubts a median can look.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::machine::Machine;

/// Of this file's form; a base of another one is not compared with.
pub const FORMAT: u32 = 1;
/// The contender that ratios are about.
pub const OURS: &str = "sekisho";

/// Which of two values is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Throughput and its kin.
    Higher,
    /// Time, loss, memory.
    Lower,
    /// Neither: it says how a figure came about, and is not compared.
    Neither,
}

/// What a sample is a sample of.
#[derive(Clone, Copy, Debug)]
pub struct Figure<'a> {
    /// `goodput`.
    pub scenario: &'a str,
    /// What was done: `TCP, 1 stream`. One table each.
    pub case: &'a str,
    /// By whom: [`OURS`], `gotatun`.
    pub contender: &'a str,
    /// What was measured; the first one recorded of a case is what the case is about.
    pub name: &'a str,
    /// `Mbit/s`, `ns`.
    pub unit: &'a str,
    /// What is good.
    pub better: Better,
    /// Where on a curve, if the case is one.
    pub at: Option<f64>,
}

/// All samples of one figure, in the order in which they were taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in Figure")]
pub struct Series {
    pub scenario: String,
    pub case: String,
    pub contender: String,
    pub name: String,
    pub unit: String,
    pub better: Better,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<f64>,
    pub samples: Vec<f64>,
}

impl Series {
    /// Whether these are samples of that figure.
    fn is(&self, figure: &Figure<'_>) -> bool {
        self.key()
            == (figure.scenario, figure.case, figure.contender, figure.name, figure.at.map(f64::to_bits))
    }

    /// What these are samples of.
    pub(super) fn figure(&self) -> Figure<'_> {
        Figure {
            scenario: &self.scenario,
            case: &self.case,
            contender: &self.contender,
            name: &self.name,
            unit: &self.unit,
            better: self.better,
            at: self.at,
        }
    }

    /// What tells it from other series.
    pub(super) fn key(&self) -> (&str, &str, &str, &str, Option<u64>) {
        (&self.scenario, &self.case, &self.contender, &self.name, self.at.map(f64::to_bits))
    }
}

/// What was not measured, proved or finished, and why; or how it was proved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remark {
    /// In which scenario.
    pub scenario: String,
    /// What.
    pub what: String,
    /// Why, or how.
    pub why: String,
}

/// Where a scenario was measured that this machine's own kernel cannot carry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// Release of its kernel.
    pub kernel: String,
    /// Its processor, as it calls itself.
    pub cpu: String,
    /// Whether that processor is a program: what it does in a second is nobody's figure, and only ratios are told.
    pub emulated: bool,
}

impl Guest {
    /// Of the machine that such a guest has found itself to be.
    pub fn of(machine: &Machine) -> Self {
        // As QEMU names the processor that it emulates.
        let emulated = machine.cpu.contains("TCG");
        Self { kernel: machine.kernel.clone(), cpu: machine.cpu.clone(), emulated }
    }
}

/// How long a scenario took, and how long it should.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Took {
    /// Which.
    pub scenario: String,
    /// Seconds.
    pub seconds: f64,
    /// What it was given; more is said aloud, and fails nothing.
    pub budget: f64,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// When it began, RFC 3339, UTC.
    pub begun: String,
    /// How long it has taken.
    pub seconds: f64,
    /// Fewer and shorter samples.
    pub quick: bool,
    /// Where.
    pub machine: Machine,
    /// Who took part, and which version.
    pub versions: BTreeMap<String, String>,
    /// The scenarios that were measured in a guest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub guests: BTreeMap<String, Guest>,
    /// What each scenario took.
    #[serde(default)]
    pub took: Vec<Took>,
    /// What was measured.
    pub series: Vec<Series>,
    /// What could not be.
    pub skipped: Vec<Remark>,
    /// What was shown to hold beside the figures.
    pub proved: Vec<Remark>,
    /// What did not hold, or broke off.
    pub failed: Vec<Remark>,
}

impl Report {
    /// An empty one.
    pub fn new(machine: Machine, quick: bool, begun: String) -> Self {
        Self {
            format: FORMAT,
            begun,
            seconds: 0.0,
            quick,
            machine,
            versions: BTreeMap::new(),
            guests: BTreeMap::new(),
            took: Vec::new(),
            series: Vec::new(),
            skipped: Vec::new(),
            proved: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// One more sample.
    pub fn record(&mut self, figure: &Figure<'_>, value: f64) {
        if let Some(series) = self.series.iter_mut().find(|series| series.is(figure)) {
            series.samples.push(value);
            return;
        }
        let Figure { scenario, case, contender, name, unit, better, at } = *figure;
        self.series.push(Series {
            scenario: scenario.to_owned(),
            case: case.to_owned(),
            contender: contender.to_owned(),
            name: name.to_owned(),
            unit: unit.to_owned(),
            better,
            at,
            samples: vec![value],
        });
    }

    /// Whether a scenario's figures are good for ratios alone.
    pub fn is_relative(&self, scenario: &str) -> bool {
        self.guests.get(scenario).is_some_and(|guest| guest.emulated)
    }

    /// The scenarios that were measured, in order.
    pub fn scenarios(&self) -> Vec<&str> {
        distinct(self.series.iter().map(|series| series.scenario.as_str()))
    }

    /// A scenario's cases, in order.
    pub fn cases(&self, scenario: &str) -> Vec<&str> {
        let of = self.series.iter().filter(|series| series.scenario == scenario);
        distinct(of.map(|series| series.case.as_str()))
    }

    /// A case's series, in order.
    pub fn of_case(&self, scenario: &str, case: &str) -> Vec<&Series> {
        self.series.iter().filter(|series| series.scenario == scenario && series.case == case).collect()
    }

    /// Reads one that an earlier run has left.
    ///
    /// # Errors
    /// When it cannot be read, or is of another form.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let value: serde_json::Value = serde_json::from_str(&text)
            .with_context(|| format!("{} is no report of this program", path.display()))?;
        let format = value.get("format").and_then(serde_json::Value::as_u64);
        ensure!(
            format == Some(u64::from(FORMAT)),
            "{} has another form than this program's reports: measure the base again",
            path.display()
        );
        serde_json::from_value(value).with_context(|| format!("reading {}", path.display()))
    }
}

/// Each once, where it came first.
pub(super) fn distinct<'a>(all: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut out = Vec::new();
    for one in all {
        if !out.contains(&one) {
            out.push(one);
        }
    }
    out
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::perf) fn figure(contender: &'static str, case: &'static str) -> Figure<'static> {
        Figure {
            scenario: "goodput",
            case,
            contender,
            name: "goodput",
            unit: "Mbit/s",
            better: Better::Higher,
            at: None,
        }
    }

    pub(in crate::perf) fn example() -> Report {
        let mut report = Report::new(Machine::default(), true, "2026-01-01T00:00:00Z".into());
        for round in 0..5 {
            report.record(&figure(OURS, "TCP, 1 stream"), 200.0 + f64::from(round));
            report.record(&figure("gotatun", "TCP, 1 stream"), 100.0 + f64::from(round));
        }
        report
    }

    #[test]
    fn samples_gather_by_figure_in_order() {
        let mut report = example();
        assert_eq!(report.series.len(), 2);
        assert_eq!(report.series[0].samples, [200.0, 201.0, 202.0, 203.0, 204.0]);
        let at = |at| Figure { at: Some(at), ..figure(OURS, "curve") };
        report.record(&at(10.0), 1.0);
        report.record(&at(20.0), 2.0);
        report.record(&at(10.0), 3.0);
        assert_eq!(report.of_case("goodput", "curve").len(), 2);
        assert_eq!(report.cases("goodput"), ["TCP, 1 stream", "curve"]);
    }

    #[test]
    fn a_report_is_read_back_and_another_form_is_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("report.json");
        let mut report = example();
        fs::write(&path, serde_json::to_string(&report).expect("JSON")).expect("written");
        assert_eq!(Report::read(&path).expect("read"), report);
        report.format += 1;
        fs::write(&path, serde_json::to_string(&report).expect("JSON")).expect("written");
        assert!(Report::read(&path).is_err());
        fs::write(&path, "{}").expect("written");
        assert!(Report::read(&path).is_err());
    }
}
