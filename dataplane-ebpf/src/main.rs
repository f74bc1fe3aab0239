//! The programs: `port` (XDP, on every NIC and on the kernel's end of the engine's veth pair), `engine` (XDP, on the
//! engine's end), `egress` (tc, on every port and on the kernel's end), and for each VLAN port `handover` and `tag` (XDP,
//! on both ends of the veth pair by which the kernel knows it). Where SAs are the kernel's, xfrm interfaces stand in place of
//! the engine's pair. Linux 6.1 or later.
//!
//! Each is one match from a verdict to an action; the verdict is counted once, by port.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// The build of these programs needs unstable rustc anyway, for `core` on this target.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![allow(missing_docs, reason = "aya's program macros expand to entry points without the docstring")]

mod atomic;
mod context;
mod egress;
mod maps;
mod memo;
mod path;
mod scratch;
mod subprogram;

use aya_ebpf::bindings::{TC_ACT_OK, TC_ACT_SHOT, xdp_action};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use sekisho_abi::port::PortKey;
use sekisho_abi::verdict::Verdict;

use crate::context::{SkbFrame, XdpFrame};
use crate::path::{count, trunk};
use crate::scratch::{Program, Scratch};

/// XDP, every port and the kernel's end of the engine's veth pair: the packet's way.
#[xdp]
fn port(ctx: XdpContext) -> u32 {
    let frame = XdpFrame::from_ptr(ctx.ctx);
    let Some(scratch) = Scratch::of(Program::Port, frame.ifindex()) else { return xdp_action::XDP_DROP };
    let verdict = match path::judge(&frame, scratch) {
        Ok(verdict) => verdict,
        Err(refused) => path::refused(&frame, scratch, refused),
    };
    count::verdict(&scratch.seen, verdict, frame.bytes());
    match verdict {
        // The SAs are the kernel's.
        Verdict::Encrypt | Verdict::Decrypt if !maps::has_engine() => to_kernel(scratch),
        Verdict::Forward | Verdict::Encrypt | Verdict::Decrypt => redirected(&frame, scratch.tag),
        // An answer goes back by the VLAN that the question came by.
        Verdict::Challenge => redirected(&frame, scratch.came_tagged),
        Verdict::Pass => to_kernel(scratch),
        _ => xdp_action::XDP_DROP,
    }
}

/// The frame leaves by the device that it was redirected to, with a tag where that is a VLAN's NIC.
#[inline(always)]
fn redirected(frame: &XdpFrame, vlan: u16) -> u32 {
    match vlan {
        0 => xdp_action::XDP_REDIRECT,
        vlan => trunk::tagged(frame, vlan),
    }
}

/// The kernel gets the frame by the device by which it knows the port.
#[inline(always)]
fn to_kernel(scratch: &Scratch) -> u32 {
    match scratch.handover {
        0 => xdp_action::XDP_PASS,
        device => trunk::redirect(device),
    }
}

/// XDP, the kernel's end of a VLAN port's veth pair: what `port` has judged on the trunk, counted, and left to the kernel
/// or to the engine.
#[xdp]
fn handover(ctx: XdpContext) -> u32 {
    let frame = XdpFrame::from_ptr(ctx.ctx);
    let Some(scratch) = Scratch::of(Program::Handover, frame.ifindex()) else { return xdp_action::XDP_DROP };
    match trunk::hand_over(&frame, &mut scratch.seen) {
        Ok(Verdict::Decrypt) => xdp_action::XDP_REDIRECT,
        Ok(_) => xdp_action::XDP_PASS,
        Err(_) => xdp_action::XDP_DROP,
    }
}

/// XDP, the other end: what the kernel and the engine send by the port, once `egress` has let it out.
#[xdp]
fn tag(ctx: XdpContext) -> u32 {
    let frame = XdpFrame::from_ptr(ctx.ctx);
    match maps::port(PortKey { ifindex: frame.ifindex(), vlan: 0, reserved: 0 }) {
        Some(port) if port.vlan != 0 && trunk::redirect(port.nic_ifindex) == xdp_action::XDP_REDIRECT => {
            trunk::tagged(&frame, port.vlan)
        }
        _ => xdp_action::XDP_DROP,
    }
}

/// XDP, the engine's end of the engine's veth pair: what `port` sent there goes to the engine's socket.
#[xdp]
fn engine(ctx: XdpContext) -> u32 {
    let frame = XdpFrame::from_ptr(ctx.ctx);
    let Some(Scratch { seen, .. }) = Scratch::of(Program::Engine, frame.ifindex()) else {
        return xdp_action::XDP_DROP;
    };
    let verdict = match maps::port(PortKey { ifindex: frame.ifindex(), vlan: 0, reserved: 0 }) {
        Some(port) => {
            seen.port = port.id;
            path::local::to_engine(&frame, port, Verdict::Encrypt).unwrap_or_else(|refused| refused)
        }
        None => Verdict::DropNoPort,
    };
    count::verdict(seen, verdict, frame.bytes());
    match verdict {
        Verdict::Encrypt => xdp_action::XDP_REDIRECT,
        _ => xdp_action::XDP_DROP,
    }
}

/// tc egress, every port and the kernel's end of the engine's veth pair: the second gate, for what the kernel sends.
#[classifier]
fn egress(ctx: TcContext) -> i32 {
    let frame = SkbFrame::from_ptr(ctx.skb.skb);
    let Some(scratch) = Scratch::of(Program::Egress, frame.ifindex()) else { return TC_ACT_SHOT };
    let verdict = match egress::judge(&frame, scratch) {
        Ok(verdict) | Err(verdict) => verdict,
    };
    count::verdict(&scratch.seen, verdict, frame.bytes());
    match verdict {
        Verdict::Pass => TC_ACT_OK,
        _ => TC_ACT_SHOT,
    }
}

/// The verifier refuses a program from which this could be reached.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// What the helpers ask for: some of them, `bpf_fib_lookup` among them, are for GPL-compatible programs only.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// On the host the programs are compiled for clippy's and rustdoc's sake only.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
