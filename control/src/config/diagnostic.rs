//! A mistake in a configuration file: where it stands, what was expected there, and how to put it right.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is not taken.
    Error,
    /// The file is taken.
    Warning,
}

/// One mistake. `Display` gives the full report with the offending line and a caret, without colours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The file.
    pub file: String,
    /// Line, from 1; 0 where the file as a whole is meant.
    pub line: usize,
    /// Column in characters, from 1; 0 where the file as a whole is meant.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What was expected at that place, to stand beside the caret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What to do about it.
    pub remedy: String,
    /// Another place that has to do with it, for instance the first use of what must stand only once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub related: Option<Related>,
    #[serde(skip)]
    source: Option<Arc<str>>,
    #[serde(skip)]
    span: Range<usize>,
}

/// A second place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Related {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What it has to do with it.
    pub message: String,
    #[serde(skip)]
    span: Range<usize>,
}

impl Diagnostic {
    /// A mistake of the file as a whole: it cannot be read, or is no text.
    pub(super) fn of_file(file: &Path, message: String, remedy: String) -> Self {
        Self {
            severity: Severity::Error,
            file: file.display().to_string(),
            line: 0,
            column: 0,
            message,
            expected: None,
            remedy,
            related: None,
            source: None,
            span: 0..0,
        }
    }

    /// The report as it stands on a terminal; `colours`: with ANSI escapes.
    pub fn render(&self, colours: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = match &self.source {
            Some(_) => self.message.clone(),
            None => format!("{}: {}", self.place(), self.message),
        };
        let mut group = Group::with_title(level.primary_title(&title));
        if let Some(source) = &self.source {
            let mut caret = AnnotationKind::Primary.span(self.span.clone());
            if let Some(expected) = &self.expected {
                caret = caret.label(expected);
            }
            let mut snippet = Snippet::source(&**source).path(&self.file).annotation(caret);
            if let Some(related) = &self.related {
                snippet = snippet
                    .annotation(AnnotationKind::Context.span(related.span.clone()).label(&related.message));
            }
            group = group.element(snippet);
        }
        group = group.element(Level::HELP.message(&self.remedy));
        let renderer = if colours { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&[group])
    }

    /// Everything in one line, for a log.
    pub fn line(&self) -> String {
        format!("{}: {}; {}", self.place(), self.message, self.remedy)
    }

    /// `FILE:LINE:COLUMN`, or `FILE` where the file as a whole is meant.
    pub fn place(&self) -> String {
        match self.line {
            0 => self.file.clone(),
            line => format!("{}:{line}:{}", self.file, self.column),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostic {}

/// The findings about one file, as they come in.
pub(super) struct Report {
    file: String,
    source: Arc<str>,
    /// Where its lines begin.
    lines: Vec<usize>,
    findings: RefCell<Vec<Diagnostic>>,
}

impl Report {
    pub(super) fn new(file: &Path, source: &str) -> Self {
        let lines = std::iter::once(0).chain(source.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { file: file.display().to_string(), source: source.into(), lines, findings: RefCell::default() }
    }

    /// The line, from 1, of a byte of the file.
    pub(super) fn line(&self, byte: usize) -> usize {
        self.lines.partition_point(|start| *start <= byte)
    }

    /// An error at these bytes of the file. It is recorded once its remedy is said.
    pub(super) fn error(&self, span: Range<usize>, message: impl Into<String>) -> Draft<'_> {
        self.draft(Severity::Error, span, message.into())
    }

    /// A warning at these bytes of the file. It is recorded once its remedy is said.
    pub(super) fn warning(&self, span: Range<usize>, message: impl Into<String>) -> Draft<'_> {
        self.draft(Severity::Warning, span, message.into())
    }

    /// Whether an error was recorded.
    pub(super) fn failed(&self) -> bool {
        self.findings.borrow().iter().any(|finding| finding.severity == Severity::Error)
    }

    /// Everything, in the order of the file.
    pub(super) fn into_findings(self) -> Vec<Diagnostic> {
        let mut findings = self.findings.into_inner();
        findings.sort_by_key(|finding| (finding.line, finding.column));
        findings
    }

    fn draft(&self, severity: Severity, span: Range<usize>, message: String) -> Draft<'_> {
        let (line, column) = position(&self.source, span.start);
        Draft {
            report: self,
            finding: Diagnostic {
                severity,
                file: self.file.clone(),
                line,
                column,
                message,
                expected: None,
                remedy: String::new(),
                related: None,
                source: Some(Arc::clone(&self.source)),
                span,
            },
        }
    }
}

/// A finding that still lacks its remedy: no mistake is reported without one.
#[must_use = "a finding is recorded by its remedy"]
pub(super) struct Draft<'a> {
    report: &'a Report,
    finding: Diagnostic,
}

impl Draft<'_> {
    /// What was expected at the place.
    pub(super) fn expected(mut self, expected: impl Into<String>) -> Self {
        self.finding.expected = Some(expected.into());
        self
    }

    /// A second place.
    pub(super) fn related(mut self, span: Range<usize>, message: impl Into<String>) -> Self {
        let (line, column) = position(&self.report.source, span.start);
        self.finding.related = Some(Related { line, column, message: message.into(), span });
        self
    }

    /// The line may hold a secret written at a wrong place: the report gives the position only.
    pub(super) fn secret(mut self) -> Self {
        self.finding.source = None;
        self
    }

    /// What to do about it; records the finding.
    pub(super) fn remedy(mut self, remedy: impl Into<String>) {
        self.finding.remedy = remedy.into();
        self.report.findings.borrow_mut().push(self.finding);
    }
}

/// Line and column, both from 1, of a byte of the file.
fn position(source: &str, byte: usize) -> (usize, usize) {
    let before = source.get(..byte).unwrap_or(source);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or(before).chars().count() + 1;
    (line, column)
}
