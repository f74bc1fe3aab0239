//! A peer that means well, while somebody else sends first requests from forged addresses: whether it gets in, and how soon.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sekisho_tests::gateway::Sekishod;
use sekisho_tests::gateway::certificates::write_psk;
use sekisho_tests::gateway::settings::Settings;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::lab::{Lab, topology};
use sekisho_tests::scenario::flood::{Flood, PER_SECOND};
use sekisho_tests::scenario::site::foreign;
use sekisho_tests::strongswan::{Charon, Connection, Demand, Proof};

use super::SCENARIO;
use crate::contender::{Contender, Encryption, IKE_PROPOSAL, PSK};
use crate::perf::report::{Better, Figure};
use crate::perf::session::Session;

/// Name of the lab.
const LAB: &str = "perfikef";
/// What charon has unless told otherwise: so many half-open IKE SAs, and cookies are asked for.
const CHARON_COOKIES: &str = "cookie_threshold = 30";
/// Handshakes in a quick round, and in a full one.
const ATTEMPTS: [u32; 2] = [3, 6];
/// A handshake that takes longer has failed: people have hung up.
const PATIENCE: Duration = Duration::from_secs(5);
/// From an order to close to the end of it.
const CLOSING: Duration = Duration::from_secs(15);

/// Measures everyone in turn.
pub(super) fn run(session: &mut Session, contenders: &[Contender]) -> Result<()> {
    let [few, many] = ATTEMPTS;
    let attempts = if session.is_quick() { few } else { many };
    let case = format!("handshakes under {PER_SECOND} forged IKE_SA_INIT a second");
    for (round, contender) in session.turns(contenders) {
        session.progress(format_args!("round {}: {case}, {} answers", round + 1, contender.name()));
        let times = match measure(contender, attempts) {
            Ok(times) => times,
            Err(error) => {
                session.failed(format_args!("{case}, {}", contender.name()), format_args!("{error:#}"));
                continue;
            }
        };
        let figure = |name, unit, better| Figure {
            scenario: SCENARIO,
            case: &case,
            contender: contender.name(),
            name,
            unit,
            better,
            at: None,
        };
        let share = times.len() as f64 / f64::from(attempts) * 100.0;
        session.record(&figure("succeeded", "%", Better::Higher), share);
        for time in times {
            session.record(&figure("time of those", "ms", Better::Lower), time.as_secs_f64() * 1e3);
        }
    }
    Ok(())
}

/// Who answers, kept alive.
enum Answering {
    Sekisho(Sekishod),
    StrongSwan(Charon),
}

/// How long each handshake took that succeeded.
fn measure(contender: Contender, attempts: u32) -> Result<Vec<Duration>> {
    let lab = Lab::up(LAB)?;
    let credentials = write_psk(&lab.dir().join("psk"), PSK)?;
    let set = |settings: Settings| Settings {
        log_level: "info",
        ..settings.proposals(IKE_PROPOSAL, Encryption::Aes128Gcm.proposal())
    };
    // Whoever forges an address may be a peer, so that nothing is refused before the cookie.
    let answering = match contender {
        Contender::Sekisho => {
            let anybody = Settings { remote_anywhere: true, ..set(Settings::centre(credentials.clone())) };
            Answering::Sekisho(Sekishod::start(&lab, Place::Centre, &anybody)?)
        }
        _ => {
            topology::configure(&lab, Place::Centre)?;
            let charon = Charon::with_options(&lab, Place::Centre, &[CHARON_COOKIES])?;
            let proof = (Proof::Psk(PSK.into()), Demand::Psk(PSK.into()));
            let known = foreign(Family::V4, proof, IKE_PROPOSAL, Encryption::Aes128Gcm.proposal());
            charon.load(&Connection { remote: None, ..known })?;
            Answering::StrongSwan(charon)
        }
    };
    let clinic = Sekishod::start(&lab, Place::Clinic, &set(Settings::clinic(credentials)))?;
    clinic.await_up("centre", CLOSING)?;
    let flood = Flood::in_lab(&lab)?;
    let outcome = during(&clinic, attempts);
    let sent = flood.stop()?;
    ensure!(sent > 0, "nothing was forged");
    match &answering {
        Answering::Sekisho(centre) => {
            let cookies = centre.status()?.cookies_demanded();
            ensure!(cookies > 0, "no cookie for {sent} requests: the flood did not arrive");
        }
        Answering::StrongSwan(charon) => drop(charon.sas().context("after the flood")?),
    }
    outcome
}

fn during(clinic: &Sekishod, attempts: u32) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for _ in 0..attempts {
        clinic.sekisho(&["down", "centre"])?;
        clinic.await_state("centre", "down", CLOSING).context("closing")?;
        clinic.sekisho(&["up", "centre"])?;
        times.extend(clinic.await_up("centre", PATIENCE));
    }
    Ok(times)
}
