//! What goes through a tunnel between two gateways, and what it costs them: TCP, UDP and latency under load, ours beside what
//! a user would pick instead.
//!
//! ```text
//!  LAN1 ── gateway ══ one cable ══ gateway ── server
//! ```
//!
//! Hosts and both gateways share this machine's processors, so every figure is of all of them together. Ours has its
//! filter in force; the others are plain routers.

mod ceiling;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sekisho_tests::lab::Lab;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::lab::topology::Line;
use sekisho_tests::traffic::ping::{self, Outcome, Stream};

use crate::contender::{Contender, Encryption, Tunnel, Wanted};
use crate::flood::{self, flood};
use crate::iperf::{Server, Transfer};
use crate::perf::capture;
use crate::perf::cpu::{Meter, Spent};
use crate::perf::report::{Better, Figure};
use crate::perf::session::Session;
use crate::perf::statistics::quantile;

/// Name of the scenario's lab.
const LAB: &str = "goodput";
/// As the report has it.
const SCENARIO: &str = "goodput";
/// Between two questions while latency is measured.
const PING_INTERVAL: Duration = Duration::from_millis(2);
/// The load begins so long before the latency beside it is measured.
const WARM_UP: Duration = Duration::from_millis(300);
/// Questions until the tunnel answers: the first packet opens those of WireGuard.
const FIRST_PINGS: usize = 20;
/// Paced rates, thousand packets a second.
const RATES: [f64; 4] = [25.0, 50.0, 100.0, 200.0];
/// IP packets of the floods: 64 bytes of UDP, 512, and what fits every tunnel unfragmented.
const LENGTHS: [usize; 3] = [64 + flood::HEADERS, 512 + flood::HEADERS, 1400];

/// Who is measured with what. Each is raised anew for each round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    contender: Contender,
    wanted: Wanted,
    /// Beside the main ones, which are measured in all cases: these in those that encryption decides.
    variant: bool,
}

/// As a user would have it first: ESP by AES-128-GCM, WireGuard by the one cipher it has.
fn main_entries() -> Vec<Entry> {
    Contender::ALL
        .into_iter()
        .map(|contender| {
            let encryption = match contender {
                Contender::Sekisho | Contender::StrongSwan => Encryption::Aes128Gcm,
                _ => Encryption::ChaCha20Poly1305,
            };
            let wanted = Wanted { encryption, in_udp: contender != Contender::Sekisho };
            Entry { contender, wanted, variant: false }
        })
        .chain([Entry {
            contender: Contender::Relay,
            wanted: Wanted { encryption: Encryption::Aes128Gcm, in_udp: false },
            variant: false,
        }])
        .collect()
}

/// Enough for a ratio: gateways are raised anew in each, and there are many.
const ROUNDS: usize = 3;

/// Every cipher, in UDP and not, by those who have the choice.
fn variants() -> Vec<Entry> {
    let all = Encryption::ALL.into_iter().flat_map(|encryption| {
        [false, true].map(|in_udp| Wanted { encryption, in_udp }).into_iter().flat_map(|wanted| {
            let able = Contender::ALL.into_iter().filter(move |contender| contender.can(wanted));
            able.map(move |contender| Entry { contender, wanted, variant: true })
        })
    });
    all.collect()
}

/// Measures.
///
/// # Errors
/// When a lab cannot be laid. What a contender fails at is its own failure in the report.
pub fn run(session: &mut Session) -> Result<()> {
    ceiling::run(session)?;
    let mut entries = main_entries();
    if session.is_quick() {
        entries.retain(|entry| !matches!(entry.contender, Contender::WireguardGo | Contender::BoringTun));
        session.skip("wireguard-go, boringtun, other ciphers", "only in a full run");
    } else {
        entries.extend(variants());
    }
    let mut able = Vec::new();
    for entry in entries {
        match entry.contender.version() {
            Ok(version) => {
                session.version(entry.contender.name(), version);
                able.push(entry);
            }
            Err(error) => session.skip(entry.contender.name(), format_args!("{error:#}")),
        }
    }
    for (round, entry) in Session::turns_in(ROUNDS, &able) {
        let title = title(&entry);
        session.progress(format_args!("round {}: {title}", round + 1));
        if let Err(error) = measure(session, round, entry) {
            session.failed(&title, format_args!("{error:#}"));
        }
    }
    ceiling::fractions(session)
}

fn title(entry: &Entry) -> String {
    let Entry { contender, wanted, .. } = entry;
    if *contender == Contender::Relay {
        return contender.name().into();
    }
    format!("{}, {}", contender.name(), cipher(*wanted))
}

fn cipher(wanted: Wanted) -> String {
    format!("{}{}", wanted.encryption.name(), if wanted.in_udp { " in UDP" } else { "" })
}

