//! Ours: `sekishod` at both ends, on its engine, with its filter in force.

use std::time::Duration;

use anyhow::{Context, Result};
use sekisho_tests::gateway::certificates::write_psk;
use sekisho_tests::gateway::settings::Settings;
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
    /// The clinic's, which opens the tunnel.
    pub clinic: Sekishod,
    /// The centre's.
    pub centre: Sekishod,
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
        let [clinic, centre] = settings(lab, wanted)?;
        Self::with(lab, &clinic, &centre)
    }

    /// The same with settings of the caller's.
    ///
    /// # Errors
    /// When the tunnel does not come up.
    pub fn with(lab: &Lab, clinic: &Settings, centre: &Settings) -> Result<Self> {
        let centre = Sekishod::start(lab, Place::Centre, centre)?;
        let clinic = Sekishod::start(lab, Place::Clinic, clinic)?;
        clinic.await_up("centre", PATIENCE)?;
        Ok(Self { clinic, centre })
    }
}

/// Of the clinic's gateway and of the centre's, with one pre-shared key.
///
/// # Errors
/// When the key cannot be written.
pub fn settings(lab: &Lab, wanted: Wanted) -> Result<[Settings; 2]> {
    let credentials = write_psk(&lab.dir().join("psk"), PSK)?;
    Ok([Settings::clinic(credentials.clone()), Settings::centre(credentials)].map(|settings| {
        let mut settings = settings.proposals(IKE_PROPOSAL, wanted.encryption.proposal());
        settings.datapath = "engine".into();
        settings.force_udp = wanted.in_udp;
        // As an operator runs it: what is written for debugging costs time.
        settings.log_level = "info";
        settings
    }))
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
