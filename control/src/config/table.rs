//! TOML tables with places: reads the keys that a section has, and reports every key that is missing, of a wrong
//! type or unknown.
//!
//! The tables are walked by hand rather than derived, because a derived reader stops at its first mistake.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::Report;

/// One table of the file. [`Section::finish`] reports the keys that nobody asked for.
pub(super) struct Section<'a> {
    report: &'a Report,
    /// As an administrator would write it, for messages: `[ports.lan1]`.
    title: String,
    /// Where a missing key is reported.
    span: Range<usize>,
    table: &'a DeTable<'a>,
    asked: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Section<'a> {
    pub(super) fn new(
        report: &'a Report,
        title: impl Into<String>,
        span: Range<usize>,
        table: &'a DeTable<'a>,
    ) -> Self {
        Self { report, title: title.into(), span, table, asked: RefCell::default() }
    }

    pub(super) fn title(&self) -> &str {
        &self.title
    }

    /// Where the section as a whole is reported.
    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// The place of a key's name, else that of the section.
    pub(super) fn key_span(&self, key: &str) -> Range<usize> {
        self.table.get_key_value(key).map_or_else(|| self.span(), |(name, _)| name.span())
    }

    pub(super) fn has(&self, key: &'static str) -> bool {
        self.value(key).is_some()
    }

    pub(super) fn string(&self, key: &'static str) -> Option<Spanned<String>> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(Spanned::new(value.span(), text.to_string())),
            _ => self.wrong_type(value, key, "a string"),
        }
    }

    pub(super) fn boolean(&self, key: &'static str) -> Option<Spanned<bool>> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::Boolean(truth) => Some(Spanned::new(value.span(), *truth)),
            _ => self.wrong_type(value, key, "true or false"),
        }
    }

    pub(super) fn integer(&self, key: &'static str) -> Option<Spanned<i64>> {
        let value = self.value(key)?;
        let number = match value.get_ref() {
            DeValue::Integer(digits) => i64::from_str_radix(digits.as_str(), digits.radix()).ok(),
            _ => None,
        };
        match number {
            Some(number) => Some(Spanned::new(value.span(), number)),
            None => self.wrong_type(value, key, "a whole number"),
        }
    }

    /// A whole number, or a word in its place, which gives `None`.
    pub(super) fn integer_or(&self, key: &'static str, word: &str) -> Option<Spanned<Option<i64>>> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::String(text) if text.as_ref() == word => Some(Spanned::new(value.span(), None)),
            DeValue::Integer(_) => {
                let number = self.integer(key)?;
                Some(Spanned::new(number.span(), Some(number.into_inner())))
            }
            _ => self.wrong_type(value, key, &format!("a whole number or \"{word}\"")),
        }
    }

    /// A list of strings; a string alone counts as a list of one.
    pub(super) fn strings(&self, key: &'static str) -> Option<Vec<Spanned<String>>> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(vec![Spanned::new(value.span(), text.to_string())]),
            DeValue::Array(items) => Some(
                items
                    .iter()
                    .filter_map(|item| match item.get_ref() {
                        DeValue::String(text) => Some(Spanned::new(item.span(), text.to_string())),
                        _ => self.wrong_type(item, key, "a string"),
                    })
                    .collect(),
            ),
            _ => self.wrong_type(value, key, "a list of strings"),
        }
    }

    /// What `parse` makes of a string; what it refuses is reported with what it says is expected.
    pub(super) fn parsed<T>(
        &self,
        key: &'static str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<Spanned<T>> {
        self.parse_one(key, expected, &self.string(key)?, &parse)
    }

    /// A list of strings, each through `parse`.
    pub(super) fn parsed_list<T>(
        &self,
        key: &'static str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<Vec<Spanned<T>>> {
        let texts = self.strings(key)?;
        Some(texts.iter().filter_map(|text| self.parse_one(key, expected, text, &parse)).collect())
    }

    fn parse_one<T>(
        &self,
        key: &str,
        expected: &str,
        text: &Spanned<String>,
        parse: &impl Fn(&str) -> Option<T>,
    ) -> Option<Spanned<T>> {
        match parse(text.get_ref()) {
            Some(value) => Some(Spanned::new(text.span(), value)),
            None => {
                self.report
                    .error(text.span(), format!("`{key}` cannot be \"{}\"", text.get_ref().escape_debug()))
                    .expected(format!("expected {expected}"))
                    .remedy(format!("write {expected}"));
                None
            }
        }
    }

    /// A table below this one.
    pub(super) fn section(&self, key: &'static str) -> Option<Section<'a>> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::Table(table) => {
                Some(Section::new(self.report, self.title_below(key), self.key_span(key), table))
            }
            _ => self.wrong_type(value, key, "a table"),
        }
    }

    /// The tables of a table of tables, in the order of the file, with their names.
    pub(super) fn sections(&self, key: &'static str) -> Vec<(Spanned<String>, Section<'a>)> {
        let Some(outer) = self.section(key) else { return Vec::new() };
        let mut found: Vec<_> = outer
            .table
            .iter()
            .filter_map(|(name, value)| {
                let title = outer.title_below(name.get_ref());
                let DeValue::Table(table) = value.get_ref() else {
                    return outer.wrong_type(value, name.get_ref(), "a table");
                };
                let named = Spanned::new(name.span(), name.get_ref().to_string());
                Some((named, Section::new(self.report, title, name.span(), table)))
            })
            .collect();
        found.sort_by_key(|(name, _)| name.span().start);
        found
    }

    /// The tables of an array of tables.
    pub(super) fn array(&self, key: &'static str) -> Vec<Section<'a>> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            let _: Option<()> = self.wrong_type(value, key, "an array of tables");
            return Vec::new();
        };
        items
            .iter()
            .filter_map(|item| match item.get_ref() {
                DeValue::Table(table) => {
                    let title = format!("[{}]", self.title_below(key));
                    Some(Section::new(self.report, title, item.span(), table))
                }
                _ => self.wrong_type(item, key, "a table"),
            })
            .collect()
    }

    /// Every key with its value, for tables whose keys an administrator chooses.
    pub(super) fn entries(&self) -> Vec<(Spanned<String>, Vec<Spanned<String>>)> {
        let mut found: Vec<_> = self
            .table
            .iter()
            .filter_map(|(name, value)| {
                let texts = match value.get_ref() {
                    DeValue::String(text) => vec![Spanned::new(value.span(), text.to_string())],
                    DeValue::Array(items) => items
                        .iter()
                        .filter_map(|item| match item.get_ref() {
                            DeValue::String(text) => Some(Spanned::new(item.span(), text.to_string())),
                            _ => self.wrong_type(item, name.get_ref(), "a string"),
                        })
                        .collect(),
                    _ => return self.wrong_type(value, name.get_ref(), "a list of strings"),
                };
                Some((Spanned::new(name.span(), name.get_ref().to_string()), texts))
            })
            .collect();
        found.sort_by_key(|(name, _)| name.span().start);
        found
    }

    /// Every key with its number, for tables whose keys an administrator chooses.
    pub(super) fn integers(&self) -> Vec<(Spanned<String>, Spanned<i64>)> {
        let mut found: Vec<_> = self
            .table
            .iter()
            .filter_map(|(name, value)| {
                let number = match value.get_ref() {
                    DeValue::Integer(digits) => i64::from_str_radix(digits.as_str(), digits.radix()).ok(),
                    _ => None,
                };
                let Some(number) = number else {
                    return self.wrong_type(value, name.get_ref(), "a whole number");
                };
                let name = Spanned::new(name.span(), name.get_ref().to_string());
                Some((name, Spanned::new(value.span(), number)))
            })
            .collect();
        found.sort_by_key(|(name, _)| name.span().start);
        found
    }

    /// Reports that a key must stand here; `None` so that it can end a chain.
    pub(super) fn missing<T>(&self, key: &str, example: &str) -> Option<T> {
        self.report
            .error(self.span(), format!("{} has no `{key}`", self.title))
            .expected(format!("expected `{key}` in this section"))
            .remedy(format!("add `{key} = {example}`"));
        None
    }

    /// Reports every key that was never asked for.
    pub(super) fn finish(self) {
        let asked = self.asked.borrow();
        for (name, _) in self.table {
            if asked.contains(&**name.get_ref()) {
                continue;
            }
            let known = || asked.iter().copied();
            let remedy = match nearest(name.get_ref(), known()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", known().collect::<Vec<_>>().join(", ")),
            };
            self.report
                .error(name.span(), format!("{} knows no `{}`", self.title, name.get_ref().escape_debug()))
                .expected("unknown key")
                .remedy(remedy);
        }
    }

    fn value(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.asked.borrow_mut().insert(key);
        self.table.get(key)
    }

    fn title_below(&self, key: &str) -> String {
        match self.title.trim_matches(['[', ']']) {
            "" => format!("[{key}]"),
            above => format!("[{above}.{key}]"),
        }
    }

    fn wrong_type<T>(&self, value: &Spanned<DeValue<'_>>, key: &str, expected: &str) -> Option<T> {
        self.report
            .error(
                value.span(),
                format!("`{}` is {}", key.escape_debug(), with_article(value.get_ref().type_str())),
            )
            .expected(format!("expected {expected}"))
            .remedy(format!("write {expected} here"));
        None
    }
}

/// The candidate that was probably meant; none if two are equally near.
pub(super) fn nearest<'c>(word: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    let mut near: Vec<(usize, &str)> = candidates
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.chars().count() / 4)
        .collect();
    near.sort_unstable();
    match near.as_slice() {
        [(first, _), (second, _), ..] if first == second => None,
        [(_, candidate), ..] => Some(candidate),
        [] => None,
    }
}

fn with_article(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {kind}")
}
