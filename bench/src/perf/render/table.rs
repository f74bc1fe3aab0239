//! What stands in the report's tables, whatever they are written as.

use super::super::compare::{Change, Verdict};
use super::super::report::{Better, OURS, Report, Series, distinct};
use super::super::statistics::{Summary, ratio};

/// Head and rows of words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Above the table.
    pub title: String,
    /// Names of the columns.
    pub head: Vec<String>,
    /// The first column names the row.
    pub rows: Vec<Vec<String>>,
}

/// A number with three digits that count, and no more behind the point than that takes.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 || size == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

fn spread(series: &Series) -> String {
    match Summary::of(&series.samples) {
        Some(Summary { median, lowest, highest }) if series.samples.len() > 1 => {
            format!("{} ({}–{})", number(median), number(lowest), number(highest))
        }
        Some(Summary { median, .. }) => number(median),
        None => "–".into(),
    }
}

/// How many times as good as this contender we are; above 1 is better, whatever the unit.
fn advantage(ours: &Series, theirs: &Series) -> String {
    let told = match ours.better {
        Better::Higher => ratio(&ours.samples, &theirs.samples),
        Better::Lower => ratio(&theirs.samples, &ours.samples),
        Better::Neither => return String::new(),
    };
    match told {
        Ok(ratio) => format!("{:.2} × ({:.2}–{:.2})", ratio.value, ratio.low, ratio.high),
        Err(refusal) => refusal.to_string(),
    }
}

/// The tables of a case: one of contenders, and one for each figure that is a curve.
pub fn of_case(report: &Report, scenario: &str, case: &str) -> Vec<Table> {
    let series = report.of_case(scenario, case);
    let (curves, points): (Vec<&Series>, Vec<&Series>) =
        series.into_iter().partition(|series| series.at.is_some());
    let is_relative = report.is_relative(scenario);
    let mut tables = Vec::new();
    if is_relative {
        tables.extend(relative(case, &points));
    } else if !points.is_empty() {
        tables.push(contenders(case, &points));
    }
    for name in distinct(curves.iter().map(|series| series.name.as_str())) {
        let of: Vec<&Series> = curves.iter().copied().filter(|series| series.name == name).collect();
        tables.push(if is_relative { growth(case, name, &of) } else { curve(case, name, &of) });
    }
    tables
}

fn contenders(case: &str, series: &[&Series]) -> Table {
    let names = distinct(series.iter().map(|series| series.name.as_str()));
    let all = distinct(series.iter().map(|series| series.contender.as_str()));
    let find = |contender: &str, name: &str| {
        series.iter().copied().find(|series| series.contender == contender && series.name == name)
    };
    // What the case is about is the figure recorded first, and that is what we are compared by.
    let main = names.first().copied().unwrap_or_default();
    let compared = all.len() > 1 && find(OURS, main).is_some();
    let mut head = vec![String::new()];
    for name in &names {
        let unit = series.iter().find(|series| series.name == *name).map_or("", |series| &series.unit);
        head.push(if unit.is_empty() { (*name).to_owned() } else { format!("{name}, {unit}") });
        if compared && *name == main {
            head.push(format!("{OURS} is"));
        }
    }
    let row = |contender: &str| {
        let mut row = vec![contender.to_owned()];
        for name in &names {
            let cell = find(contender, name);
            row.push(cell.map_or_else(|| "–".into(), spread));
            if compared && *name == main {
                row.push(match (find(OURS, main), cell) {
                    (Some(ours), Some(theirs)) if contender != OURS => advantage(ours, theirs),
                    _ => String::new(),
                });
            }
        }
        row
    };
    Table { title: case.to_owned(), head, rows: all.iter().map(|contender| row(contender)).collect() }
}

/// Where rates are nobody's: how many times as good as each contender we are, and nothing else. Memory is not emulated: where
/// nothing is compared, what takes it is told.
fn relative(case: &str, series: &[&Series]) -> Option<Table> {
    let bytes: Vec<&Series> = series.iter().copied().filter(|series| series.unit == "bytes").collect();
    if series.iter().all(|series| series.contender == OURS) && !bytes.is_empty() {
        return Some(contenders(case, &bytes));
    }
    let find = |contender: &str, name: &str| {
        series.iter().copied().find(|series| series.contender == contender && series.name == name)
    };
    let mut names = distinct(series.iter().map(|series| series.name.as_str()));
    names.retain(|name| find(OURS, name).is_some_and(|ours| ours.better != Better::Neither));
    let others = distinct(series.iter().map(|series| series.contender.as_str()).filter(|who| *who != OURS));
    let mut head = vec![format!("{OURS} is, against")];
    head.extend(names.iter().map(|name| format!("by {name}")));
    let row = |other: &&str| {
        let cells = names.iter().map(|name| match (find(OURS, name), find(other, name)) {
            (Some(ours), Some(theirs)) => advantage(ours, theirs),
            _ => "–".into(),
        });
        std::iter::once((*other).to_owned()).chain(cells).collect()
    };
    let rows: Vec<Vec<String>> = others.iter().map(row).collect();
    let told = !names.is_empty() && !rows.is_empty();
    told.then(|| Table { title: case.to_owned(), head, rows })
}

