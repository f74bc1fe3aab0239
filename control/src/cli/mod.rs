//! The subcommands of `sekisho` that are more than one question and one answer.

#![forbid(unsafe_code)]

pub mod check;
pub mod evidence;
pub mod pki;
pub mod stream;
