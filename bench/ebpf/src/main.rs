//! The measurements' own programs: `generate` makes frames out of nothing (XDP, run as `BPF_F_TEST_XDP_LIVE_FRAMES`), `sink`
//! and `sink_skb` count and drop what arrives (XDP and tc ingress), `bare` hands every frame to another device without any
//! question, which no gateway can beat, `bare_skb` does so for the kernel's packets (tc ingress); `to_socket` hands them to an AF_XDP socket; `nothing` does nothing. Linux 6.1 or later.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![allow(missing_docs, reason = "aya's program macros expand to entry points without the docstring")]

use aya_ebpf::bindings::{TC_ACT_OK, TC_ACT_SHOT, xdp_action};
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_redirect, bpf_xdp_adjust_tail};
use aya_ebpf::macros::{classifier, map, xdp};
use aya_ebpf::maps::{Array, DevMap, DevMapHash, PerCpuArray, XskMap};
use aya_ebpf::programs::{TcContext, XdpContext};
use sekisho_bench_ebpf::{
    CLOCK_EVERY, FRAME_MAX, HEADER_BYTES, HEADER_WORDS, LATE_MAX_NS, Template, is_counted, order, progress,
    sunk,
};

#[map]
static ORDER: Array<[u64; order::FIELDS]> = Array::with_max_entries(1, 0);
#[map]
static PROGRESS: Array<[u64; progress::FIELDS]> = Array::with_max_entries(1, 0);
// Made as large as there are frames to send.
#[map]
static TEMPLATES: Array<Template> = Array::with_max_entries(1, 0);
// The device that the generator sends by.
#[map]
static OUT: DevMap = DevMap::with_max_entries(1, 0);
#[map]
static SUNK: PerCpuArray<[u64; sunk::FIELDS]> = PerCpuArray::with_max_entries(1, 0);
// ifindex -> ifindex of the device that `bare` redirects to.
#[map]
static ACROSS: DevMapHash = DevMapHash::with_max_entries(2, 0);

// ifindex of the device that `bare_skb` redirects to.
#[map]
static ONWARD: Array<u32> = Array::with_max_entries(1, 0);

// The relay's socket on one device. A program with a map of its own for each of them.
#[map]
static SOCKET: XskMap = XskMap::with_max_entries(1, 0);

/// XDP, live: each run is a frame, or a look at the clock while none is due.
#[xdp]
fn generate(ctx: XdpContext) -> u32 {
    match next(&ctx) {
        Some(action) => action,
        None => xdp_action::XDP_DROP,
    }
}

#[inline(always)]
fn next(ctx: &XdpContext) -> Option<u32> {
    let order = ORDER.get(0)?;
    // SAFETY: the one entry of an array, which always exists; one CPU generates.
    let done = unsafe { &mut *PROGRESS.get_ptr_mut(0)? };
    let sent = done[progress::SENT];
    if sent >= order[order::FRAMES] {
        return None;
    }
    let interval_ns = order[order::INTERVAL_NS];
    if interval_ns != 0 || sent.is_multiple_of(CLOCK_EVERY) {
        // SAFETY: the helper has no preconditions.
        let now_ns = unsafe { bpf_ktime_get_ns() };
        if interval_ns != 0 {
            let due_ns = done[progress::DUE_NS];
            if now_ns < due_ns {
                return None;
            }
            let from_ns = if now_ns > due_ns + LATE_MAX_NS { now_ns } else { due_ns };
            done[progress::DUE_NS] = from_ns + interval_ns;
        }
        if sent == 0 {
            done[progress::BEGAN_NS] = now_ns;
        }
        done[progress::LAST_NS] = now_ns;
    }
    let number = done[progress::NEXT];
    let template = TEMPLATES.get(number as u32)?;
    done[progress::NEXT] = if number + 1 < order[order::TEMPLATES] { number + 1 } else { 0 };
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + HEADER_BYTES > end {
        return None;
    }
    for (at, word) in template[..HEADER_WORDS].iter().enumerate() {
        // SAFETY: within the frame, as just checked; frames begin at words of the page they are in.
        unsafe { *(start as *mut u64).add(at) = *word };
    }
    let length = template[HEADER_WORDS] as i32;
    // SAFETY: the context is the kernel's; the frame is not touched any more.
    let cut = unsafe { bpf_xdp_adjust_tail(ctx.ctx, length - FRAME_MAX as i32) };
    if cut != 0 {
        return None;
    }
    done[progress::SENT] = sent + 1;
    OUT.redirect(0, 0).ok()
}

