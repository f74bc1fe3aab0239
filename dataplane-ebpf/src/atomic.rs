//! Atomic operations on memory that other CPUs and the daemon change too (Linux 5.12). The compiler's own stop at what
//! this target had in its first years.

/// Puts `new` in the place of `old`; gives back what was there.
///
/// # Safety
/// `at` must point to eight bytes, aligned and writable.
#[inline(always)]
pub(crate) unsafe fn compare_exchange(at: *mut u64, old: u64, new: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let found: u64;
        // SAFETY: the caller vouches for the bytes; r0 is the instruction's own operand.
        unsafe {
            core::arch::asm!("r0 = cmpxchg_64({at} + 0, r0, {new})", inout("r0") old => found, at = in(reg) at,
                new = in(reg) new, options(nostack));
        }
        found
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        use core::sync::atomic::{AtomicU64, Ordering};
        // SAFETY: the caller vouches for the bytes.
        let word = unsafe { AtomicU64::from_ptr(at) };
        match word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(found) | Err(found) => found,
        }
    }
}

/// Adds to a number; gives back what it was.
///
/// # Safety
/// As [`compare_exchange`].
#[inline(always)]
pub(crate) unsafe fn fetch_add(at: *mut u64, add: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = add;
        // SAFETY: the caller vouches for the bytes.
        unsafe {
            core::arch::asm!("{value} = atomic_fetch_add((u64 *)({at} + 0), {value})", value = inout(reg) value,
                at = in(reg) at, options(nostack));
        }
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        use core::sync::atomic::{AtomicU64, Ordering};
        // SAFETY: the caller vouches for the bytes.
        unsafe { AtomicU64::from_ptr(at) }.fetch_add(add, Ordering::SeqCst)
    }
}

/// Puts a number in the place of another; gives back that one.
///
/// # Safety
/// As [`compare_exchange`].
#[inline(always)]
pub(crate) unsafe fn exchange(at: *mut u64, new: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = new;
        // SAFETY: the caller vouches for the bytes.
        unsafe {
            core::arch::asm!("{value} = xchg_64({at} + 0, {value})", value = inout(reg) value, at = in(reg) at,
                options(nostack));
        }
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        use core::sync::atomic::{AtomicU64, Ordering};
        // SAFETY: the caller vouches for the bytes.
        unsafe { AtomicU64::from_ptr(at) }.swap(new, Ordering::SeqCst)
    }
}
