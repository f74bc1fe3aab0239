//! What is wrong with ESP packets, each under its name in status and metrics, and the same on both data paths: provoked
//! from outside, through the whole gateway.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use sekisho_tests::gateway::settings::{Settings, is_kernels_path};
use sekisho_tests::gateway::status::Status;
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::lab::xfrm::{Age, grow_old};
use sekisho_tests::scenario::site::Site;
use sekisho_tests::scenario::{hostile, tunnel};
use sekisho_tests::stage::{self, Stage, Test};
use sekisho_tests::traffic::frame::{Addressing, ESP, Kind};
use sekisho_tests::traffic::inject::Injector;
use sekisho_tests::traffic::ping;
use sekisho_tests::traffic::tap::Tap;

use super::negotiation::{psk, usual};

/// Truncated packets of each length.
const EACH: u64 = 5;
/// For a rekey, or for a counter that is read once in a while.
const SOON: Duration = Duration::from_secs(10);
/// Pings that wear an SA out.
const INTERVAL: Duration = Duration::from_millis(5);

pub(crate) fn trials(stage: &Stage) -> Vec<Trial> {
    let both: [(&str, Test); 3] = [
        ("replayed_forged_stray_and_truncated_esp_is_told_apart", told_apart),
        ("an_sa_that_has_carried_enough_is_rekeyed_in_time", rekeyed_in_time),
        ("an_sa_past_its_hard_limit_carries_nothing", hard_limit),
    ];
    let of_the_kernel: [(&str, Test); 2] = [
        ("sequence_numbers_of_the_kernel_end_and_do_not_begin_again", kernels_end),
        ("sequence_numbers_of_the_kernel_are_renewed_in_time", kernels_renewal),
    ];
    let trial = |(name, test): (&str, Test)| {
        let stage = stage.clone();
        Trial::test(format!("counters::{name}"), move || stage::words(stage.run(test)))
    };
    let of_the_kernel = is_kernels_path().then_some(of_the_kernel).into_iter().flatten();
    both.into_iter().chain(of_the_kernel).map(trial).collect()
}

/// A counter of the one child SA, the same in status and metrics.
fn of_the_sa(site: &Site, direction: &str, reason: &str) -> Result<u64> {
    let (key, labels) = match direction {
        "in" => ("inbound", [("connection", "centre"), ("direction", "in"), ("reason", reason)]),
        _ => ("outbound", [("connection", "centre"), ("direction", "out"), ("reason", reason)]),
    };
    let of_status = |status: &Status| -> Result<u64> {
        Ok(status.connection("centre")?.child_sum(&format!("{key}/{reason}")))
    };
    agreed(site, "sekisho_child_sa_refused_total", &labels, of_status)
}

/// A counter of the whole data path.
fn of_the_path(site: &Site, counter: &str) -> Result<u64> {
    agreed(site, "sekisho_engine_total", &[("counter", counter)], |status| Ok(status.esp_counter(counter)))
}

/// A verdict on what entered by the WAN port.
fn of_the_port(site: &Site, verdict: &str) -> Result<u64> {
    let labels = [("port", "wan"), ("verdict", verdict)];
    agreed(site, "sekisho_port_packets_total", &labels, |status| Ok(status.verdict("wan", verdict)))
}

/// What status and metrics say, which must be the same once nothing arrives.
fn agreed(
    site: &Site,
    metric: &str,
    labels: &[(&str, &str)],
    of_status: impl Fn(&Status) -> Result<u64>,
) -> Result<u64> {
    until(SOON, &format!("agreement about {metric} {labels:?}"), || {
        let (status, metrics) = (of_status(&site.clinic.status()?)?, site.clinic.metrics()?);
        // Counters far below 2^52.
        let shown = metrics.value(metric, labels) as u64;
        ensure!(shown == status, "{shown} in the metrics, {status} in the status");
        Ok(Some(status))
    })
    .map(|(count, _)| count)
}

fn told_apart(site: &mut Site) -> Result<String> {
    usual(site)?;
    let before = [of_the_sa(site, "in", "replay")?, of_the_sa(site, "in", "integrity")?];
    let seen = hostile::replayed_esp(site)?;
    let after = [of_the_sa(site, "in", "replay")?, of_the_sa(site, "in", "integrity")?];
    ensure!(after[0] > before[0] && after[1] > before[1], "{before:?} replayed and forged, then {after:?}");
    if is_kernels_path() {
        for counter in ["xfrm-in-state-seq-error", "xfrm-in-state-proto-error"] {
            ensure!(of_the_path(site, counter)? > 0, "{counter} is 0");
        }
    } else {
        ensure!(of_the_path(site, "dropped-replay")? >= after[0], "fewer in all than of one SA");
        ensure!(of_the_path(site, "dropped-integrity")? >= after[1], "fewer in all than of one SA");
    }
    let stray = of_the_port(site, "esp-unknown-spi")?;
    let sent = hostile::unknown_esp_spi(site)?;
    let more = of_the_port(site, "esp-unknown-spi")? - stray;
    ensure!(more == sent, "{sent} packets of an unknown SPI, {more} counted");
    let truncated = truncated(site)?;
    tunnel::pages(site)?;
    Ok(format!("{seen}; {sent} of an unknown SPI; {truncated}"))
}

