//! The smallest XDP program there is: every frame goes to the AF_XDP socket of its receive queue. Written as
//! instructions, so that the test needs no compiler for BPF.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use sekisho_esp::engine::Engine;

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// An attached program; detached when dropped.
pub(crate) struct Redirect {
    _link: OwnedFd,
    _map: OwnedFd,
}

/// Redirects every queue of every device of an engine into its socket.
pub(crate) fn all(engine: &Engine) -> Vec<Redirect> {
    let devices: BTreeSet<u32> = engine.sockets().into_iter().map(|(ifindex, ..)| ifindex).collect();
    devices.into_iter().map(|device| of_device(engine, device)).collect()
}

/// Redirects every queue of one device of an engine into its socket.
pub(crate) fn of_device(engine: &Engine, device: u32) -> Redirect {
    let sockets: Vec<_> = engine.sockets().into_iter().filter(|(ifindex, ..)| *ifindex == device).collect();
    let map = map_create(sockets.len() as u32).unwrap();
    for (_, queue, fd) in sockets {
        map_update(&map, queue, fd.as_raw_fd() as u32).unwrap();
    }
    let program = load(&map).unwrap();
    Redirect { _link: link(&program, device).unwrap(), _map: map }
}

/// `union bpf_attr` as 64-bit words, as long as the longest of the commands used.
type Attributes = [u64; 16];

fn bpf(command: libc::c_long, attributes: &Attributes) -> io::Result<libc::c_long> {
    // SAFETY: the attributes outlive the call, are as long as told, and every pointer in them is to memory the caller
    // keeps alive.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(attributes)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn descriptor(result: libc::c_long) -> OwnedFd {
    // SAFETY: a descriptor the kernel has just given to us alone.
    unsafe { OwnedFd::from_raw_fd(result as i32) }
}

/// Two 32-bit fields that follow each other.
fn words(first: u32, second: u32) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

fn map_create(entries: u32) -> io::Result<OwnedFd> {
    let mut attributes = Attributes::default();
    // map_type, key_size; value_size, max_entries.
    attributes[0] = words(BPF_MAP_TYPE_XSKMAP, 4);
    attributes[1] = words(4, entries);
    bpf(BPF_MAP_CREATE, &attributes).map(descriptor)
}

fn map_update(map: &OwnedFd, key: u32, value: u32) -> io::Result<()> {
    let mut attributes = Attributes::default();
    attributes[0] = words(map.as_raw_fd() as u32, 0);
    attributes[1] = (&raw const key).addr() as u64;
    attributes[2] = (&raw const value).addr() as u64;
    bpf(BPF_MAP_UPDATE_ELEM, &attributes).map(drop)
}

fn load(map: &OwnedFd) -> io::Result<OwnedFd> {
    // opcode, registers (source << 4 | destination), offset, immediate.
    let instruction = |opcode: u8, registers: u8, offset: i16, immediate: u32| {
        let ([o0, o1], [i0, i1, i2, i3]) = (offset.to_ne_bytes(), immediate.to_ne_bytes());
        u64::from_ne_bytes([opcode, registers, o0, o1, i0, i1, i2, i3])
    };
    let program = [
        // r2 = ctx->rx_queue_index
        instruction(0x61, 0x12, 16, 0),
        // r1 = map (two instructions, BPF_PSEUDO_MAP_FD)
        instruction(0x18, 0x11, 0, map.as_raw_fd() as u32),
        instruction(0, 0, 0, 0),
        // r3 = XDP_PASS, for a queue without a socket
        instruction(0xb7, 0x03, 0, 2),
        // return bpf_redirect_map(r1, r2, r3)
        instruction(0x85, 0, 0, 51),
        instruction(0x95, 0, 0, 0),
    ];
    let license = c"GPL";
    let mut attributes = Attributes::default();
    // prog_type, insn_cnt; insns; license.
    attributes[0] = words(BPF_PROG_TYPE_XDP, program.len() as u32);
    attributes[1] = program.as_ptr().addr() as u64;
    attributes[2] = license.as_ptr().addr() as u64;
    bpf(BPF_PROG_LOAD, &attributes).map(descriptor)
}

fn link(program: &OwnedFd, ifindex: u32) -> io::Result<OwnedFd> {
    let mut attributes = Attributes::default();
    // prog_fd, target_ifindex; attach_type, flags.
    attributes[0] = words(program.as_raw_fd() as u32, ifindex);
    attributes[1] = words(BPF_XDP, XDP_FLAGS_DRV_MODE);
    bpf(BPF_LINK_CREATE, &attributes).map(descriptor)
}
