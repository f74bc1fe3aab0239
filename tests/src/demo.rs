//! The demonstration: every scenario as one line of a table, with the figure it measured.

use std::io::{IsTerminal as _, Write as _};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::gateway::program;
use crate::gateway::settings::Settings;
use crate::lab::patience::until;
use crate::lab::plan::{Family, Place};
use crate::lab::process::Process;
use crate::lab::{Lab, interrupted, record};
use crate::scenario::site::{Peer, Services, Site};
use crate::scenario::{DEMONSTRATION, ENDING, Scenario};
use crate::traffic::http;

/// Name of the demonstration's lab.
pub const LAB: &str = "demo";

/// Who stands at the centre.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerKind {
    /// Our own gateway.
    Sekisho,
    /// strongSwan, with its ESP in user space.
    StrongSwan,
}

/// What is to be shown.
#[derive(Clone, Debug)]
pub struct Options {
    /// The lab stays up.
    pub keep: bool,
    /// Who stands at the centre.
    pub peer: PeerKind,
    /// `auto`, `kernel` or `engine`.
    pub datapath: String,
}

/// Shows everything; whether all of it held.
pub fn run(options: &Options) -> Result<bool> {
    let begin = Instant::now();
    println!("Laying the lab: a clinic with four LANs, the internet, a centre with a server …");
    let adapt = |settings: &mut Settings| {
        settings.datapath.clone_from(&options.datapath);
        settings.log_level = "info";
    };
    let mut site = match options.peer {
        PeerKind::Sekisho => Site::sekisho(LAB, adapt)?,
        PeerKind::StrongSwan => Site::strongswan(LAB, adapt)?,
    };
    let peer = match &site.centre {
        Peer::Sekisho(_) => "sekishod",
        Peer::StrongSwan(_) => "strongSwan",
    };
    let status = site.clinic.status()?;
    let (datapath, why) = status.datapath();
    println!("Clinic: sekishod, ESP in the {datapath} ({why}). Centre: {peer}.\n");
    let mut failed = 0;
    let mut checks: Vec<Scenario> = DEMONSTRATION.to_vec();
    if !options.keep {
        checks.push(ENDING);
    }
    for check in &checks {
        failed += usize::from(!show(&mut site, check));
    }
    let passed = checks.len() - failed;
    println!("\n{passed} passed, {failed} failed, in {:.0} s", begin.elapsed().as_secs_f64());
    if failed > 0 {
        println!("logs: {}", site.lab.save_logs()?.display());
    }
    if options.keep {
        keep(site)?;
    }
    Ok(failed == 0)
}

/// One line of the table.
fn show(site: &mut Site, check: &Scenario) -> bool {
    let terminal = std::io::stdout().is_terminal();
    if terminal {
        print!("  …     {}", check.name);
        // The line under way is for the eye only.
        let _ = std::io::stdout().flush();
    }
    let outcome = (check.run)(site);
    while interrupted() {
        // The signal's handler ends this program as soon as it has taken the lab down.
        std::thread::park();
    }
    let (mark, text) = match &outcome {
        Ok(figure) => ("ok  ", figure.clone()),
        Err(error) => ("FAIL", format!("{error:#}").replace('\n', "\n          ")),
    };
    let over = if terminal { "\r" } else { "" };
    println!("{over}  {mark}  {:<48}  {text}", check.name);
    outcome.is_ok()
}

/// Leaves everything at work and says how to look around.
fn keep(site: Site) -> Result<()> {
    let Site { mut clinic, mut centre, services, canary, mut lab, .. } = site;
    // Their ports are wanted by the process that goes on serving them.
    drop(services);
    let mut command = Command::new(std::env::current_exe().context("asking where this program stands")?);
    command.args(["serve", "--lab", lab.name(), "--canary", &canary]);
    let mut serve = Process::start(&lab, Place::Internet, &mut command, "services")?;
    until(Duration::from_secs(5), "the hosts' services", || {
        http::get(&lab.at(Place::Web), Place::Web.socket(Family::V4, 80), "/").map(Some)
    })?;
    serve.keep();
    clinic.keep();
    match &mut centre {
        Peer::Sekisho(centre) => centre.keep(),
        Peer::StrongSwan(charon) => charon.keep(),
    }
    lab.keep();
    println!("\nThe lab stays up. Enter a host, keeping the file systems as they are:");
    for place in Place::ALL {
        let (v4, v6) = (place.address(Family::V4), place.address(Family::V6));
        println!("  nsenter --net={:<28} # {v4}, {v6}", lab.at(place).path().display().to_string());
    }
    println!("Try, for example:");
    let at = |place| lab.at(place).path().display().to_string();
    println!("  nsenter --net={} curl http://{}/", at(Place::Lan1), Place::Server.address(Family::V4));
    println!("  nsenter --net={} ping {}", at(Place::Lan3), Place::Lan1.address(Family::V4));
    println!("  {} --gateway {} status", program("sekisho")?.display(), clinic.name());
    println!("  {} --gateway {} rekey centre", program("sekisho")?.display(), clinic.name());
    println!("Configuration, certificates, logs: {}", lab.dir().display());
    println!("Take it down: cargo xtask lab down");
    Ok(())
}

/// Serves every host's services for a lab that another run has left up, until a signal ends it.
pub fn serve(lab: &str, canary: &str) -> Result<()> {
    let _services = Services::start(lab, canary)?;
    loop {
        std::thread::park();
    }
}

/// Removes every lab that has a record; their names.
pub fn down() -> Result<Vec<String>> {
    let labs = record::labs()?;
    for lab in &labs {
        record::tear_down(lab).with_context(|| format!("taking down lab {lab}"))?;
    }
    Ok(labs)
}

/// Lays a lab without gateways: plain routers, everything reaches everything.
pub fn plain(lab: &str) -> Result<Lab> {
    let lab = Lab::up(lab)?;
    crate::lab::topology::forward_without_filter(&lab)?;
    Ok(lab)
}
