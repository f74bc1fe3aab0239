//! The ways: a device that a program of user space sends into, and a program of the kernel's that hands on what comes out.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, DevMapHash, MapData};
use aya::programs::{SchedClassifier, TcAttachType, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use etherparse::PacketBuilder;
use nix::net::if_::if_nametoindex;
use sekisho_bench_ebpf::PORT_FIRST;
use sekisho_esp::engine::Link;
use sekisho_esp::engine::relay::Source;
use sekisho_tests::filter::measuring_object;
use sekisho_tests::lab::Lab;
use sekisho_tests::lab::namespace::Namespace;
use sekisho_tests::lab::plan::Place;
use sekisho_tests::lab::topology;

use super::tap::Tap;
use crate::generator::{Arriving, Generator, Sent, spent};
use crate::perf::report::OURS;

/// Packets that the engine opens before it has the kernel send them.
pub(super) const BATCH: usize = 64;
/// As the gateway sets it unless told otherwise (`engine_batch_us`), nanoseconds.
const BATCH_WAIT_NS: u32 = 50_000;
/// Ethernet, IPv4 and TCP headers without options.
pub(super) const HEADERS: usize = 14 + 20 + 20;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// As the engine does: AF_XDP, a veth pair, native XDP at its other end.
    Native,
    /// The same with generic XDP.
    Generic,
    /// The same with a tc program.
    Tcx,
    /// A TAP with native XDP, which runs within write(2).
    Tap,
    /// The same, a batch in one system call of io_uring.
    TapRing,
    /// A TAP and a tc program: so many segments in one write, which the kernel takes apart again.
    Super(usize),
}

impl Kind {
    pub(super) const ALL: [Kind; 7] =
        [Kind::Native, Kind::Generic, Kind::Tcx, Kind::Tap, Kind::TapRing, Kind::Super(8), Kind::Super(32)];

    /// As reports have it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Kind::Native => OURS,
            Kind::Generic => "generic XDP",
            Kind::Tcx => "tcx",
            Kind::Tap => "TAP",
            Kind::TapRing => "TAP, io_uring",
            Kind::Super(8) => "TAP, 8 segments",
            Kind::Super(_) => "TAP, 32 segments",
        }
    }

    /// What comes out at the LAN.
    const fn arriving(self) -> Arriving {
        match self {
            Kind::Native | Kind::Tap | Kind::TapRing => Arriving::Frames,
            Kind::Generic | Kind::Tcx | Kind::Super(_) => Arriving::Packets,
        }
    }
}

/// The gateway's port to the host whose sink is for such packets.
pub(super) const fn port(arriving: Arriving) -> &'static str {
    match arriving {
        Arriving::Frames => "lan1",
        Arriving::Packets => "lan2",
    }
}

/// What user space holds of it.
enum Handle {
    Socket(Box<Source>),
    Tap(Box<Tap>),
}

/// One way, ready.
pub(super) struct Entrance {
    kind: Kind,
    handle: Handle,
    // Its program goes with it.
    _ebpf: Ebpf,
}

