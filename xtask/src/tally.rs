//! What ran and how it ended: the table at the end, and the exit code.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

/// Counts of one suite.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) skipped: u32,
}

impl Counts {
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// One line of the table.
struct Row {
    suite: String,
    counts: Counts,
    duration: Duration,
    /// Things that must not get lost above: why it failed, what was skipped.
    notes: Vec<String>,
}

/// The run so far.
#[derive(Default)]
pub(crate) struct Tally {
    rows: Vec<Row>,
}

impl Tally {
    pub(crate) fn record(&mut self, suite: &str, start: Instant, counts: Counts, notes: Vec<String>) {
        self.rows.push(Row { suite: suite.to_owned(), counts, duration: start.elapsed(), notes });
    }

    fn total(&self) -> Counts {
        let mut total = Counts::default();
        self.rows.iter().for_each(|row| total.add(row.counts));
        total
    }

    /// Prints the table and, last and alone on its line, the sum; fails if anything failed or nothing passed.
    pub(crate) fn conclude(&self) -> ExitCode {
        println!("\n{:<10} {:>7} {:>7} {:>7} {:>9}", "suite", "passed", "failed", "skipped", "seconds");
        for row in &self.rows {
            let Counts { passed, failed, skipped } = row.counts;
            let seconds = row.duration.as_secs_f64();
            println!("{:<10} {passed:>7} {failed:>7} {skipped:>7} {seconds:>9.1}", row.suite);
        }
        for row in &self.rows {
            for note in &row.notes {
                println!("{}: {note}", row.suite);
            }
        }
        let Counts { passed, failed, skipped } = self.total();
        println!("\n{passed} passed, {failed} failed, {skipped} skipped");
        if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// The counts in a test runner's closing line, if this is one.
///
/// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out` (cargo test), or
/// `Summary [   0.5s] 3 tests run: 2 passed (1 slow), 1 failed, 1 timed out, 1 skipped` (nextest).
pub(crate) fn closing_line(line: &str) -> Option<Counts> {
    let line = without_colours(line);
    let line = line.trim();
    let rest = match line.strip_prefix("test result:") {
        Some(rest) => rest,
        // "3/5 tests run" stands there when a run was cut short.
        None => line.strip_prefix("Summary [")?.split_once("run:")?.1,
    };
    let mut counts = Counts::default();
    for part in rest.split(['.', ';', ',', '(', ')']) {
        let mut words = part.split_whitespace();
        let Some(Ok(count)) = words.next().map(str::parse::<u32>) else { continue };
        match words.next() {
            Some("passed") => counts.passed += count,
            Some("failed" | "timed" | "exec") => counts.failed += count,
            Some("ignored" | "skipped") => counts.skipped += count,
            _ => {}
        }
    }
    Some(counts)
}

/// Runners colour their output when told that a terminal is at the end of the pipe.
fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, escape)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        rest = escape.split_once('m').map_or("", |(_, after)| after);
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_closing_lines() {
        let counts = |passed, failed, skipped| Some(Counts { passed, failed, skipped });
        let line = "test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.10s";
        assert_eq!(closing_line(line), counts(3, 2, 1));
        let line =
            "     Summary [   0.512s] 6 tests run: 3 passed (1 slow), 2 failed, 1 timed out, 4 skipped";
        assert_eq!(closing_line(line), counts(3, 3, 4));
        let line = "\x1b[32;1m     Summary\x1b[0m [   0.5s] \x1b[1m1\x1b[0m test run: \x1b[1m1\x1b[0m \x1b[32;1mpassed\x1b[0m, \x1b[1m0\x1b[0m \x1b[33;1mskipped\x1b[0m";
        assert_eq!(closing_line(line), counts(1, 0, 0));
        assert_eq!(closing_line("test wire::parses ... ok"), None);
        assert_eq!(closing_line("Summary of the run: 3 passed"), None);
    }
}
