//! `BPF_PROG_TEST_RUN` of bpf(2): one frame through a loaded program.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::time::Duration;

const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;

/// `union bpf_attr`, its `test` member.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    program: u32,
    return_value: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    reserved: u32,
}

/// What a run gave back.
pub struct Outcome {
    /// The program's return value.
    pub action: u32,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
    /// Mean time of one run.
    pub duration: Duration,
}

/// Runs a frame through an XDP program as if received by the device.
pub fn xdp(
    program: BorrowedFd<'_>,
    ifindex: u32,
    rx_queue: u32,
    frame: &[u8],
    repeat: u32,
) -> io::Result<Outcome> {
    let end = u32::try_from(frame.len()).expect("a frame");
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let context = [0, end, 0, ifindex, rx_queue, 0];
    run(program, &context, frame, repeat)
}

/// Runs a frame through a tc program as if about to leave by the device.
pub fn skb(program: BorrowedFd<'_>, ifindex: u32, frame: &[u8]) -> io::Result<Outcome> {
    // struct __sk_buff; `ifindex` is its eleventh word.
    let mut context = [0; 48];
    context[10] = ifindex;
    run(program, &context, frame, 1)
}

fn run(program: BorrowedFd<'_>, context: &[u32], frame: &[u8], repeat: u32) -> io::Result<Outcome> {
    let mut out = vec![0; frame.len() + 256];
    let mut attributes = Attributes {
        program: u32::try_from(program.as_raw_fd()).expect("a descriptor"),
        data_size_in: u32::try_from(frame.len()).expect("a frame"),
        data_size_out: u32::try_from(out.len()).expect("a frame"),
        data_in: frame.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat,
        context_size_in: u32::try_from(size_of_val(context)).expect("a context"),
        context_in: context.as_ptr() as u64,
        ..Attributes::default()
    };
    call(&mut attributes)?;
    out.truncate(attributes.data_size_out as usize);
    Ok(Outcome {
        action: attributes.return_value,
        frame: out,
        duration: Duration::from_nanos(attributes.duration.into()),
    })
}

/// Runs an XDP program over frames that go where it sends them (`BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18), so many times. A
/// signal ends it early.
pub fn live(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> io::Result<()> {
    call(&mut Attributes {
        program: u32::try_from(program.as_raw_fd()).expect("a descriptor"),
        data_size_in: u32::try_from(frame.len()).expect("a frame"),
        data_in: frame.as_ptr() as u64,
        repeat,
        flags: BPF_F_TEST_XDP_LIVE_FRAMES,
        ..Attributes::default()
    })
}

/// The pointers in the attributes are to live buffers of the sizes given with them.
fn call(attributes: &mut Attributes) -> io::Result<()> {
    // SAFETY: the kernel writes only to the buffer behind `data_out`, which is as large as said, and to `attributes`.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, ptr::from_mut(attributes), size_of::<Attributes>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
