//! A centre, and those that are connected to it: they become more and fewer, and have traffic while it is looked at.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sekisho_tests::gateway::Sekishod;
use sekisho_tests::gateway::certificates::write_psk;
use sekisho_tests::initiators::{Initiators, Inside, PSK, Questions, Tunnel, centre_of_networks};
use sekisho_tests::lab::Lab;
use sekisho_tests::lab::patience::stretch;
use sekisho_tests::lab::plan::Place;

use crate::contender::sekisho;
use crate::perf::cpu::{Meter, used};

/// Handshakes under way at a time: fewer than from which on cookies are asked for.
const AT_ONCE: usize = 24;
/// Questions under way at a time, however many peers they are dealt out to: what a wake-up of the engine has to do is the same.
const QUESTIONS: usize = 64;
/// Payload of each; the packet inside has 92 bytes as a ping.
const BYTES: usize = 64;
/// How often the centre is asked how it stands, each way.
const LOOKS: u32 = 4;
/// Until all have connected, or all are answered.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at whether everybody was answered.
const LOOK: Duration = Duration::from_millis(100);

/// The centre, who is connected, and the lab, which ends last.
pub(super) struct Population {
    centre: Sekishod,
    pid: u32,
    /// CPU time of the centre until it answered.
    started: Duration,
    initiators: Initiators,
    /// In the order of their numbers.
    tunnels: Vec<Tunnel>,
    lab: Lab,
}

/// What those cost that have connected.
pub(super) struct Grown {
    /// Until the last was up.
    pub(super) time: Duration,
    /// CPU time of the centre for each, microseconds.
    pub(super) each: f64,
}

/// CPU time of the centre for one look at how it stands, with so many connected.
pub(super) struct Looked {
    /// `sekisho status --json`.
    pub(super) status: Duration,
    /// A scrape of the metrics.
    pub(super) scrape: Duration,
}

/// Memory in use, bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    /// Resident set of the centre's daemon.
    pub(super) resident: u64,
    /// The kernel's, of the whole machine.
    pub(super) kernel: u64,
}

/// What traffic has cost.
pub(super) struct Sample {
    /// Questions answered a second.
    pub(super) rate: f64,
    /// CPU time of the centre's daemon for each packet of ESP, nanoseconds.
    pub(super) daemon: f64,
    /// CPU time of everybody for each packet of ESP, nanoseconds.
    pub(super) everybody: f64,
    pub(super) lost: u64,
}

impl Population {
    /// Nobody is connected yet.
    pub(super) fn start(lab: &str, datapath: &str, most: u32) -> Result<Self> {
        let lab = Lab::up(lab)?;
        let psk = lab.dir().join("psk");
        write_psk(&psk, PSK)?;
        let file = |name: &str| centre_of_networks(name, datapath, &psk, most);
        let mut centre = Sekishod::with_file(&lab, Place::Centre, file, "warn")?;
        centre.launch(&lab)?;
        let pid = sekisho::pid(&centre)?;
        let started = used(pid)?.cpu;
        let initiators = Initiators::new(&lab, most, Inside::Network)?;
        Ok(Self { centre, pid, started, initiators, tunnels: Vec::new(), lab })
    }

    /// So many are connected from now on.
    pub(super) fn grow_to(&mut self, count: u32) -> Result<Grown> {
        let before = used(self.pid)?.cpu;
        let present = self.tunnels.len() as u32;
        let (more, time) = self.initiators.connect(present..count, AT_ONCE, PATIENCE * stretch())?;
        let spent = used(self.pid)?.cpu.saturating_sub(before);
        let each = spent.as_secs_f64() * 1e6 / more.len().max(1) as f64;
        self.tunnels.extend(more);
        self.tunnels.sort_by_key(|tunnel| tunnel.initiator);
        Ok(Grown { time, each })
    }

    /// Those beyond so many leave.
    pub(super) fn shrink_to(&mut self, count: u32) -> Result<()> {
        let leaving = self.tunnels.split_off(self.tunnels.len().min(count as usize));
        self.initiators.close_some(&leaving)
    }

    /// How many have connected.
    pub(super) fn size(&self) -> usize {
        self.tunnels.len()
    }

    /// CPU time of the centre's start.
    pub(super) fn started(&self) -> Duration {
        self.started
    }

    /// Asks the centre how it stands, as operators and Prometheus do.
    pub(super) fn look(&self) -> Result<Looked> {
        let cost = |ask: &dyn Fn() -> Result<()>| {
            let before = used(self.pid)?.cpu;
            for _ in 0..LOOKS {
                ask()?;
            }
            anyhow::Ok(used(self.pid)?.cpu.saturating_sub(before) / LOOKS)
        };
        Ok(Looked {
            status: cost(&|| self.centre.status().map(drop))?,
            scrape: cost(&|| self.centre.metrics().map(drop))?,
        })
    }

    /// Those who are connected by the centre's own count.
    pub(super) fn connected(&self) -> Result<usize> {
        Ok(self.centre.status()?.connections_up())
    }

    pub(super) fn memory(&self) -> Result<Memory> {
        let meminfo = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
        let kernel = kernel_memory(&meminfo).context("/proc/meminfo without Slab")?;
        Ok(Memory { resident: used(self.pid)?.memory, kernel })
    }

    /// Traffic of everybody who is connected, for so long.
    pub(super) fn sample(&mut self, time: Duration) -> Result<Sample> {
        let everybody = 0..self.tunnels.len() as u32;
        let questions = Questions { initiators: everybody, at_once: QUESTIONS, bytes: BYTES };
        self.initiators.start_traffic(&self.lab, questions)?;
        // Flows are opened and neighbours found before it counts.
        let mut waited = Duration::ZERO;
        while self.initiators.exchanged().is_some_and(|exchanged| exchanged.fewest == 0) {
            ensure!(
                waited < PATIENCE * stretch(),
                "not everybody is answered: {:?}",
                self.initiators.exchanged()
            );
            self.initiators.go_on(LOOK)?;
            waited += LOOK;
        }
        let before = self.initiators.exchanged().unwrap_or_default();
        let meter = Meter::start(&[self.pid])?;
        self.initiators.go_on(time)?;
        let spent = meter.stop()?;
        let after = self.initiators.exchanged().unwrap_or_default();
        let whole = self.initiators.end_traffic()?;
        ensure!(
            whole.strays == 0,
            "{} packets that nobody waited for: {}",
            whole.strays,
            whole.told.join("; ")
        );
        let answered = (after.answered - before.answered) as f64;
        ensure!(answered > 0.0, "nothing was answered");
        // A question comes, or its answer, and the other goes.
        let packet = |share: f64| share * spent.time.as_secs_f64() * 1e9 / (2.0 * answered);
        Ok(Sample {
            rate: answered / spent.time.as_secs_f64(),
            daemon: packet(spent.processes),
            everybody: packet(spent.busy),
            lost: whole.lost,
        })
    }
}

/// Slabs, and what the kernel has of each processor: SAs and policies are in both. Bytes.
fn kernel_memory(meminfo: &str) -> Option<u64> {
    let of = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()
    };
    Some((of("Slab:")? + of("Percpu:").unwrap_or_default()) * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_memory_is_slabs_and_what_processors_have() {
        let meminfo = "MemTotal: 100 kB\nSlab:   30 kB\nSReclaimable: 20 kB\nPercpu:  12 kB\n";
        assert_eq!(kernel_memory(meminfo), Some(42 * 1024));
        assert_eq!(kernel_memory("Slab: 1 kB\n"), Some(1024));
        assert_eq!(kernel_memory("MemTotal: 100 kB\n"), None);
    }
}
