//! What measurements need: the engine's sockets and nothing else. Two devices joined by them: what comes by one leaves by the
//! other, with other Ethernet addresses, and no gateway that takes packets to user space this way can be faster. And one device
//! that frames are sent into: what the way of decrypted packets into the kernel costs.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::config::{EngineError, Link, MacAddress, XskMode};
use super::umem::Umem;
use super::xsk::{Received, Socket};

/// Packet memory and rings as the engine has them by default.
const FRAMES: u32 = 16_384;
const FRAME_SIZE: u32 = 2048;
const RING_SIZE: u32 = 2048;
/// Frames taken from one end before the other has its turn, as in the engine.
const BATCH: usize = 64;
/// Before the first byte of a frame that is sent: as much as the engine leaves there.
const HEADROOM: usize = 64;
/// How often the kernel is asked to send a batch before the rest is left in the ring: far more than a busy device needs.
const TRIES: u32 = 1000;
/// Bytes of both Ethernet addresses.
const ADDRESSES: usize = 12;

/// One of the two devices, of which the relay takes the first receive queue.
#[derive(Clone, Debug)]
pub struct RelayEnd {
    /// The device.
    pub link: Link,
    /// Source address of what leaves by it: the device's own.
    pub source_mac: MacAddress,
    /// Destination address of that: the next hop's.
    pub destination_mac: MacAddress,
}

/// Both at work, in the thread that calls [`Relay::turn`].
#[derive(Debug)]
pub struct Relay {
    /// Dropped before the memory the kernel was given through them.
    sockets: [Socket; 2],
    umem: Umem,
    /// What frames begin with that leave by each.
    heads: [[u8; ADDRESSES]; 2],
    batch: Vec<Received>,
}

impl Relay {
    /// Opens both sockets. Frames arrive once the caller has put [`Relay::sockets`] into an XSKMAP for each device.
    ///
    /// # Errors
    /// As [`Engine::start`](super::Engine::start).
    pub fn open(ends: &[RelayEnd; 2]) -> Result<Self, EngineError> {
        let mut umem = Umem::new(FRAMES, FRAME_SIZE)?;
        let open = |end: &RelayEnd| Socket::open(&umem, &end.link, 0, RING_SIZE, XskMode::Auto, None);
        let [one, other] = ends;
        let mut sockets = [open(one)?, open(other)?];
        for socket in &mut sockets {
            socket.refill(&mut umem, RING_SIZE);
        }
        let heads = [head(one), head(other)];
        Ok(Self { sockets, umem, heads, batch: Vec::with_capacity(BATCH) })
    }

    /// Of both ends, in their order.
    pub fn sockets(&self) -> [Arc<OwnedFd>; 2] {
        [0, 1].map(|end: usize| self.sockets[end].fd().clone())
    }

    /// Passes on a batch from each end; where nothing has come, waits until something does, at most so long. How many frames
    /// there were.
    ///
    /// # Errors
    /// When a device does not send.
    pub fn turn(&mut self, patience: Duration) -> io::Result<usize> {
        let mut received = 0;
        for from in 0..2 {
            received += self.pass(from)?;
        }
        let mut waiting = false;
        for socket in &mut self.sockets {
            waiting |= socket.flush(&mut self.umem)?;
        }
        if received == 0 && !waiting {
            self.sleep(patience);
        }
        Ok(received)
    }

    fn pass(&mut self, from: usize) -> io::Result<usize> {
        let to = 1 - from;
        let socket = &mut self.sockets[from];
        socket.reap(&mut self.umem);
        socket.receive(&mut self.umem, &mut self.batch, BATCH);
        socket.refill(&mut self.umem, RING_SIZE);
        socket.wake_receive();
        let received = self.batch.len();
        for Received { mut frame, place } in self.batch.drain(..) {
            let end = place.start.saturating_add(ADDRESSES).min(place.end);
            if let Some(addresses) = self.umem.buffer(&mut frame).get_mut(place.start..end)
                && addresses.len() == ADDRESSES
            {
                addresses.copy_from_slice(&self.heads[to]);
            }
            let there = &mut self.sockets[to];
            if let Err(frame) = there.queue(&mut self.umem, frame, &place) {
                // The ring is full: what it holds is sent now. What finds no place then is lost.
                there.flush(&mut self.umem)?;
                if let Err(frame) = there.queue(&mut self.umem, frame, &place) {
                    self.umem.give(frame);
                }
            }
        }
        Ok(received)
    }

    fn sleep(&self, patience: Duration) {
        let mut polled = [0, 1].map(|end: usize| libc::pollfd {
            fd: self.sockets[end].fd().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        });
        let milliseconds = libc::c_int::try_from(patience.as_millis()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the array is as long as told and outlives the call. An error is as good as a wake-up: the next turn tells.
        unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, milliseconds) };
    }
}

/// A socket that only sends, in copy mode as the engine's own on its veth pair.
#[derive(Debug)]
pub struct Source {
    /// Dropped before the memory the kernel was given through it.
    socket: Socket,
    umem: Umem,
}

impl Source {
    /// Opens the socket on the device's first queue.
    ///
    /// # Errors
    /// As [`Engine::start`](super::Engine::start).
    pub fn open(link: &Link) -> Result<Self, EngineError> {
        let umem = Umem::new(FRAMES, FRAME_SIZE)?;
        let socket = Socket::open(&umem, link, 0, RING_SIZE, XskMode::Copy, None)?;
        Ok(Self { socket, umem })
    }

    /// Sends so many frames of so many bytes each, which `write` fills; what it leaves is what stood there before, zeros at
    /// first. How many have found a place in the ring.
    ///
    /// # Errors
    /// When a frame would be longer than the memory has them, or the device does not send.
    pub fn send(&mut self, frames: usize, bytes: usize, write: impl Fn(&mut [u8])) -> io::Result<usize> {
        let place = HEADROOM..HEADROOM.saturating_add(bytes);
        let mut queued = 0;
        self.socket.reap(&mut self.umem);
        while queued < frames
            && let Some(mut frame) = self.umem.take()
        {
            let buffer = self.umem.buffer(&mut frame).get_mut(place.clone());
            write(buffer.ok_or(io::ErrorKind::InvalidInput)?);
            if let Err(frame) = self.socket.queue(&mut self.umem, frame, &place) {
                self.umem.give(frame);
                break;
            }
            queued += 1;
        }
        let mut tries = 0;
        while self.socket.flush(&mut self.umem)? && tries < TRIES {
            tries += 1;
        }
        Ok(queued)
    }
}

/// As a frame begins: destination, then source.
fn head(end: &RelayEnd) -> [u8; ADDRESSES] {
    let mut head = [0; ADDRESSES];
    let (destination, source) = head.split_at_mut(ADDRESSES / 2);
    destination.copy_from_slice(&end.destination_mac);
    source.copy_from_slice(&end.source_mac);
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_begins_with_whom_it_is_for() {
        let link = Link { ifindex: 1, name: "a".into(), queues: 1, mtu: 1500 };
        let end = RelayEnd { link, source_mac: [1; 6], destination_mac: [2; 6] };
        assert_eq!(head(&end), [2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1]);
    }
}
