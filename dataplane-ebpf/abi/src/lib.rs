//! Map keys, map values and verdicts: everything the kernel's side and the user's side must agree on.
//!
//! Rules of this crate: `no_std`, `#[repr(C)]`, no padding that is not named, no dependency. Addresses are always
//! 16 bytes in network order, IPv4 as IPv4-mapped IPv6 (`::ffff:a.b.c.d`), so that there is one table and one code
//! path for both families. Ports inside keys are in network byte order where the field says `be`.

#![no_std]
#![forbid(unsafe_op_in_unsafe_fn)]

pub mod event;
pub mod explain;
pub mod flow;
pub mod map;
pub mod memo;
pub mod nat;
pub mod neighbour;
pub mod port;
pub mod quota;
pub mod rule;
pub mod trace;
pub mod verdict;

/// An IPv6 address, or an IPv4 address as `::ffff:a.b.c.d`, in network byte order.
pub type Address = [u8; 16];

/// The IPv4-mapped form of an IPv4 address given in network byte order.
#[inline(always)]
pub const fn mapped(v4: [u8; 4]) -> Address {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}

/// Marks a type as plain data for aya: any bytes are a value, and no byte is padding.
macro_rules! pod {
    ($($type:ty),+ $(,)?) => {$(
        #[cfg(feature = "user")]
        // SAFETY: `#[repr(C)]`, made of integers and arrays of integers only, and without implicit padding.
        unsafe impl aya::Pod for $type {}
    )+};
}
pub(crate) use pod;
