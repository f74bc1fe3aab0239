//! The lines of the table that the suite prints at its end.

use std::sync::{Mutex, PoisonError};

/// Test and figures.
static LINES: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

pub(crate) fn add(test: &str, figures: &str) {
    LINES.lock().unwrap_or_else(PoisonError::into_inner).push((test.to_owned(), figures.to_owned()));
}

pub(crate) fn print() {
    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    if lines.is_empty() {
        return;
    }
    println!("INTEROPERABILITY WITH STRONGSWAN");
    for (test, figures) in lines.iter() {
        println!("  {test:<42}  {figures}");
    }
}
