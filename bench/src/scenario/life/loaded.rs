//! The events beside a load that fills the tunnel: bulk over TCP both ways, as much as the processors carry, and numbered
//! datagrams both ways, whose every loss is known.
//!
//! What the load loses by itself is measured first, and the datagrams' rate lowered until that is nothing, or as little as it
//! gets. What an event costs is to be judged by that.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sekisho_tests::lab::Lab;
use sekisho_tests::lab::patience::{stretch, until};
use sekisho_tests::strongswan::Charon;
use sekisho_tests::traffic::load::{Load, Outcome};
use sekisho_tests::traffic::numbered::Pace;

use super::event::{self, Event, Stand};
use super::{LAB, PATIENCE, SCENARIO};
use crate::contender::{Contender, Encryption, Wanted, sekisho, strongswan};
use crate::perf::report::{Better, Figure};
use crate::perf::session::Session;
use crate::scenario::goodput::wires_at;

/// Datagrams a second each way to begin with, and the fewest, below which a gap says little.
const RATES: [u32; 2] = [2000, 250];
/// Bytes of such a datagram: as much as a call has in a packet.
const BYTES: usize = 200;
/// The same where the path becomes narrower: an IP packet of 1400 bytes, which fits before and does not fit after.
const LARGE_BYTES: usize = 1400 - 28;
/// How long the load goes on without any event.
const CONTROL: Duration = Duration::from_millis(1200);
/// Until both go before an event, and go on after it. TCP asks again after twice as long as it has waited before.
const GOES_ON: Duration = Duration::from_secs(8);
/// How often the events of a full run come, the cheap ones.
const ROUNDS: usize = 3;
/// In a quick run, once each.
const QUICK: [Event; 4] = [Event::ChildRekey, Event::IkeRekey, Event::NarrowerPath, Event::OtherPorts];
/// In a full run: those that cost little time, and those that come once.
const OFTEN: [Event; 4] = [Event::ChildRekey, Event::IkeRekey, Event::OtherPorts, Event::OtherAddress];
const ONCE: [Event; 4] = [Event::NarrowerPath, Event::PeerRestarts, Event::Crash, Event::PeerCrashes];
/// In a guest, where everything takes long.
const IN_GUEST: [Event; 6] = [
    Event::ChildRekey,
    Event::IkeRekey,
    Event::NarrowerPath,
    Event::PeerRestarts,
    Event::OtherPorts,
    Event::OtherAddress,
];

/// Who is measured, and how it is told.
#[derive(Clone, Copy)]
pub(in crate::scenario) struct Told {
    pub(in crate::scenario) contender: Contender,
    /// Behind the name of each case.
    pub(in crate::scenario) place: &'static str,
    /// Times are of an emulated processor: gaps are told as how many times those of the control they are.
    pub(in crate::scenario) is_relative: bool,
}

/// The load, and what it does by itself.
struct Control {
    pace: Pace,
    outcome: Outcome,
}

/// Measures one of those who can.
pub(super) fn run(session: &mut Session, contender: Contender) -> Result<()> {
    let told = Told { contender, place: "", is_relative: false };
    let lab = Lab::up(LAB)?;
    wires_at(&lab)?;
    if contender == Contender::StrongSwan {
        let pair = strongswan::Pair::raise(&lab, Wanted { encryption: Encryption::Aes128Gcm, in_udp: true })?;
        return strongswans(session, told, &lab, &pair, ROUNDS);
    }
    let wanted = Wanted { encryption: Encryption::Aes128Gcm, in_udp: false };
    let mut stand = Stand::raise(&lab, event::settings(sekisho::settings(&lab, wanted)?))?;
    let events = match session.is_quick() {
        true => QUICK.to_vec(),
        // A NAT that was put between stays: whatever comes once comes before.
        false => ONCE.into_iter().chain([OFTEN; ROUNDS].concat()).collect(),
    };
    ours(session, told, &lab, &mut stand, events)
}

/// The same in a guest, on gateways that are up.
pub(in crate::scenario) fn in_guest(
    session: &mut Session,
    told: Told,
    lab: &Lab,
    stand: &mut Stand<'_>,
) -> Result<()> {
    ours(session, told, lab, stand, IN_GUEST.to_vec())
}

fn ours(
    session: &mut Session,
    told: Told,
    lab: &Lab,
    stand: &mut Stand<'_>,
    events: Vec<Event>,
) -> Result<()> {
    let control = control(session, told, lab)?;
    for event in events {
        stand.prepare(event)?;
        let mut pace = control.pace;
        if event == Event::NarrowerPath {
            pace.bytes = LARGE_BYTES;
        }
        let measured = beside(lab, pace, || stand.undergo(event)).with_context(|| event.name());
        // Not told before what was changed is as it was.
        stand.recover(event)?;
        record(session, told, event.name(), Some(&control), &measured?);
    }
    Ok(())
}

