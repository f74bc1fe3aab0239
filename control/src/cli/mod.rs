//! The subcommands of `sekisho` that need no daemon.

pub mod check;
pub mod pki;
