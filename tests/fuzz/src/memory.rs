//! How much memory a piece of work takes: peers must not be able to choose that.

use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Does `work`, and asserts that it never held more than `limit` bytes beyond what was held before it.
pub fn within<T>(limit: usize, work: impl FnOnce() -> T) -> T {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let result = work();
    let most = ALLOCATOR.peak_usage().saturating_sub(before);
    assert!(most <= limit, "held {most} bytes, and {limit} should do");
    result
}

/// What a parser may hold for `length` bytes of input: values are larger than what they are read from, and vectors
/// grow by doubling. No factor of this kind turns a datagram into megabytes.
pub const fn for_input(length: usize) -> usize {
    16 * 1024 + 64 * length
}
