//! By which way decrypted packets come into the kernel, and through it to a LAN port: as the engine hands them over, and what
//! else could be done. Nothing is decrypted and nothing judged: where the filter would stand is a redirect without any
//! question, so that what is compared is the way itself.

mod entrance;
mod tap;

use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use sekisho_tests::lab::Lab;
use sekisho_tests::lab::plan::Place;
use sekisho_tests::lab::topology;

use self::entrance::{Entrance, Kind, port};
use crate::generator::{Arriving, Generator};
use crate::perf::report::{Better, Figure};
use crate::perf::session::Session;

const SCENARIO: &str = "inward";
/// Name of the lab.
const LAB: &str = "perfin";
/// Bytes of the IP packets: one of a flood, and one that fills a tunnel.
const LENGTHS: [usize; 2] = [92, 1400];
/// Many short rounds: from one moment to the next the machine differs more than the ways do.
const ROUNDS: [usize; 2] = [7, 31];
const SAMPLE: Duration = Duration::from_millis(40);
/// Before each sample, so that nobody pays for what the one before has left in the caches.
const WARM_UP: Duration = Duration::from_millis(5);
const CPU: (&str, &str, Better) = ("CPU time a packet", "ns", Better::Lower);
const LOST: (&str, &str, Better) = ("lost", "%", Better::Lower);

/// Measures.
///
/// # Errors
/// When a way cannot be laid, or does not lead to the end.
pub fn run(session: &mut Session) -> Result<()> {
    let lab = Lab::up(LAB)?;
    let sink = lay(&lab)?;
    let mut entrances = Vec::new();
    for kind in Kind::ALL {
        session.progress(format_args!("laying {}", kind.name()));
        entrances.push(Entrance::open(kind, &lab)?);
    }
    let [few, many] = ROUNDS;
    for length in LENGTHS {
        let case = format!("TCP segments in IPv4 packets of {length} B");
        session.progress(&case);
        let all: Vec<usize> = (0..entrances.len()).collect();
        for (_, index) in Session::turns_in(if session.is_quick() { few } else { many }, &all) {
            let entrance = &mut entrances[index];
            entrance.send(&lab, &sink, length, WARM_UP)?;
            let sent = entrance.send(&lab, &sink, length, SAMPLE)?;
            for ((name, unit, better), value) in [(CPU, sent.cpu_ns()), (LOST, sent.lost())] {
                let contender = entrance.kind().name();
                let figure =
                    Figure { scenario: SCENARIO, case: &case, contender, name, unit, better, at: None };
                session.record(&figure, value);
            }
        }
    }
    Ok(())
}

/// Two LAN ports that are alike, and behind each a sink as a NIC would be: what XDP has redirected is counted by XDP, and an
/// sk_buff before it is copied or merged with others.
fn lay(lab: &Lab) -> Result<Generator> {
    let clinic = lab.at(Place::Clinic);
    topology::configure(lab, Place::Clinic)?;
    let mut sink = Generator::load(1)?;
    for (arriving, host) in [(Arriving::Frames, Place::Lan1), (Arriving::Packets, Place::Lan2)] {
        topology::behave_like_a_cable(&clinic, port(arriving))?;
        if arriving == Arriving::Packets {
            lab.at(host).output(Command::new("ethtool").args(["-K", "eth0", "gro", "off"]))?;
        }
        sink.sink(&lab.at(host), "eth0", arriving)?;
    }
    Ok(sink)
}
