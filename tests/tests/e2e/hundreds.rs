//! Hundreds of peers at one gateway, each with an IKE SA, a child SA and a network of its own: everybody's packets pass both
//! ways while everybody's keys are renewed, and none is lost or comes to another.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use sekisho_tests::gateway::Sekishod;
use sekisho_tests::gateway::certificates::write_psk;
use sekisho_tests::gateway::settings::datapath;
use sekisho_tests::initiators::{Exchanged, Initiators, Inside, PSK, Questions, Tunnel, centre_of_networks};
use sekisho_tests::lab::Lab;
use sekisho_tests::lab::patience::stretch;
use sekisho_tests::lab::plan::Place;
use sekisho_tests::stage;

use super::load::grown;

const PEERS: u32 = 500;
/// Of them, those whose handshake or rekeying is under way at a time: fewer than from which on cookies are asked for.
const AT_ONCE: usize = 24;
/// Questions under way at a time, both ways together: far from what would fill a queue.
const QUESTIONS: usize = 32;
/// Bytes of each.
const BYTES: usize = 64;
/// Those who leave while the others go on.
const LEAVING: u32 = 100;
/// Answers that each has had by either way until it is believed.
const FEWEST: u64 = 3;
/// Until all are done, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long traffic goes on by itself before and after something.
const TIME: Duration = Duration::from_secs(1);

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test("hundreds::of_peers_with_traffic_while_keys_are_renewed", || stage::words(hundreds()))]
}

fn hundreds() -> Result<String> {
    let lab = Lab::up("hundreds")?;
    let outcome = in_the_lab(&lab);
    if outcome.is_err() {
        lab.save_logs()?;
    }
    outcome
}

fn in_the_lab(lab: &Lab) -> Result<String> {
    let psk = lab.dir().join("shared.psk");
    write_psk(&psk, PSK)?;
    let file = |name: &str| centre_of_networks(name, &datapath(), &psk, PEERS);
    let mut centre = Sekishod::with_file(lab, Place::Centre, file, "info")?;
    centre.launch(lab)?;
    let mut peers = Initiators::new(lab, PEERS, Inside::Network)?;
    let patience = PATIENCE * stretch();

    let (tunnels, up) = peers.connect(0..PEERS, AT_ONCE, patience)?;
    let everybody = Questions { initiators: 0..PEERS, at_once: QUESTIONS, bytes: BYTES };
    peers.start_traffic(lab, everybody.clone())?;
    await_all(&mut peers, patience)?;
    let first = whole(&centre, peers.end_traffic()?, "after everybody has connected")?;

    // Keys of everybody's IKE SA and child SA, with traffic from before the first to after the last.
    peers.start_traffic(lab, everybody.clone())?;
    peers.go_on(TIME)?;
    let (tunnels, renewed) = peers.rekey(&tunnels, AT_ONCE, patience)?;
    peers.settle(PEERS, patience)?;
    await_all(&mut peers, patience)?;
    peers.go_on(TIME)?;
    let meanwhile = whole(&centre, peers.end_traffic()?, "while keys were renewed")?;

    // Some leave. The others' packets are not touched by it.
    let staying = PEERS - LEAVING;
    let (leaving, _): (Vec<Tunnel>, Vec<Tunnel>) =
        tunnels.into_iter().partition(|tunnel| tunnel.initiator >= staying);
    peers.start_traffic(lab, Questions { initiators: 0..staying, ..everybody })?;
    peers.go_on(TIME)?;
    peers.close_some(&leaving)?;
    await_all(&mut peers, patience)?;
    let after = whole(&centre, peers.end_traffic()?, "while others left")?;

    let status = centre.status()?;
    ensure!(status.connections_up() == staying as usize, "{} are up", status.connections_up());
    for number in 0..staying {
        let name = format!("c{number}");
        let connection = status.connection(&name)?;
        for way in ["inbound", "outbound"] {
            ensure!(connection.child_sum(&format!("{way}/packets")) > 0, "{name}: nothing {way}");
            for reason in ["replay", "integrity", "selector", "malformed", "expired", "unsent"] {
                let refused = connection.child_sum(&format!("{way}/{reason}"));
                ensure!(refused == 0, "{name}: {refused} {way} under {reason}");
            }
        }
    }
    let ended = centre.stop()?;
    ensure!(ended.success(), "the centre ended with {ended}");
    let answered = first.answered + meanwhile.answered + after.answered;
    Ok(format!(
        "{PEERS} up after {:.1} s, all keys renewed in {:.1} s; {answered} questions both ways, none lost",
        up.as_secs_f64(),
        renewed.as_secs_f64()
    ))
}

/// Goes on until everybody has been answered both ways, a few times.
fn await_all(peers: &mut Initiators, patience: Duration) -> Result<()> {
    let before = peers.exchanged().map_or(0, |exchanged| exchanged.fewest);
    let begun = Instant::now();
    loop {
        peers.go_on(Duration::from_millis(100))?;
        let exchanged = peers.exchanged().unwrap_or_default();
        if exchanged.fewest >= before + FEWEST {
            return Ok(());
        }
        ensure!(begun.elapsed() < patience, "not everybody is answered: {exchanged:?}");
    }
}

/// Nothing of it was lost, nor came to another. What the centre has dropped since its start is told otherwise.
fn whole(centre: &Sekishod, exchanged: Exchanged, when: &str) -> Result<Exchanged> {
    let Exchanged { lost, strays, told, answered, .. } = &exchanged;
    ensure!(
        *lost == 0 && *strays == 0,
        "{when}: {lost} are lost of {answered}, {strays} strays: {}",
        told.iter().cloned().chain(grown(centre, Vec::new())).collect::<Vec<_>>().join("; ")
    );
    Ok(exchanged)
}
