//! What hosts say to each other, what an attacker injects, and what a tap on a cable sees.

pub mod bulk;
pub mod frame;
pub mod http;
pub mod inject;
pub mod load;
pub mod numbered;
pub mod ping;
pub mod tap;
pub mod tcp;
pub mod udp;

use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Waits until something can be read; false after `patience`.
fn readable(source: impl AsFd, patience: Duration) -> Result<bool> {
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(source.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, timeout) {
        Ok(ready) => Ok(ready > 0),
        Err(nix::errno::Errno::EINTR) => Ok(false),
        Err(error) => Err(error).context("polling a socket"),
    }
}
