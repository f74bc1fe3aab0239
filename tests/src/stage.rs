//! What the suites' own mains share: one site for many tests, one test after the other, and an end that cleans up.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, anyhow};

use crate::lab;
use crate::scenario::site::Site;

/// A test on a site: the figure it measured, or what was otherwise.
pub type Test = fn(&mut Site) -> Result<String>;

/// A site that is made when the first test wants it. If it can't be made, every test that wants it says so at once.
#[derive(Clone)]
pub struct Stage {
    make: fn() -> Result<Site>,
    site: Arc<Mutex<Option<Result<Site, String>>>>,
}

impl Stage {
    /// Nothing is made yet.
    pub fn new(make: fn() -> Result<Site>) -> Self {
        Self { make, site: Arc::new(Mutex::new(None)) }
    }

    /// Runs one test on the site. After a failure the logs are kept where the error says.
    pub fn run<T>(&self, test: impl FnOnce(&mut Site) -> Result<T>) -> Result<T> {
        lab::require_root()?;
        // A test that panicked has failed already; the site may still serve the others.
        let mut slot = self.site.lock().unwrap_or_else(PoisonError::into_inner);
        let made = slot.get_or_insert_with(|| (self.make)().map_err(|error| format!("{error:#}")));
        let site = made.as_mut().map_err(|error| anyhow!("there is no site: {error}"))?;
        test(site).map_err(|error| match site.lab.save_logs() {
            Ok(logs) => error.context(format!("logs are in {}", logs.display())),
            Err(unsaved) => error.context(format!("its logs are lost: {unsaved:#}")),
        })
    }

    /// Takes the site down.
    pub fn clear(&self) {
        self.site.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// What a test framework wants to know of an error: all of it.
pub fn words<E: From<String>>(result: Result<String>) -> std::result::Result<(), E> {
    match result {
        Ok(figure) => {
            println!("    {figure}");
            Ok(())
        }
        Err(error) => Err(E::from(format!("{error:#}"))),
    }
}

/// The exit code of a suite.
pub fn code(failed: bool) -> ExitCode {
    if failed { ExitCode::from(101) } else { ExitCode::SUCCESS }
}