/// XDP, where frames arrive.
#[xdp]
fn sink(ctx: XdpContext) -> u32 {
    let (start, end) = (ctx.data(), ctx.data_end());
    // Ethernet and IPv6 headers, and ports.
    if start + 58 > end {
        return xdp_action::XDP_PASS;
    }
    // SAFETY: all of it lies within those bytes.
    let counted = unsafe {
        let ethertype = *((start + 12) as *const u16);
        let (protocol, ports) = if *((start + 14) as *const u8) >> 4 == 4 { (23, 34) } else { (20, 54) };
        let ports = (start + ports) as *const [u16; 2];
        is_counted(ethertype, *((start + protocol) as *const u8), ports.read_unaligned())
    };
    if !counted {
        return xdp_action::XDP_PASS;
    }
    count((end - start) as u64);
    xdp_action::XDP_DROP
}

/// tc ingress, where packets arrive that are the kernel's already: an XDP program there would have them copied first.
#[classifier]
fn sink_skb(ctx: TcContext) -> i32 {
    let read = || {
        let version: u8 = ctx.load(14).ok()?;
        let (protocol, ports) = if version >> 4 == 4 { (23, 34) } else { (20, 54) };
        Some(is_counted(ctx.load(12).ok()?, ctx.load(protocol).ok()?, ctx.load(ports).ok()?))
    };
    if read() != Some(true) {
        return TC_ACT_OK;
    }
    count(u64::from(ctx.len()));
    TC_ACT_SHOT
}

#[inline(always)]
fn count(bytes: u64) {
    if let Some(sunk) = SUNK.get_ptr_mut(0) {
        // SAFETY: the one entry of this CPU's.
        unsafe {
            (*sunk)[sunk::FRAMES] += 1;
            (*sunk)[sunk::BYTES] += bytes;
        }
    }
}

/// XDP, both ports of a gateway that is none.
#[xdp]
fn bare(ctx: XdpContext) -> u32 {
    // SAFETY: the kernel passes a valid context.
    let ifindex = unsafe { (*ctx.ctx).ingress_ifindex };
    ACROSS.redirect(ifindex, 0).unwrap_or(xdp_action::XDP_PASS)
}

/// tc ingress, where packets come that shall leave by another device.
#[classifier]
fn bare_skb(_ctx: TcContext) -> i32 {
    match ONWARD.get(0) {
        // SAFETY: the helper has no preconditions.
        Some(ifindex) => unsafe { bpf_redirect(*ifindex, 0) as i32 },
        None => TC_ACT_SHOT,
    }
}

/// XDP, a device of the relay: IPv4 goes to its socket, and the kernel answers for the rest, as ARP.
#[xdp]
fn to_socket(ctx: XdpContext) -> u32 {
    const IPV4: u16 = 0x0800;
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + 14 > end {
        return xdp_action::XDP_PASS;
    }
    // SAFETY: within the frame, as just checked.
    if u16::from_be(unsafe { *((start + 12) as *const u16) }) != IPV4 {
        return xdp_action::XDP_PASS;
    }
    // The first queue is the only one.
    SOCKET.redirect(0, 0).unwrap_or(xdp_action::XDP_PASS)
}

/// XDP: what a test run costs by itself.
#[xdp]
fn nothing(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// The verifier refuses a program from which this could be reached.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// `bpf_redirect_map` is for programs under any licence; the kernel wants to be told one all the same.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// On the host the programs are compiled for clippy's and rustdoc's sake only.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
