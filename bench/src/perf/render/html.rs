//! As `report.html`: one file with its plots inside, that needs nothing from the net.

use std::fmt::Write as _;

use super::super::compare::Change;
use super::super::report::{Remark, Report};
use super::markdown;
use super::svg::{Plot, escape};
use super::table::{self, Table};

const STYLE: &str = "body{font:15px/1.45 sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222}\
table{border-collapse:collapse;margin:.5em 0 1.5em}td,th{padding:.2em .7em;border-bottom:1px solid #ddd;text-align:right}\
td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}h3{margin-bottom:.3em}.failed{color:#b00}";

/// The page.
pub fn page(report: &Report, changes: Option<&[Change<'_>]>, plots: &[Plot]) -> String {
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Sekisho: performance</title><style>{STYLE}</style>\
         <h1>Performance</h1><p>{}</p>",
        escape(&markdown::about(report))
    );
    write_table(&mut out, &markdown::facts(report));
    if let Some(changes) = changes {
        let (summary, table) = table::of_changes(changes);
        let _ = write!(out, "<h2>Against the base</h2><p>{}</p>", escape(&summary));
        if !table.rows.is_empty() {
            write_table(&mut out, &table);
        }
    }
    if !report.took.is_empty() {
        let times = table::of_times(report);
        let _ = write!(out, "<h2>{}</h2>", times.title);
        write_table(&mut out, &times);
    }
    for (title, remarks) in markdown::remarks(report) {
        let class = if title == "Failed" { " class=\"failed\"" } else { "" };
        let _ = write!(out, "<h2{class}>{title}</h2><ul>");
        for Remark { scenario, what, why } in remarks {
            let _ = write!(out, "<li>{}, {}: {}</li>", escape(scenario), escape(what), escape(why));
        }
        out.push_str("</ul>");
    }
    for scenario in report.scenarios() {
        let _ = write!(out, "<h2>{}</h2>", escape(scenario));
        if let Some(told) = table::of_guest(report, scenario) {
            let _ = write!(out, "<p>{}</p>", escape(&told));
        }
        for plot in plots.iter().filter(|plot| plot.scenario == scenario) {
            out.push_str(&plot.svg);
        }
        for case in report.cases(scenario) {
            for table in table::of_case(report, scenario, case) {
                let _ = write!(out, "<h3>{}</h3>", escape(&table.title));
                write_table(&mut out, &table);
            }
        }
    }
    out.push_str("</html>\n");
    out
}

fn write_table(out: &mut String, table: &Table) {
    out.push_str("<table>");
    write_rows(out, std::slice::from_ref(&table.head), "th");
    write_rows(out, &table.rows, "td");
    out.push_str("</table>");
}

fn write_rows(out: &mut String, rows: &[Vec<String>], tag: &str) {
    for cells in rows {
        out.push_str("<tr>");
        for cell in cells {
            let _ = write!(out, "<{tag}>{}</{tag}>", escape(cell));
        }
        out.push_str("</tr>");
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::report::tests::example;
    use super::super::svg;
    use super::*;

    #[test]
    fn nothing_that_was_measured_becomes_markup() {
        let mut report = example();
        report.versions.insert("a<b".into(), "\"1 & 2\"".into());
        let page = page(&report, None, &svg::plots(&report));
        assert!(page.contains("<td>a&lt;b</td><td>&quot;1 &amp; 2&quot;</td>"), "{page}");
        assert!(page.contains("<svg ") && page.ends_with("</html>\n"));
    }
}