/// What each scenario took.
pub fn of_times(report: &Report) -> Table {
    let head = ["scenario", "took, s", "should take, s"].map(str::to_owned).to_vec();
    let rows = report
        .took
        .iter()
        .map(|took| {
            let late = if took.seconds > took.budget { ", and did not" } else { "" };
            vec![
                took.scenario.clone(),
                format!("{:.0}", took.seconds),
                format!("at most {:.0}{late}", took.budget),
            ]
        })
        .collect();
    Table { title: "Time".into(), head, rows }
}

/// What is said of a scenario that was measured in a guest.
pub fn of_guest(report: &Report, scenario: &str) -> Option<String> {
    let guest = report.guests.get(scenario)?;
    let place = format!("Measured in a guest with Linux {}", guest.kernel);
    Some(match guest.emulated {
        true => format!(
            "{place}, on an emulated processor ({}): ratios only, no absolute figures, for what such a processor does in a \
             second says nothing.",
            guest.cpu
        ),
        false => format!("{place}, on this machine's processor: {}.", guest.cpu),
    })
}

fn curve(case: &str, name: &str, series: &[&Series]) -> Table {
    let unit = series.first().map_or("", |series| &series.unit);
    places(format!("{case}: {name}, {unit}"), series, |_, here| spread(here))
}

/// Where rates are nobody's: each place over the first.
fn growth(case: &str, name: &str, series: &[&Series]) -> Table {
    let first = series.iter().filter_map(|series| series.at).min_by(f64::total_cmp).unwrap_or_default();
    places(format!("{case}: {name}, over that at {first}"), series, |contender, here| {
        let base = series.iter().find(|series| series.contender == contender && series.at == Some(first));
        match base.map(|base| ratio(&here.samples, &base.samples)) {
            Some(Ok(ratio)) => format!("{:.2} × ({:.2}–{:.2})", ratio.value, ratio.low, ratio.high),
            Some(Err(refusal)) => refusal.to_string(),
            None => "–".into(),
        }
    })
}

/// A row for each place of a curve, a column for each contender.
fn places(title: String, series: &[&Series], told: impl Fn(&str, &Series) -> String) -> Table {
    let all = distinct(series.iter().map(|series| series.contender.as_str()));
    let mut places: Vec<f64> = series.iter().filter_map(|series| series.at).collect();
    places.sort_by(f64::total_cmp);
    places.dedup();
    let mut head = vec![String::new()];
    head.extend(all.iter().map(|contender| (*contender).to_owned()));
    let row = |place: &f64| {
        let cell = |contender: &&str| {
            let here =
                series.iter().find(|series| series.contender == *contender && series.at == Some(*place));
            here.map_or_else(|| "–".into(), |here| told(contender, here))
        };
        std::iter::once(place.to_string()).chain(all.iter().map(cell)).collect()
    };
    let rows = places.iter().map(row).collect();
    Table { title, head, rows }
}

