//! The programs: `port` (XDP, on every port and on the kernel's end of the engine's veth pair), `engine` (XDP, on the
//! engine's end) and `egress` (tc, on every port and on the kernel's end).
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![allow(missing_docs, reason = "aya's program macros expand to entry points without the docstring")]

mod maps;

use aya_ebpf::bindings::{TC_ACT_SHOT, xdp_action};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

/// XDP, every port and the kernel's end of the engine's veth pair.
#[xdp]
fn port(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// XDP, the engine's end of the engine's veth pair.
#[xdp]
fn engine(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// tc egress, every port and the kernel's end of the engine's veth pair.
#[classifier]
fn egress(_ctx: TcContext) -> i32 {
    TC_ACT_SHOT
}

/// The verifier refuses a program from which this could be reached.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// What the helpers ask for (`bpf_fib_lookup`, `bpf_ktime_get_coarse_ns` and others are GPL-only).
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// On the host the programs are compiled for clippy's and rustdoc's sake only.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
