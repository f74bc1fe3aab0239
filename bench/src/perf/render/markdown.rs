//! As `report.md`: what `docs/performance.md` is made of.

use std::fmt::Write as _;

use super::super::compare::Change;
use super::super::report::{Remark, Report};
use super::svg::Plot;
use super::table::{self, Table};

/// The page; its plots stand in that folder beside it.
pub fn page(report: &Report, changes: Option<&[Change<'_>]>, plots: &[Plot], folder: &str) -> String {
    let mut out = format!("# Performance\n\n{}\n", about(report));
    let facts = facts(report);
    write_table(&mut out, &facts);
    if let Some(changes) = changes {
        let (summary, table) = table::of_changes(changes);
        let _ = writeln!(out, "\n## Against the base\n\n{summary}\n");
        if !table.rows.is_empty() {
            write_table(&mut out, &table);
        }
    }
    if !report.took.is_empty() {
        let times = table::of_times(report);
        let _ = writeln!(out, "\n## {}\n", times.title);
        write_table(&mut out, &times);
    }
    for (title, remarks) in remarks(report) {
        let _ = writeln!(out, "\n## {title}\n");
        for Remark { scenario, what, why } in remarks {
            let _ = writeln!(out, "- {scenario}, {what}: {}", one_line(why));
        }
    }
    for scenario in report.scenarios() {
        let _ = writeln!(out, "\n## {scenario}");
        if let Some(told) = table::of_guest(report, scenario) {
            let _ = writeln!(out, "\n{told}");
        }
        for plot in plots.iter().filter(|plot| plot.scenario == scenario) {
            let _ = writeln!(out, "\n![{}]({folder}/{})", plot.title, plot.file);
        }
        for case in report.cases(scenario) {
            for table in table::of_case(report, scenario, case) {
                let _ = writeln!(out, "\n### {}\n", table.title);
                write_table(&mut out, &table);
            }
        }
    }
    out
}

/// When and how, and how to read it.
pub(super) fn about(report: &Report) -> String {
    format!(
        "Measured by `cargo xtask perf{}`, begun {}, {:.0} s. Figures are medians with the lowest and the highest sample; a \
         ratio stands with the interval in which it lies, and is refused where that is too wide to mean anything. \
         `bench/README.md` says what each figure is, and how it could mislead.\n",
        if report.quick { " --quick" } else { "" },
        report.begun,
        report.seconds
    )
}

pub(super) fn facts(report: &Report) -> Table {
    let machine = &report.machine;
    let mut rows = vec![
        vec!["processor".into(), format!("{}, {} cores online", machine.cpu, machine.cores)],
        vec!["instructions".into(), machine.flags.join(" ")],
        vec!["memory".into(), format!("{} MiB", machine.memory_mib)],
        vec!["kernel".into(), machine.kernel.clone()],
        vec!["virtual machine".into(), if machine.virtual_machine { "yes" } else { "no" }.into()],
        vec!["load before".into(), format!("{:.2}", machine.load_before)],
    ];
    if !machine.governors.is_empty() {
        rows.push(vec!["governor".into(), machine.governors.join(", ")]);
    }
    rows.extend(machine.mitigations.iter().map(|one| vec!["mitigation".into(), one.clone()]));
    rows.extend(report.versions.iter().map(|(who, version)| vec![who.clone(), version.clone()]));
    Table { title: "Machine".into(), head: vec!["Machine".into(), String::new()], rows }
}

/// Failures first.
pub(super) fn remarks(report: &Report) -> impl Iterator<Item = (&'static str, &[Remark])> {
    [("Failed", &report.failed[..]), ("Not measured", &report.skipped), ("Proved", &report.proved)]
        .into_iter()
        .filter(|(_, remarks)| !remarks.is_empty())
}

fn write_table(out: &mut String, table: &Table) {
    let row = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| one_line(cell).replace('|', "\\|")).collect();
        format!("| {} |", cells.join(" | "))
    };
    let _ = writeln!(out, "{}", row(&table.head));
    let rules: Vec<&str> =
        (0..table.head.len()).map(|column| if column == 0 { "---" } else { "---:" }).collect();
    let _ = writeln!(out, "|{}|", rules.join("|"));
    for cells in &table.rows {
        let _ = writeln!(out, "{}", row(cells));
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::super::report::tests::example;
    use super::super::svg;
    use super::*;

    #[test]
    fn the_page_shows_figures_plots_and_what_is_missing() {
        let mut report = example();
        report.skipped.push(Remark { scenario: "goodput".into(), what: "x".into(), why: "a\nb".into() });
        let page = page(&report, None, &svg::plots(&report), "plots");
        for line in [
            "- goodput, x: a b",
            "| gotatun | 102 (100–104) | 1.98 × (1.96–2.00) |",
            "![goodput: goodput, Mbit/s](plots/goodput-goodput-mbit-s.svg)",
        ] {
            assert!(page.contains(line), "no {line:?} in\n{page}");
        }
    }
}