/// What has changed since a base. What is the same, and what the noise leaves open, is only counted.
pub fn of_changes(changes: &[Change<'_>]) -> (String, Table) {
    let count = |verdict| changes.iter().filter(|change| change.verdict == verdict).count();
    let summary = format!(
        "Of {} figures {} are better, {} worse, {} the same, and for {} the noise is too large to say.",
        changes.len(),
        count(Verdict::Better),
        count(Verdict::Worse),
        count(Verdict::Same),
        count(Verdict::Open)
    );
    let head = ["", "then", "now", "now over then", "confidence", ""].map(str::to_owned).to_vec();
    let told = changes.iter().filter(|change| matches!(change.verdict, Verdict::Better | Verdict::Worse));
    let rows = told
        .map(|change| {
            let Series { scenario, case, contender, name, unit, at, .. } = change.now;
            let at = at.map(|at| format!(" at {at}")).unwrap_or_default();
            let ratio = change
                .ratio
                .map(|ratio| format!("{:.2} ({:.2}–{:.2})", ratio.value, ratio.low, ratio.high))
                .unwrap_or_else(|refusal| refusal.to_string());
            let confidence = match change.ratio {
                Ok(_) => format!("{:.1} %", change.confidence() * 100.0),
                Err(_) => "–".into(),
            };
            vec![
                format!("{scenario}, {case}{at}: {contender}, {name}, {unit}"),
                spread(change.base),
                spread(change.now),
                ratio,
                confidence,
                change.verdict.to_string(),
            ]
        })
        .collect();
    (summary, Table { title: "Changes".into(), head, rows })
}

#[cfg(test)]
mod tests {
    use super::super::super::report::tests::{example, figure};
    use super::super::super::report::{Figure, Guest, Took};
    use super::*;

    #[test]
    fn three_digits_count() {
        let told = [0.0, 0.012_34, 1.234, 12.34, 123.4, 123_456.7].map(number);
        assert_eq!(told, ["0", "0.012", "1.23", "12.3", "123", "123457"]);
    }

    #[test]
    fn we_are_compared_by_the_first_figure_of_a_case() {
        let mut report = example();
        for _ in 0..5 {
            let cpu =
                Figure { name: "CPU", unit: "cores", better: Better::Lower, ..figure(OURS, "TCP, 1 stream") };
            report.record(&cpu, 1.5);
        }
        let tables = of_case(&report, "goodput", "TCP, 1 stream");
        assert_eq!(tables.len(), 1);
        assert_eq!(tables[0].head, ["", "goodput, Mbit/s", "sekisho is", "CPU, cores"]);
        assert_eq!(tables[0].rows[0], ["sekisho", "202 (200–204)", "", "1.50 (1.50–1.50)"]);
        assert_eq!(tables[0].rows[1][..2], ["gotatun", "102 (100–104)"]);
        assert!(tables[0].rows[1][2].starts_with("1.98 × ("), "{:?}", tables[0].rows[1]);
        assert_eq!(tables[0].rows[1][3], "–");
    }

    #[test]
    fn an_emulated_processor_has_no_rates() {
        let mut report = example();
        let guest = Guest { kernel: "6.12.1".into(), cpu: "QEMU TCG CPU".into(), emulated: true };
        report.guests.insert("goodput".into(), guest);
        let tables = of_case(&report, "goodput", "TCP, 1 stream");
        assert_eq!(tables.len(), 1);
        assert_eq!(tables[0].head, ["sekisho is, against", "by goodput"]);
        assert_eq!(tables[0].rows.len(), 1);
        assert_eq!(tables[0].rows[0][0], "gotatun");
        assert!(tables[0].rows[0][1].starts_with("1.98 × ("), "{:?}", tables[0].rows);
        assert!(of_guest(&report, "goodput").expect("a guest").contains("Linux 6.12.1, on an emulated"));
        assert_eq!(of_guest(&report, "filter"), None);
    }

    #[test]
    fn an_emulated_curve_is_told_over_its_first_place_and_memory_as_it_is() {
        let mut report = example();
        let guest = Guest { kernel: "6.12.1".into(), cpu: "QEMU TCG CPU".into(), emulated: true };
        report.guests.insert("goodput".into(), guest);
        for (at, cost) in [(1.0, 50.0), (1000.0, 60.0)] {
            let place = Figure { at: Some(at), name: "cost", unit: "ns", ..figure(OURS, "SAs") };
            (0..3).for_each(|_| report.record(&place, cost));
        }
        let memory = Figure { name: "memory each", unit: "bytes", ..figure(OURS, "set-up") };
        report.record(&memory, 4096.0);
        report.record(&Figure { name: "all up after", unit: "s", ..figure(OURS, "set-up") }, 9.0);
        let tables = of_case(&report, "goodput", "SAs");
        assert_eq!(tables.len(), 1);
        assert_eq!(tables[0].title, "SAs: cost, over that at 1");
        assert_eq!(tables[0].rows[1], ["1000", "1.20 × (1.20–1.20)"]);
        let tables = of_case(&report, "goodput", "set-up");
        assert_eq!(tables[0].head, ["", "memory each, bytes"]);
        assert_eq!(tables[0].rows, [["sekisho", "4096"]]);
    }

    #[test]
    fn who_takes_too_long_is_said_to() {
        let mut report = example();
        let took = |seconds| Took { scenario: "ike".into(), seconds, budget: 60.0 };
        report.took = vec![took(59.0), took(61.0)];
        let rows = of_times(&report).rows;
        assert_eq!(rows, [["ike", "59", "at most 60"], ["ike", "61", "at most 60, and did not"]]);
    }

    #[test]
    fn a_curve_has_a_row_for_each_place() {
        let mut report = example();
        for (contender, at, value) in [(OURS, 10.0, 1.0), ("nftables", 10.0, 2.0), (OURS, 1000.0, 1.0)] {
            let place = Figure { at: Some(at), name: "cost", unit: "ns", ..figure(contender, "rules") };
            report.record(&place, value);
        }
        let tables = of_case(&report, "goodput", "rules");
        assert_eq!(tables[0].title, "rules: cost, ns");
        assert_eq!(tables[0].rows, [["10", "1.00", "2.00"], ["1000", "1.00", "–"]]);
    }
}
