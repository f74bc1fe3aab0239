//! A full tunnel: bulk that takes all that two processors give, and beside it numbered datagrams of which none may be missed.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::bulk::{Bulk, Carried};
use super::numbered::{Fate, Numbered, Pace};
use crate::gateway::settings::LOAD;
use crate::lab::Lab;
use crate::lab::patience::stretch;
use crate::lab::plan::{Family, Place};

/// In each such time half of the datagrams that are due, and some bulk, where both go on.
const WINDOW: Duration = Duration::from_millis(150);
/// So often in a row: what was under way before an event still arrives after it.
const WINDOWS: usize = 2;

/// Between LAN1 and the server, both ways.
#[derive(Debug)]
pub struct Load {
    pace: Pace,
    numbered: Numbered,
    bulk: Bulk,
}

/// What became of it, there and back.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Of the numbered datagrams.
    pub numbered: [Fate; 2],
    /// Of the bulk.
    pub bulk: [Carried; 2],
}

impl Load {
    /// Begins with both.
    pub fn start(lab: &Lab, pace: Pace) -> Result<Self> {
        let (near, far) = (lab.at(Place::Lan1), lab.at(Place::Server));
        let to = Place::Server.socket(Family::V4, LOAD);
        let numbered = Numbered::start(&near, &far, to, pace)?;
        let bulk = Bulk::start(&near, &far, to)?;
        Ok(Self { pace, numbered, bulk })
    }

    /// Waits until both go on, both ways: whether the datagrams do, and whether the bulk does.
    pub fn goes_on(&self, patience: Duration) -> (bool, bool) {
        let deadline = Instant::now() + patience * stretch();
        let due = u64::from(self.pace.rate) * u64::try_from(WINDOW.as_millis()).unwrap_or_default() / 1000;
        let (mut datagrams, mut bulk) = (0, 0);
        loop {
            let before = (self.numbered.arrived(), self.bulk.arrived());
            std::thread::sleep(WINDOW);
            datagrams = in_a_row(datagrams, before.0, self.numbered.arrived(), due / 2);
            bulk = in_a_row(bulk, before.1, self.bulk.arrived(), 1);
            let go_on = (datagrams >= WINDOWS, bulk >= WINDOWS);
            if go_on == (true, true) || Instant::now() > deadline {
                return go_on;
            }
        }
    }

    /// Ends both. The bulk goes on until the fate of every datagram is known.
    pub fn stop(self) -> Outcome {
        let numbered = self.numbered.stop();
        Outcome { numbered, bulk: self.bulk.stop() }
    }
}

/// Windows in a row in which at least so much arrived, both ways. What has gone on once is not asked again.
fn in_a_row(so_far: usize, before: [u64; 2], now: [u64; 2], least: u64) -> usize {
    let enough = before.iter().zip(now).all(|(before, now)| now - before >= least.max(1));
    match enough {
        _ if so_far >= WINDOWS => so_far,
        true => so_far + 1,
        false => 0,
    }
}

impl Outcome {
    /// Datagrams lost, both ways.
    pub fn lost(&self) -> u64 {
        self.numbered.iter().map(Fate::lost).sum()
    }

    /// Datagrams that came twice, both ways.
    pub fn duplicated(&self) -> u64 {
        self.numbered.iter().map(|fate| fate.duplicated).sum()
    }

    /// Datagrams sent, both ways.
    pub fn sent(&self) -> u64 {
        self.numbered.iter().map(|fate| fate.sent).sum()
    }

    /// The longest gap of either way.
    pub fn longest_gap(&self) -> Duration {
        self.numbered.iter().map(|fate| fate.longest_gap).max().unwrap_or_default()
    }

    /// The longest time in which no bulk arrived, of either way.
    pub fn longest_stall(&self) -> Duration {
        self.bulk.iter().map(|carried| carried.longest_stall).max().unwrap_or_default()
    }

    /// Megabits a second of bulk, both ways together.
    pub fn megabits(&self) -> f64 {
        self.bulk.iter().map(Carried::megabits).sum()
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [there, back] = &self.numbered;
        write!(f, "there {there}; back {back}; TCP ")?;
        let [there, back] = &self.bulk;
        write!(
            f,
            "{:.0} and {:.0} Mbit/s, stall {:.0} ms",
            there.megabits(),
            back.megabits(),
            self.longest_stall().as_secs_f64() * 1e3
        )?;
        match there.broken.as_ref().or(back.broken.as_ref()) {
            Some(why) => write!(f, ", broken: {why}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_has_arrived_in_each_of_some_windows() {
        let step = |so_far, now| in_a_row(so_far, [10, 10], now, 5);
        assert_eq!([step(0, [15, 15]), step(1, [15, 20])], [1, 2]);
        assert_eq!([step(1, [14, 99]), step(1, [99, 10])], [0, 0], "one way is not both");
        assert_eq!(step(WINDOWS, [10, 10]), WINDOWS, "it has gone on");
        assert_eq!(in_a_row(1, [3, 3], [3, 3], 0), 0, "nothing is never enough");
    }
}
