//! New keys while the tunnel is full: TCP takes all that the processors give, and of numbered datagrams beside it not one may be
//! missing, whoever begins, also where both begin at once, and where the SAs themselves ask for it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use sekisho_tests::gateway::Sekishod;
use sekisho_tests::lab::patience::{stretch, until};
use sekisho_tests::scenario::rekey::{self, BOTH};
use sekisho_tests::scenario::site::Site;
use sekisho_tests::stage::{self, Stage, Test};
use sekisho_tests::traffic::load::{Load, Outcome};
use sekisho_tests::traffic::numbered::Pace;

use super::negotiation::{psk, usual};

/// Far below what fits beside the bulk, each way; in an emulated guest less.
const RATE: u32 = 500;
/// As much as a call by voice over IP has in a packet.
const BYTES: usize = 200;
/// How long the load goes on with nothing else: what it loses by itself.
const CONTROL: Duration = Duration::from_secs(2);
/// Before the first event, and between two.
const BETWEEN: Duration = Duration::from_millis(200);
/// After the last: the former inbound SAs linger for 5 s, and then go.
const AFTER: Duration = Duration::from_secs(6);
/// Each of them by the one end and by the other.
const ROUNDS: usize = 3;
/// Renewals that both ends begin at once.
const AT_ONCE: usize = 6;
/// Bytes of an SA after which it is to be renewed: some second of full load.
const REKEY_BYTES: u64 = 32 << 20;
/// Renewals for want of bytes.
const WORN_OUT: usize = 5;
/// A machine that has kept packets waiting for longer than half of what a former inbound SA lingers says nothing about it.
const STOOD_STILL: Duration = Duration::from_millis(2500);
/// How often it may.
const TRIES: usize = 3;
/// For an exchange on a busy machine.
const PATIENCE: Duration = Duration::from_secs(15);
/// For [`WORN_OUT`] renewals, at whatever rate the machine has.
const LONG_PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn trials(stage: &Stage) -> Vec<Trial> {
    let tests: [(&str, Test); 3] = [
        ("new_keys_by_either_end_lose_no_packet", by_either),
        ("new_keys_by_both_ends_at_once_lose_no_packet", at_once),
        ("sas_worn_out_at_full_rate_lose_no_packet", worn_out),
    ];
    let trial = |(name, test): (&str, Test)| {
        let stage = stage.clone();
        Trial::test(format!("load::{name}"), move || stage::words(stage.run(test)))
    };
    tests.map(trial).into()
}

fn by_either(site: &mut Site) -> Result<String> {
    usual(site)?;
    full(site, |site| {
        for by in [BOTH; ROUNDS].concat() {
            rekey::renew_child(site, by)?;
            std::thread::sleep(BETWEEN);
            rekey::renew_ike(site, by)?;
            std::thread::sleep(BETWEEN);
        }
        Ok(format!("{} renewals", 2 * BOTH.len() * ROUNDS))
    })
}

/// RFC 7296 section 2.8.1: two pairs come of it, and one of them goes again.
fn at_once(site: &mut Site) -> Result<String> {
    usual(site)?;
    full(site, |site| {
        for _ in 0..AT_ONCE {
            let before = site.child_spis()?;
            let centre = site.our_centre()?;
            std::thread::scope(|scope| {
                let here = scope.spawn(|| site.clinic.sekisho(&["rekey", "centre"]));
                let there = scope.spawn(|| centre.sekisho(&["rekey", "clinic"]));
                [here, there].into_iter().try_for_each(|order| {
                    order.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map(drop)
                })
            })?;
            until(PATIENCE, "one other pair of child SAs at each end", || {
                let (here, there) = (site.child_spis()?, centre.status()?.connection("clinic")?.child_spis());
                Ok((here.len() == 1 && there.len() == 1 && here != before).then_some(()))
            })?;
            std::thread::sleep(BETWEEN);
        }
        Ok(format!("{AT_ONCE} times by both at once"))
    })
}

