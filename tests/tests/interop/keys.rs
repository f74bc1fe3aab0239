//! New keys from either side, with a ping every 5 ms over both families and TCP all the while: none may be lost, but for
//! what strongSwan sends too early, or removes too early (`rekey::reauth_by`).

use anyhow::{Context, Result};
use sekisho_tests::lab::patience::until;
use sekisho_tests::scenario::rekey::{self, By};
use sekisho_tests::scenario::site::Site;
use sekisho_tests::scenario::tunnel;

use super::matrix::{Role, Row};
use super::session::{self, PATIENCE, agree, close};

type Renewal = fn(&Site, &[By]) -> Result<String>;

const RENEWALS: [(&str, Renewal, By); 6] = [
    ("we rekey the child SA", rekey::child_by, By::Clinic),
    ("strongSwan rekeys the child SA", rekey::child_by, By::Centre),
    ("we rekey the IKE SA", rekey::ike_by, By::Clinic),
    ("strongSwan rekeys the IKE SA", rekey::ike_by, By::Centre),
    ("we reauthenticate, make before break (†)", rekey::reauth_by, By::Clinic),
    ("strongSwan reauthenticates, make before break", rekey::reauth_by, By::Centre),
];

/// The rows.
pub(crate) fn rows() -> Vec<Row> {
    let group = "New keys, without the loss of a packet";
    let mut rows: Vec<Row> = RENEWALS
        .iter()
        .map(|&(title, renewal, by)| {
            Row::new(group, title, move |site, role| renewed(site, role, renewal, by))
        })
        .collect();
    rows.push(Row::new(group, "both rekey the child SA at the same moment", at_once));
    rows
}

fn renewed(site: &mut Site, role: Role, renewal: Renewal, by: By) -> Result<String> {
    let ends = session::usual(site, role)?;
    session::up(site, role, &ends)?;
    let report = renewal(site, &[by])?;
    one_of_each(site)?;
    tunnel::pages(site).context("afterwards")?;
    close(site, role)?;
    // `1 renewals, 0 of 412 pings lost, longest gap 9 ms` of a longer report.
    Ok(report.split(';').next().unwrap_or(&report).to_owned())
}

/// RFC 7296 section 2.8.1: of the two new child SAs one is deleted again.
fn at_once(site: &mut Site, role: Role) -> Result<String> {
    let ends = session::usual(site, role)?;
    session::up(site, role, &ends)?;
    let before = site.child_spis()?;
    std::thread::scope(|scope| {
        let charon = site.charon()?;
        let theirs = scope.spawn(|| charon.rekey_child());
        site.clinic.sekisho(&["rekey", "centre"])?;
        theirs.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    until(PATIENCE, "another child SA", || Ok((site.child_spis()? != before).then_some(())))?;
    one_of_each(site)?;
    tunnel::pages(site).context("afterwards")?;
    close(site, role)?;
    Ok("one child SA afterwards".into())
}

/// Both sides have one IKE SA, the same, and one child SA.
fn one_of_each(site: &Site) -> Result<()> {
    until(PATIENCE, "one child SA at our side", || Ok((site.child_spis()?.len() == 1).then_some(())))?;
    site.charon()?.await_children(1)?;
    agree(site)
}
