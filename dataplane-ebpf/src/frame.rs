//! Reading a frame: checked, by value.

use sekisho_abi::Address;

use crate::flow;

/// Something that a program's stack holds in whole words: the verifier takes these unaligned from everywhere but there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Aligned<T>(pub T);

/// The bytes of a frame, Ethernet header first.
pub trait Frame {
    /// Bytes in the frame.
    fn length(&self) -> u32;

    /// `N` bytes at an offset that is a constant once everything is inlined; `None` where the frame is too short.
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;

    /// Two bytes as a number in the machine's order, as [`read`](Self::read). Programs read numbers in one piece, where
    /// the compiler would take arrays of bytes byte by byte.
    #[inline(always)]
    fn read_u16(&self, offset: u32) -> Option<u16> {
        self.read(offset).map(u16::from_ne_bytes)
    }

    /// Four bytes, likewise.
    #[inline(always)]
    fn read_u32(&self, offset: u32) -> Option<u32> {
        self.read(offset).map(u32::from_ne_bytes)
    }

    /// Eight bytes, likewise.
    #[inline(always)]
    fn read_u64(&self, offset: u32) -> Option<u64> {
        self.read(offset).map(u64::from_ne_bytes)
    }

    /// `N` bytes at an offset that depends on the packet. The verifier follows packet pointers plus constants, but
    /// loses sight of sums that the compiler splits: so programs go through a kernel helper here.
    fn read_at<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;

    /// An IPv6 address, as [`read_at`](Self::read_at). In halves, which stay in registers.
    #[inline(always)]
    fn address_at(&self, offset: u32) -> Option<Address> {
        let first = u64::from_ne_bytes(self.read_at(offset)?);
        let second = u64::from_ne_bytes(self.read_at(offset + 8)?);
        Some(flow::join([first, second]))
    }
}

impl Frame for [u8] {
    fn length(&self) -> u32 {
        self.len().try_into().unwrap_or(u32::MAX)
    }

    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.read_at(offset)
    }

    fn read_at<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let start = usize::try_from(offset).ok()?;
        self.get(start..start.checked_add(N)?)?.try_into().ok()
    }
}
