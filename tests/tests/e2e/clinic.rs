//! The clinic's gateway by itself, for tests that need no tunnel.

use std::fs;

use anyhow::{Context, Result};
use sekisho_tests::gateway::Sekishod;
use sekisho_tests::gateway::certificates::KeyType;
use sekisho_tests::lab::Lab;
use sekisho_tests::lab::plan::Place;
use sekisho_tests::scenario::site::certified;

/// Starts it with its usual configuration after a change; gives back the configuration, too.
pub(crate) fn alone(lab: &Lab, adapt: impl FnOnce(String) -> String) -> Result<(Sekishod, String)> {
    let [mut settings, _] = certified(lab, KeyType::Ecdsa)?;
    settings.start = "manual";
    let mut gateway = Sekishod::prepare(lab, Place::Clinic, &settings)?;
    let text = fs::read_to_string(gateway.config()).context("reading the configuration")?;
    let text = adapt(text);
    fs::write(gateway.config(), &text).context("writing the configuration")?;
    gateway.launch(lab)?;
    Ok((gateway, text))
}

/// Writes the configuration anew and has it reloaded.
pub(crate) fn reload(gateway: &Sekishod, text: &str) -> Result<()> {
    fs::write(gateway.config(), text).context("writing the configuration")?;
    gateway.sekisho(&["reload"]).map(drop)
}
