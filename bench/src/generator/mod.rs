//! A packet generator and a sink of our own, for the cables of a lab.
//!
//! The generator is an XDP program that the kernel runs over frames out of a pool of pages (`BPF_PROG_TEST_RUN` with
//! `BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18): it writes the next template into each and redirects it to a veth, whose far end
//! gets it as a NIC's driver would have it from its ring. Nothing is allocated for a frame but what the far end needs: an
//! XDP program there sees it as it is, the kernel's own stack makes its sk_buff of it, as it must behind a NIC. On the machine
//! this was built on a frame costs 0.15 µs of CPU up to a sink behind one cable, by a packet socket with sendmmsg(2) 1.1 µs:
//! most of that is for an sk_buff which the veth then copies for an XDP program, and would hide what is to be measured.
//!
//! Everything a frame causes happens on the one CPU that sends it, between two batches: the generator, the veths' NAPI, the
//! gateway, the sink. So a flood shows what one core can do with all of it, nothing is lost for want of a CPU elsewhere, and the
//! CPU time of the sending thread is that of the whole way.

pub mod frame;

use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Array, DevMap, DevMapHash, MapData, PerCpuArray};
use aya::programs::{SchedClassifier, TcAttachType, Xdp, XdpMode, tc};
use aya::{Ebpf, EbpfLoader};
use nix::net::if_::if_nametoindex;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use sekisho_bench_ebpf::{FRAME_MAX, Template, order, progress, sunk};
use sekisho_tests::filter::{measuring_object, test_run};
use sekisho_tests::lab::namespace::Namespace;

use crate::cpu_time;

/// The CPU that sends, and does everything else: the last one, as interrupts of devices are mostly the first one's.
fn cpu() -> Result<usize> {
    let count = std::thread::available_parallelism().context("counting CPUs")?.get();
    Ok(count - 1)
}

/// Runs of the program in one call while frames are paced: most of them are but a look at the clock, of some 30 ns.
const PACED_RUNS: u32 = 1 << 21;
/// Frames by which a flood finds out how many of them it will take.
const PROBE: u32 = 100_000;
/// Most frames of a flood, whatever the probe has said.
const FLOOD_MAX: f64 = 1e8;
/// No paced sending takes longer than this many times what it should: the machine is too slow for it.
const PACED_PATIENCE: u32 = 8;
/// Until what was sent has arrived or is lost: a softirq that was put off runs within this.
const SETTLE: Duration = Duration::from_millis(20);

/// Programs on the cables of one lab.
#[derive(Debug)]
pub struct Generator {
    ebpf: Ebpf,
}

/// What has been sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sent {
    /// Frames.
    pub frames: u64,
    /// How many of them the sink has counted.
    pub arrived: u64,
    /// From the first to the last.
    pub time: Duration,
    /// CPU time of the sending thread, and of the kernel's for softirqs on that CPU: all that the frames have caused.
    pub cpu: Duration,
}

impl Sent {
    /// Frames that have arrived, a second.
    pub fn rate(&self) -> f64 {
        self.arrived as f64 / self.time.as_secs_f64()
    }

    /// CPU time of one that has arrived, nanoseconds.
    pub fn cpu_ns(&self) -> f64 {
        self.cpu.as_nanos() as f64 / self.arrived as f64
    }

    /// Part of the frames that has not arrived, per cent.
    pub fn lost(&self) -> f64 {
        self.frames.saturating_sub(self.arrived) as f64 / self.frames as f64 * 100.0
    }
}

/// What the sink gets: decides what costs it least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arriving {
    /// Frames that an XDP program has redirected.
    Frames,
    /// Packets of the kernel's own stack.
    Packets,
}

impl Generator {
    /// Loads the programs, with room for so many templates.
    ///
    /// # Errors
    /// When the kernel refuses them.
    pub fn load(templates: usize) -> Result<Self> {
        let templates = u32::try_from(templates).context("too many templates")?;
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("TEMPLATES", templates)
            .load(measuring_object())
            .context("loading the measuring programs")?;
        for name in ["generate", "sink", "bare"] {
            xdp(&mut ebpf, name)?.load().with_context(|| format!("loading {name}"))?;
        }
        let program = ebpf.program_mut("sink_skb").context("no program sink_skb")?;
        <&mut SchedClassifier>::try_from(program)?.load().context("loading sink_skb")?;
        Ok(Self { ebpf })
    }

