//! `docs/datapath.md`: its matrices are what the suite `datapath` prints, one for each data path.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};

/// From the root of the tree.
const PAGE: &str = "docs/datapath.md";
/// What a matrix begins with, in the output and on the page.
const BEGIN: &str = "<!-- matrix: ";
/// What it ends with.
const END: &str = "<!-- end of matrix -->";
/// A cell that a run did not come to, or in which it failed.
const OPEN: [&str; 2] = ["not run", "FAILED"];

/// The matrix in a suite's output, line by line.
#[derive(Default)]
pub(crate) struct Matrix {
    lines: Vec<String>,
    done: bool,
}

impl Matrix {
    /// The next line of the output.
    pub(crate) fn hear(&mut self, line: &str) {
        let line = line.trim_end();
        if !self.done && (!self.lines.is_empty() || line.starts_with(BEGIN)) {
            self.lines.push(line.to_owned());
            self.done = line == END;
        }
    }

    /// Whether every cell passed.
    pub(crate) fn is_whole(&self) -> bool {
        self.done && !self.lines.iter().any(|line| OPEN.iter().any(|word| line.contains(word)))
    }

    /// Whether the page has it as it is.
    pub(crate) fn is_on_page(&self, root: &Path) -> Result<bool> {
        let page = read(root)?;
        Ok(self.replaced(&page)? == page)
    }

    /// Puts it on the page.
    pub(crate) fn write(&self, root: &Path) -> Result<()> {
        let page = self.replaced(&read(root)?)?;
        fs::write(root.join(PAGE), page).with_context(|| format!("writing {PAGE}"))?;
        println!("written: {PAGE}");
        Ok(())
    }

    /// The page with this matrix in place of the one of the same data path.
    fn replaced(&self, page: &str) -> Result<String> {
        let Some(begin) = self.lines.first() else { bail!("the suite printed no matrix") };
        let (before, rest) = page
            .split_once(begin.as_str())
            .with_context(|| format!("{PAGE} has no line \"{begin}\", where the matrix belongs"))?;
        let (_, after) =
            rest.split_once(END).with_context(|| format!("{PAGE} has no \"{END}\" after \"{begin}\""))?;
        Ok(format!("{before}{}{after}", self.lines.join("\n")))
    }
}

fn read(root: &Path) -> Result<String> {
    fs::read_to_string(root.join(PAGE)).with_context(|| format!("reading {PAGE}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(lines: &[&str]) -> Matrix {
        let mut matrix = Matrix::default();
        lines.iter().for_each(|line| matrix.hear(line));
        matrix
    }

    #[test]
    fn a_matrix_takes_the_place_of_its_like() {
        let new = matrix(&["ok", "<!-- matrix: kernel -->", "| a | passed |", END, "done"]);
        assert!(new.is_whole());
        let page = format!(
            "text\n<!-- matrix: engine -->\nold\n{END}\nmore\n<!-- matrix: kernel -->\nold\n{END}\nthe end\n"
        );
        let expected = format!(
            "text\n<!-- matrix: engine -->\nold\n{END}\nmore\n<!-- matrix: kernel -->\n| a | passed |\n{END}\nthe end\n"
        );
        assert_eq!(new.replaced(&page).expect("a page"), expected);
        assert!(new.replaced("without it").is_err());
    }

    #[test]
    fn a_matrix_with_a_gap_is_not_whole() {
        let begin = "<!-- matrix: engine -->";
        for lines in [&["ok"][..], &[begin, "| a | passed |"], &[begin, "| a | not run |", END]] {
            assert!(!matrix(lines).is_whole(), "{lines:?}");
        }
    }
}
