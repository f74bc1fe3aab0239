//! What was spent of the processors while something was measured: by which process, in softirq, and by whoever else.
//!
//! On veth the kernel's share of forwarding runs as softirq, and mostly inside whoever has just sent: where the kernel
//! counts by ticks (`CONFIG_TICK_CPU_ACCOUNTING`), a process's system time contains the softirq that has interrupted it, and
//! /proc/stat counts the same tick as softirq as well. The two may overlap, and are never added.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Of the clock in which the kernel tells CPU time to user space (`USER_HZ`, on every architecture).
const TICKS: f64 = 100.0;

/// What a process has used since it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// User and system, all threads.
    pub cpu: Duration,
    /// Resident set, bytes.
    pub memory: u64,
}

/// Of the process with this number.
///
/// # Errors
/// When there is none.
pub fn used(pid: u32) -> Result<Used> {
    let read = |file: &str| {
        let path = format!("/proc/{pid}/{file}");
        fs::read_to_string(&path).with_context(|| format!("reading {path}"))
    };
    let stat = read("stat")?;
    let status = read("status")?;
    let resident =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a status without VmRSS")?;
    let kib: u64 = resident.trim().trim_end_matches("kB").trim().parse().context("VmRSS is no number")?;
    let ticks = process_time(&stat).context("a stat without times")?;
    // The threads' own clocks tell nanoseconds, but forget threads that have ended; ticks forget nothing.
    Ok(Used { cpu: ticks.max(threads_time(pid)), memory: kib * 1024 })
}

/// Of the threads that live, by the first field of their schedstat; nothing where the kernel does not keep it.
fn threads_time(pid: u32) -> Duration {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Duration::ZERO };
    let time = |path: &Path| {
        let text = fs::read_to_string(path.join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
    };
    threads.filter_map(|thread| time(&thread.ok()?.path())).sum()
}

/// The second field of proc(5)'s stat, in parentheses, is a name of any characters. Fields 14 and 15 are utime and stime.
fn process_time(stat: &str) -> Option<Duration> {
    let after = stat.rsplit_once(')')?.1;
    let times: Vec<f64> =
        after.split_whitespace().skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    (times.len() == 2).then(|| Duration::from_secs_f64(times.iter().sum::<f64>() / TICKS))
}

/// The machine's processors together, seconds since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Whole {
    idle: f64,
    softirq: f64,
    steal: f64,
    total: f64,
}

/// The line `cpu` of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal.
fn whole(stat: &str) -> Option<Whole> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<f64> =
        line.split_whitespace().take(8).filter_map(|field| field.parse::<f64>().ok()).collect();
    let of = |index: usize| fields.get(index).map(|ticks| ticks / TICKS);
    Some(Whole {
        idle: of(3)? + of(4)?,
        softirq: of(6)?,
        steal: of(7)?,
        total: fields.iter().sum::<f64>() / TICKS,
    })
}

fn look() -> Result<Whole> {
    let stat = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
    whole(&stat).context("/proc/stat has no line for all processors")
}

/// Measures from its start on.
#[derive(Debug)]
pub struct Meter {
    began: Instant,
    whole: Whole,
    processes: Vec<(u32, Duration)>,
}

/// What was spent. Shares are of one processor: 1 is one core all the time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spent {
    /// How long was measured.
    pub time: Duration,
    /// By the processes that were named, together.
    pub processes: f64,
    /// In softirq, whoever's.
    pub softirq: f64,
    /// By everybody, softirq included.
    pub busy: f64,
    /// Taken by the hypervisor for other guests: a sample with much of it says little.
    pub steal: f64,
}

impl Meter {
    /// From now on, of these processes.
    ///
    /// # Errors
    /// When one of them is not there.
    pub fn start(processes: &[u32]) -> Result<Self> {
        let processes: Result<Vec<_>> = processes.iter().map(|pid| Ok((*pid, used(*pid)?.cpu))).collect();
        Ok(Self { began: Instant::now(), whole: look()?, processes: processes? })
    }

    /// Until now.
    ///
    /// # Errors
    /// When one of the processes has ended meanwhile: its time is lost.
    pub fn stop(self) -> Result<Spent> {
        let (time, now) = (self.began.elapsed(), look()?);
        let mut processes = 0.0;
        for (pid, before) in self.processes {
            processes += used(pid)?.cpu.saturating_sub(before).as_secs_f64();
        }
        let share = |seconds: f64| seconds.max(0.0) / time.as_secs_f64();
        let (total, idle) = (now.total - self.whole.total, now.idle - self.whole.idle);
        let steal = now.steal - self.whole.steal;
        Ok(Spent {
            time,
            processes: share(processes),
            softirq: share(now.softirq - self.whole.softirq),
            busy: share(total - idle - steal),
            steal: share(steal),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_behind_any_name() {
        let stat = "12 (a) b (c) S 1 12 12 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 1 0 99 1 2";
        assert_eq!(process_time(stat), Some(Duration::from_secs(2)));
        assert_eq!(process_time("12 (a) S 1"), None);
    }

    #[test]
    fn the_line_of_all_processors_is_taken() {
        let stat = "cpu  100 0 200 300 100 0 50 25 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(whole(stat), Some(Whole { idle: 4.0, softirq: 0.5, steal: 0.25, total: 7.75 }));
        assert_eq!(whole("cpu0 1 2 3 4 5 6 7 8\n"), None);
    }

    #[test]
    fn work_is_found_in_its_process() {
        let own = std::process::id();
        let meter = Meter::start(&[own]).expect("this process runs");
        let before = used(own).expect("this process runs").cpu;
        while used(own).expect("this process runs").cpu < before + Duration::from_millis(50) {
            std::hint::black_box((0..100_000).sum::<u64>());
        }
        let spent = meter.stop().expect("this process runs");
        assert!(spent.processes * spent.time.as_secs_f64() > 0.04, "{spent:?}");
        assert!(used(own).expect("this process runs").memory > 0);
    }
}
