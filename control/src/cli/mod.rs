//! The subcommands of `sekisho` that need no daemon.

#![forbid(unsafe_code)]

pub mod check;
pub mod pki;
