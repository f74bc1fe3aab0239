//! The matrix: scenarios by who initiates, what became of each, and the page that is made of it.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use sekisho_tests::scenario::site::Site;
use sekisho_tests::stage::{self, Stage};

/// Who initiates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// We do.
    Ours,
    /// strongSwan does.
    StrongSwan,
}

impl Role {
    const BOTH: [Role; 2] = [Role::Ours, Role::StrongSwan];

    fn name(self) -> &'static str {
        match self {
            Role::Ours => "we_initiate",
            Role::StrongSwan => "strongswan_initiates",
        }
    }
}

type Run = Arc<dyn Fn(&mut Site, Role) -> Result<String> + Send + Sync>;

/// A scenario.
pub(crate) struct Row {
    group: &'static str,
    title: &'static str,
    run: Run,
    left_out: Vec<(Role, &'static str)>,
    /// Whether what it says is the same at every run: the reason of a refusal is, a time is not.
    lasting: bool,
}

impl Row {
    pub(crate) fn new(
        group: &'static str,
        title: &'static str,
        run: impl Fn(&mut Site, Role) -> Result<String> + Send + Sync + 'static,
    ) -> Self {
        Self { group, title, run: Arc::new(run), left_out: Vec::new(), lasting: false }
    }

    /// Says why there is nothing to run in one role.
    pub(crate) fn not_for(mut self, role: Role, reason: &'static str) -> Self {
        self.left_out.push((role, reason));
        self
    }

    /// Its words belong on the page.
    pub(crate) fn with_words(mut self) -> Self {
        self.lasting = true;
        self
    }

    fn reason(&self, role: Role) -> Option<&'static str> {
        self.left_out.iter().find(|(left_out, _)| *left_out == role).map(|(_, reason)| *reason)
    }
}

/// All scenarios, and what became of those that ran: figure, or `None` for a failure.
pub(crate) struct Matrix {
    rows: Vec<Row>,
    results: Arc<Mutex<Vec<(usize, Role, Option<String>)>>>,
}

/// Set to anything, a run of everything that passes writes the page.
const WRITE: &str = "SEKISHO_INTEROP_WRITE";

impl Matrix {
    pub(crate) fn new(rows: Vec<Row>) -> Self {
        Self { rows, results: Arc::default() }
    }

    /// A trial for each cell, and one for the page.
    pub(crate) fn trials(&self, stage: &Stage) -> Vec<Trial> {
        let mut trials = Vec::new();
        for (index, row) in self.rows.iter().enumerate() {
            for role in Role::BOTH.into_iter().filter(|role| row.reason(*role).is_none()) {
                let (stage, run, results) = (stage.clone(), row.run.clone(), self.results.clone());
                let name = format!("{}::{}", slug(row.title), role.name());
                trials.push(Trial::test(name, move || {
                    let outcome = stage.run(|site| run(site, role));
                    let figure = outcome.as_ref().ok().cloned();
                    results.lock().unwrap_or_else(PoisonError::into_inner).push((index, role, figure));
                    stage::words(outcome)
                }));
            }
        }
        let titles: Vec<&'static str> = self.rows.iter().map(|row| row.title).collect();
        trials.push(Trial::test("the_page_has_these_rows", move || stage::words(page_has(&titles))));
        trials
    }

    /// Prints what ran, and writes the page if asked to.
    pub(crate) fn conclude(&self) -> Result<()> {
        let results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        if results.is_empty() {
            return Ok(());
        }
        let cell = |index: usize, role: Role| {
            results.iter().find(|(row, whose, _)| (*row, *whose) == (index, role)).map(|(.., figure)| figure)
        };
        println!("INTEROPERABILITY WITH STRONGSWAN");
        for (index, row) in self.rows.iter().enumerate() {
            for role in Role::BOTH {
                let words = match (row.reason(role), cell(index, role)) {
                    (Some(reason), _) => format!("not run: {reason}"),
                    (None, None) => continue,
                    (None, Some(Some(figure))) => figure.clone(),
                    (None, Some(None)) => "FAILED, see above".into(),
                };
                println!("  {:<72} {:<20}  {words}", row.title, role.name());
            }
        }
        if std::env::var_os(WRITE).is_some() {
            let page = self.page(|index, role| cell(index, role).and_then(Option::as_deref))?;
            let path = page_path();
            std::fs::write(&path, page).with_context(|| format!("writing {}", path.display()))?;
            println!("written: {}", path.display());
        }
        Ok(())
    }

    fn page<'a>(&self, cell: impl Fn(usize, Role) -> Option<&'a str>) -> Result<String> {
        let mut out = String::from(INTRODUCTION);
        let mut group = "";
        for (index, row) in self.rows.iter().enumerate() {
            if row.group != group {
                group = row.group;
                let _ = writeln!(
                    out,
                    "\n## {group}\n\n| scenario | we initiate | strongSwan initiates |\n|---|---|---|"
                );
            }
            let mut cells = Vec::new();
            for role in Role::BOTH {
                cells.push(match row.reason(role) {
                    Some(reason) => format!("– ({reason})"),
                    None => {
                        let figure = cell(index, role).with_context(|| {
                            format!("{} did not run or failed: nothing is written", row.title)
                        })?;
                        if row.lasting { figure.replace('|', "\\|") } else { "passes".into() }
                    }
                });
            }
            let _ = writeln!(out, "| {} | {} | {} |", row.title, cells[0], cells[1]);
        }
        Ok(out)
    }
}

const INTRODUCTION: &str = "\
# Interoperability with strongSwan

Made by the suite itself: `SEKISHO_INTEROP_WRITE=1 cargo xtask test interop` runs every cell and writes this page; a run
in which one fails writes nothing. The peer is Debian's strongSwan 5.9.8 (charon-systemd) with its ESP in user space
(kernel-libipsec), in a namespace of its own; ours is `sekishod` with its engine. Unless a row says otherwise, passing
means: the connection comes up, pages go through it both ways over IPv4 and IPv6, a capture at the router between shows
nothing but IKE and ESP and no byte of the page, both sides name the same SAs, and nothing is left after a delete.
Whole lives also rekey child and IKE SA from both sides, with a ping every 5 ms and TCP all the while: none may be lost.
";

fn page_path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/interop.md")
}

/// The page that lies in the tree was made of these rows.
fn page_has(titles: &[&str]) -> Result<String> {
    let path = page_path();
    let page = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let rows: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
        .filter(|title| *title != "scenario")
        .collect();
    ensure!(
        rows == titles,
        "docs/interop.md has other rows than this suite; write it anew with {WRITE}=1. There: {rows:?}"
    );
    Ok(format!("{} rows", rows.len()))
}

/// A title as a test's name.
fn slug(title: &str) -> String {
    let words: Vec<String> = title
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    words.join("_")
}
