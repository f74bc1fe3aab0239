//! Frames as the kernel hands them to the programs.

use core::mem::{MaybeUninit, offset_of};

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, xdp_md};
use aya_ebpf::helpers::generated::{
    bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_l4_csum_replace, bpf_skb_load_bytes, bpf_skb_store_bytes,
    bpf_xdp_adjust_head, bpf_xdp_load_bytes, bpf_xdp_store_bytes,
};
use aya_ebpf::programs::{TcContext, XdpContext};
use sekisho_abi::verdict::Verdict;
use sekisho_dataplane::frame::{Aligned, Frame};
use sekisho_dataplane::parse::{ETHERNET_BYTES, Ethernet, ethertype};
use sekisho_dataplane::rewrite::{Change, Rewrite};

use crate::maps;

/// CLOCK_MONOTONIC in nanoseconds, as of the last timer tick: lifetimes and rates need no better. The helper that gives
/// it costs as much as a lookup, so it's asked once a tick; the count of ticks is a plain load.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: the helper has no preconditions.
    let jiffies = unsafe { bpf_jiffies64() };
    let Some(clock) = maps::CLOCK.get_ptr_mut(0) else { return 0 };
    // SAFETY: the one entry of an array, which always exists. CPUs may write it at once; each writes a time of the
    // same tick, or one tick old.
    unsafe {
        if (*clock).jiffies != jiffies {
            (*clock).now_ns = bpf_ktime_get_coarse_ns();
            (*clock).jiffies = jiffies;
        }
        (*clock).now_ns
    }
}

/// Bytes of an 802.1Q tag.
const TAG_BYTES: i32 = 4;

/// A received frame.
pub(crate) struct XdpFrame {
    ctx: XdpContext,
}

impl XdpFrame {
    #[inline(always)]
    pub(crate) fn from_ptr(ctx: *mut xdp_md) -> Self {
        Self { ctx: XdpContext::new(ctx) }
    }

    #[inline(always)]
    pub(crate) fn ifindex(&self) -> u32 {
        // SAFETY: the kernel passes a valid context.
        unsafe { (*self.ctx.ctx).ingress_ifindex }
    }

    /// Where the frame begins, and where it ends. As whole numbers, since the verifier follows no half of a pointer.
    #[inline(always)]
    fn ends(&self) -> (usize, usize) {
        // SAFETY: the kernel passes a valid context.
        unsafe {
            (
                load::pointer::<{ offset_of!(xdp_md, data) }>(self.ctx.ctx),
                load::pointer::<{ offset_of!(xdp_md, data_end) }>(self.ctx.ctx),
            )
        }
    }

    #[inline(always)]
    pub(crate) fn rx_queue(&self) -> u32 {
        self.ctx.rx_queue_index()
    }

    /// Bytes of the frame.
    #[inline(always)]
    pub(crate) fn bytes(&self) -> u32 {
        self.length()
    }

    /// The context, for helpers and subprograms.
    #[inline(always)]
    pub(crate) fn as_ptr(&self) -> *mut xdp_md {
        self.ctx.ctx
    }

    /// Where `N` bytes at this offset are, if the frame has them.
    #[inline(always)]
    fn bounded<const N: usize>(&self, offset: u32) -> Option<usize> {
        let (start, end) = self.ends();
        let at = start + offset as usize;
        if at + N > end { None } else { Some(at) }
    }

    /// Writes at an offset that is a constant once everything is inlined; `None` where the frame is too short.
    #[inline(always)]
    pub(crate) fn write<const N: usize>(&self, offset: usize, bytes: [u8; N]) -> Option<()> {
        let (start, end) = self.ends();
        let at = start + offset;
        if at + N > end {
            return None;
        }
        // SAFETY: the bytes lie between the frame's begin and end, as just checked; the verifier checks it again.
        unsafe { (at as *mut [u8; N]).write(bytes) };
        Some(())
    }

    /// Takes the 802.1Q tag out from behind the MAC addresses.
    #[inline(always)]
    pub(crate) fn pop_tag(&self) -> Option<()> {
        let (first, last) = (self.read_u64(0)?, self.read_u32(8)?);
        self.move_begin(TAG_BYTES)?;
        self.write_u64(0, first)?;
        self.write_u32(8, last)
    }