    /// Everything that comes by this device from now on is counted and dropped, but for what neighbours say to each other.
    ///
    /// # Errors
    /// When there is no such device, or it has a program.
    pub fn sink(&mut self, namespace: &Namespace, device: &str, arriving: Arriving) -> Result<()> {
        namespace
            .run(|| {
                match arriving {
                    Arriving::Frames => {
                        xdp(&mut self.ebpf, "sink")?.attach(device, XdpMode::Driver).map(drop)?;
                    }
                    Arriving::Packets => {
                        // On kernels before 6.6 a program is attached to a qdisc, without which it fails below. It may
                        // be there from an earlier sink.
                        let _ = tc::qdisc_add_clsact(device);
                        let program = self.ebpf.program_mut("sink_skb").context("no program sink_skb")?;
                        let program: &mut SchedClassifier = program.try_into()?;
                        program.attach(device, TcAttachType::Ingress).map(drop)?;
                    }
                }
                Ok(())
            })
            .with_context(|| format!("a sink at {device}"))
    }

    /// Two devices of one namespace hand each other every frame.
    ///
    /// # Errors
    /// When there are no such devices, or one has a program.
    pub fn join(&mut self, namespace: &Namespace, devices: [&str; 2]) -> Result<()> {
        namespace
            .run(|| {
                let [one, other] = [if_nametoindex(devices[0])?, if_nametoindex(devices[1])?];
                let map = self.ebpf.map_mut("ACROSS").context("no map ACROSS")?;
                let mut across: DevMapHash<&mut MapData> = map.try_into()?;
                across.insert(one, other, None, 0)?;
                across.insert(other, one, None, 0)?;
                let program = xdp(&mut self.ebpf, "bare")?;
                for device in devices {
                    program.attach(device, XdpMode::Driver)?;
                }
                Ok(())
            })
            .with_context(|| format!("joining {} and {}", devices[0], devices[1]))
    }

    /// Frames that the sinks have counted.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn arrived(&self) -> Result<u64> {
        let map: PerCpuArray<&MapData, [u64; sunk::FIELDS]> =
            self.ebpf.map("SUNK").context("no map SUNK")?.try_into()?;
        Ok(map.get(&0, 0)?.iter().map(|sunk| sunk[sunk::FRAMES]).sum())
    }

    /// What is sent from now on, one after the other, and by which device.
    ///
    /// # Errors
    /// When there is no such device, or there are more than there is room for.
    pub fn aim(&mut self, namespace: &Namespace, device: &str, templates: &[Template]) -> Result<()> {
        ensure!(!templates.is_empty(), "nothing to send");
        namespace
            .run(|| {
                let mut out: DevMap<&mut MapData> =
                    self.ebpf.map_mut("OUT").context("no map OUT")?.try_into()?;
                out.set(0, if_nametoindex(device)?, None, 0)?;
                Ok(())
            })
            .with_context(|| format!("sending by {device}"))?;
        let mut map: Array<&mut MapData, Template> =
            self.ebpf.map_mut("TEMPLATES").context("no map TEMPLATES")?.try_into()?;
        for (index, template) in (0..).zip(templates) {
            map.set(index, template, 0).with_context(|| format!("template {index}"))?;
        }
        self.order(0, templates.len(), Duration::ZERO)
    }

    /// Sends every template this many times, as fast as it goes.
    ///
    /// # Errors
    /// When the kernel does not run the generator.
    pub fn each(&mut self, namespace: &Namespace, templates: usize, times: u32) -> Result<Sent> {
        let frames = u32::try_from(templates).context("too many templates")? * times;
        self.order(frames.into(), templates, Duration::ZERO)?;
        self.run(namespace, |generator| generator.live(frames))
    }

    /// Sends as fast as it goes, for about this long.
    ///
    /// # Errors
    /// When the kernel does not run the generator.
    pub fn flood(&mut self, namespace: &Namespace, templates: usize, time: Duration) -> Result<Sent> {
        self.order(PROBE.into(), templates, Duration::ZERO)?;
        let probe = self.run(namespace, |generator| generator.live(PROBE))?;
        let rate = probe.frames as f64 / probe.time.as_secs_f64();
        // At least what is cheap, so that a probe that came to nothing is no reason to send nothing.
        let frames = (rate * time.as_secs_f64()).clamp(f64::from(PROBE), FLOOD_MAX) as u32;
        self.order(frames.into(), templates, Duration::ZERO)?;
        self.run(namespace, |generator| generator.live(frames))
    }

    /// Sends so many frames a second, for about this long. While no frame is due the CPU spins: `cpu` says nothing.
    ///
    /// # Errors
    /// When the kernel does not run the generator, or the rate is out of reach.
    pub fn paced(
        &mut self,
        namespace: &Namespace,
        templates: usize,
        rate: f64,
        time: Duration,
    ) -> Result<Sent> {
        let interval = Duration::from_secs_f64(1.0 / rate);
        let frames = (rate * time.as_secs_f64()).clamp(1.0, FLOOD_MAX) as u64;
        self.order(frames, templates, interval)?;
        self.run(namespace, |generator| {
            let begun = Instant::now();
            while generator.progress()?[progress::SENT] < frames {
                if begun.elapsed() > time * PACED_PATIENCE {
                    bail!("{rate:.0} frames a second are out of reach");
                }
                generator.live(PACED_RUNS)?;
            }
            Ok(())
        })
    }

    fn order(&mut self, frames: u64, templates: usize, interval: Duration) -> Result<()> {
        let mut fields = [0; order::FIELDS];
        fields[order::FRAMES] = frames;
        fields[order::TEMPLATES] = u64::try_from(templates).context("too many templates")?;
        fields[order::INTERVAL_NS] = u64::try_from(interval.as_nanos()).context("an interval")?;
        let mut map: Array<&mut MapData, [u64; order::FIELDS]> =
            self.ebpf.map_mut("ORDER").context("no map ORDER")?.try_into()?;
        map.set(0, fields, 0)?;
        let mut map: Array<&mut MapData, [u64; progress::FIELDS]> =
            self.ebpf.map_mut("PROGRESS").context("no map PROGRESS")?.try_into()?;
        Ok(map.set(0, [0; progress::FIELDS], 0)?)
    }

    fn progress(&self) -> Result<[u64; progress::FIELDS]> {
        let map: Array<&MapData, [u64; progress::FIELDS]> =
            self.ebpf.map("PROGRESS").context("no map PROGRESS")?.try_into()?;
        Ok(map.get(&0, 0)?)
    }

    fn live(&self, repeat: u32) -> Result<()> {
        let program = self.ebpf.program("generate").context("no program generate")?.fd()?;
        test_run::live(program.as_fd(), &[0; FRAME_MAX], repeat).context("running the generator")
    }

    fn run(&self, namespace: &Namespace, work: impl FnOnce(&Self) -> Result<()> + Send) -> Result<Sent> {
        let before = self.arrived()?;
        let ((), cpu_time) = spent(namespace, || work(self))?;
        let done = self.progress()?;
        let frames = done[progress::SENT];
        ensure!(frames > 0, "the generator has sent nothing");
        let arrived = self.arrived()? - before;
        let time = Duration::from_nanos(done[progress::LAST_NS] - done[progress::BEGAN_NS]);
        Ok(Sent { frames, arrived, time, cpu: cpu_time })
    }
}

