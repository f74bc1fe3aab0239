//! The page of a report among the documents, with its plots beside it.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::Path;

use anyhow::{Context, Result};

/// The page, and the folder of its plots.
const PAGE: &str = "performance.md";
const PLOTS: &str = "performance";

/// Makes them of the report in `out`, for whoever owns the documents: this program runs as root.
///
/// # Errors
/// When a file cannot be read or written.
pub fn write(out: &Path, documents: &Path) -> Result<()> {
    let (page, folder) = (documents.join(PAGE), documents.join(PLOTS));
    let report = out.join("report.md");
    let text = fs::read_to_string(&report).with_context(|| format!("reading {}", report.display()))?;
    let owner = fs::metadata(documents).with_context(|| format!("reading {}", documents.display()))?;
    let give = |path: &Path| {
        let given = chown(path, Some(owner.uid()), Some(owner.gid()));
        given.with_context(|| format!("giving {} to its owner", path.display()))
    };
    // Those of an earlier report would stay beside this one's.
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    give(&folder)?;
    let plots = out.join("plots");
    for entry in fs::read_dir(&plots).with_context(|| format!("reading {}", plots.display()))? {
        let from = entry.with_context(|| format!("reading {}", plots.display()))?.path();
        let to = folder.join(from.file_name().context("a plot without a name")?);
        fs::copy(&from, &to).with_context(|| format!("copying {}", from.display()))?;
        give(&to)?;
    }
    fs::write(&page, text.replace("](plots/", &format!("]({PLOTS}/")))
        .with_context(|| format!("writing {}", page.display()))?;
    give(&page)?;
    println!("written: {}", page.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_its_own_plots_and_no_earlier_ones() {
        let dir = tempfile::tempdir().expect("a folder");
        let (out, documents) = (dir.path().join("out"), dir.path().join("docs"));
        for folder in [out.join("plots"), documents.join(PLOTS)] {
            fs::create_dir_all(folder).expect("a folder");
        }
        fs::write(out.join("report.md"), "![x](plots/new.svg)").expect("written");
        fs::write(out.join("plots/new.svg"), "<svg/>").expect("written");
        fs::write(documents.join(PLOTS).join("old.svg"), "<svg/>").expect("written");
        write(&out, &documents).expect("a page");
        let page = fs::read_to_string(documents.join(PAGE)).expect("a page");
        assert_eq!(page, "![x](performance/new.svg)");
        assert!(documents.join(PLOTS).join("new.svg").exists());
        assert!(!documents.join(PLOTS).join("old.svg").exists());
    }
}
