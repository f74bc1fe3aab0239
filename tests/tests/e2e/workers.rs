//! Gateways whose NICs have two receive queues: a worker of the engine for each, and one tunnel between them.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use libtest_mimic::Trial;
use sekisho_tests::gateway::Sekishod;
use sekisho_tests::gateway::certificates::KeyType;
use sekisho_tests::gateway::settings::{ECHO, is_kernels_path};
use sekisho_tests::gateway::status::Status;
use sekisho_tests::lab::namespace::Namespace;
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::lab::{Lab, topology};
use sekisho_tests::scenario::site::{Peer, Site, certified};
use sekisho_tests::scenario::{rekey, tunnel};
use sekisho_tests::stage;

/// Queues of every device.
pub(super) const QUEUES: u32 = 2;
/// Flows of the load: that all of them hash to one queue happens once in 2 to the 31st.
const FLOWS: usize = 32;
/// Datagrams of a flow that are on their way at a time.
const BURST: u32 = 4;
/// Rest between two rounds: a load that loses nothing by itself.
const PAUSE: Duration = Duration::from_millis(10);
/// Patience for one echo.
const ANSWER: Duration = Duration::from_secs(2);
/// A rekey's exchange, on a busy machine.
const RENEWED: Duration = Duration::from_secs(8);
/// How long after it loss would still show.
pub(super) const AFTER: Duration = Duration::from_millis(700);
/// The router spreads ESP by SPI: that so many SAs of one direction hash to one queue happens once in 2 to the 15th.
const RENEWALS_MAX: usize = 16;
/// Packets on a queue that are no accident.
const MANY: u64 = 100;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("workers::two_carry_one_tunnel", || stage::words(with_queues(QUEUES, on_the_site))),
        Trial::test("workers::another_queue_comes_by_a_reload", || stage::words(with_queues(1, widened))),
    ]
}

/// Does something with a tunnel between gateways whose NICs have so many queues.
fn with_queues(queues: u32, on_the_site: fn(&mut Site) -> Result<String>) -> Result<String> {
    with_keys(queues, [&[], &[]], on_the_site)
}

/// The same, where the connection has these further keys at the clinic and at the centre.
pub(super) fn with_keys(
    queues: u32,
    keys: [&[&str]; 2],
    on_the_site: fn(&mut Site) -> Result<String>,
) -> Result<String> {
    if is_kernels_path() {
        return Ok("not on this data path: the kernel has no workers".into());
    }
    let lab = Lab::up("workers")?;
    topology::widen(&lab, queues)?;
    let [mut clinic, mut centre] = certified(&lab, KeyType::Ecdsa)?;
    for (settings, keys) in [&mut clinic, &mut centre].into_iter().zip(keys) {
        settings.more_keys[0].extend(keys.iter().map(|key| (*key).to_owned()));
    }
    let mut site = Site::between(lab, &clinic, &centre)?;
    let outcome = on_the_site(&mut site);
    if outcome.is_err() {
        site.lab.save_logs()?;
    }
    outcome
}

fn on_the_site(site: &mut Site) -> Result<String> {
    site.await_tunnel()?;
    let why = have_workers(site, 2)?;
    tunnel::page_unseen(site)?;

    let renewed = rekey::child_without_loss(site)?;
    let load = Load::start(&site.at(Place::Lan1))?;
    let again = renew(site);
    let echoed = load.stop()?;
    again?;

    for (gateway, lan) in [(&site.clinic, "lan1"), (sekisho(site)?, "lan")] {
        let status = gateway.status()?;
        for queue in 0..QUEUES {
            for counter in [
                format!("{lan}-{queue}-rx-packets"),
                format!("wan-{queue}-tx-packets"),
                format!("wan-{queue}-rx-packets"),
                format!("sekisho1-{queue}-tx-packets"),
            ] {
                let count = status.engine(&counter);
                ensure!(count > MANY, "{counter} is {count} at the gateway with {lan}");
            }
        }
        for reason in ["replay", "integrity", "selector", "no-path", "ring-full"] {
            let dropped = status.engine(&format!("dropped-{reason}"));
            ensure!(dropped == 0, "{dropped} frames dropped as {reason} at the gateway with {lan}");
        }
    }

    // One worker, and two again, of one of the gateways.
    let text = std::fs::read_to_string(site.clinic.config())?;
    for (key, workers) in [("engine_workers = 1\n", 1), ("", 2)] {
        let changed = text.replacen("[gateway]\n", &format!("[gateway]\n{key}"), 1);
        std::fs::write(site.clinic.config(), changed)?;
        site.clinic.sekisho(&["reload"])?;
        site.await_tunnel()?;
        let words = of(&site.clinic.status()?, workers)?;
        ensure!((words == "configured") == (workers == 1), "{workers} workers, {words}");
        tunnel::pages(site)?;
    }
    Ok(format!("two workers each ({why}); {echoed} datagrams of {FLOWS} flows echoed in order; {renewed}"))
}