/// What work in a namespace costs that one CPU does: the CPU time of its thread, and of the kernel's for softirqs there. What
/// it has sent has arrived by then, or is lost.
pub(crate) fn spent<T: Send>(
    namespace: &Namespace,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<(T, Duration)> {
    let cpu = cpu()?;
    namespace.run(|| {
        let mut set = CpuSet::new();
        set.set(cpu)?;
        sched_setaffinity(Pid::from_raw(0), &set).context("staying on one CPU")?;
        let softirq = softirq_thread(cpu)?;
        let (began, put_off) = (cpu_time(), thread_time(&softirq)?);
        let done = work()?;
        let spent = cpu_time() - began;
        std::thread::sleep(SETTLE);
        Ok((done, spent + thread_time(&softirq)?.saturating_sub(put_off)))
    })
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
    Ok(program.try_into()?)
}

/// The kernel's thread for softirqs that are put off, as its folder below /proc.
fn softirq_thread(cpu: usize) -> Result<PathBuf> {
    let name = format!("ksoftirqd/{cpu}");
    let found = fs::read_dir("/proc").context("reading /proc")?.filter_map(|entry| Some(entry.ok()?.path()));
    found
        .into_iter()
        .find(|path| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == name))
        .with_context(|| format!("there is no thread {name}"))
}

/// CPU time of a thread, by the first field of its schedstat.
fn thread_time(path: &Path) -> Result<Duration> {
    let text = fs::read_to_string(path.join("schedstat")).context("reading a schedstat")?;
    run_time(&text).with_context(|| format!("a schedstat without a time: {text}"))
}

fn run_time(schedstat: &str) -> Option<Duration> {
    schedstat.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_told_by_what_has_arrived() {
        let sent = Sent {
            frames: 1000,
            arrived: 900,
            time: Duration::from_millis(10),
            cpu: Duration::from_micros(180),
        };
        assert_eq!((sent.rate(), sent.cpu_ns(), sent.lost()), (90_000.0, 200.0, 10.0));
    }

    #[test]
    fn time_of_a_thread_is_the_first_field() {
        assert_eq!(run_time("1500 20 3\n"), Some(Duration::from_nanos(1500)));
        assert_eq!(run_time(""), None);
    }
}
