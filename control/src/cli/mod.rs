//! The subcommands of `sekisho` that are more than one question and one answer.

#![forbid(unsafe_code)]

pub mod check;
pub mod evidence;
pub mod explain;
pub mod pki;
pub mod stream;

/// Shows a text. A reader that closes the pipe early (`| head`) is no failure.
pub fn print(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{text}");
}