/// What of it an administrator of strongSwan orders.
pub(in crate::scenario) fn strongswans(
    session: &mut Session,
    told: Told,
    lab: &Lab,
    pair: &strongswan::Pair,
    rounds: usize,
) -> Result<()> {
    let control = control(session, told, lab)?;
    let renewed = |spis: fn(&Charon) -> Result<Vec<String>>, order: fn(&Charon) -> Result<()>| {
        [&pair.clinic, &pair.centre].into_iter().try_for_each(|charon| {
            let before = spis(charon)?;
            order(charon)?;
            until(PATIENCE, "other keys", || Ok((spis(charon)? != before).then_some(()))).map(drop)
        })
    };
    for _ in 0..rounds {
        let measured = beside(lab, control.pace, || renewed(Charon::child_spis, Charon::rekey_child));
        record(session, told, Event::ChildRekey.name(), Some(&control), &measured?);
        let measured = beside(lab, control.pace, || renewed(Charon::ike_spis, Charon::rekey_ike));
        record(session, told, Event::IkeRekey.name(), Some(&control), &measured?);
    }
    Ok(())
}

/// The load with nothing else: at the rate at which it loses nothing, or at the lowest.
fn control(session: &mut Session, told: Told, lab: &Lab) -> Result<Control> {
    let [mut rate, fewest] = RATES.map(|rate| rate / stretch());
    loop {
        let pace = Pace { rate, bytes: BYTES };
        let measured = beside(lab, pace, || {
            std::thread::sleep(CONTROL);
            Ok(())
        });
        let measured = match measured {
            Err(error) if rate / 2 >= fewest => {
                session.progress(format_args!("{rate} datagrams a second are too many: {error:#}"));
                rate /= 2;
                continue;
            }
            measured => measured?,
        };
        let outcome = measured.outcome.clone();
        if outcome.lost() == 0 || rate / 2 < fewest {
            session.progress(format_args!(
                "{}, {rate} datagrams a second each way: {outcome}",
                told.contender.name()
            ));
            record(session, told, "no event", None, &measured);
            return Ok(Control { pace, outcome });
        }
        rate /= 2;
    }
}

/// What became of the load, and whether datagrams and bulk went on.
struct Measured {
    pace: Pace,
    outcome: Outcome,
    went_on: (bool, bool),
}

fn beside(lab: &Lab, pace: Pace, work: impl FnOnce() -> Result<()>) -> Result<Measured> {
    let load = Load::start(lab, pace)?;
    // What does not go before the event has not been stopped by it.
    let went = load.goes_on(GOES_ON);
    if went != (true, true) {
        let what = if went.0 { "TCP does" } else { "datagrams do" };
        bail!("{what} not come through both ways before anything has happened: {}", load.stop());
    }
    let worked = work();
    let went_on = load.goes_on(GOES_ON);
    let outcome = load.stop();
    worked.with_context(|| format!("meanwhile {outcome}"))?;
    ensure!(went_on.0, "no datagram comes through any more: {outcome}");
    Ok(Measured { pace, outcome, went_on })
}

fn record(session: &mut Session, told: Told, event: &str, control: Option<&Control>, measured: &Measured) {
    let Measured { pace, outcome, went_on } = measured;
    let case = &format!("beside a full load: {event}{}", told.place);
    let mut one = |name: &str, unit: &str, better, value| {
        let contender = told.contender.name();
        session.record(&Figure { scenario: SCENARIO, case, contender, name, unit, better, at: None }, value);
    };
    let ways = ["there", "back"];
    for (way, fate) in ways.iter().zip(&outcome.numbered) {
        one(&format!("lost {way}"), "packets", Better::Lower, fate.lost() as f64);
    }
    one("sent each way", "packets", Better::Neither, outcome.sent() as f64 / 2.0);
    for (index, (way, fate)) in ways.iter().zip(&outcome.numbered).enumerate() {
        let gap = fate.longest_gap.as_secs_f64();
        let usual = control.and_then(|control| control.outcome.numbered.get(index));
        match (told.is_relative, usual) {
            (false, _) => one(&format!("longest gap {way}"), "ms", Better::Lower, gap * 1e3),
            (true, Some(usual)) if !usual.longest_gap.is_zero() => {
                let times = gap / usual.longest_gap.as_secs_f64();
                one(&format!("longest gap {way}, times that without event"), "", Better::Neither, times);
            }
            (true, _) => {}
        }
    }
    let twice: u64 = outcome.duplicated();
    let reordered: u64 = outcome.numbered.iter().map(|fate| fate.reordered).sum();
    one("duplicated", "packets", Better::Lower, twice as f64);
    one("reordered", "packets", Better::Lower, reordered as f64);
    one("TCP goes on", "1: yes", Better::Higher, f64::from(u8::from(went_on.1)));
    if !told.is_relative {
        one("TCP stands still", "ms", Better::Lower, outcome.longest_stall().as_secs_f64() * 1e3);
        one("TCP both ways", "Mbit/s", Better::Neither, outcome.megabits());
        one("rate each way", "packets/s", Better::Neither, f64::from(pace.rate));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_comes_in_a_full_run_and_once_a_nat_is_between_it_stays() {
        let full: Vec<Event> = ONCE.into_iter().chain(OFTEN).collect();
        for event in QUICK.iter().chain(&IN_GUEST) {
            assert!(full.contains(event), "{event:?} in short, and not in full");
        }
        let mut names: Vec<&str> = full.iter().map(|event| event.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), full.len(), "two events of one name");
    }
}