/// One contender in one round.
fn measure(session: &mut Session, round: usize, entry: Entry) -> Result<()> {
    // Once each: some variants are what a main entry is.
    let is_main = |main: &Entry| (main.contender, main.wanted) == (entry.contender, entry.wanted);
    let is_proved = entry.variant && main_entries().iter().any(is_main);
    if round == 0 && entry.contender != Contender::Relay && !is_proved {
        // With a router between, at which a tap can look.
        let lab = Lab::up(LAB)?;
        let _tunnel = raise(&lab, entry)?;
        let how = capture::prove(&lab, "clinic").context("what claims to be encrypted")?;
        session.proved(format_args!("{} is encrypted", title(&entry)), how);
    }
    let lab = Lab::by(LAB, Line::Straight)?;
    wires_at(&lab)?;
    let server = Server::start(&lab)?;
    let tunnel = raise(&lab, entry)?;
    let bench = Bench { lab: &lab, processes: tunnel.processes(), entry };
    let measured = match entry.variant {
        true => bench.variant(session),
        false => bench.all(session),
    };
    drop(server);
    measured
}

/// Its tunnel, through which packets go.
fn raise(lab: &Lab, entry: Entry) -> Result<Box<dyn Tunnel>> {
    let tunnel = entry.contender.raise(lab, entry.wanted)?;
    let server = Place::Server.address(Family::V4);
    let first = ping::ping(&lab.at(Place::Lan1), server, FIRST_PINGS, Duration::from_millis(50))?;
    ensure!(first.answered > 0, "nothing comes through the tunnel");
    Ok(tunnel)
}

/// Gateways get wires that carry no packet above their MTU either: what a contender hands over as one must be cut before it
/// counts as sent.
///
/// # Errors
/// When ethtool is not there, or a device.
pub fn wires_at(lab: &Lab) -> Result<()> {
    for (place, devices) in [(Place::Clinic, ["lan1", "wan"]), (Place::Centre, ["lan", "wan"])] {
        for device in devices {
            let mut ethtool = Command::new("ethtool");
            ethtool.arg("-K").arg(device).args(["tso", "off", "gso", "off", "tx", "off"]);
            lab.at(place).output(&mut ethtool)?;
        }
    }
    Ok(())
}

/// Echo requests from LAN1 to the server for so long, beside a transfer.
///
/// # Errors
/// When either breaks off.
pub fn round_trips_under(lab: &Lab, load: Transfer, time: Duration) -> Result<Outcome> {
    let load = Transfer { time: time + WARM_UP * 2, ..load };
    std::thread::scope(|scope| {
        let loading = scope.spawn(|| load.run(lab));
        std::thread::sleep(WARM_UP);
        let stream = Stream::start(&lab.at(Place::Lan1), Place::Server.address(Family::V4), PING_INTERVAL)?;
        std::thread::sleep(time);
        let outcome = stream.stop();
        loading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).context("the transfer")?;
        outcome
    })
}

const ONE_STREAM: &str = "TCP, 1 stream";

fn flood_case(length: usize) -> String {
    format!("UDP flood, {length} B packets")
}

/// One contender at work.
struct Bench<'a> {
    lab: &'a Lab,
    processes: Vec<u32>,
    entry: Entry,
}