    /// Puts an 802.1Q tag behind the MAC addresses: priority 0, `vlan` as the id.
    #[inline(always)]
    pub(crate) fn push_tag(&self, vlan: u16) -> Option<()> {
        let (first, last) = (self.read_u64(0)?, self.read_u32(8)?);
        self.move_begin(-TAG_BYTES)?;
        self.write_u64(0, first)?;
        self.write_u32(8, last)?;
        self.write_u16(12, ethertype::VLAN.to_be())?;
        self.write_u16(14, vlan.to_be())
    }

    /// Moves where the frame begins: to its end by a positive number of bytes, into the room before it by a negative.
    #[inline(always)]
    fn move_begin(&self, bytes: i32) -> Option<()> {
        // SAFETY: the context is the kernel's. Where the frame lies is asked for anew at every access.
        let result = unsafe { bpf_xdp_adjust_head(self.ctx.ctx, bytes) };
        (result == 0).then_some(())
    }

    /// Writes the Ethernet header's two MAC addresses, destination first.
    #[inline(always)]
    pub(crate) fn write_macs(&self, macs: &[u8; 12]) -> Option<()> {
        let to = self.bounded::<12>(0)?;
        let from = macs.as_ptr() as usize;
        // SAFETY: both ranges are twelve bytes long.
        unsafe {
            store::u64(to, load::u64(from));
            store::u32(to + 8, load::u32(from + 8));
        }
        Some(())
    }
}

impl Rewrite for XdpFrame {
    #[inline(always)]
    fn write_u16(&self, offset: u32, value: u16) -> Option<()> {
        // SAFETY: `bounded` has checked that the bytes are there.
        self.bounded::<2>(offset).map(|to| unsafe { store::u16(to, value) })
    }

    #[inline(always)]
    fn write_u32(&self, offset: u32, value: u32) -> Option<()> {
        // SAFETY: as above.
        self.bounded::<4>(offset).map(|to| unsafe { store::u32(to, value) })
    }

    #[inline(always)]
    fn write_u64(&self, offset: u32, value: u64) -> Option<()> {
        // SAFETY: as above.
        self.bounded::<8>(offset).map(|to| unsafe { store::u64(to, value) })
    }

    #[inline(always)]
    fn write_at<const N: usize>(&self, offset: u32, bytes: [u8; N]) -> Option<()> {
        // SAFETY: the helper reads N bytes from `bytes` and checks the offset against the frame.
        let result =
            unsafe { bpf_xdp_store_bytes(self.ctx.ctx, offset, bytes.as_ptr().cast_mut().cast(), N as u32) };
        (result == 0).then_some(())
    }
}

impl Frame for XdpFrame {
    #[inline(always)]
    fn length(&self) -> u32 {
        let (start, end) = self.ends();
        (end - start) as u32
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        // SAFETY: `bounded` has checked that the bytes are there; the verifier checks it again.
        self.bounded::<N>(offset).map(|at| unsafe { (at as *const [u8; N]).read() })
    }

    #[inline(always)]
    fn read_u16(&self, offset: u32) -> Option<u16> {
        // SAFETY: `bounded` has checked that the bytes are there.
        self.bounded::<2>(offset).map(|at| unsafe { load::u16(at) })
    }

    #[inline(always)]
    fn read_u32(&self, offset: u32) -> Option<u32> {
        // SAFETY: as above.
        self.bounded::<4>(offset).map(|at| unsafe { load::u32(at) })
    }

    #[inline(always)]
    fn read_u64(&self, offset: u32) -> Option<u64> {
        // SAFETY: as above.
        self.bounded::<8>(offset).map(|at| unsafe { load::u64(at) })
    }

    #[inline(always)]
    fn read_at<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<Aligned<[u8; N]>>::uninit();
        // SAFETY: the helper writes N bytes, and checks the offset against the frame.
        let result = unsafe { bpf_xdp_load_bytes(self.ctx.ctx, offset, bytes.as_mut_ptr().cast(), N as u32) };
        // SAFETY: on success the helper has written all of them.
        (result == 0).then(|| unsafe { bytes.assume_init() }.0)
    }
}

/// A frame that the kernel is about to send; it may be one of many segments in one buffer (GSO).
pub(crate) struct SkbFrame {
    ctx: TcContext,
}

