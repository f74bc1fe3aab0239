//! The four rings of an AF_XDP socket, in memory shared with the kernel: single producer, single consumer.
//!
//! Indices run freely over 32 bits and are masked when used. We write one of the two and only read the other, which
//! the kernel writes; a batch costs one acquire load and one release store.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

/// A ring's mapping, and where things lie in it.
#[derive(Debug)]
struct Mapping<T> {
    start: NonNull<u8>,
    bytes: usize,
    offsets: libc::xdp_ring_offset,
    /// Entries less one; entries are a power of two.
    mask: u32,
    entry: PhantomData<T>,
}

// SAFETY: the mapping is owned by this value alone and belongs to no thread; what the kernel shares is only reached
// through atomics, or lies in entries that are ours at the time.
unsafe impl<T: Send> Send for Mapping<T> {}

impl<T: Copy> Mapping<T> {
    fn new(
        fd: BorrowedFd<'_>,
        offset: u64,
        offsets: libc::xdp_ring_offset,
        entries: u32,
    ) -> io::Result<Self> {
        let overflow = || io::Error::from(io::ErrorKind::InvalidData);
        let bytes = usize::try_from(offsets.desc)
            .ok()
            .and_then(|start| start.checked_add((entries as usize).checked_mul(size_of::<T>())?))
            .ok_or_else(overflow)?;
        let offset = libc::off_t::try_from(offset).map_err(|_| overflow())?;
        // SAFETY: a new mapping of the socket's ring at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                fd.as_raw_fd(),
                offset,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(overflow)?;
        Ok(Self { start, bytes, offsets, mask: entries - 1, entry: PhantomData })
    }

    fn word(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: the kernel told the offset of an aligned 32-bit word within the mapping, which lives as long as
        // `self`; both sides reach it atomically only.
        unsafe { AtomicU32::from_ptr(self.start.as_ptr().add(offset as usize).cast()) }
    }

    fn producer(&self) -> &AtomicU32 {
        self.word(self.offsets.producer)
    }

    fn consumer(&self) -> &AtomicU32 {
        self.word(self.offsets.consumer)
    }

    /// Pointer to an entry, within the mapping whatever the index.
    fn entry(&self, index: u32) -> *mut T {
        // SAFETY: `desc` is where the entries begin and the masked index is below their number, as in `new`.
        unsafe {
            self.start.as_ptr().add(self.offsets.desc as usize).cast::<T>().add((index & self.mask) as usize)
        }
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped; no reference into it outlives the value.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// A ring we fill: fill ring or transmit ring.
#[derive(Debug)]
pub(crate) struct Producer<T> {
    ring: Mapping<T>,
    /// Next entry to write; the kernel sees it once published.
    next: u32,
    /// The kernel's index as we last saw it.
    consumer: u32,
}

impl<T: Copy> Producer<T> {
    pub(crate) fn new(
        fd: BorrowedFd<'_>,
        offset: u64,
        offsets: libc::xdp_ring_offset,
        entries: u32,
    ) -> io::Result<Self> {
        Ok(Self { ring: Mapping::new(fd, offset, offsets, entries)?, next: 0, consumer: 0 })
    }

    /// Entries that can be written now.
    pub(crate) fn room(&mut self) -> u32 {
        let entries = self.ring.mask + 1;
        let room = entries.wrapping_sub(self.next.wrapping_sub(self.consumer));
        if room != 0 {
            return room.min(entries);
        }
        self.consumer = self.ring.consumer().load(Ordering::Acquire);
        entries.wrapping_sub(self.next.wrapping_sub(self.consumer)).min(entries)
    }

    /// Entries the kernel has not taken yet.
    pub(crate) fn pending(&mut self) -> u32 {
        self.consumer = self.ring.consumer().load(Ordering::Acquire);
        self.next.wrapping_sub(self.consumer)
    }

    /// Writes an entry if there is room; the kernel sees it after [`Producer::publish`].
    pub(crate) fn push(&mut self, value: T) -> bool {
        if self.room() == 0 {
            return false;
        }
        // SAFETY: the entry lies in the mapping, and the kernel does not read it before it is published, nor any
        // longer, for it has consumed what stood there.
        unsafe { self.ring.entry(self.next).write(value) };
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Shows the kernel what was written.
    pub(crate) fn publish(&mut self) {
        self.ring.producer().store(self.next, Ordering::Release);
    }

    /// Whether the kernel asks to be woken by a system call.
    pub(crate) fn needs_wakeup(&self) -> bool {
        self.ring.word(self.ring.offsets.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// A ring the kernel fills: receive ring or completion ring.
#[derive(Debug)]
pub(crate) struct Consumer<T> {
    ring: Mapping<T>,
    /// Next entry to read.
    next: u32,
    /// The kernel's index as we last saw it.
    producer: u32,
}

impl<T: Copy> Consumer<T> {
    pub(crate) fn new(
        fd: BorrowedFd<'_>,
        offset: u64,
        offsets: libc::xdp_ring_offset,
        entries: u32,
    ) -> io::Result<Self> {
        Ok(Self { ring: Mapping::new(fd, offset, offsets, entries)?, next: 0, producer: 0 })
    }

    /// The next entry, if there is one.
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.next == self.producer {
            self.producer = self.ring.producer().load(Ordering::Acquire);
            if self.next == self.producer {
                return None;
            }
        }
        // SAFETY: the entry lies in the mapping and was published by the kernel, which does not write it again before
        // we release it.
        let value = unsafe { self.ring.entry(self.next).read() };
        self.next = self.next.wrapping_add(1);
        Some(value)
    }

    /// Gives the entries read so far back to the kernel.
    pub(crate) fn release(&mut self) {
        self.ring.consumer().store(self.next, Ordering::Release);
    }
}
