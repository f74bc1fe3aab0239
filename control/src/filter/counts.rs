//! The counts of `QUOTAS` and `ZONES`, in memory that the daemon shares with the programs: both change them by atomic
//! operations alone, so that none is lost.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::MapData;
use sekisho_abi::flow::Flow;
use sekisho_abi::quota::{Bucket, ZONES_MAX, ZoneQuota, slot};

use super::FilterError;

/// Words of a [`ZoneQuota`]: flows, and how many there may be.
const ZONE_WORDS: usize = size_of::<ZoneQuota>() / size_of::<u64>();

/// Both maps.
pub(super) struct Counts {
    quotas: Shared,
    zones: Shared,
}

impl Counts {
    /// Those of these maps.
    pub(super) fn of(quotas: &MapData, zones: &MapData) -> Result<Counts, FilterError> {
        let quotas = Shared::of("QUOTAS", quotas, size_of::<Bucket>())?;
        Ok(Counts { quotas, zones: Shared::of("ZONES", zones, size_of::<ZoneQuota>())? })
    }

    /// Flows that were opened from a zone, and how many there may be.
    pub(super) fn zone(&self, number: u32) -> (u64, u64) {
        let at = number as usize * ZONE_WORDS;
        let word = |at| self.zones.word(at).map_or(0, |word| word.load(Ordering::Relaxed));
        // For the moment between two CPUs' steps a count may be below zero.
        (word(at).cast_signed().max(0).cast_unsigned(), word(at + 1))
    }

    /// Flows of all zones.
    pub(super) fn total(&self) -> u64 {
        (0..ZONES_MAX).map(|number| self.zone(number).0).sum()
    }

    /// How many flows each zone may open; 0: none.
    pub(super) fn set_zone_max(&self, number: u32, flows_max: u64) {
        if let Some(word) = self.zones.word(number as usize * ZONE_WORDS + 1) {
            word.store(flows_max, Ordering::Relaxed);
        }
    }

    /// Makes these counts those.
    pub(super) fn copy_from(&self, others: &Counts) {
        for (own, other) in [(&self.quotas, &others.quotas), (&self.zones, &others.zones)] {
            for (to, from) in own.words().iter().zip(other.words()) {
                to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
    }

    /// Gives back what a flow counted that has been taken out of the table.
    pub(super) fn give_back(&self, flow: &Flow) {
        let half_open = if flow.half_open == 0 { 0 } else { slot::HALF_OPEN };
        self.change_slot(flow.source_slot, |word| slot::less(word, slot::FLOW + half_open));
        self.change_slot(destination_slot(flow), |word| slot::less(word, slot::HALF_OPEN));
        self.change_zone(flow.quota_zone, -1);
    }

    /// The word of every slot that counts something, by the slot's number (index plus one).
    pub(super) fn slots(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        let words = self.quotas.words().iter().map(|word| word.load(Ordering::Relaxed));
        (1..).zip(words).filter(|(_, word)| word & slot::COUNTS != 0)
    }

    /// Changes a slot's word; number 0 is none.
    pub(super) fn change_slot(&self, number: u32, change: impl Fn(u64) -> u64) {
        let Some(index) = number.checked_sub(1) else { return };
        if let Some(word) = self.quotas.word(index as usize) {
            let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| Some(change(word)));
        }
    }

    /// Adds to a zone's flows.
    pub(super) fn change_zone(&self, number: u32, add: i64) {
        if let Some(word) = self.zones.word(number as usize * ZONE_WORDS) {
            word.fetch_add(add.cast_unsigned(), Ordering::Relaxed);
        }
    }
}

/// The number of the slot that a half-open flow's destination counts in; 0: none.
pub(super) fn destination_slot(flow: &Flow) -> u32 {
    (flow.half_open & u64::from(u32::MAX)) as u32
}

/// An array map in this process's memory.
struct Shared {
    start: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the memory is the kernel's, stays where it is until `Drop`, and is read and written by atomic operations alone.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    fn of(name: &'static str, map: &MapData, value_bytes: usize) -> Result<Shared, FilterError> {
        let error = |source| FilterError::Pin { path: name.into(), source };
        let info = map.info().map_err(|source| FilterError::Map { map: name, source: Box::new(source) })?;
        let bytes = info.max_entries() as usize * value_bytes;
        // SAFETY: a new mapping of a valid descriptor, at an address of the kernel's choice; the result is checked.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(error(io::Error::last_os_error()));
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| error(io::Error::other("mapped at 0")))?;
        Ok(Shared { start, words: bytes / size_of::<u64>() })
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: so many words are mapped, page-aligned, until `Drop`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }

    fn word(&self, at: usize) -> Option<&AtomicU64> {
        self.words().get(at)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping that `of` made, whose words nobody holds any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.words * size_of::<u64>()) };
    }
}
