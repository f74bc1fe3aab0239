//! No contender but a ceiling: at both ends our engine's sockets without ESP. Each packet is taken to user space, gets other
//! Ethernet addresses and leaves by the other port. This program does it, in a process of its own for each gateway.

use std::env;
use std::fmt;
use std::fs;
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use aya::maps::{MapData, XskMap};
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use nix::net::if_::if_nametoindex;
use sekisho_esp::engine::Link;
use sekisho_esp::engine::relay::{Relay, RelayEnd};
use sekisho_tests::filter::measuring_object;
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::Place;
use sekisho_tests::lab::process::Process;
use sekisho_tests::lab::{Lab, topology};

use super::Tunnel;

/// Where it finds its program.
const OBJECT: &str = "SEKISHO_MEASURING_OBJECT";
/// What it says once it relays.
const READY: &str = "relaying";
/// Until it says so.
const START: Duration = Duration::from_secs(10);
/// Longest sleep without traffic.
const IDLE: Duration = Duration::from_secs(1);
/// As on all cables of a lab.
const MTU: u32 = 1500;

/// One port of a relay, as its command line has it: `lan1,02:00:00:00:00:01,02:00:00:00:00:02`, the device, its own address,
/// and the next hop's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    device: String,
    source: [u8; 6],
    destination: [u8; 6],
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = |mac: &[u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
        write!(f, "{},{},{}", self.device, hex(&self.source), hex(&self.destination))
    }
}

impl FromStr for End {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.split(',');
        let (Some(device), Some(source), Some(destination), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            bail!("a device, its address and the next hop's, unlike {text:?}");
        };
        Ok(Self { device: device.into(), source: mac(source)?, destination: mac(destination)? })
    }
}

fn mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Result<Vec<u8>, _> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
    let bytes = bytes.ok().and_then(|bytes| bytes.try_into().ok());
    bytes.with_context(|| format!("{text:?} is no hardware address"))
}

/// Both gateways.
#[derive(Debug)]
pub struct Pair {
    processes: [Process; 2],
}

impl Pair {
    /// Starts both in a lab whose gateways are joined by one cable; returns once they relay.
    ///
    /// # Errors
    /// When one does not start.
    pub fn raise(lab: &Lab) -> Result<Self> {
        let clinic =
            start(lab, Place::Clinic, [("lan1", Place::Lan1, "eth0"), ("wan", Place::Centre, "wan")])?;
        let centre =
            start(lab, Place::Centre, [("lan", Place::Server, "eth0"), ("wan", Place::Clinic, "wan")])?;
        Ok(Self { processes: [clinic, centre] })
    }
}

impl Tunnel for Pair {
    fn processes(&self) -> Vec<u32> {
        self.processes.iter().map(Process::pid).collect()
    }
}

/// Its ports, each with the device at the other end of the cable.
fn start(lab: &Lab, place: Place, ports: [(&str, Place, &str); 2]) -> Result<Process> {
    // The kernel answers for the addresses; what is not for neighbours it never sees.
    topology::configure(lab, place)?;
    let mut command = Command::new(env::current_exe().context("finding this program")?);
    // Not to be built by each of them, which takes longer than a start may.
    let object = lab.dir().join("measuring-object");
    fs::write(&object, measuring_object()).with_context(|| format!("writing {}", object.display()))?;
    command.arg("relay").env(OBJECT, object);
    for (device, peer, far) in ports {
        let (source, destination) = (lab.at(place).mac(device)?, lab.at(peer).mac(far)?);
        command.arg(End { device: device.into(), source, destination }.to_string());
    }
    let mut process = Process::start(lab, place, &mut command, &format!("relay-{}", place.name()))?;
    until(START, "a relay", || {
        if let Some(status) = process.ended()? {
            return Ok(Some(Err(anyhow::anyhow!("the relay ended with {status}:\n{}", process.log()))));
        }
        Ok(process.log().contains(READY).then_some(Ok(())))
    })?
    .0?;
    Ok(process)
}

/// Relays in the present namespace between two ports, until it is ended.
///
/// # Errors
/// When it cannot, or a device is gone.
pub fn run(ends: &[End; 2]) -> Result<()> {
    let [one, other] = ends;
    let mut relay = Relay::open(&[relay_end(one)?, relay_end(other)?])?;
    let sockets = relay.sockets();
    let mut programs = Vec::new();
    for (end, socket) in ends.iter().zip(&sockets) {
        let mut ebpf = EbpfLoader::new().load(measuring_object()).context("loading the relay's program")?;
        let mut map: XskMap<&mut MapData> = ebpf.map_mut("SOCKET").context("no map SOCKET")?.try_into()?;
        map.set(0, socket.as_raw_fd(), 0).with_context(|| format!("the socket on {}", end.device))?;
        attach(&mut ebpf, &end.device)?;
        // Programs go with their object.
        programs.push(ebpf);
    }
    println!("{READY}");
    loop {
        relay.turn(IDLE).context("a device of the relay does not send")?;
    }
}

fn attach(ebpf: &mut Ebpf, device: &str) -> Result<()> {
    let program: &mut Xdp = ebpf.program_mut("to_socket").context("no program to_socket")?.try_into()?;
    program.load().context("loading to_socket")?;
    program.attach(device, XdpMode::Driver).map(drop).with_context(|| format!("the program on {device}"))
}

fn relay_end(end: &End) -> Result<RelayEnd> {
    let ifindex = if_nametoindex(&*end.device).with_context(|| format!("there is no {}", end.device))?;
    let link = Link { ifindex, name: end.device.clone(), queues: 1, mtu: MTU };
    Ok(RelayEnd { link, source_mac: end.source, destination_mac: end.destination })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_read_as_it_is_written() {
        let end =
            End { device: "lan1".into(), source: [2, 0, 0, 0, 0, 0xfe], destination: [2, 1, 2, 3, 4, 5] };
        assert_eq!(end.to_string(), "lan1,02:00:00:00:00:fe,02:01:02:03:04:05");
        assert_eq!(end.to_string().parse::<End>().expect("written by ourselves"), end);
        for wrong in ["lan1", "lan1,02:00,02:00", "lan1,02:01:02:03:04:05,02:01:02:03:04:05,more"] {
            assert!(wrong.parse::<End>().is_err(), "{wrong}");
        }
    }
}
