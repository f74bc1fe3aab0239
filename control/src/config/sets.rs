//! `[sets]`: addresses under a name, and addresses that policies name themselves.

use std::collections::HashMap;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
use toml::Spanned;

use super::AddressSet;
use super::diagnostic::Report;
use super::name::read_name;
use super::table::Section;
use super::zones::suggestion;

const EXPECTED: &str = "an address, a prefix as 10.1.0.0/16, or a range as 10.1.0.5-10.1.0.9";

/// Before the name of a file with one address, prefix or range a line.
const FILE: &str = "file:";
/// Longest such file in bytes: a million prefixes.
const FILE_BYTES_MAX: u64 = 32 << 20;

/// The sets as they are read: those of `[sets]`, then those of policies, each different one once.
#[derive(Default)]
pub(super) struct Sets {
    sets: Vec<AddressSet>,
    named: HashMap<String, usize>,
    written: HashMap<Vec<IpNet>, usize>,
}

impl Sets {
    /// Reads `[sets]`; files named there are looked up in `folder`.
    pub(super) fn read(file: &Section<'_>, folder: &Path, report: &Report) -> Self {
        let mut sets = Self::default();
        let Some(section) = file.section("sets") else { return sets };
        for (name, texts) in section.entries() {
            let name = read_name(name, "an address set", report);
            let mut prefixes = Vec::new();
            for text in &texts {
                match text.get_ref().strip_prefix(FILE) {
                    Some(path) => prefixes.extend(read_file(text, &folder.join(path), report)),
                    None => match parse(text.get_ref()) {
                        Some(parsed) => prefixes.extend(parsed),
                        None => report
                            .error(
                                text.span(),
                                format!("\"{}\" is no address", text.get_ref().escape_debug()),
                            )
                            .expected(format!("expected {EXPECTED}, or {FILE}NAME"))
                            .remedy("host names are not looked up: write what they stand for"),
                    },
                }
            }
            if prefixes.is_empty() {
                report
                    .warning(name.span(), format!("address set {} is empty", name.get_ref()))
                    .expected("a policy that names only this set matches nothing")
                    .remedy("put addresses into it, or remove it");
            }
            let set = AddressSet { name: Some(Arc::from(name.get_ref().as_str())), prefixes };
            sets.named.insert(name.into_inner(), sets.sets.len());
            sets.sets.push(set);
        }
        sets
    }

    /// The sets that a policy's `source` or `destination` names; its own addresses become one more set.
    pub(super) fn resolve(&mut self, texts: &[Spanned<String>], report: &Report) -> Vec<usize> {
        let mut found = Vec::new();
        let mut own = Vec::new();
        for text in texts {
            let word = text.get_ref();
            if let Some(prefixes) = parse(word) {
                own.extend(prefixes);
            } else if let Some(&set) = self.named.get(word) {
                found.push(set);
            } else {
                let known = self.sets.iter().filter_map(|set| set.name.as_deref());
                report
                    .error(text.span(), format!("there is no address set \"{}\"", word.escape_debug()))
                    .expected(format!("expected {EXPECTED}, or a set's name"))
                    .remedy(suggestion(word, "sets", known));
            }
        }
        if !own.is_empty() {
            own.sort_unstable();
            own.dedup();
            let next = self.sets.len();
            let set = *self.written.entry(own.clone()).or_insert(next);
            if set == next {
                self.sets.push(AddressSet { name: None, prefixes: own });
            }
            found.push(set);
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    pub(super) fn into_sets(self) -> Vec<AddressSet> {
        self.sets
    }

    pub(super) fn sets(&self) -> &[AddressSet] {
        &self.sets
    }
}

/// One address, prefix or range a line; `#` begins a comment.
fn read_file(at: &Spanned<String>, path: &Path, report: &Report) -> Vec<IpNet> {
    let unreadable = |why: String| {
        report
            .error(at.span(), format!("{} cannot be read: {why}", path.display()))
            .expected("a text file with one address, prefix or range a line")
            .remedy("a relative path is looked up beside the configuration");
        Vec::new()
    };
    let text = match read_bounded(path) {
        Ok(text) => text,
        Err(error) => return unreadable(error.to_string()),
    };
    let mut prefixes = Vec::new();
    for (line, written) in (1..).zip(text.lines()) {
        let written = written.split('#').next().unwrap_or_default().trim();
        if written.is_empty() {
            continue;
        }
        match parse(written) {
            Some(parsed) => prefixes.extend(parsed),
            None => {
                // One is enough to see what is wrong with the file.
                report
                    .error(
                        at.span(),
                        format!("{}:{line}: \"{}\" is no address", path.display(), written.escape_debug()),
                    )
                    .expected(format!("expected {EXPECTED} in each line"))
                    .remedy("correct that line; # begins a comment");
                return prefixes;
            }
        }
    }
    prefixes
}

fn read_bounded(path: &Path) -> std::io::Result<String> {
    let file = std::fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is no file"));
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("it is longer than {} MiB", FILE_BYTES_MAX >> 20)));
    }
    Ok(text)
}

/// The prefixes of an address, a prefix or a range. Host bits of a prefix must be zero: whoever writes 10.1.0.5/16 may
/// mean either.
fn parse(text: &str) -> Option<Vec<IpNet>> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(vec![IpNet::from(address)]);
    }
    if let Some((first, last)) = text.split_once('-') {
        return match (first.trim().parse().ok()?, last.trim().parse().ok()?) {
            (IpAddr::V4(first), IpAddr::V4(last)) if first <= last => Some(range_v4(first, last)),
            (IpAddr::V6(first), IpAddr::V6(last)) if first <= last => Some(range_v6(first, last)),
            _ => None,
        };
    }
    let net = text.parse::<IpNet>().ok()?;
    (net == net.trunc()).then(|| vec![net])
}

fn range_v4(first: Ipv4Addr, last: Ipv4Addr) -> Vec<IpNet> {
    Ipv4Subnets::new(first, last, 0).map(IpNet::V4).collect()
}

fn range_v6(first: Ipv6Addr, last: Ipv6Addr) -> Vec<IpNet> {
    Ipv6Subnets::new(first, last, 0).map(IpNet::V6).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Option<Vec<String>> {
        parse(text).map(|prefixes| prefixes.iter().map(IpNet::to_string).collect())
    }

    #[test]
    fn addresses_read_as_written() {
        let some = |prefixes: &[&str]| Some(prefixes.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>());
        assert_eq!(texts("10.1.2.3"), some(&["10.1.2.3/32"]));
        assert_eq!(texts("fd00::/8"), some(&["fd00::/8"]));
        assert_eq!(texts("10.0.0.5-10.0.0.9"), some(&["10.0.0.5/32", "10.0.0.6/31", "10.0.0.8/31"]));
        assert_eq!(texts("10.0.0.5-10.0.0.5"), some(&["10.0.0.5/32"]));
        assert_eq!(texts("0.0.0.0-255.255.255.255"), some(&["0.0.0.0/0"]));
        assert_eq!(texts("fd00:: - fd00::1"), some(&["fd00::/127"]));
        for nonsense in
            ["", "10.0.0.1/8", "10.0.0.9-10.0.0.5", "10.0.0.1-fd00::1", "10.0.0.256", "host.example", "-"]
        {
            assert_eq!(parse(nonsense), None, "{nonsense}");
        }
    }
}