impl SkbFrame {
    #[inline(always)]
    pub(crate) fn from_ptr(ctx: *mut __sk_buff) -> Self {
        Self { ctx: TcContext::new(ctx) }
    }

    /// The context, for subprograms.
    #[inline(always)]
    pub(crate) fn as_ptr(&self) -> *mut __sk_buff {
        self.ctx.skb.skb
    }

    /// The device it leaves by.
    #[inline(always)]
    pub(crate) fn ifindex(&self) -> u32 {
        // SAFETY: the kernel passes a valid context.
        unsafe { (*self.ctx.skb.skb).ifindex }
    }

    /// Notes whether the device has no Ethernet header (`bare`), and gives back the one there is, or one as empty as it
    /// would be. Comes before everything that reads: the note lies where programs may keep something with a buffer, as
    /// subprograms know of it what its context tells.
    #[inline(always)]
    pub(crate) fn ethernet(&self, bare: bool) -> Result<Ethernet, Verdict> {
        // SAFETY: the kernel passes a valid context, in which programs of this kind may write this field.
        unsafe { (&raw mut (*self.ctx.skb.skb).cb[0]).write_volatile(if bare { ETHERNET_BYTES } else { 0 }) };
        if !bare {
            return Ethernet::read(self);
        }
        // SAFETY: the kernel passes a valid context.
        let protocol = unsafe { (*self.ctx.skb.skb).protocol } as u16;
        Ok(Ethernet { destination: [0; 6], source: [0; 6], ethertype: u16::from_be(protocol) })
    }

    /// Bytes of the Ethernet header that offsets count and the buffer does not have.
    #[inline(always)]
    fn missing(&self) -> u32 {
        // SAFETY: the kernel passes a valid context.
        unsafe { (&raw const (*self.ctx.skb.skb).cb[0]).read_volatile() }
    }

    /// Whether the kernel will add an 802.1Q tag that isn't in the frame's bytes.
    #[inline(always)]
    pub(crate) fn has_vlan_tag(&self) -> bool {
        // SAFETY: the kernel passes a valid context.
        unsafe { (*self.ctx.skb.skb).vlan_present != 0 }
    }

    /// Bytes of the frame.
    #[inline(always)]
    pub(crate) fn bytes(&self) -> u32 {
        self.length()
    }
}

impl Frame for SkbFrame {
    #[inline(always)]
    fn length(&self) -> u32 {
        self.ctx.len() + self.missing()
    }

    /// Through the helper as well: not all of the headers need to be in the buffer's linear part.
    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.read_at(offset)
    }

    #[inline(always)]
    fn read_at<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<Aligned<[u8; N]>>::uninit();
        let offset = offset.wrapping_sub(self.missing());
        // SAFETY: the helper writes N bytes, and checks the offset against the frame.
        let result =
            unsafe { bpf_skb_load_bytes(self.ctx.as_ptr(), offset, bytes.as_mut_ptr().cast(), N as u32) };
        // SAFETY: on success the helper has written all of them.
        (result == 0).then(|| unsafe { bytes.assume_init() }.0)
    }
}

impl Rewrite for SkbFrame {
    #[inline(always)]
    fn write_u16(&self, offset: u32, value: u16) -> Option<()> {
        self.write_at(offset, value.to_ne_bytes())
    }

    #[inline(always)]
    fn write_u32(&self, offset: u32, value: u32) -> Option<()> {
        self.write_at(offset, value.to_ne_bytes())
    }

    #[inline(always)]
    fn write_u64(&self, offset: u32, value: u64) -> Option<()> {
        self.write_at(offset, value.to_ne_bytes())
    }

    #[inline(always)]
    fn write_at<const N: usize>(&self, offset: u32, bytes: [u8; N]) -> Option<()> {
        let offset = offset.wrapping_sub(self.missing());
        // SAFETY: the helper reads N bytes from `bytes`, and checks the offset against the frame.
        let result =
            unsafe { bpf_skb_store_bytes(self.as_ptr(), offset, bytes.as_ptr().cast(), N as u32, 0) };
        (result == 0).then_some(())
    }