impl Entrance {
    /// Makes the device, and has its program hand everything to the LAN port whose sink is for it.
    pub(super) fn open(kind: Kind, lab: &Lab) -> Result<Self> {
        let clinic = lab.at(Place::Clinic);
        let number = Kind::ALL.iter().position(|other| *other == kind).context("a way of ours")?;
        let (device, far) = (format!("in{number}"), format!("out{number}"));
        let handle = match kind {
            Kind::Native | Kind::Generic | Kind::Tcx => {
                veth_pair(&clinic, kind, [&device, &far])?;
                let ifindex = clinic.run(|| Ok(if_nametoindex(&*far)?))?;
                let link = Link { ifindex, name: far, queues: 1, mtu: 1500 };
                Handle::Socket(Box::new(clinic.run(|| Ok(Source::open(&link)?))?))
            }
            Kind::Tap | Kind::TapRing | Kind::Super(_) => {
                let tap = clinic.run(|| Tap::open(&device, matches!(kind, Kind::Super(_))))?;
                ip(&clinic, &["link", "set", &device, "up"])?;
                Handle::Tap(Box::new(tap))
            }
        };
        let mut ebpf =
            EbpfLoader::new().load(measuring_object()).context("loading the measuring programs")?;
        clinic
            .run(|| attach(kind, &mut ebpf, &device))
            .with_context(|| format!("a program on {device}, for {}", kind.name()))?;
        Ok(Self { kind, handle, _ebpf: ebpf })
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Sends IP packets of this length as fast as one CPU can.
    pub(super) fn send(
        &mut self,
        lab: &Lab,
        sink: &Generator,
        length: usize,
        time: Duration,
    ) -> Result<Sent> {
        let frame = frame(length)?;
        let before = sink.arrived()?;
        let ((frames, time), cpu) = spent(&lab.at(Place::Clinic), || {
            let begun = Instant::now();
            let mut frames = 0;
            while begun.elapsed() < time {
                frames += self.batch(&frame)? as u64;
            }
            Ok((frames, begun.elapsed()))
        })?;
        let sent = Sent { frames, arrived: sink.arrived()? - before, time, cpu };
        ensure!(sent.arrived > 0, "nothing that was sent by {} has arrived", self.kind.name());
        Ok(sent)
    }

    fn batch(&mut self, frame: &[u8]) -> Result<usize> {
        match (&mut self.handle, self.kind) {
            (Handle::Socket(source), _) => {
                // Payload is zeros, as the memory is that nobody has written to.
                let headers = |buffer: &mut [u8]| buffer[..HEADERS].copy_from_slice(&frame[..HEADERS]);
                source.send(BATCH, frame.len(), headers).context("sending by AF_XDP")
            }
            (Handle::Tap(tap), Kind::TapRing) => tap.write_ring(frame),
            (Handle::Tap(tap), Kind::Super(segments)) => tap.write_super(frame, segments),
            (Handle::Tap(tap), _) => tap.write(frame),
        }
    }
}

/// A pair as the gateway makes it for its engine. With GRO the kernel takes a veth's packets in batches also where generic XDP
/// looks at them; before a tc program they would be merged.
fn veth_pair(clinic: &Namespace, kind: Kind, [near, far]: [&str; 2]) -> Result<()> {
    ip(clinic, &["link", "add", near, "mtu", "1500", "type", "veth", "peer", "name", far, "mtu", "1500"])?;
    for device in [near, far] {
        ip(clinic, &["link", "set", device, "up"])?;
        topology::behave_like_a_cable(clinic, device)?;
    }
    if kind == Kind::Tcx {
        return clinic.output(Command::new("ethtool").args(["-K", near, "gro", "off"])).map(drop);
    }
    let batches = format!(
        "cd /sys/class/net/{near} && echo 1 > napi_defer_hard_irqs && echo {BATCH_WAIT_NS} > gro_flush_timeout"
    );
    // By ip(8), which mounts the namespace's own /sys for it.
    clinic.output(Command::new("ip").args(["netns", "exec", clinic.name(), "sh", "-c", &batches])).map(drop)
}

fn ip(namespace: &Namespace, arguments: &[&str]) -> Result<()> {
    namespace.output(Command::new("ip").args(arguments)).map(drop)
}

fn attach(kind: Kind, ebpf: &mut Ebpf, device: &str) -> Result<()> {
    let (from, to) = (if_nametoindex(device)?, if_nametoindex(port(kind.arriving()))?);
    let mode = match kind {
        Kind::Native | Kind::Tap | Kind::TapRing => XdpMode::Driver,
        Kind::Generic => XdpMode::Skb,
        Kind::Tcx | Kind::Super(_) => {
            let mut onward: Array<&mut MapData, u32> =
                ebpf.map_mut("ONWARD").context("no map ONWARD")?.try_into()?;
            onward.set(0, to, 0)?;
            let program = ebpf.program_mut("bare_skb").context("no program bare_skb")?;
            let program: &mut SchedClassifier = program.try_into()?;
            program.load().context("loading bare_skb")?;
            return program.attach(device, TcAttachType::Ingress).map(drop).context("attaching bare_skb");
        }
    };
    let mut across: DevMapHash<&mut MapData> = ebpf.map_mut("ACROSS").context("no map ACROSS")?.try_into()?;
    across.insert(from, to, None, 0)?;
    let program: &mut Xdp = ebpf.program_mut("bare").context("no program bare")?.try_into()?;
    program.load().context("loading bare")?;
    program.attach(device, mode).map(drop).context("attaching bare")
}

/// A segment of TCP that the sinks count, of zeros.
pub(super) fn frame(length: usize) -> Result<Vec<u8>> {
    let payload = (14 + length).checked_sub(HEADERS).context("a packet shorter than its headers")?;
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([192, 0, 2, 80], [192, 168, 1, 10], 64)
        .tcp(443, PORT_FIRST, 1, 0xffff)
        .ack(1)
        .write(&mut frame, &vec![0; payload])
        .context("building a TCP segment")?;
    Ok(frame)
}
