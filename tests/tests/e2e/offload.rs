//! NICs asked to do ESP: where they cannot, and no device of a lab can, the tunnel works all the same, and status says why.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use sekisho_tests::gateway::settings::is_kernels_path;
use sekisho_tests::lab::patience::until;
use sekisho_tests::scenario::site::{Site, TUNNEL_PATIENCE};
use sekisho_tests::scenario::tunnel;
use sekisho_tests::stage::{self, Stage, Test};

use super::negotiation::{psk, usual};

pub(crate) fn trials(stage: &Stage) -> Vec<Trial> {
    let of_the_kernel: [(&str, Test); 1] = [("crypto_falls_back", falls_back)];
    let of_the_engine: [(&str, Test); 1] =
        [("auto_asks_none_where_it_takes_the_engine", not_with_the_engine)];
    let chosen: Vec<(&str, Test)> =
        if is_kernels_path() { of_the_kernel.into() } else { of_the_engine.into() };
    let trial = |(name, test): (&str, Test)| {
        let stage = stage.clone();
        Trial::test(format!("offload::{name}"), move || stage::words(stage.run(test)))
    };
    chosen.into_iter().map(trial).collect()
}

fn falls_back(site: &mut Site) -> Result<String> {
    let [mut clinic, centre] = psk(site)?;
    clinic.offload = Some("crypto");
    let log_before = site.clinic.log().len();
    site.reconfigure(&clinic, &centre)?;
    site.await_tunnel()?;
    tunnel::pages(site)?;
    let before = site.child_spis()?;
    site.clinic.sekisho(&["rekey", "centre"])?;
    until(TUNNEL_PATIENCE, "another child SA", || Ok((site.child_spis()? != before).then_some(())))?;
    tunnel::pages(site)?;
    let status = site.clinic.status()?;
    let (in_nics, in_kernel, refused) = status.offload();
    ensure!(in_nics == 0 && in_kernel >= 2, "{in_nics} SAs in NICs that cannot, {in_kernel} not");
    ensure!(refused.contains("no such offload") || refused.contains("the kernel says"), "why: {refused:?}");
    let by_the_kernel = site.clinic.metrics()?.value("sekisho_offload_sas", &[("worker", "kernel")]);
    ensure!(by_the_kernel >= 2.0, "{by_the_kernel} SAs of the kernel in the metrics");
    let shown = site.clinic.sekisho(&["status"])?;
    let line = shown.lines().find(|line| line.starts_with("offload ")).unwrap_or_default().to_owned();
    ensure!(line.contains("crypto") && line.contains(refused), "status says {line:?}");
    let log = site.clinic.log();
    let said = log.get(log_before..).unwrap_or_default().lines();
    // The kernel may have another one for each direction; in front of them stands the time.
    let reasons: Vec<&str> = said
        .filter(|line| line.contains("a NIC does not take an SA"))
        .filter_map(|line| line.split_once("WARN"))
        .map(|(_, reason)| reason)
        .collect();
    let different: BTreeSet<&str> = reasons.iter().copied().collect();
    ensure!(
        !reasons.is_empty() && different.len() == reasons.len(),
        "of a pair and the one that took its place it says: {reasons:?}"
    );
    usual(site)?;
    Ok(line)
}

fn not_with_the_engine(site: &mut Site) -> Result<String> {
    let [mut clinic, centre] = psk(site)?;
    (clinic.offload, clinic.datapath) = (Some("crypto"), "auto".into());
    site.reconfigure(&clinic, &centre)?;
    site.await_tunnel()?;
    tunnel::pages(site)?;
    let status = site.clinic.status()?;
    let (in_nics, in_kernel, refused) = status.offload();
    // `auto` takes the engine where the kernel cannot, and only there nobody is asked.
    match status.datapath().0 {
        "engine" => {
            ensure!((in_nics, in_kernel) == (0, 0), "{in_nics} SAs in NICs, {in_kernel} not");
            ensure!(refused.contains("the engine encrypts by itself"), "why: {refused:?}");
        }
        _ => ensure!(in_nics == 0 && in_kernel >= 2, "{in_nics} SAs in NICs that cannot, {in_kernel} not"),
    }
    let figure = refused.to_owned();
    usual(site)?;
    Ok(figure)
}
