//! The matrix: scenarios by who initiates, and what became of each.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use libtest_mimic::Trial;
use sekisho_tests::scenario::site::Site;
use sekisho_tests::stage::{self, Stage};

use super::page;

/// Who initiates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// We do.
    Ours,
    /// strongSwan does.
    StrongSwan,
}

impl Role {
    pub(crate) const BOTH: [Role; 2] = [Role::Ours, Role::StrongSwan];

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
    pub(crate) group: &'static str,
    pub(crate) title: &'static str,
    run: Run,
    left_out: Vec<(Role, &'static str)>,
    /// Whether what it says is the same at every run: the reason of a refusal is, a time is not.
    pub(crate) lasting: bool,
    /// Whether it waits for minutes, and runs only where all is asked for.
    slow: bool,
}

impl Row {
    pub(crate) fn new(
        group: &'static str,
        title: &'static str,
        run: impl Fn(&mut Site, Role) -> Result<String> + Send + Sync + 'static,
    ) -> Self {
        Self { group, title, run: Arc::new(run), left_out: Vec::new(), lasting: false, slow: false }
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

    /// It waits for a minute or more.
    pub(crate) fn slow(mut self) -> Self {
        self.slow = true;
        self
    }

    /// Why there is nothing to run in a role.
    pub(crate) fn reason(&self, role: Role) -> Option<&'static str> {
        self.left_out.iter().find(|(left_out, _)| *left_out == role).map(|(_, reason)| *reason)
    }
}

/// What became of a cell that ran: its figure, or `None` for a failure.
type Ran = (usize, Role, Option<String>);

/// All scenarios, and what became of those that ran.
pub(crate) struct Matrix {
    rows: Vec<Row>,
    results: Arc<Mutex<Vec<Ran>>>,
}

impl Matrix {
    pub(crate) fn new(rows: Vec<Row>) -> Self {
        Self { rows, results: Arc::default() }
    }

    /// A trial for each cell, and one for the page, unless this run writes it.
    pub(crate) fn trials(&self, stage: &Stage) -> Vec<Trial> {
        let mut trials = Vec::new();
        // Role by role: the connection of one that answers is closed by strongSwan, and ours need not start anew.
        for role in Role::BOTH {
            for (index, row) in self.rows.iter().enumerate().filter(|(_, row)| row.reason(role).is_none()) {
                trials.push(self.trial(stage, index, row, role));
            }
        }
        if !page::is_asked_for() {
            let titles: Vec<&'static str> = self.rows.iter().map(|row| row.title).collect();
            trials.push(Trial::test("the_page_has_these_rows", move || stage::words(page::has(&titles))));
        }
        trials
    }

    fn trial(&self, stage: &Stage, index: usize, row: &Row, role: Role) -> Trial {
        let (stage, run, results) = (stage.clone(), row.run.clone(), self.results.clone());
        let trial = Trial::test(format!("{}::{}", slug(row.title), role.name()), move || {
            let outcome = stage.run(|site| run(site, role));
            if let Err(error) = &outcome {
                println!("    {error:#}");
                // What it has left behind is not the next one's to meet.
                stage.clear();
            }
            let figure = outcome.as_ref().ok().cloned();
            results.lock().unwrap_or_else(PoisonError::into_inner).push((index, role, figure));
            stage::words(outcome)
        });
        trial.with_ignored_flag(row.slow)
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
        page::write_if_asked(&self.rows, |index, role| cell(index, role).and_then(Option::as_deref))
    }
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
