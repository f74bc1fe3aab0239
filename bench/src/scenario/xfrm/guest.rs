//! What is measured in the guest. Both pairs of gateways stay up, each in a lab of its own, and take turns: whoever is not
//! asked costs nothing, and under emulation it takes longer to set gateways up than to measure them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sekisho_tests::gateway::settings::Settings;
use sekisho_tests::lab::Lab;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::traffic::ping;

use super::{MARK, SCENARIO, rules};
use crate::contender::{Contender, Encryption, Wanted, sekisho, strongswan};
use crate::flood::{HEADERS, flood};
use crate::forwarder::nftables;
use crate::generator::Arriving;
use crate::iperf::{Server, Transfer};
use crate::perf::capture;
use crate::perf::report::{Better, Figure, Report};
use crate::perf::session::Session;
use crate::perf::statistics::quantile;
use crate::scenario::goodput::{round_trips_under, wires_at};
use crate::scenario::life::event::{self, Stand};
use crate::scenario::life::loaded::{self, Told};

/// ESP of both: AES-128-GCM, extended sequence numbers, a key exchange of its own.
const ESP: &str = "aes128gcm16-x25519-esn";
/// Packets that strongSwan takes out of order, as many as ours: unless told otherwise it takes 32, and two emulated processors
/// reorder more.
const REPLAY_WINDOW: &str = "replay_window = 1024";
/// Seconds of one sample: iperf3 knows whole ones only.
const SAMPLE: Duration = Duration::from_secs(1);
/// Most of the time goes into setting up, and an emulated processor's rates vary: more rounds than elsewhere.
const ROUNDS: usize = 6;
/// What is said behind the cases of `life` that are measured here.
const PLACE: &str = " (kernel's ESP, in a guest)";
/// How often strongSwan renews its keys beside a load.
const RENEWALS: usize = 1;
/// Length of the flood's IP packets, as in goodput: 64 bytes of UDP.
const LENGTH: usize = 64 + HEADERS;
/// Echo requests until it is said that nothing comes through.
const FIRST_PINGS: usize = 10;

/// Two gateways at work, and the lab they are in, which ends last.
struct Side {
    contender: Contender,
    _server: Server,
    tunnel: Raised,
    lab: Lab,
}

/// Its gateways; of ours the peer's settings, too.
enum Raised {
    Sekisho(sekisho::Pair, Box<Settings>),
    StrongSwan(strongswan::Pair),
}

/// Measures, and prints the report after each round.
///
/// # Errors
/// When a contender does not come up. What fails later is a failure in the report.
pub fn run(quick: bool) -> Result<()> {
    let mut session = Session::new(quick);
    session.enter(SCENARIO);
    let mut sides = Vec::new();
    for contender in [Contender::Sekisho, Contender::StrongSwan] {
        session.progress(format_args!("setting up {}", contender.name()));
        sides.push(Side::raise(contender).with_context(|| contender.name().to_owned())?);
    }
    for side in &sides {
        let device = Place::Clinic.name();
        let how = capture::prove(&side.lab, device).context("what claims to be encrypted")?;
        session.proved(format_args!("{} is encrypted", side.contender.name()), how);
    }
    let order: Vec<usize> = (0..sides.len()).collect();
    for (round, index) in Session::turns_in(ROUNDS, &order) {
        let side = &sides[index];
        session.progress(format_args!("round {}: {}", round + 1, side.contender.name()));
        if let Err(error) = side.measure(&mut session) {
            session.failed(side.contender.name(), format_args!("{error:#}"));
        }
        println!("{}", line(session.report())?);
    }
    for side in sides {
        let name = side.contender.name();
        session.progress(format_args!("beside a load: {name}"));
        if let Err(error) = side.live(&mut session) {
            session.failed(format_args!("{name} beside a load"), format_args!("{error:#}"));
        }
        println!("{}", line(session.report())?);
    }
    Ok(())
}