    /// Through the helper, which knows whether the checksum is whole or, in a buffer that the device completes, that of
    /// the pseudo-header alone.
    #[inline(always)]
    fn update_checksum(&self, offset: u32, pseudo: Change, rest: Change, zero_is_none: bool) -> Option<()> {
        let offset = offset.wrapping_sub(self.missing());
        let flags = if zero_is_none { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        for (change, flags) in [(pseudo, flags | u64::from(BPF_F_PSEUDO_HDR)), (rest, flags)] {
            if change == Change::default() {
                continue;
            }
            // SAFETY: the helper checks the offset. A difference of sums goes in `to`, with a size of 0.
            let result =
                unsafe { bpf_l4_csum_replace(self.as_ptr(), offset, 0, u64::from(change.folded()), flags) };
            if result != 0 {
                return None;
            }
        }
        Some(())
    }

    #[inline(always)]
    fn update_checksum_near(
        &self,
        offset: u32,
        pseudo: Change,
        rest: Change,
        zero_is_none: bool,
    ) -> Option<()> {
        self.update_checksum(offset, pseudo, rest, zero_is_none)
    }
}

/// Loads of whole numbers from anywhere. Machines that run these programs take them unaligned from a packet (x86-64,
/// arm64: the verifier knows), but the compiler thinks that the target doesn't, and would go byte by byte.
mod load {
    macro_rules! load {
        ($($name:ident $instruction:literal),+) => {$(
            /// # Safety
            /// The bytes at `at` must be readable.
            #[inline(always)]
            pub(super) unsafe fn $name(at: usize) -> $name {
                #[cfg(target_arch = "bpf")]
                {
                    let value: u64;
                    // SAFETY: reads what the caller vouches for, and has no other effect.
                    unsafe {
                        core::arch::asm!($instruction, value = out(reg) value, at = in(reg) at,
                            options(pure, readonly, nostack, preserves_flags));
                    }
                    value as $name
                }
                #[cfg(not(target_arch = "bpf"))]
                // SAFETY: the caller vouches for the bytes.
                unsafe {
                    (at as *const $name).read_unaligned()
                }
            }
        )+};
    }
    /// A pointer that the context shows as half a number; the kernel loads the whole.
    ///
    /// # Safety
    /// `context` must be valid, with such a field at this offset.
    #[inline(always)]
    pub(super) unsafe fn pointer<const OFFSET: usize>(context: *const aya_ebpf::bindings::xdp_md) -> usize {
        #[cfg(target_arch = "bpf")]
        {
            let value: usize;
            // SAFETY: reads what the caller vouches for, and has no other effect.
            unsafe {
                core::arch::asm!("{value} = *(u32 *)({context} + {offset})", value = out(reg) value,
                    context = in(reg) context, offset = const OFFSET,
                    options(pure, readonly, nostack, preserves_flags));
            }
            value
        }
        #[cfg(not(target_arch = "bpf"))]
        // SAFETY: the caller vouches for the field.
        unsafe {
            context.byte_add(OFFSET).cast::<u32>().read() as usize
        }
    }
    load!(
        u16 "{value} = *(u16 *)({at} + 0)",
        u32 "{value} = *(u32 *)({at} + 0)",
        u64 "{value} = *(u64 *)({at} + 0)"
    );
}

/// Stores of whole numbers to anywhere, as [`load`].
mod store {
    macro_rules! store {
        ($($name:ident $instruction:literal),+) => {$(
            /// # Safety
            /// The bytes at `at` must be writable.
            #[inline(always)]
            pub(super) unsafe fn $name(at: usize, value: $name) {
                #[cfg(target_arch = "bpf")]
                // SAFETY: writes what the caller vouches for, and has no other effect.
                unsafe {
                    core::arch::asm!($instruction, at = in(reg) at, value = in(reg) value as core::primitive::u64,
                        options(nostack, preserves_flags));
                }
                #[cfg(not(target_arch = "bpf"))]
                // SAFETY: the caller vouches for the bytes.
                unsafe {
                    (at as *mut $name).write_unaligned(value);
                }
            }
        )+};
    }
    store!(
        u16 "*(u16 *)({at} + 0) = {value}",
        u32 "*(u32 *)({at} + 0) = {value}",
        u64 "*(u64 *)({at} + 0) = {value}"
    );
}
