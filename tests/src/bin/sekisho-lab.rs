//! `sekisho-lab`: the laboratory from a terminal.

fn main() -> anyhow::Result<()> {
    let mut lab = sekisho_tests::lab::Lab::up("try")?;
    sekisho_tests::lab::topology::forward_without_filter(&lab)?;
    lab.keep();
    Ok(())
}
