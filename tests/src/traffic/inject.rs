//! Frames put on a cable as they are: what an attacker with a network card can do.

use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, bind, send, socket};

use crate::lab::namespace::{Namespace, link_address};

/// A packet socket that only sends.
#[derive(Debug)]
pub struct Injector {
    socket: OwnedFd,
    mac: [u8; 6],
}

impl Injector {
    /// Onto the cable at this device.
    pub fn open(namespace: &Namespace, device: &str) -> Result<Self> {
        namespace.run(|| {
            // Protocol 0: it never receives.
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
                .context("opening a packet socket")?;
            let address = link_address(device)?;
            bind(socket.as_raw_fd(), &address)
                .with_context(|| format!("binding a packet socket to {device}"))?;
            Ok(Self {
                socket,
                mac: address.addr().with_context(|| format!("{device} has no hardware address"))?,
            })
        })
    }

    /// The device's own hardware address, for frames that hide nothing on the link.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Sends one frame, Ethernet header included.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = send(self.socket.as_raw_fd(), frame, MsgFlags::empty()).context("sending a frame")?;
        ensure!(sent == frame.len(), "only {sent} of {} bytes were sent", frame.len());
        Ok(())
    }
}
