//! The appliance's figure (S1): sixteen peers at once, traffic to and from each, from one gateway.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use sekisho_tests::gateway::Sekishod;
use sekisho_tests::gateway::certificates::write_psk;
use sekisho_tests::gateway::settings::{CENTRE_ID, Side, ports};
use sekisho_tests::lab::Lab;
use sekisho_tests::lab::patience::{stretch, until};
use sekisho_tests::lab::plan::{Family, Place, SERVER_NETWORKS};
use sekisho_tests::stage;
use sekisho_tests::traffic::ping::Stream;
use sekisho_tests::traffic::tap::Tap;

use super::negotiation::PSK;
use super::peer::{Peer, head};

const PEERS: u8 = 16;
/// All of them negotiate at once, on two processors.
const PATIENCE: Duration = Duration::from_secs(60);
/// One echo request in this time, each way, for each peer.
const INTERVAL: Duration = Duration::from_millis(20);
/// How long they go on.
const TIME: Duration = Duration::from_secs(3);

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test("sixteen::peers_at_once_with_traffic_to_each", || stage::words(at_once()))]
}

fn at_once() -> Result<String> {
    let lab = Lab::up("sixteen")?;
    let outcome = in_the_lab(&lab);
    if outcome.is_err() {
        lab.save_logs()?;
    }
    outcome
}

/// What a peer's gateway has beside its ports.
fn tables(peer: &Peer, psk: &Path) -> String {
    let (number, lan) = (peer.number, 100 + peer.number);
    format!(
        "[zones.centre]\nvpn = \"centre\"\n\n[[policy]]\nname = \"there\"\nfrom = \"lan\"\nto = \"centre\"\nallow = \
         [\"icmp/echo\"]\n\n[[policy]]\nname = \"back\"\nfrom = \"centre\"\nto = \"lan\"\nallow = [\"icmp/echo\"]\n\n\
         [connections.centre]\nstart = \"always\"\nlocal = {{ address = \"198.18.{number}.2\", id = \
         \"peer{number}.example\", psk = \"{psk}\" }}\nremote = {{ address = \"{centre}\", id = \"{CENTRE_ID}\", psk = \
         \"{psk}\" }}\n\n[[connections.centre.child]]\nname = \"main\"\nlocal = [\"192.168.{lan}.0/24\"]\nremote = \
         [\"{server}\"]\n",
        psk = psk.display(),
        centre = Place::Centre.address(Family::V4),
        server = SERVER_NETWORKS[0],
    )
}

/// One zone for all of them, one connection for each.
fn centre(name: &str, psk: &Path) -> String {
    let mut file = head(name) + &ports(Side::Centre, &[]);
    let names: Vec<String> = (0..PEERS).map(|number| format!("\"peer{number}\"")).collect();
    let _ = writeln!(file, "\n[zones.peers]\nvpn = [{}]", names.join(", "));
    for (name, from, to) in [("there", "peers", "lan"), ("back", "lan", "peers")] {
        let _ = writeln!(
            file,
            "\n[[policy]]\nname = \"{name}\"\nfrom = \"{from}\"\nto = \"{to}\"\nallow = [\"icmp/echo\"]"
        );
    }
    for number in 0..PEERS {
        let _ = writeln!(
            file,
            "\n[connections.peer{number}]\nstart = \"answer\"\nlocal = {{ address = \"{}\", id = \"{CENTRE_ID}\", psk = \
             \"{psk}\" }}\nremote = {{ address = \"198.18.{number}.2\", id = \"peer{number}.example\", psk = \"{psk}\" }}\n\n\
             [[connections.peer{number}.child]]\nname = \"main\"\nlocal = [\"{}\"]\nremote = [\"192.168.{}.0/24\"]",
            Place::Centre.address(Family::V4),
            SERVER_NETWORKS[0],
            100 + number,
            psk = psk.display(),
        );
    }
    file
}

fn in_the_lab(lab: &Lab) -> Result<String> {
    let psk = lab.dir().join("shared.psk");
    write_psk(&psk, PSK)?;
    let peers = (0..PEERS).map(|number| Peer::lay(lab, number)).collect::<Result<Vec<_>>>()?;
    let mut centre = Sekishod::with_file(lab, Place::Centre, |name| centre(name, &psk), "info")?;
    centre.launch(lab)?;
    let gateways =
        peers.iter().map(|peer| peer.start(lab, &tables(peer, &psk))).collect::<Result<Vec<_>>>()?;
    let ((), up) = until(PATIENCE, "all connections up", || {
        let up = centre.status()?.connections_up();
        ensure!(up == usize::from(PEERS), "{up} are up");
        Ok(Some(()))
    })?;

    let outside = Tap::start(&lab.at(Place::Internet), "centre", "no canary")?;
    let server = lab.at(Place::Server);
    let interval = INTERVAL * stretch();
    let mut streams = Vec::new();
    for peer in &peers {
        let there = Stream::start(&peer.host, Place::Server.address(Family::V4), interval)?;
        streams.push((peer, there, Stream::start(&server, peer.address(), interval)?));
    }
    std::thread::sleep(TIME * stretch());
    let mut carried = Vec::new();
    for (peer, there, back) in streams {
        let (there, back) = (there.stop()?, back.stop()?);
        ensure!(there.lost() + back.lost() == 0, "{}: {there}; the other way {back}", peer.name());
        ensure!(there.sent > 10 && back.sent > 10, "{}: too few to say anything", peer.name());
        carried.push((peer, (there.sent + back.sent) as u64));
    }
    let seen = outside.stop()?;
    ensure!(seen.leaks().is_empty(), "in clear at the carrier: {}", seen.leaks().join(", "));

    let (status, metrics) = (centre.status()?, centre.metrics()?);
    let total: u64 = carried.iter().map(|(_, packets)| packets).sum();
    for ((peer, packets), gateway) in carried.iter().zip(&gateways) {
        // Requests one way and replies the other, both ways.
        let (name, own) = (peer.name(), gateway.status()?);
        let [here, there] = [status.connection(&name)?, own.connection("centre")?];
        for direction in ["inbound", "outbound"] {
            let counted =
                [here, there].map(|connection| connection.child_sum(&format!("{direction}/packets")));
            ensure!(
                counted == [*packets; 2],
                "{name}: {packets} packets, {direction} {counted:?} are counted"
            );
            for reason in ["replay", "integrity", "selector", "malformed", "expired", "unsent"] {
                let refused = here.child_sum(&format!("{direction}/{reason}"));
                ensure!(refused == 0, "{name}: {refused} {direction} under {reason}");
            }
        }
        let labels = [("connection", &*name), ("direction", "in")];
        let shown = metrics.value("sekisho_child_sa_packets_total", &labels) as u64;
        ensure!(shown == *packets, "{name}: {packets} packets, {shown} in the metrics");
    }
    let esp = seen.esp();
    ensure!(esp == 2 * total, "{total} packets each way, {esp} of ESP at the carrier");
    let status = centre.stop().context("stopping the centre")?;
    ensure!(status.success(), "the centre ended with {status}");
    Ok(format!("{PEERS} up after {:.1} s; {total} pings, both ways at once, none lost", up.as_secs_f64()))
}