/// `ethtool -L` at a gateway's WAN, and a reload of the same file.
fn widened(site: &mut Site) -> Result<String> {
    site.await_tunnel()?;
    have_workers(site, 1)?;
    let unchanged = site.clinic.sekisho(&["reload", "--check"])?;
    ensure!(unchanged.contains("nothing has changed"), "changed before anybody changed it: {unchanged}");

    topology::widen_wan(&site.lab, QUEUES)?;
    let before = site.child_spis()?;
    let shown = site.clinic.sekisho(&["reload", "--check"])?;
    ensure!(shown.contains("~ gateway (engine)"), "not shown before it is done: {shown}");
    ensure!(site.child_spis()? == before, "the tunnel was opened again by a check");
    site.clinic.sekisho(&["reload"])?;
    site.await_tunnel()?;
    let why = of(&site.clinic.status()?, u64::from(QUEUES))?.to_owned();
    tunnel::pages(site)?;

    let before = site.child_spis()?;
    let again = site.clinic.sekisho(&["reload"])?;
    ensure!(again.contains("nothing has changed"), "changed once more: {again}");
    ensure!(site.child_spis()? == before, "the tunnel was opened again for nothing");
    Ok(format!("{QUEUES} workers after a reload ({why})"))
}

/// New keys, asked for by the one and by the other gateway in turn, until ESP has come by each queue of both.
fn renew(site: &Site) -> Result<()> {
    let both = [(&site.clinic, "centre"), (sekisho(site)?, "clinic")];
    for (turn, (gateway, connection)) in both.into_iter().cycle().take(RENEWALS_MAX).enumerate() {
        if turn >= both.len() && has_come_by_all(&both)? {
            break;
        }
        let before = site.child_spis()?;
        gateway.sekisho(&["rekey", connection])?;
        until(RENEWED, "new keys", || {
            let up = site.clinic.status()?.connection("centre")?.state() == "up";
            Ok((up && site.child_spis()? != before).then_some(()))
        })?;
        // What was sealed with the old keys has arrived.
        thread::sleep(AFTER);
    }
    Ok(())
}

fn has_come_by_all(gateways: &[(&Sekishod, &str)]) -> Result<bool> {
    let mut all = true;
    for (gateway, _) in gateways {
        let status = gateway.status()?;
        all &= (0..QUEUES).all(|queue| status.engine(&format!("wan-{queue}-rx-packets")) > MANY);
    }
    Ok(all)
}

pub(super) fn sekisho(site: &Site) -> Result<&Sekishod> {
    match &site.centre {
        Peer::Sekisho(centre) => Ok(centre),
        Peer::StrongSwan(_) => Err(anyhow!("strongSwan is at the centre")),
    }
}

/// Both gateways have so many workers; why.
fn have_workers(site: &Site, workers: u64) -> Result<String> {
    of(&sekisho(site)?.status()?, workers)?;
    let shown = site.clinic.sekisho(&["status"])?;
    let why = of(&site.clinic.status()?, workers)?;
    ensure!(shown.contains(&format!("workers {workers}: {why}")), "not in the table: {shown}");
    Ok(why)
}

fn of(status: &Status, workers: u64) -> Result<String> {
    let (count, why) = status.workers().context("the status shows no workers")?;
    ensure!(count == workers, "{count} workers in place of {workers}: {why}");
    Ok(why.to_owned())
}

/// Numbered datagrams of many flows to the server's echo and back, until it is stopped.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64>>,
}

impl Load {
    pub(super) fn start(host: &Namespace) -> Result<Self> {
        let flows: Vec<UdpSocket> = host.run(|| {
            (0..FLOWS)
                .map(|_| {
                    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
                    socket.connect(Place::Server.socket(Family::V4, ECHO))?;
                    socket.set_read_timeout(Some(ANSWER))?;
                    Ok(socket)
                })
                .collect::<std::io::Result<_>>()
                .context("sockets of the load")
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = stop.clone();
            move || {
                let mut echoed = 0;
                let mut next = 0;
                while !stop.load(Ordering::Relaxed) {
                    round(&flows, next..next + BURST)?;
                    next += BURST;
                    echoed += FLOWS as u64 * u64::from(BURST);
                    thread::sleep(PAUSE);
                }
                Ok(echoed)
            }
        });
        Ok(Self { stop, thread })
    }

    /// How many datagrams there were; each came back, in its flow's order.
    pub(super) fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the load panicked"))?
    }
}

fn round(flows: &[UdpSocket], numbers: std::ops::Range<u32>) -> Result<()> {
    for number in numbers.clone() {
        for flow in flows {
            flow.send(&number.to_be_bytes()).context("sending")?;
        }
    }
    for (index, flow) in flows.iter().enumerate() {
        for number in numbers.clone() {
            let mut buffer = [0; 4];
            flow.recv(&mut buffer).with_context(|| format!("datagram {number} of flow {index} got lost"))?;
            let came = u32::from_be_bytes(buffer);
            ensure!(came == number, "flow {index}: datagram {came} came in place of {number}");
        }
    }
    Ok(())
}