/// The report as one line.
pub(in crate::scenario) fn line(report: &Report) -> Result<String> {
    Ok(format!("{MARK}{}", serde_json::to_string(report).context("writing JSON")?))
}

impl Side {
    fn raise(contender: Contender) -> Result<Self> {
        let lab = Lab::up(if contender == Contender::Sekisho { "xfrmours" } else { "xfrmswan" })?;
        wires_at(&lab)?;
        let tunnel = match contender {
            Contender::Sekisho => {
                let wanted = Wanted { encryption: Encryption::Aes128Gcm, in_udp: false };
                let [clinic, centre] = event::settings(sekisho::settings(&lab, wanted)?).map(|settings| {
                    let esp = vec![ESP.to_owned()];
                    Settings { esp, datapath: "kernel".into(), ..settings }
                });
                Raised::Sekisho(sekisho::Pair::with(&lab, &clinic, &centre)?, Box::new(centre))
            }
            _ => {
                let pair = strongswan::Pair::with(&lab, ESP, &[REPLAY_WINDOW])?;
                nftables::put(&lab.at(Place::Clinic), &rules::gateway(rules::CLINIC))?;
                nftables::put(&lab.at(Place::Centre), &rules::gateway(rules::CENTRE))?;
                Raised::StrongSwan(pair)
            }
        };
        let server = Server::start(&lab)?;
        let side = Self { contender, _server: server, tunnel, lab };
        let server = Place::Server.address(Family::V4);
        let through = ping::ping(&side.lab.at(Place::Lan1), server, FIRST_PINGS, Duration::from_millis(100))?;
        ensure!(through.answered > 0, "nothing comes through the tunnel");
        // The same decisions: who may not is refused by both.
        ping::expect_silence(&side.lab.at(Place::Lan2), server).context("from LAN2, which no rule allows")?;
        Ok(side)
    }

    fn measure(&self, session: &mut Session) -> Result<()> {
        let transfer = Transfer { streams: 1, reverse: false, time: SAMPLE };
        let case = "TCP, 1 stream";
        let transferred = transfer.run(&self.lab).context(case)?;
        session.record(
            &self.figure(case, "goodput", "Mbit/s", Better::Higher),
            transferred.bits_per_second / 1e6,
        );
        let case = &format!("UDP flood, {LENGTH} B packets");
        let flooded =
            flood(&self.lab, Arriving::Packets, &[LENGTH], None, SAMPLE).with_context(|| case.clone())?;
        session.record(&self.figure(case, "arrived", "kpps", Better::Higher), flooded.rate() / 1e3);
        session.record(&self.figure(case, "offered", "kpps", Better::Neither), flooded.offered() / 1e3);
        let case = "latency beside 1 TCP stream";
        let outcome = round_trips_under(&self.lab, transfer, SAMPLE).context(case)?;
        let times: Vec<f64> = outcome.round_trips.iter().map(|time| time.as_secs_f64() * 1e3).collect();
        for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
            let time = quantile(&times, share).context("no round trip under load")?;
            session.record(&self.figure(case, name, "ms", Better::Lower), time);
        }
        Ok(())
    }

    /// What traffic notices of its life, after all else.
    fn live(self, session: &mut Session) -> Result<()> {
        let Self { contender, tunnel, lab, .. } = self;
        let told = Told { contender, place: PLACE, is_relative: true };
        match tunnel {
            Raised::Sekisho(pair, centre) => {
                loaded::in_guest(session, told, &lab, &mut Stand::of(&lab, pair, *centre))
            }
            Raised::StrongSwan(pair) => loaded::strongswans(session, told, &lab, &pair, RENEWALS),
        }
    }

    fn figure<'a>(&self, case: &'a str, name: &'a str, unit: &'a str, better: Better) -> Figure<'a> {
        Figure { scenario: SCENARIO, case, contender: self.contender.name(), name, unit, better, at: None }
    }
}
