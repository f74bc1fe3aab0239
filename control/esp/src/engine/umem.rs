//! The packet memory: one mapping, cut into frames, shared by every socket.
//!
//! A [`Frame`] is the right to touch one frame's bytes. There is one for each frame and it cannot be copied; giving it
//! to the kernel (fill or transmit ring) consumes it and taking it back (receive or completion ring) makes it anew.

use std::io;
use std::os::fd::RawFd;
use std::ptr::{self, NonNull};

use super::config::EngineError;

/// One frame that is ours, not the kernel's.
#[derive(Debug)]
pub(crate) struct Frame {
    index: u32,
}

/// The memory and the frames nobody uses.
#[derive(Debug)]
pub(crate) struct Umem {
    area: Area,
    frames: u32,
    frame_size: u32,
    free: Vec<Frame>,
    /// Which socket's rings hold each frame.
    held: Vec<Option<RawFd>>,
}

#[derive(Debug)]
struct Area {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is owned by this value alone and belongs to no thread.
unsafe impl Send for Area {}

impl Area {
    fn new(bytes: usize) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let start =
            unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self { start, bytes })
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // Plaintext has been here.
        // SAFETY: the mapping is `bytes` long, writable, and nobody borrows it any more.
        unsafe { ptr::write_bytes(self.start.as_ptr(), 0, self.bytes) };
        // SAFETY: exactly what `new` mapped; no reference into it outlives the value.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

impl Umem {
    /// Maps and populates the memory. `frame_size` is a power of two.
    pub(crate) fn new(frames: u32, frame_size: u32) -> Result<Self, EngineError> {
        let bytes = u64::from(frames) * u64::from(frame_size);
        let area = usize::try_from(bytes)
            .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))
            .and_then(Area::new)
            .map_err(|source| EngineError::MemoryLock { bytes, source })?;
        let held = (0..frames).map(|_| None).collect();
        Ok(Self { area, frames, frame_size, free: (0..frames).map(|index| Frame { index }).collect(), held })
    }

    /// Address of the mapping, for the kernel.
    pub(crate) fn address(&self) -> u64 {
        self.area.start.as_ptr().addr() as u64
    }

    /// Length of the mapping in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.area.bytes as u64
    }

    pub(crate) fn frame_size(&self) -> u32 {
        self.frame_size
    }

    /// A frame nobody uses.
    pub(crate) fn take(&mut self) -> Option<Frame> {
        self.free.pop()
    }

    /// Gives a frame back.
    pub(crate) fn give(&mut self, frame: Frame) {
        self.free.push(frame);
    }

    /// Where a frame begins, as rings name it.
    pub(crate) fn offset(&self, frame: &Frame) -> u64 {
        u64::from(frame.index) * u64::from(self.frame_size)
    }

    /// A frame has gone into a ring of this socket.
    pub(crate) fn lend(&mut self, frame: Frame, socket: RawFd) {
        if let Some(holder) = self.held.get_mut(frame.index as usize) {
            *holder = Some(socket);
        }
    }

    /// Takes back every frame that the rings of a socket hold.
    ///
    /// # Safety
    /// The socket's device is gone and its rings are no longer mapped: the kernel touches its frames no more.
    pub(crate) unsafe fn recover(&mut self, socket: RawFd) {
        for (index, holder) in (0..).zip(&mut self.held) {
            if *holder == Some(socket) {
                *holder = None;
                self.free.push(Frame { index });
            }
        }
    }

    /// A frame's bytes.
    pub(crate) fn buffer<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8] {
        let size = self.frame_size as usize;
        // SAFETY: a `Frame`'s index is below `frames` (made in `new` or checked in `reclaim`), so the range lies in
        // the mapping. The frame is not the kernel's, for giving it away consumes the `Frame`; and both `&mut`s make
        // this the only reference to it.
        unsafe {
            std::slice::from_raw_parts_mut(self.area.start.as_ptr().add(frame.index as usize * size), size)
        }
    }

    /// Takes back the frame at this address, and says where in it the address points. `None` for an address outside
    /// the memory, which a sane kernel never gives.
    ///
    /// # Safety
    /// The kernel has just given the address in a receive or completion ring, and this is the only time it is taken
    /// for that.
    pub(crate) unsafe fn reclaim(&mut self, address: u64) -> Option<(Frame, usize)> {
        let size = u64::from(self.frame_size);
        let index = u32::try_from(address / size).ok().filter(|index| *index < self.frames)?;
        if let Some(holder) = self.held.get_mut(index as usize) {
            *holder = None;
        }
        Some((Frame { index }, (address % size) as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_disjoint_and_come_back() {
        let mut umem = Umem::new(4, 2048).unwrap();
        let mut frames: Vec<_> = std::iter::from_fn(|| umem.take()).collect();
        assert_eq!(frames.len(), 4);
        for frame in &mut frames {
            let mark = umem.offset(frame) as u8 ^ (umem.offset(frame) >> 8) as u8;
            umem.buffer(frame).fill(mark);
        }
        for mut frame in frames {
            let mark = umem.offset(&frame) as u8 ^ (umem.offset(&frame) >> 8) as u8;
            assert!(umem.buffer(&mut frame).iter().all(|byte| *byte == mark));
            umem.give(frame);
        }
        assert!(umem.take().is_some());
    }

    #[test]
    fn an_address_outside_is_refused() {
        let mut umem = Umem::new(2, 2048).unwrap();
        let Frame { index } = umem.take().unwrap();
        let address = u64::from(index) * 2048 + 300;
        // SAFETY: the frame was taken and undone above, so nobody else holds it.
        let (frame, at) = unsafe { umem.reclaim(address) }.unwrap();
        assert_eq!((umem.offset(&frame), at), (address - 300, 300));
        // SAFETY: no frame is made.
        assert!(unsafe { umem.reclaim(2 * 2048) }.is_none());
        // SAFETY: no frame is made.
        assert!(unsafe { umem.reclaim(u64::MAX) }.is_none());
    }
}
