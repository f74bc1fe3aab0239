//! What a run prints for `docs/datapath.md`: `cargo xtask test datapath xfrm --write` puts it there.

use std::fmt::Write as _;

use sekisho_tests::gateway::settings::is_kernels_path;

use super::cell::{ALGORITHMS, Cell, Outside, Peer};

/// A cell, and whether it passed.
pub(crate) type Ran = (Cell, bool);

/// The part of the page that is this data path's: between two lines that the page has as well.
pub(crate) fn section(ran: &[Ran]) -> String {
    let path = if is_kernels_path() { "kernel" } else { "engine" };
    let mut out = format!("<!-- matrix: {path} -->\n");
    for peer in Peer::BOTH {
        let whom = match peer {
            Peer::Sekisho => "Sekisho",
            Peer::StrongSwan => "strongSwan 5.9.8",
        };
        let _ = write!(out, "\n| {path}, with {whom} |");
        for Outside { family, udp } in Outside::ALL {
            let _ = write!(out, " {family}{} |", if udp { ", UDP" } else { "" });
        }
        out.push_str("\n|---|---|---|---|---|\n");
        for algorithm in ALGORITHMS {
            let _ = write!(out, "| {} |", algorithm.title);
            for outside in Outside::ALL {
                let cell = Cell { peer, algorithm, outside };
                let _ = write!(out, " {} |", word(&cell, ran));
            }
            out.push('\n');
        }
    }
    out + "\n<!-- end of matrix -->\n"
}

fn word(cell: &Cell, ran: &[Ran]) -> String {
    match (cell.reason(), ran.iter().find(|(other, _)| other == cell)) {
        (Some(reason), _) => format!("– ({reason})"),
        (None, Some((_, true))) => "passed".into(),
        (None, Some((_, false))) => "FAILED".into(),
        (None, None) => "not run".into(),
    }
}
