//! The control: strongSwan on both sides of the lab.

use std::time::Duration;

use anyhow::{Result, ensure};
use sekisho_tests::lab::Lab;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::scenario::site::foreign;
use sekisho_tests::strongswan::{Charon, Connection, Demand, Proof};
use sekisho_tests::traffic::ping;

use super::session::{ESP, IKE, PSK};

/// What fails here fails without us.
pub(crate) fn both() -> Result<String> {
    let lab = Lab::up("swan")?;
    let (clinic, centre) = (Charon::start(&lab, Place::Clinic)?, Charon::start(&lab, Place::Centre)?);
    let mut figures = Vec::new();
    for outer in Family::BOTH {
        let at_centre = foreign(outer, (Proof::Psk(PSK.into()), Demand::Psk(PSK.into())), IKE, ESP);
        let at_clinic = Connection {
            local: Place::Clinic.address(outer),
            remote: Some(Place::Centre.address(outer)),
            local_id: at_centre.remote_id.clone(),
            remote_id: at_centre.local_id.clone(),
            local_ts: at_centre.remote_ts.clone(),
            remote_ts: at_centre.local_ts.clone(),
            ..at_centre.clone()
        };
        centre.load(&at_centre)?;
        clinic.load(&at_clinic)?;
        clinic.initiate()?;
        for family in Family::BOTH {
            let (from, to) = (lab.at(Place::Lan1), Place::Server.address(family));
            let echo = ping::ping(&from, to, 10, Duration::from_millis(10))?;
            ensure!(echo.lost() == 0, "{family} in {outer}: {echo}");
        }
        clinic.terminate()?;
        centre.await_children(0)?;
        figures.push(format!("outside {outer}: up, pings pass, deleted"));
    }
    Ok(figures.join("; "))
}
