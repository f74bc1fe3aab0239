//! Ours: `sekishod` at both ends, on its engine, with its filter in force.

use std::time::Duration;

use anyhow::{Context, Result};
use sekisho_tests::gateway::certificates::write_psk;
use sekisho_tests::gateway::settings::{Credentials, Settings};
use sekisho_tests::gateway::{Sekishod, program};
use sekisho_tests::lab::Lab;
use sekisho_tests::lab::plan::Place;

use super::{IKE_PROPOSAL, PSK, Tunnel, Wanted};
use crate::contender::program::version as version_of;

/// The tunnel is up within this time of being asked for, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Both gateways. The one that opens the tunnel ends first.
#[derive(Debug)]
pub struct Pair {
    clinic: Sekishod,
    centre: Sekishod,
}

/// Of the daemon.
///
/// # Errors
/// When it is not built.
pub fn version() -> Result<String> {
    version_of(&program("sekishod")?, &["--version"])
}

impl Pair {
    /// Starts both; returns once the tunnel is up.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn raise(lab: &Lab, wanted: Wanted) -> Result<Self> {
        let psk = lab.dir().join("psk");
        write_psk(&psk, PSK)?;
        let set = |mut settings: Settings| {
            settings = settings.proposals(IKE_PROPOSAL, wanted.encryption.proposal());
            settings.datapath = "engine".into();
            settings.force_udp = wanted.in_udp;
            // As an operator runs it: what is written for debugging costs time.
            settings.log_level = "info";
            settings
        };
        let centre =
            Sekishod::start(lab, Place::Centre, &set(Settings::centre(Credentials::Psk(psk.clone()))))?;
        let clinic = Sekishod::start(lab, Place::Clinic, &set(Settings::clinic(Credentials::Psk(psk))))?;
        clinic.await_up("centre", PATIENCE)?;
        Ok(Self { clinic, centre })
    }

    /// The clinic's gateway, which opened the tunnel.
    pub fn clinic(&mut self) -> &mut Sekishod {
        &mut self.clinic
    }

    /// The centre's.
    pub fn centre(&mut self) -> &mut Sekishod {
        &mut self.centre
    }
}

impl Tunnel for Pair {
    fn processes(&self) -> Vec<u32> {
        // One that does not answer has no pid, and its CPU time is missed where it is looked for.
        [&self.clinic, &self.centre].into_iter().filter_map(|gateway| pid(gateway).ok()).collect()
    }
}

/// Of a running daemon.
///
/// # Errors
/// When it does not answer.
pub fn pid(gateway: &Sekishod) -> Result<u32> {
    u32::try_from(gateway.status()?.pid()).context("a pid beyond the kernel's range")
}