impl Bench<'_> {
    fn all(&self, session: &mut Session) -> Result<()> {
        let time = session.sample();
        let one = Transfer { streams: 1, reverse: false, time };
        self.tcp(session, ONE_STREAM, one)?;
        if !session.is_quick() {
            self.tcp(session, "TCP, 4 streams", Transfer { streams: 4, ..one })?;
            self.tcp(session, "TCP, 1 stream, server to LAN1", Transfer { reverse: true, ..one })?;
        }
        for length in LENGTHS {
            // The shortest decides what a change costs a packet, the longest what it costs a byte.
            if !session.is_quick() || length != LENGTHS[1] {
                self.flood(session, &flood_case(length), &[length])?;
            }
        }
        if !session.is_quick() {
            self.flood(session, "UDP flood, IMIX", &flood::IMIX)?;
            self.paced(session)?;
        }
        self.latency(session, one)
    }

    fn variant(&self, session: &mut Session) -> Result<()> {
        let cipher = cipher(self.entry.wanted);
        let one = Transfer { streams: 1, reverse: false, time: session.sample() };
        self.tcp(session, &format!("TCP, 1 stream: {cipher}"), one)?;
        let length = LENGTHS[0];
        self.flood(session, &format!("UDP flood, {length} B packets: {cipher}"), &[length])
    }

    fn figure<'a>(&self, case: &'a str, name: &'a str, unit: &'a str, better: Better) -> Figure<'a> {
        let contender = self.entry.contender.name();
        Figure { scenario: SCENARIO, case, contender, name, unit, better, at: None }
    }

    fn tcp(&self, session: &mut Session, case: &str, transfer: Transfer) -> Result<()> {
        let meter = Meter::start(&self.processes)?;
        let transferred = transfer.run(self.lab).with_context(|| case.to_owned())?;
        let spent = meter.stop()?;
        let goodput = transferred.bits_per_second / 1e6;
        session.record(&self.figure(case, "goodput", "Mbit/s", Better::Higher), goodput);
        let bytes = transferred.bits_per_second / 8.0 * transfer.time.as_secs_f64();
        let each = spent.processes * spent.time.as_secs_f64() / bytes.max(1.0);
        session.record(&self.figure(case, "CPU of the gateways a byte", "ns", Better::Lower), each * 1e9);
        let line = ceiling::line(self.entry.contender, self.entry.wanted);
        let share = transferred.bits_per_second / line * 100.0;
        session.record(&self.figure(case, "of a line of 1 Gbit/s", "%", Better::Neither), share);
        self.spent(session, case, spent);
        session
            .record(&self.figure(case, "sent again", "segments", Better::Neither), transferred.retransmits);
        Ok(())
    }

    fn flood(&self, session: &mut Session, case: &str, lengths: &[usize]) -> Result<()> {
        let meter = Meter::start(&self.processes)?;
        let arriving = self.entry.contender.arriving();
        let flooded =
            flood(self.lab, arriving, lengths, None, session.sample()).with_context(|| case.to_owned())?;
        let spent = meter.stop()?;
        session.record(&self.figure(case, "arrived", "kpps", Better::Higher), flooded.rate() / 1e3);
        session.record(&self.figure(case, "offered", "kpps", Better::Neither), flooded.offered() / 1e3);
        let each = spent.processes * spent.time.as_secs_f64() / flooded.arrived.max(1) as f64;
        session.record(&self.figure(case, "CPU of the gateways each", "µs", Better::Lower), each * 1e6);
        self.spent(session, case, spent);
        Ok(())
    }

    /// How much is lost at which rate.
    fn paced(&self, session: &mut Session) -> Result<()> {
        let length = LENGTHS[0];
        let case = format!("UDP paced, {length} B packets");
        for rate in RATES {
            let arriving = self.entry.contender.arriving();
            let flooded = flood(self.lab, arriving, &[length], Some(rate * 1e3), session.sample() / 2)
                .with_context(|| case.clone())?;
            // Where the machine could not send that fast, the place would be a lie.
            if flooded.offered() < rate * 1e3 * 0.9 {
                session.skip(
                    format_args!("{}, {case}, {rate} kpps and more", self.entry.contender.name()),
                    "this machine could not send that fast beside the gateways",
                );
                break;
            }
            let figure = self.figure(&case, "lost", "%", Better::Lower);
            session.record(&Figure { at: Some(rate), ..figure }, flooded.lost());
        }
        Ok(())
    }

    /// Round trips of small packets beside a TCP transfer that takes all it can.
    fn latency(&self, session: &mut Session, load: Transfer) -> Result<()> {
        let case = "latency beside 1 TCP stream";
        let outcome = round_trips_under(self.lab, load, session.sample()).context(case)?;
        let times: Vec<f64> = outcome.round_trips.iter().map(|time| time.as_secs_f64() * 1e3).collect();
        let of = |share| quantile(&times, share).context("no round trip under load");
        session.record(&self.figure(case, "p99", "ms", Better::Lower), of(0.99)?);
        session.record(&self.figure(case, "p50", "ms", Better::Lower), of(0.5)?);
        let lost = outcome.lost() as f64 / outcome.sent as f64 * 100.0;
        session.record(&self.figure(case, "lost", "%", Better::Lower), lost);
        Ok(())
    }

    fn spent(&self, session: &mut Session, case: &str, spent: Spent) {
        for (name, value) in
            [("CPU of the gateways", spent.processes), ("softirq", spent.softirq), ("steal", spent.steal)]
        {
            session.record(&self.figure(case, name, "cores", Better::Neither), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_takes_part_with_something_it_can_do() {
        let entries = main_entries();
        let tunnels = || entries.iter().filter(|entry| entry.contender != Contender::Relay);
        assert_eq!(tunnels().count(), Contender::ALL.len());
        assert_eq!(entries.len(), Contender::ALL.len() + 1);
        assert!(tunnels().chain(&variants()).all(|entry| entry.contender.can(entry.wanted)));
    }

    #[test]
    fn the_matrix_has_every_cipher_in_udp_and_not() {
        let ours = |entry: &&Entry| entry.contender == Contender::Sekisho;
        let variants = variants();
        assert_eq!(variants.iter().filter(ours).count(), Encryption::ALL.len() * 2);
        let theirs = variants.iter().filter(|entry| entry.contender == Contender::StrongSwan);
        assert_eq!(theirs.count(), Encryption::ALL.len());
        let others = variants.iter().filter(|entry| entry.contender == Contender::GotaTun);
        assert_eq!(others.count(), 1);
    }
}
