//! The report for readers.

pub mod html;
pub mod markdown;
pub mod page;
pub mod svg;
pub mod table;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::compare::Change;
use super::report::Report;

/// Writes `report.json`, `report.md`, `report.html` and a folder of plots.
///
/// # Errors
/// When a file cannot be written.
pub fn write(report: &Report, changes: Option<&[Change<'_>]>, dir: &Path) -> Result<()> {
    let plots = dir.join("plots");
    // Those of an earlier report would be taken for this one's.
    if plots.exists() {
        fs::remove_dir_all(&plots).with_context(|| format!("removing {}", plots.display()))?;
    }
    fs::create_dir_all(&plots).with_context(|| format!("creating {}", plots.display()))?;
    let put = |path: &Path, text: &str| {
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    };
    let drawn = svg::plots(report);
    for plot in &drawn {
        put(&plots.join(&plot.file), &plot.svg)?;
    }
    put(&dir.join("report.json"), &serde_json::to_string_pretty(report).context("writing JSON")?)?;
    put(&dir.join("report.md"), &markdown::page(report, changes, &drawn, "plots"))?;
    put(&dir.join("report.html"), &html::page(report, changes, &drawn))
}