/// Both ends count the same bytes, and so both ask for new keys at about the same time.
fn worn_out(site: &mut Site) -> Result<String> {
    let ends = psk(site)?.map(|mut settings| {
        settings.more_keys[0].push(format!("rekey_bytes = {}", REKEY_BYTES / u64::from(stretch())));
        settings
    });
    let [clinic, centre] = &ends;
    site.reconfigure(clinic, centre)?;
    site.await_tunnel()?;
    let figure = full(site, |site| {
        let mut pairs = vec![site.child_spis()?];
        until(LONG_PATIENCE, &format!("{WORN_OUT} renewals of worn-out SAs"), || {
            let now = site.child_spis()?;
            if now.len() == 1 && pairs.last() != Some(&now) {
                pairs.push(now);
            }
            Ok((pairs.len() > WORN_OUT).then_some(()))
        })?;
        Ok(format!("{WORN_OUT} renewals for want of bytes"))
    })?;
    usual(site)?;
    Ok(figure)
}

/// Does something under a load that was seen to lose nothing by itself.
fn full(site: &Site, work: impl Fn(&Site) -> Result<String>) -> Result<String> {
    for _ in 1..TRIES {
        let (figure, outcome) = once(site, &work)?;
        if outcome.longest_gap() < STOOD_STILL {
            return judged(figure, &outcome);
        }
        println!("    the machine stood still, once more: {outcome}");
    }
    let (figure, outcome) = once(site, &work)?;
    judged(figure, &outcome)
}

/// The figure of it, what was dropped meanwhile, and what became of the load.
fn once(site: &Site, work: impl Fn(&Site) -> Result<String>) -> Result<((String, Vec<String>), Outcome)> {
    let pace = Pace { rate: RATE / stretch(), bytes: BYTES };
    let control = Load::start(&site.lab, pace)?;
    std::thread::sleep(CONTROL);
    let control = control.stop();
    ensure!(control.lost() == 0 || control.longest_gap() >= STOOD_STILL, "without any event: {control}");
    let ends = [&site.clinic, site.our_centre()?];
    let established = site.clinic.status()?.connection("centre")?.established();
    let before = ends.map(dropped);
    let load = Load::start(&site.lab, pace)?;
    std::thread::sleep(BETWEEN);
    let worked = work(site);
    std::thread::sleep(AFTER);
    let outcome = load.stop();
    let grown: Vec<String> =
        ends.into_iter().zip(before).flat_map(|(gateway, before)| grown(gateway, before)).collect();
    let figure = worked.with_context(|| format!("meanwhile {outcome}; {}", grown.join(", ")))?;
    let now = site.clinic.status()?.connection("centre")?.established();
    ensure!(now == established, "the connection was opened anew");
    Ok(((format!("{figure}; without any {:.0} Mbit/s", control.megabits()), grown), outcome))
}

fn judged((figure, grown): (String, Vec<String>), outcome: &Outcome) -> Result<String> {
    let told = format!("{figure}; {outcome}; dropped: {}", grown.join(", "));
    ensure!(outcome.lost() == 0 && outcome.duplicated() == 0, "{told}");
    ensure!(outcome.numbered.iter().all(|fate| fate.sent > 0), "nothing was sent: {told}");
    for way in &outcome.bulk {
        ensure!(way.bytes > 0 && way.broken.is_none(), "TCP did not go on: {told}");
    }
    // Of the bulk, too, which would be sent again.
    ensure!(grown.is_empty(), "{told}");
    Ok(format!("{figure}; {outcome}"))
}

/// What the data path of a gateway counts, by name; nothing where it does not say.
fn dropped(gateway: &Sekishod) -> Vec<(String, u64)> {
    let counters = || -> Result<Vec<(String, u64)>> {
        let status: serde_json::Value = serde_json::from_str(&gateway.sekisho(&["status", "--json"])?)?;
        let engine =
            status.pointer("/engine").and_then(serde_json::Value::as_object).context("no counters")?;
        let all = engine.iter().filter(|(name, _)| name.starts_with("dropped-") || name.starts_with("xfrm-"));
        let mut counters: Vec<(String, u64)> =
            all.filter_map(|(name, count)| Some((name.clone(), count.as_u64()?))).collect();
        let unknown = gateway.status()?.verdict("wan", "esp-unknown-spi");
        counters.push(("esp-unknown-spi".into(), unknown));
        Ok(counters)
    };
    counters().unwrap_or_default()
}

/// What has grown of it, for whoever reads why something is missing.
pub(super) fn grown(gateway: &Sekishod, before: Vec<(String, u64)>) -> Vec<String> {
    let known = |name: &str| before.iter().find(|(known, _)| known == name).map_or(0, |(_, count)| *count);
    let now = dropped(gateway).into_iter().filter(|(name, count)| *count > known(name));
    now.map(|(name, count)| format!("{} {name} +{}", gateway.name(), count - known(&name))).collect()
}
