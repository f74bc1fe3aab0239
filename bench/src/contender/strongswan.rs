//! strongSwan at both ends, with its ESP in user space (kernel-libipsec): plain routers otherwise, without a filter.

use anyhow::Result;
use sekisho_tests::gateway::settings::{CENTRE_ID, CLINIC_ID};
use sekisho_tests::lab::plan::{Family, LAN1_NETWORKS, Place};
use sekisho_tests::lab::{Lab, topology};
use sekisho_tests::scenario::site::foreign;
use sekisho_tests::strongswan::{Charon, Connection, Demand, Proof};

use super::program::{find, version as version_of};
use super::{IKE_PROPOSAL, PSK, Tunnel, Wanted};

/// Both gateways.
#[derive(Debug)]
pub struct Pair {
    /// The clinic's, which opens the tunnel.
    pub clinic: Charon,
    /// The centre's.
    pub centre: Charon,
}

/// Of its tools: the daemon knows no such question, and would start.
///
/// # Errors
/// When it is not installed.
pub fn version() -> Result<String> {
    find("charon-systemd", None)?;
    version_of(&find("swanctl", None)?, &["--version"])
}

impl Pair {
    /// Starts both; returns once the tunnel is up.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn raise(lab: &Lab, wanted: Wanted) -> Result<Self> {
        Self::with(lab, wanted.encryption.proposal(), &[])
    }

    /// The same with an ESP proposal and further settings of the daemon that the caller names.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn with(lab: &Lab, esp: &str, options: &[&str]) -> Result<Self> {
        let proof = || (Proof::Psk(PSK.into()), Demand::Psk(PSK.into()));
        let at_centre = foreign(Family::V4, proof(), IKE_PROPOSAL, esp);
        let at_clinic = Connection {
            local: Place::Clinic.address(Family::V4),
            remote: Some(Place::Centre.address(Family::V4)),
            local_id: CLINIC_ID.into(),
            remote_id: CENTRE_ID.into(),
            local_ts: LAN1_NETWORKS.map(str::to_owned).to_vec(),
            remote_ts: at_centre.local_ts.clone(),
            ..at_centre.clone()
        };
        let start = |place| {
            topology::configure(lab, place)?;
            Charon::with_options(lab, place, options)
        };
        let (clinic, centre) = (start(Place::Clinic)?, start(Place::Centre)?);
        centre.load(&at_centre)?;
        clinic.load(&at_clinic)?;
        clinic.initiate()?;
        Ok(Self { clinic, centre })
    }
}

impl Tunnel for Pair {
    fn processes(&self) -> Vec<u32> {
        vec![self.clinic.pid(), self.centre.pid()]
    }
}
