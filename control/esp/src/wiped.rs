//! Memory that is overwritten when its owner goes.

use std::fmt;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::ptr;
use std::sync::atomic::{Ordering, compiler_fence};

/// A value at a fixed place on the heap whose bytes are zeroed after it was dropped.
///
/// ring's keys hold their expanded key schedule inline and do not wipe it; this does it for them. It reaches the
/// value's own bytes only, not what the value points to, and not copies the compiler left on the stack while the
/// value was made.
pub(crate) struct Wiped<T>(Box<MaybeUninit<T>>);

impl<T> Wiped<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Box::new(MaybeUninit::new(value)))
    }
}

impl<T> Deref for Wiped<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: `new` initialised the value and nothing but `drop` takes it away.
        unsafe { self.0.assume_init_ref() }
    }
}

impl<T> DerefMut for Wiped<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`; `&mut self` makes the reference the only one.
        unsafe { self.0.assume_init_mut() }
    }
}

impl<T> Drop for Wiped<T> {
    fn drop(&mut self) {
        // SAFETY: initialised by `new`, and dropped here alone, for `drop` runs once.
        unsafe { self.0.assume_init_drop() };
        // From here on the bytes are nobody's: the box frees its memory without dropping a `T`.
        let bytes = ptr::from_mut::<MaybeUninit<T>>(&mut self.0).cast::<u8>();
        for offset in 0..size_of::<T>() {
            // SAFETY: within the box's allocation of `size_of::<T>()` bytes, which is uniquely borrowed; a
            // `MaybeUninit<T>` may hold any bytes.
            unsafe { ptr::write_volatile(bytes.add(offset), 0) };
        }
        compiler_fence(Ordering::SeqCst);
    }
}

impl<T> fmt::Debug for Wiped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wiped(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::rc::Rc;

    struct Counted(Rc<Cell<u32>>);

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }

    #[test]
    fn the_value_is_dropped_exactly_once() {
        let drops = Rc::new(Cell::new(0));
        let wiped = Wiped::new(Counted(drops.clone()));
        assert_eq!((*wiped).0.get(), 0);
        drop(wiped);
        assert_eq!(drops.get(), 1);
    }

    #[test]
    fn the_value_can_be_read_and_changed() {
        let mut wiped = Wiped::new([7u8; 32]);
        wiped[3] = 9;
        assert_eq!(wiped[3], 9);
        assert_eq!(format!("{wiped:?}"), "Wiped(…)");
    }
}
