//! Plots: bars with the spread of their samples, and curves. Plain SVG, that every browser and forge shows.

use std::fmt::Write as _;

use super::super::report::{Report, Series, distinct};
use super::super::statistics::Summary;
use super::table::number;

/// Told apart also by who cannot see all colours (Okabe and Ito's palette).
const COLOURS: [&str; 8] =
    ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999", "#f0e442"];
const WIDTH: f64 = 860.0;
/// Left of the bars, for names.
const MARGIN: f64 = 210.0;
/// Right of them, for figures.
const RIGHT: f64 = 130.0;
const BAR: f64 = 16.0;
/// Left of a curve, for its figures.
const LEFT: f64 = 70.0;
/// Where a curve's field begins, from above.
const TOP: f64 = 50.0;
/// Where it ends.
const BOTTOM: f64 = 320.0;
/// Places further apart than this factor are shown by their logarithm.
const DECADES: f64 = 50.0;
/// More cases in one plot than this would not be read.
const MOST_CASES: usize = 40;

/// One picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plot {
    /// Which scenario it belongs to.
    pub scenario: String,
    /// What it shows.
    pub title: String,
    /// The name of its file.
    pub file: String,
    /// The picture.
    pub svg: String,
}

/// What a report is worth looking at: for each scenario the figures its cases are about, and every curve.
pub fn plots(report: &Report) -> Vec<Plot> {
    let mut out = Vec::new();
    // A bar of an emulated processor would be read as a rate.
    for scenario in report.scenarios().into_iter().filter(|scenario| !report.is_relative(scenario)) {
        let mut groups: Vec<((&str, &str), Vec<&Series>)> = Vec::new();
        for case in report.cases(scenario) {
            let all = report.of_case(scenario, case);
            let points = || all.iter().copied().filter(|series| series.at.is_none());
            if let Some(main) = points().next() {
                let key = (main.name.as_str(), main.unit.as_str());
                let of = points().filter(|series| series.name == main.name);
                match groups.iter_mut().find(|(known, _)| *known == key) {
                    Some((_, group)) => group.extend(of),
                    None => groups.push((key, of.collect())),
                }
            }
            let curves: Vec<&Series> = all.iter().copied().filter(|series| series.at.is_some()).collect();
            for name in distinct(curves.iter().map(|series| series.name.as_str())) {
                let of: Vec<&Series> = curves.iter().copied().filter(|series| series.name == name).collect();
                let title = format!("{case}: {name}, {}", of.first().map_or("", |series| &series.unit));
                out.push(plot(scenario, &title, &lines(&title, &of)));
            }
        }
        for ((name, unit), group) in groups {
            let title = format!("{scenario}: {name}, {unit}");
            out.push(plot(scenario, &title, &bars(&title, &group)));
        }
    }
    out
}

fn plot(scenario: &str, title: &str, svg: &str) -> Plot {
    let full = if title.starts_with(scenario) { title.to_owned() } else { format!("{scenario} {title}") };
    let plain: String =
        full.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { ' ' }).collect();
    let words: Vec<&str> = plain.split_whitespace().collect();
    let file = format!("{}.svg", words.join("-"));
    Plot { scenario: scenario.to_owned(), title: title.to_owned(), file, svg: svg.to_owned() }
}

/// Text that stands for itself in XML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn open(title: &str, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" height=\"{height:.0}\" \
         font-family=\"sans-serif\" font-size=\"12\"><title>{0}</title><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\
         <text x=\"8\" y=\"20\" font-size=\"15\" font-weight=\"bold\">{0}</text>",
        escape(title)
    )
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) {
    let _ = write!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escape(words));
}

fn line(out: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64), colour: &str) {
    let _ = write!(out, "<path d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\" stroke=\"{colour}\" fill=\"none\"/>");
}

fn colour(names: &[&str], name: &str) -> &'static str {
    let index = names.iter().position(|known| *known == name).unwrap_or_default();
    COLOURS.get(index % COLOURS.len()).copied().unwrap_or("#000")
}

/// One bar for each contender, cases below each other: the bar is the median, the whisker all samples.
fn bars(title: &str, series: &[&Series]) -> String {
    let mut cases = distinct(series.iter().map(|series| series.case.as_str()));
    cases.truncate(MOST_CASES);
    let all = distinct(series.iter().map(|series| series.contender.as_str()));
    let shown = || series.iter().filter(|series| cases.contains(&series.case.as_str()));
    let summary = |series: &Series| Summary::of(&series.samples);
    let most = shown().filter_map(|series| summary(series)).map(|of| of.highest).fold(0.0, f64::max);
    let scale = (WIDTH - MARGIN - RIGHT) / if most > 0.0 { most } else { 1.0 };
    let height = 40.0 + cases.len() as f64 * 26.0 + shown().count() as f64 * (BAR + 3.0) + 10.0;
    let mut out = open(title, height);
    let mut y = 36.0;
    for case in &cases {
        y += 16.0;
        text(&mut out, (8.0, y), "start", case);
        y += 6.0;
        for series in shown().filter(|series| series.case == *case) {
            let Some(Summary { median, lowest, highest }) = summary(series) else { continue };
            let middle = y + BAR / 2.0;
            text(&mut out, (MARGIN - 8.0, middle + 4.0), "end", &series.contender);
            let _ = write!(
                out,
                "<rect x=\"{MARGIN}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{}\"/>",
                (median * scale).max(0.5),
                colour(&all, &series.contender)
            );
            let (left, right) = (MARGIN + lowest * scale, MARGIN + highest * scale);
            line(&mut out, (left, middle), (right, middle), "#222");
            for x in [left, right] {
                line(&mut out, (x, middle - 4.0), (x, middle + 4.0), "#222");
            }
            text(
                &mut out,
                (right + 8.0, middle + 4.0),
                "start",
                &format!("{} {}", number(median), series.unit),
            );
            y += BAR + 3.0;
        }
        y += 4.0;
    }
    out.push_str("</svg>\n");
    out
}

