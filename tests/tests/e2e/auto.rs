//! `datapath = "auto"`: the kernel where it has ESP, else the engine, and the reason where an operator looks.

use std::process::Command;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use sekisho_tests::lab::plan::Place;
use sekisho_tests::scenario::site::Site;
use sekisho_tests::scenario::tunnel;
use sekisho_tests::stage::{self, Stage};

use super::negotiation::{psk, usual};

pub(crate) fn trials(stage: &Stage) -> Vec<Trial> {
    let stage = stage.clone();
    vec![Trial::test("auto::takes_the_kernel_where_it_has_esp_and_says_why", move || {
        stage::words(stage.run(chosen))
    })]
}

/// Whether this kernel makes xfrm interfaces.
fn kernel_has_esp(site: &Site) -> bool {
    let mut ip = Command::new("unshare");
    ip.args(["--net", "ip", "link", "add", "probe", "type", "xfrm", "if_id", "1"]);
    site.at(Place::Clinic).output(&mut ip).is_ok()
}

fn chosen(site: &mut Site) -> Result<String> {
    let [mut clinic, mut centre] = psk(site)?;
    clinic.datapath = "auto".into();
    centre.datapath = "auto".into();
    let (expected, reason) = match kernel_has_esp(site) {
        true => ("kernel", "has ESP (rfc4106(gcm(aes))"),
        false => ("engine", "kernel without ESP: "),
    };
    site.reconfigure(&clinic, &centre)?;
    site.await_tunnel()?;
    tunnel::pages(site)?;
    let status = site.clinic.status()?;
    let (kind, why) = status.datapath();
    ensure!(kind == expected && why.contains(reason), "it took the {kind}, because: {why}");
    let shown = site.clinic.sekisho(&["status"])?;
    ensure!(shown.contains(&format!("data path {kind}: {why}")), "the table does not say so:\n{shown}");
    ensure!(site.clinic.log().contains(&format!("why={why:?}")), "the log does not say so");
    let figure = format!("{kind}: {why}");
    // The kernel is asked once more, and takes what it has taken before.
    site.clinic.sekisho(&["reload"])?;
    tunnel::pages(site)?;
    usual(site)?;
    Ok(figure)
}
