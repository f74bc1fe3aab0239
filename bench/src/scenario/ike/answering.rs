//! The centre to which clinics from many addresses connect: one connection for all of them, an address of a pool for each.
//! Limits for strangers are what each has unless told otherwise.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use sekisho_tests::gateway::Sekishod;
use sekisho_tests::gateway::certificates::write_psk;
use sekisho_tests::gateway::settings::{CENTRE_ID, Side, ports};
use sekisho_tests::initiators::{BEHIND, ESP, IDS, NETWORK, POOL};
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::lab::{Lab, topology};
use sekisho_tests::strongswan::Charon;

use crate::contender::{Contender, IKE_PROPOSAL, PSK, sekisho};
use crate::perf::cpu::{Used, used};

/// Until the centre has caught up with what it was told.
const PATIENCE: Duration = Duration::from_secs(20);
/// What charon has unless told otherwise, but for the lab's setting of cookies: so many half-open IKE SAs, and they are asked
/// for. Hash tables for many IKE SAs, as its manual has it for a gateway with many peers.
const CHARON_OPTIONS: [&str; 3] =
    ["cookie_threshold = 30", "ikesa_table_size = 16384", "ikesa_table_segments = 16"];

/// Who answers, and the lab, which ends last.
pub(super) struct Centre {
    gateway: Gateway,
    pub(super) lab: Lab,
}

enum Gateway {
    Sekisho(Sekishod),
    StrongSwan(Charon),
}

impl Centre {
    /// Starts it.
    pub(super) fn start(contender: Contender, name: &str) -> Result<Self> {
        let lab = Lab::up(name)?;
        let gateway = match contender {
            Contender::Sekisho => {
                let psk = lab.dir().join("psk");
                write_psk(&psk, PSK)?;
                let file = |name: &str| configuration(name, &psk.display().to_string());
                let mut gateway = Sekishod::with_file(&lab, Place::Centre, file, "warn")?;
                gateway.launch(&lab)?;
                Gateway::Sekisho(gateway)
            }
            _ => {
                topology::configure(&lab, Place::Centre)?;
                let charon = Charon::with_options(&lab, Place::Centre, &CHARON_OPTIONS)?;
                charon.load_files(|swanctl| {
                    let file = swanctl.join("swanctl.conf");
                    fs::write(&file, foreign_configuration())
                        .with_context(|| format!("writing {}", file.display()))
                })?;
                Gateway::StrongSwan(charon)
            }
        };
        Ok(Self { gateway, lab })
    }

    /// What it has used.
    pub(super) fn used(&self) -> Result<Used> {
        match &self.gateway {
            Gateway::Sekisho(gateway) => used(sekisho::pid(gateway)?),
            Gateway::StrongSwan(charon) => used(charon.pid()),
        }
    }

    /// Waits until so many clinics are connected by its own count.
    pub(super) fn await_clinics(&self, count: usize) -> Result<()> {
        until(PATIENCE, &format!("{count} clinics by the centre's count"), || {
            let now = match &self.gateway {
                Gateway::Sekisho(gateway) => gateway.status()?.pool("clinics").1,
                Gateway::StrongSwan(charon) => established(&charon.swanctl(&["--stats"])?)?,
            };
            Ok((now == count as u64).then_some(()))
        })
        .map(drop)
    }
}

/// `IKE_SAs: 12 total, 2 half-open`
fn established(stats: &str) -> Result<u64> {
    let line = stats.lines().find_map(|line| line.trim().strip_prefix("IKE_SAs:"));
    let mut numbers = line.context("charon does not count its IKE SAs")?.split_whitespace();
    let mut number = || {
        let word = numbers.find(|word| word.bytes().all(|byte| byte.is_ascii_digit()));
        word.and_then(|word| word.parse::<u64>().ok()).context("a count of IKE SAs")
    };
    let (total, half_open) = (number()?, number()?);
    Ok(total.saturating_sub(half_open))
}

fn configuration(name: &str, psk: &str) -> String {
    let mut out = format!(
        "[gateway]\nname = \"{name}\"\ndatapath = \"engine\"\n{}\n[zones.clinics]\nvpn = \"clinics\"\n\
         [pools.clinics]\naddresses = [\"{POOL}\"]\n",
        ports(Side::Centre, &[])
    );
    let _ = write!(
        out,
        "[connections.clinics]\nstart = \"answer\"\npools = \"clinics\"\nike = [\"{IKE_PROPOSAL}\"]\nesp = [\"{ESP}\"]\n\
         local = {{ address = \"{}\", id = \"{CENTRE_ID}\", psk = \"{psk}\" }}\n\
         remote = {{ id = \"{IDS}\", psk = \"{psk}\" }}\n\
         [[connections.clinics.child]]\nname = \"main\"\nlocal = [\"{BEHIND}\"]\nremote = \"dynamic\"\n",
        Place::Centre.address(Family::V4),
    );
    out
}

fn foreign_configuration() -> String {
    format!(
        "connections {{\nclinics {{\nversion = 2\nmobike = no\nrekey_time = 0\nreauth_time = 0\nproposals = {IKE_PROPOSAL}\n\
         local_addrs = {}\nremote_addrs = {NETWORK}\npools = clinics\n\
         local {{\nauth = psk\nid = {CENTRE_ID}\n}}\nremote {{\nauth = psk\nid = {IDS}\n}}\n\
         children {{\nmain {{\nlocal_ts = {BEHIND}\nesp_proposals = {ESP}\nrekey_time = 0\n}}\n}}\n}}\n}}\n\
         pools {{\nclinics {{\naddrs = {POOL}\n}}\n}}\n\
         secrets {{\nike {{\nsecret = \"{PSK}\"\n}}\n}}\n",
        Place::Centre.address(Family::V4),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_open_ones_are_not_connected() {
        let stats = "uptime: 3 seconds\nworker threads: 16 total\n  IKE_SAs: 12 total, 2 half-open\n";
        assert_eq!(established(stats).expect("counted"), 10);
        assert!(established("uptime: 3 seconds").is_err());
    }

    #[test]
    fn both_know_the_same_clinics() {
        let (ours, theirs) = (configuration("centre", "/psk"), foreign_configuration());
        for word in [POOL, IDS, IKE_PROPOSAL, ESP, BEHIND] {
            assert!(ours.contains(word) && theirs.contains(word), "{word}");
        }
    }
}
