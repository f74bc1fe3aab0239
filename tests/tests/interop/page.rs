//! `docs/interop.md`: made of a run in which every cell passed.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::matrix::{Role, Row};

/// Set to anything, a run of everything that passes writes the page. `cargo xtask test interop --write` sets it.
const WRITE: &str = "SEKISHO_INTEROP_WRITE";

const INTRODUCTION: &str = "\
# Interoperability with strongSwan

Made by the suite itself: `cargo xtask test interop --write` runs every cell and writes this page; a run in which one fails
writes nothing. The peer is Debian's strongSwan 5.9.8 (charon-systemd) with its ESP in user space (kernel-libipsec), in a
namespace of its own; ours is `sekishod` with its engine. Unless a row says otherwise, passed means: the connection comes
up, pages go through it both ways over IPv4 and IPv6, a capture at the router between shows nothing but IKE and ESP (in UDP,
for strongSwan's ESP in user space knows no other) and no byte of the pages, both sides name the same SAs, and nothing is
left after a delete.

Under \"New keys\" a ping goes every 5 ms over both IP versions, and TCP, all the while, and none is lost. † strongSwan, where
it answers IKE_AUTH, sends by the new child SA before its answer has left. Such packets come before our gateway can know the
SA, are counted as `esp-unknown-spi`, and only they may be lost. Where strongSwan begins a reauthentication it removes the former
SAs at once, and a packet may go with them that its threads have not got to: the cell is tried up to three times until none does.
";

/// Whether this run writes the page.
pub(crate) fn is_asked_for() -> bool {
    std::env::var_os(WRITE).is_some()
}

/// Writes it if the environment asks for it. `cell`: what a cell that passed has said.
pub(crate) fn write_if_asked<'a>(rows: &[Row], cell: impl Fn(usize, Role) -> Option<&'a str>) -> Result<()> {
    if !is_asked_for() {
        return Ok(());
    }
    let text = text(rows, cell)?;
    let path = path();
    std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    println!("written: {}", path.display());
    Ok(())
}

/// The page that lies in the tree was made of these rows.
pub(crate) fn has(titles: &[&str]) -> Result<String> {
    let path = path();
    let page = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let rows: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
        .filter(|title| *title != "scenario")
        .collect();
    ensure!(
        rows == titles,
        "docs/interop.md has other rows than this suite: `cargo xtask test interop --write`. There: {rows:?}"
    );
    Ok(format!("{} rows", rows.len()))
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/interop.md")
}

fn text<'a>(rows: &[Row], cell: impl Fn(usize, Role) -> Option<&'a str>) -> Result<String> {
    let mut out = String::from(INTRODUCTION);
    let mut group = "";
    for (index, row) in rows.iter().enumerate() {
        if row.group != group {
            group = row.group;
            let _ = writeln!(
                out,
                "\n## {group}\n\n| scenario | we initiate | strongSwan initiates |\n|---|---|---|"
            );
        }
        let _ = write!(out, "| {} |", row.title);
        for role in Role::BOTH {
            let words = match (row.reason(role), cell(index, role)) {
                (Some(reason), _) => format!("– ({reason})"),
                (None, Some(words)) if row.lasting => words.replace('|', "\\|"),
                (None, Some(_)) => "passed".into(),
                (None, None) => anyhow::bail!("{} did not run or failed: nothing is written", row.title),
            };
            let _ = write!(out, " {words} |");
        }
        out.push('\n');
    }
    Ok(out)
}