/// One line for each contender through its medians, with the spread of its samples at each place. Logarithmic along the
/// bottom where the places span more than [`DECADES`].
fn lines(title: &str, series: &[&Series]) -> String {
    let all = distinct(series.iter().map(|series| series.contender.as_str()));
    let points: Vec<(&str, f64, Summary)> = series
        .iter()
        .filter_map(|series| Some((series.contender.as_str(), series.at?, Summary::of(&series.samples)?)))
        .collect();
    let mut places: Vec<f64> = points.iter().map(|(_, at, _)| *at).collect();
    places.sort_by(f64::total_cmp);
    places.dedup();
    let (first, last) = (places.first().copied().unwrap_or(0.0), places.last().copied().unwrap_or(1.0));
    let logarithmic = first > 0.0 && last / first > DECADES;
    let project = |at: f64| if logarithmic { at.ln() } else { at };
    let span = (project(last) - project(first)).max(f64::EPSILON);
    let most = points.iter().map(|(_, _, of)| of.highest).fold(0.0, f64::max);
    let most = if most > 0.0 { most } else { 1.0 };
    let x = |at: f64| LEFT + (project(at) - project(first)) / span * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| BOTTOM - value / most * (BOTTOM - TOP);
    let mut out = open(title, BOTTOM + 40.0);
    for quarter in 0..=4 {
        let value = most * f64::from(quarter) / 4.0;
        line(&mut out, (LEFT, y(value)), (WIDTH - RIGHT, y(value)), "#ddd");
        text(&mut out, (LEFT - 6.0, y(value) + 4.0), "end", &number(value));
    }
    for place in &places {
        text(&mut out, (x(*place), BOTTOM + 18.0), "middle", &place.to_string());
    }
    for contender in &all {
        let colour = colour(&all, contender);
        let mut of: Vec<_> = points.iter().filter(|(name, ..)| name == contender).collect();
        of.sort_by(|(_, a, _), (_, b, _)| a.total_cmp(b));
        let way: Vec<String> =
            of.iter().map(|(_, at, of)| format!("{:.1} {:.1}", x(*at), y(of.median))).collect();
        let _ = write!(
            out,
            "<path d=\"M{}\" stroke=\"{colour}\" stroke-width=\"2\" fill=\"none\"/>",
            way.join("L")
        );
        for (_, at, of) in &of {
            line(&mut out, (x(*at), y(of.lowest)), (x(*at), y(of.highest)), colour);
            let (x, y) = (x(*at), y(of.median));
            let _ = write!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
        }
    }
    // A legend, for lines that end at the same height would hide each other's names.
    for (index, contender) in all.iter().enumerate() {
        let y = TOP + index as f64 * 18.0;
        line(&mut out, (WIDTH - RIGHT + 12.0, y), (WIDTH - RIGHT + 32.0, y), colour(&all, contender));
        text(&mut out, (WIDTH - RIGHT + 36.0, y + 4.0), "start", contender);
    }
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::super::super::report::tests::{example, figure};
    use super::super::super::report::{Figure, OURS};
    use super::*;

    #[test]
    fn bars_show_every_contender_of_a_case() {
        let plots = plots(&example());
        assert_eq!(plots.len(), 1);
        assert_eq!(plots[0].file, "goodput-goodput-mbit-s.svg");
        for word in ["TCP, 1 stream", ">sekisho<", ">gotatun<", "202 Mbit/s", "102 Mbit/s"] {
            assert!(plots[0].svg.contains(word), "no {word}");
        }
    }

    #[test]
    fn a_curve_is_drawn_from_left_to_right() {
        let mut report = Report { series: Vec::new(), ..example() };
        for at in [1000.0, 1.0] {
            report.record(&Figure { at: Some(at), name: "cost", unit: "ns", ..figure(OURS, "flows") }, 10.0);
        }
        let plots = plots(&report);
        assert_eq!(plots.len(), 1);
        assert_eq!(plots[0].title, "flows: cost, ns");
        let left = format!("M{LEFT:.1} {TOP:.1}L{:.1} {TOP:.1}", WIDTH - RIGHT);
        assert!(plots[0].svg.contains(&left), "no {left} in {}", plots[0].svg);
    }

    #[test]
    fn nothing_measured_draws_nothing_that_is_no_number() {
        let mut report = Report { series: Vec::new(), ..example() };
        report.record(&figure(OURS, "none"), 0.0);
        report.record(&Figure { at: Some(0.0), name: "c", ..figure(OURS, "flat") }, 0.0);
        for plot in plots(&report) {
            assert!(!plot.svg.contains("NaN") && !plot.svg.contains("inf"), "{}", plot.svg);
        }
    }
}
