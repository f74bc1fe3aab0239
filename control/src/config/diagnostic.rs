//! A mistake in a configuration file: where it stands, what was expected there, and how to put it right.

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
                snippet =
                    snippet.annotation(AnnotationKind::Context.span(related.span.clone()).label(&related.message));
            }
            group = group.element(snippet);
        }
        group = group.element(Level::HELP.message(&self.remedy));
        let renderer = if colours { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&[group])
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