/// ESP of the SA, cut off within its header, which the filter refuses, and behind it, which the data path does.
fn truncated(site: &Site) -> Result<String> {
    let clinic = Place::Clinic.address(Family::V4);
    let carrier = Tap::start(&site.at(Place::Internet), "clinic", &site.canary)?;
    tunnel::pages(site)?;
    let seen = carrier.stop()?;
    let recorded = seen.frames_to(clinic, &[Kind::Esp]);
    let frame = recorded.last().context("two pages came without ESP")?;
    let mut esp = frame.get(14 + 20..).context("a frame without ESP")?.to_vec();
    let number = esp.get_mut(4..).and_then(<[u8]>::first_chunk_mut::<4>).context("no sequence number")?;
    // Not used yet, or it would count as replayed.
    *number = (u32::from_be_bytes(*number) + 5000).to_be_bytes();
    let injector = Injector::open(&site.at(Place::Internet), "clinic")?;
    let addressing = Addressing {
        mac: (injector.mac(), site.at(Place::Clinic).mac("wan")?),
        ip: (Place::Centre.address(Family::V4), clinic),
    };
    let send = |length: usize| -> Result<()> {
        let cut = addressing.raw(ESP, esp.get(..length).context("a short packet")?)?;
        (0..EACH).try_for_each(|_| injector.send(&cut))
    };
    let grown = |what: &str, count: &dyn Fn() -> Result<u64>, length: usize| -> Result<()> {
        let before = count()?;
        send(length)?;
        until(SOON, &format!("{EACH} packets of {length} bytes under {what}"), || {
            let now = count()?;
            ensure!(now == before + EACH, "{before} before, {now} now");
            Ok(Some(()))
        })
        .map(drop)
    };
    grown("malformed", &|| of_the_port(site, "malformed"), 7)?;
    // SPI, sequence number, IV, and less than the integrity check value.
    for length in [8, 12, 20] {
        if is_kernels_path() {
            let counter = "xfrm-in-state-proto-error";
            grown(counter, &|| of_the_path(site, counter), length)?;
        } else {
            grown("malformed", &|| of_the_sa(site, "in", "malformed"), length)?;
        }
    }
    Ok(format!("{} truncated in 4 places", 4 * EACH))
}

/// Both gateways without extended sequence numbers, the clinic's SAs with these limits.
fn limited(site: &mut Site, limits: &str) -> Result<()> {
    let [mut clinic, centre] = without_esn(site)?;
    clinic.more_keys[0].push(limits.to_owned());
    site.reconfigure(&clinic, &centre)?;
    site.await_tunnel().map(drop)
}

fn without_esn(site: &Site) -> Result<[Settings; 2]> {
    let proposals = ("aes128gcm16-prfsha256-x25519", "aes128gcm16-noesn");
    Ok(psk(site)?.map(|settings| settings.proposals(proposals.0, proposals.1)))
}

/// More packets than a soft limit allows, while every one of them is answered: new keys come before the old ones end.
fn rekeyed_in_time(site: &mut Site) -> Result<String> {
    limited(site, "rekey_packets = 150\nlife_packets = 100000")?;
    let before = site.child_spis()?;
    let (lan1, server) = (site.at(Place::Lan1), Place::Server.address(Family::V4));
    let echo = ping::ping(&lan1, server, 200, INTERVAL)?;
    until(SOON, "another child SA in place of the worn-out one", || {
        Ok((site.child_spis()? != before).then_some(()))
    })?;
    let later = ping::ping(&lan1, server, 50, INTERVAL)?;
    ensure!(echo.lost() + later.lost() == 0, "{echo}; then {later}");
    Ok(format!("{} packets answered over a limit of 150; {before:?} replaced", echo.sent + later.sent))
}

/// The peer does not answer any more: no new keys can be had, and the old ones carry no more than the limit.
fn hard_limit(site: &mut Site) -> Result<String> {
    const LIMIT: u64 = 120;
    limited(site, &format!("rekey_packets = 110\nlife_packets = {LIMIT}"))?;
    let peer = Place::Centre.address(Family::V4);
    let carrier = Tap::start(&site.at(Place::Internet), "clinic", &site.canary)?;
    let names = if is_kernels_path() {
        ["xfrm-out-no-states", "xfrm-out-state-expired"]
    } else {
        ["dropped-expired", "dropped-expired"]
    };
    let counted = || -> Result<u64> {
        let status = site.clinic.status()?;
        Ok(names.iter().map(|name| status.esp_counter(name)).sum())
    };
    let before = counted()?;
    // Only IKE is silenced: ESP could go on.
    let silence = silenced(site)?;
    let echo = ping::ping(&site.at(Place::Lan1), Place::Server.address(Family::V4), 200, INTERVAL)?;
    let stopped = until(SOON, "packets refused past the limit", || Ok((counted()? > before).then_some(())));
    let shown = names.iter().try_fold(0, |sum, name| anyhow::Ok(sum + of_the_path(site, name)?));
    drop(silence);
    let seen = carrier.stop()?;
    stopped?;
    ensure!(shown? > before, "status counts them, and the metrics do not");
    let sent = seen.frames_to(peer, &[Kind::Esp]).len() as u64;
    ensure!((100..=LIMIT).contains(&sent), "{sent} packets left by an SA of {LIMIT}");
    ensure!(seen.leaks().is_empty(), "in clear at the carrier: {}", seen.leaks().join(", "));
    usual(site)?;
    tunnel::pages(site)?;
    Ok(format!("{sent} of {} packets left; refused then, under {}", echo.sent, names[0]))
}

