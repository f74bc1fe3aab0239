//! Waiting for what takes its time, with a name for what was waited for.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// How many times as long everything may take here: set for guests that are emulated.
pub const STRETCH: &str = "SEKISHO_PATIENCE";

/// [`STRETCH`], 1 where nothing is said.
pub fn stretch() -> u32 {
    std::env::var(STRETCH).ok().and_then(|times| times.parse().ok()).unwrap_or(1).max(1)
}

/// Asks again and again until there is an answer; how long it took. The last error, or that there was none, is told
/// when patience ends.
pub fn until<T>(
    patience: Duration,
    what: &str,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<(T, Duration)> {
    let patience = patience * stretch();
    let begin = Instant::now();
    loop {
        let answer = ask();
        let waited = begin.elapsed();
        match answer {
            Ok(Some(answer)) => return Ok((answer, waited)),
            Ok(None) if waited > patience => {
                return Err(anyhow!("{what}: not within {:.1} s", patience.as_secs_f64()));
            }
            Err(error) if waited > patience => {
                return Err(error.context(format!("{what}: not within {:.1} s", patience.as_secs_f64())));
            }
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
