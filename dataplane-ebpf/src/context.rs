//! Frames as the kernel hands them to the programs.

use core::mem::MaybeUninit;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::helpers::generated::{
    bpf_ktime_get_coarse_ns, bpf_skb_load_bytes, bpf_xdp_load_bytes, bpf_xdp_store_bytes,
};
use aya_ebpf::programs::{TcContext, XdpContext};
use sekisho_dataplane::frame::Frame;

/// CLOCK_MONOTONIC in nanoseconds, as of the last timer tick: lifetimes and rates need no better, and it costs a tenth
/// of the exact time.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_coarse_ns() }
}

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

    /// Writes at an offset that is a constant once everything is inlined; `None` where the frame is too short.
    #[inline(always)]
    pub(crate) fn write<const N: usize>(&self, offset: usize, bytes: [u8; N]) -> Option<()> {
        let at = self.ctx.data() + offset;
        if at + N > self.ctx.data_end() {
            return None;
        }
        // SAFETY: the bytes lie between the frame's begin and end, as just checked; the verifier checks it again.
        unsafe { (at as *mut [u8; N]).write(bytes) };
        Some(())
    }

    /// Writes at an offset that depends on the packet.
    #[inline(always)]
    pub(crate) fn write_at<const N: usize>(&self, offset: u32, bytes: [u8; N]) -> Option<()> {
        // SAFETY: the helper reads N bytes from `bytes` and checks the offset against the frame.
        let result =
            unsafe { bpf_xdp_store_bytes(self.ctx.ctx, offset, bytes.as_ptr().cast_mut().cast(), N as u32) };
        (result == 0).then_some(())
    }
}

impl Frame for XdpFrame {
    #[inline(always)]
    fn length(&self) -> u32 {
        (self.ctx.data_end() - self.ctx.data()) as u32
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let at = self.ctx.data() + offset as usize;
        if at + N > self.ctx.data_end() {
            return None;
        }
        // SAFETY: the bytes lie between the frame's begin and end, as just checked; the verifier checks it again.
        Some(unsafe { (at as *const [u8; N]).read() })
    }

    #[inline(always)]
    fn read_at<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: the helper writes N bytes, and checks the offset against the frame.
        let result = unsafe { bpf_xdp_load_bytes(self.ctx.ctx, offset, bytes.as_mut_ptr().cast(), N as u32) };
        // SAFETY: on success the helper has written all of them.
        (result == 0).then(|| unsafe { bytes.assume_init() })
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
        self.ctx.len()
    }

    /// Through the helper as well: not all of the headers need to be in the buffer's linear part.
    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.read_at(offset)
    }

    #[inline(always)]
    fn read_at<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: the helper writes N bytes, and checks the offset against the frame.
        let result =
            unsafe { bpf_skb_load_bytes(self.ctx.as_ptr(), offset, bytes.as_mut_ptr().cast(), N as u32) };
        // SAFETY: on success the helper has written all of them.
        (result == 0).then(|| unsafe { bytes.assume_init() })
    }
}