/// The router passes no IKE until this is dropped.
struct Silence(sekisho_tests::lab::namespace::Namespace);

fn silenced(site: &Site) -> Result<Silence> {
    let router = site.at(Place::Internet);
    let rules = "table inet sekisho_lab { chain forward { type filter hook forward priority 0; \
                 udp dport { 500, 4500 } drop; }; }";
    router.output(std::process::Command::new("nft").arg(rules))?;
    Ok(Silence(router))
}

impl Drop for Silence {
    fn drop(&mut self) {
        let mut nft = std::process::Command::new("nft");
        if let Err(error) = self.0.output(nft.args(["delete", "table", "inet", "sekisho_lab"])) {
            eprintln!("IKE stays silenced: {error:#}");
        }
    }
}

/// The clinic's one outbound SPI.
fn spi_out(site: &Site) -> Result<u32> {
    let status: serde_json::Value = serde_json::from_str(&site.clinic.sekisho(&["status", "--json"])?)?;
    let spi = status.pointer("/connections/0/children/0/spi_out").and_then(serde_json::Value::as_str);
    let spi = spi.context("no child SA")?.trim_start_matches("0x");
    u32::from_str_radix(spi, 16).with_context(|| format!("the SPI {spi}"))
}

/// Without extended numbers: the last one is sent, and none after it (RFC 4303 section 3.3.3), until there are new keys.
fn kernels_end(site: &mut Site) -> Result<String> {
    const LEFT: u32 = 5;
    limited(site, "rekey_packets = 100000")?;
    let counter = "xfrm-out-state-seq-error";
    let before = of_the_path(site, counter)?;
    let peer = Place::Centre.address(Family::V4);
    let age = Age { sequence: u32::MAX - LEFT, packets: 0 };
    grow_old(&site.at(Place::Clinic), peer, spi_out(site)?, age)?;
    let carrier = Tap::start(&site.at(Place::Internet), "clinic", &site.canary)?;
    let (lan1, server) = (site.at(Place::Lan1), Place::Server.address(Family::V4));
    let echo = ping::ping(&lan1, server, 20, INTERVAL)?;
    let seen = carrier.stop()?;
    let numbers: Vec<u32> = seen
        .frames_to(peer, &[Kind::Esp])
        .into_iter()
        .filter_map(|frame| Some(u32::from_be_bytes(*frame.get(14 + 20 + 4..)?.first_chunk::<4>()?)))
        .collect();
    ensure!(numbers.iter().all(|number| *number > u32::MAX - LEFT), "numbers began again: {numbers:x?}");
    ensure!(numbers.len() == LEFT as usize, "{} packets left with {LEFT} numbers", numbers.len());
    let refused = of_the_path(site, counter)? - before;
    ensure!(refused >= echo.sent as u64 - u64::from(LEFT), "{refused} refused under {counter}");
    ensure!(seen.leaks().is_empty(), "in clear at the carrier: {}", seen.leaks().join(", "));
    let children = site.child_spis()?;
    site.clinic.sekisho(&["rekey", "centre"])?;
    until(SOON, "other keys", || Ok((site.child_spis()? != children).then_some(())))?;
    tunnel::pages(site)?;
    Ok(format!("{LEFT} numbers left, {LEFT} packets sent, {refused} refused; with new keys it goes on"))
}

/// At nine tenths of the numbers, and nobody has written a limit.
fn kernels_renewal(site: &mut Site) -> Result<String> {
    const SOFT: u64 = u32::MAX as u64 / 10 * 9;
    let [clinic, centre] = without_esn(site)?;
    site.reconfigure(&clinic, &centre)?;
    site.await_tunnel()?;
    let before = site.child_spis()?;
    let age = Age { sequence: u32::try_from(SOFT - 10)?, packets: SOFT - 10 };
    grow_old(&site.at(Place::Clinic), Place::Centre.address(Family::V4), spi_out(site)?, age)?;
    let (lan1, server) = (site.at(Place::Lan1), Place::Server.address(Family::V4));
    let echo = ping::ping(&lan1, server, 50, INTERVAL)?;
    until(SOON, "other keys", || Ok((site.child_spis()? != before).then_some(())))?;
    let later = ping::ping(&lan1, server, 50, INTERVAL)?;
    ensure!(echo.lost() + later.lost() == 0, "{echo}; then {later}");
    Ok("new keys at nine tenths of the numbers, no packet lost".into())
}
